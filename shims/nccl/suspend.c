/* SPDX-License-Identifier: Apache-2.0 */
/* suspend.c: what a communicator holds, and giving its GPU memory back for a while, which all its ranks do together. */
#include "shims/nccl/internal.h"

static enum choir_status run_suspend(struct nccl_job *job, const struct choir_config *config,
                                     choir_comm **made)
{
    (void)config, (void)made;
    return choir_comm_suspend(atomic_load(&job->parent->choir));
}

static enum choir_status run_resume(struct nccl_job *job, const struct choir_config *config,
                                    choir_comm **made)
{
    (void)config, (void)made;
    return choir_comm_resume(atomic_load(&job->parent->choir));
}

static ncclResult_t submit(struct nccl_job job)
{
    ncclComm_t comm = job.parent;
    ncclResult_t r = nccl_comm_enter(comm, job.call);
    if (r != ncclSuccess)
        return r;
    job.gpu = comm->gpu;
    job.blocking = comm->config.blocking;
    r = nccl_job_submit(&job);
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclCommSuspend(ncclComm_t comm, int flags)
{
    if (flags != NCCL_SUSPEND_MEM)
        return nccl_group_note(nccl_fail(
            ncclInvalidArgument, "ncclCommSuspend: flags is %d, not NCCL_SUSPEND_MEM", flags));
    return nccl_group_note(
        submit((struct nccl_job){.run = run_suspend, .call = "ncclCommSuspend", .parent = comm}));
}
NCCL_TWIN(ncclResult_t, CommSuspend, (ncclComm_t comm, int flags));

NCCL_EXPORT ncclResult_t ncclCommResume(ncclComm_t comm)
{
    return nccl_group_note(
        submit((struct nccl_job){.run = run_resume, .call = "ncclCommResume", .parent = comm}));
}
NCCL_TWIN(ncclResult_t, CommResume, (ncclComm_t comm));

/* On host memory, and where GPU memory goes through the host, nothing can be given back; on host memory there is no GPU memory to tell
 * of either, and what it holds of the host's is all that there is. */
static uint64_t figure(const ncclComm_t comm, ncclCommMemStat_t stat, const struct choir_memory *m)
{
    uint64_t held = comm->gpu.context ? m->device_bytes + m->suspended_bytes
                                      : m->private_bytes + m->shared_bytes;
    bool can = comm->gpu.context && nccl_rma_offered(comm);
    switch (stat) {
    case ncclStatGpuMemSuspend:
        return can ? held : 0;
    case ncclStatGpuMemSuspended:
        return m->suspended_bytes != 0;
    case ncclStatGpuMemPersist:
        return can ? 0 : held;
    case ncclStatGpuMemTotal:
        break;
    }
    return held;
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
        *value = figure(comm, stat, &m);
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclCommMemStats(ncclComm_t comm, ncclCommMemStat_t stat, uint64_t *value)
{
    return nccl_group_note(stats(comm, stat, value));
}
NCCL_TWIN(ncclResult_t, CommMemStats, (ncclComm_t comm, ncclCommMemStat_t stat, uint64_t *value));
