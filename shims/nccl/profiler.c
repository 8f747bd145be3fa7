/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profiler.c: finds a profiler plug-in and calls it in the version it has, 5 if it has both. It stays loaded: NCCL unloads one after
 * the last communicator, but its threads may still run. What it is told of is profiler_events.c's business.
 */
#include "shims/nccl/profiler.h"
#include "base/base.h"
#include <dlfcn.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static struct profiler_plugin_5 *v5;
static struct profiler_plugin_4 *v4;
/* Plug-ins keep its address, and change it while the program runs. One for all communicators, as in NCCL. */
static int mask;

/* --- finding it ------------------------------------------------------------------------------------------ */

static bool take(void *library, const char *path)
{
    if (library) {
        v5 = dlsym(library, PROFILER_SYMBOL_V5);
        v4 = v5 ? NULL : dlsym(library, PROFILER_SYMBOL_V4);
    }
    if (v5 || v4) {
        base_log(BASE_INFO, -1, "profiler plug-in %s is %s, version %d", path,
                 v5 ? v5->name : v4->name, v5 ? 5 : 4);
        return true;
    }
    if (library) {
        base_log(BASE_WARN, -1, "profiler plug-in %s has neither %s nor %s, so it is not used",
                 path, PROFILER_SYMBOL_V5, PROFILER_SYMBOL_V4);
        dlclose(library);
    }
    return false;
}

bool nccl_profiler_load(void)
{
    const char *wish = getenv("NCCL_PROFILER_PLUGIN");
    char path[PATH_MAX], why[256];
    if (!wish || !*wish) /* one that is just there */
        return take(dlopen("libnccl-profiler.so", RTLD_NOW | RTLD_LOCAL), "libnccl-profiler.so");
    if (!strcasecmp(wish, "none"))
        return false;
    if (!strcasecmp(wish, "STATIC_PLUGIN")) /* part of the program */
        return take(dlopen(NULL, RTLD_NOW | RTLD_LOCAL), "in the program");
    void *library = dlopen(wish, RTLD_NOW | RTLD_LOCAL);
    if (library)
        return take(library, wish);
    snprintf(why, sizeof(why), "%s", dlerror());
    if (!strchr(wish, '/')) {
        snprintf(path, sizeof(path), "libnccl-profiler-%s.so", wish);
        if ((library = dlopen(path, RTLD_NOW | RTLD_LOCAL)))
            return take(library, path);
        base_log(BASE_WARN, -1, "NCCL_PROFILER_PLUGIN is %s: %s; %s", wish, why, dlerror());
        return false;
    }
    base_log(BASE_WARN, -1, "NCCL_PROFILER_PLUGIN is %s: %s", wish, why);
    return false;
}

/* --- calling it ------------------------------------------------------------------------------------------- */

static void plugin_log(enum profiler_log level, unsigned long subsystems, const char *file,
                       int line, const char *format, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    text[strcspn(text, "\n")] = 0;
    base_log(level == PROFILER_LOG_WARN    ? BASE_WARN
             : level == PROFILER_LOG_TRACE ? BASE_DEBUG
                                           : BASE_INFO,
             -1, "profiler plug-in, %s:%d: %s", file ? file : "?", line, text);
    (void)subsystems;
}

bool nccl_profiler_init(void **context, uint64_t comm, const char *name, int nodes, int ranks,
                        int rank)
{
    *context = NULL;
    int failed = v5 ? v5->init(context, comm, &mask, name, nodes, ranks, rank, plugin_log)
                    : v4->init(context, &mask, name, comm, nodes, ranks, rank, plugin_log);
    if (failed)
        base_log(BASE_WARN, rank, "profiler plug-in %s refused a communicator with result %d",
                 v5 ? v5->name : v4->name, failed);
    return !failed;
}

void nccl_profiler_finalize(void *context)
{
    (void)(v5 ? v5->finalize(context) : v4->finalize(context));
}

bool nccl_profiler_wants(int types)
{
    return (__atomic_load_n(&mask, __ATOMIC_RELAXED) & types) != 0;
}

/* The parent of a collective or message is the group in version 4. */
static void *event_4(void *context, const struct profiler_event_5 *e)
{
    struct profiler_event_4 x = {.type = (uint8_t)e->type, .parent = e->parent, .rank = e->rank};
    void *handle = NULL;
    switch (e->type) {
    case PROFILER_GROUP:
        break;
    case PROFILER_COLL:
        x.parent = e->coll.group;
        x.coll = e->coll.v4;
        break;
    case PROFILER_P2P:
        x.parent = e->p2p.group;
        x.p2p = (struct profiler_p2p_4){e->p2p.func,  e->p2p.buffer, e->p2p.datatype,
                                        e->p2p.count, e->p2p.peer,   e->p2p.channels};
        break;
    case PROFILER_PROXY_OP:
        x.proxy_op = e->proxy_op;
        break;
    case PROFILER_KERNEL_CH:
        x.kernel_ch = e->kernel_ch;
        break;
    default: /* it does not know them */
        return NULL;
    }
    return v4->start(context, &handle, &x) ? NULL : handle;
}

void *nccl_profiler_event(void *context, struct profiler_event_5 *event)
{
    void *handle = NULL;
    if (!v5)
        return event_4(context, event);
    return v5->start(context, &handle, event) ? NULL : handle;
}

void nccl_profiler_record(void *handle, enum profiler_state state, uint64_t gpu_ns)
{
    union profiler_state_args args = {.gpu_ns = gpu_ns};
    if (handle)
        (void)(v5 ? v5->record(handle, state, &args) : v4->record(handle, state, &args));
}

void nccl_profiler_stop(void **handle)
{
    if (*handle)
        (void)(v5 ? v5->stop(*handle) : v4->stop(*handle));
    *handle = NULL;
}
