/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What libnccl.so.2 says to wrong arguments, handles that are none, groups that do not fit, and memory that is not its own: NCCL's
 * code and a text that names what is wrong, and nothing breaks. On host memory; communicators of one rank are enough here.
 */
#include "tests/lib/shim.h"

static ncclComm_t alone(void)
{
    ncclComm_t comm;
    NCCL_OK(shim.CommInitAll(&comm, 1, NULL));
    return comm;
}

/* --- wrong communicators and arguments ----------------------------------------------------------------------- */

/* All that take a communicator, with arguments that are right. */
static void refuse_comm(ncclComm_t comm, const char *text)
{
    static long memory[512] __attribute__((aligned(4096)));
    int n, out[] = {0};
    void *p;
    uint64_t u;
    ncclComm_t other;
    ncclRedOp_t op;
    ncclResult_t r;
    ncclUniqueId id;
    ncclWindow_t w;
    ncclWaitSignalDesc_t d = {1, 0, 0, 0};
    ncclCommProperties_t props = {sizeof(props),
                                  NCCL_API_MAGIC,
                                  NCCL_VERSION_CODE,
                                  0,
                                  0,
                                  0,
                                  0,
                                  false,
                                  false,
                                  NCCL_GIN_TYPE_NONE,
                                  0,
                                  false,
                                  NCCL_GIN_TYPE_NONE};
#define NO(call) NCCL_FAILS(shim.call, ncclInvalidArgument, text)
    NO(AllReduce(memory, memory, 1, ncclInt32, ncclSum, comm, NULL));
    NO(Reduce(memory, memory, 1, ncclInt32, ncclSum, 0, comm, NULL));
    NO(Broadcast(memory, memory, 1, ncclInt32, 0, comm, NULL));
    NO(Bcast(memory, 1, ncclInt32, 0, comm, NULL));
    NO(ReduceScatter(memory, memory, 1, ncclInt32, ncclSum, comm, NULL));
    NO(AllGather(memory, memory, 1, ncclInt32, comm, NULL));
    NO(AlltoAll(memory, memory, 1, ncclInt32, comm, NULL));
    NO(Gather(memory, memory, 1, ncclInt32, 0, comm, NULL));
    NO(Scatter(memory, memory, 1, ncclInt32, 0, comm, NULL));
    NO(Send(memory, 1, ncclInt32, 0, comm, NULL));
    NO(Recv(memory, 1, ncclInt32, 0, comm, NULL));
    NO(PutSignal(memory, 1, ncclInt32, 0, NULL, 0, 0, 0, 0, comm, NULL));
    NO(Signal(0, 0, 0, 0, comm, NULL));
    NO(WaitSignal(1, &d, comm, NULL));
    NO(CommCount(comm, &n));
    NO(CommUserRank(comm, &n));
    NO(CommCuDevice(comm, &n));
    NO(CommGetAsyncError(comm, &r));
    NO(CommSplit(comm, 0, 0, &other, NULL));
    NO(CommShrink(comm, out, 1, &other, NULL, 0));
    NO(CommGetUniqueId(comm, &id));
    NO(CommSuspend(comm, NCCL_SUSPEND_MEM));
    NO(CommResume(comm));
    NO(CommMemStats(comm, ncclStatGpuMemTotal, &u));
    NO(CommRegister(comm, memory, 8, &p));
    NO(CommWindowRegister(comm, memory, sizeof(memory), &w, 0));
    NO(WinGetUserPtr(comm, (ncclWindow_t)(void *)memory, &p));
    NO(RedOpCreatePreMulSum(&op, memory, ncclInt32, ncclScalarHostImmediate, comm));
    NO(RedOpDestroy((ncclRedOp_t)ncclNumOps, comm));
    NO(CommQueryProperties(comm, &props));
    if (!comm) /* NULL is nothing to end, */
        return;
    NO(CommDestroy(comm));
    NO(CommAbort(comm));
    NO(CommFinalize(comm));
    NO(CommRevoke(comm, 0));
    NO(CommGrow(comm, 2, &id, -1, &other, NULL));
    NO(CommDeregister(comm, memory));
    NO(CommWindowDeregister(comm, (ncclWindow_t)(void *)memory));
    CHECK(shim.GetLastError(comm) != NULL);
    CHECK_EQ(shim.TeamWorld(comm).nRanks, 0);
}

static void communicators(void)
{
    static char garbage[4096] __attribute__((aligned(64)));
    shim_load();
    ncclComm_t comm = alone(), live = alone();
    refuse_comm(NULL, "NULL");
    refuse_comm((ncclComm_t)(void *)garbage, "not a communicator");
    refuse_comm((ncclComm_t)(void *)((char *)live + 8), "not a communicator");
    refuse_comm((ncclComm_t)(uintptr_t)3, "not a communicator");
    NCCL_OK(shim.CommDestroy(comm));
    refuse_comm(comm, "destroyed");
    NCCL_OK(shim.CommDestroy(NULL));
    NCCL_OK(shim.CommAbort(NULL));
    NCCL_OK(shim.CommFinalize(NULL));
    NCCL_OK(shim.CommRevoke(NULL, 0));
    NCCL_OK(shim.CommDestroy(live));
}

static void arguments(void)
{
    ncclUniqueId id;
    ncclComm_t comm, other;
    int x = 1, y = 0, twice[] = {4, 4};
    ncclRedOp_t op;
    shim_load();
    comm = alone();
    NCCL_FAILS(shim.GetVersion(NULL), ncclInvalidArgument, "version");
    NCCL_FAILS(shim.GetUniqueId(NULL), ncclInvalidArgument, "uniqueId");
    NCCL_OK(shim.GetUniqueId(&id));
    NCCL_FAILS(shim.CommInitRank(NULL, 1, id, 0), ncclInvalidArgument, "comm is NULL");
    NCCL_FAILS(shim.CommInitRank(&other, 0, id, 0), ncclInvalidArgument, "rank");
    NCCL_FAILS(shim.CommInitRank(&other, 2, id, 2), ncclInvalidArgument, "rank");
    NCCL_FAILS(shim.CommInitRank(&other, 2, id, -1), ncclInvalidArgument, "rank");
    memset(&id, 0x5a, sizeof(id));
    CHECK(shim.CommInitRank(&other, 1, id, 0) == ncclInvalidArgument);
    CHECK(other == NULL);
    NCCL_FAILS(shim.CommInitRankScalable(&other, 1, 0, 1, NULL, NULL), ncclInvalidArgument, "NULL");
    NCCL_FAILS(shim.CommInitAll(NULL, 1, NULL), ncclInvalidArgument, "NULL");
    NCCL_FAILS(shim.CommInitAll(&other, 0, NULL), ncclInvalidArgument, "ndev");
    NCCL_FAILS(shim.CommInitAll(&other, 2, twice), ncclInvalidUsage, "twice");
    NCCL_FAILS(shim.AllReduce(&x, &y, 1, ncclNumTypes, ncclSum, comm, NULL), ncclInvalidArgument,
               "datatype");
    NCCL_FAILS(shim.AllReduce(&x, &y, 1, (ncclDataType_t)-1, ncclSum, comm, NULL),
               ncclInvalidArgument, "datatype");
    NCCL_FAILS(shim.AllReduce(&x, &y, 1, ncclInt32, ncclNumOps, comm, NULL), ncclInvalidArgument,
               "op 5");
    NCCL_FAILS(shim.AllReduce(&x, &y, 1, ncclInt32, (ncclRedOp_t)-1, comm, NULL),
               ncclInvalidArgument, "op ");
    NCCL_FAILS(shim.AllReduce(NULL, &y, 1, ncclInt32, ncclSum, comm, NULL), ncclInvalidArgument,
               "sendbuff");
    NCCL_FAILS(shim.AllReduce(&x, NULL, 1, ncclInt32, ncclSum, comm, NULL), ncclInvalidArgument,
               "recvbuff");
    NCCL_FAILS(shim.AllReduce(&x, &y, SIZE_MAX / 8, ncclInt64, ncclSum, comm, NULL),
               ncclInvalidArgument, "count");
    NCCL_FAILS(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, comm, (cudaStream_t)(void *)&x),
               ncclInvalidArgument, "stream");
    NCCL_OK(shim.AllReduce(NULL, NULL, 0, ncclInt32, ncclSum, comm, NULL));
    NCCL_FAILS(shim.Broadcast(&x, &y, 1, ncclInt32, 1, comm, NULL), ncclInvalidArgument, "root 1");
    NCCL_FAILS(shim.Bcast(&x, 1, ncclInt32, -1, comm, NULL), ncclInvalidArgument, "root -1");
    NCCL_FAILS(shim.Reduce(&x, &y, 1, ncclInt32, ncclSum, 7, comm, NULL), ncclInvalidArgument,
               "root");
    NCCL_FAILS(shim.Gather(&x, &y, 1, ncclInt32, 7, comm, NULL), ncclInvalidArgument, "root");
    NCCL_FAILS(shim.Scatter(&x, &y, 1, ncclInt32, 7, comm, NULL), ncclInvalidArgument, "root");
    NCCL_FAILS(shim.Send(&x, 1, ncclInt32, 1, comm, NULL), ncclInvalidArgument, "peer 1");
    NCCL_FAILS(shim.Send(&x, 1, ncclInt32, 0, comm, NULL), ncclInvalidUsage, "one group");
    NCCL_FAILS(shim.Recv(&x, 1, ncclInt32, 0, comm, NULL), ncclInvalidUsage, "one group");
    NCCL_FAILS(shim.RedOpCreatePreMulSum(NULL, &x, ncclInt32, ncclScalarDevice, comm),
               ncclInvalidArgument, "op");
    NCCL_FAILS(shim.RedOpCreatePreMulSum(&op, NULL, ncclInt32, ncclScalarDevice, comm),
               ncclInvalidArgument, "scalar");
    NCCL_FAILS(shim.RedOpCreatePreMulSum(&op, &x, ncclInt32, (ncclScalarResidence_t)2, comm),
               ncclInvalidArgument, "residence");
    NCCL_FAILS(shim.RedOpDestroy(ncclSum, comm), ncclInvalidArgument, "op 0");
    NCCL_FAILS(shim.CommCount(comm, NULL), ncclInvalidArgument, "ncclCommCount");
    NCCL_FAILS(shim.CommGetAsyncError(comm, NULL), ncclInvalidArgument, "asyncError");
    NCCL_FAILS(shim.CommSplit(comm, 0, 0, NULL, NULL), ncclInvalidArgument, "newcomm");
    int32_t overlap[3] = {0};
    NCCL_FAILS(shim.AllReduce(overlap, overlap + 1, 2, ncclInt32, ncclSum, comm, NULL),
               ncclInvalidArgument, "overlap");
    NCCL_OK(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, comm, NULL)); /* nothing has broken it */
    CHECK_EQ(y, 1);
    NCCL_OK(shim.CommDestroy(comm));
}

/* --- groups --------------------------------------------------------------------------------------------------- */

static void groups(void)
{
    int x = 1, y = 0;
    ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
    shim_load();
    ncclComm_t comm = alone(), other = NULL;
    NCCL_FAILS(shim.GroupEnd(), ncclInvalidUsage, "ncclGroupStart");
    NCCL_FAILS(shim.GroupSimulateEnd(&info), ncclInvalidUsage, "ncclGroupStart");
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, comm, NULL));
    NCCL_OK(shim.GroupEnd());
    CHECK_EQ(y, 0); /* the inner end runs nothing */
    NCCL_OK(shim.GroupEnd());
    CHECK_EQ(y, 1);
    NCCL_FAILS(shim.GroupEnd(), ncclInvalidUsage, "ncclGroupStart");
    /* An error in a group is the group's, and nothing runs. */
    y = 0;
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, comm, NULL));
    NCCL_FAILS(shim.Bcast(&x, 1, ncclInt32, 9, comm, NULL), ncclInvalidArgument, "root");
    NCCL_OK(shim.CommSplit(comm, 0, 0, &other, NULL));
    NCCL_FAILS(shim.GroupEnd(), ncclInvalidArgument, "root");
    CHECK_EQ(y, 0);
    CHECK(other == NULL);
    /* A message without its other half; a communicator used while the same group makes it. */
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.Send(&x, 1, ncclInt32, 0, comm, NULL));
    CHECK(shim.GroupEnd() != ncclSuccess);
    NCCL_OK(shim.CommAbort(comm));
    comm = alone();
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.CommSplit(comm, 0, 0, &other, NULL));
    NCCL_FAILS(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, other, NULL), ncclInvalidArgument,
               "being made");
    NCCL_FAILS(shim.GroupEnd(), ncclInvalidArgument, NULL);
    /* Ends are taken in a group's end, after its calls; each once. */
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, comm, NULL));
    NCCL_OK(shim.CommFinalize(comm));
    NCCL_OK(shim.CommDestroy(comm));
    NCCL_FAILS(shim.CommDestroy(comm), ncclInvalidArgument, "destroyed");
    NCCL_FAILS(shim.GroupEnd(), ncclInvalidArgument, "destroyed");
    NCCL_FAILS(shim.CommDestroy(comm), ncclInvalidArgument, "destroyed");
    comm = alone();
    y = 0;
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, comm, NULL));
    NCCL_OK(shim.CommFinalize(comm));
    NCCL_OK(shim.CommDestroy(comm));
    NCCL_OK(shim.GroupEnd());
    CHECK_EQ(y, 1);
}

static void simulated(void)
{
    enum { N = 4 };
    ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
    static float in[N][1 << 16], out[N][1 << 16];
    ncclComm_t comm[N];
    float time[3];
    shim_load();
    NCCL_OK(shim.CommInitAll(comm, N, NULL));
    for (int k = 0; k < 3; k++) {
        static const size_t count[] = {1, 1 << 12, 1 << 16};
        NCCL_OK(shim.GroupStart());
        for (int r = 0; r < N; r++) {
            out[r][0] = -1;
            NCCL_OK(shim.AllReduce(in[r], out[r], count[k], ncclFloat32, ncclSum, comm[r], NULL));
            NCCL_OK(shim.Send(in[r], count[k], ncclFloat32, (r + 1) % N, comm[r], NULL));
            NCCL_OK(shim.Recv(out[r], count[k], ncclFloat32, (r + 3) % N, comm[r], NULL));
        }
        NCCL_OK(shim.GroupSimulateEnd(&info));
        time[k] = info.estimatedTime;
        CHECK(out[0][0] < 0 && out[N - 1][0] < 0); /* nothing has run */
    }
    CHECK(time[0] > 0 && time[1] > time[0] && time[2] > time[1]);
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.GroupSimulateEnd(&info));
    CHECK(info.estimatedTime >= 0 && info.estimatedTime < time[0]);
    info.magic = 7;
    NCCL_OK(shim.GroupStart());
    NCCL_FAILS(shim.GroupSimulateEnd(&info), ncclInvalidArgument, "NCCL_SIM_INFO_INITIALIZER");
    for (int r = 0; r < N; r++)
        NCCL_OK(shim.CommDestroy(comm[r]));
}

/* --- memory --------------------------------------------------------------------------------------------------- */

static void *some; /* memory of two pages and more */

static ncclComm_t with_memory(void)
{
    shim_load();
    NCCL_OK(shim.MemAlloc(&some, 10000));
    CHECK_EQ((uintptr_t)some % NCCL_WIN_REQUIRED_ALIGNMENT, 0);
    memset(some, 1, 10000);
    return alone();
}

static void without(ncclComm_t comm)
{
    NCCL_OK(shim.CommDestroy(comm));
    NCCL_OK(shim.MemFree(some));
}

static void memory(void)
{
    void *p = &p;
    uint64_t total = 0, one;
    ncclComm_t comm = with_memory();
    NCCL_FAILS(shim.MemAlloc(NULL, 8), ncclInvalidArgument, "ptr");
    NCCL_OK(shim.MemAlloc(&p, 0)); /* of nothing there is none, as with cudaMalloc */
    CHECK(!p);
    CHECK_EQ(shim.MemFree(&total), ncclInvalidArgument);
    NCCL_OK(shim.MemFree(NULL));
    NCCL_OK(shim.CommMemStats(comm, ncclStatGpuMemTotal, &total));
    CHECK_LT(0, total);
    NCCL_OK(shim.CommMemStats(comm, ncclStatGpuMemPersist, &one));
    CHECK_LT(0, one);
    NCCL_OK(shim.CommMemStats(comm, ncclStatGpuMemSuspended, &one));
    CHECK_EQ(one, 0);
    NCCL_FAILS(shim.CommMemStats(comm, (ncclCommMemStat_t)4, &one), ncclInvalidArgument, "stat");
    NCCL_FAILS(shim.CommMemStats(comm, ncclStatGpuMemTotal, NULL), ncclInvalidArgument, "value");
    without(comm);
}

static void registrations(void)
{
    void *p, *handle, *again;
    ncclComm_t comm = with_memory(), other = alone();
    NCCL_OK(shim.CommRegister(comm, some, 10000, &handle));
    NCCL_OK(shim.CommRegister(comm, some, 100, &again));
    NCCL_FAILS(shim.CommRegister(comm, NULL, 8, &p), ncclInvalidArgument, "buff");
    NCCL_FAILS(shim.CommRegister(comm, some, 0, &p), ncclInvalidArgument, "size");
    NCCL_FAILS(shim.CommRegister(comm, some, 8, NULL), ncclInvalidArgument, "handle");
    NCCL_FAILS(shim.CommDeregister(other, handle), ncclInvalidArgument, "handle");
    NCCL_FAILS(shim.CommDeregister(comm, some), ncclInvalidArgument, "handle");
    NCCL_OK(shim.CommDeregister(comm, handle));
    NCCL_FAILS(shim.CommDeregister(comm, handle), ncclInvalidArgument, "handle");
    NCCL_FAILS(shim.CommWindowDeregister(comm, (ncclWindow_t)again), ncclInvalidArgument, "win");
    NCCL_OK(shim.CommDeregister(comm, NULL));
    NCCL_OK(shim.CommDestroy(other));
    without(comm); /* with a registration left */
    comm = with_memory();
    NCCL_FAILS(shim.CommDeregister(comm, again), ncclInvalidArgument, "handle");
    without(comm);
}

static void windows(void)
{
    void *p;
    ncclWindow_t w, w2;
    ncclComm_t comm = with_memory(), other = alone();
    NCCL_OK(shim.CommWindowRegister(comm, some, 10000, &w, NCCL_WIN_COLL_SYMMETRIC));
    NCCL_OK(shim.CommWindowRegister(comm, (char *)some + 4096, 4096, &w2, NCCL_WIN_DEFAULT));
    NCCL_OK(shim.WinGetUserPtr(comm, w, &p));
    CHECK(p == some);
    NCCL_OK(shim.WinGetUserPtr(comm, w2, &p));
    CHECK(p == (char *)some + 4096);
    NCCL_FAILS(shim.WinGetUserPtr(other, w, &p), ncclInvalidArgument, "win");
    NCCL_FAILS(shim.WinGetUserPtr(comm, w, NULL), ncclInvalidArgument, "outUserPtr");
    NCCL_FAILS(shim.CommWindowRegister(comm, NULL, 8, &w2, 0), ncclInvalidArgument, "buff");
    NCCL_FAILS(shim.CommWindowRegister(comm, (char *)some + 8, 8, &w2, 0), ncclInvalidArgument,
               "4096");
    NCCL_FAILS(shim.CommWindowRegister(comm, some, 8, NULL, 0), ncclInvalidArgument, "win");
    NCCL_FAILS(shim.CommWindowRegister(comm, some, 8, &w2, 64), ncclInvalidArgument, "winFlags");
    NCCL_FAILS(shim.CommWindowDeregister(other, w), ncclInvalidArgument, "win");
    NCCL_OK(shim.CommWindowDeregister(comm, w));
    NCCL_FAILS(shim.CommWindowDeregister(comm, w), ncclInvalidArgument, "win");
    NCCL_OK(shim.CommWindowDeregister(comm, NULL));
    NCCL_OK(shim.CommDestroy(other));
    without(comm);
}

static void puts_and_signals(void)
{
    int64_t one = 1;
    int sum = 0;
    ncclWindow_t w;
    ncclWaitSignalDesc_t d = {1, 0, 0, 0};
    ncclComm_t comm = with_memory();
    NCCL_OK(shim.CommWindowRegister(comm, some, 10000, &w, 0));
#define WRONG(buffer, peer, window, offset, sigIdx, ctx, flags, text)                              \
    NCCL_FAILS(shim.PutSignal(buffer, 1, ncclInt64, peer, window, offset, sigIdx, ctx, flags,      \
                              comm, NULL),                                                         \
               ncclInvalidArgument, text)
    WRONG(&one, 0, w, 0, 1, 0, 0, "sigIdx");
    WRONG(&one, 0, w, 0, 0, 1, 0, "ctx");
    WRONG(&one, 0, w, 0, 0, 0, 1, "flags");
    WRONG(NULL, 0, w, 0, 0, 0, 0, "localbuff");
    WRONG(&one, 1, w, 0, 0, 0, 0, "peer 1");
    WRONG(&one, 0, NULL, 0, 0, 0, 0, "peerWin");
    WRONG(&one, 0, w, 9999, 0, 0, 0, "ncclPutSignal");
    NCCL_FAILS(shim.Signal(0, 0, 3, 0, comm, NULL), ncclInvalidArgument, "ctx");
    NCCL_FAILS(shim.WaitSignal(0, &d, comm, NULL), ncclInvalidArgument, "nDesc");
    NCCL_FAILS(shim.WaitSignal(1, NULL, comm, NULL), ncclInvalidArgument, "signalDescs");
    d.opCnt = 0;
    NCCL_FAILS(shim.WaitSignal(1, &d, comm, NULL), ncclInvalidArgument, "opCnt");
    d.opCnt = 1, d.peer = 4;
    NCCL_FAILS(shim.WaitSignal(1, &d, comm, NULL), ncclInvalidArgument, "peer 4");
    /* Given back in the group that puts into it: nothing of the group runs. */
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.AllReduce(&(int){1}, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    NCCL_OK(shim.PutSignal(&one, 1, ncclInt64, 0, w, 0, 0, 0, 0, comm, NULL));
    NCCL_OK(shim.CommWindowDeregister(comm, w));
    NCCL_FAILS(shim.GroupEnd(), ncclInvalidArgument, "window");
    CHECK_EQ(sum, 0);
    without(comm);
}

TEST_MAIN(TEST(communicators), TEST(arguments), TEST(groups), TEST(simulated), TEST(memory),
          TEST(registrations), TEST(windows), TEST(puts_and_signals))
