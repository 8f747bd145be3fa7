/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many ranks on this one machine, a process each: creation, barrier, all_reduce, all_to_all, destroy, with time and memory per rank.
 * 64 ranks; 512 with --long. Skipped by name where limits or memory do not allow them.
 */
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

enum phase { CREATE, BARRIER, ALL_REDUCE, ALL_TO_ALL, AGAIN, DESTROY, PHASES };
static const char *const phase_name[] = {"creation",   "barrier", "all_reduce",
                                         "all_to_all", "again",   "destroy"};
static struct shared {
    struct choir_id id;
    _Atomic uint64_t most_ms[PHASES], rss_kib, pss_kib, private_bytes, shared_bytes, peers;
} * shared;

static uint64_t mark(enum phase p, uint64_t since)
{
    uint64_t now = test_now_ms(), took = now - since, most = shared->most_ms[p];
    while (took > most && !atomic_compare_exchange_weak(&shared->most_ms[p], &most, took))
        ;
    return now;
}

static uint64_t field_kib(const char *name)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    while (f && fgets(line, sizeof(line), f))
        if (!strncmp(line, name, strlen(name)))
            sscanf(line + strlen(name), " %llu", &kib);
    if (f)
        fclose(f);
    return kib;
}

static void exchange(choir_comm *c, int rank, int size)
{
    int32_t *in = malloc((size_t)size * 4), *out = malloc((size_t)size * 4), sum[3],
            mine[3] = {1, rank, -rank};
    uint64_t t = test_now_ms();
    CHECK_OK(choir_all_reduce(c, mine, sum, 3, CHOIR_INT32, CHOIR_SUM, NULL));
    CHECK_EQ(sum[0], size);
    CHECK_EQ(sum[1], size * (size - 1) / 2);
    CHECK_EQ(sum[2], -sum[1]);
    t = mark(ALL_REDUCE, t);
    for (int p = 0; p < size; p++)
        in[p] = rank * 1000 + p, out[p] = -1;
    CHECK_OK(choir_all_to_all(c, in, out, 1, CHOIR_INT32, NULL));
    for (int p = 0; p < size; p++)
        CHECK_EQ(out[p], p * 1000 + rank);
    mark(ALL_TO_ALL, t);
    free(in);
    free(out);
}

static void body(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c;
    uint64_t t = test_now_ms();
    CHECK_OK(choir_comm_create(&shared->id, rank, size, NULL, &c));
    t = mark(CREATE, t);
    CHECK_OK(choir_barrier(c, NULL));
    mark(BARRIER, t);
    exchange(c, rank, size);
    t = test_now_ms();
    for (int i = 0; i < 3; i++)
        CHECK_OK(choir_barrier(c, NULL));
    t = mark(AGAIN, t);
    struct choir_memory m = {.bytes = sizeof(m)};
    CHECK_OK(choir_comm_memory(c, &m));
    shared->rss_kib += field_kib("Rss:");
    shared->pss_kib += field_kib("Pss:");
    shared->private_bytes += m.private_bytes;
    shared->shared_bytes += m.shared_bytes;
    shared->peers += m.peers;
    CHECK_OK(choir_barrier(c, NULL));
    t = test_now_ms();
    CHECK_OK(choir_comm_destroy(c));
    mark(DESTROY, t);
}

static uint64_t free_kib(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof(line), f))
        sscanf(line, "MemAvailable: %llu", &kib);
    if (f)
        fclose(f);
    return kib;
}

static void many(void)
{
    static const char *const env[] = {"CHOIR_CREATE_TIMEOUT=100s", "CHOIR_TIMEOUT=100s", NULL};
    int n = test_long() ? 512 : TEST_BY_EFFORT(8, 64, 512);
    struct rlimit processes, files;
    test_deadline(test_long() ? 300 : 100);
    CHECK(!getrlimit(RLIMIT_NPROC, &processes) && !getrlimit(RLIMIT_NOFILE, &files));
    if (processes.rlim_cur < (rlim_t)n * 3 || files.rlim_max < (rlim_t)n * 2)
        test_skip("%d ranks need %d processes and threads and %d descriptors", n, 3 * n, 2 * n);
    if (free_kib() < (uint64_t)n * 16384)
        test_skip("%d ranks need %d MiB of memory", n, n * 16);
    test_id(&shared->id);
    uint64_t t = test_now_ms();
    test_ranks(n, env, body, NULL);
    printf("%d ranks in %.1f s;", n, (double)(test_now_ms() - t) / 1e3);
    for (int p = 0; p < PHASES; p++)
        printf(" %s %.2f s%s", phase_name[p], (double)shared->most_ms[p] / 1e3,
               p + 1 < PHASES ? "," : "\n");
    printf("per rank: rss %.1f MiB, pss %.1f MiB; communicator %.2f MiB private, %.2f MiB shared, "
           "%.0f peers\n",
           (double)shared->rss_kib / n / 1024, (double)shared->pss_kib / n / 1024,
           (double)shared->private_bytes / n / 0x1p20, (double)shared->shared_bytes / n / 0x1p20,
           (double)shared->peers / n);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(many)};
    argc = test_long_main(argc, argv);
    shared = test_shared(sizeof(*shared));
    return test_main(argc, argv, cases, 1);
}
