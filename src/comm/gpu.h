/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu.h: a communicator's calls on GPU memory, as the rest of src/comm sees them: whether a call is one, and running it; how GPUs meet
 * when it is created; what it holds. Needs no CUDA toolkit.
 */
#ifndef COMM_GPU_H
#define COMM_GPU_H

#include "comm/comm.h"

/* GPU memory goes through the host, and this rank has a GPU. */
static inline bool comm_staged(const struct choir_comm *c)
{
    return base_unlikely(c->staged != NULL) && c->slice_bytes;
}
/* staged.c, staged_call.c: device calls where GPU memory goes through the host */
enum choir_status staged_open(struct choir_comm *c); /* c->staged */
void staged_drain(struct choir_comm *c);             /* waits for what streams have of it */
void staged_close(struct choir_comm *c);
uint64_t staged_pinned(const struct choir_comm *c); /* bytes of host memory */
uint64_t staged_device_bytes(const struct choir_comm *c);
int staged_ordinal(const struct choir_comm *c);
/* A host call waits for operations of streams: breaks the communicator when that takes too long. *since: 0 at first. */
void staged_late(struct choir_comm *c, uint64_t *since, uint64_t limit_ns);
enum choir_status staged_run(struct choir_comm *c, const struct comm_call *call,
                             struct choir_stream *stream);
enum choir_status staged_exchange(struct choir_comm *c, const struct comm_call *call,
                                  const struct comm_message *list, uint32_t n,
                                  struct choir_stream *stream);

/* overlap.c: in the communicator, around what puts an operation into a CUDA stream: it comes after the one before. st: of that. */
enum choir_status order_before(struct choir_comm *c, struct choir_stream *stream);
enum choir_status order_after(struct choir_comm *c, struct choir_stream *stream,
                              enum choir_status st);
/* *stream becomes the communicator's own, behind what it has now */
enum choir_status overlap_fork(struct choir_comm *c, struct choir_stream **stream);
void overlap_close(struct choir_comm *c);

/* device.c */
/* Whether a call is a device call: *stream becomes a CUDA stream. Refuses what mixes both. */
enum choir_status device_call_stream(struct choir_comm *c, const void *in, const void *out,
                                     struct choir_stream **stream);
/* Where memory is; refuses that of another GPU than this rank's. */
struct cuda_pointer;
enum choir_status device_where(struct choir_comm *c, const void *memory, const char *argument,
                               struct cuda_pointer *out);
struct cuda_comm *device_gpu(const struct choir_comm *c); /* NULL: not mapped by all ranks */
/* window_device.c: one-sided operations on CUDA streams; check: before any is queued */
enum choir_status device_side_check(struct choir_comm *c, const struct comm_side *side);
enum choir_status device_side(struct choir_comm *c, const struct comm_side *side,
                              struct choir_stream *stream);
/* What call_algorithm says of a host call; of a communicator with GPUs. */
const char *device_algorithm(const struct choir_comm *c, const struct comm_call *call);
/* The shape that it has there, and what prices it. */
const struct plan_cluster *device_cluster(const struct choir_comm *c, const struct comm_call *call,
                                          struct choir_shape *shape);
/* Device calls are not refused: it is not suspended. */
enum choir_status device_awake(struct choir_comm *c);
enum choir_status device_run(struct choir_comm *c, const struct comm_call *call,
                             struct choir_stream *stream);
/* list: its memory may change. */
enum choir_status device_exchange(struct choir_comm *c, const struct comm_call *call,
                                  struct comm_message *list, uint32_t n,
                                  struct choir_stream *stream);
/* Of a creation: a card for the others. Where GPUs do not all map each other, their memory goes through the host, on all ranks. */
enum device_why { /* not mapped */
                  DEVICE_MAPPED,
                  DEVICE_HOSTS,
                  DEVICE_RANKS,    /* there are too many */
                  DEVICE_NONE,     /* the rank has none */
                  DEVICE_OFF,      /* the rank is not to use it */
                  DEVICE_UNREACHED /* the rank has no mailbox, or does not reach another's */
};
enum device_links { /* where the constants of the links come from */
                    DEVICE_BUILT_IN,
                    DEVICE_KEPT, /* here they are */
                    DEVICE_MEASURE
};
struct device_met {
    uint32_t why, rank;
    uint64_t links; /* rank 0's counts */
    struct plan_tuned tuned;
};
void device_here(struct choir_comm *c); /* which GPU is the calling thread's */
void device_open(struct choir_comm *c, struct cuda_card *card);
enum device_why device_apart(const struct choir_comm *c);
/* All GPUs have met; said: what rank 0 said of links then. CHOIR_IN_PROGRESS: to measure them, so device_settle is to be called
 * until it is done. */
enum choir_status device_ready(struct choir_comm *c, const struct device_met *said);
enum choir_status device_settle(struct choir_comm *c);
/* Links of another communicator are being measured: memory is better not allocated or freed, for that may wait for kernels. */
bool device_waits(void);
bool device_measures(const struct choir_comm *c); /* its own, by kernels that are under way */
void device_landed(struct choir_comm *c);         /* they have ended, or soon will have */
void device_stage(struct choir_comm *c);
void device_close(struct choir_comm *c);
uint64_t device_bytes(const struct choir_comm *c);
uint64_t device_saved(const struct choir_comm *c);     /* bytes of host memory, while suspended */
uint64_t device_suspended(const struct choir_comm *c); /* bytes of GPU memory given back */
void device_stop(struct choir_comm *c);                /* its kernels end */
void device_look(struct choir_comm *c); /* breaks the communicator if a kernel has given up */

/* meeting.c: some rank of a communicator that is created has a GPU: x has what each gave, its card behind `at` bytes. */
enum choir_status meeting_begin(struct choir_comm *c, const struct tree_answers *x, uint32_t at);
/* CHOIR_IN_PROGRESS until it has ended; *said: what rank 0 said last. */
enum choir_status meeting_advance(struct choir_comm *c, struct device_met *said);
void meeting_end(struct choir_comm *c);

#endif
