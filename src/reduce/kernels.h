/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.h: the kernels' text, compiled once per instruction set: generic.c, avx2.c and avx512.c include it.
 *
 * The includer defines VECTOR (bytes of a vector), TABLE, TABLE_NAME, TABLE_USABLE, TABLE_STREAM and may define
 * PARTS (masked loads and stores) and HAVE_F16 (f16_in, f16_out by instruction).
 * Written with the compilers' vector extension: lane arithmetic wraps, nothing is promoted to int, and a tail
 * element runs through lane 0 of the same code, so that all elements are treated alike.
 */
#define INLINE static inline __attribute__((always_inline, unused))

/* --- vectors: full ones of each lane width; halves and quarters that widen to float32 ---------- */
#define LANES(V, T, bytes) typedef T V __attribute__((vector_size(bytes)))
LANES(v8, uint8_t, VECTOR);
LANES(v16, uint16_t, VECTOR);
LANES(v32, uint32_t, VECTOR);
LANES(v64, uint64_t, VECTOR);
LANES(s8, int8_t, VECTOR);
LANES(s16, int16_t, VECTOR);
LANES(s32, int32_t, VECTOR);
LANES(s64, int64_t, VECTOR);
LANES(vf, float, VECTOR);
LANES(vd, double, VECTOR);
LANES(h16, uint16_t, VECTOR / 2);
LANES(q8, uint8_t, VECTOR / 4);

#define WHOLE(V)                                                                                   \
    INLINE V V##_load(const void *p)                                                               \
    {                                                                                              \
        V v;                                                                                       \
        memcpy(&v, p, sizeof(v));                                                                  \
        return v;                                                                                  \
    }                                                                                              \
    INLINE void V##_store(void *p, V v)                                                            \
    {                                                                                              \
        memcpy(p, &v, sizeof(v));                                                                  \
    }
WHOLE(v8);
WHOLE(v16);
WHOLE(v32);
WHOLE(v64);
WHOLE(h16);
WHOLE(q8);

/* A part of a vector: all n elements at once with masks, else the first one. */
#ifdef PARTS
#define PART(n) (n)
PARTS;
#else
#define PART(n) ((void)(n), 1)
#define ONE(V, T)                                                                                  \
    INLINE V V##_load_part(const void *p, uint64_t n)                                              \
    {                                                                                              \
        T x;                                                                                       \
        memcpy(&x, p, sizeof(x));                                                                  \
        (void)n;                                                                                   \
        return (V){x};                                                                             \
    }                                                                                              \
    INLINE void V##_store_part(void *p, V v, uint64_t n)                                           \
    {                                                                                              \
        T x = v[0];                                                                                \
        memcpy(p, &x, sizeof(x));                                                                  \
        (void)n;                                                                                   \
    }
ONE(v8, uint8_t);
ONE(v16, uint16_t);
ONE(v32, uint32_t);
ONE(v64, uint64_t);
ONE(h16, uint16_t);
ONE(q8, uint8_t);
#endif

/* --- operations on lanes --------------------------------------------------------------------- */
#define SELECT(V, mask, a, b) ((V)(((V)(mask) & (V)(a)) | (~(V)(mask) & (V)(b))))
#define SAME(x) (x)
#define ADD(a, b) ((a) + (b))
#define MUL(a, b) ((a) * (b))
#define AND(a, b) ((a) & (b))
#define OR(a, b) ((a) | (b))
#define XOR(a, b) ((a) ^ (b))

/* Integers: minimum and maximum of both signs; truth as a mask. */
#define INTEGER(bits)                                                                              \
    INLINE v##bits min_u##bits(v##bits a, v##bits b)                                               \
    {                                                                                              \
        return SELECT(v##bits, a < b, a, b);                                                       \
    }                                                                                              \
    INLINE v##bits max_u##bits(v##bits a, v##bits b)                                               \
    {                                                                                              \
        return SELECT(v##bits, a > b, a, b);                                                       \
    }                                                                                              \
    INLINE v##bits min_s##bits(v##bits a, v##bits b)                                               \
    {                                                                                              \
        return SELECT(v##bits, (s##bits)a < (s##bits)b, a, b);                                     \
    }                                                                                              \
    INLINE v##bits max_s##bits(v##bits a, v##bits b)                                               \
    {                                                                                              \
        return SELECT(v##bits, (s##bits)a > (s##bits)b, a, b);                                     \
    }                                                                                              \
    INLINE v##bits truth_in##bits(v##bits x)                                                       \
    {                                                                                              \
        return (v##bits)(x != 0);                                                                  \
    }                                                                                              \
    INLINE v##bits truth_out##bits(v##bits x)                                                      \
    {                                                                                              \
        return x & 1;                                                                              \
    }
INTEGER(8);
INTEGER(16);
INTEGER(32);
INTEGER(64);

/*
 * Minimum and maximum of floats of any width compare sortable keys, signed integers in the order of the floats:
 * -0 sorts below +0, and NaN becomes the key that wins, whose bits are a NaN again. No rounding, no
 * dependence on the floating-point environment.
 */
#define KEYS(name, bits, infinity)                                                                 \
    INLINE v##bits name##_key(v##bits x)                                                           \
    {                                                                                              \
        return x ^ ((v##bits)((s##bits)x < 0) & (v##bits)ALL(bits, INT##bits##_MAX));              \
    }                                                                                              \
    INLINE v##bits name##_nan(v##bits x)                                                           \
    {                                                                                              \
        return (v##bits)((s##bits)(x & (v##bits)ALL(bits, INT##bits##_MAX)) >                      \
                         ALL(bits, infinity));                                                     \
    }                                                                                              \
    INLINE v##bits name##_min_in(v##bits x)                                                        \
    {                                                                                              \
        return SELECT(v##bits, name##_nan(x), ALL(bits, INT##bits##_MIN), name##_key(x));          \
    }                                                                                              \
    INLINE v##bits name##_max_in(v##bits x)                                                        \
    {                                                                                              \
        return SELECT(v##bits, name##_nan(x), ALL(bits, INT##bits##_MAX), name##_key(x));          \
    }
#define ALL(bits, x) ((s##bits){0} + (int##bits##_t)(x))
KEYS(e4m3, 8, 0x7e);
KEYS(e5m2, 8, 0x7c);
KEYS(f16, 16, 0x7c00);
KEYS(bf16, 16, 0x7f80);
KEYS(f32, 32, 0x7f800000);
KEYS(f64, 64, 0x7ff0000000000000);

/* --- sums and products of floats: in float32 or float64, a NaN made the standard one ----------- */
INLINE vf f32_in(v32 x)
{
    return (vf)x;
}
INLINE v32 f32_out(vf x)
{
    return SELECT(v32, x == x, x, (v32){0} + 0x7fc00000u);
}
INLINE vd f64_in(v64 x)
{
    return (vd)x;
}
INLINE v64 f64_out(vd x)
{
    return SELECT(v64, x == x, x, (v64){0} + 0x7ff8000000000000u);
}

#ifndef HAVE_WIDTHS
#define widen_q8_h16(x) __builtin_convertvector(x, h16)
#define widen_h16_v32(x) __builtin_convertvector(x, v32)
#define narrow_v32_h16(x) __builtin_convertvector(x, h16)
#define narrow_v32_q8(x) __builtin_convertvector(x, q8)
#endif

INLINE vf bf16_in(h16 x)
{
    return (vf)(widen_h16_v32(x) << 16);
}
INLINE h16 bf16_out(vf x) /* the standard NaN comes through unharmed */
{
    v32 u = f32_out(x);
    return narrow_v32_h16((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/*
 * Small formats, after F. Giesen, "float->half variants" (2012). Widening float16: move the bits into place and
 * rebias; a subnormal gets an exponent and loses it again by an exact subtraction. Both 8-bit formats are
 * float16 but for a shift (e4m3 has another bias, so a factor too).
 * Narrowing to a format of `bits` bits with m of mantissa, to nearest even: a normal number rounds by an integer
 * addition, a subnormal by adding the power of two whose last place is the format's.
 */
#ifndef HAVE_F16
INLINE vf f16_in(h16 x)
{
    uint32_t one = 1u << 23, rebias = (127 - 15) << 23;
    v32 w = widen_h16_v32(x), u = (w & 0x7fff) << 13;
    v32 low = (v32)((vf)(u + (rebias + one)) - (vf)((v32){0} + (rebias + one)));
    v32 high =
        u + rebias + ((v32)((s32)u >= 31 << 23) & rebias); /* infinity and NaN go to the top */
    return (vf)((w << 16 & 0x80000000u) | SELECT(v32, (s32)u < (s32){0} + (1 << 23), low, high));
}
#endif
INLINE vf e5m2_in(q8 x)
{
    return f16_in(widen_q8_h16(x) << 8);
}
INLINE vf e4m3_in(q8 x) /* OCP E4M3: no infinity, 0x7f and 0xff are NaN */
{
    h16 w = widen_q8_h16(x), size = w & 0x7f, nan = (h16)(size == 0x7f) & 0x7c00;
    return f16_in((w & 0x80) << 8 | size << 7 | nan) * 256;
}

INLINE v32 round_small(v32 x, uint32_t bits, uint32_t m, uint32_t bias)
{
    uint32_t magic = (151 - bias - m) << 23;
    v32 sign = x & 0x80000000u, u = x ^ sign;
    v32 low = (v32)((vf)u + (vf)((v32){0} + magic)) - magic;
    v32 high = u - ((127 - bias) << 23) + ((1u << (22 - m)) - 1) + (u >> (23 - m) & 1);
    return sign >> (32 - bits) |
           SELECT(v32, (s32)u < (int32_t)((128 - bias) << 23), low, high >> (23 - m));
}
INLINE v32 ieee_out(vf x, uint32_t bits, uint32_t m) /* exponents of 5 bits, bias 15 */
{
    v32 u = (v32)x, size = u & 0x7fffffff, infinity = (v32){0} + (31u << m);
    v32 r = round_small(u, bits, m, 15);
    v32 overflow =
        (v32)((s32)size >= 0x47800000); /* 65536; below, rounding itself reaches infinity */
    r = SELECT(v32, overflow, infinity | (u ^ size) >> (32 - bits), r);
    return SELECT(v32, (s32)size > 0x7f800000, infinity | 1u << (m - 1), r);
}
#ifndef HAVE_F16
INLINE h16 f16_out(vf x)
{
    return narrow_v32_h16(ieee_out(x, 16, 10));
}
#endif
INLINE q8 e5m2_out(vf x)
{
    return narrow_v32_q8(ieee_out(x, 8, 2));
}
INLINE q8 e4m3_out(vf x) /* saturates at 448, 0x7e */
{
    v32 u = (v32)x, size = u & 0x7fffffff, most = (v32){0} + 0x43e00000u;
    v32 clamped = SELECT(v32, (s32)size > (s32)most, most, size);
    v32 r = round_small(clamped | (u ^ size), 8, 3, 7);
    return narrow_v32_q8(SELECT(v32, (s32)size > 0x7f800000, (v32){0} + 0x7f, r));
}

/* --- the loops -------------------------------------------------------------------------------
 * KERNEL(name, V, W, in, op, out, fp): memory holds V's lanes, the work is done in W. All loads of a group come before its
 * stores: dst may be any of the sources. More than two sources: four vectors stay in registers while
 * the sources pass by, in order. */
#define KERNEL(name, V, W, in, op, out, fp)                                                        \
    static __attribute__((noinline)) void name##_many(unsigned char *d, const void *const *src,    \
                                                      uint32_t nsrc, uint64_t count)               \
    {                                                                                              \
        const uint64_t lanes = sizeof(V) / sizeof((V){0}[0]), element = sizeof((V){0}[0]);         \
        uint64_t at = 0;                                                                           \
        for (; count >= 4 * lanes; count -= 4 * lanes, at += 4 * sizeof(V)) {                      \
            W sum[4];                                                                              \
            const unsigned char *p = (const unsigned char *)src[0] + at;                           \
            for (int k = 0; k < 4; k++)                                                            \
                sum[k] = in(V##_load(p + (size_t)k * sizeof(V)));                                  \
            for (uint32_t s = 1; s < nsrc; s++) {                                                  \
                p = (const unsigned char *)src[s] + at;                                            \
                for (int k = 0; k < 4; k++)                                                        \
                    sum[k] = op(sum[k], in(V##_load(p + (size_t)k * sizeof(V))));                  \
            }                                                                                      \
            for (int k = 0; k < 4; k++)                                                            \
                V##_store(d + at + (size_t)k * sizeof(V), out(sum[k]));                            \
        }                                                                                          \
        for (; count >= lanes; count -= lanes, at += sizeof(V)) {                                  \
            W sum = in(V##_load((const unsigned char *)src[0] + at));                              \
            for (uint32_t s = 1; s < nsrc; s++)                                                    \
                sum = op(sum, in(V##_load((const unsigned char *)src[s] + at)));                   \
            V##_store(d + at, out(sum));                                                           \
        }                                                                                          \
        for (uint64_t n; count; count -= n, at += n * element) {                                   \
            n = PART(count);                                                                       \
            W sum = in(V##_load_part((const unsigned char *)src[0] + at, count));                  \
            for (uint32_t s = 1; s < nsrc; s++)                                                    \
                sum = op(sum, in(V##_load_part((const unsigned char *)src[s] + at, count)));       \
            V##_store_part(d + at, out(sum), count);                                               \
        }                                                                                          \
    }                                                                                              \
    static void name(void *dst, const void *const *src, uint32_t nsrc, uint64_t count,             \
                     unsigned flags)                                                               \
    {                                                                                              \
        const uint64_t lanes = sizeof(V) / sizeof((V){0}[0]), element = sizeof((V){0}[0]);         \
        if (base_unlikely(flags & REDUCE_STREAM)) {                                                \
            reduce_through_cache(name, sizeof((V){0}[0]), dst, src, nsrc, count);                  \
            return;                                                                                \
        }                                                                                          \
        uint32_t state = fp ? reduce_fp_enter() : 0;                                               \
        unsigned char *d = dst;                                                                    \
        if (base_likely(nsrc == 2)) {                                                              \
            const unsigned char *a = src[0], *b = src[1];                                          \
            for (; count >= lanes; count -= lanes, a += sizeof(V), b += sizeof(V), d += sizeof(V)) \
                V##_store(d, out(op(in(V##_load(a)), in(V##_load(b)))));                           \
            for (uint64_t n; count;                                                                \
                 count -= n, a += n * element, b += n * element, d += n * element) {               \
                n = PART(count);                                                                   \
                V##_store_part(                                                                    \
                    d, out(op(in(V##_load_part(a, count)), in(V##_load_part(b, count)))), count);  \
            }                                                                                      \
        } else {                                                                                   \
            name##_many(d, src, nsrc, count);                                                      \
        }                                                                                          \
        if (fp)                                                                                    \
            reduce_fp_leave(state);                                                                \
    }

#define KERNEL_INTEGER(bits)                                                                       \
    KERNEL(sum_i##bits, v##bits, v##bits, SAME, ADD, SAME, 0)                                      \
    KERNEL(prod_i##bits, v##bits, v##bits, SAME, MUL, SAME, 0)                                     \
    KERNEL(min_i##bits, v##bits, v##bits, SAME, min_s##bits, SAME, 0)                              \
    KERNEL(max_i##bits, v##bits, v##bits, SAME, max_s##bits, SAME, 0)                              \
    KERNEL(min_n##bits, v##bits, v##bits, SAME, min_u##bits, SAME, 0)                              \
    KERNEL(max_n##bits, v##bits, v##bits, SAME, max_u##bits, SAME, 0)                              \
    KERNEL(band_i##bits, v##bits, v##bits, SAME, AND, SAME, 0)                                     \
    KERNEL(bor_i##bits, v##bits, v##bits, SAME, OR, SAME, 0)                                       \
    KERNEL(bxor_i##bits, v##bits, v##bits, SAME, XOR, SAME, 0)                                     \
    KERNEL(land_i##bits, v##bits, v##bits, truth_in##bits, AND, truth_out##bits, 0)                \
    KERNEL(lor_i##bits, v##bits, v##bits, truth_in##bits, OR, truth_out##bits, 0)                  \
    KERNEL(lxor_i##bits, v##bits, v##bits, truth_in##bits, XOR, truth_out##bits, 0)
KERNEL_INTEGER(8)
KERNEL_INTEGER(16)
KERNEL_INTEGER(32)
KERNEL_INTEGER(64)

#define KERNEL_FLOAT(name, bits, V, W)                                                             \
    KERNEL(sum_##name, V, W, name##_in, ADD, name##_out, 1)                                        \
    KERNEL(prod_##name, V, W, name##_in, MUL, name##_out, 1)                                       \
    KERNEL(min_##name, v##bits, v##bits, name##_min_in, min_s##bits, name##_key, 0)                \
    KERNEL(max_##name, v##bits, v##bits, name##_max_in, max_s##bits, name##_key, 0)
KERNEL_FLOAT(e4m3, 8, q8, vf)
KERNEL_FLOAT(e5m2, 8, q8, vf)
KERNEL_FLOAT(f16, 16, h16, vf)
KERNEL_FLOAT(bf16, 16, h16, vf)
KERNEL_FLOAT(f32, 32, v32, vf)
KERNEL_FLOAT(f64, 64, v64, vd)

/* --- one source and a number: dst = src * factor, data /= n ------------------------------------ */
#define SCALE(name, V, W, in, out, fp)                                                             \
    static void scale_##name(void *dst, const void *src, const void *factor, uint64_t count)       \
    {                                                                                              \
        const uint64_t lanes = sizeof(V) / sizeof((V){0}[0]), element = sizeof((V){0}[0]);         \
        const unsigned char *a = src;                                                              \
        unsigned char *d = dst;                                                                    \
        uint32_t state = fp ? reduce_fp_enter() : 0;                                               \
        W f = in(V##_load_part(factor, 1))[0] - (W){0}; /* plus 0 would lose the sign of -0 */     \
        for (; count >= lanes; count -= lanes, a += sizeof(V), d += sizeof(V))                     \
            V##_store(d, out(in(V##_load(a)) * f));                                                \
        for (uint64_t n; count; count -= n, a += n * element, d += n * element) {                  \
            n = PART(count);                                                                       \
            V##_store_part(d, out(in(V##_load_part(a, count)) * f), count);                        \
        }                                                                                          \
        if (fp)                                                                                    \
            reduce_fp_leave(state);                                                                \
    }
#define DIVIDE(name, V, W, R)                                                                      \
    static void divide_##name(void *data, uint64_t count, uint32_t by)                             \
    {                                                                                              \
        const uint64_t lanes = sizeof(V) / sizeof((V){0}[0]), element = sizeof((V){0}[0]);         \
        unsigned char *d = data;                                                                   \
        uint32_t state = reduce_fp_enter();                                                        \
        W divisor = (W){0} + (R)by;                                                                \
        for (; count >= lanes; count -= lanes, d += sizeof(V))                                     \
            V##_store(d, name##_out(name##_in(V##_load(d)) / divisor));                            \
        for (uint64_t n; count; count -= n, d += n * element) {                                    \
            n = PART(count);                                                                       \
            V##_store_part(d, name##_out(name##_in(V##_load_part(d, count)) / divisor), count);    \
        }                                                                                          \
        reduce_fp_leave(state);                                                                    \
    }
#define NUMBER(name, V, W, R) SCALE(name, V, W, name##_in, name##_out, 1) DIVIDE(name, V, W, R)
SCALE(i8, v8, v8, SAME, SAME, 0)
SCALE(i16, v16, v16, SAME, SAME, 0)
SCALE(i32, v32, v32, SAME, SAME, 0)
SCALE(i64, v64, v64, SAME, SAME, 0)
NUMBER(e4m3, q8, vf, float)
NUMBER(e5m2, q8, vf, float)
NUMBER(f16, h16, vf, float)
NUMBER(bf16, h16, vf, float)
NUMBER(f32, v32, vf, float)
NUMBER(f64, v64, vd, double)

/* Integers are rarely averaged and no instruction set divides their vectors. */
#define DIVIDE_INTEGER(name, T, R)                                                                 \
    static void divide_##name(void *data, uint64_t count, uint32_t by)                             \
    {                                                                                              \
        unsigned char *d = data;                                                                   \
        for (; count; count--, d += sizeof(T)) {                                                   \
            T x;                                                                                   \
            memcpy(&x, d, sizeof(x));                                                              \
            x = (T)((R)x / (R)by);                                                                 \
            memcpy(d, &x, sizeof(x));                                                              \
        }                                                                                          \
    }
DIVIDE_INTEGER(s8, int8_t, int64_t)
DIVIDE_INTEGER(n8, uint8_t, uint64_t)
DIVIDE_INTEGER(s16, int16_t, int64_t)
DIVIDE_INTEGER(n16, uint16_t, uint64_t)
DIVIDE_INTEGER(s32, int32_t, int64_t)
DIVIDE_INTEGER(n32, uint32_t, uint64_t)
DIVIDE_INTEGER(s64, int64_t, int64_t)
DIVIDE_INTEGER(n64, uint64_t, uint64_t)

/* --- the table ------------------------------------------------------------------------------- */
#define ROW_INTEGER(bits, sign)                                                                    \
    {                                                                                              \
        [CHOIR_SUM] = sum_i##bits, [CHOIR_AVG] = sum_i##bits, [CHOIR_PROD] = prod_i##bits,         \
        [CHOIR_MIN] = min_##sign##bits, [CHOIR_MAX] = max_##sign##bits,                            \
        [CHOIR_BAND] = band_i##bits, [CHOIR_BOR] = bor_i##bits, [CHOIR_BXOR] = bxor_i##bits,       \
        [CHOIR_LAND] = land_i##bits, [CHOIR_LOR] = lor_i##bits, [CHOIR_LXOR] = lxor_i##bits,       \
    }
#define ROW_FLOAT(name)                                                                            \
    {                                                                                              \
        [CHOIR_SUM] = sum_##name, [CHOIR_AVG] = sum_##name, [CHOIR_PROD] = prod_##name,            \
        [CHOIR_MIN] = min_##name, [CHOIR_MAX] = max_##name,                                        \
    }
const struct reduce_table TABLE = {
    .name = TABLE_NAME,
    .usable = TABLE_USABLE,
    .kernel = {[CHOIR_INT8] = ROW_INTEGER(8, i),
               [CHOIR_UINT8] = ROW_INTEGER(8, n),
               [CHOIR_INT16] = ROW_INTEGER(16, i),
               [CHOIR_UINT16] = ROW_INTEGER(16, n),
               [CHOIR_INT32] = ROW_INTEGER(32, i),
               [CHOIR_UINT32] = ROW_INTEGER(32, n),
               [CHOIR_INT64] = ROW_INTEGER(64, i),
               [CHOIR_UINT64] = ROW_INTEGER(64, n),
               [CHOIR_FLOAT16] = ROW_FLOAT(f16),
               [CHOIR_BFLOAT16] = ROW_FLOAT(bf16),
               [CHOIR_FLOAT32] = ROW_FLOAT(f32),
               [CHOIR_FLOAT64] = ROW_FLOAT(f64),
               [CHOIR_FLOAT8_E4M3] = ROW_FLOAT(e4m3),
               [CHOIR_FLOAT8_E5M2] = ROW_FLOAT(e5m2)},
    .divide = {divide_s8, divide_n8, divide_s16, divide_n16, divide_s32, divide_n32, divide_s64,
               divide_n64, divide_f16, divide_bf16, divide_f32, divide_f64, divide_e4m3,
               divide_e5m2},
    .scale = {scale_i8, scale_i8, scale_i16, scale_i16, scale_i32, scale_i32, scale_i64, scale_i64,
              scale_f16, scale_bf16, scale_f32, scale_f64, scale_e4m3, scale_e5m2},
    .stream = TABLE_STREAM,
};
