/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a profiler plug-in for NCCL is told of operations on GPUs by libnccl.so.2: a kernel channel with the GPU's times for each call
 * and each replay of a graph; GPU memory through the host. Each case is a process of its own (--child); see test_nccl_profiler.c.
 */
#include "tests/gpu/gpu.h"
#include "tests/lib/recorded.h"
#include "tests/lib/shim.h"
#include <limits.h>

#define RANKS 2
#define COUNT 2000
#define CALLS 5
#define REPLAYS 4

static ncclUniqueId id;

static void swap(ncclComm_t c, int rank, float *in, float *out, cudaStream_t s)
{
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.Send(in, COUNT, ncclFloat32, 1 - rank, c, s));
    NCCL_OK(shim.Recv(out, COUNT, ncclFloat32, 1 - rank, c, s));
    NCCL_OK(shim.GroupEnd());
}

static void body(int rank, int size, void *arg)
{
    struct gpu g;
    ncclComm_t c;
    CUgraph graph;
    CUgraphExec exec;
    gpu_open(&g, rank);
    cudaStream_t s = (cudaStream_t)g.stream;
    NCCL_OK(shim.CommInitRank(&c, size, id, rank));
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    for (int i = 0; i < CALLS; i++)
        NCCL_OK(shim.AllReduce(in, out, COUNT, ncclFloat32, ncclSum, c, s));
    swap(c, rank, in, out, s);
    GPU_OK(g.cu->cuStreamBeginCapture(g.stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    NCCL_OK(shim.Broadcast(in, out, COUNT, ncclUint8, 0, c, s));
    GPU_OK(g.cu->cuStreamEndCapture(g.stream, &graph));
    GPU_OK(g.cu->cuGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < REPLAYS; i++)
        GPU_OK(g.cu->cuGraphLaunch(exec, g.stream));
    GPU_OK(g.cu->cuStreamSynchronize(g.stream));
    NCCL_OK(shim.CommDestroy(c));
    GPU_OK(g.cu->cuGraphExecDestroy(exec));
    GPU_OK(g.cu->cuGraphDestroy(graph));
    gpu_free(&g, out), gpu_free(&g, in);
    gpu_close(&g);
    (void)arg;
}

/* Replays faster than they are told, and a call behind them. */
static void flood(int rank, int size, void *arg)
{
    enum { REPLAYED = 1500 }; /* 3000 marks, there is room for 2048 */
    struct gpu g;
    ncclComm_t c;
    CUgraph graph;
    CUgraphExec exec;
    gpu_open(&g, rank);
    cudaStream_t s = (cudaStream_t)g.stream;
    NCCL_OK(shim.CommInitRank(&c, size, id, rank));
    recorded_find(arg);
    float *in = gpu_alloc(&g, COUNT * 4);
    GPU_OK(g.cu->cuStreamBeginCapture(g.stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    NCCL_OK(shim.Broadcast(in, in, 8, ncclUint8, 0, c, s));
    GPU_OK(g.cu->cuStreamEndCapture(g.stream, &graph));
    GPU_OK(g.cu->cuGraphInstantiate(&exec, graph, 0));
    recorded_hold(1);
    GPU_OK(g.cu->cuGraphLaunch(exec, g.stream)); /* who tells is held up, here or soon */
    for (int i = 0; i < REPLAYED; i++)
        GPU_OK(g.cu->cuGraphLaunch(exec, g.stream));
    GPU_OK(g.cu->cuStreamSynchronize(g.stream));
    recorded_hold(0);
    NCCL_OK(shim.AllReduce(in, in, COUNT, ncclFloat32, ncclSum, c, s));
    NCCL_OK(shim.CommDestroy(c));
    CHECK_LT(recorded_number(PROFILER_KERNEL_CH, rank, NULL), REPLAYED);
    CHECK_LT(100, recorded_number(PROFILER_KERNEL_CH, rank, NULL));
    GPU_OK(g.cu->cuGraphExecDestroy(exec));
    GPU_OK(g.cu->cuGraphDestroy(graph));
    gpu_free(&g, in);
    gpu_close(&g);
}

static void check_rank(int rank, int version, bool mapped)
{
    bool api = version == 5;
    CHECK_EQ(recorded_number(PROFILER_COLL, rank, "AllReduce"), CALLS);
    CHECK_EQ(recorded_number(PROFILER_COLL, rank, "Broadcast"), REPLAYS);
    CHECK_EQ(recorded_number(PROFILER_P2P, rank, NULL), 2);
    CHECK_EQ(recorded_number(PROFILER_KERNEL_CH, rank, NULL), mapped ? CALLS + 1 + REPLAYS : 0);
    CHECK_EQ(recorded_number(PROFILER_KERNEL_LAUNCH, rank, NULL), api && mapped ? CALLS + 2 : 0);
    CHECK_EQ(recorded_number(PROFILER_P2P_API, rank, NULL), api ? 2 : 0);
    CHECK_EQ(recorded_number(PROFILER_COLL_API, rank, NULL), !api     ? 0
                                                             : mapped ? CALLS + 1
                                                                      : CALLS + REPLAYS);
}

static void check_event(const struct recorded *r, bool mapped)
{
    if (r->type == PROFILER_COLL || r->type == PROFILER_P2P) {
        int parts = mapped ? PROFILER_KERNEL_CH : PROFILER_PROXY_OP;
        CHECK_EQ(r->channels, recorded_parts(r, parts));
        CHECK(r->channels > 0 || !strcmp(r->func, "Recv")); /* it runs with the send */
    } else if (r->type == PROFILER_KERNEL_CH) {
        CHECK(r->gpu_start > 0 && r->gpu_stop >= r->gpu_start);
    } else if (r->type == PROFILER_COLL_API) {
        CHECK_EQ(r->captured, !strcmp(r->func, "Broadcast"));
        CHECK(r->stream != NULL);
    }
}

/* which: version, mapped or not, or a flood: "5m" */
static int child(const char *which)
{
    int version = which[0] - '0';
    bool mapped = which[1] != 'h', flooded = which[1] == 'f';
    char path[PATH_MAX];
    test_deadline(60);
    shim_load();
    recorded_path(path, sizeof(path), version == 5 ? "nccl_profiler" : "nccl_profiler_v4");
    NCCL_OK(shim.GetUniqueId(&id));
    test_threads(flooded ? 1 : RANKS, flooded ? flood : body, path);
    recorded_find(path);
    recorded_check(version, flooded ? 10 : 0);
    for (int r = 0; r < RANKS && !flooded; r++)
        check_rank(r, version, mapped);
    for (int i = 0; i < recorded_events() && !flooded; i++)
        check_event(recorded_event(i), mapped);
    return 0;
}

static void run(int version, char how)
{
    char path[PATH_MAX], set[PATH_MAX + 32], which[3] = {(char)('0' + version), how};
    if (!gpu_count())
        test_skip("GPUs: there is none");
    recorded_path(path, sizeof(path), version == 5 ? "nccl_profiler" : "nccl_profiler_v4");
    snprintf(set, sizeof(set), "NCCL_PROFILER_PLUGIN=%s", path);
    CHECK_EQ(test_rerun(which, (const char *const[]){set, "CHOIR_NCCL_HOST=0",
                                                     how == 'h' ? "NCCL_P2P_DISABLE=1"
                                                                : "NCCL_P2P_DISABLE=0",
                                                     NULL}),
             0);
}

static void version_5(void)
{
    run(5, 'm');
    run(5, 'h');
}

static void version_4(void)
{
    run(4, 'm');
    run(4, 'h');
}

static void flooded(void)
{
    run(5, 'f');
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(version_5), TEST(version_4), TEST(flooded)};
    if (argc == 3 && !strcmp(argv[1], "--child"))
        return child(argv[2]);
    return test_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
