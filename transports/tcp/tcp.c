/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp.c: the transport as the library sees it: open, address, connect, progress, close. Reads the knobs, owns
 * the epoll set and hands events to their owners.
 */
#include "transports/tcp/tcp.h"
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define LOG_LINES 20          /* of one kind of trouble ... */
#define LOG_NS 10000000000ull /* ... in so long */
#define LOOK_EVERY 128        /* calls between looks at everything while polling hot slots */
#define EVENTS 64

/* --- small services ------------------------------------------------------------------------------------- */
void tcp_log(struct choir_transport *t, enum base_level level, const char *format, ...)
{
    uint64_t now = base_now_ns();
    if (now - t->log_ns > LOG_NS)
        t->log_ns = now, t->log_count = 0;
    if (t->log_count++ > LOG_LINES)
        return;
    char text[400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    t->host->log(t->host->context, (int)level,
                 t->log_count > LOG_LINES ? "tcp: many more such lines are left out" : text);
}

void tcp_process_text(const struct choir_process *p, char text[33])
{
    for (int i = 0; i < 8; i++)
        snprintf(text + 2 * i, 3, "%02x", p->bytes[i]);
}

void tcp_signal(struct choir_transport *t)
{
    uint64_t one = 1;
    if (!atomic_exchange(&t->signaled, true))
        (void)!write(t->wake.fd, &one, sizeof(one));
}

void tcp_wake(struct choir_transport *t)
{
    atomic_store(&t->todo, 1);
    tcp_signal(t);
}

static void timer_set(struct choir_transport *t, uint64_t every_ns)
{
    struct timespec s = {0, (long)every_ns};
    timerfd_settime(t->timer.fd, 0, &(struct itimerspec){s, s}, NULL);
    t->timed = every_ns != 0;
}

void tcp_timed(struct choir_transport *t)
{
    if (!t->timed)
        timer_set(t, TCP_TICK_NS);
}

static _Thread_local char myself;

bool tcp_drive(struct choir_transport *t)
{
    if (atomic_load_explicit(&t->driver, memory_order_relaxed) == &myself)
        return false;
    tcp_acquire(&t->drive);
    atomic_store_explicit(&t->driver, &myself, memory_order_relaxed);
    return true;
}

void tcp_drive_end(struct choir_transport *t)
{
    atomic_store_explicit(&t->driver, NULL, memory_order_relaxed);
    tcp_release(&t->drive);
}

/* --- probe, open, close ----------------------------------------------------------------------------------- */
static const char *knob(const struct choir_transport_host *h, const char *name)
{
    const char *v = h->knob ? h->knob(h->context, name) : NULL;
    return v ? v : "";
}

static enum choir_status probe(const struct choir_transport_host *host, char *text, size_t bytes)
{
    struct tcp_filter f;
    struct tcp_local own[TCP_ENTRIES];
    enum choir_status status =
        tcp_net_filter(&f, knob(host, "CHOIR_SOCKET_IFNAME"), knob(host, "CHOIR_SOCKET_FAMILY"));
    if (status == CHOIR_OK && !tcp_net_interfaces(&f, own, base_count(own)))
        status = CHOIR_ERR_UNSUPPORTED;
    if (bytes)
        snprintf(text, bytes, "%s",
                 status == CHOIR_OK ? ""
                                    : "no interface is up that CHOIR_SOCKET_IFNAME and "
                                      "CHOIR_SOCKET_FAMILY allow");
    return status;
}

static void service(void *arg);

static enum choir_status sources_open(struct choir_transport *t)
{
    t->poll = epoll_create1(EPOLL_CLOEXEC);
    t->timer = (struct tcp_source){TCP_TIMER,
                                   timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), 0};
    t->wake = (struct tcp_source){TCP_WAKE, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), 0};
    if (t->poll < 0 || t->timer.fd < 0 || t->wake.fd < 0 || !tcp_watch(t, &t->timer, EPOLLIN) ||
        !tcp_watch(t, &t->wake, EPOLLIN) || !tcp_watch(t, &t->listener, EPOLLIN))
        return base_fail(CHOIR_ERR_SYSTEM, "raise the limit of open files (ulimit -n)",
                         "tcp cannot make its epoll set: %s", strerror(errno));
    t->accepting = true;
    return t->host->watch ? t->host->watch(t->host->context, t->poll, 0, service, t) : CHOIR_OK;
}

static enum choir_status configure(struct choir_transport *t)
{
    const struct choir_transport_host *h = t->host;
    enum choir_status status =
        tcp_net_filter(&t->filter, knob(h, "CHOIR_SOCKET_IFNAME"), knob(h, "CHOIR_SOCKET_FAMILY"));
    if (status != CHOIR_OK)
        return status;
    int sockets = atoi(knob(h, "CHOIR_SOCKETS"));
    t->sockets = (uint32_t)base_min(base_max(sockets, 1), 16);
    t->insecure = atoi(knob(h, "CHOIR_INSECURE")) == 1;
    t->encrypt = atoi(knob(h, "CHOIR_ENCRYPT")) == 1;
    t->zerocopy = (enum tcp_zerocopy_use)atoi(knob(h, "CHOIR_ZEROCOPY"));
    t->host_hash = base_hash(h->host_id, strlen(h->host_id), 1);
    if (t->insecure)
        tcp_log(t, BASE_WARN, "tcp lets peers in without a secret (CHOIR_INSECURE=1)");
    return tcp_net_listen(knob(h, "CHOIR_PORT_RANGE"), t->filter.family, &t->listener.fd, &t->port);
}

static void descriptors_close(struct choir_transport *t)
{
    for (struct tcp_conn *c = t->conn; c; c = c->next)
        if (c->source.fd >= 0)
            close(c->source.fd);
    for (uint32_t i = 0; i < t->up_count; i++)
        close(t->up[i]->source.fd);
    int fd[] = {t->listener.fd, t->timer.fd, t->wake.fd, t->poll};
    for (size_t i = 0; i < base_count(fd); i++)
        if (fd[i] >= 0)
            close(fd[i]);
}

static void transport_free(struct choir_transport *t)
{
    free(t->up);
    free(t->buffer);
    free(t->sink);
    free(t);
}

static enum choir_status open_transport(const struct choir_transport_host *host,
                                        struct choir_transport **out)
{
    if (sodium_init() < 0)
        return base_fail(CHOIR_ERR_SYSTEM, "", "libsodium cannot be used: no random numbers");
    struct choir_transport *t = calloc(1, sizeof(*t));
    if (!t)
        return base_fail(CHOIR_ERR_NO_MEMORY, "", "no memory for the tcp transport");
    t->host = host;
    t->pid = getpid();
    t->poll = t->timer.fd = t->wake.fd = -1;
    t->listener = (struct tcp_source){TCP_LISTENER, -1, 0};
    t->buffer = malloc(TCP_BUFFER);
    t->sink = malloc(TCP_BUFFER);
    enum choir_status status =
        t->buffer && t->sink ? configure(t)
                             : base_fail(CHOIR_ERR_NO_MEMORY, "", "no memory for tcp's buffers");
    if (status == CHOIR_OK)
        status = sources_open(t);
    if (status != CHOIR_OK) {
        descriptors_close(t);
        transport_free(t);
        return status;
    }
    *out = t;
    return CHOIR_OK;
}

/* --- address, connect, disconnect -------------------------------------------------------------------------- */
enum choir_status tcp_address_of(struct choir_transport *t, void *address, size_t *bytes)
{
    struct tcp_address a = {.process = t->host->self, .host = t->host_hash, .port = t->port};
    struct tcp_local own[TCP_ENTRIES];
    unsigned char secret[32];
    size_t n = tcp_net_interfaces(&t->filter, own, base_count(own));
    for (size_t i = 0; i < n; i++)
        a.entry[a.count++] = own[i].entry;
    if (!t->host->secret(t->host->context, NULL, a.secret_name, secret))
        memset(a.secret_name, 0, sizeof(a.secret_name));
    sodium_memzero(secret, sizeof(secret));
    size_t written = tcp_net_address_write(&a, address, base_min(*bytes, (size_t)TCP_ADDRESS_MOST));
    if (!written)
        return base_fail(CHOIR_ERR_ARGUMENT, "", "%zu bytes are too few for a tcp address", *bytes);
    *bytes = written;
    return CHOIR_OK;
}

static enum choir_status connect_peer(struct choir_transport *t, const struct choir_process *peer,
                                      const void *address, size_t bytes, void *cookie,
                                      struct choir_endpoint **out)
{
    struct tcp_address a;
    struct tcp_local own[TCP_ENTRIES * 2];
    struct tcp_pair pair;
    if (!tcp_net_address_read(&a, address, bytes) || memcmp(&a.process, peer, sizeof(*peer)))
        return base_fail(CHOIR_ERR_ARGUMENT, "", "that is not the tcp address of this process");
    bool same_host = a.host == t->host_hash;
    size_t n = tcp_net_interfaces(&t->filter, own, base_count(own));
    if (!n) /* none is up just now, or no descriptor is left to ask with */
        return base_fail(CHOIR_ERR_NETWORK, "see CHOIR_SOCKET_IFNAME and ulimit -n",
                         "no interface was found to connect from");
    if (!memcmp(peer, &t->host->self, sizeof(*peer)) ||
        !tcp_net_pairs(own, n, &a, same_host, &pair, 1))
        return CHOIR_ERR_UNSUPPORTED;
    bool fresh;
    struct choir_endpoint *e = tcp_endpoint_make(t, peer, &a, &fresh);
    if (!e)
        return base_fail(CHOIR_ERR_NO_MEMORY, "", "no memory for a tcp endpoint");
    *out = e; /* before upcalls can come */
    atomic_store(&e->cookie, cookie);
    if (fresh) {
        tcp_acquire(&t->lock);
        e->next_dialing = t->fresh;
        e->queued = true;
        t->fresh = e;
        tcp_release(&t->lock);
        tcp_wake(t);
    }
    return CHOIR_OK;
}

static enum choir_status connected(struct choir_endpoint *e)
{
    int state = atomic_load(&e->state);
    return state == EP_UP        ? CHOIR_OK
           : state == EP_JOINING ? CHOIR_IN_PROGRESS
           : state == EP_FAILED  ? e->why
                                 : CHOIR_ERR_STATE;
}

/* --- progress ------------------------------------------------------------------------------------------------ */
/* The eventfd stays readable while acknowledgements are owed, so that it is written once, not for each. */
static void hush(struct choir_transport *t)
{
    uint64_t count;
    if (t->owed || !atomic_load_explicit(&t->signaled, memory_order_relaxed))
        return;
    (void)!read(t->wake.fd, &count, sizeof(count));
    atomic_store(&t->signaled,
                 false); /* before todo() looks: who signals from now on writes again */
}

static void todo(struct choir_transport *t)
{
    if (!atomic_exchange(&t->todo, 0))
        return;
    tcp_acquire(&t->lock);
    struct choir_endpoint *e = t->fresh;
    t->fresh = NULL;
    bool closing = t->closing != NULL;
    tcp_release(&t->lock);
    while (e) {
        struct choir_endpoint *next = e->next_dialing;
        e->next_dialing = NULL;
        e->queued = false;
        if (atomic_load(&e->state) == EP_JOINING)
            tcp_dial_start(e);
        e = next;
    }
    if (closing)
        tcp_timed(t);
}

static void tick(struct choir_transport *t)
{
    uint64_t expired, now = base_now_ns();
    (void)!read(t->timer.fd, &expired, sizeof(expired));
    tcp_conn_tick(t, now);
    tcp_dial_tick(t, now);
    tcp_endpoint_tick(t, now);
    tcp_acquire(&t->lock);
    bool closing = t->closing != NULL;
    tcp_release(&t->lock);
    if (!t->conn && !t->dialing && !closing && t->accepting)
        timer_set(t, 0);
}

static void trash_empty(struct choir_transport *t)
{
    while (t->trash) {
        struct tcp_conn *c = t->trash;
        t->trash = c->next;
        free(c);
    }
    while (t->trash_slot) {
        struct tcp_slot *s = t->trash_slot;
        t->trash_slot = s->next_trash;
        free(s);
    }
}

static uint32_t look(struct choir_transport *t)
{
    struct epoll_event v[EVENTS];
    int n = epoll_wait(t->poll, v, EVENTS, 0);
    uint32_t events = 0;
    for (int i = 0; i < n; i++) {
        struct tcp_source *s = v[i].data.ptr;
        if (s->fd < 0)
            continue; /* closed by an event before it */
        if (s->kind == TCP_SLOT) {
            struct tcp_slot *slot = (struct tcp_slot *)(void *)s;
            if (v[i].events & EPOLLERR) /* or an error, which receiving tells */
                tcp_zerocopy_reap(slot);
            if (v[i].events & EPOLLOUT)
                tcp_write_ready(slot), events++;
            if (v[i].events & ~(uint32_t)EPOLLOUT && s->fd >= 0)
                events += tcp_receive_slot(slot);
        } else if (s->kind == TCP_CONN) {
            tcp_conn_event((struct tcp_conn *)(void *)s, v[i].events);
            events++;
        } else if (s->kind == TCP_LISTENER) {
            tcp_conn_accept(t);
            events++;
        } else if (s->kind == TCP_TIMER) {
            tick(t);
        } else {
            hush(t);
        }
    }
    todo(t);
    return events;
}

static void arm(struct choir_transport *t, int on)
{
    atomic_store(&t->driven, !on);
    if (!on || !tcp_drive(t))
        return;
    tcp_attach(t);
    tcp_drive_end(t);
}

/* After a look that found nothing. */
static void keep(struct choir_transport *t)
{
    for (uint32_t i = 0; i < t->up_count; i++)
        tcp_send_keep(t->up[i]->e);
}

static uint32_t progress(struct choir_transport *t)
{
    uint32_t events = 0;
    bool outside = tcp_drive(t);
    bool hot = t->up_count && t->up_count <= TCP_HOT && !t->timed &&
               !atomic_load_explicit(&t->blocked, memory_order_relaxed);
    if (!hot)
        tcp_attach(t);
    for (uint32_t i = 0; hot && i < t->up_count; i++)
        events += tcp_receive_slot(t->up[i]);
    t->round += events ? LOOK_EVERY / 8 : 1; /* calls that found something may be far apart */
    if (!hot || t->round >= LOOK_EVERY || atomic_load_explicit(&t->todo, memory_order_relaxed)) {
        t->round = 0;
        events += look(t);
        if (hot && atomic_load_explicit(&t->driven, memory_order_relaxed))
            tcp_detach(t);
    }
    if (t->owed)
        tcp_receive_settle(t);
    if (!events && atomic_load_explicit(&t->lent, memory_order_relaxed))
        keep(t);
    if (outside) { /* not while an event further up the stack may still name it */
        trash_empty(t);
        tcp_drive_end(t);
    }
    return events;
}

/* By the library's service thread, which sleeps on the epoll descriptor. */
static void service(void *arg)
{
    struct choir_transport *t = arg;
    if (!tcp_drive(t))
        return;
    look(t);
    tcp_receive_settle(t);
    if (atomic_load_explicit(&t->lent, memory_order_relaxed))
        keep(t);
    trash_empty(t);
    tcp_drive_end(t);
}

/* --- close ------------------------------------------------------------------------------------------------------ */
static void endpoints_close(struct choir_transport *t)
{
    for (size_t i = 0; i < TCP_BUCKETS; i++)
        while (t->bucket[i])
            tcp_endpoint_close(t->bucket[i]);
}

static void close_transport(struct choir_transport *t)
{
    if (getpid() !=
        t->pid) { /* a forked child: the connections and the epoll set are the parent's */
        descriptors_close(t);
        return;
    }
    if (t->host->watch)
        t->host->watch(t->host->context, t->poll, 0, NULL, NULL);
    tcp_drive(t);
    tcp_attach(t);
    todo(t);
    endpoints_close(t);
    uint64_t end = base_now_ns() + TCP_GOODBYE_NS;
    while (t->closing && base_now_ns() < end) {
        struct epoll_event v;
        epoll_wait(t->poll, &v, 1, (int)(TCP_TICK_NS / 1000000));
        look(t);
        tcp_receive_settle(t);
        tcp_endpoint_tick(t, base_now_ns());
        trash_empty(t);
    }
    tcp_endpoint_tick(t, UINT64_MAX / 2);
    while (t->conn)
        tcp_conn_drop(t->conn);
    trash_empty(t);
    descriptors_close(t);
    transport_free(t);
}

const struct choir_transport_ops choir_transport_tcp = {
    .size = sizeof(struct choir_transport_ops),
    .abi = CHOIR_TRANSPORT_ABI,
    .name = "tcp",
    .probe = probe,
    .open = open_transport,
    .address = tcp_address_of,
    .connect = connect_peer,
    .connected = connected,
    .send = tcp_send_frame,
    .flush = tcp_endpoint_flushed,
    .progress = progress,
    .disconnect = tcp_endpoint_close,
    .close = close_transport,
    .arm = arm,
};
