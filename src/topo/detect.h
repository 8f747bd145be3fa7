/* SPDX-License-Identifier: Apache-2.0 */
/*
 * detect.h: the parts of topo_get, one per source of facts. Each fills what it can find and leaves the rest.
 */
#ifndef TOPO_DETECT_H
#define TOPO_DETECT_H

#include "topo/topo.h"

void topo_detect_cpu(struct topo *t);  /* hwloc: cores, threads, caches, NUMA nodes, memory */
void topo_detect_nics(struct topo *t); /* addresses, and speeds from sysfs */
void topo_detect_host(struct topo *t); /* host_id, host_name */

/* What control groups leave of a machine; 0: no limit. */
struct topo_limits {
    uint32_t cpus; /* rounded up */
    uint64_t memory_bytes;
};
/* `groups` is the text of /proc/self/cgroup, `mount` where the hierarchies are: /sys/fs/cgroup. */
struct topo_limits topo_cgroup_limits(const char *groups, const char *mount);
/* The first bytes-1 bytes of a small file without trailing white space; false and "" if it cannot be read. */
bool topo_read_file(const char *path, char *text, size_t bytes);

#endif
