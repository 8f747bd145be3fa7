/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain.c: a line of ranks, host by host, the root at its head; pieces follow each other through it.
 * Broadcast and reduce: n-1 steps for the first piece, then one piece a step; every rank sends and receives
 * the vector once.
 * chain(piece=BYTES) sets the longest piece.
 * Source: J. Pjesivac-Grbovic et al., "Performance analysis of MPI collective operations", Cluster Computing
 * 10 (2007).
 */
#include "algorithms/common.h"

static void broadcast(struct choir_builder *b, const struct order *o)
{
    struct choir_place in = o->me == 0 ? CHOIR_LOCAL(.buf = CHOIR_IN)
                                       : CHOIR_MESSAGE(order_peer(o, o->n - 1), .buf = CHOIR_OUT);
    struct choir_place outs[2] = {CHOIR_LOCAL(.buf = CHOIR_OUT),
                                  CHOIR_MESSAGE(order_peer(o, 1), .buf = CHOIR_OUT)};
    choir_step(b, 1, &in, o->me + 1 < o->n ? 2 : 1, outs);
}

static void reduce(struct choir_builder *b, const struct order *o)
{
    struct choir_place ins[2] = {CHOIR_LOCAL(.buf = CHOIR_IN),
                                 CHOIR_MESSAGE(order_peer(o, 1), .buf = CHOIR_IN)};
    struct choir_place out = o->me == 0 ? CHOIR_LOCAL(.buf = CHOIR_OUT)
                                        : CHOIR_MESSAGE(order_peer(o, o->n - 1), .buf = CHOIR_IN);
    choir_step(b, o->me + 1 < o->n ? 2 : 1, ins, 1, &out);
}

static enum choir_status build(const struct choir_shape *s, struct choir_builder *b)
{
    uint64_t piece = argument(s->args, "piece", s->slot_bytes);
    if (!piece || !arguments_are(s->args, "piece"))
        return CHOIR_ERR_ARGUMENT;
    choir_piece(b, piece);
    struct order o = order_by_host(s, s->root);
    if (s->kind == CHOIR_BROADCAST)
        broadcast(b, &o);
    else
        reduce(b, &o);
    return choir_builder_status(b);
}

const struct choir_algorithm algorithm_chain = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "chain",
    .summary = "broadcast, reduce: n-1 steps to the end, then a piece a step; the vector once in "
               "and once out of each rank",
    .kinds = 1u << CHOIR_BROADCAST | 1u << CHOIR_REDUCE,
    .variants = "piece=4096 piece=16384",
    .build = build,
};
