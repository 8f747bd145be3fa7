/* SPDX-License-Identifier: Apache-2.0 */
/*
 * finish.c: from what a builder noted to a plan: places normalised, instances and window chosen, everything
 * packed into one allocation and checked. What is chosen here is wire shape, so it follows only from what
 * all ranks know.
 */
#include "plan/builder.h"
#include <stdlib.h>
#include <string.h>

static uint32_t modulo(int64_t a, uint32_t n)
{
    int64_t r = n ? a % n : 0;
    return (uint32_t)(r < 0 ? r + n : r);
}

static void normalise(const struct choir_plan *plan, struct choir_place *place, uint32_t places)
{
    for (struct choir_place *p = place; p < place + places; p++) {
        uint32_t parts = p->buf <= CHOIR_TMP ? plan_parts(plan, p->buf) : 0;
        p->turn = (int32_t)modulo(p->turn, parts);
        p->dturn = (int32_t)modulo(p->dturn, parts);
        p->dpeer = (int32_t)modulo(p->dpeer, plan->size);
        if (p->peer < 0) {
            p->peer = -1;
            p->dpeer = 0;
        }
    }
}

/* The smallest multiple of `programs` for which a computed message of b->computed parts fits one slot
 * and no piece is longer than asked. All ranks know the largest part of these kinds, whatever their own
 * role. */
static enum choir_status choose_instances(struct choir_builder *b, struct choir_plan *plan)
{
    plan->instances = 1;
    if (shape_pair_sized(plan->kind)) {
        if (plan->programs != 1)
            return builder_fail(b, CHOIR_ERR_ARGUMENT, "%u programs where only a pair knows sizes",
                                plan->programs);
        plan->window = 1;
        return CHOIR_OK;
    }
    uint64_t most = plan_largest_piece(plan), limit = base_max(most, 1);
    if (b->computed)
        limit = base_min(limit, plan->slot / b->computed);
    if (b->piece_bytes)
        limit = base_min(limit, base_max(b->piece_bytes / b->shape.type_bytes, 1));
    if (!limit)
        return builder_fail(b, CHOIR_ERR_UNSUPPORTED,
                            "%u parts do not fit one slot of %llu elements", b->computed,
                            (unsigned long long)plan->slot);
    uint64_t n = most / limit + (most % limit != 0);
    n = (base_max(n, 1) + plan->programs - 1) / plan->programs * plan->programs;
    if (n > BUILDER_INSTANCES_MOST)
        return builder_fail(b, CHOIR_ERR_UNSUPPORTED, "%llu instances are too many",
                            (unsigned long long)n);
    plan->instances = (uint32_t)n;
    plan->window = base_min(plan->instances, b->shape.window);
    return CHOIR_OK;
}

/* Computed messages must span no more parts than choir_computed said on all ranks. */
static enum choir_status check_computed(struct choir_builder *b, const struct choir_plan *plan)
{
    for (uint32_t s = 0; s < plan->steps; s++) {
        const struct choir_step *step = plan->step + s;
        const struct choir_place *p = plan->place + step->place;
        if (plan_step_pending(plan, step))
            continue;
        for (const struct choir_place *out = p + step->ins; out < p + step->ins + step->outs;
             out++) {
            struct plan_walk w;
            uint32_t part, parts = 0;
            if (out->peer < 0)
                continue;
            plan_walk_start(&w, plan, out, 0);
            while (plan_walk_next(&w, &part))
                parts++;
            if (parts > b->computed)
                return builder_fail(b, CHOIR_ERR_ARGUMENT,
                                    "step %u computes a message of %u parts: say so by "
                                    "choir_computed(b, %u) on all ranks",
                                    s, parts, parts);
        }
    }
    return CHOIR_OK;
}

/* Sections of the one allocation, widest alignment first. */
struct sections {
    uint64_t table[3], step, place, begin, list, end;
};
static struct sections layout(const struct choir_plan *p)
{
    struct sections s;
    uint64_t at = (sizeof(*p) + 7) / 8 * 8;
    for (unsigned buf = 0; buf < 3; buf++) {
        s.table[buf] = at;
        at += p->cut[buf].how == CHOIR_TABLE ? 16 * (uint64_t)p->cut[buf].parts : 0;
    }
    s.step = at;
    s.place = s.step + p->steps * sizeof(struct choir_step);
    s.begin = s.place + p->places * sizeof(struct choir_place);
    s.list = s.begin + ((uint64_t)p->programs + 1) * sizeof(uint32_t);
    s.end = s.list + p->lists * sizeof(uint32_t);
    return s;
}

uint64_t plan_bytes(const struct choir_plan *plan)
{
    return layout(plan).end;
}

static void section(char *base, uint64_t at, const void *from, uint64_t bytes)
{
    if (bytes)
        memcpy(base + at, from, bytes);
}

struct choir_plan *plan_copy(const struct choir_plan *plan)
{
    struct sections s = layout(plan);
    char *base = malloc(s.end);
    if (!base) {
        base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a plan of %llu bytes",
                  (unsigned long long)s.end);
        return NULL;
    }
    struct choir_plan *copy = (struct choir_plan *)base;
    *copy = *plan;
    for (unsigned buf = 0; buf < 3; buf++) {
        struct choir_cut *cut = &copy->cut[buf];
        uint64_t bytes = cut->parts * sizeof(uint64_t);
        if (cut->how != CHOIR_TABLE)
            continue;
        section(base, s.table[buf], plan->cut[buf].off, bytes);
        section(base, s.table[buf] + bytes, plan->cut[buf].len, bytes);
        cut->off = (const uint64_t *)(base + s.table[buf]);
        cut->len = cut->off + cut->parts;
    }
    section(base, s.step, plan->step, plan->steps * sizeof(*plan->step));
    section(base, s.place, plan->place, plan->places * sizeof(*plan->place));
    section(base, s.begin, plan->begin, ((uint64_t)plan->programs + 1) * sizeof(*plan->begin));
    section(base, s.list, plan->list, plan->lists * sizeof(*plan->list));
    copy->step = (const struct choir_step *)(base + s.step);
    copy->place = (const struct choir_place *)(base + s.place);
    copy->begin = (const uint32_t *)(base + s.begin);
    copy->list = (const uint32_t *)(base + s.list);
    return copy;
}

void plan_free(struct choir_plan *plan)
{
    free(plan);
}

enum choir_status builder_finish(struct choir_builder *b, struct choir_plan **plan)
{
    uint32_t programs = b->begin.count;
    choir_next_program(b); /* the end of the last program */
    if (b->status != CHOIR_OK)
        return b->status;
    const struct choir_shape *s = &b->shape;
    struct choir_plan draft = {.abi = CHOIR_ALGORITHM_ABI,
                               .kind = s->kind,
                               .rank = s->rank,
                               .size = s->ranks,
                               .cut = {b->cut[0], b->cut[1], b->cut[2]},
                               .tmp = b->tmp,
                               .programs = programs,
                               .instances = 1,
                               .depth = s->depth,
                               .slot = s->slot_bytes / s->type_bytes,
                               .begin = b->begin.data,
                               .step = b->step.data,
                               .place = b->place.data,
                               .list = b->list.data,
                               .steps = b->step.count,
                               .places = b->place.count,
                               .lists = b->list.count};
    normalise(&draft, builder_places(b), b->place.count);
    enum choir_status status = choose_instances(b, &draft);
    if (status == CHOIR_OK)
        status = plan_check(&draft, s);
    if (status == CHOIR_OK)
        status = check_computed(b, &draft);
    if (status != CHOIR_OK)
        return b->status = status;
    struct choir_plan *packed = plan_copy(&draft);
    if (!packed)
        return b->status = CHOIR_ERR_NO_MEMORY;
    *plan = packed;
    return CHOIR_OK;
}
