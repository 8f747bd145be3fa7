/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.c: one operation on known data: every element of the outputs, the bytes behind them, and out of place that the inputs did
 * not change. Data is made and looked at on the host; of GPU memory in mirrors of its buffers.
 */
#include "perf/lib/cell.h"
#include "perf/lib/gpu.h"

#define GUARD 64 /* elements behind the output that must not change */

/* The same call on the mirrors. */
static struct perf_call on_host(const struct cell_run *c, int i)
{
    const struct perf_rank *r = &c->thread->rank[i];
    void *const *buffers = cell_buffers(c, i);
    struct perf_call call = cell_call(c, i, 0);
    if (!r->gpu)
        return call;
    int from = c->in_place ? 1 : 0;
    call.send = r->mirror[from] + ((char *)call.send - (char *)buffers[from]);
    call.recv = r->mirror[1] + ((char *)call.recv - (char *)buffers[1]);
    return call;
}

/* What an operation has to do with of buffer k, from its start on. */
static size_t used_bytes(const struct cell_run *c, int k)
{
    uint64_t count = c->counts.send;
    if (k)
        count = GUARD + (c->in_place ? base_max(c->counts.send, c->counts.recv) : c->counts.recv);
    return (count + (uint64_t)c->thread->job->args->unalign) * c->type_bytes;
}

static void carry(const struct cell_run *c, int i, bool to_gpu)
{
    const struct perf_gpu_calls *gpus = c->thread->job->gpu;
    struct perf_rank *r = &c->thread->rank[i];
    void *const *buffers = cell_buffers(c, i);
    for (int k = c->in_place ? 1 : 0; k < 2 && r->gpu; k++)
        if (to_gpu)
            gpus->put(r->gpu, buffers[k], r->mirror[k], used_bytes(c, k));
        else
            gpus->get(r->gpu, r->mirror[k], buffers[k], used_bytes(c, k));
}

/* Where the output begins that the call, in place, may be in the middle of. */
static char *output(const struct cell_run *c, int i)
{
    const struct perf_rank *r = &c->thread->rank[i];
    char *recv = r->gpu ? r->mirror[1] : r->memory[1];
    return recv + (size_t)c->thread->job->args->unalign * c->type_bytes;
}

static uint64_t input_hash(const struct cell_run *c, const struct perf_call *call)
{
    return base_hash(call->send, c->counts.send * c->type_bytes, 0);
}

uint64_t cell_check_once(const struct cell_run *c, uint64_t seed)
{
    struct perf_thread *t = c->thread;
    const struct perf_coll *coll = t->job->coll;
    int n = t->job->args->per_thread;
    uint64_t before[n];
    double wrong = 0;
    for (int i = 0; i < n; i++) {
        struct perf_call call = on_host(c, i);
        size_t start = (size_t)t->job->args->unalign * c->type_bytes;
        perf_poison(output(c, i), used_bytes(c, 1) - start);
        coll->fill(&call, seed);
        before[i] = input_hash(c, &call);
        carry(c, i, true);
    }
    perf_barrier(t);
    cell_once(c);
    for (int i = 0; i < n; i++) {
        struct perf_call call = on_host(c, i);
        perf_check(t, call.comm, choir_comm_status(call.comm), coll->name);
        carry(c, i, false);
        wrong += (double)coll->wrong(&call, seed);
        size_t end = used_bytes(c, 1) - (size_t)GUARD * c->type_bytes;
        size_t start = (size_t)t->job->args->unalign * c->type_bytes;
        wrong += (double)perf_wrong_poison(output(c, i) + (end - start), GUARD, c->type_bytes);
        if (!c->in_place)
            wrong += input_hash(c, &call) != before[i];
    }
    perf_reduce(t, &wrong, 1, CHOIR_SUM);
    return (uint64_t)wrong;
}

void cell_check(const struct cell_run *c, struct perf_stats *s)
{
    struct perf_thread *t = c->thread;
    const struct perf_args *a = t->job->args;
    s->wrong = a->check ? 0 : -1;
    for (int i = 0; i < a->check && s->wrong == 0; i++)
        s->wrong = (int64_t)cell_check_once(c, c->counts.param * 31 + (uint64_t)i + 1);
    if (!t->index && s->wrong > 0)
        t->job->wrong += (uint64_t)s->wrong;
}
