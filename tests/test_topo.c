/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_topo.c: detection under limits, the text form and its enemies, host ids.
 */
#include "base/base.h"
#include "base/knob.h"
#include "tests/lib/test.h"
#include "topo/detect.h"
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *dir(void)
{
    static char path[200];
    if (!path[0])
        test_path(path, sizeof(path), "");
    return path;
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    CHECK(f != NULL);
    CHECK(fputs(text, f) >= 0);
    CHECK_EQ(fclose(f), 0);
}

static void present(void)
{
    const struct topo *t = topo_get();
    CHECK(t == topo_get());
    CHECK_LE(1, t->cores);
    CHECK_LE(t->cores, t->threads);
    CHECK_LE(t->threads, sysconf(_SC_NPROCESSORS_CONF));
    CHECK_LE(1, t->numa);
    CHECK_LT(0, t->memory_bytes);
    CHECK(t->host_id[0] && t->host_name[0] && t->cpu[0]);
    for (uint32_t i = 0; i < t->nics; i++) {
        CHECK(t->nic[i].name[0]);
        CHECK_LE(1, t->nic[i].addresses);
        if (!strcmp(t->nic[i].name, "lo"))
            CHECK(t->nic[i].loopback);
    }
}

static void pinned_rank(int rank, int size, void *arg)
{
    (void)rank, (void)size, (void)arg;
    struct topo t = {.cores = 0};
    topo_detect_cpu(&t);
    CHECK_EQ(t.cores, 1);
    CHECK_EQ(t.threads, 1);
    CHECK_EQ(t.numa, 1);
}

/* All threads of the rank inherit it, a sanitizer's too. */
static void pinned(void)
{
    cpu_set_t all, one;
    CHECK_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
    size_t first = 0;
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    CHECK_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    test_processes(1, pinned_rank, NULL);
    CHECK_EQ(sched_setaffinity(0, sizeof(all), &all), 0);
}

static void group(const char *path, const char *file, const char *text)
{
    char name[512], *slash;
    snprintf(name, sizeof(name), "%s/%s/%s", dir(), path, file);
    for (slash = name + strlen(dir()) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(name, 0700);
        *slash = '/';
    }
    write_file(name, text);
}

static void cgroups(void)
{
    struct topo_limits l = topo_cgroup_limits("", dir());
    CHECK_EQ(l.cpus, 0);
    l = topo_cgroup_limits("0::/a/b\n", dir()); /* nothing there */
    CHECK_EQ(l.cpus, 0);
    CHECK_EQ(l.memory_bytes, 0);
    group("a/b", "cpu.max", "350000 100000\n");
    group("a", "cpu.max", "max 100000\n");
    group("a", "memory.max", "1000000\n");
    group("a/b", "memory.max", "max\n");
    l = topo_cgroup_limits("1:name=systemd:/x\n0::/a/b\n", dir());
    CHECK_EQ(l.cpus, 4); /* three and a half */
    CHECK_EQ(l.memory_bytes, 1000000);
    group("a", "cpu.max", "50000 100000\n");
    l = topo_cgroup_limits("0::/a/b", dir()); /* the parent's is less; no newline */
    CHECK_EQ(l.cpus, 1);
    l = topo_cgroup_limits("0::/\n", dir());
    CHECK_EQ(l.cpus, 0);
    group("cpu/v1", "cpu.cfs_quota_us", "200000\n");
    group("cpu/v1", "cpu.cfs_period_us", "100000\n");
    group("memory/v1", "memory.limit_in_bytes", "9223372036854771712\n"); /* v1 for none */
    l = topo_cgroup_limits("4:cpu,cpuacct:/v1\n3:memory:/v1\n", dir());
    CHECK_EQ(l.cpus, 2);
    CHECK_EQ(l.memory_bytes, 0);
    group("cpu/v1", "cpu.cfs_quota_us", "-1\n");
    CHECK_EQ(topo_cgroup_limits("4:cpu:/v1\n", dir()).cpus, 0);
    CHECK_EQ(topo_cgroup_limits("garbage\n:\n::\n4:cpu\n\n", dir()).cpus, 0);
}

static void round_trip(void)
{
    char path[256], *one, *two;
    size_t n;
    test_path(path, sizeof(path), "topo");
    struct topo t = *topo_get(), u;
    t.nic[0] = (struct topo_nic){.name = "eth9", .mbps = 200000, .up = true};
    t.nic[1] = (struct topo_nic){.name = "lo", .up = false, .loopback = true};
    t.nics = 2;
    FILE *f = fopen(path, "w");
    topo_print(&t, f);
    fclose(f);
    CHECK_OK(topo_load(path, &u));
    f = open_memstream(&one, &n);
    topo_print(&t, f);
    fclose(f);
    f = open_memstream(&two, &n);
    topo_print(&u, f);
    fclose(f);
    CHECK_STR(one, two);
    CHECK_EQ(topo_hash(&t), topo_hash(&u));
    free(one);
    free(two);
}

static void refused(void)
{
    static const char *const bad[] = {
        "",
        "choir-topology 2\ncores 1\nthreads 1\n",
        "cores 1\n",
        "choir-topology 1\ncores 0\nthreads 1\n",
        "choir-topology 1\ncores 4\nthreads 2\n",
        "choir-topology 1\ncores -1\nthreads 1\n",
        "choir-topology 1\ncores 1x\nthreads 1\n",
        "choir-topology 1\ncores 99999999999\nthreads 1\n",
        "choir-topology 1\ncores\n",
        "choir-topology 1\ncores 1\nthreads 1\ncolour 3\n",
        "choir-topology 1\ncores 1\nthreads 1\nnic\n",
        "choir-topology 1\ncores 1\nthreads 1\nnic e0 mbps\n",
        "choir-topology 1\ncores 1\nthreads 1\nnic e0 mbps 1 sideways\n",
        "choir-topology 1\ncores 1\nthreads 1\nnic e0 mbps 1 up loopback more\n",
    };
    char path[256];
    struct topo t = {.cores = 77};
    struct choir_error e = {.bytes = sizeof(e)};
    test_path(path, sizeof(path), "bad");
    for (size_t i = 0; i < base_count(bad); i++) {
        write_file(path, bad[i]);
        CHECK_EQ(topo_load(path, &t), CHOIR_ERR_ARGUMENT);
        CHECK_EQ(t.cores, 77);
        e = *base_error_thread();
        CHECK(strstr(e.text, "bad") && e.remedy[0]);
    }
    test_path(path, sizeof(path), "absent");
    CHECK_EQ(topo_load(path, &t), CHOIR_ERR_SYSTEM);
    CHECK_EQ(base_error_thread()->sys_errno, 2);
    CHECK_EQ(topo_load(dir(), &t), CHOIR_ERR_ARGUMENT); /* a directory */
}

/* A good file with random damage is loaded or refused, and never worse. */
static void damaged(void)
{
    char path[256], *good;
    size_t n;
    uint64_t state = test_seed();
    test_path(path, sizeof(path), "damaged");
    FILE *f = open_memstream(&good, &n);
    topo_print(topo_get(), f);
    fclose(f);
    for (int round = 0; round < 500; round++) {
        char *text = malloc(n);
        memcpy(text, good, n);
        for (uint64_t k = base_random(&state) % 8; k--;)
            text[base_random(&state) % n] = (char)base_random(&state);
        f = fopen(path, "w");
        CHECK_EQ(fwrite(text, 1, base_random(&state) % (n + 1), f) <= n, 1);
        fclose(f);
        free(text);
        struct topo t;
        if (topo_load(path, &t) == CHOIR_OK)
            CHECK(t.cores >= 1 && t.nics <= base_count(t.nic));
    }
    free(good);
}

static void hash(void)
{
    struct topo t = *topo_get(), u = t;
    strcpy(u.host_id, "other");
    strcpy(u.host_name, "other");
    CHECK_EQ(topo_hash(&t), topo_hash(&u));
    u.cores++;
    CHECK_NE(topo_hash(&t), topo_hash(&u));
    u = t;
    u.l3_bytes ^= 1;
    CHECK_NE(topo_hash(&t), topo_hash(&u));
}

static void host_id(void)
{
    struct topo t = {.cores = 0}, u = {.cores = 0};
    char path[256], boot[64], longest[300];
    unsetenv("CHOIR_HOST_ID");
    unsetenv("NCCL_HOSTID");
    knob_reload();
    topo_detect_host(&t);
    if (topo_read_file("/proc/sys/kernel/random/boot_id", boot, sizeof(boot)))
        CHECK_STR(t.host_id, boot);
    setenv("CHOIR_HOST_ID", "here", 1);
    knob_reload();
    topo_detect_host(&t);
    CHECK_STR(t.host_id, "here");
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    setenv("CHOIR_HOST_ID", longest, 1);
    knob_reload();
    topo_detect_host(&t);
    longest[sizeof(longest) - 2] = 'y';
    setenv("CHOIR_HOST_ID", longest, 1);
    knob_reload();
    topo_detect_host(&u);
    CHECK(strcmp(t.host_id, u.host_id));
    CHECK_EQ(strlen(t.host_id), strlen(u.host_id));
    /* A file does not say which host this is. */
    setenv("CHOIR_HOST_ID", "this one", 1);
    knob_reload();
    test_path(path, sizeof(path), "topo");
    FILE *f = fopen(path, "w");
    topo_print(topo_get(), f);
    fclose(f);
    CHECK_OK(topo_load(path, &t));
    CHECK_STR(t.host_id, "this one");
    unsetenv("CHOIR_HOST_ID");
    knob_reload();
}

static void replaced_rank(int rank, int size, void *arg)
{
    (void)size, (void)arg;
    char path[256];
    test_path(path, sizeof(path), rank ? "absent" : "small");
    setenv("CHOIR_TOPO_FILE", path, 1);
    setenv("CHOIR_LOG_FILE", "/dev/null", 1); /* the complaint is expected */
    knob_reload();
    const struct topo *t = topo_get();
    CHECK(t->host_id[0]);
    if (!rank) /* else the file is missing, and detection goes on */
        CHECK_EQ(t->cores, 3);
    else
        CHECK_LE(1, t->cores);
}
/* In processes that have not looked yet: this case comes first. */
static void replaced(void)
{
    char path[256];
    test_path(path, sizeof(path), "small");
    write_file(path, "choir-topology 1\n\n# a comment\ncores 3\nthreads 6\n");
    test_processes(2, replaced_rank, NULL);
}

TEST_MAIN(TEST(replaced), TEST(present), TEST(pinned), TEST(cgroups), TEST(round_trip),
          TEST(refused), TEST(damaged), TEST(hash), TEST(host_id))
