/* SPDX-License-Identifier: Apache-2.0 */
/*
 * all_reduce_perf: every rank gives size bytes and gets their reduction.
 */
#include "perf/lib/perf.h"

static double bus_factor(uint32_t ranks)
{
    return 2.0 * (ranks - 1) / ranks;
}

static enum choir_status run(const struct perf_call *c)
{
    return choir_all_reduce(c->comm, c->send, c->recv, c->count, c->type, c->op, c->stream);
}

static void fill(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, true);
    perf_fill(&p, c->send, c->rank, 0, c->count);
}

static uint64_t wrong(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, true);
    return perf_wrong_reduced(&p, c->recv, 0, c->count);
}

int main(int argc, char **argv)
{
    static const struct perf_coll coll = {.name = "all_reduce",
                                          .kind = PERF_ALL_REDUCE,
                                          .reduces = true,
                                          .in_place = true,
                                          .grouped = true,
                                          .counts = perf_counts_whole,
                                          .bus_factor = bus_factor,
                                          .run = run,
                                          .fill = fill,
                                          .wrong = wrong};
    return perf_main(argc, argv, &coll);
}
