/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share.h: device memory of communicators: blocks whose addresses last, and whose physical memory may be given back and taken again
 * (cuMemMap), and, where that is not to be had, blocks of cuMemAlloc. In the device's context, nothing of it part of a capture.
 */
#ifndef CUDA_SHARE_H
#define CUDA_SHARE_H

#include "cuda/device.h"
#include "cuda/engine.h"

struct cuda_block {
    CUdeviceptr at;       /* 0: none */
    uint64_t bytes, room; /* asked for; taken of the GPU, a multiple of what it maps */
    enum cuda_way way;
    bool shared;                         /* other processes may map it */
    bool backed;                         /* it has physical memory now */
    CUmemGenericAllocationHandle handle; /* of that, if cuMemMap has mapped it */
};

/* Whether the device maps physical memory and gives it to other processes; false: the record says why not. */
bool cuda_share_maps(const struct cuda_device *device);
/* Both wait, as cuMemAlloc and cuMemFree may, for what runs on the device. Counted against CHOIR_CUDA_MEMORY. */
enum choir_status cuda_block_alloc(const struct cuda_device *device, uint64_t bytes,
                                   enum cuda_way way, bool shared, struct cuda_block *block);
void cuda_block_free(const struct cuda_device *device, struct cuda_block *block);
/* Of CUDA_BY_MAPPING: gives the physical memory back, the address stays; takes memory for it again, whose content is undefined. */
enum choir_status cuda_block_empty(const struct cuda_device *device, struct cuda_block *block);
enum choir_status cuda_block_fill(const struct cuda_device *device, struct cuda_block *block);

/* Another GPU of this process may use it, at the same address. */
enum choir_status cuda_block_allow(const struct cuda_block *block, CUdevice device);
/* A descriptor for other processes, which the caller closes. */
enum choir_status cuda_block_export(const struct cuda_block *block, int *fd);
/* Maps what another process exported: `room` bytes, at block->at if that is an address of before. Does not close fd. */
enum choir_status cuda_block_import(const struct cuda_device *device, int fd, uint64_t room,
                                    struct cuda_block *block);
/* Ends an import; its address stays if it is to be imported again. */
enum choir_status cuda_block_unimport(struct cuda_block *block, bool stays);

#endif
