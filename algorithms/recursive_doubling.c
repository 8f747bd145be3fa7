/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recursive_doubling.c: in step k ranks whose numbers differ in bit k swap all they have. All-reduce and
 * barrier: log2 n steps of the whole vector; all-gather: log2 n steps, n-1 blocks. Where n is no power of
 * two, the first ranks pair up: the even one hands its data to the odd one before and gets the result after
 * (two more steps).
 * Data are combined in rank order.
 * Source: R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in
 * MPICH", Int. J. High Perform. Comput. Appl. 19 (2005).
 */
#include "algorithms/common.h"

/* Ranks 2v and 2v+1 are member v for v < folds, 2v+1 acting; then one rank is one member. */
struct fold {
    uint32_t members, folds;
};

static struct fold fold(uint32_t n)
{
    struct fold f = {.members = 1};
    while (f.members <= n / 2)
        f.members *= 2;
    f.folds = n - f.members;
    return f;
}

/* First rank of member v; the acting one. */
static uint32_t begin(const struct fold *f, uint32_t v)
{
    return v < f->folds ? 2 * v : v + f->folds;
}

static int32_t acting(const struct fold *f, uint32_t v)
{
    return (int32_t)(v < f->folds ? 2 * v + 1 : v + f->folds);
}

static void all_reduce(struct choir_builder *b, uint32_t rank, const struct fold *f)
{
    bool folded = rank < 2 * f->folds;
    uint32_t me = folded ? rank / 2 : rank - f->folds;
    struct choir_place mine = CHOIR_LOCAL(.buf = CHOIR_IN), out = CHOIR_LOCAL(.buf = CHOIR_OUT);
    if (folded && rank % 2 == 0) {
        CHOIR_STEP(b, CHOIR_PLACES(mine), CHOIR_PLACES(CHOIR_MESSAGE(rank + 1, .buf = CHOIR_IN)));
        CHOIR_STEP(b, CHOIR_PLACES(CHOIR_MESSAGE(rank + 1, .buf = CHOIR_OUT)), CHOIR_PLACES(out));
        return;
    }
    /* One step combines what came with what is there and sends that on; in[0] comes before in[1]. */
    struct choir_place in[2] = {mine, mine}, to[2] = {out, out};
    if (folded)
        in[0] = CHOIR_MESSAGE(rank - 1, .buf = CHOIR_IN);
    for (uint32_t d = 1, first = !folded; d < f->members; d *= 2, first = 0) {
        int32_t peer = acting(f, me ^ d);
        to[!first] = CHOIR_MESSAGE(peer, .buf = CHOIR_IN);
        choir_step(b, first ? 1 : 2, in, first ? 1 : 2, to);
        in[0] = in[1] = first ? mine : out;
        in[!(me & d)] = CHOIR_MESSAGE(peer, .buf = CHOIR_IN);
        to[0] = out;
    }
    if (folded)
        to[1] = CHOIR_MESSAGE(rank - 1, .buf = CHOIR_OUT);
    choir_step(b, f->members > 1 || folded ? 2 : 1, in, folded ? 2 : 1, to);
}

static struct choir_place blocks(int32_t peer, uint32_t from, uint32_t to)
{
    return (struct choir_place){.peer = peer, .buf = CHOIR_OUT, .first = from, .run = to - from};
}

static void all_gather(struct choir_builder *b, uint32_t rank, uint32_t n, const struct fold *f)
{
    bool folded = rank < 2 * f->folds;
    uint32_t me = folded ? rank / 2 : rank - f->folds;
    struct choir_place own = CHOIR_LOCAL(.buf = CHOIR_IN), all_but;
    int32_t fellow = (int32_t)(rank ^ 1);
    struct choir_place keep[2] = {blocks(-1, rank, rank + 1), blocks(fellow, rank, rank + 1)};
    bool hands_over = folded && rank % 2 == 0;
    choir_step(b, 1, &own, hands_over ? 2 : 1, keep);
    /* What the even rank of a pair lacks at the end: all blocks but its own. */
    all_but = CHOIR_LOCAL(.buf = CHOIR_OUT, .run = n - 1, .turn = (int32_t)(rank | 1));
    if (folded && !hands_over) {
        all_but.turn = (int32_t)rank;
        CHOIR_STEP(b, CHOIR_PLACES(blocks(fellow, rank - 1, rank)),
                   CHOIR_PLACES(blocks(-1, rank - 1, rank)));
    }
    for (uint32_t d = 1; d < f->members && !hands_over; d *= 2) {
        uint32_t mine = me & ~(d - 1), theirs = mine ^ d;
        uint32_t from = begin(f, mine), to = begin(f, mine + d);
        int32_t peer = acting(f, me ^ d);
        CHOIR_STEP(b, CHOIR_PLACES(blocks(-1, from, to)), CHOIR_PLACES(blocks(peer, from, to)));
        from = begin(f, theirs), to = begin(f, theirs + d);
        CHOIR_STEP(b, CHOIR_PLACES(blocks(peer, from, to)), CHOIR_PLACES(blocks(-1, from, to)));
    }
    if (!folded)
        return;
    struct choir_place message = all_but;
    message.peer = fellow;
    if (hands_over)
        choir_step(b, 1, &message, 1, &all_but);
    else
        choir_step(b, 1, &all_but, 1, &message);
}

static enum choir_status build(const struct choir_shape *s, struct choir_builder *b)
{
    struct fold f = fold(s->ranks);
    if (*s->args)
        return CHOIR_ERR_ARGUMENT;
    if (s->kind == CHOIR_ALL_REDUCE || s->kind == CHOIR_BARRIER) {
        all_reduce(b, s->rank, &f);
    } else {
        choir_computed(b, 0);
        all_gather(b, s->rank, s->ranks, &f);
    }
    return choir_builder_status(b);
}

const struct choir_algorithm algorithm_recursive_doubling = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "recursive_doubling",
    .summary = "all_reduce, barrier: log n steps of the whole vector; all_gather: log n steps, n-1 "
               "blocks; two more unless n is a power of two; Thakur et al. 2005",
    .kinds = 1u << CHOIR_ALL_REDUCE | 1u << CHOIR_BARRIER | 1u << CHOIR_ALL_GATHER |
             1u << CHOIR_ALL_GATHER_V,
    .flags = CHOIR_ORDERED,
    .variants = "",
    .build = build,
};
