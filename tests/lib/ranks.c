/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs of ranks; see ranks.h. */
#include "tests/lib/ranks.h"
#include "base/knob.h"
#include "tests/lib/test.h"
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static bool is_long;

bool test_long(void)
{
    return is_long || getenv("CHOIR_TEST_LONG");
}

int test_long_main(int argc, char **argv)
{
    int n = 1;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--long"))
            is_long = true;
        else
            argv[n++] = argv[i];
    argv[n] = NULL;
    return n;
}

void test_sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

uint64_t test_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint64_t test_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void *test_shared(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

/* A slow tool gets what a test gives operations as many times. */
static void take_longer(const char *name, const char *value)
{
    char longer[64], *unit;
    unsigned long n = strtoul(value, &unit, 10);
    snprintf(longer, sizeof(longer), "%lu%s", n * test_slowness(), unit);
    setenv(name, longer, 1);
}

static void take_env(const char *const *env)
{
    for (; env && *env; env++) {
        const char *is = strchr(*env, '=');
        char name[64];
        snprintf(name, sizeof(name), "%.*s", (int)(is - *env), *env);
        if (test_slowness() > 1 && strstr(name, "_TIMEOUT"))
            take_longer(name, is + 1);
        else
            setenv(name, is + 1, 1);
    }
}

/* Threads that are ending have a moment. The thread sanitizer has one of its own; a tool of test_slowness may have any. */
static void without_threads(void)
{
    if (test_slowness() > 1)
        return;
    for (uint64_t end = test_now_ms() + 5000;; test_sleep_ms(1)) {
        struct stat task;
        CHECK_EQ(stat("/proc/self/task", &task), 0);
        int threads = (int)task.st_nlink - 2 - TEST_TSAN;
        if (threads <= 1)
            return;
        if (test_now_ms() > end)
            FAIL("%d threads where ranks are forked: take the id from test_id", threads);
    }
}

pid_t test_fork(const char *const *env)
{
    fflush(NULL);
    without_threads();
    pid_t parent = getpid(), pid = fork();
    CHECK_LE(0, pid);
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    if (env) {
        take_env(env);
        knob_reload();
    }
    return 0;
}

int test_reap(pid_t pid, int ms)
{
    int st;
    for (uint64_t end = test_now_ms() + (uint64_t)ms;;) {
        pid_t got = waitpid(pid, &st, WNOHANG);
        if (got == pid)
            return WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
        if (got < 0 && errno != EINTR)
            return -1;
        if (test_now_ms() >= end)
            break;
        test_sleep_ms(1);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &st, 0);
    return -1;
}

int test_rerun(const char *which, const char *const *env)
{
    pid_t pid = fork();
    if (!pid) {
        char path[4096];
        ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
        path[n > 0 ? n : 0] = 0;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (; *env; env++)
            putenv((char *)(uintptr_t)*env);
        execl(path, path, "--child", which, (char *)NULL);
        _exit(126);
    }
    return test_reap(pid, 60000);
}

/* --- ids ----------------------------------------------------------------------------------------- */

static struct id_server { /* makes an id for each byte it reads, until the other end is shut */
    pid_t pid;
    int fd;
} id_server;

static _Noreturn void serve_ids(int fd)
{
    char byte;
    while (read(fd, &byte, 1) == 1) {
        struct choir_id id;
        CHECK_OK(choir_id_create(&id));
        CHECK_EQ(write(fd, &id, sizeof(id)), sizeof(id));
    }
    exit(0);
}

pid_t test_id(struct choir_id *id)
{
    if (!id_server.pid) {
        int fd[2];
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
        if (!(id_server.pid = test_fork(NULL))) {
            close(fd[0]);
            serve_ids(fd[1]);
        }
        close(fd[1]);
        id_server.fd = fd[0];
    }
    CHECK_EQ(write(id_server.fd, "", 1), 1);
    CHECK_EQ(read(id_server.fd, id, sizeof(*id)), sizeof(*id));
    return id_server.pid;
}

void test_id_end(void)
{
    if (!id_server.pid)
        return;
    shutdown(id_server.fd, SHUT_WR);
    CHECK_EQ(test_reap(id_server.pid, 10000), 0);
    close(id_server.fd);
    id_server = (struct id_server){0};
}

/* --- jobs ---------------------------------------------------------------------------------------- */

struct slice { /* the ranks of one process */
    const struct test_ranks *job;
    int first;
};

static void run_slice(int thread, int threads, void *arg)
{
    (void)threads;
    struct slice *s = arg;
    s->job->fn(s->first + thread, s->job->ranks, s->job->arg);
}

static void child(const struct test_ranks *job, int process, int processes, int each)
{
    char host[32];
    if (job->hosts > 1) {
        snprintf(host, sizeof(host), "host%d", process * job->hosts / processes);
        setenv("CHOIR_HOST_ID", host, 1);
        knob_reload();
    }
    struct slice s = {job, process * each};
    int threads = s.first + each > job->ranks ? job->ranks - s.first : each;
    if (threads == 1)
        run_slice(0, 1, &s);
    else
        test_threads(threads, run_slice, &s);
    fflush(NULL);
    _exit(0);
}

bool test_ranks_try(const struct test_ranks *job)
{
    int each = job->per_process > 0 ? job->per_process : 1,
        processes = (job->ranks + each - 1) / each, left = processes;
    pid_t *pid = calloc((size_t)processes, sizeof(*pid));
    CHECK(pid != NULL);
    for (int p = 0; p < processes; p++)
        if (!(pid[p] = test_fork(job->env)))
            child(job, p, processes, each);
    bool good = true, skipped = false;
    uint64_t end = UINT64_MAX;
    while (left) {
        bool idle = true;
        for (int p = 0, st; p < processes; p++) {
            if (!pid[p] || waitpid(pid[p], &st, WNOHANG) != pid[p])
                continue;
            if (WIFEXITED(st) && WEXITSTATUS(st) == 77)
                skipped = true; /* it said why */
            else if (st && good && !skipped) {
                fprintf(stderr, "process %d of %d %s %d\n", p, processes,
                        WIFSIGNALED(st) ? "ended by signal" : "exited with",
                        WIFSIGNALED(st) ? WTERMSIG(st) : WEXITSTATUS(st));
                good = false;
                end = test_now_ms() + 5000;
            }
            pid[p] = 0, left--, idle = false;
        }
        if (skipped || test_now_ms() > end)
            for (int p = 0; p < processes; p++)
                if (pid[p])
                    kill(pid[p], SIGKILL);
        if (idle)
            test_sleep_ms(1);
    }
    free(pid);
    if (skipped)
        test_skip("a rank of %d", job->ranks);
    return good;
}

void test_ranks(int ranks, const char *const *env, void (*fn)(int rank, int size, void *arg),
                void *arg)
{
    struct test_ranks job = {.ranks = ranks, .env = env, .fn = fn, .arg = arg};
    if (!test_ranks_try(&job))
        FAIL("a rank of %d failed", ranks);
}

void test_processes(int size, void (*fn)(int rank, int size, void *arg), void *arg)
{
    test_ranks(size, NULL, fn, arg);
}
