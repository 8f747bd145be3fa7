/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.c: see order.h. Every operation leaves an event behind, for which the next one waits if it is in another stream. To record it only
 * then would be cheaper, but the last stream may have been destroyed meanwhile, and the driver does not look whether one is alive.
 */
#include "cuda/order.h"
#include "cuda/device.h"
#include <stdlib.h>

struct last { /* operation: of those that are not captured, or of one capture's */
    CUevent event;
    CUstream stream;
    bool there;
    cuuint64_t capture; /* 0: none */
};
struct cuda_order {
    const struct cuda_device *device;
    struct last eager, captured;
    struct last *next; /* what the operation that is being put into a stream will be */
    cuuint64_t capture;
};

enum choir_status cuda_order_open(const struct cuda_device *device, struct cuda_order **order)
{
    *order = calloc(1, sizeof(**order));
    if (!*order)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a communicator");
    (*order)->device = device;
    return CHOIR_OK;
}

/* Which of the two the stream's next operation is. */
static void look(struct cuda_order *o, CUstream stream)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    cuuint64_t id = 0;
    CUresult r = cuda_driver()->cuStreamGetCaptureInfo(stream, &status, &id, NULL, NULL, NULL);
    bool captured = r == CUDA_SUCCESS && status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
    o->next = captured ? &o->captured : &o->eager;
    o->capture = captured ? id : 0;
}

enum choir_status cuda_order_before(struct cuda_order *o, struct CUstream_st *stream)
{
    enum choir_status st = cuda_device_enter(o->device);
    if (st != CHOIR_OK)
        return st;
    look(o, stream);
    const struct last *l = o->next;
    CUresult r = CUDA_SUCCESS;
    if (base_unlikely(l->there && l->capture == o->capture && l->stream != stream))
        r = cuda_driver()->cuStreamWaitEvent(stream, l->event, 0);
    cuda_device_leave(o->device);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "ordering an operation behind the last");
}

enum choir_status cuda_order_after(struct cuda_order *o, struct CUstream_st *stream)
{
    const struct cuda_driver *cu = cuda_driver();
    struct last *l = o->next;
    enum choir_status st = cuda_device_enter(o->device);
    if (st != CHOIR_OK)
        return st;
    CUresult r = CUDA_SUCCESS;
    if (base_unlikely(!l->event))
        r = cu->cuEventCreate(&l->event, CU_EVENT_DISABLE_TIMING);
    if (r == CUDA_SUCCESS)
        r = cu->cuEventRecord(l->event, stream);
    l->there = r == CUDA_SUCCESS;
    l->stream = stream;
    l->capture = o->capture;
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
