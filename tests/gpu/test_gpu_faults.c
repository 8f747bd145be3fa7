/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes wrong on GPUs: calls that differ, a rank that does not come, an abort, a process that dies, memory that cannot be used. Kernels
 * end, the error names who, and the GPU stays usable.
 */
#include "tests/gpu/gpu.h"
#include <signal.h>
#include <unistd.h>

#define COUNT 100000

struct job {
    struct choir_id id, next;
};

/* What a rank works with: its GPU, a communicator, and buffers of COUNT elements. */
struct fault_rank {
    struct gpu g;
    choir_comm *c;
    void *in, *out;
};

static void begin(struct fault_rank *f, const struct choir_id *id, int rank, int size,
                  const struct choir_config *config)
{
    gpu_open(&f->g, rank);
    CHECK_OK(choir_comm_create(id, rank, size, config, &f->c));
    f->in = gpu_alloc(&f->g, COUNT * 8), f->out = gpu_alloc(&f->g, COUNT * 8);
}

static enum choir_status outcome(struct fault_rank *f, struct choir_error *e)
{
    GPU_OK(f->g.cu->cuStreamSynchronize(f->g.stream)); /* no kernel hangs */
    enum choir_status st = CHOIR_OK;
    for (int i = 0; i < 300 && st == CHOIR_OK; i++, test_sleep_ms(10))
        st = choir_comm_status(f->c);
    *e = (struct choir_error){.bytes = sizeof(*e)};
    choir_comm_last_error(f->c, e);
    return st;
}

/* The same GPUs, another communicator. */
static void works(const struct choir_id *id, int rank, int size, struct gpu *g)
{
    choir_comm *c;
    float one = 1, *memory = gpu_alloc(g, 4);
    CHECK_OK(choir_comm_create(id, rank, size, NULL, &c));
    gpu_put(g, memory, &one, 4);
    CHECK_OK(choir_all_reduce(c, memory, memory, 1, CHOIR_FLOAT32, CHOIR_SUM, g->choir));
    gpu_get(g, &one, memory, 4);
    CHECK_EQ(one, size);
    CHECK_OK(choir_comm_destroy(c));
    gpu_free(g, memory);
}

/* The GPU stays usable without the communicator that failed. */
static void end(struct fault_rank *f, const struct choir_id *id, int rank, int size)
{
    CHECK_OK(choir_comm_destroy(f->c));
    works(id, rank, size, &f->g);
    gpu_close(&f->g);
}

static void mismatch_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct fault_rank f;
    struct choir_error e;
    begin(&f, &j->id, rank, size, NULL);
    CHECK_OK(
        choir_all_reduce(f.c, f.in, f.out, rank ? 90 : 100, CHOIR_FLOAT32, CHOIR_SUM, f.g.choir));
    CHECK_EQ(outcome(&f, &e), CHOIR_ERR_MISMATCH);
    CHECK_EQ(choir_all_reduce(f.c, f.in, f.out, 1, CHOIR_FLOAT32, CHOIR_SUM, f.g.choir),
             CHOIR_ERR_MISMATCH);
    end(&f, &j->next, rank, size);
}

static void late_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct fault_rank f;
    struct choir_error e;
    struct choir_config config = CHOIR_CONFIG_INIT;
    config.timeout_ns = 1000000000;
    begin(&f, &j->id, rank, size, &config);
    if (!rank) {
        CHECK_OK(choir_all_reduce(f.c, f.in, f.out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, f.g.choir));
        CHECK_EQ(outcome(&f, &e), CHOIR_ERR_TIMEOUT);
        CHECK_EQ(e.peer, 1);
    } else { /* hears of it */
        CHECK_EQ(outcome(&f, &e), CHOIR_ERR_TIMEOUT);
    }
    end(&f, &j->next, rank, size);
}

/* Two communicators on one stream, in another order on each rank. */
static void crossed_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct fault_rank f;
    struct choir_error e;
    struct choir_config config = CHOIR_CONFIG_INIT;
    choir_comm *c[2];
    config.timeout_ns = 3000000000;
    config.name = "first";
    begin(&f, &j->id, rank, size, &config);
    c[0] = f.c;
    config.name = "second";
    CHECK_OK(choir_comm_create(&j->next, rank, size, &config, &c[1]));
    for (int i = 0; i < 2; i++)
        CHECK_OK(choir_all_reduce(c[(rank + i) % 2], f.in, f.out, 10, CHOIR_FLOAT32, CHOIR_SUM,
                                  f.g.choir));
    int failed = 0; /* the first that fails may set the other one free */
    for (int i = 0; i < 2; i++) {
        f.c = c[i];
        if (outcome(&f, &e) == CHOIR_OK)
            continue;
        failed++;
        CHECK_EQ(e.status, CHOIR_ERR_TIMEOUT);
        if (!strstr(e.text, "a cycle of waits") ||
            !strstr(e.text, "rank 0 of first (on its GPU)") ||
            !strstr(e.text, "rank 1 of second (on its GPU)"))
            FAIL("%s", e.text);
    }
    CHECK_LE(1, failed);
    for (int i = 0; i < 2; i++)
        CHECK_OK(choir_comm_destroy(c[i]));
    gpu_close(&f.g);
}

static void abort_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct fault_rank f;
    struct choir_error e;
    begin(&f, &j->id, rank, size, NULL);
    if (!rank) {
        CHECK_OK(choir_all_gather(f.c, f.in, f.out, 4, CHOIR_FLOAT32, f.g.choir));
        test_sleep_ms(200);
        CHECK_OK(choir_comm_abort(f.c));
        CHECK_EQ(outcome(&f, &e), CHOIR_ERR_ABORTED);
    } else {
        for (int i = 0; i < 500 && choir_comm_status(f.c) == CHOIR_OK; i++)
            test_sleep_ms(10);
        CHECK_EQ(choir_comm_status(f.c), CHOIR_ERR_ABORTED);
    }
    end(&f, &j->next, rank, size);
}

static void death_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct fault_rank f;
    struct choir_error e;
    begin(&f, &j->id, rank, size, NULL);
    for (int i = 0; i < 10; i++)
        CHECK_OK(choir_all_reduce(f.c, f.in, f.out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, f.g.choir));
    GPU_OK(f.g.cu->cuStreamSynchronize(f.g.stream));
    if (rank)
        _exit(0); /* without a goodbye */
    CHECK_OK(choir_all_reduce(f.c, f.in, f.out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, f.g.choir));
    CHECK_EQ(outcome(&f, &e), CHOIR_ERR_PEER_DEAD);
    CHECK_EQ(e.peer, 1);
    struct choir_id alone;
    CHECK_OK(choir_id_create(&alone));
    end(&f, &alone, 0, 1);
}

static void arguments_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu g;
    choir_comm *c;
    choir_stream *host;
    float word = 0;
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    CHECK_OK(choir_stream_create(&host));
    struct choir_memory held = {.bytes = sizeof(held)};
    CHECK_OK(choir_comm_memory(c, &held));
    CHECK_LT(1 << 20, held.device_bytes);
    void *in = gpu_alloc(&g, 8), *out = gpu_alloc(&g, 8);
    CHECK_EQ(choir_all_reduce(c, in, out, 1, CHOIR_FLOAT32, CHOIR_SUM, host), CHOIR_ERR_ARGUMENT);
    /* Memory that the GPU does not reach. */
    word = 1;
    CHECK_OK(choir_all_reduce(c, &word, out, 1, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    CHECK_OK(choir_all_reduce(c, out, &word, 1, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    GPU_OK(g.cu->cuStreamSynchronize(g.stream));
    CHECK_EQ(word, size * size);
    /* Host and GPU memory by turns, and the default stream. */
    for (int i = 0; i < 20; i++) {
        word = 1;
        CHECK_OK(choir_all_reduce(c, &word, &word, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL));
        CHECK_EQ(word, size);
        gpu_put(&g, in, &word, 4);
        CHECK_OK(choir_all_reduce(c, in, out, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL));
        GPU_OK(g.cu->cuStreamSynchronize(NULL));
        gpu_get(&g, &word, out, 4);
        CHECK_EQ(word, size * size);
    }
    CHECK_OK(choir_stream_destroy(host));
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

static void run(int per_process, void (*fn)(int, int, void *))
{
    struct job j;
    const char *env[] = {"CHOIR_TIMEOUT=20s", NULL};
    struct test_ranks t = {.ranks = 2, .per_process = per_process, .env = env, .fn = fn, .arg = &j};
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_deadline(120);
    test_id(&j.id), test_id(&j.next);
    CHECK(test_ranks_try(&t));
}

static void mismatch(void)
{
    run(2, mismatch_body), run(1, mismatch_body);
}
static void late(void)
{
    run(2, late_body), run(1, late_body);
}
static void crossed(void)
{
    run(1, crossed_body);
}
static void abort_it(void)
{
    run(2, abort_body), run(1, abort_body);
}
static void death(void)
{
    run(1, death_body);
}
static void arguments(void)
{
    run(2, arguments_body), run(1, arguments_body);
}

TEST_MAIN(TEST(arguments), TEST(mismatch), TEST(late), TEST(crossed), TEST(abort_it), TEST(death))
