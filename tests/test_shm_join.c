/* SPDX-License-Identifier: Apache-2.0 */
/* How processes join over shm: all at once, with and without secrets, as another user, forked, refused. */
#include "base/knob.h"
#include "tests/lib/mock_host.h"
#include "tests/lib/test.h"
#include "transports/shm/shm.h"
#include <errno.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

extern const struct choir_transport_ops choir_transport_shm;
static const struct choir_transport_ops *const ops = &choir_transport_shm;

/* All connect to all at the same time: each pair has one endpoint, in which both sides' frames come in order. */
static void crossing_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    enum choir_status status;
    struct mock_send s;
    int before = test_open_files();
    mock_init(&m, ops, rank);
    mock_open(&m, board);
    mock_meet(board, NULL, size, 0);
    struct mock_peer *to[MOCK_RANKS] = {NULL};
    for (int i = 1; i < size; i++)
        CHECK((to[i] = mock_connect(&m, board, (rank + i) % size, &status)) != NULL);
    for (int i = 1; i < size; i++)
        for (uint32_t k = 0; k < 3; k++) {
            CHECK_EQ(mock_send(to[i], k * 1000, &s), CHOIR_OK);
        }
    for (int i = 1; i < size; i++)
        CHECK_OK(mock_wait_connected(to[i]));
    MOCK_UNTIL(&m, m.arrived == (uint64_t)(size - 1) * 3);
    mock_meet(board, &m, size, 3);
    CHECK_EQ(m.peer_count, size - 1);
    for (int i = 0; i < m.peer_count; i++) {
        CHECK_EQ(m.peer[i]->arrived, 3);
        CHECK(!m.peer[i]->accepted);
    }
    mock_meet(board, NULL, size, 4);
    for (int i = 0; i < m.peer_count; i++)
        CHECK_EQ(mock_send(m.peer[i], 100, &s), CHOIR_OK);
    MOCK_UNTIL(&m, m.arrived == (uint64_t)(size - 1) * 4);
    mock_meet(board, &m, size, 1);
    for (int i = 0; i < m.peer_count; i++)
        CHECK_EQ(m.peer[i]->failed_count, 0);
    mock_meet(board, NULL, size, 2);
    mock_close(&m);
    CHECK_EQ(test_open_files(), before);
}

static void crossing(void)
{
    static const int counts[] = {2, 5, 64};
    for (size_t i = 0; i < base_count(counts); i++) {
        struct mock_board *board = mock_board_new();
        test_processes(counts[i], crossing_rank, board);
        mock_board_free(board);
    }
}

/* Secrets by first byte, oldest first, for each rank; and whether they may meet. */
static const struct {
    const char *a, *b;
    bool works;
} secret_cases[] = {{"", "", true},      {"1", "1", true},   {"1", "2", false}, {"1", "", false},
                    {"", "1", false},    {"12", "1", true},  {"1", "12", true}, {"12", "21", true},
                    {"12", "34", false}, {"123", "43", true}};

static void secret_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    enum choir_status status;
    int number = 0;
    for (size_t i = 0; i < base_count(secret_cases); i++) {
        const char *s = rank ? secret_cases[i].b : secret_cases[i].a;
        mock_init(&m, ops, rank);
        for (; *s; s++)
            memset(m.secrets[m.secret_count++], *s, 32);
        mock_open(&m, board);
        mock_meet(board, NULL, size, number++);
        if (!rank) {
            struct mock_peer *p = mock_connect(&m, board, 1, &status);
            CHECK(p != NULL);
            status = mock_wait_connected(p);
            if (status != (secret_cases[i].works ? CHOIR_OK : CHOIR_ERR_AUTH))
                FAIL("case %zu: %s", i, choir_status_name(status));
            CHECK_EQ(p->failed_count, 0);
        }
        mock_meet(board, &m, size, number++);
        CHECK_EQ(m.peer_count, !rank || secret_cases[i].works);
        mock_close(&m);
        mock_meet(board, NULL, size, number++);
    }
}

static void secrets(void)
{
    struct mock_board *board = mock_board_new();
    test_processes(2, secret_rank, board);
    mock_board_free(board);
}

/* Addresses that cannot be reached, and a listener that refuses. */
static void refused_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    enum choir_status status;
    mock_init(&m, ops, rank);
    m.refuse_peers = rank == 1;
    mock_open(&m, board);
    mock_meet(board, NULL, size, 0);
    if (rank == 0) {
        struct mock_board bad = *board;
        struct shm_address a;
        CHECK(!mock_connect(&m, board, 0, &status)); /* itself */
        CHECK_EQ(status, CHOIR_ERR_UNSUPPORTED);
        memcpy(&a, bad.rank[1].address, sizeof(a));
        struct shm_address other = a;
        other.host_hash++;
        memcpy(bad.rank[1].address, &other, sizeof(a));
        CHECK(!mock_connect(&m, &bad, 1, &status));
        CHECK_EQ(status, CHOIR_ERR_UNSUPPORTED);
        other = a, other.net++;
        memcpy(bad.rank[1].address, &other, sizeof(a));
        CHECK(!mock_connect(&m, &bad, 1, &status));
        CHECK_EQ(status, CHOIR_ERR_UNSUPPORTED);
        other = a, other.magic++;
        memcpy(bad.rank[1].address, &other, sizeof(a));
        CHECK(!mock_connect(&m, &bad, 1, &status));
        CHECK_EQ(status, CHOIR_ERR_PROTOCOL);
        other = a, other.random++; /* nobody listens there */
        memcpy(bad.rank[1].address, &other, sizeof(a));
        CHECK(!mock_connect(&m, &bad, 1, &status));
        CHECK_EQ(status, CHOIR_ERR_PEER_DEAD);
        bad.rank[1].bytes--;
        CHECK(!mock_connect(&m, &bad, 1, &status));
        CHECK_EQ(status, CHOIR_ERR_PROTOCOL);
        size_t few = 3;
        CHECK_EQ(ops->address(m.t, &a, &few), CHOIR_ERR_ARGUMENT);
        struct mock_peer *p = mock_connect(&m, board, 1, &status);
        CHECK(p != NULL);
        /* It is up for a moment, then refused. */
        MOCK_UNTIL(&m, p->failed_count);
        CHECK_EQ(ops->connected(p->endpoint), CHOIR_ERR_PEER_DEAD);
    }
    mock_meet(board, &m, size, 1);
    mock_close(&m);
}

static void refused(void)
{
    struct mock_board *board = mock_board_new();
    test_processes(2, refused_rank, board);
    mock_board_free(board);
}

static void other_user_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    enum choir_status status;
    bool insecure = board->word[0] & 2;
    if (insecure) {
        setenv("CHOIR_INSECURE", "1", 1);
        knob_reload();
    }
    if (rank == (int)(board->word[0] & 1))
        CHECK_EQ(setuid(12345), 0);
    mock_init(&m, ops, rank);
    mock_open(&m, board);
    mock_meet(board, NULL, size, 0);
    if (rank == 0) {
        struct mock_peer *p = mock_connect(&m, board, 1, &status);
        if (insecure)
            CHECK_OK(mock_wait_connected(p));
        else
            CHECK(!p && status == CHOIR_ERR_AUTH); /* the dialer looks first */
    }
    mock_meet(board, &m, size, 1);
    CHECK_EQ(m.peer_count, insecure);
    mock_close(&m);
}

/* A stranger with another user id that does not look first. */
static void stranger_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    if (rank == 0) {
        mock_init(&m, ops, rank);
        mock_open(&m, board);
        mock_meet(board, NULL, size, 0);
        mock_meet(board, &m, size, 1);
        CHECK_EQ(m.peer_count, 0);
        mock_close(&m);
        return;
    }
    CHECK_EQ(setuid(12345), 0);
    mock_meet(board, NULL, size, 0);
    struct sockaddr_un name;
    socklen_t bytes;
    struct shm_address a;
    memcpy(&a, board->rank[0].address, sizeof(a));
    shm_socket_name(&board->rank[0].process, a.random, &name, &bytes);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(connect(fd, (struct sockaddr *)&name, bytes), 0);
    struct {
        struct shm_head head;
        struct shm_refuse refuse;
        char more;
    } got;
    CHECK_EQ(recv(fd, &got, sizeof(got), MSG_WAITALL), sizeof(got.head) + sizeof(got.refuse));
    CHECK_EQ(got.head.kind, SHM_REFUSE);
    CHECK_EQ(got.refuse.status, CHOIR_ERR_AUTH);
    close(fd);
    mock_meet(board, NULL, size, 1);
}

static void other_user(void)
{
    if (geteuid())
        test_skip_part("needs root to change its user id");
    for (uint64_t mode = 0; mode < 5 && !geteuid(); mode++) {
        struct mock_board *board = mock_board_new();
        board->word[0] = mode;
        test_processes(2, mode < 4 ? other_user_rank : stranger_rank, board);
        mock_board_free(board);
    }
}

static bool pidfds(void)
{
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* A child forked by one end: closing its copy harms nobody, and does not hide the parent's death; neither does one that
 * keeps its copy, where the kernel has pidfds. */
static void fork_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    struct mock_send s;
    struct choir_shared seg = {0};
    bool keeps = board->word[0];
    mock_init(&m, ops, rank);
    struct mock_peer *p = mock_pair(&m, board, rank, rank == 0);
    CHECK_OK(ops->alloc(m.t, 4096, &seg));
    if (rank == 0) {
        pid_t child = fork();
        if (!child) {
            alarm(20);
            int before = test_open_files();
            if (!keeps)
                ops->close(
                    m.t); /* epoll, listen, wake, timer, probe; socket, wake, process; segment */
            CHECK_EQ(before - test_open_files(), keeps ? 0 : 8 + pidfds());
            board->word[1] = 1;
            while (board->word[1] == 1)
                usleep(1000);
            _exit(0);
        }
        while (!board->word[1])
            usleep(1000);
        CHECK_EQ(mock_send(p, 10, &s), CHOIR_OK);
        MOCK_UNTIL(&m, p->arrived == 1);
        _exit(0); /* no disconnect; the child lives on */
    }
    MOCK_UNTIL(&m, p->arrived == 1);
    CHECK_EQ(mock_send(p, 10, &s), CHOIR_OK);
    MOCK_UNTIL(&m, p->failed_count);
    CHECK(strstr(p->text, "ended") != NULL);
    board->word[1] = 2;
    CHECK_EQ(size, 2);
    mock_close(&m);
}

static void forked(void)
{
    for (uint64_t keeps = 0; keeps < 2; keeps++) {
        struct mock_board *board = mock_board_new();
        board->word[0] = keeps;
        if (keeps && !pidfds())
            test_skip_part("a child that keeps the socket: no pidfd_open here");
        else
            test_processes(2, fork_rank, board);
        mock_board_free(board);
    }
}

/* One thread connects and disconnects while another drives progress; frames fly. The other side takes each endpoint only
 * when it has read the one before to its end. */
#define CHURNS 40
struct churn {
    struct mock *m;
    const struct mock_place *to;
    _Atomic bool stop;
};

static void churn_thread(int number, int size, void *arg)
{
    struct churn *c = arg;
    (void)size;
    if (number == 0) {
        while (!atomic_load(&c->stop))
            mock_progress(c->m);
        return;
    }
    struct mock_peer peer = {.mock = c->m};
    for (int i = 0; i < CHURNS; i++) {
        struct choir_endpoint *ep;
        struct choir_frame f = {.kind = 1};
        CHECK_OK(ops->connect(c->m->t, &c->to->process, c->to->address, c->to->bytes, &peer, &ep));
        CHECK_OK(ops->send(ep, &f, NULL, NULL));
        while (i % 2 && ops->connected(ep) == CHOIR_IN_PROGRESS)
            sched_yield();
        ops->disconnect(ep);
    }
    atomic_store(&c->stop, true);
}

static void churn_rank(int rank, int size, void *arg)
{
    struct mock_board *board = arg;
    struct mock m;
    mock_init(&m, ops, rank);
    mock_open(&m, board);
    mock_meet(board, NULL, size, 0);
    struct churn c = {.m = &m, .to = &board->rank[1 - rank]};
    if (!rank) {
        test_threads(2, churn_thread, &c);
    } else {
        MOCK_UNTIL(&m, m.peer_count == CHURNS);
        for (int i = 0; i < CHURNS; i++)
            MOCK_UNTIL(&m, m.peer[i]->failed_count);
        for (int i = 0; i < CHURNS; i++)
            CHECK_EQ(m.peer[i]->notes, 1);
    }
    mock_meet(board, &m, size, 1);
    mock_close(&m);
}

static void churn(void)
{
    struct mock_board *board = mock_board_new();
    test_processes(2, churn_rank, board);
    mock_board_free(board);
}

/* The listener's backlog is full when we dial: dialed again until it has room. */
static void backlog(void)
{
    struct mock_board *board = mock_board_new();
    struct mock a, b;
    enum choir_status status;
    static int fds[SHM_PENDING_MOST + 8];
    struct rlimit limit;
    struct sockaddr_un name;
    socklen_t bytes;
    struct shm_address address;
    mock_init(&a, ops, 0);
    mock_init(&b, ops, 1);
    mock_open(&a, board);
    mock_open(&b, board);
    memcpy(&address, board->rank[1].address, sizeof(address));
    shm_socket_name(&board->rank[1].process, address.random, &name, &bytes);
    getrlimit(RLIMIT_NOFILE, &limit);
    int n = 0;
    bool full = false;
    while (n < (int)base_count(fds) && n + 100 < (int)limit.rlim_cur / 2 && !full) {
        fds[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        CHECK_LE(0, fds[n]);
        full = connect(fds[n++], (struct sockaddr *)&name, bytes) && errno == EAGAIN;
    }
    struct mock_peer *p = mock_connect(&a, board, 1, &status);
    CHECK(p != NULL);
    if (!full)
        test_skip_part("the limit of open files is too low to fill a backlog");
    else
        CHECK_EQ(p->endpoint->state, SHM_DIALING);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    MOCK_UNTIL(&a, (mock_progress(&b), ops->connected(p->endpoint) == CHOIR_OK));
    mock_close(&a);
    mock_close(&b);
    mock_board_free(board);
}

TEST_MAIN(TEST(crossing), TEST(secrets), TEST(refused), TEST(other_user), TEST(forked), TEST(churn),
          TEST(backlog))
