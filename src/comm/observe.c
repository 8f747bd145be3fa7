/* SPDX-License-Identifier: Apache-2.0 */
/*
 * observe.c: what observers (choir_profile.h) are told of communicators, operations, their lanes and their kernels. All of it is off the
 * path of calls that nobody observes. A kernel is seen by two marks that the GPU leaves in pinned memory (cuda/mark.c), which carry
 * the id of the operation's event; so what is to be told of an operation is kept here until its kernel has ended, of a captured one
 * as long as the communicator.
 */
#include "comm/gpu.h"
#include "comm/observe.h"
#include "cuda/engine.h"
#include "host/observe.h"
#include <stdlib.h>
#include <string.h>

#define OBSERVED_NS                                                                                \
    1000000u /* while kernels are observed: there is room for the marks of so long */

struct comm_observed { /* an operation, or the messages of a group that run as one */
    uint32_t count;
    struct profile_event lane[LANE_COUNT];
    struct profile_event op[];
};

struct marked { /* an operation that is, or may be, in a stream */
    struct marked *next;
    struct choir_profile_event event;
};
struct comm_marks {
    struct cuda_comm *gpu;
    pthread_mutex_t lock;
    struct marked *queued, **last; /* in the order of calls */
    struct marked **captured;      /* ids ascend */
    uint32_t captures, room;
    struct profile_event kernel; /* that has begun; its parent is the operation */
};

/* --- operations ---------------------------------------------------------------------------------------- */

static void fill_comm(const struct choir_comm *c, struct choir_profile_event *e)
{
    e->comm = c->host.key;
    e->name = c->name;
    e->rank = (int32_t)c->host.rank;
    e->size = (int32_t)c->host.size;
    e->hosts = (int32_t)c->layout->hosts;
    e->root = e->peer = -1;
}

static uint64_t sum(const uint64_t *count, uint32_t n)
{
    uint64_t all = 0;
    for (uint32_t i = 0; i < n; i++)
        all += count[i];
    return all;
}

static uint64_t elements(const struct choir_comm *c, const struct comm_call *call)
{
    if (call->in_count)
        return sum(call->in_count, call_list_length(c, call, 0));
    if (call->kind == CHOIR_ALL_GATHER_V)
        return call->out_count[c->host.rank];
    return call->out_count ? sum(call->out_count, call_list_length(c, call, 2)) : call->count;
}

static bool rooted(enum choir_kind kind)
{
    return kind == CHOIR_REDUCE || kind == CHOIR_BROADCAST || kind == CHOIR_GATHER ||
           kind == CHOIR_SCATTER || kind == CHOIR_GATHER_V || kind == CHOIR_SCATTER_V;
}

static void fill_call(const struct comm_task *t, const struct comm_call *call,
                      struct choir_profile_event *e)
{
    e->operation = plan_kind_name(call->kind);
    e->count = elements(t->comm, call);
    e->type = call->type;
    e->op = plan_kind_reduces(call->kind) ? call->op : 0;
    e->root = rooted(call->kind) ? call->root : -1;
    e->send = call->in;
    e->recv = call->out;
}

/* One-sided: bytes, and whose memory or signal it is; a wait may be for several ranks. */
static void fill_side(const struct comm_side *side, struct choir_profile_event *e)
{
    e->operation = side_name(side);
    e->count = side->bytes;
    e->type = CHOIR_UINT8;
    e->peer = side->kind == SIDE_WAIT ? -1 : side->peer;
    e->send = side->send;
}

static void fill_message(const struct comm_message *m, struct choir_profile_event *e)
{
    e->operation = m->send ? "send" : "recv";
    e->count = m->bytes / choir_type_bytes(m->type);
    e->type = m->type;
    e->peer = (int32_t)m->peer;
    *(m->send ? &e->send : (const void **)&e->recv) = m->memory;
}

static struct comm_observed *observed_of(uint32_t n)
{
    struct comm_observed *o = calloc(1, sizeof(*o) + n * sizeof(o->op[0]));
    if (o)
        o->count = n;
    return o; /* NULL: nothing is told; the operation goes on */
}

void observe_messages(struct comm_task *t, const struct comm_message *list, uint32_t n)
{
    t->observed = observed_of(n);
    for (uint32_t i = 0; t->observed && i < n; i++)
        fill_message(&list[i], &t->observed->op[i].event);
}

void observe_replay(struct comm_task *t)
{
    const struct comm_observed *first = t->observed;
    t->observed = profile_on(PROFILE_CALL) ? observed_of(first->count) : NULL;
    if (t->observed)
        memcpy(t->observed->op, first->op, first->count * sizeof(first->op[0]));
}

/* Of a task whose messages, if it has any, are there; the rest is the same for all of them. */
static void begin_all(struct comm_task *t, const struct choir_profile_event *common)
{
    for (uint32_t i = 0; i < t->observed->count; i++) {
        struct choir_profile_event *e = &t->observed->op[i].event, own = *e;
        *e = *common;
        if (own.operation) {
            e->operation = own.operation;
            e->count = own.count, e->type = own.type;
            e->peer = own.peer;
            e->send = own.send, e->recv = own.recv;
        }
        if (i) /* the first one's are all of theirs */
            e->lanes = e->kernels = 0;
        profile_begin(&t->observed->op[i]);
    }
}

static struct choir_profile_event common_of(const struct comm_task *t, const struct comm_call *call)
{
    struct choir_profile_event e = {.kind = CHOIR_PROFILE_OPERATION};
    fill_comm(t->comm, &e);
    if (call->side)
        fill_side(call->side, &e);
    else if (call->kind != CHOIR_EXCHANGE)
        fill_call(t, call, &e);
    e.parent = t->group;
    e.stream = t->stream;
    e.stream_kind = t->stream_kind;
    e.sequence = t->comm->host.sequence;
    return e;
}

void observe_begin(struct comm_task *t)
{
    struct comm_call call = slice_whole(t);
    struct choir_profile_event e = common_of(t, &call);
    if (call.kind == CHOIR_EXCHANGE && !call.side && !t->observed)
        return; /* made while nobody observed */
    if (!t->observed && !(t->observed = observed_of(1)))
        return;
    e.algorithm = t->counting ? "hierarchical" : t->bound ? t->bound->algorithm : "none";
    e.lanes = t->bound ? host_bound_lanes(t->bound) : 0;
    begin_all(t, &e);
}

void observe_lanes(struct comm_task *t)
{
    struct comm_observed *o = t->observed;
    if (!o->op[0].event.id)
        return; /* nobody observed when it began */
    for (uint32_t i = 0; i < LANE_COUNT; i++) {
        o->lane[i].event = (struct choir_profile_event){.parent = o->op[0].event.id};
        fill_comm(t->comm, &o->lane[i].event);
    }
    host_op_observe(&t->comm->op, o->lane);
}

static void end_all(struct comm_observed *o, enum choir_status status)
{
    for (uint32_t i = 0; i < LANE_COUNT; i++)
        profile_end(&o->lane[i], status);
    for (uint32_t i = 0; i < o->count; i++)
        profile_end(&o->op[i], status);
    free(o);
}

void observe_end(struct comm_task *t, enum choir_status status)
{
    end_all(t->observed, status);
    t->observed = NULL;
}

/* --- communicators ------------------------------------------------------------------------------------- */

void observe_comm(struct choir_comm *c)
{
    c->life.event = (struct choir_profile_event){.kind = CHOIR_PROFILE_COMM};
    fill_comm(c, &c->life.event);
    profile_begin(&c->life);
}

void observe_comm_end(struct choir_comm *c)
{
    profile_end(&c->life, (enum choir_status)atomic_load(&c->host.broken));
}

/* --- kernels ------------------------------------------------------------------------------------------- */

enum choir_status observe_open(struct choir_comm *c, struct cuda_comm *gpu)
{
    struct comm_marks *m = calloc(1, sizeof(*m));
    if (!m)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a communicator");
    pthread_mutex_init(&m->lock, NULL);
    m->gpu = gpu;
    m->last = &m->queued;
    c->marks = m;
    return CHOIR_OK;
}

static void drop_before(struct comm_marks *m, uint64_t id)
{
    for (struct marked *x = m->queued; x && x->event.id < id; x = m->queued) {
        m->queued = x->next;
        if (!m->queued)
            m->last = &m->queued;
        free(x);
    }
}

/* Marks of the operation may come from now on. False: no memory. */
static bool keep(struct comm_marks *m, const struct choir_profile_event *event)
{
    struct marked *x = malloc(sizeof(*x));
    if (!x)
        return false;
    *x = (struct marked){.event = *event};
    pthread_mutex_lock(&m->lock);
    if (event->stream_kind != CHOIR_PROFILE_CUDA_GRAPH) {
        *m->last = x;
        m->last = &x->next;
        x = NULL;
    } else if (m->captures == m->room) {
        uint32_t room = m->room ? 2 * m->room : 64;
        struct marked **more = realloc(m->captured, room * sizeof(*more));
        m->captured = more ? more : m->captured;
        m->room = more ? room : m->room;
    }
    if (x && m->captures < m->room)
        m->captured[m->captures++] = x, x = NULL;
    pthread_mutex_unlock(&m->lock);
    bool kept = !x;
    free(x);
    return kept;
}

struct comm_observed *observe_device(struct choir_comm *c, struct choir_stream *stream,
                                     const struct comm_call *call, const struct comm_message *list,
                                     uint32_t n, uint64_t *mark)
{
    struct comm_task t = {.comm = c, .group = group_event(), .stream = stream_cuda(stream)};
    bool captured = false, plan = call->count || call->kind >= CHOIR_BARRIER;
    plan = plan && !call->side;
    if (cuda_comm_capturing(c->marks->gpu, stream_cuda(stream), &captured) != CHOIR_OK)
        return NULL; /* the call will fail, and say why */
    if (n)
        observe_messages(&t, list, n);
    else
        t.observed = observed_of(1);
    if (!t.observed)
        return NULL;
    t.stream_kind = captured ? CHOIR_PROFILE_CUDA_GRAPH : CHOIR_PROFILE_CUDA_STREAM;
    struct choir_profile_event e = common_of(&t, call);
    e.sequence++; /* it is not counted yet */
    e.algorithm = n ? "pairwise" : plan ? device_algorithm(c, call) : "none";
    e.kernels = plan && profile_on(CHOIR_PROFILE_KERNEL);
    begin_all(&t, &e);
    const struct choir_profile_event *first = &t.observed->op[0].event;
    *mark = e.kernels && keep(c->marks, first) ? first->id : 0;
    return t.observed;
}

void observe_device_end(struct comm_observed *o, enum choir_status status)
{
    end_all(o, status);
}

static const struct choir_profile_event *find(struct comm_marks *m, uint64_t id)
{
    drop_before(m, id); /* operations of a communicator run in order: their marks were lost */
    if (m->queued && m->queued->event.id == id)
        return &m->queued->event;
    uint32_t low = 0, high = m->captures;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (m->captured[middle]->event.id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < m->captures && m->captured[low]->event.id == id ? &m->captured[low]->event : NULL;
}

static void end_kernel(const struct choir_comm *c, struct comm_marks *m, uint64_t gpu_ns)
{
    m->kernel.event.gpu_ns = gpu_ns;
    profile_end(&m->kernel, (enum choir_status)atomic_load(&c->host.broken));
}

static void begin_kernel(const struct choir_comm *c, struct comm_marks *m,
                         const struct cuda_mark *mark)
{
    end_kernel(c, m, 0); /* if there is one, its own end was lost */
    pthread_mutex_lock(&m->lock);
    const struct choir_profile_event *op = find(m, mark->id);
    if (op)
        m->kernel.event = *op;
    pthread_mutex_unlock(&m->lock);
    if (!op)
        return;
    m->kernel.event.kind = CHOIR_PROFILE_KERNEL;
    m->kernel.event.parent = mark->id;
    m->kernel.event.gpu_ns = mark->time_ns;
    profile_begin(&m->kernel);
}

static void tell_lost(const struct choir_comm *c, uint32_t lost)
{
    struct profile_event e = {.event = {.kind = CHOIR_PROFILE_LOST, .lost = lost}};
    fill_comm(c, &e.event);
    profile_note(&e);
    if (profile_on(CHOIR_PROFILE_KERNEL))
        base_log(BASE_WARN, (int)c->host.rank, "%u events of kernels came too fast to be told",
                 lost);
}

uint64_t observe_kernels(struct choir_comm *c)
{
    struct comm_marks *m = c->marks;
    struct cuda_mark mark;
    uint32_t lost;
    while (cuda_comm_next_mark(m->gpu, &mark, &lost)) {
        if (lost)
            tell_lost(c, lost);
        if (!mark.end)
            begin_kernel(c, m, &mark);
        else if (m->kernel.event.id && m->kernel.event.parent == mark.id)
            end_kernel(c, m, mark.time_ns);
    }
    return profile_on(CHOIR_PROFILE_KERNEL) ? OBSERVED_NS : UINT64_MAX;
}

void observe_close(struct choir_comm *c)
{
    struct comm_marks *m = c->marks;
    if (!m)
        return;
    observe_kernels(c);
    profile_end(&m->kernel, CHOIR_ERR_ABORTED);
    drop_before(m, UINT64_MAX);
    for (uint32_t i = 0; i < m->captures; i++)
        free(m->captured[i]);
    free(m->captured);
    pthread_mutex_destroy(&m->lock);
    free(m);
    c->marks = NULL;
}
