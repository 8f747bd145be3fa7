/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h: a CUDA stream as a choir_stream: the handle is the CUstream with its top bit set. No address of user space has that
 * bit, nor have the handles 0, 1 and 2 of the default streams, so nothing is allocated and nothing has to be freed.
 */
#ifndef CUDA_STREAM_H
#define CUDA_STREAM_H

#include "base/base.h"

struct CUstream_st;
_Static_assert(sizeof(uintptr_t) == 8, "the top bit of a handle must be free");
#define CUDA_STREAM_TAG ((uintptr_t)1 << 63)

static inline choir_stream *stream_of_cuda(struct CUstream_st *stream)
{
    return (choir_stream *)((uintptr_t)stream | CUDA_STREAM_TAG);
}
static inline bool stream_is_cuda(const choir_stream *stream)
{
    return ((uintptr_t)stream & CUDA_STREAM_TAG) != 0;
}
static inline struct CUstream_st *stream_cuda(const choir_stream *stream)
{
    return (struct CUstream_st *)((uintptr_t)stream & ~CUDA_STREAM_TAG);
}

#endif
