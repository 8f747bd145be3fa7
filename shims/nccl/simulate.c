/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simulate.c: ncclGroupSimulateEnd: what Choir's simulator says that the calls of a group would take, with the plans that they would
 * run by.
 */
#include "shims/nccl/internal.h"
#include "comm/gpu.h"
#include <string.h>

ncclResult_t nccl_simulate_check(const ncclSimInfo_t *info)
{
    if (info->size < offsetof(ncclSimInfo_t, estimatedTime) || info->magic != NCCL_SIM_INFO_MAGIC)
        return nccl_fail(ncclInvalidArgument, "ncclGroupSimulateEnd: simInfo was not initialised "
                                              "with NCCL_SIM_INFO_INITIALIZER");
    return ncclSuccess;
}

static enum choir_status price(const struct nccl_task *t, double *ns)
{
    static const enum choir_kind kind[] = {
        [NCCL_ALL_REDUCE] = CHOIR_ALL_REDUCE, [NCCL_REDUCE] = CHOIR_REDUCE,
        [NCCL_BROADCAST] = CHOIR_BROADCAST,   [NCCL_REDUCE_SCATTER] = CHOIR_REDUCE_SCATTER,
        [NCCL_ALL_GATHER] = CHOIR_ALL_GATHER, [NCCL_ALL_TO_ALL] = CHOIR_ALL_TO_ALL,
        [NCCL_GATHER] = CHOIR_GATHER,         [NCCL_SCATTER] = CHOIR_SCATTER};
    struct comm_call call = {.kind = kind[t->call],
                             .type = t->type,
                             .op = t->made,
                             .root = t->root,
                             .count = t->count,
                             .in = t->send,
                             .out = t->recv};
    choir_comm *c = atomic_load(&t->comm->choir);
    struct choir_shape shape;
    struct plan_price price;
    const struct plan_cluster *cluster = device_cluster(c, &call, &shape);
    enum choir_status st = plan_simulate(device_algorithm(c, &call), &shape, cluster, &price);
    if (st == CHOIR_OK)
        *ns = price.time_ns;
    return st;
}

/* One after another: they share this rank's end. */
static double message_ns(const struct nccl_task *t)
{
    choir_comm *c = atomic_load(&t->comm->choir);
    struct comm_call call = {.kind = CHOIR_EXCHANGE, .type = CHOIR_UINT8};
    struct choir_shape shape;
    const struct plan_cluster *cluster = device_cluster(c, &call, &shape);
    const uint32_t *host = cluster->layout->host_of;
    uint32_t peer = (uint32_t)t->root, rank = c->host.rank;
    const struct plan_cost *k = &cluster->link[peer == rank               ? PLAN_LINK_SELF
                                               : host[peer] == host[rank] ? PLAN_LINK_HOST
                                                                          : PLAN_LINK_NET];
    return k->alpha_ns + 2 * k->overhead_ns +
           (double)(t->count * choir_type_bytes(t->type)) *
               (k->beta_ns + k->rank_beta_ns + k->shared_beta_ns);
}

static ncclResult_t one_price(const struct nccl_task *t, double *ns)
{
    ncclResult_t r = nccl_comm_enter_closing(t->comm, "ncclGroupSimulateEnd");
    if (r != ncclSuccess)
        return r;
    if (t->call >= NCCL_SEND && t->call < NCCL_WAIT_SIGNAL)
        *ns = message_ns(t);
    else if (t->call < NCCL_SEND && t->count)
        r = nccl_result(price(t, ns), "ncclGroupSimulateEnd");
    nccl_comm_leave(t->comm);
    return r;
}

/* Calls of one communicator run one after another, communicators side by side. */
ncclResult_t nccl_simulate(const struct nccl_task *task, uint32_t count, ncclSimInfo_t *info)
{
    double longest = 0;
    for (uint32_t i = 0; i < count; i++) {
        double sum = 0;
        bool seen = false;
        for (uint32_t k = 0; k < i && !seen; k++)
            seen = task[k].comm == task[i].comm;
        for (uint32_t k = i; k < count && !seen; k++) {
            double ns = 0;
            ncclResult_t r = task[k].comm == task[i].comm ? one_price(&task[k], &ns) : ncclSuccess;
            if (r != ncclSuccess)
                return r;
            sum += ns;
        }
        longest = base_max(longest, sum);
    }
    if (info->size >= offsetof(ncclSimInfo_t, estimatedTime) + sizeof(info->estimatedTime))
        info->estimatedTime = (float)(longest / 1e3);
    return ncclSuccess;
}
