/* SPDX-License-Identifier: Apache-2.0 */
/*
 * await.cuh: what thread 0 of a plan's lane looks at: have the messages of a fragment come, is there room for those that go
 * out, is what is to be written still being read.
 */
#ifndef CUDA_KERNEL_AWAIT_CUH
#define CUDA_KERNEL_AWAIT_CUH

#include "cuda/kernel/pending.cuh"

DEV bool plan_arrived(plan_lane &l, uint32_t peer, plan_blame &blame)
{
    const cuda_view &v = l.c.view;
    uint32_t number = l.s->received[peer];
    const cuda_post *post = post_of(v, v.rank, peer, l.b.lane);
    uint64_t seen = load_acquire(&post->arrived[number % CUDA_DEPTH]);
    if ((uint32_t)(seen >> 32) != number + 1) {
        blame = plan_blame{peer, number, true, false};
        return false;
    }
    if ((uint32_t)seen != l.c.signature) {
        fault(v.guard, CUDA_FAULT_SIGNATURE, peer, l.b.lane, number, (uint32_t)seen, l.c.signature);
        blame.fatal = true;
        return false;
    }
    return true;
}

DEV bool plan_arrived_mine(plan_lane &l, const cuda_step &step)
{
    const cuda_place *place = l.c.plan.place + step.place;
    plan_blame blame = {};
    for (uint32_t i = l.b.thread; i < step.ins; i += l.b.threads)
        if (place[i].peer >= 0 && !plan_arrived(l, (uint32_t)place[i].peer, blame))
            return false;
    return true;
}

/* All threads: whether every message in is there, one thread for each: a single one would make as many trips to memory. A
 * while, if no pending messages are kept waiting; thread 0 has more patience. */
DEV_CALL bool plan_arrived_all(plan_lane &l, const cuda_step &step)
{
    bool busy = l.b.any(!l.b.thread && l.s->open != l.s->pendings);
    bool mine = plan_arrived_mine(l, step), all = !l.b.any(!mine);
    for (uint32_t look = 1; look < LOOKS_TOGETHER && !busy && !all; look++) {
        relax();
        mine = mine || plan_arrived_mine(l, step);
        all = !l.b.any(!mine);
    }
    return all;
}

/* Every message in from `seen` on is there, and every computed message out has room, behind what is queued before it. */
DEV bool plan_awaited(plan_lane &l, const cuda_step &step, uint32_t &seen, plan_blame &blame)
{
    const cuda_place *place = l.c.plan.place + step.place;
    for (; seen < step.ins; seen++)
        if (place[seen].peer >= 0 && !plan_arrived(l, (uint32_t)place[seen].peer, blame))
            return false;
    for (uint32_t i = step.ins; i < (uint32_t)step.ins + step.outs; i++) {
        uint32_t peer = (uint32_t)place[i].peer;
        if (place[i].peer >= 0 && (l.s->queued[peer] || !plan_credit(l, peer))) {
            blame = plan_blame{peer, l.s->sent[peer], false, false};
            return false;
        }
    }
    return true;
}

/* Whether pending messages have still to read what [lo, hi) of the step writes. A copy of bytes to themselves (in place) is
 * none: it must not wait for messages that read them. */
DEV bool plan_blocked(plan_lane &l, const cuda_step &step, uint64_t lo, uint64_t hi,
                      plan_blame &blame)
{
    if (l.s->open == l.s->pendings)
        return false;
    const cuda_place *place = l.c.plan.place + step.place;
    bool copies = step.ins == 1 && !step.msg_ins;
    for (uint32_t i = step.ins; i < (uint32_t)step.ins + step.outs; i++)
        for (uint64_t at = lo; place[i].peer < 0 && at < hi;) {
            uint64_t n = hi - at;
            const uint8_t *to = plan_find(l, place[i], at, n);
            const uint8_t *from = copies ? plan_find(l, place[0], at, n) : NULL;
            if (from != to && plan_reads(l, to, n, blame))
                return true;
            at += n;
        }
    return false;
}

/* --- the receives that end a group ----------------------------------------------------------------------
 * They are taken in whatever order their messages come, but those of one peer in theirs: a group must not wait for one
 * rank while another waits for it. Their list is behind that of pending messages. */

DEV cuda_pending *plan_receive(const plan_lane &l, uint32_t i)
{
    return plan_pending(l, l.c.plan.most_pendings - l.c.plan.receives + i);
}

DEV void plan_list_receives(plan_lane &l, const cuda_step *step)
{
    for (uint32_t i = 0; i < l.c.plan.receives; i++)
        *plan_receive(l, i) = cuda_pending{i, (uint32_t)l.c.plan.place[step[i].place].peer, 0,
                                           plan_bytes(l, l.c.plan.place[step[i].measure])};
}

/* Finds one that can go on; true also if all have ended: then it is the one behind the last. */
DEV bool plan_pick_receive(plan_lane &l, const cuda_step *step, plan_blame &blame)
{
    uint32_t looked = 0, n = l.c.plan.receives;
    for (l.s->receive = 0; l.s->receive < n; l.s->receive++) {
        const cuda_pending &r = *plan_receive(l, l.s->receive);
        if (r.peer == CUDA_LOCAL || bit(looked, r.peer))
            continue;
        looked |= 1u << r.peer;
        l.s->lo = r.done;
        l.s->hi = plan_fragment_end(l, r.done, r.bytes);
        if (plan_arrived(l, r.peer, blame) &&
            !plan_blocked(l, step[r.place], l.s->lo, l.s->hi, blame))
            return true;
        if (blame.fatal)
            return false;
    }
    return !looked;
}

#endif
