/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of communicators through libnccl.so.2, on host memory: split, shrink, grow, revoke, abort of one in which another thread
 * waits, creation that does not block, and what is left after a peer died.
 */
#include "tests/lib/shim.h"
#include "choir.h"
#include "tests/lib/ranks.h"
#include <pthread.h>
#include <unistd.h>

static ncclUniqueId id, second;
static pthread_barrier_t meet;

static void threads(int size, void (*fn)(int rank, int size, void *arg))
{
    shim_load();
    NCCL_OK(shim.GetUniqueId(&id));
    pthread_barrier_init(&meet, NULL, (unsigned)size);
    test_threads(size, fn, NULL);
    pthread_barrier_destroy(&meet);
}

static ncclComm_t make(int rank, int size)
{
    ncclComm_t comm;
    NCCL_OK(shim.CommInitRank(&comm, size, id, rank));
    return comm;
}

static void sum_is(ncclComm_t comm, int value, int want)
{
    int sum = -1;
    NCCL_OK(shim.AllReduce(&value, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    CHECK_EQ(sum, want);
}

static void place_is(ncclComm_t comm, int rank, int size)
{
    int got;
    NCCL_OK(shim.CommUserRank(comm, &got));
    CHECK_EQ(got, rank);
    NCCL_OK(shim.CommCount(comm, &got));
    CHECK_EQ(got, size);
}

/* --- split ------------------------------------------------------------------------------------------------ */

static void split_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t all = make(rank, size), part = all;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.commName = "odd and even";
    int color = rank == size - 1 ? NCCL_SPLIT_NOCOLOR : rank % 2;
    NCCL_OK(shim.CommSplit(all, color, -rank, &part, &config));
    if (color == NCCL_SPLIT_NOCOLOR) {
        CHECK(part == NULL);
    } else {
        place_is(part, rank < 2 ? 1 : 0, 2); /* keys turn the order round */
        sum_is(part, 1 << rank, color ? 2 + 8 : 1 + 4);
        NCCL_OK(shim.CommDestroy(part));
    }
    /* Without blocking: parent and child are in progress until both are ready. */
    config.blocking = 0;
    ncclResult_t r = shim.CommSplit(all, 0, rank, &part, &config);
    CHECK(r == ncclInProgress || r == ncclSuccess);
    CHECK(part != NULL);
    NCCL_OK(shim_wait(all));
    NCCL_OK(shim_wait(part));
    place_is(part, rank, size);
    sum_is(part, 1, size);
    NCCL_FAILS(shim.CommSplit(all, -2, 0, &part, NULL), ncclInvalidArgument, "color");
    CHECK(part == NULL);
    sum_is(all, rank, size * (size - 1) / 2);
    NCCL_OK(shim.CommDestroy(all));
}

static void split(void)
{
    threads(5, split_rank);
}

static void split_in_one_thread(void)
{
    enum { N = 4 };
    ncclComm_t all[N], part[N], rest[N];
    int one[N], sum[N];
    shim_load();
    NCCL_OK(shim.CommInitAll(all, N, NULL));
    NCCL_OK(shim.GroupStart());
    for (int r = 0; r < N; r++)
        NCCL_OK(shim.CommSplit(all[r], r ? 7 : NCCL_SPLIT_NOCOLOR, r, &part[r], NULL));
    NCCL_OK(shim.GroupEnd());
    CHECK(part[0] == NULL);
    int out[] = {0, 2};
    NCCL_OK(shim.GroupStart());
    for (int r = 1; r < N; r += 2)
        NCCL_OK(shim.CommShrink(all[r], out, 2, &rest[r], NULL, NCCL_SHRINK_DEFAULT));
    NCCL_OK(shim.GroupEnd());
    NCCL_OK(shim.GroupStart());
    for (int r = 1; r < N; r++) {
        one[r] = 1 << r;
        NCCL_OK(shim.AllReduce(&one[r], &sum[r], 1, ncclInt32, ncclSum, part[r], NULL));
    }
    NCCL_OK(shim.GroupEnd());
    for (int r = 1; r < N; r++) {
        CHECK_EQ(sum[r], 2 + 4 + 8);
        place_is(part[r], r - 1, N - 1);
        NCCL_OK(shim.CommDestroy(part[r]));
    }
    place_is(rest[1], 0, 2);
    place_is(rest[3], 1, 2);
    NCCL_OK(shim.CommDestroy(rest[1]));
    NCCL_OK(shim.CommDestroy(rest[3]));
    for (int r = 0; r < N; r++)
        NCCL_OK(shim.CommDestroy(all[r]));
}

/* --- shrink, revoke, abort -------------------------------------------------------------------------------- */

struct waiter {
    ncclComm_t comm;
    pthread_t thread;
    ncclResult_t result;
};

/* Waits in a group for a rank that never comes. */
static void *wait_in_group(void *arg)
{
    struct waiter *w = arg;
    int x = 1, y;
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, w->comm, NULL));
    NCCL_OK(shim.AllGather(&x, &y, 0, ncclInt32, w->comm, NULL));
    w->result = shim.GroupEnd();
    return NULL;
}

static void start(struct waiter *w, ncclComm_t comm)
{
    *w = (struct waiter){.comm = comm};
    CHECK_EQ(pthread_create(&w->thread, NULL, wait_in_group, w), 0);
    test_sleep_ms(60);
}

static void shrink_rank(int rank, int size, void *arg)
{
    (void)arg;
    int out[] = {1};
    ncclComm_t all = make(rank, size), rest = NULL;
    struct waiter w;
    sum_is(all, 1, size);
    if (rank == 1) {
        NCCL_FAILS(shim.CommShrink(all, out, 1, &rest, NULL, 0), ncclInvalidArgument,
                   "calling rank");
        pthread_barrier_wait(&meet);
        NCCL_OK(shim.CommAbort(all));
        return;
    }
    NCCL_FAILS(shim.CommShrink(all, NULL, 1, &rest, NULL, 0), ncclInvalidArgument,
               "excludeRanksList");
    NCCL_FAILS(shim.CommShrink(all, out, 0, &rest, NULL, 0), ncclInvalidArgument,
               "excludeRanksCount");
    NCCL_FAILS(shim.CommShrink(all, out, 1, &rest, NULL, 4), ncclInvalidArgument, "shrinkFlags");
    NCCL_FAILS(shim.CommShrink(all, out, 1, NULL, NULL, 0), ncclInvalidArgument, "newcomm");
    NCCL_OK(shim.CommShrink(all, out, 1, &rest, NULL, NCCL_SHRINK_DEFAULT));
    place_is(rest, rank ? rank - 1 : 0, size - 1);
    sum_is(rest, rank, size * (size - 1) / 2 - 1);
    NCCL_OK(shim.CommDestroy(rest));
    /* While a thread of each waits for rank 1 in the parent. */
    start(&w, all);
    NCCL_OK(shim.CommShrink(all, out, 1, &rest, NULL, NCCL_SHRINK_ABORT));
    pthread_join(w.thread, NULL);
    CHECK(w.result != ncclSuccess);
    sum_is(rest, 1, size - 1);
    pthread_barrier_wait(&meet);
    NCCL_OK(shim.CommAbort(all));
    NCCL_OK(shim.CommDestroy(rest));
}

static void shrink(void)
{
    threads(4, shrink_rank);
}

static void revoke_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t all = make(rank, size), rest;
    ncclResult_t r;
    int x = 1, y, out[] = {size - 1};
    NCCL_FAILS(shim.CommRevoke(all, 1), ncclInvalidArgument, "revokeFlags");
    if (rank) {
        r = shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, all, NULL);
        CHECK_EQ(r, ncclRemoteError);
        NCCL_OK(shim.CommGetAsyncError(all, &r));
        CHECK_EQ(r, ncclRemoteError);
        CHECK(strstr(shim.GetLastError(all), "revoked"));
    } else {
        test_sleep_ms(60);
    }
    NCCL_OK(shim.CommRevoke(all, NCCL_REVOKE_DEFAULT));
    NCCL_OK(shim.CommGetAsyncError(all, &r));
    CHECK_EQ(r, ncclSuccess);
    NCCL_FAILS(shim.CommRevoke(all, 0), ncclInvalidArgument, "revoked");
    NCCL_FAILS(shim.CommFinalize(all), ncclInvalidArgument, "revoked");
    NCCL_FAILS(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, all, NULL), ncclInvalidUsage,
               "revoked");
    if (rank < size - 1) {
        NCCL_OK(shim.CommShrink(all, out, 1, &rest, NULL, NCCL_SHRINK_DEFAULT));
        sum_is(rest, 1, size - 1);
        NCCL_OK(shim.CommDestroy(rest));
    }
    NCCL_OK(shim.CommDestroy(all));
}

static void revoked(void)
{
    threads(3, revoke_rank);
}

static void abort_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t all = make(rank, size), other;
    struct waiter w;
    int x = 1, y;
    NCCL_OK(shim.CommSplit(all, 0, rank, &other, NULL));
    pthread_barrier_wait(&meet);
    if (!rank) {
        uint64_t began = test_now_ms();
        start(&w, all);
        NCCL_OK(shim.CommAbort(all));
        pthread_join(w.thread, NULL);
        CHECK(w.result != ncclSuccess);
        CHECK_LT(test_now_ms() - began, 20000);
        NCCL_FAILS(shim.CommAbort(all), ncclInvalidArgument, "destroyed");
        NCCL_FAILS(shim.CommDestroy(all), ncclInvalidArgument, "destroyed");
    }
    pthread_barrier_wait(&meet);
    if (rank) { /* heard of it */
        CHECK_EQ(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, all, NULL), ncclRemoteError);
        NCCL_OK(shim.GroupStart());
        NCCL_OK(shim.CommAbort(all));
        NCCL_OK(shim.GroupEnd());
    }
    sum_is(other, 1, size); /* not this one */
    /* A group that has calls of what is aborted meanwhile runs nothing. */
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, other, NULL));
    NCCL_OK(shim.CommAbort(other));
    NCCL_FAILS(shim.GroupEnd(), ncclInvalidArgument, "aborted");
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.GroupEnd());
}

static void abort_waiting(void)
{
    threads(3, abort_rank);
}

/* --- grow ------------------------------------------------------------------------------------------------- */

/* Two ranks become four; rank 1 makes the id, rank 0 is not given it. */
static void grow_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t old = NULL, grown;
    if (rank < 2) {
        old = make(rank, 2);
        NCCL_FAILS(shim.CommGrow(old, 2, NULL, -1, &grown, NULL), ncclInvalidArgument, "nRanks");
        NCCL_FAILS(shim.CommGrow(old, 4, NULL, rank, &grown, NULL), ncclInvalidArgument, "-1");
        if (rank == 1)
            NCCL_OK(shim.CommGetUniqueId(old, &second));
    } else {
        NCCL_FAILS(shim.CommGrow(NULL, size, NULL, rank, &grown, NULL), ncclInvalidArgument,
                   "uniqueId");
        NCCL_FAILS(shim.CommGrow(NULL, size, &id, size, &grown, NULL), ncclInvalidArgument, "rank");
    }
    pthread_barrier_wait(&meet);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclResult_t r =
        shim.CommGrow(old, size, rank == 0 ? NULL : &second, rank < 2 ? -1 : rank, &grown, &config);
    CHECK(r == ncclInProgress || r == ncclSuccess);
    NCCL_OK(shim_wait(grown));
    place_is(grown, rank, size);
    sum_is(grown, 1 << rank, (1 << size) - 1);
    NCCL_OK(shim.CommDestroy(grown));
    if (rank >= 2)
        return;
    NCCL_OK(shim_wait(old));
    sum_is(old, 1, 2);
    r = shim.CommGrow(old, size, NULL, -1, &grown, NULL); /* nobody has an id */
    CHECK_EQ(r, ncclInvalidArgument);
    CHECK(grown == NULL);
    NCCL_OK(shim.CommDestroy(old));
}

static void grow(void)
{
    threads(4, grow_rank);
}

static void grow_in_one_thread(void)
{
    enum { OLD = 2, N = 5 };
    ncclComm_t old[N] = {NULL}, grown[N];
    shim_load();
    NCCL_OK(shim.CommInitAll(old, OLD, NULL));
    NCCL_OK(shim.CommGetUniqueId(old[0], &second));
    NCCL_OK(shim.GroupStart());
    for (int r = 0; r < N; r++)
        NCCL_OK(
            shim.CommGrow(old[r], N, r < OLD ? NULL : &second, r < OLD ? -1 : r, &grown[r], NULL));
    NCCL_OK(shim.GroupEnd());
    for (int r = 0; r < N; r++) {
        place_is(grown[r], r, N);
        NCCL_OK(shim.CommAbort(grown[r]));
        NCCL_OK(shim.CommDestroy(old[r])); /* NULL for newcomers */
    }
}

/* --- without blocking --------------------------------------------------------------------------------------- */

static void nonblocking_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm;
    int got;
    config.blocking = 0;
    if (!rank) /* the others are late */
        test_sleep_ms(60);
    ncclResult_t r = shim.CommInitRankConfig(&comm, size, id, rank, &config);
    CHECK(r == ncclInProgress || r == ncclSuccess);
    if (rank) {
        NCCL_FAILS(shim.CommCount(comm, &got), ncclInvalidArgument, "ncclCommGetAsyncError");
        NCCL_FAILS(shim.AllReduce(&got, &got, 1, ncclInt32, ncclSum, comm, NULL),
                   ncclInvalidArgument, "ncclCommGetAsyncError");
    }
    NCCL_OK(shim_wait(comm));
    place_is(comm, rank, size);
    sum_is(comm, rank, size * (size - 1) / 2);
    NCCL_OK(shim.CommFinalize(comm));
    NCCL_FAILS(shim.CommFinalize(comm), ncclInvalidArgument, "finalized");
    NCCL_OK(shim_wait(comm));
    NCCL_OK(shim.CommDestroy(comm));
}

static void nonblocking(void)
{
    threads(3, nonblocking_rank);
}

static void nonblocking_in_one_thread(void)
{
    enum { N = 3 };
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER, plain = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm[N], never;
    shim_load();
    NCCL_OK(shim.GetUniqueId(&id));
    config.blocking = 0;
    NCCL_OK(shim.GroupStart());
    for (int r = 0; r < N; r++)
        NCCL_OK(shim.CommInitRankConfig(&comm[r], N, id, r, &config));
    ncclResult_t r = shim.GroupEnd();
    CHECK(r == ncclInProgress || r == ncclSuccess);
    for (int k = 0; k < N; k++)
        NCCL_OK(shim_wait(comm[k]));
    for (int k = 0; k < N; k++)
        NCCL_OK(shim.CommDestroy(comm[k]));
    /* A rank that never comes: nothing waits for it. */
    NCCL_OK(shim.GetUniqueId(&id));
    NCCL_IS(shim.CommInitRankConfig(&never, 2, id, 0, &config), ncclInProgress);
    NCCL_OK(shim.CommGetAsyncError(never, &r));
    CHECK_EQ(r, ncclInProgress);
    NCCL_OK(shim.CommAbort(never));
    NCCL_FAILS(shim.CommGetAsyncError(never, &r), ncclInvalidArgument, "destroyed");
    NCCL_OK(shim.GetUniqueId(&id));
    NCCL_IS(shim.CommInitRankConfig(&never, 2, id, 1, &config), ncclInProgress);
    NCCL_OK(shim.CommDestroy(never));
    /* Blocking ones and others do not share a group. */
    NCCL_OK(shim.GetUniqueId(&id));
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.CommInitRankConfig(&comm[0], 2, id, 0, &config));
    plain.blocking = 1;
    NCCL_FAILS(shim.CommInitRankConfig(&comm[1], 2, id, 1, &plain), ncclInvalidArgument,
               "one group");
    CHECK(comm[1] == NULL);
    NCCL_FAILS(shim.GroupEnd(), ncclInvalidArgument, NULL);
    NCCL_OK(shim.CommAbort(comm[0]));
}

static void scalable_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclUniqueId ids[2] = {id, second};
    ncclComm_t comm;
    NCCL_FAILS(shim.CommInitRankScalable(&comm, size, rank, 0, ids, NULL), ncclInvalidArgument,
               "nId");
    NCCL_FAILS(shim.CommInitRankScalable(&comm, size, rank, size + 1, ids, NULL),
               ncclInvalidArgument, "nId");
    NCCL_OK(shim.CommInitRankScalable(&comm, size, rank, 2, ids, NULL));
    sum_is(comm, 1, size);
    NCCL_OK(shim.CommDestroy(comm));
}

static void scalable(void)
{
    shim_load();
    NCCL_OK(shim.GetUniqueId(&second));
    threads(3, scalable_rank);
}

/* --- what goes wrong ---------------------------------------------------------------------------------------- */

static void mismatch_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t comm = make(rank, size);
    ncclResult_t r;
    int x = 1, y = 0;
    if (rank)
        r = shim.AllReduce(&x, &y, 1, ncclInt32, ncclMax, comm, NULL);
    else
        r = shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, comm, NULL);
    /* One may have had its part before; it hears of it. */
    for (int i = 0; r == ncclSuccess && i < 10000; i++, test_sleep_ms(1))
        NCCL_OK(shim.CommGetAsyncError(comm, &r));
    CHECK_EQ(r, ncclInvalidUsage);
    pthread_barrier_wait(&meet);
    NCCL_OK(shim.CommDestroy(comm));
}

static void mismatch(void)
{
    threads(2, mismatch_rank);
}

static void dead_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t comm = make(rank, size);
    ncclResult_t r;
    int x = 1, y = 0;
    sum_is(comm, 1, size);
    if (rank == 1)
        _exit(0);
    CHECK_EQ(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, comm, NULL), ncclRemoteError);
    NCCL_OK(shim.CommGetAsyncError(comm, &r));
    CHECK_EQ(r, ncclRemoteError);
    CHECK(strstr(shim.GetLastError(comm), "1"));
    int out[] = {1};
    ncclComm_t rest;
    NCCL_OK(shim.CommShrink(comm, out, 1, &rest, NULL, NCCL_SHRINK_ABORT));
    sum_is(rest, 1, size - 1);
    NCCL_OK(shim.CommAbort(comm));
    NCCL_OK(shim.CommDestroy(rest));
}

static void dead(void)
{
    struct choir_id of;
    shim_load();
    test_id(&of);
    memcpy(&id, &of, sizeof(id));
    test_processes(3, dead_rank, NULL);
}

/* Handles come and go; one that is gone is told from one that is there. */
static void many(void)
{
    enum { N = 40 };
    ncclComm_t comm[N];
    shim_load();
    for (int k = 0; k < N; k++)
        NCCL_OK(shim.CommInitAll(&comm[k], 1, NULL));
    for (int k = 0; k < N; k++)
        sum_is(comm[k], k, k);
    for (int k = 0; k < N; k += 2)
        NCCL_OK(shim.CommDestroy(comm[k]));
    for (int k = 0; k < N; k++) {
        int x = 1;
        if (k % 2)
            sum_is(comm[k], k, k);
        else
            NCCL_FAILS(shim.AllReduce(&x, &x, 1, ncclInt32, ncclSum, comm[k], NULL),
                       ncclInvalidArgument, "destroyed");
    }
    for (int k = 1; k < N; k += 2)
        NCCL_OK(shim.CommDestroy(comm[k]));
}

TEST_MAIN(TEST(dead), TEST(split), TEST(split_in_one_thread), TEST(shrink), TEST(revoked),
          TEST(abort_waiting), TEST(grow), TEST(grow_in_one_thread), TEST(nonblocking),
          TEST(nonblocking_in_one_thread), TEST(scalable), TEST(mismatch), TEST(many))
