/* SPDX-License-Identifier: Apache-2.0 */
/*
 * number.cuh: the data types of the kernels: one element, and a word of 8 bytes full of them, to and from
 * the type they are computed in. The bits are those of src/reduce. Floats of 8 and 16 bits are in small.cuh.
 *
 * Sums and products go through number_add and number_multiply, which the device neither contracts nor
 * flushes (but under -ftz=true, which is not for these files); the host, where tests run this text, needs
 * -ffp-contract=off.
 */
#ifndef CUDA_KERNEL_NUMBER_CUH
#define CUDA_KERNEL_NUMBER_CUH

#include <stdint.h>
#include <string.h>
#include <type_traits>

#ifndef DEV
#ifdef __CUDACC__
#define DEV __device__ __forceinline__
#else
#define DEV inline __attribute__((always_inline))
#endif
#endif
#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif
/* What the text is being compiled for: 900 is sm_90, 0 the host. */
#ifdef __CUDA_ARCH__
#define NUMBER_ARCH __CUDA_ARCH__
#else
#define NUMBER_ARCH 0
#endif

template <class TO, class FROM> DEV TO number_bits(FROM from)
{
    static_assert(sizeof(TO) == sizeof(FROM), "the same bits under another type");
    TO to;
    memcpy(&to, &from, sizeof(to));
    return to;
}

#if NUMBER_ARCH
DEV float number_add(float a, float b)
{
    return __fadd_rn(a, b);
}
DEV double number_add(double a, double b)
{
    return __dadd_rn(a, b);
}
DEV float number_multiply(float a, float b)
{
    return __fmul_rn(a, b);
}
DEV double number_multiply(double a, double b)
{
    return __dmul_rn(a, b);
}
DEV float number_divide(float a, float b)
{
    return __fdiv_rn(a, b);
}
DEV double number_divide(double a, double b)
{
    return __ddiv_rn(a, b);
}
#else
template <class V> DEV V number_add(V a, V b)
{
    return a + b;
}
template <class V> DEV V number_multiply(V a, V b)
{
    return a * b;
}
template <class V> DEV V number_divide(V a, V b)
{
    return a / b;
}
#endif

/* --- integers ---------------------------------------------------------------------------------
 * E: in memory; V: computed in, or in wrapping. */
template <class E, class V> struct number_integer {
    using value = V;
    using wrapping = std::make_unsigned_t<V>;
    static constexpr bool floating = false, is_signed = E(-1) < E(0);
    static constexpr int bytes = sizeof(E), lanes = 8 / bytes;
    static DEV V load(uint64_t bits)
    {
        return V(E(bits));
    }
    static DEV uint64_t store(V v)
    {
        return uint64_t(v) & ~uint64_t(0) >> (64 - 8 * bytes);
    }
};
struct type_int8 : number_integer<int8_t, int32_t> {
};
struct type_uint8 : number_integer<uint8_t, uint32_t> {
};
struct type_int16 : number_integer<int16_t, int32_t> {
};
struct type_uint16 : number_integer<uint16_t, uint32_t> {
};
struct type_int32 : number_integer<int32_t, int32_t> {
};
struct type_uint32 : number_integer<uint32_t, uint32_t> {
};
struct type_int64 : number_integer<int64_t, int64_t> {
};
struct type_uint64 : number_integer<uint64_t, uint64_t> {
};

/* --- floats -----------------------------------------------------------------------------------
 * A type T says how to load and store one; it may hide widen and narrow of a word by quicker ones. What is
 * stored has one NaN. */
template <class T, class V, int BYTES> struct number_float {
    using value = V;
    static constexpr bool floating = true, is_signed = true;
    static constexpr int bytes = BYTES, lanes = 8 / BYTES;
    static DEV void widen(V *v, uint64_t word)
    {
        UNROLL
        for (int k = 0; k < lanes; k++)
            v[k] = T::load(word >> (8 * bytes * k));
    }
    static DEV uint64_t narrow(const V *v)
    {
        uint64_t word = 0;
        UNROLL
        for (int k = 0; k < lanes; k++)
            word |= T::store(v[k]) << (8 * bytes * k);
        return word;
    }
};

struct type_float32 : number_float<type_float32, float, 4> {
    static DEV float load(uint64_t bits)
    {
        return number_bits<float>(uint32_t(bits));
    }
    static DEV uint64_t store(float v)
    {
        return v == v ? number_bits<uint32_t>(v) : 0x7fc00000u;
    }
};

struct type_float64 : number_float<type_float64, double, 8> {
    static DEV double load(uint64_t bits)
    {
        return number_bits<double>(bits);
    }
    static DEV uint64_t store(double v)
    {
        return v == v ? number_bits<uint64_t>(v) : 0x7ff8000000000000u;
    }
};

/* --- a word of integers -------------------------------------------------------------------------
 * ONES: the lowest bit of each element; HIGH: the highest. */
template <int BYTES> struct packed {
    static constexpr uint64_t MASK = ~uint64_t(0) >> (64 - 8 * BYTES), ONES = ~uint64_t(0) / MASK,
                              HIGH = ONES << (8 * BYTES - 1);
    static DEV uint64_t spread(uint64_t element)
    {
        return (element & MASK) * ONES;
    }
    static DEV uint64_t truth(uint64_t x) /* 0 or 1 each */
    {
        return (((x & ~HIGH) + ~HIGH) | x) >> (8 * BYTES - 1) & ONES;
    }
    static DEV uint64_t add(uint64_t a, uint64_t b)
    {
        if constexpr (BYTES == 8)
            return a + b;
        else if constexpr (BYTES == 4) /* no carry from one to the other: two instructions */
            return uint64_t(uint32_t(a >> 32) + uint32_t(b >> 32)) << 32 |
                   (uint32_t(a) + uint32_t(b));
        else
            return ((a & ~HIGH) + (b & ~HIGH)) ^ ((a ^ b) & HIGH);
    }
};

#endif
