/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reach.c: how this process comes to another one: over which transport, when a failure is final, and when the other is dead.
 *
 * A transport has one endpoint a process, whoever dialed (choir_transport.h), so a peer has one end for each transport.
 * They are tried in order and the first that is READY is used. A failure that may pass is tried again, with pauses, until
 * CHOIR_CREATE_TIMEOUT; the peer's own attempt may come first. A process is dead when the last of its READY ends has
 * ended: each has then been read to its end, a goodbye included.
 *
 * Locks: that of a way sets a connect against an accepted; connect and connected are called under it, disconnect is not.
 */
#include "base/knob.h"
#include "host/process.h"
#include <stdlib.h>

#define PAUSE_NS 10000000u /* after a round over all transports; doubles ... */
#define PAUSES 7u          /* ... so many times */

struct host_way {
    pthread_mutex_t lock;          /* ends: a connect against an accepted */
    _Atomic uint32_t trying;       /* a thread is in host_peer_reach, and owns the rest: */
    uint32_t round;                /* over the transports, from 1 */
    uint64_t retry_ns, give_up_ns; /* when the next round begins; when no other does */
    bool gone;                     /* a transport says that the process is no more */
    struct host_end end[HOST_TRANSPORTS];
};

/* Of several threads that come first, one makes it. NULL: no memory. */
static struct host_way *way_of(struct host_peer *peer)
{
    struct host_way *way = atomic_load(&peer->way), *none = NULL;
    if (way || !(way = calloc(1, sizeof(*way))))
        return way;
    pthread_mutex_init(&way->lock, NULL);
    for (uint32_t i = 0; i < HOST_TRANSPORTS; i++)
        way->end[i].peer = peer, way->end[i].transport = i;
    if (atomic_compare_exchange_strong(&peer->way, &none, way))
        return way;
    pthread_mutex_destroy(&way->lock);
    free(way);
    return none;
}

static void set_best(struct host_peer *peer, struct host_end *end)
{
    struct host_end *none = NULL;
    atomic_compare_exchange_strong(&peer->best, &none, end);
}

static void dead(struct host_peer *peer, enum choir_status status, const char *text)
{
    atomic_store(&peer->failed, (int32_t)status);
    peers_tell_death(peer, status, text);
}

/* Trying again would give the same answer. */
static bool is_final(enum choir_status st)
{
    return st == CHOIR_ERR_UNSUPPORTED || st == CHOIR_ERR_AUTH || st == CHOIR_ERR_PROTOCOL ||
           st == CHOIR_ERR_ARGUMENT;
}

static enum choir_status start(struct host_end *end)
{
    const struct host_transport *t = &host_process.transport[end->transport];
    uint8_t card[HOST_CARD_MOST];
    size_t bytes = 0;
    const void *address = cards_address(end->peer, t->ops->name, card, &bytes);
    if (!address)
        return CHOIR_ERR_UNSUPPORTED;
    enum choir_status st =
        t->ops->connect(t->t, &end->peer->id, address, bytes, end, &end->endpoint);
    if (st == CHOIR_OK)
        atomic_store(&end->state, HOST_END_TRYING);
    return st;
}

/* One step further: CHOIR_OK READY, CHOIR_IN_PROGRESS under way, else why this round goes on without it. */
static enum choir_status try_end(struct host_way *way, struct host_end *end)
{
    struct choir_endpoint *over = NULL;
    enum choir_status st = CHOIR_ERR_NETWORK;
    pthread_mutex_lock(&way->lock);
    uint32_t state = atomic_load(&end->state);
    bool fresh = state == HOST_END_NONE && end->round != way->round;
    if (fresh) {
        end->round = way->round;
        st = start(end);
        if (st == CHOIR_ERR_PEER_DEAD)
            way->gone = true; /* it does not even listen */
        state = atomic_load(&end->state);
    }
    if (state == HOST_END_TRYING) {
        st = host_end_ops(end)->connected(end->endpoint);
        if (st < 0)
            over = end->endpoint, end->endpoint = NULL;
    }
    if (state == HOST_END_READY)
        st = CHOIR_OK;
    else if (state == HOST_END_TRYING && st != CHOIR_IN_PROGRESS)
        atomic_store(&end->state, st == CHOIR_OK ? HOST_END_READY
                                  : is_final(st) ? HOST_END_FAILED
                                                 : HOST_END_NONE);
    else if (fresh && is_final(st))
        atomic_store(&end->state, HOST_END_FAILED);
    pthread_mutex_unlock(&way->lock);
    if (over)
        host_end_ops(end)->disconnect(over);
    if (st < 0 && (fresh || over))
        base_log(BASE_INFO, -1, "transport %s does not reach the peer: %s", host_end_ops(end)->name,
                 choir_status_string(st));
    return st;
}

/* No transport is on its way any more: again after a pause, or never. */
static void end_round(struct host_peer *peer, struct host_way *way, enum choir_status why,
                      uint64_t now)
{
    bool left = false;
    for (uint32_t i = 0; i < host_process.transports; i++)
        left |= atomic_load(&way->end[i].state) == HOST_END_NONE;
    if (way->gone) {
        dead(peer, CHOIR_ERR_PEER_DEAD, "it listens no more");
    } else if (!left || now >= way->give_up_ns) {
        atomic_store(&peer->failed, (int32_t)(why == CHOIR_ERR_AUTH ? why : CHOIR_ERR_NETWORK));
    } else {
        way->retry_ns = now + (PAUSE_NS << base_min(way->round, PAUSES));
        way->round++;
    }
}

bool host_peer_reach(struct host_peer *peer)
{
    if (atomic_load_explicit(&peer->best, memory_order_acquire))
        return true;
    if (atomic_load(&peer->failed))
        return false;
    /* One thread at a time drives the attempt; others come again. */
    struct host_way *way = way_of(peer); /* NULL: maybe there is memory then */
    uint32_t idle = 0;
    if (!way || !atomic_compare_exchange_strong(&way->trying, &idle, 1))
        return false;
    uint64_t now = base_now_ns();
    if (!way->round)
        way->round = 1, way->give_up_ns = now + (uint64_t)knob_int(KNOB_CREATE_TIMEOUT);
    enum choir_status st = CHOIR_IN_PROGRESS, why = CHOIR_ERR_NETWORK;
    for (uint32_t i = 0; now >= way->retry_ns && i < host_process.transports; i++) {
        st = try_end(way, &way->end[i]);
        if (st == CHOIR_OK)
            set_best(peer, &way->end[i]);
        /* An end of the process: its own word for it is that it listens no more, asked for by another attempt. */
        if (st >= 0 || st == CHOIR_ERR_PEER_DEAD)
            break;
        if (st != CHOIR_ERR_UNSUPPORTED)
            why = st;
    }
    if (st < 0 && !atomic_load(&peer->best))
        end_round(peer, way, why, now);
    atomic_store(&way->trying, 0);
    return atomic_load(&peer->best) != NULL;
}

void *process_accepted(void *context, const struct choir_process *id,
                       struct choir_endpoint *endpoint)
{
    struct host_peer *peer = host_peer_find(id, true);
    struct host_way *way = peer ? way_of(peer) : NULL;
    if (!way)
        return NULL;
    struct host_end *end = &way->end[(uintptr_t)context];
    pthread_mutex_lock(&way->lock);
    struct choir_endpoint *over = end->endpoint;
    uint32_t state = atomic_load(&end->state);
    bool used = state == HOST_END_READY || (state == HOST_END_FAILED && over);
    bool taken = !used && !(atomic_load(&peer->failed) && atomic_load(&peer->best));
    if (taken) {
        end->endpoint = endpoint;
        atomic_store(&end->state, HOST_END_READY);
        atomic_store(&peer->failed, 0);
        set_best(peer, end);
    }
    pthread_mutex_unlock(&way->lock);
    if (taken && over && over != endpoint) /* an attempt of ours that has failed */
        host_end_ops(end)->disconnect(over);
    return taken ? end : NULL;
}

void process_failed(void *context, void *cookie, enum choir_status status, int sys_errno,
                    const char *text)
{
    (void)context, (void)sys_errno;
    struct host_end *end = cookie, *other = NULL;
    struct host_peer *peer = end->peer;
    struct host_way *way = atomic_load(&peer->way);
    pthread_mutex_lock(&way->lock);
    bool trying = atomic_load(&end->state) == HOST_END_TRYING;
    if (trying && status != CHOIR_ERR_PEER_DEAD) {
        pthread_mutex_unlock(&way->lock);
        return; /* connected() tells host_peer_reach */
    }
    atomic_store(&end->state, HOST_END_FAILED);
    for (uint32_t i = 0; i < host_process.transports; i++)
        if (atomic_load(&way->end[i].state) == HOST_END_READY)
            other = &way->end[i];
    /* The others of a dead process end too, and may still hold what it said last. */
    bool wait = status == CHOIR_ERR_PEER_DEAD && other;
    if (wait)
        atomic_store(&peer->best, other);
    pthread_mutex_unlock(&way->lock);
    if (!wait)
        dead(peer, status, text);
}

void reach_send_last(struct host_peer *peer, const struct choir_frame *frame)
{
    struct host_end *best = host_peer_end(peer);
    if (best) {
        host_end_ops(best)->send(best->endpoint, frame, NULL, NULL);
        return;
    }
    struct host_way *way = atomic_load(&peer->way);
    if (!way)
        return;
    pthread_mutex_lock(&way->lock);
    for (uint32_t i = 0; i < host_process.transports; i++)
        if (atomic_load(&way->end[i].state) == HOST_END_TRYING)
            host_end_ops(&way->end[i])->send(way->end[i].endpoint, frame, NULL, NULL);
    pthread_mutex_unlock(&way->lock);
}

/* No communicator is left, so nobody else looks at ends; upcalls that still come look at tables only. */
void reach_disconnect(struct host_peer *peer)
{
    struct host_way *way = atomic_load(&peer->way);
    for (uint32_t i = 0; way && i < host_process.transports; i++) {
        pthread_mutex_lock(&way->lock);
        struct choir_endpoint *e = way->end[i].endpoint;
        way->end[i].endpoint = NULL;
        pthread_mutex_unlock(&way->lock);
        if (e)
            host_end_ops(&way->end[i])->disconnect(e);
    }
}

void reach_forget(struct host_peer *peer)
{
    struct host_way *way = atomic_load(&peer->way);
    if (way)
        pthread_mutex_destroy(&way->lock);
    free(way);
}
