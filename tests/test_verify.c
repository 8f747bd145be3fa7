/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verifier accepts what is right: every algorithm, kind it claims and variant, for all rank counts to 64, and sampled
 * shapes to 4096. By default a part of that which takes seconds; --long: all of it.
 */
#include "tests/lib/plans.h"
#include "tests/lib/test.h"

static bool all_of_it;
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

/* Calls for every variant of every algorithm that is (not) a test's own. */
static void each(bool own, void (*fn)(const char *name, const struct choir_algorithm *a))
{
    const struct choir_algorithm *a;
    for (uint32_t i = 0; (a = plan_algorithm_at(i)); i++) {
        char variants[256], name[320], *state = NULL;
        if (own != !strncmp(a->name, "t_", 2))
            continue;
        fn(a->name, a);
        snprintf(variants, sizeof(variants), "%s", a->variants);
        for (char *v = strtok_r(variants, " ", &state); v; v = strtok_r(NULL, " ", &state)) {
            snprintf(name, sizeof(name), "%s(%s)", a->name, v);
            fn(name, a);
        }
    }
}

static void small(const char *name, const struct choir_algorithm *a)
{
    static const uint64_t counts[] = {1000, 0, 1, 7, 129};
    uint64_t t = base_now_ns();
    uint32_t k = 0;
    for (enum choir_kind kind = 0; kind < CHOIR_KINDS; kind++)
        for (uint32_t n = 1; a->kinds >> kind & 1 && n <= 64;
             n += all_of_it || n < 17 ? 1 : 1 + n / 5) {
            struct choir_layout *l = plan_layout_regular(1, n);
            prove(name, kind, l, counts[k % base_count(counts)], k % n);
            k++;
            if (all_of_it || n < 9)
                prove(name, kind, l, 5000, 0);
            plan_layout_free(l);
        }
    printf("%s: %.2f s\n", name, (double)(base_now_ns() - t) * 1e-9);
}

static void own_algorithms(void)
{
    plans_register();
    each(true, small);
}

static void every_rank_count(void)
{
    each(false, small);
    printf("%u proved, %u not for their shape\n", proved, unsupported);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(own_algorithms), TEST(every_rank_count)};
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--long")) {
            all_of_it = true;
            memmove(&argv[i], &argv[i + 1], sizeof(*argv) * (size_t)(argc-- - i));
        }
    int result = test_main(argc, argv, cases, base_count(cases));
    return result;
}
