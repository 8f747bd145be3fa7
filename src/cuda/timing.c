/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timing.c: how long operations take on the GPU. All of them go into the communicator's own stream at once, events between
 * the batches, and are looked at later: nothing waits here. What takes longest should come first, so that the host is ahead
 * of the GPU when short ones come: else the time to launch them would be measured.
 */
#include "cuda/bound.h"
#include <stdlib.h>

#define SIGNATURE 0x74696d65u /* of no call of the program */

struct cuda_timing {
    struct cuda_comm *comm;
    uint32_t repeats;
    struct timed {
        uint32_t batches, each;
        CUevent event[CUDA_BATCHES + 1]; /* before, between and after the batches */
    } timed[];
};

static enum choir_status enqueue(struct cuda_timing *t, const struct cuda_bound *bound,
                                 uint32_t times)
{
    struct cuda_work w = {
        .bound = bound, .stream = t->comm->stream, .type = CHOIR_UINT8, .signature = SIGNATURE};
    enum choir_status st = CHOIR_OK;
    for (uint32_t i = 0; i < times && st == CHOIR_OK; i++)
        st = cuda_enqueue(t->comm, &w);
    return st;
}

static enum choir_status mark(struct cuda_timing *t, CUevent event)
{
    CUresult r = cuda_driver()->cuEventRecord(event, t->comm->stream);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "recording an event");
}

/* What costs the host time once: events are made, and each kernel is looked up and run. */
static enum choir_status prepare(struct cuda_timing *t, const struct cuda_repeat *r,
                                 struct timed *timed)
{
    choir_assert(r->batches && r->batches <= CUDA_BATCHES && r->each);
    *timed = (struct timed){.batches = r->batches, .each = r->each};
    for (uint32_t i = 0; i <= r->batches; i++) {
        CUresult e = cuda_driver()->cuEventCreate(&timed->event[i], CU_EVENT_DEFAULT);
        if (e != CUDA_SUCCESS)
            return cuda_fail(e, "making an event");
    }
    return enqueue(t, r->bound, 1);
}

static enum choir_status put(struct cuda_timing *t, const struct cuda_repeat *r,
                             const struct timed *timed)
{
    enum choir_status st = enqueue(t, r->bound, r->warm);
    if (st == CHOIR_OK)
        st = mark(t, timed->event[0]);
    for (uint32_t i = 0; i < r->batches && st == CHOIR_OK; i++) {
        st = enqueue(t, r->bound, r->each);
        if (st == CHOIR_OK)
            st = mark(t, timed->event[i + 1]);
    }
    return st;
}

enum choir_status cuda_timing_start(struct cuda_comm *comm, const struct cuda_repeat *repeat,
                                    uint32_t repeats, uint64_t limit_ns, struct cuda_timing **out)
{
    CUstreamCaptureMode mode;
    struct cuda_timing *t = calloc(1, sizeof(*t) + repeats * sizeof(t->timed[0]));
    if (!t)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for timings");
    t->comm = comm;
    t->repeats = repeats;
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st != CHOIR_OK) {
        free(t);
        return st;
    }
    uint64_t usual_ns = comm->view.guard.limit_ns;
    comm->view.guard.limit_ns = limit_ns; /* kernels take it with them */
    for (uint32_t i = repeats; i && st == CHOIR_OK; i--)
        st = prepare(t, &repeat[i - 1], &t->timed[i - 1]);
    for (uint32_t i = 0; i < repeats && st == CHOIR_OK; i++)
        st = put(t, &repeat[i], &t->timed[i]);
    comm->view.guard.limit_ns = usual_ns;
    cuda_comm_end(comm, &mode);
    if (st == CHOIR_OK)
        *out = t;
    else
        cuda_timing_free(t);
    return st;
}

static int by_value(const void *a, const void *b)
{
    const float *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static CUresult read_timed(const struct timed *t, struct cuda_took *took)
{
    float ms[CUDA_BATCHES] = {0};
    CUresult r = CUDA_SUCCESS;
    for (uint32_t i = 0; i < t->batches && r == CUDA_SUCCESS; i++)
        r = cuda_driver()->cuEventElapsedTime(&ms[i], t->event[i], t->event[i + 1]);
    qsort(ms, t->batches, sizeof(*ms), by_value);
    took->least_ns = 1e6 * (double)ms[0] / t->each;
    took->median_ns = 1e6 * (double)ms[t->batches / 2] / t->each;
    return r;
}

/* The device's context is current. */
static CUresult look(const struct cuda_timing *t, struct cuda_took *took, double *all_ns)
{
    const struct timed *last = &t->timed[t->repeats - 1];
    CUevent end = last->event[last->batches];
    float ms = 0;
    CUresult r = cuda_driver()->cuEventQuery(end);
    if (r == CUDA_SUCCESS)
        r = cuda_driver()->cuEventElapsedTime(&ms, t->timed[0].event[0], end);
    *all_ns = 1e6 * (double)ms;
    for (uint32_t i = 0; i < t->repeats && r == CUDA_SUCCESS; i++)
        r = read_timed(&t->timed[i], &took[i]);
    return r;
}

enum choir_status cuda_timing_test(struct cuda_timing *t, struct cuda_took *took, double *all_ns)
{
    CUstreamCaptureMode mode;
    enum choir_status st = cuda_comm_begin(t->comm, &mode);
    if (st != CHOIR_OK)
        return st;
    CUresult r = look(t, took, all_ns);
    cuda_comm_end(t->comm, &mode);
    return r == CUDA_SUCCESS           ? CHOIR_OK
           : r == CUDA_ERROR_NOT_READY ? CHOIR_IN_PROGRESS
                                       : cuda_fail(r, "timing the links between GPUs");
}

void cuda_timing_free(struct cuda_timing *t)
{
    CUstreamCaptureMode mode;
    if (!t)
        return;
    if (cuda_comm_begin(t->comm, &mode) == CHOIR_OK) {
        for (uint32_t i = 0; i < t->repeats; i++)
            for (uint32_t k = 0; k <= CUDA_BATCHES; k++)
                if (t->timed[i].event[k])
                    cuda_driver()->cuEventDestroy(t->timed[i].event[k]);
        cuda_comm_end(t->comm, &mode);
    }
    free(t);
}
