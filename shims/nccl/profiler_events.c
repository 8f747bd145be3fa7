/* SPDX-License-Identifier: Apache-2.0 */
/*
 * profiler_events.c: from Choir's events (choir_profile.h) to those of NCCL's profiler plug-ins.
 *
 *   GroupApi -> CollApi, P2pApi -> Coll, P2p -> ProxyOp (a lane), KernelCh (the kernels of an operation)
 *   Group    ---------------------------^        GroupApi -> KernelLaunch
 *
 * Operations outside groups have a group of their own, as in NCCL. Kernels come after their operation has been stopped, also as
 * there. Of one that is captured the call is told, and of each replay a group and an operation. One thread at a time calls the
 * plug-in.
 */
#include "shims/nccl/profiler.h"
#include "choir_profile.h"
#include "base/base.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUCKETS 1024u

struct member { /* a rank of a communicator that the plug-in knows */
    struct member *next;
    uint64_t comm;
    int rank;
    void *context;
    char name[64];
};
struct part { /* what stands for an event of Choir, by id */
    struct part *next;
    uint64_t id;
    struct member *of;       /* whose context the handles are of; NULL: there are none yet */
    bool grouped, ended;     /* ended: but for its kernel */
    void *group_api, *group; /* of a group, or of an operation in none */
    void *api, *launch, *task, *piece; /* piece: of a lane or kernel */
    void *named;                       /* the task, stopped or not: the parent of pieces */
    int peer, is_send;                 /* of an operation */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct member *members;
static struct part *parts[BUCKETS];

static const int of_tasks = PROFILER_COLL | PROFILER_P2P | PROFILER_PROXY_OP | PROFILER_PROXY_STEP |
                            PROFILER_KERNEL_CH | PROFILER_NET_PLUGIN;
static const int of_calls = PROFILER_COLL_API | PROFILER_P2P_API;

/* --- parts ------------------------------------------------------------------------------------------------ */

static struct part **place_of(uint64_t id)
{
    struct part **at = &parts[id % BUCKETS];
    while (*at && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

static struct part *find(uint64_t id)
{
    return id ? *place_of(id) : NULL;
}

static struct part *add(uint64_t id)
{
    struct part *p = calloc(1, sizeof(*p)); /* NULL: it is not told of */
    if (!p)
        return NULL;
    p->id = id;
    p->next = parts[id % BUCKETS];
    return parts[id % BUCKETS] = p;
}

/* The inner ones first. */
static void stop(struct part *p)
{
    nccl_profiler_stop(&p->piece);
    nccl_profiler_stop(&p->task);
    nccl_profiler_stop(&p->launch);
    nccl_profiler_stop(&p->api);
    nccl_profiler_stop(&p->group);
    nccl_profiler_stop(&p->group_api);
}

static void drop(uint64_t id)
{
    struct part **at = place_of(id), *p = *at;
    if (!p)
        return;
    *at = p->next;
    free(p);
}

/* --- operations --------------------------------------------------------------------------------------------- */

static bool is_message(const struct choir_profile_event *e)
{
    return e->peer >= 0;
}

static bool is_captured(const struct choir_profile_event *e)
{
    return e->stream_kind == CHOIR_PROFILE_CUDA_GRAPH;
}

/* As many as pieces are told of: plug-ins wait for one of each channel. */
static uint8_t channels_of(const struct choir_profile_event *e)
{
    return (uint8_t)(e->kernels ? e->kernels : base_min(e->lanes, 255u));
}

static void *start(struct member *m, const struct choir_profile_event *e, uint64_t type,
                   struct profiler_event_5 x)
{
    x.type = type;
    x.rank = e->rank;
    return nccl_profiler_event(m->context, &x);
}

static void start_group_api(struct part *p, struct member *m, const struct choir_profile_event *e)
{
    p->of = m;
    if (nccl_profiler_wants(PROFILER_GROUP_API | PROFILER_KERNEL_LAUNCH | PROFILER_GROUP |
                            of_calls | of_tasks)) {
        p->group_api =
            start(m, e, PROFILER_GROUP_API,
                  (struct profiler_event_5){.group_api = {.captured = is_captured(e), .depth = 1}});
        nccl_profiler_record(p->group_api, PROFILER_GROUP_API_START_STOP, 0);
    }
}

static void start_group(struct part *p, const struct choir_profile_event *e)
{
    if (!p->grouped && nccl_profiler_wants(PROFILER_GROUP | of_tasks))
        p->group = start(p->of, e, PROFILER_GROUP, (struct profiler_event_5){0});
    p->grouped = true;
}

static void start_call(struct part *p, struct part *g, const struct choir_profile_event *e)
{
    struct profiler_event_5 x = {.parent = g->group_api};
    void *stream = (void *)(uintptr_t)e->stream;
    if (is_message(e))
        x.p2p_api =
            (struct profiler_p2p_api){nccl_profiler_func(e->operation), e->count,
                                      nccl_profiler_datatype(e->type), stream, is_captured(e)};
    else
        x.coll_api = (struct profiler_coll_api){nccl_profiler_func(e->operation),
                                                e->count,
                                                nccl_profiler_datatype(e->type),
                                                e->root,
                                                stream,
                                                is_captured(e)};
    if (nccl_profiler_wants((is_message(e) ? PROFILER_P2P_API : PROFILER_COLL_API) | of_tasks))
        p->api = start(p->of, e, is_message(e) ? PROFILER_P2P_API : PROFILER_COLL_API, x);
    x = (struct profiler_event_5){.parent = g->group_api, .kernel_launch.stream = stream};
    if (e->kernels && nccl_profiler_wants(PROFILER_KERNEL_LAUNCH))
        p->launch = start(p->of, e, PROFILER_KERNEL_LAUNCH, x);
}

static void start_task(struct part *p, struct part *g, const struct choir_profile_event *e)
{
    struct profiler_event_5 x = {.parent = p->api};
    if (!nccl_profiler_wants(of_tasks))
        return;
    if (is_message(e)) {
        const void *buffer = e->send ? e->send : e->recv;
        x.p2p = (struct profiler_p2p_5){.func = nccl_profiler_func(e->operation),
                                        .buffer = (void *)(uintptr_t)buffer,
                                        .datatype = nccl_profiler_datatype(e->type),
                                        .count = e->count,
                                        .peer = e->peer,
                                        .channels = channels_of(e),
                                        .group = g->group};
        p->named = p->task = start(p->of, e, PROFILER_P2P, x);
        return;
    }
    x.coll.group = g->group;
    x.coll.v4 = (struct profiler_coll_4){.sequence = e->sequence,
                                         .func = nccl_profiler_func(e->operation),
                                         .send = e->send,
                                         .recv = (void *)(uintptr_t)e->recv,
                                         .count = e->count,
                                         .root = e->root < 0 ? 0 : e->root,
                                         .datatype = nccl_profiler_datatype(e->type),
                                         .channels = channels_of(e),
                                         .algo = nccl_profiler_lasting(e->algorithm),
                                         .proto = "choir"};
    p->named = p->task = start(p->of, e, PROFILER_COLL, x);
}

static struct member *member_of(const struct choir_profile_event *e)
{
    struct member *m = members;
    while (m && (m->comm != e->comm || m->rank != e->rank))
        m = m->next;
    return m;
}

static void begin_operation(const struct choir_profile_event *e)
{
    struct member *m = member_of(e);
    struct part *p = m ? add(e->id) : NULL, *g = find(e->parent);
    if (!p)
        return;
    p->of = m;
    p->peer = e->peer;
    p->is_send = strcmp(e->operation, "recv") != 0; /* lanes of a collective do both */
    g = g ? g : p;
    if (!g->of || g == p)
        start_group_api(g, m, e);
    start_call(p, g, e);
    if (is_captured(e) && e->kernels)
        return; /* its replays are the tasks */
    start_group(g, e);
    start_task(p, g, e);
}

/* The kernel of one that is in a stream is still to come. */
static void end_operation(const struct choir_profile_event *e)
{
    struct part *p = find(e->id);
    if (!p)
        return;
    nccl_profiler_record(p->group_api, PROFILER_GROUP_API_END_START, 0);
    stop(p);
    p->ended = true;
    if (!e->kernels || e->status != CHOIR_OK || is_captured(e))
        drop(e->id);
}

/* --- pieces --------------------------------------------------------------------------------------------------- */

static void begin_lane(const struct choir_profile_event *e)
{
    struct part *op = find(e->parent), *p = op ? add(e->id) : NULL;
    if (!p)
        return;
    p->of = op->of;
    struct profiler_event_5 x = {.parent = op->named};
    x.proxy_op =
        (struct profiler_proxy_op){.pid = getpid(),
                                   .channel = (uint8_t)e->lane,
                                   .peer = op->peer,
                                   .steps = (int)base_min(e->instances, INT32_MAX),
                                   .chunk_bytes = (int)base_min(e->fragment_bytes, INT32_MAX),
                                   .is_send = op->is_send};
    if (nccl_profiler_wants(PROFILER_PROXY_OP | PROFILER_PROXY_STEP | PROFILER_NET_PLUGIN))
        p->piece = start(p->of, e, PROFILER_PROXY_OP, x);
    nccl_profiler_record(p->piece, PROFILER_PROXY_OP_IN_PROGRESS, 0);
}

/* A replay's have no operation in their turn: what was captured has ended long ago. */
static void begin_kernel(const struct choir_profile_event *e)
{
    struct member *m = member_of(e);
    struct part *p = m ? add(e->id) : NULL, *op = find(e->parent);
    if (!p || !nccl_profiler_wants(PROFILER_KERNEL_CH)) {
        drop(e->id);
        return;
    }
    p->of = m;
    if (!op) {
        start_group(p, e);
        start_task(p, p, e);
    }
    struct profiler_event_5 x = {.parent = op ? op->named : p->named};
    x.kernel_ch = (struct profiler_kernel_ch){.gpu_ns = e->gpu_ns};
    p->piece = start(m, e, PROFILER_KERNEL_CH, x);
}

static void end_kernel(const struct choir_profile_event *e)
{
    struct part *p = find(e->id);
    if (p && e->gpu_ns)
        nccl_profiler_record(p->piece, PROFILER_KERNEL_CH_STOP, e->gpu_ns);
}

/* --- communicators -------------------------------------------------------------------------------------------- */

static void begin_member(const struct choir_profile_event *e)
{
    struct member *m = calloc(1, sizeof(*m));
    if (!m)
        return;
    *m = (struct member){.next = members, .comm = e->comm, .rank = e->rank};
    snprintf(m->name, sizeof(m->name), "%s", e->name);
    if (nccl_profiler_init(&m->context, e->comm, m->name[0] ? m->name : NULL, e->hosts, e->size,
                           e->rank))
        members = m;
    else
        free(m);
}

/* Its parts: all, or those that only wait for a kernel. */
static void drop_all(const struct member *m, bool waiting)
{
    for (uint32_t i = 0; i < BUCKETS; i++)
        for (struct part *p = parts[i], *next; p; p = next) {
            next = p->next;
            if (p->of != m || (waiting && !p->ended))
                continue;
            stop(p);
            drop(p->id);
        }
}

/* What is still open of it (a group that has not ended, kernels that never came) ends with it. */
static void end_member(const struct choir_profile_event *e)
{
    struct member *m = member_of(e), **at = &members;
    if (!m)
        return;
    drop_all(m, false);
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    nccl_profiler_finalize(m->context);
    free(m);
}

/* --- Choir's events ------------------------------------------------------------------------------------------- */

static void begin(const struct choir_profile_event *e)
{
    if (e->kind == CHOIR_PROFILE_COMM)
        begin_member(e);
    else if (e->kind == CHOIR_PROFILE_GROUP)
        (void)add(e->id);
    else if (e->kind == CHOIR_PROFILE_OPERATION)
        begin_operation(e);
    else if (e->kind == CHOIR_PROFILE_LANE)
        begin_lane(e);
    else if (e->kind == CHOIR_PROFILE_KERNEL)
        begin_kernel(e);
}

static void end(const struct choir_profile_event *e)
{
    struct part *p;
    if (e->kind == CHOIR_PROFILE_COMM) {
        end_member(e);
        return;
    }
    if (e->kind == CHOIR_PROFILE_OPERATION) {
        end_operation(e);
        return;
    }
    if (e->kind == CHOIR_PROFILE_KERNEL) {
        end_kernel(e);
        if (!is_captured(e))
            drop(e->parent);
    }
    if ((p = find(e->id))) {
        nccl_profiler_record(p->group_api, PROFILER_GROUP_API_END_START, 0);
        stop(p);
        drop(e->id);
    }
}

static void observe(const struct choir_profile_event *e, void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    if (e->phase == CHOIR_PROFILE_BEGIN)
        begin(e);
    else if (e->phase == CHOIR_PROFILE_END)
        end(e);
    else if (e->kind == CHOIR_PROFILE_LOST)
        drop_all(member_of(e),
                 true); /* whose they were nobody knows: what comes is told as of replays */
    pthread_mutex_unlock(&lock);
}

void nccl_profiler_start(void)
{
    uint32_t observer;
    if (nccl_profiler_load() &&
        choir_profile_add(observe, NULL, CHOIR_PROFILE_ALL, &observer) != CHOIR_OK)
        base_error_say();
}
