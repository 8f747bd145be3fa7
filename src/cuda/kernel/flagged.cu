/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flagged.cu: kernels of exchanges of short messages: choir_words_<type>_<operation> and choir_lines_..., and ..._move where
 * nothing is combined.
 */
#include "cuda/kernel/exchange.cuh"

#define FLAGGED_KERNEL(form, name, T, OP)                                                          \
    extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 1)                                  \
        choir_##form##_##name(const __grid_constant__ cuda_exchange_call c)                        \
    {                                                                                              \
        __shared__ exchange_shared s;                                                              \
        for (uint32_t lane = blockIdx.x; lane < c.what.lanes; lane += gridDim.x) {                 \
            if (lane != blockIdx.x)                                                                \
                __syncthreads();                                                                   \
            exchange_flagged<T, OP, form##_form>(block{threadIdx.x, blockDim.x, lane}, c, &s);     \
        }                                                                                          \
    }
#define FLAGGED_COMBINATION(type, op)                                                              \
    FLAGGED_KERNEL(words, type##_##op, type_##type, op_##op)                                       \
    FLAGGED_KERNEL(lines, type##_##op, type_##type, op_##op)
CUDA_COMBINATIONS(FLAGGED_COMBINATION)
FLAGGED_KERNEL(words, move, type_uint8, op_bxor)
FLAGGED_KERNEL(lines, move, type_uint8, op_bxor)
