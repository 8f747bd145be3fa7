/* SPDX-License-Identifier: Apache-2.0 */
/*
 * walk.c: reading plans: the parts of a place, the steps of a program in order, sizes that follow from the
 * cuts. Relies on what plan_check has established: turn, dturn < parts, dpeer < size, spans inside the cut.
 */
#include "plan/plan.h"

void plan_walk_start(struct plan_walk *w, const struct choir_plan *plan,
                     const struct choir_place *place, uint32_t t)
{
    uint32_t parts = plan_parts(plan, place->buf), shift = (uint32_t)place->turn;
    if (t && place->dturn)
        shift = (uint32_t)((shift + (uint64_t)t * (uint32_t)place->dturn) % parts);
    *w = (struct plan_walk){.list = place->list ? plan->list : NULL,
                            .parts = parts,
                            .shift = shift,
                            .base = place->first,
                            .next = place->first,
                            .left = place->run,
                            .stride = place->stride,
                            .run = place->run,
                            .end = place->list ? place->first + place->run : place->end};
}

bool plan_walk_next(struct plan_walk *w, uint32_t *part)
{
    if (!w->left) {
        if (w->list || w->end - w->base <= w->stride)
            return false;
        w->base += w->stride;
        w->next = w->base;
        w->left = w->run;
    }
    if (w->next >= w->end)
        return false;
    w->left--;
    uint32_t p = w->list ? w->list[w->next] : w->next;
    w->next++;
    p += w->shift;
    *part = p >= w->parts ? p - w->parts : p;
    return true;
}

const struct choir_place *plan_measure(const struct choir_plan *plan, const struct choir_step *step)
{
    const struct choir_place *p = plan->place + step->place, *end = p + step->ins + step->outs;
    for (; p < end; p++)
        if (plan_measures(plan, p))
            return p;
    return NULL;
}

static uint64_t largest_part(const struct choir_cut *c)
{
    if (!c->parts)
        return 0;
    if (c->how != CHOIR_TABLE)
        return plan_part_len(c, 0);
    uint64_t most = 0;
    for (uint32_t p = 0; p < c->parts; p++)
        most = base_max(most, c->len[p]);
    return most;
}

uint64_t plan_largest_piece(const struct choir_plan *plan)
{
    uint64_t a = largest_part(&plan->cut[CHOIR_IN]), b = largest_part(&plan->cut[CHOIR_OUT]);
    uint64_t most = base_max(a, b), n = plan->instances;
    return most / n + (most % n != 0);
}

uint64_t plan_tmp_stride(const struct choir_plan *plan, uint32_t type_bytes)
{
    uint64_t a = BASE_LINE, b = type_bytes ? type_bytes : 1;
    while (
        b) { /* the least number of elements that is whole cache lines is 64 / gcd(64, type_bytes) */
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    uint64_t q = BASE_LINE / a;
    return (plan_largest_piece(plan) + q - 1) / q * q;
}

bool plan_cursor_next(struct plan_cursor *c, const struct choir_plan *plan, uint32_t program)
{
    if (!c->started) {
        *c = (struct plan_cursor){.step = plan->begin[program], .started = true};
    } else if (++c->step == c->loop + c->body && c->body) {
        if (++c->iter < c->times) {
            c->step = c->loop;
            return true;
        }
        c->body = 0;
        c->iter = 0;
    }
    if (c->step >= plan->begin[program + 1])
        return false;
    if (!c->body && plan->step[c->step].body) {
        c->loop = c->step;
        c->body = plan->step[c->step].body;
        c->times = plan->step[c->step].times;
    }
    return true;
}
