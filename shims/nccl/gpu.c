/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu.c: the CUDA device of a communicator, and device memory: a few functions of the CUDA driver, found at run time as Choir finds
 * them. NCCL takes the device that is current in the thread that calls; a job in another thread makes it current there.
 */
#include "shims/nccl/internal.h"
#include "cuda/cuda.h"
#include <dlfcn.h>
#include <string.h>

/* X(member, symbol, parameters); each returns a CUresult, 0 for success. */
#define DRIVER_LIST(X)                                                                             \
    X(init, "cuInit", (unsigned))                                                                  \
    X(current, "cuCtxGetCurrent", (void **))                                                       \
    X(current_device, "cuCtxGetDevice", (int *))                                                   \
    X(count, "cuDeviceGetCount", (int *))                                                          \
    X(device, "cuDeviceGet", (int *, int))                                                         \
    X(retain, "cuDevicePrimaryCtxRetain", (void **, int))                                          \
    X(push, "cuCtxPushCurrent_v2", (void *))                                                       \
    X(pop, "cuCtxPopCurrent_v2", (void **))                                                        \
    X(alloc, "cuMemAlloc_v2", (unsigned long long *, size_t))                                      \
    X(release, "cuMemFree_v2", (unsigned long long))

static struct {
#define DRIVER_MEMBER(member, symbol, parameters) int(*member) parameters;
    DRIVER_LIST(DRIVER_MEMBER)
#undef DRIVER_MEMBER
} driver;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool ready;

static void find(void)
{
    static const struct {
        const char *symbol;
        void *at;
    } row[] = {
#define DRIVER_ROW(member, symbol, parameters) {symbol, &driver.member},
        DRIVER_LIST(DRIVER_ROW)
#undef DRIVER_ROW
    };
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; library && i < base_count(row); i++) {
        void *f = dlsym(library, row[i].symbol);
        if (!f)
            return;
        memcpy(row[i].at, &f, sizeof(f));
    }
    ready = library && driver.init(0) == 0;
}

static ncclResult_t cuda_failed(const char *what, int code)
{
    return nccl_fail(ncclUnhandledCudaError, "%s: CUDA error %d", what, code);
}

static ncclResult_t need_driver(void)
{
    if (!cuda_driver()) {
        struct choir_error e = {.bytes = sizeof(e)};
        choir_comm_last_error(NULL, &e);
        return nccl_fail(ncclUnhandledCudaError,
                         "no GPU: %s; %s; CHOIR_NCCL_HOST=1 is for host memory", e.text, e.remedy);
    }
    pthread_once(&once, find);
    return ready ? ncclSuccess
                 : nccl_fail(ncclUnhandledCudaError,
                             "no GPU: the CUDA driver does not start; CHOIR_NCCL_HOST=1 is for "
                             "host memory");
}

ncclResult_t nccl_gpu_at(int ordinal, struct nccl_gpu *gpu)
{
    *gpu = (struct nccl_gpu){NULL, -1};
    if (nccl_on_host())
        return ncclSuccess;
    ncclResult_t r = need_driver();
    int count = 0, device = 0, code;
    if (r != ncclSuccess)
        return r;
    if ((code = driver.count(&count)))
        return cuda_failed("cuDeviceGetCount", code);
    if (ordinal < 0 || ordinal >= count)
        return nccl_fail(ncclInvalidArgument, "device %d is not in 0..%d", ordinal, count - 1);
    if ((code = driver.device(&device, ordinal)))
        return cuda_failed("cuDeviceGet", code);
    /* Kept, as the CUDA runtime of the program keeps it. */
    if ((code = driver.retain(&gpu->context, device)))
        return cuda_failed("cuDevicePrimaryCtxRetain", code);
    gpu->ordinal = ordinal;
    return ncclSuccess;
}

ncclResult_t nccl_gpu_here(struct nccl_gpu *gpu)
{
    *gpu = (struct nccl_gpu){NULL, -1};
    if (nccl_on_host())
        return ncclSuccess;
    ncclResult_t r = need_driver();
    int code;
    if (r != ncclSuccess)
        return r;
    if ((code = driver.current(&gpu->context)))
        return cuda_failed("cuCtxGetCurrent", code);
    if (!gpu->context)
        return nccl_gpu_at(0, gpu);
    if ((code = driver.current_device(&gpu->ordinal)))
        return cuda_failed("cuCtxGetDevice", code);
    return ncclSuccess;
}

ncclResult_t nccl_gpu_enter(const struct nccl_gpu *gpu)
{
    int code = gpu->context ? driver.push(gpu->context) : 0;
    return code ? cuda_failed("cuCtxPushCurrent", code) : ncclSuccess;
}

void nccl_gpu_leave(const struct nccl_gpu *gpu)
{
    void *popped;
    if (gpu->context)
        driver.pop(&popped);
}

ncclResult_t nccl_gpu_alloc(size_t bytes, void **memory)
{
    struct nccl_gpu gpu;
    unsigned long long at = 0;
    ncclResult_t r = nccl_gpu_here(&gpu);
    if (r == ncclSuccess)
        r = nccl_gpu_enter(&gpu);
    if (r != ncclSuccess)
        return r;
    int code = driver.alloc(&at, bytes);
    nccl_gpu_leave(&gpu);
    if (code)
        return cuda_failed("cuMemAlloc", code);
    *memory = (void *)(uintptr_t)at;
    return ncclSuccess;
}

ncclResult_t nccl_gpu_free(void *memory)
{
    struct nccl_gpu gpu;
    ncclResult_t r = nccl_gpu_here(&gpu);
    if (r == ncclSuccess)
        r = nccl_gpu_enter(&gpu);
    if (r != ncclSuccess)
        return r;
    int code = driver.release((uintptr_t)memory);
    nccl_gpu_leave(&gpu);
    return code ? nccl_fail(ncclInvalidArgument, "ncclMemFree: ptr is not memory of ncclMemAlloc")
                : ncclSuccess;
}
