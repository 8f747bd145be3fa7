/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program of NCCL's as others write them, for tests/check/nccl: compiled with NVIDIA's own header and with the stand-in's, by C and
 * C++, and run on the stand-in on host memory. It prints what its header says of sizes, places and values, so that the two can
 * be compared.
 */
#include <nccl.h>
#include <stddef.h>
#include <stdio.h>

#define SAY(what) printf("%s %ld\n", #what, (long)(what))

static void say_layouts(void)
{
    SAY(sizeof(ncclUniqueId));
    SAY(sizeof(ncclSimInfo_t));
    SAY(offsetof(ncclSimInfo_t, estimatedTime));
    SAY(offsetof(ncclConfig_t, magic));
    SAY(offsetof(ncclConfig_t, version));
    SAY(offsetof(ncclConfig_t, blocking));
    SAY(offsetof(ncclConfig_t, cgaClusterSize));
    SAY(offsetof(ncclConfig_t, minCTAs));
    SAY(offsetof(ncclConfig_t, maxCTAs));
    SAY(offsetof(ncclConfig_t, netName));
    SAY(offsetof(ncclConfig_t, splitShare));
    SAY(offsetof(ncclConfig_t, trafficClass));
    SAY(offsetof(ncclConfig_t, commName));
    SAY(offsetof(ncclConfig_t, collnetEnable));
    SAY(offsetof(ncclConfig_t, CTAPolicy));
    SAY(offsetof(ncclConfig_t, shrinkShare));
    SAY(offsetof(ncclConfig_t, nvlsCTAs));
    SAY(offsetof(ncclConfig_t, nChannelsPerNetPeer));
    SAY(offsetof(ncclConfig_t, nvlinkCentricSched));
}

static void say_values(void)
{
    SAY(ncclInProgress), SAY(ncclRemoteError), SAY(ncclInvalidUsage), SAY(ncclInvalidArgument);
    SAY(ncclInternalError), SAY(ncclSystemError), SAY(ncclUnhandledCudaError);
    SAY(ncclSum), SAY(ncclProd), SAY(ncclMax), SAY(ncclMin), SAY(ncclAvg);
    SAY(ncclNumOps), SAY(ncclMaxRedOp), SAY(sizeof(ncclRedOp_t)), SAY(sizeof(ncclDataType_t));
    SAY(ncclInt8), SAY(ncclUint8), SAY(ncclInt32), SAY(ncclUint32), SAY(ncclInt64), SAY(ncclUint64);
    SAY(ncclFloat16), SAY(ncclFloat32), SAY(ncclFloat64), SAY(ncclBfloat16), SAY(ncclFloat8e4m3);
    SAY(ncclFloat8e5m2), SAY(ncclNumTypes), SAY(ncclScalarDevice), SAY(ncclScalarHostImmediate);
    SAY(NCCL_UNIQUE_ID_BYTES), SAY(NCCL_CONFIG_UNDEF_INT), SAY(NCCL_SPLIT_NOCOLOR);
    SAY(NCCL_WIN_DEFAULT), SAY(NCCL_WIN_COLL_SYMMETRIC), SAY(NCCL_WIN_REQUIRED_ALIGNMENT);
    SAY(NCCL_SHRINK_DEFAULT), SAY(NCCL_SHRINK_ABORT), SAY(NCCL_REVOKE_DEFAULT);
    SAY(NCCL_CTA_POLICY_DEFAULT), SAY(NCCL_CTA_POLICY_EFFICIENCY), SAY(NCCL_CTA_POLICY_ZERO);
}

#define TRY(call)                                                                                  \
    do {                                                                                           \
        ncclResult_t result = (call);                                                              \
        if (result != ncclSuccess) {                                                               \
            fprintf(stderr, "%s: %s: %s\n", #call, ncclGetErrorString(result),                     \
                    ncclGetLastError(NULL));                                                       \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

/* Two ranks in one thread, the id by value, a configuration by pointer, a group, a simulation. */
static int run(void)
{
    ncclUniqueId id;
    ncclComm_t comm[2], half[2];
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
    float in[2] = {3, 4}, out[2] = {0, 0};
    config.commName = "a program";
    config.minCTAs = 2;
    TRY(ncclGetUniqueId(&id));
    TRY(ncclGroupStart());
    for (int r = 0; r < 2; r++)
        TRY(ncclCommInitRankConfig(&comm[r], 2, id, r, &config));
    TRY(ncclGroupEnd());
    for (int simulate = 1; simulate >= 0; simulate--) {
        TRY(ncclGroupStart());
        for (int r = 0; r < 2; r++)
            TRY(ncclAllReduce(&in[r], &out[r], 1, ncclFloat32, ncclSum, comm[r], NULL));
        TRY(simulate ? ncclGroupSimulateEnd(&info) : ncclGroupEnd());
    }
    TRY(ncclGroupStart());
    for (int r = 0; r < 2; r++)
        TRY(ncclCommSplit(comm[r], r, 0, &half[r], NULL));
    TRY(ncclGroupEnd());
    for (int r = 0; r < 2; r++) {
        TRY(ncclBcast(&in[r], 1, ncclFloat32, 0, half[r], NULL));
        TRY(ncclCommDestroy(half[r]));
        TRY(ncclCommFinalize(comm[r]));
        TRY(ncclCommDestroy(comm[r]));
    }
    printf("sums %g %g\n", (double)out[0], (double)out[1]);
    return out[0] != 7 || out[1] != 7 || info.estimatedTime <= 0;
}

int main(void)
{
    say_layouts();
    say_values();
    return run();
}
