/* SPDX-License-Identifier: Apache-2.0 */
/*
 * comm.c: a communicator as the engine sees it: its bell, its links, its place in the table that frames are handed out by, and
 * the error that ends it.
 */
#include "host/process.h"
#include "host/put.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum choir_status host_comm_open(struct host_comm *comm)
{
    pthread_mutex_init(&comm->lock, NULL);
    comm->link = calloc(comm->size, sizeof(*comm->link));
    if (!comm->link || host_bell_create(comm->size, &comm->bell_box) != CHOIR_OK) {
        free(comm->link);
        pthread_mutex_destroy(&comm->lock);
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory",
                         "no memory for a communicator of %u ranks", comm->size);
    }
    comm->bell = comm->bell_box->bell;
    atomic_fetch_add(&comm->private_bytes, comm->size * sizeof(*comm->link));
    peers_add_comm(comm);
    return CHOIR_OK;
}

bool host_comm_hide(struct host_comm *comm)
{
    if (peers_remove_comm(comm, 1000000000))
        return true;
    base_log(BASE_WARN, (int)comm->rank, "communicator memory kept: an upcall did not return");
    return false;
}

void host_comm_close(struct host_comm *comm)
{
    for (uint32_t r = 0; r < comm->size; r++) {
        struct host_link *link = atomic_load(&comm->link[r]);
        if (link)
            host_link_free(link);
    }
    host_put_free(comm);
    host_bell_drop(comm->bell_box);
    free(comm->link);
    free(comm->scratch);
    comm->scratch = NULL;
    comm->scratch_bytes = 0;
    pthread_mutex_destroy(&comm->lock);
}

void host_comm_break(struct host_comm *comm, enum choir_status status,
                     const struct base_error_at *at, const char *remedy, const char *text, ...)
{
    char line[256];
    va_list ap;
    va_start(ap, text);
    vsnprintf(line, sizeof(line), text, ap);
    va_end(ap);
    pthread_mutex_lock(&comm->lock);
    bool first = !atomic_load(&comm->broken);
    if (first) {
        base_error_fill(&comm->error, status, at, remedy, "%s", line);
        comm->broke(comm); /* who sees it may say goodbye at once, and the verdict goes first */
        atomic_store(&comm->broken, (int32_t)status);
    }
    pthread_mutex_unlock(&comm->lock);
    if (first)
        host_bell_wake_own(comm);
}

/* A control payload, kept until its transport is done with it. */
static struct lent {
    struct lent *next;
    struct choir_send request;
    uint8_t data[];
} * lents;
static pthread_mutex_t lent_lock = PTHREAD_MUTEX_INITIALIZER;

static struct lent *lend(const void *payload, uint32_t bytes)
{
    struct lent *l = malloc(sizeof(*l) + bytes);
    if (!l)
        return NULL;
    memcpy(l->data, payload, bytes);
    atomic_store(&l->request.done, 0);
    pthread_mutex_lock(&lent_lock);
    l->next = lents;
    lents = l;
    pthread_mutex_unlock(&lent_lock);
    return l;
}

void host_control_sweep(bool all)
{
    pthread_mutex_lock(&lent_lock);
    for (struct lent **at = &lents; *at;) {
        struct lent *l = *at;
        if (!all && !atomic_load_explicit(&l->request.done, memory_order_acquire)) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        free(l);
    }
    pthread_mutex_unlock(&lent_lock);
}

bool host_control_send(struct host_comm *comm, uint32_t to, uint16_t kind, const uint64_t arg[3],
                       uint32_t flags, const void *payload, uint32_t bytes)
{
    struct host_peer *peer = comm->member[to];
    if (!host_peer_reach(peer))
        return false;
    struct host_end *end = host_peer_end(peer);
    struct choir_frame f = {.bytes = bytes,
                            .kind = kind,
                            .comm = comm->key,
                            .from = comm->rank,
                            .to = to,
                            .flags = flags,
                            .arg = {arg[0], arg[1], arg[2]}};
    struct lent *lent = NULL;
    if (bytes && !(lent = lend(payload, bytes)))
        return false;
    enum choir_status st = host_end_ops(end)->send(end->endpoint, &f, lent ? lent->data : NULL,
                                                   lent ? &lent->request : NULL);
    if (lent && st != CHOIR_IN_PROGRESS)
        atomic_store(&lent->request.done, 1);
    host_control_sweep(false);
    return st >= 0;
}

void host_control_last(struct host_comm *comm, uint32_t to, uint16_t kind, uint64_t arg)
{
    reach_send_last(
        comm->member[to],
        &(struct choir_frame){
            .kind = kind, .comm = comm->key, .from = comm->rank, .to = to, .arg = {arg}});
}
