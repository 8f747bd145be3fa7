/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c: memory, registrations and windows. Nothing of Choir needs them to move data fast on host memory, and on GPUs data goes
 * through the library's own: a window here is a handle that knows its buffer.
 */
#include "shims/nccl/internal.h"

#define GRANULE ((size_t)2 << 20) /* of GPU memory: windows of it begin at a page */

/* --- memory --------------------------------------------------------------------------------------- */

static ncclResult_t alloc(void **ptr, size_t size)
{
    if (!ptr || !size)
        return nccl_fail(ncclInvalidArgument, "ncclMemAlloc: %s",
                         ptr ? "size is 0" : "ptr is NULL");
    ncclResult_t r = nccl_start();
    if (r != ncclSuccess)
        return r;
    if (nccl_on_host())
        return nccl_result(choir_mem_alloc(size, ptr), "ncclMemAlloc");
    if (size > SIZE_MAX - GRANULE)
        return nccl_fail(ncclInvalidArgument, "ncclMemAlloc: size %zu is too large", size);
    return nccl_gpu_alloc((size + GRANULE - 1) / GRANULE * GRANULE, ptr);
}

NCCL_EXPORT ncclResult_t ncclMemAlloc(void **ptr, size_t size)
{
    return nccl_group_note(alloc(ptr, size));
}
NCCL_TWIN(ncclResult_t, MemAlloc, (void **ptr, size_t size));

static ncclResult_t release(void *ptr)
{
    if (!ptr)
        return ncclSuccess;
    ncclResult_t r = nccl_start();
    if (r != ncclSuccess)
        return r;
    return nccl_on_host() ? nccl_result(choir_mem_free(ptr), "ncclMemFree") : nccl_gpu_free(ptr);
}

NCCL_EXPORT ncclResult_t ncclMemFree(void *ptr)
{
    return nccl_group_note(release(ptr));
}
NCCL_TWIN(ncclResult_t, MemFree, (void *ptr));

/* --- handles of buffers --------------------------------------------------------------------------- */

struct buffer { /* a registration or a window */
    struct nccl_item item;
    ncclComm_t comm;
    void *memory;
    choir_region *region;
};
static struct nccl_pool regions = {
    .bytes = sizeof(struct buffer), .count = 64, .lock = PTHREAD_MUTEX_INITIALIZER};
static struct nccl_pool windows = {
    .bytes = sizeof(struct buffer), .count = 64, .lock = PTHREAD_MUTEX_INITIALIZER};

/* Its communicator is entered, so nobody else ends it meanwhile but by a call that is one too many. */
static struct buffer *find(struct nccl_pool *pool, const void *handle, ncclComm_t comm)
{
    struct buffer *b = (struct buffer *)(uintptr_t)handle;
    return nccl_pool_has(pool, handle) && atomic_load(&b->item.life) == NCCL_LIVE && b->comm == comm
               ? b
               : NULL;
}

static bool claim(struct buffer *b)
{
    uint32_t live = NCCL_LIVE;
    return atomic_compare_exchange_strong(&b->item.life, &live, NCCL_LEAVING);
}

static struct buffer *new_buffer(struct nccl_pool *pool, ncclComm_t comm, void *memory)
{
    struct buffer *b = nccl_pool_take(pool);
    if (b)
        b->comm = comm, b->memory = memory;
    return b;
}

/* --- registration --------------------------------------------------------------------------------- */

static ncclResult_t add_region(ncclComm_t comm, void *memory, size_t bytes, void **handle)
{
    struct buffer *b = new_buffer(&regions, comm, memory);
    if (!b)
        return nccl_fail(ncclSystemError, "ncclCommRegister: out of memory");
    ncclResult_t r = nccl_result(
        choir_register(atomic_load(&comm->choir), memory, bytes, &b->region), "ncclCommRegister");
    if (r == ncclSuccess)
        *handle = b;
    else
        nccl_pool_give(&regions, b);
    return r;
}

static ncclResult_t register_buffer(ncclComm_t comm, void *memory, size_t bytes, void **handle)
{
    ncclResult_t r = nccl_comm_enter(comm, "ncclCommRegister");
    if (r != ncclSuccess)
        return r;
    if (!memory || !bytes || !handle)
        r = nccl_fail(ncclInvalidArgument, "ncclCommRegister: %s",
                      !handle   ? "handle is NULL"
                      : !memory ? "buff is NULL"
                                : "size is 0");
    else
        r = add_region(comm, memory, bytes, handle);
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclCommRegister(const ncclComm_t comm, void *buff, size_t size,
                                          void **handle)
{
    return nccl_group_note(register_buffer(comm, buff, size, handle));
}
NCCL_TWIN(ncclResult_t, CommRegister,
          (const ncclComm_t comm, void *buff, size_t size, void **handle));

static ncclResult_t deregister(ncclComm_t comm, void *handle)
{
    if (!handle)
        return ncclSuccess;
    ncclResult_t r = nccl_comm_enter_closing(comm, "ncclCommDeregister");
    if (r != ncclSuccess)
        return r;
    struct buffer *b = find(&regions, handle, comm);
    if (!b || !claim(b)) {
        r = nccl_fail(ncclInvalidArgument, "ncclCommDeregister: handle is not of comm, or was "
                                           "given back");
    } else {
        r = nccl_result(choir_deregister(atomic_load(&comm->choir), b->region),
                        "ncclCommDeregister");
        nccl_pool_give(&regions, b);
    }
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle)
{
    return nccl_group_note(deregister(comm, handle));
}
NCCL_TWIN(ncclResult_t, CommDeregister, (const ncclComm_t comm, void *handle));

/* --- windows -------------------------------------------------------------------------------------- */

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

static ncclResult_t open_window(ncclComm_t comm, void *memory, size_t bytes, ncclWindow_t *win,
                                int flags)
{
    ncclResult_t r = nccl_comm_enter(comm, "ncclCommWindowRegister");
    if (r != ncclSuccess)
        return r;
    r = check_window(memory, bytes, win, flags);
    if (r == ncclSuccess) {
        struct buffer *b = new_buffer(&windows, comm, memory);
        if (b)
            *win = (ncclWindow_t)(void *)b;
        else
            r = nccl_fail(ncclSystemError, "ncclCommWindowRegister: out of memory");
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
    struct buffer *b = find(&windows, win, comm);
    if (b && claim(b))
        nccl_pool_give(&windows, b);
    else
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
    struct buffer *b = find(&windows, win, comm);
    if (b)
        *outUserPtr = b->memory;
    else
        r = nccl_fail(ncclInvalidArgument, "ncclWinGetUserPtr: win is not a window of comm");
    nccl_comm_leave(comm);
    return r;
}
NCCL_TWIN(ncclResult_t, WinGetUserPtr, (ncclComm_t comm, ncclWindow_t win, void **outUserPtr));
