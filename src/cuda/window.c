/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.c: windows in GPU memory. A part is mapped by other ranks as a whole allocation, through its IPC handle, or used by its
 * address where they are of one process: their GPUs reach each other, as their mailboxes have shown. A put is a copy by the copy
 * engine, from the rank that has the data: two directions in one GPU's hands take turns on a mapped destination. Signals are
 * numbers in the mailboxes (kernel/window.cuh).
 */
#include "cuda/window.h"
#include "cuda/mailbox.h"
#include <stdio.h>
#include <string.h>

_Static_assert(CHOIR_SIGNALS <= CUDA_LANES / 2, "a lane's post has one signal, its count two");

enum choir_status cuda_part_describe(struct cuda_comm *comm, const void *memory, uint64_t bytes,
                                     struct cuda_part *part)
{
    const struct cuda_driver *cu = cuda_driver();
    CUstreamCaptureMode mode;
    CUdeviceptr base = 0, at = (CUdeviceptr)(uintptr_t)memory;
    CUipcMemHandle handle;
    size_t length = 0;
    enum choir_status st = CHOIR_OK;
    if (!comm->puts)
        st = cuda_overlap_open(comm->device, false, &comm->puts);
    if (st == CHOIR_OK)
        st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK)
        return st;
    CUresult r = cu->cuMemGetAddressRange(&base, &length, at);
    if (r == CUDA_SUCCESS)
        r = cu->cuIpcGetMemHandle(&handle, base);
    cuda_comm_end(comm, &mode);
    if (r != CUDA_SUCCESS)
        return base_fail(CHOIR_ERR_UNSUPPORTED, "pass memory of cudaMalloc",
                         "the memory at %p has no handle for other processes (of cuMemMap, or of a "
                         "pool)",
                         memory);
    if (bytes > base + length - at)
        return base_fail(CHOIR_ERR_COUNT, "pass memory of one allocation",
                         "the allocation at 0x%llx ends before %llu bytes", base,
                         (unsigned long long)bytes);
    *part = (struct cuda_part){.base = base, .offset = at - base, .bytes = bytes};
    _Static_assert(sizeof(handle) == sizeof(part->handle), "the handle's size");
    memcpy(part->handle, &handle, sizeof(handle));
    return CHOIR_OK;
}

enum choir_status cuda_part_map(struct cuda_comm *comm, const struct cuda_part *part, uint32_t rank,
                                bool same_process, uint8_t **memory, uint64_t *opened)
{
    CUstreamCaptureMode mode;
    CUipcMemHandle handle;
    CUdeviceptr base = part->base;
    char what[64];
    *opened = 0;
    if (!same_process) {
        enum choir_status st = cuda_comm_begin(comm, &mode);
        if (st != CHOIR_OK)
            return st;
        memcpy(&handle, part->handle, sizeof(handle));
        CUresult r =
            cuda_driver()->cuIpcOpenMemHandle(&base, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
        cuda_comm_end(comm, &mode);
        snprintf(what, sizeof(what), "opening rank %u's part of a window", rank);
        if (r != CUDA_SUCCESS)
            return cuda_fail(r, what);
        *opened = base;
    }
    *memory = (uint8_t *)(uintptr_t)(base + part->offset);
    return CHOIR_OK;
}

void cuda_part_unmap(struct cuda_comm *comm, uint64_t opened)
{
    CUstreamCaptureMode mode;
    if (!opened || cuda_comm_begin(comm, &mode) != CHOIR_OK)
        return;
    CUresult r = cuda_driver()->cuIpcCloseMemHandle(opened);
    cuda_comm_end(comm, &mode);
    if (r != CUDA_SUCCESS)
        cuda_fail(r, "closing a part of a window");
}

static enum choir_status copy(struct cuda_comm *comm, struct CUstream_st *stream, void *to,
                              const void *from, uint64_t bytes)
{
    enum choir_status st = cuda_device_enter(comm->device);
    if (st != CHOIR_OK)
        return st;
    CUresult r = cuda_driver()->cuMemcpyAsync((CUdeviceptr)(uintptr_t)to,
                                              (CUdeviceptr)(uintptr_t)from, bytes, stream);
    cuda_device_leave(comm->device);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "copying into a window");
}

/* On the default stream a copy between GPUs of one process would wait for all that either of them was told before, and so for a kernel
 * of the peer's that waits for this copy. */
static enum choir_status copy_beside(struct cuda_comm *comm, struct CUstream_st *stream, void *to,
                                     const void *from, uint64_t bytes)
{
    struct CUstream_st *own;
    enum choir_status st = cuda_overlap_fork(comm->puts, stream, &own);
    if (st == CHOIR_OK)
        st = copy(comm, own, to, from, bytes);
    return st == CHOIR_OK ? cuda_overlap_join(comm->puts, stream) : st;
}

enum choir_status cuda_put(struct cuda_comm *comm, struct CUstream_st *stream, void *to,
                           const void *from, uint64_t bytes)
{
    struct cuda_pointer where;
    enum choir_status st = cuda_device_of_pointer(from, &where);
    if (st == CHOIR_OK && where.where == CUDA_HOST)
        st = base_fail(CHOIR_ERR_POINTER,
                       "pass GPU memory, or host memory of cudaMallocHost or cudaHostRegister",
                       "send is host memory that CUDA does not know");
    if (st != CHOIR_OK)
        return st;
    bool is_default = !stream || stream == CU_STREAM_LEGACY;
    return (is_default ? copy_beside : copy)(comm, stream, to, from, bytes);
}

static enum choir_status launch(struct cuda_comm *comm, CUfunction *kept, const char *name,
                                struct CUstream_st *stream, void *call)
{
    void *arguments[] = {call};
    enum choir_status st = cuda_device_enter(comm->device);
    if (st != CHOIR_OK)
        return st;
    if (!*kept)
        st = cuda_device_function(comm->device, name, kept);
    CUresult r = CUDA_SUCCESS;
    if (st == CHOIR_OK)
        r = cuda_driver()->cuLaunchKernel(*kept, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
    cuda_device_leave(comm->device);
    return r == CUDA_SUCCESS ? st : cuda_fail(r, "launching a signal");
}

enum choir_status cuda_signal_raise(struct cuda_comm *comm, struct CUstream_st *stream,
                                    uint32_t peer, uint32_t signal)
{
    struct cuda_view *v = &comm->view;
    struct cuda_post *post =
        (struct cuda_post *)(void *)(v->mailbox[peer] + CUDA_POST_AT(v->ranks, v->rank, signal));
    struct cuda_raise_call call = {.guard = v->guard,
                                   .raised =
                                       &v->count[cuda_index(peer, CUDA_RAISED(signal))].signal,
                                   .signal = &post->signal};
    return launch(comm, &comm->raise, "choir_signal_raise", stream, &call);
}

enum choir_status cuda_signal_take(struct cuda_comm *comm, struct CUstream_st *stream,
                                   const struct cuda_signal_wait *wait, uint32_t waits)
{
    struct cuda_view *v = &comm->view;
    struct cuda_take_call call = {.guard = v->guard,
                                  .count = v->count,
                                  .post =
                                      (const struct cuda_post *)(const void *)v->mailbox[v->rank],
                                  .waits = waits};
    choir_assert(waits <= CUDA_WAITS);
    memcpy(call.wait, wait, waits * sizeof(*wait));
    return launch(comm, &comm->take, "choir_signal_take", stream, &call);
}
