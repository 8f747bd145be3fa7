/* SPDX-License-Identifier: Apache-2.0 */
/* device.c: the GPUs, all alike, and their primary contexts. */
#include "tests/fake_cuda/fake.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STACK 64

pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t fake_changed = PTHREAD_COND_INITIALIZER;
_Thread_local bool fake_in_host_function;

static bool initialised, forked;
static int gpus;
static struct CUctx_st primary[FAKE_GPUS];
static unsigned long long contexts; /* ids given out */
static _Thread_local struct {
    CUcontext context[STACK];
    int count;
} current;

int fake_number(const char *name, int usual)
{
    const char *text = getenv(name);
    return text && *text ? atoi(text) : usual;
}

void *fake_keep(size_t bytes)
{
    static void **kept;
    void **p = calloc(1, bytes + 16);
    if (!p)
        return NULL;
    *p = __atomic_load_n(&kept, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&kept, (void ***)p, p, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED))
        ;
    return p + 2;
}

static void in_child(void)
{
    forked = initialised;
}

CUresult fake_ready(void)
{
    if (!__atomic_load_n(&initialised, __ATOMIC_ACQUIRE) || forked)
        return CUDA_ERROR_NOT_INITIALIZED;
    return fake_in_host_function ? CUDA_ERROR_NOT_PERMITTED : CUDA_SUCCESS;
}

FAKE_API CUresult cuInit(unsigned int flags)
{
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (forked)
        return CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&fake_lock);
    if (!initialised) {
        gpus = fake_number("FAKE_CUDA_GPUS", 2);
        gpus = gpus < 0 ? 0 : gpus > FAKE_GPUS ? FAKE_GPUS : gpus;
        for (int i = 0; i < gpus; i++)
            primary[i].gpu = i;
        if (gpus) {
            pthread_atfork(NULL, NULL, in_child);
            __atomic_store_n(&initialised, true, __ATOMIC_RELEASE);
        }
    }
    pthread_mutex_unlock(&fake_lock);
    return gpus ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

FAKE_API CUresult cuDriverGetVersion(int *version)
{
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

/* --- GPUs ------------------------------------------------------------------------------------------ */

FAKE_API CUresult cuDeviceGetCount(int *count)
{
    FAKE_READY();
    *count = gpus;
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    FAKE_READY();
    if (ordinal < 0 || ordinal >= gpus)
        return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

static CUresult check(CUdevice device)
{
    FAKE_READY();
    return device < 0 || device >= gpus ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

FAKE_API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device)
{
    CUresult r = check(device);
    if (r != CUDA_SUCCESS)
        return r;
    switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        *value = 9;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *value = 0;
        break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *value = 132;
        break;
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
        *value = fake_number("FAKE_CUDA_VMM", 1) != 0;
        break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1:
        *value = 1;
        break;
    default: /* of what is asked for: abilities that are not there */
        *value = 0;
    }
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    CUresult r = check(device);
    if (r == CUDA_SUCCESS) {
        memcpy(uuid->bytes, "fake GPU of test", 16);
        uuid->bytes[15] = (char)device;
    }
    return r;
}

FAKE_API CUresult cuDeviceGetName(char *name, int bytes, CUdevice device)
{
    CUresult r = check(device);
    if (r == CUDA_SUCCESS)
        snprintf(name, (size_t)bytes, "fake GPU");
    return r;
}

FAKE_API CUresult cuDeviceGetPCIBusId(char *text, int bytes, CUdevice device)
{
    CUresult r = check(device);
    if (r == CUDA_SUCCESS)
        snprintf(text, (size_t)bytes, "FACE:%02X:00.0", (unsigned)device);
    return r;
}

FAKE_API CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer)
{
    CUresult r = check(device);
    if (r == CUDA_SUCCESS)
        r = check(peer);
    if (r == CUDA_SUCCESS)
        *can = device != peer;
    return r;
}

/* All pairs are alike; FAKE_CUDA_LINK says how fast, so that tests have machines of several kinds. */
FAKE_API CUresult cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute which, CUdevice from,
                                          CUdevice to)
{
    CUresult r = check(from);
    if (r == CUDA_SUCCESS)
        r = check(to);
    if (r != CUDA_SUCCESS)
        return r;
    if (from == to)
        return CUDA_ERROR_INVALID_DEVICE;
    *value =
        which == CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK ? fake_number("FAKE_CUDA_LINK", 0) : 1;
    return CUDA_SUCCESS;
}

/* --- contexts ----------------------------------------------------------------------------------------- */

bool fake_context_live(CUcontext context)
{
    return context >= primary && context < primary + gpus && context->retained;
}

CUcontext fake_primary(int gpu)
{
    return &primary[gpu];
}

CUcontext fake_context(void)
{
    return current.count ? current.context[current.count - 1] : NULL;
}

FAKE_API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    CUresult r = check(device);
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&fake_lock);
    if (!primary[device].retained++)
        primary[device].id = ++contexts;
    pthread_mutex_unlock(&fake_lock);
    *context = &primary[device];
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    CUresult r = check(device);
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&fake_lock);
    if (primary[device].retained)
        primary[device].retained--;
    else
        r = CUDA_ERROR_INVALID_CONTEXT;
    pthread_mutex_unlock(&fake_lock);
    return r;
}

/* As cudaDeviceReset: the context is gone, whoever retained it. Its streams stay, with nothing to do. */
FAKE_API CUresult cuDevicePrimaryCtxReset(CUdevice device)
{
    CUresult r = check(device);
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&fake_lock);
    primary[device].retained = 0;
    fake_memory_reset(&primary[device]);
    pthread_mutex_unlock(&fake_lock);
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active)
{
    CUresult r = check(device);
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&fake_lock);
    *flags = 0;
    *active = primary[device].retained > 0;
    pthread_mutex_unlock(&fake_lock);
    return r;
}

FAKE_API CUresult cuCtxGetCurrent(CUcontext *context)
{
    FAKE_READY();
    *context = fake_context();
    return CUDA_SUCCESS;
}

static CUresult check_context(CUcontext context)
{
    FAKE_READY();
    pthread_mutex_lock(&fake_lock);
    bool live = fake_context_live(context);
    pthread_mutex_unlock(&fake_lock);
    return live ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

FAKE_API CUresult cuCtxPushCurrent(CUcontext context)
{
    CUresult r = check_context(context);
    if (r == CUDA_SUCCESS && current.count == STACK)
        r = CUDA_ERROR_INVALID_VALUE;
    if (r == CUDA_SUCCESS)
        current.context[current.count++] = context;
    return r;
}

FAKE_API CUresult cuCtxPopCurrent(CUcontext *context)
{
    FAKE_READY();
    if (!current.count)
        return CUDA_ERROR_INVALID_CONTEXT;
    CUcontext popped = current.context[--current.count];
    if (context)
        *context = popped;
    return CUDA_SUCCESS;
}

/* Takes the place of the uppermost; NULL: takes that away. */
FAKE_API CUresult cuCtxSetCurrent(CUcontext context)
{
    FAKE_READY();
    CUresult r = context ? check_context(context) : CUDA_SUCCESS;
    if (r != CUDA_SUCCESS)
        return r;
    if (current.count)
        current.count--;
    if (context)
        current.context[current.count++] = context;
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuCtxGetDevice(CUdevice *device)
{
    FAKE_READY();
    if (!fake_context())
        return CUDA_ERROR_INVALID_CONTEXT;
    *device = fake_context()->gpu;
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuCtxGetId(CUcontext context, unsigned long long *id)
{
    context = context ? context : fake_context();
    CUresult r = check_context(context);
    if (r == CUDA_SUCCESS)
        *id = context->id;
    return r;
}

FAKE_API CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned int flags)
{
    CUresult r = check_context(peer);
    CUcontext own = fake_context();
    if (r != CUDA_SUCCESS || !own)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (own == peer)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&fake_lock);
    r = own->reaches[peer->gpu] ? CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED : CUDA_SUCCESS;
    own->reaches[peer->gpu] = true;
    pthread_mutex_unlock(&fake_lock);
    return r;
}

FAKE_API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    FAKE_READY();
    if (!fake_context())
        return CUDA_ERROR_INVALID_CONTEXT;
    if (least)
        *least = 0;
    if (greatest)
        *greatest = -5; /* streams do not differ here */
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuCtxSynchronize(void)
{
    FAKE_READY();
    CUcontext context = fake_context();
    if (!context)
        return CUDA_ERROR_INVALID_CONTEXT;
    CUresult r = fake_unsafe();
    pthread_mutex_lock(&fake_lock);
    if (r == CUDA_SUCCESS)
        r = fake_context_captured(context);
    if (r == CUDA_SUCCESS)
        fake_gpu_await(context->gpu, "cuCtxSynchronize");
    pthread_mutex_unlock(&fake_lock);
    return r;
}
