/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.c: a bounded map from key bytes to values, the least recently used leaving first.
 *
 * Open addressing with linear probing over indices of a fixed array of entries; the entries form a list in
 * order of use. A hit allocates nothing and takes no lock: the owner (a communicator) calls from one thread
 * at a time. Values are not counted: a value that may be in use while others are added has its own count,
 * which `drop` decrements.
 */
#include "plan/plan.h"
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

struct entry {
    uint64_t hash;
    void *key, *value;
    void (*drop)(void *value);
    size_t bytes;
    uint32_t newer, older; /* neighbours in order of use; `older` also chains the free entries */
};

struct plan_cache {
    uint32_t capacity, count, mask;
    uint32_t newest, oldest, free;
    struct entry *entry; /* [capacity] */
    uint32_t *slot;      /* [mask + 1] index of an entry, or NONE; at most half are used */
};

struct plan_cache *plan_cache_create(uint32_t capacity)
{
    if (!capacity)
        capacity = 1;
    if (capacity > 1u << 30)
        return NULL;
    uint32_t slots = 4;
    while (slots < 2 * capacity)
        slots *= 2;
    struct plan_cache *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->entry = calloc(capacity, sizeof(*c->entry));
    c->slot = malloc(slots * sizeof(*c->slot));
    if (!c->entry || !c->slot) {
        free(c->entry);
        free(c->slot);
        free(c);
        return NULL;
    }
    c->capacity = capacity;
    c->mask = slots - 1;
    c->newest = c->oldest = NONE;
    for (uint32_t i = 0; i < slots; i++)
        c->slot[i] = NONE;
    for (uint32_t i = 0; i < capacity; i++)
        c->entry[i].older = i + 1 < capacity ? i + 1 : NONE;
    return c;
}

static void list_remove(struct plan_cache *c, uint32_t i)
{
    struct entry *e = &c->entry[i];
    *(e->newer == NONE ? &c->newest : &c->entry[e->newer].older) = e->older;
    *(e->older == NONE ? &c->oldest : &c->entry[e->older].newer) = e->newer;
}

static void list_push(struct plan_cache *c, uint32_t i)
{
    struct entry *e = &c->entry[i];
    e->newer = NONE;
    e->older = c->newest;
    *(c->newest == NONE ? &c->oldest : &c->entry[c->newest].newer) = i;
    c->newest = i;
}

/* The slot that holds the key, or the empty one where its search ends. */
static uint32_t slot_find(const struct plan_cache *c, uint64_t hash, const void *key, size_t bytes)
{
    uint32_t s = (uint32_t)hash & c->mask;
    for (; c->slot[s] != NONE; s = (s + 1) & c->mask) {
        const struct entry *e = &c->entry[c->slot[s]];
        if (e->hash == hash && e->bytes == bytes && (!bytes || !memcmp(e->key, key, bytes)))
            break;
    }
    return s;
}

/* Empties a slot and moves later ones of the same run back, so that no search meets a hole. */
static void slot_remove(struct plan_cache *c, uint32_t s)
{
    for (uint32_t t = (s + 1) & c->mask; c->slot[t] != NONE; t = (t + 1) & c->mask) {
        uint32_t home = (uint32_t)c->entry[c->slot[t]].hash & c->mask;
        if (((t - home) & c->mask) >= ((t - s) & c->mask)) {
            c->slot[s] = c->slot[t];
            s = t;
        }
    }
    c->slot[s] = NONE;
}

static void evict(struct plan_cache *c, uint32_t i)
{
    struct entry *e = &c->entry[i];
    slot_remove(c, slot_find(c, e->hash, e->key, e->bytes));
    list_remove(c, i);
    void (*drop)(void *) = e->drop;
    void *value = e->value;
    free(e->key);
    e->key = NULL;
    e->older = c->free;
    c->free = i;
    c->count--;
    if (drop)
        drop(value);
}

void plan_cache_free(struct plan_cache *cache)
{
    if (!cache)
        return;
    while (cache->oldest != NONE)
        evict(cache, cache->oldest);
    free(cache->entry);
    free(cache->slot);
    free(cache);
}

void *plan_cache_find(struct plan_cache *cache, const void *key, size_t bytes)
{
    uint32_t i = cache->slot[slot_find(cache, base_hash(key, bytes, 0), key, bytes)];
    if (i == NONE)
        return NULL;
    if (i != cache->newest) {
        list_remove(cache, i);
        list_push(cache, i);
    }
    return cache->entry[i].value;
}

enum choir_status plan_cache_add(struct plan_cache *cache, const void *key, size_t bytes,
                                 void *value, void (*drop)(void *value))
{
    void *copy = malloc(bytes ? bytes : 1);
    if (!copy)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory, or lower the number of cached plans",
                         "no memory for the key of a plan");
    if (bytes)
        memcpy(copy, key, bytes);
    uint64_t hash = base_hash(key, bytes, 0);
    uint32_t old = cache->slot[slot_find(cache, hash, key, bytes)];
    if (old != NONE)
        evict(cache, old);
    else if (cache->count == cache->capacity)
        evict(cache, cache->oldest);
    uint32_t i = cache->free;
    struct entry *e = &cache->entry[i];
    cache->free = e->older;
    *e = (struct entry){.hash = hash, .key = copy, .value = value, .drop = drop, .bytes = bytes};
    list_push(cache, i);
    cache->slot[slot_find(cache, hash, key, bytes)] = i;
    cache->count++;
    return CHOIR_OK;
}

uint32_t plan_cache_count(const struct plan_cache *cache)
{
    return cache->count;
}
