/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peers.c: the tables of processes (reach.c has how they are reached) and of communicators, which arriving frames are
 * handed to.
 *
 * A frame for a communicator that is not made here yet (a faster peer) is kept, bounded in number, bytes and time.
 * Locks: `lock` guards the tables only; no transport is called and no communicator entered under it, so an upcall from
 * within a transport can take it at any time. A communicator in use by an upcall is counted (users).
 */
#include "host/process.h"
#include "host/put.h"
#include <stdlib.h>
#include <string.h>

#define PEER_BUCKETS 1024
#define COMM_BUCKETS 1024
#define EARLY_FRAMES 4096
#define EARLY_BYTES (64u << 20)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct host_peer *peers[PEER_BUCKETS];
static struct host_comm *comms[COMM_BUCKETS];
static uint32_t comm_count;

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
        p->next = *at;
        *at = p;
    }
    pthread_mutex_unlock(&lock);
    return p;
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
    if (frame->kind == HOST_FRAME_PUT)
        return frame->bytes <= HOST_PUT_BYTES ? malloc(frame->bytes) : NULL;
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
    } else if (frame->kind == HOST_FRAME_PUT || frame->kind == HOST_FRAME_SIGNAL ||
               frame->kind == HOST_FRAME_SEEN) {
        host_put_arrived(c, frame, where);
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
    } else if (!e && (!data || frame->kind == HOST_FRAME_PUT)) {
        free(where);
    }
}

/* All communicators, counted as used: each is put, and the list freed, by the caller. NULL: no memory. */
static struct host_comm **get_comms(uint32_t *count)
{
    uint32_t n = 0;
    pthread_mutex_lock(&lock);
    struct host_comm **list = malloc((comm_count + 1) * sizeof(struct host_comm *));
    for (uint32_t i = 0; list && i < COMM_BUCKETS; i++)
        for (struct host_comm *c = comms[i]; c; c = c->next)
            atomic_fetch_add(&c->users, 1), list[n++] = c;
    pthread_mutex_unlock(&lock);
    *count = n;
    return list;
}

/* Without memory: waits end by their deadline. */
void peers_tell_death(struct host_peer *peer, enum choir_status status, const char *text)
{
    uint32_t n;
    struct host_comm **list = get_comms(&n);
    for (uint32_t i = 0; i < n; i++) {
        list[i]->peer_failed(list[i], peer, status, text);
        put_comm(list[i]);
    }
    free(list);
}

void peers_say_goodbye(void)
{
    uint32_t n;
    struct host_comm **list = get_comms(&n);
    for (uint32_t i = 0; i < n; i++) {
        list[i]->leave(list[i]);
        put_comm(list[i]);
    }
    free(list);
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
    comm_count++;
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
        *at = c->next, comm_count--;
    pthread_mutex_unlock(&lock);
    for (uint64_t until = base_now_ns() + most_ns; atomic_load(&c->users); sched_yield())
        if (base_now_ns() > until)
            return false;
    return true;
}

void process_disconnect(void)
{
    for (uint32_t i = 0; i < PEER_BUCKETS; i++) {
        /* The service thread runs still, and one that comes now is put before the others. */
        pthread_mutex_lock(&lock);
        struct host_peer *p = peers[i];
        pthread_mutex_unlock(&lock);
        for (; p; p = p->next)
            reach_disconnect(p);
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
    for (uint32_t i = 0; i < PEER_BUCKETS; i++)
        while (peers[i]) {
            struct host_peer *p = peers[i];
            peers[i] = p->next;
            reach_forget(p);
            free((void *)(uintptr_t)atomic_load(&p->card));
            free(p);
        }
    cards_forget();
}

void process_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    cards_forked();
    memset(peers, 0, sizeof(peers));
    memset(comms, 0, sizeof(comms));
    early = NULL, early_last = &early, early_count = 0, early_bytes = 0;
    comm_count = 0;
}
