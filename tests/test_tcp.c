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

#define UNDER_WAY 24

static void until(struct stub *a, struct stub *b, bool (*done)(struct stub *, struct stub *),
                  uint64_t limit_ns, const char *what)
{
    uint64_t end = base_now_ns() + limit_ns;
    while (!done(a, b)) {
        uint32_t events = stub_progress(a) + (b ? stub_progress(b) : 0);
        if (!events)
            sched_yield();
        if (base_now_ns() > end)
            FAIL("%s: not within %" PRIu64 " ms", what, limit_ns / 1000000);
    }
}

static bool both_up(struct stub *a, struct stub *b)
{
    return a->peer_count && b->peer_count && a->peer[0].endpoint && b->peer[0].endpoint &&
           a->ops->connected(a->peer[0].endpoint) == CHOIR_OK &&
           b->ops->connected(b->peer[0].endpoint) == CHOIR_OK;
}

/* a connects to b, both in this process and driven by this thread. */
static void join(struct stub *a, struct stub *b)
{
    char address[STUB_ADDRESS];
    size_t bytes = stub_address(b, address);
    stub_connect(a, &b->host.self, address, bytes);
    until(a, b, both_up, 5000000000ull, "joining");
}

/* --- traffic: each side sends `frames` frames of mixed sizes on all lanes ------------------------------- */
struct flow {
    uint64_t seed, frames;
    uint32_t most;
    uint64_t next;
    void *payload[UNDER_WAY];
    struct choir_send request[UNDER_WAY];
    bool lent[UNDER_WAY];
};

static void flow_step(struct flow *f, struct stub_peer *p)
{
    for (int i = 0; i < UNDER_WAY && f->next < f->frames; i++) {
        if (f->lent[i] && !atomic_load(&f->request[i].done))
            continue;
        if (f->lent[i])
            CHECK_EQ(atomic_load(&f->request[i].done), 1);
        free(f->payload[i]);
        uint32_t lane = (uint32_t)(base_mix(f->seed + f->next) % STUB_LANES);
        uint32_t bytes = stub_frame_bytes(f->seed, lane, p->sent[lane], f->most);
        f->payload[i] = malloc(bytes ? bytes : 1);
        stub_fill(f->payload[i], bytes, lane, p->sent[lane]);
        uint16_t kind = f->next % 5 ? CHOIR_FRAME_DATA : 1;
        enum choir_status s = stub_send(p, lane, kind, f->payload[i], bytes, &f->request[i]);
        CHECK(s == CHOIR_OK || s == CHOIR_IN_PROGRESS);
        f->lent[i] = s == CHOIR_IN_PROGRESS;
        if (!f->lent[i])
            memset(f->payload[i], 0xee, bytes); /* may be reused */
        f->next++;
    }
}

static bool flow_done(struct flow *f)
{
    bool done = f->next == f->frames;
    for (int i = 0; i < UNDER_WAY; i++)
        done &= !f->lent[i] || atomic_load(&f->request[i].done);
    return done;
}

static void flow_free(struct flow *f)
{
    for (int i = 0; i < UNDER_WAY; i++)
        free(f->payload[i]);
}

static void traffic(struct stub *a, struct stub *b, uint64_t frames, uint32_t most)
{
    struct flow fa = {.seed = test_seed(), .frames = frames, .most = most};
    struct flow fb = {.seed = test_seed() + 1, .frames = frames, .most = most};
    uint64_t to_a = a->arrived_count + frames, to_b = b->arrived_count + frames;
    uint64_t end = base_now_ns() + 30000000000ull;
    while (a->arrived_count < to_a || b->arrived_count < to_b || !flow_done(&fa) ||
           !flow_done(&fb)) {
        flow_step(&fa, &a->peer[0]);
        flow_step(&fb, &b->peer[0]);
        stub_progress(a);
        stub_progress(b);
        if (base_now_ns() > end)
            FAIL("%" PRIu64 " and %" PRIu64 " of %" PRIu64 " frames came", a->arrived_count,
                 b->arrived_count, frames);
    }
    flow_free(&fa);
    flow_free(&fb);
}

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
    join(&a, &b);
    traffic(&a, &b, frames, most);
    CHECK_EQ(a.log_count + b.log_count, 0);
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

TEST_MAIN(TEST(small_frames), TEST(mixed_frames), TEST(large_frames), TEST(several_sockets),
          TEST(encrypted), TEST(ipv6))
