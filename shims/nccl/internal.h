/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h: what the files of the stand-in share. It stands on choir.h; of the library's inside it takes the log and the table
 * of knobs, the simulator's price of a call, and groups that observers are not told of.
 *
 *   error.c       results, texts, last errors       config.c  ncclConfig_t
 *   handle.c      handles: live or not, in use      job.c     what makes communicators, here or in threads
 *   life.c        create, end, ask                  child.c   split, shrink, grow
 *   collective.c  collectives and messages          group.c   groups            simulate.c  ncclGroupSimulateEnd
 *   op.c          ncclRedOp*                        memory.c  memory and its registration
 *   window.c      windows                           rma.c     put, signal, wait
 *   gpu.c         the CUDA device of a communicator suspend.c memory given back
 *   refused.c     what is not offered               env.c     NCCL's environment variables
 *   profiler.c, profiler_events.c, profiler_words.c   profiler plug-ins
 */
#ifndef SHIMS_NCCL_INTERNAL_H
#define SHIMS_NCCL_INTERNAL_H

#include "choir.h"
#include "nccl.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* The pncclX of an ncclX. */
#define NCCL_TWIN(result, name, parameters)                                                        \
    extern __attribute__((visibility("default"), alias("nccl" #name))) result pnccl##name parameters
#define NCCL_EXPORT __attribute__((visibility("default")))

/* --- error.c -------------------------------------------------------------------------------------- */
/* Leaves a text for ncclGetLastError and the log; returns result. */
ncclResult_t nccl_fail(ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* What is not offered: ncclInvalidUsage, and no line in the log of a program that only asks. */
ncclResult_t nccl_refuse(const char *call, const char *why);
/* A status of Choir as NCCL's result; of an error the thread's record becomes the text, behind the name of the call. */
ncclResult_t nccl_result(enum choir_status status, const char *call);
ncclResult_t nccl_result_of(enum choir_status status); /* without a text */
const char *nccl_result_text(ncclResult_t result);
/* The calling thread's text, and giving it to another. */
const char *nccl_error_text(void);
void nccl_error_set(const char *text);
/* Before the first call of Choir. */
ncclResult_t nccl_start(void);
bool nccl_on_host(void); /* CHOIR_NCCL_HOST */
/* env.c: NCCL's environment variables, once, before anything reads Choir's. */
void nccl_env_apply(void);

/* --- config.c ------------------------------------------------------------------------------------- */
struct nccl_config {
    bool blocking;
    int max_blocks; /* maxCTAs; 0: none */
    char name[64];
};
/* config NULL: what `fallback` has, or the defaults where that is NULL too. */
ncclResult_t nccl_config_read(const ncclConfig_t *config, const struct nccl_config *fallback,
                              const char *call, struct nccl_config *out);
struct choir_config nccl_config_choir(const struct nccl_config *config); /* name points into it */

/* --- gpu.c ---------------------------------------------------------------------------------------- */
struct nccl_gpu {
    void *context; /* NULL: host memory */
    int ordinal;   /* -1 */
};
ncclResult_t nccl_gpu_here(
    struct nccl_gpu *gpu); /* the calling thread's; device 0 if it has none */
ncclResult_t nccl_gpu_at(int ordinal, struct nccl_gpu *gpu);
/* Makes it the thread's, and takes it back; nothing where context is NULL. */
ncclResult_t nccl_gpu_enter(const struct nccl_gpu *gpu);
void nccl_gpu_leave(const struct nccl_gpu *gpu);
ncclResult_t nccl_gpu_alloc(size_t bytes, void **memory);
ncclResult_t nccl_gpu_free(void *memory);

/* --- handle.c ------------------------------------------------------------------------------------- */
/* Handles are addresses of items that are never given back to the system, so one that was destroyed, or is none, is found out. */
struct nccl_item {
    _Atomic uint32_t life;
    _Atomic uint32_t active; /* calls that are in it, or look whether they may be: not reset */
    struct nccl_item *next;  /* free ones: the one that was freed last comes last */
};
enum nccl_life {
    NCCL_FREE,
    NCCL_LIVE,
    NCCL_CLOSING, /* destroyed in a group that has not ended: its calls still run */
    NCCL_LEAVING  /* no call begins */
};
#define NCCL_CHUNKS 1024
struct nccl_pool {
    const size_t bytes;   /* of an item, which begins with struct nccl_item */
    const uint32_t count; /* items of a chunk */
    pthread_mutex_t lock;
    _Atomic(char *) chunk[NCCL_CHUNKS];
    struct nccl_item *first, *last;
};
void *nccl_pool_take(struct nccl_pool *pool); /* zeroed but for its head, LIVE; NULL: no memory */
void nccl_pool_give(struct nccl_pool *pool, void *item);
bool nccl_pool_has(struct nccl_pool *pool, const void *item); /* it is one, live or not */

#define NCCL_OPS_MADE 64
struct nccl_op {
    choir_op op;
    bool made;
    enum choir_type type;
    ncclScalarResidence_t residence;
    union {
        const void *pointer;
        unsigned char bytes[8]; /* what op reads, if immediate */
    } scalar;
    uint32_t handles, uses; /* ncclRedOpCreate* less ncclRedOpDestroy; calls that have not run */
    uint64_t freed;         /* when it had no handle any more */
};

/* A registration or a window, of one communicator; what is left when that is freed goes with it. */
enum nccl_use { NCCL_REGION, NCCL_WINDOW };
struct nccl_buffer {
    struct nccl_item item;
    enum nccl_use use;
    ncclComm_t comm;
    struct nccl_buffer *next; /* of comm */
    void *memory;
    size_t bytes;
    choir_region *region;
    choir_window *window; /* NULL: Choir has none for such memory, so nothing can be put there */
};
struct nccl_buffer *nccl_buffer_new(enum nccl_use use, ncclComm_t comm, void *memory, size_t bytes);
/* comm's, live, of this use; NULL: there is no such thing. */
struct nccl_buffer *nccl_buffer_find(enum nccl_use use, ncclComm_t comm, const void *handle);
/* Takes it out of comm and gives it back, once; false: somebody else did. */
bool nccl_buffer_end(struct nccl_buffer *buffer);
void nccl_buffer_end_all(ncclComm_t comm);

struct ncclComm {
    struct nccl_item item;
    _Atomic uint32_t refs; /* one while it lives, one for each call collected in a group */
    _Atomic uint32_t
        pending; /* threads that make or end something with it: not to be used meanwhile */
    _Atomic(choir_comm *) choir; /* NULL: not yet, or it failed */
    _Atomic int result;          /* of making it; ncclInProgress until then */
    _Atomic int failed; /* what made no communicator, and did not block, last: its result */
    _Atomic bool revoked, finalized;
    _Atomic bool stopped; /* while it is made: it shall not be */
    int rank, size;
    struct nccl_config config;
    struct nccl_gpu gpu;
    ncclUniqueId grow; /* ncclCommGetUniqueId */
    bool has_grow;
    pthread_mutex_t lock; /* of what follows */
    ncclComm_t making;    /* of it, now */
    struct nccl_buffer *buffers;
    struct nccl_op op[NCCL_OPS_MADE];
    uint64_t op_clock;
};
/* Puts a handle where the caller wants it: another thread may look for it there, to abort it. */
static inline void nccl_comm_tell(ncclComm_t *out, ncclComm_t comm)
{
    __atomic_store_n(out, comm, __ATOMIC_RELEASE);
}
ncclComm_t nccl_comm_new(const struct nccl_config *config, const struct nccl_gpu *gpu);
/* Begins a call: fails with a text where comm is not a communicator that can be used. Nothing frees it until the call leaves. */
ncclResult_t nccl_comm_enter(ncclComm_t comm, const char *call);
/* The same for calls that a communicator in any state takes; and for those of a group that also destroys it. */
ncclResult_t nccl_comm_enter_any(ncclComm_t comm, const char *call);
ncclResult_t nccl_comm_enter_closing(ncclComm_t comm, const char *call);
void nccl_comm_leave(ncclComm_t comm);
ncclResult_t nccl_comm_state(const ncclComm_t comm); /* entered: ncclInProgress, or how it is */
void nccl_comm_hold(ncclComm_t comm);                /* a group has collected a call */
void nccl_comm_drop(ncclComm_t comm);
/* Ends its creation, if it is being made; a job holds it. */
void nccl_comm_stop(ncclComm_t comm);
/* Ends it, LIVE or CLOSING before: waits for calls that are in it. False: somebody else does. */
bool nccl_comm_end(ncclComm_t comm, bool abort);

/* --- job.c ---------------------------------------------------------------------------------------- */
/* What takes other ranks: making a communicator or a window. A job of a blocking communicator ends before its call (or its group)
 * returns; jobs of one group run side by side, those of one parent in the order of their calls. Others have a thread. */
struct nccl_job {
    enum choir_status (*agree)(struct nccl_job *job); /* of the parent's ranks, before; or NULL */
    enum choir_status (*run)(struct nccl_job *job, const struct choir_config *config,
                             choir_comm **made);
    const char *call;
    ncclComm_t comm,
        parent;      /* the one that is made: NULL if none is; the one it is made of, or NULL */
    ncclComm_t *out; /* where the caller has its handle, if one is made */
    void (*done)(struct nccl_job *job); /* hears the result; or NULL */
    bool blocking;
    ncclUniqueId id;
    int rank, size, color, key, *exclude, excludes, flags;
    struct nccl_buffer *buffer; /* of a window */
    ncclWindow_t *win;
    struct nccl_gpu gpu;
    ncclResult_t result;
    char text[512];
    struct nccl_job *next; /* of the same parent and group: after this one */
    const struct blocking *group;
    pthread_t thread;
};
/* Takes a copy (and exclude) over, or fails and frees it: runs it, or puts it in the open group. */
ncclResult_t nccl_job_submit(struct nccl_job *job);
/* Of a group's end: runs them; takes them over. */
ncclResult_t nccl_jobs_run(struct nccl_job **list, uint32_t count);
/* They only end, as failed; orphaned: nobody looks at where their handles would be. */
void nccl_jobs_fail(struct nccl_job **list, uint32_t count, ncclResult_t failed, bool orphaned);

/* --- collective.c, group.c ------------------------------------------------------------------------ */
enum nccl_call {
    NCCL_ALL_REDUCE,
    NCCL_REDUCE,
    NCCL_BROADCAST,
    NCCL_REDUCE_SCATTER,
    NCCL_ALL_GATHER,
    NCCL_ALL_TO_ALL,
    NCCL_GATHER,
    NCCL_SCATTER,
    NCCL_SEND,
    NCCL_RECV,
    NCCL_PUT_SIGNAL,
    NCCL_SIGNAL,
    NCCL_WAIT_SIGNAL
};
struct nccl_task {
    enum nccl_call call;
    ncclComm_t comm;
    const void *send;
    void *recv;
    size_t count;
    ncclDataType_t datatype;
    ncclRedOp_t op;
    int root; /* or peer */
    cudaStream_t stream;
    choir_op made; /* what op is in Choir */
    enum choir_type type;
    struct {
        ncclWindow_t window;
        size_t offset;
        struct choir_signal_wait *wait; /* the task's own */
        uint32_t waits;
        int signal, context;
        unsigned flags;
    } rma;
};
ncclResult_t nccl_task_submit(struct nccl_task *task);
ncclResult_t nccl_task_run(const struct nccl_task *task); /* its communicator is entered */
const char *nccl_task_name(const struct nccl_task *task);
/* rma.c: of one-sided calls. */
ncclResult_t nccl_rma_check(const struct nccl_task *task);
ncclResult_t nccl_rma_run(const struct nccl_task *task, choir_comm *comm, choir_stream *stream);
bool nccl_rma_offered(const ncclComm_t comm);
ncclResult_t nccl_type(ncclDataType_t datatype, const char *call, enum choir_type *type);

void nccl_group_start(void);
/* info: what was collected is priced, not run; communicators are made all the same. */
ncclResult_t nccl_group_end(ncclSimInfo_t *info);
bool nccl_group_open(void);
ncclResult_t nccl_group_note(ncclResult_t result); /* a call failed: the group's end says so */
ncclResult_t nccl_group_add(const struct nccl_task *task);
ncclResult_t nccl_group_add_job(struct nccl_job *job);
enum nccl_end { NCCL_FINALIZE, NCCL_DESTROY };
ncclResult_t nccl_group_add_end(ncclComm_t comm, enum nccl_end how);
ncclResult_t nccl_comm_finish(ncclComm_t comm, enum nccl_end how); /* life.c */

/* simulate.c */
ncclResult_t nccl_simulate(const struct nccl_task *task, uint32_t count, ncclSimInfo_t *info);
ncclResult_t nccl_simulate_check(const ncclSimInfo_t *info);

/* --- op.c ----------------------------------------------------------------------------------------- */
/* Choir's operation for op; it stays until nccl_op_drop. */
ncclResult_t nccl_op_take(ncclComm_t comm, ncclRedOp_t op, enum choir_type type, const char *call,
                          choir_op *made);
void nccl_op_drop(ncclComm_t comm, ncclRedOp_t op);

#endif
