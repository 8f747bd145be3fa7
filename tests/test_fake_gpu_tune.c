/* SPDX-License-Identifier: Apache-2.0 */
/* tests/gpu/test_gpu_tune.c on the fake driver: four GPUs, whose kernels take what their messages say. */
#include "tests/lib/fake.h"
#include <stdlib.h>

int main(int argc, char **argv)
{
    (void)argc;
    setenv("FAKE_CUDA_GPUS", "4", 1);
    setenv("FAKE_CUDA_CLOCK", "2000:200:3500", 1);
    setenv("FAKE_CUDA_BLOCKS", "1", 1);
    setenv("FAKE_CUDA_THREADS", "2", 1);
    return test_fake_exec("test_gpu_tune", argv);
}
