/* SPDX-License-Identifier: Apache-2.0 */
/* The self transport, with a mock host. */
#include "tests/lib/mock_host.h"
#include "tests/lib/test.h"
#include <poll.h>
#include <sched.h>
#include <unistd.h>

extern const struct choir_transport_ops choir_transport_self;
static const struct choir_transport_ops *const ops = &choir_transport_self;

static struct mock_peer *opened(struct mock *m, struct mock_board *board)
{
    enum choir_status status;
    mock_init(m, ops, 0);
    mock_open(m, board);
    struct mock_peer *p = mock_connect(m, board, 0, &status);
    CHECK(p != NULL);
    CHECK_OK(mock_wait_connected(p));
    CHECK_EQ(ops->caps(p->endpoint), CHOIR_CAP_MAP | CHOIR_CAP_READ | CHOIR_CAP_READ_FAST);
    return p;
}

static void frames(void)
{
    static const uint32_t sizes[] = {0, 1, 4096, 4097, 8 << 20, 3};
    struct mock_board *board = mock_board_new();
    struct mock m;
    enum choir_status status;
    static struct mock_send s[100];
    struct mock_peer *p = opened(&m, board);
    for (uint64_t i = 0; i < 100; i++) {
        uint32_t bytes = sizes[i % base_count(sizes)] >> i / 20;
        CHECK_EQ(mock_send(p, bytes, &s[i]), bytes > 4096 ? CHOIR_IN_PROGRESS : CHOIR_OK);
    }
    CHECK_EQ(p->arrived, 0); /* never from within send */
    MOCK_UNTIL(&m, p->arrived == 100);
    for (int i = 0; i < 100; i++)
        CHECK(mock_sent(&s[i]));
    struct choir_frame f = {.bytes = CHOIR_FRAME_MOST + 1};
    CHECK_EQ(ops->send(p->endpoint, &f, p, NULL), CHOIR_ERR_ARGUMENT);
    board->rank[1].process.bytes[0] = 1;
    CHECK(!mock_connect(&m, board, 1, &status));
    CHECK_EQ(status, CHOIR_ERR_UNSUPPORTED);
    CHECK_EQ(mock_send(p, 5000, &s[0]), CHOIR_IN_PROGRESS); /* dropped with the endpoint */
    mock_drop(p);
    CHECK(mock_sent(&s[0]));
    CHECK_EQ(s[0].send.done, CHOIR_ERR_PEER_DEAD);
    mock_close(&m);
    mock_board_free(board);
}

static void memory(void)
{
    struct mock_board *board = mock_board_new();
    struct mock m;
    struct choir_shared s = {0};
    void *p, *q;
    struct choir_endpoint *ep = opened(&m, board)->endpoint;
    CHECK_EQ(ops->alloc(m.t, 0, &s), CHOIR_ERR_ARGUMENT);
    CHECK_EQ(ops->alloc(m.t, UINT64_MAX, &s), CHOIR_ERR_NO_MEMORY);
    CHECK_OK(ops->alloc(m.t, 10000, &s));
    CHECK_OK(ops->map(ep, s.key, 10000, &p));
    CHECK(p == s.memory);
    CHECK_EQ(ops->map(ep, s.key, 10001, &q), CHOIR_ERR_PROTOCOL);
    CHECK_EQ(ops->map(ep, s.key + 1, 1, &q), CHOIR_ERR_PROTOCOL);
    memcpy(p, "abcdef", 7);
    char got[7];
    CHECK_OK(ops->read(ep, got, (uint64_t)(uintptr_t)p, 7));
    CHECK_STR(got, "abcdef");
    CHECK_OK(ops->unmap(ep, p, 10000));
    uint64_t key = s.key;
    CHECK_OK(ops->release(m.t, &s));
    CHECK_EQ(ops->map(ep, key, 1, &q), CHOIR_ERR_PROTOCOL);
    CHECK_OK(ops->alloc(m.t, 5, &s)); /* freed by close */
    mock_close(&m);
    mock_board_free(board);
}

struct shared {
    struct mock m;
    struct mock_peer *p;
    _Atomic int senders;
    _Atomic bool stop;
};

/* Thread 0 is the service thread, asleep unless woken; thread 1 spins a little; the others send. */
static void thread_fn(int number, int size, void *arg)
{
    struct shared *s = arg;
    static const char zero[9000];
    if (number == 0) {
        struct pollfd f = {s->m.watch[0].fd, POLLIN, 0};
        while (!s->stop) {
            CHECK_LT(0, poll(&f, 1, 10000));
            s->m.watch[0].fn(s->m.watch[0].arg);
        }
        return;
    }
    for (int i = 0; i < 2000; i++) {
        struct choir_frame f = {.bytes = i % 4 ? 0 : 9000, .kind = 1};
        struct choir_send send = {0};
        enum choir_status status = ops->send(s->p->endpoint, &f, zero, &send);
        CHECK_LE(0, status);
        if (number == 1)
            ops->progress(s->m.t);
        while (status == CHOIR_IN_PROGRESS && !atomic_load(&send.done))
            sched_yield();
    }
    if (atomic_fetch_add(&s->senders, 1) == size - 2) {
        while (s->p->notes < 2000 * ((uint64_t)size - 1))
            usleep(100);
        s->stop = true;
        ops->wake(s->p->endpoint);
    }
}

static void threads(void)
{
    struct mock_board *board = mock_board_new();
    static struct shared s;
    s.p = opened(&s.m, board);
    test_threads(5, thread_fn, &s);
    mock_close(&s.m);
    mock_board_free(board);
}

TEST_MAIN(TEST(frames), TEST(memory), TEST(threads))
