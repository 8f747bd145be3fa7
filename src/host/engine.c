/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c: the state machine that runs a plan. Instances in the window advance side by side; within one, steps go in
 * order. A step with messages in goes fragment by fragment: await every in and room for every computed out;
 * combine, and release the ins; wait until pending messages have read the bytes to be written; write. Where nothing
 * has to be waited for, combining and writing are one (DESIGN.md "order of execution"; plan/reference.c is the same
 * in its plainest form).
 */
#include "host/observe.h"
#include "host/step.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void host_op_fail(struct host_op *op, enum choir_status status, const struct host_link *link,
                  const char *remedy, const char *text, ...)
{
    char line[256];
    va_list ap;
    va_start(ap, text);
    vsnprintf(line, sizeof(line), text, ap);
    va_end(ap);
    op->status = status;
    struct base_error_at at = {(int)op->comm->rank, link ? (int)link->peer : -1, op->sequence, 0,
                               link && link->end ? host_end_ops(link->end)->name : NULL};
    host_comm_break(op->comm, status, &at, remedy, "%s", line);
}

/* --- memory ---------------------------------------------------------------------------------- */

static uint64_t align(uint64_t x)
{
    return (x + BASE_LINE - 1) & ~(uint64_t)(BASE_LINE - 1);
}

static uint64_t lay_out(struct host_run *run, const struct host_bound *b, uint8_t *at)
{
    uint8_t *start = at;
    bool fresh = !b->cached;
    run->tmp = at, at += align(b->tmp_bytes);
    run->source = (const void **)at, at += align(b->most_ins * sizeof(void *));
    run->receive = (struct host_receive *)at,
    at += align(b->receives * sizeof(struct host_receive));
    run->pending = (struct host_pending *)at,
    at += align(b->pendings * sizeof(struct host_pending));
    run->pending_seg = (struct host_seg *)at,
    at += align(b->pending_segs * sizeof(struct host_seg));
    run->scratch.place = (struct host_place *)at;
    at += align(fresh * b->most_places * sizeof(struct host_place));
    run->scratch_seg = (struct host_seg *)at,
    at += align(fresh * b->most_segs * sizeof(struct host_seg));
    run->staging = at, at += align(b->slot_bytes);
    run->pulled = at, at += align(b->pulled_bytes);
    return (uint64_t)(at - start);
}

static bool grow_scratch(struct host_comm *comm, uint64_t bytes)
{
    if (base_likely(bytes <= comm->scratch_bytes))
        return true;
    uint8_t *fresh = aligned_alloc(BASE_LINE, bytes);
    if (!fresh)
        return false;
    free(comm->scratch);
    atomic_fetch_add(&comm->private_bytes, bytes - comm->scratch_bytes);
    comm->scratch = fresh;
    comm->scratch_bytes = bytes;
    return true;
}

/* --- instances -------------------------------------------------------------------------------- */

static void next_step(struct host_op *op, struct host_run *run)
{
    const struct host_bound *b = op->bound;
    run->at = 0;
    run->seen = 0;
    run->fetched = false;
    run->phase = HOST_AWAIT;
    if (b->cached) {
        run->finished = run->index == b->cached;
        if (!run->finished)
            run->now = &b->rstep[run->index++];
        return;
    }
    run->finished = !plan_cursor_next(&run->cursor, b->plan, run->instance % b->plan->programs);
    if (run->finished)
        return;
    host_resolve(op->comm, b, run->instance, run->cursor.step, run->cursor.iter, &run->scratch,
                 run->scratch_seg);
    run->now = &run->scratch;
}

static void start_instance(struct host_op *op, struct host_run *run, uint32_t instance)
{
    run->instance = instance;
    run->live = true;
    run->index = 0;
    run->cursor = (struct plan_cursor){0};
    run->pendings = run->open = 0;
    run->pending_segs = 0;
    run->landing = false;
    if (op->bound->receives)
        memset(run->receive, 0, op->bound->receives * sizeof(*run->receive));
    next_step(op, run);
}

enum choir_status host_op_start(struct host_op *op)
{
    const struct host_bound *b = op->bound;
    struct host_run probe;
    uint64_t each = lay_out(&probe, b, NULL);
    op->window = host_bound_lanes(b);
    op->last = b->plan->instances;
    op->status = CHOIR_OK;
    op->live = 0;
    op->waiting = -1;
    op->in_place = op->base[CHOIR_IN] < op->base[CHOIR_OUT] + b->extent[CHOIR_OUT] &&
                   op->base[CHOIR_OUT] < op->base[CHOIR_IN] + b->extent[CHOIR_IN];
    if (!grow_scratch(op->comm, each * op->window))
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory or lower CHOIR_SLOT",
                         "no memory for %llu bytes of scratch",
                         (unsigned long long)(each * op->window));
    for (uint32_t w = 0; w < op->window; w++) {
        struct host_run *run = &op->run[w];
        lay_out(run, b, op->comm->scratch + w * each);
        run->lane = w;
        run->slot_bytes = b->slot_bytes;
        op->live++;
        start_instance(op, run, w);
    }
    return CHOIR_OK;
}

static bool land_cancel(struct lane_rx *rx)
{
    atomic_store(&rx->land.open, 0);
    for (uint64_t until = base_now_ns() + 100000000; atomic_load(&rx->land.writing);
         host_progress())
        if (base_now_ns() > until)
            return false;
    return true;
}

bool host_op_cancel(struct host_op *op)
{
    const struct host_bound *b = op->bound;
    bool clear = true;
    for (uint32_t w = 0; w < op->window; w++) {
        struct host_run *run = &op->run[w];
        if (!run->live)
            continue;
        if (run->landing)
            clear &= land_cancel(&run->now->place[0].link->rx[run->lane]);
        for (uint32_t i = 0; i < b->receives; i++)
            if (run->receive[i].landing)
                clear &= land_cancel(
                    &b->rstep[b->cached - b->receives + i].place[0].link->rx[run->lane]);
        run->landing = false;
    }
    return clear;
}

/* The receives that end an exchange, in whatever order their messages come, but those of one peer in theirs: a group of sends
 * and receives must not wait for one rank while another waits for it. Local shape: nothing on the wire depends on it. */
static bool advance_receives(struct host_op *op, struct host_run *run)
{
    const struct host_bound *b = op->bound;
    uint32_t first = b->cached - b->receives, left = 0, pass = ++op->comm->pass;
    bool moved = false;
    for (uint32_t i = 0; i < b->receives && op->status == CHOIR_OK; i++) {
        struct host_receive *x = &run->receive[i];
        const struct host_rstep *r = &b->rstep[first + i];
        struct lane_rx *rx = &r->place[0].link->rx[run->lane];
        if (x->done || (run->phase == HOST_WRITE && run->now != r))
            continue; /* the staging memory is one step's until it has been written */
        left++;
        if (rx->blocked == pass)
            continue;
        run->now = r, run->at = x->at, run->landing = x->landing, run->seen = 0;
        enum step_result got = step_computed(op, run, r);
        while (got == STEP_MOVED)
            moved = true, got = step_computed(op, run, r);
        x->at = run->at, x->landing = run->landing;
        run->landing = false;
        if (got == STEP_DONE)
            x->done = moved = true, left--;
        else
            rx->blocked = pass;
    }
    run->finished = !left && run->phase != HOST_WRITE;
    return moved;
}

static void next_instance(struct host_op *op, struct host_run *run, uint32_t instance)
{
    if (instance < op->bound->plan->instances) {
        start_instance(op, run, instance);
    } else { /* observed */
        op->live--;
        profile_end(&op->lane[run->lane], CHOIR_OK);
    }
}

void host_op_observe(struct host_op *op, struct profile_event *lane)
{
    uint32_t instances = op->bound->plan->instances;
    op->lane = lane;
    op->last = UINT32_MAX;
    for (uint32_t w = 0; w < op->window; w++) {
        struct choir_profile_event *e = &lane[w].event;
        e->kind = CHOIR_PROFILE_LANE;
        e->lane = w;
        e->instances = (instances - w - 1) / op->window + 1;
        e->fragment_bytes = op->bound->slot_bytes;
        profile_begin(&lane[w]);
    }
}

static bool advance_run(struct host_op *op, struct host_run *run)
{
    bool moved = run->open < run->pendings && host_pending_advance(op, run);
    while (!run->finished) {
        const struct host_rstep *r = run->now;
        if (op->bound->receives && run->index > op->bound->cached - op->bound->receives) {
            moved |= advance_receives(op, run);
            if (!run->finished)
                return moved;
            break;
        }
        bool pending = r->ins == 1 && !r->msg_ins;
        enum step_result got = pending ? step_pending(op, run, r) : step_computed(op, run, r);
        if (got == STEP_BLOCKED || got == STEP_FAILED)
            return moved;
        moved = true;
        if (got == STEP_DONE)
            next_step(op, run);
    }
    if (run->open < run->pendings)
        return moved;
    run->live = false;
    /* The same lane at both ends: instance i is followed by i + window. */
    if (run->instance + op->window < op->last)
        next_instance(op, run, run->instance + op->window);
    else
        op->live--;
    return true;
}

bool host_op_advance(struct host_op *op)
{
    bool moved = true;
    while (moved && op->live && op->status == CHOIR_OK) {
        moved = false;
        for (uint32_t w = 0; w < op->window; w++)
            if (op->run[w].live)
                moved |= advance_run(op, &op->run[w]);
    }
    return !op->live || op->status != CHOIR_OK;
}
