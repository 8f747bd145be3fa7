/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.c: how operations are started and timed, ours and a peer's alike.
 *
 * The time of a cell is the elapsed time of all iterations over their number, as in nccl-tests. Percentiles need a time of
 * each iteration. On the host that is a reading of the clock: taken in the same loop where an operation lasts long enough for
 * that not to show, else in a loop of their own. In a CUDA stream it is an event behind each iteration, or behind each launch of
 * their graph, in a loop of their own.
 */
#include "perf/lib/cell.h"
#include "perf/lib/gpu.h"
#include <stdlib.h>

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

void *const *cell_buffers(const struct cell_run *c, int i)
{
    const struct perf_rank *r = &c->thread->rank[i];
    return c->mode != CELL_OURS && r->peer_memory[0] ? r->peer_memory : r->memory;
}

struct perf_call cell_call(const struct cell_run *c, int i, uint64_t iteration)
{
    void *const *buffers = cell_buffers(c, i);
    struct perf_call call = c->thread->rank[i].call;
    uint64_t offset =
        shift_bytes(c, iteration) + (uint64_t)c->thread->job->args->unalign * c->type_bytes;
    char *recv = (char *)buffers[1] + offset;
    call.in_place = c->in_place;
    call.send = (char *)buffers[0] + offset;
    call.recv = recv;
    if (c->in_place) {
        call.send = recv + c->counts.send_offset * c->type_bytes * call.rank;
        call.recv = recv + c->counts.recv_offset * c->type_bytes * call.rank;
    }
    return call;
}

/* Around the calls of a thread's ranks, or of several operations. */
static void group(const struct cell_run *c, bool begin)
{
    struct perf_thread *t = c->thread;
    if (c->mode != CELL_OURS) {
        if (t->job->peer->group)
            t->job->peer->group(begin);
    } else if (begin) {
        perf_check(t, NULL, choir_group_start(), "choir_group_start");
    } else {
        perf_check(t, t->rank[0].call.comm, choir_group_end(), "choir_group_end");
    }
}

void cell_start(const struct cell_run *c, uint64_t iteration)
{
    struct perf_thread *t = c->thread;
    const struct perf_job *job = t->job;
    int n = job->args->per_thread;
    if (n > 1)
        group(c, true);
    for (int i = 0; i < n; i++) {
        struct perf_call call = cell_call(c, i, iteration);
        if (n > 1 && job->gpu)
            job->gpu->use(t->rank[i].gpu);
        if (c->mode == CELL_OURS)
            perf_check(t, call.comm, job->coll->run(&call), job->coll->name);
        else
            job->peer->run(job->coll, &call, t->rank[i].peer, c->mode);
    }
    if (n > 1)
        group(c, false);
}

void cell_wait(const struct cell_run *c)
{
    struct perf_thread *t = c->thread;
    for (int i = 0; i < t->job->args->per_thread; i++) {
        struct perf_call *call = &t->rank[i].call;
        if (call->stream)
            perf_check(t, call->comm, choir_stream_wait(call->stream), "choir_stream_wait");
    }
}

/* --- graphs --------------------------------------------------------------------------------------- */
static void iteration(const struct cell_run *c, int i)
{
    const struct perf_args *a = c->thread->job->args;
    if (a->aggregate > 1)
        group(c, true);
    for (int k = 0; k < a->aggregate; k++)
        cell_start(c, (uint64_t)i * (uint64_t)a->aggregate + (uint64_t)k);
    if (a->aggregate > 1)
        group(c, false);
}

static void begin(const struct cell_run *c)
{
    struct perf_thread *t = c->thread;
    for (int i = 0; i < t->job->args->per_thread; i++)
        t->job->gpu->begin(t->rank[i].gpu);
}

static void end(const struct cell_run *c)
{
    struct perf_thread *t = c->thread;
    for (int i = 0; i < t->job->args->per_thread; i++)
        t->rank[i].graph[c->mode + 1] = t->job->gpu->end(t->rank[i].gpu);
}

void cell_capture(const struct cell_run *c)
{
    begin(c);
    for (int i = 0; i < c->thread->job->args->iters; i++)
        iteration(c, i);
    end(c);
}

void cell_discard(const struct cell_run *c)
{
    struct perf_thread *t = c->thread;
    for (int i = 0; i < t->job->args->per_thread; i++)
        if (t->rank[i].graph[c->mode + 1]) {
            t->job->gpu->discard(t->rank[i].gpu, t->rank[i].graph[c->mode + 1]);
            t->rank[i].graph[c->mode + 1] = NULL;
        }
}

static void launch(const struct cell_run *c)
{
    struct perf_thread *t = c->thread;
    for (int i = 0; i < t->job->args->per_thread; i++)
        t->job->gpu->launch(t->rank[i].gpu, t->rank[i].graph[c->mode + 1]);
}

void cell_once(const struct cell_run *c)
{
    bool graph = c->thread->job->args->graphs;
    if (graph)
        begin(c);
    cell_start(c, 0);
    if (graph) {
        end(c);
        launch(c);
    }
    cell_wait(c);
    if (graph)
        cell_discard(c);
}

/* --- timing --------------------------------------------------------------------------------------- */
static void stamp_host(const struct cell_run *c, size_t i, uint64_t *last)
{
    uint64_t now = base_now_ns();
    c->thread->samples[c->in_place][i] =
        (double)(now - *last) * 1e-9 / c->thread->job->args->aggregate;
    *last = now;
}

static struct timing iterate(const struct cell_run *c, int iters, bool stamp)
{
    struct perf_thread *t = c->thread;
    const struct perf_args *a = t->job->args;
    uint64_t start = base_now_ns(), last = start, aside = 0, before;
    for (int i = 0; i < iters; i++) {
        iteration(c, i);
        if (a->blocking == 3 || stamp || (a->aggregate == 1 && a->blocking))
            cell_wait(c);
        if (a->aggregate == 1 && a->blocking == 1)
            perf_barrier(t);
        if (stamp)
            stamp_host(c, (size_t)i, &last);
        if (a->blocking == 3) {
            before = base_now_ns();
            perf_barrier(t);
            last = base_now_ns();
            aside += last - before;
        }
    }
    struct timing timing = {.cpu_s = (double)(base_now_ns() - start - aside) * 1e-9};
    cell_wait(c);
    timing.total_s = (double)(base_now_ns() - start - aside) * 1e-9;
    return timing;
}

static struct timing launches(const struct cell_run *c, int n)
{
    uint64_t start = base_now_ns();
    for (int i = 0; i < n; i++)
        launch(c);
    struct timing timing = {.cpu_s = (double)(base_now_ns() - start) * 1e-9};
    cell_wait(c);
    timing.total_s = (double)(base_now_ns() - start) * 1e-9;
    return timing;
}

double cell_warm(const struct cell_run *c, int iters)
{
    return c->thread->job->args->graphs ? launches(c, 1).total_s : iterate(c, iters, false).total_s;
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

double cell_time(const struct cell_run *c, bool stamp)
{
    struct perf_thread *t = c->thread;
    const struct perf_args *a = t->job->args;
    if (c->mode != CELL_OURS && t->job->peer->barrier)
        t->job->peer->barrier();
    else
        perf_barrier(t);
    struct timing timing = a->graphs ? launches(c, a->graphs) : iterate(c, a->iters, stamp);
    return average(t, (a->cpu_time ? timing.cpu_s : timing.total_s) / perf_timed(a));
}

/* Events behind each iteration of the first rank's stream. */
static void stamp_gpu(const struct cell_run *c)
{
    struct perf_thread *t = c->thread;
    const struct perf_job *job = t->job;
    const struct perf_args *a = job->args;
    struct perf_gpu *gpu = t->rank[0].gpu;
    size_t n = perf_samples(a);
    job->gpu->mark(gpu, 0);
    for (size_t i = 0; i < n; i++) {
        if (a->graphs)
            launch(c);
        else
            iteration(c, (int)i);
        job->gpu->mark(gpu, i + 1);
    }
    cell_wait(c);
    double operations = perf_timed(a) / (double)n; /* between two marks */
    for (size_t i = 0; i < n; i++)
        t->samples[c->in_place][i] = job->gpu->between(gpu, i) / operations;
}

void cell_stamp(const struct cell_run *c)
{
    perf_barrier(c->thread);
    if (c->thread->job->gpu)
        stamp_gpu(c);
    else
        iterate(c, c->thread->job->args->iters, true);
}

int cell_compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest rank. */
void cell_percentiles(const struct cell_run *c, struct perf_stats *s)
{
    const struct perf_args *a = c->thread->job->args;
    double *samples = c->thread->samples[c->in_place];
    perf_reduce(c->thread, samples, perf_samples(a), CHOIR_MAX);
    double *v = samples + a->skip, sum = 0;
    size_t n = perf_samples(a) - (size_t)a->skip;
    qsort(v, n, sizeof(*v), cell_compare_double);
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
