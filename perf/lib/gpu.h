/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu.h: the GPU of a rank (--memory cuda): device, stream, memory, marks in time, graphs. An error is printed and ends the
 * process, as perf_check does.
 */
#ifndef PERF_GPU_H
#define PERF_GPU_H

#include "perf/lib/perf.h"

struct CUstream_st;
/* Memory of a rank, for others. The address is good in its own process, the handle in the others. */
struct perf_gpu_share {
    uint64_t address;
    uint32_t process;
    int32_t ordinal;
    unsigned char handle[64];
};

struct perf_gpu_calls {
    /* The GPU of a rank: its number on this host modulo the GPUs. Its context becomes the thread's current one. */
    struct perf_gpu *(*open)(struct perf_thread *t, uint32_t local_rank);
    void (*close)(struct perf_gpu *gpu);
    void (*use)(
        const struct perf_gpu *gpu); /* makes its context the current one, as all below do */
    struct CUstream_st *(*stream)(const struct perf_gpu *gpu);
    int (*ordinal)(const struct perf_gpu *gpu);
    const char *(*name)(const struct perf_gpu *gpu);

    void *(*alloc)(struct perf_gpu *gpu, size_t bytes); /* zeros */
    void (*release)(struct perf_gpu *gpu, void *memory);
    void (*put)(struct perf_gpu *gpu, void *to, const void *from, size_t bytes); /* and waits */
    void (*get)(struct perf_gpu *gpu, void *to, const void *from, size_t bytes);
    /* Between GPU memory, also another GPU's, in stream order. */
    void (*copy)(struct perf_gpu *gpu, void *to, const void *from, size_t bytes);
    void (*wait)(struct perf_gpu *gpu);

    /* Marks 0, 1 ... in the stream, perf_samples() + 1 of them; after a wait, the seconds from mark i to the next. */
    void (*mark)(struct perf_gpu *gpu, size_t i);
    double (*between)(struct perf_gpu *gpu, size_t i);

    /* What is put into the stream between begin and end becomes a graph. */
    void (*begin)(struct perf_gpu *gpu);
    struct perf_graph *(*end)(struct perf_gpu *gpu);
    void (*launch)(struct perf_gpu *gpu, struct perf_graph *graph);
    void (*discard)(struct perf_gpu *gpu, struct perf_graph *graph);

    /* `process` is the caller's; it tells its own memory from that of others. */
    void (*export)(struct perf_gpu *gpu, void *memory, uint32_t process,
                   struct perf_gpu_share *share);
    void *(*import)(struct perf_gpu *gpu, const struct perf_gpu_share *share, uint32_t process);
    void (*unimport)(struct perf_gpu *gpu, const struct perf_gpu_share *share, uint32_t process,
                     void *memory);
};
/* NULL: there is no driver, or the build has no CUDA; the reason was printed. Nothing is initialised, so that the process may
 * fork afterwards. */
const struct perf_gpu_calls *perf_gpu_find(const char *program);

#endif
