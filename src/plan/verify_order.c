/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify_order.c: wait (3) of DESIGN.md "order of execution": before a step writes, pending messages under
 * the bytes must have been read: over the identical span to the same fragment, else whole. Which pendings a
 * step conflicts with is found once: none is posted while it runs.
 */
#include "plan/verify.h"
#include <stdlib.h>

/* Marks the cells of a place with their index in the span. */
static void mark(struct verify_run *run, const struct verify_lane *lane,
                 const struct choir_place *p, uint32_t iter)
{
    struct plan_walk w;
    uint32_t part;
    run->epoch++;
    plan_walk_start(&w, run->rank[lane->rank].plan, p, iter);
    for (uint32_t i = 0; plan_walk_next(&w, &part); i++) {
        uint32_t cell = verify_cell(run, lane, p->buf, part);
        run->mark[cell] = run->epoch;
        run->mark_index[cell] = i;
    }
}

enum meeting { MEET_NOT, MEET_SAME, MEET_OTHER };
/* How the marked cells meet those of another place of the lane. */
static enum meeting meets(struct verify_run *run, const struct verify_lane *lane,
                          const struct choir_place *p, uint32_t iter, uint32_t marked)
{
    struct plan_walk w;
    uint32_t part, i = 0, hits = 0;
    bool same = true;
    plan_walk_start(&w, run->rank[lane->rank].plan, p, iter);
    for (; plan_walk_next(&w, &part); i++) {
        uint32_t cell = verify_cell(run, lane, p->buf, part);
        bool hit = cell != VERIFY_NO_CELL && run->mark[cell] == run->epoch;
        hits += hit;
        same &= hit && run->mark_index[cell] == i;
    }
    return !hits ? MEET_NOT : same && i == marked ? MEET_SAME : MEET_OTHER;
}

bool verify_self_copy(const struct verify_run *run, const struct verify_lane *lane,
                      const struct choir_place *out)
{
    const struct choir_plan *plan = run->rank[lane->rank].plan;
    const struct choir_place *in = lane->place;
    struct plan_walk x, y;
    uint32_t p, q;
    plan_walk_start(&x, plan, in, lane->cursor.iter);
    plan_walk_start(&y, plan, out, lane->cursor.iter);
    while (plan_walk_next(&x, &p) && plan_walk_next(&y, &q))
        if (verify_cell(run, lane, in->buf, p) != verify_cell(run, lane, out->buf, q))
            return false;
    return true;
}

static bool note(struct verify_run *run, struct verify_lane *lane, struct verify_message *m,
                 bool same)
{
    if (lane->conflicts == lane->conflicts_room) {
        uint32_t room = 2 * lane->conflicts_room + 8;
        void *p = realloc(lane->conflict, room * sizeof(*lane->conflict));
        if (!p)
            return verify_fail(run, lane, "no memory for %u conflicts", room);
        lane->conflict = p;
        lane->conflicts_room = room;
    }
    m->holders++;
    lane->conflict[lane->conflicts++] = (struct verify_conflict){m, same};
    return true;
}

/* Notes how pending m meets the marked cells; a pending is looked at once. */
static bool consider(struct verify_run *run, struct verify_lane *lane, struct verify_message *m)
{
    if (m->epoch == run->epoch)
        return true;
    m->epoch = run->epoch;
    enum meeting how = meets(run, lane, m->source, m->iter, lane->parts);
    return how == MEET_NOT || note(run, lane, m, how == MEET_SAME && m->count == lane->count);
}

/* Conflicts of the step's out `p`. A cell with one reader names it; with several, all pendings are
 * looked at. */
static bool find(struct verify_run *run, struct verify_lane *lane, const struct choir_place *p)
{
    const struct choir_plan *plan = run->rank[lane->rank].plan;
    struct plan_walk w;
    uint32_t part, readers = 0;
    plan_walk_start(&w, plan, p, lane->cursor.iter);
    while (plan_walk_next(&w, &part))
        readers = base_max(readers, lane->readers[verify_cell(run, lane, p->buf, part)].count);
    if (!readers || (plan_step_pending(plan, lane->step) && verify_self_copy(run, lane, p)))
        return true;
    mark(run, lane, p, lane->cursor.iter);
    if (readers > 1) {
        for (struct verify_message *m = lane->oldest; m; m = m->younger)
            if (!consider(run, lane, m))
                return false;
        return true;
    }
    plan_walk_start(&w, plan, p, lane->cursor.iter);
    while (plan_walk_next(&w, &part)) {
        const struct verify_readers *r = &lane->readers[verify_cell(run, lane, p->buf, part)];
        if (r->count && !consider(run, lane, (struct verify_message *)r->all))
            return false;
    }
    return true;
}

bool verify_may_write(struct verify_run *run, struct verify_lane *lane, uint64_t hi,
                      const struct verify_message **blocking)
{
    const struct choir_place *p = lane->place + lane->step->ins, *end = p + lane->step->outs;
    for (; !lane->conflicts_known && lane->oldest && p < end; p++)
        if (p->peer < 0 && !find(run, lane, p))
            return false;
    lane->conflicts_known = true;
    uint64_t slot = run->rank[lane->rank].plan->slot;
    for (uint32_t i = 0; i < lane->conflicts; i++) {
        const struct verify_message *m = lane->conflict[i].message;
        bool far_enough = lane->conflict[i].same && hi && m->taken * slot >= hi;
        if (m->taken < m->fragments && !far_enough) {
            *blocking = m;
            return false;
        }
    }
    return true;
}

void verify_forget_conflicts(struct verify_lane *lane)
{
    for (uint32_t i = 0; i < lane->conflicts; i++)
        verify_drop(lane->conflict[i].message, 1);
    lane->conflicts = 0;
    lane->conflicts_known = false;
}
