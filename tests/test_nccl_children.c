/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators made of others through libnccl.so.2, on host memory: split, shrink (also while threads wait in the parent) and grow,
 * by ranks that are threads and by one thread for all ranks, with and without blocking.
 */
#include "tests/lib/shim.h"
#include <unistd.h>

static ncclUniqueId second;

/* --- split ------------------------------------------------------------------------------------------------ */

static void split_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t all = shim_make(rank, size), part = all;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.commName = "odd and even";
    int color = rank == size - 1 ? NCCL_SPLIT_NOCOLOR : rank % 2;
    NCCL_OK(shim.CommSplit(all, color, -rank, &part, &config));
    if (color == NCCL_SPLIT_NOCOLOR) {
        CHECK(part == NULL);
    } else {
        shim_place_is(part, rank < 2 ? 1 : 0, 2); /* keys turn the order round */
        shim_sum_is(part, 1 << rank, color ? 2 + 8 : 1 + 4);
        NCCL_OK(shim.CommDestroy(part));
    }
    /* Without blocking: parent and child are in progress until both are ready. */
    config.blocking = 0;
    ncclResult_t r = shim.CommSplit(all, 0, rank, &part, &config);
    CHECK(r == ncclInProgress || r == ncclSuccess);
    CHECK(part != NULL);
    NCCL_OK(shim_wait(all));
    NCCL_OK(shim_wait(part));
    shim_place_is(part, rank, size);
    shim_sum_is(part, 1, size);
    NCCL_FAILS(shim.CommSplit(all, -2, 0, &part, NULL), ncclInvalidArgument, "color");
    CHECK(part == NULL);
    shim_sum_is(all, rank, size * (size - 1) / 2);
    NCCL_OK(shim.CommDestroy(all));
}

static void split(void)
{
    shim_threads(5, split_rank);
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
        shim_place_is(part[r], r - 1, N - 1);
        NCCL_OK(shim.CommDestroy(part[r]));
    }
    shim_place_is(rest[1], 0, 2);
    shim_place_is(rest[3], 1, 2);
    NCCL_OK(shim.CommDestroy(rest[1]));
    NCCL_OK(shim.CommDestroy(rest[3]));
    for (int r = 0; r < N; r++)
        NCCL_OK(shim.CommDestroy(all[r]));
}

/* --- shrink -------------------------------------------------------------------------------------------- */

static void shrink_rank(int rank, int size, void *arg)
{
    (void)arg;
    int out[] = {1};
    ncclComm_t all = shim_make(rank, size), rest = NULL;
    struct shim_waiter w;
    shim_sum_is(all, 1, size);
    if (rank == 1) {
        NCCL_FAILS(shim.CommShrink(all, out, 1, &rest, NULL, 0), ncclInvalidArgument,
                   "calling rank");
        shim_meet();
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
    shim_place_is(rest, rank ? rank - 1 : 0, size - 1);
    shim_sum_is(rest, rank, size * (size - 1) / 2 - 1);
    NCCL_OK(shim.CommDestroy(rest));
    /* While a thread of each waits for rank 1 in the parent. */
    shim_waiter_start(&w, all);
    NCCL_OK(shim.CommShrink(all, out, 1, &rest, NULL, NCCL_SHRINK_ABORT));
    CHECK(shim_waiter_end(&w) != ncclSuccess);
    shim_sum_is(rest, 1, size - 1);
    shim_meet();
    NCCL_OK(shim.CommAbort(all));
    NCCL_OK(shim.CommDestroy(rest));
}

static void shrink(void)
{
    shim_threads(4, shrink_rank);
}

/* --- grow ------------------------------------------------------------------------------------------------- */

/* Two ranks become four; rank 1 makes the shim_id, rank 0 is not given it. */
static void grow_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclComm_t old = NULL, grown;
    if (rank < 2) {
        old = shim_make(rank, 2);
        NCCL_FAILS(shim.CommGrow(old, 2, NULL, -1, &grown, NULL), ncclInvalidArgument, "nRanks");
        NCCL_FAILS(shim.CommGrow(old, 4, NULL, rank, &grown, NULL), ncclInvalidArgument, "-1");
        if (rank == 1)
            NCCL_OK(shim.CommGetUniqueId(old, &second));
    } else {
        NCCL_FAILS(shim.CommGrow(NULL, size, NULL, rank, &grown, NULL), ncclInvalidArgument,
                   "uniqueId");
        NCCL_FAILS(shim.CommGrow(NULL, size, &shim_id, size, &grown, NULL), ncclInvalidArgument,
                   "rank");
    }
    shim_meet();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclResult_t r =
        shim.CommGrow(old, size, rank == 0 ? NULL : &second, rank < 2 ? -1 : rank, &grown, &config);
    CHECK(r == ncclInProgress || r == ncclSuccess);
    NCCL_OK(shim_wait(grown));
    shim_place_is(grown, rank, size);
    shim_sum_is(grown, 1 << rank, (1 << size) - 1);
    NCCL_OK(shim.CommDestroy(grown));
    if (rank >= 2)
        return;
    NCCL_OK(shim_wait(old));
    shim_sum_is(old, 1, 2);
    r = shim.CommGrow(old, size, NULL, -1, &grown, NULL); /* nobody has an shim_id */
    CHECK_EQ(r, ncclInvalidArgument);
    CHECK(grown == NULL);
    NCCL_OK(shim.CommDestroy(old));
}

static void grow(void)
{
    shim_threads(4, grow_rank);
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
        shim_place_is(grown[r], r, N);
        NCCL_OK(shim.CommAbort(grown[r]));
        NCCL_OK(shim.CommDestroy(old[r])); /* NULL for newcomers */
    }
}

TEST_MAIN(TEST(split), TEST(split_in_one_thread), TEST(shrink), TEST(grow),
          TEST(grow_in_one_thread))
