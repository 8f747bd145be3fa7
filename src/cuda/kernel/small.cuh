/* SPDX-License-Identifier: Apache-2.0 */
/*
 * small.cuh: floats of 8 and 16 bits, computed in float32; the formulas are those of src/reduce/kernels.h,
 * for one number.
 *
 * The device takes its own conversions where they give the same bits. They do but for NaN, which the device
 * makes all ones but the sign, and for e5m2, where they saturate; both are put right afterwards, several
 * elements at once.
 */
#ifndef CUDA_KERNEL_SMALL_CUH
#define CUDA_KERNEL_SMALL_CUH

#include "cuda/kernel/number.cuh"

/* The device's 16-bit NaN, 0x7fff in either half, becomes `nan`, above which no other number of either sign
 * lies. */
DEV uint32_t number_nan16x2(uint32_t two, uint32_t nan)
{
#if NUMBER_ARCH >= 900
    uint32_t r;
    asm("min.s16x2 %0, %1, %2;" : "=r"(r) : "r"(two), "r"(nan * 0x10001u));
    return r;
#else
    return two - (((two + 0x10001u) & ~two & 0x80008000u) >> 15) * (0x7fffu - nan);
#endif
}

/* Of 16 bits. GPUs round two at once: T::pair. */
template <class T> struct number_float16 : number_float<T, float, 2> {
#if NUMBER_ARCH
    static DEV uint64_t store(float v)
    {
        return T::pair(v, 0);
    }
    static DEV uint64_t narrow(const float *v)
    {
        return T::pair(v[0], v[1]) | uint64_t(T::pair(v[2], v[3])) << 32;
    }
#endif
};

struct type_bfloat16 : number_float16<type_bfloat16> {
    static DEV float load(uint64_t bits)
    {
        return number_bits<float>(uint32_t(bits) << 16);
    }
#if NUMBER_ARCH
    static DEV uint32_t pair(float low, float high)
    {
        uint32_t two;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
        return number_nan16x2(two, 0x7fc0);
    }
#else
    static DEV uint64_t store(float v)
    {
        uint32_t u = uint32_t(type_float32::store(v));
        return (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    }
#endif
};

/*
 * To a format of `bits` bits with m of mantissa, to nearest even; x is finite and below its overflow. A
 * subnormal is rounded by adding the power of two whose last place is the format's, as in kernels.h.
 */
DEV uint32_t number_round(uint32_t x, uint32_t bits, uint32_t m, uint32_t bias)
{
    uint32_t magic = (151u - bias - m) << 23, sign = x & 0x80000000u, u = x ^ sign;
    if (u < (128u - bias) << 23)
        u = number_bits<uint32_t>(number_add(number_bits<float>(u), number_bits<float>(magic))) -
            magic;
    else
        u = (u - ((127u - bias) << 23) + ((1u << (22 - m)) - 1u) + (u >> (23 - m) & 1u)) >>
            (23 - m);
    return sign >> (32 - bits) | u;
}
/* To an IEEE format with an exponent of 5 bits. */
DEV uint32_t number_round_ieee(float v, uint32_t bits, uint32_t m)
{
    uint32_t u = number_bits<uint32_t>(v), size = u & 0x7fffffffu, infinity = 31u << m;
    if (size > 0x7f800000u)
        return infinity | 1u << (m - 1);
    if (size >= 0x47800000u) /* 65536; below, rounding itself reaches infinity */
        return infinity | (u ^ size) >> (32 - bits);
    return number_round(u, bits, m, 15);
}

struct type_float16 : number_float16<type_float16> {
#if NUMBER_ARCH
    static DEV float load(uint64_t bits)
    {
        float v;
        asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(uint16_t(bits)));
        return v;
    }
    static DEV uint32_t pair(float low, float high)
    {
        uint32_t two;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
        return number_nan16x2(two, 0x7e00);
    }
#else
    static DEV float load(uint64_t bits)
    {
        uint32_t one = 1u << 23, rebias = (127 - 15) << 23;
        uint32_t w = uint32_t(bits), sign = w << 16 & 0x80000000u, u = (w & 0x7fffu) << 13;
        if (u < one) /* subnormal: an exponent, and an exact subtraction to lose it */
            u = number_bits<uint32_t>(number_bits<float>(u + rebias + one) -
                                      number_bits<float>(rebias + one));
        else
            u += u >= 31u << 23 ? 2 * rebias : rebias; /* infinity and NaN go to the top */
        return number_bits<float>(sign | u);
    }
    static DEV uint64_t store(float v)
    {
        return number_round_ieee(v, 16, 10);
    }
#endif
};

/* Half of float16. */
struct type_float8_e5m2 : number_float<type_float8_e5m2, float, 1> {
    static DEV float load(uint64_t bits)
    {
        return type_float16::load((bits & 0xff) << 8);
    }
#if NUMBER_ARCH >= 890
    /* The device saturates; what would not have rounded to a finite number goes one up, to infinity. */
    static DEV uint32_t pair(float low, float high)
    {
        uint16_t two;
        asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(two) : "f"(high), "f"(low));
        return two + uint32_t(fabsf(low) >= 61440.0f) + (fabsf(high) >= 61440.0f ? 0x100u : 0u);
    }
    static DEV uint32_t four(const float *v)
    {
        uint32_t u = pair(v[0], v[1]) | pair(v[2], v[3]) << 16;
        return u - (((u + 0x01010101u) & ~u & 0x80808080u) >> 7); /* NaN: 0x7f to 0x7e */
    }
    static DEV uint64_t store(float v)
    {
        const float alone[4] = {v, 0, 0, 0};
        return four(alone);
    }
    static DEV uint64_t narrow(const float *v)
    {
        return four(v) | uint64_t(four(v + 4)) << 32;
    }
#else
    static DEV uint64_t store(float v)
    {
        return number_round_ieee(v, 8, 2);
    }
#endif
};

/* OCP: no infinity, 0x7f and 0xff are NaN, saturates at 448. */
struct type_float8_e4m3 : number_float<type_float8_e4m3, float, 1> {
#if NUMBER_ARCH >= 890
    static DEV void widen_pair(float *v, uint16_t bits)
    {
        uint32_t two;
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(two) : "h"(bits));
        v[0] = type_float16::load(two), v[1] = type_float16::load(two >> 16);
    }
    static DEV uint32_t pair(float low, float high)
    {
        uint16_t two;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(two) : "f"(high), "f"(low));
        return two;
    }
    static DEV float load(uint64_t bits)
    {
        float v[2];
        widen_pair(v, uint16_t(bits & 0xff));
        return v[0];
    }
    static DEV uint64_t store(float v)
    {
        return pair(v, 0);
    }
    static DEV void widen(float *v, uint64_t word)
    {
        UNROLL
        for (int k = 0; k < 4; k++)
            widen_pair(v + 2 * k, uint16_t(word >> 16 * k));
    }
    static DEV uint64_t narrow(const float *v)
    {
        return (pair(v[0], v[1]) | pair(v[2], v[3]) << 16) |
               uint64_t(pair(v[4], v[5]) | pair(v[6], v[7]) << 16) << 32;
    }
#else
    /* float16 but for a shift and another bias. */
    static DEV float load(uint64_t bits)
    {
        uint64_t size = bits & 0x7f;
        float v =
            type_float16::load((bits & 0x80) << 8 | size << 7 | (size == 0x7f ? 0x7c00u : 0u));
        return number_multiply(v, 256.0f);
    }
    static DEV uint64_t store(float v)
    {
        uint32_t u = number_bits<uint32_t>(v), size = u & 0x7fffffffu, most = 0x43e00000u;
        if (size > 0x7f800000u)
            return 0x7f;
        return number_round((size > most ? most : size) | (u ^ size), 8, 3, 7);
    }
#endif
};

#endif
