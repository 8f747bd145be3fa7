/* SPDX-License-Identifier: Apache-2.0 */
/* The perf driver without communication: flags, byte counts, reference data, JSON, traffic matrices. */
#include "tests/lib/test.h"
#include "perf/lib/perf.h"
#include "perf/lib/traffic.h"
#include "reduce/reduce.h"
#include <fcntl.h>
#include <unistd.h>

#define PARSE(args, ...)                                                                           \
    perf_args_parse(args, (int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)),                 \
                    (char *[]){__VA_ARGS__, NULL})

static void sizes(void)
{
    static const struct {
        const char *text;
        uint64_t bytes;
        bool good;
    } cases[] = {{"8", 8, true},           {"4K", 4096, true}, {"1.5M", 3u << 19, true},
                 {"2g", 2ull << 30, true}, {"0", 0, true},     {"", 0, false},
                 {"-1", 0, false},         {"4KB", 0, false},  {"x", 0, false},
                 {"1e30", 0, false},       {"nan", 0, false},  {"9999999T", 0, false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t b = 77;
        if (perf_size_parse(cases[i].text, &b) != cases[i].good)
            FAIL("\"%s\" is %s", cases[i].text, cases[i].good ? "refused" : "accepted");
        CHECK_EQ(b, cases[i].good ? cases[i].bytes : 77);
    }
}

static void flags(void)
{
    struct perf_args a;
    CHECK_EQ(PARSE(&a, "p", "-b", "8", "-e", "64M", "-f", "2", "-n", "5", "-w", "3", "-m", "2",
                   "-c", "0", "-d", "bfloat16", "-o", "max", "-r", "2", "-t", "3", "-g", "2", "-a",
                   "3", "-z", "1"),
             0);
    CHECK_EQ(a.min_bytes, 8);
    CHECK_EQ(a.max_bytes, 64 << 20);
    CHECK_EQ(a.factor, 2);
    CHECK_EQ(a.type, CHOIR_BFLOAT16);
    CHECK_EQ(a.op, CHOIR_MAX);
    CHECK_EQ(a.threads * 10 + a.per_thread, 32);
    CHECK_EQ(a.root * 100 + a.average * 10 + a.blocking, 231);
    CHECK_EQ(PARSE(&a, "p"), 0);
    CHECK_EQ(a.min_bytes, 32 << 20); /* nccl-tests' defaults */
    CHECK_EQ(a.iters * 100 + a.warmup * 10 + a.check, 2011);
    CHECK_EQ(PARSE(&a, "p", "-d", "all", "-o", "all", "-r", "all", "--minbytes=4", "--json", "x"),
             0);
    CHECK(a.type == PERF_ALL && a.op == PERF_ALL && a.root == -1 && !a.json_keep);
    CHECK_EQ(PARSE(&a, "p", "-G", "1", "-D", "0", "-J", "x"), 0); /* accepted, without effect */
    CHECK(a.json_keep);
    CHECK_EQ(a.graphs, 0);
    CHECK_EQ(PARSE(&a, "p", "--memory", "host"), 0);
    CHECK(!a.cuda && !a.peak);
}

static void gpu_flags(void)
{
    struct perf_args a;
    CHECK_EQ(PARSE(&a, "p", "--memory", "cuda", "-M", "1", "-n", "5", "-G", "3"), 0);
    CHECK(a.cuda && a.memory_report && a.graphs == 3);
    CHECK_EQ(perf_samples(&a), 3);
    CHECK_EQ((int)perf_timed(&a), 15);
    CHECK_EQ(PARSE(&a, "p", "--memory", "cuda", "-G", "3", "-K", "3"), 3);
    CHECK_EQ(PARSE(&a, "p", "--memory", "cuda", "-n", "5", "-K", "3"), 0);
    CHECK_EQ(PARSE(&a, "p", "--memory", "cuda", "--vs", "nccl:default,zero", "--local", "2"), 0);
    CHECK(a.peak);
    CHECK_EQ(PARSE(&a, "p", "--vs", "nccl"), 3); /* on host memory */
    CHECK_EQ(PARSE(&a, "p", "--memory", "cuda", "--vs", "ncclx"), 3);
    CHECK_EQ(PARSE(&a, "p", "--memory", "cuda", "--choir-memory"), 3);
    CHECK_EQ(PARSE(&a, "p", "--memory", "cuda", "-y", "0"), 3);
}

static void bad_flags(void)
{
    struct perf_args a;
    CHECK_EQ(PARSE(&a, "p", "-b", "9", "-e", "8"), 3);
    CHECK_EQ(PARSE(&a, "p", "-i", "0", "-b", "1"), 3);
    CHECK_EQ(PARSE(&a, "p", "-n", "0"), 3);
    CHECK_EQ(PARSE(&a, "p", "-n", "x"), 3);
    CHECK_EQ(PARSE(&a, "p", "-n", "99999999999999999999"), 3);
    CHECK_EQ(PARSE(&a, "p", "-d", "complex"), 3);
    CHECK_EQ(PARSE(&a, "p", "-o", "plus"), 3);
    CHECK_EQ(PARSE(&a, "p", "-a", "4"), 3);
    CHECK_EQ(PARSE(&a, "p", "-T", "soon"), 3);
    CHECK_EQ(PARSE(&a, "p", "--memory", "disk"), 3);
    CHECK_EQ(PARSE(&a, "p", "--vs", "mpi"), 3); /* not built with one */
    CHECK_EQ(PARSE(&a, "p", "--vs", "x"), 3);
    CHECK_EQ(PARSE(&a, "p", "--nonsense"), 3);
    CHECK_EQ(PARSE(&a, "p", "stray"), 3);
    CHECK_EQ(PARSE(&a, "p", "-K", "20"), 3);
    CHECK_EQ(PARSE(&a, "p", "--local", "0"), 3);
}

/* The reduction by the library's own kernels of all ranks' data is what the reference says. */
static void kernels_agree(void)
{
    static const uint32_t ranks[] = {1, 2, 3, 5, 8, 13, 64, 300};
    enum { COUNT = 331 };
    for (size_t n = 0; n < sizeof(ranks) / sizeof(ranks[0]); n++)
        for (size_t t = 0; t < perf_type_count; t++)
            for (size_t o = 0; o < perf_op_count; o++) {
                struct perf_pattern p = {perf_types[t], perf_ops[o], ranks[n], test_seed()};
                if (!perf_op_defined(p.op, p.type) || p.op == PERF_SCALED)
                    continue;
                static uint64_t in[300][COUNT], out[COUNT];
                const void *src[300];
                for (uint32_t r = 0; r < p.ranks; r++) {
                    perf_fill(&p, in[r], r, 17, COUNT);
                    src[r] = in[r];
                }
                if (p.ranks > 1)
                    reduce_pick(p.type, p.op)(out, src, p.ranks, COUNT, 0);
                else
                    memcpy(out, in[0], sizeof(out));
                if (p.op == CHOIR_AVG)
                    reduce_divide(p.type, out, COUNT, p.ranks);
                uint64_t wrong = perf_wrong_reduced(&p, out, 17, COUNT);
                if (wrong)
                    FAIL("%s of %s, %u ranks: %" PRIu64 " wrong", perf_op_name(p.op),
                         perf_type_name(p.type), p.ranks, wrong);
            }
}

static void counts_wrong_elements(void)
{
    enum { COUNT = 200000 }; /* several periods of the pattern */
    for (size_t t = 0; t < perf_type_count; t++) {
        struct perf_pattern p = {perf_types[t], PERF_NO_OP, 4, test_seed()};
        size_t width = choir_type_bytes(p.type);
        unsigned char *data = malloc(COUNT * width);
        CHECK(data != NULL);
        perf_fill(&p, data, 2, 12345, COUNT);
        CHECK_EQ(perf_wrong(&p, data, 2, 12345, COUNT), 0);
        CHECK_LT(COUNT / 2, perf_wrong(&p, data, 1, 12345, COUNT)); /* another rank's data */
        CHECK_LT(COUNT / 2, perf_wrong(&p, data, 2, 12346, COUNT)); /* shifted by one */
        data[0] ^= 1;
        data[(COUNT - 1) * width] ^= 1;
        data[70000 * width + width - 1] ^= 0x10;
        CHECK_EQ(perf_wrong(&p, data, 2, 12345, COUNT), 3);
        perf_poison(data, 100 * width);
        CHECK_EQ(perf_wrong_poison(data, 100, (uint32_t)width), 0);
        data[50 * width] = 0;
        CHECK_EQ(perf_wrong_poison(data, 100, (uint32_t)width), 1);
        free(data);
    }
}

/* A part of a sequence equals the same part filled alone: blocks of collectives rely on it. */
static void parts_of_sequences(void)
{
    struct perf_pattern p = {CHOIR_INT32, CHOIR_SUM, 3, 5};
    static int32_t whole[150000], part[1000];
    perf_fill(&p, whole, 1, 0, 150000);
    perf_fill(&p, part, 1, 140000, 1000);
    CHECK(!memcmp(whole + 140000, part, sizeof(part)));
}

static void numbers(void)
{
    char text[32];
    CHECK_STR(perf_number(text, sizeof(text), 0.214, 7), "   0.21");
    CHECK_STR(perf_number(text, sizeof(text), 12345.678, 7), "12345.7");
    CHECK_STR(perf_number(text, sizeof(text), 1234567.8, 7), "1234568");
    CHECK_STR(perf_number(text, sizeof(text), 123456789, 7), "1.2e+08");
    CHECK_STR(perf_number(text, sizeof(text), 0.0 / 0.0, 6), "   N/A");
}

static void json(void)
{
    char path[300], got[256] = "";
    test_path(path, sizeof(path), "json");
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK_LE(0, fd);
    const char *actual;
    struct perf_json *j = perf_json_open(path, false, &actual);
    CHECK(j != NULL);
    perf_json_text(j, "a", "q\"\\\n\xc3");
    perf_json_list(j, "l");
    perf_json_int(j, NULL, -3);
    perf_json_real(j, NULL, 0.0 / 0.0);
    CHECK(perf_json_close(j));
    CHECK_LT(0, read(fd, got, sizeof(got) - 1));
    CHECK_STR(got, "{\n \"a\": \"q\\\"\\\\\\u000a\\u00c3\",\n \"l\": [-3, null]\n}\n");
    j = perf_json_open(path, true, &actual); /* kept: another name is taken */
    CHECK(j != NULL && strcmp(actual, path));
    CHECK(perf_json_close(j));
    close(fd);
    CHECK(!perf_json_open("/nonexistent/x", false, &actual));
}

static void matrices(void)
{
    struct traffic t = {.spread = 1, .scale = 1};
    char why[128];
    CHECK(traffic_parse(&t, "100 200 150\n\n50 100 75\n300 150 200", why, sizeof(why)));
    CHECK_EQ(traffic_count(&t, 0, 1, 3, 0, 4), 192 / 4); /* rounded down to 16 bytes */
    CHECK_EQ(traffic_received(&t, 0, 3, 0, 1), 96 + 48 + 288);
    traffic_free(&t);
    static const char *const bad[] = {
        "",          "\n \n",        "1 2\n3",     "1 2\n3 4\n5 6", "1 2\n3 x",
        "1 -2\n3 4", "1 2 3\n4 5 6", "1 2\n3 4 5", "1 1e30\n2 3",   "nan"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (traffic_parse(&t, bad[i], why, sizeof(why)))
            FAIL("accepted matrix %zu", i);
        CHECK(!t.bytes && why[0]);
    }
    /* by distance: nothing to itself, rows and columns have the same sum */
    CHECK_EQ(traffic_count(&t, 2, 2, 5, 1000000, 1), 0);
    for (uint32_t r = 0; r < 5; r++)
        CHECK_EQ(traffic_sent(&t, r, 5, 1000000, 1), traffic_received(&t, 4 - r, 5, 1000000, 1));
    t.spread = 0;
    CHECK_EQ(traffic_count(&t, 2, 2, 5, 1000000, 1), 200000);
}

TEST_MAIN(TEST(sizes), TEST(flags), TEST(gpu_flags), TEST(bad_flags), TEST(kernels_agree),
          TEST(counts_wrong_elements), TEST(parts_of_sequences), TEST(numbers), TEST(json),
          TEST(matrices))
