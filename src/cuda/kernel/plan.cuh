/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plan.cuh: the kernel that runs any plan (DESIGN.md "order of execution") through the slots of stream.cuh. Block `lane`
 * runs instances lane, lane + window, ... In it, thread 0 looks at flags and credits (await.cuh) and decides what is
 * next; all threads copy and combine (move.cuh). Whenever the block waits, and once before each fragment, it sends what
 * it can of pending messages.
 *
 * Thread 0 alone reads and writes what is in plan_shared but for orders, numbers and jobs, which it writes before a sync
 * and others read after it.
 */
#ifndef CUDA_KERNEL_PLAN_CUH
#define CUDA_KERNEL_PLAN_CUH

#include "cuda/kernel/await.cuh"

enum plan_order {
    PLAN_STOP,  /* given up */
    PLAN_SERVE, /* send a fragment of pending messages */
    PLAN_GO,
    PLAN_STAGE /* go, but combine into the staging memory: what is to be written is still being read */
};
enum plan_phase {
    PLAN_AWAIT,
    PLAN_ROOM, /* PLAN_AWAIT, where all messages in are there */
    PLAN_WRITE,
    PLAN_RECEIVE,
    PLAN_DRAIN
};

/* --- orders -------------------------------------------------------------------------------------------- */

DEV bool plan_wait(plan_lane &l, patience &w, const plan_blame &blame)
{
    const cuda_view &v = l.c.view;
    if (!wait_on(v.guard, w, blame.peer, l.b.lane, blame.number))
        return false;
    return !blame.message || !wait_looked(w) ||
           !other_call(v.guard, post_of(v, v.rank, blame.peer, l.b.lane), WAY_SLOTS, blame.peer,
                       l.b.lane, blame.number, count_of(v, blame.peer, l.b.lane)->ll_received,
                       l.c.signature);
}

/* Thread 0 waits until the phase's condition holds or a pending message can go on. */
DEV uint32_t plan_decide(plan_lane &l, uint32_t phase, const cuda_step &step, uint64_t lo,
                         uint64_t hi, bool served)
{
    patience w = {};
    uint32_t seen = phase == PLAN_ROOM ? step.ins : 0;
    for (;;) {
        plan_blame blame = {l.c.view.rank, 0, false, false};
        bool good = phase <= PLAN_ROOM      ? plan_awaited(l, step, seen, blame)
                    : phase == PLAN_WRITE   ? !plan_blocked(l, step, lo, hi, blame)
                    : phase == PLAN_RECEIVE ? plan_pick_receive(l, &step, blame)
                                            : l.s->open == l.s->pendings;
        if (blame.fatal)
            return PLAN_STOP;
        plan_blame sender = blame;
        if (l.s->open != l.s->pendings && !(good && served) && plan_pick(l, sender))
            return PLAN_SERVE;
        if (good)
            return phase <= PLAN_ROOM && plan_blocked(l, step, lo, hi, blame) ? PLAN_STAGE
                                                                              : PLAN_GO;
        if (!plan_wait(l, w, phase == PLAN_DRAIN ? sender : blame))
            return PLAN_STOP;
    }
}

/* All threads: sends of pending messages what can be sent until the phase's condition holds. */
DEV_CALL uint32_t plan_until(plan_lane &l, uint32_t phase, const cuda_step &step, uint64_t lo,
                             uint64_t hi)
{
    for (bool served = false;; served = true) {
        uint32_t *order = &l.s->order[++l.turn & 1];
        if (!l.b.thread)
            *order = plan_decide(l, phase, step, lo, hi, served);
        l.b.sync();
        if (*order != PLAN_SERVE)
            return *order;
        plan_serve(l);
    }
}

/* --- steps --------------------------------------------------------------------------------------------- */

/* Thread 0, after a sync: the messages in of the fragment are read. */
DEV void plan_release(plan_lane &l, const cuda_step &step)
{
    const cuda_view &v = l.c.view;
    for (uint32_t i = 0; i < step.ins; i++) {
        int32_t peer = l.c.plan.place[step.place + i].peer;
        if (peer < 0)
            continue;
        uint32_t number = ++l.s->received[peer];
        store_relaxed(&post_of(v, (uint32_t)peer, v.rank, l.b.lane)->consumed, (uint64_t)number);
    }
}

/* Thread 0, after a sync: the computed messages are written. */
DEV void plan_publish(plan_lane &l, const cuda_step &step)
{
    if (!step.msg_outs)
        return;
    fence_system(); /* pairs with load_acquire in plan_arrived */
    for (uint32_t i = step.ins; i < (uint32_t)step.ins + step.outs; i++) {
        int32_t peer = l.c.plan.place[step.place + i].peer;
        if (peer >= 0)
            plan_announce(l, (uint32_t)peer);
    }
}

/* A step with messages in, fragment by fragment. The ins of a fragment are released before anything waits or is sent that
 * depends on it: otherwise exchanges in place would lock each other. */
template <class T, class OP> DEV bool plan_message_step(plan_lane &l, const cuda_step &step)
{
    uint64_t bytes = plan_bytes(l, l.c.plan.place[step.measure]);
    uint64_t lo = 0;
    do {
        uint64_t hi = plan_fragment_end(l, lo, bytes);
        plan_job job = {step.place, step.ins, step.place + step.ins, step.outs, PLAN_OUTS, lo, hi};
        bool there = step.msg_ins > 1 && plan_arrived_all(l, step);
        uint32_t order = plan_until(l, there ? PLAN_ROOM : PLAN_AWAIT, step, lo, hi);
        if (order == PLAN_STOP)
            return false;
        if (order == PLAN_STAGE)
            job.outs = 0;
        if (step.ins == 1)
            plan_spread(l, job);
        else
            plan_reduce<T, OP>(l, job);
        l.b.sync();
        if (!l.b.thread)
            plan_release(l, step);
        if (order == PLAN_STAGE) {
            if (plan_until(l, PLAN_WRITE, step, lo, hi) == PLAN_STOP)
                return false;
            job.ins = 0;
            job.outs = step.outs;
            plan_spread(l, job);
            l.b.sync();
        }
        if (!l.b.thread)
            plan_publish(l, step);
        lo = hi;
    } while (lo < bytes);
    return true;
}

/* The only in is local: messages are posted and stream by themselves, local outs are copies. */
DEV_CALL bool plan_local_step(plan_lane &l, const cuda_step &step)
{
    uint64_t bytes = plan_bytes(l, l.c.plan.place[step.measure]);
    if (!l.b.thread)
        plan_post(l, step, bytes);
    if (step.outs == step.msg_outs)
        return true;
    for (uint64_t lo = 0, hi; lo < bytes; lo = hi) {
        hi = plan_fragment_end(l, lo, bytes);
        if (plan_until(l, PLAN_WRITE, step, lo, hi) == PLAN_STOP)
            return false;
        plan_spread(l, plan_job{step.place, 1, step.place + 1, step.outs, PLAN_LOCAL_OUTS, lo, hi});
    }
    return true;
}

/* All receives of a group, from this step on. */
DEV_CALL bool plan_receives(plan_lane &l, const cuda_step *step)
{
    if (!l.b.thread)
        plan_list_receives(l, step);
    for (;;) {
        if (plan_until(l, PLAN_RECEIVE, *step, 0, 0) == PLAN_STOP)
            return false;
        uint32_t i = l.s->receive;
        if (i == l.c.plan.receives)
            return true;
        plan_spread(l, plan_job{step[i].place, 1, step[i].place + 1, step[i].outs, PLAN_OUTS,
                                l.s->lo, l.s->hi});
        l.b.sync();
        if (l.b.thread)
            continue;
        cuda_pending &r = *plan_receive(l, i);
        plan_release(l, step[i]);
        r.done = l.s->hi;
        if (r.done == r.bytes)
            r.peer = CUDA_LOCAL;
    }
}

template <class T, class OP> DEV bool plan_step(plan_lane &l, const cuda_step &step)
{
    return step.ins == 1 && !step.msg_ins ? plan_local_step(l, step)
                                          : plan_message_step<T, OP>(l, step);
}

/* --- a lane -------------------------------------------------------------------------------------------- */

DEV bool plan_begin(plan_lane &l)
{
    bool poisoned = !l.b.thread && load_relaxed(&l.c.view.guard.state->poison);
    for (uint32_t p = l.b.thread; p < l.c.view.ranks; p += l.b.threads) {
        const cuda_count *n = count_of(l.c.view, p, l.b.lane);
        l.s->sent[p] = n->sent;
        l.s->received[p] = n->received;
        l.s->consumed[p] = n->consumed;
        l.s->queued[p] = 0;
    }
    return !l.b.any(poisoned);
}

DEV void plan_end(plan_lane &l)
{
    l.b.sync();
    for (uint32_t p = l.b.thread; p < l.c.view.ranks; p += l.b.threads) {
        cuda_count *n = count_of(l.c.view, p, l.b.lane);
        n->sent = l.s->sent[p];
        n->received = l.s->received[p];
        n->consumed = l.s->consumed[p];
    }
}

template <class T, class OP>
DEV void plan_lane_run(block b, const cuda_plan_call &c, plan_shared *s)
{
    plan_lane l = {b, c, s, 0, 0};
    if (!plan_begin(l))
        return;
    const cuda_plan &plan = c.plan;
    for (l.instance = b.lane; l.instance < plan.instances; l.instance += plan.window) {
        uint32_t program = l.instance % plan.programs;
        if (!b.thread)
            s->open = s->pendings = s->next = 0;
        const cuda_step *step = plan.step + plan.begin[program],
                        *end = plan.step + plan.begin[program + 1] - plan.receives;
        for (; step < end; step++)
            if (!plan_step<T, OP>(l, *step))
                return;
        if (plan.receives && !plan_receives(l, step))
            return;
        /* It ends when its pending messages have been read: what follows may write over their sources. */
        if (plan_until(l, PLAN_DRAIN, *plan.step, 0, 0) == PLAN_STOP)
            return;
    }
    plan_end(l);
}

#endif
