/* SPDX-License-Identifier: Apache-2.0 */
/* device.h: what device.c and device_fault.c share: the GPU side of a communicator whose ranks map each other's memory. */
#ifndef COMM_DEVICE_H
#define COMM_DEVICE_H

#include "comm/comm.h"
#include "cuda/engine.h"

#define DEVICE_SALT 0x67707521u /* a host call never has the signature of a device call */
#define DEVICE_PERIOD_NS 20000000u
#define DEVICE_MARK_PERIOD_NS                                                                      \
    1000000u /* while kernels are observed: there is room for so many marks */

struct comm_device {
    struct cuda_comm *gpu;
    struct plan_cluster cluster;
    struct plan_table *table;
    struct plan_cache *bound;
    struct service_timer timer;
    bool timed;
    uint32_t tick; /* of a kernel that waits, and since when, as the timer saw it */
    uint64_t told_ns, since_ns, logged_ns;
};

/* device_fault.c: every DEVICE_PERIOD_NS or more often, on the service thread; of a choir_comm. */
void device_timer(void *comm);

#endif
