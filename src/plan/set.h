/* SPDX-License-Identifier: Apache-2.0 */
/* set.h: what the decision table and the files of plans share. */
#ifndef PLAN_SET_H
#define PLAN_SET_H

#include "plan/choose.h"
#include "plan/plan.h"

bool plan_set_serves(const struct plan_set *set, const struct choir_shape *shape);
/* set_files.c: loads CHOIR_PLAN_FILES, once; the same status every time. */
enum choir_status plan_set_load_knob(void);
uint32_t plan_set_count(void); /* loaded so far; a table goes by those there were at its creation */
/* "file:NAME" of one of the first `sets` that serves the shape, the one a rule names if there is a rule; or
 * NULL. */
const char *plan_set_choose(uint32_t sets, const struct choir_shape *shape, bool need_ordered,
                            const struct choose_rule *rule);
uint64_t plan_set_hash(uint32_t sets, uint64_t seed);

#endif
