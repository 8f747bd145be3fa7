/* SPDX-License-Identifier: Apache-2.0 */
/* shim.h: the built libnccl.so.2, loaded as a program would find it, for tests of it on host memory. */
#ifndef TESTS_SHIM_H
#define TESTS_SHIM_H

#include "shims/nccl/nccl.h"
#include "tests/lib/test.h"
#include <pthread.h>

/* Every function that has a twin. */
/* clang-format off */
#define SHIM_LIST(X)                                                                               \
    X(AllGather)                                                                                   \
    X(AllReduce) X(AlltoAll) X(Bcast) X(Broadcast) X(CommAbort) X(CommCount) X(CommCuDevice) X(    \
        CommDeregister) X(CommDestroy) X(CommFinalize) X(CommGetAsyncError) X(CommGetUniqueId)     \
        X(CommGrow) X(CommInitAll) X(CommInitRank) X(CommInitRankConfig) X(CommInitRankScalable)   \
            X(CommMemStats) X(CommQueryProperties) X(CommRegister) X(CommResume) X(CommRevoke) X(  \
                CommShrink) X(CommSplit) X(CommSuspend) X(CommUserRank) X(CommWindowDeregister)    \
                X(CommWindowRegister) X(DevCommCreate) X(DevCommDestroy) X(Gather)                 \
                    X(GetErrorString) X(GetLastError) X(GetLsaDevicePointer) X(                    \
                        GetLsaMultimemDevicePointer) X(GetMultimemDevicePointer)                   \
                        X(GetPeerDevicePointer) X(GetUniqueId) X(GetVersion) X(                    \
                            GinBarrierCreateRequirement) X(GinInboxA2ACreateRequirement)           \
                            X(GinOutboxCreateRequirement) X(GroupEnd) X(GroupSimulateEnd) X(       \
                                GroupStart) X(LLA2ACalcSlots) X(LLA2ACreateRequirement)            \
                                X(LsaBarrierCreateRequirement) X(MemAlloc) X(MemFree) X(ParamBind) \
                                    X(ParamDumpAll) X(ParamGet) X(ParamGetAllParameterKeys)        \
                                        X(ParamGetI16) X(ParamGetI32) X(ParamGetI64) X(ParamGetI8) \
                                            X(ParamGetParameter) X(ParamGetStr) X(ParamGetU16)     \
                                                X(ParamGetU32) X(ParamGetU64) X(ParamGetU8)        \
                                                    X(PutSignal) X(Recv) X(RedOpCreatePreMulSum)   \
                                                        X(RedOpDestroy) X(Reduce) X(ReduceScatter) \
                                                            X(ResetDebugInit) X(Scatter) X(Send)   \
                                                                X(Signal) X(TeamLsa) X(TeamRail)   \
                                                                    X(TeamRankToLsa) X(            \
                                                                        TeamRankToWorld)           \
                                                                        X(TeamWorld) X(WaitSignal) \
                                                                            X(WinGetUserPtr)
/* clang-format on */

extern struct shim {
#define SHIM_MEMBER(name) __typeof__(&nccl##name) name;
    SHIM_LIST(SHIM_MEMBER)
#undef SHIM_MEMBER
} shim;
/* Fills it, once, and sets CHOIR_NCCL_HOST unless it is set; returns the handle of the library. */
void *shim_load(void);

#define NCCL_IS(call, want) shim_is((int)(call), (int)(want), NULL, #call, __FILE__, __LINE__)
#define NCCL_OK(call) NCCL_IS(call, ncclSuccess)
/* Fails as it should, and ncclGetLastError has `text` in it. */
#define NCCL_FAILS(call, want, text)                                                               \
    shim_is((int)(call), (int)(want), text, #call, __FILE__, __LINE__)
void shim_is(int result, int want, const char *text, const char *what, const char *file, int line);
/* Polls ncclCommGetAsyncError until it is no longer ncclInProgress. */
ncclResult_t shim_wait(ncclComm_t comm);
void shim_sum_is(ncclComm_t comm, int value, int want); /* all ranks call it, each with a value */
void shim_place_is(ncclComm_t comm, int rank, int size);
/* Ranks as threads, with a fresh id, and a barrier for all of them; or as processes. */
extern ncclUniqueId shim_id;
void shim_meet(void);
void shim_threads(int size, void (*fn)(int rank, int size, void *arg));
void shim_processes(int size, void (*fn)(int rank, int size, void *arg));
ncclComm_t shim_make(int rank, int size);
/* A thread that waits in a group for a rank that never comes; the group's result, when it has ended. */
struct shim_waiter {
    ncclComm_t comm;
    pthread_t thread;
    ncclResult_t result;
};
void shim_waiter_start(struct shim_waiter *waiter, ncclComm_t comm);
ncclResult_t shim_waiter_end(struct shim_waiter *waiter);

#endif
