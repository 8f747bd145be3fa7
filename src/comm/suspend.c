/* SPDX-License-Identifier: Apache-2.0 */
/*
 * suspend.c: suspend and resume: the ranks of a communicator give back the memory of their GPUs, and take it again. Memory is only
 * free when all ranks have unmapped it, and nobody may unmap while another may still write: so each step is followed by an agreement
 * of all. What all ranks hear decides for all; what makes one fail leaves the communicator as it was, on every rank.
 * No step is made while links of another communicator are being measured (device_waits): it might wait for a rank of this thread.
 */
#include "comm/device.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC 0x73757370u

struct answer { /* what a rank gives to an agreement */
    uint32_t magic, step;
    int32_t status;
    uint32_t unused;
    union {
        struct cuda_tally tally; /* PAUSE_QUIET */
        struct cuda_card card;   /* PAUSE_BACKED */
    } u;
};

static const char *name(const struct choir_comm *c)
{
    return c->device->pause.resumes ? "choir_comm_resume" : "choir_comm_suspend";
}

/* --- agreements ------------------------------------------------------------------------------------------------ */

static enum choir_status tell(struct choir_comm *c, enum comm_pause_step step, struct answer *a,
                              enum choir_status st)
{
    struct comm_pause *p = &c->device->pause;
    a->magic = MAGIC;
    a->step = step;
    a->status = st;
    p->step = step;
    p->status = st;
    if (st != CHOIR_OK) {
        p->error = *base_error_thread();
        base_log(BASE_WARN, (int)c->host.rank, "%s: %s; %s", name(c), p->error.text,
                 p->error.remedy);
    }
    st = tree_start(c, a, sizeof(*a));
    return st == CHOIR_OK ? CHOIR_IN_PROGRESS : st;
}

static enum choir_status refuse(struct choir_comm *c, enum choir_status st, uint32_t rank)
{
    if (rank == c->host.rank) {
        *base_error_thread() = c->device->pause.error;
        return comm_take_error(c, st);
    }
    return comm_fail(c, st, "see the log of that rank", "%s: rank %u could not", name(c), rank);
}

/* The answers of all to the present step; an error of one is everyone's. */
static enum choir_status hear(struct choir_comm *c, struct answer *answer)
{
    const struct comm_pause *p = &c->device->pause;
    struct tree_answers x;
    enum choir_status st = tree_answers(c, 0, &x);
    for (uint32_t r = 0; r < c->host.size && st == CHOIR_OK; r++) {
        if (x.bytes[r] == sizeof(*answer))
            memcpy(&answer[r], x.blob[r], sizeof(*answer));
        if (x.bytes[r] != sizeof(*answer) || answer[r].magic != MAGIC || answer[r].step != p->step)
            st = comm_fail(c, CHOIR_ERR_MISMATCH, "call it on all ranks at the same point",
                           "rank %u makes another call than %s", r, name(c));
    }
    tree_answers_free(&x);
    for (uint32_t r = 0; r < c->host.size && st == CHOIR_OK; r++)
        if (answer[r].status != CHOIR_OK)
            st = refuse(c, (enum choir_status)answer[r].status, r);
    return st;
}

/* It is between two states and cannot go on. */
static enum choir_status fail_for_good(struct choir_comm *c, enum choir_status st)
{
    const struct choir_error *e = base_error_thread();
    host_comm_break(&c->host, st,
                    &(struct base_error_at){(int)c->host.rank, e->peer, 0, e->sys_errno, "cuda"},
                    e->remedy, "%s", e->text);
    return st;
}

/* --- suspending ------------------------------------------------------------------------------------------------- */

static enum choir_status begin_suspend(struct choir_comm *c)
{
    struct answer a = {0};
    enum choir_status st = cuda_comm_rest(c->device->gpu, &a.u.tally);
    return tell(c, PAUSE_QUIET, &a, st);
}

/* A message that has been sent and not received would be lost. */
static enum choir_status check_tallies(struct choir_comm *c, const struct answer *answer)
{
    for (uint32_t from = 0; from < c->host.size; from++)
        for (uint32_t to = 0; to < c->host.size; to++)
            if (answer[from].u.tally.sent[to] != answer[to].u.tally.received[from])
                return comm_fail(
                    c, CHOIR_ERR_STATE, "call what receives it before, on a stream that can go on",
                    "rank %u has sent rank %u a message that is not received", from, to);
    return CHOIR_OK;
}

static enum choir_status quiet(struct choir_comm *c, struct answer *answer)
{
    struct cuda_comm *gpu = c->device->gpu;
    struct answer a = {0};
    enum choir_status st = hear(c, answer);
    if (st == CHOIR_OK)
        st = check_tallies(c, answer);
    if (st == CHOIR_IN_PROGRESS)
        return st;
    if (st != CHOIR_OK) {
        if (cuda_comm_saved(gpu))
            cuda_comm_forget(gpu);
        return st;
    }
    return tell(c, PAUSE_RELEASED, &a, cuda_comm_release(gpu));
}

static enum choir_status released(struct choir_comm *c, struct answer *answer)
{
    enum choir_status st = hear(c, answer);
    if (st == CHOIR_IN_PROGRESS)
        return st;
    c->device->suspended = true;
    return st == CHOIR_OK ? st : fail_for_good(c, st);
}

/* --- resuming ---------------------------------------------------------------------------------------------------- */

static enum choir_status begin_resume(struct choir_comm *c)
{
    struct answer a = {0};
    return tell(c, PAUSE_BACKED, &a, cuda_comm_restore(c->device->gpu, &a.u.card));
}

/* It stays suspended. */
static enum choir_status give_back(struct choir_comm *c, enum choir_status st)
{
    struct choir_error e = *base_error_thread();
    if (!cuda_comm_suspended(c->device->gpu) && cuda_comm_release(c->device->gpu) != CHOIR_OK)
        return fail_for_good(c, base_error_thread()->status);
    *base_error_thread() = e;
    return st;
}

static enum choir_status backed(struct choir_comm *c, struct answer *answer)
{
    struct cuda_card card[CUDA_RANKS];
    enum choir_status st = hear(c, answer);
    if (st == CHOIR_IN_PROGRESS)
        return st;
    if (st != CHOIR_OK)
        return give_back(c, st);
    for (uint32_t r = 0; r < c->host.size; r++)
        card[r] = answer[r].u.card;
    c->device->pause.step = PAUSE_MEETING;
    return meeting_start(c, card);
}

static enum choir_status met(struct choir_comm *c)
{
    struct device_met said;
    enum choir_status st = meeting_advance(c, &said);
    if (st == CHOIR_IN_PROGRESS)
        return st;
    meeting_end(c);
    if (st != CHOIR_OK)
        return give_back(c, st);
    cuda_comm_forget(c->device->gpu);
    c->device->suspended = false;
    return CHOIR_OK;
}

/* --- both --------------------------------------------------------------------------------------------------------- */

static enum choir_status step(struct choir_comm *c, bool resumes)
{
    struct answer answer[CUDA_RANKS];
    switch (c->device->pause.step) {
    case PAUSE_BEGIN:
        return resumes ? begin_resume(c) : begin_suspend(c);
    case PAUSE_QUIET:
        return quiet(c, answer);
    case PAUSE_RELEASED:
        return released(c, answer);
    case PAUSE_BACKED:
        return backed(c, answer);
    default:
        return met(c);
    }
}

static enum choir_status too_late(struct choir_comm *c)
{
    int rank = tree_waits_for(c);
    host_comm_break(&c->host, CHOIR_ERR_TIMEOUT,
                    &(struct base_error_at){(int)c->host.rank, rank, 0, 0, NULL},
                    "call it on all ranks; CHOIR_TIMEOUT sets the limit",
                    "rank %u has waited %.1f s in %s for rank %d", c->host.rank,
                    (double)c->timeout_ns / 1e9, name(c), rank);
    return (enum choir_status)atomic_load(&c->host.broken);
}

static enum choir_status advance(struct choir_comm *c, bool resumes)
{
    struct comm_pause *p = &c->device->pause;
    if (p->step == PAUSE_BEGIN) {
        if (device_waits())
            return CHOIR_IN_PROGRESS;
        if (!comm_enter(c))
            return CHOIR_ERR_BUSY;
        *p = (struct comm_pause){.resumes = resumes, .deadline_ns = base_now_ns() + c->timeout_ns};
    }
    enum choir_status st = (enum choir_status)atomic_load(&c->host.broken);
    if (st == CHOIR_OK)
        st = device_waits() ? CHOIR_IN_PROGRESS : step(c, resumes);
    if (st == CHOIR_IN_PROGRESS && base_now_ns() > p->deadline_ns)
        st = too_late(c);
    if (st == CHOIR_IN_PROGRESS)
        return st;
    p->step = PAUSE_BEGIN;
    meeting_end(c);
    comm_leave(c);
    if (atomic_load(&c->host.broken)) {
        pthread_mutex_lock(&c->host.lock);
        *base_error_thread() = c->host.error;
        pthread_mutex_unlock(&c->host.lock);
        st = (enum choir_status)atomic_load(&c->host.broken);
    }
    return st;
}

static enum choir_status advance_suspend(struct choir_comm *c)
{
    return advance(c, false);
}

static enum choir_status advance_resume(struct choir_comm *c)
{
    return advance(c, true);
}

static enum choir_status check(struct choir_comm *c, bool resumes)
{
    enum choir_status st = comm_check_made(c);
    if (st != CHOIR_OK)
        return st;
    st = (enum choir_status)atomic_load(&c->host.broken);
    if (st != CHOIR_OK)
        return st;
    if (!c->device || cuda_comm_way(c->device->gpu) != CUDA_BY_MAPPING)
        return comm_fail(
            c, CHOIR_ERR_UNSUPPORTED,
            c->device ? "leave CHOIR_CUDA_VMM at auto; the log at level info says which rank cannot"
                      : "destroy the communicator, and create it again when it is needed",
            "%s",
            c->device ? "its GPU memory is shared by CUDA IPC, which keeps it"
                      : "the communicator has no GPU memory that ranks map");
    if (c->device->suspended == resumes)
        return CHOIR_OK;
    return comm_fail(c, CHOIR_ERR_STATE,
                     resumes ? "call choir_comm_suspend first" : "call choir_comm_resume first",
                     "the communicator is %ssuspended", resumes ? "not " : "");
}

static enum choir_status run(struct choir_comm *c, bool resumes)
{
    enum choir_status (*fn)(struct choir_comm *) = resumes ? advance_resume : advance_suspend;
    enum choir_status st = check(c, resumes);
    if (st != CHOIR_OK)
        return group_note(st);
    if (group_open())
        return group_add_step(c, NULL, fn);
    uint64_t start = base_now_ns();
    st = fn(c);
    for (uint32_t turn = 0; turn < 200 && st == CHOIR_IN_PROGRESS; turn++) {
        sched_yield();
        st = fn(c);
    }
    while (st == CHOIR_IN_PROGRESS)
        st = tree_wait(c, base_now_ns() - start, c, fn);
    return st;
}

enum choir_status choir_comm_suspend(choir_comm *comm)
{
    return run(comm, false);
}

enum choir_status choir_comm_resume(choir_comm *comm)
{
    return run(comm, true);
}
