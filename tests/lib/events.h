/* SPDX-License-Identifier: Apache-2.0 */
/* events.h: an observer (choir_profile.h) that keeps all it is told, and what is true of every such record. */
#ifndef TESTS_EVENTS_H
#define TESTS_EVENTS_H

#include "choir_profile.h"
#include <pthread.h>

struct events {
    pthread_mutex_t lock;
    uint32_t observer, count, room, most; /* most 0: all are kept */
    struct choir_profile_event *event;    /* with copies of their strings */
};
void events_start(struct events *x, uint32_t kinds);
/* No more than so many are kept, the first ones. */
void events_start_some(struct events *x, uint32_t kinds, uint32_t most);
void events_stop(struct events *x); /* nothing comes any more */
void events_free(struct events *x);
/* Every end has its begin before it and the same members, every begin its end, unless `open` of them; a parent, if it is of an
 * observed kind, began before its parts. Fails the test where not. */
void events_check(const struct events *x, uint32_t open);
/* How many there are of a kind and phase; operation NULL: of any. */
uint32_t events_count(const struct events *x, uint32_t kind, uint32_t phase, const char *operation);
/* The begin, or end, of an id; NULL: none. */
const struct choir_profile_event *events_find(const struct events *x, uint64_t id, uint32_t phase);

#endif
