/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes wrong from outside, over shm and over tcp: a rank killed at any moment, stopped for a while or for good; garbage
 * thrown at the sockets of a running job; abort while another thread waits. Those who are left go on without the lost rank.
 */
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
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

/* The survivors go on. */
static void go_on_without(choir_comm *c, int lost, int size)
{
    choir_comm *less;
    int one = 1, sum = 0;
    CHECK_OK(choir_comm_shrink(c, &lost, 1, NULL, &less));
    CHECK_OK(choir_all_reduce(less, &one, &sum, 1, CHOIR_INT32, CHOIR_SUM, NULL));
    CHECK_EQ(sum, size - 1);
    CHECK_OK(choir_comm_destroy(less));
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
    go_on_without(c, shared->victim, size);
    CHECK_OK(choir_comm_destroy(c));
    free(in);
    free(out);
}

static void killed(void)
{
    uint64_t seed = test_seed();
    int trials = test_long() ? 200 : TEST_BY_EFFORT(6, 24, 200);
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

/* Never continued: a line of the log names it, then the deadline passes, and the others go on while it stands still. */
static void silent_rank(int rank, int size, void *arg)
{
    choir_comm *c;
    float x = 1, y;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    CHECK_OK(choir_barrier(c, NULL));
    shared->calls[rank] = 1;
    if (rank == 1)
        raise(SIGSTOP);
    enum choir_status st = choir_all_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL);
    struct choir_error e = {.bytes = sizeof(e)};
    CHECK_OK(choir_comm_last_error(c, &e));
    if (st != CHOIR_ERR_TIMEOUT || !strstr(e.text, "for rank 1"))
        FAIL("rank %d over %s: %s: %s", rank, (const char *)arg, choir_status_name(st), e.text);
    go_on_without(c, 1, size);
    CHECK_OK(choir_comm_destroy(c));
}

static bool log_says(const char *path, const char *what)
{
    char line[512];
    bool found = false;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f))
        found |= strstr(line, what) != NULL;
    if (f)
        fclose(f);
    return found;
}

static void silent(void)
{
    char file[300], log[320];
    test_path(file, sizeof(file), "log");
    fclose(fopen(file, "w"));
    snprintf(log, sizeof(log), "CHOIR_LOG_FILE=%s", file);
    for (int over = 0; over < 2; over++) {
        const char *name = over ? "tcp" : "shm", *const env[] = {
                                                     "CHOIR_LATE=400ms", "CHOIR_TIMEOUT=1500ms",
                                                     log, over ? tcp[0] : "CHOIR_LOG=warn", NULL};
        pid_t pid[3];
        memset(shared, 0, sizeof(*shared));
        test_id(&id);
        CHECK_EQ(truncate(file, 0), 0);
        for (int r = 0; r < 3; r++)
            if (!(pid[r] = test_fork(env))) {
                silent_rank(r, 3, (void *)(uintptr_t)name);
                _exit(0);
            }
        CHECK_EQ(test_reap(pid[0], 15000), 0);
        CHECK_EQ(test_reap(pid[2], 15000), 0);
        kill(pid[1], SIGKILL);
        CHECK_EQ(test_reap(pid[1], 5000), 128 + SIGKILL);
        if (!log_says(file, "for rank 1"))
            FAIL("over %s: no line of the log names rank 1", name);
    }
}

static int sockets_of(pid_t pid, uint64_t *inode, int most)
{
    char path[64], name[64];
    int inodes = 0;
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        ssize_t got = readlinkat(dirfd(d), e->d_name, name, sizeof(name) - 1);
        name[got > 0 ? got : 0] = 0;
        if (inodes < most && !strncmp(name, "socket:[", 8))
            inode[inodes++] = strtoull(name + 8, NULL, 10);
    }
    if (d)
        closedir(d);
    return inodes;
}

/* Listening tcp ports of a process: its sockets' inodes looked up in /proc/net/tcp and tcp6. */
static int ports_of(pid_t pid, uint16_t *port, int most)
{
    char line[512];
    uint64_t inode[256];
    int n = 0, inodes = sockets_of(pid, inode, 256);
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

/* The abstract name of the process's listening unix socket. */
static bool unix_name_of(pid_t pid, struct sockaddr_un *to, socklen_t *bytes)
{
    char line[512], name[120];
    uint64_t inode[256];
    unsigned long long is;
    unsigned flags;
    bool found = false;
    int inodes = sockets_of(pid, inode, 256);
    FILE *f = fopen("/proc/net/unix", "r");
    while (f && !found && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%*s %*s %*s %x %*s %*s %llu @%107s", &flags, &is, name) != 3 ||
            !(flags & 0x10000)) /* __SO_ACCEPTCON */
            continue;
        for (int i = 0; i < inodes; i++)
            found |= inode[i] == is;
    }
    if (f)
        fclose(f);
    *to = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (found)
        memcpy(to->sun_path + 1, name, strlen(name));
    *bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (found ? strlen(name) : 0));
    return found;
}

static bool throw_at(const void *to, socklen_t bytes, uint64_t seed)
{
    uint8_t junk[4096];
    int fd = socket(((const struct sockaddr *)to)->sa_family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, to, bytes)) {
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
    (void)!send(fd, junk, 1 + seed % sizeof(junk), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (seed % 3)
        test_sleep_ms(1);
    close(fd);
    return true;
}

static bool throw_at_port(uint16_t port, uint64_t seed)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 b = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    b.sin6_addr = in6addr_loopback;
    return seed & 1 ? throw_at(&b, sizeof(b), seed) : throw_at(&a, sizeof(a), seed);
}

static int throw_at_rank(pid_t pid, bool over_tcp, uint64_t seed)
{
    uint16_t port[32];
    struct sockaddr_un name;
    socklen_t bytes;
    int n = ports_of(pid, port, 32), thrown = 0;
    for (int i = 0; over_tcp && i < n; i++)
        thrown += throw_at_port(port[i], test_mix(seed + (uint64_t)i));
    if (!over_tcp && unix_name_of(pid, &name, &bytes))
        thrown += throw_at(&name, bytes, test_mix(seed));
    return thrown;
}

static void garbage(void)
{
    for (int over = 0; over < 2; over++) {
        pid_t pid[3];
        int thrown = 0;
        start_steady(3, over ? tcp : shm, pid);
        uint64_t until = test_now_ms() + 1500, before = shared->calls[0];
        for (uint64_t k = test_seed(); test_now_ms() < until; k++)
            for (int r = 0; r < 3; r++)
                thrown += throw_at_rank(pid[r], over, k * 64 + (uint64_t)r * 16);
        CHECK_LT(0, thrown);
        CHECK_LT(before, shared->calls[0]);
        end_steady(3, pid);
    }
    /* The rendezvous' port. */
    pid_t server = test_id(&id);
    int thrown = 0;
    for (uint64_t k = 0; k < 100; k++)
        thrown += throw_at_rank(server, true, k * 32);
    CHECK_LT(0, thrown);
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

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(killed), TEST(stopped), TEST(silent),
                                             TEST(garbage), TEST(aborts)};
    argc = test_long_main(argc, argv);
    shared = test_shared(sizeof(*shared));
    signal(SIGPIPE, SIG_IGN);
    return test_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
