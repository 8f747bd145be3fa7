/* SPDX-License-Identifier: Apache-2.0 */
/*
 * builder.c: the calls by which an algorithm writes its plan. They only note what is said, with the
 * defaults of places filled in; finish.c makes the plan of it and check.c judges it. Errors are sticky.
 */
#include "plan/builder.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum choir_status builder_fail(struct choir_builder *b, enum choir_status status,
                               const char *format, ...)
{
    if (b->status != CHOIR_OK)
        return b->status;
    char text[192];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    b->status = status;
    return base_error_fill(
        base_error_thread(), status, &(struct base_error_at){(int)b->shape.rank, -1, 0, 0, NULL},
        status == CHOIR_ERR_UNSUPPORTED ? "choose another algorithm for this shape"
                                        : "correct the algorithm: see choir_algorithm.h",
        "%.48s for %s of %u ranks: %s", b->name[0] ? b->name : "plan",
        plan_kind_name((enum choir_kind)b->shape.kind), b->shape.ranks, text);
}

void *builder_append(struct choir_builder *b, struct builder_vector *v, uint32_t more, size_t size)
{
    uint64_t need = (uint64_t)v->count + more;
    if (b->status != CHOIR_OK)
        return NULL;
    if (need > v->room) {
        uint64_t room = base_max(need, base_min(2 * (uint64_t)v->room + 16, UINT32_MAX / 2));
        void *data = room > UINT32_MAX / 2 ? NULL : realloc(v->data, room * size);
        if (!data) {
            builder_fail(b, CHOIR_ERR_NO_MEMORY, "no memory for %llu items",
                         (unsigned long long)need);
            return NULL;
        }
        v->data = data;
        v->room = (uint32_t)room;
    }
    void *at = (char *)v->data + v->count * size;
    v->count += more;
    return at;
}

/* --- cuts --------------------------------------------------------------------------------------- */

/* Divides every block of buffer `buf` into k; where all sub-blocks come out alike the cut stays BLOCKS. */
static void cut_buffer(struct choir_builder *b, unsigned buf, uint32_t k)
{
    const struct choir_shape *s = &b->shape;
    uint32_t blocks = shape_blocks(s, buf);
    struct choir_cut *cut = &b->cut[buf];
    if ((uint64_t)blocks * k > BUILDER_PARTS_MOST) {
        builder_fail(b, CHOIR_ERR_UNSUPPORTED, "%u blocks of %u parts are too many", blocks, k);
        return;
    }
    free(b->table[buf]);
    b->table[buf] = NULL;
    struct choir_cut sub = {CHOIR_EVEN, k, s->count, shape_quantum(s), NULL, NULL};
    uint32_t parts = blocks * k;
    if (!shape_is_v(s) && (k == 1 || plan_even(&sub) * k == s->count)) {
        *cut = (struct choir_cut){CHOIR_BLOCKS, parts, s->count / k, 1, NULL, NULL};
        return;
    }
    uint64_t *table = malloc((2 * (uint64_t)parts + 1) * sizeof(*table));
    if (!table) {
        builder_fail(b, CHOIR_ERR_NO_MEMORY, "no memory for a cut of %u parts", parts);
        return;
    }
    b->table[buf] = table;
    uint64_t *off = table, *len = table + parts;
    shape_table(s, buf, off, len);
    for (uint32_t p = blocks;
         p-- > 0;) { /* from the end: sub-blocks spread out over the blocks' entries */
        uint64_t at = off[p];
        sub.count = len[p];
        for (uint32_t j = k; j-- > 0;) {
            off[p * k + j] = at + plan_part_off(&sub, j);
            len[p * k + j] = plan_part_len(&sub, j);
        }
    }
    *cut = (struct choir_cut){CHOIR_TABLE, parts, 0, 1, off, len};
}

static void cut_whole(struct choir_builder *b, uint32_t parts)
{
    const struct choir_shape *s = &b->shape;
    uint64_t count = s->kind == CHOIR_BARRIER ? 0 : s->count;
    for (unsigned buf = 0; buf < 2; buf++)
        b->cut[buf] = (struct choir_cut){CHOIR_EVEN, parts, count, shape_quantum(s), NULL, NULL};
}

void choir_cut_even(struct choir_builder *b, uint32_t parts)
{
    if (b->status != CHOIR_OK)
        return;
    if (shape_holds(&b->shape, CHOIR_IN) != SHAPE_WHOLE)
        builder_fail(b, CHOIR_ERR_ARGUMENT, "choir_cut_even: this collective has blocks");
    else if (!parts || parts > BUILDER_PARTS_MOST)
        builder_fail(b, CHOIR_ERR_ARGUMENT, "choir_cut_even: %u parts", parts);
    else
        cut_whole(b, parts);
}

void choir_cut_blocks(struct choir_builder *b, uint32_t k)
{
    if (b->status != CHOIR_OK)
        return;
    if (shape_holds(&b->shape, CHOIR_IN) == SHAPE_WHOLE) {
        builder_fail(b, CHOIR_ERR_ARGUMENT, "choir_cut_blocks: this collective has no blocks");
        return;
    }
    if (!k) {
        builder_fail(b, CHOIR_ERR_ARGUMENT, "choir_cut_blocks: 0 parts a block");
        return;
    }
    cut_buffer(b, CHOIR_IN, k);
    cut_buffer(b, CHOIR_OUT, k);
}

void choir_tmp(struct choir_builder *b, uint32_t parts)
{
    if (parts > BUILDER_PARTS_MOST)
        builder_fail(b, CHOIR_ERR_UNSUPPORTED, "choir_tmp: %u parts", parts);
    else
        b->tmp = parts;
}

void choir_tmp_table(struct choir_builder *b, uint32_t parts, const uint64_t *len)
{
    choir_tmp(b, parts);
    uint64_t *table = malloc((2 * (uint64_t)parts + 1) * sizeof(*table)), at = 0;
    free(b->table[CHOIR_TMP]);
    b->table[CHOIR_TMP] = table;
    if (!table) {
        builder_fail(b, CHOIR_ERR_NO_MEMORY, "no memory for a table of %u parts", parts);
        return;
    }
    for (uint32_t p = 0; p < parts; at += len[p++]) {
        table[p] = at;
        table[parts + p] = len[p];
    }
    b->cut[CHOIR_TMP] = (struct choir_cut){CHOIR_TABLE, parts, 0, 1, table, table + parts};
}

void choir_piece(struct choir_builder *b, uint64_t bytes)
{
    b->piece_bytes = bytes;
}

void choir_computed(struct choir_builder *b, uint32_t parts)
{
    b->computed = parts;
}

/* --- steps -------------------------------------------------------------------------------------- */

/* Fills the defaults of struct choir_place. */
static struct choir_place with_defaults(struct choir_place p)
{
    if (!p.run)
        p.run = 1;
    if (!p.stride || p.list)
        p.stride = p.run;
    if (!p.end || p.list)
        p.end = p.run > UINT32_MAX - p.first ? UINT32_MAX : p.first + p.run;
    return p;
}

void choir_step(struct choir_builder *b, uint32_t nins, const struct choir_place *ins,
                uint32_t nouts, const struct choir_place *outs)
{
    if (!nins || !nouts || nins > UINT16_MAX || nouts > UINT16_MAX) {
        builder_fail(b, CHOIR_ERR_ARGUMENT, "step %u has %u sources and %u destinations",
                     b->step.count, nins, nouts);
        return;
    }
    uint32_t first = b->place.count;
    struct choir_place *p = builder_append(b, &b->place, nins + nouts, sizeof(*p));
    struct choir_step *s = builder_append(b, &b->step, 1, sizeof(*s));
    if (!p || !s)
        return;
    *s = (struct choir_step){.place = first, .ins = (uint16_t)nins, .outs = (uint16_t)nouts};
    for (uint32_t i = 0; i < nins; i++)
        p[i] = with_defaults(ins[i]);
    for (uint32_t i = 0; i < nouts; i++)
        p[nins + i] = with_defaults(outs[i]);
}

void choir_loop(struct choir_builder *b, uint32_t body, uint32_t times)
{
    if (b->status != CHOIR_OK)
        return;
    uint32_t begin = builder_begins(b)[b->begin.count - 1];
    if (!body || body > b->step.count - begin) {
        builder_fail(b, CHOIR_ERR_ARGUMENT, "choir_loop: %u steps of the %u of this program", body,
                     b->step.count - begin);
        return;
    }
    struct choir_step *first = builder_steps(b) + b->step.count - body;
    /* A loop that ends before `first` is a neighbour; one that reaches into the body would be nested. */
    for (struct choir_step *s = builder_steps(b) + begin; s < first + body; s++)
        if (s->body && s + s->body > first) {
            builder_fail(b, CHOIR_ERR_ARGUMENT, "choir_loop: loops do not nest (step %u)",
                         (uint32_t)(s - builder_steps(b)));
            return;
        }
    if (!times) {
        b->place.count = first->place;
        b->step.count -= body;
    } else if (times > 1) {
        first->body = body;
        first->times = times;
    }
}

void choir_next_program(struct choir_builder *b)
{
    uint32_t *begin = builder_append(b, &b->begin, 1, sizeof(*begin));
    if (begin)
        *begin = b->step.count;
}

uint32_t choir_list(struct choir_builder *b, uint32_t n, const uint32_t *parts)
{
    uint32_t first = b->list.count;
    uint32_t *list = builder_append(b, &b->list, n, sizeof(*list));
    if (!list)
        return 0;
    if (n)
        memcpy(list, parts, n * sizeof(*list));
    return first;
}

enum choir_status choir_unsupported(struct choir_builder *b, const char *why)
{
    builder_fail(b, CHOIR_ERR_UNSUPPORTED, "%s", why);
    return CHOIR_ERR_UNSUPPORTED;
}

enum choir_status choir_builder_status(const struct choir_builder *b)
{
    return b->status;
}

/* --- life --------------------------------------------------------------------------------------- */

enum choir_status builder_init(struct choir_builder *b, const struct choir_shape *shape)
{
    *b = (struct choir_builder){.status = shape_check(shape), .computed = 1};
    if (b->status != CHOIR_OK)
        return b->status;
    b->shape = *shape;
    snprintf(b->args, sizeof(b->args), "%s", shape->args ? shape->args : "");
    b->shape.args = b->args;
    if (shape_holds(shape, CHOIR_IN) == SHAPE_WHOLE)
        cut_whole(b, 1);
    else
        choir_cut_blocks(b, 1);
    choir_next_program(b);
    return b->status;
}

void builder_free(struct choir_builder *b)
{
    for (size_t i = 0; i < base_count(b->table); i++)
        free(b->table[i]);
    free(b->begin.data);
    free(b->step.data);
    free(b->place.data);
    free(b->list.data);
}

/* Splits "name(args)"; the closing parenthesis ends the text and belongs to the first one. */
static bool split(struct choir_builder *b, const char *text)
{
    size_t length = strlen(text), name = strcspn(text, "(");
    b->name[0] = b->args[0] = 0;
    if (!name || length >= BUILDER_TEXT)
        return false;
    memcpy(b->name, text, length + 1);
    if (name == length)
        return true;
    int depth = 0;
    for (size_t i = name; i < length; i++) {
        depth += (text[i] == '(') - (text[i] == ')');
        if (depth == 0 && i + 1 < length)
            return false;
    }
    if (depth)
        return false;
    memcpy(b->args, text + name + 1, length - name - 2);
    b->args[length - name - 2] = 0;
    return true;
}

enum choir_status builder_run(struct choir_builder *b, const char *text)
{
    if (b->status != CHOIR_OK)
        return b->status;
    if (!split(b, text))
        return builder_fail(b, CHOIR_ERR_ARGUMENT, "\"%.64s\" is not name or name(arguments)",
                            text);
    const struct choir_algorithm *a = plan_algorithm_find(text);
    if (!a)
        return builder_fail(b, CHOIR_ERR_ARGUMENT,
                            "there is no such algorithm; choir-info --algorithms lists them");
    if (!(a->kinds >> b->shape.kind & 1))
        return builder_fail(b, CHOIR_ERR_UNSUPPORTED, "%s does not do this collective", a->name);
    enum choir_status status = a->build(&b->shape, b);
    if (status != CHOIR_OK)
        builder_fail(b, status, "not for this shape");
    return b->status;
}

enum choir_status plan_build(const char *algorithm, const struct choir_shape *shape,
                             struct choir_plan **plan)
{
    struct choir_builder b;
    if (!strncmp(algorithm, "file:", 5)) {
        const struct plan_set *set = plan_set_find(algorithm);
        return set ? plan_set_build(set, shape, plan)
                   : base_fail(CHOIR_ERR_ARGUMENT, "name its file in CHOIR_PLAN_FILES",
                               "no plans %.48s are loaded", algorithm);
    }
    enum choir_status status = builder_init(&b, shape);
    if (status == CHOIR_OK)
        status = builder_run(&b, algorithm);
    if (status == CHOIR_OK)
        status = builder_finish(&b, plan);
    builder_free(&b);
    return status;
}
