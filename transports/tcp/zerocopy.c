/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zerocopy.c: sends whose pages the kernel reads in place (MSG_ZEROCOPY): when they pay, the kernel's notices that it is
 * through with them, and how a connection ends that still has some. The writing itself is write.c. See
 * Documentation/networking/msg_zerocopy.rst of Linux.
 */
#include "transports/tcp/tcp.h"
#include <linux/errqueue.h>
#include <string.h>
#include <sys/socket.h>

#define OPEN_MOST 64  /* sends under way: bits of `beyond`, and in it the first */
#define COPIES_MOST 4 /* in a row: there is nothing to gain here */

/* A connection of one host by its loopback address is not worth the question: the kernel copies there. Elsewhere one
 * send at a time asks it, until it has once kept the pages. e is owned. */
void tcp_zerocopy_begin(struct tcp_slot *s)
{
    struct tcp_zerocopy *z = &s->tx.zerocopy;
    int one = 1;
    enum tcp_zerocopy_use use = s->e->t->zerocopy;
    bool on = (use == TCP_ZEROCOPY_ALWAYS || (use == TCP_ZEROCOPY_PAYING && s->seal_control)) &&
              !setsockopt(s->source.fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one));
    tcp_acquire(&s->e->lock);
    z->on = on;
    z->first = z->sent;
    z->copied = 0;
    z->most = use == TCP_ZEROCOPY_ALWAYS ? OPEN_MOST : 1;
    tcp_release(&s->e->lock);
}

/* Whether the next `bytes` of a lent payload go this way. e->lock is held. */
bool tcp_zerocopy_pays(const struct tcp_slot *s, size_t bytes)
{
    const struct tcp_zerocopy *z = &s->tx.zerocopy;
    return z->on && bytes >= TCP_ZEROCOPY && z->sent < z->done + z->most;
}

/* The kernel copied, or would not lend itself to it (ENOBUFS: too many pages locked). e->lock is held. */
void tcp_zerocopy_missed(struct tcp_slot *s)
{
    struct tcp_zerocopy *z = &s->tx.zerocopy;
    if (++z->copied >= COPIES_MOST && s->e->t->zerocopy != TCP_ZEROCOPY_ALWAYS)
        z->on = false;
}

/* The kernel is through with sends low..high of this connection. Notices may come out of order, and before the thread
 * that sent has counted its send. */
static void noticed(struct tcp_slot *s, uint32_t low, uint32_t high, bool copied)
{
    struct tcp_zerocopy *z = &s->tx.zerocopy;
    tcp_acquire(&s->e->lock);
    bool full = s->tx.end - s->tx.acked == TCP_WINDOW;
    for (uint32_t i = low; i != high + 1; i++) {
        uint32_t at = i - (uint32_t)(z->done - z->first);
        if (at < OPEN_MOST) /* else of before the connection was aborted */
            z->beyond |= 1ull << at;
    }
    for (; z->beyond & 1; z->beyond >>= 1)
        z->done++;
    if (copied)
        tcp_zerocopy_missed(s);
    else
        z->copied = 0, z->most = OPEN_MOST;
    tcp_send_retire(s);
    tcp_release(&s->e->lock);
    if (full)
        tcp_send_flush(s->e);
}

void tcp_zerocopy_reap(struct tcp_slot *s)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(struct sock_extended_err) + sizeof(struct sockaddr_in6))];
    } control;
    for (;;) {
        struct msghdr m = {.msg_control = &control, .msg_controllen = sizeof(control)};
        if (recvmsg(s->source.fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            return;
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        struct sock_extended_err n;
        if (!h || h->cmsg_len < CMSG_LEN(sizeof(n)))
            continue;
        memcpy(&n, CMSG_DATA(h), sizeof(n));
        if (n.ee_origin == SO_EE_ORIGIN_ZEROCOPY)
            noticed(s, n.ee_info, n.ee_data, (n.ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0);
    }
}

/* Before memory that the kernel may still read is given back, it has to let go of it: connect() to nowhere drops what
 * is queued and resets the connection, where close() would go on sending. The caller owns e. */
void tcp_zerocopy_abort(struct tcp_slot *s)
{
    struct tcp_zerocopy *z = &s->tx.zerocopy;
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    if (s->source.fd >= 0 && z->done != z->sent)
        (void)connect(s->source.fd, &none, sizeof(none));
    tcp_acquire(&s->e->lock);
    z->on = false;
    z->done = z->sent;
    z->beyond = 0;
    tcp_send_retire(s);
    tcp_release(&s->e->lock);
}
