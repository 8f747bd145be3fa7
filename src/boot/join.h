/* SPDX-License-Identifier: Apache-2.0 */
/* join.h: the inside of a join: hunt.c finds the server, join.c does the rest. */
#ifndef BOOT_JOIN_H
#define BOOT_JOIN_H

#include "boot/listen.h"
#include "boot/roster.h"
#include <poll.h>

#define JOIN_SLOTS 4

enum slot_phase { SLOT_FREE, SLOT_CONNECTING, SLOT_HANDSHAKE };
struct join_slot {
    uint8_t phase;
    int fd; /* while connecting; afterwards the channel's */
    uint32_t target;
    uint64_t started_ns;
    struct channel channel;
};
struct join_target { /* one address and port: what came of it last */
    int sys_errno;
    uint8_t reason,
        refusal; /* enum channel_reason, of the last attempt and of the last that was refused */
    const char *why;
};
enum join_phase { JOIN_CONNECTING, JOIN_WAITING };
struct boot_join {
    struct boot_join *next;
    struct id_view id;
    unsigned char name[16], token[16];
    uint32_t rank, size, bytes;
    void *blob;
    bool probe, forked;
    uint8_t phase;
    uint64_t deadline_ns, begun_ns;
    uint32_t targets, cursor, server; /* server: the target that answered */
    uint32_t rounds, refused_rounds, other_version;
    uint64_t next_ns, refused_since_ns, refused_ns;
    struct join_target *target;
    struct join_slot slot[JOIN_SLOTS];
    struct channel channel; /* while WAITING */
};

/* Asks the server of an id, without joining, at most until the deadline: true if it is there and still open. Leaves the
 * thread's error record alone. */
bool join_probe(const struct choir_id *id, uint64_t deadline_ns);
void join_fork_prepare(void);
void join_fork_parent(void);
void join_fork_child(void);

/* --- hunt.c ------------------------------------------------------------------------------------- */
/* Moves on; phase is JOIN_WAITING when a server has proved itself. CHOIR_IN_PROGRESS, or why it is hopeless. */
enum choir_status hunt_step(struct boot_join *j, uint64_t now_ns);
/* After a pause all addresses are tried again. */
void hunt_begin_round(struct boot_join *j, uint64_t now_ns);
void hunt_close(struct boot_join *j);
/* What to poll, and when to look again at the latest. */
uint32_t hunt_poll(const struct boot_join *j, struct pollfd p[JOIN_SLOTS], uint64_t *wake_ns);
/* "10.0.0.1:70, [fd00::1]:70 connection refused; 127.0.0.1:70 ...": what was tried and what came of it. */
void hunt_tried(const struct boot_join *j, char *text, size_t bytes);
/* CHOIR_OK if no server has refused us, else the error. */
enum choir_status hunt_refused(const struct boot_join *j);

#endif
