/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One-sided operations on host memory: puts, signals and waits, each way bytes can go (one process, mapped, written by the kernel,
 * messages over shm and tcp), held against what must lie there. What goes wrong: test_put_faults.c.
 */
#include "choir.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

static struct choir_id id;

struct way {
    const char *name;
    bool shared;     /* memory of choir_mem_alloc */
    int per_process; /* 0: one; -1: all */
    int hosts;
    const char *env[5];
};
static const struct way ways[] = {
    {"threads", false, -1, 0, {"CHOIR_TIMEOUT=30s"}},
    {"mapped", true, 0, 0, {"CHOIR_TIMEOUT=30s"}},
    {"written", false, 0, 0, {"CHOIR_TIMEOUT=30s"}},
    {"shm frames", false, 0, 0, {"CHOIR_TIMEOUT=30s", "CHOIR_SINGLE_COPY=0"}},
    {"tcp", false, 0, 0, {"CHOIR_TIMEOUT=30s", "CHOIR_TRANSPORTS=self,tcp"}},
    {"tcp, three sockets",
     false,
     0,
     0,
     {"CHOIR_TIMEOUT=30s", "CHOIR_TRANSPORTS=self,tcp", "CHOIR_SOCKETS=3"}},
    {"two hosts", true, 2, 2, {"CHOIR_TIMEOUT=30s"}},
};

/* --- what a rank has -------------------------------------------------------------------------------------- */

struct rank {
    choir_comm *c;
    choir_window *w;
    uint8_t *mine; /* its part */
    size_t bytes;
    bool shared;
};

static struct rank open_rank(choir_comm *c, const struct way *way, size_t bytes)
{
    struct rank r = {.c = c, .bytes = bytes, .shared = way->shared};
    if (r.shared)
        CHECK_OK(choir_mem_alloc(bytes, (void **)&r.mine));
    else
        CHECK((r.mine = calloc(1, bytes)) != NULL);
    CHECK_OK(choir_window_create(r.c, r.mine, bytes, &r.w));
    return r;
}

static void close_rank(struct rank *r)
{
    CHECK_OK(choir_barrier(r->c, NULL)); /* nobody puts any more */
    CHECK_OK(choir_window_destroy(r->w));
    if (r->shared)
        CHECK_OK(choir_mem_free(r->mine));
    else
        free(r->mine);
}

static void wait_for(struct rank *r, int peer, uint32_t signal, uint64_t count)
{
    struct choir_signal_wait wait = {peer, signal, count};
    CHECK_OK(choir_wait_signal(r->c, &wait, 1, NULL));
}

static void fill(uint8_t *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(seed * 131 + i * 7 + (i >> 8));
}

static void expect(const uint8_t *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != (uint8_t)(seed * 131 + i * 7 + (i >> 8)))
            FAIL("byte %zu of %zu (seed %llu) is wrong", i, n, (unsigned long long)seed);
}

/* --- cases -------------------------------------------------------------------------------------------------- */

/* Around a ring, every size, to unaligned places; the bytes beside them stay. */
static void sizes(choir_comm *c, int rank, int size, const struct way *way)
{
    static const size_t bytes[] = {0, 1, 2, 13, 63, 64, 65521, 131071, 131072, 131073, 1000003};
    struct rank r = open_rank(c, way, (1u << 20) + 64);
    uint8_t *from = malloc(1u << 20);
    int to = (rank + 1) % size, back = (rank + size - 1) % size;
    for (uint32_t k = 0; k < sizeof(bytes) / sizeof(bytes[0]); k++) {
        size_t n = bytes[k], at = 3 + k;
        memset(r.mine, 0xee, r.bytes);
        CHECK_OK(choir_barrier(r.c, NULL));
        fill(from + k, n, (uint64_t)rank + k);
        CHECK_OK(choir_put_signal(r.c, n ? from + k : NULL, n, to, r.w, at, k, NULL));
        memset(from, 0, n + k); /* it may be reused at once */
        wait_for(&r, back, k, 1);
        expect(r.mine + at, n, (uint64_t)back + k);
        for (size_t i = 0; i < at; i++)
            CHECK_EQ(r.mine[i], 0xee);
        for (size_t i = at + n; i < at + n + 8; i++)
            CHECK_EQ(r.mine[i], 0xee);
        CHECK_OK(choir_barrier(r.c, NULL));
    }
    free(from);
    close_rank(&r);
}

/* More than fits under way at once, to the end of the part. */
static void large(choir_comm *c, int rank, int size, const struct way *way)
{
    size_t n = (size_t)TEST_BY_EFFORT(9, 64, 64) << 20;
    struct rank r = open_rank(c, way, n + 5);
    uint8_t *from = malloc(n);
    int to = (rank + 1) % size, back = (rank + size - 1) % size;
    fill(from, n, (uint64_t)rank);
    CHECK_OK(choir_put(r.c, from, n, to, r.w, 5, NULL));
    CHECK_OK(choir_signal(r.c, to, 15, NULL));
    wait_for(&r, back, 15, 1);
    expect(r.mine + 5, n, (uint64_t)back);
    free(from);
    close_rank(&r);
}

/* A signal is seen after all puts before it. */
static void many(choir_comm *c, int rank, int size, const struct way *way)
{
    enum { PUTS = 300, EACH = 700 };
    struct rank r = open_rank(c, way, PUTS * EACH);
    uint8_t from[EACH];
    int to = (rank + 1) % size, back = (rank + size - 1) % size;
    for (int round = 0; round < 3; round++) {
        for (uint64_t k = 0; k < PUTS; k++) {
            size_t n = k % EACH;
            fill(from, n, k + (uint64_t)(rank + round));
            CHECK_OK(choir_put(r.c, from, n, to, r.w, k * EACH, NULL));
        }
        CHECK_OK(choir_signal(r.c, to, 0, NULL));
        wait_for(&r, back, 0, 1);
        for (uint64_t k = 0; k < PUTS; k++)
            expect(r.mine + k * EACH, k % EACH, k + (uint64_t)(back + round));
        CHECK_OK(choir_signal(r.c, back, 1, NULL)); /* read: it may be written again */
        wait_for(&r, to, 1, 1);
    }
    close_rank(&r);
}

/* Rank 0 with each other in turn; the number goes up at each hop. Others sleep meanwhile. */
static void ping(choir_comm *c, int rank, int size, const struct way *way)
{
    struct rank r = open_rank(c, way, 64);
    uint64_t number = 0;
    for (int k = 0; k < 100; k++)
        for (int peer = 1; peer < size; peer++) {
            if (rank && rank != peer)
                continue;
            int other = rank ? 0 : peer;
            if (rank) {
                wait_for(&r, other, 2, 1);
                memcpy(&number, r.mine, sizeof(number));
            }
            number++;
            CHECK_OK(choir_put_signal(r.c, &number, sizeof(number), other, r.w, 8 * (uint64_t)rank,
                                      2, NULL));
            if (!rank) {
                wait_for(&r, other, 2, 1);
                uint64_t got;
                memcpy(&got, r.mine + 8 * peer, sizeof(got));
                CHECK_EQ(got, number + 1);
                number = got;
            }
        }
    close_rank(&r);
}

/* All at once to all, this rank too; one wait for all, entries of one signal twice. */
static void all(choir_comm *c, int rank, int size, const struct way *way)
{
    enum { EACH = 30011 };
    struct rank r = open_rank(c, way, (size_t)size * EACH);
    uint8_t *from = malloc(EACH);
    struct choir_signal_wait *waits = calloc((size_t)size * 2, sizeof(*waits));
    for (int round = 0; round < 4; round++) {
        for (int k = 0; k < size; k++) {
            int to = (rank + k) % size;
            fill(from, EACH, (uint64_t)(rank * 100 + to + round));
            CHECK_OK(choir_put_signal(r.c, from, EACH, to, r.w, (uint64_t)rank * EACH, 7, NULL));
            CHECK_OK(choir_signal(r.c, to, 7, NULL));
            waits[k] = (struct choir_signal_wait){to, 7, 1};
            waits[size + k] = (struct choir_signal_wait){to, 7, round % 2 ? 1 : 0};
        }
        CHECK_OK(choir_wait_signal(r.c, waits, (uint32_t)size * 2, NULL));
        if (round % 2 == 0)
            CHECK_OK(choir_wait_signal(r.c, waits, (uint32_t)size, NULL));
        for (int k = 0; k < size; k++)
            expect(r.mine + k * EACH, EACH, (uint64_t)(k * 100 + rank + round));
        CHECK_OK(choir_wait_signal(r.c, NULL, 0, NULL));
        CHECK_OK(choir_barrier(r.c, NULL));
    }
    free(from);
    free(waits);
    close_rank(&r);
}

/* Signals without any window, counted by rank and index. */
static void bare(choir_comm *c, int rank, int size, const struct way *way)
{
    (void)way, (void)rank;
    for (uint32_t s = 0; s < CHOIR_SIGNALS; s++)
        for (uint32_t k = 0; k <= s; k++)
            for (int to = 0; to < size; to++)
                CHECK_OK(choir_signal(c, to, CHOIR_SIGNALS - 1 - s, NULL));
    for (uint32_t s = 0; s < CHOIR_SIGNALS; s++)
        for (int from = 0; from < size; from++) {
            struct choir_signal_wait wait = {from, CHOIR_SIGNALS - 1 - s, s + 1};
            CHECK_OK(choir_wait_signal(c, &wait, 1, NULL));
        }
}

/* Two communicators of the same ranks, three windows each, of which one is destroyed and made anew. */
static void windows(choir_comm *c, int rank, int size, const struct way *way)
{
    enum { COMMS = 2, WINDOWS = 3, BYTES = 5003 };
    struct rank r = open_rank(c, way, 64);
    choir_comm *comm[COMMS] = {r.c};
    choir_window *w[COMMS][WINDOWS];
    static _Thread_local uint8_t part[COMMS][WINDOWS][BYTES], from[BYTES];
    int to = (rank + 1) % size, back = (rank + size - 1) % size;
    CHECK_OK(choir_comm_split(r.c, 0, size - rank, NULL, &comm[1])); /* ranks in reverse */
    int peer[COMMS][2] = {{to, back}, {size - 1 - to, size - 1 - back}};
    for (int i = 0; i < COMMS; i++)
        for (int k = 0; k < WINDOWS; k++)
            CHECK_OK(choir_window_create(comm[i], part[i][k], BYTES, &w[i][k]));
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < COMMS; i++)
            for (int k = WINDOWS - 1; k >= 0; k--) {
                fill(from, BYTES, (uint64_t)(rank * 10 + i * 3 + k + round));
                CHECK_OK(choir_put_signal(comm[i], from, BYTES, peer[i][0], w[i][k], 0, (uint32_t)k,
                                          NULL));
            }
        for (int i = COMMS - 1; i >= 0; i--)
            for (int k = 0; k < WINDOWS; k++) {
                struct choir_signal_wait wait = {peer[i][1], (uint32_t)k, 1};
                CHECK_OK(choir_wait_signal(comm[i], &wait, 1, NULL));
                expect(part[i][k], BYTES, (uint64_t)(back * 10 + i * 3 + k + round));
            }
        CHECK_OK(choir_barrier(r.c, NULL));
        int again = round % WINDOWS;
        CHECK_OK(choir_window_destroy(w[1][again]));
        CHECK_OK(choir_window_create(comm[1], part[1][again], BYTES, &w[1][again]));
    }
    CHECK_OK(choir_barrier(r.c, NULL));
    for (int i = 0; i < COMMS; i++)
        for (int k = 0; k < WINDOWS; k++)
            CHECK_OK(choir_window_destroy(w[i][k]));
    CHECK_OK(choir_comm_destroy(comm[1]));
    close_rank(&r);
}

/* On streams: queued before anything has come, in order with collectives; lists may be reused at once. */
static void streams(choir_comm *c, int rank, int size, const struct way *way)
{
    enum { N = 20011 };
    struct rank r = open_rank(c, way, N * 4);
    choir_stream *s;
    uint32_t *from = malloc(N * 4), *sum = malloc(N * 4);
    int to = (rank + 1) % size, back = (rank + size - 1) % size;
    CHECK_OK(choir_stream_create(&s));
    for (uint32_t round = 0; round < 5; round++) {
        for (uint32_t i = 0; i < N; i++)
            from[i] = i + (uint32_t)rank + round;
        struct choir_signal_wait wait = {back, 3, 1};
        CHECK_OK(choir_put_signal(r.c, from, N * 4, to, r.w, 0, 3, s));
        CHECK_OK(choir_wait_signal(r.c, &wait, 1, s));
        wait = (struct choir_signal_wait){-1, 99, 99};
        CHECK_OK(choir_all_reduce(r.c, r.mine, sum, N, CHOIR_UINT32, CHOIR_SUM, s));
        CHECK_OK(choir_barrier(r.c, s)); /* nobody adds its part any more */
        CHECK_OK(choir_stream_wait(s));
        for (uint32_t i = 0; i < N; i++)
            CHECK_EQ(sum[i], (i + round) * (uint32_t)size + (uint32_t)(size * (size - 1) / 2));
    }
    CHECK_OK(choir_stream_destroy(s));
    free(from);
    free(sum);
    close_rank(&r);
}

/* In a group in the worst order: waits are run last, puts first, whichever stream they share. */
static void groups(choir_comm *c, int rank, int size, const struct way *way)
{
    struct rank r = open_rank(c, way, 256);
    choir_stream *streams[2] = {NULL};
    int to = (rank + 1) % size, back = (rank + size - 1) % size;
    CHECK_OK(choir_stream_create(&streams[1]));
    for (int round = 0; round < 6; round++) {
        choir_stream *s = streams[round % 2];
        uint64_t mine = (uint64_t)(rank + round), sum = 0, got = 0;
        CHECK_OK(choir_group_start());
        struct choir_signal_wait wait = {back, 5, 1};
        CHECK_OK(choir_wait_signal(r.c, &wait, 1, s));
        wait.peer = -7;
        CHECK_OK(choir_all_reduce(r.c, &mine, &sum, 1, CHOIR_UINT64, CHOIR_SUM, s));
        CHECK_OK(choir_recv(r.c, &got, 1, CHOIR_UINT64, back, s));
        CHECK_OK(choir_send(r.c, &mine, 1, CHOIR_UINT64, to, s));
        CHECK_OK(choir_put(r.c, &mine, 8, to, r.w, 8, s));
        CHECK_OK(choir_signal(r.c, to, 5, s));
        CHECK_OK(choir_group_end());
        CHECK_OK(choir_stream_wait(s));
        CHECK_EQ(got, back + round);
        CHECK_EQ(sum, size * (size - 1) / 2 + size * round);
        memcpy(&got, r.mine + 8, 8);
        CHECK_EQ(got, back + round);
        CHECK_OK(choir_barrier(r.c, NULL));
    }
    CHECK_OK(choir_stream_destroy(streams[1]));
    close_rank(&r);
}

/* --- random sequences against a model ------------------------------------------------------------------------- */

enum { SLOTS = 24, SLOT = 9001 }; /* of each source in each part */

/* What rank `from` does in a phase, as every rank can tell: operation k goes to a rank, with a length and perhaps a signal. */
struct draw {
    int to, kind; /* 0 put, 1 put and signal, 2 signal */
    uint32_t signal;
    size_t bytes, at;
    uint64_t seed;
};

static struct draw draw(uint64_t seed, int phase, int from, uint32_t k, int size)
{
    uint64_t x = test_mix(seed ^ test_mix((uint64_t)(phase * 4096 + from * 64) + k));
    struct draw d = {.to = (int)(x % (uint64_t)size),
                     .kind = (int)((x >> 8) % 3),
                     .signal = (uint32_t)(x >> 16) % CHOIR_SIGNALS,
                     .seed = x >> 24};
    d.bytes = x >> 32 & 1 ? (size_t)(x >> 40) % SLOT : (size_t)(x >> 40) % 64;
    d.at = ((size_t)from * SLOTS + k) * SLOT;
    return d;
}

static void random_phase(struct rank *r, int rank, int size, uint64_t seed, int phase)
{
    uint64_t(*due)[CHOIR_SIGNALS] = calloc((size_t)size, sizeof(*due));
    static _Thread_local uint8_t from[SLOT];
    for (uint32_t k = 0; k < SLOTS; k++) {
        struct draw d = draw(seed, phase, rank, k, size);
        fill(from, d.bytes, d.seed);
        if (d.kind == 0)
            CHECK_OK(choir_put(r->c, from, d.bytes, d.to, r->w, d.at, NULL));
        else if (d.kind == 1)
            CHECK_OK(choir_put_signal(r->c, from, d.bytes, d.to, r->w, d.at, d.signal, NULL));
        else
            CHECK_OK(choir_signal(r->c, d.to, d.signal, NULL));
    }
    for (int to = 0; to < size; to++)
        CHECK_OK(choir_signal(r->c, to, 0, NULL));
    for (int q = 0; q < size; q++) {
        due[q][0] = 1;
        for (uint32_t k = 0; k < SLOTS; k++) {
            struct draw d = draw(seed, phase, q, k, size);
            due[q][d.signal] += d.to == rank && d.kind;
        }
    }
    for (int q = 0; q < size; q++)
        for (uint32_t s = CHOIR_SIGNALS; s-- > 0;) { /* in two bites */
            struct choir_signal_wait wait[] = {{q, s, due[q][s] / 2},
                                               {q, s, due[q][s] - due[q][s] / 2}};
            CHECK_OK(choir_wait_signal(r->c, wait, 2, NULL));
        }
    for (int q = 0; q < size; q++)
        for (uint32_t k = 0; k < SLOTS; k++) {
            struct draw d = draw(seed, phase, q, k, size);
            if (d.to == rank && d.kind < 2)
                expect(r->mine + d.at, d.bytes, d.seed);
        }
    free(due);
}

static void drawn(choir_comm *c, int rank, int size, const struct way *way)
{
    struct rank r = open_rank(c, way, (size_t)size * SLOTS * SLOT);
    for (int phase = 0; phase < TEST_BY_EFFORT(3, 6, 40); phase++) {
        random_phase(&r, rank, size, test_seed(), phase);
        CHECK_OK(choir_barrier(r.c, NULL));
    }
    close_rank(&r);
}

/* --- jobs --------------------------------------------------------------------------------------------------------- */

static void job_rank(int rank, int size, void *arg)
{
    static void (*const cases[])(choir_comm * c, int rank, int size, const struct way *way) = {
        bare, sizes, many, ping, all, windows, streams, groups, drawn};
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cases[i](c, rank, size, arg);
    if (size <= 3)
        large(c, rank, size, arg);
    CHECK_OK(choir_comm_destroy(c));
}

/* Each number of ranks is some way's. */
static void run(int w)
{
    static const int ranks[] = {2, 3, 5, 8, 1};
    test_seed(); /* the same in all ranks */
    test_deadline((unsigned)TEST_BY_EFFORT(120, 60, 600));
    for (int n = 0; n < TEST_BY_EFFORT(1, 2, 5); n++) {
        int size = ranks[(w + 1 + n * 2) % 5];
        struct test_ranks job = {.ranks = size,
                                 .per_process =
                                     ways[w].per_process < 0 ? size : ways[w].per_process,
                                 .hosts = ways[w].hosts,
                                 .env = ways[w].env,
                                 .fn = job_rank,
                                 .arg = (void *)(uintptr_t)&ways[w]};
        test_id(&id);
        if (!test_ranks_try(&job))
            FAIL("%d ranks, %s", size, ways[w].name);
    }
}

static void threads(void)
{
    run(0);
}

static void mapped(void)
{
    run(1);
}

static void written(void)
{
    run(2);
}

static void shm_frames(void)
{
    run(3);
}

static void tcp(void)
{
    run(4);
}

static void tcp_sockets(void)
{
    run(5);
}

static void hosts(void)
{
    run(6);
}

TEST_MAIN(TEST(threads), TEST(mapped), TEST(written), TEST(shm_frames), TEST(tcp),
          TEST(tcp_sockets), TEST(hosts))
