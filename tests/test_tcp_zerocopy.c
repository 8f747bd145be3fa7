/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_tcp_zerocopy.c: sends whose pages the kernel reads in place: intact, over cut connections too, given back only when
 * the kernel is through with them, and given up where it copies all the same, as it does on every loopback. Between
 * hosts: test_tcp_netns.c.
 */
#include "tests/lib/stub_host.h"
#include "tests/lib/test.h"
#include "transports/tcp/tcp.h"
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define MOST 2000000

static struct stub a, b;

static void knobs(const char *name, const char *value)
{
    stub_knob(&a, name, value);
    stub_knob(&b, name, value);
}

static void need_kernel(void)
{
    if (!stub_kernel_zerocopy())
        test_skip("this kernel has no MSG_ZEROCOPY");
}

static void init(const char *use)
{
    need_kernel();
    stub_init(&a, &choir_transport_tcp);
    stub_init(&b, &choir_transport_tcp);
    knobs("CHOIR_ZEROCOPY", use);
}

static void open_joined(void)
{
    stub_open(&a);
    stub_open(&b);
    stub_join(&a, &b);
}

static void close_both(void)
{
    stub_service_start(&b); /* acknowledges a's farewell */
    stub_close(&a);
    stub_close(&b);
}

/* As if they were on two hosts: the kernel is asked, and copies. */
static void two_hosts(void)
{
    knobs("CHOIR_SOCKET_IFNAME", "=lo");
    a.host.host_id = "host a";
    b.host.host_id = "host b";
}

static const struct tcp_zerocopy *zerocopy(const struct stub *m, uint32_t slot)
{
    return &m->peer[0].endpoint->slot[slot]->tx.zerocopy;
}

static uint64_t zerocopy_sent(const struct stub *m)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < m->peer[0].endpoint->slot_count; i++)
        n += zerocopy(m, i)->sent;
    return n;
}

static void always_case(const char *sockets, const char *family)
{
    init("2");
    knobs("CHOIR_SOCKETS", sockets);
    knobs("CHOIR_SOCKET_FAMILY", family);
    open_joined();
    stub_traffic(&a, &b, 300, MOST, NULL);
    CHECK_LT(20, zerocopy_sent(&a));
    CHECK_LT(20, zerocopy_sent(&b));
    for (uint32_t i = 0; i < a.peer[0].endpoint->slot_count; i++)
        CHECK_EQ(zerocopy(&a, i)->done,
                 zerocopy(&a, i)->sent); /* or a payload was given back early */
    CHECK_EQ(a.log_count + b.log_count, 0);
    close_both();
}

static void always(void)
{
    always_case("1", "AF_INET");
    always_case("3", "AF_INET");
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (fd < 0) {
        test_skip_part("no IPv6");
        return;
    }
    close(fd);
    always_case("1", "AF_INET6");
}

/* Nobody calls progress(): the notice wakes the service thread if it comes after the acknowledgement. */
static void service_only(void)
{
    static char x[8][1 << 20];
    struct choir_send r[8];
    init("2");
    open_joined();
    stub_service_start(&a);
    stub_service_start(&b);
    for (uint64_t round = 0; round < 20; round++) {
        for (uint64_t i = 0; i < 8; i++) {
            stub_fill(x[i], sizeof(x[i]), 0, round * 8 + i);
            CHECK_EQ(stub_send(&a.peer[0], 0, CHOIR_FRAME_DATA, x[i], sizeof(x[i]), &r[i]),
                     CHOIR_IN_PROGRESS);
        }
        uint64_t end = base_now_ns() + 10 * SECOND;
        for (uint64_t i = 0; i < 8; i++) {
            while (!atomic_load(&r[i].done) && base_now_ns() < end)
                usleep(50);
            CHECK_EQ(atomic_load(&r[i].done), 1);
        }
    }
    stub_service_stop(&a);
    CHECK_LT(20, zerocopy_sent(&a));
    stub_close(&a);
    stub_close(&b);
}

/* --- where it does not pay ------------------------------------------------------------------------------ */
static void given_up(void)
{
    init("1");
    two_hosts();
    open_joined();
    stub_traffic(&a, &b, 200, MOST, NULL);
    CHECK_LT(0, zerocopy_sent(&a));
    CHECK_LE(zerocopy_sent(&a), 4);
    CHECK(!zerocopy(&a, 0)->on);
    CHECK(!zerocopy(&b, 0)->on);
    close_both();
}

static void never_case(const char *use, const char *encrypt)
{
    init(use);
    knobs("CHOIR_ENCRYPT", encrypt);
    if (*use == '0')
        two_hosts();
    open_joined();
    stub_traffic(&a, &b, 100, MOST, NULL);
    CHECK_EQ(zerocopy_sent(&a) + zerocopy_sent(&b), 0);
    close_both();
}

static void never(void)
{
    never_case("0", "0"); /* said so */
    never_case("1", "0"); /* one host */
    never_case("2", "1"); /* encrypted: copied anyway */
}

/* No page may be locked (ENOBUFS): the same bytes go the plain way. */
static void refused_case(const char *use)
{
    init(use);
    two_hosts();
    open_joined();
    stub_traffic(&a, &b, 100, MOST, NULL);
    CHECK_EQ(zerocopy_sent(&a) + zerocopy_sent(&b), 0);
    CHECK_LE(4, zerocopy(&a, 0)->copied);
    CHECK_EQ(zerocopy(&a, 0)->on, *use == '2');
    close_both();
}

static void refused(void)
{
    need_kernel();
    pid_t pid = fork();
    CHECK_LE(0, pid);
    if (!pid) {
        struct rlimit none = {0, 0};
        CHECK_EQ(setrlimit(RLIMIT_MEMLOCK, &none), 0);
        if (!geteuid()) /* whom no such limit binds */
            CHECK_EQ(seteuid(65534), 0);
        refused_case("1");
        refused_case("2");
        _exit(0);
    }
    int st;
    CHECK_EQ(waitpid(pid, &st, 0), pid);
    CHECK_EQ(st, 0);
}

/* --- ends ------------------------------------------------------------------------------------------------ */
static uint64_t cut_ns, cuts;

/* Breaks a's connection, in one of three ways. */
static void cut(struct stub *x, struct stub *y)
{
    CHECK_EQ(x->peer[0].failed + y->peer[0].failed, 0);
    int fd = x->peer[0].endpoint->slot[0]->source.fd;
    if (base_now_ns() < cut_ns || cuts == 25 || fd < 0)
        return;
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    /* or it is broken by the other end already, and nobody has noticed yet */
    cuts += !(cuts % 3 ? shutdown(fd, cuts % 3 == 1 ? SHUT_RDWR : SHUT_WR)
                       : connect(fd, &none, sizeof(none)));
    cut_ns = base_now_ns() + 3000000 + test_seed() % 10000000;
}

static void cut_case(const char *sockets)
{
    init("2");
    knobs("CHOIR_SOCKETS", sockets);
    open_joined();
    cuts = cut_ns = 0;
    stub_traffic(&a, &b, 600, MOST, cut);
    CHECK_LT(2, cuts);
    CHECK_LT(20, zerocopy_sent(&a));
    CHECK_EQ(a.peer_count + b.peer_count, 2);
    close_both();
}

static void cut_in_stream(void)
{
    cut_case("1");
    cut_case("3");
}

static bool b_failed(struct stub *x, struct stub *y)
{
    (void)x;
    return y->peer[0].failed > 0;
}

static void as_it_was(struct stub_peer *p, const struct choir_frame *frame, void *where)
{
    (void)p;
    if (frame->bytes)
        CHECK(stub_same(where, frame->bytes, 0, 0));
}

/* What is given back by disconnect() may be written to: the peer gets it as it was, or not at all. */
static void farewell(void)
{
    static char x[512 << 10];
    struct choir_send r;
    init("2");
    b.unchecked = true; /* by itself: what came of a frame that does not end lies in its buffer */
    b.on_arrived = as_it_was;
    open_joined();
    stub_fill(x, sizeof(x), 0, 0);
    CHECK_EQ(stub_send(&a.peer[0], 0, CHOIR_FRAME_DATA, x, sizeof(x), &r), CHOIR_IN_PROGRESS);
    const struct tcp_tx *tx = &a.peer[0].endpoint->slot[0]->tx;
    CHECK_EQ(tx->next, tx->end); /* the kernel has all of it, and the peer's window is smaller */
    CHECK_LT(tx->zerocopy.done, tx->zerocopy.sent);
    a.ops->disconnect(a.peer[0].endpoint);
    a.peer[0].endpoint = NULL;
    CHECK_NE(atomic_load(&r.done), 0);
    memset(x, 0xee, sizeof(x));
    stub_until(&a, &b, b_failed, 5 * SECOND, "the end");
    CHECK_EQ(b.peer[0].status, CHOIR_ERR_PEER_DEAD);
    close_both();
}

TEST_MAIN(TEST(always), TEST(service_only), TEST(given_up), TEST(never), TEST(refused),
          TEST(cut_in_stream), TEST(farewell))
