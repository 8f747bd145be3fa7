/* SPDX-License-Identifier: Apache-2.0 */
/*
 * facts.c: what decides how fast the GPUs of a communicator reach each other, as far as the driver tells: what they are,
 * which are one, and of each two what it says of their link. The driver knows no count of NVLinks; its rank of performance
 * and whether atomics work over the link tell NVLink from PCIe. Where this process does not see both GPUs
 * (CUDA_VISIBLE_DEVICES), where they are in the machine stands for their link.
 */
#include "cuda/mailbox.h"
#include "plan/tuning.h"
#include <stdio.h>
#include <string.h>

uint64_t cuda_gpu_hash(const struct cuda_gpu *g)
{
    uint32_t words[] = {(uint32_t)g->major, (uint32_t)g->minor, (uint32_t)g->sms};
    return base_hash(g->name, strlen(g->name), base_hash(words, sizeof(words), 0));
}

struct visible { /* the GPUs of this process */
    uint32_t count;
    CUuuid uuid[CUDA_DEVICES_MOST];
};

static enum choir_status see(const struct cuda_driver *cu, struct visible *v)
{
    int n = 0;
    CUresult r = cu->cuDeviceGetCount(&n);
    v->count = (uint32_t)base_min(base_max(n, 0), (int)CUDA_DEVICES_MOST);
    for (uint32_t i = 0; i < v->count && r == CUDA_SUCCESS; i++) {
        CUdevice device;
        r = cu->cuDeviceGet(&device, (int)i);
        if (r == CUDA_SUCCESS)
            r = cu->cuDeviceGetUuid(&v->uuid[i], device);
    }
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "looking at the GPUs");
}

static bool find(const struct visible *v, const struct cuda_card *card, CUdevice *device)
{
    for (uint32_t i = 0; i < v->count; i++)
        if (!memcmp(&v->uuid[i], card->uuid, sizeof(card->uuid))) {
            *device = (CUdevice)i; /* a CUdevice is its ordinal */
            return true;
        }
    return false;
}

static uint64_t link_of(const struct cuda_driver *cu, const struct visible *v,
                        const struct cuda_card *a, const struct cuda_card *b)
{
    static const CUdevice_P2PAttribute ask[] = {CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED,
                                                CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK,
                                                CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED};
    CUdevice from, to;
    if (!memcmp(a->uuid, b->uuid, sizeof(a->uuid)))
        return 0;
    if (find(v, a, &from) && find(v, b, &to)) {
        int32_t answer[2 * base_count(ask)] = {0};
        for (size_t i = 0; i < base_count(ask); i++) { /* what it does not know is 0 */
            (void)cu->cuDeviceGetP2PAttribute(&answer[2 * i], ask[i], from, to);
            (void)cu->cuDeviceGetP2PAttribute(&answer[2 * i + 1], ask[i], to, from);
        }
        return base_hash(answer, sizeof(answer), 1);
    }
    return base_hash(b->pci, strlen(b->pci), base_hash(a->pci, strlen(a->pci), 2));
}

enum choir_status cuda_comm_facts(const struct cuda_comm *comm, const struct cuda_card *card,
                                  struct tuning_facts *facts, char name[96])
{
    const struct cuda_driver *cu = cuda_driver();
    const struct cuda_view *view = &comm->view;
    struct visible v;
    int version = 0;
    if (!cu)
        return base_error_thread()->status;
    CUresult r = cu->cuDriverGetVersion(&version);
    enum choir_status st = r == CUDA_SUCCESS ? see(cu, &v) : cuda_fail(r, "cuDriverGetVersion");
    if (st != CHOIR_OK)
        return st;
    *facts = (struct tuning_facts){.ranks = view->ranks, .cuda = (uint32_t)version / 1000};
    for (uint32_t a = 0; a < view->ranks; a++) {
        uint8_t first = 0;
        while (memcmp(card[first].uuid, card[a].uuid, sizeof(card[a].uuid)))
            first++;
        facts->gpu[a] = card[a].what;
        facts->place[a] = first;
        for (uint32_t b = a + 1; b < view->ranks; b++)
            facts->link[a][b] = link_of(cu, &v, &card[a], &card[b]);
    }
    snprintf(name, 96, "%s", comm->device->gpu.name);
    return CHOIR_OK;
}

uint32_t cuda_names(char (*name)[96], uint32_t most, uint32_t *cuda)
{
    const struct cuda_driver *cu = cuda_driver();
    int version = 0, n = 0;
    uint32_t found = 0;
    *cuda = 0;
    if (!cu || cuda_driver_init() != CHOIR_OK || cu->cuDriverGetVersion(&version) != CUDA_SUCCESS ||
        cu->cuDeviceGetCount(&n) != CUDA_SUCCESS)
        return 0;
    *cuda = (uint32_t)version / 1000;
    for (int i = 0; i < n && found < most; i++) {
        struct cuda_gpu gpu;
        if (cuda_gpu_describe(i, &gpu) == CHOIR_OK)
            snprintf(name[found++], 96, "%s", gpu.name);
    }
    return found;
}
