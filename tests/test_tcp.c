/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_tcp.c: frames over TCP: every size, intact and in order, between threads and processes, over one and
 * several sockets, in plain and encrypted, IPv4 and IPv6. Faults are test_tcp_faults.c, hosts test_tcp_netns.c.
 */
#include "tests/lib/stub_host.h"
#include "tests/lib/test.h"
#include <dirent.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern const struct choir_transport_ops choir_transport_tcp;

static void pair_traffic(const char *knob, const char *value, uint64_t frames, uint32_t most)
{
    struct stub a, b;
    stub_init(&a, &choir_transport_tcp);
    stub_init(&b, &choir_transport_tcp);
    if (knob) {
        stub_knob(&a, knob, value);
        stub_knob(&b, knob, value);
    }
    stub_open(&a);
    stub_open(&b);
    stub_join(&a, &b);
    stub_traffic(&a, &b, frames, most, NULL);
    CHECK_EQ(a.log_count + b.log_count, 0);
    stub_service_start(&b); /* acknowledges a's farewell */
    stub_close(&a);
    stub_close(&b);
}

static void small_frames(void)
{
    pair_traffic(NULL, NULL, 20000, 300);
}

static void mixed_frames(void)
{
    pair_traffic(NULL, NULL, 2000, 300000);
}

static void large_frames(void)
{
    pair_traffic(NULL, NULL, 60, CHOIR_FRAME_MOST);
}

static void several_sockets(void)
{
    pair_traffic("CHOIR_SOCKETS", "4", 1500, 2000000);
    pair_traffic("CHOIR_SOCKETS", "16", 3000, 20000);
}

static void encrypted(void)
{
    pair_traffic("CHOIR_ENCRYPT", "1", 1500, 300000);
}

static void ipv6(void)
{
    int fd = socket(10, 1, 0);
    if (fd < 0) {
        test_skip_part("no IPv6");
        return;
    }
    close(fd);
    pair_traffic("CHOIR_SOCKET_FAMILY", "AF_INET6", 1000, 100000);
    pair_traffic("CHOIR_SOCKET_FAMILY", "AF_INET", 1000, 100000);
}

/* --- many threads, service threads, many processes ------------------------------------------------------- */
#define SENDERS 4
struct sender {
    struct stub_peer *peer;
    uint32_t lane;
    pthread_t thread;
};

static void *send_lane(void *arg)
{
    struct sender *s = arg;
    for (uint64_t i = 0; i < 3000; i++) {
        static _Thread_local char x[40000];
        struct choir_send r;
        uint32_t bytes = stub_frame_bytes(test_seed(), s->lane, i, sizeof(x));
        stub_fill(x, bytes, s->lane, i);
        enum choir_status status = stub_send(s->peer, s->lane, CHOIR_FRAME_DATA, x, bytes, &r);
        CHECK(status == CHOIR_OK || status == CHOIR_IN_PROGRESS);
        while (status == CHOIR_IN_PROGRESS && !atomic_load(&r.done))
            if (!stub_progress(s->peer->stub))
                sched_yield();
    }
    return NULL;
}

static void threads_send(void)
{
    for (int sockets = 1; sockets < 4; sockets += 2) {
        struct stub a, b;
        struct sender s[SENDERS];
        stub_init(&a, &choir_transport_tcp);
        stub_init(&b, &choir_transport_tcp);
        stub_knob(&a, "CHOIR_SOCKETS", sockets == 1 ? "1" : "3");
        stub_open(&a);
        stub_open(&b);
        stub_join(&a, &b);
        stub_service_start(&a);
        stub_service_start(&b);
        for (uint32_t i = 0; i < SENDERS; i++) {
            s[i] = (struct sender){.peer = &a.peer[0], .lane = i};
            CHECK_EQ(pthread_create(&s[i].thread, NULL, send_lane, &s[i]), 0);
        }
        for (uint32_t i = 0; i < SENDERS; i++)
            pthread_join(s[i].thread, NULL);
        stub_close(&a); /* delivers what is under way */
        stub_service_stop(&b);
        for (uint32_t i = 0; i < SENDERS; i++)
            CHECK_EQ(b.peer[0].arrived[i], 3000);
        stub_close(&b);
    }
}

static void answer(struct stub_peer *p, const struct choir_frame *frame, void *where)
{
    (void)where;
    if (frame->kind == CHOIR_FRAME_DATA && frame->sequence < 2000) {
        static _Thread_local char x[64];
        stub_fill(x, sizeof(x), 0, p->sent[0]);
        CHECK_OK(stub_send(p, 0, CHOIR_FRAME_DATA, x, sizeof(x), NULL));
    }
}

/* Nobody calls progress(): the service threads wake by the watched descriptor alone, in a dialogue and for the
 * acknowledgement of a lent payload that nobody answers. */
static void service_only(void)
{
    struct stub a, b;
    stub_init(&a, &choir_transport_tcp);
    stub_init(&b, &choir_transport_tcp);
    a.on_arrived = b.on_arrived = answer;
    stub_open(&a);
    stub_open(&b);
    stub_service_start(&a);
    stub_service_start(&b);
    char address[STUB_ADDRESS], x[64];
    size_t bytes = stub_address(&b, address);
    struct stub_peer *p = stub_connect(&a, &b.host.self, address, bytes);
    stub_fill(x, sizeof(x), 0, 0);
    pthread_mutex_lock(&a.driving);
    CHECK_OK(stub_send(p, 0, CHOIR_FRAME_DATA, x, sizeof(x), NULL));
    pthread_mutex_unlock(&a.driving);
    uint64_t end = base_now_ns() + 10000000000ull, count = 0;
    while (count < 2000 && base_now_ns() < end) {
        usleep(1000);
        pthread_mutex_lock(&a.driving);
        count = p->arrived[0];
        pthread_mutex_unlock(&a.driving);
    }
    CHECK_LE(2000, count);
    struct choir_send r;
    static char large[1 << 20];
    stub_fill(large, sizeof(large), 1, 0);
    CHECK_EQ(stub_send(p, 1, CHOIR_FRAME_DATA + 1, large, sizeof(large), &r), CHOIR_IN_PROGRESS);
    while (!atomic_load(&r.done) && base_now_ns() < end)
        usleep(1000);
    CHECK_EQ(atomic_load(&r.done), 1);
    stub_close(&a);
    stub_close(&b);
}

#define ALL 8
struct board {
    struct choir_process process[ALL];
    char address[ALL][STUB_ADDRESS];
    size_t bytes[ALL];
    _Atomic int ready, done;
};

/* Everybody joins everybody (the lower rank connects) and sends everybody frames. */
static void all_to_all_rank(int rank, int size, void *arg)
{
    struct board *board = arg;
    struct stub *m = malloc(sizeof(*m));
    stub_init(m, &choir_transport_tcp);
    stub_open(m);
    board->process[rank] = m->host.self;
    board->bytes[rank] = stub_address(m, board->address[rank]);
    atomic_fetch_add(&board->ready, 1);
    while (atomic_load(&board->ready) < size)
        usleep(500);
    for (int r = rank + 1; r < size; r++)
        stub_connect(m, &board->process[r], board->address[r], board->bytes[r]);
    struct stub_flow f[ALL] = {{0}};
    uint64_t frames = 100;
    for (int r = 0; r < size; r++)
        f[r] = (struct stub_flow){
            .seed = (uint64_t)(rank * ALL + r), .frames = frames, .most = 200000};
    bool done = false, said = false;
    uint64_t end = base_now_ns() + 40000000000ull;
    while (atomic_load(&board->done) < size) {
        done = m->arrived_count == frames * (uint64_t)(size - 1);
        for (uint32_t i = 0; i < m->peer_count; i++) {
            stub_flow_step(&f[i], &m->peer[i]);
            done &= stub_flow_done(&f[i]);
        }
        if (!stub_progress(m))
            sched_yield();
        if (done && !said)
            atomic_fetch_add(&board->done, 1);
        said |= done;
        if (base_now_ns() > end)
            FAIL("rank %d has %" PRIu64 " frames of %" PRIu64, rank, m->arrived_count,
                 frames * (uint64_t)(size - 1));
    }
    for (int r = 0; r < size; r++)
        stub_flow_free(&f[r]);
    stub_close(m);
    free(m);
}

static void all_to_all(void)
{
    struct board *board =
        mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(board != MAP_FAILED);
    test_threads(ALL, all_to_all_rank, board);
    memset(board, 0, sizeof(*board));
    test_processes(ALL, all_to_all_rank, board);
    munmap(board, sizeof(*board));
}

static void discarded(void)
{
    struct stub a, b;
    stub_init(&a, &choir_transport_tcp);
    stub_init(&b, &choir_transport_tcp);
    a.discard = b.discard = true;
    stub_open(&a);
    stub_open(&b);
    stub_join(&a, &b);
    stub_traffic(&a, &b, 300, 300000, NULL);
    CHECK_LT(0, a.peer[0].discarded);
    stub_service_start(&b);
    stub_close(&a);
    stub_close(&b);
}

TEST_MAIN(TEST(small_frames), TEST(mixed_frames), TEST(large_frames), TEST(several_sockets),
          TEST(encrypted), TEST(ipv6), TEST(threads_send), TEST(service_only), TEST(all_to_all),
          TEST(discarded))
