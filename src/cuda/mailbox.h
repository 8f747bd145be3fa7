/* SPDX-License-Identifier: Apache-2.0 */
/* mailbox.h: the GPU side of a communicator, as the files of src/cuda share it. */
#ifndef CUDA_MAILBOX_H
#define CUDA_MAILBOX_H

#include "cuda/handover.h"
#include "cuda/overlap.h"
#include "cuda/share.h"

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

/* GPU memory that one plan has. */
struct cuda_piece {
    struct cuda_piece *next;
    CUdeviceptr at;
    uint64_t bytes;
    CUevent passed; /* in a list: behind what used it last */
};
/* Memory of plans for which the arena had no room. It stays as long as the communicator: a kernel or a graph may read it. */
struct cuda_extra {
    struct cuda_extra *next;
    struct cuda_block block;
    uint64_t used;
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
    enum cuda_way way;
    struct cuda_block mailbox, own; /* own: counts, state, and what the interpreter uses: */
    uint64_t kept_bytes;            /* at own's beginning: counts and state */
    uint8_t
        *staging; /* [CUDA_SLOT_LANES][CUDA_SLOT_BYTES]: operations of a communicator take turns */
    CUdeviceptr arena;   /* for tables and scratch of plans */
    uint64_t arena_used; /* of ARENA_BYTES */
    struct cuda_extra *extra;
    struct cuda_piece *
        given; /* of plans that were used once; another may have it when its stream has come so far */
    struct cuda_board *board;
    struct cuda_marks *marks;             /* of the board, as kernels see it */
    CUdeviceptr opened[CUDA_RANKS];       /* of other processes, by handle */
    struct cuda_block mapped[CUDA_RANKS]; /* the same by mapping */
    struct handover handover;             /* where others leave descriptors of theirs */
    CUstream stream;                      /* for the library's own copies */
    /* Kernels, looked up once: of a form, type and op; of a form; of a type. */
    CUfunction combine[CUDA_FORMS][CHOIR_TYPES][CHOIR_OPS], move[CUDA_FORMS];
    CUfunction divide[CHOIR_TYPES], scale[CHOIR_TYPES], mark;
    CUfunction raise, take;    /* signals */
    struct cuda_overlap *puts; /* for those of the default stream, once it has windows */
    uint32_t marks_taken;
    bool met; /* peers may write */
    uint8_t
        *saved; /* what its memory held: from a suspension's first step to the resumption's last */
    uint64_t saved_bytes;
    bool suspended;         /* its memory is given back */
    struct cuda_comm *next; /* closed, but peers may still write into its mailbox */
};

/* To allocate may wait for all that runs on the device, and kernels of other ranks of this process may wait for this one: so plans get
 * their memory from here as long as there is some. */
#define ARENA_BYTES (16u << 20)

/* Between begin and end the device's context is current, and what the library does is no part of a capture, of this thread or
 * another. */
enum choir_status cuda_comm_begin(struct cuda_comm *comm, CUstreamCaptureMode *mode);
void cuda_comm_end(struct cuda_comm *comm, CUstreamCaptureMode *mode);
/* The driver's answer to the last of some calls on the communicator's own stream; waits for them. */
enum choir_status cuda_comm_wait(struct cuda_comm *comm, CUresult r, const char *what);
/* A rank's mailbox, as the others find it; by mapping it listens for their descriptors from now on. */
enum choir_status cuda_comm_card(struct cuda_comm *comm, struct cuda_card *card);
/* Ends the mappings of others' mailboxes; stays: their addresses do. */
enum choir_status cuda_comm_unmap(struct cuda_comm *comm, bool stays);
/* Words that ranks leave in each other's mailboxes; -1, or the first rank whose word is not in the own one. */
enum cuda_hello { CUDA_HELLO_MOVED = 1, CUDA_HELLO_CLOSED };
enum choir_status cuda_comm_say(struct cuda_comm *comm, enum cuda_hello word);
int cuda_comm_silent(struct cuda_comm *comm, enum cuda_hello word);
/* piece.c. Memory for a plan, as all below in the device's context. Its owner frees the structure, or gives both back. */
enum choir_status cuda_piece_take(struct cuda_comm *comm, uint64_t bytes,
                                  struct cuda_piece **piece);
/* It was used by what the stream has now, and will not be again. In any context. */
void cuda_piece_give(struct cuda_comm *comm, struct cuda_piece *piece, struct CUstream_st *stream);
void cuda_pieces_forget(struct cuda_comm *comm);
/* suspend.c: of counts[n]. */
uint32_t cuda_suspend_flag(const struct cuda_count *count, uint32_t n);
/* Copies on the communicator's own stream, and waits. */
enum choir_status cuda_comm_upload(struct cuda_comm *comm, CUdeviceptr to, const void *from,
                                   uint64_t bytes);

/* mark.c: leaves the work's mark in its stream; in the device's context. */
enum choir_status cuda_mark(struct cuda_comm *comm, const struct cuda_work *work, bool end);

#endif
