/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plugin.h: one net plug-in as this transport sees it, whatever its version: adapt.c has an adapter for each, load.c finds
 * and starts the one that is used. Calls return an enum nccl_result; none blocks.
 */
#ifndef TRANSPORTS_NCCL_NET_PLUGIN_H
#define TRANSPORTS_NCCL_NET_PLUGIN_H

#include "base/base.h"
#include "choir_transport.h"
#include "transports/nccl-net/abi.h"

struct plugin_device {
    const char *name, *pci_path; /* the plug-in's memory; never NULL */
    int memory, speed, port, connections_most, offload;
    bool force_flush;
    float latency;
    uint64_t guid;
    size_t message_most;
};

struct plugin;
struct plugin_ops {
    const char *symbol;
    int (*init)(struct plugin *p, nccl_log *log);
    int (*devices)(const struct plugin *p, int *count);
    int (*properties)(const struct plugin *p, int device, struct plugin_device *properties);
    int (*listen)(const struct plugin *p, int device, void *handle, void **listener);
    int (*connect)(const struct plugin *p, int device, void *handle, void **connection);
    int (*accept)(const struct plugin *p, void *listener, void **connection);
    int (*enlist)(const struct plugin *p, void *connection, void *data, size_t bytes,
                  void **memory); /* registers host memory */
    int (*delist)(const struct plugin *p, void *connection, void *memory);
    int (*isend)(const struct plugin *p, void *connection, void *data, size_t bytes, void *memory,
                 void **request);
    int (*ireceive)(const struct plugin *p, void *connection, void *data, size_t bytes,
                    void *memory, void **request);
    int (*test)(const struct plugin *p, void *request, int *done, int *bytes);
    int (*close_send)(const struct plugin *p, void *connection);
    int (*close_receive)(const struct plugin *p, void *connection);
    int (*close_listen)(const struct plugin *p, void *listener);
    int (*finalize)(const struct plugin *p); /* NULL: nothing to end */
};

struct plugin {
    const struct plugin_ops *ops;
    const void *table;
    void *context; /* versions 11 on */
    struct nccl_config config;
    const char *name; /* its own */
    char path[256];   /* as it was found */
    int device;
    struct plugin_device at; /* that device */
};

/* adapt.c: newest first, NULL past the end. */
extern const struct plugin_ops *const plugin_versions[];
const char *plugin_table_name(const void *table); /* the first word in all versions */
const char *plugin_result_text(int result);

/* load.c: the first plug-in of the list in CHOIR_NET_PLUGIN that has a device. Logs what is wrong with each. */
enum choir_status plugin_open(const struct choir_transport_host *host, struct plugin *p);
void plugin_close(struct plugin *p); /* it stays in the process */

#endif
