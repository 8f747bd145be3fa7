/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reduce_perf: every rank gives size bytes, the root gets their reduction.
 */
#include "perf/lib/perf.h"

static enum choir_status run(const struct perf_call *c)
{
    return choir_reduce(c->comm, c->send, c->recv, c->count, c->type, c->op, c->root, c->stream);
}

static void fill(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, true);
    perf_fill(&p, c->send, c->rank, 0, c->count);
}

static uint64_t wrong(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, true);
    if (c->rank == (uint32_t)c->root)
        return perf_wrong_reduced(&p, c->recv, 0, c->count);
    if (c->in_place) /* the input must be intact */
        return perf_wrong(&p, c->send, c->rank, 0, c->count);
    return perf_wrong_poison(c->recv, c->count, (uint32_t)choir_type_bytes(c->type));
}

int main(int argc, char **argv)
{
    static const struct perf_coll coll = {.name = "reduce",
                                          .kind = PERF_REDUCE,
                                          .reduces = true,
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
