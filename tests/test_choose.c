/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decision table: the same on all ranks, latency algorithms for small and bandwidth algorithms for
 * large sizes, every shape gets an algorithm that builds, wishes are followed where possible and reported
 * where not, quick enough.
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

static struct plan_table *table_of(const struct choir_layout *l, const char *forced)
{
    struct plan_cluster c;
    struct plan_table *t;
    plan_cluster_default(&c, l);
    CHECK_OK(plan_table_create(&c, forced, &t));
    return t;
}

/* Every collective, many sizes, awkward layouts: what is chosen builds on every rank. */
static void always_builds(void)
{
    static const uint32_t layout[][2] = {{1, 1}, {1, 2}, {1, 7}, {3, 4}, {5, 1}, {2, 13}};
    for (size_t i = 0; i < base_count(layout); i++) {
        struct choir_layout *l = plan_layout_regular(layout[i][0], layout[i][1]);
        struct plan_table *t = table_of(l, "");
        for (int k = 0; k < CHOIR_ALL_GATHER_V; k++)
            for (uint64_t count = 0; count <= 1 << 22; count = count * 37 + 1)
                for (int ordered = 0; ordered < 2; ordered++) {
                    struct choir_shape s = shape_of((enum choir_kind)k, l, count);
                    s.root = l->ranks / 2;
                    const char *name =
                        plan_table_choose(t, &s, ordered && plan_kind_reduces(s.kind));
                    for (s.rank = 0; s.rank < l->ranks; s.rank++) {
                        struct choir_plan *plan;
                        CHECK_OK(plan_build(name, &s, &plan));
                        plan_free(plan);
                    }
                    if (ordered && plan_kind_reduces(s.kind))
                        CHECK(plan_algorithm_find(name)->flags & CHOIR_ORDERED);
                }
        plan_table_free(t);
        plan_layout_free(l);
    }
}

static void same_on_all_ranks(void)
{
    struct choir_layout *l = plan_layout_regular(2, 6);
    struct plan_table *one = table_of(l, "^tree"), *first = table_of(l, "^tree");
    CHECK_EQ(plan_table_hash(one), plan_table_hash(first));
    for (int k = 0; k <= CHOIR_BARRIER; k++)
        for (uint64_t count = 1; count <= 1 << 20; count *= 32) {
            struct choir_shape s = shape_of((enum choir_kind)k, l, count);
            const char *name = plan_table_choose(first, &s, false);
            for (s.rank = 0; s.rank < 12; s.rank++)
                CHECK_STR(plan_table_choose(one, &s, false), name);
        }
    plan_table_free(first);
    struct plan_table *other = table_of(l, "");
    CHECK_NE(plan_table_hash(one), plan_table_hash(other));
    plan_table_free(other);
    struct choir_layout *m = plan_layout_regular(6, 2);
    other = table_of(m, "^tree");
    CHECK_NE(plan_table_hash(one), plan_table_hash(other));
    plan_table_free(other);
    plan_table_free(one);
    plan_layout_free(l);
    plan_layout_free(m);
}

static uint64_t bytes_of(const char *name, const struct choir_layout *l, uint64_t count)
{
    struct choir_shape s = shape_of(CHOIR_ALL_REDUCE, l, count);
    struct plan_cluster c;
    struct plan_price p;
    plan_cluster_default(&c, l);
    CHECK_OK(plan_simulate(name, &s, &c, &p));
    return p.bytes[0] + p.bytes[1] + p.bytes[2];
}

/* Small: few hops. Large: about the 2(n-1) vectors nobody can do without. */
static void sensible(void)
{
    static const uint32_t layout[][2] = {{1, 8}, {16, 1}, {4, 8}};
    for (size_t i = 0; i < base_count(layout); i++) {
        struct choir_layout *l = plan_layout_regular(layout[i][0], layout[i][1]);
        struct plan_table *t = table_of(l, NULL);
        struct choir_shape small = shape_of(CHOIR_ALL_REDUCE, l, 2),
                           large = shape_of(CHOIR_ALL_REDUCE, l, 32 << 20);
        const char *name = plan_table_choose(t, &small, false);
        printf("%u x %u: small %s, ", layout[i][0], layout[i][1], name);
        CHECK(strcmp(name, "ring"));
        name = plan_table_choose(t, &large, false);
        printf("large %s\n", name);
        double least = 2. * (l->ranks - 1) * 4 * (32 << 20);
        CHECK((double)bytes_of(name, l, 32 << 20) < 1.6 * least);
        plan_table_free(t);
        plan_layout_free(l);
    }
}

/* The table prices briefly, and by size class; priced at length, its choice is about the best there is. */
static void near_the_best(void)
{
    static const uint32_t layout[][2] = {{1, 4}, {1, 8}, {2, 4}, {16, 1}, {4, 8}, {3, 5}};
    int off = 0, all = 0;
    if (!test_effort())
        test_skip("not in the short form");
    for (size_t i = 0; i < base_count(layout); i++) {
        struct choir_layout *l = plan_layout_regular(layout[i][0], layout[i][1]);
        struct plan_table *t = table_of(l, "");
        struct plan_cluster c;
        plan_cluster_default(&c, l);
        for (int k = 0; k < CHOIR_BARRIER; k++)
            for (uint64_t count = 2; count <= 1 << 22; count *= 128) {
                struct choir_shape s = shape_of((enum choir_kind)k, l, count);
                struct plan_candidate list[128];
                const char *name = plan_table_choose(t, &s, false);
                uint32_t n = plan_candidates(&c, &s, list, 128), at = 0;
                while (at < n && strcmp(list[at].name, name))
                    at++;
                CHECK(at < n);
                double ratio = list[at].price.time_ns / list[0].price.time_ns;
                off += ratio > 1.1;
                all++;
                if (!(ratio < 2))
                    FAIL("%s of %llu on %u x %u: %s takes %.2f times as long as %s",
                         plan_kind_name(s.kind), (unsigned long long)count, layout[i][0],
                         layout[i][1], name, ratio, list[0].name);
            }
        plan_table_free(t);
        plan_layout_free(l);
    }
    printf("%d of %d choices are more than a tenth off the best\n", off, all);
    CHECK_LE(off * 20, all);
}

static const char *choose(const struct choir_layout *l, const char *forced, enum choir_kind kind,
                          uint64_t bytes)
{
    static char name[64];
    struct plan_table *t = table_of(l, forced);
    struct choir_shape s = shape_of(kind, l, bytes / 4);
    snprintf(name, sizeof(name), "%s", plan_table_choose(t, &s, false));
    plan_table_free(t);
    return name;
}

#define CHECK_IS(name, wish)                                                                       \
    do {                                                                                           \
        const char *check_name = (name);                                                           \
        if (!choose_name_matches(wish, check_name))                                                \
            FAIL("%s is %s, not %s", #name, check_name, wish);                                     \
    } while (0)

static void forced(void)
{
    struct choir_layout *l = plan_layout_regular(1, 6);
    CHECK_IS(choose(l, "ring", CHOIR_ALL_REDUCE, 8), "ring");
    CHECK_IS(choose(l, "ring", CHOIR_ALL_GATHER, 8), "ring");
    CHECK_IS(choose(l, "all_reduce=tree", CHOIR_ALL_REDUCE, 8), "tree");
    CHECK(!choose_name_matches("tree", choose(l, "all_reduce=tree", CHOIR_ALL_GATHER, 8)));
    const char *ranges = " all_reduce : 1K - 64K = ring , all_reduce:64K-=tree;recursive_doubling ";
    CHECK_IS(choose(l, ranges, CHOIR_ALL_REDUCE, 512), "recursive_doubling");
    CHECK_IS(choose(l, ranges, CHOIR_ALL_REDUCE, 1024), "ring");
    CHECK_IS(choose(l, ranges, CHOIR_ALL_REDUCE, 65536), "ring"); /* the first that fits */
    CHECK_IS(choose(l, ranges, CHOIR_ALL_REDUCE, 65540), "tree");
    CHECK_IS(choose(l, "all_reduce:-2k=ring", CHOIR_ALL_REDUCE, 8), "ring");
    /* What has a collective goes before what has none, wherever it stands. */
    CHECK_IS(choose(l, "ring;all_reduce=tree", CHOIR_ALL_REDUCE, 8), "tree");
    /* NCCL_ALGO's forms. */
    CHECK_IS(choose(l, "Ring", CHOIR_ALL_REDUCE, 8), "ring");
    CHECK_IS(choose(l, "allreduce:tree;allgather:ring", CHOIR_ALL_REDUCE, 8), "tree");
    CHECK_IS(choose(l, "allreduce:tree;allgather:ring", CHOIR_ALL_GATHER, 8), "ring");
    CHECK_IS(choose(l, "AllReduce:NVLSTree,Tree,CollnetDirect", CHOIR_ALL_REDUCE, 8), "tree");
    const char *either = choose(l, "tree,ring", CHOIR_ALL_REDUCE, 256 << 20);
    CHECK(choose_name_matches("tree", either) || choose_name_matches("ring", either));
    char best[64];
    snprintf(best, sizeof(best), "%s", choose(l, "", CHOIR_ALL_REDUCE, 8));
    CHECK_IS(choose(l, "^nvls", CHOIR_ALL_REDUCE, 8), best);
    char not [80];
    snprintf(not, sizeof(not ), "^%s,nvls", best);
    CHECK(strcmp(choose(l, not, CHOIR_ALL_REDUCE, 8), best));
    snprintf(not, sizeof(not ), "all_gather:^%s", best);
    CHECK_IS(choose(l, not, CHOIR_ALL_REDUCE, 8), best);
    /* Not for this collective: falls back. */
    CHECK_IS(choose(l, "all_reduce=pairwise", CHOIR_ALL_REDUCE, 8), best);
    plan_layout_free(l);
}

static void bad_wishes(void)
{
    static const struct {
        const char *text;
        unsigned column;
    } bad[] = {{"all_redoce=ring", 1},
               {"ring all_reduce=tree", 6},
               {"all_reduce=", 12},
               {"all_reduce:64K=ring", 15},
               {"all_reduce:1M-1K=ring", 12},
               {"all_reduce:-=ring", 12},
               {"all_reduce:1-2 ring", 16},
               {"ring;;=", 6},
               {"ring(a", 1},
               {"ring;all_gather=^;tree", 18},
               {"ring!", 5},
               {"\xff", 1},
               {"all_reduce=ring,=", 17}};
    struct choir_layout *l = plan_layout_regular(1, 2);
    struct plan_cluster c;
    plan_cluster_default(&c, l);
    for (size_t i = 0; i < base_count(bad); i++) {
        struct plan_table *t = (void *)&c;
        char where[32];
        snprintf(where, sizeof(where), "column %u:", bad[i].column);
        if (plan_table_create(&c, bad[i].text, &t) != CHOIR_ERR_ARGUMENT || t != (void *)&c ||
            !strstr(base_error_thread()->text, where))
            FAIL("\"%s\": expected %s got: %s", bad[i].text, where, base_error_thread()->text);
    }
    uint64_t seed = test_seed();
    int level = base_log_level;
    base_log_level = BASE_ERROR;
    static const char alphabet[] = "ring,;=:^-64KMall_reduce()tree \n\x01\xff";
    for (int i = 0; i < TEST_BY_EFFORT(2000, 20000, 200000); i++) {
        char text[64];
        size_t n = base_random(&seed) % 60;
        for (size_t j = 0; j < n; j++)
            text[j] = alphabet[base_random(&seed) % (sizeof(alphabet) - 1)];
        text[n] = 0;
        struct choose_forced f;
        (void)choose_forced_parse(text, &f);
    }
    base_log_level = level;
    plan_layout_free(l);
}

/* All collectives x all size classes of 8 ranks: what a program that uses everything pays in all. */
static void quick(void)
{
    if (!test_effort())
        test_skip("not in the short form");
    struct choir_layout *l = plan_layout_regular(1, 8);
    struct plan_table *t = table_of(l, "");
    uint64_t start = base_now_ns(), most = 0;
    int asked = 0;
    for (int k = 0; k <= CHOIR_BARRIER; k++)
        for (uint64_t count = 1; count <= 1 << 26; count *= 2) {
            struct choir_shape s = shape_of((enum choir_kind)k, l, count);
            uint64_t one = base_now_ns();
            plan_table_choose(t, &s, false);
            most = base_max(most, base_now_ns() - one);
            asked++;
        }
    double first = (double)(base_now_ns() - start) / 1e6;
    start = base_now_ns();
    for (int k = 0; k <= CHOIR_BARRIER; k++) {
        struct choir_shape s = shape_of((enum choir_kind)k, l, 1000);
        plan_table_choose(t, &s, false);
    }
    printf("8 ranks: %d choices in %.1f ms, the longest %.1f ms, again %.3f ms each\n", asked,
           first, (double)most / 1e6, (double)(base_now_ns() - start) / 1e6 / (CHOIR_BARRIER + 1));
    CHECK(first < 20000);
    plan_table_free(t);
    plan_layout_free(l);
    /* Many ranks on one host, as each of them would choose. */
    static const uint32_t layout[][2] = {{1, 512}, {64, 8}, {512, 8}};
    for (size_t i = 0; i < base_count(layout); i++) {
        l = plan_layout_regular(layout[i][0], layout[i][1]);
        t = table_of(l, "");
        for (uint64_t count = 2; count <= 1 << 24; count <<= 11) {
            struct choir_shape s = shape_of(CHOIR_ALL_REDUCE, l, count);
            start = base_now_ns();
            const char *name = plan_table_choose(t, &s, false);
            printf("%u x %u, %llu elements: %s in %.1f ms\n", layout[i][0], layout[i][1],
                   (unsigned long long)count, name, (double)(base_now_ns() - start) / 1e6);
        }
        plan_table_free(t);
        plan_layout_free(l);
    }
}

static void candidates(void)
{
    struct choir_layout *l = plan_layout_regular(2, 4);
    struct plan_cluster c;
    struct plan_candidate list[64];
    plan_cluster_default(&c, l);
    struct choir_shape s = shape_of(CHOIR_ALL_REDUCE, l, 1000);
    uint32_t n = plan_candidates(&c, &s, list, 64);
    CHECK_LE(6, n);
    for (uint32_t i = 1; i < n; i++)
        CHECK(list[i].status != CHOIR_OK || (list[i - 1].status == CHOIR_OK &&
                                             list[i - 1].price.time_ns <= list[i].price.time_ns));
    CHECK_EQ(plan_candidates(&c, &s, list, 2), 2);
    CHECK_EQ(plan_candidates(&c, &s, list, 0), 0);
    plan_layout_free(l);
}

static void ask(int rank, int size, void *arg)
{
    struct plan_table *t = arg;
    for (int k = 0; k <= CHOIR_BARRIER; k++)
        for (uint64_t count = 1; count < 5000; count *= 8) {
            struct choir_layout *own = plan_layout_regular(1, 5);
            struct choir_shape s = shape_of((enum choir_kind)k, own, count);
            s.rank = (uint32_t)(rank % 5);
            CHECK(plan_table_choose(t, &s, size & 1));
            plan_layout_free(own);
        }
}

static void from_many_threads(void)
{
    struct choir_layout *l = plan_layout_regular(1, 5);
    struct plan_table *t = table_of(l, "all_reduce:100-=tree");
    test_threads(8, ask, t);
    plan_table_free(t);
    plan_layout_free(l);
}

TEST_MAIN(TEST(always_builds), TEST(same_on_all_ranks), TEST(sensible), TEST(near_the_best),
          TEST(forced), TEST(bad_wishes), TEST(quick), TEST(candidates), TEST(from_many_threads))
