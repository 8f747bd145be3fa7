/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp.h: the parts of the TCP transport and who may touch them.
 *
 * An endpoint has slots; a slot is a reliable stream of records over one TCP connection after another. Frames
 * are queued on the endpoint, cut into chunks, and dealt to the slots; a chunk stays with its slot until
 * acknowledged. Three kinds of state:
 *   - the queue, and the sending half of a slot: written under e->lock; system calls are made by the
 *     thread that holds e->owned, without the lock. So a thread that sends never waits for one that writes.
 *   - the receiving half, dials and handshakes: only the thread inside progress().
 *   - the table of endpoints: t->lock.
 */
#ifndef TRANSPORTS_TCP_TCP_H
#define TRANSPORTS_TCP_TCP_H

#include "base/base.h"
#include "transports/tcp/wire.h"
#include <netinet/in.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/uio.h>

#define TCP_COPY (16 << 10) /* payloads up to here are copied, larger ones lent */
#define TCP_KEEP                                                                                   \
    (128 << 10) /* lent ones up to here are copied once written, while nothing else is to be done */
#define TCP_ZEROCOPY (64 << 10) /* of a lent payload: not worth a notice below */
#define TCP_BLOCK (32 << 10)    /* copies live in blocks of so many bytes ... */
#define TCP_BLOCKS_MOST 16      /* ... at most so many an endpoint */
#define TCP_CUT (256 << 10)     /* chunk size when there are several slots */
#define TCP_WINDOW 128          /* chunks under way on a slot */
#define TCP_ORDER 256           /* chunks begun but not yet delivered, over all slots */
#define TCP_BUFFER (64 << 10)   /* the shared receive buffer */
#define TCP_HOT 2               /* with so few connections each is polled with recv itself */
#define TCP_ENTRIES 16          /* addresses in a blob */
#define TCP_PAIRS 24            /* (own, peer's) address pairs tried */
#define TCP_HALF_OPEN 128       /* inbound handshakes at a time */

#define TCP_TICK_NS 20000000ull        /* while something is timed */
#define TCP_HANDSHAKE_NS 5000000000ull /* inbound: or dropped */
#define TCP_SYN_NS 3000000000ull       /* outbound connect(): or given up */
#define TCP_REFUSED_NS 1000000000ull   /* a peer that was joined and now refuses so long is dead */
#define TCP_MISSING_NS 5000000000ull   /* one never joined that refuses so long cannot be reached */
#define TCP_SILENT_NS 8000000000ull    /* neither refuses nor answers */
#define TCP_PREFER_NS 40000000ull      /* a better address may still answer so long */
#define TCP_GOODBYE_NS 1000000000ull   /* delivery after disconnect() */
#define TCP_USER_TIMEOUT_MS 3000       /* unacknowledged so long: the connection is given up */

/* Some times are taken after the `now` of a tick. */
static inline uint64_t tcp_age(uint64_t now, uint64_t since)
{
    return now > since ? now - since : 0;
}

/* --- lock: held for copies of a few KiB, never over a system call ----------------------------------- */
typedef atomic_flag tcp_lock;
static inline void tcp_acquire(tcp_lock *l)
{
    for (unsigned i = 0; atomic_flag_test_and_set_explicit(l, memory_order_acquire); i++)
        if (i < 64)
            base_relax();
        else
            sched_yield();
}
static inline void tcp_release(tcp_lock *l)
{
    atomic_flag_clear_explicit(l, memory_order_release);
}

/* --- seal.c: keys and sealed pieces ----------------------------------------------------------------- */
struct tcp_keys;
struct tcp_proofs {
    unsigned char dialer[32], acceptor[32];
};
struct tcp_keys *tcp_keys_derive(const unsigned char secret[32], const struct tcp_hello *hello,
                                 const struct tcp_challenge *challenge, bool dialer,
                                 struct tcp_proofs *proofs);
void tcp_keys_free(struct tcp_keys *k);
/* out has bytes + TCP_TAG; each call uses the next nonce of its direction. */
void tcp_seal(struct tcp_keys *k, void *out, const void *in, size_t bytes, const void *extra,
              size_t extra_bytes);
bool tcp_unseal(struct tcp_keys *k, void *out, const void *in, size_t bytes, const void *extra,
                size_t extra_bytes);

/* --- net.c: interfaces, addresses, socket options --------------------------------------------------- */
struct tcp_entry {
    uint8_t v6, nic, prefix, speed; /* speed: log2 of Mbit/s, 0 unknown; nic: numbers interfaces */
    uint8_t loopback, link_local, zero[2];
    unsigned char ip[16]; /* 4 bytes if not v6 */
};
struct tcp_local {
    struct tcp_entry entry;
    unsigned index; /* the kernel's */
    char name[16];
};
struct tcp_address {
    struct choir_process process;
    uint64_t host;
    unsigned char secret_name[16];
    uint16_t port, count;
    struct tcp_entry entry[TCP_ENTRIES];
};
struct tcp_pair {
    struct tcp_local own;
    struct tcp_entry peer;
    uint8_t
        rank; /* 0 loopback of one host, 1 same subnet, 2 routed, 3 link-local, 4 one's own host by its address */
};
struct tcp_filter {
    char ifname[256];
    int family; /* AF_UNSPEC, AF_INET, AF_INET6 */
};
enum choir_status tcp_net_filter(struct tcp_filter *f, const char *ifname, const char *family);
size_t tcp_net_interfaces(const struct tcp_filter *f, struct tcp_local *out, size_t most);
size_t tcp_net_pairs(const struct tcp_local *own, size_t count, const struct tcp_address *peer,
                     bool same_host, struct tcp_pair *out, size_t most);
size_t tcp_net_address_write(const struct tcp_address *a, void *out, size_t bytes);
bool tcp_net_address_read(struct tcp_address *a, const void *in, size_t bytes);
enum choir_status tcp_net_listen(const char *ports, int family, int *fd, uint16_t *port);
/* A non-blocking socket on the way to the pair's peer; -1 and errno if it failed at once. */
int tcp_net_dial(const struct tcp_pair *p, uint16_t port);
void tcp_net_tune(int fd);
bool tcp_net_allowed(int fd, const struct tcp_filter *f);
bool tcp_net_from_this_host(int fd); /* its peer is a process of this host and user */
void tcp_net_text(const struct tcp_entry *e, char *text, size_t bytes);
void tcp_net_peer_text(int fd, char *text, size_t bytes);

/* --- sources of events ------------------------------------------------------------------------------ */
enum tcp_kind { TCP_LISTENER, TCP_TIMER, TCP_WAKE, TCP_CONN, TCP_SLOT };
struct tcp_source {
    enum tcp_kind kind;
    int fd; /* -1: closed */
    uint32_t interest;
};

/* --- a connection that is not yet a slot's ----------------------------------------------------------- */
enum tcp_conn_state {
    CONN_SYN,       /* out */
    CONN_CHALLENGE, /* out: HELLO sent */
    CONN_HELD,      /* out: bytes went both ways; waits for a slot */
    CONN_READY,     /* out: AUTH sent */
    CONN_HELLO,     /* in */
    CONN_AUTH,      /* in: CHALLENGE sent */
    CONN_DEAD       /* on the trash list */
};
struct tcp_conn {
    struct tcp_source source;
    enum tcp_conn_state state;
    bool inbound, extra; /* extra: one more socket of a rail that is known to work */
    struct choir_transport *t;
    struct choir_endpoint *e; /* out */
    struct tcp_conn *next, *prev;
    uint64_t since_ns, rtt_ns;
    struct tcp_pair pair; /* out */
    uint32_t slot;
    struct tcp_hello hello;
    struct tcp_challenge challenge;
    struct tcp_keys *keys;
    struct tcp_proofs proofs;
    uint32_t have;
    unsigned char in[sizeof(struct tcp_auth)];
};

/* --- sending ----------------------------------------------------------------------------------------- */
struct tcp_block {
    struct tcp_block *next;
    uint32_t used, live, room;
    _Alignas(16) char data[];
};
struct tcp_item { /* a frame in the queue */
    struct choir_frame frame;
    const char *payload;
    struct choir_send *request; /* lent */
    struct tcp_block *block;    /* copied */
    uint32_t taken, open;       /* bytes dealt to slots; chunks not acknowledged */
    uint8_t bye, dealt;         /* dealt: wholly */
};
struct tcp_record { /* a chunk on its slot */
    uint64_t item, seq;
    uint64_t zerocopy; /* so many zero-copy sends are to be through before it is let go of */
    uint32_t offset, bytes;
    uint8_t flags;
};
/* Sends of a slot whose pages the kernel reads in place; counted over all its connections. */
enum tcp_zerocopy_use { TCP_ZEROCOPY_NEVER, TCP_ZEROCOPY_PAYING, TCP_ZEROCOPY_ALWAYS };
struct tcp_zerocopy {
    bool on;
    uint32_t copied;      /* notices in a row that say that the kernel copied */
    uint64_t sent, first; /* first: of this connection, where the kernel counts from 0 */
    uint64_t done, most;  /* the kernel is through with all below; may be under way at a time */
    uint64_t beyond;      /* bit i: and with done + i */
};
struct tcp_tx {
    struct tcp_record record[TCP_WINDOW];
    uint64_t acked, next, end; /* let go of; the first not wholly written; dealt to this slot */
    uint64_t heard;            /* the peer has received so many */
    uint32_t payload_done;     /* of next */
    bool header_done;          /* of next: written or in pend */
    bool blocked, broken, ack_due, solicit;
    uint32_t lent_bytes; /* whose acknowledgement was not asked for yet */
    uint64_t told;       /* the peer knows that we received so many */
    uint64_t
        kept_out; /* `next` when there was no room for a copy, and an acknowledgement was asked for */
    uint32_t pend_at, pend_bytes;
    unsigned char pend[TCP_HEADER_MOST]; /* the rest of a header that was cut off */
    /* Sealed records are written from `seal`; when it is out, `next` advances by seal_whole. */
    unsigned char *seal;
    uint32_t seal_at, seal_bytes, seal_whole, seal_payload;
    bool seal_header;
    struct tcp_zerocopy zerocopy;
};

/* --- receiving --------------------------------------------------------------------------------------- */
enum tcp_rx_state { RX_HEADER, RX_STALLED, RX_PAYLOAD };
struct tcp_rx {
    enum tcp_rx_state state;
    bool begun;       /* the record of `header` was placed; stays so over a reconnection */
    bool want;        /* an acknowledgement is asked for */
    bool owed, fresh; /* on t->owed; has had news in this progress() */
    uint32_t have;    /* bytes of hold */
    uint32_t done;    /* payload bytes at `where` */
    uint32_t ahead;
    uint32_t untold; /* bytes received since the last acknowledgement asked of the sending half */
    uint64_t noted;  /* s->got then */
    char *where;     /* of this chunk; NULL: discard */
    struct tcp_header header;
    _Alignas(16) unsigned char hold[TCP_HEADER_MOST];
    unsigned char *seal; /* a sealed piece while it comes in */
    uint32_t seal_have;
};
struct tcp_order { /* a chunk begun and not yet delivered */
    struct choir_frame frame;
    void *where;
    bool done, last, bye;
};

struct tcp_slot {
    struct tcp_source source;
    struct choir_endpoint *e;
    struct tcp_slot *next_trash, *next_owed;
    uint32_t index;
    uint32_t hot; /* place in t->up, from 1; 0: not there */
    bool claimed; /* a dial of ours is about to join it */
    bool seal_control, seal_all;
    uint8_t peer_nic, rank, speed; /* of the last pair; peer_nic 255: the peer dialed */
    unsigned own_index;
    _Atomic uint64_t got; /* chunks received */
    uint64_t rtt_ns;
    struct tcp_keys *keys;
    struct tcp_tx tx;
    struct tcp_rx rx;
};

/* --- endpoint ---------------------------------------------------------------------------------------- */
enum tcp_state {
    EP_JOINING,
    EP_UP,
    EP_CLOSING, /* disconnect() was called: flushing */
    EP_FAILED
};
struct tcp_dial {
    bool active, linked;        /* linked: on t->dialing */
    uint64_t since_ns, next_ns; /* when it began; the next round */
    uint64_t refused_ns;        /* since when every answer was a refusal; 0: not so */
    uint32_t live, round;       /* attempts under way; rounds begun */
    uint64_t round_ns, tried;   /* a bit per pair of this round */
    uint32_t missed, refused;   /* in this round */
    uint32_t refusals;          /* in all rounds */
    uint64_t denied_ns;         /* since when the secrets do not fit; 0: they may */
    uint16_t pair_count;
    struct tcp_pair *pair;
    int sys_errno; /* of the last attempt that failed */
    char text[160];
};
struct choir_endpoint {
    struct choir_transport *t;
    struct choir_endpoint *next;         /* in its bucket */
    struct choir_endpoint *next_dialing; /* t->dialing */
    struct choir_endpoint *next_closing; /* t->closing */
    struct choir_process peer;
    struct tcp_address address; /* count 0: unknown */
    bool listed, dialer, same_host;
    bool queued;     /* on t->fresh */
    bool bye;        /* the peer has said so */
    uint32_t errors; /* of protocol, on any connection */
    unsigned char secret_name[16];
    uint64_t epoch, peer_epoch;
    _Atomic(void *) cookie;
    _Atomic int state;
    enum choir_status why; /* of EP_FAILED */
    uint64_t since_ns;     /* joined first, or closing since */

    tcp_lock lock; /* the queue and the slots' sending halves */
    bool owned;
    struct tcp_item *item; /* ring of item_room, a power of 2 */
    uint64_t item_head, item_next, item_tail;
    uint32_t item_room, block_count;
    struct tcp_block *block, *block_last;
    uint64_t seq; /* of the next chunk */
    uint32_t turn, up_count;
    size_t written; /* in this turn */
    uint32_t slot_count;
    struct tcp_slot *slot[TCP_SLOTS_MOST];

    struct tcp_order *order; /* ring of TCP_ORDER, or one entry while there is one slot */
    uint32_t order_room;
    uint64_t begin, deliver; /* chunks */
    uint32_t begin_offset;   /* of the frame being received */
    char *begin_where;
    struct choir_frame begin_frame;
    struct tcp_dial dial;
};

#define TCP_BUCKETS 256
struct choir_transport {
    const struct choir_transport_host *host;
    int pid; /* of the process that opened it: another one is a forked child */
    int poll;
    struct tcp_source listener, timer, wake;
    struct tcp_filter filter;
    uint16_t port;
    uint32_t sockets;
    enum tcp_zerocopy_use zerocopy;
    bool insecure, encrypt, timed, accepting;
    bool detached;       /* slots are not in the epoll set: their interest is 0 */
    _Atomic bool driven; /* and need not be */
    uint64_t host_hash;
    uint32_t round;
    tcp_lock drive;               /* held inside progress(), by: */
    _Atomic(const char *) driver; /* the address of a variable of that thread */

    tcp_lock lock; /* bucket, fresh, closing */
    struct choir_endpoint *bucket[TCP_BUCKETS];
    struct choir_endpoint
        *fresh;            /* connect()ed, by next_dialing; the progress thread begins the dial */
    _Atomic uint32_t todo; /* fresh is not empty, or an endpoint is closing */
    _Atomic uint32_t blocked; /* slots that wait for room */
    _Atomic uint32_t lent;    /* payloads of up to TCP_KEEP */

    struct choir_endpoint *dialing, *closing; /* closing: under lock */
    struct tcp_slot *trash_slot, *owed;       /* owed: an acknowledgement */
    _Atomic bool signaled;                    /* the eventfd is readable */
    struct tcp_conn *conn, *trash;            /* handshakes under way */
    uint32_t half_open;
    struct tcp_slot **up; /* connected slots */
    uint32_t up_count, up_room;
    uint64_t log_ns;
    uint32_t log_count;
    char *buffer, *sink; /* TCP_BUFFER bytes each */
};

/* tcp.c */
/* To be the one thread inside progress(): false if the caller is it already (an upcall), true: end it again. */
bool tcp_drive(struct choir_transport *t);
void tcp_drive_end(struct choir_transport *t);
void tcp_log(struct choir_transport *t, enum base_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void tcp_wake(struct choir_transport *t);
void tcp_signal(struct choir_transport *t); /* there is work that no descriptor shows */
void tcp_timed(struct choir_transport *t);  /* ticks from now on */
enum choir_status tcp_address_of(struct choir_transport *t, void *address, size_t *bytes);
void tcp_process_text(const struct choir_process *p, char text[33]);

/* watch.c */
bool tcp_watch(struct choir_transport *t, struct tcp_source *s, uint32_t interest);
void tcp_unwatch(struct choir_transport *t, struct tcp_source *s); /* and closes */
/* The descriptor changes hands. */
void tcp_rewatch(struct choir_transport *t, struct tcp_source *from, struct tcp_source *to,
                 uint32_t interest);
void tcp_attach(struct choir_transport *t); /* inside progress(), both */
void tcp_detach(struct choir_transport *t);

/* endpoint.c */
struct choir_endpoint *tcp_endpoint_find(struct choir_transport *t,
                                         const struct choir_process *peer);
/* The listed endpoint of that process, or a new one (*fresh), of that address if it is known. */
struct choir_endpoint *tcp_endpoint_make(struct choir_transport *t,
                                         const struct choir_process *peer,
                                         const struct tcp_address *address, bool *fresh);
void tcp_endpoint_unlist(struct choir_endpoint *e);
bool tcp_endpoint_slots(struct choir_endpoint *e, uint32_t count);
/* The connection of `c` becomes slot c->slot; the peer has received `received` chunks on it. */
void tcp_endpoint_install(struct choir_endpoint *e, struct tcp_conn *c, uint64_t received);
void tcp_endpoint_lost(struct tcp_slot *s, int sys_errno);
void tcp_endpoint_fail(struct choir_endpoint *e, enum choir_status status, int sys_errno,
                       const char *format, ...) __attribute__((format(printf, 4, 5)));
void tcp_endpoint_close(struct choir_endpoint *e);                 /* disconnect() */
enum choir_status tcp_endpoint_flushed(struct choir_transport *t); /* all is acknowledged */
void tcp_endpoint_tick(struct choir_transport *t, uint64_t now);
void tcp_endpoint_free(struct choir_endpoint *e);
void tcp_endpoint_own(struct choir_endpoint *e);
void tcp_endpoint_disown(struct choir_endpoint *e);

/* dial.c */
void tcp_dial_start(struct choir_endpoint *e);
void tcp_dial_stop(struct choir_endpoint *e);
void tcp_dial_tick(struct choir_transport *t, uint64_t now);
void tcp_dial_more(struct choir_endpoint *e,
                   const struct tcp_conn *c); /* further sockets of this rail */
void tcp_dial_held(
    struct tcp_conn *c); /* bytes went both ways: takes a slot, waits, or is dropped */
/* An attempt ended without a connection. */
void tcp_dial_missed(struct tcp_conn *c, bool refused, int sys_errno, const char *what);

/* conn.c */
struct tcp_conn *tcp_conn_out(struct choir_endpoint *e, const struct tcp_pair *p, bool extra,
                              int fd);
void tcp_conn_event(struct tcp_conn *c, uint32_t events);
void tcp_conn_auth(struct tcp_conn *c, uint32_t slot); /* HELD: claims a slot */
void tcp_conn_drop(struct tcp_conn *c);
void tcp_conn_tick(struct choir_transport *t, uint64_t now);
void tcp_conn_accept(struct choir_transport *t);

/* send.c */
enum choir_status tcp_send_frame(struct choir_endpoint *e, const struct choir_frame *frame,
                                 const void *payload, struct choir_send *request);
void tcp_send_flush(struct choir_endpoint *e);
bool tcp_send_acked(struct tcp_slot *s,
                    uint64_t ack); /* false: it acknowledges what was never sent */
void tcp_send_ack(struct tcp_slot *s);
void tcp_send_retire(struct tcp_slot *s);      /* e->lock is held */
bool tcp_send_lends(const struct tcp_item *i); /* and the peer is to say when it has it */
void tcp_send_keep(struct choir_endpoint *e);
/* The caller owns e in these. */
void tcp_send_resume(struct tcp_slot *s, uint64_t received);
void tcp_send_abandon(struct choir_endpoint *e,
                      int32_t done); /* every lent payload is given back */
bool tcp_send_goodbye(struct choir_endpoint *e);

/* write.c */
bool tcp_write_slot(
    struct tcp_slot *s); /* e is owned and locked; false: nothing was to be written */
void tcp_write_ready(struct tcp_slot *s);
void tcp_write_unblock(struct tcp_slot *s); /* e->lock is held */

/* zerocopy.c */
void tcp_zerocopy_begin(struct tcp_slot *s); /* on a new connection; e is owned */
bool tcp_zerocopy_pays(const struct tcp_slot *s, size_t bytes);
void tcp_zerocopy_missed(struct tcp_slot *s);
void tcp_zerocopy_reap(struct tcp_slot *s); /* reads the kernel's notices; inside progress() */
void tcp_zerocopy_abort(struct tcp_slot *s);

/* receive.c */
uint32_t tcp_receive_slot(struct tcp_slot *s);
void tcp_receive_settle(struct choir_transport *t); /* sends what acknowledgements are due */
void tcp_receive_cut(struct tcp_slot *s);           /* the connection ended */
void tcp_receive_discard(struct choir_endpoint *e); /* nothing is placed any more */

extern const struct choir_transport_ops choir_transport_tcp;

#endif
