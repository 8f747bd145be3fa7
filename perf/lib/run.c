/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.c: how one cell is timed and checked.
 *
 * The time of a cell is the elapsed time of all iterations over their number, as in nccl-tests. Percentiles need a
 * clock reading per iteration: taken in the same loop where an operation lasts long enough for that not to show, else
 * in a loop of their own.
 */
#include "perf/lib/perf.h"
#include "comm/comm.h"
#include <stdlib.h>
#include <string.h>

#define STAMP_NS 5000 /* a clock reading is under 1 % of an operation this long */
#define GUARD 64      /* elements behind the output that must not change */

struct cell_run {
    struct perf_thread *thread;
    struct perf_counts counts;
    struct perf_cell *cell;
    bool in_place;
    uint32_t type_bytes;
    bool scaled;
};
struct timing {
    double total_s, cpu_s; /* without barriers */
};

/* --- starting operations ------------------------------------------------------------------------ */
/* nccl-tests moves to other bytes of the buffers with every iteration, so that caches do not help and a pointer
 * exchange that went stale shows. */
static uint64_t shift_bytes(const struct cell_run *c, uint64_t iteration)
{
    const struct perf_args *a = c->thread->job->args;
    uint64_t total = base_max(c->counts.send, c->counts.recv) * c->type_bytes;
    uint64_t steps = total && !a->same_buffer ? a->max_bytes / total : 1;
    return steps ? total * (iteration % steps) : 0;
}

static struct perf_call call_at(const struct cell_run *c, int i, uint64_t iteration)
{
    const struct perf_rank *r = &c->thread->rank[i];
    struct perf_call call = r->call;
    uint64_t offset =
        shift_bytes(c, iteration) + (uint64_t)c->thread->job->args->unalign * c->type_bytes;
    char *recv = r->recv + offset;
    call.in_place = c->in_place;
    call.send = r->send + offset;
    call.recv = recv;
    if (c->in_place) {
        call.send = recv + c->counts.send_offset * c->type_bytes * call.rank;
        call.recv = recv + c->counts.recv_offset * c->type_bytes * call.rank;
    }
    return call;
}

static void start(const struct cell_run *c, uint64_t iteration)
{
    struct perf_thread *t = c->thread;
    const struct perf_job *job = t->job;
    int n = job->args->per_thread;
    if (n > 1)
        perf_check(t, NULL, choir_group_start(), "choir_group_start");
    for (int i = 0; i < n; i++) {
        struct perf_call call = call_at(c, i, iteration);
        perf_check(t, call.comm, job->coll->run(&call), job->coll->name);
    }
    if (n > 1)
        perf_check(t, t->rank[0].call.comm, choir_group_end(), "choir_group_end");
}

static void wait_streams(struct perf_thread *t)
{
    for (int i = 0; i < t->job->args->per_thread; i++) {
        struct perf_call *call = &t->rank[i].call;
        if (call->stream)
            perf_check(t, call->comm, choir_stream_wait(call->stream), "choir_stream_wait");
    }
}

/* --- timing --------------------------------------------------------------------------------------- */
static struct timing iterate(const struct cell_run *c, int iters, bool stamp)
{
    struct perf_thread *t = c->thread;
    const struct perf_args *a = t->job->args;
    uint64_t begin = base_now_ns(), last = begin, aside = 0, before;
    for (int i = 0; i < iters; i++) {
        if (a->aggregate > 1)
            perf_check(t, NULL, choir_group_start(), "choir_group_start");
        for (int k = 0; k < a->aggregate; k++) {
            start(c, (uint64_t)i * (uint64_t)a->aggregate + (uint64_t)k);
            if (a->aggregate == 1 && (a->blocking == 1 || a->blocking == 2))
                wait_streams(t);
            if (a->aggregate == 1 && a->blocking == 1)
                perf_barrier(t);
        }
        if (a->aggregate > 1)
            perf_check(t, t->rank[0].call.comm, choir_group_end(), "choir_group_end");
        if (a->blocking == 3 || stamp)
            wait_streams(t);
        if (stamp) {
            uint64_t now = base_now_ns();
            t->samples[c->in_place][i] = (double)(now - last) * 1e-9 / a->aggregate;
            last = now;
        }
        if (a->blocking == 3) {
            before = base_now_ns();
            perf_barrier(t);
            last = base_now_ns();
            aside += last - before;
        }
    }
    struct timing timing = {.cpu_s = (double)(base_now_ns() - begin - aside) * 1e-9};
    wait_streams(t);
    timing.total_s = (double)(base_now_ns() - begin - aside) * 1e-9;
    return timing;
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double average(struct perf_thread *t, double seconds)
{
    static const choir_op ops[] = {CHOIR_SUM, CHOIR_AVG, CHOIR_MIN, CHOIR_MAX};
    int how = t->job->args->average;
    if (how == 0 && (t->index || t->job->proc))
        seconds = 0;
    perf_reduce(t, &seconds, 1, ops[how]);
    return seconds;
}

/* Of the slowest rank of each iteration, nearest rank. */
static void percentiles(struct perf_thread *t, double *samples, struct perf_stats *s)
{
    const struct perf_args *a = t->job->args;
    perf_reduce(t, samples, (size_t)a->iters, CHOIR_MAX);
    double *v = samples + a->skip, sum = 0;
    size_t n = (size_t)(a->iters - a->skip);
    qsort(v, n, sizeof(*v), compare_double);
    for (size_t i = 0; i < n; i++)
        sum += v[i];
    s->samples = v;
    s->count = n;
    s->min_s = v[0];
    s->max_s = v[n - 1];
    s->mean_s = sum / (double)n;
    s->p50_s = v[(n + 1) / 2 - 1];
    s->p99_s = v[(n * 99 + 99) / 100 - 1];
}

static double time_peer(const struct cell_run *c)
{
    struct perf_thread *t = c->thread;
    const struct perf_job *job = t->job;
    job->peer->barrier();
    uint64_t begin = base_now_ns();
    for (int i = 0; i < job->args->iters; i++) {
        struct perf_call call = call_at(c, 0, (uint64_t)i);
        job->peer->run(job->coll, &call);
    }
    return average(t, (double)(base_now_ns() - begin) * 1e-9 / job->args->iters);
}

static double time_choir(const struct cell_run *c, bool stamp)
{
    struct perf_thread *t = c->thread;
    const struct perf_args *a = t->job->args;
    perf_barrier(t);
    struct timing timing = iterate(c, a->iters, stamp);
    double s = a->cpu_time ? timing.cpu_s : timing.total_s;
    return average(t, s / ((double)a->iters * a->aggregate));
}

/* Rounds of both, the order alternating; medians. */
static void alternate(const struct cell_run *c, bool stamp, struct perf_stats *s)
{
    int rounds = c->thread->job->args->rounds;
    double ours[rounds], theirs[rounds];
    time_peer(c); /* warm-up */
    for (int r = 0; r < rounds; r++) {
        if (r & 1)
            theirs[r] = time_peer(c);
        ours[r] = time_choir(c, stamp);
        if (!(r & 1))
            theirs[r] = time_peer(c);
    }
    qsort(ours, (size_t)rounds, sizeof(*ours), compare_double);
    qsort(theirs, (size_t)rounds, sizeof(*theirs), compare_double);
    s->time_s = ours[rounds / 2];
    s->peer_s = theirs[rounds / 2];
    s->ratio = s->time_s / s->peer_s;
}

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
        name = call_algorithm(call->comm, &what);
    snprintf(c->cell->algorithm, sizeof(c->cell->algorithm), "%s", name);
}

static void measure(const struct cell_run *c, struct perf_stats *s)
{
    struct perf_thread *t = c->thread;
    const struct perf_job *job = t->job;
    const struct perf_args *a = job->args;
    start(c, 0); /* connects, builds the plan */
    wait_streams(t);
    note_algorithm(c);
    uint64_t begin = base_now_ns();
    if (a->warmup)
        iterate(c, base_min(a->warmup, a->iters), false);
    double each = a->warmup ? (double)(base_now_ns() - begin) / base_min(a->warmup, a->iters) : 0;
    for (int left = a->warmup - a->iters; left > 0; left -= a->iters)
        iterate(c, base_min(left, a->iters), false);
    perf_reduce(t, &each, 1, CHOIR_MAX);
    bool stamp = each >= STAMP_NS && (a->stream_null || a->blocking == 3);
    if (job->peer && job->peer->supports(job->coll, c->cell->type, c->cell->op))
        alternate(c, stamp, s);
    else
        s->time_s = time_choir(c, stamp);
    if (!stamp) {
        perf_barrier(t);
        iterate(c, a->iters, true);
    }
    percentiles(t, t->samples[c->in_place], s);
    double moved = (double)(c->counts.moved * c->type_bytes);
    s->alg_bytes_s = moved / s->time_s;
    s->bus_bytes_s = s->alg_bytes_s * job->coll->bus_factor(job->ranks);
    s->measured = true;
}

/* --- checking ---------------------------------------------------------------------------------------- */
/* Outputs element by element; the bytes behind them; out of place also that inputs did not change. */
static void check_once(const struct cell_run *c, uint64_t seed, struct perf_stats *s)
{
    struct perf_thread *t = c->thread;
    const struct perf_coll *coll = t->job->coll;
    int n = t->job->args->per_thread;
    uint64_t before[n];
    double wrong = 0;
    for (int i = 0; i < n; i++) {
        struct perf_call call = call_at(c, i, 0);
        char *recv = t->rank[i].recv + (uint64_t)t->job->args->unalign * c->type_bytes;
        uint64_t used = c->in_place ? base_max(c->counts.send, c->counts.recv) : c->counts.recv;
        perf_poison(recv, (used + GUARD) * c->type_bytes);
        coll->fill(&call, seed);
        before[i] = base_hash(call.send, c->counts.send * c->type_bytes, 0);
    }
    perf_barrier(t);
    start(c, 0);
    wait_streams(t);
    for (int i = 0; i < n; i++) {
        struct perf_call call = call_at(c, i, 0);
        char *recv = t->rank[i].recv + (uint64_t)t->job->args->unalign * c->type_bytes;
        uint64_t used = c->in_place ? base_max(c->counts.send, c->counts.recv) : c->counts.recv;
        wrong += (double)coll->wrong(&call, seed);
        wrong += (double)perf_wrong_poison(recv + used * c->type_bytes, GUARD, c->type_bytes);
        if (!c->in_place)
            wrong += base_hash(call.send, c->counts.send * c->type_bytes, 0) != before[i];
    }
    perf_reduce(t, &wrong, 1, CHOIR_SUM);
    s->wrong += (int64_t)wrong;
    if (!t->index)
        t->job->wrong += (uint64_t)wrong;
}

static void check(const struct cell_run *c, struct perf_stats *s)
{
    const struct perf_args *a = c->thread->job->args;
    s->wrong = a->check ? 0 : -1;
    for (int i = 0; i < a->check && s->wrong == 0; i++)
        check_once(c, c->counts.param * 31 + (uint64_t)i + 1, s);
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
    struct cell_run c = {.thread = t, .cell = cell};
    c.type_bytes = (uint32_t)choir_type_bytes(cell->type);
    job->coll->counts(cell->bytes / c.type_bytes, c.type_bytes, job->ranks, &c.counts);
    set_op(&c);
    for (int place = 0; place < 2; place++) {
        struct perf_stats *s = &cell->place[place];
        *s = (struct perf_stats){.wrong = -1};
        if (place && !job->coll->in_place)
            continue;
        c.in_place = place;
        measure(&c, s);
        check(&c, s);
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
