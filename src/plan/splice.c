/* SPDX-License-Identifier: Apache-2.0 */
/*
 * splice.c: a plan inside a plan. The sub-plan is built by its algorithm for a group of ranks as for a
 * communicator of its own, then copied step by step with everything renamed. It is never finished: instances,
 * window and slots are the outer plan's, so sub-plans need no agreement of their own and pipeline with the
 * rest.
 */
#include "plan/builder.h"
#include <stdlib.h>

/* A sub-plan while it is being copied. */
struct splice {
    struct choir_builder *b;
    const struct choir_splice *s;
    struct choir_builder sub;
    struct choir_layout *layout;
    uint64_t *count[2]; /* lengths of the blocks of IN and OUT, for v-forms */
    uint32_t widest;    /* parts of ours in the widest part of the sub-plan's IN or OUT */
    uint32_t *width;    /* scratch: by part of the step's spans */
    uint32_t *list;     /* scratch: our parts of one place */
    struct choir_place *place;
    uint64_t room[3];
};

static uint32_t modulo(int64_t a, uint32_t n)
{
    int64_t r = a % n;
    return (uint32_t)(r < 0 ? r + n : r);
}

static void *grow(struct splice *x, void **data, uint64_t *room, uint64_t need, size_t size)
{
    if (need > *room) {
        void *grown = realloc(*data, 2 * need * size);
        if (!grown) {
            builder_fail(x->b, CHOIR_ERR_NO_MEMORY, "no memory for a sub-plan");
            return NULL;
        }
        *data = grown;
        *room = 2 * need;
    }
    return *data;
}

/* --- the sub-plan's shape --------------------------------------------------------------------- */

/* Elements of the largest part of ours: sub-plans are told sizes in multiples of it, alike on all ranks. */
static uint64_t part_length(const struct choir_builder *b)
{
    struct choir_plan cuts = {.cut = {b->cut[0], b->cut[1]}, .instances = 1};
    return plan_largest_piece(&cuts);
}

static struct choir_layout *group_layout(const struct choir_builder *b,
                                         const struct choir_splice *s)
{
    uint64_t *key = malloc(((size_t)s->n + 1) * sizeof(*key));
    struct choir_layout *layout = NULL;
    for (uint32_t i = 0; key && i < s->n; i++)
        key[i] = s->group[i] < b->shape.ranks ? b->shape.layout->host_of[s->group[i]] : 0;
    if (key)
        layout = plan_layout_create(s->n, key);
    free(key);
    return layout;
}

/* Fills in lengths: those of all blocks for v-forms, one for the others, whose blocks must be alike. */
static enum choir_status set_counts(struct splice *x, struct choir_shape *shape)
{
    uint64_t each = part_length(x->b);
    for (unsigned buf = 0; buf < 2; buf++) {
        const uint32_t *begin = x->s->map[buf].begin;
        uint32_t blocks = shape_blocks(shape, buf);
        x->count[buf] = malloc(((size_t)blocks + 1) * sizeof(**x->count));
        if (!x->count[buf])
            return CHOIR_ERR_NO_MEMORY;
        for (uint32_t q = 0; q < blocks; q++) {
            x->count[buf][q] = each * (begin[q + 1] - begin[q]);
            if (!shape_is_v(shape) && begin[q + 1] - begin[q] != begin[1] - begin[0])
                return CHOIR_ERR_ARGUMENT;
        }
        if (buf == CHOIR_IN)
            shape->count = x->count[buf][0];
    }
    if (shape_is_v(shape)) {
        shape->in_count = x->count[CHOIR_IN];
        shape->out_count = x->count[CHOIR_OUT];
    }
    return CHOIR_OK;
}

/* Our parts in part p of the sub-plan's IN or OUT: [return, *end) of the map's list. */
static uint32_t divide(const struct splice *x, unsigned buf, uint32_t p, uint32_t *end)
{
    const uint32_t *begin = x->s->map[buf].begin;
    uint32_t k = x->sub.cut[buf].parts / shape_blocks(&x->sub.shape, buf), q = p / k, j = p % k;
    uint64_t length = begin[q + 1] - begin[q];
    *end = begin[q] + (uint32_t)(length * (j + 1) / k);
    return begin[q] + (uint32_t)(length * j / k);
}

static enum choir_status open_splice(struct splice *x, struct choir_builder *b,
                                     const struct choir_splice *s, uint32_t rank)
{
    *x = (struct splice){.b = b, .s = s, .layout = group_layout(b, s)};
    struct choir_shape shape = b->shape;
    shape.kind = s->kind;
    shape.rank = rank;
    shape.ranks = s->n;
    shape.root = s->root;
    shape.layout = x->layout;
    shape.in_count = shape.in_offset = shape.out_count = shape.out_offset = NULL;
    shape.args = "";
    if (!x->layout)
        return CHOIR_ERR_NO_MEMORY;
    if (s->kind >= CHOIR_EXCHANGE || (shape_is_v(&shape) && s->kind > CHOIR_ALL_TO_ALL_V))
        return CHOIR_ERR_ARGUMENT;
    enum choir_status status = set_counts(x, &shape);
    if (status == CHOIR_OK)
        status = builder_init(&x->sub, &shape);
    if (status == CHOIR_OK)
        status = builder_run(&x->sub, s->algorithm);
    for (unsigned buf = 0; status == CHOIR_OK && buf < 2; buf++)
        for (uint32_t p = 0, end; p < x->sub.cut[buf].parts; p++) {
            uint32_t from = divide(x, buf, p, &end);
            x->widest = base_max(x->widest, end - from);
        }
    return status;
}

static void close_splice(struct splice *x)
{
    builder_free(&x->sub);
    plan_layout_free(x->layout);
    free(x->count[0]);
    free(x->count[1]);
    free(x->width);
    free(x->list);
    free(x->place);
}

/* --- renaming --------------------------------------------------------------------------------- */

/* Part i (in order of packing) of a place of the sub-plan at iteration t; false past its end. */
static bool part_at(const struct splice *x, const struct choir_place *p, uint32_t i, uint32_t t,
                    uint32_t *part)
{
    uint32_t parts = p->buf == CHOIR_TMP ? x->sub.tmp : x->sub.cut[p->buf].parts;
    uint64_t at = p->first + (uint64_t)(i / p->run) * p->stride + i % p->run;
    if (p->list ? i >= p->run : at >= p->end)
        return false;
    if (p->list)
        at = at < x->sub.list.count ? builder_lists(&x->sub)[at] : 0;
    *part = modulo((int64_t)at + p->turn + (int64_t)t * p->dturn, parts);
    return true;
}

/* Widths in our parts of the step's spans, told by the place that measures it. Returns how many, 0 on
 * failure. */
static uint32_t measure(struct splice *x, const struct choir_step *step, uint32_t t)
{
    const struct choir_place *p = builder_places(&x->sub) + step->place, *ref = p;
    for (uint32_t i = 0; i < (uint32_t)(step->ins + step->outs); i++) {
        uint32_t parts = p[i].buf == CHOIR_TMP ? x->sub.tmp : x->sub.cut[p[i].buf].parts;
        if (!parts || (p[i].buf == CHOIR_TMP && p[i].peer >= 0)) {
            builder_fail(x->b, CHOIR_ERR_ARGUMENT, "%s: step %u names parts that are not there",
                         x->s->algorithm, (uint32_t)(step - builder_steps(&x->sub)));
            return 0;
        }
        if (ref->buf == CHOIR_TMP)
            ref = p + i;
    }
    uint32_t n = 0;
    for (uint32_t part; part_at(x, ref, n, t, &part); n++) {
        uint32_t from = 0, end = x->widest;
        if (!grow(x, (void **)&x->width, &x->room[0], n + 1, sizeof(*x->width)))
            return 0;
        if (ref->buf != CHOIR_TMP)
            from = divide(x, ref->buf, part, &end);
        x->width[n] = end - from;
    }
    return n;
}

/* Writes our parts of a place into x->list; returns how many, UINT32_MAX on failure. */
static uint32_t rename_parts(struct splice *x, const struct choir_place *p, uint32_t spans,
                             uint32_t t)
{
    const struct choir_map *map = p->buf == CHOIR_TMP ? NULL : &x->s->map[p->buf];
    const uint32_t *names = NULL;
    uint32_t n = 0, part = 0;
    if (map)
        names = p->peer >= 0 && map->buf == CHOIR_TMP ? map->measure : map->part;
    for (uint32_t i = 0; i < spans && part_at(x, p, i, t, &part); i++) {
        uint32_t from = x->s->tmp + part * x->widest, end = from + x->width[i];
        if (map)
            from = divide(x, p->buf, part, &end);
        if (end > from &&
            !grow(x, (void **)&x->list, &x->room[1], (uint64_t)n + (end - from), sizeof(*x->list)))
            return UINT32_MAX;
        for (; from < end; from++)
            x->list[n++] = names ? names[from] : from;
    }
    return n;
}

/* The place that names n parts; strides where it can, else a list. */
static struct choir_place compress(struct choir_builder *b, const uint32_t *part, uint32_t n)
{
    uint32_t run = 1, stride, i = 0;
    while (run < n && part[run] == part[run - 1] + 1)
        run++;
    stride = run < n && part[run] > part[0] ? part[run] - part[0] : run;
    while (i < n && part[i] == part[0] + (uint64_t)(i / run) * stride + i % run)
        i++;
    if (i == n && stride >= run)
        return CHOIR_LOCAL(.first = part[0], .run = run, .stride = stride, .end = part[n - 1] + 1);
    return CHOIR_LOCAL(.list = 1, .first = choir_list(b, n, part), .run = n);
}

static struct choir_place rename_place(struct splice *x, const struct choir_place *p, uint32_t n,
                                       uint32_t t)
{
    struct choir_place place = compress(x->b, x->list, n);
    const struct choir_map *map = p->buf == CHOIR_TMP ? NULL : &x->s->map[p->buf];
    place.buf = map ? map->buf : CHOIR_TMP;
    if (p->peer >= 0) {
        place.peer =
            (int32_t)x->s->group[modulo((int64_t)p->peer + (int64_t)t * p->dpeer, x->s->n)];
        if (place.buf == CHOIR_TMP)
            place.buf = map->measure_buf;
    }
    return place;
}

static bool same_span(const struct choir_builder *b, const struct choir_place *p,
                      const struct choir_place *q)
{
    if (p->peer >= 0 || q->peer >= 0 || p->buf != q->buf || p->list != q->list || p->run != q->run)
        return false;
    if (!p->list)
        return p->first == q->first && p->stride == q->stride && p->end == q->end;
    for (uint32_t i = 0; i < p->run; i++)
        if (builder_lists(b)[p->first + i] != builder_lists(b)[q->first + i])
            return false;
    return true;
}

/* One step at one iteration. Left out: steps of no parts; copies onto the same bytes. */
static void copy_step(struct splice *x, const struct choir_step *step, uint32_t t)
{
    const struct choir_place *p = builder_places(&x->sub) + step->place;
    uint32_t places = (uint32_t)(step->ins + step->outs), spans = measure(x, step, t), kept = 0;
    struct choir_place *to = grow(x, (void **)&x->place, &x->room[2], places, sizeof(*x->place));
    for (uint32_t i = 0; i < places && to && x->b->status == CHOIR_OK; i++) {
        uint32_t n = rename_parts(x, p + i, spans, t);
        if (!n || n == UINT32_MAX) /* nothing of the blocks is there, here and at the other end */
            return;
        to[kept] = rename_place(x, p + i, n, t);
        kept += step->ins != 1 || i < 1 || !same_span(x->b, &to[0], &to[kept]);
    }
    if (to && kept > step->ins)
        choir_step(x->b, step->ins, to, kept - step->ins, to + step->ins);
}

static void copy_program(struct splice *x, uint32_t program)
{
    const struct choir_step *step = builder_steps(&x->sub);
    uint32_t programs = x->sub.begin.count, i = builder_begins(&x->sub)[program];
    uint32_t end =
        program + 1 < programs ? builder_begins(&x->sub)[program + 1] : x->sub.step.count;
    while (i < end && x->b->status == CHOIR_OK) {
        uint32_t body = step[i].body ? step[i].body : 1, times = step[i].body ? step[i].times : 1;
        for (uint32_t t = 0; t < times; t++)
            for (uint32_t k = i; k < i + body; k++)
                copy_step(x, step + k, t);
        i += body;
    }
}

void choir_splice(struct choir_builder *b, const struct choir_splice *s)
{
    struct splice x;
    uint32_t rank = 0;
    if (b->status != CHOIR_OK)
        return;
    while (rank < s->n && s->group[rank] != b->shape.rank)
        rank++;
    if (rank == s->n) {
        builder_fail(b, CHOIR_ERR_ARGUMENT, "this rank is not of the group of %s", s->algorithm);
        return;
    }
    enum choir_status status = open_splice(&x, b, s, rank);
    if (status != CHOIR_OK)
        builder_fail(b, status, "%s for %u ranks does not fit in", s->algorithm, s->n);
    uint64_t tmp = s->tmp + (uint64_t)x.sub.tmp * x.widest;
    if (status == CHOIR_OK && tmp > BUILDER_PARTS_MOST)
        builder_fail(b, CHOIR_ERR_UNSUPPORTED, "%llu parts of scratch", (unsigned long long)tmp);
    if (x.sub.tmp && b->cut[CHOIR_TMP].how == CHOIR_TABLE)
        builder_fail(b, CHOIR_ERR_UNSUPPORTED, "%s needs scratch beside a table's", s->algorithm);
    else if (b->status == CHOIR_OK) {
        b->tmp = base_max(b->tmp, (uint32_t)tmp);
        copy_program(&x, (b->begin.count - 1) % x.sub.begin.count);
    }
    close_splice(&x);
}

enum choir_status choir_splice_needs(const struct choir_builder *b, const struct choir_splice *s,
                                     struct choir_needs *needs)
{
    struct splice x;
    struct choir_builder scratch = *b; /* lends its shape and cuts; nothing is appended */
    enum choir_status status = open_splice(&x, &scratch, s, 0);
    if (status == CHOIR_OK) {
        uint64_t piece = x.sub.piece_bytes;
        *needs = (struct choir_needs){.programs = x.sub.begin.count,
                                      .parts = x.sub.cut[CHOIR_IN].parts /
                                               shape_blocks(&x.sub.shape, CHOIR_IN),
                                      .computed = x.sub.computed * x.widest,
                                      .piece_bytes = piece ? piece / base_max(x.widest, 1) + 1 : 0};
    }
    close_splice(&x);
    return status;
}
