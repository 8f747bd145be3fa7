/* SPDX-License-Identifier: Apache-2.0 */
/* plans_algorithms.c: the tests' own algorithms: small, and together they use everything a plan can say. */
#include "tests/lib/plans.h"
#include "tests/lib/test.h"

#define IN(...) CHOIR_LOCAL(.buf = CHOIR_IN, __VA_ARGS__)
#define OUT(...) CHOIR_LOCAL(.buf = CHOIR_OUT, __VA_ARGS__)
#define TMP(...) CHOIR_LOCAL(.buf = CHOIR_TMP, __VA_ARGS__)
#define MSG(p, b, ...) CHOIR_MESSAGE(p, .buf = b, __VA_ARGS__)
#define P CHOIR_PLACES

static enum choir_status copy(struct choir_builder *b)
{
    CHOIR_STEP(b, P(IN(.run = 1)), P(OUT(.run = 1)));
    return choir_builder_status(b);
}

static enum choir_status ring(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks, next = (s->rank + 1) % n, prev = (s->rank + n - 1) % n;
    int32_t r = (int32_t)s->rank;
    if (n == 1)
        return copy(b);
    choir_cut_even(b, n);
    CHOIR_STEP(b, P(IN(.turn = r)), P(MSG(next, CHOIR_IN, .turn = r)));
    CHOIR_STEP(b,
               P(MSG(prev, CHOIR_IN, .turn = r - 1, .dturn = -1), IN(.turn = r - 1, .dturn = -1)),
               P(MSG(next, CHOIR_IN, .turn = r - 1, .dturn = -1)));
    choir_loop(b, 1, n - 2);
    CHOIR_STEP(b, P(MSG(prev, CHOIR_IN, .turn = r + 1), IN(.turn = r + 1)),
               P(OUT(.turn = r + 1), MSG(next, CHOIR_OUT, .turn = r + 1)));
    CHOIR_STEP(b, P(MSG(prev, CHOIR_OUT, .turn = r, .dturn = -1)),
               P(OUT(.turn = r, .dturn = -1), MSG(next, CHOIR_OUT, .turn = r, .dturn = -1)));
    choir_loop(b, 1, n - 2);
    CHOIR_STEP(b, P(MSG(prev, CHOIR_OUT, .turn = r + 2)), P(OUT(.turn = r + 2)));
    return choir_builder_status(b);
}

/* Places of `parts` turn `turn`: this rank's own local, the others' messages, in rank order. */
static void from_all(const struct choir_shape *s, struct choir_place *p, int32_t turn)
{
    for (uint32_t q = 0; q < s->ranks; q++)
        p[q] = q == s->rank ? IN(.turn = turn) : MSG(q, CHOIR_IN, .turn = turn);
}

static enum choir_status oneshot(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks, k = 0;
    struct choir_place all[256], to[256];
    if (n == 1)
        return copy(b);
    if (n > 256)
        return CHOIR_ERR_UNSUPPORTED;
    choir_computed(b, 0);
    for (uint32_t q = 0; q < n; q++)
        if (q != s->rank)
            to[k++] = MSG(q, CHOIR_IN, .run = 1);
    from_all(s, all, 0);
    choir_step(b, 1, &IN(.run = 1), n - 1, to);
    choir_step(b, n, all, 1, &OUT(.run = 1));
    return choir_builder_status(b);
}

static enum choir_status twoshot(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks, k = 1;
    int32_t r = (int32_t)s->rank;
    struct choir_place all[256], to[256] = {OUT(.turn = r)};
    if (n == 1)
        return copy(b);
    if (n > 256)
        return CHOIR_ERR_UNSUPPORTED;
    choir_cut_even(b, n);
    CHOIR_STEP(b, P(IN(.turn = r + 1, .dturn = 1)),
               P(MSG((s->rank + 1) % n, CHOIR_IN, .turn = r + 1, .dpeer = 1, .dturn = 1)));
    choir_loop(b, 1, n - 1);
    for (uint32_t i = 1; i < n; i++)
        to[k++] = MSG((s->rank + i) % n, CHOIR_OUT, .turn = r);
    from_all(s, all, r);
    choir_step(b, n, all, n, to);
    CHOIR_STEP(b, P(MSG((s->rank + n - 1) % n, CHOIR_OUT, .turn = r - 1, .dpeer = -1, .dturn = -1)),
               P(OUT(.turn = r - 1, .dturn = -1)));
    choir_loop(b, 1, n - 1);
    return choir_builder_status(b);
}

/* Recursive doubling; ranks beyond a power of two fold into their neighbour first. */
static enum choir_status doubling(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks, r = s->rank, m = 1, next = 0;
    if (n == 1)
        return copy(b);
    while (2 * m <= n)
        m *= 2;
    uint32_t rest = n - m, v = r < 2 * rest ? r / 2 : r - rest;
    choir_tmp(b, 2);
    choir_computed(b, 0);
    if (r < 2 * rest && r % 2 == 0) {
        CHOIR_STEP(b, P(IN(.run = 1)), P(MSG(r + 1, CHOIR_IN, .run = 1)));
        CHOIR_STEP(b, P(MSG(r + 1, CHOIR_OUT, .run = 1)), P(OUT(.run = 1)));
        return choir_builder_status(b);
    }
    struct choir_place x = IN(.run = 1);
    if (r < 2 * rest) {
        CHOIR_STEP(b, P(MSG(r - 1, CHOIR_IN, .run = 1), IN(.run = 1)), P(TMP(.first = 0)));
        x = TMP(.first = 0);
        next = 1;
    }
    for (uint32_t d = 1; d < m; d *= 2) {
        uint32_t u = v ^ d, p = u < rest ? 2 * u + 1 : u + rest;
        struct choir_place y = 2 * d >= m ? OUT(.run = 1) : TMP(.first = next);
        struct choir_place in = MSG(p, CHOIR_IN, .run = 1);
        choir_step(b, 1, &x, 1, &in);
        if (v & d)
            CHOIR_STEP(b, P(in, x), P(y));
        else
            CHOIR_STEP(b, P(x, in), P(y));
        x = y;
        next ^= 1;
    }
    if (r < 2 * rest)
        CHOIR_STEP(b, P(OUT(.run = 1)), P(MSG(r - 1, CHOIR_OUT, .run = 1)));
    return choir_builder_status(b);
}

/* Reduces up and broadcasts down a binary tree, a mirrored one in the second program. */
static enum choir_status tree(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks;
    for (uint32_t program = 0; program < 2; program++) {
        uint32_t v = program ? n - 1 - s->rank : s->rank, ins = 0, outs = 0;
        struct choir_place in[3], out[3];
        out[outs++] = OUT(.run = 1);
        for (uint32_t c = 2 * v + 1; c <= 2 * v + 2 && c < n; c++) {
            uint32_t child = program ? n - 1 - c : c;
            in[ins++] = MSG(child, CHOIR_IN, .run = 1);
            out[outs++] = MSG(child, CHOIR_OUT, .run = 1);
        }
        in[ins++] = IN(.run = 1);
        if (program)
            choir_next_program(b);
        if (!v) {
            choir_step(b, ins, in, outs, out);
            continue;
        }
        uint32_t parent = program ? n - 1 - (v - 1) / 2 : (v - 1) / 2;
        choir_step(b, ins, in, 1, &MSG(parent, CHOIR_IN, .run = 1));
        choir_step(b, 1, &MSG(parent, CHOIR_OUT, .run = 1), outs, out);
    }
    return choir_builder_status(b);
}

/* At offset k ranks r and k - r exchange, so that blocks can be swapped in place. */
static enum choir_status pairwise(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks, r = s->rank, self = 2 * r % n;
    choir_computed(b, 0);
    for (uint32_t part = 0; part < 2; part++) {
        uint32_t from = part ? self + 1 : 0, to = part ? n : self, p = (from + n - r) % n;
        int32_t t = (int32_t)p;
        CHOIR_STEP(b, P(IN(.turn = t, .dturn = 1)),
                   P(MSG(p, CHOIR_IN, .turn = t, .dpeer = 1, .dturn = 1)));
        CHOIR_STEP(b, P(MSG(p, CHOIR_OUT, .turn = t, .dpeer = 1, .dturn = 1)),
                   P(OUT(.turn = t, .dturn = 1)));
        choir_loop(b, 2, to - from);
        if (!part)
            CHOIR_STEP(b, P(IN(.first = r)), P(OUT(.first = r)));
    }
    return choir_builder_status(b);
}

static enum choir_status bruck(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks;
    int32_t r = (int32_t)s->rank;
    choir_tmp(b, n);
    choir_computed(b, 0);
    CHOIR_STEP(b, P(IN(.run = n, .turn = r)), P(TMP(.run = n)));
    for (uint32_t k = 1; k < n; k *= 2) {
#define SPAN .first = k, .run = k, .stride = 2 * k, .end = n
        CHOIR_STEP(b, P(TMP(SPAN)), P(MSG((s->rank + k) % n, CHOIR_IN, SPAN)));
        CHOIR_STEP(b, P(MSG((s->rank + n - k) % n, CHOIR_IN, SPAN)), P(TMP(SPAN)));
#undef SPAN
    }
    for (uint32_t p = 0; p < n; p++)
        CHOIR_STEP(b, P(TMP(.first = p)), P(OUT(.turn = r - (int32_t)p)));
    return choir_builder_status(b);
}

static void send_to_all(struct choir_builder *b, const struct choir_shape *s, bool blocks)
{
    for (uint32_t i = 1; i < s->ranks; i++) {
        uint32_t q = (s->rank + i) % s->ranks, part = blocks ? q : 0;
        CHOIR_STEP(b, P(IN(.first = part)), P(MSG(q, CHOIR_IN, .first = part)));
    }
}

static void take_from_all(struct choir_builder *b, const struct choir_shape *s)
{
    for (uint32_t i = 1; i < s->ranks; i++) {
        uint32_t q = (s->rank + s->ranks - i) % s->ranks;
        CHOIR_STEP(b, P(MSG(q, CHOIR_OUT, .first = q)), P(OUT(.first = q)));
    }
}

static void group(struct choir_builder *b, const struct choir_shape *s)
{
    uint32_t j = 0;
    for (uint32_t i = 0; i < s->in_parts; i++) {
        if (s->in_peer[i] != s->rank) {
            CHOIR_STEP(b, P(IN(.first = i)), P(MSG(s->in_peer[i], CHOIR_IN, .first = i)));
            continue;
        }
        while (s->out_peer[j] != s->rank)
            j++;
        CHOIR_STEP(b, P(IN(.first = i)), P(OUT(.first = j)));
        j++;
    }
    for (uint32_t i = 0; i < s->out_parts; i++)
        if (s->out_peer[i] != s->rank)
            CHOIR_STEP(b, P(MSG(s->out_peer[i], CHOIR_OUT, .first = i)), P(OUT(.first = i)));
}

/* Everybody talks to whom it has to, at once. */
static enum choir_status direct(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t r = s->rank, root = s->root;
    bool at_root = r == root;
    choir_computed(b, 0);
    switch (s->kind) {
    case CHOIR_ALL_GATHER:
    case CHOIR_ALL_GATHER_V:
        CHOIR_STEP(b, P(IN(.first = 0)), P(OUT(.first = r)));
        send_to_all(b, s, false);
        take_from_all(b, s);
        break;
    case CHOIR_GATHER:
    case CHOIR_GATHER_V:
        CHOIR_STEP(b, P(IN(.first = 0)),
                   P(at_root ? OUT(.first = r) : MSG(root, CHOIR_IN, .first = 0)));
        if (at_root)
            take_from_all(b, s);
        break;
    case CHOIR_SCATTER:
    case CHOIR_SCATTER_V:
        if (at_root)
            send_to_all(b, s, true);
        CHOIR_STEP(b, P(at_root ? IN(.first = r) : MSG(root, CHOIR_OUT, .first = 0)),
                   P(OUT(.first = 0)));
        break;
    case CHOIR_BROADCAST:
        if (at_root)
            send_to_all(b, s, false);
        CHOIR_STEP(b, P(at_root ? IN(.first = 0) : MSG(root, CHOIR_OUT, .first = 0)),
                   P(OUT(.first = 0)));
        break;
    case CHOIR_BARRIER:
        send_to_all(b, s, false);
        for (uint32_t i = 1; i < s->ranks; i++)
            CHOIR_STEP(b, P(MSG((r + i) % s->ranks, CHOIR_IN, .first = 0)), P(OUT(.first = 0)));
        break;
    default:
        group(b, s);
    }
    return choir_builder_status(b);
}

/* A chain to the root: ordered where the root is the last rank. */
static enum choir_status chain(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks, v = (s->rank + n - 1 - s->root) % n;
    struct choir_place in[2];
    uint32_t ins = 0;
    if (v)
        in[ins++] = MSG((s->rank + n - 1) % n, CHOIR_IN, .run = 1);
    in[ins++] = IN(.run = 1);
    choir_step(b, ins, in, 1,
               v == n - 1 ? &OUT(.run = 1) : &MSG((s->rank + 1) % n, CHOIR_IN, .run = 1));
    return choir_builder_status(b);
}

/* Parts of reduce_scatter travel down the ring, cut into sub-blocks "(k)". */
static enum choir_status scatter_ring(const struct choir_shape *s, struct choir_builder *b)
{
    uint32_t n = s->ranks, k = s->args[0] ? (uint32_t)atoi(s->args) : 1;
    uint32_t next = (s->rank + 1) % n, prev = (s->rank + n - 1) % n;
    choir_cut_blocks(b, k);
    choir_computed(b, k);
    for (uint32_t t = 0; t < n; t++) {
        uint32_t part = (s->rank + 2 * n - 1 - t) % n * k;
        struct choir_place own = IN(.first = part, .run = k),
                           msg = MSG(prev, CHOIR_IN, .first = part, .run = k);
        struct choir_place to =
            t == n - 1 ? OUT(.run = k) : MSG(next, CHOIR_IN, .first = part, .run = k);
        if (t)
            CHOIR_STEP(b, P(msg, own), P(to));
        else
            CHOIR_STEP(b, P(own), P(to));
    }
    return choir_builder_status(b);
}

#define ALGORITHM(n, k, f, v)                                                                      \
    &(const struct choir_algorithm)                                                                \
    {                                                                                              \
        .bytes = sizeof(struct choir_algorithm), .abi = CHOIR_ALGORITHM_ABI, .name = "t_" #n,      \
        .summary = "of the tests", .kinds = k, .flags = f, .variants = v, .build = n               \
    }
#define BIT(kind) (1u << CHOIR_##kind)

static const struct choir_algorithm *const list[] = {
    ALGORITHM(ring, BIT(ALL_REDUCE), 0, ""),
    ALGORITHM(oneshot, BIT(ALL_REDUCE), CHOIR_ORDERED, ""),
    ALGORITHM(twoshot, BIT(ALL_REDUCE), CHOIR_ORDERED, ""),
    ALGORITHM(doubling, BIT(ALL_REDUCE), CHOIR_ORDERED, ""),
    ALGORITHM(tree, BIT(ALL_REDUCE), 0, ""),
    ALGORITHM(pairwise, BIT(ALL_TO_ALL) | BIT(ALL_TO_ALL_V), 0, ""),
    ALGORITHM(bruck, BIT(ALL_TO_ALL), 0, ""),
    ALGORITHM(chain, BIT(REDUCE), 0, ""),
    ALGORITHM(scatter_ring, BIT(REDUCE_SCATTER) | BIT(REDUCE_SCATTER_V), 0, "1 3"),
    ALGORITHM(direct,
              BIT(ALL_GATHER) | BIT(ALL_GATHER_V) | BIT(GATHER) | BIT(GATHER_V) | BIT(SCATTER) |
                  BIT(SCATTER_V) | BIT(BROADCAST) | BIT(BARRIER) | BIT(EXCHANGE),
              0, ""),
    NULL};

void plans_register(void)
{
    static bool done;
    if (!done)
        CHECK_OK(plan_algorithm_add(list, "tests"));
    done = true;
}
