/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hypercube_perf: an all-gather of size bytes written by hand with send and recv: log2 N exchanges of doubling size.
 * The number of ranks must be a power of two.
 */
#include "perf/lib/perf.h"
#include <string.h>

static bool prepare(const struct perf_args *args, uint32_t ranks, bool print)
{
    (void)args;
    bool power = (ranks & (ranks - 1)) == 0;
    if (!power && print)
        fprintf(stderr, "hypercube: %u ranks: a power of two is needed\n", ranks);
    return power;
}

static void counts(uint64_t count, uint32_t type_bytes, uint32_t ranks, struct perf_counts *out)
{
    perf_counts_gather(count, type_bytes, ranks, out);
    out->moved = out->param * (ranks - 1);
}

static enum choir_status exchange(const struct perf_call *c, uint32_t mask)
{
    size_t block = c->count * choir_type_bytes(c->type);
    uint32_t mine = c->rank & ~(mask - 1), theirs = mine ^ mask;
    int peer = (int)(c->rank ^ mask);
    char *base = c->recv;
    enum choir_status status = choir_group_start();
    if (status != CHOIR_OK)
        return status;
    status = choir_send(c->comm, base + mine * block, c->count * mask, c->type, peer, c->stream);
    if (status == CHOIR_OK)
        status =
            choir_recv(c->comm, base + theirs * block, c->count * mask, c->type, peer, c->stream);
    enum choir_status end = choir_group_end();
    return status == CHOIR_OK ? end : status;
}

static enum choir_status run(const struct perf_call *c)
{
    size_t block = c->count * choir_type_bytes(c->type);
    if (!c->in_place)
        memcpy((char *)c->recv + c->rank * block, c->send, block);
    for (uint32_t mask = 1; mask < c->ranks; mask <<= 1) {
        enum choir_status status = exchange(c, mask);
        if (status != CHOIR_OK)
            return status;
    }
    return CHOIR_OK;
}

int main(int argc, char **argv)
{
    static const struct perf_coll coll = {.name = "hypercube",
                                          .kind = PERF_HYPERCUBE,
                                          .in_place = true,
                                          .prepare = prepare,
                                          .counts = counts,
                                          .bus_factor = perf_factor_one,
                                          .run = run,
                                          .fill = perf_fill_own,
                                          .wrong = perf_wrong_gathered};
    return perf_main(argc, argv, &coll);
}
