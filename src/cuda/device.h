/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h: the GPUs: what each is, and per context what this library keeps in it: its kernels, and how much memory. Made at the
 * first call, kept until the process ends.
 */
#ifndef CUDA_DEVICE_H
#define CUDA_DEVICE_H

#include "cuda/driver.h"

#define CUDA_DEVICES_MOST 64
#define CUDA_IMAGES_MOST 32

/* What a GPU is; needs no context. */
struct cuda_gpu {
    CUdevice device;
    int ordinal;
    char name[96], pci[20];
    CUuuid uuid;
    int major, minor, sms; /* compute capability, multiprocessors */
};
enum choir_status cuda_gpu_describe(int ordinal, struct cuda_gpu *gpu);
/* Of what decides how fast it is. */
uint64_t cuda_gpu_hash(const struct cuda_gpu *gpu);
/* "GPU-...", as nvidia-smi writes it. */
void cuda_gpu_uuid(const struct cuda_gpu *gpu, char text[48]);

/* A GPU in one context: the primary one, which the CUDA runtime uses, or one that the program made. */
struct cuda_device {
    struct cuda_gpu gpu;
    CUcontext context;
    unsigned long long context_id; /* never used again, unlike the handle */
    bool primary;                  /* and then retained */
    _Atomic uint32_t comms; /* communicators that are open on it: they share the multiprocessors */
    uint32_t modules;
    CUmodule module[CUDA_IMAGES_MOST];
    struct cuda_device *next;
};
/* The device of the calling thread's current context; device 0 in its primary context if there is none, as in the CUDA runtime.
 * The first call loads all kernels and runs one of them, also while a stream of the thread is captured. NULL: *status and this
 * thread's record say why. */
struct cuda_device *cuda_device_current(enum choir_status *status);
/* A device in its primary context. */
struct cuda_device *cuda_device_at(int ordinal, enum choir_status *status);
/* Between enter and leave the device's context is the thread's current one. */
enum choir_status cuda_device_enter(const struct cuda_device *device);
void cuda_device_leave(const struct cuda_device *device);
/* Whether what is put into the stream becomes part of a graph. */
enum choir_status cuda_device_capturing(const struct cuda_device *device, CUstream stream,
                                        bool *capturing);
/* The same, and what the library does is no part of a capture, of this thread or another. */
enum choir_status cuda_device_begin(const struct cuda_device *device, CUstreamCaptureMode *mode);
void cuda_device_end(const struct cuda_device *device, CUstreamCaptureMode *mode);
/* A kernel by name, ready to run: nothing is loaded at its launch. */
enum choir_status cuda_device_function(const struct cuda_device *device, const char *name,
                                       CUfunction *function);

/* Device memory of the library: counted, and CHOIR_CUDA_MEMORY at most on a device. Both may wait for running kernels, so neither
 * is called by an operation. */
enum choir_status cuda_device_alloc(const struct cuda_device *device, uint64_t bytes,
                                    CUdeviceptr *memory);
void cuda_device_free(const struct cuda_device *device, CUdeviceptr memory, uint64_t bytes);
/* The same count for memory that is got in another way (mapped, shared). */
enum choir_status cuda_device_count(int ordinal, uint64_t bytes);
void cuda_device_uncount(int ordinal, uint64_t bytes);
uint64_t cuda_device_held(int ordinal);

/* Pinned memory, of whole pages, in the current context. It is the process's own, registered with
 * CUDA, and not CUDA's: so it stays what it is for the thread that looks at it when CUDA ends before
 * the thread does, at exit or by a reset of the device. */
enum choir_status cuda_pinned_alloc(uint64_t bytes, void **memory, CUdeviceptr *there);
void cuda_pinned_free(void *memory, uint64_t bytes);

#endif
