/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.h: the functions of the CUDA driver that this library calls, by the names of its manual. The library is not linked with
 * libcuda: driver.c finds them at run time, so that one binary starts with and without a GPU. Needs the toolkit's headers.
 *
 * cuda.h renames functions to their versions (cuMemAlloc is cuMemAlloc_v2); the lists below are expanded after that, so name,
 * symbol and signature always fit each other. Nothing here is of multicast objects or managed memory, and nothing may be.
 */
#ifndef CUDA_DRIVER_H
#define CUDA_DRIVER_H

#include "cuda/cuda.h"
#include <cuda.h>

#if CUDA_VERSION < 12000
#error "CUDA 12.0 or newer is needed; make NVCC= builds the library without CUDA"
#endif

/* clang-format off */
#define CUDA_DRIVER_LIST(X)                                                                        \
    X(cuInit) X(cuDriverGetVersion) X(cuGetErrorName) X(cuGetErrorString)                          \
    X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetAttribute) X(cuDeviceGetUuid)                  \
    X(cuDeviceGetName) X(cuDeviceGetPCIBusId) X(cuDeviceCanAccessPeer) X(cuDeviceGetP2PAttribute)  \
    X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease) X(cuDevicePrimaryCtxGetState)         \
    X(cuCtxGetCurrent) X(cuCtxSetCurrent) X(cuCtxPushCurrent) X(cuCtxPopCurrent) X(cuCtxGetDevice) \
    X(cuCtxGetId) X(cuCtxEnablePeerAccess) X(cuCtxSynchronize) X(cuCtxGetStreamPriorityRange)      \
    X(cuMemAlloc) X(cuMemFree) X(cuMemGetInfo) X(cuMemHostAlloc) X(cuMemFreeHost)                  \
    X(cuMemHostGetDevicePointer)                                                                   \
    X(cuMemHostRegister) X(cuMemHostUnregister) X(cuMemcpy2DAsync)                                 \
    X(cuMemcpyAsync) X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync) X(cuMemcpyDtoDAsync)                \
    X(cuMemsetD8Async) X(cuMemsetD32Async)                                                         \
    X(cuStreamCreateWithPriority) X(cuStreamDestroy) X(cuStreamSynchronize) X(cuStreamQuery)       \
    X(cuStreamGetCtx) X(cuStreamIsCapturing) X(cuThreadExchangeStreamCaptureMode)                  \
    X(cuStreamWaitEvent) X(cuStreamWriteValue32) X(cuStreamWriteValue64)                           \
    X(cuStreamWaitValue32) X(cuStreamWaitValue64)                                                  \
    X(cuStreamBeginCapture) X(cuStreamEndCapture) X(cuGraphInstantiate) X(cuGraphLaunch)           \
    X(cuGraphExecDestroy) X(cuGraphDestroy)                                                        \
    X(cuEventCreate) X(cuEventRecord) X(cuEventQuery) X(cuEventDestroy) X(cuEventSynchronize)      \
    X(cuModuleLoadData) X(cuModuleGetFunction) X(cuModuleGetGlobal) X(cuModuleUnload)              \
    X(cuFuncSetAttribute) X(cuLaunchKernel) X(cuLaunchKernelEx)                                    \
    X(cuPointerGetAttribute) X(cuPointerGetAttributes) X(cuMemGetAddressRange)                     \
    X(cuIpcGetMemHandle) X(cuIpcOpenMemHandle) X(cuIpcCloseMemHandle)                              \
    X(cuMemCreate) X(cuMemRelease) X(cuMemAddressReserve) X(cuMemAddressFree) X(cuMemMap)          \
    X(cuMemUnmap) X(cuMemSetAccess) X(cuMemExportToShareableHandle)                                \
    X(cuMemImportFromShareableHandle) X(cuMemRetainAllocationHandle)                               \
    X(cuMemGetAllocationPropertiesFromHandle) X(cuMemGetAllocationGranularity)

/* X(member, symbol, needed, signature): those whose signature, or presence, depends on the toolkit's release. */
#define CUDA_DRIVER_VERSIONED(X)                                                                   \
    /* without the data of edges, which came with 12.3 */                                          \
    X(cuStreamGetCaptureInfo, "cuStreamGetCaptureInfo_v2", true,                                   \
      (CUstream, CUstreamCaptureStatus *, cuuint64_t *, CUgraph *, const CUgraphNode **, size_t *))\
    X(cuFuncLoad, "cuFuncLoad", false, (CUfunction)) /* these three: 12.4 */                       \
    X(cuModuleGetFunctionCount, "cuModuleGetFunctionCount", false, (unsigned *, CUmodule))         \
    X(cuModuleEnumerateFunctions, "cuModuleEnumerateFunctions", false,                             \
      (CUfunction *, unsigned, CUmodule))                                                          \
    /* 12.8 has a second version, which older drivers lack */                                      \
    X(cuEventElapsedTime, "cuEventElapsedTime", true, (float *, CUevent, CUevent))
/* clang-format on */

struct cuda_driver {
#define CUDA_DRIVER_MEMBER(name) __typeof__(name) *name;
#define CUDA_DRIVER_MEMBER_VERSIONED(name, symbol, needed, signature)                              \
    CUresult(CUDAAPI *name) signature; /* NULL if not needed and not there */
    CUDA_DRIVER_LIST(CUDA_DRIVER_MEMBER)
    CUDA_DRIVER_VERSIONED(CUDA_DRIVER_MEMBER_VERSIONED)
#undef CUDA_DRIVER_MEMBER
#undef CUDA_DRIVER_MEMBER_VERSIONED
};

/* Fills this thread's record with the driver's name of the error and a remedy; what: "cuMemAlloc of 64 MiB". Returns a status
 * that fits. */
enum choir_status cuda_fail(CUresult result, const char *what);

#endif
