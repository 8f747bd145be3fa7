/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample.h: values for tests of reductions, and what must come out. Every rank can compute every rank's input. Integers are
 * exact, wrapping; floats are held against float64 with a bound of one rounding per combination (sample_check).
 */
#ifndef TESTS_SAMPLE_H
#define TESTS_SAMPLE_H

#include "choir.h"
#include <stdbool.h>

struct sample {
    enum choir_type type;
    choir_op
        op; /* a built-in one; CHOIR_OPS: scaled sum; CHOIR_OPS + 1: composition of x -> ax + b */
    int ranks;
    uint64_t salt;
    bool exact;   /* floats: sums and products that every type holds exactly */
    bool special; /* floats: some NaN and zeros of both signs */
};
bool sample_legal(enum choir_type type, choir_op op);
bool sample_float(enum choir_type type);
bool sample_signed(enum choir_type type);
/* Of integers extended to 64 bits as their type says; op: a built-in one; sums and products modulo 2^64. */
uint64_t sample_combine(enum choir_type type, choir_op op, uint64_t a, uint64_t b);
/* Element i of rank r's input. */
void sample_fill(const struct sample *s, int rank, uint64_t i, void *element);
/* This rank's scale of the scaled sum, one element. */
void sample_scale(const struct sample *s, int rank, void *element);
/* Is this the combination of element i of all ranks? If not, says in text what was expected. */
bool sample_check(const struct sample *s, uint64_t i, const void *got, char *text,
                  size_t text_bytes);
/* The composition, a choir_reduce_fn for uint64: a in the high half, b in the low; not commutative. */
void sample_compose(void *inout, const void *in, uint64_t count, enum choir_type type,
                    void *context);

#endif
