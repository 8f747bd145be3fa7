/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pairwise.c: all-to-all in n rounds; in round i ranks whose sum is i (mod n) swap their blocks, so every
 * block crosses the wire once, each rank talks to one other at a time, and what is received can replace what
 * was sent (in place).
 * EXCHANGE, a group of sends and receives, posts all sends, then takes the receives nearest sender first.
 * Source: R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in
 * MPICH" (2005).
 */
#include "algorithms/common.h"

/* Rounds with `times` partners one after another, the first being `peer`. */
static void swaps(struct choir_builder *b, uint32_t peer, uint32_t times)
{
    struct choir_place in = CHOIR_LOCAL(.buf = CHOIR_IN, .turn = (int32_t)peer, .dturn = 1),
                       to = in;
    struct choir_place out = in, from = in;
    out.buf = from.buf = CHOIR_OUT;
    to.peer = from.peer = (int32_t)peer;
    to.dpeer = from.dpeer = 1;
    CHOIR_STEP(b, CHOIR_PLACES(in), CHOIR_PLACES(to));
    CHOIR_STEP(b, CHOIR_PLACES(from), CHOIR_PLACES(out));
    choir_loop(b, 2, times);
}

static void all_to_all(struct choir_builder *b, uint32_t r, uint32_t n)
{
    uint32_t self =
        (uint32_t)(2 * (uint64_t)r % n); /* the round in which this rank is its own partner */
    swaps(b, (n - r) % n, self);
    CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN, .first = r)),
               CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT, .first = r)));
    swaps(b, (r + 1) % n, n - 1 - self);
}

/* --- groups of sends and receives --------------------------------------------------------------- */

static int by_key(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Calls by distance to their peer, those of one peer in the caller's order: key is distance << 32 | call. */
static uint64_t *sorted(const struct choir_shape *s, bool receives)
{
    uint32_t calls = receives ? s->out_parts : s->in_parts;
    const uint32_t *peer = receives ? s->out_peer : s->in_peer;
    uint64_t *key = malloc(((size_t)calls + 1) * sizeof(*key));
    for (uint32_t i = 0; key && i < calls; i++) {
        uint32_t from = receives ? peer[i] : s->rank, to = receives ? s->rank : peer[i];
        key[i] = (uint64_t)((to + s->ranks - from) % s->ranks) << 32 | i;
    }
    if (key)
        qsort(key, calls, sizeof(*key), by_key);
    return key;
}

static enum choir_status exchange(const struct choir_shape *s, struct choir_builder *b)
{
    uint64_t *send = sorted(s, false), *receive = sorted(s, true);
    uint32_t self = 0, selves = 0;
    enum choir_status status = send && receive ? CHOIR_OK : CHOIR_ERR_NO_MEMORY;
    if (status == CHOIR_OK) { /* distance 0 comes first: calls to oneself, matched in order */
        while (self < s->in_parts && !(send[self] >> 32))
            self++;
        while (selves < s->out_parts && !(receive[selves] >> 32))
            selves++;
        status = self == selves ? CHOIR_OK : CHOIR_ERR_ARGUMENT;
    }
    for (uint32_t i = 0; status == CHOIR_OK && i < s->in_parts; i++) {
        uint32_t part = (uint32_t)send[i], out = i < self ? (uint32_t)receive[i] : part;
        CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN, .first = part)),
                   CHOIR_PLACES(
                       i < self ? CHOIR_LOCAL(.buf = CHOIR_OUT, .first = out)
                                : CHOIR_MESSAGE(s->in_peer[part], .buf = CHOIR_IN, .first = part)));
    }
    for (uint32_t i = self; status == CHOIR_OK && i < s->out_parts; i++) {
        uint32_t part = (uint32_t)receive[i];
        CHOIR_STEP(b,
                   CHOIR_PLACES(CHOIR_MESSAGE(s->out_peer[part], .buf = CHOIR_OUT, .first = part)),
                   CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT, .first = part)));
    }
    free(send);
    free(receive);
    return status == CHOIR_OK ? choir_builder_status(b) : status;
}

static enum choir_status build(const struct choir_shape *s, struct choir_builder *b)
{
    if (*s->args)
        return CHOIR_ERR_ARGUMENT;
    if (s->kind == CHOIR_EXCHANGE)
        return exchange(s, b);
    choir_computed(b, 0);
    all_to_all(b, s->rank, s->ranks);
    return choir_builder_status(b);
}

const struct choir_algorithm algorithm_pairwise = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "pairwise",
    .summary = "all_to_all: n rounds, one partner a round, n-1 blocks; groups of send and receive; "
               "Thakur et al. 2005",
    .kinds = 1u << CHOIR_ALL_TO_ALL | 1u << CHOIR_ALL_TO_ALL_V | 1u << CHOIR_EXCHANGE,
    .variants = "",
    .build = build,
};
