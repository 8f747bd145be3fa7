/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair.cu: kernels of exchanges of short messages with one peer: choir_pair_words_<type>_<operation> and choir_pair_lines_...,
 * and ..._move where nothing is combined.
 */
#include "cuda/kernel/pair.cuh"

#define PAIR_KERNEL(form, name, T, OP)                                                             \
    extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 1)                                  \
        choir_pair_##form##_##name(const __grid_constant__ cuda_pair_call c)                       \
    {                                                                                              \
        uint32_t lanes = pair_lanes(c);                                                            \
        for (uint32_t lane = blockIdx.x; lane < lanes; lane += gridDim.x) {                        \
            if (lane != blockIdx.x)                                                                \
                __syncthreads();                                                                   \
            pair_flagged<T, OP, form##_form>(block{threadIdx.x, blockDim.x, lane}, c);             \
        }                                                                                          \
    }
#define PAIR_COMBINATION(type, op)                                                                 \
    PAIR_KERNEL(words, type##_##op, type_##type, op_##op)                                          \
    PAIR_KERNEL(lines, type##_##op, type_##type, op_##op)
CUDA_COMBINATIONS(PAIR_COMBINATION)
PAIR_KERNEL(words, move, type_uint8, op_bxor)
PAIR_KERNEL(lines, move, type_uint8, op_bxor)
