/* SPDX-License-Identifier: Apache-2.0 */
/* The shm transport, with a mock host: what arrives, what is mapped and read, whose death is seen. */
#include "base/knob.h"
#include "tests/lib/mock_host.h"
#include "tests/lib/test.h"
#include "transports/shm/shm.h"
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern const struct choir_transport_ops choir_transport_shm;
static const struct choir_transport_ops *const ops = &choir_transport_shm;

static const uint32_t sizes[] = {0,     1,     7,     4095, 4096,    4097,    65535,
                                 65536, 65537, 99991, 0,    1000003, 8388608, 3};

/* Both ends send all sizes at once, before and after they are connected. */
static void frames_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    enum choir_status status;
    static struct mock_send sends[base_count(sizes) * 5];
    int before = test_open_files();
    mock_init(&m, ops, rank);
    mock_open(&m, board);
    mock_meet(board, NULL, size, 0);
    struct mock_peer *p = NULL;
    if (!rank)
        CHECK((p = mock_connect(&m, board, 1, &status)) != NULL);
    else
        MOCK_UNTIL(&m, m.peer_count == 1);
    p = m.peer[0];
    size_t n = 0;
    for (int round = 0; round < 5; round++)
        for (size_t i = 0; i < base_count(sizes); i++, n++) {
            status = mock_send(p, sizes[i], &sends[n]);
            CHECK_LE(0, status);
            if (sizes[i] <= 4096)
                CHECK_EQ(status, CHOIR_OK);
            if (round == 1)
                mock_progress(&m);
        }
    CHECK_OK(mock_wait_connected(p));
    CHECK(ops->caps(p->endpoint) & CHOIR_CAP_MAP);
    MOCK_UNTIL(&m, p->arrived == n);
    for (size_t i = 0; i < n; i++)
        MOCK_UNTIL(&m, mock_sent(&sends[i]));
    for (size_t i = 0; i < n; i++)
        CHECK(!sends[i].lent || sends[i].send.done == 1);
    mock_meet(board, &m, size, 1);
    mock_close(&m);
    CHECK_EQ(test_open_files(), before);
}

static void frames(void)
{
    struct mock_board *board = mock_board_new();
    test_processes(2, frames_rank, board);
    mock_board_free(board);
}

static enum choir_status map_wait(struct mock_peer *p, uint64_t key, uint64_t bytes, void **memory)
{
    enum choir_status status;
    MOCK_UNTIL(p->mock, (status = ops->map(p->endpoint, key, bytes, memory)) != CHOIR_IN_PROGRESS);
    return status;
}

#define BIG (5u << 20)

/* Each writes into the other's segment; keys that nobody gave are refused; counts of mappings. */
static void map_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    struct choir_shared mine = {0}, small[40] = {0};
    void *theirs, *again;
    uint64_t other;
    int before = test_open_files();
    mock_init(&m, ops, rank);
    struct mock_peer *p = mock_pair(&m, board, rank, rank == 0);
    CHECK_EQ(ops->alloc(m.t, 0, &mine), CHOIR_ERR_ARGUMENT);
    CHECK_NE(ops->alloc(m.t, UINT64_MAX, &mine), CHOIR_OK);
    CHECK_NE(ops->alloc(m.t, UINT64_MAX / 2, &mine), CHOIR_OK);
    CHECK_OK(ops->alloc(m.t, BIG + 1, &mine));
    CHECK_EQ(mine.bytes, BIG + 1);
    for (uint32_t i = 0; i < BIG + 1; i++)
        CHECK_EQ(((unsigned char *)mine.memory)[i], 0);
    mock_note(p, mine.key, 0, 0);
    MOCK_UNTIL(&m, p->notes == 1);
    other = p->note[0];
    CHECK_EQ(map_wait(p, other ^ 1, 1, &theirs), CHOIR_ERR_PROTOCOL);
    CHECK_EQ(map_wait(p, 0, 1, &theirs), CHOIR_ERR_PROTOCOL);
    CHECK_EQ(map_wait(p, mine.key, 1, &theirs), CHOIR_ERR_PROTOCOL);
    CHECK_EQ(map_wait(p, other, BIG * 2, &theirs), CHOIR_ERR_PROTOCOL);
    CHECK_OK(map_wait(p, other, BIG + 1, &theirs));
    CHECK_OK(ops->map(p->endpoint, other, 10, &again)); /* known: at once, the same */
    CHECK(again == theirs);
    memset(theirs, rank + 1, BIG + 1);
    mock_note(p, 0, 0, 0);
    MOCK_UNTIL(&m, p->notes == 2);
    for (uint32_t i = 0; i < BIG + 1; i++)
        CHECK_EQ(((unsigned char *)mine.memory)[i], 2 - rank);
    CHECK_OK(ops->unmap(p->endpoint, theirs, BIG + 1));
    CHECK_EQ(((unsigned char *)theirs)[0], rank + 1); /* still mapped once */
    CHECK_OK(ops->unmap(p->endpoint, theirs, BIG + 1));
    CHECK_EQ(ops->unmap(p->endpoint, theirs, BIG + 1), CHOIR_ERR_ARGUMENT);
    mock_meet(board, &m, size, 1);
    /* Many at once, more than may be asked for at a time. */
    for (size_t i = 0; i < base_count(small); i++) {
        CHECK_OK(ops->alloc(m.t, 100 + i, &small[i]));
        *(uint64_t *)small[i].memory = 1000 * (uint64_t)rank + i;
        board->word[rank * 64 + (int)i] = small[i].key;
    }
    mock_meet(board, &m, size, 5);
    for (size_t i = 0; i < base_count(small); i++)
        (void)ops->map(p->endpoint, board->word[(1 - rank) * 64 + (int)i], 100, &theirs);
    for (size_t i = 0; i < base_count(small); i++) {
        CHECK_OK(map_wait(p, board->word[(1 - rank) * 64 + (int)i], 100 + i, &theirs));
        CHECK_EQ(*(uint64_t *)theirs, 1000 * (uint64_t)(1 - rank) + i);
    }
    mock_meet(board, &m, size, 2);
    for (size_t i = 0; i < base_count(small); i++)
        CHECK_OK(ops->release(m.t, &small[i]));
    CHECK_OK(ops->release(m.t, &mine));
    CHECK_EQ(*(uint64_t *)theirs, 1000 * (uint64_t)(1 - rank) + 39); /* lives on while mapped */
    mock_meet(board, &m, size, 3);
    CHECK_EQ(map_wait(p, other, 1, &again), CHOIR_ERR_PROTOCOL); /* released by the peer */
    mock_meet(board, &m, size, 4);
    mock_close(&m); /* unmaps the last */
    CHECK_EQ(test_open_files(), before);
}

static void mapping(void)
{
    struct mock_board *board = mock_board_new();
    test_processes(2, map_rank, board);
    mock_board_free(board);
}

static void read_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    bool off = board->word[0] && rank;
    setenv("CHOIR_SINGLE_COPY", off ? "0" : "2", 1);
    knob_reload();
    mock_init(&m, ops, rank);
    struct mock_peer *p = mock_pair(&m, board, rank, rank == 0);
    size_t bytes = 3 * 4096 + 17;
    unsigned char *mine =
        mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *got = malloc(bytes);
    CHECK(mine != MAP_FAILED && got);
    for (size_t i = 0; i < 5 * 4096; i++)
        mine[i] = (unsigned char)(i * 7 + (unsigned)rank);
    munmap(mine + 4 * 4096, 4096); /* a hole behind */
    mock_note(p, (uint64_t)(uintptr_t)mine, 0, 0);
    MOCK_UNTIL(&m, p->notes == 1);
    uint64_t at = p->note[0];
    if (off) {
        CHECK(!(ops->caps(p->endpoint) & CHOIR_CAP_READ));
        CHECK_EQ(ops->read(p->endpoint, got, at, bytes), CHOIR_ERR_UNSUPPORTED);
    } else if (!(ops->caps(p->endpoint) & CHOIR_CAP_READ)) {
        test_skip_part("the kernel forbids process_vm_readv here");
    } else {
        CHECK(ops->caps(p->endpoint) & CHOIR_CAP_READ_FAST);
        CHECK_OK(ops->read(p->endpoint, got, at + 5, bytes));
        for (size_t i = 0; i < bytes; i++)
            CHECK_EQ(got[i], (unsigned char)((i + 5) * 7 + 1u - (unsigned)rank));
        CHECK_OK(ops->read(p->endpoint, got, at, 0));
        CHECK_EQ(ops->read(p->endpoint, got, at + 3 * 4096, 4096 + 17), CHOIR_ERR_SYSTEM);
        CHECK_EQ(ops->read(p->endpoint, got, 16, 8), CHOIR_ERR_SYSTEM);
        CHECK(strstr(base_error_thread()->text, "0x10") != NULL);
    }
    mock_meet(board, &m, size, 1);
    mock_close(&m);
    free(got);
}

static void reading(void)
{
    for (int off = 0; off < 2; off++) {
        struct mock_board *board = mock_board_new();
        board->word[0] = (uint64_t)off;
        test_processes(2, read_rank, board);
        mock_board_free(board);
    }
}

/* The peer is killed, or disconnects: told once, in time, by every call, and what was lent comes back. */
static void death_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    struct mock_send s, small;
    void *theirs, *other;
    mock_init(&m, ops, rank);
    bool dials = board->word[0] & 1, killed = board->word[0] & 2;
    struct mock_peer *p = mock_pair(&m, board, rank, (rank == 0) == dials);
    if (rank) {
        struct choir_shared seg = {0};
        CHECK_OK(ops->alloc(m.t, 4096, &seg));
        memcpy(seg.memory, "still here", 11);
        mock_note(p, seg.key, 0, 0);
        mock_meet(board, &m, size, 1);
        CHECK_OK(mock_send(p, 1000, &small)); /* still arrives */
        if (killed)
            mock_meet(board, NULL, size + 1, 2); /* never: waits to be killed */
        mock_close(&m);
        return;
    }
    MOCK_UNTIL(&m, p->notes == 1);
    CHECK_OK(map_wait(p, p->note[0], 4096, &theirs));
    mock_meet(board, &m, size, 1);
    MOCK_UNTIL(&m, p->arrived == 1);
    uint64_t start = base_now_ns();
    if (killed) {
        CHECK_EQ(mock_send(p, 8 << 20, &s), CHOIR_IN_PROGRESS); /* nobody reads it */
        kill((pid_t)board->rank[1].pid, SIGKILL);
    }
    MOCK_UNTIL(&m, p->failed_count);
    if (base_now_ns() - start > 1000000000)
        FAIL("seen only after %" PRIu64 " ms", (base_now_ns() - start) / 1000000);
    CHECK_EQ(p->failed, CHOIR_ERR_PEER_DEAD);
    CHECK(strstr(p->text, killed ? "ended" : "disconnected") != NULL);
    CHECK_EQ(ops->connected(p->endpoint), CHOIR_ERR_PEER_DEAD);
    CHECK_EQ(ops->caps(p->endpoint), 0);
    CHECK_EQ(mock_send(p, 8, &small), CHOIR_ERR_PEER_DEAD);
    CHECK_EQ(ops->map(p->endpoint, 99, 1, &other), CHOIR_ERR_PEER_DEAD);
    CHECK_EQ(ops->read(p->endpoint, &other, 16, 8), CHOIR_ERR_PEER_DEAD);
    CHECK_EQ(ops->wake(p->endpoint), CHOIR_OK);
    CHECK_STR(theirs, "still here");
    if (killed) {
        CHECK(mock_sent(&s));
        CHECK_EQ(s.send.done, CHOIR_ERR_PEER_DEAD);
    }
    for (int i = 0; i < 100; i++)
        mock_progress(&m);
    CHECK_EQ(p->failed_count, 1);
    CHECK_OK(ops->unmap(p->endpoint, theirs, 4096));
    mock_close(&m);
}

static void death(void)
{
    for (uint64_t mode = 0; mode < 4; mode++) {
        struct mock_board *board = mock_board_new();
        board->word[0] = mode;
        int st;
        pid_t pid[2];
        fflush(NULL);
        for (int r = 0; r < 2; r++)
            if (!(pid[r] = fork())) {
                death_rank(r, 2, board);
                _exit(0);
            }
        waitpid(pid[0], &st, 0);
        CHECK_EQ(st, 0);
        waitpid(pid[1], &st, 0);
        CHECK_EQ(mode & 2 ? WTERMSIG(st) : st, mode & 2 ? SIGKILL : 0);
        mock_board_free(board);
    }
}

/* What is sent right before disconnect arrives, even if it was never seen connected. */
static void linger_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    static struct mock_send s[3];
    enum choir_status status;
    mock_init(&m, ops, rank);
    mock_open(&m, board);
    mock_meet(board, NULL, size, 0);
    if (rank == 0) {
        struct mock_peer *p = mock_connect(&m, board, 1, &status);
        CHECK(p != NULL);
        CHECK_EQ(mock_send(p, 100, &s[0]), CHOIR_OK);
        CHECK_EQ(mock_send(p, 3 << 20, &s[1]), CHOIR_IN_PROGRESS);
        CHECK_EQ(mock_send(p, 50, &s[2]), CHOIR_OK);
        mock_drop(p);
        if (board->word[0])
            MOCK_UNTIL(&m, s[1].send.done);
        mock_close(&m); /* lingers by itself */
        CHECK(mock_sent(&s[1]));
        CHECK_EQ(s[1].send.done, 1);
    } else {
        MOCK_UNTIL(&m, m.arrived == 3);
        MOCK_UNTIL(&m, m.peer[0]->failed_count);
        CHECK(strstr(m.peer[0]->text, "disconnected") != NULL);
        mock_close(&m);
    }
}

/* The peer is stopped and reads nothing: close gives up after a second. */
static void linger_stuck_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    struct mock_send s;
    mock_init(&m, ops, rank);
    struct mock_peer *p = mock_pair(&m, board, rank, rank == 0);
    if (rank) {
        mock_meet(board, NULL, size, 1);
        mock_close(&m);
        return;
    }
    CHECK_EQ(mock_send(p, 8 << 20, &s), CHOIR_IN_PROGRESS);
    uint64_t start = base_now_ns();
    mock_close(&m);
    uint64_t took = base_now_ns() - start;
    CHECK(took > 900000000 && took < 2500000000u);
    CHECK(mock_sent(&s));
    CHECK_EQ(s.send.done, CHOIR_ERR_PEER_DEAD);
    mock_meet(board, NULL, size, 1);
}

static void linger(void)
{
    for (uint64_t i = 0; i < 3; i++) {
        struct mock_board *board = mock_board_new();
        board->word[0] = i;
        test_processes(2, i < 2 ? linger_rank : linger_stuck_rank, board);
        mock_board_free(board);
    }
}

static void wake_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    mock_init(&m, ops, rank);
    struct mock_peer *p = mock_pair(&m, board, rank, rank == 0);
    mock_meet(board, &m, size, 1);
    for (int round = 0; round < 40; round++) {
        if (rank == round % 2) {
            CHECK_OK(ops->wake(p->endpoint));
        } else {
            struct pollfd f[8];
            nfds_t n = 0;
            for (size_t i = 0; i < base_count(m.watch); i++)
                f[n++] = (struct pollfd){m.watch[i].fd, POLLIN, 0};
            CHECK_LT(0, poll(f, n, 5000));
            for (size_t i = 0; i < n; i++)
                if (f[i].revents)
                    m.watch[i].fn(m.watch[i].arg);
            CHECK_EQ(poll(f, n, 0), 0); /* drained */
        }
        mock_meet(board, NULL, size, 4 + round);
    }
    mock_meet(board, &m, size, 3);
    mock_close(&m);
}

static void wake(void)
{
    struct mock_board *board = mock_board_new();
    test_processes(2, wake_rank, board);
    mock_board_free(board);
}

/* --- threads ---------------------------------------------------------------------------------- */

#define SENDERS 3
#define EACH 400
struct threads {
    struct mock *m;
    struct mock_peer *p;
    _Atomic bool stop;
    _Atomic int senders;
};

/* Thread 0 and 1 both drive progress; the others send notes and map and unmap. */
static void thread_of_rank(int number, int size, void *arg)
{
    struct threads *t = arg;
    (void)size;
    if (number < 2) {
        while (!atomic_load(&t->stop))
            mock_progress(t->m);
        return;
    }
    static const char zero[70000];
    for (int i = 0; i < EACH; i++) {
        struct choir_frame f = {.bytes = i % 8 ? 0 : 70000, .kind = 1};
        struct choir_send s = {0};
        enum choir_status status = ops->send(t->p->endpoint, &f, zero, &s);
        CHECK_LE(0, status);
        while (status == CHOIR_IN_PROGRESS && !atomic_load(&s.done))
            sched_yield();
        void *memory;
        status = ops->map(t->p->endpoint, (uint64_t)i + 1, 1, &memory);
        while (status == CHOIR_IN_PROGRESS) {
            sched_yield();
            status = ops->map(t->p->endpoint, (uint64_t)i + 1, 1, &memory);
        }
        CHECK_EQ(status, CHOIR_ERR_PROTOCOL); /* no such key */
        if (i % 16 == 0) {
            struct choir_shared seg = {0};
            CHECK_OK(ops->alloc(t->m->t, 5000, &seg));
            CHECK_OK(ops->release(t->m->t, &seg));
            CHECK_OK(ops->wake(t->p->endpoint));
        }
    }
    if (atomic_fetch_add(&t->senders, 1) == SENDERS - 1) {
        while (t->p->notes < SENDERS * EACH)
            sched_yield();
        atomic_store(&t->stop, true);
    }
}

static void threads_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    mock_init(&m, ops, rank);
    struct threads t = {.m = &m, .p = mock_pair(&m, board, rank, rank == 0)};
    test_threads(2 + SENDERS, thread_of_rank, &t);
    mock_meet(board, &m, size, 1);
    mock_close(&m);
}

static void threads(void)
{
    struct mock_board *board = mock_board_new();
    test_processes(2, threads_rank, board);
    mock_board_free(board);
}

/* Out of descriptors: a clear error, no hang, and the connection goes on. */
static void no_descriptors_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    struct choir_shared seg = {0};
    void *theirs;
    mock_init(&m, ops, rank);
    struct mock_peer *p = mock_pair(&m, board, rank, rank == 0);
    CHECK_OK(ops->alloc(m.t, 100, &seg));
    mock_note(p, seg.key, 0, 0);
    MOCK_UNTIL(&m, p->notes == 1);
    if (rank == 0) {
        struct rlimit old, none;
        getrlimit(RLIMIT_NOFILE, &old);
        none = old;
        none.rlim_cur = 3;
        setrlimit(RLIMIT_NOFILE, &none);
        struct choir_shared more = {0};
        CHECK_EQ(ops->alloc(m.t, 100, &more), CHOIR_ERR_SYSTEM);
        CHECK_EQ(map_wait(p, p->note[0], 100, &theirs), CHOIR_ERR_SYSTEM);
        CHECK(strstr(base_error_thread()->text, "no descriptor left") != NULL);
        setrlimit(RLIMIT_NOFILE, &old);
    }
    mock_meet(board, &m, size, 2);
    CHECK_OK(map_wait(p, p->note[0], 100, &theirs));
    mock_meet(board, &m, size, 1);
    mock_close(&m);
}

static void no_descriptors(void)
{
    struct mock_board *board = mock_board_new();
    test_processes(2, no_descriptors_rank, board);
    mock_board_free(board);
}

TEST_MAIN(TEST(frames), TEST(mapping), TEST(reading), TEST(death), TEST(linger), TEST(wake),
          TEST(threads), TEST(no_descriptors))
