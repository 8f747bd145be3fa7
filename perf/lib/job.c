/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.c: processes, threads and ranks of a run: who they are, their communicators and buffers, and the two things
 * the driver itself needs among them, a barrier and a reduction of doubles.
 *
 * Threads meet at a pthread barrier, processes over the control communicator, driven by thread 0.
 */
#include "perf/lib/perf.h"
#include "boot/boot.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUARD_BYTES 4096 /* behind a buffer, to see writes past the end */

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
    if (job->peer) {
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

static void connect_ranks(struct perf_thread *t)
{
    struct perf_job *job = t->job;
    const struct perf_args *a = job->args;
    struct choir_config c = config(job);
    uint32_t first =
        (job->proc * (uint32_t)a->threads + (uint32_t)t->index) * (uint32_t)a->per_thread;
    bool shared = a->threads == 1 && a->per_thread == 1;
    if (a->per_thread > 1)
        perf_check(t, NULL, choir_group_start(), "choir_group_start");
    for (int i = 0; i < a->per_thread; i++) {
        struct perf_call *call = &t->rank[i].call;
        call->rank = first + (uint32_t)i;
        call->ranks = job->ranks;
        if (shared)
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

/* --- buffers -------------------------------------------------------------------------------------- */
static void allocate(struct perf_thread *t, struct perf_rank *r)
{
    const struct perf_args *a = t->job->args;
    size_t bytes = a->max_bytes + (size_t)a->unalign * 8 + GUARD_BYTES;
    for (int k = 0; k < 2; k++) {
        if (a->choir_memory) {
            perf_check(t, NULL, choir_mem_alloc(bytes, &r->memory[k]), "choir_mem_alloc");
        } else {
            r->memory[k] =
                mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (r->memory[k] == MAP_FAILED) {
                fprintf(stderr, "%s: no memory for buffers of %zu bytes: a smaller -e is needed\n",
                        a->program, bytes);
                _exit(4);
            }
        }
        memset(r->memory[k], 0, bytes); /* fault the pages in */
        if (a->reg == 1)
            perf_check(t, r->call.comm,
                       choir_register(r->call.comm, r->memory[k], bytes, &r->region[k]),
                       "choir_register");
        if (a->reg == 2)
            perf_check(t, r->call.comm,
                       choir_window_create(r->call.comm, r->memory[k], bytes, &r->window[k]),
                       "choir_window_create");
    }
    r->send = r->memory[0], r->recv = r->memory[1];
    if (!a->stream_null)
        perf_check(t, NULL, choir_stream_create(&r->call.stream), "choir_stream_create");
}

static void release(struct perf_thread *t, struct perf_rank *r)
{
    const struct perf_args *a = t->job->args;
    size_t bytes = a->max_bytes + (size_t)a->unalign * 8 + GUARD_BYTES;
    if (r->call.stream)
        choir_stream_destroy(r->call.stream);
    for (int k = 0; k < 2; k++) {
        if (r->region[k])
            choir_deregister(r->call.comm, r->region[k]);
        if (r->window[k])
            choir_window_destroy(r->window[k]);
        if (a->choir_memory)
            choir_mem_free(r->memory[k]);
        else
            munmap(r->memory[k], bytes);
    }
}

/* --- life --------------------------------------------------------------------------------------------- */
static void measure_peak(struct perf_thread *t)
{
    enum { BYTES = 32 << 20, TIMES = 5 };
    char *from = malloc(BYTES), *to = malloc(BYTES);
    choir_assert(from && to);
    memset(from, 1, BYTES);
    memset(to, 2, BYTES);
    double best = 0;
    for (int i = 0; i < TIMES; i++) {
        perf_barrier(t);
        uint64_t start = base_now_ns();
        memcpy(to, from, BYTES);
        __asm__ volatile("" ::"r"(to) : "memory");
        best = base_max(best, BYTES * 1e9 / (double)(base_now_ns() - start));
    }
    free(from);
    free(to);
    perf_reduce(t, &best, 1, CHOIR_AVG);
    if (!t->index)
        t->job->peak_bytes_s = best;
    meet(t);
}

static void *thread_main(void *p)
{
    struct perf_thread *t = p;
    struct perf_job *job = t->job;
    int n = job->args->per_thread;
    uint64_t start = base_now_ns();
    connect_ranks(t);
    double seconds = (double)(base_now_ns() - start) / 1e9;
    perf_reduce(t, &seconds, 1, CHOIR_MAX);
    if (!t->index)
        job->create_s += seconds;
    for (int i = 0; i < n; i++)
        allocate(t, &t->rank[i]);
    if (job->args->peak)
        measure_peak(t);
    job->sync->body(t);
    perf_barrier(t);
    for (int i = 0; i < n; i++) {
        release(t, &t->rank[i]);
        if (t->rank[i].call.comm != job->control)
            choir_comm_destroy(t->rank[i].call.comm);
    }
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
            choir_assert((t->samples[k] = calloc((size_t)a->iters, sizeof(double))) != NULL);
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
    if (a->threads * a->per_thread > 1)
        share_id(job, &job->thread[0]);
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
