/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hierarchical_counts.c: hierarchical collectives of which no rank knows all sizes by itself: all_to_all_v, gather_v,
 * scatter_v. The ranks exchange their counts beforehand (shape->all_counts), so that a rank can hold, in a TMP cut
 * by them, what others of its host send to or get from another host, and two hosts exchange one message each way.
 * Blocks of nothing are left out at both ends.
 * Source: as hierarchical.c; K. Kandalla et al., "Designing topology-aware collective communication algorithms for
 * large scale InfiniBand clusters: case studies with Scatter and Gather", IPDPS workshops 2010.
 */
#include "algorithms/hierarchical.h"

/* --- all-to-all ------------------------------------------------------------------------------- */

static uint64_t sent(const struct hier *v, uint32_t from, uint32_t to)
{
    return v->shape->all_counts[(uint64_t)from * v->shape->ranks + to];
}

/* In a carrier's TMP (hier_carried) lie, host by host: a part for each rank here and each there that it sends to; then
 * for each there and each here. */
static uint32_t pairs_with(const struct hier *v, uint32_t host)
{
    return hier_carried(v, host, v->local) ? v->size * hier_host_size(v, host) : 0;
}

static void add_if(struct hier *v, struct hier_blocks *l, uint32_t part, uint64_t count)
{
    if (count)
        hier_add(v, l, part, part);
}

/* Gives TMP its table. */
static void cut_tmp(struct hier *v)
{
    uint32_t parts = 0, at = 0;
    for (uint32_t h = 0; h < v->layout->hosts; h++)
        parts += 2 * pairs_with(v, h);
    uint64_t *len = malloc(((size_t)parts + 1) * sizeof(*len));
    if (!len) {
        v->status = CHOIR_ERR_NO_MEMORY;
        return;
    }
    for (uint32_t h = 0; h < v->layout->hosts; h++) {
        uint32_t there = hier_host_size(v, h), pairs = pairs_with(v, h);
        for (uint32_t i = 0; i < pairs; i++)
            len[at++] = sent(v, hier_member(v, v->host, i / there), hier_member(v, h, i % there));
        for (uint32_t i = 0; i < pairs; i++)
            len[at++] =
                sent(v, hier_member(v, h, i / v->size), hier_member(v, v->host, i % v->size));
    }
    choir_tmp_table(v->b, parts, len);
    v->tmp = parts;
    free(len);
}

/* Of IN or OUT, one block for each rank here: what this rank has for, or from, those hosts that it carries. */
static void own_by_carrier(struct hier *v, struct hier_blocks *l, uint8_t buf)
{
    uint32_t me = v->shape->rank;
    hier_start(l, buf, buf);
    for (uint32_t c = 0; c < v->size; c++) {
        for (uint32_t h = 0; h < v->layout->hosts; h++)
            for (uint32_t k = 0; hier_carried(v, h, c) && k < hier_host_size(v, h); k++) {
                uint32_t r = hier_member(v, h, k);
                add_if(v, l, r, buf == CHOIR_IN ? sent(v, me, r) : sent(v, r, me));
            }
        hier_end(v, l);
    }
}

/* Of TMP, one block for each rank here: what this rank carries from it, or for it. */
static void tmp_by_member(struct hier *v, struct hier_blocks *l, bool arrived)
{
    hier_start(l, CHOIR_TMP, CHOIR_TMP);
    for (uint32_t i = 0; i < v->size; i++) {
        uint32_t me = hier_member(v, v->host, i), base = 0;
        for (uint32_t h = 0; h < v->layout->hosts; h++) {
            uint32_t there = hier_host_size(v, h), pairs = pairs_with(v, h);
            for (uint32_t k = 0; pairs && k < there; k++) {
                uint32_t r = hier_member(v, h, k);
                if (arrived)
                    add_if(v, l, base + pairs + k * v->size + i, sent(v, r, me));
                else
                    add_if(v, l, base + i * there + k, sent(v, me, r));
            }
            base += 2 * pairs;
        }
        hier_end(v, l);
    }
}

/* Of TMP, one block for each host: what goes there, or came. */
static void tmp_by_host(struct hier *v, struct hier_blocks *l, bool arrived)
{
    const uint64_t *n = v->shape->all_counts;
    uint32_t base = 0, ranks = v->shape->ranks;
    hier_start(l, CHOIR_TMP, CHOIR_TMP);
    for (uint32_t h = 0; h < v->layout->hosts; h++) {
        uint32_t pairs = pairs_with(v, h), from = arrived ? h : v->host, to = arrived ? v->host : h;
        uint32_t wide = hier_host_size(v, to);
        for (uint32_t i = 0; i < pairs; i++)
            add_if(
                v, l, base + (arrived ? pairs : 0) + i,
                n[(uint64_t)hier_member(v, from, i / wide) * ranks + hier_member(v, to, i % wide)]);
        hier_end(v, l);
        base += 2 * pairs;
    }
}

/* Of IN or OUT, one block for each rank here: the one between it and this rank. */
static void own_here(struct hier *v, struct hier_blocks *l, uint8_t buf)
{
    uint32_t me = v->shape->rank;
    hier_start(l, buf, buf);
    for (uint32_t i = 0; i < v->size; i++) {
        uint32_t r = hier_member(v, v->host, i);
        add_if(v, l, r, buf == CHOIR_IN ? sent(v, me, r) : sent(v, r, me));
        hier_end(v, l);
    }
}

void hier_all_to_all_v(struct hier *v)
{
    cut_tmp(v);
    own_here(v, &v->in, CHOIR_IN);
    own_here(v, &v->out, CHOIR_OUT);
    hier_inner(v, CHOIR_ALL_TO_ALL_V, 0);
    own_by_carrier(v, &v->in, CHOIR_IN);
    tmp_by_member(v, &v->out, false);
    hier_inner(v, CHOIR_ALL_TO_ALL_V, 0);
    if (v->local < v->columns) {
        tmp_by_host(v, &v->in, false);
        tmp_by_host(v, &v->out, true);
        hier_outer(v, CHOIR_ALL_TO_ALL_V);
    }
    tmp_by_member(v, &v->in, true);
    own_by_carrier(v, &v->out, CHOIR_OUT);
    hier_inner(v, CHOIR_ALL_TO_ALL_V, 0);
}

/* --- gather, scatter -------------------------------------------------------------------------- */

/* The step from -> to of a gather, to -> from of a scatter; none where `count` is 0. */
static void towards_root(struct hier *v, struct choir_place from, struct choir_place to,
                         uint64_t count)
{
    if (count && v->shape->kind == CHOIR_GATHER_V)
        CHOIR_STEP(v->b, CHOIR_PLACES(from), CHOIR_PLACES(to));
    else if (count)
        CHOIR_STEP(v->b, CHOIR_PLACES(to), CHOIR_PLACES(from));
}

static struct choir_place with(struct choir_place place, uint32_t peer)
{
    place.peer = (int32_t)peer;
    return place;
}

/* A host's blocks that are not empty, as one place: of the root's buffer, or of the leader's TMP, which has a part for
 * each rank. Returns how many. */
static uint32_t blocks_of(struct hier *v, uint32_t host, uint8_t buf, struct choir_place *place)
{
    hier_start(&v->in, buf, buf);
    for (uint32_t i = 0; i < hier_host_size(v, host); i++) {
        uint32_t r = hier_member(v, host, i);
        add_if(v, &v->in, buf == CHOIR_TMP ? i : r, v->shape->all_counts[r]);
    }
    if (v->in.parts && v->status == CHOIR_OK)
        *place = CHOIR_LOCAL(.buf = buf, .list = 1, .run = v->in.parts,
                             .first = choir_list(v->b, v->in.parts, v->in.part));
    return v->status == CHOIR_OK ? v->in.parts : 0;
}

static void at_root(struct hier *v, uint8_t buf, struct choir_place own)
{
    struct choir_place blocks;
    for (uint32_t d = 1; d < v->layout->hosts; d++) {
        uint32_t h = (v->host + d) % v->layout->hosts, n = blocks_of(v, h, buf, &blocks);
        towards_root(v, with(blocks, hier_member(v, h, 0)), blocks, n);
    }
    for (uint32_t i = 0; i < v->size; i++) {
        uint32_t r = hier_member(v, v->host, i);
        struct choir_place block = CHOIR_LOCAL(.buf = buf, .first = r);
        towards_root(v, i == v->local ? own : with(block, r), block, v->shape->all_counts[r]);
    }
}

static void at_leader(struct hier *v, struct choir_place own)
{
    struct choir_place all = own;
    uint64_t *len = malloc(v->size * sizeof(*len));
    if (!len) {
        v->status = CHOIR_ERR_NO_MEMORY;
        return;
    }
    for (uint32_t i = 0; i < v->size; i++)
        len[i] = v->shape->all_counts[hier_member(v, v->host, i)];
    choir_tmp_table(v->b, v->size, len);
    uint32_t root = v->shape->root, any = blocks_of(v, v->host, CHOIR_TMP, &all);
    if (v->shape->kind == CHOIR_SCATTER_V)
        towards_root(v, all, with(all, root), any);
    for (uint32_t i = 0; i < v->size; i++) {
        struct choir_place block = CHOIR_LOCAL(.buf = CHOIR_TMP, .first = i);
        towards_root(v, i ? with(block, hier_member(v, v->host, i)) : own, block, len[i]);
    }
    if (v->shape->kind == CHOIR_GATHER_V)
        towards_root(v, all, with(all, root), any);
    free(len);
}

/* One leader per host stands between its ranks and a root elsewhere; the root's host needs none. */
void hier_rooted_v(struct hier *v)
{
    uint32_t root = v->shape->root, me = v->shape->rank;
    bool gathers = v->shape->kind == CHOIR_GATHER_V, near = v->host == v->layout->host_of[root];
    struct choir_place own = CHOIR_LOCAL(.buf = gathers ? CHOIR_IN : CHOIR_OUT);
    if (me == root)
        at_root(v, gathers ? CHOIR_OUT : CHOIR_IN, own);
    else if (!near && !v->local)
        at_leader(v, own);
    else
        towards_root(v, own, with(own, near ? root : hier_member(v, v->host, 0)),
                     v->shape->all_counts[me]);
}
