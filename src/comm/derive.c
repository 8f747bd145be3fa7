/* SPDX-License-Identifier: Apache-2.0 */
/*
 * derive.c: what must be equal on all ranks and follows from what all know, their cards and settings: layout, cluster and
 * decision table. Nothing is exchanged here; creation.c sees to it that it is equal.
 */
#include "base/knob.h"
#include "comm/comm.h"
#include <stdlib.h>
#include <string.h>

uint64_t derive_wire_hash(void)
{
    const char *algo = knob_text(KNOB_ALGO), *plans = knob_text(KNOB_PLAN_FILES);
    int64_t size[] = {knob_int(KNOB_SLOT), knob_int(KNOB_CUDA_SLICE)};
    uint64_t h = base_hash(size, sizeof(size), 0);
    h = base_hash(algo, strlen(algo), h);
    return base_hash(plans, strlen(plans), h);
}

enum choir_status derive_check(struct choir_comm *c)
{
    uint64_t mine = derive_wire_hash();
    for (uint32_t r = 0; r < c->host.size; r++) {
        struct host_card card;
        host_peer_card(c->host.member[r], &card);
        if (card.version != choir_version())
            return base_fail(CHOIR_ERR_MISMATCH, "use one version of the library on all ranks",
                             "rank %u has version %u, rank %u has %u", r, card.version,
                             c->host.rank, choir_version());
        if (card.wire_hash != mine)
            return base_fail(CHOIR_ERR_MISMATCH,
                             "set CHOIR_ALGO, CHOIR_PLAN_FILES, CHOIR_SLOT and CHOIR_CUDA_SLICE "
                             "alike on all ranks",
                             "rank %u has other settings than rank %u", r, c->host.rank);
    }
    return CHOIR_OK;
}

/* Cores that the ranks of a host have together: launchers bind each to its own. */
static uint32_t host_cores(const struct choir_comm *c, uint32_t host)
{
    const struct choir_layout *l = c->layout;
    uint8_t set[TOPO_CORE_SET] = {0};
    uint32_t most = 1, quota = UINT32_MAX, count = 0;
    for (uint32_t i = l->begin[host]; i < l->begin[host + 1]; i++) {
        struct host_card card;
        host_peer_card(c->host.member[l->member[i]], &card);
        most = base_max(most, card.cores);
        quota = card.quota ? base_min(quota, card.quota) : quota;
        for (uint32_t k = 0; k < sizeof(set); k++)
            set[k] |= card.core_set[k];
    }
    for (uint32_t k = 0; k < sizeof(set); k++)
        count += (uint32_t)__builtin_popcount(set[k]);
    return base_min(base_max(most, count), quota);
}

enum choir_status derive_all(struct choir_comm *c)
{
    uint32_t n = c->host.size, cores = UINT32_MAX;
    bool reads = true;
    uint64_t *host = malloc(n * sizeof(*host));
    if (!host)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u ranks", n);
    for (uint32_t r = 0; r < n; r++) {
        struct host_card card;
        host_peer_card(c->host.member[r], &card);
        host[r] = card.host_key;
        reads &= card.reads_fast != 0;
    }
    c->layout = plan_layout_create(n, host);
    free(host);
    if (!c->layout)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u ranks", n);
    const struct choir_layout *l = c->layout;
    uint32_t own = l->host_of[c->host.rank];
    for (uint32_t h = 0; h < l->hosts; h++)
        cores = base_min(cores, host_cores(c, h));
    c->host.local_ranks = l->begin[own + 1] - l->begin[own];
    c->host.local_cores = host_cores(c, own);
    uint64_t slot_bytes = (uint64_t)knob_int(KNOB_SLOT) / BASE_LINE * BASE_LINE;
    c->host.slot_bytes = slot_bytes ? slot_bytes : plan_slot_bytes(c->layout);
    plan_cluster_default(&c->cluster, c->layout);
    plan_cluster_cores(&c->cluster, cores);
    if (reads)
        plan_cluster_reads(&c->cluster);
    c->plans = plan_cache_create(256);
    if (!c->plans)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for the cache of plans");
    return plan_table_create(&c->cluster, knob_text(KNOB_ALGO), &c->table);
}
