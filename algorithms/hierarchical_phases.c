/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hierarchical_phases.c: what the collectives of hierarchical(INNER,OUTER) are written with: hosts and their ranks,
 * lists of blocks, and phases, which splice INNER or OUTER in, or only note what that would need.
 */
#include "algorithms/hierarchical.h"

uint32_t hier_host_size(const struct hier *v, uint32_t host)
{
    return v->layout->begin[host + 1] - v->layout->begin[host];
}

uint32_t hier_member(const struct hier *v, uint32_t host, uint32_t local)
{
    return v->layout->member[v->layout->begin[host] + local];
}

/* --- lists of blocks ---------------------------------------------------------------------------- */

void hier_start(struct hier_blocks *l, uint8_t buf, uint8_t measure_buf)
{
    l->buf = buf;
    l->measure_buf = measure_buf;
    l->parts = l->count = 0;
    if (l->begin)
        l->begin[0] = 0;
}

void hier_add(struct hier *v, struct hier_blocks *l, uint32_t part, uint32_t measure)
{
    if (l->parts == l->room) {
        uint32_t room = 2 * l->room + 64;
        uint32_t *a = realloc(l->part, room * sizeof(*a));
        l->part = a ? a : l->part;
        uint32_t *m = realloc(l->measure, room * sizeof(*m));
        l->measure = m ? m : l->measure;
        if (!a || !m) {
            v->status = CHOIR_ERR_NO_MEMORY;
            return;
        }
        l->room = room;
    }
    l->part[l->parts] = part;
    l->measure[l->parts++] = measure;
}

/* Ends the present block. */
void hier_end(struct hier *v, struct hier_blocks *l)
{
    if (l->count + 2 > l->begins) {
        uint32_t room = 2 * l->begins + 64;
        uint32_t *a = realloc(l->begin, room * sizeof(*a));
        if (!a) {
            v->status = CHOIR_ERR_NO_MEMORY;
            return;
        }
        a[0] = 0;
        l->begin = a;
        l->begins = room;
    }
    l->begin[++l->count] = l->parts;
}

void hier_add_run(struct hier *v, struct hier_blocks *l, uint32_t from, uint32_t to)
{
    for (; from < to; from++)
        hier_add(v, l, from, from);
    hier_end(v, l);
}

static bool even(const struct hier_blocks *l)
{
    for (uint32_t q = 1; q < l->count; q++)
        if (l->begin[q + 1] - l->begin[q] != l->begin[1])
            return false;
    return true;
}

/* --- phases ----------------------------------------------------------------------------------- */

void hier_copy(struct hier *v, struct choir_place in, struct choir_place out)
{
    if (!v->survey)
        CHOIR_STEP(v->b, CHOIR_PLACES(in), CHOIR_PLACES(out));
}

/* Splices v->in and v->out, or notes what that would need. The v-form stands in where blocks differ. */
void hier_phase(struct hier *v, const char *algorithm, enum choir_kind kind, uint32_t n,
                uint32_t root)
{
    struct choir_needs needs = {0};
    const struct hier_blocks *wide = kind == CHOIR_REDUCE_SCATTER ? &v->in : &v->out;
    if (kind == CHOIR_ALL_GATHER && !even(wide))
        kind = CHOIR_ALL_GATHER_V;
    if (kind == CHOIR_REDUCE_SCATTER && !even(wide))
        kind = CHOIR_REDUCE_SCATTER_V;
    if (v->status != CHOIR_OK)
        return;
    struct choir_splice s = {
        .algorithm = algorithm,
        .kind = kind,
        .root = root,
        .n = n,
        .group = v->group,
        .map = {{v->in.buf, v->in.measure_buf, v->in.begin, v->in.part, v->in.measure},
                {v->out.buf, v->out.measure_buf, v->out.begin, v->out.part, v->out.measure}},
        .tmp = v->tmp};
    if (!v->survey) {
        choir_splice(v->b, &s);
        return;
    }
    v->status = choir_splice_needs(v->b, &s, &needs);
    if (needs.programs > v->needs.programs)
        v->needs.programs = needs.programs;
    if (needs.computed > v->needs.computed)
        v->needs.computed = needs.computed;
    if (needs.piece_bytes && (!v->needs.piece_bytes || needs.piece_bytes < v->needs.piece_bytes))
        v->needs.piece_bytes = needs.piece_bytes;
}

/* Among the ranks of this host. */
void hier_inner(struct hier *v, enum choir_kind kind, uint32_t root)
{
    for (uint32_t i = 0; i < v->size; i++)
        v->group[i] = hier_member(v, v->host, i);
    hier_phase(v, v->inner, kind, v->size, root);
}

void hier_set_column(struct hier *v)
{
    for (uint32_t h = 0; h < v->layout->hosts; h++)
        v->group[h] = hier_member(v, h, v->local);
}

/* Among the ranks with this one's local index on all hosts. */
void hier_outer(struct hier *v, enum choir_kind kind)
{
    hier_set_column(v);
    hier_phase(v, v->outer, kind, v->layout->hosts, 0);
}

/* The rank that stands for a host in rooted phases. */
uint32_t hier_leader(const struct hier *v, uint32_t host)
{
    uint32_t root = v->shape->root;
    return v->layout->host_of[root] == host ? v->layout->local_of[root] : 0;
}

bool hier_carried(const struct hier *v, uint32_t host, uint32_t column)
{
    return host != v->host && (v->host + host) % v->columns == column;
}

void hier_set_leaders(struct hier *v)
{
    for (uint32_t h = 0; h < v->layout->hosts; h++)
        v->group[h] = hier_member(v, h, hier_leader(v, h));
}

void hier_among_leaders(struct hier *v, enum choir_kind kind)
{
    hier_set_leaders(v);
    hier_phase(v, v->outer, kind, v->layout->hosts, v->layout->host_of[v->shape->root]);
}
