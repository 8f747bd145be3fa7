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
bool gpu_is_fake(void); /* the driver of tests/fake_cuda */
/* Ranks whose arg is a struct gpu_job, with 20 s for a wait and one setting more, or NULL; skips the test where there is no GPU. */
struct gpu_job {
    struct choir_id id;
};
void gpu_run(int ranks, int per_process, const char *setting, void (*fn)(int, int, void *));
/* A rank with a communicator and buffers of floats, and sums that tell whether it works. salt tells operations apart. */
#define GPU_SIDE_MOST 1100000u /* elements: between two ranks they go through slots */
struct gpu_side {
    struct gpu g;
    choir_comm *c;
    float *in, *out, *host;
    int rank, size;
};
void gpu_side_open(struct gpu_side *s, const struct choir_id *id, int rank, int size,
                   const struct choir_config *config);
void gpu_side_close(struct gpu_side *s);
void gpu_side_fill(struct gpu_side *s, uint32_t count, uint32_t salt);
void gpu_side_check(struct gpu_side *s, uint32_t count, uint32_t salt); /* out is the sum */
void gpu_side_sum(struct gpu_side *s, uint32_t count, uint32_t salt);   /* an all-reduce, checked */
/* A call was refused so, with a record that has a remedy. */
void gpu_check_refused(choir_comm *c, enum choir_status got, enum choir_status want);
/* Draws an operation that GPUs can do. */
void gpu_draw(struct matrix_op *op, enum choir_kind kind, int size, uint64_t slot, uint64_t *draw);

/* What the communicator holds; bytes of the GPU that nobody has; all ranks are here, on the host. */
struct choir_memory gpu_side_memory(choir_comm *c);
size_t gpu_side_left(struct gpu_side *s);
void gpu_side_meet(choir_comm *c);

#endif
