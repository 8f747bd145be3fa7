/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.h: windows in GPU memory, as src/comm sees them: parts that other ranks map, copies into them and signals, in the order
 * of a stream. Needs no CUDA toolkit (absent.c).
 */
#ifndef CUDA_WINDOW_H
#define CUDA_WINDOW_H

#include "cuda/engine.h"

struct cuda_part {                /* of a rank, for the others */
    uint64_t base, offset, bytes; /* of its allocation, and where in it the part is */
    uint8_t handle[64];           /* of the allocation, for other processes */
};
/* CHOIR_ERR_UNSUPPORTED: its allocation cannot be exported. */
enum choir_status cuda_part_describe(struct cuda_comm *comm, const void *memory, uint64_t bytes,
                                     struct cuda_part *part);
/* Where the part of `rank` is in this process, also for kernels of this rank's GPU. *opened: for cuda_part_unmap, or 0. */
enum choir_status cuda_part_map(struct cuda_comm *comm, const struct cuda_part *part, uint32_t rank,
                                bool same_process, uint8_t **memory, uint64_t *opened);
/* May wait for all that runs on the device. */
void cuda_part_unmap(struct cuda_comm *comm, uint64_t opened);

/* These put something into the stream, or into the graph that it is captured into, and return at once. */
enum choir_status cuda_put(struct cuda_comm *comm, struct CUstream_st *stream, void *to,
                           const void *from, uint64_t bytes);
enum choir_status cuda_signal_raise(struct cuda_comm *comm, struct CUstream_st *stream,
                                    uint32_t peer, uint32_t signal);
/* Waits are at most CUDA_WAITS. */
enum choir_status cuda_signal_take(struct cuda_comm *comm, struct CUstream_st *stream,
                                   const struct cuda_signal_wait *wait, uint32_t waits);

#endif
