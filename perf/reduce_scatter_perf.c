/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reduce_scatter_perf: every rank gives size bytes and gets its size/N of their reduction.
 */
#include "perf/lib/perf.h"

static enum choir_status run(const struct perf_call *c)
{
    return choir_reduce_scatter(c->comm, c->send, c->recv, c->count, c->type, c->op, c->stream);
}

static void fill(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, true);
    perf_fill(&p, c->send, c->rank, 0, c->count * c->ranks);
}

static uint64_t wrong(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, true);
    return perf_wrong_reduced(&p, c->recv, c->rank * c->count, c->count);
}

int main(int argc, char **argv)
{
    static const struct perf_coll coll = {.name = "reduce_scatter",
                                          .kind = PERF_REDUCE_SCATTER,
                                          .reduces = true,
                                          .in_place = true,
                                          .grouped = true,
                                          .counts = perf_counts_scatter,
                                          .bus_factor = perf_factor_share,
                                          .run = run,
                                          .fill = fill,
                                          .wrong = wrong};
    return perf_main(argc, argv, &coll);
}
