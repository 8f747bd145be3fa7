/* SPDX-License-Identifier: Apache-2.0 */
/* The perf programs as users run them: processes, threads, groups, every type and operation; nothing wrong, columns kept. */
#include "tests/lib/program.h"
#include "cuda/cuda.h"
#include "tests/lib/test.h"
#include <stdlib.h>
#include <unistd.h>

static char output[1 << 20];
static const char *const all[] = {"all_reduce", "all_gather", "reduce_scatter", "alltoall",
                                  "alltoallv",  "broadcast",  "reduce",         "gather",
                                  "scatter",    "sendrecv",   "hypercube"};

/* Lines of results; fails unless the exit status is 0 and nothing was wrong. */
static int sweep(const char *name, const char *flags)
{
    char program[64];
    int lines = 0;
    snprintf(program, sizeof(program), "%s_perf", name);
    int rc = test_program(50, output, sizeof(output), program, "%s", flags);
    if (rc || !strstr(output, "# Out of bounds values : 0 OK"))
        FAIL("%s %s: exit %d\n%s", program, flags, rc, output);
    for (char *line = strtok(output, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long long bytes, count;
        char type[16], op[16];
        int root, at = 0;
        if (sscanf(line, "%llu %llu %15s %15s %d %n", &bytes, &count, type, op, &root, &at) != 5)
            continue;
        lines++;
        int columns = 0; /* nccl-tests' eight and ours: two percentiles each, the algorithm */
        for (char *c = line + at; *c; columns += *c != ' ' && (c[1] == ' ' || !c[1]), c++)
            ;
        CHECK_EQ(columns, 13);
    }
    return lines;
}

static void processes(void)
{
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        CHECK_EQ(sweep(all[i], "--local 2 -b 8 -e 256K -f 32 -n 3"), 4);
        CHECK_EQ(sweep(all[i], "--local 4 -b 100 -e 100003 -i 33301 -n 2"), 4);
        if (strcmp(all[i], "hypercube"))
            CHECK_EQ(sweep(all[i], "--local 3 -b 1024 -e 64K -f 64 -n 2"), 2);
        CHECK_EQ(sweep(all[i], "--local 1 -b 1024 -e 64K -f 64 -n 2"), 2);
    }
}

static void threads(void)
{
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        CHECK_EQ(sweep(all[i], "-t 2 -b 8 -e 64K -f 32 -n 2"), 3);
        CHECK_EQ(sweep(all[i], "--local 2 -t 2 -b 1K -e 64K -f 64 -n 2"), 2);
    }
}

/* Ranks that share a thread, driven in groups; several operations in a group. */
static void groups(void)
{
    for (size_t i = 0; i + 1 < sizeof(all) / sizeof(all[0]); i++) { /* all but hypercube */
        CHECK_EQ(sweep(all[i], "-g 3 -b 1K -e 64K -f 64 -n 2"), 2);
        CHECK_EQ(sweep(all[i], "--local 2 -g 2 -b 1K -e 64K -f 64 -n 2 -m 3"), 2);
    }
}

static void types_and_operations(void)
{
    /* 8 integer types with 12 operations, 6 float types with 6; all_gather 14 types */
    CHECK_EQ(sweep("all_reduce", "--local 3 -b 5000 -e 5000 -n 1 -d all -o all"), 8 * 12 + 6 * 6);
    CHECK_EQ(sweep("reduce_scatter", "--local 2 -b 5000 -e 5000 -n 1 -d all -o all"),
             8 * 12 + 6 * 6);
    CHECK_EQ(sweep("reduce", "--local 4 -b 5000 -e 5000 -n 1 -d all -o avg -r all"), 14 * 4);
    CHECK_EQ(sweep("all_gather", "--local 3 -b 5000 -e 5000 -n 1 -d all"), 14);
}

/* The algorithm is named for every collective that has one, whatever the operation and however it is driven. */
static void names_algorithm(void)
{
    static const char *const flags[] = {"-o avg", "-o mulsum", "-m 3", "-y 0"};
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        CHECK_EQ(test_program(50, output, sizeof(output), "all_reduce_perf",
                              "--local 2 -b 4K -e 4K -n 2 %s", flags[i]),
                 0);
        CHECK(strstr(output, "_shot"));
    }
    CHECK_EQ(
        test_program(50, output, sizeof(output), "alltoallv_perf", "--local 3 -b 4K -e 4K -n 2"),
        0);
    CHECK(strstr(output, " direct\n") || strstr(output, " pairwise\n"));
}

static void modes(void)
{
    static const char *const flags[] = {
        "-z 1", "-z 3", "-y 0",      "-y 0 -z 2",      "-u 1",          "-c 3",  "-R 1",
        "-w 0", "-a 3", "-S 1 -M 1", "--choir-memory", "--same-buffer", "-T 20", "-N 2"};
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        char line[256];
        snprintf(line, sizeof(line), "--local 2 -b 64 -e 4K -f 64 -n 3 %s", flags[i]);
        int rc = test_program(50, output, sizeof(output), "all_reduce_perf", "%s", line);
        if (rc || !strstr(output, "# Out of bounds values : 0 OK"))
            FAIL("all_reduce_perf %s: exit %d\n%s", line, rc, output);
    }
    CHECK_EQ(sweep("all_reduce", "--local 2 -b 0 -e 16 -i 4 -n 2"), 5);
}

static void json(void)
{
    char path[300];
    test_path(path, sizeof(path), "json");
    CHECK_EQ(test_program(20, output, sizeof(output), "all_reduce_perf",
                          "--local 2 -b 8 -e 8 --json %s", path),
             0);
    FILE *f = fopen(path, "re");
    CHECK(f != NULL);
    size_t n = fread(output, 1, sizeof(output) - 1, f);
    output[n] = 0;
    fclose(f);
    CHECK(strstr(output, "\"collective\": \"all_reduce\"") && strstr(output, "\"p99_us\": "));
}

static void refusals(void)
{
    static const char *const bad[] = {"--memory disk", "-d complex", "-b 8 -e 4", "-r 7 --local 2"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int rc = test_program(20, output, sizeof(output), "broadcast_perf", "%s", bad[i]);
        if (rc == 0 || rc == 124 || rc >= 128)
            FAIL("broadcast_perf %s: exit %d\n%s", bad[i], rc, output);
    }
    CHECK_EQ(test_program(20, output, sizeof(output), "hypercube_perf", "--local 3"), 2);
    CHECK_EQ(test_program(20, output, sizeof(output), "hypercube_perf", "-g 2"), 2);
}

/* GPUs where there are some; else words on why not, before any rank is started. */
static void gpu_memory(void)
{
    const char *flags = "--memory cuda --local 2 -b 8 -e 4K -f 64 -n 2 -G 2";
    if (cuda_driver()) {
        CHECK_EQ(sweep("all_reduce", flags), 2);
        return;
    }
    CHECK_EQ(test_program(20, output, sizeof(output), "all_reduce_perf", "%s", flags), 2);
    CHECK(strstr(output, "--memory cuda: ") && !strstr(output, "ranks"));
    CHECK_EQ(test_program(20, output, sizeof(output), "hypercube_perf", "--memory cuda"), 2);
}

static void nccl_missing(void)
{
    setenv("CHOIR_NCCL_LIBRARY", "/nonexistent/libnccl.so.2", 1);
    CHECK_EQ(test_program(20, output, sizeof(output), "all_reduce_perf",
                          "--memory cuda --local 2 --vs nccl"),
             2);
    CHECK(strstr(output, "--vs nccl: /nonexistent/libnccl.so.2"));
    CHECK_EQ(test_program(20, output, sizeof(output), "all_reduce_perf",
                          "--memory cuda --local 2 --vs nccl:fast"),
             2);
    CHECK(strstr(output, "modes are default, symmetric and zero"));
    unsetenv("CHOIR_NCCL_LIBRARY");
}

TEST_MAIN(TEST(processes), TEST(threads), TEST(groups), TEST(types_and_operations),
          TEST(names_algorithm), TEST(modes), TEST(json), TEST(refusals), TEST(gpu_memory),
          TEST(nccl_missing))
