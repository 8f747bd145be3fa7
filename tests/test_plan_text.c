/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plans as text and pictures: what is dumped is read back exactly, what people write by hand is read as
 * meant, every mistake is reported with its line and column, and no text crashes the reader.
 */
#include "plan/plan.h"
#include "tests/lib/test.h"

static char *dump(const struct choir_plan *plan)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    CHECK(f);
    plan_dump(plan, f);
    CHECK_EQ(fclose(f), 0);
    return text;
}

static const char ring[] = "choir plan 1: all_reduce, rank 2 of 4\n"
                           "in even parts 4 count 1000 quantum 4\n"
                           "out even parts 4 count 1000 quantum 4\n"
                           "tmp 0\n"
                           "instances 3\n"
                           "window 8\n"
                           "depth 4\n"
                           "slot 16384\n"
                           "program 0\n"
                           "  in[0 turn 2] -> to 3 in[0 turn 2]\n"
                           "  repeat 2 {\n"
                           "    from 1 in[0 turn 1 each -1] + in[0 turn 1 each -1] -> "
                           "to 3 in[0 turn 1 each -1]\n"
                           "  }\n"
                           "  from 1 in[0 turn 3] + in[0 turn 3] -> out[0 turn 3], "
                           "to 3 out[0 turn 3]\n"
                           "  repeat 2 {\n"
                           "    from 1 out[0 turn 2 each -1] -> out[0 turn 2 each -1], "
                           "to 3 out[0 turn 2 each -1]\n"
                           "  }\n"
                           "  from 1 out[0] -> out[0]\n"
                           "end\n";

static const char odd[] = "choir plan 1: all_to_all_v, rank 0 of 5\n"
                          "in table 0:5 5:0 18446744073709551615:7\n"
                          "out blocks parts 6 count 3\n"
                          "tmp 9\n"
                          "instances 1\n"
                          "window 1\n"
                          "depth 2\n"
                          "slot 1\n"
                          "list 4 0 2 1 1 1 1 1 1 1 1 1\n"
                          "  7 8\n"
                          "program 0\n"
                          "program 1\n"
                          "  out[0:2 stride 3 end 5 turn 4 each 1] -> tmp[list 1:3 turn 8]\n"
                          "  repeat 7 {\n"
                          "    from 3 each -1 out[1] -> out[5]\n"
                          "    in[2] -> to 1 each 2 in[2]\n"
                          "  }\n"
                          "end\n";

static const char carried[] = "choir plan 1: gather_v, rank 0 of 3\n"
                              "in table 0:2\n"
                              "out table 0:2 0:0 0:0\n"
                              "tmp table 0:2 2:5\n"
                              "instances 1\n"
                              "window 1\n"
                              "depth 2\n"
                              "slot 9\n"
                              "program 0\n"
                              "  in[0] -> tmp[0]\n"
                              "  from 1 tmp[1] -> tmp[1]\n"
                              "  tmp[0:2] -> to 2 tmp[0:2]\n"
                              "end\n";

static void text_to_text(void)
{
    static const char *const texts[] = {ring, odd, carried};
    for (size_t i = 0; i < base_count(texts); i++) {
        struct choir_plan *plan;
        CHECK_OK(plan_parse(texts[i], &plan));
        char *again = dump(plan);
        CHECK_STR(again, texts[i]);
        free(again);
        plan_free(plan);
    }
}

static void fields(void)
{
    struct choir_plan *p;
    CHECK_OK(plan_parse(odd, &p));
    CHECK_EQ(p->kind, CHOIR_ALL_TO_ALL_V);
    CHECK_EQ(p->size, 5);
    CHECK_EQ(p->programs, 2);
    CHECK_EQ(p->begin[0], 0);
    CHECK_EQ(p->begin[1], 0);
    CHECK_EQ(p->begin[2], 3);
    CHECK_EQ(p->steps, 3);
    CHECK_EQ(p->places, 6);
    CHECK_EQ(p->lists, 14);
    CHECK_EQ(p->list[13], 8);
    CHECK_EQ(p->cut[0].how, CHOIR_TABLE);
    CHECK_EQ(p->cut[0].parts, 3);
    CHECK_EQ(p->cut[0].off[2] + 1, 0);
    CHECK_EQ(p->cut[0].len[2], 7);
    const struct choir_place *a = &p->place[p->step[0].place];
    CHECK(a->peer == -1 && a->run == 2 && a->stride == 3 && a->end == 5 && a->turn == 4);
    CHECK(a[1].list && a[1].run == 3 && a[1].first == 1 && a[1].turn == 8 && a[1].dturn == 0);
    CHECK_EQ(p->step[1].body, 2);
    CHECK_EQ(p->step[1].times, 7);
    CHECK_EQ(p->place[p->step[1].place].dpeer, 4); /* -1 modulo 5, as the builder keeps it */
    plan_free(p);
}

static void by_hand(void)
{
    /* Other line breaks, comments, negative turns. */
    struct choir_plan *p;
    CHECK_OK(plan_parse("# mine\nchoir plan 1:broadcast,rank 0 of 2 slot 5 depth 2 window 1\n"
                        "instances 1 in even parts 3 count 9 out even parts 3 count 9 quantum 1\r\n"
                        "program 0 in[0:3 turn -4]->to 1 in[0:3 turn -4] # send\n,\n out[0:3] end",
                        &p));
    CHECK_EQ(p->place[0].turn, 2);
    CHECK_EQ(p->place[0].end, 3);
    CHECK_EQ(p->step[0].outs, 2);
    CHECK_EQ(p->cut[0].quantum, 1);
    plan_free(p);
}

/* Replaces the first `old` by `new`; says where reading must fail. */
static void mistake(const char *text, const char *old, const char *new, int line, int column,
                    const char *says)
{
    char edited[4096], where[64];
    const char *at = strstr(text, old);
    CHECK(at);
    snprintf(edited, sizeof(edited), "%.*s%s%s", (int)(at - text), text, new, at + strlen(old));
    struct choir_plan *none = (void *)&edited;
    if (plan_parse(edited, &none) != CHOIR_ERR_ARGUMENT)
        FAIL("\"%s\" was accepted", new);
    CHECK(none == (void *)&edited);
    const char *error = base_error_thread()->text;
    snprintf(where, sizeof(where), "line %d, column %d:", line, column);
    if (!strstr(error, where) || !strstr(error, says))
        FAIL("\"%s\": expected %s ... %s, got: %s", new, where, says, error);
}

static void mistakes(void)
{
    mistake(ring, "choir", "", 1, 2, "expected \"choir\", found \"plan\"");
    mistake(ring, "plan 1", "plan 2", 1, 12, "version");
    mistake(ring, "all_reduce", "all_redoce", 1, 15, "\"all_redoce\" is not a collective");
    mistake(ring, "rank 2", "rank 4", 1, 37, "from 5");
    mistake(ring, "in even", "in odd", 2, 4, "even, blocks or table");
    mistake(ring, "out even", "in even", 3, 4, "twice");
    mistake(ring, "out even parts 4 count 1000 quantum 4\n", "", 8, 1, "\"out\" is missing");
    mistake(ring, "slot 16384\n", "", 8, 1, "slot is missing");
    mistake(ring, "depth 4", "depth 0", 7, 7, "whole number from 1");
    mistake(ring, "window 8", "window 8.5", 6, 8, "window is 8.5");
    mistake(ring, "window 8", "window -8", 6, 8, "window is -8");
    mistake(ring, "window 8", "window 4294967296", 6, 8, "to 4294967295");
    mistake(ring, "program 0", "program 1", 9, 9, "from 0 to 0");
    mistake(ring, "to 3 in", "to 4 in", 10, 22, "peer is 4");
    mistake(ring, "to 3 in", "to 3 tmp", 10, 27, "not by tmp");
    mistake(ring, "to 3 in", "from 3 in", 10, 19, "cannot write to \"from\"");
    mistake(ring, "-> to", "to", 10, 16, "expected \"->\"");
    mistake(ring, "turn 2]", "turn 2", 10, 15, "expected \"]\", found \"->\"");
    mistake(ring, "  repeat 2 {", "  repeat 0 {", 11, 10, "repeats is 0");
    mistake(ring, "    from 1 in", "repeat 2 { from 1 in", 12, 1, "do not nest");
    mistake(ring, "  }\n  from 1 out[0]", "  from 1 out[0]", 18, 1, "expected");
    mistake(ring, "end\n", "", 19, 1, "found the end");
    mistake(ring, "end\n", "end\nend", 20, 1, "more text");
    mistake(ring, "tmp 0", "tmp 0 \x01", 4, 7, "expected in, out, tmp");
    mistake(odd, "0:5", "0 5", 2, 12, "expected \":\"");
    mistake(odd, "18446744073709551615", "18446744073709551616", 2, 18, "offset");
    mistake(odd, "out[0:2", "out[4294967295:2", 13, 20, "exceed");
}

/* Bytes changed, dropped, doubled at random: the reader returns, whatever it is given, and leaks nothing. */
static void garbage(void)
{
    static const char alphabet[] = " \n0123456789-:,+>[]{}#.eEinouttmpx\x80";
    uint64_t seed = test_seed();
    int read = 0;
    for (int round = 0; round < 20000; round++) {
        char text[2048];
        const char *from = round % 2 ? ring : odd;
        size_t n = strlen(from);
        memcpy(text, from, n + 1);
        for (uint64_t edits = base_random(&seed) % 4 + 1; edits; edits--) {
            size_t at = base_random(&seed) % n, len = base_random(&seed) % 9 + 1;
            len = at + len > n ? n - at : len;
            switch (base_random(&seed) % 4) {
            case 0:
                text[at] = alphabet[base_random(&seed) % (sizeof(alphabet) - 1)];
                break;
            case 1:
                memmove(text + at, text + at + len, n - at - len + 1);
                n -= len;
                break;
            case 2:
                memmove(text + at + len, text + at, n - at + 1);
                n += len;
                break;
            default:
                text[n = at] = 0;
            }
            if (!n)
                break;
        }
        struct choir_plan *plan;
        if (plan_parse(text, &plan) == CHOIR_OK) {
            char *one = dump(plan), *two;
            struct choir_plan *again;
            CHECK_OK(plan_parse(one, &again));
            CHECK_STR(two = dump(again), one);
            free(one);
            free(two);
            plan_free(plan);
            plan_free(again);
            read++;
        }
    }
    CHECK_LT(0, read);
}

static char *draw(const char *const *texts, uint32_t n)
{
    struct choir_plan *plans[8];
    char *svg = NULL;
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        CHECK_OK(plan_parse(texts[i], &plans[i]));
    FILE *f = open_memstream(&svg, &bytes);
    CHECK(f);
    plan_draw((const struct choir_plan *const *)plans, n, f);
    CHECK_EQ(fclose(f), 0);
    for (uint32_t i = 0; i < n; i++)
        plan_free(plans[i]);
    return svg;
}

static int occurrences(const char *text, const char *word)
{
    int n = 0;
    for (; (text = strstr(text, word)); text += strlen(word))
        n++;
    return n;
}

static void pictures(void)
{
#define PAIR(rank, program)                                                                        \
    "choir plan 1: broadcast, rank " rank " of 2 in even parts 9 count 9 out even parts 9 "        \
    "count 9 instances 1 window 1 depth 2 slot 9 program 0 " program " end"
    static const char *const good[] = {PAIR("0", "in[0:2 stride 4 end 9] -> to 1 in[0:2 stride 4 "
                                                 "end 9] in[3:3] -> to 1 in[3:3]"),
                                       PAIR("1",
                                            "from 0 in[0:2 stride 4 end 9] -> "
                                            "out[0:2 stride 4 end 9] from 0 in[3:3] -> out[3:3]")};
    char *svg = draw(good, 2);
    CHECK_EQ(occurrences(svg, "marker-end"), 2);
    CHECK_EQ(occurrences(svg, "class='lane'"), 2);
    CHECK(strstr(svg, ">0-1,4-5,8</text>") && strstr(svg, ">3-5</text>"));
    CHECK(!strstr(svg, "waits"));
    CHECK_EQ(strncmp(svg, "<svg ", 5), 0);
    CHECK_STR(svg + strlen(svg) - 7, "</svg>\n");
    free(svg);
    static const char *const deadlock[] = {PAIR("0", "from 1 in[0] -> out[0] in[0] -> to 1 in[0]"),
                                           PAIR("1", "from 0 in[0] -> out[0] in[0] -> to 0 in[0]")};
    svg = draw(deadlock, 2);
    CHECK_EQ(occurrences(svg, "waits: step 0"), 2);
    free(svg);
}

TEST_MAIN(TEST(text_to_text), TEST(fields), TEST(by_hand), TEST(mistakes), TEST(garbage),
          TEST(pictures))
