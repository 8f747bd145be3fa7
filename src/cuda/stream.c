/* SPDX-License-Identifier: Apache-2.0 */
/* stream.c: waiting for a CUDA stream, and asking whether it is done. */
#include "cuda/driver.h"

enum choir_status cuda_stream_wait(struct CUstream_st *stream)
{
    const struct cuda_driver *cu = cuda_driver();
    if (!cu)
        return base_error_thread()->status;
    CUresult r = cu->cuStreamSynchronize(stream);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "cuStreamSynchronize");
}

enum choir_status cuda_stream_query(struct CUstream_st *stream)
{
    const struct cuda_driver *cu = cuda_driver();
    if (!cu)
        return base_error_thread()->status;
    CUresult r = cu->cuStreamQuery(stream);
    if (r == CUDA_ERROR_NOT_READY)
        return CHOIR_IN_PROGRESS;
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "cuStreamQuery");
}
