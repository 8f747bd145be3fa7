/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes wrong from outside: a rank killed at any moment, one stopped for a while, garbage thrown at the ports of a running job,
 * abort while another thread waits; and that making and destroying many communicators leaves nothing behind.
 */
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

static struct choir_id id;
static const char *const shm[] = {"CHOIR_LOG=error", NULL};
static const char *const tcp[] = {"CHOIR_TRANSPORTS=self,tcp", NULL};

static struct shared {
    _Atomic int stop, victim;
    _Atomic uint64_t calls[16], died_ms;
} * shared;

static enum choir_status one_call(choir_comm *c, int rank, int size, uint64_t x, float *in,
                                  float *out)
{
    uint64_t n = x % 3 ? x >> 8 & 63 : (x >> 8) % 40000;
    int root = (int)(x >> 40) % size;
    switch (x % 7) {
    case 0:
        return choir_all_reduce(c, in, out, n, CHOIR_FLOAT32, CHOIR_SUM, NULL);
    case 1:
        return choir_all_gather(c, in, out, n, CHOIR_FLOAT32, NULL);
    case 2:
        return choir_reduce_scatter(c, in, out, n / (uint64_t)size, CHOIR_FLOAT32, CHOIR_MAX, NULL);
    case 3:
        return choir_all_to_all(c, in, out, n / (uint64_t)size, CHOIR_FLOAT32, NULL);
    case 4:
        return choir_broadcast(c, in, out, n, CHOIR_FLOAT32, root, NULL);
    case 5:
        choir_group_start();
        choir_send(c, in, n, CHOIR_FLOAT32, (rank + 1) % size, NULL);
        choir_recv(c, out, n, CHOIR_FLOAT32, (rank + size - 1) % size, NULL);
        return choir_group_end();
    default:
        return choir_barrier(c, NULL);
    }
}

/* Calls without end; a survivor must be told who died, in time. */
static void worker(int rank, int size, uint64_t seed)
{
    float *in = calloc(8 * 40000, sizeof(*in)), *out = calloc(8 * 40000, sizeof(*out));
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    enum choir_status st = CHOIR_OK;
    for (uint64_t i = 0; st == CHOIR_OK; i++) {
        st = one_call(c, rank, size, test_mix(seed + i), in, out);
        shared->calls[rank] = i + 1;
    }
    struct choir_error e = {.bytes = sizeof(e)};
    CHECK_OK(choir_comm_last_error(c, &e));
    uint64_t took = test_now_ms() - shared->died_ms;
    if (st != CHOIR_ERR_PEER_DEAD || e.peer != shared->victim)
        FAIL("rank %d of %d: rank %d was killed; got %s, peer %d: %s", rank, size, shared->victim,
             choir_status_name(st), e.peer, e.text);
    if (took > 3000)
        FAIL("rank %d of %d heard after %" PRIu64 " ms", rank, size, took);
    CHECK_EQ(choir_barrier(c, NULL), CHOIR_ERR_PEER_DEAD);
    CHECK_OK(choir_comm_destroy(c));
    free(in);
    free(out);
}

static void killed(void)
{
    uint64_t seed = test_seed();
    int trials = test_long() ? 200 : 24;
    test_deadline(test_long() ? 600 : 100);
    for (int trial = 0; trial < trials; trial++) {
        uint64_t x = test_mix(seed + (uint64_t)trial);
        int n = 2 + (int)(x % 4), victim = (int)(x >> 8 & 0xff) % n;
        pid_t pid[8];
        memset(shared, 0, sizeof(*shared));
        shared->victim = victim;
        shared->died_ms = UINT64_MAX / 2;
        test_id(&id);
        for (int r = 0; r < n; r++)
            if (!(pid[r] = test_fork(trial % 2 ? tcp : shm))) {
                worker(r, n, x);
                _exit(0);
            }
        while (!shared->calls[victim])
            test_sleep_ms(1);
        usleep((useconds_t)(x >> 20) % 60000);
        shared->died_ms = test_now_ms();
        kill(pid[victim], SIGKILL);
        for (int r = 0; r < n; r++) {
            int st = test_reap(pid[r], 8000);
            if (st != (r == victim ? 128 + SIGKILL : 0))
                FAIL("trial %d over %s: rank %d of %d ended with %d, rank %d was killed", trial,
                     trial % 2 ? "tcp" : "shm", r, n, st, victim);
        }
    }
}

/* --- stopped, and garbage ------------------------------------------------------------------------ */

static void steady_rank(int rank, int size, void *arg)
{
    (void)arg;
    float in[300], out[300];
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    int go = 1, all = 1;
    for (int i = 0; all; i++) {
        for (int k = 0; k < 300; k++)
            in[k] = (float)(rank + i % 100 + k);
        CHECK_OK(choir_all_reduce(c, in, out, 300, CHOIR_FLOAT32, CHOIR_SUM, NULL));
        for (int k = 0; k < 300; k++)
            if (out[k] != (float)(size * (i % 100 + k) + size * (size - 1) / 2))
                FAIL("rank %d: operation %d: element %d is %g", rank, i, k, (double)out[k]);
        shared->calls[rank] = (uint64_t)i + 1;
        go = !shared->stop;
        CHECK_OK(choir_all_reduce(c, &go, &all, 1, CHOIR_INT32, CHOIR_MIN, NULL));
    }
    CHECK_OK(choir_comm_destroy(c));
}

static void start_steady(int n, const char *const *env, pid_t *pid)
{
    memset(shared, 0, sizeof(*shared));
    test_id(&id);
    for (int r = 0; r < n; r++)
        if (!(pid[r] = test_fork(env))) {
            steady_rank(r, n, NULL);
            _exit(0);
        }
    for (int r = 0; r < n; r++)
        while (!shared->calls[r])
            test_sleep_ms(1);
}

static void end_steady(int n, const pid_t *pid)
{
    shared->stop = 1;
    for (int r = 0; r < n; r++)
        CHECK_EQ(test_reap(pid[r], 15000), 0);
}

static void stopped(void)
{
    for (int over = 0; over < 2; over++) {
        pid_t pid[3];
        start_steady(3, over ? tcp : shm, pid);
        kill(pid[1], SIGSTOP);
        test_sleep_ms(1000);
        kill(pid[1], SIGCONT);
        uint64_t before = shared->calls[1];
        for (int i = 0; shared->calls[1] < before + 10; i++) {
            CHECK_LT(i, 5000);
            test_sleep_ms(1);
        }
        end_steady(3, pid);
    }
}

/* Listening tcp ports of a process: its sockets' inodes looked up in /proc/net/tcp and tcp6. */
static int ports_of(pid_t pid, uint16_t *port, int most)
{
    char path[64], line[512], name[64];
    uint64_t inode[256];
    int n = 0, inodes = 0;
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        ssize_t got = readlinkat(dirfd(d), e->d_name, name, sizeof(name) - 1);
        name[got > 0 ? got : 0] = 0;
        if (inodes < 256 && !strncmp(name, "socket:[", 8))
            inode[inodes++] = strtoull(name + 8, NULL, 10);
    }
    if (d)
        closedir(d);
    for (int v = 0; v < 2; v++) {
        FILE *f = fopen(v ? "/proc/net/tcp6" : "/proc/net/tcp", "r");
        while (f && fgets(line, sizeof(line), f)) {
            unsigned p, state;
            unsigned long long is;
            if (sscanf(line, " %*d: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x %*s %*s %*s %*s %*s %llu", &p,
                       &state, &is) != 3 ||
                state != 10)
                continue;
            for (int i = 0; i < inodes; i++)
                if (inode[i] == is && n < most)
                    port[n++] = (uint16_t)p;
        }
        if (f)
            fclose(f);
    }
    return n;
}

static bool throw_at(uint16_t port, uint64_t seed)
{
    uint8_t junk[4096];
    bool v6 = seed & 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 b = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    b.sin6_addr = in6addr_loopback;
    int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, v6 ? (void *)&b : (void *)&a, v6 ? sizeof(b) : sizeof(a))) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    for (size_t i = 0; i < sizeof(junk); i++)
        junk[i] = (uint8_t)test_mix(seed + i);
    if (seed % 5 == 0)
        memset(junk, seed % 2 ? 0xff : 0, sizeof(junk));
    if (seed % 5 == 1)
        memcpy(junk, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);
    (void)!send(fd, junk, 1 + seed % sizeof(junk), MSG_NOSIGNAL);
    if (seed % 3)
        test_sleep_ms(1);
    close(fd);
    return true;
}

static void garbage(void)
{
    pid_t pid[3];
    int thrown = 0;
    start_steady(3, tcp, pid);
    uint64_t until = test_now_ms() + 1500, before = shared->calls[0];
    for (uint64_t k = test_seed(); test_now_ms() < until; k++)
        for (int r = 0; r < 3; r++) {
            uint16_t port[32];
            int n = ports_of(pid[r], port, 32);
            for (int i = 0; i < n; i++)
                thrown += throw_at(port[i], test_mix(k * 64 + (uint64_t)(r * 32 + i)));
        }
    /* The rendezvous' port. */
    uint16_t port[32];
    struct choir_id other;
    int n = ports_of(test_id(&other), port, 32), here = 0;
    for (uint64_t k = 0; k < 100; k++)
        for (int i = 0; i < n; i++)
            here += throw_at(port[i], test_mix(k * 32 + (uint64_t)i));
    CHECK_LT(0, thrown);
    CHECK_LT(0, here);
    CHECK_LT(before, shared->calls[0]);
    end_steady(3, pid);
    id = other;
    test_ranks(2, tcp, steady_rank, NULL); /* stop is still set: one operation */
}

/* --- abort, destroy --------------------------------------------------------------------------------- */

static void *abort_soon(void *c)
{
    test_sleep_ms(100);
    CHECK_OK(choir_comm_abort(c));
    return NULL;
}

static void aborted_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c;
    pthread_t t;
    float x = 1, y;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    CHECK_OK(choir_barrier(c, NULL));
    if (!rank) {
        uint64_t start = test_now_ms();
        CHECK_EQ(pthread_create(&t, NULL, abort_soon, c), 0);
        CHECK_EQ(choir_all_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL), CHOIR_ERR_ABORTED);
        CHECK_LT(test_now_ms() - start, 1500);
        pthread_join(t, NULL);
    } else {
        test_sleep_ms(400);
        CHECK_EQ(choir_barrier(c, NULL), CHOIR_ERR_ABORTED);
    }
    test_sleep_ms(100);
    CHECK_OK(choir_comm_destroy(c));
}

static void aborts(void)
{
    for (int over = 0; over < 2; over++) {
        test_id(&id);
        test_ranks(2, over ? tcp : shm, aborted_rank, NULL);
    }
}

static choir_comm *at_exit[2];

static void destroy_at_exit(void)
{
    for (int i = 0; i < 2; i++)
        if (choir_comm_destroy(at_exit[i]) != CHOIR_OK)
            _exit(3);
}

/* Children before or after parents, by atexit, or not at all. */
static void orders_rank(int rank, int size, void *arg)
{
    int way = *(int *)arg;
    choir_comm *c, *half, *all;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    CHECK_OK(choir_comm_split(c, rank % 2, 0, NULL, &half));
    CHECK_OK(choir_comm_split(c, 0, -rank, NULL, &all));
    enum choir_status st = choir_barrier(all, NULL);
    if (st != CHOIR_OK)
        FAIL("way %d: rank %d: %s", way, rank, choir_status_name(st));
    if (way == 0 || way == 1) {
        CHECK_OK(choir_comm_destroy(way ? half : c));
        CHECK_OK(choir_comm_destroy(all));
        CHECK_OK(choir_comm_destroy(way ? c : half));
    } else if (way == 2) {
        at_exit[0] = c, at_exit[1] = all;
        CHECK_EQ(atexit(destroy_at_exit), 0);
        exit(0);
    } else {
        test_sleep_ms(200); /* an end without destroy is a death to who still waits */
        exit(0);
    }
}

static void orders(void)
{
    for (int way = 0; way < 4; way++)
        for (int over = 0; over < 2; over++) {
            test_id(&id);
            test_ranks(4, over ? tcp : shm, orders_rank, &way);
        }
}

static int open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static long resident_kib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%*d %ld", &pages) == 1);
    fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void cycles_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c, *child;
    int fds = 0;
    long kib = 0, sum = 0;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    for (int i = 0; i < 200; i++) {
        CHECK_OK(choir_comm_split(c, 0, i % 2 ? rank : -rank, NULL, &child));
        float x[3000] = {1}, y[3000];
        CHECK_OK(choir_all_reduce(child, x, y, i % 2 ? 1 : 3000, CHOIR_FLOAT32, CHOIR_SUM, NULL));
        sum += (long)y[0];
        CHECK_OK(choir_comm_destroy(child));
        if (i == 50)
            fds = open_fds(), kib = resident_kib();
    }
    CHECK_EQ(sum, 200 * size);
    CHECK_LE(open_fds(), fds + 4);
    if (!TEST_SANITIZED && resident_kib() > kib + 4096)
        FAIL("rank %d grew from %ld to %ld KiB", rank, kib, resident_kib());
    CHECK_OK(choir_comm_destroy(c));
}

static void cycles(void)
{
    for (int over = 0; over < 2; over++) {
        test_id(&id);
        test_ranks(2, over ? tcp : shm, cycles_rank, NULL);
    }
    /* Whole creations, alone in the process: everything starts and ends each time. */
    int fds = 0;
    for (int i = 0; i < 60; i++) {
        choir_comm *c;
        CHECK_OK(choir_id_create(&id));
        CHECK_OK(choir_comm_create(&id, 0, 1, NULL, &c));
        CHECK_OK(choir_barrier(c, NULL));
        CHECK_OK(choir_comm_destroy(c));
        if (i == 20)
            test_sleep_ms(50), fds = open_fds();
    }
    test_sleep_ms(50);
    CHECK_LE(open_fds(), fds + 4);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(killed), TEST(stopped), TEST(garbage),
                                             TEST(aborts), TEST(orders),  TEST(cycles)};
    argc = test_long_main(argc, argv);
    shared = test_shared(sizeof(*shared));
    signal(SIGPIPE, SIG_IGN);
    return test_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
