/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlap.c: a communicator's own stream, tied to the callers' by events: to wait for an event takes what it recorded last, so one
 * event each way is enough for any number of calls, and in a capture it becomes an edge of the graph.
 */
#include "cuda/overlap.h"
#include "cuda/device.h"
#include <stdlib.h>

struct cuda_overlap {
    const struct cuda_device *device;
    CUstream stream;
    CUevent forked, joined;
};

static void destroy(struct cuda_overlap *o)
{
    const struct cuda_driver *cu = cuda_driver();
    if (o->forked)
        cu->cuEventDestroy(o->forked);
    if (o->joined)
        cu->cuEventDestroy(o->joined);
    if (o->stream)
        cu->cuStreamDestroy(o->stream);
}

static CUresult make(struct cuda_overlap *o, bool low)
{
    const struct cuda_driver *cu = cuda_driver();
    int least, greatest;
    CUresult r = cu->cuCtxGetStreamPriorityRange(&least, &greatest);
    if (r == CUDA_SUCCESS)
        r = cu->cuStreamCreateWithPriority(&o->stream, CU_STREAM_NON_BLOCKING,
                                           low ? least : greatest);
    if (r == CUDA_SUCCESS)
        r = cu->cuEventCreate(&o->forked, CU_EVENT_DISABLE_TIMING);
    if (r == CUDA_SUCCESS)
        r = cu->cuEventCreate(&o->joined, CU_EVENT_DISABLE_TIMING);
    if (r != CUDA_SUCCESS)
        destroy(o);
    return r;
}

enum choir_status cuda_overlap_open(struct cuda_device *device, bool low,
                                    struct cuda_overlap **overlap)
{
    struct cuda_overlap *o = calloc(1, sizeof(*o));
    if (!o)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a stream");
    o->device = device;
    CUstreamCaptureMode mode; /* the caller's capture may be going on */
    enum choir_status st = cuda_device_begin(device, &mode);
    if (st == CHOIR_OK) {
        CUresult r = make(o, low);
        st = r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "making a communicator's own stream");
        cuda_device_end(device, &mode);
    }
    if (st != CHOIR_OK)
        free(o), o = NULL;
    *overlap = o;
    return st;
}

static enum choir_status order(struct cuda_overlap *o, CUevent event, CUstream before,
                               CUstream after)
{
    const struct cuda_driver *cu = cuda_driver();
    enum choir_status st = cuda_device_enter(o->device);
    if (st != CHOIR_OK)
        return st;
    CUresult r = cu->cuEventRecord(event, before);
    if (r == CUDA_SUCCESS)
        r = cu->cuStreamWaitEvent(after, event, 0);
    cuda_device_leave(o->device);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "ordering a stream behind another");
}

enum choir_status cuda_overlap_fork(struct cuda_overlap *o, struct CUstream_st *stream,
                                    struct CUstream_st **own)
{
    *own = o->stream;
    return order(o, o->forked, stream, o->stream);
}

enum choir_status cuda_overlap_join(struct cuda_overlap *o, struct CUstream_st *stream)
{
    return order(o, o->joined, o->stream, stream);
}

void cuda_overlap_close(struct cuda_overlap *o)
{
    if (o && cuda_device_enter(o->device) == CHOIR_OK) {
        destroy(o);
        cuda_device_leave(o->device);
    }
    free(o);
}
