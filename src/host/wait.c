/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wait.c: how a caller waits for its operation. It spins while the ranks of this host have a core each, yields after that (or
 * at once, where they outnumber the cores), and after CHOIR_SPIN sleeps on its bell; whoever brings something rings.
 * Sleeping early is dear: the barrier of a sleeper interrupts every core, and once one operation takes longer than
 * CHOIR_SPIN all ranks sleep in every further one (perf/NOTES.md "sleep").
 */
#include "host/host.h"
#include "base/knob.h"
#include <sched.h>

#define SLEEP_NS                                                                                   \
    20000000u /* at most: the deadline and the report of lateness are looked at in between */
#define LOOK_NS 200000u

/* Frames may be needed, so who waits moves the wires. */
static inline bool uses_frames(const struct host_waiter *w)
{
    return atomic_load_explicit(w->frames, memory_order_relaxed) != 0;
}

/* Ranks of this host share cores. */
static inline bool crowded(const struct host_waiter *w)
{
    return w->comm->local_ranks > w->comm->local_cores;
}

/* Moves the wires and what is waited for; true when ended. */
static inline bool turn(const struct host_waiter *w, bool wires)
{
    if (wires)
        host_progress();
    if (base_unlikely(atomic_load_explicit(&w->comm->broken, memory_order_relaxed))) {
        if (*w->status == CHOIR_OK)
            *w->status = (enum choir_status)atomic_load(&w->comm->broken);
        return true;
    }
    return w->advance(w->what);
}

static inline bool spin(const struct host_waiter *w)
{
    uint32_t turns = crowded(w) ? 20 : 2000;
    for (uint32_t i = 0; i < turns; i++) {
        if (w->advance(w->what))
            return true;
        if (i > 200) /* a pause is as long as a hop on recent processors */
            base_relax();
    }
    return false;
}

/* While links are made some news (a connection, a mapping) comes without a ring: it looks again after an eighth of
 * what it has waited. */
static uint64_t sleep_ns(const struct host_comm *comm, uint64_t waited_ns)
{
    return atomic_load_explicit(&comm->making, memory_order_relaxed)
               ? base_min(base_max(waited_ns / 8, LOOK_NS), SLEEP_NS)
               : SLEEP_NS;
}

static inline bool sleep_once(const struct host_waiter *w, bool wires, uint64_t waited_ns)
{
    uint32_t word = host_bell_prepare(w->comm, HOST_ASLEEP_CALLER);
    if (turn(w, wires)) {
        host_bell_cancel(w->comm, HOST_ASLEEP_CALLER);
        return true;
    }
    if (wires) /* the service thread takes the wires over meanwhile */
        service_driver_leave();
    host_bell_sleep(w->comm, word, sleep_ns(w->comm, waited_ns));
    if (wires)
        service_driver_enter();
    return turn(w, wires);
}

static inline void wait_for(const struct host_waiter *w, uint64_t limit_ns,
                            enum choir_status (*late)(void *arg, uint64_t waited_ns), void *arg)
{
    bool wires = uses_frames(w), done;
    if (!wires && spin(w))
        return;
    uint64_t start = base_now_ns(), spin_ns = (uint64_t)knob_int(KNOB_SPIN);
    if (wires)
        service_driver_enter();
    do {
        done = turn(w, wires);
        if (done)
            break;
        if (!wires && uses_frames(w)) {
            wires = true;
            service_driver_enter();
        }
        uint64_t waited = base_now_ns() - start;
        if (waited > spin_ns && !(done = sleep_once(w, wires, waited)))
            waited = base_now_ns() - start;
        else if (!done && (!wires || crowded(w)))
            sched_yield();
        enum choir_status st = done || waited < SLEEP_NS ? CHOIR_OK : late(arg, waited);
        if (st == CHOIR_OK && !done && waited > limit_ns)
            st = CHOIR_ERR_TIMEOUT;
        if (st != CHOIR_OK) {
            *w->status = st;
            done = true;
        }
    } while (!done);
    if (wires)
        service_driver_leave();
}

void host_wait_for(const struct host_waiter *w, uint64_t limit_ns,
                   enum choir_status (*late)(void *arg, uint64_t waited_ns), void *arg)
{
    if (!w->advance(w->what))
        wait_for(w, limit_ns, late, arg);
}

static bool advance_op(void *op)
{
    return host_op_advance(op);
}

enum choir_status host_wait(struct host_op *op, uint64_t limit_ns,
                            enum choir_status (*late)(void *arg, uint64_t waited_ns), void *arg)
{
    const struct host_waiter w = {op->comm, advance_op, op, &op->status, &op->comm->frame_links};
    if (host_op_advance(op))
        return op->status;
    wait_for(&w, limit_ns, late, arg);
    if (op->status != CHOIR_OK)
        host_op_cancel(op);
    return op->status;
}
