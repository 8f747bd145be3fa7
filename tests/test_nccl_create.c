/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How communicators come to be through libnccl.so.2, on host memory: from any number of ids made in as many processes, and aborted
 * from another thread while they are made, in a call that blocks, in a group, and of a parent.
 */
#include "tests/lib/shim.h"
#include "tests/lib/ranks.h"
#include <unistd.h>

/* --- several ids ------------------------------------------------------------------------------------------- */

/* Which ranks make an id, as NCCL's documentation has it: ids are spread evenly, the first ones get one rank more. */
static bool makes_id(int rank, int size, int ids)
{
    int more = size % ids, each = size / ids, many = more * (each + 1);
    return rank < many ? rank % (each + 1) == 0 : (rank - many) % each == 0;
}

static struct makers { /* of all processes */
    _Atomic int made, left;
    ncclUniqueId id[8];
} * makers;

/* Every number of ids, made in as many processes. */
static void makers_rank(int rank, int size, void *arg)
{
    (void)arg;
    for (int ids = 1; ids <= size; ids++) {
        struct makers *m = &makers[ids];
        ncclComm_t comm;
        int before = 0;
        for (int r = 0; r < rank; r++)
            before += makes_id(r, size, ids);
        if (makes_id(rank, size, ids)) {
            NCCL_OK(shim.GetUniqueId(&m->id[before]));
            m->made++;
        }
        for (int i = 0; m->made < ids && i < 20000; i++)
            test_sleep_ms(1);
        CHECK_EQ(m->made, ids);
        NCCL_OK(shim.CommInitRankScalable(&comm, size, rank, ids, m->id, NULL));
        shim_place_is(comm, rank, size);
        shim_sum_is(comm, 1, size);
        NCCL_OK(shim.CommDestroy(comm));
        m->left++;
        for (int i = 0; ids == size && m->left < size && i < 20000; i++)
            test_sleep_ms(1); /* ids end with their makers */
    }
}

static void many_makers(void)
{
    static const int sizes[] = {1, 2, 5, 7};
    makers = test_shared(8 * sizeof(*makers));
    for (int i = 0; i < TEST_BY_EFFORT(3, 4, 4); i++) {
        memset(makers, 0, 8 * sizeof(*makers));
        shim_processes(sizes[i], makers_rank);
    }
}

/* The maker of any other than the first may be gone. */
static void gone_rank(int rank, int size, void *arg)
{
    (void)arg;
    ncclUniqueId ids[] = {shim_id, makers->id[1]};
    ncclComm_t comm;
    NCCL_OK(shim.CommInitRankScalable(&comm, size, rank, 2, ids, NULL));
    shim_sum_is(comm, 1, size);
    NCCL_OK(shim.CommDestroy(comm));
}

static void gone_maker(void)
{
    makers = test_shared(sizeof(*makers));
    pid_t pid = test_fork(NULL);
    if (!pid) {
        shim_load();
        NCCL_OK(shim.GetUniqueId(&makers->id[1]));
        _exit(0);
    }
    CHECK_EQ(test_reap(pid, 20000), 0);
    shim_processes(3, gone_rank);
}

/* --- abort while it is made ------------------------------------------------------------------------------ */

/* A call that waits for a rank that never comes, in a thread of its own. */
struct maker {
    ncclResult_t (*call)(struct maker *m);
    ncclComm_t parent, made, other;
    pthread_t thread;
    ncclResult_t result;
};

static ncclResult_t make_rank(struct maker *m)
{
    return shim.CommInitRank(&m->made, 2, shim_id, 0);
}

static ncclResult_t make_group(struct maker *m)
{
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.CommInitRank(&m->made, 3, shim_id, 0));
    NCCL_OK(shim.CommInitRank(&m->other, 3, shim_id, 2));
    return shim.GroupEnd();
}

static ncclResult_t make_part(struct maker *m)
{
    return shim.CommSplit(m->parent, 0, 0, &m->made, NULL);
}

static ncclResult_t make_rest(struct maker *m)
{
    int out[] = {2};
    return shim.CommShrink(m->parent, out, 1, &m->made, NULL, NCCL_SHRINK_DEFAULT);
}

static void *make_in_thread(void *arg)
{
    struct maker *m = arg;
    m->result = m->call(m);
    return NULL;
}

/* Aborts what is being made, or what it is made of. */
static void stop_making(ncclResult_t (*call)(struct maker *m), ncclComm_t parent, bool child)
{
    struct maker m = {.call = call, .parent = parent};
    ncclComm_t made = NULL;
    ncclResult_t r;
    CHECK_EQ(pthread_create(&m.thread, NULL, make_in_thread, &m), 0);
    for (int i = 0; !made && i < 20000; i++, test_sleep_ms(1))
        made = __atomic_load_n(&m.made, __ATOMIC_ACQUIRE);
    CHECK(made != NULL);
    test_sleep_ms(30);
    NCCL_OK(shim.CommGetAsyncError(made, &r));
    CHECK_EQ(r, ncclInProgress);
    uint64_t began = test_now_ms();
    NCCL_OK(shim.CommAbort(child ? made : parent));
    pthread_join(m.thread, NULL);
    CHECK_EQ(m.result, ncclRemoteError);
    CHECK_LT(test_now_ms() - began, 20000); /* CHOIR_CREATE_TIMEOUT is 120 s */
    NCCL_FAILS(shim.CommAbort(made), ncclInvalidArgument, "destroyed");
    CHECK(m.other == NULL);
}

static void abort_making(void)
{
    ncclComm_t all[3];
    shim_load();
    NCCL_OK(shim.GetUniqueId(&shim_id));
    stop_making(make_rank, NULL, true);
    NCCL_OK(shim.GetUniqueId(&shim_id));
    stop_making(make_group, NULL, true);
    NCCL_OK(shim.CommInitAll(all, 3, NULL));
    stop_making(make_rest, all[0], true);
    stop_making(make_part, all[0], true);
    stop_making(make_rest, all[0], false);
    for (int r = 1; r < 3; r++)
        NCCL_OK(shim.CommAbort(all[r]));
    NCCL_OK(shim.CommInitAll(all, 3, NULL));
    stop_making(make_part, all[1], false);
    NCCL_OK(shim.CommAbort(all[0]));
    NCCL_OK(shim.CommDestroy(all[2]));
}

TEST_MAIN(TEST(many_makers), TEST(gone_maker), TEST(abort_making))
