/* SPDX-License-Identifier: Apache-2.0 */
/*
 * epilogue.cu: what a plan's kernel leaves to others: choir_divide_<type> divides a buffer in place by n (the average),
 * choir_scale_<type> writes `from` times *scale, or `by` if that is NULL, to `to` (which may be `from`). `bytes` of any
 * alignment; any grid.
 */
#include "cuda/kernel/common.cuh"
#include "cuda/kernel/reduce.cuh"

#define EPILOGUE_EACH(at, bytes)                                                                   \
    for (uint64_t at = 8 * ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x); at < bytes;          \
         at += 8 * (uint64_t)gridDim.x * blockDim.x)

#define EPILOGUE_KERNELS(type, value)                                                              \
    extern "C" __global__ void __launch_bounds__(CUDA_THREADS)                                     \
        choir_divide_##type(uint8_t *data, uint64_t bytes, uint32_t n)                             \
    {                                                                                              \
        EPILOGUE_EACH(at, bytes)                                                                   \
        store_word(data + at, divide_word<type_##type>(load_word(data + at, bytes - at), n),       \
                   bytes - at);                                                                    \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(CUDA_THREADS) choir_scale_##type(                 \
        uint8_t *to, const uint8_t *from, uint64_t bytes, const uint8_t *scale, uint64_t by)       \
    {                                                                                              \
        by = scale ? load_word(scale, type_##type::bytes) : by;                                    \
        EPILOGUE_EACH(at, bytes)                                                                   \
        store_word(to + at, scale_word<type_##type>(load_word(from + at, bytes - at), by),         \
                   bytes - at);                                                                    \
    }
CUDA_TYPES(EPILOGUE_KERNELS)
