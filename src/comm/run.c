/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run.c: one operation from its turn to its end. Operations of a communicator run one at a time, in the order of their calls
 * (tickets), whichever stream they are on.
 *
 * Scaling. A scaled sum, and avg of 8- and 16-bit floats (whose sums overflow early), scale a rank's inputs beforehand, as
 * NCCL does; avg of wider types divides the result once. Scaled inputs go to OUT where that can hold them (the
 * operation then runs in place), else to memory of the communicator.
 */
#include "comm/gpu.h"
#include "comm/observe.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>

bool comm_small_float(enum choir_type type)
{
    return type == CHOIR_FLOAT16 || type == CHOIR_BFLOAT16 || type == CHOIR_FLOAT8_E4M3 ||
           type == CHOIR_FLOAT8_E5M2;
}

static bool keep_bytes(struct choir_comm *c, uint64_t bytes)
{
    if (bytes <= c->scaled_bytes)
        return true;
    free(c->scaled);
    c->scaled = aligned_alloc(BASE_LINE, (bytes + BASE_LINE - 1) / BASE_LINE * BASE_LINE);
    c->scaled_bytes = c->scaled ? bytes : 0;
    return c->scaled != NULL;
}

/* Scales inputs before, where the operation asks for it. */
static enum choir_status scale_inputs(struct comm_task *t)
{
    struct choir_comm *c = t->comm;
    struct comm_call *call = &t->call;
    const struct comm_op *made = plan_kind_reduces(call->kind) ? op_find(c, call->op) : NULL;
    bool avg =
        plan_kind_reduces(call->kind) && call->op == CHOIR_AVG && comm_small_float(call->type);
    if (!(made && made->scaled) && !avg)
        return CHOIR_OK;
    struct choir_shape shape;
    uint64_t in, out, elem = choir_type_bytes(call->type);
    call_shape(c, call, &shape);
    plan_shape_extent(&shape, &in, &out);
    uint8_t *to = call->out;
    if (call->kind != CHOIR_ALL_REDUCE) {
        if (!keep_bytes(c, in * elem))
            return comm_fail(c, CHOIR_ERR_NO_MEMORY, "free memory or scale the input yourself",
                             "no memory for %llu bytes of scaled input",
                             (unsigned long long)(in * elem));
        to = c->scaled;
    }
    if (avg) {
        if (to != call->in)
            reduce_copy(to, call->in, in * elem, 0);
        reduce_divide(call->type, to, in, c->host.size);
    } else {
        reduce_scale(call->type, to, call->in, call->scale ? call->scale : made->scale, in);
    }
    call->in = to;
    return CHOIR_OK;
}

static void divide_result(struct comm_task *t)
{
    const struct comm_call *call = &t->call;
    if (!plan_kind_reduces(call->kind) || call->op != CHOIR_AVG || comm_small_float(call->type))
        return;
    struct choir_shape shape;
    uint64_t in, out;
    call_shape(t->comm, call, &shape);
    plan_shape_extent(&shape, &in, &out);
    reduce_divide(call->type, call->out, out, t->comm->host.size);
}

/* For config.restorable: a copy of inputs that the operation overwrites. */
static enum choir_status save_inputs(struct comm_task *t)
{
    struct choir_shape shape;
    struct comm_call call = slice_whole(t);
    int64_t shift;
    uint64_t in, out, elem = choir_type_bytes(call.type);
    if (t->on_device || t->cut.slice || call.kind == CHOIR_EXCHANGE)
        return CHOIR_OK;
    call_shape(t->comm, &call, &shape);
    if (!plan_shape_in_place(&shape, &shift))
        return CHOIR_OK;
    plan_shape_extent(&shape, &in, &out);
    if (call.in != (const uint8_t *)call.out + shift * (int64_t)elem || !in)
        return CHOIR_OK;
    t->saved = malloc(in * elem);
    if (!t->saved)
        return comm_fail(t->comm, CHOIR_ERR_NO_MEMORY, "free memory or leave config.restorable 0",
                         "no memory to keep %llu bytes of input", (unsigned long long)(in * elem));
    memcpy(t->saved, call.in, in * elem);
    t->saved_bytes = in * elem;
    t->saved_from = (void *)(uintptr_t)call.in;
    return CHOIR_OK;
}

/* The next operation: numbered, signed and, where other ranks may ask for it, put on record. */
static inline void count_op(struct choir_comm *c, const struct comm_call *call, uint32_t signature)
{
    c->op.sequence = ++c->host.sequence;
    atomic_store_explicit(&c->host.begun, c->op.sequence, memory_order_release);
    c->op.signature = signature;
    if (call->kind != CHOIR_EXCHANGE)
        watch_record(c, call, signature);
}

/* c->op.combine is set where the plan combines. */
static inline enum choir_status start_op(struct choir_comm *c, const struct host_bound *bound,
                                         const void *in, void *out)
{
    struct host_op *op = &c->op;
    op->comm = &c->host;
    op->bound = bound;
    op->base[CHOIR_IN] = (uint8_t *)(uintptr_t)in;
    op->base[CHOIR_OUT] = out;
    return host_op_start(op);
}

static enum choir_status start_task(struct comm_task *t, const void *in, void *out)
{
    enum choir_status st = start_op(t->comm, t->bound, in, out);
    if (st == CHOIR_OK && base_unlikely(t->observed != NULL))
        observe_lanes(t);
    return st;
}

enum choir_status task_begin(struct comm_task *t)
{
    struct choir_comm *c = t->comm;
    bool first = !t->begun;
    t->begun = true;
    t->started_ns = 0;
    count_op(c, &t->call, t->signature);
    if (profile_on(PROFILE_CALL) && first)
        observe_begin(t);
    enum choir_status st = (enum choir_status)atomic_load(&c->host.broken);
    if (st != CHOIR_OK)
        return st;
    if (t->call.side)
        c->op.status = CHOIR_OK, c->op.waiting = -1;
    if (!t->bound) /* count 0, or one-sided */
        return CHOIR_OK;
    if (t->counting) {
        const void *in;
        void *out;
        st = counts_begin(t, &in, &out);
        return st == CHOIR_OK ? start_task(t, in, out) : st;
    }
    if (c->config.restorable)
        st = save_inputs(t);
    if (st == CHOIR_OK)
        st = slice_pack(t);
    if (st == CHOIR_OK)
        st = scale_inputs(t);
    if (st == CHOIR_OK)
        st = call_combine(c, &t->call, &c->op.combine);
    return st == CHOIR_OK ? start_task(t, t->call.in, t->call.out) : st;
}

static void finish_slice(struct comm_task *t)
{
    divide_result(t);
    slice_unpack(t);
}

/* The present slice has ended well: is there a next one? Then it is the present one now. */
static bool next_slice(struct comm_task *t)
{
    if (t->cut.slice + 1 >= t->cut.slices)
        return false;
    finish_slice(t);
    slice_select(t, t->cut.slice + 1);
    return true;
}

enum choir_status task_end(struct comm_task *t, enum choir_status st)
{
    struct choir_comm *c = t->comm;
    if (st == CHOIR_OK && t->bound)
        finish_slice(t);
    if (st != CHOIR_OK && t->saved)
        memcpy(t->saved_from, t->saved, t->saved_bytes);
    free(t->saved);
    t->saved = NULL;
    if (t->call.side)
        side_end(t);
    if (t->owns_bound)
        slice_unbind(t);
    t->bound = NULL;
    if (st < CHOIR_OK && st != (enum choir_status)atomic_load(&c->host.broken) && t->begun)
        /* The others wait for what this rank will never send: the communicator is of no more use. */
        host_comm_break(&c->host, st,
                        &(struct base_error_at){(int)c->host.rank, base_error_thread()->peer,
                                                c->host.sequence, 0, NULL},
                        base_error_thread()->remedy, "%s", base_error_thread()->text);
    if (base_unlikely(t->observed != NULL)) /* before the next one begins */
        observe_end(t, st);
    atomic_store_explicit(&c->served, atomic_load(&c->served) + 1, memory_order_release);
    if (st < CHOIR_OK) {
        pthread_mutex_lock(&c->host.lock);
        *base_error_thread() = c->host.error;
        pthread_mutex_unlock(&c->host.lock);
    }
    return st;
}

bool task_turn(const struct comm_task *t)
{
    return atomic_load_explicit(&t->comm->served, memory_order_acquire) == t->ticket;
}

enum choir_status task_bind(struct choir_comm *c, const struct comm_call *call,
                            struct host_bound *exchange, struct comm_task *t)
{
    *t = (struct comm_task){.comm = c, .call = *call, .bound = exchange, .owns_bound = true};
    bool empty = !call->count && call->kind < CHOIR_BARRIER;
    if (!empty && !exchange && !call->side) {
        enum choir_status st = counts_first(c, call) ? counts_prepare(t) : slice_bind(t);
        if (st != CHOIR_OK)
            return st;
    }
    if (t->cut.slices <= 1)
        t->signature = exchange || call->side ? COMM_EXCHANGE_SIGNATURE : call_signature(c, call);
    t->limit_ns = call->deadline_ns ? call->deadline_ns : c->timeout_ns;
    return CHOIR_OK;
}

enum choir_status task_prepare(struct choir_comm *c, const struct comm_call *call,
                               struct host_bound *exchange, struct comm_task *t)
{
    enum choir_status st = task_bind(c, call, exchange, t);
    if (st == CHOIR_OK)
        t->ticket = atomic_fetch_add_explicit(&c->tickets, 1, memory_order_relaxed);
    return st;
}

bool task_step(struct comm_task *t, enum choir_status *status)
{
    struct choir_comm *c = t->comm;
    enum choir_status st = CHOIR_OK;
    if (!t->begun) {
        st = task_begin(t);
        t->started_ns = base_now_ns();
        if (st != CHOIR_OK || (!t->bound && !t->call.side)) {
            *status = task_end(t, st);
            return true;
        }
    }
    bool done = t->call.side ? side_advance(t) : host_op_advance(&c->op);
    if (!done && atomic_load(&c->host.broken)) {
        c->op.status = (enum choir_status)atomic_load(&c->host.broken);
        done = true;
    }
    if (!done) {
        uint64_t waited = base_now_ns() - t->started_ns;
        st = waited > 20000000 ? watch_late(t, waited) : CHOIR_OK;
        if (st == CHOIR_OK)
            return false;
        c->op.status = st;
    }
    if (c->op.status == CHOIR_OK && (t->counting || next_slice(t))) {
        st = t->counting ? counts_end(t) : CHOIR_OK;
        if (st == CHOIR_OK)
            st = task_begin(t);
        t->started_ns = base_now_ns();
        if (st == CHOIR_OK)
            return false;
        c->op.status = st;
    }
    if (c->op.status != CHOIR_OK && !t->call.side)
        host_op_cancel(&c->op);
    *status = task_end(t, c->op.status);
    return true;
}

static enum choir_status run_begun(struct comm_task *t, enum choir_status st)
{
    struct choir_comm *c = t->comm;
    if (st == CHOIR_OK && t->call.side)
        return side_wait(t);
    if (st != CHOIR_OK || !t->bound)
        return st;
    return host_op_advance(&c->op) ? c->op.status : host_wait(&c->op, t->limit_ns, watch_late, t);
}

enum choir_status run_slice(struct comm_task *t, bool *ended)
{
    enum choir_status st = run_begun(t, task_begin(t));
    if (t->counting && st == CHOIR_OK && (st = counts_end(t)) == CHOIR_OK)
        st = run_begun(t, task_begin(t));
    *ended = st != CHOIR_OK || !next_slice(t);
    return *ended ? task_end(t, st) : st;
}

enum choir_status run_task(struct comm_task *t)
{
    enum choir_status st;
    uint64_t start = 0;
    while (base_unlikely(!task_turn(t))) {
        sched_yield(); /* operations of streams come first; they have deadlines of their own, */
        if (comm_staged(t->comm)) /* but a CUDA stream may never come to them */
            staged_late(t->comm, &start, t->limit_ns);
    }
    bool ended = false;
    do
        st = run_slice(t, &ended);
    while (!ended);
    return st;
}

bool comm_enter(struct choir_comm *c)
{
    uint32_t idle = 0;
    if (base_likely(atomic_compare_exchange_strong_explicit(
            &c->busy, &idle, 1, memory_order_acquire, memory_order_relaxed))) {
        atomic_store_explicit(&c->caller, (uint64_t)pthread_self(), memory_order_relaxed);
        return true;
    }
    base_fail(CHOIR_ERR_BUSY, "use a communicator from one thread at a time",
              "another thread is in a call on this communicator");
    return false;
}

void comm_leave(struct choir_comm *c)
{
    atomic_store_explicit(&c->busy, 0, memory_order_release);
}

enum choir_status run_call(struct choir_comm *c, const struct comm_call *call)
{
    struct comm_task t;
    if (!comm_enter(c))
        return CHOIR_ERR_BUSY;
    enum choir_status st = task_prepare(c, call, NULL, &t);
    if (st == CHOIR_OK && t.bound && t.cached)
        call_memoise(c, &t);
    if (st == CHOIR_OK)
        st = run_task(&t);
    comm_leave(c);
    return st;
}

static bool memo_fits(const struct comm_memo *m, const struct comm_call *call)
{
    if (!m->bound || m->what.kind != (uint32_t)call->kind || m->what.count != call->count ||
        m->what.type != (uint32_t)call->type || m->what.op != call->op ||
        m->what.root != call->root || call->deadline_ns)
        return false;
    const uint8_t *in = call->in, *out = call->out;
    if ((!in && m->in_bytes) || (!out && m->out_bytes))
        return false;
    return in + m->in_bytes <= out || out + m->out_bytes <= in || !m->in_bytes || !m->out_bytes ||
           (m->may_alias && in == out + m->shift);
}

bool run_memo(struct choir_comm *c, const struct comm_call *call, enum choir_status *status)
{
    const struct comm_memo *m = &c->memo;
    if (!memo_fits(m, call) || profile_on(PROFILE_CALL) || !comm_enter(c))
        return false;
    uint64_t ticket = atomic_load_explicit(&c->tickets, memory_order_relaxed);
    if (comm_staged(c) || atomic_load_explicit(&c->served, memory_order_acquire) != ticket ||
        atomic_load(&c->host.broken)) { /* staged: replays draw tickets too */
        comm_leave(c);
        return false;
    }
    atomic_store_explicit(&c->tickets, ticket + 1, memory_order_relaxed);
    struct host_op *op = &c->op;
    op->combine = m->combine;
    count_op(c, call, m->signature);
    enum choir_status st = start_op(c, m->bound, call->in, call->out);
    if (st == CHOIR_OK && !host_op_advance(op)) {
        struct comm_task t = {.comm = c, .call = *call, .bound = m->bound, .begun = true};
        t.limit_ns = c->timeout_ns;
        st = host_wait(op, t.limit_ns, watch_late, &t);
    } else if (st == CHOIR_OK) {
        st = op->status;
    }
    if (base_likely(st == CHOIR_OK)) {
        atomic_store_explicit(&c->served, ticket + 1, memory_order_release);
    } else {
        struct comm_task t = {.comm = c, .call = *call, .begun = true};
        st = task_end(&t, st);
    }
    comm_leave(c);
    *status = st;
    return true;
}
