/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plan files: dumped, edited, refused where wrong, and where right chosen by the table and built for other
 * counts, types and slots, proved again there.
 */
#include "plan/plan.h"
#include "tests/lib/test.h"
#include <unistd.h>

/* The text of all ranks' plans by an algorithm. */
static char *text_of(const char *name, const char *algorithm, enum choir_kind kind, uint32_t n,
                     uint64_t count, uint64_t from, uint64_t to)
{
    struct choir_layout *l = plan_layout_regular(1, n);
    struct plan_set set = {
        .kind = kind, .ranks = n, .type_bytes = 4, .count = count, .from = from, .to = to};
    struct choir_shape s;
    char *text = NULL;
    size_t bytes = 0;
    snprintf(set.name, sizeof(set.name), "%s", name);
    set.plans = calloc(n, sizeof(*set.plans));
    for (uint32_t r = 0; r < n; r++) {
        plan_shape_init(&s, kind, r, n, count, l);
        CHECK_OK(plan_build(algorithm, &s, &set.plans[r]));
    }
    FILE *f = open_memstream(&text, &bytes);
    plan_set_dump(&set, f);
    fclose(f);
    for (uint32_t r = 0; r < n; r++)
        plan_free(set.plans[r]);
    free(set.plans);
    plan_layout_free(l);
    return text;
}

static bool same_place(const struct choir_place *a, const struct choir_place *b)
{
    return a->peer == b->peer && a->buf == b->buf && a->list == b->list && a->first == b->first &&
           a->run == b->run && a->stride == b->stride && a->end == b->end && a->turn == b->turn &&
           a->dpeer == b->dpeer && a->dturn == b->dturn;
}

static void round_trip(void)
{
    const struct choir_algorithm *a;
    int trips = 0;
    for (uint32_t i = 0; (a = plan_algorithm_at(i)); i++)
        for (int k = 0; k < CHOIR_ALL_GATHER_V; k++)
            for (uint32_t n = 1; n <= 9; n += n == 1 ? 4 : 2) {
                struct choir_layout *l = plan_layout_regular(1, n);
                struct choir_shape s;
                struct choir_plan *plan, *again;
                plan_shape_init(&s, (enum choir_kind)k, n / 2, n, 100003, l);
                if (!(a->kinds >> k & 1) || plan_build(a->name, &s, &plan) != CHOIR_OK) {
                    plan_layout_free(l);
                    continue;
                }
                char *text = NULL, *more = NULL;
                size_t bytes = 0;
                FILE *f = open_memstream(&text, &bytes);
                plan_dump(plan, f);
                fclose(f);
                CHECK_OK(plan_parse(text, &again));
                CHECK_EQ(plan_bytes(plan), plan_bytes(again));
                CHECK(!memcmp(plan->step, again->step, plan->steps * sizeof(*plan->step)));
                for (uint32_t p = 0; p < plan->places; p++)
                    CHECK(same_place(&plan->place[p], &again->place[p]));
                CHECK_EQ(plan->lists, again->lists);
                CHECK(!plan->lists ||
                      !memcmp(plan->list, again->list, plan->lists * sizeof(*plan->list)));
                CHECK_OK(plan_check(again, &s));
                f = open_memstream(&more, &bytes);
                plan_dump(again, f);
                fclose(f);
                CHECK_STR(more, text);
                free(text);
                free(more);
                plan_free(plan);
                plan_free(again);
                plan_layout_free(l);
                trips++;
            }
    printf("%d plans dumped and read back exactly\n", trips);
    CHECK_LE(100, trips);
}

static void set_parses(void)
{
    char *text = text_of("mine", "ring", CHOIR_ALL_REDUCE, 3, 1000, 10, 100000);
    struct plan_set *set;
    struct plan_verdict verdict;
    CHECK_OK(plan_set_parse(text, "text", &set));
    CHECK_STR(set->name, "mine");
    CHECK(set->ranks == 3 && set->count == 1000 && set->from == 10 && set->to == 100000);
    char *again = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&again, &bytes);
    plan_set_dump(set, f);
    fclose(f);
    CHECK_STR(again, text);
    CHECK_OK(plan_set_verify(set, &verdict));
    CHECK(!set->ordered);
    plan_set_free(set);
    free(again);
    free(text);
}

/* The first `old` behind `after` becomes `new`; the file must be refused, saying so. */
static void refused(const char *text, const char *after, const char *old, const char *new,
                    const char *says)
{
    char *edited = malloc(strlen(text) + strlen(new) + 1);
    const char *at = strstr(strstr(text, after), old);
    CHECK(at);
    sprintf(edited, "%.*s%s%s", (int)(at - text), text, new, at + strlen(old));
    struct plan_set *set = NULL;
    struct plan_verdict verdict = {0};
    enum choir_status status = plan_set_parse(edited, "edited", &set);
    if (status == CHOIR_OK)
        status = plan_set_verify(set, &verdict);
    if (status != CHOIR_ERR_ARGUMENT || !strstr(base_error_thread()->text, says))
        FAIL("\"%s\" for \"%s\": status %d, %s", new, old, status, base_error_thread()->text);
    plan_set_free(set);
    free(edited);
}

static void edits_are_judged(void)
{
    char *text = text_of("mine", "ring", CHOIR_ALL_REDUCE, 4, 1000, 1000, 1000);
    refused(text, "", "plans 1", "plans 2", "line 1");
    refused(text, "", "all_reduce of", "all_to_all_v of", "not a collective whose sizes");
    refused(text, "", "4 ranks", "5 ranks", "expected the plan of rank 0 of 5");
    refused(text, "", "rank 1 of 4", "rank 2 of 4", "expected the plan of rank 1 of 4");
    refused(text, "", "root 0", "root 4", "root");
    refused(text, "rank 2 of 4", "depth 4", "depth 3", "rank 2 differs");
    refused(text, "rank 3 of 4", "end\n", "", "line");
    /* Well-formed, and wrong: what only a proof sees. */
    refused(text, "rank 2 of 4", "to 3 ", "to 1 ", "refused");
    refused(text, "rank 1 of 4", "repeat 2", "repeat 3", "refused");
    refused(text, "rank 0 of 4", " + in[", " + out[", "refused");
    free(text);
}

static void file_with(char path[300], const char *text)
{
    test_path(path, 300, "plans");
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0);
    CHECK_EQ(fclose(f), 0);
}

static const char *chosen(const struct plan_table *t, const struct choir_layout *l, uint64_t count,
                          bool ordered)
{
    struct choir_shape s;
    plan_shape_init(&s, CHOIR_ALL_REDUCE, 0, l->ranks, count, l);
    return plan_table_choose((struct plan_table *)(uintptr_t)t, &s, ordered);
}

/* Built from the file for another count, type and slot, the plans are proved like any. */
static void proved_for(const struct choir_layout *l, uint64_t count, uint32_t type_bytes,
                       uint64_t slot_bytes)
{
    struct choir_plan *plans[5];
    struct choir_shape s[5];
    struct plan_verdict verdict;
    for (uint32_t r = 0; r < 5; r++) {
        plan_shape_init(&s[r], CHOIR_ALL_REDUCE, r, 5, count, l);
        s[r].type_bytes = type_bytes;
        s[r].slot_bytes = slot_bytes;
        CHECK_OK(plan_build("file:five", &s[r], &plans[r]));
        CHECK_EQ(plans[r]->slot, slot_bytes / type_bytes);
    }
    for (int in_place = 0; in_place < 2; in_place++) {
        struct plan_verify how = {.in_place = in_place};
        if (!plan_verify((const struct choir_plan *const *)plans, s, 5, &how, &verdict))
            FAIL("%llu elements of %u bytes: %s", (unsigned long long)count, type_bytes,
                 verdict.text);
    }
    for (uint32_t r = 0; r < 5; r++)
        plan_free(plans[r]);
}

static void loaded_and_chosen(void)
{
    char path[300], *text = text_of("five", "ring", CHOIR_ALL_REDUCE, 5, 100000, 7, 1 << 20);
    struct choir_layout *l = plan_layout_regular(1, 5);
    struct plan_cluster c;
    struct plan_table *before, *t, *wish;
    const struct plan_set *set;
    plan_cluster_default(&c, l);
    CHECK_OK(plan_table_create(&c, "", &before));
    file_with(path, text);
    CHECK_OK(plan_set_load(path, &set));
    CHECK(plan_set_find("file:five") == set && plan_set_find("five") == set);
    CHECK_EQ(plan_set_load(path, &set), CHOIR_ERR_ARGUMENT); /* the name is taken */
    unlink(path);
    CHECK_EQ(plan_set_load(path, &set), CHOIR_ERR_SYSTEM);
    CHECK_OK(plan_table_create(&c, "", &t));
    CHECK_OK(plan_table_create(&c, "all_reduce:100K-=tree;all_reduce=file:five", &wish));
    CHECK_NE(plan_table_hash(before), plan_table_hash(t));
    CHECK_STR(chosen(t, l, 7, false), "file:five");
    CHECK_STR(chosen(t, l, 1 << 20, false), "file:five");
    CHECK(strncmp(chosen(t, l, 6, false), "file:", 5));
    CHECK(strncmp(chosen(t, l, (1 << 20) + 1, false), "file:", 5));
    CHECK(strncmp(chosen(t, l, 100, true), "file:", 5)); /* a ring does not combine in rank order */
    CHECK(strncmp(chosen(before, l, 100, false), "file:", 5));
    CHECK_STR(chosen(wish, l, 100, false), "file:five");
    CHECK(!strncmp(chosen(wish, l, 100000, false), "tree", 4));
    proved_for(l, 7, 4, 65536);
    proved_for(l, 1000, 8, 4096);
    proved_for(l, 1 << 20, 1, 4096);
    proved_for(l, 99999, 2, 64);
    struct choir_plan *plan;
    struct choir_shape s;
    plan_shape_init(&s, CHOIR_ALL_REDUCE, 0, 5, 6, l);
    CHECK_EQ(plan_build("file:five", &s, &plan), CHOIR_ERR_UNSUPPORTED);
    CHECK_EQ(plan_build("file:nobody", &s, &plan), CHOIR_ERR_ARGUMENT);
    plan_table_free(before);
    plan_table_free(t);
    plan_table_free(wish);
    plan_layout_free(l);
    free(text);
}

/* Blocks scale where each is one part. */
static void other_collectives(void)
{
    static const struct {
        enum choir_kind kind;
        const char *name, *algorithm;
    } cases[] = {{CHOIR_ALL_GATHER, "ag", "bruck"},
                 {CHOIR_ALL_TO_ALL, "aa", "pairwise"},
                 {CHOIR_REDUCE_SCATTER, "rs", "ring"},
                 {CHOIR_BROADCAST, "bc", "tree"}};
    for (size_t i = 0; i < base_count(cases); i++) {
        char *text = text_of(cases[i].name, cases[i].algorithm, cases[i].kind, 6, 500, 1, 100000);
        struct plan_set *set;
        struct plan_verdict verdict;
        CHECK_OK(plan_set_parse(text, cases[i].name, &set));
        CHECK_OK(plan_set_verify(set, &verdict));
        plan_set_free(set);
        free(text);
    }
}

TEST_MAIN(TEST(round_trip), TEST(set_parses), TEST(edits_are_judged), TEST(loaded_and_chosen),
          TEST(other_collectives))
