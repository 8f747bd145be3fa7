/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Suspending communicators: between operations of every form, with graphs of before, two communicators of which one goes on, several
 * ranks of one thread; with a window, signals that have come, and a call that overlaps. What goes wrong: test_gpu_suspend_faults.c.
 */
#include "cuda/mailbox.h"
#include "tests/gpu/gpu.h"

static const uint32_t counts[] = {7, 5000, 100000, GPU_SIDE_MOST}; /* words, words, lines, slots */

struct job {
    struct choir_id id[2];
    int cycles;
    int *order; /* shared: how many ranks have called choir_comm_suspend */
};
/* To the next rank, from the one before: a plan of its own each time. */
static void pass_on(struct gpu_side *s, uint32_t count, uint32_t salt)
{
    int next = (s->rank + 1) % s->size, before = (s->rank + s->size - 1) % s->size;
    gpu_side_fill(s, count, salt);
    CHECK_OK(choir_group_start());
    CHECK_OK(choir_send(s->c, s->in, count, CHOIR_FLOAT32, next, s->g.choir));
    CHECK_OK(choir_recv(s->c, s->out, count, CHOIR_FLOAT32, before, s->g.choir));
    CHECK_OK(choir_group_end());
    gpu_get(&s->g, s->host, s->out, count * 4);
    for (uint32_t i = 0; i < count; i++)
        CHECK_EQ(s->host[i], (i * 7 + salt * 13 + (uint32_t)before) % 512);
}

/* What holds while it is suspended. */
static void check_suspended(struct gpu_side *s, const struct choir_memory *before,
                            size_t left_before)
{
    struct choir_memory m = gpu_side_memory(s->c);
    float one = 1, all = 0;
    CHECK_EQ(m.device_bytes, 0);
    CHECK_LE(before->device_bytes, m.suspended_bytes);
    gpu_side_meet(s->c); /* a host call */
    CHECK_LE(left_before + m.suspended_bytes, gpu_side_left(s));
    CHECK_OK(choir_all_reduce(s->c, &one, &all, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL));
    CHECK_EQ(all, s->size);
    gpu_check_refused(
        s->c, choir_all_reduce(s->c, s->in, s->out, 1, CHOIR_FLOAT32, CHOIR_SUM, s->g.choir),
        CHOIR_ERR_STATE);
    gpu_check_refused(
        s->c, choir_send(s->c, s->in, 1, CHOIR_FLOAT32, (s->rank + 1) % s->size, s->g.choir),
        CHOIR_ERR_STATE);
    gpu_check_refused(s->c, choir_comm_suspend(s->c), CHOIR_ERR_STATE);
    gpu_side_meet(s->c); /* before memory is taken again */
}

static void suspend_and_resume(struct gpu_side *s, const struct job *j)
{
    struct choir_memory before = gpu_side_memory(s->c);
    gpu_check_refused(s->c, choir_comm_resume(s->c), CHOIR_ERR_STATE);
    gpu_side_meet(s->c);
    size_t left_before = gpu_side_left(s);
    gpu_side_meet(s->c);
    if (s->rank == 1)
        test_sleep_ms(20);
    __atomic_fetch_add(j->order, 1, __ATOMIC_SEQ_CST);
    CHECK_OK(choir_comm_suspend(s->c));
    /* Nobody returns before all have given the memory back. */
    CHECK_EQ(__atomic_load_n(j->order, __ATOMIC_SEQ_CST) % s->size, 0);
    check_suspended(s, &before, left_before);
    CHECK_OK(choir_comm_resume(s->c));
    struct choir_memory m = gpu_side_memory(s->c);
    CHECK_EQ(m.device_bytes, before.device_bytes);
    CHECK_EQ(m.suspended_bytes, 0);
}

static void cycles_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu_side s;
    CUgraph graph;
    CUgraphExec exec;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    GPU_OK(s.g.cu->cuStreamBeginCapture(s.g.stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    for (int i = 0; i < 3; i++)
        CHECK_OK(
            choir_all_reduce(s.c, s.in, s.out, counts[i], CHOIR_FLOAT32, CHOIR_SUM, s.g.choir));
    CHECK_OK(choir_barrier(s.c, s.g.choir));
    GPU_OK(s.g.cu->cuStreamEndCapture(s.g.stream, &graph));
    GPU_OK(s.g.cu->cuGraphInstantiate(&exec, graph, 0));
    for (uint32_t cycle = 0; cycle < (uint32_t)j->cycles; cycle++) {
        gpu_side_fill(&s, counts[2], cycle);
        for (uint32_t i = 0; i < 1 + cycle % 2; i++)
            GPU_OK(s.g.cu->cuGraphLaunch(exec, s.g.stream));
        gpu_side_check(&s, counts[2], cycle);
        gpu_side_sum(&s, counts[cycle % 4], cycle + 100);
        pass_on(&s, counts[(cycle + 1) % 4], cycle);
        suspend_and_resume(&s, j);
    }
    gpu_side_fill(&s, counts[2], 77);
    GPU_OK(s.g.cu->cuGraphLaunch(exec, s.g.stream));
    gpu_side_check(&s, counts[2], 77);
    GPU_OK(s.g.cu->cuGraphExecDestroy(exec));
    GPU_OK(s.g.cu->cuGraphDestroy(graph));
    gpu_side_close(&s);
}

/* Drawn operations of every kind, suspended now and then. */
static void drawn_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu_side s;
    uint64_t draw = 0x5u;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    for (int i = 0; i < 12 * j->cycles; i++) {
        struct matrix_op op;
        gpu_draw(&op, (enum choir_kind)(i % CHOIR_KINDS), size, 65536, &draw);
        op.rank = rank;
        op.elsewhere = &s.g.elsewhere;
        matrix_run(s.c, &op, s.g.choir);
        if (i % 12 == 5) {
            CHECK_OK(choir_comm_suspend(s.c));
            CHECK_OK(choir_comm_resume(s.c));
        }
    }
    gpu_side_close(&s);
}

/* Plans whose memory the arena has no room for: scaled inputs of the interpreter's plans lie there. */
static void extra_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu_side s;
    choir_op twice;
    float two = 2;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    CHECK_OK(choir_op_create_scaled(s.c, &two, CHOIR_FLOAT32, &twice));
    for (uint32_t i = 0; i < 12; i++) { /* six plans, each before and after */
        uint32_t each = GPU_SIDE_MOST / (uint32_t)size - 64 * (i % 6);
        if (i == 6)
            CHECK_OK(choir_comm_suspend(s.c));
        if (i == 6) { /* more than its arena's block and two others can hold */
            CHECK_LE(gpu_side_memory(s.c).private_bytes, 40u << 20);
            CHECK_LE((38u << 20) * (uint32_t)size + (30u << 20),
                     gpu_side_memory(s.c).suspended_bytes);
            CHECK_OK(choir_comm_resume(s.c));
        }
        gpu_side_fill(&s, each * (uint32_t)size, i);
        CHECK_OK(choir_reduce_scatter(s.c, s.in, s.out, each, CHOIR_FLOAT32, twice, s.g.choir));
        gpu_get(&s.g, s.host, s.out, each * 4);
        for (uint32_t k = 0, at = each * (uint32_t)rank; k < each; k++, at++) {
            float want = 0;
            for (uint32_t r = 0; r < (uint32_t)size; r++)
                want += 2 * (float)((at * 7 + i * 13 + r) % 512);
            CHECK_EQ(s.host[k], want);
        }
    }
    gpu_side_close(&s);
}

static void two_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu_side s;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    choir_comm *first = s.c, *second;
    CHECK_OK(choir_comm_create(&j->id[1], rank, size, NULL, &second));
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_OK(choir_comm_suspend(first));
        s.c = second;
        gpu_side_sum(&s, counts[1 + i], i);
        CHECK_OK(choir_comm_suspend(second));
        CHECK_OK(choir_comm_resume(first));
        s.c = first;
        gpu_side_sum(&s, counts[3 - i], i);
        CHECK_OK(choir_comm_resume(second));
    }
    choir_comm *child; /* made of one that is suspended */
    CHECK_OK(choir_comm_suspend(first));
    CHECK_OK(choir_comm_split(first, 0, rank, NULL, &child));
    s.c = child;
    gpu_side_sum(&s, 99, 5);
    CHECK_OK(choir_comm_destroy(child));
    s.c = first; /* destroyed while it is suspended */
    CHECK_OK(choir_comm_destroy(second));
    gpu_side_close(&s);
}

/* Calls on the caller's stream, beside it, and one-sided ones. */
static void check_refused(struct gpu_side *s, choir_window *w, const struct choir_call *beside)
{
    struct choir_signal_wait wait = {s->rank, 0, 1};
    CUgraph graph;
    gpu_check_refused(s->c, choir_put(s->c, s->in, 4, s->rank, w, 0, s->g.choir), CHOIR_ERR_STATE);
    gpu_check_refused(s->c, choir_signal(s->c, s->rank, 0, s->g.choir), CHOIR_ERR_STATE);
    gpu_check_refused(s->c, choir_wait_signal(s->c, &wait, 1, s->g.choir), CHOIR_ERR_STATE);
    GPU_OK(s->g.cu->cuStreamBeginCapture(s->g.stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    gpu_check_refused(
        s->c,
        choir_all_reduce_x(s->c, s->in, s->out, 5, CHOIR_FLOAT32, CHOIR_SUM, s->g.choir, beside),
        CHOIR_ERR_STATE);
    GPU_OK(s->g.cu->cuStreamEndCapture(s->g.stream, &graph)); /* of which nothing was forked */
    GPU_OK(s->g.cu->cuGraphDestroy(graph));
}

/* What has come and not been waited for is there afterwards, as is what a call beside the stream has done. */
static void beside_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct choir_call beside = {.bytes = sizeof(beside), .flags = CHOIR_CALL_OVERLAP};
    struct gpu_side s;
    choir_window *w;
    gpu_side_open(&s, &j->id[0], rank, size, NULL);
    int to = (rank + 1) % size, from = (rank + size - 1) % size;
    float *part = gpu_alloc(&s.g, 400);
    CHECK_OK(choir_window_create(s.c, part, 400, &w));
    for (uint32_t i = 0; i < 3; i++) {
        struct choir_signal_wait two = {from, 5, 2}, one = {from, 5, 1};
        gpu_side_fill(&s, 100000, i);
        for (int k = 0; k < 3; k++)
            CHECK_OK(choir_put_signal(s.c, s.in, 400, to, w, 0, 5, s.g.choir));
        CHECK_OK(choir_all_reduce_x(s.c, s.in, s.out, 100000, CHOIR_FLOAT32, CHOIR_SUM, s.g.choir,
                                    &beside));
        CHECK_OK(choir_comm_suspend(s.c));
        check_refused(&s, w, &beside);
        CHECK_OK(choir_comm_resume(s.c));
        CHECK_OK(choir_wait_signal(s.c, &two, 1, s.g.choir));
        CHECK_OK(choir_wait_signal(s.c, &one, 1, s.g.choir));
        gpu_get(&s.g, s.host, part, 400);
        for (uint32_t k = 0; k < 100; k++)
            CHECK_EQ(s.host[k], (k * 7 + i * 13 + (uint32_t)from) % 512);
        CHECK_OK(choir_overlap_wait(s.c, s.g.choir));
        gpu_side_check(&s, 100000, i);
        CHECK_OK(choir_barrier(s.c, NULL)); /* all have looked at their parts */
    }
    CHECK_OK(choir_comm_suspend(s.c)); /* what is destroyed then */
    CHECK_OK(choir_window_destroy(w));
    CHECK_OK(choir_barrier(s.c, NULL));
    gpu_side_close(&s);
}

/* --- cases ------------------------------------------------------------------------------------------ */

static void ready(struct job *j)
{
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_deadline(120);
    *j = (struct job){.cycles = TEST_BY_EFFORT(2, 4, 40), .order = test_shared(sizeof(int))};
    test_id(&j->id[0]), test_id(&j->id[1]);
}

static void run(int ranks, int per_process, const char *setting, void (*fn)(int, int, void *))
{
    struct job j;
    const char *env[] = {"CHOIR_TIMEOUT=20s", setting, NULL};
    struct test_ranks t = {
        .ranks = ranks, .per_process = per_process, .env = env, .fn = fn, .arg = &j};
    ready(&j);
    if (!test_ranks_try(&t))
        FAIL("%d ranks, %d in a process, %s", ranks, per_process, setting ? setting : "");
}

static void cycles(void)
{
    run(2, 2, NULL, cycles_body);
    run(2, 1, NULL, cycles_body);
    run(4, 2, NULL, cycles_body); /* two on each GPU */
    run(1, 1, NULL, drawn_body);
    run(2, 1, "CHOIR_ALGO=ring", cycles_body); /* by the interpreter */
    run(3, 3, "CHOIR_ALGO=ring", extra_body);
}

static void drawn(void)
{
    run(3, 3, NULL, drawn_body);
    run(2, 1, NULL, drawn_body);
}

static void two(void)
{
    run(2, 2, NULL, two_body);
    run(2, 1, NULL, two_body);
}

static void beside(void)
{
    run(2, 2, NULL, beside_body);
    run(3, 1, NULL, beside_body);
}

static void sum_together(struct gpu_side *s, uint32_t count, uint32_t salt)
{
    for (int r = 0; r < 2; r++) {
        GPU_OK(s[r].g.cu->cuCtxSetCurrent(s[r].g.context));
        gpu_side_fill(&s[r], count, salt);
    }
    CHECK_OK(choir_group_start());
    for (int r = 0; r < 2; r++)
        CHECK_OK(choir_all_reduce(s[r].c, s[r].in, s[r].out, count, CHOIR_FLOAT32, CHOIR_SUM,
                                  s[r].g.choir));
    CHECK_OK(choir_group_end());
    for (int r = 0; r < 2; r++) {
        GPU_OK(s[r].g.cu->cuCtxSetCurrent(s[r].g.context));
        gpu_side_check(&s[r], count, salt);
    }
}

static void one_thread(void)
{
    struct job j;
    struct gpu_side s[2];
    ready(&j);
    CHECK_OK(choir_group_start());
    for (int r = 0; r < 2; r++) {
        s[r] = (struct gpu_side){.rank = r, .size = 2};
        gpu_open(&s[r].g, r);
        s[r].in = gpu_alloc(&s[r].g, 4 * 5000), s[r].out = gpu_alloc(&s[r].g, 4 * 5000);
        s[r].host = malloc(4 * 5000);
        CHECK_OK(choir_comm_create(&j.id[0], r, 2, NULL, &s[r].c));
    }
    CHECK_OK(choir_group_end());
    for (uint32_t i = 0; i < 4; i++) {
        CHECK_OK(choir_group_start());
        for (int r = 0; r < 2; r++)
            CHECK_OK(i % 2 ? choir_comm_resume(s[r].c) : choir_comm_suspend(s[r].c));
        CHECK_OK(choir_group_end());
        for (int r = 0; r < 2; r++)
            CHECK_EQ(gpu_side_memory(s[r].c).device_bytes != 0, i % 2);
        if (i % 2)
            sum_together(s, 5000, i);
    }
    CHECK_OK(choir_group_start());
    CHECK_OK(choir_comm_suspend(s[0].c));
    CHECK_EQ(choir_comm_suspend(s[0].c), CHOIR_ERR_BUSY);
    CHECK_EQ(choir_group_end(), CHOIR_ERR_BUSY);
    /* A group that failed before runs none of it. */
    CHECK_OK(choir_group_start());
    CHECK_OK(choir_comm_suspend(s[0].c));
    CHECK_EQ(choir_comm_suspend(NULL), CHOIR_ERR_POINTER);
    CHECK_EQ(choir_group_end(), CHOIR_ERR_POINTER);
    CHECK_NE(gpu_side_memory(s[0].c).device_bytes, 0);
    for (int r = 0; r < 2; r++) {
        CHECK_OK(choir_comm_destroy(s[r].c));
        gpu_close(&s[r].g);
        free(s[r].host);
    }
}

/* The word that fills buffers is no flag of the next 2^17 messages of any lane. */
static void flags(void)
{
    static struct cuda_count n[CUDA_RANKS * CUDA_LANES];
    uint32_t lanes = CUDA_RANKS * CUDA_LANES;
    for (uint32_t round = 0; round < 40; round++) {
        for (uint32_t i = 0; i < lanes; i++) /* as many of the candidates as can be */
            n[i].ll_received = round < 2 ? round - 1 : (i << 17) - 2 + round * (round % 2);
        uint32_t flag = cuda_suspend_flag(n, lanes);
        for (uint32_t i = 0; i < lanes; i++)
            CHECK_LE(1u << 17, flag - (n[i].ll_received + 1));
    }
}

TEST_MAIN(TEST(cycles), TEST(drawn), TEST(two), TEST(beside), TEST(one_thread), TEST(flags))
