/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify_value.c: symbols for the contents of parts. Combinations are hash-consed, so one comparison tells
 * whether two ranks combined in the same association tree. What contributes is exact up to 64 ranks (a bit
 * each); beyond, 64-bit random fingerprints are summed: a wrong multiset passes with probability 2^-64.
 */
#include "plan/verify.h"
#include <stdlib.h>
#include <string.h>

#define EXACT_RANKS 64

bool values_init(struct values *v, uint32_t ranks, uint32_t parts, uint64_t seed)
{
    *v = (struct values){.ranks = ranks, .parts = parts, .buckets = 1u << 10};
    v->fingerprint = malloc(ranks * sizeof(*v->fingerprint));
    v->bucket = calloc(v->buckets, sizeof(*v->bucket));
    if (!v->fingerprint || !v->bucket)
        return false;
    for (uint32_t r = 0; r < ranks; r++) {
        v->fingerprint[r] = ranks <= EXACT_RANKS ? 1ull << r : base_random(&seed);
        v->full += v->fingerprint[r];
    }
    return true;
}

void values_free(struct values *v)
{
    free(v->fingerprint);
    free(v->node);
    free(v->operand);
    free(v->bucket);
    *v = (struct values){0};
}

struct value_node value_get(const struct values *v, symbol s)
{
    uint32_t i = s - 1, inputs = v->ranks * v->parts;
    if (i >= inputs)
        return v->node[i - inputs];
    uint32_t rank = i / v->parts;
    return (struct value_node){
        .mass = v->fingerprint[rank], .part = i % v->parts, .lo = rank, .hi = rank + 1};
}

static uint32_t slot_of(const struct values *v, const symbol *in, uint32_t n)
{
    uint64_t h = n;
    for (uint32_t i = 0; i < n; i++)
        h = base_mix(h + 0x9e3779b97f4a7c15u + in[i]);
    return (uint32_t)h & (v->buckets - 1);
}

static bool rehash(struct values *v)
{
    uint32_t *fresh = calloc(2 * (size_t)v->buckets, sizeof(*fresh));
    if (!fresh)
        return false;
    free(v->bucket);
    v->bucket = fresh;
    v->buckets *= 2;
    for (uint32_t k = 0; k < v->nodes; k++) {
        uint32_t i = slot_of(v, v->operand + v->node[k].first, v->node[k].count);
        while (v->bucket[i])
            i = (i + 1) & (v->buckets - 1);
        v->bucket[i] = k + 1;
    }
    return true;
}

static bool make_room(struct values *v, uint32_t operands)
{
    if (v->nodes == v->nodes_room) {
        uint32_t room = 2 * v->nodes_room + 1024;
        void *p = realloc(v->node, room * sizeof(*v->node));
        if (!p)
            return false;
        v->node = p;
        v->nodes_room = room;
    }
    if (operands > v->operands_room - v->operands) {
        uint32_t room = 2 * v->operands_room + operands + 4096;
        void *p = room < v->operands_room ? NULL : realloc(v->operand, room * sizeof(*v->operand));
        if (!p)
            return false;
        v->operand = p;
        v->operands_room = room;
    }
    return v->nodes < v->buckets / 2 || rehash(v);
}

/* The node that the operands make; *error says why they should not be combined. */
static struct value_node merge(const struct values *v, const symbol *in, uint32_t n,
                               const char **error)
{
    struct value_node sum = value_get(v, in[0]);
    for (uint32_t i = 1; i < n; i++) {
        struct value_node x = value_get(v, in[i]);
        if (x.part != sum.part)
            *error = "combines different parts";
        if (v->ranks <= EXACT_RANKS && (x.mass & sum.mass))
            *error = "counts a rank's contribution twice";
        sum.mass += x.mass;
        sum.hi = sum.hi && x.hi && x.lo == sum.hi ? x.hi : 0;
    }
    sum.first = v->operands;
    sum.count = n;
    return sum;
}

symbol value_combine(struct values *v, const symbol *in, uint32_t n, const char **error)
{
    if (n == 1)
        return in[0];
    for (uint32_t i = 0; i < n; i++)
        if (!in[i])
            return 0; /* of no elements: reading others undefined has failed already */
    uint32_t inputs = v->ranks * v->parts, i = slot_of(v, in, n);
    for (; v->bucket[i]; i = (i + 1) & (v->buckets - 1)) {
        const struct value_node *x = v->node + v->bucket[i] - 1;
        if (x->count == n && !memcmp(v->operand + x->first, in, n * sizeof(*in)))
            return inputs + v->bucket[i];
    }
    struct value_node sum = merge(v, in, n, error);
    if (*error)
        return 0;
    if (v->nodes >= UINT32_MAX - inputs - 1 || !make_room(v, n)) {
        *error = "makes more combinations than memory holds";
        return 0;
    }
    memcpy(v->operand + v->operands, in, n * sizeof(*in));
    v->operands += n;
    v->node[v->nodes++] = sum;
    for (i = slot_of(v, in, n); v->bucket[i];)
        i = (i + 1) & (v->buckets - 1);
    v->bucket[i] = v->nodes;
    return inputs + v->nodes;
}
