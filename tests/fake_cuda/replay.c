/* SPDX-License-Identifier: Apache-2.0 */
/* replay.c: graphs made ready, and run: see graph.c. */
#include "tests/fake_cuda/fake.h"
#include <stdlib.h>
#include <string.h>

struct fake_replay {
    CUgraphExec exec;
    pthread_mutex_t lock;
    pthread_cond_t went_on;
    uint64_t done[FAKE_LANES];
};
struct lane {
    struct fake_replay *replay;
    uint32_t lane;
    pthread_t thread;
};

static void join(struct fake_replay *r, uint32_t lane, uint64_t done)
{
    pthread_mutex_lock(&r->lock);
    while (r->done[lane] < done)
        pthread_cond_wait(&r->went_on, &r->lock);
    pthread_mutex_unlock(&r->lock);
}

static void *run_lane(void *arg)
{
    const struct lane *l = arg;
    struct fake_replay *r = l->replay;
    for (const struct fake_work *w = r->exec->head[l->lane]; w; w = w->next) {
        if (w->run)
            w->run(w);
        else
            join(r, w->u.join.lane, w->u.join.done);
        pthread_mutex_lock(&r->lock);
        r->done[l->lane]++;
        pthread_cond_broadcast(&r->went_on);
        pthread_mutex_unlock(&r->lock);
    }
    return NULL;
}

static void replay(const struct fake_work *w)
{
    struct fake_replay r = {.exec = w->u.exec};
    struct lane lane[FAKE_LANES];
    pthread_mutex_init(&r.lock, NULL);
    pthread_cond_init(&r.went_on, NULL);
    for (uint32_t i = 0; i < r.exec->lanes; i++)
        lane[i] = (struct lane){.replay = &r, .lane = i};
    for (uint32_t i = 1; i < r.exec->lanes; i++)
        if (pthread_create(&lane[i].thread, NULL, run_lane, &lane[i]))
            abort();
    run_lane(&lane[0]);
    for (uint32_t i = 1; i < r.exec->lanes; i++)
        pthread_join(lane[i].thread, NULL);
    pthread_cond_destroy(&r.went_on);
    pthread_mutex_destroy(&r.lock);
}

FAKE_API CUresult cuGraphInstantiate(CUgraphExec *out, CUgraph graph, unsigned long long flags)
{
    FAKE_READY();
    if (flags)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!graph || graph->gone)
        return CUDA_ERROR_INVALID_VALUE;
    CUgraphExec exec = fake_keep(sizeof(*exec));
    if (!exec)
        return CUDA_ERROR_OUT_OF_MEMORY;
    /* A graph is not changed once it is captured, nor freed: its nodes serve all that is made of it. */
    exec->lanes = graph->lanes;
    memcpy(exec->head, graph->head, sizeof(exec->head));
    *out = exec;
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuGraphLaunch(CUgraphExec exec, CUstream handle)
{
    FAKE_READY();
    CUstream s;
    if (!exec || exec->gone)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fake_lock);
    CUresult r = fake_stream_of(handle, &s);
    if (r == CUDA_SUCCESS && s->capture)
        r = CUDA_ERROR_NOT_SUPPORTED; /* a graph in a graph */
    /* Replays of one graph follow each other; on a second stream they would have to wait for the first. */
    if (r == CUDA_SUCCESS && exec->stream && exec->stream != s && exec->stream->done < exec->at)
        r = CUDA_ERROR_NOT_SUPPORTED;
    struct fake_work w = {.run = replay, .u.exec = exec};
    if (r == CUDA_SUCCESS)
        r = fake_queue(s, &w, NULL, 0);
    if (r == CUDA_SUCCESS)
        exec->stream = s, exec->at = s->pushed;
    pthread_mutex_unlock(&fake_lock);
    return r;
}

FAKE_API CUresult cuGraphExecDestroy(CUgraphExec exec)
{
    FAKE_READY();
    if (!exec || exec->gone)
        return CUDA_ERROR_INVALID_VALUE;
    exec->gone = true;
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuGraphDestroy(CUgraph graph)
{
    FAKE_READY();
    if (!graph || graph->gone)
        return CUDA_ERROR_INVALID_VALUE;
    graph->gone = true;
    return CUDA_SUCCESS;
}
