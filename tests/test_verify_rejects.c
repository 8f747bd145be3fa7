/* SPDX-License-Identifier: Apache-2.0 */
/* The verifier rejects what is wrong, and says what it is: one small plan for every kind of mistake. */
#include "tests/lib/plans.h"
#include "tests/lib/test.h"

#define IN(...) CHOIR_LOCAL(.buf = CHOIR_IN, __VA_ARGS__)
#define OUT(...) CHOIR_LOCAL(.buf = CHOIR_OUT, __VA_ARGS__)
#define TMP(...) CHOIR_LOCAL(.buf = CHOIR_TMP, __VA_ARGS__)
#define MSG(p, b, ...) CHOIR_MESSAGE(p, .buf = b, __VA_ARGS__)
#define P CHOIR_PLACES

static void (*wrong)(const struct choir_shape *s, struct choir_builder *b);

static enum choir_status build(const struct choir_shape *s, struct choir_builder *b)
{
    wrong(s, b);
    return choir_builder_status(b);
}
static const struct choir_algorithm algorithm = {.bytes = sizeof(algorithm),
                                                 .abi = CHOIR_ALGORITHM_ABI,
                                                 .name = "wrong",
                                                 .summary = "of this test",
                                                 .kinds = (1u << CHOIR_KINDS) - 1,
                                                 .variants = "",
                                                 .build = build};

static void set_up(void)
{
    static bool done;
    static const struct choir_algorithm *const list[] = {&algorithm, NULL};
    if (!done) {
        base_log_init();
        base_log_level = -1; /* errors are what is asked for */
        CHECK_OK(plan_algorithm_add(list, "test"));
    }
    done = true;
}

static bool verify(const struct ranks *r, bool in_place, bool ordered, struct plan_verdict *v)
{
    struct plan_verify how = {.in_place = in_place, .ordered = ordered, .seed = test_seed()};
    return plan_verify((const struct choir_plan *const *)r->plan, r->shape, r->n, &how, v);
}

static void make(struct ranks *r, enum choir_kind kind, uint32_t n,
                 void (*fn)(const struct choir_shape *, struct choir_builder *))
{
    static struct choir_layout *l;
    set_up();
    plan_layout_free(l); /* that of the last call */
    l = plan_layout_regular(1, n);
    wrong = fn;
    CHECK_OK(plans_make(r, "wrong", kind, l, 100, 0, 0, 64));
}

static void check_verdict(const struct plan_verdict *v, const char *word)
{
    CHECK_EQ(v->status, CHOIR_ERR_ARGUMENT);
    if (!strstr(v->text, word))
        FAIL("\"%s\" does not say \"%s\"", v->text, word);
}

static void rejected(enum choir_kind kind, uint32_t n,
                     void (*fn)(const struct choir_shape *, struct choir_builder *),
                     const char *word)
{
    struct choir_layout *l = plan_layout_regular(1, n);
    struct plan_verdict v;
    set_up();
    wrong = fn;
    if (plan_prove("wrong", kind, l, 104, 0, &v)) /* two equal parts, three unequal ones */
        FAIL("accepted what should be rejected with \"%s\"", word);
    check_verdict(&v, word);
    plan_layout_free(l);
}

/* --- contributions ------------------------------------------------------------------------------- */

static uint32_t next(const struct choir_shape *s)
{
    return (s->rank + 1) % s->ranks;
}
static uint32_t prev(const struct choir_shape *s)
{
    return (s->rank + s->ranks - 1) % s->ranks;
}

static void own_only(const struct choir_shape *s, struct choir_builder *b)
{
    (void)s;
    CHOIR_STEP(b, P(IN(.run = 1)), P(OUT(.run = 1)));
}

static void neighbours_only(const struct choir_shape *s, struct choir_builder *b)
{
    CHOIR_STEP(b, P(IN(.run = 1)), P(MSG(next(s), CHOIR_IN, .run = 1)));
    CHOIR_STEP(b, P(IN(.run = 1), MSG(prev(s), CHOIR_IN, .run = 1)), P(OUT(.run = 1)));
}

static void twice(const struct choir_shape *s, struct choir_builder *b)
{
    CHOIR_STEP(b, P(IN(.run = 1)), P(MSG(next(s), CHOIR_IN, .run = 1)));
    CHOIR_STEP(b, P(IN(.run = 1), MSG(prev(s), CHOIR_IN, .run = 1), IN(.run = 1)),
               P(OUT(.run = 1)));
}

static void other_part(const struct choir_shape *s, struct choir_builder *b)
{
    choir_cut_even(b, 2);
    CHOIR_STEP(b, P(IN(.run = 2)), P(MSG(next(s), CHOIR_IN, .run = 2)));
    choir_computed(b, 0);
    CHOIR_STEP(b, P(IN(.run = 2), MSG(prev(s), CHOIR_IN, .run = 2)), P(OUT(.run = 2, .turn = 1)));
}

static void mixed_parts(const struct choir_shape *s, struct choir_builder *b)
{
    choir_cut_even(b, 2);
    CHOIR_STEP(b, P(IN(.run = 2)), P(MSG(next(s), CHOIR_IN, .run = 2)));
    choir_computed(b, 0);
    CHOIR_STEP(b, P(IN(.run = 2, .turn = 1), MSG(prev(s), CHOIR_IN, .run = 2)), P(OUT(.run = 2)));
}

static void wrong_source(const struct choir_shape *s, struct choir_builder *b)
{
    choir_computed(b, 0);
    CHOIR_STEP(b, P(IN(.run = 1)), P(MSG(next(s), CHOIR_IN, .run = 1)));
    CHOIR_STEP(b, P(IN(.run = 1)), P(OUT(.first = next(s))));
    CHOIR_STEP(b, P(MSG(prev(s), CHOIR_OUT, .first = prev(s))), P(OUT(.first = s->rank)));
}

static void combines_gathered(const struct choir_shape *s, struct choir_builder *b)
{
    CHOIR_STEP(b, P(IN(.run = 1)), P(MSG(next(s), CHOIR_IN, .run = 1)));
    CHOIR_STEP(b, P(IN(.run = 1), MSG(prev(s), CHOIR_IN, .run = 1)), P(OUT(.run = 1)));
    CHOIR_STEP(b, P(IN(.run = 1)), P(OUT(.first = 1)));
}

static void contributions(void)
{
    rejected(CHOIR_ALL_REDUCE, 2, own_only, "lacks contributions");
    rejected(CHOIR_ALL_REDUCE, 3, neighbours_only, "lacks contributions");
    rejected(CHOIR_ALL_REDUCE, 100, neighbours_only, "lacks contributions, or has one twice");
    rejected(CHOIR_ALL_REDUCE, 2, twice, "twice");
    rejected(CHOIR_ALL_REDUCE, 2, neighbours_only, "in another order than on other ranks");
    rejected(CHOIR_ALL_REDUCE, 2, other_part, "ends as part 1, not 0");
    rejected(CHOIR_ALL_REDUCE, 2, mixed_parts, "combines different parts");
    rejected(CHOIR_ALL_GATHER, 2, wrong_source, "part 0 of rank");
    rejected(CHOIR_ALL_GATHER, 2, combines_gathered, "does not reduce");
}

static void reversed(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t low = 0;
    struct choir_place a = IN(.run = 1), m = MSG(next(s), CHOIR_IN, .run = 1);
    CHOIR_STEP(b, P(a), P(m));
    if (s->rank == low)
        CHOIR_STEP(b, P(m, a), P(OUT(.run = 1)));
    else
        CHOIR_STEP(b, P(a, m), P(OUT(.run = 1)));
}

static void order(void)
{
    struct ranks r;
    struct plan_verdict v;
    make(&r, CHOIR_ALL_REDUCE, 2, reversed);
    CHECK(verify(&r, true, false, &v));
    CHECK(!verify(&r, true, true, &v));
    check_verdict(&v, "ascending order");
    ranks_free(&r);
}

/* --- undefined, unmatched ------------------------------------------------------------------------ */

static void unwritten(const struct choir_shape *s, struct choir_builder *b)
{
    (void)s;
    choir_tmp(b, 2);
    CHOIR_STEP(b, P(IN(.run = 1)), P(TMP(.first = 0)));
    CHOIR_STEP(b, P(TMP(.first = 1)), P(OUT(.run = 1)));
}

static void out_unwritten(const struct choir_shape *s, struct choir_builder *b)
{
    choir_tmp(b, 1);
    if (s->rank)
        CHOIR_STEP(b, P(IN(.run = 1)), P(TMP(.first = 0)));
    else
        CHOIR_STEP(b, P(OUT(.run = 1)), P(TMP(.first = 0)));
}

/* TMP holds the shorter last part and is read as long as the first. */
static void too_long(const struct choir_shape *s, struct choir_builder *b)
{
    (void)s;
    choir_cut_even(b, 3);
    choir_tmp(b, 1);
    CHOIR_STEP(b, P(IN(.first = 2)), P(TMP(.first = 0)));
    CHOIR_STEP(b, P(TMP(.first = 0)), P(OUT(.first = 0)));
}

static void unmatched(const struct choir_shape *s, struct choir_builder *b)
{
    reversed(s, b);
    if (!s->rank)
        CHOIR_STEP(b, P(IN(.run = 1)), P(MSG(1, CHOIR_IN, .run = 1)));
}

static void never_sent(const struct choir_shape *s, struct choir_builder *b)
{
    reversed(s, b);
    if (s->rank)
        CHOIR_STEP(b, P(MSG(0, CHOIR_OUT, .run = 1)), P(OUT(.run = 1)));
}

static void lengths_differ(const struct choir_shape *s, struct choir_builder *b)
{
    choir_cut_even(b, 3);
    choir_computed(b, 0);
    uint32_t first = s->rank ? 1 : 0;
    CHOIR_STEP(b, P(IN(.first = first, .run = 2)),
               P(MSG(next(s), CHOIR_IN, .first = first, .run = 2)));
    CHOIR_STEP(b, P(IN(.first = first, .run = 2), MSG(next(s), CHOIR_IN, .first = first, .run = 2)),
               P(OUT(.first = first, .run = 2)));
}

static void undefined(void)
{
    rejected(CHOIR_ALL_REDUCE, 1, unwritten, "part 1 of TMP, which nothing was written to");
    rejected(CHOIR_ALL_REDUCE, 2, out_unwritten, "part 0 of OUT, which nothing was written to");
    rejected(CHOIR_ALL_REDUCE, 1, too_long, "of TMP, which holds");
    rejected(CHOIR_ALL_REDUCE, 2, unmatched, "does not take");
    rejected(CHOIR_ALL_REDUCE, 2, never_sent, "awaits rank 0, which has ended");
    rejected(CHOIR_ALL_REDUCE, 2, lengths_differ, "parts, ");
    rejected(CHOIR_BROADCAST, 3, own_only, "absent on this rank");
    rejected(CHOIR_GATHER, 3, own_only, "absent on this rank");
}

/* --- waiting ------------------------------------------------------------------------------------- */

static void crossing(const struct choir_shape *s, struct choir_builder *b)
{
    CHOIR_STEP(b, P(IN(.run = 1), MSG(prev(s), CHOIR_IN, .run = 1)), P(OUT(.run = 1)));
    CHOIR_STEP(b, P(IN(.run = 1)), P(MSG(next(s), CHOIR_IN, .run = 1)));
}

/* Both send three computed messages before they take one: more than two slots hold. */
static void three_ahead(const struct choir_shape *s, struct choir_builder *b)
{
    struct choir_place m = MSG(next(s), CHOIR_IN, .run = 1);
    choir_tmp(b, 1);
    CHOIR_STEP(b, P(IN(.run = 1)), P(m));
    CHOIR_STEP(b, P(m), P(TMP(.first = 0)));
    for (uint32_t i = 0; i < 3; i++)
        CHOIR_STEP(b, P(IN(.run = 1), TMP(.first = 0)), P(m));
    for (uint32_t i = 0; i < 3; i++)
        CHOIR_STEP(b, P(m), P(OUT(.run = 1)));
}

/* In place, what comes overwrites what has not gone yet. */
static void overwrites(const struct choir_shape *s, struct choir_builder *b)
{
    int32_t r = (int32_t)s->rank;
    choir_computed(b, 0);
    CHOIR_STEP(b, P(IN(.turn = r)), P(OUT(.turn = r)));
    CHOIR_STEP(b, P(IN(.turn = r + 1, .dturn = 1)),
               P(MSG(next(s), CHOIR_IN, .turn = r + 1, .dpeer = 1, .dturn = 1)));
    CHOIR_STEP(b, P(MSG(prev(s), CHOIR_OUT, .turn = r - 1, .dpeer = -1, .dturn = -1)),
               P(OUT(.turn = r - 1, .dturn = -1)));
    choir_loop(b, 2, s->ranks - 1);
}

/* The second rank reads OUT, which it has written, while the first's message to come waits for it. */
static void waits_for_own_message(const struct choir_shape *s, struct choir_builder *b)
{
    struct choir_place m = MSG(next(s), CHOIR_IN, .run = 1);
    choir_tmp(b, 2);
    choir_computed(b, 0);
    CHOIR_STEP(b, P(IN(.run = 1)), P(TMP(.first = 0)));
    CHOIR_STEP(b, P(TMP(.first = 0)), P(m));
    CHOIR_STEP(b, P(IN(.run = 1)),
               P(TMP(.first = 0))); /* overwrites what the message is read from */
    if (s->rank)
        CHOIR_STEP(b, P(m, TMP(.first = 0)), P(OUT(.run = 1)));
    else
        CHOIR_STEP(b, P(TMP(.first = 0), m), P(OUT(.run = 1)));
}

static void waiting(void)
{
    rejected(CHOIR_ALL_REDUCE, 2, crossing,
             "deadlock: rank 0 step 0 awaits rank 1; rank 1 step 0 awaits rank 0");
    rejected(CHOIR_ALL_REDUCE, 5, crossing, "deadlock");
    rejected(CHOIR_ALL_REDUCE, 2, three_ahead, "has no slot towards rank");
    rejected(CHOIR_ALL_REDUCE, 2, waits_for_own_message, "is still read from");
    struct ranks r;
    struct plan_verdict v;
    make(&r, CHOIR_ALL_TO_ALL, 5, overwrites);
    CHECK(verify(&r, false, false, &v));
    CHECK(!verify(&r, true, false, &v));
    check_verdict(&v, "in place");
    ranks_free(&r);
}

/* --- barrier ------------------------------------------------------------------------------------- */

static void half_barrier(const struct choir_shape *s, struct choir_builder *b)
{
    choir_computed(b, 0);
    for (uint32_t d = 1; 4 * d < s->ranks * 2;
         d *= 2) { /* the last round of a dissemination is missing */
        CHOIR_STEP(b, P(IN(.run = 1)), P(MSG((s->rank + d) % s->ranks, CHOIR_IN, .run = 1)));
        CHOIR_STEP(b, P(MSG((s->rank + s->ranks - d) % s->ranks, CHOIR_IN, .run = 1)),
                   P(OUT(.run = 1)));
    }
}

static void barriers(void)
{
    rejected(CHOIR_BARRIER, 2, own_only, "without having heard of rank 1");
    rejected(CHOIR_BARRIER, 16, half_barrier, "without having heard of rank");
    rejected(CHOIR_BARRIER, 200, half_barrier, "without having heard of rank");
}

/* --- wire shape and cuts ------------------------------------------------------------------------- */

static void shapes(void)
{
    struct ranks r;
    struct plan_verdict v;
    set_up();
    struct choir_layout *l = plan_layout_regular(1, 4);
    CHECK_OK(plans_make(&r, "t_ring", CHOIR_ALL_REDUCE, l, 1000, 0, 0, 64));
    CHECK(verify(&r, true, false, &v));
    struct choir_plan *p = r.plan[2];
    p->instances += 1;
    CHECK(!verify(&r, true, false, &v));
    check_verdict(&v, "wire shape");
    p->instances -= 1;
    p->depth--;
    CHECK(!verify(&r, true, false, &v));
    check_verdict(&v, "wire shape");
    p->depth++;
    p->cut[0].count = p->cut[1].count = 990;
    CHECK(!verify(&r, true, false, &v));
    check_verdict(&v, "cuts IN otherwise");
    p->cut[0].count = p->cut[1].count = 1000;
    for (int i = 0; i < 4; i++)
        r.plan[i]->cut[0].count = r.plan[i]->cut[1].count = 999;
    CHECK(!verify(&r, true, false, &v));
    check_verdict(&v, "does not cover");
    for (int i = 0; i < 4; i++)
        r.plan[i]->cut[0].count = r.plan[i]->cut[1].count = 1000;
    CHECK(verify(&r, true, false, &v));
    r.shape[1].root = 1;
    CHECK(!verify(&r, true, false, &v));
    check_verdict(&v, "another collective");
    ranks_free(&r);
    plan_layout_free(l);
}

static void overlapping_blocks(void)
{
    struct choir_layout *l = plan_layout_regular(1, 3);
    struct ranks r;
    struct plan_verdict v;
    set_up();
    const uint64_t count[] = {5, 0, 7}, apart[] = {10, 12, 0}, overlap[] = {6, 6, 0};
    for (int bad = 0; bad < 2; bad++) {
        CHECK_OK(ranks_init(&r, CHOIR_ALL_GATHER_V, l, 0, 0, 0));
        for (int i = 0; i < 3; i++) {
            r.shape[i].out_count = count;
            r.shape[i].out_offset = bad ? overlap : apart;
        }
        plans_register();
        CHECK_OK(ranks_build(&r, "t_direct"));
        CHECK_EQ(verify(&r, true, false, &v), !bad);
        if (bad)
            check_verdict(&v, "overlap");
        ranks_free(&r);
    }
    plan_layout_free(l);
}

static void disagreeing_group(void)
{
    struct choir_layout *l = plan_layout_regular(1, 2);
    struct ranks r;
    struct plan_verdict v;
    set_up();
    plans_register();
    CHECK_OK(ranks_init(&r, CHOIR_EXCHANGE, l, 10, 0, 7));
    uint64_t other[5];
    memcpy(other, r.shape[1].in_count, sizeof(other));
    other[0]++;
    r.shape[1].in_count = other;
    CHECK_OK(ranks_build(&r, "t_direct"));
    CHECK(!verify(&r, true, false, &v));
    check_verdict(&v, "expects");
    ranks_free(&r);
    plan_layout_free(l);
}

TEST_MAIN(TEST(contributions), TEST(order), TEST(undefined), TEST(waiting), TEST(barriers),
          TEST(shapes), TEST(overlapping_blocks), TEST(disagreeing_group))
