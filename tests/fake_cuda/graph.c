/* SPDX-License-Identifier: Apache-2.0 */
/*
 * graph.c: capture and replay. Every stream of a capture is a lane of the graph, its nodes in the order of the stream; to wait
 * for an event is a node that waits for another lane. A replay runs each lane in a thread, the first in that of the
 * stream it is launched on, so a fork may run in any order that its events allow, as on a GPU, and nothing waits for a
 * lane without an event that says so. Dependencies inside a lane are those of its stream: a GPU orders no less.
 */
#include "tests/fake_cuda/fake.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct fake_capture *under_way;
static uint64_t captures;
static _Thread_local CUstreamCaptureMode own_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

/* --- what may not be done meanwhile -------------------------------------------------------------------- */

static uint64_t this_thread(void)
{
    return (uint64_t)gettid();
}

CUresult fake_capture_broken(struct fake_capture *c)
{
    c->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

/* The own captures that are not relaxed forbid it, and in mode GLOBAL those of other threads that are GLOBAL. */
CUresult fake_unsafe(void)
{
    CUresult r = CUDA_SUCCESS;
    if (own_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return r;
    pthread_mutex_lock(&fake_lock);
    for (struct fake_capture *c = under_way; c; c = c->next)
        if (c->owner == this_thread() ? c->mode != CU_STREAM_CAPTURE_MODE_RELAXED
                                      : c->mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                                            own_mode == CU_STREAM_CAPTURE_MODE_GLOBAL)
            r = fake_capture_broken(c);
    pthread_mutex_unlock(&fake_lock);
    return r;
}

/* To synchronise a context asks about its captured streams too, which is an error in every mode. */
CUresult fake_context_captured(CUcontext context)
{
    CUresult r = CUDA_SUCCESS;
    for (struct fake_capture *c = under_way; c; c = c->next)
        for (uint32_t i = 0; i < c->lanes; i++)
            if (c->stream[i]->context == context)
                r = fake_capture_broken(c);
    return r;
}

FAKE_API CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    FAKE_READY();
    CUstreamCaptureMode before = own_mode;
    if (*mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    own_mode = *mode;
    *mode = before;
    return CUDA_SUCCESS;
}

/* --- capture -------------------------------------------------------------------------------------------- */

CUresult fake_capture_add(CUstream s, const struct fake_work *w, const void *parameters,
                          size_t bytes)
{
    struct fake_capture *c = s->capture;
    if (c->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    struct fake_work *own = fake_work_copy(w, parameters, bytes);
    if (!own)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUgraph g = c->graph;
    uint32_t lane = own->lane = s->lane;
    if (g->tail[lane])
        g->tail[lane]->next = own;
    else
        g->head[lane] = own;
    g->tail[lane] = own;
    c->clock[lane][lane] = ++c->nodes[lane];
    return CUDA_SUCCESS;
}

/* A captured stream waits for an event, or another joins the capture by doing so. */
CUresult fake_capture_wait(CUstream s, CUevent e)
{
    struct fake_capture *c = e->capture;
    if (s->capture && s->capture != c) {
        s->capture->invalid = true;
        return c ? CUDA_ERROR_STREAM_CAPTURE_MERGE : CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    struct fake_capture *live = under_way;
    while (live && live != c)
        live = live->next;
    if (!live)
        return CUDA_ERROR_INVALID_VALUE; /* of a capture that has ended */
    if (c->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!s->capture) {
        if (c->lanes == FAKE_LANES || s == s->context->null)
            return CUDA_ERROR_NOT_SUPPORTED;
        s->lane = c->lanes++;
        s->capture = c;
        c->stream[s->lane] = s;
        c->graph->lanes = c->lanes;
    }
    struct fake_work w = {.u.join = {e->lane, e->node}};
    for (uint32_t i = 0; i < FAKE_LANES; i++)
        if (c->clock[s->lane][i] < e->clock[i])
            c->clock[s->lane][i] = e->clock[i];
    return fake_capture_add(s, &w, NULL, 0);
}

FAKE_API CUresult cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode)
{
    FAKE_READY();
    CUstream s;
    pthread_mutex_lock(&fake_lock);
    CUresult r = fake_stream_of(handle, &s);
    if (r == CUDA_SUCCESS && s == s->context->null)
        r = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (r == CUDA_SUCCESS && s->capture)
        r = CUDA_ERROR_ILLEGAL_STATE;
    if (r == CUDA_SUCCESS) {
        struct fake_capture *c = fake_keep(sizeof(*c));
        CUgraph g = fake_keep(sizeof(*g));
        if (!c || !g)
            abort();
        *c = (struct fake_capture){.mode = mode,
                                   .owner = this_thread(),
                                   .id = ++captures,
                                   .lanes = 1,
                                   .stream = {s},
                                   .graph = g,
                                   .next = under_way};
        g->lanes = 1;
        under_way = c;
        s->capture = c;
        s->lane = 0;
    }
    pthread_mutex_unlock(&fake_lock);
    return r;
}

/* What is not joined would be lost. */
static bool joined(const struct fake_capture *c)
{
    for (uint32_t i = 1; i < c->lanes; i++)
        if (c->clock[0][i] < c->nodes[i])
            return false;
    return true;
}

FAKE_API CUresult cuStreamEndCapture(CUstream handle, CUgraph *graph)
{
    FAKE_READY();
    CUstream s;
    pthread_mutex_lock(&fake_lock);
    CUresult r = fake_stream_of(handle, &s);
    struct fake_capture *c = r == CUDA_SUCCESS ? s->capture : NULL;
    if (r == CUDA_SUCCESS && !c)
        r = CUDA_ERROR_ILLEGAL_STATE;
    else if (c && s != c->stream[0])
        r = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    else if (c && c->mode != CU_STREAM_CAPTURE_MODE_RELAXED && c->owner != this_thread())
        r = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    if (r == CUDA_SUCCESS) {
        struct fake_capture **at = &under_way;
        while (*at != c)
            at = &(*at)->next;
        *at = c->next;
        for (uint32_t i = 0; i < c->lanes; i++)
            c->stream[i]->capture = NULL;
        r = c->invalid  ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
            : joined(c) ? CUDA_SUCCESS
                        : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
        *graph = r == CUDA_SUCCESS ? c->graph : NULL;
    }
    pthread_mutex_unlock(&fake_lock);
    return r;
}

static CUresult info(CUstream handle, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph)
{
    FAKE_READY();
    CUstream s;
    pthread_mutex_lock(&fake_lock);
    CUresult r = fake_stream_of(handle, &s);
    struct fake_capture *c = r == CUDA_SUCCESS ? s->capture : NULL;
    if (r == CUDA_SUCCESS)
        *status = !c           ? CU_STREAM_CAPTURE_STATUS_NONE
                  : c->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                               : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    if (c && id)
        *id = c->id;
    if (c && graph)
        *graph = c->graph;
    pthread_mutex_unlock(&fake_lock);
    return r;
}

FAKE_API CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status)
{
    return info(handle, status, NULL, NULL);
}

/* Without the dependencies: they are lanes here. */
CUresult cuStreamGetCaptureInfo_v2(CUstream, CUstreamCaptureStatus *, cuuint64_t *, CUgraph *,
                                   const CUgraphNode **, size_t *);
FAKE_API CUresult cuStreamGetCaptureInfo_v2(CUstream handle, CUstreamCaptureStatus *status,
                                            cuuint64_t *id, CUgraph *graph,
                                            const CUgraphNode **nodes, size_t *count)
{
    return nodes || count ? CUDA_ERROR_NOT_SUPPORTED : info(handle, status, id, graph);
}
