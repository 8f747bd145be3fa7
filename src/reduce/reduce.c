/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reduce.c: picks the table of kernels for this processor and hands out its entries; large copies.
 */
#include "reduce/reduce.h"
#include "reduce/table.h"
#include <string.h>

/* Best first; the last one always works. */
static const struct reduce_table *const tables[] = {
#ifdef __x86_64__
    &reduce_avx512,
    &reduce_avx2,
#endif
    &reduce_generic,
};
static _Atomic(const struct reduce_table *) chosen;

static const struct reduce_table *table(void)
{
    const struct reduce_table *t = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (base_likely(t != NULL))
        return t;
    for (size_t i = 0; !t; i++)
        if (tables[i]->usable())
            t = tables[i];
    atomic_store_explicit(&chosen, t, memory_order_relaxed);
    return t;
}

const char *reduce_isa(void)
{
    return table()->name;
}

bool reduce_limit(const char *isa)
{
    const struct reduce_table *t = NULL;
    for (size_t i = 0; isa && i < base_count(tables); i++)
        if (!strcmp(isa, tables[i]->name) && tables[i]->usable())
            t = tables[i];
    if (isa && !t && !strcmp(isa, "generic"))
        t = &reduce_generic;
    if (isa && !t)
        return false;
    atomic_store_explicit(&chosen, t, memory_order_relaxed);
    return true;
}

reduce_fn reduce_pick(enum choir_type type, choir_op op)
{
    return (unsigned)type < CHOIR_TYPES && op < CHOIR_OPS ? table()->kernel[type][op] : NULL;
}

void reduce_divide(enum choir_type type, void *data, uint64_t count, uint32_t n)
{
    table()->divide[type](data, count, n);
}

void reduce_scale(enum choir_type type, void *dst, const void *src, const void *scale,
                  uint64_t count)
{
    table()->scale[type](dst, src, scale, count);
}

/* A block and its sources stay in the first-level cache until it is streamed out, whole lines at a time. */
#define BLOCK_BYTES 2048
#define COPY_BYTES ((uint64_t)256 << 10)
#define BLOCK_SOURCES 16
void reduce_through_cache(reduce_fn kernel, uint32_t element_bytes, void *dst,
                          const void *const *src, uint32_t nsrc, uint64_t count)
{
    if (nsrc > BLOCK_SOURCES || count < 4 * BLOCK_BYTES / element_bytes) {
        kernel(dst, src, nsrc, count, 0);
        return;
    }
    _Alignas(BASE_LINE) unsigned char block[BLOCK_BYTES];
    const void *from[BLOCK_SOURCES];
    reduce_stream_fn stream = table()->stream;
    uint64_t whole = BLOCK_BYTES / element_bytes, n;
    uint64_t first = whole - (uintptr_t)dst % BASE_LINE / element_bytes;
    for (uint64_t done = 0; done < count; done += n) {
        n = base_min(done ? whole : first, count - done);
        for (uint32_t s = 0; s < nsrc; s++)
            from[s] = (const unsigned char *)src[s] + done * element_bytes;
        kernel(block, from, nsrc, n, 0);
        stream((unsigned char *)dst + done * element_bytes, block, n * element_bytes);
    }
    reduce_stream_fence();
}

/* In pieces, since the C library's memcpy of more goes round the caches, which whoever reads the copy next pays for. */
static void copy_cached(unsigned char *dst, const unsigned char *src, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += COPY_BYTES)
        memcpy(dst + at, src + at, base_min(COPY_BYTES, bytes - at));
}

void reduce_copy_large(void *dst, const void *src, uint64_t bytes, unsigned flags)
{
    if (dst == src)
        return;
    if (!(flags & REDUCE_STREAM) || bytes < 4 * BLOCK_BYTES) {
        copy_cached((unsigned char *)dst, (const unsigned char *)src, bytes);
        return;
    }
    table()->stream(dst, src, bytes);
    reduce_stream_fence();
}
