/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One-sided operations that go wrong: arguments, and ranks that die, leave, stop, abort or never raise a signal. Who waits is told
 * whom it waited for, in time; what comes for a window that is gone is written nowhere.
 */
#include "choir.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

static struct choir_id id;
static const char *const shm[] = {"CHOIR_LOG=error", NULL};
static const char *const frames[] = {"CHOIR_LOG=error", "CHOIR_SINGLE_COPY=0", NULL};
static const char *const tcp[] = {"CHOIR_LOG=error", "CHOIR_TRANSPORTS=self,tcp", NULL};
static const char *const *const envs[] = {shm, frames, tcp};
enum { ENVS = sizeof(envs) / sizeof(envs[0]), MIB = 1 << 20 };

static choir_comm *make(int rank, int size, uint64_t timeout_ms)
{
    struct choir_config config = CHOIR_CONFIG_INIT;
    choir_comm *c;
    config.timeout_ns = timeout_ms * 1000000;
    CHECK_OK(choir_comm_create(&id, rank, size, &config, &c));
    return c;
}

static enum choir_status wait_one(choir_comm *c, int peer, uint32_t signal, choir_stream *s)
{
    struct choir_signal_wait wait = {peer, signal, 1};
    return choir_wait_signal(c, &wait, 1, s);
}

static void told(choir_comm *c, enum choir_status got, enum choir_status want, int peer,
                 const char *word)
{
    struct choir_error e = {.bytes = sizeof(e)};
    CHECK_OK(choir_comm_last_error(c, &e));
    if (got != want || e.peer != peer || !strstr(e.text, word))
        FAIL("got %s, peer %d: %s; not %s, %d, \"%s\"", choir_status_name(got), e.peer, e.text,
             choir_status_name(want), peer, word);
}

/* --- arguments --------------------------------------------------------------------------------------------- */

static void refused(enum choir_status got, enum choir_status want, const char *word)
{
    struct choir_error e = {.bytes = sizeof(e)};
    CHECK_OK(choir_comm_last_error(NULL, &e));
    if (got != want || !strstr(e.text, word) || !e.remedy[0])
        FAIL("got %s: %s (%s); not %s, \"%s\"", choir_status_name(got), e.text, e.remedy,
             choir_status_name(want), word);
}

static void wrong(choir_comm *c, choir_window *w, choir_window *other, choir_stream *s)
{
    uint8_t x[128] = {0};
    struct choir_signal_wait bad_peer = {2, 0, 1}, bad_signal = {0, CHOIR_SIGNALS, 1};
    refused(choir_put(NULL, x, 8, 0, w, 0, s), CHOIR_ERR_POINTER, "comm");
    refused(choir_put(c, NULL, 8, 0, w, 0, s), CHOIR_ERR_POINTER, "send");
    refused(choir_put(c, x, 8, 0, NULL, 0, s), CHOIR_ERR_POINTER, "window is NULL");
    refused(choir_put(c, x, 8, 0, other, 0, s), CHOIR_ERR_POINTER, "window");
    refused(choir_put(c, x, 8, -1, w, 0, s), CHOIR_ERR_RANK, "peer -1");
    refused(choir_put(c, x, 8, 2, w, 0, s), CHOIR_ERR_RANK, "peer 2");
    refused(choir_put(c, x, 8, 0, w, 93, s), CHOIR_ERR_COUNT, "100 bytes of rank 0");
    refused(choir_put(c, x, 101, 0, w, 0, s), CHOIR_ERR_COUNT, "101 bytes");
    refused(choir_put(c, x, 8, 0, w, UINT64_MAX - 3, s), CHOIR_ERR_COUNT, "offset");
    refused(choir_put(c, x, UINT64_MAX, 0, w, 1, s), CHOIR_ERR_COUNT, "within");
    refused(choir_put(c, x, 1, 1, w, 0, s), CHOIR_ERR_COUNT, "rank 1"); /* its part is empty */
    refused(choir_put_signal(c, x, 1, 0, w, 0, CHOIR_SIGNALS, s), CHOIR_ERR_ARGUMENT, "signal 16");
    refused(choir_signal(c, 2, 0, s), CHOIR_ERR_RANK, "peer 2");
    refused(choir_signal(c, 0, 77, s), CHOIR_ERR_ARGUMENT, "signal 77");
    refused(choir_wait_signal(c, NULL, 1, s), CHOIR_ERR_POINTER, "waits");
    refused(choir_wait_signal(c, &bad_peer, 1, s), CHOIR_ERR_RANK, "peer 2");
    refused(choir_wait_signal(c, &bad_signal, 1, s), CHOIR_ERR_ARGUMENT, "signal 16");
}

static void arguments_rank(int rank, int size, void *arg)
{
    (void)arg;
    uint8_t part[100] = {0}, x = 7;
    choir_comm *c = make(rank, size, 20000), *d;
    choir_window *w, *other;
    choir_stream *s;
    CHECK_OK(choir_comm_split(c, 0, rank, NULL, &d));
    CHECK_OK(choir_window_create(c, rank ? NULL : part, rank ? 0 : sizeof(part), &w));
    CHECK_OK(choir_window_create(d, part, sizeof(part), &other));
    CHECK_OK(choir_stream_create(&s));
    wrong(c, w, other, NULL);
    wrong(c, w, other, s);
    CHECK_OK(choir_group_start());
    CHECK_EQ(choir_signal(c, 5, 0, NULL), CHOIR_ERR_RANK);
    CHECK_EQ(choir_signal(c, 0, 0, NULL), CHOIR_OK);
    CHECK_EQ(choir_group_end(), CHOIR_ERR_RANK);
    /* Nothing was broken, nothing raised; the last byte of a part is within. */
    CHECK_OK(choir_put(c, NULL, 0, 1, w, 0, NULL));
    CHECK_OK(choir_put_signal(c, &x, 1, 0, w, 99 - (uint64_t)rank, 0, NULL));
    struct choir_signal_wait both[] = {{0, 0, 1}, {1, 0, 1}};
    if (!rank) {
        CHECK_OK(choir_wait_signal(c, both, 2, NULL));
        CHECK(part[98] == 7 && part[99] == 7 && !part[97]);
    }
    CHECK_OK(choir_barrier(c, NULL));
    CHECK_OK(choir_window_destroy(NULL));
    CHECK_OK(choir_window_destroy(w));
    CHECK_OK(choir_window_destroy(other));
    CHECK_OK(choir_stream_destroy(s));
    CHECK_OK(choir_comm_finalize(c));
    refused(choir_signal(c, 0, 0, NULL), CHOIR_ERR_STATE, "finalized");
    CHECK_OK(choir_comm_destroy(d));
    CHECK_OK(choir_comm_destroy(c));
}

static void arguments(void)
{
    for (int e = 0; e < ENVS; e++) {
        test_id(&id);
        test_ranks(2, envs[e], arguments_rank, NULL);
    }
}

/* --- peers ----------------------------------------------------------------------------------------------------- */

/* What was raised before the death counts; what was not is told. On a stream too. */
static void survivor(bool on_stream)
{
    choir_comm *c = make(0, 2, 20000);
    choir_window *w;
    choir_stream *s = NULL;
    uint8_t part[64] = {0};
    if (on_stream)
        CHECK_OK(choir_stream_create(&s));
    CHECK_OK(choir_window_create(c, part, sizeof(part), &w));
    CHECK_OK(wait_one(c, 1, 4, NULL));
    CHECK_EQ(part[5], 55);
    enum choir_status st = wait_one(c, 1, 4, s);
    if (on_stream) {
        CHECK_OK(st);
        st = choir_stream_wait(s);
        CHECK_OK(choir_stream_destroy(s));
    }
    told(c, st, CHOIR_ERR_PEER_DEAD, 1, "rank 1");
    CHECK_EQ(choir_signal(c, 0, 0, NULL), CHOIR_ERR_PEER_DEAD);
    CHECK_OK(choir_window_destroy(w));
    CHECK_OK(choir_comm_destroy(c));
}

static void mortal(void)
{
    choir_comm *c = make(1, 2, 20000);
    choir_window *w;
    uint8_t x = 55;
    CHECK_OK(choir_window_create(c, NULL, 0, &w));
    CHECK_OK(choir_put_signal(c, &x, 1, 0, w, 5, 4, NULL));
    test_sleep_ms(100);
    kill(getpid(), SIGKILL);
}

static void deaths(void)
{
    for (int e = TEST_BY_EFFORT(1, 0, 0); e < 2 * ENVS; e += TEST_BY_EFFORT(2, 1, 1)) {
        test_id(&id);
        pid_t pid[2];
        for (int r = 0; r < 2; r++)
            if (!(pid[r] = test_fork(envs[e / 2]))) {
                r ? mortal() : survivor(e % 2);
                _exit(0);
            }
        CHECK_EQ(test_reap(pid[0], 10000), 0);
        CHECK_EQ(test_reap(pid[1], 10000), 128 + SIGKILL);
    }
}

static void left_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size, 20000);
    if (rank == 1)
        CHECK_OK(choir_signal(c, 0, 1, NULL));
    if (rank == 0) {
        CHECK_OK(wait_one(c, 1, 1, NULL)); /* raised before it left */
        told(c, wait_one(c, 1, 1, NULL), CHOIR_ERR_PEER_DEAD, 1, "wait_signal waits for rank 1");
    }
    CHECK_OK(choir_comm_destroy(c));
}

static void leaving(void)
{
    for (int e = 0; e < ENVS; e++) {
        test_id(&id);
        test_ranks(2, envs[e], left_rank, NULL);
    }
    CHECK_OK(choir_id_create(&id));
    test_threads(2, left_rank, NULL);
}

/* Rank 0 is told whom it waits for; it gave up, so the other is told too. */
static void late_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size, rank ? 20000 : 300);
    struct choir_signal_wait wait[] = {{2, 9, 1}, {1, 9, 2}};
    if (rank)
        CHECK_OK(choir_signal(c, 0, 9, NULL));
    enum choir_status st = rank ? wait_one(c, 0, 3, NULL) : choir_wait_signal(c, wait, 2, NULL);
    if (rank)
        told(c, st, CHOIR_ERR_TIMEOUT, 1, "wait_signal");
    else
        told(c, st, CHOIR_ERR_TIMEOUT, 1, "waited");
    CHECK_OK(choir_comm_destroy(c));
}

static void lateness(void)
{
    for (int e = 0; e < ENVS; e++) {
        test_id(&id);
        test_ranks(3, envs[e], late_rank, NULL);
    }
}

static void *break_it(void *arg)
{
    choir_comm *c = arg;
    test_sleep_ms(100);
    CHECK_OK(choir_comm_abort(c));
    return NULL;
}

static void aborted_rank(int rank, int size, void *arg)
{
    pthread_t thread;
    choir_comm *c = make(rank, size, 20000);
    choir_stream *s;
    CHECK_OK(choir_stream_create(&s));
    if (rank == 1 && !arg)
        CHECK_EQ(pthread_create(&thread, NULL, break_it, c), 0);
    if (rank == 1 && arg) {
        test_sleep_ms(100);
        CHECK_OK(choir_comm_revoke(c));
    }
    enum choir_status want = arg ? CHOIR_ERR_REVOKED : CHOIR_ERR_ABORTED, st;
    st = wait_one(c, (rank + 1) % size, 0, rank == 2 ? s : NULL);
    if (rank == 2) {
        CHECK(st == CHOIR_OK || st == want);
        st = st == CHOIR_OK ? choir_stream_wait(s) : st;
    }
    CHECK_EQ(st, want);
    if (rank == 1 && !arg)
        pthread_join(thread, NULL);
    CHECK_OK(choir_stream_destroy(s));
    CHECK_OK(choir_comm_destroy(c));
}

static void aborts(void)
{
    for (int revoke = 0; revoke < 2; revoke++) {
        for (int e = 0; e < ENVS; e++) {
            test_id(&id);
            test_ranks(3, envs[e], aborted_rank, revoke ? &id : NULL);
        }
        CHECK_OK(choir_id_create(&id));
        test_threads(3, aborted_rank, revoke ? &id : NULL);
    }
}

/* --- a target that stands still ---------------------------------------------------------------------------------- */

static _Atomic int *ready;

static void putter(bool signals)
{
    choir_comm *c = make(0, 2, 800);
    choir_window *w;
    uint8_t *from = calloc(1, 64 * (size_t)MIB);
    struct choir_memory m = {.bytes = sizeof(m)};
    CHECK_OK(choir_window_create(c, NULL, 0, &w));
    while (!*ready)
        test_sleep_ms(1);
    enum choir_status st = CHOIR_OK;
    if (!signals)
        st = choir_put(c, from, 64 * (size_t)MIB, 1, w, 0, NULL);
    for (int i = 0; signals && i < 1000000 && st == CHOIR_OK; i++)
        st = choir_put_signal(c, from, 40, 1, w, 0, 0, NULL);
    told(c, st, CHOIR_ERR_TIMEOUT, 1, signals ? "put_signal" : "put");
    free(from); /* no transport reads it any more */
    CHECK_OK(choir_comm_memory(c, &m));
    CHECK_LT(m.private_bytes, 4 * MIB);
    CHECK_OK(choir_window_destroy(w));
    CHECK_OK(choir_comm_destroy(c));
}

static void stopped_target(void)
{
    choir_comm *c = make(1, 2, 20000);
    choir_window *w;
    uint8_t *part = calloc(1, 64 * (size_t)MIB);
    CHECK_OK(choir_window_create(c, part, 64 * (size_t)MIB, &w));
    *ready = 2;
    kill(getpid(), SIGSTOP);
}

static void stopped(void)
{
    ready = test_shared(sizeof(*ready));
    for (int k = 0; k < TEST_BY_EFFORT(2, 2, 4); k++) { /* by both ways; both kinds of call */
        pid_t pid[2];
        *ready = 0;
        test_id(&id);
        for (int r = 0; r < 2; r++)
            if (!(pid[r] = test_fork(envs[1 + k % 2]))) {
                r ? stopped_target() : putter((k + k / 2) % 2);
                _exit(0);
            }
        CHECK_EQ(test_reap(pid[0], 15000), 0);
        kill(pid[1], SIGKILL);
        CHECK_EQ(test_reap(pid[1], 10000), 128 + SIGKILL);
    }
}

/* --- a window that is gone ----------------------------------------------------------------------------------------- */

/* Rank 1 destroys its window and frees the memory while messages come for it. */
static void gone_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size, 20000);
    choir_window *w;
    uint8_t *part = malloc(MIB);
    memset(part, rank, MIB);
    CHECK_OK(choir_window_create(c, part, MIB, &w));
    if (rank) {
        CHECK_OK(wait_one(c, 0, 0, NULL));
        CHECK_EQ(part[MIB - 1], 0);
        CHECK_OK(choir_window_destroy(w));
        memset(part, 0xaa, MIB);
        CHECK_OK(wait_one(c, 0, 1, NULL)); /* signals still come */
        for (int i = 0; i < MIB; i++)
            CHECK_EQ(part[i], 0xaa);
    } else {
        CHECK_OK(choir_put_signal(c, part, MIB, 1, w, 0, 0, NULL));
        test_sleep_ms(200);
        for (int k = 0; k < 8; k++)
            CHECK_OK(choir_put(c, part, MIB, 1, w, 0, NULL));
        CHECK_OK(choir_signal(c, 1, 1, NULL));
        CHECK_OK(choir_window_destroy(w));
    }
    CHECK_OK(choir_barrier(c, NULL));
    free(part);
    CHECK_OK(choir_comm_destroy(c));
}

static void gone(void)
{
    for (int e = 1; e < ENVS; e++) {
        test_id(&id);
        test_ranks(2, envs[e], gone_rank, NULL);
    }
}

TEST_MAIN(TEST(arguments), TEST(deaths), TEST(leaving), TEST(lateness), TEST(aborts), TEST(stopped),
          TEST(gone))
