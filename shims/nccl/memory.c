/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c: memory and its registration. Nothing of Choir needs either to move data fast on host memory, and on GPUs data goes through
 * the library's own: what is registered is a handle that knows its buffer.
 */
#include "shims/nccl/internal.h"

#define GRANULE ((size_t)2 << 20) /* of GPU memory: windows of it begin at a page */

/* --- memory --------------------------------------------------------------------------------------- */

static ncclResult_t alloc(void **ptr, size_t size)
{
    if (!ptr)
        return nccl_fail(ncclInvalidArgument, "ncclMemAlloc: ptr is NULL");
    ncclResult_t r = nccl_start();
    if (r != ncclSuccess)
        return r;
    if (!size) { /* as cudaMalloc does */
        *ptr = NULL;
        return ncclSuccess;
    }
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

static struct nccl_pool buffers = {
    .bytes = sizeof(struct nccl_buffer), .count = 64, .lock = PTHREAD_MUTEX_INITIALIZER};

struct nccl_buffer *nccl_buffer_new(enum nccl_use use, ncclComm_t comm, void *memory, size_t bytes)
{
    struct nccl_buffer *b = nccl_pool_take(&buffers);
    if (!b)
        return NULL;
    b->use = use;
    b->comm = comm;
    b->memory = memory;
    b->bytes = bytes;
    pthread_mutex_lock(&comm->lock);
    b->next = comm->buffers;
    comm->buffers = b;
    pthread_mutex_unlock(&comm->lock);
    return b;
}

struct nccl_buffer *nccl_buffer_find(enum nccl_use use, ncclComm_t comm, const void *handle)
{
    struct nccl_buffer *b = (struct nccl_buffer *)(uintptr_t)handle;
    return nccl_pool_has(&buffers, handle) && atomic_load(&b->item.life) == NCCL_LIVE &&
                   b->comm == comm && b->use == use
               ? b
               : NULL;
}

bool nccl_buffer_end(struct nccl_buffer *b)
{
    uint32_t live = NCCL_LIVE;
    if (!atomic_compare_exchange_strong(&b->item.life, &live, NCCL_LEAVING))
        return false;
    pthread_mutex_lock(&b->comm->lock);
    struct nccl_buffer **at = &b->comm->buffers;
    while (*at != b)
        at = &(*at)->next;
    *at = b->next;
    pthread_mutex_unlock(&b->comm->lock);
    choir_window_destroy(b->window);
    if (b->region)
        choir_deregister(atomic_load(&b->comm->choir), b->region);
    nccl_pool_give(&buffers, b);
    return true;
}

void nccl_buffer_end_all(ncclComm_t comm)
{
    while (comm->buffers)
        nccl_buffer_end(comm->buffers);
}

/* --- registration --------------------------------------------------------------------------------- */

static ncclResult_t add_region(ncclComm_t comm, void *memory, size_t bytes, void **handle)
{
    struct nccl_buffer *b = nccl_buffer_new(NCCL_REGION, comm, memory, bytes);
    if (!b)
        return nccl_fail(ncclSystemError, "ncclCommRegister: out of memory");
    ncclResult_t r = nccl_result(
        choir_register(atomic_load(&comm->choir), memory, bytes, &b->region), "ncclCommRegister");
    if (r == ncclSuccess)
        *handle = b;
    else
        nccl_buffer_end(b);
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

/* Windows too: before it aborts, PyTorch gives back by this call whatever it has registered. */
static ncclResult_t deregister(ncclComm_t comm, void *handle)
{
    if (!handle)
        return ncclSuccess;
    ncclResult_t r = nccl_comm_enter_closing(comm, "ncclCommDeregister");
    if (r != ncclSuccess)
        return r;
    struct nccl_buffer *b = nccl_buffer_find(NCCL_REGION, comm, handle);
    if (!b)
        b = nccl_buffer_find(NCCL_WINDOW, comm, handle);
    if (!b || !nccl_buffer_end(b))
        r = nccl_fail(ncclInvalidArgument, "ncclCommDeregister: handle is not of comm, or was "
                                           "given back");
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle)
{
    return nccl_group_note(deregister(comm, handle));
}
NCCL_TWIN(ncclResult_t, CommDeregister, (const ncclComm_t comm, void *handle));
