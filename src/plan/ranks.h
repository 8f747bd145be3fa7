/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ranks.h: the shapes and plans of all ranks of one collective, for those who look at them together: the
 * prover and tests. Private to src/plan and tests.
 */
#ifndef PLAN_RANKS_H
#define PLAN_RANKS_H

#include "plan/plan.h"

struct ranks {
    uint32_t n;
    struct choir_shape *shape; /* [n] */
    struct choir_plan **plan;  /* [n], NULL until ranks_build */
    uint64_t *words;           /* counts and offsets of v-forms */
    uint32_t *peers;           /* of an EXCHANGE */
};

/* Shapes with defaults. V-forms get uneven counts around `count`, zeros among them, drawn from `seed`;
 * an odd seed gives them offsets with gaps, not ascending; seed % 4 >= 2 makes an all_to_all_v
 * symmetric, so that it may run in place. */
enum choir_status ranks_init(struct ranks *ranks, enum choir_kind kind,
                             const struct choir_layout *layout, uint64_t count, uint32_t root,
                             uint64_t seed);
/* CHOIR_ERR_UNSUPPORTED if all ranks say so; another error if they disagree. */
enum choir_status ranks_build(struct ranks *ranks, const char *algorithm);
void ranks_free(struct ranks *ranks);

#endif
