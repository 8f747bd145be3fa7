/* SPDX-License-Identifier: Apache-2.0 */
/*
 * all_gather_perf: every rank gets size bytes in all, size/N from each rank.
 */
#include "perf/lib/perf.h"

static enum choir_status run(const struct perf_call *c)
{
    return choir_all_gather(c->comm, c->send, c->recv, c->count, c->type, c->stream);
}

int main(int argc, char **argv)
{
    static const struct perf_coll coll = {.name = "all_gather",
                                          .kind = PERF_ALL_GATHER,
                                          .in_place = true,
                                          .grouped = true,
                                          .counts = perf_counts_gather,
                                          .bus_factor = perf_factor_share,
                                          .run = run,
                                          .fill = perf_fill_own,
                                          .wrong = perf_wrong_gathered};
    return perf_main(argc, argv, &coll);
}
