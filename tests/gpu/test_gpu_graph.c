/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations captured into CUDA graphs, replayed with new data, between calls on the stream; many communicators on streams of their
 * own, called in different orders by different ranks.
 */
#include "tests/gpu/gpu.h"

#define COUNT 5000
#define COMMS 4

struct job {
    struct choir_id id, more[COMMS];
};

static float value(int rank, uint32_t round, uint32_t i)
{
    return (float)(test_mix(round * 1000003u + (uint32_t)rank * 7919u + i) % 1000);
}

static void fill(struct gpu *g, void *to, int rank, uint32_t round)
{
    static _Thread_local float host[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        host[i] = value(rank, round, i);
    gpu_put(g, to, host, sizeof(host));
}

static float sum(int size, uint32_t round, uint32_t i)
{
    float s = 0;
    for (int r = 0; r < size; r++)
        s += value(r, round, i);
    return s;
}

static void check_sum(struct gpu *g, const void *from, int size, uint32_t round, float factor)
{
    static _Thread_local float host[COUNT];
    gpu_get(g, host, from, sizeof(host));
    for (uint32_t i = 0; i < COUNT; i++)
        if (host[i] != factor * sum(size, round, i))
            FAIL("round %u element %u: %g, not %g", round, i, (double)host[i],
                 (double)(factor * sum(size, round, i)));
}

static void check_gather(struct gpu *g, const void *from, int size, uint32_t round)
{
    float *host = malloc(sizeof(float) * COUNT * (size_t)size);
    gpu_get(g, host, from, sizeof(float) * COUNT * (size_t)size);
    for (int r = 0; r < size; r++)
        for (uint32_t i = 0; i < COUNT; i++)
            if (host[(uint32_t)r * COUNT + i] != value(r, round, i))
                FAIL("round %u rank %d element %u differs", round, r, i);
    free(host);
}

static void graph_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu g;
    choir_comm *c;
    CUgraph graph;
    CUgraphExec exec;
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4),
          *all = gpu_alloc(&g, COUNT * 4 * (uint64_t)size);
    /* First seen inside a capture: nothing may need the stream to run. Relaxed: the other rank, another thread, makes its graph
     * meanwhile, which a stricter mode forbids. */
    GPU_OK(g.cu->cuStreamBeginCapture(g.stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    CHECK_OK(choir_all_gather(c, in, all, COUNT, CHOIR_FLOAT32, g.choir));
    CHECK_OK(choir_all_reduce(c, out, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    CHECK_OK(choir_barrier(c, g.choir));
    GPU_OK(g.cu->cuStreamEndCapture(g.stream, &graph));
    GPU_OK(g.cu->cuGraphInstantiate(&exec, graph, 0));
    for (uint32_t round = 0; round < 60; round++) {
        fill(&g, in, rank, round);
        GPU_OK(g.cu->cuGraphLaunch(exec, g.stream));
        if (round % 3 == 0) /* not read in between: replays follow each other */
            GPU_OK(g.cu->cuGraphLaunch(exec, g.stream));
        check_sum(&g, out, size, round, (float)size);
        check_gather(&g, all, size, round);
        if (round % 4)
            continue;
        CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
        check_sum(&g, out, size, round, 1);
    }
    GPU_OK(g.cu->cuGraphExecDestroy(exec));
    GPU_OK(g.cu->cuGraphDestroy(graph));
    CHECK_OK(choir_comm_destroy(c));
    gpu_free(&g, all), gpu_free(&g, out), gpu_free(&g, in);
    gpu_close(&g);
}

/* Each rank calls its communicators in another order; the operations of one wait for nobody else's. */
static void many_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu g[COMMS];
    choir_comm *c[COMMS];
    float *in[COMMS], *out[COMMS];
    for (int k = 0; k < COMMS; k++) {
        gpu_open(&g[k], rank);
        CHECK_OK(choir_comm_create(&j->more[k], rank, size, NULL, &c[k]));
        in[k] = gpu_alloc(&g[k], COUNT * 4), out[k] = gpu_alloc(&g[k], COUNT * 4);
    }
    for (uint32_t round = 0; round < 40; round++) {
        for (int k = 0; k < COMMS; k++)
            fill(&g[k], in[k], rank, round * COMMS + (uint32_t)k);
        for (int i = 0; i < COMMS; i++) {
            int k = rank % 2 ? COMMS - 1 - i : i;
            CHECK_OK(
                choir_all_reduce(c[k], in[k], out[k], COUNT, CHOIR_FLOAT32, CHOIR_SUM, g[k].choir));
        }
        for (int k = 0; k < COMMS; k++)
            check_sum(&g[k], out[k], size, round * COMMS + (uint32_t)k, 1);
    }
    for (int k = 0; k < COMMS; k++) {
        CHECK_OK(choir_comm_destroy(c[k]));
        gpu_free(&g[k], out[k]), gpu_free(&g[k], in[k]);
        gpu_close(&g[k]);
    }
}

static void run(int ranks, int per_process, void (*fn)(int, int, void *))
{
    struct job j;
    const char *env[] = {"CHOIR_TIMEOUT=20s", NULL};
    struct test_ranks t = {
        .ranks = ranks, .per_process = per_process, .env = env, .fn = fn, .arg = &j};
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_id(&j.id);
    for (int k = 0; k < COMMS; k++)
        test_id(&j.more[k]);
    if (!test_ranks_try(&t))
        FAIL("%d ranks, %d in a process", ranks, per_process);
}

static void graphs(void)
{
    run(2, 2, graph_body);
    run(2, 1, graph_body);
}

static void communicators(void)
{
    run(2, 2, many_body);
    run(2, 1, many_body);
}

/* One thread drives all ranks: creation, and every operation, in a group. */
static void one_thread(void)
{
    enum { RANKS = 2 };
    struct choir_id id;
    struct gpu g[RANKS];
    choir_comm *c[RANKS];
    float *in[RANKS], *out[RANKS];
    if (!gpu_count())
        test_skip("GPUs: there is none");
    CHECK_OK(choir_id_create(&id));
    CHECK_OK(choir_group_start());
    for (int r = 0; r < RANKS; r++) {
        gpu_open(&g[r], r);
        CHECK_OK(choir_comm_create(&id, r, RANKS, NULL, &c[r]));
    }
    CHECK_OK(choir_group_end());
    for (int r = 0; r < RANKS; r++) {
        GPU_OK(g[r].cu->cuCtxSetCurrent(g[r].context));
        in[r] = gpu_alloc(&g[r], COUNT * 4), out[r] = gpu_alloc(&g[r], COUNT * 4);
    }
    for (uint32_t round = 0; round < 100; round++) {
        for (int r = 0; r < RANKS; r++) {
            GPU_OK(g[r].cu->cuCtxSetCurrent(g[r].context));
            fill(&g[r], in[r], r, round);
        }
        CHECK_OK(choir_group_start());
        for (int r = 0; r < RANKS; r++)
            CHECK_OK(
                choir_all_reduce(c[r], in[r], out[r], COUNT, CHOIR_FLOAT32, CHOIR_SUM, g[r].choir));
        CHECK_OK(choir_group_end());
        for (int r = 0; r < RANKS; r++) {
            GPU_OK(g[r].cu->cuCtxSetCurrent(g[r].context));
            check_sum(&g[r], out[r], RANKS, round, 1);
        }
    }
    for (int r = 0; r < RANKS; r++) {
        CHECK_OK(choir_comm_destroy(c[r]));
        gpu_close(&g[r]);
    }
}

TEST_MAIN(TEST(graphs), TEST(communicators), TEST(one_thread))
