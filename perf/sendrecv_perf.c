/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sendrecv_perf: every rank sends size bytes to the next one and receives from the one before, in one group.
 * There is no in-place form.
 */
#include "perf/lib/perf.h"

static int before(const struct perf_call *c)
{
    return (int)((c->rank + c->ranks - 1) % c->ranks);
}

static enum choir_status run(const struct perf_call *c)
{
    enum choir_status status = choir_group_start();
    if (status != CHOIR_OK)
        return status;
    int next = (int)((c->rank + 1) % c->ranks);
    status = choir_send(c->comm, c->send, c->count, c->type, next, c->stream);
    if (status == CHOIR_OK)
        status = choir_recv(c->comm, c->recv, c->count, c->type, before(c), c->stream);
    enum choir_status end = choir_group_end();
    return status == CHOIR_OK ? end : status;
}

static uint64_t wrong(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, false);
    return perf_wrong(&p, c->recv, (uint32_t)before(c), 0, c->count);
}

int main(int argc, char **argv)
{
    static const struct perf_coll coll = {.name = "sendrecv",
                                          .kind = PERF_SEND_RECV,
                                          .grouped = true,
                                          .counts = perf_counts_whole,
                                          .bus_factor = perf_factor_one,
                                          .run = run,
                                          .fill = perf_fill_own,
                                          .wrong = wrong};
    return perf_main(argc, argv, &coll);
}
