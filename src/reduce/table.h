/* SPDX-License-Identifier: Apache-2.0 */
/*
 * table.h: one table of kernels per instruction set; reduce.c picks one, the tests compare them all.
 *
 * Every table computes the same bits. So nothing here may be contracted to FMA, flushed to zero or reassociated,
 * and a NaN result has one bit pattern per type and operation.
 */
#ifndef REDUCE_TABLE_H
#define REDUCE_TABLE_H

#include "base/base.h"
#include "reduce/reduce.h"

/* data[i] /= n, dst[i] = src[i] * *factor. */
typedef void (*reduce_divide_fn)(void *data, uint64_t count, uint32_t n);
typedef void (*reduce_scale_fn)(void *dst, const void *src, const void *factor, uint64_t count);
/* Stores that bypass the cache. The caller fences (reduce_stream_fence). */
typedef void (*reduce_stream_fn)(void *dst, const void *src, uint64_t bytes);

struct reduce_table {
    const char *name;
    bool (*usable)(void);
    reduce_fn kernel[CHOIR_TYPES][CHOIR_OPS]; /* AVG is the sum */
    reduce_divide_fn divide[CHOIR_TYPES];
    reduce_scale_fn scale[CHOIR_TYPES];
    reduce_stream_fn stream;
};
extern const struct reduce_table reduce_generic;
#ifdef __x86_64__
extern const struct reduce_table reduce_avx2, reduce_avx512;
#endif

static inline void reduce_stream_fence(void)
{
#ifdef __SSE__
    __builtin_ia32_sfence();
#endif
}

/* Runs `kernel` block by block through the first-level cache and streams the results to dst. */
void reduce_through_cache(reduce_fn kernel, uint32_t element_bytes, void *dst,
                          const void *const *src, uint32_t nsrc, uint64_t count);

/*
 * The caller's thread may round otherwise, flush denormals (-ffast-math does) or trap; ranks whose threads differ
 * would disagree. Returns what to give reduce_fp_leave, 0 where the environment is the standard one.
 */
#if defined(__x86_64__)
#define REDUCE_FP_STANDARD 0x1f80u /* all exceptions masked, nearest, no FTZ, no DAZ */
static inline uint32_t reduce_fp_enter(void)
{
    uint32_t csr = __builtin_ia32_stmxcsr();
    if (base_likely((csr & 0xffc0) == REDUCE_FP_STANDARD))
        return 0;
    __builtin_ia32_ldmxcsr(REDUCE_FP_STANDARD);
    return csr;
}
static inline void reduce_fp_leave(uint32_t csr)
{
    if (base_unlikely(csr))
        __builtin_ia32_ldmxcsr(csr);
}
#elif defined(__aarch64__)
static inline uint32_t reduce_fp_enter(void)
{
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    if (base_unlikely(fpcr))
        __asm__ volatile("msr fpcr, %0" ::"r"(UINT64_C(0)));
    return (uint32_t)fpcr;
}
static inline void reduce_fp_leave(uint32_t fpcr)
{
    if (base_unlikely(fpcr))
        __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)fpcr));
}
#else
static inline uint32_t reduce_fp_enter(void)
{
    return 0;
}
static inline void reduce_fp_leave(uint32_t state)
{
    (void)state;
}
#endif

#endif
