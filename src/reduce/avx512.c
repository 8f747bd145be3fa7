/* SPDX-License-Identifier: Apache-2.0 */
/*
 * avx512.c: the kernels with 64-byte vectors and masked tails. AVX512-BF16's conversions are not used: they flush
 * subnormals, and the other instruction sets could not follow.
 */
#ifdef __x86_64__
#include "reduce/table.h"
#include <immintrin.h>
#include <string.h>

static bool usable(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,bmi2"))),   \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,bmi2,prefer-vector-width=512")
#endif

#define VECTOR 64
#define TABLE reduce_avx512
#define TABLE_NAME "avx512"
#define TABLE_USABLE usable
#define TABLE_STREAM stream
#define HAVE_WIDTHS
#define widen_q8_h16(x) ((h16)_mm256_cvtepu8_epi16((__m128i)(x)))
#define widen_h16_v32(x) ((v32)_mm512_cvtepu16_epi32((__m256i)(x)))
#define narrow_v32_h16(x) ((h16)_mm512_cvtepi32_epi16((__m512i)(x)))
#define narrow_v32_q8(x) ((q8)_mm512_cvtepi32_epi8((__m512i)(x)))
#define HAVE_F16
#define f16_in(x) _mm512_cvtph_ps((__m256i)(x))
#define f16_out(x) ((h16)_mm512_cvtps_ph((__m512)f32_out(x), _MM_FROUND_TO_NEAREST_INT))

/* n is below the number of lanes. */
#define MASKED(V, M, vector, size, lane)                                                           \
    static inline __attribute__((always_inline, unused))                                           \
    V V##_load_part(const void *p, uint64_t n)                                                     \
    {                                                                                              \
        return (V)size##_maskz_loadu_##lane((M)_bzhi_u64(~UINT64_C(0), (unsigned)n), p);           \
    }                                                                                              \
    static inline                                                                                  \
        __attribute__((always_inline, unused)) void V##_store_part(void *p, V v, uint64_t n)       \
    {                                                                                              \
        size##_mask_storeu_##lane(p, (M)_bzhi_u64(~UINT64_C(0), (unsigned)n), (vector)v);          \
    }
#define PARTS                                                                                      \
    MASKED(v8, __mmask64, __m512i, _mm512, epi8)                                                   \
    MASKED(v16, __mmask32, __m512i, _mm512, epi16)                                                 \
    MASKED(v32, __mmask16, __m512i, _mm512, epi32)                                                 \
    MASKED(v64, __mmask8, __m512i, _mm512, epi64)                                                  \
    MASKED(h16, __mmask16, __m256i, _mm256, epi16)                                                 \
    MASKED(q8, __mmask16, __m128i, _mm, epi8)

static void stream(void *dst, const void *src, uint64_t bytes)
{
    unsigned char *d = dst;
    const unsigned char *s = src;
    uint64_t head = -(uintptr_t)d & 63;
    head = base_min(head, bytes);
    memcpy(d, s, head);
    for (d += head, s += head, bytes -= head; bytes >= 64; bytes -= 64, d += 64, s += 64)
        _mm512_stream_si512((__m512i *)(void *)d, _mm512_loadu_si512(s));
    memcpy(d, s, bytes);
}

#include "reduce/kernels.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
