/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.c: the epoll set. A socket in it costs its sender's kernel a walk through the set and those it is nested in, for each
 * segment. So hot slots leave it while somebody drives progress, and come back when nobody does (arm), or when they are
 * too many to be hot.
 */
#include "transports/tcp/tcp.h"
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

bool tcp_watch(struct choir_transport *t, struct tcp_source *s, uint32_t interest)
{
    struct epoll_event v = {.events = interest, .data.ptr = s};
    if (epoll_ctl(t->poll, EPOLL_CTL_MOD, s->fd, &v) &&
        (errno != ENOENT || epoll_ctl(t->poll, EPOLL_CTL_ADD, s->fd, &v)))
        return false;
    s->interest = interest;
    return true;
}

/* Deleted from the set first: a child that was forked may still hold the descriptor open. */
void tcp_unwatch(struct choir_transport *t, struct tcp_source *s)
{
    epoll_ctl(t->poll, EPOLL_CTL_DEL, s->fd, NULL);
    close(s->fd);
    s->fd = -1;
}

void tcp_rewatch(struct choir_transport *t, struct tcp_source *from, struct tcp_source *to,
                 uint32_t interest)
{
    to->fd = from->fd;
    from->fd = -1;
    tcp_watch(t, to, interest);
}

void tcp_attach(struct choir_transport *t)
{
    if (!t->detached)
        return;
    t->detached = false;
    for (uint32_t i = 0; i < t->up_count; i++) {
        struct tcp_slot *s = t->up[i];
        tcp_acquire(&s->e->lock); /* or a thread that writes may ask for EPOLLOUT meanwhile */
        if (!s->source.interest)
            tcp_watch(t, &s->source, s->tx.blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
        tcp_release(&s->e->lock);
    }
}

void tcp_detach(struct choir_transport *t)
{
    t->detached = true;
    for (uint32_t i = 0; i < t->up_count; i++) {
        struct tcp_slot *s = t->up[i];
        tcp_acquire(&s->e->lock);
        if (s->source.interest == EPOLLIN && !epoll_ctl(t->poll, EPOLL_CTL_DEL, s->source.fd, NULL))
            s->source.interest = 0;
        tcp_release(&s->e->lock);
    }
}
