/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mailbox.c: the memory that the ranks of a host share on their GPUs: each has a mailbox, which the others write into. It is
 * allocated and mapped when a communicator is created, so that no operation ever waits for memory. Ranks of one process
 * use each other's addresses, others open a handle. A path counts once a word has come over it.
 *
 * A peer may write into the mailbox until it has closed its own side, which it says by its last hello. A mailbox
 * closed before waits on a list, and is freed when another is opened or closed, or never: at the process's end.
 */
#include "cuda/mailbox.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELLO_MOVED 0x68656c6c6f000000u
#define HELLO_CLOSED 0x636c6f7365000000u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cuda_comm *closed;

static uint64_t hello(uint64_t word, uint32_t from, uint32_t to)
{
    return word | from << 8 | to;
}

enum choir_status cuda_comm_begin(struct cuda_comm *comm, CUstreamCaptureMode *mode)
{
    enum choir_status st = cuda_device_enter(comm->device);
    *mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    if (st == CHOIR_OK)
        cuda_driver()->cuThreadExchangeStreamCaptureMode(mode);
    return st;
}

void cuda_comm_end(struct cuda_comm *comm, CUstreamCaptureMode *mode)
{
    cuda_driver()->cuThreadExchangeStreamCaptureMode(mode);
    cuda_device_leave(comm->device);
}

static enum choir_status wait(struct cuda_comm *comm, CUresult r, const char *what)
{
    if (r == CUDA_SUCCESS)
        r = cuda_driver()->cuStreamSynchronize(comm->stream);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, what);
}

enum choir_status cuda_comm_upload(struct cuda_comm *comm, CUdeviceptr to, const void *from,
                                   uint64_t bytes)
{
    return wait(comm, cuda_driver()->cuMemcpyHtoDAsync(to, from, bytes, comm->stream),
                "copying to the GPU");
}

static CUdeviceptr hello_at(const struct cuda_view *v, uint32_t owner, uint32_t from)
{
    return (CUdeviceptr)(uintptr_t)v->mailbox[owner] + CUDA_POST_AT(v->ranks, from, 0) +
           offsetof(struct cuda_post, hello);
}

/* Writes a word into every mailbox that is mapped here. */
static enum choir_status say(struct cuda_comm *comm, uint64_t word)
{
    const struct cuda_driver *cu = cuda_driver();
    struct cuda_view *v = &comm->view;
    CUresult r = CUDA_SUCCESS;
    uint64_t said[CUDA_RANKS];
    for (uint32_t p = 0; p < v->ranks && r == CUDA_SUCCESS; p++) {
        said[p] = hello(word, v->rank, p);
        if (v->mailbox[p])
            r = cu->cuMemcpyHtoDAsync(hello_at(v, p, v->rank), &said[p], sizeof(said[p]),
                                      comm->stream);
    }
    return wait(comm, r, "writing into the memory of another GPU");
}

/* The first rank whose word is not in the own mailbox, or -1. Who has closed again has moved words here, too. */
static int silent(struct cuda_comm *comm, uint64_t word)
{
    struct cuda_view *v = &comm->view;
    uint64_t heard[CUDA_RANKS];
    CUresult r = CUDA_SUCCESS;
    for (uint32_t p = 0; p < v->ranks && r == CUDA_SUCCESS; p++)
        r = cuda_driver()->cuMemcpyDtoHAsync(&heard[p], hello_at(v, v->rank, p), sizeof(heard[p]),
                                             comm->stream);
    if (wait(comm, r, "reading the mailbox") != CHOIR_OK)
        return (int)v->rank;
    for (uint32_t p = 0; p < v->ranks; p++)
        if (p != v->rank && heard[p] != hello(word, p, v->rank) &&
            heard[p] != hello(HELLO_CLOSED, p, v->rank))
            return (int)p;
    return -1;
}

/* --- opening ---------------------------------------------------------------------------------------- */

static void discard(struct cuda_comm *comm)
{
    const struct cuda_driver *cu = cuda_driver();
    for (uint32_t p = 0; p < CUDA_RANKS; p++)
        if (comm->mapped[p])
            cu->cuIpcCloseMemHandle(comm->mapped[p]);
    if (comm->mailbox)
        cuda_device_free(comm->device, comm->mailbox, comm->mailbox_bytes);
    for (struct cuda_retired *r = comm->retired; r; r = comm->retired) {
        comm->retired = r->next;
        cuda_device_free(comm->device, r->memory, r->bytes);
        free(r);
    }
    if (comm->private_memory)
        cuda_device_free(comm->device, comm->private_memory, comm->private_bytes);
    if (comm->board)
        cu->cuMemFreeHost(comm->board);
    if (comm->stream)
        cu->cuStreamDestroy(comm->stream);
    free(comm);
}

/* In the device's context. */
static enum choir_status allocate(struct cuda_comm *comm)
{
    const struct cuda_driver *cu = cuda_driver();
    struct cuda_view *v = &comm->view;
    uint64_t counts = v->ranks * CUDA_LANES * sizeof(struct cuda_count);
    comm->mailbox_bytes = CUDA_MAILBOX_BYTES(v->ranks);
    uint64_t zeroed = (counts + sizeof(struct cuda_state) + 255) & ~255ull;
    uint64_t staging = (uint64_t)CUDA_SLOT_LANES * CUDA_SLOT_BYTES;
    comm->private_bytes = zeroed + staging + ARENA_BYTES;
    enum choir_status st = cuda_device_alloc(comm->device, comm->mailbox_bytes, &comm->mailbox);
    if (st == CHOIR_OK)
        st = cuda_device_alloc(comm->device, comm->private_bytes, &comm->private_memory);
    if (st != CHOIR_OK)
        return st;
    CUresult r = cu->cuMemHostAlloc((void **)&comm->board, sizeof(*comm->board),
                                    CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
    CUdeviceptr board = 0;
    if (r == CUDA_SUCCESS)
        r = cu->cuMemHostGetDevicePointer(&board, comm->board, 0);
    if (r == CUDA_SUCCESS)
        r = cu->cuStreamCreateWithPriority(&comm->stream, CU_STREAM_NON_BLOCKING, 0);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, "making a communicator's board");
    memset(comm->board, 0, sizeof(*comm->board));
    v->mailbox[v->rank] = (uint8_t *)(uintptr_t)comm->mailbox;
    v->count = (struct cuda_count *)(uintptr_t)comm->private_memory;
    v->guard.state = (struct cuda_state *)(uintptr_t)(comm->private_memory + counts);
    v->guard.report =
        (struct cuda_report *)(uintptr_t)(board + offsetof(struct cuda_board, report));
    v->guard.abort = (const uint32_t *)(uintptr_t)board;
    comm->marks = (struct cuda_marks *)(uintptr_t)(board + offsetof(struct cuda_board, marks));
    /* Flags and numbers begin at 0; the slots need not. */
    comm->staging = (uint8_t *)(uintptr_t)(comm->private_memory + zeroed);
    comm->arena = comm->private_memory + zeroed + staging;
    r = cu->cuMemsetD8Async(comm->mailbox, 0, CUDA_SLOT_AT(v->ranks, 0, 0), comm->stream);
    if (r == CUDA_SUCCESS)
        r = cu->cuMemsetD8Async(comm->private_memory, 0, zeroed, comm->stream);
    return wait(comm, r, "clearing a mailbox");
}

static enum choir_status fill_card(struct cuda_comm *comm, struct cuda_card *card)
{
    CUipcMemHandle handle;
    CUresult r = cuda_driver()->cuIpcGetMemHandle(&handle, comm->mailbox);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, "cuIpcGetMemHandle");
    *card = (struct cuda_card){.present = 1,
                               .ordinal = comm->device->gpu.ordinal,
                               .address = comm->mailbox,
                               .bytes = comm->mailbox_bytes};
    _Static_assert(sizeof(handle) == sizeof(card->handle), "the handle's size");
    memcpy(card->handle, &handle, sizeof(handle));
    memcpy(card->uuid, &comm->device->gpu.uuid, sizeof(card->uuid));
    card->what = cuda_gpu_hash(&comm->device->gpu);
    snprintf(card->pci, sizeof(card->pci), "%.15s", comm->device->gpu.pci);
    return CHOIR_OK;
}

/* Frees what was closed and is not written any more. */
static void sweep(void)
{
    pthread_mutex_lock(&lock);
    for (struct cuda_comm **at = &closed; *at;) {
        struct cuda_comm *c = *at, at_device = {.device = c->device};
        CUstreamCaptureMode mode;
        if (cuda_comm_begin(&at_device, &mode) != CHOIR_OK)
            break;
        if (silent(c, HELLO_CLOSED) < 0) {
            *at = c->next;
            discard(c);
        } else {
            at = &c->next;
        }
        cuda_comm_end(&at_device, &mode);
    }
    pthread_mutex_unlock(&lock);
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
    sweep();
    struct cuda_comm *comm = calloc(1, sizeof(*comm)), at_device = {.device = device};
    if (!comm)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a communicator");
    *comm = (struct cuda_comm){.device = device,
                               .view = {.rank = rank, .ranks = ranks, .guard.limit_ns = limit_ns}};
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK) {
        free(comm);
        return st;
    }
    st = allocate(comm);
    if (st == CHOIR_OK)
        st = fill_card(comm, card);
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

/* --- meeting ---------------------------------------------------------------------------------------- */

/* A rank of this process: its address is ours, if our GPU reaches its. */
static enum choir_status reach(struct cuda_comm *comm, const struct cuda_card *card, uint32_t rank)
{
    const struct cuda_driver *cu = cuda_driver();
    enum choir_status st;
    int can = 0;
    if (card->ordinal != comm->device->gpu.ordinal) {
        struct cuda_device *other = cuda_device_at(card->ordinal, &st);
        if (!other)
            return st;
        CUresult r = cu->cuDeviceCanAccessPeer(&can, comm->device->gpu.device, other->gpu.device);
        if (r == CUDA_SUCCESS && can) {
            r = cu->cuCtxEnablePeerAccess(other->context, 0);
            r = r == CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED ? CUDA_SUCCESS : r;
        }
        if (r != CUDA_SUCCESS)
            return cuda_fail(r, "cuCtxEnablePeerAccess");
        if (!can)
            return base_fail(CHOIR_ERR_UNSUPPORTED, "choir-info shows which GPUs reach which",
                             "GPU %d does not reach GPU %d of rank %u", comm->device->gpu.ordinal,
                             card->ordinal, rank);
    }
    comm->view.mailbox[rank] = (uint8_t *)(uintptr_t)card->address;
    return CHOIR_OK;
}

static enum choir_status open_handle(struct cuda_comm *comm, const struct cuda_card *card,
                                     uint32_t rank)
{
    CUipcMemHandle handle;
    char what[64];
    memcpy(&handle, card->handle, sizeof(handle));
    CUresult r = cuda_driver()->cuIpcOpenMemHandle(&comm->mapped[rank], handle,
                                                   CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
    snprintf(what, sizeof(what), "opening the memory of rank %u's GPU", rank);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, what);
    comm->view.mailbox[rank] = (uint8_t *)(uintptr_t)comm->mapped[rank];
    return CHOIR_OK;
}

enum choir_status cuda_comm_meet(struct cuda_comm *comm, const struct cuda_card *card,
                                 const bool *same_process)
{
    struct cuda_view *v = &comm->view;
    CUstreamCaptureMode mode;
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK)
        return st;
    for (uint32_t p = 0; p < v->ranks && st == CHOIR_OK; p++) {
        if (p == v->rank)
            continue;
        if (card[p].bytes != comm->mailbox_bytes)
            st =
                base_fail(CHOIR_ERR_PROTOCOL, "use one version of the library on all ranks",
                          "rank %u's mailbox has %llu bytes", p, (unsigned long long)card[p].bytes);
        else
            st = same_process[p] ? reach(comm, &card[p], p) : open_handle(comm, &card[p], p);
    }
    if (st == CHOIR_OK)
        st = say(comm, HELLO_MOVED);
    comm->met = st == CHOIR_OK;
    cuda_comm_end(comm, &mode);
    return st;
}

enum choir_status cuda_comm_prove(struct cuda_comm *comm)
{
    CUstreamCaptureMode mode;
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK)
        return st;
    int rank = silent(comm, HELLO_MOVED);
    cuda_comm_end(comm, &mode);
    if (rank >= 0)
        return base_fail(CHOIR_ERR_INTERNAL, "look at the driver's log (dmesg)",
                         "what rank %d wrote into the memory of GPU %d has not come", rank,
                         comm->device->gpu.ordinal);
    return CHOIR_OK;
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
    *report = comm->board->report;
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
    return comm->mailbox_bytes + comm->private_bytes;
}

void cuda_comm_quiesce(struct cuda_comm *comm)
{
    CUstreamCaptureMode mode;
    if (cuda_comm_begin(comm, &mode) != CHOIR_OK)
        return; /* the driver is gone, and with it what ran */
    cuda_driver()->cuCtxSynchronize();
    cuda_comm_end(comm, &mode);
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
        say(comm, HELLO_CLOSED);
        pthread_mutex_lock(&lock);
        comm->next = closed;
        closed = comm;
        pthread_mutex_unlock(&lock);
    } else {
        discard(comm);
    }
    cuda_comm_end(&at_device, &mode);
    sweep();
}
