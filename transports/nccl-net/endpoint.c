/* SPDX-License-Identifier: Apache-2.0 */
/*
 * endpoint.c: the life of an endpoint: made by either side, stepped, failed, let go. A plug-in does not tell a dead peer from
 * a broken wire, nor always anything at all; the line does, so an error of the plug-in waits a moment for the line's word.
 */
#include "transports/nccl-net/net.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- the list ---------------------------------------------------------------------------------------------------- */
struct choir_endpoint *net_endpoint_find(struct choir_transport *t,
                                         const struct choir_process *peer)
{
    struct choir_endpoint *e = t->list;
    while (e && !(e->listed && !memcmp(&e->peer, peer, sizeof(*peer))))
        e = e->next;
    return e;
}

struct choir_endpoint *net_endpoint_new(struct choir_transport *t, const struct choir_process *peer)
{
    struct choir_endpoint *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->t = t;
    e->peer = *peer;
    e->inbox_last = &e->inbox;
    e->queue_last = &e->queue;
    e->since_ns = base_now_ns();
    return e;
}

static bool is_full(const struct choir_transport *t)
{
    int most = t->plugin.at.connections_most;
    return most > 0 && 2 * (uint64_t)(t->connected + 1) > (uint64_t)most;
}

void net_endpoint_list(struct choir_endpoint *e)
{
    e->refused = is_full(e->t);
    e->counted = !e->refused;
    e->t->connected += e->counted;
    e->listed = true;
    e->next = e->t->list;
    e->t->list = e;
}

static void unlist(struct choir_endpoint *e)
{
    net_acquire(&e->t->lock);
    e->listed = false;
    net_release(&e->t->lock);
}

static void process_text(const struct choir_process *p, char text[33])
{
    for (int i = 0; i < 8; i++)
        snprintf(text + 2 * i, 3, "%02x", p->bytes[i]);
}

/* --- connect --------------------------------------------------------------------------------------------------------- */
/* The peer's own attempt may be further: then this is it. */
enum choir_status net_endpoint_connect(struct choir_transport *t, const struct choir_process *peer,
                                       const void *address, size_t bytes, void *cookie,
                                       struct choir_endpoint **out)
{
    struct choir_endpoint *made = net_endpoint_new(t, peer), *line = NULL;
    if (!made)
        return base_fail(CHOIR_ERR_NO_MEMORY, "", "no memory for an endpoint");
    net_acquire(&t->lock);
    struct choir_endpoint *e = net_endpoint_find(t, peer);
    bool full = !e && is_full(t);
    if (!e && !full) {
        e = made, made = NULL;
        net_endpoint_list(e);
        atomic_store(&e->cookie, cookie);
        *out = e;
        net_release(&t->lock);
        enum choir_status status = t->line_ops->connect(t->line, peer, address, bytes, e, &line);
        net_acquire(&t->lock);
        if (status == CHOIR_OK && !e->line)
            e->line = line;
        bool lost = status != CHOIR_OK && !e->line;
        if (lost) {
            e->listed = false;
            atomic_store(&e->dead, true);
            *out = NULL;
        }
        net_release(&t->lock);
        return lost ? status : CHOIR_OK;
    }
    if (e) {
        atomic_store(&e->cookie, cookie);
        *out = e;
    }
    net_release(&t->lock);
    free(made);
    return e ? CHOIR_OK
             : base_fail(CHOIR_ERR_UNSUPPORTED, "",
                         "net plug-in %s device %d has no more than %d connections", t->plugin.name,
                         t->plugin.device, t->plugin.at.connections_most);
}

enum choir_status net_endpoint_connected(struct choir_endpoint *e)
{
    int state = atomic_load(&e->state);
    return state == NET_UP        ? CHOIR_OK
           : state == NET_JOINING ? CHOIR_IN_PROGRESS
           : state == NET_FAILED  ? e->why
                                  : CHOIR_ERR_STATE;
}

/* --- ends ---------------------------------------------------------------------------------------------------------------- */
static void release(struct choir_endpoint *e)
{
    struct choir_transport *t = e->t;
    net_half_close(e, &e->tx, true);
    net_half_close(e, &e->rx, false);
    if (e->listener)
        t->plugin.ops->close_listen(&t->plugin, e->listener);
    e->listener = NULL;
    net_acquire(&t->lock);
    struct choir_endpoint *line = e->line;
    e->line = NULL;
    t->connected -= e->counted;
    e->listed = e->counted = false;
    net_release(&t->lock);
    if (line)
        t->line_ops->disconnect(line); /* what was said is still delivered */
}

void net_endpoint_fail(struct choir_endpoint *e, enum choir_status status, bool say,
                       const char *format, ...)
{
    int state = atomic_load(&e->state);
    if (state == NET_FAILED || state == NET_CLOSING)
        return;
    char text[256], who[33];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    e->why = status;
    atomic_store(&e->state, NET_FAILED);
    if (say && e->line)
        net_line_say(e, NET_BROKEN, (uint64_t)(int64_t)status, text, (uint32_t)strlen(text));
    release(e);
    const struct choir_transport_host *h = e->t->host;
    process_text(&e->peer, who);
    if (state == NET_UP)
        h->failed(h->context, atomic_load(&e->cookie), status, 0, text);
    else /* never joined: the library asks connected() */
        net_log(e->t, BASE_WARN, "process %s is not reached: %s", who, text);
    net_send_abandon(e);          /* after the reason is told: who waits for these finds it */
    if (!atomic_load(&e->cookie)) /* the library never knew it */
        atomic_store(&e->dead, true);
}

void net_endpoint_error(struct choir_endpoint *e, struct net_half *half, const char *call,
                        int result)
{
    const struct plugin *p = &e->t->plugin;
    half->broken = true;
    if (e->error_ns)
        return;
    e->error_ns = base_now_ns();
    snprintf(e->error, sizeof(e->error), "net plug-in %s device %d %s: %s: %s", p->name, p->device,
             p->at.name, call, plugin_result_text(result));
}

void net_endpoint_end(struct choir_endpoint *e)
{
    e->why = CHOIR_ERR_STATE;
    atomic_store(&e->state, NET_FAILED);
    release(e);
    net_send_abandon(e);
    atomic_store(&e->dead, true);
}

void net_endpoint_close(struct choir_endpoint *e)
{
    struct choir_transport *t = e->t;
    bool outside = net_drive(t); /* upcalls that are running come to their end first */
    int state = atomic_load(&e->state);
    e->disconnected = true;
    unlist(e);
    if (state == NET_UP) {
        atomic_store(&e->state, NET_CLOSING);
        e->since_ns = base_now_ns();
        net_send_keep(e);
        net_send_pump(e);
    } else if (state != NET_CLOSING) {
        net_endpoint_end(e);
    }
    if (atomic_load(&t->armed))
        net_rearm(t, 0);
    if (outside)
        net_drive_end(t);
}

void net_endpoint_reap(struct choir_transport *t)
{
    struct choir_endpoint *gone = NULL;
    net_acquire(&t->lock);
    for (struct choir_endpoint **at = &t->list, *e; (e = *at);) {
        if (!atomic_load(&e->dead)) {
            at = &e->next;
            continue;
        }
        *at = e->next;
        t->connected -= e->counted;
        e->next = gone;
        gone = e;
    }
    net_release(&t->lock);
    while (gone) {
        struct choir_endpoint *e = gone;
        gone = e->next;
        net_line_forget(e);
        free(e);
    }
}

/* --- steps ------------------------------------------------------------------------------------------------------------------ */
/* The peer let go: all it sent has come. */
static void farewell(struct choir_endpoint *e)
{
    char who[33];
    net_acquire(&e->t->lock);
    bool heard = !e->inbox;
    net_release(&e->t->lock);
    if (e->done_said || e->frames_in < e->last_in || !heard)
        return;
    net_line_say(e, NET_DONE, 0, NULL, 0);
    e->done_said = true;
    process_text(&e->peer, who);
    net_endpoint_fail(e, CHOIR_ERR_PEER_DEAD, false, "process %s has left", who);
}

/* The line has ended: when nothing more comes over the plug-in, so has the peer. */
static void line_ended(struct choir_endpoint *e, uint64_t now, uint32_t events)
{
    if (!e->down_ns || events)
        e->down_ns = now;
    if (now - e->down_ns < NET_QUIET_NS && !e->rx.broken)
        return;
    if (atomic_load(&e->state) == NET_CLOSING) {
        net_endpoint_end(e);
        return;
    }
    bool dead = e->down_status == CHOIR_ERR_PEER_DEAD;
    bool joining = atomic_load(&e->state) == NET_JOINING;
    net_endpoint_fail(e, dead && joining ? CHOIR_ERR_NETWORK : e->down_status, false, "%s%s%s",
                      e->down_text, e->error_ns ? "; " : "", e->error);
}

static void closing(struct choir_endpoint *e, uint64_t now)
{
    if (!e->last_said && net_send_idle(e)) {
        net_line_say(e, NET_LAST, e->frames_out, NULL, 0);
        e->last_said = true;
    }
    if ((e->last_said && e->done_came) || now - e->since_ns > NET_GOODBYE_NS)
        net_endpoint_end(e);
}

static void ends(struct choir_endpoint *e, uint32_t events)
{
    uint64_t now = base_now_ns();
    net_acquire(&e->t->lock);
    bool down = e->down;
    net_release(&e->t->lock);
    while (down && net_line_hear(e)) /* what it brought before it ended */
        ;
    if (e->last_came)
        farewell(e);
    if (atomic_load(&e->state) == NET_FAILED)
        return;
    if (down)
        line_ended(e, now, events);
    else if (e->error_ns && !e->asked)
        net_line_say(e, NET_ASK, 0, NULL, 0), e->asked = true;
    else if (e->error_ns && (e->answered || now - e->error_ns > NET_GRACE_NS))
        net_endpoint_fail(e, CHOIR_ERR_NETWORK, true, "%s", e->error);
    if (atomic_load(&e->state) == NET_CLOSING)
        closing(e, now);
}

/* What must be looked at without an event of its own. */
static bool looks_due(const struct choir_endpoint *e, uint32_t events)
{
    return !events || e->error_ns || e->last_came ||
           atomic_load_explicit(&e->state, memory_order_relaxed) != NET_UP;
}

uint32_t net_endpoint_step(struct choir_endpoint *e)
{
    if (atomic_load(&e->dead) || atomic_load(&e->state) == NET_FAILED)
        return 0;
    net_acquire(&e->t->lock);
    bool line = e->line != NULL;
    net_release(&e->t->lock);
    if (!line)
        return 0;
    uint32_t events = net_line_hear(e);
    if (atomic_load(&e->state) == NET_JOINING)
        events += net_join_step(e);
    events += net_receive(e);
    if (events)
        events += net_line_hear(e); /* what waited for data */
    events += net_send_pump(e);
    if (atomic_load(&e->state) != NET_FAILED && looks_due(e, events))
        ends(e, events);
    return events;
}

bool net_endpoint_busy(const struct choir_endpoint *e)
{
    int state = atomic_load(&e->state);
    if (state == NET_FAILED)
        return false;
    return state != NET_UP || !net_send_idle(e) || e->owed > e->rx.done || e->waits ||
           e->error_ns || e->last_came || e->down_ns || e->rx.posted - e->rx.done < NET_BUFFERS;
}
