/* SPDX-License-Identifier: Apache-2.0 */
/*
 * staged.cuh: where a stream and the host meet: one thread posts that the stream has come to an operation's slice, which the host
 * then runs on pinned memory; one thread waits until the host has. What lies before and behind them in the stream are copies from
 * and to that memory. Numbers run on in device memory, so replays of a graph post and wait anew.
 *
 * There is no deadline here: the operation has one on the host, whose verdict names who is late, and the host ends every post.
 */
#ifndef CUDA_KERNEL_STAGED_CUH
#define CUDA_KERNEL_STAGED_CUH

#include "cuda/kernel/portable.cuh"

#define STAGED_SPINS 256u /* looks over the bus: some 0.3 ms */

/* Whether nobody serves the ring any more; looks now and then. */
DEV bool staged_stop(const cuda_ring *ring, uint32_t *spins)
{
    relax();
    return ++*spins % STAGED_SPINS == 0 && load_relaxed(&ring->abort);
}

DEV void staged_post(const cuda_post_call &c)
{
    uint32_t n = next_number(c.number), spins = 0;
    store_relaxed(c.posts, load_relaxed(c.posts) + 1);
    while (n - load_relaxed(&c.ring->taken) >= CUDA_RING && !staged_stop(c.ring, &spins))
        ;
    fence_system(); /* what the stream copied is there: pairs with cuda_ring_next */
    store_relaxed(&c.ring->post[n % CUDA_RING], (uint64_t)(n + 1) << 32 | c.item);
}

/* A replay does not know how many posts came before it, only how many are in the stream behind the one that it waits for. */
DEV void staged_wait(const cuda_wait_call &c)
{
    uint32_t want = c.posts ? load_relaxed(c.posts) - c.count : c.count, spins = 0;
    while ((int32_t)(load_relaxed(c.done) - want) < 0 && !staged_stop(c.ring, &spins))
        ;
    fence_system(); /* what the host wrote is there: pairs with cuda_staged_done */
}

#endif
