/* SPDX-License-Identifier: Apache-2.0 */
/* error.c: names of errors. */
#include "tests/fake_cuda/fake.h"

/* clang-format off */
static const struct {
    CUresult result;
    const char *name;
} list[] = {
#define ROW(name) {name, #name},
    ROW(CUDA_SUCCESS) ROW(CUDA_ERROR_INVALID_VALUE) ROW(CUDA_ERROR_OUT_OF_MEMORY)
    ROW(CUDA_ERROR_NOT_INITIALIZED) ROW(CUDA_ERROR_NO_DEVICE) ROW(CUDA_ERROR_INVALID_DEVICE)
    ROW(CUDA_ERROR_INVALID_CONTEXT) ROW(CUDA_ERROR_INVALID_HANDLE)
    ROW(CUDA_ERROR_ILLEGAL_STATE) ROW(CUDA_ERROR_NOT_FOUND) ROW(CUDA_ERROR_NOT_READY)
    ROW(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES) ROW(CUDA_ERROR_NOT_PERMITTED)
    ROW(CUDA_ERROR_NOT_SUPPORTED) ROW(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)
    ROW(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED)
    ROW(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED)
    ROW(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
    ROW(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
    ROW(CUDA_ERROR_STREAM_CAPTURE_MERGE)
    ROW(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED)
    ROW(CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
    ROW(CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
    ROW(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD)
    ROW(CUDA_ERROR_CAPTURED_EVENT)
};
/* clang-format on */

FAKE_API CUresult cuGetErrorName(CUresult result, const char **name)
{
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        if (list[i].result == result) {
            *name = list[i].name;
            return CUDA_SUCCESS;
        }
    *name = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}

FAKE_API CUresult cuGetErrorString(CUresult result, const char **text)
{
    *text = "as the fake driver says";
    return result == CUDA_SUCCESS ? CUDA_SUCCESS : cuGetErrorName(result, &(const char *){NULL});
}
