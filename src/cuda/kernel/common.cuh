/* SPDX-License-Identifier: Apache-2.0 */
/*
 * common.cuh: what all kernels share: pieces of parts, words of any alignment, waiting with a way out.
 */
#ifndef CUDA_KERNEL_COMMON_CUH
#define CUDA_KERNEL_COMMON_CUH

#include "cuda/kernel/portable.cuh"

DEV uint32_t bit(uint32_t mask, uint32_t i)
{
    return mask >> i & 1u;
}

/* --- pieces ---------------------------------------------------------------------------------------- */

struct range {
    uint64_t from, count; /* elements */
};
/* Piece i of n of a length: plan_piece of src/plan. */
DEV range piece_of(uint64_t len, uint32_t i, uint32_t n)
{
    if (n == 1)
        return range{0, len};
    if (len >> 32) {
        uint64_t q = len / n, r = len % n, from = q * i + r * i / n;
        return range{from, q * (i + 1) + r * (i + 1) / n - from};
    }
    uint32_t l = (uint32_t)len, q = l / n, r = l % n,
             from = q * i + r * i / n; /* shorter divisions */
    return range{from, q * (i + 1) + r * (i + 1) / n - from};
}

/* --- words of 8 bytes -------------------------------------------------------------------------------- */

/* The next `bytes` bytes, at most 8, the first one lowest. */
DEV uint64_t load_word(const uint8_t *p, uint64_t bytes)
{
    uint32_t odd = (uint32_t)(uintptr_t)p & 7;
    uint64_t w = 0;
    if (bytes >= 8 && !odd)
        return *(const uint64_t *)p;
    if (bytes >= 8 && !(odd & 3))
        return *(const uint32_t *)p | (uint64_t) * (const uint32_t *)(p + 4) << 32;
    if (bytes >= 8 && !(odd & 1)) {
        for (uint32_t i = 0; i < 4; i++)
            w |= (uint64_t)((const uint16_t *)p)[i] << 16 * i;
        return w;
    }
    for (uint32_t i = 0; i < 8 && i < bytes; i++)
        w |= (uint64_t)p[i] << 8 * i;
    return w;
}
DEV void store_word(uint8_t *p, uint64_t w, uint64_t bytes)
{
    uint32_t odd = (uint32_t)(uintptr_t)p & 7;
    if (bytes >= 8 && !odd) {
        *(uint64_t *)p = w;
    } else if (bytes >= 8 && !(odd & 3)) {
        *(uint32_t *)p = (uint32_t)w;
        *(uint32_t *)(p + 4) = (uint32_t)(w >> 32);
    } else if (bytes >= 8 && !(odd & 1)) {
        for (uint32_t i = 0; i < 4; i++)
            ((uint16_t *)p)[i] = (uint16_t)(w >> 16 * i);
    } else {
        for (uint32_t i = 0; i < 8 && i < bytes; i++)
            p[i] = (uint8_t)(w >> 8 * i);
    }
}

/* 16 bytes of any alignment; what is beyond `left` is not touched. */
DEV line16 load_pair(const uint8_t *p, uint64_t left)
{
    if (left >= 16 && !((uintptr_t)p & 15))
        return load_data((const line16 *)p);
    return line16{load_word(p, left), left > 8 ? load_word(p + 8, left - 8) : 0};
}
DEV void store_pair(uint8_t *p, line16 v, uint64_t left)
{
    if (left >= 16 && !((uintptr_t)p & 15)) {
        store_data((line16 *)p, v);
        return;
    }
    store_word(p, v.a, left);
    if (left > 8)
        store_word(p + 8, v.b, left - 8);
}

DEV bool aligned(const void *p)
{
    return !((uintptr_t)p & 15);
}

/* --- the mailboxes ------------------------------------------------------------------------------------ */

/* Of `owner`, what `from` writes. */
DEV cuda_post *post_of(const cuda_view &v, uint32_t owner, uint32_t from, uint32_t lane)
{
    return (cuda_post *)(v.mailbox[owner] + CUDA_POST_AT(v.ranks, from, lane));
}
DEV cuda_count *count_of(const cuda_view &v, uint32_t peer, uint32_t lane)
{
    return v.count + cuda_index(peer, lane);
}

/* --- waiting ------------------------------------------------------------------------------------------ */

/* Makes all kernels of the communicator end, and tells the host why; the first one's word counts. */
DEV_CALL void fault(const cuda_guard &g, uint32_t code, uint32_t peer, uint32_t lane,
                    uint32_t number, uint32_t seen, uint32_t signature)
{
    if (!claim(&g.state->poison, code))
        return;
    cuda_report *r = g.report;
    store_relaxed(&r->peer, peer);
    store_relaxed(&r->lane, lane);
    store_relaxed(&r->number, number);
    store_relaxed(&r->seen, seen);
    store_relaxed(&r->signature, signature);
    fence_system();
    store_relaxed(&r->code, code);
}

/* One thread's wait for one peer. Looks at the clock and for orders to stop now and then; those that come late find poison. */
struct patience {
    uint32_t spins;
    uint64_t since;
};
#define PATIENCE_SPINS 1024u
#define WAIT_TOLD_NS 100000000u

/* since: when the wait began, 0 at first. Returns it; 0: no more waiting. */
DEV_CALL uint64_t wait_look(const cuda_guard &g, uint64_t since, uint32_t peer, uint32_t lane,
                            uint32_t number)
{
    if (load_relaxed(&g.state->poison))
        return 0;
    uint64_t now = clock_ns();
    since = since ? since : now;
    uint32_t code = load_relaxed(g.abort)      ? CUDA_FAULT_ABORT
                    : now - since > g.limit_ns ? CUDA_FAULT_LATE
                                               : CUDA_FAULT_NONE;
    if (!code && now - since > WAIT_TOLD_NS) {
        store_relaxed(&g.report->waiting, peer + 1);
        store_relaxed(&g.report->tick, (uint32_t)(now >> 20));
    }
    if (code)
        fault(g, code, peer, lane, number, (uint32_t)(g.limit_ns / 1000000), 0);
    return code ? 0 : since;
}
DEV bool wait_on(const cuda_guard &g, patience &w, uint32_t peer, uint32_t lane, uint32_t number)
{
    relax();
    if (++w.spins % PATIENCE_SPINS)
        return true;
    w.since = wait_look(g, w.since, peer, lane, number);
    return w.since != 0;
}
/* Whether wait_on has just looked around: then the caller may afford to, too. */
DEV bool wait_looked(const patience &w)
{
    return !(w.spins % PATIENCE_SPINS);
}

/* Whether the next message of `peer` belongs to another call, which then is a fault. A call's arguments decide which way its
 * messages come, so who waits in vain for one looks at both; own: the way it waits for. If the other way holds
 * something newer than what should have come first, that will not come. post: what the peer writes; numbers of the next
 * messages. */
enum way { WAY_SLOTS, WAY_FLAGGED };
DEV_CALL bool other_call(const cuda_guard &g, const cuda_post *post, enum way own, uint32_t peer,
                         uint32_t lane, uint32_t received, uint32_t ll_received, uint32_t signature)
{
    const uint64_t *slots = &post->arrived[received % CUDA_DEPTH],
                   *flagged = &post->header[ll_received % CUDA_LL_DEPTH];
    uint32_t slots_next = received + 1, flagged_next = ll_received + 1;
    uint64_t other = load_acquire(own == WAY_SLOTS ? flagged : slots); /* before its own */
    uint64_t seen = load_acquire(own == WAY_SLOTS ? slots : flagged);
    if ((uint32_t)(seen >> 32) != (own == WAY_SLOTS ? slots_next : flagged_next)) {
        if ((uint32_t)(other >> 32) != (own == WAY_SLOTS ? flagged_next : slots_next))
            return false;
        seen = other;
    }
    if ((uint32_t)seen == signature)
        return false;
    fault(g, CUDA_FAULT_SIGNATURE, peer, lane, own == WAY_SLOTS ? received : ll_received,
          (uint32_t)seen, signature);
    return true;
}

#endif
