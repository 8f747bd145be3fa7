/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profiler_abi.h: what a profiler plug-in for NCCL exports, ncclProfiler_v5 or ncclProfiler_v4, and the structures it is handed.
 * Declared anew from the layouts of NCCL 2.26 to 2.30 on 64-bit Linux; results are ncclResult_t, 0 is success. Names are ours.
 */
#ifndef SHIMS_NCCL_PROFILER_ABI_H
#define SHIMS_NCCL_PROFILER_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROFILER_SYMBOL_V5 "ncclProfiler_v5"
#define PROFILER_SYMBOL_V4 "ncclProfiler_v4"

/* Types of events, bits of the mask that a plug-in gives. Those from GROUP_API on came with version 5. */
enum profiler_type {
    PROFILER_GROUP = 1,
    PROFILER_COLL = 1 << 1,
    PROFILER_P2P = 1 << 2,
    PROFILER_PROXY_OP = 1 << 3,
    PROFILER_PROXY_STEP = 1 << 4,
    PROFILER_PROXY_CTRL = 1 << 5,
    PROFILER_KERNEL_CH = 1 << 6,
    PROFILER_NET_PLUGIN = 1 << 7,
    PROFILER_GROUP_API = 1 << 8,
    PROFILER_COLL_API = 1 << 9,
    PROFILER_P2P_API = 1 << 10,
    PROFILER_KERNEL_LAUNCH = 1 << 11
};

/* What an event has come to; those that are told here. */
enum profiler_state {
    PROFILER_PROXY_OP_IN_PROGRESS = 19,
    PROFILER_KERNEL_CH_STOP = 22,
    PROFILER_GROUP_API_START_STOP = 23,
    PROFILER_GROUP_API_END_START = 24
};

/* --- what events are told with --------------------------------------------------------------------------- */

struct profiler_coll_4 {
    uint64_t sequence;
    const char *func;
    const void *send;
    void *recv;
    size_t count;
    int root;
    const char *datatype;
    uint8_t channels, warps;
    const char *algo, *proto;
};
struct profiler_p2p_4 {
    const char *func;
    void *buffer;
    const char *datatype;
    size_t count;
    int peer;
    uint8_t channels;
};
struct profiler_proxy_op {
    pid_t pid;
    uint8_t channel;
    int peer, steps, chunk_bytes, is_send;
};
struct profiler_kernel_ch {
    uint8_t channel;
    uint64_t gpu_ns; /* the GPU's globaltimer */
};
struct profiler_net_plugin {
    int64_t id;
    void *data;
};

struct profiler_event_4 {
    uint8_t type;
    void *parent;
    int rank;
    union {
        struct profiler_coll_4 coll;
        struct profiler_p2p_4 p2p;
        struct profiler_proxy_op proxy_op;
        int proxy_step;
        struct profiler_kernel_ch kernel_ch;
        struct profiler_net_plugin net_plugin;
    };
};

struct profiler_coll_api {
    const char *func;
    size_t count;
    const char *datatype;
    int root;
    void *stream;
    bool captured;
};
struct profiler_p2p_api {
    const char *func;
    size_t count;
    const char *datatype;
    void *stream;
    bool captured;
};
/* Version 5 adds the event of the group, since the parent is that of the call. */
struct profiler_coll_5 {
    struct profiler_coll_4 v4;
    void *group;
};
struct profiler_p2p_5 {
    const char *func;
    void *buffer;
    const char *datatype;
    size_t count;
    int peer;
    uint8_t channels;
    void *group;
};
struct profiler_event_5 {
    uint64_t type;
    void *parent;
    int rank;
    union {
        struct {
            bool captured;
            int depth;
        } group_api;
        struct profiler_coll_api coll_api;
        struct profiler_p2p_api p2p_api;
        struct {
            void *stream;
        } kernel_launch;
        struct profiler_coll_5 coll;
        struct profiler_p2p_5 p2p;
        struct profiler_proxy_op proxy_op;
        int proxy_step;
        struct profiler_kernel_ch kernel_ch;
        struct profiler_net_plugin net_plugin;
    };
};

/* With a state, in both versions. */
union profiler_state_args {
    size_t transferred; /* proxy step */
    int appended;       /* proxy control */
    void *data;         /* net plug-in */
    uint64_t gpu_ns;    /* end of a kernel channel */
};

/* --- what a plug-in exports ------------------------------------------------------------------------------- */

enum profiler_log { /* levels of its log function */
                    PROFILER_LOG_NONE,
                    PROFILER_LOG_VERSION,
                    PROFILER_LOG_WARN,
                    PROFILER_LOG_INFO,
                    PROFILER_LOG_ABORT,
                    PROFILER_LOG_TRACE
};
typedef void (*profiler_log_fn)(enum profiler_log level, unsigned long subsystems, const char *file,
                                int line, const char *format, ...);

struct profiler_plugin_5 {
    const char *name;
    int (*init)(void **context, uint64_t comm, int *mask, const char *comm_name, int nodes,
                int ranks, int rank, profiler_log_fn log);
    int (*start)(void *context, void **handle, struct profiler_event_5 *event);
    int (*stop)(void *handle);
    int (*record)(void *handle, enum profiler_state state, union profiler_state_args *args);
    int (*finalize)(void *context);
};
struct profiler_plugin_4 {
    const char *name;
    int (*init)(void **context, int *mask, const char *comm_name, uint64_t comm, int nodes,
                int ranks, int rank, profiler_log_fn log);
    int (*start)(void *context, void **handle, struct profiler_event_4 *event);
    int (*stop)(void *handle);
    int (*record)(void *handle, enum profiler_state state, union profiler_state_args *args);
    int (*finalize)(void *context);
};

#endif
