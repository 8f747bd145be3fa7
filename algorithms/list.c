/* SPDX-License-Identifier: Apache-2.0 */
/* list.c: the built-in algorithms, in the order in which ties are broken. */
#include "choir_algorithm.h"

extern const struct choir_algorithm algorithm_one_shot, algorithm_two_shot, algorithm_direct,
    algorithm_recursive_doubling, algorithm_halving_doubling, algorithm_bruck, algorithm_binomial,
    algorithm_tree, algorithm_ring, algorithm_chain, algorithm_pairwise, algorithm_pat,
    algorithm_hierarchical;
extern const struct choir_algorithm *const plan_builtin[];
const struct choir_algorithm *const plan_builtin[] = {
    &algorithm_one_shot,     &algorithm_two_shot,
    &algorithm_direct,       &algorithm_recursive_doubling,
    &algorithm_ring,         &algorithm_halving_doubling,
    &algorithm_bruck,        &algorithm_binomial,
    &algorithm_tree,         &algorithm_chain,
    &algorithm_pairwise,     &algorithm_pat,
    &algorithm_hierarchical, NULL};
