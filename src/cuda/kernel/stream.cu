/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.cu: kernels of exchanges of long messages: choir_stream_<type>_<operation>, and choir_stream_move where nothing is
 * combined. The first half of a block's threads sends, the second receives, each in teams. A block takes every
 * gridDim.x-th lane.
 */
#include "cuda/kernel/stream.cuh"

#define STREAM_KERNEL(name, T, OP, K)                                                              \
    extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 1)                                  \
        choir_stream_##name(const __grid_constant__ cuda_exchange_call c)                          \
    {                                                                                              \
        __shared__ stream_shared s;                                                                \
        exchange_stream<T, OP, K>(block{threadIdx.x, blockDim.x, blockIdx.x},                      \
                                  stream_lanes_of(c, blockIdx.x, gridDim.x), c, &s);               \
    }
#define STREAM_COMBINATION(type, op) STREAM_KERNEL(type##_##op, type_##type, op_##op, STREAM_UNROLL)
CUDA_COMBINATIONS(STREAM_COMBINATION)
STREAM_KERNEL(move, type_uint8, op_bxor, STREAM_MOVES)
