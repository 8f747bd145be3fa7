/* SPDX-License-Identifier: Apache-2.0 */
/*
 * algorithms.c: algorithms from outside, as CONTRIBUTING.md describes them, built as a shared object and loaded by
 * CHOIR_ALGO_PLUGINS: "flat", which is right, and "selfish", an all-reduce that is wrong: each rank keeps its own.
 */
#include "choir_algorithm.h"
#include <stddef.h>

static enum choir_status build_flat(const struct choir_shape *s, struct choir_builder *b)
{
    if (s->rank == s->root) {
        for (uint32_t i = 1; i < s->ranks; i++)
            CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN)),
                       CHOIR_PLACES(CHOIR_MESSAGE((s->root + i) % s->ranks, .buf = CHOIR_OUT)));
        CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN)),
                   CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT)));
    } else {
        CHOIR_STEP(b, CHOIR_PLACES(CHOIR_MESSAGE(s->root, .buf = CHOIR_OUT)),
                   CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT)));
    }
    return choir_builder_status(b);
}

static enum choir_status build_selfish(const struct choir_shape *s, struct choir_builder *b)
{
    if (s->type_bytes != 4) /* the programs' own reductions are of doubles */
        return CHOIR_ERR_UNSUPPORTED;
    CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN)),
               CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT)));
    return choir_builder_status(b);
}

static const struct choir_algorithm flat = {.bytes = sizeof(struct choir_algorithm),
                                            .abi = CHOIR_ALGORITHM_ABI,
                                            .name = "flat",
                                            .summary = "broadcast: one step, the root sends to all",
                                            .kinds = 1u << CHOIR_BROADCAST,
                                            .variants = "",
                                            .build = build_flat};
static const struct choir_algorithm selfish = {.bytes = sizeof(struct choir_algorithm),
                                               .abi = CHOIR_ALGORITHM_ABI,
                                               .name = "selfish",
                                               .summary = "all_reduce: wrong; for tests",
                                               .kinds = 1u << CHOIR_ALL_REDUCE,
                                               .variants = "",
                                               .build = build_selfish};

extern const struct choir_algorithm *const choir_algorithms_abi1[];
__attribute__((visibility("default")))
const struct choir_algorithm *const choir_algorithms_abi1[] = {&flat, &selfish, NULL};
