/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pat.c: Parallel Aggregated Trees. The blocks travel along n binomial trees, one per rank and all alike but
 * for rotation; far edges come first in an all-gather (last in a reduce-scatter), so few bytes go far.
 * Messages carry the blocks of up to A trees, A being what a slot holds, or what pat(A) says: log2 A steps
 * between the A subtrees, then n/A - 1 steps through them side by side, depth first, so that a reduce-scatter
 * needs A log2(n/A) blocks of scratch at most. n-1 blocks a rank in all. Any n; positions follow hosts, so
 * several ranks may share one.
 * Source: S. Jeaugey, "PAT: a new algorithm for all-gather and reduce-scatter operations at scale", arXiv
 * 2506.20252.
 */
#include "algorithms/common.h"

/* Position p of the circle is at offset (p - c) mod n of the tree of block c; offset o has the children o + d
 * for the powers of two d below its lowest one bit. Subtrees of `span` offsets are walked side by side. */
struct pat {
    struct choir_builder *b;
    struct order order;
    uint32_t n, span, trees; /* trees: subtrees, ceil(n / span) */
    bool positions;          /* parts belong to positions; else to ranks */
    bool reduces;
};

/* Blocks that this rank holds at offsets from, from + stride ... below end. */
static struct choir_place blocks(const struct pat *p, uint8_t buf, int32_t peer, uint32_t from,
                                 uint32_t stride, uint32_t end)
{
    struct choir_place place = {.peer = peer,
                                .buf = buf,
                                .first = from,
                                .run = 1,
                                .stride = stride,
                                .end = end,
                                .turn = (int32_t)p->order.me};
    return p->positions ? place : order_place(p->b, &p->order, place);
}

/* All trees' edges from offset o (and o + stride ...) to o + d, blocks going down. */
static void spread(const struct pat *p, uint32_t o, uint32_t d, uint32_t stride)
{
    int32_t to = order_peer(&p->order, p->n - d), from = order_peer(&p->order, d);
    if (o + d >= p->n)
        return;
    CHOIR_STEP(p->b, CHOIR_PLACES(blocks(p, CHOIR_OUT, -1, o, stride, p->n - d)),
               CHOIR_PLACES(blocks(p, CHOIR_OUT, to, o, stride, p->n - d)));
    CHOIR_STEP(p->b, CHOIR_PLACES(blocks(p, CHOIR_OUT, from, o + d, stride, p->n)),
               CHOIR_PLACES(blocks(p, CHOIR_OUT, -1, o + d, stride, p->n)));
}

/* Where partial results of offsets o, o + stride ... lie: those of subtree j at depth k below its top in TMP
 * part k * trees + j, since depth first only one path is alive. Leaves are still in IN. */
static struct choir_place partial(const struct pat *p, uint32_t o, uint32_t stride, uint32_t end)
{
    uint32_t depth = (uint32_t)__builtin_popcount(o % p->span), base = depth * p->trees;
    if (o & 1)
        return blocks(p, CHOIR_IN, -1, o, stride, end);
    return CHOIR_LOCAL(.buf = CHOIR_TMP, .first = base + o / p->span, .run = 1,
                       .stride = stride / p->span,
                       .end = base + (end - 1 - o % p->span) / p->span + 1);
}

/* The same edges, partial results going up. */
static void collect(const struct pat *p, uint32_t o, uint32_t d, uint32_t stride)
{
    int32_t to = order_peer(&p->order, d), from = order_peer(&p->order, p->n - d);
    uint32_t n = p->n, childless = n - 1;
    /* Offset n-1 has no children: it joins the others of its kind, which combine here for the first time. */
    if (d == 1 && !(childless & 1) && childless >= o && (childless - o) % stride == 0)
        CHOIR_STEP(p->b, CHOIR_PLACES(blocks(p, CHOIR_IN, -1, childless, 1, n)),
                   CHOIR_PLACES(partial(p, childless, p->span, n)));
    if (o + d >= n)
        return;
    CHOIR_STEP(p->b, CHOIR_PLACES(partial(p, o + d, stride, n)),
               CHOIR_PLACES(blocks(p, CHOIR_IN, to, o + d, stride, n)));
    struct choir_place mine =
        d == 1 ? blocks(p, CHOIR_IN, -1, o, stride, n - d) : partial(p, o, stride, n - d);
    struct choir_place sum = 2 * d < n      ? partial(p, o, stride, n - d)
                             : p->positions ? blocks(p, CHOIR_OUT, -1, 0, 1, 1)
                                            : CHOIR_LOCAL(.buf = CHOIR_OUT);
    CHOIR_STEP(p->b, CHOIR_PLACES(mine, blocks(p, CHOIR_IN, from, o, stride, n - d)),
               CHOIR_PLACES(sum));
}

/* The `size` offsets from o on in every subtree, depth first: from the top down, or from the leaves up. */
static void walk(const struct pat *p, uint32_t o, uint32_t size)
{
    if (p->reduces)
        for (uint32_t d = 1; d < size; d *= 2) {
            walk(p, o + d, d);
            collect(p, o, d, p->span);
        }
    else
        for (uint32_t d = size / 2; d; d /= 2) {
            spread(p, o, d, p->span);
            walk(p, o + d, d);
        }
}

static void all_gather(struct pat *p)
{
    p->reduces = false;
    for (uint32_t d = p->span * (uint32_t)(1u << 31 >> __builtin_clz(p->trees)); d >= p->span;
         d /= 2)
        spread(p, 0, d, 2 * d);
    walk(p, 0, p->span);
}

static void reduce_scatter(struct pat *p)
{
    p->reduces = true;
    walk(p, 0, p->span);
    for (uint32_t d = p->span; d < p->n; d *= 2)
        collect(p, 0, d, 2 * d);
}

/* Bytes of the largest block; all ranks know it. */
static uint64_t block_bytes(const struct choir_shape *s)
{
    const uint64_t *count = s->kind == CHOIR_ALL_GATHER_V ? s->out_count : s->in_count;
    uint64_t most = s->kind == CHOIR_ALL_REDUCE ? s->count / s->ranks : s->count;
    if (s->kind == CHOIR_ALL_GATHER_V || s->kind == CHOIR_REDUCE_SCATTER_V) {
        most = 0;
        for (uint32_t r = 0; r < s->ranks; r++)
            most = count[r] > most ? count[r] : most;
    }
    return (most + 1) * s->type_bytes;
}

static enum choir_status build(const struct choir_shape *s, struct choir_builder *b)
{
    char *end;
    uint64_t given = strtoull(s->args, &end, 10), room = s->slot_bytes / block_bytes(s);
    uint64_t trees = *s->args ? given : room ? room : 1;
    struct pat p = {.b = b, .order = order_by_host(s, 0), .n = s->ranks, .span = 1};
    if (!trees || *end)
        return CHOIR_ERR_ARGUMENT;
    if (p.n == 1)
        return copy_only(b);
    /* The smallest span of which at most `trees` make up the circle. */
    while ((p.n - 1) / p.span + 1 > trees)
        p.span *= 2;
    p.trees = (p.n - 1) / p.span + 1;
    choir_computed(b, 0);
    choir_piece(b, s->slot_bytes / p.trees + 1);
    if (s->kind == CHOIR_ALL_REDUCE) {
        p.positions = true;
        choir_cut_even(b, p.n);
    }
    if (s->kind == CHOIR_ALL_GATHER || s->kind == CHOIR_ALL_GATHER_V) {
        CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN)),
                   CHOIR_PLACES(blocks(&p, CHOIR_OUT, -1, 0, 1, 1)));
    } else {
        uint32_t depth = 1;
        for (uint32_t span = 2; span < p.span; span *= 2)
            depth++;
        choir_tmp(b, depth * p.trees);
        reduce_scatter(&p);
    }
    if (s->kind != CHOIR_REDUCE_SCATTER && s->kind != CHOIR_REDUCE_SCATTER_V)
        all_gather(&p);
    return choir_builder_status(b);
}

const struct choir_algorithm algorithm_pat = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "pat",
    .summary = "parallel aggregated trees: log A + n/A - 1 steps, A blocks a message at most, n-1 "
               "blocks; scratch bounded; Jeaugey 2025",
    .kinds = 1u << CHOIR_ALL_REDUCE | 1u << CHOIR_ALL_GATHER | 1u << CHOIR_REDUCE_SCATTER |
             1u << CHOIR_ALL_GATHER_V | 1u << CHOIR_REDUCE_SCATTER_V,
    .flags = CHOIR_BETWEEN_HOSTS,
    .variants = "1 4 16",
    .build = build,
};
