/* SPDX-License-Identifier: Apache-2.0 */
/*
 * channel.h: an authenticated, encrypted connection between a rank and the rendezvous server, and the frames on it.
 *
 * The client sends a hello (64 bytes), the server a reply (80 bytes) that proves the secret; both derive one
 * key per direction from the secret and both nonces (BLAKE2b keyed with the secret), and every frame that follows is
 * ChaCha20-Poly1305 (RFC 8439) with a counter as nonce. The client proves itself by its first frame.
 * Whoever learns the secret later can read what was recorded: there is no forward secrecy, because 100,000
 * key exchanges on one core would take longer than the whole rendezvous, and what travels here are addresses.
 *
 * hello: magic 8, version 4, zero 4, name of the secret 16, nonce 32
 * reply: magic 8, version 4, reason 4, nonce 32, proof 32
 * frame: body bytes 4, type 2, zero 2 (authenticated), body, tag 16
 * All integers are little-endian.
 */
#ifndef BOOT_CHANNEL_H
#define BOOT_CHANNEL_H

#include "boot/boot.h"
#include <string.h>

#define CHANNEL_VERSION 1
#define CHANNEL_HELLO_BYTES 64
#define CHANNEL_REPLY_BYTES 80
#define CHANNEL_HEAD_BYTES 8
#define CHANNEL_TAG_BYTES 16

/* Why a server refuses; travels in clear, so a client believes it only when nobody else answers. */
enum channel_reason {
    CHANNEL_ACCEPTED,
    CHANNEL_OTHER_VERSION,
    CHANNEL_UNKNOWN_SECRET,
    CHANNEL_NOT_LOCAL,
    CHANNEL_REASONS
};

enum frame_type {
    FRAME_JOIN = 1, /* client: who I am and how to reach me */
    FRAME_PROBE,    /* client: is this id still open? */
    FRAME_WELCOME,  /* server: all are here; your neighbours */
    FRAME_ERROR,    /* server: the join failed */
    FRAME_PARK,     /* server: you are noted; come back later (no descriptors left here) */
    FRAME_STATE,    /* server: answer to a probe */
    FRAME_TYPES
};
#define FRAME_JOIN_BYTES 112
#define FRAME_ERROR_BYTES 528
#define FRAME_JOIN_MOST (FRAME_JOIN_BYTES + BOOT_ADDRESS_MOST)
#define FRAME_WELCOME_MOST (16 + (BOOT_FANOUT + 1) * (8 + BOOT_ADDRESS_MOST))
#define FRAME_HOST_BYTES 64

static inline void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}
static inline void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)v), put32(p + 4, (uint32_t)(v >> 32));
}
static inline uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t get64(const uint8_t *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

struct channel {
    int fd; /* non-blocking; owned */
    bool server, open;
    uint8_t refuse;                           /* server: refuse with this reason */
    uint8_t reason;                           /* client: why the server refused */
    uint32_t peer_version;                    /* with CHANNEL_OTHER_VERSION */
    uint32_t frame_most;                      /* largest body accepted */
    const unsigned char *secret;              /* 32 bytes, borrowed */
    unsigned char hello[CHANNEL_HELLO_BYTES]; /* the client's, kept until open */
    unsigned char send_key[32], receive_key[32];
    uint64_t sent, received; /* frames: the nonces */
    uint8_t *in, *out;       /* allocated only while something is under way */
    uint32_t in_have, in_need, out_bytes, out_sent;
    int sys_errno;
    const char *why; /* what was wrong, for the log */
};

/* Takes the descriptor. The client's hello is queued; nothing is sent before channel_receive or channel_flush. */
enum choir_status channel_init(struct channel *c, int fd, bool server,
                               const unsigned char secret[32], uint32_t frame_most);
/* Closes the descriptor and wipes the keys. Idempotent. */
void channel_free(struct channel *c);
/*
 * Moves the handshake on and reads frames. CHOIR_OK: *body (valid until the next call) holds a frame of *bytes.
 * CHOIR_IN_PROGRESS: nothing more now. CHOIR_ERR_PEER_DEAD: closed by the peer; CHOIR_ERR_NETWORK: sys_errno;
 * CHOIR_ERR_AUTH, CHOIR_ERR_PROTOCOL: see `why` and `reason`. After an error only channel_free is allowed.
 */
enum choir_status channel_receive(struct channel *c, uint16_t *type, const uint8_t **body,
                                  uint32_t *bytes);
/* Encrypts and sends, or queues what the socket does not take: one frame at a time, CHOIR_ERR_BUSY if another is queued. */
enum choir_status channel_send(struct channel *c, uint16_t type, const uint8_t *body,
                               uint32_t bytes);
/* CHOIR_OK: nothing is queued any more. */
enum choir_status channel_flush(struct channel *c);
static inline bool channel_wants_write(const struct channel *c)
{
    return c->out != NULL;
}

#endif
