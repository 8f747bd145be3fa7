/* SPDX-License-Identifier: Apache-2.0 */
/*
 * put.h: writing into a peer's memory and raising signals there, without a call of the peer. Which memory is whose, and which
 * way a put goes, is for the caller to know (src/comm/window.c).
 */
#ifndef HOST_PUT_H
#define HOST_PUT_H

#include "host/host.h"

/* Frames. That of a put is of data, so it travels as data does; it is still copied on arrival. */
enum host_put_frame {
    HOST_FRAME_SIGNAL = HOST_FRAME_INBOX + 1, /* arg[0]: which */
    HOST_FRAME_SEEN,                          /* arg[0]: puts and signals that have come from you */
    HOST_FRAME_PUT = HOST_FRAME_CONSUMED + 1, /* arg: id of the part, offset in it */
};
#define HOST_PUT_BYTES (128u << 10) /* of one frame */

/* Memory of this rank that arriving puts may write; the caller's, listed between add and remove. */
struct host_part {
    struct host_part *next;
    uint64_t id; /* names it in frames */
    uint8_t *memory;
    uint64_t bytes;
};
enum choir_status host_part_add(struct host_comm *comm, struct host_part *part);
/* On return nothing is written into it any more. */
void host_part_remove(struct host_comm *comm, struct host_part *part);

/* A put under way. By one of three ways: to, address, or frames. */
struct host_put {
    uint32_t peer;
    const uint8_t *from;
    uint64_t bytes, done;
    uint8_t *to;          /* where the peer's memory is mapped here, or NULL */
    uint64_t address;     /* where it is in the peer's process, if it can be written there, or 0 */
    struct host_end *end; /* to that process */
    uint64_t part, offset;
};
/* Moves what can be moved. CHOIR_OK: ended, the memory is the caller's again. */
enum choir_status host_put_advance(struct host_comm *comm, struct host_put *put);

/* The peer's bell, as this rank learned of it: transport maps it by its key. */
void host_signal_learn(struct host_comm *comm, uint32_t peer, uint32_t transport, uint64_t key);
/* After all puts to the peer that have ended. CHOIR_IN_PROGRESS: call again. */
enum choir_status host_signal_raise(struct host_comm *comm, uint32_t peer, uint32_t signal);
/* Takes `count` signals of the peer, if so many are there. By whose turn it is. */
bool host_signal_take(struct host_comm *comm, uint32_t peer, uint32_t signal, uint64_t count);

/* Not 0 once frames were needed: who waits moves the wires. NULL: no memory. */
_Atomic uint32_t *host_put_frames(struct host_comm *comm);
void host_put_arrived(struct host_comm *comm, const struct choir_frame *frame, void *payload);
void host_put_free(struct host_comm *comm);

#endif
