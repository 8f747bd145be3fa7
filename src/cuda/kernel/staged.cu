/* SPDX-License-Identifier: Apache-2.0 */
/* staged.cu: choir_staged_post and choir_staged_wait, of one thread each. */
#include "cuda/kernel/staged.cuh"

extern "C" {
__global__ void __launch_bounds__(1) choir_staged_post(const __grid_constant__ cuda_post_call c)
{
    staged_post(c);
}

__global__ void __launch_bounds__(1) choir_staged_wait(const __grid_constant__ cuda_wait_call c)
{
    staged_wait(c);
}
}
