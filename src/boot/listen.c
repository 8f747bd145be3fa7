/* SPDX-License-Identifier: Apache-2.0 */
/* listen.c: see listen.h. */
#include "boot/listen.h"
#include "base/knob.h"
#include <errno.h>
#include <limits.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG                                                                                    \
    4096 /* the kernel clips it to net.core.somaxconn; a full one delays joiners, it loses none */
#define SYSTEM_PORT_TRIES 16

void socket_tune(int fd)
{
    int on = 1, idle = 10, interval = 5, probes = 3;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

static int open_one(const struct address *a, uint16_t port, int *error)
{
    struct sockaddr_storage to;
    socklen_t length = address_to_socket(a, port, &to);
    int one = 1, fd = socket(a->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        goto err;
    /* A restarted job gets its fixed port again although connections of the last one are in TIME_WAIT. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (a->family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    socket_tune(fd); /* Linux hands these options on to the sockets that accept returns */
    if (bind(fd, (struct sockaddr *)&to, length) || listen(fd, BACKLOG))
        goto err;
    return fd;
err:
    *error = errno;
    if (fd >= 0)
        close(fd);
    return -1;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage at;
    struct address a;
    uint16_t port = 0;
    socklen_t length = sizeof(at);
    if (!getsockname(fd, (struct sockaddr *)&at, &length))
        address_from_socket((struct sockaddr *)&at, &a, &port);
    return port;
}

void listen_close(struct listeners *l)
{
    for (uint32_t i = 0; i < l->count; i++)
        close(l->fd[i]);
    l->count = 0;
}

/* All addresses on one port. 0, or the errno that makes this port useless. */
static int open_all(const struct address *a, uint32_t count, uint16_t port, struct listeners *l)
{
    int last = EADDRNOTAVAIL;
    l->count = 0;
    l->port = port;
    for (uint32_t i = 0; i < count && l->count < ADDRESSES_MOST; i++) {
        int fd = open_one(&a[i], l->port, &last);
        if (fd >= 0) {
            l->address[l->count] = a[i];
            l->fd[l->count++] = fd;
            l->port = port_of(fd);
        } else if (last != EADDRNOTAVAIL && last != EAFNOSUPPORT) {
            listen_close(
                l); /* in use or forbidden on one address: joiners there would meet a stranger */
            return last;
        }
    }
    return l->count ? 0 : last;
}

/* 0, or why the last port failed. */
static int try_ports(const struct address *a, uint32_t count, const struct listen_ports *ports,
                     struct listeners *l)
{
    uint32_t tries = ports->first ? ports->count : SYSTEM_PORT_TRIES;
    uint32_t offset = ports->shuffle ? randombytes_uniform(ports->count) : 0;
    int error = 0;
    for (uint32_t i = 0; i < tries; i++) {
        uint32_t port = ports->first ? ports->first + (offset + i) % ports->count : 0;
        error = open_all(a, count, (uint16_t)port, l);
        if (error != EADDRINUSE && error != EACCES)
            break;
    }
    return error;
}

enum choir_status listen_open(const struct address *a, uint32_t count,
                              const struct listen_ports *ports, struct listeners *l)
{
    int error;
    while ((error = try_ports(a, count, ports, l)) == EADDRINUSE &&
           base_now_ns() + 20000000u < ports->until_ns)
        nanosleep(&(struct timespec){0, 20000000}, NULL);
    if (!error)
        return CHOIR_OK;
    char text[ADDRESS_TEXT];
    const struct base_error_at at = {-1, -1, 0, error, NULL};
    if (ports->first)
        return base_error_fill(base_error_thread(), CHOIR_ERR_NETWORK, &at,
                               "name other ports, or end what holds these (see `ss -ltnp`)",
                               "cannot listen on any port from %u to %u (%s)", ports->first,
                               ports->first + ports->count - 1, ports->source);
    return base_error_fill(base_error_thread(), CHOIR_ERR_NETWORK, &at,
                           "check limits on sockets and descriptors (ulimit -n)",
                           "cannot listen on %s and %u more addresses", address_text(a, 0, text),
                           count - 1);
}

enum choir_status listen_ports_knobs(struct listen_ports *ports)
{
    *ports = (struct listen_ports){.count = 1, .source = "CHOIR_PORT"};
    if (knob_int(KNOB_PORT)) {
        ports->first = (uint16_t)knob_int(KNOB_PORT);
        return CHOIR_OK;
    }
    const char *range = knob_text(KNOB_PORT_RANGE);
    if (!*range)
        return CHOIR_OK;
    char *end = NULL;
    unsigned long first = strtoul(range, &end, 10), last = 0;
    bool good = end != range && *end == '-' && end[1] >= '0' && end[1] <= '9';
    if (good)
        last = strtoul(end + 1, &end, 10);
    if (!good || *end || !first || last > 65535 || last < first)
        return base_fail(CHOIR_ERR_ARGUMENT, "write first-last, as 20000-20100",
                         "CHOIR_PORT_RANGE=%.64s is not a range of ports from 1 to 65535", range);
    ports->first = (uint16_t)first;
    ports->count = (uint16_t)base_min(last - first + 1, (unsigned long)UINT16_MAX);
    ports->shuffle = true;
    ports->source = "CHOIR_PORT_RANGE";
    return CHOIR_OK;
}

/* The peer's socket is the one whose source is our peer address and whose destination is ours. */
static bool ask_owner(int netlink, const struct address *peer, uint16_t peer_port,
                      const struct address *self, uint16_t self_port, uid_t *uid)
{
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 body;
    } ask = {.head = {.nlmsg_len = sizeof(ask),
                      .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                      .nlmsg_flags = NLM_F_REQUEST},
             .body = {.sdiag_family = peer->family,
                      .sdiag_protocol = IPPROTO_TCP,
                      .idiag_states = UINT32_MAX}};
    ask.body.id.idiag_sport = htons(peer_port);
    ask.body.id.idiag_dport = htons(self_port);
    memcpy(ask.body.id.idiag_src, peer->ip, 16);
    memcpy(ask.body.id.idiag_dst, self->ip, 16);
    ask.body.id.idiag_cookie[0] = ask.body.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    if (send(netlink, &ask, sizeof(ask), 0) != (ssize_t)sizeof(ask))
        return false;
    union {
        struct nlmsghdr head;
        char bytes[1024];
    } answer;
    ssize_t n = recv(netlink, &answer, sizeof(answer), 0);
    if (n < (ssize_t)NLMSG_LENGTH(sizeof(struct inet_diag_msg)) ||
        answer.head.nlmsg_type != SOCK_DIAG_BY_FAMILY)
        return false;
    *uid = ((struct inet_diag_msg *)NLMSG_DATA(&answer.head))->idiag_uid;
    return true;
}

bool peer_is_same_user(int fd)
{
    struct sockaddr_storage self_at, peer_at;
    socklen_t self_length = sizeof(self_at), peer_length = sizeof(peer_at);
    struct address self, peer;
    uint16_t self_port, peer_port;
    if (getsockname(fd, (struct sockaddr *)&self_at, &self_length) ||
        getpeername(fd, (struct sockaddr *)&peer_at, &peer_length) ||
        !address_from_socket((struct sockaddr *)&self_at, &self, &self_port) ||
        !address_from_socket((struct sockaddr *)&peer_at, &peer, &peer_port) ||
        !address_is_loopback(&peer))
        return false;
    int netlink = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (netlink < 0)
        return false;
    struct timeval patience = {.tv_sec = 1};
    setsockopt(netlink, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    uid_t uid;
    bool same = ask_owner(netlink, &peer, peer_port, &self, self_port, &uid) && uid == geteuid();
    close(netlink);
    return same;
}
