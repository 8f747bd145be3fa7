/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.c: ncclConfig_t of programs that were compiled with other versions: read up to the caller's size, members that its
 * version does not know have their defaults. What Choir does not have (clusters, traffic classes) is checked and has no effect.
 */
#include "shims/nccl/internal.h"
#include "shims/nccl/env.h"
#include <stdio.h>
#include <string.h>

static const ncclConfig_t defaults = NCCL_CONFIG_INITIALIZER;

static void forget_newer(ncclConfig_t *c)
{
    const ncclConfig_t *d = &defaults;
    if (c->version < NCCL_VERSION(2, 14, 0))
        c->blocking = d->blocking;
    if (c->version < NCCL_VERSION(2, 17, 0)) {
        c->cgaClusterSize = d->cgaClusterSize;
        c->minCTAs = d->minCTAs, c->maxCTAs = d->maxCTAs;
        c->netName = d->netName;
    }
    if (c->version < NCCL_VERSION(2, 25, 0)) /* it lies in what was padding before */
        c->trafficClass = d->trafficClass;
    if (c->version < NCCL_VERSION(2, 27, 0)) {
        c->collnetEnable = d->collnetEnable;
        c->CTAPolicy = d->CTAPolicy;
        c->shrinkShare = d->shrinkShare;
        c->nvlsCTAs = d->nvlsCTAs;
    }
    if (c->version < NCCL_VERSION(2, 28, 0)) {
        c->nChannelsPerNetPeer = d->nChannelsPerNetPeer;
        c->nvlinkCentricSched = d->nvlinkCentricSched;
    }
    if (c->version < NCCL_VERSION(2, 29, 0)) {
        c->graphUsageMode = d->graphUsageMode;
        c->numRmaCtx = d->numRmaCtx;
    }
    if (c->version < NCCL_VERSION(2, 30, 0))
        c->maxP2pPeers = d->maxP2pPeers;
    if (c->version < NCCL_VERSION(2, 30, 5))
        c->graphStreamOrdering = d->graphStreamOrdering;
}

static ncclResult_t check(const ncclConfig_t *c, const char *call)
{
    const struct {
        const char *name;
        int value, least, most;
    } row[] = {{"blocking", c->blocking, 0, 1},
               {"cgaClusterSize", c->cgaClusterSize, 0, INT_MAX},
               {"minCTAs", c->minCTAs, 1, INT_MAX},
               {"maxCTAs", c->maxCTAs, 1, INT_MAX},
               {"splitShare", c->splitShare, 0, 1},
               {"collnetEnable", c->collnetEnable, 0, 1},
               {"CTAPolicy", c->CTAPolicy, 0, NCCL_CTA_POLICY_EFFICIENCY | NCCL_CTA_POLICY_ZERO},
               {"shrinkShare", c->shrinkShare, 0, 1},
               {"nvlsCTAs", c->nvlsCTAs, 1, INT_MAX},
               {"nChannelsPerNetPeer", c->nChannelsPerNetPeer, 1, 64},
               {"nvlinkCentricSched", c->nvlinkCentricSched, 0, 1},
               {"graphUsageMode", c->graphUsageMode, 0, 2},
               {"numRmaCtx", c->numRmaCtx, 0, INT_MAX},
               {"maxP2pPeers", c->maxP2pPeers, 1, INT_MAX},
               {"graphStreamOrdering", c->graphStreamOrdering, 0, 1}};
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
        if (row[i].value != NCCL_CONFIG_UNDEF_INT &&
            (row[i].value < row[i].least || row[i].value > row[i].most))
            return nccl_fail(ncclInvalidArgument, "%s: config->%s is %d, not in %d..%d", call,
                             row[i].name, row[i].value, row[i].least, row[i].most);
    if (c->minCTAs != NCCL_CONFIG_UNDEF_INT && c->maxCTAs != NCCL_CONFIG_UNDEF_INT &&
        c->minCTAs > c->maxCTAs)
        return nccl_fail(ncclInvalidArgument, "%s: config->minCTAs %d is above config->maxCTAs %d",
                         call, c->minCTAs, c->maxCTAs);
    return ncclSuccess;
}

ncclResult_t nccl_config_read(const ncclConfig_t *config, const struct nccl_config *fallback,
                              const char *call, struct nccl_config *out)
{
    const size_t least = offsetof(ncclConfig_t, blocking);
    ncclConfig_t c = defaults;
    *out =
        (struct nccl_config){.blocking = nccl_env_blocking(fallback ? fallback->blocking : true)};
    if (!config)
        return ncclSuccess;
    if (config->size < least)
        return nccl_fail(ncclInvalidArgument,
                         "%s: config->size is %zu; use NCCL_CONFIG_INITIALIZER", call,
                         config->size);
    memcpy(&c, config, config->size < sizeof(c) ? config->size : sizeof(c));
    if (c.magic != NCCL_API_MAGIC)
        return nccl_fail(ncclInvalidArgument,
                         "%s: config->magic is 0x%x; use NCCL_CONFIG_INITIALIZER", call, c.magic);
    forget_newer(&c);
    ncclResult_t r = check(&c, call);
    if (r != ncclSuccess)
        return r;
    out->blocking = nccl_env_blocking(c.blocking != 0); /* it is, where it is not said */
    if (c.maxCTAs != NCCL_CONFIG_UNDEF_INT)
        out->max_blocks = c.maxCTAs;
    if (c.commName)
        snprintf(out->name, sizeof(out->name), "%s", c.commName);
    return ncclSuccess;
}

struct choir_config nccl_config_choir(const struct nccl_config *config)
{
    struct choir_config c = CHOIR_CONFIG_INIT;
    c.blocking = config->blocking;
    c.max_blocks = config->max_blocks;
    if (config->name[0])
        c.name = config->name;
    return c;
}
