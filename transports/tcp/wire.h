/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h: what goes over a connection, in the byte order of the machine (a peer of the other order fails the
 * magic). First four handshake messages, then records. README.md draws both.
 */
#ifndef TRANSPORTS_TCP_WIRE_H
#define TRANSPORTS_TCP_WIRE_H

#include "choir_transport.h"

#define TCP_MAGIC 0x50544843u
#define TCP_VERSION 1
#define TCP_TAG 16 /* bytes of an authentication tag */
#define TCP_SEGMENT                                                                                \
    (64 << 10)               /* a sealed payload goes in pieces of so many bytes, each with a tag */
#define TCP_ADDRESS_MOST 512 /* bytes of an address blob */
#define TCP_SLOTS_MOST 32    /* connections of one endpoint */

/* --- handshake: dialer HELLO, acceptor CHALLENGE, dialer AUTH, acceptor READY ------------------------- */
enum { TCP_CAN_AES = 1, TCP_WANT_ENCRYPT = 2, TCP_SAME_HOST = 4 };

struct tcp_hello {
    uint32_t magic;
    uint16_t version, flags;
    struct choir_process from, to;
    unsigned char secret_name[16]; /* zero: the dialer knows no secret */
    unsigned char nonce[32];
};

enum tcp_verdict {
    TCP_YES,
    TCP_NOT_ME,    /* another process listens here */
    TCP_NO_SECRET, /* the acceptor does not know that secret */
    TCP_BUSY,      /* the acceptor is dialing this slot itself, and its id is the smaller */
    TCP_GONE       /* the acceptor has given this endpoint up */
};

struct tcp_challenge {
    uint32_t magic;
    uint16_t version, flags;
    uint32_t verdict, zero;
    unsigned char nonce[32];
};

/* `epoch` is drawn afresh for every endpoint, so that a new endpoint never resumes an old one's stream. */
struct tcp_auth_body {
    uint64_t epoch, peer_epoch; /* peer_epoch 0: not known yet */
    uint64_t received;          /* records the dialer has received on this slot */
    uint32_t slot, address_bytes;
    unsigned char address[TCP_ADDRESS_MOST];
};
struct tcp_auth {
    unsigned char proof[32];
    unsigned char sealed[sizeof(struct tcp_auth_body) + TCP_TAG];
};

struct tcp_ready_body {
    uint64_t epoch, received;
    uint32_t verdict, zero;
};
struct tcp_ready {
    unsigned char proof[32];
    unsigned char sealed[sizeof(struct tcp_ready_body) + TCP_TAG];
};

/* --- records ---------------------------------------------------------------------------------------- */
enum tcp_type { TCP_CHUNK = 1, TCP_ACK };
enum {
    TCP_LAST = 1,   /* last chunk of its frame */
    TCP_WANT = 2,   /* the sender waits for the acknowledgement */
    TCP_SEALED = 4, /* everything behind the prefix is encrypted, the prefix authenticated */
    TCP_BYE = 8     /* nothing follows: the sender has let go of the endpoint */
};

struct tcp_prefix {
    uint8_t type, flags;
    uint16_t zero;
    uint32_t bytes; /* of payload in this record */
    uint64_t ack;   /* chunks received so far on this slot */
};
struct tcp_body {
    uint64_t seq; /* of this chunk among all of the endpoint, over all slots */
    uint32_t offset, zero;
    struct choir_frame frame;
};
struct tcp_header {
    struct tcp_prefix prefix;
    struct tcp_body body;
};
_Static_assert(sizeof(struct tcp_header) == 96, "no padding on the wire");
#define TCP_HEADER_MOST (sizeof(struct tcp_header) + TCP_TAG)

#endif
