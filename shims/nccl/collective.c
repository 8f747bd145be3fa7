/* SPDX-License-Identifier: Apache-2.0 */
/*
 * collective.c: collectives and messages: an NCCL call becomes a task, which is checked, then run as one call of Choir or
 * collected in the open group. Buffers that a rank has no part in are not handed on: Choir need not know what they are.
 */
#include "shims/nccl/internal.h"
#include "choir_cuda.h"
#include <stdlib.h>

const char *nccl_task_name(const struct nccl_task *t)
{
    static const char *const name[] = {[NCCL_ALL_REDUCE] = "ncclAllReduce",
                                       [NCCL_REDUCE] = "ncclReduce",
                                       [NCCL_BROADCAST] = "ncclBroadcast",
                                       [NCCL_REDUCE_SCATTER] = "ncclReduceScatter",
                                       [NCCL_ALL_GATHER] = "ncclAllGather",
                                       [NCCL_ALL_TO_ALL] = "ncclAlltoAll",
                                       [NCCL_GATHER] = "ncclGather",
                                       [NCCL_SCATTER] = "ncclScatter",
                                       [NCCL_SEND] = "ncclSend",
                                       [NCCL_RECV] = "ncclRecv",
                                       [NCCL_PUT_SIGNAL] = "ncclPutSignal",
                                       [NCCL_SIGNAL] = "ncclSignal",
                                       [NCCL_WAIT_SIGNAL] = "ncclWaitSignal"};
    return name[t->call];
}

ncclResult_t nccl_type(ncclDataType_t datatype, const char *call, enum choir_type *type)
{
    static const enum choir_type of[ncclNumTypes] = {[ncclInt8] = CHOIR_INT8,
                                                     [ncclUint8] = CHOIR_UINT8,
                                                     [ncclInt32] = CHOIR_INT32,
                                                     [ncclUint32] = CHOIR_UINT32,
                                                     [ncclInt64] = CHOIR_INT64,
                                                     [ncclUint64] = CHOIR_UINT64,
                                                     [ncclFloat16] = CHOIR_FLOAT16,
                                                     [ncclFloat32] = CHOIR_FLOAT32,
                                                     [ncclFloat64] = CHOIR_FLOAT64,
                                                     [ncclBfloat16] = CHOIR_BFLOAT16,
                                                     [ncclFloat8e4m3] = CHOIR_FLOAT8_E4M3,
                                                     [ncclFloat8e5m2] = CHOIR_FLOAT8_E5M2};
    if ((unsigned)datatype >= ncclNumTypes)
        return nccl_fail(ncclInvalidArgument, "%s: datatype is %d", call, (int)datatype);
    *type = of[datatype];
    return ncclSuccess;
}

static bool reduces(const struct nccl_task *t)
{
    return t->call == NCCL_ALL_REDUCE || t->call == NCCL_REDUCE || t->call == NCCL_REDUCE_SCATTER;
}

static bool sends(const struct nccl_task *t, bool root)
{
    switch (t->call) {
    case NCCL_RECV:
    case NCCL_SIGNAL:
    case NCCL_WAIT_SIGNAL:
        return false;
    case NCCL_BROADCAST:
    case NCCL_SCATTER:
        return root;
    default:
        return true;
    }
}

static bool receives(const struct nccl_task *t, bool root)
{
    switch (t->call) {
    case NCCL_REDUCE:
    case NCCL_GATHER:
        return root;
    default:
        return t->call == NCCL_RECV || t->call < NCCL_SEND;
    }
}

/* Forgets the buffers that this rank has no part in, and asks for the others. */
static ncclResult_t check_buffers(struct nccl_task *t)
{
    bool root = t->root == t->comm->rank, send = sends(t, root), recv = receives(t, root);
    t->send = send ? t->send : NULL;
    t->recv = recv ? t->recv : NULL;
    if (t->count && ((send && !t->send) || (recv && !t->recv)))
        return nccl_fail(ncclInvalidArgument, "%s: %s is NULL", nccl_task_name(t),
                         t->call == NCCL_PUT_SIGNAL ? "localbuff"
                         : send && !t->send         ? "sendbuff"
                                                    : "recvbuff");
    return ncclSuccess;
}

static ncclResult_t check(struct nccl_task *t)
{
    const char *name = nccl_task_name(t);
    ncclResult_t r = nccl_type(t->datatype, name, &t->type);
    if (r != ncclSuccess)
        return r;
    if (atomic_load(&t->comm->revoked))
        return nccl_fail(ncclInvalidUsage, "%s: comm was revoked", name);
    if (t->root < 0 || t->root >= t->comm->size)
        return nccl_fail(ncclInvalidArgument, "%s: %s %d is not in 0..%d", name,
                         t->call >= NCCL_SEND ? "peer" : "root", t->root, t->comm->size - 1);
    if (t->count > SIZE_MAX / 16 / (size_t)t->comm->size)
        return nccl_fail(ncclInvalidArgument, "%s: count %zu is too large", name, t->count);
    if (!t->comm->gpu.context && t->stream)
        return nccl_fail(ncclInvalidArgument,
                         "%s: stream is not NULL; on host memory (CHOIR_NCCL_HOST) there are none",
                         name);
    if (t->call >= NCCL_PUT_SIGNAL && (r = nccl_rma_check(t)) != ncclSuccess)
        return r;
    if ((t->call == NCCL_SEND || t->call == NCCL_RECV) && t->root == t->comm->rank &&
        !nccl_group_open())
        return nccl_fail(ncclInvalidUsage,
                         "%s: peer %d is this rank; put both halves into one group", name, t->root);
    return check_buffers(t);
}

ncclResult_t nccl_task_run(const struct nccl_task *t)
{
    choir_comm *c = atomic_load_explicit(&t->comm->choir, memory_order_acquire);
    choir_stream *s = t->comm->gpu.context ? choir_stream_from_cuda(t->stream) : NULL;
    enum choir_status st = CHOIR_ERR_INTERNAL;
    switch (t->call) {
    case NCCL_ALL_REDUCE:
        st = choir_all_reduce(c, t->send, t->recv, t->count, t->type, t->made, s);
        break;
    case NCCL_REDUCE:
        st = choir_reduce(c, t->send, t->recv, t->count, t->type, t->made, t->root, s);
        break;
    case NCCL_BROADCAST:
        st = choir_broadcast(c, t->send, t->recv, t->count, t->type, t->root, s);
        break;
    case NCCL_REDUCE_SCATTER:
        st = choir_reduce_scatter(c, t->send, t->recv, t->count, t->type, t->made, s);
        break;
    case NCCL_ALL_GATHER:
        st = choir_all_gather(c, t->send, t->recv, t->count, t->type, s);
        break;
    case NCCL_ALL_TO_ALL:
        st = choir_all_to_all(c, t->send, t->recv, t->count, t->type, s);
        break;
    case NCCL_GATHER:
        st = choir_gather(c, t->send, t->recv, t->count, t->type, t->root, s);
        break;
    case NCCL_SCATTER:
        st = choir_scatter(c, t->send, t->recv, t->count, t->type, t->root, s);
        break;
    case NCCL_SEND:
        st = choir_send(c, t->send, t->count, t->type, t->root, s);
        break;
    case NCCL_RECV:
        st = choir_recv(c, t->recv, t->count, t->type, t->root, s);
        break;
    case NCCL_PUT_SIGNAL:
    case NCCL_SIGNAL:
    case NCCL_WAIT_SIGNAL:
        return nccl_rma_run(t, c, s);
    }
    return nccl_result(st, nccl_task_name(t));
}

static ncclResult_t checked(struct nccl_task *t)
{
    ncclResult_t r = check(t);
    if (r != ncclSuccess)
        return r;
    if (reduces(t))
        r = nccl_op_take(t->comm, t->op, t->type, nccl_task_name(t), &t->made);
    if (r != ncclSuccess)
        return r;
    if (nccl_group_open())
        r = nccl_group_add(t);
    else
        r = nccl_task_run(t);
    if (reduces(t) && (r != ncclSuccess || !nccl_group_open()))
        nccl_op_drop(t->comm, t->op);
    return r;
}

ncclResult_t nccl_task_submit(struct nccl_task *t)
{
    ncclResult_t r = nccl_comm_enter(t->comm, nccl_task_name(t));
    if (r == ncclSuccess) {
        r = checked(t);
        nccl_comm_leave(t->comm);
    }
    if (t->rma.wait && (r != ncclSuccess || !nccl_group_open()))
        free(t->rma.wait);
    return nccl_group_note(r);
}

NCCL_EXPORT ncclResult_t ncclAllReduce(const void *sendbuff, void *recvbuff, size_t count,
                                       ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm,
                                       cudaStream_t stream)
{
    return nccl_task_submit(&(struct nccl_task){.call = NCCL_ALL_REDUCE,
                                                .comm = comm,
                                                .send = sendbuff,
                                                .recv = recvbuff,
                                                .count = count,
                                                .datatype = datatype,
                                                .op = op,
                                                .stream = stream});
}
NCCL_TWIN(ncclResult_t, AllReduce,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclReduce(const void *sendbuff, void *recvbuff, size_t count,
                                    ncclDataType_t datatype, ncclRedOp_t op, int root,
                                    ncclComm_t comm, cudaStream_t stream)
{
    return nccl_task_submit(&(struct nccl_task){.call = NCCL_REDUCE,
                                                .comm = comm,
                                                .send = sendbuff,
                                                .recv = recvbuff,
                                                .count = count,
                                                .datatype = datatype,
                                                .op = op,
                                                .root = root,
                                                .stream = stream});
}
NCCL_TWIN(ncclResult_t, Reduce,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream));

static ncclResult_t move(enum nccl_call call, const void *send, void *recv, size_t count,
                         ncclDataType_t datatype, int root, ncclComm_t comm, cudaStream_t stream)
{
    return nccl_task_submit(&(struct nccl_task){.call = call,
                                                .comm = comm,
                                                .send = send,
                                                .recv = recv,
                                                .count = count,
                                                .datatype = datatype,
                                                .root = root,
                                                .stream = stream});
}

NCCL_EXPORT ncclResult_t ncclBroadcast(const void *sendbuff, void *recvbuff, size_t count,
                                       ncclDataType_t datatype, int root, ncclComm_t comm,
                                       cudaStream_t stream)
{
    return move(NCCL_BROADCAST, sendbuff, recvbuff, count, datatype, root, comm, stream);
}
NCCL_TWIN(ncclResult_t, Broadcast,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclBcast(void *buff, size_t count, ncclDataType_t datatype, int root,
                                   ncclComm_t comm, cudaStream_t stream)
{
    return move(NCCL_BROADCAST, buff, buff, count, datatype, root, comm, stream);
}
NCCL_TWIN(ncclResult_t, Bcast,
          (void *buff, size_t count, ncclDataType_t datatype, int root, ncclComm_t comm,
           cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclReduceScatter(const void *sendbuff, void *recvbuff, size_t recvcount,
                                           ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm,
                                           cudaStream_t stream)
{
    return nccl_task_submit(&(struct nccl_task){.call = NCCL_REDUCE_SCATTER,
                                                .comm = comm,
                                                .send = sendbuff,
                                                .recv = recvbuff,
                                                .count = recvcount,
                                                .datatype = datatype,
                                                .op = op,
                                                .stream = stream});
}
NCCL_TWIN(ncclResult_t, ReduceScatter,
          (const void *sendbuff, void *recvbuff, size_t recvcount, ncclDataType_t datatype,
           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclAllGather(const void *sendbuff, void *recvbuff, size_t sendcount,
                                       ncclDataType_t datatype, ncclComm_t comm,
                                       cudaStream_t stream)
{
    return move(NCCL_ALL_GATHER, sendbuff, recvbuff, sendcount, datatype, 0, comm, stream);
}
NCCL_TWIN(ncclResult_t, AllGather,
          (const void *sendbuff, void *recvbuff, size_t sendcount, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclAlltoAll(const void *sendbuff, void *recvbuff, size_t count,
                                      ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream)
{
    return move(NCCL_ALL_TO_ALL, sendbuff, recvbuff, count, datatype, 0, comm, stream);
}
NCCL_TWIN(ncclResult_t, AlltoAll,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
           ncclComm_t comm, cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclGather(const void *sendbuff, void *recvbuff, size_t count,
                                    ncclDataType_t datatype, int root, ncclComm_t comm,
                                    cudaStream_t stream)
{
    return move(NCCL_GATHER, sendbuff, recvbuff, count, datatype, root, comm, stream);
}
NCCL_TWIN(ncclResult_t, Gather,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclScatter(const void *sendbuff, void *recvbuff, size_t count,
                                     ncclDataType_t datatype, int root, ncclComm_t comm,
                                     cudaStream_t stream)
{
    return move(NCCL_SCATTER, sendbuff, recvbuff, count, datatype, root, comm, stream);
}
NCCL_TWIN(ncclResult_t, Scatter,
          (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
           ncclComm_t comm, cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclSend(const void *sendbuff, size_t count, ncclDataType_t datatype,
                                  int peer, ncclComm_t comm, cudaStream_t stream)
{
    return move(NCCL_SEND, sendbuff, NULL, count, datatype, peer, comm, stream);
}
NCCL_TWIN(ncclResult_t, Send,
          (const void *sendbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
           cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclRecv(void *recvbuff, size_t count, ncclDataType_t datatype, int peer,
                                  ncclComm_t comm, cudaStream_t stream)
{
    return move(NCCL_RECV, NULL, recvbuff, count, datatype, peer, comm, stream);
}
NCCL_TWIN(ncclResult_t, Recv,
          (void *recvbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
           cudaStream_t stream));
