/* SPDX-License-Identifier: Apache-2.0 */
/*
 * adapt.c: one adapter for each version of the plug-ins' interface. Knows how versions differ and nothing else does.
 */
#include "transports/nccl-net/plugin.h"
#include <string.h>

#define TAG 0 /* one connection carries one stream: messages are paired by their order alone */

/* --- what versions 8, 9, 10 and 11 have under the same names ---------------------------------------------- */
#define SAME_ENTRIES(v)                                                                            \
    static int devices_v##v(const struct plugin *p, int *count)                                    \
    {                                                                                              \
        return ((const struct nccl_net_v##v *)p->table)->devices(count);                           \
    }                                                                                              \
    static int accept_v##v(const struct plugin *p, void *listener, void **connection)              \
    {                                                                                              \
        void *offload = NULL;                                                                      \
        return ((const struct nccl_net_v##v *)p->table)->accept(listener, connection, &offload);   \
    }                                                                                              \
    static int enlist_v##v(const struct plugin *p, void *connection, void *data, size_t bytes,     \
                           void **memory)                                                          \
    {                                                                                              \
        return ((const struct nccl_net_v##v *)p->table)                                            \
            ->register_memory(connection, data, bytes, NCCL_MEMORY_HOST, memory);                  \
    }                                                                                              \
    static int delist_v##v(const struct plugin *p, void *connection, void *memory)                 \
    {                                                                                              \
        return ((const struct nccl_net_v##v *)p->table)->deregister_memory(connection, memory);    \
    }                                                                                              \
    static int test_v##v(const struct plugin *p, void *request, int *done, int *bytes)             \
    {                                                                                              \
        return ((const struct nccl_net_v##v *)p->table)->test(request, done, bytes);               \
    }                                                                                              \
    static int close_send_v##v(const struct plugin *p, void *connection)                           \
    {                                                                                              \
        return ((const struct nccl_net_v##v *)p->table)->close_send(connection);                   \
    }                                                                                              \
    static int close_receive_v##v(const struct plugin *p, void *connection)                        \
    {                                                                                              \
        return ((const struct nccl_net_v##v *)p->table)->close_receive(connection);                \
    }                                                                                              \
    static int close_listen_v##v(const struct plugin *p, void *listener)                           \
    {                                                                                              \
        return ((const struct nccl_net_v##v *)p->table)->close_listen(listener);                   \
    }

#define FILLED(v)                                                                                  \
    .init = init_v##v, .devices = devices_v##v, .listen = listen_v##v, .connect = connect_v##v,    \
    .accept = accept_v##v, .enlist = enlist_v##v, .delist = delist_v##v, .isend = isend_v##v,      \
    .ireceive = ireceive_v##v, .test = test_v##v, .close_send = close_send_v##v,                   \
    .close_receive = close_receive_v##v, .close_listen = close_listen_v##v

#define PROPERTIES(d, flush, most)                                                                 \
    (struct plugin_device)                                                                         \
    {                                                                                              \
        .name = (d).name ? (d).name : "", .pci_path = (d).pci_path ? (d).pci_path : "",            \
        .memory = (d).memory, .speed = (d).speed, .port = (d).port,                                \
        .connections_most = (d).connections_most, .offload = (d).offload,                          \
        .force_flush = (flush) != 0, .latency = (d).latency, .guid = (d).guid,                     \
        .message_most = (most),                                                                    \
    }

/* --- version 8: sizes are ints ------------------------------------------------------------------------------ */
static int init_v8(struct plugin *p, nccl_log *log)
{
    return ((const struct nccl_net_v8 *)p->table)->init(log);
}

static int properties_v8(const struct plugin *p, int device, struct plugin_device *to)
{
    struct nccl_device_v8 d = {0};
    int result = ((const struct nccl_net_v8 *)p->table)->properties(device, &d);
    *to = PROPERTIES(d, 0, NCCL_SIZE_MOST);
    return result;
}

static int listen_v8(const struct plugin *p, int device, void *handle, void **listener)
{
    return ((const struct nccl_net_v8 *)p->table)->listen(device, handle, listener);
}

static int connect_v8(const struct plugin *p, int device, void *handle, void **connection)
{
    void *offload = NULL;
    return ((const struct nccl_net_v8 *)p->table)->connect(device, handle, connection, &offload);
}

static int isend_v8(const struct plugin *p, void *connection, void *data, size_t bytes,
                    void *memory, void **request)
{
    return ((const struct nccl_net_v8 *)p->table)
        ->isend(connection, data, (int)bytes, TAG, memory, request);
}

static int ireceive_v8(const struct plugin *p, void *connection, void *data, size_t bytes,
                       void *memory, void **request)
{
    int size = (int)bytes, tag = TAG;
    return ((const struct nccl_net_v8 *)p->table)
        ->ireceive(connection, 1, &data, &size, &tag, &memory, request);
}

SAME_ENTRIES(8)

/* --- version 9: sizes of 64 bits ------------------------------------------------------------------------------ */
static int init_v9(struct plugin *p, nccl_log *log)
{
    return ((const struct nccl_net_v9 *)p->table)->init(log);
}

static int properties_v9(const struct plugin *p, int device, struct plugin_device *to)
{
    struct nccl_device_v9 d = {0};
    int result = ((const struct nccl_net_v9 *)p->table)->properties(device, &d);
    *to = PROPERTIES(d, d.force_flush, d.message_most);
    return result;
}

static int listen_v9(const struct plugin *p, int device, void *handle, void **listener)
{
    return ((const struct nccl_net_v9 *)p->table)->listen(device, handle, listener);
}

static int connect_v9(const struct plugin *p, int device, void *handle, void **connection)
{
    void *offload = NULL;
    return ((const struct nccl_net_v9 *)p->table)->connect(device, handle, connection, &offload);
}

static int isend_v9(const struct plugin *p, void *connection, void *data, size_t bytes,
                    void *memory, void **request)
{
    return ((const struct nccl_net_v9 *)p->table)
        ->isend(connection, data, bytes, TAG, memory, request);
}

static int ireceive_v9(const struct plugin *p, void *connection, void *data, size_t bytes,
                       void *memory, void **request)
{
    int tag = TAG;
    return ((const struct nccl_net_v9 *)p->table)
        ->ireceive(connection, 1, &data, &bytes, &tag, &memory, request);
}

SAME_ENTRIES(9)

/* --- version 10: profiler and configuration ------------------------------------------------------------------- */
static int init_v10(struct plugin *p, nccl_log *log)
{
    return ((const struct nccl_net_v10 *)p->table)->init(log, NULL);
}

static int properties_v10(const struct plugin *p, int device, struct plugin_device *to)
{
    struct nccl_device_v9 d = {0};
    int result = ((const struct nccl_net_v10 *)p->table)->properties(device, &d);
    *to = PROPERTIES(d, d.force_flush, d.message_most);
    return result;
}

static int listen_v10(const struct plugin *p, int device, void *handle, void **listener)
{
    return ((const struct nccl_net_v10 *)p->table)->listen(device, handle, listener);
}

static int connect_v10(const struct plugin *p, int device, void *handle, void **connection)
{
    void *offload = NULL;
    struct nccl_config config = p->config;
    return ((const struct nccl_net_v10 *)p->table)
        ->connect(device, &config, handle, connection, &offload);
}

static int isend_v10(const struct plugin *p, void *connection, void *data, size_t bytes,
                     void *memory, void **request)
{
    return ((const struct nccl_net_v10 *)p->table)
        ->isend(connection, data, bytes, TAG, memory, NULL, request);
}

static int ireceive_v10(const struct plugin *p, void *connection, void *data, size_t bytes,
                        void *memory, void **request)
{
    int tag = TAG;
    void *profile = NULL;
    return ((const struct nccl_net_v10 *)p->table)
        ->ireceive(connection, 1, &data, &bytes, &tag, &memory, &profile, request);
}

SAME_ENTRIES(10)

/* --- versions 11 and 12: contexts -------------------------------------------------------------------------------- */
static int init_v11(struct plugin *p, nccl_log *log)
{
    return ((const struct nccl_net_v11 *)p->table)->init(&p->context, 0, &p->config, log, NULL);
}

static int properties_v11(const struct plugin *p, int device, struct plugin_device *to)
{
    struct nccl_device_v11 d = {0};
    int result = ((const struct nccl_net_v11 *)p->table)->properties(device, &d);
    *to = PROPERTIES(d, d.force_flush, d.message_most);
    return result;
}

static int properties_v12(const struct plugin *p, int device, struct plugin_device *to)
{
    struct nccl_device_v12 d = {0};
    int result = ((const struct nccl_net_v11 *)p->table)->properties(device, &d);
    *to = PROPERTIES(d, d.force_flush, d.message_most);
    return result;
}

static int listen_v11(const struct plugin *p, int device, void *handle, void **listener)
{
    return ((const struct nccl_net_v11 *)p->table)->listen(p->context, device, handle, listener);
}

static int connect_v11(const struct plugin *p, int device, void *handle, void **connection)
{
    void *offload = NULL;
    return ((const struct nccl_net_v11 *)p->table)
        ->connect(p->context, device, handle, connection, &offload);
}

static int isend_v11(const struct plugin *p, void *connection, void *data, size_t bytes,
                     void *memory, void **request)
{
    return ((const struct nccl_net_v11 *)p->table)
        ->isend(connection, data, bytes, TAG, memory, NULL, request);
}

static int ireceive_v11(const struct plugin *p, void *connection, void *data, size_t bytes,
                        void *memory, void **request)
{
    int tag = TAG;
    void *profile = NULL;
    return ((const struct nccl_net_v11 *)p->table)
        ->ireceive(connection, 1, &data, &bytes, &tag, &memory, &profile, request);
}

static int finalize_v11(const struct plugin *p)
{
    const struct nccl_net_v11 *table = p->table;
    return table->finalize ? table->finalize(p->context) : NCCL_SUCCESS;
}

SAME_ENTRIES(11)

/* --- all of them ----------------------------------------------------------------------------------------------------- */
static const struct plugin_ops v8 = {
    .symbol = "ncclNetPlugin_v8", FILLED(8), .properties = properties_v8};
static const struct plugin_ops v9 = {
    .symbol = "ncclNetPlugin_v9", FILLED(9), .properties = properties_v9};
static const struct plugin_ops v10 = {
    .symbol = "ncclNetPlugin_v10", FILLED(10), .properties = properties_v10};
static const struct plugin_ops v11 = {.symbol = "ncclNetPlugin_v11",
                                      FILLED(11),
                                      .properties = properties_v11,
                                      .finalize = finalize_v11};
static const struct plugin_ops v12 = {.symbol = "ncclNetPlugin_v12",
                                      FILLED(11),
                                      .properties = properties_v12,
                                      .finalize = finalize_v11};
const struct plugin_ops *const plugin_versions[] = {&v12, &v11, &v10, &v9, &v8, NULL};

const char *plugin_table_name(const void *table)
{
    const char *name;
    memcpy(&name, table, sizeof(name));
    return name && *name ? name : "unnamed";
}

const char *plugin_result_text(int result)
{
    static const char *const text[] = {"success",        "unhandled CUDA error", "system error",
                                       "internal error", "invalid argument",     "invalid usage",
                                       "remote error",   "in progress"};
    return result >= 0 && result < (int)base_count(text) ? text[result] : "unknown error";
}
