/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify_run.c: runs all ranks' plans on symbols (verify_value.c) by the rules of DESIGN.md "order of
 * execution" where they are strictest: two slots, messages out sent last, whole pendings awaited unless
 * spans are identical.
 *
 * Instances are alike but for their program and lengths that differ by one: whole parts stand for their
 * pieces, the longest piece for all. Why one schedule decides: every wait is a conjunction of things that,
 * once true, stay true (a fragment is there, a slot is free and only this lane fills it, a pending has
 * passed), so what may move may still move later, and all schedules end in the same state. Why lanes cannot
 * race: instances work on different pieces of every part, parts that share bytes are identical (plan_check,
 * verify.c), TMP is each lane's own; within a lane steps are in order and pending reads are awaited before
 * writes.
 */
#include "plan/verify.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

bool verify_fail(struct verify_run *run, const struct verify_lane *lane, const char *format, ...)
{
    struct plan_verdict *v = run->verdict;
    char text[400];
    va_list ap;
    if (run->failed)
        return false;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    run->failed = true;
    static const char *const alias[] = {"out of place", "in place", "some ranks in place"};
    *v = (struct plan_verdict){.status = CHOIR_ERR_ARGUMENT,
                               .rank = lane ? lane->rank : 0,
                               .step = lane ? lane->cursor.step : 0};
    int used = 0;
    if (lane)
        used = snprintf(v->text, sizeof(v->text), "rank %u, instance %u, step %u: ", lane->rank,
                        lane->instance, lane->cursor.step);
    snprintf(v->text + used, sizeof(v->text) - (size_t)used, "%s (%s)", text,
             alias[run->how.alias]);
    return false;
}

/* --- the queue of lanes that may be able to move ------------------------------------------------- */

void verify_wake(struct verify_run *run, uint32_t rank, uint32_t index)
{
    uint32_t i = rank * run->window + index, room = run->n * run->window;
    struct verify_lane *lane = &run->lane[i];
    if (!lane->live || lane->queued)
        return;
    lane->queued = true;
    run->queue[(run->queue_first + run->queue_count++) % room] = i;
}

/* First in, last in, or any, as the schedule says. */
static struct verify_lane *next_lane(struct verify_run *run)
{
    uint32_t room = run->n * run->window, first = run->queue_first, count = run->queue_count;
    if (!count)
        return NULL;
    uint64_t rule = run->how.seed % 3;
    uint32_t pick = rule == 0   ? 0
                    : rule == 1 ? count - 1
                                : (uint32_t)(base_random(&run->random) % count);
    uint32_t *chosen = &run->queue[(first + pick) % room], i = *chosen;
    if (rule == 1) {
        run->queue_count--;
    } else {
        *chosen = run->queue[first];
        run->queue_first = (first + 1) % room;
        run->queue_count--;
    }
    run->lane[i].queued = false;
    return &run->lane[i];
}

/* --- memory -------------------------------------------------------------------------------------- */

uint32_t verify_cell(const struct verify_run *run, const struct verify_lane *lane, unsigned buf,
                     uint32_t part)
{
    const struct verify_rank *rank = &run->rank[lane->rank];
    if (buf == CHOIR_TMP)
        return rank->plan->cut[CHOIR_OUT].parts + part;
    if (buf == CHOIR_OUT)
        return part;
    uint32_t i = part - rank->overlap.in_first;
    return i < rank->overlap.parts ? rank->overlap.out_first + i : VERIFY_NO_CELL;
}

/* The symbol in a part of a local place that must hold (a piece of) `length` elements; UINT64_MAX:
 * whatever it holds. */
static bool read_part(struct verify_run *run, struct verify_lane *lane, unsigned buf, uint32_t part,
                      uint64_t *length, symbol *s)
{
    static const char *const name[] = {"IN", "OUT", "TMP"};
    uint32_t cell = verify_cell(run, lane, buf, part);
    *s = cell == VERIFY_NO_CELL
             ? value_input(&run->op[run->rank[lane->rank].op].values, lane->rank, part)
             : lane->cell[cell];
    if (!*s && *length)
        return verify_fail(run, lane, "reads part %u of %s, which nothing was written to", part,
                           name[buf]);
    if (buf != CHOIR_TMP)
        return true;
    if (*length == UINT64_MAX)
        *length = lane->length[cell];
    if (lane->length[cell] == *length || !*s)
        return true;
    return verify_fail(run, lane, "reads %llu elements of part %u of TMP, which holds %llu",
                       (unsigned long long)*length, part, (unsigned long long)lane->length[cell]);
}

static bool grow(struct verify_run *run, struct verify_lane *lane)
{
    uint64_t in = (uint64_t)lane->parts * lane->step->ins;
    if (lane->parts > lane->stage_room) {
        void *stage = realloc(lane->stage, lane->parts * sizeof(symbol));
        lane->stage = stage ? stage : lane->stage;
        void *length = realloc(lane->stage_length, lane->parts * sizeof(uint64_t));
        lane->stage_length = length ? length : lane->stage_length;
        if (!stage || !length)
            return verify_fail(run, lane, "no memory for %u parts", lane->parts);
        lane->stage_room = lane->parts;
    }
    if (in > run->in_room) {
        void *p = realloc(run->in, in * sizeof(symbol));
        if (!p)
            return verify_fail(run, lane, "no memory for %llu operands", (unsigned long long)in);
        run->in = p;
        run->in_room = in;
    }
    return true;
}

/* --- steps --------------------------------------------------------------------------------------- */

/* Pieces of a part differ by an element from instance to instance; the proof takes the longest, so it
 * holds for all. */
static uint64_t longest_piece(const struct choir_plan *plan, uint64_t length)
{
    return length / plan->instances + (length % plan->instances != 0);
}

/* Goes to the next step; false at the end of the program (or after a failure). */
static bool enter_step(struct verify_run *run, struct verify_lane *lane)
{
    const struct choir_plan *plan = run->rank[lane->rank].plan;
    if (!plan_cursor_next(&lane->cursor, plan, lane->instance % plan->programs))
        return false;
    lane->step = plan->step + lane->cursor.step;
    lane->place = plan->place + lane->step->place;
    const struct choir_place *measure = plan_measure(plan, lane->step);
    struct plan_walk w;
    uint32_t part;
    lane->in_step = true;
    lane->parts = lane->fragment = lane->ready = 0;
    lane->count = 0;
    plan_walk_start(&w, plan, measure ? measure : lane->place, lane->cursor.iter);
    while (plan_walk_next(&w, &part)) {
        lane->parts++;
        if (measure)
            lane->count += longest_piece(plan, plan_part_len(&plan->cut[measure->buf], part));
    }
    uint64_t n = lane->count / plan->slot + (lane->count % plan->slot || !lane->count);
    lane->fragments = (uint32_t)n;
    if (n > UINT32_MAX)
        return verify_fail(run, lane, "a message of %llu fragments", (unsigned long long)n);
    return grow(run, lane);
}

/* Lengths of the step's parts (whole ones: instances are alike) into the stage; those of a step on TMP
 * alone are what its first in holds. */
static void stage_lengths(struct verify_run *run, struct verify_lane *lane)
{
    const struct choir_plan *plan = run->rank[lane->rank].plan;
    const struct choir_place *measure = plan_measure(plan, lane->step);
    struct plan_walk w;
    uint32_t part, j = 0;
    plan_walk_start(&w, plan, measure ? measure : lane->place, lane->cursor.iter);
    for (; plan_walk_next(&w, &part); j++)
        lane->stage_length[j] =
            measure ? plan_part_len(&plan->cut[measure->buf], part) : UINT64_MAX;
}

/* Symbols of a local in into operand k. */
static bool stage_local(struct verify_run *run, struct verify_lane *lane, uint32_t k)
{
    const struct choir_place *p = lane->place + k;
    uint32_t part, j = 0, ins = lane->step->ins;
    struct plan_walk w;
    plan_walk_start(&w, run->rank[lane->rank].plan, p, lane->cursor.iter);
    for (; plan_walk_next(&w, &part); j++)
        if (!read_part(run, lane, p->buf, part, &lane->stage_length[j],
                       &run->in[(uint64_t)j * ins + k]))
            return false;
    return true;
}

static bool combine(struct verify_run *run, struct verify_lane *lane)
{
    const struct verify_rank *rank = &run->rank[lane->rank];
    uint32_t ins = lane->step->ins;
    if (rank->plan->kind == CHOIR_BARRIER)
        return true;
    if (ins > 1 && !plan_kind_reduces((enum choir_kind)rank->plan->kind))
        return verify_fail(run, lane, "combines, but %s does not reduce",
                           plan_kind_name((enum choir_kind)rank->plan->kind));
    for (uint32_t j = 0; j < lane->parts; j++) {
        const char *error = NULL;
        lane->stage[j] =
            value_combine(&run->op[rank->op].values, run->in + (uint64_t)j * ins, ins, &error);
        if (error)
            return verify_fail(run, lane, "%s (part %u of %u of the step)", error, j, lane->parts);
    }
    return true;
}

static void write_out(struct verify_run *run, struct verify_lane *lane, const struct choir_place *p)
{
    struct plan_walk w;
    uint32_t part, j = 0;
    plan_walk_start(&w, run->rank[lane->rank].plan, p, lane->cursor.iter);
    for (; plan_walk_next(&w, &part); j++) {
        uint32_t cell = verify_cell(run, lane, p->buf, part);
        lane->cell[cell] = lane->stage[j];
        if (p->buf == CHOIR_TMP)
            lane->length[cell] = lane->stage_length[j];
    }
}

static bool write_outs(struct verify_run *run, struct verify_lane *lane, bool pending)
{
    const struct choir_place *p = lane->place + lane->step->ins, *end = p + lane->step->outs;
    bool values = run->rank[lane->rank].plan->kind != CHOIR_BARRIER;
    for (; p < end; p++) {
        if (p->peer < 0 && values)
            write_out(run, lane, p);
        if (p->peer >= 0 && !verify_send(run, lane, p, pending))
            return false;
    }
    lane->in_step = lane->staged = false;
    verify_forget_conflicts(lane);
    return true;
}

/* A step whose only in is local. False: it waits, or failed. */
static bool copy_step(struct verify_run *run, struct verify_lane *lane)
{
    const struct verify_message *blocking;
    if (!verify_may_write(run, lane, lane->count, &blocking))
        return false;
    stage_lengths(run, lane);
    if (run->rank[lane->rank].plan->kind != CHOIR_BARRIER && !stage_local(run, lane, 0))
        return false;
    return combine(run, lane) && write_outs(run, lane, true);
}

/* (1): every in's fragment is there and every computed out has its slot. */
static bool ready(struct verify_run *run, struct verify_lane *lane)
{
    uint32_t places = lane->step->ins + lane->step->outs;
    for (; lane->ready < places; lane->ready++) {
        const struct choir_place *p = lane->place + lane->ready;
        if (p->peer < 0)
            continue;
        if (lane->ready < lane->step->ins) {
            if (!verify_arrived(run, lane, p))
                return false;
            continue;
        }
        uint32_t dst = plan_peer(run->rank[lane->rank].plan, p, lane->cursor.iter);
        struct verify_channel *c = verify_channel(run, lane->rank, dst, lane->index);
        if (!c || !verify_room(c))
            return false;
    }
    return true;
}

/* (2): releases the fragment; with the last one the symbols are known. */
static bool take(struct verify_run *run, struct verify_lane *lane)
{
    const struct choir_plan *plan = run->rank[lane->rank].plan;
    uint32_t ins = lane->step->ins;
    bool last = lane->fragment + 1 == lane->fragments, values = last && plan->kind != CHOIR_BARRIER;
    if (last)
        stage_lengths(run, lane);
    for (uint32_t k = 0; k < ins; k++) {
        const struct choir_place *p = lane->place + k;
        if (p->peer < 0) {
            if (values && !stage_local(run, lane, k))
                return false;
            continue;
        }
        struct verify_message *m = verify_arrived(run, lane, p);
        if (!m)
            return false;
        for (uint32_t j = 0; values && j < lane->parts; j++)
            run->in[(uint64_t)j * ins + k] = m->symbols[j];
        for (uint32_t j = 0; m->known && j < run->known_words; j++)
            lane->known[j] |= m->known[j];
        verify_take(run, lane, m);
    }
    lane->staged = true;
    return !last || combine(run, lane);
}

static bool message_step(struct verify_run *run, struct verify_lane *lane)
{
    const struct verify_message *blocking;
    uint64_t slot = run->rank[lane->rank].plan->slot;
    if (!lane->staged && (!ready(run, lane) || !take(run, lane)))
        return false;
    if (!verify_may_write(run, lane, base_min(lane->count, (lane->fragment + 1) * slot), &blocking))
        return false;
    lane->ready = 0;
    if (++lane->fragment == lane->fragments)
        return write_outs(run, lane, false);
    lane->staged = false;
    return true;
}

/* --- instances and operations -------------------------------------------------------------------- */

static void start_instance(struct verify_run *run, struct verify_lane *lane, uint32_t instance)
{
    const struct verify_rank *rank = &run->rank[lane->rank];
    const struct verify_overlap *o = &rank->overlap;
    lane->instance = instance;
    lane->live = true;
    lane->cursor = (struct plan_cursor){0};
    memset(lane->cell, 0, rank->cells * sizeof(*lane->cell));
    for (uint32_t i = 0; i < o->parts; i++)
        lane->cell[o->out_first + i] =
            value_input(&run->op[rank->op].values, lane->rank, o->in_first + i);
    if (run->known_words) {
        memset(lane->known, 0, run->known_words * sizeof(*lane->known));
        lane->known[lane->rank / 64] |= 1ull << lane->rank % 64;
    }
    verify_wake(run, lane->rank, lane->index);
}

static bool overlaps(const struct verify_run *run, uint32_t rank)
{
    uint64_t coin = base_mix(run->how.seed + 0x9e3779b97f4a7c15u * (rank + 1));
    return run->how.alias == VERIFY_IN_PLACE || (run->how.alias == VERIFY_SOME && (coin & 1));
}

static void start_op(struct verify_run *run, uint32_t r, uint32_t op)
{
    struct verify_rank *rank = &run->rank[r];
    const struct verify_op *o = &run->op[op];
    rank->op = op;
    rank->plan = o->plan[r];
    rank->shape = &o->shape[r];
    const struct choir_cut *in = &rank->plan->cut[CHOIR_IN], *out = &rank->plan->cut[CHOIR_OUT];
    rank->cells = out->parts + rank->plan->tmp;
    rank->overlap = (struct verify_overlap){0};
    int64_t shift;
    if (overlaps(run, r) && plan_shape_in_place(rank->shape, &shift)) {
        rank->overlap.parts = base_min(in->parts, out->parts);
        if (shape_holds(rank->shape, CHOIR_IN) != shape_holds(rank->shape, CHOIR_OUT))
            *(in->parts < out->parts ? &rank->overlap.out_first : &rank->overlap.in_first) =
                r * rank->overlap.parts;
    }
    if (rank->known)
        memset(rank->known, 0, run->known_words * sizeof(*rank->known));
    rank->live = o->lanes;
    for (uint32_t w = 0; w < rank->live; w++)
        start_instance(run, &run->lane[r * run->window + w], w);
}

static bool end_op(struct verify_run *run, struct verify_lane *lane)
{
    struct verify_rank *rank = &run->rank[lane->rank];
    for (uint32_t r = 0; rank->plan->kind == CHOIR_BARRIER && r < run->n; r++)
        if (!(rank->known[r / 64] >> r % 64 & 1))
            return verify_fail(run, lane, "leaves the barrier without having heard of rank %u", r);
    if (rank->op + 1 < run->ops)
        start_op(run, lane->rank, rank->op + 1);
    return true;
}

static bool end_instance(struct verify_run *run, struct verify_lane *lane)
{
    struct verify_rank *rank = &run->rank[lane->rank];
    lane->live = false;
    if (!verify_result(run, lane))
        return false;
    for (uint32_t i = 0; rank->known && i < run->known_words; i++)
        rank->known[i] |= lane->known[i];
    if (lane->instance + rank->plan->window < run->op[rank->op].limit) {
        start_instance(run, lane, lane->instance + rank->plan->window);
        return true;
    }
    return --rank->live || end_op(run, lane);
}

/* As far as the lane can go. */
static void advance(struct verify_run *run, struct verify_lane *lane)
{
    while (lane->live && !run->failed) {
        if (lane->in_step || enter_step(run, lane)) {
            bool pending = plan_step_pending(run->rank[lane->rank].plan, lane->step);
            if (!(pending ? copy_step(run, lane) : message_step(run, lane)))
                return;
        } else if (run->failed || lane->oldest || !end_instance(run, lane)) {
            return;
        }
    }
}

/* --- a run --------------------------------------------------------------------------------------- */

static bool set_up(struct verify_run *run)
{
    uint32_t most = 0;
    for (uint32_t k = 0; k < run->ops; k++) {
        run->window = base_max(run->window, run->op[k].lanes);
        if (run->op[k].plan[0]->kind == CHOIR_BARRIER)
            run->known_words = (run->n + 63) / 64;
    }
    run->rank = calloc(run->n, sizeof(*run->rank));
    run->lane = calloc((size_t)run->n * run->window, sizeof(*run->lane));
    run->queue = calloc((size_t)run->n * run->window, sizeof(*run->queue));
    bool there = run->rank && run->lane && run->queue;
    for (uint32_t r = 0; there && r < run->n; r++) {
        uint32_t cells = 0;
        for (uint32_t k = 0; k < run->ops; k++)
            cells =
                base_max(cells, run->op[k].plan[r]->cut[CHOIR_OUT].parts + run->op[k].plan[r]->tmp);
        most = base_max(most, cells);
        for (uint32_t w = 0; there && w < run->window; w++) {
            struct verify_lane *lane = &run->lane[r * run->window + w];
            lane->rank = r;
            lane->index = w;
            lane->cell = calloc((size_t)cells + 1, sizeof(*lane->cell));
            lane->length = calloc((size_t)cells + 1, sizeof(*lane->length));
            lane->readers = calloc((size_t)cells + 1, sizeof(*lane->readers));
            lane->known = run->known_words ? calloc(run->known_words, sizeof(uint64_t)) : NULL;
            there =
                lane->cell && lane->length && lane->readers && (lane->known || !run->known_words);
        }
        run->rank[r].known = run->known_words ? calloc(run->known_words, sizeof(uint64_t)) : NULL;
        there &= run->rank[r].known || !run->known_words;
    }
    run->mark = calloc((size_t)most + 1, sizeof(*run->mark));
    run->mark_index = calloc((size_t)most + 1, sizeof(*run->mark_index));
    for (uint32_t k = 0; there && k < run->ops; k++)
        there = verify_result_init(run, &run->op[k]);
    return (there && run->mark && run->mark_index) ||
           verify_fail(run, NULL, "no memory for %u ranks", run->n);
}

static void tear_down(struct verify_run *run)
{
    for (uint32_t i = 0; run->lane && i < run->n * run->window; i++)
        verify_forget_conflicts(&run->lane[i]);
    if (run->lane)
        verify_messages_free(run);
    for (uint32_t i = 0; run->lane && i < run->n * run->window; i++) {
        struct verify_lane *lane = &run->lane[i];
        free(lane->cell);
        free(lane->length);
        free(lane->readers);
        free(lane->conflict);
        free(lane->known);
        free(lane->stage);
        free(lane->stage_length);
    }
    for (uint32_t r = 0; run->rank && r < run->n; r++)
        free(run->rank[r].known);
    for (uint32_t k = 0; k < run->ops; k++) {
        values_free(&run->op[k].values);
        free(run->op[k].result);
        run->op[k].result = NULL;
    }
    free(run->rank);
    free(run->lane);
    free(run->queue);
    free(run->in);
    free(run->mark);
    free(run->mark_index);
}

bool verify_play(struct verify_op *op, uint32_t ops, uint32_t n, const struct verify_schedule *how,
                 struct plan_verdict *verdict)
{
    struct verify_run run = {
        .op = op, .ops = ops, .n = n, .how = *how, .random = how->seed, .verdict = verdict};
    if (set_up(&run)) {
        struct verify_lane *lane;
        for (uint32_t r = 0; r < n; r++)
            start_op(&run, r, 0);
        while (!run.failed && (lane = next_lane(&run)))
            advance(&run, lane);
        if (!run.failed)
            verify_explain(&run);
        if (!run.failed)
            verify_leftover(&run);
    }
    tear_down(&run);
    return !run.failed;
}
