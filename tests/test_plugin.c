/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Algorithms from a shared object, through the programs: they are listed, proved or refused, run; and a wrong result, which
 * the bad one brings about, makes a perf program fail.
 */
#include "tests/lib/program.h"
#include "tests/lib/test.h"
#include <limits.h>
#include <unistd.h>

static char output[1 << 16];

static void load_plugin(void)
{
    char path[PATH_MAX + 32];
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX);
    CHECK_LT(0, n);
    path[n] = 0;
    strcpy(strrchr(path, '/'), "/plugin/algorithms.so");
    CHECK_EQ(access(path, R_OK), 0);
    CHECK_EQ(setenv("CHOIR_ALGO_PLUGINS", path, 1), 0);
}

static void expect(int status, const char *text, const char *program, const char *arguments)
{
    int rc = test_program(40, output, sizeof(output), program, "%s", arguments);
    if (rc != status || !strstr(output, text))
        FAIL("%s %s: exit %d, not %d, or no \"%s\" in:\n%s", program, arguments, rc, status, text,
             output);
}

static void tools(void)
{
    load_plugin();
    expect(0, "flat", "choir-info", "--algorithms");
    expect(0, "proved: flat", "choir-plan", "broadcast 1M --ranks 5 --root 3 --algo flat --verify");
    expect(0, "selfish", "choir-plan", "all_reduce 1M --ranks 3");
    expect(1, "refused: selfish", "choir-plan", "all_reduce 1M --ranks 3 --algo selfish --verify");
}

static void runs(void)
{
    load_plugin();
    setenv("CHOIR_ALGO", "broadcast=flat", 1);
    expect(0, " flat\n", "broadcast_perf", "--local 3 -b 64 -e 1M -f 128 -n 2 -r 1");
    CHECK(!strstr(output, " direct\n"));
    unsetenv("CHOIR_ALGO");
}

/* Every wrong element is counted, and the exit status tells. */
static void wrong_results(void)
{
    load_plugin();
    setenv("CHOIR_ALGO", "all_reduce=selfish", 1);
    expect(1, "FAILED", "all_reduce_perf", "--local 2 -b 4K -e 4K -n 2 -d int32");
    unsigned long long wrong = 0;
    char *line = strstr(output, "# Out of bounds values :");
    CHECK(line != NULL);
    CHECK_EQ(sscanf(line, "# Out of bounds values : %llu", &wrong), 1);
    CHECK_LT(1024, wrong); /* nearly all of 1024 elements on 2 ranks, out of place and in place */
    expect(0, "#", "all_reduce_perf", "--local 2 -b 4K -e 4K -n 2 -d int32 -c 0");
    unsetenv("CHOIR_ALGO");
}

TEST_MAIN(TEST(tools), TEST(runs), TEST(wrong_results))
