/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.h: windows, for what works on them: window.c (life, and what is mapped here) and put.c (puts, signals, waits).
 */
#ifndef COMM_WINDOW_H
#define COMM_WINDOW_H

#include "comm/comm.h"

struct window_card { /* what a rank tells the others of its part */
    uint64_t key, offset, bytes, address;
    uint64_t part, bell_key;
    uint32_t transport_name, bell_transport_name; /* hashes; 0: cannot be mapped */
};
struct choir_window {
    struct choir_comm *comm;
    struct window_card *card; /* [size] */
    pthread_mutex_t lock;     /* mapped: a stream's put, and the program asking for an address */
    void **mapped;            /* [size] what was mapped, to be unmapped; NULL: not yet */
    struct host_part part;    /* this rank's */
};

/* Which way bytes to the peer's part go: fills to, address and end of the put. CHOIR_IN_PROGRESS: call again. */
enum choir_status window_way(struct choir_window *w, uint32_t peer, struct host_put *put);

#endif
