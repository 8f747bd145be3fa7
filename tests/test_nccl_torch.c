/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What PyTorch's ProcessGroupNCCL calls, in its order and from its threads, through libnccl.so.2 on host memory: communicators that
 * do not block, a watchdog that polls and at last aborts, an allocator that registers segments while others work, coalesced
 * collectives, uneven exchanges of messages, children made when they are first needed.
 */
#include "tests/lib/shim.h"
#include "tests/lib/ranks.h"
#include <dlfcn.h>
#include <sched.h>
#include <stdatomic.h>

enum { MOST = 4099, SEGMENTS = 3, SEGMENT = 1 << 16 };
struct group {
    int rank, size;
    ncclComm_t comm;
    char *segment[SEGMENTS];
    void *handle[SEGMENTS];
    ncclWindow_t window;
    int32_t *in, *out;
    pthread_t watchdog;
    atomic_bool stop;
    bool aborts;       /* the watchdog, when it sees an error or the time has come */
    atomic_bool stuck; /* its time has come */
    ncclResult_t seen;
};

/* Of a call on a communicator that does not block: it may be on its way. */
static void ok_or_wait(ncclResult_t r, ncclComm_t comm)
{
    if (r == ncclInProgress)
        r = shim_wait(comm);
    NCCL_OK(r);
}

static ncclConfig_t options(const char *name)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.splitShare = 1;
    config.commName = name;
    return config;
}

/* --- the watchdog ------------------------------------------------------------------------------------------- */

/* Everything registered goes first, windows by the same call; then the communicators of the process, in a group. */
static void abort_group(struct group *g)
{
    for (int i = 0; i < SEGMENTS; i++)
        NCCL_OK(shim.CommDeregister(g->comm, g->handle[i]));
    NCCL_OK(shim.CommDeregister(g->comm, g->window));
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.CommAbort(g->comm));
    NCCL_OK(shim.GroupEnd());
}

/* The allocator's hooks come from any thread. */
static void register_again(struct group *g)
{
    NCCL_OK(shim.CommDeregister(g->comm, g->handle[0]));
    NCCL_OK(shim.CommRegister(g->comm, g->segment[0], SEGMENT, &g->handle[0]));
}

static void *watch(void *arg)
{
    struct group *g = arg;
    for (int turn = 0; !atomic_load(&g->stop); turn++, sched_yield()) {
        NCCL_OK(shim.CommGetAsyncError(g->comm, &g->seen));
        CHECK(shim.GetLastError(NULL) && shim.GetLastError(g->comm));
        if (g->aborts && (g->seen != ncclSuccess || atomic_load(&g->stuck))) {
            abort_group(g);
            return NULL;
        }
        CHECK_EQ(g->seen, ncclSuccess);
        if (turn % 16 == 0)
            register_again(g);
    }
    return NULL;
}

/* --- life ---------------------------------------------------------------------------------------------------- */

static void begin(struct group *g, int rank, int size)
{
    ncclConfig_t config = options("0:default_pg");
    int version = 0;
    *g = (struct group){.rank = rank, .size = size};
    NCCL_OK(shim.GetVersion(&version));
    CHECK_LE(NCCL_VERSION(2, 27, 0), version);
    ncclResult_t r = shim.CommInitRankConfig(&g->comm, size, shim_id, rank, &config);
    ok_or_wait(r, g->comm);
    for (int i = 0; i < SEGMENTS; i++) {
        NCCL_OK(shim.MemAlloc((void **)&g->segment[i], SEGMENT));
        NCCL_OK(shim.CommRegister(g->comm, g->segment[i], SEGMENT, &g->handle[i]));
    }
    /* It takes nothing but ncclSuccess, and the place for the handle is on its stack. */
    NCCL_OK(shim.CommWindowRegister(g->comm, g->segment[1], SEGMENT, &g->window,
                                    NCCL_WIN_COLL_SYMMETRIC));
    CHECK(g->window != NULL);
    NCCL_OK(shim_wait(g->comm));
    g->in = (int32_t *)(void *)g->segment[1];
    g->out = calloc((size_t)size * MOST, sizeof(*g->out));
    CHECK(g->out != NULL);
}

static void start_watchdog(struct group *g)
{
    CHECK_EQ(pthread_create(&g->watchdog, NULL, watch, g), 0);
}

static void stop_watchdog(struct group *g)
{
    atomic_store(&g->stop, true);
    pthread_join(g->watchdog, NULL);
}

static void free_memory(struct group *g)
{
    for (int i = 0; i < SEGMENTS; i++)
        NCCL_OK(shim.MemFree(g->segment[i]));
    free(g->out);
}

static void finish(ncclComm_t comm)
{
    ok_or_wait(shim.CommFinalize(comm), comm);
    NCCL_OK(shim_wait(comm));
    NCCL_OK(shim.CommDestroy(comm));
}

/* --- collectives, each in a group, as all of its are --------------------------------------------------------- */

static void fill(struct group *g, int count)
{
    for (int i = 0; i < count; i++)
        g->in[i] = g->rank * 10007 + i;
}

static void start(void)
{
    NCCL_OK(shim.GroupStart());
}

static void end(ncclComm_t comm)
{
    ok_or_wait(shim.GroupEnd(), comm);
}

static void reductions(struct group *g, ncclComm_t comm, int rank, int size)
{
    uint8_t flag = rank == size - 1, any = 7;
    float mean = (float)rank, scale = 0.5f, part = 0;
    int one = 1, sum = 0;
    ncclRedOp_t op;
    start(); /* a sum of bools is a maximum of bytes */
    NCCL_OK(shim.AllReduce(&flag, &any, 1, ncclUint8, ncclMax, comm, NULL));
    end(comm);
    CHECK_EQ(any, 1);
    start();
    NCCL_OK(shim.AllReduce(&mean, &mean, 1, ncclFloat32, ncclAvg, comm, NULL));
    end(comm);
    CHECK(mean == (float)(size - 1) / 2);
    start(); /* the operation and its scalar are gone before the end */
    NCCL_OK(shim.RedOpCreatePreMulSum(&op, &scale, ncclFloat32, ncclScalarHostImmediate, comm));
    NCCL_OK(shim.AllReduce(&mean, &part, 1, ncclFloat32, op, comm, NULL));
    NCCL_OK(shim.RedOpDestroy(op, comm));
    scale = 100;
    end(comm);
    CHECK(part == mean * 0.5f * (float)size);
    start(); /* a barrier */
    NCCL_OK(shim.AllReduce(&one, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    end(comm);
    CHECK_EQ(sum, size);
    (void)g;
}

/* Many gatherings of other sizes in one group; then uneven ones, as broadcasts and as reductions. */
static void coalesced(struct group *g)
{
    static const int length[] = {0, 1, 17, 256, 1021, 3};
    int at = 0, from = 0;
    fill(g, MOST);
    start();
    for (size_t k = 0; k < sizeof(length) / sizeof(length[0]); k++) {
        NCCL_OK(
            shim.AllGather(g->in + from, g->out + at, (size_t)length[k], ncclInt32, g->comm, NULL));
        from += length[k], at += length[k] * g->size;
    }
    end(g->comm);
    at = from = 0;
    for (size_t k = 0; k < sizeof(length) / sizeof(length[0]); from += length[k++])
        for (int r = 0; r < g->size; r++)
            for (int i = 0; i < length[k]; i++)
                CHECK_EQ(g->out[at++], r * 10007 + from + i);
    start();
    for (int r = 0, place = 0; r < g->size; place += r * 5, r++)
        NCCL_OK(shim.Broadcast(g->in, g->out + place, (size_t)r * 5, ncclInt32, r, g->comm, NULL));
    end(g->comm);
    at = 0;
    for (int r = 0; r < g->size; r++)
        for (int i = 0; i < r * 5; i++)
            CHECK_EQ(g->out[at++], r * 10007 + i);
    start();
    for (int r = 0, place = 0; r < g->size; place += r * 3, r++)
        NCCL_OK(shim.Reduce(g->in + place, g->out, (size_t)r * 3, ncclInt32, ncclMin, r, g->comm,
                            NULL));
    end(g->comm);
    for (int i = 0; i < g->rank * 3; i++) /* rank 0 has the least */
        CHECK_EQ(g->out[i], g->rank * (g->rank - 1) / 2 * 3 + i);
}

static int sends(int from, int to)
{
    return from == to ? 40 : (from + 2 * to) % 3 * 11; /* some are 0 */
}

/* An uneven exchange, this rank's own part too; empty messages are left out, or called all the same. */
static void all_to_all(struct group *g, bool empty)
{
    int place = 0, at = 0;
    fill(g, MOST);
    memset(g->out, 0xff, (size_t)g->size * MOST * 4);
    start();
    for (int p = 0; p < g->size; p++) {
        int out = sends(g->rank, p), in = sends(p, g->rank);
        if (out || empty)
            NCCL_OK(shim.Send(g->in + p * 50, (size_t)out, ncclInt32, p, g->comm, NULL));
        if (in || empty)
            NCCL_OK(shim.Recv(g->out + place, (size_t)in, ncclInt32, p, g->comm, NULL));
        place += in;
    }
    end(g->comm);
    for (int p = 0; p < g->size; p++)
        for (int i = 0; i < sends(p, g->rank); i++)
            CHECK_EQ(g->out[at++], p * 10007 + g->rank * 50 + i);
    CHECK_EQ(g->out[at], -1);
}

/* A gather to the last rank is messages; so is batch_isend_irecv. 8-bit floats move as they are. */
static void messages(struct group *g)
{
    int root = g->size - 1, next = (g->rank + 1) % g->size, last = (g->rank + root) % g->size;
    fill(g, MOST);
    start();
    for (int p = 0; g->rank == root && p < root; p++)
        NCCL_OK(shim.Recv(g->out + p * 7, 7, ncclInt32, p, g->comm, NULL));
    if (g->rank != root)
        NCCL_OK(shim.Send(g->in, 7, ncclInt32, root, g->comm, NULL));
    end(g->comm);
    for (int k = 0; g->rank == root && k < root * 7; k++)
        CHECK_EQ(g->out[k], k / 7 * 10007 + k % 7);
    start();
    NCCL_OK(shim.Send(g->in, MOST * 4, ncclFloat8e4m3, next, g->comm, NULL));
    NCCL_OK(shim.Recv(g->out, MOST * 4, ncclFloat8e4m3, last, g->comm, NULL));
    end(g->comm);
    for (int i = 0; i < MOST; i++)
        CHECK_EQ(g->out[i], last * 10007 + i);
    start(); /* a step with nothing in it */
    end(g->comm);
}

/* --- children ------------------------------------------------------------------------------------------------ */

/* Made when they are first used; ranks that are in none say so, since all ranks of the parent take part. */
static void children(struct group *g, int turn)
{
    ncclConfig_t config = options("1:mesh_tp");
    ncclComm_t child = NULL;
    bool in = g->size == 2 || (g->rank + turn) % g->size;
    int key = g->rank, members = g->size == 2 ? 2 : g->size - 1, place;
    ok_or_wait(
        shim.CommSplit(g->comm, in ? 123 : NCCL_SPLIT_NOCOLOR, in ? key : 0, &child, &config),
        g->comm);
    NCCL_OK(shim_wait(g->comm));
    CHECK_EQ(child != NULL, in);
    if (!in)
        return;
    NCCL_OK(shim_wait(child));
    NCCL_OK(shim.CommUserRank(child, &place));
    for (int k = 0; k < 20; k++)
        reductions(g, child, place, members);
    finish(child);
}

static void job(int rank, int size, void *arg)
{
    struct group g;
    (void)arg;
    begin(&g, rank, size);
    start_watchdog(&g);
    for (int round = 0; round < TEST_BY_EFFORT(2, 10, 50); round++) {
        reductions(&g, g.comm, rank, size);
        coalesced(&g);
        all_to_all(&g, round % 2);
        messages(&g);
    }
    stop_watchdog(&g); /* PyTorch's watchdog asks under a lock that a split holds */
    for (int turn = 0; turn < 3; turn++)
        children(&g, turn);
    NCCL_OK(shim.CommWindowDeregister(g.comm, g.window));
    for (int i = 0; i < SEGMENTS; i++)
        NCCL_OK(shim.CommDeregister(g.comm, g.handle[i]));
    finish(g.comm);
    free_memory(&g);
}

static void jobs(void)
{
    CHECK(dlsym(shim_load(), "ncclCommDump") == NULL); /* it is asked for, and not of NVIDIA's */
    for (int size = 2; size <= 3; size++)
        shim_threads(size, job);
}

static void processes(void)
{
    shim_processes(3, job);
}

/* --- when it goes wrong -------------------------------------------------------------------------------------- */

/* Rank 0 waits for the others, which do not come. Its watchdog aborts it under the waiting thread's feet; theirs hear of it. */
static void stuck_job(int rank, int size, void *arg)
{
    struct group g;
    (void)arg;
    begin(&g, rank, size);
    reductions(&g, g.comm, rank, size);
    shim_meet();
    g.aborts = true;
    start_watchdog(&g);
    if (!rank) {
        start();
        NCCL_OK(shim.AllReduce(g.in, g.out, 100, ncclInt32, ncclSum, g.comm, NULL));
        atomic_store(&g.stuck, true);
        ncclResult_t r = shim.GroupEnd();
        CHECK(r != ncclSuccess && r != ncclInProgress);
    }
    pthread_join(g.watchdog, NULL);
    if (rank)
        CHECK_EQ(g.seen, ncclRemoteError);
    NCCL_FAILS(shim.CommGetAsyncError(g.comm, &g.seen), ncclInvalidArgument, "aborted");
    free_memory(&g);
}

static void stuck(void)
{
    shim_threads(2, stuck_job);
    shim_threads(3, stuck_job);
}

/* The last rank is left out while the first waits for it. The child is ready once the parent is, which has no error then. */
static void shrink_job(int rank, int size, void *arg)
{
    struct group g;
    struct shim_waiter w;
    ncclConfig_t config = options("shrunk");
    ncclComm_t rest;
    int out[] = {size - 1};
    (void)arg;
    begin(&g, rank, size);
    shim_meet();
    if (rank < size - 1) {
        shim_waiter_start(&w, g.comm);
        ncclResult_t r = shim.CommShrink(g.comm, out, 1, &rest, &config, NCCL_SHRINK_ABORT);
        CHECK(r == ncclInProgress || r == ncclSuccess);
        NCCL_OK(shim_wait(g.comm));
        shim_place_is(rest, rank, size - 1);
        CHECK(shim_waiter_end(&w) != ncclSuccess);
        reductions(&g, rest, rank, size - 1);
        finish(rest);
    }
    shim_meet();
    if (rank < size - 1)
        finish(g.comm);
    else
        NCCL_OK(shim.CommAbort(g.comm));
    free_memory(&g);
}

static void shrink(void)
{
    shim_threads(2, shrink_job);
    shim_threads(3, shrink_job);
}

TEST_MAIN(TEST(processes), TEST(jobs), TEST(stuck), TEST(shrink))
