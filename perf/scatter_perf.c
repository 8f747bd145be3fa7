/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scatter_perf: the root gives size bytes in all, size/N to each rank.
 */
#include "perf/lib/perf.h"

static enum choir_status run(const struct perf_call *c)
{
    return choir_scatter(c->comm, c->send, c->recv, c->count, c->type, c->root, c->stream);
}

static void fill(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, false);
    if (c->rank == (uint32_t)c->root)
        perf_fill(&p, c->send, c->rank, 0, c->count * c->ranks);
}

static uint64_t wrong(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, false);
    return perf_wrong(&p, c->recv, (uint32_t)c->root, c->rank * c->count, c->count);
}

int main(int argc, char **argv)
{
    static const struct perf_coll coll = {.name = "scatter",
                                          .kind = PERF_SCATTER,
                                          .rooted = true,
                                          .in_place = true,
                                          .grouped = true,
                                          .counts = perf_counts_scatter,
                                          .bus_factor = perf_factor_share,
                                          .run = run,
                                          .fill = fill,
                                          .wrong = wrong};
    return perf_main(argc, argv, &coll);
}
