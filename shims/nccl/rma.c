/* SPDX-License-Identifier: Apache-2.0 */
/* rma.c: one-sided operations on windows, which Choir does not offer yet: they are refused. */
#include "shims/nccl/internal.h"

static ncclResult_t refuse(ncclComm_t comm, const char *call)
{
    ncclResult_t r = nccl_comm_enter(comm, call);
    if (r != ncclSuccess)
        return r;
    nccl_comm_leave(comm);
    return nccl_refuse(call, "Choir has no put and no signals yet; use ncclSend and ncclRecv");
}

NCCL_EXPORT ncclResult_t ncclPutSignal(const void *localbuff, size_t count, ncclDataType_t datatype,
                                       int peer, ncclWindow_t peerWin, size_t peerWinOffset,
                                       int sigIdx, int ctx, unsigned int flags, ncclComm_t comm,
                                       cudaStream_t stream)
{
    (void)localbuff, (void)count, (void)datatype, (void)peer, (void)peerWin, (void)peerWinOffset;
    (void)sigIdx, (void)ctx, (void)flags, (void)stream;
    return nccl_group_note(refuse(comm, "ncclPutSignal"));
}
NCCL_TWIN(ncclResult_t, PutSignal,
          (const void *localbuff, size_t count, ncclDataType_t datatype, int peer,
           ncclWindow_t peerWin, size_t peerWinOffset, int sigIdx, int ctx, unsigned int flags,
           ncclComm_t comm, cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclSignal(int peer, int sigIdx, int ctx, unsigned int flags,
                                    ncclComm_t comm, cudaStream_t stream)
{
    (void)peer, (void)sigIdx, (void)ctx, (void)flags, (void)stream;
    return nccl_group_note(refuse(comm, "ncclSignal"));
}
NCCL_TWIN(ncclResult_t, Signal,
          (int peer, int sigIdx, int ctx, unsigned int flags, ncclComm_t comm,
           cudaStream_t stream));

NCCL_EXPORT ncclResult_t ncclWaitSignal(int nDesc, ncclWaitSignalDesc_t *signalDescs,
                                        ncclComm_t comm, cudaStream_t stream)
{
    (void)nDesc, (void)signalDescs, (void)stream;
    return nccl_group_note(refuse(comm, "ncclWaitSignal"));
}
NCCL_TWIN(ncclResult_t, WaitSignal,
          (int nDesc, ncclWaitSignalDesc_t *signalDescs, ncclComm_t comm, cudaStream_t stream));
