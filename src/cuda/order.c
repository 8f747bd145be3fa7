/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.c: see order.h. As long as all calls are in one stream this costs nothing. From the first one in another stream on an event is
 * recorded behind every operation. The first time there is none yet: it is recorded then, behind all that the last stream has; of a
 * stream that was destroyed meanwhile nothing is waited for.
 */
#include "cuda/order.h"
#include "cuda/device.h"
#include <stdlib.h>

struct last { /* an operation: of calls that are not captured, or of those of one capture */
    CUevent event;
    CUstream stream;
    bool there;
    cuuint64_t capture; /* 0: none */
};
struct cuda_order {
    const struct cuda_device *device;
    CUstream only; /* the stream of all calls so far */
    bool used, many;
    struct last eager, captured;
};

enum choir_status cuda_order_open(const struct cuda_device *device, struct cuda_order **order)
{
    *order = calloc(1, sizeof(**order));
    if (!*order)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a communicator");
    (*order)->device = device;
    return CHOIR_OK;
}

/* Which of the two the stream's next operation is about. */
static struct last *last_of(struct cuda_order *o, CUstream stream, cuuint64_t *capture)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    cuuint64_t id = 0;
    CUresult r = cuda_driver()->cuStreamGetCaptureInfo(stream, &status, &id, NULL, NULL, NULL);
    bool captured = r == CUDA_SUCCESS && status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
    *capture = captured ? id : 0;
    return captured ? &o->captured : &o->eager;
}

static CUresult record(struct cuda_order *o, CUstream stream)
{
    const struct cuda_driver *cu = cuda_driver();
    cuuint64_t capture;
    struct last *l = last_of(o, stream, &capture);
    CUresult r = CUDA_SUCCESS;
    l->there = false;
    if (!l->event)
        r = cu->cuEventCreate(&l->event, CU_EVENT_DISABLE_TIMING);
    if (r == CUDA_SUCCESS)
        r = cu->cuEventRecord(l->event, stream);
    l->there = r == CUDA_SUCCESS;
    l->stream = stream;
    l->capture = capture;
    return r;
}

enum choir_status cuda_order_before(struct cuda_order *o, struct CUstream_st *stream)
{
    cuuint64_t capture;
    if (base_likely(!o->many && (!o->used || stream == o->only)))
        return CHOIR_OK;
    enum choir_status st = cuda_device_enter(o->device);
    if (st != CHOIR_OK)
        return st;
    if (!o->many)
        record(o, o->only);
    o->many = true;
    struct last *l = last_of(o, stream, &capture);
    CUresult r = CUDA_SUCCESS;
    if (l->there && l->capture == capture && l->stream != stream)
        r = cuda_driver()->cuStreamWaitEvent(stream, l->event, 0);
    cuda_device_leave(o->device);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "ordering an operation behind the last");
}

enum choir_status cuda_order_after(struct cuda_order *o, struct CUstream_st *stream)
{
    o->used = true;
    o->only = stream;
    if (base_likely(!o->many))
        return CHOIR_OK;
    enum choir_status st = cuda_device_enter(o->device);
    if (st != CHOIR_OK)
        return st;
    CUresult r = record(o, stream);
    cuda_device_leave(o->device);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "recording an operation's end");
}

void cuda_order_close(struct cuda_order *o)
{
    if (o && cuda_device_enter(o->device) == CHOIR_OK) {
        if (o->eager.event)
            cuda_driver()->cuEventDestroy(o->eager.event);
        if (o->captured.event)
            cuda_driver()->cuEventDestroy(o->captured.event);
        cuda_device_leave(o->device);
    }
    free(o);
}
