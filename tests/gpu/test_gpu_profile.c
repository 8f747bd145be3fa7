/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What observers are told of operations on GPUs: a kernel for each call and each replay of a graph, with the GPU's time; marks that
 * come faster than they are told; GPU memory through the host, whose replays are operations; nothing where nobody observed.
 */
#include "tests/gpu/gpu.h"
#include "tests/lib/events.h"

#define COUNT 3000
#define EAGER 20
#define REPLAYS 12

struct job {
    struct choir_id id;
};

/* Events of one rank of the process. */
static uint32_t count_rank(const struct events *x, uint32_t kind, int rank, uint64_t parent)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < x->count; i++)
        n += x->event[i].kind == kind && x->event[i].phase == CHOIR_PROFILE_BEGIN &&
             x->event[i].rank == rank && (!parent || x->event[i].parent == parent);
    return n;
}

static void check_kernel(const struct events *x, const struct choir_profile_event *k)
{
    const struct choir_profile_event *op = events_find(x, k->parent, CHOIR_PROFILE_BEGIN),
                                     *end = events_find(x, k->id, CHOIR_PROFILE_END);
    CHECK(op && op->kind == CHOIR_PROFILE_OPERATION);
    CHECK(k->gpu_ns && end->gpu_ns >= k->gpu_ns);
    CHECK_STR(k->operation, op->operation);
    CHECK_STR(k->algorithm, op->algorithm);
    CHECK(k->count == op->count && k->sequence == op->sequence && k->stream == op->stream);
    CHECK_EQ(k->kernels, 1);
}

/* The operations of a rank in order, and `runs` kernels of each that has one. */
static void check_rank(const struct events *x, int rank, uint32_t stream_kind, uint32_t runs)
{
    uint64_t last_ns = 0;
    for (uint32_t i = 0; i < x->count; i++) {
        const struct choir_profile_event *e = &x->event[i];
        if (e->phase != CHOIR_PROFILE_BEGIN || e->rank != rank)
            continue;
        CHECK_NE(e->kind, CHOIR_PROFILE_LANE);
        if (e->kind == CHOIR_PROFILE_OPERATION && e->stream_kind == stream_kind)
            CHECK_EQ(count_rank(x, CHOIR_PROFILE_KERNEL, rank, e->id), runs * e->kernels);
        if (e->kind != CHOIR_PROFILE_KERNEL)
            continue;
        check_kernel(x, e);
        CHECK(e->gpu_ns >= last_ns); /* in the order of the stream */
        last_ns = e->gpu_ns;
    }
}

static choir_comm *open_rank(const struct job *j, struct gpu *g, int rank, int size)
{
    choir_comm *c;
    gpu_open(g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    return c;
}

static void swap(choir_comm *c, int rank, int size, float *in, float *out, choir_stream *s)
{
    CHECK_OK(choir_group_start());
    CHECK_OK(choir_send(c, in, COUNT, CHOIR_FLOAT32, (rank + 1) % size, s));
    CHECK_OK(choir_recv(c, out, COUNT, CHOIR_FLOAT32, (rank + size - 1) % size, s));
    CHECK_OK(choir_group_end());
}

/* --- kernels -------------------------------------------------------------------------------------------- */

/* Of a process's ranks the first observes for all. */
static pthread_barrier_t together;
static struct events seen;

static bool observes(int rank)
{
    return pthread_barrier_wait(&together) == PTHREAD_BARRIER_SERIAL_THREAD && rank >= 0;
}

static void kernels_body(int rank, int size, void *arg)
{
    struct gpu g;
    if (observes(rank))
        events_start(&seen, CHOIR_PROFILE_ALL);
    pthread_barrier_wait(&together);
    choir_comm *c = open_rank(arg, &g, rank, size);
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4), plain[COUNT] = {0};
    for (int i = 0; i < EAGER; i++)
        CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    CHECK_OK(choir_all_reduce(c, in, out, 0, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    CHECK_OK(choir_barrier(c, g.choir));
    swap(c, rank, size, in, out, g.choir);
    CHECK_OK(choir_broadcast(c, plain, plain, COUNT, CHOIR_FLOAT32, 0, g.choir));
    CHECK_EQ(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, 77, g.choir), CHOIR_ERR_OP);
    struct choir_signal_wait wait = {(rank + size - 1) % size, 0, 1};
    CHECK_OK(choir_signal(c, (rank + 1) % size, 0, g.choir));
    CHECK_OK(choir_wait_signal(c, &wait, 1, g.choir));
    GPU_OK(g.cu->cuStreamSynchronize(g.stream));
    CHECK_OK(choir_comm_destroy(c));
    if (observes(rank)) {
        events_stop(&seen);
        events_check(&seen, 0);
        int mine = (int)(events_count(&seen, CHOIR_PROFILE_COMM, CHOIR_PROFILE_BEGIN, NULL));
        for (int r = mine == size ? 0 : rank; r < (mine == size ? size : rank + 1); r++) {
            check_rank(&seen, r, CHOIR_PROFILE_CUDA_STREAM, 1);
            CHECK_EQ(count_rank(&seen, CHOIR_PROFILE_OPERATION, r, 0), EAGER + 7);
            /* One for the group of messages, none for what is empty or one-sided. */
            CHECK_EQ(count_rank(&seen, CHOIR_PROFILE_KERNEL, r, 0), EAGER + 3);
        }
        for (uint32_t i = 0; i < seen.count; i++)
            if (seen.event[i].operation && !strcmp(seen.event[i].operation, "broadcast") &&
                mine == 1) /* as called, not where it goes through */
                CHECK(seen.event[i].send == plain && seen.event[i].recv == plain);
        CHECK_EQ(events_count(&seen, CHOIR_PROFILE_LOST, CHOIR_PROFILE_NOTE, NULL), 0);
        events_free(&seen);
    }
    gpu_free(&g, out), gpu_free(&g, in);
    gpu_close(&g);
}

/* --- graphs --------------------------------------------------------------------------------------------- */

static CUgraphExec capture(struct gpu *g, choir_comm *c, int rank, int size, float *in, float *out)
{
    CUgraph graph;
    CUgraphExec exec;
    GPU_OK(g->cu->cuStreamBeginCapture(g->stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g->choir));
    CHECK_OK(choir_broadcast(c, out, out, COUNT, CHOIR_UINT8, 0, g->choir));
    swap(c, rank, size, in, out, g->choir);
    GPU_OK(g->cu->cuStreamEndCapture(g->stream, &graph));
    GPU_OK(g->cu->cuGraphInstantiate(&exec, graph, 0));
    GPU_OK(g->cu->cuGraphDestroy(graph));
    return exec;
}

static void replay(struct gpu *g, CUgraphExec exec)
{
    for (int i = 0; i < REPLAYS; i++)
        GPU_OK(g->cu->cuGraphLaunch(exec, g->stream));
    GPU_OK(g->cu->cuStreamSynchronize(g->stream));
}

/* A graph captured while nobody observed, one while somebody did, replayed for that one and for a later one. */
static void graphs_body(int rank, int size, void *arg)
{
    struct gpu g;
    choir_comm *c = open_rank(arg, &g, rank, size);
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    CUgraphExec unseen = capture(&g, c, rank, size, in, out);
    struct events first, second;
    events_start(&first, CHOIR_PROFILE_ALL);
    CUgraphExec exec = capture(&g, c, rank, size, in, out);
    replay(&g, unseen);
    replay(&g, exec);
    CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    replay(&g, exec);
    test_sleep_ms(200); /* all is told */
    events_stop(&first);
    replay(&g, exec); /* for nobody */
    test_sleep_ms(200);
    events_start(&second, CHOIR_PROFILE_KERNEL | CHOIR_PROFILE_LOST);
    replay(&g, exec);
    CHECK_OK(choir_comm_destroy(c));
    events_stop(&second);
    events_check(&first, 0);
    CHECK_EQ(count_rank(&first, CHOIR_PROFILE_OPERATION, rank, 0), 5);
    CHECK_EQ(count_rank(&first, CHOIR_PROFILE_KERNEL, rank, 0), 2 * 3 * REPLAYS + 1);
    for (uint32_t i = 0; i < first.count; i++) {
        const struct choir_profile_event *e = &first.event[i];
        bool op = e->kind == CHOIR_PROFILE_OPERATION && e->phase == CHOIR_PROFILE_BEGIN;
        if (op && strcmp(e->operation, "recv")) /* the kernel's parent is the send, called before */
            CHECK_EQ(count_rank(&first, CHOIR_PROFILE_KERNEL, rank, e->id),
                     e->stream_kind == CHOIR_PROFILE_CUDA_GRAPH ? 2 * REPLAYS : 1);
    }
    events_check(&second, 0);
    CHECK_EQ(count_rank(&second, CHOIR_PROFILE_KERNEL, rank, 0), 3 * REPLAYS);
    CHECK_EQ(events_count(&second, CHOIR_PROFILE_LOST, CHOIR_PROFILE_NOTE, NULL), 0);
    events_free(&first), events_free(&second);
    GPU_OK(g.cu->cuGraphExecDestroy(exec));
    GPU_OK(g.cu->cuGraphExecDestroy(unseen));
    gpu_free(&g, out), gpu_free(&g, in);
    gpu_close(&g);
}

/* --- too fast ------------------------------------------------------------------------------------------- */

static _Atomic int held;

/* Holds the thread up that takes marks. */
static void hold(const struct choir_profile_event *event, void *context)
{
    (void)event, (void)context;
    while (held)
        test_sleep_ms(1);
}

static void lost_body(int rank, int size, void *arg)
{
    enum { OPERATIONS = 1500 }; /* 3000 marks, there is room for 2048 */
    struct gpu g;
    struct events x;
    uint32_t holder, in_time = 0;
    uint64_t lost = 0;
    choir_comm *c = open_rank(arg, &g, rank, size);
    float *in = gpu_alloc(&g, COUNT * 4);
    events_start(&x, CHOIR_PROFILE_ALL);
    held = 1;
    CHECK_OK(choir_profile_add(hold, NULL, CHOIR_PROFILE_KERNEL, &holder));
    for (int i = 0; i < OPERATIONS; i++)
        CHECK_OK(choir_all_reduce(c, in, in, 64, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    GPU_OK(g.cu->cuStreamSynchronize(g.stream));
    held = 0;
    CHECK_OK(choir_comm_destroy(c));
    CHECK_OK(choir_profile_remove(holder));
    events_stop(&x);
    events_check(&x, 0);
    for (uint32_t i = 0; i < x.count; i++) {
        in_time += x.event[i].kind == CHOIR_PROFILE_KERNEL && x.event[i].gpu_ns != 0;
        lost += x.event[i].lost;
    }
    CHECK_LE(2 * OPERATIONS - 2048 - 1, lost); /* one was taken, and is held */
    /* All are told or counted, but for an end whose begin is lost. */
    CHECK(in_time + lost == 2 * OPERATIONS || in_time + lost + 1 == 2 * OPERATIONS);
    CHECK_EQ(events_count(&x, CHOIR_PROFILE_OPERATION, CHOIR_PROFILE_END, NULL), OPERATIONS);
    events_free(&x);
    gpu_free(&g, in);
    gpu_close(&g);
}

/* --- through the host ----------------------------------------------------------------------------------- */

static void staged_body(int rank, int size, void *arg)
{
    struct gpu g;
    struct events x;
    uint32_t replayed = 0, sends = 0;
    choir_comm *c = open_rank(arg, &g, rank, size);
    float *in = gpu_alloc(&g, COUNT * 4), *out = gpu_alloc(&g, COUNT * 4);
    events_start(&x, CHOIR_PROFILE_ALL);
    CUgraphExec exec = capture(&g, c, rank, size, in, out);
    replay(&g, exec);
    for (int i = 0; i < EAGER; i++)
        CHECK_OK(choir_all_reduce(c, in, out, COUNT, CHOIR_FLOAT32, CHOIR_SUM, g.choir));
    swap(c, rank, size, in, out, g.choir);
    GPU_OK(g.cu->cuStreamSynchronize(g.stream));
    CHECK_OK(choir_comm_destroy(c));
    events_stop(&x);
    events_check(&x, 0);
    CHECK_EQ(count_rank(&x, CHOIR_PROFILE_KERNEL, rank, 0), 0);
    CHECK_EQ(count_rank(&x, CHOIR_PROFILE_OPERATION, rank, 0), 4 * REPLAYS + EAGER + 2);
    for (uint32_t i = 0; i < x.count; i++) {
        const struct choir_profile_event *e = &x.event[i];
        if (e->kind != CHOIR_PROFILE_OPERATION || e->phase != CHOIR_PROFILE_BEGIN)
            continue;
        bool recv = !strcmp(e->operation, "recv"), send = !strcmp(e->operation, "send");
        replayed += e->stream_kind == CHOIR_PROFILE_CUDA_GRAPH;
        sends += send && e->send == in && e->count == COUNT && e->peer == (rank + 1) % size;
        if (!recv) /* in slices it has lanes of each */
            CHECK_LE(e->lanes, count_rank(&x, CHOIR_PROFILE_LANE, rank, e->id));
        CHECK(e->stream == g.stream && e->stream_kind >= CHOIR_PROFILE_CUDA_STREAM);
    }
    CHECK_EQ(replayed, 4 * REPLAYS);
    CHECK_EQ(sends, REPLAYS + 1);
    events_free(&x);
    GPU_OK(g.cu->cuGraphExecDestroy(exec));
    gpu_free(&g, out), gpu_free(&g, in);
    gpu_close(&g);
}

/* --- cases ---------------------------------------------------------------------------------------------- */

static void run(int ranks, int per_process, const char *p2p, void (*fn)(int, int, void *))
{
    struct job j;
    char mapping[64];
    snprintf(mapping, sizeof(mapping), "CHOIR_CUDA_P2P=%s", p2p);
    const char *env[] = {"CHOIR_TIMEOUT=30s", "CHOIR_CUDA_SLICE=4K", mapping, NULL};
    struct test_ranks t = {
        .ranks = ranks, .per_process = per_process, .env = env, .fn = fn, .arg = &j};
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_id(&j.id);
    pthread_barrier_init(&together, NULL, (unsigned)per_process);
    if (!test_ranks_try(&t))
        FAIL("%d ranks, %d in a process", ranks, per_process);
    pthread_barrier_destroy(&together);
}

static void kernels(void)
{
    run(2, 2, "auto", kernels_body);
    run(2, 1, "auto", kernels_body);
    run(1, 1, "auto", kernels_body);
}

static void graphs(void)
{
    run(2, 1, "auto", graphs_body);
}

static void too_fast(void)
{
    run(1, 1, "auto", lost_body);
}

static void staged(void)
{
    run(2, 1, "off", staged_body);
}

TEST_MAIN(TEST(kernels), TEST(graphs), TEST(too_fast), TEST(staged))
