/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.c: device calls: operations on GPU memory, in the order of a CUDA stream. The call looks its plan up, puts a kernel into
 * the stream and returns. What a kernel finds wrong it leaves in pinned memory, where a timer sees it and breaks the
 * communicator, as a host call would have done.
 *
 * All ranks of an operation make a device call: that is in its signature.
 *
 * So it is where all ranks have GPUs that map each other's memory. Else GPU memory goes through the host (staged.c): which of
 * the two is agreed when the communicator is created.
 */
#include "base/knob.h"
#include "comm/device.h"
#include "comm/observe.h"
#include "comm/staged.h"
#include <stdlib.h>
#include <string.h>

/* --- which calls are device calls ---------------------------------------------------------------------- */

static int ordinal(const struct choir_comm *c)
{
    return c->device ? cuda_comm_ordinal(c->device->gpu) : c->staged ? staged_ordinal(c) : -1;
}

enum choir_status device_where(struct choir_comm *c, const void *memory, const char *argument,
                               struct cuda_pointer *out)
{
    enum choir_status st = cuda_device_of_pointer(memory, out);
    if (st != CHOIR_OK)
        return comm_take_error(c, st);
    int own = ordinal(c);
    if (out->where == CUDA_DEVICE && own >= 0 && out->ordinal != own)
        return comm_fail(c, CHOIR_ERR_POINTER,
                         "pass memory of the device that was current when the communicator was "
                         "created",
                         "%s is memory of GPU %d, the communicator is on GPU %d", argument,
                         out->ordinal, own);
    return CHOIR_OK;
}

static enum choir_status no_gpu(struct choir_comm *c)
{
    if (!cuda_driver())
        return comm_fail(c, CHOIR_ERR_UNSUPPORTED, base_error_thread()->remedy,
                         "stream is a CUDA stream: %s", base_error_thread()->text);
    return comm_fail(
        c, CHOIR_ERR_UNSUPPORTED,
        "make a CUDA call on this rank before the communicator is created; if there was one, see "
        "the log",
        "stream is a CUDA stream or a buffer is GPU memory, and the communicator has no GPU on "
        "this rank");
}

enum choir_status device_call_stream(struct choir_comm *c, const void *in, const void *out,
                                     struct choir_stream **stream)
{
    struct cuda_pointer a = {.where = CUDA_HOST}, b = a;
    if (!stream_is_cuda(*stream) && !cuda_driver_in_use())
        return CHOIR_OK;
    enum choir_status st = device_where(c, in, "send", &a);
    if (st == CHOIR_OK)
        st = device_where(c, out, "recv", &b);
    if (st != CHOIR_OK)
        return st;
    bool on_gpu = a.where == CUDA_DEVICE || b.where == CUDA_DEVICE;
    if (!stream_is_cuda(*stream)) {
        if (!on_gpu)
            return CHOIR_OK;
        if (*stream)
            return comm_fail(c, CHOIR_ERR_ARGUMENT,
                             "use a stream of choir_stream_from_cuda for GPU memory",
                             "%s is GPU memory and the stream is a host stream",
                             a.where == CUDA_DEVICE ? "send" : "recv");
        *stream = stream_of_cuda(NULL);
    }
    return c->device || c->staged ? CHOIR_OK : no_gpu(c);
}

struct cuda_comm *device_gpu(const struct choir_comm *c)
{
    return c->device ? c->device->gpu : NULL;
}

/* --- plans ---------------------------------------------------------------------------------------------- */

static void device_shape(const struct choir_comm *c, const struct comm_call *call, uint32_t rank,
                         struct choir_shape *shape)
{
    call_shape(c, call, shape);
    shape->rank = rank;
    shape->slot_bytes = CUDA_SLOT_BYTES;
    shape->depth = CUDA_DEPTH;
    shape->window = CUDA_SLOT_LANES;
}

/* Whether every rank's plan follows from what this rank was told. */
static bool all_known(enum choir_kind kind)
{
    return kind != CHOIR_EXCHANGE && kind != CHOIR_ALL_TO_ALL_V && kind != CHOIR_GATHER_V &&
           kind != CHOIR_SCATTER_V;
}

/* In a plan of another rank only the lengths of messages matter, which all know; its own block's place does not. */
static enum choir_status build(struct choir_comm *c, const struct comm_call *call,
                               const char *algorithm, struct choir_plan **plans)
{
    enum choir_status st = CHOIR_OK;
    for (uint32_t r = 0; r < c->host.size && st == CHOIR_OK; r++) {
        struct choir_shape shape;
        device_shape(c, call, r, &shape);
        if (r == c->host.rank || all_known(call->kind))
            st = plan_build(algorithm, &shape, &plans[r]);
    }
    return st;
}

static enum choir_status bind_plans(struct choir_comm *c, struct choir_plan **plans, uint32_t elem,
                                    uint64_t scratch_bytes, enum choir_status st,
                                    struct cuda_bound **bound)
{
    if (st == CHOIR_OK)
        st = cuda_bound_create(c->device->gpu, (const struct choir_plan *const *)plans, elem,
                               scratch_bytes, bound);
    for (uint32_t r = 0; r < c->host.size; r++)
        plan_free(plans[r]);
    return st == CHOIR_OK ? st : comm_take_error(c, st);
}

const char *device_algorithm(const struct choir_comm *c, const struct comm_call *call)
{
    struct choir_shape shape;
    const char *flat = call_flat(c, call);
    if (!c->device)
        return call_algorithm(c, call);
    device_shape(c, call, c->host.rank, &shape);
    return flat ? flat : plan_table_choose(c->device->table, &shape, false);
}

const struct plan_cluster *device_cluster(const struct choir_comm *c, const struct comm_call *call,
                                          struct choir_shape *shape)
{
    if (c->device)
        device_shape(c, call, c->host.rank, shape);
    else
        call_shape(c, call, shape);
    return c->device ? &c->device->cluster : &c->cluster;
}

static enum choir_status bind_call(struct choir_comm *c, const struct comm_call *call,
                                   uint64_t scratch_bytes, struct cuda_bound **bound)
{
    struct choir_plan *plans[CUDA_RANKS] = {NULL};
    return bind_plans(c, plans, (uint32_t)choir_type_bytes(call->type), scratch_bytes,
                      build(c, call, device_algorithm(c, call), plans), bound);
}

/* Finds the plan of a call, or makes it. owned: the caller frees it. Where inputs are scaled into memory of the plan, there is a
 * plan for that. */
static enum choir_status find(struct choir_comm *c, const struct comm_call *call,
                              const struct cuda_work *w, struct cuda_bound **bound, bool *owned)
{
    uint8_t key[CALL_KEY_BYTES + 1];
    size_t bytes = call_key(c, call, key);
    bool changed = (w->scaled || w->divide_in) && call->kind != CHOIR_ALL_REDUCE;
    *owned = false;
    if (bytes)
        key[bytes++] = changed;
    *bound = bytes ? plan_cache_find(c->device->bound, key, bytes) : NULL;
    if (*bound)
        return CHOIR_OK;
    enum choir_status st = bind_call(c, call, changed ? w->in_bytes : 0, bound);
    if (st == CHOIR_OK)
        *owned = !bytes ||
                 plan_cache_add(c->device->bound, key, bytes, *bound, cuda_bound_free) != CHOIR_OK;
    return st;
}

/* --- operations ------------------------------------------------------------------------------------------ */

static void take_limits(const struct choir_comm *c, const struct comm_call *call,
                        struct cuda_work *w)
{
    w->limit_ns = call->deadline_ns;
    w->max_blocks = call->max_blocks ? call->max_blocks : (uint32_t)c->config.max_blocks;
}

/* What the call's arithmetic asks of the kernels beside the plan (run.c has the rule). */
static enum choir_status take_op(struct choir_comm *c, const struct comm_call *call,
                                 struct cuda_work *w)
{
    w->reduces = plan_kind_reduces(call->kind);
    w->type = call->type;
    w->op = call->op;
    if (!w->reduces)
        return CHOIR_OK;
    const struct comm_op *made = op_find(c, call->op);
    if (made && made->fn)
        return comm_fail(c, CHOIR_ERR_OP, "use it on host memory, or a built-in operation",
                         "op is a function of the program, which a GPU cannot call");
    if (made)
        w->op = CHOIR_SUM, w->scaled = made->scaled, w->scale = made->scale;
    if (call->op == CHOIR_AVG)
        *(comm_small_float(call->type) ? &w->divide_in : &w->divide_out) = c->host.size;
    return CHOIR_OK;
}

/* How long the buffers are, and whether they overlap. */
static void measure(const struct choir_comm *c, const struct comm_call *call, struct cuda_work *w)
{
    struct choir_shape shape;
    uint64_t in, out, elem = choir_type_bytes(call->type);
    call_shape(c, call, &shape);
    plan_shape_extent(&shape, &in, &out);
    w->in_bytes = in * elem;
    w->out_bytes = out * elem;
    const uint8_t *i = call->in, *o = call->out;
    w->in_place = i && o && i < o + w->out_bytes && o < i + w->in_bytes;
}

static enum choir_status enqueue(struct choir_comm *c, struct cuda_work *w,
                                 struct choir_stream *stream)
{
    w->stream = stream_cuda(stream);
    enum choir_status st = cuda_enqueue(c->device->gpu, w);
    return st == CHOIR_OK ? st : comm_take_error(c, st);
}

static enum choir_status run_locked(struct choir_comm *c, const struct comm_call *call,
                                    struct choir_stream *stream, uint64_t mark)
{
    bool owned = false;
    struct cuda_bound *bound = NULL;
    struct cuda_work w = {.in = call->in, .out = call->out, .mark = mark};
    w.signature = call_signature(c, call) ^ DEVICE_SALT;
    ++c->host.sequence;
    watch_record(c, call, w.signature);
    enum choir_status st = take_op(c, call, &w);
    if (st != CHOIR_OK || (!call->count && call->kind < CHOIR_BARRIER))
        return st;
    measure(c, call, &w);
    take_limits(c, call, &w);
    st = find(c, call, &w, &bound, &owned);
    if (st != CHOIR_OK)
        return st;
    w.bound = bound;
    st = enqueue(c, &w, stream);
    if (owned)
        cuda_bound_used(bound, stream_cuda(stream));
    return st;
}

enum choir_status device_awake(struct choir_comm *c)
{
    if (base_likely(!c->device || !c->device->suspended))
        return CHOIR_OK;
    return comm_fail(c, CHOIR_ERR_STATE, "call choir_comm_resume on all ranks first",
                     "a device call on a suspended communicator");
}

enum choir_status device_run(struct choir_comm *c, const struct comm_call *call,
                             struct choir_stream *stream)
{
    device_look(c);
    enum choir_status st = (enum choir_status)atomic_load(&c->host.broken);
    if (st == CHOIR_OK)
        st = device_awake(c);
    if (st != CHOIR_OK)
        return st;
    if (call->side)
        return device_side(c, call->side, stream);
    if (comm_staged(c))
        return staged_run(c, call, stream);
    if (!comm_enter(c))
        return CHOIR_ERR_BUSY;
    struct bounce b = {.comm = c, .call = *call, .stream = stream_cuda(stream)};
    uint64_t mark;
    struct comm_observed *o = observe_call(c, stream, call, NULL, 0, &mark);
    st = order_before(c, stream);
    if (st == CHOIR_OK)
        st = bounce_in(&b);
    if (st == CHOIR_OK)
        st = order_after(c, stream, bounce_out(&b, run_locked(c, &b.call, stream, mark)));
    observe_call_end(o, st);
    comm_leave(c);
    return st;
}

static enum choir_status exchange_locked(struct choir_comm *c, const struct comm_call *call,
                                         const struct comm_message *list, uint32_t n,
                                         struct choir_stream *stream, uint64_t mark)
{
    struct choir_plan *plans[CUDA_RANKS] = {NULL};
    struct cuda_bound *bound = NULL;
    struct cuda_work w = {.type = CHOIR_UINT8, .signature = COMM_EXCHANGE_SIGNATURE ^ DEVICE_SALT};
    w.mark = mark;
    ++c->host.sequence;
    take_limits(c, call, &w);
    enum choir_status st =
        exchange_plan(c, list, n, CUDA_SLOT_BYTES, CUDA_DEPTH, 1, &plans[c->host.rank]);
    if (st == CHOIR_OK)
        st = bind_plans(c, plans, 1, 0, st, &bound);
    w.bound = bound;
    if (st == CHOIR_OK)
        st = enqueue(c, &w, stream);
    cuda_bound_used(bound, stream_cuda(stream));
    return st;
}

enum choir_status device_exchange(struct choir_comm *c, const struct comm_call *call,
                                  struct comm_message *list, uint32_t n,
                                  struct choir_stream *stream)
{
    if (comm_staged(c))
        return staged_exchange(c, call, list, n, stream);
    enum choir_status st = device_awake(c);
    if (st != CHOIR_OK)
        return st;
    if (!comm_enter(c))
        return CHOIR_ERR_BUSY;
    struct bounce b = {.comm = c, .stream = stream_cuda(stream), .call.kind = CHOIR_EXCHANGE};
    uint64_t mark;
    struct comm_observed *o = observe_call(c, stream, &b.call, list, n, &mark);
    st = order_before(c, stream);
    if (st == CHOIR_OK)
        st = bounce_messages_in(&b, list, n);
    if (st == CHOIR_OK)
        st =
            order_after(c, stream, bounce_out(&b, exchange_locked(c, call, list, n, stream, mark)));
    observe_call_end(o, st);
    comm_leave(c);
    return st;
}

/* --- life ---------------------------------------------------------------------------------------------------- */

uint64_t device_bytes(const struct choir_comm *c)
{
    return c->device ? cuda_comm_bytes(c->device->gpu) : staged_device_bytes(c);
}

uint64_t device_saved(const struct choir_comm *c)
{
    return c->device ? cuda_comm_saved(c->device->gpu) : 0;
}

uint64_t device_suspended(const struct choir_comm *c)
{
    return c->device ? cuda_comm_suspended(c->device->gpu) : 0;
}

/* Who can do without GPUs does not fail for them. */
static void without(const struct choir_comm *c)
{
    base_log(BASE_WARN, (int)c->host.rank, "no GPU memory in this communicator: %s; %s",
             base_error_thread()->text, base_error_thread()->remedy);
}

void device_here(struct choir_comm *c)
{
    if (cuda_here(&c->here) != CHOIR_OK)
        without(c);
}

void device_open(struct choir_comm *c, struct cuda_card *card)
{
    struct cuda_comm *gpu = NULL;
    bool off = !strcmp(knob_text(KNOB_CUDA_P2P), "off");
    *card = (struct cuda_card){.present = c->here != NULL, .off = off};
    if (!c->here || device_apart(c) != DEVICE_MAPPED || off)
        return;
    enum choir_status st =
        cuda_comm_open(c->here, c->host.rank, c->host.size, c->timeout_ns, card, &gpu);
    if (st == CHOIR_OK && !(c->device = calloc(1, sizeof(*c->device))))
        st = base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a communicator");
    if (c->device) {
        c->device->gpu = gpu;
        c->device->bound = plan_cache_create(256);
        if (!c->device->bound)
            st = base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for the cache of plans");
    }
    if (st != CHOIR_OK) {
        base_log(BASE_WARN, (int)c->host.rank, "no direct access between GPUs: %s; %s",
                 base_error_thread()->text, base_error_thread()->remedy);
        if (c->device)
            device_close(c);
        else
            cuda_comm_close(gpu);
        *card = (struct cuda_card){.present = 1};
    } else if (staged_open(c) != CHOIR_OK) { /* such calls are refused then */
        base_log(BASE_WARN, (int)c->host.rank, "no memory of malloc on CUDA streams: %s; %s",
                 base_error_thread()->text, base_error_thread()->remedy);
    }
}

void device_stage(struct choir_comm *c)
{
    device_close(c);
    c->slice_bytes = (uint64_t)knob_int(KNOB_CUDA_SLICE);
    if (c->here && staged_open(c) != CHOIR_OK)
        without(c);
}

enum choir_status device_table(struct choir_comm *c, const struct plan_tuned *tuned)
{
    struct comm_device *d = c->device;
    plan_cluster_default(&d->cluster, c->layout);
    plan_cluster_gpus(&d->cluster, tuned);
    return plan_table_create(&d->cluster, knob_text(KNOB_ALGO), &d->table);
}

enum choir_status device_ready(struct choir_comm *c, const struct device_met *said)
{
    struct comm_device *d = c->device;
    enum choir_status st = observe_open(c, d->gpu);
    if (st != CHOIR_OK)
        return st;
    d->timer = (struct service_timer){.period_ns = DEVICE_PERIOD_NS, .fn = device_timer, .arg = c};
    d->timed = true;
    service_timer_add(&d->timer);
    return tune_start(c, said);
}

void device_close(struct choir_comm *c)
{
    struct comm_device *d = c->device;
    if (d && d->timed)
        service_timer_remove(&d->timer);
    if (d)
        tune_free(c), cuda_comm_quiesce(
                          d->gpu); /* before its plans' memory goes, and the thread that copies */
    observe_close(c);
    staged_close(c);
    overlap_close(c);
    if (!d)
        return;
    plan_cache_free(d->bound);
    plan_table_free(d->table);
    cuda_comm_close(d->gpu);
    free(d);
    c->device = NULL;
}
