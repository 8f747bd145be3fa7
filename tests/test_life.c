/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of communicators: one thread with many ranks, non-blocking creation, splits with no colour, shrink after a death,
 * grow, abort, revoke, destroy in any order, fork, memory and windows.
 */
#include "choir.h"
#include "tests/lib/test.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct choir_id id, id2;

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void sum_check(choir_comm *c, int want)
{
    int rank, one = 1, sum = 0;
    CHECK_OK(choir_comm_rank(c, &rank));
    CHECK_OK(choir_all_reduce(c, &one, &sum, 1, CHOIR_INT32, CHOIR_SUM, NULL));
    if (sum != want)
        FAIL("rank %d: %d ranks took part, not %d", rank, sum, want);
}

/* All ranks in one thread, everything in groups. */
static void one_thread(void)
{
    enum { N = 6 };
    choir_comm *c[N], *half[N];
    int in[N], out[N], from[N];
    CHECK_OK(choir_id_create(&id));
    CHECK_OK(choir_group_start());
    for (int r = 0; r < N; r++)
        CHECK_OK(choir_comm_create(&id, r, N, NULL, &c[r]));
    CHECK_OK(choir_group_end());
    CHECK_OK(choir_group_start());
    for (int r = 0; r < N; r++)
        CHECK_OK(choir_comm_split(c[r], r == 5 ? CHOIR_COLOR_NONE : r % 2, 0, NULL, &half[r]));
    CHECK_OK(choir_group_end());
    CHECK(half[5] == NULL);
    CHECK_OK(choir_group_start());
    for (int r = 0; r < N; r++) {
        in[r] = 1 << r, out[r] = from[r] = -1;
        CHECK_OK(choir_all_reduce(c[r], &in[r], &out[r], 1, CHOIR_INT32, CHOIR_SUM, NULL));
        CHECK_OK(choir_send(c[r], &in[r], 1, CHOIR_INT32, (r + 1) % N, NULL));
        CHECK_OK(choir_recv(c[r], &from[r], 1, CHOIR_INT32, (r + N - 1) % N, NULL));
    }
    CHECK_OK(choir_group_end());
    for (int r = 0; r < N; r++) {
        CHECK_EQ(out[r], (1 << N) - 1);
        CHECK_EQ(from[r], 1 << (r + N - 1) % N);
    }
    CHECK_OK(choir_group_start());
    for (int r = 0; r < 5; r++)
        CHECK_OK(choir_all_reduce(half[r], &in[r], &out[r], 1, CHOIR_INT32, CHOIR_SUM, NULL));
    CHECK_OK(choir_group_end());
    for (int r = 0; r < 5; r++)
        CHECK_EQ(out[r], r % 2 ? 2 + 8 : 1 + 4 + 16);
    for (int r = 0; r < N; r++) {
        CHECK_OK(choir_comm_destroy(c[r])); /* parents first */
        if (half[r])
            CHECK_OK(choir_comm_destroy(half[r]));
    }
}

static void nonblocking_rank(int rank, int size, void *arg)
{
    (void)arg;
    struct choir_config config = CHOIR_CONFIG_INIT;
    config.blocking = 0;
    choir_comm *c;
    enum choir_status st = choir_comm_create(&id, rank, size, &config, &c);
    CHECK(st == CHOIR_OK || st == CHOIR_IN_PROGRESS);
    for (int i = 0; (st = choir_comm_status(c)) == CHOIR_IN_PROGRESS; i++) {
        CHECK_LT(i, 10000);
        sleep_ms(1);
    }
    CHECK_EQ(st, CHOIR_OK);
    sum_check(c, size);
    CHECK_OK(choir_comm_destroy(c));
}

static void nonblocking(void)
{
    test_id(&id);
    test_processes(4, nonblocking_rank, NULL);
}

/* A rank dies in the middle; the others are told who, within seconds, and go on without it. */
static void death_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c, *less;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    sum_check(c, size);
    if (rank == 2) {
        sleep_ms(100); /* all have ended the first operation */
        raise(SIGKILL);
    }
    float x = 1, y;
    enum choir_status st = CHOIR_OK;
    for (int i = 0; st == CHOIR_OK && i < 1000000; i++)
        st = choir_all_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL);
    struct choir_error e = {.bytes = sizeof(e)};
    CHECK_OK(choir_comm_last_error(c, &e));
    if (st != CHOIR_ERR_PEER_DEAD || e.peer != 2)
        FAIL("rank %d: status %s, peer %d: %s", rank, choir_status_name(st), e.peer, e.text);
    CHECK_EQ(choir_comm_shrink(c, NULL, 0, NULL, &less), CHOIR_ERR_PEER_DEAD);
    CHECK_OK(choir_comm_last_error(NULL, &e));
    CHECK_EQ(e.peer, 2);
    int dead = 2;
    CHECK_OK(choir_comm_shrink(c, &dead, 1, NULL, &less));
    sum_check(less, size - 1);
    CHECK_OK(choir_comm_destroy(c));
    sum_check(less, size - 1);
    CHECK_OK(choir_comm_destroy(less));
}

static void death(void)
{
    enum { N = 5 };
    pid_t pid[N];
    test_id(&id);
    fflush(NULL);
    for (int r = 0; r < N; r++)
        if (!(pid[r] = fork())) {
            death_rank(r, N, NULL);
            _exit(0);
        }
    for (int r = 0; r < N; r++) {
        int st;
        CHECK_EQ(waitpid(pid[r], &st, 0), pid[r]);
        if (r == 2)
            CHECK(WIFSIGNALED(st));
        else
            CHECK_EQ(WIFEXITED(st) ? WEXITSTATUS(st) : -1, 0);
    }
}

static void grow_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = NULL, *more;
    int old = size - 1;
    if (rank < old) {
        CHECK_OK(choir_comm_create(&id, rank, old, NULL, &c));
        sum_check(c, old);
    }
    CHECK_OK(choir_comm_grow(c, &id2, rank, size, NULL, &more));
    sum_check(more, size);
    if (c)
        CHECK_OK(choir_comm_destroy(c));
    CHECK_OK(choir_comm_destroy(more));
}

static void grow(void)
{
    test_id(&id);
    test_id(&id2);
    test_processes(4, grow_rank, NULL);
}

/* With a rank of no colour; twice; without blocking. An aborted one makes none. */
static void split_revoked(choir_comm *c, int rank, int size)
{
    struct choir_config config = CHOIR_CONFIG_INIT;
    choir_comm *part = c;
    int place, last = rank == size - 1;
    CHECK_OK(choir_comm_split(c, last ? CHOIR_COLOR_NONE : 3, -rank, NULL, &part));
    if (last) {
        CHECK(part == NULL);
    } else {
        CHECK_OK(choir_comm_rank(part, &place));
        CHECK_EQ(place, size - 2 - rank);
        sum_check(part, size - 1);
        CHECK_OK(choir_comm_destroy(part));
    }
    config.blocking = 0;
    enum choir_status st = choir_comm_split(c, rank % 2, 0, &config, &part);
    for (int i = 0; st == CHOIR_IN_PROGRESS && i < 20000; i++, sleep_ms(1))
        st = choir_comm_status(part);
    CHECK_EQ(st, CHOIR_OK);
    sum_check(part, (size + 1 - rank % 2) / 2);
    CHECK_OK(choir_comm_destroy(part));
    CHECK_OK(choir_comm_split(c, rank, 0, NULL, &part));
    CHECK_OK(choir_comm_abort(part));
    choir_comm *none = c;
    CHECK_EQ(choir_comm_split(part, 0, 0, NULL, &none), CHOIR_ERR_ABORTED);
    CHECK_OK(choir_comm_destroy(part));
    CHECK_EQ(choir_comm_status(c), CHOIR_ERR_REVOKED);
}

/* One rank aborts while the others wait for it: all get out with an error that names it. */
static void abort_rank(int rank, int size, void *arg)
{
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    sum_check(c, size);
    bool revoke = arg != NULL;
    if (rank == 1) {
        sleep_ms(150);
        CHECK_OK(revoke ? choir_comm_revoke(c) : choir_comm_abort(c));
    } else {
        float x = 1, y;
        enum choir_status st = choir_all_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL);
        CHECK_EQ(st, revoke ? CHOIR_ERR_REVOKED : CHOIR_ERR_ABORTED);
        struct choir_error e = {.bytes = sizeof(e)};
        CHECK_OK(choir_comm_last_error(c, &e));
        CHECK_EQ(e.rank, 1);
    }
    if (revoke) {
        choir_comm *again;
        CHECK_OK(choir_comm_shrink(c, NULL, 0, NULL, &again));
        sum_check(again, size);
        CHECK_OK(choir_comm_destroy(again));
        split_revoked(c, rank, size);
    }
    sleep_ms(100); /* stay until all have heard: a death would be another verdict */
    CHECK_OK(choir_comm_destroy(c));
}

static void abort_and_revoke(void)
{
    for (int revoke = 0; revoke < 2; revoke++) {
        test_id(&id);
        test_processes(4, abort_rank, revoke ? &id : NULL);
        CHECK_OK(choir_id_create(&id));
        test_threads(4, abort_rank, revoke ? &id : NULL);
    }
}

/* Rank 1 never comes: who aborts does not wait for it, wherever the creation is. */
static void *abort_soon(void *c)
{
    sleep_ms(50);
    CHECK_OK(choir_comm_abort(c));
    return NULL;
}

static void abort_creation(void)
{
    struct choir_config config = CHOIR_CONFIG_INIT;
    struct choir_error e = {.bytes = sizeof(e)};
    choir_comm *c;
    pthread_t thread;
    config.blocking = 0;
    CHECK_OK(choir_id_create(&id));
    CHECK_EQ(choir_comm_create(&id, 0, 2, &config, &c), CHOIR_IN_PROGRESS);
    CHECK_OK(choir_comm_abort(c));
    for (int i = 0; choir_comm_status(c) == CHOIR_IN_PROGRESS && i < 20000; i++)
        sleep_ms(1);
    CHECK_EQ(choir_comm_status(c), CHOIR_ERR_ABORTED);
    CHECK_OK(choir_comm_last_error(c, &e));
    CHECK(strstr(e.text, "aborted"));
    CHECK_OK(choir_comm_destroy(c));
    /* In a group, the handle is there before its end. */
    CHECK_OK(choir_id_create(&id));
    CHECK_OK(choir_group_start());
    CHECK_OK(choir_comm_create(&id, 0, 2, NULL, &c));
    CHECK_EQ(pthread_create(&thread, NULL, abort_soon, c), 0);
    CHECK_EQ(choir_group_end(), CHOIR_ERR_ABORTED);
    pthread_join(thread, NULL);
    CHECK_OK(choir_comm_destroy(c));
}

static void fork_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    sum_check(c, size);
    pid_t child = fork();
    if (!child) {
        float x = 1, y;
        enum choir_status st = choir_all_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL);
        _exit(st == CHOIR_ERR_FORKED && choir_comm_destroy(c) == CHOIR_OK ? 0 : 1);
    }
    sum_check(c, size);
    int st;
    CHECK_EQ(waitpid(child, &st, 0), child);
    CHECK_EQ(WIFEXITED(st) ? WEXITSTATUS(st) : -1, 0);
    sum_check(c, size);
    CHECK_OK(choir_comm_destroy(c));
}

static void forks(void)
{
    test_id(&id);
    test_processes(3, fork_rank, NULL);
}

static void window_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c;
    choir_window *w;
    int *mine;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    enum choir_status st = choir_mem_alloc(4096, (void **)&mine);
    if (st != CHOIR_OK) {
        CHECK_EQ(st, CHOIR_ERR_NO_MEMORY);
        if (!rank)
            test_skip_part("no transport here maps memory");
        CHECK_OK(choir_comm_destroy(c));
        return;
    }
    mine[0] = 100 + rank;
    CHECK_OK(choir_window_create(c, mine, 4096, &w));
    CHECK_OK(choir_barrier(c, NULL));
    for (int r = 0; r < size; r++) {
        void *theirs;
        size_t bytes;
        CHECK_OK(choir_window_pointer(w, r, &theirs, &bytes));
        CHECK_EQ(bytes, 4096);
        CHECK_EQ(*(int *)theirs, 100 + r);
        ((int *)theirs)[1 + rank] = r * 10 + rank;
    }
    CHECK_OK(choir_barrier(c, NULL));
    for (int r = 0; r < size; r++)
        CHECK_EQ(mine[1 + r], rank * 10 + r);
    struct choir_memory m = {.bytes = sizeof(m)};
    CHECK_OK(choir_comm_memory(c, &m));
    CHECK_LT(0, m.peers);
    CHECK_OK(choir_window_destroy(w));
    CHECK_OK(choir_barrier(c, NULL));
    CHECK_OK(choir_mem_free(mine));
    CHECK_EQ(choir_mem_free(mine), CHOIR_ERR_POINTER);
    CHECK_OK(choir_comm_destroy(c));
}

static void windows(void)
{
    test_id(&id);
    test_processes(3, window_rank, NULL);
    CHECK_OK(choir_id_create(&id));
    test_threads(3, window_rank, NULL);
}

TEST_MAIN(TEST(one_thread), TEST(nonblocking), TEST(death), TEST(grow), TEST(abort_and_revoke),
          TEST(forks), TEST(windows), TEST(abort_creation))
