/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host.h: the host engine: this process among others, links between ranks, and running plans on host memory.
 * Joins plans (src/plan), kernels (src/reduce) and transports; knows no collective by name.
 *
 *   process.c             this process: transports opened, closed
 *   cards.c               what processes tell of themselves, and how it is kept
 *   peers.c, reach.c      other processes: frames handed to communicators; over what they are reached, when they are dead
 *   transports.c          finding transports and completing their tables
 *   service.c             the service thread: poll, timers, operations of host streams
 *   comm.c                a communicator as the engine sees it, and control frames
 *   link.c, fragment.c    one rank to another: inboxes; fragments, acknowledgements
 *   shared.c, put.c       memory that peers can map; writing into it, and signals (put.h)
 *   bind.c                a plan with byte offsets
 *   engine.c, step.c, pending.c   the state machine that runs it
 *   wait.c, bell.c        how a caller waits, and how a sleeper is woken
 */
#ifndef HOST_HOST_H
#define HOST_HOST_H

#include "choir_transport.h"
#include "host/lane.h"
#include "plan/plan.h"
#include "reduce/reduce.h"
#include "topo/topo.h"
#include <pthread.h>
#include <string.h>

/* --- process and peers (process.c, cards.c, peers.c, reach.c) ----------------------------------- */
#define HOST_TRANSPORTS 8u
#define HOST_CARD_MOST 960u /* bytes; fits boot's address blob */

/* What a rank tells the others of itself at creation; followed by the transports' addresses, each
 * { uint8_t name_bytes, address_bytes (little endian 16 bit); name; address }. */
struct host_card {
    struct choir_process process;
    uint64_t host_key;               /* equal on ranks of a host */
    uint32_t version, bytes;         /* bytes: of the whole card */
    uint32_t cores, quota;           /* that it may run on; of its control groups, 0: none */
    uint32_t reads_fast;             /* peers' memory on the host (CHOIR_CAP_READ_FAST) */
    uint8_t core_set[TOPO_CORE_SET]; /* which: ranks of a host may be bound to different ones */
    uint64_t wire_hash;              /* of every setting that must be equal on all ranks */
};

enum host_end_state {
    HOST_END_NONE,
    HOST_END_TRYING, /* our connect is under way */
    HOST_END_READY,
    HOST_END_FAILED /* for good */
};
struct host_peer;
struct host_end { /* one transport's endpoint to a peer process; the cookie of its upcalls */
    struct host_peer *peer;
    uint32_t transport; /* index into host_process.transport */
    uint32_t round;     /* over the transports, in which it was tried last */
    _Atomic uint32_t state;
    struct choir_endpoint *endpoint; /* written under the lock of the peer's way, before READY */
};
/* Another process, or this one; lives as long as this process. Most are only known: what reaching one takes is made when
 * that begins, or when it comes by itself. */
struct host_peer {
    struct host_peer *next;
    struct choir_process id;
    _Atomic(const struct host_kept *) card; /* once a communicator brought it (cards.c) */
    _Atomic(struct host_way *) way;         /* its ends (reach.c) */
    _Atomic(struct host_end *) best;        /* the first READY one; NULL: none yet */
    _Atomic int32_t failed; /* choir_status once no end is left or the process died */
};
struct host_transport {
    const struct choir_transport_ops *ops; /* overlaid: no entry is NULL */
    struct choir_transport *t;
    pthread_mutex_t lock; /* progress only */
    bool maps;            /* has map: lanes lie in shared memory */
};
struct host_process {
    struct choir_process id;
    uint64_t host_key;
    _Atomic uint32_t
        transports; /* grows after its entry is whole: the service thread may run already */
    struct host_transport transport[HOST_TRANSPORTS];
    bool opened;
    bool membarrier; /* sleepers pay the fence */
};
extern struct host_process host_process;

/* Opens transports and starts the service thread; idempotent and counted: each start wants a stop. */
enum choir_status host_start(void);
void host_stop(void);
extern uint32_t host_generation; /* counts forks on the way to this process */
/* This process's card; `card` has room for HOST_CARD_MOST bytes. */
enum choir_status host_card_write(struct host_card *card, uint64_t wire_hash);
struct host_peer *host_peer_find(const struct choir_process *id, bool create);
/* The process whose card it is, which is kept; NULL: it is none, or no memory. */
struct host_peer *host_peer_learn(const void *card, uint32_t bytes);
/* What the card of a learned peer says, without addresses. */
void host_peer_card(const struct host_peer *peer, struct host_card *card);
/* Starts reaching the learned peer if that has not begun; true once peer->best is set. Never blocks. */
bool host_peer_reach(struct host_peer *peer);
/* What to say of a rank whose peer->failed is set before it was reached. */
#define HOST_UNREACHED "rank %u's process cannot be reached by any transport"
#define HOST_UNREACHED_REMEDY                                                                      \
    "choir-info shows the transports; see CHOIR_SOCKET_IFNAME for networks"
static inline struct host_end *host_peer_end(struct host_peer *peer)
{
    return atomic_load_explicit(&peer->best, memory_order_acquire);
}
static inline bool host_same_process(const struct host_end *end)
{
    return !memcmp(&end->peer->id, &host_process.id, sizeof(host_process.id));
}
static inline const struct choir_transport_ops *host_end_ops(const struct host_end *end)
{
    return host_process.transport[end->transport].ops;
}
void host_secret_add(const unsigned char secret[32]);
void host_secret_forget(const unsigned char secret[32]);
void host_transports_print(FILE *out);
/* Lets every transport progress once; returns events seen. Skips one that another thread drives. */
uint32_t host_progress(void);
/* Whether what transports gave to be watched tells of everything, or they are driven. */
void host_arm(bool on);

/* Frames. Kinds below CHOIR_FRAME_DATA are control; comm handles those from HOST_FRAME_COMM on. put.h has more. */
enum host_frame {
    HOST_FRAME_LINK = 1, /* "make an inbox for me": arg[0] bell key (0: none), arg[1] slot bytes */
    HOST_FRAME_INBOX, /* the answer: arg[0] inbox key (0: send frames), arg[1] 1: long messages are read fast, arg[2] bell key */
    HOST_FRAME_COMM = 16,
    HOST_FRAME_FRAGMENT =
        CHOIR_FRAME_DATA, /* lane, sequence, signature; arg[0] data ring offset, arg[1] where,
                                               arg[2] fragments of the lane the other way consumed */
    HOST_FRAME_CONSUMED,  /* lane; arg[2] as above */
};

/* --- service thread (service.c) ----------------------------------------------------------------- */
enum choir_status service_start(void);
void service_stop(void);
void service_kick(void); /* makes it look around */
enum choir_status service_watch(struct host_transport *transport, int fd, int writable,
                                void (*fn)(void *), void *arg);
/* fn(arg) on the service thread about every period_ns, until it is removed. */
struct service_timer {
    struct service_timer *next;
    uint64_t period_ns, due_ns;
    void (*fn)(void *arg);
    void *arg;
};
void service_timer_add(struct service_timer *timer);
void service_timer_remove(struct service_timer *timer); /* on return fn does not run any more */
/* While drivers > 0, callers drive transports and the service thread keeps off their descriptors. */
void service_driver_enter(void);
void service_driver_leave(void);
/* An operation the service thread advances: step(arg) true when done. Linked in by its owner. */
struct service_work {
    struct service_work *next;
    bool (*step)(void *arg);
    void *arg;
    struct host_comm *comm; /* whose bell wakes it, or NULL */
};
void service_work_add(struct service_work *work);

/* --- communicator, as the engine sees it ---------------------------------------------------------- */
#include "host/bell.h"

enum host_link_state {
    HOST_LINK_NONE,
    HOST_LINK_REACHING,
    HOST_LINK_ASKED,
    HOST_LINK_MAPPING,
    HOST_LINK_READY
};
struct host_link { /* this rank and one peer rank of a communicator, both directions */
    uint32_t peer;
    struct host_comm *comm;
    _Atomic uint32_t out; /* enum host_link_state of the sending direction */
    _Atomic uint32_t in;  /* 1: an inbox is there */
    bool
        pulls; /* the peer is fast at reading this process's memory: long messages are left for it */
    bool same; /* same process: its addresses are ours */
    _Atomic uint32_t dead;
    struct host_end *end;             /* what we send over */
    struct host_end *back_end;        /* what the peer sends over */
    _Atomic(struct host_bell *) bell; /* the peer's, or NULL: its transport wakes it */
    _Atomic uint64_t bell_key;        /* still to be mapped, or 0 */
    _Atomic uint32_t finding_bell;    /* a thread is at it: what follows is its own */
    struct host_bell_box *bell_box;   /* same process: held */
    struct host_bell *mapped_bell;
    struct host_end *bell_end;
    struct lane_segment *mapped;  /* the peer's inbox for us */
    uint64_t inbox_key;           /* the peer's, as it answered; 0: send frames */
    struct choir_shared inbox;    /* ours for the peer, if shared */
    struct lane_segment *segment; /* the same, shared or private */
    uint8_t *lent;                /* by frames: copies of what is under way, LANE_COUNT rings */
    _Atomic uint32_t heard[LANE_COUNT];
    struct choir_send request[LANE_COUNT][LANE_DEPTH];
    struct lane_tx tx[LANE_COUNT];
    struct lane_rx rx[LANE_COUNT];
};

struct host_comm {
    struct host_comm *next; /* in the table by key */
    _Atomic uint32_t users; /* upcalls at work in it */
    uint64_t key;           /* names the communicator on the wire, its epoch included */
    uint32_t rank, size;
    struct host_peer **member;         /* [size] */
    _Atomic(struct host_link *) *link; /* [size], made when first needed */
    _Atomic(struct host_puts *) puts;  /* put.c; the same */
    pthread_mutex_t lock;              /* making links, the error record */
    struct host_bell_box *bell_box;    /* own */
    struct host_bell *bell;
    uint64_t slot_bytes;
    _Atomic int32_t broken; /* choir_status that every operation ends with, or 0 */
    struct choir_error error;
    uint32_t local_ranks, local_cores; /* on this host */
    uint64_t sequence;                 /* operations begun */
    _Atomic uint64_t begun; /* the same, for who writes for a peer that knew of one (put.c) */
    uint32_t pass;          /* of host_pending_advance */
    uint8_t *scratch;       /* TMP of the running operation */
    uint64_t scratch_bytes;
    _Atomic uint64_t shared_bytes, private_bytes;
    _Atomic uint32_t links;
    _Atomic uint32_t making;      /* links on their way: not all of their news rings the bell */
    _Atomic uint32_t frame_links; /* directions of links that frames carry */
    /* Control frames of kinds from HOST_FRAME_COMM on; payload is freed by the callee (malloc). */
    void (*control)(struct host_comm *comm, const struct choir_frame *frame, void *payload);
    /* The peer's process is gone. */
    void (*peer_failed)(struct host_comm *comm, struct host_peer *peer, enum choir_status status,
                        const char *text);
    void (*leave)(struct host_comm *comm); /* the process ends in order */
    void (*broke)(struct host_comm *comm); /* by the first host_comm_break, its lock held */
    /* In words, what `peer` called, whose fragment has another signature than the running operation. NULL: not known. */
    void (*explain)(struct host_comm *comm, uint32_t signature, uint32_t peer, char *text,
                    size_t bytes);
    void *owner;
};
/* In and out of the table that arriving frames are handed out by (peers.c). */
struct host_bell_box *peers_hold_bell(uint64_t key, uint32_t rank); /* NULL: no such rank here */
void peers_add_comm(struct host_comm *comm);
bool peers_remove_comm(struct host_comm *comm,
                       uint64_t most_ns); /* false: an upcall is still at work */
enum choir_status host_comm_open(
    struct host_comm *comm); /* key, rank, size, member set; slot_bytes before any link */
/* No upcall enters the communicator any more, nor is in it; false: one did not return, so it is to be kept. */
bool host_comm_hide(struct host_comm *comm);
void host_comm_close(struct host_comm *comm); /* after host_comm_hide */
/* Ends every operation of the communicator with status; first one wins. Any thread. */
void host_comm_break(struct host_comm *comm, enum choir_status status,
                     const struct base_error_at *at, const char *remedy, const char *text, ...)
    __attribute__((format(printf, 5, 6)));
/* Sends a control frame to a rank; false: its process is not reached yet, try again later. The payload is copied. */
bool host_control_send(struct host_comm *comm, uint32_t to, uint16_t kind, const uint64_t arg[3],
                       uint32_t flags, const void *payload, uint32_t bytes);

/* A rank's last word, to who has heard of this process or is about to; arg as in frame.arg[0]. */
void host_control_last(struct host_comm *comm, uint32_t to, uint16_t kind, uint64_t arg);
void host_control_sweep(bool all); /* frees payloads that transports are done with */

/* --- memory that peers can map (shared.c) -------------------------------------------------------- */
struct host_view {        /* where an address lies in it */
    uint64_t key, offset; /* key 0: nowhere */
    uint32_t transport;
};
enum choir_status host_shared_alloc(size_t bytes, void **memory);
enum choir_status host_shared_free(void *memory);
bool host_shared_find(const void *memory, uint64_t bytes, struct host_view *view);
void host_shared_forked(void); /* in the child: none of it is there */

/* --- links (link.c) --------------------------------------------------------------------------- */
struct host_link *host_link_get(struct host_comm *comm, uint32_t peer); /* NULL: no memory */
void host_link_retry_bell(struct host_link *link);
bool host_link_ready(struct host_link *link); /* may send; starts connecting if it has not begun */
static inline bool host_link_in(const struct host_link *link)
{
    return atomic_load_explicit(&link->in, memory_order_acquire) != 0;
}
void host_link_frame(struct host_comm *comm, struct host_end *end, const struct choir_frame *frame);
void *host_link_place(struct host_comm *comm, const struct choir_frame *frame);
void host_link_arrived(struct host_comm *comm, const struct choir_frame *frame, void *where);
void host_link_free(struct host_link *link);
/* Publishes a fragment from contiguous memory; false: no room now. `lend`: the source stays unchanged until
 * host_link_freed passes (frames). */
bool host_link_put(struct host_link *link, uint32_t lane, const void *source, uint64_t bytes,
                   uint32_t signature, bool lend);
/* For sources in pieces: room in the line or data ring to be filled, then host_link_publish. NULL: no room. */
void *host_link_room(struct host_link *link, uint32_t lane, uint64_t bytes);
void host_link_publish(struct host_link *link, uint32_t lane, uint64_t bytes, uint32_t signature);
/* Publishes a whole message to be read by the peer; view: where it can be mapped. */
bool host_link_put_pull(struct host_link *link, uint32_t lane, const void *source, uint64_t bytes,
                        const struct host_view *view, uint32_t signature);
/* The message to be read at the front: maps it if it can be. CHOIR_IN_PROGRESS: not yet, and there is no other way. */
enum choir_status host_link_view(struct host_link *link, uint32_t lane);
void host_link_unview(struct host_link *link, uint32_t lane);
void host_link_consume(struct host_link *link, uint32_t lane,
                       uint32_t where); /* the front fragment is used up */
void host_link_pulled(struct host_link *link, uint32_t lane,
                      uint64_t bytes); /* progress of a pull */
uint32_t host_link_freed(struct host_link *link,
                         uint32_t lane); /* by frames: prefix that may be rewritten */
enum choir_status host_link_read(struct host_link *link, void *to, uint64_t from, uint64_t bytes);

static inline void host_link_ring(struct host_link *link)
{
    host_bell_ring(atomic_load_explicit(&link->bell, memory_order_relaxed), link->same, link->end);
}
void host_bell_wake_own(struct host_comm *comm); /* local events: service thread to caller */

/* --- a plan with byte offsets (bind.c) ------------------------------------------------------------ */
struct host_seg {
    uint64_t at, bytes; /* offset in the buffer */
};
struct host_place {
    struct host_link *link; /* NULL: local */
    uint32_t buf, segs;
    struct host_seg *seg; /* local only */
};
struct host_rstep { /* a step at one iteration and instance */
    uint32_t step, iter;
    uint16_t ins, outs;
    uint16_t msg_ins, msg_outs;
    bool simple; /* every local place is one segment */
    bool
        exchanged; /* pending: in place, received bytes are written over its source before anything else is sent */
    uint64_t bytes;
    struct host_place *place; /* ins, then outs */
};
struct host_bound {
    struct choir_plan *plan;
    _Atomic uint32_t holders; /* beside its first owner */
    const char *algorithm;    /* that made it */
    uint32_t elem;            /* bytes of an element */
    uint64_t slot_bytes;
    uint64_t extent[2]; /* bytes of IN and OUT, to the end of the last part; EXCHANGE: 0 */
    uint64_t tmp_stride, tmp_bytes;  /* of one instance */
    uint64_t pulled_bytes;           /* of host_run.pulled */
    uint32_t most_places, most_segs; /* of any step */
    uint32_t most_ins;
    uint32_t pendings;     /* most messages an instance posts */
    uint64_t pending_segs; /* segments these need in all */
    uint32_t receives;     /* EXCHANGE: so many last steps are plain receives, run in any order */
    uint32_t cached;       /* resolved steps of the one program, or 0: resolved as it runs */
    struct host_rstep *rstep;
    uint64_t memory_bytes;
};
enum choir_status host_bind(struct host_comm *comm, struct choir_plan *plan, uint32_t elem,
                            struct host_bound **bound); /* takes plan over on success */
/* Each holder frees it too; the last one's counts. */
void host_bound_free(struct host_bound *bound);
static inline void host_bound_hold(struct host_bound *bound)
{
    atomic_fetch_add_explicit(&bound->holders, 1, memory_order_relaxed);
}
/* Resolves a step into *r; places and segs have room for bound->most_*. */
void host_resolve(struct host_comm *comm, const struct host_bound *bound, uint32_t instance,
                  uint32_t step, uint32_t iter, struct host_rstep *r, struct host_seg *segs);

/* --- running (engine.c, pending.c) ------------------------------------------------------------------ */
typedef void (*host_user_fn)(void *ctx, void *dst, const void *const *src, uint32_t nsrc,
                             uint64_t count);
struct host_combine {
    reduce_fn fn; /* NULL: user */
    choir_reduce_fn user;
    void *context;
    enum choir_type type;
};

/* Messages to this size are always copied through slots; longer ones are read by the peer, if that is faster (CHOIR_CAP_READ_FAST):
 * two copies through warm slots cost less than a system call and pinning pages. */
#define HOST_COPY_BYTES 8192u
/* In an all-reduce in place, what is read is written over by its owner soon after, who then has to wait: 16 KiB of 2 ranks 5.3 us
 * copied and 6.8 read. */
#define HOST_COPY_IN_PLACE_BYTES 16384u
/* Messages over this size are lent to the transport where frames carry them, shorter ones copied. */
#define HOST_LEND_BYTES 8192u

struct host_pending { /* a message from local memory, streaming in the background */
    struct host_link *link;
    const uint8_t *base; /* of the buffer its segments are in */
    struct host_seg *seg;
    uint32_t segs;
    bool started, pull, published; /* begun; to be read by the peer; nothing left to publish */
    bool exchanged;                /* as in host_rstep */
    uint64_t bytes, done;          /* published so far */
    uint32_t first, last;          /* fragment numbers, once begun and once published */
};

struct host_receive { /* one of the receives that end an exchange */
    uint64_t at;
    bool done, landing;
};

enum host_phase { HOST_AWAIT, HOST_WRITE };
struct host_run { /* one live instance; its number modulo the window is its lane */
    uint32_t instance, lane;
    bool live, finished; /* finished: all steps done, pendings may still stream */
    enum host_phase phase;
    bool landing;
    uint32_t index; /* of the cached resolved step */
    uint32_t seen;  /* message ins of the fragment known to have arrived */
    uint64_t at;    /* bytes of the step already done */
    uint64_t until; /* HOST_WRITE: the end of what lies in staging or, fetched, in pulled */
    bool
        fetched; /* what peers' messages hold up to there lies in pulled, and is still to be combined */
    uint64_t slot_bytes;
    const struct host_rstep *now;
    struct plan_cursor cursor;
    uint8_t *tmp, *staging,
        *pulled; /* staging: a fragment for late writes; pulled: what was read from peers */
    const void **source;
    struct host_receive *receive;
    struct host_rstep scratch;
    struct host_seg *scratch_seg;
    struct host_pending *pending;
    struct host_seg *pending_seg;
    uint32_t pendings, open; /* posted; the lowest not consumed */
    uint64_t pending_segs;
};

struct profile_event;
struct host_op {
    struct host_comm *comm;
    const struct host_bound *bound;
    uint8_t *base[2]; /* IN, OUT */
    bool in_place;    /* these overlap */
    uint32_t signature;
    uint64_t sequence;
    struct host_combine combine;
    enum choir_status status;
    uint32_t live;
    uint32_t window;
    uint32_t last;              /* instances of the plan; UINT32_MAX: a lane's end is observed */
    struct profile_event *lane; /* [window], if so */
    int waiting;                /* the rank that the last advance waited for, or -1 */
    struct host_run run[LANE_COUNT];
};
/* Takes memory for running op->bound from the communicator's scratch, which grows. */
enum choir_status host_op_start(struct host_op *op);
/* Moves what can be moved; true when ended (op->status). Never blocks. */
bool host_op_advance(struct host_op *op);
/* Gives up: no transport writes into the buffers any more, unless false (a fragment is half way). */
bool host_op_cancel(struct host_op *op);
void host_op_fail(struct host_op *op, enum choir_status status, const struct host_link *link,
                  const char *remedy, const char *text, ...) __attribute__((format(printf, 5, 6)));
static inline uint8_t *host_op_base(const struct host_op *op, const struct host_run *run,
                                    uint32_t buf)
{
    return buf == CHOIR_TMP ? run->tmp : op->base[buf];
}

/* Whether a message is to stay where it lies, for the peer to read, if it can, or lent to the transport. Others are copied:
 * short ones, and what an exchange in place is going to overwrite, since its reader would be waited for. */
static inline bool host_stays(const struct host_op *op, bool exchanged,
                              const struct host_link *link, uint32_t lane, uint64_t bytes)
{
    if (!link->tx[lane].line)
        return bytes > HOST_LEND_BYTES;
    bool reduced = op->in_place && op->bound->plan->kind == CHOIR_ALL_REDUCE;
    return bytes > (reduced ? HOST_COPY_IN_PLACE_BYTES : HOST_COPY_BYTES) &&
           !(op->in_place && exchanged);
}

/* pending.c */
void host_pending_post(struct host_op *op, struct host_run *run, const struct host_rstep *r,
                       struct host_link *link);
bool host_pending_advance(struct host_op *op, struct host_run *run); /* true: something moved */
/* Whether a pending message of the run still has to read any of [at, at + bytes). */
bool host_pending_blocks(const struct host_run *run, const uint8_t *at, uint64_t bytes);

/* --- waiting (wait.c) ---------------------------------------------------------------------------- */
struct host_waiter {
    struct host_comm *comm;
    bool (*advance)(void *what); /* never blocks; true when ended */
    void *what;
    enum choir_status *status;
    const _Atomic uint32_t *frames; /* not 0: frames are needed for it */
};
/* Advances until ended or limit_ns from now; *status says how it went. late: as below. */
void host_wait_for(const struct host_waiter *waiter, uint64_t limit_ns,
                   enum choir_status (*late)(void *arg, uint64_t waited_ns), void *arg);
/* Advances until ended or limit_ns from now. late(arg, waited_ns) is called now and then while waiting;
 * anything but CHOIR_OK from it ends the wait. */
enum choir_status host_wait(struct host_op *op, uint64_t limit_ns,
                            enum choir_status (*late)(void *arg, uint64_t waited_ns), void *arg);

#endif
