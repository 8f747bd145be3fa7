/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators that are used in different orders: the record of the deadline names the cycle, on all ranks that are in it; a rank
 * that waits for one that is only late is in none.
 */
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

#define RANKS_MOST 3

struct job {
    struct choir_id id[RANKS_MOST];
    int sleeper; /* calls nothing; -1: none */
    bool streams;
};

/* Rank r waits in communicator r for the next rank. */
static enum choir_status wait_for_next(int rank, int size, choir_comm *c, choir_stream *stream)
{
    int word;
    enum choir_status st = choir_recv(c, &word, 1, CHOIR_INT32, (rank + 1) % size, stream);
    return st == CHOIR_OK && stream ? choir_stream_wait(stream) : st;
}

static void body(int rank, int size, void *arg)
{
    static const char *const name[RANKS_MOST] = {"pipeline", "data", "expert"};
    const struct job *j = arg;
    choir_comm *c[RANKS_MOST];
    choir_stream *stream;
    struct choir_config config = CHOIR_CONFIG_INIT;
    struct choir_error e = {.bytes = sizeof(e)};
    config.timeout_ns = 2700000000;
    for (int i = 0; i < size; i++) {
        config.name = name[i];
        CHECK_OK(choir_comm_create(&j->id[i], rank, size, &config, &c[i]));
        CHECK_OK(choir_barrier(c[i], NULL));
    }
    CHECK_OK(choir_stream_create(&stream));
    if (rank == j->sleeper) {
        test_sleep_ms(5000);
    } else {
        CHECK_EQ(wait_for_next(rank, size, c[rank], j->streams ? stream : NULL), CHOIR_ERR_TIMEOUT);
        CHECK_OK(choir_comm_last_error(c[rank], &e));
        if ((strstr(e.text, "a cycle of waits: rank") != NULL) != (j->sleeper < 0))
            FAIL("rank %d: %s", rank, e.text);
        for (int r = 0; r < size && j->sleeper < 0; r++) {
            char want[64];
            snprintf(want, sizeof(want), "rank %d of %s (exchange) for rank %d", r, name[r],
                     (r + 1) % size);
            if (!strstr(e.text, want))
                FAIL("rank %d: no \"%s\" in %s", rank, want, e.text);
        }
    }
    CHECK_OK(choir_stream_destroy(stream));
    for (int i = 0; i < size; i++)
        CHECK_OK(choir_comm_destroy(c[i]));
}

static void run(struct job *j, int ranks, int per_process)
{
    for (int i = 0; i < ranks; i++)
        test_id(&j->id[i]);
    CHECK(test_ranks_try(
        &(struct test_ranks){.ranks = ranks, .per_process = per_process, .fn = body, .arg = j}));
}

static void processes(void)
{
    struct job j = {.sleeper = -1};
    run(&j, 3, 1);
}

static void threads_and_streams(void)
{
    struct job j = {.sleeper = -1, .streams = true};
    run(&j, 2, 2);
}

static void late(void)
{
    struct job j = {.sleeper = 2};
    run(&j, 3, 1);
}

TEST_MAIN(TEST(processes), TEST(threads_and_streams), TEST(late))
