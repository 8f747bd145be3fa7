/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libnccl.so.2 as a binary: symbols, layouts and values of NCCL 2.28 to 2.30, configurations of old and new programs, what is not
 * offered, and how it says who it is. On host memory; communicators of one rank are enough here.
 */
#include "tests/lib/shim.h"
#include "tests/lib/ranks.h"
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- symbols, layouts, values ------------------------------------------------------------------------------ */

static void symbols(void)
{
    void *library = shim_load(); /* finds each, and its twin */
    int version = 0;
    CHECK(dlsym(library, "ncclResetDebugInitInternal"));
    CHECK(!dlsym(library, "choir_comm_create"));
    NCCL_OK(shim.GetVersion(&version));
    CHECK_EQ(version, NCCL_VERSION_CODE);
    CHECK_EQ(version, NCCL_VERSION(NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH));
    CHECK_LE(22907, version);
    CHECK_EQ(NCCL_VERSION(2, 8, 3), 2803);
    for (int r = 0; r < ncclNumResults; r++)
        for (int k = 0; k < r; k++)
            CHECK(
                strcmp(shim.GetErrorString((ncclResult_t)r), shim.GetErrorString((ncclResult_t)k)));
    CHECK(strstr(shim.GetErrorString((ncclResult_t)77), "unknown"));
    CHECK(strstr(shim.GetErrorString((ncclResult_t)-1), "unknown"));
    shim.ResetDebugInit();
}

#define AT(type, member, where)                                                                    \
    {                                                                                              \
#type "." #member, offsetof(type, member), where                                           \
    }
#define SIZE(type, bytes)                                                                          \
    {                                                                                              \
#type, sizeof(type), bytes                                                                 \
    }
#define VALUE(name, value)                                                                         \
    {                                                                                              \
#name, (size_t)(name), value                                                               \
    }
static const struct {
    const char *what;
    size_t is, want;
} layout[] = {SIZE(ncclUniqueId, 128),
              SIZE(ncclConfig_t, 96),
              SIZE(ncclSimInfo_t, 24),
              SIZE(ncclWaitSignalDesc_t, 16),
              SIZE(ncclTeam_t, 12),
              SIZE(ncclResult_t, 4),
              SIZE(ncclRedOp_t, 4),
              SIZE(ncclDataType_t, 4),
              SIZE(ncclCommProperties_t, 56),
              AT(ncclConfig_t, size, 0),
              AT(ncclConfig_t, magic, 8),
              AT(ncclConfig_t, version, 12),
              AT(ncclConfig_t, blocking, 16),
              AT(ncclConfig_t, cgaClusterSize, 20),
              AT(ncclConfig_t, minCTAs, 24),
              AT(ncclConfig_t, maxCTAs, 28),
              AT(ncclConfig_t, netName, 32),
              AT(ncclConfig_t, splitShare, 40),
              AT(ncclConfig_t, trafficClass, 44),
              AT(ncclConfig_t, commName, 48),
              AT(ncclConfig_t, collnetEnable, 56),
              AT(ncclConfig_t, CTAPolicy, 60),
              AT(ncclConfig_t, shrinkShare, 64),
              AT(ncclConfig_t, nvlsCTAs, 68),
              AT(ncclConfig_t, nChannelsPerNetPeer, 72),
              AT(ncclConfig_t, nvlinkCentricSched, 76),
              AT(ncclConfig_t, graphUsageMode, 80),
              AT(ncclConfig_t, numRmaCtx, 84),
              AT(ncclConfig_t, maxP2pPeers, 88),
              AT(ncclConfig_t, graphStreamOrdering, 92),
              AT(ncclSimInfo_t, magic, 8),
              AT(ncclSimInfo_t, version, 12),
              AT(ncclSimInfo_t, estimatedTime, 16),
              AT(ncclWaitSignalDesc_t, opCnt, 0),
              AT(ncclWaitSignalDesc_t, peer, 4),
              AT(ncclWaitSignalDesc_t, sigIdx, 8),
              AT(ncclWaitSignalDesc_t, ctx, 12),
              AT(ncclTeam_t, nRanks, 0),
              AT(ncclTeam_t, rank, 4),
              AT(ncclTeam_t, stride, 8),
              AT(ncclCommProperties_t, rank, 16),
              AT(ncclCommProperties_t, nvmlDev, 28),
              AT(ncclCommProperties_t, deviceApiSupport, 32),
              AT(ncclCommProperties_t, multimemSupport, 33),
              AT(ncclCommProperties_t, ginType, 36),
              AT(ncclCommProperties_t, nLsaTeams, 40),
              AT(ncclCommProperties_t, hostRmaSupport, 44),
              AT(ncclCommProperties_t, railedGinType, 48),
              VALUE(ncclSuccess, 0),
              VALUE(ncclUnhandledCudaError, 1),
              VALUE(ncclSystemError, 2),
              VALUE(ncclInternalError, 3),
              VALUE(ncclInvalidArgument, 4),
              VALUE(ncclInvalidUsage, 5),
              VALUE(ncclRemoteError, 6),
              VALUE(ncclInProgress, 7),
              VALUE(ncclTimeout, 8),
              VALUE(ncclInt8, 0),
              VALUE(ncclChar, 0),
              VALUE(ncclUint8, 1),
              VALUE(ncclInt32, 2),
              VALUE(ncclInt, 2),
              VALUE(ncclUint32, 3),
              VALUE(ncclInt64, 4),
              VALUE(ncclUint64, 5),
              VALUE(ncclFloat16, 6),
              VALUE(ncclHalf, 6),
              VALUE(ncclFloat32, 7),
              VALUE(ncclFloat, 7),
              VALUE(ncclFloat64, 8),
              VALUE(ncclDouble, 8),
              VALUE(ncclBfloat16, 9),
              VALUE(ncclFloat8e4m3, 10),
              VALUE(ncclFloat8e5m2, 11),
              VALUE(ncclNumTypes, 12),
              VALUE(ncclSum, 0),
              VALUE(ncclProd, 1),
              VALUE(ncclMax, 2),
              VALUE(ncclMin, 3),
              VALUE(ncclAvg, 4),
              VALUE(ncclNumOps, 5),
              VALUE(ncclMaxRedOp, 0x7fffffff),
              VALUE(ncclScalarDevice, 0),
              VALUE(ncclScalarHostImmediate, 1),
              VALUE(ncclStatGpuMemSuspend, 0),
              VALUE(ncclStatGpuMemSuspended, 1),
              VALUE(ncclStatGpuMemPersist, 2),
              VALUE(ncclStatGpuMemTotal, 3),
              VALUE(NCCL_API_MAGIC, 0xcafebeef),
              VALUE(NCCL_SIM_INFO_MAGIC, 0x74685283)};

static void layouts(void)
{
    for (size_t i = 0; i < sizeof(layout) / sizeof(layout[0]); i++)
        if (layout[i].is != layout[i].want)
            FAIL("%s is %zu, not %zu", layout[i].what, layout[i].is, layout[i].want);
}

/* --- configurations ----------------------------------------------------------------------------------------- */

static ncclComm_t alone(void)
{
    ncclComm_t comm;
    NCCL_OK(shim.CommInitAll(&comm, 1, NULL));
    return comm;
}

/* What creation of a communicator of one makes of a configuration. */
static ncclResult_t try(ncclConfig_t *config)
{
    ncclUniqueId id;
    ncclComm_t comm;
    NCCL_OK(shim.GetUniqueId(&id));
    ncclResult_t r = shim.CommInitRankConfig(&comm, 1, id, 0, config);
    if (r == ncclSuccess || r == ncclInProgress) {
        NCCL_OK(shim_wait(comm));
        NCCL_OK(shim.CommDestroy(comm));
    }
    return r;
}

static void sizes_and_versions(void)
{
    /* Size and version of each release's structure; what lies behind is not the caller's. */
    static const struct {
        size_t size;
        unsigned version;
        int blocks;
    } row[] = {{24, NCCL_VERSION(2, 14, 3), 0}, {40, NCCL_VERSION(2, 17, 1), 0},
               {48, NCCL_VERSION(2, 18, 5), 0}, {56, NCCL_VERSION(2, 26, 2), 0},
               {72, NCCL_VERSION(2, 27, 3), 0}, {80, NCCL_VERSION(2, 28, 9), 0},
               {88, NCCL_VERSION(2, 29, 7), 0}, {96, NCCL_VERSION(2, 30, 7), 0},
               {24, NCCL_VERSION(2, 13, 4), 1}, {16, NCCL_VERSION(2, 28, 9), 1},
               {200, NCCL_VERSION(2, 40, 1), 0}};
    shim_load();
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        union {
            ncclConfig_t config;
            unsigned char bytes[200];
        } u;
        memset(&u, 0xee, sizeof(u)); /* refused, and a wild pointer, if it were read */
        const ncclConfig_t init = NCCL_CONFIG_INITIALIZER;
        memcpy(&u, &init, row[i].size < sizeof(init) ? row[i].size : sizeof(init));
        u.config.size = row[i].size;
        u.config.version = row[i].version;
        u.config.blocking = 0;
        if (row[i].version < NCCL_VERSION(2, 25, 0))
            u.config.trafficClass = (int)0xeeeeeeee; /* padding then */
        ncclResult_t r = try(&u.config);
        if ((r == ncclSuccess) != row[i].blocks)
            FAIL("a configuration of %zu bytes and version %u: %d", row[i].size, row[i].version, r);
    }
}

static void wrong_configurations(void)
{
    static const struct {
        size_t at;
        int value;
        const char *name;
    } row[] = {
#define WRONG(member, value) {offsetof(ncclConfig_t, member), value, #member}
        WRONG(magic, 1),
        WRONG(blocking, 2),
        WRONG(blocking, -1),
        WRONG(cgaClusterSize, -3),
        WRONG(minCTAs, 0),
        WRONG(maxCTAs, -1),
        WRONG(splitShare, 2),
        WRONG(collnetEnable, 9),
        WRONG(CTAPolicy, 4),
        WRONG(shrinkShare, -1),
        WRONG(nvlsCTAs, 0),
        WRONG(nChannelsPerNetPeer, 0),
        WRONG(nvlinkCentricSched, 2),
        WRONG(graphUsageMode, 3),
        WRONG(numRmaCtx, -1),
        WRONG(maxP2pPeers, 0),
        WRONG(graphStreamOrdering, 5)};
    shim_load();
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        ncclConfig_t c = NCCL_CONFIG_INITIALIZER;
        c.version = NCCL_VERSION(2, 30, 7);
        memcpy((char *)&c + row[i].at, &row[i].value, sizeof(int));
        NCCL_FAILS(try(&c), ncclInvalidArgument, row[i].name);
        if (row[i].at < offsetof(ncclConfig_t, maxP2pPeers))
            continue;
        c.version = NCCL_VERSION(2, 29, 0); /* which does not know the member */
        NCCL_OK(try(&c));
    }
    ncclConfig_t c = NCCL_CONFIG_INITIALIZER;
    c.minCTAs = 8, c.maxCTAs = 4;
    NCCL_FAILS(try(&c), ncclInvalidArgument, "minCTAs");
    c.maxCTAs = NCCL_CONFIG_UNDEF_INT;
    NCCL_OK(try(&c));
    c.size = 12;
    NCCL_FAILS(try(&c), ncclInvalidArgument, "size");
    c.size = 0;
    NCCL_FAILS(try(&c), ncclInvalidArgument, "size");
    NCCL_OK(try(NULL));
}

/* --- what is not offered -------------------------------------------------------------------------------------- */

static void refused(void)
{
    ncclTeam_t t;
    ncclMultimemHandle_t mm = {NULL};
    ncclCommProperties_t props = {.size = sizeof(props), .magic = NCCL_API_MAGIC};
    void *p;
    int n;
    const char *s, **keys;
    shim_load();
    ncclComm_t comm = alone();
#define REFUSES(call, text) NCCL_FAILS(shim.call, ncclInvalidUsage, text)
    REFUSES(DevCommCreate(comm, NULL, NULL), "device API");
    REFUSES(DevCommDestroy(comm, NULL), "device API");
    REFUSES(GetLsaMultimemDevicePointer(NULL, 0, &p), "device API");
    REFUSES(GetMultimemDevicePointer(NULL, 0, mm, &p), "device API");
    REFUSES(GetLsaDevicePointer(NULL, 0, 0, &p), "device API");
    REFUSES(GetPeerDevicePointer(NULL, 0, 0, &p), "device API");
    t = shim.TeamWorld(comm);
    CHECK(t.nRanks == 1 && t.rank == 0 && t.stride == 1);
    t = shim.TeamLsa(comm);
    CHECK(t.nRanks == 1 && t.rank == 0 && t.stride == 1);
    CHECK_EQ(shim.TeamRankToWorld(comm, t, 0), 0);
    CHECK_EQ(shim.TeamRankToLsa(comm, shim.TeamRail(comm), 0), 0);
    REFUSES(LsaBarrierCreateRequirement(t, 1, NULL, NULL), "device API");
    REFUSES(GinBarrierCreateRequirement(comm, t, 1, NULL, NULL), "device API");
    REFUSES(LLA2ACreateRequirement(1, 1, NULL, NULL), "device API");
    REFUSES(GinOutboxCreateRequirement(1, 1, NULL, NULL), "device API");
    REFUSES(GinInboxA2ACreateRequirement(t, 1, 1, NULL, NULL), "device API");
    CHECK_EQ(shim.LLA2ACalcSlots(4, 4), 0);
    NCCL_OK(shim.CommQueryProperties(comm, &props));
    CHECK(props.hostRmaSupport);
    CHECK(!props.deviceApiSupport && !props.multimemSupport && props.ginType == NCCL_GIN_TYPE_NONE);
    CHECK(props.nRanks == 1 && props.rank == 0 && props.nLsaTeams == 1);
    props.size = offsetof(ncclCommProperties_t, nLsaTeams); /* of before */
    props.nLsaTeams = 77;
    NCCL_OK(shim.CommQueryProperties(comm, &props));
    CHECK_EQ(props.nLsaTeams, 77);
    props.magic = 1;
    NCCL_FAILS(shim.CommQueryProperties(comm, &props), ncclInvalidArgument, "INITIALIZER");
    NCCL_FAILS(shim.CommQueryProperties(comm, NULL), ncclInvalidArgument, "NULL");
    REFUSES(ParamBind(NULL, "x"), "settings");
    REFUSES(ParamGetI8(NULL, NULL), "settings");
    REFUSES(ParamGetU64(NULL, NULL), "settings");
    REFUSES(ParamGetStr(NULL, &s), "settings");
    REFUSES(ParamGet(NULL, &n, 4, &n), "settings");
    REFUSES(ParamGetParameter("x", &s, &n), "settings");
    REFUSES(ParamGetAllParameterKeys(&keys, &n), "settings");
    shim.ParamDumpAll();
    REFUSES(CommSuspend(comm, NCCL_SUSPEND_MEM), "ncclCommSuspend"); /* host memory */
    REFUSES(CommResume(comm), "ncclCommResume");
    NCCL_FAILS(shim.CommSuspend(comm, 2), ncclInvalidArgument, "flags");
    NCCL_OK(shim.CommDestroy(comm));
}

/* --- processes with another environment ------------------------------------------------------------------------ */

static int in_child(const char *host, const char *log, void (*fn)(void))
{
    pid_t pid = test_fork(NULL);
    if (!pid) {
        unsetenv("CHOIR_LOG"); /* it comes before NCCL's */
        setenv("CHOIR_NCCL_HOST", host, 1);
        if (log) {
            setenv("NCCL_DEBUG", "INFO", 1);
            setenv("NCCL_DEBUG_FILE", log, 1);
        }
        fn();
        _exit(0);
    }
    return test_reap(pid, 20000);
}

static void one_communicator(void)
{
    shim_load();
    NCCL_OK(shim.CommDestroy(alone()));
}

static void says_who_it_is(void)
{
    char path[512], text[8192] = "";
    test_path(path, sizeof(path), "log");
    CHECK_EQ(in_child("1", path, one_communicator), 0);
    FILE *f = fopen(path, "r");
    CHECK(f && fread(text, 1, sizeof(text) - 1, f));
    fclose(f);
    unlink(path);
    CHECK(strstr(text, "choir "));
    CHECK(strstr(text, "libnccl.so.2 is choir"));
    CHECK(strstr(text, "communicator ready ranks 1"));
}

static void without_gpu(void)
{
    ncclUniqueId id;
    ncclComm_t comm;
    void *p;
    shim_load();
    NCCL_OK(shim.GetUniqueId(&id));
    ncclResult_t r = shim.CommInitRank(&comm, 1, id, 0);
    if (r == ncclSuccess) {
        test_skip_part("no GPU: this machine has one");
        _exit(0);
    }
    NCCL_FAILS(r, ncclUnhandledCudaError, "CHOIR_NCCL_HOST");
    NCCL_FAILS(shim.MemAlloc(&p, 8), ncclUnhandledCudaError, "no GPU");
    NCCL_FAILS(shim.CommInitAll(&comm, 1, NULL), ncclUnhandledCudaError, "no GPU");
}

static void needs_a_gpu(void)
{
    CHECK_EQ(in_child("0", NULL, without_gpu), 0);
}

TEST_MAIN(TEST(says_who_it_is), TEST(needs_a_gpu), TEST(symbols), TEST(layouts),
          TEST(sizes_and_versions), TEST(wrong_configurations), TEST(refused))
