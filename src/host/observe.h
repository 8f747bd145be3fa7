/* SPDX-License-Identifier: Apache-2.0 */
/* observe.h: lanes of an operation, as observers are told of them (choir_profile.h). */
#ifndef HOST_OBSERVE_H
#define HOST_OBSERVE_H

#include "base/profile.h"
#include "host/host.h"

/* Instances of a plan that are live at a time: its lanes. */
static inline uint32_t host_bound_lanes(const struct host_bound *b)
{
    return base_min(base_min(b->plan->window, b->plan->instances), LANE_COUNT);
}
/* After host_op_start: tells when lanes begin and end. lane[LANE_COUNT]: filled in but for what is the lane's. */
void host_op_observe(struct host_op *op, struct profile_event *lane);

#endif
