/* SPDX-License-Identifier: Apache-2.0 */
/*
 * matrix.h: one drawn operation of any kind: its arguments, its buffers with guards around them, and the check of every byte
 * afterwards. All ranks draw the same operation from the same state.
 */
#ifndef TESTS_MATRIX_H
#define TESTS_MATRIX_H

#include "choir_algorithm.h"
#include "tests/lib/sample.h"

#define MATRIX_RANKS 16

/* Where buffers lie during the call, if not in host memory: `memory` goes there before it and comes back after it. */
struct matrix_elsewhere {
    void *(*take)(void *context, const void *memory, uint64_t bytes);
    void (*give)(void *context, void *taken, void *memory, uint64_t bytes); /* the call has ended */
    void *context;
};
struct matrix_op {
    enum choir_kind kind; /* EXCHANGE: sends and receives in a group */
    struct sample sample; /* type, op; salt tells operations apart */
    int rank, size, root;
    uint64_t count;
    bool in_place, offsets, mapped;           /* mapped: choir_mem_alloc */
    uint32_t shift_in, shift_out;             /* bytes off alignment */
    const struct matrix_elsewhere *elsewhere; /* NULL: nowhere */
    /* v-forms: what rank q sends to rank p, or holds: of[q][p], of[0][p] */
    uint64_t of[MATRIX_RANKS][MATRIX_RANKS];
};
/* Draws all but rank; draw: advanced. kind: as given. slot: bytes, for the sizes near it. */
void matrix_draw(struct matrix_op *op, enum choir_kind kind, int size, uint64_t slot,
                 uint64_t *draw);
/* Runs it on a communicator and checks it: fails the test where wrong. Returns a hash of the output. */
uint64_t matrix_run(choir_comm *comm, const struct matrix_op *op, choir_stream *stream);
/* "all_reduce float16 sum count 17 in place ..." in a static buffer of the thread. */
const char *matrix_text(const struct matrix_op *op);

#endif
