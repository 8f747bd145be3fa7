/* SPDX-License-Identifier: Apache-2.0 */
/* device.h: a communicator's GPU side, whose ranks map each other's memory, as device.c, device_fault.c, meeting.c, tune.c and
 * suspend.c share it. */
#ifndef COMM_DEVICE_H
#define COMM_DEVICE_H

#include "comm/gpu.h"
#include "cuda/engine.h"

#define DEVICE_SALT 0x67707521u /* a host call never has the signature of a device call */
#define DEVICE_PERIOD_NS 20000000u

struct comm_tune;   /* constants of links, while they are being measured */
struct comm_pause { /* a suspension or a resumption under way */
    enum comm_pause_step {
        PAUSE_BEGIN,
        PAUSE_QUIET,    /* all have heard whose kernels have ended and what is saved */
        PAUSE_RELEASED, /* ... who has given its memory back */
        PAUSE_BACKED,   /* ... who has memory again */
        PAUSE_MEETING   /* GPUs map each other again */
    } step;
    bool resumes;
    uint64_t deadline_ns;
    enum choir_status status; /* of this rank's last step */
    struct choir_error error;
};
struct comm_device {
    struct cuda_comm *gpu;
    struct plan_cluster cluster;
    struct plan_table *table;
    struct plan_cache *bound;
    struct service_timer timer;
    bool timed;
    uint32_t tick; /* of a kernel that waits, and since when, as the timer saw it */
    uint64_t told_ns, since_ns, logged_ns;
    struct comm_tune *tune;
    _Atomic bool measures; /* kernels that measure links may be under way */
    bool suspended;        /* device calls are refused */
    struct comm_pause pause;
};
/* The decision table, from these constants. */
enum choir_status device_table(struct choir_comm *c, const struct plan_tuned *tuned);

/* How long a kernel waits for a rank. While links are measured the creation's limit counts, and the kernel names who is late,
 * first. */
uint64_t device_limit(const struct choir_comm *c);

/* tune.c */
/* Rank 0 says where the constants come from, once the GPUs have met; card: of all ranks. */
void tune_decide(struct choir_comm *c, const struct cuda_card *card, struct device_met *met);
/* Takes what rank 0 says, or begins to measure: CHOIR_IN_PROGRESS, then device_settle. */
enum choir_status tune_start(struct choir_comm *c, const struct device_met *said);
void tune_free(struct choir_comm *c);

/* device_fault.c: every DEVICE_PERIOD_NS or more often, on the service thread; of a choir_comm. */
void device_timer(void *comm);

/* meeting.c: of a communicator that resumes, with the cards of all ranks. */
enum choir_status meeting_start(struct choir_comm *c, const struct cuda_card *card);

#endif
