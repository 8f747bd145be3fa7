/* SPDX-License-Identifier: Apache-2.0 */
/*
 * endpoint.c: the life of an endpoint and its slots: made, joined, a connection lost and resumed, failed, let go.
 * Runs in the thread inside progress(), except tcp_endpoint_make, _find and _close, which any thread may call.
 */
#include "transports/tcp/tcp.h"
#include <errno.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

/* --- the table ---------------------------------------------------------------------------------------- */
static struct choir_endpoint **bucket_of(struct choir_transport *t, const struct choir_process *p)
{
    return &t->bucket[p->bytes[0]]; /* random bytes */
}

static struct choir_endpoint *find(struct choir_transport *t, const struct choir_process *peer)
{
    struct choir_endpoint *e = *bucket_of(t, peer);
    while (e && memcmp(&e->peer, peer, sizeof(*peer)))
        e = e->next;
    return e;
}

struct choir_endpoint *tcp_endpoint_find(struct choir_transport *t,
                                         const struct choir_process *peer)
{
    tcp_acquire(&t->lock);
    struct choir_endpoint *e = find(t, peer);
    tcp_release(&t->lock);
    return e;
}

static struct choir_endpoint *endpoint_new(struct choir_transport *t,
                                           const struct choir_process *peer)
{
    struct choir_endpoint *e = calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->t = t;
    e->peer = *peer;
    e->order_room = 1;
    e->item_room = 16;
    e->order = calloc(e->order_room, sizeof(*e->order));
    e->item = calloc(e->item_room, sizeof(*e->item));
    if (!e->order || !e->item) {
        free(e->order);
        free(e->item);
        free(e);
        return NULL;
    }
    do
        randombytes_buf(&e->epoch, sizeof(e->epoch));
    while (!e->epoch);
    return e;
}

struct choir_endpoint *tcp_endpoint_make(struct choir_transport *t,
                                         const struct choir_process *peer,
                                         const struct tcp_address *address, bool *fresh)
{
    struct choir_endpoint *made = endpoint_new(t, peer), *e;
    if (made && address) { /* before it is listed: the thread in progress() may take it at once */
        made->address = *address;
        made->same_host = address->host == t->host_hash;
        memcpy(made->secret_name, address->secret_name, sizeof(made->secret_name));
    }
    tcp_acquire(&t->lock);
    e = find(t, peer);
    *fresh = !e && made;
    if (*fresh) {
        struct choir_endpoint **at = bucket_of(t, peer);
        made->next = *at;
        *at = e = made;
        e->listed = true;
    }
    tcp_release(&t->lock);
    if (made && !*fresh) {
        free(made->order);
        free(made->item);
        free(made);
    }
    return e;
}

void tcp_endpoint_unlist(struct choir_endpoint *e)
{
    struct choir_transport *t = e->t;
    tcp_acquire(&t->lock);
    if (e->listed)
        for (struct choir_endpoint **at = bucket_of(t, &e->peer); *at; at = &(*at)->next)
            if (*at == e) {
                *at = e->next;
                break;
            }
    e->listed = false;
    tcp_release(&t->lock);
}

/* --- slots ---------------------------------------------------------------------------------------------- */
/* The thread inside progress() waits for another one's system call here: connections come and go rarely. */
void tcp_endpoint_own(struct choir_endpoint *e)
{
    for (;;) {
        tcp_acquire(&e->lock);
        bool mine = !e->owned;
        e->owned = true;
        tcp_release(&e->lock);
        if (mine)
            return;
        sched_yield();
    }
}

void tcp_endpoint_disown(struct choir_endpoint *e)
{
    tcp_acquire(&e->lock);
    e->owned = false;
    tcp_release(&e->lock);
}

static struct tcp_slot *slot_new(struct choir_endpoint *e)
{
    struct tcp_slot *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->source = (struct tcp_source){TCP_SLOT, -1, 0};
    s->e = e;
    s->index = e->slot_count;
    s->rx.ahead = 4096;
    return s;
}

/* With several slots chunks arrive out of order; with one they never do. */
static bool order_grow(struct choir_endpoint *e)
{
    struct tcp_order *o = calloc(TCP_ORDER, sizeof(*o));
    if (!o)
        return false;
    for (uint64_t i = e->deliver; i < e->begin; i++)
        o[i % TCP_ORDER] = e->order[i % e->order_room];
    free(e->order);
    e->order = o;
    e->order_room = TCP_ORDER;
    return true;
}

bool tcp_endpoint_slots(struct choir_endpoint *e, uint32_t count)
{
    if (count > 1 && e->order_room == 1 && !order_grow(e))
        return false;
    bool ok = true;
    tcp_endpoint_own(e);
    while (e->slot_count < count && ok) {
        struct tcp_slot *s = slot_new(e);
        ok = s != NULL;
        for (uint32_t i = 0; ok && i < e->slot_count; i++)
            e->slot[i]->tx.solicit = true; /* see take() in write.c */
        if (ok)
            e->slot[e->slot_count++] = s;
    }
    tcp_endpoint_disown(e);
    return ok;
}

static void up_add(struct tcp_slot *s)
{
    struct choir_transport *t = s->e->t;
    if (t->up_count == t->up_room) {
        uint32_t room = t->up_room ? 2 * t->up_room : 16;
        struct tcp_slot **more = realloc(t->up, room * sizeof(struct tcp_slot *));
        if (!more)
            return; /* epoll serves it all the same */
        t->up = more;
        t->up_room = room;
    }
    t->up[t->up_count++] = s;
    s->hot = t->up_count;
}

static void up_remove(struct tcp_slot *s)
{
    struct choir_transport *t = s->e->t;
    if (!s->hot)
        return;
    struct tcp_slot *last = t->up[--t->up_count];
    t->up[s->hot - 1] = last;
    last->hot = s->hot;
    s->hot = 0;
}

/* The connection ends, the stream does not. e is owned. */
static void slot_down(struct tcp_slot *s)
{
    if (s->source.fd < 0)
        return;
    tcp_acquire(&s->e->lock);
    tcp_write_unblock(s);
    tcp_release(&s->e->lock);
    tcp_zerocopy_abort(s);
    tcp_unwatch(s->e->t, &s->source);
    tcp_keys_free(s->keys);
    s->keys = NULL;
    s->e->up_count--;
    up_remove(s);
    tcp_receive_cut(s);
}

void tcp_endpoint_install(struct choir_endpoint *e, struct tcp_conn *c, uint64_t received)
{
    struct choir_transport *t = e->t;
    struct tcp_slot *s = e->slot[c->slot];
    uint16_t both = c->hello.flags | c->challenge.flags;
    if (received < s->tx.heard || received > s->tx.end) {
        tcp_conn_drop(c);
        tcp_endpoint_fail(e, CHOIR_ERR_PROTOCOL, 0,
                          "the peer counts %llu chunks received of %llu sent",
                          (unsigned long long)received, (unsigned long long)s->tx.end);
        return;
    }
    tcp_endpoint_own(e);
    slot_down(s);
    s->source.fd = c->source.fd;
    s->source.interest = 0;
    s->keys = c->keys;
    s->seal_control = !(both & TCP_SAME_HOST);
    s->seal_all = (both & TCP_WANT_ENCRYPT) != 0;
    s->rtt_ns = c->rtt_ns;
    s->rank = c->pair.rank;
    s->own_index = c->inbound ? 0 : c->pair.own.index;
    s->peer_nic = c->inbound ? 255 : c->pair.peer.nic;
    s->speed = base_min(c->pair.own.entry.speed, c->pair.peer.speed);
    memcpy(e->secret_name, c->hello.secret_name, sizeof(e->secret_name));
    tcp_rewatch(t, &c->source, &s->source, EPOLLIN);
    c->keys = NULL;
    tcp_send_resume(s, received);
    tcp_zerocopy_begin(s);
    e->up_count++;
    up_add(s);
    tcp_endpoint_disown(e);
    if (atomic_load(&e->state) == EP_JOINING) {
        e->since_ns = base_now_ns();
        atomic_store(&e->state, EP_UP);
    }
    tcp_dial_more(e, c);
    tcp_conn_drop(c);
    tcp_send_acked(s, received);
    tcp_send_flush(e);
}

void tcp_endpoint_lost(struct tcp_slot *s, int sys_errno)
{
    struct choir_endpoint *e = s->e;
    int state = atomic_load(&e->state);
    tcp_endpoint_own(e);
    slot_down(s);
    tcp_endpoint_disown(e);
    if (state == EP_FAILED || state == EP_CLOSING)
        return;
    char who[33];
    tcp_process_text(&e->peer, who);
    if (e->bye) {
        if (!e->up_count)
            tcp_endpoint_fail(e, CHOIR_ERR_PEER_DEAD, 0, "process %s has left", who);
    } else if (!e->listed) {
        if (!e->up_count)
            tcp_endpoint_fail(e, CHOIR_ERR_PEER_DEAD, 0, "process %s has begun anew", who);
    } else if (!e->address.count) {
        tcp_endpoint_fail(e, CHOIR_ERR_NETWORK, sys_errno,
                          "the connection to process %s broke and its address is not known", who);
    } else {
        tcp_log(e->t, BASE_INFO, "tcp connection to process %s lost: %s; reconnecting", who,
                sys_errno ? strerror(sys_errno) : "closed");
        tcp_dial_start(e);
    }
}

/* --- ends -------------------------------------------------------------------------------------------------- */
void tcp_endpoint_fail(struct choir_endpoint *e, enum choir_status status, int sys_errno,
                       const char *format, ...)
{
    int state = atomic_load(&e->state);
    if (state == EP_FAILED || state == EP_CLOSING)
        return;
    char text[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    tcp_endpoint_own(e);
    e->why = status;
    atomic_store(&e->state, EP_FAILED);
    for (uint32_t i = 0; i < e->slot_count; i++)
        slot_down(e->slot[i]);
    tcp_send_abandon(e, -1);
    tcp_endpoint_disown(e);
    tcp_dial_stop(e);
    const struct choir_transport_host *h = e->t->host;
    if (state == EP_UP)
        h->failed(h->context, atomic_load(&e->cookie), status, sys_errno, text);
    else /* never connected: the library asks connected() */
        tcp_log(e->t, BASE_WARN, "tcp %s", text);
}

void tcp_endpoint_close(struct choir_endpoint *e)
{
    struct choir_transport *t = e->t;
    bool outside = tcp_drive(t); /* upcalls that are running come to their end first */
    tcp_endpoint_unlist(e);
    tcp_endpoint_own(e);
    bool up = atomic_load(&e->state) == EP_UP;
    atomic_store(&e->state, EP_CLOSING);
    tcp_receive_discard(e);
    bool flush = up && tcp_send_goodbye(e);
    if (!up)
        tcp_send_abandon(e, -1);
    tcp_endpoint_disown(e);
    e->since_ns = base_now_ns();
    tcp_acquire(&t->lock);
    e->next_closing = t->closing;
    t->closing = e;
    tcp_release(&t->lock);
    if (flush)
        tcp_send_flush(e);
    tcp_wake(t);
    if (outside)
        tcp_drive_end(t);
}

enum choir_status tcp_endpoint_flushed(struct choir_transport *t)
{
    bool left = false;
    tcp_acquire(&t->lock);
    for (size_t i = 0; i < TCP_BUCKETS && !left; i++)
        for (struct choir_endpoint *e = t->bucket[i]; e && !left; e = e->next) {
            tcp_acquire(&e->lock);
            left = atomic_load(&e->state) == EP_UP && e->item_head != e->item_tail;
            tcp_release(&e->lock);
        }
    tcp_release(&t->lock);
    return left ? CHOIR_IN_PROGRESS : CHOIR_OK;
}

static bool flushed(const struct choir_endpoint *e, uint64_t now)
{
    if (e->queued)
        return false;
    if ((!e->up_count && !e->dial.active) || tcp_age(now, e->since_ns) > TCP_GOODBYE_NS)
        return true;
    return e->item_head == e->item_tail;
}

static void unowe(struct choir_transport *t, struct tcp_slot *s)
{
    for (struct tcp_slot **at = &t->owed; *at; at = &(*at)->next_owed)
        if (*at == s) {
            *at = s->next_owed;
            return;
        }
}

void tcp_endpoint_free(struct choir_endpoint *e)
{
    struct choir_transport *t = e->t;
    tcp_dial_stop(e);
    for (struct choir_endpoint **at = &t->dialing; *at; at = &(*at)->next_dialing)
        if (*at == e) {
            *at = e->next_dialing;
            break;
        }
    for (uint32_t i = 0; i < e->slot_count; i++) {
        slot_down(e->slot[i]);
        free(e->slot[i]->tx.seal);
        free(e->slot[i]->rx.seal);
        unowe(t, e->slot[i]);
        e->slot[i]->next_trash = t->trash_slot; /* the events of this progress() may name it */
        t->trash_slot = e->slot[i];
    }
    tcp_send_abandon(e, -1);
    while (e->block) {
        struct tcp_block *b = e->block;
        e->block = b->next;
        free(b);
    }
    free(e->item);
    free(e->order);
    free(e->dial.pair);
    free(e);
}

void tcp_endpoint_tick(struct choir_transport *t, uint64_t now)
{
    struct choir_endpoint *done = NULL;
    tcp_acquire(&t->lock);
    for (struct choir_endpoint **at = &t->closing, *e; (e = *at);) {
        if (flushed(e, now)) {
            *at = e->next_closing;
            e->next_closing = done;
            done = e;
        } else {
            at = &e->next_closing;
        }
    }
    tcp_release(&t->lock);
    while (done) {
        struct choir_endpoint *e = done;
        done = e->next_closing;
        tcp_endpoint_free(e);
    }
}
