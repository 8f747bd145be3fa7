/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libpmi.c: an id through the PMI-2 or PMI-1 library of the machine (Slurm's, Cray's), opened at run time. Their calls block
 * without a deadline, so a helper thread makes them; when the deadline passes the helper is left behind, asleep in the library.
 */
#include "base/knob.h"
#include "boot/launcher.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* PMI-2 (Balaji et al., EuroMPI 2010): jobid and key-value calls; 0 is success. */
struct pmi2 {
    int (*initialized)(int *);
    int (*init)(int *spawned, int *size, int *rank, int *appnum);
    int (*put)(const char *key, const char *value);
    int (*fence)(void);
    int (*get)(const char *job, int source, const char *key, char *value, int most, int *length);
    int (*job)(char *id, int bytes);
};
struct pmi1 {
    int (*initialized)(int *);
    int (*init)(int *spawned);
    int (*rank)(int *);
    int (*size)(int *);
    int (*job)(char *name, int bytes);
    int (*put)(const char *job, const char *key, const char *value);
    int (*commit)(const char *job);
    int (*barrier)(void);
    int (*get)(const char *job, const char *key, char *value, int most);
};
static const char *const pmi2_names[] = {"PMI2_Initialized", "PMI2_Init",    "PMI2_KVS_Put",
                                         "PMI2_KVS_Fence",   "PMI2_KVS_Get", "PMI2_Job_GetId"};
static const char *const pmi1_names[] = {
    "PMI_Initialized", "PMI_Init",       "PMI_Get_rank", "PMI_Get_size", "PMI_KVS_Get_my_name",
    "PMI_KVS_Put",     "PMI_KVS_Commit", "PMI_Barrier",  "PMI_KVS_Get"};
_Static_assert(sizeof(struct pmi2) == sizeof(pmi2_names), "one name for each entry");
_Static_assert(sizeof(struct pmi1) == sizeof(pmi1_names), "one name for each entry");

enum outcome { RUNNING, GOOD, FAILED, NOT_OURS };
/* Shared by the caller and the helper; the last of the two frees it. */
struct work {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int references;
    enum outcome outcome;
    bool is_pmi2, have_rank;
    bool have_id, no_id; /* rank 0's caller has made the id, or could not */
    struct pmi2 two;
    struct pmi1 one;
    int rank, size, expected_size;
    _Atomic(const char *) what; /* the call that failed, or that is under way */
    char key[32], job[256], text[ID_TEXT_BYTES];
};

/* Fills a table of function pointers. */
static bool open_table(const char *const *files, const char *const *names, size_t count,
                       void *table)
{
    for (; *files; files++) {
        void *library = dlopen(*files, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        size_t i = 0;
        for (void *f; library && i < count && (f = dlsym(library, names[i])); i++)
            memcpy((char *)table + i * sizeof(f), &f, sizeof(f));
        if (i == count)
            return true;
        if (library)
            dlclose(library);
    }
    return false;
}

static void work_release(struct work *w)
{
    pthread_mutex_lock(&w->lock);
    int left = --w->references;
    pthread_mutex_unlock(&w->lock);
    if (left)
        return;
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static bool call(struct work *w, const char *what, int result)
{
    w->what = what;
    return !result;
}

/* PMI2_Init is the only call that tells the rank, so what it said is kept for the next communicator. */
static bool start_two(struct work *w)
{
    static _Atomic int rank, size; /* size 0: not initialised by us */
    int begun = 0, spawned, appnum;
    w->rank = rank;
    w->size = size;
    if (!w->size) {
        if (!w->two.initialized(&begun) && begun) {
            w->what = "PMI-2 is in use by MPI";
            return false;
        }
        if (!call(w, "PMI2_Init", w->two.init(&spawned, &w->size, &w->rank, &appnum)))
            return false;
        rank = w->rank;
        size = w->size;
    }
    return call(w, "PMI2_Job_GetId", w->two.job(w->job, sizeof(w->job)));
}

static bool start_one(struct work *w)
{
    int begun = 0, spawned;
    if (w->one.initialized(&begun) || !begun)
        if (!call(w, "PMI_Init", w->one.init(&spawned)))
            return false;
    return call(w, "PMI_Get_rank", w->one.rank(&w->rank)) &&
           call(w, "PMI_Get_size", w->one.size(&w->size)) &&
           call(w, "PMI_KVS_Get_my_name", w->one.job(w->job, sizeof(w->job)));
}

static bool exchange_two(struct work *w)
{
    int length;
    return (w->rank || call(w, "PMI2_KVS_Put", w->two.put(w->key, w->text))) &&
           call(w, "PMI2_KVS_Fence", w->two.fence()) &&
           (!w->rank || call(w, "PMI2_KVS_Get",
                             w->two.get(w->job, -1, w->key, w->text, ID_TEXT_BYTES, &length)));
}

static bool exchange_one(struct work *w)
{
    return (w->rank || (call(w, "PMI_KVS_Put", w->one.put(w->job, w->key, w->text)) &&
                        call(w, "PMI_KVS_Commit", w->one.commit(w->job)))) &&
           call(w, "PMI_Barrier", w->one.barrier()) &&
           (!w->rank || call(w, "PMI_KVS_Get", w->one.get(w->job, w->key, w->text, ID_TEXT_BYTES)));
}

static void conclude(struct work *w, enum outcome outcome)
{
    pthread_mutex_lock(&w->lock);
    w->outcome = outcome;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void *help(void *arg)
{
    struct work *w = arg;
    bool good = w->is_pmi2 ? start_two(w) : start_one(w);
    /* A library that finds no server of its kind plays a job of one. */
    if (!good || (w->size != w->expected_size)) {
        conclude(w, good ? NOT_OURS : FAILED);
        work_release(w);
        return NULL;
    }
    pthread_mutex_lock(&w->lock);
    w->have_rank = true;
    pthread_cond_broadcast(&w->changed);
    while (!w->rank && !w->have_id && !w->no_id)
        pthread_cond_wait(&w->changed, &w->lock);
    good = !w->no_id;
    pthread_mutex_unlock(&w->lock);
    if (good)
        good = w->is_pmi2 ? exchange_two(w) : exchange_one(w);
    conclude(w, good ? GOOD : FAILED);
    work_release(w);
    return NULL;
}

/* Until the helper has ended, or knows the rank; false: the deadline passed. Under w->lock. */
static bool await(struct work *w, bool rank_is_enough, uint64_t deadline_ns)
{
    struct timespec t = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
    while (w->outcome == RUNNING && !(rank_is_enough && w->have_rank))
        if (pthread_cond_timedwait(&w->changed, &w->lock, &t))
            return false;
    return true;
}

static struct work *start(bool is_pmi2, int expected_size)
{
    static const char *const two[] = {"libpmi2.so.0", "libpmi2.so", NULL};
    static const char *const one[] = {"libpmi.so.0", "libpmi.so", NULL};
    pthread_t thread;
    pthread_condattr_t attr;
    struct work *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    if (is_pmi2 ? !open_table(two, pmi2_names, base_count(pmi2_names), &w->two)
                : !open_table(one, pmi1_names, base_count(pmi1_names), &w->one)) {
        free(w);
        return NULL;
    }
    w->is_pmi2 = is_pmi2;
    w->expected_size = expected_size;
    w->references = 2;
    snprintf(w->key, sizeof(w->key), "choir-id-%u", launch_sequence());
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&thread, NULL, help, w)) {
        work_release(w);
        work_release(w);
        return NULL;
    }
    pthread_detach(thread);
    return w;
}

static enum choir_status judge(struct work *w, bool in_time, const char *name)
{
    const char *what = w->what;
    if (!in_time)
        return base_fail(CHOIR_ERR_PEER_MISSING, "see which ranks have not called, and why",
                         "not all of %d ranks called choir_comm_create_auto in time (%s does not "
                         "say which; it is in or after %s)",
                         w->expected_size, name, what ? what : "its start");
    if (w->outcome == FAILED)
        return base_fail(CHOIR_ERR_SYSTEM, "try srun --mpi=pmix, or set CHOIR_RENDEZVOUS",
                         "%s failed: %s", name, what);
    return CHOIR_OK;
}

static enum choir_status run(struct work *w, const char *name, uint64_t deadline_ns,
                             struct boot_launch *launch)
{
    struct boot_launch l = {0};
    enum choir_status s = CHOIR_OK;
    snprintf(l.name, sizeof(l.name), "%s", name);
    pthread_mutex_lock(&w->lock);
    bool in_time = await(w, true, deadline_ns);
    if (w->outcome == NOT_OURS || (w->outcome == FAILED && !w->have_rank)) {
        s = CHOIR_ERR_UNSUPPORTED;
        goto out;
    }
    l.rank = (uint32_t)w->rank;
    l.size = (uint32_t)w->size;
    if (in_time && !l.rank) {
        s = boot_id_create(&l.id);
        w->have_id = !s;
        w->no_id = s;
        if (!s)
            id_to_text(&l.id, w->text);
        pthread_cond_broadcast(&w->changed);
        if (s)
            goto out;
    }
    s = judge(w, in_time && await(w, false, deadline_ns), name);
    if (s && w->have_id)
        boot_id_cancel(&l.id);
    if (!s && l.rank && !id_from_text(w->text, &l.id))
        s = base_fail(CHOIR_ERR_PROTOCOL, "make an equal number of communicators on all ranks",
                      "rank 0 put no id into %s", name);
    if (!s)
        *launch = l;
out:
    pthread_mutex_unlock(&w->lock);
    work_release(w);
    return s;
}

enum choir_status launch_libpmi(uint64_t deadline_ns, struct boot_launch *launch)
{
    uint32_t size;
    const char *variable = getenv("SLURM_STEP_NUM_TASKS") && getenv("SLURM_STEP_ID")
                               ? "SLURM_STEP_NUM_TASKS"
                           : getenv("PMI_SIZE") ? "PMI_SIZE"
                                                : NULL;
    if (!variable || launch_number(variable, &size))
        return CHOIR_ERR_UNSUPPORTED;
    for (int two = 1; two >= 0; two--) {
        struct work *w = start(two, (int)size);
        enum choir_status s =
            w ? run(w, two ? "libpmi2" : "libpmi", deadline_ns, launch) : CHOIR_ERR_UNSUPPORTED;
        if (s != CHOIR_ERR_UNSUPPORTED)
            return s;
    }
    return CHOIR_ERR_UNSUPPORTED;
}
