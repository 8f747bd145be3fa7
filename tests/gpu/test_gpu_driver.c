/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the library and its tests rely on of a driver: order of streams, events, captures that fork, calls that break a capture,
 * words that streams wait for, handles of memory, physical memory. Holds the fake driver and the real one to the same.
 */
#include "cuda/handover.h"
#include "tests/gpu/gpu.h"
#include <unistd.h>

static const struct cuda_driver *cu;
static struct gpu gpu;
static CUstream other;

static CUdeviceptr at(void *p)
{
    return (CUdeviceptr)(uintptr_t)p;
}

static void begin(int rank)
{
    gpu_open(&gpu, rank);
    cu = gpu.cu;
    GPU_OK(cu->cuStreamCreateWithPriority(&other, CU_STREAM_NON_BLOCKING, 0));
}

/* The second stream waits for an event of the first, which waits for a word. */
static void order_body(int rank, int size, void *arg)
{
    (void)size, (void)arg;
    CUevent e;
    uint32_t *word = NULL, got[2] = {0, 0};
    begin(rank);
    word = gpu_alloc(&gpu, 8);
    GPU_OK(cu->cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    GPU_OK(cu->cuMemsetD32Async(at(word), 0, 2, gpu.stream));
    GPU_OK(cu->cuStreamSynchronize(gpu.stream));
    GPU_OK(cu->cuStreamWaitValue32(gpu.stream, at(word), 7, CU_STREAM_WAIT_VALUE_GEQ));
    GPU_OK(cu->cuStreamWriteValue32(gpu.stream, at(word + 1), 5, 0));
    GPU_OK(cu->cuEventRecord(e, gpu.stream));
    test_sleep_ms(20);
    CHECK_EQ(cu->cuStreamQuery(gpu.stream), CUDA_ERROR_NOT_READY);
    CHECK_EQ(cu->cuEventQuery(e), CUDA_ERROR_NOT_READY);
    GPU_OK(cu->cuStreamWriteValue32(other, at(word), 8, 0));
    GPU_OK(cu->cuStreamWaitEvent(other, e, 0));
    GPU_OK(cu->cuMemcpyDtoHAsync(got, at(word), 8, other));
    GPU_OK(cu->cuStreamSynchronize(other));
    CHECK_EQ(got[0], 8);
    CHECK_EQ(got[1], 5);
    GPU_OK(cu->cuEventQuery(e));
    GPU_OK(cu->cuEventDestroy(e));
    gpu_close(&gpu);
}

/* One lane of a graph waits for a word that the other, captured later, writes; a fork that is not joined is an error. */
static void fork_body(int rank, int size, void *arg)
{
    (void)size, (void)arg;
    CUevent e, back;
    CUgraph graph;
    CUgraphExec exec;
    uint32_t *word, got[2];
    begin(rank);
    word = gpu_alloc(&gpu, 8);
    GPU_OK(cu->cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    GPU_OK(cu->cuEventCreate(&back, CU_EVENT_DISABLE_TIMING));
    GPU_OK(cu->cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    GPU_OK(cu->cuMemsetD32Async(at(word), 0, 2, gpu.stream));
    GPU_OK(cu->cuEventRecord(e, gpu.stream));
    GPU_OK(cu->cuStreamWaitEvent(other, e, 0));
    GPU_OK(cu->cuStreamWaitValue32(gpu.stream, at(word), 3, CU_STREAM_WAIT_VALUE_EQ));
    GPU_OK(cu->cuStreamWriteValue32(other, at(word + 1), 4, 0));
    GPU_OK(cu->cuStreamWriteValue32(other, at(word), 3, 0));
    GPU_OK(cu->cuEventRecord(back, other));
    GPU_OK(cu->cuStreamWaitEvent(gpu.stream, back, 0));
    GPU_OK(cu->cuStreamEndCapture(gpu.stream, &graph));
    GPU_OK(cu->cuGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 20; i++) {
        GPU_OK(cu->cuGraphLaunch(exec, gpu.stream));
        gpu_get(&gpu, got, word, 8);
        CHECK_EQ(got[0], 3);
        CHECK_EQ(got[1], 4);
    }
    GPU_OK(cu->cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    GPU_OK(cu->cuEventRecord(e, gpu.stream));
    GPU_OK(cu->cuStreamWaitEvent(other, e, 0));
    GPU_OK(cu->cuStreamWriteValue32(other, at(word), 3, 0));
    CHECK_EQ(cu->cuStreamEndCapture(gpu.stream, &graph), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    gpu_close(&gpu);
}

static void unsafe_body(int rank, int size, void *arg)
{
    (void)size, (void)arg;
    CUgraph graph;
    CUdeviceptr memory = 0;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    begin(rank);
    GPU_OK(cu->cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK_EQ(cu->cuMemAlloc(&memory, 4096), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(cu->cuStreamEndCapture(gpu.stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    GPU_OK(cu->cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    GPU_OK(cu->cuThreadExchangeStreamCaptureMode(&mode));
    GPU_OK(cu->cuMemAlloc(&memory, 4096));
    GPU_OK(cu->cuMemFree(memory));
    GPU_OK(cu->cuThreadExchangeStreamCaptureMode(&mode));
    GPU_OK(cu->cuStreamEndCapture(gpu.stream, &graph));
    CHECK_NE(cu->cuMemFree(memory), CUDA_SUCCESS); /* a second time */
    CHECK_EQ(cu->cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, gpu.stream, NULL, NULL),
             CUDA_ERROR_INVALID_HANDLE);
    gpu_close(&gpu);
}

struct shared {
    CUipcMemHandle handle;
    struct handover_address address;
    int state;
};

static void handles_body(int rank, int size, void *arg)
{
    struct shared *s = arg;
    uint32_t word = 11;
    (void)size;
    begin(rank);
    if (!rank) {
        CUdeviceptr memory, mapped;
        GPU_OK(cu->cuMemAlloc(&memory, 4096));
        gpu_put(&gpu, (void *)(uintptr_t)memory, &word, 4);
        GPU_OK(cu->cuIpcGetMemHandle(&s->handle, memory));
        CHECK_NE(cu->cuIpcOpenMemHandle(&mapped, s->handle, 1), CUDA_SUCCESS); /* its own */
        __atomic_store_n(&s->state, 1, __ATOMIC_RELEASE);
        while (__atomic_load_n(&s->state, __ATOMIC_ACQUIRE) != 2)
            test_sleep_ms(1);
        gpu_get(&gpu, &word, (void *)(uintptr_t)memory, 4);
        CHECK_EQ(word, 12);
        GPU_OK(cu->cuMemFree(memory));
    } else {
        CUdeviceptr mapped;
        while (!__atomic_load_n(&s->state, __ATOMIC_ACQUIRE))
            test_sleep_ms(1);
        GPU_OK(cu->cuIpcOpenMemHandle(&mapped, s->handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
        gpu_get(&gpu, &word, (void *)(uintptr_t)mapped, 4);
        CHECK_EQ(word, 11);
        word = 12;
        gpu_put(&gpu, (void *)(uintptr_t)mapped, &word, 4);
        GPU_OK(cu->cuIpcCloseMemHandle(mapped));
        CHECK_NE(cu->cuIpcCloseMemHandle(mapped), CUDA_SUCCESS);
        __atomic_store_n(&s->state, 2, __ATOMIC_RELEASE);
    }
    gpu_close(&gpu);
}

/* --- physical memory -------------------------------------------------------------------------------------- */

static CUmemAllocationProp prop;
static size_t grain;
static CUdeviceptr place; /* reserved */

static CUresult map(CUmemGenericAllocationHandle handle)
{
    CUmemAccessDesc access = {.location = prop.location,
                              .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUresult r = cu->cuMemMap(place, grain, 0, handle, 0);
    return r == CUDA_SUCCESS ? cu->cuMemSetAccess(place, grain, &access, 1) : r;
}

static void reserve(void)
{
    prop = (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED};
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = gpu.ordinal;
    GPU_OK(cu->cuMemGetAllocationGranularity(&grain, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    CHECK(grain && !(grain & (grain - 1)));
    GPU_OK(cu->cuMemAddressReserve(&place, 2 * grain, 0, 0, 0));
    CHECK_EQ(place % grain, 0);
}

static void refusals(void)
{
    CUmemGenericAllocationHandle plain;
    int fd = -1;
    CHECK_EQ(cu->cuMemCreate(&plain, grain + 1, &prop, 0), CUDA_ERROR_INVALID_VALUE);
    GPU_OK(cu->cuMemCreate(&plain, grain, &prop, 0));
    CHECK_NE(
        cu->cuMemExportToShareableHandle(&fd, plain, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        CUDA_SUCCESS); /* it was not made for that */
    CHECK_NE(cu->cuMemMap(place + 4096, grain, 0, plain, 0), CUDA_SUCCESS);
    GPU_OK(cu->cuMemMap(place, grain, 0, plain, 0));
    CHECK_NE(cu->cuMemMap(place, grain, 0, plain, 0), CUDA_SUCCESS); /* it is taken */
    GPU_OK(cu->cuMemUnmap(place, grain));
    GPU_OK(cu->cuMemRelease(plain));
}

/* Gives its memory away, and has other memory at the same address then. */
static void own(struct shared *s)
{
    CUmemGenericAllocationHandle handle;
    uint32_t word = 21;
    int fd = -1;
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    for (int i = 0; i < 2; i++, word = 99) {
        GPU_OK(cu->cuMemCreate(&handle, grain, &prop, 0));
        GPU_OK(map(handle));
        gpu_put(&gpu, (void *)(uintptr_t)place, &word, 4);
        if (!i) {
            GPU_OK(cu->cuMemExportToShareableHandle(&fd, handle,
                                                    CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
            while (!__atomic_load_n(&s->state, __ATOMIC_ACQUIRE))
                test_sleep_ms(1);
            CHECK_OK(handover_give(&s->address, 1, fd));
            close(fd);
            GPU_OK(cu->cuMemUnmap(place, grain));
        }
        GPU_OK(cu->cuMemRelease(handle)); /* mapped, it stays */
    }
    __atomic_store_n(&s->state, 2, __ATOMIC_RELEASE);
    gpu_get(&gpu, &word, (void *)(uintptr_t)place, 4);
    CHECK_EQ(word, 99);
}

/* Memory that its maker has given up lives on here. */
static void import(struct shared *s)
{
    struct handover h;
    CUmemGenericAllocationHandle handle;
    uint32_t word = 0;
    int fd[2];
    CHECK_OK(handover_open(&h));
    s->address = h.address;
    __atomic_store_n(&s->state, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&s->state, __ATOMIC_ACQUIRE) != 2)
        test_sleep_ms(1);
    handover_take(&h, 2, fd);
    handover_close(&h);
    GPU_OK(cu->cuMemImportFromShareableHandle(&handle, (void *)(uintptr_t)fd[1],
                                              CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    close(fd[1]);
    GPU_OK(map(handle));
    GPU_OK(cu->cuMemRelease(handle));
    gpu_get(&gpu, &word, (void *)(uintptr_t)place, 4);
    CHECK_EQ(word, 21);
}

static void physical_body(int rank, int size, void *arg)
{
    (void)size;
    begin(0); /* the same GPU */
    reserve();
    if (!rank)
        refusals();
    if (!rank)
        own(arg);
    else
        import(arg);
    GPU_OK(cu->cuMemUnmap(place, grain));
    GPU_OK(cu->cuMemAddressFree(place, 2 * grain));
    gpu_close(&gpu);
}

static void run(int ranks, void (*fn)(int, int, void *))
{
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_ranks(ranks, NULL, fn, test_shared(sizeof(struct shared)));
}

static void order(void)
{
    run(1, order_body);
}
static void forks(void)
{
    run(1, fork_body);
}
static void unsafe_calls(void)
{
    run(1, unsafe_body);
}
static void handles(void)
{
    run(2, handles_body);
}

static void physical(void)
{
    run(2, physical_body);
}

TEST_MAIN(TEST(order), TEST(forks), TEST(unsafe_calls), TEST(handles), TEST(physical))
