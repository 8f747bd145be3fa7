/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.c: the transport as the library sees it: probe, open, address, progress, arm, close; who drives, and when the service
 * thread looks although no descriptor shows anything: plug-ins have none.
 */
#include "transports/nccl-net/net.h"
#include <errno.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

void net_log(struct choir_transport *t, enum base_level level, const char *format, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    t->host->log(t->host->context, (int)level, text);
}

/* --- who drives --------------------------------------------------------------------------------------------------- */
static _Thread_local char myself;

struct choir_endpoint *net_first(struct choir_transport *t)
{
    net_acquire(&t->lock);
    struct choir_endpoint *e = t->list;
    net_release(&t->lock);
    return e;
}

bool net_try_drive(struct choir_transport *t, bool *nested)
{
    const char *none = NULL;
    *nested = false;
    if (atomic_compare_exchange_strong(&t->driver, &none, &myself))
        return true;
    return *nested = none == &myself;
}

bool net_drive(struct choir_transport *t)
{
    bool nested;
    while (!net_try_drive(t, &nested))
        sched_yield();
    return !nested;
}

/* A frame queued while this thread drove is looked at by it, or by its sender: one of them sees the other's store. */
void net_drive_end(struct choir_transport *t)
{
    bool nested;
    do {
        if (atomic_exchange(&t->todo, 0)) {
            for (struct choir_endpoint *e = net_first(t); e; e = e->next)
                net_send_pump(e);
            if (atomic_load(&t->armed))
                net_rearm(t, 1);
        }
        atomic_store(&t->driver, NULL);
    } while (atomic_load(&t->todo) && net_try_drive(t, &nested));
}

/* --- the timer ------------------------------------------------------------------------------------------------------ */
static void tick(struct choir_transport *t, uint32_t ns)
{
    if (atomic_exchange(&t->tick_ns, ns) == ns)
        return;
    struct timespec s = {0, (long)ns};
    timerfd_settime(t->timer, 0, &(struct itimerspec){s, s}, NULL);
}

/* Nobody drives from now on: a timer does while something is under way, and peers are asked to ring before more comes. */
void net_rearm(struct choir_transport *t, uint32_t events)
{
    bool busy = false;
    uint64_t now = base_now_ns();
    if (events)
        t->moved_ns = now;
    for (struct choir_endpoint *e = net_first(t); e; e = e->next) {
        bool its = net_endpoint_busy(e);
        busy |= its;
        if (!its && !e->told_asleep && atomic_load(&e->state) == NET_UP) {
            e->told_asleep = true;
            net_line_say(e, NET_ASLEEP, e->rx.done, NULL, 0);
        }
    }
    if (!busy)
        tick(t, 0);
    else
        tick(t, now - t->moved_ns < NET_QUIET_NS ? NET_TICK_NS : NET_TICK_SLOW_NS);
}

static void arm(struct choir_transport *t, int on)
{
    atomic_store(&t->armed, on);
    t->line_ops->arm(t->line, on);
    if (on && net_drive(t)) { /* off: only who drives touches the timer; nobody looks at it */
        t->moved_ns = base_now_ns();
        net_rearm(t, 0);
        net_drive_end(t);
    }
}

/* --- progress ---------------------------------------------------------------------------------------------------------- */
static uint32_t progress(struct choir_transport *t)
{
    uint32_t events = 0;
    if (!net_drive(t))
        return 0;
    if (t->round++ % NET_LINE_EVERY == 0)
        events += t->line_ops->progress(t->line);
    for (struct choir_endpoint *e = net_first(t); e; e = e->next)
        events += net_endpoint_step(e);
    net_endpoint_reap(t);
    if (atomic_load_explicit(&t->armed, memory_order_relaxed))
        net_rearm(t, events);
    net_drive_end(t);
    return events;
}

/* By the library's service thread, which sleeps on t->poll. */
static void service(void *arg)
{
    struct choir_transport *t = arg;
    struct epoll_event v[2];
    uint64_t expired;
    int n = epoll_wait(t->poll, v, 2, 0);
    for (int i = 0; i < n; i++)
        if (v[i].data.fd == t->timer)
            (void)!read(t->timer, &expired, sizeof(expired));
        else if (t->line_fn)
            t->line_fn(t->line_arg);
    progress(t);
}

/* --- probe, open, close --------------------------------------------------------------------------------------------------- */
static const char *knob(const struct choir_transport_host *h, const char *name)
{
    const char *v = h->knob ? h->knob(h->context, name) : NULL;
    return v ? v : "";
}

static enum choir_status probe(const struct choir_transport_host *host, char *text, size_t bytes)
{
    const char *list = knob(host, "CHOIR_NET_PLUGIN");
    const char *why = "";
    if (!*list || !strcasecmp(list, "none"))
        why = "CHOIR_NET_PLUGIN names no plug-in";
    else if (atoi(knob(host, "CHOIR_ENCRYPT")) == 1)
        host->log(host->context, BASE_WARN,
                  why = "not used: net plug-ins cannot encrypt, as CHOIR_ENCRYPT=1 demands");
    if (bytes)
        snprintf(text, bytes, "%s", why);
    return *why ? CHOIR_ERR_UNSUPPORTED : CHOIR_OK;
}

static enum choir_status sources_open(struct choir_transport *t)
{
    t->poll = epoll_create1(EPOLL_CLOEXEC);
    t->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = t->timer};
    if (t->poll < 0 || t->timer < 0 || epoll_ctl(t->poll, EPOLL_CTL_ADD, t->timer, &ev))
        return base_fail(CHOIR_ERR_SYSTEM, "raise the limit of open files (ulimit -n)",
                         "nccl-net cannot make its epoll set: %s", strerror(errno));
    return CHOIR_OK;
}

static void sources_close(struct choir_transport *t)
{
    if (t->poll >= 0)
        close(t->poll);
    if (t->timer >= 0)
        close(t->timer);
}

static enum choir_status open_transport(const struct choir_transport_host *host,
                                        struct choir_transport **out)
{
    struct choir_transport *t = calloc(1, sizeof(*t));
    if (!t || sodium_init() < 0) {
        free(t);
        return base_fail(CHOIR_ERR_NO_MEMORY, "", "no memory for the nccl-net transport");
    }
    t->host = host;
    t->pid = getpid();
    t->poll = t->timer = -1;
    atomic_store(&t->armed, true);
    enum choir_status status = plugin_open(host, &t->plugin);
    if (status != CHOIR_OK)
        goto err_free;
    size_t most = t->plugin.at.message_most ? t->plugin.at.message_most : NET_BUFFER;
    t->message_bytes = (uint32_t)base_min((size_t)NET_BUFFER, most) & ~7u;
    if ((status = sources_open(t)) != CHOIR_OK || (status = net_line_open(t)) != CHOIR_OK)
        goto err_sources;
    status = host->watch ? host->watch(host->context, t->poll, 0, service, t) : CHOIR_OK;
    if (status == CHOIR_OK) {
        *out = t;
        return CHOIR_OK;
    }
    t->line_ops->close(t->line);
err_sources:
    sources_close(t);
    plugin_close(&t->plugin);
err_free:
    free(t);
    return status;
}

static enum choir_status address(struct choir_transport *t, void *to, size_t *bytes)
{
    *bytes = base_min(*bytes, (size_t)NET_ADDRESS_MOST);
    return t->line_ops->address(t->line, to, bytes);
}

static enum choir_status flush(struct choir_transport *t)
{
    bool nested, left = false;
    if (!net_try_drive(t, &nested))
        return CHOIR_IN_PROGRESS;
    for (struct choir_endpoint *e = net_first(t); e; e = e->next)
        left |= atomic_load(&e->state) == NET_UP && !net_send_idle(e);
    if (!nested)
        net_drive_end(t);
    return left ? CHOIR_IN_PROGRESS : t->line_ops->flush(t->line);
}

static void close_transport(struct choir_transport *t)
{
    if (getpid() != t->pid) { /* a forked child: connections are the parent's */
        t->line_ops->close(t->line);
        sources_close(t);
        return;
    }
    if (t->host->watch)
        t->host->watch(t->host->context, t->poll, 0, NULL, NULL);
    net_drive(t);
    net_acquire(&t->lock);
    t->closing = true;
    net_release(&t->lock);
    for (struct choir_endpoint *e = net_first(t); e; e = e->next)
        if (!e->disconnected && !atomic_load(&e->dead))
            net_endpoint_close(e);
    for (uint64_t end = base_now_ns() + 2 * NET_GOODBYE_NS; net_first(t); usleep(50)) {
        t->line_ops->progress(t->line);
        for (struct choir_endpoint *e = net_first(t); e; e = e->next) {
            net_endpoint_step(e);
            if (base_now_ns() > end && !atomic_load(&e->dead))
                net_endpoint_end(e);
        }
        net_endpoint_reap(t);
    }
    t->line_ops->close(t->line);
    sources_close(t);
    plugin_close(&t->plugin);
    free(t);
}

const struct choir_transport_ops choir_transport_nccl_net = {
    .size = sizeof(struct choir_transport_ops),
    .abi = CHOIR_TRANSPORT_ABI,
    .name = "nccl-net",
    .probe = probe,
    .open = open_transport,
    .address = address,
    .connect = net_endpoint_connect,
    .connected = net_endpoint_connected,
    .send = net_send,
    .flush = flush,
    .progress = progress,
    .disconnect = net_endpoint_close,
    .close = close_transport,
    .arm = arm,
};
