/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.cu: kernels of exchanges of long messages: choir_stream_<type>_<operation>, and choir_stream_move where nothing is
 * combined. The first half of a block's threads sends, the second receives.
 */
#include "cuda/kernel/stream.cuh"

#define STREAM_KERNEL(name, T, OP)                                                                 \
    extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 1)                                  \
        choir_stream_##name(const __grid_constant__ cuda_exchange_call c)                          \
    {                                                                                              \
        __shared__ stream_shared s;                                                                \
        uint32_t part = blockDim.x / 2, second = threadIdx.x >= part;                              \
        half h = {threadIdx.x - second * part, part, 1 + second};                                  \
        for (uint32_t lane = blockIdx.x; lane < c.what.lanes; lane += gridDim.x) {                 \
            if (lane != blockIdx.x)                                                                \
                __syncthreads();                                                                   \
            exchange_stream<T, OP>(block{threadIdx.x, blockDim.x, lane}, h, c, &s);                \
        }                                                                                          \
    }
#define STREAM_COMBINATION(type, op) STREAM_KERNEL(type##_##op, type_##type, op_##op)
CUDA_COMBINATIONS(STREAM_COMBINATION)
STREAM_KERNEL(move, type_uint8, op_bxor)
