/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A profiler plug-in for NCCL that keeps what it is told, for tests/test_nccl_profiler.c. It is of both versions; nccl_profiler_v4.c
 * makes one of version 4 alone of it. Its structures are its own words for the layouts: offsets are spelt out.
 */
#define _GNU_SOURCE
#include "nccl_profiler.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct recorded recorded[RECORDED_MOST];
static int count, refuse, held, mask_now = 0xfff;
static int *mask_at;

typedef void (*log_fn)(int level, unsigned long flags, const char *file, int line,
                       const char *format, ...);

/* --- what the test calls -------------------------------------------------------------------------------- */

EXPORT int recorded_count(void)
{
    return __atomic_load_n(&count, __ATOMIC_ACQUIRE);
}

EXPORT const struct recorded *recorded_at(int i)
{
    return &recorded[i];
}

/* Forgets all; which events are wanted from now on, whether communicators are refused. */
EXPORT void recorded_reset(int mask, int refused)
{
    pthread_mutex_lock(&lock);
    memset(recorded, 0, sizeof(recorded));
    count = 0;
    mask_now = mask, refuse = refused;
    if (mask_at)
        __atomic_store_n(mask_at, mask, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&lock);
}

/* Holds the thread up that tells of a kernel. */
EXPORT void recorded_hold(int hold)
{
    __atomic_store_n(&held, hold, __ATOMIC_RELEASE);
}

/* --- keeping ---------------------------------------------------------------------------------------------- */

static struct recorded *take(void)
{
    if (count == RECORDED_MOST)
        abort();
    struct recorded *r = &recorded[count];
    __atomic_store_n(&count, count + 1, __ATOMIC_RELEASE);
    return r;
}

static void keep_text(char to[RECORDED_TEXT], const char *text)
{
    snprintf(to, RECORDED_TEXT, "%s", text ? text : "(null)");
}

static struct recorded *context_of(const char *name, uint64_t comm, int nodes, int ranks, int rank)
{
    struct recorded *r = take();
    r->type = RECORDED_CONTEXT;
    r->comm = comm, r->nodes = nodes, r->ranks = ranks, r->rank = rank;
    r->started = 1;
    keep_text(r->name, name);
    return r;
}

#define AT(type, event, offset) (*(type const *)(const void *)((const char *)(event) + (offset)))

static void keep_words(struct recorded *r, const char *func, const char *datatype, const char *algo)
{
    r->func_at = func, r->datatype_at = datatype, r->algo_at = algo;
    keep_text(r->func, func);
    keep_text(r->datatype, datatype);
    if (algo)
        keep_text(r->algo, algo);
}

static void keep_task(struct recorded *r, const void *e, int version)
{
    bool coll = r->type == 2, api = r->type == 512, p2p = r->type == 4, p2p_api = r->type == 1024;
    if (coll) {
        r->sequence = AT(uint64_t, e, 24);
        keep_words(r, AT(const char *, e, 32), AT(const char *, e, 72), AT(const char *, e, 88));
        r->send = AT(const void *, e, 40), r->recv = AT(void *, e, 48);
        r->elements = AT(size_t, e, 56);
        r->root = AT(int, e, 64);
        r->channels = AT(uint8_t, e, 80);
        keep_text(r->proto, AT(const char *, e, 96));
        r->group = version == 5 ? AT(void *, e, 104) : NULL;
    } else if (p2p) {
        keep_words(r, AT(const char *, e, 24), AT(const char *, e, 40), NULL);
        r->send = AT(void *, e, 32);
        r->elements = AT(size_t, e, 48);
        r->peer = AT(int, e, 56);
        r->channels = AT(uint8_t, e, 60);
        r->group = version == 5 ? AT(void *, e, 64) : NULL;
    } else if (api || p2p_api) {
        keep_words(r, AT(const char *, e, 24), AT(const char *, e, 40), NULL);
        r->elements = AT(size_t, e, 32);
        r->root = api ? AT(int, e, 48) : 0;
        r->stream = AT(void *, e, api ? 56 : 48);
        r->captured = AT(bool, e, api ? 64 : 56);
    }
}

static int start(void *context, void **handle, const void *e, uint64_t type, int version)
{
    while (type == 64 && __atomic_load_n(&held, __ATOMIC_ACQUIRE))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    pthread_mutex_lock(&lock);
    struct recorded *r = take();
    r->type = (int)type;
    r->version = version;
    r->context = context;
    r->parent = AT(void *, e, 8);
    r->rank = AT(int, e, 16);
    r->peer = -1;
    r->started = 1;
    keep_task(r, e, version);
    if (type == 8) {
        r->pid = AT(pid_t, e, 24);
        r->channel = AT(uint8_t, e, 28);
        r->peer = AT(int, e, 32), r->steps = AT(int, e, 36), r->chunk = AT(int, e, 40);
        r->is_send = AT(int, e, 44);
    } else if (type == 64) {
        r->channel = AT(uint8_t, e, 24);
        r->gpu_start = AT(uint64_t, e, 32);
    } else if (type == 256) {
        r->captured = AT(bool, e, 24);
        r->depth = AT(int, e, 28);
    } else if (type == 2048) {
        r->stream = AT(void *, e, 24);
    }
    *handle = r;
    pthread_mutex_unlock(&lock);
    return 0;
}

static int stop(void *handle)
{
    struct recorded *r = handle;
    pthread_mutex_lock(&lock);
    r->stopped++;
    pthread_mutex_unlock(&lock);
    return 0;
}

static int record(void *handle, int state, void *arguments)
{
    struct recorded *r = handle;
    pthread_mutex_lock(&lock);
    r->states |= 1u << state;
    r->late += r->stopped != 0;
    if (state == 22)
        r->gpu_stop = AT(uint64_t, arguments, 0);
    pthread_mutex_unlock(&lock);
    return 0;
}

static int init(void **context, uint64_t comm, int *mask, const char *name, int nodes, int ranks,
                int rank, log_fn say)
{
    if (refuse)
        return 3;
    pthread_mutex_lock(&lock);
    *context = context_of(name, comm, nodes, ranks, rank);
    mask_at = mask;
    __atomic_store_n(mask, mask_now, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&lock);
    say(3, ~0ul, __FILE__, __LINE__, "rank %d of %d is here\n", rank, ranks);
    return 0;
}

static int init_4(void **context, int *mask, const char *name, uint64_t comm, int nodes, int ranks,
                  int rank, log_fn say)
{
    return init(context, comm, mask, name, nodes, ranks, rank, say);
}

static int start_4(void *context, void **handle, void *event)
{
    return start(context, handle, event, AT(uint8_t, event, 0), 4);
}

struct plugin_4 {
    const char *name;
    int (*init)(void **context, int *mask, const char *name, uint64_t comm, int nodes, int ranks,
                int rank, log_fn say);
    int (*start)(void *context, void **handle, void *event);
    int (*stop)(void *handle);
    int (*record)(void *handle, int state, void *arguments);
    int (*finalize)(void *context);
};
EXPORT const struct plugin_4 ncclProfiler_v4 = {"recorder", init_4, start_4, stop, record, stop};

#ifndef ONLY_V4
static int start_5(void *context, void **handle, void *event)
{
    return start(context, handle, event, AT(uint64_t, event, 0), 5);
}

struct plugin_5 {
    const char *name;
    int (*init)(void **context, uint64_t comm, int *mask, const char *name, int nodes, int ranks,
                int rank, log_fn say);
    int (*start)(void *context, void **handle, void *event);
    int (*stop)(void *handle);
    int (*record)(void *handle, int state, void *arguments);
    int (*finalize)(void *context);
};
EXPORT const struct plugin_5 ncclProfiler_v5 = {"recorder", init, start_5, stop, record, stop};
#endif
