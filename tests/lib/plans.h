/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plans.h: for tests of plans: a few small algorithms of their own ("t_ring" ...), and running all ranks'
 * plans on memory by the reference interpreter with the results compared to what the collective means.
 */
#ifndef TESTS_PLANS_H
#define TESTS_PLANS_H

#include "plan/plan.h"
#include "plan/ranks.h"

/* Adds the tests' algorithms to the registry (once). */
void plans_register(void);
/* A layout of one rank a character: ranks of the same character are on one host. */
struct choir_layout *plans_layout(const char *hosts);
/* Ranks of `kind`, 8-byte elements; CHOIR_ERR_UNSUPPORTED where the algorithm is not for it. */
enum choir_status plans_make(struct ranks *ranks, const char *algorithm, enum choir_kind kind,
                             const struct choir_layout *layout, uint64_t count, uint32_t root,
                             uint64_t seed, uint64_t slot_bytes);
enum plans_place { PLANS_OUT_OF_PLACE, PLANS_IN_PLACE, PLANS_MIXED };
/* What a reduction is made of: sums of random words, which tell every contribution apart; products of
 * matrices, which do not commute; a hash of the operands, so that all ranks of an all-reduce agree only
 * if they combine in one tree. */
enum plans_op { PLANS_SUM, PLANS_MATRIX, PLANS_TREE };
/* Runs the plans and compares every byte of every buffer: NULL if all is right, else what is not. */
const char *plans_run(const struct ranks *ranks, enum plans_place place, enum plans_op op,
                      const struct plan_run *how);

#endif
