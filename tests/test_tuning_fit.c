/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Constants of links between GPUs from timings: found again in those made of known ones, held against the simulator,
 * plausible for what machines show, refused when they are nonsense.
 */
#include "plan/tuning.h"
#include "tests/lib/test.h"
#include <math.h>

static double draw(uint64_t *seed, double from, double to) /* evenly in the logarithm */
{
    double x = (double)(base_random(seed) >> 11) / (double)(1ull << 53);
    return from * pow(to / from, x);
}

static struct plan_tuned some_constants(uint64_t *seed, uint32_t peers)
{
    const struct plan_tuned *d = &plan_tuned_default;
    double latency = draw(seed, .3, 4), link = draw(seed, .4, 6);
    return (struct plan_tuned){.alpha_ns = d->alpha_ns * latency,
                               .overhead_ns = d->overhead_ns * draw(seed, .05, 2),
                               .beta_ns = d->beta_ns * link,
                               .rank_beta_ns =
                                   d->rank_beta_ns * (peers > 1 ? draw(seed, .4, 6) : link),
                               .step_ns = d->step_ns * latency};
}

/* What is timed of a communicator. */
static uint32_t timings_of(const struct plan_tuned *c, uint32_t peers, struct tuning_timing *t)
{
    static const uint64_t bytes[] = {8 << 20, 1 << 20, 64 << 10, 8};
    uint32_t n = 0;
    for (size_t i = 0; i < base_count(bytes); i++) {
        t[n++] = (struct tuning_timing){1, bytes[i], 0};
        if (peers > 1 && i)
            t[n++] = (struct tuning_timing){peers, bytes[i], 0};
    }
    for (uint32_t i = 0; i < n; i++)
        t[i].ns = plan_tuned_predict(c, t[i].peers, t[i].bytes);
    return n;
}

/* The largest ratio of what both predict, for other sizes too. */
static double apart(const struct plan_tuned *a, const struct plan_tuned *b, uint32_t peers)
{
    double most = 1;
    for (uint64_t bytes = 8; bytes <= 8 << 20; bytes *= 3)
        for (uint32_t p = 1; p <= peers; p += base_max(peers - 1, 1u)) {
            double x = plan_tuned_predict(a, p, bytes) / plan_tuned_predict(b, p, bytes);
            most = base_max(most, base_max(x, 1 / x));
        }
    return most;
}

static void recovered(void)
{
    uint64_t seed = 17;
    for (int i = 0; i < TEST_BY_EFFORT(20, 100, 1000); i++) {
        uint32_t peers = (uint32_t[]){1, 2, 3, 7, 15}[i % 5];
        struct plan_tuned c = some_constants(&seed, peers), found;
        struct tuning_timing t[TUNING_TIMINGS];
        uint32_t n = timings_of(&c, peers, t);
        char why[160] = "";
        if (!plan_tuned_fit(t, n, &found, why, sizeof(why)))
            FAIL("%u peers: %s", peers, why);
        double off = apart(&c, &found, peers);
        if (off > 1.3)
            FAIL("%u peers: predictions are %.3f apart", peers, off);
    }
}

/* Timings up to 17 % off, each by chance, still make predictions of use. */
static void noise(void)
{
    uint64_t seed = 17;
    for (int i = 0; i < TEST_BY_EFFORT(20, 100, 1000); i++) {
        uint32_t peers = (uint32_t[]){1, 3, 7}[i % 3];
        struct plan_tuned c = some_constants(&seed, peers), found;
        struct tuning_timing t[TUNING_TIMINGS];
        uint32_t n = timings_of(&c, peers, t);
        char why[160] = "";
        for (uint32_t k = 0; k < n; k++)
            t[k].ns *= draw(&seed, .85, 1.18);
        if (!plan_tuned_fit(t, n, &found, why, sizeof(why)))
            FAIL("%u peers: %s", peers, why);
        double off = apart(&c, &found, peers);
        if (off > 2)
            FAIL("%u peers: predictions are %.3f apart", peers, off);
    }
}

/* What machines show, or would: each form has a rate of its own, which the model has not. */
static void likely(void)
{
    static const struct {
        const char *machine;
        uint32_t timings;
        struct tuning_timing t[TUNING_TIMINGS];
    } row[] = {{"two on NVLink, in graphs", /* perf/NOTES.md */
                4,
                {{1, 8 << 20, 36000}, {1, 1 << 20, 8200}, {1, 64 << 10, 3300}, {1, 8, 2600}}},
               {"two on NVLink, on a stream",
                4,
                {{1, 8 << 20, 37500}, {1, 1 << 20, 9800}, {1, 64 << 10, 4800}, {1, 8, 4100}}},
               {"two on PCIe 4.0",
                4,
                {{1, 8 << 20, 420000}, {1, 1 << 20, 58000}, {1, 64 << 10, 9500}, {1, 8, 5000}}},
               {"eight behind switches",
                7,
                {{1, 8 << 20, 36000},
                 {7, 1 << 20, 27000},
                 {1, 1 << 20, 8200},
                 {7, 64 << 10, 6500},
                 {1, 64 << 10, 3400},
                 {7, 8, 3600},
                 {1, 8, 2700}}},
               {"four on PCIe 3.0",
                7,
                {{1, 8 << 20, 800000},
                 {3, 1 << 20, 330000},
                 {1, 1 << 20, 105000},
                 {3, 64 << 10, 42000},
                 {1, 64 << 10, 14000},
                 {3, 8, 6500},
                 {1, 8, 5500}}}};
    for (size_t i = 0; i < base_count(row); i++) {
        struct plan_tuned c;
        char why[160] = "", words[200];
        if (!plan_tuned_fit(row[i].t, row[i].timings, &c, why, sizeof(why)))
            FAIL("%s: %s", row[i].machine, why);
        plan_tuned_words(&c, words, sizeof(words));
        for (uint32_t k = 0; k < row[i].timings; k++) {
            const struct tuning_timing *t = &row[i].t[k];
            double off = plan_tuned_predict(&c, t->peers, t->bytes) / t->ns;
            if (off > 1.5 || off < 1 / 1.5)
                FAIL("%s: %s: timing %u is predicted %.2f times as long", row[i].machine, words, k,
                     off);
        }
    }
}

static void nonsense(void)
{
    struct tuning_timing usual[TUNING_TIMINGS];
    uint32_t n = timings_of(&plan_tuned_default, 1, usual);
    const double factor[] = {0, -1, NAN, INFINITY, 1e-6, 50, 1e5};
    for (uint32_t i = 0; i < base_count(factor); i++)
        for (uint32_t k = 0; k <= n; k++) { /* one of them; all */
            struct tuning_timing t[TUNING_TIMINGS];
            struct plan_tuned c = {.alpha_ns = 1};
            char why[160] = "";
            memcpy(t, usual, sizeof(t));
            for (uint32_t j = 0; j < n; j++)
                t[j].ns *= k == n || k == j ? factor[i] : 1;
            if (plan_tuned_fit(t, n, &c, why, sizeof(why)))
                FAIL("timing %u times %g is believed", k, factor[i]);
            CHECK(*why);
            CHECK(c.alpha_ns == 1); /* nothing is written then */
        }
}

/* The formula is the simulator's price of the same messages, nearly. */
static void simulator(void)
{
    uint64_t seed = 1;
    for (int i = 0; i < TEST_BY_EFFORT(10, 30, 200); i++) {
        uint32_t peers = (uint32_t[]){1, 3, 7}[i % 3];
        struct plan_tuned tuned = some_constants(&seed, peers);
        struct choir_layout *l = plan_layout_regular(1, peers + 1);
        struct plan_cluster c;
        CHECK(l);
        plan_cluster_default(&c, l);
        plan_cluster_gpus(&c, &tuned);
        c.combine_ns = c.copy_ns = 0; /* no part of an exchange */
        plan_cluster_rehash(&c);
        for (uint64_t bytes = 8; bytes <= 8 << 20; bytes *= 8) {
            struct choir_shape s;
            struct plan_price p;
            plan_shape_init(&s, CHOIR_ALL_REDUCE, 0, peers + 1, bytes / 4, l);
            s.slot_bytes = 65536, s.window = 128;
            CHECK_OK(plan_simulate("one_shot", &s, &c, &p));
            double want = plan_tuned_predict(&tuned, peers, bytes);
            if (p.time_ns / want > 1.6 || want / p.time_ns > 1.6)
                FAIL("%u peers, %llu bytes: %.0f ns simulated, %.0f predicted", peers,
                     (unsigned long long)bytes, p.time_ns, want);
        }
        plan_layout_free(l);
    }
}

TEST_MAIN(TEST(recovered), TEST(noise), TEST(likely), TEST(nonsense), TEST(simulator))
