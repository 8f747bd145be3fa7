/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reference_wire.c: the reference interpreter's memory and messages: which bytes a place names, channels
 * with slots and credits, pending messages that stream through slots, are pulled by the reader or pushed to
 * where they belong.
 */
#include "plan/reference.h"
#include <stdlib.h>
#include <string.h>

/* --- spans -------------------------------------------------------------------------------------- */

static char *part_at(const struct ref_run *run, const struct ref_lane *lane, unsigned buf,
                     uint32_t part, uint64_t *count)
{
    const struct choir_plan *plan = ref_plan(run, lane);
    if (buf == CHOIR_TMP && !plan_tmp_tabled(plan))
        return lane->tmp + part * run->stride * run->how->elem;
    uint64_t from, to = plan_piece(plan_part_len(&plan->cut[buf], part), lane->instance,
                                   plan->instances, &from);
    char *base = buf == CHOIR_IN    ? run->in[lane->rank]
                 : buf == CHOIR_OUT ? run->out[lane->rank]
                                    : lane->tmp;
    *count = to - from;
    return base ? base + (plan_part_off(&plan->cut[buf], part) + from) * run->how->elem : NULL;
}

struct ref_span ref_span_make(struct ref_run *run, const struct ref_lane *lane,
                              const struct plan_cursor *cursor, uint32_t place)
{
    const struct choir_plan *plan = ref_plan(run, lane);
    const struct choir_step *step = plan->step + cursor->step;
    const struct choir_place *p = plan->place + step->place + place;
    const struct choir_place *measure = plan_measure(plan, step);
    struct plan_walk w, m;
    uint32_t part, by = 0;
    struct ref_span s = {0};
    plan_walk_start(&w, plan, p, cursor->iter);
    while (plan_walk_next(&w, &part))
        s.segments++;
    if (p->peer < 0 && !(s.segment = ref_alloc(run, s.segments * sizeof(*s.segment))))
        return (struct ref_span){0};
    plan_walk_start(&w, plan, p, cursor->iter);
    if (measure)
        plan_walk_start(&m, plan, measure, cursor->iter);
    for (uint32_t i = 0; plan_walk_next(&w, &part); i++) {
        uint64_t count = run->stride, own;
        if (measure && plan_walk_next(&m, &by))
            part_at(run, lane, measure->buf, by, &count);
        if (p->peer < 0)
            s.segment[i] = (struct ref_segment){part_at(run, lane, p->buf, part, &own), count};
        s.count += count;
    }
    return s;
}

/* Calls out the contiguous stretches of elements [lo, hi): at, elements, offset from lo. */
struct stretch {
    const struct ref_span *s;
    uint32_t segment;
    uint64_t begin, lo, hi; /* begin: of the segment in the span */
};
static bool stretch_next(struct stretch *t, uint64_t elem, char **at, uint64_t *count,
                         uint64_t *offset)
{
    for (; t->segment < t->s->segments; t->segment++) {
        const struct ref_segment *g = t->s->segment + t->segment;
        uint64_t from = base_max(t->begin, t->lo), to = base_min(t->begin + g->count, t->hi);
        uint64_t begin = t->begin;
        t->begin += g->count;
        if (from >= to)
            continue;
        *at = g->at + (from - begin) * elem;
        *count = to - from;
        *offset = from - t->lo;
        t->segment++;
        return true;
    }
    return false;
}

void ref_gather(const struct ref_run *run, const struct ref_span *s, uint64_t lo, uint64_t hi,
                char *to)
{
    uint64_t elem = run->how->elem, count, offset;
    char *at;
    for (struct stretch t = {s, 0, 0, lo, hi}; stretch_next(&t, elem, &at, &count, &offset);)
        memcpy(to + offset * elem, at, count * elem);
}

void ref_scatter(const struct ref_run *run, const struct ref_span *s, uint64_t lo, uint64_t hi,
                 const char *from)
{
    uint64_t elem = run->how->elem, count, offset;
    char *at;
    for (struct stretch t = {s, 0, 0, lo, hi}; stretch_next(&t, elem, &at, &count, &offset);)
        memcpy(at, from + offset * elem, count * elem);
}

bool ref_overlap(const struct ref_run *run, const struct ref_span *a, uint64_t alo, uint64_t ahi,
                 const struct ref_span *b, uint64_t blo, uint64_t bhi)
{
    uint64_t elem = run->how->elem, x, y, offset;
    char *p, *q;
    for (struct stretch s = {a, 0, 0, alo, ahi}; stretch_next(&s, elem, &p, &x, &offset);)
        for (struct stretch t = {b, 0, 0, blo, bhi}; stretch_next(&t, elem, &q, &y, &offset);)
            if (p < q + y * elem && q < p + x * elem)
                return true;
    return false;
}

bool ref_same(const struct ref_span *a, const struct ref_span *b)
{
    for (uint32_t i = 0; i < a->segments; i++)
        if (a->segment[i].at != b->segment[i].at)
            return false;
    return a->segments == b->segments;
}

/* --- channels ------------------------------------------------------------------------------------- */

struct ref_channel *ref_channel(struct ref_run *run, uint32_t src, uint32_t dst, uint32_t lane)
{
    struct ref_channel **c = &run->channel[((uint64_t)src * run->n + dst) * run->window + lane];
    if (*c)
        return *c;
    if (run->useds == run->useds_room) {
        uint32_t room = 2 * run->useds_room + 64;
        struct ref_channel **used = realloc(run->used, room * sizeof(*used));
        if (!used) {
            ref_fail(run, CHOIR_ERR_NO_MEMORY, NULL, "no memory for channels");
            return NULL;
        }
        run->used = used;
        run->useds_room = room;
    }
    *c = ref_alloc(run, sizeof(**c));
    if (*c) {
        **c = (struct ref_channel){.src = src, .dst = dst, .lane = lane};
        run->used[run->useds++] = *c;
    }
    return *c;
}

struct ref_message *ref_send(struct ref_run *run, struct ref_lane *lane, uint32_t dst,
                             uint64_t count, bool pending)
{
    struct ref_channel *c = ref_channel(run, lane->rank, dst, lane->index);
    struct ref_message *m = ref_alloc(run, sizeof(*m));
    if (!c || !m) {
        free(m);
        return NULL;
    }
    enum plan_binding binding = run->how->binding;
    *m = (struct ref_message){
        .instance = lane->instance, .holders = 1, .pending = pending, .count = count};
    m->pulled = pending && (binding == PLAN_PULL || binding == PLAN_UNBUFFERED);
    m->fragments = (uint32_t)(count / run->slot + (count % run->slot || !count));
    m->bytes = m->pulled ? NULL : ref_alloc(run, count * run->how->elem);
    struct ref_message **at = &c->head;
    while (*at)
        at = &(*at)->next;
    *at = m;
    return m;
}

void ref_drop(struct ref_message *m)
{
    if (--m->holders)
        return;
    free(m->source.segment);
    free(m->place.segment);
    free(m->bytes);
    free(m);
}

uint64_t ref_passed(const struct ref_run *run, const struct ref_message *m)
{
    return base_min(m->count, (m->pulled ? m->taken : m->sent) * run->slot);
}

bool ref_finished(const struct ref_message *m)
{
    return (m->pulled ? m->taken : m->sent) == m->fragments;
}

bool ref_room(const struct ref_run *run, const struct ref_channel *c)
{
    for (const struct ref_message *m = c->head; m; m = m->next)
        if (!m->pulled && m->sent < m->fragments)
            return false;
    return c->slots_used < run->depth;
}

/* --- pushing ------------------------------------------------------------------------------------- */

/* Does the step at `cursor` touch bytes of `place`? */
static bool touches(struct ref_run *run, const struct ref_lane *lane,
                    const struct plan_cursor *cursor, const struct ref_span *place)
{
    const struct choir_plan *plan = ref_plan(run, lane);
    const struct choir_step *step = plan->step + cursor->step;
    bool any = false;
    for (uint32_t k = 0; k < (uint32_t)(step->ins + step->outs) && !any; k++) {
        if (plan->place[step->place + k].peer >= 0)
            continue;
        struct ref_span s = ref_span_make(run, lane, cursor, k);
        any = ref_overlap(run, &s, 0, s.count, place, 0, place->count);
        free(s.segment);
    }
    return any;
}

static bool receives(const struct choir_plan *plan, const struct plan_cursor *cursor, uint32_t src)
{
    const struct choir_step *step = plan->step + cursor->step;
    const struct choir_place *p = plan->place + step->place;
    for (uint32_t k = 0; k < step->ins; k++)
        if (p[k].peer >= 0 && plan_peer(plan, p + k, cursor->iter) == src)
            return true;
    return false;
}

/* The step whose only in is this message, `skip` receives from the channel's source ahead, if everything
 * before it leaves its first destination alone. */
static bool find_place(struct ref_run *run, const struct ref_lane *to, uint32_t src, uint32_t skip,
                       struct ref_span *place)
{
    const struct choir_plan *plan = ref_plan(run, to);
    uint32_t program = to->instance % plan->programs;
    struct plan_cursor c = to->cursor;
    /* The present step has had its messages once its last fragment is staged. */
    bool there = true, had = to->staged && (to->fragment + 1) * run->slot >= to->count;
    for (; there; there = plan_cursor_next(&c, plan, program), had = false)
        if (!had && receives(plan, &c, src) && !skip--)
            break;
    const struct choir_step *step = plan->step + c.step;
    bool present = c.step == to->cursor.step && c.iter == to->cursor.iter;
    if (!there || step->ins != 1 || plan->place[step->place + 1].peer >= 0 ||
        (present && to->fragment))
        return false;
    struct ref_span s = ref_span_make(run, to, &c, 1);
    bool clear = run->status == CHOIR_OK;
    struct plan_cursor before = to->cursor;
    for (; clear && (before.step != c.step || before.iter != c.iter);
         plan_cursor_next(&before, plan, program))
        clear = !touches(run, to, &before, &s);
    for (uint32_t i = 0; clear && i < to->pendings; i++) {
        const struct ref_message *p = to->pending[i];
        clear = !ref_overlap(run, &p->source, ref_passed(run, p), p->count, &s, 0, s.count);
    }
    if (clear)
        *place = s;
    else
        free(s.segment);
    return clear;
}

static bool may_land(struct ref_run *run, const struct ref_channel *c, const struct ref_message *m,
                     struct ref_span *place)
{
    const struct ref_lane *to = &run->lane[c->dst * run->window + c->lane];
    uint32_t ahead = 0;
    for (const struct ref_message *x = c->head; x != m; x = x->next) {
        if (x->instance != m->instance)
            return false;
        ahead++;
    }
    if (!to->live || to->instance != m->instance || !to->in_step)
        return false;
    if (!find_place(run, to, c->src, ahead, place))
        return false;
    if (place->count == m->count)
        return true;
    free(place->segment);
    return false;
}

bool ref_pump(struct ref_run *run, struct ref_channel *c)
{
    struct ref_message *m = c->head;
    while (m && (m->pulled || m->sent == m->fragments))
        m = m->next;
    if (!m)
        return false;
    if (run->how->binding == PLAN_PUSH && !m->sent && !m->landing)
        m->landing = may_land(run, c, m, &m->place);
    uint64_t lo = m->sent * run->slot, hi = base_min(m->count, lo + run->slot);
    if (!m->landing) {
        if (c->slots_used == run->depth)
            return false;
        c->slots_used++;
    }
    if (!m->bytes)
        return false;
    ref_gather(run, &m->source, lo, hi, m->bytes + lo * run->how->elem);
    if (m->landing)
        ref_scatter(run, &m->place, lo, hi, m->bytes + lo * run->how->elem);
    m->sent++;
    return true;
}
