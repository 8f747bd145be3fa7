/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peak.c: --peak: how fast plain copies are, which no collective can pass. On host memory, how fast every rank copies at once. On
 * GPUs, for each cell, how long its bytes take from every rank's GPU to that of the next one, all at once, by the copy engines:
 * both directions of every link are busy.
 */
#include "perf/lib/gpu.h"
#include <stdlib.h>
#include <string.h>

#define HOST_BYTES ((size_t)32 << 20)
#define TIMES 5
#define CELL_BYTES 2e9 /* to be copied at least, in so many copies, but */
#define COPIES 20.0    /* not more than these */

/* The next rank's buffer, as a rank sees it; of all ranks of a thread. */
struct peak {
    struct perf_gpu_share share;
    void *next;
};

/* --- host ------------------------------------------------------------------------------------------- */
static void open_host(struct perf_thread *t)
{
    char *from = malloc(HOST_BYTES), *to = malloc(HOST_BYTES);
    choir_assert(from && to);
    memset(from, 1, HOST_BYTES);
    memset(to, 2, HOST_BYTES);
    double best = 0;
    for (int i = 0; i < TIMES; i++) {
        perf_barrier(t);
        uint64_t start = base_now_ns();
        memcpy(to, from, HOST_BYTES);
        __asm__ volatile("" ::"r"(to) : "memory");
        best = base_max(best, (double)HOST_BYTES * 1e9 / (double)(base_now_ns() - start));
    }
    free(from);
    free(to);
    perf_reduce(t, &best, 1, CHOIR_AVG);
    if (!t->index)
        t->job->peak_bytes_s = best;
    perf_barrier(t);
}

/* --- GPUs --------------------------------------------------------------------------------------------- */
static void open_gpus(struct perf_thread *t)
{
    const struct perf_job *job = t->job;
    int n = job->args->per_thread;
    struct perf_gpu_share *mine = calloc((size_t)n, sizeof(*mine));
    struct perf_gpu_share *all = calloc(job->ranks, sizeof(*all));
    t->peak = calloc((size_t)n, sizeof(*t->peak));
    choir_assert(mine && all && t->peak);
    for (int i = 0; i < n; i++)
        job->gpu->export(t->rank[i].gpu, t->rank[i].memory[1], job->proc, &mine[i]);
    perf_exchange(t, mine, all, sizeof(*all));
    for (int i = 0; i < n; i++) {
        struct peak *p = &t->peak[i];
        p->share = all[(t->rank[i].call.rank + 1) % job->ranks];
        p->next = job->gpu->import(t->rank[i].gpu, &p->share, job->proc);
    }
    free(mine);
    free(all);
}

/* One copy of every rank; what is longer than a buffer is copied in turns. */
static void copy_once(struct perf_thread *t, double bytes)
{
    const struct perf_job *job = t->job;
    double most = (double)job->args->max_bytes;
    for (double left = bytes; left >= 1; left -= most)
        for (int i = 0; i < job->args->per_thread; i++)
            job->gpu->copy(t->rank[i].gpu, t->peak[i].next, t->rank[i].memory[0],
                           (size_t)base_min(left, most));
}

static double time_copies(struct perf_thread *t, double bytes, int copies)
{
    const struct perf_job *job = t->job;
    perf_barrier(t);
    uint64_t start = base_now_ns();
    for (int k = 0; k < copies; k++)
        copy_once(t, bytes);
    for (int i = 0; i < job->args->per_thread; i++)
        job->gpu->wait(t->rank[i].gpu);
    double s = (double)(base_now_ns() - start) * 1e-9 / copies;
    perf_reduce(t, &s, 1, CHOIR_AVG);
    return s;
}

void perf_peak_open(struct perf_thread *t)
{
    if (!t->job->args->cuda)
        open_host(t);
    else if (t->job->ranks > 1)
        open_gpus(t);
}

double perf_peak_cell(struct perf_thread *t, double bytes)
{
    if (!t->peak || bytes < 1)
        return t->job->peak_bytes_s > 0 ? bytes / t->job->peak_bytes_s : 0;
    if (t->peak_bytes == bytes) /* another root, operation ... */
        return t->peak_s;
    int copies = (int)base_max(base_min(COPIES, CELL_BYTES / bytes), 3.0);
    double best = time_copies(t, bytes, copies); /* the first one is for warming up, too */
    for (int i = 1; i < TIMES; i++)
        best = base_min(best, time_copies(t, bytes, copies));
    t->peak_bytes = bytes;
    t->peak_s = best;
    return best;
}

void perf_peak_close(struct perf_thread *t)
{
    const struct perf_job *job = t->job;
    for (int i = 0; i < job->args->per_thread && t->peak; i++)
        job->gpu->unimport(t->rank[i].gpu, &t->peak[i].share, job->proc, t->peak[i].next);
    perf_barrier(t); /* nobody frees what others have mapped */
    free(t->peak);
}
