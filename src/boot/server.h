/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.h: the rendezvous server of one id: a thread of the process that made the id.
 *
 * A rank that has joined keeps its connection open and silent until all are there: its death shows at once as the
 * end of the connection, the answer needs no polling (100,000 ranks that ask once a second would cost more than the whole
 * rendezvous), and an idle connection holds no buffer here. The price is a descriptor for each rank: the
 * soft limit is raised for the time if it is too low, and when even the hard limit does not suffice the longest waiting are
 * parked: noted, told when to come back, and closed.
 *
 * server.c owns the thread, the list of servers and time; conn.c the connections.
 */
#ifndef BOOT_SERVER_H
#define BOOT_SERVER_H

#include "boot/listen.h"
#include "boot/roster.h"
#include <pthread.h>

/* To prove oneself; to take an answer; to hang up. */
#define SERVER_CONN_NS 10000000000u
/* A joined rank whose connection broke is dead when not back by then; the second where a return takes time, because the
 * server is busy or the rank was parked. */
#define SERVER_RETURN_NS 1000000000u
#define SERVER_BUSY_RETURN_NS 30000000000u
/* A parked rank comes back after this, or later: so many return in a millisecond at most. */
#define SERVER_PARK_MS 500u
#define SERVER_RETURNS_PER_MS 4u
/* The server's stay after success, for ranks that have to ask again. */
#define SERVER_LINGER_NS 10000000000u
/* This process's own ranks wait at most so long for the others to be told. */
#define SERVER_OWN_NS 1000000000u
/* An id that nobody uses is forgotten (later, if CHOIR_CREATE_TIMEOUT is longer). */
#define SERVER_LIFE_NS 3600000000000u
/* With so many connections that have proved nothing yet, the next ones wait until the oldest has proved itself or has been
 * silent for so long. */
#define SERVER_UNPROVEN_MOST 8192u
#define SERVER_SILENT_NS 2000000000u
/* With more than these the server counts as busy. */
#define SERVER_BUSY 128u

enum conn_phase {
    CONN_NEW,     /* handshake, and the first frame */
    CONN_WAITING, /* a rank that has joined; silent */
    CONN_TELLING, /* the last frame is on its way */
    CONN_CLOSING, /* sent; the other side hangs up first, so that nothing is lost */
    CONN_DEAD     /* closed; freed at the end of the batch of events */
};
struct conn_list {
    struct conn *first, *last;
};
struct conn {
    struct channel channel;
    struct conn *previous, *next;
    struct conn_list *list;
    uint8_t phase;
    bool joined, own;      /* own: a rank of this process */
    uint32_t rank, events; /* events: what epoll watches */
    uint64_t deadline_ns;  /* of all phases but WAITING */
    struct address from;
    uint16_t port;
};

struct server {
    struct server *next; /* the process's list */
    pthread_mutex_t lock;
    unsigned char secret[32], name[16];
    bool insecure, cancelled;
    struct listeners listeners;
    int epoll, wake; /* wake: eventfd, written by server_cancel */
    struct roster roster;
    struct conn_list timed, waiting, dead; /* timed: in the order of their deadlines */
    uint32_t unproven, telling;            /* connections in these phases */
    uint64_t own_ns;                       /* when this process's ranks are told at the latest */
    bool deaf;                /* the listening sockets are not watched until accept_after_ns */
    uint64_t accept_after_ns; /* no descriptors: accept nothing before */
    uint64_t end_ns, late_ns; /* when to give up; when to log who is missing (0: logged) */
    uint64_t drop_log_ns;
    uint32_t drops;
    uint64_t park_ns;   /* how long the ranks parked last stay away */
    bool sized, parked; /* somebody has joined; somebody was parked */
    char *remove_path;  /* a file that names this server, removed at the end; or NULL */
    uint8_t body[FRAME_WELCOME_MOST];
};

struct server_want {
    const struct address *listen;
    uint32_t listen_count;
    struct listen_ports ports;
    unsigned char secret[32];
    bool insecure;
    const struct address *advertise; /* for the id; NULL: what it listens on */
    uint32_t advertise_count;
    bool maybe_late;
    uint16_t id_port, id_ports; /* for the id; 0: what it listens on */
};
enum choir_status server_start(const struct server_want *want, struct choir_id *id);
/* Renames `from`, which holds the id of this process's server `name`, to `path`; the server removes it when all have come,
 * or at its end. */
enum choir_status server_publish(const unsigned char name[16], const char *from, const char *path);
bool server_cancel(const unsigned char name[16]);
void server_watch_listeners(struct server *s, bool on);
/* Around fork: hold, release, and in the child forget everything. */
void server_fork_prepare(void);
void server_fork_parent(void);
void server_fork_child(void);

/* --- conn.c; the server's lock is held --------------------------------------------------------- */
void conn_accept(struct server *s, int listener, uint64_t now_ns);
void conn_event(struct server *s, struct conn *c, uint64_t now_ns);
void conn_expire(struct server *s, uint64_t now_ns); /* deadlines of the timed list */
void conn_tell_all(struct server *s,
                   uint64_t now_ns); /* the roster has ended: answer all that wait */
void conn_free_dead(struct server *s);
void conn_free_all(struct server *s);

#endif
