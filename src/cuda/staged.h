/* SPDX-License-Identifier: Apache-2.0 */
/*
 * staged.h: GPU memory through the host, as src/comm sees it: pinned memory, copies in a stream's order, and how the stream meets a
 * thread of the host: it posts an item and waits until the thread says that the item is done. Needs no CUDA toolkit (absent.c).
 */
#ifndef CUDA_STAGED_H
#define CUDA_STAGED_H

#include "cuda/abi.h"
#include "cuda/cuda.h"

struct cuda_device;
struct cuda_staged; /* of one rank of a communicator */

/* Makes one on a device. All memory of the GPU is taken now: to take it later may wait for what runs there. */
enum choir_status cuda_staged_open(struct cuda_device *device, struct cuda_staged **staged);
/* Pinned memory, freed by cuda_staged_close; also while a stream is captured. */
enum choir_status cuda_staged_alloc(struct cuda_staged *s, uint64_t bytes, uint8_t **memory);
uint64_t cuda_staged_pinned(const struct cuda_staged *s);       /* bytes */
uint64_t cuda_staged_device_bytes(const struct cuda_staged *s); /* of GPU memory */
int cuda_staged_ordinal(const struct cuda_staged *s);

/* Whether what is put into the stream becomes part of a graph. */
enum choir_status cuda_staged_capturing(struct cuda_staged *s, struct CUstream_st *stream,
                                        bool *capturing);
/* `blocks` blocks of `bytes`, whose starts are so far apart. */
struct cuda_span {
    void *device, *host;
    uint64_t bytes, blocks, device_pitch, host_pitch;
};
enum choir_status cuda_staged_copy(struct cuda_staged *s, struct CUstream_st *stream,
                                   const struct cuda_span *span, bool to_host);
/* Items are numbered below CUDA_ITEMS. later: posts of the item that the stream has already behind the one to wait for. captured: the
 * stream is; then the item is used in that graph only. */
enum choir_status cuda_staged_post(struct cuda_staged *s, struct CUstream_st *stream,
                                   uint32_t item);
enum choir_status cuda_staged_wait(struct cuda_staged *s, struct CUstream_st *stream, uint32_t item,
                                   uint32_t later, bool captured);

/* One thread: the next post, if it has come; one post of an item is done. No CUDA calls. */
bool cuda_staged_next(struct cuda_staged *s, uint32_t *item);
void cuda_staged_done(struct cuda_staged *s, uint32_t item);

/* Waits until all that is queued in the GPU's context has ended. */
enum choir_status cuda_staged_quiesce(struct cuda_staged *s);
/* After that, and after the last cuda_staged_done. What comes all the same waits for nothing. */
void cuda_staged_close(struct cuda_staged *s);

#endif
