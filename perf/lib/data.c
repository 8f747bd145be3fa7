/* SPDX-License-Identifier: Apache-2.0 */
/*
 * data.c: the inputs of every rank and what must come out, from a seed.
 *
 * A rank's sequence repeats after PERIOD elements, a prime and so no divisor of any chunk size: filling and
 * comparing run at the speed of memcpy while a misplaced block still shows. Floats hold small whole
 * numbers (powers of two for products) bounded so that every partial result is exact: any order gives the same bits.
 */
#include "perf/lib/perf.h"
#include "reduce/reduce.h"
#include <stdlib.h>
#include <string.h>

#define PERIOD 16381u
#define POISON 0xa5

/* Whole numbers up to this are exact in the type. */
static const uint64_t exact[CHOIR_TYPES] = {
    [CHOIR_FLOAT16] = 1u << 11,   [CHOIR_BFLOAT16] = 1u << 8,    [CHOIR_FLOAT32] = 1u << 24,
    [CHOIR_FLOAT64] = 1ull << 40, [CHOIR_FLOAT8_E4M3] = 1u << 4, [CHOIR_FLOAT8_E5M2] = 1u << 3,
};

union value {
    double f;
    uint64_t u;
};

static uint64_t hash(const struct perf_pattern *p, uint64_t index, uint64_t rank)
{
    return base_mix(base_mix(p->seed + index * 0x9e3779b97f4a7c15u) + rank * 0xd1b54a32d192ed03u);
}

/* Depends on the index alone, the same for all ranks: picks who contributes something special. */
static uint64_t hash_index(const struct perf_pattern *p, uint64_t index)
{
    return hash(p, index, UINT32_MAX);
}

static double whole(uint64_t h, uint64_t limit)
{
    return (double)(int64_t)(h % (2 * limit + 1)) - (double)limit;
}

static double sign(uint64_t h)
{
    return h & 1 ? 1 : -1;
}

/* Whether rank is among the `most` ranks that contribute to an element, where the type cannot count them all exactly. */
static bool contributes(const struct perf_pattern *p, uint32_t rank, uint64_t who, uint64_t most)
{
    return (rank + p->ranks - who % p->ranks) % p->ranks < most;
}

/* Multiples of the number of ranks: dividing before or after the sum, as libraries do, gives the same. */
static double average_element(const struct perf_pattern *p, uint32_t rank, uint64_t h, uint64_t who)
{
    uint64_t top = exact[p->type], n = p->ranks;
    if (top >= n * n)
        return whole(h, top / (n * n)) * (double)n;
    if (top >= n)
        return contributes(p, rank, who, top / n) ? sign(h) * (double)n : 0;
    return contributes(p, rank, who, 1) ? whole(h, top) : 0; /* rounded once, whatever the order */
}

static double float_element(const struct perf_pattern *p, uint32_t rank, uint64_t index)
{
    uint64_t h = hash(p, index, rank), top = exact[p->type], who = hash_index(p, index);
    switch (p->op) {
    case CHOIR_PROD: /* one rank doubles, one halves, the others change the sign */
        return sign(h) * (who % p->ranks == rank ? 2.0 : 1.0) *
               ((who >> 32) % p->ranks == rank ? 0.5 : 1.0);
    case CHOIR_AVG:
        return average_element(p, rank, h, who);
    case PERF_SCALED:
        top /= 2; /* the factors are 1 and 2 */
        /* fall through */
    case CHOIR_SUM:
        if (top >= p->ranks)
            return whole(h, top / p->ranks);
        return contributes(p, rank, who, top) ? sign(h) : 0;
    default:
        return whole(h, top);
    }
}

static uint64_t int_element(const struct perf_pattern *p, uint32_t rank, uint64_t index)
{
    uint64_t h = hash(p, index, rank), who = hash_index(p, index);
    bool chosen = who & 1 && (who >> 8) % p->ranks == rank;
    switch (p->op) {
    case CHOIR_PROD:
        return h | 1;
    case CHOIR_BAND: /* mostly ones, so that the result is not zero at once */
        return h | base_mix(h + 1) | base_mix(h + 2) | base_mix(h + 3);
    case CHOIR_BOR:
        return h & base_mix(h + 1) & base_mix(h + 2) & base_mix(h + 3);
    case CHOIR_LAND: /* true, but for one rank of every other element */
        return chosen ? 0 : h | 1;
    case CHOIR_LOR:
        return chosen ? h | 1 : 0;
    case CHOIR_LXOR:
        return h >> 40 & 1 ? h | 1 : 0;
    default:
        return h;
    }
}

static bool is_float(enum choir_type type)
{
    return exact[type] != 0;
}

static union value element(const struct perf_pattern *p, uint32_t rank, uint64_t index)
{
    if (is_float(p->type))
        return (union value){.f = float_element(p, rank, index)};
    return (union value){.u = int_element(p, rank, index)};
}

static void store(enum choir_type type, void *dst, union value v)
{
    uint8_t u8 = (uint8_t)v.u;
    uint16_t u16 = (uint16_t)v.u;
    uint32_t u32 = (uint32_t)v.u;
    if (is_float(type)) {
        reduce_store(type, dst, v.f);
        return;
    }
    switch (choir_type_bytes(type)) {
    case 1:
        memcpy(dst, &u8, 1);
        break;
    case 2:
        memcpy(dst, &u16, 2);
        break;
    case 4:
        memcpy(dst, &u32, 4);
        break;
    default:
        memcpy(dst, &v.u, 8);
    }
}

/* The value as its type holds it: cut to its bits, sign extended. */
static uint64_t cut(enum choir_type type, uint64_t u)
{
    unsigned drop = 64 - 8 * (unsigned)choir_type_bytes(type);
    bool is_signed =
        type == CHOIR_INT8 || type == CHOIR_INT16 || type == CHOIR_INT32 || type == CHOIR_INT64;
    u <<= drop;
    return is_signed ? (uint64_t)((int64_t)u >> drop) : u >> drop;
}

static bool less(enum choir_type type, uint64_t a, uint64_t b)
{
    bool is_unsigned =
        type == CHOIR_UINT8 || type == CHOIR_UINT16 || type == CHOIR_UINT32 || type == CHOIR_UINT64;
    return is_unsigned ? a < b : (int64_t)a < (int64_t)b;
}

static double float_factor(uint32_t rank)
{
    return rank & 1 ? 2.0 : 1.0;
}

static uint64_t int_factor(uint32_t rank)
{
    return 1 + rank % 7;
}

void perf_scale(enum choir_type type, uint32_t rank, void *scale)
{
    store(type, scale,
          is_float(type) ? (union value){.f = float_factor(rank)}
                         : (union value){.u = int_factor(rank)});
}

static double float_reduced(const struct perf_pattern *p, uint64_t index)
{
    double a = 0;
    for (uint32_t r = 0; r < p->ranks; r++) {
        double v = float_element(p, r, index);
        if (p->op == PERF_SCALED)
            v *= float_factor(r);
        switch (r ? p->op : PERF_NO_OP) {
        case PERF_NO_OP:
            a = v;
            break;
        case CHOIR_PROD:
            a *= v;
            break;
        case CHOIR_MIN:
            a = base_min(a, v);
            break;
        case CHOIR_MAX:
            a = base_max(a, v);
            break;
        default:
            a += v;
        }
    }
    if (p->op == CHOIR_AVG)
        a = p->type == CHOIR_FLOAT64 ? a / p->ranks : (double)((float)a / (float)p->ranks);
    return a;
}

static uint64_t int_combine(const struct perf_pattern *p, uint64_t a, uint64_t v)
{
    switch (p->op) {
    case CHOIR_PROD:
        return cut(p->type, a * v);
    case CHOIR_MIN:
        return less(p->type, v, a) ? v : a;
    case CHOIR_MAX:
        return less(p->type, a, v) ? v : a;
    case CHOIR_BAND:
        return a & v;
    case CHOIR_BOR:
        return a | v;
    case CHOIR_BXOR:
        return a ^ v;
    case CHOIR_LAND:
        return a && v;
    case CHOIR_LOR:
        return a || v;
    case CHOIR_LXOR:
        return !a != !v;
    default:
        return cut(p->type, a + v);
    }
}

static uint64_t int_reduced(const struct perf_pattern *p, uint64_t index)
{
    uint64_t a = 0;
    for (uint32_t r = 0; r < p->ranks; r++) {
        uint64_t v = cut(p->type, int_element(p, r, index));
        if (p->op == PERF_SCALED)
            v = cut(p->type, v * int_factor(r));
        a = r ? int_combine(p, a, v) : v;
    }
    bool logical = p->op == CHOIR_LAND || p->op == CHOIR_LOR || p->op == CHOIR_LXOR;
    if (logical && p->ranks > 1)
        a = !!a;
    if (p->op == CHOIR_AVG)
        a = less(p->type, a, 0) ? (uint64_t)((int64_t)a / (int64_t)p->ranks) : a / p->ranks;
    return a;
}

#define REDUCED UINT32_MAX /* as a rank: the reduction of all of them */

/* The first min(count, PERIOD) elements from `first` on; the rest repeats them. To be freed; *held of them. */
static char *period(const struct perf_pattern *p, uint32_t rank, uint64_t first, uint64_t count,
                    uint64_t *held)
{
    size_t width = choir_type_bytes(p->type);
    *held = base_min(count, (uint64_t)PERIOD);
    char *table = malloc(*held * width + 1);
    choir_assert(table);
    for (uint64_t i = 0; i < *held; i++) {
        uint64_t at = (first + i) % PERIOD;
        union value v;
        if (rank != REDUCED)
            v = element(p, rank, at);
        else if (is_float(p->type))
            v.f = float_reduced(p, at);
        else
            v.u = int_reduced(p, at);
        store(p->type, table + i * width, v);
    }
    return table;
}

void perf_fill(const struct perf_pattern *p, void *dst, uint32_t rank, uint64_t first,
               uint64_t count)
{
    uint64_t held, width = choir_type_bytes(p->type);
    char *table = period(p, rank, first, count, &held), *to = dst;
    for (uint64_t i = 0; i < count; i += held)
        memcpy(to + i * width, table, base_min(held, count - i) * width);
    free(table);
}

static uint64_t differ(const char *got, const char *want, uint64_t count, uint64_t width)
{
    if (!memcmp(got, want, count * width))
        return 0;
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < count; i++)
        wrong += memcmp(got + i * width, want + i * width, width) != 0;
    return wrong;
}

uint64_t perf_wrong(const struct perf_pattern *p, const void *got, uint32_t rank, uint64_t first,
                    uint64_t count)
{
    uint64_t held, wrong = 0, width = choir_type_bytes(p->type);
    char *table = period(p, rank, first, count, &held);
    for (uint64_t i = 0; i < count; i += held)
        wrong += differ((const char *)got + i * width, table, base_min(held, count - i), width);
    free(table);
    return wrong;
}

uint64_t perf_wrong_reduced(const struct perf_pattern *p, const void *got, uint64_t first,
                            uint64_t count)
{
    return perf_wrong(p, got, REDUCED, first, count);
}

void perf_poison(void *dst, uint64_t bytes)
{
    memset(dst, POISON, bytes);
}

uint64_t perf_wrong_poison(const void *got, uint64_t count, uint32_t type_bytes)
{
    const unsigned char *b = got;
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < count; i++) {
        unsigned bad = 0;
        for (uint32_t k = 0; k < type_bytes; k++)
            bad |= b[i * type_bytes + k] ^ POISON;
        wrong += bad != 0;
    }
    return wrong;
}
