/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plan.cu: kernels that run any plan: choir_plan_<type>_<operation>, and choir_plan_move where nothing is combined.
 */
#include "cuda/kernel/plan.cuh"

#define PLAN_KERNEL(name, T, OP)                                                                   \
    extern "C" __global__ void __launch_bounds__(CUDA_THREADS, 1)                                  \
        choir_plan_##name(const __grid_constant__ cuda_plan_call c)                                \
    {                                                                                              \
        __shared__ plan_shared s;                                                                  \
        for (uint32_t lane = blockIdx.x; lane < c.plan.window; lane += gridDim.x) {                \
            if (lane != blockIdx.x)                                                                \
                __syncthreads();                                                                   \
            plan_lane_run<T, OP>(block{threadIdx.x, blockDim.x, lane}, c, &s);                     \
        }                                                                                          \
    }
#define PLAN_COMBINATION(type, op) PLAN_KERNEL(type##_##op, type_##type, op_##op)
CUDA_COMBINATIONS(PLAN_COMBINATION)
PLAN_KERNEL(move, type_uint8, op_bxor)
