/* SPDX-License-Identifier: Apache-2.0 */
/*
 * socket.c: sockets as this transport wants them: listening within the port range, dialing from a chosen
 * address, options, and who is at the other end.
 */
#include "transports/tcp/tcp.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

static int option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value));
}

/* Buffers are left to the kernel's autotuning. */
void tcp_net_tune(int fd)
{
    option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS);
    option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 5);
    option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 3);
    option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

static int listening(int family, uint16_t port)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    bool v6 = family == AF_INET6;
    if (port) /* a fixed port must not wait for the connections of a job that has just ended */
        option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (v6)
        option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (bind(fd, v6 ? (struct sockaddr *)&a6 : (struct sockaddr *)&a4,
             v6 ? sizeof(a6) : sizeof(a4)) ||
        listen(fd, 4096)) {
        int keep = errno;
        close(fd);
        errno = keep;
        return -1;
    }
    return fd;
}

static int listening_any(int family, uint16_t port)
{
    int fd = family == AF_INET ? -1 : listening(AF_INET6, port);
    return fd < 0 && family != AF_INET6 && (family == AF_INET || errno != EADDRINUSE)
               ? listening(AF_INET, port)
               : fd;
}

enum choir_status tcp_net_listen(const char *ports, int family, int *fd, uint16_t *port)
{
    unsigned long first = 0, last = 0;
    if (ports && *ports) {
        char *end;
        first = last = strtoul(ports, &end, 10);
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        if (*end || !first || last < first || last > 65535)
            return base_fail(CHOIR_ERR_ARGUMENT,
                             "set CHOIR_PORT_RANGE to first-last, say 40000-40999",
                             "CHOIR_PORT_RANGE is \"%s\"", ports);
    }
    unsigned long n = last - first + 1, at = first ? base_now_ns() / 1000 % n : 0;
    int s = -1;
    for (unsigned long i = 0; i < n && s < 0; i++)
        s = listening_any(family, (uint16_t)(first + (at + i) % n));
    if (s < 0)
        return base_fail(first ? CHOIR_ERR_NETWORK : CHOIR_ERR_SYSTEM,
                         first ? "widen CHOIR_PORT_RANGE or end the programs that hold its ports"
                               : "see whether this process may open sockets",
                         "no port to listen on%s%s: %s", first ? " in " : "", first ? ports : "",
                         strerror(errno));
    struct sockaddr_storage a;
    socklen_t bytes = sizeof(a);
    if (getsockname(s, (struct sockaddr *)&a, &bytes)) {
        close(s);
        return base_fail(CHOIR_ERR_SYSTEM, "", "getsockname: %s", strerror(errno));
    }
    *port = ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&a)->sin6_port
                                          : ((struct sockaddr_in *)(void *)&a)->sin_port);
    *fd = s;
    return CHOIR_OK;
}

static socklen_t to_sockaddr(const struct tcp_entry *e, uint16_t port, unsigned scope,
                             struct sockaddr_storage *s)
{
    memset(s, 0, sizeof(*s));
    if (e->v6) {
        struct sockaddr_in6 *a = (struct sockaddr_in6 *)(void *)s;
        a->sin6_family = AF_INET6, a->sin6_port = htons(port);
        memcpy(&a->sin6_addr, e->ip, 16);
        a->sin6_scope_id = e->link_local ? scope : 0;
        return sizeof(*a);
    }
    struct sockaddr_in *a = (struct sockaddr_in *)(void *)s;
    a->sin_family = AF_INET, a->sin_port = htons(port);
    memcpy(&a->sin_addr, e->ip, 4);
    return sizeof(*a);
}

/* Bound to the pair's own address, so that the answer comes back the same way; within a subnet to the interface too, since
 * with two interfaces on one subnet the routing table alone would send everything through the first. */
int tcp_net_dial(const struct tcp_pair *p, uint16_t port)
{
    int fd = socket(p->peer.v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    tcp_net_tune(fd);
    option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    if (p->rank == 1) /* not permitted on old kernels without a capability: then by address only */
        (void)setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, p->own.name,
                         (socklen_t)strlen(p->own.name));
    struct sockaddr_storage s;
    socklen_t bytes = to_sockaddr(&p->own.entry, 0, p->own.index, &s);
    if (bind(fd, (struct sockaddr *)&s, bytes))
        goto err_close;
    bytes = to_sockaddr(&p->peer, port, p->own.index, &s);
    if (connect(fd, (struct sockaddr *)&s, bytes) && errno != EINPROGRESS)
        goto err_close;
    return fd;

    int keep;
err_close:
    keep = errno;
    close(fd);
    errno = keep;
    return -1;
}

void tcp_net_text(const struct tcp_entry *e, char *text, size_t bytes)
{
    if (!inet_ntop(e->v6 ? AF_INET6 : AF_INET, e->ip, text, (socklen_t)bytes))
        snprintf(text, bytes, "?");
}

static void to_entry(const struct sockaddr_storage *s, struct tcp_entry *e)
{
    const struct sockaddr_in6 *s6 = (const struct sockaddr_in6 *)(const void *)s;
    *e = (struct tcp_entry){0};
    if (s->ss_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&s6->sin6_addr)) {
        e->v6 = 1;
        memcpy(e->ip, &s6->sin6_addr, 16);
    } else if (s->ss_family == AF_INET6) {
        memcpy(e->ip, &s6->sin6_addr.s6_addr[12], 4);
    } else {
        memcpy(e->ip, &((const struct sockaddr_in *)(const void *)s)->sin_addr, 4);
    }
}

void tcp_net_peer_text(int fd, char *text, size_t bytes)
{
    struct sockaddr_storage s = {0};
    socklen_t n = sizeof(s);
    struct tcp_entry e;
    if (getpeername(fd, (struct sockaddr *)&s, &n)) {
        snprintf(text, bytes, "somewhere");
        return;
    }
    to_entry(&s, &e);
    tcp_net_text(&e, text, bytes);
}

/* The user of the process that has the socket from->to, asked of the kernel (sock_diag(7)). */
static bool socket_uid(const struct sockaddr_storage *from, const struct sockaddr_storage *to,
                       uid_t *uid)
{
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 body;
    } ask = {{sizeof(ask), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0},
             {.sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0u}};
    struct tcp_entry a, b;
    to_entry(from, &a), to_entry(to, &b);
    ask.body.sdiag_family = a.v6 ? AF_INET6 : AF_INET;
    ask.body.id.idiag_sport = ((const struct sockaddr_in *)(const void *)from)->sin_port;
    ask.body.id.idiag_dport = ((const struct sockaddr_in *)(const void *)to)->sin_port;
    memcpy(ask.body.id.idiag_src, a.ip, 16), memcpy(ask.body.id.idiag_dst, b.ip, 16);
    ask.body.id.idiag_cookie[0] = ask.body.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd < 0)
        return false;
    union {
        struct nlmsghdr head;
        char bytes[2048];
    } answer;
    bool ok = send(fd, &ask, sizeof(ask), 0) == (ssize_t)sizeof(ask) &&
              recv(fd, &answer, sizeof(answer), MSG_DONTWAIT) >=
                  (ssize_t)NLMSG_LENGTH(sizeof(struct inet_diag_msg)) &&
              answer.head.nlmsg_type == SOCK_DIAG_BY_FAMILY;
    if (ok)
        *uid = ((struct inet_diag_msg *)NLMSG_DATA(&answer.head))->idiag_uid;
    close(fd);
    return ok;
}

bool tcp_net_from_this_host(int fd)
{
    struct sockaddr_storage own = {0}, peer = {0};
    socklen_t n = sizeof(own), m = sizeof(peer);
    struct tcp_entry a, b;
    uid_t uid;
    if (getsockname(fd, (struct sockaddr *)&own, &n) ||
        getpeername(fd, (struct sockaddr *)&peer, &m))
        return false;
    to_entry(&own, &a), to_entry(&peer, &b);
    if (a.v6 != b.v6)
        return false;
    static const struct in6_addr one = IN6ADDR_LOOPBACK_INIT;
    bool local = b.v6 ? !memcmp(b.ip, &one, 16) : b.ip[0] == 127;
    local |= !memcmp(a.ip, b.ip, 16);
    return local && socket_uid(&peer, &own, &uid) && (uid == getuid() || uid == 0);
}
