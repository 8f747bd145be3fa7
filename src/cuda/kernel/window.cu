/* SPDX-License-Identifier: Apache-2.0 */
/* window.cu: choir_signal_raise and choir_signal_take, of one thread each. */
#include "cuda/kernel/window.cuh"

extern "C" {
__global__ void __launch_bounds__(1) choir_signal_raise(const __grid_constant__ cuda_raise_call c)
{
    signal_raise(c);
}

__global__ void __launch_bounds__(1) choir_signal_take(const __grid_constant__ cuda_take_call c)
{
    signal_take(c);
}
}
