/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conn.c: a connection until it belongs to a slot: accepting, the four handshake messages, time limits. Everything
 * that comes in is hostile until its proof was checked: fixed sizes, a bounded number, five seconds each.
 */
#include "transports/tcp/tcp.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct tcp_conn *conn_make(struct choir_transport *t, int fd, uint32_t interest)
{
    struct tcp_conn *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->source = (struct tcp_source){TCP_CONN, fd, 0};
    c->t = t;
    c->since_ns = base_now_ns();
    if (!tcp_watch(t, &c->source, interest)) {
        free(c);
        return NULL;
    }
    c->next = t->conn;
    if (c->next)
        c->next->prev = c;
    t->conn = c;
    tcp_timed(t);
    return c;
}

struct tcp_conn *tcp_conn_out(struct choir_endpoint *e, const struct tcp_pair *p, bool extra,
                              int fd)
{
    struct tcp_conn *c = conn_make(e->t, fd, EPOLLOUT);
    if (!c)
        return NULL;
    c->e = e, c->pair = *p, c->extra = extra;
    c->state = CONN_SYN;
    return c;
}

/* Frees at the end of this progress(): events for it may still be in the caller's hands. */
void tcp_conn_drop(struct tcp_conn *c)
{
    struct choir_transport *t = c->t;
    if (c->state == CONN_DEAD)
        return;
    if (c->state == CONN_READY && c->e && c->slot < c->e->slot_count)
        c->e->slot[c->slot]->claimed = false;
    if (c->source.fd >= 0)
        tcp_unwatch(t, &c->source);
    if (c->inbound)
        t->half_open--;
    else if (c->e)
        c->e->dial.live--;
    c->state = CONN_DEAD;
    tcp_keys_free(c->keys);
    c->keys = NULL;
    if (c->prev)
        c->prev->next = c->next;
    else
        t->conn = c->next;
    if (c->next)
        c->next->prev = c->prev;
    c->prev = NULL;
    c->next = t->trash;
    t->trash = c;
}

static void refuse(struct tcp_conn *c, const char *why)
{
    char from[64];
    tcp_net_peer_text(c->source.fd, from, sizeof(from));
    tcp_log(c->t, BASE_WARN, "tcp dropped a connection from %s: %s", from, why);
    tcp_conn_drop(c);
}

/* A handshake message fits any empty send buffer; one that does not go out whole ends the attempt. */
static bool say(struct tcp_conn *c, const void *message, size_t bytes)
{
    return send(c->source.fd, message, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)bytes;
}

/* --- the accepting side ------------------------------------------------------------------------------ */
void tcp_conn_accept(struct choir_transport *t)
{
    for (int i = 0; i < 64; i++) {
        if (t->half_open >= TCP_HALF_OPEN) { /* the rest waits in the kernel's backlog */
            tcp_watch(t, &t->listener, 0);
            t->accepting = false;
            return;
        }
        int fd = accept4(t->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        struct tcp_conn *c = tcp_net_allowed(fd, &t->filter) ? conn_make(t, fd, EPOLLIN) : NULL;
        if (!c) {
            close(fd);
            continue;
        }
        tcp_net_tune(fd);
        c->inbound = true;
        c->state = CONN_HELLO;
        t->half_open++;
    }
}

/* The secret that the dialer named; without one only processes of this host and user come in. */
static bool secret_for(struct tcp_conn *c, unsigned char secret[32])
{
    const struct choir_transport_host *h = c->t->host;
    unsigned char name[16];
    if (!sodium_is_zero(c->hello.secret_name, sizeof(c->hello.secret_name)))
        return h->secret(h->context, c->hello.secret_name, name, secret);
    bool known = h->secret(h->context, NULL, name, secret);
    sodium_memzero(secret, 32);
    return c->t->insecure || (!known && tcp_net_from_this_host(c->source.fd));
}

static void on_hello(struct tcp_conn *c)
{
    memcpy(&c->hello, c->in, sizeof(c->hello));
    if (c->hello.version != TCP_VERSION) {
        refuse(c, "it is of another version of choir");
        return;
    }
    struct tcp_challenge *q = &c->challenge;
    *q = (struct tcp_challenge){.magic = TCP_MAGIC, .version = TCP_VERSION};
    q->flags = (uint16_t)((crypto_aead_aes256gcm_is_available() ? TCP_CAN_AES : 0) |
                          (c->t->encrypt ? TCP_WANT_ENCRYPT : 0));
    randombytes_buf(q->nonce, sizeof(q->nonce));
    unsigned char secret[32];
    if (memcmp(&c->hello.to, &c->t->host->self, sizeof(c->hello.to)) ||
        !memcmp(&c->hello.from, &c->t->host->self, sizeof(c->hello.from)))
        q->verdict = TCP_NOT_ME;
    else if (!secret_for(c, secret))
        q->verdict = TCP_NO_SECRET;
    else
        c->keys = tcp_keys_derive(secret, &c->hello, q, false, &c->proofs);
    sodium_memzero(secret, sizeof(secret));
    bool said = say(c, q, sizeof(*q));
    if (q->verdict == TCP_NO_SECRET)
        refuse(c, "it names a secret that is not known here");
    else if (q->verdict || !c->keys || !said)
        tcp_conn_drop(c);
    else
        c->state = CONN_AUTH, c->have = 0;
}

/* Which endpoint this is for, after the proof. NULL: none any more. */
static struct choir_endpoint *endpoint_for(struct tcp_conn *c, const struct tcp_auth_body *b)
{
    struct choir_transport *t = c->t;
    struct choir_endpoint *e = tcp_endpoint_find(t, &c->hello.from);
    /* The peer began anew, and what is still under way in the old one may come; or ours never came about. */
    if (e && (e->peer_epoch ? e->peer_epoch != b->epoch : atomic_load(&e->state) == EP_FAILED)) {
        tcp_endpoint_unlist(e);
        e = NULL;
    }
    if (e)
        return (b->peer_epoch && b->peer_epoch != e->epoch) || atomic_load(&e->state) == EP_FAILED
                   ? NULL
                   : e;
    if (b->peer_epoch)
        return NULL;
    bool fresh;
    e = tcp_endpoint_make(t, &c->hello.from, NULL, &fresh);
    if (!e || !fresh)
        return e;
    void *none = NULL, *cookie = t->host->accepted(t->host->context, &c->hello.from, e);
    if (atomic_compare_exchange_strong(&e->cookie, &none, cookie) && !cookie) {
        tcp_endpoint_close(e); /* the library does not want it */
        return NULL;
    }
    return e; /* with a cookie: a connect() came in between, or the library's answer */
}

/* Both sides dial the same slot: the smaller process id's connection stays. */
static bool yields(struct tcp_conn *c, struct choir_endpoint *e, uint32_t slot)
{
    bool smaller = memcmp(&c->t->host->self, &e->peer, sizeof(e->peer)) < 0;
    for (struct tcp_conn *o = c->t->conn, *next; o; o = next) {
        next = o->next;
        if (o->inbound || o->e != e || o->state != CONN_READY || o->slot != slot)
            continue;
        if (smaller)
            return false;
        tcp_conn_drop(o);
    }
    return true;
}

/* Its dialer has dropped it since: for ours, when both dialed, which may be joined already. It must not take that one's place. */
static bool is_dropped(const struct tcp_conn *c)
{
    char none;
    return !recv(c->source.fd, &none, 1, MSG_DONTWAIT | MSG_PEEK);
}

static void on_auth(struct tcp_conn *c)
{
    struct tcp_auth *m = (struct tcp_auth *)c->in;
    struct tcp_auth_body b;
    if (sodium_memcmp(m->proof, c->proofs.dialer, sizeof(m->proof)) ||
        !tcp_unseal(c->keys, &b, m->sealed, sizeof(b), NULL, 0)) {
        refuse(c, "its proof of the shared secret is wrong");
        return;
    }
    if (is_dropped(c)) {
        tcp_conn_drop(c);
        return;
    }
    struct tcp_ready r;
    struct tcp_ready_body ready = {.verdict = TCP_YES};
    struct choir_endpoint *e = NULL;
    if (b.slot >= TCP_SLOTS_MOST || b.address_bytes > sizeof(b.address))
        ready.verdict = TCP_GONE;
    else if (!(e = endpoint_for(c, &b)) || !tcp_endpoint_slots(e, b.slot + 1))
        ready.verdict = TCP_GONE;
    else if (!yields(c, e, b.slot))
        ready.verdict = TCP_BUSY;
    if (ready.verdict == TCP_YES) {
        ready.epoch = e->epoch;
        ready.received = atomic_load(&e->slot[b.slot]->got);
    }
    memcpy(r.proof, c->proofs.acceptor, sizeof(r.proof));
    tcp_seal(c->keys, r.sealed, &ready, sizeof(ready), NULL, 0);
    if (!say(c, &r, sizeof(r)) || ready.verdict != TCP_YES) {
        tcp_conn_drop(c);
        return;
    }
    if (!e->peer_epoch)
        e->peer_epoch = b.epoch;
    struct tcp_address a;
    if (tcp_net_address_read(&a, b.address, b.address_bytes))
        e->address = a;
    c->slot = b.slot;
    tcp_endpoint_install(e, c, b.received);
}

/* --- the dialing side -------------------------------------------------------------------------------- */
static void secret_pick(struct choir_endpoint *e, unsigned char name[16], unsigned char secret[32])
{
    const struct choir_transport_host *h = e->t->host;
    unsigned char again[16];
    /* The name in the peer's address first, our newest one in every other round. */
    if (!sodium_is_zero(e->secret_name, 16) && (e->peer_epoch || e->dial.round % 2) &&
        h->secret(h->context, e->secret_name, again, secret)) {
        memcpy(name, e->secret_name, 16);
        return;
    }
    if (h->secret(h->context, NULL, name, secret))
        return;
    memset(name, 0, 16);
    memset(secret, 0, 32);
}

static void on_connected(struct tcp_conn *c)
{
    int failed = 0;
    socklen_t bytes = sizeof(failed);
    if (getsockopt(c->source.fd, SOL_SOCKET, SO_ERROR, &failed, &bytes) || failed) {
        tcp_dial_missed(c, failed == ECONNREFUSED, failed, NULL);
        return;
    }
    struct choir_endpoint *e = c->e;
    struct tcp_hello *q = &c->hello;
    *q = (struct tcp_hello){.magic = TCP_MAGIC, .version = TCP_VERSION};
    q->flags = (uint16_t)((crypto_aead_aes256gcm_is_available() ? TCP_CAN_AES : 0) |
                          (c->t->encrypt ? TCP_WANT_ENCRYPT : 0) |
                          (e->same_host && c->pair.rank == 0 ? TCP_SAME_HOST : 0));
    q->from = c->t->host->self, q->to = e->peer;
    randombytes_buf(q->nonce, sizeof(q->nonce));
    unsigned char secret[32]; /* kept as keys only once the challenge is there */
    secret_pick(e, q->secret_name, secret);
    sodium_memzero(secret, sizeof(secret));
    c->since_ns = e->dial.since_ns =
        base_now_ns(); /* its kernel answers: stopped perhaps, not gone */
    c->state = CONN_CHALLENGE;
    if (!say(c, q, sizeof(*q)) || !tcp_watch(c->t, &c->source, EPOLLIN))
        tcp_dial_missed(c, false, errno, NULL);
}

static void on_challenge(struct tcp_conn *c)
{
    memcpy(&c->challenge, c->in, sizeof(c->challenge));
    const struct choir_transport_host *h = c->t->host;
    if (c->challenge.magic != TCP_MAGIC || c->challenge.version != TCP_VERSION ||
        c->challenge.verdict == TCP_NOT_ME) {
        tcp_dial_missed(c, true, 0, "another program listens there");
        return;
    }
    unsigned char secret[32] = {0}, name[16];
    if (c->challenge.verdict || (!sodium_is_zero(c->hello.secret_name, 16) &&
                                 !h->secret(h->context, c->hello.secret_name, name, secret))) {
        tcp_dial_missed(c, false, EACCES, "the peer does not know this process's secret");
        return;
    }
    c->keys = tcp_keys_derive(secret, &c->hello, &c->challenge, true, &c->proofs);
    sodium_memzero(secret, sizeof(secret));
    if (!c->keys) {
        tcp_dial_missed(c, false, ENOMEM, NULL);
        return;
    }
    c->rtt_ns = base_now_ns() - c->since_ns;
    c->have = 0;
    c->state = CONN_HELD;
    tcp_dial_held(c);
}

void tcp_conn_auth(struct tcp_conn *c, uint32_t slot)
{
    struct choir_endpoint *e = c->e;
    struct tcp_auth m;
    struct tcp_auth_body b = {.epoch = e->epoch, .peer_epoch = e->peer_epoch, .slot = slot};
    size_t bytes = sizeof(b.address);
    b.received = atomic_load(&e->slot[slot]->got);
    tcp_address_of(c->t, b.address, &bytes);
    b.address_bytes = (uint32_t)bytes;
    memcpy(m.proof, c->proofs.dialer, sizeof(m.proof));
    tcp_seal(c->keys, m.sealed, &b, sizeof(b), NULL, 0);
    c->slot = slot;
    c->since_ns = base_now_ns();
    c->state = CONN_READY;
    e->slot[slot]->claimed = true;
    if (!say(c, &m, sizeof(m)))
        tcp_dial_missed(c, false, errno, NULL);
}

static void on_ready(struct tcp_conn *c)
{
    struct choir_endpoint *e = c->e;
    struct tcp_ready *m = (struct tcp_ready *)c->in;
    struct tcp_ready_body b;
    if (sodium_memcmp(m->proof, c->proofs.acceptor, sizeof(m->proof)) ||
        !tcp_unseal(c->keys, &b, m->sealed, sizeof(b), NULL, 0)) {
        tcp_dial_missed(c, false, EACCES, "the peer's proof of the shared secret is wrong");
    } else if (b.verdict == TCP_GONE ||
               (b.verdict == TCP_YES && e->peer_epoch && e->peer_epoch != b.epoch)) {
        tcp_conn_drop(c);
        tcp_endpoint_fail(e, CHOIR_ERR_PEER_DEAD, 0, "the peer has closed this connection");
    } else if (b.verdict != TCP_YES) {
        tcp_dial_missed(c, false, 0, "the peer is connecting itself");
    } else {
        if (!e->peer_epoch)
            e->peer_epoch = b.epoch, e->dialer = true;
        tcp_endpoint_install(e, c, b.received);
    }
}

/* --- events ------------------------------------------------------------------------------------------- */
static size_t expected(const struct tcp_conn *c)
{
    switch (c->state) {
    case CONN_HELLO:
        return sizeof(struct tcp_hello);
    case CONN_CHALLENGE:
        return sizeof(struct tcp_challenge);
    case CONN_AUTH:
        return sizeof(struct tcp_auth);
    case CONN_READY:
        return sizeof(struct tcp_ready);
    default:
        return 0;
    }
}

static void ended(struct tcp_conn *c, int sys_errno)
{
    if (!c->inbound)
        tcp_dial_missed(c, false, sys_errno, sys_errno ? NULL : "closed during the handshake");
    else if (c->have)
        refuse(c, "it ended in the middle of the handshake");
    else
        tcp_conn_drop(c);
}

void tcp_conn_event(struct tcp_conn *c, uint32_t events)
{
    if (c->state == CONN_SYN) {
        on_connected(c);
        return;
    }
    size_t need = expected(c);
    char none;
    ssize_t n = recv(c->source.fd, need ? (void *)(c->in + c->have) : &none,
                     need ? need - c->have : 1, MSG_DONTWAIT | (need ? 0 : MSG_PEEK));
    if (n < 0 && (errno == EAGAIN || errno == EINTR) && !(events & (EPOLLERR | EPOLLHUP)))
        return;
    if (n <= 0) {
        ended(c, n ? errno : 0);
        return;
    }
    c->have += need ? (uint32_t)n : 0;
    static const uint32_t magic = TCP_MAGIC;
    if (c->state == CONN_HELLO && memcmp(c->in, &magic, base_min((size_t)c->have, sizeof(magic)))) {
        refuse(c, "it does not speak choir");
        return;
    }
    if (c->have < need)
        return;
    if (c->state == CONN_HELLO)
        on_hello(c);
    else if (c->state == CONN_AUTH)
        on_auth(c);
    else if (c->state == CONN_CHALLENGE)
        on_challenge(c);
    else if (c->state == CONN_READY)
        on_ready(c);
    else
        ended(c, 0); /* HELD: the acceptor has nothing to say */
}

/* Time limits. A full house shortens them, so that connections that say nothing cannot keep others out. */
static bool expired(const struct tcp_conn *c, uint64_t now)
{
    uint64_t age = now > c->since_ns ? now - c->since_ns : 0;
    if (c->inbound)
        return age > (c->t->half_open < TCP_HALF_OPEN ? TCP_HANDSHAKE_NS : TCP_HANDSHAKE_NS / 10);
    return age > (c->state == CONN_SYN ? TCP_SYN_NS : TCP_HANDSHAKE_NS);
}

void tcp_conn_tick(struct choir_transport *t, uint64_t now)
{
    for (struct tcp_conn *c = t->conn, *next; c; c = next) {
        next = c->next;
        bool late = expired(c, now);
        if (c->inbound && late) {
            refuse(c, "it did not finish the handshake in time");
        } else if (!c->inbound && (late || c->state == CONN_HELD)) {
            if (c->state == CONN_HELD)
                tcp_dial_held(c);
            else
                tcp_dial_missed(c, false, ETIMEDOUT, NULL);
            if (c->state != CONN_HELD)
                next = t->conn; /* others may have gone with it */
        }
    }
    if (!t->accepting && t->half_open < TCP_HALF_OPEN) {
        t->accepting = true;
        tcp_watch(t, &t->listener, EPOLLIN);
    }
}
