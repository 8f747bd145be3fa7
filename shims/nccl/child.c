/* SPDX-License-Identifier: Apache-2.0 */
/* child.c: communicators made of others: split, shrink and grow. They are on their parent's device. */
#include "shims/nccl/internal.h"
#include "base/base.h"
#include <stdlib.h>
#include <string.h>

/* Begins a job: comm is entered, and left by submit or abandon. */
static ncclResult_t begin(ncclComm_t comm, ncclComm_t *newcomm, const ncclConfig_t *config,
                          struct nccl_config *own, struct nccl_job *job)
{
    if (!newcomm)
        return nccl_fail(ncclInvalidArgument, "%s: newcomm is NULL", job->call);
    nccl_comm_tell(newcomm, NULL);
    ncclResult_t r = nccl_comm_enter(comm, job->call);
    if (r != ncclSuccess)
        return r;
    r = nccl_config_read(config, &comm->config, job->call, own);
    if (r != ncclSuccess) {
        nccl_comm_leave(comm);
        return r;
    }
    job->parent = comm;
    job->out = newcomm;
    job->gpu = comm->gpu;
    job->blocking = own->blocking;
    return ncclSuccess;
}

static ncclResult_t abandon(struct nccl_job *job, ncclResult_t r)
{
    if (job->parent)
        nccl_comm_leave(job->parent);
    free(job->exclude);
    return r;
}

static ncclResult_t submit(struct nccl_job *job, const struct nccl_config *own, bool child)
{
    if (child && !(job->comm = nccl_comm_new(own, &job->gpu)))
        return abandon(job, nccl_fail(ncclSystemError, "%s: out of memory", job->call));
    ncclComm_t parent = job->parent;
    ncclResult_t r = nccl_job_submit(job);
    if (parent)
        nccl_comm_leave(parent);
    return r;
}

/* --- split ---------------------------------------------------------------------------------------- */

static enum choir_status run_split(struct nccl_job *job, const struct choir_config *config,
                                   choir_comm **made)
{
    return choir_comm_split(atomic_load(&job->parent->choir), job->color, job->key, config, made);
}

static ncclResult_t split(ncclComm_t comm, int color, int key, ncclComm_t *newcomm,
                          const ncclConfig_t *config)
{
    struct nccl_config own;
    struct nccl_job job = {.run = run_split, .call = "ncclCommSplit", .color = color, .key = key};
    ncclResult_t r = begin(comm, newcomm, config, &own, &job);
    if (r != ncclSuccess)
        return r;
    if (color < 0 && color != NCCL_SPLIT_NOCOLOR)
        return abandon(&job, nccl_fail(ncclInvalidArgument,
                                       "ncclCommSplit: color is %d; give one from 0, or "
                                       "NCCL_SPLIT_NOCOLOR",
                                       color));
    return submit(&job, &own, color != NCCL_SPLIT_NOCOLOR);
}

NCCL_EXPORT ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *newcomm,
                                       ncclConfig_t *config)
{
    return nccl_group_note(split(comm, color, key, newcomm, config));
}
NCCL_TWIN(ncclResult_t, CommSplit,
          (ncclComm_t comm, int color, int key, ncclComm_t *newcomm, ncclConfig_t *config));

/* --- shrink --------------------------------------------------------------------------------------- */

/* NCCL_SHRINK_ABORT ends what the parent does on all ranks, those that are left out included: it cannot be used afterwards. What
 * was wrong with it has been dealt with: as in NCCL it has no error then, which PyTorch asks for. */
static enum choir_status run_shrink(struct nccl_job *job, const struct choir_config *config,
                                    choir_comm **made)
{
    choir_comm *parent = atomic_load(&job->parent->choir);
    if (job->flags & NCCL_SHRINK_ABORT) {
        choir_comm_revoke(parent);
        atomic_store(&job->parent->revoked, true);
    }
    return choir_comm_shrink(parent, job->exclude, job->excludes, config, made);
}

static ncclResult_t check_excluded(ncclComm_t comm, const int *list, int count)
{
    if (!list || count < 1)
        return nccl_fail(ncclInvalidArgument, "ncclCommShrink: %s",
                         list ? "excludeRanksCount is below 1" : "excludeRanksList is NULL");
    for (int i = 0; i < count; i++)
        if (list[i] < 0 || list[i] >= comm->size || list[i] == comm->rank)
            return nccl_fail(ncclInvalidArgument,
                             "ncclCommShrink: excludeRanksList[%d] is %d, which is %s", i, list[i],
                             list[i] == comm->rank ? "the calling rank" : "no rank");
    return ncclSuccess;
}

static ncclResult_t shrink(ncclComm_t comm, const int *list, int count, ncclComm_t *newcomm,
                           const ncclConfig_t *config, int flags)
{
    struct nccl_config own;
    struct nccl_job job = {.run = run_shrink, .call = "ncclCommShrink", .flags = flags};
    ncclResult_t r = begin(comm, newcomm, config, &own, &job);
    if (r != ncclSuccess)
        return r;
    if (flags != NCCL_SHRINK_DEFAULT && flags != NCCL_SHRINK_ABORT)
        r = nccl_fail(ncclInvalidArgument, "ncclCommShrink: shrinkFlags is %d", flags);
    else
        r = check_excluded(comm, list, count);
    if (r != ncclSuccess)
        return abandon(&job, r);
    job.exclude = malloc((size_t)count * sizeof(*job.exclude));
    if (!job.exclude)
        return abandon(&job, nccl_fail(ncclSystemError, "ncclCommShrink: out of memory"));
    memcpy(job.exclude, list, (size_t)count * sizeof(*job.exclude));
    job.excludes = count;
    return submit(&job, &own, true);
}

NCCL_EXPORT ncclResult_t ncclCommShrink(ncclComm_t comm, int *excludeRanksList,
                                        int excludeRanksCount, ncclComm_t *newcomm,
                                        ncclConfig_t *config, int shrinkFlags)
{
    return nccl_group_note(
        shrink(comm, excludeRanksList, excludeRanksCount, newcomm, config, shrinkFlags));
}
NCCL_TWIN(ncclResult_t, CommShrink,
          (ncclComm_t comm, int *excludeRanksList, int excludeRanksCount, ncclComm_t *newcomm,
           ncclConfig_t *config, int shrinkFlags));

/* --- grow ----------------------------------------------------------------------------------------- */

static ncclResult_t make_id(ncclComm_t comm, ncclUniqueId *uniqueId)
{
    struct choir_id id;
    if (!uniqueId)
        return nccl_fail(ncclInvalidArgument, "ncclCommGetUniqueId: uniqueId is NULL");
    ncclResult_t r = nccl_comm_enter(comm, "ncclCommGetUniqueId");
    if (r != ncclSuccess)
        return r;
    r = nccl_result(choir_id_create(&id), "ncclCommGetUniqueId");
    if (r == ncclSuccess) {
        memcpy(uniqueId, &id, sizeof(id));
        comm->grow = *uniqueId;
        comm->has_grow = true;
    }
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclCommGetUniqueId(ncclComm_t comm, ncclUniqueId *uniqueId)
{
    return nccl_group_note(make_id(comm, uniqueId));
}
NCCL_TWIN(ncclResult_t, CommGetUniqueId, (ncclComm_t comm, ncclUniqueId *uniqueId));

/* Only the rank that made the id need have it: it tells the others of the parent. */
static enum choir_status agree_on_id(struct nccl_job *job)
{
    const ncclUniqueId none = {{0}};
    if (job->parent) {
        enum choir_status st =
            choir_all_reduce(atomic_load(&job->parent->choir), &job->id, &job->id, sizeof(job->id),
                             CHOIR_UINT8, CHOIR_BOR, NULL);
        if (st != CHOIR_OK)
            return st;
    }
    if (!memcmp(&job->id, &none, sizeof(none)))
        return base_fail(CHOIR_ERR_ARGUMENT, "one rank of comm passes the id that it has made",
                         "no rank of comm has an id of ncclCommGetUniqueId");
    return CHOIR_OK;
}

static enum choir_status run_grow(struct nccl_job *job, const struct choir_config *config,
                                  choir_comm **made)
{
    choir_comm *parent = job->parent ? atomic_load(&job->parent->choir) : NULL;
    struct choir_id id;
    memcpy(&id, &job->id, sizeof(id));
    return choir_comm_grow(parent, &id, job->rank, job->size, config, made);
}

static ncclResult_t begin_newcomer(ncclComm_t *newcomm, const ncclUniqueId *id, int rank, int size,
                                   const ncclConfig_t *config, struct nccl_config *own,
                                   struct nccl_job *job)
{
    if (!newcomm || !id)
        return nccl_fail(ncclInvalidArgument, "ncclCommGrow: %s is NULL; a new rank passes both",
                         newcomm ? "uniqueId" : "newcomm");
    nccl_comm_tell(newcomm, NULL);
    if (rank < 0 || rank >= size)
        return nccl_fail(ncclInvalidArgument, "ncclCommGrow: rank %d is not in 0..%d", rank,
                         size - 1);
    ncclResult_t r = nccl_start();
    if (r == ncclSuccess)
        r = nccl_config_read(config, NULL, job->call, own);
    if (r == ncclSuccess)
        r = nccl_gpu_here(&job->gpu);
    job->out = newcomm;
    job->rank = rank;
    job->blocking = own->blocking;
    return r;
}

static ncclResult_t grow(ncclComm_t comm, int size, const ncclUniqueId *id, int rank,
                         ncclComm_t *newcomm, const ncclConfig_t *config)
{
    struct nccl_config own = {0};
    struct nccl_job job = {
        .agree = agree_on_id, .run = run_grow, .call = "ncclCommGrow", .size = size};
    ncclResult_t r = comm ? begin(comm, newcomm, config, &own, &job)
                          : begin_newcomer(newcomm, id, rank, size, config, &own, &job);
    if (r != ncclSuccess)
        return r;
    if (id)
        job.id = *id;
    if (comm) {
        if (rank != -1)
            return abandon(&job, nccl_fail(ncclInvalidArgument,
                                           "ncclCommGrow: rank is %d; ranks of comm keep theirs "
                                           "and pass -1",
                                           rank));
        if (size <= comm->size)
            return abandon(&job,
                           nccl_fail(ncclInvalidArgument, "ncclCommGrow: nRanks is %d, comm has %d",
                                     size, comm->size));
        if (!id && comm->has_grow)
            job.id = comm->grow;
        comm->has_grow = false;
        job.rank = comm->rank;
    }
    return submit(&job, &own, true);
}

NCCL_EXPORT ncclResult_t ncclCommGrow(ncclComm_t comm, int nRanks, const ncclUniqueId *uniqueId,
                                      int rank, ncclComm_t *newcomm, ncclConfig_t *config)
{
    return nccl_group_note(grow(comm, nRanks, uniqueId, rank, newcomm, config));
}
NCCL_TWIN(ncclResult_t, CommGrow,
          (ncclComm_t comm, int nRanks, const ncclUniqueId *uniqueId, int rank, ncclComm_t *newcomm,
           ncclConfig_t *config));
