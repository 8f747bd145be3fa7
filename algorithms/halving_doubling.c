/* SPDX-License-Identifier: Apache-2.0 */
/*
 * halving_doubling.c: a group splits into two halves that swap what the other half needs, then each half goes
 * on by itself (reduce-scatter, halving); undone in reverse order it is an all-gather (doubling). All-reduce
 * is both: about 2 log2 n steps, 2(n-1)/n of the vector; broadcast is a scatter to halves and a doubling,
 * reduce a halving and a gather. Groups of odd size split unevenly and the last rank of the upper half serves
 * two of the lower, so any n takes ceil(log2 n) steps each way. Far splits, with most bytes, stay on a host
 * where hosts are of one size.
 * Source: R. Rabenseifner, "Optimization of collective reduction operations", ICCS 2004; R. van de Geijn et
 * al. (scatter and collect); J. L. Träff, "An improved algorithm for (non-commutative) reduce-scatter",
 * EuroPVM/MPI 2005 (any n).
 */
#include "algorithms/common.h"

#define LEVELS 32

/* The groups [lo, hi) of positions this rank belongs to, from all to itself; `mid` begins the upper half. */
struct level {
    uint32_t lo, mid, hi;
};
struct halving {
    struct choir_builder *b;
    struct order order;
    struct level level[LEVELS];
    uint32_t levels;
    bool positions;   /* parts belong to positions; else to ranks */
    uint8_t partials; /* OUT, or TMP, whose part 0 is position `base`'s */
    uint32_t base;
};

static void find_levels(struct halving *h)
{
    uint32_t lo = 0, hi = h->order.n;
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        h->level[h->levels++] = (struct level){lo, mid, hi};
        if (h->order.me < mid)
            hi = mid;
        else
            lo = mid;
        if (h->levels == 1)
            h->base = lo;
    }
}

/* Parts of positions [lo, hi) in a buffer, or as a message. */
static struct choir_place span(struct halving *h, uint8_t buf, uint32_t lo, uint32_t hi)
{
    if (buf == CHOIR_TMP)
        return CHOIR_LOCAL(.buf = buf, .first = lo - h->base, .run = hi - lo);
    struct choir_place p = CHOIR_LOCAL(.buf = buf, .run = hi - lo, .turn = (int32_t)lo);
    return h->positions ? p : order_place(h->b, &h->order, p);
}

static struct choir_place message(struct halving *h, uint32_t position, uint8_t buf, uint32_t lo,
                                  uint32_t hi)
{
    struct choir_place p = span(h, buf, lo, hi);
    p.peer = (int32_t)order_rank(&h->order, position);
    return p;
}

/* This rank's partner in the other half, and whether it is the lower half's odd one out; the last of the
 * upper half serves that one beside its partner. */
static uint32_t partner(const struct level *v, uint32_t me, bool *extra)
{
    uint32_t uppers = v->hi - v->mid;
    *extra = me < v->mid && me - v->lo == uppers;
    if (me >= v->mid)
        return v->lo + (me - v->mid);
    return v->mid + (me - v->lo) - *extra;
}

static bool serves_extra(const struct level *v, uint32_t me)
{
    return me == v->hi - 1 && v->mid - v->lo > v->hi - v->mid;
}

/* Reduce-scatter: this rank ends with the sum of its own position's part in `last`. */
static void halve(struct halving *h, struct choir_place last)
{
    uint32_t me = h->order.me;
    uint8_t from = CHOIR_IN;
    for (uint32_t i = 0; i < h->levels; i++) {
        const struct level *v = &h->level[i];
        bool extra, upper = me >= v->mid;
        uint32_t peer = partner(v, me, &extra), n = 0;
        uint32_t lo = upper ? v->mid : v->lo, hi = upper ? v->hi : v->mid;
        uint32_t away = upper ? v->lo : v->mid, end = upper ? v->mid : v->hi;
        CHOIR_STEP(h->b, CHOIR_PLACES(span(h, from, away, end)),
                   CHOIR_PLACES(message(h, peer, CHOIR_IN, away, end)));
        if (extra)
            continue;
        struct choir_place in[3], to = i + 1 < h->levels ? span(h, h->partials, lo, hi) : last;
        in[n++] = message(h, peer, CHOIR_IN, lo, hi);
        if (serves_extra(v, me))
            in[n++] = message(h, v->mid - 1, CHOIR_IN, lo, hi);
        in[n++] = span(h, from, lo, hi);
        choir_step(h->b, n, in, 1, &to);
        from = h->partials;
    }
}

/* All-gather of OUT. `scattered`: the first of every group has the whole group's parts already. */
static void doubling(struct halving *h, bool scattered)
{
    uint32_t me = h->order.me;
    for (uint32_t i = h->levels; i-- > 0;) {
        const struct level *v = &h->level[i];
        bool extra, upper = me >= v->mid;
        uint32_t peer = partner(v, me, &extra), n = 0;
        uint32_t lo = upper ? v->mid : v->lo, hi = upper ? v->hi : v->mid;
        uint32_t away = upper ? v->lo : v->mid, end = upper ? v->mid : v->hi;
        struct choir_place out[2], own = span(h, CHOIR_OUT, lo, hi);
        if (!extra && !(scattered && upper && peer == v->lo))
            out[n++] = message(h, peer, CHOIR_OUT, lo, hi);
        if (serves_extra(v, me))
            out[n++] = message(h, v->mid - 1, CHOIR_OUT, lo, hi);
        if (n)
            choir_step(h->b, 1, &own, n, out);
        if (!(scattered && me == v->lo))
            CHOIR_STEP(h->b, CHOIR_PLACES(message(h, peer, CHOIR_OUT, away, end)),
                       CHOIR_PLACES(span(h, CHOIR_OUT, away, end)));
    }
}

/* From position 0 to all: the first of a group passes the upper half's parts to the first of that. */
static void scatter(struct halving *h)
{
    uint32_t me = h->order.me;
    for (uint32_t i = 0; i < h->levels; i++) {
        const struct level *v = &h->level[i];
        struct choir_place part = span(h, CHOIR_OUT, v->mid, v->hi);
        if (me == v->lo)
            CHOIR_STEP(h->b, CHOIR_PLACES(part),
                       CHOIR_PLACES(message(h, v->mid, CHOIR_OUT, v->mid, v->hi)));
        if (me == v->mid)
            CHOIR_STEP(h->b, CHOIR_PLACES(message(h, v->lo, CHOIR_OUT, v->mid, v->hi)),
                       CHOIR_PLACES(part));
    }
}

/* The reverse, to position 0. */
static void gather(struct halving *h)
{
    uint32_t me = h->order.me;
    for (uint32_t i = h->levels; i-- > 0;) {
        const struct level *v = &h->level[i];
        struct choir_place part;
        if (me != v->lo && me != v->mid)
            continue;
        part = span(h, h->partials, v->mid, v->hi);
        if (me == v->mid)
            CHOIR_STEP(h->b, CHOIR_PLACES(part),
                       CHOIR_PLACES(message(h, v->lo, CHOIR_IN, v->mid, v->hi)));
        else
            CHOIR_STEP(h->b, CHOIR_PLACES(message(h, v->mid, CHOIR_IN, v->mid, v->hi)),
                       CHOIR_PLACES(part));
    }
}

static void build_rooted(struct halving *h, uint32_t kind)
{
    uint32_t n = h->order.n, me = h->order.me;
    h->positions = true;
    choir_cut_even(h->b, n);
    if (kind == CHOIR_BROADCAST) {
        if (me == 0)
            CHOIR_STEP(h->b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN, .run = n)),
                       CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT, .run = n)));
        scatter(h);
        doubling(h, true);
        return;
    }
    if (me) {
        h->partials = CHOIR_TMP;
        choir_tmp(h->b, (n + 1) / 2);
    }
    halve(h, span(h, h->partials, me, me + 1));
    gather(h);
}

static enum choir_status build(const struct choir_shape *s, struct choir_builder *b)
{
    bool rooted = s->kind == CHOIR_BROADCAST || s->kind == CHOIR_REDUCE;
    struct halving h = {.b = b, .partials = CHOIR_OUT};
    if (*s->args)
        return CHOIR_ERR_ARGUMENT;
    if (s->ranks == 1)
        return copy_only(b);
    h.order = order_across_hosts(s, rooted ? s->root : 0);
    find_levels(&h);
    choir_computed(b, 0);
    choir_piece(b, s->slot_bytes);
    switch (s->kind) {
    case CHOIR_ALL_REDUCE:
        h.positions = true;
        choir_cut_even(b, s->ranks);
        halve(&h, span(&h, CHOIR_OUT, h.order.me, h.order.me + 1));
        doubling(&h, false);
        break;
    case CHOIR_REDUCE_SCATTER:
    case CHOIR_REDUCE_SCATTER_V:
        h.partials = CHOIR_TMP;
        choir_tmp(b, (s->ranks + 1) / 2);
        halve(&h, CHOIR_LOCAL(.buf = CHOIR_OUT));
        break;
    case CHOIR_ALL_GATHER:
    case CHOIR_ALL_GATHER_V:
        CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN)),
                   CHOIR_PLACES(span(&h, CHOIR_OUT, h.order.me, h.order.me + 1)));
        doubling(&h, false);
        break;
    default:
        build_rooted(&h, s->kind);
    }
    return choir_builder_status(b);
}

const struct choir_algorithm algorithm_halving_doubling = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "halving_doubling",
    .summary = "all_reduce: 2 log n steps, 2(n-1)/n of the vector; reduce_scatter, all_gather: "
               "log n steps, n-1 blocks; Rabenseifner 2004, any n",
    .kinds = 1u << CHOIR_ALL_REDUCE | 1u << CHOIR_REDUCE_SCATTER | 1u << CHOIR_REDUCE_SCATTER_V |
             1u << CHOIR_ALL_GATHER | 1u << CHOIR_ALL_GATHER_V | 1u << CHOIR_BROADCAST |
             1u << CHOIR_REDUCE,
    .variants = "",
    .build = build,
};
