/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cell.c: one cell of the sweep, in both places: set up, timed, checked, reported.
 */
#include "perf/lib/cell.h"
#include "comm/gpu.h"

#define STAMP_NS 5000 /* a clock reading is under 1 % of an operation this long */

/* What the table chooses for this call; nothing where no algorithm runs, or a group of sends and receives. */
static void note_algorithm(const struct cell_run *c)
{
    static const enum choir_kind kinds[] = {[PERF_ALL_REDUCE] = CHOIR_ALL_REDUCE,
                                            [PERF_ALL_GATHER] = CHOIR_ALL_GATHER,
                                            [PERF_REDUCE_SCATTER] = CHOIR_REDUCE_SCATTER,
                                            [PERF_ALL_TO_ALL] = CHOIR_ALL_TO_ALL,
                                            [PERF_ALL_TO_ALL_V] = CHOIR_ALL_TO_ALL_V,
                                            [PERF_BROADCAST] = CHOIR_BROADCAST,
                                            [PERF_REDUCE] = CHOIR_REDUCE,
                                            [PERF_GATHER] = CHOIR_GATHER,
                                            [PERF_SCATTER] = CHOIR_SCATTER,
                                            [PERF_SEND_RECV] = CHOIR_EXCHANGE,
                                            [PERF_HYPERCUBE] = CHOIR_EXCHANGE};
    const struct perf_call *call = &c->thread->rank[0].call;
    struct comm_call what = {.kind = kinds[c->thread->job->coll->kind],
                             .type = call->type,
                             .op = call->op,
                             .root = call->root,
                             .count = call->count};
    const char *name = "";
    if (call->count && what.kind != CHOIR_EXCHANGE)
        name = c->thread->job->args->cuda ? device_algorithm(call->comm, &what)
                                          : call_algorithm(call->comm, &what);
    snprintf(c->cell->algorithm, sizeof(c->cell->algorithm), "%s", name);
}

/* Seconds of an operation. */
static double warm_up(const struct cell_run *c)
{
    const struct perf_args *a = c->thread->job->args;
    int first = base_min(a->warmup, a->iters);
    double each = first ? cell_warm(c, first) / (a->graphs ? a->iters : first) : 0;
    for (int left = a->warmup - a->iters; left > 0; left -= a->iters)
        cell_warm(c, base_min(left, a->iters));
    perf_reduce(c->thread, &each, 1, CHOIR_MAX);
    return each;
}

static void measure(const struct cell_run *c, struct perf_stats *s)
{
    const struct perf_job *job = c->thread->job;
    const struct perf_args *a = job->args;
    cell_start(c, 0); /* connects, builds the plan */
    cell_wait(c);
    note_algorithm(c);
    if (a->graphs)
        cell_capture(c);
    double each = warm_up(c);
    bool stamp = each * 1e9 >= STAMP_NS && !a->cuda && (a->stream_null || a->blocking == 3);
    if (cell_has_peer(c))
        cell_alternate(c, stamp, s);
    else
        s->time_s = cell_time(c, stamp);
    if (!stamp)
        cell_stamp(c);
    cell_percentiles(c, s);
    cell_discard(c);
    double moved = (double)(c->counts.moved * c->type_bytes);
    s->alg_bytes_s = moved / s->time_s;
    s->bus_bytes_s = s->alg_bytes_s * job->coll->bus_factor(job->ranks);
    s->measured = true;
}

/* --- one cell ------------------------------------------------------------------------------------------- */
static void set_op(const struct cell_run *c)
{
    struct perf_thread *t = c->thread;
    for (int i = 0; i < t->job->args->per_thread; i++) {
        struct perf_call *call = &t->rank[i].call;
        call->type = c->cell->type;
        call->op_id = call->op = c->cell->op;
        call->root = c->cell->root;
        call->count = c->counts.param;
        if (c->cell->op == PERF_SCALED) {
            perf_scale(call->type, call->rank,
                       &t->rank[i].scale); /* read when the operation runs */
            perf_check(t, call->comm,
                       choir_op_create_scaled(call->comm, &t->rank[i].scale, call->type, &call->op),
                       "choir_op_create_scaled");
        }
    }
}

void perf_cell_run(struct perf_thread *t, struct perf_cell *cell, struct perf_report *report)
{
    struct perf_job *job = t->job;
    struct cell_run c = {.thread = t, .cell = cell, .mode = CELL_OURS};
    c.type_bytes = (uint32_t)choir_type_bytes(cell->type);
    job->coll->counts(cell->bytes / c.type_bytes, c.type_bytes, job->ranks, &c.counts);
    set_op(&c);
    if (job->args->peak)
        cell->ceiling_s = perf_peak_cell(t, (double)(c.counts.moved * c.type_bytes) *
                                                job->coll->bus_factor(job->ranks));
    for (int place = 0; place < 2; place++) {
        struct perf_stats *s = &cell->place[place];
        *s = (struct perf_stats){.wrong = -1};
        if (place && !job->coll->in_place)
            continue;
        c.in_place = place;
        measure(&c, s);
        cell_check(&c, s);
    }
    if (cell->op == PERF_SCALED)
        for (int i = 0; i < job->args->per_thread; i++)
            choir_op_destroy(t->rank[i].call.comm, t->rank[i].call.op);
    cell->bytes = base_max(c.counts.send, c.counts.recv) * c.type_bytes;
    cell->count = c.counts.param;
    if (t->prints) {
        perf_report_cell(report, cell);
        if (job->coll->summary)
            job->coll->summary(&t->rank[0].call, cell->place[0].time_s);
    }
}
