/* SPDX-License-Identifier: Apache-2.0 */
/*
 * move.cuh: what all threads of a plan's lane do together: find the bytes of places, copy and combine them.
 *
 * A job is [lo, hi) of a step. Its places need not lie in one piece, so it is done stretch by stretch: thread i finds
 * where place i goes on and for how long, a sync, and all threads do as much as is in one piece everywhere.
 */
#ifndef CUDA_KERNEL_MOVE_CUH
#define CUDA_KERNEL_MOVE_CUH

#include "cuda/kernel/stream.cuh"

/* Places of a job, sources first: where they go on, and bytes in one piece. Two by turns, so that one sync is enough. */
struct plan_stretch {
    uint8_t *at[CUDA_PLACES]; /* NULL: not a part of the job */
    uint64_t left[CUDA_PLACES];
};
struct plan_shared {
    uint32_t sent[CUDA_RANKS], received[CUDA_RANKS], consumed[CUDA_RANKS];
    uint32_t queued[CUDA_RANKS]; /* messages posted to the peer and not wholly sent */
    uint32_t open, pendings;     /* of this instance: [open, pendings) are not wholly sent */
    uint32_t next;               /* whose turn it is among them */
    uint32_t first[CUDA_RANKS];  /* pending message that is the peer's next */
    uint32_t order[2];           /* enum plan_order, by turns */
    /* The fragment of pending messages that is sent now: of one source, to one or several. */
    uint32_t source, targets;
    uint32_t target[CUDA_RANKS], picked[CUDA_RANKS]; /* peer; pending message */
    uint32_t receive; /* which of the receives that end a group goes on */
    uint64_t lo, hi;  /* of the message */
    plan_stretch stretch[2];
};

struct plan_lane {
    block b;
    const cuda_plan_call &c;
    plan_shared *s;
    uint32_t instance, turn;
};

enum plan_whereto {
    PLAN_OUTS,       /* the places from `out` on */
    PLAN_LOCAL_OUTS, /* the local ones of them */
    PLAN_TARGETS     /* slots of the peers in plan_shared */
};
struct plan_job {
    uint32_t in, ins;   /* places; ins 0: the staging memory */
    uint32_t out, outs; /* outs 0: the staging memory */
    uint32_t whereto;
    uint64_t lo, hi;
};

/* --- places ------------------------------------------------------------------------------------------ */

DEV range plan_piece_of(const plan_lane &l, const cuda_place &p, const cuda_seg &seg)
{
    if (p.cut == CUDA_CUT_NONE)
        return range{0, seg.len};
    range r = piece_of(seg.len, l.instance, l.c.plan.instances);
    return range{p.cut == CUDA_CUT_PIECE ? r.from : 0, r.count};
}

DEV uint64_t plan_bytes(const plan_lane &l, const cuda_place &p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p.segs; i++)
        n += plan_piece_of(l, p, l.c.plan.seg[p.seg + i]).count;
    return n * l.c.plan.elem;
}

/* The bytes at `at` of a local place; `left` becomes how many lie in one piece there, if that is less. */
DEV uint8_t *plan_find(const plan_lane &l, const cuda_place &p, uint64_t at, uint64_t &left)
{
    const cuda_plan_call &c = l.c;
    uintptr_t base = p.buf == 0   ? (uintptr_t)c.in
                     : p.buf == 1 ? (uintptr_t)c.out
                                  : (uintptr_t)c.tmp + l.b.lane * c.plan.tmp_bytes;
    for (uint32_t i = 0; i < p.segs; i++) {
        const cuda_seg &seg = c.plan.seg[p.seg + i];
        range r = plan_piece_of(l, p, seg);
        uint64_t n = r.count * c.plan.elem;
        if (at < n) {
            left = left < n - at ? left : n - at;
            return (uint8_t *)(base + (seg.off + r.from) * c.plan.elem + at);
        }
        at -= n;
    }
    return (uint8_t *)base; /* never: all places of a step are equally long */
}

DEV uint8_t *plan_staging(const plan_lane &l)
{
    return l.c.staging + (uint64_t)l.b.lane * CUDA_SLOT_BYTES;
}

/* Source `i` of a job at `at`. */
DEV uint8_t *plan_source_at(const plan_lane &l, const plan_job &j, uint32_t i, uint64_t at,
                            uint64_t &left)
{
    const cuda_view &v = l.c.view;
    if (!j.ins)
        return plan_staging(l) + (at - j.lo);
    const cuda_place &p = l.c.plan.place[j.in + i];
    if (p.peer < 0)
        return plan_find(l, p, at, left);
    return slot_of(v, v.rank, (uint32_t)p.peer, l.b.lane, l.s->received[p.peer]) + (at - j.lo);
}

/* Destination `i` of a job at `at`; NULL: none of the job's. */
DEV uint8_t *plan_out_at(const plan_lane &l, const plan_job &j, uint32_t i, uint64_t at,
                         uint64_t &left)
{
    const cuda_view &v = l.c.view;
    if (!j.outs)
        return plan_staging(l) + (at - j.lo);
    uint32_t peer;
    if (j.whereto == PLAN_TARGETS) {
        peer = l.s->target[i];
    } else {
        const cuda_place &p = l.c.plan.place[j.out + i];
        if (p.peer < 0)
            return plan_find(l, p, at, left);
        if (j.whereto == PLAN_LOCAL_OUTS)
            return NULL;
        peer = (uint32_t)p.peer;
    }
    return slot_of(v, peer, v.rank, l.b.lane, l.s->sent[peer]) + (at - j.lo);
}

/* --- bytes ------------------------------------------------------------------------------------------- */

/* Pairs of words, `step` bytes apart, that a thread has on the way: whole ones, all addresses multiples of WIDTH (16 or 4), or
 * (0) a single one, of any address, with what is left to the end. */
#define PLAN_UNROLL 4u
template <uint32_t WIDTH> struct plan_pairs {
    static constexpr uint32_t each = WIDTH ? PLAN_UNROLL : 1;
    line16 x[each];

    DEV void load(const uint8_t *from, uint64_t step, uint64_t left)
    {
        UNROLL
        for (uint32_t k = 0; k < each; k++) {
            const uint32_t *w = (const uint32_t *)(from + k * step);
            if (WIDTH == 16)
                x[k] = load_data((const line16 *)w);
            else if (WIDTH)
                x[k] = line16{w[0] | (uint64_t)w[1] << 32, w[2] | (uint64_t)w[3] << 32};
            else
                x[k] = load_pair(from, left);
        }
    }
    DEV void store(uint8_t *to, uint64_t step, uint64_t left) const
    {
        UNROLL
        for (uint32_t k = 0; k < each; k++) {
            uint32_t *w = (uint32_t *)(to + k * step);
            if (WIDTH == 16) {
                store_data((line16 *)w, x[k]);
            } else if (WIDTH) {
                w[0] = (uint32_t)x[k].a;
                w[1] = (uint32_t)(x[k].a >> 32);
                w[2] = (uint32_t)x[k].b;
                w[3] = (uint32_t)(x[k].b >> 32);
            } else {
                store_pair(to, x[k], left);
            }
        }
    }
};

/* The low bits of all addresses of a stretch. */
DEV uintptr_t plan_odd(const plan_stretch &s, uint32_t places)
{
    uintptr_t odd = 0;
    for (uint32_t i = 0; i < places; i++)
        odd |= (uintptr_t)s.at[i];
    return odd & 15;
}

/* One source: to all but itself. */
struct plan_copier {
    template <uint32_t WIDTH>
    DEV void go(const plan_stretch &s, uint32_t outs, uint64_t at, uint64_t step,
                uint64_t bytes) const
    {
        plan_pairs<WIDTH> p;
        p.load(s.at[0] + at, step, bytes - at);
        for (uint32_t o = 1; o <= outs; o++)
            if (s.at[o] && s.at[o] != s.at[0])
                p.store(s.at[o] + at, step, bytes - at);
    }
};

/* Two sources or more, in their order. What a thread writes in place it has read itself. */
template <class T, class OP> struct plan_combiner {
    uint32_t ins;

    template <uint32_t WIDTH>
    DEV void go(const plan_stretch &s, uint32_t outs, uint64_t at, uint64_t step,
                uint64_t bytes) const
    {
        plan_pairs<WIDTH> p;
        accumulator<T, OP> sum[p.each][2];
        p.load(s.at[0] + at, step, bytes - at);
        UNROLL
        for (uint32_t k = 0; k < p.each; k++) {
            sum[k][0].start(p.x[k].a);
            sum[k][1].start(p.x[k].b);
        }
        uint32_t n = 1;
        do {
            p.load(s.at[n] + at, step, bytes - at);
            UNROLL
            for (uint32_t k = 0; k < p.each; k++) {
                sum[k][0].add(p.x[k].a);
                sum[k][1].add(p.x[k].b);
            }
        } while (++n < ins);
        UNROLL
        for (uint32_t k = 0; k < p.each; k++)
            p.x[k] = line16{sum[k][0].finish(), sum[k][1].finish()};
        for (uint32_t o = ins; o < ins + outs; o++)
            p.store(s.at[o] + at, step, bytes - at);
    }
};

/* All bytes of a stretch. */
template <class WORK>
DEV void plan_work(block b, const plan_stretch &s, uint32_t ins, uint32_t outs, uint64_t bytes,
                   const WORK &work)
{
    uint64_t step = 16ull * b.threads, at = 16ull * b.thread, odd = plan_odd(s, ins + outs);
    if (!odd)
        for (; at + (PLAN_UNROLL - 1) * step + 16 <= bytes; at += PLAN_UNROLL * step)
            work.template go<16>(s, outs, at, step, bytes);
    else if (!(odd & 3))
        for (; at + (PLAN_UNROLL - 1) * step + 16 <= bytes; at += PLAN_UNROLL * step)
            work.template go<4>(s, outs, at, step, bytes);
    for (; at < bytes; at += step)
        work.template go<0>(s, outs, at, step, bytes);
}

/* Finds where the job goes on from `at` on; returns how many bytes are in one piece everywhere. */
DEV_CALL uint64_t plan_find_stretch(plan_lane &l, const plan_job &j, uint64_t at)
{
    uint32_t ins = j.ins ? j.ins : 1, outs = j.outs ? j.outs : 1;
    plan_stretch &s = l.s->stretch[++l.turn & 1];
    for (uint32_t i = l.b.thread; i < ins + outs; i += l.b.threads) {
        uint64_t left = j.hi - at;
        s.at[i] =
            i < ins ? plan_source_at(l, j, i, at, left) : plan_out_at(l, j, i - ins, at, left);
        s.left[i] = left;
    }
    l.b.sync();
    uint64_t n = j.hi - at;
    for (uint32_t i = 0; i < ins + outs; i++)
        n = s.left[i] < n ? s.left[i] : n;
    return n;
}

/* All threads: a job of one source. No sync at the end, here and below. */
DEV_CALL void plan_spread(plan_lane &l, const plan_job &j)
{
    for (uint64_t at = j.lo, n; at < j.hi; at += n) {
        n = plan_find_stretch(l, j, at);
        plan_work(l.b, l.s->stretch[l.turn & 1], 1, j.outs ? j.outs : 1, n, plan_copier{});
    }
}

/* All threads: a job of several. */
template <class T, class OP> DEV_CALL void plan_reduce(plan_lane &l, const plan_job &j)
{
    for (uint64_t at = j.lo, n; at < j.hi; at += n) {
        n = plan_find_stretch(l, j, at);
        plan_work(l.b, l.s->stretch[l.turn & 1], j.ins, j.outs ? j.outs : 1, n,
                  plan_combiner<T, OP>{j.ins});
    }
}

#endif
