/* SPDX-License-Identifier: Apache-2.0 */
/* ring.h: the host's end of a ring of posts (struct cuda_ring, kernel/staged.cuh). One thread takes. Of C and C++. */
#ifndef CUDA_RING_H
#define CUDA_RING_H

#include "cuda/abi.h"
#include <stdbool.h>

/* The next post, if it has come. taken: how many came before. */
static inline bool cuda_ring_next(struct cuda_ring *ring, uint32_t *taken, uint32_t *item)
{
    uint64_t post = __atomic_load_n(&ring->post[*taken % CUDA_RING], __ATOMIC_ACQUIRE);
    if ((uint32_t)(post >> 32) != *taken + 1u) /* pairs with staged_post */
        return false;
    *item = (uint32_t)post;
    __atomic_store_n(&ring->taken, ++*taken, __ATOMIC_RELEASE);
    return true;
}

#endif
