/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profile.h: who observes what the library does (choir_profile.h), and how they are told. Modules fill events in and say when they
 * begin and end; while nobody observes they do no more than look at profile_kinds.
 */
#ifndef BASE_PROFILE_H
#define BASE_PROFILE_H

#include "base/base.h"
#include "choir_profile.h"

extern _Atomic uint32_t profile_kinds; /* that somebody observes */

/* What is told of a call. */
#define PROFILE_CALL (CHOIR_PROFILE_OPERATION | CHOIR_PROFILE_LANE | CHOIR_PROFILE_KERNEL)

/* Whether somebody observes any of these. */
static inline bool profile_on(uint32_t kinds)
{
    return base_unlikely((atomic_load_explicit(&profile_kinds, memory_order_relaxed) & kinds) != 0);
}

struct profile_event { /* its own until it has ended */
    struct choir_profile_event event;
    uint32_t told; /* bits of the observers that know of its begin */
};
/* Gives it an id and a time, and tells of its begin. Any thread. */
void profile_begin(struct profile_event *e);
/* Tells those of its end; its id is 0 then. Of one that has not begun, or has ended: nothing. */
void profile_end(struct profile_event *e, enum choir_status status);
/* Tells of something that has neither. */
void profile_note(struct profile_event *e);
/* The calling thread runs a callback. */
bool profile_inside(void);
/* CHOIR_ERR_STATE with a record if so. */
enum choir_status profile_refuse(void);

#endif
