/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rma.c: one-sided calls: put with a signal, signal, wait for signals. As in NCCL there is one signal between two ranks, number and
 * context 0. What is put need not be in a window.
 */
#include "shims/nccl/internal.h"
#include "comm/comm.h"
#include <stdlib.h>

/* Where GPU memory goes through the host, nothing is put into it. */
bool nccl_rma_offered(const ncclComm_t comm)
{
    return !comm->gpu.context || atomic_load(&comm->choir)->device;
}

static ncclResult_t check_window(const struct nccl_task *t)
{
    const struct nccl_buffer *b = nccl_buffer_find(NCCL_WINDOW, t->comm, t->rma.window);
    if (!b)
        return nccl_fail(ncclInvalidArgument, "ncclPutSignal: peerWin is not a window of comm");
    if (!b->window)
        return nccl_fail(ncclInvalidUsage, "ncclPutSignal: Choir cannot put into the memory of "
                                           "peerWin; use ncclSend and ncclRecv");
    return ncclSuccess;
}

ncclResult_t nccl_rma_check(const struct nccl_task *t)
{
    const char *name = nccl_task_name(t);
    if (t->rma.signal || t->rma.context || t->rma.flags)
        return nccl_fail(ncclInvalidArgument, "%s: sigIdx is %d, ctx %d, flags %u; they are 0",
                         name, t->rma.signal, t->rma.context, t->rma.flags);
    for (uint32_t i = 0; i < t->rma.waits; i++)
        if (t->rma.wait[i].peer < 0 || t->rma.wait[i].peer >= t->comm->size)
            return nccl_fail(ncclInvalidArgument, "%s: signalDescs[%u].peer %d is not in 0..%d",
                             name, i, t->rma.wait[i].peer, t->comm->size - 1);
    return t->call == NCCL_PUT_SIGNAL ? check_window(t) : ncclSuccess;
}

ncclResult_t nccl_rma_run(const struct nccl_task *t, choir_comm *c, choir_stream *s)
{
    const char *name = nccl_task_name(t);
    if (t->call == NCCL_SIGNAL)
        return nccl_result(choir_signal(c, t->root, 0, s), name);
    if (t->call == NCCL_WAIT_SIGNAL)
        return nccl_result(choir_wait_signal(c, t->rma.wait, t->rma.waits, s), name);
    const struct nccl_buffer *b = (const void *)t->rma.window; /* checked */
    return nccl_result(choir_put_signal(c, t->send, t->count * choir_type_bytes(t->type), t->root,
                                        b->window, t->rma.offset, 0, s),
                       name);
}

NCCL_EXPORT ncclResult_t ncclPutSignal(const void *localbuff, size_t count, ncclDataType_t datatype,
                                       int peer, ncclWindow_t peerWin, size_t peerWinOffset,
                                       int sigIdx, int ctx, unsigned int flags, ncclComm_t comm,
                                       cudaStream_t stream)
{
    return nccl_task_submit(
        &(struct nccl_task){.call = NCCL_PUT_SIGNAL,
                            .comm = comm,
                            .send = localbuff,
                            .count = count,
                            .datatype = datatype,
                            .root = peer,
                            .stream = stream,
                            .rma = {peerWin, peerWinOffset, NULL, 0, sigIdx, ctx, flags}});
}
NCCL_TWIN(ncclResult_t, PutSignal,
          (const void *localbuff, size_t count, ncclDataType_t datatype, int peer,
           ncclWindow_t peerWin, size_t peerWinOffset, int sigIdx, int ctx, unsigned int flags,
           ncclComm_t comm, cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclSignal(int peer, int sigIdx, int ctx, unsigned int flags,
                                    ncclComm_t comm, cudaStream_t stream)
{
    return nccl_task_submit(
        &(struct nccl_task){.call = NCCL_SIGNAL,
                            .comm = comm,
                            .root = peer,
                            .stream = stream,
                            .rma = {.signal = sigIdx, .context = ctx, .flags = flags}});
}
NCCL_TWIN(ncclResult_t, Signal,
          (int peer, int sigIdx, int ctx, unsigned int flags, ncclComm_t comm,
           cudaStream_t stream));

static ncclResult_t wait_signal(int count, const ncclWaitSignalDesc_t *desc, ncclComm_t comm,
                                cudaStream_t stream)
{
    struct nccl_task t = {.call = NCCL_WAIT_SIGNAL, .comm = comm, .stream = stream};
    if (!desc || count < 1)
        return nccl_fail(ncclInvalidArgument, "ncclWaitSignal: %s",
                         desc ? "nDesc is below 1" : "signalDescs is NULL");
    for (int i = 0; i < count; i++)
        if (desc[i].opCnt < 1 || desc[i].sigIdx || desc[i].ctx)
            return nccl_fail(ncclInvalidArgument,
                             "ncclWaitSignal: signalDescs[%d] has opCnt %d, sigIdx %d, ctx %d; "
                             "opCnt is at least 1, the others are 0",
                             i, desc[i].opCnt, desc[i].sigIdx, desc[i].ctx);
    t.rma.wait = calloc((size_t)count, sizeof(*t.rma.wait));
    if (!t.rma.wait)
        return nccl_fail(ncclSystemError, "ncclWaitSignal: out of memory");
    t.rma.waits = (uint32_t)count;
    for (int i = 0; i < count; i++)
        t.rma.wait[i] = (struct choir_signal_wait){desc[i].peer, 0, (uint64_t)desc[i].opCnt};
    return nccl_task_submit(&t);
}

NCCL_EXPORT ncclResult_t ncclWaitSignal(int nDesc, ncclWaitSignalDesc_t *signalDescs,
                                        ncclComm_t comm, cudaStream_t stream)
{
    return nccl_group_note(wait_signal(nDesc, signalDescs, comm, stream));
}
NCCL_TWIN(ncclResult_t, WaitSignal,
          (int nDesc, ncclWaitSignalDesc_t *signalDescs, ncclComm_t comm, cudaStream_t stream));
