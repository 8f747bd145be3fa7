/* SPDX-License-Identifier: Apache-2.0 */
/*
 * receive.c: a slot's receiving half. Payloads go from the socket straight to where the library wants them;
 * headers and small frames come through one buffer of the transport, many with one system call. Chunks begin in
 * order and frames are delivered in order, over all slots. Only the thread inside progress() is here.
 */
#include "transports/tcp/tcp.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define TURN_MOST (2 << 20)         /* bytes of one turn of a slot */
#define ACK_BYTES (1 << 20)         /* unacknowledged bytes, or ... */
#define ACK_CHUNKS (TCP_WINDOW / 4) /* ... chunks: tell the sender unasked */
#define ERRORS_MOST 3

/* --- delivery ------------------------------------------------------------------------------------------- */
static struct tcp_order *order_at(struct choir_endpoint *e, uint64_t seq)
{
    return &e->order[seq % e->order_room];
}

static void deliver(struct choir_endpoint *e)
{
    const struct choir_transport_host *h = e->t->host;
    while (e->deliver < e->begin && order_at(e, e->deliver)->done) {
        struct tcp_order o = *order_at(e, e->deliver++);
        if (o.bye)
            e->bye = true;
        else if (o.last && atomic_load(&e->state) == EP_UP)
            h->arrived(h->context, atomic_load(&e->cookie), &o.frame, o.where);
    }
}

static void finish(struct tcp_slot *s)
{
    struct tcp_rx *x = &s->rx;
    const struct tcp_prefix *p = &x->header.prefix;
    order_at(s->e, x->header.body.seq)->done = true;
    x->untold += p->bytes;
    x->want |= (p->flags & TCP_WANT) != 0;
    x->begun = false;
    x->state = RX_HEADER;
    x->have = 0;
    x->ahead = p->bytes > TCP_COPY     ? (uint32_t)sizeof(struct tcp_header)
               : x->ahead < 4096       ? 4096
               : x->ahead < TCP_BUFFER ? x->ahead * 2
                                       : TCP_BUFFER;
    atomic_store_explicit(&s->got, atomic_load_explicit(&s->got, memory_order_relaxed) + 1,
                          memory_order_release);
    deliver(s->e);
}

/* --- headers -------------------------------------------------------------------------------------------- */
/* The sequence is the check of headers sent in plain: nothing fits but what comes next. */
static bool header_valid(const struct tcp_slot *s)
{
    const struct choir_endpoint *e = s->e;
    const struct tcp_header *h = &s->rx.header;
    const struct choir_frame *f = &h->body.frame;
    bool last = (h->prefix.flags & TCP_LAST) != 0;
    uint64_t end = (uint64_t)h->body.offset + h->prefix.bytes;
    if (s->seal_control && f->kind < CHOIR_FRAME_DATA && !(h->prefix.flags & TCP_SEALED))
        return false;
    return h->body.offset == e->begin_offset && f->bytes <= CHOIR_FRAME_MOST && end <= f->bytes &&
           last == (end == f->bytes) && (h->prefix.bytes || last) &&
           (!h->body.offset || !memcmp(f, &e->begin_frame, sizeof(*f)));
}

/* Places the chunk whose header is there. 0: not its turn, 1: begun, -1: nonsense. */
static int begin(struct tcp_slot *s)
{
    struct choir_endpoint *e = s->e;
    struct tcp_rx *x = &s->rx;
    const struct tcp_body *b = &x->header.body;
    if (b->seq > e->begin || b->seq - e->deliver >= e->order_room)
        return b->seq - e->begin < TCP_SLOTS_MOST * TCP_WINDOW ? 0 : -1;
    if (b->seq < e->begin || !header_valid(s))
        return -1;
    bool last = (x->header.prefix.flags & TCP_LAST) != 0;
    bool bye = (x->header.prefix.flags & TCP_BYE) != 0;
    if (!b->offset) {
        const struct choir_transport_host *h = e->t->host;
        e->begin_where = b->frame.bytes && atomic_load(&e->state) == EP_UP
                             ? h->place(h->context, atomic_load(&e->cookie), &b->frame)
                             : NULL;
    }
    x->where = e->begin_where ? e->begin_where + b->offset : NULL;
    *order_at(e, b->seq) = (struct tcp_order){b->frame, e->begin_where, false, last, bye};
    if (!b->offset && !last)
        e->begin_frame = b->frame;
    e->begin_offset = last ? 0 : b->offset + x->header.prefix.bytes;
    e->begin++;
    x->begun = true;
    x->done = 0;
    x->state = RX_PAYLOAD;
    if (!x->header.prefix.bytes)
        finish(s);
    return 1;
}

static size_t header_bytes(const struct tcp_prefix *p)
{
    size_t n = p->type == TCP_ACK ? sizeof(struct tcp_prefix) : sizeof(struct tcp_header);
    return n + (p->flags & TCP_SEALED ? TCP_TAG : 0);
}

static bool prefix_valid(const struct tcp_slot *s, const struct tcp_prefix *p)
{
    bool known = p->type == TCP_CHUNK || (p->type == TCP_ACK && !p->bytes);
    return known && !p->zero && !(p->flags & ~(TCP_LAST | TCP_WANT | TCP_SEALED | TCP_BYE)) &&
           p->bytes <= CHOIR_FRAME_MOST && (!s->seal_all || p->flags & TCP_SEALED);
}

/* A whole header lies in `hold`. */
static bool header_done(struct tcp_slot *s)
{
    struct tcp_rx *x = &s->rx;
    struct tcp_header h;
    size_t plain = x->hold[0] == TCP_ACK ? 0 : sizeof(h.body);
    memcpy(&h.prefix, x->hold, sizeof(h.prefix));
    if (!(h.prefix.flags & TCP_SEALED))
        memcpy(&h.body, x->hold + sizeof(h.prefix), plain);
    else if (!tcp_unseal(s->keys, &h.body, x->hold + sizeof(h.prefix), plain, &h.prefix,
                         sizeof(h.prefix)))
        return false;
    x->have = 0;
    if (!tcp_send_acked(s, h.prefix.ack))
        return false;
    if (h.prefix.type == TCP_ACK) {
        x->want |= (h.prefix.flags & TCP_WANT) != 0;
        return true;
    }
    if (x->begun) { /* the chunk that the last connection broke off comes again, whole */
        bool same = !memcmp(&h.body, &x->header.body, sizeof(h.body)) &&
                    h.prefix.bytes == x->header.prefix.bytes;
        x->header = h;
        x->done = 0;
        x->state = RX_PAYLOAD;
        return same;
    }
    x->header = h;
    x->state = RX_STALLED;
    return begin(s) >= 0;
}

/* Takes bytes into the header; returns how many, or -1. */
static ssize_t take_header(struct tcp_slot *s, const char *p, size_t n)
{
    struct tcp_rx *x = &s->rx;
    size_t taken = 0;
    for (;;) {
        struct tcp_prefix prefix;
        size_t need = sizeof(prefix);
        if (x->have >= need) {
            memcpy(&prefix, x->hold, sizeof(prefix));
            if (!prefix_valid(s, &prefix))
                return -1;
            need = header_bytes(&prefix);
        }
        if (x->have == need)
            return header_done(s) ? (ssize_t)taken : -1;
        size_t k = base_min(need - x->have, n - taken);
        memcpy(x->hold + x->have, p + taken, k);
        x->have += (uint32_t)k;
        taken += k;
        if (x->have < need)
            return (ssize_t)taken;
    }
}

/* --- payloads -------------------------------------------------------------------------------------------- */
static uint32_t piece_bytes(const struct tcp_rx *x)
{
    return base_min(x->header.prefix.bytes - x->done, (uint32_t)TCP_SEGMENT);
}

/* n more bytes of the payload lie in place (or, sealed, in the seal buffer). */
static bool payload_came(struct tcp_slot *s, size_t n)
{
    struct tcp_rx *x = &s->rx;
    if (x->header.prefix.flags & TCP_SEALED) {
        uint32_t piece = piece_bytes(x);
        x->seal_have += (uint32_t)n;
        if (x->seal_have < piece + TCP_TAG)
            return true;
        if (!tcp_unseal(s->keys, x->where ? x->where + x->done : s->e->t->sink, x->seal, piece,
                        NULL, 0))
            return false;
        x->seal_have = 0;
        n = piece;
    }
    x->done += (uint32_t)n;
    if (x->done == x->header.prefix.bytes)
        finish(s);
    return true;
}

/* Where the next bytes of the payload go. */
static char *payload_room(struct tcp_slot *s, size_t *room)
{
    struct tcp_rx *x = &s->rx;
    if (x->header.prefix.flags & TCP_SEALED) {
        if (!x->seal && !(x->seal = malloc(TCP_SEGMENT + TCP_TAG)))
            return NULL;
        *room = piece_bytes(x) + TCP_TAG - x->seal_have;
        return (char *)x->seal + x->seal_have;
    }
    *room = x->header.prefix.bytes - x->done;
    if (x->where)
        return x->where + x->done;
    *room = base_min(*room, (size_t)TCP_BUFFER);
    return s->e->t->sink;
}

static bool parse(struct tcp_slot *s, const char *p, size_t n)
{
    struct tcp_rx *x = &s->rx;
    while (n) {
        if (x->state == RX_HEADER) {
            ssize_t k = take_header(s, p, n);
            if (k < 0)
                return false;
            p += k, n -= (size_t)k;
        } else if (x->state == RX_PAYLOAD) {
            size_t room;
            char *to = payload_room(s, &room);
            size_t k = base_min(n, room);
            if (!to)
                return false;
            memcpy(to, p, k);
            p += k, n -= k;
            if (!payload_came(s, k))
                return false;
        } else {
            return false; /* with several slots nothing is read beyond a header (want_header) */
        }
    }
    return true;
}

/* --- system calls ------------------------------------------------------------------------------------------ */
/* How much to read where a header is expected. With several slots the chunk behind it may have to wait for
 * another slot, so no byte of it is taken out of the socket. */
static size_t want_header(const struct tcp_slot *s)
{
    const struct tcp_rx *x = &s->rx;
    struct tcp_prefix p;
    if (s->e->slot_count < 2)
        return base_max((size_t)x->ahead, sizeof(struct tcp_header));
    if (x->state != RX_HEADER || x->have < sizeof(p))
        return sizeof(struct tcp_header) - (x->state == RX_HEADER ? x->have : 0);
    memcpy(&p, x->hold, sizeof(p));
    return header_bytes(&p) - x->have;
}

/* One call. 1: more may be there, 0: drained, -1: the connection is at its end (errno 0: closed). */
static int receive_once(struct tcp_slot *s, size_t *budget)
{
    struct tcp_rx *x = &s->rx;
    char *buffer = s->e->t->buffer;
    struct iovec v[2] = {{buffer, want_header(s)}, {buffer, 0}};
    size_t direct = 0;
    ssize_t n;
    errno = ENOMEM;
    if (x->state == RX_PAYLOAD) {
        v[1].iov_len = v[0].iov_len;
        if (!(v[0].iov_base = payload_room(s, &direct)))
            return -1;
        v[0].iov_len = direct;
        n = readv(s->source.fd, v, 2);
    } else {
        n = recv(s->source.fd, buffer, v[0].iov_len, MSG_DONTWAIT);
    }
    if (n <= 0) {
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        errno = n ? errno : 0;
        return -1;
    }
    size_t got = (size_t)n, in_place = base_min(got, direct);
    *budget -= base_min(got, *budget);
    bool valid = (!in_place || payload_came(s, in_place)) && parse(s, buffer, got - in_place);
    errno = EPROTO;
    return !valid ? -1 : got == v[0].iov_len + v[1].iov_len;
}

static void broke(struct tcp_slot *s, int sys_errno)
{
    struct choir_endpoint *e = s->e;
    if (sys_errno == EPROTO && ++e->errors >= ERRORS_MOST)
        tcp_endpoint_fail(e, CHOIR_ERR_PROTOCOL, 0, "the peer's stream makes no sense");
    else
        tcp_endpoint_lost(s, sys_errno);
}

/* --- acknowledgements ---------------------------------------------------------------------------------------- */
static void acknowledge(struct tcp_slot *s)
{
    struct tcp_rx *x = &s->rx;
    x->want = false, x->untold = 0;
    x->noted = atomic_load_explicit(&s->got, memory_order_relaxed);
    tcp_send_ack(s);
}

/* Not at once: the library's answer, or the next frame of ours, will carry it. The first progress() that finds nothing
 * new on the slot sends it alone; the eventfd calls the service thread if nobody comes. */
static void owe(struct tcp_slot *s, bool fresh)
{
    struct choir_transport *t = s->e->t;
    s->rx.fresh = fresh;
    if (s->rx.owed)
        return;
    s->rx.owed = true;
    s->next_owed = t->owed;
    t->owed = s;
    tcp_signal(t);
}

void tcp_receive_settle(struct choir_transport *t)
{
    struct tcp_slot **at = &t->owed, *s;
    while ((s = *at)) {
        bool wait = s->rx.fresh && s->rx.untold < ACK_BYTES && s->source.fd >= 0;
        s->rx.fresh = false;
        if (wait) {
            at = &s->next_owed;
            continue;
        }
        *at = s->next_owed;
        s->rx.owed = false;
        if (s->source.fd >= 0)
            acknowledge(s);
    }
}

static uint32_t receive(struct tcp_slot *s)
{
    struct choir_endpoint *e = s->e;
    struct tcp_rx *x = &s->rx;
    size_t budget = TURN_MOST;
    uint32_t events = 0;
    int more = 1;
    while (more > 0 && budget) {
        if (x->state == RX_STALLED) {
            more = begin(s);
            errno = EPROTO;
        }
        size_t before = budget;
        if (more > 0)
            more = receive_once(s, &budget);
        events += budget != before;
    }
    int keep = errno;
    if (x->want || x->untold >= ACK_BYTES ||
        atomic_load_explicit(&s->got, memory_order_relaxed) - x->noted >= ACK_CHUNKS)
        owe(s, budget != TURN_MOST);
    if (e->bye && atomic_load(&e->state) == EP_UP) {
        char who[33];
        tcp_process_text(&e->peer, who);
        acknowledge(s);
        tcp_endpoint_fail(e, CHOIR_ERR_PEER_DEAD, 0, "process %s has left", who);
    } else if (more < 0) {
        broke(s, keep);
    }
    return events;
}

uint32_t tcp_receive_slot(struct tcp_slot *s)
{
    struct choir_endpoint *e = s->e;
    uint64_t before = e->begin + e->deliver;
    uint32_t events = receive(s);
    for (uint32_t i = 0; i < e->slot_count && e->begin + e->deliver != before; i++) {
        struct tcp_slot *o = e->slot[i];
        if (o->rx.state != RX_STALLED || o->source.fd < 0 || o->rx.header.body.seq > e->begin)
            continue;
        before = e->begin + e->deliver;
        events += receive(o);
        i = UINT32_MAX; /* look at all again: what has begun may let others begin */
    }
    return events;
}

void tcp_receive_cut(struct tcp_slot *s)
{
    struct tcp_rx *x = &s->rx;
    x->have = x->seal_have = x->done = 0;
    x->want = false;
    x->state = RX_HEADER;
}

void tcp_receive_discard(struct choir_endpoint *e)
{
    e->begin_where = NULL;
    for (uint32_t i = 0; i < e->slot_count; i++)
        e->slot[i]->rx.where = NULL;
    for (uint64_t n = e->deliver; n < e->begin; n++)
        order_at(e, n)->where = NULL;
}
