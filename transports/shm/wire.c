/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.c: messages on the socket, out and in. What does not fit the socket waits in a queue, payloads by
 * reference. Incoming bytes are not trusted: kind, length and state are checked before anything is done with them.
 */
#include "shm.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* --- out -------------------------------------------------------------------------------------- */

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
    if (status == CHOIR_ERR_PEER_DEAD)
        shm_error(status, sent < 0 ? (int)-sent : 0, "look at the peer's log",
                  "cannot send: the peer process is gone");
    else if (status < 0)
        shm_error(status, 0, "", "no memory to keep a frame of %u bytes", frame->bytes);
    return status;
}

/* --- in --------------------------------------------------------------------------------------- */

/* For each kind: the state it may come in, its fixed length, how many descriptors at most. */
static const struct rule {
    uint16_t states, bytes;
    uint8_t fds;
} rules[SHM_KINDS] = {
    [SHM_INTRO] = {1 << SHM_WAIT_INTRO, sizeof(struct shm_intro), 1},
    [SHM_ANSWER] = {1 << SHM_WAIT_ANSWER, sizeof(struct shm_answer), 1},
    [SHM_PROOF] = {1 << SHM_WAIT_PROOF, sizeof(struct shm_proof), 1},
    [SHM_READY] = {1 << SHM_WAIT_READY, 0, 1},
    [SHM_REFUSE] = {1 << SHM_WAIT_ANSWER | 1 << SHM_WAIT_READY | 1 << SHM_WAIT_PROOF,
                    sizeof(struct shm_refuse), 0},
    [SHM_FRAME] = {1 << SHM_UP, sizeof(struct choir_frame), 0},
    [SHM_WANT] = {1 << SHM_UP, sizeof(struct shm_want), 0},
    [SHM_GIVE] = {1 << SHM_UP, sizeof(struct shm_give), 1},
    [SHM_BYE] = {1 << SHM_UP, 0, 0},
};

static bool check_head(struct choir_endpoint *ep, const struct shm_head *head)
{
    const struct rule *r = head->kind < SHM_KINDS ? &rules[head->kind] : &rules[0];
    size_t most = r->bytes + (head->kind == SHM_FRAME ? CHOIR_FRAME_MOST : 0);
    if ((r->states & 1 << atomic_load(&ep->state)) && head->bytes >= r->bytes &&
        head->bytes <= most && head->fds <= r->fds)
        return true;
    shm_fail(ep, CHOIR_ERR_PROTOCOL, 0,
             "message of kind %u with %u bytes and %u descriptors does "
             "not belong here",
             head->kind, head->bytes, head->fds);
    return false;
}

/* The next received descriptor; -1: the kernel had none for us. False: the peer sent none. */
static bool take_fd(struct choir_endpoint *ep, int *fd)
{
    struct shm_in *in = &ep->in;
    *fd = -1;
    if (!in->fd_count) {
        if (in->fds_lost)
            return true;
        shm_fail(ep, CHOIR_ERR_PROTOCOL, 0, "a descriptor is missing");
        return false;
    }
    *fd = in->fds[0];
    in->fd_count--;
    memmove(in->fds, in->fds + 1, (size_t)in->fd_count * sizeof(in->fds[0]));
    return true;
}

static bool alive(struct choir_endpoint *ep)
{
    return atomic_load(&ep->state) != SHM_DEAD &&
           !(atomic_load(&ep->closing) && atomic_load(&ep->state) == SHM_UP);
}

static void deliver(struct choir_endpoint *ep)
{
    struct choir_transport_host *h = &ep->transport->host;
    h->arrived(h->context, ep->cookie, &ep->in.frame, ep->in.where);
}

static void start_frame(struct choir_endpoint *ep, const struct shm_head *head, const void *body)
{
    struct choir_transport_host *h = &ep->transport->host;
    struct shm_in *in = &ep->in;
    memcpy(&in->frame, body, sizeof(in->frame));
    in->where = in->at = NULL;
    if (in->frame.bytes != head->bytes - sizeof(in->frame)) {
        shm_fail(ep, CHOIR_ERR_PROTOCOL, 0, "a frame says %u bytes and comes with %zu",
                 in->frame.bytes, head->bytes - sizeof(in->frame));
        return;
    }
    if (!in->frame.bytes) {
        deliver(ep);
        return;
    }
    in->where = in->at = h->place(h->context, ep->cookie, &in->frame);
    in->payload_left = in->frame.bytes;
}

static void handle(struct choir_endpoint *ep, const struct shm_head *head, const void *body)
{
    struct shm_want want;
    struct shm_give give;
    int fd = -1;
    if (head->fds && !take_fd(ep, &fd))
        return;
    switch (head->kind) {
    case SHM_FRAME:
        start_frame(ep, head, body);
        break;
    case SHM_WANT:
        memcpy(&want, body, sizeof(want));
        shm_wanted(ep, &want);
        break;
    case SHM_GIVE:
        memcpy(&give, body, sizeof(give));
        if (!shm_given(ep, &give, fd))
            shm_fail(ep, CHOIR_ERR_PROTOCOL, 0, "memory came that was not asked for");
        break;
    case SHM_BYE:
        ep->said_bye = true;
        break;
    default:
        shm_hello(ep, (enum shm_kind)head->kind, body, fd);
    }
}

static void got_payload(struct choir_endpoint *ep, size_t bytes)
{
    ep->in.payload_left -= bytes;
    if (ep->in.at)
        ep->in.at += bytes;
    if (!ep->in.payload_left)
        deliver(ep);
}

/* Takes bytes off the front of [p, p+n) for the message under way; returns how many. */
static size_t parse_some(struct choir_endpoint *ep, const unsigned char *p, size_t n)
{
    struct shm_in *in = &ep->in;
    struct shm_head head;
    if (in->payload_left) {
        n = base_min(n, in->payload_left);
        if (in->at)
            memcpy(in->at, p, n);
        got_payload(ep, n);
        return n;
    }
    size_t need = sizeof(head);
    if (in->have >= sizeof(head)) {
        memcpy(&head, in->part, sizeof(head));
        need += rules[head.kind].bytes;
    }
    n = base_min(n, need - in->have);
    memcpy(in->part + in->have, p, n);
    in->have += n;
    if (in->have < need)
        return n;
    if (need == sizeof(head)) {
        memcpy(&head, in->part, sizeof(head));
        if (!check_head(ep, &head) || rules[head.kind].bytes)
            return n;
    }
    in->have = 0;
    handle(ep, &head, in->part + sizeof(head));
    return n;
}

static bool parse(struct choir_endpoint *ep, const unsigned char *p, size_t n)
{
    while (n && alive(ep)) {
        size_t used = parse_some(ep, p, n);
        p += used;
        n -= used;
    }
    return alive(ep);
}

/* False: more descriptors than messages ask for. */
static bool keep_fds(struct choir_endpoint *ep, struct msghdr *m)
{
    struct shm_in *in = &ep->in;
    bool room = true;
    if (m->msg_flags & MSG_CTRUNC)
        in->fds_lost = true;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (in->fd_count < SHM_FDS_MOST) {
                in->fds[in->fd_count++] = fd;
            } else {
                close(fd);
                room = false;
            }
        }
    }
    return room;
}

static void lost(struct choir_endpoint *ep, int sys_errno)
{
    if (sys_errno && sys_errno != ECONNRESET && sys_errno != EPIPE)
        shm_fail(ep, CHOIR_ERR_NETWORK, sys_errno, "reading from the peer's socket failed");
    else if (ep->said_bye)
        shm_fail(ep, CHOIR_ERR_PEER_DEAD, 0, "the peer process disconnected");
    else
        shm_fail(ep, CHOIR_ERR_PEER_DEAD, 0, "the peer process (pid %ld) ended", (long)ep->pid);
}

/* One recvmsg. False: nothing more for now, or for ever. */
static bool receive_some(struct choir_endpoint *ep)
{
    struct choir_transport *t = ep->transport;
    struct shm_in *in = &ep->in;
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(SHM_FDS_MOST * sizeof(int))];
    } control;
    struct iovec iov[2];
    size_t count = 0, direct = in->at ? in->payload_left : 0;
    if (direct)
        iov[count++] = (struct iovec){in->at, direct};
    iov[count++] = (struct iovec){t->scratch, sizeof(t->scratch)};
    struct msghdr m = {.msg_iov = iov,
                       .msg_iovlen = count,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control.room)};
    ssize_t n = recvmsg(ep->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR)
        return true;
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n <= 0) {
        lost(ep, n ? errno : 0);
        return false;
    }
    bool had_fds = m.msg_controllen != 0;
    if (!keep_fds(ep, &m)) {
        shm_fail(ep, CHOIR_ERR_PROTOCOL, 0, "too many descriptors came");
        return false;
    }
    size_t into = base_min((size_t)n, direct);
    if (into)
        got_payload(ep, into);
    if (!parse(ep, t->scratch, (size_t)n - into))
        return false;
    return had_fds || (size_t)n == direct + sizeof(t->scratch) || (direct && into == direct);
}

uint32_t shm_receive(struct choir_endpoint *ep)
{
    uint32_t seen = 0;
    if (atomic_load(&ep->state) == SHM_DEAD)
        return 0;
    /* Bounded, so that one peer does not keep others waiting; epoll tells again of what is left. */
    while (seen < 32 && receive_some(ep))
        seen++;
    return seen;
}
