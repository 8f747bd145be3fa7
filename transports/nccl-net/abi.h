/* SPDX-License-Identifier: Apache-2.0 */
/*
 * abi.h: the binary interface of NCCL's net plug-ins, versions 8 to 12: tables that a shared object exports as
 * ncclNetPlugin_v8 ... _v12. Written from the layouts as facts; entries that Choir does not call have no type here. What
 * a version changed stands at its table; adapt.c makes one interface of them.
 */
#ifndef TRANSPORTS_NCCL_NET_ABI_H
#define TRANSPORTS_NCCL_NET_ABI_H

#include <stddef.h>
#include <stdint.h>

/* What every entry returns. */
enum nccl_result {
    NCCL_SUCCESS,
    NCCL_UNHANDLED_CUDA_ERROR,
    NCCL_SYSTEM_ERROR,
    NCCL_INTERNAL_ERROR,
    NCCL_INVALID_ARGUMENT,
    NCCL_INVALID_USAGE,
    NCCL_REMOTE_ERROR,
    NCCL_IN_PROGRESS
};

#define NCCL_HANDLE_BYTES 128     /* of a listener: what connect needs */
#define NCCL_REQUESTS_MOST 32     /* under way on a connection */
#define NCCL_SIZE_MOST 0x3fffffff /* of a message, where sizes are ints */
#define NCCL_MEMORY_HOST 1        /* of memory that is registered; bits of `memory` */
#define NCCL_NO_TRAFFIC_CLASS (-1)

enum nccl_log_level { NCCL_LOG_NONE, NCCL_LOG_VERSION, NCCL_LOG_WARN, NCCL_LOG_INFO };
typedef void nccl_log(int level, unsigned long subsystems, const char *file, int line,
                      const char *format, ...);
/* Events for a profiler; may be NULL. */
typedef int nccl_profile(void **event, int type, void *handle, int64_t plugin, void *data);
typedef void (*nccl_uncalled)(void);

struct nccl_config { /* versions 10 on */
    int traffic_class;
};

/* --- what a device is like ------------------------------------------------------------------------------ */
struct nccl_device_v8 {
    char *name, *pci_path; /* in /sys */
    uint64_t guid;
    int memory;        /* kinds that can be registered */
    int global_memory; /* a registration holds for all connections */
    int speed;         /* Mbit/s */
    int port;
    float latency;
    int connections_most;
    int receives_most; /* in one request */
    int offload, offload_version;
};

/* force_flush: after receives into GPU memory; sizes are 64 bits wide. */
#define NCCL_DEVICE_SINCE_V9(parts)                                                                \
    char *name, *pci_path;                                                                         \
    uint64_t guid;                                                                                 \
    int memory, global_memory, force_flush, speed, port;                                           \
    float latency;                                                                                 \
    int connections_most, receives_most, offload, offload_version;                                 \
    struct {                                                                                       \
        int count, device[parts];                                                                  \
    } merged;                                                                                      \
    size_t message_most, collective_most

struct nccl_device_v9 { /* and version 10 */
    NCCL_DEVICE_SINCE_V9(4);
};
struct nccl_device_v11 {
    NCCL_DEVICE_SINCE_V9(4);
    int multi_request_most;
};
struct nccl_device_v12 {
    NCCL_DEVICE_SINCE_V9(8);
    int multi_request_most;
    int16_t rail, plane;
};

/* --- entries that are alike in all versions --------------------------------------------------------------- */
/* accept: connection NULL on success: not yet, ask again. offload: where a handle for GPU code would go. */
#define NCCL_ACCEPT_AND_MEMORY                                                                     \
    int (*accept)(void *listener, void **connection, void **offload);                              \
    int (*register_memory)(void *connection, void *data, size_t bytes, int kind, void **memory);   \
    nccl_uncalled register_dmabuf;                                                                 \
    int (*deregister_memory)(void *connection, void *memory)
/* test: sizes as received, or sent. A request that is done is freed. */
#define NCCL_TEST_AND_CLOSE                                                                        \
    nccl_uncalled flush;                                                                           \
    int (*test)(void *request, int *done, int *sizes);                                             \
    int (*close_send)(void *connection);                                                           \
    int (*close_receive)(void *connection);                                                        \
    int (*close_listen)(void *listener);                                                           \
    nccl_uncalled device_memory, receive_consumed

/* --- the tables ------------------------------------------------------------------------------------------- */
/* connect: connection NULL on success: not yet. isend, ireceive: request NULL on success: no room now, ask again. */
struct nccl_net_v8 {
    const char *name;
    int (*init)(nccl_log *log);
    int (*devices)(int *count);
    int (*properties)(int device, struct nccl_device_v8 *properties);
    int (*listen)(int device, void *handle, void **listener);
    int (*connect)(int device, void *handle, void **connection, void **offload);
    NCCL_ACCEPT_AND_MEMORY;
    int (*isend)(void *connection, void *data, int bytes, int tag, void *memory, void **request);
    int (*ireceive)(void *connection, int count, void **data, int *bytes, int *tags, void **memory,
                    void **request);
    NCCL_TEST_AND_CLOSE;
};

struct nccl_net_v9 {
    const char *name;
    int (*init)(nccl_log *log);
    int (*devices)(int *count);
    int (*properties)(int device, struct nccl_device_v9 *properties);
    int (*listen)(int device, void *handle, void **listener);
    int (*connect)(int device, void *handle, void **connection, void **offload);
    NCCL_ACCEPT_AND_MEMORY;
    int (*isend)(void *connection, void *data, size_t bytes, int tag, void *memory, void **request);
    int (*ireceive)(void *connection, int count, void **data, size_t *bytes, int *tags,
                    void **memory, void **request);
    NCCL_TEST_AND_CLOSE;
    nccl_uncalled merge_devices;
};

/* A profiler's callback, a configuration, and a profiler's handle with each request. */
struct nccl_net_v10 {
    const char *name;
    int (*init)(nccl_log *log, nccl_profile *profile);
    int (*devices)(int *count);
    int (*properties)(int device, struct nccl_device_v9 *properties);
    int (*listen)(int device, void *handle, void **listener);
    int (*connect)(int device, struct nccl_config *config, void *handle, void **connection,
                   void **offload);
    NCCL_ACCEPT_AND_MEMORY;
    int (*isend)(void *connection, void *data, size_t bytes, int tag, void *memory, void *profile,
                 void **request);
    int (*ireceive)(void *connection, int count, void **data, size_t *bytes, int *tags,
                    void **memory, void **profile, void **request);
    NCCL_TEST_AND_CLOSE;
    nccl_uncalled merge_devices;
};

/* A context for each init, ended by finalize. Version 12 differs in what a device is like only. */
struct nccl_net_v11 {
    const char *name;
    int (*init)(void **context, uint64_t communicator, struct nccl_config *config, nccl_log *log,
                nccl_profile *profile);
    int (*devices)(int *count);
    int (*properties)(int device, void *properties); /* struct nccl_device_v11 or _v12 */
    int (*listen)(void *context, int device, void *handle, void **listener);
    int (*connect)(void *context, int device, void *handle, void **connection, void **offload);
    NCCL_ACCEPT_AND_MEMORY;
    int (*isend)(void *connection, void *data, size_t bytes, int tag, void *memory, void *profile,
                 void **request);
    int (*ireceive)(void *connection, int count, void **data, size_t *bytes, int *tags,
                    void **memory, void **profile, void **request);
    NCCL_TEST_AND_CLOSE;
    nccl_uncalled merge_devices;
    int (*finalize)(void *context);
    nccl_uncalled set_attributes;
};

#endif
