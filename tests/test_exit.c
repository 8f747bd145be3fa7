/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a process that is no fault: destroy in any order, in an atexit handler, or not at all. Who still is in the last
 * operation ends it well; who calls another one is told at once which rank has left.
 */
#include "comm/comm.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include <unistd.h>

static struct choir_id id;
static const char *const shm[] = {"CHOIR_LOG=error", NULL};
static const char *const tcp[] = {"CHOIR_TRANSPORTS=self,tcp", NULL};

static choir_comm *at_exit[2];

static void destroy_at_exit(void)
{
    for (int i = 0; i < 2; i++)
        if (choir_comm_destroy(at_exit[i]) != CHOIR_OK)
            _exit(3);
}

/* Children before or after parents, by atexit, or not at all. */
static void orders_rank(int rank, int size, void *arg)
{
    int way = *(int *)arg;
    choir_comm *c, *half, *all;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    CHECK_OK(choir_comm_split(c, rank % 2, 0, NULL, &half));
    CHECK_OK(choir_comm_split(c, 0, -rank, NULL, &all));
    enum choir_status st = choir_barrier(all, NULL);
    if (st != CHOIR_OK)
        FAIL("way %d: rank %d: %s", way, rank, choir_status_name(st));
    if (way == 0 || way == 1) {
        CHECK_OK(choir_comm_destroy(way ? half : c));
        CHECK_OK(choir_comm_destroy(all));
        CHECK_OK(choir_comm_destroy(way ? c : half));
    } else if (way == 2) {
        at_exit[0] = c, at_exit[1] = all;
        CHECK_EQ(atexit(destroy_at_exit), 0);
        exit(0);
    } else {
        exit(0);
    }
}

static void orders(void)
{
    for (int way = 0; way < 4; way++)
        for (int over = 0; over < 2; over++) {
            test_id(&id);
            test_ranks(4, over ? tcp : shm, orders_rank, &way);
        }
}

/* Elements of the last operation. */
static const uint64_t last_count[] = {1, 3000, 200000};

static void destroy_first(void)
{
    CHECK_OK(choir_comm_destroy(at_exit[0]));
}

/* Rank 0 leaves right after its last operation, while others come late to it. */
static void leaves_rank(int rank, int size, void *arg)
{
    uint64_t n = *(uint64_t *)arg;
    float *in = malloc(n * sizeof(*in)), *out = calloc(n, sizeof(*out));
    choir_comm *c, *less;
    CHECK_EQ(atexit(destroy_first), 0); /* runs after the library's own handler */
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    at_exit[0] = c;
    for (uint64_t i = 0; i < n; i++)
        in[i] = (float)(rank + 1);
    CHECK_OK(choir_barrier(c, NULL));
    if (rank == size - 1)
        test_sleep_ms(150);
    CHECK_OK(choir_all_reduce(c, in, out, n, CHOIR_FLOAT32, CHOIR_SUM, NULL));
    if (!rank)
        exit(0);
    for (uint64_t i = 0; i < n; i++)
        CHECK_EQ((int)out[i], size * (size + 1) / 2);
    uint64_t start = test_now_ms();
    enum choir_status st = choir_all_reduce(c, in, out, n, CHOIR_FLOAT32, CHOIR_SUM, NULL);
    uint64_t took = test_now_ms() - start;
    struct choir_error e = {.bytes = sizeof(e)};
    CHECK_OK(choir_comm_last_error(c, &e));
    if (st != CHOIR_ERR_PEER_DEAD || e.peer != 0 || !strstr(e.text, "rank 0"))
        FAIL("rank %d of %d: %s, peer %d: %s", rank, size, choir_status_name(st), e.peer, e.text);
    CHECK_LT(took, 1000);
    int lost = 0;
    CHECK_OK(choir_comm_shrink(c, &lost, 1, NULL, &less));
    CHECK_OK(choir_all_reduce(less, in, out, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL));
    CHECK_EQ((int)out[0], size * (size + 1) / 2 - 1);
    CHECK_OK(choir_comm_destroy(less));
    free(in);
    free(out);
    exit(0);
}

static void leaves(void)
{
    for (size_t i = 0; i < sizeof(last_count) / sizeof(last_count[0]); i++)
        for (int size = 2; size <= 4; size++)
            for (int over = 0; over < 2; over++) {
                uint64_t n = last_count[i];
                test_id(&id);
                test_ranks(size, over ? tcp : shm, leaves_rank, &n);
            }
}

/* Rank 1, once it has waited 100 ms, asks rank 2 what it called, and does not look at that connection again: its goodbye
 * goes over it all the same. */
static void asked_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c;
    float x = 1, y = 0;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    if (rank == 2)
        test_sleep_ms(160);
    CHECK_OK(choir_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, 0, NULL));
    if (rank != 1)
        test_sleep_ms(400);
    CHECK_OK(choir_comm_status(c));
    CHECK_OK(choir_comm_destroy(c));
}

static void asked(void)
{
    for (int over = 0; over < 2; over++)
        for (int i = 0; i < 5; i++) {
            const char *const env[] = {over ? tcp[0] : shm[0], "CHOIR_ALGO=chain", NULL};
            test_id(&id);
            test_ranks(3, env, asked_rank, NULL);
        }
}

/* A rank that is gone is named by a creation that waits for it, too. */
static void split_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c, *child;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    CHECK_OK(choir_barrier(c, NULL));
    if (rank == 1) {
        test_sleep_ms(200); /* the others have ended the barrier: the verdict would end that, too */
        exit(0);
    }
    uint64_t start = test_now_ms();
    CHECK_EQ(choir_comm_split(c, 0, 0, NULL, &child), CHOIR_ERR_PEER_DEAD);
    CHECK_LT(test_now_ms() - start, 3000);
    struct choir_error e = {.bytes = sizeof(e)};
    CHECK_OK(choir_comm_last_error(NULL, &e));
    if (e.peer != 1 || !strstr(e.text, "rank 1"))
        FAIL("rank %d: peer %d: %s", rank, e.peer, e.text);
    CHECK_OK(choir_comm_destroy(c));
}

static void split(void)
{
    for (int over = 0; over < 2; over++) {
        test_id(&id);
        test_ranks(3, over ? tcp : shm, split_rank, NULL);
    }
}

/* Rank 10 began to reach rank 11 and never looked whether it had; rank 11 came to use what was dialed. No tree joins
 * the two. Rank 10 leaves first, and rank 11 must not take that for a death. */
static void unlooked_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c;
    int32_t x = rank;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    if (rank == 10) {
        (void)host_peer_reach(c->host.member[11]);
        test_sleep_ms(300);
        CHECK_OK(choir_recv(c, &x, 1, CHOIR_INT32, 11, NULL));
        CHECK_EQ(x, 11);
    } else if (rank == 11) {
        test_sleep_ms(300);
        CHECK_OK(choir_send(c, &x, 1, CHOIR_INT32, 10, NULL));
        test_sleep_ms(500);
        CHECK_EQ(atomic_load(&c->host.broken), 0);
        CHECK_EQ(c->gone[10], COMM_DESTROYED);
    }
    CHECK_OK(choir_comm_destroy(c));
}

static void unlooked(void)
{
    for (int over = 0; over < 2; over++) {
        test_id(&id);
        test_ranks(12, over ? tcp : shm, unlooked_rank, NULL);
    }
}

TEST_MAIN(TEST(orders), TEST(leaves), TEST(asked), TEST(split), TEST(unlooked))
