/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listen.h: listening sockets on several addresses with one port, and what can be known of who connects.
 */
#ifndef BOOT_LISTEN_H
#define BOOT_LISTEN_H

#include "boot/address.h"

struct listeners {
    int fd[ADDRESSES_MOST];
    struct address address[ADDRESSES_MOST]; /* of fd[i] */
    uint32_t count;
    uint16_t port;
};
/* Ports `first` .. first+ports-1, beginning at a random one of them if `shuffle`; first 0: whatever the system
 * gives. All addresses get the same port; one that this host does not have (or a family it does not speak) is left out. `source`
 * names the setting for the error text. */
struct listen_ports {
    uint16_t first, count;
    bool shuffle;
    const char *source;
    uint64_t until_ns; /* while all are in use, try again until then */
};
enum choir_status listen_open(const struct address *a, uint32_t count,
                              const struct listen_ports *ports, struct listeners *l);
void listen_close(struct listeners *l);
/* CHOIR_PORT, else CHOIR_PORT_RANGE, else any. */
enum choir_status listen_ports_knobs(struct listen_ports *ports);

/* No delay for small frames, and a host that vanished is noticed within half a minute. */
void socket_tune(int fd);
/* Whether the other end of a connected socket is on this host over loopback and belongs to this process's user: asked of the
 * kernel (sock_diag(7)), not of the peer. False when that cannot be known. */
bool peer_is_same_user(int fd);

#endif
