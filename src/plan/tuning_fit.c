/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tuning_fit.c: constants of GPU links from timings of exchanges: those with which the simulator's price of the exchanges comes
 * nearest. Kernels send words, lines or fragments by a message's length, each at a rate of its own; the simulator knows one,
 * so there is no exact answer: errors count as ratios, and no size more than another.
 *
 * What timings with one peer do not tell stays as it is built in: the ratio of alpha and steps, and that of what bytes cost
 * on the link and through a rank.
 */
#include "plan/tuning.h"
#include <math.h>
#include <string.h>

#define SLOT_BYTES 65536u /* of a fragment, and how many the simulator plays of a message */
#define FRAGMENTS 8u
#define MISFIT 2.0   /* a timing may be so many times what is predicted for it, or as much less */
#define PULL 1e-4    /* towards the built-in constants, against errors squared */
#define NEAREST 1e-3 /* of logarithms: where the search ends */
#define STEPS 400u   /* or here */
#define TOO_LONG_NS 1e9

/* So many times less or more than built in may a constant be. A message of many fragments may cost next to nothing for each,
 * up to 128 blocks take them at the same time; and where the built-in ones are of NVLink, PCIe 3.0 moves 12 GB/s. */
static const struct {
    const char *name;
    size_t offset;
    double less, more;
} limit[] = {{"alpha", offsetof(struct plan_tuned, alpha_ns), 10, 10},
             {"overhead", offsetof(struct plan_tuned, overhead_ns), 100, 10},
             {"beta", offsetof(struct plan_tuned, beta_ns), 10, 30},
             {"rank_beta", offsetof(struct plan_tuned, rank_beta_ns), 10, 10},
             {"step", offsetof(struct plan_tuned, step_ns), 10, 10}};
#define EDGE 1.001 /* of a limit, for numbers that were rounded */

static double field_of(const struct plan_tuned *c, size_t i)
{
    return *(const double *)(const void *)((const char *)c + limit[i].offset);
}

/* The first constant that is not to be believed, or how many there are; edge: so far beyond a limit it is still. */
static size_t beyond(const struct plan_tuned *c, double edge)
{
    size_t i = 0;
    for (; i < base_count(limit); i++) {
        double v = field_of(c, i), usual = field_of(&plan_tuned_default, i);
        double most = usual * limit[i].more;
        if (limit[i].offset == offsetof(struct plan_tuned, rank_beta_ns))
            most = base_max(most, c->beta_ns); /* all links of a rank may be one */
        if (!(v >= usual / limit[i].less / edge && v <= most * edge))
            break;
    }
    return i;
}

bool plan_tuned_sane(const struct plan_tuned *c, char *why, size_t bytes)
{
    size_t i = beyond(c, EDGE);
    char number[2][TUNING_NUMBER];
    if (i == base_count(limit))
        return true;
    plan_tuning_number(field_of(c, i), number[0]);
    plan_tuning_number(field_of(&plan_tuned_default, i), number[1]);
    snprintf(why, bytes, "%s %s is too far from %s to be believed", limit[i].name, number[0],
             number[1]);
    return false;
}

/*
 * Every rank posts a message to each peer, a step each, and takes one of each in one more: for each fragment the overhead and
 * the bytes through the rank at either end. Either that is what takes long, and the last fragment's way over the link comes
 * after it, or the link is, and the rank's work for the first and the last fragment comes before and after.
 */
double plan_tuned_predict(const struct plan_tuned *c, uint32_t peers, uint64_t bytes)
{
    double b = (double)bytes, slots = ceil(base_max(b, 1) / SLOT_BYTES);
    double fragments = base_min(slots, FRAGMENTS), fixed = (peers + 1) * c->step_ns + c->alpha_ns;
    double work = 2 * (slots * c->overhead_ns + b * c->rank_beta_ns);
    double of_rank = fixed + peers * work + c->beta_ns * b / fragments;
    double of_link = fixed + work / fragments + c->beta_ns * b;
    return base_max(of_rank, of_link);
}

/* --- the search ------------------------------------------------------------------------------------- */

enum {
    LATENCY,
    OVERHEAD,
    LINK,
    STEP,
    RANK,
    UNKNOWNS
}; /* logarithms of multiples of the built-in */

struct timings {
    const struct tuning_timing *is;
    uint32_t count;
    bool one_peer; /* in all of them */
};

static struct plan_tuned constants(const struct timings *t, const double x[UNKNOWNS])
{
    const struct plan_tuned *d = &plan_tuned_default;
    return (struct plan_tuned){.alpha_ns = d->alpha_ns * exp(x[LATENCY]),
                               .overhead_ns = d->overhead_ns * exp(x[OVERHEAD]),
                               .beta_ns = d->beta_ns * exp(x[LINK]),
                               .rank_beta_ns = d->rank_beta_ns * exp(x[t->one_peer ? LINK : RANK]),
                               .step_ns = d->step_ns * exp(x[t->one_peer ? LATENCY : STEP])};
}

/* HUGE_VAL: such constants are not to be believed. */
static double error_of(const struct timings *t, const double x[UNKNOWNS])
{
    struct plan_tuned c = constants(t, x);
    double sum = 0;
    if (beyond(&c, 1) < base_count(limit))
        return HUGE_VAL;
    for (uint32_t i = 0; i < t->count; i++) {
        double e = log(plan_tuned_predict(&c, t->is[i].peers, t->is[i].bytes) / t->is[i].ns);
        sum += e * e;
    }
    for (int k = 0; k < UNKNOWNS; k++)
        sum += PULL * x[k] * x[k];
    return sum;
}

/* One or two of the unknowns by so much more or less: the best of all such neighbours, if it is better. */
static double step(const struct timings *t, double x[UNKNOWNS], double far, double least)
{
    static const double sign[] = {-1, 0, 1};
    double best[UNKNOWNS];
    memcpy(best, x, sizeof(best));
    for (int i = 0; i < UNKNOWNS; i++)
        for (int k = i + 1; k < UNKNOWNS; k++)
            for (int n = 0; n < 9; n++) {
                double y[UNKNOWNS];
                memcpy(y, x, sizeof(y));
                y[i] += far * sign[n / 3];
                y[k] += far * sign[n % 3];
                double e = error_of(t, y);
                if (e < least) {
                    least = e;
                    memcpy(best, y, sizeof(best));
                }
            }
    memcpy(x, best, sizeof(best));
    return least;
}

static double search(const struct timings *t, double x[UNKNOWNS])
{
    double least = error_of(t, x), far = .7;
    for (uint32_t n = 0; n < STEPS && far > NEAREST; n++) {
        double e = step(t, x, far, least);
        if (!(e < least))
            far /= 2;
        least = e;
    }
    return least;
}

static bool usable(const struct tuning_timing *t, uint32_t timings, char *why, size_t bytes)
{
    for (uint32_t i = 0; i < timings; i++)
        if (!(t[i].ns > 0) || !(t[i].ns < TOO_LONG_NS)) {
            snprintf(why, bytes, "an exchange took no time that a link may take");
            return false;
        }
    return true;
}

/* The model is coarse, but not as coarse as what a busy GPU makes of timings, or links that no believable constants are of. */
static bool fits(const struct tuning_timing *t, uint32_t timings, const struct plan_tuned *c,
                 char *why, size_t bytes)
{
    for (uint32_t i = 0; i < timings; i++) {
        double off = t[i].ns / plan_tuned_predict(c, t[i].peers, t[i].bytes);
        if (off < MISFIT && off > 1 / MISFIT)
            continue;
        snprintf(why, bytes, "no constants fit: %llu bytes each way, %u peers: %.0f ns, not %.0f",
                 (unsigned long long)t[i].bytes, t[i].peers, t[i].ns,
                 plan_tuned_predict(c, t[i].peers, t[i].bytes));
        return false;
    }
    return true;
}

bool plan_tuned_fit(const struct tuning_timing *timing, uint32_t timings, struct plan_tuned *c,
                    char *why, size_t bytes)
{
    struct timings t = {timing, timings, true};
    /* What takes long, the rank's work or the link: each is begun with, as the search may not come from one to the other. */
    static const double begin[][UNKNOWNS] = {
        {0}, {[OVERHEAD] = -3}, {[RANK] = 1.2}, {[OVERHEAD] = -3, [RANK] = 1.2}};
    double best[UNKNOWNS], least = HUGE_VAL;
    if (!usable(timing, timings, why, bytes))
        return false;
    for (uint32_t i = 0; i < timings; i++)
        t.one_peer &= timing[i].peers == 1;
    for (size_t i = 0; i < base_count(begin); i++) {
        double x[UNKNOWNS];
        memcpy(x, begin[i], sizeof(x));
        double e = search(&t, x);
        if (e < least) {
            least = e;
            memcpy(best, x, sizeof(best));
        }
    }
    struct plan_tuned found = constants(&t, best);
    if (!fits(timing, timings, &found, why, bytes))
        return false;
    *c = found;
    return true;
}
