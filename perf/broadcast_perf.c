/* SPDX-License-Identifier: Apache-2.0 */
/*
 * broadcast_perf: every rank gets the root's size bytes.
 */
#include "perf/lib/perf.h"

static enum choir_status run(const struct perf_call *c)
{
    return choir_broadcast(c->comm, c->send, c->recv, c->count, c->type, c->root, c->stream);
}

static void fill(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, false);
    if (c->rank == (uint32_t)c->root)
        perf_fill(&p, c->send, c->rank, 0, c->count);
}

static uint64_t wrong(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, false);
    return perf_wrong(&p, c->recv, (uint32_t)c->root, 0, c->count);
}

int main(int argc, char **argv)
{
    static const struct perf_coll coll = {.name = "broadcast",
                                          .kind = PERF_BROADCAST,
                                          .rooted = true,
                                          .in_place = true,
                                          .grouped = true,
                                          .counts = perf_counts_whole,
                                          .bus_factor = perf_factor_one,
                                          .run = run,
                                          .fill = fill,
                                          .wrong = wrong};
    return perf_main(argc, argv, &coll);
}
