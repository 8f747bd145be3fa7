/* SPDX-License-Identifier: Apache-2.0 */
/*
 * job.c: making communicators and windows. Where a communicator is blocking, a job runs in its call, or those of a group side by
 * side in threads (those of one parent in the order of their calls), so that one thread may make all ranks of one; if one fails,
 * the others do not wait for it. Else each has a thread of its own, and the call returns ncclInProgress. The handle is there from
 * the start, so that another thread can abort it.
 */
#include "shims/nccl/internal.h"
#include "comm/comm.h"
#include <stdio.h>
#include <stdlib.h>

static void job_free(struct nccl_job *job)
{
    if (job->comm)
        nccl_comm_drop(job->comm);
    free(job->exclude);
    free(job);
}

/* In a group of its own: Choir's handle is there before the group's end, so that an abort finds it. */
static enum choir_status create(struct nccl_job *job, const struct choir_config *config,
                                choir_comm **made)
{
    group_start_quietly();
    enum choir_status st = job->run(job, config, made);
    if (st >= 0) {
        atomic_store(&job->comm->choir, *made);
        if (atomic_load(&job->comm->stopped))
            choir_comm_abort(*made);
    }
    enum choir_status ended = choir_group_end();
    return st < 0 ? st : ended;
}

static ncclResult_t make(struct nccl_job *job)
{
    struct nccl_config own = job->comm ? job->comm->config : (struct nccl_config){0};
    struct choir_config config = nccl_config_choir(&own);
    choir_comm *made = NULL;
    ncclResult_t r = nccl_gpu_enter(&job->gpu);
    if (r != ncclSuccess)
        return r;
    enum choir_status st = job->agree ? job->agree(job) : CHOIR_OK;
    if (st == CHOIR_OK)
        st = job->comm ? create(job, &config, &made) : job->run(job, &config, &made);
    nccl_gpu_leave(&job->gpu);
    if (st == CHOIR_OK && job->comm) {
        choir_comm_rank(made, &job->comm->rank);
        choir_comm_size(made, &job->comm->size);
    }
    return nccl_result(st, job->call);
}

static void finish(struct nccl_job *job, ncclResult_t r)
{
    ncclComm_t c = job->comm;
    if (r != ncclSuccess)
        snprintf(job->text, sizeof(job->text), "%s", nccl_error_text());
    job->result = r;
    if (c) {
        atomic_store(&c->result, r);
        /* The caller of one that is not blocking ends it when it hears of it. */
        if (r != ncclSuccess && job->blocking && nccl_comm_end(c, true) && job->out)
            nccl_comm_tell(job->out, NULL);
    }
    if (job->done)
        job->done(job);
    if (job->parent)
        nccl_comm_drop(job->parent);
}

static void set_making(ncclComm_t parent, ncclComm_t child)
{
    pthread_mutex_lock(&parent->lock);
    parent->making = child;
    pthread_mutex_unlock(&parent->lock);
}

/* Both stay entered while it runs; either may have been aborted since the call. */
static void run(struct nccl_job *job)
{
    ncclComm_t c = job->comm, parent = job->parent;
    ncclResult_t r = c ? nccl_comm_enter_any(c, job->call) : ncclSuccess;
    if (r == ncclSuccess) {
        r = parent ? nccl_comm_enter_any(parent, job->call) : ncclSuccess;
        if (r == ncclSuccess && parent) {
            set_making(parent, c);
            r = make(job);
            set_making(parent, NULL);
            nccl_comm_leave(parent);
        } else if (r == ncclSuccess) {
            r = make(job);
        }
        if (c)
            nccl_comm_leave(c);
    }
    finish(job, r);
}

struct blocking { /* jobs of a group */
    struct nccl_job **list;
    uint32_t count;
};

/* Those that wait for one that failed would wait for as long as for a rank that never comes. */
static void stop_others(const struct blocking *b)
{
    for (uint32_t i = 0; i < b->count; i++)
        for (struct nccl_job *job = b->list[i]; job; job = job->next)
            if (job->comm)
                nccl_comm_stop(job->comm);
}

static void *in_thread(void *first)
{
    for (struct nccl_job *job = first; job; job = job->next) {
        run(job);
        if (job->result != ncclSuccess)
            stop_others(job->group);
    }
    return NULL;
}

static void *in_background(void *first)
{
    for (struct nccl_job *job = first, *next; job; job = next) {
        ncclComm_t parent = job->parent;
        next = job->next;
        if (parent)
            nccl_comm_hold(parent);
        run(job);
        if (parent) {
            if (!job->comm)
                atomic_store(&parent->failed, job->result);
            atomic_fetch_sub(&parent->pending, 1);
            nccl_comm_drop(parent);
        }
        job_free(job);
    }
    return NULL;
}

static ncclResult_t no_thread(struct nccl_job *first)
{
    ncclResult_t r = nccl_fail(ncclSystemError, "%s: no thread for it", first->call);
    for (struct nccl_job *job = first; job; job = job->next)
        finish(job, r);
    return r;
}

static ncclResult_t start_background(struct nccl_job *first)
{
    pthread_attr_t attr;
    pthread_t thread;
    for (struct nccl_job *job = first; job; job = job->next)
        if (job->parent)
            atomic_fetch_add(&job->parent->pending, 1);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int failed = pthread_create(&thread, &attr, in_background, first);
    pthread_attr_destroy(&attr);
    if (!failed)
        return ncclInProgress;
    for (struct nccl_job *job = first; job; job = job->next)
        if (job->parent)
            atomic_fetch_sub(&job->parent->pending, 1);
    ncclResult_t r = no_thread(first);
    for (struct nccl_job *job = first, *next; job; job = next)
        next = job->next, job_free(job);
    return r;
}

/* Puts the jobs of one parent behind the first of them; the firsts go to the front of the list. Returns how many there are. */
static uint32_t chain(struct nccl_job **list, uint32_t count)
{
    uint32_t firsts = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct nccl_job *last = NULL;
        for (uint32_t k = 0; k < firsts && list[i]->parent && !last; k++)
            last = list[k]->parent == list[i]->parent ? list[k] : NULL;
        while (last && last->next)
            last = last->next;
        if (last)
            last->next = list[i];
        else
            list[firsts++] = list[i];
    }
    return firsts;
}

/* The last one here, the others beside it. */
static ncclResult_t run_blocking(struct nccl_job **list, uint32_t count)
{
    ncclResult_t r = ncclSuccess;
    uint32_t started = 0;
    const struct blocking group = {list, count};
    for (uint32_t i = 0; i < count; i++)
        for (struct nccl_job *job = list[i]; job; job = job->next)
            job->group = &group;
    while (started + 1 < count &&
           !pthread_create(&list[started]->thread, NULL, in_thread, list[started]))
        started++;
    if (started + 1 == count)
        in_thread(list[started]);
    else
        for (uint32_t i = started; i < count; i++)
            no_thread(list[i]);
    for (uint32_t i = 0; i < count; i++) {
        if (i < started)
            pthread_join(list[i]->thread, NULL);
        for (struct nccl_job *job = list[i], *next; job; job = next) {
            next = job->next;
            if (r == ncclSuccess && (r = job->result) != ncclSuccess)
                nccl_error_set(job->text);
            job_free(job);
        }
    }
    return r;
}

ncclResult_t nccl_jobs_run(struct nccl_job **list, uint32_t count)
{
    ncclResult_t r = ncclInProgress;
    if (!count)
        return ncclSuccess;
    bool blocking = list[0]->blocking; /* so are the others: group.c */
    uint32_t firsts = chain(list, count);
    if (blocking)
        return run_blocking(list, firsts);
    for (uint32_t i = 0; i < firsts; i++) {
        ncclResult_t one = start_background(list[i]);
        r = one == ncclInProgress ? r : one;
    }
    return r;
}

void nccl_jobs_fail(struct nccl_job **list, uint32_t count, ncclResult_t failed, bool orphaned)
{
    for (uint32_t i = 0; i < count; i++) {
        if (orphaned)
            list[i]->out = NULL;
        finish(list[i], failed);
        job_free(list[i]);
    }
}

ncclResult_t nccl_job_submit(struct nccl_job *proto)
{
    struct nccl_job *job = malloc(sizeof(*job));
    if (!job) {
        free(proto->exclude);
        if (proto->comm)
            nccl_comm_end(proto->comm, false);
        return nccl_fail(ncclSystemError, "%s: out of memory", proto->call);
    }
    *job = *proto;
    if (job->out)
        nccl_comm_tell(job->out, job->comm);
    if (job->comm)
        nccl_comm_hold(job->comm);
    if (job->parent)
        nccl_comm_hold(job->parent);
    if (!nccl_group_open())
        return nccl_jobs_run(&job, 1);
    ncclResult_t r = nccl_group_add_job(job);
    if (r != ncclSuccess) {
        job->blocking = true; /* it has not begun: nobody will hear of it later */
        nccl_jobs_fail(&job, 1, r, false);
    }
    return r;
}
