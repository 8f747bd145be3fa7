/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_perf.c: the TCP transport alone against plain non-blocking sockets, in turns, between two processes:
 * ping-pong and streams, one way and both. No communicator, no plan.
 *
 * usage: tcp_perf [-r rounds] [-n netns0,netns1] [-f frame bytes] [-k KNOB=value]... [-t seconds/cell] [-w bytes under way] [-c cells]
 */
#include "base/base.h"
#include "choir_transport.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern const struct choir_transport_ops choir_transport_tcp;

#define ROUNDS_MOST 512
#define FRAMES 64 /* under way */

struct shared {
    _Atomic int arrived;
    struct choir_process process[2];
    unsigned char address[2][1024];
    size_t bytes[2];
    struct sockaddr_in raw;
    _Atomic uint64_t begin_ns[2], end_ns[2], count;
};

static struct shared *shared;
static int me, meetings;
static const char *knobs[16][2];
static char *out, *in;
static bool pinging;
static uint64_t got_bytes, got_frames, place_at;
static uint32_t frame_most = 1 << 20;
static double seconds = 0.3;
static size_t under_way = 4 << 20;
static const char *only; /* p8,o65536,b1048576: these cells */

static void die(const char *what)
{
    fprintf(stderr, "tcp_perf: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- the host of the transport ------------------------------------------------------------------------ */
static struct choir_endpoint *endpoint;
static struct choir_transport *transport;

static void *accepted(void *c, const struct choir_process *p, struct choir_endpoint *e)
{
    (void)c, (void)p;
    endpoint = e;
    return e; /* any cookie: NULL would refuse */
}

static void *place(void *c, void *cookie, const struct choir_frame *f)
{
    (void)c, (void)cookie;
    void *where = in + place_at;
    place_at += f->bytes;
    if (pinging || place_at >= (32u << 20))
        place_at = 0;
    return where;
}

static void arrived(void *c, void *cookie, const struct choir_frame *f, void *where)
{
    (void)c, (void)cookie, (void)where;
    got_bytes += f->bytes;
    got_frames++;
}

static void failed(void *c, void *cookie, enum choir_status s, int e, const char *text)
{
    (void)c, (void)cookie, (void)e;
    fprintf(stderr, "tcp_perf: %s: %s\n", choir_status_name(s), text);
    exit(1);
}

static int secret(void *c, const unsigned char *name, unsigned char name_out[16],
                  unsigned char key[32])
{
    (void)c, (void)name;
    memset(name_out, 1, 16);
    memset(key, 2, 32);
    return 1;
}

static void log_line(void *c, int level, const char *text)
{
    (void)c;
    fprintf(stderr, "%.3f log %d %s\n", (double)base_now_ns() * 1e-9, level, text);
}

static const char *knob(void *c, const char *name)
{
    (void)c;
    for (int i = 0; knobs[i][0]; i++)
        if (!strcmp(knobs[i][0], name))
            return knobs[i][1];
    return NULL;
}

static struct choir_transport_host host = {.bytes = sizeof(host),
                                           .abi = CHOIR_TRANSPORT_ABI,
                                           .host_id = "one",
                                           .accepted = accepted,
                                           .place = place,
                                           .arrived = arrived,
                                           .failed = failed,
                                           .secret = secret,
                                           .log = log_line,
                                           .knob = knob};

static void meet(void)
{
    meetings += 2;
    atomic_fetch_add(&shared->arrived, 1);
    while (atomic_load(&shared->arrived) < meetings)
        if (transport)
            choir_transport_tcp.progress(transport);
}

static void ours_join(void)
{
    if (getrandom(&host.self, sizeof(host.self), 0) != sizeof(host.self) ||
        choir_transport_tcp.open(&host, &transport))
        die("open");
    shared->bytes[me] = sizeof(shared->address[0]);
    shared->process[me] = host.self;
    choir_transport_tcp.address(transport, shared->address[me], &shared->bytes[me]);
    meet();
    if (!me && choir_transport_tcp.connect(transport, &shared->process[1], shared->address[1],
                                           shared->bytes[1], NULL, &endpoint))
        die("connect");
    while (!endpoint || choir_transport_tcp.connected(endpoint) != CHOIR_OK)
        choir_transport_tcp.progress(transport);
    uint64_t end = base_now_ns() + 300000000;
    while (base_now_ns() < end) /* further rails and sockets */
        choir_transport_tcp.progress(transport);
    meet();
}

static void ours_send(const char *p, uint32_t bytes, struct choir_send *request)
{
    struct choir_frame f = {.bytes = bytes, .kind = CHOIR_FRAME_DATA};
    if (choir_transport_tcp.send(endpoint, &f, p, request) == CHOIR_OK)
        atomic_store_explicit(&request->done, 1, memory_order_relaxed);
}

static void ours_pingpong(size_t bytes, uint64_t count)
{
    struct choir_send r = {1};
    uint64_t base = got_frames;
    for (uint64_t i = 0; i < count; i++)
        for (int turn = 0; turn < 2; turn++)
            if (turn == me) {
                ours_send(out, (uint32_t)bytes, &r);
                while (!atomic_load_explicit(&r.done, memory_order_acquire))
                    choir_transport_tcp.progress(transport);
            } else {
                while (got_frames == base + i)
                    choir_transport_tcp.progress(transport);
            }
}

/* `total` bytes out and `expect` in, in frames, a bounded number under way. */
static void ours_stream(size_t total, size_t expect, uint32_t frame)
{
    static struct choir_send r[FRAMES];
    size_t at = 0;
    uint64_t base = got_bytes;
    uint32_t next = 0, done = 0;
    while (at < total || done < next || got_bytes - base < expect) {
        while (at < total && next - done < FRAMES && (next - done) * (size_t)frame < under_way) {
            uint32_t n = (uint32_t)base_min(total - at, (size_t)frame);
            ours_send(out + at % (64u << 20), n, &r[next++ % FRAMES]);
            at += n;
        }
        choir_transport_tcp.progress(transport);
        while (done < next && atomic_load_explicit(&r[done % FRAMES].done, memory_order_acquire))
            done++;
    }
}

/* --- plain sockets -------------------------------------------------------------------------------------- */
static int raw;

static void raw_join(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t n = sizeof(shared->raw);
    if (me) {
        shared->raw = (struct sockaddr_in){.sin_family = AF_INET};
        if (bind(fd, (struct sockaddr *)&shared->raw, n) || listen(fd, 1) ||
            getsockname(fd, (struct sockaddr *)&shared->raw, &n))
            die("listen");
        meet();
        raw = accept(fd, NULL, NULL);
    } else {
        meet();
        const char *ip = getenv("TCP_PERF_IP");
        struct sockaddr_in a = shared->raw;
        unsigned q[4] = {127, 0, 0, 1};
        if (ip && sscanf(ip, "%u.%u.%u.%u", &q[0], &q[1], &q[2], &q[3]) != 4)
            die("TCP_PERF_IP");
        a.sin_addr.s_addr = htonl(q[0] << 24 | q[1] << 16 | q[2] << 8 | q[3]);
        if (connect(fd, (struct sockaddr *)&a, n))
            die("connect");
        raw = fd;
    }
    setsockopt(raw, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    fcntl(raw, F_SETFL, O_NONBLOCK);
    meet();
}

static void raw_move(size_t send_bytes, size_t recv_bytes)
{
    size_t o = 0, i = 0;
    while (o < send_bytes || i < recv_bytes) {
        if (o < send_bytes) {
            ssize_t k = send(raw, out + o % (64u << 20),
                             base_min(send_bytes - o, (size_t)(1 << 18)), MSG_NOSIGNAL);
            o += k > 0 ? (size_t)k : 0;
        }
        if (i < recv_bytes) {
            ssize_t k =
                recv(raw, in + i % (32u << 20), base_min(recv_bytes - i, (size_t)(1 << 20)), 0);
            i += k > 0 ? (size_t)k : 0;
        }
    }
}

static void raw_pingpong(size_t bytes, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        for (int turn = 0; turn < 2; turn++)
            raw_move(turn == me ? bytes : 0, turn == me ? 0 : bytes);
}

/* --- cells ------------------------------------------------------------------------------------------------ */
enum kind { PINGPONG, ONE_WAY, BOTH_WAYS };
static const char *const kind_name[] = {"ping-pong", "one way", "both ways"};

/* One measurement: us one way, or GB/s per direction. */
static double cell(enum kind kind, size_t bytes, int choir, uint64_t count)
{
    char token;
    pinging = kind == PINGPONG, place_at = 0;
    meet();
    uint64_t t = base_now_ns();
    if (kind == PINGPONG) {
        if (choir)
            ours_pingpong(bytes, count);
        else
            raw_pingpong(bytes, count);
    } else {
        size_t s = kind == BOTH_WAYS || !me ? bytes : 0, r = kind == BOTH_WAYS || me ? bytes : 0;
        if (choir)
            ours_stream(s * count, r * count, (uint32_t)base_min(bytes, (size_t)frame_most));
        else
            raw_move(s * count, r * count);
        if (!choir && kind == ONE_WAY)
            raw_move(me ? 1 : 0, me ? 0 : 1);
    }
    (void)token;
    atomic_store(&shared->begin_ns[me], t);
    atomic_store(&shared->end_ns[me], base_now_ns());
    meet();
    double ns = (double)(base_max(shared->end_ns[0], shared->end_ns[1]) -
                         base_min(shared->begin_ns[0], shared->begin_ns[1]));
    return kind == PINGPONG ? ns / (double)count / 2e3 : (double)bytes * (double)count / ns;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void row(enum kind kind, size_t bytes, int rounds)
{
    char name[32];
    snprintf(name, sizeof(name), "%c%zu,", kind_name[kind][0], bytes);
    char list[256];
    snprintf(list, sizeof(list), "%s,", only ? only : name);
    if (!strstr(list, name))
        return;
    double v[2][ROUNDS_MOST];
    double x = cell(kind, bytes, 0, 4),
           each = kind == PINGPONG ? x * 2e-6 : (double)bytes / x * 1e-9;
    if (!me) /* how many take long enough */
        atomic_store(&shared->count, base_max((uint64_t)(seconds / each), (uint64_t)1));
    meet();
    uint64_t count = atomic_load(&shared->count);
    cell(kind, bytes, 1, base_min(count, (uint64_t)20));
    for (int i = 0; i < rounds; i++)
        for (int choir = 0; choir < 2; choir++)
            v[choir][i] = cell(kind, bytes, choir, count);
    if (me)
        return;
    for (int c = 0; c < 2; c++)
        qsort(v[c], (size_t)rounds, sizeof(double), by_value);
    int m = rounds / 2, low = rounds / 10;
    double best =
        kind == PINGPONG ? v[1][low] / v[0][low] : v[0][rounds - 1 - low] / v[1][rounds - 1 - low];
    double ratio = kind == PINGPONG ? v[1][m] / v[0][m] : v[0][m] / v[1][m];
    printf("%-10s %9zu  raw %8.3f (%.3f-%.3f)  choir %8.3f (%.3f-%.3f) %s  time x %.3f, "
           "undisturbed x %.3f\n",
           kind_name[kind], bytes, v[0][m], v[0][0], v[0][rounds - 1], v[1][m], v[1][0],
           v[1][rounds - 1], kind == PINGPONG ? "us  " : "GB/s", ratio, best);
    fflush(stdout);
}

static void enter(const char *names)
{
    char path[128];
    const char *comma = strchr(names, ',');
    if (!comma)
        die("-n wants two names");
    if (me)
        snprintf(path, sizeof(path), "/var/run/netns/%s", comma + 1);
    else
        snprintf(path, sizeof(path), "/var/run/netns/%.*s", (int)(comma - names), names);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET))
        die(path);
    close(fd);
}

int main(int argc, char **argv)
{
    const char *netns = NULL;
    int rounds = 7, c, k = 0;
    while ((c = getopt(argc, argv, "r:n:f:k:t:w:c:")) != -1)
        if (c == 'r')
            rounds = base_min(atoi(optarg), ROUNDS_MOST);
        else if (c == 'n')
            netns = optarg;
        else if (c == 'f')
            frame_most = (uint32_t)atoi(optarg);
        else if (c == 'w')
            under_way = (size_t)atol(optarg);
        else if (c == 'c')
            only = optarg;
        else if (c == 't')
            seconds = atof(optarg);
        else if (c == 'k' && strchr(optarg, '=') && k < 15)
            knobs[k][0] = strtok(optarg, "="), knobs[k++][1] = strtok(NULL, "=");
        else
            return 2;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        die("mmap");
    pid_t child = fork();
    me = !child;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)me, &one);
    sched_setaffinity(0, sizeof(one), &one);
    out = malloc(80u << 20), in = malloc(80u << 20);
    memset(out, 1, 80u << 20), memset(in, 2, 80u << 20);
    if (netns)
        enter(netns);
    raw_join();
    ours_join();
    static const size_t pings[] = {8, 1024, 4096, 16384, 65536, 1 << 20};
    static const size_t streams[] = {65536, 1 << 20, 64 << 20};
    for (size_t i = 0; i < base_count(pings); i++)
        row(PINGPONG, pings[i], rounds);
    for (size_t i = 0; i < base_count(streams); i++) {
        row(ONE_WAY, streams[i], rounds);
        row(BOTH_WAYS, streams[i], rounds);
    }
    meet();
    struct choir_transport *t = transport;
    choir_transport_tcp.disconnect(endpoint);
    choir_transport_tcp.close(t);
    int st = 0;
    if (me)
        _exit(0);
    waitpid(child, &st, 0);
    return WIFEXITED(st) ? WEXITSTATUS(st) : 1;
}
