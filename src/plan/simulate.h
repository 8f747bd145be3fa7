/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simulate.h: what the files of the simulator share. simulate.c decides how a shape is priced,
 * simulate_symmetry.c finds ranks that stand for others and smaller clusters, simulate_run.c plays plans
 * against the clock.
 */
#ifndef PLAN_SIMULATE_H
#define PLAN_SIMULATE_H

#include "plan/plan.h"

/* How the ranks that are not played follow from those that are: rank + k*reps, or rank ^ k*reps, does what
 * rank does. */
enum sim_group { SIM_EACH, SIM_SHIFT, SIM_XOR };

struct sim_job {
    const struct choir_plan *const *plans; /* of ranks 0..reps-1, which are played */
    uint32_t reps, ranks;
    enum sim_group group;
    uint32_t elem; /* bytes */
    const struct plan_cluster *cluster;
    const struct choir_layout *layout; /* of all ranks */
    uint32_t instances;                /* played; pieces are those of the plan's number */
    uint32_t fragments; /* a message is played as at most so many, each of several slots */
    uint64_t bound_ps;  /* play no further; 0: no bound */
};

/* Whole picoseconds: sums don't depend on their order or on the processor, so all ranks decide alike. */
struct sim_result {
    int64_t time_ps, bytes[PLAN_LINKS], messages; /* of the ranks played */
    uint32_t critical;                            /* the rank that ended last */
    uint32_t stuck_rank, stuck_step;
    bool beyond; /* the bound was passed: time_ps is where it stopped */
    uint64_t events;
};

/* CHOIR_ERR_STATE: the plans wait for ever (stuck_*; no record is filled). */
enum choir_status sim_run(const struct sim_job *job, struct sim_result *result);
/* About the events of one rank in one instance, and how often its longest loop runs. */
uint64_t sim_events(const struct choir_plan *plan, uint32_t fragments, uint32_t *longest);
/* Has every rank of the operation the same to do: no root, no block longer than others? */
bool sim_ranks_alike(const struct choir_plan *plan);
/* CPU time one rank needs at least, whatever the others do. */
double sim_least_ns(const struct choir_plan *plan, uint32_t elem, const struct plan_cluster *c);
uint64_t sim_span_parts(const struct choir_place *p); /* parts of a span, without walking it */

/* --- simulate_repeat.c -------------------------------------------------------------------------- */
/* What is played of one dimension: `high` and `high - period`, carried on `times` periods. */
struct sim_repeat {
    uint32_t high, period, times;
};
struct sim_repeat sim_repeat_of(uint32_t total, uint32_t period, uint32_t periods);
struct sim_repeat sim_repeat_instances(const struct choir_plan *plan);
/* sim_run, both carried on; `longest`: how often the loops to be shortened run. */
enum choir_status sim_run_repeats(const struct sim_job *job, struct sim_repeat in,
                                  struct sim_repeat loop, uint32_t longest,
                                  struct sim_result *result);

/* --- simulate.c --------------------------------------------------------------------------------- */
enum sim_mode { SIM_AUTO, SIM_FULL, SIM_REPS, SIM_SHRUNK };
struct sim_how {
    enum sim_mode
        mode; /* AUTO: full where it costs at most `budget` events, else by representatives, else shrunk */
    uint64_t budget;
    double bound_ns; /* 0: none */
    bool brief;      /* AUTO: by representatives even where full is cheap */
    bool beyond;     /* out: the bound was passed, the price is a lower bound */
};
/* The budgets of plan_simulate, and of choosing (where every rank of a job computes, in its first call of a
 * size). */
#define SIM_BUDGET 500000u
#define SIM_BUDGET_CHOICE 8000u
#define SIM_BUDGET_FEW                                                                             \
    40000u /* choosing for up to SIM_FEW ranks, where smaller clusters say little */
#define SIM_FEW 64u
enum choir_status sim_price(const char *algorithm, const struct choir_shape *shape,
                            const struct plan_cluster *cluster, struct sim_how *how,
                            struct plan_price *price);

/* --- simulate_symmetry.c ------------------------------------------------------------------------ */
/* The fewest ranks 0..reps-1 that may stand for all of the layout under each group; false: none but all. */
bool sim_layout_symmetry(const struct choir_layout *l, enum sim_group group, uint32_t *reps);
/* Is plan b, of rank b->rank, what plan a becomes when a's rank is moved to b's? */
bool sim_same_plan(const struct choir_plan *a, const struct choir_plan *b, enum sim_group group);
/* Every 2^k-th host, or where there are few, every 2^k-th rank of a host; *root is moved along. count: of all
 * ranks' elements, becomes that of those kept; the most are moved along, like a root; or NULL. NULL: no memory. */
struct choir_layout *sim_layout_shrink(const struct choir_layout *l, uint32_t k, uint32_t *root,
                                       uint64_t *count);
/* A copy whose long loops (`longest` times, or few less) run `less` times fewer, or NULL: there are long
 * loops of other lengths, or no memory. Free with plan_free. */
struct choir_plan *sim_plan_shorten(const struct choir_plan *plan, uint32_t longest, uint32_t less);

#endif
