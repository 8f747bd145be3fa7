/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify_result.c: what OUT must hold when an instance has ended: the table at enum choir_kind in symbols.
 */
#include "plan/verify.h"
#include <stdlib.h>

bool verify_result_init(struct verify_run *run, struct verify_op *op)
{
    uint32_t parts = 1;
    for (uint32_t r = 0; r < run->n; r++)
        parts = base_max(parts, op->plan[r]->cut[CHOIR_IN].parts);
    if ((uint64_t)parts * run->n > INT32_MAX)
        return verify_fail(run, NULL, "%u ranks with %u parts are too many to verify", run->n,
                           parts);
    if (op->plan[0]->kind == CHOIR_ALL_REDUCE) {
        uint64_t all = (uint64_t)op->limit * op->plan[0]->cut[CHOIR_OUT].parts;
        op->result = calloc(all + 1, sizeof(*op->result));
        if (!op->result)
            return false;
    }
    return values_init(&op->values, run->n, parts, run->how.seed);
}

/* The send that receive `call` of a group meets: the m-th from one rank to another meets the m-th there. */
static bool meets(const struct verify_op *op, uint32_t rank, uint32_t call, uint32_t *send)
{
    const struct choir_shape *s = &op->shape[rank], *q = &op->shape[s->out_peer[call]];
    uint32_t earlier = 0;
    for (uint32_t i = 0; i < call; i++)
        earlier += s->out_peer[i] == s->out_peer[call];
    for (*send = 0; *send < q->in_parts; ++*send)
        if (q->in_peer[*send] == rank && !earlier--)
            return true;
    return false;
}

/* Which part of whose IN part p of OUT is a copy of; false: there is none. */
static bool origin(const struct verify_op *op, uint32_t rank, uint32_t p, uint32_t *from,
                   uint32_t *part)
{
    const struct choir_shape *s = &op->shape[rank];
    uint32_t k = op->plan[rank]->cut[CHOIR_OUT].parts / shape_blocks(s, CHOIR_OUT);
    switch (s->kind) {
    case CHOIR_BROADCAST:
        *from = s->root;
        *part = p;
        return true;
    case CHOIR_SCATTER:
    case CHOIR_SCATTER_V:
        *from = s->root;
        *part = rank * k + p;
        return true;
    case CHOIR_ALL_TO_ALL:
    case CHOIR_ALL_TO_ALL_V:
        *from = p / k;
        *part = rank * k + p % k;
        return true;
    case CHOIR_EXCHANGE:
        *from = s->out_peer[p];
        return meets(op, rank, p, part);
    default: /* all_gather, gather */
        *from = p / k;
        *part = p % k;
        return true;
    }
}

static bool check_copy(struct verify_run *run, const struct verify_lane *lane, uint32_t p, symbol s)
{
    const struct verify_op *op = &run->op[run->rank[lane->rank].op];
    const struct choir_plan *plan = op->plan[lane->rank];
    uint32_t from, part;
    if (!origin(op, lane->rank, p, &from, &part))
        return verify_fail(run, lane, "receive %u of rank %u meets no send", p, lane->rank);
    const struct choir_cut *in = &op->plan[from]->cut[CHOIR_IN];
    if (part >= in->parts || plan_part_len(in, part) != plan_part_len(&plan->cut[CHOIR_OUT], p))
        return verify_fail(run, lane, "part %u of OUT is not as long as part %u of rank %u's IN", p,
                           part, from);
    if (s == value_input(&op->values, from, part))
        return true;
    struct value_node got = value_get(&op->values, s);
    return verify_fail(run, lane,
                       "part %u of OUT ends as part %u of rank %u, not part %u of rank %u", p,
                       got.part, got.lo, part, from);
}

static bool check_sum(struct verify_run *run, const struct verify_lane *lane, uint32_t p, symbol s)
{
    struct verify_op *op = &run->op[run->rank[lane->rank].op];
    const struct choir_plan *plan = op->plan[lane->rank];
    struct value_node got = value_get(&op->values, s);
    bool scatters = shape_holds(&op->shape[lane->rank], CHOIR_OUT) == SHAPE_BLOCK;
    uint32_t part = scatters ? lane->rank * plan->cut[CHOIR_OUT].parts + p : p;
    if (got.part != part)
        return verify_fail(run, lane, "part %u of OUT ends as part %u, not %u", p, got.part, part);
    if (got.mass != op->values.full)
        return verify_fail(run, lane, "part %u of OUT lacks contributions, or has one twice", p);
    if (op->ordered && (got.lo != 0 || got.hi != run->n))
        return verify_fail(run, lane,
                           "part %u of OUT does not combine the ranks in ascending order", p);
    if (!op->result)
        return true;
    symbol *first = &op->result[(uint64_t)lane->instance * plan->cut[CHOIR_OUT].parts + p];
    if (*first && *first != s)
        return verify_fail(run, lane,
                           "part %u of OUT is combined in another order than on other ranks", p);
    *first = s;
    return true;
}

bool verify_result(struct verify_run *run, struct verify_lane *lane)
{
    const struct verify_rank *rank = &run->rank[lane->rank];
    const struct choir_plan *plan = rank->plan;
    if (plan->kind == CHOIR_BARRIER || !shape_present(rank->shape, CHOIR_OUT))
        return true;
    const struct choir_cut *out = &plan->cut[CHOIR_OUT];
    bool reduces = plan_kind_reduces((enum choir_kind)plan->kind);
    for (uint32_t p = 0; p < out->parts; p++) {
        symbol s = lane->cell[p];
        if (!plan_part_len(out, p))
            continue;
        if (!s)
            return verify_fail(run, lane, "part %u of OUT is never written", p);
        if (!(reduces ? check_sum(run, lane, p, s) : check_copy(run, lane, p, s)))
            return false;
    }
    return true;
}
