/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GPU memory through the host: drawn operations where GPUs are not to map each other (CHOIR_CUDA_P2P=off) and on two hosts over tcp
 * (CHOIR_HOST_ID), in slices and whole; memory of GPUs, of malloc on a CUDA stream and of host calls in one operation; graphs;
 * what goes wrong. And plain memory on streams of communicators whose GPUs do map each other.
 */
#include "comm/comm.h"
#include "tests/gpu/gpu.h"
#include <unistd.h>

#define COUNT 5000

enum memory { ON_GPU, MIXED, PLAIN_TOO };
struct job {
    struct choir_id id;
    int operations;
    uint64_t seed, slot;
    enum memory memory;
    bool
        alone; /* one rank in a process: ranks of one that share a GPU share its default stream too */
};

/* What a run is like. */
struct how {
    int ranks, per_process, hosts;
    const char *slice, *p2p;
};

static void drawn_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu g;
    choir_comm *c;
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    CHECK_EQ(c->slice_bytes != 0, j->memory != PLAIN_TOO);
    uint64_t draw = j->seed;
    for (int i = 0; i < j->operations; i++) {
        struct matrix_op op;
        enum choir_kind kind = (enum choir_kind)(test_mix(draw++) % CHOIR_KINDS);
        if (j->memory == PLAIN_TOO)
            gpu_draw(&op, kind, size, j->slot, &draw);
        else
            matrix_draw(&op, kind, size, j->slot, &draw);
        /* On the GPU, plain on its stream, or (all ranks can, where memory goes through the host) a host call. */
        uint64_t where = test_mix(draw++ + 1000 * (uint64_t)rank) % (j->memory == MIXED ? 3 : 2);
        where = j->memory == ON_GPU ? 0 : where;
        op.rank = rank;
        op.mapped = false;
        op.elsewhere = where ? NULL : &g.elsewhere;
        if (getenv("CHOIR_TEST_VERBOSE"))
            fprintf(stderr, "%d: %s in %d\n", i, matrix_text(&op), (int)where);
        matrix_run(c, &op, where == 2 ? NULL : g.choir);
    }
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

static void run(struct job j, struct how h, void (*fn)(int, int, void *))
{
    char slice[64], p2p[64];
    snprintf(slice, sizeof(slice), "CHOIR_CUDA_SLICE=%s", h.slice);
    snprintf(p2p, sizeof(p2p), "CHOIR_CUDA_P2P=%s", h.p2p);
    const char *env[] = {slice,
                         p2p,
                         "CHOIR_TIMEOUT=30s",
                         "CHOIR_CREATE_TIMEOUT=60s",
                         h.hosts > 1 ? "CHOIR_TRANSPORTS=self,tcp" : "CHOIR_LOG=warn",
                         NULL};
    struct test_ranks t = {.ranks = h.ranks,
                           .per_process = h.per_process,
                           .hosts = h.hosts,
                           .env = env,
                           .fn = fn,
                           .arg = &j};
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_deadline(240);
    test_id(&j.id);
    j.seed = test_seed();
    j.alone = h.per_process == 1;
    if (!test_ranks_try(&t))
        FAIL("%d ranks, %d in a process, %d hosts, slices of %s, mapping %s", h.ranks,
             h.per_process, h.hosts, h.slice, h.p2p);
}

static struct job drawn_job(uint64_t slot, enum memory memory)
{
    return (struct job){.operations = TEST_BY_EFFORT(10, 40, 400), .slot = slot, .memory = memory};
}

static void threads(void)
{
    run(drawn_job(4096, ON_GPU), (struct how){2, 2, 1, "8K", "off"}, drawn_body);
    run(drawn_job(65536, ON_GPU), (struct how){2, 2, 1, "4M", "off"}, drawn_body);
    run(drawn_job(4096, ON_GPU), (struct how){1, 1, 1, "4K", "off"}, drawn_body);
}

static void processes(void)
{
    run(drawn_job(4096, ON_GPU), (struct how){2, 1, 1, "8K", "off"}, drawn_body);
    run(drawn_job(65536, ON_GPU), (struct how){2, 1, 1, "100K", "off"}, drawn_body);
}

static void hosts(void)
{
    run(drawn_job(4096, ON_GPU), (struct how){2, 1, 2, "8K", "auto"}, drawn_body);
    run(drawn_job(65536, ON_GPU), (struct how){2, 1, 2, "4M", "auto"}, drawn_body);
    run(drawn_job(4096, ON_GPU), (struct how){4, 2, 2, "8K", "auto"}, drawn_body);
}

static void mixed(void)
{
    run(drawn_job(4096, MIXED), (struct how){2, 2, 1, "8K", "off"}, drawn_body);
    run(drawn_job(65536, MIXED), (struct how){2, 1, 2, "64K", "auto"}, drawn_body);
}

/* Kernels move the data, and plain memory goes through pinned memory. */
static void plain(void)
{
    run(drawn_job(4096, PLAIN_TOO), (struct how){2, 2, 1, "4M", "auto"}, drawn_body);
    run(drawn_job(65536, PLAIN_TOO), (struct how){2, 1, 1, "4M", "auto"}, drawn_body);
}

/* --- graphs -------------------------------------------------------------------------------------------------- */

static void fill(float *to, int rank, uint32_t round)
{
    for (uint32_t i = 0; i < COUNT; i++)
        to[i] = (float)(test_mix(round * 77 + (uint32_t)rank * 7919u + i) % 1000);
}

static void check_sum(struct gpu *g, const float *from, int size, uint32_t round, float factor)
{
    static _Thread_local float sum[COUNT], one[COUNT], got[COUNT];
    memset(sum, 0, sizeof(sum));
    for (int r = 0; r < size; r++) {
        fill(one, r, round);
        for (uint32_t i = 0; i < COUNT; i++)
            sum[i] += one[i];
    }
    gpu_get(g, got, from, sizeof(got));
    for (uint32_t i = 0; i < COUNT; i++)
        if (got[i] != factor * sum[i])
            FAIL("round %u element %u: %g, not %g", round, i, (double)got[i],
                 (double)(factor * sum[i]));
}

static void graph_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    static _Thread_local float host[COUNT];
    struct gpu g;
    choir_comm *c;
    choir_op scaled;
    CUgraph graph;
    CUgraphExec exec;
    gpu_open(&g, rank);
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4),
          *scale = gpu_alloc(&g, 4), *all = gpu_alloc(&g, COUNT * 4 * (uint64_t)size);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    CHECK_OK(choir_op_create_scaled(c, scale, CHOIR_FLOAT32, &scaled));
    GPU_OK(g.cu->cuStreamBeginCapture(g.stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    CHECK_OK(choir_all_gather(c, in, all, COUNT, CHOIR_FLOAT32, g.choir));
    CHECK_OK(choir_all_reduce(c, out, out, COUNT, CHOIR_FLOAT32, scaled, g.choir));
    CHECK_OK(choir_barrier(c, g.choir));
    GPU_OK(g.cu->cuStreamEndCapture(g.stream, &graph));
    GPU_OK(g.cu->cuGraphInstantiate(&exec, graph, 0));
    for (uint32_t round = 0; round < 40; round++) {
        float factor = (float)(round % 5);
        fill(host, rank, round);
        gpu_put(&g, in, host, sizeof(host));
        gpu_put(&g, scale, &factor, 4);
        GPU_OK(g.cu->cuGraphLaunch(exec, g.stream));
        if (round % 3 == 0)
            GPU_OK(g.cu->cuGraphLaunch(exec, g.stream));
        check_sum(&g, out, size, round, (float)size * factor);
        fill(host, size - 1, round);
        static _Thread_local float last[COUNT];
        gpu_get(&g, last, all + (size - 1) * COUNT, sizeof(last));
        CHECK(!memcmp(last, host, sizeof(last)));
        if (round % 4)
            continue;
        CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
        check_sum(&g, out, size, round, 1);
        if (!j->alone)
            continue;
        CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, NULL));
        GPU_OK(g.cu->cuStreamSynchronize(NULL));
        check_sum(&g, out, size, round, 1);
    }
    GPU_OK(g.cu->cuGraphExecDestroy(exec));
    GPU_OK(g.cu->cuGraphDestroy(graph));
    struct choir_memory m = {.bytes = sizeof(m)};
    CHECK_OK(choir_comm_memory(c, &m));
    CHECK_LT(2 * 8192, m.pinned_bytes);
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

static void graphs(void)
{
    run((struct job){0}, (struct how){2, 2, 1, "8K", "off"}, graph_body);
    run((struct job){0}, (struct how){2, 1, 1, "4M", "off"}, graph_body);
    run((struct job){0}, (struct how){2, 1, 2, "8K", "auto"}, graph_body);
}

/* --- what goes wrong --------------------------------------------------------------------------------------------- */

struct rank {
    struct gpu g;
    choir_comm *c;
    float *in, *out;
};

static void begin(struct rank *r, const struct job *j, int rank, int size, uint64_t timeout_ns)
{
    struct choir_config config = CHOIR_CONFIG_INIT;
    config.timeout_ns = timeout_ns;
    gpu_open(&r->g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, &config, &r->c));
    r->in = gpu_alloc(&r->g, COUNT * 4), r->out = gpu_alloc(&r->g, COUNT * 4);
}

static enum choir_status call(struct rank *r, uint64_t count)
{
    return choir_all_reduce(r->c, r->in, r->out, count, CHOIR_FLOAT32, CHOIR_SUM, r->g.choir);
}

/* The stream has gone on; the communicator says what it was. */
static void end(struct rank *r, enum choir_status want, int peer)
{
    struct choir_error e = {.bytes = sizeof(e)};
    GPU_OK(r->g.cu->cuStreamSynchronize(r->g.stream));
    for (int i = 0; i < 500 && choir_comm_status(r->c) == CHOIR_OK; i++)
        test_sleep_ms(10);
    CHECK_EQ(choir_comm_status(r->c), want);
    CHECK_OK(choir_comm_last_error(r->c, &e));
    if (peer >= 0)
        CHECK_EQ(e.peer, peer);
    CHECK_EQ(call(r, 1), want);
    CHECK_OK(choir_comm_destroy(r->c));
    gpu_close(&r->g);
}

static void mismatch_body(int rank, int size, void *arg)
{
    struct rank r;
    begin(&r, arg, rank, size, 0);
    CHECK_OK(call(&r, COUNT));
    CHECK_OK(call(&r, rank ? 90 : 100));
    end(&r, CHOIR_ERR_MISMATCH, -1);
}

static void late_body(int rank, int size, void *arg)
{
    struct rank r;
    begin(&r, arg, rank, size, 1000000000);
    if (!rank)
        CHECK_OK(call(&r, COUNT));
    end(&r, CHOIR_ERR_TIMEOUT, rank ? -1 : 1);
}

static void abort_body(int rank, int size, void *arg)
{
    struct rank r;
    begin(&r, arg, rank, size, 0);
    if (!rank) {
        CHECK_OK(call(&r, COUNT));
        CHECK_OK(call(&r, COUNT));
        test_sleep_ms(100);
        CHECK_OK(choir_comm_abort(r.c));
    }
    end(&r, CHOIR_ERR_ABORTED, -1);
}

static void death_body(int rank, int size, void *arg)
{
    struct rank r;
    begin(&r, arg, rank, size, 0);
    for (int i = 0; i < 10; i++)
        CHECK_OK(call(&r, COUNT));
    GPU_OK(r.g.cu->cuStreamSynchronize(r.g.stream));
    if (rank == 1)
        _exit(0);
    call(&r, COUNT), call(&r, COUNT); /* it may be known already */
    end(&r, CHOIR_ERR_PEER_DEAD, 1);
}

static void faults(void)
{
    run((struct job){0}, (struct how){2, 2, 1, "8K", "off"}, mismatch_body);
    run((struct job){0}, (struct how){2, 1, 2, "8K", "auto"}, mismatch_body);
    run((struct job){0}, (struct how){2, 2, 1, "8K", "off"}, late_body);
    run((struct job){0}, (struct how){2, 1, 2, "8K", "auto"}, late_body);
    run((struct job){0}, (struct how){2, 2, 1, "8K", "off"}, abort_body);
    run((struct job){0}, (struct how){2, 1, 2, "8K", "auto"}, abort_body);
}

static void death(void)
{
    run((struct job){0}, (struct how){2, 1, 1, "8K", "off"}, death_body);
    run((struct job){0}, (struct how){2, 1, 2, "8K", "auto"}, death_body);
}

TEST_MAIN(TEST(threads), TEST(processes), TEST(hosts), TEST(mixed), TEST(plain), TEST(graphs),
          TEST(faults), TEST(death))
