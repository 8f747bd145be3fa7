/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bind.c: from parts to bytes. A plan with one instance and few steps is resolved once and kept, so that a repeated call
 * resolves nothing; others are resolved step by step as they run. Both ways go through host_resolve.
 */
#include "host/step.h"
#include <stdlib.h>
#include <string.h>

#define CACHED_STEPS 4096u
#define CACHED_SEGS 65536u

struct extent {
    uint64_t steps, places, segs, pendings, pending_segs;
    uint32_t most_places, most_segs, most_ins;
};

static uint32_t place_parts(const struct choir_place *p)
{
    if (p->list)
        return p->run;
    uint32_t blocks = p->end > p->first ? (p->end - p->first + p->stride - 1) / p->stride : 0;
    return blocks * p->run;
}

static bool is_pending(const struct choir_plan *plan, const struct choir_step *s)
{
    return s->ins == 1 && plan->place[s->place].peer < 0;
}

static enum choir_status measure_program(const struct choir_plan *plan, uint32_t program,
                                         struct extent *x)
{
    struct plan_cursor c = {0};
    uint64_t pendings = 0, pending_segs = 0;
    while (plan_cursor_next(&c, plan, program)) {
        const struct choir_step *s = &plan->step[c.step];
        uint32_t places = (uint32_t)s->ins + s->outs, segs = 0, messages = 0;
        for (uint32_t i = 0; i < places; i++) {
            const struct choir_place *p = &plan->place[s->place + i];
            if (p->peer < 0)
                segs += place_parts(p);
            else
                messages += i >= s->ins;
            for (uint32_t j = 0; p->peer >= 0 && j < i; j++) /* one fragment of a pair at a time */
                if (plan->place[s->place + j].peer == p->peer && (i < s->ins) == (j < s->ins))
                    return base_fail(CHOIR_ERR_UNSUPPORTED, "use one step for each message",
                                     "step %u names rank %d twice", c.step, p->peer);
        }
        if (is_pending(plan, s))
            pendings += messages,
                pending_segs += (uint64_t)messages * place_parts(&plan->place[s->place]);
        x->steps++, x->places += places, x->segs += segs;
        x->most_places = base_max(x->most_places, places);
        x->most_segs = base_max(x->most_segs, segs);
        x->most_ins = base_max(x->most_ins, s->ins);
    }
    x->pendings = base_max(x->pendings, pendings);
    x->pending_segs = base_max(x->pending_segs, pending_segs);
    return CHOIR_OK;
}

static void add_seg(struct host_place *p, uint64_t at, uint64_t bytes)
{
    if (!bytes)
        return;
    if (p->segs && p->seg[p->segs - 1].at + p->seg[p->segs - 1].bytes == at)
        p->seg[p->segs - 1].bytes += bytes;
    else
        p->seg[p->segs++] = (struct host_seg){at, bytes};
}

void host_resolve(struct host_comm *comm, const struct host_bound *bound, uint32_t instance,
                  uint32_t step, uint32_t iter, struct host_rstep *r, struct host_seg *segs)
{
    const struct choir_plan *plan = bound->plan;
    const struct choir_step *s = &plan->step[step];
    const struct choir_place *measure = plan_measure(plan, s);
    struct host_place *places = r->place;
    *r = (struct host_rstep){.step = step,
                             .iter = iter,
                             .ins = s->ins,
                             .outs = s->outs,
                             .simple = true,
                             .place = places};
    for (uint32_t i = 0; i < (uint32_t)s->ins + s->outs; i++) {
        const struct choir_place *p = &plan->place[s->place + i];
        struct host_place *to = &places[i];
        *to = (struct host_place){.buf = p->buf, .seg = segs};
        if (p->peer >= 0) {
            to->link = host_link_get(comm, plan_peer(plan, p, iter));
            i < s->ins ? r->msg_ins++ : r->msg_outs++;
            if (p != measure)
                continue;
        }
        struct plan_walk w, m;
        plan_walk_start(&w, plan, p, iter);
        if (measure)
            plan_walk_start(&m, plan, measure, iter);
        uint32_t part, mpart = 0;
        uint64_t total = 0;
        while (plan_walk_next(&w, &part) && (!measure || plan_walk_next(&m, &mpart))) {
            uint64_t from = 0, len = bound->tmp_stride;
            if (measure) {
                const struct choir_cut *cut = &plan->cut[measure->buf];
                uint64_t whole = plan_part_len(cut, mpart);
                len = (plan_piece(whole, instance, plan->instances, &from) - from) * bound->elem;
            }
            total += len;
            if (to->link)
                continue;
            uint64_t at = part * bound->tmp_stride;
            if (p->buf != CHOIR_TMP || plan_tmp_tabled(plan)) {
                const struct choir_cut *cut = &plan->cut[p->buf];
                plan_piece(plan_part_len(cut, part), instance, plan->instances, &from);
                at = (plan_part_off(cut, part) + from) * bound->elem;
            }
            add_seg(to, at, len);
        }
        r->bytes = total;
        segs += to->segs;
        r->simple &= to->segs <= 1;
    }
}

static void resolve_all(struct host_comm *comm, struct host_bound *b, struct host_place *places,
                        struct host_seg *segs)
{
    struct plan_cursor c = {0};
    uint32_t n = 0;
    while (plan_cursor_next(&c, b->plan, 0)) {
        struct host_rstep *r = &b->rstep[n++];
        r->place = places;
        host_resolve(comm, b, 0, c.step, c.iter, r, segs);
        places += (uint32_t)r->ins + r->outs;
        for (uint32_t i = 0; i < (uint32_t)r->ins + r->outs; i++)
            segs += r->place[i].segs;
    }
    b->cached = n;
}

/* Whether the places overlap when IN and OUT are the same memory. */
static bool overlap(const struct host_place *a, const struct host_place *b)
{
    for (uint32_t i = 0; i < a->segs; i++)
        for (uint32_t k = 0; k < b->segs; k++)
            if (a->seg[i].at < b->seg[k].at + b->seg[k].bytes &&
                b->seg[k].at < a->seg[i].at + a->seg[i].bytes)
                return true;
    return false;
}

static bool writes_over(const struct host_rstep *r, const struct host_place *source)
{
    for (uint32_t i = r->ins; i < (uint32_t)r->ins + r->outs; i++)
        if (!r->place[i].link && r->place[i].buf == CHOIR_OUT && overlap(&r->place[i], source))
            return true;
    return false;
}

/* Finds the messages whose source is received over, in place, before this rank sends anything that depends on what it
 * received: nothing told it that they had been read. */
static void mark_exchanged(struct host_bound *b)
{
    enum choir_kind kind = (enum choir_kind)b->plan->kind;
    bool aligned = kind == CHOIR_ALL_REDUCE || kind == CHOIR_ALL_TO_ALL; /* IN lies at OUT */
    for (uint32_t i = 0; i < b->cached; i++) {
        struct host_rstep *r = &b->rstep[i];
        if (!aligned || r->ins != 1 || r->msg_ins || !r->msg_outs)
            continue;
        for (uint32_t k = i + 1; k < b->cached && !r->exchanged; k++) {
            r->exchanged = b->rstep[k].msg_ins && writes_over(&b->rstep[k], &r->place[0]);
            if (b->rstep[k].msg_ins && b->rstep[k].msg_outs)
                break;
        }
    }
}

static void count_receives(struct host_bound *b)
{
    while (b->receives < b->cached) {
        const struct host_rstep *r = &b->rstep[b->cached - b->receives - 1];
        if (r->ins != 1 || r->msg_ins != 1 || r->msg_outs)
            break;
        b->receives++;
    }
}

static uint64_t extent_of(const struct choir_cut *cut)
{
    uint64_t end = 0;
    for (uint32_t p = 0; p < cut->parts; p++)
        end = base_max(end, plan_part_off(cut, p) + plan_part_len(cut, p));
    return end;
}

enum choir_status host_bind(struct host_comm *comm, struct choir_plan *plan, uint32_t elem,
                            struct host_bound **out)
{
    struct extent x = {0};
    for (uint32_t p = 0; p < plan->programs; p++) {
        enum choir_status st = measure_program(plan, p, &x);
        if (st != CHOIR_OK)
            return st;
    }
    bool small = x.steps <= CACHED_STEPS && x.segs <= CACHED_SEGS;
    bool cached =
        plan->instances == 1 && plan->programs == 1 && (small || plan->kind == CHOIR_EXCHANGE);
    uint64_t bytes = sizeof(struct host_bound);
    if (cached)
        bytes += x.steps * sizeof(struct host_rstep) + x.places * sizeof(struct host_place) +
                 x.segs * sizeof(struct host_seg);
    struct host_bound *b = calloc(1, bytes);
    if (!b)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a plan of %llu steps",
                         (unsigned long long)x.steps);
    b->plan = plan;
    b->elem = elem;
    b->memory_bytes = bytes + plan_bytes(plan);
    b->slot_bytes = plan->slot * elem;
    b->tmp_stride = plan_tmp_stride(plan, elem) * elem;
    b->tmp_bytes = plan_tmp_tabled(plan) ? plan_tmp_extent(plan) * elem : b->tmp_stride * plan->tmp;
    for (unsigned i = 0; i < 2 && plan->kind != CHOIR_EXCHANGE; i++)
        b->extent[i] = extent_of(&plan->cut[i]) * elem;
    b->pulled_bytes =
        base_max(base_max(PULLED_BYTES, 64u * x.most_ins), base_min(b->tmp_stride, FETCHED_BYTES));
    b->most_places = x.most_places;
    b->most_segs = x.most_segs;
    b->most_ins = x.most_ins;
    b->pendings = (uint32_t)x.pendings;
    b->pending_segs = x.pending_segs;
    if (cached) {
        b->rstep = (struct host_rstep *)(b + 1);
        struct host_place *places = (struct host_place *)(b->rstep + x.steps);
        resolve_all(comm, b, places, (struct host_seg *)(places + x.places));
        if (plan->kind == CHOIR_EXCHANGE)
            count_receives(b);
        else
            mark_exchanged(b);
    }
    *out = b;
    return CHOIR_OK;
}

void host_bound_free(struct host_bound *b)
{
    if (!b || atomic_fetch_sub(&b->holders, 1))
        return;
    plan_free(b->plan);
    free(b);
}
