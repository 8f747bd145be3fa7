/* SPDX-License-Identifier: Apache-2.0 */
/* staged.h: what staged.c and staged_call.c share: operations whose GPU memory goes through the host. */
#ifndef COMM_STAGED_H
#define COMM_STAGED_H

#include "comm/gpu.h"
#include "cuda/staged.h"

/*
 * An operation on its way through a stream: a task that begins when the stream has come to it. The stream posts each of its
 * slices; the communicator's thread runs them and says that they are done. One that was captured is run by every replay.
 */
struct staged_move {
    void *to;
    const void *from;
    uint64_t bytes;
};
struct staged_item {
    struct staged_item *next; /* in `active`, or in `idle` */
    uint32_t index;
    bool captured;
    bool running; /* it has its ticket */
    bool ended;   /* so has its task; posts that are still to come are for nothing */
    struct comm_task task;
    struct comm_task first; /* captured: the task as each run begins; it holds the plans */
    uint64_t posts;         /* of one run */
    uint64_t waiting, done; /* of the present run: posts that have come and are not done; done */
    uint64_t scale;         /* of a scaled sum, one element */
    /* bounce.c: no task, but so many copies at the first post, and at the last. */
    struct staged_move *move;
    uint32_t moves[2];
};

struct comm_staged {
    struct choir_comm *comm;
    struct cuda_staged *gpu;
    uint8_t *slot
        [2]; /* pinned: slices go through them by turns; a stream's order keeps operations apart */
    void *scale;    /* pinned: one that is read when the stream comes to it */
    uint8_t *whole; /* pinned: what is not cut; grows */
    uint64_t whole_bytes;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* all below, and the items */
    pthread_cond_t news;  /* something may come, or stop */
    bool stop;
    struct staged_item *active, **last; /* in the order of tickets, of those that have one */
    struct staged_item *idle;
    struct staged_item **item; /* by index */
    uint32_t items;
    uint64_t queued, captured; /* items whose posts are to come */
};

/* staged.c */
/* An item for a task that is still to be made; NULL: there are too many, or there is no memory. */
struct staged_item *staged_take(struct comm_staged *s);
void staged_give(struct comm_staged *s, struct staged_item *item); /* nothing of it is queued */
/* Its task is made; posts may come from now on. Not captured: it has its ticket. */
void staged_submit(struct comm_staged *s, struct staged_item *item);
/* Of a submitted item so many posts will never come: the communicator has failed. */
void staged_lose(struct comm_staged *s, struct staged_item *item, uint64_t posts);
/* Makes s->whole so long. What is outgrown stays: a stream, or a graph, may still use it. */
enum choir_status staged_reserve(struct comm_staged *s, uint64_t bytes);
enum choir_status staged_post_and_wait(struct comm_staged *s, struct CUstream_st *stream,
                                       const struct staged_item *item);

/* bounce.c: around what a call puts into its stream. A failure of the first: nothing is in it. */
struct bounce {
    struct choir_comm *comm;
    struct CUstream_st *stream;
    struct comm_call call;    /* plain host memory becomes pinned memory */
    struct staged_item *item; /* NULL: there is none */
    uint8_t *pinned[2];
    uint64_t posts;
    bool outputs;
};
enum choir_status bounce_in(struct bounce *b);
enum choir_status bounce_messages_in(struct bounce *b, struct comm_message *list, uint32_t n);
enum choir_status bounce_out(struct bounce *b,
                             enum choir_status status); /* what came of the call */

#endif
