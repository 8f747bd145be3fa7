/* SPDX-License-Identifier: Apache-2.0 */
/*
 * binomial.c: binomial trees, the root at position 0; the parent of position v is v without its lowest one
 * bit, so a subtree is a run of positions. ceil(log2 n) steps. Broadcast and reduce move the vector once over
 * each edge; gather and scatter move every block once per edge above it, runs of blocks packed into one
 * message.
 * Source: R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in
 * MPICH" (2005).
 */
#include "algorithms/common.h"

struct binomial {
    struct choir_builder *b;
    struct order order;
    uint32_t size;  /* positions in this rank's subtree, itself first */
    int32_t parent; /* rank; < 0 at the root */
    uint32_t reach; /* children are this half, quarter ... on; a power of two */
};

static struct binomial make(const struct choir_shape *s, struct choir_builder *b)
{
    struct binomial t = {.b = b, .order = order_by_host(s, s->root), .parent = -1, .reach = 1};
    uint32_t me = t.order.me, n = s->ranks;
    while (t.reach < n && !(me & t.reach))
        t.reach *= 2;
    if (me)
        t.parent = (int32_t)order_rank(&t.order, me - t.reach);
    t.size = t.reach < n - me ? t.reach : n - me;
    return t;
}

static int32_t child(const struct binomial *t, uint32_t d)
{
    return (int32_t)order_rank(&t->order, t->order.me + d);
}

static void broadcast(const struct binomial *t)
{
    struct choir_place out[33] = {CHOIR_LOCAL(.buf = CHOIR_OUT)};
    struct choir_place in =
        t->parent < 0 ? CHOIR_LOCAL(.buf = CHOIR_IN) : CHOIR_MESSAGE(t->parent, .buf = CHOIR_OUT);
    uint32_t n = 1;
    for (uint32_t d = t->reach / 2; d; d /= 2)
        if (d < t->size)
            out[n++] = CHOIR_MESSAGE(child(t, d), .buf = CHOIR_OUT);
    choir_step(t->b, 1, &in, n, out);
}

static void reduce(const struct binomial *t)
{
    struct choir_place in[33] = {CHOIR_LOCAL(.buf = CHOIR_IN)};
    struct choir_place out =
        t->parent < 0 ? CHOIR_LOCAL(.buf = CHOIR_OUT) : CHOIR_MESSAGE(t->parent, .buf = CHOIR_IN);
    uint32_t n = 1;
    for (uint32_t d = 1; d < t->size; d *= 2)
        in[n++] = CHOIR_MESSAGE(child(t, d), .buf = CHOIR_IN);
    choir_step(t->b, n, in, 1, &out);
}

/* Blocks of positions [d, d + count) behind this rank: where they lie here, and as a message (peer >= 0).
 * They lie in `buf` at the root, in TMP elsewhere. */
static struct choir_place run(const struct binomial *t, uint8_t buf, int32_t peer, uint32_t d,
                              uint32_t count)
{
    if (peer < 0 && t->parent >= 0)
        return CHOIR_LOCAL(.buf = CHOIR_TMP, .first = d, .run = count);
    return order_place(t->b, &t->order,
                       (struct choir_place){.peer = peer,
                                            .buf = buf,
                                            .run = count,
                                            .turn = (int32_t)((t->order.me + d) % t->order.n)});
}

static uint32_t subtree(const struct binomial *t, uint32_t d)
{
    return d < t->size - d ? d : t->size - d;
}

static void gather(const struct binomial *t)
{
    struct choir_place own = CHOIR_LOCAL(.buf = CHOIR_IN);
    if (t->size == 1 && t->parent >= 0) {
        CHOIR_STEP(t->b, CHOIR_PLACES(own), CHOIR_PLACES(run(t, CHOIR_OUT, t->parent, 0, 1)));
        return;
    }
    CHOIR_STEP(t->b, CHOIR_PLACES(own), CHOIR_PLACES(run(t, CHOIR_OUT, -1, 0, 1)));
    for (uint32_t d = 1; d < t->size; d *= 2)
        CHOIR_STEP(t->b, CHOIR_PLACES(run(t, CHOIR_OUT, child(t, d), d, subtree(t, d))),
                   CHOIR_PLACES(run(t, CHOIR_OUT, -1, d, subtree(t, d))));
    if (t->parent >= 0)
        CHOIR_STEP(t->b, CHOIR_PLACES(run(t, CHOIR_OUT, -1, 0, t->size)),
                   CHOIR_PLACES(run(t, CHOIR_OUT, t->parent, 0, t->size)));
}

static void scatter(const struct binomial *t)
{
    struct choir_place own = CHOIR_LOCAL(.buf = CHOIR_OUT);
    if (t->size == 1 && t->parent >= 0) {
        CHOIR_STEP(t->b, CHOIR_PLACES(run(t, CHOIR_IN, t->parent, 0, 1)), CHOIR_PLACES(own));
        return;
    }
    if (t->parent >= 0)
        CHOIR_STEP(t->b, CHOIR_PLACES(run(t, CHOIR_IN, t->parent, 0, t->size)),
                   CHOIR_PLACES(run(t, CHOIR_IN, -1, 0, t->size)));
    for (uint32_t d = t->reach / 2; d; d /= 2)
        if (d < t->size)
            CHOIR_STEP(t->b, CHOIR_PLACES(run(t, CHOIR_IN, -1, d, subtree(t, d))),
                       CHOIR_PLACES(run(t, CHOIR_IN, child(t, d), d, subtree(t, d))));
    CHOIR_STEP(t->b, CHOIR_PLACES(run(t, CHOIR_IN, -1, 0, 1)), CHOIR_PLACES(own));
}

static enum choir_status build(const struct choir_shape *s, struct choir_builder *b)
{
    struct binomial t = make(s, b);
    if (*s->args)
        return CHOIR_ERR_ARGUMENT;
    if (s->kind == CHOIR_BROADCAST) {
        broadcast(&t);
    } else if (s->kind == CHOIR_REDUCE) {
        reduce(&t);
    } else {
        choir_computed(b, 0);
        choir_piece(b, s->slot_bytes);
        if (t.size > 1 && t.parent >= 0)
            choir_tmp(b, t.size);
        if (s->kind == CHOIR_GATHER)
            gather(&t);
        else
            scatter(&t);
    }
    return choir_builder_status(b);
}

const struct choir_algorithm algorithm_binomial = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "binomial",
    .summary =
        "log n steps from or to the root; gather, scatter: a subtree's blocks in one message; "
        "Thakur et al. 2005",
    .kinds = 1u << CHOIR_BROADCAST | 1u << CHOIR_REDUCE | 1u << CHOIR_GATHER | 1u << CHOIR_SCATTER,
    .variants = "",
    .build = build,
};
