/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meet.c: how the ranks of a communicator map each other's mailboxes. Ranks of one process use each other's addresses; others open
 * a handle, or import a descriptor that the owner has left with them. A path counts once a word has come over it.
 */
#include "cuda/mailbox.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* --- words in mailboxes ---------------------------------------------------------------------------------- */

static uint64_t hello(enum cuda_hello word, uint32_t from, uint32_t to)
{
    return 0x68656c6c00000000ull | (uint64_t)word << 16 | from << 8 | to;
}

static CUdeviceptr hello_at(const struct cuda_view *v, uint32_t owner, uint32_t from)
{
    return (CUdeviceptr)(uintptr_t)v->mailbox[owner] + CUDA_POST_AT(v->ranks, from, 0) +
           offsetof(struct cuda_post, hello);
}

/* Into every mailbox that is mapped here. */
enum choir_status cuda_comm_say(struct cuda_comm *comm, enum cuda_hello word)
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
    return cuda_comm_wait(comm, r, "writing into the memory of another GPU");
}

/* Who has closed again has moved words here, too. */
int cuda_comm_silent(struct cuda_comm *comm, enum cuda_hello word)
{
    struct cuda_view *v = &comm->view;
    uint64_t heard[CUDA_RANKS];
    CUresult r = CUDA_SUCCESS;
    for (uint32_t p = 0; p < v->ranks && r == CUDA_SUCCESS; p++)
        r = cuda_driver()->cuMemcpyDtoHAsync(&heard[p], hello_at(v, v->rank, p), sizeof(heard[p]),
                                             comm->stream);
    if (cuda_comm_wait(comm, r, "reading the mailbox") != CHOIR_OK)
        return (int)v->rank;
    for (uint32_t p = 0; p < v->ranks; p++)
        if (p != v->rank && heard[p] != hello(word, p, v->rank) &&
            heard[p] != hello(CUDA_HELLO_CLOSED, p, v->rank))
            return (int)p;
    return -1;
}

/* --- offering ---------------------------------------------------------------------------------------------- */

static enum choir_status check_reach(const struct cuda_device *from, const struct cuda_device *to,
                                     uint32_t rank)
{
    int can = 0;
    CUresult r = cuda_driver()->cuDeviceCanAccessPeer(&can, from->gpu.device, to->gpu.device);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, "cuDeviceCanAccessPeer");
    return can ? CHOIR_OK
               : base_fail(CHOIR_ERR_UNSUPPORTED, "choir-info shows which GPUs reach which",
                           "GPU %d does not reach GPU %d of rank %u", from->gpu.ordinal,
                           to->gpu.ordinal, rank);
}

/* The GPU of another rank of this process, at the same address. */
static enum choir_status allow(struct cuda_comm *comm, const struct cuda_card *card, uint32_t rank)
{
    enum choir_status st = CHOIR_OK;
    if (card->ordinal == comm->device->gpu.ordinal)
        return CHOIR_OK;
    const struct cuda_device *other = cuda_device_at(card->ordinal, &st);
    if (other)
        st = check_reach(other, comm->device, rank);
    return st == CHOIR_OK ? cuda_block_allow(&comm->mailbox, other->gpu.device) : st;
}

static enum choir_status give(struct cuda_comm *comm, const struct cuda_card *card,
                              const bool *same_process)
{
    struct cuda_view *v = &comm->view;
    struct handover_address to;
    int fd = -1;
    enum choir_status st = cuda_block_export(&comm->mailbox, &fd);
    if (st != CHOIR_OK)
        return st;
    for (uint32_t p = 0; p < v->ranks && st == CHOIR_OK; p++) {
        memcpy(&to, card[p].handle, sizeof(to));
        if (!same_process[p])
            st = handover_give(&to, v->rank, fd);
    }
    close(fd);
    return st;
}

enum choir_status cuda_comm_offer(struct cuda_comm *comm, const struct cuda_card *card,
                                  const bool *same_process)
{
    struct cuda_view *v = &comm->view;
    CUstreamCaptureMode mode;
    bool others = false;
    if (comm->way != CUDA_BY_MAPPING) /* there is nothing to do: who has the handle opens it */
        return CHOIR_OK;
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK)
        return st;
    for (uint32_t p = 0; p < v->ranks && st == CHOIR_OK; p++) {
        if (same_process[p])
            st = allow(comm, &card[p], p);
        others |= !same_process[p];
    }
    if (st == CHOIR_OK && others)
        st = give(comm, card, same_process);
    cuda_comm_end(comm, &mode);
    return st;
}

/* --- mapping ------------------------------------------------------------------------------------------------ */

/* A rank of this process: its address is ours, if our GPU reaches its. */
static enum choir_status reach(struct cuda_comm *comm, const struct cuda_card *card, uint32_t rank)
{
    enum choir_status st;
    if (card->ordinal != comm->device->gpu.ordinal) {
        struct cuda_device *other = cuda_device_at(card->ordinal, &st);
        if (!other)
            return st;
        st = check_reach(comm->device, other, rank);
        if (st != CHOIR_OK)
            return st;
        /* By mapping its owner has set access to the mailbox; windows (window.c) need it to all memory of cudaMalloc. */
        CUresult r = cuda_driver()->cuCtxEnablePeerAccess(other->context, 0);
        if (r != CUDA_SUCCESS && r != CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)
            return cuda_fail(r, "cuCtxEnablePeerAccess");
    }
    comm->view.mailbox[rank] = (uint8_t *)(uintptr_t)card->address;
    return CHOIR_OK;
}

static enum choir_status open_handle(struct cuda_comm *comm, const struct cuda_card *card,
                                     uint32_t rank)
{
    CUipcMemHandle handle;
    char what[80];
    memcpy(&handle, card->handle, sizeof(handle));
    CUresult r = cuda_driver()->cuIpcOpenMemHandle(&comm->opened[rank], handle,
                                                   CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
    snprintf(what, sizeof(what), "cuIpcOpenMemHandle of the memory of rank %u's GPU", rank);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, what);
    comm->view.mailbox[rank] = (uint8_t *)(uintptr_t)comm->opened[rank];
    return CHOIR_OK;
}

static enum choir_status import(struct cuda_comm *comm, const struct cuda_card *card, uint32_t rank,
                                int fd)
{
    struct cuda_block *b = &comm->mapped[rank];
    if (fd < 0)
        return base_fail(CHOIR_ERR_SYSTEM, "see the log of that rank",
                         "the descriptor of rank %u's GPU memory has not come", rank);
    enum choir_status st = cuda_block_import(comm->device, fd, card->room, b);
    if (st == CHOIR_OK)
        comm->view.mailbox[rank] = (uint8_t *)(uintptr_t)b->at;
    return st;
}

static enum choir_status map(struct cuda_comm *comm, const struct cuda_card *card,
                             const bool *same_process, const int *fd)
{
    struct cuda_view *v = &comm->view;
    enum choir_status st = CHOIR_OK;
    for (uint32_t p = 0; p < v->ranks && st == CHOIR_OK; p++) {
        if (p == v->rank)
            continue;
        if (card[p].bytes != comm->mailbox.bytes)
            st =
                base_fail(CHOIR_ERR_PROTOCOL, "use one version of the library on all ranks",
                          "rank %u's mailbox has %llu bytes", p, (unsigned long long)card[p].bytes);
        else if (same_process[p])
            st = reach(comm, &card[p], p);
        else
            st = comm->way == CUDA_BY_MAPPING ? import(comm, &card[p], p, fd[p])
                                              : open_handle(comm, &card[p], p);
    }
    return st;
}

enum choir_status cuda_comm_meet(struct cuda_comm *comm, const struct cuda_card *card,
                                 const bool *same_process)
{
    CUstreamCaptureMode mode;
    int fd[CUDA_RANKS];
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK)
        return st;
    handover_take(&comm->handover, comm->view.ranks, fd);
    handover_close(&comm->handover);
    st = map(comm, card, same_process, fd);
    for (uint32_t p = 0; p < comm->view.ranks; p++)
        if (fd[p] >= 0)
            close(fd[p]);
    if (st == CHOIR_OK)
        st = cuda_comm_say(comm, CUDA_HELLO_MOVED);
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
    int rank = cuda_comm_silent(comm, CUDA_HELLO_MOVED);
    cuda_comm_end(comm, &mode);
    if (rank >= 0)
        return base_fail(CHOIR_ERR_INTERNAL, "look at the driver's log (dmesg)",
                         "what rank %d wrote into the memory of GPU %d has not come", rank,
                         comm->device->gpu.ordinal);
    return CHOIR_OK;
}

enum choir_status cuda_comm_unmap(struct cuda_comm *comm, bool stays)
{
    enum choir_status st = CHOIR_OK;
    for (uint32_t p = 0; p < CUDA_RANKS; p++) {
        CUresult r = CUDA_SUCCESS;
        if (comm->opened[p])
            r = cuda_driver()->cuIpcCloseMemHandle(comm->opened[p]);
        comm->opened[p] = 0;
        enum choir_status one = r == CUDA_SUCCESS ? cuda_block_unimport(&comm->mapped[p], stays)
                                                  : cuda_fail(r, "cuIpcCloseMemHandle");
        st = st == CHOIR_OK ? one : st;
        if (!stays && p != comm->view.rank)
            comm->view.mailbox[p] = NULL;
    }
    return st;
}
