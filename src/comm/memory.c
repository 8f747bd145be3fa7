/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c: memory that peers on the host can map, registration, and windows. Nothing here is needed for speed of
 * collectives on host memory; registration is a promise about a range that transports with registration keep.
 */
#include "comm/comm.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>

struct choir_region {
    struct choir_comm *comm;
    void *memory;
    size_t bytes;
};

struct window_card { /* what a rank tells the others of its part */
    uint64_t key, offset, bytes, address;
    uint32_t transport_name; /* hash; 0: cannot be mapped */
    uint32_t reserved;
};
struct choir_window {
    struct choir_comm *comm;
    struct window_card *card; /* [size] */
    void **mapped;            /* [size] what was mapped, to be unmapped; NULL: not yet */
};

static uint32_t name_hash(uint32_t transport)
{
    const char *name = host_process.transport[transport].ops->name;
    return (uint32_t)base_hash(name, strlen(name), 6) | 1;
}

enum choir_status choir_mem_alloc(size_t bytes, void **memory)
{
    if (!memory || !bytes)
        return base_fail(memory ? CHOIR_ERR_COUNT : CHOIR_ERR_POINTER,
                         "ask for at least one byte and pass where to put the address", "%s",
                         memory ? "bytes is 0" : "memory is NULL");
    enum choir_status st = host_start();
    if (st != CHOIR_OK)
        return st;
    st = host_shared_alloc(bytes, memory);
    if (st != CHOIR_OK)
        host_stop();
    return st;
}

enum choir_status choir_mem_free(void *memory)
{
    enum choir_status st = memory ? host_shared_free(memory) : CHOIR_OK;
    if (memory && st == CHOIR_OK)
        host_stop();
    return st;
}

enum choir_status choir_register(choir_comm *comm, void *memory, size_t bytes,
                                 choir_region **region)
{
    enum choir_status st = comm_check(comm);
    if (st != CHOIR_OK)
        return st;
    if (!memory || !bytes || !region)
        return comm_fail(comm, CHOIR_ERR_POINTER,
                         "pass a range of memory and where to put the handle", "%s",
                         !region   ? "region is NULL"
                         : !memory ? "memory is NULL"
                                   : "bytes is 0");
    struct choir_region *r = malloc(sizeof(*r));
    if (!r)
        return comm_fail(comm, CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a registration");
    *r = (struct choir_region){comm, memory, bytes};
    *region = r;
    return CHOIR_OK;
}

enum choir_status choir_deregister(choir_comm *comm, choir_region *region)
{
    enum choir_status st = comm_check(comm);
    if (st != CHOIR_OK)
        return st;
    if (!region || region->comm != comm)
        return comm_fail(comm, CHOIR_ERR_POINTER,
                         "pass what choir_register returned for this communicator",
                         "region is not of this communicator");
    free(region);
    return CHOIR_OK;
}

static struct window_card describe(const void *memory, size_t bytes)
{
    struct window_card card = {.bytes = bytes, .address = (uint64_t)(uintptr_t)memory};
    struct host_view view;
    if (host_shared_find(memory, bytes, &view)) {
        card.key = view.key;
        card.offset = view.offset;
        card.transport_name = name_hash(view.transport);
    }
    return card;
}

static enum choir_status exchange_cards(struct choir_comm *c, struct choir_window *w,
                                        struct window_card mine)
{
    uint8_t *all;
    uint32_t bytes, each = (uint32_t)(sizeof(struct tree_record) + sizeof(mine));
    enum choir_status st = tree_start(c, &mine, sizeof(mine));
    uint64_t until = base_now_ns() + c->timeout_ns;
    while (st == CHOIR_OK && (st = tree_test(c, &all, &bytes)) == CHOIR_IN_PROGRESS) {
        st = (enum choir_status)atomic_load(&c->host.broken);
        if (st == CHOIR_OK && base_now_ns() > until)
            st = comm_fail(c, CHOIR_ERR_TIMEOUT, "all ranks call choir_window_create",
                           "a window waited too long for the other ranks");
        sched_yield();
    }
    if (st != CHOIR_OK)
        return st;
    if (bytes != (uint64_t)c->host.size * each)
        st = comm_fail(c, CHOIR_ERR_MISMATCH, "all ranks call choir_window_create",
                       "the ranks' windows are not complete");
    for (uint32_t i = 0; i < c->host.size && st == CHOIR_OK; i++) {
        struct tree_record r;
        memcpy(&r, all + (uint64_t)i * each, sizeof(r));
        if (r.rank < c->host.size)
            memcpy(&w->card[r.rank], all + (uint64_t)i * each + sizeof(r), sizeof(mine));
    }
    free(all);
    return st;
}

enum choir_status choir_window_create(choir_comm *comm, void *memory, size_t bytes,
                                      choir_window **window)
{
    enum choir_status st = comm_check(comm);
    if (st != CHOIR_OK)
        return st;
    if (!window || (bytes && !memory))
        return comm_fail(comm, CHOIR_ERR_POINTER,
                         "pass memory (or 0 bytes) and where to put the handle", "%s is NULL",
                         window ? "memory" : "window");
    if ((st = (enum choir_status)atomic_load(&comm->host.broken)) != CHOIR_OK)
        return st;
    struct choir_window *w = calloc(1, sizeof(*w));
    if (w) {
        w->comm = comm;
        w->card = calloc(comm->host.size, sizeof(*w->card));
        w->mapped = calloc(comm->host.size, sizeof(*w->mapped));
    }
    st = w && w->card && w->mapped
             ? exchange_cards(comm, w, describe(memory, bytes))
             : comm_fail(comm, CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a window");
    if (st == CHOIR_OK)
        *window = w;
    else
        choir_window_destroy(w);
    return st;
}

static struct host_end *peer_end(const struct choir_window *w, int peer)
{
    return host_peer_end(w->comm->host.member[peer]);
}

enum choir_status choir_window_destroy(choir_window *w)
{
    if (!w)
        return CHOIR_OK;
    for (uint32_t r = 0; w->mapped && r < w->comm->host.size; r++) {
        struct host_end *end = w->mapped[r] ? peer_end(w, (int)r) : NULL;
        if (end)
            host_end_ops(end)->unmap(end->endpoint, w->mapped[r],
                                     w->card[r].offset + w->card[r].bytes);
    }
    free(w->card);
    free(w->mapped);
    free(w);
    return CHOIR_OK;
}

enum choir_status choir_window_pointer(choir_window *w, int peer, void **memory, size_t *bytes)
{
    if (!w || !memory || !bytes)
        return base_fail(CHOIR_ERR_POINTER,
                         "pass a window of choir_window_create and where to put the answer",
                         "%s is NULL",
                         !w        ? "window"
                         : !memory ? "memory"
                                   : "bytes");
    struct choir_comm *c = w->comm;
    if (peer < 0 || (uint32_t)peer >= c->host.size)
        return comm_fail(c, CHOIR_ERR_RANK, "ranks run from 0 to size - 1",
                         "peer %d is not in 0..%u", peer, c->host.size - 1);
    const struct window_card *card = &w->card[peer];
    struct host_peer *process = c->host.member[peer];
    if (!memcmp(&process->id, &host_process.id,
                sizeof(process->id))) { /* this process: the address itself */
        *memory = (void *)(uintptr_t)card->address;
        *bytes = card->bytes;
        return CHOIR_OK;
    }
    uint64_t until = base_now_ns() + c->timeout_ns;
    while (!host_peer_reach(process) && !atomic_load(&process->failed) && base_now_ns() < until)
        sched_yield();
    struct host_end *end = host_peer_end(process);
    if (!end || !card->transport_name || name_hash(end->transport) != card->transport_name)
        return comm_fail(c, CHOIR_ERR_UNSUPPORTED,
                         "windows of choir_mem_alloc memory are mapped by ranks of the same host",
                         "the window of rank %d cannot be mapped here", peer);
    enum choir_status st = CHOIR_OK;
    while (!w->mapped[peer]) {
        st = host_end_ops(end)->map(end->endpoint, card->key, card->offset + card->bytes,
                                    &w->mapped[peer]);
        if (st != CHOIR_IN_PROGRESS || base_now_ns() > until)
            break;
        sched_yield();
    }
    if (!w->mapped[peer])
        return comm_fail(c, st == CHOIR_IN_PROGRESS ? CHOIR_ERR_TIMEOUT : st,
                         "see the log of that rank", "the window of rank %d cannot be mapped",
                         peer);
    *memory = (uint8_t *)w->mapped[peer] + card->offset;
    *bytes = card->bytes;
    return CHOIR_OK;
}
