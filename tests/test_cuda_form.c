/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cuda_form.c: which plans are exchanges. That what is found computes the right thing is test_cuda_exchange.cc's business.
 */
#include "cuda/form.h"
#include "plan/ranks.h"
#include "tests/lib/test.h"

static uint32_t by_length(uint64_t bytes)
{
    return (uint32_t)(bytes / 16 + 1);
}

/* How many ranks' plans are exchanges; -1: the algorithm is not for this. */
static int exchanges(const char *algorithm, enum choir_kind kind, uint32_t ranks, uint64_t count,
                     uint64_t seed)
{
    struct choir_layout *layout = plan_layout_regular(1, ranks);
    struct ranks r;
    struct cuda_exchange what;
    int found = 0;
    CHECK(layout);
    CHECK_OK(ranks_init(&r, kind, layout, count, (uint32_t)(seed % ranks), seed));
    enum choir_status st = ranks_build(&r, algorithm);
    for (uint32_t i = 0; st == CHOIR_OK && i < ranks; i++)
        found += cuda_form_exchange(r.plan[i], r.shape[i].type_bytes, by_length, &what);
    ranks_free(&r);
    plan_layout_free(layout);
    return st == CHOIR_OK ? found : -1;
}

static void those_that_are(void)
{
    static const struct {
        const char *name;
        uint32_t kinds;
    } are[] = {
        {"direct", UINT32_MAX},
        {"one_shot", UINT32_MAX},
        {"pairwise", ~(1u << CHOIR_EXCHANGE)}, /* groups: see rounds_of_groups */
    };
    int checked = 0;
    for (unsigned a = 0; a < base_count(are); a++)
        for (uint32_t kind = 0; kind < CHOIR_KINDS; kind++)
            for (uint32_t n = 1; n <= CUDA_RANKS && are[a].kinds >> kind & 1; n++)
                for (uint64_t seed = 0; seed < 4; seed++)
                    for (uint64_t count = 0; count < 3000; count = 7 * count + 1) {
                        int found = exchanges(are[a].name, (enum choir_kind)kind, n, count, seed);
                        checked += found >= 0;
                        if (found >= 0 && found != (int)n)
                            FAIL("%s %s of %u ranks, count %llu, seed %llu: an exchange at %d",
                                 are[a].name, plan_kind_name((enum choir_kind)kind), n,
                                 (unsigned long long)count, (unsigned long long)seed, found);
                    }
    CHECK_LT(1000, checked);
}

/* Of four ranks and more, whoever passes on what it got, or keeps parts of sums, is none. */
static void those_that_are_not(void)
{
    static const struct {
        const char *name;
        enum choir_kind kind;
    } are_not[] = {
        {"ring", CHOIR_ALL_REDUCE},
        {"ring", CHOIR_ALL_GATHER},
        {"ring", CHOIR_REDUCE_SCATTER},
        {"tree", CHOIR_ALL_REDUCE},
        {"tree", CHOIR_BROADCAST},
        {"two_shot", CHOIR_ALL_REDUCE},
        {"two_shot(pull)", CHOIR_ALL_REDUCE},
        {"pat", CHOIR_ALL_GATHER},
        {"pat", CHOIR_REDUCE_SCATTER},
        {"recursive_doubling", CHOIR_ALL_REDUCE},
        {"bruck", CHOIR_ALL_TO_ALL},
        {"bruck", CHOIR_BARRIER},
        {"binomial", CHOIR_BROADCAST},
        {"chain", CHOIR_BROADCAST},
    };
    for (unsigned a = 0; a < base_count(are_not); a++)
        for (uint32_t n = 4; n <= 16; n++) {
            int found = exchanges(are_not[a].name, are_not[a].kind, n, 1000, 2);
            CHECK_LE(0, found);
            if (found == (int)n)
                FAIL("%s %s of %u ranks is an exchange", are_not[a].name,
                     plan_kind_name(are_not[a].kind), n);
        }
}

/* --- plans written here ------------------------------------------------------------------------ */

/* A plan of rank 0 of 3, an all-reduce of 16 elements in 4 parts. */
static bool is_exchange(const char *steps, struct cuda_exchange *what)
{
    char text[1024];
    struct choir_plan *plan;
    snprintf(text, sizeof(text),
             "choir plan 1: all_reduce, rank 0 of 3\nin even parts 4 count 16 quantum 1\n"
             "out even parts 4 count 16 quantum 1\ntmp 1\ninstances 1\nwindow 1\ndepth 4\nslot 64\n"
             "program 0\n%s\nend\n",
             steps);
    CHECK_OK(plan_parse(text, &plan));
    bool found = cuda_form_exchange(plan, 4, by_length, what);
    plan_free(plan);
    return found;
}

static void by_their_steps(void)
{
    static const char *const are[] = {
        /* what is adjacent is one stretch; a loop; a copy's copy */
        "in[0:2] -> to 1 in[0:2]\nfrom 1 in[0:2] + in[0:2] -> out[0:2]",
        "repeat 2 {\nin[0:4] -> to 1 each 1 in[0:4]\n}\nfrom 1 in[0:4] + in[0:4] -> out[0:4]",
        "in[0] -> out[0]\nin[1:2] -> out[1:2]\nout[1:2] -> to 2 out[1:2]",
        "in[0] -> to 1 in[0], to 2 in[0], out[0]",
        "in[0] + in[1] -> out[0]",
    };
    static const char *const are_not[] = {
        "in[0 stride 2 end 4] -> to 1 in[0 stride 2 end 4]", /* not one stretch */
        "in[0] -> out[0]\nfrom 1 in[0] -> out[0]",           /* a part of OUT twice */
        "in[0:2] -> out[0:2]\nfrom 1 in[0:2] -> out[1:2]",
        "from 1 in[0] -> out[0], to 2 out[0]", /* a message of what came */
        "from 1 in[0] -> out[0]\nout[0] -> to 2 out[0]",
        "from 1 in[0] -> tmp[0]\ntmp[0] + in[0] -> out[0]",
        "in[0] -> tmp[0]",
        "from 1 in[0] -> out[0], out[1]",
        "in[0] -> to 1 in[0]\nin[1] -> to 1 in[1]", /* two messages to a peer, of a peer */
        "from 1 in[0] -> out[0]\nfrom 1 in[1] -> out[1]",
        /* legal out of place, but not where OUT is IN: another lane may be first */
        "in[0:2] -> to 1 in[0:2]\nfrom 1 in[0] -> out[0]",
        "in[0] -> out[1]\nin[1] -> out[0]",
        "in[1] -> out[0]\nin[2] -> out[1]",
        "in[0:2] -> to 1 in[0:2]\nin[1] -> out[0]",
        "in[0:4] -> out[0:4]\nout[1:2] -> to 2 out[1:2]",
    };
    struct cuda_exchange what;
    for (unsigned i = 0; i < base_count(are); i++)
        if (!is_exchange(are[i], &what))
            FAIL("not an exchange:\n%s", are[i]);
    for (unsigned i = 0; i < base_count(are_not); i++)
        if (is_exchange(are_not[i], &what))
            FAIL("an exchange:\n%s", are_not[i]);
    CHECK(is_exchange("in[1:3] -> out[1:3]\nout[1:3] -> to 2 out[1:3]\nfrom 1 in[0] -> out[0]",
                      &what));
    CHECK_EQ(what.sends, 1);
    CHECK_EQ(what.send[0].off, 4);
    CHECK_EQ(what.send[0].len, 12);
    CHECK_EQ(what.send[0].peer, 2);
    CHECK_EQ(what.send[0].lanes, 4);
    CHECK_EQ(what.results, 2);
    CHECK_EQ(what.result[1].lanes, 2);
    CHECK_EQ(what.result[1].len, 4);
    CHECK_EQ(what.source[what.result[1].first].peer, 1);
    CHECK_EQ(what.lanes, 4);
}

static void rounds_of_groups(void)
{
    struct choir_layout *layout = plan_layout_regular(1, 6);
    struct cuda_exchange round[5], one;
    struct ranks r;
    CHECK(layout);
    for (uint64_t seed = 0; seed < 8; seed++) {
        CHECK_OK(ranks_init(&r, CHOIR_EXCHANGE, layout, 100, 0, seed));
        CHECK_OK(ranks_build(&r, "pairwise"));
        for (uint32_t q = 0; q < 6; q++) {
            /* Distances 1, 0, 2, 1 and 5: to the next rank twice, so no single exchange. */
            CHECK(!cuda_form_exchange(r.plan[q], 4, by_length, &one));
            CHECK_EQ(cuda_form_rounds(r.plan[q], 4, by_length, round, 5), 2);
            CHECK_EQ(cuda_form_rounds(r.plan[q], 4, by_length, round, 1), 0);
            CHECK_EQ(cuda_form_rounds(r.plan[q], 4, by_length, round, 2), 2);
            CHECK_EQ(round[0].sends, 3);
            CHECK_EQ(round[0].results, 4); /* one of them from itself */
            CHECK_EQ(round[1].sends, 1);
            CHECK_EQ(round[1].results, 1);
            CHECK_EQ(round[1].send[0].peer, (q + 1) % 6);
            CHECK_EQ(round[1].source[0].peer, (q + 5) % 6);
        }
        ranks_free(&r);
    }
    plan_layout_free(layout);
}

/* Each send, result and source is in one of the two, where its length says. */
static void halves(void)
{
    struct choir_layout *layout = plan_layout_regular(1, 7);
    struct cuda_exchange all, half[2];
    struct ranks r;
    CHECK(layout);
    CHECK_OK(ranks_init(&r, CHOIR_ALL_TO_ALL_V, layout, 100, 0, 1));
    CHECK_OK(ranks_build(&r, "direct"));
    for (uint32_t q = 0; q < 7; q++)
        for (uint64_t limit = 0; limit < 1000; limit += 100) {
            CHECK(cuda_form_exchange(r.plan[q], 4, by_length, &all));
            cuda_form_split(&all, 4, limit, &half[0], &half[1]);
            CHECK_EQ(half[0].sends + half[1].sends, all.sends);
            CHECK_EQ(half[0].results + half[1].results, all.results);
            CHECK_EQ(half[0].sources + half[1].sources, all.sources);
            CHECK_EQ(base_max(half[0].lanes, half[1].lanes), all.lanes);
            for (uint32_t k = 0; k < 2; k++) {
                for (uint32_t i = 0; i < half[k].sends; i++)
                    CHECK_EQ(half[k].send[i].len * 4 > limit, k);
                for (uint32_t i = 0; i < half[k].results; i++) {
                    const struct cuda_result *x = &half[k].result[i];
                    CHECK_EQ(x->len * 4 > limit, k);
                    CHECK_LE(x->first + x->count, half[k].sources);
                }
            }
        }
    ranks_free(&r);
    plan_layout_free(layout);
}

TEST_MAIN(TEST(those_that_are), TEST(those_that_are_not), TEST(by_their_steps),
          TEST(rounds_of_groups), TEST(halves))
