/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window_device.c: windows in GPU memory, and one-sided operations on CUDA streams: where all ranks' GPUs map each other. Parts are
 * mapped when the window is created, by all ranks or by none.
 */
#include "comm/gpu.h"
#include "comm/observe.h"
#include "comm/window.h"
#include <stdlib.h>

enum choir_status window_gpu_describe(struct choir_comm *c, const void *memory, uint64_t bytes,
                                      struct window_card *card)
{
    struct cuda_pointer at;
    enum choir_status st = device_where(c, memory, "memory", &at);
    if (st != CHOIR_OK || at.where != CUDA_DEVICE)
        return st;
    card->where = WINDOW_STAGED;
    if (!device_gpu(c))
        return CHOIR_OK;
    st = cuda_part_describe(device_gpu(c), memory, bytes, &card->gpu);
    card->where = st == CHOIR_OK ? WINDOW_GPU : WINDOW_SEALED;
    return st == CHOIR_OK || st == CHOIR_ERR_UNSUPPORTED ? CHOIR_OK : comm_take_error(c, st);
}

static enum choir_status refuse(struct choir_comm *c, uint32_t rank, uint32_t where)
{
    if (where == WINDOW_STAGED)
        return comm_fail(c, CHOIR_ERR_UNSUPPORTED,
                         "use host memory, or ranks whose GPUs map each other (see the log)",
                         "rank %u's part is GPU memory, which goes through the host here", rank);
    return comm_fail(c, CHOIR_ERR_UNSUPPORTED, "pass memory of cudaMalloc",
                     "rank %u's part is GPU memory that other processes cannot map (of cuMemMap, "
                     "or of a pool)",
                     rank);
}

static enum choir_status map_parts(struct choir_window *w)
{
    struct choir_comm *c = w->comm;
    enum choir_status st = CHOIR_OK;
    for (uint32_t r = 0; r < c->host.size && st == CHOIR_OK; r++)
        if (w->card[r].where == WINDOW_GPU)
            st = cuda_part_map(device_gpu(c), &w->card[r].gpu, r, window_same_process(w, r),
                               &w->gpu[r].memory, &w->gpu[r].opened);
    return st == CHOIR_OK ? st : comm_take_error(c, st);
}

/* Who could not map them says why itself. */
static enum choir_status all_mapped(struct choir_comm *c, enum choir_status mine)
{
    struct tree_answers x;
    int32_t word = mine;
    struct choir_error why = *base_error_thread();
    enum choir_status st = window_agree(c, &word, sizeof(word), sizeof(word), &x);
    for (uint32_t r = 0; r < c->host.size && st == CHOIR_OK && mine == CHOIR_OK; r++)
        if (*(const int32_t *)x.blob[r])
            st = comm_fail(c, CHOIR_ERR_UNSUPPORTED, "see that rank's error",
                           "rank %u could not map the parts of a window", r);
    tree_answers_free(&x);
    if (mine == CHOIR_OK || st != CHOIR_OK)
        return st;
    *base_error_thread() = why;
    return comm_take_error(c, mine);
}

enum choir_status window_gpu_open(struct choir_window *w)
{
    struct choir_comm *c = w->comm;
    bool any = false;
    for (uint32_t r = 0; r < c->host.size; r++) {
        if (w->card[r].where > WINDOW_GPU)
            return refuse(c, r, w->card[r].where);
        any |= w->card[r].where == WINDOW_GPU;
    }
    if (!any)
        return CHOIR_OK;
    w->gpu = calloc(c->host.size, sizeof(*w->gpu));
    enum choir_status st =
        w->gpu ? map_parts(w)
               : comm_fail(c, CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a window");
    return all_mapped(c, st);
}

void window_gpu_close(struct choir_window *w)
{
    for (uint32_t r = 0; w->gpu && r < w->comm->host.size; r++)
        cuda_part_unmap(device_gpu(w->comm), w->gpu[r].opened);
    free(w->gpu);
}

/* --- operations ------------------------------------------------------------------------------------------- */

enum choir_status device_side_check(struct choir_comm *c, const struct comm_side *s)
{
    if (!device_gpu(c))
        return comm_fail(c, CHOIR_ERR_UNSUPPORTED, "use host memory and host streams",
                         "%s on a CUDA stream, and GPU memory goes through the host here",
                         side_name(s));
    if (s->bytes && s->window->card[s->peer].where != WINDOW_GPU)
        return comm_fail(c, CHOIR_ERR_UNSUPPORTED,
                         "put host memory, without a stream or on a stream of choir_stream_create",
                         "rank %d's part is host memory, and the call is one of a GPU", s->peer);
    for (uint32_t i = 0; i < s->count; i++)
        if (s->wait[i].count > INT32_MAX)
            return comm_fail(c, CHOIR_ERR_COUNT, "wait on a CUDA stream for less than 2^31 at once",
                             "%llu signals of rank %d", (unsigned long long)s->wait[i].count,
                             s->wait[i].peer);
    return CHOIR_OK;
}

static enum choir_status put_and_raise(struct choir_comm *c, const struct comm_side *s,
                                       struct CUstream_st *stream)
{
    enum choir_status st = CHOIR_OK;
    if (s->bytes)
        st = cuda_put(device_gpu(c), stream, s->window->gpu[s->peer].memory + s->offset, s->send,
                      s->bytes);
    if (st == CHOIR_OK && s->kind != SIDE_PUT)
        st = cuda_signal_raise(device_gpu(c), stream, (uint32_t)s->peer, s->signal);
    return st;
}

static enum choir_status take(struct choir_comm *c, const struct comm_side *s,
                              struct CUstream_st *stream)
{
    enum choir_status st = CHOIR_OK;
    for (uint32_t at = 0; at < s->count && st == CHOIR_OK;) {
        struct cuda_signal_wait wait[CUDA_WAITS];
        uint32_t n = 0;
        for (; n < CUDA_WAITS && at < s->count; n++, at++)
            wait[n] = (struct cuda_signal_wait){.peer = (uint32_t)s->wait[at].peer,
                                                .signal = s->wait[at].signal,
                                                .count = (uint32_t)s->wait[at].count};
        st = cuda_signal_take(device_gpu(c), stream, wait, n);
    }
    return st;
}

enum choir_status device_side(struct choir_comm *c, const struct comm_side *s,
                              struct choir_stream *stream)
{
    const struct comm_call call = {.kind = CHOIR_EXCHANGE, .side = s};
    uint64_t mark;
    if (!comm_enter(c))
        return CHOIR_ERR_BUSY;
    struct comm_observed *o = observe_call(c, stream, &call, NULL, 0, &mark);
    ++c->host.sequence;
    enum choir_status st = s->kind == SIDE_WAIT ? take(c, s, stream_cuda(stream))
                                                : put_and_raise(c, s, stream_cuda(stream));
    observe_call_end(o, st);
    comm_leave(c);
    return st == CHOIR_OK ? st : comm_take_error(c, st);
}
