/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c: device and host memory, and what a pointer is. Device memory is a file of its own, so that other processes can map
 * it (share.c); it begins as garbage, and is gone from the address space once it is freed.
 */
#include "tests/fake_cuda/fake.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 65536u
#define MOST (1ll << 36)         /* of a GPU's memory */
#define POISON ((size_t)4 << 20) /* of so many bytes at either end: all would cost memory */

static struct fake_memory *all;
static uint64_t ids;

/* --- the list ---------------------------------------------------------------------------------------- */

struct fake_memory *fake_memory_of(const void *at, size_t bytes)
{
    const uint8_t *p = at;
    for (struct fake_memory *m = all; m; m = m->next)
        if (p >= m->at && p < m->at + m->bytes && bytes <= (size_t)(m->at + m->bytes - p))
            return m;
    return NULL;
}

struct fake_memory *fake_memory_first(void)
{
    return all;
}

void fake_memory_add(const struct fake_memory *m)
{
    struct fake_memory *own = malloc(sizeof(*own));
    if (!own)
        abort();
    *own = *m;
    own->id = ++ids;
    own->next = all;
    all = own;
}

struct fake_memory *fake_memory_take(const void *at, enum fake_kind kind)
{
    for (struct fake_memory **m = &all; *m; m = &(*m)->next)
        if ((*m)->at == at && (*m)->kind == kind) {
            struct fake_memory *found = *m;
            *m = found->next;
            return found;
        }
    return NULL;
}

struct fake_memory *fake_memory_take_idle(const void *at, enum fake_kind kind, const char *what)
{
    struct fake_memory *m = fake_memory_of(at, 1);
    if (m && m->kind == kind && fake_number("FAKE_CUDA_FREE_WAITS", 1))
        fake_gpu_await(m->context->gpu, what);
    return fake_memory_take(at, kind);
}

uint8_t *fake_map(int fd, size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* --- device memory --------------------------------------------------------------------------------------- */

void fake_poison(uint8_t *at, size_t bytes)
{
    size_t some = bytes < POISON ? bytes : POISON;
    memset(at, 0xdb, some);
    memset(at + bytes - some, 0xdb, some);
}

static uint64_t total(void)
{
    const char *text = getenv("FAKE_CUDA_MEMORY");
    return (uint64_t)(text && *text ? atoll(text) : MOST);
}

uint64_t fake_free(int gpu)
{
    pthread_mutex_lock(&fake_lock);
    uint64_t held = fake_vmm_bytes(gpu), most = total();
    for (const struct fake_memory *m = all; m; m = m->next)
        held += m->kind == FAKE_DEVICE && m->context->gpu == gpu ? m->mapped : 0;
    pthread_mutex_unlock(&fake_lock);
    return held < most ? most - held : 0;
}

/* What this process holds, as if it had the GPU to itself. */
FAKE_API CUresult cuMemGetInfo(size_t *left, size_t *most)
{
    FAKE_READY();
    CUcontext context = fake_context();
    if (!context)
        return CUDA_ERROR_INVALID_CONTEXT;
    *left = fake_free(context->gpu);
    *most = total();
    return CUDA_SUCCESS;
}

static CUresult start(CUcontext *context)
{
    FAKE_READY();
    *context = fake_context();
    return *context ? fake_unsafe() : CUDA_ERROR_INVALID_CONTEXT;
}

FAKE_API CUresult cuMemAlloc(CUdeviceptr *out, size_t bytes)
{
    struct stat st;
    CUcontext context;
    CUresult r = start(&context);
    if (r != CUDA_SUCCESS)
        return r;
    if (!bytes)
        return CUDA_ERROR_INVALID_VALUE;
    if (bytes > fake_free(context->gpu))
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct fake_memory m = {.kind = FAKE_DEVICE, .context = context, .bytes = bytes};
    m.mapped = (bytes + PAGE - 1) / PAGE * PAGE;
    m.fd = memfd_create("fake GPU memory", MFD_CLOEXEC);
    if (m.fd < 0 || ftruncate(m.fd, (off_t)m.mapped) || fstat(m.fd, &st) ||
        !(m.at = fake_map(m.fd, m.mapped))) {
        if (m.fd >= 0)
            close(m.fd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    m.inode = st.st_ino;
    fake_poison(m.at, m.mapped);
    pthread_mutex_lock(&fake_lock);
    fake_memory_add(&m);
    pthread_mutex_unlock(&fake_lock);
    *out = (CUdeviceptr)(uintptr_t)m.at;
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuMemFree(CUdeviceptr memory)
{
    CUcontext context;
    CUresult r = start(&context);
    if (r != CUDA_SUCCESS || !memory)
        return r;
    pthread_mutex_lock(&fake_lock);
    struct fake_memory *m =
        fake_memory_take_idle((void *)(uintptr_t)memory, FAKE_DEVICE, "cuMemFree");
    pthread_mutex_unlock(&fake_lock);
    if (!m)
        return CUDA_ERROR_INVALID_VALUE;
    munmap(m->at, m->mapped);
    close(m->fd);
    free(m);
    return CUDA_SUCCESS;
}

void fake_memory_reset(CUcontext context)
{
    for (struct fake_memory *m = all, *next; m; m = next) {
        next = m->next;
        if (m->context != context ||
            (m->kind != FAKE_DEVICE && m->kind != FAKE_HOST && m->kind != FAKE_REGISTERED))
            continue;
        fake_memory_take(m->at, m->kind);
        if (m->kind != FAKE_REGISTERED)
            munmap(m->at, m->mapped);
        if (m->fd >= 0)
            close(m->fd);
        free(m);
    }
}

/* --- host memory ------------------------------------------------------------------------------------------ */

FAKE_API CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned int flags)
{
    CUcontext context;
    CUresult r = start(&context);
    if (r != CUDA_SUCCESS)
        return r;
    if (!bytes || flags & ~7u)
        return CUDA_ERROR_INVALID_VALUE;
    struct fake_memory m = {.kind = FAKE_HOST, .context = context, .bytes = bytes, .fd = -1};
    m.mapped = (bytes + PAGE - 1) / PAGE * PAGE;
    void *p = mmap(NULL, m.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    m.at = p;
    fake_poison(m.at, m.bytes);
    pthread_mutex_lock(&fake_lock);
    fake_memory_add(&m);
    pthread_mutex_unlock(&fake_lock);
    *out = p;
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuMemFreeHost(void *memory)
{
    CUcontext context;
    CUresult r = start(&context);
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&fake_lock);
    struct fake_memory *m = fake_memory_take_idle(memory, FAKE_HOST, "cuMemFreeHost");
    pthread_mutex_unlock(&fake_lock);
    if (!m)
        return CUDA_ERROR_INVALID_VALUE;
    munmap(m->at, m->mapped);
    free(m);
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuMemHostRegister(void *memory, size_t bytes, unsigned int flags)
{
    CUcontext context;
    CUresult r = start(&context);
    if (r != CUDA_SUCCESS)
        return r;
    if (!memory || !bytes)
        return CUDA_ERROR_INVALID_VALUE;
    if (flags & ~3u) /* of devices, read only */
        return CUDA_ERROR_NOT_SUPPORTED;
    struct fake_memory m = {
        .kind = FAKE_REGISTERED, .context = context, .at = memory, .bytes = bytes, .fd = -1};
    pthread_mutex_lock(&fake_lock);
    if (fake_memory_of(memory, 1) || fake_memory_of((uint8_t *)memory + bytes - 1, 1))
        r = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    else
        fake_memory_add(&m);
    pthread_mutex_unlock(&fake_lock);
    return r;
}

FAKE_API CUresult cuMemHostUnregister(void *memory)
{
    CUcontext context;
    CUresult r = start(&context);
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&fake_lock);
    struct fake_memory *m = fake_memory_take(memory, FAKE_REGISTERED);
    pthread_mutex_unlock(&fake_lock);
    free(m);
    return m ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

FAKE_API CUresult cuMemHostGetDevicePointer(CUdeviceptr *out, void *memory, unsigned int flags)
{
    FAKE_READY();
    pthread_mutex_lock(&fake_lock);
    struct fake_memory *m = fake_memory_of(memory, 1);
    bool good = m && (m->kind == FAKE_HOST || m->kind == FAKE_REGISTERED) && !flags;
    pthread_mutex_unlock(&fake_lock);
    if (good)
        *out = (CUdeviceptr)(uintptr_t)memory;
    return good ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* --- what a pointer is ------------------------------------------------------------------------------------- */

FAKE_API CUresult cuMemGetAddressRange(CUdeviceptr *base, size_t *bytes, CUdeviceptr pointer)
{
    FAKE_READY();
    CUresult r = CUDA_ERROR_NOT_FOUND;
    pthread_mutex_lock(&fake_lock);
    const struct fake_memory *m = fake_memory_of((void *)(uintptr_t)pointer, 1);
    if (m && m->kind != FAKE_REGISTERED) {
        r = CUDA_SUCCESS;
        if (base)
            *base = (CUdeviceptr)(uintptr_t)m->at;
        if (bytes)
            *bytes = m->bytes;
    }
    pthread_mutex_unlock(&fake_lock);
    return r;
}

/* Of memory that is not known (m NULL) all are 0, the ordinal apart, which stays as it was. */
static CUresult attribute(const struct fake_memory *m, CUpointer_attribute which, void *out)
{
    bool host = m && (m->kind == FAKE_HOST || m->kind == FAKE_REGISTERED);
    switch (which) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)out = !m ? 0 : host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(unsigned *)out = 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        if (m)
            *(int *)out = m->context->gpu;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        *(unsigned long long *)out = m ? m->id : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)out = m ? (CUdeviceptr)(uintptr_t)m->at : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)out = m ? m->bytes : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        *(CUmemoryPool *)out = NULL;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

FAKE_API CUresult cuPointerGetAttributes(unsigned int count, CUpointer_attribute *which, void **out,
                                         CUdeviceptr pointer)
{
    FAKE_READY();
    CUresult r = CUDA_SUCCESS;
    pthread_mutex_lock(&fake_lock);
    const struct fake_memory *m = fake_memory_of((void *)(uintptr_t)pointer, 1);
    for (unsigned i = 0; i < count && r == CUDA_SUCCESS; i++)
        r = attribute(m, which[i], out[i]);
    pthread_mutex_unlock(&fake_lock);
    return r;
}

FAKE_API CUresult cuPointerGetAttribute(void *out, CUpointer_attribute which, CUdeviceptr pointer)
{
    FAKE_READY();
    pthread_mutex_lock(&fake_lock);
    const struct fake_memory *m = fake_memory_of((void *)(uintptr_t)pointer, 1);
    CUresult r = m ? attribute(m, which, out) : CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_unlock(&fake_lock);
    return r;
}
