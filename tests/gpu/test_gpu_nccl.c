/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libnccl.so.2 on GPU memory and CUDA streams: ranks as threads with a device each, and all devices in one thread, which does not
 * make them current for its calls; a made operation that is destroyed before it runs; an abort of kernels that wait, and of a
 * communicator that is being made; communicators that do not block, and what is made of one that was revoked under a kernel.
 */
#include "tests/gpu/gpu.h"
#include "tests/lib/shim.h"
#include <dlfcn.h>
#include <unistd.h>

#define COUNT 5000

static void fill(struct gpu *g, void *to, float value)
{
    static _Thread_local float host[COUNT];
    for (int i = 0; i < COUNT; i++)
        host[i] = value + (float)(i % 7);
    gpu_put(g, to, host, sizeof(host));
}

/* times * (value of fill) + plus, everywhere. */
static void check(struct gpu *g, const void *from, float times, float plus)
{
    static _Thread_local float host[COUNT];
    gpu_get(g, host, from, sizeof(host));
    for (int i = 0; i < COUNT; i++)
        if (host[i] != times * (float)(i % 7) + plus)
            FAIL("element %d is %g, not %g", i, (double)host[i],
                 (double)(times * (float)(i % 7) + plus));
}

static bool through_host; /* GPU memory goes so */

/* Asked before this process uses CUDA, and no more after. */
static int gpus(void)
{
    static int n = -1;
    return n < 0 ? (n = gpu_count()) : n;
}

static void load(void)
{
    setenv("CHOIR_NCCL_HOST", "0", 1);
    shim_load();
}

/* --- ranks as threads --------------------------------------------------------------------------------------- */

static void operations(struct gpu *g, ncclComm_t comm, int rank, int size, float *in, float *out)
{
    float half = .5f, sum = (float)(size * (size - 1) / 2), *scale = gpu_alloc(g, 4);
    int next = (rank + 1) % size, last = (rank + size - 1) % size;
    ncclRedOp_t op;
    fill(g, in, (float)rank);
    NCCL_OK(shim.AllReduce(in, out, COUNT, ncclFloat32, ncclSum, comm, g->stream));
    check(g, out, (float)size, sum);
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.Send(in, COUNT, ncclFloat32, next, comm, g->stream));
    NCCL_OK(shim.Recv(out, COUNT, ncclFloat32, last, comm, g->stream));
    NCCL_OK(shim.GroupEnd());
    check(g, out, 1, (float)last);
    NCCL_OK(shim.Broadcast(rank ? NULL : in, out, COUNT, ncclFloat32, 0, comm, g->stream));
    check(g, out, 1, 0);
    NCCL_OK(shim.RedOpCreatePreMulSum(&op, &half, ncclFloat32, ncclScalarHostImmediate, comm));
    NCCL_OK(shim.AllReduce(in, out, COUNT, ncclFloat32, op, comm, g->stream));
    NCCL_OK(shim.RedOpDestroy(op, comm));
    check(g, out, (float)size / 2, sum / 2);
    half = 2;
    gpu_put(g, scale, &half, 4);
    NCCL_OK(shim.RedOpCreatePreMulSum(&op, scale, ncclFloat32, ncclScalarDevice, comm));
    NCCL_OK(shim.AllReduce(in, out, COUNT, ncclFloat32, op, comm, g->stream));
    NCCL_OK(shim.RedOpDestroy(op, comm));
    check(g, out, 2 * (float)size, 2 * sum);
    gpu_free(g, scale);
}

/* Each puts into its neighbour's window, in the order of the stream. */
static void put(struct gpu *g, ncclComm_t comm, int rank, int size, float *in, float *part,
                ncclWindow_t window)
{
    int last = (rank + size - 1) % size;
    ncclWaitSignalDesc_t wait = {1, last, 0, 0};
    ncclCommProperties_t p = {.size = sizeof(p), .magic = NCCL_API_MAGIC};
    NCCL_OK(shim.CommQueryProperties(comm, &p));
    CHECK_EQ(p.hostRmaSupport, !through_host);
    fill(g, in, (float)rank);
    ncclResult_t r = shim.PutSignal(in, COUNT, ncclFloat32, (rank + 1) % size, window, 0, 0, 0, 0,
                                    comm, g->stream);
    NCCL_FAILS(r, through_host ? ncclInvalidUsage : ncclSuccess, through_host ? "peerWin" : "");
    if (through_host)
        return;
    NCCL_OK(shim.WaitSignal(1, &wait, comm, g->stream));
    check(g, part, 1, (float)last);
}

static void memory(struct gpu *g, ncclComm_t comm, int rank, int size, float *in)
{
    void *m, *user, *handle;
    ncclWindow_t window;
    uint64_t total = 0;
    NCCL_OK(shim.MemAlloc(&m, 100)); /* it is 2 MiB */
    NCCL_OK(shim.CommWindowRegister(comm, m, COUNT * 4, &window, NCCL_WIN_COLL_SYMMETRIC));
    NCCL_OK(shim.WinGetUserPtr(comm, window, &user));
    CHECK(user == m);
    put(g, comm, rank, size, in, m, window);
    NCCL_OK(shim.CommWindowDeregister(comm, window));
    NCCL_OK(shim.CommRegister(comm, m, 100, &handle));
    NCCL_OK(shim.CommDeregister(comm, handle));
    NCCL_OK(shim.CommMemStats(comm, ncclStatGpuMemTotal, &total));
    CHECK_LT(0, total);
    /* Not freed here: to free memory waits for what runs on the device. */
}

/* All its memory is given back and taken again; what it does afterwards is as before. */
static void suspend(ncclComm_t comm)
{
    uint64_t can = 1, is = 1;
    NCCL_OK(shim.CommMemStats(comm, ncclStatGpuMemSuspend, &can));
    NCCL_FAILS(shim.CommResume(comm), ncclInvalidUsage, "ncclCommResume");
    if (through_host) {
        CHECK_EQ(can, 0);
        NCCL_FAILS(shim.CommSuspend(comm, NCCL_SUSPEND_MEM), ncclInvalidUsage, "ncclCommSuspend");
        return;
    }
    CHECK_LT(0, can);
    NCCL_OK(shim.CommSuspend(comm, NCCL_SUSPEND_MEM));
    NCCL_OK(shim.CommMemStats(comm, ncclStatGpuMemSuspended, &is));
    CHECK_EQ(is, 1);
    NCCL_FAILS(shim.CommSuspend(comm, NCCL_SUSPEND_MEM), ncclInvalidUsage, "ncclCommSuspend");
    NCCL_OK(shim.CommResume(comm));
    NCCL_OK(shim.CommMemStats(comm, ncclStatGpuMemSuspended, &is));
    CHECK_EQ(is, 0);
}

static void rank_body(int rank, int size, void *arg)
{
    (void)arg;
    struct gpu g;
    ncclComm_t child;
    int device;
    gpu_open(&g, rank);
    ncclComm_t comm = shim_make(rank, size);
    shim_place_is(comm, rank, size);
    NCCL_OK(shim.CommCuDevice(comm, &device));
    CHECK_EQ(device, g.ordinal);
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    for (int round = 0; round < 3; round++)
        operations(&g, comm, rank, size, in, out);
    memory(&g, comm, rank, size, in);
    suspend(comm);
    operations(&g, comm, rank, size, in, out);
    NCCL_OK(shim.CommSplit(comm, 0, -rank, &child, NULL));
    operations(&g, child, size - 1 - rank, size, in, out);
    NCCL_OK(shim.CommDestroy(child));
    NCCL_OK(shim.CommFinalize(comm));
    NCCL_OK(shim.CommDestroy(comm));
    gpu_free(&g, out);
    gpu_free(&g, in);
    gpu_close(&g);
}

static void threads(void)
{
    if (!gpus())
        test_skip("no GPU");
    load();
    shim_threads(2, rank_body);
}

static void through_the_host(void)
{
    if (!gpus())
        test_skip("no GPU");
    pid_t pid = test_fork(NULL);
    if (!pid) {
        setenv("CHOIR_CUDA_P2P", "off", 1);
        through_host = true;
        load();
        shim_threads(2, rank_body);
        _exit(0);
    }
    CHECK_EQ(test_reap(pid, 50000), 0);
}

/* --- kernels that wait for a rank that does not come -------------------------------------------------------- */

static void abort_body(int rank, int size, void *arg)
{
    (void)arg;
    struct gpu g;
    ncclResult_t r = ncclSuccess;
    gpu_open(&g, rank);
    ncclComm_t comm = shim_make(rank, size);
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    if (!rank) {
        NCCL_OK(shim.AllReduce(in, out, COUNT, ncclFloat32, ncclSum, comm, g.stream));
        test_sleep_ms(50);
        NCCL_OK(shim.CommAbort(comm)); /* waits for the stream, which has ended then */
        GPU_OK(g.cu->cuStreamSynchronize(g.stream));
    } else {
        for (int i = 0; i < 20000 && r == ncclSuccess; i++, test_sleep_ms(1))
            NCCL_OK(shim.CommGetAsyncError(comm, &r));
        CHECK_EQ(r, ncclRemoteError);
        NCCL_OK(shim.CommAbort(comm));
    }
    gpu_free(&g, out);
    gpu_free(&g, in);
    gpu_close(&g);
}

static void abort_waiting(void)
{
    if (!gpus())
        test_skip("no GPU");
    load();
    shim_threads(2, abort_body);
}

/* --- without blocking --------------------------------------------------------------------------------------- */

/* Rank 0 waits for the others in a kernel when they revoke; all make a child all the same. */
static void revoke_body(int rank, int size, void *arg)
{
    (void)arg;
    struct gpu g;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm, child;
    ncclWindow_t window = NULL;
    ncclResult_t r;
    void *m;
    config.blocking = 0;
    gpu_open(&g, rank);
    r = shim.CommInitRankConfig(&comm, size, shim_id, rank, &config);
    CHECK(r == ncclInProgress || r == ncclSuccess);
    NCCL_OK(shim_wait(comm));
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    NCCL_OK(shim.MemAlloc(&m, COUNT * 4));
    NCCL_OK(shim.CommWindowRegister(comm, m, COUNT * 4, &window, NCCL_WIN_COLL_SYMMETRIC));
    CHECK(window != NULL);
    NCCL_OK(shim_wait(comm));
    operations(&g, comm, rank, size, in, out);
    put(&g, comm, rank, size, in, m, window);
    shim_meet();
    if (!rank)
        NCCL_OK(shim.AllReduce(in, out, COUNT, ncclFloat32, ncclSum, comm, g.stream));
    test_sleep_ms(50);
    NCCL_OK(shim.CommRevoke(comm, NCCL_REVOKE_DEFAULT));
    GPU_OK(g.cu->cuStreamSynchronize(g.stream));
    r = shim.CommSplit(comm, 5, -rank, &child, NULL);
    CHECK(r == ncclInProgress || r == ncclSuccess);
    NCCL_OK(shim_wait(comm));
    NCCL_OK(shim_wait(child));
    operations(&g, child, size - 1 - rank, size, in, out);
    NCCL_OK(shim.CommDeregister(comm, window));
    shim_meet(); /* the last to end it frees the memory of all, which waits for what runs on their devices */
    NCCL_OK(shim.CommDestroy(comm));
    shim_meet();
    operations(&g, child, size - 1 - rank, size, in, out);
    NCCL_OK(shim.CommDestroy(child));
    NCCL_OK(shim.MemFree(m));
    gpu_free(&g, out);
    gpu_free(&g, in);
    gpu_close(&g);
}

static void revoke_and_split(void)
{
    if (!gpus())
        test_skip("no GPU");
    load();
    shim_threads(2, revoke_body);
}

static void *make(void *arg)
{
    ncclComm_t *comm = arg;
    CHECK_EQ(shim.CommInitRank(comm, 2, shim_id, 0), ncclRemoteError);
    return NULL;
}

/* Rank 1 does not come. */
static void abort_making(void)
{
    ncclComm_t comm = NULL, made = NULL;
    pthread_t thread;
    if (!gpus())
        test_skip("no GPU");
    load();
    NCCL_OK(shim.GetUniqueId(&shim_id));
    CHECK_EQ(pthread_create(&thread, NULL, make, &comm), 0);
    for (int i = 0; !made && i < 20000; i++, test_sleep_ms(1))
        made = __atomic_load_n(&comm, __ATOMIC_ACQUIRE);
    NCCL_OK(shim.CommAbort(made));
    pthread_join(thread, NULL);
}

/* --- all devices in one thread ------------------------------------------------------------------------------ */

static void one_thread(void)
{
    enum { MOST = 4 };
    struct gpu g[MOST];
    ncclComm_t comm[MOST], half[MOST];
    float *in[MOST], *out[MOST];
    int n = gpus(), device[MOST];
    n = n > MOST ? MOST : n;
    if (n < 2)
        test_skip("one thread for several GPUs: there is %d", n);
    load();
    for (int r = 0; r < n; r++) {
        gpu_open(&g[r], r);
        in[r] = gpu_alloc(&g[r], COUNT * 4), out[r] = gpu_alloc(&g[r], COUNT * 4);
        fill(&g[r], in[r], (float)r);
        device[r] = g[r].ordinal;
    }
    NCCL_OK(shim.CommInitAll(comm, n, device));
    NCCL_OK(shim.GroupStart());
    for (int r = 0; r < n; r++)
        NCCL_OK(shim.CommSplit(comm[r], 0, -r, &half[r], NULL));
    NCCL_OK(shim.GroupEnd());
    for (int k = 0; k < 2; k++) {
        NCCL_OK(shim.GroupStart());
        for (int r = 0; r < n; r++)
            NCCL_OK(shim.AllReduce(in[r], out[r], COUNT, ncclFloat32, ncclSum,
                                   k ? half[r] : comm[r], g[r].stream));
        NCCL_OK(shim.GroupEnd());
        for (int r = 0; r < n; r++) {
            GPU_OK(g[r].cu->cuCtxSetCurrent(g[r].context));
            check(&g[r], out[r], (float)n, (float)(n * (n - 1) / 2));
        }
    }
    for (int r = 0; r < n; r++) {
        NCCL_OK(shim.CommDestroy(half[r]));
        NCCL_OK(shim.CommDestroy(comm[r]));
    }
}

/* --- as nccl-tests' programs ------------------------------------------------------------------------------- */

/* A group of both ranks in which each rank sends to the other what it receives into, "in place", and its half of a sum. */
static void in_group(struct gpu *g, ncclComm_t *comm, float **in, float **out, bool in_place)
{
    NCCL_OK(shim.GroupStart());
    for (int r = 0; r < 2; r++) {
        const float *from = in_place ? out[r] : in[r];
        NCCL_OK(shim.GroupStart());
        NCCL_OK(shim.Send(from, COUNT, ncclFloat32, !r, comm[r], g[r].stream));
        NCCL_OK(shim.Recv(out[r], COUNT, ncclFloat32, !r, comm[r], g[r].stream));
        NCCL_OK(shim.GroupEnd());
        NCCL_OK(shim.AlltoAll(from, out[r], COUNT / 2, ncclFloat32, comm[r], g[r].stream));
        NCCL_OK(shim.AllGather(from, out[r], 0, ncclFloat32, comm[r], g[r].stream));
        NCCL_OK(shim.AllReduce(from, out[r], COUNT, ncclFloat32, ncclSum, comm[r], g[r].stream));
    }
    NCCL_OK(shim.GroupEnd());
}

/* The same in a graph of each GPU, captured in the strictest mode. */
static void in_graphs(struct gpu *g, ncclComm_t *comm, float **in, float **out)
{
    CUgraph graph[2];
    CUgraphExec exec[2];
    for (int r = 0; r < 2; r++)
        GPU_OK(g[r].cu->cuStreamBeginCapture(g[r].stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    in_group(g, comm, in, out, false);
    for (int r = 0; r < 2; r++)
        GPU_OK(g[r].cu->cuStreamEndCapture(g[r].stream, &graph[r]));
    for (int r = 0; r < 2; r++) {
        GPU_OK(g[r].cu->cuCtxSetCurrent(g[r].context));
        GPU_OK(g[r].cu->cuGraphInstantiateWithFlags(&exec[r], graph[r], 0));
        GPU_OK(g[r].cu->cuGraphLaunch(exec[r], g[r].stream));
    }
    for (int r = 0; r < 2; r++) {
        GPU_OK(g[r].cu->cuCtxSetCurrent(g[r].context));
        check(&g[r], out[r], 2, 1);
        GPU_OK(g[r].cu->cuGraphExecDestroy(exec[r]));
        GPU_OK(g[r].cu->cuGraphDestroy(graph[r]));
    }
}

/* Ends as theirs do with -p 1: communicators and windows are left, their memory is freed, and the devices are reset. */
static void end_with_reset(struct gpu *g, float **in, float **out)
{
    CUresult (*reset)(CUdevice) = NULL;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW),
         *found = dlsym(driver, "cuDevicePrimaryCtxReset_v2");
    CHECK(found != NULL);
    memcpy(&reset, &found, sizeof(reset));
    for (int r = 0; r < 2; r++) {
        NCCL_OK(shim.MemFree(in[r]));
        NCCL_OK(shim.MemFree(out[r]));
    }
    for (int r = 0; r < 2; r++)
        GPU_OK(reset(g[r].ordinal));
    test_sleep_ms(200); /* the library's thread looks on */
    exit(0);
}

static void like_nccl_tests(void)
{
    struct gpu g[2];
    ncclComm_t comm[2];
    ncclWindow_t window[2];
    float *in[2], *out[2];
    if (gpus() < 2)
        test_skip("one thread for several GPUs: there is %d", gpus());
    pid_t pid = test_fork(NULL);
    if (pid) {
        CHECK_EQ(test_reap(pid, 50000), 0);
        return;
    }
    load();
    for (int r = 0; r < 2; r++)
        gpu_open(&g[r], r);
    NCCL_OK(shim.CommInitAll(comm, 2, NULL));
    NCCL_OK(shim.GroupStart());
    for (int r = 0; r < 2; r++) {
        GPU_OK(g[r].cu->cuCtxSetCurrent(g[r].context));
        NCCL_OK(shim.MemAlloc((void **)&in[r], COUNT * 4));
        NCCL_OK(shim.MemAlloc((void **)&out[r], COUNT * 4));
        NCCL_OK(shim.CommWindowRegister(comm[r], out[r], COUNT * 4, &window[r],
                                        NCCL_WIN_COLL_SYMMETRIC));
        fill(&g[r], in[r], (float)r);
    }
    NCCL_OK(shim.GroupEnd());
    for (int in_place = 0; in_place < 2; in_place++)
        in_group(g, comm, in, out, in_place);
    in_graphs(g, comm, in, out);
    end_with_reset(g, in, out);
}

TEST_MAIN(TEST(through_the_host), TEST(like_nccl_tests), TEST(threads), TEST(abort_waiting),
          TEST(revoke_and_split), TEST(abort_making), TEST(one_thread))
