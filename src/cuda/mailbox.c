/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mailbox.c: the memory that the ranks of a host share on their GPUs: each has a mailbox, which the others write into. It is
 * allocated when a communicator is created, so that no operation ever waits for memory; meet.c maps it.
 *
 * A peer may write into the mailbox until it has closed its own side, which it says by its last hello. A mailbox
 * closed before waits on a list, and is freed when another is opened or closed, or never: at the process's end.
 */
#include "cuda/mailbox.h"
#include "base/knob.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cuda_comm *closed;

enum choir_status cuda_comm_begin(struct cuda_comm *comm, CUstreamCaptureMode *mode)
{
    return cuda_device_begin(comm->device, mode);
}

void cuda_comm_end(struct cuda_comm *comm, CUstreamCaptureMode *mode)
{
    cuda_device_end(comm->device, mode);
}

enum choir_status cuda_comm_wait(struct cuda_comm *comm, CUresult r, const char *what)
{
    if (r == CUDA_SUCCESS)
        r = cuda_driver()->cuStreamSynchronize(comm->stream);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, what);
}

enum choir_status cuda_comm_upload(struct cuda_comm *comm, CUdeviceptr to, const void *from,
                                   uint64_t bytes)
{
    return cuda_comm_wait(comm, cuda_driver()->cuMemcpyHtoDAsync(to, from, bytes, comm->stream),
                          "copying to the GPU");
}

/* --- opening ---------------------------------------------------------------------------------------- */

/* All of it but the board and the stream. */
static void discard_memory(struct cuda_comm *comm)
{
    cuda_comm_unmap(comm, false);
    handover_close(&comm->handover);
    cuda_block_free(comm->device, &comm->mailbox);
    cuda_pieces_forget(comm);
    for (struct cuda_extra *x = comm->extra; x; x = comm->extra) {
        comm->extra = x->next;
        cuda_block_free(comm->device, &x->block);
        free(x);
    }
    cuda_block_free(comm->device, &comm->own);
}

static void discard(struct cuda_comm *comm)
{
    discard_memory(comm);
    if (comm->board)
        cuda_pinned_free(comm->board, sizeof(*comm->board));
    if (comm->stream)
        cuda_driver()->cuStreamDestroy(comm->stream);
    cuda_overlap_close(comm->puts);
    free(comm->saved);
    free(comm);
}

static enum choir_status make_board(struct cuda_comm *comm)
{
    struct cuda_view *v = &comm->view;
    CUdeviceptr board = 0;
    void *here = NULL;
    enum choir_status st = cuda_pinned_alloc(sizeof(*comm->board), &here, &board);
    if (st != CHOIR_OK)
        return st;
    comm->board = here;
    CUresult r =
        cuda_driver()->cuStreamCreateWithPriority(&comm->stream, CU_STREAM_NON_BLOCKING, 0);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, "making a communicator's stream");
    v->guard.report =
        (struct cuda_report *)(uintptr_t)(board + offsetof(struct cuda_board, report));
    v->guard.abort = (const uint32_t *)(uintptr_t)board;
    comm->marks = (struct cuda_marks *)(uintptr_t)(board + offsetof(struct cuda_board, marks));
    return CHOIR_OK;
}

static enum choir_status clear(struct cuda_comm *comm)
{
    const struct cuda_driver *cu = cuda_driver();
    /* Flags and numbers begin at 0; the slots need not. */
    CUresult r = cu->cuMemsetD8Async(comm->mailbox.at, 0, CUDA_SLOT_AT(comm->view.ranks, 0, 0),
                                     comm->stream);
    if (r == CUDA_SUCCESS)
        r = cu->cuMemsetD8Async(comm->own.at, 0, comm->kept_bytes, comm->stream);
    return cuda_comm_wait(comm, r, "clearing a mailbox");
}

/* In the device's context, as all below. */
static enum choir_status allocate(struct cuda_comm *comm, enum cuda_way way)
{
    struct cuda_view *v = &comm->view;
    uint64_t counts = v->ranks * CUDA_LANES * sizeof(struct cuda_count);
    uint64_t staging = (uint64_t)CUDA_SLOT_LANES * CUDA_SLOT_BYTES;
    comm->way = way;
    comm->kept_bytes = (counts + sizeof(struct cuda_state) + 255) & ~255ull;
    enum choir_status st =
        cuda_block_alloc(comm->device, CUDA_MAILBOX_BYTES(v->ranks), way, true, &comm->mailbox);
    if (st == CHOIR_OK)
        st = cuda_block_alloc(comm->device, comm->kept_bytes + staging + ARENA_BYTES, way, false,
                              &comm->own);
    if (st != CHOIR_OK)
        return st;
    v->mailbox[v->rank] = (uint8_t *)(uintptr_t)comm->mailbox.at;
    v->count = (struct cuda_count *)(uintptr_t)comm->own.at;
    v->guard.state = (struct cuda_state *)(uintptr_t)(comm->own.at + counts);
    comm->staging = (uint8_t *)(uintptr_t)(comm->own.at + comm->kept_bytes);
    comm->arena = comm->own.at + comm->kept_bytes + staging;
    return clear(comm);
}

enum choir_status cuda_comm_card(struct cuda_comm *comm, struct cuda_card *card)
{
    struct cuda_card c = {.present = 1,
                          .ordinal = comm->device->gpu.ordinal,
                          .way = comm->way,
                          .address = comm->mailbox.at,
                          .bytes = comm->mailbox.bytes,
                          .room = comm->mailbox.room};
    memcpy(c.uuid, &comm->device->gpu.uuid, sizeof(c.uuid));
    c.what = cuda_gpu_hash(&comm->device->gpu);
    snprintf(c.pci, sizeof(c.pci), "%.15s", comm->device->gpu.pci);
    if (comm->way == CUDA_BY_MAPPING) {
        enum choir_status st = handover_open(&comm->handover);
        if (st != CHOIR_OK)
            return st;
        _Static_assert(sizeof(comm->handover.address) <= sizeof(c.handle), "it fits");
        memcpy(c.handle, &comm->handover.address, sizeof(comm->handover.address));
    } else {
        CUipcMemHandle handle;
        CUresult r = cuda_driver()->cuIpcGetMemHandle(&handle, comm->mailbox.at);
        if (r != CUDA_SUCCESS)
            return cuda_fail(r, "cuIpcGetMemHandle");
        _Static_assert(sizeof(handle) == sizeof(c.handle), "the handle's size");
        memcpy(c.handle, &handle, sizeof(handle));
    }
    *card = c;
    return CHOIR_OK;
}

/* By mapping if that can be, else by handle. */
static enum choir_status fill(struct cuda_comm *comm, struct cuda_card *card)
{
    enum choir_status st = make_board(comm);
    if (st != CHOIR_OK)
        return st;
    if (strcmp(knob_text(KNOB_CUDA_VMM), "off")) {
        if (cuda_share_maps(comm->device) && allocate(comm, CUDA_BY_MAPPING) == CHOIR_OK &&
            cuda_comm_card(comm, card) == CHOIR_OK)
            return CHOIR_OK;
        base_log(BASE_INFO, (int)comm->view.rank, "GPU memory is of cuMemAlloc: %s; %s",
                 base_error_thread()->text, base_error_thread()->remedy);
    }
    return cuda_comm_reopen(comm, card);
}

enum choir_status cuda_comm_reopen(struct cuda_comm *comm, struct cuda_card *card)
{
    CUstreamCaptureMode mode;
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK)
        return st;
    discard_memory(comm);
    comm->met = false;
    st = allocate(comm, CUDA_BY_HANDLE);
    if (st == CHOIR_OK)
        st = cuda_comm_card(comm, card);
    cuda_comm_end(comm, &mode);
    return st;
}

/* What was closed, is not written any more and may be freed now: that waits for kernels of its GPU, and where another rank has
 * communicators those may wait for the caller. */
static struct cuda_comm *take_closed(const struct cuda_device *device)
{
    struct cuda_comm *taken = NULL;
    pthread_mutex_lock(&lock);
    for (struct cuda_comm **at = &closed; *at;) {
        struct cuda_comm *c = *at, at_device = {.device = c->device};
        CUstreamCaptureMode mode;
        bool ours = c->device == device || !atomic_load(&c->device->comms);
        if (!ours || cuda_comm_begin(&at_device, &mode) != CHOIR_OK) {
            at = &c->next;
            continue;
        }
        bool silent = cuda_comm_silent(c, CUDA_HELLO_CLOSED) < 0;
        cuda_comm_end(&at_device, &mode);
        if (silent) {
            *at = c->next;
            c->next = taken;
            taken = c;
        } else {
            at = &c->next;
        }
    }
    pthread_mutex_unlock(&lock);
    return taken;
}

static void sweep(const struct cuda_device *device)
{
    struct cuda_comm *taken = take_closed(device);
    while (taken) {
        struct cuda_comm *c = taken, at_device = {.device = c->device};
        CUstreamCaptureMode mode;
        taken = c->next;
        if (cuda_comm_begin(&at_device, &mode) != CHOIR_OK)
            continue; /* the driver is gone, and the memory with it */
        discard(c);
        cuda_comm_end(&at_device, &mode);
    }
}

enum choir_status cuda_here(struct cuda_device **device)
{
    enum choir_status st = CHOIR_OK;
    *device = cuda_driver_in_use() ? cuda_device_current(&st) : NULL;
    return st;
}

enum choir_status cuda_comm_open(struct cuda_device *device, uint32_t rank, uint32_t ranks,
                                 uint64_t limit_ns, struct cuda_card *card, struct cuda_comm **out)
{
    CUstreamCaptureMode mode;
    *out = NULL;
    choir_assert(device && ranks <= CUDA_RANKS);
    sweep(device);
    struct cuda_comm *comm = calloc(1, sizeof(*comm)), at_device = {.device = device};
    if (!comm)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a communicator");
    *comm = (struct cuda_comm){.device = device,
                               .handover.fd = -1,
                               .view = {.rank = rank, .ranks = ranks, .guard.limit_ns = limit_ns}};
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK) {
        free(comm);
        return st;
    }
    st = fill(comm, card);
    if (st == CHOIR_OK)
        *out = comm, atomic_fetch_add(&device->comms, 1);
    else
        discard(comm);
    cuda_comm_end(&at_device, &mode);
    return st;
}

/* What the interpreter stages and the arena lie one behind the other. */
struct cuda_scratch cuda_comm_scratch(const struct cuda_comm *comm)
{
    _Static_assert(CUDA_SCRATCH_OUT + CUDA_SCRATCH_IN <=
                       CUDA_SLOT_LANES * CUDA_SLOT_BYTES + ARENA_BYTES,
                   "there is so much");
    choir_assert(!comm->arena_used);
    return (struct cuda_scratch){.out = comm->staging, .in = comm->staging + CUDA_SCRATCH_OUT};
}

/* --- life -------------------------------------------------------------------------------------------- */

void cuda_comm_abort(struct cuda_comm *comm)
{
    __atomic_store_n(&comm->board->abort, 1u, __ATOMIC_RELEASE);
}

bool cuda_comm_fault(const struct cuda_comm *comm, struct cuda_report *report)
{
    if (!__atomic_load_n(&comm->board->report.code,
                         __ATOMIC_ACQUIRE)) /* pairs with fault() in kernels */
        return false;
    const struct cuda_report *r =
        &comm->board->report; /* other kernels may still say for whom they wait */
    *report = (struct cuda_report){.code = r->code,
                                   .peer = r->peer,
                                   .lane = r->lane,
                                   .signature = r->signature,
                                   .number = r->number,
                                   .seen = r->seen};
    return true;
}

bool cuda_comm_waiting(const struct cuda_comm *comm, uint32_t *peer, uint32_t *tick)
{
    const struct cuda_report *r = &comm->board->report;
    uint32_t waiting = __atomic_load_n(&r->waiting, __ATOMIC_RELAXED);
    *tick = __atomic_load_n(&r->tick, __ATOMIC_RELAXED);
    *peer = waiting - 1;
    return waiting && *peer < comm->view.ranks;
}

int cuda_comm_ordinal(const struct cuda_comm *comm)
{
    return comm->device->gpu.ordinal;
}

uint64_t cuda_comm_bytes(const struct cuda_comm *comm)
{
    return comm->suspended ? 0 : comm->mailbox.bytes + comm->own.bytes;
}

enum cuda_way cuda_comm_way(const struct cuda_comm *comm)
{
    return comm->way;
}

enum choir_status cuda_comm_quiesce(struct cuda_comm *comm)
{
    CUstreamCaptureMode mode;
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK)
        return st; /* the driver is gone, and with it what ran */
    CUresult r = cuda_driver()->cuCtxSynchronize();
    cuda_comm_end(comm, &mode);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "cuCtxSynchronize");
}

void cuda_comm_close(struct cuda_comm *comm)
{
    CUstreamCaptureMode mode;
    struct cuda_comm at_device;
    if (!comm || cuda_comm_begin(comm, &mode) != CHOIR_OK)
        return;
    at_device.device = comm->device;
    atomic_fetch_sub(&comm->device->comms, 1);
    if (comm->met && comm->view.ranks > 1) {
        if (!comm->saved) /* else others' memory may be gone */
            cuda_comm_say(comm, CUDA_HELLO_CLOSED);
        pthread_mutex_lock(&lock);
        comm->next = closed;
        closed = comm;
        pthread_mutex_unlock(&lock);
    } else {
        discard(comm);
    }
    cuda_comm_end(&at_device, &mode);
    sweep(at_device.device);
}
