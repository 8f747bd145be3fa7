/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.c: processes, threads and ranks of a run: who they are, their communicators, and what the driver itself needs
 * among them: a barrier, a reduction of doubles, an exchange of bytes.
 *
 * Threads meet at a pthread barrier, processes over the control communicator, driven by thread 0.
 */
#include "perf/lib/gpu.h"
#include "boot/boot.h"
#include "topo/topo.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct perf_sync {
    pthread_barrier_t barrier;
    struct choir_id id;
    double **values; /* of each thread, during perf_reduce */
    void (*body)(struct perf_thread *);
};

void perf_check(struct perf_thread *t, choir_comm *comm, enum choir_status status, const char *what)
{
    if (base_likely(status == CHOIR_OK))
        return;
    struct choir_error e = {.bytes = sizeof(e)};
    if (choir_comm_last_error(comm, &e) != CHOIR_OK || e.status == CHOIR_OK)
        choir_comm_last_error(NULL, &e);
    fprintf(stderr, "%s: process %u thread %d: %s: %s: %s (%s)\n", t->job->args->program,
            t->job->proc, t->index, what, choir_status_name(status), e.text, e.remedy);
    fflush(NULL);
    _exit(4); /* other threads may hold locks and never return: no exit handlers */
}

/* --- meeting ----------------------------------------------------------------------------------- */
static void meet(struct perf_thread *t)
{
    if (t->job->args->threads > 1)
        pthread_barrier_wait(&t->job->sync->barrier);
}

void perf_barrier(struct perf_thread *t)
{
    meet(t);
    if (!t->index && t->job->procs > 1)
        perf_check(t, t->job->control, choir_barrier(t->job->control, NULL), "choir_barrier");
    meet(t);
}

static double combine(double a, double b, choir_op op)
{
    if (op == CHOIR_MIN)
        return base_min(a, b);
    return op == CHOIR_MAX ? base_max(a, b) : a + b;
}

void perf_reduce(struct perf_thread *t, double *values, size_t n, choir_op op)
{
    struct perf_job *job = t->job;
    int threads = job->args->threads;
    choir_op wire = op == CHOIR_AVG ? CHOIR_SUM : op;
    job->sync->values[t->index] = values;
    meet(t);
    if (!t->index) {
        for (int k = 1; k < threads; k++)
            for (size_t i = 0; i < n; i++)
                values[i] = combine(values[i], job->sync->values[k][i], wire);
        if (job->procs > 1)
            perf_check(t, job->control,
                       choir_all_reduce(job->control, values, values, n, CHOIR_FLOAT64, wire, NULL),
                       "choir_all_reduce");
        if (op == CHOIR_AVG)
            for (size_t i = 0; i < n; i++)
                values[i] /= (double)job->procs * threads;
    }
    meet(t);
    if (t->index)
        memcpy(values, job->sync->values[0], n * sizeof(*values));
    meet(t);
}

void perf_exchange(struct perf_thread *t, const void *mine, void *all, size_t bytes)
{
    int n = t->job->args->per_thread;
    size_t whole = t->job->ranks * bytes;
    char *copies = malloc((size_t)n * whole); /* of what each rank gets, the same for all */
    choir_assert(copies);
    if (n > 1)
        perf_check(t, NULL, choir_group_start(), "choir_group_start");
    for (int i = 0; i < n; i++)
        perf_check(t, t->rank[i].call.comm,
                   choir_all_gather(t->rank[i].call.comm, (const char *)mine + (size_t)i * bytes,
                                    copies + (size_t)i * whole, bytes, CHOIR_UINT8, NULL),
                   "choir_all_gather");
    if (n > 1)
        perf_check(t, t->rank[0].call.comm, choir_group_end(), "choir_group_end");
    memcpy(all, copies, whole);
    free(copies);
}

/* --- communicators ------------------------------------------------------------------------------ */
static struct choir_config config(const struct perf_job *job)
{
    struct choir_config c = CHOIR_CONFIG_INIT;
    c.timeout_ns = (uint64_t)(job->args->timeout_s * 1e9);
    c.name = job->coll->name;
    return c;
}

/* nccl-tests' NCCL_TESTS_SPLIT: processes of equal color form groups that run side by side. */
static bool split_color(uint32_t proc, int *color)
{
    static const struct {
        const char *name;
        char how;
    } ops[] = {{"AND", '&'}, {"&", '&'}, {"OR", '|'},  {"|", '|'},
               {"MOD", '%'}, {"%", '%'}, {"DIV", '/'}, {"/", '/'}};
    const char *mask = getenv("NCCL_TESTS_SPLIT_MASK"), *text = getenv("NCCL_TESTS_SPLIT");
    if (mask) {
        *color = (int)(proc & strtoul(mask, NULL, 16));
        return true;
    }
    for (size_t i = 0; text && i < base_count(ops); i++) {
        size_t n = strlen(ops[i].name);
        if (strncasecmp(text, ops[i].name, n))
            continue;
        const char *digits = text + n + strspn(text + n, " ");
        bool binary = !strncasecmp(digits, "0b", 2);
        uint32_t v = (uint32_t)strtoul(binary ? digits + 2 : digits, NULL, binary ? 2 : 0);
        bool divides = ops[i].how == '%' || ops[i].how == '/';
        if (divides && !v)
            break;
        *color = (int)(ops[i].how == '&'   ? proc & v
                       : ops[i].how == '|' ? proc | v
                       : ops[i].how == '%' ? proc % v
                                           : proc / v);
        return true;
    }
    if (text)
        fprintf(stderr,
                "# NCCL_TESTS_SPLIT=%s: AND, OR, MOD or DIV and a number are known; ignored\n",
                text);
    return false;
}

static void connect_processes(struct perf_job *job, struct perf_thread *t)
{
    struct choir_config c = config(job);
    int rank = 0, size = 1, color;
    if (job->peer && job->peer->share) {
        struct choir_id id;
        memset(&id, 0, sizeof(id));
        if (!job->proc)
            perf_check(t, NULL, choir_id_create(&id), "choir_id_create");
        job->peer->share(&id, sizeof(id));
        perf_check(t, NULL,
                   choir_comm_create(&id, (int)job->proc, (int)job->procs, &c, &job->control),
                   "choir_comm_create");
    } else {
        perf_check(t, NULL, choir_comm_create_auto(&c, &job->control), "choir_comm_create_auto");
    }
    choir_comm_rank(job->control, &rank);
    choir_comm_size(job->control, &size);
    t->prints = rank == 0;
    if (split_color((uint32_t)rank, &color)) {
        choir_comm *all = job->control;
        perf_check(t, all, choir_comm_split(all, color, rank, &c, &job->control),
                   "choir_comm_split");
        choir_comm_destroy(all);
        choir_comm_rank(job->control, &rank);
        choir_comm_size(job->control, &size);
    }
    job->proc = (uint32_t)rank;
    job->procs = (uint32_t)size;
    job->ranks = job->procs * (uint32_t)(job->args->threads * job->args->per_thread);
}

/* How many ranks of this host come before those of this process. */
static void find_place_on_host(struct perf_job *job, struct perf_thread *t)
{
    char own[TOPO_NAME], (*host)[TOPO_NAME] = calloc(job->procs, sizeof(*host));
    choir_assert(host);
    memset(own, 0, sizeof(own));
    snprintf(own, sizeof(own), "%s", topo_get()->host_id);
    perf_check(t, job->control,
               choir_all_gather(job->control, own, host, sizeof(own), CHOIR_UINT8, NULL),
               "choir_all_gather of the hosts");
    for (uint32_t p = 0; p < job->proc; p++)
        if (!memcmp(host[p], own, sizeof(own)))
            job->local_first += (uint32_t)(job->args->threads * job->args->per_thread);
    free(host);
}

/* The id of the measured communicator, where it is not the control communicator. */
static void share_id(struct perf_job *job, struct perf_thread *t)
{
    struct choir_id *id = &job->sync->id;
    if (!job->proc)
        perf_check(t, NULL, choir_id_create(id), "choir_id_create");
    if (job->procs > 1)
        perf_check(t, job->control,
                   choir_broadcast(job->control, id, id, sizeof(*id), CHOIR_UINT8, 0, NULL),
                   "choir_broadcast of the id");
}

static void open_gpus(struct perf_thread *t)
{
    const struct perf_job *job = t->job;
    int n = job->args->per_thread;
    for (int i = 0; i < n && job->args->cuda; i++)
        t->rank[i].gpu = job->gpu->open(t, job->local_first + (uint32_t)(t->index * n + i));
}

static void connect_ranks(struct perf_thread *t)
{
    struct perf_job *job = t->job;
    const struct perf_args *a = job->args;
    struct choir_config c = config(job);
    uint32_t first =
        (job->proc * (uint32_t)a->threads + (uint32_t)t->index) * (uint32_t)a->per_thread;
    if (a->per_thread > 1)
        perf_check(t, NULL, choir_group_start(), "choir_group_start");
    for (int i = 0; i < a->per_thread; i++) {
        struct perf_call *call = &t->rank[i].call;
        call->rank = first + (uint32_t)i;
        call->ranks = job->ranks;
        if (a->cuda) /* a communicator is of the device that is current */
            job->gpu->use(t->rank[i].gpu);
        if (job->control_measured)
            call->comm = job->control;
        else
            perf_check(t, NULL,
                       choir_comm_create(&job->sync->id, (int)call->rank, (int)job->ranks, &c,
                                         &call->comm),
                       "choir_comm_create");
    }
    if (a->per_thread > 1)
        perf_check(t, NULL, choir_group_end(), "choir_group_end");
}

/* --- life --------------------------------------------------------------------------------------------- */
static void destroy_ranks(struct perf_thread *t)
{
    const struct perf_job *job = t->job;
    for (int i = 0; i < job->args->per_thread; i++)
        if (t->rank[i].call.comm != job->control)
            choir_comm_destroy(t->rank[i].call.comm);
    for (int i = 0; i < job->args->per_thread && job->args->cuda; i++)
        job->gpu->close(t->rank[i].gpu);
}

static void *thread_main(void *p)
{
    struct perf_thread *t = p;
    struct perf_job *job = t->job;
    int n = job->args->per_thread;
    open_gpus(t);
    uint64_t start = base_now_ns();
    connect_ranks(t);
    double seconds = (double)(base_now_ns() - start) / 1e9;
    perf_reduce(t, &seconds, 1, CHOIR_MAX);
    if (!t->index)
        job->create_s += seconds;
    for (int i = 0; i < n; i++)
        perf_memory_open(t, &t->rank[i]);
    if (job->args->peak)
        perf_peak_open(t);
    if (job->peer && job->peer->open)
        job->peer->open(t);
    job->sync->body(t);
    perf_barrier(t);
    if (job->peer && job->peer->close)
        job->peer->close(t);
    if (job->args->peak)
        perf_peak_close(t);
    for (int i = 0; i < n; i++)
        perf_memory_close(t, &t->rank[i]);
    destroy_ranks(t);
    return NULL;
}

static void prepare_threads(struct perf_job *job, struct perf_sync *sync)
{
    const struct perf_args *a = job->args;
    job->thread = calloc((size_t)a->threads, sizeof(*job->thread));
    sync->values = calloc((size_t)a->threads, sizeof(*sync->values));
    choir_assert(job->thread && sync->values);
    pthread_barrier_init(&sync->barrier, NULL, (unsigned)a->threads);
    for (int i = 0; i < a->threads; i++) {
        struct perf_thread *t = &job->thread[i];
        t->job = job;
        t->index = i;
        t->rank = calloc((size_t)a->per_thread, sizeof(*t->rank));
        for (int k = 0; k < 2; k++)
            choir_assert((t->samples[k] = calloc(perf_samples(a), sizeof(double))) != NULL);
        choir_assert(t->rank);
    }
}

static void free_threads(struct perf_job *job)
{
    for (int i = 0; i < job->args->threads; i++) {
        free(job->thread[i].rank);
        free(job->thread[i].samples[0]);
        free(job->thread[i].samples[1]);
    }
    pthread_barrier_destroy(&job->sync->barrier);
    free(job->sync->values);
    free(job->thread);
}

int perf_job_run(struct perf_job *job, void (*body)(struct perf_thread *))
{
    const struct perf_args *a = job->args;
    struct perf_sync sync = {.body = body};
    job->sync = &sync;
    prepare_threads(job, &sync);
    uint64_t start = base_now_ns();
    connect_processes(job, &job->thread[0]);
    job->create_s = (double)(base_now_ns() - start) / 1e9;
    if (job->coll->prepare && !job->coll->prepare(a, job->ranks, job->thread[0].prints)) {
        choir_comm_destroy(job->control);
        free_threads(job);
        return 2;
    }
    /* The control communicator is made before CUDA is used, so it cannot be a GPU's. */
    job->control_measured = a->threads * a->per_thread == 1 && !a->cuda;
    if (!job->control_measured)
        share_id(job, &job->thread[0]);
    if (a->cuda)
        find_place_on_host(job, &job->thread[0]);
    pthread_t *other = calloc((size_t)a->threads, sizeof(*other));
    choir_assert(other);
    for (int i = 1; i < a->threads; i++)
        if (pthread_create(&other[i], NULL, thread_main, &job->thread[i])) {
            fprintf(stderr, "%s: no more threads after %d: a smaller -t is needed\n", a->program,
                    i);
            _exit(4);
        }
    thread_main(&job->thread[0]);
    for (int i = 1; i < a->threads; i++)
        pthread_join(other[i], NULL);
    free(other);
    choir_comm_destroy(job->control);
    free_threads(job);
    return 0;
}
