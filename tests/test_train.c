/* SPDX-License-Identifier: Apache-2.0 */
/* The training example: any number of ranks follows the loss curve of one rank, and the loss falls. */
#include "tests/lib/program.h"
#include "tests/lib/test.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char output[16384], curve[64];

static void same_curve(void)
{
    static const int ranks[] = {2, 3, 4};
    snprintf(curve, sizeof(curve), "/tmp/choir-curve-%d", (int)getpid());
    /* 272 samples: 17 blocks, uneven over 2, 3 and 4 ranks */
    const char *flags = "--steps 200 --batch 272 --hidden 64 --sample 20 --report 100";
    int rc = test_program(30, output, sizeof(output), "train_text", "%s --local 1 --curve %s",
                          flags, curve);
    if (rc)
        FAIL("1 rank: exit %d\n%s", rc, output);
    double first = 0, last = 0;
    CHECK_EQ(sscanf(strstr(output, "step     1  loss"), "step     1  loss %lf", &first), 1);
    CHECK_EQ(sscanf(strstr(output, "step   200  loss"), "step   200  loss %lf", &last), 1);
    if (!(last < first * 0.75))
        FAIL("the loss went from %g to %g only", first, last);
    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
        rc = test_program(30, output, sizeof(output), "train_text", "%s --local %d --check %s",
                          flags, ranks[i], curve);
        if (rc)
            FAIL("%d ranks: exit %d\n%s", ranks[i], rc, output);
        char *line = strstr(output, "curve of");
        CHECK(line != NULL && strstr(line, ": followed"));
        printf("%d ranks: %s", ranks[i], line);
    }
    unlink(curve);
}

/* --check can fail: another seed is another curve. */
static void other_curve(void)
{
    const char *flags = "--steps 3 --hidden 32 --sample 0 --local 2";
    snprintf(curve, sizeof(curve), "/tmp/choir-curve-%d", (int)getpid());
    CHECK_EQ(test_program(30, output, sizeof(output), "train_text", "%s --curve %s", flags, curve),
             0);
    CHECK_EQ(test_program(30, output, sizeof(output), "train_text", "%s --seed 2 --check %s", flags,
                          curve),
             1);
    CHECK(strstr(output, "NOT followed"));
    CHECK_EQ(
        test_program(30, output, sizeof(output), "train_text", "%s --text /nonexistent", flags), 2);
    CHECK_EQ(test_program(30, output, sizeof(output), "train_text", "--steps 0"), 2);
    unlink(curve);
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

TEST_MAIN(TEST(same_curve), TEST(other_curve), TEST(hello), TEST(wrong_environment))
