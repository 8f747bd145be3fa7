/* SPDX-License-Identifier: Apache-2.0 */
/*
 * staged_call.c: GPU memory through the host: what a call puts into its stream. For each slice: copies of inputs into pinned memory,
 * a post; then a wait, and copies of outputs back. The next slice is posted before this one is waited for, so copies and network
 * work at the same time:
 *
 *   copy in 0, post 0, copy in 1, post 1, wait 0, copy out 0, copy in 2, post 2, wait 1 ...
 *
 * Host memory is not copied: the operation reads and writes it where it is, when the stream has come to it. Slices of regular
 * shape go through two buffers by turns. V-forms and groups of messages are not cut: they go through memory that grows. That
 * operations come one after the other, whatever streams they are in (overlap.c), keeps those apart that use the same memory.
 */
#include "comm/observe.h"
#include "comm/staged.h"
#include "plan/builder.h"
#include <stdlib.h>
#include <string.h>

struct way { /* of one operation */
    struct choir_comm *c;
    struct comm_staged *s;
    struct staged_item *item;
    struct CUstream_st *stream;
    const struct comm_call *call; /* as the program made it */
    const void *scale;            /* GPU memory, read in the stream; or NULL */
    bool on_gpu[2];               /* IN, OUT */
    uint8_t *host[2];             /* pinned memory for them */
    uint64_t bytes[2];            /* of the buffers, or of one slice */
    struct task_cut cut;          /* of the task: it belongs to the thread once it is submitted, */
    uint64_t posts, posted;       /* and so does the item */
    uint32_t index;
    bool captured;
    const struct comm_message *message;
    struct comm_message *staged; /* the same, in host memory */
    uint32_t messages;
};

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + BASE_LINE - 1) / BASE_LINE * BASE_LINE;
}

static enum choir_status is_gpu(struct choir_comm *c, const void *memory, bool *yes)
{
    struct cuda_pointer where;
    enum choir_status st = cuda_device_of_pointer(memory, &where);
    *yes = st == CHOIR_OK && where.where == CUDA_DEVICE;
    return st == CHOIR_OK ? st : comm_take_error(c, st);
}

static enum choir_status reserve(struct way *w, uint64_t bytes)
{
    enum choir_status st = staged_reserve(w->s, bytes);
    return st == CHOIR_OK ? st : comm_take_error(w->c, st);
}

/* --- copies ---------------------------------------------------------------------------------------------- */

static enum choir_status copy(struct way *w, struct cuda_span span, bool to_host)
{
    return cuda_staged_copy(w->s->gpu, w->stream, &span, to_host);
}

static uint8_t *user_memory(const struct way *w, unsigned b)
{
    return b == CHOIR_IN ? (uint8_t *)(uintptr_t)w->call->in : w->call->out;
}

static enum choir_status copy_slice(struct way *w, unsigned b, uint64_t slice, bool to_host)
{
    const struct task_cut *x = &w->cut;
    uint64_t elem = choir_type_bytes(w->call->type);
    uint64_t bytes = (slice + 1 == x->slices ? x->last : x->each) * elem;
    return copy(w,
                (struct cuda_span){.device = user_memory(w, b) + slice * x->each * elem,
                                   .host = w->host[b] + (w->s->slot[slice % 2] - w->s->slot[0]),
                                   .bytes = bytes,
                                   .blocks = slice_blocks(w->c, w->call, b) ? w->c->host.size : 1,
                                   .device_pitch = w->call->count * elem,
                                   .host_pitch = bytes},
                to_host);
}

/* The blocks of a v-form: what is between them is not touched. Neighbours are copied together. */
static enum choir_status copy_parts(struct way *w, unsigned b, bool to_host)
{
    struct choir_shape shape;
    uint64_t elem = choir_type_bytes(w->call->type);
    enum choir_status st = CHOIR_OK;
    call_shape(w->c, w->call, &shape);
    uint32_t n = shape_blocks(&shape, b);
    uint64_t *off = malloc(2 * n * sizeof(*off)), *len = off + n;
    if (!off)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u blocks", n);
    shape_table(&shape, b, off, len);
    for (uint32_t p = 0, next; p < n && st == CHOIR_OK; p = next) {
        uint64_t bytes = len[p];
        for (next = p + 1; next < n && off[next] == off[p] + bytes; next++)
            bytes += len[next];
        st = copy(w,
                  (struct cuda_span){.device = user_memory(w, b) + off[p] * elem,
                                     .host = w->host[b] + off[p] * elem,
                                     .bytes = bytes * elem,
                                     .blocks = 1},
                  to_host);
    }
    free(off);
    return st;
}

static enum choir_status copy_messages(struct way *w, bool to_host)
{
    enum choir_status st = CHOIR_OK;
    for (uint32_t i = 0; i < w->messages && st == CHOIR_OK; i++) {
        const struct comm_message *m = &w->message[i];
        if (m->send == to_host && m->memory != w->staged[i].memory)
            st = copy(w,
                      (struct cuda_span){.device = m->memory,
                                         .host = w->staged[i].memory,
                                         .bytes = m->bytes,
                                         .blocks = 1},
                      to_host);
    }
    return st;
}

static enum choir_status copy_all(struct way *w, uint64_t slice, bool to_host)
{
    unsigned b = to_host ? CHOIR_IN : CHOIR_OUT;
    if (w->messages)
        return copy_messages(w, to_host);
    if (!w->on_gpu[b])
        return CHOIR_OK;
    return w->cut.slices > 1 ? copy_slice(w, b, slice, to_host) : copy_parts(w, b, to_host);
}

/* --- the stream -------------------------------------------------------------------------------------------- */

static enum choir_status put_in(struct way *w, uint64_t slice)
{
    enum choir_status st = CHOIR_OK;
    if (w->scale && !slice)
        st = copy(w,
                  (struct cuda_span){.device = (void *)(uintptr_t)w->scale,
                                     .host = w->s->scale,
                                     .bytes = choir_type_bytes(w->call->type),
                                     .blocks = 1},
                  true);
    if (st == CHOIR_OK)
        st = copy_all(w, slice, true);
    if (st == CHOIR_OK)
        st = cuda_staged_post(w->s->gpu, w->stream, w->index);
    w->posted += st == CHOIR_OK;
    return st;
}

static enum choir_status take_out(struct way *w, uint64_t slice)
{
    uint32_t later = (uint32_t)(w->posted - slice - 1);
    enum choir_status st = cuda_staged_wait(w->s->gpu, w->stream, w->index, later, w->captured);
    return st == CHOIR_OK ? copy_all(w, slice, false) : st;
}

/* Other ranks run the operation: if this stream does not get all of it, the communicator is of no more use. */
static enum choir_status enqueue(struct way *w)
{
    struct choir_comm *c = w->c;
    enum choir_status st = CHOIR_OK;
    staged_submit(w->s, w->item);
    for (uint64_t i = 0; i <= w->posts && st == CHOIR_OK; i++) {
        if (i < w->posts)
            st = put_in(w, i);
        if (i && st == CHOIR_OK)
            st = take_out(w, i - 1);
    }
    if (st == CHOIR_OK)
        return st;
    struct choir_error *e = base_error_thread();
    host_comm_break(&c->host, st,
                    &(struct base_error_at){(int)c->host.rank, -1, c->host.sequence, 0, "cuda"},
                    e->remedy, "%s", e->text);
    if (w->posted < w->posts)
        staged_lose(w->s, w->item, w->posts - w->posted);
    return st;
}

/* --- calls --------------------------------------------------------------------------------------------------- */

/* Where the GPU's buffers are on the host. The kinds that combine or copy a whole buffer are done in place there. */
static enum choir_status lay_out(struct way *w)
{
    const struct comm_call *call = w->call;
    struct comm_call part = *call;
    struct choir_shape shape;
    uint64_t elem = choir_type_bytes(call->type);
    bool fixed = call->kind <= CHOIR_BARRIER;
    slice_count(w->c, call, &part.count);
    call_shape(w->c, &part, &shape);
    plan_shape_extent(&shape, &w->bytes[CHOIR_IN], &w->bytes[CHOIR_OUT]);
    for (unsigned b = 0; b < 2; b++) {
        w->bytes[b] *= elem;
        enum choir_status st =
            w->bytes[b] ? is_gpu(w->c, user_memory(w, b), &w->on_gpu[b]) : CHOIR_OK;
        if (st != CHOIR_OK)
            return st;
    }
    bool shared = call->kind == CHOIR_ALL_REDUCE || call->kind == CHOIR_REDUCE ||
                  call->kind == CHOIR_BROADCAST;
    uint64_t in = w->on_gpu[CHOIR_IN] && !shared ? aligned(w->bytes[CHOIR_IN]) : 0;
    if (!fixed) {
        enum choir_status st = reserve(w, in + (w->on_gpu[CHOIR_OUT] ? w->bytes[CHOIR_OUT] : 0));
        if (st != CHOIR_OK)
            return st;
    }
    w->host[CHOIR_IN] = fixed ? w->s->slot[0] : w->s->whole;
    w->host[CHOIR_OUT] = w->host[CHOIR_IN] + in;
    return CHOIR_OK;
}

/* The task reads and writes pinned memory where the call has GPU memory. */
static void redirect(struct way *w)
{
    struct comm_task *t = &w->item->task;
    uint64_t turn = (uint64_t)(w->s->slot[1] - w->s->slot[0]);
    t->on_device = w->on_gpu[CHOIR_IN];
    for (unsigned b = 0; b < 2; b++)
        if (w->on_gpu[b])
            t->cut.side[b] = (struct task_side){.at = {w->host[b], w->host[b] + turn}};
    if (t->cut.slices > 1) {
        slice_select(t, 0);
        return;
    }
    t->call.in = w->on_gpu[CHOIR_IN] ? w->host[CHOIR_IN] : t->call.in;
    t->call.out = w->on_gpu[CHOIR_OUT] ? w->host[CHOIR_OUT] : t->call.out;
}

/* A scale in memory of malloc is read now, one of the GPU when the stream comes to it, a pinned one when the operation runs. */
static enum choir_status take_scale(struct way *w, struct comm_call *call)
{
    struct cuda_pointer where;
    const struct comm_op *made = plan_kind_reduces(call->kind) ? op_find(w->c, call->op) : NULL;
    if (!made || !made->scaled)
        return CHOIR_OK;
    enum choir_status st = cuda_device_of_pointer(made->scale, &where);
    if (st != CHOIR_OK)
        return comm_take_error(w->c, st);
    if (where.where == CUDA_HOST) {
        memcpy(&w->item->scale, made->scale, choir_type_bytes(call->type));
        call->scale = &w->item->scale;
    } else if (where.where == CUDA_DEVICE) {
        w->scale = made->scale;
        call->scale = w->s->scale;
    }
    return CHOIR_OK;
}

static void finish_item(struct way *w)
{
    struct staged_item *i = w->item;
    w->cut = i->task.cut;
    w->index = i->index;
    w->captured = i->captured;
    i->posts = w->posts = base_max(w->cut.slices, 1u);
    i->task.group = group_event();
    i->task.stream = w->stream;
    i->task.stream_kind = i->captured ? CHOIR_PROFILE_CUDA_GRAPH : CHOIR_PROFILE_CUDA_STREAM;
    if (w->messages && profile_on(PROFILE_CALL))
        observe_messages(&i->task, w->message, w->messages);
    if (!i->captured)
        return;
    i->task.owns_bound = false;
    i->first = i->task;
    i->task = (struct comm_task){0};
}

static enum choir_status begin(struct way *w, struct choir_stream *stream)
{
    w->s = w->c->staged;
    w->stream = stream_cuda(stream);
    w->item = staged_take(w->s);
    if (!w->item)
        return CHOIR_ERR_NO_MEMORY;
    enum choir_status st = cuda_staged_capturing(w->s->gpu, w->stream, &w->item->captured);
    return st == CHOIR_OK ? st : comm_take_error(w->c, st);
}

static enum choir_status run_locked(struct way *w, struct choir_stream *stream)
{
    struct comm_call copied;
    enum choir_status st = begin(w, stream);
    if (st == CHOIR_OK)
        st = lay_out(w);
    if (st == CHOIR_OK)
        st = call_copy(w->c, w->call, &copied);
    if (st == CHOIR_OK) {
        st = take_scale(w, &copied);
        if (st == CHOIR_OK)
            st = task_bind(w->c, &copied, NULL, &w->item->task);
        w->item->task.call_copy = copied;
    }
    if (st == CHOIR_OK) {
        redirect(w);
        finish_item(w);
        return enqueue(w);
    }
    if (w->item)
        staged_give(w->s, w->item);
    return st;
}

enum choir_status staged_run(struct choir_comm *c, const struct comm_call *call,
                             struct choir_stream *stream)
{
    struct way w = {.c = c, .call = call};
    if (!comm_enter(c))
        return CHOIR_ERR_BUSY;
    enum choir_status st = order_before(c, stream);
    if (st == CHOIR_OK)
        st = order_after(c, stream, run_locked(&w, stream));
    comm_leave(c);
    return st;
}

/* Messages in GPU memory get places in host memory. */
static enum choir_status lay_out_messages(struct way *w)
{
    enum choir_status st = CHOIR_OK;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < w->messages && st == CHOIR_OK; i++) {
        bool gpu;
        st = is_gpu(w->c, w->message[i].memory, &gpu);
        w->staged[i] = w->message[i];
        if (!gpu || !w->message[i].bytes)
            continue;
        w->staged[i].memory = NULL;
        bytes += aligned(w->message[i].bytes);
    }
    if (st == CHOIR_OK)
        st = reserve(w, bytes);
    uint8_t *at = w->s->whole;
    for (uint32_t i = 0; i < w->messages && st == CHOIR_OK; i++)
        if (!w->staged[i].memory && w->message[i].bytes) {
            w->staged[i].memory = at;
            at += aligned(w->message[i].bytes);
        }
    return st;
}

static enum choir_status exchange_locked(struct way *w, struct choir_stream *stream)
{
    struct host_bound *bound = NULL;
    enum choir_status st = begin(w, stream);
    w->staged = malloc((w->messages + 1) * sizeof(*w->staged));
    if (st == CHOIR_OK && !w->staged)
        st = comm_fail(w->c, CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a group");
    if (st == CHOIR_OK)
        st = lay_out_messages(w);
    if (st == CHOIR_OK)
        st = exchange_bind(w->c, w->staged, w->messages, &bound);
    if (st == CHOIR_OK)
        st = task_bind(w->c, w->call, bound, &w->item->task);
    if (st == CHOIR_OK) {
        finish_item(w);
        st = enqueue(w);
    } else if (w->item) {
        staged_give(w->s, w->item);
    }
    free(w->staged);
    return st;
}

enum choir_status staged_exchange(struct choir_comm *c, const struct comm_call *call,
                                  const struct comm_message *list, uint32_t n,
                                  struct choir_stream *stream)
{
    struct way w = {.c = c, .call = call, .message = list, .messages = n};
    if (!comm_enter(c))
        return CHOIR_ERR_BUSY;
    enum choir_status st = order_before(c, stream);
    if (st == CHOIR_OK)
        st = order_after(c, stream, exchange_locked(&w, stream));
    comm_leave(c);
    return st;
}
