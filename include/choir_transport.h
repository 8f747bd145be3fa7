/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choir_transport.h: what the author of a transport needs.
 *
 * A transport joins processes. An endpoint joins this process with one other, for all communicators of both. Two
 * processes have one endpoint with each other, whoever dialed, and both if they dial at once: so all that a process said
 * is read, in order, before its end is reported.
 * Two abilities, either or both:
 *   message  send() carries a frame (a fixed header and a payload) to the peer process; there the
 *            library is asked where the payload goes (host->place) and told when it lies there
 *            (host->arrived). The library never has more frames under way than the receiver has room for, so
 *            a transport needs no flow control of its own beyond the wire's.
 *   map      memory that one process allocates can be mapped by the other, and, with read(), a
 *            peer's private memory can be copied from directly.
 * Bytes decide: a path is used after connect() moved bytes over it, not because of its name.
 *
 * Threads: progress() may be called by any thread, one at a time per transport (the library holds a
 * try-lock); send() by any thread at any time. No call blocks. host->... may be called from within both.
 */
#ifndef CHOIR_TRANSPORT_H
#define CHOIR_TRANSPORT_H

#include "choir.h"

#ifdef __cplusplus
#include <atomic>
#define CHOIR_ATOMIC(type) std::atomic<type>
extern "C" {
#else
#include <stdatomic.h>
#define CHOIR_ATOMIC(type) _Atomic(type)
#endif

#define CHOIR_TRANSPORT_ABI 1

struct choir_transport; /* one opened transport: the author's own */
struct choir_endpoint;  /* one joined process: the author's own */

/* Which process: 16 random bytes made at its first communicator. */
struct choir_process {
    unsigned char bytes[16];
};

/* The header of a message; the transport reads `bytes` and `kind` only and carries the rest. */
struct choir_frame {
    uint32_t bytes; /* of payload behind the header, at most CHOIR_FRAME_MOST */
    uint16_t kind;  /* below CHOIR_FRAME_DATA: control, always encrypted off this host */
    uint16_t lane;
    uint64_t comm;     /* communicator and its epoch */
    uint32_t from, to; /* ranks */
    uint64_t sequence;
    uint32_t signature, flags;
    uint64_t arg[3];
};
#define CHOIR_FRAME_DATA 0x100
#define CHOIR_FRAME_MOST (16u << 20)

/* A payload lent to send() until `done` is not 0: 1 sent, else the endpoint failed. */
struct choir_send {
    CHOIR_ATOMIC(int32_t) done;
};

/* What the library does for a transport. */
struct choir_transport_host {
    uint32_t bytes, abi;
    void *context;
    const char *host_id; /* equal on processes of the same host */
    struct choir_process self;
    /* A peer connected to us and proved to be `peer`, to which no endpoint of ours is joined or on its way. Returns the
     * cookie for this endpoint's upcalls, the same as a connect() to that peer would bring; NULL: refused, the
     * transport frees the endpoint. */
    void *(*accepted)(void *context, const struct choir_process *peer,
                      struct choir_endpoint *endpoint);
    /* Where frame->bytes of payload go; NULL: read and discard them. Called once a frame that has payload, before
     * arrived. */
    void *(*place)(void *context, void *cookie, const struct choir_frame *frame);
    /* The payload lies at `where` (what place returned; NULL if discarded or without payload). */
    void (*arrived)(void *context, void *cookie, const struct choir_frame *frame, void *where);
    /* The endpoint is dead: the process ended or disconnected (CHOIR_ERR_PEER_DEAD), or cannot be reached. Called
     * once, after the last arrived; not for an endpoint that never was connected: connected() tells that. */
    void (*failed)(void *context, void *cookie, enum choir_status status, int sys_errno,
                   const char *text);
    /* The library's service thread calls fn(arg) when fd is readable (or `writable`) while no other thread
     * drives progress. fn NULL: stop watching. */
    enum choir_status (*watch)(void *context, int fd, int writable, void (*fn)(void *arg),
                               void *arg);
    /* The shared secret (32 bytes) whose public name is `name` (16 bytes); false: unknown, refuse the peer.
     * name NULL: the newest one of this process, and its name in name_out. */
    int (*secret)(void *context, const unsigned char *name, unsigned char name_out[16],
                  unsigned char secret[32]);
    /* level: 0 error, 1 warning, 2 information, 3 debugging; text: one line without its end. */
    void (*log)(void *context, int level, const char *text);
    /* The value of a CHOIR_* setting, or NULL. */
    const char *(*knob)(void *context, const char *name);
};

/* Memory of this process that peers can map. */
struct choir_shared {
    void *memory;
    uint64_t bytes;
    uint64_t key;   /* names it to peers of this transport */
    uint32_t flags; /* in, of alloc: CHOIR_SHARED_* */
};
/* Peers map it for the length of a message, again and again: an unmapped view may be kept, to be given at once to the
 * next map, until the owner releases it. */
#define CHOIR_SHARED_LASTING 1u

/* In life-cycle order; entries left NULL are "not supported". */
struct choir_transport_ops {
    uint32_t size, abi;
    const char *name;
    /* CHOIR_OK, or why it cannot be used on this machine (text: at most 200 bytes). Opens nothing. */
    enum choir_status (*probe)(const struct choir_transport_host *host, char *text, size_t bytes);
    /* Begins to listen, allocates. Called once after a successful probe; close ends it. */
    enum choir_status (*open)(const struct choir_transport_host *host, struct choir_transport **t);
    /* What others need to reach this process: at most *bytes, set to what was written. */
    enum choir_status (*address)(struct choir_transport *t, void *address, size_t *bytes);
    /* Starts joining `peer`; returns at once. Frames sent meanwhile are kept. CHOIR_ERR_UNSUPPORTED: the address
     * shows that this transport cannot reach it. CHOIR_ERR_PEER_DEAD: the process is certainly no more.
     * Makes no upcall and waits for none; nor does a send before it is joined.
     * One endpoint a process: if the peer has connected, or connects before we are joined, this one goes on over its
     * connection. Where both are on their way, that of the process whose id is smaller (memcmp) stays. One
     * that failed before it was joined counts as not there. */
    enum choir_status (*connect)(struct choir_transport *t, const struct choir_process *peer,
                                 const void *address, size_t bytes, void *cookie,
                                 struct choir_endpoint **endpoint);
    /* CHOIR_OK once bytes went both ways, CHOIR_IN_PROGRESS before, else why not. */
    enum choir_status (*connected)(struct choir_endpoint *endpoint);
    /* CHOIR_CAP_* that were proved to work with this peer; 0 before it is connected. */
    uint32_t (*caps)(struct choir_endpoint *endpoint);
    /* Shareable memory, zeroed. shared: zeroed but for flags. */
    enum choir_status (*alloc)(struct choir_transport *t, uint64_t bytes,
                               struct choir_shared *shared);
    /* Frees what alloc gave; peers that mapped it keep their view until they unmap it. */
    enum choir_status (*release)(struct choir_transport *t, struct choir_shared *shared);
    /* The peer's shared memory `key` in this address space. CHOIR_IN_PROGRESS: call again. The mapping stays valid
     * until unmap, also after the peer has released its own. */
    enum choir_status (*map)(struct choir_endpoint *endpoint, uint64_t key, uint64_t bytes,
                             void **memory);
    /* memory, bytes: as map gave and was given them. */
    enum choir_status (*unmap)(struct choir_endpoint *endpoint, void *memory, uint64_t bytes);
    /* Copies from the peer's private memory. Blocks for the copy only. */
    enum choir_status (*read)(struct choir_endpoint *endpoint, void *to, uint64_t from,
                              uint64_t bytes);
    /* Carries a frame. CHOIR_OK: the payload may be reused. CHOIR_IN_PROGRESS: it is lent until
     * request->done. Never refuses for lack of room: what does not fit the wire is queued. Frames may arrive
     * out of order between different lanes. */
    enum choir_status (*send)(struct choir_endpoint *endpoint, const struct choir_frame *frame,
                              const void *payload, struct choir_send *request);
    /* Makes the peer process's service thread run its loop. One write(2); async-signal-safe. */
    enum choir_status (*wake)(struct choir_endpoint *endpoint);
    /* CHOIR_OK once the peers' processes need nothing more of this one to have all that was sent, CHOIR_IN_PROGRESS
     * before (progress() gets there). Asked at the end of a process that disconnects nothing. */
    enum choir_status (*flush)(struct choir_transport *t);
    /* Moves whatever can move; returns how many events it saw. */
    uint32_t (*progress)(struct choir_transport *t);
    /* Frees the endpoint; what was sent before is still delivered if the peer lives (at most 1 s). No upcall with
     * its cookie runs after the return: waits for one that is running in another thread (hold no lock that
     * upcalls take). */
    void (*disconnect)(struct choir_endpoint *endpoint);
    /* In the child of a fork it closes the child's descriptors only, and touches nothing shared. */
    void (*close)(struct choir_transport *t);
    /* on 1 (not inside progress()): nobody drives progress; what was given to watch() is readable whenever there is something
     * to do, as it is at first. on 0 (at any time): somebody does, so it need not be. */
    void (*arm)(struct choir_transport *t, int on);
    /* CHOIR_CAP_* that other processes of this host are likely to have. Needs no open. */
    uint32_t (*expects)(void);
    /* Copies into the peer's private memory, where read() is allowed. Blocks for the copy only. */
    enum choir_status (*write)(struct choir_endpoint *endpoint, uint64_t to, const void *from,
                               uint64_t bytes);
};

#define CHOIR_CAP_MAP 1u  /* alloc, map, unmap */
#define CHOIR_CAP_READ 2u /* read, write */
#define CHOIR_CAP_READ_FAST                                                                        \
    4u /* read beats two copies through mapped memory for more than some 16 KiB */

/* An out-of-tree transport is a shared object that exports this struct choir_transport_ops; load it with
 * CHOIR_TRANSPORT_PLUGINS=/path/lib.so. The symbol's name carries the ABI. */
#define CHOIR_TRANSPORT_SYMBOL "choir_transport_abi1"

#ifdef __cplusplus
}
#endif

#endif
