/* SPDX-License-Identifier: Apache-2.0 */
/* The training example: any number of ranks follows the loss curve of one rank, and the loss falls. */
#include "tests/lib/program.h"
#include "tests/lib/test.h"
#include <stdlib.h>
#include <string.h>

static char output[16384], curve[300];

/* 272 samples: 17 blocks, uneven over 2, 3 and 4 ranks */
#define FLAGS "--batch 272 --hidden 64 --report 100"

static void write_curve(int steps)
{
    test_path(curve, sizeof(curve), "curve");
    int rc = test_program(30, output, sizeof(output), "train_text",
                          FLAGS " --local 1 --steps %d --sample 20 --curve %s", steps, curve);
    if (rc)
        FAIL("1 rank: exit %d\n%s", rc, output);
}

static void followed(int rc, const char *what)
{
    char *line = strstr(output, "curve of");
    if (rc || !line || !strstr(line, ": followed"))
        FAIL("%s: exit %d\n%s", what, rc, output);
    printf("%s: %s", what, line);
}

/* Any number of ranks, over shared memory and over TCP, follows the curve of one; that one falls. */
static void same_curve(void)
{
    static const char *const transports[] = {"self,shm", "self,tcp"};
    double first = 0, last = 0, fall = test_effort() ? 0.75 : 1;
    int steps = test_effort() ? 200 : 20;
    char last_line[32];
    snprintf(last_line, sizeof(last_line), "step %5d  loss", steps);
    write_curve(steps);
    CHECK_EQ(sscanf(strstr(output, "step     1  loss"), "step     1  loss %lf", &first), 1);
    const char *said = strstr(output, last_line);
    CHECK(said && sscanf(said + strlen(last_line), "%lf", &last) == 1);
    CHECK(strstr(output, "tokens/s") && strstr(output, "---- a sample, after "));
    if (!(last < first * fall))
        FAIL("the loss went from %g to %g only", first, last);
    for (int ranks = 2; ranks <= (test_effort() ? 4 : 3); ranks++)
        for (size_t t = 0; t < sizeof(transports) / sizeof(transports[0]); t++) {
            char what[64];
            snprintf(what, sizeof(what), "%d ranks over %s", ranks, transports[t]);
            setenv("CHOIR_TRANSPORTS", transports[t], 1);
            followed(test_program(60, output, sizeof(output), "train_text",
                                  FLAGS " --steps %d --sample 0 --local %d --check %s", steps,
                                  ranks, curve),
                     what);
        }
    unsetenv("CHOIR_TRANSPORTS");
}

static void by_mpirun(void)
{
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* of MPI's own libraries */
    static const char *const launchers[] = {
        "mpirun.openmpi",
        ("env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
         "mpirun.openmpi --oversubscribe -n 3 env"),
        "mpirun.mpich", "mpirun.mpich -n 3 env"};
    write_curve(50);
    for (size_t i = 0; i < 4; i += 2) {
        char command[8192];
        snprintf(command, sizeof(command), "command -v %s", launchers[i]);
        if (test_command(10, output, sizeof(output), command)) {
            test_skip_part("%s is not installed", launchers[i]);
            continue;
        }
        snprintf(command, sizeof(command), "exec %s %s " FLAGS " --steps 50 --sample 0 --check %s",
                 launchers[i + 1], test_program_path("train_text"), curve);
        followed(test_command(60, output, sizeof(output), command), launchers[i]);
    }
}

/* --check can fail: another seed is another curve. */
static void other_curve(void)
{
    const char *flags = "--steps 3 --hidden 32 --sample 0 --local 2";
    test_path(curve, sizeof(curve), "other_curve");
    CHECK_EQ(test_program(30, output, sizeof(output), "train_text", "%s --curve %s", flags, curve),
             0);
    CHECK_EQ(test_program(30, output, sizeof(output), "train_text", "%s --seed 2 --check %s", flags,
                          curve),
             1);
    CHECK(strstr(output, "NOT followed"));
    CHECK_EQ(
        test_program(30, output, sizeof(output), "train_text", "%s --text /nonexistent", flags), 2);
    CHECK_EQ(test_program(30, output, sizeof(output), "train_text", "--steps 0"), 2);
}

static void hello(void)
{
    CHECK_EQ(test_program(30, output, sizeof(output), "hello", "%s", ""), 0);
    CHECK_STR(output, "rank 0 of 1: the sum is 0\n");
}

/* A program that says nothing of its errors still shows what was wrong with the environment. */
static void wrong_environment(void)
{
    static const char *const wrong[][2] = {{"CHOIR_TIMEOUT", "-3"},
                                           {"CHOIR_LOG", "loud"},
                                           {"CHOIR_SLOT", "1K"},
                                           {"CHOIR_TRANSPORTS", "shn"}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        setenv(wrong[i][0], wrong[i][1], 1);
        CHECK_EQ(test_program(30, output, sizeof(output), "hello", "%s", ""), 1);
        if (!strstr(output, wrong[i][0]) || !strstr(output, wrong[i][1]))
            FAIL("%s=%s: \"%s\"", wrong[i][0], wrong[i][1], output);
        unsetenv(wrong[i][0]);
    }
}

TEST_MAIN(TEST(same_curve), TEST(by_mpirun), TEST(other_curve), TEST(hello),
          TEST(wrong_environment))
