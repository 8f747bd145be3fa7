/* SPDX-License-Identifier: Apache-2.0 */
/* plans.c: running plans on memory, see plans.h. Sums of random 64-bit words tell every contribution
 * apart. */
#include "tests/lib/plans.h"
#include "plan/builder.h"
#include "tests/lib/test.h"

#define PAD 5 /* elements before and behind every buffer that nobody may touch */

struct memory {
    uint64_t *in, *out;             /* where the plan sees them */
    uint64_t *block[2], *before[2]; /* IN's and OUT's allocation (one if in place), and as it was */
    uint64_t words[2];
    bool in_place;
};

struct choir_layout *plans_layout(const char *hosts)
{
    uint64_t key[64];
    uint32_t n = (uint32_t)strlen(hosts);
    CHECK_LT(n, base_count(key) + 1);
    for (uint32_t r = 0; r < n; r++)
        key[r] = (uint64_t)hosts[r];
    return plan_layout_create(n, key);
}

enum choir_status plans_make(struct ranks *ranks, const char *algorithm, enum choir_kind kind,
                             const struct choir_layout *layout, uint64_t count, uint32_t root,
                             uint64_t seed, uint64_t slot_bytes)
{
    plans_register();
    enum choir_status status = ranks_init(ranks, kind, layout, count, root, seed);
    for (uint32_t r = 0; status == CHOIR_OK && r < ranks->n; r++) {
        ranks->shape[r].type_bytes = 8;
        ranks->shape[r].slot_bytes = slot_bytes;
    }
    if (status == CHOIR_OK)
        status = ranks_build(ranks, algorithm);
    if (status != CHOIR_OK)
        ranks_free(ranks);
    return status;
}

/* Element `at` of IN of a rank. As a 2 x 2 matrix of 16-bit numbers it has an odd determinant: products
 * keep all bits. */
static uint64_t input(uint32_t rank, uint64_t at)
{
    uint64_t x = base_mix((at + 1) * 0x9e3779b97f4a7c15u ^ (uint64_t)(rank + 1) << 40);
    return (x | 0x0001000000000001u) & ~0x0000000000010000ull;
}

/* Entries a b c d from bit 0 up. */
static uint64_t matrix_product(uint64_t x, uint64_t y)
{
    uint64_t z = 0;
    for (unsigned i = 0; i < 2; i++)
        for (unsigned j = 0; j < 2; j++) {
            uint64_t sum = 0;
            for (unsigned k = 0; k < 2; k++)
                sum += (x >> (32 * i + 16 * k) & 0xffff) * (y >> (32 * k + 16 * j) & 0xffff);
            z |= (sum & 0xffff) << (32 * i + 16 * j);
        }
    return z;
}

static uint64_t apply(enum plans_op op, uint64_t x, uint64_t y)
{
    return op == PLANS_SUM ? x + y
           : op == PLANS_MATRIX
               ? matrix_product(x, y)
               : base_mix(x * 0x9e3779b97f4a7c15u + base_mix(y ^ 0xd1b54a32d192ed03u));
}

static void combine(void *ctx, void *dst, const void *const *src, uint32_t nsrc, uint64_t count)
{
    enum plans_op op = *(enum plans_op *)ctx;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t sum, x;
        memcpy(&sum, (const char *)src[0] + 8 * i, 8);
        for (uint32_t k = 1; k < nsrc; k++) {
            memcpy(&x, (const char *)src[k] + 8 * i, 8);
            sum = apply(op, sum, x);
        }
        if (op == PLANS_TREE && nsrc > 1)
            sum = base_mix(sum + nsrc);
        memcpy((char *)dst + 8 * i, &sum, 8);
    }
}

static uint64_t *allocate(struct memory *m, int i, uint64_t words)
{
    m->words[i] = words + 2 * PAD;
    m->block[i] = malloc(8 * m->words[i]);
    m->before[i] = malloc(8 * m->words[i]);
    CHECK(m->block[i] && m->before[i]);
    for (uint64_t k = 0; k < m->words[i]; k++)
        m->block[i][k] = 0x5555000000000000u + k;
    return m->block[i] + PAD;
}

static void set_up(struct memory *m, const struct choir_shape *s, bool in_place)
{
    uint64_t in, out;
    int64_t shift;
    plan_shape_extent(s, &in, &out);
    *m = (struct memory){.in_place = in_place && plan_shape_in_place(s, &shift)};
    if (m->in_place) {
        uint64_t *base = allocate(m, 0, base_max(in, out) + (uint64_t)(shift < 0 ? -shift : shift));
        m->in = shift > 0 ? base + shift : base;
        m->out = shift < 0 ? base - shift : base;
    } else {
        m->in = allocate(m, 0, in);
        m->out = allocate(m, 1, out);
    }
    for (uint64_t i = 0; i < in; i++)
        m->in[i] = input(s->rank, i);
    for (int i = 0; i < 2; i++)
        if (m->block[i])
            memcpy(m->before[i], m->block[i], 8 * m->words[i]);
}

static void free_memory(struct memory *m)
{
    for (int i = 0; i < 2; i++) {
        free(m->block[i]);
        free(m->before[i]);
    }
}

static uint64_t block_offset(const struct choir_shape *s, unsigned buf, uint32_t block)
{
    uint32_t n = shape_blocks(s, buf);
    uint64_t *table = malloc(16 * (uint64_t)n + 1), offset;
    CHECK(table);
    shape_table(s, buf, table, table + n);
    offset = table[block];
    free(table);
    return offset;
}

/* The send that the i-th receive of rank r meets. */
static uint32_t meets(const struct ranks *ranks, uint32_t r, uint32_t i)
{
    const struct choir_shape *s = &ranks->shape[r], *q = &ranks->shape[s->out_peer[i]];
    uint32_t earlier = 0, k = 0;
    for (uint32_t j = 0; j < i; j++)
        earlier += s->out_peer[j] == s->out_peer[i];
    for (; q->in_peer[k] != r || earlier--; k++)
        ;
    return k;
}

/* Where block `block` of OUT of rank r comes from: rank *from (or all of them summed), offset in its IN. */
static uint64_t origin(const struct ranks *ranks, uint32_t r, uint32_t block, uint32_t *from)
{
    const struct choir_shape *s = &ranks->shape[r];
    switch (s->kind) {
    case CHOIR_BROADCAST:
        *from = s->root;
        return 0;
    case CHOIR_SCATTER:
    case CHOIR_SCATTER_V:
        *from = s->root;
        return block_offset(&ranks->shape[s->root], CHOIR_IN, r);
    case CHOIR_ALL_TO_ALL:
    case CHOIR_ALL_TO_ALL_V:
        *from = block;
        return block_offset(&ranks->shape[block], CHOIR_IN, r);
    case CHOIR_EXCHANGE:
        *from = s->out_peer[block];
        return block_offset(&ranks->shape[*from], CHOIR_IN, meets(ranks, r, block));
    default:
        *from = block;
        return 0;
    }
}

/* Writes what OUT of rank r must hold. */
static void expect(const struct ranks *ranks, enum plans_op op, uint32_t r, uint64_t *out)
{
    const struct choir_shape *s = &ranks->shape[r];
    uint32_t blocks = shape_blocks(s, CHOIR_OUT), from;
    uint64_t *off = malloc(16 * (uint64_t)blocks + 1), *len = off + blocks;
    CHECK(off);
    shape_table(s, CHOIR_OUT, off, len);
    for (uint32_t b = 0; b < blocks && shape_present(s, CHOIR_OUT); b++) {
        if (plan_kind_reduces((enum choir_kind)s->kind)) {
            for (uint32_t q = 0; q < ranks->n; q++) {
                bool scatter = shape_holds(s, CHOIR_OUT) == SHAPE_BLOCK;
                uint64_t at = scatter ? block_offset(&ranks->shape[q], CHOIR_IN, r) : 0;
                for (uint64_t e = 0; e < len[b]; e++)
                    out[off[b] + e] =
                        q ? apply(op, out[off[b] + e], input(q, at + e)) : input(q, at + e);
            }
            continue;
        }
        uint64_t at = origin(ranks, r, b, &from);
        for (uint64_t e = 0; e < len[b]; e++)
            out[off[b] + e] = input(from, at + e);
    }
    free(off);
}

static const char *compare(const struct ranks *ranks, enum plans_op op, struct memory *m,
                           uint32_t r)
{
    static char text[160];
    uint64_t *was_out = m->before[m->in_place ? 0 : 1] + (m->out - m->block[m->in_place ? 0 : 1]);
    expect(ranks, op, r, was_out);
    for (int i = 0; i < 2; i++)
        for (uint64_t k = 0; m->block[i] && k < m->words[i]; k++)
            if (m->block[i][k] != m->before[i][k]) {
                snprintf(text, sizeof(text), "rank %u: word %" PRId64 " of %s is wrong", r,
                         (int64_t)(m->block[i] + k - (i || m->in_place ? m->out : m->in)),
                         i || m->in_place ? "OUT" : "IN");
                return text;
            }
    return NULL;
}

const char *plans_run(const struct ranks *ranks, enum plans_place place, enum plans_op op,
                      const struct plan_run *how)
{
    uint32_t n = ranks->n;
    struct memory *m = calloc(n, sizeof(*m));
    void **in = calloc(n, sizeof(*in)), **out = calloc(n, sizeof(*out));
    CHECK(m && in && out);
    uint64_t seed = how->seed;
    for (uint32_t r = 0; r < n; r++) {
        set_up(&m[r], &ranks->shape[r],
               place == PLANS_IN_PLACE || (place == PLANS_MIXED && base_random(&seed) & 1));
        in[r] = m[r].in;
        out[r] = m[r].out;
    }
    struct plan_run run = *how;
    run.elem = 8;
    run.combine = combine;
    run.ctx = &op;
    const char *wrong = NULL;
    if (plan_reference((const struct choir_plan *const *)ranks->plan, n, in, out, &run) != CHOIR_OK)
        wrong = base_error_thread()->text;
    for (uint32_t r = 0; r < n && !wrong; r++)
        if (op != PLANS_TREE)
            wrong = compare(ranks, op, &m[r], r);
        else if (memcmp(m[r].out, m[0].out, 8 * ranks->shape[0].count))
            wrong = "ranks combine in different trees";
    for (uint32_t r = 0; r < n; r++)
        free_memory(&m[r]);
    free(m);
    free(in);
    free(out);
    return wrong;
}
