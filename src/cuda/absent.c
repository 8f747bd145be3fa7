/* SPDX-License-Identifier: Apache-2.0 */
/* absent.c: all of cuda.h in a library that was built without the CUDA toolkit: every question has the answer "no". */
#include "cuda/cuda.h"
#include <stdio.h>

static enum choir_status absent(void)
{
    return base_fail(CHOIR_ERR_UNSUPPORTED,
                     "build with nvcc in PATH, or with CUDA_HOME set, see README.md",
                     "this library was built without CUDA");
}

const struct cuda_driver *cuda_driver(void)
{
    (void)absent();
    return NULL;
}

enum choir_status cuda_driver_init(void)
{
    return absent();
}

bool cuda_driver_in_use(void)
{
    return false;
}

enum choir_status cuda_device_of_pointer(const void *pointer, struct cuda_pointer *out)
{
    (void)pointer;
    *out = (struct cuda_pointer){.where = CUDA_HOST, .ordinal = -1};
    return CHOIR_OK;
}

enum choir_status cuda_stream_wait(struct CUstream_st *stream)
{
    (void)stream;
    return absent();
}

enum choir_status cuda_stream_query(struct CUstream_st *stream)
{
    (void)stream;
    return absent();
}

const struct cuda_image *cuda_image_at(uint32_t index)
{
    (void)index;
    return NULL;
}

const char *cuda_image_archs(void)
{
    return "";
}

void cuda_print(void *file)
{
    fprintf(file, "no GPU: this library was built without CUDA\n");
}
