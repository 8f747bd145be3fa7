/* SPDX-License-Identifier: Apache-2.0 */
/* All algorithms, and hierarchies of any two, proved on several hosts: of equal and unequal size, numbered in any way. */
#include "plan/plan.h"
#include "tests/lib/plans.h"
#include "tests/lib/test.h"

static uint32_t proved, unsupported;

static void prove(const char *name, int kind, const struct choir_layout *l, uint64_t count)
{
    struct plan_verdict v = {0};
    if (plan_prove(name, (enum choir_kind)kind, l, count, l->ranks / 2, &v))
        proved++;
    else if (v.status == CHOIR_ERR_UNSUPPORTED)
        unsupported++;
    else
        FAIL("%s %s of %u ranks on %u hosts, count %" PRIu64 ": rank %u, step %u: %s", name,
             plan_kind_name((enum choir_kind)kind), l->ranks, l->hosts, count, v.rank, v.step,
             v.text);
}

static void variants(const struct choir_algorithm *a, const struct choir_layout *l)
{
    for (int kind = 0; kind < CHOIR_KINDS; kind++) {
        if (!(a->kinds >> kind & 1))
            continue;
        prove(a->name, kind, l, 37);
        for (const char *v = a->variants; *v;) {
            char name[128];
            size_t length = strcspn(v, " ");
            snprintf(name, sizeof(name), "%s(%.*s)", a->name, (int)length, v);
            prove(name, kind, l, kind % 2 ? 1 : 500);
            v += length + (v[length] == ' ');
        }
    }
}

static void pairs(const struct choir_layout *l, uint64_t seed)
{
    static const int kinds[] = {CHOIR_ALL_REDUCE, CHOIR_REDUCE,         CHOIR_BROADCAST,
                                CHOIR_ALL_GATHER, CHOIR_REDUCE_SCATTER, CHOIR_BARRIER,
                                CHOIR_ALL_TO_ALL};
    static const char *const names[] = {
        "ring", "tree",  "recursive_doubling", "halving_doubling", "bruck", "pairwise", "direct",
        "pat",  "chain", "binomial",           "two_shot",         "pat(2)"};
    for (int k = 0; k < 60; k++) {
        char name[128];
        snprintf(name, sizeof(name), "hierarchical(%s,%s)",
                 names[base_random(&seed) % base_count(names)],
                 names[base_random(&seed) % base_count(names)]);
        prove(name, kinds[base_random(&seed) % base_count(kinds)], l, base_random(&seed) % 100);
    }
}

/* Whatever does a collective, or what that is put together from, serves as INNER and as OUTER. */
static const struct {
    enum choir_kind kind;
    const char *name[13];
} able[] = {{CHOIR_ALL_TO_ALL, {"bruck", "pairwise", "direct"}},
            {CHOIR_ALL_REDUCE,
             {"ring", "tree", "recursive_doubling", "halving_doubling", "bruck", "direct", "pat(2)",
              "chain", "binomial", "two_shot", "two_shot(pull)", "one_shot"}}};

static void all_pairs(const struct choir_layout *l)
{
    static const uint64_t counts[] = {0, 1, 13, 301};
    for (size_t k = 0, c = 0; k < base_count(able); k++)
        for (const char *const *in = able[k].name; *in; in++)
            for (const char *const *out = able[k].name; *out; out++, c++) {
                char name[128];
                uint32_t refused = unsupported;
                snprintf(name, sizeof(name), "hierarchical(%s,%s)", *in, *out);
                prove(name, (int)able[k].kind, l, counts[c % base_count(counts)]);
                if (able[k].kind == CHOIR_ALL_TO_ALL)
                    for (size_t i = 0; i < base_count(counts); i++)
                        prove(name, CHOIR_ALL_TO_ALL, l, counts[i]);
                if (refused != unsupported)
                    FAIL("%s is refused on %u hosts: %s", name, l->hosts,
                         base_error_thread()->text);
            }
}

static void any_pair(void)
{
    static const char *const hosts[] = {"001122",    "0010",          "01111",     "001112",
                                        "000111222", "0000000011112", "2012002210"};
    for (size_t i = 0; i < base_count(hosts); i++) {
        struct choir_layout *l = plans_layout(hosts[i]);
        all_pairs(l);
        plan_layout_free(l);
    }
    printf("%u proved\n", proved);
}

/* What cannot serve is refused in words. */
static void refusals(void)
{
    static const struct {
        enum choir_kind kind;
        const char *name, *words;
    } wrong[] = {
        {CHOIR_ALL_TO_ALL, "hierarchical(ring,bruck)",
         "ring cannot be INNER: it does no all_to_all among 3"},
        {CHOIR_ALL_TO_ALL, "hierarchical(bruck,ring)",
         "ring cannot be OUTER: it does no all_to_all among 2"},
        {CHOIR_ALL_REDUCE, "hierarchical(pairwise,ring)",
         "pairwise cannot be INNER: it does no all_reduce, nor"},
        {CHOIR_ALL_REDUCE, "hierarchical(ring,pairwise)",
         "pairwise cannot be OUTER: it does no all_reduce, nor"},
        {CHOIR_ALL_GATHER, "hierarchical(tree,ring)",
         "tree cannot be INNER: it does no all_gather"},
        {CHOIR_REDUCE_SCATTER, "hierarchical(ring,tree)",
         "tree cannot be OUTER: it does no reduce_scatter"},
        {CHOIR_BROADCAST, "hierarchical(ring,tree)", "ring cannot be INNER: it does no broadcast"},
        {CHOIR_REDUCE, "hierarchical(tree,ring)", "ring cannot be OUTER: it does no reduce"},
        {CHOIR_BARRIER, "hierarchical(direct,ring)", "ring cannot be OUTER: it does no barrier"}};
    uint64_t one_host[4] = {0}, hosts[5] = {0, 0, 0, 1, 1};
    struct choir_layout *l = plan_layout_create(5, hosts), *flat = plan_layout_create(4, one_host);
    struct choir_shape s;
    struct choir_plan *plan = NULL;
    for (size_t i = 0; i < base_count(wrong); i++) {
        plan_shape_init(&s, wrong[i].kind, 1, 5, wrong[i].kind == CHOIR_BARRIER ? 0 : 10, l);
        CHECK_EQ(plan_build(wrong[i].name, &s, &plan), CHOIR_ERR_UNSUPPORTED);
        if (!strstr(base_error_thread()->text, wrong[i].words))
            FAIL("%s: %s", wrong[i].name, base_error_thread()->text);
    }
    plan_shape_init(&s, CHOIR_ALL_REDUCE, 1, 4, 10, flat);
    CHECK_EQ(plan_build("hierarchical(ring,ring)", &s, &plan), CHOIR_ERR_UNSUPPORTED);
    CHECK(strstr(base_error_thread()->text, "all ranks are on one host"));
    plan_layout_free(l);
    plan_layout_free(flat);
}

static void several_hosts(void)
{
    static const char *const hosts[] = {"0011", "00011111",         "01111",        "001112",
                                        "0101", "0000111122223333", "012301230123", "0120012211",
                                        "0012", "01234567",         "000000000001"};
    for (size_t i = 0; i < base_count(hosts); i++) {
        struct choir_layout *l = plans_layout(hosts[i]);
        for (uint32_t k = 0; plan_builtin[k]; k++)
            variants(plan_builtin[k], l);
        pairs(l, test_seed() + i);
        plan_layout_free(l);
    }
    printf("%u proved, %u not for their shape\n", proved, unsupported);
}

TEST_MAIN(TEST(refusals), TEST(any_pair), TEST(several_hosts))
