/* SPDX-License-Identifier: Apache-2.0 */
/*
 * receive.c: messages in, by progress only. Incoming bytes are not trusted: kind, length and state are checked before
 * anything is done with them. Payloads go where the host says without a copy in between.
 */
#include "shm.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

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
    [SHM_GONE] = {1 << SHM_UP, sizeof(struct shm_want), 0},
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
    if (!in->fd_count) {
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
    case SHM_GONE:
        memcpy(&want, body, sizeof(want));
        shm_gone(ep, &want);
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

static bool keep_fd(struct shm_in *in, int fd)
{
    if (in->fd_count < SHM_FDS_MOST) {
        in->fds[in->fd_count++] = fd;
        return true;
    }
    if (fd >= 0)
        close(fd);
    return false;
}

/* False: more descriptors than messages ask for. */
static bool keep_fds(struct choir_endpoint *ep, struct msghdr *m)
{
    size_t count = 0;
    bool kept = true;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int), i = 0; i < n; i++, count++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            kept &= keep_fd(&ep->in, fd);
        }
    }
    if (!count && m->msg_flags & MSG_CTRUNC) /* too many open files: its message will find -1 */
        return keep_fd(&ep->in, -1);
    return kept && count <= 1;
}

static void lost(struct choir_endpoint *ep, int sys_errno)
{
    if (sys_errno && sys_errno != ECONNRESET && sys_errno != EPIPE)
        shm_fail(ep, CHOIR_ERR_NETWORK, sys_errno, "reading from the peer's socket failed");
    else if (ep->accepted && atomic_load(&ep->state) < SHM_UP) /* it took ours, perhaps */
        shm_fail(ep, CHOIR_ERR_PEER_DEAD, 0, "it closed the connection");
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
    /* A descriptor comes with the first byte of its message: between messages none is left. */
    if (in->fd_count && !in->have && !in->payload_left) {
        shm_fail(ep, CHOIR_ERR_PROTOCOL, 0, "a descriptor came that no message asks for");
        return false;
    }
    return had_fds || (size_t)n == direct + sizeof(t->scratch) || (direct && into == direct);
}

void shm_ended(struct choir_endpoint *ep)
{
    struct pollfd left = {.fd = ep->fd, .events = POLLIN};
    while (atomic_load(&ep->state) == SHM_UP && poll(&left, 1, 0) > 0)
        receive_some(ep);
    if (atomic_load(&ep->state) == SHM_UP)
        lost(ep, 0);
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
