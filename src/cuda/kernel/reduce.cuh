/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reduce.cuh: type x operation for the kernels, a word of 8 bytes at a time: 8 / T::bytes elements, little
 * endian, one register pair, no memory. The bits are src/reduce's (reduce.h says which);
 * tests/test_cuda_reduce.cc holds them to it.
 *
 * accumulator<T, OP> combines sources in the order they come and rounds once, in finish. With start alone it
 * is a copy, NaN and all. Where at least one add is sure to follow (a loop that runs once or more), the
 * compiler drops what is kept for that.
 * Which pairs exist is CUDA_COMBINATIONS; average is sum, then divide_word with the type of the call.
 */
#ifndef CUDA_KERNEL_REDUCE_CUH
#define CUDA_KERNEL_REDUCE_CUH

#include "cuda/combination.h"
#include "cuda/kernel/number.cuh"
#include "cuda/kernel/order.cuh"
#include "cuda/kernel/small.cuh"

/* --- integers without order or product: all elements of the word at once ----------------------- */
struct op_sum {
    template <int BYTES> static DEV uint64_t apply(uint64_t a, uint64_t b)
    {
        return packed<BYTES>::add(a, b);
    }
    template <class V> static DEV V apply(V a, V b)
    {
        return number_add(a, b);
    }
};
struct op_prod {
    template <class V> static DEV V apply(V a, V b)
    {
        return number_multiply(a, b);
    }
};
struct op_min {
};
struct op_max {
};
struct op_band {
    template <int> static DEV uint64_t apply(uint64_t a, uint64_t b)
    {
        return a & b;
    }
};
struct op_bor {
    template <int> static DEV uint64_t apply(uint64_t a, uint64_t b)
    {
        return a | b;
    }
};
struct op_bxor {
    template <int> static DEV uint64_t apply(uint64_t a, uint64_t b)
    {
        return a ^ b;
    }
};
/* Truth of a truth is itself, so a is one of either: the first source or what came of the others. */
struct op_land {
    template <int BYTES> static DEV uint64_t apply(uint64_t a, uint64_t b)
    {
        return packed<BYTES>::truth(a) & packed<BYTES>::truth(b);
    }
};
struct op_lor {
    template <int BYTES> static DEV uint64_t apply(uint64_t a, uint64_t b)
    {
        return packed<BYTES>::truth(a | b);
    }
};
struct op_lxor {
    template <int BYTES> static DEV uint64_t apply(uint64_t a, uint64_t b)
    {
        return packed<BYTES>::truth(a) ^ packed<BYTES>::truth(b);
    }
};

template <class T, class OP, bool FLOATING> struct accumulator_by {
    uint64_t word;
    DEV void start(uint64_t first)
    {
        word = first;
    }
    DEV void add(uint64_t next)
    {
        word = OP::template apply<T::bytes>(word, next);
    }
    DEV uint64_t finish() const
    {
        return word;
    }
};

/* Products of integers: the low bits of a product are those of its factors, so nothing is masked before the
 * end. */
template <class T> struct accumulator_by<T, op_prod, false> {
    using wrapping = typename T::wrapping;
    wrapping part[T::lanes];
    DEV void start(uint64_t first)
    {
        UNROLL
        for (int k = 0; k < T::lanes; k++)
            part[k] = wrapping(first >> (8 * T::bytes * k));
    }
    DEV void add(uint64_t next)
    {
        UNROLL
        for (int k = 0; k < T::lanes; k++)
            part[k] *= wrapping(next >> (8 * T::bytes * k));
    }
    DEV uint64_t finish() const
    {
        uint64_t word = 0;
        UNROLL
        for (int k = 0; k < T::lanes; k++)
            word |= (part[k] & packed<T::bytes>::MASK) << (8 * T::bytes * k);
        return word;
    }
};

/* --- sums and products of floats ---------------------------------------------------------------- */
template <class T, class OP> struct accumulator_by<T, OP, true> {
    typename T::value part[T::lanes];
    uint64_t only; /* the first word, while there is no other */
    bool alone;
    DEV void start(uint64_t first)
    {
        only = first;
        alone = true;
        T::widen(part, first);
    }
    DEV void add(uint64_t next)
    {
        typename T::value other[T::lanes];
        T::widen(other, next);
        alone = false;
        UNROLL
        for (int k = 0; k < T::lanes; k++)
            part[k] = OP::apply(part[k], other[k]);
    }
    DEV uint64_t finish() const
    {
        return alone ? only : T::narrow(part);
    }
};

/* --- all of them ---------------------------------------------------------------------------------- */
template <class T> struct accumulator_by<T, op_min, false> : accumulator_order<T, true> {
};
template <class T> struct accumulator_by<T, op_max, false> : accumulator_order<T, false> {
};
template <class T> struct accumulator_by<T, op_min, true> : accumulator_order<T, true> {
};
template <class T> struct accumulator_by<T, op_max, true> : accumulator_order<T, false> {
};

template <class T, class OP> struct accumulator : accumulator_by<T, OP, T::floating> {
};

/* --- one source and a number -------------------------------------------------------------------- */
/* x / n toward zero. Up to 32 bits the sizes are divided, without the sign: the device has no quick division
 * of 64 bits. */
template <class T> DEV uint64_t divide_integer(typename T::value x, uint32_t n)
{
    if constexpr (T::bytes == 8) {
        return T::store(x / typename T::value(n));
    } else {
        bool negative = T::is_signed && int32_t(x) < 0;
        uint32_t size = negative ? 0u - uint32_t(x) : uint32_t(x), quotient = size / n;
        return (negative ? 0u - quotient : quotient) & packed<T::bytes>::MASK;
    }
}
/* Each element divided by n > 0: floats rounded (in float32 for 8 and 16 bits), integers toward zero. */
template <class T> DEV uint64_t divide_word(uint64_t word, uint32_t n)
{
    using V = typename T::value;
    if constexpr (T::floating) {
        V v[T::lanes], by = V(n);
        T::widen(v, word);
        if (n & (n - 1)) {
            UNROLL
            for (int k = 0; k < T::lanes; k++)
                v[k] = number_divide(v[k], by);
        } else { /* the reciprocal of a power of two is exact: a product gives the same bits */
            V part = number_divide(V(1), by);
            UNROLL
            for (int k = 0; k < T::lanes; k++)
                v[k] = number_multiply(v[k], part);
        }
        return T::narrow(v);
    } else {
        uint64_t quotients = 0;
        UNROLL
        for (int k = 0; k < T::lanes; k++)
            quotients |= divide_integer<T>(T::load(word >> (8 * T::bytes * k)), n)
                         << (8 * T::bytes * k);
        return quotients;
    }
}

/* Each element times the one in the low bits of scalar_bits. */
template <class T> DEV uint64_t scale_word(uint64_t word, uint64_t scalar_bits)
{
    accumulator<T, op_prod> product;
    product.start(word);
    product.add(packed<T::bytes>::spread(scalar_bits));
    return product.finish();
}

#endif
