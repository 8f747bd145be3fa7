/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shared.c: memory of choir_mem_alloc, which peers on the host can map, and the question which of it an address lies in.
 * Senders ask for every large message, so the answer takes no lock: the table is sorted, and read again if it changed
 * meanwhile (a sequence lock; all its words are atomic). Tables outgrown are kept: a reader may still be in one.
 */
#include "host/host.h"
#include <stdlib.h>
#include <string.h>

struct entry {
    _Atomic uint64_t from, bytes, key;
    _Atomic uint32_t transport;
};
struct table {
    struct table *older;
    uint32_t room;
    _Atomic uint32_t count;
    struct entry entry[];
};
static _Atomic(struct table *) table;
static _Atomic uint32_t version; /* odd: being changed */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define GET(word) atomic_load_explicit(&(word), memory_order_relaxed)
#define PUT(word, value) atomic_store_explicit(&(word), value, memory_order_relaxed)

static void copy_entry(struct entry *to, const struct entry *from)
{
    PUT(to->from, GET(from->from));
    PUT(to->bytes, GET(from->bytes));
    PUT(to->key, GET(from->key));
    PUT(to->transport, GET(from->transport));
}

static void change_begin(void)
{
    PUT(version, GET(version) + 1);
    atomic_thread_fence(
        memory_order_release); /* pairs with the acquire fence of host_shared_find */
}

static void change_end(void)
{
    atomic_store_explicit(&version, GET(version) + 1, memory_order_release);
}

/* Room for one more; lock held. */
static struct table *grown(void)
{
    struct table *t = atomic_load(&table);
    uint32_t count = t ? GET(t->count) : 0, room = t ? 2 * t->room : 16;
    if (t && count < t->room)
        return t;
    struct table *more = calloc(1, sizeof(*more) + room * sizeof(more->entry[0]));
    if (!more)
        return NULL;
    for (uint32_t i = 0; i < count; i++)
        copy_entry(&more->entry[i], &t->entry[i]);
    PUT(more->count, count);
    more->room = room;
    more->older = t;
    atomic_store_explicit(&table, more, memory_order_release);
    return more;
}

/* Of the entries that begin at or before `at`, how many. */
static uint32_t before(const struct table *t, uint32_t count, uint64_t at)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (GET(t->entry[mid].from) <= at)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool add(const struct choir_shared *shared, uint32_t transport)
{
    pthread_mutex_lock(&lock);
    struct table *t = grown();
    if (t) {
        uint32_t count = GET(t->count), at = before(t, count, (uint64_t)(uintptr_t)shared->memory);
        change_begin();
        for (uint32_t i = count; i > at; i--)
            copy_entry(&t->entry[i], &t->entry[i - 1]);
        PUT(t->entry[at].from, (uint64_t)(uintptr_t)shared->memory);
        PUT(t->entry[at].bytes, shared->bytes);
        PUT(t->entry[at].key, shared->key);
        PUT(t->entry[at].transport, transport);
        PUT(t->count, count + 1);
        change_end();
    }
    pthread_mutex_unlock(&lock);
    return t != NULL;
}

enum choir_status host_shared_alloc(size_t bytes, void **memory)
{
    struct choir_shared shared = {0};
    for (uint32_t i = 0; i < host_process.transports; i++) {
        struct host_transport *t = &host_process.transport[i];
        shared = (struct choir_shared){.flags = CHOIR_SHARED_LASTING};
        if (!t->maps || !strcmp(t->ops->name, "self") ||
            t->ops->alloc(t->t, bytes, &shared) != CHOIR_OK)
            continue;
        if (add(&shared, i)) {
            *memory = shared.memory;
            return CHOIR_OK;
        }
        t->ops->release(t->t, &shared);
        break;
    }
    return base_fail(CHOIR_ERR_NO_MEMORY, "free memory; CHOIR_TRANSPORTS must contain shm",
                     "no memory for %zu bytes that peers can map", bytes);
}

enum choir_status host_shared_free(void *memory)
{
    struct choir_shared shared = {.memory = memory};
    uint32_t transport = 0;
    pthread_mutex_lock(&lock);
    struct table *t = atomic_load(&table);
    uint32_t count = t ? GET(t->count) : 0,
             at = t ? before(t, count, (uint64_t)(uintptr_t)memory) : 0;
    bool found = at && GET(t->entry[at - 1].from) == (uint64_t)(uintptr_t)memory;
    if (found) {
        shared.bytes = GET(t->entry[at - 1].bytes);
        shared.key = GET(t->entry[at - 1].key);
        transport = GET(t->entry[at - 1].transport);
        change_begin();
        for (uint32_t i = at; i < count; i++)
            copy_entry(&t->entry[i - 1], &t->entry[i]);
        PUT(t->count, count - 1);
        change_end();
    }
    pthread_mutex_unlock(&lock);
    if (!found)
        return base_fail(CHOIR_ERR_POINTER, "pass what choir_mem_alloc returned, once",
                         "memory was not allocated by choir_mem_alloc");
    return host_process.transport[transport].ops->release(host_process.transport[transport].t,
                                                          &shared);
}

void host_shared_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    PUT(version, 0);
    if (atomic_load(&table))
        PUT(atomic_load(&table)->count, 0);
}

bool host_shared_find(const void *memory, uint64_t bytes, struct host_view *view)
{
    uint64_t at = (uint64_t)(uintptr_t)memory, inside = 0, room = 0;
    for (;;) {
        uint32_t seen = atomic_load_explicit(&version, memory_order_acquire);
        const struct table *t = atomic_load_explicit(&table, memory_order_acquire);
        uint32_t count = t ? GET(t->count) : 0, i = count ? before(t, count, at) : 0;
        *view = (struct host_view){0};
        if (i) {
            const struct entry *e = &t->entry[i - 1];
            inside = at - GET(e->from), room = GET(e->bytes);
            *view = (struct host_view){GET(e->key), inside, GET(e->transport)};
        }
        atomic_thread_fence(memory_order_acquire); /* pairs with change_begin */
        if (base_likely(!(seen & 1) && GET(version) == seen))
            break;
        base_relax();
    }
    if (view->key && inside <= room && bytes <= room - inside)
        return true;
    view->key = 0;
    return false;
}
