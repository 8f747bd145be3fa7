/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the library and its tests rely on of a driver: order of streams, events, captures that fork, calls that break a capture,
 * words that streams wait for, handles of memory. Holds the fake driver and the real one to the same.
 */
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

TEST_MAIN(TEST(order), TEST(forks), TEST(unsafe_calls), TEST(handles))
