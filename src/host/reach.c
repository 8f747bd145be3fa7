/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reach.c: how this process comes to another one: over which transport, when a failure is final, and when the other is dead.
 *
 * A transport has one endpoint a process, whoever dialed (choir_transport.h), so a peer has one end for each transport.
 * They are tried in order and the first that is READY is used. A failure that may pass is tried again, with pauses, until
 * CHOIR_CREATE_TIMEOUT; the peer's own attempt may come first. A process is dead when the last of its READY ends has
 * ended: each has then been read to its end, a goodbye included.
 *
 * Locks: peer->lock sets a connect against an accepted; connect and connected are called under it, disconnect is not.
 */
#include "base/knob.h"
#include "host/process.h"

#define PAUSE_NS 10000000u /* after a round over all transports; doubles ... */
#define PAUSES 7u          /* ... so many times */

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

static enum choir_status start(struct host_end *end, const struct host_card *card)
{
    const struct host_transport *t = &host_process.transport[end->transport];
    size_t bytes = 0;
    const void *address = process_card_address(card, t->ops->name, &bytes);
    if (!address)
        return CHOIR_ERR_UNSUPPORTED;
    enum choir_status st =
        t->ops->connect(t->t, &end->peer->id, address, bytes, end, &end->endpoint);
    if (st == CHOIR_OK)
        atomic_store(&end->state, HOST_END_TRYING);
    return st;
}

/* One step further: CHOIR_OK READY, CHOIR_IN_PROGRESS under way, else why this round goes on without it. */
static enum choir_status try_end(struct host_end *end, const struct host_card *card)
{
    struct host_peer *peer = end->peer;
    struct choir_endpoint *over = NULL;
    enum choir_status st = CHOIR_ERR_NETWORK;
    pthread_mutex_lock(&peer->lock);
    uint32_t state = atomic_load(&end->state);
    bool fresh = state == HOST_END_NONE && end->round != peer->round;
    if (fresh) {
        end->round = peer->round;
        st = start(end, card);
        if (st == CHOIR_ERR_PEER_DEAD)
            peer->gone = true; /* it does not even listen */
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
    pthread_mutex_unlock(&peer->lock);
    if (over)
        host_end_ops(end)->disconnect(over);
    if (st < 0 && (fresh || over))
        base_log(BASE_INFO, -1, "transport %s does not reach the peer: %s", host_end_ops(end)->name,
                 choir_status_string(st));
    return st;
}

/* No transport is on its way any more: again after a pause, or never. */
static void end_round(struct host_peer *peer, enum choir_status why, uint64_t now)
{
    bool left = false;
    for (uint32_t i = 0; i < host_process.transports; i++)
        left |= atomic_load(&peer->end[i].state) == HOST_END_NONE;
    if (peer->gone) {
        dead(peer, CHOIR_ERR_PEER_DEAD, "it listens no more");
    } else if (!left || now >= peer->give_up_ns) {
        atomic_store(&peer->failed, (int32_t)(why == CHOIR_ERR_AUTH ? why : CHOIR_ERR_NETWORK));
    } else {
        peer->retry_ns = now + (PAUSE_NS << base_min(peer->round, PAUSES));
        peer->round++;
    }
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
    uint64_t now = base_now_ns();
    if (!peer->round)
        peer->round = 1, peer->give_up_ns = now + (uint64_t)knob_int(KNOB_CREATE_TIMEOUT);
    enum choir_status st = CHOIR_IN_PROGRESS, why = CHOIR_ERR_NETWORK;
    for (uint32_t i = 0; now >= peer->retry_ns && i < host_process.transports; i++) {
        st = try_end(&peer->end[i], card);
        if (st == CHOIR_OK)
            set_best(peer, &peer->end[i]);
        /* An end of the process: its own word for it is that it listens no more, asked for by another attempt. */
        if (st >= 0 || st == CHOIR_ERR_PEER_DEAD)
            break;
        if (st != CHOIR_ERR_UNSUPPORTED)
            why = st;
    }
    if (st < 0 && !atomic_load(&peer->best))
        end_round(peer, why, now);
    atomic_store(&peer->trying, 0);
    return atomic_load(&peer->best) != NULL;
}

void *process_accepted(void *context, const struct choir_process *id,
                       struct choir_endpoint *endpoint)
{
    struct host_peer *peer = host_peer_find(id, true);
    if (!peer)
        return NULL;
    struct host_end *end = &peer->end[(uintptr_t)context];
    pthread_mutex_lock(&peer->lock);
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
    pthread_mutex_unlock(&peer->lock);
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
    pthread_mutex_lock(&peer->lock);
    bool trying = atomic_load(&end->state) == HOST_END_TRYING;
    if (trying && status != CHOIR_ERR_PEER_DEAD) {
        pthread_mutex_unlock(&peer->lock);
        return; /* connected() tells host_peer_reach */
    }
    atomic_store(&end->state, HOST_END_FAILED);
    for (uint32_t i = 0; i < host_process.transports; i++)
        if (atomic_load(&peer->end[i].state) == HOST_END_READY)
            other = &peer->end[i];
    /* The others of a dead process end too, and may still hold what it said last. */
    bool wait = status == CHOIR_ERR_PEER_DEAD && other;
    if (wait)
        atomic_store(&peer->best, other);
    pthread_mutex_unlock(&peer->lock);
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
    pthread_mutex_lock(&peer->lock);
    for (uint32_t i = 0; i < host_process.transports; i++)
        if (atomic_load(&peer->end[i].state) == HOST_END_TRYING)
            host_end_ops(&peer->end[i])->send(peer->end[i].endpoint, frame, NULL, NULL);
    pthread_mutex_unlock(&peer->lock);
}

/* No communicator is left, so nobody else looks at ends; upcalls that still come look at tables only. */
void reach_disconnect(struct host_peer *peer)
{
    for (uint32_t i = 0; i < host_process.transports; i++) {
        pthread_mutex_lock(&peer->lock);
        struct choir_endpoint *e = peer->end[i].endpoint;
        peer->end[i].endpoint = NULL;
        pthread_mutex_unlock(&peer->lock);
        if (e)
            host_end_ops(&peer->end[i])->disconnect(e);
    }
}
