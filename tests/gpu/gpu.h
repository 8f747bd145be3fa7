/* SPDX-License-Identifier: Apache-2.0 */
/* gpu.h: what the tests on GPUs share: a rank's device and stream, copies, and drawn operations on GPU memory (matrix.h). */
#ifndef TESTS_GPU_H
#define TESTS_GPU_H

#include "choir_cuda.h"
#include "cuda/driver.h"
#include "tests/lib/matrix.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

#define GPU_OK(call) gpu_check((call), #call, __FILE__, __LINE__)
void gpu_check(CUresult r, const char *what, const char *file, int line);

struct gpu { /* of one rank, in its thread */
    const struct cuda_driver *cu;
    int ordinal;
    CUcontext context;
    CUstream stream;
    choir_stream *choir;
    /* To free memory waits for all kernels of the device, also for those that wait for this rank. */
    uint8_t *arena;
    uint64_t arena_bytes, arena_used;
    struct matrix_elsewhere elsewhere;
};
/* How many there are, found out by a child: this process stays without CUDA, so that it may fork. */
int gpu_count(void);
/* The device of a rank: its number modulo the GPUs. */
void gpu_open(struct gpu *g, int rank);
void gpu_close(struct gpu *g);
void *gpu_alloc(struct gpu *g, uint64_t bytes); /* freed in the reverse order */
void gpu_free(struct gpu *g, void *memory);
void gpu_put(struct gpu *g, void *to, const void *from, uint64_t bytes); /* and waits */
void gpu_get(struct gpu *g, void *to, const void *from, uint64_t bytes);
/* Draws an operation that GPUs can do. */
void gpu_draw(struct matrix_op *op, enum choir_kind kind, int size, uint64_t slot, uint64_t *draw);

#endif
