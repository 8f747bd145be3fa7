/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu.c: the GPU of a rank, through the driver that src/cuda finds at run time. Compiled with PERF_CUDA where the toolkit's header
 * is; else there is no GPU.
 */
#include "perf/lib/gpu.h"
#include "cuda/cuda.h"

#ifndef PERF_CUDA
const struct perf_gpu_calls *perf_gpu_find(const char *program)
{
    fprintf(
        stderr,
        "%s: --memory cuda: built without CUDA; build with nvcc in PATH, or with CUDA_HOME set\n",
        program);
    return NULL;
}
#else
#include "cuda/driver.h"
#include <stdlib.h>
#include <string.h>

#define GRANULE ((size_t)2 << 20) /* of a handle: smaller allocations share one */

struct perf_gpu {
    struct perf_thread *thread;
    const struct cuda_driver *cu;
    int ordinal;
    CUdevice device;
    CUcontext context;
    CUstream stream;
    char name[96];
    CUevent *mark;
    size_t marks;
};

static void must(const struct perf_gpu *g, CUresult r, const char *what)
{
    if (base_unlikely(r != CUDA_SUCCESS))
        perf_check(g->thread, NULL, cuda_fail(r, what), "--memory cuda");
}

static CUdeviceptr pointer(const void *memory)
{
    return (CUdeviceptr)(uintptr_t)memory;
}

/* --- life ----------------------------------------------------------------------------------------- */
static void use(const struct perf_gpu *g)
{
    must(g, g->cu->cuCtxSetCurrent(g->context), "cuCtxSetCurrent");
}

static struct perf_gpu *gpu_open(struct perf_thread *t, uint32_t local_rank)
{
    struct perf_gpu *g = calloc(1, sizeof(*g));
    int n = 0;
    choir_assert(g);
    g->thread = t;
    perf_check(t, NULL, cuda_driver_init(), "--memory cuda");
    g->cu = cuda_driver();
    must(g, g->cu->cuDeviceGetCount(&n), "cuDeviceGetCount");
    must(g, n > 0 ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE, "cuDeviceGetCount");
    g->ordinal = (int)(local_rank % (uint32_t)n);
    must(g, g->cu->cuDeviceGet(&g->device, g->ordinal), "cuDeviceGet");
    must(g, g->cu->cuDeviceGetName(g->name, (int)sizeof(g->name), g->device), "cuDeviceGetName");
    must(g, g->cu->cuDevicePrimaryCtxRetain(&g->context, g->device), "cuDevicePrimaryCtxRetain");
    use(g);
    must(g, g->cu->cuStreamCreateWithPriority(&g->stream, CU_STREAM_NON_BLOCKING, 0),
         "cuStreamCreateWithPriority");
    g->marks = perf_samples(t->job->args) + 1;
    g->mark = calloc(g->marks, sizeof(*g->mark));
    choir_assert(g->mark);
    for (size_t i = 0; i < g->marks; i++)
        must(g, g->cu->cuEventCreate(&g->mark[i], CU_EVENT_DEFAULT), "cuEventCreate");
    return g;
}

static void gpu_close(struct perf_gpu *g)
{
    use(g);
    for (size_t i = 0; i < g->marks; i++)
        must(g, g->cu->cuEventDestroy(g->mark[i]), "cuEventDestroy");
    must(g, g->cu->cuStreamDestroy(g->stream), "cuStreamDestroy");
    must(g, g->cu->cuDevicePrimaryCtxRelease(g->device), "cuDevicePrimaryCtxRelease");
    free(g->mark);
    free(g);
}

static struct CUstream_st *stream(const struct perf_gpu *g)
{
    return g->stream;
}

static int ordinal(const struct perf_gpu *g)
{
    return g->ordinal;
}

static const char *name(const struct perf_gpu *g)
{
    return g->name;
}

/* --- memory ----------------------------------------------------------------------------------------- */
static void gpu_wait(struct perf_gpu *g)
{
    must(g, g->cu->cuStreamSynchronize(g->stream), "cuStreamSynchronize");
}

static void *gpu_alloc(struct perf_gpu *g, size_t bytes)
{
    char what[80];
    CUdeviceptr memory = 0;
    use(g);
    bytes = (bytes + GRANULE - 1) / GRANULE * GRANULE;
    snprintf(what, sizeof(what), "cuMemAlloc of %zu bytes (a smaller -e needs less)", bytes);
    must(g, g->cu->cuMemAlloc(&memory, bytes), what);
    must(g, g->cu->cuMemsetD8Async(memory, 0, bytes, g->stream), "cuMemsetD8Async");
    gpu_wait(g);
    return (void *)(uintptr_t)memory;
}

static void release(struct perf_gpu *g, void *memory)
{
    use(g);
    must(g, g->cu->cuMemFree(pointer(memory)), "cuMemFree");
}

static void put(struct perf_gpu *g, void *to, const void *from, size_t bytes)
{
    use(g);
    if (bytes)
        must(g, g->cu->cuMemcpyHtoDAsync(pointer(to), from, bytes, g->stream), "cuMemcpyHtoDAsync");
    gpu_wait(g);
}

static void get(struct perf_gpu *g, void *to, const void *from, size_t bytes)
{
    use(g);
    if (bytes)
        must(g, g->cu->cuMemcpyDtoHAsync(to, pointer(from), bytes, g->stream), "cuMemcpyDtoHAsync");
    gpu_wait(g);
}

static void copy(struct perf_gpu *g, void *to, const void *from, size_t bytes)
{
    use(g);
    if (bytes)
        must(g, g->cu->cuMemcpyAsync(pointer(to), pointer(from), bytes, g->stream),
             "cuMemcpyAsync");
}

/* --- time ------------------------------------------------------------------------------------------- */
static void mark(struct perf_gpu *g, size_t i)
{
    use(g);
    must(g, g->cu->cuEventRecord(g->mark[i], g->stream), "cuEventRecord");
}

static double between(struct perf_gpu *g, size_t i)
{
    float ms = 0;
    must(g, g->cu->cuEventElapsedTime(&ms, g->mark[i], g->mark[i + 1]), "cuEventElapsedTime");
    return (double)ms * 1e-3;
}

/* --- graphs ------------------------------------------------------------------------------------------ */
static void begin(struct perf_gpu *g)
{
    use(g);
    must(g, g->cu->cuStreamBeginCapture(g->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
         "cuStreamBeginCapture");
}

static struct perf_graph *end(struct perf_gpu *g)
{
    CUgraph graph = NULL;
    CUgraphExec exec = NULL;
    use(g);
    must(g, g->cu->cuStreamEndCapture(g->stream, &graph), "cuStreamEndCapture");
    must(g, g->cu->cuGraphInstantiate(&exec, graph, 0), "cuGraphInstantiate");
    must(g, g->cu->cuGraphDestroy(graph), "cuGraphDestroy");
    return (struct perf_graph *)exec;
}

static void launch(struct perf_gpu *g, struct perf_graph *graph)
{
    use(g);
    must(g, g->cu->cuGraphLaunch((CUgraphExec)graph, g->stream), "cuGraphLaunch");
}

static void discard(struct perf_gpu *g, struct perf_graph *graph)
{
    use(g);
    must(g, g->cu->cuGraphExecDestroy((CUgraphExec)graph), "cuGraphExecDestroy");
}

/* --- memory of others --------------------------------------------------------------------------------- */
static void gpu_export(struct perf_gpu *g, void *memory, uint32_t process,
                       struct perf_gpu_share *share)
{
    CUipcMemHandle handle;
    _Static_assert(sizeof(handle) == sizeof(share->handle), "an IPC handle");
    use(g);
    must(g, g->cu->cuIpcGetMemHandle(&handle, pointer(memory)), "cuIpcGetMemHandle");
    *share = (struct perf_gpu_share){
        .address = (uintptr_t)memory, .process = process, .ordinal = g->ordinal};
    memcpy(share->handle, &handle, sizeof(handle));
}

static void *import(struct perf_gpu *g, const struct perf_gpu_share *share, uint32_t process)
{
    CUipcMemHandle handle;
    CUdeviceptr memory = 0;
    CUcontext other;
    use(g);
    if (share->process != process) {
        memcpy(&handle, share->handle, sizeof(handle));
        must(g, g->cu->cuIpcOpenMemHandle(&memory, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
             "cuIpcOpenMemHandle of another rank's buffer");
        return (void *)(uintptr_t)memory;
    }
    if (share->ordinal != g->ordinal) {
        CUdevice device;
        must(g, g->cu->cuDeviceGet(&device, share->ordinal), "cuDeviceGet");
        must(g, g->cu->cuDevicePrimaryCtxRetain(&other, device), "cuDevicePrimaryCtxRetain");
        CUresult r = g->cu->cuCtxEnablePeerAccess(other, 0);
        must(g, r == CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED ? CUDA_SUCCESS : r,
             "cuCtxEnablePeerAccess");
        must(g, g->cu->cuDevicePrimaryCtxRelease(device), "cuDevicePrimaryCtxRelease");
    }
    return (void *)(uintptr_t)share->address;
}

static void unimport(struct perf_gpu *g, const struct perf_gpu_share *share, uint32_t process,
                     void *memory)
{
    use(g);
    if (share->process != process)
        must(g, g->cu->cuIpcCloseMemHandle(pointer(memory)), "cuIpcCloseMemHandle");
}

const struct perf_gpu_calls *perf_gpu_find(const char *program)
{
    static const struct perf_gpu_calls calls = {
        gpu_open, gpu_close, use,    stream,  ordinal,    name,   gpu_alloc,
        release,  put,       get,    copy,    gpu_wait,   mark,   between,
        begin,    end,       launch, discard, gpu_export, import, unimport};
    if (cuda_driver())
        return &calls;
    struct choir_error e = {.bytes = sizeof(e)};
    choir_comm_last_error(NULL, &e);
    fprintf(stderr, "%s: --memory cuda: %s (%s)\n", program, e.text, e.remedy);
    return NULL;
}
#endif
