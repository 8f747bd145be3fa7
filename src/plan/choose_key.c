/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choose_key.c: which calls are chosen for as one, and the shape by which these are priced.
 *
 * A key follows from what all ranks know of a call. A size class is (2^(c-1), 2^c] bytes of the largest
 * buffer of a rank (nccl-tests' size), priced at 2^c.
 */
#include "plan/choose.h"

enum { CLASSES = 48, ASSUMED = 4096 };

/* Does the largest buffer hold a block of every rank? */
static bool has_blocks(uint32_t kind)
{
    return kind != CHOIR_ALL_REDUCE && kind != CHOIR_REDUCE && kind != CHOIR_BROADCAST &&
           kind != CHOIR_BARRIER;
}

/* Where each rank knows its own counts of a v-form only, blocks of ASSUMED bytes are assumed. */
uint64_t choose_bytes(const struct choir_shape *s)
{
    const uint64_t *all = plan_shape_counts(s);
    if (s->kind == CHOIR_BARRIER || s->kind == CHOIR_EXCHANGE)
        return 0;
    if (s->kind >= CHOIR_ALL_GATHER_V) {
        uint64_t sum = 0;
        for (uint32_t r = 0; all && r < s->ranks; r++)
            sum += all[r];
        return all ? sum * s->type_bytes : (uint64_t)ASSUMED * s->ranks;
    }
    uint64_t each = s->type_bytes * (has_blocks(s->kind) ? (uint64_t)s->ranks : 1);
    return s->count > UINT64_MAX / base_max(each, 1u) ? UINT64_MAX : s->count * each;
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

struct choose_key choose_key_of(const struct choir_layout *layout, const struct choir_shape *s)
{
    return (struct choose_key){
        .kind = s->kind,
        .size_class = class_of(choose_bytes(s)),
        .root = has_root(s->kind) ? root_class(layout, s->root) : 0,
        .depth = s->depth,
        .window = s->window,
        .slot_bytes = s->slot_bytes,
    };
}

/* 4-byte elements, rank 0, the root the first rank of its host. */
struct choir_shape choose_class_shape(const struct choir_layout *layout,
                                      const struct choose_key *key)
{
    struct choir_shape s;
    uint64_t bytes = key->size_class ? 1ull << (key->size_class - 1) : 0;
    uint64_t each = 4 * (has_blocks(key->kind) ? (uint64_t)layout->ranks : 1);
    uint64_t count = bytes ? base_max(bytes / each, 1u) : 0;
    plan_shape_init(&s, (enum choir_kind)key->kind, 0, layout->ranks, count, layout);
    s.root = key->root;
    s.slot_bytes = key->slot_bytes;
    s.depth = key->depth;
    s.window = key->window;
    return s;
}
