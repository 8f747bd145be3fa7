/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reduce.h: element-wise combination, type x operation, best instructions chosen at run time.
 *
 * A kernel computes dst[i] = src[0][i] op src[1][i] op ... in that order, rounding once: 8- and 16-bit floats
 * accumulate in float32, everything else in its own type. dst may be identical to any src; it may not overlap
 * one otherwise. No alignment is required. nsrc >= 2.
 */
#ifndef REDUCE_REDUCE_H
#define REDUCE_REDUCE_H

#include "choir.h"
#include <stdbool.h>

/* For a full cache-bypassing write of dst pass REDUCE_STREAM (dst is then not read soon). */
enum reduce_flags { REDUCE_STREAM = 1 };
typedef void (*reduce_fn)(void *dst, const void *const *src, uint32_t nsrc, uint64_t count,
                          unsigned flags);

/* The kernel of a built-in operation (AVG gives the sum's), or NULL where the operation is not defined for the type. */
reduce_fn reduce_pick(enum choir_type type, choir_op op);
/* data[i] /= n: floats by a rounded division (in float32 for 8 and 16 bits), integers truncating toward zero. */
void reduce_divide(enum choir_type type, void *data, uint64_t count, uint32_t n);
/* dst[i] = src[i] * *scale, computed as the kernels do (float32 for small floats, wrapping for integers). */
void reduce_scale(enum choir_type type, void *dst, const void *src, const void *scale,
                  uint64_t count);
/* A copy; REDUCE_STREAM bypasses the cache. dst and src do not overlap or are identical. */
void reduce_copy(void *dst, const void *src, uint64_t bytes, unsigned flags);
/* One element to and from double, for tests, perf and the reference: exact where the type allows, e4m3 saturates. */
double reduce_load(enum choir_type type, const void *element);
void reduce_store(enum choir_type type, void *element, double value);
/* "avx512", "avx2", "neon", "generic": what was chosen; for tests reduce_limit("generic") forces one (NULL: best). */
const char *reduce_isa(void);
bool reduce_limit(const char *isa);

#endif
