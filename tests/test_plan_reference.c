/* SPDX-License-Identifier: Apache-2.0 */
/* The reference interpreter: the tests' algorithms on memory, every binding, small slots and depths, in
 * place and out. */
#include "tests/lib/plans.h"
#include "tests/lib/test.h"

static const char *const binding_name[] = {"slots", "pull", "push", "unbuffered"};
static const char *const place_name[] = {"out of place", "in place", "mixed"};

static void one(const char *name, enum choir_kind kind, const struct choir_layout *l,
                uint64_t *seed)
{
    static const uint64_t counts[] = {0, 1, 3, 17, 64, 200};
    uint64_t count = counts[base_random(seed) % base_count(counts)], draw = base_random(seed);
    uint64_t slot_bytes = 8u << (3 + base_random(seed) % 3);
    uint32_t root = (uint32_t)(base_random(seed) % l->ranks);
    struct ranks ranks;
    enum choir_status status = plans_make(&ranks, name, kind, l, count, root, draw, slot_bytes);
    if (status == CHOIR_ERR_UNSUPPORTED)
        return;
    CHECK_OK(status);
    for (enum plan_binding b = PLAN_SLOTS; b <= PLAN_UNBUFFERED; b++)
        for (int place = PLANS_OUT_OF_PLACE; place <= PLANS_MIXED; place++) {
            struct plan_run run = {.binding = b, .seed = base_random(seed), .depth = 2};
            const char *wrong = plans_run(&ranks, (enum plans_place)place, PLANS_SUM, &run);
            if (wrong)
                FAIL("%s %s, %u ranks, count %" PRIu64 ", root %u, %s, %s: %s", name,
                     plan_kind_name(kind), l->ranks, count, root, binding_name[b],
                     place_name[place], wrong);
        }
    ranks_free(&ranks);
}

static void sweep(const char *prefix, uint32_t most)
{
    uint64_t seed = test_seed();
    const struct choir_algorithm *a;
    for (uint32_t i = 0; (a = plan_algorithm_at(i)); i++) {
        if (strncmp(a->name, "t_", 2) == (prefix[0] != 't'))
            continue;
        for (enum choir_kind kind = 0; kind < CHOIR_KINDS; kind++)
            for (uint32_t n = 1; a->kinds >> kind & 1 && n <= most; n += 1 + n / 8) {
                struct choir_layout *l = plan_layout_regular(1, n);
                char variants[256], name[128], *state = NULL;
                CHECK_LT(strlen(a->variants), sizeof(variants));
                snprintf(variants, sizeof(variants), "%s", a->variants);
                one(a->name, kind, l, &seed);
                for (char *v = strtok_r(variants, " ", &state); v;
                     v = strtok_r(NULL, " ", &state)) {
                    snprintf(name, sizeof(name), "%s(%s)", a->name, v);
                    one(name, kind, l, &seed);
                }
                plan_layout_free(l);
            }
    }
}

static void own_algorithms(void)
{
    plans_register();
    sweep("t_", (uint32_t)TEST_BY_EFFORT(7, 13, 13));
}

static void built_in_algorithms(void)
{
    sweep("", (uint32_t)TEST_BY_EFFORT(5, 9, 9));
}

static enum choir_status crossed(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t other = 1 - s->rank;
    struct choir_place msg = CHOIR_MESSAGE(other, .buf = CHOIR_IN),
                       in = CHOIR_LOCAL(.buf = CHOIR_IN);
    struct choir_place out = CHOIR_LOCAL(.buf = CHOIR_OUT);
    if (s->args[0] == 'd') { /* both wait for the other first */
        CHOIR_STEP(b, CHOIR_PLACES(msg), CHOIR_PLACES(out));
        CHOIR_STEP(b, CHOIR_PLACES(in), CHOIR_PLACES(msg));
    } else if (s->args[0] == 'u') { /* a message nobody takes */
        CHOIR_STEP(b, CHOIR_PLACES(in), CHOIR_PLACES(msg));
        CHOIR_STEP(b, CHOIR_PLACES(in), CHOIR_PLACES(out));
    } else { /* only one sends */
        if (s->rank)
            CHOIR_STEP(b, CHOIR_PLACES(in), CHOIR_PLACES(msg));
        CHOIR_STEP(b, CHOIR_PLACES(msg), CHOIR_PLACES(out));
    }
    return choir_builder_status(b);
}

static void broken(void)
{
    static const struct choir_algorithm a = {.bytes = sizeof(a),
                                             .abi = CHOIR_ALGORITHM_ABI,
                                             .name = "crossed",
                                             .summary = "broken",
                                             .kinds = 1u << CHOIR_ALL_REDUCE,
                                             .variants = "",
                                             .build = crossed};
    static const struct choir_algorithm *const list[] = {&a, NULL};
    CHECK_OK(plan_algorithm_add(list, "test"));
    base_log_init();
    base_log_level = -1; /* errors are what is asked for */
    struct choir_layout *l = plan_layout_regular(1, 2);
    static const char *const name[] = {"crossed(d)", "crossed(u)", "crossed(o)"};
    for (size_t i = 0; i < base_count(name); i++)
        for (enum plan_binding b = PLAN_SLOTS; b <= PLAN_UNBUFFERED; b++) {
            struct ranks ranks;
            CHECK_OK(plans_make(&ranks, name[i], CHOIR_ALL_REDUCE, l, 10, 0, 0, 64));
            struct plan_run run = {.binding = b, .seed = test_seed()};
            CHECK(plans_run(&ranks, PLANS_OUT_OF_PLACE, PLANS_SUM, &run));
            ranks_free(&ranks);
        }
    plan_layout_free(l);
}

TEST_MAIN(TEST(own_algorithms), TEST(built_in_algorithms), TEST(broken))
