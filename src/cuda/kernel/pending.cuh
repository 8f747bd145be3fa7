/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pending.cuh: messages whose source is local memory. They are posted and stream in the background, a fragment whenever
 * the block has to wait and once before each fragment it works on. Messages to one peer go in the order posted, those to
 * several by turns; one source for several peers (a fan-out) is read once. Thread 0 keeps the list.
 */
#ifndef CUDA_KERNEL_PENDING_CUH
#define CUDA_KERNEL_PENDING_CUH

#include "cuda/kernel/move.cuh"

struct plan_blame { /* for whom a thread waits */
    uint32_t peer, number;
    bool message; /* of it */
    bool fatal;   /* it is in vain */
};

DEV cuda_pending *plan_pending(const plan_lane &l, uint32_t i)
{
    return l.c.pending + (uint64_t)l.b.lane * l.c.plan.most_pendings + i;
}

/* Of a message of so many bytes, the end of the fragment that begins at `lo`. */
DEV uint64_t plan_fragment_end(const plan_lane &l, uint64_t lo, uint64_t bytes)
{
    uint64_t most = l.c.plan.slot * l.c.plan.elem;
    return bytes - lo < most ? bytes : lo + most;
}

/* A slot of the peer is free. */
DEV bool plan_credit(plan_lane &l, uint32_t peer)
{
    plan_shared *s = l.s;
    if ((int32_t)(s->sent[peer] - s->consumed[peer]) < (int32_t)CUDA_DEPTH)
        return true;
    const cuda_view &v = l.c.view;
    s->consumed[peer] = (uint32_t)load_acquire(&post_of(v, v.rank, peer, l.b.lane)->consumed);
    return (int32_t)(s->sent[peer] - s->consumed[peer]) < (int32_t)CUDA_DEPTH;
}

/* Says that the next fragment to a peer is in its slot; a fence is before. */
DEV void plan_announce(plan_lane &l, uint32_t peer)
{
    const cuda_view &v = l.c.view;
    uint32_t number = l.s->sent[peer]++;
    store_relaxed(&post_of(v, peer, v.rank, l.b.lane)->arrived[number % CUDA_DEPTH],
                  (uint64_t)(number + 1) << 32 | l.c.signature);
}

DEV void plan_post(plan_lane &l, const cuda_step &step, uint64_t bytes)
{
    for (uint32_t i = 1; i <= step.outs; i++) {
        int32_t peer = l.c.plan.place[step.place + i].peer;
        if (peer < 0)
            continue;
        *plan_pending(l, l.s->pendings++) = cuda_pending{step.place, (uint32_t)peer, 0, bytes};
        l.s->queued[peer]++;
    }
}

/* Whether a pending message has still to read some of these bytes. */
DEV bool plan_reads(plan_lane &l, const uint8_t *at, uint64_t bytes, plan_blame &blame)
{
    for (uint32_t i = l.s->open; i < l.s->pendings; i++) {
        const cuda_pending &p = *plan_pending(l, i);
        for (uint64_t done = p.done; p.peer != CUDA_LOCAL && done < p.bytes;) {
            uint64_t n = p.bytes - done;
            const uint8_t *from = plan_find(l, l.c.plan.place[p.place], done, n);
            if (from < at + bytes && at < from + n) {
                blame = plan_blame{p.peer, l.s->sent[p.peer], false, false};
                return true;
            }
            done += n;
        }
    }
    return false;
}

/* Whether two places, most often of steps that differ in the peer only, are the same bytes. */
DEV bool plan_same_source(const plan_lane &l, uint32_t i, uint32_t k)
{
    const cuda_place &p = l.c.plan.place[i], &q = l.c.plan.place[k];
    if (i == k)
        return true;
    if (p.buf != q.buf || p.cut != q.cut || p.segs != 1 || q.segs != 1)
        return false;
    const cuda_seg &a = l.c.plan.seg[p.seg], &b = l.c.plan.seg[q.seg];
    return a.off == b.off && a.len == b.len;
}

/* Finds a fragment that can be sent now, from whose turn it is on, and all that are the same bytes for other peers. */
DEV bool plan_pick(plan_lane &l, plan_blame &blame)
{
    plan_shared *s = l.s;
    uint32_t looked = 0, may = 0, chosen = CUDA_LOCAL;
    for (uint32_t i = s->open; i < s->pendings; i++) {
        uint32_t peer = plan_pending(l, i)->peer;
        if (peer == CUDA_LOCAL || bit(looked, peer))
            continue;
        looked |= 1u << peer;
        if (!plan_credit(l, peer)) {
            blame = plan_blame{peer, s->sent[peer], false, false};
            continue;
        }
        may |= 1u << peer;
        s->first[peer] = i;
        if (chosen == CUDA_LOCAL || (chosen < s->next && i >= s->next))
            chosen = i;
    }
    if (chosen == CUDA_LOCAL)
        return false;
    const cuda_pending &p = *plan_pending(l, chosen);
    s->next = chosen + 1;
    s->source = p.place;
    s->lo = p.done;
    s->hi = plan_fragment_end(l, p.done, p.bytes);
    s->targets = 0;
    for (uint32_t peer = 0; peer < l.c.view.ranks; peer++) {
        if (!bit(may, peer))
            continue;
        const cuda_pending &q = *plan_pending(l, s->first[peer]);
        if (q.done != p.done || !plan_same_source(l, q.place, p.place))
            continue;
        s->picked[s->targets] = s->first[peer];
        s->target[s->targets++] = peer;
    }
    return true;
}

/* All threads, after a sync: sends what plan_pick has found. */
DEV void plan_serve(plan_lane &l)
{
    plan_shared *s = l.s;
    plan_spread(l, plan_job{s->source, 1, 0, s->targets, PLAN_TARGETS, s->lo, s->hi});
    l.b.sync();
    if (l.b.thread)
        return;
    fence_system(); /* pairs with load_acquire in plan_arrived */
    for (uint32_t i = 0; i < s->targets; i++) {
        cuda_pending &p = *plan_pending(l, s->picked[i]);
        plan_announce(l, p.peer);
        p.done = s->hi;
        if (p.done < p.bytes)
            continue;
        s->queued[p.peer]--;
        p.peer = CUDA_LOCAL;
    }
    while (s->open < s->pendings && plan_pending(l, s->open)->peer == CUDA_LOCAL)
        s->open++;
}

#endif
