/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda.h: a GPU in miniature, for tests of GPU memory that goes through the host (src/comm/staged*.c) where there is none: it takes
 * the place of the functions of src/cuda that these call. A stream is a thread that works off a queue, GPU memory is memory of
 * this process that the library is told is not, a graph is a queue kept. Kernels are plain code here; test_cuda_staged.cc has
 * the true ones.
 */
#ifndef TESTS_MOCK_CUDA_H
#define TESTS_MOCK_CUDA_H

#include "choir_cuda.h"
#include "tests/lib/matrix.h"
#include <stdbool.h>
#include <stdint.h>

#define MOCK_GPU_BYTES (64u << 20)

struct mock_stream;
struct cuda_staged;
struct mock_gpu { /* of one rank */
    struct mock_stream *stream;
    choir_stream *choir;
    uint64_t used; /* of the process's GPU memory, from `first` on */
    uint8_t *first;
    uint64_t bytes;
    struct matrix_elsewhere elsewhere;
};
void mock_gpu_open(struct mock_gpu *g);
void mock_gpu_close(struct mock_gpu *g);                  /* waits for its stream */
void *mock_gpu_alloc(struct mock_gpu *g, uint64_t bytes); /* freed in the reverse order */
void mock_gpu_free(struct mock_gpu *g, void *memory);
void mock_gpu_wait(struct mock_gpu *g); /* until its stream is empty */
/* What the stream does from begin to end is kept, not done; each replay puts it into the stream. */
struct mock_graph;
void mock_capture_begin(struct mock_gpu *g);
struct mock_graph *mock_capture_end(struct mock_gpu *g);
void mock_replay(struct mock_gpu *g, const struct mock_graph *graph);
void mock_graph_free(struct mock_graph *graph);
/* The stream does nothing more, as after a kernel that failed. */
void mock_gpu_break(struct mock_gpu *g);
/* Puts fn(arg) into a stream; whether a GPU reaches memory. */
void mock_put(struct CUstream_st *stream, void (*fn)(void *arg), void *arg);
bool mock_reaches(const void *memory, uint64_t bytes);
enum choir_status cuda_staged_quiesce(
    struct cuda_staged *s); /* as in cuda/staged.h; s may be NULL */
/* A kernel that takes so long. */
void mock_delay(struct mock_gpu *g, uint32_t us);

#endif
