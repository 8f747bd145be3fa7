/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.c: a net plug-in as vendors make them, over unix sockets, that holds its caller to the rules of the interface: any
 * breach ends the process with a line that says which. Built once for each version (NET_VERSION 8 to 12; 0: without a
 * symbol), version 9 under another name. The environment makes it slow, broken or deadly:
 *   CHOIR_TEST_NET_SEED=n       connections and requests come late, at random
 *   CHOIR_TEST_NET_FAIL=call:n  the n-th call of that name says "remote error", as do all after it
 *   CHOIR_TEST_NET_DIE=call:n   the process is killed at that call
 *   CHOIR_TEST_NET_MUTE=1       a peer's end is not told by test
 *   CHOIR_TEST_NET_DEVICES=n, CHOIR_TEST_NET_MEMORY=bits, CHOIR_TEST_NET_CONNECTIONS=n  what devices are like
 *   CHOIR_TEST_NET_STALL=1      accept never ends
 *   CHOIR_TEST_NET_WRONG=1      message 0 of a connection carries another byte
 */
#include "transports/nccl-net/abi.h"
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef NET_VERSION
#define NET_VERSION 11
#endif

#if NET_VERSION
static _Noreturn void breach(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void breach(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fprintf(stderr, "test plug-in: ");
    vfprintf(stderr, format, ap);
    fprintf(stderr, "\n");
    va_end(ap);
    abort();
}
#define RULE(x) ((x) ? (void)0 : breach("%s: broken: %s", __func__, #x))

/* --- what the environment asks for ----------------------------------------------------------------------- */
static uint64_t draws;
static long setting(const char *name, long fallback)
{
    const char *text = getenv(name);
    return text && *text ? atol(text) : fallback;
}

static bool late(uint32_t of_16)
{
    if (!draws)
        return false;
    draws = draws * 6364136223846793005u + 1442695040888963407u;
    return draws >> 60 < of_16;
}

/* Counts calls of `name` in this process; true from the one that `variable` names on. */
static bool reached(const char *variable, const char *name, uint32_t count)
{
    const char *text = getenv(variable);
    size_t n = strlen(name);
    return text && !strncmp(text, name, n) && text[n] == ':' &&
           count >= (uint32_t)atol(text + n + 1);
}

#define ENTRY(name)                                                                                \
    do {                                                                                           \
        static uint32_t entry_count;                                                               \
        entry_count++;                                                                             \
        if (reached("CHOIR_TEST_NET_DIE", name, entry_count))                                      \
            kill(getpid(), SIGKILL);                                                               \
        if (reached("CHOIR_TEST_NET_FAIL", name, entry_count))                                     \
            return NCCL_REMOTE_ERROR;                                                              \
    } while (0)

/* One thread at a time: the interface promises no more. */
static atomic_flag busy = ATOMIC_FLAG_INIT;
static void enter(void)
{
    if (atomic_flag_test_and_set(&busy))
        breach("two threads at once");
}
static void leave_busy(const int *unused)
{
    (void)unused;
    atomic_flag_clear(&busy);
}
#define ALONE                                                                                      \
    enter();                                                                                       \
    __attribute__((cleanup(leave_busy), unused)) int alone = 0

/* --- objects ------------------------------------------------------------------------------------------------- */
struct handle { /* 128 bytes at most; `calls` is state, as in real ones */
    uint32_t magic, calls;
    struct sockaddr_un to;
    int fd;
};
_Static_assert(sizeof(struct handle) <= NCCL_HANDLE_BYTES, "a handle's room");
#define MAGIC 0x7e57u

struct listener {
    int fd, taken;
};
struct region {
    char *data;
    size_t bytes;
    struct connection *of;
};
struct request {
    struct connection *of;
    char *data;
    uint32_t bytes, at, got; /* got: of a receive, as the sender said */
    uint32_t head_at;
    bool used, done;
};
struct connection {
    int fd;
    bool send;
    uint64_t posted, finished; /* requests, in order */
    uint32_t under_way;
    struct request request[NCCL_REQUESTS_MOST];
};
static int live_connections, live_listeners, live_regions, inits;

static nccl_log *say;

/* --- life -------------------------------------------------------------------------------------------------------- */
static int begin(nccl_log *log)
{
    ENTRY("init");
    RULE(log);
    RULE(NET_VERSION >= 11 || !inits);
    inits++;
    say = log;
    draws = (uint64_t)setting("CHOIR_TEST_NET_SEED", 0);
    draws = draws ? draws * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid() : 0;
    say(NCCL_LOG_INFO, 0x11, __FILE__, __LINE__, "test plug-in %d of process %d", NET_VERSION,
        getpid());
    return NCCL_SUCCESS;
}

static int devices(int *count)
{
    ENTRY("devices");
    RULE(inits && count);
    *count = (int)setting("CHOIR_TEST_NET_DEVICES", 2);
    return NCCL_SUCCESS;
}

static int listen_at(int device, void *handle, void **listener)
{
    ALONE;
    ENTRY("listen");
    RULE(device >= 0 && device < setting("CHOIR_TEST_NET_DEVICES", 2));
    static uint32_t number;
    struct handle *h = handle;
    memset(h, 0, sizeof(*h));
    h->magic = MAGIC;
    h->to.sun_family = AF_UNIX;
    snprintf(h->to.sun_path + 1, 60, "choir-net-%d-%u", (int)getpid(), number++);
    struct listener *l = calloc(1, sizeof(*l));
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0 || bind(l->fd, (struct sockaddr *)&h->to, sizeof(h->to)) || listen(l->fd, 4)) {
        free(l);
        return NCCL_SYSTEM_ERROR;
    }
    live_listeners++;
    *listener = l;
    return NCCL_SUCCESS;
}

static struct connection *connection_new(int fd, bool send)
{
    struct connection *c = calloc(1, sizeof(*c));
    c->fd = fd;
    c->send = send;
    live_connections++;
    return c;
}

static int connect_to(int device, void *handle, void **connection, void **offload)
{
    ALONE;
    ENTRY("connect");
    struct handle *h = handle;
    RULE(device >= 0 && h->magic == MAGIC && offload && !*offload && !*connection);
    if (late(12) || (draws && h->calls++ < 3)) /* the same memory each time, or it never connects */
        return NCCL_SUCCESS;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return NCCL_SYSTEM_ERROR;
    if (connect(fd, (struct sockaddr *)&h->to, sizeof(h->to))) {
        close(fd);
        return errno == EAGAIN ? NCCL_SUCCESS : NCCL_REMOTE_ERROR;
    }
    *connection = connection_new(fd, true);
    return NCCL_SUCCESS;
}

/* Like some vendors': a listener is for one connection. */
static int accept_from(void *listener, void **connection, void **offload)
{
    ALONE;
    ENTRY("accept");
    struct listener *l = listener;
    RULE(!l->taken && offload && !*offload && !*connection);
    if (late(12) || setting("CHOIR_TEST_NET_STALL", 0))
        return NCCL_SUCCESS;
    int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return errno == EAGAIN ? NCCL_SUCCESS : NCCL_SYSTEM_ERROR;
    l->taken = 1;
    *connection = connection_new(fd, false);
    return NCCL_SUCCESS;
}

static int close_connection(struct connection *c, bool send)
{
    ALONE;
    RULE(c->send == send);
    close(c->fd);
    free(c);
    live_connections--;
    return NCCL_SUCCESS;
}
static int close_send(void *connection)
{
    return close_connection(connection, true);
}
static int close_receive(void *connection)
{
    return close_connection(connection, false);
}

static int close_listen(void *listener)
{
    ALONE;
    struct listener *l = listener;
    close(l->fd);
    free(l);
    live_listeners--;
    return NCCL_SUCCESS;
}

/* --- memory ---------------------------------------------------------------------------------------------------------- */
static int register_memory(void *connection, void *data, size_t bytes, int kind, void **memory)
{
    ALONE;
    ENTRY("regmr");
    RULE(kind == NCCL_MEMORY_HOST && data && bytes && connection);
    struct region *r = malloc(sizeof(*r));
    *r = (struct region){data, bytes, connection};
    live_regions++;
    *memory = r;
    return NCCL_SUCCESS;
}

static int deregister_memory(void *connection, void *memory)
{
    ALONE;
    struct region *r = memory;
    RULE(r->of == connection);
    r->of = NULL;
    free(r);
    live_regions--;
    return NCCL_SUCCESS;
}

/* --- requests ---------------------------------------------------------------------------------------------------------- */
static int request_new(struct connection *c, void *data, size_t bytes, const void *memory,
                       void **request)
{
    const struct region *r = memory;
    RULE(r && r->of == c);
    RULE((char *)data >= r->data && (char *)data + bytes <= r->data + r->bytes);
    RULE(c->under_way < NCCL_REQUESTS_MOST);
    *request = NULL;
    struct request *q = &c->request[c->posted % NCCL_REQUESTS_MOST];
    if (late(4) || q->used) /* one that was overtaken still holds its place */
        return NCCL_SUCCESS;
    *q = (struct request){.of = c, .data = data, .bytes = (uint32_t)bytes, .used = true};
    c->posted++, c->under_way++;
    *request = q;
    return NCCL_SUCCESS;
}

/* Moves one part; 1: it moved, 0: not now, -1: the other end is gone. */
static int move(struct connection *c, char *data, uint32_t bytes, uint32_t *at)
{
    ssize_t n = c->send ? send(c->fd, data + *at, bytes - *at, MSG_NOSIGNAL)
                        : recv(c->fd, data + *at, bytes - *at, 0);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0)
        return setting("CHOIR_TEST_NET_MUTE", 0) ? 0 : -1;
    *at += (uint32_t)n;
    return 1;
}

static int advance(struct connection *c, struct request *q)
{
    char *head = (char *)(c->send ? &q->bytes : &q->got);
    int moved = 1;
    while (q->head_at < sizeof(uint32_t) && moved > 0)
        moved = move(c, head, sizeof(uint32_t), &q->head_at);
    if (!c->send && q->head_at == sizeof(uint32_t))
        RULE(q->got <= q->bytes); /* sent more than there is room for */
    uint32_t whole = c->send ? q->bytes : q->got;
    while (q->head_at == sizeof(uint32_t) && q->at < whole && moved > 0)
        moved = move(c, q->data, whole, &q->at);
    q->done = q->head_at == sizeof(uint32_t) && q->at == whole;
    return moved < 0 ? NCCL_REMOTE_ERROR : NCCL_SUCCESS;
}

static int test_request(void *request, int *done, int *sizes)
{
    ALONE;
    struct request *q = request;
    struct connection *c = q->of;
    RULE(q->used && done && sizes);
    *done = 0;
    if (late(6))
        return NCCL_SUCCESS;
    while (c->finished < c->posted) {
        struct request *next = &c->request[c->finished % NCCL_REQUESTS_MOST];
        int result = next->done ? NCCL_SUCCESS : advance(c, next);
        if (result != NCCL_SUCCESS)
            return result;
        if (!next->done)
            break;
        c->finished++;
    }
    if (!q->done)
        return NCCL_SUCCESS;
    ENTRY("test"); /* those that find nothing done are not counted: how many there are is chance */
    *done = 1;
    *sizes = (int)(c->send ? q->bytes : q->got);
    q->used = false;
    c->under_way--;
    return NCCL_SUCCESS;
}

static int send_request(void *connection, void *data, size_t bytes, int tag, void *memory,
                        void **request)
{
    ALONE;
    ENTRY("isend");
    struct connection *c = connection;
    RULE(c->send && tag == 0);
    if (!c->posted && setting("CHOIR_TEST_NET_WRONG", 0))
        ((char *)data)[bytes - 1] ^= 1;
    return request_new(c, data, bytes, memory, request);
}

static int receive_request(void *connection, int count, void **data, size_t bytes, const int *tags,
                           void **memory, void **request)
{
    ALONE;
    ENTRY("irecv");
    struct connection *c = connection;
    RULE(!c->send && count == 1 && tags[0] == 0);
    return request_new(c, data[0], bytes, memory[0], request);
}

static void never(void)
{
    breach("an entry that has to do with GPUs is called");
}

#include "tests/plugin/net_tables.h"
#else
extern int nothing;
__attribute__((visibility("default"))) int nothing;
#endif
