/* SPDX-License-Identifier: Apache-2.0 */
/*
 * avx2.c: the kernels with 32-byte vectors, and F16C for float16.
 */
#ifdef __x86_64__
#include "reduce/table.h"
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>

static bool usable(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif

#define VECTOR 32
#define TABLE reduce_avx2
#define TABLE_NAME "avx2"
#define TABLE_USABLE usable
#define TABLE_STREAM stream
#define HAVE_WIDTHS
#define widen_q8_h16(x) ((h16)_mm_cvtepu8_epi16(_mm_cvtsi64_si128((int64_t)(x))))
#define widen_h16_v32(x) ((v32)_mm256_cvtepu16_epi32((__m128i)(x)))
#define narrow_v32_h16(x) ((h16)narrow_words((__m256i)(x)))
#define narrow_v32_q8(x) ((q8)narrow_bytes((__m256i)(x)))
#define HAVE_F16
#define f16_in(x) _mm256_cvtph_ps((__m128i)(x))
#define f16_out(x) ((h16)_mm256_cvtps_ph((__m256)f32_out(x), _MM_FROUND_TO_NEAREST_INT))

/* The low 16 or 8 bits of each 32-bit lane; the rest is zero. */
static inline __m128i narrow_words(__m256i x)
{
    return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
static inline int64_t narrow_bytes(__m256i x)
{
    __m128i words = narrow_words(x);
    return _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
}

static void stream(void *dst, const void *src, uint64_t bytes)
{
    unsigned char *d = dst;
    const unsigned char *s = src;
    uint64_t head = -(uintptr_t)d & 63;
    head = base_min(head, bytes);
    memcpy(d, s, head);
    for (d += head, s += head, bytes -= head; bytes >= 64; bytes -= 64, d += 64, s += 64) {
        __m256i x = _mm256_loadu_si256((const __m256i_u *)(const void *)s),
                y = _mm256_loadu_si256((const __m256i_u *)(const void *)(s + 32));
        _mm256_stream_si256((__m256i *)(void *)d, x);
        _mm256_stream_si256((__m256i *)(void *)(d + 32), y);
    }
    memcpy(d, s, bytes);
}

#include "reduce/kernels.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
