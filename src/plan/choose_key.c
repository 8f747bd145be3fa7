/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choose_key.c: which calls are chosen for as one, and the shape by which these are priced.
 *
 * A key follows from what all ranks know of a call. A size class is (2^(c-1), 2^c] bytes of the largest
 * buffer of a rank (nccl-tests' size), priced at 2^c. Where all ranks know the counts of a v-form, its longest
 * block counts too: a ring waits for it at every hop, others send it once.
 */
#include "plan/choose.h"

enum { CLASSES = 48, ASSUMED = 4096 };

/* Does the largest buffer hold a block of every rank? */
static bool has_blocks(uint32_t kind)
{
    return kind != CHOIR_ALL_REDUCE && kind != CHOIR_REDUCE && kind != CHOIR_BROADCAST &&
           kind != CHOIR_BARRIER;
}

static uint64_t capped_sum(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t capped_product(uint64_t a, uint64_t b)
{
    return b && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

/* Of all_to_all_v, gather_v and scatter_v a rank knows its own counts only: what is chosen must not depend on
 * them, and blocks of ASSUMED bytes are assumed. Sums are capped: blocks that are read may overlap, and wrong
 * counts are found out later. */
uint64_t choose_bytes(const struct choir_shape *s)
{
    const uint64_t *all = plan_shape_counts(s);
    if (s->kind == CHOIR_BARRIER || s->kind == CHOIR_EXCHANGE)
        return 0;
    if (s->kind >= CHOIR_ALL_GATHER_V) {
        uint64_t sum = 0;
        for (uint32_t r = 0; all && r < s->ranks; r++)
            sum = capped_sum(sum, all[r]);
        return all ? capped_product(sum, s->type_bytes) : (uint64_t)ASSUMED * s->ranks;
    }
    uint64_t each = s->type_bytes * (has_blocks(s->kind) ? (uint64_t)s->ranks : 1);
    return capped_product(s->count, each);
}

static uint32_t class_of(uint64_t bytes)
{
    uint32_t c = bytes ? 1 : 0; /* class 0: nothing; c: up to 2^(c-1) */
    while (c && c < CLASSES - 1 && bytes > 1ull << (c - 1))
        c++;
    return c;
}

/* Roots on hosts of the same size are alike: the first rank of the first such host stands for them. */
static uint32_t root_class(const struct choir_layout *l, uint32_t root)
{
    uint32_t host = l->host_of[root], size = l->begin[host + 1] - l->begin[host];
    for (uint32_t h = 0; h < l->hosts; h++)
        if (l->begin[h + 1] - l->begin[h] == size)
            return l->member[l->begin[h]];
    return root;
}

static bool has_root(uint32_t kind)
{
    return kind == CHOIR_REDUCE || kind == CHOIR_BROADCAST || kind == CHOIR_GATHER ||
           kind == CHOIR_SCATTER || kind == CHOIR_GATHER_V || kind == CHOIR_SCATTER_V;
}

/* How many times as long as the mean the longest block is: the nearest power of two, at most `ranks`, where it
 * is all there is. *longest: the first rank with such a block. */
static uint32_t skew_class(const uint64_t *count, uint32_t ranks, uint32_t *longest)
{
    uint64_t sum = 0, most = 0, skew = 1;
    unsigned shift = 0;
    for (uint32_t r = 0; r < ranks; r++)
        if (count[r] > most) {
            most = count[r];
            *longest = r;
        }
    /* Ranks are at most 2^30: 29 bits keep sum and products below 2^64. */
    while (most >> shift >> 29)
        shift++;
    for (uint32_t r = 0; r < ranks; r++)
        sum += count[r] >> shift;
    for (most >>= shift; sum >> 29; sum >>= 1)
        most >>= 1;
    while (sum && skew < ranks && 4 * most * ranks >= 3 * (2 * skew) * sum)
        skew *= 2;
    return (uint32_t)base_min(skew, ranks);
}

struct choose_key choose_key_of(const struct choir_layout *layout, const struct choir_shape *s)
{
    const uint64_t *all = plan_shape_counts(s);
    uint32_t root = s->root, skew = all ? skew_class(all, s->ranks, &root) : 1;
    return (struct choose_key){
        .kind = s->kind,
        .size_class = class_of(choose_bytes(s)),
        .depth = s->depth,
        .window = s->window,
        .skew = skew,
        .root = has_root(s->kind) || skew > 1 ? root_class(layout, root) : 0,
        .slot_bytes = s->slot_bytes,
    };
}

/* 4-byte elements, rank 0, the root the first rank of its host. The longest block of a v-form is where the key
 * says, as a root would be, since a gathering of little but this is a broadcast of it; the others share the rest. */
uint64_t *choose_class_shape(const struct choir_layout *layout, const struct choose_key *key,
                             struct choir_shape *shape)
{
    uint64_t bytes = key->size_class ? 1ull << (key->size_class - 1) : 0;
    uint64_t each = 4 * (has_blocks(key->kind) ? (uint64_t)layout->ranks : 1);
    uint64_t count = bytes ? base_max(bytes / each, 1u) : 0;
    plan_shape_init(shape, (enum choir_kind)key->kind, 0, layout->ranks, count, layout);
    shape->root = has_root(key->kind) ? key->root : 0;
    shape->slot_bytes = key->slot_bytes;
    shape->depth = key->depth;
    shape->window = key->window;
    uint64_t *counts = plan_shape_even(shape);
    if (counts && key->skew > 1)
        plan_counts_skew(counts, layout->ranks, key->root, key->skew * count);
    return counts;
}
