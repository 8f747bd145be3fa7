/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reference.c: the reference interpreter: runs the plans of all ranks on real memory, one small action
 * after another in a seeded random order. It is the definition of "order of execution" in DESIGN.md, in its
 * plainest form:
 *
 *   A step with message ins goes fragment by fragment: (1) await that fragment of every in, and room for
 *   every computed out; (2) read, combine into staging, release the ins; (3) wait until pending messages
 *   under the bytes to be written have passed; (4) write, and send the computed messages. A step whose only
 *   in is local waits (3) for its local outs, copies, and posts its messages as pendings; a copy onto itself
 *   is dropped. An instance ends when its steps are done and its pendings have passed.
 */
#include "plan/reference.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define REF_POISON 0xa7

enum choir_status ref_fail(struct ref_run *run, enum choir_status status,
                           const struct ref_lane *lane, const char *format, ...)
{
    char text[160], where[64] = "";
    va_list ap;
    if (run->status != CHOIR_OK)
        return run->status;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    if (lane)
        snprintf(where, sizeof(where), "rank %u, instance %u, step %u: ", lane->rank,
                 lane->instance, lane->cursor.step);
    struct base_error_at at = {lane ? (int)lane->rank : -1, -1, 0, 0, NULL};
    run->status = status;
    return base_error_fill(base_error_thread(), status, &at, "verify the plan", "%s%s", where,
                           text);
}

void *ref_alloc(struct ref_run *run, uint64_t bytes)
{
    void *p = malloc(bytes + 1);
    if (!p)
        ref_fail(run, CHOIR_ERR_NO_MEMORY, NULL, "no memory for %llu bytes",
                 (unsigned long long)bytes);
    return p;
}

/* --- steps ---------------------------------------------------------------------------------------- */

static const struct choir_step *step_of(const struct ref_run *run, const struct ref_lane *lane)
{
    return ref_plan(run, lane)->step + lane->cursor.step;
}

static const struct choir_place *places_of(const struct ref_run *run, const struct ref_lane *lane)
{
    return ref_plan(run, lane)->place + step_of(run, lane)->place;
}

static void leave_step(const struct ref_run *run, struct ref_lane *lane)
{
    const struct choir_step *step = step_of(run, lane);
    for (uint32_t k = 0; lane->span && k < (uint32_t)(step->ins + step->outs); k++)
        free(lane->span[k].segment);
    free(lane->span);
    free(lane->stage);
    lane->span = NULL;
    lane->stage = NULL;
    lane->in_step = lane->staged = false;
}

/* Goes to the next step; false at the end of the program. */
static bool enter_step(struct ref_run *run, struct ref_lane *lane)
{
    const struct choir_plan *plan = ref_plan(run, lane);
    if (!plan_cursor_next(&lane->cursor, plan, lane->instance % plan->programs))
        return false;
    const struct choir_step *step = step_of(run, lane);
    uint32_t places = step->ins + step->outs;
    lane->span = ref_alloc(run, places * sizeof(*lane->span));
    if (!lane->span)
        return true;
    memset(lane->span, 0, places * sizeof(*lane->span));
    for (uint32_t k = 0; k < places; k++)
        lane->span[k] = ref_span_make(run, lane, &lane->cursor, k);
    lane->count = lane->span[0].count;
    lane->stage = ref_alloc(run, base_min(lane->count, run->slot) * run->how->elem);
    lane->fragment = 0;
    lane->in_step = true;
    return true;
}

/* (3): may elements [lo, hi) of the step's local outs be written? */
static bool may_write(struct ref_run *run, const struct ref_lane *lane, uint64_t lo, uint64_t hi)
{
    const struct choir_step *step = step_of(run, lane);
    const struct choir_place *p = places_of(run, lane);
    bool copies = plan_step_pending(ref_plan(run, lane), step);
    for (uint32_t k = step->ins; k < (uint32_t)(step->ins + step->outs); k++) {
        if (p[k].peer >= 0 || (copies && ref_same(&lane->span[0], &lane->span[k])))
            continue;
        for (uint32_t i = 0; i < lane->pendings; i++) {
            const struct ref_message *m = lane->pending[i];
            if (ref_overlap(run, &m->source, ref_passed(run, m), m->count, &lane->span[k], lo, hi))
                return false;
        }
    }
    return true;
}

static void post(struct ref_run *run, struct ref_lane *lane, uint32_t dst)
{
    if (lane->pendings == lane->room) {
        uint32_t room = 2 * lane->room + 8;
        struct ref_message **list = realloc(lane->pending, room * sizeof(*list));
        if (!list) {
            ref_fail(run, CHOIR_ERR_NO_MEMORY, lane, "no memory for pendings");
            return;
        }
        lane->pending = list;
        lane->room = room;
    }
    struct ref_message *m = ref_send(run, lane, dst, lane->count, true);
    if (!m)
        return;
    m->source = ref_span_make(run, lane, &lane->cursor, 0);
    m->holders = 2;
    lane->pending[lane->pendings++] = m;
}

/* A step whose only in is local. */
static bool copy_step(struct ref_run *run, struct ref_lane *lane)
{
    const struct choir_step *step = step_of(run, lane);
    const struct choir_place *p = places_of(run, lane);
    if (!may_write(run, lane, 0, lane->count))
        return false;
    char *all = ref_alloc(run, lane->count * run->how->elem);
    if (!all)
        return false;
    ref_gather(run, &lane->span[0], 0, lane->count, all);
    for (uint32_t k = 1; k < 1u + step->outs; k++) {
        if (p[k].peer >= 0)
            post(run, lane, plan_peer(ref_plan(run, lane), p + k, lane->cursor.iter));
        else
            ref_scatter(run, &lane->span[k], 0, lane->count, all);
    }
    free(all);
    leave_step(run, lane);
    return true;
}

/* The message that in `k` of the step waits for, once its present fragment is there; NULL before. */
static struct ref_message *arrived(struct ref_run *run, struct ref_lane *lane, uint32_t k)
{
    uint32_t src = plan_peer(ref_plan(run, lane), places_of(run, lane) + k, lane->cursor.iter);
    struct ref_channel *c = ref_channel(run, src, lane->rank, lane->index);
    struct ref_message *m = c ? c->head : NULL;
    if (!m)
        return NULL;
    if (m->instance != lane->instance) {
        ref_fail(run, CHOIR_ERR_MISMATCH, lane, "rank %u's message is of instance %u", src,
                 m->instance);
        return NULL;
    }
    if (m->count != lane->count) {
        ref_fail(run, CHOIR_ERR_MISMATCH, lane,
                 "expects %llu elements of rank %u, which sends %llu",
                 (unsigned long long)lane->count, src, (unsigned long long)m->count);
        return NULL;
    }
    return m->pulled || m->sent > lane->fragment ? m : NULL;
}

/* (2) for in `k`: its elements [lo, hi) to `to`, and the fragment is released. */
static void take(struct ref_run *run, struct ref_lane *lane, uint32_t k, uint64_t lo, uint64_t hi,
                 char *to)
{
    uint32_t src = plan_peer(ref_plan(run, lane), places_of(run, lane) + k, lane->cursor.iter);
    struct ref_channel *c = ref_channel(run, src, lane->rank, lane->index);
    struct ref_message *m = c->head;
    if (m->pulled)
        ref_gather(run, &m->source, lo, hi, to);
    else if (m->landing)
        ref_gather(run, &m->place, lo, hi, to);
    else
        memcpy(to, m->bytes + lo * run->how->elem, (hi - lo) * run->how->elem);
    c->slots_used -= !m->pulled && !m->landing;
    if (++m->taken == m->fragments) {
        c->head = m->next;
        ref_drop(m);
    }
}

/* (1): every in's fragment is there and every computed out has room. */
static bool ready(struct ref_run *run, struct ref_lane *lane)
{
    const struct choir_step *step = step_of(run, lane);
    const struct choir_place *p = places_of(run, lane);
    for (uint32_t k = 0; k < (uint32_t)(step->ins + step->outs); k++) {
        if (p[k].peer < 0)
            continue;
        if (k < step->ins) {
            if (!arrived(run, lane, k))
                return false;
            continue;
        }
        if (lane->count > run->slot) {
            ref_fail(run, CHOIR_ERR_ARGUMENT, lane,
                     "a computed message of %llu elements, slot %llu",
                     (unsigned long long)lane->count, (unsigned long long)run->slot);
            return false;
        }
        uint32_t dst = plan_peer(ref_plan(run, lane), p + k, lane->cursor.iter);
        struct ref_channel *c = ref_channel(run, lane->rank, dst, lane->index);
        if (!c || !ref_room(run, c))
            return false;
    }
    return run->status == CHOIR_OK;
}

static bool combine(struct ref_run *run, struct ref_lane *lane, uint64_t lo, uint64_t hi)
{
    const struct choir_step *step = step_of(run, lane);
    const struct choir_place *p = places_of(run, lane);
    uint64_t bytes = (hi - lo) * run->how->elem;
    char *copies = ref_alloc(run, step->ins * bytes);
    const void **src = ref_alloc(run, step->ins * sizeof(*src));
    if (copies && src) {
        for (uint32_t k = 0; k < step->ins; k++) {
            char *to = copies + k * bytes;
            src[k] = to;
            if (p[k].peer >= 0)
                take(run, lane, k, lo, hi, to);
            else
                ref_gather(run, &lane->span[k], lo, hi, to);
        }
        run->how->combine(run->how->ctx, lane->stage, src, step->ins, hi - lo);
    }
    free(copies);
    free(src);
    return run->status == CHOIR_OK;
}

/* One fragment, or as much of it as can be done now. */
static bool message_step(struct ref_run *run, struct ref_lane *lane)
{
    const struct choir_step *step = step_of(run, lane);
    const struct choir_place *p = places_of(run, lane);
    uint64_t lo = lane->fragment * run->slot, hi = base_min(lane->count, lo + run->slot);
    bool moved = false;
    if (!lane->staged) {
        if (!ready(run, lane) || !combine(run, lane, lo, hi))
            return false;
        moved = lane->staged = true;
        if (base_random(&run->random) & 1) /* others may see it released and not written */
            return true;
    }
    if (!may_write(run, lane, lo, hi))
        return moved;
    for (uint32_t k = step->ins; k < (uint32_t)(step->ins + step->outs); k++) {
        if (p[k].peer < 0) {
            ref_scatter(run, &lane->span[k], lo, hi, lane->stage);
            continue;
        }
        uint32_t dst = plan_peer(ref_plan(run, lane), p + k, lane->cursor.iter);
        struct ref_message *m = ref_send(run, lane, dst, lane->count, false);
        if (!m || !m->bytes)
            return false;
        memcpy(m->bytes, lane->stage, lane->count * run->how->elem);
        m->sent = 1;
        ref_channel(run, lane->rank, dst, lane->index)->slots_used++;
    }
    lane->staged = false;
    lane->fragment++;
    if (hi == lane->count)
        leave_step(run, lane);
    return true;
}

/* --- instances and progress ---------------------------------------------------------------------- */

static uint64_t tmp_bytes(const struct ref_run *run, const struct ref_lane *lane)
{
    const struct choir_plan *plan = ref_plan(run, lane);
    return (plan_tmp_tabled(plan) ? plan_tmp_extent(plan) : plan->tmp * run->stride) *
           run->how->elem;
}

static void start(struct ref_run *run, struct ref_lane *lane, uint32_t instance)
{
    lane->instance = instance;
    lane->live = true;
    lane->cursor = (struct plan_cursor){0};
    memset(lane->tmp, REF_POISON, tmp_bytes(run, lane));
}

static bool advance(struct ref_run *run, struct ref_lane *lane)
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < lane->pendings; i++) {
        struct ref_message *m = lane->pending[i];
        if (ref_finished(m))
            ref_drop(m);
        else
            lane->pending[left++] = m;
    }
    lane->pendings = left;
    if (lane->in_step || enter_step(run, lane)) {
        if (run->status != CHOIR_OK)
            return false;
        return plan_step_pending(ref_plan(run, lane), step_of(run, lane)) ? copy_step(run, lane)
                                                                          : message_step(run, lane);
    }
    /* plan_cursor_next stays at the end of the program */
    if (left)
        return false;
    if (lane->instance + run->window < run->instances)
        start(run, lane, lane->instance + run->window);
    else
        lane->live = false;
    return true;
}

/* Every lane and channel gets a chance, by a fresh luck each round; `all` leaves none out. */
static bool round_of_all(struct ref_run *run, const uint32_t *luck, bool all)
{
    uint32_t lanes = run->n * run->window, channels = run->useds, total = lanes + channels;
    uint32_t at = (uint32_t)(base_random(&run->random) % total), stride = 1;
    bool moved = false;
    if (base_random(&run->random) & 1)
        stride = total - 1; /* backwards */
    for (uint32_t i = 0; i < total; i++, at = (at + stride) % total) {
        bool is_lane = at < lanes;
        uint32_t rank = is_lane ? at / run->window : run->used[at - lanes]->src;
        if (!all && base_random(&run->random) % 64 >= luck[2 * rank + !is_lane])
            continue;
        struct ref_lane *lane = is_lane ? &run->lane[at] : NULL;
        for (uint64_t k = base_random(&run->random) % 8; run->status == CHOIR_OK; k--) {
            bool did =
                lane ? lane->live && advance(run, lane) : ref_pump(run, run->used[at - lanes]);
            moved |= did;
            if (!did || !k)
                break;
        }
    }
    return moved;
}

static const struct ref_lane *live_lane(const struct ref_run *run)
{
    for (uint32_t i = 0; i < run->n * run->window; i++)
        if (run->lane[i].live)
            return &run->lane[i];
    return NULL;
}

static enum choir_status play(struct ref_run *run)
{
    uint32_t *luck =
        ref_alloc(run, 2 * run->n * sizeof(*luck)); /* of 64: lanes, messages of each rank */
    static const uint32_t choice[] = {64, 64, 16, 1};
    for (uint32_t i = 0; luck && i < 2 * run->n; i++)
        luck[i] = choice[base_random(&run->random) % base_count(choice)];
    const struct ref_lane *stuck;
    while (run->status == CHOIR_OK && (stuck = live_lane(run)))
        if (!round_of_all(run, luck, false) && !round_of_all(run, luck, true))
            ref_fail(run, CHOIR_ERR_TIMEOUT, stuck, "deadlock");
    for (uint32_t i = 0; i < run->useds; i++)
        if (run->used[i]->head)
            ref_fail(run, CHOIR_ERR_MISMATCH, NULL, "rank %u never takes a message of rank %u",
                     run->used[i]->dst, run->used[i]->src);
    free(luck);
    return run->status;
}

static enum choir_status set_up(struct ref_run *run)
{
    const struct choir_plan *first = run->plans[0];
    for (uint32_t r = 0; r < run->n; r++) {
        const struct choir_plan *p = run->plans[r];
        if (p->size != run->n || p->rank != r || p->instances != first->instances ||
            p->window != first->window || p->programs != first->programs || p->slot != first->slot)
            return ref_fail(run, CHOIR_ERR_MISMATCH, NULL,
                            "the plan of rank %u has another wire shape", r);
        run->stride = base_max(run->stride, plan_tmp_stride(p, run->how->elem));
    }
    uint64_t lanes = (uint64_t)run->n * run->window;
    run->lane = calloc(lanes, sizeof(*run->lane));
    run->channel = calloc(lanes * run->n, sizeof(struct ref_channel *));
    if (!run->lane || !run->channel)
        return ref_fail(run, CHOIR_ERR_NO_MEMORY, NULL, "no memory for %u ranks", run->n);
    for (uint32_t i = 0; i < lanes; i++) {
        struct ref_lane *lane = &run->lane[i];
        lane->rank = i / run->window;
        lane->index = i % run->window;
        lane->tmp = ref_alloc(run, tmp_bytes(run, lane));
        if (!lane->tmp)
            return run->status;
        start(run, lane, lane->index);
    }
    return CHOIR_OK;
}

static void tear_down(struct ref_run *run)
{
    for (uint32_t i = 0; run->lane && i < run->n * run->window; i++) {
        struct ref_lane *lane = &run->lane[i];
        if (lane->in_step)
            leave_step(run, lane);
        for (uint32_t k = 0; k < lane->pendings; k++)
            ref_drop(lane->pending[k]);
        free(lane->pending);
        free(lane->tmp);
    }
    for (uint32_t i = 0; i < run->useds; i++) {
        for (struct ref_message *m = run->used[i]->head, *next; m; m = next) {
            next = m->next;
            ref_drop(m);
        }
        free(run->used[i]);
    }
    free(run->used);
    free(run->channel);
    free(run->lane);
}

enum choir_status plan_reference(const struct choir_plan *const *plans, uint32_t n, void *const *in,
                                 void *const *out, const struct plan_run *how)
{
    struct ref_run run = {.plans = plans,
                          .n = n,
                          .window = plans[0]->window,
                          .instances = plans[0]->instances,
                          .depth = how->depth ? how->depth : plans[0]->depth,
                          .slot = how->slot ? how->slot : plans[0]->slot,
                          .how = how,
                          .in = in,
                          .out = out,
                          .random = how->seed};
    if (set_up(&run) == CHOIR_OK)
        play(&run);
    tear_down(&run);
    return run.status;
}
