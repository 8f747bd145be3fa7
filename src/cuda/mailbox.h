/* SPDX-License-Identifier: Apache-2.0 */
/* mailbox.h: the GPU side of a communicator, as the files of src/cuda share it. */
#ifndef CUDA_MAILBOX_H
#define CUDA_MAILBOX_H

#include "cuda/device.h"
#include "cuda/engine.h"

/* How a message travels: in flagged words or lines, through slots; or a plan by the interpreter. */
enum cuda_form {
    CUDA_WORDS,
    CUDA_LINES,
    CUDA_STREAM,
    CUDA_PLAN,
    CUDA_PAIR_WORDS, /* words and lines, where there is one peer */
    CUDA_PAIR_LINES,
    CUDA_FORMS
};

struct cuda_retired {
    struct cuda_retired *next;
    CUdeviceptr memory;
    uint64_t bytes;
};

/* What kernels and the host tell each other: pinned memory. */
struct cuda_board {
    uint32_t abort;
    uint32_t unused[31];
    struct cuda_report report;
    struct cuda_marks marks;
};

struct cuda_comm {
    struct cuda_device *device;
    struct cuda_view view;
    CUdeviceptr mailbox,
        private_memory; /* private: counts, state, and what the interpreter uses: */
    uint64_t mailbox_bytes, private_bytes;
    uint8_t
        *staging; /* [CUDA_SLOT_LANES][CUDA_SLOT_BYTES]: operations of a communicator take turns */
    CUdeviceptr arena;   /* for tables and scratch of plans */
    uint64_t arena_used; /* of ARENA_BYTES */
    struct cuda_board *board;
    struct cuda_marks *marks;       /* of the board, as kernels see it */
    CUdeviceptr mapped[CUDA_RANKS]; /* by handle, of other processes */
    CUstream stream;                /* for the library's own copies */
    /* Kernels, looked up once: of a form, type and op; of a form; of a type. */
    CUfunction combine[CUDA_FORMS][CHOIR_TYPES][CHOIR_OPS], move[CUDA_FORMS];
    CUfunction divide[CHOIR_TYPES], scale[CHOIR_TYPES], mark;
    CUfunction raise, take; /* signals */
    uint32_t marks_taken;
    struct cuda_retired
        *retired; /* memory of plans that are kept no more: a graph may still have it */
    bool met;
    struct cuda_comm *next; /* closed, but peers may still write into its mailbox */
};

/* To allocate may wait for all that runs on the device, and kernels of other ranks of this process may wait for this one: so plans get
 * their memory from here as long as there is some. */
#define ARENA_BYTES (16u << 20)

/* Between begin and end the device's context is current, and what the library does is no part of a capture, of this thread or
 * another. */
enum choir_status cuda_comm_begin(struct cuda_comm *comm, CUstreamCaptureMode *mode);
void cuda_comm_end(struct cuda_comm *comm, CUstreamCaptureMode *mode);
/* Copies on the communicator's own stream, and waits. */
enum choir_status cuda_comm_upload(struct cuda_comm *comm, CUdeviceptr to, const void *from,
                                   uint64_t bytes);

/* mark.c: leaves the work's mark in its stream; in the device's context. */
enum choir_status cuda_mark(struct cuda_comm *comm, const struct cuda_work *work, bool end);

#endif
