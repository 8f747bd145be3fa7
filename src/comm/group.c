/* SPDX-License-Identifier: Apache-2.0 */
/*
 * group.c: groups. Between start and end, calls of this thread are collected; at the outermost end they run together: all sends
 * and receives of one communicator as one exchange, its collectives after it in call order, and communicators side by
 * side. Without a stream the end returns when all is done.
 */
#include "comm/gpu.h"
#include "comm/observe.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct entry { /* one collective, or all messages of a communicator */
    struct choir_comm *comm;
    struct choir_stream *stream;
    struct comm_call call;
    struct comm_message *messages;
    uint32_t message_count, message_room;
    struct comm_task *task;
    bool done;
};
static _Thread_local struct group {
    uint32_t depth;
    enum choir_status status; /* the first failure of a call in it, and its record */
    struct choir_error error;
    struct entry *entry;
    uint32_t count, room;
    struct step { /* creations, and what else all ranks do step by step */
        struct choir_comm *comm, **out;
        enum choir_status (*advance)(struct choir_comm *c); /* NULL: it has ended */
    } * step;
    uint32_t steps, step_room;
    struct profile_event event; /* its id 0: nobody observes it */
} g;

bool group_open(void)
{
    return g.depth != 0;
}

/* A thread's lists end with it. */
static pthread_key_t key;

static void free_lists(void *unused)
{
    (void)unused;
    free(g.entry);
    free(g.step);
    g.entry = NULL, g.step = NULL;
    g.room = g.step_room = 0;
}

static void make_key(void)
{
    pthread_key_create(&key, free_lists);
}

static void free_at_exit(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    pthread_setspecific(key, &g);
}

static bool grow(void **list, uint32_t count, uint32_t *room, size_t size)
{
    if (count < *room)
        return true;
    uint32_t more = *room ? *room * 2 : 16;
    void *fresh = realloc(*list, more * size);
    if (!fresh)
        return false;
    if (!*list)
        free_at_exit();
    *list = fresh;
    *room = more;
    return true;
}

enum choir_status group_note(enum choir_status st)
{
    if (base_unlikely(st < 0) && g.depth && g.status == CHOIR_OK)
        g.status = st, g.error = *base_error_thread();
    return st;
}

static struct entry *add(struct choir_comm *c, struct choir_stream *stream)
{
    if (!grow((void **)&g.entry, g.count, &g.room, sizeof(*g.entry))) {
        group_note(comm_fail(c, CHOIR_ERR_NO_MEMORY, "free memory",
                             "no memory for a group of %u calls", g.count));
        return NULL;
    }
    struct entry *e = &g.entry[g.count++];
    *e = (struct entry){.comm = c, .stream = stream};
    return e;
}

enum choir_status group_add(struct choir_comm *c, const struct comm_call *call,
                            choir_stream *stream)
{
    struct entry *e = add(c, stream);
    if (!e)
        return CHOIR_ERR_NO_MEMORY;
    enum choir_status st = call_copy(c, call, &e->call);
    if (st != CHOIR_OK)
        g.count--;
    return group_note(st);
}

/* Of several limits the lowest; 0 is none. */
static uint64_t lowest(uint64_t a, uint64_t b)
{
    return a && b ? base_min(a, b) : base_max(a, b);
}

enum choir_status group_add_message(struct choir_comm *c, const struct comm_call *options,
                                    const struct comm_message *m, choir_stream *stream)
{
    struct entry *e = NULL;
    for (uint32_t i = 0; i < g.count && !e; i++)
        if (g.entry[i].comm == c && g.entry[i].messages && g.entry[i].stream == stream)
            e = &g.entry[i];
    if (!e && !(e = add(c, stream)))
        return CHOIR_ERR_NO_MEMORY;
    e->call =
        (struct comm_call){.kind = CHOIR_EXCHANGE,
                           .type = CHOIR_UINT8,
                           .deadline_ns = lowest(e->call.deadline_ns, options->deadline_ns),
                           .max_blocks = (uint32_t)lowest(e->call.max_blocks, options->max_blocks)};
    if (!grow((void **)&e->messages, e->message_count, &e->message_room, sizeof(*e->messages)))
        return group_note(comm_fail(c, CHOIR_ERR_NO_MEMORY, "free memory",
                                    "no memory for a group of %u messages", e->message_count));
    e->messages[e->message_count++] = *m;
    return CHOIR_OK;
}

enum choir_status group_add_step(struct choir_comm *c, struct choir_comm **out,
                                 enum choir_status (*advance)(struct choir_comm *c))
{
    for (uint32_t i = 0; i < g.steps; i++)
        if (g.step[i].comm == c)
            return group_note(comm_fail(c, CHOIR_ERR_BUSY, "call one in a group, and end it",
                                        "the communicator is in such a call of this group"));
    if (!grow((void **)&g.step, g.steps, &g.step_room, sizeof(*g.step)))
        return group_note(base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a group"));
    g.step[g.steps++] = (struct step){c, out, advance};
    return CHOIR_OK;
}

void group_start_quietly(void)
{
    if (!g.depth++)
        g.status = CHOIR_OK;
}

uint64_t group_event(void)
{
    return g.event.event.id;
}

enum choir_status choir_group_start(void)
{
    group_start_quietly();
    if (g.depth == 1 && profile_on(CHOIR_PROFILE_GROUP | PROFILE_CALL)) {
        g.event.event = (struct choir_profile_event){
            .kind = CHOIR_PROFILE_GROUP, .rank = -1, .root = -1, .peer = -1};
        profile_begin(&g.event);
    }
    return CHOIR_OK;
}

/* --- the end ------------------------------------------------------------------------------------- */

static enum choir_status prepare(struct entry *e)
{
    e->task = calloc(1, sizeof(*e->task));
    if (!e->task)
        return comm_fail(e->comm, CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a group");
    struct host_bound *exchange = NULL;
    if (e->messages) {
        enum choir_status st = exchange_bind(e->comm, e->messages, e->message_count, &exchange);
        if (st != CHOIR_OK)
            return st;
    }
    if (!comm_enter(e->comm)) {
        host_bound_free(exchange);
        return CHOIR_ERR_BUSY;
    }
    enum choir_status st = task_prepare(e->comm, &e->call, exchange, e->task);
    comm_leave(e->comm);
    e->task->group = group_event();
    if (st == CHOIR_OK && e->messages && profile_on(PROFILE_CALL))
        observe_messages(e->task, e->messages, e->message_count);
    return st;
}

/* One turn of an entry; true when it has ended. */
static bool turn(struct entry *e, enum choir_status *st)
{
    struct comm_task *t = e->task;
    if (!t->begun && !task_turn(t))
        return false;
    if (!task_step(t, st))
        return false;
    return true;
}

/* In which pass of the end an entry begins. What waits for no peer's call comes first, what waits for signals last. */
#define PASSES 4
static int pass_of(const struct entry *e)
{
    if (e->call.side)
        return e->call.side->kind == SIDE_WAIT ? 3 : 0;
    return e->messages ? 1 : 2;
}

static enum choir_status enqueue(struct entry *e)
{
    return e->messages
               ? device_exchange(e->comm, &e->call, e->messages, e->message_count, e->stream)
               : device_run(e->comm, &e->call, e->stream);
}

/* Device calls: in the order in which host calls are prepared. */
static enum choir_status enqueue_all(void)
{
    enum choir_status first = CHOIR_OK;
    for (int pass = 0; pass < PASSES; pass++)
        for (uint32_t i = 0; i < g.count; i++) {
            struct entry *e = &g.entry[i];
            if (!stream_is_cuda(e->stream) || comm_staged(e->comm) || pass_of(e) != pass)
                continue;
            enum choir_status st = enqueue(e);
            first = first == CHOIR_OK ? st : first;
        }
    return first;
}

/* To host streams, in the order of their tickets: the head of a stream waits for its turn. */
static enum choir_status submit_all(void)
{
    enum choir_status first = CHOIR_OK;
    for (int pass = 0; pass < PASSES; pass++)
        for (uint32_t i = 0; i < g.count; i++) {
            struct entry *e = &g.entry[i];
            if (!e->stream || stream_is_cuda(e->stream) || !e->task || pass_of(e) != pass)
                continue;
            enum choir_status st = stream_submit(e->stream, e->task, &e->call);
            first = first == CHOIR_OK ? st : first;
            e->task = NULL; /* the stream's now, its call too */
            e->call = (struct comm_call){0};
        }
    return first;
}

static enum choir_status run_all(void)
{
    enum choir_status first = CHOIR_OK;
    uint32_t left = 0;
    for (uint32_t i = 0; i < g.count; i++)
        left += !g.entry[i].stream;
    if (left == 1 && g.count == 1)
        return run_task(g.entry[0].task);
    for (uint64_t idle = 0; left; idle++) {
        for (uint32_t i = 0; i < g.count; i++) {
            struct entry *e = &g.entry[i];
            enum choir_status st = CHOIR_OK;
            if (e->stream || e->done || !turn(e, &st))
                continue;
            e->done = true;
            left--, idle = 0;
            first = first == CHOIR_OK ? st : first;
        }
        host_progress();
        if (idle < 20000)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
    return first;
}

static enum choir_status run_steps(void)
{
    enum choir_status first = CHOIR_OK;
    for (uint32_t left = g.steps, idle = 0; left; idle++) {
        left = 0;
        for (uint32_t i = 0; i < g.steps; i++) {
            struct step *s = &g.step[i];
            enum choir_status st = s->advance ? s->advance(s->comm) : CHOIR_OK;
            left += st == CHOIR_IN_PROGRESS;
            if (!s->advance || st == CHOIR_IN_PROGRESS)
                continue;
            s->advance = NULL;
            if (st < 0 && first == CHOIR_OK)
                first = st;
            if (st == CHOIR_OK && s->out)
                creation_settle(s->comm, s->out);
        }
        if (idle < 1000)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return first;
}

static void clear(void)
{
    for (uint32_t i = 0; i < g.count; i++) {
        call_free(&g.entry[i].call);
        free(g.entry[i].messages);
        free(g.entry[i].task);
    }
    g.count = g.steps = 0;
}

static enum choir_status prepare_or_enqueue(struct entry *e)
{
    if (!stream_is_cuda(e->stream))
        return prepare(e);
    return comm_staged(e->comm) ? enqueue(e) : CHOIR_OK;
}

/* Exchanges before collectives, each in call order: the same on both ends of every pair. GPU memory that goes through the host
 * takes its turns among the others; the rest of device calls has an order of its own. */
static enum choir_status prepare_all(void)
{
    for (int pass = 0; pass < PASSES; pass++)
        for (uint32_t i = 0; i < g.count; i++) {
            enum choir_status st =
                pass_of(&g.entry[i]) == pass ? prepare_or_enqueue(&g.entry[i]) : CHOIR_OK;
            if (st == CHOIR_OK)
                continue;
            for (uint32_t k = 0; k < g.count;
                 k++) /* tickets already drawn are given back in their turn */
                if (g.entry[k].task && g.entry[k].task->comm)
                    while (!task_turn(g.entry[k].task))
                        sched_yield();
            for (uint32_t k = 0; k < g.count; k++)
                if (g.entry[k].task && g.entry[k].task->comm)
                    task_end(g.entry[k].task, st);
            return st;
        }
    return CHOIR_OK;
}

enum choir_status choir_group_end(void)
{
    if (!g.depth)
        return base_fail(CHOIR_ERR_STATE, "call choir_group_start first", "no group is open");
    if (--g.depth)
        return CHOIR_OK;
    enum choir_status st = g.status;
    if (st == CHOIR_OK)
        st = run_steps();
    else
        *base_error_thread() = g.error;
    if (st == CHOIR_OK)
        st = prepare_all();
    if (st == CHOIR_OK) {
        st = enqueue_all();
        enum choir_status sent = submit_all(), ran = run_all();
        st = st == CHOIR_OK ? sent : st;
        st = st == CHOIR_OK ? ran : st;
    }
    clear();
    if (base_unlikely(g.event.event.id))
        profile_end(&g.event, st);
    return st;
}
