/* SPDX-License-Identifier: Apache-2.0 */
/*
 * roster.h: who has arrived at a rendezvous, who is missing, and the verdict. Pure state: no sockets, no clock of
 * its own, no thread.
 */
#ifndef BOOT_ROSTER_H
#define BOOT_ROSTER_H

#include "boot/channel.h"

#define ROSTER_SIZE_MOST                                                                           \
    (1u << 24) /* ranks; a bound on what an authenticated joiner may make us allocate */

/* FRAME_JOIN, decoded. `address` points into the frame. */
struct join_message {
    uint32_t version, size, rank, bytes, pid;
    uint64_t remaining_ns;   /* until the joiner's deadline */
    unsigned char token[16]; /* the joiner's own: tells its second connection from another joiner */
    char host[FRAME_HOST_BYTES];
    const uint8_t *address;
};
/* body has room for FRAME_JOIN_MOST; returns the bytes written. */
uint32_t join_encode(const struct join_message *m, uint8_t *body);
bool join_decode(const uint8_t *body, uint32_t bytes, struct join_message *m);

struct verdict {
    enum choir_status status; /* CHOIR_OK: none */
    int32_t peer;
    char text[256], remedy[256];
};
void verdict_encode(const struct verdict *v, uint8_t body[FRAME_ERROR_BYTES]);
bool verdict_decode(const uint8_t *body, uint32_t bytes, struct verdict *v);

enum member_state { MEMBER_ABSENT, MEMBER_HERE, MEMBER_AWAY, MEMBER_TOLD };
struct member {
    uint8_t state;
    uint32_t bytes, pid;
    unsigned char token[16];
    uint64_t away_until_ns; /* AWAY: dead if not back by then */
    char *host;             /* and behind it the address blob: one allocation */
    uint8_t *address;
};
struct roster {
    uint32_t size;                    /* 0: nobody has come yet */
    uint32_t here, told, away, first; /* first: who stated the size */
    struct member *member;
    bool complete;
    struct verdict verdict; /* failed if its status is not CHOIR_OK */
    uint64_t nonce;
    uint64_t deadline_ns,
        limit_ns; /* the earliest of the joiners'; how long that one was willing to wait */
};

enum roster_answer {
    ROSTER_WAIT,    /* noted; the answer follows when all are here */
    ROSTER_TELL,    /* all are here, or it failed: send roster_frame */
    ROSTER_REFUSED, /* this joiner only: send `refusal` */
};
/* `refusal` is filled only for ROSTER_REFUSED. One that fails the whole group (duplicate, other size, other version) fills
 * the roster's verdict. */
enum roster_answer roster_join(struct roster *r, const struct join_message *m, uint64_t now_ns,
                               struct verdict *refusal);
/* The connection of `rank` is gone or was parked: it counts as dead when not back until then. */
void roster_leave(struct roster *r, uint32_t rank, uint64_t until_ns);
/* True if time alone has just made the group fail. */
bool roster_tick(struct roster *r, uint64_t now_ns);
void roster_told(struct roster *r, uint32_t rank);
static inline bool roster_ended(const struct roster *r)
{
    return r->complete || r->verdict.status;
}
/* The FRAME_WELCOME or FRAME_ERROR for `rank`; body has room for FRAME_WELCOME_MOST. */
uint16_t roster_frame(const struct roster *r, uint32_t rank, uint8_t *body, uint32_t *bytes);
/* "rank 3 of 4", "ranks 3, 7-9 of 16": who has not come; returns the first of them. */
uint32_t roster_missing(const struct roster *r, char *text, size_t bytes);
void roster_free(struct roster *r);

#endif
