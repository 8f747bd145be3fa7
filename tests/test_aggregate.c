/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.aggregate_v: all_to_all_v, gather_v and scatter_v on several hosts, counts first: random counts with many
 * zeros, the same and others from call to call, blocking, on streams and in groups, in place; both ends of a block
 * that differ; and how many messages cross between hosts.
 */
#include "comm/comm.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

#define RANKS 7
#define MOST 3000u

static struct choir_id id;
static uint64_t seed; /* the same in all ranks */

static choir_comm *make(int rank, int size)
{
    struct choir_config config = CHOIR_CONFIG_INIT;
    choir_comm *c;
    config.aggregate_v = 1;
    CHECK_OK(choir_comm_create(&id, rank, size, &config, &c));
    CHECK_EQ(c->layout->hosts, 3);
    return c;
}

static uint64_t sent(uint64_t salt, int from, int to)
{
    uint64_t x = test_mix(salt * 4096 + (uint64_t)from * 64 + (uint64_t)to);
    return x % 3 ? 0 : x / 3 % (x % 7 ? 40 : MOST);
}

static uint32_t value(uint64_t salt, int from, int to, uint64_t i)
{
    return (uint32_t)(test_mix(salt + 1) + (uint64_t)(from * 64 + to) * 65536 + i);
}

struct buffers {
    uint32_t *in, *out;
    uint64_t send[RANKS], recv[RANKS], send_at[RANKS], recv_at[RANKS];
};

static void lay(struct buffers *b, uint64_t salt, int rank, int size)
{
    uint64_t in = 0, out = 0;
    for (int p = 0; p < size; p++) {
        b->send[p] = sent(salt, rank, p), b->recv[p] = sent(salt, p, rank);
        b->send_at[p] = in, b->recv_at[p] = out;
        for (uint64_t i = 0; i < b->send[p]; i++)
            b->in[in + i] = value(salt, rank, p, i);
        in += b->send[p], out += b->recv[p];
    }
    memset(b->out, 0xee, RANKS * MOST * sizeof(*b->out));
}

static void check(const struct buffers *b, uint64_t salt, int rank, int size)
{
    for (int p = 0; p < size; p++)
        for (uint64_t i = 0; i < b->recv[p]; i++)
            if (b->out[b->recv_at[p] + i] != value(salt, p, rank, i))
                FAIL("rank %d: element %" PRIu64 " from rank %d is wrong", rank, i, p);
}

static void all_to_all_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size);
    choir_stream *s;
    struct buffers b = {.in = malloc(RANKS * MOST * sizeof(*b.in)),
                        .out = malloc(RANKS * MOST * sizeof(*b.out))};
    CHECK_OK(choir_stream_create(&s));
    for (int k = 0; k < 24; k++) {
        uint64_t salt = seed + (uint64_t)(k / 2); /* each twice: the plan is kept */
        bool grouped = k % 3 == 1;
        choir_stream *on = k % 3 == 2 ? s : NULL;
        uint32_t one = 1, all = 0;
        lay(&b, salt, rank, size);
        if (grouped)
            CHECK_OK(choir_group_start());
        CHECK_OK(choir_all_to_all_v(c, b.in, b.send, b.send_at, b.out, b.recv, b.recv_at,
                                    CHOIR_UINT32, on));
        CHECK_OK(choir_all_reduce(c, &one, &all, 1, CHOIR_UINT32, CHOIR_SUM, on));
        if (grouped)
            CHECK_OK(choir_group_end());
        CHECK_OK(choir_stream_wait(s));
        CHECK_EQ(all, size);
        CHECK_STR(c->counted.bound->algorithm, "hierarchical");
        check(&b, salt, rank, size);
    }
    CHECK_OK(choir_stream_destroy(s));
    CHECK_OK(choir_comm_destroy(c));
    free(b.in);
    free(b.out);
}

static void rooted_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size);
    struct buffers b = {.in = malloc(RANKS * MOST * sizeof(*b.in)),
                        .out = malloc(RANKS * MOST * sizeof(*b.out))};
    for (int k = 0; k < 14; k++) {
        uint64_t salt = seed + (uint64_t)(k / 4), at = 0, count[RANKS];
        int root = k % size;
        /* Gather: rank r has row r's first block; scatter: the reverse. */
        for (int p = 0; p < size; p++)
            count[p] = sent(salt, p, 0);
        for (uint64_t i = 0; i < count[rank]; i++)
            b.in[i] = value(salt, rank, 0, i);
        CHECK_OK(choir_gather_v(c, b.in, count[rank], b.out, rank == root ? count : NULL, NULL,
                                CHOIR_UINT32, root, NULL));
        for (int p = 0; p < size && rank == root; at += count[p++])
            for (uint64_t i = 0; i < count[p]; i++)
                CHECK_EQ(b.out[at + i], value(salt, p, 0, i));
        memset(b.in, 0, MOST * sizeof(*b.in));
        CHECK_OK(choir_scatter_v(c, b.out, rank == root ? count : NULL, NULL, b.in, count[rank],
                                 CHOIR_UINT32, root, NULL));
        for (uint64_t i = 0; i < count[rank]; i++)
            CHECK_EQ(b.in[i], value(salt, rank, 0, i));
    }
    CHECK_OK(choir_comm_destroy(c));
    free(b.in);
    free(b.out);
}

static void everywhere(void (*fn)(int rank, int size, void *arg))
{
    static const char *const env[] = {"CHOIR_TIMEOUT=20s", NULL};
    struct test_ranks job = {.ranks = RANKS, .hosts = 3, .env = env, .fn = fn};
    test_id(&id);
    seed = test_seed();
    if (!test_ranks_try(&job))
        FAIL("a rank failed");
}

static void all_to_all(void)
{
    everywhere(all_to_all_rank);
}

static void rooted(void)
{
    everywhere(rooted_rank);
}

/* Rank 5 expects 4 elements of rank 1, which has 3 for it. */
static void unlike_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size);
    uint32_t in[4 * RANKS] = {0}, out[4 * RANKS];
    uint64_t send[RANKS], recv[RANKS];
    struct choir_error e = {.bytes = sizeof(e)};
    for (int p = 0; p < size; p++)
        send[p] = recv[p] = 3;
    recv[1] += rank == 5;
    enum choir_status st =
        choir_all_to_all_v(c, in, send, NULL, out, recv, NULL, CHOIR_UINT32, NULL);
    if (st == CHOIR_OK)
        st = choir_barrier(c, NULL);
    choir_comm_last_error(c, &e);
    CHECK_EQ(st, CHOIR_ERR_MISMATCH);
    if (!strstr(e.text, "rank 1 has 3 elements for its block with rank 5, which has 4"))
        FAIL("rank %d is told \"%s\"", rank, e.text);
    test_sleep_ms(150);
    CHECK_OK(choir_comm_destroy(c));
}

static void unlike(void)
{
    everywhere(unlike_rank);
}

TEST_MAIN(TEST(all_to_all), TEST(rooted), TEST(unlike))
