/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verifier accepts what is right: every algorithm, kind it claims and variant, for all rank counts to
 * 64, hosts of all sizes, sequences of operations, and sampled shapes to 4096 ranks. By default
 * a part of that which takes seconds; make test-long: all of it. What it must reject: test_verify_rejects.c
 * and test_mutants.c.
 */
#include "tests/lib/plans.h"
#include "tests/lib/test.h"

static uint32_t proved, unsupported;

static void prove(const char *name, enum choir_kind kind, const struct choir_layout *l,
                  uint64_t count, uint32_t root)
{
    struct plan_verdict v;
    if (plan_prove(name, kind, l, count, root, &v))
        proved++;
    else if (v.status == CHOIR_ERR_UNSUPPORTED)
        unsupported++;
    else
        FAIL("%s %s, %u ranks on %u hosts, count %" PRIu64 ", root %u: %s", name,
             plan_kind_name(kind), l->ranks, l->hosts, count, root, v.text);
}

/* Every variant of every algorithm that is (not) a test's own; reports the seconds of those that took one. */
static void each(bool own, void (*fn)(const char *name, const struct choir_algorithm *a))
{
    const struct choir_algorithm *a;
    test_deadline(test_effort() > 1 ? 3600 : 120);
    for (uint32_t i = 0; (a = plan_algorithm_at(i)); i++) {
        char variants[512], name[320], *state = NULL;
        uint64_t start = base_now_ns();
        if (own != !strncmp(a->name, "t_", 2))
            continue;
        fn(a->name, a);
        snprintf(variants, sizeof(variants), "%s", a->variants);
        for (char *v = strtok_r(variants, " ", &state); v; v = strtok_r(NULL, " ", &state)) {
            snprintf(name, sizeof(name), "%s(%s)", a->name, v);
            fn(name, a);
        }
        if (base_now_ns() - start > 1000000000)
            printf("%s: %.1f s\n", a->name, (double)(base_now_ns() - start) * 1e-9);
    }
    printf("%u proved, %u not for their shape\n", proved, unsupported);
    proved = unsupported = 0;
}

/* All rank counts at full effort; fewer of the large ones otherwise. */
static uint32_t step(uint32_t n)
{
    return n < (uint32_t)TEST_BY_EFFORT(9, 17, 64) ? 1 : 1 + n / 5;
}

static void one_host(const char *name, const struct choir_algorithm *a)
{
    static const uint64_t counts[] = {1000, 0, 1, 7, 129};
    uint32_t k = 0, most = (uint32_t)TEST_BY_EFFORT(20, 64, 64);
    for (enum choir_kind kind = 0; kind < CHOIR_KINDS; kind++)
        for (uint32_t n = 1; a->kinds >> kind & 1 && n <= most; n += step(n)) {
            struct choir_layout *l = plan_layout_regular(1, n);
            prove(name, kind, l, counts[k % base_count(counts)], k % n);
            k++;
            if (test_effort() > 1 || n < 9)
                prove(name, kind, l, 5000, 0);
            plan_layout_free(l);
        }
}

static void own_algorithms(void)
{
    plans_register();
    each(true, one_host);
}

static void every_rank_count(void)
{
    each(false, one_host);
}

/* --- several hosts ------------------------------------------------------------------------------- */

static void on_layout(const char *name, const struct choir_algorithm *a,
                      const struct choir_layout *l, uint64_t count)
{
    CHECK(l);
    for (enum choir_kind kind = 0; kind < CHOIR_KINDS; kind++)
        if (a->kinds >> kind & 1)
            prove(name, kind, l, count, l->ranks / 3);
}

/* Hosts of any sizes, ranks numbered host by host or in any order. */
static struct choir_layout *layout_of(const uint32_t *sizes, uint32_t hosts, uint64_t *shuffle)
{
    uint64_t key[256];
    uint32_t n = 0;
    for (uint32_t h = 0; h < hosts; h++)
        for (uint32_t i = 0; i < sizes[h]; i++)
            key[n++] = 100 - h;
    for (uint32_t i = n; shuffle && i-- > 1;) {
        uint32_t j = (uint32_t)(base_random(shuffle) % (i + 1));
        uint64_t x = key[i];
        key[i] = key[j];
        key[j] = x;
    }
    return plan_layout_create(n, key);
}

static void many_hosts(const char *name, const struct choir_algorithm *a)
{
    static const uint32_t sizes[][6] = {{2, 2},       {3, 5},       {1, 4},
                                        {2, 3, 1},    {4, 4, 4},    {1, 1, 1, 1, 1},
                                        {5, 1, 1, 2}, {8, 8, 8, 8}, {7, 3, 5, 2, 1, 4}};
    uint64_t seed = test_seed();
    for (size_t i = 0; i < base_count(sizes); i += (size_t)TEST_BY_EFFORT(4, 1, 1)) {
        uint32_t hosts = 0;
        while (hosts < 6 && sizes[i][hosts])
            hosts++;
        for (int shuffled = 0; shuffled < 2; shuffled++) {
            struct choir_layout *l = layout_of(sizes[i], hosts, shuffled ? &seed : NULL);
            on_layout(name, a, l, i % 2 ? 700 : 33);
            plan_layout_free(l);
        }
    }
    for (int i = 0; i < TEST_BY_EFFORT(0, 2, 30); i++) {
        uint32_t some[8], hosts = 2 + (uint32_t)(base_random(&seed) % 7);
        for (uint32_t h = 0; h < hosts; h++)
            some[h] = 1 + (uint32_t)(base_random(&seed) % 9);
        struct choir_layout *l = layout_of(some, hosts, base_random(&seed) & 1 ? &seed : NULL);
        on_layout(name, a, l, base_random(&seed) % 300);
        plan_layout_free(l);
    }
}

static void hosts_of_all_sizes(void)
{
    each(false, many_hosts);
}

/* --- large --------------------------------------------------------------------------------------- */

/* How many steps a rank takes, loops unrolled; UINT64_MAX: not for this shape. */
static uint64_t steps_of(const char *name, enum choir_kind kind, const struct choir_layout *l)
{
    struct choir_shape s;
    struct choir_plan *plan;
    uint64_t steps = 0;
    plan_shape_init(&s, kind, l->ranks / 2, l->ranks, 1, l);
    uint64_t zero = 0, *none = calloc(l->ranks, sizeof(*none));
    CHECK(none);
    s.in_count = s.out_count = none;
    if (kind == CHOIR_GATHER_V || kind == CHOIR_SCATTER_V)
        s.in_count = s.out_count = &zero;
    if (kind == CHOIR_EXCHANGE || plan_build(name, &s, &plan) != CHOIR_OK) {
        free(none);
        return UINT64_MAX;
    }
    for (uint32_t p = 0; p < plan->programs; p++)
        for (struct plan_cursor c = {0}; plan_cursor_next(&c, plan, p);)
            steps += plan->step[c.step].ins + plan->step[c.step].outs;
    plan_free(plan);
    free(none);
    return steps;
}

static void large(const char *name, const struct choir_algorithm *a)
{
    static const uint32_t shape[][2] = {{1, 128}, {13, 7},   {128, 2}, {37, 7},
                                        {64, 16}, {1000, 1}, {512, 8}, {585, 7}};
    for (size_t i = 0; i < (test_effort() > 1 ? base_count(shape) : 2); i++) {
        struct choir_layout *l = plan_layout_regular(shape[i][0], shape[i][1]);
        CHECK(l);
        for (enum choir_kind kind = 0; kind < CHOIR_KINDS; kind++) {
            if (!(a->kinds >> kind & 1))
                continue;
            /* n steps on each of n ranks are for smaller n. */
            uint64_t steps = steps_of(name, kind, l);
            if (steps < 16 * 32 || (steps != UINT64_MAX && l->ranks <= 256))
                prove(name, kind, l, i % 2 ? 1 : 40, l->ranks - 1);
        }
        plan_layout_free(l);
    }
}

static void thousands_of_ranks(void)
{
    if (!test_effort())
        test_skip("not in the short form");
    each(false, large);
}

/* --- sequences ----------------------------------------------------------------------------------- */

#define OPS 6
static void sequence(uint64_t *seed, const struct choir_layout *l)
{
    struct ranks ranks[OPS];
    struct plan_operation op[OPS];
    char text[OPS * 40] = "";
    uint32_t ops = 0, algorithms = 0;
    while (plan_algorithm_at(algorithms))
        algorithms++;
    while (ops < OPS) {
        const struct choir_algorithm *a =
            plan_algorithm_at((uint32_t)(base_random(seed) % algorithms));
        enum choir_kind kind = (enum choir_kind)(base_random(seed) % CHOIR_KINDS);
        uint32_t root = (uint32_t)(base_random(seed) % l->ranks);
        uint64_t count = base_random(seed) % 100, draw = base_random(seed);
        if (!(a->kinds >> kind & 1) || plans_make(&ranks[ops], a->name, kind, l, count, root, draw,
                                                  16u << base_random(seed) % 6) != CHOIR_OK)
            continue;
        op[ops] = (struct plan_operation){(const struct choir_plan *const *)ranks[ops].plan,
                                          ranks[ops].shape};
        size_t used = strlen(text);
        snprintf(text + used, sizeof(text) - used, "%s %s; ", a->name, plan_kind_name(kind));
        ops++;
    }
    struct plan_verify how = {.in_place = true, .seed = base_random(seed)};
    struct plan_verdict v;
    if (!plan_verify_sequence(op, OPS, l->ranks, &how, &v))
        FAIL("%u ranks: %s%s", l->ranks, text, v.text);
    for (uint32_t i = 0; i < OPS; i++)
        ranks_free(&ranks[i]);
}

static void sequences(void)
{
    uint64_t seed = test_seed();
    plans_register();
    for (int i = 0; i < TEST_BY_EFFORT(30, 150, 3000); i++) {
        uint32_t n = 1 + (uint32_t)(base_random(&seed) % 12);
        struct choir_layout *l = plan_layout_regular(1, n);
        sequence(&seed, l);
        plan_layout_free(l);
    }
}

TEST_MAIN(TEST(own_algorithms), TEST(every_rank_count), TEST(hosts_of_all_sizes),
          TEST(thousands_of_ranks), TEST(sequences))
