/* SPDX-License-Identifier: Apache-2.0 */
/* observe.h: what observers (choir_profile.h) are told of a communicator's life and calls. */
#ifndef COMM_OBSERVE_H
#define COMM_OBSERVE_H

#include "comm/comm.h"

/* Called if calls are observed: when a task begins; of a group's messages also when it is made, to keep them. */
void observe_begin(struct comm_task *t);
void observe_messages(struct comm_task *t, const struct comm_message *list, uint32_t n);
void observe_replay(struct comm_task *t); /* a copy of a captured task is about to begin */
/* Called of an observed task: when its plan has been started; when it has ended, or never will. */
void observe_lanes(struct comm_task *t);
void observe_end(struct comm_task *t, enum choir_status status);
/* A communicator lives from begin to end; the latter also of one that nobody observed. */
void observe_comm(struct choir_comm *c);
void observe_comm_end(struct choir_comm *c);
struct cuda_comm;
enum choir_status observe_open(struct choir_comm *c, struct cuda_comm *gpu);
void observe_close(
    struct choir_comm *c); /* no kernel runs any more; tells of what was not told yet */
/* A call that kernels run, or a group's messages; *mark: what they are to be marked with, unless 0. NULL: nothing is told. */
struct comm_observed *observe_device(struct choir_comm *c, struct choir_stream *stream,
                                     const struct comm_call *call, const struct comm_message *list,
                                     uint32_t n, uint64_t *mark);
void observe_device_end(struct comm_observed *o, enum choir_status status);
static inline struct comm_observed *observe_call(struct choir_comm *c, struct choir_stream *stream,
                                                 const struct comm_call *call,
                                                 const struct comm_message *list, uint32_t n,
                                                 uint64_t *mark)
{
    *mark = 0;
    return profile_on(PROFILE_CALL) ? observe_device(c, stream, call, list, n, mark) : NULL;
}
static inline void observe_call_end(struct comm_observed *o, enum choir_status status)
{
    if (base_unlikely(o != NULL))
        observe_device_end(o, status);
}
/* Tells of what kernels have marked; one thread. Returns after how many nanoseconds it is to be called again. */
uint64_t observe_kernels(struct choir_comm *c);

#endif
