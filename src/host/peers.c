/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peers.c: the processes this one has reached, and handing arriving frames to communicators.
 *
 * A frame for a communicator that is not made here yet (a faster peer) is kept, bounded in number, bytes and time.
 * Locks: `lock` guards the tables only; no transport is called and no communicator entered under it, so an upcall from
 * within a transport can take it at any time. A communicator in use by an upcall is counted (users).
 */
#include "host/process.h"
#include <stdlib.h>
#include <string.h>

#define PEER_BUCKETS 1024
#define COMM_BUCKETS 1024
#define EARLY_FRAMES 4096
#define EARLY_BYTES (64u << 20)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct host_peer *peers[PEER_BUCKETS];
static struct host_comm *comms[COMM_BUCKETS];

static struct early {
    struct early *next;
    struct host_end *end;
    struct choir_frame frame;
    void *payload;
} * early, **early_last = &early;
static uint32_t early_count;
static uint64_t early_bytes;

struct host_peer *host_peer_find(const struct choir_process *id, bool create)
{
    struct host_peer **at = &peers[base_hash(id, sizeof(*id), 0) % PEER_BUCKETS], *p;
    pthread_mutex_lock(&lock);
    for (p = *at; p && memcmp(&p->id, id, sizeof(*id)); p = p->next)
        ;
    if (!p && create && (p = calloc(1, sizeof(*p)))) {
        p->id = *id;
        for (uint32_t i = 0; i < HOST_TRANSPORTS; i++)
            p->end[i].peer = p, p->end[i].transport = i;
        p->next = *at;
        *at = p;
    }
    pthread_mutex_unlock(&lock);
    return p;
}

static void set_best(struct host_peer *peer, struct host_end *end)
{
    struct host_end *none = NULL;
    atomic_compare_exchange_strong(&peer->best, &none, end);
}

/* Tries end `i` one step further. */
static enum host_end_state try_end(struct host_peer *peer, uint32_t i, const struct host_card *card)
{
    struct host_end *end = &peer->end[i];
    struct host_transport *t = &host_process.transport[i];
    uint32_t state = HOST_END_NONE;
    /* First, so that a connection accepted meanwhile gets an end of its own. */
    if (atomic_compare_exchange_strong(&end->state, &state, HOST_END_TRYING)) {
        size_t bytes = 0;
        const void *address = process_card_address(card, t->ops->name, &bytes);
        enum choir_status st = CHOIR_ERR_UNSUPPORTED;
        if (address)
            st = t->ops->connect(t->t, &peer->id, address, bytes, end, &end->endpoint);
        if (st != CHOIR_OK)
            atomic_store(&end->state, HOST_END_FAILED);
        state = atomic_load(&end->state);
    }
    if (state == HOST_END_TRYING) {
        enum choir_status st = t->ops->connected(end->endpoint);
        if (st == CHOIR_OK)
            atomic_store(&end->state, HOST_END_READY);
        else if (st != CHOIR_IN_PROGRESS) {
            base_log(BASE_INFO, -1, "transport %s does not reach the peer: %s", t->ops->name,
                     choir_status_string(st));
            atomic_store(&end->state, HOST_END_FAILED);
        }
        state = atomic_load(&end->state);
    }
    return (enum host_end_state)state;
}

bool host_peer_reach(struct host_peer *peer, const struct host_card *card)
{
    if (atomic_load_explicit(&peer->best, memory_order_acquire))
        return true;
    if (atomic_load(&peer->failed))
        return false;
    /* One thread at a time drives the attempt; others come again. */
    uint32_t idle = 0;
    if (!atomic_compare_exchange_strong(&peer->trying, &idle, 1))
        return false;
    bool going = false;
    for (uint32_t i = 0; i < host_process.transports && !going; i++) {
        enum host_end_state st = try_end(peer, i, card);
        if (st == HOST_END_READY)
            set_best(peer, &peer->end[i]);
        going = st == HOST_END_TRYING || st == HOST_END_READY;
    }
    if (!going && !atomic_load(&peer->best))
        atomic_store(&peer->failed, CHOIR_ERR_NETWORK);
    atomic_store(&peer->trying, 0);
    return atomic_load(&peer->best) != NULL;
}

void *process_accepted(void *context, const struct choir_process *id,
                       struct choir_endpoint *endpoint)
{
    uint32_t i = (uint32_t)(uintptr_t)context;
    struct host_peer *peer = host_peer_find(id, true);
    if (!peer)
        return NULL;
    uint32_t none = HOST_END_NONE;
    struct host_end *end = &peer->end[i];
    if (!atomic_compare_exchange_strong(&end->state, &none, HOST_END_TRYING)) {
        /* Crossing connects that became two endpoints: this one is for its own frames and answers. */
        end = calloc(1, sizeof(*end));
        if (!end)
            return NULL;
        end->peer = peer, end->transport = i;
        pthread_mutex_lock(&lock);
        end->next = peer->extra;
        peer->extra = end;
        pthread_mutex_unlock(&lock);
    }
    end->endpoint = endpoint;
    atomic_store(&end->state, HOST_END_READY);
    set_best(peer, end);
    return end;
}

/* The communicator for a frame, counted as used; release with put_comm. Under the lock. */
static struct host_comm *find_comm(uint64_t key, uint32_t rank)
{
    struct host_comm *c;
    for (c = comms[key % COMM_BUCKETS]; c && (c->key != key || c->rank != rank); c = c->next)
        ;
    if (c)
        atomic_fetch_add(&c->users, 1);
    return c;
}

static struct host_comm *get_comm(uint64_t key, uint32_t rank)
{
    pthread_mutex_lock(&lock);
    struct host_comm *c = find_comm(key, rank);
    pthread_mutex_unlock(&lock);
    return c;
}

static void put_comm(struct host_comm *c)
{
    atomic_fetch_sub(&c->users, 1);
}

void *process_place(void *context, void *cookie, const struct choir_frame *frame)
{
    (void)context, (void)cookie;
    if (frame->kind < CHOIR_FRAME_DATA)
        return malloc(frame->bytes ? frame->bytes : 1);
    struct host_comm *c = get_comm(frame->comm, frame->to);
    if (!c)
        return NULL;
    void *where = host_link_place(c, frame);
    put_comm(c);
    return where;
}

/* The oldest goes when there are too many: a frame of a communicator that was destroyed, most likely. Under the lock. */
static void drop_early(uint32_t bytes)
{
    while (early && (early_count >= EARLY_FRAMES || early_bytes + bytes > EARLY_BYTES)) {
        struct early *old = early;
        early = old->next;
        if (!early)
            early_last = &early;
        early_count--, early_bytes -= old->frame.bytes;
        free(old->payload);
        free(old);
    }
}

static void deliver(struct host_comm *c, struct host_end *end, const struct choir_frame *frame,
                    void *where)
{
    if (frame->kind == HOST_FRAME_FRAGMENT || frame->kind == HOST_FRAME_CONSUMED) {
        host_link_arrived(c, frame, where);
    } else if (frame->kind < HOST_FRAME_COMM) {
        host_link_frame(c, end, frame);
        free(where);
    } else {
        c->control(c, frame, where);
    }
}

void process_arrived(void *context, void *cookie, const struct choir_frame *frame, void *where)
{
    (void)context;
    bool data = frame->kind >= CHOIR_FRAME_DATA;
    struct early *e = NULL;
    pthread_mutex_lock(&lock);
    struct host_comm *c = find_comm(frame->comm, frame->to);
    if (!c && !data &&
        (e = malloc(sizeof(*e)))) { /* under the same lock as the search: peers_add_comm finds it */
        *e = (struct early){.end = cookie, .frame = *frame, .payload = where};
        drop_early(frame->bytes);
        *early_last = e, early_last = &e->next;
        early_count++, early_bytes += frame->bytes;
    }
    pthread_mutex_unlock(&lock);
    if (c) {
        deliver(c, cookie, frame, where);
        put_comm(c);
    } else if (!e && !data) {
        free(where);
    }
}

/* A process that ends in order says goodbye first, maybe over another endpoint than the one that is seen to close: its
 * frames are read before it is called dead. */
#define DEATH_NS 50000000u
struct death {
    struct death *next;
    struct service_work work;
    struct host_peer *peer;
    enum choir_status status;
    uint64_t due_ns;
    char text[200];
};
static struct death *deaths; /* under the lock */

static bool declare(void *arg)
{
    struct death *d = arg;
    if (base_now_ns() < d->due_ns)
        return false;
    struct host_comm *list[256];
    uint32_t n = 0;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < COMM_BUCKETS; i++)
        for (struct host_comm *c = comms[i]; c && n < base_count(list); c = c->next)
            atomic_fetch_add(&c->users, 1), list[n++] = c;
    struct death **at = &deaths;
    while (*at != d)
        at = &(*at)->next;
    *at = d->next;
    pthread_mutex_unlock(&lock);
    for (uint32_t i = 0; i < n; i++) {
        list[i]->peer_failed(list[i], d->peer, d->status, d->text);
        put_comm(list[i]);
    }
    free(d);
    return true;
}

void process_failed(void *context, void *cookie, enum choir_status status, int sys_errno,
                    const char *text)
{
    (void)context, (void)sys_errno;
    struct host_end *end = cookie;
    if (!end)
        return;
    struct host_peer *peer = end->peer;
    uint32_t was = atomic_exchange(&end->state, HOST_END_FAILED);
    if (was == HOST_END_TRYING && status != CHOIR_ERR_PEER_DEAD)
        return; /* host_peer_reach goes on to the next transport */
    atomic_store(&peer->failed, (int32_t)status);
    struct death *d = malloc(sizeof(*d));
    if (!d)
        return; /* waits end by their deadline */
    *d = (struct death){.peer = peer, .status = status, .due_ns = base_now_ns() + DEATH_NS};
    snprintf(d->text, sizeof(d->text), "%s", text);
    d->work = (struct service_work){.step = declare, .arg = d};
    pthread_mutex_lock(&lock);
    d->next = deaths;
    deaths = d;
    pthread_mutex_unlock(&lock);
    service_work_add(&d->work);
}

struct host_bell_box *peers_hold_bell(uint64_t key, uint32_t rank)
{
    struct host_comm *c = get_comm(key, rank);
    struct host_bell_box *box = c ? c->bell_box : NULL;
    if (box)
        atomic_fetch_add(&box->holders, 1);
    if (c)
        put_comm(c);
    return box;
}

void peers_add_comm(struct host_comm *c)
{
    pthread_mutex_lock(&lock);
    c->next = comms[c->key % COMM_BUCKETS];
    comms[c->key % COMM_BUCKETS] = c;
    atomic_store(&c->users, 1);
    /* What came before: taken out first, delivered outside the lock. */
    struct early *mine = NULL, **last = &mine, **at = &early;
    while (*at) {
        struct early *e = *at;
        if (e->frame.comm != c->key || e->frame.to != c->rank) {
            at = &e->next;
            continue;
        }
        *at = e->next, e->next = NULL;
        *last = e, last = &e->next;
        early_count--, early_bytes -= e->frame.bytes;
    }
    early_last = at;
    pthread_mutex_unlock(&lock);
    while (mine) {
        struct early *e = mine;
        mine = e->next;
        deliver(c, e->end, &e->frame, e->payload);
        free(e);
    }
    put_comm(c);
}

bool peers_remove_comm(struct host_comm *c, uint64_t most_ns)
{
    pthread_mutex_lock(&lock);
    struct host_comm **at = &comms[c->key % COMM_BUCKETS];
    while (*at && *at != c)
        at = &(*at)->next;
    if (*at)
        *at = c->next;
    pthread_mutex_unlock(&lock);
    for (uint64_t until = base_now_ns() + most_ns; atomic_load(&c->users); sched_yield())
        if (base_now_ns() > until)
            return false;
    return true;
}

/* A crossing connect may have given one endpoint to two ends. */
static void disconnect(struct host_peer *p, struct host_end *end)
{
    struct choir_endpoint *e = end->endpoint;
    end->endpoint = NULL;
    bool other = p->end[end->transport].endpoint == e;
    for (struct host_end *x = p->extra; x; x = x->next)
        other |= x->endpoint == e;
    if (e && !other)
        host_end_ops(end)->disconnect(e);
}

/* No communicator is left, so nobody else looks at ends; upcalls that still come look at tables only. */
void process_disconnect(void)
{
    for (uint32_t i = 0; i < PEER_BUCKETS; i++)
        for (struct host_peer *p = peers[i]; p; p = p->next) {
            for (struct host_end *end = p->extra; end; end = end->next)
                disconnect(p, end);
            for (uint32_t t = 0; t < host_process.transports; t++)
                disconnect(p, &p->end[t]);
        }
}

void process_forget(void)
{
    host_control_sweep(true);
    while (early) {
        struct early *e = early;
        early = e->next;
        free(e->payload);
        free(e);
    }
    early_last = &early, early_count = 0, early_bytes = 0;
    while (deaths) {
        struct death *d = deaths;
        deaths = d->next;
        free(d);
    }
    for (uint32_t i = 0; i < PEER_BUCKETS; i++)
        while (peers[i]) {
            struct host_peer *p = peers[i];
            peers[i] = p->next;
            while (p->extra) {
                struct host_end *end = p->extra;
                p->extra = end->next;
                free(end);
            }
            free(p->card);
            free(p);
        }
}

void process_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    memset(peers, 0, sizeof(peers));
    memset(comms, 0, sizeof(comms));
    early = NULL, early_last = &early, early_count = 0, early_bytes = 0;
    deaths = NULL;
}
