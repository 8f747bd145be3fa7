/* SPDX-License-Identifier: Apache-2.0 */
/*
 * topo.h: what this machine is: cores, caches, NUMA nodes (by hwloc), network interfaces, and its host id.
 */
#ifndef TOPO_TOPO_H
#define TOPO_TOPO_H

#include "base/base.h"

#define TOPO_NAME 64
struct topo_nic {
    char name[TOPO_NAME];
    char address[4][64]; /* numeric, IPv4 and IPv6 */
    uint32_t addresses;
    uint32_t mbps; /* 0: unknown */
    bool up, loopback;
};
#define TOPO_CORE_SET 64 /* bytes; cores from 512 on share bits with the first */
struct topo {
    char host_id[TOPO_NAME]; /* CHOIR_HOST_ID, or the boot id */
    char host_name[TOPO_NAME];
    char cpu[128];
    uint32_t cores, threads, numa;   /* cores this process may run on; hardware threads likewise */
    uint32_t quota;                  /* CPUs the control groups allow; 0: no limit */
    uint8_t core_set[TOPO_CORE_SET]; /* a bit for each of these cores; empty: not known */
    uint64_t l1_bytes, l2_bytes, l3_bytes, memory_bytes;
    uint32_t nics;
    struct topo_nic nic[16];
};
/* Detected once, then the same pointer. CHOIR_TOPO_FILE replaces all but identity; its nics have no addresses. Never
 * NULL. */
const struct topo *topo_get(void);
uint64_t topo_hash(const struct topo *t);          /* of what decides speed, not of names */
void topo_print(const struct topo *t, void *file); /* FILE *; the text that CHOIR_TOPO_FILE reads */
enum choir_status topo_load(const char *path, struct topo *t);

#endif
