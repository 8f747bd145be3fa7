/* SPDX-License-Identifier: Apache-2.0 */
/* What the algorithms claim of themselves: messages, elements, scratch, size of the plan, what crosses hosts. */
#include "plan/plan.h"
#include "tests/lib/test.h"

struct cost {
    uint64_t messages, elements; /* sent by one rank */
    uint64_t far_messages, far_elements;
    uint32_t steps, tmp;
};

/* What a rank sends in all; one instance per program. */
static struct cost cost_of(const char *name, enum choir_kind kind, struct choir_layout *layout,
                           uint32_t rank, uint64_t count)
{
    struct choir_shape s;
    struct choir_plan *plan = NULL;
    struct cost cost = {0};
    uint64_t n = layout->ranks, *counts = malloc(n * n * sizeof(*counts)); /* of v-forms */
    for (uint64_t i = 0; i < n * n; i++)
        counts[i] = count;
    plan_shape_init(&s, kind, rank, layout->ranks, count, layout);
    s.in_count = s.out_count = s.all_counts = counts;
    s.slot_bytes = 1 << 30;
    CHECK_OK(plan_build(name, &s, &plan));
    CHECK_EQ(plan->instances, plan->programs);
    for (uint32_t i = 0; i < plan->programs; i++) {
        struct plan_cursor at = {0};
        while (plan_cursor_next(&at, plan, i)) {
            const struct choir_step *step = plan->step + at.step;
            for (uint32_t k = step->ins; k < (uint32_t)(step->ins + step->outs); k++) {
                const struct choir_place *p = plan->place + step->place + k;
                struct plan_walk w;
                uint64_t sum = 0, from;
                if (p->peer < 0)
                    continue;
                plan_walk_start(&w, plan, p, at.iter);
                for (uint32_t part; plan_walk_next(&w, &part);) {
                    uint64_t end = plan_piece(plan_part_len(&plan->cut[p->buf], part), i,
                                              plan->instances, &from);
                    sum += end - from;
                }
                bool far = layout->host_of[plan_peer(plan, p, at.iter)] != layout->host_of[rank];
                cost.messages++;
                cost.elements += sum;
                cost.far_messages += far;
                cost.far_elements += far ? sum : 0;
            }
        }
    }
    cost.steps = plan->steps;
    cost.tmp = plan->tmp;
    plan_free(plan);
    free(counts);
    return cost;
}

static void check_cost(const char *name, enum choir_kind kind, uint32_t n, uint64_t count,
                       uint64_t messages, uint64_t elements)
{
    struct choir_layout *layout = plan_layout_regular(1, n);
    for (uint32_t r = 0; r < n; r++) {
        struct cost c = cost_of(name, kind, layout, r, count);
        if (c.messages != messages || c.elements != elements)
            FAIL("%s %s n %u rank %u sends %llu messages, %llu elements; not %llu, %llu", name,
                 plan_kind_name(kind), n, r, (unsigned long long)c.messages,
                 (unsigned long long)c.elements, (unsigned long long)messages,
                 (unsigned long long)elements);
    }
    plan_layout_free(layout);
}

static void costs(void)
{
    for (uint32_t n = 2; n <= 33; n++) {
        uint32_t log = 32 - (uint32_t)__builtin_clz(n - 1), c = 8 * n;
        check_cost("ring", CHOIR_ALL_REDUCE, n, c, 2 * (n - 1), 2 * (n - 1) * 8);
        check_cost("ring", CHOIR_ALL_GATHER, n, c, n - 1, (n - 1) * c);
        check_cost("ring", CHOIR_REDUCE_SCATTER, n, c, n - 1, (n - 1) * c);
        check_cost("one_shot", CHOIR_ALL_REDUCE, n, c, n - 1, (n - 1) * c);
        check_cost("two_shot", CHOIR_ALL_REDUCE, n, c, 2 * (n - 1), 2 * (n - 1) * 8);
        check_cost("direct", CHOIR_ALL_TO_ALL, n, c, n - 1, (n - 1) * c);
        check_cost("pairwise", CHOIR_ALL_TO_ALL, n, c, n - 1, (n - 1) * c);
        check_cost("bruck", CHOIR_ALL_GATHER, n, c, log, (n - 1) * c);
        check_cost("bruck", CHOIR_REDUCE_SCATTER, n, c, log, (n - 1) * c);
        check_cost("bruck", CHOIR_BARRIER, n, 0, log, 0);
        check_cost("pat", CHOIR_ALL_GATHER, n, c, log, (n - 1) * c);
        check_cost("pat", CHOIR_REDUCE_SCATTER, n, c, log, (n - 1) * c);
        check_cost("pat(1)", CHOIR_REDUCE_SCATTER, n, c, n - 1, (n - 1) * c);
        if (n & (n - 1))
            continue;
        check_cost("recursive_doubling", CHOIR_ALL_REDUCE, n, c, log, log * c);
        check_cost("recursive_doubling", CHOIR_ALL_GATHER, n, c, log, (n - 1) * c);
        check_cost("halving_doubling", CHOIR_ALL_REDUCE, n, c, 2 * log, 2 * (n - 1) * 8);
        check_cost("bruck", CHOIR_ALL_TO_ALL, n, c, log, n / 2 * log * c);
        for (uint32_t a = 1, k = 0; a < n; a *= 2, k++) {
            char name[16];
            snprintf(name, sizeof(name), "pat(%u)", a);
            check_cost(name, CHOIR_REDUCE_SCATTER, n, c, k + n / a - 1, (n - 1) * c);
            check_cost(name, CHOIR_ALL_GATHER, n, c, k + n / a - 1, (n - 1) * c);
            struct choir_layout *layout = plan_layout_regular(1, n);
            CHECK_LE(cost_of(name, CHOIR_REDUCE_SCATTER, layout, 0, c).tmp, a * (log - k));
            plan_layout_free(layout);
        }
    }
}

/* Loops keep plans as small for 5000 ranks as for 50. */
static void sizes(void)
{
    static const struct {
        const char *name;
        enum choir_kind kind;
    } constant[] = {{"ring", CHOIR_ALL_REDUCE},     {"ring", CHOIR_ALL_GATHER},
                    {"direct", CHOIR_ALL_TO_ALL},   {"direct", CHOIR_ALL_GATHER},
                    {"pairwise", CHOIR_ALL_TO_ALL}, {"direct", CHOIR_BROADCAST},
                    {"tree", CHOIR_ALL_REDUCE},     {"ring", CHOIR_REDUCE_SCATTER}};
    struct choir_layout *small = plan_layout_regular(5, 10), *large = plan_layout_regular(50, 100);
    for (size_t i = 0; i < base_count(constant); i++)
        CHECK_EQ(cost_of(constant[i].name, constant[i].kind, small, 3, 5000).steps,
                 cost_of(constant[i].name, constant[i].kind, large, 3, 5000).steps);
    plan_layout_free(small);
    plan_layout_free(large);
}

/* What crosses between hosts is what one rank per host would send. */
static void far_costs(void)
{
    for (uint32_t hosts = 2; hosts <= 6; hosts++)
        for (uint32_t each = 2; each <= 5; each++) {
            struct choir_layout *layout = plan_layout_regular(hosts, each);
            uint64_t c = 8 * hosts * each * 4, reduced = 0, gathered = 0, swapped = 0, blocks = 0;
            uint64_t swapped_v = 0, collected = 0;
            for (uint32_t r = 0; r < layout->ranks; r++) {
                struct cost a = cost_of("hierarchical(ring,ring)", CHOIR_ALL_REDUCE, layout, r, c);
                struct cost g = cost_of("hierarchical(ring,ring)", CHOIR_ALL_GATHER, layout, r, c);
                struct cost t = cost_of("hierarchical", CHOIR_ALL_TO_ALL, layout, r, c);
                struct cost v = cost_of("hierarchical", CHOIR_ALL_TO_ALL_V, layout, r, c);
                struct cost l = cost_of("hierarchical", CHOIR_GATHER_V, layout, r, c);
                CHECK_EQ(v.far_elements, v.far_messages * each * each * c);
                CHECK_EQ(l.far_elements, l.far_messages * each * c);
                swapped_v += v.far_messages;
                collected += l.far_messages;
                CHECK_EQ(a.far_elements, 2 * (hosts - 1) * c / hosts / each);
                reduced += a.far_elements;
                gathered += g.far_elements;
                swapped += t.far_messages;
                blocks += t.far_elements;
            }
            CHECK_EQ(reduced, 2 * (hosts - 1) * c);
            CHECK_EQ(gathered, hosts * (hosts - 1) * each * c);
            CHECK_EQ(swapped, hosts * (hosts - 1));
            CHECK_EQ(swapped_v, hosts * (hosts - 1));
            CHECK_EQ(collected, hosts - 1);
            CHECK_EQ(blocks, hosts * (hosts - 1) * each * each * c);
            plan_layout_free(layout);
        }
}

/* What OUTER alone would send between hosts, be it put together from halves, or of blocks by column. */
static void composed_costs(void)
{
    for (uint32_t hosts = 2; hosts <= 6; hosts++)
        for (uint32_t each = 2; each <= 5; each++) {
            struct choir_layout *l = plan_layout_regular(hosts, each);
            uint64_t c = 8 * hosts * each * 4, log = 0;
            while (1u << log < hosts)
                log++;
            for (uint32_t r = 0; r < l->ranks; r++) {
                struct cost b = cost_of("hierarchical(bruck,bruck)", CHOIR_ALL_TO_ALL, l, r, c);
                struct cost p = cost_of("hierarchical(bruck,pairwise)", CHOIR_ALL_TO_ALL, l, r, c);
                struct cost h = cost_of("hierarchical(direct,bruck)", CHOIR_ALL_REDUCE, l, r, c);
                struct cost w =
                    cost_of("hierarchical(one_shot,one_shot)", CHOIR_ALL_REDUCE, l, r, c);
                CHECK_EQ(b.far_messages, log);
                CHECK_EQ(p.far_messages, hosts - 1);
                CHECK_EQ(p.far_elements, (hosts - 1) * each * c);
                CHECK_EQ(h.far_messages, 2 * log);
                CHECK_EQ(h.far_elements, 2 * (hosts - 1) * c / hosts / each);
                CHECK_EQ(w.messages, each - 1 + hosts - 1);
                CHECK_EQ(w.far_elements, (hosts - 1) * c);
            }
            plan_layout_free(l);
        }
}

/* Arguments that mean nothing are errors, of all algorithms, on all kinds. */
static void arguments(void)
{
    static const char *const wrong[] = {
        "x",       "piece=", "piece=0", "trees=3", "piece=4k", "0",       "ring",    ",",
        "pull=,x", "piece",  "trees=x", "-1x",     "ring,(a",  "no,ring", "ring,no", "ring,"};
    struct choir_layout *layout = plan_layout_regular(2, 3);
    for (uint32_t i = 0; plan_builtin[i]; i++)
        for (int kind = 0; kind < CHOIR_KINDS; kind++)
            for (size_t w = 0; w < base_count(wrong); w++) {
                char name[64];
                struct choir_shape s;
                struct choir_plan *plan = NULL;
                uint64_t one[6] = {1, 1, 1, 1, 1, 1};
                plan_shape_init(&s, (enum choir_kind)kind, 4, 6, 60, layout);
                s.in_count = s.out_count = one;
                snprintf(name, sizeof(name), "%s(%s)", plan_builtin[i]->name, wrong[w]);
                if (plan_build(name, &s, &plan) == CHOIR_OK)
                    FAIL("%s %s is built", name, plan_kind_name((enum choir_kind)kind));
                CHECK(!plan);
            }
    plan_layout_free(layout);
}

TEST_MAIN(TEST(arguments), TEST(costs), TEST(sizes), TEST(far_costs), TEST(composed_costs))
