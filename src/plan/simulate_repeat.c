/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simulate_repeat.c: what repeats is played at two numbers of repetitions and carried on linearly:
 * instances beyond a few windows, iterations of long loops.
 */
#include "plan/simulate.h"
#include <stdlib.h>

enum { WINDOWS = 3 }; /* windows of instances played before carrying on */

struct sim_repeat sim_repeat_of(uint32_t total, uint32_t period, uint32_t periods)
{
    struct sim_repeat r = {total, period, 0};
    if (total / period > periods) {
        r.high = periods * period + total % period;
        r.times = (total - r.high) / period;
    }
    return r;
}

/* Instances repeat with the window and the programs. */
struct sim_repeat sim_repeat_instances(const struct choir_plan *plan)
{
    uint32_t period = base_max(plan->window, 1u);
    while (period % plan->programs && period < 4 * plan->window + plan->programs)
        period += plan->window;
    return sim_repeat_of(plan->instances, period, WINDOWS);
}

/* a: [instances high or low][iterations high or low]; bilinear. */
static int64_t carry_on(int64_t hh, int64_t lh, int64_t hl, int64_t ll, int64_t i, int64_t t)
{
    return hh + i * (hh - lh) + t * (hh - hl) + i * t * (hh - lh - hl + ll);
}

/* job->plans are played with shortened loops, if `loop` says so. */
static enum choir_status play_at(const struct sim_job *job, uint32_t instances, uint32_t longest,
                                 uint32_t less, struct sim_result *result)
{
    struct sim_job j = *job;
    enum choir_status status = CHOIR_OK;
    const struct choir_plan **plans = NULL;
    j.instances = instances;
    if (!less)
        return sim_run(&j, result);
    plans = calloc(job->reps, sizeof(*plans));
    if (!plans)
        return base_fail(CHOIR_ERR_NO_MEMORY, "price a smaller job", "no memory for plans");
    for (uint32_t r = 0; r < job->reps && status == CHOIR_OK; r++)
        if (!(plans[r] = sim_plan_shorten(job->plans[r], longest, less)))
            status = CHOIR_ERR_STATE;
    j.plans = plans;
    if (status == CHOIR_OK)
        status = sim_run(&j, result);
    for (uint32_t r = 0; r < job->reps; r++)
        plan_free((struct choir_plan *)(uintptr_t)plans[r]);
    free(plans);
    return status;
}

enum choir_status sim_run_repeats(const struct sim_job *job, struct sim_repeat in,
                                  struct sim_repeat loop, uint32_t longest,
                                  struct sim_result *result)
{
    struct sim_result at[2][2]; /* [fewer instances][fewer iterations] */
    uint32_t total = loop.high + loop.times * loop.period;
    for (unsigned i = 0; i < 2; i++)
        for (unsigned t = 0; t < 2; t++) {
            at[i][t] = at[0][0];
            if ((i && !in.times) || (t && !loop.times))
                continue;
            enum choir_status status = play_at(job, in.high - i * in.period, longest,
                                               total - loop.high + t * loop.period, &at[i][t]);
            if (status != CHOIR_OK || at[i][t].beyond) {
                *result = at[i][t];
                return status;
            }
        }
    if (!in.times)
        at[1][1] = at[0][1];
    else if (!loop.times)
        at[1][1] = at[1][0];
#define CARRY(field)                                                                               \
    carry_on(at[0][0].field, at[1][0].field, at[0][1].field, at[1][1].field, in.times, loop.times)
    *result = at[0][0];
    result->time_ps = CARRY(time_ps);
    result->messages = CARRY(messages);
    for (unsigned l = 0; l < PLAN_LINKS; l++)
        result->bytes[l] = CARRY(bytes[l]);
#undef CARRY
    return CHOIR_OK;
}
