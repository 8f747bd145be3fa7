/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.c: makes devices: describes the GPU, loads the kernels of this library into its context and sees one of them run. A
 * kernel that cannot run here is found now, with a word on why, and not in the middle of a collective. Memory: memory.c.
 */
#include "cuda/device.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define PROBE_VALUE 0x63686f72u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of making one */
static struct cuda_device *_Atomic devices;              /* only grows */

enum choir_status cuda_gpu_describe(int ordinal, struct cuda_gpu *gpu)
{
    const struct cuda_driver *cu = cuda_driver();
    struct cuda_gpu g = {.ordinal = ordinal};
    if (!cu)
        return base_error_thread()->status;
    CUresult r = cu->cuDeviceGet(&g.device, ordinal);
    const struct {
        CUdevice_attribute which;
        int *value;
    } attribute[] = {{CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &g.major},
                     {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &g.minor},
                     {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &g.sms}};
    for (size_t i = 0; i < base_count(attribute) && r == CUDA_SUCCESS; i++)
        r = cu->cuDeviceGetAttribute(attribute[i].value, attribute[i].which, g.device);
    if (r == CUDA_SUCCESS)
        r = cu->cuDeviceGetName(g.name, (int)sizeof(g.name), g.device);
    if (r == CUDA_SUCCESS)
        r = cu->cuDeviceGetPCIBusId(g.pci, (int)sizeof(g.pci), g.device);
    if (r == CUDA_SUCCESS)
        r = cu->cuDeviceGetUuid(&g.uuid, g.device);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, "asking what a GPU is");
    *gpu = g;
    return CHOIR_OK;
}

void cuda_gpu_uuid(const struct cuda_gpu *gpu, char text[48])
{
    int at = snprintf(text, 48, "GPU-");
    for (int i = 0; i < 16; i++) /* 8-4-4-4-12 digits */
        at += snprintf(text + at, (size_t)(48 - at), "%s%02x",
                       i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                       (unsigned)(unsigned char)gpu->uuid.bytes[i]);
}

enum choir_status cuda_device_enter(const struct cuda_device *device)
{
    const struct cuda_driver *cu = cuda_driver();
    if (!cu) /* in the child of a fork */
        return base_error_thread()->status;
    CUresult r = cu->cuCtxPushCurrent(device->context);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "cuCtxPushCurrent");
}

void cuda_device_leave(const struct cuda_device *device)
{
    CUcontext popped = NULL;
    cuda_driver()->cuCtxPopCurrent(&popped);
    choir_assert(popped == device->context);
}

/* --- kernels -------------------------------------------------------------------------------------- */

/* Loading a kernel at its first launch would wait for the kernels that run, and these may wait for that launch. */
static CUresult load_functions(const struct cuda_driver *cu, CUmodule module)
{
    CUfunction function[256];
    unsigned n = 0;
    if (!cu->cuModuleGetFunctionCount || !cu->cuModuleEnumerateFunctions || !cu->cuFuncLoad)
        return CUDA_SUCCESS; /* before 12.4: cuModuleGetFunction loads */
    CUresult r = cu->cuModuleGetFunctionCount(&n, module);
    choir_assert(r != CUDA_SUCCESS || n <= base_count(function));
    if (r == CUDA_SUCCESS && n)
        r = cu->cuModuleEnumerateFunctions(function, n, module);
    for (unsigned i = 0; i < n && r == CUDA_SUCCESS; i++)
        r = cu->cuFuncLoad(function[i]);
    return r;
}

static enum choir_status fail_image(const struct cuda_device *d, const char *image, CUresult r)
{
    if (r != CUDA_ERROR_NO_BINARY_FOR_GPU && r != CUDA_ERROR_INVALID_IMAGE &&
        r != CUDA_ERROR_UNSUPPORTED_PTX_VERSION && r != CUDA_ERROR_INVALID_PTX)
        return cuda_fail(r, "loading kernels");
    char remedy[120];
    snprintf(remedy, sizeof(remedy), "build the library with make CUDA_ARCH=\"%s %d%d\"",
             cuda_image_archs(), d->gpu.major, d->gpu.minor);
    return base_fail(CHOIR_ERR_UNSUPPORTED, remedy,
                     "no kernel image for GPU %d (%s, compute capability %d.%d): %s was built with "
                     "CUDA_ARCH=\"%s\"",
                     d->gpu.ordinal, d->gpu.name, d->gpu.major, d->gpu.minor, image,
                     cuda_image_archs());
}

static void unload(const struct cuda_driver *cu, struct cuda_device *d)
{
    while (d->modules)
        cu->cuModuleUnload(d->module[--d->modules]);
}

static enum choir_status load(const struct cuda_driver *cu, struct cuda_device *d)
{
    const struct cuda_image *image;
    for (uint32_t i = 0; (image = cuda_image_at(i)); i++) {
        choir_assert(i < CUDA_IMAGES_MOST);
        CUresult r = cu->cuModuleLoadData(&d->module[i], image->data);
        if (r == CUDA_SUCCESS) {
            d->modules++;
            r = load_functions(cu, d->module[i]);
        }
        if (r != CUDA_SUCCESS) {
            enum choir_status st = fail_image(d, image->name, r);
            unload(cu, d);
            return st;
        }
    }
    return CHOIR_OK;
}

enum choir_status cuda_device_function(const struct cuda_device *device, const char *name,
                                       CUfunction *function)
{
    const struct cuda_driver *cu = cuda_driver();
    if (!cu)
        return base_error_thread()->status;
    CUresult r = CUDA_ERROR_NOT_FOUND;
    CUfunction f;
    for (uint32_t i = 0; i < device->modules && r == CUDA_ERROR_NOT_FOUND; i++)
        r = cu->cuModuleGetFunction(&f, device->module[i], name);
    if (r == CUDA_SUCCESS && cu->cuFuncLoad)
        r = cu->cuFuncLoad(f);
    if (r == CUDA_ERROR_NOT_FOUND)
        return base_fail(CHOIR_ERR_INTERNAL, "build all of the library again",
                         "there is no kernel %s in it", name);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, name);
    *function = f;
    return CHOIR_OK;
}

/* The kernel writes to a variable of its own module: memory that were allocated would have to be freed, which waits for
 * everything that runs on the device. */
static enum choir_status probe(const struct cuda_driver *cu, struct cuda_device *d)
{
    CUfunction f;
    CUdeviceptr word = 0;
    CUstream s;
    uint32_t want = PROBE_VALUE, got = 0;
    void *arguments[] = {&want};
    enum choir_status st = cuda_device_function(d, "choir_probe", &f);
    CUresult r = CUDA_ERROR_NOT_FOUND;
    if (st != CHOIR_OK)
        return st;
    for (uint32_t i = 0; i < d->modules && r == CUDA_ERROR_NOT_FOUND; i++)
        r = cu->cuModuleGetGlobal(&word, NULL, d->module[i], "choir_probe_word");
    if (r == CUDA_SUCCESS)
        r = cu->cuStreamCreateWithPriority(&s, CU_STREAM_NON_BLOCKING, 0);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, "preparing a first kernel");
    r = cu->cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, s, arguments, NULL);
    if (r == CUDA_SUCCESS)
        r = cu->cuMemcpyDtoHAsync(&got, word, sizeof(got), s);
    if (r == CUDA_SUCCESS)
        r = cu->cuStreamSynchronize(s);
    cu->cuStreamDestroy(s);
    if (r != CUDA_SUCCESS)
        return fail_image(d, "choir_probe", r);
    if (got != want)
        return base_fail(CHOIR_ERR_INTERNAL, "look at the driver's log (dmesg)",
                         "a kernel ran on GPU %d (%s) but its result is 0x%x, not 0x%x",
                         d->gpu.ordinal, d->gpu.name, got, want);
    return CHOIR_OK;
}

/* --- making one ----------------------------------------------------------------------------------- */

/* A program's own context is used as it is; the primary one is retained, so that it lives as long as we use it. */
static CUresult find_primary(const struct cuda_driver *cu, struct cuda_device *d)
{
    unsigned flags;
    int active = 0;
    CUcontext primary = NULL;
    CUresult r = cu->cuDevicePrimaryCtxGetState(d->gpu.device, &flags, &active);
    if (r != CUDA_SUCCESS || !active)
        return r; /* it is not there, so it is not this one */
    r = cu->cuDevicePrimaryCtxRetain(&primary, d->gpu.device);
    if (r != CUDA_SUCCESS)
        return r;
    d->primary = primary == d->context;
    if (!d->primary)
        cu->cuDevicePrimaryCtxRelease(d->gpu.device);
    return CUDA_SUCCESS;
}

/* In the context, the thread's capture mode relaxed. */
static enum choir_status fill(const struct cuda_driver *cu, struct cuda_device *d)
{
    CUdevice device;
    CUresult r = cu->cuCtxGetDevice(&device);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, "cuCtxGetDevice");
    enum choir_status st = cuda_gpu_describe(device, &d->gpu); /* a CUdevice is its ordinal */
    if (st != CHOIR_OK)
        return st;
    if (d->gpu.ordinal >= CUDA_DEVICES_MOST)
        return base_fail(CHOIR_ERR_UNSUPPORTED, "set CUDA_VISIBLE_DEVICES",
                         "GPU %d: %d in a process are the most", d->gpu.ordinal, CUDA_DEVICES_MOST);
    if ((r = find_primary(cu, d)) != CUDA_SUCCESS)
        return cuda_fail(r, "cuDevicePrimaryCtxRetain");
    st = load(cu, d);
    if (st == CHOIR_OK && (st = probe(cu, d)) != CHOIR_OK)
        unload(cu, d);
    if (st != CHOIR_OK && d->primary)
        cu->cuDevicePrimaryCtxRelease(d->gpu.device);
    return st;
}

static struct cuda_device *make(const struct cuda_driver *cu, CUcontext context,
                                unsigned long long id, enum choir_status *status)
{
    struct cuda_device *d = calloc(1, sizeof(*d));
    if (!d) {
        *status = base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a device");
        return NULL;
    }
    *d = (struct cuda_device){.context = context, .context_id = id};
    if ((*status = cuda_device_enter(d)) == CHOIR_OK) {
        /* The caller may capture a stream; what is done here is no part of that. */
        CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        cu->cuThreadExchangeStreamCaptureMode(&mode);
        *status = fill(cu, d);
        cu->cuThreadExchangeStreamCaptureMode(&mode);
        cuda_device_leave(d);
    }
    if (*status != CHOIR_OK) {
        free(d);
        return NULL;
    }
    base_log(BASE_INFO, -1, "GPU %d is %s, compute capability %d.%d, %d multiprocessors%s",
             d->gpu.ordinal, d->gpu.name, d->gpu.major, d->gpu.minor, d->gpu.sms,
             d->primary ? "" : ", in a context of the program");
    return d;
}

static struct cuda_device *find(unsigned long long id)
{
    struct cuda_device *d = atomic_load_explicit(&devices, memory_order_acquire);
    while (d && d->context_id != id)
        d = d->next;
    return d;
}

static struct cuda_device *of_context(const struct cuda_driver *cu, CUcontext context,
                                      enum choir_status *status)
{
    unsigned long long id;
    CUresult r = cu->cuCtxGetId(context, &id);
    if (r != CUDA_SUCCESS) {
        *status = cuda_fail(r, "cuCtxGetId");
        return NULL;
    }
    struct cuda_device *d = find(id);
    if (d)
        return d;
    pthread_mutex_lock(&lock);
    d = find(id);
    if (!d && (d = make(cu, context, id, status))) {
        d->next = atomic_load_explicit(&devices, memory_order_relaxed);
        atomic_store_explicit(&devices, d, memory_order_release); /* pairs with find */
    }
    pthread_mutex_unlock(&lock);
    return d;
}

struct cuda_device *cuda_device_at(int ordinal, enum choir_status *status)
{
    CUdevice device;
    CUcontext context;
    if ((*status = cuda_driver_init()) != CHOIR_OK)
        return NULL;
    const struct cuda_driver *cu = cuda_driver();
    CUresult r = cu->cuDeviceGet(&device, ordinal);
    if (r == CUDA_SUCCESS)
        r = cu->cuDevicePrimaryCtxRetain(&context, device);
    if (r != CUDA_SUCCESS) {
        *status = cuda_fail(r, "cuDevicePrimaryCtxRetain");
        return NULL;
    }
    struct cuda_device *d = of_context(cu, context, status);
    cu->cuDevicePrimaryCtxRelease(device); /* the device holds it now, by itself */
    return d;
}

struct cuda_device *cuda_device_current(enum choir_status *status)
{
    CUcontext context = NULL;
    if ((*status = cuda_driver_init()) != CHOIR_OK)
        return NULL;
    const struct cuda_driver *cu = cuda_driver();
    CUresult r = cu->cuCtxGetCurrent(&context);
    if (r != CUDA_SUCCESS) {
        *status = cuda_fail(r, "cuCtxGetCurrent");
        return NULL;
    }
    return context ? of_context(cu, context, status) : cuda_device_at(0, status);
}
