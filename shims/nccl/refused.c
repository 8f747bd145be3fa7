/* SPDX-License-Identifier: Apache-2.0 */
/*
 * refused.c: what NCCL exports and Choir does not offer: kernels of the program that communicate (their structures change from
 * release to release of NCCL, and kernels compiled into programs read them), and NCCL's settings by name. Questions about it are
 * answered truly: no rank reaches another's memory from a kernel, so its team of such ranks is itself.
 */
#include "shims/nccl/internal.h"
#include "base/base.h"
#include <string.h>

#define NO_KERNELS "Choir has no device API (ncclCommQueryProperties says so); use the host's calls"
#define REFUSED(name, why, parameters)                                                             \
    NCCL_EXPORT ncclResult_t nccl##name parameters                                                 \
    {                                                                                              \
        return nccl_group_note(nccl_refuse("nccl" #name, why));                                    \
    }                                                                                              \
    NCCL_TWIN(ncclResult_t, name, parameters)
#pragma GCC diagnostic ignored "-Wunused-parameter"

/* --- the device API ------------------------------------------------------------------------------- */
REFUSED(DevCommCreate, NO_KERNELS,
        (ncclComm_t comm, ncclDevCommRequirements_t const *reqs, ncclDevComm_t *outDevComm));
REFUSED(DevCommDestroy, NO_KERNELS, (ncclComm_t comm, ncclDevComm_t const *devComm));
REFUSED(GetLsaMultimemDevicePointer, NO_KERNELS,
        (ncclWindow_t window, size_t offset, void **outPtr));
REFUSED(GetMultimemDevicePointer, NO_KERNELS,
        (ncclWindow_t window, size_t offset, ncclMultimemHandle_t multimem, void **outPtr));
REFUSED(GetLsaDevicePointer, NO_KERNELS,
        (ncclWindow_t window, size_t offset, int lsaRank, void **outPtr));
REFUSED(GetPeerDevicePointer, NO_KERNELS,
        (ncclWindow_t window, size_t offset, int peer, void **outPtr));
REFUSED(LsaBarrierCreateRequirement, NO_KERNELS,
        (ncclTeam_t team, int nBarriers, ncclLsaBarrierHandle_t *outHandle,
         ncclDevResourceRequirements_t *outReq));
REFUSED(GinBarrierCreateRequirement, NO_KERNELS,
        (ncclComm_t comm, ncclTeam_t team, int nBarriers, ncclGinBarrierHandle_t *outHandle,
         ncclDevResourceRequirements_t *outReq));
REFUSED(LLA2ACreateRequirement, NO_KERNELS,
        (int nBlocks, int nSlots, ncclLLA2AHandle_t *outHandle,
         ncclDevResourceRequirements_t *outReq));
REFUSED(GinOutboxCreateRequirement, NO_KERNELS,
        (int nBlocks, int size_log2, ncclGinOutboxHandle_t *outHandle,
         ncclDevResourceRequirements_t *outReq));
REFUSED(GinInboxA2ACreateRequirement, NO_KERNELS,
        (ncclTeam_t peers, int nBlocks, int size_log2, ncclGinInboxA2AHandle_t *outHandle,
         ncclDevResourceRequirements_t *outReq));

NCCL_EXPORT int ncclLLA2ACalcSlots(int maxElts, int maxEltSize)
{
    nccl_refuse("ncclLLA2ACalcSlots", NO_KERNELS);
    return 0;
}
NCCL_TWIN(int, LLA2ACalcSlots, (int maxElts, int maxEltSize));

static ncclResult_t properties(ncclComm_t comm, ncclCommProperties_t *props)
{
    const size_t least = offsetof(ncclCommProperties_t, rank);
    if (!props || props->size < least || props->magic != NCCL_API_MAGIC)
        return nccl_fail(ncclInvalidArgument, "ncclCommQueryProperties: props %s",
                         props ? "was not initialised with NCCL_COMM_PROPERTIES_INITIALIZER"
                               : "is NULL");
    ncclResult_t r = nccl_comm_enter(comm, "ncclCommQueryProperties");
    if (r != ncclSuccess)
        return r;
    ncclCommProperties_t p = {.size = props->size,
                              .magic = props->magic,
                              .version = props->version,
                              .rank = comm->rank,
                              .nRanks = comm->size,
                              .cudaDev = comm->gpu.ordinal,
                              .nvmlDev = comm->gpu.ordinal,
                              .nLsaTeams = comm->size,
                              .hostRmaSupport = nccl_rma_offered(comm)};
    memcpy(props, &p, base_min(p.size, sizeof(p)));
    nccl_comm_leave(comm);
    return ncclSuccess;
}

NCCL_EXPORT ncclResult_t ncclCommQueryProperties(ncclComm_t comm, ncclCommProperties_t *props)
{
    return nccl_group_note(properties(comm, props));
}
NCCL_TWIN(ncclResult_t, CommQueryProperties, (ncclComm_t comm, ncclCommProperties_t *props));

/* All ranks, or this one; of what is no communicator: nobody. */
static ncclTeam_t team(ncclComm_t comm, bool all, const char *call)
{
    ncclTeam_t t = {0, 0, 0};
    if (nccl_comm_enter(comm, call) != ncclSuccess)
        return t;
    t = all ? (ncclTeam_t){comm->size, comm->rank, 1} : (ncclTeam_t){1, 0, 1};
    nccl_comm_leave(comm);
    return t;
}

NCCL_EXPORT ncclTeam_t ncclTeamWorld(ncclComm_t comm)
{
    return team(comm, true, "ncclTeamWorld");
}
NCCL_TWIN(ncclTeam_t, TeamWorld, (ncclComm_t comm));

NCCL_EXPORT ncclTeam_t ncclTeamLsa(ncclComm_t comm)
{
    return team(comm, false, "ncclTeamLsa");
}
NCCL_TWIN(ncclTeam_t, TeamLsa, (ncclComm_t comm));

NCCL_EXPORT ncclTeam_t ncclTeamRail(ncclComm_t comm)
{
    return team(comm, true, "ncclTeamRail");
}
NCCL_TWIN(ncclTeam_t, TeamRail, (ncclComm_t comm));

/* A team's member as seen from this rank, which is one of it. */
static int away(ncclTeam_t t, int rank)
{
    return (rank - t.rank) * t.stride;
}

NCCL_EXPORT int ncclTeamRankToWorld(ncclComm_t comm, ncclTeam_t t, int rank)
{
    return team(comm, true, "ncclTeamRankToWorld").rank + away(t, rank);
}
NCCL_TWIN(int, TeamRankToWorld, (ncclComm_t comm, ncclTeam_t team, int rank));

NCCL_EXPORT int ncclTeamRankToLsa(ncclComm_t comm, ncclTeam_t t, int rank)
{
    return team(comm, false, "ncclTeamRankToLsa").rank + away(t, rank);
}
NCCL_TWIN(int, TeamRankToLsa, (ncclComm_t comm, ncclTeam_t team, int rank));

/* --- settings by name ----------------------------------------------------------------------------- */
#define NO_SETTINGS "NCCL's settings are not Choir's; choir-info --knobs lists those"

REFUSED(ParamBind, NO_SETTINGS, (ncclParamHandle_t * out, const char *key));
REFUSED(ParamGetI8, NO_SETTINGS, (ncclParamHandle_t h, int8_t *out));
REFUSED(ParamGetI16, NO_SETTINGS, (ncclParamHandle_t h, int16_t *out));
REFUSED(ParamGetI32, NO_SETTINGS, (ncclParamHandle_t h, int32_t *out));
REFUSED(ParamGetI64, NO_SETTINGS, (ncclParamHandle_t h, int64_t *out));
REFUSED(ParamGetU8, NO_SETTINGS, (ncclParamHandle_t h, uint8_t *out));
REFUSED(ParamGetU16, NO_SETTINGS, (ncclParamHandle_t h, uint16_t *out));
REFUSED(ParamGetU32, NO_SETTINGS, (ncclParamHandle_t h, uint32_t *out));
REFUSED(ParamGetU64, NO_SETTINGS, (ncclParamHandle_t h, uint64_t *out));
REFUSED(ParamGetStr, NO_SETTINGS, (ncclParamHandle_t h, const char **out));
REFUSED(ParamGet, NO_SETTINGS, (ncclParamHandle_t h, void *out, int maxLen, int *len));
REFUSED(ParamGetParameter, NO_SETTINGS, (const char *key, const char **value, int *valueLen));
REFUSED(ParamGetAllParameterKeys, NO_SETTINGS, (const char ***table, int *tableLen));

NCCL_EXPORT void ncclParamDumpAll(void)
{
    nccl_refuse("ncclParamDumpAll", NO_SETTINGS);
}
NCCL_TWIN(void, ParamDumpAll, (void));

/* NCCL's debug settings, read anew: Choir reads CHOIR_LOG and NCCL_DEBUG once, so nothing happens. NCCL has deprecated it. */
NCCL_EXPORT void ncclResetDebugInit(void)
{
}
NCCL_TWIN(void, ResetDebugInit, (void));

NCCL_EXPORT void ncclResetDebugInitInternal(void)
{
}
