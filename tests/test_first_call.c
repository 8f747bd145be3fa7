/* SPDX-License-Identifier: Apache-2.0 */
/* The first call of a fresh communicator, over and over: nothing is connected, ranks arrive with skew, parts are uneven. */
#include "tests/lib/test.h"
#include "choir.h"
#include <unistd.h>

static char file[300] = "file:";
static uint64_t count;

/* Joins as `rank`, does one all-reduce in place and looks at the result. */
static void first_all_reduce(int rank, int size, void *arg)
{
    char number[16];
    choir_comm *comm;
    (void)arg;
    snprintf(number, sizeof(number), "%d", rank);
    setenv("CHOIR_RANK", number, 1);
    snprintf(number, sizeof(number), "%d", size);
    setenv("CHOIR_SIZE", number, 1);
    setenv("CHOIR_RENDEZVOUS", file, 1);
    CHECK_OK(choir_comm_create_auto(NULL, &comm));
    double *data = malloc(count * sizeof(*data));
    CHECK(data != NULL);
    for (uint64_t i = 0; i < count; i++)
        data[i] = rank + 1;
    CHECK_OK(choir_all_reduce(comm, data, data, count, CHOIR_FLOAT64, CHOIR_SUM, NULL));
    for (uint64_t i = 0; i < count; i++)
        if (data[i] != size * (size + 1) / 2)
            FAIL("element %" PRIu64 " of %" PRIu64 " is %g", i, count, data[i]);
    free(data);
    CHECK_OK(choir_comm_destroy(comm));
}

static void run(int size, int rounds, const uint64_t *counts, size_t n)
{
    for (int round = 0; round < rounds; round++)
        for (size_t i = 0; i < n; i++) {
            test_path(file + 5, sizeof(file) - 5, "id");
            unlink(file + 5);
            count = counts[i];
            test_processes(size, first_all_reduce, NULL);
            unlink(file + 5);
        }
}

/* Around the slot, one element more or less than whole parts. */
static void uneven_parts(void)
{
    static const uint64_t counts[] = {1, 1025, 8193, 30001, 200003};
    run(2, 12, counts, sizeof(counts) / sizeof(counts[0]));
    run(3, 4, counts, sizeof(counts) / sizeof(counts[0]));
}

TEST_MAIN(TEST(uneven_parts))
