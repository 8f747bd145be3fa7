/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of choir_mem_alloc as buffers: peers map it and read large messages there, also where reading other memory is
 * forbidden (CHOIR_SINGLE_COPY=0); combine out of it; forget it when it is freed, and keep few mappings.
 */
#include "comm/comm.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

#define BYTES (3u << 20)

static struct choir_id id;

static choir_comm *make(int rank, int size)
{
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    return c;
}

static uint32_t *alloc(size_t bytes)
{
    void *p;
    CHECK_OK(choir_mem_alloc(bytes, &p));
    return p;
}

/* Shared segments mapped here, own ones included. */
static int mappings(void)
{
    char line[512];
    int n = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof(line), f))
        n += strstr(line, "memfd:choir") != NULL;
    fclose(f);
    return n;
}

static void settle(int want)
{
    for (int i = 0; i < 300 && mappings() > want; i++)
        test_sleep_ms(10);
    CHECK_LE(mappings(), want);
}

/* Bytes that went through the peer's inbox. */
static uint64_t copied(choir_comm *c, int peer)
{
    struct host_link *link = atomic_load(&c->host.link[peer]);
    uint64_t sum = 0;
    for (uint32_t l = 0; link && l < LANE_COUNT; l++)
        sum += link->tx[l].head;
    return sum;
}

static void sum_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size);
    uint32_t *in = alloc(BYTES), *out = alloc(BYTES), n = BYTES / 4 / (uint32_t)size;
    for (int k = 0; k < 6; k++) {
        for (uint32_t i = 0; i < BYTES / 4; i++)
            in[i] = (uint32_t)(rank + 1) * i + (uint32_t)k;
        CHECK_OK(choir_all_reduce(c, in, out, BYTES / 4, CHOIR_UINT32, CHOIR_SUM, NULL));
        for (uint32_t i = 0; i < BYTES / 4; i++)
            CHECK_EQ(out[i], (uint32_t)(size * (size + 1) / 2) * i + (uint32_t)(k * size));
        CHECK_OK(choir_reduce_scatter(c, in, out, n, CHOIR_UINT32, CHOIR_SUM, NULL));
        for (uint32_t i = 0, at = n * (uint32_t)rank; i < n; i++, at++)
            CHECK_EQ(out[i], (uint32_t)(size * (size + 1) / 2) * at + (uint32_t)(k * size));
        CHECK_OK(choir_all_gather(c, in + 3, out, n - 3, CHOIR_UINT32, NULL));
        for (int q = 0; q < size; q++)
            for (uint32_t i = 0; i < n - 3; i += 7)
                CHECK_EQ(out[(uint32_t)q * (n - 3) + i], (uint32_t)(q + 1) * (i + 3) + (uint32_t)k);
        CHECK_OK(choir_all_to_all(c, in, in, n, CHOIR_UINT32, NULL));
        for (int q = 0; q < size; q++)
            for (uint32_t i = 0; i < n; i += 7)
                CHECK_EQ(in[(uint32_t)q * n + i],
                         (uint32_t)(q + 1) * (i + n * (uint32_t)rank) + (uint32_t)k);
    }
    CHECK_OK(choir_barrier(c, NULL));
    CHECK_OK(choir_mem_free(in));
    CHECK_OK(choir_mem_free(out));
    CHECK_OK(choir_comm_destroy(c));
}

/* No byte of a message out of such memory is copied into the peer's inbox. */
static void way_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size);
    uint32_t *mine = alloc(BYTES), *private = calloc(1, BYTES);
    for (uint32_t i = 0; i < BYTES / 4; i++)
        mine[i] = i * 3;
    static const uint32_t bytes[] = {BYTES - 64, 20000, BYTES - 64}; /* 20000: one fragment */
    for (uint32_t k = 0; k < base_count(bytes); k++)
        if (rank) {
            CHECK_OK(choir_recv(c, private, bytes[k], CHOIR_UINT8, 0, NULL));
            for (uint32_t i = 0; i < bytes[k] / 4; i++)
                CHECK_EQ(private[i], (i + 16) * 3);
        } else {
            CHECK_OK(choir_send(c, mine + 16, bytes[k], CHOIR_UINT8, 1, NULL));
            CHECK_EQ(copied(c, 1), 0);
        }
    CHECK_OK(choir_barrier(c, NULL));
    if (!rank)
        CHECK_OK(choir_send(c, private, BYTES, CHOIR_UINT8, 1, NULL));
    else
        CHECK_OK(choir_recv(c, private, BYTES, CHOIR_UINT8, 0, NULL));
    if (!rank)
        CHECK_LT(0, copied(c, 1)); /* other memory cannot be read here */
    CHECK_OK(choir_mem_free(mine));
    CHECK_OK(choir_comm_destroy(c));
    free(private);
}

/* Freed and allocated again, at the same address more often than not: what is read is what lies there now. */
static void again_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size);
    uint32_t *got = malloc(BYTES);
    int base = 0, same = 0;
    uint32_t *last = NULL;
    for (uint32_t k = 0; k < 60; k++) {
        uint32_t *mine = alloc(BYTES), n = BYTES / 4 - k;
        same += mine == last;
        last = mine;
        for (uint32_t i = 0; i < n; i += 64)
            mine[i] = k * 1000 + (uint32_t)rank + i;
        int peer = (rank + 1) % size, from = (rank + size - 1) % size;
        CHECK_OK(choir_group_start());
        CHECK_OK(choir_send(c, mine, n, CHOIR_UINT32, peer, NULL));
        CHECK_OK(choir_recv(c, got, n, CHOIR_UINT32, from, NULL));
        CHECK_OK(choir_group_end());
        for (uint32_t i = 0; i < n; i += 64)
            CHECK_EQ(got[i], k * 1000 + (uint32_t)from + i);
        CHECK_OK(choir_mem_free(mine));
        if (!k)
            base = mappings();
    }
    CHECK_LT(0, same);
    settle(base + 4); /* bells are mapped when first needed; 60 were freed */
    CHECK_OK(choir_barrier(c, NULL));
    CHECK_OK(choir_comm_destroy(c));
    free(got);
}

enum { BLOCKS = 100, IDLE = 64 };

/* More blocks than mappings are kept for, in turn. */
static void many_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size);
    uint32_t *block[BLOCKS], *got = malloc(65536);
    for (int b = 0; b < BLOCKS; b++) {
        block[b] = alloc(65536);
        for (uint32_t i = 0; i < 16384; i++)
            block[b][i] = i + (uint32_t)(b * 100 + rank);
    }
    CHECK_OK(choir_barrier(c, NULL));
    int base = mappings();
    for (int k = 0; k < 3 * BLOCKS; k++) {
        int b = k * 7 % BLOCKS;
        CHECK_OK(choir_group_start());
        CHECK_OK(choir_send(c, block[b], 16384, CHOIR_UINT32, 1 - rank, NULL));
        CHECK_OK(choir_recv(c, got, 16384, CHOIR_UINT32, 1 - rank, NULL));
        CHECK_OK(choir_group_end());
        for (uint32_t i = 0; i < 16384; i++)
            CHECK_EQ(got[i], i + (uint32_t)(b * 100 + 1 - rank));
        CHECK_LE(mappings(), base + IDLE + 8); /* links are made meanwhile */
    }
    CHECK_OK(choir_barrier(c, NULL));
    for (int b = 0; b < BLOCKS; b++)
        CHECK_OK(choir_mem_free(block[b]));
    settle(base - BLOCKS + 8);
    CHECK_OK(choir_barrier(c, NULL));
    CHECK_OK(choir_comm_destroy(c));
    free(got);
}

static void both(int ranks, void (*fn)(int rank, int size, void *arg))
{
    static const char *const read[] = {"CHOIR_TIMEOUT=20s", NULL}, *const forbidden[] = {
                                                                       "CHOIR_TIMEOUT=20s",
                                                                       "CHOIR_SINGLE_COPY=0", NULL};
    for (int f = 0; f < 2; f++) {
        test_id(&id);
        test_ranks(ranks, f ? forbidden : read, fn, NULL);
    }
}

static void sums(void)
{
    both(2, sum_rank);
    both(3, sum_rank);
}

static void the_way(void)
{
    static const char *const env[] = {"CHOIR_TIMEOUT=20s", "CHOIR_SINGLE_COPY=0", NULL};
    test_id(&id);
    test_ranks(2, env, way_rank, NULL);
}

static void again(void)
{
    both(2, again_rank);
    both(3, again_rank);
}

static void many(void)
{
    both(2, many_rank);
}

TEST_MAIN(TEST(sums), TEST(the_way), TEST(again), TEST(many))
