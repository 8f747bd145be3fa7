/* SPDX-License-Identifier: Apache-2.0 */
/* The harness of test.h. */
#include "tests/lib/test.h"
#include "base/base.h"
#include <dirent.h>
#include <pthread.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

static const char *current = "";
static struct { /* the case under way, in the process and thread of test_main */
    pid_t thread;
    jmp_buf end;
} running;
static char directory[256];
static uint64_t seed;

unsigned test_slowness(void)
{
    const char *times = getenv("CHOIR_TEST_TOOL");
    unsigned n = times ? (unsigned)strtoul(times, NULL, 10) : 1;
    return n ? n : 1;
}

void test_deadline(unsigned seconds)
{
    alarm(seconds * (TEST_SANITIZED ? 5 : 1) * test_slowness());
}

int test_open_files(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    CHECK(d != NULL);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

int test_effort(void)
{
    return getenv("CHOIR_TEST_LONG") ? 2 : getenv("CHOIR_TEST_SHORT") ? 0 : 1;
}

static void late(int signal_number)
{
    (void)signal_number;
    static const char text[] = "test: deadline passed\n";
    (void)!write(2, text, sizeof(text) - 1);
    _exit(1);
}

uint64_t test_seed(void)
{
    if (!seed) {
        const char *s = getenv("CHOIR_TEST_SEED");
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        seed = s ? strtoull(s, NULL, 0) : (uint64_t)t.tv_nsec ^ (uint64_t)t.tv_sec << 20;
        seed += !seed;
    }
    return seed;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

/* Killed, a test leaves its directory to tests/check/run. */
static void remove_directory(void)
{
    if (directory[0] && running.thread == gettid())
        nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

void test_path(char *path, size_t bytes, const char *name)
{
    if (!directory[0]) {
        const char *under = getenv("TMPDIR");
        snprintf(directory, sizeof(directory), "%s/choir-test-XXXXXX", under ? under : "/tmp");
        CHECK(mkdtemp(directory) != NULL);
    }
    CHECK_LT(snprintf(path, bytes, "%s%s%s", directory, *name ? "/" : "", name), bytes);
}

void test_fail_at(const char *file, int line, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    flockfile(stderr);
    fprintf(stderr, "%s:%d: %s: ", file, line, current);
    vfprintf(stderr, format, ap);
    if (seed)
        fprintf(stderr, " (CHOIR_TEST_SEED=%" PRIu64 ")", seed);
    fputc('\n', stderr);
    funlockfile(stderr);
    va_end(ap);
    remove_directory();
    _exit(1);
}

void test_skip(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    printf("skipped %s: ", current);
    vprintf(format, ap);
    putchar('\n');
    va_end(ap);
    fflush(stdout);
    if (running.thread == gettid())
        longjmp(running.end, 1);
    _exit(77);
}

void test_skip_part(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    printf("skipped %s: ", current);
    vprintf(format, ap);
    putchar('\n');
    va_end(ap);
}

void test_check_ok(int status, const char *what, const char *file, int line)
{
    if (status == CHOIR_OK)
        return;
    const struct choir_error *e = base_error_thread();
    test_fail_at(file, line, "%s: %s (%s; %s)", what, choir_status_name((enum choir_status)status),
                 e->text, e->remedy);
}

/* False: it was skipped. */
static bool run_case(const struct test_case *c)
{
    current = c->name;
    if (setjmp(running.end))
        return false;
    c->fn();
    return true;
}

int test_main(int argc, char **argv, const struct test_case *cases, size_t count)
{
    signal(SIGALRM, late);
    test_deadline(60);
    setenv("CHOIR_TUNE", "off", 0); /* a test writes nothing into its user's home */
    setvbuf(stdout, NULL, _IOLBF, 0);
    running.thread = gettid();
    size_t ran = 0, skipped = 0;
    for (size_t i = 0; i < count; i++) {
        bool wanted = argc < 2;
        for (int a = 1; a < argc; a++)
            wanted |= !strcmp(argv[a], cases[i].name);
        if (!wanted)
            continue;
        skipped += !run_case(&cases[i]);
        ran++;
    }
    if (!ran) {
        fprintf(stderr, "no such case\n");
        return 1;
    }
    test_id_end();
    remove_directory();
    return ran == skipped ? 77 : 0;
}

struct rank_thread {
    int rank, size;
    void (*fn)(int rank, int size, void *arg);
    void *arg;
    pthread_t thread;
};

static void *run_rank(void *p)
{
    struct rank_thread *t = p;
    t->fn(t->rank, t->size, t->arg);
    return NULL;
}

void test_threads(int size, void (*fn)(int rank, int size, void *arg), void *arg)
{
    struct rank_thread *t = calloc((size_t)size, sizeof(*t));
    CHECK(t != NULL);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 512 << 10);
    for (int r = 0; r < size; r++) {
        t[r] = (struct rank_thread){.rank = r, .size = size, .fn = fn, .arg = arg};
        CHECK_EQ(pthread_create(&t[r].thread, &attr, run_rank, &t[r]), 0);
    }
    for (int r = 0; r < size; r++)
        pthread_join(t[r].thread, NULL);
    pthread_attr_destroy(&attr);
    free(t);
}
