/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ranks.c: the shapes and plans of all ranks of one collective. V-forms are given counts that have what
 * goes wrong in practice: zeros, unequal lengths, gaps and blocks out of order.
 */
#include "plan/ranks.h"
#include "plan/builder.h"
#include <stdlib.h>
#include <string.h>

static uint64_t draw(uint64_t count, uint64_t seed, uint64_t a, uint64_t b)
{
    uint64_t x = base_mix(seed + 0x9e3779b97f4a7c15u * (a + 1) + 0xd1b54a32d192ed03u * (b + 1));
    return x % 5 ? x / 5 % (2 * count + 1) : 0;
}

static uint64_t *words_alloc(struct ranks *s, uint64_t words)
{
    s->words = calloc(words + 1, sizeof(*s->words));
    if (!s->words)
        base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for counts of %u ranks", s->n);
    return s->words;
}

/* Blocks in the order 0, 2, 4 ..., 1, 3 ... with gaps. */
static void lay_apart(uint64_t *offset, const uint64_t *count, uint32_t n)
{
    uint64_t at = 2;
    for (uint32_t odd = 0; odd < 2; odd++)
        for (uint32_t i = odd; i < n; i += 2) {
            offset[i] = at;
            at += count[i] + 3;
        }
}

static enum choir_status all_know(struct ranks *s, uint64_t count, uint64_t seed)
{
    uint64_t *all = words_alloc(s, 2 * (uint64_t)s->n), *offset = all + s->n;
    if (!all)
        return CHOIR_ERR_NO_MEMORY;
    for (uint32_t r = 0; r < s->n; r++)
        all[r] = draw(count, seed, r, 0);
    lay_apart(offset, all, s->n);
    for (uint32_t r = 0; r < s->n; r++) {
        struct choir_shape *x = &s->shape[r];
        bool root = r == x->root,
             many_out = x->kind == CHOIR_ALL_GATHER_V || x->kind == CHOIR_GATHER_V;
        bool one = (x->kind == CHOIR_GATHER_V || x->kind == CHOIR_SCATTER_V) && !root;
        if (many_out && !one) {
            x->out_count = all;
            x->out_offset = seed & 1 ? offset : NULL;
        } else if (!one) {
            x->in_count = all;
            x->in_offset = seed & 1 ? offset : NULL;
        } else {
            *(many_out ? &x->in_count : &x->out_count) = all + r;
        }
        if (shape_pair_sized(x->kind))
            x->all_counts = all;
    }
    return CHOIR_OK;
}

static enum choir_status pairs_know(struct ranks *s, uint64_t count, uint64_t seed)
{
    uint64_t n = s->n, *w = words_alloc(s, 5 * n * n), *all = w + 4 * n * n;
    if (!w)
        return CHOIR_ERR_NO_MEMORY;
    bool symmetric = seed % 4 >= 2;
    for (uint32_t r = 0; r < n; r++) {
        uint64_t *in = w + 4 * n * r, *out = in + n, *in_offset = out + n,
                 *out_offset = in_offset + n;
        for (uint32_t q = 0; q < n; q++) {
            bool swap = symmetric && q < r;
            in[q] = draw(count, seed, swap ? q : r, swap ? r : q);
            out[q] = symmetric ? in[q] : draw(count, seed, q, r);
            all[n * r + q] = in[q];
        }
        lay_apart(in_offset, in, s->n);
        lay_apart(out_offset, out, s->n);
        struct choir_shape *x = &s->shape[r];
        x->in_count = in;
        x->out_count = out;
        x->all_counts = all;
        x->in_offset = seed & 1 ? in_offset : NULL;
        x->out_offset = seed & 1 ? out_offset : NULL;
    }
    return CHOIR_OK;
}

/* A group: every rank sends to a few others, to some of them twice, and to itself. The m-th send of r to
 * q meets the m-th receive of q from r; calls are in an order of each rank's own. */
#define CALLS 5
static enum choir_status groups(struct ranks *s, uint64_t count, uint64_t seed)
{
    uint32_t n = s->n;
    static const uint32_t distance[CALLS] = {1, 0, 2, 1, 5};
    uint64_t *w = words_alloc(s, 2 * CALLS * (uint64_t)n);
    s->peers = calloc(2 * CALLS * (size_t)n, sizeof(*s->peers));
    if (!w || !s->peers)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for groups of %u ranks", n);
    /* Receives from far to near; calls of the same two ranks in the order of the sends. */
    uint32_t receive[CALLS] = {0, 1, 2, 3, 4};
    for (uint32_t i = 1; i < CALLS; i++)
        for (uint32_t k = i; k && distance[receive[k]] % n > distance[receive[k - 1]] % n; k--) {
            uint32_t swap = receive[k];
            receive[k] = receive[k - 1];
            receive[k - 1] = swap;
        }
    for (uint32_t r = 0; r < n; r++) {
        uint64_t *in = w + 2 * CALLS * (uint64_t)r, *out = in + CALLS;
        uint32_t *to = s->peers + 2 * CALLS * (size_t)r, *from = to + CALLS;
        for (uint32_t i = 0; i < CALLS; i++) {
            uint32_t j = receive[i], src = (r + n - distance[j] % n) % n;
            to[i] = (r + distance[i]) % n;
            in[i] = draw(count, seed, r, i);
            from[i] = src;
            out[i] = draw(count, seed, src, j);
        }
        struct choir_shape *x = &s->shape[r];
        x->in_parts = x->out_parts = CALLS;
        x->in_count = in;
        x->out_count = out;
        x->in_peer = to;
        x->out_peer = from;
    }
    return CHOIR_OK;
}

enum choir_status ranks_init(struct ranks *s, enum choir_kind kind,
                             const struct choir_layout *layout, uint64_t count, uint32_t root,
                             uint64_t seed)
{
    *s = (struct ranks){.n = layout->ranks};
    s->shape = calloc(s->n, sizeof(*s->shape));
    s->plan = calloc(s->n, sizeof(*s->plan));
    if (!s->shape || !s->plan)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u ranks", s->n);
    for (uint32_t r = 0; r < s->n; r++) {
        plan_shape_init(&s->shape[r], kind, r, s->n, count, layout);
        s->shape[r].root = root;
    }
    switch (kind) {
    case CHOIR_ALL_GATHER_V:
    case CHOIR_REDUCE_SCATTER_V:
    case CHOIR_GATHER_V:
    case CHOIR_SCATTER_V:
        return all_know(s, count, seed);
    case CHOIR_ALL_TO_ALL_V:
        return pairs_know(s, count, seed);
    case CHOIR_EXCHANGE:
        return groups(s, count, seed);
    default:
        return CHOIR_OK;
    }
}

enum choir_status ranks_build(struct ranks *s, const char *algorithm)
{
    uint32_t unsupported = 0;
    for (uint32_t r = 0; r < s->n; r++) {
        enum choir_status status = plan_build(algorithm, &s->shape[r], &s->plan[r]);
        if (status == CHOIR_ERR_UNSUPPORTED && unsupported == r)
            unsupported++;
        else if (status != CHOIR_OK)
            return status == CHOIR_ERR_UNSUPPORTED ? CHOIR_ERR_MISMATCH : status;
        else if (unsupported)
            return base_fail(CHOIR_ERR_MISMATCH, "correct the algorithm",
                             "%s takes rank %u but not rank 0", algorithm, r);
    }
    return unsupported ? CHOIR_ERR_UNSUPPORTED : CHOIR_OK;
}

void ranks_free(struct ranks *s)
{
    for (uint32_t r = 0; s->plan && r < s->n; r++)
        plan_free(s->plan[r]);
    free(s->plan);
    free(s->shape);
    free(s->words);
    free(s->peers);
}
