/* SPDX-License-Identifier: Apache-2.0 */
/*
 * join.c: how two processes come to exactly one endpoint: dialing, and what becomes of a connection that the peer dialed
 * and proved. Where both dial at once, the connection of the smaller process id stays and the other side's endpoint
 * adopts it; the larger one's waits unanswered (SHM_HELD) until that has happened, or takes over if it never does.
 */
#include "shm.h"
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* The caller's thread gets the reason, in the record. */
static enum choir_status dial_failed(struct choir_endpoint *ep, int e)
{
    if (e == ECONNREFUSED && ep->transport->address.net)
        return shm_error(CHOIR_ERR_PEER_DEAD, e, "look at the peer's log",
                         "the peer process listens no more");
    if (e == EMFILE || e == ENFILE || e == ENOMEM || e == ENOBUFS)
        return shm_error(CHOIR_ERR_SYSTEM, e, "raise the limit of open files (ulimit -n)",
                         "cannot open a socket");
    return shm_error(CHOIR_ERR_UNSUPPORTED, e, "let the transport tcp be used",
                     "a unix socket cannot reach the peer process");
}

/* CHOIR_IN_PROGRESS: the listener's backlog is full, which poll cannot wait for. */
static enum choir_status dial(struct choir_endpoint *ep)
{
    char text[120];
    enum choir_status status;
    socklen_t bytes =
        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(ep->to.sun_path + 1));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return dial_failed(ep, errno);
    if (connect(fd, (struct sockaddr *)&ep->to, bytes)) {
        int e = errno;
        close(fd);
        if (e != EAGAIN && e != EINTR)
            return dial_failed(ep, e);
        ep->due_ns = base_now_ns() + (1000000u << base_min(ep->dials, 5u));
        ep->dials++;
        return CHOIR_IN_PROGRESS;
    }
    pthread_mutex_lock(&ep->lock);
    ep->fd = fd;
    atomic_store(&ep->state, SHM_WAIT_ANSWER);
    status = shm_check_peer(ep, text, sizeof(text))
                 ? shm_introduce(ep)
                 : shm_error(CHOIR_ERR_AUTH, 0, "run all ranks as the same user", "%s", text);
    if (!status) {
        int e = shm_watch_socket(ep); /* from here on progress may serve it */
        if (e)
            status = dial_failed(ep, e);
    }
    if (status)
        shm_close_socket(ep);
    pthread_mutex_unlock(&ep->lock);
    return status;
}

static enum choir_status read_address(struct choir_transport *t, const struct choir_process *peer,
                                      const void *address, size_t bytes, struct shm_address *a)
{
    if (bytes != sizeof(*a))
        return shm_error(CHOIR_ERR_PROTOCOL, 0, "use the same version of choir everywhere",
                         "the peer's shm address has %zu bytes, not %zu", bytes, sizeof(*a));
    memcpy(a, address, sizeof(*a));
    if (a->magic != SHM_MAGIC)
        return shm_error(CHOIR_ERR_PROTOCOL, 0, "use the same version of choir everywhere",
                         "the peer's shm address is of another version");
    if (a->host_hash != t->address.host_hash)
        return shm_error(CHOIR_ERR_UNSUPPORTED, 0, "", "the peer is on another host");
    if (a->net && t->address.net && a->net != t->address.net)
        return shm_error(CHOIR_ERR_UNSUPPORTED, 0, "let the transport tcp be used",
                         "the peer is in another network namespace of this host");
    if (!memcmp(peer, &t->host.self, sizeof(*peer)))
        return shm_error(CHOIR_ERR_UNSUPPORTED, 0, "", "the peer is this process");
    return CHOIR_OK;
}

/* --- one endpoint a process ----------------------------------------------------------------------- */

/* Another endpoint to the process that is joined or on the way there; t->lock held. What only was accepted, or is
 * disconnected, or has died does not count. */
static struct choir_endpoint *other_one(struct choir_transport *t, const struct choir_process *peer,
                                        const struct choir_endpoint *than)
{
    struct choir_endpoint *ep;
    for (ep = t->endpoints; ep; ep = ep->next) {
        int state = atomic_load(&ep->state);
        /* `peer` of an accepted one is written by progress until it is up. */
        bool counts = state == SHM_UP || (!ep->accepted && state != SHM_DEAD);
        if (counts && ep != than && !memcmp(&ep->peer, peer, sizeof(*peer)) &&
            !atomic_load(&ep->closing))
            return ep;
    }
    return NULL;
}

enum choir_status shm_connect(struct choir_transport *t, const struct choir_process *peer,
                              const void *address, size_t bytes, void *cookie,
                              struct choir_endpoint **endpoint)
{
    struct shm_address a;
    socklen_t name_bytes;
    enum choir_status status = read_address(t, peer, address, bytes, &a);
    if (status)
        return status;
    struct choir_endpoint *fresh = shm_new_endpoint(t, -1, SHM_DIALING), *ep;
    if (!fresh)
        return shm_error(CHOIR_ERR_NO_MEMORY, 0, "", "no memory for an endpoint");
    fresh->peer = *peer;
    shm_socket_name(peer, a.random, &fresh->to, &name_bytes);
    /* Under the lock that shm_settle and a sweep take: nobody else touches it while it is dialed. */
    pthread_mutex_lock(&t->lock);
    ep = other_one(t, peer, NULL);
    *endpoint = ep ? ep : fresh; /* before upcalls can come */
    atomic_store(&(*endpoint)->cookie, cookie);
    if (!ep && (status = dial(fresh)) >= 0) {
        fresh->next = t->endpoints;
        t->endpoints = fresh;
    }
    pthread_mutex_unlock(&t->lock);
    if (ep || status < 0)
        shm_free_endpoint(fresh);
    if (status < 0)
        *endpoint = NULL;
    else if (status == CHOIR_IN_PROGRESS)
        shm_sweep_at(t, fresh->due_ns);
    return status < 0 ? status : CHOIR_OK;
}

void shm_redial(struct choir_endpoint *ep)
{
    enum choir_status status = dial(ep);
    if (status < 0) {
        const struct choir_error *e = base_error_thread();
        shm_fail(ep, status, e->sys_errno, "%s", e->text);
    }
}

/* Our own endpoint goes on over the connection that the peer dialed. t->lock held. */
static void adopt(struct choir_endpoint *ep, struct choir_endpoint *from)
{
    struct choir_transport *t = ep->transport;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = ep};
    pthread_mutex_lock(&ep->lock);
    shm_close_socket(ep);
    shm_drop_received(&ep->in);
    ep->fd = from->fd, from->fd = -1;
    ep->pid_fd = from->pid_fd, from->pid_fd = -1;
    ep->pid = from->pid;
    ep->mine = from->mine, ep->theirs = from->theirs;
    atomic_store(&ep->caps, atomic_load(&from->caps));
    atomic_store(&ep->wake_fd, atomic_exchange(&from->wake_fd, -1));
    epoll_ctl(t->epoll_fd, EPOLL_CTL_MOD, ep->fd, &e);
    shm_set_up(ep);
    pthread_mutex_unlock(&ep->lock);
    atomic_store(&from->state, SHM_DEAD);
    atomic_store(&from->closing, true);
    shm_sweep_at(t, 0);
}

/* The accepting side's last message; then `ep` is up, the endpoint of ours that dials the same process goes on over
 * it, or it waits. */
void shm_settle(struct choir_endpoint *ep)
{
    struct choir_transport *t = ep->transport;
    int e = 0;
    bool fresh = false;
    pthread_mutex_lock(&t->lock);
    struct choir_endpoint *other = other_one(t, &ep->peer, ep);
    bool mine_stays = memcmp(&t->host.self, &ep->peer, sizeof(ep->peer)) < 0;
    /* One that is up has been left by the peer, which dials anew: all it said there is read first. */
    if (other && (atomic_load(&other->state) == SHM_UP || mine_stays)) {
        atomic_store(&ep->state, SHM_HELD);
    } else if (!(e = shm_post_hello(ep, SHM_READY, NULL, 0, t->wake_fd))) {
        t->pending_count--;
        fresh = !other;
        if (other) {
            adopt(other, ep);
        } else {
            pthread_mutex_lock(&ep->lock);
            shm_set_up(ep);
            pthread_mutex_unlock(&ep->lock);
        }
    }
    pthread_mutex_unlock(&t->lock);
    if (e)
        shm_fail(ep, CHOIR_ERR_NETWORK, e, "cannot end the hello");
    if (!fresh)
        return;
    /* A connect() in between has given it a cookie already. */
    void *none = NULL, *cookie = t->host.accepted(t->host.context, &ep->peer, ep);
    if (atomic_compare_exchange_strong(&ep->cookie, &none, cookie) && !cookie) {
        atomic_store(&ep->closing, true);
        shm_sweep_at(t, 0);
    }
}

struct choir_endpoint *shm_unsettled(struct choir_transport *t)
{
    for (struct choir_endpoint *ep = t->endpoints; ep; ep = ep->next) {
        bool held = atomic_load(&ep->state) == SHM_HELD && !atomic_load(&ep->closing);
        if (held && !other_one(t, &ep->peer, ep))
            return ep;
    }
    return NULL;
}
