/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda.h: what the rest of the library sees of CUDA. It needs no CUDA toolkit: without one, absent.c stands for all of src/cuda
 * (the Makefile chooses). driver.h and device.h are src/cuda's own.
 */
#ifndef CUDA_CUDA_H
#define CUDA_CUDA_H

#include "cuda/stream.h"

/* The driver's functions (driver.h), found in libcuda.so.1 at run time, once; nothing is initialised. NULL: there are none, and
 * this thread's record says why. */
struct cuda_driver;
const struct cuda_driver *cuda_driver(void);
/* Initialises CUDA in this process, idempotent. */
enum choir_status cuda_driver_init(void);
/* Whether anything in this process has initialised CUDA; until then no pointer can be the device's. Loads nothing. A load
 * when true, some 20 ns when not. */
bool cuda_driver_in_use(void);

/* Whether cuda_driver_in_use has said so before; a load. */
bool cuda_driver_seen(void);

/* Where memory is. */
enum cuda_where {
    CUDA_HOST,   /* of malloc and the like */
    CUDA_PINNED, /* host memory that CUDA allocated or registered */
    CUDA_DEVICE
};
struct cuda_pointer {
    enum cuda_where where;
    int ordinal; /* of the device; -1: CUDA_HOST */
};
/* What a pointer is. Managed memory is refused: its pages move under a running kernel. Asks the driver only where CUDA is in
 * use. */
enum choir_status cuda_device_of_pointer(const void *pointer, struct cuda_pointer *out);

/* choir_stream_wait and choir_stream_query of a CUDA stream. */
enum choir_status cuda_stream_wait(struct CUstream_st *stream);
enum choir_status cuda_stream_query(struct CUstream_st *stream);

/* The compiled kernels in this library, src/cuda/kernel/NAME.cu. */
struct cuda_image {
    const char *name;
    const void *data; /* a fat binary, compressed */
    uint64_t bytes;
};
const struct cuda_image *cuda_image_at(uint32_t index); /* NULL: no more */
const char *cuda_image_archs(void);                     /* what they were made for: "90" */

/* The GPUs, and who reaches whom; makes no context. FILE *. */
void cuda_print(void *file);
/* Their names, and the driver's version, 12 of 12.8. Returns how many there are, 0 without CUDA. */
uint32_t cuda_names(char (*name)[96], uint32_t most, uint32_t *cuda);

#endif
