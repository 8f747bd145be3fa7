/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mark.c: when an operation's kernels begin and end: a kernel of one thread before and behind them leaves the GPU's time in pinned
 * memory (kernel/mark.cuh). Only operations that are observed when they are called, or captured, have marks.
 */
#include "cuda/mark.h"
#include "cuda/mailbox.h"

enum choir_status cuda_mark(struct cuda_comm *comm, const struct cuda_work *w, bool end)
{
    enum choir_status st = CHOIR_OK;
    if (!comm->mark)
        st = cuda_device_function(comm->device, "choir_mark", &comm->mark);
    if (st != CHOIR_OK)
        return st;
    struct cuda_mark_call call = {
        .marks = comm->marks, .number = &comm->view.guard.state->marks, .id = w->mark, .end = end};
    void *arguments[] = {&call};
    CUresult r =
        cuda_driver()->cuLaunchKernel(comm->mark, 1, 1, 1, 1, 1, 1, 0, w->stream, arguments, NULL);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "launching a mark");
}

enum choir_status cuda_comm_capturing(const struct cuda_comm *comm, struct CUstream_st *stream,
                                      bool *capturing)
{
    return cuda_device_capturing(comm->device, stream, capturing);
}

bool cuda_comm_next_mark(struct cuda_comm *comm, struct cuda_mark *mark, uint32_t *lost)
{
    return cuda_marks_next(&comm->board->marks, &comm->marks_taken, mark, lost);
}
