/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.c: host streams: in-order queues that the service thread works off, and events. A queue holds operations, marks of
 * events and waits for events. The first failure of a stream stays until choir_stream_wait reports it.
 * Handles of CUDA streams have no queue here: they are passed on to CUDA.
 */
#include "choir_cuda.h"
#include "comm/comm.h"
#include "cuda/cuda.h"
#include <sched.h>
#include <stdlib.h>

#define QUEUE_MOST 65536u

struct item {
    struct item *next;
    struct comm_task *task; /* or an event: */
    struct choir_event *event;
    uint64_t mark; /* record: becomes event->reached; wait: what to wait for */
    bool record;
};
struct choir_stream {
    pthread_mutex_t lock;
    pthread_cond_t empty;
    struct item *head, **tail;
    uint32_t queued;
    bool serving; /* the service thread has it on its list */
    enum choir_status status;
    struct choir_error error;
    struct service_work work;
};
struct choir_event {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    uint64_t marked, reached;
};

enum choir_status choir_stream_create(choir_stream **stream)
{
    if (!stream)
        return base_fail(CHOIR_ERR_POINTER, "pass where to put the handle", "stream is NULL");
    enum choir_status st = host_start();
    if (st != CHOIR_OK)
        return st;
    struct choir_stream *s = calloc(1, sizeof(*s));
    if (!s) {
        host_stop();
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a stream");
    }
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->empty, NULL);
    s->tail = &s->head;
    *stream = s;
    return CHOIR_OK;
}

/* The head of the queue has ended. */
static void pop(struct choir_stream *s)
{
    struct item *i = s->head;
    s->head = i->next;
    if (!s->head)
        s->tail = &s->head;
    s->queued--;
    if (i->task) {
        call_free(&i->task->call_copy);
        free(i->task);
    }
    free(i);
}

static void note(struct choir_stream *s, enum choir_status st)
{
    if (st >= 0 || s->status != CHOIR_OK)
        return;
    s->status = st;
    s->error = *base_error_thread();
}

/* Moves the head; true if it has ended. */
static bool step_head(struct choir_stream *s, struct item *i)
{
    if (i->task) {
        enum choir_status st = CHOIR_OK;
        s->work.comm = &i->task->comm->host;
        if ((!i->task->begun && !task_turn(i->task)) || !task_step(i->task, &st))
            return false;
        s->work.comm = NULL;
        pthread_mutex_lock(&s->lock);
        note(s, st);
        pthread_mutex_unlock(&s->lock);
        return true;
    }
    pthread_mutex_lock(&i->event->lock);
    bool ended = i->record || i->event->reached >= i->mark;
    if (i->record)
        i->event->reached = base_max(i->event->reached, i->mark);
    pthread_cond_broadcast(&i->event->moved);
    pthread_mutex_unlock(&i->event->lock);
    return ended;
}

static bool serve(void *arg)
{
    struct choir_stream *s = arg;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        struct item *i = s->head;
        if (!i) {
            s->serving = false;
            pthread_cond_broadcast(&s->empty);
            pthread_mutex_unlock(&s->lock);
            return true;
        }
        pthread_mutex_unlock(&s->lock);
        if (!step_head(s, i))
            return false;
        pthread_mutex_lock(&s->lock);
        pop(s);
        pthread_mutex_unlock(&s->lock);
    }
}

static enum choir_status push(struct choir_stream *s, struct item item)
{
    struct item *i = malloc(sizeof(*i));
    if (!i)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a stream's queue");
    *i = item;
    i->next = NULL;
    pthread_mutex_lock(&s->lock);
    if (s->queued >= QUEUE_MOST) {
        pthread_mutex_unlock(&s->lock);
        free(i);
        return base_fail(CHOIR_ERR_BUSY, "call choir_stream_wait now and then",
                         "the stream holds %u operations", QUEUE_MOST);
    }
    *s->tail = i;
    s->tail = &i->next;
    s->queued++;
    bool wake = !s->serving;
    s->serving = true;
    pthread_mutex_unlock(&s->lock);
    if (wake) {
        s->work = (struct service_work){.step = serve, .arg = s};
        service_work_add(&s->work);
    }
    return CHOIR_OK;
}

enum choir_status stream_submit(choir_stream *s, struct comm_task *task,
                                const struct comm_call *copy)
{
    task->call_copy = *copy;
    task->stream = s;
    task->stream_kind = CHOIR_PROFILE_HOST_STREAM;
    enum choir_status st = push(s, (struct item){.task = task});
    if (st !=
        CHOIR_OK) { /* its ticket must be used up, or nothing runs on the communicator any more */
        while (!task_turn(task))
            sched_yield();
        task_end(task, st);
        call_free(&task->call_copy);
        free(task);
    }
    return st;
}

enum choir_status stream_submit_call(choir_stream *s, struct choir_comm *c,
                                     const struct comm_call *call)
{
    struct comm_task *t = calloc(1, sizeof(*t));
    struct comm_call copy;
    enum choir_status st = t ? call_copy(c, call, &copy) : CHOIR_ERR_NO_MEMORY;
    if (st == CHOIR_OK) {
        st = comm_enter(c) ? task_prepare(c, &copy, NULL, t) : CHOIR_ERR_BUSY;
        if (st != CHOIR_ERR_BUSY)
            comm_leave(c);
        if (st != CHOIR_OK)
            call_free(&copy);
    }
    if (st != CHOIR_OK) {
        free(t);
        return st;
    }
    return stream_submit(s, t, &copy);
}

static enum choir_status take_status(struct choir_stream *s)
{
    enum choir_status st = s->status;
    if (st != CHOIR_OK)
        *base_error_thread() = s->error;
    s->status = CHOIR_OK;
    return st;
}

enum choir_status choir_stream_wait(choir_stream *s)
{
    if (!s)
        return CHOIR_OK;
    if (stream_is_cuda(s))
        return cuda_stream_wait(stream_cuda(s));
    pthread_mutex_lock(&s->lock);
    while (s->serving)
        pthread_cond_wait(&s->empty, &s->lock);
    enum choir_status st = take_status(s);
    pthread_mutex_unlock(&s->lock);
    return st;
}

enum choir_status choir_stream_query(choir_stream *s)
{
    if (!s)
        return CHOIR_OK;
    if (stream_is_cuda(s))
        return cuda_stream_query(stream_cuda(s));
    pthread_mutex_lock(&s->lock);
    enum choir_status st = s->serving ? CHOIR_IN_PROGRESS : take_status(s);
    pthread_mutex_unlock(&s->lock);
    return st;
}

enum choir_status choir_stream_destroy(choir_stream *s)
{
    if (!s || stream_is_cuda(s)) /* a CUDA stream is its maker's to destroy */
        return CHOIR_OK;
    enum choir_status st = choir_stream_wait(s);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->empty);
    free(s);
    host_stop();
    return st;
}

choir_stream *choir_stream_from_cuda(struct CUstream_st *stream)
{
    return stream_of_cuda(stream);
}

enum choir_status choir_event_create(choir_event **event)
{
    struct choir_event *e = event ? calloc(1, sizeof(*e)) : NULL;
    if (!e)
        return base_fail(event ? CHOIR_ERR_NO_MEMORY : CHOIR_ERR_POINTER,
                         "pass where to put the handle", "event is %s",
                         event ? "too much for the memory left" : "NULL");
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->moved, NULL);
    *event = e;
    return CHOIR_OK;
}

enum choir_status choir_event_destroy(choir_event *e)
{
    if (!e)
        return CHOIR_OK;
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->moved);
    free(e);
    return CHOIR_OK;
}

static enum choir_status check_pair(const choir_event *event, const choir_stream *stream)
{
    if (stream_is_cuda(stream))
        return base_fail(CHOIR_ERR_UNSUPPORTED,
                         "use CUDA's events on it (cudaEventRecord, cudaStreamWaitEvent)",
                         "stream is a CUDA stream, and choir events are of host streams");
    if (event && stream)
        return CHOIR_OK;
    return base_fail(CHOIR_ERR_POINTER, "pass an event and a stream of choir_*_create",
                     "%s is NULL", event ? "stream" : "event");
}

enum choir_status choir_event_record(choir_event *e, choir_stream *s)
{
    enum choir_status st = check_pair(e, s);
    if (st != CHOIR_OK)
        return st;
    pthread_mutex_lock(&e->lock);
    uint64_t mark = ++e->marked;
    pthread_mutex_unlock(&e->lock);
    return push(s, (struct item){.event = e, .mark = mark, .record = true});
}

enum choir_status choir_stream_wait_event(choir_stream *s, choir_event *e)
{
    enum choir_status st = check_pair(e, s);
    if (st != CHOIR_OK)
        return st;
    pthread_mutex_lock(&e->lock);
    uint64_t mark = e->marked;
    pthread_mutex_unlock(&e->lock);
    return push(s, (struct item){.event = e, .mark = mark});
}

enum choir_status choir_event_wait(choir_event *e)
{
    if (!e)
        return base_fail(CHOIR_ERR_POINTER, "pass an event of choir_event_create", "event is NULL");
    pthread_mutex_lock(&e->lock);
    for (uint64_t mark = e->marked; e->reached < mark;)
        pthread_cond_wait(&e->moved, &e->lock);
    pthread_mutex_unlock(&e->lock);
    return CHOIR_OK;
}

enum choir_status choir_event_query(choir_event *e)
{
    if (!e)
        return base_fail(CHOIR_ERR_POINTER, "pass an event of choir_event_create", "event is NULL");
    pthread_mutex_lock(&e->lock);
    enum choir_status st = e->reached < e->marked ? CHOIR_IN_PROGRESS : CHOIR_OK;
    pthread_mutex_unlock(&e->lock);
    return st;
}
