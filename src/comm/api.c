/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.c: the entry points of the collectives (those with counts by rank: api_v.c): every argument is checked before anything
 * starts, then the call is run, put in the open group, or handed to its stream.
 */
#include "comm/gpu.h"
#include "cuda/cuda.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum choir_status comm_fail(struct choir_comm *c, enum choir_status status, const char *remedy,
                            const char *text, ...)
{
    char line[256];
    va_list ap;
    va_start(ap, text);
    vsnprintf(line, sizeof(line), text, ap);
    va_end(ap);
    base_error_fill(base_error_thread(), status,
                    &(struct base_error_at){(int)c->host.rank, -1, c->host.sequence, 0, NULL},
                    remedy, "rank %u: %s", c->host.rank, line);
    return comm_take_error(c, status);
}

enum choir_status comm_take_error(struct choir_comm *c, enum choir_status status)
{
    struct choir_error *e = base_error_thread();
    e->rank = (int)c->host.rank;
    pthread_mutex_lock(&c->host.lock);
    if (!atomic_load(&c->host.broken))
        c->host.error = *e;
    pthread_mutex_unlock(&c->host.lock);
    return status;
}

static enum choir_status check_type(struct choir_comm *c, const struct comm_call *a)
{
    if ((unsigned)a->type >= CHOIR_TYPES)
        return comm_fail(c, CHOIR_ERR_TYPE, "see enum choir_type", "type is %d", (int)a->type);
    uint64_t most = UINT64_MAX / 16 / c->host.size;
    if (a->count > most)
        return comm_fail(c, CHOIR_ERR_COUNT, "counts are in elements", "count %llu is too large",
                         (unsigned long long)a->count);
    return CHOIR_OK;
}

/* Bytes of the buffers of this rank. */
static enum choir_status check_buffers(struct choir_comm *c, const struct comm_call *a)
{
    struct choir_shape shape;
    uint64_t in, out;
    call_shape(c, a, &shape);
    plan_shape_extent(&shape, &in, &out);
    uint64_t elem = choir_type_bytes(a->type);
    if (in && !a->in)
        return comm_fail(c, CHOIR_ERR_POINTER, "pass a buffer of count elements", "send is NULL");
    if (out && !a->out)
        return comm_fail(c, CHOIR_ERR_POINTER, "pass a buffer for the result", "recv is NULL");
    const uint8_t *i = a->in, *o = a->out;
    if (!in || !out || i + in * elem <= o || o + out * elem <= i)
        return CHOIR_OK;
    int64_t shift;
    if (plan_shape_in_place(&shape, &shift) && i == o + shift * (int64_t)elem)
        return CHOIR_OK;
    return comm_fail(c, CHOIR_ERR_POINTER,
                     "use separate buffers, or the in-place form that choir.h names",
                     "send and recv of %s overlap", plan_kind_name(a->kind));
}

static enum choir_status check_op(struct choir_comm *c, const struct comm_call *a)
{
    struct host_combine combine;
    return plan_kind_reduces(a->kind) ? call_combine(c, a, &combine) : CHOIR_OK;
}

enum choir_status comm_ready(struct choir_comm *c)
{
    enum choir_status st = profile_on(CHOIR_PROFILE_ALL) ? profile_refuse() : CHOIR_OK;
    if (st != CHOIR_OK)
        return st;
    st = (enum choir_status)atomic_load(&c->host.broken);
    if (st != CHOIR_OK) {
        pthread_mutex_lock(&c->host.lock);
        *base_error_thread() = c->host.error;
        pthread_mutex_unlock(&c->host.lock);
        return st;
    }
    if (atomic_load(&c->state) != COMM_READY)
        return comm_fail(
            c, CHOIR_ERR_STATE,
            "wait until choir_comm_status is CHOIR_OK; no calls after choir_comm_finalize",
            "comm is %s", atomic_load(&c->state) == COMM_CREATING ? "being created" : "finalized");
    return CHOIR_OK;
}

static enum choir_status check(struct choir_comm *c, const struct comm_call *a)
{
    enum choir_status st = comm_ready(c);
    if (st != CHOIR_OK)
        return st;
    if (a->root < 0 || (uint32_t)a->root >= c->host.size)
        return comm_fail(c, CHOIR_ERR_RANK, "ranks run from 0 to size - 1",
                         "root %d is not in 0..%u", a->root, c->host.size - 1);
    st = check_type(c, a);
    if (st == CHOIR_OK)
        st = check_op(c, a);
    return st == CHOIR_OK && a->kind != CHOIR_BARRIER ? check_buffers(c, a) : st;
}

static enum choir_status take_call(struct choir_comm *c, const struct choir_call *call,
                                   struct comm_call *a)
{
    struct choir_call known = {0};
    if (!call)
        return CHOIR_OK;
    if (call->bytes < offsetof(struct choir_call, max_blocks) || call->flags & ~CHOIR_CALL_OVERLAP)
        return comm_fail(c, CHOIR_ERR_ARGUMENT,
                         "set call->bytes = sizeof(struct choir_call) and flags = 0 or "
                         "CHOIR_CALL_OVERLAP",
                         "call has %u bytes and flags %u", call->bytes, call->flags);
    memcpy(&known, call, base_min(call->bytes, sizeof(known)));
    a->deadline_ns = known.deadline_ns;
    a->max_blocks = known.max_blocks;
    return CHOIR_OK;
}

/* Once nothing is found wrong with the call any more. */
static enum choir_status take_overlap(struct choir_comm *c, const struct choir_call *call,
                                      struct choir_stream **stream)
{
    return call && call->flags & CHOIR_CALL_OVERLAP ? overlap_fork(c, stream) : CHOIR_OK;
}

static enum choir_status submit_checked(struct choir_comm *c, struct comm_call *a,
                                        struct choir_stream *stream, const struct choir_call *call)
{
    enum choir_status st = comm_check(c);
    if (st != CHOIR_OK)
        return st;
    if (base_unlikely(cuda_driver_seen()) && !stream &&
        (st = device_call_stream(c, a->in, a->out, &stream)) != CHOIR_OK)
        return st;
    if (base_likely(!call && !stream && !group_open() && run_memo(c, a, &st)))
        return st;
    st = take_call(c, call, a);
    if (st == CHOIR_OK)
        st = check(c, a);
    if (st == CHOIR_OK)
        st = device_call_stream(c, a->in, a->out, &stream);
    if (st == CHOIR_OK)
        st = take_overlap(c, call, &stream);
    if (st != CHOIR_OK)
        return st;
    if (base_unlikely(group_open()))
        return group_add(c, a, stream);
    if (stream_is_cuda(stream))
        return device_run(c, a, stream);
    if (base_unlikely(stream != NULL))
        return stream_submit_call(stream, c, a);
    return run_call(c, a);
}

enum choir_status comm_submit(struct choir_comm *c, struct comm_call *a,
                              struct choir_stream *stream, const struct choir_call *call)
{
    return group_note(submit_checked(c, a, stream, call));
}

enum choir_status choir_all_reduce_x(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                     enum choir_type type, choir_op op, choir_stream *stream,
                                     const struct choir_call *call)
{
    struct comm_call a = {
        .kind = CHOIR_ALL_REDUCE, .type = type, .op = op, .count = count, .in = send, .out = recv};
    return comm_submit(comm, &a, stream, call);
}

enum choir_status choir_reduce_x(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                 enum choir_type type, choir_op op, int root, choir_stream *stream,
                                 const struct choir_call *call)
{
    struct comm_call a = {.kind = CHOIR_REDUCE,
                          .type = type,
                          .op = op,
                          .root = root,
                          .count = count,
                          .in = send,
                          .out = recv};
    return comm_submit(comm, &a, stream, call);
}

enum choir_status choir_broadcast_x(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                    enum choir_type type, int root, choir_stream *stream,
                                    const struct choir_call *call)
{
    struct comm_call a = {.kind = CHOIR_BROADCAST,
                          .type = type,
                          .root = root,
                          .count = count,
                          .in = send,
                          .out = recv};
    return comm_submit(comm, &a, stream, call);
}

enum choir_status choir_all_gather_x(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                     enum choir_type type, choir_stream *stream,
                                     const struct choir_call *call)
{
    struct comm_call a = {
        .kind = CHOIR_ALL_GATHER, .type = type, .count = count, .in = send, .out = recv};
    return comm_submit(comm, &a, stream, call);
}

enum choir_status choir_reduce_scatter_x(choir_comm *comm, const void *send, void *recv,
                                         uint64_t count, enum choir_type type, choir_op op,
                                         choir_stream *stream, const struct choir_call *call)
{
    struct comm_call a = {.kind = CHOIR_REDUCE_SCATTER,
                          .type = type,
                          .op = op,
                          .count = count,
                          .in = send,
                          .out = recv};
    return comm_submit(comm, &a, stream, call);
}

enum choir_status choir_all_to_all_x(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                     enum choir_type type, choir_stream *stream,
                                     const struct choir_call *call)
{
    struct comm_call a = {
        .kind = CHOIR_ALL_TO_ALL, .type = type, .count = count, .in = send, .out = recv};
    return comm_submit(comm, &a, stream, call);
}

enum choir_status choir_gather_x(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                 enum choir_type type, int root, choir_stream *stream,
                                 const struct choir_call *call)
{
    struct comm_call a = {
        .kind = CHOIR_GATHER, .type = type, .root = root, .count = count, .in = send, .out = recv};
    return comm_submit(comm, &a, stream, call);
}

enum choir_status choir_scatter_x(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                  enum choir_type type, int root, choir_stream *stream,
                                  const struct choir_call *call)
{
    struct comm_call a = {
        .kind = CHOIR_SCATTER, .type = type, .root = root, .count = count, .in = send, .out = recv};
    return comm_submit(comm, &a, stream, call);
}

enum choir_status choir_barrier_x(choir_comm *comm, choir_stream *stream,
                                  const struct choir_call *call)
{
    struct comm_call a = {.kind = CHOIR_BARRIER, .type = CHOIR_UINT8};
    return comm_submit(comm, &a, stream, call);
}

enum choir_status comm_check_peer(struct choir_comm *c, int peer)
{
    if (peer >= 0 && (uint32_t)peer < c->host.size)
        return CHOIR_OK;
    return comm_fail(c, CHOIR_ERR_RANK, "ranks run from 0 to size - 1", "peer %d is not in 0..%u",
                     peer, c->host.size - 1);
}

/* --- point to point ---------------------------------------------------------------------------- */

static enum choir_status message_checked(struct choir_comm *c, struct comm_message m,
                                         uint64_t count, enum choir_type type, int peer,
                                         struct choir_stream *stream, const struct choir_call *call)
{
    struct comm_call a = {.kind = CHOIR_EXCHANGE, .type = CHOIR_UINT8};
    enum choir_status st = comm_check(c);
    if (st == CHOIR_OK)
        st = take_call(c, call, &a);
    if (st != CHOIR_OK)
        return st;
    if ((st = comm_check_peer(c, peer)) != CHOIR_OK)
        return st;
    struct comm_call t = {.type = type, .count = count};
    if ((st = check_type(c, &t)) != CHOIR_OK || (st = check(c, &a)) != CHOIR_OK)
        return st;
    if (count && !m.memory)
        return comm_fail(c, CHOIR_ERR_POINTER, "pass a buffer of count elements", "%s is NULL",
                         m.send ? "send" : "recv");
    st = device_call_stream(c, m.send ? m.memory : NULL, m.send ? NULL : m.memory, &stream);
    if (st != CHOIR_OK)
        return st;
    if ((uint32_t)peer == c->host.rank && !group_open())
        return comm_fail(c, CHOIR_ERR_RANK,
                         "put a rank's send to itself and its receive into one group",
                         "peer %d is this rank", peer);
    if ((st = take_overlap(c, call, &stream)) != CHOIR_OK)
        return st;
    m.peer = (uint32_t)peer;
    m.type = type;
    m.bytes = count * choir_type_bytes(type);
    if (group_open())
        return group_add_message(c, &a, &m, stream);
    group_start_quietly();
    st = group_add_message(c, &a, &m, stream);
    enum choir_status ended = choir_group_end();
    return st == CHOIR_OK ? ended : st;
}

static enum choir_status message(struct choir_comm *c, struct comm_message m, uint64_t count,
                                 enum choir_type type, int peer, struct choir_stream *stream,
                                 const struct choir_call *call)
{
    return group_note(message_checked(c, m, count, type, peer, stream, call));
}

enum choir_status choir_send_x(choir_comm *comm, const void *send, uint64_t count,
                               enum choir_type type, int peer, choir_stream *stream,
                               const struct choir_call *call)
{
    struct comm_message m = {.send = true, .memory = (uint8_t *)(uintptr_t)send};
    return message(comm, m, count, type, peer, stream, call);
}

enum choir_status choir_recv_x(choir_comm *comm, void *recv, uint64_t count, enum choir_type type,
                               int peer, choir_stream *stream, const struct choir_call *call)
{
    struct comm_message m = {.send = false, .memory = recv};
    return message(comm, m, count, type, peer, stream, call);
}
