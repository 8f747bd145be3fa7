/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simulate_run.c: the clock of the simulator: events in the order of time, CPUs and their queues.
 */
#include "plan/simulate_play.h"
#include <stdlib.h>
#include <string.h>

bool sim_grow(struct sim *s, void **data, uint32_t *room, uint32_t count, size_t bytes)
{
    if (count < *room)
        return true;
    uint32_t more = *room ? *room * 2 : 64;
    void *p = more > *room ? realloc(*data, more * bytes) : NULL;
    if (!p) {
        s->no_memory = true;
        return false;
    }
    *data = p;
    *room = more;
    return true;
}

/* --- events ------------------------------------------------------------------------------------- */

static bool earlier(const struct sim_event *a, const struct sim_event *b)
{
    return a->time != b->time ? a->time < b->time : a->order < b->order;
}

void sim_event_add(struct sim *s, uint64_t time, uint32_t what)
{
    if (!sim_grow(s, (void **)&s->heap, &s->event_room, s->events, sizeof(*s->heap)))
        return;
    struct sim_event e = {time, s->order++, what};
    uint32_t i = s->events++;
    for (; i && earlier(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = e;
}

static struct sim_event event_take(struct sim *s)
{
    struct sim_event first = s->heap[0], last = s->heap[--s->events];
    uint32_t i = 0, child;
    while ((child = 2 * i + 1) < s->events) {
        if (child + 1 < s->events && earlier(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!earlier(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return first;
}

/* --- CPUs ---------------------------------------------------------------------------------------- */

/* Where ranks share cores and all have the same to do, each takes as many times as long as there are ranks a core.
 * Where one has more to do (a root, the longest block), the bytes wait for a core only while more ranks move
 * some than there are cores; what is fixed is late by the ranks that take turns all the same. */
static void job_start(struct sim *s, uint32_t rank, uint32_t job)
{
    uint32_t host = host_index(s, rank);
    struct sim_work w =
        job < s->threads ? sim_step_work(s, job) : sim_push_work(s, job - s->threads);
    uint64_t end = s->now + ps(s->crowd, w.fixed) + w.bytes;
    if (s->crowd > 1 && !s->alike) {
        uint64_t work = ps(s->share / s->cores, w.fixed + w.bytes);
        uint64_t served = serve(&s->cpus[host], s->now, work);
        end = base_max(end, served);
    }
    if (w.memory) {
        uint64_t served = serve(&s->memory[host], s->now, w.memory * s->share);
        end = base_max(end, served);
    }
    s->rank[rank].running = job;
    sim_event_add(s, end, rank);
}

static uint32_t *next_of(struct sim *s, uint32_t job)
{
    return job < s->threads ? &s->thread[job].next_job : &s->channel[job - s->threads].next_job;
}

void sim_job_add(struct sim *s, uint32_t rank, uint32_t job)
{
    struct sim_rank *r = &s->rank[rank];
    if (r->running == NONE) {
        job_start(s, rank, job);
        return;
    }
    *next_of(s, job) = NONE;
    *(r->first_job == NONE ? &r->first_job : next_of(s, r->last_job)) = job;
    r->last_job = job;
}

/* --- the clock ---------------------------------------------------------------------------------- */

static void job_done(struct sim *s, uint32_t rank)
{
    uint32_t job = s->rank[rank].running;
    /* The CPU stays taken while the job's results are handed on: jobs they add queue up behind the waiting
     * ones. */
    if (job < s->threads)
        sim_step_done(s, job);
    else
        sim_push_done(s, job - s->threads);
    struct sim_rank *r = &s->rank[rank];
    r->running = NONE;
    uint32_t next = r->first_job;
    if (next != NONE) {
        r->first_job = *next_of(s, next);
        job_start(s, rank, next);
    }
}

static void play(struct sim *s)
{
    for (uint32_t w = 0; w < s->window; w++)
        for (uint32_t r = 0; r < s->job->reps; r++)
            sim_thread_start(s, r * s->window + w, w);
    while (s->events && !s->no_memory) {
        struct sim_event e = event_take(s);
        s->now = e.time;
        s->result->events++;
        if (s->job->bound_ps && s->now > s->job->bound_ps) {
            s->result->beyond = true;
            s->result->time_ps = (int64_t)s->now;
            return;
        }
        if (e.what < s->job->reps)
            job_done(s, e.what);
        else
            sim_fragment_arrived(s, e.what - s->job->reps);
    }
}

static void set_costs(struct sim *s)
{
    const struct plan_cluster *c = s->job->cluster;
    uint32_t most = 1;
    for (uint32_t h = 0; h < s->job->layout->hosts; h++)
        most = base_max(most, s->job->layout->begin[h + 1] - s->job->layout->begin[h]);
    s->crowd = base_max(c->oversubscribed, 1.0);
    s->cores = most / s->crowd;
    double bytes = 1000 * (s->alike ? s->crowd : 1);
    for (unsigned l = 0; l < PLAN_LINKS; l++)
        s->cost[l] = (struct sim_cost){
            .alpha = (uint64_t)(c->link[l].alpha_ns * 1000 * s->crowd),
            .overhead = (uint64_t)(c->link[l].overhead_ns * 1000),
            .beta = c->link[l].beta_ns * 1000,
            .rank_beta = c->link[l].rank_beta_ns * bytes,
            .shared_beta = c->link[l].shared_beta_ns * 1000,
        };
    s->copy = c->copy_ns * bytes;
    s->combine = c->combine_ns * bytes;
    s->step = (uint64_t)(c->step_ns * 1000);
}

static bool set_up(struct sim *s)
{
    const struct sim_job *job = s->job;
    const struct choir_plan *plan = job->plans[0];
    uint32_t hosts = job->group == SIM_EACH ? job->layout->hosts : 1;
    s->alike = sim_ranks_alike(plan);
    set_costs(s);
    s->window = base_max(base_min(plan->window, job->instances), 1u);
    s->depth = base_max(plan->depth, 2u);
    s->slot_bytes = base_max(plan->slot * job->elem, 1u);
    s->threads = job->reps * s->window;
    /* A played rank stands for ranks / reps others, spread evenly over the hosts. */
    s->share =
        job->group == SIM_EACH ? 1 : base_max(job->ranks / job->reps / job->layout->hosts, 1u);
    s->free_message = NONE;
    s->table_mask = 63;
    s->thread = calloc(s->threads, sizeof(*s->thread));
    s->rank = malloc(job->reps * sizeof(*s->rank));
    s->memory = calloc(4 * (size_t)hosts, sizeof(*s->memory));
    s->table = malloc(64 * sizeof(*s->table));
    if (!s->thread || !s->rank || !s->memory || !s->table)
        return false;
    s->nic_out = s->memory + hosts;
    s->nic_in = s->nic_out + hosts;
    s->cpus = s->nic_in + hosts;
    memset(s->table, 0xff, 64 * sizeof(*s->table));
    for (uint32_t r = 0; r < job->reps; r++)
        s->rank[r] = (struct sim_rank){NONE, NONE, NONE};
    for (uint32_t t = 0; t < s->threads; t++) {
        s->thread[t].rank = t / s->window;
        s->thread[t].slot = t % s->window;
        s->thread[t].await = s->thread[t].next_job = NONE;
    }
    return true;
}

enum choir_status sim_run(const struct sim_job *job, struct sim_result *result)
{
    struct sim s = {.job = job, .result = result};
    enum choir_status status = CHOIR_OK;
    *result = (struct sim_result){0};
    s.no_memory = !set_up(&s);
    if (!s.no_memory)
        play(&s);
    if (s.no_memory) {
        status = base_fail(CHOIR_ERR_NO_MEMORY, "price a smaller job",
                           "no memory to simulate %u ranks", job->reps);
    } else if (s.running && !result->beyond) {
        status = CHOIR_ERR_STATE;
        for (uint32_t t = 0; t < s.threads; t++)
            if (s.thread[t].live) {
                result->stuck_rank = s.thread[t].rank;
                result->stuck_step = s.thread[t].cursor.step;
                break;
            }
    }
    free(s.thread);
    free(s.rank);
    free(s.memory);
    free(s.table);
    free(s.message);
    free(s.channel);
    free(s.heap);
    return status;
}
