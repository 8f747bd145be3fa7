/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.h: the parts of the transport over net plug-ins and who may touch them.
 *
 * An endpoint has two connections of the plug-in, one each way, for data, and a line: an endpoint of a tcp transport of its
 * own, for what the plug-in cannot do (README.md). Three kinds of state:
 *   - the queue of frames: e->lock.
 *   - the list of endpoints, and what the line's upcalls leave (inbox, down): t->lock. Nothing is called under it.
 *   - all else, and every call of the plug-in: the thread that drives (net_drive), one at a time. A thread that sends drives if
 *     nobody does; else it leaves its frame to the one that does.
 */
#ifndef TRANSPORTS_NCCL_NET_NET_H
#define TRANSPORTS_NCCL_NET_NET_H

#include "transports/nccl-net/plugin.h"
#include <sched.h>
#include <sys/types.h>

#define NET_BUFFERS 16         /* messages under way on a connection; at most NCCL_REQUESTS_MOST */
#define NET_BUFFER (64u << 10) /* bytes of a message */
#define NET_COPY                                                                                   \
    (16u << 10)      /* payloads up to here are copied when they must wait, larger ones lent */
#define NET_BATCH 32 /* messages that one step receives */
#define NET_ADDRESS_MOST 256 /* of the line: a card has room for the address of tcp beside it */

#define NET_LINE_EVERY 8          /* steps between looks at the line */
#define NET_JOIN_NS 8000000000ull /* the plug-in's connections stand so soon, or never */
#define NET_GRACE_NS                                                                               \
    2000000000ull /* after an error of the plug-in the line names a death, or the peer answers */
#define NET_QUIET_NS 20000000ull /* nothing came for so long after the line's end: nothing will */
#define NET_GOODBYE_NS 1000000000ull /* delivery after disconnect() */
#define NET_TICK_NS 200000u          /* while armed and something is under way ... */
#define NET_TICK_SLOW_NS 5000000u    /* ... that has not moved for NET_QUIET_NS */

_Static_assert(NET_BUFFERS <= NCCL_REQUESTS_MOST, "the plug-in would refuse");

/* --- on the wire of the plug-in: README.md draws it ---------------------------------------------------- */
struct net_message {
    uint32_t bytes, zero; /* of what follows: records, or in message 0 a nonce */
    uint64_t number;
};
struct net_record { /* a piece of a frame, and its payload, padded to 8 bytes */
    struct choir_frame frame;
    uint32_t offset, bytes;
    uint64_t controls; /* control frames sent before */
};
_Static_assert(sizeof(struct net_message) == 16 && sizeof(struct net_record) == 80,
               "no padding on the wire");

/* --- on the line: frames of these kinds, all control ----------------------------------------------------- */
enum net_word {
    NET_OFFER = 1, /* payload: struct net_offer */
    NET_WELCOME,   /* the other's message 0 was right */
    NET_FRAME,     /* payload: a control frame; arg 0: data frames sent before */
    NET_ASLEEP,    /* arg 0: messages received; nobody drives from now on */
    NET_RING,      /* arg 0: messages sent; the answer to ASLEEP */
    NET_LAST,      /* arg 0: data frames sent; no more will be */
    NET_DONE,      /* the answer to LAST: all have come */
    NET_BROKEN,    /* arg 0: a status; payload: text */
    NET_ASK,       /* the plug-in refuses calls: does the process live? */
    NET_HERE       /* it does */
};

#define NET_MAGIC 0x4e484331u
#define NET_VERSION 1
#define NET_NONCE 32
struct net_offer {
    uint32_t magic, version, message_bytes, zero;
    char plugin[64], device[64];
    _Alignas(16) unsigned char handle[NCCL_HANDLE_BYTES]; /* plug-ins keep state in it */
    unsigned char nonce[NET_NONCE];
};

/* --- lock: held for a few instructions ---------------------------------------------------------------------- */
typedef atomic_flag net_lock;
static inline void net_acquire(net_lock *l)
{
    for (unsigned i = 0; atomic_flag_test_and_set_explicit(l, memory_order_acquire); i++)
        if (i < 64)
            base_relax();
        else
            sched_yield();
}
static inline void net_release(net_lock *l)
{
    atomic_flag_clear_explicit(l, memory_order_release);
}

/* --- endpoint --------------------------------------------------------------------------------------------------- */
struct net_item { /* a frame in the queue */
    struct net_item *next;
    struct choir_frame frame;
    const unsigned char *payload;
    struct choir_send *request; /* NULL: copied */
    unsigned char *kept;        /* the copy of what had been lent */
    uint32_t at;                /* payload bytes packed */
    unsigned char copy[];
};
struct net_word_in { /* a frame of the line */
    struct net_word_in *next;
    struct choir_frame frame;
    void *payload;
};

/* One connection of the plug-in, and its buffers: slot i of messages number i, i + NET_BUFFERS ... */
struct net_half {
    void *connection, *registered;
    unsigned char *memory;
    uint32_t bytes[NET_BUFFERS];
    void *request[NET_BUFFERS];
    uint64_t packed, posted, done; /* messages; packed: of sends only */
    bool broken;                   /* the plug-in refused a call */
};
#define NET_ROUND(bytes) (((bytes) + 7u) & ~7u)
static inline unsigned char *net_slot(const struct net_half *h, uint64_t number)
{
    return h->memory + number % NET_BUFFERS * NET_BUFFER;
}

enum net_state { NET_JOINING, NET_UP, NET_CLOSING, NET_FAILED };

struct choir_endpoint {
    struct choir_transport *t;
    struct choir_endpoint *next; /* t->list */
    struct choir_process peer;
    _Atomic(void *) cookie;
    _Atomic int state;
    enum choir_status why; /* of NET_FAILED */
    bool listed;           /* t->lock: what connect and accepted may find */
    bool refused;          /* the device has no room for its connections */
    bool counted;          /* in t->connected */
    bool disconnected;     /* by the library, which does not know it any more */
    _Atomic bool dead;     /* to be freed */

    struct choir_endpoint *line; /* t->lock until it is set */
    struct net_word_in *inbox, **inbox_last;
    bool down; /* the line has ended: */
    enum choir_status down_status;
    char down_text[200];
    uint64_t down_ns; /* when it was seen; then when the last message came */

    /* joining */
    void *listener;
    bool offered, offer_came, hello_good, welcomed;
    uint64_t since_ns;
    struct net_offer own, other;
    uint32_t message_bytes;

    /* sending */
    net_lock lock;
    struct net_item *queue, **queue_last;
    _Atomic uint32_t queued;
    struct net_half tx;
    uint64_t frames_out, controls_out;
    bool peer_asleep, last_said, done_said;

    /* receiving */
    struct net_half rx;
    bool open; /* a message has come and is not read to its end */
    bool begun;
    uint32_t open_at, open_bytes;
    struct choir_frame frame; /* begun, how far, and where its payload goes */
    uint32_t frame_at;
    unsigned char *where;
    uint64_t frames_in, controls_in, owed;
    bool waits; /* a control frame, for data: what it hides in the inbox may be a RING */
    bool told_asleep, last_came, done_came;
    uint64_t last_in;

    uint64_t error_ns; /* of the plug-in; 0: none */
    bool asked, answered;
    char error[160];
};

struct choir_transport {
    const struct choir_transport_host *host;
    pid_t pid; /* of the process that opened it: another one is a forked child */
    struct plugin plugin;
    uint32_t message_bytes;
    int poll, timer; /* poll: the line's descriptor and the timer */
    _Atomic bool armed;
    _Atomic uint32_t tick_ns; /* of the timer; 0: stopped */
    uint64_t moved_ns;
    uint32_t round;

    const struct choir_transport_ops *line_ops;
    struct choir_transport_host line_host;
    struct choir_transport *line;
    void (*line_fn)(void *arg);
    void *line_arg;

    _Atomic(const char *) driver; /* the address of a variable of that thread */
    _Atomic uint32_t todo;        /* a frame was queued that nobody has looked at */

    net_lock lock;
    struct choir_endpoint *list;
    uint32_t connected; /* endpoints that hold connections */
    bool closing;
};

/* net.c */
bool net_drive(struct choir_transport *t); /* false: the caller drives already (an upcall) */
bool net_try_drive(struct choir_transport *t, bool *nested); /* false: another thread does */
void net_drive_end(struct choir_transport *t);
void net_rearm(struct choir_transport *t, uint32_t events);
struct choir_endpoint *net_first(struct choir_transport *t);
void net_log(struct choir_transport *t, enum base_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* line.c */
enum choir_status net_line_open(struct choir_transport *t);
void net_line_say(struct choir_endpoint *e, enum net_word word, uint64_t arg, const void *payload,
                  uint32_t bytes);
uint32_t net_line_hear(struct choir_endpoint *e); /* what the line brought; returns how many */
void net_line_lose(struct choir_endpoint *e, enum choir_status status,
                   const char *text);           /* any thread */
void net_line_forget(struct choir_endpoint *e); /* frees what was not heard */

/* endpoint.c */
struct choir_endpoint *net_endpoint_find(struct choir_transport *t,
                                         const struct choir_process *peer); /* t->lock is held */
struct choir_endpoint *net_endpoint_new(struct choir_transport *t,
                                        const struct choir_process *peer);
void net_endpoint_list(struct choir_endpoint *e); /* t->lock is held */
enum choir_status net_endpoint_connect(struct choir_transport *t, const struct choir_process *peer,
                                       const void *address, size_t bytes, void *cookie,
                                       struct choir_endpoint **out);
enum choir_status net_endpoint_connected(struct choir_endpoint *e);
void net_endpoint_fail(struct choir_endpoint *e, enum choir_status status, bool say,
                       const char *format, ...) __attribute__((format(printf, 4, 5)));
/* The plug-in refused a call; what it means is seen later. */
void net_endpoint_error(struct choir_endpoint *e, struct net_half *half, const char *call,
                        int result);
void net_endpoint_close(struct choir_endpoint *e);
uint32_t net_endpoint_step(struct choir_endpoint *e);
bool net_endpoint_busy(const struct choir_endpoint *e);
void net_endpoint_end(struct choir_endpoint *e); /* at once: to be freed by reap */
void net_endpoint_reap(struct choir_transport *t);

/* join.c */
uint32_t net_join_step(struct choir_endpoint *e);
bool net_half_open(struct choir_endpoint *e, struct net_half *h);
void net_half_close(struct choir_endpoint *e, struct net_half *h, bool send);

/* send.c: the caller drives, but of net_send */
enum choir_status net_send(struct choir_endpoint *e, const struct choir_frame *frame,
                           const void *payload, struct choir_send *request);
void net_send_hello(struct choir_endpoint *e);
uint32_t net_send_pump(struct choir_endpoint *e);
void net_send_keep(struct choir_endpoint *e); /* what is lent is copied and given back */
void net_send_abandon(struct choir_endpoint *e);
bool net_send_idle(const struct choir_endpoint *e); /* nothing is queued or under way */

/* receive.c */
uint32_t net_receive(struct choir_endpoint *e);
/* A whole frame that did not come over the plug-in. */
void net_receive_control(struct choir_endpoint *e, const struct choir_frame *frame,
                         const void *payload);

extern const struct choir_transport_ops choir_transport_nccl_net;

#endif
