/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decision table of v-forms: by total and longest block where every rank knows all counts, whatever
 * these are; without regard to counts where each knows its own only.
 */
#include "plan/choose.h"
#include "tests/lib/test.h"

static struct choir_shape shape_of(enum choir_kind kind, const struct choir_layout *l,
                                   uint64_t count)
{
    struct choir_shape s;
    plan_shape_init(&s, kind, 0, l->ranks, count, l);
    return s;
}

static struct plan_table *table_of(const struct choir_layout *l)
{
    struct plan_cluster c;
    struct plan_table *t;
    plan_cluster_default(&c, l);
    CHECK_OK(plan_table_create(&c, "", &t));
    return t;
}

/* V-forms are chosen by price too: of even counts, large blocks go round a ring, not straight to all. */
static void v_forms(void)
{
    static const enum choir_kind kind[] = {CHOIR_ALL_GATHER_V, CHOIR_REDUCE_SCATTER_V,
                                           CHOIR_ALL_TO_ALL_V};
    struct choir_layout *l = plan_layout_regular(3, 4);
    struct plan_table *t = table_of(l);
    struct plan_cluster c;
    plan_cluster_default(&c, l);
    for (size_t k = 0; k < base_count(kind); k++) {
        struct choir_shape s = shape_of(kind[k], l, kind[k] == CHOIR_ALL_TO_ALL_V ? 1024 : 65536);
        uint64_t *counts = plan_shape_even(&s);
        const char *name = plan_table_choose(t, &s, false);
        struct plan_price best, direct;
        CHECK_OK(plan_simulate(name, &s, &c, &best));
        CHECK_OK(plan_simulate("direct", &s, &c, &direct));
        CHECK_LE(best.time_ns, direct.time_ns);
        if (kind[k] != CHOIR_ALL_TO_ALL_V)
            CHECK_LT(best.time_ns, direct.time_ns * 0.6);
        free(counts);
    }
    plan_table_free(t);
    plan_layout_free(l);
}

/* The shape a rank has of a call: all_gather_v is given the counts of OUT, reduce_scatter_v those of IN. */
static struct choir_shape counted(enum choir_kind kind, const struct choir_layout *l, uint32_t rank,
                                  const uint64_t *count)
{
    struct choir_shape s = shape_of(kind, l, 0);
    s.rank = rank;
    *(kind == CHOIR_ALL_GATHER_V ? &s.out_count : &s.in_count) = count;
    return s;
}

/* `total` elements, of which `longest` has so many percent. */
static void share(uint64_t *count, uint32_t n, uint64_t total, uint32_t longest, uint32_t percent)
{
    for (uint32_t r = 0; r < n; r++)
        count[r] = total / n;
    plan_counts_skew(count, n, longest, total / n * n * percent / 100);
}

static double priced(const char *name, const struct choir_shape *s, const struct plan_cluster *c)
{
    struct plan_price p;
    CHECK_OK(plan_simulate(name, s, c, &p));
    return p.time_ns;
}

/* Where one block is nearly all there is, another algorithm is chosen than for equal blocks of the same total, and
 * it is quicker by much; a few percent up or down change nothing, nor does the place of the block. */
static void skewed(void)
{
    static const enum choir_kind kind[] = {CHOIR_ALL_GATHER_V, CHOIR_REDUCE_SCATTER_V};
    static const uint64_t total[] = {1 << 20, 1 << 16};
    enum { N = 16 };
    struct choir_layout *l = plan_layout_regular(N, 1);
    struct plan_table *t = table_of(l);
    struct plan_cluster c;
    uint64_t count[N];
    plan_cluster_default(&c, l);
    for (size_t k = 0; k < base_count(kind); k++) {
        struct choir_shape s = counted(kind[k], l, 0, count);
        share(count, N, total[k], 0, 6);
        const char *even = plan_table_choose(t, &s, false);
        for (uint32_t r = 0; r < N; r++)
            count[r] = total[k] / N * (100 - r) / 100;
        CHECK_STR(plan_table_choose(t, &s, false), even);
        share(count, N, total[k], 0, 100);
        const char *name = plan_table_choose(t, &s, false);
        printf("%s of %llu elements: %s; all of one rank: %s, %.2f times as fast\n",
               plan_kind_name(kind[k]), (unsigned long long)total[k], even, name,
               priced(even, &s, &c) / priced(name, &s, &c));
        CHECK(strcmp(name, even));
        CHECK_LT(1.1 * priced(name, &s, &c), priced(even, &s, &c));
        for (uint32_t longest = 1; longest < N; longest++) {
            share(count, N, total[k], longest, 90);
            CHECK_STR(plan_table_choose(t, &s, false), name);
        }
    }
    plan_table_free(t);
    plan_layout_free(l);
}

/* Priced by the very counts, what is chosen by total and maximum is nearly the best, on average. */
static void skewed_near_the_best(void)
{
    static const uint32_t layout[][2] = {{1, 4}, {4, 1}, {16, 1}, {3, 5}};
    double sum = 0, even_sum = 0;
    int all = 0;
    for (size_t i = 0; i < base_count(layout); i++) {
        struct choir_layout *l = plan_layout_regular(layout[i][0], layout[i][1]);
        struct plan_table *t = table_of(l);
        struct plan_cluster c;
        uint64_t count[16];
        plan_cluster_default(&c, l);
        for (int k = 0; k < 2; k++)
            for (uint64_t total = 256; total <= 16 << 20; total *= 32)
                for (uint32_t percent = 30; percent <= 100; percent += 35) {
                    struct choir_shape s =
                        counted(k ? CHOIR_REDUCE_SCATTER_V : CHOIR_ALL_GATHER_V, l, 0, count);
                    struct plan_candidate list[128];
                    share(count, l->ranks, total, 0, 100 / l->ranks);
                    const char *even = plan_table_choose(t, &s, false);
                    share(count, l->ranks, total, l->ranks / 2, percent);
                    const char *name = plan_table_choose(t, &s, false);
                    CHECK_LT(0, plan_candidates(&c, &s, list, 128));
                    double ratio = priced(name, &s, &c) / list[0].price.time_ns;
                    if (!(ratio < 2))
                        FAIL("%s of %llu, %u %% at one, on %u x %u: %s takes %.2f times as long as "
                             "%s",
                             plan_kind_name(s.kind), (unsigned long long)total, percent,
                             layout[i][0], layout[i][1], name, ratio, list[0].name);
                    sum += ratio;
                    even_sum += priced(even, &s, &c) / list[0].price.time_ns;
                    all++;
                }
        plan_table_free(t);
        plan_layout_free(l);
    }
    printf("skewed: %.3f times the best on average; chosen as though even %.3f\n", sum / all,
           even_sum / all);
    CHECK(sum / all < 1.05);
    CHECK(sum < even_sum);
}

/* Whatever the counts: what is chosen is the same for all ranks, whoever asked first, and it builds. */
static void agreed(const struct choir_layout *l, const uint64_t *count)
{
    struct plan_table *t = table_of(l), *last_first = table_of(l);
    for (int k = 0; k < 2; k++) {
        enum choir_kind kind = k ? CHOIR_REDUCE_SCATTER_V : CHOIR_ALL_GATHER_V;
        struct choir_shape last = counted(kind, l, l->ranks - 1, count);
        const char *name = plan_table_choose(last_first, &last, false);
        for (uint32_t r = 0; r < l->ranks; r++) {
            struct choir_shape s = counted(kind, l, r, count);
            struct choir_plan *plan;
            CHECK_STR(plan_table_choose(t, &s, false), name);
            CHECK_OK(plan_build(name, &s, &plan));
            plan_free(plan);
        }
    }
    plan_table_free(t);
    plan_table_free(last_first);
}

static void any_counts(void)
{
    uint64_t key[7] = {5, 5, 5, 1, 1, 9, 9}, seed = test_seed();
    struct choir_layout *uneven = plan_layout_create(7, key);
    for (uint32_t longest = 0; longest < 7; longest++) {
        uint64_t one[7] = {0}, none[7] = {0}, some[7];
        agreed(uneven, none);
        for (unsigned shift = 0; shift < 58; shift += 19) {
            one[longest] = 1ull << shift;
            agreed(uneven, one);
        }
        for (uint32_t r = 0; r < 7; r++)
            some[r] =
                base_random(&seed) % 3 ? base_random(&seed) >> (24 + base_random(&seed) % 40) : 0;
        agreed(uneven, some);
    }
    plan_layout_free(uneven);
}

/* Is a call with these counts in the largest size class, so many times skewed, and by which rank? */
static void keyed(const struct choir_layout *l, const uint64_t *count, uint32_t skew, uint32_t root)
{
    struct choir_shape largest = shape_of(CHOIR_ALL_REDUCE, l, UINT64_MAX);
    for (int k = 0; k < 2; k++) {
        struct choir_shape s =
            counted(k ? CHOIR_REDUCE_SCATTER_V : CHOIR_ALL_GATHER_V, l, 0, count);
        struct choose_key key = choose_key_of(l, &s);
        CHECK_EQ(key.size_class, choose_key_of(l, &largest).size_class);
        CHECK_EQ(key.skew, skew);
        CHECK_EQ(key.root, root);
    }
}

/* Nothing overflows up to 2^63 bytes, nor beyond: blocks that are read may overlap, so that their sum may be any. */
static void huge(void)
{
    enum { N = 7 };
    static const uint64_t host[N] = {5, 5, 5, 1, 1, 9, 9}, most = (uint64_t)INT64_MAX / 4;
    struct choir_layout *l = plan_layout_create(N, host);
    uint64_t count[N] = {0};
    count[5] = most;
    keyed(l, count, N, 3); /* the first rank of the first host of two ranks */
    share(count, N, most / 100, 2, 60);
    keyed(l, count, 4, 0);
    for (uint32_t r = 0; r < N; r++)
        count[r] = most / N;
    keyed(l, count, 1, 0);
    for (uint32_t r = 0; r < N; r++)
        count[r] = UINT64_MAX / 2;
    keyed(l, count, 1, 0);
    count[0] = count[1] = count[2] = count[3] = 7;
    keyed(l, count, 2, 3);
    plan_layout_free(l);
}

/* Of these a rank knows its own counts only: they must not bear on the choice. */
static void own_counts(void)
{
    static const enum choir_kind kind[] = {CHOIR_GATHER_V, CHOIR_SCATTER_V, CHOIR_ALL_TO_ALL_V};
    static const uint64_t one[6] = {1 << 24}, even[6] = {1, 1, 1, 1, 1, 1};
    struct choir_layout *l = plan_layout_regular(2, 3);
    struct plan_table *t = table_of(l);
    for (size_t k = 0; k < base_count(kind); k++) {
        struct choir_shape s = shape_of(kind[k], l, 0);
        s.root = 4;
        s.in_count = s.out_count = even;
        const char *name = plan_table_choose(t, &s, false);
        s.in_count = s.out_count = one;
        for (s.rank = 0; s.rank < 6; s.rank++)
            CHECK_STR(plan_table_choose(t, &s, false), name);
    }
    plan_table_free(t);
    plan_layout_free(l);
}

TEST_MAIN(TEST(v_forms), TEST(skewed), TEST(skewed_near_the_best), TEST(any_counts), TEST(huge),
          TEST(own_counts))
