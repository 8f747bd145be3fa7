/* SPDX-License-Identifier: Apache-2.0 */
/* bound.h: a plan ready to launch: a few exchanges, or the tables of any plan. */
#ifndef CUDA_BOUND_H
#define CUDA_BOUND_H

#include "cuda/mailbox.h"

/* By its own bytes, so that a message's two ends agree. */
#define CUDA_WORDS_MOST (128u << 10)
#define CUDA_LINES_MOST (2u << 20)
enum cuda_form cuda_form_of(uint64_t bytes);
uint32_t cuda_form_lanes(uint64_t bytes);

struct cuda_launch {
    enum cuda_form form;
    uint32_t threads;
    struct cuda_exchange what;
};
struct cuda_bound {
    struct cuda_comm *comm;
    uint32_t elem, launches;
    struct cuda_launch *launch; /* one after another; none: */
    struct cuda_plan plan;      /* relocated to GPU memory */
    uint8_t *tmp, *staging;
    struct cuda_pending *pending;
    struct cuda_piece *piece; /* where all that is; NULL: nowhere */
    void *scratch;            /* for scaled inputs, where OUT cannot hold them */
};

#endif
