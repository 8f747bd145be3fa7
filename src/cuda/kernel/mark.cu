/* SPDX-License-Identifier: Apache-2.0 */
/* mark.cu: choir_mark, of one thread. */
#include "cuda/kernel/mark.cuh"

extern "C" __global__ void __launch_bounds__(1) choir_mark(const __grid_constant__ cuda_mark_call c)
{
    leave_mark(c);
}
