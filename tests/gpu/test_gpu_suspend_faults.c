/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Suspending communicators that cannot be, or not now; GPUs whose memory has gone to others meanwhile; and what becomes of a
 * suspended communicator whose ranks end, die or do not come.
 */
#include "tests/gpu/gpu.h"
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

static const uint32_t counts[] = {7, 5000, 100000, GPU_SIDE_MOST};

struct job {
    struct choir_id id[2];
    int round, *suspended; /* shared: how many ranks are */
};

/* --- what is refused -------------------------------------------------------------------------------------------- */

static void refused_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu_side s;
    CUgraph graph;
    float word = 3;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    CHECK_EQ(choir_comm_suspend(NULL), CHOIR_ERR_POINTER);
    CHECK_EQ(choir_comm_resume(NULL), CHOIR_ERR_POINTER);
    /* A message on its way. */
    if (!rank) {
        gpu_put(&s.g, s.in, &word, 4);
        CHECK_OK(choir_send(s.c, s.in, 1, CHOIR_FLOAT32, 1, s.g.choir));
    }
    gpu_check_refused(s.c, choir_comm_suspend(s.c), CHOIR_ERR_STATE);
    if (rank == 1) {
        CHECK_OK(choir_recv(s.c, s.out, 1, CHOIR_FLOAT32, 0, s.g.choir));
        gpu_get(&s.g, &word, s.out, 4);
        CHECK_EQ(word, 3);
    }
    gpu_side_sum(&s, counts[1], 1);
    /* A stream of one rank is captured. */
    gpu_side_meet(s.c);
    if (!rank)
        GPU_OK(s.g.cu->cuStreamBeginCapture(s.g.stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    gpu_side_meet(s.c);
    gpu_check_refused(s.c, choir_comm_suspend(s.c), CHOIR_ERR_STATE);
    if (!rank)
        s.g.cu->cuStreamEndCapture(s.g.stream, &graph); /* it may be invalid */
    gpu_side_meet(s.c);
    gpu_side_sum(&s, counts[2], 2);
    CHECK_OK(choir_comm_suspend(s.c));
    CHECK_OK(choir_comm_resume(s.c));
    gpu_side_sum(&s, counts[2], 3);
    gpu_side_close(&s);
}

static void unsupported_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu_side s;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    gpu_side_sum(&s, counts[1], 1);
    gpu_check_refused(s.c, choir_comm_suspend(s.c), CHOIR_ERR_UNSUPPORTED);
    gpu_check_refused(s.c, choir_comm_resume(s.c), CHOIR_ERR_UNSUPPORTED);
    gpu_side_sum(&s, counts[2], 2);
    gpu_side_close(&s);
}

/* Ranks of which one does not share by mapping. */
static void without_body(int rank, int size, void *arg)
{
    if (rank)
        setenv("FAKE_CUDA_VMM", "0", 1);
    unsupported_body(rank, size, arg);
}

static void no_import_body(int rank, int size, void *arg)
{
    if (rank)
        setenv("FAKE_CUDA_VMM", "2", 1);
    unsupported_body(rank, size, arg);
}

/* Another has taken the memory meanwhile. */
static void full_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu_side s;
    CUdeviceptr taken = 0;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    gpu_side_sum(&s, counts[1], 1);
    CHECK_OK(choir_comm_suspend(s.c));
    if (rank == 1)
        GPU_OK(s.g.cu->cuMemAlloc(&taken, gpu_side_left(&s) - (64u << 20)));
    for (int i = 0; i < 2; i++) {
        gpu_check_refused(s.c, choir_comm_resume(s.c), CHOIR_ERR_NO_MEMORY);
        CHECK_EQ(gpu_side_memory(s.c).device_bytes, 0);
    }
    if (rank == 1)
        GPU_OK(s.g.cu->cuMemFree(taken));
    CHECK_OK(choir_comm_resume(s.c));
    gpu_side_sum(&s, counts[3], 2);
    gpu_side_close(&s);
}

/* --- what ends ------------------------------------------------------------------------------------------------------ */

/* Returns when no rank is in the call any more: what one does next must not end it. */
static void suspend_all(struct gpu_side *s, const struct job *j)
{
    CHECK_OK(choir_comm_suspend(s->c));
    __atomic_fetch_add(j->suspended, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 10000 && __atomic_load_n(j->suspended, __ATOMIC_SEQ_CST) < s->size; i++)
        test_sleep_ms(1);
}

static void works_again(struct gpu_side *s, const struct choir_id *id)
{
    CHECK_OK(choir_comm_destroy(s->c));
    CHECK_OK(choir_comm_create(id, s->rank, s->size, NULL, &s->c));
    gpu_side_sum(s, counts[1], 9);
    gpu_side_close(s);
}

static void abort_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu_side s;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    gpu_side_sum(&s, counts[1], 1);
    suspend_all(&s, j);
    if (!rank)
        CHECK_OK(choir_comm_abort(s.c));
    gpu_check_refused(s.c, choir_comm_resume(s.c), CHOIR_ERR_ABORTED);
    works_again(&s, &j->id[1]);
}

static void late_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct choir_config config = CHOIR_CONFIG_INIT;
    struct choir_error e = {.bytes = sizeof(e)};
    struct gpu_side s;
    config.timeout_ns = 1000000000;
    gpu_side_open(&s, &j->id[0], rank, size, &config);
    suspend_all(&s, j);
    if (!rank) {
        gpu_check_refused(s.c, choir_comm_resume(s.c), CHOIR_ERR_TIMEOUT);
        CHECK_OK(choir_comm_last_error(s.c, &e));
        CHECK_EQ(e.peer, 1);
    }
    for (int i = 0; i < 1000 && choir_comm_status(s.c) == CHOIR_OK; i++)
        test_sleep_ms(10);
    CHECK_EQ(choir_comm_status(s.c), CHOIR_ERR_TIMEOUT);
    works_again(&s, &j->id[1]);
}

static void left_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu_side s;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    suspend_all(&s, j);
    if (!rank)
        CHECK(choir_comm_resume(s.c) < 0); /* at once: rank 1 has left */
    works_again(&s, &j->id[1]);
}

static void dies_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct choir_error e = {.bytes = sizeof(e)};
    struct gpu_side s;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    gpu_side_sum(&s, counts[1], 1);
    suspend_all(&s, j);
    if (rank == size - 1)
        kill(getpid(), SIGKILL);
    gpu_check_refused(s.c, choir_comm_resume(s.c), CHOIR_ERR_PEER_DEAD);
    CHECK_OK(choir_comm_last_error(s.c, &e));
    CHECK_EQ(e.peer, size - 1);
    gpu_side_close(&s);
}

/* --- at any time ----------------------------------------------------------------------------------------------------- */

struct villain {   /* a thread of a rank */
    choir_comm *c; /* to abort; NULL: the process ends */
    long ms;
};

static void *strike(void *arg)
{
    const struct villain *v = arg;
    test_sleep_ms(v->ms);
    if (v->c)
        choir_comm_abort(v->c);
    else
        kill(getpid(), SIGKILL);
    return NULL;
}

/* Until it fails. */
static enum choir_status go_on(struct gpu_side *s)
{
    enum choir_status st = CHOIR_OK;
    for (uint32_t i = 0; st == CHOIR_OK; i++) {
        st = choir_all_reduce(s->c, s->in, s->out, counts[i % 3], CHOIR_FLOAT32, CHOIR_SUM,
                              s->g.choir);
        if (st == CHOIR_OK)
            st = choir_comm_suspend(s->c);
        if (st == CHOIR_OK)
            st = choir_comm_resume(s->c);
    }
    return st;
}

static void abort_any_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu_side s;
    pthread_t thread;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    struct villain v = {s.c, (long)(test_mix(test_seed() + (uint64_t)j->round) % 60)};
    if (!rank)
        CHECK_EQ(pthread_create(&thread, NULL, strike, &v), 0);
    CHECK_EQ(go_on(&s), CHOIR_ERR_ABORTED);
    if (!rank)
        pthread_join(thread, NULL);
    works_again(&s, &j->id[1]);
}

static void die_any_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct choir_error e = {.bytes = sizeof(e)};
    struct gpu_side s;
    pthread_t thread;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    struct villain v = {NULL, (long)(test_mix(test_seed() + (uint64_t)j->round) % 60)};
    if (rank == size - 1)
        CHECK_EQ(pthread_create(&thread, NULL, strike, &v), 0);
    CHECK_EQ(go_on(&s), CHOIR_ERR_PEER_DEAD);
    test_sleep_ms(50); /* who destroys it at once may be taken for the one that left first */
    CHECK_OK(choir_comm_last_error(s.c, &e));
    CHECK_EQ(e.peer, size - 1);
    gpu_side_close(&s);
}

/* --- cases ------------------------------------------------------------------------------------------ */

static void ready(struct job *j)
{
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_deadline(120);
    j->suspended = test_shared(sizeof(int));
    test_id(&j->id[0]), test_id(&j->id[1]);
}

static void run_round(int round, int ranks, int per_process, const char *setting,
                      void (*fn)(int, int, void *))
{
    struct job j;
    const char *env[] = {"CHOIR_TIMEOUT=20s", setting, NULL};
    struct test_ranks t = {
        .ranks = ranks, .per_process = per_process, .env = env, .fn = fn, .arg = &j};
    ready(&j);
    j.round = round;
    if (!test_ranks_try(&t))
        FAIL("%d ranks, %d in a process, %s", ranks, per_process, setting ? setting : "");
}

static void run(int ranks, int per_process, const char *setting, void (*fn)(int, int, void *))
{
    run_round(0, ranks, per_process, setting, fn);
}

static void refused(void)
{
    run(2, 1, NULL, refused_body);
    run(2, 2, "CHOIR_CUDA_VMM=off", unsupported_body);
    run(2, 1, "NCCL_CUMEM_ENABLE=0", unsupported_body);
    run(2, 1, "CHOIR_CUDA_P2P=off", unsupported_body);
    run(2, 1, "FAKE_CUDA_MEMORY=2000000000", full_body);
}

static void other_ways(void)
{
    if (!gpu_is_fake())
        test_skip("GPUs that do not map memory: these do");
    run(2, 1, NULL, without_body);
    run(2, 1, NULL, no_import_body);
}

static void ends(void)
{
    run(2, 2, NULL, abort_body);
    run(2, 1, NULL, abort_body);
    run(2, 2, NULL, late_body);
    run(2, 1, NULL, left_body);
}

/* The last rank's process is killed, the others end well. */
static void run_killed(int round, void (*fn)(int, int, void *))
{
    enum { RANKS = 3 };
    struct job j;
    pid_t pid[RANKS];
    ready(&j);
    j.round = round;
    for (int r = 0; r < RANKS; r++)
        if (!(pid[r] = test_fork(NULL))) {
            fn(r, RANKS, &j);
            _exit(0);
        }
    CHECK_EQ(test_reap(pid[RANKS - 1], 30000), 128 + SIGKILL);
    for (int r = 0; r < RANKS - 1; r++)
        CHECK_EQ(test_reap(pid[r], 20000), 0);
}

static void dies(void)
{
    run_killed(0, dies_body);
}

static void at_any_time(void)
{
    for (int round = 0; round < TEST_BY_EFFORT(1, 3, 40); round++) {
        run_round(round, 2, 2, NULL, abort_any_body);
        run_round(round, 2, 1, NULL, abort_any_body);
        run_killed(round, die_any_body);
    }
}

TEST_MAIN(TEST(refused), TEST(other_ways), TEST(ends), TEST(dies), TEST(at_any_time))
