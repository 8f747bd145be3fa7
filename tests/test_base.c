/* SPDX-License-Identifier: Apache-2.0 */
/* Names, error records, hash, clock, log lines. */
#include "base/base.h"
#include "base/knob.h"
#include "tests/lib/test.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void names(void)
{
    CHECK_STR(choir_status_name(CHOIR_OK), "CHOIR_OK");
    CHECK_STR(choir_status_name(CHOIR_ERR_PEER_DEAD), "CHOIR_ERR_PEER_DEAD");
    CHECK_STR(choir_status_string(CHOIR_ERR_TIMEOUT), "deadline passed");
    CHECK_STR(choir_status_string((enum choir_status) - 999), "unknown status");
    CHECK_STR(choir_status_name((enum choir_status)77), "CHOIR_?");
    for (int t = 0; t < CHOIR_TYPES; t++) {
        CHECK(choir_type_bytes((enum choir_type)t) > 0);
        CHECK(choir_type_name((enum choir_type)t)[0] != 0);
    }
    CHECK_EQ(choir_type_bytes(CHOIR_BFLOAT16), 2);
    CHECK_EQ(choir_type_bytes(CHOIR_FLOAT64), 8);
    CHECK_EQ(choir_type_bytes(CHOIR_TYPES), 0);
    CHECK_EQ(choir_type_bytes((enum choir_type) - 1), 0);
    CHECK_STR(choir_type_name(CHOIR_FLOAT8_E5M2), "float8_e5m2");
    CHECK_STR(choir_type_name((enum choir_type) - 1), "unknown type");
    CHECK_STR(choir_op_name(CHOIR_LXOR), "lxor");
    CHECK_STR(choir_op_name(UINT32_MAX), "created");
    CHECK_EQ(choir_version(), 100);
}

static void *other_thread(void *arg)
{
    (void)arg;
    CHECK_EQ(base_error_thread()->status, CHOIR_OK);
    CHECK_EQ(base_error_thread()->rank, -1);
    return base_error_thread();
}

static void nothing(int rank, int size, void *arg)
{
    (void)rank, (void)size, (void)arg;
    other_thread(NULL);
}

static void errors(void)
{
    struct choir_error e = {0}, *mine = base_error_thread();
    struct base_error_at at = {3, 7, 42, ECONNRESET, "shm"};
    errno = 5;
    CHECK_EQ(base_error_fill(&e, CHOIR_ERR_ARGUMENT, &at, "do this", "count %d", 9),
             CHOIR_ERR_ARGUMENT);
    CHECK_EQ(errno, 5);
    CHECK_EQ(e.bytes, sizeof(e));
    CHECK_EQ(e.rank, 3);
    CHECK_EQ(e.peer, 7);
    CHECK_EQ(e.sequence, 42);
    CHECK_EQ(e.sys_errno, ECONNRESET);
    CHECK_STR(e.transport, "shm");
    CHECK_STR(e.text, "count 9");
    CHECK_STR(e.remedy, "do this");

    char big[1000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    at.transport = big;
    base_error_fill(&e, CHOIR_ERR_ARGUMENT, &at, big, "%s", big);
    CHECK_EQ(strlen(e.text), sizeof(e.text) - 1);
    CHECK_STR(e.text + sizeof(e.text) - 5, "x...");
    CHECK_STR(e.remedy + sizeof(e.remedy) - 5, "x...");
    CHECK_EQ(strlen(e.transport), sizeof(e.transport) - 1);

    /* A text made of the record it replaces. */
    CHECK_EQ(base_fail(CHOIR_ERR_COUNT, NULL, "inner"), CHOIR_ERR_COUNT);
    CHECK_STR(mine->remedy, "");
    base_fail(CHOIR_ERR_ARGUMENT, "outer remedy", "outer: %s", mine->text);
    CHECK_STR(mine->text, "outer: inner");
    base_fail(CHOIR_ERR_ARGUMENT, mine->text, "again: %s", mine->remedy);
    CHECK_STR(mine->text, "again: outer remedy");
    CHECK_STR(mine->remedy, "outer: inner");
    test_threads(3, nothing, NULL);
}

static void hash(void)
{
    /* Each single flipped bit of each length changes about half of the result, and no two of these collide. */
    unsigned char data[80];
    uint64_t state = test_seed();
    uint64_t flipped = 0, tried = 0;
    for (size_t n = 0; n <= 64; n++) {
        for (size_t i = 0; i < sizeof(data); i++)
            data[i] = (unsigned char)base_random(&state);
        uint64_t h = base_hash(data, n, 1);
        CHECK(h == base_hash(data, n, 1));
        CHECK(h != base_hash(data, n, 2));
        CHECK(h != base_hash(data, n + 1, 1));
        for (size_t bit = 0; bit < 8 * n; bit++) {
            data[bit / 8] ^= (unsigned char)(1 << bit % 8);
            uint64_t other = base_hash(data, n, 1);
            CHECK(other != h);
            flipped += (uint64_t)__builtin_popcountll(h ^ other), tried++;
            data[bit / 8] ^= (unsigned char)(1 << bit % 8);
        }
    }
    double share = (double)flipped / (double)tried / 64;
    if (share < 0.49 || share > 0.51)
        FAIL("one bit changes %.4f of the hash", share);
    /* Zeros of different length, and a shifted start, must differ; the value is part of the wire protocol. */
    static const unsigned char zero[64];
    for (size_t a = 0; a < 64; a++)
        for (size_t b = a + 1; b <= 64; b++)
            CHECK(base_hash(zero, a, 0) != base_hash(zero, b, 0));
    memcpy(data + 1, data + 40, 32);
    CHECK(base_hash(data + 1, 32, 9) == base_hash(data + 40, 32, 9));
}

static void clock_runs(void)
{
    uint64_t a = base_now_ns();
    usleep(2000);
    uint64_t b = base_now_ns();
    CHECK(b - a >= 2000000 && b - a < 5000000000u);
}

/* Runs fn in a child whose stderr is a pipe; returns what it wrote and how it ended. */
static int captured(void (*fn)(void), char *out, size_t bytes)
{
    int p[2], st;
    CHECK_EQ(pipe(p), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        dup2(p[1], 2);
        close(p[0]);
        fn();
        _exit(0);
    }
    close(p[1]);
    size_t n = 0;
    for (ssize_t r; n + 1 < bytes && (r = read(p[0], out + n, bytes - 1 - n)) > 0;)
        n += (size_t)r;
    out[n] = 0;
    close(p[0]);
    CHECK_EQ(waitpid(pid, &st, 0), pid);
    return st;
}

static int lines_of(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void say(void)
{
    setenv("CHOIR_LOG", "info", 1);
    knob_reload();
    char big[5000];
    memset(big, 'y', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    base_log(BASE_WARN, 12, "hello %d", 7);
    base_log(BASE_INFO, -1, "forged\nchoir line \x1b[31m");
    base_log(BASE_DEBUG, 0, "not this one");
    base_log(BASE_ERROR, 0, "%s", big);
}

static void flood(void)
{
    knob_reload();
    for (int i = 0; i < 1000; i++)
        base_log(BASE_WARN, 1, "the same");
    base_log(BASE_WARN, 2, "the same");
    usleep(1100000);
    base_log(BASE_WARN, 1, "the same");
}

static void break_invariant(void)
{
    signal(SIGABRT, SIG_DFL);
    choir_assert(1 + 1 == 3);
}

static void log_lines(void)
{
    char out[20000], expect[300], host[100];
    unsetenv("CHOIR_LOG");
    unsetenv("NCCL_DEBUG");
    CHECK_EQ(captured(say, out, sizeof(out)), 0);
    gethostname(host, sizeof(host));
    snprintf(expect, sizeof(expect), "choir %s:", host);
    CHECK_EQ(strncmp(out, expect, strlen(expect)), 0);
    CHECK(strstr(out, " rank 12 warn hello 7\n") != NULL);
    CHECK(strstr(out, " rank - info forged choir line ?[31m\n") != NULL);
    CHECK(strstr(out, "not this one") == NULL);
    CHECK(strstr(out, "yyy...\n") != NULL);
    CHECK_EQ(lines_of(out), 3);

    CHECK_EQ(captured(flood, out, sizeof(out)), 0);
    CHECK(strstr(out, "rank 1 warn the same (995 more were held back)\n") != NULL);
    CHECK_EQ(lines_of(out), 7);

    int st = captured(break_invariant, out, sizeof(out));
    CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGABRT);
    CHECK(strstr(out, "assertion 1 + 1 == 3 failed at ") != NULL);
}

static void write_lines(int rank, int size, void *arg)
{
    (void)size, (void)arg;
    for (int i = 0; i < 500; i++)
        base_log(BASE_WARN, rank, "line %d of a thread among others", i);
}

/* Lines of many threads and processes in one file stay whole. */
static void log_file(void)
{
    char path[300], expect[300], line[300], host[100];
    test_path(path, sizeof(path), "%h-%p-%%-%x.log");
    setenv("NCCL_DEBUG_FILE", path, 1);
    unsetenv("CHOIR_LOG");
    knob_reload();
    test_processes(3, write_lines, NULL);
    test_threads(3, write_lines, NULL);
    gethostname(host, sizeof(host));
    snprintf(line, sizeof(line), "%s-%ld-%%-%%x.log", host, (long)getpid());
    test_path(expect, sizeof(expect), line);
    FILE *f = fopen(expect, "r");
    CHECK(f != NULL);
    int n = 0;
    for (; fgets(line, sizeof(line), f); n++) {
        int rank, i;
        CHECK_EQ(strncmp(line, "choir ", 6), 0);
        const char *p = strstr(line, " rank ");
        CHECK(p != NULL);
        CHECK_EQ(sscanf(p, " rank %d warn line %d of a thread among others\n", &rank, &i), 2);
    }
    CHECK_EQ(n, 3000);
    fclose(f);

    setenv("CHOIR_LOG_FILE", "/nonexistent/dir/file", 1); /* falls back to stderr */
    knob_reload();
    unsetenv("CHOIR_LOG_FILE");
    unsetenv("NCCL_DEBUG_FILE");
    knob_reload();
}

TEST_MAIN(TEST(names), TEST(errors), TEST(hash), TEST(clock_runs), TEST(log_lines), TEST(log_file))
