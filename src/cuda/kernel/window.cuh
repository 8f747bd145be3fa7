/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.cuh: signals in the order of a stream, of one thread: what the stream has put before is there when the number of times that a
 * signal was raised is stored in the peer's mailbox; who waits looks at its own. Numbers run on in device memory, so replays of
 * a graph raise and wait anew. One rank's calls on several streams are ordered by the program: a number is stored, not added,
 * as not every way between GPUs carries additions.
 */
#ifndef CUDA_KERNEL_WINDOW_CUH
#define CUDA_KERNEL_WINDOW_CUH

#include "cuda/kernel/common.cuh"

/* After a fault nothing is raised: what was to be put may not be there. */
DEV void signal_raise(const cuda_raise_call &c)
{
    if (load_relaxed(&c.guard.state->poison))
        return;
    uint32_t number = *c.raised + 1;
    *c.raised = number;
    fence_system(); /* pairs with signal_take */
    store_relaxed(c.signal, (uint64_t)number);
}

DEV void signal_take(const cuda_take_call &c)
{
    for (uint32_t i = 0; i < c.waits; i++) {
        const cuda_signal_wait &w = c.wait[i];
        const uint64_t *signal = &c.post[cuda_index(w.peer, w.signal)].signal;
        uint32_t *taken = &c.count[cuda_index(w.peer, CUDA_TAKEN(w.signal))].signal;
        uint32_t want = *taken + w.count;
        patience p = {};
        while ((int32_t)((uint32_t)load_acquire(signal) - want) < 0)
            if (!wait_on(c.guard, p, w.peer, w.signal, want))
                return;
        *taken = want;
    }
    fence_system();
}

#endif
