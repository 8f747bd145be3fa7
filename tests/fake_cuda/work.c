/* SPDX-License-Identifier: Apache-2.0 */
/*
 * work.c: copies, fills and host functions. Sources of copies are read when the stream comes to them, as of pinned memory, so
 * that a source that is gone too early is found.
 */
#include "tests/fake_cuda/fake.h"
#include <stdlib.h>
#include <string.h>

struct fake_work *fake_work_copy(const struct fake_work *w, const void *parameters, size_t bytes)
{
    struct fake_work *own =
        aligned_alloc(16, (sizeof(*own) + bytes + sizeof(uint64_t) + 15) & ~(size_t)15);
    if (!own)
        return NULL;
    *own = *w;
    own->next = NULL;
    if (bytes)
        memcpy(own->parameters, parameters, bytes);
    return own;
}

CUresult fake_push_sized(CUstream handle, const struct fake_work *w, const void *parameters,
                         size_t bytes)
{
    CUstream s;
    pthread_mutex_lock(&fake_lock);
    CUresult r = fake_stream_of(handle, &s);
    if (r == CUDA_SUCCESS)
        r = s->capture ? fake_capture_add(s, w, parameters, bytes)
                       : fake_queue(s, w, parameters, bytes);
    pthread_mutex_unlock(&fake_lock);
    return r;
}

CUresult fake_push(CUstream handle, const struct fake_work *w)
{
    return fake_push_sized(handle, w, NULL, 0);
}

/* Whether the GPU reaches all these bytes. */
static bool reached(CUdeviceptr at, size_t bytes)
{
    if (!bytes)
        return true;
    pthread_mutex_lock(&fake_lock);
    const struct fake_memory *m = fake_memory_of((void *)(uintptr_t)at, bytes);
    bool known =
        m && (m->kind != FAKE_MAPPED || (fake_context() && m->access >> fake_context()->gpu & 1));
    pthread_mutex_unlock(&fake_lock);
    return known;
}

/* --- copies ------------------------------------------------------------------------------------------- */

static void copy(const struct fake_work *w)
{
    if (w->u.copy.bytes)
        memmove(w->u.copy.to, w->u.copy.from, w->u.copy.bytes);
}

static CUresult push_copy(void *to, const void *from, size_t bytes, CUstream stream)
{
    return fake_push(stream,
                     &(struct fake_work){.run = copy, .u.copy = {to, from, bytes, 0, 0, 0, 0}});
}

/* Either may be memory of the host that CUDA does not know. */
FAKE_API CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    FAKE_READY();
    return push_copy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes, stream);
}

FAKE_API CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    FAKE_READY();
    if (!reached(to, bytes))
        return CUDA_ERROR_INVALID_VALUE;
    return push_copy((void *)(uintptr_t)to, from, bytes, stream);
}

FAKE_API CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    FAKE_READY();
    if (!reached(from, bytes))
        return CUDA_ERROR_INVALID_VALUE;
    return push_copy(to, (const void *)(uintptr_t)from, bytes, stream);
}

FAKE_API CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    FAKE_READY();
    if (!reached(from, bytes) || !reached(to, bytes))
        return CUDA_ERROR_INVALID_VALUE;
    return push_copy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes, stream);
}

static void copy_rows(const struct fake_work *w)
{
    for (size_t i = 0; i < w->u.copy.height; i++)
        memmove((char *)w->u.copy.to + i * w->u.copy.to_pitch,
                (const char *)w->u.copy.from + i * w->u.copy.from_pitch, w->u.copy.width);
}

/* Where a copy of rows begins; NULL: an array, or not memory of the GPU. */
static void *first(CUmemorytype type, const void *host, CUdeviceptr device, size_t x, size_t y,
                   size_t pitch)
{
    CUdeviceptr at = type == CU_MEMORYTYPE_HOST ? (CUdeviceptr)(uintptr_t)host : device;
    if (type == CU_MEMORYTYPE_ARRAY || (type == CU_MEMORYTYPE_DEVICE && !reached(at, 1)))
        return NULL;
    return (char *)(uintptr_t)at + y * pitch + x;
}

FAKE_API CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D *c, CUstream stream)
{
    FAKE_READY();
    void *to =
        first(c->dstMemoryType, c->dstHost, c->dstDevice, c->dstXInBytes, c->dstY, c->dstPitch);
    void *from =
        first(c->srcMemoryType, c->srcHost, c->srcDevice, c->srcXInBytes, c->srcY, c->srcPitch);
    if (!to || !from || c->dstPitch < c->WidthInBytes || c->srcPitch < c->WidthInBytes)
        return CUDA_ERROR_INVALID_VALUE;
    return fake_push(stream, &(struct fake_work){.run = copy_rows,
                                                 .u.copy = {.to = to,
                                                            .from = from,
                                                            .width = c->WidthInBytes,
                                                            .height = c->Height,
                                                            .to_pitch = c->dstPitch,
                                                            .from_pitch = c->srcPitch}});
}

/* --- fills -------------------------------------------------------------------------------------------- */

static void set(const struct fake_work *w)
{
    if (w->u.set.each == 1)
        memset(w->u.set.to, (int)w->u.set.value, w->u.set.count);
    else
        for (size_t i = 0; i < w->u.set.count; i++)
            ((uint32_t *)w->u.set.to)[i] = w->u.set.value;
}

static CUresult push_set(CUdeviceptr to, uint32_t value, size_t count, size_t each, CUstream stream)
{
    FAKE_READY();
    if (to % each || !reached(to, count * each))
        return CUDA_ERROR_INVALID_VALUE;
    return fake_push(stream, &(struct fake_work){
                                 .run = set, .u.set = {(void *)(uintptr_t)to, value, count, each}});
}

FAKE_API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream stream)
{
    return push_set(to, value, n, 1, stream);
}

FAKE_API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t n, CUstream stream)
{
    return push_set(to, value, n, 4, stream);
}

/* --- host functions ------------------------------------------------------------------------------------- */

static void call(const struct fake_work *w)
{
    fake_in_host_function = true; /* it may not call CUDA */
    w->u.host.fn(w->u.host.data);
    fake_in_host_function = false;
}

FAKE_API CUresult cuLaunchHostFunc(CUstream stream, CUhostFn fn, void *data)
{
    FAKE_READY();
    if (!fn)
        return CUDA_ERROR_INVALID_VALUE;
    return fake_push(stream, &(struct fake_work){.run = call, .u.host = {fn, data}});
}
