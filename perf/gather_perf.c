/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gather_perf: the root gets size bytes in all, size/N from each rank.
 */
#include "perf/lib/perf.h"

static enum choir_status run(const struct perf_call *c)
{
    return choir_gather(c->comm, c->send, c->recv, c->count, c->type, c->root, c->stream);
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
                                          .counts = perf_counts_gather,
                                          .bus_factor = perf_factor_share,
                                          .run = run,
                                          .fill = perf_fill_own,
                                          .wrong = wrong};
    return perf_main(argc, argv, &coll);
}
