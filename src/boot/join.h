/* SPDX-License-Identifier: Apache-2.0 */
/* join.h: the inside of a join, for join.c and those who only ask a server whether it still serves (file.c). */
#ifndef BOOT_JOIN_H
#define BOOT_JOIN_H

#include "boot/listen.h"
#include "boot/roster.h"

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
    uint8_t reason; /* enum channel_reason */
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
    uint32_t state; /* a probe's answer: 0 open, 1 complete, 2 failed */
    uint8_t phase;
    uint64_t deadline_ns, begun_ns;
    uint32_t targets, cursor, server; /* server: the target that answered */
    uint32_t rounds, refused_rounds, other_version;
    uint64_t next_ns, refused_since_ns;
    struct join_target *target;
    struct join_slot slot[JOIN_SLOTS];
    struct channel channel; /* while WAITING */
};

/* A join without rank and blob; boot_join_test and boot_join_cancel work on it. */
enum choir_status join_open(const struct choir_id *id, uint64_t deadline_ns,
                            struct boot_join **join);
void join_fork_prepare(void);
void join_fork_parent(void);
void join_fork_child(void);

#endif
