/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlap.h: a stream of a communicator's own, for operations that run beside what the caller's stream does next. Needs no CUDA
 * toolkit (absent.c).
 */
#ifndef CUDA_OVERLAP_H
#define CUDA_OVERLAP_H

#include "cuda/cuda.h"

struct cuda_device;
struct cuda_overlap;

/* low: of CUDA's lowest priority, not of its highest. */
enum choir_status cuda_overlap_open(struct cuda_device *device, bool low,
                                    struct cuda_overlap **overlap);
/* What comes into the own stream now runs after all that `stream` has. Returns the own one. */
enum choir_status cuda_overlap_fork(struct cuda_overlap *o, struct CUstream_st *stream,
                                    struct CUstream_st **own);
/* What comes into `stream` now runs after all that the own one has. */
enum choir_status cuda_overlap_join(struct cuda_overlap *o, struct CUstream_st *stream);
void cuda_overlap_close(struct cuda_overlap *o); /* NULL: nothing to do */

#endif
