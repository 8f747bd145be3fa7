/* SPDX-License-Identifier: Apache-2.0 */
/*
 * piece.c: GPU memory of plans: of the arena, then of blocks that a communicator gets beside it. It is never freed before the
 * communicator ends, since that waits for all that runs on the device, which may wait for this thread. Of plans that are used once
 * (messages of a group that are no exchange) it is used again, when an event says that their stream has passed them.
 */
#include "cuda/mailbox.h"
#include <stdlib.h>

#define BLOCK_BYTES (2u << 20)

static enum choir_status add_block(struct cuda_comm *comm, uint64_t bytes)
{
    struct cuda_extra *x = calloc(1, sizeof(*x));
    if (!x)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a plan");
    enum choir_status st =
        cuda_block_alloc(comm->device, base_max(bytes, BLOCK_BYTES), comm->way, false, &x->block);
    if (st != CHOIR_OK) {
        free(x);
        return st;
    }
    x->next = comm->extra;
    comm->extra = x;
    return CHOIR_OK;
}

/* One that was given back and is not used any more, of not much more than so many bytes. */
static struct cuda_piece *used_again(struct cuda_comm *comm, uint64_t bytes)
{
    for (struct cuda_piece **at = &comm->given; *at; at = &(*at)->next) {
        struct cuda_piece *p = *at;
        if (p->bytes < bytes || p->bytes / 2 > bytes ||
            cuda_driver()->cuEventQuery(p->passed) != CUDA_SUCCESS)
            continue;
        *at = p->next;
        return p;
    }
    return NULL;
}

enum choir_status cuda_piece_take(struct cuda_comm *comm, uint64_t bytes, struct cuda_piece **piece)
{
    struct cuda_piece *p = used_again(comm, bytes);
    *piece = p;
    if (p)
        return CHOIR_OK;
    if (bytes > ARENA_BYTES - comm->arena_used &&
        (!comm->extra || bytes > comm->extra->block.room - comm->extra->used)) {
        enum choir_status st = add_block(comm, bytes);
        if (st != CHOIR_OK)
            return st;
    }
    p = calloc(1, sizeof(*p));
    if (!p)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a plan");
    p->bytes = bytes;
    if (bytes <= ARENA_BYTES - comm->arena_used) {
        p->at = comm->arena + comm->arena_used;
        comm->arena_used += bytes;
    } else {
        p->at = comm->extra->block.at + comm->extra->used;
        comm->extra->used += bytes;
    }
    *piece = p;
    return CHOIR_OK;
}

void cuda_piece_give(struct cuda_comm *comm, struct cuda_piece *piece, struct CUstream_st *stream)
{
    const struct cuda_driver *cu = cuda_driver();
    CUstreamCaptureMode mode;
    CUstreamCaptureStatus capture = CU_STREAM_CAPTURE_STATUS_NONE;
    bool again = false;
    if (cuda_comm_begin(comm, &mode) == CHOIR_OK) {
        again = cu->cuStreamIsCapturing(stream, &capture) == CUDA_SUCCESS &&
                capture == CU_STREAM_CAPTURE_STATUS_NONE &&
                (piece->passed ||
                 cu->cuEventCreate(&piece->passed, CU_EVENT_DISABLE_TIMING) == CUDA_SUCCESS) &&
                cu->cuEventRecord(piece->passed, stream) == CUDA_SUCCESS;
        if (!again && piece->passed)
            cu->cuEventDestroy(piece->passed);
        cuda_comm_end(comm, &mode);
    }
    if (!again) { /* a graph has it; or it is not known when it is free */
        free(piece);
        return;
    }
    piece->next = comm->given;
    comm->given = piece;
}

void cuda_pieces_forget(struct cuda_comm *comm)
{
    for (struct cuda_piece *p = comm->given; p; p = comm->given) {
        comm->given = p->next;
        cuda_driver()->cuEventDestroy(p->passed);
        free(p);
    }
}
