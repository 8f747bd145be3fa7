/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net_tables.h: the last part of net.c, which alone includes it: the table of each version, and what its entries have
 * beside the common ones.
 */
#ifndef TESTS_PLUGIN_NET_TABLES_H
#define TESTS_PLUGIN_NET_TABLES_H

/* --- the tables --------------------------------------------------------------------------------------------------------- */
#define DEVICE(d, n)                                                                               \
    do {                                                                                           \
        RULE(inits);                                                                               \
        (d)->name = (n) ? "test1" : "test0", (d)->pci_path = NULL, (d)->guid = 7 + (uint64_t)(n);  \
        (d)->memory = (int)setting("CHOIR_TEST_NET_MEMORY", NCCL_MEMORY_HOST);                     \
        (d)->speed = 200000, (d)->port = 1, (d)->latency = 1.5f, (d)->receives_most = 1;           \
        (d)->connections_most = (int)setting("CHOIR_TEST_NET_CONNECTIONS", 1000);                  \
    } while (0)
#define COMMON_ENTRIES                                                                             \
    .name = NET_VERSION == 9 ? "other" : "test", .devices = devices, .accept = accept_from,        \
    .register_memory = register_memory, .register_dmabuf = never,                                  \
    .deregister_memory = deregister_memory, .flush = never, .test = test_request,                  \
    .close_send = close_send, .close_receive = close_receive, .close_listen = close_listen,        \
    .device_memory = never, .receive_consumed = never
#define EXPORT __attribute__((visibility("default")))

#if NET_VERSION == 8
static int properties(int device, struct nccl_device_v8 *d)
{
    DEVICE(d, device);
    return NCCL_SUCCESS;
}
static int isend(void *c, void *data, int bytes, int tag, void *memory, void **request)
{
    return send_request(c, data, (size_t)bytes, tag, memory, request);
}
static int ireceive(void *c, int n, void **data, int *bytes, int *tags, void **memory,
                    void **request)
{
    return receive_request(c, n, data, (size_t)bytes[0], tags, memory, request);
}
extern struct nccl_net_v8 ncclNetPlugin_v8;
EXPORT struct nccl_net_v8 ncclNetPlugin_v8 = {
    COMMON_ENTRIES,        .init = begin,  .properties = properties, .listen = listen_at,
    .connect = connect_to, .isend = isend, .ireceive = ireceive};
#elif NET_VERSION == 9
static int properties(int device, struct nccl_device_v9 *d)
{
    DEVICE(d, device);
    d->message_most = 20000; /* smaller than a buffer */
    return NCCL_SUCCESS;
}
static int ireceive(void *c, int n, void **data, size_t *bytes, int *tags, void **memory,
                    void **request)
{
    return receive_request(c, n, data, bytes[0], tags, memory, request);
}
extern struct nccl_net_v9 ncclNetPlugin_v9;
EXPORT struct nccl_net_v9 ncclNetPlugin_v9 = {
    COMMON_ENTRIES,        .init = begin,         .properties = properties, .listen = listen_at,
    .connect = connect_to, .isend = send_request, .ireceive = ireceive,     .merge_devices = never};
#else
static int isend(void *c, void *data, size_t bytes, int tag, void *memory, void *profile,
                 void **request)
{
    RULE(!profile);
    return send_request(c, data, bytes, tag, memory, request);
}
static int ireceive(void *c, int n, void **data, size_t *bytes, int *tags, void **memory,
                    void **profile, void **request)
{
    RULE(profile && !profile[0]);
    return receive_request(c, n, data, bytes[0], tags, memory, request);
}
#endif

#if NET_VERSION == 10
static int init(nccl_log *log, nccl_profile *profile)
{
    RULE(!profile);
    return begin(log);
}
static int properties(int device, struct nccl_device_v9 *d)
{
    DEVICE(d, device);
    d->message_most = (size_t)1 << 40;
    return NCCL_SUCCESS;
}
static int connect_v10(int device, struct nccl_config *config, void *handle, void **connection,
                       void **offload)
{
    RULE(config && config->traffic_class == NCCL_NO_TRAFFIC_CLASS);
    return connect_to(device, handle, connection, offload);
}
extern struct nccl_net_v10 ncclNetPlugin_v10;
EXPORT struct nccl_net_v10 ncclNetPlugin_v10 = {
    COMMON_ENTRIES,         .init = init,   .properties = properties, .listen = listen_at,
    .connect = connect_v10, .isend = isend, .ireceive = ireceive,     .merge_devices = never};
#elif NET_VERSION >= 11
static int init(void **context, uint64_t communicator, struct nccl_config *config, nccl_log *log,
                nccl_profile *profile)
{
    RULE(context && config && !profile);
    (void)communicator;
    *context = &inits;
    return begin(log);
}
#if NET_VERSION == 11
static int properties(int device, void *to)
{
    struct nccl_device_v11 *d = to;
#else
static int properties(int device, void *to)
{
    struct nccl_device_v12 *d = to;
    d->rail = d->plane = -1;
#endif
    DEVICE(d, device);
    d->message_most = (size_t)1 << 40;
    d->multi_request_most = 1;
    return NCCL_SUCCESS;
}
static int listen_v11(void *context, int device, void *handle, void **listener)
{
    RULE(context == &inits);
    return listen_at(device, handle, listener);
}
static int connect_v11(void *context, int device, void *handle, void **connection, void **offload)
{
    RULE(context == &inits);
    return connect_to(device, handle, connection, offload);
}
static int finalize(void *context)
{
    RULE(context == &inits);
    RULE(!live_connections && !live_listeners && !live_regions);
    return NCCL_SUCCESS;
}
#if NET_VERSION == 11
#define TABLE ncclNetPlugin_v11
#else
#define TABLE ncclNetPlugin_v12
#endif
extern struct nccl_net_v11 TABLE;
EXPORT struct nccl_net_v11 TABLE = {COMMON_ENTRIES,           .init = init,
                                    .properties = properties, .listen = listen_v11,
                                    .connect = connect_v11,   .isend = isend,
                                    .ireceive = ireceive,     .merge_devices = never,
                                    .finalize = finalize,     .set_attributes = never};
#endif

#endif
