/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pmix.c: an id through PMIx (standard 4.1, 5 and 6), which Open MPI's mpirun, PRRTE and Slurm serve. The library is opened at run
 * time, so its few types are declared here; their layout is the ABI of PMIx 2 to 5.
 *
 * Rank 0 puts the id under a key of this communicator's own; a fence over the job makes it known. Nobody relies on the fence alone:
 * when a rank has not started, it never ends, and then rank 0 goes on to serve, the others ask for the key
 * directly, and the rendezvous can name who is missing.
 *
 * PMIx_Init is counted, so MPI_Init and MPI_Finalize may come before or after, or not at all. Our own reference is given back
 * at exit: a process that leaves PMIx altogether and comes again in MPI_Init confuses some servers, and one that never leaves makes
 * mpirun call the job failed.
 */
#include "boot/launcher.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FENCE_NS 2000000000u /* so long the fence is waited for before other ways are tried */
#define ASK_SECONDS 1        /* for one direct question */

enum { PMIX_BOOL = 1, PMIX_STRING = 3, PMIX_INT = 6, PMIX_UINT32 = 14 };
enum { PMIX_GLOBAL = 3 };
#define PMIX_RANK_WILDCARD (UINT32_MAX - 1)

struct pmix_proc {
    char nspace[256];
    uint32_t rank;
};
struct pmix_value {
    uint16_t type;
    union {
        bool flag;
        int integer;
        uint32_t uint32;
        const char *string;
        uint64_t room[3];
    } data;
};
struct pmix_info {
    char key[512];
    uint32_t flags;
    struct pmix_value value;
};
typedef void (*pmix_op_done)(int status, void *context);
typedef void (*pmix_value_done)(int status, struct pmix_value *value, void *context);

static struct {
    int (*init)(struct pmix_proc *, struct pmix_info *, size_t);
    int (*finalize)(const struct pmix_info *, size_t);
    int (*put)(uint8_t, const char *, struct pmix_value *);
    int (*commit)(void);
    int (*fence_nb)(const struct pmix_proc *, size_t, const struct pmix_info *, size_t,
                    pmix_op_done, void *);
    int (*get)(const struct pmix_proc *, const char *, const struct pmix_info *, size_t,
               struct pmix_value **);
    int (*get_nb)(const struct pmix_proc *, const char *, const struct pmix_info *, size_t,
                  pmix_value_done, void *);
    const char *(*error)(int);
} pmix;
static const char *const pmix_names[] = {"PMIx_Init",   "PMIx_Finalize",    "PMIx_Put",
                                         "PMIx_Commit", "PMIx_Fence_nb",    "PMIx_Get",
                                         "PMIx_Get_nb", "PMIx_Error_string"};
_Static_assert(sizeof(pmix) == sizeof(pmix_names), "one name for each entry");
static struct pmix_proc self;
static pid_t initialised; /* the process that has called PMIx_Init for us */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all these, while they are filled */

static bool find_all(void *library)
{
    void *found[base_count(pmix_names)];
    for (size_t i = 0; i < base_count(pmix_names); i++)
        if (!(found[i] = dlsym(library, pmix_names[i])))
            return false;
    memcpy(&pmix, found, sizeof(found)); /* POSIX lets a data pointer hold a function's */
    return true;
}

static bool load(void)
{
    static const char *const names[] = {"libpmix.so.2", "libpmix.so"};
    for (size_t i = 0; i < base_count(names); i++) {
        /* Global symbols and never unloaded: its plugins link to it, its threads outlive us. */
        void *library = dlopen(names[i], RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
        if (library && find_all(library))
            return true;
        if (library)
            dlclose(library);
    }
    return false;
}

static void leave(void)
{
    if (initialised == getpid()) /* not in a forked child: the connection is the parent's */
        pmix.finalize(NULL, 0);
}

static enum choir_status fail(const char *what, int status)
{
    return base_fail(CHOIR_ERR_SYSTEM, "check the launcher, or set CHOIR_RENDEZVOUS",
                     "%s failed: %s (%d)", what, pmix.error(status), status);
}

static enum choir_status enter(void)
{
    enum choir_status s = CHOIR_OK;
    pthread_mutex_lock(&lock);
    if (initialised != getpid()) {
        int r = pmix.init(&self, NULL, 0);
        if (r)
            s = fail("PMIx_Init", r);
        else if (atexit(leave))
            s = base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "out of memory");
        if (!s)
            initialised = getpid();
    }
    pthread_mutex_unlock(&lock);
    return s;
}

/* --- waiting with a deadline ------------------------------------------------------------------- */
/* Shared with a callback that may come after the waiter has gone: the last of the two frees it. */
struct pending {
    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    int references, status;
    bool done;
    char text[ID_TEXT_BYTES];
};

static struct pending *pending_create(void)
{
    struct pending *p = calloc(1, sizeof(*p));
    pthread_condattr_t attr;
    if (!p)
        return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->done_cond, &attr);
    pthread_condattr_destroy(&attr);
    p->references = 2;
    return p;
}

static void pending_release(struct pending *p)
{
    pthread_mutex_lock(&p->lock);
    int left = --p->references;
    pthread_mutex_unlock(&p->lock);
    if (left)
        return;
    pthread_cond_destroy(&p->done_cond);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

static void pending_end(struct pending *p, int status, const char *text)
{
    pthread_mutex_lock(&p->lock);
    p->status = status;
    snprintf(p->text, sizeof(p->text), "%s", text);
    p->done = true;
    pthread_cond_broadcast(&p->done_cond);
    pthread_mutex_unlock(&p->lock);
    pending_release(p);
}

static bool pending_wait(struct pending *p, uint64_t until_ns)
{
    struct timespec t = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    pthread_mutex_lock(&p->lock);
    while (!p->done && !pthread_cond_timedwait(&p->done_cond, &p->lock, &t))
        ;
    bool done = p->done;
    pthread_mutex_unlock(&p->lock);
    return done;
}

static void fence_done(int status, void *context)
{
    pending_end(context, status, "");
}

static void get_done(int status, struct pmix_value *value, void *context)
{
    bool text = !status && value && value->type == PMIX_STRING && value->data.string;
    pending_end(context, status, text ? value->data.string : "");
}

/* --- the exchange ------------------------------------------------------------------------------ */
static enum choir_status job_size(uint32_t *size)
{
    struct pmix_proc job = self;
    struct pmix_value *value = NULL;
    job.rank = PMIX_RANK_WILDCARD;
    int r = pmix.get(&job, "pmix.job.size", NULL, 0, &value);
    if (r || !value || value->type != PMIX_UINT32)
        return fail("PMIx_Get of the job's size", r);
    *size = value->data.uint32;
    free(value);
    return CHOIR_OK;
}

static enum choir_status publish(const char *key, const struct choir_id *id)
{
    char text[ID_TEXT_BYTES];
    id_to_text(id, text);
    struct pmix_value value = {.type = PMIX_STRING, .data.string = text};
    int r = pmix.put(PMIX_GLOBAL, key, &value);
    if (r)
        return fail("PMIx_Put", r);
    r = pmix.commit();
    return r ? fail("PMIx_Commit", r) : CHOIR_OK;
}

/* Starts the fence; NULL if it cannot be had, which the direct questions make up for. */
static struct pending *start_fence(const struct pmix_proc *job)
{
    struct pending *p = pending_create();
    struct pmix_info collect = {.key = "pmix.collect",
                                .value = {.type = PMIX_BOOL, .data.flag = true}};
    if (!p)
        return NULL;
    if (!pmix.fence_nb(job, 1, &collect, 1, fence_done, p))
        return p;
    pending_release(p);
    pending_release(p);
    return NULL;
}

/* One question to rank 0's server. */
static bool ask(const char *key, uint64_t deadline_ns, struct choir_id *id)
{
    struct pmix_proc root = self;
    struct pending *p = pending_create();
    struct pmix_info patience = {.key = "pmix.timeout",
                                 .value = {.type = PMIX_INT, .data.integer = ASK_SECONDS}};
    bool found = false;
    root.rank = 0;
    if (!p)
        return false;
    if (pmix.get_nb(&root, key, &patience, 1, get_done, p))
        pending_release(p); /* there will be no callback */
    else if (pending_wait(p, base_min(deadline_ns, base_now_ns() + 2 * FENCE_NS)))
        found = !p->status && id_from_text(p->text, id);
    pending_release(p);
    return found;
}

static enum choir_status fetch(const char *key, struct pending *fence, uint64_t deadline_ns,
                               struct choir_id *id)
{
    uint64_t begun = base_now_ns(), pause = 10000000u;
    if (fence)
        pending_wait(fence, base_min(deadline_ns, begun + FENCE_NS));
    while (!ask(key, deadline_ns, id)) {
        uint64_t now = base_now_ns();
        if (now >= deadline_ns)
            return base_fail(CHOIR_ERR_TIMEOUT, "see whether rank 0 has started and what it prints",
                             "rank %u got no id from rank 0 through PMIx within %.3g s", self.rank,
                             (double)(now - begun) * 1e-9);
        launch_pause(base_min(pause, deadline_ns - now));
        pause = base_min(pause * 2, (uint64_t)1000000000u);
    }
    return CHOIR_OK;
}

static enum choir_status exchange(uint64_t deadline_ns, struct boot_launch *launch)
{
    char key[32];
    struct pmix_proc job = self;
    snprintf(key, sizeof(key), "choir.id.%u", launch_sequence());
    job.rank = PMIX_RANK_WILDCARD;
    enum choir_status s = launch->rank ? CHOIR_OK : boot_id_create(&launch->id);
    if (s)
        return s;
    s = launch->rank ? CHOIR_OK : publish(key, &launch->id);
    if (s) {
        boot_id_cancel(&launch->id);
        return s;
    }
    struct pending *fence = start_fence(&job);
    if (launch->rank)
        s = fetch(key, fence, deadline_ns, &launch->id);
    else if (fence)
        pending_wait(fence, base_min(deadline_ns, base_now_ns() + FENCE_NS));
    if (fence)
        pending_release(fence);
    return s;
}

enum choir_status launch_pmix(uint64_t deadline_ns, struct boot_launch *launch)
{
    if (!getenv("PMIX_NAMESPACE") || !getenv("PMIX_RANK"))
        return CHOIR_ERR_UNSUPPORTED;
    pthread_mutex_lock(&lock);
    bool loaded = pmix.init || load();
    pthread_mutex_unlock(&lock);
    if (!loaded) {
        base_log(BASE_WARN, -1, "started under PMIx, but there is no libpmix.so.2 here: %s",
                 "trying other ways to find the job's ranks");
        return CHOIR_ERR_UNSUPPORTED;
    }
    enum choir_status s = enter();
    s = s ? s : job_size(&launch->size);
    if (s)
        return s;
    launch->rank = self.rank;
    snprintf(launch->name, sizeof(launch->name), "pmix");
    return exchange(deadline_ns, launch);
}
