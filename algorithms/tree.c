/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.c: two binary trees over the same ranks, such that a rank inside one is a leaf of the other; each
 * carries half of the vector, so every rank sends and receives about the vector once up and once down, in
 * about 2 log2 n steps, and pieces follow each other through the trees. tree(trees=1) has one tree (fewer
 * messages), tree(piece=BYTES) sets the longest piece.
 * Source: P. Sanders, J. Speck, J. L. Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and
 * scan", Parallel Computing 35 (2009). Here the second tree is the first one shifted by one place, whatever
 * n.
 */
#include "algorithms/common.h"

/* Neighbours in a tree, as ranks. */
struct node {
    uint32_t children;
    int32_t up, child[2]; /* up < 0: the top */
};

/* Places 1..m numbered in order: odd places are leaves, the height of a place is its number of trailing
 * zeros, and what would lie beyond m is passed over. Fills in places, 0 for none. */
static void in_order(uint32_t place, uint32_t m, uint32_t *up, uint32_t child[2])
{
    uint32_t low = place & (~place + 1), half = low / 2;
    child[0] = half ? place - half : 0;
    while (half && half > m - place)
        half /= 2;
    child[1] = half ? place + half : 0;
    *up = 0;
    if (place == low && low > m / 2)
        return;
    do {
        *up = (place - low) | 2 * low;
        place = *up;
        low *= 2;
    } while (*up > m);
}

/* Tree t over positions first..n-1; with first = 1, position 0 is the head above the top. */
static struct node neighbours(const struct order *o, uint32_t first, uint32_t t)
{
    struct node node = {.up = -1};
    uint32_t m = o->n - first, up, child[2] = {0, 0};
    /* The rank at place p of tree t stands at position first + (p - 1 - t) mod m. */
    if (o->me >= first) {
        in_order((o->me - first + t) % m + 1, m, &up, child);
        if (up)
            node.up = (int32_t)order_rank(o, first + (up - 1 + m - t % m) % m);
        else if (first)
            node.up = (int32_t)order_rank(o, 0);
    } else if (m) {
        for (child[0] = 1; child[0] <= m / 2;)
            child[0] *= 2;
    }
    for (int i = 0; i < 2; i++)
        if (child[i])
            node.child[node.children++] =
                (int32_t)order_rank(o, first + (child[i] - 1 + m - t % m) % m);
    return node;
}

/* Combines this rank's and its children's and hands the result up; at the top it is complete. */
static void up(struct choir_builder *b, const struct node *v, uint32_t nouts,
               const struct choir_place *top)
{
    struct choir_place in[3], out;
    uint32_t n = 0;
    if (v->children > 0)
        in[n++] = CHOIR_MESSAGE(v->child[0], .buf = CHOIR_IN);
    in[n++] = CHOIR_LOCAL(.buf = CHOIR_IN);
    if (v->children > 1)
        in[n++] = CHOIR_MESSAGE(v->child[1], .buf = CHOIR_IN);
    out = CHOIR_MESSAGE(v->up, .buf = CHOIR_IN);
    choir_step(b, n, in, v->up < 0 ? nouts : 1, v->up < 0 ? top : &out);
}

static void program(struct choir_builder *b, uint32_t kind, const struct node *v)
{
    struct choir_place out[3] = {CHOIR_LOCAL(.buf = CHOIR_OUT),
                                 CHOIR_MESSAGE(v->child[0], .buf = CHOIR_OUT),
                                 CHOIR_MESSAGE(v->child[1], .buf = CHOIR_OUT)};
    struct choir_place in =
        v->up < 0 ? CHOIR_LOCAL(.buf = CHOIR_IN) : CHOIR_MESSAGE(v->up, .buf = CHOIR_OUT);
    if (kind != CHOIR_BROADCAST)
        up(b, v, kind == CHOIR_REDUCE ? 1 : 1 + v->children, out);
    if (kind == CHOIR_BROADCAST || (kind != CHOIR_REDUCE && v->up >= 0))
        choir_step(b, 1, &in, 1 + v->children, out);
}

static enum choir_status build(const struct choir_shape *s, struct choir_builder *b)
{
    uint64_t piece = argument(s->args, "piece", s->slot_bytes);
    uint64_t trees = argument(s->args, "trees", s->kind == CHOIR_BARRIER ? 1 : 2);
    if (!piece || !trees || trees > 2 || !arguments_are(s->args, "piece,trees"))
        return CHOIR_ERR_ARGUMENT;
    choir_piece(b, piece);
    bool rooted = s->kind == CHOIR_BROADCAST || s->kind == CHOIR_REDUCE;
    struct order o = order_by_host(s, rooted ? s->root : 0);
    for (uint32_t t = 0; t < trees; t++) {
        struct node v = neighbours(&o, rooted, t);
        if (t)
            choir_next_program(b);
        program(b, s->kind, &v);
    }
    return choir_builder_status(b);
}

const struct choir_algorithm algorithm_tree = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "tree",
    .summary = "double binary tree: log n steps up and down, pipelined; the vector once in and out "
               "of each rank, each way; Sanders, Speck and Träff 2009",
    .kinds =
        1u << CHOIR_ALL_REDUCE | 1u << CHOIR_BROADCAST | 1u << CHOIR_REDUCE | 1u << CHOIR_BARRIER,
    .variants = "trees=1 piece=4096 piece=16384",
    .build = build,
};
