/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What observers are told of host operations: every collective and v-form, messages, puts and signals, groups, lanes, streams, many
 * communicators; wrong calls. Observers themselves: test_profile_life.c.
 */
#include "base/knob.h"
#include "tests/lib/events.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

#define MOST 8

static struct choir_id id;
static struct events seen;
static const char *const kinds_of[] = {
    "all_reduce", "reduce",       "broadcast",        "all_gather", "reduce_scatter",
    "all_to_all", "gather",       "scatter",          "barrier",    "all_gather_v",
    "gather_v",   "all_to_all_v", "reduce_scatter_v", "scatter_v",
};
#define KINDS (sizeof(kinds_of) / sizeof(kinds_of[0]))

static choir_comm *make(int rank, int size, const char *name)
{
    struct choir_config config = CHOIR_CONFIG_INIT;
    choir_comm *c;
    config.name = name;
    CHECK_OK(choir_comm_create(&id, rank, size, &config, &c));
    return c;
}

/* One of each kind, with `count` elements, or so many of rank r's block + r; root: the last rank. */
static void one_of_each(choir_comm *c, int rank, int size, uint64_t count, choir_stream *s)
{
    static _Thread_local int32_t in[MOST * 5100], out[MOST * 5100];
    uint64_t own[MOST], all[MOST], block[MOST];
    int root = size - 1;
    for (int r = 0; r < size; r++)
        own[r] = count + (uint64_t)rank, all[r] = count + (uint64_t)r, block[r] = count;
    CHECK_OK(choir_all_reduce(c, in, out, count, CHOIR_INT32, CHOIR_MAX, s));
    CHECK_OK(choir_reduce(c, in, out, count, CHOIR_FLOAT32, CHOIR_SUM, root, s));
    CHECK_OK(choir_broadcast(c, out, out, count, CHOIR_UINT8, root, s));
    CHECK_OK(choir_all_gather(c, in, out, count, CHOIR_INT32, s));
    CHECK_OK(choir_reduce_scatter(c, in, out, count, CHOIR_INT32, CHOIR_BXOR, s));
    CHECK_OK(choir_all_to_all(c, in, out, count, CHOIR_INT16, s));
    CHECK_OK(choir_gather(c, in, out, count, CHOIR_INT32, root, s));
    CHECK_OK(choir_scatter(c, in, out, count, CHOIR_INT32, root, s));
    CHECK_OK(choir_barrier(c, s));
    CHECK_OK(choir_all_gather_v(c, in, out, all, NULL, CHOIR_INT32, s));
    CHECK_OK(choir_gather_v(c, in, count + (uint64_t)rank, out, all, NULL, CHOIR_INT32, root, s));
    CHECK_OK(choir_all_to_all_v(c, in, own, NULL, out, all, NULL, CHOIR_INT32, s));
    CHECK_OK(choir_reduce_scatter_v(c, in, out, block, NULL, CHOIR_INT32, CHOIR_SUM, s));
    CHECK_OK(choir_scatter_v(c, in, all, NULL, out, count + (uint64_t)rank, CHOIR_INT32, root, s));
}

static uint64_t count_of(uint32_t k, int rank, int size, uint64_t count)
{
    uint64_t n = (uint64_t)size, r = (uint64_t)rank;
    switch (k) {
    case 8:
        return 0;
    case 9:
    case 10:
        return count + r;
    case 11:
        return n * (count + r);
    case 12:
        return n * count;
    case 13:
        return rank == size - 1 ? n * count + n * (n - 1) / 2 : count + r;
    default:
        return count;
    }
}

/* --- operations ---------------------------------------------------------------------------------------- */

static uint64_t counts[2];
static enum choir_profile_stream stream_kind;

static void each_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size, "each");
    choir_stream *s = NULL;
    if (stream_kind == CHOIR_PROFILE_HOST_STREAM)
        CHECK_OK(choir_stream_create(&s));
    for (int i = 0; i < 2; i++)
        one_of_each(c, rank, size, counts[i], s);
    CHECK_OK(choir_stream_destroy(s));
    CHECK_OK(choir_comm_destroy(c));
}

static uint32_t lanes_of(const struct choir_profile_event *op)
{
    uint32_t n = 0, lanes = 0;
    for (uint32_t i = 0; i < seen.count; i++) {
        const struct choir_profile_event *e = &seen.event[i];
        if (e->kind != CHOIR_PROFILE_LANE || e->phase || e->parent != op->id)
            continue;
        CHECK(e->comm == op->comm && e->rank == op->rank);
        CHECK(e->instances > 0 && e->fragment_bytes > 0);
        CHECK_LT(e->lane, op->lanes);
        CHECK(!(lanes >> e->lane & 1));
        lanes |= 1u << e->lane;
        n++;
    }
    return n;
}

static void check_op(const struct choir_profile_event *e, uint32_t k, uint64_t count)
{
    bool reduces = k == 0 || k == 1 || k == 4 || k == 12;
    bool rooted = k == 1 || k == 2 || k == 6 || k == 7 || k == 10 || k == 13;
    CHECK_STR(e->operation, kinds_of[k]);
    CHECK_EQ(e->count, count_of(k, e->rank, e->size, count));
    CHECK_EQ(e->root, rooted ? e->size - 1 : -1);
    CHECK_EQ(e->peer, -1);
    CHECK_EQ(e->op, !reduces ? 0 : k == 0 ? CHOIR_MAX : k == 4 ? CHOIR_BXOR : CHOIR_SUM);
    CHECK_EQ(e->type, k == 1   ? CHOIR_FLOAT32
                      : k == 2 ? CHOIR_UINT8
                      : k == 5 ? CHOIR_INT16
                      : k == 8 ? CHOIR_UINT8
                               : CHOIR_INT32);
    CHECK_STR(e->name, "each");
    CHECK_EQ(e->hosts, 1);
    CHECK_EQ(e->stream_kind, stream_kind);
    CHECK_EQ(e->stream != NULL, stream_kind != CHOIR_PROFILE_BLOCKING);
    CHECK_EQ(e->parent, 0);
    CHECK_EQ(e->kernels, 0);
    CHECK_EQ(lanes_of(e), e->lanes);
    bool nothing = !count && k < 8;
    CHECK_EQ(!strcmp(e->algorithm, "none"), nothing);
    CHECK_EQ(e->lanes == 0, nothing);
}

/* Of each rank: its operations in order, numbered. */
static void check_ranks(int size)
{
    for (int r = 0; r < size; r++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < seen.count; i++) {
            const struct choir_profile_event *e = &seen.event[i];
            if (e->kind != CHOIR_PROFILE_OPERATION || e->phase || e->rank != r)
                continue;
            CHECK_EQ(e->sequence, n + 1);
            CHECK_EQ(events_find(&seen, e->id, CHOIR_PROFILE_END)->status, CHOIR_OK);
            check_op(e, n % KINDS, counts[n / KINDS]);
            n++;
        }
        CHECK_EQ(n, 2 * KINDS);
    }
}

static void operations(void)
{
    static const int sizes[] = {1, 2, 3, 5, 8};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (int over = 0; over < 2; over++) {
            stream_kind = over ? CHOIR_PROFILE_HOST_STREAM : CHOIR_PROFILE_BLOCKING;
            counts[0] = i % 2 ? 0 : 4999, counts[1] = 1 + i;
            events_start(&seen, CHOIR_PROFILE_ALL);
            CHECK_OK(choir_id_create(&id));
            test_threads(sizes[i], each_rank, NULL);
            events_stop(&seen);
            events_check(&seen, 0);
            CHECK_EQ(events_count(&seen, CHOIR_PROFILE_COMM, CHOIR_PROFILE_BEGIN, NULL), sizes[i]);
            CHECK_EQ(events_count(&seen, CHOIR_PROFILE_GROUP, CHOIR_PROFILE_BEGIN, NULL), 0);
            check_ranks(sizes[i]);
            events_free(&seen);
        }
}

/* A long operation has many instances, all of its lanes end. The same call again and again, as the short way has them. */
static void long_rank(int rank, int size, void *arg)
{
    enum { COUNT = 1 << 20 };
    choir_comm *c = make(rank, size, NULL);
    float *x = calloc(COUNT, sizeof(*x));
    for (int i = 0; i < 5; i++)
        CHECK_OK(choir_all_reduce(c, x, x, COUNT, CHOIR_FLOAT32, CHOIR_SUM, NULL));
    for (int i = 0; i < 100; i++)
        CHECK_OK(choir_all_reduce(c, x, x, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL));
    CHECK_OK(choir_comm_destroy(c));
    free(x);
    (void)arg;
}

static void long_ones(void)
{
    uint32_t most = 0;
    setenv("CHOIR_ALGO", "all_reduce:64K-=ring", 1);
    knob_reload();
    stream_kind = CHOIR_PROFILE_BLOCKING;
    events_start(&seen, CHOIR_PROFILE_ALL);
    CHECK_OK(choir_id_create(&id));
    test_threads(3, long_rank, NULL);
    events_stop(&seen);
    events_check(&seen, 0);
    CHECK_EQ(events_count(&seen, CHOIR_PROFILE_OPERATION, CHOIR_PROFILE_END, "all_reduce"), 315);
    for (uint32_t i = 0; i < seen.count; i++) {
        const struct choir_profile_event *e = &seen.event[i];
        if (e->kind == CHOIR_PROFILE_OPERATION && !e->phase)
            CHECK_EQ(lanes_of(e), e->lanes);
        if (e->kind == CHOIR_PROFILE_LANE)
            most = e->instances > most ? e->instances : most;
    }
    CHECK_LT(1, most);
    events_free(&seen);
    unsetenv("CHOIR_ALGO");
    knob_reload();
}

/* --- groups -------------------------------------------------------------------------------------------- */

static void group_rank(int rank, int size, void *arg)
{
    choir_comm *c = make(rank, size, "g"), *d;
    int32_t in[64] = {0}, out[64];
    int next = (rank + 1) % size, last = (rank + size - 1) % size;
    choir_stream *s;
    CHECK_OK(choir_stream_create(&s));
    CHECK_OK(choir_comm_split(c, 0, rank, NULL, &d));
    for (int over = 0; over < 2; over++) {
        CHECK_OK(choir_group_start());
        CHECK_OK(choir_all_reduce(d, in, out, 7, CHOIR_INT32, CHOIR_SUM, over ? s : NULL));
        CHECK_OK(choir_group_start()); /* is part of the outer one */
        CHECK_OK(choir_send(c, in, 5, CHOIR_FLOAT64, next, over ? s : NULL));
        CHECK_OK(choir_recv(c, out + 16, 5, CHOIR_FLOAT64, last, over ? s : NULL));
        CHECK_OK(choir_group_end());
        CHECK_OK(choir_send(c, in, 0, CHOIR_UINT8, next, over ? s : NULL));
        CHECK_OK(choir_recv(c, out, 0, CHOIR_UINT8, last, over ? s : NULL));
        CHECK_OK(choir_group_end());
        CHECK_OK(choir_stream_wait(s));
    }
    /* Alone they are in no group. */
    if (rank == 0)
        CHECK_OK(choir_send(c, in, 3, CHOIR_INT32, 1, NULL));
    if (rank == 1)
        CHECK_OK(choir_recv(c, out, 3, CHOIR_INT32, 0, NULL));
    /* Nothing runs in one that holds a wrong call. */
    CHECK_OK(choir_group_start());
    CHECK_OK(choir_barrier(c, NULL));
    CHECK_EQ(choir_send(c, in, 3, CHOIR_INT32, size, NULL), CHOIR_ERR_RANK);
    CHECK_EQ(choir_group_end(), CHOIR_ERR_RANK);
    CHECK_OK(choir_stream_destroy(s));
    CHECK_OK(choir_comm_destroy(d));
    CHECK_OK(choir_comm_destroy(c));
    (void)arg;
}

static void check_group_part(const struct choir_profile_event *e)
{
    const struct choir_profile_event *g = events_find(&seen, e->parent, CHOIR_PROFILE_BEGIN);
    bool send = !strcmp(e->operation, "send"), recv = !strcmp(e->operation, "recv");
    if (e->count == 3) {
        CHECK_EQ(e->parent, 0);
        CHECK_EQ(e->peer, send ? 1 : 0);
        return;
    }
    CHECK(g && g->kind == CHOIR_PROFILE_GROUP);
    if (!send && !recv) {
        CHECK(!strcmp(e->operation, "all_reduce") && e->count == 7 && e->peer == -1);
        return;
    }
    CHECK_EQ(e->peer, send ? (e->rank + 1) % e->size : (e->rank + e->size - 1) % e->size);
    CHECK_EQ(e->type, e->count ? CHOIR_FLOAT64 : CHOIR_UINT8);
    CHECK(e->count == 5 || e->count == 0);
    CHECK(send ? e->send && !e->recv : e->recv && !e->send);
    CHECK_STR(e->algorithm, "pairwise");
}

static void groups(void)
{
    int size = 3;
    events_start(&seen, CHOIR_PROFILE_ALL);
    CHECK_OK(choir_id_create(&id));
    test_threads(size, group_rank, NULL);
    events_stop(&seen);
    events_check(&seen, 0);
    CHECK_EQ(events_count(&seen, CHOIR_PROFILE_GROUP, CHOIR_PROFILE_BEGIN, NULL), 3 * size);
    CHECK_EQ(events_count(&seen, CHOIR_PROFILE_OPERATION, CHOIR_PROFILE_BEGIN, "send"),
             4 * size + 1);
    CHECK_EQ(events_count(&seen, CHOIR_PROFILE_OPERATION, CHOIR_PROFILE_BEGIN, "recv"),
             4 * size + 1);
    CHECK_EQ(events_count(&seen, CHOIR_PROFILE_OPERATION, CHOIR_PROFILE_BEGIN, "barrier"), 0);
    CHECK_EQ(events_count(&seen, CHOIR_PROFILE_COMM, CHOIR_PROFILE_END, NULL), 2 * size);
    uint32_t failed = 0;
    for (uint32_t i = 0; i < seen.count; i++) {
        const struct choir_profile_event *e = &seen.event[i];
        if (e->kind == CHOIR_PROFILE_OPERATION && !e->phase)
            check_group_part(e);
        failed += e->kind == CHOIR_PROFILE_GROUP && e->phase && e->status == CHOIR_ERR_RANK;
    }
    CHECK_EQ(failed, size);
    events_free(&seen);
}

/* --- one-sided ------------------------------------------------------------------------------------------ */

static void side_rank(int rank, int size, void *arg)
{
    choir_comm *c = make(rank, size, NULL);
    choir_window *w;
    choir_stream *s;
    uint64_t part[8] = {0}, data[8] = {7};
    int next = (rank + 1) % size, last = (rank + size - 1) % size;
    struct choir_signal_wait wait[2] = {{last, 3, 2}, {last, 5, 1}};
    CHECK_OK(choir_stream_create(&s));
    CHECK_OK(choir_window_create(c, part, sizeof(part), &w));
    CHECK_OK(choir_put(c, data, 16, next, w, 8, NULL));
    CHECK_OK(choir_group_start());
    CHECK_OK(choir_put_signal(c, data, 8, next, w, 0, 3, s));
    CHECK_OK(choir_wait_signal(c, wait, 2, s));
    CHECK_OK(choir_signal(c, next, 3, s));
    CHECK_OK(choir_signal(c, next, 5, s));
    CHECK_OK(choir_group_end());
    CHECK_OK(choir_stream_wait(s));
    CHECK_EQ(part[0], 7);
    CHECK_EQ(choir_signal(c, next, CHOIR_SIGNALS, NULL), CHOIR_ERR_ARGUMENT);
    CHECK_OK(choir_barrier(c, NULL));
    CHECK_OK(choir_window_destroy(w));
    CHECK_OK(choir_stream_destroy(s));
    CHECK_OK(choir_comm_destroy(c));
    (void)arg;
}

static void one_sided(void)
{
    static const struct {
        const char *name;
        uint64_t count;
        uint32_t number;
    } want[] = {{"put", 16, 1}, {"put_signal", 8, 1}, {"signal", 0, 2}, {"wait_signal", 0, 1}};
    int size = 3;
    events_start(&seen, CHOIR_PROFILE_ALL);
    CHECK_OK(choir_id_create(&id));
    test_threads(size, side_rank, NULL);
    events_stop(&seen);
    events_check(&seen, 0);
    for (size_t k = 0; k < sizeof(want) / sizeof(want[0]); k++) {
        CHECK_EQ(events_count(&seen, CHOIR_PROFILE_OPERATION, CHOIR_PROFILE_BEGIN, want[k].name),
                 want[k].number * (uint32_t)size);
        for (uint32_t i = 0; i < seen.count; i++) {
            const struct choir_profile_event *e = &seen.event[i];
            if (e->kind != CHOIR_PROFILE_OPERATION || strcmp(e->operation, want[k].name))
                continue;
            CHECK_EQ(e->count, want[k].count);
            CHECK_EQ(e->peer, want[k].name[0] == 'w' ? -1 : (e->rank + 1) % size);
            CHECK(e->lanes == 0 && !strcmp(e->algorithm, "none"));
            CHECK_EQ(e->parent != 0, k > 0);
            CHECK_EQ(e->stream_kind, k ? CHOIR_PROFILE_HOST_STREAM : CHOIR_PROFILE_BLOCKING);
        }
    }
    events_free(&seen);
}

/* --- what goes wrong ----------------------------------------------------------------------------------- */

static void wrong_rank(int rank, int size, void *arg)
{
    choir_comm *c = make(rank, size, NULL);
    int32_t x[8] = {0};
    /* Refused: no event. */
    CHECK_EQ(choir_all_reduce(c, NULL, x, 8, CHOIR_INT32, CHOIR_SUM, NULL), CHOIR_ERR_POINTER);
    CHECK_EQ(choir_send(c, x, 8, CHOIR_INT32, -1, NULL), CHOIR_ERR_RANK);
    /* Not the same call on all ranks: it begins, and ends with the error. */
    enum choir_status st = choir_all_reduce(c, x, x, rank ? 8 : 7, CHOIR_INT32, CHOIR_SUM, NULL);
    CHECK_EQ(st, CHOIR_ERR_MISMATCH);
    CHECK_EQ(choir_barrier(c, NULL), CHOIR_ERR_MISMATCH); /* refused again */
    CHECK_OK(choir_comm_destroy(c));
    (void)arg;
}

static void wrong_calls(void)
{
    events_start(&seen, CHOIR_PROFILE_ALL);
    CHECK_OK(choir_id_create(&id));
    test_threads(2, wrong_rank, NULL);
    events_stop(&seen);
    events_check(&seen, 0);
    CHECK_EQ(events_count(&seen, CHOIR_PROFILE_OPERATION, CHOIR_PROFILE_BEGIN, NULL), 2);
    for (uint32_t i = 0; i < seen.count; i++)
        if (seen.event[i].kind != CHOIR_PROFILE_LANE && seen.event[i].phase)
            CHECK_EQ(seen.event[i].status, CHOIR_ERR_MISMATCH);
    events_free(&seen);
}

TEST_MAIN(TEST(operations), TEST(long_ones), TEST(groups), TEST(one_sided), TEST(wrong_calls))
