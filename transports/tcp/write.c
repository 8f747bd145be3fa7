/* SPDX-License-Identifier: Apache-2.0 */
/*
 * write.c: a slot's sending half: chunks out of the queue, records out of chunks, bytes into the socket. Called by the
 * thread that owns the endpoint; takes e->lock only while it reads or changes the queue.
 */
#include "transports/tcp/tcp.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define VECTORS 32
#define RECORDS 32        /* in one system call */
#define FLAT_PAYLOAD 1024 /* payloads up to here are put behind their header */
#define FLAT (RECORDS * 96 + 6 * FLAT_PAYLOAD)
#define WRITE_MOST (1 << 20) /* bytes of one system call */
#define TURN_MOST (4 << 20)  /* bytes of one turn; then it is progress()'s */
#define WANT_EVERY (256 << 10)
#define FLAT_ROOM (sizeof(struct tcp_header) + FLAT_PAYLOAD + 16)
#define SEAL_ROOM (TCP_HEADER_MOST + TCP_SEGMENT + 4096)

/* What one system call writes. Headers lie in `flat`, small payloads right behind theirs, so that small frames are
 * one vector. */
struct batch {
    struct iovec v[VECTORS];
    size_t bytes;
    int vectors;
    uint32_t flat_bytes, header_count;
    uint16_t header_at[RECORDS]; /* in flat */
    uint64_t got;
    bool zerocopy; /* one payload, its pages read in place */
    bool before;   /* the next call writes such a one */
    bool missed;   /* the kernel would not, and has copied */
    _Alignas(16) char flat[FLAT];
};

static struct tcp_item *item_of(struct tcp_slot *s, uint64_t record)
{
    struct choir_endpoint *e = s->e;
    return &e->item[s->tx.record[record % TCP_WINDOW].item & (e->item_room - 1)];
}

static bool sealed(struct tcp_slot *s, uint64_t record)
{
    return s->seal_all || (s->seal_control && item_of(s, record)->frame.kind < CHOIR_FRAME_DATA);
}

/* Deals the next chunk of the queue to this slot. With one slot the acknowledgement of lent chunks is asked for only at the end
 * of the queue and now and then; with several the end of the queue may go another way, so always. */
static bool take(struct tcp_slot *s)
{
    struct choir_endpoint *e = s->e;
    struct tcp_tx *x = &s->tx;
    if (e->item_next == e->item_tail || x->end - x->acked == TCP_WINDOW)
        return false;
    struct tcp_item *i = &e->item[e->item_next & (e->item_room - 1)];
    bool several = e->slot_count > 1;
    struct tcp_record *r = &x->record[x->end++ % TCP_WINDOW];
    uint32_t rest = i->frame.bytes - i->taken;
    *r = (struct tcp_record){.item = e->item_next, .seq = e->seq++, .offset = i->taken};
    r->bytes = several ? base_min(rest, (uint32_t)TCP_CUT) : rest;
    i->taken += r->bytes;
    i->open++;
    if (r->bytes == rest) {
        i->dealt = 1;
        e->item_next++;
        r->flags |= TCP_LAST;
    }
    x->lent_bytes += tcp_send_lends(i) || (several && i->request) ? r->bytes : 0;
    bool ask =
        x->lent_bytes && (several || x->lent_bytes >= WANT_EVERY || e->item_next == e->item_tail);
    if (ask || i->bye)
        r->flags |= TCP_WANT, x->lent_bytes = 0;
    if (i->bye)
        r->flags |= TCP_BYE;
    return true;
}

static void header_make(struct tcp_slot *s, uint64_t record, uint64_t got, struct tcp_header *h)
{
    const struct tcp_record *r = &s->tx.record[record % TCP_WINDOW];
    h->prefix = (struct tcp_prefix){TCP_CHUNK, r->flags, 0, r->bytes, got};
    h->body.seq = r->seq;
    h->body.offset = r->offset;
    h->body.zero = 0;
    h->body.frame = item_of(s, record)->frame;
}

static void add(struct batch *b, const void *data, size_t bytes)
{
    if (!bytes)
        return;
    struct iovec *last = &b->v[b->vectors - (b->vectors > 0)];
    if (b->vectors && (const char *)last->iov_base + last->iov_len == (const char *)data)
        last->iov_len += bytes;
    else
        b->v[b->vectors++] = (struct iovec){(void *)(uintptr_t)data, bytes};
    b->bytes += bytes;
}

static void add_payload(struct tcp_slot *s, struct batch *b, uint64_t record, uint32_t from)
{
    const struct tcp_record *r = &s->tx.record[record % TCP_WINDOW];
    add(b, item_of(s, record)->payload + r->offset + from,
        base_min((size_t)(r->bytes - from), (size_t)WRITE_MOST));
}

/* A payload whose pages are read in place goes in a call of its own: the headers lie in memory that is used again. */
static bool zerocopy(struct tcp_slot *s, uint64_t record, uint32_t from)
{
    return item_of(s, record)->request &&
           tcp_zerocopy_pays(s, s->tx.record[record % TCP_WINDOW].bytes - from);
}

static void add_record(struct tcp_slot *s, struct batch *b, uint64_t record)
{
    uint32_t bytes = s->tx.record[record % TCP_WINDOW].bytes;
    char *at = b->flat + b->flat_bytes;
    header_make(s, record, b->got, (struct tcp_header *)(void *)at);
    b->header_at[b->header_count++] = (uint16_t)b->flat_bytes;
    bool flat = bytes <= FLAT_PAYLOAD && b->flat_bytes + FLAT_ROOM <= FLAT;
    if (flat && bytes)
        memcpy(at + sizeof(struct tcp_header),
               item_of(s, record)->payload + s->tx.record[record % TCP_WINDOW].offset, bytes);
    uint32_t here = (uint32_t)sizeof(struct tcp_header) + (flat ? bytes : 0);
    add(b, at, here);
    b->flat_bytes += (here + 15) & ~15u;
    b->before = zerocopy(s, record, 0);
    if (!flat && !b->before)
        add_payload(s, b, record, 0);
}

static bool has_room(const struct tcp_slot *s, const struct batch *b)
{
    return !b->before && !b->zerocopy && b->vectors + 2 <= VECTORS && b->header_count < RECORDS &&
           b->flat_bytes + sizeof(struct tcp_header) <= FLAT &&
           b->bytes < (s->e->slot_count > 1 ? TCP_CUT : WRITE_MOST);
}

static struct tcp_prefix ack_make(struct tcp_slot *s, uint64_t got)
{
    uint8_t flags = s->tx.solicit ? TCP_WANT : 0;
    s->tx.ack_due = s->tx.solicit = false;
    s->tx.told = got;
    return (struct tcp_prefix){TCP_ACK, flags, 0, 0, got};
}

/* What can go out in one call, in plain: the rest of what was cut off, then records. */
static void gather(struct tcp_slot *s, struct batch *b)
{
    struct tcp_tx *x = &s->tx;
    uint64_t r = x->next;
    add(b, x->pend + x->pend_at, x->pend_bytes - x->pend_at);
    if (x->header_done) {
        bool in_place = zerocopy(s, r, x->payload_done);
        b->before = in_place && b->vectors;
        b->zerocopy = in_place && !b->vectors;
        if (!b->before)
            add_payload(s, b, r++, x->payload_done);
    }
    while (has_room(s, b) && (r < x->end || take(s)) && !sealed(s, r))
        add_record(s, b, r++);
    if (!b->vectors && r == x->end && (x->ack_due || x->solicit)) {
        struct tcp_prefix p = ack_make(s, b->got);
        memcpy(x->pend, &p, sizeof(p));
        x->pend_at = 0, x->pend_bytes = sizeof(p);
        add(b, x->pend, sizeof(p));
    }
}

/* n bytes of the batch are out. */
static void account(struct tcp_slot *s, const struct batch *b, size_t n)
{
    struct tcp_tx *x = &s->tx;
    uint32_t h = 0;
    size_t k = base_min(n, (size_t)(x->pend_bytes - x->pend_at));
    x->pend_at += (uint32_t)k, n -= k;
    while (x->pend_at == x->pend_bytes) {
        const struct tcp_record *r = &x->record[x->next % TCP_WINDOW];
        if (x->header_done) {
            k = base_min(n, (size_t)(r->bytes - x->payload_done));
            x->payload_done += (uint32_t)k, n -= k;
            if (x->payload_done < r->bytes)
                break;
            x->next++;
            x->header_done = false, x->payload_done = 0;
        } else {
            if (!n || h == b->header_count)
                break;
            k = base_min(n, sizeof(struct tcp_header));
            x->pend_bytes = (uint32_t)(sizeof(struct tcp_header) - k), x->pend_at = 0;
            memcpy(x->pend, b->flat + b->header_at[h++] + k, x->pend_bytes);
            x->header_done = true, n -= k;
            x->told = b->got;
            x->ack_due &= b->got != atomic_load_explicit(&s->got, memory_order_relaxed);
        }
    }
}

/* --- sealed records ---------------------------------------------------------------------------------------- */
static void seal_header(struct tcp_slot *s, uint64_t record)
{
    struct tcp_tx *x = &s->tx;
    struct tcp_header h;
    tcp_acquire(&s->e->lock);
    uint64_t got = atomic_load_explicit(&s->got, memory_order_relaxed);
    header_make(s, record, got, &h);
    x->told = got;
    x->ack_due = false;
    tcp_release(&s->e->lock);
    h.prefix.flags |= TCP_SEALED;
    memcpy(x->seal + x->seal_bytes, &h.prefix, sizeof(h.prefix));
    x->seal_bytes += (uint32_t)sizeof(h.prefix);
    tcp_seal(s->keys, x->seal + x->seal_bytes, &h.body, sizeof(h.body), &h.prefix,
             sizeof(h.prefix));
    x->seal_bytes += (uint32_t)sizeof(h.body) + TCP_TAG;
    x->seal_header = true;
}

static bool seal_next(struct tcp_slot *s, uint64_t *record, const char **payload, uint32_t *bytes)
{
    struct tcp_tx *x = &s->tx;
    *record = x->next + x->seal_whole;
    tcp_acquire(&s->e->lock);
    bool any = (*record < x->end || take(s)) && sealed(s, *record);
    if (any) {
        const struct tcp_record *r = &x->record[*record % TCP_WINDOW];
        *payload = r->bytes ? item_of(s, *record)->payload + r->offset : NULL;
        *bytes = r->bytes;
    }
    tcp_release(&s->e->lock);
    return any;
}

/* Fills the empty seal buffer with as many pieces as fit. Encrypts without the lock: a record that is not written
 * whole stays where it is. */
static void seal_fill(struct tcp_slot *s)
{
    struct tcp_tx *x = &s->tx;
    uint64_t record;
    const char *payload;
    uint32_t bytes;
    while (seal_next(s, &record, &payload, &bytes)) {
        if (!x->seal_header) {
            if (x->seal_bytes + TCP_HEADER_MOST > SEAL_ROOM)
                return;
            seal_header(s, record);
        }
        uint32_t piece = base_min(bytes - x->seal_payload, (uint32_t)TCP_SEGMENT);
        if (piece) {
            if (x->seal_bytes + piece + TCP_TAG > SEAL_ROOM)
                return;
            tcp_seal(s->keys, x->seal + x->seal_bytes, payload + x->seal_payload, piece, NULL, 0);
            x->seal_bytes += piece + TCP_TAG;
            x->seal_payload += piece;
        }
        if (x->seal_payload == bytes) {
            x->seal_whole++;
            x->seal_payload = 0;
            x->seal_header = false;
        }
    }
    if (!x->seal_bytes && s->seal_all && (x->ack_due || x->solicit)) {
        struct tcp_prefix p;
        tcp_acquire(&s->e->lock);
        p = ack_make(s, atomic_load_explicit(&s->got, memory_order_relaxed));
        tcp_release(&s->e->lock);
        p.flags |= TCP_SEALED;
        memcpy(x->seal, &p, sizeof(p));
        tcp_seal(s->keys, x->seal + sizeof(p), "", 0, &p, sizeof(p));
        x->seal_bytes = sizeof(p) + TCP_TAG;
    }
}

static void seal_gather(struct tcp_slot *s, struct batch *b)
{
    struct tcp_tx *x = &s->tx;
    if (!x->seal && !(x->seal = malloc(SEAL_ROOM))) {
        x->broken = true;
        return;
    }
    if (x->seal_at == x->seal_bytes) {
        x->seal_at = x->seal_bytes = 0;
        seal_fill(s);
    }
    add(b, x->seal + x->seal_at, x->seal_bytes - x->seal_at);
}

static void seal_account(struct tcp_slot *s, size_t n)
{
    struct tcp_tx *x = &s->tx;
    x->seal_at += (uint32_t)n;
    if (x->seal_at == x->seal_bytes) {
        x->next += x->seal_whole;
        x->seal_whole = 0;
    }
}

/* --- blocked slots ------------------------------------------------------------------------------------------- */
static void block(struct tcp_slot *s)
{
    if (!s->tx.blocked)
        atomic_fetch_add_explicit(&s->e->t->blocked, 1, memory_order_relaxed);
    s->tx.blocked = true;
    if (!(s->source.interest & EPOLLOUT))
        tcp_watch(s->e->t, &s->source, EPOLLIN | EPOLLOUT);
}

void tcp_write_unblock(struct tcp_slot *s)
{
    if (s->tx.blocked)
        atomic_fetch_sub_explicit(&s->e->t->blocked, 1, memory_order_relaxed);
    s->tx.blocked = false;
}

void tcp_write_ready(struct tcp_slot *s)
{
    struct choir_endpoint *e = s->e;
    tcp_acquire(&e->lock);
    bool was = s->tx.blocked, mine = !was && !e->owned;
    tcp_write_unblock(s);
    if (mine)
        e->owned = true;
    tcp_release(&e->lock);
    if (mine) { /* nothing has been waiting for it: stop listening */
        tcp_watch(e->t, &s->source, EPOLLIN);
        tcp_endpoint_disown(e);
    }
    tcp_send_flush(e);
}

/* --- one turn of a slot --------------------------------------------------------------------------------------- */
static ssize_t put(int fd, struct batch *b)
{
    int flags = MSG_NOSIGNAL | MSG_DONTWAIT | (b->before ? MSG_MORE : 0);
    if (b->zerocopy) {
        ssize_t n = send(fd, b->v[0].iov_base, b->v[0].iov_len, flags | MSG_ZEROCOPY);
        b->missed = n < 0 && errno != EAGAIN && errno != EINTR;
        if (!b->missed)
            return n;
    }
    if (b->vectors == 1)
        return send(fd, b->v[0].iov_base, b->v[0].iov_len, flags);
    struct msghdr m = {.msg_iov = b->v, .msg_iovlen = (size_t)b->vectors};
    return sendmsg(fd, &m, flags);
}

/* false: nothing to write, found so without letting go of the lock. */
static bool fill(struct tcp_slot *s, struct batch *b, bool *seal)
{
    struct tcp_tx *x = &s->tx;
    if (x->blocked || x->broken || s->source.fd < 0)
        return false;
    b->bytes = 0, b->vectors = 0, b->flat_bytes = 0, b->header_count = 0;
    b->zerocopy = b->before = b->missed = false;
    b->got = atomic_load_explicit(&s->got, memory_order_relaxed);
    *seal = x->seal_at < x->seal_bytes ||
            (s->seal_all && (x->next < x->end || take(s) || x->ack_due || x->solicit));
    if (!*seal && !s->seal_all) {
        gather(s, b);
        *seal = !b->vectors && x->next < x->end;
    }
    return *seal || b->vectors;
}

bool tcp_write_slot(struct tcp_slot *s)
{
    struct choir_endpoint *e = s->e;
    struct batch b;
    bool seal, wrote = false;
    size_t here = 0;
    while (!(e->slot_count > 1 && here >= TCP_CUT / 4) && fill(s, &b, &seal)) {
        wrote = true;
        tcp_release(&e->lock);
        if (seal)
            seal_gather(s, &b);
        ssize_t n = b.vectors ? put(s->source.fd, &b) : 0;
        bool again = n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS);
        tcp_acquire(&e->lock);
        if (b.missed)
            tcp_zerocopy_missed(s);
        else if (b.zerocopy && n > 0)
            s->tx.record[s->tx.next % TCP_WINDOW].zerocopy = ++s->tx.zerocopy.sent;
        if (n > 0) {
            here += (size_t)n;
            e->written += (size_t)n;
            if (seal)
                seal_account(s, (size_t)n);
            else
                account(s, &b, (size_t)n);
        }
        if (s->tx.heard > s->tx.acked)
            tcp_send_retire(s);
        if (n < 0 && !again)
            s->tx.broken = true; /* progress() finds out why */
        else if (again || (size_t)n < b.bytes || e->written >= TURN_MOST)
            block(s);
    }
    if (here >= TCP_CUT / 4)
        e->turn = s->index + 1;
    return wrote;
}
