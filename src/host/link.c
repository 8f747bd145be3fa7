/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.c: making the way from one rank to another, when a plan first needs it. The sender asks for an inbox
 * (HOST_FRAME_LINK); the receiver's transport thread makes it and answers with its key (HOST_FRAME_INBOX), so that
 * connecting never needs the peer's application. The two directions are made apart. fragment.c moves bytes over it.
 */
#include "host/host.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct host_link *host_link_get(struct host_comm *comm, uint32_t peer)
{
    struct host_link *link = atomic_load_explicit(&comm->link[peer], memory_order_acquire);
    if (base_likely(link != NULL))
        return link;
    pthread_mutex_lock(&comm->lock);
    link = atomic_load(&comm->link[peer]);
    if (!link && (link = aligned_alloc(BASE_LINE,
                                       (sizeof(*link) + BASE_LINE - 1) / BASE_LINE * BASE_LINE))) {
        memset(link, 0, sizeof(*link));
        link->peer = peer;
        link->comm = comm;
        for (uint32_t l = 0; l < LANE_COUNT; l++)
            for (uint32_t i = 0; i < LANE_DEPTH; i++)
                atomic_store(&link->request[l][i].done, 1);
        atomic_store_explicit(&comm->link[peer], link, memory_order_release);
        atomic_fetch_add(&comm->links, 1);
        atomic_fetch_add(&comm->private_bytes, sizeof(*link));
    }
    pthread_mutex_unlock(&comm->lock);
    return link;
}

/* The key under which a peer on this end can map our bell, or 0. */
static uint64_t bell_key(const struct host_comm *comm, const struct host_end *end)
{
    return comm->bell_box->transport == end->transport ? comm->bell_box->shared.key : 0;
}

static void find_bell(struct host_link *link, struct host_end *end)
{
    if (host_same_process(end)) {
        if ((link->bell_box = peers_hold_bell(link->comm->key, link->peer)))
            atomic_store(&link->bell, link->bell_box->bell);
        return;
    }
    uint64_t key = atomic_load(&link->bell_key);
    void *memory;
    if (!key ||
        host_end_ops(end)->map(end->endpoint, key, sizeof(struct host_bell), &memory) != CHOIR_OK)
        return;
    link->mapped_bell = memory;
    link->bell_end = end;
    atomic_store(&link->bell, link->mapped_bell);
}

/* Maps the peer's bell once its key is known; tried again until it is there. The caller makes the one direction while a
 * transport's thread makes the other: one of them at a time, the other need not wait. */
static void try_bell(struct host_link *link, struct host_end *end)
{
    if (atomic_load(&link->bell) || atomic_exchange(&link->finding_bell, 1))
        return;
    if (!atomic_load(&link->bell))
        find_bell(link, end);
    atomic_store(&link->finding_bell, 0);
}

static void answer_inbox(struct host_link *link, struct host_end *end)
{
    struct host_comm *comm = link->comm;
    bool pulls = host_end_ops(end)->caps(end->endpoint) & CHOIR_CAP_READ_FAST;
    struct choir_frame f = {.kind = HOST_FRAME_INBOX,
                            .comm = comm->key,
                            .from = comm->rank,
                            .to = link->peer,
                            .arg = {link->inbox.key, pulls, bell_key(comm, end)}};
    host_end_ops(end)->send(end->endpoint, &f, NULL, NULL);
}

/* The peer asks for an inbox: made once, answered each time. */
static void make_inbox(struct host_link *link, struct host_end *end, const struct choir_frame *f)
{
    struct host_comm *comm = link->comm;
    struct host_transport *t = &host_process.transport[end->transport];
    uint64_t bytes = lane_segment_bytes(comm->slot_bytes);
    if (f->arg[1] != comm->slot_bytes) {
        host_comm_break(comm, CHOIR_ERR_PROTOCOL,
                        &(struct base_error_at){(int)comm->rank, (int)f->from, 0, 0, NULL},
                        "set CHOIR_SLOT to the same value on all ranks",
                        "rank %u uses fragments of %llu bytes, this rank of %llu", f->from,
                        (unsigned long long)f->arg[1], (unsigned long long)comm->slot_bytes);
        return;
    }
    pthread_mutex_lock(&comm->lock);
    if (!link->segment) {
        if (t->maps && t->ops->alloc(t->t, bytes, &link->inbox) == CHOIR_OK) {
            link->segment = link->inbox.memory;
            atomic_fetch_add(&comm->shared_bytes, bytes);
        } else {
            /* Mapped: zero, touched as far as it is used, and wholly given back. */
            void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p != MAP_FAILED)
                link->segment = p, atomic_fetch_add(&comm->private_bytes, bytes);
            atomic_fetch_add(&comm->frame_links, 1);
        }
        for (uint32_t l = 0; l < LANE_COUNT && link->segment; l++) {
            link->rx[l].line = link->segment->line[l];
            link->rx[l].data = link->segment->data + lane_ring_at(l, comm->slot_bytes);
            link->rx[l].back = &link->segment->back[l];
            link->rx[l].ring_bytes = lane_ring_bytes(l, comm->slot_bytes);
        }
        link->back_end = end;
    }
    pthread_mutex_unlock(&comm->lock);
    if (!link->segment) {
        host_comm_break(comm, CHOIR_ERR_NO_MEMORY,
                        &(struct base_error_at){(int)comm->rank, (int)f->from, 0, 0, NULL},
                        "free memory or lower CHOIR_SLOT", "no memory for an inbox of %llu bytes",
                        (unsigned long long)bytes);
        return;
    }
    atomic_store(&link->bell_key, f->arg[0]);
    try_bell(link, end);
    atomic_store_explicit(&link->in, 1, memory_order_release);
    answer_inbox(link, end);
    host_bell_wake_own(comm);
}

void host_link_frame(struct host_comm *comm, struct host_end *end, const struct choir_frame *f)
{
    if (f->from >= comm->size)
        return;
    struct host_link *link = host_link_get(comm, f->from);
    if (!link)
        return;
    if (f->kind == HOST_FRAME_LINK) {
        make_inbox(link, end, f);
        return;
    }
    uint32_t asked = HOST_LINK_ASKED;
    if (f->kind != HOST_FRAME_INBOX || atomic_load(&link->out) != asked)
        return;
    link->inbox_key = f->arg[0];
    link->pulls = f->arg[1] & 1;
    atomic_store(&link->bell_key, f->arg[2]);
    atomic_store(&link->out, HOST_LINK_MAPPING);
    host_bell_wake_own(comm);
}

/* Rings of all the ranks of this host together stay in the cache they share. */
#define RINGS_BYTES (4u << 20)

static void open_lanes(struct host_link *link)
{
    uint64_t share = RINGS_BYTES / link->comm->local_ranks / BASE_LINE * BASE_LINE;
    uint64_t slot = link->comm->slot_bytes;
    for (uint32_t l = 0; l < LANE_COUNT; l++) {
        struct lane_tx *tx = &link->tx[l];
        tx->ring_bytes = lane_ring_bytes(l, slot);
        if (link->mapped) {
            tx->ring_bytes = base_min(tx->ring_bytes, base_max(share, LANE_SLOTS * slot));
            tx->line = link->mapped->line[l];
            tx->data = link->mapped->data + lane_ring_at(l, slot);
            tx->back = &link->mapped->back[l];
        } else {
            tx->heard = &link->heard[l];
            tx->request = link->request[l];
        }
    }
}

bool host_link_ready(struct host_link *link)
{
    struct host_comm *comm = link->comm;
    uint32_t state = atomic_load_explicit(&link->out, memory_order_acquire);
    if (base_likely(state == HOST_LINK_READY))
        return true;
    if (state == HOST_LINK_NONE) {
        atomic_fetch_add(&comm->making, 1);
        atomic_store(&link->out, state = HOST_LINK_REACHING);
    }
    if (state == HOST_LINK_REACHING) {
        struct host_peer *peer = comm->member[link->peer];
        if (!host_peer_reach(peer)) {
            int32_t failed = atomic_load(&peer->failed);
            if (failed)
                host_comm_break(
                    comm, (enum choir_status)failed,
                    &(struct base_error_at){(int)comm->rank, (int)link->peer, 0, 0, NULL},
                    HOST_UNREACHED_REMEDY, HOST_UNREACHED, link->peer);
            return false;
        }
        link->end = host_peer_end(peer);
        link->same = host_same_process(link->end);
        struct choir_frame f = {.kind = HOST_FRAME_LINK,
                                .comm = comm->key,
                                .from = comm->rank,
                                .to = link->peer,
                                .arg = {bell_key(comm, link->end), comm->slot_bytes}};
        atomic_store(&link->out, HOST_LINK_ASKED);
        host_end_ops(link->end)->send(link->end->endpoint, &f, NULL, NULL);
        return false;
    }
    if (state != HOST_LINK_MAPPING)
        return false;
    if (link->inbox_key && !link->mapped) {
        void *memory = NULL;
        enum choir_status st = host_end_ops(link->end)->map(
            link->end->endpoint, link->inbox_key, lane_segment_bytes(comm->slot_bytes), &memory);
        if (st == CHOIR_IN_PROGRESS)
            return false;
        if (st != CHOIR_OK) {
            host_comm_break(comm, st,
                            &(struct base_error_at){(int)comm->rank, (int)link->peer, 0, 0, NULL},
                            "raise the limit on mappings or set CHOIR_TRANSPORTS=tcp",
                            "the inbox at rank %u cannot be mapped", link->peer);
            return false;
        }
        link->mapped = memory;
    }
    try_bell(link, link->end);
    if (link->mapped && !atomic_load(&link->bell))
        return false;
    open_lanes(link);
    if (!link->mapped)
        atomic_fetch_add(&comm->frame_links, 1);
    atomic_fetch_sub(&comm->making, 1);
    atomic_store_explicit(&link->out, HOST_LINK_READY, memory_order_release);
    return true;
}

void host_link_retry_bell(struct host_link *link)
{
    if (link->back_end && (atomic_load(&link->bell_key) || host_same_process(link->back_end)))
        try_bell(link, link->back_end);
}

enum choir_status host_link_read(struct host_link *link, void *to, uint64_t from, uint64_t bytes)
{
    struct host_end *end = link->back_end;
    if (host_same_process(end)) {
        reduce_copy(to, (const void *)(uintptr_t)from, bytes, 0);
        return CHOIR_OK;
    }
    return host_end_ops(end)->read(end->endpoint, to, from, bytes);
}

/* Whether a transport may still read the copies of what is under way. */
static bool requests_open(struct host_link *link)
{
    for (uint32_t l = 0; l < LANE_COUNT; l++)
        for (uint32_t i = 0; i < LANE_DEPTH; i++)
            if (!atomic_load_explicit(&link->request[l][i].done, memory_order_acquire))
                return true;
    return false;
}

void host_link_free(struct host_link *link)
{
    uint64_t until = base_now_ns() + 1000000000;
    while (requests_open(link)) {
        host_progress();
        if (base_now_ns() < until && !atomic_load(&link->end->peer->failed))
            continue;
        base_log(BASE_DEBUG, (int)link->comm->rank, "link to rank %u kept: not all was sent",
                 link->peer);
        return;
    }
    for (uint32_t l = 0; l < LANE_COUNT; l++)
        host_link_unview(link, l); /* of an operation that failed */
    if (link->mapped)
        host_end_ops(link->end)->unmap(link->end->endpoint, link->mapped,
                                       lane_segment_bytes(link->comm->slot_bytes));
    if (link->mapped_bell)
        host_end_ops(link->bell_end)
            ->unmap(link->bell_end->endpoint, link->mapped_bell, sizeof(struct host_bell));
    host_bell_drop(link->bell_box);
    if (link->inbox.memory) {
        struct host_transport *t = &host_process.transport[link->back_end->transport];
        t->ops->release(t->t, &link->inbox);
    } else if (link->segment) {
        munmap(link->segment, lane_segment_bytes(link->comm->slot_bytes));
    }
    free(link->lent);
    free(link);
}
