/* SPDX-License-Identifier: Apache-2.0 */
/* stream.c: waiting for a CUDA stream, and asking whether it is done, or captured; keeping out of captures. */
#include "cuda/device.h"

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

enum choir_status cuda_device_capturing(const struct cuda_device *device, CUstream stream,
                                        bool *capturing)
{
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    enum choir_status st = cuda_device_enter(device);
    if (st != CHOIR_OK)
        return st;
    CUresult r = cuda_driver()->cuStreamIsCapturing(stream, &status);
    cuda_device_leave(device);
    if (r == CUDA_SUCCESS && status == CU_STREAM_CAPTURE_STATUS_INVALIDATED)
        r = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *capturing = status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "cuStreamIsCapturing");
}

enum choir_status cuda_device_begin(const struct cuda_device *device, CUstreamCaptureMode *mode)
{
    enum choir_status st = cuda_device_enter(device);
    *mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    if (st == CHOIR_OK)
        cuda_driver()->cuThreadExchangeStreamCaptureMode(mode);
    return st;
}

void cuda_device_end(const struct cuda_device *device, CUstreamCaptureMode *mode)
{
    cuda_driver()->cuThreadExchangeStreamCaptureMode(mode);
    cuda_device_leave(device);
}
