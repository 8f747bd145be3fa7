/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify_wire.c: messages of a symbolic run. Channels as in DESIGN.md "order of execution": messages of a
 * pair and lane in order, VERIFY_DEPTH slots, each holding a fragment. All messages go through slots, and a
 * pending's source counts as read when the receiver takes it: engines that copy it earlier, or let readers
 * pull it, wait for less. Nothing here depends on the order in which lanes are looked at: whatever may move
 * may still move later, so a run that gets stuck gets stuck under every schedule.
 */
#include "plan/verify.h"
#include <stdlib.h>
#include <string.h>

/* --- channels ------------------------------------------------------------------------------------- */

static struct verify_channel *slot_of(struct verify_channel *table, uint32_t room, uint64_t key)
{
    uint32_t i = (uint32_t)base_mix(key) & (room - 1);
    while (table[i].key && table[i].key != key)
        i = (i + 1) & (room - 1);
    return &table[i];
}

/* A pointer stays valid until the next call. */
struct verify_channel *verify_channel(struct verify_run *run, uint32_t src, uint32_t dst,
                                      uint32_t index)
{
    uint64_t key = 1 + ((uint64_t)src * run->n + dst) * run->window + index;
    if (run->channels_room) {
        struct verify_channel *c = slot_of(run->channel, run->channels_room, key);
        if (c->key)
            return c;
    }
    if (2 * (run->channels + 1) > run->channels_room) {
        uint32_t room = run->channels_room ? 2 * run->channels_room : 256;
        struct verify_channel *fresh = calloc(room, sizeof(*fresh));
        if (!fresh) {
            verify_fail(run, NULL, "no memory for channels");
            return NULL;
        }
        for (uint32_t i = 0; i < run->channels_room; i++)
            if (run->channel[i].key)
                *slot_of(fresh, room, run->channel[i].key) = run->channel[i];
        free(run->channel);
        run->channel = fresh;
        run->channels_room = room;
    }
    struct verify_channel *c = slot_of(run->channel, run->channels_room, key);
    c->key = key;
    run->channels++;
    return c;
}

void verify_drop(struct verify_message *m, uint32_t holders)
{
    m->holders -= holders;
    if (!m->holders)
        free(m);
}

/* A pending begins (d 1) or stops (d -1) to read the cells of its source. */
static void count_readers(struct verify_run *run, struct verify_message *m, int d)
{
    const struct verify_lane *lane = m->from;
    struct plan_walk w;
    uint32_t part;
    plan_walk_start(&w, run->rank[lane->rank].plan, m->source, m->iter);
    while (plan_walk_next(&w, &part)) {
        uint32_t cell = verify_cell(run, lane, m->source->buf, part);
        if (cell == VERIFY_NO_CELL)
            continue;
        lane->readers[cell].count += (uint32_t)d;
        lane->readers[cell].all ^= (uintptr_t)m;
    }
}

/* The source of a pending has been read to its end: its lane does not hold it any more. */
static void passed(struct verify_run *run, struct verify_message *m)
{
    struct verify_lane *lane = m->from;
    count_readers(run, m, -1);
    *(m->older ? &m->older->younger : &lane->oldest) = m->younger;
    *(m->younger ? &m->younger->older : &lane->youngest) = m->older;
}

/* Fills slots with what is next in order. */
static void pump(struct verify_run *run, struct verify_channel *c)
{
    while (c->unsent && c->slots_used < VERIFY_DEPTH) {
        struct verify_message *m = c->unsent;
        c->slots_used++;
        if (++m->sent == m->fragments)
            c->unsent = m->next;
        verify_wake(run, m->dst, m->from->index);
        verify_wake(run, m->from->rank, m->from->index);
    }
}

bool verify_room(const struct verify_channel *c)
{
    return !c->unsent && c->slots_used < VERIFY_DEPTH;
}

/* --- sending and taking -------------------------------------------------------------------------- */

bool verify_send(struct verify_run *run, struct verify_lane *lane, const struct choir_place *place,
                 bool pending)
{
    uint32_t dst = plan_peer(run->rank[lane->rank].plan, place, lane->cursor.iter);
    struct verify_channel *c = verify_channel(run, lane->rank, dst, lane->index);
    size_t symbols = (lane->parts * sizeof(symbol) + 7) / 8 * 8;
    size_t known = lane->known ? run->known_words * sizeof(uint64_t) : 0;
    struct verify_message *m = malloc(sizeof(*m) + symbols + known);
    if (!c || !m) {
        free(m);
        return verify_fail(run, lane, "no memory for messages");
    }
    *m = (struct verify_message){.from = lane,
                                 .op = run->rank[lane->rank].op,
                                 .instance = lane->instance,
                                 .holders = pending ? 2 : 1,
                                 .pending = pending,
                                 .dst = dst,
                                 .fragments = lane->fragments,
                                 .parts = lane->parts,
                                 .count = lane->count,
                                 .measure = place,
                                 .source = pending ? lane->place : NULL,
                                 .iter = lane->cursor.iter};
    memcpy(m->symbols, lane->stage, lane->parts * sizeof(symbol));
    if (known) {
        m->known = (uint64_t *)((char *)(m + 1) + symbols);
        memcpy(m->known, lane->known, known);
    }
    *(c->tail ? &c->tail->next : &c->head) = m;
    c->tail = m;
    if (!c->unsent)
        c->unsent = m;
    if (pending) {
        m->older = lane->youngest;
        *(lane->youngest ? &lane->youngest->younger : &lane->oldest) = m;
        lane->youngest = m;
        count_readers(run, m, 1);
    }
    pump(run, c);
    verify_wake(run, dst, lane->index);
    return true;
}

/* Both ends of a message see the same list of lengths. */
static bool same_lengths(struct verify_run *run, const struct verify_lane *lane,
                         const struct choir_place *place, const struct verify_message *m)
{
    const struct choir_plan *mine = run->rank[lane->rank].plan;
    const struct choir_plan *theirs = run->op[m->op].plan[m->from->rank];
    const struct choir_cut *a = &mine->cut[place->buf], *b = &theirs->cut[m->measure->buf];
    if (m->parts != lane->parts || m->count != lane->count)
        return false;
    if (a->how == CHOIR_BLOCKS && b->how == CHOIR_BLOCKS && a->count == b->count)
        return true;
    struct plan_walk x, y;
    uint32_t p, q;
    plan_walk_start(&x, mine, place, lane->cursor.iter);
    plan_walk_start(&y, theirs, m->measure, m->iter);
    while (plan_walk_next(&x, &p) && plan_walk_next(&y, &q))
        if (plan_part_len(a, p) != plan_part_len(b, q))
            return false;
    return true;
}

struct verify_message *verify_arrived(struct verify_run *run, struct verify_lane *lane,
                                      const struct choir_place *place)
{
    uint32_t src = plan_peer(run->rank[lane->rank].plan, place, lane->cursor.iter);
    struct verify_channel *c = verify_channel(run, src, lane->rank, lane->index);
    struct verify_message *m = c ? c->head : NULL;
    if (!m)
        return NULL;
    if (m->op != run->rank[lane->rank].op || m->instance != lane->instance) {
        verify_fail(run, lane, "takes a message of rank %u that belongs to %s", src,
                    m->op != run->rank[lane->rank].op ? "another operation" : "another instance");
        return NULL;
    }
    if (m->sent <= lane->fragment)
        return NULL;
    if (!lane->fragment && !same_lengths(run, lane, place, m)) {
        verify_fail(run, lane, "expects %u parts, %llu elements, of rank %u, which sends %u, %llu",
                    lane->parts, (unsigned long long)lane->count, src, m->parts,
                    (unsigned long long)m->count);
        return NULL;
    }
    return m;
}

void verify_take(struct verify_run *run, struct verify_lane *lane, struct verify_message *m)
{
    struct verify_lane *from = m->from;
    struct verify_channel *c = verify_channel(run, from->rank, lane->rank, lane->index);
    bool last = ++m->taken == m->fragments;
    c->slots_used--;
    if (last) {
        c->head = m->next;
        if (!c->head)
            c->tail = NULL;
        if (m->pending)
            passed(run, m);
        verify_drop(m, m->pending ? 2 : 1);
    }
    pump(run, c);
    verify_wake(run, from->rank, from->index);
}

/* --- the end ------------------------------------------------------------------------------------- */

void verify_messages_free(struct verify_run *run)
{
    for (uint32_t i = 0; i < run->n * run->window; i++)
        for (struct verify_message *m = run->lane[i].oldest, *next; m; m = next) {
            next = m->younger;
            verify_drop(m, 1);
        }
    for (uint32_t i = 0; i < run->channels_room; i++)
        for (struct verify_message *m = run->channel[i].head, *next; m; m = next) {
            next = m->next;
            verify_drop(m, 1);
        }
    free(run->channel);
}

void verify_leftover(struct verify_run *run)
{
    for (uint32_t i = 0; i < run->channels_room; i++) {
        const struct verify_message *m = run->channel[i].head;
        if (m)
            verify_fail(run, NULL,
                        "rank %u never takes a message of rank %u (operation %u, instance %u)",
                        m->dst, m->from->rank, m->op, m->instance);
    }
}

struct wait {
    char text[80];
    uint32_t rank; /* waited for */
};

static struct wait wait_of(struct verify_run *run, struct verify_lane *lane)
{
    struct wait w = {.rank = lane->rank};
    const struct verify_message *m = lane->oldest;
    if (!lane->in_step) {
        if (m)
            snprintf(w.text, sizeof(w.text), "at its end has a message that rank %u does not take",
                     w.rank = m->dst);
        return w;
    }
    uint64_t hi = base_min(lane->count, (lane->fragment + 1) * run->rank[lane->rank].plan->slot);
    bool copies = plan_step_pending(run->rank[lane->rank].plan, lane->step);
    if (copies || lane->staged) {
        if (!verify_may_write(run, lane, copies ? lane->count : hi, &m))
            snprintf(w.text, sizeof(w.text),
                     "writes what its message to rank %u is still read from", w.rank = m->dst);
        return w;
    }
    const struct choir_place *p = lane->place + lane->ready;
    w.rank = plan_peer(run->rank[lane->rank].plan, p, lane->cursor.iter);
    snprintf(w.text, sizeof(w.text),
             lane->ready < lane->step->ins ? "awaits rank %u" : "has no slot towards rank %u",
             w.rank);
    return w;
}

void verify_explain(struct verify_run *run)
{
    struct verify_lane *lane = NULL;
    uint32_t index = 0, hops = 0;
    for (uint32_t i = 0; i < run->n * run->window && !lane; i++)
        lane = run->lane[i].live ? &run->lane[i] : NULL;
    if (!lane)
        return;
    /* Following the waits n times leads into the cycle, or to a rank that has ended. */
    char text[400] = "";
    size_t used = 0;
    struct verify_lane *first = lane;
    for (; hops <= 2 * run->n; hops++) {
        struct wait w = wait_of(run, lane);
        index = lane->index;
        if (hops >= run->n && used + 100 < sizeof(text))
            used += (size_t)snprintf(text + used, sizeof(text) - used, "%srank %u step %u %s",
                                     used ? "; " : "", lane->rank, lane->cursor.step, w.text);
        struct verify_lane *next = &run->lane[w.rank * run->window + index];
        for (uint32_t k = 0; k < run->window && !next->live; k++)
            next = &run->lane[w.rank * run->window + k];
        if (!next->live) {
            verify_fail(run, lane, "%s, which has ended", w.text);
            return;
        }
        lane = next;
        if (hops == run->n)
            first = lane;
        else if (hops > run->n && lane == first)
            break;
    }
    verify_fail(run, first, "deadlock: %s", text);
}
