/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ring.c: every rank talks to its two neighbours only. All-reduce: 2(n-1) steps, 2(n-1)/n of the vector per
 * rank and direction; all-gather and reduce-scatter: n-1 steps, n-1 blocks. The fewest bytes there can be,
 * and across hosts each host receives from one neighbour only.
 * Source: P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", J.
 * Parallel Distrib. Comput. 69 (2009).
 */
#include "algorithms/common.h"

struct ring {
    struct choir_builder *b;
    struct order order;
    int32_t next, prev; /* ranks */
    bool positions;     /* parts belong to positions; else to ranks */
};

/* Places below name their part by `turn`; it goes back by one position at each repetition. */
static struct choir_place local(uint8_t buf, uint32_t part)
{
    return CHOIR_LOCAL(.buf = buf, .turn = (int32_t)part, .dturn = -1);
}

static struct choir_place message(int32_t peer, uint8_t buf, uint32_t part)
{
    return CHOIR_MESSAGE(peer, .buf = buf, .turn = (int32_t)part, .dturn = -1);
}

/* The step `times` times: a loop where parts follow each other as positions do, else one by one. */
static void repeat(const struct ring *g, uint32_t times, uint32_t nins, struct choir_place *ins,
                   uint32_t nouts, struct choir_place *outs)
{
    uint32_t n = g->order.n;
    if (g->positions || g->order.affine) {
        choir_step(g->b, nins, ins, nouts, outs);
        choir_loop(g->b, 1, times);
        return;
    }
    for (uint32_t t = 0; t < times; t++) {
        struct choir_place in[2], out[2];
        for (uint32_t i = 0; i < nins; i++) {
            in[i] = ins[i];
            in[i].turn = (int32_t)order_rank(&g->order, ((uint32_t)ins[i].turn + n - t) % n);
        }
        for (uint32_t i = 0; i < nouts; i++) {
            out[i] = outs[i];
            out[i].turn = (int32_t)order_rank(&g->order, ((uint32_t)outs[i].turn + n - t) % n);
        }
        choir_step(g->b, nins, in, nouts, out);
    }
}

/* Parts travel round and grow; this rank ends with part `last` complete, in OUT and, if `on`, on its way. */
static void reduce_scatter(const struct ring *g, uint32_t last, bool on)
{
    uint32_t n = g->order.n, first = (last + n - 1) % n, second = (last + 2 * n - 2) % n;
    struct choir_place done[] = {local(CHOIR_OUT, last), message(g->next, CHOIR_OUT, last)};
    repeat(g, 1, CHOIR_PLACES(local(CHOIR_IN, first)),
           CHOIR_PLACES(message(g->next, CHOIR_IN, first)));
    repeat(g, n - 2, CHOIR_PLACES(message(g->prev, CHOIR_IN, second), local(CHOIR_IN, second)),
           CHOIR_PLACES(message(g->next, CHOIR_IN, second)));
    repeat(g, 1, CHOIR_PLACES(message(g->prev, CHOIR_IN, last), local(CHOIR_IN, last)), on ? 2 : 1,
           done);
}

/* Complete parts travel round; this rank's own, `first`, has been sent. */
static void all_gather(const struct ring *g, uint32_t first)
{
    uint32_t n = g->order.n, second = (first + n - 1) % n, last = (first + 1) % n;
    repeat(g, n - 2, CHOIR_PLACES(message(g->prev, CHOIR_OUT, second)),
           CHOIR_PLACES(local(CHOIR_OUT, second), message(g->next, CHOIR_OUT, second)));
    repeat(g, 1, CHOIR_PLACES(message(g->prev, CHOIR_OUT, last)),
           CHOIR_PLACES(local(CHOIR_OUT, last)));
}

static enum choir_status build(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks;
    if (*s->args)
        return CHOIR_ERR_ARGUMENT;
    if (n == 1)
        return copy_only(b);
    struct ring g = {.b = b, .order = order_by_host(s, 0)};
    uint32_t me = g.order.me;
    g.next = order_peer(&g.order, 1);
    g.prev = order_peer(&g.order, n - 1);
    switch (s->kind) {
    case CHOIR_ALL_REDUCE:
        g.positions = true;
        choir_cut_even(b, n);
        reduce_scatter(&g, (me + 1) % n, true);
        all_gather(&g, (me + 1) % n);
        break;
    case CHOIR_REDUCE_SCATTER:
    case CHOIR_REDUCE_SCATTER_V:
        reduce_scatter(&g, me, false);
        break;
    default: /* all_gather, all_gather_v */
        repeat(&g, 1, CHOIR_PLACES(local(CHOIR_IN, me)),
               CHOIR_PLACES(local(CHOIR_OUT, me), message(g.next, CHOIR_OUT, me)));
        all_gather(&g, me);
    }
    return choir_builder_status(b);
}

const struct choir_algorithm algorithm_ring = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "ring",
    .summary = "all_reduce: 2(n-1) steps, 2(n-1)/n of the vector; all_gather, reduce_scatter: n-1 "
               "steps; Patarasuk and Yuan 2009",
    .kinds = 1u << CHOIR_ALL_REDUCE | 1u << CHOIR_ALL_GATHER | 1u << CHOIR_REDUCE_SCATTER |
             1u << CHOIR_ALL_GATHER_V | 1u << CHOIR_REDUCE_SCATTER_V,
    .variants = "",
    .build = build,
};
