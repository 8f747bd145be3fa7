/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlap.c: device calls in several streams: they run in the order of the calls. Beside what the caller's stream does next
 * (CHOIR_CALL_OVERLAP) they go into a stream of the communicator's own, which the first such call makes.
 */
#include "choir_cuda.h"
#include "comm/gpu.h"
#include "cuda/order.h"
#include "cuda/overlap.h"

enum choir_status order_before(struct choir_comm *c, struct choir_stream *stream)
{
    enum choir_status st = CHOIR_OK;
    if (base_unlikely(!c->order))
        st = cuda_order_open(c->here, &c->order);
    if (st == CHOIR_OK)
        st = cuda_order_before(c->order, stream_cuda(stream));
    return st == CHOIR_OK ? st : comm_take_error(c, st);
}

enum choir_status order_after(struct choir_comm *c, struct choir_stream *stream,
                              enum choir_status st)
{
    enum choir_status r = cuda_order_after(c->order, stream_cuda(stream));
    if (st == CHOIR_OK && r != CHOIR_OK)
        st = comm_take_error(c, r);
    return st;
}

static enum choir_status host_stream(struct choir_comm *c)
{
    return comm_fail(
        c, CHOIR_ERR_ARGUMENT,
        "pass a stream of choir_stream_from_cuda; host operations overlap on a stream of "
        "choir_stream_create",
        "overlap is for CUDA streams, and stream is none");
}

enum choir_status overlap_fork(struct choir_comm *c, struct choir_stream **stream)
{
    enum choir_status st = CHOIR_OK;
    struct CUstream_st *own = NULL;
    if (!stream_is_cuda(*stream))
        return host_stream(c);
    if (!group_open()) /* which may resume it; a fork of what is refused would be left over in a capture */
        st = device_awake(c);
    if (st != CHOIR_OK)
        return st;
    if (!comm_enter(c))
        return CHOIR_ERR_BUSY;
    if (!c->overlap)
        st = cuda_overlap_open(c->here, c->config.low_priority, &c->overlap);
    if (st == CHOIR_OK)
        st = cuda_overlap_fork(c->overlap, stream_cuda(*stream), &own);
    comm_leave(c);
    if (st != CHOIR_OK)
        return comm_take_error(c, st);
    *stream = stream_of_cuda(own);
    return CHOIR_OK;
}

enum choir_status choir_overlap_wait(choir_comm *comm, choir_stream *stream)
{
    enum choir_status st = comm_check(comm);
    if (st != CHOIR_OK)
        return st;
    if (!stream_is_cuda(stream))
        return host_stream(comm);
    if (!comm_enter(comm))
        return CHOIR_ERR_BUSY;
    if (comm->overlap)
        st = cuda_overlap_join(comm->overlap, stream_cuda(stream));
    comm_leave(comm);
    return st == CHOIR_OK ? st : comm_take_error(comm, st);
}

void overlap_close(struct choir_comm *c)
{
    cuda_overlap_close(c->overlap);
    c->overlap = NULL;
    cuda_order_close(c->order);
    c->order = NULL;
}
