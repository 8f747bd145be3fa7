/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups of sends and receives whose peers are late in every order: a receive that has nothing yet must not keep others back.
 */
#include "choir.h"
#include "tests/lib/test.h"

static struct choir_id id;
static uint64_t count;

static void expect(const int32_t *p, int from)
{
    for (uint64_t i = 0; i < count; i++)
        if (p[i] != (int32_t)i + from)
            FAIL("element %llu from rank %d is %d", (unsigned long long)i, from, p[i]);
}

/* The rank `last` hears from `first` before it sends; nobody groups but rank 0, which receives from both. */
static void body(int rank, int size, void *arg)
{
    int last = arg ? 2 : 1, first = arg ? 1 : 2;
    choir_comm *c;
    int32_t *in = malloc(count * 4), *a = malloc(count * 4), *b = malloc(count * 4);
    for (uint64_t i = 0; i < count; i++)
        in[i] = (int32_t)i + rank, a[i] = b[i] = -1;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    if (rank == 0) {
        CHECK_OK(choir_group_start());
        CHECK_OK(choir_recv(c, a, count, CHOIR_INT32, last, NULL));
        CHECK_OK(choir_recv(c, b, count, CHOIR_INT32, first, NULL));
        CHECK_OK(
            choir_recv(c, a, count, CHOIR_INT32, last, NULL)); /* a second one keeps its order */
        CHECK_OK(choir_group_end());
        expect(a, last);
        expect(b, first);
    } else if (rank == last) {
        CHECK_OK(choir_recv(c, a, count, CHOIR_INT32, first, NULL));
        expect(a, first);
        CHECK_OK(choir_send(c, in, count, CHOIR_INT32, 0, NULL));
        CHECK_OK(choir_send(c, in, count, CHOIR_INT32, 0, NULL));
    } else {
        CHECK_OK(choir_send(c, in, count, CHOIR_INT32, 0, NULL));
        CHECK_OK(choir_send(c, in, count, CHOIR_INT32, last, NULL));
    }
    CHECK_OK(choir_barrier(c, NULL));
    CHECK_OK(choir_comm_destroy(c));
    free(in), free(a), free(b);
}

static void all(void)
{
    static const uint64_t counts[] = {0, 1, 5000, 2u << 20};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        for (int order = 0; order < 2; order++) {
            count = counts[i];
            CHECK_OK(choir_id_create(&id));
            test_threads(3, body, order ? &id : NULL);
            test_id(&id);
            test_processes(3, body, order ? &id : NULL);
        }
}

static void tcp(void)
{
    setenv("CHOIR_TRANSPORTS", "self,tcp", 1);
    count = 2u << 20;
    test_id(&id);
    test_processes(3, body, NULL);
    test_id(&id);
    test_processes(3, body, &id);
}

/* A collective called before the messages of its group runs after them, on a stream too. */
static void stream_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c;
    choir_stream *s;
    int32_t sum = 0, got = -1;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    CHECK_OK(choir_stream_create(&s));
    CHECK_OK(choir_group_start());
    CHECK_OK(choir_all_reduce(c, &rank, &sum, 1, CHOIR_INT32, CHOIR_SUM, s));
    CHECK_OK(choir_send(c, &rank, 1, CHOIR_INT32, (rank + 1) % size, s));
    CHECK_OK(choir_recv(c, &got, 1, CHOIR_INT32, (rank + size - 1) % size, s));
    CHECK_OK(choir_group_end());
    CHECK_OK(choir_stream_wait(s));
    CHECK_EQ(got, (rank + size - 1) % size);
    CHECK_EQ(sum, size * (size - 1) / 2);
    CHECK_OK(choir_stream_destroy(s));
    CHECK_OK(choir_comm_destroy(c));
}

static void stream(void)
{
    CHECK_OK(choir_id_create(&id));
    test_threads(3, stream_rank, NULL);
}

TEST_MAIN(TEST(tcp), TEST(stream), TEST(all))
