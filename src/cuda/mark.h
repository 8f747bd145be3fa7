/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mark.h: the host's end of the ring of marks (struct cuda_marks, kernel/mark.cuh). One thread takes; nobody waits for it, so a
 * mark may be written over while it is read, and is then read again as what it has become. Of C and C++.
 */
#ifndef CUDA_MARK_H
#define CUDA_MARK_H

#include "cuda/abi.h"
#include <stdbool.h>

/* The next mark, if it has come. taken: how many came before, *lost of them since the last call unseen. */
static inline bool cuda_marks_next(const struct cuda_marks *ring, uint32_t *taken,
                                   struct cuda_mark *mark, uint32_t *lost)
{
    *lost = 0;
    for (;;) {
        const struct cuda_mark *m = &ring->mark[*taken % CUDA_MARKS];
        uint64_t number = __atomic_load_n(&m->number, __ATOMIC_ACQUIRE); /* pairs with leave_mark */
        uint32_t ahead = (uint32_t)number - (*taken + 1);
        if (!number || ahead >> 31)
            return false;
        if (ahead) { /* written over: go on with the oldest that is left */
            uint32_t skip = ahead - CUDA_MARKS + 1;
            *lost += skip, *taken += skip;
            continue;
        }
        mark->number = number;
        mark->id = __atomic_load_n(&m->id, __ATOMIC_RELAXED);
        mark->time_ns = __atomic_load_n(&m->time_ns, __ATOMIC_RELAXED);
        mark->end = __atomic_load_n(&m->end, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE); /* pairs with the first store of leave_mark */
        if (__atomic_load_n(&m->number, __ATOMIC_RELAXED) != number)
            continue;
        ++*taken;
        return true;
    }
}

#endif
