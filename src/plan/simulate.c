/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simulate.c: what a collective costs on a cluster.
 *
 * Plans are played (simulate_run.c) in full where that is cheap. Where it is not: instances beyond a few
 * windows and iterations beyond a few rounds of a host repeat, so their number is played at two values and
 * carried on linearly; ranks that do the same, moved, are played by representatives; and where ranks differ
 * (trees), the cluster is played at three smaller sizes and its growth carried on. The last two are said in
 * plan_price.sampled.
 */
#include "plan/simulate.h"
#include <stdlib.h>
#include <string.h>

enum {
    FRAGMENTS =
        8, /* of a message, at most: what is left out of its pipelining is below 1/8 of its time */
    ALWAYS_FULL = 16, /* ranks */
    MOST_FULL = 4096,
    LONGER = 32,      /* budgets, where nothing but playing in full is left */
    LEAST_ROUND = 8,  /* iterations */
    LEAST_SHRUNK = 8, /* ranks */
};
#define MOST_FULL_BYTES (256ull << 20) /* of plans */

/* --- plans of several ranks --------------------------------------------------------------------- */

static void free_plans(struct choir_plan **plans, uint32_t n)
{
    for (uint32_t r = 0; plans && r < n; r++)
        plan_free(plans[r]);
    free(plans);
}

static enum choir_status build_rank(const char *algorithm, const struct choir_shape *shape,
                                    uint32_t rank, struct choir_plan **plan)
{
    struct choir_shape s = *shape;
    s.rank = rank;
    return plan_build(algorithm, &s, plan);
}

static enum choir_status build_plans(const char *algorithm, const struct choir_shape *shape,
                                     uint32_t n, struct choir_plan ***plans)
{
    struct choir_plan **p = calloc(n, sizeof(*p));
    if (!p)
        return base_fail(CHOIR_ERR_NO_MEMORY, "price a smaller job", "no memory for %u plans", n);
    for (uint32_t r = 0; r < n; r++) {
        enum choir_status status = build_rank(algorithm, shape, r, &p[r]);
        if (status != CHOIR_OK) {
            free_plans(p, n);
            return status;
        }
    }
    *plans = p;
    return CHOIR_OK;
}

static void set_price(struct plan_price *price, const struct sim_result *r, uint64_t factor)
{
    *price = (struct plan_price){.time_ns = (double)r->time_ps / 1000,
                                 .messages = (uint64_t)r->messages * factor,
                                 .critical_rank = r->critical};
    for (unsigned l = 0; l < PLAN_LINKS; l++)
        price->bytes[l] = (uint64_t)r->bytes[l] * factor;
}

static enum choir_status waits_for_ever(const struct sim_result *r)
{
    return base_fail(CHOIR_ERR_ARGUMENT, "choir-plan --verify shows what is wrong",
                     "the plans wait for each other for ever: rank %u at step %u", r->stuck_rank,
                     r->stuck_step);
}

static enum choir_status price_plans(struct sim_job *job, struct sim_how *how,
                                     struct plan_price *price)
{
    struct sim_result r;
    job->fragments = FRAGMENTS;
    job->bound_ps = (uint64_t)(how->bound_ns * 1000);
    enum choir_status status = sim_run_repeats(job, sim_repeat_instances(job->plans[0]),
                                               (struct sim_repeat){0, 1, 0}, 0, &r);
    if (status == CHOIR_ERR_STATE)
        return waits_for_ever(&r);
    if (status == CHOIR_OK) {
        how->beyond = r.beyond;
        set_price(price, &r, 1);
    }
    return status;
}

static enum choir_status price_full(const char *algorithm, const struct choir_shape *shape,
                                    const struct plan_cluster *cluster, struct sim_how *how,
                                    struct plan_price *price)
{
    struct choir_plan **plans = NULL;
    enum choir_status status = build_plans(algorithm, shape, shape->ranks, &plans);
    if (status != CHOIR_OK)
        return status;
    struct sim_job job = {.plans = (const struct choir_plan *const *)plans,
                          .reps = shape->ranks,
                          .ranks = shape->ranks,
                          .group = SIM_EACH,
                          .elem = shape->type_bytes,
                          .cluster = cluster,
                          .layout = shape->layout};
    status = price_plans(&job, how, price);
    free_plans(plans, shape->ranks);
    return status;
}

/* --- representatives ---------------------------------------------------------------------------- */

/* Looks at ranks far and near: are they what the representatives become when moved? */
static bool stand_for_all(const char *algorithm, const struct choir_shape *shape,
                          struct choir_plan **plans, uint32_t reps, enum sim_group group)
{
    uint32_t blocks = shape->ranks / reps;
    const uint32_t look[] = {1, blocks - 1, blocks / 2, blocks / 3, 2};
    /* Building a plan takes time in proportion to the ranks: the more there are, the fewer are looked at. */
    size_t looks = shape->ranks > 1u << 16 ? 3 : base_count(look);
    for (size_t i = 0; i < looks; i++) {
        uint32_t r = (uint32_t)(i * 3 + 1) % reps;
        struct choir_plan *other;
        if (look[i] >= blocks || !look[i])
            continue;
        if (build_rank(algorithm, shape, look[i] * reps + r, &other) != CHOIR_OK)
            return false;
        bool same = sim_same_plan(plans[r], other, group);
        plan_free(other);
        if (!same)
            return false;
    }
    return true;
}

static enum choir_status play_reps(struct sim_job *job, struct sim_how *how,
                                   struct plan_price *price)
{
    struct sim_result r;
    uint32_t longest;
    struct sim_repeat in = sim_repeat_instances(job->plans[0]);
    uint64_t events = sim_events(job->plans[0], FRAGMENTS, &longest) * job->reps;
    uint32_t round = job->reps;
    while (round < LEAST_ROUND)
        round += job->reps;
    /* Hops between ranks of a host and between hosts repeat after as many iterations as a host has ranks. */
    struct sim_repeat loop = sim_repeat_of(longest, round, 3);
    if (longest <= 4 * round || events * in.high <= how->budget)
        loop = (struct sim_repeat){longest, 1, 0};
    job->fragments = FRAGMENTS;
    job->bound_ps = (uint64_t)(how->bound_ns * 1000);
    enum choir_status status = sim_run_repeats(job, in, loop, longest, &r);
    /* What a loop sends may be received without one, so that it cannot be shortened. */
    if (status == CHOIR_ERR_STATE && loop.times && events * in.high <= LONGER * how->budget)
        status = sim_run_repeats(job, in, (struct sim_repeat){longest, 1, 0}, longest, &r);
    if (status != CHOIR_OK)
        return status;
    how->beyond = r.beyond;
    set_price(price, &r, job->ranks / job->reps);
    price->sampled = true;
    return CHOIR_OK;
}

/* Has every rank a block as long as the others'? */
static bool even_blocks(const struct choir_shape *s)
{
    const uint64_t *count = plan_shape_counts(s);
    for (uint32_t r = 1; count && r < s->ranks; r++)
        if (count[r] != count[0])
            return false;
    return true;
}

/* CHOIR_ERR_STATE: ranks don't stand for each other. */
static enum choir_status price_group(const char *algorithm, const struct choir_shape *shape,
                                     const struct plan_cluster *cluster, struct sim_how *how,
                                     const struct choir_plan *first, enum sim_group group,
                                     struct plan_price *price)
{
    struct choir_plan **plans = NULL, *next;
    uint32_t reps;
    if (!even_blocks(shape) || !sim_layout_symmetry(shape->layout, group, &reps) ||
        reps >= shape->ranks)
        return CHOIR_ERR_STATE;
    /* One look at the next block's first rank spares most of the work where there is no symmetry. */
    enum choir_status status = build_rank(algorithm, shape, reps, &next);
    if (status != CHOIR_OK)
        return status;
    bool alike = sim_same_plan(first, next, group);
    plan_free(next);
    status = alike ? build_plans(algorithm, shape, reps, &plans) : CHOIR_ERR_STATE;
    if (status != CHOIR_OK)
        return status;
    struct sim_job job = {.plans = (const struct choir_plan *const *)plans,
                          .reps = reps,
                          .ranks = shape->ranks,
                          .group = group,
                          .elem = shape->type_bytes,
                          .cluster = cluster,
                          .layout = shape->layout};
    status = stand_for_all(algorithm, shape, plans, reps, group) ? play_reps(&job, how, price)
                                                                 : CHOIR_ERR_STATE;
    free_plans(plans, reps);
    return status;
}

static enum choir_status price_reps(const char *algorithm, const struct choir_shape *shape,
                                    const struct plan_cluster *cluster, struct sim_how *how,
                                    const struct choir_plan *first, struct plan_price *price)
{
    enum choir_status status = price_group(algorithm, shape, cluster, how, first, SIM_SHIFT, price);
    if (status == CHOIR_ERR_STATE)
        status = price_group(algorithm, shape, cluster, how, first, SIM_XOR, price);
    return status;
}

/* --- growth ------------------------------------------------------------------------------------- */

/* v at sizes n/4, n/2 and n, carried on by k doublings: in proportion to n where that is known (`linear`)
 * or plain to see, else with its logarithm. Anything finer would carry the noise of three points on. */
static double grow(const double v[3], uint32_t k, bool linear)
{
    double step = v[2] - v[1], before = v[1] - v[0], sum = v[2];
    linear |= step > 1.6 * before && v[2] > 1.3 * v[1] && v[1] > 1.3 * v[0];
    if (!linear)
        step = (v[2] - v[0]) / 2;
    for (; step > 0 && k; k--) {
        step = linear ? step * 2 : step;
        sum = sum + step;
    }
    return sum;
}

static enum choir_status price_smaller(const char *algorithm, const struct choir_shape *shape,
                                       const struct plan_cluster *cluster, struct sim_how *how,
                                       uint32_t k, struct plan_price *price)
{
    struct choir_shape s = *shape;
    struct plan_cluster c = *cluster;
    const uint64_t *all = plan_shape_counts(shape);
    uint64_t *count = all ? plan_shape_even(&s) : NULL;
    if (all && !count)
        return CHOIR_ERR_NO_MEMORY;
    if (all)
        memcpy(count, all, shape->ranks * sizeof(*count));
    struct choir_layout *layout = sim_layout_shrink(shape->layout, k, &s.root, count);
    if (!layout) {
        free(count);
        return CHOIR_ERR_NO_MEMORY;
    }
    s.layout = c.layout = layout;
    s.ranks = layout->ranks;
    struct sim_how full = {.mode = SIM_FULL, .bound_ns = how->bound_ns};
    enum choir_status status = price_full(algorithm, &s, &c, &full, price);
    how->beyond |= full.beyond;
    plan_layout_free(layout);
    free(count);
    return status;
}

static enum choir_status price_shrunk(const char *algorithm, const struct choir_shape *shape,
                                      const struct plan_cluster *cluster, struct sim_how *how,
                                      uint64_t events, uint32_t longest, struct plan_price *price)
{
    struct plan_price at[3];
    uint32_t k = 1;
    double v[3];
    bool linear = longest >= shape->ranks / 2;
    while (shape->ranks >> (k + 3) >= LEAST_SHRUNK &&
           (shape->ranks >> k > MOST_FULL ||
            (shape->ranks >> k) * (linear ? events >> k : events) > how->budget))
        k++;
    how->beyond = false;
    for (uint32_t i = 0; i < 3; i++) {
        enum choir_status status = price_smaller(algorithm, shape, cluster, how, k + 2 - i, &at[i]);
        if (status != CHOIR_OK)
            return status;
        *price = at[i];
        price->sampled = true;
        if (how->beyond)
            return CHOIR_OK;
    }
#define GROW(field)                                                                                \
    (v[0] = (double)at[0].field, v[1] = (double)at[1].field, v[2] = (double)at[2].field,           \
     grow(v, k, false))
    GROW(time_ns);
    price->time_ns = grow(v, k, linear);
    price->messages = (uint64_t)GROW(messages);
    for (unsigned l = 0; l < PLAN_LINKS; l++)
        price->bytes[l] = (uint64_t)GROW(bytes[l]);
#undef GROW
    return CHOIR_OK;
}

/* --- entry -------------------------------------------------------------------------------------- */

static enum choir_status price_auto(const char *algorithm, const struct choir_shape *shape,
                                    const struct plan_cluster *cluster, struct sim_how *how,
                                    struct plan_price *price)
{
    struct choir_plan *first;
    uint32_t longest;
    enum choir_status status = build_rank(algorithm, shape, 0, &first);
    if (status != CHOIR_OK)
        return status;
    uint64_t events = sim_events(first, FRAGMENTS, &longest) * sim_repeat_instances(first).high;
    bool cheap = shape->ranks <= MOST_FULL && events * shape->ranks <= how->budget &&
                 plan_bytes(first) * shape->ranks <= MOST_FULL_BYTES;
    bool full = how->mode == SIM_FULL ||
                (how->mode == SIM_AUTO && (shape->ranks <= ALWAYS_FULL || (cheap && !how->brief)));
    if (full)
        status = price_full(algorithm, shape, cluster, how, price);
    else if (how->mode != SIM_SHRUNK)
        status = price_reps(algorithm, shape, cluster, how, first, price);
    if (how->mode == SIM_SHRUNK || (how->mode == SIM_AUTO && status == CHOIR_ERR_STATE))
        status = cheap && how->mode == SIM_AUTO
                     ? price_full(algorithm, shape, cluster, how, price)
                     : price_shrunk(algorithm, shape, cluster, how, events, longest, price);
    plan_free(first);
    return status;
}

/* V-forms of which each rank knows its own counts only: priced with equal ones, as every rank must find the
 * same price. */
static enum choir_status price_v(const char *algorithm, const struct choir_shape *shape,
                                 const struct plan_cluster *cluster, struct sim_how *how,
                                 struct plan_price *price)
{
    struct choir_shape s = *shape;
    uint64_t *count = plan_shape_even(&s);
    if (!count)
        return CHOIR_ERR_NO_MEMORY;
    enum choir_status status = price_auto(algorithm, &s, cluster, how, price);
    free(count);
    return status;
}

enum choir_status sim_price(const char *algorithm, const struct choir_shape *shape,
                            const struct plan_cluster *cluster, struct sim_how *how,
                            struct plan_price *price)
{
    how->beyond = false;
    if (shape->kind == CHOIR_EXCHANGE)
        return base_fail(CHOIR_ERR_UNSUPPORTED, "price its sends and receives as all_to_all",
                         "a group of sends and receives is known to its own rank only");
    if (shape->kind >= CHOIR_ALL_GATHER_V && !plan_shape_counts(shape))
        return price_v(algorithm, shape, cluster, how, price);
    return price_auto(algorithm, shape, cluster, how, price);
}

enum choir_status plan_simulate(const char *algorithm, const struct choir_shape *shape,
                                const struct plan_cluster *cluster, struct plan_price *price)
{
    struct sim_how how = {.mode = SIM_AUTO, .budget = SIM_BUDGET};
    return sim_price(algorithm, shape, cluster, &how, price);
}

enum choir_status plan_simulate_plans(const struct choir_plan *const *plans, uint32_t n,
                                      uint32_t elem, const struct plan_cluster *cluster,
                                      struct plan_price *price)
{
    struct sim_how how = {.mode = SIM_FULL};
    if (!n || cluster->layout->ranks != n)
        return base_fail(CHOIR_ERR_ARGUMENT,
                         "describe a cluster of as many ranks as there are plans",
                         "%u plans for a cluster of %u ranks", n, cluster->layout->ranks);
    for (uint32_t r = 0; r < n; r++)
        if (plans[r]->size != n || plans[r]->instances != plans[0]->instances ||
            plans[r]->programs != plans[0]->programs || plans[r]->window != plans[0]->window)
            return base_fail(CHOIR_ERR_ARGUMENT, "load the plans of one operation",
                             "the plans of ranks 0 and %u differ in size, instances or programs",
                             r);
    struct sim_job job = {.plans = plans,
                          .reps = n,
                          .ranks = n,
                          .group = SIM_EACH,
                          .elem = elem,
                          .cluster = cluster,
                          .layout = cluster->layout};
    return price_plans(&job, &how, price);
}
