/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handle.c: handles that can be held against what is alive, and how a communicator outlives the calls in it.
 *
 * A call is in a communicator from nccl_comm_enter to nccl_comm_leave. Who ends one first marks it, so that none enters, then
 * waits for those in it: abort wakes them, others end by themselves. Calls collected in a group keep it from being freed, so
 * that their end finds out that it was aborted.
 */
#include "shims/nccl/internal.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- pools ---------------------------------------------------------------------------------------- */

static struct nccl_item *add_chunk(struct nccl_pool *p)
{
    for (uint32_t i = 0; i < NCCL_CHUNKS; i++) {
        if (atomic_load(&p->chunk[i]))
            continue;
        char *chunk = calloc(p->count, p->bytes);
        for (uint32_t k = 0; chunk && k < p->count; k++) {
            struct nccl_item *item = (struct nccl_item *)(void *)(chunk + k * p->bytes);
            item->next = k + 1 < p->count ? (void *)(chunk + (k + 1) * p->bytes) : NULL;
            p->last = item;
        }
        atomic_store(&p->chunk[i], chunk);
        return (struct nccl_item *)(void *)chunk;
    }
    return NULL;
}

void *nccl_pool_take(struct nccl_pool *p)
{
    pthread_mutex_lock(&p->lock);
    if (!p->first)
        p->first = add_chunk(p);
    struct nccl_item *item = p->first;
    if (item)
        p->first = item->next;
    pthread_mutex_unlock(&p->lock);
    if (!item)
        return NULL;
    memset(item + 1, 0, p->bytes - sizeof(*item));
    atomic_store(&item->life, NCCL_LIVE);
    return item;
}

void nccl_pool_give(struct nccl_pool *p, void *memory)
{
    struct nccl_item *item = memory;
    atomic_store(&item->life, NCCL_FREE);
    item->next = NULL;
    pthread_mutex_lock(&p->lock);
    if (p->first)
        p->last->next = item;
    else
        p->first = item;
    p->last = item;
    pthread_mutex_unlock(&p->lock);
}

bool nccl_pool_has(struct nccl_pool *p, const void *item)
{
    for (uint32_t i = 0; i < NCCL_CHUNKS; i++) {
        const char *chunk = atomic_load_explicit(&p->chunk[i], memory_order_acquire);
        if (!chunk)
            return false;
        size_t at = (size_t)((uintptr_t)item - (uintptr_t)chunk);
        if (at < p->count * p->bytes)
            return at % p->bytes == 0;
    }
    return false;
}

/* --- communicators ---------------------------------------------------------------------------------- */

static struct nccl_pool comms = {
    .bytes = sizeof(struct ncclComm), .count = 16, .lock = PTHREAD_MUTEX_INITIALIZER};

ncclComm_t nccl_comm_new(const struct nccl_config *config, const struct nccl_gpu *gpu)
{
    ncclComm_t c = nccl_pool_take(&comms);
    if (!c)
        return NULL;
    c->config = *config;
    c->gpu = *gpu;
    pthread_mutex_init(&c->lock, NULL);
    atomic_store(&c->result, ncclInProgress);
    atomic_store(&c->refs, 1);
    return c;
}

/* call NULL: nothing is said. */
static ncclResult_t enter(ncclComm_t comm, const char *call, uint32_t most)
{
    const char *wrong = !comm ? "NULL" : !nccl_pool_has(&comms, comm) ? "not a communicator" : NULL;
    if (!wrong) {
        /* Before the look at life; nccl_comm_end does the reverse. */
        atomic_fetch_add(&comm->item.active, 1);
        uint32_t life = atomic_load(&comm->item.life);
        if (life >= NCCL_LIVE && life <= most)
            return ncclSuccess;
        nccl_comm_leave(comm);
        wrong = "destroyed or aborted";
    }
    return call ? nccl_fail(ncclInvalidArgument, "%s: comm is %s", call, wrong)
                : ncclInvalidArgument;
}

ncclResult_t nccl_comm_enter_any(ncclComm_t comm, const char *call)
{
    return enter(comm, call, NCCL_CLOSING);
}

void nccl_comm_leave(ncclComm_t comm)
{
    atomic_fetch_sub(&comm->item.active, 1);
}

ncclResult_t nccl_comm_state(const ncclComm_t comm)
{
    ncclResult_t r = (ncclResult_t)atomic_load(&comm->result);
    if (atomic_load(&comm->pending))
        return ncclInProgress;
    if (r != ncclSuccess || atomic_load(&comm->revoked))
        return r;
    r = nccl_result_of(choir_comm_status(atomic_load(&comm->choir)));
    return r == ncclSuccess ? (ncclResult_t)atomic_load(&comm->failed) : r;
}

static ncclResult_t enter_ready(ncclComm_t comm, const char *call, uint32_t most)
{
    ncclResult_t r = enter(comm, call, most);
    if (r != ncclSuccess)
        return r;
    if (atomic_load(&comm->pending) || atomic_load(&comm->result) == ncclInProgress)
        r = nccl_fail(ncclInvalidArgument,
                      "%s: comm is being made or ended; wait until ncclCommGetAsyncError says "
                      "ncclSuccess",
                      call);
    else if ((r = (ncclResult_t)atomic_load(&comm->result)) != ncclSuccess)
        nccl_fail(r, "%s: comm could not be made: %s", call, nccl_result_text(r));
    if (r != ncclSuccess)
        nccl_comm_leave(comm);
    return r;
}

ncclResult_t nccl_comm_enter(ncclComm_t comm, const char *call)
{
    return enter_ready(comm, call, NCCL_LIVE);
}

ncclResult_t nccl_comm_enter_closing(ncclComm_t comm, const char *call)
{
    return enter_ready(comm, call, NCCL_CLOSING);
}

void nccl_comm_hold(ncclComm_t comm)
{
    atomic_fetch_add(&comm->refs, 1);
}

void nccl_comm_drop(ncclComm_t comm)
{
    if (atomic_fetch_sub(&comm->refs, 1) > 1)
        return;
    nccl_buffer_end_all(comm);
    choir_comm *c = atomic_exchange(&comm->choir, NULL);
    if (c)
        choir_comm_destroy(c);
    pthread_mutex_destroy(&comm->lock);
    nccl_pool_give(&comms, comm);
}

void nccl_comm_stop(ncclComm_t comm)
{
    atomic_store(&comm->stopped, true);
    choir_comm *c = atomic_load(&comm->choir);
    if (c && atomic_load(&comm->result) == ncclInProgress)
        choir_comm_abort(c);
}

static void stop_child(ncclComm_t comm)
{
    pthread_mutex_lock(&comm->lock);
    if (comm->making)
        nccl_comm_stop(comm->making);
    pthread_mutex_unlock(&comm->lock);
}

/* Calls in it end within their own deadlines; an abort is heard by those that wait for a rank, at once, and one that is being made
 * is made no further. In the child of a fork there are none, whatever the count was. */
static void wait_for_calls(ncclComm_t comm, bool abort)
{
    choir_comm *told = NULL;
    abort |= atomic_load(&comm->result) == ncclInProgress;
    for (uint32_t turn = 0;; turn++) {
        choir_comm *c = atomic_load(&comm->choir); /* it may come late, if it is being made */
        if (abort && c != told)
            choir_comm_abort(told = c);
        if (abort)
            stop_child(comm);
        if (!atomic_load(&comm->item.active) || (c && choir_comm_status(c) == CHOIR_ERR_FORKED))
            return;
        nanosleep(&(struct timespec){.tv_nsec = turn < 50 ? 20000 : 1000000}, NULL);
    }
}

bool nccl_comm_end(ncclComm_t comm, bool abort)
{
    uint32_t life = atomic_load(&comm->item.life);
    do
        if (life != NCCL_LIVE && life != NCCL_CLOSING)
            return false;
    while (!atomic_compare_exchange_weak(&comm->item.life, &life, NCCL_LEAVING));
    wait_for_calls(comm, abort);
    nccl_comm_drop(comm);
    return true;
}
