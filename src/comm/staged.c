/* SPDX-License-Identifier: Apache-2.0 */
/*
 * staged.c: GPU memory through the host: the thread of a communicator that runs operations when streams come to them. A stream
 * copies inputs into pinned memory, posts, waits, and copies outputs back (staged_call.c); here posts are taken and tasks run as
 * those of host calls are, in their turn with these. Posts come in the order of streams, turns are in the order of calls: so
 * posts are kept until their turn. Once the communicator has failed every post is done as it comes: streams go on.
 */
#include "comm/observe.h"
#include "comm/staged.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define SPIN_NS 50000u
#define PAUSE_NS 50000u /* at most, while something may come */
#define PLAIN_BYTES (1u << 20)

/* What it has of its own, unless it was captured. */
static void clean(struct staged_item *i)
{
    call_free(&i->task.call_copy);
    free(i->move);
    i->move = NULL;
    if (i->task.observed) /* its posts never came */
        observe_end(&i->task, CHOIR_ERR_ABORTED);
}

/* --- items ------------------------------------------------------------------------------------------------ */

static void append(struct comm_staged *s, struct staged_item *i)
{
    if (!i->move)
        i->task.ticket = atomic_fetch_add_explicit(&s->comm->tickets, 1, memory_order_relaxed);
    i->next = NULL;
    i->running = true;
    *s->last = i;
    s->last = &i->next;
}

static void drop(struct comm_staged *s, struct staged_item *i)
{
    struct staged_item **at = &s->active;
    while (*at != i)
        at = &(*at)->next;
    *at = i->next;
    if (s->last == &i->next)
        s->last = at;
}

/* --- the thread ---------------------------------------------------------------------------------------------- */

/* A replay of what was captured begins: it is an operation from now on. */
static void begin_replay(struct comm_staged *s, struct staged_item *i)
{
    i->task = i->first;
    i->task.call_copy.owned = NULL; /* stays with `first` */
    if (i->task.observed)
        observe_replay(&i->task);
    append(s, i);
}

/* All posts of the present run are done. */
static void finish(struct comm_staged *s, struct staged_item *i)
{
    if (!i->ended || i->done < i->posts)
        return;
    drop(s, i);
    i->running = i->ended = false;
    i->done = 0;
    if (i->captured)
        return;
    s->queued--;
    clean(i);
    i->next = s->idle;
    s->idle = i;
}

static void done(struct comm_staged *s, struct staged_item *i)
{
    i->waiting--;
    i->done++;
    cuda_staged_done(s->gpu, i->index);
}

/* A call of kernels waits for its copies. */
static void move(struct comm_staged *s, struct staged_item *i)
{
    bool out = i->done || !i->moves[0];
    const struct staged_move *m = i->move + (out ? i->moves[0] : 0);
    pthread_mutex_unlock(&s->lock);
    for (uint32_t k = 0; k < i->moves[out]; k++)
        memcpy(m[k].to, m[k].from, m[k].bytes);
    pthread_mutex_lock(&s->lock);
    done(s, i);
    i->ended = i->done == i->posts;
    finish(s, i);
}

static bool take_posts(struct comm_staged *s)
{
    uint32_t index;
    bool any = false;
    for (; cuda_staged_next(s->gpu, &index); any = true) {
        choir_assert(index < s->items);
        struct staged_item *i = s->item[index];
        i->waiting++;
        if (!i->running)
            begin_replay(s, i);
        if (i->move)
            move(s, i);
    }
    return any;
}

static bool may_run(const struct staged_item *i)
{
    return !i->move && !i->ended && (i->task.begun || task_turn(&i->task));
}

/* Runs a slice whose time has come; its post is done then, whatever came of it. */
static bool run_one(struct comm_staged *s)
{
    struct staged_item *i = s->active;
    while (i && !(i->waiting && may_run(i)))
        i = i->next;
    if (!i)
        return false;
    bool ended = false;
    pthread_mutex_unlock(&s->lock);
    run_slice(&i->task, &ended);
    pthread_mutex_lock(&s->lock);
    i->ended = ended;
    done(s, i);
    finish(s, i);
    return true;
}

/* The communicator has failed: who has the turn ends, posts are done at once. */
static bool fail_all(struct comm_staged *s)
{
    bool any = false;
    for (struct staged_item *i = s->active, *next; i; i = next) {
        next = i->next;
        if (may_run(i)) {
            task_end(&i->task, (enum choir_status)atomic_load(&s->comm->host.broken));
            any = i->ended = true;
        }
        if (i->move && i->done == i->posts) /* the rest is lost */
            i->ended = true;
        for (; i->waiting; any = true)
            done(s, i);
        finish(s, i);
    }
    return any;
}

/* Nothing has come for so long. */
static void pause_ns(struct comm_staged *s, uint64_t idle_ns)
{
    struct choir_comm *c = s->comm;
    pthread_mutex_unlock(&s->lock);
    if (idle_ns < SPIN_NS && c->host.local_ranks <= c->host.local_cores)
        base_relax();
    else
        nanosleep(&(struct timespec){.tv_nsec = (long)base_min(idle_ns / 8 + 1000, PAUSE_NS)},
                  NULL);
    pthread_mutex_lock(&s->lock);
}

static void *serve(void *arg)
{
    struct comm_staged *s = arg;
    uint64_t moved_ns = base_now_ns();
    pthread_setname_np(pthread_self(), "choir-staged");
    prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        bool moved = take_posts(s);
        moved |= atomic_load(&s->comm->host.broken) ? fail_all(s) : run_one(s);
        if (moved) {
            moved_ns = base_now_ns();
        } else if (s->queued || s->captured) {
            pause_ns(s, base_now_ns() - moved_ns);
        } else {
            pthread_cond_wait(&s->news, &s->lock);
            moved_ns = base_now_ns();
        }
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* --- calls ------------------------------------------------------------------------------------------------------ */

static enum choir_status start(struct comm_staged *s)
{
    sigset_t all, old; /* signals are the application's */
    if (s->started)
        return CHOIR_OK;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&s->thread, NULL, serve, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err)
        return comm_fail(s->comm, CHOIR_ERR_SYSTEM, "raise the limit on threads",
                         "the thread for GPU memory was not started (error %d)", err);
    s->started = true;
    return CHOIR_OK;
}

static bool grow(struct comm_staged *s)
{
    if (s->items % 64)
        return true;
    if (s->items >= CUDA_ITEMS)
        return false;
    struct staged_item **more = realloc(s->item, (s->items + 64) * sizeof(*more));
    s->item = more ? more : s->item;
    return more != NULL;
}

struct staged_item *staged_take(struct comm_staged *s)
{
    if (start(s) != CHOIR_OK)
        return NULL;
    pthread_mutex_lock(&s->lock);
    struct staged_item *i = s->idle;
    if (i) {
        s->idle = i->next;
    } else if (grow(s) && (i = calloc(1, sizeof(*i)))) {
        i->index = s->items;
        s->item[s->items++] = i;
    }
    pthread_mutex_unlock(&s->lock);
    if (i)
        *i = (struct staged_item){.index = i->index};
    else
        comm_fail(s->comm, CHOIR_ERR_NO_MEMORY,
                  "wait for the stream now and then; captured calls stay until the communicator is "
                  "destroyed",
                  "%u operations are queued or captured, %u are the most", s->items, CUDA_ITEMS);
    return i;
}

void staged_give(struct comm_staged *s, struct staged_item *i)
{
    clean(i);
    pthread_mutex_lock(&s->lock);
    i->next = s->idle;
    s->idle = i;
    pthread_mutex_unlock(&s->lock);
}

void staged_submit(struct comm_staged *s, struct staged_item *i)
{
    pthread_mutex_lock(&s->lock);
    if (i->captured) {
        s->captured++;
    } else {
        s->queued++;
        append(s, i);
    }
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->lock);
}

void staged_lose(struct comm_staged *s, struct staged_item *i, uint64_t posts)
{
    pthread_mutex_lock(&s->lock);
    if (i->captured)
        s->captured--;
    else
        i->posts -= posts; /* fail_all ends it, if no post does */
    pthread_mutex_unlock(&s->lock);
}

enum choir_status staged_reserve(struct comm_staged *s, uint64_t bytes)
{
    if (bytes <= s->whole_bytes)
        return CHOIR_OK;
    uint64_t more = base_max(bytes, 2 * s->whole_bytes);
    enum choir_status st = cuda_staged_alloc(s->gpu, more, &s->whole);
    if (st == CHOIR_OK)
        s->whole_bytes = more;
    return st;
}

enum choir_status staged_post_and_wait(struct comm_staged *s, struct CUstream_st *stream,
                                       const struct staged_item *i)
{
    uint32_t index = i->index; /* it may end once it is posted */
    bool captured = i->captured;
    enum choir_status st = cuda_staged_post(s->gpu, stream, index);
    return st == CHOIR_OK ? cuda_staged_wait(s->gpu, stream, index, 0, captured) : st;
}

/* --- life ------------------------------------------------------------------------------------------------------ */

enum choir_status staged_open(struct choir_comm *c)
{
    struct comm_staged *s = calloc(1, sizeof(*s));
    if (!s)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a communicator");
    uint64_t room = slice_room(c->slice_bytes, c->host.size) + 2 * BASE_LINE;
    uint8_t *memory = NULL;
    s->comm = c;
    s->last = &s->active;
    /* To pin memory later may wait for what runs on the GPU. */
    enum choir_status st = cuda_staged_open(c->here, &s->gpu);
    if (st == CHOIR_OK)
        st = staged_reserve(s, c->slice_bytes ? room : PLAIN_BYTES);
    if (st == CHOIR_OK && c->slice_bytes) /* else kernels move the data */
        st = cuda_staged_alloc(s->gpu, 2 * room + BASE_LINE, &memory);
    if (st != CHOIR_OK) {
        cuda_staged_close(s->gpu);
        free(s);
        return st;
    }
    if (memory) {
        s->slot[0] = memory, s->slot[1] = memory + room;
        s->scale = memory + 2 * room;
    }
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->news, NULL);
    c->staged = s;
    return CHOIR_OK;
}

void staged_drain(struct choir_comm *c)
{
    if (!comm_staged(c) || cuda_staged_quiesce(c->staged->gpu) == CHOIR_OK)
        return;
    struct choir_error *e = base_error_thread(); /* posts that have not come never will */
    host_comm_break(&c->host, e->status,
                    &(struct base_error_at){(int)c->host.rank, -1, c->host.sequence, 0, "cuda"},
                    e->remedy, "%s", e->text);
}

void staged_late(struct choir_comm *c, uint64_t *since, uint64_t limit_ns)
{
    uint64_t now = base_now_ns();
    *since = *since ? *since : now;
    if (now - *since > limit_ns)
        host_comm_break(&c->host, CHOIR_ERR_TIMEOUT,
                        &(struct base_error_at){(int)c->host.rank, -1, c->host.sequence, 0, NULL},
                        "wait for the stream before the call; CHOIR_TIMEOUT sets the limit",
                        "rank %u: a host call has waited %.1f s for a CUDA stream to come to the "
                        "operations before it",
                        c->host.rank, (double)limit_ns / 1e9);
}

static void free_item(struct staged_item *i)
{
    clean(i);
    if (i->task.owns_bound) /* its posts never came */
        slice_unbind(&i->task);
    if (i->captured) {
        call_free(&i->first.call_copy);
        slice_unbind(&i->first);
        if (i->first.observed) /* messages to tell of, in each replay */
            observe_end(&i->first, CHOIR_OK);
    }
    free(i);
}

void staged_close(struct choir_comm *c)
{
    struct comm_staged *s = c->staged;
    if (!s)
        return;
    staged_drain(c);
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        s->stop = true;
        pthread_cond_signal(&s->news);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    for (uint32_t i = 0; i < s->items; i++)
        free_item(s->item[i]);
    free(s->item);
    cuda_staged_close(s->gpu);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->news);
    free(s);
    c->staged = NULL;
}

uint64_t staged_pinned(const struct choir_comm *c)
{
    return c->staged ? cuda_staged_pinned(c->staged->gpu) : 0;
}

uint64_t staged_device_bytes(const struct choir_comm *c)
{
    return c->staged ? cuda_staged_device_bytes(c->staged->gpu) : 0;
}

int staged_ordinal(const struct choir_comm *c)
{
    return cuda_staged_ordinal(c->staged->gpu);
}
