/* SPDX-License-Identifier: Apache-2.0 */
/*
 * generic.c: the kernels with 16-byte vectors, in what every processor of the architecture has (SSE2, NEON).
 */
#include "reduce/table.h"
#include <string.h>

#define VECTOR 16
#define TABLE reduce_generic
#ifdef __aarch64__
#define TABLE_NAME "neon"
#else
#define TABLE_NAME "generic"
#endif
#define TABLE_USABLE always
#define TABLE_STREAM stream

static bool always(void)
{
    return true;
}

#ifdef __SSE2__
#include <emmintrin.h>
static void stream(void *dst, const void *src, uint64_t bytes)
{
    unsigned char *d = dst;
    const unsigned char *s = src;
    uint64_t head = -(uintptr_t)d & 63;
    head = base_min(head, bytes);
    memcpy(d, s, head);
    for (d += head, s += head, bytes -= head; bytes >= 64; bytes -= 64, d += 64, s += 64) {
        __m128i x[4];
        memcpy(x, s, sizeof(x));
        for (int k = 0; k < 4; k++)
            _mm_stream_si128((__m128i *)(void *)d + k, x[k]);
    }
    memcpy(d, s, bytes);
}
#else
static void stream(void *dst, const void *src, uint64_t bytes)
{
    memcpy(dst, src, bytes);
}
#endif

#include "reduce/kernels.h"
