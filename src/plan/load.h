/* SPDX-License-Identifier: Apache-2.0 */
/* load.h: what load.c shares with files that hold several plans (set.c). */
#ifndef PLAN_LOAD_H
#define PLAN_LOAD_H

#include "plan/plan.h"
#include "plan/scan.h"

/* Reads one plan up to its "end"; NULL if the scan failed. Free with plan_free. */
struct choir_plan *load_plan(struct scan *s);

#endif
