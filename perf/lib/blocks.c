/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.c: what several collectives have in common: how nccl-tests shares bytes among ranks, inputs of a block or vector per
 * rank, and all ranks' blocks as the output.
 */
#include "perf/lib/perf.h"

void perf_counts_whole(uint64_t count, uint32_t type_bytes, uint32_t ranks, struct perf_counts *out)
{
    (void)type_bytes, (void)ranks;
    *out = (struct perf_counts){.send = count, .recv = count, .param = count, .moved = count};
}

void perf_counts_gather(uint64_t count, uint32_t type_bytes, uint32_t ranks,
                        struct perf_counts *out)
{
    uint64_t block = perf_share(count, type_bytes, ranks);
    *out = (struct perf_counts){.send = block,
                                .recv = block * ranks,
                                .param = block,
                                .send_offset = block,
                                .moved = block * ranks};
}

void perf_counts_scatter(uint64_t count, uint32_t type_bytes, uint32_t ranks,
                         struct perf_counts *out)
{
    uint64_t block = perf_share(count, type_bytes, ranks);
    *out = (struct perf_counts){.send = block * ranks,
                                .recv = block,
                                .param = block,
                                .recv_offset = block,
                                .moved = block * ranks};
}

void perf_fill_own(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, false);
    perf_fill(&p, c->send, c->rank, 0, c->count);
}

uint64_t perf_wrong_gathered(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, false);
    size_t block = c->count * choir_type_bytes(c->type);
    uint64_t bad = 0;
    for (uint32_t r = 0; r < c->ranks; r++)
        bad += perf_wrong(&p, (char *)c->recv + r * block, r, 0, c->count);
    return bad;
}
