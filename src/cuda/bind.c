/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bind.c: from parts to tables of segments, loops unrolled, the same for all instances: a kernel cuts segments into
 * pieces itself. Where there is one instance nothing is cut, so segments that touch are merged.
 */
#include "cuda/bind.h"
#include <stdlib.h>
#include <string.h>

#define MOST_STEPS 65536u /* of a plan, unrolled */
#define MOST_SEGS (1u << 20)

/* Where the tables grow. Written twice: to be counted (no memory), and to be filled. */
struct tables {
    const struct choir_plan *plan;
    uint32_t elem;
    uint64_t stride; /* elements between parts of TMP without a table */
    uint32_t steps, places, segs;
    uint32_t most_pendings;
    struct cuda_seg *seg;
    struct cuda_place *place;
    struct cuda_step *step;
    uint32_t *begin;
};

/* Appends a segment to a place that has its segments at the end of the table. */
static void add_seg(struct tables *t, struct cuda_place *p, struct cuda_seg *last, uint64_t off,
                    uint64_t len)
{
    if (p->cut == CUDA_CUT_NONE && !len)
        return;
    if (p->cut == CUDA_CUT_NONE && p->segs && last->off + last->len == off) {
        last->len += len;
    } else {
        *last = (struct cuda_seg){off, len};
        p->segs++;
        t->segs++;
    }
    if (t->seg)
        t->seg[t->segs - 1] = *last;
}

static void add_segs(struct tables *t, const struct plan_cursor *c, const struct choir_place *from,
                     struct cuda_place *to)
{
    const struct choir_plan *plan = t->plan;
    const struct choir_place *measure = plan_measure(plan, &plan->step[c->step]);
    bool adopts = from->buf == CHOIR_TMP && !plan_tmp_tabled(plan);
    struct cuda_seg last = {0, 0};
    struct plan_walk w, m;
    uint32_t part, by = 0;
    plan_walk_start(&w, plan, from, c->iter);
    if (measure)
        plan_walk_start(&m, plan, measure, c->iter);
    if (plan->instances == 1 || !measure)
        to->cut = CUDA_CUT_NONE;
    else
        to->cut = adopts ? CUDA_CUT_LENGTH : CUDA_CUT_PIECE;
    to->seg = t->segs;
    while (t->segs <= MOST_SEGS && plan_walk_next(&w, &part) &&
           (!measure || plan_walk_next(&m, &by))) {
        uint64_t len = measure ? plan_part_len(&plan->cut[measure->buf], by) : t->stride;
        uint64_t off = adopts ? part * t->stride : plan_part_off(&plan->cut[from->buf], part);
        add_seg(t, to, &last, off, len);
    }
}

static enum choir_status add_place(struct tables *t, const struct plan_cursor *c, uint32_t i,
                                   struct cuda_step *step, bool measures)
{
    const struct choir_step *s = &t->plan->step[c->step];
    const struct choir_place *from = &t->plan->place[s->place + i];
    struct cuda_place to = {.peer = -1, .buf = from->buf, .seg = t->segs};
    bool in = i < s->ins;
    if (from->peer >= 0) {
        to.peer = (int32_t)plan_peer(t->plan, from, c->iter);
        in ? step->msg_ins++ : step->msg_outs++;
        for (uint32_t j = in ? 0 : s->ins; t->place && j < i; j++)
            if (t->place[step->place + j].peer == to.peer) /* one fragment of a pair at a time */
                return base_fail(CHOIR_ERR_UNSUPPORTED, "use one step for each message",
                                 "step %u names rank %d twice", c->step, to.peer);
    }
    if (from->peer < 0 || measures)
        add_segs(t, c, from, &to);
    if (measures)
        step->measure = t->places;
    if (t->place)
        t->place[t->places] = to;
    t->places++;
    return CHOIR_OK;
}

/* The place by which the kernel measures the step: a local one, which has segments anyway, if there is any. */
static uint32_t measuring(const struct choir_plan *plan, const struct choir_step *s)
{
    uint32_t places = (uint32_t)s->ins + s->outs;
    for (uint32_t i = 0; i < places; i++)
        if (plan->place[s->place + i].peer < 0)
            return i;
    return 0;
}

static enum choir_status add_step(struct tables *t, const struct plan_cursor *c, uint32_t *pendings)
{
    const struct choir_step *s = &t->plan->step[c->step];
    uint32_t places = (uint32_t)s->ins + s->outs, measure = measuring(t->plan, s);
    struct cuda_step step = {.place = t->places, .ins = s->ins, .outs = s->outs};
    if (places > CUDA_PLACES)
        return base_fail(CHOIR_ERR_UNSUPPORTED, "use another algorithm",
                         "a step has %u places, a kernel's at most %u", places, CUDA_PLACES);
    for (uint32_t i = 0; i < places; i++) {
        enum choir_status st = add_place(t, c, i, &step, i == measure);
        if (st != CHOIR_OK)
            return st;
    }
    if (t->step)
        t->step[t->steps] = step;
    t->steps++;
    *pendings += plan_step_pending(t->plan, s) ? step.msg_outs : 0;
    if (t->steps > MOST_STEPS || t->segs > MOST_SEGS)
        return base_fail(CHOIR_ERR_UNSUPPORTED, "use another algorithm",
                         "the plan has more than %u steps or %u parts to name", MOST_STEPS,
                         MOST_SEGS);
    return CHOIR_OK;
}

static enum choir_status add_all(struct tables *t)
{
    t->steps = t->places = t->segs = 0;
    for (uint32_t p = 0; p < t->plan->programs; p++) {
        struct plan_cursor c = {0};
        uint32_t pendings = 0;
        if (t->begin)
            t->begin[p] = t->steps;
        while (plan_cursor_next(&c, t->plan, p)) {
            enum choir_status st = add_step(t, &c, &pendings);
            if (st != CHOIR_OK)
                return st;
        }
        t->most_pendings = base_max(t->most_pendings, pendings);
    }
    if (t->begin)
        t->begin[t->plan->programs] = t->steps;
    return CHOIR_OK;
}

/* What the kernels' mailboxes have room for. Depth: plans are proved for at least so many slots. */
static enum choir_status check(const struct choir_plan *plan, uint32_t elem)
{
    uint32_t window = base_min(plan->window, plan->instances);
    if (plan->size > CUDA_RANKS)
        return base_fail(CHOIR_ERR_UNSUPPORTED, "use fewer ranks on a host",
                         "%u ranks, kernels are made for %u", plan->size, CUDA_RANKS);
    if (plan->slot * elem > CUDA_SLOT_BYTES || plan->depth > CUDA_DEPTH || window > CUDA_SLOT_LANES)
        return base_fail(CHOIR_ERR_UNSUPPORTED, "build the plan for the kernels' slots",
                         "fragments of %llu bytes, depth %u, window %u; kernels have %u, %u, %u",
                         (unsigned long long)(plan->slot * elem), plan->depth, window,
                         CUDA_SLOT_BYTES, CUDA_DEPTH, CUDA_SLOT_LANES);
    return CHOIR_OK;
}

static struct cuda_tables *allocate(struct tables *t)
{
    uint64_t bytes = t->segs * sizeof(*t->seg) + t->places * sizeof(*t->place) +
                     t->steps * sizeof(*t->step) + (t->plan->programs + 1) * sizeof(*t->begin);
    uint64_t head = (sizeof(struct cuda_tables) + 15) & ~15ull;
    struct cuda_tables *out = aligned_alloc(16, (head + bytes + 15) & ~15ull);
    if (!out)
        return NULL;
    t->seg = (struct cuda_seg *)((char *)out + head);
    t->place = (struct cuda_place *)(t->seg + t->segs);
    t->step = (struct cuda_step *)(t->place + t->places);
    t->begin = (uint32_t *)(t->step + t->steps);
    out->bytes = bytes;
    out->data = t->seg;
    return out;
}

/* The plain receives that end a group of sends and receives. */
static uint32_t count_receives(const struct tables *t)
{
    uint32_t n = 0;
    if (t->plan->kind != CHOIR_EXCHANGE || t->plan->programs > 1 || t->plan->instances > 1)
        return 0;
    for (; n < t->steps; n++) {
        const struct cuda_step *s = &t->step[t->steps - 1 - n];
        if (s->ins != 1 || !s->msg_ins || s->msg_outs)
            break;
    }
    return n;
}

enum choir_status cuda_bind(const struct choir_plan *plan, uint32_t elem, struct cuda_tables **out)
{
    struct tables t = {.plan = plan, .elem = elem, .stride = plan_tmp_stride(plan, elem)};
    enum choir_status st = check(plan, elem);
    if (st == CHOIR_OK)
        st = add_all(&t);
    if (st != CHOIR_OK)
        return st;
    struct cuda_tables *tables = allocate(&t);
    if (!tables)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a plan of %u steps",
                         t.steps);
    st = add_all(&t);
    if (st != CHOIR_OK) {
        free(tables);
        return st;
    }
    uint32_t receives = count_receives(&t);
    uint64_t tmp = plan_tmp_tabled(plan) ? plan_tmp_extent(plan) : t.stride * plan->tmp;
    tables->plan = (struct cuda_plan){.programs = plan->programs,
                                      .instances = plan->instances,
                                      .window = base_min(plan->window, plan->instances),
                                      .elem = elem,
                                      .slot = plan->slot,
                                      .tmp_bytes = (tmp * elem + 127) & ~127ull,
                                      .most_pendings = t.most_pendings + receives,
                                      .receives = receives,
                                      .begin = t.begin,
                                      .step = t.step,
                                      .place = t.place,
                                      .seg = t.seg};
    *out = tables;
    return CHOIR_OK;
}

static const void *moved(const struct cuda_tables *t, const void *base, const void *p)
{
    return (const char *)base + ((const char *)p - (const char *)t->data);
}

void cuda_tables_relocate(const struct cuda_tables *t, const void *base, struct cuda_plan *plan)
{
    *plan = t->plan;
    plan->begin = moved(t, base, t->plan.begin);
    plan->step = moved(t, base, t->plan.step);
    plan->place = moved(t, base, t->plan.place);
    plan->seg = moved(t, base, t->plan.seg);
}

void cuda_tables_free(struct cuda_tables *t)
{
    free(t);
}
