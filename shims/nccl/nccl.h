/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nccl.h: the binary interface of NCCL 2.28 to 2.30, for Choir's libnccl.so.2. Written from names, values and layouts; programs
 * that were compiled with NVIDIA's own header run on the same library. What each call means is NCCL's user guide; what differs
 * is in shims/nccl/README.md. It needs no CUDA header: a cudaStream_t is a pointer to an incomplete structure.
 *
 * Every function has a twin whose name begins with pnccl, for tools that put themselves in front of the first.
 */
#ifndef NCCL_H_
#define NCCL_H_

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NCCL_MAJOR 2
#define NCCL_MINOR 29
#define NCCL_PATCH 7
#define NCCL_SUFFIX ""
#define NCCL_VERSION(X, Y, Z)                                                                      \
    (((X) <= 2 && (Y) <= 8) ? (X)*1000 + (Y)*100 + (Z) : (X)*10000 + (Y)*100 + (Z))
#define NCCL_VERSION_CODE 22907

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *cudaStream_t; /* CUDA says the same */

typedef struct ncclComm *ncclComm_t;
#define NCCL_COMM_NULL NULL
typedef struct ncclWindow_vidmem *ncclWindow_t;

#define NCCL_UNIQUE_ID_BYTES 128
typedef struct {
    char internal[NCCL_UNIQUE_ID_BYTES];
} ncclUniqueId;

typedef enum {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclSystemError = 2,
    ncclInternalError = 3,
    ncclInvalidArgument = 4,
    ncclInvalidUsage = 5,
    ncclRemoteError = 6,
    ncclInProgress = 7,
    ncclTimeout = 8, /* since 2.30; never returned here */
    ncclNumResults = 9
} ncclResult_t;

typedef enum {
    ncclInt8 = 0,
    ncclChar = 0,
    ncclUint8 = 1,
    ncclInt32 = 2,
    ncclInt = 2,
    ncclUint32 = 3,
    ncclInt64 = 4,
    ncclUint64 = 5,
    ncclFloat16 = 6,
    ncclHalf = 6,
    ncclFloat32 = 7,
    ncclFloat = 7,
    ncclFloat64 = 8,
    ncclDouble = 8,
    ncclBfloat16 = 9,
    ncclFloat8e4m3 = 10,
    ncclFloat8e5m2 = 11,
    ncclNumTypes = 12
} ncclDataType_t;

typedef enum { ncclNumOps_dummy = 5 } ncclRedOp_dummy_t;
typedef enum {
    ncclSum = 0,
    ncclProd = 1,
    ncclMax = 2,
    ncclMin = 3,
    ncclAvg = 4,
    ncclNumOps = 5,           /* operations of ncclRedOpCreate* count from here ... */
    ncclMaxRedOp = 0x7fffffff /* ... to here */
} ncclRedOp_t;

typedef enum {
    ncclScalarDevice = 0,       /* read when the operation runs */
    ncclScalarHostImmediate = 1 /* read by ncclRedOpCreate* */
} ncclScalarResidence_t;

#define NCCL_API_MAGIC 0xcafebeef
#define NCCL_CONFIG_UNDEF_INT INT_MIN
#define NCCL_CONFIG_UNDEF_PTR NULL
#define NCCL_SPLIT_NOCOLOR -1
#define NCCL_UNDEF_FLOAT -1.0f
#define NCCL_WIN_DEFAULT 0x00
#define NCCL_WIN_COLL_SYMMETRIC 0x01
#define NCCL_WIN_STRICT_ORDERING 0x02
#define NCCL_WIN_REQUIRED_ALIGNMENT 4096
#define NCCL_CTA_POLICY_DEFAULT 0x00
#define NCCL_CTA_POLICY_EFFICIENCY 0x01
#define NCCL_CTA_POLICY_ZERO 0x02
#define NCCL_SHRINK_DEFAULT 0x00
#define NCCL_SHRINK_ABORT 0x01
#define NCCL_REVOKE_DEFAULT 0x00
#define NCCL_SUSPEND_MEM 0x01

/* Read up to its own size, and what `version` knows of it. */
typedef struct ncclConfig_v23000 {
    size_t size;
    unsigned int magic;
    unsigned int version;
    int blocking; /* since 2.14 */
    int cgaClusterSize, minCTAs, maxCTAs;
    const char *netName; /* since 2.17 */
    int splitShare;
    int trafficClass; /* since 2.25 */
    const char *commName;
    int collnetEnable, CTAPolicy, shrinkShare, nvlsCTAs; /* since 2.27 */
    int nChannelsPerNetPeer, nvlinkCentricSched;         /* since 2.28 */
    int graphUsageMode, numRmaCtx;                       /* since 2.29 */
    int maxP2pPeers;                                     /* since 2.30.0 */
    int graphStreamOrdering;                             /* since 2.30.5 */
} ncclConfig_t;

#define NCCL_CONFIG_INITIALIZER                                                                    \
    {                                                                                              \
        sizeof(ncclConfig_t), NCCL_API_MAGIC, NCCL_VERSION(NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH),    \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_PTR, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_PTR, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT,                   \
            NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT, NCCL_CONFIG_UNDEF_INT                    \
    }

#define NCCL_SIM_INFO_MAGIC 0x74685283
typedef struct ncclSimInfo_v22200 {
    size_t size;
    unsigned int magic;
    unsigned int version;
    float estimatedTime; /* microseconds */
} ncclSimInfo_t;
#define NCCL_SIM_INFO_INITIALIZER                                                                  \
    {                                                                                              \
        sizeof(ncclSimInfo_t), NCCL_SIM_INFO_MAGIC,                                                \
            NCCL_VERSION(NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH), NCCL_UNDEF_FLOAT                     \
    }

typedef enum {
    ncclStatGpuMemSuspend = 0,   /* bytes that ncclCommSuspend can free */
    ncclStatGpuMemSuspended = 1, /* 1: they are free now */
    ncclStatGpuMemPersist = 2,   /* bytes that stay */
    ncclStatGpuMemTotal = 3
} ncclCommMemStat_t;

typedef struct {
    int opCnt, peer, sigIdx, ctx;
} ncclWaitSignalDesc_t;

typedef struct ncclParamHandle *ncclParamHandle_t;

#define NCCL_DECLARE(result, name, parameters)                                                     \
    result nccl##name parameters;                                                                  \
    result pnccl##name parameters;

/* --- the library ---------------------------------------------------------------------------------- */
NCCL_DECLARE(ncclResult_t, GetVersion, (int *version))
NCCL_DECLARE(const char *, GetErrorString, (ncclResult_t result))
NCCL_DECLARE(const char *, GetLastError, (ncclComm_t comm))
NCCL_DECLARE(void, ResetDebugInit, (void))
void ncclResetDebugInitInternal(void); /* without a twin */

/* --- communicators -------------------------------------------------------------------------------- */
NCCL_DECLARE(ncclResult_t, GetUniqueId, (ncclUniqueId * uniqueId))
NCCL_DECLARE(ncclResult_t, CommInitRank,
             (ncclComm_t * comm, int nranks, ncclUniqueId commId, int rank))
NCCL_DECLARE(ncclResult_t, CommInitRankConfig,
             (ncclComm_t * comm, int nranks, ncclUniqueId commId, int rank, ncclConfig_t *config))
NCCL_DECLARE(ncclResult_t, CommInitRankScalable,
             (ncclComm_t * newcomm, int nranks, int myrank, int nId, ncclUniqueId *commIds,
              ncclConfig_t *config))
NCCL_DECLARE(ncclResult_t, CommInitAll, (ncclComm_t * comm, int ndev, const int *devlist))
NCCL_DECLARE(ncclResult_t, CommSplit,
             (ncclComm_t comm, int color, int key, ncclComm_t *newcomm, ncclConfig_t *config))
NCCL_DECLARE(ncclResult_t, CommShrink,
             (ncclComm_t comm, int *excludeRanksList, int excludeRanksCount, ncclComm_t *newcomm,
              ncclConfig_t *config, int shrinkFlags))
NCCL_DECLARE(ncclResult_t, CommGetUniqueId, (ncclComm_t comm, ncclUniqueId *uniqueId))
NCCL_DECLARE(ncclResult_t, CommGrow,
             (ncclComm_t comm, int nRanks, const ncclUniqueId *uniqueId, int rank,
              ncclComm_t *newcomm, ncclConfig_t *config))
NCCL_DECLARE(ncclResult_t, CommFinalize, (ncclComm_t comm))
NCCL_DECLARE(ncclResult_t, CommDestroy, (ncclComm_t comm))
NCCL_DECLARE(ncclResult_t, CommAbort, (ncclComm_t comm))
NCCL_DECLARE(ncclResult_t, CommRevoke, (ncclComm_t comm, int revokeFlags))
NCCL_DECLARE(ncclResult_t, CommGetAsyncError, (ncclComm_t comm, ncclResult_t *asyncError))
NCCL_DECLARE(ncclResult_t, CommCount, (const ncclComm_t comm, int *count))
NCCL_DECLARE(ncclResult_t, CommUserRank, (const ncclComm_t comm, int *rank))
NCCL_DECLARE(ncclResult_t, CommCuDevice, (const ncclComm_t comm, int *device))
NCCL_DECLARE(ncclResult_t, CommSuspend, (ncclComm_t comm, int flags))
NCCL_DECLARE(ncclResult_t, CommResume, (ncclComm_t comm))
NCCL_DECLARE(ncclResult_t, CommMemStats, (ncclComm_t comm, ncclCommMemStat_t stat, uint64_t *value))

/* --- memory --------------------------------------------------------------------------------------- */
NCCL_DECLARE(ncclResult_t, MemAlloc, (void **ptr, size_t size))
NCCL_DECLARE(ncclResult_t, MemFree, (void *ptr))
NCCL_DECLARE(ncclResult_t, CommRegister,
             (const ncclComm_t comm, void *buff, size_t size, void **handle))
NCCL_DECLARE(ncclResult_t, CommDeregister, (const ncclComm_t comm, void *handle))
NCCL_DECLARE(ncclResult_t, CommWindowRegister,
             (ncclComm_t comm, void *buff, size_t size, ncclWindow_t *win, int winFlags))
NCCL_DECLARE(ncclResult_t, CommWindowDeregister, (ncclComm_t comm, ncclWindow_t win))
NCCL_DECLARE(ncclResult_t, WinGetUserPtr, (ncclComm_t comm, ncclWindow_t win, void **outUserPtr))

/* --- operations ----------------------------------------------------------------------------------- */
NCCL_DECLARE(ncclResult_t, RedOpCreatePreMulSum,
             (ncclRedOp_t * op, void *scalar, ncclDataType_t datatype,
              ncclScalarResidence_t residence, ncclComm_t comm))
NCCL_DECLARE(ncclResult_t, RedOpDestroy, (ncclRedOp_t op, ncclComm_t comm))

/* --- collectives ---------------------------------------------------------------------------------- */
NCCL_DECLARE(ncclResult_t, AllReduce,
             (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
              ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, Reduce,
             (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
              ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, Broadcast,
             (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
              ncclComm_t comm, cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, Bcast,
             (void *buff, size_t count, ncclDataType_t datatype, int root, ncclComm_t comm,
              cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, ReduceScatter,
             (const void *sendbuff, void *recvbuff, size_t recvcount, ncclDataType_t datatype,
              ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, AllGather,
             (const void *sendbuff, void *recvbuff, size_t sendcount, ncclDataType_t datatype,
              ncclComm_t comm, cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, AlltoAll,
             (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype,
              ncclComm_t comm, cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, Gather,
             (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
              ncclComm_t comm, cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, Scatter,
             (const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root,
              ncclComm_t comm, cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, Send,
             (const void *sendbuff, size_t count, ncclDataType_t datatype, int peer,
              ncclComm_t comm, cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, Recv,
             (void *recvbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm,
              cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, PutSignal,
             (const void *localbuff, size_t count, ncclDataType_t datatype, int peer,
              ncclWindow_t peerWin, size_t peerWinOffset, int sigIdx, int ctx, unsigned int flags,
              ncclComm_t comm, cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, Signal,
             (int peer, int sigIdx, int ctx, unsigned int flags, ncclComm_t comm,
              cudaStream_t stream))
NCCL_DECLARE(ncclResult_t, WaitSignal,
             (int nDesc, ncclWaitSignalDesc_t *signalDescs, ncclComm_t comm, cudaStream_t stream))

NCCL_DECLARE(ncclResult_t, GroupStart, (void))
NCCL_DECLARE(ncclResult_t, GroupEnd, (void))
NCCL_DECLARE(ncclResult_t, GroupSimulateEnd, (ncclSimInfo_t * simInfo))

/* --- settings by name: not offered ------------------------------------------------------------------ */
NCCL_DECLARE(ncclResult_t, ParamBind, (ncclParamHandle_t * out, const char *key))
NCCL_DECLARE(ncclResult_t, ParamGetI8, (ncclParamHandle_t h, int8_t *out))
NCCL_DECLARE(ncclResult_t, ParamGetI16, (ncclParamHandle_t h, int16_t *out))
NCCL_DECLARE(ncclResult_t, ParamGetI32, (ncclParamHandle_t h, int32_t *out))
NCCL_DECLARE(ncclResult_t, ParamGetI64, (ncclParamHandle_t h, int64_t *out))
NCCL_DECLARE(ncclResult_t, ParamGetU8, (ncclParamHandle_t h, uint8_t *out))
NCCL_DECLARE(ncclResult_t, ParamGetU16, (ncclParamHandle_t h, uint16_t *out))
NCCL_DECLARE(ncclResult_t, ParamGetU32, (ncclParamHandle_t h, uint32_t *out))
NCCL_DECLARE(ncclResult_t, ParamGetU64, (ncclParamHandle_t h, uint64_t *out))
NCCL_DECLARE(ncclResult_t, ParamGetStr, (ncclParamHandle_t h, const char **out))
NCCL_DECLARE(ncclResult_t, ParamGet, (ncclParamHandle_t h, void *out, int maxLen, int *len))
NCCL_DECLARE(ncclResult_t, ParamGetParameter, (const char *key, const char **value, int *valueLen))
NCCL_DECLARE(ncclResult_t, ParamGetAllParameterKeys, (const char ***table, int *tableLen))
NCCL_DECLARE(void, ParamDumpAll, (void))

/* --- kernels that communicate: not offered, but for what can be asked ------------------------------- */
typedef enum { NCCL_GIN_TYPE_NONE = 0 } ncclGinType_t;
typedef struct ncclCommProperties {
    size_t size;
    unsigned int magic;
    unsigned int version;
    int rank, nRanks, cudaDev, nvmlDev;
    bool deviceApiSupport, multimemSupport;
    ncclGinType_t ginType;
    int nLsaTeams;
    bool hostRmaSupport;
    ncclGinType_t railedGinType;
} ncclCommProperties_t;
typedef struct ncclTeam {
    int nRanks, rank, stride;
} ncclTeam_t;
typedef struct ncclMultimemHandle {
    void *mcBasePtr;
} ncclMultimemHandle_t;
typedef struct ncclDevComm ncclDevComm_t;
typedef struct ncclDevCommRequirements ncclDevCommRequirements_t;
typedef struct ncclDevResourceRequirements ncclDevResourceRequirements_t;
typedef struct ncclLsaBarrierHandle ncclLsaBarrierHandle_t;
typedef struct ncclGinBarrierHandle ncclGinBarrierHandle_t;
typedef struct ncclLLA2AHandle ncclLLA2AHandle_t;
typedef struct ncclGinOutboxHandle ncclGinOutboxHandle_t;
typedef struct ncclGinInboxA2AHandle ncclGinInboxA2AHandle_t;

NCCL_DECLARE(ncclResult_t, CommQueryProperties, (ncclComm_t comm, ncclCommProperties_t *props))
NCCL_DECLARE(ncclResult_t, DevCommCreate,
             (ncclComm_t comm, ncclDevCommRequirements_t const *reqs, ncclDevComm_t *outDevComm))
NCCL_DECLARE(ncclResult_t, DevCommDestroy, (ncclComm_t comm, ncclDevComm_t const *devComm))
NCCL_DECLARE(ncclResult_t, GetLsaMultimemDevicePointer,
             (ncclWindow_t window, size_t offset, void **outPtr))
NCCL_DECLARE(ncclResult_t, GetMultimemDevicePointer,
             (ncclWindow_t window, size_t offset, ncclMultimemHandle_t multimem, void **outPtr))
NCCL_DECLARE(ncclResult_t, GetLsaDevicePointer,
             (ncclWindow_t window, size_t offset, int lsaRank, void **outPtr))
NCCL_DECLARE(ncclResult_t, GetPeerDevicePointer,
             (ncclWindow_t window, size_t offset, int peer, void **outPtr))
NCCL_DECLARE(ncclTeam_t, TeamWorld, (ncclComm_t comm))
NCCL_DECLARE(ncclTeam_t, TeamLsa, (ncclComm_t comm))
NCCL_DECLARE(ncclTeam_t, TeamRail, (ncclComm_t comm))
NCCL_DECLARE(int, TeamRankToWorld, (ncclComm_t comm, ncclTeam_t team, int rank))
NCCL_DECLARE(int, TeamRankToLsa, (ncclComm_t comm, ncclTeam_t team, int rank))
NCCL_DECLARE(ncclResult_t, LsaBarrierCreateRequirement,
             (ncclTeam_t team, int nBarriers, ncclLsaBarrierHandle_t *outHandle,
              ncclDevResourceRequirements_t *outReq))
NCCL_DECLARE(ncclResult_t, GinBarrierCreateRequirement,
             (ncclComm_t comm, ncclTeam_t team, int nBarriers, ncclGinBarrierHandle_t *outHandle,
              ncclDevResourceRequirements_t *outReq))
NCCL_DECLARE(int, LLA2ACalcSlots, (int maxElts, int maxEltSize))
NCCL_DECLARE(ncclResult_t, LLA2ACreateRequirement,
             (int nBlocks, int nSlots, ncclLLA2AHandle_t *outHandle,
              ncclDevResourceRequirements_t *outReq))
NCCL_DECLARE(ncclResult_t, GinOutboxCreateRequirement,
             (int nBlocks, int size_log2, ncclGinOutboxHandle_t *outHandle,
              ncclDevResourceRequirements_t *outReq))
NCCL_DECLARE(ncclResult_t, GinInboxA2ACreateRequirement,
             (ncclTeam_t peers, int nBlocks, int size_log2, ncclGinInboxA2AHandle_t *outHandle,
              ncclDevResourceRequirements_t *outReq))

#ifdef __cplusplus
}
#endif
#endif
