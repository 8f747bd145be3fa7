/* SPDX-License-Identifier: Apache-2.0 */
/* Records of an observer; see events.h. */
#include "tests/lib/events.h"
#include "tests/lib/test.h"

static void keep(const struct choir_profile_event *event, void *context)
{
    struct events *x = context;
    pthread_mutex_lock(&x->lock);
    if (x->most && x->count == x->most) {
        pthread_mutex_unlock(&x->lock);
        return;
    }
    if (x->count == x->room) {
        x->room = x->room ? 2 * x->room : 256;
        x->event = realloc(x->event, x->room * sizeof(*x->event));
        if (!x->event)
            abort();
    }
    struct choir_profile_event *e = &x->event[x->count++];
    *e = *event;
    e->name = event->name ? strdup(event->name) : NULL;
    e->algorithm = event->algorithm ? strdup(event->algorithm) : NULL;
    pthread_mutex_unlock(&x->lock);
}

void events_start(struct events *x, uint32_t kinds)
{
    events_start_some(x, kinds, 0);
}

void events_start_some(struct events *x, uint32_t kinds, uint32_t most)
{
    *x = (struct events){.lock = PTHREAD_MUTEX_INITIALIZER, .most = most};
    CHECK_OK(choir_profile_add(keep, x, kinds, &x->observer));
    CHECK(x->observer != 0);
}

void events_stop(struct events *x)
{
    CHECK_OK(choir_profile_remove(x->observer));
}

void events_free(struct events *x)
{
    for (uint32_t i = 0; i < x->count; i++) {
        free((char *)x->event[i].name);
        free((char *)x->event[i].algorithm);
    }
    free(x->event);
}

const struct choir_profile_event *events_find(const struct events *x, uint64_t id, uint32_t phase)
{
    for (uint32_t i = 0; i < x->count; i++)
        if (x->event[i].id == id && x->event[i].phase == phase)
            return &x->event[i];
    return NULL;
}

uint32_t events_count(const struct events *x, uint32_t kind, uint32_t phase, const char *operation)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < x->count; i++) {
        const struct choir_profile_event *e = &x->event[i];
        n += e->kind == kind && e->phase == phase &&
             (!operation || (e->operation && !strcmp(e->operation, operation)));
    }
    return n;
}

static void check_pair(const struct choir_profile_event *b, const struct choir_profile_event *e)
{
    CHECK(b < e);
    CHECK_EQ(b->kind, e->kind);
    CHECK_EQ(b->parent, e->parent);
    CHECK_EQ(b->comm, e->comm);
    CHECK_EQ(b->rank, e->rank);
    CHECK_EQ(b->count, e->count);
    CHECK_EQ(b->lane, e->lane);
    CHECK(b->operation == e->operation && b->send == e->send && b->recv == e->recv);
    CHECK(b->time_ns <= e->time_ns);
    CHECK(!e->gpu_ns || b->gpu_ns <= e->gpu_ns);
    CHECK_EQ(b->status, CHOIR_OK);
}

void events_check(const struct events *x, uint32_t open)
{
    for (uint32_t i = 0; i < x->count; i++) {
        const struct choir_profile_event *e = &x->event[i];
        CHECK_EQ(e->bytes, sizeof(*e));
        CHECK(e->id != 0 && e->id != e->parent);
        const struct choir_profile_event *parent =
            e->parent ? events_find(x, e->parent, CHOIR_PROFILE_BEGIN) : NULL;
        CHECK(!parent || parent < e);
        CHECK(e->kind == CHOIR_PROFILE_GROUP || (e->name && e->rank >= 0 && e->rank < e->size));
        if (e->phase == CHOIR_PROFILE_NOTE)
            continue;
        const struct choir_profile_event *begin = events_find(x, e->id, CHOIR_PROFILE_BEGIN),
                                         *end = events_find(x, e->id, CHOIR_PROFILE_END);
        if (!begin)
            FAIL("event %llu of kind %u ends, and has not begun", (unsigned long long)e->id,
                 e->kind);
        CHECK(begin == e || end == e); /* once each */
        if (end)
            check_pair(begin, end);
        else if (!open--)
            FAIL("event %llu of kind %u does not end", (unsigned long long)e->id, e->kind);
    }
}
