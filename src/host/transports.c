/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transports.c: which transports there are, and a full table of entries for each: what a transport leaves NULL answers
 * "not supported", so no caller tests for NULL.
 */
#include "host/transports.h"
#include "base/knob.h"
#include <dlfcn.h>
#include <string.h>

extern const struct choir_transport_ops choir_transport_self, choir_transport_shm,
    choir_transport_nccl_net, choir_transport_tcp;
static const struct choir_transport_ops *const builtin[] = {
    &choir_transport_self, &choir_transport_shm, &choir_transport_nccl_net, &choir_transport_tcp};

static enum choir_status no_probe(const struct choir_transport_host *host, char *text, size_t bytes)
{
    (void)host, (void)text, (void)bytes;
    return CHOIR_OK;
}
static enum choir_status no_alloc(struct choir_transport *t, uint64_t bytes, struct choir_shared *s)
{
    (void)t, (void)bytes, (void)s;
    return CHOIR_ERR_UNSUPPORTED;
}
static enum choir_status no_release(struct choir_transport *t, struct choir_shared *s)
{
    (void)t, (void)s;
    return CHOIR_ERR_UNSUPPORTED;
}
static enum choir_status no_map(struct choir_endpoint *e, uint64_t key, uint64_t bytes,
                                void **memory)
{
    (void)e, (void)key, (void)bytes, (void)memory;
    return CHOIR_ERR_UNSUPPORTED;
}
static enum choir_status no_unmap(struct choir_endpoint *e, void *memory, uint64_t bytes)
{
    (void)e, (void)memory, (void)bytes;
    return CHOIR_ERR_UNSUPPORTED;
}
static enum choir_status no_read(struct choir_endpoint *e, void *to, uint64_t from, uint64_t bytes)
{
    (void)e, (void)to, (void)from, (void)bytes;
    return CHOIR_ERR_UNSUPPORTED;
}
static enum choir_status no_write(struct choir_endpoint *e, uint64_t to, const void *from,
                                  uint64_t bytes)
{
    (void)e, (void)to, (void)from, (void)bytes;
    return CHOIR_ERR_UNSUPPORTED;
}
static uint32_t no_caps(struct choir_endpoint *e)
{
    (void)e;
    return 0;
}
static enum choir_status no_wake(struct choir_endpoint *e)
{
    (void)e;
    return CHOIR_ERR_UNSUPPORTED;
}
static enum choir_status no_flush(struct choir_transport *t)
{
    (void)t;
    return CHOIR_OK;
}
static uint32_t no_progress(struct choir_transport *t)
{
    (void)t;
    return 0;
}

static void no_arm(struct choir_transport *t, int on)
{
    (void)t, (void)on;
}

static uint32_t no_expects(void)
{
    return 0;
}

bool transports_complete(const struct choir_transport_ops *from, struct choir_transport_ops *to)
{
    *to = (struct choir_transport_ops){.probe = no_probe,
                                       .alloc = no_alloc,
                                       .release = no_release,
                                       .map = no_map,
                                       .unmap = no_unmap,
                                       .read = no_read,
                                       .caps = no_caps,
                                       .wake = no_wake,
                                       .flush = no_flush,
                                       .progress = no_progress,
                                       .arm = no_arm,
                                       .expects = no_expects,
                                       .write = no_write};
    /* Entries are pointers from `name` on; a table of an older, shorter version leaves the rest as it is. */
    size_t first = offsetof(struct choir_transport_ops, name),
           bytes = base_min(from->size, sizeof(*to));
    for (size_t at = first; at + sizeof(void *) <= bytes; at += sizeof(void *)) {
        void *entry;
        memcpy(&entry, (const char *)from + at, sizeof(entry));
        if (entry)
            memcpy((char *)to + at, &entry, sizeof(entry));
    }
    to->size = sizeof(*to);
    to->abi = from->abi;
    return from->abi == CHOIR_TRANSPORT_ABI && to->name && to->open && to->address && to->connect &&
           to->connected && to->send && to->disconnect && to->close;
}

const struct choir_transport_ops *transports_find(const char *name, size_t bytes)
{
    for (size_t i = 0; i < base_count(builtin); i++)
        if (strlen(builtin[i]->name) == bytes && !memcmp(builtin[i]->name, name, bytes))
            return builtin[i];
    return NULL;
}

const struct choir_transport_ops *transports_load(const char *path)
{
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct choir_transport_ops *ops = so ? dlsym(so, CHOIR_TRANSPORT_SYMBOL) : NULL;
    if (!ops) {
        base_log(BASE_WARN, -1, "transport plug-in %s not loaded: %s", path, dlerror());
        if (so)
            dlclose(so);
    }
    return ops;
}
