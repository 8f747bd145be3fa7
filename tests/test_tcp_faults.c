/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_tcp_faults.c: what goes wrong on purpose: connections cut in mid-stream, peers killed and stopped,
 * crossing connects, strangers at the port, wrong secrets, forked children, descriptors.
 */
#include "tests/lib/stub_host.h"
#include "tests/lib/test.h"
#include "transports/tcp/tcp.h"
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND 1000000000ull

static void pair_open(struct stub *a, struct stub *b)
{
    stub_open(a);
    stub_open(b);
}

static void pair_init(struct stub *a, struct stub *b)
{
    stub_init(a, &choir_transport_tcp);
    stub_init(b, &choir_transport_tcp);
}

static void pair_close(struct stub *a, struct stub *b)
{
    stub_service_start(b);
    stub_close(a);
    stub_close(b);
}

/* --- connections cut in mid-stream ------------------------------------------------------------------------ */
static uint64_t cut_ns, cuts, cut_state;

/* Breaks a random connected socket of this process: as if the network had, or the peer's kernel (RST). */
static bool cut_one(void)
{
    int fd[64], n = 0;
    for (int i = 3; i < 256 && n < 64; i++) {
        struct sockaddr_storage s;
        socklen_t bytes = sizeof(s);
        if (!getpeername(i, (struct sockaddr *)&s, &bytes) && s.ss_family != AF_UNIX)
            fd[n++] = i;
    }
    if (!n)
        return false;
    int victim = fd[base_random(&cut_state) % (uint64_t)n];
    if (base_random(&cut_state) % 2) {
        struct sockaddr none = {.sa_family = AF_UNSPEC};
        return !connect(victim, &none, sizeof(none));
    }
    return !shutdown(victim, base_random(&cut_state) % 2 ? SHUT_RDWR : SHUT_WR);
}

static void cut_now_and_then(struct stub *a, struct stub *b)
{
    CHECK_EQ(a->peer[0].failed + b->peer[0].failed, 0);
    if (base_now_ns() < cut_ns || cuts >= 25)
        return;
    cuts += cut_one();
    cut_ns = base_now_ns() + 1000000 + base_random(&cut_state) % 30000000;
}

static void cut_case(const char *knob, const char *value, uint64_t frames, uint32_t most)
{
    struct stub a, b;
    pair_init(&a, &b);
    if (knob) {
        stub_knob(&a, knob, value);
        stub_knob(&b, knob, value);
    }
    pair_open(&a, &b);
    stub_join(&a, &b);
    cuts = cut_ns = 0;
    cut_state = test_seed();
    stub_traffic(&a, &b, frames, most, cut_now_and_then);
    CHECK_LT(2, cuts);
    CHECK_EQ(a.peer_count + b.peer_count, 2);
    pair_close(&a, &b);
}

static void cut_in_stream(void)
{
    cut_case(NULL, NULL, 1500, 1000000);
}

static void cut_several_sockets(void)
{
    cut_case("CHOIR_SOCKETS", "4", 1500, 1000000);
}

static void cut_encrypted(void)
{
    cut_case("CHOIR_ENCRYPT", "1", 1200, 500000);
}

/* --- crossing connects --------------------------------------------------------------------------------------- */
static bool both_connected(struct stub *a, struct stub *b)
{
    return a->ops->connected(a->peer[0].endpoint) == CHOIR_OK &&
           b->ops->connected(b->peer[0].endpoint) == CHOIR_OK;
}

static void crossing_connects(void)
{
    for (int i = 0; i < 40; i++) {
        struct stub a, b;
        char to_a[STUB_ADDRESS], to_b[STUB_ADDRESS];
        pair_init(&a, &b);
        stub_knob(&a, "CHOIR_SOCKETS", i % 2 ? "3" : "1");
        stub_knob(&b, "CHOIR_SOCKETS", i % 2 ? "3" : "1");
        pair_open(&a, &b);
        size_t bytes_a = stub_address(&a, to_a), bytes_b = stub_address(&b, to_b);
        stub_connect(&a, &b.host.self, to_b, bytes_b);
        for (int j = 0; j < i % 7; j++)
            stub_progress(&a);
        if (i % 3 == 2)
            for (int j = 0; j < i % 5; j++)
                stub_progress(&b);
        stub_connect(&b, &a.host.self, to_a, bytes_a);
        stub_until(&a, &b, both_connected, 5 * SECOND, "crossing");
        stub_traffic(&a, &b, 30, 100000, NULL);
        CHECK_EQ(a.peer_count, 1);
        CHECK_EQ(b.peer_count, 1);
        CHECK_EQ(a.peer[0].failed + b.peer[0].failed, 0);
        pair_close(&a, &b);
    }
}

/* In step: the answers of both dials come in one look, that of the one that is given up last. The other one stays. */
static uint32_t losses;
static void count_losses(void *context, int level, const char *text)
{
    (void)context, (void)level;
    losses += strstr(text, "lost") != NULL;
}

static void say_once(struct stub *m)
{
    static char x[64];
    if (m->peer[0].sent[0] || m->ops->connected(m->peer[0].endpoint) != CHOIR_OK)
        return;
    stub_fill(x, sizeof(x), 0, 0);
    CHECK_OK(stub_send(&m->peer[0], 0, 1, x, sizeof(x), NULL));
}

static void crossing_in_step(void)
{
    losses = 0;
    for (int i = 0; i < 40; i++) {
        struct stub a, b;
        char to_a[STUB_ADDRESS], to_b[STUB_ADDRESS];
        pair_init(&a, &b);
        a.host.log = b.host.log = count_losses;
        pair_open(&a, &b);
        size_t bytes_a = stub_address(&a, to_a), bytes_b = stub_address(&b, to_b);
        stub_connect(&a, &b.host.self, to_b, bytes_b);
        stub_connect(&b, &a.host.self, to_a, bytes_a);
        for (uint64_t end = base_now_ns() + 5 * SECOND;
             !a.peer[0].arrived[0] || !b.peer[0].arrived[0];) {
            stub_progress(&a);
            say_once(&a);
            stub_progress(&b);
            say_once(&b);
            usleep(20);
            CHECK(base_now_ns() < end);
        }
        for (int j = 0; j < 20; j++)
            stub_progress(&a), stub_progress(&b);
        pair_close(&a, &b);
    }
    CHECK_EQ(losses, 0);
}

/* --- killed, stopped, never there ------------------------------------------------------------------------------ */
struct meeting {
    struct choir_process process[2];
    char address[2][STUB_ADDRESS];
    size_t bytes[2];
    _Atomic int ready[2];
};

static struct meeting *meeting_new(void)
{
    struct meeting *m =
        mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(m != MAP_FAILED);
    return m;
}

/* A child that answers, and sends without end if told to. */
static pid_t peer_process(struct meeting *m, bool sends)
{
    pid_t pid = fork();
    CHECK_LE(0, pid);
    if (pid)
        return pid;
    struct stub b;
    stub_init(&b, &choir_transport_tcp);
    stub_open(&b);
    m->process[1] = b.host.self;
    m->bytes[1] = stub_address(&b, m->address[1]);
    atomic_store(&m->ready[1], 1);
    for (uint64_t i = 0;; i++) {
        stub_progress(&b);
        char x[64];
        uint64_t n = b.peer_count ? b.peer[0].sent[0] : 0;
        if (sends && b.peer_count && n < b.peer[0].arrived[0] + 100) {
            stub_fill(x, sizeof(x), 0, n);
            stub_send(&b.peer[0], 0, CHOIR_FRAME_DATA, x, sizeof(x), NULL);
        } else {
            usleep(100);
        }
    }
}

static struct stub_peer *meet_process(struct stub *a, struct meeting *m)
{
    while (!atomic_load(&m->ready[1]))
        usleep(1000);
    stub_init(a, &choir_transport_tcp);
    stub_open(a);
    return stub_connect(a, &m->process[1], m->address[1], m->bytes[1]);
}

static bool a_connected(struct stub *a, struct stub *b)
{
    (void)b;
    return a->ops->connected(a->peer[0].endpoint) == CHOIR_OK;
}

static bool a_failed(struct stub *a, struct stub *b)
{
    (void)b;
    return a->peer[0].failed > 0;
}

static bool a_decided(struct stub *a, struct stub *b)
{
    (void)b;
    return a->ops->connected(a->peer[0].endpoint) != CHOIR_IN_PROGRESS;
}

static void peer_killed(void)
{
    struct meeting *m = meeting_new();
    pid_t pid = peer_process(m, true);
    struct stub a;
    struct stub_peer *p = meet_process(&a, m);
    stub_until(&a, NULL, a_connected, 5 * SECOND, "joining");
    struct choir_send lent;
    char *payload = calloc(1, 8 << 20);
    uint64_t start = base_now_ns();
    while (base_now_ns() < start + SECOND / 10)
        stub_progress(&a);
    CHECK_LT(0, p->arrived[0]);
    CHECK_EQ(kill(pid, SIGSTOP), 0); /* so that the payload cannot be on its way to the end */
    CHECK_EQ(stub_send(p, 1, CHOIR_FRAME_DATA, payload, 8 << 20, &lent), CHOIR_IN_PROGRESS);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    waitpid(pid, NULL, 0);
    start = base_now_ns();
    stub_until(&a, NULL, a_failed, 5 * SECOND, "noticing a killed peer");
    printf("a killed peer is noticed after %" PRIu64 " ms\n", (base_now_ns() - start) / 1000000);
    CHECK_EQ(p->status, CHOIR_ERR_PEER_DEAD);
    CHECK_LT(atomic_load(&lent.done), 0);
    CHECK_EQ(stub_send(p, 0, CHOIR_FRAME_DATA, payload, 8, &lent), CHOIR_ERR_PEER_DEAD);
    CHECK_EQ(a.ops->connected(p->endpoint), CHOIR_ERR_PEER_DEAD);
    for (int i = 0; i < 1000; i++)
        stub_progress(&a);
    CHECK_EQ(p->failed, 1);
    stub_close(&a);
    free(payload);
    munmap(m, sizeof(*m));
}

/* A stopped peer is late, not dead, even if its connection breaks meanwhile. */
static void peer_stopped(void)
{
    struct meeting *m = meeting_new();
    pid_t pid = peer_process(m, true);
    struct stub a;
    struct stub_peer *p = meet_process(&a, m);
    stub_until(&a, NULL, a_connected, 5 * SECOND, "joining");
    uint64_t start = base_now_ns();
    while (base_now_ns() < start + SECOND / 10)
        stub_progress(&a);
    kill(pid, SIGSTOP);
    cut_state = test_seed();
    CHECK(cut_one());
    start = base_now_ns();
    while (base_now_ns() < start + 3 * SECOND) {
        stub_progress(&a);
        usleep(100);
    }
    CHECK_EQ(p->failed, 0);
    uint64_t before = p->arrived[0];
    kill(pid, SIGCONT);
    char x[64];
    for (uint64_t i = 0; i < 200; i++) { /* it goes on once we answer */
        stub_fill(x, sizeof(x), 0, p->sent[0]);
        stub_send(p, 0, CHOIR_FRAME_DATA, x, sizeof(x), NULL);
    }
    start = base_now_ns();
    while (p->arrived[0] < before + 100 && base_now_ns() < start + 10 * SECOND)
        stub_progress(&a);
    CHECK_LE(before + 100, p->arrived[0]);
    CHECK_EQ(p->failed, 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    stub_close(&a);
    munmap(m, sizeof(*m));
}

static void nobody_there(void)
{
    struct stub a, b;
    char address[STUB_ADDRESS];
    pair_init(&a, &b);
    pair_open(&a, &b);
    struct choir_process gone = b.host.self;
    size_t bytes = stub_address(&b, address);
    stub_close(&b);
    stub_connect(&a, &gone, address, bytes);
    stub_until(&a, NULL, a_decided, 8 * SECOND, "noticing that nobody is there");
    CHECK_EQ(a.ops->connected(a.peer[0].endpoint), CHOIR_ERR_NETWORK);
    CHECK_EQ(a.peer[0].failed, 0); /* never connected */
    CHECK_EQ(a.log_count, 1);
    printf("%s\n", a.last_log);
    stub_close(&a);
}

/* --- farewells ----------------------------------------------------------------------------------------------------- */
static bool b_failed(struct stub *a, struct stub *b)
{
    (void)a;
    return b->peer_count && b->peer[0].failed;
}

static void farewell(void)
{
    struct stub a, b;
    pair_init(&a, &b);
    pair_open(&a, &b);
    stub_join(&a, &b);
    char x[200];
    for (int i = 0; i < 500; i++) {
        stub_fill(x, sizeof(x), 2, a.peer[0].sent[2]);
        CHECK_OK(stub_send(&a.peer[0], 2, i % 2 ? 1 : CHOIR_FRAME_DATA, x, sizeof(x), NULL));
    }
    a.ops->disconnect(a.peer[0].endpoint);
    a.peer[0].endpoint = NULL;
    stub_until(&a, &b, b_failed, 3 * SECOND, "the farewell");
    CHECK_EQ(b.peer[0].arrived[2], 500);
    CHECK_EQ(b.peer[0].status, CHOIR_ERR_PEER_DEAD);
    b.ops->disconnect(b.peer[0].endpoint);
    b.peer[0].endpoint = NULL;
    /* and again, a new endpoint between the same processes */
    char address[STUB_ADDRESS];
    size_t bytes = stub_address(&a, address);
    stub_connect(&b, &a.host.self, address, bytes);
    uint64_t end = base_now_ns() + 5 * SECOND;
    while (b.ops->connected(b.peer[0].endpoint) != CHOIR_OK && base_now_ns() < end) {
        stub_progress(&a);
        stub_progress(&b);
    }
    CHECK_OK(b.ops->connected(b.peer[0].endpoint));
    CHECK_EQ(a.peer_count, 2);
    pair_close(&a, &b);
}

/* A lent payload is not touched after disconnect(). */
static void farewell_while_lent(void)
{
    struct stub a, b;
    pair_init(&a, &b);
    pair_open(&a, &b);
    stub_join(&a, &b);
    b.unchecked = true;
    struct choir_send r[8];
    char *payload =
        mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(payload != MAP_FAILED);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(stub_send(&a.peer[0], 0, CHOIR_FRAME_DATA, payload, 16 << 20, &r[i]),
                 CHOIR_IN_PROGRESS);
    stub_progress(&a);
    a.ops->disconnect(a.peer[0].endpoint);
    a.peer[0].endpoint = NULL;
    for (int i = 0; i < 8; i++)
        CHECK_NE(atomic_load(&r[i].done), 0);
    munmap(payload, 16 << 20);
    stub_until(&a, &b, b_failed, 5 * SECOND, "the end");
    pair_close(&a, &b);
}

/* --- strangers -------------------------------------------------------------------------------------------------------- */
static int dial_port(struct stub *b)
{
    char blob[STUB_ADDRESS];
    struct tcp_address address;
    CHECK(tcp_net_address_read(&address, blob, stub_address(b, blob)));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(address.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_EQ(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static void drive(struct stub *b, uint64_t ns)
{
    uint64_t end = base_now_ns() + ns;
    while (base_now_ns() < end)
        stub_progress(b);
}

static bool closed(int fd)
{
    char x[4096];
    ssize_t n;
    while ((n = recv(fd, x, sizeof(x), MSG_DONTWAIT)) > 0)
        ;
    return !n || errno == ECONNRESET;
}

static void strangers(void)
{
    struct stub a, b;
    pair_init(&a, &b);
    pair_open(&a, &b);
    int silent[200], garbage, half, http;
    struct tcp_hello hello = {.magic = TCP_MAGIC, .version = TCP_VERSION, .to = b.host.self};
    unsigned char junk[8192];
    randombytes_buf(junk, sizeof(junk));
    for (int i = 0; i < 200; i++) /* more than are let in at a time */
        silent[i] = dial_port(&b);
    drive(&b, SECOND / 20);
    garbage = dial_port(&b), half = dial_port(&b), http = dial_port(&b);
    CHECK_EQ(send(garbage, junk, sizeof(junk), MSG_NOSIGNAL), sizeof(junk));
    CHECK_EQ(send(half, &hello, 20, MSG_NOSIGNAL), 20);
    CHECK_LT(0, send(http, "GET / HTTP/1.0\r\nHost: x\r\n\r\n", 28, MSG_NOSIGNAL));
    stub_join(&a, &b); /* the house is full of strangers, and yet */
    stub_traffic(&a, &b, 200, 10000, NULL);
    drive(&b, SECOND / 10);
    CHECK(closed(garbage));
    CHECK(closed(http));
    close(half);
    drive(&b, 55 * SECOND / 10);
    for (int i = 0; i < 200; i++) {
        CHECK(closed(silent[i]));
        close(silent[i]);
    }
    CHECK_LT(2, b.log_count);
    CHECK_LT(b.log_count, 60);
    CHECK_EQ(b.accepted_count, 1);
    close(garbage), close(http);
    pair_close(&a, &b);
}

static void handshake_lies(void)
{
    struct stub b;
    stub_init(&b, &choir_transport_tcp);
    stub_open(&b);
    unsigned char name[16], secret[32];
    CHECK(b.host.secret(&b, NULL, name, secret));
    for (int lie = 0; lie < 6; lie++) {
        int fd = dial_port(&b);
        struct tcp_hello hello = {.magic = TCP_MAGIC, .version = TCP_VERSION, .to = b.host.self};
        struct tcp_challenge q = {0};
        struct tcp_auth auth;
        memcpy(hello.secret_name, name, 16);
        hello.from.bytes[0] = 7;
        if (lie == 0)
            hello.version = 99;
        if (lie == 1)
            hello.to.bytes[3] ^= 1; /* meant for another process */
        if (lie == 2)
            hello.secret_name[0] ^= 1;
        if (lie == 3)
            memset(hello.secret_name, 0, 16); /* claims that there is no secret */
        if (lie == 4)
            hello.from = b.host.self; /* claims to be the acceptor itself */
        CHECK_EQ(send(fd, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
        drive(&b, SECOND / 50);
        ssize_t n = recv(fd, &q, sizeof(q), MSG_DONTWAIT);
        CHECK(lie == 0 ? n <= 0 : n == (ssize_t)sizeof(q));
        CHECK_EQ(lie == 5, n > 0 && q.verdict == TCP_YES);
        memset(&auth, 3, sizeof(auth)); /* no proof */
        (void)!send(fd, &auth, sizeof(auth), MSG_NOSIGNAL);
        drive(&b, SECOND / 50);
        CHECK(closed(fd));
        close(fd);
    }
    CHECK_EQ(b.accepted_count, 0);
    stub_close(&b);
}

/* What a true dialer once sent does not open the door a second time. */
static void replay(void)
{
    struct stub b;
    stub_init(&b, &choir_transport_tcp);
    stub_open(&b);
    unsigned char secret[32];
    struct tcp_hello hello = {.magic = TCP_MAGIC, .version = TCP_VERSION, .to = b.host.self};
    CHECK(b.host.secret(&b, NULL, hello.secret_name, secret));
    randombytes_buf(&hello.from, sizeof(hello.from));
    randombytes_buf(hello.nonce, sizeof(hello.nonce));
    struct tcp_auth auth;
    for (int again = 0; again < 2; again++) {
        struct tcp_challenge q;
        struct tcp_auth_body body = {.epoch = 5, .slot = 0};
        int fd = dial_port(&b);
        CHECK_EQ(send(fd, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
        drive(&b, SECOND / 50);
        CHECK_EQ(recv(fd, &q, sizeof(q), MSG_DONTWAIT), sizeof(q));
        if (!again) {
            struct tcp_proofs proofs;
            struct tcp_keys *k = tcp_keys_derive(secret, &hello, &q, true, &proofs);
            memcpy(auth.proof, proofs.dialer, 32);
            tcp_seal(k, auth.sealed, &body, sizeof(body), NULL, 0);
            tcp_keys_free(k);
        }
        CHECK_EQ(send(fd, &auth, sizeof(auth), MSG_NOSIGNAL), sizeof(auth));
        drive(&b, SECOND / 50);
        struct tcp_ready ready;
        CHECK_EQ(recv(fd, &ready, sizeof(ready), MSG_DONTWAIT), again ? 0 : sizeof(ready));
        close(fd);
    }
    CHECK_EQ(b.accepted_count, 1);
    stub_close(&b);
}

static void wrong_secret(void)
{
    struct stub a, b;
    char address[STUB_ADDRESS];
    pair_init(&a, &b);
    stub_secret(&a, "another secret");
    pair_open(&a, &b);
    size_t bytes = stub_address(&b, address);
    stub_connect(&a, &b.host.self, address, bytes);
    stub_until(&a, &b, a_decided, 8 * SECOND, "the refusal");
    CHECK_EQ(a.ops->connected(a.peer[0].endpoint), CHOIR_ERR_AUTH);
    CHECK_EQ(b.accepted_count, 0);
    CHECK_LT(0, b.log_count);
    pair_close(&a, &b);
}

/* The library does not want the peer. */
static void not_accepted(void)
{
    struct stub a, b;
    char address[STUB_ADDRESS];
    pair_init(&a, &b);
    b.refuse = true;
    pair_open(&a, &b);
    size_t bytes = stub_address(&b, address);
    stub_connect(&a, &b.host.self, address, bytes);
    stub_until(&a, &b, a_decided, 8 * SECOND, "the refusal");
    CHECK_LT(a.ops->connected(a.peer[0].endpoint), 0);
    pair_close(&a, &b);
}

/* disconnect() while other threads drive: no upcall after its return. */
static void disconnect_while_driven(void)
{
    for (int i = 0; i < 30; i++) {
        struct stub a, b;
        pair_init(&a, &b);
        pair_open(&a, &b);
        stub_join(&a, &b);
        stub_service_start(&a);
        stub_service_start(&b);
        char x[100];
        for (int j = 0; j < 200; j++) {
            stub_fill(x, sizeof(x), 0, b.peer[0].sent[0]);
            stub_send(&b.peer[0], 0, CHOIR_FRAME_DATA, x, sizeof(x), NULL);
        }
        a.ops->disconnect(a.peer[0].endpoint);
        a.peer[0].endpoint = NULL;
        uint64_t arrived = a.arrived_count;
        usleep(2000);
        CHECK_EQ(a.arrived_count, arrived);
        stub_close(&a);
        stub_close(&b);
    }
}

static void no_secret(void)
{
    struct stub a, b;
    pair_init(&a, &b);
    stub_secret(&a, NULL);
    stub_secret(&b, NULL);
    pair_open(&a, &b);
    stub_join(&a, &b); /* one host and one user */
    stub_traffic(&a, &b, 200, 10000, NULL);
    pair_close(&a, &b);
}

/* --- the process ---------------------------------------------------------------------------------------------------- */
static void forked_child(void)
{
    struct stub a, b;
    pair_init(&a, &b);
    pair_open(&a, &b);
    stub_join(&a, &b);
    fflush(NULL);
    pid_t pid = fork();
    CHECK_LE(0, pid);
    if (!pid) {
        int before = test_open_files();
        a.ops->close(a.t);
        b.ops->close(b.t);
        _exit(before - test_open_files() < 8); /* the parent's connections live on */
    }
    int st;
    waitpid(pid, &st, 0);
    CHECK_EQ(st, 0);
    stub_traffic(&a, &b, 300, 100000, NULL);
    CHECK_EQ(a.peer[0].failed + b.peer[0].failed, 0);
    pair_close(&a, &b);
}

static void descriptor_leak(void)
{
    int before = test_open_files();
    for (int i = 0; i < 25; i++) {
        struct stub a, b;
        pair_init(&a, &b);
        stub_knob(&a, "CHOIR_SOCKETS", "2");
        pair_open(&a, &b);
        stub_join(&a, &b);
        stub_traffic(&a, &b, 20, 30000, NULL);
        pair_close(&a, &b);
    }
    CHECK_EQ(test_open_files(), before);
}

static void port_range(void)
{
    struct stub a, b, c;
    struct tcp_address address;
    char blob[STUB_ADDRESS];
    pair_init(&a, &b);
    stub_init(&c, &choir_transport_tcp);
    stub_knob(&a, "CHOIR_PORT_RANGE", "21730-21731");
    stub_knob(&b, "CHOIR_PORT_RANGE", "21730-21731");
    stub_knob(&c, "CHOIR_PORT_RANGE", "21730-21731");
    pair_open(&a, &b);
    CHECK(tcp_net_address_read(&address, blob, stub_address(&a, blob)));
    CHECK(address.port == 21730 || address.port == 21731);
    CHECK_EQ(choir_transport_tcp.open(&c.host, &c.t), CHOIR_ERR_NETWORK);
    stub_knob(&c, "CHOIR_PORT_RANGE", "80-");
    CHECK_EQ(choir_transport_tcp.open(&c.host, &c.t), CHOIR_ERR_ARGUMENT);
    stub_knob(&c, "CHOIR_PORT_RANGE", "");
    stub_knob(&c, "CHOIR_SOCKET_FAMILY", "IPX");
    CHECK_EQ(choir_transport_tcp.open(&c.host, &c.t), CHOIR_ERR_ARGUMENT);
    stub_knob(&c, "CHOIR_SOCKET_FAMILY", "");
    stub_knob(&c, "CHOIR_SOCKET_IFNAME", "=nonesuch0");
    char text[200];
    CHECK_EQ(choir_transport_tcp.probe(&c.host, text, sizeof(text)), CHOIR_ERR_UNSUPPORTED);
    stub_join(&a, &b);
    pair_close(&a, &b);
    /* the port is free at once for the next job */
    stub_knob(&c, "CHOIR_SOCKET_IFNAME", "lo");
    stub_knob(&c, "CHOIR_PORT_RANGE", "21730-21731");
    stub_open(&c);
    stub_close(&c);
}

TEST_MAIN(TEST(cut_in_stream), TEST(cut_several_sockets), TEST(cut_encrypted),
          TEST(crossing_connects), TEST(crossing_in_step), TEST(peer_killed), TEST(peer_stopped),
          TEST(nobody_there), TEST(farewell), TEST(farewell_while_lent), TEST(strangers),
          TEST(handshake_lies), TEST(replay), TEST(wrong_secret), TEST(not_accepted),
          TEST(disconnect_while_driven), TEST(no_secret), TEST(forked_child), TEST(descriptor_leak),
          TEST(port_range))
