/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors from process to process (src/cuda/handover.h): they come through, whoever gives first; what strangers send, and what
 * is no message of ours, is dropped and leaves no descriptor behind.
 */
#include "cuda/handover.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RANKS 16

static int number_file(int number)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, &number, sizeof(number)) == (ssize_t)sizeof(number));
    return fd;
}

static int number_in(int fd)
{
    int number = -1;
    CHECK_EQ(pread(fd, &number, sizeof(number), 0), sizeof(number));
    return number;
}

static void close_all(int *fd)
{
    for (int r = 0; r < RANKS; r++)
        if (fd[r] >= 0)
            close(fd[r]);
}

/* Givers are processes that have ended by the time their descriptors are taken. */
static void comes_through(void)
{
    struct handover h;
    int fd[RANKS], before = test_open_files();
    CHECK_OK(handover_open(&h));
    for (uint32_t r = 0; r < RANKS; r++) {
        pid_t pid = r % 3 ? test_fork(NULL) : 0;
        if (r % 3 && pid) {
            CHECK_EQ(test_reap(pid, 10000), 0);
            continue;
        }
        int own = number_file(100 + (int)r);
        CHECK_OK(handover_give(&h.address, r, own));
        if (r % 3)
            _exit(0);
        close(own);
    }
    handover_take(&h, RANKS, fd);
    for (int r = 0; r < RANKS; r++) {
        CHECK_EQ(number_in(fd[r]), 100 + r);
        CHECK(fcntl(fd[r], F_GETFD) & FD_CLOEXEC);
    }
    close_all(fd);
    handover_take(&h, RANKS, fd); /* once only */
    for (int r = 0; r < RANKS; r++)
        CHECK_EQ(fd[r], -1);
    handover_close(&h);
    handover_take(&h, RANKS, fd);
    CHECK_EQ(fd[0], -1);
    CHECK_EQ(test_open_files(), before);
}

static void refuses(void)
{
    struct handover h;
    struct handover_address forged;
    int fd[RANKS], before = test_open_files(), own = number_file(1), other = number_file(2);
    CHECK_OK(handover_open(&h));
    forged = h.address;
    forged.key[HANDOVER_BYTES - 1] ^= 1;
    CHECK_OK(handover_give(&forged, 0, own));        /* without the key */
    CHECK_OK(handover_give(&h.address, RANKS, own)); /* no such rank */
    CHECK_OK(handover_give(&h.address, 1, own));
    CHECK_OK(handover_give(&h.address, 1, other)); /* the first counts */
    handover_take(&h, RANKS, fd);
    for (int r = 0; r < RANKS; r++)
        CHECK_EQ(fd[r] >= 0, r == 1);
    CHECK_EQ(number_in(fd[1]), 1);
    close_all(fd);
    CHECK(handover_give(&h.address, 1, -1) != CHOIR_OK);
    forged = h.address;
    forged.name[0] ^= 1; /* nobody listens there */
    CHECK_EQ(handover_give(&forged, 0, own), CHOIR_ERR_UNSUPPORTED);
    struct handover_address late = h.address;
    handover_close(&h);
    CHECK_EQ(handover_give(&late, 0, own), CHOIR_ERR_UNSUPPORTED);
    close(own), close(other);
    CHECK_EQ(test_open_files(), before);
}

static int dial(const struct handover_address *a)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int at = snprintf(un.sun_path + 1, sizeof(un.sun_path) - 1, "choir-gpu-");
    for (int i = 0; i < HANDOVER_BYTES; i++)
        at += snprintf(un.sun_path + 1 + at, 3, "%02x", a->name[i]);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
    CHECK(fd >= 0);
    if (!connect(fd, (struct sockaddr *)&un,
                 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)at)))
        return fd;
    close(fd);
    return -1;
}

/* A message of random bytes with so many descriptors. */
static void send_garbage(int to, size_t bytes, int descriptors, int own)
{
    unsigned char data[300];
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(8 * sizeof(int))];
    } control;
    for (size_t i = 0; i < bytes; i++)
        data[i] = (unsigned char)test_mix(test_seed() + i);
    struct iovec part = {data, bytes};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    memset(&control, 0, sizeof(control));
    if (descriptors) {
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE((size_t)descriptors * sizeof(int));
        control.head =
            (struct cmsghdr){CMSG_LEN((size_t)descriptors * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        for (int i = 0; i < descriptors; i++)
            memcpy(CMSG_DATA(&control.head) + (size_t)i * sizeof(int), &own, sizeof(int));
    }
    CHECK(sendmsg(to, &m, MSG_NOSIGNAL) >= 0);
}

static void garbage(void)
{
    struct handover h;
    int fd[RANKS], before = test_open_files(), own = number_file(7), silent[4];
    CHECK_OK(handover_open(&h));
    for (int i = 0; i < 4; i++)
        silent[i] = dial(&h.address); /* says nothing, and stays */
    for (int i = 0; i < 60; i++) {
        int to = dial(&h.address);
        CHECK(to >= 0);
        if (i % 5)
            send_garbage(to, (size_t)(i * 5 % 290) + 1, i % 9, own);
        close(to);
    }
    CHECK_OK(handover_give(&h.address, 3, own));
    handover_take(&h, RANKS, fd);
    for (int r = 0; r < RANKS; r++)
        CHECK_EQ(fd[r] >= 0, r == 3);
    CHECK_EQ(number_in(fd[3]), 7);
    close_all(fd);
    /* A full backlog is an error, not a wait. */
    int most = 0, filler[400];
    while (most < 400 && (filler[most] = dial(&h.address)) >= 0)
        most++;
    CHECK_LT(most, 400);
    CHECK_EQ(handover_give(&h.address, 3, own), CHOIR_ERR_UNSUPPORTED);
    handover_take(&h, RANKS, fd);
    CHECK_EQ(fd[3], -1);
    CHECK_OK(handover_give(&h.address, 3, own));
    handover_take(&h, RANKS, fd);
    CHECK_EQ(number_in(fd[3]), 7);
    close_all(fd);
    for (int i = 0; i < most; i++)
        close(filler[i]);
    for (int i = 0; i < 4; i++)
        close(silent[i]);
    close(own);
    handover_close(&h);
    CHECK_EQ(test_open_files(), before);
}

/* Of another user, in either direction. */
static void strangers(void)
{
    struct handover h;
    int fd[RANKS], own = number_file(7);
    if (geteuid())
        test_skip("another user: only root can be one");
    CHECK_OK(handover_open(&h));
    pid_t pid = test_fork(NULL);
    if (!pid) {
        if (setuid(65534))
            _exit(2);
        _exit(handover_give(&h.address, 2, own) == CHOIR_ERR_AUTH ? 0 : 1);
    }
    CHECK_EQ(test_reap(pid, 10000), 0);
    pid = test_fork(NULL);
    if (!pid) { /* it has the key, and does not look who listens */
        if (setuid(65534))
            _exit(2);
        int to = dial(&h.address);
        send_garbage(to, 40, 1, own);
        _exit(to < 0);
    }
    CHECK_EQ(test_reap(pid, 10000), 0);
    handover_take(&h, RANKS, fd);
    for (int r = 0; r < RANKS; r++)
        CHECK_EQ(fd[r], -1);
    handover_close(&h);
    close(own);
}

TEST_MAIN(TEST(comes_through), TEST(refuses), TEST(garbage), TEST(strangers))
