/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations in slices, as host calls make them where GPU memory goes through the host (src/comm/slice.c): how many and how long
 * they are; drawn operations without a stream, on streams and in groups, where every element but those of one slice is in
 * another; inputs of a failed one that come back.
 */
#include "comm/comm.h"
#include "tests/lib/matrix.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

struct job {
    struct choir_id id;
    int operations;
    uint64_t seed, slice;
};

static void expect_cut(uint32_t size, uint64_t slice_bytes, struct comm_call call)
{
    struct choir_comm c = {.slice_bytes = slice_bytes, .host.size = size};
    uint64_t each, elem = choir_type_bytes(call.type), n = slice_count(&c, &call, &each);
    uint64_t wide = call.kind == CHOIR_ALL_REDUCE   ? 1
                    : call.kind == CHOIR_ALL_TO_ALL ? 2 * (uint64_t)size
                                                    : (uint64_t)size + 1;
    CHECK_LE(1, n);
    if (!slice_bytes || !call.count) {
        CHECK_EQ(n, 1);
        return;
    }
    CHECK(each > 0 && each <= call.count);
    CHECK(each * (n - 1) < call.count && each * n >= call.count); /* the last is not empty */
    CHECK_LE(each * wide * elem, slice_room(slice_bytes, size));
    if (n > 1 && each > 1) /* no smaller than it must be */
        CHECK_LT(slice_bytes / 2, (each + 64) * wide * elem);
}

static void arithmetic(void)
{
    static const enum choir_kind kinds[] = {CHOIR_ALL_REDUCE, CHOIR_ALL_GATHER, CHOIR_ALL_TO_ALL};
    static const enum choir_type types[] = {CHOIR_UINT8, CHOIR_FLOAT32, CHOIR_FLOAT64};
    static const uint64_t counts[] = {
        0, 1, 63, 64, 65, 1000, 1023, 1024, 1025, 1u << 20, (1ull << 34) + 7};
    static const uint32_t sizes[] = {1, 2, 3, 16, 1000, 65536};
    static const uint64_t bytes[] = {0, 4096, 100000, 4u << 20, 1u << 30};
    for (unsigned k = 0; k < base_count(kinds); k++)
        for (unsigned t = 0; t < base_count(types); t++)
            for (unsigned n = 0; n < base_count(counts); n++)
                for (unsigned s = 0; s < base_count(sizes); s++)
                    for (unsigned b = 0; b < base_count(bytes); b++)
                        expect_cut(sizes[s], bytes[b],
                                   (struct comm_call){
                                       .kind = kinds[k], .type = types[t], .count = counts[n]});
}

static void whole(void)
{
    struct choir_comm c = {.slice_bytes = 4096, .host.size = 4};
    uint64_t each;
    for (int k = CHOIR_BARRIER; k < CHOIR_KINDS; k++) {
        struct comm_call call = {.kind = (enum choir_kind)k, .count = 1u << 20};
        CHECK_EQ(slice_count(&c, &call, &each), 1);
    }
}

/* --- operations ------------------------------------------------------------------------------------------- */

static void drawn_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    choir_comm *c;
    choir_stream *stream;
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    CHECK_OK(choir_stream_create(&stream));
    c->slice_bytes = j->slice;
    uint64_t draw = j->seed;
    for (int i = 0; i < j->operations; i++) {
        struct matrix_op op;
        uint32_t kind = (uint32_t)(test_mix(draw++) % CHOIR_KINDS);
        int how = i % 3;
        matrix_draw(&op, (enum choir_kind)kind, size, 4096, &draw);
        op.rank = rank;
        if (how == 2) { /* two at a time, of whatever kind */
            float in[3000], out[3000];
            for (int e = 0; e < 3000; e++)
                in[e] = (float)e;
            CHECK_OK(choir_group_start());
            CHECK_OK(choir_all_reduce(c, in, out, 3000, CHOIR_FLOAT32, CHOIR_MAX, NULL));
            CHECK_OK(choir_all_reduce(c, in, in, 3000, CHOIR_FLOAT32, CHOIR_SUM, stream));
            CHECK_OK(choir_group_end());
            CHECK_OK(choir_stream_wait(stream));
            for (int e = 0; e < 3000; e++)
                CHECK(out[e] == (float)e && in[e] == (float)(e * size));
        }
        matrix_run(c, &op, how == 1 ? stream : NULL);
    }
    CHECK_OK(choir_stream_destroy(stream));
    CHECK_OK(choir_comm_destroy(c));
}

static void run(int ranks, int per_process, int hosts, uint64_t slice, void (*fn)(int, int, void *))
{
    struct job j = {.operations = TEST_BY_EFFORT(12, 60, 600), .seed = test_seed(), .slice = slice};
    const char *env[] = {"CHOIR_TIMEOUT=20s", NULL};
    struct test_ranks t = {.ranks = ranks,
                           .per_process = per_process,
                           .hosts = hosts,
                           .env = env,
                           .fn = fn,
                           .arg = &j};
    test_deadline(120);
    test_id(&j.id);
    if (!test_ranks_try(&t))
        FAIL("%d ranks, %d in a process, %d hosts, slices of %" PRIu64, ranks, per_process, hosts,
             slice);
}

static void drawn(void)
{
    run(2, 2, 1, 4096, drawn_body);
    run(3, 3, 1, 1000, drawn_body);
    run(4, 2, 2, 20000, drawn_body);
    run(1, 1, 1, 4096, drawn_body);
}

/* --- failure ------------------------------------------------------------------------------------------------- */

/* Rank 1 takes part in the first slices only; rank 0's input, overwritten so far, is whole again. */
static void restored_body(int rank, int size, void *arg)
{
    enum { COUNT = 5000 };
    const struct job *j = arg;
    struct choir_config config = CHOIR_CONFIG_INIT;
    choir_comm *c;
    float data[COUNT];
    config.restorable = 1;
    config.timeout_ns = 1000000000;
    CHECK_OK(choir_comm_create(&j->id, rank, size, &config, &c));
    c->slice_bytes = rank ? 0 : 4096;
    for (int i = 0; i < COUNT; i++)
        data[i] = (float)i;
    for (int i = 0; i < (rank ? 2 : 1); i++) /* slices of 1024 */
        (void)choir_all_reduce(c, data, data, rank ? 1024 : COUNT, CHOIR_FLOAT32, CHOIR_SUM, NULL);
    while (choir_comm_status(c) == CHOIR_OK)
        test_sleep_ms(1);
    for (int i = 0; i < COUNT && !rank; i++)
        CHECK(data[i] == (float)i);
    CHECK_OK(choir_comm_destroy(c));
}

static void restored(void)
{
    run(2, 2, 1, 0, restored_body);
}

TEST_MAIN(TEST(arithmetic), TEST(whole), TEST(drawn), TEST(restored))
