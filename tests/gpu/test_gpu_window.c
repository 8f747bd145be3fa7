/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Windows in GPU memory: puts, signals and waits in the order of streams, in graphs and groups, among collectives; what is refused; and
 * ranks that are late, abort or die while others wait for a signal.
 */
#include "tests/gpu/gpu.h"
#include <signal.h>
#include <unistd.h>

struct rank { /* its GPU, a communicator, and a window of `bytes` */
    struct gpu g;
    choir_comm *c;
    choir_window *w;
    uint8_t *mine;
    int me, size, to, back;
};

static struct rank open_rank(const struct gpu_job *j, int rank, int size, uint64_t bytes)
{
    struct rank r = {
        .me = rank, .size = size, .to = (rank + 1) % size, .back = (rank + size - 1) % size};
    gpu_open(&r.g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &r.c));
    gpu_alloc(&r.g, 777); /* the part is somewhere in its allocation */
    r.mine = (uint8_t *)gpu_alloc(&r.g, bytes + 5) + 5;
    CHECK_OK(choir_window_create(r.c, r.mine, bytes, &r.w));
    return r;
}

static void close_rank(struct rank *r)
{
    GPU_OK(r->g.cu->cuStreamSynchronize(r->g.stream));
    CHECK_OK(choir_barrier(r->c, NULL)); /* nobody puts any more */
    CHECK_OK(choir_window_destroy(r->w));
    CHECK_OK(choir_barrier(r->c, NULL)); /* nobody has it mapped any more */
    CHECK_OK(choir_comm_destroy(r->c));
    gpu_close(&r->g);
}

static void wait_for(struct rank *r, int peer, uint32_t signal, uint64_t count)
{
    struct choir_signal_wait wait = {peer, signal, count};
    CHECK_OK(choir_wait_signal(r->c, &wait, 1, r->g.choir));
}

static void fill(struct gpu *g, uint8_t *to, uint64_t n, uint64_t seed)
{
    uint8_t *host = malloc(n + 1);
    for (uint64_t i = 0; i < n; i++)
        host[i] = (uint8_t)(seed * 131 + i * 7 + (i >> 8));
    if (n)
        gpu_put(g, to, host, n);
    free(host);
}

static void expect(struct gpu *g, const uint8_t *from, uint64_t n, uint64_t seed)
{
    uint8_t *host = malloc(n + 1);
    if (n)
        gpu_get(g, host, from, n);
    for (uint64_t i = 0; i < n; i++)
        if (host[i] != (uint8_t)(seed * 131 + i * 7 + (i >> 8)))
            FAIL("byte %" PRIu64 " of %" PRIu64 " (seed %" PRIu64 ") is wrong", i, n, seed);
    free(host);
}

/* --- what works ---------------------------------------------------------------------------------------------- */

/* Around a ring, to odd places, from GPU and from pinned memory; through the address of a part too. */
static void ring_body(int rank, int size, void *arg)
{
    static const uint64_t bytes[] = {0, 1, 13, 4099, 65536, 1000003};
    struct rank r = open_rank(arg, rank, size, 1 << 20);
    uint8_t *from = gpu_alloc(&r.g, 1 << 20), *there, *pinned;
    size_t length;
    GPU_OK(r.g.cu->cuMemHostAlloc((void **)&pinned, 64, 0));
    for (uint32_t k = 0; k < sizeof(bytes) / sizeof(bytes[0]); k++) {
        uint64_t n = bytes[k];
        fill(&r.g, from + k, n, (uint64_t)rank + k);
        CHECK_OK(choir_put_signal(r.c, n ? from + k : NULL, n, r.to, r.w, 3 + k, k, r.g.choir));
        wait_for(&r, r.back, k, 1);
        expect(&r.g, r.mine + 3 + k, n, (uint64_t)r.back + k);
        CHECK_OK(choir_signal(r.c, r.back, 15, r.g.choir)); /* read */
        wait_for(&r, r.to, 15, 1);
    }
    memset(pinned, 0x40 + rank, 64);
    CHECK_OK(choir_put_signal(r.c, pinned, 64, r.to, r.w, 64, 9, r.g.choir));
    CHECK_OK(choir_window_pointer(r.w, r.to, (void **)&there, &length));
    CHECK_EQ(length, 1 << 20);
    gpu_put(&r.g, there, pinned, 7);
    CHECK_OK(choir_signal(r.c, r.to, 9, r.g.choir));
    wait_for(&r, r.back, 9, 2);
    uint8_t got[128];
    gpu_get(&r.g, got, r.mine, sizeof(got));
    CHECK(got[0] == 0x40 + r.back && got[6] == got[0] && got[64] == got[0] && got[127] == got[0]);
    close_rank(&r);
    GPU_OK(r.g.cu->cuMemFreeHost(pinned));
}

/* Many puts before one signal, to all ranks and this one; a wait of more entries than a kernel takes; then collectives. */
static void all_body(int rank, int size, void *arg)
{
    enum { EACH = 701, PUTS = 12, WAITS = 40 };
    struct rank r = open_rank(arg, rank, size, (uint64_t)size * PUTS * EACH);
    uint8_t *from = gpu_alloc(&r.g, PUTS * EACH);
    float *sum = gpu_alloc(&r.g, 4), one = 1;
    struct choir_signal_wait waits[WAITS];
    for (uint64_t round = 0; round < 4; round++) {
        for (uint64_t k = 0; k < PUTS; k++)
            fill(&r.g, from + k * EACH, EACH, (uint64_t)rank * 50 + k + round);
        for (int i = 0; i < size; i++) {
            int to = (rank + i) % size;
            for (uint64_t k = 0; k < PUTS; k++)
                CHECK_OK(choir_put(r.c, from + k * EACH, EACH, to, r.w,
                                   ((uint64_t)rank * PUTS + k) * EACH, r.g.choir));
            for (int k = 0; k < WAITS; k++)
                CHECK_OK(choir_signal(r.c, to, 7, r.g.choir));
        }
        for (int q = 0; q < size; q++) {
            for (int k = 0; k < WAITS; k++)
                waits[k] = (struct choir_signal_wait){q, 7, 1};
            CHECK_OK(choir_wait_signal(r.c, waits, WAITS, r.g.choir));
        }
        for (int q = 0; q < size; q++)
            for (uint64_t k = 0; k < PUTS; k++)
                expect(&r.g, r.mine + ((uint64_t)q * PUTS + k) * EACH, EACH,
                       (uint64_t)q * 50 + k + round);
        gpu_put(&r.g, sum, &one, 4); /* a barrier, too */
        CHECK_OK(choir_all_reduce(r.c, sum, sum, 1, CHOIR_FLOAT32, CHOIR_SUM, r.g.choir));
        float got;
        gpu_get(&r.g, &got, sum, 4);
        CHECK_EQ((int)got, size);
    }
    CHECK_OK(choir_wait_signal(r.c, NULL, 0, r.g.choir));
    close_rank(&r);
}

/* A put, its signal and the wait in a graph; signals on the stream between replays count on. */
static void graph_body(int rank, int size, void *arg)
{
    enum { N = 5003 };
    struct rank r = open_rank(arg, rank, size, N);
    uint8_t *from = gpu_alloc(&r.g, N);
    CUgraph graph;
    CUgraphExec exec;
    GPU_OK(r.g.cu->cuStreamBeginCapture(r.g.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    CHECK_OK(choir_put_signal(r.c, from, N, r.to, r.w, 0, 2, r.g.choir));
    wait_for(&r, r.back, 2, 1);
    GPU_OK(r.g.cu->cuStreamEndCapture(r.g.stream, &graph));
    GPU_OK(r.g.cu->cuGraphInstantiate(&exec, graph, 0));
    for (uint64_t i = 0; i < 6; i++) {
        fill(&r.g, from, N, (uint64_t)rank + i);
        GPU_OK(r.g.cu->cuGraphLaunch(exec, r.g.stream));
        expect(&r.g, r.mine, N, (uint64_t)r.back + i);
        for (uint32_t k = 0; k < 1 + i % 2; k++) {
            CHECK_OK(choir_signal(r.c, r.back, 2, r.g.choir));
            wait_for(&r, r.to, 2, 1);
        }
    }
    GPU_OK(r.g.cu->cuGraphExecDestroy(exec));
    GPU_OK(r.g.cu->cuGraphDestroy(graph));
    close_rank(&r);
}

/* In a group in the worst order; and on the default stream, where no stream is given. */
static void group_body(int rank, int size, void *arg)
{
    struct rank r = open_rank(arg, rank, size, 4096);
    uint8_t *from = gpu_alloc(&r.g, 4096);
    float *sum = gpu_alloc(&r.g, 4), one = 1, got;
    for (uint64_t i = 0; i < 4; i++) {
        struct choir_signal_wait wait = {r.back, 1, 1};
        fill(&r.g, from, 4096, (uint64_t)rank + i);
        gpu_put(&r.g, sum, &one, 4);
        CHECK_OK(choir_group_start());
        CHECK_OK(choir_wait_signal(r.c, &wait, 1, r.g.choir));
        wait = (struct choir_signal_wait){-1, 99, 1};
        CHECK_OK(choir_all_reduce(r.c, sum, sum, 1, CHOIR_FLOAT32, CHOIR_SUM, r.g.choir));
        CHECK_OK(choir_put_signal(r.c, from, 4096, r.to, r.w, 0, 1, r.g.choir));
        CHECK_OK(choir_group_end());
        expect(&r.g, r.mine, 4096, (uint64_t)r.back + i);
        gpu_get(&r.g, &got, sum, 4);
        CHECK_EQ((int)got, size);
        CHECK_OK(choir_barrier(r.c, NULL));
    }
    choir_stream *none = choir_stream_from_cuda(NULL);
    struct choir_signal_wait wait = {r.back, 4, 1};
    fill(&r.g, from, 100, (uint64_t)rank * 3);
    CHECK_OK(choir_put_signal(r.c, from, 100, r.to, r.w, 50, 4, NULL));
    CHECK_OK(choir_wait_signal(r.c, &wait, 1, none));
    GPU_OK(r.g.cu->cuStreamSynchronize(NULL));
    expect(&r.g, r.mine + 50, 100, (uint64_t)r.back * 3);
    close_rank(&r);
}

/* --- what is refused ------------------------------------------------------------------------------------------ */

/* A part of memory that no process can map: every rank is told whose. */
static void sealed(struct rank *r)
{
    CUmodule module;
    CUdeviceptr word = 0;
    choir_window *w;
    struct choir_error e = {.bytes = sizeof(e)};
    CUresult found = CUDA_ERROR_NOT_FOUND;
    for (uint32_t i = 0; cuda_image_at(i) && found != CUDA_SUCCESS; i++) {
        GPU_OK(r->g.cu->cuModuleLoadData(&module, cuda_image_at(i)->data));
        found = r->g.cu->cuModuleGetGlobal(&word, NULL, module, "choir_probe_word");
        if (found != CUDA_SUCCESS)
            GPU_OK(r->g.cu->cuModuleUnload(module));
    }
    GPU_OK(found);
    void *part = r->me == r->size - 1 ? (void *)(uintptr_t)word : r->mine;
    CHECK_EQ(choir_window_create(r->c, part, 4, &w), CHOIR_ERR_UNSUPPORTED);
    CHECK_OK(choir_comm_last_error(r->c, &e));
    char who[32];
    snprintf(who, sizeof(who), "rank %d's", r->size - 1);
    CHECK(strstr(e.text, who) && strstr(e.remedy, "cudaMalloc"));
    GPU_OK(r->g.cu->cuModuleUnload(module));
}

static void refused_body(int rank, int size, void *arg)
{
    struct rank r = open_rank(arg, rank, size, 100);
    uint8_t host[100] = {0}, *from = gpu_alloc(&r.g, 100);
    choir_window *plain;
    choir_stream *s;
    CHECK_OK(choir_stream_create(&s));
    CHECK_OK(choir_window_create(r.c, host, sizeof(host), &plain));
    CHECK_EQ(choir_put(r.c, from, 1, r.to, r.w, 0, s), CHOIR_ERR_ARGUMENT);
    CHECK_EQ(choir_put(r.c, host, 1, r.to, r.w, 0, s), CHOIR_ERR_ARGUMENT);
    CHECK_EQ(choir_put(r.c, host, 1, r.to, r.w, 0, r.g.choir), CHOIR_ERR_POINTER);
    CHECK_EQ(choir_put(r.c, from, 1, r.to, plain, 0, r.g.choir), CHOIR_ERR_UNSUPPORTED);
    CHECK_EQ(choir_put(r.c, from, 1, r.to, plain, 0, NULL), CHOIR_ERR_UNSUPPORTED);
    CHECK_EQ(choir_put(r.c, from, 8, r.to, r.w, 93, r.g.choir), CHOIR_ERR_COUNT);
    CHECK_EQ(choir_put(r.c, from, 8, size, r.w, 0, r.g.choir), CHOIR_ERR_RANK);
    CHECK_EQ(choir_signal(r.c, 0, CHOIR_SIGNALS, r.g.choir), CHOIR_ERR_ARGUMENT);
    struct choir_signal_wait wait = {0, 0, 1u << 31};
    CHECK_EQ(choir_wait_signal(r.c, &wait, 1, r.g.choir), CHOIR_ERR_COUNT);
    CHECK_EQ(choir_window_create(r.c, from, 1u << 30, &r.w), CHOIR_ERR_COUNT); /* on all ranks */
    sealed(&r);
    /* Nothing is broken: host memory goes as ever, beside GPU memory. */
    host[0] = (uint8_t)rank;
    CHECK_OK(choir_put_signal(r.c, host, 1, r.to, plain, 50, 0, s));
    wait = (struct choir_signal_wait){r.back, 0, 1};
    CHECK_OK(choir_wait_signal(r.c, &wait, 1, s));
    CHECK_OK(choir_stream_wait(s));
    CHECK_EQ(host[50], r.back);
    CHECK_OK(choir_put_signal(r.c, from, 100, r.to, r.w, 0, 0, r.g.choir));
    wait_for(&r, r.back, 0, 1);
    CHECK_OK(choir_barrier(r.c, NULL));
    CHECK_OK(choir_window_destroy(plain));
    CHECK_OK(choir_stream_destroy(s));
    close_rank(&r);
}

/* Where GPU memory goes through the host, host windows work, and GPU memory is refused on all ranks. */
static void staged_body(int rank, int size, void *arg)
{
    const struct gpu_job *j = arg;
    struct gpu g;
    choir_comm *c;
    choir_window *w;
    uint8_t host[8] = {0};
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    void *memory = gpu_alloc(&g, 64);
    CHECK_EQ(choir_window_create(c, rank ? memory : NULL, rank ? 64 : 0, &w),
             CHOIR_ERR_UNSUPPORTED);
    CHECK_EQ(choir_signal(c, 0, 0, g.choir), CHOIR_ERR_UNSUPPORTED);
    CHECK_OK(choir_window_create(c, host, sizeof(host), &w));
    struct choir_signal_wait wait = {(rank + 1) % size, 3, 1};
    CHECK_OK(choir_put_signal(c, "x", 1, (rank + size - 1) % size, w, 7, 3, NULL));
    CHECK_OK(choir_wait_signal(c, &wait, 1, NULL));
    CHECK_EQ(host[7], 'x');
    CHECK_OK(choir_barrier(c, NULL));
    CHECK_OK(choir_window_destroy(w));
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

/* --- faults --------------------------------------------------------------------------------------------------- */

/* How the communicator ended, once the stream has: no kernel hangs. */
static void ends(choir_comm *c, struct gpu *g, enum choir_status want, int peer)
{
    enum choir_status st = CHOIR_OK;
    struct choir_error e = {.bytes = sizeof(e)};
    GPU_OK(g->cu->cuStreamSynchronize(g->stream));
    for (int i = 0; i < 1000 && st == CHOIR_OK; i++, test_sleep_ms(10))
        st = choir_comm_status(c);
    CHECK_OK(choir_comm_last_error(c, &e));
    if (st != want || (peer >= 0 && e.peer != peer))
        FAIL("%s, peer %d: %s", choir_status_name(st), e.peer, e.text);
    CHECK_EQ(choir_signal(c, 0, 0, g->choir), want);
}

static choir_comm *open_timed(struct gpu *g, const struct gpu_job *j, int rank, int size,
                              uint64_t ms)
{
    struct choir_config config = CHOIR_CONFIG_INIT;
    choir_comm *c;
    config.timeout_ns = ms * 1000000;
    gpu_open(g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, &config, &c));
    return c;
}

static void late_body(int rank, int size, void *arg)
{
    struct gpu g;
    choir_comm *c = open_timed(&g, arg, rank, size, 700);
    struct choir_signal_wait wait[] = {{rank, 3, 1}, {1, 3, 1}};
    CHECK_OK(choir_signal(c, rank, 3, g.choir));
    if (!rank)
        CHECK_OK(choir_wait_signal(c, wait, 2, g.choir));
    ends(c, &g, CHOIR_ERR_TIMEOUT, 1);
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

static void abort_body(int rank, int size, void *arg)
{
    struct gpu g;
    choir_comm *c = open_timed(&g, arg, rank, size, 20000);
    struct choir_signal_wait wait = {(rank + 1) % size, 3, 1};
    CHECK_OK(choir_wait_signal(c, &wait, 1, g.choir));
    test_sleep_ms(100);
    if (!rank)
        CHECK_OK(choir_comm_abort(c));
    ends(c, &g, CHOIR_ERR_ABORTED, -1);
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

static void death_body(int rank, int size, void *arg)
{
    struct gpu g;
    choir_comm *c = open_timed(&g, arg, rank, size, 20000);
    struct choir_signal_wait wait = {1, 3, 1};
    CHECK_OK(choir_signal(c, 0, 3, g.choir));
    CHECK_OK(choir_wait_signal(c, &wait, rank ? 0 : 1, g.choir));
    GPU_OK(g.cu->cuStreamSynchronize(g.stream));
    test_sleep_ms(rank ? 300 : 0);
    if (rank)
        kill(getpid(), SIGKILL);
    CHECK_OK(choir_wait_signal(c, &wait, 1, g.choir));
    ends(c, &g, CHOIR_ERR_PEER_DEAD, 1);
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

/* --- jobs ----------------------------------------------------------------------------------------------------- */

static void both(void (*fn)(int, int, void *))
{
    gpu_run(2, 2, NULL, fn), gpu_run(3, 1, NULL, fn);
}

static void ring(void)
{
    both(ring_body);
}
static void all(void)
{
    both(all_body), gpu_run(1, 1, NULL, all_body), gpu_run(4, 2, NULL, all_body);
}
static void graphs(void)
{
    both(graph_body);
}
static void groups(void)
{
    both(group_body);
}
static void refused(void)
{
    both(refused_body);
}
static void staged(void)
{
    gpu_run(2, 1, "CHOIR_CUDA_P2P=off", staged_body);
}
static void late(void)
{
    both(late_body);
}
static void aborts(void)
{
    both(abort_body);
}

static void death(void)
{
    struct gpu_job j;
    pid_t pid[2];
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_id(&j.id);
    for (int r = 0; r < 2; r++)
        if (!(pid[r] = test_fork(NULL))) {
            death_body(r, 2, &j);
            _exit(0);
        }
    CHECK_EQ(test_reap(pid[1], 30000), 128 + SIGKILL);
    CHECK_EQ(test_reap(pid[0], 20000), 0);
}

TEST_MAIN(TEST(ring), TEST(all), TEST(graphs), TEST(groups), TEST(refused), TEST(staged),
          TEST(late), TEST(aborts), TEST(death))
