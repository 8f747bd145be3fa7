/* SPDX-License-Identifier: Apache-2.0 */
/* life.c: communicators from ids, their end, and what can be asked of them. Those made of others are in child.c. */
#include "shims/nccl/internal.h"
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(ncclUniqueId) == sizeof(struct choir_id), "an ncclUniqueId carries Choir's");

/* --- beginning ------------------------------------------------------------------------------------ */

static ncclResult_t make_id(ncclUniqueId *uniqueId)
{
    struct choir_id id;
    if (!uniqueId)
        return nccl_fail(ncclInvalidArgument, "ncclGetUniqueId: uniqueId is NULL");
    ncclResult_t r = nccl_start();
    if (r == ncclSuccess)
        r = nccl_result(choir_id_create(&id), "ncclGetUniqueId");
    if (r == ncclSuccess)
        memcpy(uniqueId, &id, sizeof(id));
    return r;
}

NCCL_EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId *uniqueId)
{
    return nccl_group_note(make_id(uniqueId));
}
NCCL_TWIN(ncclResult_t, GetUniqueId, (ncclUniqueId * uniqueId));

static enum choir_status run_init(struct nccl_job *job, const struct choir_config *config,
                                  choir_comm **made)
{
    struct choir_id id;
    memcpy(&id, &job->id, sizeof(id));
    return choir_comm_create(&id, job->rank, job->size, config, made);
}

/* gpu NULL: the thread's. */
static ncclResult_t init(ncclComm_t *comm, int size, const ncclUniqueId *id, int rank,
                         const ncclConfig_t *config, const struct nccl_gpu *gpu, const char *call)
{
    struct nccl_config own;
    struct nccl_job job = {.run = run_init, .call = call, .out = comm, .rank = rank, .size = size};
    if (!comm || !id)
        return nccl_fail(ncclInvalidArgument, "%s: %s is NULL", call, comm ? "commId" : "comm");
    if (size < 1 || rank < 0 || rank >= size)
        return nccl_fail(ncclInvalidArgument, "%s: rank %d is not one of %d ranks", call, rank,
                         size);
    nccl_comm_tell(comm, NULL);
    ncclResult_t r = nccl_start();
    if (r == ncclSuccess)
        r = nccl_config_read(config, NULL, call, &own);
    if (r == ncclSuccess && gpu)
        job.gpu = *gpu;
    else if (r == ncclSuccess)
        r = nccl_gpu_here(&job.gpu);
    if (r != ncclSuccess)
        return r;
    job.id = *id;
    job.blocking = own.blocking;
    job.comm = nccl_comm_new(&own, &job.gpu);
    return job.comm ? nccl_job_submit(&job) : nccl_fail(ncclSystemError, "%s: out of memory", call);
}

NCCL_EXPORT ncclResult_t ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId commId,
                                          int rank)
{
    return nccl_group_note(init(comm, nranks, &commId, rank, NULL, NULL, "ncclCommInitRank"));
}
NCCL_TWIN(ncclResult_t, CommInitRank,
          (ncclComm_t * comm, int nranks, ncclUniqueId commId, int rank));

NCCL_EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId commId,
                                                int rank, ncclConfig_t *config)
{
    return nccl_group_note(
        init(comm, nranks, &commId, rank, config, NULL, "ncclCommInitRankConfig"));
}
NCCL_TWIN(ncclResult_t, CommInitRankConfig,
          (ncclComm_t * comm, int nranks, ncclUniqueId commId, int rank, ncclConfig_t *config));

/* Several ids are NCCL's way to spread the work of the rendezvous. Here that is some hundred bytes a rank, since ranks learn of each
 * other over a tree, so the first is enough. */
NCCL_EXPORT ncclResult_t ncclCommInitRankScalable(ncclComm_t *newcomm, int nranks, int myrank,
                                                  int nId, ncclUniqueId *commIds,
                                                  ncclConfig_t *config)
{
    const char *call = "ncclCommInitRankScalable";
    if (nId < 1 || nId > nranks)
        return nccl_group_note(nccl_fail(
            ncclInvalidArgument, "%s: nId is %d, not in 1..%d (nranks)", call, nId, nranks));
    return nccl_group_note(init(newcomm, nranks, commIds, myrank, config, NULL, call));
}
NCCL_TWIN(ncclResult_t, CommInitRankScalable,
          (ncclComm_t * newcomm, int nranks, int myrank, int nId, ncclUniqueId *commIds,
           ncclConfig_t *config));

static ncclResult_t check_devices(int ndev, const int *devlist)
{
    for (int i = 0; devlist && i < ndev; i++)
        for (int k = 0; k < i; k++)
            if (devlist[k] == devlist[i])
                return nccl_fail(ncclInvalidUsage, "ncclCommInitAll: device %d is listed twice",
                                 devlist[i]);
    return ncclSuccess;
}

static ncclResult_t init_all(ncclComm_t *comm, int ndev, const int *devlist)
{
    ncclUniqueId id;
    if (!comm || ndev < 1)
        return nccl_fail(ncclInvalidArgument, "ncclCommInitAll: %s",
                         comm ? "ndev is below 1" : "comm is NULL");
    ncclResult_t r = check_devices(ndev, devlist);
    if (r == ncclSuccess)
        r = make_id(&id);
    if (r != ncclSuccess)
        return r;
    nccl_group_start();
    for (int i = 0; i < ndev; i++)
        comm[i] = NULL;
    for (int i = 0; i < ndev && r == ncclSuccess; i++) {
        struct nccl_gpu gpu;
        r = nccl_gpu_at(devlist ? devlist[i] : i, &gpu);
        if (r == ncclSuccess)
            r = init(&comm[i], ndev, &id, i, NULL, &gpu, "ncclCommInitAll");
    }
    nccl_group_note(r);
    ncclResult_t ended = nccl_group_end(NULL);
    return r == ncclSuccess ? ended : r;
}

NCCL_EXPORT ncclResult_t ncclCommInitAll(ncclComm_t *comm, int ndev, const int *devlist)
{
    return nccl_group_note(init_all(comm, ndev, devlist));
}
NCCL_TWIN(ncclResult_t, CommInitAll, (ncclComm_t * comm, int ndev, const int *devlist));

/* --- end ------------------------------------------------------------------------------------------ */

static ncclResult_t finalize(ncclComm_t comm)
{
    ncclResult_t r = nccl_comm_enter_closing(comm, "ncclCommFinalize");
    if (r != ncclSuccess)
        return r;
    if (!atomic_load(&comm->revoked)) /* or by ncclCommShrink: nothing is under way */
        r = nccl_result(choir_comm_finalize(atomic_load(&comm->choir)), "ncclCommFinalize");
    nccl_comm_leave(comm);
    return r;
}

ncclResult_t nccl_comm_finish(ncclComm_t comm, enum nccl_end how)
{
    if (how == NCCL_FINALIZE)
        return finalize(comm);
    return nccl_comm_end(comm, false)
               ? ncclSuccess
               : nccl_fail(ncclInvalidArgument, "ncclCommDestroy: comm was aborted meanwhile");
}

/* Waits until what was called has ended, which in Choir takes no peer: it is not long, and communicators that are not
 * blocking do the same. */
static ncclResult_t finalize_or_collect(ncclComm_t comm)
{
    if (!comm)
        return ncclSuccess;
    ncclResult_t r = nccl_comm_enter(comm, "ncclCommFinalize");
    if (r != ncclSuccess)
        return r;
    if (atomic_exchange(&comm->finalized, true))
        r = nccl_fail(ncclInvalidArgument, "ncclCommFinalize: comm was finalized or revoked");
    nccl_comm_leave(comm);
    if (r == ncclSuccess)
        r = nccl_group_open() ? nccl_group_add_end(comm, NCCL_FINALIZE) : finalize(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    return nccl_group_note(finalize_or_collect(comm));
}
NCCL_TWIN(ncclResult_t, CommFinalize, (ncclComm_t comm));

static ncclResult_t destroy(ncclComm_t comm)
{
    if (!comm)
        return ncclSuccess;
    ncclResult_t r = nccl_comm_enter_any(comm, "ncclCommDestroy");
    if (r != ncclSuccess)
        return r;
    uint32_t live = NCCL_LIVE;
    if (!atomic_compare_exchange_strong(&comm->item.life, &live, NCCL_CLOSING))
        r = nccl_fail(ncclInvalidArgument, "ncclCommDestroy: comm was destroyed already");
    nccl_comm_leave(comm);
    if (r == ncclSuccess && nccl_group_open())
        return nccl_group_add_end(comm, NCCL_DESTROY);
    return r == ncclSuccess ? nccl_comm_finish(comm, NCCL_DESTROY) : r;
}

NCCL_EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    return nccl_group_note(destroy(comm));
}
NCCL_TWIN(ncclResult_t, CommDestroy, (ncclComm_t comm));

/* At once, also in a group: its calls that were collected fail at the group's end. */
static ncclResult_t abort_comm(ncclComm_t comm)
{
    if (!comm)
        return ncclSuccess;
    ncclResult_t r = nccl_comm_enter_any(comm, "ncclCommAbort");
    if (r != ncclSuccess)
        return r;
    nccl_comm_leave(comm);
    return nccl_comm_end(comm, true)
               ? ncclSuccess
               : nccl_fail(ncclInvalidArgument, "ncclCommAbort: comm was destroyed meanwhile");
}

NCCL_EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    return nccl_group_note(abort_comm(comm));
}
NCCL_TWIN(ncclResult_t, CommAbort, (ncclComm_t comm));

static ncclResult_t revoke(ncclComm_t comm, int flags)
{
    if (!comm)
        return ncclSuccess;
    if (flags != NCCL_REVOKE_DEFAULT)
        return nccl_fail(ncclInvalidArgument, "ncclCommRevoke: revokeFlags is %d, not 0", flags);
    ncclResult_t r = nccl_comm_enter(comm, "ncclCommRevoke");
    if (r != ncclSuccess)
        return r;
    if (atomic_exchange(&comm->finalized, true))
        r = nccl_fail(ncclInvalidArgument, "ncclCommRevoke: comm was finalized or revoked");
    else
        r = nccl_result(choir_comm_revoke(atomic_load(&comm->choir)), "ncclCommRevoke");
    if (r == ncclSuccess)
        atomic_store(&comm->revoked, true);
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclCommRevoke(ncclComm_t comm, int revokeFlags)
{
    return nccl_group_note(revoke(comm, revokeFlags));
}
NCCL_TWIN(ncclResult_t, CommRevoke, (ncclComm_t comm, int revokeFlags));

/* --- questions ------------------------------------------------------------------------------------ */

NCCL_EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *asyncError)
{
    if (!asyncError)
        return nccl_fail(ncclInvalidArgument, "ncclCommGetAsyncError: asyncError is NULL");
    ncclResult_t r = nccl_comm_enter_any(comm, "ncclCommGetAsyncError");
    if (r != ncclSuccess)
        return r;
    *asyncError = nccl_comm_state(comm);
    nccl_comm_leave(comm);
    return ncclSuccess;
}
NCCL_TWIN(ncclResult_t, CommGetAsyncError, (ncclComm_t comm, ncclResult_t *asyncError));

enum question { SIZE, RANK, DEVICE };
static ncclResult_t answer(ncclComm_t comm, enum question what, int *value, const char *call)
{
    if (!value)
        return nccl_fail(ncclInvalidArgument, "%s: no place for the answer", call);
    ncclResult_t r = nccl_comm_enter(comm, call);
    if (r != ncclSuccess)
        return r;
    *value = what == SIZE ? comm->size : what == RANK ? comm->rank : comm->gpu.ordinal;
    nccl_comm_leave(comm);
    return ncclSuccess;
}

NCCL_EXPORT ncclResult_t ncclCommCount(const ncclComm_t comm, int *count)
{
    return answer(comm, SIZE, count, "ncclCommCount");
}
NCCL_TWIN(ncclResult_t, CommCount, (const ncclComm_t comm, int *count));

NCCL_EXPORT ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
    return answer(comm, RANK, rank, "ncclCommUserRank");
}
NCCL_TWIN(ncclResult_t, CommUserRank, (const ncclComm_t comm, int *rank));

NCCL_EXPORT ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device)
{
    return answer(comm, DEVICE, device, "ncclCommCuDevice");
}
NCCL_TWIN(ncclResult_t, CommCuDevice, (const ncclComm_t comm, int *device));
