/* SPDX-License-Identifier: Apache-2.0 */
/*
 * event.c: an event is a place in a stream: how much that had got when the event was recorded. In a capture it is a place in a
 * lane of the graph.
 */
#include "tests/fake_cuda/fake.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static CUresult check(CUevent e)
{
    FAKE_READY();
    return !e || e->gone ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

FAKE_API CUresult cuEventCreate(CUevent *out, unsigned int flags)
{
    FAKE_READY();
    if (!fake_context())
        return CUDA_ERROR_INVALID_CONTEXT;
    if (flags & CU_EVENT_INTERPROCESS)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUevent e = fake_keep(sizeof(*e));
    if (!e)
        return CUDA_ERROR_OUT_OF_MEMORY;
    e->timed = !(flags & CU_EVENT_DISABLE_TIMING);
    *out = e;
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuEventDestroy(CUevent e)
{
    CUresult r = check(e);
    if (r == CUDA_SUCCESS)
        e->gone = true;
    return r;
}

static void stamp(const struct fake_work *w)
{
    struct timespec t;
    CUevent e = w->u.record.event;
    clock_gettime(CLOCK_MONOTONIC, &t);
    pthread_mutex_lock(&fake_lock);
    e->time_ns =
        fake_clock_ns ? fake_clock_ns : (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    e->time_number = w->u.record.number;
    pthread_mutex_unlock(&fake_lock);
}

/* Into a capture: no node, a place. */
static CUresult record_captured(CUevent e, CUstream s)
{
    struct fake_capture *c = s->capture;
    if (c->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    e->capture = c;
    e->lane = s->lane;
    e->node = c->nodes[s->lane];
    memcpy(e->clock, c->clock[s->lane], sizeof(e->clock));
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuEventRecord(CUevent e, CUstream handle)
{
    CUstream s;
    CUresult r = check(e);
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&fake_lock);
    r = fake_stream_of(handle, &s);
    if (r == CUDA_SUCCESS && s->capture) {
        r = record_captured(e, s);
    } else if (r == CUDA_SUCCESS) {
        struct fake_work w = {.run = stamp, .u.record = {e, e->number + 1}};
        r = fake_queue(s, &w, NULL, 0);
        if (r == CUDA_SUCCESS) {
            e->capture = NULL;
            e->number++;
            e->stream = s;
            e->at = s->pushed;
        }
    }
    pthread_mutex_unlock(&fake_lock);
    return r;
}

static void await(const struct fake_work *w)
{
    pthread_mutex_lock(&fake_lock);
    fake_stream_await(w->u.wait.stream, w->u.wait.done, "cuStreamWaitEvent");
    pthread_mutex_unlock(&fake_lock);
}

FAKE_API CUresult cuStreamWaitEvent(CUstream handle, CUevent e, unsigned int flags)
{
    CUstream s;
    CUresult r = check(e);
    if (r != CUDA_SUCCESS)
        return r;
    if (flags)
        return CUDA_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&fake_lock);
    r = fake_stream_of(handle, &s);
    if (r == CUDA_SUCCESS && (e->capture || s->capture)) {
        r = fake_capture_wait(s, e);
    } else if (r == CUDA_SUCCESS && e->stream) {
        struct fake_work w = {.run = await, .u.wait = {e->stream, e->at}};
        r = fake_queue(s, &w, NULL, 0);
    }
    pthread_mutex_unlock(&fake_lock);
    return r;
}

/* Begins a look at an event outside captures: locks, unless it fails. */
static CUresult look(CUevent e)
{
    CUresult r = check(e);
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&fake_lock);
    if (e->capture) {
        fake_capture_broken(e->capture);
        r = CUDA_ERROR_CAPTURED_EVENT;
    }
    pthread_mutex_unlock(&fake_lock);
    if (r == CUDA_SUCCESS)
        r = fake_unsafe();
    if (r == CUDA_SUCCESS)
        pthread_mutex_lock(&fake_lock);
    return r;
}

FAKE_API CUresult cuEventQuery(CUevent e)
{
    CUresult r = look(e);
    if (r != CUDA_SUCCESS)
        return r;
    r = e->stream && e->stream->done < e->at ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
    pthread_mutex_unlock(&fake_lock);
    return r;
}

FAKE_API CUresult cuEventSynchronize(CUevent e)
{
    CUresult r = look(e);
    if (r != CUDA_SUCCESS)
        return r;
    if (e->stream)
        fake_stream_await(e->stream, e->at, "cuEventSynchronize");
    pthread_mutex_unlock(&fake_lock);
    return r;
}

#undef cuEventElapsedTime /* the first version's name too */
static CUresult elapsed(float *ms, CUevent from, CUevent to)
{
    CUresult r = check(from);
    if (r == CUDA_SUCCESS)
        r = check(to);
    if (r != CUDA_SUCCESS || !from->timed || !to->timed || !from->number || !to->number)
        return CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_lock(&fake_lock);
    if (from->time_number != from->number || to->time_number != to->number)
        r = CUDA_ERROR_NOT_READY;
    else
        *ms = (float)((double)(int64_t)(to->time_ns - from->time_ns) / 1e6);
    pthread_mutex_unlock(&fake_lock);
    return r;
}
FAKE_API CUresult cuEventElapsedTime(float *ms, CUevent from, CUevent to)
{
    return elapsed(ms, from, to);
}
FAKE_API CUresult cuEventElapsedTime_v2(float *ms, CUevent from, CUevent to)
{
    return elapsed(ms, from, to);
}
