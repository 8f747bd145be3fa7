/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_device.c on the fake driver. */
#include "tests/lib/fake.h"

int main(int argc, char **argv)
{
    (void)argc;
    return test_fake_exec("test_cuda_device", argv);
}
