/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_tcp_netns.c: TCP between hosts: two processes in network namespaces of their own, joined by veth pairs n0,
 * n1, .... The namespaces have no names and end with the processes. Needs root and ip(8).
 */
#include "tests/lib/stub_host.h"
#include "tests/lib/test.h"
#include "transports/tcp/tcp.h"
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define FRAMES 3000

struct board {
    struct choir_process process[2];
    char address[2][STUB_ADDRESS];
    size_t bytes[2];
    _Atomic int pid[2], wired, ready, done;
};

static struct board *board;
static const char *knob[2];
static struct stub host;
static int me;

static void shell(const char *format, ...)
{
    char command[400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof(command), format, ap);
    va_end(ap);
    if (system(command))
        FAIL("failed: %s", command);
}

static void wait_for(_Atomic int *what, int value)
{
    uint64_t end = base_now_ns() + 20 * SECOND;
    while (atomic_load(what) < value) {
        if (host.t)
            stub_progress(&host);
        else
            usleep(500);
        if (base_now_ns() > end)
            FAIL("rank %d waits in vain for the other", me);
    }
}

/* Own namespace; rank 0 lays the cables: `wire` runs there. */
static void enter(void (*wire)(int other))
{
    if (unshare(CLONE_NEWNET))
        FAIL("unshare: %m");
    shell("ip link set lo up");
    atomic_store(&board->pid[me], getpid());
    wait_for(&board->pid[!me], 1);
    if (!me) {
        wire(board->pid[1]);
        atomic_store(&board->wired, 1);
    }
    wait_for(&board->wired, 1);
}

static void cable(int other, int number)
{
    shell("ip link add n%d type veth peer name n%d netns %d", number, number, other);
    shell("ip addr add 10.9.%d.1/24 dev n%d && ip link set n%d up", number, number, number);
    shell("nsenter -t %d -n sh -c 'ip addr add 10.9.%d.2/24 dev n%d && ip link set n%d up'", other,
          number, number, number);
}

static struct choir_endpoint *endpoint(void)
{
    return host.peer[0].endpoint;
}

static void open_host(void)
{
    stub_init(&host, &choir_transport_tcp);
    host.host.host_id = me ? "host b" : "host a";
    if (knob[0])
        stub_knob(&host, knob[0], knob[1]);
    stub_open(&host);
    board->process[me] = host.host.self;
    board->bytes[me] = stub_address(&host, board->address[me]);
    atomic_fetch_add(&board->ready, 1);
    wait_for(&board->ready, 2);
}

static void join_hosts(void)
{
    if (!me)
        stub_connect(&host, &board->process[1], board->address[1], board->bytes[1]);
    uint64_t start = base_now_ns();
    while (!host.peer_count || host.ops->connected(endpoint()) != CHOIR_OK) {
        stub_progress(&host);
        if (host.peer_count && host.ops->connected(endpoint()) < 0)
            FAIL("%s", host.last_log);
        if (base_now_ns() > start + 10 * SECOND)
            FAIL("rank %d is not joined after 10 s", me);
    }
    start = base_now_ns();
    while (base_now_ns() < start + SECOND / 5) /* further rails */
        stub_progress(&host);
}

static void exchange(uint64_t frames, uint32_t most, uint64_t event_at, void (*event)(void))
{
    struct stub_flow f = {.seed = test_seed() + (uint64_t)me, .frames = frames, .most = most};
    uint64_t start = base_now_ns();
    bool said = false;
    while (atomic_load(&board->done) < 2) {
        stub_flow_step(&f, &host.peer[0]);
        stub_progress(&host);
        if (event && host.arrived_count >= event_at) {
            event();
            event = NULL;
        }
        if (host.peer[0].failed)
            FAIL("rank %d: %s", me, host.peer[0].text);
        if (!said && host.arrived_count == frames && stub_flow_done(&f)) {
            said = true;
            atomic_fetch_add(&board->done, 1);
        }
        if (base_now_ns() > start + 40 * SECOND)
            FAIL("rank %d has %" PRIu64 " of %" PRIu64 " frames", me, host.arrived_count, frames);
    }
    stub_flow_free(&f);
}

static uint32_t rails(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < endpoint()->slot_count; i++)
        n += endpoint()->slot[i]->source.fd >= 0;
    return n;
}

/* Runs fn in two processes. */
static void two_hosts(void (*fn)(void))
{
    if (geteuid() || system("ip -V >/dev/null 2>&1") || system("nsenter -V >/dev/null 2>&1")) {
        test_skip_part("needs root, ip and nsenter");
        return;
    }
    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(board != MAP_FAILED);
    pid_t pid[2];
    test_seed();
    fflush(NULL);
    for (me = 0; me < 2; me++) {
        pid[me] = fork();
        CHECK_LE(0, pid[me]);
        if (!pid[me]) {
            fn();
            fflush(NULL);
            _exit(0);
        }
    }
    int bad = 0;
    for (int i = 0; i < 2; i++) {
        int st;
        pid_t ended = wait(&st);
        if (st && !bad) { /* the other one would wait for it in vain */
            bad = 1;
            kill(ended == pid[0] ? pid[1] : pid[0], SIGKILL);
        }
    }
    munmap(board, sizeof(*board));
    knob[0] = NULL;
    if (bad)
        FAIL("a host failed");
}

/* --- two rails; one goes down ------------------------------------------------------------------------------- */
static void wire_two(int other)
{
    cable(other, 0);
    cable(other, 1);
}

/* Bytes an interface of this namespace has sent. */
static uint64_t sent_over(const char *name)
{
    char line[512], *at;
    unsigned long long sent = 0;
    FILE *f = fopen("/proc/self/net/dev", "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof(line), f))
        if ((at = strstr(line, name)) && at[strlen(name)] == ':')
            CHECK_EQ(sscanf(at + strlen(name) + 1, "%*u %*u %*u %*u %*u %*u %*u %*u %llu", &sent),
                     1);
    fclose(f);
    return sent;
}

/* Until then both rails have carried much; from then on one carries all. */
static void n0_down(void)
{
    uint64_t n0 = sent_over("n0"), n1 = sent_over("n1");
    if (n0 < (n0 + n1) / 8 || n1 < (n0 + n1) / 8)
        FAIL("rank %d sent %" PRIu64 " bytes over n0 and %" PRIu64 " over n1", me, n0, n1);
    if (!me)
        shell("ip link set n0 down");
}

static void host_two_rails(void)
{
    enter(wire_two);
    open_host();
    join_hosts();
    CHECK_EQ(rails(), 2);
    CHECK_EQ(endpoint()->slot[0]->seal_control, 1);
    exchange(FRAMES, 300000, FRAMES / 3, n0_down);
    CHECK_EQ(host.peer[0].failed, 0);
}

static void link_down(void)
{
    uint64_t start = base_now_ns();
    two_hosts(host_two_rails);
    printf("two rails, one cut in mid-stream: %" PRIu64 " ms in all\n",
           (base_now_ns() - start) / 1000000);
}

/* --- zero-copy sends -------------------------------------------------------------------------------------- */
static void wire_one(int other)
{
    cable(other, 0);
}

static const struct tcp_zerocopy *zerocopy(void)
{
    return &endpoint()->slot[0]->tx.zerocopy;
}

/* One end breaks the connection, the other lets go of the cable for a moment. */
static void cut(void)
{
    CHECK_LT(20, zerocopy()->sent);
    if (me)
        CHECK_EQ(shutdown(endpoint()->slot[0]->source.fd, SHUT_RDWR), 0);
    else
        shell("ip link set n0 down && sleep 0.2 && ip link set n0 up");
}

static void host_zerocopy_always(void)
{
    enter(wire_one);
    open_host();
    join_hosts();
    exchange(FRAMES / 5, 2000000, FRAMES / 10, cut);
    CHECK_LT(
        0,
        zerocopy()
            ->sent); /* on the connection after the cut, too; the other end may have closed it by now */
}

static void host_zerocopy_paying(void)
{
    enter(wire_one);
    open_host();
    join_hosts();
    exchange(FRAMES / 5, 2000000, 0, NULL);
    CHECK_LT(0, zerocopy()->sent); /* veth copies */
    CHECK_LE(zerocopy()->sent, 4);
    CHECK(!zerocopy()->on);
}

static void zerocopy_sends(void)
{
    if (!stub_kernel_zerocopy())
        test_skip("this kernel has no MSG_ZEROCOPY");
    knob[0] = "CHOIR_ZEROCOPY", knob[1] = "2";
    two_hosts(host_zerocopy_always);
    knob[0] = "CHOIR_ZEROCOPY", knob[1] = "1";
    two_hosts(host_zerocopy_paying);
}

/* --- an interface that leads nowhere ---------------------------------------------------------------------------- */
static void wire_dead(int other)
{
    shell("ip link add aa type veth peer name ab && ip addr add 10.8.0.1/24 dev aa && "
          "ip link set aa up && ip link set ab up");
    shell("nsenter -t %d -n sh -c 'ip link add aa type veth peer name ab && "
          "ip addr add 10.8.0.2/24 dev aa && ip link set aa up && ip link set ab up'",
          other);
    cable(other, 0);
}

static void host_dead_candidate(void)
{
    enter(wire_dead);
    open_host();
    uint64_t start = base_now_ns();
    join_hosts();
    CHECK_LT(base_now_ns() - start, 25 * SECOND / 10); /* one lost SYN while the cable comes up */
    CHECK_EQ(rails(), 1);
    exchange(300, 100000, 0, NULL);
    if (!me)
        CHECK_EQ(endpoint()->slot[0]->own_index, (int64_t)if_nametoindex("n0"));
}

static void dead_candidate(void)
{
    two_hosts(host_dead_candidate);
}

/* --- lists of interfaces ------------------------------------------------------------------------------------------- */
static void host_filtered(void)
{
    enter(wire_two);
    open_host();
    join_hosts();
    CHECK_EQ(rails(), 1);
    if (!me)
        CHECK_EQ(endpoint()->slot[0]->own_index, (int64_t)if_nametoindex("n1"));
    exchange(200, 100000, 0, NULL);
}

static void filters(void)
{
    knob[0] = "CHOIR_SOCKET_IFNAME", knob[1] = "^n0,lo";
    two_hosts(host_filtered);
    knob[0] = "CHOIR_SOCKET_IFNAME", knob[1] = "^=lo,n0"; /* but not n0x, were there one */
    two_hosts(host_filtered);
    knob[0] = "CHOIR_SOCKET_IFNAME", knob[1] = "=n1";
    two_hosts(host_filtered);
}

/* --- IPv6, link-local too ------------------------------------------------------------------------------------------- */
static void wire_v6(int other)
{
    shell("ip link add n0 type veth peer name n0 netns %d", other);
    shell("ip -6 addr add fe80::1/64 dev n0 nodad && ip link set n0 up");
    shell("nsenter -t %d -n sh -c 'ip -6 addr add fe80::2/64 dev n0 nodad && ip link set n0 up'",
          other);
    usleep(100000);
}

static void wire_v6_global(int other)
{
    wire_v6(other);
    shell("ip -6 addr add fd77::1/64 dev n0 nodad");
    shell("nsenter -t %d -n ip -6 addr add fd77::2/64 dev n0 nodad", other);
}

static void host_v6(void)
{
    enter(wire_v6);
    open_host();
    join_hosts();
    exchange(300, 100000, 0, NULL);
    CHECK_EQ(endpoint()->slot[0]->rank == 3, !me); /* the dialer knows */
}

static void host_v6_global(void)
{
    enter(wire_v6_global);
    open_host();
    join_hosts();
    exchange(300, 100000, 0, NULL);
    CHECK_EQ(endpoint()->slot[0]->rank == 1, !me);
}

static void ipv6(void)
{
    two_hosts(host_v6);
    two_hosts(host_v6_global);
}

/* --- the other host is gone -------------------------------------------------------------------------------------------- */
static void host_gone(void)
{
    enter(wire_one);
    open_host();
    join_hosts();
    exchange(50, 10000, 0, NULL);
    if (me) {
        shell("ip link set n0 down");
        for (int i = 0; i < 2500 && !atomic_load(&board->done); i++)
            usleep(10000);
        _exit(0);
    }
    char x[100] = {0};
    stub_send(&host.peer[0], 0, CHOIR_FRAME_DATA, x, sizeof(x), NULL);
    uint64_t start = base_now_ns();
    while (!host.peer[0].failed && base_now_ns() < start + 22 * SECOND)
        stub_progress(&host);
    printf("a host without power is noticed after %" PRIu64 " ms: %s\n",
           (base_now_ns() - start) / 1000000, host.peer[0].text);
    CHECK_EQ(host.peer[0].failed, 1);
    CHECK_EQ(host.peer[0].status, CHOIR_ERR_PEER_DEAD);
    atomic_store(&board->done, 1);
    fflush(NULL);
    _exit(0);
}

static void gone(void)
{
    if (!test_effort())
        test_skip("15 s of waiting are not in the short form");
    two_hosts(host_gone); /* names what it needs */
}

/* --- without a secret nobody comes in from another host ------------------------------------------------------------------- */
static void host_no_secret(void)
{
    enter(wire_one);
    stub_init(&host, &choir_transport_tcp);
    stub_secret(&host, NULL);
    host.host.host_id = me ? "host b" : "host a";
    if (knob[0])
        stub_knob(&host, knob[0], knob[1]);
    stub_open(&host);
    board->process[me] = host.host.self;
    board->bytes[me] = stub_address(&host, board->address[me]);
    atomic_fetch_add(&board->ready, 1);
    wait_for(&board->ready, 2);
    if (knob[0]) {
        join_hosts();
        exchange(100, 10000, 0, NULL);
        return;
    }
    if (!me) {
        stub_connect(&host, &board->process[1], board->address[1], board->bytes[1]);
        uint64_t start = base_now_ns();
        while (host.ops->connected(endpoint()) == CHOIR_IN_PROGRESS &&
               base_now_ns() < start + 10 * SECOND)
            stub_progress(&host);
        CHECK_EQ(host.ops->connected(endpoint()), CHOIR_ERR_AUTH);
        atomic_store(&board->done, 1);
    }
    wait_for(&board->done, 1);
    CHECK_EQ(host.accepted_count, 0);
}

static void no_secret(void)
{
    two_hosts(host_no_secret);
    knob[0] = "CHOIR_INSECURE", knob[1] = "1";
    two_hosts(host_no_secret);
}

TEST_MAIN(TEST(link_down), TEST(zerocopy_sends), TEST(dead_candidate), TEST(filters), TEST(ipv6),
          TEST(gone), TEST(no_secret))
