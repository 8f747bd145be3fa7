/* SPDX-License-Identifier: Apache-2.0 */
/* window.c: windows: memory of all ranks that ncclPutSignal may write (rma.c). Collectives do not need them. */
#include "shims/nccl/internal.h"

static ncclResult_t check_window(const void *memory, size_t bytes, const ncclWindow_t *win,
                                 int flags)
{
    const char *wrong = NULL;
    if (!win)
        wrong = "win is NULL";
    else if (!memory || !bytes)
        wrong = memory ? "size is 0" : "buff is NULL";
    else if ((uintptr_t)memory % NCCL_WIN_REQUIRED_ALIGNMENT)
        wrong = "buff does not begin at a multiple of 4096";
    else if (flags & ~(NCCL_WIN_COLL_SYMMETRIC | NCCL_WIN_STRICT_ORDERING))
        wrong = "winFlags has bits that mean nothing";
    return wrong ? nccl_fail(ncclInvalidArgument, "ncclCommWindowRegister: %s", wrong)
                 : ncclSuccess;
}

/* Where Choir has no window for such memory (GPU memory that goes through the host, or of a pool), all ranks hear it alike, and the
 * handle knows its buffer all the same: collectives do not need more. */
static enum choir_status run_window(struct nccl_job *job, const struct choir_config *config,
                                    choir_comm **made)
{
    (void)config, (void)made;
    struct nccl_buffer *b = job->buffer;
    enum choir_status st =
        choir_window_create(atomic_load(&job->parent->choir), b->memory, b->bytes, &b->window);
    return st == CHOIR_ERR_UNSUPPORTED ? CHOIR_OK : st;
}

/* Where the communicator does not block, the caller has had its handle, and may have left the place for it. */
static void done_window(struct nccl_job *job)
{
    if (job->result != ncclSuccess)
        nccl_buffer_end(job->buffer);
    else if (job->blocking)
        *job->win = (ncclWindow_t)(void *)job->buffer;
}

/* Without blocking it is as in NCCL: ncclSuccess, and ncclCommGetAsyncError says when it is there. */
static ncclResult_t submit(struct nccl_job *job)
{
    if (!job->blocking)
        *job->win = (ncclWindow_t)(void *)job->buffer;
    ncclResult_t r = nccl_job_submit(job);
    if (r != ncclSuccess && r != ncclInProgress)
        *job->win = NULL;
    return r == ncclInProgress ? ncclSuccess : r;
}

static ncclResult_t open_window(ncclComm_t comm, void *memory, size_t bytes, ncclWindow_t *win,
                                int flags)
{
    struct nccl_job job = {.run = run_window,
                           .done = done_window,
                           .call = "ncclCommWindowRegister",
                           .parent = comm,
                           .win = win};
    ncclResult_t r = nccl_comm_enter(comm, job.call);
    if (r != ncclSuccess)
        return r;
    r = check_window(memory, bytes, win, flags);
    if (r == ncclSuccess) {
        *win = NULL;
        job.gpu = comm->gpu;
        job.blocking = comm->config.blocking;
        job.buffer = nccl_buffer_new(NCCL_WINDOW, comm, memory, bytes);
        r = job.buffer ? submit(&job) : nccl_fail(ncclSystemError, "%s: out of memory", job.call);
    }
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void *buff, size_t size,
                                                ncclWindow_t *win, int winFlags)
{
    return nccl_group_note(open_window(comm, buff, size, win, winFlags));
}
NCCL_TWIN(ncclResult_t, CommWindowRegister,
          (ncclComm_t comm, void *buff, size_t size, ncclWindow_t *win, int winFlags));

static ncclResult_t close_window(ncclComm_t comm, ncclWindow_t win)
{
    if (!win)
        return ncclSuccess;
    ncclResult_t r = nccl_comm_enter_closing(comm, "ncclCommWindowDeregister");
    if (r != ncclSuccess)
        return r;
    struct nccl_buffer *b = nccl_buffer_find(NCCL_WINDOW, comm, win);
    if (!b || !nccl_buffer_end(b))
        r = nccl_fail(ncclInvalidArgument, "ncclCommWindowDeregister: win is not of comm, or was "
                                           "given back");
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t win)
{
    return nccl_group_note(close_window(comm, win));
}
NCCL_TWIN(ncclResult_t, CommWindowDeregister, (ncclComm_t comm, ncclWindow_t win));

NCCL_EXPORT ncclResult_t ncclWinGetUserPtr(ncclComm_t comm, ncclWindow_t win, void **outUserPtr)
{
    if (!outUserPtr)
        return nccl_fail(ncclInvalidArgument, "ncclWinGetUserPtr: outUserPtr is NULL");
    ncclResult_t r = nccl_comm_enter(comm, "ncclWinGetUserPtr");
    if (r != ncclSuccess)
        return r;
    struct nccl_buffer *b = nccl_buffer_find(NCCL_WINDOW, comm, win);
    if (b)
        *outUserPtr = b->memory;
    else
        r = nccl_fail(ncclInvalidArgument, "ncclWinGetUserPtr: win is not a window of comm");
    nccl_comm_leave(comm);
    return r;
}
NCCL_TWIN(ncclResult_t, WinGetUserPtr, (ncclComm_t comm, ncclWindow_t win, void **outUserPtr));
