/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_fault.c: what kernels say in pinned memory: what they found wrong, which breaks the communicator as a host call would
 * have done, and for whom they wait.
 */
#include "base/knob.h"
#include "comm/device.h"
#include "comm/observe.h"
#include <stdio.h>

uint64_t device_limit(const struct choir_comm *c)
{
    return device_measures(c) ? c->config.create_timeout_ns / 2 : c->timeout_ns;
}

static void blame(struct choir_comm *c, const struct cuda_report *r)
{
    char text[256] = "another call", cycle[200];
    struct base_error_at at = {(int)c->host.rank, (int)r->peer, c->host.sequence, 0, "cuda"};
    if (r->code == CUDA_FAULT_LATE) {
        cycle_text(c, cycle, sizeof(cycle));
        host_comm_break(&c->host, CHOIR_ERR_TIMEOUT, &at,
                        cycle[0] ? CYCLE_REMEDY
                        : device_measures(c)
                            ? "look for what keeps that rank; CHOIR_CREATE_TIMEOUT sets the limit"
                            : "look for what keeps that rank; CHOIR_TIMEOUT, or the call's "
                              "deadline_ns, sets the limit",
                        "a kernel of rank %u has waited %.1f s for rank %u%s", c->host.rank,
                        (double)r->seen / 1e3, r->peer, cycle);
    } else if (r->code == CUDA_FAULT_SIGNATURE) {
        watch_explain_record(c, r->signature, r->seen ^ DEVICE_SALT, r->peer, text, sizeof(text));
        host_comm_break(
            &c->host, CHOIR_ERR_MISMATCH, &at,
            "all ranks must call the same collectives with the same arguments, in the same order",
            "%s", text);
    }
}

void device_look(struct choir_comm *c)
{
    struct cuda_report report;
    if (c->device && cuda_comm_fault(c->device->gpu, &report) && !atomic_load(&c->host.broken))
        blame(c, &report);
}

/* A kernel says that it waits as long as it does. */
static void look_for_waits(struct choir_comm *c)
{
    struct comm_device *d = c->device;
    uint32_t peer, tick;
    uint64_t now = base_now_ns(), late = (uint64_t)knob_int(KNOB_LATE);
    if (!cuda_comm_waiting(d->gpu, &peer, &tick) || tick == d->tick)
        return;
    if (now - d->told_ns > 10 * DEVICE_PERIOD_NS) /* another wait */
        d->since_ns = now;
    d->tick = tick;
    d->told_ns = now;
    cycle_waits(c, (int)peer, now - d->since_ns, "on its GPU");
    if (now - d->since_ns < late || now - d->logged_ns < late)
        return;
    d->logged_ns = now;
    base_log(BASE_WARN, (int)c->host.rank, "a kernel has waited %.0f s for rank %u",
             (double)(now - d->since_ns) / 1e9, peer);
}

void device_timer(void *comm)
{
    struct choir_comm *c = comm;
    device_look(c);
    look_for_waits(c);
    c->device->timer.period_ns = base_min(observe_kernels(c), DEVICE_PERIOD_NS);
}

void device_stop(struct choir_comm *c)
{
    if (c->device)
        cuda_comm_abort(c->device->gpu);
}
