/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mark.cuh: one thread leaves the time in a ring of pinned memory, for observers of the kernels before or behind it. It waits for
 * nobody: the host finds by their numbers how many marks it was too late for. Numbers run on in device memory, so replays of a graph
 * leave marks anew.
 */
#ifndef CUDA_KERNEL_MARK_CUH
#define CUDA_KERNEL_MARK_CUH

#include "cuda/kernel/portable.cuh"

DEV void leave_mark(const cuda_mark_call &c)
{
    uint64_t time_ns = clock_ns(); /* an end comes right behind */
    uint32_t n = next_number(c.number);
    cuda_mark *m = &c.marks->mark[n % CUDA_MARKS];
    store_relaxed(&m->number, 0ull);
    fence_system(); /* pairs with the second look of cuda_marks_next */
    store_relaxed(&m->id, c.id);
    store_relaxed(&m->end, c.end);
    store_relaxed(&m->time_ns, c.end ? time_ns : clock_ns()); /* a begin right before */
    fence_system();                                           /* pairs with its first */
    store_relaxed(&m->number, CUDA_MARK_WHOLE | (n + 1));
}

#endif
