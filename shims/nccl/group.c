/* SPDX-License-Identifier: Apache-2.0 */
/*
 * group.c: groups. Calls of this thread are collected until the outermost end, which makes communicators and windows first, then runs
 * collectives and messages as one group of Choir, then ends communicators. A call that failed makes the end fail, and nothing
 * runs.
 */
#include "shims/nccl/internal.h"
#include <stdlib.h>

struct end {
    ncclComm_t comm;
    enum nccl_end how;
};
static _Thread_local struct group {
    uint32_t depth;
    ncclResult_t error;
    struct nccl_task *task;
    struct nccl_job **job;
    struct end *end;
    uint32_t tasks, task_room, jobs, job_room, ends, end_room;
} g;
static pthread_key_t key;

static void clear(void)
{
    for (uint32_t i = 0; i < g.tasks; i++) {
        free(g.task[i].rma.wait);
        nccl_op_drop(g.task[i].comm, g.task[i].op);
        nccl_comm_drop(g.task[i].comm);
    }
    for (uint32_t i = 0; i < g.ends; i++)
        nccl_comm_drop(g.end[i].comm);
    g.tasks = g.jobs = g.ends = 0;
    g.error = ncclSuccess;
}

/* --- a thread that ends with a group open --------------------------------------------------------- */

static void free_lists(void *unused)
{
    (void)unused;
    nccl_jobs_fail(g.job, g.jobs, ncclInvalidUsage, true);
    clear();
    free(g.task);
    free(g.job);
    free(g.end);
    g = (struct group){0};
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

static ncclResult_t grow(void **list, uint32_t count, uint32_t *room, size_t size)
{
    if (count < *room)
        return ncclSuccess;
    uint32_t more = *room ? *room * 2 : 16;
    void *fresh = realloc(*list, more * size);
    if (!fresh)
        return nccl_fail(ncclSystemError, "no memory for a group of %u calls", count + 1);
    free_at_exit();
    *list = fresh;
    *room = more;
    return ncclSuccess;
}

bool nccl_group_open(void)
{
    return g.depth != 0;
}

ncclResult_t nccl_group_note(ncclResult_t r)
{
    if (g.depth && r != ncclSuccess && r != ncclInProgress && g.error == ncclSuccess)
        g.error = r;
    return r;
}

/* --- collecting ----------------------------------------------------------------------------------- */

/* As in NCCL: what one thread waits for and what it does not, one group cannot both be. */
static ncclResult_t check_alike(bool blocking, const char *call)
{
    bool other = g.tasks ? g.task[0].comm->config.blocking : g.jobs ? g.job[0]->blocking : blocking;
    if (other != blocking)
        return nccl_fail(ncclInvalidArgument,
                         "%s: blocking communicators and others cannot be in one group", call);
    return ncclSuccess;
}

ncclResult_t nccl_group_add(const struct nccl_task *task)
{
    ncclResult_t r = check_alike(task->comm->config.blocking, nccl_task_name(task));
    if (r == ncclSuccess)
        r = grow((void **)&g.task, g.tasks, &g.task_room, sizeof(*g.task));
    if (r != ncclSuccess)
        return r;
    nccl_comm_hold(task->comm);
    g.task[g.tasks++] = *task;
    return ncclSuccess;
}

ncclResult_t nccl_group_add_job(struct nccl_job *job)
{
    ncclResult_t r = check_alike(job->blocking, job->call);
    if (r == ncclSuccess)
        r = grow((void **)&g.job, g.jobs, &g.job_room, sizeof(struct nccl_job *));
    if (r == ncclSuccess)
        g.job[g.jobs++] = job;
    return r;
}

ncclResult_t nccl_group_add_end(ncclComm_t comm, enum nccl_end how)
{
    ncclResult_t r = grow((void **)&g.end, g.ends, &g.end_room, sizeof(*g.end));
    if (r != ncclSuccess)
        return r;
    nccl_comm_hold(comm);
    g.end[g.ends++] = (struct end){comm, how};
    return ncclSuccess;
}

/* --- the end -------------------------------------------------------------------------------------- */

static ncclResult_t run_entered(void)
{
    ncclResult_t first = ncclSuccess;
    if (g.tasks == 1)
        return nccl_task_run(&g.task[0]);
    choir_group_start();
    for (uint32_t i = 0; i < g.tasks; i++) {
        ncclResult_t r = nccl_task_run(&g.task[i]);
        first = first == ncclSuccess ? r : first;
    }
    enum choir_status st = choir_group_end(); /* runs nothing if one of them failed */
    return first == ncclSuccess ? nccl_result(st, "ncclGroupEnd") : first;
}

static ncclResult_t run_tasks(void)
{
    ncclResult_t r = ncclSuccess;
    uint32_t entered = 0;
    while (entered < g.tasks && r == ncclSuccess) {
        r = nccl_comm_enter_closing(g.task[entered].comm, "ncclGroupEnd");
        entered += r == ncclSuccess;
        /* What Choir does not see must not leave a part of the group to run. */
        if (r == ncclSuccess && g.task[entered - 1].call >= NCCL_PUT_SIGNAL)
            r = nccl_rma_check(&g.task[entered - 1]);
    }
    if (r == ncclSuccess && g.tasks)
        r = run_entered();
    for (uint32_t i = 0; i < entered; i++)
        nccl_comm_leave(g.task[i].comm);
    return r;
}

static ncclResult_t run_ends(ncclResult_t r)
{
    for (uint32_t i = 0; i < g.ends; i++) { /* also after a failure: handles must not stay */
        ncclResult_t one = nccl_comm_finish(g.end[i].comm, g.end[i].how);
        r = r == ncclSuccess || r == ncclInProgress ? (one == ncclSuccess ? r : one) : r;
    }
    return r;
}

/* info: what is there is priced, not run; communicators are made all the same. */
ncclResult_t nccl_group_end(ncclSimInfo_t *info)
{
    if (!g.depth)
        return nccl_fail(ncclInvalidUsage, "%s: no group is open; call ncclGroupStart first",
                         info ? "ncclGroupSimulateEnd" : "ncclGroupEnd");
    if (--g.depth)
        return ncclSuccess;
    ncclResult_t r = g.error;
    if (r == ncclSuccess && info)
        r = nccl_simulate_check(info);
    if (r == ncclSuccess)
        r = nccl_jobs_run(g.job, g.jobs);
    else
        nccl_jobs_fail(g.job, g.jobs, r, false);
    if ((r == ncclSuccess || r == ncclInProgress) && (g.tasks || info)) {
        ncclResult_t ran = info ? nccl_simulate(g.task, g.tasks, info) : run_tasks();
        r = ran == ncclSuccess ? r : ran;
    }
    r = run_ends(r);
    clear();
    return r;
}

void nccl_group_start(void)
{
    g.depth++;
}

NCCL_EXPORT ncclResult_t ncclGroupStart(void)
{
    nccl_group_start();
    return ncclSuccess;
}
NCCL_TWIN(ncclResult_t, GroupStart, (void));

NCCL_EXPORT ncclResult_t ncclGroupEnd(void)
{
    return nccl_group_end(NULL);
}
NCCL_TWIN(ncclResult_t, GroupEnd, (void));

NCCL_EXPORT ncclResult_t ncclGroupSimulateEnd(ncclSimInfo_t *simInfo)
{
    return nccl_group_end(simInfo);
}
NCCL_TWIN(ncclResult_t, GroupSimulateEnd, (ncclSimInfo_t * simInfo));
