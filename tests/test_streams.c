/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host streams and events: order within and between streams, many communicators on one stream and many streams on one
 * communicator, groups on streams, work of the caller meanwhile, destroy with work queued, errors at the wait.
 */
#include "tests/lib/matrix.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

static struct choir_id id;
static const char *const shm[] = {"CHOIR_LOG=error", NULL};
static const char *const tcp[] = {"CHOIR_TRANSPORTS=self,tcp", NULL};

static choir_comm *make(int rank, int size)
{
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    return c;
}

static void everywhere(int ranks, void (*fn)(int rank, int size, void *arg))
{
    for (int over = 0; over < 2; over++) {
        test_id(&id);
        test_ranks(ranks, over ? tcp : shm, fn, NULL);
    }
    CHECK_OK(choir_id_create(&id));
    test_threads(ranks, fn, NULL);
}

/* Each operation's input is the one before's output: wrong order gives a wrong number. */
static void chain_rank(int rank, int size, void *arg)
{
    (void)arg;
    enum { N = 3000, STEPS = 40 };
    choir_comm *c = make(rank, size);
    choir_stream *s;
    uint32_t *x = malloc(N * sizeof(*x)), want = 1;
    CHECK_OK(choir_stream_create(&s));
    CHECK_EQ(choir_stream_query(s), CHOIR_OK);
    for (int i = 0; i < N; i++)
        x[i] = 1;
    for (int k = 0; k < STEPS; k++) {
        CHECK_OK(choir_all_reduce(c, x, x, k % 2 ? 1 : N, CHOIR_UINT32, CHOIR_SUM, s));
        want *= (uint32_t)size;
    }
    enum choir_status st = choir_stream_query(s);
    CHECK(st == CHOIR_OK || st == CHOIR_IN_PROGRESS);
    CHECK_OK(choir_stream_wait(s));
    CHECK_EQ(x[0], want);
    CHECK_OK(choir_stream_destroy(s));
    CHECK_OK(choir_comm_destroy(c));
    free(x);
}

/* More plans are queued than the cache keeps: each stays until its operation has run. */
static void plans_rank(int rank, int size, void *arg)
{
    (void)arg;
    enum { SHAPES = 400 };
    choir_comm *c = make(rank, size);
    choir_stream *s;
    uint32_t *x = malloc(SHAPES * SHAPES * sizeof(*x));
    CHECK_OK(choir_stream_create(&s));
    for (int i = 0; i < SHAPES * SHAPES; i++)
        x[i] = 1;
    for (int k = 0; k < SHAPES; k++)
        CHECK_OK(choir_all_reduce(c, x + k * SHAPES, x + k * SHAPES, (uint64_t)k + 1, CHOIR_UINT32,
                                  CHOIR_SUM, s));
    CHECK_OK(choir_stream_wait(s));
    for (int k = 0; k < SHAPES; k++)
        for (int i = 0; i < SHAPES; i++)
            CHECK_EQ(x[k * SHAPES + i], i <= k ? size : 1);
    CHECK_OK(choir_stream_destroy(s));
    CHECK_OK(choir_comm_destroy(c));
    free(x);
}

static void plans(void)
{
    everywhere(2, plans_rank);
}

static void chains(void)
{
    everywhere(3, chain_rank);
}

/* Two communicators and three streams; events order what streams do not. The caller computes meanwhile. */
static void events_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c[2] = {make(rank, size)};
    choir_stream *s[3];
    choir_event *e, *never;
    CHECK_OK(choir_comm_split(c[0], 0, -rank, NULL, &c[1]));
    CHECK_OK(choir_event_create(&e));
    CHECK_OK(choir_event_create(&never));
    CHECK_OK(choir_event_wait(never));
    CHECK_EQ(choir_event_query(never), CHOIR_OK);
    for (int i = 0; i < 3; i++)
        CHECK_OK(choir_stream_create(&s[i]));
    CHECK_OK(choir_stream_wait_event(s[2], never));
    uint64_t x[512], y[512], z[512], work = 0;
    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < 512; i++)
            x[i] = (uint64_t)(rank + i + round), y[i] = z[i] = 0;
        CHECK_OK(choir_all_reduce(c[round % 2], x, y, 512, CHOIR_UINT64, CHOIR_SUM, s[0]));
        CHECK_OK(choir_event_record(e, s[0]));
        CHECK_OK(choir_stream_wait_event(s[1], e));
        CHECK_OK(choir_all_reduce(c[1 - round % 2], y, z, 512, CHOIR_UINT64, CHOIR_MAX, s[1]));
        CHECK_OK(choir_broadcast(c[0], x, x, 512, CHOIR_UINT64, round % size, s[1]));
        CHECK_OK(choir_barrier(c[1], s[2]));
        for (int i = 0; i < 2000; i++)
            work = test_mix(work);
        CHECK_OK(choir_event_wait(e));
        for (int i = 0; i < 512; i++)
            CHECK_EQ(y[i], size * (i + round) + size * (size - 1) / 2);
        CHECK_OK(choir_stream_wait(s[1]));
        for (int i = 0; i < 512; i++) {
            CHECK_EQ(z[i], y[i]);
            CHECK_EQ(x[i], round % size + i + round);
        }
        CHECK_OK(choir_stream_wait(s[2]));
    }
    for (int i = 0; i < 3; i++)
        CHECK_OK(choir_stream_destroy(s[i]));
    CHECK_OK(choir_event_destroy(e));
    CHECK_OK(choir_event_destroy(never));
    CHECK_OK(choir_comm_destroy(c[0]));
    CHECK_OK(choir_comm_destroy(c[1]));
    CHECK_NE(work, 0);
}

static void events(void)
{
    everywhere(3, events_rank);
}

/* Drawn operations of all kinds, v-forms and groups too, on a stream. */
static void kinds_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size);
    choir_stream *s;
    CHECK_OK(choir_stream_create(&s));
    uint64_t draw = test_seed();
    for (int i = 0; i < 45; i++) {
        struct matrix_op op;
        matrix_draw(&op, (enum choir_kind)(i % CHOIR_KINDS), size, 65536, &draw);
        op.rank = rank;
        matrix_run(c, &op, i % 4 ? s : NULL);
    }
    CHECK_OK(choir_stream_destroy(s));
    CHECK_OK(choir_comm_destroy(c));
}

static void kinds(void)
{
    test_seed();
    everywhere(4, kinds_rank);
}

/* Lists of counts may be reused at once; communicators and streams go with work still queued. */
static void queued_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size);
    choir_stream *s;
    uint64_t counts[8];
    int32_t in[64], out[8 * 64], sum[20], one = 1;
    CHECK_OK(choir_stream_create(&s));
    for (int i = 0; i < 64; i++)
        in[i] = rank * 100 + i;
    for (int r = 0; r < size; r++)
        counts[r] = (uint64_t)r * 7 + 1;
    CHECK_OK(choir_all_gather_v(c, in, out, counts, NULL, CHOIR_INT32, s));
    memset(counts, 0xff, sizeof(counts));
    CHECK_OK(choir_group_start());
    for (int i = 0; i < 20; i++)
        CHECK_OK(choir_all_reduce(c, &one, &sum[i], 1, CHOIR_INT32, CHOIR_SUM, s));
    CHECK_OK(choir_group_end());
    CHECK_OK(choir_comm_destroy(c)); /* finalizes: what is queued ends first */
    CHECK_OK(choir_stream_destroy(s));
    for (int i = 0; i < 20; i++)
        CHECK_EQ(sum[i], size);
    int at = 0;
    for (int r = 0; r < size; r++)
        for (int i = 0; i < r * 7 + 1; i++)
            CHECK_EQ(out[at++], r * 100 + i);
}

static void queued(void)
{
    everywhere(4, queued_rank);
}

/* A wrong argument is refused by the call; what fails later is told by the wait, once. */
static void errors_rank(int rank, int size, void *arg)
{
    (void)arg;
    struct choir_config config = CHOIR_CONFIG_INIT;
    config.timeout_ns = 700000000;
    choir_comm *c;
    choir_stream *s;
    float x = 1, y = 0;
    CHECK_OK(choir_comm_create(&id, rank, size, &config, &c));
    CHECK_OK(choir_stream_create(&s));
    CHECK_EQ(choir_all_reduce(c, NULL, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, s), CHOIR_ERR_POINTER);
    CHECK_OK(choir_all_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, s));
    CHECK_OK(choir_stream_wait(s));
    CHECK_EQ((int)y, size);
    if (rank) {
        test_sleep_ms(1500);
    } else {
        CHECK_OK(choir_all_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, s));
        CHECK_OK(choir_barrier(c, s));
        CHECK_EQ(choir_stream_wait(s), CHOIR_ERR_TIMEOUT);
        struct choir_error e = {.bytes = sizeof(e)};
        CHECK_OK(choir_comm_last_error(NULL, &e));
        if (e.status != CHOIR_ERR_TIMEOUT || !strstr(e.text, "rank"))
            FAIL("the thread's record is %s \"%s\"", choir_status_name(e.status), e.text);
        CHECK_OK(choir_stream_wait(s));
        CHECK_EQ(choir_comm_status(c), CHOIR_ERR_TIMEOUT);
    }
    CHECK_OK(choir_comm_destroy(c));
    CHECK_OK(choir_stream_destroy(s));
}

static void errors(void)
{
    everywhere(2, errors_rank);
}

TEST_MAIN(TEST(plans), TEST(chains), TEST(events), TEST(kinds), TEST(queued), TEST(errors))
