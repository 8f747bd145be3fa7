/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bruck.c: with positions on a circle, step k talks over a distance of 2^k, so any n takes ceil(log2 n)
 * steps. All-gather: everything gathered so far goes 2^k back, n-1 blocks in all. Reduce-scatter: the same
 * backwards in time, the sums for the further half of the positions go 2^k on. All-to-all: the block for
 * distance p travels in the steps of p's one bits, about (n/2) log2 n blocks a rank: fewest messages, for
 * small blocks. Barrier: an empty message each step.
 * Source: J. Bruck, C.-T. Ho, S. Kipnis, E. Upfal, D. Weathersby, "Efficient algorithms for all-to-all
 * communications in multiport message-passing systems", IEEE TPDS 8 (1997); D. Hensgen, R. Finkel, U. Manber,
 * "Two algorithms for barrier synchronization", Int. J. Parallel Program. 17 (1988).
 */
#include "algorithms/common.h"

/* Blocks of the ranks `from` and further positions on from this one. */
static struct choir_place blocks(struct choir_builder *b, const struct order *o, int32_t peer,
                                 struct choir_place p)
{
    p.peer = peer;
    p.turn = (int32_t)o->me;
    return order_place(b, o, p);
}

static void all_gather(struct choir_builder *b, const struct order *o)
{
    uint32_t n = o->n;
    CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN)),
               CHOIR_PLACES(blocks(b, o, -1, CHOIR_LOCAL(.buf = CHOIR_OUT))));
    for (uint32_t d = 1; d < n; d *= 2) {
        struct choir_place have = CHOIR_LOCAL(.buf = CHOIR_OUT, .run = d < n - d ? d : n - d);
        struct choir_place get = have;
        get.first = d;
        CHOIR_STEP(b, CHOIR_PLACES(blocks(b, o, -1, have)),
                   CHOIR_PLACES(blocks(b, o, order_peer(o, n - d), have)));
        CHOIR_STEP(b, CHOIR_PLACES(blocks(b, o, order_peer(o, d), get)),
                   CHOIR_PLACES(blocks(b, o, -1, get)));
    }
}

/* TMP part p is the sum so far for the rank p positions on. */
static void reduce_scatter(struct choir_builder *b, const struct order *o)
{
    uint32_t n = o->n, d = 1;
    struct choir_place own = CHOIR_LOCAL(.buf = CHOIR_IN), result = CHOIR_LOCAL(.buf = CHOIR_OUT);
    if (n == 1) {
        CHOIR_STEP(b, CHOIR_PLACES(own), CHOIR_PLACES(result));
        return;
    }
    while (2 * d < n)
        d *= 2;
    choir_tmp(b, d);
    for (bool first = true; d; d /= 2, first = false) {
        uint32_t run = first ? n - d : d;
        struct choir_place far = CHOIR_LOCAL(.buf = CHOIR_IN, .first = d, .run = run);
        struct choir_place near = CHOIR_LOCAL(.buf = CHOIR_IN, .run = run), far_sum = far,
                           near_sum = near;
        far_sum.buf = near_sum.buf = CHOIR_TMP;
        CHOIR_STEP(b, CHOIR_PLACES(first ? blocks(b, o, -1, far) : far_sum),
                   CHOIR_PLACES(blocks(b, o, order_peer(o, d), far)));
        CHOIR_STEP(b,
                   CHOIR_PLACES(blocks(b, o, order_peer(o, n - d), near),
                                first ? blocks(b, o, -1, near) : near_sum),
                   CHOIR_PLACES(d == 1 ? result : near_sum));
        if (first && run < d) { /* nothing came for these */
            struct choir_place rest = CHOIR_LOCAL(.buf = CHOIR_IN, .first = run, .run = d - run);
            struct choir_place sum = rest;
            sum.buf = CHOIR_TMP;
            CHOIR_STEP(b, CHOIR_PLACES(blocks(b, o, -1, rest)), CHOIR_PLACES(sum));
        }
    }
}

/* TMP part p is the block that has distance p to go in all. */
static void all_to_all(struct choir_builder *b, const struct order *o)
{
    uint32_t n = o->n;
    struct choir_place own = CHOIR_LOCAL(.buf = CHOIR_IN), even, odd;
    even = CHOIR_LOCAL(.buf = CHOIR_IN, .first = 2, .run = 1, .stride = 2, .end = n);
    odd = CHOIR_LOCAL(.buf = CHOIR_IN, .first = 1, .run = 1, .stride = 2, .end = n);
    CHOIR_STEP(b, CHOIR_PLACES(blocks(b, o, -1, own)),
               CHOIR_PLACES(blocks(b, o, -1, CHOIR_LOCAL(.buf = CHOIR_OUT))));
    if (n == 1)
        return;
    choir_tmp(b, n);
    for (uint32_t d = 1; d < n; d *= 2) {
        struct choir_place span = odd, tmp;
        span.first = span.run = d;
        span.stride = 2 * d;
        tmp = span;
        tmp.buf = CHOIR_TMP;
        CHOIR_STEP(b, CHOIR_PLACES(d == 1 ? blocks(b, o, -1, odd) : tmp),
                   CHOIR_PLACES(blocks(b, o, order_peer(o, d), span)));
        if (d == 1 && n > 2) {
            struct choir_place rest = even;
            rest.buf = CHOIR_TMP;
            CHOIR_STEP(b, CHOIR_PLACES(blocks(b, o, -1, even)), CHOIR_PLACES(rest));
        }
        CHOIR_STEP(b, CHOIR_PLACES(blocks(b, o, order_peer(o, n - d), span)), CHOIR_PLACES(tmp));
    }
    for (uint32_t p = 1; p < n; p += o->affine ? n : 1) {
        struct choir_place from = CHOIR_LOCAL(.buf = CHOIR_TMP, .first = p, .dturn = 1);
        struct choir_place to = CHOIR_LOCAL(.buf = CHOIR_OUT, .first = n - p, .dturn = -1);
        CHOIR_STEP(b, CHOIR_PLACES(from), CHOIR_PLACES(blocks(b, o, -1, to)));
    }
    if (o->affine)
        choir_loop(b, 1, n - 1);
}

/* What comes from behind goes on twice as far. */
static void barrier(struct choir_builder *b, const struct order *o)
{
    struct choir_place in = CHOIR_LOCAL(.buf = CHOIR_IN);
    for (uint32_t d = 1; d < o->n; d *= 2) {
        CHOIR_STEP(b, CHOIR_PLACES(in),
                   CHOIR_PLACES(CHOIR_MESSAGE(order_peer(o, d), .buf = CHOIR_IN)));
        in = CHOIR_MESSAGE(order_peer(o, o->n - d), .buf = CHOIR_IN);
    }
    CHOIR_STEP(b, CHOIR_PLACES(in), CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT)));
}

static enum choir_status build(const struct choir_shape *s, struct choir_builder *b)
{
    struct order o = order_by_host(s, 0);
    if (*s->args)
        return CHOIR_ERR_ARGUMENT;
    if (s->kind == CHOIR_BARRIER) {
        barrier(b, &o);
        return choir_builder_status(b);
    }
    choir_computed(b, 0);
    choir_piece(b, s->slot_bytes);
    if (s->kind == CHOIR_ALL_TO_ALL)
        all_to_all(b, &o);
    else if (s->kind == CHOIR_REDUCE_SCATTER || s->kind == CHOIR_REDUCE_SCATTER_V)
        reduce_scatter(b, &o);
    else
        all_gather(b, &o);
    return choir_builder_status(b);
}

const struct choir_algorithm algorithm_bruck = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "bruck",
    .summary =
        "log n steps, any n; all_gather, reduce_scatter: n-1 blocks; all_to_all: (n/2) log n "
        "blocks; barrier by dissemination; Bruck et al. 1997",
    .kinds = 1u << CHOIR_ALL_GATHER | 1u << CHOIR_ALL_GATHER_V | 1u << CHOIR_REDUCE_SCATTER |
             1u << CHOIR_REDUCE_SCATTER_V | 1u << CHOIR_ALL_TO_ALL | 1u << CHOIR_BARRIER,
    .variants = "",
    .build = build,
};
