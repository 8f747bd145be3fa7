/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choir.h: collective communication among processes and threads, on host memory.
 *
 * Everything a user needs. N is the number of ranks of a communicator, numbered 0 .. N-1; counts and
 * offsets are in elements and 64 bits wide; sizes are in bytes, times in nanoseconds.
 *
 * 1. Life. choir_comm_create (or _auto, _split, _shrink, _grow) makes a communicator: all its ranks call
 * it, each returns when all have come, or with an error at the creation deadline. A process may hold many
 * communicators and many ranks of one: one rank a thread, or one thread that makes several in a group.
 * choir_comm_destroy ends it: local, waits for no peer. A communicator that failed (a peer died, a
 * deadline passed, it was aborted or revoked) stays failed: every later call on it returns the same error
 * at once. choir_comm_shrink makes a working one of the survivors. No wait is endless: creation ends after
 * config.create_timeout_ns (CHOIR_CREATE_TIMEOUT, 120 s), an operation that waits for a rank after
 * choir_call.deadline_ns, else config.timeout_ns (CHOIR_TIMEOUT, 600 s); a rank that died is noticed at
 * once.
 *
 * 2. Threads. Different communicators may be used from different threads freely. One communicator is used
 * by one thread at a time (CHOIR_ERR_BUSY where two meet in it), except that choir_comm_abort, _revoke,
 * _status, _last_error, _memory, _rank and _size may be called by any thread at any time before
 * choir_comm_destroy. All ranks call the collectives of a communicator in the same order; its operations
 * run one at a time in that order, whichever host streams they are on. Each prototype says "one" or "any";
 * "one" for streams, events, windows alike.
 *
 * 3. Fork and exit. After fork the child's copy of every communicator is dead: calls on it return
 * CHOIR_ERR_FORKED, destroying it does nothing, the parent goes on undisturbed; the child may make
 * communicators of its own. Destroy is safe after MPI_Finalize and in atexit handlers, and may be left
 * out: a process that ends leaves nothing behind. A rank that returns from main or calls exit says goodbye
 * like one that destroys: others finish the operations that it took part in to their end; whoever waits
 * for it in a later one gets CHOIR_ERR_PEER_DEAD at once, naming it. _exit, abort and signals are deaths:
 * everything of its communicators ends at once.
 *
 * 4. Buffers. Any alignment, any count, also 0 (buffers may then be NULL) and more than 2^31
 * (CHOIR_ERR_COUNT: above 2^60 / N). Input and output do not overlap, but for the in-place form that each
 * call names; a buffer that a rank does not have part in ("root only" elsewhere) is ignored and may be
 * NULL. With stream NULL a call returns when its result is there and its input may be reused. With a
 * stream it returns once queued: buffers (and a scaled operation's scale) stay valid and untouched until
 * the stream has passed it; arrays of counts and offsets are copied and may be reused at once. Of an
 * operation that failed, inputs are intact out of place (in place with config.restorable), outputs
 * undefined.
 *
 * 5. V-forms. Counts differ by rank. offsets[r] is where the part of rank r begins in the buffer; NULL:
 * parts are packed in rank order. Output parts must not overlap. Offsets are local: ranks need not agree on
 * them. Counts must agree wherever two ranks state the same one, else CHOIR_ERR_MISMATCH on both (see 9).
 *
 * 6. Groups, with NCCL's meaning. Between choir_group_start and the matching choir_group_end calls are
 * only collected; at the end they run together: per communicator first its puts and signals in call order,
 * then all its sends and receives as one exchange, which cannot deadlock in any order or mix, then its
 * collectives in call order, then its waits for signals; communicators side by side. Bad arguments are
 * reported by the call and again by choir_group_end, which then runs nothing. Creations may be grouped too.
 *
 * 7. Numbers. Reductions combine with one rounding per step of the plan; 8- and 16-bit floats accumulate
 * in float32. Integer sum and product wrap. min and max propagate NaN and order -0 below +0. A NaN result
 * has one bit pattern per type and operation. Logical operations take non-zero as true and give 0 or 1.
 * e4m3 (OCP OFP8: no infinity) saturates at 448, e5m2 overflows to infinity. AVG: 8- and 16-bit floats are
 * divided by N before they are summed (their sums overflow early), float32 and float64 are divided at the
 * end, integers too, truncating toward zero. Nothing depends on the thread's rounding or flush-to-zero
 * mode, nor on the processor: ranks on unlike ones agree.
 *
 * 8. What is equal bit for bit. After all_reduce all ranks hold the same bits, always. With
 * config.deterministic the bits depend on inputs and N only, not on the count, the ranks' placement or the
 * run; without it the order of combination is chosen for speed and may change with size, placement and
 * version.
 *
 * 9. Errors. Every call returns an enum choir_status; a negative one leaves a record
 * (choir_comm_last_error) that says what happened, where, and what to do. Handles and answers are
 * written on success only. What breaks a communicator is told to all its ranks; one whose part of the
 * operation was done already hears of it from its next call. "Errors" below names what a call adds to:
 *   of every call     CHOIR_ERR_POINTER (a NULL or destroyed handle), CHOIR_ERR_FORKED, CHOIR_ERR_NO_MEMORY;
 *   of an operation   those, CHOIR_ERR_STATE (being created, or finalized), CHOIR_ERR_BUSY,
 *                     CHOIR_ERR_ARGUMENT (struct choir_call), and what breaks a communicator:
 *                     CHOIR_ERR_PEER_DEAD, CHOIR_ERR_MISMATCH (ranks called different things),
 *                     CHOIR_ERR_TIMEOUT, CHOIR_ERR_NETWORK, CHOIR_ERR_SYSTEM, CHOIR_ERR_ABORTED,
 *                     CHOIR_ERR_REVOKED. Wrong arguments are found before anything starts and break nothing.
 *
 * "Cost" is steps (messages one after another on the longest path) and bytes that one rank sends, of b
 * bytes of one rank's buffer (count elements), with the algorithm chosen for the size; choir-plan prints
 * it exactly.
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

/*
 * What a status means, in words.
 * status: any value. Returns a static string, "unknown status" for a value that is none.
 * Ordering: local. Threads: any.
 * Errors: none.
 * Cost: none. Source: libuv's uv_strerror. Since: 0.1.
 */
CHOIR_API const char *choir_status_string(enum choir_status status);

/*
 * The name of a status, "CHOIR_ERR_TIMEOUT".
 * status: any value. Returns a static string.
 * Ordering: local. Threads: any.
 * Errors: none.
 * Cost: none. Source: libuv's uv_err_name. Since: 0.1.
 */
CHOIR_API const char *choir_status_name(enum choir_status status);

/*
 * The version of the library that is loaded: major * 10000 + minor * 100 + patch; compare with
 * CHOIR_VERSION_*.
 * Ordering: local. Threads: any.
 * Errors: none.
 * Cost: none. Source: ncclGetVersion. Since: 0.1.
 */
CHOIR_API uint32_t choir_version(void);

/* ------------------------------------------------------------------------------------------------
 * Types and operations
 * ---------------------------------------------------------------------------------------------- */

/* clang-format off */
/* X(name, value, bytes). float8_e4m3 is OCP E4M3 (no infinity), float8_e5m2 OCP E5M2. */
#define CHOIR_TYPE_LIST(X) \
    X(INT8, 0, 1)          \
    X(UINT8, 1, 1)         \
    X(INT16, 2, 2)         \
    X(UINT16, 3, 2)        \
    X(INT32, 4, 4)         \
    X(UINT32, 5, 4)        \
    X(INT64, 6, 8)         \
    X(UINT64, 7, 8)        \
    X(FLOAT16, 8, 2)       \
    X(BFLOAT16, 9, 2)      \
    X(FLOAT32, 10, 4)      \
    X(FLOAT64, 11, 8)      \
    X(FLOAT8_E4M3, 12, 1)  \
    X(FLOAT8_E5M2, 13, 1)
/* clang-format on */

enum choir_type {
#define CHOIR_TYPE_ENUM(name, value, bytes) CHOIR_##name = value,
    CHOIR_TYPE_LIST(CHOIR_TYPE_ENUM)
#undef CHOIR_TYPE_ENUM
        CHOIR_TYPES
};

/* clang-format off */
/* X(name, value). Bitwise and logical ones on integers only. Operations made by choir_op_create_* have
 * other values. */
#define CHOIR_OP_LIST(X) \
    X(SUM, 0)            \
    X(PROD, 1)           \
    X(MIN, 2)            \
    X(MAX, 3)            \
    X(AVG, 4)            \
    X(BAND, 5)           \
    X(BOR, 6)            \
    X(BXOR, 7)           \
    X(LAND, 8)           \
    X(LOR, 9)            \
    X(LXOR, 10)
/* clang-format on */

typedef uint32_t choir_op;
enum choir_op_builtin {
#define CHOIR_OP_ENUM(name, value) CHOIR_##name = value,
    CHOIR_OP_LIST(CHOIR_OP_ENUM)
#undef CHOIR_OP_ENUM
        CHOIR_OPS
};

/*
 * Bytes of one element.
 * type: a data type. Returns 0 for a value that is none.
 * Ordering: local. Threads: any.
 * Errors: none.
 * Cost: none. Source: this header. Since: 0.1.
 */
CHOIR_API size_t choir_type_bytes(enum choir_type type);

/*
 * The name of a type, "float32".
 * type: a data type. Returns a static string, "unknown type" for a value that is none.
 * Ordering: local. Threads: any.
 * Errors: none.
 * Cost: none. Source: this header. Since: 0.1.
 */
CHOIR_API const char *choir_type_name(enum choir_type type);

/*
 * The name of a built-in operation, "sum".
 * op: an operation. Returns a static string, "created" for one made by choir_op_create_*.
 * Ordering: local. Threads: any.
 * Errors: none.
 * Cost: none. Source: this header. Since: 0.1.
 */
CHOIR_API const char *choir_op_name(choir_op op);

typedef struct choir_comm choir_comm;
typedef struct choir_stream choir_stream;
typedef struct choir_event choir_event;
typedef struct choir_region choir_region;
typedef struct choir_window choir_window;

/* inout[i] = inout[i] op in[i] in rank order: inout holds the lower ranks. */
typedef void (*choir_reduce_fn)(void *inout, const void *in, uint64_t count, enum choir_type type,
                                void *context);

/*
 * Makes the operation "sum of scale * input": each rank's input is multiplied by that rank's own scalar.
 * comm: where it may be used. scale: one element, host memory, read each time an operation runs, so it may
 *   change between calls and stays valid while the operation exists. type: of scale, and of every call
 *   that uses the operation.
 * op: receives the operation. All ranks make it, each with its own scale, in the same order as other
 *   operations.
 * Ordering: local. Threads: one.
 * Errors: of every call; CHOIR_ERR_TYPE; CHOIR_ERR_NO_MEMORY beyond 64 operations alive.
 * Cost: no communication; a use reads the input once more. Source: ncclRedOpCreatePreMulSum. Since: 0.1.
 */
CHOIR_API enum choir_status choir_op_create_scaled(choir_comm *comm, const void *scale,
                                                   enum choir_type type, choir_op *op);

/*
 * Makes an operation of a function on host memory.
 * comm: where it may be used. fn: called as fn(inout, in, count, type, context) on parts of the data, on
 *   the calling thread or the library's; it calls nothing of this library. context: handed through, may be
 *   NULL. commutative: 0 lets the library only combine in ascending rank order, a op b op c with inout the
 *   lower ranks; else in any order. fn must be associative.
 * op: receives the operation. All ranks make it with the same meaning, in the same order as other
 *   operations.
 * Ordering: local. Threads: one.
 * Errors: of every call; CHOIR_ERR_NO_MEMORY beyond 64 operations alive.
 * Cost: no communication. Source: MPI-4.1 section 6.9.5. Since: 0.1.
 */
CHOIR_API enum choir_status choir_op_create_user(choir_comm *comm, choir_reduce_fn fn,
                                                 void *context, int commutative, choir_op *op);

/*
 * Forgets an operation of choir_op_create_*.
 * comm: the communicator it was made for. op: the operation; no call uses it any more, queued ones
 *   included.
 * Ordering: local. Threads: one.
 * Errors: of every call; CHOIR_ERR_OP it was not made for this communicator.
 * Cost: none. Source: MPI-4.1 section 6.9.5. Since: 0.1.
 */
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

/*
 * Copies the record of the last error.
 * comm: a communicator, or NULL for the calling thread's last failed call (creation, arguments, objects
 *   without a communicator).
 * error: error->bytes is set by the caller to sizeof(struct choir_error); receives as much as fits.
 * Ordering: local. Threads: any.
 * Errors: CHOIR_ERR_ARGUMENT error is NULL or too small; CHOIR_ERR_POINTER comm is not live. Leaves the
 *   record as it is.
 * Cost: none. Source: MPI-4.1 section 9.3. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_last_error(choir_comm *comm, struct choir_error *error);

/* ------------------------------------------------------------------------------------------------
 * Communicators
 * ---------------------------------------------------------------------------------------------- */

#define CHOIR_ID_BYTES 128
struct choir_id {
    char bytes[CHOIR_ID_BYTES];
};

#define CHOIR_CONFIG_VERSION 1
/* Options of a communicator, the same on all ranks but for name. Later versions add members at the end. */
struct choir_config {
    uint32_t bytes;   /* sizeof(struct choir_config) */
    uint32_t version; /* CHOIR_CONFIG_VERSION */
    /* 1: creation returns when done; 0: it returns CHOIR_IN_PROGRESS at once, see choir_comm_status. */
    int32_t blocking;
    /* 1: result bits depend on inputs and N only, not on size, layout or run. */
    int32_t deterministic;
    int32_t restorable;         /* 1: inputs of a failed in-place operation are restored */
    uint64_t timeout_ns;        /* 0: CHOIR_TIMEOUT */
    uint64_t create_timeout_ns; /* 0: CHOIR_CREATE_TIMEOUT */
    const char *name;           /* for logs, copied; NULL: none */
    /* 1: on several hosts all_to_all_v, gather_v and scatter_v send one message per pair of hosts. This takes an
     * exchange of counts before each (all_to_all_v: N*N numbers on every rank) and memory for what ranks carry for
     * others: for many small blocks. -1: every pair for itself; 0: as CHOIR_AGGREGATE_V says. */
    int32_t aggregate_v;
    int32_t
        max_blocks; /* GPU kernels take so many blocks at most; may differ by rank. 0: CHOIR_CUDA_BLOCKS */
    int32_t
        low_priority; /* 1: operations of CHOIR_CALL_OVERLAP have CUDA's lowest priority; 0: its highest */
};
#define CHOIR_CONFIG_INIT                                                                          \
    {                                                                                              \
        sizeof(struct choir_config), CHOIR_CONFIG_VERSION, 1, 0, 0, 0, 0, NULL, 0, 0, 0            \
    }

/*
 * Makes the unique id of a communicator to be, and starts answering ranks that join by it.
 * id: receives it; carry it to all ranks by any means, secretly: it holds the key of their conversation.
 *   One id, one communicator. The process that made it stays alive until all ranks have joined; its rank
 *   need not be 0.
 * Ordering: local. Threads: any.
 * Errors: of every call; CHOIR_ERR_ARGUMENT a CHOIR_* variable is out of range; CHOIR_ERR_NETWORK no
 *   address to listen at.
 * Cost: one listening socket until the ranks have joined. Source: ncclGetUniqueId. Since: 0.1.
 */
CHOIR_API enum choir_status choir_id_create(struct choir_id *id);

/*
 * Makes this process (or thread) rank `rank` of a new communicator.
 * id: the same on all ranks, of choir_id_create. rank, size: 0 <= rank < size; every rank exactly once.
 * config: CHOIR_CONFIG_INIT changed as wished, the same on all ranks but for name; NULL: the defaults.
 * comm: receives the handle; with config.blocking 0 at once, and choir_comm_status tells when it is ready.
 * Ordering: all ranks call it; in any order relative to other communicators' creations only if no thread
 *   waits in two. Threads: any.
 * Errors: of every call; CHOIR_ERR_RANK rank out of range or taken; CHOIR_ERR_ARGUMENT size, config, a
 *   CHOIR_* variable, or ranks that disagree on size; CHOIR_ERR_PEER_MISSING names the ranks that did not
 *   come in time; CHOIR_ERR_AUTH another id's secret; CHOIR_ERR_MISMATCH ranks differ in version, settings
 *   or config; CHOIR_ERR_TIMEOUT; CHOIR_ERR_NETWORK.
 * Cost: O(log N) steps, O(N) bytes. Source: ncclCommInitRankConfig; MPI-4.1 section 11.8. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_create(const struct choir_id *id, int rank, int size,
                                              const struct choir_config *config, choir_comm **comm);

/*
 * Makes the communicator of all processes of this job, found by itself: Open MPI, MPICH and Slurm (PMIx or
 * PMI), torchrun's variables, or CHOIR_RENDEZVOUS with CHOIR_RANK and CHOIR_SIZE; a process started alone
 * is rank 0 of 1.
 * config: as for choir_comm_create. comm: receives the handle.
 * Ordering: all processes of the job call it, equally often. Threads: any.
 * Errors: as choir_comm_create; CHOIR_ERR_UNSUPPORTED a launcher whose library does not answer, named in
 *   the record. All are logged too: whoever starts the job may see nothing else.
 * Cost: as choir_comm_create, and one exchange with the launcher. Source: PMIx standard v4; PMI-1, PMI-2.
 *   Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_create_auto(const struct choir_config *config,
                                                   choir_comm **comm);
#define CHOIR_COLOR_NONE (-1)
/*
 * Makes a communicator of the ranks that give the same color.
 * comm: the parent, stays usable; may have been revoked, where all its ranks live. color: >= 0, or
 *   CHOIR_COLOR_NONE to take no part: *child becomes NULL. key: the child's ranks are in order of key, then
 *   of rank in the parent. config: NULL: the parent's. child: receives the handle.
 * Ordering: collective. Threads: one.
 * Errors: of an operation; CHOIR_ERR_ARGUMENT config, or color is below CHOIR_COLOR_NONE; as
 *   choir_comm_create, without a rendezvous.
 * Cost: O(log N) steps, O(N) bytes; addresses and connections are the parent's. Source: MPI-4.1 section
 *   7.4.2. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_split(choir_comm *comm, int color, int key,
                                             const struct choir_config *config, choir_comm **child);

/*
 * Makes a communicator of all ranks but the excluded ones, in rank order; the way on after a failure.
 * comm: the parent, may have failed or been revoked. exclude: exclude_count ranks of the parent, the same
 *   on all that call; they do not call it. exclude_count: 0 (exclude may be NULL) .. N-1. config: NULL:
 *   the parent's. child: receives the handle.
 * Ordering: collective among the ranks that stay. Threads: one.
 * Errors: of every call; CHOIR_ERR_STATE; CHOIR_ERR_RANK exclude names no rank, or the caller;
 *   CHOIR_ERR_ARGUMENT; CHOIR_ERR_PEER_DEAD or CHOIR_ERR_TIMEOUT another of those that stay is gone:
 *   exclude it too and call again.
 * Cost: as choir_comm_split. Source: ncclCommShrink; W. Bland et al., "Post-failure recovery of MPI
 *   communication capability" (2013). Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_shrink(choir_comm *comm, const int *exclude,
                                              int exclude_count, const struct choir_config *config,
                                              choir_comm **child);

/*
 * Makes a larger communicator of the ranks of one and newcomers.
 * comm: the parent, which stays usable; NULL at newcomers. id: of choir_id_create, the same on all; a rank
 *   of the parent may make it and broadcast it there. rank, size: in the new communicator; size counts
 *   all. config: NULL: the parent's. grown: receives the handle.
 * Ordering: all size ranks call it. Threads: one.
 * Errors: as choir_comm_create; CHOIR_ERR_ARGUMENT size is below the parent's.
 * Cost: as choir_comm_create. Source: ncclCommGrow. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_grow(choir_comm *comm, const struct choir_id *id, int rank,
                                            int size, const struct choir_config *config,
                                            choir_comm **grown);

/*
 * Fails a communicator on all ranks: every operation under way or to come returns CHOIR_ERR_REVOKED. Where
 * one rank sees a failure that the others do not, it frees them from waiting.
 * comm: a ready communicator. One rank's call is enough; of several the first counts.
 * Ordering: local, reaches the others by itself, in O(log N) steps. Threads: any.
 * Errors: of every call; CHOIR_ERR_STATE it is still being created (abort that).
 * Cost: O(log N) steps, under 1 KiB. Source: MPI_Comm_revoke of User-Level Failure Mitigation. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_revoke(choir_comm *comm);

/*
 * Waits until all operations called on the communicator, on streams too, have ended; afterwards it takes
 * no more.
 * comm: a ready communicator.
 * Ordering: local. Threads: one.
 * Errors: of every call; CHOIR_ERR_STATE it is being created; the error of a communicator that failed.
 * Cost: no communication. Source: ncclCommFinalize. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_finalize(choir_comm *comm);

/*
 * Frees a communicator after choir_comm_finalize; one that is being created is aborted. Waits for no peer;
 * ranks that still wait for this one get CHOIR_ERR_PEER_DEAD.
 * comm: not used again, by any thread; its windows and registrations are destroyed before. Operations made
 *   for it go with it.
 * Ordering: local, not collective. Threads: one, and no other call on it is under way.
 * Errors: CHOIR_ERR_POINTER comm is NULL or not live. A fork's copy: CHOIR_OK, nothing happens.
 * Cost: one small message to each connected peer, not waited for. Source: ncclCommDestroy. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_destroy(choir_comm *comm);

/*
 * Fails a communicator at once: calls on it that wait, in this and other ranks, return CHOIR_ERR_ABORTED.
 * Never waits.
 * comm: in any state; still to be destroyed.
 * Ordering: local. Threads: any; that is what it is for.
 * Errors: of every call.
 * Cost: none here; the others learn in O(log N) steps. Source: ncclCommAbort. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_abort(choir_comm *comm);

/*
 * The state of a communicator: CHOIR_OK ready, CHOIR_IN_PROGRESS being created, else the error that broke
 * it.
 * comm: in any state.
 * Ordering: local. Threads: any.
 * Errors: of every call; whatever broke the communicator.
 * Cost: none. Source: ncclCommGetAsyncError. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_status(choir_comm *comm);

/*
 * This rank's number.
 * comm: in any state. rank: receives it, 0 .. N-1.
 * Ordering: local. Threads: any.
 * Errors: of every call.
 * Cost: none. Source: MPI-4.1 section 7.4.1. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_rank(choir_comm *comm, int *rank);

/*
 * The number of ranks.
 * comm: in any state. size: receives N.
 * Ordering: local. Threads: any.
 * Errors: of every call.
 * Cost: none. Source: MPI-4.1 section 7.4.1. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_size(choir_comm *comm, int *size);

/*
 * Gives the GPU memory of a communicator back to the device, while it is not needed; the addresses stay its own, so that captured
 * graphs are valid again after choir_comm_resume. The memory is free when the call returns.
 * comm: a ready communicator whose ranks map each other's GPU memory, by cuMemMap (choir_cuda.h). What has to
 *   last, numbers of messages and plans, is kept in host memory: 20 KiB for each rank, and the plans' tables.
 *   Host calls and calls on host streams go on working; device calls are refused (CHOIR_ERR_STATE). To launch a
 *   graph that has captured device calls is then a use of memory that is not there: it fails with
 *   cudaErrorIllegalAddress, which ends the device's context. No library can refuse it: launch none.
 *   choir_comm_destroy and choir_comm_abort work as ever.
 * Ordering: collective, in the place of an operation: all device operations called before it end first, and
 *   what they sent is received by then. It waits for all that is queued in the GPU's context, none of whose
 *   streams may be captured meanwhile. Threads: one; who drives several ranks calls it for all in a group, in which
 *   it runs before the group's operations.
 * Errors: of an operation; CHOIR_ERR_STATE it is suspended, being created, a message has not been received, or
 *   a stream is captured; CHOIR_ERR_UNSUPPORTED it has no such memory; CHOIR_ERR_NO_MEMORY of the host;
 *   CHOIR_ERR_MISMATCH another rank makes another call. After these it is as it was, on all ranks.
 *   CHOIR_ERR_TIMEOUT a rank does not call it: the communicator has failed.
 * Cost: 2 agreements of O(log N) steps, a copy of what is kept, and unmapping. Source: ncclCommSuspend. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_suspend(choir_comm *comm);

/*
 * Takes GPU memory for a suspended communicator again, at the same addresses; its device calls and captured
 * graphs go on where they were.
 * comm: a communicator that choir_comm_suspend has suspended.
 * Ordering: collective. It may wait for what runs on the device, as cudaMalloc does. Threads: as
 *   choir_comm_suspend.
 * Errors: of an operation; CHOIR_ERR_STATE it is not suspended; CHOIR_ERR_UNSUPPORTED as choir_comm_suspend;
 *   CHOIR_ERR_NO_MEMORY a GPU has not enough left, CHOIR_ERR_SYSTEM GPUs do not map each other any more: it stays
 *   suspended on all ranks, and the call may be made again. CHOIR_ERR_TIMEOUT a rank does not call it: the
 *   communicator has failed.
 * Cost: 4 agreements of O(log N) steps, allocation and mapping, and a copy of what was kept. Source:
 *   ncclCommResume. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_resume(choir_comm *comm);

struct choir_memory {
    uint32_t bytes;                       /* sizeof(struct choir_memory), set by the caller */
    uint64_t private_bytes, shared_bytes; /* held by this communicator on this rank */
    uint32_t plans, peers;                /* cached plans; peers with a link */
    uint64_t device_bytes;    /* of its GPU's memory, for messages; 0 without a GPU, or suspended */
    uint64_t pinned_bytes;    /* of host memory that its GPU's memory goes through, if it does */
    uint64_t suspended_bytes; /* of its GPU's memory that choir_comm_resume takes again */
};

/*
 * What the communicator holds on this rank.
 * comm: a ready communicator. memory: memory->bytes is set by the caller to sizeof(struct choir_memory);
 *   receives the figures. Members are added at the end; those that the caller's structure does not have
 *   yet are left out.
 * Ordering: local. Threads: any.
 * Errors: of every call; CHOIR_ERR_ARGUMENT memory is NULL or too small.
 * Cost: none. Source: own. Since: 0.1.
 */
CHOIR_API enum choir_status choir_comm_memory(choir_comm *comm, struct choir_memory *memory);

/* ------------------------------------------------------------------------------------------------
 * Collectives. `stream` NULL: the call returns when done.
 * ---------------------------------------------------------------------------------------------- */

/* A device call runs on a stream of the communicator's own, after what its stream has now; that goes on without it
 * (choir_cuda.h, choir_overlap_wait). */
#define CHOIR_CALL_OVERLAP 1u
struct choir_call {
    uint32_t bytes;       /* sizeof(struct choir_call) */
    uint32_t flags;       /* 0, or CHOIR_CALL_OVERLAP */
    uint64_t deadline_ns; /* from the call on; 0: the communicator's */
    uint32_t max_blocks;  /* blocks of its GPU kernels at most; 0: the communicator's */
    uint32_t unused;      /* 0 */
};

/*
 * Combines the inputs of all ranks element by element; every rank gets the result, with equal bits.
 * send: count elements. recv: count elements. In place: recv = send.
 * count, type, op: the same on all ranks. comm, stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: of an operation; CHOIR_ERR_TYPE; CHOIR_ERR_OP; CHOIR_ERR_COUNT; CHOIR_ERR_POINTER a buffer is
 *   NULL, or they overlap otherwise.
 * Cost: small: 1 .. log2 N steps, up to N b bytes; large: 2(N-1) steps, 2 b (N-1)/N bytes. Source: MPI-4.1
 *   section 6.9.6. Since: 0.1.
 */
CHOIR_API enum choir_status choir_all_reduce(choir_comm *comm, const void *send, void *recv,
                                             uint64_t count, enum choir_type type, choir_op op,
                                             choir_stream *stream);

/*
 * Combines the inputs of all ranks element by element; the root gets the result.
 * send: count elements. recv: count elements at the root, ignored elsewhere. In place: recv = send at the
 *   root.
 * count, type, op, root: the same on all ranks. comm, stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: as choir_all_reduce; CHOIR_ERR_RANK root out of range.
 * Cost: small: 1 .. log2 N steps, b bytes; large: pipelined or 2(N-1) steps, 2 b (N-1)/N bytes. Source:
 *   MPI-4.1 section 6.9.1. Since: 0.1.
 */
CHOIR_API enum choir_status choir_reduce(choir_comm *comm, const void *send, void *recv,
                                         uint64_t count, enum choir_type type, choir_op op,
                                         int root, choir_stream *stream);

/*
 * Copies the root's elements to every rank.
 * send: count elements at the root, ignored elsewhere. recv: count elements on every rank. In place: recv
 *   = send at the root.
 * count, type, root: the same on all ranks. comm, stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: of an operation; CHOIR_ERR_TYPE; CHOIR_ERR_COUNT; CHOIR_ERR_RANK root out of range;
 *   CHOIR_ERR_POINTER.
 * Cost: log2 N steps, up to b log2 N bytes at the root; large: pipelined, about b bytes a rank. Source:
 *   MPI-4.1 section 6.4. Since: 0.1.
 */
CHOIR_API enum choir_status choir_broadcast(choir_comm *comm, const void *send, void *recv,
                                            uint64_t count, enum choir_type type, int root,
                                            choir_stream *stream);

/*
 * Every rank gets the elements of all ranks, in rank order.
 * send: count elements. recv: N * count elements, block r is rank r's. In place: send = recv + rank *
 *   count.
 * count, type: the same on all ranks. comm, stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: of an operation; CHOIR_ERR_TYPE; CHOIR_ERR_COUNT; CHOIR_ERR_POINTER.
 * Cost: 1 .. N-1 steps, b (N-1) bytes. Source: MPI-4.1 section 6.7. Since: 0.1.
 */
CHOIR_API enum choir_status choir_all_gather(choir_comm *comm, const void *send, void *recv,
                                             uint64_t count, enum choir_type type,
                                             choir_stream *stream);

/*
 * Combines the inputs of all ranks element by element; rank r gets block r of the result.
 * send: N * count elements. recv: count elements. In place: recv = send + rank * count.
 * count, type, op: the same on all ranks. comm, stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: as choir_all_reduce.
 * Cost: 1 .. N-1 steps, b (N-1) bytes. Source: MPI-4.1 section 6.10.1. Since: 0.1.
 */
CHOIR_API enum choir_status choir_reduce_scatter(choir_comm *comm, const void *send, void *recv,
                                                 uint64_t count, enum choir_type type, choir_op op,
                                                 choir_stream *stream);

/*
 * Rank r's block p goes to rank p, which gets it as block r.
 * send: N * count elements, block p is for rank p. recv: N * count elements, block p comes from rank p. In
 *   place: recv = send.
 * count, type: the same on all ranks. comm, stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: of an operation; CHOIR_ERR_TYPE; CHOIR_ERR_COUNT; CHOIR_ERR_POINTER.
 * Cost: small: log2 N steps, b (N/2) log2 N bytes; large: N-1 steps, b (N-1) bytes. Source: MPI-4.1
 *   section 6.8. Since: 0.1.
 */
CHOIR_API enum choir_status choir_all_to_all(choir_comm *comm, const void *send, void *recv,
                                             uint64_t count, enum choir_type type,
                                             choir_stream *stream);

/*
 * The root gets the elements of all ranks, in rank order.
 * send: count elements. recv: N * count elements at the root, ignored elsewhere. In place: send = recv +
 *   rank * count at the root.
 * count, type, root: the same on all ranks. comm, stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: as choir_broadcast.
 * Cost: 1 .. log2 N steps, b bytes (b N/2 inside a tree). Source: MPI-4.1 section 6.5. Since: 0.1.
 */
CHOIR_API enum choir_status choir_gather(choir_comm *comm, const void *send, void *recv,
                                         uint64_t count, enum choir_type type, int root,
                                         choir_stream *stream);

/*
 * Rank r gets block r of the root's elements.
 * send: N * count elements at the root, ignored elsewhere. recv: count elements. In place: recv = send +
 *   rank * count at the root.
 * count, type, root: the same on all ranks. comm, stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: as choir_broadcast.
 * Cost: 1 .. log2 N steps, b (N-1) bytes at the root. Source: MPI-4.1 section 6.6. Since: 0.1.
 */
CHOIR_API enum choir_status choir_scatter(choir_comm *comm, const void *send, void *recv,
                                          uint64_t count, enum choir_type type, int root,
                                          choir_stream *stream);

/*
 * Ends on no rank before it has begun on all.
 * comm, stream: see 4; on a stream, what was queued before it has ended on all ranks when it ends.
 * Ordering: collective. Threads: one.
 * Errors: of an operation.
 * Cost: 1 .. log2 N steps, no data. Source: MPI-4.1 section 6.3. Since: 0.1.
 */
CHOIR_API enum choir_status choir_barrier(choir_comm *comm, choir_stream *stream);

/*
 * Sends elements to one rank, which calls choir_recv.
 * send: count elements, intact. count, type: the bytes must be those of the receive. peer: the receiving
 *   rank; this rank itself only in a group with its choir_recv. comm, stream: see 4. Without a group it
 *   may return only when the peer has taken the data, so two ranks that both send first may wait for each
 *   other until the deadline: use a group.
 * Ordering: messages between two ranks match in the order of their calls. Threads: one.
 * Errors: of an operation; CHOIR_ERR_RANK peer; CHOIR_ERR_TYPE; CHOIR_ERR_COUNT; CHOIR_ERR_POINTER;
 *   CHOIR_ERR_MISMATCH the counts differ.
 * Cost: 1 step, b bytes. Source: ncclSend; MPI-4.1 section 3.2. Since: 0.1.
 */
CHOIR_API enum choir_status choir_send(choir_comm *comm, const void *send, uint64_t count,
                                       enum choir_type type, int peer, choir_stream *stream);

/*
 * Receives elements from one rank, which calls choir_send.
 * recv: count elements. count, type: the bytes must be those of the send. peer: the sending rank; this
 *   rank itself only in a group with its choir_send. comm, stream: see 4.
 * Ordering: as choir_send. Threads: one.
 * Errors: as choir_send.
 * Cost: 1 step, nothing sent. Source: ncclRecv; MPI-4.1 section 3.2. Since: 0.1.
 */
CHOIR_API enum choir_status choir_recv(choir_comm *comm, void *recv, uint64_t count,
                                       enum choir_type type, int peer, choir_stream *stream);

/*
 * As choir_all_gather, with a count for each rank.
 * send: counts[rank] elements. recv: counts[r] elements at offsets[r] for every r. In place: send = recv +
 *   the own offset.
 * counts: N, the same on all ranks. offsets: N or NULL, see 5. type: the same on all ranks. comm, stream:
 *   see 4.
 * Ordering: collective. Threads: one.
 * Errors: as choir_all_gather; CHOIR_ERR_COUNT an entry of counts or offsets is too large;
 *   CHOIR_ERR_POINTER counts is NULL; CHOIR_ERR_ARGUMENT parts of recv overlap.
 * Cost: N-1 steps, up to the sum of all counts but the smallest. Source: MPI-4.1 section 6.7. Since: 0.1.
 */
CHOIR_API enum choir_status choir_all_gather_v(choir_comm *comm, const void *send, void *recv,
                                               const uint64_t *counts, const uint64_t *offsets,
                                               enum choir_type type, choir_stream *stream);

/*
 * As choir_reduce_scatter, with a count for each rank.
 * send: counts[r] elements at offsets[r] for every r. recv: counts[rank] elements. In place: recv = send +
 *   the own offset.
 * counts: N, the same on all ranks. offsets: N or NULL, see 5. type, op: the same on all ranks. comm,
 *   stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: as choir_all_reduce; CHOIR_ERR_COUNT an entry of counts or offsets is too large;
 *   CHOIR_ERR_POINTER counts is NULL.
 * Cost: N-1 steps, up to the sum of all counts but the own. Source: MPI-4.1 section 6.10.2. Since: 0.1.
 */
CHOIR_API enum choir_status choir_reduce_scatter_v(choir_comm *comm, const void *send, void *recv,
                                                   const uint64_t *counts, const uint64_t *offsets,
                                                   enum choir_type type, choir_op op,
                                                   choir_stream *stream);

/*
 * As choir_all_to_all, with a count for each pair: send_counts[p] here equals recv_counts[this rank] at rank
 * p; 0 is ordinary.
 * send: send_counts[p] elements at send_offsets[p] for rank p. recv: recv_counts[p] elements at
 *   recv_offsets[p] from rank p.
 * In place: recv = send where counts and offsets of both sides are equal. send_counts, recv_counts: N
 *   each.
 * send_offsets, recv_offsets: N or NULL, see 5. type: the same on all ranks. comm, stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: as choir_all_to_all; CHOIR_ERR_COUNT an entry is too large; CHOIR_ERR_POINTER an array of counts
 *   is NULL; CHOIR_ERR_ARGUMENT parts of recv overlap; CHOIR_ERR_MISMATCH names both ranks where their
 *   counts differ.
 * Cost: N-1 steps, the sum of send_counts but the own; config.aggregate_v: one message per pair of hosts.
 *   Source: MPI-4.1 section 6.8. Since: 0.1.
 */
CHOIR_API enum choir_status choir_all_to_all_v(choir_comm *comm, const void *send,
                                               const uint64_t *send_counts,
                                               const uint64_t *send_offsets, void *recv,
                                               const uint64_t *recv_counts,
                                               const uint64_t *recv_offsets, enum choir_type type,
                                               choir_stream *stream);

/*
 * As choir_gather, with a count for each rank.
 * send: send_count elements. send_count: equals counts[rank] at the root. recv: at the root, counts[r]
 *   elements at offsets[r] for every r. In place: send = recv + the own offset at the root. counts: N at
 *   the root, ignored elsewhere. offsets: N or NULL at the root, see 5. type, root: the same on all ranks.
 *   comm, stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: as choir_gather; CHOIR_ERR_COUNT; CHOIR_ERR_POINTER counts is NULL at the root;
 *   CHOIR_ERR_ARGUMENT parts of recv overlap; CHOIR_ERR_MISMATCH counts differ.
 * Cost: 1 step, send_count elements; the root receives N-1 messages. Source: MPI-4.1 section 6.5. Since:
 *   0.1.
 */
CHOIR_API enum choir_status choir_gather_v(choir_comm *comm, const void *send, uint64_t send_count,
                                           void *recv, const uint64_t *counts,
                                           const uint64_t *offsets, enum choir_type type, int root,
                                           choir_stream *stream);

/*
 * As choir_scatter, with a count for each rank.
 * send: at the root, counts[r] elements at offsets[r] for every r. counts: N at the root, ignored
 *   elsewhere. offsets: N or NULL at the root, see 5. recv: recv_count elements. In place: recv = send +
 *   the own offset at the root. recv_count: equals counts[rank] at the root. type, root: the same on all
 *   ranks. comm, stream: see 4.
 * Ordering: collective. Threads: one.
 * Errors: as choir_scatter; CHOIR_ERR_COUNT; CHOIR_ERR_POINTER counts is NULL at the root;
 *   CHOIR_ERR_MISMATCH counts differ.
 * Cost: 1 step, the sum of counts but the own at the root. Source: MPI-4.1 section 6.6. Since: 0.1.
 */
CHOIR_API enum choir_status choir_scatter_v(choir_comm *comm, const void *send,
                                            const uint64_t *counts, const uint64_t *offsets,
                                            void *recv, uint64_t recv_count, enum choir_type type,
                                            int root, choir_stream *stream);

/* As choir_all_reduce, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_all_reduce_x(choir_comm *comm, const void *send, void *recv,
                                               uint64_t count, enum choir_type type, choir_op op,
                                               choir_stream *stream, const struct choir_call *call);
/* As choir_reduce, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_reduce_x(choir_comm *comm, const void *send, void *recv,
                                           uint64_t count, enum choir_type type, choir_op op,
                                           int root, choir_stream *stream,
                                           const struct choir_call *call);
/* As choir_broadcast, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_broadcast_x(choir_comm *comm, const void *send, void *recv,
                                              uint64_t count, enum choir_type type, int root,
                                              choir_stream *stream, const struct choir_call *call);
/* As choir_all_gather, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_all_gather_x(choir_comm *comm, const void *send, void *recv,
                                               uint64_t count, enum choir_type type,
                                               choir_stream *stream, const struct choir_call *call);
/* As choir_reduce_scatter, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_reduce_scatter_x(choir_comm *comm, const void *send, void *recv,
                                                   uint64_t count, enum choir_type type,
                                                   choir_op op, choir_stream *stream,
                                                   const struct choir_call *call);
/* As choir_all_to_all, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_all_to_all_x(choir_comm *comm, const void *send, void *recv,
                                               uint64_t count, enum choir_type type,
                                               choir_stream *stream, const struct choir_call *call);
/* As choir_gather, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_gather_x(choir_comm *comm, const void *send, void *recv,
                                           uint64_t count, enum choir_type type, int root,
                                           choir_stream *stream, const struct choir_call *call);
/* As choir_scatter, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_scatter_x(choir_comm *comm, const void *send, void *recv,
                                            uint64_t count, enum choir_type type, int root,
                                            choir_stream *stream, const struct choir_call *call);
/* As choir_barrier, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_barrier_x(choir_comm *comm, choir_stream *stream,
                                            const struct choir_call *call);
/* As choir_send, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_send_x(choir_comm *comm, const void *send, uint64_t count,
                                         enum choir_type type, int peer, choir_stream *stream,
                                         const struct choir_call *call);
/* As choir_recv, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_recv_x(choir_comm *comm, void *recv, uint64_t count,
                                         enum choir_type type, int peer, choir_stream *stream,
                                         const struct choir_call *call);
/* As choir_all_gather_v, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_all_gather_v_x(choir_comm *comm, const void *send, void *recv,
                                                 const uint64_t *counts, const uint64_t *offsets,
                                                 enum choir_type type, choir_stream *stream,
                                                 const struct choir_call *call);
/* As choir_reduce_scatter_v, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_reduce_scatter_v_x(choir_comm *comm, const void *send, void *recv,
                                                     const uint64_t *counts,
                                                     const uint64_t *offsets, enum choir_type type,
                                                     choir_op op, choir_stream *stream,
                                                     const struct choir_call *call);
/* As choir_all_to_all_v, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_all_to_all_v_x(
    choir_comm *comm, const void *send, const uint64_t *send_counts, const uint64_t *send_offsets,
    void *recv, const uint64_t *recv_counts, const uint64_t *recv_offsets, enum choir_type type,
    choir_stream *stream, const struct choir_call *call);
/* As choir_gather_v, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_gather_v_x(choir_comm *comm, const void *send,
                                             uint64_t send_count, void *recv,
                                             const uint64_t *counts, const uint64_t *offsets,
                                             enum choir_type type, int root, choir_stream *stream,
                                             const struct choir_call *call);
/* As choir_scatter_v, with options in call (NULL: none). Since: 0.1. */
CHOIR_API enum choir_status choir_scatter_v_x(choir_comm *comm, const void *send,
                                              const uint64_t *counts, const uint64_t *offsets,
                                              void *recv, uint64_t recv_count, enum choir_type type,
                                              int root, choir_stream *stream,
                                              const struct choir_call *call);

/*
 * Opens a group on this thread; groups nest, and only the outermost end runs what was collected.
 * Ordering: local. Threads: any; a group belongs to its thread.
 * Errors: none.
 * Cost: none. Source: ncclGroupStart. Since: 0.1.
 */
CHOIR_API enum choir_status choir_group_start(void);

/*
 * Runs what was collected since the outermost choir_group_start, see 6. Returns when all calls without a
 * stream are done, the first error if any; calls on streams are queued then.
 * Ordering: every rank that has a counterpart in the group ends one that holds it. Threads: any.
 * Errors: CHOIR_ERR_STATE no group is open; of an operation; the first error of a call in the group, and
 *   then nothing ran.
 * Cost: that of its calls, side by side. Source: NCCL user guide, "Group calls". Since: 0.1.
 */
CHOIR_API enum choir_status choir_group_end(void);

/* ------------------------------------------------------------------------------------------------
 * Streams and events
 * ---------------------------------------------------------------------------------------------- */

/*
 * Makes a host stream: an in-order queue of operations, served by the library's thread.
 * stream: receives the handle. It serves operations of any communicators of this process.
 * Ordering: local. Threads: any.
 * Errors: of every call; CHOIR_ERR_UNSUPPORTED no transport works; CHOIR_ERR_SYSTEM.
 * Cost: none. Source: CUDA's streams. Since: 0.1.
 */
CHOIR_API enum choir_status choir_stream_create(choir_stream **stream);

/*
 * Waits for the stream as choir_stream_wait does, and frees it.
 * stream: not used again; NULL: nothing happens.
 * Ordering: local. Threads: one.
 * Errors: as choir_stream_wait.
 * Cost: none. Source: CUDA's streams. Since: 0.1.
 */
CHOIR_API enum choir_status choir_stream_destroy(choir_stream *stream);

/*
 * Waits until all that was queued has ended; every operation is bounded by its deadline.
 * stream: NULL: returns at once.
 * Ordering: local. Threads: one.
 * Errors: the first error of an operation queued since the last report; reporting clears it, the thread's
 *   record holds its details.
 * Cost: none. Source: cudaStreamSynchronize. Since: 0.1.
 */
CHOIR_API enum choir_status choir_stream_wait(choir_stream *stream);

/*
 * CHOIR_IN_PROGRESS while something queued has not ended, else as choir_stream_wait.
 * stream: NULL: CHOIR_OK.
 * Ordering: local. Threads: one.
 * Errors: as choir_stream_wait.
 * Cost: none. Source: cudaStreamQuery. Since: 0.1.
 */
CHOIR_API enum choir_status choir_stream_query(choir_stream *stream);

/*
 * Lets what is queued on the stream from now on begin after the event's last record has been reached.
 * stream: the one that waits. event: one never recorded does not hold it up.
 * Ordering: local. Threads: one.
 * Errors: of every call; CHOIR_ERR_BUSY the stream holds 65536 items.
 * Cost: none. Source: cudaStreamWaitEvent. Since: 0.1.
 */
CHOIR_API enum choir_status choir_stream_wait_event(choir_stream *stream, choir_event *event);

/*
 * Makes an event, a mark to be put into streams.
 * event: receives the handle.
 * Ordering: local. Threads: any.
 * Errors: of every call.
 * Cost: none. Source: CUDA's events. Since: 0.1.
 */
CHOIR_API enum choir_status choir_event_create(choir_event **event);

/*
 * Frees an event.
 * event: no stream holds it any more; NULL: nothing happens.
 * Ordering: local. Threads: one.
 * Errors: none.
 * Cost: none. Source: CUDA's events. Since: 0.1.
 */
CHOIR_API enum choir_status choir_event_destroy(choir_event *event);

/*
 * Puts the event behind what is queued on the stream; a later record replaces an earlier one.
 * event: reached when the stream comes to it. stream: not NULL.
 * Ordering: local. Threads: one.
 * Errors: of every call; CHOIR_ERR_BUSY the stream holds 65536 items.
 * Cost: none. Source: cudaEventRecord. Since: 0.1.
 */
CHOIR_API enum choir_status choir_event_record(choir_event *event, choir_stream *stream);

/*
 * Waits until the event's last record has been reached; returns at once if it was never recorded.
 * event: not NULL.
 * Ordering: local. Threads: any.
 * Errors: of every call. Errors of operations before it are the stream's to report.
 * Cost: none. Source: cudaEventSynchronize. Since: 0.1.
 */
CHOIR_API enum choir_status choir_event_wait(choir_event *event);

/*
 * CHOIR_OK if the event's last record has been reached or there is none, else CHOIR_IN_PROGRESS.
 * event: not NULL.
 * Ordering: local. Threads: any.
 * Errors: of every call.
 * Cost: none. Source: cudaEventQuery. Since: 0.1.
 */
CHOIR_API enum choir_status choir_event_query(choir_event *event);

/* ------------------------------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------------------------- */

/*
 * Allocates memory that ranks on the same host can map: windows on it are direct, and large messages out of
 * it are read where they lie, also where the kernel lets no process read another's memory.
 * bytes: at least 1. memory: receives the address, zeroed, aligned to a page. Freed by choir_mem_free, or
 *   with the process.
 * Ordering: local. Threads: any.
 * Errors: of every call; CHOIR_ERR_COUNT bytes is 0; CHOIR_ERR_NO_MEMORY, also where the shm transport may
 *   not be used.
 * Cost: no communication. Source: ncclMemAlloc; MPI-4.1 section 12.2.3. Since: 0.1.
 */
CHOIR_API enum choir_status choir_mem_alloc(size_t bytes, void **memory);

/*
 * Frees memory of choir_mem_alloc.
 * memory: not used by any operation, window or peer any more; NULL: nothing happens.
 * Ordering: local. Threads: any.
 * Errors: CHOIR_ERR_POINTER it is not of choir_mem_alloc, or freed already.
 * Cost: none. Source: ncclMemFree. Since: 0.1.
 */
CHOIR_API enum choir_status choir_mem_free(void *memory);

/*
 * Tells the library that a range will be used again and again, so that a transport may prepare it. Never
 * needed; on host memory over shm and tcp without effect on speed.
 * comm: where it will be used. memory, bytes: the range; it stays allocated until choir_deregister.
 *   region: receives the handle.
 * Ordering: local. Threads: one.
 * Errors: of every call; CHOIR_ERR_POINTER memory or region is NULL, or bytes is 0.
 * Cost: no communication. Source: ncclCommRegister. Since: 0.1.
 */
CHOIR_API enum choir_status choir_register(choir_comm *comm, void *memory, size_t bytes,
                                           choir_region **region);

/*
 * Takes a registration back.
 * comm: the communicator it was made for. region: not used again.
 * Ordering: local. Threads: one.
 * Errors: of every call; CHOIR_ERR_POINTER region is not of this communicator.
 * Cost: none. Source: ncclCommDeregister. Since: 0.1.
 */
CHOIR_API enum choir_status choir_deregister(choir_comm *comm, choir_region *region);

/*
 * Makes a part of every rank's memory known to all ranks, for choir_put from any of them, and for loads and
 * stores by those that can map it.
 * comm: a ready communicator. memory, bytes: this rank's part, any size, NULL with 0 bytes; mapped by
 *   ranks of other processes if it is memory of choir_mem_alloc (GPU memory: choir_cuda.h). It stays allocated until the window is
 *   destroyed on all ranks. window: receives the handle.
 * Ordering: collective, in a group too at once. Threads: one.
 * Errors: of an operation; CHOIR_ERR_POINTER memory is NULL but bytes is not 0.
 * Cost: O(log N) steps, O(N) bytes. Source: ncclCommWindowRegister; MPI-4.1 section 12.2.3. Since: 0.1.
 */
CHOIR_API enum choir_status choir_window_create(choir_comm *comm, void *memory, size_t bytes,
                                                choir_window **window);

/*
 * Frees this rank's view of a window and unmaps the others' parts.
 * window: not used again, nor addresses got from it, before choir_comm_destroy of its communicator; NULL:
 *   nothing happens. No rank puts into this one's part any more, and its own puts have ended.
 * Ordering: local. Threads: one.
 * Errors: none.
 * Cost: none. Source: MPI-4.1 section 12.2.5. Since: 0.1.
 */
CHOIR_API enum choir_status choir_window_destroy(choir_window *window);

/*
 * The address at which this process can load and store a rank's part.
 * window: a window. peer: whose part. memory: receives the address, valid until choir_window_destroy.
 *   bytes: receives its length. Access is ordered by the program: a barrier or a message between store and
 *   load, as among threads.
 * Ordering: local. Threads: one.
 * Errors: of every call; CHOIR_ERR_RANK peer; CHOIR_ERR_UNSUPPORTED it is on another host, or not memory
 *   of choir_mem_alloc; CHOIR_ERR_TIMEOUT; CHOIR_ERR_PEER_DEAD.
 * Cost: the first call for a peer maps it: a system call or two. Source: MPI_Win_shared_query, MPI-4.1
 *   section 12.2.3. Since: 0.1.
 */
CHOIR_API enum choir_status choir_window_pointer(choir_window *window, int peer, void **memory,
                                                 size_t *bytes);

/* ------------------------------------------------------------------------------------------------
 * One-sided operations
 * ---------------------------------------------------------------------------------------------- */

/* Signals that a rank counts of each rank, numbered from 0. */
#define CHOIR_SIGNALS 16

/* What choir_wait_signal waits for. */
struct choir_signal_wait {
    int peer;        /* who raises it; this rank too */
    uint32_t signal; /* which, below CHOIR_SIGNALS */
    uint64_t count;  /* how many of them beyond those waited for before; 0: none */
};

/*
 * Copies memory of this rank into a rank's part of a window, without a call of that rank.
 * comm: the window's. send, bytes: what is put, NULL with 0 bytes. peer: whose part; this rank too. window:
 *   of comm. offset: in bytes from the start of the peer's part; offset + bytes is within it. What lies there
 *   is undefined until a signal that was raised later has been waited for. stream: NULL, or as of other
 *   operations.
 * Ordering: local. It takes its turn among the operations of comm (see 2), in a group before all others.
 *   Puts to one place are ordered by signals only. Threads: one.
 * Errors: of an operation; CHOIR_ERR_RANK peer; CHOIR_ERR_COUNT it is not within the peer's part;
 *   CHOIR_ERR_POINTER send, or window is not of comm.
 * Cost: one message of b bytes; where the peer maps or writes the other's memory, one copy. Source:
 *   ncclPut; MPI-4.1 section 12.3.1. Since: 0.1.
 */
CHOIR_API enum choir_status choir_put(choir_comm *comm, const void *send, uint64_t bytes, int peer,
                                      choir_window *window, uint64_t offset, choir_stream *stream);

/*
 * As choir_put, and then as choir_signal to the same rank.
 * comm, send, bytes, peer, window, offset: as of choir_put. signal: as of choir_signal. stream: of both.
 * Ordering: as choir_put. Threads: one.
 * Errors: as choir_put and choir_signal.
 * Cost: as both. Source: ncclPutSignal. Since: 0.1.
 */
CHOIR_API enum choir_status choir_put_signal(choir_comm *comm, const void *send, uint64_t bytes,
                                             int peer, choir_window *window, uint64_t offset,
                                             uint32_t signal, choir_stream *stream);

/*
 * Raises a signal at a rank by one. Who has waited for it sees all that this rank has put there before, into
 * any window of comm, on the same stream or on one ordered before this call.
 * comm: a ready communicator. peer: where; this rank too. signal: below CHOIR_SIGNALS; each rank counts
 *   those of each rank apart. stream: NULL, or as of other operations.
 * Ordering: as choir_put; needs no window. Threads: one.
 * Errors: of an operation; CHOIR_ERR_RANK peer; CHOIR_ERR_ARGUMENT signal.
 * Cost: one message, or one store where a window has been made and the peer's memory is mapped. Source:
 *   ncclSignal. Since: 0.1.
 */
CHOIR_API enum choir_status choir_signal(choir_comm *comm, int peer, uint32_t signal,
                                         choir_stream *stream);

/*
 * Waits for signals: for each entry, until that many have come beyond those waited for before. They then
 * count as waited for.
 * comm: a ready communicator. waits: count entries, copied; several may name the same signal. count: may be
 *   0 (waits may then be NULL). stream: NULL, or as of other operations.
 * Ordering: local. It takes its turn among the operations of comm (see 2): those called later, also on
 *   other host streams, come after it; in a group after all others. Threads: one.
 * Errors: of an operation; CHOIR_ERR_RANK a peer; CHOIR_ERR_ARGUMENT a signal; CHOIR_ERR_POINTER waits is
 *   NULL; CHOIR_ERR_PEER_DEAD one of the peers ended or has left without them; CHOIR_ERR_TIMEOUT names the
 *   first peer whose signals are missing.
 * Cost: no communication. Source: ncclWaitSignal. Since: 0.1.
 */
CHOIR_API enum choir_status choir_wait_signal(choir_comm *comm,
                                              const struct choir_signal_wait *waits, uint32_t count,
                                              choir_stream *stream);

#ifdef __cplusplus
}
#endif
#endif
