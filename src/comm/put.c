/* SPDX-License-Identifier: Apache-2.0 */
/*
 * put.c: one-sided operations: puts into windows, signals, waits for signals. They take their turns among the communicator's
 * operations, as tasks without a plan: what the target does is not this rank's to plan, and the target does nothing. How bytes
 * and signals get there is src/host/put.c's.
 */
#include "comm/gpu.h"
#include "comm/window.h"
#include <stdlib.h>
#include <string.h>

const char *side_name(const struct comm_side *side)
{
    static const char *const name[] = {[SIDE_PUT] = "put",
                                       [SIDE_PUT_SIGNAL] = "put_signal",
                                       [SIDE_SIGNAL] = "signal",
                                       [SIDE_WAIT] = "wait_signal"};
    return name[side->kind];
}

/* --- arguments ------------------------------------------------------------------------------------------ */

static bool puts_bytes(const struct comm_side *s)
{
    return s->kind == SIDE_PUT || s->kind == SIDE_PUT_SIGNAL;
}

static enum choir_status check_signal(struct choir_comm *c, uint32_t signal)
{
    if (signal < CHOIR_SIGNALS)
        return CHOIR_OK;
    return comm_fail(c, CHOIR_ERR_ARGUMENT, "signals run from 0 to CHOIR_SIGNALS - 1",
                     "signal %u is not in 0..%u", signal, CHOIR_SIGNALS - 1);
}

static enum choir_status check_range(struct choir_comm *c, const struct comm_side *s)
{
    if (s->bytes && !s->send)
        return comm_fail(c, CHOIR_ERR_POINTER, "pass memory of that many bytes", "send is NULL");
    if (!s->window || s->window->comm != c)
        return comm_fail(c, CHOIR_ERR_POINTER, "pass what choir_window_create made of it",
                         s->window ? "window is not of this communicator" : "window is NULL");
    uint64_t room = s->window->card[s->peer].bytes;
    if (s->offset <= room && s->bytes <= room - s->offset)
        return CHOIR_OK;
    return comm_fail(c, CHOIR_ERR_COUNT,
                     "offset and bytes count from the start of that rank's part",
                     "%llu bytes at offset %llu are not within the %llu bytes of rank %d's part",
                     (unsigned long long)s->bytes, (unsigned long long)s->offset,
                     (unsigned long long)room, s->peer);
}

static enum choir_status check_waits(struct choir_comm *c, const struct comm_side *s)
{
    enum choir_status st = CHOIR_OK;
    if (s->count && !s->wait)
        return comm_fail(c, CHOIR_ERR_POINTER, "pass an array of count entries", "waits is NULL");
    for (uint32_t i = 0; i < s->count && st == CHOIR_OK; i++) {
        st = comm_check_peer(c, s->wait[i].peer);
        if (st == CHOIR_OK)
            st = check_signal(c, s->wait[i].signal);
    }
    return st;
}

static enum choir_status check(struct choir_comm *c, const struct comm_side *s)
{
    enum choir_status st = comm_check(c);
    if (st == CHOIR_OK)
        st = comm_ready(c);
    if (st != CHOIR_OK || s->kind == SIDE_WAIT)
        return st != CHOIR_OK ? st : check_waits(c, s);
    st = comm_check_peer(c, s->peer);
    if (st == CHOIR_OK && s->kind != SIDE_PUT)
        st = check_signal(c, s->signal);
    return st == CHOIR_OK && puts_bytes(s) ? check_range(c, s) : st;
}

/* --- from a call to a task -------------------------------------------------------------------------------- */

enum choir_status side_copy(struct choir_comm *c, const struct comm_side *side,
                            struct comm_call *copy)
{
    struct comm_side *own = malloc(sizeof(*own) + side->count * sizeof(*side->wait));
    if (!own)
        return comm_fail(c, CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a call");
    struct choir_signal_wait *waits = (struct choir_signal_wait *)(own + 1);
    *own = *side;
    if (side->count)
        memcpy(waits, side->wait, side->count * sizeof(*waits));
    own->wait = waits;
    copy->side = own;
    copy->owned = own;
    return CHOIR_OK;
}

/* What is in GPU memory at either end is moved in the order of a CUDA stream. */
static enum choir_status choose_stream(struct choir_comm *c, const struct comm_side *s,
                                       struct choir_stream **stream)
{
    bool gpu = s->bytes && s->window->card[s->peer].where == WINDOW_GPU;
    if (gpu && *stream && !stream_is_cuda(*stream))
        return comm_fail(c, CHOIR_ERR_ARGUMENT,
                         "use a stream of choir_stream_from_cuda for GPU memory",
                         "rank %d's part is GPU memory and the stream is a host stream", s->peer);
    if (gpu && !*stream)
        *stream = stream_of_cuda(NULL);
    return device_call_stream(c, s->send, NULL, stream);
}

static enum choir_status submit_checked(struct choir_comm *c, const struct comm_side *s,
                                        struct choir_stream *stream)
{
    struct comm_call call = {.kind = CHOIR_EXCHANGE, .type = CHOIR_UINT8, .side = s};
    enum choir_status st = check(c, s);
    if (st == CHOIR_OK)
        st = choose_stream(c, s, &stream);
    if (st == CHOIR_OK && stream_is_cuda(stream))
        st = device_side_check(c, s);
    if (st != CHOIR_OK)
        return st;
    if (group_open())
        return group_add(c, &call, stream);
    if (stream_is_cuda(stream))
        return device_run(c, &call, stream);
    return stream ? stream_submit_call(stream, c, &call) : run_call(c, &call);
}

static enum choir_status submit(struct choir_comm *c, const struct comm_side *s,
                                struct choir_stream *stream)
{
    return group_note(submit_checked(c, s, stream));
}

/* --- running it -------------------------------------------------------------------------------------------- */

static enum choir_status take_signals(struct comm_task *t)
{
    const struct comm_side *s = t->call.side;
    for (; t->side.at < s->count; t->side.at++) {
        const struct choir_signal_wait *w = &s->wait[t->side.at];
        t->comm->op.waiting = w->peer;
        if (!host_signal_take(&t->comm->host, (uint32_t)w->peer, w->signal, w->count))
            return CHOIR_IN_PROGRESS;
    }
    return CHOIR_OK;
}

static enum choir_status put_and_raise(struct comm_task *t)
{
    const struct comm_side *s = t->call.side;
    struct host_comm *comm = &t->comm->host;
    struct host_put *put = &t->side.put;
    enum choir_status st = CHOIR_OK;
    t->comm->op.waiting = s->peer;
    if (s->bytes && !t->side.found) {
        *put = (struct host_put){
            .peer = (uint32_t)s->peer, .from = s->send, .bytes = s->bytes, .offset = s->offset};
        st = window_way(s->window, (uint32_t)s->peer, put);
        t->side.found = st == CHOIR_OK;
    }
    if (st == CHOIR_OK && s->bytes)
        st = host_put_advance(comm, put);
    if (st == CHOIR_OK && s->kind != SIDE_PUT)
        st = host_signal_raise(comm, (uint32_t)s->peer, s->signal);
    return st;
}

/* Not all that a put waits for rings a bell: it looks again. */
static void look_again(struct comm_task *t, bool on)
{
    if (on && !t->side.looks)
        atomic_fetch_add(&t->comm->host.making, 1);
    else if (!on && t->side.looks)
        atomic_fetch_sub(&t->comm->host.making, 1);
    t->side.looks = on;
}

bool side_advance(void *task)
{
    struct comm_task *t = task;
    bool waits = t->call.side->kind == SIDE_WAIT;
    enum choir_status st = waits ? take_signals(t) : put_and_raise(t);
    look_again(t, st == CHOIR_IN_PROGRESS && !waits);
    if (st == CHOIR_IN_PROGRESS)
        return false;
    if (st < 0)
        base_error_thread()->peer = t->comm->op.waiting;
    t->comm->op.status = st;
    return true;
}

enum choir_status side_wait(struct comm_task *t)
{
    struct choir_comm *c = t->comm;
    const struct host_waiter w = {&c->host, side_advance, t, &c->op.status,
                                  host_put_frames(&c->host)};
    if (!w.frames)
        return comm_fail(c, CHOIR_ERR_NO_MEMORY, "free memory",
                         "no memory for one-sided operations");
    host_wait_for(&w, t->limit_ns, watch_late, t);
    return c->op.status;
}

void side_end(struct comm_task *t)
{
    look_again(t, false);
}

/* --- entry points -------------------------------------------------------------------------------------------- */

enum choir_status choir_put(choir_comm *comm, const void *send, uint64_t bytes, int peer,
                            choir_window *window, uint64_t offset, choir_stream *stream)
{
    return submit(comm,
                  &(struct comm_side){.kind = SIDE_PUT,
                                      .peer = peer,
                                      .window = window,
                                      .send = send,
                                      .bytes = bytes,
                                      .offset = offset},
                  stream);
}

enum choir_status choir_put_signal(choir_comm *comm, const void *send, uint64_t bytes, int peer,
                                   choir_window *window, uint64_t offset, uint32_t signal,
                                   choir_stream *stream)
{
    return submit(comm,
                  &(struct comm_side){.kind = SIDE_PUT_SIGNAL,
                                      .peer = peer,
                                      .window = window,
                                      .send = send,
                                      .bytes = bytes,
                                      .offset = offset,
                                      .signal = signal},
                  stream);
}

enum choir_status choir_signal(choir_comm *comm, int peer, uint32_t signal, choir_stream *stream)
{
    return submit(comm, &(struct comm_side){.kind = SIDE_SIGNAL, .peer = peer, .signal = signal},
                  stream);
}

enum choir_status choir_wait_signal(choir_comm *comm, const struct choir_signal_wait *waits,
                                    uint32_t count, choir_stream *stream)
{
    return submit(comm, &(struct comm_side){.kind = SIDE_WAIT, .wait = waits, .count = count},
                  stream);
}
