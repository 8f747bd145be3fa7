/* SPDX-License-Identifier: Apache-2.0 */
/* suspend.c: what a communicator holds, and giving its memory back for a while, which Choir does not offer yet. */
#include "shims/nccl/internal.h"

static ncclResult_t refuse(ncclComm_t comm, const char *call)
{
    ncclResult_t r = nccl_comm_enter(comm, call);
    if (r != ncclSuccess)
        return r;
    nccl_comm_leave(comm);
    return nccl_refuse(call,
                       "Choir cannot give a communicator's memory back yet; destroy it instead");
}

NCCL_EXPORT ncclResult_t ncclCommSuspend(ncclComm_t comm, int flags)
{
    if (flags != NCCL_SUSPEND_MEM)
        return nccl_group_note(nccl_fail(
            ncclInvalidArgument, "ncclCommSuspend: flags is %d, not NCCL_SUSPEND_MEM", flags));
    return nccl_group_note(refuse(comm, "ncclCommSuspend"));
}
NCCL_TWIN(ncclResult_t, CommSuspend, (ncclComm_t comm, int flags));

NCCL_EXPORT ncclResult_t ncclCommResume(ncclComm_t comm)
{
    return nccl_group_note(refuse(comm, "ncclCommResume"));
}
NCCL_TWIN(ncclResult_t, CommResume, (ncclComm_t comm));

/* On host memory there is no GPU memory to tell of: what it holds of the host's is all that there is. */
static uint64_t total(const ncclComm_t comm, const struct choir_memory *m)
{
    return comm->gpu.context ? m->device_bytes : m->private_bytes + m->shared_bytes;
}

static ncclResult_t stats(ncclComm_t comm, ncclCommMemStat_t stat, uint64_t *value)
{
    struct choir_memory m = {.bytes = sizeof(m)};
    if (!value || (unsigned)stat > ncclStatGpuMemTotal)
        return nccl_fail(ncclInvalidArgument, "ncclCommMemStats: %s",
                         value ? "stat is none" : "value is NULL");
    ncclResult_t r = nccl_comm_enter(comm, "ncclCommMemStats");
    if (r != ncclSuccess)
        return r;
    r = nccl_result(choir_comm_memory(atomic_load(&comm->choir), &m), "ncclCommMemStats");
    if (r == ncclSuccess)
        *value = stat == ncclStatGpuMemPersist || stat == ncclStatGpuMemTotal ? total(comm, &m) : 0;
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclCommMemStats(ncclComm_t comm, ncclCommMemStat_t stat, uint64_t *value)
{
    return nccl_group_note(stats(comm, stat, value));
}
NCCL_TWIN(ncclResult_t, CommMemStats, (ncclComm_t comm, ncclCommMemStat_t stat, uint64_t *value));
