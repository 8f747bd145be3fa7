/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mock_host.h: a host in miniature, for tests of transports: checks that frames come in order and intact, keeps
 * what it is told, drives progress. Processes find each other on a board in memory shared by fork.
 */
#ifndef TESTS_MOCK_HOST_H
#define TESTS_MOCK_HOST_H

#include "base/base.h"
#include "choir_transport.h"

#define MOCK_PEERS 160
#define MOCK_RANKS 64

/* One per endpoint: the cookie. */
struct mock_peer {
    struct mock *mock;
    struct choir_process process;
    struct choir_endpoint *endpoint;
    bool accepted;
    uint64_t sent, arrived; /* data frames */
    _Atomic uint64_t notes; /* control frames */
    uint64_t note[3];       /* the arguments of the last */
    unsigned char *buffer;
    _Atomic int failed_count;
    enum choir_status failed;
    char text[200];
};

struct mock {
    struct choir_transport_host host;
    const struct choir_transport_ops *ops;
    struct choir_transport *t;
    int rank;
    struct mock_peer *peer[MOCK_PEERS];
    _Atomic int peer_count;
    uint64_t arrived;
    struct {
        int fd;
        void (*fn)(void *arg);
        void *arg;
    } watch[8];
    unsigned char secrets[4][32]; /* the last is the newest */
    int secret_count;
    bool refuse_peers, discard;
};

struct mock_board {
    struct mock_place {
        struct choir_process process;
        unsigned char address[256];
        size_t bytes;
        long pid;
    } rank[MOCK_RANKS];
    _Atomic int arrived[64]; /* barriers */
    _Atomic uint64_t word[128];
};

struct mock_board *mock_board_new(void); /* shared with children */
void mock_board_free(struct mock_board *board);
/* All `size` processes come here, driving progress (m may be NULL); each number is used once. */
void mock_meet(struct mock_board *board, struct mock *m, int size, int number);

void mock_init(struct mock *m, const struct choir_transport_ops *ops, int rank);
void mock_open(struct mock *m, struct mock_board *board); /* opens, and pins the address up */
struct mock_peer *mock_connect(struct mock *m, const struct mock_board *board, int rank,
                               enum choir_status *status); /* NULL: status says why */
/* Two ranks: opens, meets (number 0), and, if `dials`, connects to the other; the connected peer. */
struct mock_peer *mock_pair(struct mock *m, struct mock_board *board, int rank, bool dials);
/* Drives progress until the connection is decided. */
enum choir_status mock_wait_connected(struct mock_peer *p);
void mock_progress(struct mock *m);
void mock_close(struct mock *m);
void mock_drop(struct mock_peer *p); /* disconnects */

/* A data frame of `bytes` with a pattern that place/arrived check; the payload is kept until sent. */
struct mock_send {
    struct choir_send send;
    unsigned char *payload;
    bool lent;
};
enum choir_status mock_send(struct mock_peer *p, uint32_t bytes, struct mock_send *s);
bool mock_sent(struct mock_send *s); /* and frees the payload */
enum choir_status mock_note(struct mock_peer *p, uint64_t a, uint64_t b, uint64_t c);

/* Drives progress until `condition`; fails after 20 s. */
#define MOCK_UNTIL(m, condition)                                                                   \
    do {                                                                                           \
        uint64_t mock_end = base_now_ns() + 20000000000u;                                          \
        while (!(condition)) {                                                                     \
            mock_progress(m);                                                                      \
            if (base_now_ns() > mock_end)                                                          \
                FAIL("never: %s", #condition);                                                     \
        }                                                                                          \
    } while (0)

#endif
