/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reduce.h: element-wise combination, type x operation, best instructions chosen at run time.
 *
 * A kernel computes dst[i] = src[0][i] op src[1][i] op ... in that order, rounding once: 8- and 16-bit floats accumulate
 * in float32, everything else in its own type. Integers wrap; logical operations give 0 or 1; min and max propagate
 * NaN, and -0 is below +0; e4m3 (OCP: no infinity) saturates at 448, e5m2 overflows to infinity. All instruction
 * sets give the same bits, NaN included, whatever the thread's floating-point environment. dst may be identical to
 * any src; it may not overlap one otherwise. No alignment is required. nsrc >= 2.
 */
#ifndef REDUCE_REDUCE_H
#define REDUCE_REDUCE_H

#include "choir.h"
#include <stdbool.h>
#include <string.h>

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
/* A copy; REDUCE_STREAM bypasses the cache. dst and src do not overlap or are identical. Up to 64 bytes it is a few
 * loads and stores without a call. */
void reduce_copy_large(void *dst, const void *src, uint64_t bytes, unsigned flags);
static inline void reduce_copy(void *dst, const void *src, uint64_t bytes, unsigned flags)
{
    unsigned char *d = (unsigned char *)dst;
    const unsigned char *s = (const unsigned char *)src;
    struct half {
        uint64_t word[2];
    } a, b, c, e;
    if (bytes > 64) {
        reduce_copy_large(dst, src, bytes, flags);
    } else if (bytes > 32) {
        memcpy(&a, s, 16), memcpy(&b, s + 16, 16);
        memcpy(&c, s + bytes - 32, 16), memcpy(&e, s + bytes - 16, 16);
        memcpy(d, &a, 16), memcpy(d + 16, &b, 16);
        memcpy(d + bytes - 32, &c, 16), memcpy(d + bytes - 16, &e, 16);
    } else if (bytes >= 16) {
        memcpy(&a, s, 16), memcpy(&b, s + bytes - 16, 16);
        memcpy(d, &a, 16), memcpy(d + bytes - 16, &b, 16);
    } else if (bytes >= 8) {
        uint64_t x, y;
        memcpy(&x, s, 8), memcpy(&y, s + bytes - 8, 8);
        memcpy(d, &x, 8), memcpy(d + bytes - 8, &y, 8);
    } else if (bytes >= 4) {
        uint32_t x, y;
        memcpy(&x, s, 4), memcpy(&y, s + bytes - 4, 4);
        memcpy(d, &x, 4), memcpy(d + bytes - 4, &y, 4);
    } else if (bytes) {
        unsigned char x = s[0], y = s[bytes / 2], z = s[bytes - 1];
        d[0] = x, d[bytes / 2] = y, d[bytes - 1] = z;
    }
}
/* One element to and from double, for tests, perf and the reference: exact where the type allows, e4m3 saturates. */
double reduce_load(enum choir_type type, const void *element);
void reduce_store(enum choir_type type, void *element, double value);
/* "avx512", "avx2", "neon", "generic": what was chosen; for tests reduce_limit("generic") forces one (NULL: best). */
const char *reduce_isa(void);
bool reduce_limit(const char *isa);

#endif
