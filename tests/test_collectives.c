/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The collectives as a user calls them, among threads and among processes, against expectations computed here. Values are small
 * integers, so that sums are exact in every order and in every type used.
 */
#include "choir.h"
#include "tests/lib/test.h"

static struct choir_id id;

static int value(int rank, uint64_t i)
{
    return (int)((i * 7 + (uint64_t)rank * 13) % 11) - 3;
}

static choir_comm *make(int rank, int size)
{
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    return c;
}

static void all_reduce_one(choir_comm *c, int rank, int size, uint64_t n, int in_place)
{
    float *in = calloc(n + 1, 4), *out = calloc(n + 1, 4);
    for (uint64_t i = 0; i < n; i++)
        in[i] = (float)value(rank, i), out[i] = -1e9f;
    if (in_place)
        memcpy(out, in, n * 4);
    CHECK_OK(choir_all_reduce(c, in_place ? out : in, out, n, CHOIR_FLOAT32, CHOIR_SUM, NULL));
    for (uint64_t i = 0; i < n; i++) {
        int want = 0;
        for (int r = 0; r < size; r++)
            want += value(r, i);
        if (out[i] != (float)want)
            FAIL("rank %d of %d: element %" PRIu64 " of %" PRIu64 " is %g, not %d", rank, size, i,
                 n, out[i], want);
    }
    free(in);
    free(out);
}

static void moves(choir_comm *c, int rank, int size, uint64_t n)
{
    uint64_t total = n * (uint64_t)size;
    int32_t *in = malloc(total * 4 + 4), *out = malloc(total * 4 + 4);
    for (uint64_t i = 0; i < total; i++)
        in[i] = value(rank, i), out[i] = -77;
    CHECK_OK(choir_all_gather(c, in, out, n, CHOIR_INT32, NULL));
    for (uint64_t i = 0; i < total; i++)
        CHECK_EQ(out[i], value((int)(i / n), i % n));
    CHECK_OK(choir_all_to_all(c, in, out, n, CHOIR_INT32, NULL));
    for (uint64_t i = 0; i < total; i++)
        CHECK_EQ(out[i], value((int)(i / n), (uint64_t)rank * n + i % n));
    CHECK_OK(choir_reduce_scatter(c, in, out, n, CHOIR_INT32, CHOIR_SUM, NULL));
    for (uint64_t i = 0; i < n; i++) {
        int want = 0;
        for (int r = 0; r < size; r++)
            want += value(r, (uint64_t)rank * n + i);
        CHECK_EQ(out[i], want);
    }
    for (int root = 0; root<size; root += size> 4 ? 3 : 1) {
        memset(out, 0x55, total * 4);
        CHECK_OK(choir_broadcast(c, in, out, n, CHOIR_INT32, root, NULL));
        for (uint64_t i = 0; i < n; i++)
            CHECK_EQ(out[i], value(root, i));
        CHECK_OK(choir_reduce(c, in, out, n, CHOIR_INT32, CHOIR_MAX, root, NULL));
        for (uint64_t i = 0; i < n && rank == root; i++) {
            int want = -100;
            for (int r = 0; r < size; r++)
                want = value(r, i) > want ? value(r, i) : want;
            CHECK_EQ(out[i], want);
        }
        CHECK_OK(choir_gather(c, in, out, n, CHOIR_INT32, root, NULL));
        for (uint64_t i = 0; i < total && rank == root; i++)
            CHECK_EQ(out[i], value((int)(i / n), i % n));
        CHECK_OK(choir_scatter(c, in, out, n, CHOIR_INT32, root, NULL));
        for (uint64_t i = 0; i < n; i++)
            CHECK_EQ(out[i], value(root, (uint64_t)rank * n + i));
        CHECK_OK(choir_barrier(c, NULL));
    }
    free(in);
    free(out);
}

static void body(int rank, int size, void *arg)
{
    (void)arg;
    static const uint64_t counts[] = {0,    1,    2,     7,     12,    13,         100,
                                      1023, 4096, 16384, 16385, 65537, 262144 + 5, 1048576};
    choir_comm *c = make(rank, size);
    size_t n = sizeof(counts) / sizeof(counts[0]) - (test_effort() ? 0 : 2);
    for (size_t i = 0; i < n; i++) {
        all_reduce_one(c, rank, size, counts[i], 0);
        all_reduce_one(c, rank, size, counts[i], 1);
        if (counts[i] && counts[i] < 100000)
            moves(c, rank, size, counts[i]);
    }
    for (int i = 0; i < TEST_BY_EFFORT(50, 200, 1000); i++)
        all_reduce_one(c, rank, size, 3, 0);
    CHECK_OK(choir_comm_destroy(c));
}

static void threads(void)
{
    static const int sizes[] = {1, 2, 3, 5, 8};
    test_deadline(120);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        CHECK_OK(choir_id_create(&id));
        test_threads(sizes[i], body, NULL);
    }
}

/* The parent serves the id only, in a process of its own, so that ranks are forked from one without threads. */
static void processes(void)
{
    static const int sizes[] = {2, 3, 5, 8};
    test_deadline(120);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        test_id(&id);
        test_processes(sizes[i], body, NULL);
    }
}

TEST_MAIN(TEST(threads), TEST(processes))
