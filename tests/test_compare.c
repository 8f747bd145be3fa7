/* SPDX-License-Identifier: Apache-2.0 */
/* What perf/compare's report decides about measurements made up here. */
#include "tests/lib/program.h"
#include "tests/lib/test.h"
#include <unistd.h>

static char path[300], output[65536];
static FILE *csv;

static void begin(void)
{
    test_path(path, sizeof(path), "rounds.csv");
    csv = fopen(path, "w");
    CHECK(csv != NULL);
    fprintf(csv, "round,peer,transport,ranks,collective,place,bytes\n");
}

/* Rounds 1..n of one peer in one cell. */
static void add(const char *peer, unsigned bytes, int wrong, int n, const double *us)
{
    for (int i = 0; i < n; i++)
        fprintf(csv, "%d,%s,shm,2,all_reduce,out,%u,10,3,%.3f,0,0,0,0,%d\n", i + 1, peer, bytes,
                us[i], wrong);
}
#define ADD(peer, bytes, wrong, ...)                                                               \
    add(peer, bytes, wrong, sizeof((double[]){__VA_ARGS__}) / sizeof(double),                      \
        (double[]){__VA_ARGS__})

static int decide(const char *flags)
{
    fclose(csv);
    int rc = test_program(10, output, sizeof(output), "compare_report", "%s %s", flags, path);
    unlink(path);
    return rc;
}

static void faster(void)
{
    begin();
    ADD("choir", 8, 0, 1, 1.1, 1.2, 1, 1, 1, 1);
    ADD("mpich", 8, 0, 2, 2, 2, 2, 2, 2, 2);
    CHECK_EQ(decide(""), 0);
    CHECK(strstr(output, "1 cells compared: 0 slower, 1 at least 5 % faster"));
}

/* Slower needs both: the ratio, and quartiles apart. */
static void slower(void)
{
    begin();
    ADD("choir", 8, 0, 1.06, 1.06, 1.06, 1.06, 1.06, 1.06, 1.06);
    ADD("mpich", 8, 0, 1, 1, 1, 1, 1, 1, 1);
    ADD("ompi", 8, 0, 5, 5, 5, 5, 5, 5, 5);
    CHECK_EQ(decide(""), 1);
    CHECK(strstr(output, "8 B: 1.06 × mpich"));
    begin();
    ADD("choir", 8, 0, 1.04, 1.04, 1.04, 1.04, 1.04, 1.04, 1.04); /* apart, but near */
    ADD("mpich", 8, 0, 1, 1, 1, 1, 1, 1, 1);
    ADD("choir", 16, 0, 1, 1.5, 2, 2.5, 3, 3.5, 4); /* far, but spread into each other */
    ADD("mpich", 16, 0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5);
    CHECK_EQ(decide(""), 0);
    CHECK(strstr(output, "2 cells compared: 0 slower"));
}

/* A slow minute of the machine hits the same round of all: ratios are by round. */
static void ratios_are_by_round(void)
{
    begin();
    ADD("choir", 8, 0, 10, 20, 30, 40, 50);
    ADD("mpich", 8, 0, 10, 20, 30, 40, 50);
    CHECK_EQ(decide(""), 0);
    CHECK(strstr(output, " | 1.00 |"));
}

static void wrong_and_missing(void)
{
    begin();
    ADD("choir", 8, 3, 1, 1, 1);
    ADD("mpich", 8, 0, 2, 2, 2);
    CHECK_EQ(decide(""), 3);
    CHECK(strstr(output, "wrong data"));
    begin();
    ADD("mpich", 8, 0, 2, 2, 2);
    CHECK_EQ(decide(""), 3);
    CHECK(strstr(output, "missing"));
    begin(); /* a peer with wrong data is never the best */
    ADD("choir", 8, 0, 2, 2, 2);
    ADD("mpich", 8, 1, 1, 1, 1);
    ADD("ompi", 8, 0, 2, 2, 2);
    CHECK_EQ(decide(""), 0);
    begin();
    ADD("choir", 8, 0, 2, 2, 2); /* alone */
    CHECK_EQ(decide(""), 3);
    begin();
    ADD("ompi", 8, 0, 2, 2, 2);
    ADD("mpich", 8, 0, 2, 2, 2);
    CHECK_EQ(decide("--subject ompi"), 0);
}

static void bad_input(void)
{
    static const char *const lines[] = {"", "1,choir,shm,2,all_reduce,out,8,10,3,x,0,0,0,0,0",
                                        "1,choir,shm",
                                        "1,choir,shm,2,all_reduce,out,8,10,3,-1,0,0,0,0,0",
                                        "1,choir,shm,2,all_reduce,out,8,10,3,nan,0,0,0,0,0"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        begin();
        fprintf(csv, "%s%s", lines[i], lines[i][0] ? "\n" : "");
        CHECK_EQ(decide(""), 2);
    }
    CHECK_EQ(test_program(10, output, sizeof(output), "compare_report", "/nonexistent"), 2);
    CHECK_EQ(test_program(10, output, sizeof(output), "compare_report", "%s", ""), 2);
}

TEST_MAIN(TEST(faster), TEST(slower), TEST(ratios_are_by_round), TEST(wrong_and_missing),
          TEST(bad_input))
