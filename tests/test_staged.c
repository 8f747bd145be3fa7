/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GPU memory through the host, on a GPU in miniature (tests/mock/cuda.h): drawn operations on GPU and host memory, some of each in
 * one operation, in slices and whole, on one and two hosts; graphs; and what goes wrong: streams always go on.
 */
#include "comm/comm.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include "tests/mock/cuda.h"
#include <unistd.h>

#define COUNT 5000

struct job {
    struct choir_id id;
    int operations;
    uint64_t seed, slot;
    bool p2p;   /* GPUs map each other */
    bool mixed; /* each rank draws where its memory is, and rank 1 has no GPU */
};

static void drawn_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct mock_gpu g;
    choir_comm *c;
    bool none = j->mixed && rank == 1;
    if (!none)
        mock_gpu_open(&g);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    CHECK(none ? !c->staged : c->staged != NULL);
    CHECK(c->slice_bytes != 0);
    uint64_t draw = j->seed;
    for (int i = 0; i < j->operations; i++) {
        struct matrix_op op;
        uint32_t kind = (uint32_t)(test_mix(draw++) % CHOIR_KINDS);
        matrix_draw(&op, (enum choir_kind)kind, size, j->slot, &draw);
        uint64_t where = j->mixed ? test_mix(draw++ + 1000 * (uint64_t)rank) % 3 : 0;
        op.rank = rank;
        op.mapped = false;
        op.elsewhere = where || none ? NULL : &g.elsewhere;
        if (getenv("CHOIR_TEST_VERBOSE"))
            fprintf(stderr, "%d: %s\n", i, matrix_text(&op));
        matrix_run(c, &op, none || where == 2 ? NULL : g.choir);
    }
    CHECK_OK(choir_comm_destroy(c));
    if (!none)
        mock_gpu_close(&g);
}

static void run(struct job j, int ranks, int per_process, int hosts, const char *slice,
                void (*fn)(int, int, void *))
{
    char text[64];
    snprintf(text, sizeof(text), "CHOIR_CUDA_SLICE=%s", slice);
    const char *env[] = {text, j.p2p ? "CHOIR_CUDA_P2P=auto" : "CHOIR_CUDA_P2P=off",
                         "CHOIR_TIMEOUT=20s", NULL};
    struct test_ranks t = {.ranks = ranks,
                           .per_process = per_process,
                           .hosts = hosts,
                           .env = env,
                           .fn = fn,
                           .arg = &j};
    test_deadline(120);
    test_id(&j.id);
    j.seed = test_seed();
    if (!test_ranks_try(&t))
        FAIL("%d ranks, %d in a process, %d hosts, slices of %s", ranks, per_process, hosts, slice);
}

static struct job drawn_job(int operations, bool mixed)
{
    return (struct job){.operations = operations, .slot = 4096, .mixed = mixed};
}

static void drawn(void)
{
    int few = TEST_BY_EFFORT(10, 40, 400);
    run(drawn_job(few, false), 2, 2, 1, "4K", drawn_body);
    run(drawn_job(few, false), 3, 3, 1, "20000", drawn_body);
    run(drawn_job(few, false), 2, 1, 1, "4M", drawn_body);
    run(drawn_job(few, false), 4, 2, 2, "4K", drawn_body);
    run(drawn_job(few, false), 1, 1, 1, "4K", drawn_body);
}

static void mixed(void)
{
    int few = TEST_BY_EFFORT(10, 40, 400);
    run(drawn_job(few, true), 2, 2, 1, "4K", drawn_body);
    run(drawn_job(few, true), 4, 2, 2, "8K", drawn_body);
}

static void fill(float *to, int rank, uint32_t round)
{
    for (uint32_t i = 0; i < COUNT; i++)
        to[i] = (float)(test_mix(round * 77 + (uint32_t)rank * 7919u + i) % 1000);
}

/* --- plain memory where kernels move the data ------------------------------------------------------------- */

static void plain_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct mock_gpu g;
    choir_comm *c;
    mock_gpu_open(&g);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    CHECK(c->device && c->staged && !c->slice_bytes);
    uint64_t draw = j->seed;
    for (int i = 0; i < j->operations; i++) {
        struct matrix_op op;
        matrix_draw(&op, (enum choir_kind)(test_mix(draw++) % CHOIR_KINDS), size, j->slot, &draw);
        op.rank = rank;
        op.mapped = op.sample.special = false;
        op.sample.op = CHOIR_MAX; /* of one rank: its input */
        op.elsewhere = i % 4 ? NULL : &g.elsewhere;
        matrix_run(c, &op, g.choir);
    }
    /* One buffer of each, and replays. */
    float *there = mock_gpu_alloc(&g, COUNT * 4), *in = malloc(COUNT * 4), *out = malloc(COUNT * 4);
    mock_capture_begin(&g);
    CHECK_OK(choir_all_reduce(c, in, there, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    CHECK_OK(choir_all_reduce(c, there, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    struct mock_graph *graph = mock_capture_end(&g);
    for (uint32_t round = 0; round < 20; round++) {
        fill(in, 0, round);
        memset(out, 0, COUNT * 4);
        mock_replay(&g, graph);
        mock_gpu_wait(&g);
        CHECK(!memcmp(in, out, COUNT * 4));
    }
    CHECK_OK(choir_comm_destroy(c));
    mock_graph_free(graph);
    free(in), free(out);
    mock_gpu_close(&g);
}

static void plain(void)
{
    struct job j = drawn_job(TEST_BY_EFFORT(40, 150, 1000), false);
    j.p2p = true;
    run(j, 1, 1, 1, "4M", plain_body);
}

/* --- graphs ------------------------------------------------------------------------------------------------ */

static void check_sum(const float *from, int size, uint32_t round, float factor)
{
    static _Thread_local float sum[COUNT], one[COUNT];
    memset(sum, 0, sizeof(sum));
    for (int r = 0; r < size; r++) {
        fill(one, r, round);
        for (uint32_t i = 0; i < COUNT; i++)
            sum[i] += one[i];
    }
    for (uint32_t i = 0; i < COUNT; i++)
        if (from[i] != factor * sum[i])
            FAIL("round %u element %u: %g, not %g", round, i, (double)from[i],
                 (double)(factor * sum[i]));
}

static void graph_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct mock_gpu g;
    choir_comm *c;
    choir_op twice;
    mock_gpu_open(&g);
    float *in = mock_gpu_alloc(&g, COUNT * 4), *out = mock_gpu_alloc(&g, COUNT * 4),
          *scale = mock_gpu_alloc(&g, 4), *part = mock_gpu_alloc(&g, COUNT * 4);
    uint64_t counts[4] = {COUNT, 3, 2, 1};
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    CHECK_OK(choir_op_create_scaled(c, scale, CHOIR_FLOAT32, &twice));
    mock_capture_begin(&g);
    CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    CHECK_OK(choir_all_reduce(c, out, out, COUNT, CHOIR_FLOAT32, twice, g.choir));
    CHECK_OK(choir_barrier(c, g.choir));
    counts[0] = 10; /* arrays of counts are the program's again after the call */
    CHECK_OK(choir_all_gather_v(c, in, part, counts, NULL, CHOIR_FLOAT32, g.choir));
    counts[0] = 0;
    CHECK_OK(choir_group_start());
    CHECK_OK(choir_send(c, in, 7, CHOIR_FLOAT32, (rank + 1) % size, g.choir));
    CHECK_OK(choir_recv(c, part + 100, 7, CHOIR_FLOAT32, (rank + size - 1) % size, g.choir));
    CHECK_OK(choir_group_end());
    struct mock_graph *graph = mock_capture_end(&g);
    for (uint32_t round = 0; round < 30; round++) {
        static _Thread_local float before[COUNT], first[COUNT];
        fill(in, rank, round);
        *scale = (float)(round % 5);
        mock_replay(&g, graph);
        if (round % 3 == 0)
            mock_replay(&g, graph);
        mock_gpu_wait(&g);
        check_sum(out, size, round, (float)size * *scale);
        fill(before, (rank + size - 1) % size, round);
        fill(first, 0, round);
        CHECK(!memcmp(part + 100, before, 28));
        CHECK(!memcmp(part, first, 40));
        if (round % 4)
            continue;
        CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
        mock_gpu_wait(&g);
        check_sum(out, size, round, 1);
        float word = 1;
        CHECK_OK(choir_all_reduce(c, &word, &word, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL));
        CHECK_EQ(word, size);
    }
    struct choir_memory m = {.bytes = sizeof(m)};
    CHECK_OK(choir_comm_memory(c, &m));
    CHECK_LT(2 * 4096, m.pinned_bytes);
    CHECK_LT(0, m.device_bytes);
    CHECK_OK(choir_comm_destroy(c));
    mock_graph_free(graph);
    mock_gpu_close(&g);
}

static void graphs(void)
{
    run((struct job){0}, 2, 2, 1, "4K", graph_body);
    run((struct job){0}, 4, 1, 2, "4M", graph_body);
}

/* --- what goes wrong ------------------------------------------------------------------------------------------ */

struct rank {
    struct mock_gpu g;
    choir_comm *c;
    float *in, *out;
};

static void begin(struct rank *r, const struct job *j, int rank, int size, uint64_t timeout_ns)
{
    struct choir_config config = CHOIR_CONFIG_INIT;
    config.timeout_ns = timeout_ns;
    mock_gpu_open(&r->g);
    CHECK_OK(choir_comm_create(&j->id, rank, size, &config, &r->c));
    r->in = mock_gpu_alloc(&r->g, COUNT * 4), r->out = mock_gpu_alloc(&r->g, COUNT * 4);
}

static enum choir_status try(struct rank *r, uint64_t count)
{
    return choir_all_reduce(r->c, r->in, r->out, count, CHOIR_FLOAT32, CHOIR_SUM, r->g.choir);
}

static void call(struct rank *r, uint64_t count)
{
    CHECK_OK(try(r, count));
}

/* The stream has gone on; the communicator says what it was. */
static void expect(struct rank *r, enum choir_status want, int peer)
{
    struct choir_error e = {.bytes = sizeof(e)};
    mock_gpu_wait(&r->g);
    for (int i = 0; i < 500 && choir_comm_status(r->c) == CHOIR_OK; i++)
        test_sleep_ms(10);
    CHECK_EQ(choir_comm_status(r->c), want);
    CHECK_OK(choir_comm_last_error(r->c, &e));
    if (peer >= 0)
        CHECK_EQ(e.peer, peer);
    CHECK_EQ(try(r, 1), want);
}

static void end(struct rank *r)
{
    CHECK_OK(choir_comm_destroy(r->c));
    mock_gpu_close(&r->g);
}

static void mismatch_body(int rank, int size, void *arg)
{
    struct rank r;
    begin(&r, arg, rank, size, 0);
    call(&r, COUNT);
    call(&r, rank ? 90 : 100);
    try(&r, COUNT);
    expect(&r, CHOIR_ERR_MISMATCH, -1);
    end(&r);
}

static void late_body(int rank, int size, void *arg)
{
    struct rank r;
    begin(&r, arg, rank, size, 1000000000);
    if (!rank)
        call(&r, COUNT);
    expect(&r, CHOIR_ERR_TIMEOUT, rank ? -1 : 1);
    end(&r);
}

static void abort_body(int rank, int size, void *arg)
{
    struct rank r;
    begin(&r, arg, rank, size, 0);
    if (!rank) {
        call(&r, COUNT);
        call(&r, COUNT);
        test_sleep_ms(100);
        CHECK_OK(choir_comm_abort(r.c));
    }
    expect(&r, CHOIR_ERR_ABORTED, -1);
    end(&r);
}

static void death_body(int rank, int size, void *arg)
{
    struct rank r;
    begin(&r, arg, rank, size, 0);
    for (int i = 0; i < 10; i++)
        call(&r, COUNT);
    mock_gpu_wait(&r.g);
    if (rank == 1)
        _exit(0);
    try(&r, COUNT), try(&r, COUNT); /* it may be known already */
    expect(&r, CHOIR_ERR_PEER_DEAD, 1);
    end(&r);
}

/* A context that failed: neither a host call that comes after nor the end waits for ever. */
static void stuck_body(int rank, int size, void *arg)
{
    struct rank r;
    float word = 1;
    begin(&r, arg, rank, size, 1000000000);
    call(&r, COUNT);
    mock_gpu_wait(&r.g);
    mock_gpu_break(&r.g);
    call(&r, COUNT);
    CHECK_EQ(choir_all_reduce(r.c, &word, &word, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL),
             CHOIR_ERR_TIMEOUT);
    end(&r);
}

static void destroy_body(int rank, int size, void *arg)
{
    struct rank r;
    begin(&r, arg, rank, size, 0);
    call(&r, COUNT);
    mock_gpu_wait(&r.g);
    mock_gpu_break(&r.g);
    if (!rank)
        call(&r, COUNT);
    end(&r);
}

static void mismatch(void)
{
    run((struct job){0}, 2, 2, 1, "8K", mismatch_body);
    run((struct job){0}, 2, 1, 2, "4M", mismatch_body);
}
static void late(void)
{
    run((struct job){0}, 2, 2, 1, "8K", late_body);
    run((struct job){0}, 2, 1, 2, "8K", late_body);
}
static void abort_it(void)
{
    run((struct job){0}, 2, 2, 1, "8K", abort_body);
    run((struct job){0}, 2, 1, 2, "8K", abort_body);
}
static void death(void)
{
    run((struct job){0}, 3, 1, 1, "8K", death_body);
    run((struct job){0}, 2, 1, 2, "8K", death_body);
}
static void stuck(void)
{
    run((struct job){0}, 2, 1, 1, "8K", stuck_body);
    run((struct job){0}, 2, 1, 1, "8K", destroy_body);
}

/* --- order ------------------------------------------------------------------------------------------------------ */

/* Calls on two streams and without one run in the order of the calls, whichever stream comes to its own first. */
static void order_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct mock_gpu g[2];
    choir_comm *c;
    mock_gpu_open(&g[0]), mock_gpu_open(&g[1]);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    for (uint32_t round = 0; round < 50; round++) {
        uint32_t *a = mock_gpu_alloc(&g[0], 4), b = round, word = 1;
        *a = round;
        if (round % 2 == (uint32_t)rank % 2)
            mock_delay(&g[0], 2000);
        CHECK_OK(choir_all_reduce(c, a, a, 1, CHOIR_UINT32, CHOIR_SUM, g[0].choir));
        CHECK_OK(choir_all_reduce(c, &b, &b, 1, CHOIR_UINT32, CHOIR_MAX, g[1].choir));
        CHECK_OK(choir_all_reduce(c, &word, &word, 1, CHOIR_UINT32, CHOIR_SUM, NULL));
        CHECK_EQ(word, size);
        mock_gpu_wait(&g[0]), mock_gpu_wait(&g[1]);
        CHECK_EQ(*a, round * (uint32_t)size);
        CHECK_EQ(b, round);
        mock_gpu_free(&g[0], a);
    }
    CHECK_OK(choir_comm_destroy(c));
    mock_gpu_close(&g[0]), mock_gpu_close(&g[1]);
}

/* In a group messages come first, then collectives, whatever memory they are in: rank 0's messages are the GPU's, the others' the
 * host's; of the collectives it is the other way round. */
static void group_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct mock_gpu g;
    choir_comm *c;
    mock_gpu_open(&g);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    int next = (rank + 1) % size, before = (rank + size - 1) % size;
    for (uint32_t round = 0; round < 50; round++) {
        uint32_t here[2] = {round + (uint32_t)rank, 0}, sum_here = 1;
        uint32_t *there = mock_gpu_alloc(&g, 8), *sum_there = mock_gpu_alloc(&g, 4);
        uint32_t *message = rank ? here : there, *sum = rank ? sum_there : &sum_here;
        memcpy(there, here, 8);
        *sum_there = 1;
        if (round % 2)
            mock_delay(&g, 300);
        CHECK_OK(choir_group_start());
        CHECK_OK(choir_all_reduce(c, sum, sum, 1, CHOIR_UINT32, CHOIR_SUM, rank ? g.choir : NULL));
        CHECK_OK(choir_send(c, message, 1, CHOIR_UINT32, next, rank ? NULL : g.choir));
        CHECK_OK(choir_recv(c, message + 1, 1, CHOIR_UINT32, before, rank ? NULL : g.choir));
        CHECK_OK(choir_group_end());
        mock_gpu_wait(&g);
        CHECK_EQ(message[1], round + (uint32_t)before);
        CHECK_EQ(*sum, size);
        mock_gpu_free(&g, there);
    }
    CHECK_OK(choir_comm_destroy(c));
    mock_gpu_close(&g);
}

static void order(void)
{
    run((struct job){0}, 3, 3, 1, "8K", group_body);
    run((struct job){0}, 2, 1, 2, "8K", group_body);
    run((struct job){0}, 2, 2, 1, "8K", order_body);
    run((struct job){0}, 2, 1, 2, "8K", order_body);
}

TEST_MAIN(TEST(drawn), TEST(mixed), TEST(plain), TEST(graphs), TEST(order), TEST(mismatch),
          TEST(late), TEST(abort_it), TEST(death), TEST(stuck))
