/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.c: windows: what each rank tells the others of its part, and the parts that are mapped here. Puts into them are put.c's,
 * how bytes get there src/host/put.c's, parts in GPU memory window_device.c's.
 */
#include "comm/window.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>

static uint32_t name_hash(uint32_t transport)
{
    const char *name = host_process.transport[transport].ops->name;
    return (uint32_t)base_hash(name, strlen(name), 6) | 1;
}

static struct window_card describe(const struct choir_comm *c, const struct host_part *part)
{
    const struct host_bell_box *box = c->host.bell_box;
    struct window_card card = {
        .bytes = part->bytes, .address = (uint64_t)(uintptr_t)part->memory, .part = part->id};
    struct host_view view;
    if (host_shared_find(part->memory, part->bytes, &view)) {
        card.key = view.key;
        card.offset = view.offset;
        card.transport_name = name_hash(view.transport);
    }
    if (box->transport < HOST_TRANSPORTS) {
        card.bell_key = box->shared.key;
        card.bell_transport_name = name_hash(box->transport);
    }
    return card;
}

/* Where signals to the rank can be raised directly. */
static void learn_bell(struct choir_comm *c, uint32_t rank, const struct window_card *card)
{
    for (uint32_t i = 0; i < host_process.transports; i++)
        if (card->bell_transport_name == name_hash(i))
            host_signal_learn(&c->host, rank, i, card->bell_key);
}

enum choir_status window_agree(struct choir_comm *c, const void *blob, uint32_t bytes,
                               uint32_t least, struct tree_answers *answers)
{
    uint64_t until = base_now_ns() + c->timeout_ns;
    *answers = (struct tree_answers){0};
    enum choir_status st = tree_start(c, blob, bytes);
    while (st == CHOIR_OK && (st = tree_answers(c, least, answers)) == CHOIR_IN_PROGRESS) {
        st = (enum choir_status)atomic_load(&c->host.broken);
        if (st == CHOIR_OK && base_now_ns() > until)
            st = comm_fail(c, CHOIR_ERR_TIMEOUT, "all ranks call choir_window_create",
                           "a window waited too long for the other ranks");
        sched_yield();
    }
    return st;
}

static enum choir_status exchange_cards(struct choir_window *w, const struct window_card *mine)
{
    struct choir_comm *c = w->comm;
    struct tree_answers x;
    enum choir_status st =
        window_agree(c, mine, WINDOW_CARD_BYTES(mine->where), WINDOW_CARD_BYTES(WINDOW_HOST), &x);
    for (uint32_t r = 0; r < c->host.size && st == CHOIR_OK; r++) {
        memcpy(&w->card[r], x.blob[r], base_min(x.bytes[r], (uint32_t)sizeof(w->card[r])));
        learn_bell(c, r, &w->card[r]);
    }
    tree_answers_free(&x);
    return st;
}

static struct choir_window *make(struct choir_comm *c, void *memory, size_t bytes)
{
    struct choir_window *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    pthread_mutex_init(&w->lock, NULL);
    w->comm = c;
    w->card = calloc(c->host.size, sizeof(*w->card));
    w->mapped = calloc(c->host.size, sizeof(*w->mapped));
    w->part = (struct host_part){.id = ++c->windows, .memory = memory, .bytes = bytes};
    if (w->card && w->mapped)
        return w;
    choir_window_destroy(w);
    return NULL;
}

static enum choir_status open_window(struct choir_window *w)
{
    struct choir_comm *c = w->comm;
    struct window_card card = describe(c, &w->part);
    enum choir_status st = window_gpu_describe(c, w->part.memory, w->part.bytes, &card);
    if (st == CHOIR_OK && card.where == WINDOW_HOST) /* before anybody hears of it */
        st = host_part_add(&c->host, &w->part);
    if (st == CHOIR_OK)
        st = exchange_cards(w, &card);
    return st == CHOIR_OK ? window_gpu_open(w) : st;
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
    if ((st = comm_ready(comm)) != CHOIR_OK)
        return st;
    struct choir_window *w = make(comm, memory, bytes);
    st = w ? open_window(w)
           : comm_fail(comm, CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a window");
    if (st == CHOIR_OK)
        *window = w;
    else
        choir_window_destroy(w);
    return st;
}

static struct host_end *peer_end(const struct choir_window *w, uint32_t peer)
{
    return host_peer_end(w->comm->host.member[peer]);
}

enum choir_status choir_window_destroy(choir_window *w)
{
    if (!w)
        return CHOIR_OK;
    host_part_remove(&w->comm->host, &w->part);
    for (uint32_t r = 0; w->mapped && w->card && r < w->comm->host.size; r++) {
        struct host_end *end = w->mapped[r] ? peer_end(w, r) : NULL;
        if (end)
            host_end_ops(end)->unmap(end->endpoint, w->mapped[r],
                                     w->card[r].offset + w->card[r].bytes);
    }
    window_gpu_close(w);
    pthread_mutex_destroy(&w->lock);
    free(w->card);
    free(w->mapped);
    free(w);
    return CHOIR_OK;
}

/* --- a peer's part here ---------------------------------------------------------------------------------- */

bool window_same_process(const struct choir_window *w, uint32_t peer)
{
    return !memcmp(&w->comm->host.member[peer]->id, &host_process.id, sizeof(host_process.id));
}

/* The address of the part here; maps it at first. CHOIR_IN_PROGRESS: call again; CHOIR_ERR_UNSUPPORTED: it cannot be. */
static enum choir_status map_part(struct choir_window *w, uint32_t peer, uint8_t **memory)
{
    const struct window_card *card = &w->card[peer];
    struct host_peer *process = w->comm->host.member[peer];
    enum choir_status st = CHOIR_OK;
    if (card->where == WINDOW_GPU) {
        *memory = w->gpu[peer].memory;
        return CHOIR_OK;
    }
    if (window_same_process(w, peer)) {
        *memory = (uint8_t *)(uintptr_t)card->address;
        return CHOIR_OK;
    }
    if (!host_peer_reach(process))
        return atomic_load(&process->failed) ? CHOIR_ERR_UNSUPPORTED : CHOIR_IN_PROGRESS;
    struct host_end *end = host_peer_end(process);
    if (!card->transport_name || name_hash(end->transport) != card->transport_name)
        return CHOIR_ERR_UNSUPPORTED;
    pthread_mutex_lock(&w->lock);
    if (!w->mapped[peer])
        st = host_end_ops(end)->map(end->endpoint, card->key, card->offset + card->bytes,
                                    &w->mapped[peer]);
    pthread_mutex_unlock(&w->lock);
    if (st == CHOIR_OK)
        *memory = (uint8_t *)w->mapped[peer] + card->offset;
    return st;
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
    enum choir_status st = comm_check_peer(c, peer);
    if (st != CHOIR_OK)
        return st;
    uint8_t *at = NULL;
    uint64_t until = base_now_ns() + c->timeout_ns;
    while ((st = map_part(w, (uint32_t)peer, &at)) == CHOIR_IN_PROGRESS && base_now_ns() < until)
        sched_yield();
    if (st == CHOIR_ERR_UNSUPPORTED)
        return comm_fail(c, CHOIR_ERR_UNSUPPORTED,
                         "windows of choir_mem_alloc memory are mapped by ranks of the same host",
                         "the window of rank %d cannot be mapped here", peer);
    if (st != CHOIR_OK)
        return comm_fail(c, st == CHOIR_IN_PROGRESS ? CHOIR_ERR_TIMEOUT : st,
                         "see the log of that rank", "the window of rank %d cannot be mapped",
                         peer);
    *memory = at;
    *bytes = w->card[peer].bytes;
    return CHOIR_OK;
}

enum choir_status window_way(struct choir_window *w, uint32_t peer, struct host_put *put)
{
    const struct window_card *card = &w->card[peer];
    uint8_t *at = NULL;
    enum choir_status st = map_part(w, peer, &at);
    if (st == CHOIR_IN_PROGRESS)
        return st;
    put->part = card->part;
    if (st == CHOIR_OK) {
        put->to = at + put->offset;
        return st;
    }
    struct host_end *end = peer_end(w, peer);
    if (end && host_end_ops(end)->caps(end->endpoint) & CHOIR_CAP_READ) {
        put->end = end;
        put->address = card->address + put->offset;
    }
    return CHOIR_OK; /* or by frames */
}
