/* SPDX-License-Identifier: Apache-2.0 */
/* Values and references; see sample.h. */
#include "tests/lib/sample.h"
#include "reduce/reduce.h"
#include "tests/lib/ranks.h"
#include <math.h>
#include <stdio.h>

bool sample_float(enum choir_type type)
{
    return type >= CHOIR_FLOAT16;
}

bool sample_signed(enum choir_type type)
{
    return type == CHOIR_INT8 || type == CHOIR_INT16 || type == CHOIR_INT32 || type == CHOIR_INT64;
}

bool sample_legal(enum choir_type type, choir_op op)
{
    if (op == CHOIR_OPS + 1)
        return type == CHOIR_UINT64;
    return !sample_float(type) || op < CHOIR_BAND || op == CHOIR_OPS;
}

static uint64_t raw(const struct sample *s, int rank, uint64_t i)
{
    return test_mix(test_mix(s->salt * 64 + (uint64_t)rank) + i);
}

/* The element as a 64-bit integer, extended as its type says, and back. */
static uint64_t wide(enum choir_type type, const void *element)
{
    size_t bytes = choir_type_bytes(type);
    uint64_t x = 0;
    memcpy(&x, element, bytes);
    if (sample_signed(type) && bytes < 8 && x >> (8 * bytes - 1))
        x |= ~(uint64_t)0 << 8 * bytes;
    return x;
}

static uint64_t narrow(enum choir_type type, uint64_t x)
{
    uint8_t bytes[8];
    memcpy(bytes, &x, 8);
    return wide(type, bytes);
}

static double float_value(const struct sample *s, int rank, uint64_t x)
{
    bool product = s->op == CHOIR_PROD;
    if (s->special && x % 11 == 0)
        return x % 77 == 0 ? (double)NAN : x % 2 ? 0.0 : -0.0;
    double sign = x >> 8 & 1 ? -1 : 1;
    if (s->exact) /* at most 8 ranks count: sums to 8, products to 2^6 */
        return product ? sign * (rank < 6 && (x >> 9 & 1) ? 2 : 1)
                       : sign * (rank < 8 ? (double)(x >> 9 & 1) : 0);
    double unit = (double)(x >> 11) * 0x1p-53;
    return sign * (product ? 0.75 + 0.75 * unit : unit);
}

void sample_fill(const struct sample *s, int rank, uint64_t i, void *element)
{
    uint64_t x = raw(s, rank, i);
    if (sample_float(s->type))
        reduce_store(s->type, element, float_value(s, rank, x));
    else if (s->op == CHOIR_LAND || s->op == CHOIR_LOR || s->op == CHOIR_LXOR)
        memcpy(element, (uint64_t[]){x & 1 ? x >> 60 : 0}, choir_type_bytes(s->type));
    else
        memcpy(element, &x, choir_type_bytes(s->type));
}

void sample_scale(const struct sample *s, int rank, void *element)
{
    uint64_t x = (uint64_t)(rank % 3) + 1;
    if (sample_float(s->type))
        reduce_store(s->type, element, s->exact ? 1.0 : 0.25 * (double)x);
    else
        memcpy(element, &x, choir_type_bytes(s->type));
}

static uint64_t compose(uint64_t first, uint64_t then)
{
    uint32_t a = (uint32_t)(first >> 32), b = (uint32_t)first, c = (uint32_t)(then >> 32),
             d = (uint32_t)then;
    return (uint64_t)(c * a) << 32 | (uint32_t)(c * b + d);
}

void sample_compose(void *inout, const void *in, uint64_t count, enum choir_type type,
                    void *context)
{
    (void)type, (void)context;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t x, y;
        memcpy(&x, (uint8_t *)inout + 8 * i, 8);
        memcpy(&y, (const uint8_t *)in + 8 * i, 8);
        x = compose(x, y);
        memcpy((uint8_t *)inout + 8 * i, &x, 8);
    }
}

uint64_t sample_combine(enum choir_type type, choir_op op, uint64_t a, uint64_t b)
{
    bool less = sample_signed(type) ? (int64_t)b < (int64_t)a : b < a;
    switch (op) {
    case CHOIR_PROD:
        return a * b;
    case CHOIR_MIN:
        return less ? b : a;
    case CHOIR_MAX:
        return less ? a : b;
    case CHOIR_BAND:
        return a & b;
    case CHOIR_BOR:
        return a | b;
    case CHOIR_BXOR:
        return a ^ b;
    case CHOIR_LAND:
        return a && b;
    case CHOIR_LOR:
        return a || b;
    case CHOIR_LXOR:
        return !a != !b;
    default:
        return a + b;
    }
}

static uint64_t combine(const struct sample *s, uint64_t a, uint64_t b)
{
    return s->op == CHOIR_OPS + 1 ? compose(a, b)
                                  : narrow(s->type, sample_combine(s->type, s->op, a, b));
}

static bool check_integer(const struct sample *s, uint64_t i, const void *got, char *text,
                          size_t text_bytes)
{
    uint64_t want = 0, logical = s->op >= CHOIR_LAND && s->op <= CHOIR_LXOR;
    for (int r = 0; r < s->ranks; r++) {
        uint64_t x = 0, k = 0;
        sample_fill(s, r, i, &x);
        x = wide(s->type, &x);
        if (s->op == CHOIR_OPS) {
            sample_scale(s, r, &k);
            x = narrow(s->type, x * k);
        }
        if (logical && s->ranks > 1)
            x = x != 0;
        want = r ? combine(s, want, x) : x;
    }
    if (s->op == CHOIR_AVG)
        want = sample_signed(s->type) ? (uint64_t)((int64_t)want / s->ranks)
                                      : want / (uint64_t)s->ranks;
    snprintf(text, text_bytes, "%llx, not %llx", (unsigned long long)wide(s->type, got),
             (unsigned long long)want);
    return wide(s->type, got) == want;
}

struct precision {
    double half_ulp, tiny; /* relative; the smallest number */
};

static struct precision precision_of(enum choir_type type)
{
    switch (type) {
    case CHOIR_FLOAT64:
        return (struct precision){0x1p-53, 0x1p-1022};
    case CHOIR_FLOAT32:
        return (struct precision){0x1p-24, 0x1p-149};
    case CHOIR_FLOAT16:
        return (struct precision){0x1p-11, 0x1p-24};
    case CHOIR_BFLOAT16:
        return (struct precision){0x1p-8, 0x1p-133};
    case CHOIR_FLOAT8_E4M3:
        return (struct precision){0x1p-4, 0x1p-9};
    default:
        return (struct precision){0x1p-3, 0x1p-16};
    }
}

static bool check_order(const struct sample *s, uint64_t i, double y, double *want)
{
    double best = 0;
    for (int r = 0; r < s->ranks; r++) {
        uint64_t e = 0;
        sample_fill(s, r, i, &e);
        double x = reduce_load(s->type, &e);
        bool less = x < best || (x == best && signbit(x) && !signbit(best)),
             more = x > best || (x == best && !signbit(x) && signbit(best));
        if (!r || (!isnan(best) && (isnan(x) || (s->op == CHOIR_MIN ? less : more))))
            best = x;
    }
    *want = best;
    return isnan(best) ? isnan(y) : y == best && signbit(y) == signbit(best);
}

/* ranks + 2 roundings at most, each relative to what has been accumulated so far. */
static bool check_float(const struct sample *s, uint64_t i, const void *got, char *text,
                        size_t text_bytes)
{
    long double sum = 0, product = 1;
    double size = 0, y = reduce_load(s->type, got), want, bound = 0;
    struct precision p = precision_of(s->type);
    for (int r = 0; r < s->ranks; r++) {
        uint64_t e = 0, k = 0;
        sample_fill(s, r, i, &e);
        double x = reduce_load(s->type, &e);
        if (s->op == CHOIR_OPS) {
            sample_scale(s, r, &k);
            x *= reduce_load(s->type, &k);
        }
        sum += x, size += fabs(x), product *= x;
    }
    bool good, order = s->op == CHOIR_MIN || s->op == CHOIR_MAX;
    double n = s->ranks, grow = expm1((n + 2) * log1p(p.half_ulp));
    if (order) {
        good = check_order(s, i, y, &want);
    } else {
        want = (double)(s->op == CHOIR_PROD ? product : s->op == CHOIR_AVG ? sum / n : sum);
        bound =
            s->op == CHOIR_PROD ? grow * fabs(want) : grow * (s->op == CHOIR_AVG ? size / n : size);
        bound += n * p.tiny;
        if (s->exact && s->op != CHOIR_AVG)
            bound = 0;
        good = isnan(want) ? isnan(y) : fabs(y - want) <= bound;
    }
    snprintf(text, text_bytes, "%.17g, not %.17g within %g", y, want, bound);
    return good;
}

bool sample_check(const struct sample *s, uint64_t i, const void *got, char *text,
                  size_t text_bytes)
{
    return sample_float(s->type) ? check_float(s, i, got, text, text_bytes)
                                 : check_integer(s, i, got, text, text_bytes);
}
