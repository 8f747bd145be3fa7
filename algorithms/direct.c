/* SPDX-License-Identifier: Apache-2.0 */
/*
 * direct.c: everybody talks to everybody concerned at once. "direct" is one step for any collective but
 * all-reduce: every block goes straight to where it belongs, or to the rank that combines it. "one_shot" is
 * an all-reduce that sends all vectors to all ranks, one step; "two_shot" combines part r at rank r, then
 * sends it to all: two steps, 2(n-1)/n of the vector. Data are combined in rank order, with one rounding.
 * two_shot(pull) first writes the combined part and lets all fetch it: longer messages than a slot, no copy
 * where memory is mapped; two_shot(pull,piece=BYTES) does so in pieces that are still in a cache when fetched.
 * Source: the naive algorithms of any text; their use on shared memory: S. Li, T. Hoefler, M. Snir,
 * "NUMA-aware shared-memory collective communication for MPI", HPDC 2013.
 */
#include "algorithms/common.h"

/* Part r+1+t of `buf` (its only part if `one`) to rank r+1+t, t = 0..n-2. */
static void send_all(struct choir_builder *b, const struct choir_shape *s, uint8_t buf, bool one)
{
    int32_t next = (int32_t)((s->rank + 1) % s->ranks);
    struct choir_place in = CHOIR_LOCAL(.buf = buf, .turn = one ? 0 : next, .dturn = !one), to = in;
    to.peer = next;
    to.dpeer = 1;
    CHOIR_STEP(b, CHOIR_PLACES(in), CHOIR_PLACES(to));
    choir_loop(b, 1, s->ranks - 1);
}

/* Part q of OUT from rank q for `times` ranks q, beginning with `q`, upwards or downwards. */
static void receive(struct choir_builder *b, uint32_t q, uint32_t times, int32_t direction)
{
    struct choir_place out = CHOIR_LOCAL(.buf = CHOIR_OUT, .turn = (int32_t)q, .dturn = direction);
    struct choir_place from = out;
    from.peer = (int32_t)q;
    from.dpeer = direction;
    CHOIR_STEP(b, CHOIR_PLACES(from), CHOIR_PLACES(out));
    choir_loop(b, 1, times);
}

static void copy(struct choir_builder *b, uint32_t in, uint32_t out)
{
    CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN, .first = in)),
               CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT, .first = out)));
}

/* All ranks' `part` of IN, this rank's own from memory, in rank order. */
static enum choir_status combine(struct choir_builder *b, const struct choir_shape *s,
                                 uint32_t part, uint32_t nouts, const struct choir_place *outs)
{
    struct choir_place *in = s->ranks > UINT16_MAX ? NULL : malloc(s->ranks * sizeof(*in));
    if (s->ranks > UINT16_MAX)
        return CHOIR_ERR_UNSUPPORTED;
    if (!in)
        return CHOIR_ERR_NO_MEMORY;
    for (uint32_t q = 0; q < s->ranks; q++)
        in[q] = (struct choir_place){
            .peer = q == s->rank ? -1 : (int32_t)q, .buf = CHOIR_IN, .first = part};
    choir_step(b, s->ranks, in, nouts, outs);
    free(in);
    return choir_builder_status(b);
}

/* --- movement --------------------------------------------------------------------------------- */

/* Receives in the order of pairwise.c, where each waits for its own counterpart only: in place, a block is
 * overwritten once its reader has it. */
static void all_to_all(struct choir_builder *b, const struct choir_shape *s)
{
    uint32_t n = s->ranks, r = s->rank, self = (uint32_t)(2 * (uint64_t)r % n);
    send_all(b, s, CHOIR_IN, false);
    copy(b, r, r);
    receive(b, (n - r) % n, self, 1);
    receive(b, (r + 1) % n, n - 1 - self, 1);
}

/* From or to the root only. `blocks`: every rank has its own part at the root. */
static void from_root(struct choir_builder *b, const struct choir_shape *s, bool blocks)
{
    uint32_t r = s->rank;
    if (r == s->root) {
        send_all(b, s, CHOIR_IN, !blocks);
        copy(b, blocks ? r : 0, 0);
        return;
    }
    CHOIR_STEP(b, CHOIR_PLACES(CHOIR_MESSAGE(s->root, .buf = CHOIR_OUT)),
               CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT)));
}

static void gather(struct choir_builder *b, const struct choir_shape *s)
{
    if (s->rank == s->root) {
        copy(b, 0, s->rank);
        receive(b, (s->rank + 1) % s->ranks, s->ranks - 1, 1);
        return;
    }
    CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN)),
               CHOIR_PLACES(CHOIR_MESSAGE(s->root, .buf = CHOIR_IN)));
}

/* --- reduction -------------------------------------------------------------------------------- */

/* This rank's vector to everybody, or to each their block, and everybody's combined into OUT. */
static enum choir_status exchange(struct choir_builder *b, const struct choir_shape *s, bool blocks)
{
    send_all(b, s, CHOIR_IN, !blocks);
    return combine(b, s, blocks ? s->rank : 0, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT)));
}

static enum choir_status build_one_shot(const struct choir_shape *s, struct choir_builder *b)
{
    if (*s->args)
        return CHOIR_ERR_ARGUMENT;
    choir_computed(b, 0);
    return exchange(b, s, false);
}

static enum choir_status build_two_shot(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks, r = s->rank, nouts = 1;
    bool pull = find_argument(s->args, "pull") != NULL;
    uint64_t piece = argument(s->args, "piece", UINT64_MAX);
    if (!piece || !arguments_are(s->args, "pull,piece"))
        return CHOIR_ERR_ARGUMENT;
    struct choir_place *out = malloc(n * sizeof(*out));
    if (!out)
        return CHOIR_ERR_NO_MEMORY;
    choir_cut_even(b, n);
    choir_computed(b, !pull);
    choir_piece(b, piece);
    send_all(b, s, CHOIR_IN, false);
    out[0] = CHOIR_LOCAL(.buf = CHOIR_OUT, .first = r);
    for (uint32_t i = 1; i < n && !pull; i++)
        out[nouts++] = CHOIR_MESSAGE((r + i) % n, .buf = CHOIR_OUT, .first = r);
    enum choir_status status = combine(b, s, r, nouts, out);
    free(out);
    if (pull) {
        struct choir_place done = CHOIR_LOCAL(.buf = CHOIR_OUT, .first = r), to = done;
        to.peer = (int32_t)((r + 1) % n);
        to.dpeer = 1;
        CHOIR_STEP(b, CHOIR_PLACES(done), CHOIR_PLACES(to));
        choir_loop(b, 1, n - 1);
    }
    receive(b, (r + n - 1) % n, n - 1, -1);
    return status == CHOIR_OK ? choir_builder_status(b) : status;
}

/* All to the root, which combines. */
static enum choir_status reduce(struct choir_builder *b, const struct choir_shape *s)
{
    if (s->rank == s->root)
        return combine(b, s, 0, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT)));
    gather(b, s);
    return choir_builder_status(b);
}

static enum choir_status build_direct(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks, r = s->rank;
    if (*s->args)
        return CHOIR_ERR_ARGUMENT;
    choir_computed(b, 0);
    switch (s->kind) {
    case CHOIR_BROADCAST:
        from_root(b, s, false);
        break;
    case CHOIR_SCATTER:
    case CHOIR_SCATTER_V:
        from_root(b, s, true);
        break;
    case CHOIR_GATHER:
    case CHOIR_GATHER_V:
        gather(b, s);
        break;
    case CHOIR_ALL_TO_ALL:
    case CHOIR_ALL_TO_ALL_V:
        all_to_all(b, s);
        break;
    case CHOIR_BARRIER:
        return exchange(b, s, false);
    case CHOIR_REDUCE_SCATTER:
    case CHOIR_REDUCE_SCATTER_V:
        return exchange(b, s, true);
    case CHOIR_REDUCE:
        return reduce(b, s);
    default: /* all_gather, all_gather_v */
        send_all(b, s, CHOIR_IN, true);
        copy(b, 0, r);
        receive(b, (r + n - 1) % n, n - 1, -1);
    }
    return choir_builder_status(b);
}

const struct choir_algorithm algorithm_direct = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "direct",
    .summary = "one step, every block straight to where it belongs, n-1 messages a rank at once",
    .kinds = 1u << CHOIR_ALL_GATHER | 1u << CHOIR_ALL_GATHER_V | 1u << CHOIR_ALL_TO_ALL |
             1u << CHOIR_ALL_TO_ALL_V | 1u << CHOIR_BROADCAST | 1u << CHOIR_GATHER |
             1u << CHOIR_GATHER_V | 1u << CHOIR_SCATTER | 1u << CHOIR_SCATTER_V |
             1u << CHOIR_BARRIER | 1u << CHOIR_REDUCE_SCATTER | 1u << CHOIR_REDUCE_SCATTER_V |
             1u << CHOIR_REDUCE,
    .flags = CHOIR_ORDERED,
    .variants = "",
    .build = build_direct,
};

const struct choir_algorithm algorithm_one_shot = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "one_shot",
    .summary = "all_reduce: one step, all vectors to all ranks, which combine them in rank order; "
               "n-1 vectors",
    .kinds = 1u << CHOIR_ALL_REDUCE,
    .flags = CHOIR_ORDERED,
    .variants = "",
    .build = build_one_shot,
};

const struct choir_algorithm algorithm_two_shot = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "two_shot",
    .summary = "all_reduce: two steps, rank r combines part r in rank order and sends it to all; "
               "2(n-1)/n of the vector",
    .kinds = 1u << CHOIR_ALL_REDUCE,
    .flags = CHOIR_ORDERED,
    .variants = "pull pull,piece=262144",
    .build = build_two_shot,
};
