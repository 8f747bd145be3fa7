/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gather_perf: the root gets size bytes in all, size/N from each rank.
 */
#include "perf/lib/perf.h"

static void counts(uint64_t count, uint32_t type_bytes, uint32_t ranks, struct perf_counts *out)
{
    uint64_t block = perf_share(count, type_bytes, ranks);
    *out = (struct perf_counts){.send = block,
                                .recv = block * ranks,
                                .param = block,
                                .send_offset = block,
                                .moved = block * ranks};
}

static enum choir_status run(const struct perf_call *c)
{
    return choir_gather(c->comm, c->send, c->recv, c->count, c->type, c->root, c->stream);
}

static void fill(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, false);
    perf_fill(&p, c->send, c->rank, 0, c->count);
}

static uint64_t wrong(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, false);
    uint32_t width = (uint32_t)choir_type_bytes(c->type);
    uint64_t bad = 0;
    for (uint32_t r = 0; r < c->ranks; r++) {
        char *block = (char *)c->recv + r * c->count * width;
        if (c->rank == (uint32_t)c->root || (c->in_place && r == c->rank))
            bad += perf_wrong(&p, block, r, 0, c->count);
        else
            bad += perf_wrong_poison(block, c->count, width);
    }
    return bad;
}

int main(int argc, char **argv)
{
    static const struct perf_coll coll = {.name = "gather",
                                          .kind = PERF_GATHER,
                                          .rooted = true,
                                          .in_place = true,
                                          .grouped = true,
                                          .counts = counts,
                                          .bus_factor = perf_factor_share,
                                          .run = run,
                                          .fill = fill,
                                          .wrong = wrong};
    return perf_main(argc, argv, &coll);
}
