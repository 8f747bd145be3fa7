/* SPDX-License-Identifier: Apache-2.0 */
/*
 * convert.c: one element to and from double, with one rounding. Written for clearness, independent of the kernels, for
 * tests, perf checks and reference interpreters.
 */
#include "reduce/reduce.h"
#include <math.h>

/* A binary format of at most 16 bits: mantissa bits, bias, largest finite number, encoding of NaN. */
struct format {
    int mantissa, bias;
    double most;
    uint32_t infinity, nan; /* infinity 0: there is none, it saturates */
};
static const struct format f16 = {10, 15, 65504, 0x7c00, 0x7e00},
                           bf16 = {7, 127, 0x1.fep127, 0x7f80, 0x7fc0},
                           e5m2 = {2, 15, 57344, 0x7c, 0x7e}, e4m3 = {3, 7, 448, 0, 0x7f};

static double decode(const struct format *f, uint32_t bits, int width)
{
    uint32_t size = bits & ((1u << (width - 1)) - 1), fraction = size & ((1u << f->mantissa) - 1);
    int exponent = (int)(size >> f->mantissa);
    double sign = bits >> (width - 1) ? -1 : 1;
    if (f->infinity ? size > f->infinity : size == f->nan)
        return NAN;
    if (f->infinity && size == f->infinity)
        return sign * INFINITY;
    double m = exponent ? fraction + ldexp(1, f->mantissa) : fraction;
    return sign * ldexp(m, (exponent ? exponent : 1) - f->bias - f->mantissa);
}

static uint32_t encode(const struct format *f, double value, int width)
{
    uint32_t sign = signbit(value) ? 1u << (width - 1) : 0;
    double a = fabs(value);
    if (isnan(value))
        return f->nan;
    int e = a > 0 && !isinf(a) ? ilogb(a) : 0;
    int last = (e < 1 - f->bias ? 1 - f->bias : e) - f->mantissa; /* exponent of the last place */
    double r = isinf(a) ? a : ldexp(rint(ldexp(a, -last)), last);
    if (r > f->most) {
        if (f->infinity)
            return sign | f->infinity;
        r = f->most;
    }
    if (!(r > 0))
        return sign;
    e = ilogb(r);
    if (e < 1 - f->bias)
        return sign | (uint32_t)ldexp(r, f->bias - 1 + f->mantissa);
    uint32_t m = (uint32_t)ldexp(r, f->mantissa - e);
    return sign | (m + ((uint32_t)(e + f->bias - 1) << f->mantissa));
}

static const struct row {
    enum { SIGNED, UNSIGNED, SMALL, FLOAT, DOUBLE } how;
    int bits;
    const struct format *format;
} rows[CHOIR_TYPES] = {
    [CHOIR_INT8] = {SIGNED, 8, NULL},        [CHOIR_UINT8] = {UNSIGNED, 8, NULL},
    [CHOIR_INT16] = {SIGNED, 16, NULL},      [CHOIR_UINT16] = {UNSIGNED, 16, NULL},
    [CHOIR_INT32] = {SIGNED, 32, NULL},      [CHOIR_UINT32] = {UNSIGNED, 32, NULL},
    [CHOIR_INT64] = {SIGNED, 64, NULL},      [CHOIR_UINT64] = {UNSIGNED, 64, NULL},
    [CHOIR_FLOAT16] = {SMALL, 16, &f16},     [CHOIR_BFLOAT16] = {SMALL, 16, &bf16},
    [CHOIR_FLOAT32] = {FLOAT, 32, NULL},     [CHOIR_FLOAT64] = {DOUBLE, 64, NULL},
    [CHOIR_FLOAT8_E4M3] = {SMALL, 8, &e4m3}, [CHOIR_FLOAT8_E5M2] = {SMALL, 8, &e5m2},
};

double reduce_load(enum choir_type type, const void *element)
{
    const struct row *row = &rows[type];
    uint64_t n = 0;
    float f;
    double d;
    memcpy(&n, element, (size_t)row->bits / 8);
    switch (row->how) {
    case SIGNED:
        return (double)((int64_t)(n << (64 - row->bits)) >> (64 - row->bits));
    case UNSIGNED:
        return (double)n;
    case SMALL:
        return decode(row->format, (uint32_t)n, row->bits);
    case FLOAT:
        return memcpy(&f, element, sizeof(f)), (double)f;
    case DOUBLE:
        break;
    }
    return memcpy(&d, element, sizeof(d)), d;
}

/* Out of range is clamped, NaN is 0. */
static int64_t to_signed(double v, int bits)
{
    int64_t most = INT64_MAX >> (64 - bits);
    if (isnan(v))
        return 0;
    return v <= -(double)most - 1 ? -most - 1 : v >= (double)most ? most : (int64_t)v;
}

static uint64_t to_unsigned(double v, int bits)
{
    uint64_t most = UINT64_MAX >> (64 - bits);
    return !(v > 0) ? 0 : v >= (double)most ? most : (uint64_t)v;
}

void reduce_store(enum choir_type type, void *element, double value)
{
    const struct row *row = &rows[type];
    uint64_t n = 0;
    float f;
    switch (row->how) {
    case SIGNED:
        n = (uint64_t)to_signed(value, row->bits);
        break;
    case UNSIGNED:
        n = to_unsigned(value, row->bits);
        break;
    case SMALL:
        n = encode(row->format, value, row->bits);
        break;
    case FLOAT:
        f = (float)value;
        memcpy(&n, &f, sizeof(f));
        break;
    case DOUBLE:
        memcpy(&n, &value, sizeof(value));
        break;
    }
    memcpy(element, &n, (size_t)row->bits / 8); /* little-endian, as all that Choir runs on */
}
