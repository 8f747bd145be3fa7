/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmm.c: physical memory, addresses, and what joins them. Physical memory is a file without a name, and its descriptor is what
 * other processes import; the file's name in /proc says which GPU it is of. Addresses are reserved without access, and have none
 * until it is set for a GPU. Memory lives while a handle or a mapping of any process has it.
 */
#include "tests/fake_cuda/fake.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define GRAIN ((size_t)2 << 20)
#define NAME "fake GPU memory of "
#define FLAGS (MAP_SHARED | MAP_NORESERVE)

struct physical { /* a handle's; kept by its references and mappings */
    struct physical *next;
    int fd, gpu;
    size_t bytes;
    unsigned references, mappings;
    CUmemAllocationHandleType types;
};
struct range { /* reserved, or mapped */
    struct range *next;
    uint8_t *at;
    size_t bytes;
    struct physical *physical; /* NULL: a reservation */
    uint32_t access;           /* bit i: GPU i has it */
};
static struct physical *memories; /* all under fake_lock */
static struct range *reserved, *mapped;

static struct range *range_of(struct range *list, CUdeviceptr at, size_t bytes)
{
    uint8_t *p = (uint8_t *)(uintptr_t)at;
    while (list && !(p >= list->at && p < list->at + list->bytes))
        list = list->next;
    return list && bytes <= (size_t)(list->at + list->bytes - p) ? list : NULL;
}

static bool overlaps(const struct range *list, CUdeviceptr at, size_t bytes)
{
    const uint8_t *p = (const uint8_t *)(uintptr_t)at;
    while (list && (p >= list->at + list->bytes || p + bytes <= list->at))
        list = list->next;
    return list != NULL;
}

static struct range *add(struct range **list, uint8_t *at, size_t bytes, struct physical *physical)
{
    struct range *r = malloc(sizeof(*r));
    if (!r)
        abort();
    *r = (struct range){*list, at, bytes, physical, 0};
    return *list = r;
}

/* Exactly this range, out of its list; NULL: there is none. */
static struct range *take(struct range **list, CUdeviceptr at, size_t bytes)
{
    for (; *list; list = &(*list)->next) {
        struct range *r = *list;
        if (r->at == (uint8_t *)(uintptr_t)at && r->bytes == bytes) {
            *list = r->next;
            return r;
        }
    }
    return NULL;
}

/* --- physical memory --------------------------------------------------------------------------------------- */

static struct physical *physical_of(CUmemGenericAllocationHandle handle)
{
    struct physical *p = memories;
    while (p && (uintptr_t)p != handle)
        p = p->next;
    return p && p->references ? p : NULL;
}

static CUmemGenericAllocationHandle keep(int fd, int gpu, size_t bytes,
                                         CUmemAllocationHandleType types)
{
    struct physical *p = malloc(sizeof(*p));
    if (!p)
        abort();
    pthread_mutex_lock(&fake_lock);
    *p = (struct physical){memories, fd, gpu, bytes, 1, 0, types};
    memories = p;
    pthread_mutex_unlock(&fake_lock);
    return (CUmemGenericAllocationHandle)(uintptr_t)p;
}

static void drop_if_unused(struct physical *p)
{
    struct physical **at = &memories;
    if (p->references || p->mappings)
        return;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    close(p->fd);
    free(p);
}

uint64_t fake_vmm_bytes(int gpu)
{
    uint64_t bytes = 0;
    for (const struct physical *p = memories; p; p = p->next)
        bytes += p->gpu == gpu ? p->bytes : 0;
    return bytes;
}

static CUresult check_prop(const CUmemAllocationProp *prop)
{
    int gpus = 0;
    FAKE_READY();
    cuDeviceGetCount(&gpus);
    if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
        prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE || prop->win32HandleMetaData)
        return CUDA_ERROR_INVALID_VALUE;
    if (prop->location.id < 0 || prop->location.id >= gpus)
        return CUDA_ERROR_INVALID_DEVICE;
    return prop->requestedHandleTypes == CU_MEM_HANDLE_TYPE_NONE ||
                   prop->requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
               ? CUDA_SUCCESS
               : CUDA_ERROR_NOT_SUPPORTED;
}

FAKE_API CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *prop,
                                                CUmemAllocationGranularity_flags option)
{
    CUresult r = check_prop(prop);
    (void)option;
    if (r == CUDA_SUCCESS)
        *bytes = GRAIN;
    return r;
}

FAKE_API CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes,
                              const CUmemAllocationProp *prop, unsigned long long flags)
{
    char name[64];
    CUresult r = check_prop(prop);
    if (r == CUDA_SUCCESS)
        r = fake_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    if (!bytes || bytes % GRAIN || flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (bytes > fake_free(prop->location.id))
        return CUDA_ERROR_OUT_OF_MEMORY;
    snprintf(name, sizeof(name), NAME "%d", prop->location.id);
    int fd = memfd_create(name, MFD_CLOEXEC);
    uint8_t *p = fd >= 0 && !ftruncate(fd, (off_t)bytes) ? fake_map(fd, bytes) : NULL;
    if (!p) {
        if (fd >= 0)
            close(fd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    fake_poison(p, bytes);
    munmap(p, bytes);
    *handle = keep(fd, prop->location.id, bytes, prop->requestedHandleTypes);
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    FAKE_READY();
    pthread_mutex_lock(&fake_lock);
    struct physical *p = physical_of(handle);
    if (p) {
        p->references--;
        drop_if_unused(p);
    }
    pthread_mutex_unlock(&fake_lock);
    return p ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

FAKE_API CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *at)
{
    FAKE_READY();
    pthread_mutex_lock(&fake_lock);
    struct range *m = range_of(mapped, (CUdeviceptr)(uintptr_t)at, 1);
    if (m) {
        m->physical->references++;
        *handle = (CUmemGenericAllocationHandle)(uintptr_t)m->physical;
    }
    pthread_mutex_unlock(&fake_lock);
    return m ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

FAKE_API CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop,
                                                         CUmemGenericAllocationHandle handle)
{
    FAKE_READY();
    pthread_mutex_lock(&fake_lock);
    const struct physical *p = physical_of(handle);
    if (p)
        *prop = (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .requestedHandleTypes = p->types,
                                      .location.type = CU_MEM_LOCATION_TYPE_DEVICE,
                                      .location.id = p->gpu};
    pthread_mutex_unlock(&fake_lock);
    return p ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

FAKE_API CUresult cuMemExportToShareableHandle(void *out, CUmemGenericAllocationHandle handle,
                                               CUmemAllocationHandleType type,
                                               unsigned long long flags)
{
    FAKE_READY();
    int fd = -1;
    if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || flags)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fake_lock);
    const struct physical *p = physical_of(handle);
    bool may = p && p->types & type;
    if (may)
        fd = dup(p->fd); /* inherited by programs, as the driver's may be */
    pthread_mutex_unlock(&fake_lock);
    if (!may)
        return CUDA_ERROR_INVALID_VALUE;
    if (fd < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *(int *)out = fd;
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *os,
                                                 CUmemAllocationHandleType type)
{
    char path[64], link[128];
    struct stat st;
    FAKE_READY();
    int fd = (int)(uintptr_t)os;
    if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_INVALID_VALUE;
    if (fake_number("FAKE_CUDA_VMM", 1) == 2)
        return CUDA_ERROR_NOT_SUPPORTED;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, link, sizeof(link) - 1);
    link[n > 0 ? n : 0] = 0;
    const char *gpu = strstr(link, NAME);
    if (!gpu || fstat(fd, &st))
        return CUDA_ERROR_INVALID_VALUE;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = keep(own, atoi(gpu + strlen(NAME)), (size_t)st.st_size, type);
    return CUDA_SUCCESS;
}

/* --- addresses ----------------------------------------------------------------------------------------------- */

FAKE_API CUresult cuMemAddressReserve(CUdeviceptr *out, size_t bytes, size_t alignment,
                                      CUdeviceptr hint, unsigned long long flags)
{
    FAKE_READY();
    (void)hint;
    if (!bytes || bytes % GRAIN || flags || alignment & (alignment - 1) || alignment > GRAIN)
        return CUDA_ERROR_INVALID_VALUE;
    uint8_t *p =
        mmap(NULL, bytes + GRAIN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    uint8_t *at = (uint8_t *)(((uintptr_t)p + GRAIN - 1) & ~(uintptr_t)(GRAIN - 1));
    if (at > p)
        munmap(p, (size_t)(at - p));
    if (p + GRAIN > at)
        munmap(at + bytes, (size_t)(p + GRAIN - at));
    pthread_mutex_lock(&fake_lock);
    add(&reserved, at, bytes, NULL);
    pthread_mutex_unlock(&fake_lock);
    *out = (CUdeviceptr)(uintptr_t)at;
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuMemAddressFree(CUdeviceptr at, size_t bytes)
{
    FAKE_READY();
    pthread_mutex_lock(&fake_lock);
    struct range *r = overlaps(mapped, at, bytes) ? NULL : take(&reserved, at, bytes);
    pthread_mutex_unlock(&fake_lock);
    if (!r)
        return CUDA_ERROR_INVALID_VALUE;
    munmap(r->at, r->bytes);
    free(r);
    return CUDA_SUCCESS;
}

FAKE_API CUresult cuMemMap(CUdeviceptr at, size_t bytes, size_t offset,
                           CUmemGenericAllocationHandle handle, unsigned long long flags)
{
    FAKE_READY();
    CUresult r = fake_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    if (!bytes || (at | bytes) % GRAIN || offset || flags)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fake_lock);
    struct physical *p = physical_of(handle);
    bool good =
        p && bytes <= p->bytes && range_of(reserved, at, bytes) && !overlaps(mapped, at, bytes) &&
        mmap((void *)(uintptr_t)at, bytes, PROT_NONE, FLAGS | MAP_FIXED, p->fd, 0) != MAP_FAILED;
    if (good) {
        p->mappings++;
        add(&mapped, (uint8_t *)(uintptr_t)at, bytes, p);
    }
    pthread_mutex_unlock(&fake_lock);
    return good ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

FAKE_API CUresult cuMemSetAccess(CUdeviceptr at, size_t bytes, const CUmemAccessDesc *d,
                                 size_t count)
{
    int gpus = 0;
    FAKE_READY();
    cuDeviceGetCount(&gpus);
    for (size_t i = 0; i < count; i++)
        if (d[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE || d[i].location.id < 0 ||
            d[i].location.id >= gpus || d[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&fake_lock);
    struct range *m = range_of(mapped, at, bytes);
    bool good = m && m->at == (uint8_t *)(uintptr_t)at && m->bytes == bytes && count;
    if (good && !m->access) {
        good = !mprotect(m->at, bytes, PROT_READ | PROT_WRITE);
        fake_memory_add(&(struct fake_memory){.kind = FAKE_MAPPED,
                                              .context = fake_primary(m->physical->gpu),
                                              .at = m->at,
                                              .bytes = bytes,
                                              .mapped = bytes,
                                              .fd = -1});
    }
    for (size_t i = 0; i < count && good; i++)
        m->access |= 1u << d[i].location.id;
    if (good)
        fake_memory_of(m->at, 1)->access = m->access;
    pthread_mutex_unlock(&fake_lock);
    return good ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

FAKE_API CUresult cuMemUnmap(CUdeviceptr at, size_t bytes)
{
    FAKE_READY();
    CUresult r = fake_unsafe();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&fake_lock);
    struct range *m = range_of(mapped, at, bytes);
    if (m && m->access) /* kernels of any GPU that has access may use it */
        free(fake_memory_take_idle(m->at, FAKE_MAPPED, "cuMemUnmap"));
    m = take(&mapped, at, bytes);
    if (m) {
        mmap(m->at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0);
        m->physical->mappings--;
        drop_if_unused(m->physical);
        free(m);
    }
    pthread_mutex_unlock(&fake_lock);
    return m ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
