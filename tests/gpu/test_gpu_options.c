/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a call may ask for beside its arguments: a deadline of its own, few blocks, a stream of the communicator's own; mapped and
 * through the host.
 */
#include "tests/gpu/gpu.h"
#include <dlfcn.h>

#define COUNT 300000 /* of many lanes, and slots */

struct job {
    struct choir_id id, other;
    bool alone; /* a process a rank */
};

static void put(struct gpu *g, float *to, uint64_t count, float value)
{
    float *from = malloc(count * sizeof(*from));
    CHECK(from != NULL);
    for (uint64_t i = 0; i < count; i++)
        from[i] = value + (float)(i % 7);
    gpu_put(g, to, from, count * sizeof(*from));
    free(from);
}

static void expect(struct gpu *g, const float *from, uint64_t count, float value, int size)
{
    float *got = malloc(count * sizeof(*got));
    CHECK(got != NULL);
    gpu_get(g, got, from, count * sizeof(*got));
    for (uint64_t i = 0; i < count; i++)
        if (got[i] != value + (float)(size * (int)(i % 7)))
            FAIL("element %llu is %g", (unsigned long long)i, (double)got[i]);
    free(got);
}

/* The most blocks of what was launched in this process since the last question; 0: a real driver does not say. */
static unsigned widest(void)
{
    unsigned (*ask)(void) = NULL;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (library) {
        *(void **)&ask = dlsym(library, "fake_cuda_widest");
        dlclose(library);
    }
    return ask ? ask() : 0;
}

/* What was launched since the last question had at most so many blocks; 0: it had many. */
static void check_widest(const struct job *j, uint32_t most)
{
    unsigned seen = widest();
    if (!j->alone || !seen)
        return;
    if (most)
        CHECK_LE(seen, most);
    else
        CHECK_LT(3, seen);
}

/* --- blocks ---------------------------------------------------------------------------------------- */

/* Few blocks on some ranks only: how many a rank takes is its own business. */
static void blocks_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu g;
    choir_comm *c;
    struct choir_config config = CHOIR_CONFIG_INIT;
    struct choir_call call = {.bytes = sizeof(call)};
    config.max_blocks = rank ? 0 : 3;
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, &config, &c));
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    put(&g, in, COUNT, (float)rank);
    for (uint32_t most = 0; most < 3; most++) {
        static const uint64_t counts[] = {1, 5000, 40000, COUNT};
        call.max_blocks = rank ? most : 0;
        for (unsigned i = 0; i < base_count(counts); i++) {
            widest();
            CHECK_OK(choir_all_reduce_x(c, in, out, counts[i], CHOIR_FLOAT32, CHOIR_SUM, g.choir,
                                        &call));
            expect(&g, out, counts[i], (float)(size * (size - 1) / 2), size);
            if (!rank || most)
                check_widest(j, rank ? most : 3);
        }
        int peer = (rank + 1) % size, from = (rank + size - 1) % size;
        CHECK_OK(choir_group_start());
        CHECK_OK(choir_send_x(c, in, COUNT, CHOIR_FLOAT32, peer, g.choir, &call));
        CHECK_OK(choir_recv_x(c, out, COUNT, CHOIR_FLOAT32, from, g.choir, &call));
        widest();
        CHECK_OK(choir_group_end());
        expect(&g, out, COUNT, (float)from, 1);
        check_widest(j, rank ? most : 3);
    }
    CHECK_OK(choir_comm_destroy(c));
    config.max_blocks = -1;
    CHECK_EQ(choir_comm_create(&j->id, rank, size, &config, &c), CHOIR_ERR_ARGUMENT);
    gpu_close(&g);
}

/* --- deadlines ------------------------------------------------------------------------------------- */

static void deadline_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu g;
    choir_comm *c;
    enum choir_status st = CHOIR_OK;
    struct choir_error e = {.bytes = sizeof(e)};
    struct choir_call call = {.bytes = sizeof(call), .deadline_ns = 300000000};
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    put(&g, in, COUNT, (float)rank);
    CHECK_OK(choir_all_reduce_x(c, in, out, 5000, CHOIR_FLOAT32, CHOIR_SUM, g.choir, &call));
    expect(&g, out, 5000, (float)(size * (size - 1) / 2), size);
    if (!rank) { /* the last rank never comes */
        CHECK_OK(choir_recv_x(c, out, COUNT, CHOIR_FLOAT32, size - 1, g.choir, &call));
        GPU_OK(g.cu->cuStreamSynchronize(g.stream)); /* long before the communicator's timeout */
    }
    for (int i = 0; i < 500 && st == CHOIR_OK; i++, test_sleep_ms(10))
        st = choir_comm_status(c);
    CHECK_EQ(st, CHOIR_ERR_TIMEOUT);
    choir_comm_last_error(c, &e);
    CHECK_EQ(e.peer, size - 1);
    if (!rank && !getenv("CHOIR_CUDA_P2P"))
        CHECK(strstr(e.text, "waited 0.3 s") != NULL);
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

/* --- overlap ---------------------------------------------------------------------------------------- */

/* As a branch of a graph. */
static void overlap_captured(struct gpu *g, choir_comm *c, const float *in, float *out, int size)
{
    struct choir_call call = {.bytes = sizeof(call), .flags = CHOIR_CALL_OVERLAP};
    CUgraph graph;
    CUgraphExec exec;
    GPU_OK(g->cu->cuStreamBeginCapture(g->stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_OK(choir_all_reduce_x(c, in, out, 5000, CHOIR_FLOAT32, CHOIR_SUM, g->choir, &call));
    CHECK_OK(choir_broadcast_x(c, out, out, 5000, CHOIR_FLOAT32, 0, g->choir, &call));
    CHECK_OK(choir_overlap_wait(c, g->choir));
    GPU_OK(g->cu->cuStreamEndCapture(g->stream, &graph));
    GPU_OK(g->cu->cuGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 3; i++) {
        GPU_OK(g->cu->cuMemsetD8Async((CUdeviceptr)(uintptr_t)out, 0xff, 5000 * 4, g->stream));
        GPU_OK(g->cu->cuGraphLaunch(exec, g->stream));
        expect(g, out, 5000, (float)(size * (size - 1) / 2), size);
    }
    GPU_OK(g->cu->cuGraphExecDestroy(exec));
    GPU_OK(g->cu->cuGraphDestroy(graph));
}

static void overlap_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu g;
    choir_comm *c, *words;
    struct choir_config config = CHOIR_CONFIG_INIT;
    struct choir_call call = {.bytes = sizeof(call), .flags = CHOIR_CALL_OVERLAP};
    int word = 0;
    config.low_priority = rank % 2;
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, &config, &c));
    CHECK_OK(choir_comm_create(&j->other, rank, size, NULL, &words));
    CHECK_OK(choir_overlap_wait(c, g.choir)); /* there is nothing to wait for */
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    put(&g, in, COUNT, (float)rank);
    for (int i = 0; i < 3; i++) {
        GPU_OK(g.cu->cuMemsetD8Async((CUdeviceptr)(uintptr_t)out, 0xff, COUNT * 4, g.stream));
        if (rank)
            CHECK_OK(choir_recv(words, &word, 1, CHOIR_INT32, 0, NULL));
        CHECK_OK(choir_all_reduce_x(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir, &call));
        /* The operation waits for the others, who wait for a word: the stream does not. */
        if (!rank)
            GPU_OK(g.cu->cuStreamSynchronize(g.stream));
        for (int p = 1; !rank && p < size; p++)
            CHECK_OK(choir_send(words, &i, 1, CHOIR_INT32, p, NULL));
        CHECK_OK(choir_overlap_wait(c, g.choir));
        expect(&g, out, COUNT, (float)(size * (size - 1) / 2), size);
    }
    overlap_captured(&g, c, in, out, size);
    CHECK_EQ(choir_all_reduce_x(c, &word, &word, 1, CHOIR_INT32, CHOIR_SUM, NULL, &call),
             CHOIR_ERR_ARGUMENT);
    CHECK_EQ(choir_overlap_wait(c, NULL), CHOIR_ERR_ARGUMENT);
    call.flags = 2;
    CHECK_EQ(choir_all_reduce_x(c, in, out, 1, CHOIR_FLOAT32, CHOIR_SUM, g.choir, &call),
             CHOIR_ERR_ARGUMENT);
    CHECK_OK(choir_comm_destroy(words));
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

/* --- which ranks -------------------------------------------------------------------------------------- */

static void run(void (*body)(int rank, int size, void *arg))
{
    static const char *const off[] = {"CHOIR_CUDA_P2P=off", NULL};
    struct job j;
    if (!gpu_count())
        test_skip("GPUs: there is none");
    for (int i = 0; i < (body == blocks_body ? 2 : 4); i++) { /* mapped, and through the host */
        int size = i % 2 ? 2 : 3;
        test_id(&j.id), test_id(&j.other);
        j.alone = i % 2 == 0;
        struct test_ranks ranks = {.ranks = size,
                                   .per_process = i % 2 ? size : 1,
                                   .env = i / 2 ? off : NULL,
                                   .fn = body,
                                   .arg = &j};
        CHECK(test_ranks_try(&ranks));
    }
}

static void blocks(void)
{
    run(blocks_body);
}
static void deadline(void)
{
    run(deadline_body);
}
static void overlap(void)
{
    run(overlap_body);
}

TEST_MAIN(TEST(blocks), TEST(deadline), TEST(overlap))
