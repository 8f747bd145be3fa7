/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plans inside plans: an algorithm of this test, "wrap(NAME)", does a collective by splicing NAME for all
 * ranks in another order, with parts renamed, blocks of several or no parts, and TMP in between; results are
 * held against the definition. And what choir_splice refuses, and what choir_splice_needs says.
 */
#include "plan/builder.h"
#include "tests/lib/test.h"

#define RANKS_MOST 16

static uint32_t order[RANKS_MOST]; /* the group: sub-rank i is rank order[i] */
static uint32_t fine;              /* parts per block, or per vector */
static bool by_tmp;                /* results go to TMP first */
static bool all_programs;          /* as many programs as the sub-plan, or one */

/* Block of rank order[q] in a buffer of one block per rank, or the only block; parts backwards. */
static struct choir_map map_of(const struct choir_shape *s, uint8_t buf, uint32_t *part,
                               uint32_t *begin)
{
    bool blocks =
        (buf == CHOIR_IN) == (s->kind == CHOIR_REDUCE_SCATTER) && s->kind != CHOIR_ALL_REDUCE;
    uint32_t n = blocks ? s->ranks : 1, at = 0;
    begin[0] = 0;
    for (uint32_t q = 0; q < n; q++) {
        for (uint32_t j = fine; j-- > 0;)
            part[at++] = (blocks ? order[q] : 0) * fine + j;
        begin[q + 1] = at;
    }
    return (struct choir_map){buf, buf, begin, part, part};
}

static enum choir_status build_wrap(const struct choir_shape *s, struct choir_builder *b)
{
    static uint32_t in[1024], out[1024], tmp[1024], in_begin[RANKS_MOST + 1],
        out_begin[RANKS_MOST + 1];
    struct choir_splice x = {s->args, s->kind, 0, s->ranks, order, {{0}}, 0};
    struct choir_needs needs;
    if (s->kind == CHOIR_ALL_REDUCE)
        choir_cut_even(b, fine);
    else
        choir_cut_blocks(b, fine);
    x.map[0] = map_of(s, CHOIR_IN, in, in_begin);
    x.map[1] = map_of(s, CHOIR_OUT, out, out_begin);
    uint32_t parts = x.map[1].begin[s->kind == CHOIR_ALL_GATHER ? s->ranks : 1];
    struct choir_place result = CHOIR_LOCAL(.buf = CHOIR_OUT, .list = 1, .run = parts);
    result.first = choir_list(b, parts, out);
    if (by_tmp) {
        for (uint32_t i = 0; i < parts; i++)
            tmp[i] = i;
        x.map[1] = (struct choir_map){CHOIR_TMP, CHOIR_OUT, out_begin, tmp, out};
        x.tmp = parts;
    }
    enum choir_status status = choir_splice_needs(b, &x, &needs);
    if (status != CHOIR_OK)
        return status;
    choir_computed(b, needs.computed);
    choir_piece(b, needs.piece_bytes);
    for (uint32_t i = 0; i < (all_programs ? needs.programs : 1); i++) {
        if (i)
            choir_next_program(b);
        choir_splice(b, &x);
        if (by_tmp)
            CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_TMP, .run = parts)),
                       CHOIR_PLACES(result));
    }
    return choir_builder_status(b);
}

static const struct choir_algorithm wrap = {
    .bytes = sizeof(wrap),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "wrap",
    .summary = "a test",
    .kinds = 1u << CHOIR_ALL_REDUCE | 1u << CHOIR_ALL_GATHER | 1u << CHOIR_REDUCE_SCATTER,
    .variants = "",
    .build = build_wrap,
};

static void register_wrap(void)
{
    static const struct choir_algorithm *const list[] = {&wrap, NULL};
    if (!plan_algorithm_find("wrap"))
        CHECK_OK(plan_algorithm_add(list, "test"));
}

static void sum(void *ctx, void *dst, const void *const *src, uint32_t nsrc, uint64_t count)
{
    (void)ctx;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t a = 0;
        for (uint32_t s = 0; s < nsrc; s++)
            a += ((const uint32_t *)src[s])[i];
        ((uint32_t *)dst)[i] = a;
    }
}

static uint32_t value(uint32_t rank, uint64_t i)
{
    return (uint32_t)base_mix(rank * 100003u + i + 1);
}

static uint32_t expect(const struct choir_shape *s, uint64_t i)
{
    uint32_t total = 0;
    if (s->kind == CHOIR_ALL_GATHER)
        return value((uint32_t)(i / s->count), i % s->count);
    for (uint32_t r = 0; r < s->ranks; r++)
        total += value(r, i + (s->kind == CHOIR_REDUCE_SCATTER ? s->rank * s->count : 0));
    return total;
}

static void run(const char *name, enum choir_kind kind, uint32_t n, uint64_t count, uint64_t seed)
{
    struct choir_layout *layout = plan_layout_regular(1, n);
    struct choir_plan *plan[RANKS_MOST];
    void *in[RANKS_MOST], *out[RANKS_MOST];
    struct choir_shape shape[RANKS_MOST];
    uint64_t ins, outs;
    for (uint32_t r = 0; r < n; r++) {
        plan_shape_init(&shape[r], kind, r, n, count, layout);
        CHECK_OK(plan_build(name, &shape[r], &plan[r]));
        plan_shape_extent(&shape[r], &ins, &outs);
        in[r] = calloc(ins + 1, 4);
        out[r] = calloc(outs + 1, 4);
        for (uint64_t i = 0; i < ins; i++)
            ((uint32_t *)in[r])[i] = value(r, i);
    }
    struct plan_run how = {
        .binding = (enum plan_binding)(seed % 4), .seed = seed, .elem = 4, .combine = sum};
    CHECK_OK(plan_reference((const struct choir_plan *const *)plan, n, in, out, &how));
    for (uint32_t r = 0; r < n; r++) {
        plan_shape_extent(&shape[r], &ins, &outs);
        for (uint64_t i = 0; i < outs; i++)
            if (((uint32_t *)out[r])[i] != expect(&shape[r], i))
                FAIL("%s %s n %u count %llu rank %u element %llu", name, plan_kind_name(kind), n,
                     (unsigned long long)count, r, (unsigned long long)i);
        plan_free(plan[r]);
        free(in[r]);
        free(out[r]);
    }
    plan_layout_free(layout);
}

static void shuffle(uint32_t n, uint64_t *seed)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = (uint32_t)(base_random(seed) % (i + 1));
        order[i] = order[j];
        order[j] = i;
    }
}

static void results(void)
{
    static const char *const names[] = {"ring", "tree",   "halving_doubling", "recursive_doubling",
                                        "pat",  "direct", "two_shot",         "bruck"};
    static const enum choir_kind all[] = {CHOIR_ALL_REDUCE, CHOIR_ALL_GATHER, CHOIR_REDUCE_SCATTER};
    uint64_t seed = test_seed();
    register_wrap();
    for (int k = 0; k < 3000; k++) {
        char name[64];
        const char *sub = names[base_random(&seed) % base_count(names)];
        enum choir_kind kind = all[base_random(&seed) % 3];
        uint32_t n = 1 + (uint32_t)(base_random(&seed) % 9);
        if (!(plan_algorithm_find(sub)->kinds >> kind & 1))
            continue;
        shuffle(n, &seed);
        fine = 1 + (uint32_t)(base_random(&seed) % 12);
        by_tmp = base_random(&seed) % 2;
        all_programs = base_random(&seed) % 2;
        snprintf(name, sizeof(name), "wrap(%s)", sub);
        run(name, kind, n, base_random(&seed) % 200, base_random(&seed));
    }
}

/* --- needs and refusals --------------------------------------------------------------------------- */

static struct choir_builder B;
static struct choir_layout *L;

static void begin(enum choir_kind kind, uint32_t n, uint64_t count)
{
    struct choir_shape s;
    L = plan_layout_regular(1, n);
    plan_shape_init(&s, kind, 0, n, count, L);
    CHECK_OK(builder_init(&B, &s));
}

static void end(void)
{
    builder_free(&B);
    plan_layout_free(L);
}

static void needs(void)
{
    static const uint32_t group[] = {0, 1, 2, 3}, begins[] = {0, 12}, uneven[] = {0, 2, 2, 7, 8};
    struct choir_splice s = {
        "ring", CHOIR_ALL_REDUCE, 0, 4, group, {{.begin = begins}, {.begin = begins}}, 0};
    struct choir_needs got;
    begin(CHOIR_ALL_REDUCE, 4, 1000);
    choir_cut_even(&B, 12);
    CHECK_OK(choir_splice_needs(&B, &s, &got));
    CHECK_EQ(got.programs, 1);
    CHECK_EQ(got.parts, 4);
    CHECK_EQ(got.computed, 3);
    s.algorithm = "tree";
    CHECK_OK(choir_splice_needs(&B, &s, &got));
    CHECK_EQ(got.programs, 2);
    CHECK_EQ(got.parts, 1);
    CHECK_EQ(got.computed, 12);
    CHECK(got.piece_bytes > 0);
    s.algorithm = "direct";
    CHECK_EQ(choir_splice_needs(&B, &s, &got), CHOIR_ERR_UNSUPPORTED);
    s.kind = CHOIR_REDUCE_SCATTER_V;
    s.map[0].begin = uneven;
    CHECK_OK(choir_splice_needs(&B, &s, &got));
    CHECK_EQ(got.computed, 0);
    s.algorithm = "ring";
    CHECK_OK(choir_splice_needs(&B, &s, &got));
    CHECK_EQ(got.computed, 12); /* the one block of OUT is the widest */
    s.kind = CHOIR_REDUCE_SCATTER;
    CHECK_NE(choir_splice_needs(&B, &s, &got), CHOIR_OK); /* blocks differ */
    CHECK_OK(choir_builder_status(&B));
    CHECK_EQ(B.step.count, 0);
    end();
}

static void refused(const char *algorithm, enum choir_kind kind, const uint32_t *group, uint32_t n)
{
    static const uint32_t begins[] = {0, 1, 2, 3, 4}, part[] = {0, 1, 2, 3, 4};
    struct choir_map in = {CHOIR_IN, CHOIR_IN, begins, part, part}, out = in;
    out.buf = CHOIR_OUT;
    begin(CHOIR_ALL_REDUCE, 4, 1000);
    choir_cut_even(&B, 4);
    struct choir_splice s = {algorithm, kind, 0, n, group, {in, out}, 0};
    choir_splice(&B, &s);
    CHECK_NE(choir_builder_status(&B), CHOIR_OK);
    choir_splice(&B, &s); /* errors stick */
    CHECK_NE(choir_builder_status(&B), CHOIR_OK);
    end();
}

static void refusals(void)
{
    static const uint32_t all[] = {0, 1, 2, 3}, others[] = {1, 2, 3}, beyond[] = {0, 9};
    refused("no_such", CHOIR_ALL_REDUCE, all, 4);
    refused("ring(", CHOIR_ALL_REDUCE, all, 4);
    refused("ring", CHOIR_BROADCAST, all, 4);
    refused("ring", CHOIR_ALL_REDUCE, others, 3);
    refused("ring", CHOIR_ALL_REDUCE, all, 0);
    refused("pairwise", CHOIR_EXCHANGE, all, 4);
    refused("direct", CHOIR_GATHER_V, all, 4);
    /* A rank that is not there: seen when the plan is checked. */
    static const uint32_t begins[] = {0, 2}, part[] = {0, 1};
    struct choir_map in = {CHOIR_IN, CHOIR_IN, begins, part, part}, out = in;
    struct choir_plan *plan = NULL;
    out.buf = CHOIR_OUT;
    begin(CHOIR_ALL_REDUCE, 4, 1000);
    choir_cut_even(&B, 2);
    choir_splice(&B, &(struct choir_splice){"ring", CHOIR_ALL_REDUCE, 0, 2, beyond, {in, out}, 0});
    CHECK_NE(builder_finish(&B, &plan), CHOIR_OK);
    CHECK(!plan);
    end();
}

TEST_MAIN(TEST(results), TEST(needs), TEST(refusals))
