/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's rules as a communicator meets them: a capture that forbids unsafe calls is the first that it sees; a process is
 * killed while others wait for it; several threads of a rank launch on communicators of their own in crossing orders.
 */
#include "cuda/device.h"
#include "tests/gpu/gpu.h"
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#define COUNT 5000
#define ROUNDS 30

struct job {
    struct choir_id id[2];
};

static void put_ones(struct gpu *g, void *to)
{
    static _Thread_local float one[COUNT];
    for (int i = 0; i < COUNT; i++)
        one[i] = 1;
    gpu_put(g, to, one, sizeof(one));
}

static void check_all(struct gpu *g, const void *from, float want)
{
    static _Thread_local float got[COUNT];
    gpu_get(g, got, from, sizeof(got));
    for (int i = 0; i < COUNT; i++)
        if (got[i] != want)
            FAIL("element %d is %g, not %g", i, (double)got[i], (double)want);
}

static void captured_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu g;
    choir_comm *c;
    CUgraph graph;
    CUgraphExec exec;
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(&j->id[0], rank, size, NULL, &c));
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    put_ones(&g, in);
    GPU_OK(g.cu->cuStreamBeginCapture(g.stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    CHECK_OK(choir_reduce(c, out, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, 0, g.choir));
    CHECK_OK(choir_broadcast(c, out, out, COUNT, CHOIR_FLOAT32, 0, g.choir));
    GPU_OK(g.cu->cuStreamEndCapture(g.stream, &graph)); /* it was not made invalid */
    GPU_OK(g.cu->cuGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 3; i++) {
        GPU_OK(g.cu->cuGraphLaunch(exec, g.stream));
        check_all(&g, out, (float)(size * size));
    }
    GPU_OK(g.cu->cuGraphExecDestroy(exec));
    GPU_OK(g.cu->cuGraphDestroy(graph));
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

static void killed_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu g;
    choir_comm *c;
    enum choir_status st = CHOIR_OK;
    struct choir_error e = {.bytes = sizeof(e)};
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(&j->id[0], rank, size, NULL, &c));
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    put_ones(&g, in);
    CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    check_all(&g, out, (float)size);
    if (rank == size - 1) {
        test_sleep_ms(200); /* the others' kernels wait by now */
        kill(getpid(), SIGKILL);
    }
    CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    GPU_OK(g.cu->cuStreamSynchronize(g.stream)); /* the kernel ends */
    for (int i = 0; i < 300 && st == CHOIR_OK; i++, test_sleep_ms(10))
        st = choir_comm_status(c);
    CHECK_EQ(st, CHOIR_ERR_PEER_DEAD);
    choir_comm_last_error(c, &e);
    CHECK_EQ(e.peer, size - 1);
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

struct crossing { /* a thread of a rank, with a communicator of its own */
    const struct choir_id *id;
    int rank, size, number;
};

static void *cross(void *arg)
{
    const struct crossing *x = arg;
    struct gpu g;
    choir_comm *c;
    gpu_open(&g, x->rank);
    CHECK_OK(choir_comm_create(x->id, x->rank, x->size, NULL, &c));
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    put_ones(&g, in);
    for (int i = 0; i < ROUNDS; i++) {
        if ((x->rank + x->number + i) % 2) /* which comes first differs between the ranks */
            test_sleep_ms(1);
        CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
        if (i % 8 == 0)
            check_all(&g, out, (float)x->size);
    }
    check_all(&g, out, (float)x->size);
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
    return NULL;
}

static void crossing_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    pthread_t thread[2];
    struct crossing x[2];
    for (int i = 0; i < 2; i++) {
        x[i] = (struct crossing){&j->id[i], rank, size, i};
        CHECK_EQ(pthread_create(&thread[i], NULL, cross, &x[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
}

/* So many messages to a peer that no kernel of exchanges takes them: each group has a plan of its own, used once. */
static void groups_body(int rank, int size, void *arg)
{
    enum { MESSAGES = 200, GROUPS = 500 };
    const struct job *j = arg;
    struct gpu g;
    choir_comm *c;
    uint64_t held = 0;
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(&j->id[0], rank, size, NULL, &c));
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    put_ones(&g, in);
    int next = (rank + 1) % size, last = (rank + size - 1) % size;
    for (int i = 0; i < GROUPS; i++) {
        CHECK_OK(choir_group_start());
        for (int m = 0; m < MESSAGES; m++) {
            uint64_t at = (uint64_t)m * (COUNT / MESSAGES), n = COUNT / MESSAGES;
            CHECK_OK(choir_send(c, in + at, n, CHOIR_FLOAT32, next, g.choir));
            CHECK_OK(choir_recv(c, out + at, n, CHOIR_FLOAT32, last, g.choir));
        }
        CHECK_OK(choir_group_end());
        if (i % 10 == 0)
            check_all(&g, out, 1);
        if (i == GROUPS / 10)
            held = cuda_device_held(g.ordinal);
    }
    CHECK_EQ(cuda_device_held(g.ordinal), held); /* what they need does not grow */
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

static void ready(struct job *j)
{
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_id(&j->id[0]), test_id(&j->id[1]);
}

/* A process a rank: in one process such a capture forbids the other rank's calls too. */
static void captured_strictly(void)
{
    struct job j;
    ready(&j);
    test_ranks(2, NULL, captured_body, &j);
}

static void groups(void)
{
    struct job j;
    ready(&j);
    test_ranks(2, NULL, groups_body, &j);
}

static void killed(void)
{
    enum { RANKS = 3 };
    struct job j;
    pid_t pid[RANKS];
    ready(&j);
    for (int r = 0; r < RANKS; r++)
        if (!(pid[r] = test_fork(NULL))) {
            killed_body(r, RANKS, &j);
            _exit(0);
        }
    CHECK_EQ(test_reap(pid[RANKS - 1], 30000), 128 + SIGKILL);
    for (int r = 0; r < RANKS - 1; r++)
        CHECK_EQ(test_reap(pid[r], 20000), 0);
}

static void crossing(void)
{
    struct job j;
    ready(&j);
    test_ranks(2, NULL, crossing_body, &j);
    ready(&j);
    struct test_ranks threads = {.ranks = 2, .per_process = 2, .fn = crossing_body, .arg = &j};
    CHECK(test_ranks_try(&threads));
}

TEST_MAIN(TEST(captured_strictly), TEST(groups), TEST(killed), TEST(crossing))
