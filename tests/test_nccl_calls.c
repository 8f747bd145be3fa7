/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libnccl.so.2 called as nccl-tests call NCCL, in their order, on host memory: all ranks in one thread (-g) and as processes; operations
 * made and destroyed inside a group (-o mulsum), groups in groups (-m), nothing to allocate or send at small sizes, and messages
 * "in place", whose results nobody looks at.
 */
#include "tests/lib/shim.h"

enum { MOST = 3, COUNT = 1024, BYTES = COUNT * (int)sizeof(float), PART = COUNT / 16 };

struct job {
    int size, first, own; /* ranks: all of them, and those of this thread */
    ncclComm_t comm[MOST];
    float *send[MOST], *recv[MOST];
    void *expected[MOST], *handle[MOST][2];
};

/* reg, as -R: 0 nothing is registered, 1 the buffers are, 2 they are windows. */
static void open_job(struct job *j, const ncclUniqueId *id, int reg)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.nvlinkCentricSched = 1;
    NCCL_OK(shim.GroupStart());
    for (int i = 0; i < j->own; i++)
        NCCL_OK(shim.CommInitRankConfig(&j->comm[i], j->size, *id, j->first + i, &config));
    NCCL_OK(shim.GroupEnd());
    NCCL_OK(shim.GroupStart());
    for (int i = 0; i < j->own; i++) {
        NCCL_OK(shim.MemAlloc((void **)&j->send[i], BYTES));
        NCCL_OK(shim.MemAlloc((void **)&j->recv[i], BYTES));
        NCCL_OK(shim.MemAlloc(&j->expected[i], 0)); /* an all-gather's of -e 8 */
        CHECK(!j->expected[i]);
        for (int k = 0; reg && k < 2; k++) {
            void *buffer = k ? j->recv[i] : j->send[i];
            if (reg == 1)
                NCCL_OK(shim.CommRegister(j->comm[i], buffer, BYTES, &j->handle[i][k]));
            else
                NCCL_OK(shim.CommWindowRegister(j->comm[i], buffer, BYTES,
                                                (ncclWindow_t *)&j->handle[i][k],
                                                NCCL_WIN_COLL_SYMMETRIC));
        }
    }
    NCCL_OK(shim.GroupEnd());
    for (int i = 0; i < j->own && reg; i++)
        CHECK(j->handle[i][0] && j->handle[i][1]);
}

/* One communicator after the other: none waits for those that follow. */
static void close_job(struct job *j, int reg)
{
    for (int i = 0; i < j->own; i++) {
        for (int k = 0; reg && k < 2; k++)
            if (reg == 1)
                NCCL_OK(shim.CommDeregister(j->comm[i], j->handle[i][k]));
            else
                NCCL_OK(shim.CommWindowDeregister(j->comm[i], (ncclWindow_t)j->handle[i][k]));
        NCCL_OK(shim.CommDestroy(j->comm[i]));
    }
    for (int i = 0; i < j->own; i++) {
        NCCL_OK(shim.MemFree(j->send[i]));
        NCCL_OK(shim.MemFree(j->recv[i]));
        NCCL_OK(shim.MemFree(j->expected[i]));
    }
}

static void fill(struct job *j)
{
    for (int i = 0; i < j->own; i++)
        for (int k = 0; k < COUNT; k++)
            j->send[i][k] = (float)(j->first + i + k % 5), j->recv[i][k] = -1;
}

/* Element k of rank i's result, where nccl-tests' arithmetic gives value + times * (k % 5). */
static void check(const struct job *j, int from, int count, float value, float times)
{
    for (int i = 0; i < j->own; i++)
        for (int k = 0; k < count; k++)
            if (j->recv[i][from + k] != value + times * (float)(k % 5))
                FAIL("rank %d, element %d is %g", j->first + i, from + k,
                     (double)j->recv[i][from + k]);
}

static void wait_for(const struct job *j)
{
    ncclResult_t r;
    for (int i = 0; i < j->own; i++) {
        NCCL_OK(shim.CommGetAsyncError(j->comm[i], &r));
        CHECK_EQ(r, ncclSuccess);
    }
}

/* One iteration: a group of all ranks of the thread, if they are several; `call` for each. */
static void iterate(struct job *j, int count, bool in_place,
                    void (*call)(struct job *j, int i, const void *send, int count))
{
    if (j->own > 1)
        NCCL_OK(shim.GroupStart());
    for (int i = 0; i < j->own; i++)
        call(j, i, in_place ? j->recv[i] : j->send[i], count);
    if (j->own > 1)
        NCCL_OK(shim.GroupEnd());
}

static void sum(struct job *j, int i, const void *send, int count)
{
    NCCL_OK(
        shim.AllReduce(send, j->recv[i], (size_t)count, ncclFloat32, ncclSum, j->comm[i], NULL));
}

/* The scalars differ by rank: 1, 2, 1. */
static void scaled_sum(struct job *j, int i, const void *send, int count)
{
    uint64_t room = 0;
    float scalar = (j->first + i) % 2 ? 2 : 1;
    ncclRedOp_t op;
    memcpy(&room, &scalar, sizeof(scalar));
    NCCL_OK(
        shim.RedOpCreatePreMulSum(&op, &room, ncclFloat32, ncclScalarHostImmediate, j->comm[i]));
    room = ~0ull;
    NCCL_OK(shim.AllReduce(send, j->recv[i], (size_t)count, ncclFloat32, op, j->comm[i], NULL));
    NCCL_OK(shim.RedOpDestroy(op, j->comm[i]));
}

static void ring(struct job *j, int i, const void *send, int count)
{
    int rank = j->first + i, next = (rank + 1) % j->size, last = (rank + j->size - 1) % j->size;
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.Send(send, (size_t)count, ncclFloat32, next, j->comm[i], NULL));
    NCCL_OK(shim.Recv(j->recv[i], (size_t)count, ncclFloat32, last, j->comm[i], NULL));
    NCCL_OK(shim.GroupEnd());
}

/* Rank a sends b + 1 times `count` elements to rank b, packed. */
static void uneven(struct job *j, int i, const void *send, int count)
{
    const float *s = send;
    float *r = j->recv[i];
    size_t mine = (size_t)count * (size_t)(j->first + i + 1);
    NCCL_OK(shim.GroupStart());
    for (int peer = 0; peer < j->size; peer++) {
        NCCL_OK(shim.Send(s, (size_t)(count * (peer + 1)), ncclFloat32, peer, j->comm[i], NULL));
        NCCL_OK(shim.Recv(r, mine, ncclFloat32, peer, j->comm[i], NULL));
        s += count * (peer + 1);
        r += mine;
    }
    NCCL_OK(shim.GroupEnd());
}

static void check_uneven(const struct job *j)
{
    for (int i = 0; i < j->own; i++) {
        int rank = j->first + i, mine = PART * (rank + 1), from = PART * rank * (rank + 1) / 2;
        for (int k = 0; k < mine * j->size; k++)
            CHECK_EQ((int)j->recv[i][k], k / mine + (from + k % mine) % 5);
    }
}

static void all_to_all(struct job *j, int i, const void *send, int count)
{
    NCCL_OK(shim.AlltoAll(send, j->recv[i], (size_t)count, ncclFloat32, j->comm[i], NULL));
}

static void all_gather(struct job *j, int i, const void *send, int count)
{
    NCCL_OK(shim.AllGather(send, j->recv[i], (size_t)count, ncclFloat32, j->comm[i], NULL));
}

/* -m: several iterations in a group around their own. */
static void aggregate(struct job *j, int times,
                      void (*call)(struct job *j, int i, const void *send, int count))
{
    NCCL_OK(shim.GroupStart());
    for (int k = 0; k < times; k++)
        iterate(j, COUNT, false, call);
    NCCL_OK(shim.GroupEnd());
    wait_for(j);
}

static void run(struct job *j, const ncclUniqueId *id, int reg)
{
    open_job(j, id, reg);
    fill(j);
    float ranks = (float)(j->size * (j->size - 1) / 2), weights = (float)(j->size + j->size / 2);
    iterate(j, COUNT, false, sum);
    check(j, 0, COUNT, ranks, (float)j->size);
    aggregate(j, 8, scaled_sum);
    check(j, 0, COUNT, ranks + (float)(j->size > 1 ? 1 : 0), weights);
    iterate(j, 0, false, all_gather);
    wait_for(j);
    aggregate(j, 8, ring);
    if (j->own == 1)
        check(j, 0, COUNT, (float)((j->first + j->size - 1) % j->size), 1);
    fill(j);
    iterate(j, PART, false, uneven);
    check_uneven(j);
    for (int in_place = 0; in_place < 2; in_place++) {
        fill(j);
        iterate(j, COUNT, in_place, ring);
        iterate(j, PART, in_place, all_to_all);
        wait_for(j);
    }
    close_job(j, reg);
}

static void in_one_thread(void)
{
    shim_load();
    for (int size = 1; size <= MOST; size++)
        for (int reg = 0; reg < 3; reg++) {
            struct job j = {.size = size, .own = size};
            ncclUniqueId id;
            NCCL_OK(shim.GetUniqueId(&id));
            run(&j, &id, reg);
        }
}

static void process_body(int rank, int size, void *arg)
{
    struct job j = {.size = size, .first = rank, .own = 1};
    (void)arg;
    run(&j, &shim_id, 2);
}

static void in_processes(void)
{
    shim_processes(MOST, process_body);
}

TEST_MAIN(TEST(in_processes), TEST(in_one_thread))
