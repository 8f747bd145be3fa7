/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c: what a pointer is, how much device memory the library holds, and pinned memory. What it holds is counted per GPU, in all
 * contexts together, against CHOIR_CUDA_MEMORY.
 */
#include "base/knob.h"
#include "cuda/device.h"
#include <stdio.h>
#include <sys/mman.h>

static _Atomic uint64_t held[CUDA_DEVICES_MOST];

enum choir_status cuda_device_of_pointer(const void *pointer, struct cuda_pointer *out)
{
    *out = (struct cuda_pointer){.where = CUDA_HOST, .ordinal = -1};
    if (!pointer || !cuda_driver_in_use())
        return CHOIR_OK;
    /* Of memory that CUDA does not know, all of them are 0. */
    unsigned type = 0, managed = 0;
    int ordinal = -1;
    CUpointer_attribute which[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                   CU_POINTER_ATTRIBUTE_IS_MANAGED,
                                   CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
    void *value[] = {&type, &managed, &ordinal};
    CUresult r = cuda_driver()->cuPointerGetAttributes(base_count(which), which, value,
                                                       (CUdeviceptr)(uintptr_t)pointer);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, "cuPointerGetAttributes");
    if (managed)
        return base_fail(CHOIR_ERR_POINTER, "use memory of cudaMalloc, cudaMallocHost or malloc",
                         "%p is managed memory (cudaMallocManaged)", pointer);
    if (type == CU_MEMORYTYPE_HOST)
        *out = (struct cuda_pointer){.where = CUDA_PINNED, .ordinal = ordinal};
    else if (type != 0)
        *out = (struct cuda_pointer){.where = CUDA_DEVICE, .ordinal = ordinal};
    return CHOIR_OK;
}

uint64_t cuda_device_held(int ordinal)
{
    return atomic_load_explicit(&held[ordinal], memory_order_relaxed);
}

enum choir_status cuda_device_count(int ordinal, uint64_t bytes)
{
    uint64_t most = (uint64_t)knob_int(KNOB_CUDA_MEMORY), now = cuda_device_held(ordinal);
    do
        if (most && (now > most || bytes > most - now))
            return base_fail(CHOIR_ERR_NO_MEMORY, "raise CHOIR_CUDA_MEMORY (0: no limit)",
                             "GPU %d: %llu bytes more than the %llu held would pass "
                             "CHOIR_CUDA_MEMORY, %llu",
                             ordinal, (unsigned long long)bytes, (unsigned long long)now,
                             (unsigned long long)most);
    while (!atomic_compare_exchange_weak_explicit(&held[ordinal], &now, now + bytes,
                                                  memory_order_relaxed, memory_order_relaxed));
    return CHOIR_OK;
}

void cuda_device_uncount(int ordinal, uint64_t bytes)
{
    uint64_t before = atomic_fetch_sub_explicit(&held[ordinal], bytes, memory_order_relaxed);
    choir_assert(before >= bytes);
}

enum choir_status cuda_device_alloc(const struct cuda_device *device, uint64_t bytes,
                                    CUdeviceptr *memory)
{
    char what[64];
    CUresult r;
    enum choir_status st = cuda_device_count(device->gpu.ordinal, bytes);
    if (st != CHOIR_OK)
        return st;
    if ((st = cuda_device_enter(device)) != CHOIR_OK)
        goto err_count;
    r = cuda_driver()->cuMemAlloc(memory, bytes);
    cuda_device_leave(device);
    if (r == CUDA_SUCCESS)
        return CHOIR_OK;
    snprintf(what, sizeof(what), "cuMemAlloc of %llu bytes", (unsigned long long)bytes);
    st = cuda_fail(r, what);
err_count:
    cuda_device_uncount(device->gpu.ordinal, bytes);
    return st;
}

void cuda_device_free(const struct cuda_device *device, CUdeviceptr memory, uint64_t bytes)
{
    if (!memory || cuda_device_enter(device) != CHOIR_OK)
        return; /* the context is gone, and all memory with it, or belongs to the parent */
    CUresult r = cuda_driver()->cuMemFree(memory);
    cuda_device_leave(device);
    cuda_device_uncount(device->gpu.ordinal, bytes);
    if (r != CUDA_SUCCESS)
        cuda_fail(r, "cuMemFree");
}

static uint64_t pages(uint64_t bytes)
{
    return (bytes + 4095) & ~4095ull;
}

enum choir_status cuda_pinned_alloc(uint64_t bytes, void **out, CUdeviceptr *there)
{
    const struct cuda_driver *cu = cuda_driver();
    bytes = pages(bytes);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %llu pinned bytes",
                         (unsigned long long)bytes);
    madvise(memory, bytes, MADV_DONTFORK); /* a GPU writes here, whoever else has the page */
    CUresult r = cu->cuMemHostRegister(memory, bytes,
                                       CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
    if (r == CUDA_SUCCESS) {
        r = cu->cuMemHostGetDevicePointer(there, memory, 0);
        if (r == CUDA_SUCCESS) {
            *out = memory;
            return CHOIR_OK;
        }
        cu->cuMemHostUnregister(memory);
    }
    munmap(memory, bytes);
    char what[80];
    snprintf(what, sizeof(what), "pinning %llu bytes of host memory", (unsigned long long)bytes);
    return cuda_fail(r, what);
}

void cuda_pinned_free(void *memory, uint64_t bytes)
{
    cuda_driver()->cuMemHostUnregister(memory);
    munmap(memory, pages(bytes));
}
