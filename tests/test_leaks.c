/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making and destroying communicators, few and many at a time, leaves nothing behind: no descriptor, thread, mapping or memory.
 */
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include <dirent.h>
#include <unistd.h>

static struct choir_id id;
static const char *const shm[] = {"CHOIR_LOG=error", NULL};
static const char *const tcp[] = {"CHOIR_TRANSPORTS=self,tcp", NULL};

static int entries(const char *directory)
{
    DIR *d = opendir(directory);
    int n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static int open_fds(void)
{
    return entries("/proc/self/fd");
}

static int mappings(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    int n = 0;
    for (int ch; f && (ch = getc(f)) != EOF;)
        n += ch == '\n';
    fclose(f);
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

#define MANY 64
/* What a process holds; memory is looked at where no sanitizer keeps freed memory. */
struct held {
    int fds, threads, maps;
    long kib;
};

static struct held holds(void)
{
    return (struct held){open_fds(), entries("/proc/self/task"), mappings(), resident_kib()};
}

static void many_round(choir_comm *c, int rank, int round)
{
    choir_comm *child[MANY];
    for (int i = 0; i < MANY; i++)
        CHECK_OK(choir_comm_split(c, 0, i % 2 ? rank : -rank, NULL, &child[i]));
    for (int i = 0; i < MANY; i++) {
        int one = 1, sum = 0;
        CHECK_OK(choir_all_reduce(child[i], &one, &sum, 1, CHOIR_INT32, CHOIR_SUM, NULL));
        CHECK_EQ(sum, 2);
    }
    for (int i = 0; i < MANY; i++)
        CHECK_OK(choir_comm_destroy(child[round % 2 ? i : MANY - 1 - i]));
}

static void many_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c;
    struct held before = {0}, after;
    CHECK_EQ(size, 2);
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    for (int round = 0; round < 8; round++) {
        many_round(c, rank, round);
        CHECK_OK(choir_barrier(c, NULL)); /* the other has destroyed its sides, too */
        if (round == 2)
            before = holds();
    }
    after = holds();
    CHECK_LE(after.fds, before.fds + 2);
    CHECK_EQ(after.threads, before.threads);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CHECK_LE(after.maps, before.maps + 8);
    if (after.kib > before.kib + 4096)
        FAIL("rank %d grew from %ld to %ld KiB", rank, before.kib, after.kib);
#endif
    CHECK_OK(choir_comm_destroy(c));
    /* With the last one everything goes. */
    CHECK_LE(entries("/proc/self/task") - 2, 1 + TEST_TSAN);
}

static void many(void)
{
    for (int over = 0; over < 2; over++) {
        test_id(&id);
        test_ranks(2, over ? tcp : shm, many_rank, NULL);
    }
}

TEST_MAIN(TEST(cycles), TEST(many))
