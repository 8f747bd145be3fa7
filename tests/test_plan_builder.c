/* SPDX-License-Identifier: Apache-2.0 */
/* Builder, shapes, cuts, walking and the checks of a single plan. */
#include "plan/builder.h"
#include "tests/lib/test.h"

static struct choir_builder B;
static struct choir_shape S;
static struct choir_layout *L;

static void begin(enum choir_kind kind, uint32_t rank, uint32_t ranks, uint64_t count)
{
    plan_layout_free(L);
    L = plan_layout_regular(1, ranks);
    plan_shape_init(&S, kind, rank, ranks, count, L);
    CHECK_OK(builder_init(&B, &S));
}

static struct choir_plan *end(void)
{
    struct choir_plan *plan = NULL;
    CHECK_OK(builder_finish(&B, &plan));
    builder_free(&B);
    return plan;
}

/* The plan is refused, and the record says `word`. */
static void refused(const char *word)
{
    struct choir_plan *plan = NULL;
    CHECK_NE(builder_finish(&B, &plan), CHOIR_OK);
    CHECK(!plan);
    builder_free(&B);
    if (!strstr(base_error_thread()->text, word))
        FAIL("\"%s\" does not say \"%s\"", base_error_thread()->text, word);
}

static void copy_step(struct choir_place in, struct choir_place out)
{
    choir_step(&B, 1, &in, 1, &out);
}

static void layouts(void)
{
    uint64_t key[] = {7, 3, 7, 9, 3, 3};
    struct choir_layout *l = plan_layout_create(6, key);
    CHECK_EQ(l->hosts, 3);
    const uint32_t host[] = {0, 1, 0, 2, 1, 1}, local[] = {0, 0, 1, 0, 1, 2};
    const uint32_t member[] = {0, 2, 1, 4, 5, 3}, begins[] = {0, 2, 5, 6};
    for (int r = 0; r < 6; r++) {
        CHECK_EQ(l->host_of[r], host[r]);
        CHECK_EQ(l->local_of[r], local[r]);
        CHECK_EQ(l->member[r], member[r]);
    }
    for (int h = 0; h < 4; h++)
        CHECK_EQ(l->begin[h], begins[h]);
    plan_layout_free(l);
    uint64_t seed = test_seed(), random_key[200];
    for (int i = 0; i < 200; i++)
        random_key[i] = base_random(&seed) % 23;
    l = plan_layout_create(200, random_key);
    for (uint32_t r = 0; r < 200; r++) {
        uint32_t h = l->host_of[r];
        CHECK_EQ(l->member[l->begin[h] + l->local_of[r]], r);
        CHECK_EQ(random_key[l->member[l->begin[h]]], random_key[r]);
        CHECK_LE(l->member[l->begin[h]], r);
        if (h)
            CHECK_LT(l->member[l->begin[h - 1]], l->member[l->begin[h]]);
    }
    plan_layout_free(l);
    l = plan_layout_regular(3, 4);
    CHECK_EQ(l->begin[3], 12);
    CHECK_EQ(l->host_of[7], 1);
    CHECK_EQ(l->local_of[7], 3);
    plan_layout_free(l);
}

static void kinds(void)
{
    for (int k = 0; k < CHOIR_KINDS; k++)
        CHECK_EQ(plan_kind_find(plan_kind_name((enum choir_kind)k)), k);
    CHECK_EQ(plan_kind_find("nonsense"), -1);
    CHECK(plan_kind_reduces(CHOIR_REDUCE_SCATTER_V) && !plan_kind_reduces(CHOIR_GATHER));
}

static void extents(void)
{
    static const struct {
        enum choir_kind kind;
        uint64_t root_in, root_out, in, out;
        int root_alias, alias; /* 2: none */
    } want[] = {
        {CHOIR_ALL_REDUCE, 10, 10, 10, 10, 0, 0},
        {CHOIR_REDUCE, 10, 10, 10, 0, 0, 2},
        {CHOIR_BROADCAST, 10, 10, 0, 10, 0, 2},
        {CHOIR_ALL_GATHER, 10, 50, 10, 50, 20, 30},
        {CHOIR_REDUCE_SCATTER, 50, 10, 50, 10, -20, -30},
        {CHOIR_ALL_TO_ALL, 50, 50, 50, 50, 0, 0},
        {CHOIR_GATHER, 10, 50, 10, 0, 20, 2},
        {CHOIR_SCATTER, 50, 10, 0, 10, -20, 2},
        {CHOIR_BARRIER, 0, 0, 0, 0, 2, 2},
    };
    struct choir_layout *l = plan_layout_regular(1, 5);
    for (size_t i = 0; i < base_count(want); i++)
        for (int root = 0; root < 2; root++) {
            struct choir_shape s;
            uint64_t in, out;
            int64_t shift = 2;
            plan_shape_init(&s, want[i].kind, root ? 2 : 3, 5, 10, l);
            s.root = 2;
            plan_shape_extent(&s, &in, &out);
            CHECK_EQ(in, root ? want[i].root_in : want[i].in);
            CHECK_EQ(out, root ? want[i].root_out : want[i].out);
            if (!plan_shape_in_place(&s, &shift))
                shift = 2;
            CHECK_EQ(shift, root ? want[i].root_alias : want[i].alias);
        }
    plan_layout_free(l);
}

static void v_extents(void)
{
    struct choir_layout *l = plan_layout_regular(1, 3);
    const uint64_t count[] = {4, 0, 7}, offset[] = {10, 0, 20}, own = 7;
    struct choir_shape s;
    uint64_t in, out, off[3], len[3];
    int64_t shift;
    plan_shape_init(&s, CHOIR_ALL_GATHER_V, 2, 3, 0, l);
    s.out_count = count;
    plan_shape_extent(&s, &in, &out);
    CHECK_EQ(in, 7);
    CHECK_EQ(out, 11);
    CHECK(plan_shape_in_place(&s, &shift));
    CHECK_EQ(shift, 4);
    s.out_offset = offset;
    plan_shape_extent(&s, &in, &out);
    CHECK_EQ(out, 27);
    CHECK(plan_shape_in_place(&s, &shift));
    CHECK_EQ(shift, 20);
    plan_shape_init(&s, CHOIR_GATHER_V, 2, 3, 0, l);
    s.in_count = &own;
    plan_shape_extent(&s, &in, &out);
    CHECK_EQ(in, 7);
    CHECK_EQ(out, 0);
    shape_table(&s, CHOIR_OUT, off, len);
    CHECK_EQ(len[0] + len[1], 0);
    CHECK_EQ(len[2], 7);
    plan_shape_init(&s, CHOIR_ALL_TO_ALL_V, 2, 3, 0, l);
    s.in_count = s.out_count = count;
    CHECK(plan_shape_in_place(&s, &shift));
    s.out_offset = offset;
    CHECK(!plan_shape_in_place(&s, &shift));
    s.in_count = NULL;
    CHECK_EQ(shape_check(&s), CHOIR_ERR_ARGUMENT);
    const uint64_t huge[] = {1, UINT64_MAX / 2, 1};
    s.in_count = huge;
    CHECK_EQ(shape_check(&s), CHOIR_ERR_COUNT);
    plan_layout_free(l);
}

/* Parts of a place by the definition in choir_algorithm.h, not by the walker's shortcuts. */
static uint32_t parts_of(const struct choir_place *p, uint32_t parts, uint32_t t, uint32_t *out)
{
    uint32_t n = 0;
    for (uint64_t b = p->first; b < p->end; b += p->stride)
        for (uint64_t x = b; x < b + p->run && x < p->end; x++) {
            int64_t v = ((int64_t)x + p->turn + (int64_t)t * p->dturn) % (int64_t)parts;
            out[n++] = (uint32_t)(v < 0 ? v + parts : v);
        }
    return n;
}

static void walks(void)
{
    uint64_t seed = test_seed();
    for (int k = 0; k < 20000; k++) {
        uint32_t parts = 1 + (uint32_t)(base_random(&seed) % 20), want[64], got, n, i = 0;
        struct choir_place p = {.peer = -1, .buf = CHOIR_TMP};
        p.first = (uint32_t)(base_random(&seed) % parts);
        p.end = p.first + 1 + (uint32_t)(base_random(&seed) % (parts - p.first));
        p.run = 1 + (uint32_t)(base_random(&seed) % 4);
        p.stride = p.run + (uint32_t)(base_random(&seed) % 5);
        p.turn = (int32_t)(base_random(&seed) % parts);
        p.dturn = (int32_t)(base_random(&seed) % parts);
        uint32_t t = (uint32_t)(base_random(&seed) % (k & 1 ? 5 : 100000));
        struct choir_plan plan = {.tmp = parts};
        struct plan_walk w;
        n = parts_of(&p, parts, t, want);
        plan_walk_start(&w, &plan, &p, t);
        while (plan_walk_next(&w, &got)) {
            CHECK_LT(i, n);
            CHECK_EQ(got, want[i]);
            i++;
        }
        CHECK_EQ(i, n);
        CHECK(!plan_walk_next(&w, &got));
    }
}

static void cuts(void)
{
    for (uint64_t count = 0; count < 70; count += 1 + count / 9)
        for (uint32_t parts = 1; parts < 20; parts++) {
            begin(CHOIR_ALL_REDUCE, 0, 2, count);
            choir_cut_even(&B, parts);
            const struct choir_cut *c = &B.cut[CHOIR_OUT];
            uint64_t at = 0;
            for (uint32_t p = 0; p < parts; p++) {
                CHECK_EQ(plan_part_off(c, p), at);
                at += plan_part_len(c, p);
                CHECK(at == count || at % 4 == 0);
            }
            CHECK_EQ(at, count);
            builder_free(&B);
            begin(CHOIR_ALL_GATHER, 1, 3, count);
            choir_cut_blocks(&B, parts);
            CHECK_EQ(B.cut[CHOIR_OUT].parts, 3 * parts);
            CHECK_EQ(B.cut[CHOIR_IN].parts, parts);
            for (uint32_t p = 0; p < 3 * parts; p++) {
                uint32_t j = p % parts;
                const struct choir_cut *o = &B.cut[CHOIR_OUT], *i = &B.cut[CHOIR_IN];
                CHECK_EQ(plan_part_len(o, p), plan_part_len(i, j));
                if (plan_part_len(o, p))
                    CHECK_EQ(plan_part_off(o, p), plan_part_off(i, j) + p / parts * count);
            }
            builder_free(&B);
        }
    begin(CHOIR_ALL_REDUCE, 0, 2, 5);
    choir_cut_blocks(&B, 2);
    refused("no blocks");
    begin(CHOIR_GATHER, 0, 2, 5);
    choir_cut_even(&B, 2);
    refused("has blocks");
    begin(CHOIR_ALL_REDUCE, 0, 2, 5);
    choir_cut_even(&B, 0);
    refused("0 parts");
}

static void v_cuts(void)
{
    const uint64_t count[] = {4, 0, 33}, offset[] = {40, 0, 1};
    plan_layout_free(L);
    L = plan_layout_regular(1, 3);
    plan_shape_init(&S, CHOIR_REDUCE_SCATTER_V, 2, 3, 0, L);
    S.in_count = count;
    S.in_offset = offset;
    CHECK_OK(builder_init(&B, &S));
    choir_cut_blocks(&B, 4);
    for (uint32_t p = 0; p < 12; p++) {
        const struct choir_cut *c = &B.cut[CHOIR_IN];
        CHECK_LE(offset[p / 4], c->off[p]);
        CHECK_LE(c->off[p] + c->len[p], offset[p / 4] + count[p / 4]);
        if (p >= 8)
            CHECK_EQ(c->len[p], B.cut[CHOIR_OUT].len[p - 8]);
    }
    copy_step(CHOIR_LOCAL(.buf = CHOIR_IN, .first = 8, .run = 4),
              CHOIR_LOCAL(.buf = CHOIR_OUT, .run = 4));
    struct choir_plan *plan = end();
    CHECK_EQ(plan_bytes(plan) > 15 * 16, 1);
    struct choir_plan *copy = plan_copy(plan);
    plan_free(plan);
    CHECK_OK(plan_check(copy, &S));
    CHECK_EQ(copy->cut[CHOIR_IN].len[8], 12);
    plan_free(copy);
}

/* Steps and iterations of a program with loops, by the cursor. */
static void cursor(void)
{
    begin(CHOIR_ALL_REDUCE, 0, 1, 8);
    choir_tmp(&B, 1);
    for (int i = 0; i < 6; i++) {
        copy_step(CHOIR_LOCAL(.buf = CHOIR_IN), CHOIR_LOCAL(.buf = CHOIR_TMP));
        if (i == 1)
            choir_loop(&B, 1, 3);
        if (i == 3)
            choir_loop(&B, 2, 2);
        if (i == 4)
            choir_loop(&B, 1, 0);
    }
    choir_next_program(&B);
    struct choir_plan *plan = end();
    CHECK_EQ(plan->steps, 5);
    CHECK_EQ(plan->programs, 2);
    CHECK_EQ(plan->instances, 2);
    const uint32_t step[] = {0, 1, 1, 1, 2, 3, 2, 3, 4}, iter[] = {0, 0, 1, 2, 0, 0, 1, 1, 0};
    struct plan_cursor c = {0};
    uint32_t n = 0;
    while (plan_cursor_next(&c, plan, 0)) {
        CHECK_LT(n, base_count(step));
        CHECK_EQ(c.step, step[n]);
        CHECK_EQ(c.iter, iter[n]);
        n++;
    }
    CHECK_EQ(n, base_count(step));
    c = (struct plan_cursor){0};
    CHECK(!plan_cursor_next(&c, plan, 1));
    plan_free(plan);
}

/* TMP with a table: its parts have lengths and measure messages. */
static void tmp_table(void)
{
    static const uint64_t own = 3, len[] = {3, 0, 9};
    struct choir_layout *l = plan_layout_regular(1, 4);
    for (int wrong = 0; wrong < 4; wrong++) {
        struct choir_shape s;
        plan_shape_init(&s, CHOIR_GATHER_V, 1, 4, 0, l);
        s.in_count = &own;
        CHECK_OK(builder_init(&B, &s));
        choir_tmp_table(&B, 3, len);
        copy_step(CHOIR_LOCAL(.buf = CHOIR_IN), CHOIR_LOCAL(.buf = CHOIR_TMP, .first = wrong == 1));
        copy_step(CHOIR_MESSAGE(2, .buf = CHOIR_TMP, .first = 2),
                  CHOIR_LOCAL(.buf = CHOIR_TMP, .first = wrong == 2 ? 0 : 2));
        copy_step(CHOIR_LOCAL(.buf = CHOIR_TMP, .run = 3),
                  CHOIR_MESSAGE(0, .buf = CHOIR_TMP, .run = 3));
        if (wrong == 3)
            B.table[CHOIR_TMP][2] = 2; /* its last part begins inside the first */
        if (wrong) {
            refused(wrong == 3 ? "overlap" : "differ in lengths");
            continue;
        }
        struct choir_plan *plan = end();
        CHECK_EQ(plan_tmp_extent(plan), 12);
        CHECK_EQ(plan->cut[CHOIR_TMP].off[2], 3);
        plan_free(plan);
    }
    plan_layout_free(l);
}

static void instances(void)
{
    begin(CHOIR_ALL_REDUCE, 0, 2, 1000000);
    choir_cut_even(&B, 2);
    choir_computed(&B, 2);
    struct choir_plan *plan = end();
    CHECK_EQ(plan->slot, 16384);
    CHECK_EQ(plan->instances, (500000 + 8191) / 8192);
    CHECK_EQ(plan->window, 8);
    plan_free(plan);
    begin(CHOIR_ALL_REDUCE, 0, 2, 1000000);
    choir_computed(&B, 0);
    plan = end();
    CHECK_EQ(plan->instances, 1);
    plan_free(plan);
    begin(CHOIR_ALL_REDUCE, 0, 2, 0);
    choir_next_program(&B);
    choir_next_program(&B);
    plan = end();
    CHECK_EQ(plan->instances, 3);
    plan_free(plan);
    begin(CHOIR_ALL_GATHER, 0, 2, 1000);
    choir_piece(&B, 400);
    choir_next_program(&B);
    plan = end();
    CHECK_EQ(plan->instances, 10);
    plan_free(plan);
    begin(CHOIR_ALL_REDUCE, 0, 2, 1000000);
    choir_computed(&B, 16385);
    refused("do not fit");
}

static void refusals(void)
{
    struct choir_place in = CHOIR_LOCAL(.buf = CHOIR_IN), out = CHOIR_LOCAL(.buf = CHOIR_OUT);
#define REFUSED(word, first, second)                                                               \
    (begin(CHOIR_ALL_GATHER, 1, 4, 6), choir_tmp(&B, 4), copy_step(first, second), refused(word))
    REFUSED("writes IN", out, in);
    REFUSED("to itself", in, CHOIR_MESSAGE(1, .buf = CHOIR_IN));
    REFUSED("peer 4", in, CHOIR_MESSAGE(4, .buf = CHOIR_IN));
    REFUSED("not TMP", in, CHOIR_MESSAGE(0, .buf = CHOIR_TMP));
    REFUSED("differ in parts", in, CHOIR_LOCAL(.buf = CHOIR_OUT, .run = 2));
    REFUSED("parts [4, 5) of 4", in, CHOIR_LOCAL(.buf = CHOIR_OUT, .first = 4));
    REFUSED("parts [3, 5) of 4", CHOIR_LOCAL(.buf = CHOIR_TMP, .run = 2),
            CHOIR_LOCAL(.buf = CHOIR_OUT, .first = 3, .run = 2));
    REFUSED("parts [2, 1) of 4", in, CHOIR_LOCAL(.buf = CHOIR_OUT, .first = 2, .end = 1));
    REFUSED("list", in, CHOIR_LOCAL(.buf = CHOIR_OUT, .list = 1));
    REFUSED("buffer 3", in, CHOIR_LOCAL(.buf = 3));
    REFUSED("overlap shifted", CHOIR_LOCAL(.buf = CHOIR_TMP, .run = 2),
            CHOIR_LOCAL(.buf = CHOIR_TMP, .run = 2, .turn = 1));
    REFUSED("choir_computed(b, 2)", CHOIR_MESSAGE(0, .buf = CHOIR_OUT, .run = 2),
            CHOIR_MESSAGE(2, .buf = CHOIR_OUT, .run = 2));
    begin(CHOIR_ALL_GATHER, 1, 4, 6);
    choir_step(&B, 1, &in, 2, (struct choir_place[]){out, out});
    refused("twice");
    begin(CHOIR_ALL_GATHER, 1, 4, 6);
    copy_step(CHOIR_MESSAGE(0, .buf = CHOIR_IN), out);
    builder_steps(&B)->ins = 2;
    refused("places");
    begin(CHOIR_ALL_REDUCE, 1, 4, 6);
    struct choir_place two[] = {CHOIR_MESSAGE(2, .buf = CHOIR_IN),
                                CHOIR_MESSAGE(2, .buf = CHOIR_IN)};
    choir_step(&B, 2, two, 1, &out);
    refused("two messages");
    begin(CHOIR_ALL_REDUCE, 1, 4, 6);
    choir_step(&B, 0, NULL, 1, &out);
    refused("0 sources");
    begin(CHOIR_ALL_REDUCE, 1, 4, 30);
    choir_cut_even(&B, 4);
    copy_step(CHOIR_LOCAL(.buf = CHOIR_IN, .first = 3), CHOIR_MESSAGE(0, .buf = CHOIR_IN));
    refused("differ in lengths");
    begin(CHOIR_GATHER, 1, 4, 30);
    copy_step(in, out);
    refused("absent");
    begin(CHOIR_ALL_REDUCE, 1, 4, 6);
    copy_step(in, out);
    choir_loop(&B, 1, 2);
    copy_step(in, out);
    choir_loop(&B, 2, 2);
    refused("nest");
    begin(CHOIR_ALL_REDUCE, 1, 4, 6);
    copy_step(in, out);
    choir_next_program(&B);
    choir_loop(&B, 1, 2);
    refused("of the 0");
    begin(CHOIR_ALL_REDUCE, 1, 4, 6); /* comes round to itself at iteration 2 */
    copy_step(in, CHOIR_MESSAGE(3, .buf = CHOIR_IN, .dpeer = 1));
    choir_loop(&B, 1, 4);
    refused("iteration 2");
}

/* Out-of-range fields, as a plan file may have them: an error each, no access outside. */
static void damaged(void)
{
    uint64_t seed = test_seed();
    begin(CHOIR_ALL_REDUCE, 1, 4, 37);
    choir_cut_even(&B, 4);
    choir_tmp(&B, 2);
    uint32_t list[] = {3, 1};
    uint32_t first = choir_list(&B, 2, list);
    copy_step(CHOIR_LOCAL(.buf = CHOIR_IN, .first = 1, .list = 0),
              CHOIR_MESSAGE(2, .buf = CHOIR_IN, .first = 1));
    copy_step(CHOIR_LOCAL(.buf = CHOIR_IN, .list = 1, .first = first, .run = 2),
              CHOIR_LOCAL(.buf = CHOIR_TMP, .run = 2));
    choir_loop(&B, 2, 3);
    struct choir_plan *plan = end();
    CHECK_OK(plan_check(plan, &S));
    uint64_t bytes = plan_bytes(plan);
    for (int i = 0; i < TEST_BY_EFFORT(2000, 20000, 200000); i++) {
        struct choir_plan *bad = plan_copy(plan);
        uint32_t *word = (uint32_t *)bad;
        uint64_t head = (sizeof(*bad) + 7) / 8 * 2, words = bytes / 4;
        for (uint64_t n = 1 + base_random(&seed) % 2; n--;)
            word[head + base_random(&seed) % (words - head)] =
                (uint32_t)(base_random(&seed) >> (base_random(&seed) % 64));
        if (plan_check(bad, &S) == CHOIR_OK) { /* then walking it is safe */
            struct plan_cursor c = {0};
            for (int steps = 0; steps < 1000 && plan_cursor_next(&c, bad, 0); steps++)
                for (uint32_t k = 0; k < (uint32_t)(bad->step[c.step].ins + bad->step[c.step].outs);
                     k++) {
                    const struct choir_place *p = bad->place + bad->step[c.step].place + k;
                    struct plan_walk w;
                    uint32_t part;
                    plan_walk_start(&w, bad, p, c.iter);
                    while (plan_walk_next(&w, &part))
                        CHECK_LT(part, plan_parts(bad, p->buf));
                }
        }
        plan_free(bad);
    }
    plan_free(plan);
}

static enum choir_status build_copy(const struct choir_shape *shape, struct choir_builder *b)
{
    if (shape->args[0] == 'x')
        return choir_unsupported(b, "not for x");
    choir_piece(b, strlen(shape->args) + 4);
    CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN)),
               CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT)));
    return choir_builder_status(b);
}
static const struct choir_algorithm copy = {.bytes = sizeof(copy),
                                            .abi = CHOIR_ALGORITHM_ABI,
                                            .name = "test_copy",
                                            .summary = "copies",
                                            .kinds = 1u << CHOIR_ALL_REDUCE,
                                            .variants = "",
                                            .build = build_copy};

static void registry(void)
{
    const struct choir_algorithm *const list[] = {&copy, NULL}, *const twice[] = {&copy, &copy,
                                                                                  NULL};
    CHECK_NE(plan_algorithm_add(twice, "test"), CHOIR_OK);
    CHECK(!plan_algorithm_find("test_copy"));
    CHECK_OK(plan_algorithm_add(list, "test"));
    CHECK_NE(plan_algorithm_add(list, "test"), CHOIR_OK);
    CHECK(plan_algorithm_find("test_copy") == &copy);
    CHECK(plan_algorithm_find("test_copy(a,b(c))") == &copy);
    CHECK(!plan_algorithm_find("test_cop"));
    CHECK(!plan_algorithm_find(""));
    CHECK_NE(plan_algorithm_load("/nonexistent.so"), CHOIR_OK);
    uint32_t n = 0;
    while (plan_algorithm_at(n))
        n++;
    CHECK(plan_algorithm_at(n - 1) == &copy);
    struct choir_plan *plan = NULL;
    plan_layout_free(L);
    L = plan_layout_regular(1, 1);
    plan_shape_init(&S, CHOIR_ALL_REDUCE, 0, 1, 20, L);
    CHECK_OK(plan_build("test_copy(a,b(c))", &S, &plan));
    CHECK_EQ(plan->instances, 10);
    plan_free(plan);
    CHECK_OK(plan_build("test_copy", &S, &plan));
    CHECK_EQ(plan->instances, 20);
    plan_free(plan);
    plan = NULL;
    CHECK_EQ(plan_build("test_copy(x)", &S, &plan), CHOIR_ERR_UNSUPPORTED);
    CHECK(strstr(base_error_thread()->text, "test_copy(x) for all_reduce of 1 ranks: not for x"));
    static const char *const bad[] = {"test_copy(",      "test_copy)", "test_copy(a)b",
                                      "test_copy(a)(b)", "",           "(",
                                      "test_copy((a)",   "nonsense",   "ring ring"};
    for (size_t i = 0; i < base_count(bad); i++)
        CHECK_EQ(plan_build(bad[i], &S, &plan), CHOIR_ERR_ARGUMENT);
    S.kind = CHOIR_REDUCE;
    CHECK_EQ(plan_build("test_copy", &S, &plan), CHOIR_ERR_UNSUPPORTED);
    S.rank = 1;
    CHECK_EQ(plan_build("test_copy", &S, &plan), CHOIR_ERR_RANK);
    CHECK(!plan);
    plan_layout_free(L);
    L = NULL;
}

TEST_MAIN(TEST(layouts), TEST(kinds), TEST(extents), TEST(v_extents), TEST(walks), TEST(cuts),
          TEST(v_cuts), TEST(cursor), TEST(tmp_table), TEST(instances), TEST(refusals),
          TEST(damaged), TEST(registry))
