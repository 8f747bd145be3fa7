/* SPDX-License-Identifier: Apache-2.0 */
/*
 * order.cuh: minimum and maximum of the elements of a word, for the accumulators of reduce.cuh.
 *
 * Both are a maximum. A minimum is the maximum of complements or, of floats, of numbers with their sign bit
 * changed; so the NaN that wins, all ones but the sign, comes out with the sign that src/reduce gives it.
 * Unsigned numbers with their highest bit changed are in the order of signed ones. Elements of 8 bits are
 * compared in lanes of 16, above the element before them or what `below` puts there, which decides nothing
 * between elements that differ.
 */
#ifndef CUDA_KERNEL_ORDER_CUH
#define CUDA_KERNEL_ORDER_CUH

#include "cuda/kernel/small.cuh"

/* The greater in each half, as signed integers. */
DEV uint32_t order_integer16x2(uint32_t a, uint32_t b)
{
#if NUMBER_ARCH >= 900
    uint32_t r;
    asm("max.s16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
#else
    int32_t high = int32_t(a) > int32_t(b) ? int32_t(a) : int32_t(b);
    int32_t low = int32_t(a << 16) > int32_t(b << 16) ? int32_t(a << 16) : int32_t(b << 16);
    return (uint32_t(high) & 0xffff0000u) | uint32_t(low) >> 16;
#endif
}
/* The greater float given by its bits, of signed type S; either a NaN: all ones but the sign; -0 is below
 * +0. */
template <class S> DEV S order_float(S a, S b, S infinity)
{
    const S most = S(~(uint64_t(1) << (8 * sizeof(S) - 1)));
    if ((a & most) > infinity || (b & most) > infinity)
        return most;
    S x = S(a < 0 ? a ^ most : a), y = S(b < 0 ? b ^ most : b);
    return x > y ? a : b;
}
DEV uint32_t order_float16x2(uint32_t a, uint32_t b)
{
#if NUMBER_ARCH
    uint32_t r;
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
#else
    return uint16_t(order_float(int16_t(a), int16_t(b), int16_t(0x7c00))) |
           uint32_t(order_float(int16_t(a >> 16), int16_t(b >> 16), int16_t(0x7c00))) << 16;
#endif
}
DEV uint32_t order_bfloat16x2(uint32_t a, uint32_t b)
{
#if NUMBER_ARCH
    uint32_t r;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
#else
    return uint16_t(order_float(int16_t(a), int16_t(b), int16_t(0x7f80))) |
           uint32_t(order_float(int16_t(a >> 16), int16_t(b >> 16), int16_t(0x7f80))) << 16;
#endif
}

/* UNIT: what is compared at once. below: what a unit has under elements of 8 bits. */
template <class T> struct order {
    using unit = uint32_t;
    static DEV uint32_t below(uint32_t u)
    {
        return u;
    }
    static DEV uint32_t most(uint32_t a, uint32_t b)
    {
        if constexpr (T::bytes == 4)
            return int32_t(a) > int32_t(b) ? a : b;
        else
            return order_integer16x2(a, b);
    }
};
struct order_64 {
    using unit = uint64_t;
    static DEV uint64_t below(uint64_t u)
    {
        return u;
    }
    static DEV uint64_t most(uint64_t a, uint64_t b)
    {
        return int64_t(a) > int64_t(b) ? a : b;
    }
};
template <> struct order<type_int64> : order_64 {
};
template <> struct order<type_uint64> : order_64 {
};
template <> struct order<type_float64> : order_64 {
    static DEV uint64_t most(uint64_t a, uint64_t b)
    {
        return uint64_t(order_float(int64_t(a), int64_t(b), int64_t(0x7ff0000000000000)));
    }
};
template <> struct order<type_float32> : order<type_int32> {
    static DEV uint32_t most(uint32_t a, uint32_t b)
    {
#if NUMBER_ARCH
        float r;
        asm("max.NaN.f32 %0, %1, %2;"
            : "=f"(r)
            : "f"(number_bits<float>(a)), "f"(number_bits<float>(b)));
        return number_bits<uint32_t>(r);
#else
        return uint32_t(order_float(int32_t(a), int32_t(b), int32_t(0x7f800000)));
#endif
    }
};
template <> struct order<type_float16> : order<type_int16> {
    static DEV uint32_t most(uint32_t a, uint32_t b)
    {
        return order_float16x2(a, b);
    }
};
template <> struct order<type_bfloat16> : order<type_int16> {
    static DEV uint32_t most(uint32_t a, uint32_t b)
    {
        return order_bfloat16x2(a, b);
    }
};
/* With zeros below it is a float16. */
template <> struct order<type_float8_e5m2> : order<type_float16> {
    static DEV uint32_t below(uint32_t u)
    {
        return u & 0xff00ff00u;
    }
};
/* With ones below, NaN (0x7f) is a NaN of bfloat16 and 448 (0x7e) is a number. */
template <> struct order<type_float8_e4m3> : order<type_bfloat16> {
    static DEV uint32_t below(uint32_t u)
    {
        return u | 0x00ff00ffu;
    }
};

template <class T, bool MIN> struct accumulator_order {
    using unit = typename order<T>::unit;
    static constexpr int units = T::bytes == 1 ? 4 : T::bytes == 8 ? 1 : 2;
    static constexpr uint64_t signs = packed<T::bytes>::HIGH,
                              flip = (T::is_signed ? 0 : signs) ^ (!MIN          ? 0
                                                                   : T::floating ? signs
                                                                                 : ~uint64_t(0));
    unit part[units];
    static DEV void split(unit *u, uint64_t word)
    {
        word ^= flip;
        if constexpr (T::bytes == 8) {
            u[0] = word;
        } else if constexpr (T::bytes > 1) {
            u[0] = uint32_t(word), u[1] = uint32_t(word >> 32);
        } else {
            uint32_t low = uint32_t(word), high = uint32_t(word >> 32);
            u[0] = order<T>::below(low << 8), u[1] = order<T>::below(low);
            u[2] = order<T>::below(high << 8), u[3] = order<T>::below(high);
        }
    }
    DEV void start(uint64_t first)
    {
        split(part, first);
    }
    DEV void add(uint64_t next)
    {
        unit other[units];
        split(other, next);
        UNROLL
        for (int k = 0; k < units; k++)
            part[k] = order<T>::most(part[k], other[k]);
    }
    static DEV uint32_t join(uint32_t even, uint32_t odd)
    {
        return (even >> 8 & 0x00ff00ffu) | (odd & 0xff00ff00u);
    }
    DEV uint64_t finish() const
    {
        if constexpr (T::bytes == 8)
            return part[0] ^ flip;
        else if constexpr (T::bytes > 1)
            return (part[0] | uint64_t(part[1]) << 32) ^ flip;
        else
            return (join(part[0], part[1]) | uint64_t(join(part[2], part[3])) << 32) ^ flip;
    }
};
#endif
