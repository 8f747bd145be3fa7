/* SPDX-License-Identifier: Apache-2.0 */
/*
 * staged.c: GPU memory through the host: pinned memory, copies and the kernels by which a stream and a thread of the host meet
 * (kernel/staged.cuh). What is posted, and what the thread does with it, is src/comm's business.
 */
#include "cuda/staged.h"
#include "cuda/device.h"
#include "cuda/ring.h"
#include <stdlib.h>

#define PITCH_MOST 0x7fffffffull /* of the driver's copies of blocks */

struct region {
    struct region *next;
    void *memory;
    uint64_t bytes;
};
struct board { /* pinned */
    struct cuda_ring ring;
    uint32_t done[CUDA_ITEMS]; /* posts of each item */
};
struct counters { /* device memory */
    uint32_t number, unused[31];
    uint32_t posts[CUDA_ITEMS];
};
struct cuda_staged {
    struct cuda_device *device;
    struct board *board;
    CUdeviceptr board_there, counters;
    struct region *regions;
    _Atomic uint64_t pinned;
    uint32_t taken;
    uint32_t posted[CUDA_ITEMS]; /* in streams, of items that are in no graph */
    CUfunction post, wait;
};

/* --- memory --------------------------------------------------------------------------------------------- */

/* In the context. */
static enum choir_status pin(struct cuda_staged *s, uint64_t bytes, void **out, CUdeviceptr *there)
{
    struct region *r = malloc(sizeof(*r));
    if (!r)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a pinned region");
    *r = (struct region){s->regions, NULL, bytes};
    enum choir_status st = cuda_pinned_alloc(bytes, &r->memory, there);
    if (st != CHOIR_OK) {
        free(r);
        return st;
    }
    s->regions = r;
    atomic_fetch_add(&s->pinned, bytes);
    *out = r->memory;
    return CHOIR_OK;
}

enum choir_status cuda_staged_alloc(struct cuda_staged *s, uint64_t bytes, uint8_t **memory)
{
    CUstreamCaptureMode mode;
    void *pinned = NULL;
    CUdeviceptr there;
    enum choir_status st = cuda_device_begin(s->device, &mode);
    if (st != CHOIR_OK)
        return st;
    st = pin(s, (bytes + 4095) & ~4095ull, &pinned, &there);
    cuda_device_end(s->device, &mode);
    *memory = pinned;
    return st;
}

static enum choir_status clear(const struct cuda_staged *s)
{
    const struct cuda_driver *cu = cuda_driver();
    CUstream stream;
    CUresult r = cu->cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0);
    if (r == CUDA_SUCCESS) {
        r = cu->cuMemsetD8Async(s->counters, 0, sizeof(struct counters), stream);
        if (r == CUDA_SUCCESS)
            r = cu->cuStreamSynchronize(stream);
        cu->cuStreamDestroy(stream);
    }
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "clearing counters");
}

static enum choir_status fill(struct cuda_staged *s)
{
    void *board = NULL;
    enum choir_status st = cuda_device_alloc(s->device, sizeof(struct counters), &s->counters);
    if (st == CHOIR_OK)
        st = clear(s);
    if (st == CHOIR_OK)
        st = pin(s, (sizeof(struct board) + 4095) & ~4095ull, &board, &s->board_there);
    if (st != CHOIR_OK)
        return st;
    s->board = board;
    st = cuda_device_function(s->device, "choir_staged_post", &s->post);
    return st == CHOIR_OK ? cuda_device_function(s->device, "choir_staged_wait", &s->wait) : st;
}

/* In the context. */
static void discard(struct cuda_staged *s)
{
    for (struct region *r = s->regions; r; r = s->regions) {
        s->regions = r->next;
        cuda_pinned_free(r->memory, r->bytes);
        free(r);
    }
    if (s->counters)
        cuda_device_free(s->device, s->counters, sizeof(struct counters));
    free(s);
}

enum choir_status cuda_staged_open(struct cuda_device *device, struct cuda_staged **out)
{
    CUstreamCaptureMode mode;
    struct cuda_staged *s = calloc(1, sizeof(*s));
    if (!s)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a communicator");
    s->device = device;
    enum choir_status st = cuda_device_begin(s->device, &mode);
    if (st != CHOIR_OK) {
        free(s);
        return st;
    }
    st = fill(s);
    if (st == CHOIR_OK)
        *out = s;
    else
        discard(s);
    cuda_device_end(device, &mode);
    return st;
}

void cuda_staged_close(struct cuda_staged *s)
{
    CUstreamCaptureMode mode;
    if (!s)
        return;
    __atomic_store_n(&s->board->ring.abort, 1u, __ATOMIC_RELEASE);
    const struct cuda_device *device = s->device;
    if (cuda_device_begin(device, &mode) != CHOIR_OK)
        return; /* the driver is gone, or the parent's */
    discard(s);
    cuda_device_end(device, &mode);
}

uint64_t cuda_staged_pinned(const struct cuda_staged *s)
{
    return atomic_load(&s->pinned);
}

uint64_t cuda_staged_device_bytes(const struct cuda_staged *s)
{
    (void)s;
    return sizeof(struct counters);
}

int cuda_staged_ordinal(const struct cuda_staged *s)
{
    return s->device->gpu.ordinal;
}

enum choir_status cuda_staged_quiesce(struct cuda_staged *s)
{
    CUstreamCaptureMode mode;
    enum choir_status st = cuda_device_begin(s->device, &mode);
    if (st != CHOIR_OK)
        return st;
    CUresult r = cuda_driver()->cuCtxSynchronize();
    cuda_device_end(s->device, &mode);
    if (r == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED || r == CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
        r = CUDA_SUCCESS; /* another thread captures: no failure of what runs */
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "waiting for the GPU");
}

/* --- in a stream ------------------------------------------------------------------------------------------ */

enum choir_status cuda_staged_capturing(struct cuda_staged *s, struct CUstream_st *stream,
                                        bool *capturing)
{
    return cuda_device_capturing(s->device, stream, capturing);
}

static CUdeviceptr address(const void *memory)
{
    return (CUdeviceptr)(uintptr_t)memory;
}

static CUresult copy_one(CUstream stream, const struct cuda_span *x, uint64_t i, bool to_host)
{
    uint8_t *device = (uint8_t *)x->device + i * x->device_pitch,
            *host = (uint8_t *)x->host + i * x->host_pitch;
    if (to_host)
        return cuda_driver()->cuMemcpyDtoHAsync(host, address(device), x->bytes, stream);
    return cuda_driver()->cuMemcpyHtoDAsync(address(device), host, x->bytes, stream);
}

static CUresult copy_blocks(CUstream stream, const struct cuda_span *x, bool to_host)
{
    CUDA_MEMCPY2D m = {.WidthInBytes = x->bytes, .Height = x->blocks};
    if (to_host) {
        m.srcMemoryType = CU_MEMORYTYPE_DEVICE, m.srcDevice = address(x->device);
        m.dstMemoryType = CU_MEMORYTYPE_HOST, m.dstHost = x->host;
        m.srcPitch = x->device_pitch, m.dstPitch = x->host_pitch;
    } else {
        m.srcMemoryType = CU_MEMORYTYPE_HOST, m.srcHost = x->host;
        m.dstMemoryType = CU_MEMORYTYPE_DEVICE, m.dstDevice = address(x->device);
        m.srcPitch = x->host_pitch, m.dstPitch = x->device_pitch;
    }
    return cuda_driver()->cuMemcpy2DAsync(&m, stream);
}

enum choir_status cuda_staged_copy(struct cuda_staged *s, struct CUstream_st *stream,
                                   const struct cuda_span *x, bool to_host)
{
    CUresult r = CUDA_SUCCESS;
    if (!x->bytes || !x->blocks)
        return CHOIR_OK;
    enum choir_status st = cuda_device_enter(s->device);
    if (st != CHOIR_OK)
        return st;
    if (x->blocks > 1 && base_max(x->device_pitch, x->host_pitch) <= PITCH_MOST)
        r = copy_blocks(stream, x, to_host);
    else
        for (uint64_t i = 0; i < x->blocks && r == CUDA_SUCCESS; i++)
            r = copy_one(stream, x, i, to_host);
    cuda_device_leave(s->device);
    return r == CUDA_SUCCESS
               ? CHOIR_OK
               : cuda_fail(r, to_host ? "copying from the GPU" : "copying to the GPU");
}

static enum choir_status launch(struct cuda_staged *s, CUfunction f, CUstream stream, void *call)
{
    void *arguments[] = {call};
    enum choir_status st = cuda_device_enter(s->device);
    if (st != CHOIR_OK)
        return st;
    CUresult r = cuda_driver()->cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
    cuda_device_leave(s->device);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "launching a collective");
}

static uint32_t *posts_of(const struct cuda_staged *s, uint32_t item)
{
    struct counters *there = (struct counters *)(uintptr_t)s->counters;
    return &there->posts[item];
}

enum choir_status cuda_staged_post(struct cuda_staged *s, struct CUstream_st *stream, uint32_t item)
{
    struct cuda_post_call call = {.ring = (struct cuda_ring *)(uintptr_t)s->board_there,
                                  .number = (uint32_t *)(uintptr_t)s->counters,
                                  .posts = posts_of(s, item),
                                  .item = item};
    enum choir_status st = launch(s, s->post, stream, &call);
    s->posted[item] += st == CHOIR_OK;
    return st;
}

enum choir_status cuda_staged_wait(struct cuda_staged *s, struct CUstream_st *stream, uint32_t item,
                                   uint32_t later, bool captured)
{
    const struct board *there = (const struct board *)(uintptr_t)s->board_there;
    struct cuda_wait_call call = {.ring = &there->ring, .done = &there->done[item]};
    call.posts = captured ? posts_of(s, item) : NULL;
    call.count = captured ? later : s->posted[item] - later;
    return launch(s, s->wait, stream, &call);
}

/* --- on the host ------------------------------------------------------------------------------------------- */

bool cuda_staged_next(struct cuda_staged *s, uint32_t *item)
{
    return cuda_ring_next(&s->board->ring, &s->taken, item);
}

void cuda_staged_done(struct cuda_staged *s, uint32_t item)
{
    uint32_t *done = &s->board->done[item];
    __atomic_store_n(done, *done + 1, __ATOMIC_RELEASE); /* pairs with staged_wait */
}
