/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choir_profile.h: what the library does, told as it happens: for profilers, tracers and counters.
 *
 * 1. Events. A function of the program's is called when something begins and when it ends. Both have the same id, which no
 * other event of this process has; parent is the id of what it is a part of. Who was told of a begin is told of the end, unless it
 * is removed before; nobody hears of an end only. A begin comes before those of its parts.
 *   comm       a communicator, from when it is ready until it is destroyed.
 *   group      from the outermost choir_group_start to the return of choir_group_end.
 *   operation  a collective, a send or receive, a put, signal or wait; parent: the group it was called in, if any. It begins
 *              when its turn has come and ends with its result; on a CUDA stream of a communicator whose GPUs map each other
 *              it begins with the call and ends once it is queued, and its kernel says when it ran. Where GPU memory goes
 *              through the host every replay of a graph is an operation of its own. A call that was refused is none.
 *   lane       the share of one lane (a channel between each two ranks) in an operation on the host. Of messages of a group,
 *              which run together, parent is the first one.
 *   kernel     the kernels of an operation on the GPU, from before the first to behind the last, in every replay too; parent is
 *              the operation as it was called, or captured, whose members it has. Begin and end take a small kernel each, in
 *              calls and captures that are made while somebody observes kernels; they come within some milliseconds.
 *   lost       no begin and no end: so many kernel events did not fit, since kernels came faster than they were told. The end
 *              of a kernel whose own was lost is told then, with gpu_ns 0.
 *
 * 2. Callbacks run on the thread that calls, or on one of the library's, on several at once, and hold up what they tell of. They
 * call nothing of this library: operations and choir_profile_* refuse it (CHOIR_ERR_STATE), other calls are undefined.
 * The event and its strings are valid during the call only.
 *
 * 3. Cost. While nobody observes, a look at one word for each operation. An observed one takes the long way through the
 * library: some hundred nanoseconds, what the callbacks take, and on a GPU two kernels of one thread.
 */
#ifndef CHOIR_PROFILE_H
#define CHOIR_PROFILE_H

#include "choir.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bits. */
enum choir_profile_kind {
    CHOIR_PROFILE_COMM = 1,
    CHOIR_PROFILE_GROUP = 2,
    CHOIR_PROFILE_OPERATION = 4,
    CHOIR_PROFILE_LANE = 8,
    CHOIR_PROFILE_KERNEL = 16,
    CHOIR_PROFILE_LOST = 32,
    CHOIR_PROFILE_ALL = 63
};
enum choir_profile_phase { CHOIR_PROFILE_BEGIN, CHOIR_PROFILE_END, CHOIR_PROFILE_NOTE };
enum choir_profile_stream {
    CHOIR_PROFILE_BLOCKING,    /* the call returns when it is done */
    CHOIR_PROFILE_HOST_STREAM, /* of choir_stream_create */
    CHOIR_PROFILE_CUDA_STREAM,
    CHOIR_PROFILE_CUDA_GRAPH /* captured */
};

/* Members that are not of the event's kind are 0, peers and roots -1. Later versions add members at the end. */
struct choir_profile_event {
    uint32_t bytes;           /* of this structure */
    uint32_t kind, phase;     /* enum choir_profile_kind, choir_profile_phase */
    enum choir_status status; /* of an end: what came of it */
    uint64_t id, parent;      /* parent 0: none */
    uint64_t time_ns;         /* CLOCK_MONOTONIC; of a kernel: when it was told */
    uint64_t gpu_ns; /* kernel: by its GPU's clock (globaltimer), of an origin of its own */
    /* The communicator; of all kinds but group. */
    uint64_t comm;    /* its number: the same on all its ranks, another for another */
    const char *name; /* of its config, or "" */
    int32_t rank, size, hosts;
    /* The operation; of kernels too. */
    uint32_t stream_kind;  /* enum choir_profile_stream */
    const void *stream;    /* choir_stream, or CUstream; NULL: none */
    const char *operation; /* "all_reduce", "all_gather_v", "send", "put" ... */
    const char *algorithm; /* "ring"; "none" where no plan runs */
    uint64_t sequence;     /* its number on this rank's communicator, as in struct choir_error */
    uint64_t count;        /* elements, as called; of a v-form: in this rank's input, else output */
    enum choir_type type;  /* of an element */
    choir_op op;           /* where it reduces */
    int32_t root, peer;    /* peer: of a send or receive */
    const void *send, *recv; /* buffers of the call */
    /* Events of lanes that come at once, and of kernels that come of each run. Of messages that run together only the
     * first has any. */
    uint32_t lanes, kernels;
    /* A lane: its number, and how many pieces of the data it carries, one after another, in fragments of so many bytes
     * at most. */
    uint32_t lane, instances;
    uint64_t fragment_bytes;
    uint64_t lost; /* lost: events, begins and ends */
};

/* event: what happened; valid during the call. context: of choir_profile_add. */
typedef void (*choir_profile_fn)(const struct choir_profile_event *event, void *context);

/*
 * Has events told to a function, from now on.
 * fn: the function, see 2. context: handed through, may be NULL. kinds: a sum of enum choir_profile_kind.
 * observer: receives its number, for choir_profile_remove; never 0.
 * Ordering: local; also while operations run and before the first communicator. Threads: any.
 * Errors: CHOIR_ERR_POINTER fn or observer is NULL; CHOIR_ERR_ARGUMENT kinds is 0 or has unknown bits;
 *   CHOIR_ERR_NO_MEMORY 16 observers are there; CHOIR_ERR_STATE called by a callback.
 * Cost: see 3. Source: NCCL's profiler plug-ins; MPI-4.1 section 15.3.8. Since: 0.1.
 */
CHOIR_API enum choir_status choir_profile_add(choir_profile_fn fn, void *context, uint32_t kinds,
                                              uint32_t *observer);

/*
 * Ends that. When it returns no call of the function is running, nor will there be one: its code may be unloaded.
 * observer: of choir_profile_add; 0: nothing happens.
 * Ordering: local; it waits until calls of the function that are running have returned, so hold no lock that they take.
 *   Threads: any.
 * Errors: CHOIR_ERR_ARGUMENT observer is none, or was removed; CHOIR_ERR_STATE called by a callback.
 * Cost: none. Source: own. Since: 0.1.
 */
CHOIR_API enum choir_status choir_profile_remove(uint32_t observer);

#ifdef __cplusplus
}
#endif
#endif
