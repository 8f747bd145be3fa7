/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GPUs as src/cuda sees them: a device made under capture and from several threads, kernels found, what pointers are, memory
 * counted, streams waited for, and the child of a fork kept away. Skipped where there is no GPU; test_cuda_absent is for that.
 */
#include "tests/lib/test.h"
#ifdef CHOIR_HAVE_CUDA
#include "base/knob.h"
#include "choir_cuda.h"
#include "cuda/device.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct cuda_driver *cu;
static struct cuda_device *dev;

#define CU(call) CHECK_EQ(call, CUDA_SUCCESS)

static void need_driver(void)
{
    if (cuda_driver_init() == CHOIR_ERR_UNSUPPORTED)
        test_skip("%s", base_error_thread()->text);
    cu = cuda_driver();
    CHECK(cu && cuda_driver_in_use());
}

static void need_gpu(void)
{
    enum choir_status st = CHOIR_OK;
    need_driver();
    if (!dev && !(dev = cuda_device_at(0, &st)))
        FAIL("no device: %s; %s", base_error_thread()->text, base_error_thread()->remedy);
}

/* What is made while the thread captures is no part of the capture, and does not break it. This case comes first: the device
 * is not made yet. */
static void captured(void)
{
    need_driver();
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    __typeof__(cuStreamBeginCapture) *begin;
    __typeof__(cuStreamEndCapture) *end;
    *(void **)&begin = dlsym(library, "cuStreamBeginCapture_v2");
    *(void **)&end = dlsym(library, "cuStreamEndCapture");
    CHECK(begin && end);
    CUdevice gpu;
    CUcontext context;
    CUstream s;
    CUstreamCaptureStatus status;
    CUgraph graph = NULL;
    enum choir_status st = CHOIR_OK;
    CU(cu->cuDeviceGet(&gpu, 0));
    CU(cu->cuDevicePrimaryCtxRetain(&context, gpu));
    CU(cu->cuCtxPushCurrent(context));
    CU(cu->cuStreamCreateWithPriority(&s, CU_STREAM_NON_BLOCKING, 0));
    CU(begin(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    dev = cuda_device_current(&st);
    if (!dev)
        FAIL("no device: %s; %s", base_error_thread()->text, base_error_thread()->remedy);
    CHECK(dev->context == context && dev->primary);
    CU(cu->cuStreamIsCapturing(s, &status));
    CHECK_EQ(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CU(end(s, &graph));
    CHECK(graph != NULL);
    CU(cu->cuStreamDestroy(s));
    CU(cu->cuCtxPopCurrent(&context));
    CU(cu->cuDevicePrimaryCtxRelease(gpu)); /* dev holds it by itself */
    dlclose(library);
}

static void *make(void *out)
{
    enum choir_status st;
    *(struct cuda_device **)out = cuda_device_current(&st);
    return NULL;
}

/* Every thread gets the same one, also those that made no context current. */
static void device(void)
{
    need_gpu();
    struct cuda_device *got[8];
    pthread_t t[8];
    for (int i = 0; i < 8; i++)
        CHECK_EQ(pthread_create(&t[i], NULL, make, &got[i]), 0);
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(pthread_join(t[i], NULL), 0);
        CHECK(got[i] == dev);
    }
    CHECK(dev->primary && dev->gpu.sms > 0 && dev->gpu.name[0] && dev->gpu.major > 0);
    CUcontext none = NULL;
    CU(cu->cuCtxGetCurrent(&none));
    CHECK(none == NULL); /* nothing was left current */
    CUfunction f;
    CHECK_OK(cuda_device_function(dev, "choir_probe", &f));
    CHECK_EQ(cuda_device_function(dev, "choir_no_such_kernel", &f), CHOIR_ERR_INTERNAL);
}

static void expect_where(const void *p, enum cuda_where where, int ordinal)
{
    struct cuda_pointer got;
    CHECK_OK(cuda_device_of_pointer(p, &got));
    CHECK_EQ(got.where, where);
    CHECK_EQ(got.ordinal, ordinal);
}

static void pointers(void)
{
    need_gpu();
    CUdeviceptr memory;
    void *pinned;
    int here;
    CHECK_OK(cuda_device_alloc(dev, 1 << 20, &memory));
    CHECK_OK(cuda_device_enter(dev));
    CU(cu->cuMemHostAlloc(&pinned, 4096, CU_MEMHOSTALLOC_PORTABLE));
    cuda_device_leave(dev);
    /* With no context current. */
    expect_where((void *)(uintptr_t)memory, CUDA_DEVICE, 0);
    expect_where((void *)(uintptr_t)(memory + (1 << 20) - 1), CUDA_DEVICE, 0);
    expect_where(pinned, CUDA_PINNED, 0);
    expect_where(&here, CUDA_HOST, -1);
    expect_where(NULL, CUDA_HOST, -1);
    CHECK_OK(cuda_device_enter(dev));
    CU(cu->cuMemFreeHost(pinned));
    cuda_device_leave(dev);
    cuda_device_free(dev, memory, 1 << 20);
}

static void counted(void)
{
    need_gpu();
    CUdeviceptr a, b = 7;
    setenv("CHOIR_CUDA_MEMORY", "3M", 1);
    knob_reload();
    uint64_t before = cuda_device_held(0);
    CHECK_EQ(before, 0);
    CHECK_OK(cuda_device_alloc(dev, 2 << 20, &a));
    CHECK_EQ(cuda_device_alloc(dev, 2 << 20, &b), CHOIR_ERR_NO_MEMORY);
    CHECK(b == 7 && strstr(base_error_thread()->remedy, "CHOIR_CUDA_MEMORY"));
    CHECK_EQ(cuda_device_held(0), 2 << 20);
    cuda_device_free(dev, a, 2 << 20);
    CHECK_EQ(cuda_device_held(0), 0);
    setenv("CHOIR_CUDA_MEMORY", "0", 1); /* no limit but the device's own */
    knob_reload();
    CHECK_EQ(cuda_device_alloc(dev, (uint64_t)1 << 50, &b), CHOIR_ERR_NO_MEMORY);
    CHECK_EQ(cuda_device_held(0), 0);
    unsetenv("CHOIR_CUDA_MEMORY");
    knob_reload();
}

/* The default streams, whose handles are no pointers, and one of our own. */
static void streams(void)
{
    need_gpu();
    CUstream own;
    CHECK_OK(cuda_device_enter(dev));
    CU(cu->cuStreamCreateWithPriority(&own, CU_STREAM_NON_BLOCKING, 0));
    CUstream all[] = {NULL, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD, own};
    for (size_t i = 0; i < base_count(all); i++) {
        choir_stream *s = choir_stream_from_cuda(all[i]);
        CHECK_OK(choir_stream_wait(s));
        CHECK_EQ(choir_stream_query(s), CHOIR_OK);
        CHECK_OK(choir_stream_destroy(s));
        CU(cu->cuStreamQuery(all[i]));
    }
    CU(cu->cuStreamDestroy(own));
    cuda_device_leave(dev);
}

static void forked(void)
{
    need_gpu();
    fflush(NULL);
    pid_t child = fork();
    if (!child) {
        enum choir_status st = CHOIR_OK;
        CHECK(!cuda_driver_in_use());
        CHECK_EQ(cuda_driver_init(), CHOIR_ERR_FORKED);
        CHECK(!cuda_device_current(&st) && st == CHOIR_ERR_FORKED);
        CHECK_EQ(cuda_device_enter(dev), CHOIR_ERR_FORKED);
        CHECK_EQ(choir_stream_wait(choir_stream_from_cuda(NULL)), CHOIR_ERR_FORKED);
        expect_where(&st, CUDA_HOST, -1);
        _exit(0);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    CHECK(cuda_driver_in_use());
}

TEST_MAIN(TEST(captured), TEST(device), TEST(pointers), TEST(counted), TEST(streams), TEST(forked))
#else
static void device(void)
{
    test_skip("built without CUDA");
}

TEST_MAIN(TEST(device))
#endif
