/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simulate_play.h: the state of one play of plans against the clock, shared by the files that play: the
 * clock and CPUs (simulate_run.c), the messages (simulate_wire.c), the steps of plans (simulate_step.c).
 *
 * A rank is one server (its CPU) that takes jobs first come, first served: a fragment of a step, or a
 * fragment of a pending message. A host's cores, its memory and each direction of its NIC are servers too; as they
 * serve fragments in the order of arrival, what they have is shared fairly. Messages, credits, instances
 * and the window are those of DESIGN.md. Where ranks stand for others (sim_group), a message from rank g(s)
 * to r is the one from s to the inverse g of r.
 */
#ifndef PLAN_SIMULATE_PLAY_H
#define PLAN_SIMULATE_PLAY_H

#include "plan/simulate.h"

#define NONE UINT32_MAX

struct sim_message {
    uint32_t next, owner; /* the next of its channel; the thread that waits for its end, or NONE */
    uint32_t fragments, slots; /* fragments played, slots they stand for */
    uint32_t sent, arrived, consumed;
    uint64_t bytes;
    bool pulled; /* left where it lies, for its receiver to read */
};
struct sim_channel {
    uint32_t from, to,
        slot;           /* sender (played), receiver as the sender names it, place in the window */
    uint32_t thread[2]; /* of the sender, of the receiver */
    uint32_t link, head, tail, unsent, arriving; /* messages */
    uint32_t in_flight, claimed, next_job;
    /* The channel of place 0, whose free_ps is that of the link between both; NONE: not looked for. */
    uint32_t wire;
    bool pushing;
    uint64_t free_ps;
};
/* One place in a rank's window: the instance there. */
struct sim_thread {
    uint32_t rank, slot, instance;
    struct plan_cursor cursor;
    uint64_t bytes; /* of the present step */
    uint32_t fragment, fragments, slots, ready, await, pendings, next_job;
    uint32_t channel[8];             /* of the step's first places once looked for, else NONE */
    bool live, queued, posts, ended; /* posts: the step's messages are pending */
};
struct sim_rank {
    uint32_t first_job, last_job, running; /* jobs: threads, then channels */
};
struct sim_event {
    uint64_t time;
    uint32_t order,
        what; /* what: a rank's job is done, or (from `reps`) a fragment arrives on a channel */
};
/* What a fragment takes of a rank's CPU (whatever its bytes, and for these) and of its host's memory, ps. */
struct sim_work {
    uint64_t fixed, bytes, memory;
};
struct sim_cost {
    uint64_t alpha, overhead;            /* ps */
    double beta, rank_beta, shared_beta; /* ps per byte */
};

struct sim {
    const struct sim_job *job;
    struct sim_result *result;
    struct sim_cost cost[PLAN_LINKS];
    double copy, combine; /* ps per byte */
    double crowd, cores;  /* ranks a core, at least 1; cores of a host */
    uint64_t step, now, slot_bytes;
    uint32_t window, threads, depth,
        share; /* share: ranks of a host that a played one stands for there */
    struct sim_thread *thread;
    struct sim_rank *rank;
    uint64_t *memory, *nic_out, *nic_in, *cpus; /* per host: busy until */
    struct sim_message *message;
    struct sim_channel *channel;
    uint32_t *table; /* channels by hash */
    struct sim_event *heap;
    uint32_t messages, message_room, free_message, channels, channel_room, table_mask;
    uint32_t events, event_room, order, running;
    bool alike; /* all ranks have the same to do */
    bool no_memory;
};

static inline uint64_t ps(double per_byte, uint64_t bytes)
{
    return (uint64_t)(per_byte * (double)bytes);
}

static inline uint64_t serve(uint64_t *free_at, uint64_t now, uint64_t work)
{
    *free_at = base_max(*free_at, now) + work;
    return *free_at;
}

static inline uint64_t share_of(uint64_t total, uint32_t k,
                                uint32_t parts) /* the k-th of `parts` */
{
    return total / parts + (k < total % parts);
}

static inline const struct choir_step *step_of(const struct sim *s, const struct sim_thread *t)
{
    return &s->job->plans[t->rank]->step[t->cursor.step];
}

static inline const struct choir_place *places_of(const struct sim *s, const struct sim_thread *t)
{
    const struct choir_plan *plan = s->job->plans[t->rank];
    return &plan->place[plan->step[t->cursor.step].place];
}

/* simulate_run.c */
void sim_event_add(struct sim *s, uint64_t time, uint32_t what);
void sim_job_add(struct sim *s, uint32_t rank, uint32_t job);
/* Doubles an array so that it holds `count` + 1; false without memory. */
bool sim_grow(struct sim *s, void **data, uint32_t *room, uint32_t count, size_t bytes);

/* simulate_wire.c: channels are made when first looked for; NONE without memory. */
uint32_t sim_channel_at(struct sim *s, struct sim_thread *t,
                        uint32_t i); /* of the step's i-th place, a message */
/* The thread's present step sends: a pending message if it has an owner, who waits for its end. */
void sim_message_send(struct sim *s, uint32_t channel, const struct sim_thread *t, uint32_t owner);
uint32_t sim_message_at(const struct sim *s, uint32_t channel,
                        uint32_t k);                    /* the k-th not yet taken, or NONE */
void sim_message_take(struct sim *s, uint32_t channel); /* the first leaves its channel */
void sim_channel_push(struct sim *s, uint32_t channel);
struct sim_work sim_push_work(struct sim *s, uint32_t channel);
void sim_push_done(struct sim *s, uint32_t channel);
void sim_fragment_arrived(struct sim *s, uint32_t channel);

/* simulate_step.c */
void sim_thread_start(struct sim *s, uint32_t thread, uint32_t instance);
void sim_thread_try(struct sim *s, uint32_t thread);
struct sim_work sim_step_work(struct sim *s, uint32_t thread);
void sim_step_done(struct sim *s, uint32_t thread);

static inline uint32_t host_index(const struct sim *s, uint32_t rank)
{
    return s->job->group == SIM_EACH ? s->job->layout->host_of[rank] : 0; /* all hosts are alike */
}

#endif
