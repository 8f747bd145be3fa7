/* SPDX-License-Identifier: Apache-2.0 */
/* tests/gpu/test_gpu_streams.c on the fake driver. */
#include "tests/lib/fake.h"

int main(int argc, char **argv)
{
    (void)argc;
    return test_fake_exec("test_gpu_streams", argv);
}
