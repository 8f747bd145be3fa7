/* SPDX-License-Identifier: Apache-2.0 */
/*
 * absent.c: functions that the library looks up and that nothing here does. They take any arguments: a caller passes them in
 * registers and on its own stack, so that they need not be known.
 */
#include "tests/fake_cuda/fake.h"

/* Under the names that cuda.h gives them; it has declared them otherwise. */
#define ABSENT(name) ABSENT_OF(name)
#define ABSENT_OF(name) FAKE_API __typeof__(name) name __attribute__((alias("not_supported")));

CUresult not_supported(void);
CUresult not_supported(void)
{
    CUresult r = fake_ready();
    return r == CUDA_SUCCESS ? CUDA_ERROR_NOT_SUPPORTED : r;
}

#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wunknown-warning-option"
#pragma GCC diagnostic ignored "-Wattribute-alias"
ABSENT(cuStreamBatchMemOp)
