/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.c: is one rank's plan well-formed in itself? After it, walking the plan stays inside its arrays,
 * its cuts and the buffers, whatever file or plug-in it came from. Whether ranks fit together is the
 * verifier's question.
 */
#include "plan/builder.h"
#include <stdarg.h>
#include <stdlib.h>

/* Where in this step a part was written: `index` counts the parts of the span. */
struct mark {
    uint32_t epoch, index;
};
struct check {
    const struct choir_plan *plan;
    const struct choir_shape *shape; /* or NULL */
    struct mark *written[3];         /* by part, OUT and TMP */
    uint32_t *peer_epoch;            /* [size] */
    uint32_t epoch, step;
};

__attribute__((format(printf, 2, 3))) static enum choir_status reject(const struct choir_plan *plan,
                                                                      const char *format, ...)
{
    char text[192];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    return base_error_fill(base_error_thread(), CHOIR_ERR_ARGUMENT,
                           &(struct base_error_at){(int)plan->rank, -1, 0, 0, NULL},
                           "correct the plan: see choir_algorithm.h", "plan of rank %u: %s",
                           plan->rank, text);
}

/* --- header and cuts ---------------------------------------------------------------------------- */

static enum choir_status check_cut(const struct choir_plan *plan, unsigned buf)
{
    const struct choir_cut *c = &plan->cut[buf];
    const char *name = buf == CHOIR_IN ? "IN" : buf == CHOIR_OUT ? "OUT" : "TMP";
    if (buf == CHOIR_TMP && c->how != CHOIR_TABLE)
        return CHOIR_OK; /* no table */
    if (c->how > CHOIR_TABLE || c->parts > BUILDER_PARTS_MOST)
        return reject(plan, "%s is cut in way %u into %u parts", name, c->how, c->parts);
    if (c->how == CHOIR_EVEN &&
        (!c->parts || !c->quantum || c->count > INT64_MAX || c->quantum > INT32_MAX))
        return reject(plan, "%s: an even cut has parts and a quantum", name);
    if (c->how == CHOIR_BLOCKS && c->parts && c->count > (uint64_t)INT64_MAX / c->parts)
        return reject(plan, "%s ends beyond 2^63 elements", name);
    if (c->how == CHOIR_TABLE) {
        if (c->parts && (!c->off || !c->len))
            return reject(plan, "%s has no table", name);
        for (uint32_t p = 0; p < c->parts; p++)
            if (c->len[p] > INT64_MAX || c->off[p] > INT64_MAX - c->len[p])
                return reject(plan, "%s part %u ends beyond 2^63 elements", name, p);
        for (uint32_t p = 1; buf == CHOIR_TMP && p < c->parts; p++)
            if (c->off[p] < c->off[p - 1] + c->len[p - 1])
                return reject(plan, "TMP parts %u and %u overlap or are out of order", p - 1, p);
    }
    return CHOIR_OK;
}

/* Parts lie inside the user's buffer. Where it is absent no local place may name it (check_local). */
static enum choir_status check_extent(const struct choir_plan *plan,
                                      const struct choir_shape *shape)
{
    uint64_t extent[2];
    plan_shape_extent(shape, &extent[0], &extent[1]);
    for (unsigned buf = 0; buf < 2; buf++) {
        const struct choir_cut *c = &plan->cut[buf];
        if (!shape_present(shape, buf))
            continue;
        bool fits = c->how == CHOIR_EVEN    ? c->count <= extent[buf]
                    : c->how == CHOIR_TABLE ? true
                                            : c->count * c->parts <= extent[buf];
        for (uint32_t p = 0; c->how == CHOIR_TABLE && p < c->parts; p++)
            fits &= !c->len[p] || c->off[p] + c->len[p] <= extent[buf];
        if (!fits)
            return reject(plan, "the cut of %s is larger than the buffer of %llu elements",
                          buf == CHOIR_IN ? "IN" : "OUT", (unsigned long long)extent[buf]);
    }
    return CHOIR_OK;
}

/* Buffers that may alias are cut alike where they share bytes: the order of accesses is kept part by part. */
static enum choir_status check_alias(const struct choir_plan *plan, const struct choir_shape *shape)
{
    const struct choir_cut *in = &plan->cut[CHOIR_IN], *out = &plan->cut[CHOIR_OUT];
    int64_t shift;
    if (!plan_shape_in_place(shape, &shift))
        return CHOIR_OK;
    uint32_t in_first = 0, out_first = 0, n = base_min(in->parts, out->parts);
    uint32_t most = base_max(in->parts, out->parts);
    enum shape_holds in_holds = shape_holds(shape, CHOIR_IN);
    if (in_holds != shape_holds(shape, CHOIR_OUT)) {
        if (!n || most != (uint64_t)n * plan->size)
            return reject(plan, "a block is %u parts, all %u blocks are %u", n, plan->size, most);
        *(in_holds == SHAPE_BLOCK ? &out_first : &in_first) = n * plan->rank;
    } else if (n != most) {
        return reject(plan, "IN has %u parts, OUT, which may be the same memory, %u", in->parts,
                      out->parts);
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t a = plan_part_off(in, in_first + i), b = plan_part_off(out, out_first + i);
        uint64_t len = plan_part_len(in, in_first + i);
        if (len != plan_part_len(out, out_first + i) || (len && a + (uint64_t)shift != b))
            return reject(plan, "part %u of IN is not part %u of OUT where they alias",
                          in_first + i, out_first + i);
    }
    return CHOIR_OK;
}

static enum choir_status check_header(const struct choir_plan *p, const struct choir_shape *shape)
{
    if (p->abi != CHOIR_ALGORITHM_ABI || p->kind >= CHOIR_KINDS)
        return reject(p, "abi %u, collective %u", p->abi, p->kind);
    if (!p->size || p->size > BUILDER_PARTS_MOST || p->rank >= p->size)
        return reject(p, "rank %u of %u", p->rank, p->size);
    if (!p->programs || !p->instances || p->instances % p->programs ||
        p->instances > BUILDER_INSTANCES_MOST || !p->window || p->window > p->instances)
        return reject(p, "%u programs, %u instances, window %u", p->programs, p->instances,
                      p->window);
    if (p->depth < 2 || !p->slot)
        return reject(p, "depth %u, slot of %llu elements", p->depth, (unsigned long long)p->slot);
    if (p->tmp > BUILDER_PARTS_MOST)
        return reject(p, "%u parts of TMP", p->tmp);
    if (plan_tmp_tabled(p) && (p->cut[CHOIR_TMP].parts != p->tmp || p->instances != 1))
        return reject(p, "a table of TMP has all %u parts, and one instance", p->tmp);
    if (shape_pair_sized(p->kind) && p->instances != 1)
        return reject(p, "%u instances where only a pair knows sizes", p->instances);
    if (shape && (shape->kind != p->kind || shape->rank != p->rank || shape->ranks != p->size))
        return reject(p, "made for another shape: %s, rank %u of %u",
                      plan_kind_name((enum choir_kind)p->kind), p->rank, p->size);
    if (shape && (p->slot > shape->slot_bytes / shape->type_bytes || p->depth > shape->depth ||
                  p->window > shape->window))
        return reject(p, "slot of %llu elements, depth %u, window %u are more than there is",
                      (unsigned long long)p->slot, p->depth, p->window);
    return CHOIR_OK;
}

/* Programs, steps, loops and the places' fields; nothing that depends on the iteration. */
static enum choir_status check_place(const struct choir_plan *plan, uint32_t step,
                                     const struct choir_place *p)
{
    if (p->buf > CHOIR_TMP || p->list > 1)
        return reject(plan, "step %u: buffer %u, list %u", step, p->buf, p->list);
    uint32_t parts = plan_parts(plan, p->buf);
    if (!parts)
        return reject(plan, "step %u names a buffer without parts", step);
    if (p->peer >= 0 && p->buf == CHOIR_TMP && !plan_tmp_tabled(plan))
        return reject(plan, "step %u: a message is measured by IN or OUT, not TMP without a table",
                      step);
    if (p->peer >= (int64_t)plan->size || p->peer < -1)
        return reject(plan, "step %u: peer %d of %u ranks", step, p->peer, plan->size);
    if (p->turn < 0 || p->dturn < 0 || p->dpeer < 0 || (uint32_t)p->turn >= parts ||
        (uint32_t)p->dturn >= parts || (uint32_t)p->dpeer >= plan->size)
        return reject(plan, "step %u: turn %d, dturn %d of %u parts or dpeer %d not normalised",
                      step, p->turn, p->dturn, parts, p->dpeer);
    if (!p->run || !p->stride || p->run > p->stride)
        return reject(plan, "step %u: run %u, stride %u", step, p->run, p->stride);
    if (p->list) {
        if (p->first > plan->lists || p->run > plan->lists - p->first)
            return reject(plan, "step %u: list %u + %u of %u", step, p->first, p->run, plan->lists);
        for (uint32_t i = p->first; i < p->first + p->run; i++)
            if (plan->list[i] >= parts)
                return reject(plan, "step %u: list names part %u of %u", step, plan->list[i],
                              parts);
    } else if (p->first >= p->end || p->end > parts) {
        return reject(plan, "step %u: parts [%u, %u) of %u", step, p->first, p->end, parts);
    }
    return CHOIR_OK;
}

static enum choir_status check_program(const struct choir_plan *plan, uint32_t from, uint32_t to)
{
    uint32_t loop_end = from;
    uint64_t unrolled = 0, times = 1;
    for (uint32_t i = from; i < to; i++) {
        const struct choir_step *s = plan->step + i;
        if (!s->ins || !s->outs || s->place > plan->places ||
            (uint32_t)(s->ins + s->outs) > plan->places - s->place)
            return reject(plan, "step %u has places %u + %u + %u of %u", i, s->place, s->ins,
                          s->outs, plan->places);
        if (i >= loop_end)
            times = 1;
        if (s->body) {
            if (i < loop_end || s->body > to - i || !s->times)
                return reject(plan, "step %u: a loop of %u steps, %u times, nested or too long", i,
                              s->body, s->times);
            loop_end = i + s->body;
            times = s->times;
        }
        unrolled += times;
        if (unrolled > BUILDER_STEPS_MOST)
            return reject(plan, "a program of more than %u steps", BUILDER_STEPS_MOST);
        for (uint32_t k = 0; k < (uint32_t)(s->ins + s->outs); k++) {
            enum choir_status status = check_place(plan, i, plan->place + s->place + k);
            if (status != CHOIR_OK)
                return status;
        }
    }
    return CHOIR_OK;
}

/* --- steps, iteration by iteration ---------------------------------------------------------------- */

static enum choir_status check_lengths(struct check *c, const struct choir_step *step, uint32_t t)
{
    const struct choir_plan *plan = c->plan;
    const struct choir_place *first = plan->place + step->place,
                             *end = first + step->ins + step->outs;
    const struct choir_place *measure = plan_measure(plan, step);
    const struct choir_place *ref = measure ? measure : first;
    uint64_t sum = 0;
    bool computed = false;
    for (const struct choir_place *p = first; p < end; p++) {
        struct plan_walk w, r;
        uint32_t part, want;
        bool lengths = plan_measures(plan, p);
        computed |= p->peer >= 0 && p >= first + step->ins;
        plan_walk_start(&w, plan, p, t);
        plan_walk_start(&r, plan, ref, t);
        while (plan_walk_next(&r, &want)) {
            if (!plan_walk_next(&w, &part))
                return reject(plan, "step %u: its places differ in parts", c->step);
            uint64_t len = lengths ? plan_part_len(&plan->cut[p->buf], part) : 0;
            if (lengths && len != plan_part_len(&plan->cut[ref->buf], want))
                return reject(plan, "step %u, iteration %u: its places differ in lengths", c->step,
                              t);
            if (p == ref)
                sum += len / plan->instances + (len % plan->instances != 0);
        }
        if (plan_walk_next(&w, &part))
            return reject(plan, "step %u: its places differ in parts", c->step);
    }
    if (!computed || plan_step_pending(plan, step))
        return CHOIR_OK;
    if (sum > plan->slot || shape_pair_sized(plan->kind))
        return reject(
            plan, "step %u: a computed message of up to %llu elements needs one slot of %llu%s",
            c->step, (unsigned long long)sum, (unsigned long long)plan->slot,
            shape_pair_sized(plan->kind) ? "; sizes that only a pair knows may exceed it" : "");
    return CHOIR_OK;
}

/* A rank exchanges messages with others, and with each at most one in and one out a step. */
static enum choir_status check_peers(struct check *c, const struct choir_place *p, uint32_t n,
                                     uint32_t t)
{
    c->epoch++;
    for (uint32_t i = 0; i < n; i++) {
        if (p[i].peer < 0)
            continue;
        uint32_t peer = plan_peer(c->plan, p + i, t);
        if (peer == c->plan->rank)
            return reject(c->plan, "step %u, iteration %u: a message to itself", c->step, t);
        if (c->peer_epoch[peer] == c->epoch)
            return reject(c->plan, "step %u, iteration %u: two messages of peer %u in one step",
                          c->step, t, peer);
        c->peer_epoch[peer] = c->epoch;
    }
    return CHOIR_OK;
}

static enum choir_status check_local(struct check *c, const struct choir_step *step, uint32_t t)
{
    const struct choir_plan *plan = c->plan;
    const struct choir_place *first = plan->place + step->place, *outs = first + step->ins;
    c->epoch++;
    for (const struct choir_place *p = outs; p < outs + step->outs; p++) {
        struct plan_walk w;
        if (p->peer >= 0)
            continue;
        if (p->buf == CHOIR_IN)
            return reject(plan, "step %u writes IN", c->step);
        plan_walk_start(&w, plan, p, t);
        for (uint32_t part, i = 0; plan_walk_next(&w, &part); i++) {
            struct mark *m = &c->written[p->buf][part];
            if (m->epoch == c->epoch)
                return reject(plan, "step %u, iteration %u writes part %u twice", c->step, t, part);
            *m = (struct mark){c->epoch, i};
        }
    }
    for (const struct choir_place *p = first; p < outs + step->outs; p++) {
        if (p->peer >= 0)
            continue;
        if (c->shape && p->buf != CHOIR_TMP && !shape_present(c->shape, p->buf))
            return reject(plan, "step %u: %s is absent on this rank", c->step,
                          p->buf == CHOIR_IN ? "IN" : "OUT");
        struct plan_walk w;
        plan_walk_start(&w, plan, p, t);
        for (uint32_t part, i = 0; p < outs && p->buf != CHOIR_IN && plan_walk_next(&w, &part);
             i++) {
            struct mark *m = &c->written[p->buf][part];
            if (m->epoch == c->epoch && m->index != i)
                return reject(plan, "step %u, iteration %u: source and destination overlap shifted",
                              c->step, t);
        }
    }
    return CHOIR_OK;
}

static bool varies(const struct choir_plan *plan, const struct choir_step *step)
{
    const struct choir_place *p = plan->place + step->place;
    for (uint32_t i = 0; i < (uint32_t)(step->ins + step->outs); i++)
        if (p[i].dpeer || p[i].dturn)
            return true;
    return false;
}

static enum choir_status check_steps(struct check *c)
{
    const struct choir_plan *plan = c->plan;
    for (uint32_t program = 0; program < plan->programs; program++) {
        struct plan_cursor at = {0};
        while (plan_cursor_next(&at, plan, program)) {
            const struct choir_step *s = plan->step + at.step;
            const struct choir_place *p = plan->place + s->place;
            if (at.iter && !varies(plan, s))
                continue;
            c->step = at.step;
            enum choir_status status = check_lengths(c, s, at.iter);
            if (status == CHOIR_OK)
                status = check_peers(c, p, s->ins, at.iter);
            if (status == CHOIR_OK)
                status = check_peers(c, p + s->ins, s->outs, at.iter);
            if (status == CHOIR_OK)
                status = check_local(c, s, at.iter);
            if (status != CHOIR_OK)
                return status;
        }
    }
    return CHOIR_OK;
}

enum choir_status plan_check(const struct choir_plan *plan, const struct choir_shape *shape)
{
    enum choir_status status = check_header(plan, shape);
    for (unsigned buf = 0; buf < 3 && status == CHOIR_OK; buf++)
        status = check_cut(plan, buf);
    if (status == CHOIR_OK && shape)
        status = check_extent(plan, shape);
    if (status == CHOIR_OK && shape)
        status = check_alias(plan, shape);
    if (status == CHOIR_OK && (plan->begin[0] || plan->begin[plan->programs] != plan->steps))
        status = reject(plan, "programs do not cover the %u steps", plan->steps);
    for (uint32_t i = 0; i < plan->programs && status == CHOIR_OK; i++) {
        if (plan->begin[i] > plan->begin[i + 1] || plan->begin[i + 1] > plan->steps)
            return reject(plan, "program %u begins at step %u", i, plan->begin[i]);
        status = check_program(plan, plan->begin[i], plan->begin[i + 1]);
    }
    if (status != CHOIR_OK)
        return status;
    uint32_t marks = plan->cut[CHOIR_OUT].parts + plan->tmp;
    struct check c = {.plan = plan, .shape = shape};
    struct mark *mark = calloc((size_t)marks + 1, sizeof(*mark));
    c.peer_epoch = calloc(plan->size, sizeof(*c.peer_epoch));
    if (mark && c.peer_epoch) {
        c.written[CHOIR_OUT] = mark;
        c.written[CHOIR_TMP] = mark + plan->cut[CHOIR_OUT].parts;
        status = check_steps(&c);
    } else {
        status = base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory to check a plan");
    }
    free(mark);
    free(c.peer_epoch);
    return status;
}
