/* SPDX-License-Identifier: Apache-2.0 */
/*
 * endpoint.c: the life of an endpoint: accepted or dialed (join.c), proved (hello.c), up, dead, disconnected, freed.
 * Only progress reads a socket, closes it, calls the host, or frees an endpoint.
 */
#include "shm.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct choir_endpoint *shm_new_endpoint(struct choir_transport *t, int fd, enum shm_state state)
{
    struct choir_endpoint *ep = calloc(1, sizeof(*ep));
    if (!ep)
        return NULL;
    ep->transport = t;
    ep->fd = fd;
    ep->state = state;
    ep->wake_fd = ep->pid_fd = -1;
    ep->out_last = &ep->out_first;
    pthread_mutex_init(&ep->lock, NULL);
    return ep;
}

void shm_close_socket(struct choir_endpoint *ep)
{
    int fd[] = {ep->fd, ep->pid_fd};
    ep->fd = ep->pid_fd = -1;
    for (size_t i = 0; i < base_count(fd); i++)
        if (fd[i] >= 0) {
            /* Explicitly: a forked child may hold it open. */
            epoll_ctl(ep->transport->epoll_fd, EPOLL_CTL_DEL, fd[i], NULL);
            close(fd[i]);
        }
}

void shm_drop_received(struct shm_in *in)
{
    for (int i = 0; i < in->fd_count; i++)
        if (in->fds[i] >= 0)
            close(in->fds[i]);
    *in = (struct shm_in){0};
}

void shm_free_endpoint(struct choir_endpoint *ep)
{
    shm_drop_queue(ep, CHOIR_ERR_PEER_DEAD);
    for (struct shm_map *m = ep->maps, *next; m; m = next) {
        next = m->next;
        if (m->memory)
            munmap(m->memory, m->bytes);
        free(m);
    }
    shm_drop_received(&ep->in);
    if (ep->wake_fd >= 0)
        close(ep->wake_fd);
    shm_close_socket(ep);
    pthread_mutex_destroy(&ep->lock);
    free(ep);
}

static void link_endpoint(struct choir_endpoint *ep)
{
    struct choir_transport *t = ep->transport;
    pthread_mutex_lock(&t->lock);
    ep->next = t->endpoints;
    t->endpoints = ep;
    pthread_mutex_unlock(&t->lock);
}

int shm_watch_socket(struct choir_endpoint *ep)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = ep};
    return epoll_ctl(ep->transport->epoll_fd, EPOLL_CTL_ADD, ep->fd, &e) ? errno : 0;
}

enum choir_status shm_connected(struct choir_endpoint *ep)
{
    int state = atomic_load(&ep->state);
    if (state == SHM_UP)
        return CHOIR_OK;
    if (state != SHM_DEAD)
        return CHOIR_IN_PROGRESS;
    return shm_error(ep->status, ep->sys_errno, "", "%s", ep->text);
}

uint32_t shm_caps(struct choir_endpoint *ep)
{
    return atomic_load(&ep->state) == SHM_UP ? atomic_load(&ep->caps) : 0;
}

enum choir_status shm_wake(struct choir_endpoint *ep)
{
    static const uint64_t one = 1;
    int fd = atomic_load_explicit(&ep->wake_fd, memory_order_relaxed);
    if (fd < 0)
        return CHOIR_IN_PROGRESS; /* not connected yet */
    int saved = errno;
    (void)!write(fd, &one, sizeof(one)); /* EAGAIN: woken 2^64 times already */
    errno = saved;
    return CHOIR_OK;
}

enum choir_status shm_flushed(struct choir_transport *t)
{
    bool left = false;
    pthread_mutex_lock(&t->lock);
    for (struct choir_endpoint *ep = t->endpoints; ep && !left; ep = ep->next) {
        pthread_mutex_lock(&ep->lock);
        left = atomic_load(&ep->state) == SHM_UP && ep->out_first && !ep->broken;
        pthread_mutex_unlock(&ep->lock);
    }
    pthread_mutex_unlock(&t->lock);
    return left ? CHOIR_IN_PROGRESS : CHOIR_OK;
}

static uint32_t accept_one(struct choir_transport *t)
{
    char text[120];
    int fd = accept4(t->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE)
            base_log(BASE_WARN, -1, "shm: cannot accept a peer: %s; raise ulimit -n",
                     strerrordesc_np(errno));
        return 0;
    }
    struct choir_endpoint *ep =
        t->pending_count < SHM_PENDING_MOST ? shm_new_endpoint(t, fd, SHM_WAIT_INTRO) : NULL;
    if (!ep) {
        close(fd);
        return 1;
    }
    ep->accepted = true;
    ep->due_ns = base_now_ns() + SHM_HELLO_NS;
    if (!shm_check_peer(ep, text, sizeof(text))) {
        struct shm_refuse no = {.status = CHOIR_ERR_AUTH};
        snprintf(no.text, sizeof(no.text), "%s", text);
        shm_post_hello(ep, SHM_REFUSE, &no, sizeof(no), -1);
        base_log(BASE_WARN, -1, "shm: refused a connection: %s", text);
        shm_free_endpoint(ep);
        return 1;
    }
    t->pending_count++;
    link_endpoint(ep);
    shm_sweep_at(t, ep->due_ns);
    int e = shm_watch_socket(ep);
    if (e)
        shm_fail(ep, CHOIR_ERR_SYSTEM, e, "cannot watch the socket");
    return 1;
}

uint32_t shm_accept(struct choir_transport *t)
{
    uint32_t seen = 0;
    for (int i = 0; i < 64 && accept_one(t); i++)
        seen++;
    return seen;
}

/* A pidfd tells of the peer's end also where a child that it forked holds the socket open. */
static void watch_process(struct choir_endpoint *ep)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = (void *)((uintptr_t)ep | SHM_ENDED)};
    if (ep->pid_fd >= 0 && epoll_ctl(ep->transport->epoll_fd, EPOLL_CTL_ADD, ep->pid_fd, &e)) {
        close(ep->pid_fd);
        ep->pid_fd = -1;
    }
    base_log(BASE_DEBUG, -1, "shm: the end of process %ld is seen by its %s", (long)ep->pid,
             ep->pid_fd >= 0 ? "pidfd" : "socket");
}

void shm_set_up(struct choir_endpoint *ep)
{
    atomic_store(&ep->state, SHM_UP);
    watch_process(ep);
    shm_ask_waiting(ep);
    shm_flush(ep);
}

void shm_fail(struct choir_endpoint *ep, enum choir_status status, int sys_errno,
              const char *format, ...)
{
    struct choir_transport *t = ep->transport;
    va_list ap;
    pthread_mutex_lock(&ep->lock);
    int was = atomic_load(&ep->state);
    if (was == SHM_DEAD) {
        pthread_mutex_unlock(&ep->lock);
        return;
    }
    va_start(ap, format);
    vsnprintf(ep->text, sizeof(ep->text), format, ap);
    va_end(ap);
    ep->status = status;
    ep->sys_errno = sys_errno;
    shm_close_socket(ep);
    shm_drop_queue(ep, status);
    for (struct shm_map *m = ep->maps; m; m = m->next)
        if (m->state != SHM_MAP_HERE) {
            m->state = SHM_MAP_FAILED;
            m->status = status;
            m->sys_errno = sys_errno;
            memcpy(m->text, ep->text, sizeof(m->text) - 1);
        }
    atomic_store(&ep->state, SHM_DEAD);
    pthread_mutex_unlock(&ep->lock);
    bool unproved = ep->accepted && was < SHM_UP;
    if (unproved) { /* the host never heard of it */
        base_log(status == CHOIR_ERR_AUTH ? BASE_WARN
                 : was == SHM_HELD        ? BASE_DEBUG
                                          : BASE_INFO,
                 -1, "shm: dropped a connection of pid %ld: %s", (long)ep->pid, ep->text);
        t->pending_count--;
        atomic_store(&ep->closing, true);
    }
    shm_sweep_at(t, 0); /* frees it, or settles one that waited for its end */
    if (was == SHM_UP && !atomic_load(&ep->closing))
        t->host.failed(t->host.context, atomic_load(&ep->cookie), status, sys_errno, ep->text);
}

void shm_serve(struct choir_endpoint *ep, uint32_t events)
{
    struct choir_transport *t = ep->transport;
    pthread_mutex_lock(&t->lock);
    bool closing = atomic_load(&ep->closing);
    if (!closing) {
        t->serving = ep;
        t->server = pthread_self();
    }
    pthread_mutex_unlock(&t->lock);

    if (events & EPOLLOUT) {
        pthread_mutex_lock(&ep->lock);
        shm_flush(ep);
        pthread_mutex_unlock(&ep->lock);
    }
    if (closing) { /* lingers: ends its hello, then only writes */
        if (atomic_load(&ep->state) < SHM_UP)
            shm_receive(ep);
        else if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))
            shm_fail(ep, CHOIR_ERR_PEER_DEAD, 0, "the peer process ended");
        shm_sweep_at(t, 0);
        return;
    }
    if (events & ~(uint32_t)EPOLLOUT)
        shm_receive(ep);
    if (events & EPOLLRDHUP) /* by its pidfd: what it said is still in the socket */
        shm_ended(ep);
    pthread_mutex_lock(&t->lock);
    t->serving = NULL;
    pthread_cond_broadcast(&t->served);
    pthread_mutex_unlock(&t->lock);
}

void shm_disconnect(struct choir_endpoint *ep)
{
    struct choir_transport *t = ep->transport;
    pthread_mutex_lock(&t->lock);
    pthread_mutex_lock(&ep->lock);
    int state = atomic_load(&ep->state);
    ep->linger_ns = base_now_ns() + SHM_LINGER_NS;
    atomic_store(&ep->closing, true); /* progress may free it once t->lock is free */
    if (state != SHM_DEAD && (state == SHM_UP || ep->out_first))
        shm_post(ep, SHM_BYE, NULL, 0, -1);
    if (state == SHM_UP)
        shm_arm(ep);
    pthread_mutex_unlock(&ep->lock);
    shm_sweep_at(t, 0);
    while (t->serving == ep && !pthread_equal(t->server, pthread_self()))
        pthread_cond_wait(&t->served, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

/* Whether a disconnected endpoint may go. */
static bool is_over(struct choir_endpoint *ep, uint64_t now)
{
    pthread_mutex_lock(&ep->lock);
    if (atomic_load(&ep->state) == SHM_UP)
        shm_flush(ep);
    bool over =
        atomic_load(&ep->state) == SHM_DEAD || !ep->out_first || ep->broken || now >= ep->linger_ns;
    pthread_mutex_unlock(&ep->lock);
    return over;
}

bool shm_sweep(struct choir_transport *t)
{
    struct choir_endpoint *over = NULL, *ep;
    uint64_t now = base_now_ns(), due = UINT64_MAX;
    pthread_mutex_lock(&t->lock);
    for (struct choir_endpoint **at = &t->endpoints; (ep = *at);) {
        if (atomic_load(&ep->closing)) {
            if (is_over(ep, now)) {
                *at = ep->next;
                shm_forget_given(ep);
                ep->next = over;
                over = ep;
                continue;
            }
            due = base_min(due, ep->linger_ns);
        }
        bool unproved = ep->accepted && atomic_load(&ep->state) < SHM_HELD;
        if (unproved && now >= ep->due_ns)
            shm_fail(ep, CHOIR_ERR_TIMEOUT, 0, "it did not say who it is");
        else if (atomic_load(&ep->state) == SHM_DIALING && now >= ep->due_ns)
            shm_redial(ep);
        if (unproved || atomic_load(&ep->state) == SHM_DIALING)
            due = base_min(due, ep->due_ns);
        at = &ep->next;
    }
    bool left = t->endpoints != NULL;
    struct choir_endpoint *unsettled = shm_unsettled(t);
    pthread_mutex_unlock(&t->lock);
    if (unsettled) {
        shm_settle(unsettled);
        due = 0; /* there may be more */
    }
    if (due != UINT64_MAX)
        shm_sweep_at(t, due);
    for (; over; over = ep) {
        ep = over->next;
        shm_free_endpoint(over);
    }
    return left;
}
