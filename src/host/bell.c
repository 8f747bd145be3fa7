/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bell.c: waking who sleeps. Every rank has a bell in memory that its peers map: a word to sleep on (futex), a mark of
 * who sleeps, and the counts of signals (put.c). A peer that publishes something looks at the mark only; it is the
 * sleeper that pays for the order of "published" and "looked": it sets the mark, forces a barrier on all running threads
 * (membarrier), looks again, and only then sleeps. Where the system has no such barrier, the ringing side fences instead
 * (host_bell_ring).
 */
#include "host/host.h"
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

uint64_t host_bell_bytes(uint32_t ranks)
{
    return sizeof(struct host_bell) + (uint64_t)ranks * CHOIR_SIGNALS * sizeof(uint64_t);
}

enum choir_status host_bell_create(uint32_t ranks, struct host_bell_box **out)
{
    struct host_bell_box *box = calloc(1, sizeof(*box));
    if (!box)
        return CHOIR_ERR_NO_MEMORY;
    box->transport = HOST_TRANSPORTS;
    for (uint32_t i = 0; i < host_process.transports && !box->bell; i++) {
        struct host_transport *t = &host_process.transport[i];
        if (!t->maps || !strcmp(t->ops->name, "self"))
            continue;
        if (t->ops->alloc(t->t, host_bell_bytes(ranks), &box->shared) == CHOIR_OK)
            box->bell = box->shared.memory, box->transport = i;
    }
    if (!box->bell) { /* mapped: touched as far as it is used, as the other is */
        box->shared.bytes = host_bell_bytes(ranks);
        void *p = mmap(NULL, box->shared.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                       -1, 0);
        box->bell = p == MAP_FAILED ? NULL : p;
    }
    if (!box->bell) {
        free(box);
        return CHOIR_ERR_NO_MEMORY;
    }
    atomic_store(&box->holders, 1);
    *out = box;
    return CHOIR_OK;
}

void host_bell_drop(struct host_bell_box *box)
{
    if (!box || atomic_fetch_sub(&box->holders, 1) != 1)
        return;
    if (box->transport < HOST_TRANSPORTS)
        host_process.transport[box->transport].ops->release(
            host_process.transport[box->transport].t, &box->shared);
    else
        munmap(box->bell, box->shared.bytes);
    free(box);
}

static void wake(struct host_bell *bell)
{
    atomic_fetch_add(&bell->word, 1);
    syscall(SYS_futex, &bell->word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void host_bell_ring_slow(struct host_bell *bell, bool same, struct host_end *end)
{
    uint32_t who = atomic_exchange(&bell->asleep, 0);
    if (who & HOST_ASLEEP_CALLER)
        wake(bell);
    if (!(who & HOST_ASLEEP_SERVICE))
        return;
    if (same)
        service_kick();
    else if (end)
        host_end_ops(end)->wake(end->endpoint);
}

void host_bell_wake_own(struct host_comm *comm)
{
    uint32_t who = atomic_exchange(&comm->bell->asleep, 0);
    if (who & HOST_ASLEEP_CALLER)
        wake(comm->bell);
    if (who & HOST_ASLEEP_SERVICE)
        service_kick();
}

uint32_t host_bell_mark(struct host_comm *comm, uint32_t who)
{
    uint32_t word = atomic_load(&comm->bell->word);
    atomic_fetch_or(&comm->bell->asleep, who);
    return word;
}

uint32_t host_bell_prepare(struct host_comm *comm, uint32_t who)
{
    uint32_t word = host_bell_mark(comm, who);
    if (host_process.membarrier)
        syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0,
                0); /* pairs with host_bell_ring */
    else
        atomic_thread_fence(memory_order_seq_cst);
    return word;
}

void host_bell_cancel(struct host_comm *comm, uint32_t who)
{
    atomic_fetch_and(&comm->bell->asleep, ~who);
}

void host_bell_sleep(struct host_comm *comm, uint32_t word, uint64_t most_ns)
{
    struct timespec t = {.tv_sec = (time_t)(most_ns / 1000000000u),
                         .tv_nsec = (long)(most_ns % 1000000000u)};
    syscall(SYS_futex, &comm->bell->word, FUTEX_WAIT, word, &t, NULL, 0);
    host_bell_cancel(comm, HOST_ASLEEP_CALLER);
}
