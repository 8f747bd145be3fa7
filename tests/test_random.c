/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random sequences of operations on several communicators at once, held against expectations computed here. All ranks draw the
 * same sequence from the seed (CHOIR_TEST_SEED replays it); sizes cross every threshold of the engine: lines, slots,
 * pulls, several instances. Values are small integers: exact in every order.
 */
#include "choir.h"
#include "tests/lib/test.h"
#include <sched.h>

#define COMMS 3
#define MOST 300000u

static struct choir_id id;
static int operations = 120;

struct rank {
    int rank, size;
    uint64_t state;
    choir_comm *comm[COMMS];
    int crank[COMMS], csize[COMMS];
    int *member[COMMS]; /* ranks of the world, in the communicator's order */
    int32_t *in, *out;
};

static uint64_t draw(struct rank *r, uint64_t below)
{
    r->state += 0x9e3779b97f4a7c15u;
    uint64_t x = r->state;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (x ^ x >> 31) % below;
}

static int32_t value(int rank, uint64_t i, uint64_t salt)
{
    return (int32_t)((i * 31 + (uint64_t)rank * 17 + salt * 7) % 97) - 48;
}

static uint64_t draw_count(struct rank *r, int size)
{
    static const uint64_t near[] = {0,    1,    2,    3,     11,    12,    13,    64,
                                    1000, 2048, 2049, 16383, 16384, 16385, 40000, 131072};
    uint64_t n = draw(r, 3) ? near[draw(r, sizeof(near) / sizeof(near[0]))] : draw(r, 5000);
    return n * (uint64_t)size > MOST ? MOST / (uint64_t)size : n;
}

static void fill(struct rank *r, uint64_t n, uint64_t salt)
{
    for (uint64_t i = 0; i < n; i++)
        r->in[i] = value(r->rank, i, salt), r->out[i] = INT32_MIN;
}

static int32_t reduced(const struct rank *r, int c, uint64_t i, uint64_t salt, choir_op op)
{
    int32_t x = value(r->member[c][0], i, salt);
    for (int k = 1; k < r->csize[c]; k++) {
        int32_t y = value(r->member[c][k], i, salt);
        x = op == CHOIR_SUM   ? x + y
            : op == CHOIR_MAX ? (x > y ? x : y)
            : op == CHOIR_MIN ? (x < y ? x : y)
                              : x ^ y;
    }
    return x;
}

#define EXPECT(got, want, what)                                                                    \
    do {                                                                                           \
        if ((got) != (want))                                                                       \
            FAIL("rank %d communicator %d: " what ": element %llu of %llu is %d, not %d", r->rank, \
                 c, (unsigned long long)i, (unsigned long long)n, (int)(got), (int)(want));        \
    } while (0)

static void reduce_kinds(struct rank *r, int c, int kind, uint64_t salt)
{
    static const choir_op ops[] = {CHOIR_SUM, CHOIR_MAX, CHOIR_MIN, CHOIR_BXOR};
    choir_op op = ops[draw(r, 4)];
    int root = (int)draw(r, (uint64_t)r->csize[c]), me = r->crank[c], in_place = (int)draw(r, 2);
    uint64_t n = draw_count(r, kind == 2 ? r->csize[c] : 1),
             total = kind == 2 ? n * (uint64_t)r->csize[c] : n;
    fill(r, total, salt);
    const int32_t *in = r->in;
    int32_t *out = r->out;
    if (kind == 0) {
        if (in_place)
            out = r->in;
        CHECK_OK(choir_all_reduce(r->comm[c], in, out, n, CHOIR_INT32, op, NULL));
    } else if (kind == 1) {
        CHECK_OK(choir_reduce(r->comm[c], in, out, n, CHOIR_INT32, op, root, NULL));
        if (me != root)
            return;
    } else {
        if (in_place)
            out = r->in + n * (uint64_t)me;
        CHECK_OK(choir_reduce_scatter(r->comm[c], in, out, n, CHOIR_INT32, op, NULL));
    }
    uint64_t from = kind == 2 ? n * (uint64_t)me : 0;
    for (uint64_t i = 0; i < n; i++)
        EXPECT(out[i], reduced(r, c, from + i, salt, op), "reduction");
}

static void move_kinds(struct rank *r, int c, int kind, uint64_t salt)
{
    int size = r->csize[c], me = r->crank[c], root = (int)draw(r, (uint64_t)size);
    uint64_t n = draw_count(r, size), total = n * (uint64_t)size;
    fill(r, total, salt);
    choir_comm *comm = r->comm[c];
    if (kind == 3) { /* in place too */
        const int32_t *in = r->in;
        if (draw(r, 2)) {
            memcpy(r->out + n * (uint64_t)me, r->in, n * sizeof(int32_t));
            in = r->out + n * (uint64_t)me;
        }
        CHECK_OK(choir_all_gather(comm, in, r->out, n, CHOIR_INT32, NULL));
        for (uint64_t i = 0; i < total; i++)
            EXPECT(r->out[i], value(r->member[c][i / n], i % n, salt), "all_gather");
    } else if (kind == 4) {
        int32_t *out = draw(r, 2) ? r->in : r->out;
        CHECK_OK(choir_all_to_all(comm, r->in, out, n, CHOIR_INT32, NULL));
        for (uint64_t i = 0; i < total; i++)
            EXPECT(out[i], value(r->member[c][i / n], (uint64_t)me * n + i % n, salt),
                   "all_to_all");
    } else if (kind == 5) {
        CHECK_OK(choir_broadcast(comm, r->in, r->out, n, CHOIR_INT32, root, NULL));
        for (uint64_t i = 0; i < n; i++)
            EXPECT(r->out[i], value(r->member[c][root], i, salt), "broadcast");
    } else if (kind == 6) {
        CHECK_OK(choir_gather(comm, r->in, r->out, n, CHOIR_INT32, root, NULL));
        for (uint64_t i = 0; i < total && me == root; i++)
            EXPECT(r->out[i], value(r->member[c][i / n], i % n, salt), "gather");
    } else {
        CHECK_OK(choir_scatter(comm, r->in, r->out, n, CHOIR_INT32, root, NULL));
        for (uint64_t i = 0; i < n; i++)
            EXPECT(r->out[i], value(r->member[c][root], (uint64_t)me * n + i, salt), "scatter");
    }
}

static void v_forms(struct rank *r, int c, uint64_t salt)
{
    int size = r->csize[c], me = r->crank[c];
    uint64_t counts[64] = {0}, send[64] = {0}, recv[64] = {0}, at = 0, n = 0;
    for (int k = 0; k < size; k++)
        counts[k] = draw(r, 4) ? draw(r, 3000) : 0, n += counts[k];
    fill(r, n, salt);
    CHECK_OK(choir_all_gather_v(r->comm[c], r->in, r->out, counts, NULL, CHOIR_INT32, NULL));
    for (int k = 0; k < size; at += counts[k], k++)
        for (uint64_t i = 0; i < counts[k]; i++)
            EXPECT(r->out[at + i], value(r->member[c][k], i, salt), "all_gather_v");
    CHECK_OK(choir_reduce_scatter_v(r->comm[c], r->in, r->out, counts, NULL, CHOIR_INT32, CHOIR_SUM,
                                    NULL));
    at = 0;
    for (int k = 0; k < me; k++)
        at += counts[k];
    for (uint64_t i = 0; i < counts[me]; i++)
        EXPECT(r->out[i], reduced(r, c, at + i, salt, CHOIR_SUM), "reduce_scatter_v");
    /* From a to b go (a * 5 + b * 3 + salt) % 7 * 100 elements, often none. */
    uint64_t total = 0;
    for (int k = 0; k < size; k++) {
        send[k] = ((uint64_t)me * 5 + (uint64_t)k * 3 + salt) % 7 * 100;
        recv[k] = ((uint64_t)k * 5 + (uint64_t)me * 3 + salt) % 7 * 100;
        total += send[k] > recv[k] ? send[k] : recv[k];
    }
    fill(r, total, salt);
    CHECK_OK(
        choir_all_to_all_v(r->comm[c], r->in, send, NULL, r->out, recv, NULL, CHOIR_INT32, NULL));
    at = 0;
    for (int k = 0; k < size; at += recv[k], k++) {
        uint64_t theirs = 0;
        for (int j = 0; j < me; j++)
            theirs += ((uint64_t)k * 5 + (uint64_t)j * 3 + salt) % 7 * 100;
        for (uint64_t i = 0; i < recv[k]; i++)
            EXPECT(r->out[at + i], value(r->member[c][k], theirs + i, salt), "all_to_all_v");
    }
}

/* A ring of sends and receives, and a collective on another communicator, in one group. */
static void groups(struct rank *r, int c, uint64_t salt)
{
    int size = r->csize[c], me = r->crank[c], other = (int)draw(r, COMMS),
        step = 1 + (int)draw(r, (uint64_t)size);
    uint64_t n = draw_count(r, 4);
    fill(r, n, salt);
    int32_t *sum_in = r->in + MOST, *sum_out = r->out + MOST;
    for (int i = 0; i < 5; i++)
        sum_in[i] = value(r->rank, (uint64_t)i, salt);
    CHECK_OK(choir_group_start());
    CHECK_OK(
        choir_recv(r->comm[c], r->out, n, CHOIR_INT32, (me + size - step % size) % size, NULL));
    CHECK_OK(choir_all_reduce(r->comm[other], sum_in, sum_out, 5, CHOIR_INT32, CHOIR_SUM, NULL));
    CHECK_OK(choir_send(r->comm[c], r->in, n, CHOIR_INT32, (me + step) % size, NULL));
    CHECK_OK(choir_group_end());
    for (uint64_t i = 0; i < n; i++)
        EXPECT(r->out[i], value(r->member[c][(me + size - step % size) % size], i, salt), "group");
    for (uint64_t i = 0; i < 5; i++) {
        int saved = c;
        c = other;
        EXPECT(sum_out[i], reduced(r, c, i, salt, CHOIR_SUM), "all_reduce in a group");
        c = saved;
    }
}

/* World, halves (even and odd ranks), and the world in reverse. */
static void make_comms(struct rank *r)
{
    CHECK_OK(choir_comm_create(&id, r->rank, r->size, NULL, &r->comm[0]));
    CHECK_OK(choir_comm_split(r->comm[0], r->rank % 2, r->rank, NULL, &r->comm[1]));
    CHECK_OK(choir_comm_split(r->comm[0], 0, -r->rank, NULL, &r->comm[2]));
    for (int c = 0; c < COMMS; c++) {
        CHECK_OK(choir_comm_rank(r->comm[c], &r->crank[c]));
        CHECK_OK(choir_comm_size(r->comm[c], &r->csize[c]));
        r->member[c] = malloc((size_t)r->csize[c] * sizeof(int));
        for (int k = 0; k < r->csize[c]; k++)
            r->member[c][k] = c == 0 ? k : c == 1 ? 2 * k + r->rank % 2 : r->size - 1 - k;
        CHECK_EQ(r->member[c][r->crank[c]], r->rank);
    }
}

static void body(int rank, int size, void *arg)
{
    (void)arg;
    struct rank r = {.rank = rank, .size = size, .state = test_seed()};
    r.in = malloc((2 * MOST + 64) * sizeof(int32_t));
    r.out = malloc((2 * MOST + 64) * sizeof(int32_t));
    make_comms(&r);
    for (int i = 0; i < operations; i++) {
        int c = (int)draw(&r, COMMS), kind = (int)draw(&r, 11);
        /* Both halves draw alike, so the sequence stays common to all ranks; roots and counts are drawn below their size. */
        uint64_t state = draw(&r, UINT64_MAX), keep = r.state;
        r.state = state;
        if (draw(&r, 10) == 0)
            for (uint64_t k = draw(&r, 200) * (uint64_t)rank; k; k--)
                sched_yield(); /* skew */
        r.state = state ^ 1;
        if (kind < 3)
            reduce_kinds(&r, c, kind, (uint64_t)i);
        else if (kind < 8)
            move_kinds(&r, c, kind, (uint64_t)i);
        else if (kind == 8)
            v_forms(&r, c, (uint64_t)i);
        else if (kind == 9)
            groups(&r, c, (uint64_t)i);
        else
            CHECK_OK(choir_barrier(r.comm[c], NULL));
        r.state = keep;
    }
    for (int c = COMMS - 1; c >= 0; c--) {
        CHECK_OK(choir_comm_destroy(r.comm[c]));
        free(r.member[c]);
    }
    free(r.in);
    free(r.out);
}

static void run(void (*spawn)(int, void (*)(int, int, void *), void *))
{
    static const int sizes[] = {2, 3, 4, 7};
    test_deadline(100);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        test_seed();
        test_id(&id);
        spawn(sizes[i], body, NULL);
    }
}

static void threads(void)
{
    run(test_threads);
}

static void processes(void)
{
    run(test_processes);
}

TEST_MAIN(TEST(threads), TEST(processes))
