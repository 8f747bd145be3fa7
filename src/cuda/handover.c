/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handover.c: see handover.h. A connection counts once both ends have seen that the other is of the same user; its one message has
 * the taker's key and one descriptor. A giver needs nobody to accept: what it has sent waits in the connection, and that in
 * the taker's backlog. Sockets are abstract: nothing is left in a file system, whatever becomes of the process.
 */
#include "cuda/handover.h"
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAGIC 0x63686f69u
#define BACKLOG 128
#define CALLS_MOST 1024 /* strangers among them */

struct note {
    uint32_t magic, from;
    uint8_t key[HANDOVER_BYTES];
};

static enum choir_status fail(const char *what)
{
    return base_fail(CHOIR_ERR_SYSTEM, "look at ulimit -n", "%s: %s", what, strerrordesc_np(errno));
}

static socklen_t address_of(const struct handover_address *a, struct sockaddr_un *un)
{
    *un = (struct sockaddr_un){.sun_family = AF_UNIX};
    char *at = un->sun_path + 1; /* a first byte of 0: abstract */
    at += snprintf(at, sizeof(un->sun_path) - 1, "choir-gpu-");
    for (uint32_t i = 0; i < HANDOVER_BYTES; i++)
        at += snprintf(at, 3, "%02x", a->name[i]);
    return (socklen_t)(at - (char *)un);
}

static bool same_user(int fd)
{
    struct ucred who;
    socklen_t bytes = sizeof(who);
    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &bytes) && who.uid == geteuid();
}

enum choir_status handover_open(struct handover *h)
{
    struct sockaddr_un un;
    h->fd = -1;
    if (sodium_init() < 0)
        return base_fail(CHOIR_ERR_INTERNAL, "check the libsodium installation",
                         "libsodium does not start");
    randombytes_buf(&h->address, sizeof(h->address));
    socklen_t bytes = address_of(&h->address, &un);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail("opening a unix socket");
    if (bind(fd, (struct sockaddr *)&un, bytes) || listen(fd, BACKLOG)) {
        enum choir_status st = fail("listening on a unix socket");
        close(fd);
        return st;
    }
    h->fd = fd;
    return CHOIR_OK;
}

/* The control message of one descriptor. */
union control {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
};

static bool send_one(int socket_fd, struct note *note, int fd)
{
    struct iovec part = {note, sizeof(*note)};
    union control control;
    memset(&control, 0, sizeof(control));
    control.head = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control.room)};
    ssize_t n;
    do
        n = sendmsg(socket_fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof(*note);
}

enum choir_status handover_give(const struct handover_address *to, uint32_t from, int fd)
{
    struct sockaddr_un un;
    struct note note = {MAGIC, from, {0}};
    enum choir_status st = CHOIR_OK;
    socklen_t bytes = address_of(to, &un);
    memcpy(note.key, to->key, sizeof(note.key));
    int out = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (out < 0)
        return fail("opening a unix socket");
    if (connect(out, (struct sockaddr *)&un, bytes))
        st = base_fail(CHOIR_ERR_UNSUPPORTED, "run all ranks of a host in one network namespace",
                       "a unix socket does not reach another process: %s", strerrordesc_np(errno));
    else if (!same_user(out)) /* the name may be another's by now */
        st = base_fail(CHOIR_ERR_AUTH, "run all ranks as the same user",
                       "the process to give a descriptor to is of another user");
    else if (!send_one(out, &note, fd))
        st = fail("sending a descriptor");
    close(out);
    return st;
}

/* The descriptors of a message; more than one is none of ours. */
static int only_descriptor(struct msghdr *m)
{
    int fd = -1, count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            if (fd >= 0)
                close(fd);
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            count++;
        }
    }
    if (count == 1 && !(m->msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* False: it is none of ours. */
static bool take_one(const struct handover *h, int in, uint32_t ranks, int *fd)
{
    struct note note = {0};
    struct iovec part = {&note, sizeof(note)};
    union control control;
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control.room)};
    ssize_t n = recvmsg(in, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return false;
    int got = only_descriptor(&m);
    bool good = n == (ssize_t)sizeof(note) && note.magic == MAGIC && note.from < ranks &&
                !sodium_memcmp(note.key, h->address.key, sizeof(note.key));
    if (good && got >= 0 && fd[note.from] < 0) {
        fd[note.from] = got;
        return true;
    }
    if (got >= 0)
        close(got);
    return false;
}

void handover_take(struct handover *h, uint32_t ranks, int *fd)
{
    uint32_t dropped = 0;
    for (uint32_t r = 0; r < ranks; r++)
        fd[r] = -1;
    for (uint32_t i = 0; i < CALLS_MOST; i++) {
        int in = accept4(h->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (in < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (in < 0)
            break;
        dropped += !same_user(in) || !take_one(h, in, ranks, fd);
        close(in);
    }
    if (dropped)
        base_log(BASE_WARN, -1, "dropped %u connections that brought no GPU memory of a rank",
                 dropped);
}

void handover_close(struct handover *h)
{
    if (h->fd >= 0)
        close(h->fd);
    h->fd = -1;
    sodium_memzero(&h->address, sizeof(h->address));
}
