/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.c: finding a plug-in, starting it, choosing a device. Everything that is wrong with one is said once, in words, and
 * the next in the list is tried. What was loaded stays: its threads may run, and versions before 11 can be started only once.
 */
#include "transports/nccl-net/plugin.h"
#include <dlfcn.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define PLUGINS_MOST 16 /* in a list, as NCCL has it */
#define DEVICES_MOST 64

/* Of all openings of the transport, which the library never has two of at a time. */
static struct loaded {
    char name[256]; /* as in the list */
    const struct plugin_ops *ops;
    const void *table;
    pid_t started; /* the process that did; 0: none */
} loaded[PLUGINS_MOST];
static _Atomic(const struct choir_transport_host *) logger; /* plug-ins log without a context */

static void say(const struct choir_transport_host *host, enum base_level level, const char *format,
                ...) __attribute__((format(printf, 3, 4)));
static void say(const struct choir_transport_host *host, enum base_level level, const char *format,
                ...)
{
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    host->log(host->context, (int)level, text);
}

static void log_of_plugin(int level, unsigned long subsystems, const char *file, int line,
                          const char *format, ...) __attribute__((format(printf, 5, 6)));
static void log_of_plugin(int level, unsigned long subsystems, const char *file, int line,
                          const char *format, ...)
{
    (void)subsystems, (void)file, (void)line;
    const struct choir_transport_host *host = atomic_load(&logger);
    if (!host || level <= NCCL_LOG_NONE)
        return;
    char text[400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    text[strcspn(text, "\n")] = 0;
    say(host,
        level == NCCL_LOG_WARN                                ? BASE_WARN
        : level == NCCL_LOG_INFO || level == NCCL_LOG_VERSION ? BASE_INFO
                                                              : BASE_DEBUG,
        "plug-in says: %s", text);
}

/* --- finding ---------------------------------------------------------------------------------------------- */
/* As given (a path, or a name for the loader to find), else libnccl-net-NAME.so. */
static void *open_object(const char *name, char *why, size_t bytes)
{
    void *so = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (so)
        return so;
    const char *error = dlerror();
    snprintf(why, bytes, "%s", error ? error : "it cannot be loaded");
    size_t n = strlen(name);
    if (strchr(name, '/') || (n > 3 && !strcmp(name + n - 3, ".so")))
        return NULL;
    char path[300];
    snprintf(path, sizeof(path), "libnccl-net-%s.so", name);
    if ((so = dlopen(path, RTLD_NOW | RTLD_LOCAL)))
        return so;
    error = dlerror();
    snprintf(why, bytes, "%s", error ? error : "it cannot be loaded");
    return NULL;
}

static struct loaded *find(const struct choir_transport_host *host, const char *name)
{
    struct loaded *l = NULL;
    for (size_t i = 0; i < base_count(loaded) && !l; i++)
        if (!*loaded[i].name || !strcmp(loaded[i].name, name))
            l = &loaded[i];
    if (!l) {
        say(host, BASE_WARN, "net plug-in %s not loaded: a process may have %d of them", name,
            PLUGINS_MOST);
        return NULL;
    }
    if (*l->name)
        return l;
    char why[300];
    void *so = open_object(name, why, sizeof(why));
    if (!so) {
        say(host, BASE_WARN, "net plug-in %s not loaded: %s", name, why);
        return NULL;
    }
    for (size_t i = 0; plugin_versions[i] && !l->table; i++) {
        l->table = dlsym(so, plugin_versions[i]->symbol);
        l->ops = plugin_versions[i];
    }
    if (!l->table) {
        say(host, BASE_WARN,
            "net plug-in %s not used: it has no symbol ncclNetPlugin_v12, _v11, _v10, _v9 or _v8",
            name);
        dlclose(so);
        return NULL;
    }
    snprintf(l->name, sizeof(l->name), "%s", name);
    return l;
}

/* --- the device ------------------------------------------------------------------------------------------- */
static int node_of(const char *pci_path)
{
    char path[512];
    int node = -1;
    snprintf(path, sizeof(path), "%s/numa_node", pci_path);
    FILE *f = *pci_path ? fopen(path, "re") : NULL;
    if (f && fscanf(f, "%d", &node) != 1)
        node = -1;
    if (f)
        fclose(f);
    return node;
}

/* Of the devices that take host memory: those of this thread's memory node, if any; of these one for each local rank in
 * turn. False: none does. */
static bool choose_device(const struct choir_transport_host *host, struct plugin *p, int count)
{
    struct plugin_device all[DEVICES_MOST];
    int index[DEVICES_MOST], near[DEVICES_MOST], n = 0, nears = 0;
    unsigned cpu, node = 0;
    bool placed = !getcpu(&cpu, &node);
    for (int i = 0; i < base_min(count, DEVICES_MOST); i++) {
        int result = p->ops->properties(p, i, &all[i]);
        if (result != NCCL_SUCCESS) {
            say(host, BASE_WARN, "net plug-in %s device %d not used: %s", p->name, i,
                plugin_result_text(result));
            continue;
        }
        if (!(all[i].memory & NCCL_MEMORY_HOST))
            continue;
        index[n++] = i;
        if (placed && node_of(all[i].pci_path) == (int)node)
            near[nears++] = i;
    }
    if (!n)
        return false;
    const char *knob = host->knob ? host->knob(host->context, "CHOIR_LOCAL_RANK") : NULL;
    int local = knob ? base_max(atoi(knob), 0) : 0;
    p->device = nears ? near[local % nears] : index[local % n];
    p->at = all[p->device];
    return true;
}

/* --- starting ------------------------------------------------------------------------------------------------ */
static bool start(const struct choir_transport_host *host, struct loaded *l, struct plugin *p)
{
    if (l->started && l->started != getpid()) {
        say(host, BASE_WARN,
            "net plug-in %s not used: it was started before this process forked, and does not "
            "work in the child",
            p->name);
        return false;
    }
    if (l->started && !l->ops->finalize)
        return true;
    int result = l->ops->init(p, log_of_plugin);
    if (result != NCCL_SUCCESS) {
        say(host, BASE_WARN, "net plug-in %s not used: its init says %s", p->name,
            plugin_result_text(result));
        return false;
    }
    l->started = getpid();
    return true;
}

static void end(const struct plugin *p)
{
    if (p->ops->finalize)
        p->ops->finalize(p);
}

static bool try_one(const struct choir_transport_host *host, const char *name, struct plugin *p)
{
    struct loaded *l = find(host, name);
    if (!l)
        return false;
    *p = (struct plugin){.ops = l->ops,
                         .table = l->table,
                         .name = plugin_table_name(l->table),
                         .config = {NCCL_NO_TRAFFIC_CLASS}};
    snprintf(p->path, sizeof(p->path), "%s", name);
    if (!start(host, l, p))
        return false;
    int count = 0, result = p->ops->devices(p, &count);
    if (result != NCCL_SUCCESS || count <= 0)
        say(host, BASE_WARN, "net plug-in %s not used: %s", p->name,
            result ? plugin_result_text(result) : "it finds no device");
    else if (!choose_device(host, p, count))
        say(host, BASE_WARN, "net plug-in %s not used: none of its %d devices takes host memory",
            p->name, count);
    else
        return true;
    end(p);
    return false;
}

enum choir_status plugin_open(const struct choir_transport_host *host, struct plugin *p)
{
    char list[4096]; /* the next knob takes its place */
    const char *knob = host->knob ? host->knob(host->context, "CHOIR_NET_PLUGIN") : NULL;
    snprintf(list, sizeof(list), "%s", knob ? knob : "");
    atomic_store(&logger, host);
    for (const char *s = list; *s; s += strspn(s, ", ")) {
        char name[256];
        size_t n = strcspn(s, ", ");
        snprintf(name, sizeof(name), "%.*s", (int)n, s);
        s += n;
        if (!n || !strcasecmp(name, "none") || !try_one(host, name, p))
            continue;
        say(host, BASE_INFO,
            "net plug-in %s (%s, %s) device %d %s, guid %llx, port %d, %d Mbit/s, %.1f us, at most "
            "%d "
            "connections, messages of up to %zu bytes%s%s",
            p->name, p->path, p->ops->symbol, p->device, p->at.name, (unsigned long long)p->at.guid,
            p->at.port, p->at.speed, (double)p->at.latency, p->at.connections_most,
            p->at.message_most, p->at.offload ? ", offload to GPUs (not used)" : "",
            p->at.force_flush ? ", flushes after GPU receives (not used)" : "");
        return CHOIR_OK;
    }
    atomic_store(&logger, NULL);
    return base_fail(CHOIR_ERR_UNSUPPORTED, "see the lines above, or unset CHOIR_NET_PLUGIN",
                     "no net plug-in of \"%.100s\" can be used", list);
}

void plugin_close(struct plugin *p)
{
    end(p);
    atomic_store(&logger, NULL);
}
