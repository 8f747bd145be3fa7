/* SPDX-License-Identifier: Apache-2.0 */
/*
 * comm.h: the communicator behind choir_comm, and what the files of src/comm share. The only module that knows all
 * others: boot, plans, the host engine.
 *
 *   life.c      create, destroy, abort, queries      creation.c  the steps of coming to life
 *   tree.c      small agreements among all ranks     split.c     children: split, shrink
 *   api.c       entry points, argument checks        call.c      from a call to a bound plan
 *   run.c       running it, scaling                  group.c     groups
 *   stream.c    host streams and events              watch.c     lateness, death, verdicts
 *   memory.c    shared memory, registration          op.c        made operations
 *   window.c    windows                              put.c       puts, signals, waits
 *   window_device.c  the same in GPU memory
 *   counts.c    v-forms that exchange counts first    slice.c     long operations in slices
 *   device.c    operations on GPU memory              staged.c    the same through the host: their turn
 *   staged_call.c  and what a stream does for them    bounce.c    plain host memory for kernels
 *   observe.c    what observers are told (choir_profile.h)
 *   meeting.c   how GPUs come to map each other        suspend.c   giving GPU memory back, taking it again
 */
#ifndef COMM_COMM_H
#define COMM_COMM_H

#include "base/profile.h"
#include "boot/boot.h"
#include "cuda/stream.h"
#include "host/put.h"

#define COMM_OPS 64u /* made operations alive at a time */
#define COMM_RECORDS 64u

/* --- tree.c: agreements. Every rank gives a blob; every rank gets all of them, in rank order ------------ */
#define TREE_CHILDREN BOOT_FANOUT
struct tree_part {
    uint32_t round, bytes, got;
    uint8_t *data;
};
struct comm_tree {
    pthread_mutex_t lock;
    uint32_t round; /* of the last agreement begun */
    bool sent;      /* our part went up */
    uint8_t *own;
    uint32_t own_bytes;
    struct tree_part child[TREE_CHILDREN], down;
    uint32_t down_sent; /* children that have the result */
};
struct tree_record { /* in the result: this, then bytes of blob, padded to 8 */
    uint32_t rank, bytes;
};

/* --- what a call is -------------------------------------------------------------------------------- */
struct comm_call {
    enum choir_kind kind;
    enum choir_type type;
    choir_op op;
    int root;
    uint64_t count;
    const void *in;
    void *out;
    const uint64_t *in_count, *in_offset, *out_count, *out_offset; /* v-forms */
    const uint64_t *all_counts;                                    /* as in struct choir_shape */
    const void *scale;            /* of a scaled sum, if not where it was made with; host memory */
    uint64_t deadline_ns;         /* relative; 0: the communicator's */
    uint32_t max_blocks;          /* of GPU kernels; 0: the communicator's */
    const struct comm_side *side; /* no collective, but this (kind CHOIR_EXCHANGE); or NULL */
    void *owned;                  /* of a copy: all its lists */
};

struct comm_side { /* a put, a signal or a wait, as called */
    enum side_kind { SIDE_PUT, SIDE_PUT_SIGNAL, SIDE_SIGNAL, SIDE_WAIT } kind;
    int peer;
    struct choir_window *window;
    const void *send;
    uint64_t bytes, offset;
    uint32_t signal, count; /* count: of waits */
    const struct choir_signal_wait *wait;
};
struct side_run { /* how far it is */
    struct host_put put;
    uint32_t at; /* waits that have ended */
    bool found;  /* which way bytes go */
    bool looks;  /* it looks again without a ring (host_comm.making) */
};

struct
    comm_memo { /* the last call of the fixed forms: a repeated one is checked and looked up by one comparison */
    struct {
        uint32_t kind, type, op;
        int32_t root;
        uint64_t count;
    } what;
    struct host_bound *bound; /* NULL: nothing is kept */
    struct host_combine combine;
    uint32_t signature;
    bool plain; /* no scaling, no division */
    uint64_t in_bytes, out_bytes;
    int64_t shift; /* in place: bytes of IN from OUT's start */
    bool may_alias;
};

struct comm_key { /* what a bound plan depends on, but for v-form counts */
    uint32_t kind, elem, root, ordered;
    uint64_t count;
};

struct comm_counted {                /* counts.c; for whose turn it is */
    uint64_t *all, all_words;        /* what the ranks told each other */
    uint64_t *key, *next, key_words; /* of `bound`, of the present call */
    struct host_bound *bound;        /* the last such plan */
};

struct comm_op { /* one made by choir_op_create_* */
    bool used, scaled, commutative;
    enum choir_type type;
    const void *scale;
    choir_reduce_fn fn;
    void *context;
};

struct comm_record {
    _Atomic uint64_t sequence, count;
    _Atomic uint32_t signature, kind, type, op;
    _Atomic int32_t root;
};

struct comm_wait { /* cycle.c */
    struct choir_comm *next;
    bool listed;
    int peer; /* for whom it waits, or did */
    const char *what;
    uint64_t seen_ns, probed_ns;
    char text[200]; /* of the cycle it is in, if one was found */
};

enum comm_state { COMM_CREATING, COMM_READY, COMM_FINALIZED, COMM_FAILED };

struct creation;
struct comm_device;
struct comm_meeting;
struct comm_staged;
struct comm_marks;
struct comm_observed;
struct cuda_card;
struct cuda_device;
struct choir_comm {
    uint64_t magic;
    uint32_t generation; /* of the process that made it: a fork's child has another */
    struct host_comm host;
    _Atomic uint32_t state;
    _Atomic bool aborted; /* while it is made, who makes it looks there */
    _Atomic bool revoked; /* by this rank, whatever broke it before */
    struct choir_config config;
    char name[64];
    uint64_t timeout_ns;
    bool host_open, started, has_secret; /* what life.c has to undo */
    struct boot_id id;
    struct comm_tree tree;
    struct creation *creation;
    uint32_t children, shrinks; /* made of it */
    uint32_t splits;            /* of it, revoked */
    struct choir_layout *layout;
    struct plan_cluster cluster;
    struct plan_table *table;
    struct plan_cache *plans;
    uint64_t windows; /* made */
    struct comm_memo memo;
    struct comm_counted counted;
    struct comm_op ops[COMM_OPS];
    _Atomic uint32_t busy;   /* a call is in it */
    _Atomic uint64_t caller; /* the last call's thread */
    struct comm_wait wait;
    _Atomic uint64_t
        tickets; /* drawn while busy is held, or by a replay that goes through the host */
    _Atomic uint64_t served; /* operations called; ended: in order, streams included */
    uint64_t collectives;    /* begun: equal on all ranks at the same point of the program */
    struct comm_record record[COMM_RECORDS];
    struct host_op op; /* of calls without a stream */
    uint8_t *scaled;   /* copy of inputs of a scaled sum */
    uint64_t scaled_bytes;
    uint8_t *packed; /* blocks of a slice */
    uint64_t packed_bytes;
    uint64_t
        slice_bytes; /* GPU memory goes through the host, longer operations in slices; 0: not so */
    _Atomic uint8_t *gone; /* [size] enum comm_gone */
    struct service_work flood;
    _Atomic uint32_t flooding;
    struct choir_error verdict;   /* what is flooded */
    uint64_t asked_ns, logged_ns; /* watch.c: last question, last log line */
    uint64_t left_seen;           /* watch.c: an operation was found to wait for ... */
    int left_peer;                /* ... this rank, which has left */
    struct cuda_device *here;     /* the GPU of the thread that created it, or NULL */
    struct cuda_overlap *overlap; /* of overlap.c: made by the first call that asks for it */
    struct cuda_order *order;     /* likewise, by the first in a CUDA stream */
    struct comm_device *device;   /* its GPU side, where all ranks' map each other, or NULL */
    struct comm_meeting *meeting; /* of GPUs, while it lasts */
    struct comm_staged
        *staged; /* how its GPU's memory, or plain memory for it, goes through the host, or NULL */
    struct profile_event life; /* told from ready to destroyed */
    struct comm_marks *marks;  /* observe.c: kernels that are told of; with `device` */
};
#define COMM_MAGIC 0x63686f6972636f6dull

/* How a rank has left in order, if it has: no death. COMM_FRAME_BYE carries it in arg[0]. */
enum comm_gone { COMM_HERE, COMM_DESTROYED, COMM_EXITED };

/* Frames. */
enum comm_frame {
    COMM_FRAME_UP = HOST_FRAME_COMM, /* arg: round, bytes in all, offset */
    COMM_FRAME_DOWN,
    COMM_FRAME_BYE,     /* the sender leaves; arg[0] enum comm_gone */
    COMM_FRAME_VERDICT, /* payload struct choir_error */
    COMM_FRAME_QUERY,   /* arg: collectives begun, signature */
    COMM_FRAME_STATE,   /* the answer: arg: the asked one, its signature there */
    COMM_FRAME_PROBE,   /* cycle.c; arg: how many waits the payload has */
};

/* tree.c */
void tree_init(struct comm_tree *t);
void tree_free(struct comm_tree *t);
enum choir_status tree_start(struct choir_comm *c, const void *blob, uint32_t bytes);
/* CHOIR_OK: *result (malloc) holds every rank's record in rank order. */
enum choir_status tree_test(struct choir_comm *c, uint8_t **result, uint32_t *bytes);
int tree_waits_for(struct choir_comm *c); /* a rank, or -1: for nobody */
/* Waits for news of over's agreement, not long, and advances c. waited_ns: so far. */
enum choir_status tree_wait(struct choir_comm *over, uint64_t waited_ns, struct choir_comm *c,
                            enum choir_status (*advance)(struct choir_comm *c));
void tree_frame(struct choir_comm *c, const struct choir_frame *f, const void *payload);
/* The same, and where every rank's blob is: of at least so many bytes each. Freed in any case. */
struct tree_answers {
    uint8_t *all;
    const void **blob;
    uint32_t *bytes;
};
enum choir_status tree_answers(struct choir_comm *c, uint32_t least, struct tree_answers *x);
void tree_answers_free(struct tree_answers *x);
static inline uint32_t tree_parent(uint32_t rank)
{
    return (rank - 1) / TREE_CHILDREN;
}

/* derive.c: a hash of every setting of the process that shapes what goes over the wire; cards of one version and settings; what
 * follows from the cards. */
uint64_t derive_wire_hash(void);
enum choir_status derive_check(struct choir_comm *c);
enum choir_status derive_all(struct choir_comm *c);

/* life.c, creation.c */
struct choir_comm *comm_alloc(const struct choir_config *config, enum choir_status *status);
void comm_free(struct choir_comm *c);
void comm_break_aborted(struct choir_comm *c);
enum choir_status comm_check(const struct choir_comm *c); /* a live handle of this process */
enum choir_status comm_check_made(struct choir_comm *c);  /* and not being created any more */
/* Begins creation from an id, or from members already known (children). */
enum choir_status creation_start_id(struct choir_comm *c, const struct choir_id *id, uint32_t rank,
                                    uint32_t size);
enum choir_status creation_start_members(struct choir_comm *c, uint64_t key, uint32_t rank,
                                         uint32_t size, struct host_peer **members);
/* One step; CHOIR_IN_PROGRESS until ready or failed. */
enum choir_status creation_advance(struct choir_comm *c);
/* Blocks (or hands over to the service thread or the open group), as the communicator's config says. */
enum choir_status creation_finish(struct choir_comm *c, struct choir_comm **out);
/* A child begun by split; its parent's tree carries the colours. own: the parent is there for nothing else, and goes with it. */
enum choir_status creation_start_split(struct choir_comm *c, struct choir_comm *parent, bool own,
                                       int color);
/* Frames and verdicts of its ranks reach it from here on; its host has key, rank, size and members. */
enum choir_status creation_open_host(struct choir_comm *c);
/* After success: a rank of no colour has no child. */
void creation_settle(struct choir_comm *c, struct choir_comm **out);
struct split_result {
    uint64_t key;
    uint32_t rank, size;
    struct host_peer **members; /* NULL: no colour */
};
enum choir_status split_members(struct choir_comm *parent, const uint8_t *all, uint32_t bytes,
                                int color, struct split_result *out);
void creation_free(struct choir_comm *c);

/* call.c */
void call_shape(const struct choir_comm *c, const struct comm_call *call,
                struct choir_shape *shape);
/* The caller frees it after the operation. cached: it stays for others like it. */
enum choir_status call_bind(struct choir_comm *c, const struct comm_call *call,
                            struct host_bound **bound, bool *cached);
/* The same by a given algorithm, not kept. */
enum choir_status call_bind_new(struct choir_comm *c, const struct comm_call *call,
                                const char *algorithm, struct host_bound **bound);
/* Numbers in the call's list i: in_count, in_offset, out_count, out_offset. */
uint32_t call_list_length(const struct choir_comm *c, const struct comm_call *call, unsigned i);
/* A copy that owns its counts and offsets. */
enum choir_status call_copy(struct choir_comm *c, const struct comm_call *call,
                            struct comm_call *copy);
void call_free(struct comm_call *copy);
/* After a task of a fixed form was prepared. */
struct comm_task;
void call_memoise(struct choir_comm *c, const struct comm_task *t);
const char *call_algorithm(const struct choir_comm *c, const struct comm_call *call);
uint32_t call_signature(const struct choir_comm *c, const struct comm_call *call);
/* What tells its plan from others, a v-form's counts included; 0: too long to be kept. */
#define CALL_KEY_BYTES 8192u
size_t call_key(const struct choir_comm *c, const struct comm_call *call,
                uint8_t key[CALL_KEY_BYTES]);
/* The algorithm that the configuration demands whatever is cheapest, or NULL. */
const char *call_flat(const struct choir_comm *c, const struct comm_call *call);
enum choir_status call_combine(struct choir_comm *c, const struct comm_call *call,
                               struct host_combine *combine);
/* Checks a call and runs it, or puts it in the open group or its stream. */
enum choir_status comm_submit(struct choir_comm *c, struct comm_call *call,
                              struct choir_stream *stream, const struct choir_call *options);
struct comm_message { /* a send or receive of a group */
    bool send;
    uint32_t peer;
    uint8_t *memory;
    uint64_t bytes;
    enum choir_type type; /* as called */
};
/* The plan of a group's messages: byte elements at absolute addresses, so both buffers begin at 0. */
enum choir_status exchange_plan(struct choir_comm *c, const struct comm_message *list, uint32_t n,
                                uint64_t slot_bytes, uint32_t depth, uint32_t window,
                                struct choir_plan **plan);
enum choir_status exchange_bind(struct choir_comm *c, const struct comm_message *list, uint32_t n,
                                struct host_bound **bound);
/* The record of this thread becomes the communicator's last error; returns status. */
enum choir_status comm_take_error(struct choir_comm *c, enum choir_status status);

/* api.c */
enum choir_status comm_ready(struct choir_comm *c); /* takes operations */
enum choir_status comm_check_peer(struct choir_comm *c, int peer);

/* put.c: of tasks with call.side */
const char *side_name(const struct comm_side *side);
enum choir_status side_copy(struct choir_comm *c, const struct comm_side *side,
                            struct comm_call *copy);
bool side_advance(void *task); /* as host_op_advance of c->op, whose status and waiting it sets */
enum choir_status side_wait(struct comm_task *t);
void side_end(struct comm_task *t);

/* run.c */
#define COMM_EXCHANGE_SIGNATURE 0x5eed5eedu
struct task_side {   /* a buffer of an operation in slices */
    uint8_t *at[2];  /* where even and odd slices begin to be counted, */
    uint64_t step;   /* bytes from a slice to the next */
    uint64_t stride; /* elements from a block to the next; 0: no blocks, or packed */
};
struct task_cut {
    uint64_t slices, each,
        last;                 /* elements of a slice, of the last one; at most 1: it is not cut */
    uint64_t slice;           /* the present one */
    struct task_side side[2]; /* IN, OUT */
    struct host_bound *bound[2]; /* of all but the last, of the last */
    uint32_t signature[2];
    uint8_t *unpacked; /* where the packed blocks of OUT go, or NULL */
};
struct comm_task { /* one operation, from its call to its end */
    struct choir_comm *comm;
    struct comm_call call, call_copy; /* call_copy: owns the counts, on a stream */
    uint32_t signature;
    struct host_bound *bound; /* NULL: nothing to do (count 0) */
    bool owns_bound, cached, begun;
    bool counting;  /* the counts are on their way; the operation itself follows */
    bool on_device; /* its inputs are copies of what a GPU has */
    struct task_cut cut;
    struct side_run side;
    uint64_t ticket, limit_ns, started_ns;
    void *saved, *saved_from; /* config.restorable */
    uint64_t saved_bytes;
    struct comm_observed *observed; /* observe.c: what is told of it; NULL: nothing */
    uint64_t group;                 /* id of the event of the group it was called in, or 0 */
    const void *stream;
    enum choir_profile_stream stream_kind;
};
/* busy: one thread at a time in a communicator. */
bool comm_enter(struct choir_comm *c);
void comm_leave(struct choir_comm *c);
enum choir_status run_call(struct choir_comm *c, const struct comm_call *call);
/* If the call repeats the last one: true, and it was run. */
bool run_memo(struct choir_comm *c, const struct comm_call *call, enum choir_status *status);
/* exchange: the bound plan of a group's messages (taken over), or NULL. Draws the ticket. */
enum choir_status task_prepare(struct choir_comm *c, const struct comm_call *call,
                               struct host_bound *exchange, struct comm_task *t);
/* The same without a ticket. */
enum choir_status task_bind(struct choir_comm *c, const struct comm_call *call,
                            struct host_bound *exchange, struct comm_task *t);
/* Begins or advances; true when ended, with its status. For callers that do not block. */
bool task_step(struct comm_task *t, enum choir_status *status);
bool task_turn(const struct comm_task *t); /* all operations called before have ended */
enum choir_status task_begin(struct comm_task *t);
enum choir_status task_end(struct comm_task *t, enum choir_status status);
enum choir_status run_task(struct comm_task *t); /* waits for its turn, begins, waits, ends */
/* On its turn: begins the present slice and waits for its end. *ended: so has the task. */
enum choir_status run_slice(struct comm_task *t, bool *ended);

/* Floats of 8 and 16 bits: their averages divide the inputs. */
bool comm_small_float(enum choir_type type);

/* slice.c */
/* Of how many slices a call is, at least 1, and how many elements all but the last have. */
uint64_t slice_count(const struct choir_comm *c, const struct comm_call *call, uint64_t *each);
uint64_t slice_room(uint64_t slice_bytes, uint32_t size); /* bytes that both buffers of one take */
bool slice_blocks(const struct choir_comm *c, const struct comm_call *call,
                  unsigned side);                  /* the buffer has one for each rank, here */
enum choir_status slice_bind(struct comm_task *t); /* finds plans; selects the first slice */
void slice_unbind(struct comm_task *t);
void slice_select(struct comm_task *t, uint64_t slice);
struct comm_call slice_whole(const struct comm_task *t); /* the call before it was cut */
enum choir_status slice_pack(struct comm_task *t);       /* before the operation ... */
void slice_unpack(struct comm_task *t);                  /* ... and after it */

/* counts.c */
bool counts_first(const struct choir_comm *c, const struct comm_call *call);
enum choir_status counts_prepare(struct comm_task *t);
/* On the task's turn: where the counts come from and go to. */
enum choir_status counts_begin(struct comm_task *t, const void **in, void **out);
/* They are here: holds them against what this rank expects and binds the operation itself. */
enum choir_status counts_end(struct comm_task *t);
void counts_free(struct choir_comm *c);

/* group.c */
bool group_open(void);
void group_start_quietly(void); /* one that observers are not told of */
uint64_t group_event(void);     /* of this thread's group; 0: there is none */
/* A call failed: if in a group, its end returns the first such error and runs nothing. Returns st. */
enum choir_status group_note(enum choir_status st);
enum choir_status group_add(struct choir_comm *c, const struct comm_call *call,
                            choir_stream *stream);
/* options: a call, for its deadline and blocks. */
enum choir_status group_add_message(struct choir_comm *c, const struct comm_call *options,
                                    const struct comm_message *m, choir_stream *stream);
/* What the end of the group advances until it is no more CHOIR_IN_PROGRESS; out: of a creation, else NULL. */
enum choir_status group_add_step(struct choir_comm *c, struct choir_comm **out,
                                 enum choir_status (*advance)(struct choir_comm *c));

/* stream.c */
/* Takes task and the copied call over, whatever it returns. */
enum choir_status stream_submit(choir_stream *stream, struct comm_task *task,
                                const struct comm_call *copy);
enum choir_status stream_submit_call(choir_stream *stream, struct choir_comm *c,
                                     const struct comm_call *call);

/* cycle.c */
/* An operation waits for a rank; said again at least every 20 ms while it does. what: a constant text. */
void cycle_waits(struct choir_comm *c, int peer, uint64_t waited_ns, const char *what);
/* "; " and the cycle that it is in, or nothing. */
void cycle_text(struct choir_comm *c, char *text, size_t bytes);
void cycle_probe(struct choir_comm *c, const struct choir_frame *f, const void *payload);
#define CYCLE_REMEDY "all ranks use their communicators in the same order, or in one group"
void cycle_forget(struct choir_comm *c); /* before no upcall enters it any more */

/* explain.c */
/* In words: how the call of `peer`, that has this signature, is not as ours. */
void explain(const struct choir_comm *c, const struct comm_call *ours, uint32_t signature,
             uint32_t peer, char *text, size_t bytes);

/* op.c */
const struct comm_op *op_find(const struct choir_comm *c, choir_op op); /* NULL: not a made one */

/* watch.c */
void watch_close(struct choir_comm *c); /* no verdict is sent any more */
void watch_control(struct host_comm *host, const struct choir_frame *f, void *payload);
void watch_peer_failed(struct host_comm *host, struct host_peer *peer, enum choir_status status,
                       const char *text);
void watch_broke(struct host_comm *host);
void watch_leave(struct host_comm *host); /* at exit */
void watch_say_bye(struct choir_comm *c, enum comm_gone how);
/* An error for a rank that waits for one that has left; CHOIR_OK: it has not. */
enum choir_status watch_left(struct choir_comm *c, int peer, const char *what);
void watch_record(struct choir_comm *c, const struct comm_call *call, uint32_t signature);
/* Of the running operation, for host_comm.explain. */
void watch_explain(struct host_comm *host, uint32_t signature, uint32_t peer, char *text,
                   size_t bytes);
/* The same of the operation that was recorded with signature `own`. */
void watch_explain_record(struct choir_comm *c, uint32_t own, uint32_t signature, uint32_t peer,
                          char *text, size_t bytes);
enum choir_status watch_late(void *task, uint64_t waited_ns);
enum choir_status comm_fail(struct choir_comm *c, enum choir_status status, const char *remedy,
                            const char *text, ...) __attribute__((format(printf, 4, 5)));

#endif
