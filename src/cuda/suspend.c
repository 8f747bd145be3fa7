/* SPDX-License-Identifier: Apache-2.0 */
/*
 * suspend.c: giving a communicator's GPU memory back, and taking it again at the same addresses, which captured graphs know. What has
 * to last is copied to host memory: the words by which ranks say what they have sent and read, the numbers of messages, and
 * plans. Data in mailboxes has been read by then, so buffers only have to hold no flag that could pass for a new one.
 */
#include "cuda/mailbox.h"
#include <stdlib.h>
#include <string.h>

/* Flags of so many messages to come must not be in a buffer: by then the kernels themselves have filled it (exchange.cuh). */
#define FLAGS_AHEAD (1u << 17)

/* Calls fn for each range of GPU memory that lasts. */
static CUresult each_range(struct cuda_comm *comm,
                           CUresult (*fn)(struct cuda_comm *, CUdeviceptr, uint8_t *, uint64_t),
                           uint8_t *host, uint64_t *bytes)
{
    uint64_t arena = comm->arena_used, posts = CUDA_POST_AT(comm->view.ranks, comm->view.ranks, 0);
    const struct {
        CUdeviceptr at;
        uint64_t bytes;
    } range[] = {{comm->own.at, comm->kept_bytes}, {comm->mailbox.at, posts}, {comm->arena, arena}};
    CUresult r = CUDA_SUCCESS;
    *bytes = 0;
    for (size_t i = 0; i < base_count(range) && r == CUDA_SUCCESS; i++) {
        r = fn && range[i].bytes ? fn(comm, range[i].at, host + *bytes, range[i].bytes) : r;
        *bytes += range[i].bytes;
    }
    for (struct cuda_extra *x = comm->extra; x && r == CUDA_SUCCESS; x = x->next) {
        r = fn ? fn(comm, x->block.at, host + *bytes, x->used) : r;
        *bytes += x->used;
    }
    return r;
}

static CUresult to_host(struct cuda_comm *comm, CUdeviceptr at, uint8_t *host, uint64_t bytes)
{
    return cuda_driver()->cuMemcpyDtoHAsync(host, at, bytes, comm->stream);
}

static CUresult to_gpu(struct cuda_comm *comm, CUdeviceptr at, uint8_t *host, uint64_t bytes)
{
    return cuda_driver()->cuMemcpyHtoDAsync(at, host, bytes, comm->stream);
}

static void count(const struct cuda_view *v, const struct cuda_count *n, struct cuda_tally *tally)
{
    memset(tally, 0, sizeof(*tally));
    for (uint32_t p = 0; p < v->ranks; p++)
        for (uint32_t lane = 0; lane < CUDA_LANES; lane++, n++) {
            tally->sent[p] += n->ll_sent + n->sent;
            tally->received[p] += n->ll_received + n->received;
        }
}

enum choir_status cuda_comm_rest(struct cuda_comm *comm, struct cuda_tally *tally)
{
    CUstreamCaptureMode mode;
    uint64_t bytes;
    enum choir_status st = cuda_comm_quiesce(comm);
    if (st != CHOIR_OK)
        return st;
    each_range(comm, NULL, NULL, &bytes);
    uint8_t *saved = malloc(bytes);
    if (!saved)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory",
                         "no memory for %llu bytes of a suspended communicator",
                         (unsigned long long)bytes);
    st = cuda_comm_begin(comm, &mode);
    if (st == CHOIR_OK) { /* only kernels of its own write them */
        CUresult r = to_host(comm, comm->own.at, saved, comm->kept_bytes);
        st = cuda_comm_wait(comm, r, "reading numbers of messages");
        cuda_comm_end(comm, &mode);
    }
    if (st != CHOIR_OK) {
        free(saved);
        return st;
    }
    count(&comm->view, (const void *)saved, tally);
    comm->saved = saved;
    comm->saved_bytes = bytes;
    return CHOIR_OK;
}

void cuda_comm_forget(struct cuda_comm *comm)
{
    free(comm->saved);
    comm->saved = NULL;
    comm->saved_bytes = 0;
}

uint64_t cuda_comm_saved(const struct cuda_comm *comm)
{
    return comm->saved_bytes;
}

uint64_t cuda_comm_suspended(const struct cuda_comm *comm)
{
    uint64_t bytes = comm->mailbox.room + comm->own.room;
    for (const struct cuda_extra *x = comm->extra; x; x = x->next)
        bytes += x->block.room;
    return comm->suspended ? bytes : 0;
}

/* The next of the blocks; NULL at first, and at last. */
static struct cuda_block *next_block(struct cuda_comm *comm, const struct cuda_block *last,
                                     struct cuda_extra **extra)
{
    if (!last)
        return &comm->mailbox;
    if (last == &comm->mailbox)
        return &comm->own;
    *extra = last == &comm->own ? comm->extra : (*extra)->next;
    return *extra ? &(*extra)->block : NULL;
}

/* In the context. */
static enum choir_status empty(struct cuda_comm *comm)
{
    struct cuda_extra *x = NULL;
    enum choir_status st = cuda_comm_unmap(comm, true);
    handover_close(&comm->handover);
    for (struct cuda_block *b = NULL; (b = next_block(comm, b, &x));) {
        enum choir_status one = cuda_block_empty(comm->device, b);
        st = st == CHOIR_OK ? one : st;
    }
    return st;
}

enum choir_status cuda_comm_release(struct cuda_comm *comm)
{
    CUstreamCaptureMode mode;
    uint64_t bytes;
    choir_assert(comm->way == CUDA_BY_MAPPING && comm->saved);
    comm->met = false; /* nobody writes from now on */
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK)
        return st;
    CUresult r = each_range(comm, to_host, comm->saved, &bytes);
    st = cuda_comm_wait(comm, r, "copying a communicator's memory to the host");
    choir_assert(bytes == comm->saved_bytes || r != CUDA_SUCCESS);
    if (st == CHOIR_OK)
        st = empty(comm);
    comm->suspended = st == CHOIR_OK;
    cuda_comm_end(comm, &mode);
    return st;
}

/* A word that is the flag of no message that is soon to come. */
uint32_t cuda_suspend_flag(const struct cuda_count *count, uint32_t n)
{
    for (uint32_t flag = 0;; flag += FLAGS_AHEAD) { /* each lane rules out two at most */
        uint32_t i = 0;
        while (i < n && flag - (count[i].ll_received + 1) >= FLAGS_AHEAD)
            i++;
        if (i == n)
            return flag;
    }
}

/* A word of before must not pass for one that is still to be said. */
static void unsay(struct cuda_comm *comm)
{
    for (uint32_t p = 0; p < comm->view.ranks; p++)
        memset(comm->saved + comm->kept_bytes + CUDA_POST_AT(comm->view.ranks, p, 0) +
                   offsetof(struct cuda_post, hello),
               0, sizeof(uint64_t));
}

static enum choir_status load(struct cuda_comm *comm)
{
    const struct cuda_view *v = &comm->view;
    uint64_t bytes, from = CUDA_LL_AT(v->ranks, 0, 0), to = CUDA_SLOT_AT(v->ranks, 0, 0);
    _Static_assert(CUDA_RANKS * CUDA_LANES < UINT32_MAX / FLAGS_AHEAD / 2, "a flag is found");
    uint32_t flag = cuda_suspend_flag((const void *)comm->saved, v->ranks * CUDA_LANES);
    unsay(comm);
    CUresult r = cuda_driver()->cuMemsetD32Async(comm->mailbox.at + from, flag, (to - from) / 4,
                                                 comm->stream);
    if (r == CUDA_SUCCESS)
        r = each_range(comm, to_gpu, comm->saved, &bytes);
    return cuda_comm_wait(comm, r, "copying a communicator's memory to the GPU");
}

enum choir_status cuda_comm_restore(struct cuda_comm *comm, struct cuda_card *card)
{
    CUstreamCaptureMode mode;
    struct cuda_extra *x = NULL;
    choir_assert(comm->suspended && comm->saved);
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK)
        return st;
    for (struct cuda_block *b = NULL; st == CHOIR_OK && (b = next_block(comm, b, &x));)
        st = cuda_block_fill(comm->device, b);
    if (st == CHOIR_OK)
        st = load(comm);
    if (st == CHOIR_OK)
        st = cuda_comm_card(comm, card);
    if (st == CHOIR_OK)
        comm->suspended = false;
    else
        empty(comm); /* the record stays as it is unless that fails too */
    cuda_comm_end(comm, &mode);
    return st;
}
