/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu.c: cores, caches and NUMA nodes by hwloc, cut down to what the affinity mask and the control groups allow.
 */
#include "topo/detect.h"
#include <hwloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static hwloc_topology_t load(void)
{
    static const hwloc_obj_type_t wanted[] = {HWLOC_OBJ_CORE, HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE,
                                              HWLOC_OBJ_L3CACHE, HWLOC_OBJ_PACKAGE};
    hwloc_topology_t h;
    if (hwloc_topology_init(&h))
        return NULL;
    hwloc_topology_set_all_types_filter(h, HWLOC_TYPE_FILTER_KEEP_NONE);
    for (size_t i = 0; i < base_count(wanted); i++)
        hwloc_topology_set_type_filter(h, wanted[i], HWLOC_TYPE_FILTER_KEEP_ALL);
    /* It would move this thread from core to core, and adds nothing to what the kernel tells. */
    hwloc_topology_set_components(h, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "x86");
    if (hwloc_topology_load(h)) {
        hwloc_topology_destroy(h);
        return NULL;
    }
    return h;
}

static uint32_t count_inside(hwloc_topology_t h, hwloc_obj_type_t type, hwloc_const_cpuset_t set)
{
    uint32_t n = 0;
    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_obj_by_type(h, type, o));)
        n += o->cpuset && hwloc_bitmap_intersects(o->cpuset, set);
    return n;
}

static void note_cores(hwloc_topology_t h, hwloc_const_cpuset_t set, struct topo *t)
{
    uint32_t i = 0;
    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_obj_by_type(h, HWLOC_OBJ_CORE, o)); i++)
        if (o->cpuset && hwloc_bitmap_intersects(o->cpuset, set))
            t->core_set[i / 8 % TOPO_CORE_SET] |= (uint8_t)(1u << i % 8);
}

static uint64_t cache_bytes(hwloc_topology_t h, hwloc_obj_type_t type)
{
    hwloc_obj_t o = hwloc_get_obj_by_type(h, type, 0);
    return o && o->attr ? o->attr->cache.size : 0;
}

static void find_name(hwloc_topology_t h, char *text, size_t bytes)
{
    hwloc_obj_t o = hwloc_get_obj_by_type(h, HWLOC_OBJ_PACKAGE, 0);
    const char *name = o ? hwloc_obj_get_info_by_name(o, "CPUModel") : NULL;
    struct utsname u;
    if (!name)
        name = hwloc_obj_get_info_by_name(hwloc_get_root_obj(h), "CPUModel");
    if (!name && !uname(&u))
        name = u.machine;
    snprintf(text, bytes, "%s", name ? name : "unknown");
}

static void limit(struct topo *t)
{
    char groups[4096];
    topo_read_file("/proc/self/cgroup", groups, sizeof(groups));
    struct topo_limits l = topo_cgroup_limits(groups, "/sys/fs/cgroup");
    if (l.cpus) {
        t->quota = l.cpus;
        t->threads = base_min(t->threads, l.cpus);
        t->cores = base_min(t->cores, l.cpus);
    }
    if (l.memory_bytes)
        t->memory_bytes = base_min(t->memory_bytes, l.memory_bytes);
}

void topo_detect_cpu(struct topo *t)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN), pages = sysconf(_SC_PHYS_PAGES);
    t->cores = t->threads = online > 0 ? (uint32_t)online : 1;
    t->numa = 1;
    t->memory_bytes = pages > 0 ? (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
    snprintf(t->cpu, sizeof(t->cpu), "unknown");
    hwloc_topology_t h = load();
    hwloc_bitmap_t mine = h ? hwloc_bitmap_alloc() : NULL;
    if (mine) {
        if (hwloc_get_cpubind(h, mine, HWLOC_CPUBIND_PROCESS) || hwloc_bitmap_iszero(mine))
            hwloc_bitmap_copy(mine, hwloc_topology_get_allowed_cpuset(h));
        hwloc_bitmap_and(mine, mine, hwloc_topology_get_allowed_cpuset(h));
        t->threads = base_max(1u, count_inside(h, HWLOC_OBJ_PU, mine));
        uint32_t cores = count_inside(h, HWLOC_OBJ_CORE, mine);
        t->cores = cores ? cores : t->threads;
        note_cores(h, mine, t);
        t->numa = base_max(1u, count_inside(h, HWLOC_OBJ_NUMANODE, mine));
        t->l1_bytes = cache_bytes(h, HWLOC_OBJ_L1CACHE);
        t->l2_bytes = cache_bytes(h, HWLOC_OBJ_L2CACHE);
        t->l3_bytes = cache_bytes(h, HWLOC_OBJ_L3CACHE);
        if (hwloc_get_root_obj(h)->total_memory)
            t->memory_bytes = hwloc_get_root_obj(h)->total_memory;
        find_name(h, t->cpu, sizeof(t->cpu));
    }
    hwloc_bitmap_free(mine);
    if (h)
        hwloc_topology_destroy(h);
    limit(t);
}
