/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handover.h: descriptors from process to process of a host: each taker listens on a unix socket whose name and key travel on its
 * rank's card; givers connect, leave a descriptor and go. Nothing blocks. Needs no CUDA toolkit.
 */
#ifndef CUDA_HANDOVER_H
#define CUDA_HANDOVER_H

#include "base/base.h"

#define HANDOVER_BYTES 16
struct handover_address { /* secret: who knows it may leave descriptors */
    uint8_t name[HANDOVER_BYTES], key[HANDOVER_BYTES];
};
struct handover {
    int fd; /* -1: closed */
    struct handover_address address;
};

enum choir_status handover_open(struct handover *h);
/* Leaves a copy of the descriptor with a taker, as rank `from`. It is there when this returns. */
enum choir_status handover_give(const struct handover_address *to, uint32_t from, int fd);
/* Takes what has been left: fd[r] of rank r, which the caller closes; -1: nothing. What comes of another user, or without the
 * key, is dropped. */
void handover_take(struct handover *h, uint32_t ranks, int *fd);
void handover_close(struct handover *h);

#endif
