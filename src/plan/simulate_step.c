/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simulate_step.c: how threads (the instances in a rank's window) go from step to step, and what a step
 * costs.
 */
#include "plan/simulate_play.h"
#include <string.h>

/* --- lengths ------------------------------------------------------------------------------------ */

enum { WALK = 32 }; /* longer spans of equal parts are multiplied out */

static uint64_t piece(uint64_t length, uint32_t i, uint32_t instances)
{
    uint64_t from, to = plan_piece(length, i, instances, &from);
    return to - from;
}

/* Elements of a step. By representatives every part of a cut is taken to be as long as the longest. */
static uint64_t step_count(const struct sim *s, const struct sim_thread *t)
{
    const struct choir_plan *plan = s->job->plans[t->rank];
    const struct choir_place *p = plan_measure(plan, step_of(s, t));
    if (!p)
        return sim_span_parts(places_of(s, t)) * plan_largest_piece(plan);
    const struct choir_cut *cut = &plan->cut[p->buf];
    uint64_t parts = sim_span_parts(p);
    if (cut->how != CHOIR_TABLE && (parts > WALK || s->job->group != SIM_EACH)) {
        /* A list that measures TMP may name parts of IN or OUT more than once. */
        uint64_t all = cut->how == CHOIR_BLOCKS ? cut->count * cut->parts : cut->count;
        uint64_t laps = parts / cut->parts, rest = parts % cut->parts;
        uint64_t lap = piece(all, t->instance, plan->instances);
        uint64_t most = piece(plan_part_len(cut, 0), t->instance, plan->instances) * rest;
        return laps * lap + base_min(most, lap + rest);
    }
    struct plan_walk w;
    uint64_t sum = 0;
    uint32_t part;
    for (plan_walk_start(&w, plan, p, t->cursor.iter); plan_walk_next(&w, &part);)
        sum += piece(plan_part_len(cut, part), t->instance, plan->instances);
    return sum;
}

/* Sources of one step beyond these are read at a third of the rate: more than a core prefetches, from as many rings.
 * reduce_scatter of 1 MiB, direct against ring: 8 ranks on 2 cores 383 and 279 us, 32 on 32 409 and 273. */
#define SIM_STREAMS 4u

struct sim_work sim_step_work(struct sim *s, uint32_t thread)
{
    struct sim_thread *t = &s->thread[thread];
    const struct choir_step *step = step_of(s, t);
    const struct choir_place *p = places_of(s, t);
    bool last = t->fragment + 1 == t->fragments;
    /* What is posted costs when it is pushed; local copies of the step are made at once. */
    uint64_t b = t->posts ? t->bytes : share_of(t->bytes, t->fragment, t->fragments);
    uint64_t slots = share_of(t->slots, t->fragment, t->fragments);
    uint32_t ins = 0, outs = 0;
    struct sim_work w = {.fixed = t->fragment ? 0 : s->step};
    for (uint32_t i = 0; i < step->ins; i++)
        if (p[i].peer >= 0) {
            const struct sim_cost *c = &s->cost[s->channel[sim_channel_at(s, t, i)].link];
            w.fixed += c->overhead * slots;
            w.bytes += ps(c->rank_beta, b);
            ins++;
        }
    for (uint32_t i = step->ins; i < (uint32_t)step->ins + step->outs; i++) {
        if (p[i].peer < 0) {
            outs++;
        } else if (!t->posts && last) {
            uint32_t link = s->channel[sim_channel_at(s, t, i)].link;
            w.fixed += s->cost[link].overhead;
            w.bytes += ps(s->cost[link].rank_beta, b);
            if (link != PLAN_LINK_NET)
                w.memory += ps(s->cost[link].shared_beta, b);
        }
    }
    /* Receiving and combining write the first local destination by the way. */
    uint32_t written = ins || step->ins > 1, copies = outs - base_min(outs, written);
    uint64_t streams = step->ins > SIM_STREAMS ? step->ins - SIM_STREAMS : 0;
    w.bytes += ps(s->combine, b * (step->ins - 1u + 2 * streams)) + ps(s->copy, b * copies);
    w.memory += ps(s->cost[PLAN_LINK_SELF].shared_beta, b * (outs + step->ins - 1u));
    return w;
}

/* --- steps -------------------------------------------------------------------------------------- */

static void thread_end(struct sim *s, uint32_t t)
{
    struct sim_thread *th = &s->thread[t];
    if (!th->live || !th->ended || th->pendings)
        return;
    th->live = false;
    s->running--;
    if (s->now >= (uint64_t)s->result->time_ps) {
        s->result->time_ps = (int64_t)s->now;
        s->result->critical = th->rank;
    }
    if (th->instance + s->window < s->job->instances)
        sim_thread_start(s, t, th->instance + s->window);
}

/* Goes to the next step. */
static void thread_next(struct sim *s, uint32_t t)
{
    struct sim_thread *th = &s->thread[t];
    const struct choir_plan *plan = s->job->plans[th->rank];
    th->ready = th->fragment = 0;
    memset(th->channel, 0xff, sizeof(th->channel));
    if (!plan_cursor_next(&th->cursor, plan, th->instance % plan->programs)) {
        th->ended = true;
        thread_end(s, t);
        return;
    }
    const struct choir_step *step = step_of(s, th);
    const struct choir_place *p = places_of(s, th);
    bool in = false, out = false;
    for (uint32_t i = 0; i < step->ins && !in; i++)
        in = p[i].peer >= 0;
    for (uint32_t i = step->ins; i < (uint32_t)step->ins + step->outs && !out; i++)
        out = p[i].peer >= 0;
    th->posts = out && !in && step->ins == 1;
    th->bytes = step_count(s, th) * s->job->elem;
    uint64_t slots = (th->bytes + s->slot_bytes - 1) / s->slot_bytes;
    th->slots = in || th->posts ? (uint32_t)base_min(base_max(slots, 1u), UINT32_MAX - 1u) : 1;
    th->fragments = base_min(th->slots, s->job->fragments);
}

void sim_thread_start(struct sim *s, uint32_t t, uint32_t instance)
{
    struct sim_thread *th = &s->thread[t];
    th->instance = instance;
    th->cursor = (struct plan_cursor){0};
    th->live = true;
    th->ended = false;
    th->await = NONE;
    s->running++;
    thread_next(s, t);
    sim_thread_try(s, t);
}

/* Lengths agree at both ends of a proven plan; of others the last fragment waits for what there is. */
static bool enough(const struct sim_thread *t, const struct sim_message *m)
{
    bool last = t->fragment + 1 >= t->fragments;
    return m->arrived >= (last ? m->fragments : base_min(t->fragment + 1, m->fragments));
}

/* Has this fragment of every message in come? `ready` counts those known to have. */
static bool arrived(struct sim *s, struct sim_thread *t)
{
    const struct choir_step *step = step_of(s, t);
    const struct choir_place *p = places_of(s, t);
    for (; t->ready < step->ins; t->ready++) {
        if (p[t->ready].peer < 0)
            continue;
        uint32_t c = sim_channel_at(s, t, t->ready);
        if (c == NONE)
            return false;
        uint32_t m = sim_message_at(s, c, s->channel[c].claimed);
        if (m == NONE || !enough(t, &s->message[m])) {
            t->await = c;
            return false;
        }
        s->channel[c].claimed++;
    }
    return true;
}

/* Takes a credit for every computed message out; false: one is missing. */
static bool credits(struct sim *s, struct sim_thread *t)
{
    const struct choir_step *step = step_of(s, t);
    const struct choir_place *p = places_of(s, t);
    if (t->posts || t->fragment + 1 < t->fragments)
        return true;
    for (uint32_t i = step->ins; i < (uint32_t)step->ins + step->outs; i++) {
        uint32_t c = p[i].peer < 0 ? NONE : sim_channel_at(s, t, i);
        if (c == NONE)
            continue;
        if (s->channel[c].in_flight >= s->depth || s->channel[c].unsent != NONE) {
            while (i-- > step->ins)
                if (p[i].peer >= 0)
                    s->channel[sim_channel_at(s, t, i)].in_flight--;
            t->await = c;
            return false;
        }
        s->channel[c].in_flight++;
    }
    return true;
}

void sim_thread_try(struct sim *s, uint32_t t)
{
    struct sim_thread *th = &s->thread[t];
    if (!th->live || th->queued || th->ended || s->no_memory)
        return;
    th->await = NONE;
    if (!arrived(s, th) || !credits(s, th))
        return;
    th->queued = true;
    sim_job_add(s, th->rank, t);
}

/* The receiver has read the thread's fragment of the k-th message of a channel. */
static void consume_one(struct sim *s, uint32_t c, uint32_t k, bool last)
{
    uint32_t m = sim_message_at(s, c, k), sender = s->channel[c].thread[0];
    struct sim_message *msg = &s->message[m];
    uint32_t done = last ? msg->arrived - msg->consumed : msg->consumed < msg->arrived;
    uint32_t owner = msg->owner;
    msg->consumed += done;
    s->channel[c].in_flight -= done;
    if (last)
        sim_message_take(s, c);
    sim_channel_push(s, c);
    if (s->thread[sender].await == c)
        sim_thread_try(s, sender);
    if (last && owner != NONE) {
        s->thread[owner].pendings--;
        thread_end(s, owner);
    }
}

/* Releases this fragment of the messages in; all of what is left with the last. */
static void consume(struct sim *s, uint32_t t)
{
    struct sim_thread th = s->thread[t]; /* taking may start the next instance there */
    const struct choir_step *step = step_of(s, &th);
    const struct choir_place *p = places_of(s, &th);
    bool last = th.fragment + 1 == th.fragments;
    for (uint32_t i = 0; i < step->ins; i++)
        if (p[i].peer >= 0)
            s->channel[sim_channel_at(s, &th, i)].claimed = 0;
    for (uint32_t i = 0; i < step->ins; i++)
        if (p[i].peer >= 0) {
            uint32_t c = sim_channel_at(s, &th, i);
            consume_one(s, c, last ? 0 : s->channel[c].claimed++, last);
        }
    for (uint32_t i = 0; i < step->ins; i++)
        if (p[i].peer >= 0)
            s->channel[sim_channel_at(s, &th, i)].claimed = 0;
}

static void send_outs(struct sim *s, uint32_t t)
{
    struct sim_thread *th = &s->thread[t];
    const struct choir_step *step = step_of(s, th);
    const struct choir_place *p = places_of(s, th);
    for (uint32_t i = step->ins; i < (uint32_t)step->ins + step->outs; i++) {
        uint32_t c = p[i].peer < 0 ? NONE : sim_channel_at(s, th, i);
        if (c == NONE)
            continue;
        th->pendings += th->posts;
        sim_message_send(s, c, th, th->posts ? t : NONE);
    }
}

void sim_step_done(struct sim *s, uint32_t t)
{
    struct sim_thread *th = &s->thread[t];
    th->queued = false;
    bool last = th->fragment + 1 == th->fragments || th->posts;
    consume(s, t);
    if (last) {
        send_outs(s, t);
        thread_next(s, t);
    } else {
        th->fragment++;
        th->ready = 0;
    }
    sim_thread_try(s, t);
}
