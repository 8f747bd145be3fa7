/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share.c: see share.h. What the driver asks for: sizes and addresses are multiples of the granularity; a mapping has no access
 * until it is set, for each GPU; memory is freed once all its mappings, handles and descriptors are gone, in all processes,
 * so each is closed as soon as it has served.
 */
#include "cuda/share.h"
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static enum choir_status fail(CUresult r, const char *call, uint64_t bytes)
{
    char what[120];
    size_t left = 0, most = 0;
    if (r == CUDA_ERROR_OUT_OF_MEMORY && cuda_driver()->cuMemGetInfo(&left, &most) == CUDA_SUCCESS)
        snprintf(what, sizeof(what), "%s of %llu bytes, %zu of %zu are free", call,
                 (unsigned long long)bytes, left, most);
    else
        snprintf(what, sizeof(what), "%s of %llu bytes", call, (unsigned long long)bytes);
    return cuda_fail(r, what);
}

static CUmemAllocationProp prop_of(const struct cuda_device *device, bool shared)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .requestedHandleTypes =
                                    shared ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
                                           : CU_MEM_HANDLE_TYPE_NONE};
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = device->gpu.device;
    return prop;
}

bool cuda_share_maps(const struct cuda_device *device)
{
    static const CUdevice_attribute needed[] = {
        CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED};
    for (size_t i = 0; i < base_count(needed); i++) {
        int has = 0;
        CUresult r = cuda_driver()->cuDeviceGetAttribute(&has, needed[i], device->gpu.device);
        if (r != CUDA_SUCCESS) {
            cuda_fail(r, "cuDeviceGetAttribute");
            return false;
        }
        if (!has) {
            base_fail(CHOIR_ERR_UNSUPPORTED, "use a GPU and driver that do",
                      "GPU %d does not map physical memory that has a descriptor",
                      device->gpu.ordinal);
            return false;
        }
    }
    return true;
}

static CUresult set_access(CUdeviceptr at, uint64_t room, CUdevice device)
{
    CUmemAccessDesc access = {.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = device;
    return cuda_driver()->cuMemSetAccess(at, room, &access, 1);
}

/* --- own memory ---------------------------------------------------------------------------------------------- */

enum choir_status cuda_block_fill(const struct cuda_device *device, struct cuda_block *b)
{
    const struct cuda_driver *cu = cuda_driver();
    CUmemAllocationProp prop = prop_of(device, b->shared);
    const char *call = "cuMemCreate";
    enum choir_status st = cuda_device_count(device->gpu.ordinal, b->room);
    if (st != CHOIR_OK)
        return st;
    CUresult r = cu->cuMemCreate(&b->handle, b->room, &prop, 0);
    if (r != CUDA_SUCCESS)
        goto err_count;
    call = "cuMemMap";
    r = cu->cuMemMap(b->at, b->room, 0, b->handle, 0);
    if (r != CUDA_SUCCESS)
        goto err_create;
    call = "cuMemSetAccess";
    r = set_access(b->at, b->room, device->gpu.device);
    if (r != CUDA_SUCCESS)
        goto err_map;
    b->backed = true;
    return CHOIR_OK;
err_map:
    cu->cuMemUnmap(b->at, b->room);
err_create:
    cu->cuMemRelease(b->handle);
err_count:
    cuda_device_uncount(device->gpu.ordinal, b->room);
    return fail(r, call, b->room);
}

enum choir_status cuda_block_empty(const struct cuda_device *device, struct cuda_block *b)
{
    const struct cuda_driver *cu = cuda_driver();
    if (!b->backed)
        return CHOIR_OK;
    CUresult r = cu->cuMemUnmap(b->at, b->room);
    if (r != CUDA_SUCCESS)
        return fail(r, "cuMemUnmap", b->room);
    b->backed = false;
    cuda_device_uncount(device->gpu.ordinal, b->room);
    r = cu->cuMemRelease(b->handle);
    return r == CUDA_SUCCESS ? CHOIR_OK : fail(r, "cuMemRelease", b->room);
}

static enum choir_status reserve(const struct cuda_device *device, struct cuda_block *b)
{
    const struct cuda_driver *cu = cuda_driver();
    CUmemAllocationProp prop = prop_of(device, b->shared);
    size_t grain = 0;
    CUresult r = cu->cuMemGetAllocationGranularity(&grain, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    if (r != CUDA_SUCCESS)
        return fail(r, "cuMemGetAllocationGranularity", b->bytes);
    b->room = (b->bytes + grain - 1) / grain * grain;
    r = cu->cuMemAddressReserve(&b->at, b->room, 0, 0, 0);
    return r == CUDA_SUCCESS ? CHOIR_OK : fail(r, "cuMemAddressReserve", b->room);
}

enum choir_status cuda_block_alloc(const struct cuda_device *device, uint64_t bytes,
                                   enum cuda_way way, bool shared, struct cuda_block *block)
{
    struct cuda_block b = {.bytes = bytes, .room = bytes, .way = way, .shared = shared};
    enum choir_status st;
    if (way == CUDA_BY_MAPPING) {
        st = reserve(device, &b);
        if (st == CHOIR_OK && (st = cuda_block_fill(device, &b)) != CHOIR_OK)
            cuda_driver()->cuMemAddressFree(b.at, b.room);
    } else {
        st = cuda_device_alloc(device, bytes, &b.at);
        b.backed = st == CHOIR_OK;
    }
    if (st == CHOIR_OK)
        *block = b;
    return st;
}

void cuda_block_free(const struct cuda_device *device, struct cuda_block *b)
{
    if (b->at && b->way != CUDA_BY_MAPPING)
        cuda_device_free(device, b->at, b->room);
    else if (b->at && cuda_block_empty(device, b) == CHOIR_OK)
        cuda_driver()->cuMemAddressFree(b->at, b->room);
    *b = (struct cuda_block){0};
}

/* --- others' ----------------------------------------------------------------------------------------------------- */

enum choir_status cuda_block_allow(const struct cuda_block *b, CUdevice device)
{
    CUresult r = set_access(b->at, b->room, device);
    return r == CUDA_SUCCESS ? CHOIR_OK : fail(r, "cuMemSetAccess for another GPU", b->room);
}

enum choir_status cuda_block_export(const struct cuda_block *b, int *fd)
{
    CUresult r = cuda_driver()->cuMemExportToShareableHandle(
        fd, b->handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    if (r != CUDA_SUCCESS)
        return fail(r, "cuMemExportToShareableHandle", b->room);
    fcntl(*fd, F_SETFD, FD_CLOEXEC);
    return CHOIR_OK;
}

enum choir_status cuda_block_import(const struct cuda_device *device, int fd, uint64_t room,
                                    struct cuda_block *b)
{
    const struct cuda_driver *cu = cuda_driver();
    CUmemGenericAllocationHandle handle;
    CUdeviceptr kept = b->at;
    const char *call = "cuMemImportFromShareableHandle";
    CUresult r = cu->cuMemImportFromShareableHandle(&handle, (void *)(uintptr_t)fd,
                                                    CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    if (r != CUDA_SUCCESS)
        return fail(r, call, room);
    if (!kept) {
        call = "cuMemAddressReserve";
        r = cu->cuMemAddressReserve(&b->at, room, 0, 0, 0);
        if (r != CUDA_SUCCESS)
            goto err_import;
    }
    call = "cuMemMap";
    r = cu->cuMemMap(b->at, room, 0, handle, 0);
    if (r != CUDA_SUCCESS)
        goto err_reserve;
    call = "cuMemSetAccess";
    r = set_access(b->at, room, device->gpu.device);
    if (r != CUDA_SUCCESS)
        goto err_map;
    cu->cuMemRelease(handle); /* the mapping holds the memory */
    *b = (struct cuda_block){
        .at = b->at, .bytes = room, .room = room, .way = CUDA_BY_MAPPING, .backed = true};
    return CHOIR_OK;
err_map:
    cu->cuMemUnmap(b->at, room);
err_reserve:
    if (!kept) {
        cu->cuMemAddressFree(b->at, room);
        b->at = 0;
    }
err_import:
    cu->cuMemRelease(handle);
    return fail(r, call, room);
}

enum choir_status cuda_block_unimport(struct cuda_block *b, bool stays)
{
    const struct cuda_driver *cu = cuda_driver();
    CUresult r = b->backed ? cu->cuMemUnmap(b->at, b->room) : CUDA_SUCCESS;
    if (r != CUDA_SUCCESS)
        return fail(r, "cuMemUnmap", b->room);
    b->backed = false;
    if (b->at && !stays) {
        cu->cuMemAddressFree(b->at, b->room);
        *b = (struct cuda_block){0};
    }
    return CHOIR_OK;
}
