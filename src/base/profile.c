/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profile.c: the observers. Their places are a fixed table, so telling takes no lock: who tells counts itself in, looks whether the
 * place is in use, and calls; who removes marks the place unused and waits until nobody is counted. Either sees the other.
 */
#include "base/profile.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#define PLACES 16u
#define PLACE_BITS 4u

_Atomic uint32_t profile_kinds;

static struct observer {
    _Atomic uint32_t kinds;   /* 0: not in use; set last */
    _Atomic uint32_t running; /* threads that tell it something, or are about to */
    _Atomic uint64_t since;   /* the first id drawn after it came */
    uint32_t number;
    choir_profile_fn fn;
    void *context;
} observers[PLACES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of adding and removing */
static _Atomic uint64_t ids;
static uint32_t added;
static _Thread_local uint32_t inside;

bool profile_inside(void)
{
    return inside != 0;
}

enum choir_status profile_refuse(void)
{
    return inside ? base_fail(CHOIR_ERR_STATE, "note what happened, and call from elsewhere",
                              "a callback of choir_profile_add calls the library")
                  : CHOIR_OK;
}

/* --- telling ------------------------------------------------------------------------------------------- */

/* Whether it was told. */
static bool tell(struct observer *o, const struct choir_profile_event *event)
{
    if (!(atomic_load_explicit(&o->kinds, memory_order_relaxed) & event->kind))
        return false;
    atomic_fetch_add(&o->running, 1); /* before kinds is read: pairs with choir_profile_remove */
    bool on = (atomic_load(&o->kinds) & event->kind) &&
              event->id >= atomic_load_explicit(&o->since, memory_order_relaxed);
    if (on) {
        int saved = errno;
        inside++;
        o->fn(event, o->context);
        inside--;
        errno = saved;
    }
    atomic_fetch_sub(&o->running, 1);
    return on;
}

static void stamp(struct profile_event *e, enum choir_profile_phase phase)
{
    e->event.bytes = sizeof(e->event);
    e->event.phase = phase;
    e->event.time_ns = base_now_ns();
}

static void tell_all(struct profile_event *e, enum choir_profile_phase phase)
{
    e->event.id = atomic_fetch_add(&ids, 1) + 1;
    e->event.status = CHOIR_OK;
    e->told = 0;
    stamp(e, phase);
    for (uint32_t i = 0; i < PLACES; i++)
        e->told |= (uint32_t)tell(&observers[i], &e->event) << i;
}

void profile_begin(struct profile_event *e)
{
    tell_all(e, CHOIR_PROFILE_BEGIN);
}

void profile_note(struct profile_event *e)
{
    tell_all(e, CHOIR_PROFILE_NOTE);
}

void profile_end(struct profile_event *e, enum choir_status status)
{
    if (!e->event.id)
        return;
    stamp(e, CHOIR_PROFILE_END);
    e->event.status = status;
    for (uint32_t i = 0; e->told >> i; i++)
        if (e->told >> i & 1)
            tell(&observers[i], &e->event);
    e->event.id = 0;
}

/* --- observers ----------------------------------------------------------------------------------------- */

/* In the child of a fork: the threads that were telling are not there. */
static void in_child(void)
{
    pthread_mutex_init(&lock, NULL);
    for (uint32_t i = 0; i < PLACES; i++)
        atomic_store(&observers[i].running, 0);
    inside = 0;
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, in_child);
}

static void add_up(void)
{
    uint32_t all = 0;
    for (uint32_t i = 0; i < PLACES; i++)
        all |= atomic_load(&observers[i].kinds);
    atomic_store(&profile_kinds, all);
}

static enum choir_status check(choir_profile_fn fn, uint32_t kinds, const uint32_t *observer)
{
    if (!fn || !observer)
        return base_fail(CHOIR_ERR_POINTER, "pass a function, and where to put the number",
                         "%s is NULL", fn ? "observer" : "fn");
    if (!kinds || kinds & ~(uint32_t)CHOIR_PROFILE_ALL)
        return base_fail(CHOIR_ERR_ARGUMENT, "add values of enum choir_profile_kind",
                         "kinds is 0x%x", kinds);
    return profile_refuse();
}

enum choir_status choir_profile_add(choir_profile_fn fn, void *context, uint32_t kinds,
                                    uint32_t *observer)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    enum choir_status st = check(fn, kinds, observer);
    if (st != CHOIR_OK)
        return st;
    pthread_once(&once, watch_forks);
    pthread_mutex_lock(&lock);
    uint32_t i = 0;
    while (i < PLACES && atomic_load(&observers[i].kinds))
        i++;
    if (i < PLACES) {
        struct observer *o = &observers[i];
        added = added + 1 < UINT32_MAX >> PLACE_BITS ? added + 1 : 1;
        o->number = added << PLACE_BITS | i;
        o->fn = fn;
        o->context = context;
        /* An event is told to it or not, begin and end: by when its id was drawn. */
        atomic_store(&o->since, atomic_load(&ids) + 1);
        atomic_store(&o->kinds, kinds);
        *observer = o->number;
        add_up();
    }
    pthread_mutex_unlock(&lock);
    return i < PLACES ? CHOIR_OK
                      : base_fail(CHOIR_ERR_NO_MEMORY, "remove observers that are not used",
                                  "%u observers are there already", PLACES);
}

enum choir_status choir_profile_remove(uint32_t observer)
{
    struct observer *o = &observers[observer % PLACES];
    enum choir_status st = profile_refuse();
    if (!observer || st != CHOIR_OK)
        return st;
    pthread_mutex_lock(&lock);
    if (o->number != observer || !atomic_load(&o->kinds)) {
        st = base_fail(CHOIR_ERR_ARGUMENT, "pass the number that choir_profile_add gave",
                       "observer %u is none", observer);
    } else {
        atomic_store(&o->kinds, 0);
        add_up();
        while (atomic_load(&o->running)) /* pairs with tell */
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    pthread_mutex_unlock(&lock);
    return st;
}
