/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm.h: inside of the shm transport; see README.md for the model and the wire format.
 *
 * Locks: transport.lock (endpoints, segments, who is being served) before endpoint.lock (queue, socket,
 * mappings). No upcall is made under either. progress_lock is only ever tried.
 */
#ifndef TRANSPORTS_SHM_SHM_H
#define TRANSPORTS_SHM_SHM_H

#include "base/base.h"
#include "choir_transport.h"
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

/* --- wire ----------------------------------------------------------------------------------- */
#define SHM_MAGIC 0x31304d48534f4843u /* "CHOSHM01" */

enum shm_kind {
    SHM_INTRO = 1, /* connecting side: who I am; a memfd to try */
    SHM_ANSWER,    /* accepting side: the same, and that it knows the secret; a memfd to try */
    SHM_PROOF,     /* connecting side: that it knows the secret; its wake-up descriptor */
    SHM_READY,     /* accepting side: its wake-up descriptor */
    SHM_REFUSE,    /* why not; the last message */
    SHM_FRAME,     /* struct choir_frame and its payload */
    SHM_WANT,      /* the descriptor of the segment with this key */
    SHM_GIVE,      /* here it is, or why not */
    SHM_GONE,      /* the segment of this key, given before, is released */
    SHM_BYE,       /* disconnects on purpose; the last message */
    SHM_KINDS
};

struct shm_head {
    uint32_t bytes; /* behind this header */
    uint16_t kind, fds;
};

struct shm_intro {
    uint64_t magic;
    struct choir_process self, peer;
    unsigned char nonce[32];
    unsigned char secret_name[16];
    uint64_t has_secret;
    uint64_t cookie_at; /* where 32 random bytes lie in the sender's memory and in its memfd */
    unsigned char cookie_hash[32]; /* what they hash to */
};
struct shm_answer {
    struct shm_intro intro;
    unsigned char mac[32];
};
struct shm_proof {
    unsigned char mac[32];
};
struct shm_refuse {
    int32_t status;
    char text[124];
};
struct shm_want {
    uint64_t key;
};
struct shm_give {
    uint64_t key;
    int32_t sys_errno; /* 0: the descriptor comes with it; ENOENT: no such key */
    uint32_t reserved;
};

/* What an address blob holds. */
struct shm_address {
    uint64_t magic;
    uint64_t host_hash, net; /* net: inode of the network namespace, 0 unknown */
    uint64_t random;         /* part of the socket's name */
};

/* --- state ---------------------------------------------------------------------------------- */
enum shm_state {
    SHM_DIALING,     /* the listener's backlog was full: connect again */
    SHM_WAIT_INTRO,  /* accepted */
    SHM_WAIT_PROOF,  /* accepted, answered */
    SHM_WAIT_ANSWER, /* connected, introduced */
    SHM_WAIT_READY,  /* connected, proved */
    SHM_HELD, /* accepted, proved by the peer: another endpoint to it must end or come about first */
    SHM_UP,
    SHM_DEAD
};

#define SHM_ENDED 1u /* added to the endpoint in an epoll event: from its pid_fd */
#define SHM_BODY_MOST sizeof(struct shm_answer)
#define SHM_FDS_MOST 4           /* received, not yet asked for by a message */
#define SHM_WANTS_MOST 16        /* of mine that wait for an answer */
#define SHM_GIVES_MOST 64        /* of mine that the peer did not read yet */
#define SHM_IDLE_MOST 64         /* of the peer's lasting segments, mapped and not in use */
#define SHM_COPY_MOST 4096       /* a payload up to this is copied when it has to wait */
#define SHM_HELLO_NS 60000000000 /* an accepted connection proves itself in this time */
#define SHM_LINGER_NS 1000000000
#define SHM_PENDING_MOST 4096 /* accepted connections that proved nothing yet */

/* What waits to be written: `bytes` of its own, then a payload that is lent. */
struct shm_out {
    struct shm_out *next;
    struct choir_send *request; /* or NULL */
    const unsigned char *lent;
    size_t bytes, lent_bytes, sent;
    int fd;       /* to pass with the first byte, closed afterwards; -1: none */
    bool is_give; /* counted in gives_count */
    unsigned char own[];
};

enum shm_map_state { SHM_MAP_WAITING, SHM_MAP_ASKED, SHM_MAP_HERE, SHM_MAP_FAILED };
struct shm_map {
    struct shm_map *next;
    uint64_t key, bytes;
    void *memory;
    uint32_t refs;
    enum shm_map_state state;
    bool gone; /* released by the peer */
    enum choir_status status;
    int sys_errno;
    char text[96];
};

/* What is being received: header, body, then the payload of a frame. */
struct shm_in {
    unsigned char part[sizeof(struct shm_head) + SHM_BODY_MOST];
    size_t have, payload_left;
    struct choir_frame frame;
    unsigned char *where, *at; /* of the payload; where NULL: discarded */
    int fds[SHM_FDS_MOST];     /* -1: one that the kernel could not give us: too many open files */
    int fd_count;
};

struct choir_endpoint {
    struct choir_transport *transport;
    struct choir_endpoint *next;
    struct choir_process peer;
    _Atomic(void *) cookie;
    _Atomic int state;    /* enum shm_state; written under lock */
    _Atomic bool closing; /* disconnected by the host; no upcalls any more */
    bool accepted;        /* by our listener */
    bool said_bye;
    uint64_t due_ns;    /* of the next dial, or when an unproved one is dropped */
    uint64_t linger_ns; /* a disconnected one is freed then at the latest */
    pid_t pid;          /* 0: in another pid namespace */
    uint32_t dials;
    _Atomic uint32_t caps;
    _Atomic int wake_fd; /* the peer's, -1 until it came */

    struct shm_in in; /* progress only */
    struct shm_intro mine, theirs;
    struct sockaddr_un to;

    pthread_mutex_t lock;
    int fd, pid_fd; /* pid_fd: -1 where only the socket tells of the peer's end */
    struct shm_out *out_first, **out_last;
    uint32_t gives_count, wants_count;
    bool wants_write; /* epoll looks for room in the socket */
    bool broken;      /* a write failed: nothing more can be sent */
    struct shm_map *maps;
    enum choir_status status; /* why it is dead */
    int sys_errno;
    char text[160];
};

struct shm_segment {
    struct shm_segment *next;
    void *memory;
    uint64_t bytes, key;
    int fd;
    struct choir_endpoint **given; /* who has the descriptor of a lasting one */
    uint32_t givens;
};

struct choir_transport {
    struct choir_transport_host host;
    pid_t pid; /* of the process that opened it */
    int epoll_fd, listen_fd, wake_fd, timer_fd, probe_fd;
    struct shm_address address;
    struct sockaddr_un name;
    unsigned char cookie[32]; /* peers read it to prove that they can */
    unsigned char cookie_hash[32];
    pthread_mutex_t progress_lock;
    pthread_mutex_t lock;
    pthread_cond_t served; /* `serving` changed */
    struct choir_endpoint *endpoints, *serving;
    pthread_t server;
    struct shm_segment *segments;
    uint32_t pending_count; /* accepted, not proved; progress only */
    pthread_mutex_t timer_lock;
    uint64_t timer_ns;            /* when the timer fires; 0: not set */
    unsigned char scratch[65536]; /* progress only */
};

/* endpoint.c: life of an endpoint */
struct choir_endpoint *shm_new_endpoint(struct choir_transport *t, int fd, enum shm_state state);
void shm_free_endpoint(struct choir_endpoint *ep); /* not linked, or not any more */
int shm_watch_socket(struct choir_endpoint *ep);   /* an errno */
void shm_close_socket(struct choir_endpoint *ep);
void shm_drop_received(struct shm_in *in);
void shm_set_up(struct choir_endpoint *ep); /* the hello succeeded; ep->lock held */
enum choir_status shm_connected(struct choir_endpoint *ep);
uint32_t shm_caps(struct choir_endpoint *ep);
enum choir_status shm_wake(struct choir_endpoint *ep);
enum choir_status shm_flushed(struct choir_transport *t);
void shm_disconnect(struct choir_endpoint *ep);
uint32_t shm_accept(struct choir_transport *t);
void shm_serve(struct choir_endpoint *ep, uint32_t events);
void shm_socket_name(const struct choir_process *process, uint64_t random, struct sockaddr_un *name,
                     socklen_t *bytes);
/* The endpoint is dead. Progress only, no lock held; tells the host once. */
void shm_fail(struct choir_endpoint *ep, enum choir_status status, int sys_errno,
              const char *format, ...) __attribute__((format(printf, 4, 5)));
void shm_sweep_at(struct choir_transport *t, uint64_t due_ns); /* base_now_ns clock; 0: at once */
/* Dials again, drops what is overdue, frees what was disconnected; progress only. False: nothing is left. */
bool shm_sweep(struct choir_transport *t);
enum choir_status shm_error(enum choir_status status, int sys_errno, const char *remedy,
                            const char *format, ...) __attribute__((format(printf, 4, 5)));

/* join.c: exactly one endpoint a process */
enum choir_status shm_connect(struct choir_transport *t, const struct choir_process *peer,
                              const void *address, size_t bytes, void *cookie,
                              struct choir_endpoint **endpoint);
void shm_redial(struct choir_endpoint *ep); /* t->lock held */
/* The peer of an accepted connection proved itself: what becomes of it. Progress only, no lock held. */
void shm_settle(struct choir_endpoint *ep);
/* A held connection that nothing holds any more, or NULL; t->lock held. */
struct choir_endpoint *shm_unsettled(struct choir_transport *t);

/* hello.c: who is there, and what works */
enum choir_status shm_introduce(struct choir_endpoint *ep); /* connecting side's first message */
void shm_hello(struct choir_endpoint *ep, enum shm_kind kind, const void *body, int fd);
bool shm_check_peer(struct choir_endpoint *ep, char *text, size_t bytes); /* uid and pid */
void shm_make_intro(struct choir_transport *t, const struct choir_process *peer,
                    struct shm_intro *intro);
void shm_mac(const char *label, const unsigned char secret[32], const struct shm_intro *dialer,
             const struct shm_intro *acceptor, unsigned char mac[32]);

/* send.c */
enum choir_status shm_send(struct choir_endpoint *ep, const struct choir_frame *frame,
                           const void *payload, struct choir_send *request);
/* Writes a message of the hello, which always fits an empty socket; fd -1: none. Returns an errno. */
int shm_post_hello(struct choir_endpoint *ep, enum shm_kind kind, const void *body, size_t bytes,
                   int fd);
/* Writes or queues a message; ep->lock held. Takes fd over (-1: none). */
enum choir_status shm_post(struct choir_endpoint *ep, enum shm_kind kind, const void *body,
                           size_t bytes, int fd);
void shm_flush(struct choir_endpoint *ep); /* ep->lock held */
void shm_arm(struct choir_endpoint *ep);   /* what epoll looks for; ep->lock held */
void shm_drop_queue(struct choir_endpoint *ep, enum choir_status status); /* ep->lock held */
/* receive.c */
uint32_t shm_receive(struct choir_endpoint *ep);
void shm_ended(struct choir_endpoint *ep); /* the process: reads what is left, then fails */

/* memory.c: segments, mappings, reading */
enum choir_status shm_alloc(struct choir_transport *t, uint64_t bytes, struct choir_shared *shared);
enum choir_status shm_release(struct choir_transport *t, struct choir_shared *shared);
enum choir_status shm_map(struct choir_endpoint *ep, uint64_t key, uint64_t bytes, void **memory);
enum choir_status shm_unmap(struct choir_endpoint *ep, void *memory, uint64_t bytes);
enum choir_status shm_read(struct choir_endpoint *ep, void *to, uint64_t from, uint64_t bytes);
enum choir_status shm_write(struct choir_endpoint *ep, uint64_t to, const void *from,
                            uint64_t bytes);
void shm_wanted(struct choir_endpoint *ep, const struct shm_want *want);
void shm_gone(struct choir_endpoint *ep, const struct shm_want *gone);
void shm_forget_given(struct choir_endpoint *ep); /* t->lock held */
bool shm_given(struct choir_endpoint *ep, const struct shm_give *give, int fd);
void shm_ask_waiting(struct choir_endpoint *ep); /* ep->lock held */
bool shm_reads_fast(void);                       /* speed.c */
bool shm_can_read(struct choir_endpoint *ep, const struct shm_intro *intro);

#endif
