/* SPDX-License-Identifier: Apache-2.0 */
/*
 * alltoallv_perf: every rank sends a different number of bytes to each rank, size in all. Bandwidth counts the
 * busiest rank's bytes. There is no in-place form.
 */
#include "perf/lib/perf.h"
#include "perf/lib/traffic.h"
#include <stdlib.h>

static struct traffic traffic;

static bool prepare(const struct perf_args *a, uint32_t ranks, bool print)
{
    if (!traffic_load(&traffic, ranks, print))
        return false;
    if (!traffic.bytes)
        return true;
    uint64_t most = 0;
    for (uint32_t r = 0; r < ranks; r++)
        most = base_max(most, base_max(traffic_sent(&traffic, r, ranks, 0, 1),
                                       traffic_received(&traffic, r, ranks, 0, 1)));
    if ((a->min_bytes != a->max_bytes || a->max_bytes < most) && print)
        fprintf(stderr, "traffic matrix: -b and -e must be equal and at least %llu\n",
                (unsigned long long)most);
    return a->min_bytes == a->max_bytes && a->max_bytes >= most;
}

static void counts(uint64_t count, uint32_t type_bytes, uint32_t ranks, struct perf_counts *out)
{
    uint64_t block = perf_share(count, type_bytes, ranks), total = block * ranks;
    *out = (struct perf_counts){.param = block};
    for (uint32_t r = 0; r < (traffic.bytes ? ranks : 1);
         r++) { /* by distance all ranks are alike */
        out->send = base_max(out->send, traffic_sent(&traffic, r, ranks, total, type_bytes));
        out->recv = base_max(out->recv, traffic_received(&traffic, r, ranks, total, type_bytes));
    }
    out->moved = base_max(out->send, out->recv);
}

static uint64_t pair(const struct perf_call *c, uint32_t from, uint32_t to)
{
    return traffic_count(&traffic, from, to, c->ranks, c->count * c->ranks,
                         (uint32_t)choir_type_bytes(c->type));
}

static enum choir_status run(const struct perf_call *c)
{
    uint64_t sends[c->ranks], recvs[c->ranks];
    for (uint32_t r = 0; r < c->ranks; r++) {
        sends[r] = pair(c, c->rank, r);
        recvs[r] = pair(c, r, c->rank);
    }
    return choir_all_to_all_v(c->comm, c->send, sends, NULL, c->recv, recvs, NULL, c->type,
                              c->stream);
}

static void fill(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, false);
    uint64_t all = 0;
    for (uint32_t r = 0; r < c->ranks; r++)
        all += pair(c, c->rank, r);
    perf_fill(&p, c->send, c->rank, 0, all);
}

static uint64_t wrong(const struct perf_call *c, uint64_t seed)
{
    struct perf_pattern p = perf_pattern(c, seed, false);
    uint64_t bad = 0, at = 0;
    for (uint32_t r = 0; r < c->ranks; r++) {
        uint64_t before = 0, n = pair(c, r, c->rank);
        for (uint32_t to = 0; to < c->rank; to++)
            before += pair(c, r, to);
        bad += perf_wrong(&p, (char *)c->recv + at * choir_type_bytes(c->type), r, before, n);
        at += n;
    }
    return bad;
}

static void summary(const struct perf_call *c, double seconds)
{
    if (!traffic.summary)
        return;
    for (uint32_t r = 0; r < c->ranks; r++) {
        uint32_t width = (uint32_t)choir_type_bytes(c->type);
        uint64_t sent = traffic_sent(&traffic, r, c->ranks, c->count * c->ranks, width) * width;
        uint64_t got = traffic_received(&traffic, r, c->ranks, c->count * c->ranks, width) * width;
        double rate = (double)base_max(sent, got) / 1e9 / seconds;
        printf("#   rank=%u send_bytes=%llu recv_bytes=%llu alg_bw=%.2f bus_bw=%.2f\n", r,
               (unsigned long long)sent, (unsigned long long)got, rate,
               rate * perf_factor_share(c->ranks));
    }
}

int main(int argc, char **argv)
{
    static const struct perf_coll coll = {.name = "alltoallv",
                                          .kind = PERF_ALL_TO_ALL_V,
                                          .grouped = true,
                                          .prepare = prepare,
                                          .counts = counts,
                                          .bus_factor = perf_factor_share,
                                          .run = run,
                                          .fill = fill,
                                          .wrong = wrong,
                                          .pair = pair,
                                          .summary = summary};
    return perf_main(argc, argv, &coll);
}
