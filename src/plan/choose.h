/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choose.h: what the choice by cost (choose.c) asks of the calls it is made for (choose_key.c) and of the
 * user's wishes (choose_forced.c).
 */
#ifndef PLAN_CHOOSE_H
#define PLAN_CHOOSE_H

#include "plan/plan.h"

#define CHOOSE_NAME 64

/* --- choose_key.c ------------------------------------------------------------------------------- */
/* What a ranking depends on: calls of one key are priced as one. No padding: keys are compared as bytes. */
struct choose_key {
    uint32_t kind, size_class, depth, window;
    uint32_t skew; /* how many times as long as the mean the longest block of a v-form is; else 1 */
    uint32_t root; /* or the rank of that block */
    uint64_t slot_bytes;
};
/* The size by which is chosen, the same on all ranks. */
uint64_t choose_bytes(const struct choir_shape *shape);
struct choose_key choose_key_of(const struct choir_layout *layout, const struct choir_shape *shape);
/* The shape that stands for all calls of a key. Returns its counts, to free() after its last use; NULL if it is no
 * v-form, or (then it cannot be built) for want of memory. */
uint64_t *choose_class_shape(const struct choir_layout *layout, const struct choose_key *key,
                             struct choir_shape *shape);

/* --- choose_forced.c ---------------------------------------------------------------------------- */

/* One wish: these algorithms, or (exclude) all but these, for these collectives and sizes. */
struct choose_rule {
    uint32_t kinds; /* mask; all bits: whatever the collective */
    bool exclude;
    uint64_t from, to; /* bytes, inclusive */
    uint32_t names;
    char name[8][CHOOSE_NAME];
    bool said; /* that it could not be followed */
};
struct choose_forced {
    uint32_t rules;
    struct choose_rule rule[32];
};

/* Reads CHOIR_ALGO's text; names of no algorithm are said in the log and left out. */
enum choir_status choose_forced_parse(const char *text, struct choose_forced *forced);
/* The first rule that names algorithms for this: those for the collective come before those for all. NULL:
 * none. */
struct choose_rule *choose_forced_find(struct choose_forced *forced, uint32_t kind, uint64_t bytes);
bool choose_forced_excludes(const struct choose_forced *forced, uint32_t kind, uint64_t bytes,
                            const char *candidate);
/* "hierarchical" means every "hierarchical(...)"; with arguments just that one. */
bool choose_name_matches(const char *wish, const char *candidate);

#endif
