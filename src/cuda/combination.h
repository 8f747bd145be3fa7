/* SPDX-License-Identifier: Apache-2.0 */
/*
 * combination.h: which pairs of type and operation have a kernel of their own, for the host that picks one
 * and for the device code that is made once per pair. Plain C and C++.
 *
 * Pairs that compute the same bits share a kernel: signed integers use the unsigned ones' but for min and
 * max, and AVG is the sum (its division comes after, by the call's own type: divide_word of reduce.cuh).
 */
#ifndef CUDA_COMBINATION_H
#define CUDA_COMBINATION_H

#include "choir.h"
#include <stddef.h>
#include <stdint.h>

/* X(name, value): the lower-case names that type_<name> of number.cuh and the names of kernels carry. */
#define CUDA_TYPES(X)                                                                              \
    X(int8, CHOIR_INT8)                                                                            \
    X(uint8, CHOIR_UINT8)                                                                          \
    X(int16, CHOIR_INT16)                                                                          \
    X(uint16, CHOIR_UINT16)                                                                        \
    X(int32, CHOIR_INT32)                                                                          \
    X(uint32, CHOIR_UINT32)                                                                        \
    X(int64, CHOIR_INT64)                                                                          \
    X(uint64, CHOIR_UINT64)                                                                        \
    X(float16, CHOIR_FLOAT16)                                                                      \
    X(bfloat16, CHOIR_BFLOAT16)                                                                    \
    X(float32, CHOIR_FLOAT32)                                                                      \
    X(float64, CHOIR_FLOAT64)                                                                      \
    X(float8_e4m3, CHOIR_FLOAT8_E4M3)                                                              \
    X(float8_e5m2, CHOIR_FLOAT8_E5M2)

/* X(type, op): every pair that has a kernel. */
#define CUDA_COMBINATIONS_ORDER(X, type) X(type, min) X(type, max)
#define CUDA_COMBINATIONS_FLOAT(X, type) X(type, sum) X(type, prod) CUDA_COMBINATIONS_ORDER(X, type)
#define CUDA_COMBINATIONS_INTEGER(X, type)                                                         \
    CUDA_COMBINATIONS_FLOAT(X, type)                                                               \
    X(type, band) X(type, bor) X(type, bxor) X(type, land) X(type, lor) X(type, lxor)
#ifdef CUDA_FEW /* make NVCCFLAGS=-DCUDA_FEW: compiled in seconds, for work on kernels */
#define CUDA_COMBINATIONS(X) X(float32, sum) X(bfloat16, sum)
#else
#define CUDA_COMBINATIONS(X)                                                                       \
    CUDA_COMBINATIONS_ORDER(X, int8)                                                               \
    CUDA_COMBINATIONS_INTEGER(X, uint8)                                                            \
    CUDA_COMBINATIONS_ORDER(X, int16)                                                              \
    CUDA_COMBINATIONS_INTEGER(X, uint16)                                                           \
    CUDA_COMBINATIONS_ORDER(X, int32)                                                              \
    CUDA_COMBINATIONS_INTEGER(X, uint32)                                                           \
    CUDA_COMBINATIONS_ORDER(X, int64)                                                              \
    CUDA_COMBINATIONS_INTEGER(X, uint64)                                                           \
    CUDA_COMBINATIONS_FLOAT(X, float16)                                                            \
    CUDA_COMBINATIONS_FLOAT(X, bfloat16)                                                           \
    CUDA_COMBINATIONS_FLOAT(X, float32)                                                            \
    CUDA_COMBINATIONS_FLOAT(X, float64)                                                            \
    CUDA_COMBINATIONS_FLOAT(X, float8_e4m3)                                                        \
    CUDA_COMBINATIONS_FLOAT(X, float8_e5m2)

#endif

/* The enumerators again under the names that X gets. */
enum cuda_type {
#define CUDA_TYPE(name, value) CUDA_TYPE_##name = value,
    CUDA_TYPES(CUDA_TYPE)
#undef CUDA_TYPE
};
enum cuda_op {
    CUDA_OP_sum = CHOIR_SUM,
    CUDA_OP_prod = CHOIR_PROD,
    CUDA_OP_min = CHOIR_MIN,
    CUDA_OP_max = CHOIR_MAX,
    CUDA_OP_band = CHOIR_BAND,
    CUDA_OP_bor = CHOIR_BOR,
    CUDA_OP_bxor = CHOIR_BXOR,
    CUDA_OP_land = CHOIR_LAND,
    CUDA_OP_lor = CHOIR_LOR,
    CUDA_OP_lxor = CHOIR_LXOR
};

struct cuda_combination {
    enum choir_type type;
    choir_op op;
    const char *suffix; /* of the kernel's name, "uint32_sum" */
};

/* The type whose kernels serve this one too, but for min, max and the division. */
static inline enum choir_type cuda_combination_unsigned(enum choir_type type)
{
    switch (type) {
    case CHOIR_INT8:
        return CHOIR_UINT8;
    case CHOIR_INT16:
        return CHOIR_UINT16;
    case CHOIR_INT32:
        return CHOIR_UINT32;
    case CHOIR_INT64:
        return CHOIR_UINT64;
    default:
        return type;
    }
}

/* The pair whose kernel computes this one, or NULL where the operation is not defined for the type. A search:
 * for when a plan is bound, not for every call. */
static inline const struct cuda_combination *cuda_combination_find(enum choir_type type,
                                                                   choir_op op)
{
    static const struct cuda_combination all[] = {
#define CUDA_ROW(t, o) {(enum choir_type)CUDA_TYPE_##t, CUDA_OP_##o, #t "_" #o},
        CUDA_COMBINATIONS(CUDA_ROW)
#undef CUDA_ROW
    };
    if (op == CHOIR_AVG)
        op = CHOIR_SUM;
    if (op != CHOIR_MIN && op != CHOIR_MAX)
        type = cuda_combination_unsigned(type);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (all[i].type == type && all[i].op == op)
            return &all[i];
    return NULL;
}
#define CUDA_CANONICAL(type, op) cuda_combination_find(type, op)

#endif
