/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A communicator's operations in several streams, which the program does not order: they run in the order of the calls all the
 * same, on every rank, however long a stream has other things to do. Eagerly, in one capture of two streams, and after a stream is gone.
 */
#include "tests/gpu/gpu.h"

enum { STREAMS = 3, COUNT = 20011, ROUNDS = 24, BUSY = 8 << 20 };

struct side {
    struct gpu g;
    choir_comm *c;
    CUstream stream[STREAMS];
    uint8_t *busy;
    float *in[ROUNDS], *out[ROUNDS];
    int rank, size;
};

static void open_side(struct side *s, const struct gpu_job *j, int rank, int size)
{
    *s = (struct side){.rank = rank, .size = size};
    gpu_open(&s->g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &s->c));
    s->busy = gpu_alloc(&s->g, 2 * BUSY);
    for (int i = 0; i < STREAMS; i++)
        GPU_OK(s->g.cu->cuStreamCreateWithPriority(&s->stream[i], CU_STREAM_NON_BLOCKING, 0));
    for (int i = 0; i < ROUNDS; i++) {
        s->in[i] = gpu_alloc(&s->g, (uint64_t)size * COUNT * 4);
        s->out[i] = gpu_alloc(&s->g, (uint64_t)size * COUNT * 4);
    }
}

static void close_side(struct side *s)
{
    for (int i = 0; i < STREAMS; i++)
        if (s->stream[i]) {
            GPU_OK(s->g.cu->cuStreamSynchronize(s->stream[i]));
            GPU_OK(s->g.cu->cuStreamDestroy(s->stream[i]));
        }
    CHECK_OK(choir_comm_destroy(s->c));
    gpu_close(&s->g);
}

static float value(int round, int rank, uint32_t at)
{
    return (float)((round * 31 + rank * 7 + (int)at) % 101);
}

static void fill(struct side *s)
{
    float *host = malloc((size_t)s->size * COUNT * 4);
    for (int i = 0; i < ROUNDS; i++) {
        for (uint32_t k = 0; k < (uint32_t)s->size * COUNT; k++)
            host[k] = value(i, s->rank, k);
        gpu_put(&s->g, s->in[i], host, (uint64_t)s->size * COUNT * 4);
        memset(host, 0xff, (size_t)s->size * COUNT * 4);
        gpu_put(&s->g, s->out[i], host, (uint64_t)s->size * COUNT * 4);
    }
    free(host);
}

/* Round i is an all-gather, an all-reduce or a reduce-scatter, long or short. */
static uint32_t count(int i)
{
    return i % 5 == 4 ? 17 : COUNT;
}

static void call(struct side *s, int i, CUstream stream)
{
    choir_stream *st = choir_stream_from_cuda(stream);
    if (i % 3 == 0)
        CHECK_OK(choir_all_gather(s->c, s->in[i], s->out[i], count(i), CHOIR_FLOAT32, st));
    else if (i % 3 == 1)
        CHECK_OK(
            choir_all_reduce(s->c, s->in[i], s->out[i], count(i), CHOIR_FLOAT32, CHOIR_SUM, st));
    else
        CHECK_OK(choir_reduce_scatter(s->c, s->in[i], s->out[i], count(i), CHOIR_FLOAT32, CHOIR_SUM,
                                      st));
}

static float want(const struct side *s, int i, uint32_t k)
{
    float sum = 0;
    if (i % 3 == 0)
        return value(i, (int)(k / count(i)), k % count(i));
    for (int r = 0; r < s->size; r++)
        sum += value(i, r, i % 3 == 1 ? k : k + (uint32_t)s->rank * count(i));
    return sum;
}

static void check(struct side *s)
{
    float *host = malloc((size_t)s->size * COUNT * 4);
    for (int i = 0; i < ROUNDS; i++) {
        uint32_t n = i % 3 == 0 ? count(i) * (uint32_t)s->size : count(i);
        gpu_get(&s->g, host, s->out[i], (uint64_t)n * 4);
        for (uint32_t k = 0; k < n; k++)
            if (host[k] != want(s, i, k))
                FAIL("round %d: element %u is %g, not %g", i, k, (double)host[k],
                     (double)want(s, i, k));
    }
    free(host);
}

/* A while's work for a stream. */
static void keep_busy(struct side *s, CUstream stream)
{
    CUdeviceptr at = (CUdeviceptr)(uintptr_t)s->busy;
    for (int i = 0; i < 12; i++)
        GPU_OK(s->g.cu->cuMemcpyDtoDAsync(at + BUSY, at, BUSY, stream));
}

static void drain(struct side *s)
{
    for (int i = 0; i < STREAMS; i++)
        if (s->stream[i])
            GPU_OK(s->g.cu->cuStreamSynchronize(s->stream[i]));
}

/* Streams by turns, another one busy on each rank. */
static void eager_body(int rank, int size, void *arg)
{
    struct side s;
    open_side(&s, arg, rank, size);
    for (int again = 0; again < 3; again++) {
        fill(&s);
        for (int i = 0; i < ROUNDS; i++) {
            if (i % 4 == 3)
                keep_busy(&s, s.stream[(i / 4 + rank) % STREAMS]);
            call(&s, i, s.stream[(i + i / 5) % STREAMS]);
        }
        drain(&s);
        check(&s);
    }
    close_side(&s);
}

/* Two streams in one capture, that the program forks and joins, but does not order in between; with calls before and behind. */
static void captured_body(int rank, int size, void *arg)
{
    struct side s;
    CUevent forked, joined;
    CUgraph graph;
    CUgraphExec exec;
    open_side(&s, arg, rank, size);
    const struct cuda_driver *cu = s.g.cu;
    GPU_OK(cu->cuEventCreate(&forked, CU_EVENT_DISABLE_TIMING));
    GPU_OK(cu->cuEventCreate(&joined, CU_EVENT_DISABLE_TIMING));
    call(&s, 0, s.stream[2]);
    call(&s, 1, s.stream[0]);
    drain(&s);
    GPU_OK(cu->cuStreamBeginCapture(s.stream[0], CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    GPU_OK(cu->cuEventRecord(forked, s.stream[0]));
    GPU_OK(cu->cuStreamWaitEvent(s.stream[1], forked, 0));
    for (int i = 0; i < ROUNDS; i++) {
        if (i % 4 == 3)
            keep_busy(&s, s.stream[(i / 4 + rank) % 2]);
        call(&s, i, s.stream[(i + i / 5) % 2]);
    }
    GPU_OK(cu->cuEventRecord(joined, s.stream[1]));
    GPU_OK(cu->cuStreamWaitEvent(s.stream[0], joined, 0));
    GPU_OK(cu->cuStreamEndCapture(s.stream[0], &graph));
    GPU_OK(cu->cuGraphInstantiate(&exec, graph, 0));
    for (int again = 0; again < 3; again++) {
        fill(&s);
        GPU_OK(cu->cuGraphLaunch(exec, s.stream[0]));
        drain(&s);
        check(&s);
        call(&s, 2, s.stream[again % STREAMS]);
        drain(&s);
    }
    GPU_OK(cu->cuGraphExecDestroy(exec));
    GPU_OK(cu->cuGraphDestroy(graph));
    GPU_OK(cu->cuEventDestroy(forked));
    GPU_OK(cu->cuEventDestroy(joined));
    close_side(&s);
}

/* The stream of the first call is gone when another is used for the first time. */
static void gone_body(int rank, int size, void *arg)
{
    struct side s;
    open_side(&s, arg, rank, size);
    fill(&s);
    for (int i = 0; i < ROUNDS; i++) {
        if (i == 1 || i == 7) {
            int k = i == 1 ? 0 : 1;
            GPU_OK(s.g.cu->cuStreamSynchronize(s.stream[k]));
            GPU_OK(s.g.cu->cuStreamDestroy(s.stream[k]));
            s.stream[k] = NULL;
        }
        call(&s, i, s.stream[i < 1 ? 0 : i < 7 ? 1 : 2]);
    }
    drain(&s);
    check(&s);
    close_side(&s);
}

static void eager(void)
{
    gpu_run(2, 2, NULL, eager_body);
    gpu_run(3, 1, NULL, eager_body);
    gpu_run(2, 1, "CHOIR_CUDA_P2P=off", eager_body); /* through the host */
}

static void captured(void)
{
    gpu_run(2, 2, NULL, captured_body);
    gpu_run(2, 1, NULL, captured_body);
}

static void gone(void)
{
    gpu_run(2, 1, NULL, gone_body);
}

TEST_MAIN(TEST(eager), TEST(captured), TEST(gone))
