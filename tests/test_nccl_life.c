/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of communicators through libnccl.so.2, on host memory: revoke, abort of one in which another thread waits, creation that
 * does not block, and what is left after a peer died.
 */
#include "tests/lib/shim.h"
#include "tests/lib/ranks.h"
#include <unistd.h>

static ncclUniqueId second;

/* --- revoke, abort ----------------------------------------------------------------------------------------- */

static void split_revoked(ncclComm_t all, int rank, int size)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t part = all;
    ncclResult_t r;
    NCCL_OK(shim.CommSplit(all, rank ? 1 : NCCL_SPLIT_NOCOLOR, -rank, &part, NULL));
    if (rank) {
        shim_place_is(part, size - 1 - rank, size - 1);
        shim_sum_is(part, 1, size - 1);
        NCCL_OK(shim.CommDestroy(part));
    } else {
        CHECK(part == NULL);
    }
    config.blocking = 0;
    NCCL_IS(shim.CommSplit(all, 0, 0, &part, &config), ncclInProgress);
    NCCL_OK(shim_wait(all));
    NCCL_OK(shim_wait(part));
    shim_sum_is(part, 1, size);
    NCCL_OK(shim.CommDestroy(part));
    NCCL_OK(shim.CommGetAsyncError(all, &r));
    CHECK_EQ(r, ncclSuccess);
    NCCL_FAILS(shim.CommFinalize(all), ncclInvalidArgument, "revoked");
}

static void revoke_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t all = shim_make(rank, size), rest;
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
        shim_sum_is(rest, 1, size - 1);
        NCCL_OK(shim.CommDestroy(rest));
    }
    split_revoked(all, rank, size);
    NCCL_OK(shim.CommDestroy(all));
}

static void revoked(void)
{
    shim_threads(3, revoke_rank);
}

static void abort_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t all = shim_make(rank, size), other;
    struct shim_waiter w;
    int x = 1, y;
    NCCL_OK(shim.CommSplit(all, 0, rank, &other, NULL));
    shim_meet();
    if (!rank) {
        uint64_t began = test_now_ms();
        shim_waiter_start(&w, all);
        NCCL_OK(shim.CommAbort(all));
        CHECK(shim_waiter_end(&w) != ncclSuccess);
        CHECK_LT(test_now_ms() - began, 20000);
        NCCL_FAILS(shim.CommAbort(all), ncclInvalidArgument, "destroyed");
        NCCL_FAILS(shim.CommDestroy(all), ncclInvalidArgument, "destroyed");
    }
    shim_meet();
    if (rank) { /* heard of it */
        CHECK_EQ(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, all, NULL), ncclRemoteError);
        NCCL_OK(shim.GroupStart());
        NCCL_OK(shim.CommAbort(all));
        NCCL_OK(shim.GroupEnd());
    }
    shim_sum_is(other, 1, size); /* not this one */
    shim_meet();
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
    shim_threads(3, abort_rank);
}

/* --- without blocking --------------------------------------------------------------------------------------- */

static void nonblocking_rank(int rank, int size, void *arg)
{
    (void)arg;
    static _Alignas(NCCL_WIN_REQUIRED_ALIGNMENT) char part[4096];
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclWindow_t window;
    ncclComm_t comm;
    int got;
    config.blocking = 0;
    if (!rank) /* the others are late */
        test_sleep_ms(60);
    ncclResult_t r = shim.CommInitRankConfig(&comm, size, shim_id, rank, &config);
    CHECK(r == ncclInProgress || r == ncclSuccess);
    if (rank) {
        NCCL_FAILS(shim.CommCount(comm, &got), ncclInvalidArgument, "ncclCommGetAsyncError");
        NCCL_FAILS(shim.AllReduce(&got, &got, 1, ncclInt32, ncclSum, comm, NULL),
                   ncclInvalidArgument, "ncclCommGetAsyncError");
    }
    NCCL_OK(shim_wait(comm));
    shim_place_is(comm, rank, size);
    shim_sum_is(comm, rank, size * (size - 1) / 2);
    /* What made no communicator and failed is told of until the next such thing has gone well. */
    NCCL_IS(shim.CommSuspend(comm, NCCL_SUSPEND_MEM), ncclInProgress);
    CHECK_EQ(shim_wait(comm), ncclInvalidUsage);
    shim_sum_is(comm, 1, size);
    NCCL_OK(shim.CommGetAsyncError(comm, &r));
    CHECK_EQ(r, ncclInvalidUsage);
    NCCL_OK(shim.CommWindowRegister(comm, part, sizeof(part), &window, NCCL_WIN_DEFAULT));
    NCCL_OK(shim_wait(comm));
    NCCL_OK(shim.CommWindowDeregister(comm, window));
    NCCL_OK(shim.CommFinalize(comm));
    NCCL_FAILS(shim.CommFinalize(comm), ncclInvalidArgument, "finalized");
    NCCL_OK(shim_wait(comm));
    NCCL_OK(shim.CommDestroy(comm));
}

static void nonblocking(void)
{
    shim_threads(3, nonblocking_rank);
}

static void nonblocking_in_one_thread(void)
{
    enum { N = 3 };
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER, plain = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm[N], never;
    shim_load();
    NCCL_OK(shim.GetUniqueId(&shim_id));
    config.blocking = 0;
    NCCL_OK(shim.GroupStart());
    for (int r = 0; r < N; r++)
        NCCL_OK(shim.CommInitRankConfig(&comm[r], N, shim_id, r, &config));
    ncclResult_t r = shim.GroupEnd();
    CHECK(r == ncclInProgress || r == ncclSuccess);
    for (int k = 0; k < N; k++)
        NCCL_OK(shim_wait(comm[k]));
    for (int k = 0; k < N; k++)
        NCCL_OK(shim.CommDestroy(comm[k]));
    /* A rank that never comes: nothing waits for it. */
    NCCL_OK(shim.GetUniqueId(&shim_id));
    NCCL_IS(shim.CommInitRankConfig(&never, 2, shim_id, 0, &config), ncclInProgress);
    NCCL_OK(shim.CommGetAsyncError(never, &r));
    CHECK_EQ(r, ncclInProgress);
    NCCL_OK(shim.CommAbort(never));
    NCCL_FAILS(shim.CommGetAsyncError(never, &r), ncclInvalidArgument, "destroyed");
    NCCL_OK(shim.GetUniqueId(&shim_id));
    NCCL_IS(shim.CommInitRankConfig(&never, 2, shim_id, 1, &config), ncclInProgress);
    NCCL_OK(shim.CommDestroy(never));
    /* Blocking ones and others do not share a group. */
    NCCL_OK(shim.GetUniqueId(&shim_id));
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.CommInitRankConfig(&comm[0], 2, shim_id, 0, &config));
    plain.blocking = 1;
    NCCL_FAILS(shim.CommInitRankConfig(&comm[1], 2, shim_id, 1, &plain), ncclInvalidArgument,
               "one group");
    CHECK(comm[1] == NULL);
    NCCL_FAILS(shim.GroupEnd(), ncclInvalidArgument, NULL);
    NCCL_OK(shim.CommAbort(comm[0]));
}

static void scalable_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclUniqueId ids[2] = {shim_id, second};
    ncclComm_t comm;
    NCCL_FAILS(shim.CommInitRankScalable(&comm, size, rank, 0, ids, NULL), ncclInvalidArgument,
               "nId");
    NCCL_FAILS(shim.CommInitRankScalable(&comm, size, rank, size + 1, ids, NULL),
               ncclInvalidArgument, "nId");
    NCCL_OK(shim.CommInitRankScalable(&comm, size, rank, 2, ids, NULL));
    shim_sum_is(comm, 1, size);
    NCCL_OK(shim.CommDestroy(comm));
}

static void scalable(void)
{
    shim_load();
    NCCL_OK(shim.GetUniqueId(&second));
    shim_threads(3, scalable_rank);
}

/* --- what goes wrong ---------------------------------------------------------------------------------------- */

static void mismatch_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t comm = shim_make(rank, size);
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
    shim_meet();
    NCCL_OK(shim.CommRevoke(comm, NCCL_REVOKE_DEFAULT)); /* nobody has died: all go on */
    split_revoked(comm, rank, size);
    NCCL_OK(shim.CommDestroy(comm));
}

static void mismatch(void)
{
    shim_threads(2, mismatch_rank);
}

static void dead_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t comm = shim_make(rank, size);
    ncclResult_t r;
    int x = 1, y = 0;
    shim_sum_is(comm, 1, size);
    /* It dies when the others have their sums. */
    for (int peer = 0; rank == 1 && peer < size; peer++)
        if (peer != 1)
            NCCL_OK(shim.Recv(&x, 1, ncclInt32, peer, comm, NULL));
    if (rank == 1)
        _exit(0);
    (void)shim.Send(&x, 1, ncclInt32, 1, comm, NULL);
    CHECK_EQ(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, comm, NULL), ncclRemoteError);
    NCCL_OK(shim.CommGetAsyncError(comm, &r));
    CHECK_EQ(r, ncclRemoteError);
    CHECK(strstr(shim.GetLastError(comm), "1"));
    int out[] = {1};
    ncclComm_t rest, part;
    NCCL_OK(shim.CommShrink(comm, out, 1, &rest, NULL, NCCL_SHRINK_ABORT));
    shim_sum_is(rest, 1, size - 1);
    CHECK_EQ(shim.CommSplit(comm, 0, 0, &part, NULL), ncclRemoteError); /* that takes all ranks */
    CHECK(part == NULL);
    NCCL_OK(shim.CommAbort(comm));
    NCCL_OK(shim.CommDestroy(rest));
}

static void dead(void)
{
    shim_processes(3, dead_rank);
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
        shim_sum_is(comm[k], k, k);
    for (int k = 0; k < N; k += 2)
        NCCL_OK(shim.CommDestroy(comm[k]));
    for (int k = 0; k < N; k++) {
        int x = 1;
        if (k % 2)
            shim_sum_is(comm[k], k, k);
        else
            NCCL_FAILS(shim.AllReduce(&x, &x, 1, ncclInt32, ncclSum, comm[k], NULL),
                       ncclInvalidArgument, "destroyed");
    }
    for (int k = 1; k < N; k += 2)
        NCCL_OK(shim.CommDestroy(comm[k]));
}

TEST_MAIN(TEST(dead), TEST(revoked), TEST(abort_waiting), TEST(nonblocking),
          TEST(nonblocking_in_one_thread), TEST(scalable), TEST(mismatch), TEST(many))
