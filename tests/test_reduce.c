/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_reduce.c: every kernel of every instruction set against plain C arithmetic, bit for bit.
 * `test_reduce --bench` prints speeds instead.
 */
#include "base/base.h"
#include "reduce/reduce.h"
#include "tests/lib/sample.h"
#include "tests/lib/test.h"
#include <fenv.h>
#include <math.h>

static const size_t type_bytes[CHOIR_TYPES] = {
#define BYTES(name, value, bytes) [value] = bytes,
    CHOIR_TYPE_LIST(BYTES)
#undef BYTES
};
static const char *const type_names[CHOIR_TYPES] = {
#define NAME(name, value, bytes) [value] = #name,
    CHOIR_TYPE_LIST(NAME)
#undef NAME
};
static const char *const op_names[CHOIR_OPS] = {
#define NAME(name, value) [value] = #name,
    CHOIR_OP_LIST(NAME)
#undef NAME
};
#ifdef __x86_64__
static const char *const isas[] = {"generic", "avx2", "avx512"};
#else
static const char *const isas[] = {"generic"};
#endif

static bool is_float(enum choir_type t)
{
    return t == CHOIR_FLOAT16 || t == CHOIR_BFLOAT16 || t == CHOIR_FLOAT32 || t == CHOIR_FLOAT64 ||
           t == CHOIR_FLOAT8_E4M3 || t == CHOIR_FLOAT8_E5M2;
}

/* Runs fn once for every instruction set of this machine. */
static void each_isa(void (*fn)(const char *isa))
{
    for (size_t i = 0; i < base_count(isas); i++) {
        if (reduce_limit(isas[i]))
            fn(isas[i]);
        else
            test_skip_part("%s is not available", isas[i]);
    }
    CHECK(reduce_limit(NULL));
}

/* --- the reference --------------------------------------------------------------------------- */
static uint64_t load_integer(enum choir_type t, const void *p) /* sign-extended */
{
    uint64_t n = 0;
    memcpy(&n, p, type_bytes[t]);
    unsigned shift = 64 - 8 * (unsigned)type_bytes[t];
    return sample_signed(t) ? (uint64_t)((int64_t)(n << shift) >> shift) : n;
}

/* In float32 unless both are float64; min and max as defined in reduce.h. */
static double combine_float(bool wide, choir_op op, double a, double b)
{
    if (op == CHOIR_MIN || op == CHOIR_MAX) {
        if (isnan(a) || isnan(b))
            return NAN;
        if (a == b)
            return (op == CHOIR_MIN) == !!signbit(a) ? a : b;
        return (op == CHOIR_MIN) == (a < b) ? a : b;
    }
    if (wide)
        return op == CHOIR_PROD ? a * b : a + b;
    float x = (float)a, y = (float)b, r = op == CHOIR_PROD ? x * y : x + y;
    return (double)r;
}

static void expect_one(enum choir_type t, choir_op op, void *out, const unsigned char *const *src,
                       uint32_t nsrc, uint64_t i)
{
    size_t e = type_bytes[t];
    if (is_float(t)) {
        double acc = reduce_load(t, src[0] + i * e);
        for (uint32_t s = 1; s < nsrc; s++)
            acc = combine_float(t == CHOIR_FLOAT64, op, acc, reduce_load(t, src[s] + i * e));
        reduce_store(t, out, isnan(acc) ? NAN : acc);
        return;
    }
    uint64_t acc = load_integer(t, src[0] + i * e);
    for (uint32_t s = 1; s < nsrc; s++) {
        acc = sample_combine(t, op, acc, load_integer(t, src[s] + i * e));
        memcpy(out, &acc, e);
        acc = load_integer(t, out);
    }
    memcpy(out, &acc, e);
}

/* Any NaN is right where NaN is expected of min or max; else the bits decide. */
static bool same(enum choir_type t, choir_op op, const void *got, const void *want)
{
    if (!memcmp(got, want, type_bytes[t]))
        return true;
    return is_float(t) && (op == CHOIR_MIN || op == CHOIR_MAX) && isnan(reduce_load(t, got)) &&
           isnan(reduce_load(t, want));
}

static void check(enum choir_type t, choir_op op, const unsigned char *got,
                  const unsigned char *const *src, uint32_t nsrc, uint64_t count, const char *what)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t want = 0, have = 0;
        expect_one(t, op, &want, src, nsrc, i);
        memcpy(&have, got + i * type_bytes[t], type_bytes[t]);
        if (!same(t, op, &have, &want))
            FAIL("%s %s %s, %u sources, %s: element %" PRIu64 " of %" PRIu64 " is %#" PRIx64
                 ", not %#" PRIx64 " (%g, %g)",
                 reduce_isa(), type_names[t], op_names[op], nsrc, what, i, count, have, want,
                 reduce_load(t, &have), reduce_load(t, &want));
    }
}

/* --- inputs ---------------------------------------------------------------------------------- */
static uint64_t state;
enum { MOST_SOURCES = 17, GUARD = 64, AREA = 1000 * 8 + 3 * GUARD };

/* Half raw bits, so every NaN, infinity and subnormal of the narrow types; half of moderate size, with zeros. */
static void fill(enum choir_type t, unsigned char *p, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++, p += type_bytes[t]) {
        uint64_t r = base_random(&state);
        unsigned how = (unsigned)(r >> 60);
        if (how < 8)
            memcpy(p, &r, type_bytes[t]);
        else if (how < 10)
            reduce_store(t, p, is_float(t) && r & 1 ? -0.0 : 0.0);
        else if (how < 11)
            reduce_store(t, p, is_float(t) ? ldexp((double)(r & 0xff), -140) : 1);
        else
            reduce_store(t, p, ((double)(r & 0xffff) - 32768) / (is_float(t) ? 512 : 1));
    }
}

static unsigned char area[MOST_SOURCES + 1][AREA];

static void run_one(enum choir_type t, choir_op op, uint32_t nsrc, uint64_t count, unsigned shift,
                    int alias)
{
    reduce_fn fn = reduce_pick(t, op);
    const unsigned char *src[MOST_SOURCES];
    static unsigned char before[AREA];
    for (uint32_t s = 0; s < nsrc; s++) {
        unsigned char *p = area[s] + GUARD + (shift ? base_random(&state) % shift : 0);
        fill(t, p, count);
        src[s] = p;
    }
    unsigned char *d = area[MOST_SOURCES] + GUARD + (shift ? base_random(&state) % shift : 0);
    unsigned char *whole = area[MOST_SOURCES];
    if (alias >= 0) {
        d = area[alias] + (src[alias] - area[alias]);
        whole = area[alias];
        memcpy(before, whole, AREA);
        src[alias] = before + (d - whole);
    } else {
        memset(whole, 0xa5, AREA);
        memcpy(before, whole, AREA);
    }
    const void *given[MOST_SOURCES];
    for (uint32_t s = 0; s < nsrc; s++)
        given[s] = (int)s == alias ? d : src[s];
    fn(d, given, nsrc, count, 0);
    check(t, op, d, src, nsrc, count, alias >= 0 ? "in place" : "out of place");
    uint64_t head = (uint64_t)(d - whole), end = head + count * type_bytes[t];
    CHECK(!memcmp(whole, before, head));
    CHECK(!memcmp(whole + end, before + end, AREA - end));
}

static void matrix_isa(const char *isa)
{
    (void)isa;
    static const uint32_t nsrc[] = {2, 3, 5, 8, 17};
    static const uint64_t counts[] = {0, 1, 2, 7, 8, 63, 64, 65, 1000};
    for (unsigned t = 0; t < CHOIR_TYPES; t++)
        for (choir_op op = 0; op < CHOIR_OPS; op++) {
            if (!reduce_pick((enum choir_type)t, op))
                continue;
            for (size_t n = 0; n < base_count(nsrc); n++)
                for (size_t c = 0; c < base_count(counts); c++) {
                    run_one((enum choir_type)t, op, nsrc[n], counts[c], c & 1 ? 64 : 0, -1);
                    int alias = (int)(base_random(&state) % nsrc[n]);
                    run_one((enum choir_type)t, op, nsrc[n], counts[c] % 256, 64, alias);
                }
        }
}
static void matrix(void)
{
    state = test_seed();
    each_isa(matrix_isa);
}

/* Which operations exist for which types. */
static void defined(void)
{
    for (unsigned t = 0; t < CHOIR_TYPES; t++)
        for (choir_op op = 0; op < CHOIR_OPS; op++)
            CHECK_EQ(reduce_pick((enum choir_type)t, op) != NULL,
                     op <= CHOIR_AVG || !is_float((enum choir_type)t));
    CHECK(reduce_pick(CHOIR_FLOAT32, CHOIR_OPS) == NULL);
    CHECK(reduce_pick(CHOIR_TYPES, CHOIR_SUM) == NULL);
    CHECK(!reduce_limit("no such set"));
}

/* --- formats --------------------------------------------------------------------------------- */
static const enum choir_type small[] = {CHOIR_FLOAT16, CHOIR_BFLOAT16, CHOIR_FLOAT8_E4M3,
                                        CHOIR_FLOAT8_E5M2};

static uint32_t store_bits(enum choir_type t, double v)
{
    uint32_t n = 0;
    reduce_store(t, &n, v);
    return n;
}

static void formats_known(void)
{
    static const struct {
        enum choir_type t;
        uint32_t bits;
        double value;
    } known[] = {
        {CHOIR_FLOAT16, 0x3c00, 1},          {CHOIR_FLOAT16, 0x7bff, 65504},
        {CHOIR_FLOAT16, 0x0001, 0x1p-24},    {CHOIR_FLOAT16, 0x0400, 0x1p-14},
        {CHOIR_FLOAT16, 0xfc00, -INFINITY},  {CHOIR_BFLOAT16, 0x3f80, 1},
        {CHOIR_BFLOAT16, 0x0001, 0x1p-133},  {CHOIR_BFLOAT16, 0x7f7f, 0x1.fep127},
        {CHOIR_BFLOAT16, 0x7f80, INFINITY},  {CHOIR_FLOAT8_E4M3, 0x38, 1},
        {CHOIR_FLOAT8_E4M3, 0x7e, 448},      {CHOIR_FLOAT8_E4M3, 0x01, 0x1p-9},
        {CHOIR_FLOAT8_E4M3, 0xfe, -448},     {CHOIR_FLOAT8_E5M2, 0x3c, 1},
        {CHOIR_FLOAT8_E5M2, 0x7b, 57344},    {CHOIR_FLOAT8_E5M2, 0x01, 0x1p-16},
        {CHOIR_FLOAT8_E5M2, 0x7c, INFINITY}, {CHOIR_FLOAT8_E5M2, 0x80, -0.0},
    };
    for (size_t i = 0; i < base_count(known); i++) {
        CHECK(reduce_load(known[i].t, &known[i].bits) == known[i].value);
        CHECK_EQ(store_bits(known[i].t, known[i].value), known[i].bits);
    }
    CHECK_EQ(store_bits(CHOIR_FLOAT8_E4M3, 1e9), 0x7e);
    CHECK_EQ(store_bits(CHOIR_FLOAT8_E4M3, -INFINITY), 0xfe);
    CHECK_EQ(store_bits(CHOIR_FLOAT8_E5M2, 61440), 0x7c); /* the tie goes to even, infinity */
    CHECK_EQ(store_bits(CHOIR_FLOAT8_E5M2, 61439), 0x7b);
    CHECK_EQ(store_bits(CHOIR_FLOAT16, 65520), 0x7c00);
    CHECK_EQ(store_bits(CHOIR_FLOAT16, 65519), 0x7bff);
}

/* All encodings ascend, come back, and numbers between two neighbours go to the nearer, ties to even. */
static void formats_round(void)
{
    for (size_t k = 0; k < base_count(small); k++) {
        enum choir_type t = small[k];
        uint32_t sign = type_bytes[t] == 1 ? 0x80 : 0x8000;
        for (uint32_t b = 0; b + 1 < sign; b++) {
            uint32_t c = b + 1;
            double x = reduce_load(t, &b), y = reduce_load(t, &c);
            if (isnan(x)) {
                CHECK(isnan(reduce_load(t, &(uint32_t){b | sign})));
                continue;
            }
            CHECK_EQ(store_bits(t, x), b);
            CHECK_EQ(store_bits(t, -x), b | sign);
            if (isnan(y) || isinf(y))
                continue;
            CHECK(x < y);
            double mid = (x + y) / 2;
            CHECK_EQ(store_bits(t, mid), b & 1 ? c : b);
            CHECK_EQ(store_bits(t, nextafter(mid, -INFINITY)), b);
            CHECK_EQ(store_bits(t, nextafter(mid, INFINITY)), c);
        }
    }
}

/* The kernels' own conversions: x + 0 is x, and x times the next float around each midpoint rounds as above. */
static void convert_isa(const char *isa)
{
    static uint16_t a[65536], zero[65536], out[65536];
    for (size_t k = 0; k < base_count(small); k++) {
        enum choir_type t = small[k];
        uint32_t codes = type_bytes[t] == 1 ? 256 : 65536;
        memset(zero, 0, sizeof(zero));
        for (uint32_t i = 0; i < codes; i++)
            memcpy((char *)a + i * type_bytes[t], &i, type_bytes[t]);
        const void *src[] = {a, zero};
        reduce_pick(t, CHOIR_SUM)(out, src, 2, codes, 0);
        check(t, CHOIR_SUM, (unsigned char *)out, (const unsigned char *const *)src, 2, codes, isa);
        for (unsigned j = 0; j < 40; j++) {
            fill(t, (unsigned char *)zero, codes);
            reduce_pick(t, CHOIR_PROD)(out, src, 2, codes, 0);
            check(t, CHOIR_PROD, (unsigned char *)out, (const unsigned char *const *)src, 2, codes,
                  isa);
        }
    }
}
static void convert(void)
{
    state = test_seed();
    each_isa(convert_isa);
}

/* All pairs of 8-bit numbers under every operation. */
static void pairs_isa(const char *isa)
{
    static unsigned char a[65536], b[65536], out[65536];
    for (unsigned i = 0; i < 65536; i++)
        a[i] = (unsigned char)i, b[i] = (unsigned char)(i >> 8);
    const void *src[] = {a, b};
    for (unsigned t = 0; t < CHOIR_TYPES; t++)
        for (choir_op op = 0; op < CHOIR_OPS; op++)
            if (type_bytes[t] == 1 && reduce_pick((enum choir_type)t, op)) {
                reduce_pick((enum choir_type)t, op)(out, src, 2, 65536, 0);
                check((enum choir_type)t, op, out, (const unsigned char *const *)src, 2, 65536,
                      isa);
            }
}
static void pairs(void)
{
    each_isa(pairs_isa);
}

/* Raw bits through every instruction set: equal bits, NaN included. */
static void agree(void)
{
    enum { COUNT = 4099, SOURCES = 3 };
    static uint64_t src[SOURCES][COUNT], first[COUNT], out[COUNT];
    state = test_seed();
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned s = 0; s < SOURCES; s++)
            for (unsigned i = 0; i < COUNT; i++) {
                src[s][i] = base_random(&state);
                if (src[s][i] & 7) /* near 1 in some float type, so that sums do not drown */
                    src[s][i] = (src[s][i] & 0x83ff807f83ff807f) | 0x3c003f003c003f00;
            }
        const void *p[] = {src[0], src[1], src[2]};
        for (unsigned t = 0; t < CHOIR_TYPES; t++)
            for (choir_op op = 0; op < CHOIR_OPS; op++)
                for (uint32_t n = 2; n <= SOURCES; n++) {
                    CHECK(reduce_limit("generic"));
                    if (!reduce_pick((enum choir_type)t, op))
                        continue;
                    reduce_pick((enum choir_type)t, op)(first, p, n, COUNT, 0);
                    for (size_t i = 0; i < base_count(isas); i++) {
                        if (!reduce_limit(isas[i]))
                            continue;
                        reduce_pick((enum choir_type)t, op)(out, p, n, COUNT, 0);
                        if (memcmp(first, out, COUNT * type_bytes[t]))
                            FAIL("%s and generic differ: %s %s", isas[i], type_names[t],
                                 op_names[op]);
                    }
                }
    }
    CHECK(reduce_limit(NULL));
}

/* What a NaN becomes is fixed, and the specials are what reduce.h says. */
static void specials_isa(const char *isa)
{
    (void)isa;
    float nan_negative, inf = INFINITY, zeros[2] = {-0.0f, 0.0f}, out[2];
    memcpy(&nan_negative, &(uint32_t){0xffc12345}, 4);
    uint32_t bits;
#define TWO(op, a, b)                                                                              \
    (reduce_pick(CHOIR_FLOAT32, op)(out, (const void *[]){&(float){a}, &(float){b}}, 2, 1, 0),     \
     memcpy(&bits, out, 4), bits)
    CHECK_EQ(TWO(CHOIR_SUM, nan_negative, 1), 0x7fc00000);
    CHECK_EQ(TWO(CHOIR_SUM, 1, nan_negative), 0x7fc00000);
    CHECK_EQ(TWO(CHOIR_SUM, inf, -inf), 0x7fc00000);
    CHECK_EQ(TWO(CHOIR_PROD, inf, 0), 0x7fc00000);
    CHECK_EQ(TWO(CHOIR_SUM, inf, 1), 0x7f800000);
    CHECK_EQ(TWO(CHOIR_MIN, zeros[0], zeros[1]), 0x80000000);
    CHECK_EQ(TWO(CHOIR_MIN, zeros[1], zeros[0]), 0x80000000);
    CHECK_EQ(TWO(CHOIR_MAX, zeros[0], zeros[1]), 0);
    CHECK_EQ(TWO(CHOIR_MAX, zeros[1], zeros[0]), 0);
    CHECK_EQ(TWO(CHOIR_MAX, nan_negative, inf) & 0x7fffffff, 0x7fffffff);
    CHECK_EQ(TWO(CHOIR_MIN, -inf, nan_negative) & 0x7fffffff, 0x7fffffff);
    CHECK_EQ(TWO(CHOIR_MIN, -inf, inf), 0xff800000);
    CHECK_EQ(TWO(CHOIR_SUM, 0x1p-149f, 0x1p-149f), 2);
    uint8_t e4[2] = {0x7e, 0x7e}, r;
    reduce_pick(CHOIR_FLOAT8_E4M3, CHOIR_SUM)(&r, (const void *[]){&e4[0], &e4[1]}, 2, 1, 0);
    CHECK_EQ(r, 0x7e);
    e4[0] = e4[1] = 0x7b; /* e5m2's largest */
    reduce_pick(CHOIR_FLOAT8_E5M2, CHOIR_SUM)(&r, (const void *[]){&e4[0], &e4[1]}, 2, 1, 0);
    CHECK_EQ(r, 0x7c);
}
static void specials(void)
{
    each_isa(specials_isa);
}

/* One rounding: 1 + 2^-11 + 2^-11 is exact in float32 and would be lost if float16 rounded in between. */
static void one_rounding_isa(const char *isa)
{
    (void)isa;
    enum { COUNT = 100 };
    uint16_t a[COUNT], b[COUNT], out[COUNT];
    for (int i = 0; i < COUNT; i++)
        reduce_store(CHOIR_FLOAT16, &a[i], 1), reduce_store(CHOIR_FLOAT16, &b[i], 0x1p-11);
    reduce_pick(CHOIR_FLOAT16, CHOIR_SUM)(out, (const void *[]){a, b, b}, 3, COUNT, 0);
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(out[i], 0x3c01);
}
static void one_rounding(void)
{
    each_isa(one_rounding_isa);
}

/* A thread that flushes subnormals or rounds up gets the same bits, and keeps its mode. */
static void environment_isa(const char *isa)
{
    (void)isa;
    enum { COUNT = 333 };
    static uint64_t a[COUNT], b[COUNT], want[COUNT], got[COUNT];
    const void *src[] = {a, b};
    for (unsigned t = 0; t < CHOIR_TYPES; t++) {
        if (!is_float((enum choir_type)t))
            continue;
        fill((enum choir_type)t, (unsigned char *)a, COUNT);
        fill((enum choir_type)t, (unsigned char *)b, COUNT);
        for (choir_op op = 0; op <= CHOIR_MAX; op++) {
            reduce_pick((enum choir_type)t, op)(want, src, 2, COUNT, 0);
            CHECK_EQ(fesetround(FE_UPWARD), 0);
#ifdef __x86_64__
            __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040);
#endif
            reduce_pick((enum choir_type)t, op)(got, src, 2, COUNT, 0);
            CHECK_EQ(fegetround(), FE_UPWARD);
#ifdef __x86_64__
            CHECK_EQ(__builtin_ia32_stmxcsr() & 0x8040, 0x8040);
            __builtin_ia32_ldmxcsr(0x1f80);
#endif
            fesetround(FE_TONEAREST);
            CHECK(!memcmp(want, got, COUNT * type_bytes[t]));
        }
    }
}
static void environment(void)
{
    state = test_seed();
    each_isa(environment_isa);
}

/* --- one source ------------------------------------------------------------------------------ */
static void check_number(enum choir_type t, const unsigned char *got, const unsigned char *was,
                         uint64_t i, double by, bool divide)
{
    uint64_t want = 0;
    size_t e = type_bytes[t];
    if (is_float(t)) {
        double x = reduce_load(t, was + i * e);
        float f = (float)x, n = (float)by;
        double r =
            t == CHOIR_FLOAT64 ? (divide ? x / by : x * by) : (double)(divide ? f / n : f * n);
        reduce_store(t, &want, isnan(r) ? NAN : r);
    } else {
        uint64_t x = load_integer(t, was + i * e), n = (uint64_t)(int64_t)by;
        want = !divide ? x * n : sample_signed(t) ? (uint64_t)((int64_t)x / (int64_t)n) : x / n;
    }
    if (memcmp(got + i * e, &want, e))
        FAIL("%s %s %s by %g: element %" PRIu64, reduce_isa(), type_names[t],
             divide ? "divide" : "scale", by, i);
}

static void numbers_isa(const char *isa)
{
    (void)isa;
    static unsigned char was[AREA], got[AREA];
    static const uint32_t divisors[] = {1, 2, 3, 7, 200, 70000};
    static const uint64_t counts[] = {0, 1, 5, 64, 257};
    for (unsigned t = 0; t < CHOIR_TYPES; t++)
        for (size_t c = 0; c < base_count(counts); c++)
            for (size_t k = 0; k < base_count(divisors); k++) {
                uint64_t n = counts[c], factor = 0;
                double by;
                fill((enum choir_type)t, was + 1, n);
                memcpy(got, was, AREA);
                reduce_divide((enum choir_type)t, got + 1, n, divisors[k]);
                for (uint64_t i = 0; i < n; i++)
                    check_number((enum choir_type)t, got + 1, was + 1, i, divisors[k], true);
                reduce_store((enum choir_type)t, &factor, k ? divisors[k] / 3.0 : -0.0);
                by = reduce_load((enum choir_type)t, &factor);
                memset(got, 0x5a, AREA);
                reduce_scale((enum choir_type)t, got + 1, was + 1, &factor, n);
                for (uint64_t i = 0; i < n; i++)
                    check_number((enum choir_type)t, got + 1, was + 1, i, by, false);
                CHECK_EQ(got[0], 0x5a);
                CHECK_EQ(got[1 + n * type_bytes[t]], 0x5a);
            }
}
static void numbers(void)
{
    state = test_seed();
    each_isa(numbers_isa);
}

/* --- copies and streaming -------------------------------------------------------------------- */
static void copy_isa(const char *isa)
{
    (void)isa;
    enum { MOST = 70000 };
    static unsigned char from[MOST + 256], to[MOST + 256];
    for (size_t i = 0; i < sizeof(from); i++)
        from[i] = (unsigned char)base_random(&state);
    for (unsigned stream = 0; stream < 2; stream++)
        for (uint64_t n = 0; n <= MOST; n = n < 300 ? n + 1 : n * 3 + 1) {
            size_t a = 64 + base_random(&state) % 64, b = 64 + base_random(&state) % 64;
            memset(to, 0xa5, sizeof(to));
            reduce_copy(to + b, from + a, n, stream ? REDUCE_STREAM : 0);
            CHECK(!memcmp(to + b, from + a, n));
            for (size_t i = 0; i < sizeof(to); i += i == b - 1 ? n + 1 : 1)
                CHECK_EQ(to[i], 0xa5);
            reduce_copy(to + b, to + b, n, stream ? REDUCE_STREAM : 0);
            CHECK(!memcmp(to + b, from + a, n));
        }
}
static void copy(void)
{
    state = test_seed();
    each_isa(copy_isa);
}

static void stream_isa(const char *isa)
{
    (void)isa;
    enum { COUNT = 40007 };
    static unsigned char src[3][COUNT * 8 + 64], want[COUNT * 8 + 64], got[COUNT * 8 + 64];
    for (unsigned t = 0; t < CHOIR_TYPES; t++)
        for (unsigned shift = 0; shift < 64; shift += t % 2 ? 13 : 32)
            for (uint32_t n = 2; n < 4; n++) {
                uint64_t count = COUNT - base_random(&state) % 1000;
                for (unsigned s = 0; s < n; s++)
                    for (size_t i = 0; i + 8 <= sizeof(src[s]); i += 8)
                        memcpy(src[s] + i, &(uint64_t){base_random(&state)}, 8);
                const void *p[] = {src[0] + 3, src[1], src[2] + shift};
                reduce_fn fn = reduce_pick((enum choir_type)t, CHOIR_SUM);
                memset(want, 0x11, sizeof(want)), memset(got, 0x11, sizeof(got));
                fn(want + shift, p, n, count, 0);
                fn(got + shift, p, n, count, REDUCE_STREAM);
                CHECK(!memcmp(want, got, sizeof(got)));
                fn(src[0] + 3, p, n, count, REDUCE_STREAM);
                CHECK(!memcmp(want + shift, src[0] + 3, count * type_bytes[t]));
            }
}
static void stream(void)
{
    state = test_seed();
    each_isa(stream_isa);
}

/* --- speed ----------------------------------------------------------------------------------- */
static double best_ns(reduce_fn fn, void *d, const void *const *src, uint32_t n, uint64_t count,
                      unsigned flags, uint64_t element)
{
    uint64_t bytes = count * element * (n + 1), reps = 1 + 4000000 / (bytes + 64);
    double best = 1e18;
    for (int round = 0; round < 7; round++) {
        uint64_t t0 = base_now_ns();
        for (uint64_t r = 0; r < reps; r++)
            fn(d, src, n, count, flags);
        best = fmin(best, (double)(base_now_ns() - t0) / (double)reps);
    }
    return best;
}

static void copy_as_kernel(void *d, const void *const *src, uint32_t n, uint64_t count,
                           unsigned flags)
{
    (void)n;
    reduce_copy(d, src[0], count, flags);
    __asm__ volatile("" ::: "memory");
}

static void bench_isa(const char *isa)
{
    enum { MOST = 64 << 20, SOURCES = 8 };
    static unsigned char *mem[SOURCES + 1];
    for (int i = 0; i <= SOURCES && !mem[i]; i++) {
        mem[i] = aligned_alloc(4096, MOST);
        CHECK(mem[i] != NULL);
        memset(mem[i], 0, MOST);
    }
    const void *src[SOURCES];
    for (int i = 0; i < SOURCES; i++)
        src[i] = mem[i + 1];
    static const enum choir_type types[] = {CHOIR_FLOAT32,  CHOIR_FLOAT64,     CHOIR_FLOAT16,
                                            CHOIR_BFLOAT16, CHOIR_FLOAT8_E4M3, CHOIR_INT32,
                                            CHOIR_INT8};
    static const uint64_t counts[] = {2, 8, 1024, 8192};
    printf("%s: ns of small calls, GB/s (bytes read and written) of large ones\n", isa);
    printf("%-14s %-4s %-4s %8s %8s %8s %8s %8s %8s\n", "type", "op", "nsrc", "2 (ns)", "8 (ns)",
           "1024", "8192", "64 MiB", "64 st");
    for (size_t k = 0; k < base_count(types); k++)
        for (choir_op op = CHOIR_SUM; op <= CHOIR_MAX; op += 3)
            for (uint32_t n = 2; n <= SOURCES; n = n == 2 ? 3 : n == 3 ? 4 : n + 4) {
                enum choir_type t = types[k];
                reduce_fn fn = reduce_pick(t, op);
                double e = (double)type_bytes[t];
                printf("%-14s %-4s %-4u", type_names[t], op_names[op], n);
                for (size_t c = 0; c < base_count(counts); c++) {
                    double ns = best_ns(fn, mem[0], src, n, counts[c], 0, type_bytes[t]);
                    printf(" %8.1f", c < 2 ? ns : (double)counts[c] * e * (n + 1) / ns);
                }
                for (unsigned flags = 0; flags <= REDUCE_STREAM; flags++) {
                    double ns =
                        best_ns(fn, mem[0], src, n, MOST / type_bytes[t], flags, type_bytes[t]);
                    printf(" %8.1f", MOST * (double)(n + 1) / ns);
                }
                printf("\n");
            }
    static const uint64_t sizes[] = {4, 16, 64, 256, 1024, 4096, 65536, 1 << 20, MOST};
    for (size_t i = 0; i < base_count(sizes); i++)
        for (unsigned flags = 0; flags <= REDUCE_STREAM; flags++) {
            double ns = best_ns(copy_as_kernel, mem[0], src, 1, sizes[i], flags, 1);
            printf("copy %8" PRIu64 " bytes%s: %.1f ns, %.1f GB/s\n", sizes[i],
                   flags ? " streamed" : "", ns, 2 * (double)sizes[i] / ns);
        }
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {
        TEST(defined),      TEST(formats_known), TEST(formats_round), TEST(convert),
        TEST(pairs),        TEST(matrix),        TEST(agree),         TEST(specials),
        TEST(one_rounding), TEST(environment),   TEST(numbers),       TEST(copy),
        TEST(stream),
    };
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        each_isa(bench_isa);
        return 0;
    }
    return test_main(argc, argv, cases, base_count(cases));
}
