/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choir.h: collective communication among processes and threads, on host memory.
 *
 * Everything a user needs. N is the number of ranks of a communicator; counts are in elements and
 * 64 bits wide.
 */
#ifndef CHOIR_H
#define CHOIR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CHOIR_VERSION_MAJOR 0
#define CHOIR_VERSION_MINOR 1
#define CHOIR_VERSION_PATCH 0

#if defined(CHOIR_BUILDING) && defined(__GNUC__)
#define CHOIR_API __attribute__((visibility("default")))
#else
#define CHOIR_API
#endif

/* ------------------------------------------------------------------------------------------------
 * Status codes
 * ---------------------------------------------------------------------------------------------- */

/* 0 is success, 1 is "started, not ended", negatives are grouped by the largest thing they damage:
 * the call, the peer, the transport, the communicator. X(name, value, text). */
#define CHOIR_STATUS_LIST(X)                                                                       \
    X(OK, 0, "success")                                                                            \
    X(IN_PROGRESS, 1, "in progress")                                                               \
    X(ERR_ARGUMENT, -1, "invalid argument")                                                        \
    X(ERR_RANK, -2, "invalid rank, peer or root")                                                  \
    X(ERR_TYPE, -3, "invalid data type")                                                           \
    X(ERR_OP, -4, "invalid reduction operation, or not defined for the type")                      \
    X(ERR_COUNT, -5, "invalid count")                                                              \
    X(ERR_POINTER, -6, "invalid pointer")                                                          \
    X(ERR_UNSUPPORTED, -7, "not supported")                                                        \
    X(ERR_NO_MEMORY, -8, "out of memory")                                                          \
    X(ERR_BUSY, -9, "object used concurrently")                                                    \
    X(ERR_STATE, -10, "call not allowed in this state")                                            \
    X(ERR_PEER_DEAD, -20, "a peer process is gone")                                                \
    X(ERR_PEER_MISSING, -21, "a peer did not arrive")                                              \
    X(ERR_MISMATCH, -22, "ranks called different operations")                                      \
    X(ERR_TRUNCATED, -23, "message longer than the receive buffer")                                \
    X(ERR_NETWORK, -40, "network error")                                                           \
    X(ERR_SYSTEM, -41, "system call failed")                                                       \
    X(ERR_AUTH, -42, "authentication failed")                                                      \
    X(ERR_PROTOCOL, -43, "protocol error")                                                         \
    X(ERR_TIMEOUT, -60, "deadline passed")                                                         \
    X(ERR_ABORTED, -61, "communicator aborted")                                                    \
    X(ERR_REVOKED, -62, "communicator revoked")                                                    \
    X(ERR_FORKED, -63, "communicator belongs to the parent process")                               \
    X(ERR_INTERNAL, -64, "internal error")

enum choir_status {
#define CHOIR_STATUS_ENUM(name, value, text) CHOIR_##name = value,
    CHOIR_STATUS_LIST(CHOIR_STATUS_ENUM)
#undef CHOIR_STATUS_ENUM
};

CHOIR_API const char *choir_status_string(enum choir_status status);
CHOIR_API const char *choir_status_name(enum choir_status status);
CHOIR_API uint32_t choir_version(void);

/* ------------------------------------------------------------------------------------------------
 * Types and operations
 * ---------------------------------------------------------------------------------------------- */

/* X(name, value, bytes) */
#define CHOIR_TYPE_LIST(X)                                                                         \
    X(INT8, 0, 1)                                                                                  \
    X(UINT8, 1, 1)                                                                                 \
    X(INT16, 2, 2) X(UINT16, 3, 2) X(INT32, 4, 4) X(UINT32, 5, 4) X(INT64, 6, 8) X(UINT64, 7, 8)   \
        X(FLOAT16, 8, 2) X(BFLOAT16, 9, 2) X(FLOAT32, 10, 4) X(FLOAT64, 11, 8)                     \
            X(FLOAT8_E4M3, 12, 1) X(FLOAT8_E5M2, 13, 1)

enum choir_type {
#define CHOIR_TYPE_ENUM(name, value, bytes) CHOIR_##name = value,
    CHOIR_TYPE_LIST(CHOIR_TYPE_ENUM)
#undef CHOIR_TYPE_ENUM
        CHOIR_TYPES
};

/* X(name, value). Bitwise and logical ones on integers only. Operations made by choir_op_create_*
 * have other values. */
#define CHOIR_OP_LIST(X)                                                                           \
    X(SUM, 0)                                                                                      \
    X(PROD, 1)                                                                                     \
    X(MIN, 2) X(MAX, 3) X(AVG, 4) X(BAND, 5) X(BOR, 6) X(BXOR, 7) X(LAND, 8) X(LOR, 9) X(LXOR, 10)

typedef uint32_t choir_op;
enum choir_op_builtin {
#define CHOIR_OP_ENUM(name, value) CHOIR_##name = value,
    CHOIR_OP_LIST(CHOIR_OP_ENUM)
#undef CHOIR_OP_ENUM
        CHOIR_OPS
};

CHOIR_API size_t choir_type_bytes(enum choir_type type);
CHOIR_API const char *choir_type_name(enum choir_type type);
CHOIR_API const char *choir_op_name(choir_op op);

typedef struct choir_comm choir_comm;
typedef struct choir_stream choir_stream;
typedef struct choir_event choir_event;
typedef struct choir_region choir_region;
typedef struct choir_window choir_window;

/* inout[i] = inout[i] op in[i] in rank order: inout holds the lower ranks. */
typedef void (*choir_reduce_fn)(void *inout, const void *in, uint64_t count, enum choir_type type,
                                void *context);

CHOIR_API enum choir_status choir_op_create_scaled(choir_comm *comm, const void *scale,
                                                   enum choir_type type, choir_op *op);
CHOIR_API enum choir_status choir_op_create_user(choir_comm *comm, choir_reduce_fn fn,
                                                 void *context, int commutative, choir_op *op);
CHOIR_API enum choir_status choir_op_destroy(choir_comm *comm, choir_op op);

/* ------------------------------------------------------------------------------------------------
 * Errors
 * ---------------------------------------------------------------------------------------------- */

struct choir_error {
    uint32_t bytes; /* sizeof(struct choir_error), set by the caller */
    enum choir_status status;
    int32_t rank;      /* the rank that found it, or -1 */
    int32_t peer;      /* the rank it concerns, or -1 */
    uint64_t sequence; /* number of the operation on this communicator, from 1; 0: none */
    int32_t sys_errno;
    char transport[16];
    char text[256];   /* what happened */
    char remedy[256]; /* what to do about it */
};

/* The last error of the communicator; comm NULL: of this thread's last failed call without a
 * communicator. */
CHOIR_API enum choir_status choir_comm_last_error(choir_comm *comm, struct choir_error *error);

/* ------------------------------------------------------------------------------------------------
 * Communicators
 * ---------------------------------------------------------------------------------------------- */

#define CHOIR_ID_BYTES 128
struct choir_id {
    char bytes[CHOIR_ID_BYTES];
};

#define CHOIR_CONFIG_VERSION 1
struct choir_config {
    uint32_t bytes;   /* sizeof(struct choir_config) */
    uint32_t version; /* CHOIR_CONFIG_VERSION */
    int32_t blocking; /* 1: calls return when done; 0: life calls return CHOIR_IN_PROGRESS */
    int32_t
        deterministic; /* 1: result bits depend on inputs and N only, not on size, layout or run */
    int32_t aggregate_v;        /* 1: v-forms may run a count plan first and aggregate */
    int32_t restorable;         /* 1: inputs of a failed in-place operation are restored */
    uint64_t timeout_ns;        /* 0: CHOIR_TIMEOUT */
    uint64_t create_timeout_ns; /* 0: CHOIR_CREATE_TIMEOUT */
    const char *name;           /* for logs; NULL: none */
};
#define CHOIR_CONFIG_INIT                                                                          \
    {                                                                                              \
        sizeof(struct choir_config), CHOIR_CONFIG_VERSION, 1, 0, 0, 0, 0, 0, NULL                  \
    }

CHOIR_API enum choir_status choir_id_create(struct choir_id *id);
CHOIR_API enum choir_status choir_comm_create(const struct choir_id *id, int rank, int size,
                                              const struct choir_config *config, choir_comm **comm);
CHOIR_API enum choir_status choir_comm_create_auto(const struct choir_config *config,
                                                   choir_comm **comm);
#define CHOIR_COLOR_NONE (-1)
CHOIR_API enum choir_status choir_comm_split(choir_comm *comm, int color, int key,
                                             const struct choir_config *config, choir_comm **child);
CHOIR_API enum choir_status choir_comm_shrink(choir_comm *comm, const int *exclude,
                                              int exclude_count, const struct choir_config *config,
                                              choir_comm **child);
CHOIR_API enum choir_status choir_comm_grow(choir_comm *comm, const struct choir_id *id, int rank,
                                            int size, const struct choir_config *config,
                                            choir_comm **grown);
CHOIR_API enum choir_status choir_comm_revoke(choir_comm *comm);
CHOIR_API enum choir_status choir_comm_finalize(choir_comm *comm);
CHOIR_API enum choir_status choir_comm_destroy(choir_comm *comm);
CHOIR_API enum choir_status choir_comm_abort(choir_comm *comm);
CHOIR_API enum choir_status choir_comm_status(choir_comm *comm);
CHOIR_API enum choir_status choir_comm_rank(choir_comm *comm, int *rank);
CHOIR_API enum choir_status choir_comm_size(choir_comm *comm, int *size);

struct choir_memory {
    uint32_t bytes;                       /* sizeof(struct choir_memory), set by the caller */
    uint64_t private_bytes, shared_bytes; /* held by this communicator on this rank */
    uint32_t plans, peers;                /* cached plans; peers with a link */
};
CHOIR_API enum choir_status choir_comm_memory(choir_comm *comm, struct choir_memory *memory);

/* ------------------------------------------------------------------------------------------------
 * Collectives. `stream` NULL: the call returns when done.
 * ---------------------------------------------------------------------------------------------- */

struct choir_call {
    uint32_t bytes;       /* sizeof(struct choir_call) */
    uint32_t flags;       /* 0 */
    uint64_t deadline_ns; /* from the call on; 0: the communicator's */
};

CHOIR_API enum choir_status choir_all_reduce(choir_comm *comm, const void *send, void *recv,
                                             uint64_t count, enum choir_type type, choir_op op,
                                             choir_stream *stream);
CHOIR_API enum choir_status choir_reduce(choir_comm *comm, const void *send, void *recv,
                                         uint64_t count, enum choir_type type, choir_op op,
                                         int root, choir_stream *stream);
CHOIR_API enum choir_status choir_broadcast(choir_comm *comm, const void *send, void *recv,
                                            uint64_t count, enum choir_type type, int root,
                                            choir_stream *stream);
CHOIR_API enum choir_status choir_all_gather(choir_comm *comm, const void *send, void *recv,
                                             uint64_t count, enum choir_type type,
                                             choir_stream *stream);
CHOIR_API enum choir_status choir_reduce_scatter(choir_comm *comm, const void *send, void *recv,
                                                 uint64_t count, enum choir_type type, choir_op op,
                                                 choir_stream *stream);
CHOIR_API enum choir_status choir_all_to_all(choir_comm *comm, const void *send, void *recv,
                                             uint64_t count, enum choir_type type,
                                             choir_stream *stream);
CHOIR_API enum choir_status choir_gather(choir_comm *comm, const void *send, void *recv,
                                         uint64_t count, enum choir_type type, int root,
                                         choir_stream *stream);
CHOIR_API enum choir_status choir_scatter(choir_comm *comm, const void *send, void *recv,
                                          uint64_t count, enum choir_type type, int root,
                                          choir_stream *stream);
CHOIR_API enum choir_status choir_barrier(choir_comm *comm, choir_stream *stream);
CHOIR_API enum choir_status choir_send(choir_comm *comm, const void *send, uint64_t count,
                                       enum choir_type type, int peer, choir_stream *stream);
CHOIR_API enum choir_status choir_recv(choir_comm *comm, void *recv, uint64_t count,
                                       enum choir_type type, int peer, choir_stream *stream);

/* V-forms: offsets in elements; NULL: packed in rank order. */
CHOIR_API enum choir_status choir_all_gather_v(choir_comm *comm, const void *send, void *recv,
                                               const uint64_t *counts, const uint64_t *offsets,
                                               enum choir_type type, choir_stream *stream);
CHOIR_API enum choir_status choir_reduce_scatter_v(choir_comm *comm, const void *send, void *recv,
                                                   const uint64_t *counts, const uint64_t *offsets,
                                                   enum choir_type type, choir_op op,
                                                   choir_stream *stream);
CHOIR_API enum choir_status choir_all_to_all_v(choir_comm *comm, const void *send,
                                               const uint64_t *send_counts,
                                               const uint64_t *send_offsets, void *recv,
                                               const uint64_t *recv_counts,
                                               const uint64_t *recv_offsets, enum choir_type type,
                                               choir_stream *stream);
CHOIR_API enum choir_status choir_gather_v(choir_comm *comm, const void *send, uint64_t send_count,
                                           void *recv, const uint64_t *counts,
                                           const uint64_t *offsets, enum choir_type type, int root,
                                           choir_stream *stream);
CHOIR_API enum choir_status choir_scatter_v(choir_comm *comm, const void *send,
                                            const uint64_t *counts, const uint64_t *offsets,
                                            void *recv, uint64_t recv_count, enum choir_type type,
                                            int root, choir_stream *stream);

/* The _x form of every collective has one more argument, const struct choir_call *; NULL: none. */
CHOIR_API enum choir_status choir_all_reduce_x(choir_comm *comm, const void *send, void *recv,
                                               uint64_t count, enum choir_type type, choir_op op,
                                               choir_stream *stream, const struct choir_call *call);
CHOIR_API enum choir_status choir_reduce_x(choir_comm *comm, const void *send, void *recv,
                                           uint64_t count, enum choir_type type, choir_op op,
                                           int root, choir_stream *stream,
                                           const struct choir_call *call);
CHOIR_API enum choir_status choir_broadcast_x(choir_comm *comm, const void *send, void *recv,
                                              uint64_t count, enum choir_type type, int root,
                                              choir_stream *stream, const struct choir_call *call);
CHOIR_API enum choir_status choir_all_gather_x(choir_comm *comm, const void *send, void *recv,
                                               uint64_t count, enum choir_type type,
                                               choir_stream *stream, const struct choir_call *call);
CHOIR_API enum choir_status choir_reduce_scatter_x(choir_comm *comm, const void *send, void *recv,
                                                   uint64_t count, enum choir_type type,
                                                   choir_op op, choir_stream *stream,
                                                   const struct choir_call *call);
CHOIR_API enum choir_status choir_all_to_all_x(choir_comm *comm, const void *send, void *recv,
                                               uint64_t count, enum choir_type type,
                                               choir_stream *stream, const struct choir_call *call);
CHOIR_API enum choir_status choir_gather_x(choir_comm *comm, const void *send, void *recv,
                                           uint64_t count, enum choir_type type, int root,
                                           choir_stream *stream, const struct choir_call *call);
CHOIR_API enum choir_status choir_scatter_x(choir_comm *comm, const void *send, void *recv,
                                            uint64_t count, enum choir_type type, int root,
                                            choir_stream *stream, const struct choir_call *call);
CHOIR_API enum choir_status choir_barrier_x(choir_comm *comm, choir_stream *stream,
                                            const struct choir_call *call);
CHOIR_API enum choir_status choir_send_x(choir_comm *comm, const void *send, uint64_t count,
                                         enum choir_type type, int peer, choir_stream *stream,
                                         const struct choir_call *call);
CHOIR_API enum choir_status choir_recv_x(choir_comm *comm, void *recv, uint64_t count,
                                         enum choir_type type, int peer, choir_stream *stream,
                                         const struct choir_call *call);
CHOIR_API enum choir_status choir_all_gather_v_x(choir_comm *comm, const void *send, void *recv,
                                                 const uint64_t *counts, const uint64_t *offsets,
                                                 enum choir_type type, choir_stream *stream,
                                                 const struct choir_call *call);
CHOIR_API enum choir_status choir_reduce_scatter_v_x(choir_comm *comm, const void *send, void *recv,
                                                     const uint64_t *counts,
                                                     const uint64_t *offsets, enum choir_type type,
                                                     choir_op op, choir_stream *stream,
                                                     const struct choir_call *call);
CHOIR_API enum choir_status choir_all_to_all_v_x(
    choir_comm *comm, const void *send, const uint64_t *send_counts, const uint64_t *send_offsets,
    void *recv, const uint64_t *recv_counts, const uint64_t *recv_offsets, enum choir_type type,
    choir_stream *stream, const struct choir_call *call);
CHOIR_API enum choir_status choir_gather_v_x(choir_comm *comm, const void *send,
                                             uint64_t send_count, void *recv,
                                             const uint64_t *counts, const uint64_t *offsets,
                                             enum choir_type type, int root, choir_stream *stream,
                                             const struct choir_call *call);
CHOIR_API enum choir_status choir_scatter_v_x(choir_comm *comm, const void *send,
                                              const uint64_t *counts, const uint64_t *offsets,
                                              void *recv, uint64_t recv_count, enum choir_type type,
                                              int root, choir_stream *stream,
                                              const struct choir_call *call);

CHOIR_API enum choir_status choir_group_start(void);
CHOIR_API enum choir_status choir_group_end(void);

/* ------------------------------------------------------------------------------------------------
 * Streams and events
 * ---------------------------------------------------------------------------------------------- */

CHOIR_API enum choir_status choir_stream_create(choir_stream **stream);
CHOIR_API enum choir_status choir_stream_destroy(choir_stream *stream);
CHOIR_API enum choir_status choir_stream_wait(choir_stream *stream);
CHOIR_API enum choir_status choir_stream_query(choir_stream *stream);
CHOIR_API enum choir_status choir_stream_wait_event(choir_stream *stream, choir_event *event);
CHOIR_API enum choir_status choir_event_create(choir_event **event);
CHOIR_API enum choir_status choir_event_destroy(choir_event *event);
CHOIR_API enum choir_status choir_event_record(choir_event *event, choir_stream *stream);
CHOIR_API enum choir_status choir_event_wait(choir_event *event);
CHOIR_API enum choir_status choir_event_query(choir_event *event);

/* ------------------------------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------------------------- */

CHOIR_API enum choir_status choir_mem_alloc(size_t bytes, void **memory);
CHOIR_API enum choir_status choir_mem_free(void *memory);
CHOIR_API enum choir_status choir_register(choir_comm *comm, void *memory, size_t bytes,
                                           choir_region **region);
CHOIR_API enum choir_status choir_deregister(choir_comm *comm, choir_region *region);
CHOIR_API enum choir_status choir_window_create(choir_comm *comm, void *memory, size_t bytes,
                                                choir_window **window);
CHOIR_API enum choir_status choir_window_destroy(choir_window *window);
CHOIR_API enum choir_status choir_window_pointer(choir_window *window, int peer, void **memory,
                                                 size_t *bytes);

#ifdef __cplusplus
}
#endif
#endif
