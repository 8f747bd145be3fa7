/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simulate_wire.c: channels (sender, receiver, place in the window) and the fragments that cross them.
 */
#include "plan/simulate_play.h"
#include <stdlib.h>
#include <string.h>

static uint32_t channel_hash(uint32_t from, uint32_t to, uint32_t slot)
{
    return (uint32_t)base_mix((uint64_t)from << 40 ^ (uint64_t)slot << 32 ^ to);
}

static void table_rebuild(struct sim *s)
{
    uint32_t size = 2 * (s->table_mask + 1);
    uint32_t *table = malloc(size * sizeof(*table));
    if (!table) {
        s->no_memory = true;
        return;
    }
    memset(table, 0xff, size * sizeof(*table));
    for (uint32_t c = 0; c < s->channels; c++) {
        const struct sim_channel *ch = &s->channel[c];
        uint32_t h = channel_hash(ch->from, ch->to, ch->slot) & (size - 1);
        while (table[h] != NONE)
            h = (h + 1) & (size - 1);
        table[h] = c;
    }
    free(s->table);
    s->table = table;
    s->table_mask = size - 1;
}

static uint32_t channel_new(struct sim *s, uint32_t from, uint32_t to, uint32_t slot)
{
    if (!sim_grow(s, (void **)&s->channel, &s->channel_room, s->channels, sizeof(*s->channel)))
        return NONE;
    const uint32_t *host = s->job->layout->host_of;
    uint32_t c = s->channels++, rep = to % s->job->reps;
    s->channel[c] = (struct sim_channel){
        .from = from,
        .to = to,
        .slot = slot,
        .thread = {from * s->window + slot, rep * s->window + slot},
        .link = from == to               ? PLAN_LINK_SELF
                : host[from] == host[to] ? PLAN_LINK_HOST
                                         : PLAN_LINK_NET,
        .head = NONE,
        .tail = NONE,
        .unsent = NONE,
        .arriving = NONE,
        .next_job = NONE,
        .wire = slot ? NONE : c,
    };
    return c;
}

static uint32_t channel_find(struct sim *s, uint32_t from, uint32_t to, uint32_t slot)
{
    uint32_t h = channel_hash(from, to, slot) & s->table_mask;
    for (; s->table[h] != NONE; h = (h + 1) & s->table_mask) {
        const struct sim_channel *c = &s->channel[s->table[h]];
        if (c->from == from && c->to == to && c->slot == slot)
            return s->table[h];
    }
    uint32_t c = channel_new(s, from, to, slot);
    if (c == NONE)
        return NONE;
    s->table[h] = c;
    if (2 * s->channels > s->table_mask)
        table_rebuild(s);
    return c;
}

uint32_t sim_channel_at(struct sim *s, struct sim_thread *t, uint32_t i)
{
    if (i < base_count(t->channel) && t->channel[i] != NONE)
        return t->channel[i];
    const struct choir_plan *plan = s->job->plans[t->rank];
    const struct choir_step *step = &plan->step[t->cursor.step];
    uint32_t peer = plan_peer(plan, &plan->place[step->place + i], t->cursor.iter);
    uint32_t from = t->rank, to = peer, n = s->job->ranks;
    if (i < step->ins) {
        /* The sender's view: its stand-in sends to where `t` lies from there. */
        uint32_t rep = peer % s->job->reps, move = peer - rep;
        from = rep;
        to = t->rank;
        if (s->job->group == SIM_SHIFT)
            to = to >= move ? to - move : to + n - move;
        else if (s->job->group == SIM_XOR)
            to ^= move;
    }
    uint32_t c = channel_find(s, from, to, t->slot);
    if (i < base_count(t->channel))
        t->channel[i] = c;
    return c;
}

/* --- messages ----------------------------------------------------------------------------------- */

static uint32_t message_add(struct sim *s, uint32_t c, const struct sim_thread *t, uint32_t owner)
{
    uint32_t m = s->free_message;
    if (m != NONE)
        s->free_message = s->message[m].next;
    else if (sim_grow(s, (void **)&s->message, &s->message_room, s->messages, sizeof(*s->message)))
        m = s->messages++;
    else
        return NONE;
    s->message[m] = (struct sim_message){.next = NONE,
                                         .owner = owner,
                                         .fragments = t->fragments,
                                         .slots = t->slots,
                                         .bytes = t->bytes};
    struct sim_channel *ch = &s->channel[c];
    uint64_t from = ch->link == PLAN_LINK_HOST ? s->job->cluster->pull_bytes : 0;
    s->message[m].pulled = from && owner != NONE && t->bytes > from;
    *(ch->head == NONE ? &ch->head : &s->message[ch->tail].next) = m;
    ch->tail = m;
    if (ch->arriving == NONE)
        ch->arriving = m;
    if (owner != NONE && ch->unsent == NONE)
        ch->unsent = m;
    s->result->bytes[ch->link] += (int64_t)t->bytes;
    s->result->messages++;
    return m;
}

/* A network carries a fragment while its sender still hands it over and its receiver already takes it out, so much apart. */
#define WIRE_GRAIN (16u << 10)

/* The sender's CPU has done its share of a fragment: it crosses the wire. */
static void transfer(struct sim *s, uint32_t c, struct sim_message *m)
{
    if (s->channel[c].wire == NONE) {
        uint32_t wire = channel_find(s, s->channel[c].from, s->channel[c].to, 0);
        s->channel[c].wire = wire == NONE ? c : wire;
    }
    const struct sim_channel *ch = &s->channel[c];
    const struct sim_cost *cost = &s->cost[ch->link];
    uint64_t b = share_of(m->bytes, m->sent, m->fragments), ahead = 0;
    uint64_t each = base_min(b, base_max(m->bytes / base_max(m->slots, 1u), 1u));
    if (ch->link == PLAN_LINK_NET && each > WIRE_GRAIN)
        ahead = base_min(ps(cost->rank_beta, each - WIRE_GRAIN), s->now);
    uint64_t start = s->now - ahead;
    uint64_t end = serve(&s->channel[ch->wire].free_ps, start, ps(cost->beta, b));
    if (ch->link == PLAN_LINK_NET) {
        uint64_t work = ps(cost->shared_beta, b) * s->share;
        uint64_t out = serve(&s->nic_out[host_index(s, ch->from)], start, work);
        uint64_t in = serve(&s->nic_in[host_index(s, ch->to)], start, work);
        end = base_max(end, base_max(out, in));
    }
    m->sent++;
    sim_event_add(s, base_max(end - ahead, s->now) + cost->alpha, s->job->reps + c);
}

void sim_message_send(struct sim *s, uint32_t c, const struct sim_thread *t, uint32_t owner)
{
    uint32_t m = message_add(s, c, t, owner);
    if (m == NONE)
        return;
    if (owner != NONE) {
        sim_channel_push(s, c);
    } else {
        s->message[m].fragments = 1; /* a computed message fits one slot */
        transfer(s, c, &s->message[m]);
    }
}

uint32_t sim_message_at(const struct sim *s, uint32_t c, uint32_t k)
{
    uint32_t m = s->channel[c].head;
    for (; k && m != NONE; k--)
        m = s->message[m].next;
    return m;
}

void sim_message_take(struct sim *s, uint32_t c)
{
    uint32_t m = s->channel[c].head;
    s->channel[c].head = s->message[m].next;
    s->message[m].next = s->free_message;
    s->free_message = m;
}

void sim_fragment_arrived(struct sim *s, uint32_t c)
{
    struct sim_channel *ch = &s->channel[c];
    struct sim_message *m = &s->message[ch->arriving];
    uint32_t receiver = ch->thread[1];
    if (++m->arrived == m->fragments)
        ch->arriving = m->next;
    if (s->thread[receiver].await == c)
        sim_thread_try(s, receiver);
}

/* Has the sender's CPU send the next fragment of a pending message, if there is one and a credit. */
void sim_channel_push(struct sim *s, uint32_t c)
{
    struct sim_channel *ch = &s->channel[c];
    if (ch->pushing || ch->unsent == NONE || ch->in_flight >= s->depth)
        return;
    ch->in_flight++;
    ch->pushing = true;
    sim_job_add(s, ch->from, s->threads + c);
}

struct sim_work sim_push_work(struct sim *s, uint32_t channel)
{
    const struct sim_channel *c = &s->channel[channel];
    const struct sim_message *m = &s->message[c->unsent];
    const struct sim_cost *cost = &s->cost[c->link];
    uint64_t b = share_of(m->bytes, m->sent, m->fragments);
    if (m->pulled)
        return (struct sim_work){.fixed = m->sent ? 0 : cost->overhead};
    return (struct sim_work){
        .fixed = cost->overhead * share_of(m->slots, m->sent, m->fragments),
        .bytes = ps(cost->rank_beta, b),
        .memory = c->link == PLAN_LINK_NET ? 0 : ps(cost->shared_beta, b),
    };
}

void sim_push_done(struct sim *s, uint32_t c)
{
    struct sim_message *m = &s->message[s->channel[c].unsent];
    transfer(s, c, m); /* may move the channels */
    struct sim_channel *ch = &s->channel[c];
    uint32_t sender = ch->thread[0];
    ch->pushing = false;
    /* A computed message is not sent behind a pending one that is not, so what follows is pending too. */
    if (m->sent == m->fragments)
        ch->unsent = m->next;
    sim_channel_push(s, c);
    if (s->thread[sender].await == c)
        sim_thread_try(s, sender);
}
