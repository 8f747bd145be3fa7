/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup.c: CPU and memory limits of the control groups this process is in, version 2 and 1 (kernel:
 * Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/). The least of a group and its parents holds.
 */
#include "topo/detect.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void less_cpus(struct topo_limits *l, int64_t quota_us, int64_t period_us)
{
    if (quota_us <= 0 || period_us <= 0)
        return;
    uint64_t n = ((uint64_t)quota_us + (uint64_t)period_us - 1) / (uint64_t)period_us;
    if (n <= UINT32_MAX && (!l->cpus || n < l->cpus))
        l->cpus = (uint32_t)n;
}

static void less_memory(struct topo_limits *l, const char *text)
{
    uint64_t bytes = strtoull(text, NULL, 10); /* "max" is 0 */
    if (bytes && bytes < UINT64_MAX >> 2 && (!l->memory_bytes || bytes < l->memory_bytes))
        l->memory_bytes = bytes;
}

static bool read_in(const char *dir, const char *name, char *text, size_t bytes)
{
    char path[4608];
    return snprintf(path, sizeof(path), "%s/%s", dir, name) < (int)sizeof(path) &&
           topo_read_file(path, text, bytes);
}

static void read_group(struct topo_limits *l, const char *dir)
{
    char text[64], period[64];
    int64_t q, p;
    if (read_in(dir, "cpu.max", text, sizeof(text)) &&
        sscanf(text, "%" SCNd64 " %" SCNd64, &q, &p) == 2)
        less_cpus(l, q, p);
    if (read_in(dir, "memory.max", text, sizeof(text)))
        less_memory(l, text);
    if (read_in(dir, "cpu.cfs_quota_us", text, sizeof(text)) &&
        read_in(dir, "cpu.cfs_period_us", period, sizeof(period)))
        less_cpus(l, strtoll(text, NULL, 10), strtoll(period, NULL, 10));
    if (read_in(dir, "memory.limit_in_bytes", text, sizeof(text)))
        less_memory(l, text);
}

/* The group `path` below `top`, and every parent of it. Inside a container the path may not exist; then the top is all
 * there is to see. */
static void read_upwards(struct topo_limits *l, const char *top, const char *path)
{
    char dir[4352];
    if (snprintf(dir, sizeof(dir), "%s%s", top, path) >= (int)sizeof(dir))
        return;
    for (size_t end = strlen(dir); end >= strlen(top);) {
        dir[end] = '\0';
        read_group(l, dir);
        char *slash = strrchr(dir, '/');
        if (!slash || slash < dir + strlen(top))
            break;
        end = (size_t)(slash - dir);
    }
    read_group(l, top);
}

struct topo_limits topo_cgroup_limits(const char *groups, const char *mount)
{
    struct topo_limits l = {0, 0};
    /* A line: number ":" controllers ":" path; version 2 has no controllers. */
    for (const char *line = groups, *end; *line; line = *end ? end + 1 : end) {
        end = strchrnul(line, '\n');
        const char *names = memchr(line, ':', (size_t)(end - line));
        const char *path = names ? memchr(names + 1, ':', (size_t)(end - names - 1)) : NULL;
        if (!path)
            continue;
        char group[2048], list[256], top[256];
        snprintf(group, sizeof(group), "%.*s", (int)(end - path - 1), path + 1);
        snprintf(list, sizeof(list), "%.*s", (int)(path - names - 1), names + 1);
        if (!strcmp(group, "/"))
            group[0] = '\0';
        if (!list[0]) {
            read_upwards(&l, mount, group);
            snprintf(top, sizeof(top), "%s/unified", mount);
            read_upwards(&l, top, group);
        }
        for (char *save, *c = strtok_r(list, ",", &save); c; c = strtok_r(NULL, ",", &save))
            if (!strcmp(c, "cpu") || !strcmp(c, "memory")) {
                snprintf(top, sizeof(top), "%s/%s", mount, c);
                read_upwards(&l, top, group);
            }
    }
    return l;
}
