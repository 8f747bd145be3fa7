/* SPDX-License-Identifier: Apache-2.0 */
/*
 * send.c: messages out. What does not fit the socket waits in a queue, large payloads by reference. Any thread
 * may send, under the endpoint's lock; a broken socket is only noted here, progress finds it and tells.
 */
#include "shm.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Bytes written, or -errno; 0: the socket is full. The descriptor goes with the first byte. */
static ssize_t write_some(int socket_fd, const struct iovec *iov, size_t count, int pass_fd)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = count};
    if (pass_fd >= 0) {
        memset(&control, 0, sizeof(control));
        m.msg_control = &control;
        m.msg_controllen = sizeof(control.room);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.head), &pass_fd, sizeof(int));
    }
    for (;;) {
        ssize_t n = sendmsg(socket_fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0)
            return n;
        if (errno == EAGAIN || errno == ENOBUFS)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
}

int shm_post_hello(struct choir_endpoint *ep, enum shm_kind kind, const void *body, size_t bytes,
                   int fd)
{
    struct shm_head head = {(uint32_t)bytes, (uint16_t)kind, fd >= 0};
    struct iovec iov[2] = {{&head, sizeof(head)}, {(void *)(uintptr_t)body, bytes}};
    ssize_t n = write_some(ep->fd, iov, 2, fd);
    if (n < 0)
        return (int)-n;
    return (size_t)n == sizeof(head) + bytes ? 0 : ENOBUFS;
}

void shm_arm(struct choir_endpoint *ep)
{
    struct epoll_event e = {.data.ptr = ep};
    bool reads = !atomic_load(&ep->closing) || atomic_load(&ep->state) != SHM_UP;
    e.events = (reads ? EPOLLIN : 0u) | (ep->wants_write ? EPOLLOUT : 0u);
    epoll_ctl(ep->transport->epoll_fd, EPOLL_CTL_MOD, ep->fd, &e);
}

static void finish_out(struct choir_endpoint *ep, struct shm_out *o, int32_t done)
{
    if (o->is_give)
        ep->gives_count--;
    if (o->fd >= 0)
        close(o->fd);
    if (o->request)
        atomic_store_explicit(&o->request->done, done, memory_order_release);
    free(o);
}

/* False: not all of it went. */
static bool write_out(struct choir_endpoint *ep, struct shm_out *o)
{
    while (o->sent < o->bytes + o->lent_bytes) {
        struct iovec iov[2];
        size_t count = 0, own = base_min(o->sent, o->bytes), lent = o->sent - own;
        if (own < o->bytes)
            iov[count++] = (struct iovec){o->own + own, o->bytes - own};
        if (lent < o->lent_bytes)
            iov[count++] =
                (struct iovec){(void *)(uintptr_t)(o->lent + lent), o->lent_bytes - lent};
        ssize_t n = write_some(ep->fd, iov, count, o->sent ? -1 : o->fd);
        if (n <= 0) { /* full; or broken, and epoll tells progress so */
            ep->broken = n < 0;
            return false;
        }
        o->sent += (size_t)n;
    }
    return true;
}

void shm_flush(struct choir_endpoint *ep)
{
    struct shm_out *o;
    if (atomic_load(&ep->state) != SHM_UP)
        return;
    while ((o = ep->out_first) && write_out(ep, o)) {
        ep->out_first = o->next;
        if (!ep->out_first)
            ep->out_last = &ep->out_first;
        finish_out(ep, o, 1);
    }
    if (ep->wants_write != (ep->out_first != NULL)) {
        ep->wants_write = ep->out_first != NULL;
        shm_arm(ep);
    }
}

void shm_drop_queue(struct choir_endpoint *ep, enum choir_status status)
{
    for (struct shm_out *o = ep->out_first, *next; o; o = next) {
        next = o->next;
        finish_out(ep, o, status);
    }
    ep->out_first = NULL;
    ep->out_last = &ep->out_first;
}

static void queue_out(struct choir_endpoint *ep, struct shm_out *o)
{
    o->next = NULL;
    *ep->out_last = o;
    ep->out_last = &o->next;
    shm_flush(ep);
}

enum choir_status shm_post(struct choir_endpoint *ep, enum shm_kind kind, const void *body,
                           size_t bytes, int fd)
{
    struct shm_head head = {(uint32_t)bytes, (uint16_t)kind, fd >= 0};
    struct shm_out *o = malloc(sizeof(*o) + sizeof(head) + bytes);
    if (!o) {
        if (fd >= 0)
            close(fd);
        return CHOIR_ERR_NO_MEMORY;
    }
    *o = (struct shm_out){.bytes = sizeof(head) + bytes, .fd = fd, .is_give = kind == SHM_GIVE};
    memcpy(o->own, &head, sizeof(head));
    if (bytes)
        memcpy(o->own + sizeof(head), body, bytes);
    ep->gives_count += o->is_give;
    queue_out(ep, o);
    return CHOIR_OK;
}

struct frame_head {
    struct shm_head head;
    struct choir_frame frame;
};

/* Keeps what the socket did not take. */
static enum choir_status keep_frame(struct choir_endpoint *ep, const struct frame_head *h,
                                    const void *payload, size_t sent, struct choir_send *request)
{
    size_t bytes = h->frame.bytes;
    size_t copied = bytes <= SHM_COPY_MOST || !request ? bytes : 0;
    struct shm_out *o = malloc(sizeof(*o) + sizeof(*h) + copied);
    if (!o) {
        if (sent) /* the peer would wait for the rest for ever: break the stream, progress sees it */
            shutdown(ep->fd, SHUT_RDWR);
        return CHOIR_ERR_NO_MEMORY;
    }
    *o = (struct shm_out){.bytes = sizeof(*h) + copied, .sent = sent, .fd = -1};
    memcpy(o->own, h, sizeof(*h));
    if (copied)
        memcpy(o->own + sizeof(*h), payload, copied);
    enum choir_status status = CHOIR_OK;
    if (copied < bytes) {
        o->lent = payload;
        o->lent_bytes = bytes;
        o->request = request;
        atomic_store_explicit(&request->done, 0, memory_order_relaxed);
        status = CHOIR_IN_PROGRESS;
    }
    queue_out(ep, o);
    return status;
}

enum choir_status shm_send(struct choir_endpoint *ep, const struct choir_frame *frame,
                           const void *payload, struct choir_send *request)
{
    if (frame->bytes > CHOIR_FRAME_MOST)
        return shm_error(CHOIR_ERR_ARGUMENT, 0, "", "a frame of %u bytes is too long",
                         frame->bytes);
    struct frame_head h = {{(uint32_t)sizeof(*frame) + frame->bytes, SHM_FRAME, 0}, *frame};
    struct iovec iov[2] = {{&h, sizeof(h)}, {(void *)(uintptr_t)payload, frame->bytes}};
    enum choir_status status = CHOIR_OK;
    ssize_t sent = 0;
    pthread_mutex_lock(&ep->lock);
    int state = atomic_load(&ep->state);
    if (state == SHM_UP && !ep->out_first)
        sent = write_some(ep->fd, iov, frame->bytes ? 2 : 1, -1);
    if (state == SHM_DEAD || sent < 0)
        status = CHOIR_ERR_PEER_DEAD;
    else if ((size_t)sent < sizeof(h) + frame->bytes)
        status = keep_frame(ep, &h, payload, (size_t)sent, request);
    pthread_mutex_unlock(&ep->lock);
    if (status < 0 && status != CHOIR_ERR_PEER_DEAD) /* of a death the library hears by failed() */
        shm_error(status, 0, "", "no memory to keep a frame of %u bytes", frame->bytes);
    return status;
}
