/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choir_cuda.h: collectives on CUDA streams and device memory.
 *
 * It needs no CUDA header, and the library is not linked with CUDA: the driver (libcuda.so.1, 12.0 or newer) is found at run
 * time; where there is none, host calls work as ever. Everything else about the calls is in choir.h.
 *
 * A call is a device call if its stream is a CUDA stream, or if it has no stream and one of its buffers is device memory: then
 * it is on the legacy default stream. All ranks of a collective make the same kind of call.
 *   - A device call returns at once, when it is queued. Its result is there, and its buffers may be used again, when the
 *     stream has passed it (cudaStreamSynchronize, an event).
 *   - Buffers of a device call are device memory of the current device or of one that it can reach, or host memory that CUDA
 *     allocated or registered. Other host memory (malloc) and managed memory (cudaMallocManaged) are refused.
 *   - Device memory on a host stream (choir_stream_create) is an error: CHOIR_ERR_POINTER.
 *   - The device is the calling thread's current one (cudaSetDevice); the stream is one of it.
 *   - After fork the child can make no device call, as it can make none of CUDA.
 * This version has no device engine yet: every device call is refused with CHOIR_ERR_UNSUPPORTED.
 */
#ifndef CHOIR_CUDA_H
#define CHOIR_CUDA_H

#include "choir.h"

#ifdef __cplusplus
extern "C" {
#endif

struct CUstream_st; /* CUstream and cudaStream_t are pointers to it */

/*
 * A CUDA stream as the stream argument of any call of choir.h. Nothing is allocated and nothing has to be freed: the
 * same CUDA stream always gives the same handle.
 * stream: a CUstream or cudaStream_t, also 0 and the handles of the default streams (cudaStreamLegacy,
 *   cudaStreamPerThread). It exists as long as the handle is used. Returns the handle, never NULL.
 *   choir_stream_wait and choir_stream_query of it are cudaStreamSynchronize and cudaStreamQuery;
 *   choir_stream_destroy leaves it as it is; choir events are of host streams only (cudaEventRecord,
 *   cudaStreamWaitEvent).
 * Ordering: local. Threads: any.
 * Errors: none. Of calls with the handle: CHOIR_ERR_UNSUPPORTED there is no CUDA driver, or no kernel of
 *   this library for the device; CHOIR_ERR_FORKED the parent process used CUDA; CHOIR_ERR_SYSTEM an error
 *   of CUDA, named in the record.
 * Cost: none. Source: NCCL's stream arguments. Since: 0.1.
 */
CHOIR_API choir_stream *choir_stream_from_cuda(struct CUstream_st *stream);

#ifdef __cplusplus
}
#endif
#endif
