/* SPDX-License-Identifier: Apache-2.0 */
/*
 * price.c: prices the candidates of one size, finds what the choice is and what its time is made of.
 */
#include "plan_tool.h"
#include <stdlib.h>
#include <string.h>

/* Blocks of every rank in the largest buffer? */
static bool has_blocks(uint32_t kind)
{
    return kind != CHOIR_ALL_REDUCE && kind != CHOIR_REDUCE && kind != CHOIR_BROADCAST &&
           kind != CHOIR_BARRIER;
}

uint64_t shape_bytes(const struct choir_shape *s)
{
    return s->kind == CHOIR_BARRIER
               ? 0
               : s->count * s->type_bytes * (has_blocks(s->kind) ? s->ranks : 1u);
}

struct choir_shape shape_for(const struct ask *ask, uint64_t bytes)
{
    struct choir_shape s;
    uint64_t each = choir_type_bytes(ask->type);
    uint32_t n = ask->layout->ranks;
    uint64_t count = bytes / (each * (has_blocks((uint32_t)ask->kind) ? n : 1u));
    if (bytes && !count)
        count = 1;
    plan_shape_init(&s, (enum choir_kind)ask->kind, 0, n, count, ask->layout);
    s.type_bytes = (uint32_t)each;
    s.root = ask->root;
    if (ask->gpus)
        shape_gpus(&s);
    uint64_t *counts = plan_shape_even(&s); /* shape_done frees them */
    if (ask->kind >= CHOIR_ALL_GATHER_V && !counts)
        ask_fail_record("the counts");
    if (ask->share != SHARE_EVEN)
        plan_counts_skew(counts, n, ask->root, count * n * ask->share / 100);
    return s;
}

void shape_done(struct choir_shape *s)
{
    if (s->kind >= CHOIR_ALL_GATHER_V)
        free((void *)(uintptr_t)s->in_count);
}

struct choir_plan **build_all(const struct choir_shape *shape, const char *algorithm, uint32_t n)
{
    struct choir_plan **plans = calloc(n, sizeof(*plans));
    if (!plans)
        ask_fail("no memory for %u plans", n);
    for (uint32_t r = 0; r < n; r++) {
        struct choir_shape s = *shape;
        s.rank = r;
        if (plan_build(algorithm, &s, &plans[r]) != CHOIR_OK)
            ask_fail_record(algorithm);
    }
    return plans;
}

/* By how much the price grows with the costs chosen, in percent of what it would if they were all there is.
 * */
static double share(const char *algorithm, const struct choir_shape *shape,
                    const struct plan_cluster *cluster, double base_ns, size_t from, size_t to)
{
    struct plan_cluster c = *cluster;
    struct plan_price p;
    double *field[] = {&c.link[0].alpha_ns,
                       &c.link[1].alpha_ns,
                       &c.link[2].alpha_ns,
                       &c.link[0].overhead_ns,
                       &c.link[1].overhead_ns,
                       &c.link[2].overhead_ns,
                       &c.step_ns,
                       &c.link[0].rank_beta_ns,
                       &c.link[1].rank_beta_ns,
                       &c.link[2].rank_beta_ns,
                       &c.copy_ns,
                       &c.combine_ns,
                       &c.link[0].beta_ns,
                       &c.link[1].beta_ns,
                       &c.link[2].beta_ns,
                       &c.link[0].shared_beta_ns,
                       &c.link[1].shared_beta_ns,
                       &c.link[2].shared_beta_ns};
    for (size_t i = from; i < to; i++)
        *field[i] *= 1.02;
    plan_cluster_rehash(&c);
    if (!(base_ns > 0) || plan_simulate(algorithm, shape, &c, &p) != CHOIR_OK)
        return 0;
    double percent = 5000 * (p.time_ns - base_ns) / base_ns;
    return percent > 0 ? percent : 0;
}

static struct shares shares_of(const struct ask *ask, const struct choir_shape *shape,
                               const struct plan_candidate *c)
{
    double ns = c->price.time_ns;
    return (struct shares){
        .latency = share(c->name, shape, &ask->cluster, ns, 0, 3),
        .messages = share(c->name, shape, &ask->cluster, ns, 3, 7),
        .cpu = share(c->name, shape, &ask->cluster, ns, 7, 12),
        .links = share(c->name, shape, &ask->cluster, ns, 12, 15),
        .shared = share(c->name, shape, &ask->cluster, ns, 15, 18),
    };
}

static bool is_ordered(const char *name)
{
    const struct choir_algorithm *a = plan_algorithm_find(name);
    return a && a->flags & CHOIR_ORDERED;
}

/* Plans from a file are no candidates of the simulator: they are priced where they are chosen. */
static void add_file_choice(const struct ask *ask, struct answer *a)
{
    if (strncmp(a->choice, "file:", 5) || a->count == TOOL_CANDIDATES)
        return;
    struct plan_candidate *c = &a->list[a->count++];
    *c = (struct plan_candidate){.status = CHOIR_OK};
    snprintf(c->name, sizeof(c->name), "%s", a->choice);
    c->status = plan_simulate(c->name, &a->shape, &ask->cluster, &c->price);
}

void answer_size(const struct ask *ask, struct plan_table *table, uint64_t bytes, struct answer *a)
{
    *a = (struct answer){
        .shape = shape_for(ask, bytes), .chosen = UINT32_MAX, .runner_up = UINT32_MAX};
    a->choice = plan_table_choose(table, &a->shape, ask->ordered);
    a->count = plan_candidates(&ask->cluster, &a->shape, a->list, TOOL_CANDIDATES);
    add_file_choice(ask, a);
    const char *wanted = ask->algorithm ? ask->algorithm : a->choice;
    for (uint32_t i = 0; i < a->count; i++)
        if (!strcmp(a->list[i].name, wanted))
            a->chosen = i;
    if (a->chosen == UINT32_MAX &&
        a->count < TOOL_CANDIDATES) { /* --algo with arguments of one's own */
        struct plan_candidate *c = &a->list[a->chosen = a->count++];
        *c = (struct plan_candidate){.status = CHOIR_OK};
        snprintf(c->name, sizeof(c->name), "%s", wanted);
        c->status = plan_simulate(wanted, &a->shape, &ask->cluster, &c->price);
        if (c->status != CHOIR_OK)
            ask_fail_record(wanted);
    }
    for (uint32_t i = 0; i < a->count && a->runner_up == UINT32_MAX; i++)
        if (i != a->chosen && a->list[i].status == CHOIR_OK &&
            (!ask->ordered || is_ordered(a->list[i].name)))
            a->runner_up = i;
    if (a->list[a->chosen].status != CHOIR_OK)
        ask_fail("%s is not for this shape", wanted);
    a->shares = shares_of(ask, &a->shape, &a->list[a->chosen]);
}
