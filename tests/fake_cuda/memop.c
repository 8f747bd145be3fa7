/* SPDX-License-Identifier: Apache-2.0 */
/* memop.c: words that streams write and wait for. */
#include "tests/fake_cuda/fake.h"
#include <sched.h>
#include <unistd.h>

static uint64_t load(const struct fake_work *w)
{
    return w->u.memop.bytes == 8 ? __atomic_load_n((uint64_t *)w->u.memop.at, __ATOMIC_ACQUIRE)
                                 : __atomic_load_n((uint32_t *)w->u.memop.at, __ATOMIC_ACQUIRE);
}

static void write_word(const struct fake_work *w)
{
    if (w->u.memop.bytes == 8)
        __atomic_store_n((uint64_t *)w->u.memop.at, w->u.memop.value, __ATOMIC_RELEASE);
    else
        __atomic_store_n((uint32_t *)w->u.memop.at, (uint32_t)w->u.memop.value, __ATOMIC_RELEASE);
}

static bool there(const struct fake_work *w)
{
    uint64_t now = load(w), want = w->u.memop.value;
    unsigned unused = 64 - 8 * w->u.memop.bytes; /* upper bits that count for nothing */
    switch (w->u.memop.flags & 3) {
    case CU_STREAM_WAIT_VALUE_GEQ: /* cyclic: the difference has its sign */
        return (int64_t)((now - want) << unused) >= 0;
    case CU_STREAM_WAIT_VALUE_EQ:
        return now == want;
    case CU_STREAM_WAIT_VALUE_AND:
        return (now & want) != 0;
    default: /* NOR */
        return ~(now | want) << unused != 0;
    }
}

static void await_word(const struct fake_work *w)
{
    for (unsigned spins = 0; !there(w); spins++)
        if (spins < 100)
            sched_yield();
        else
            usleep(20);
}

static CUresult push(void (*run)(const struct fake_work *), CUstream stream, CUdeviceptr at,
                     uint64_t value, unsigned flags, unsigned bytes)
{
    FAKE_READY();
    pthread_mutex_lock(&fake_lock);
    bool known = fake_memory_of((void *)(uintptr_t)at, bytes) && at % bytes == 0;
    pthread_mutex_unlock(&fake_lock);
    if (!known)
        return CUDA_ERROR_INVALID_VALUE;
    return fake_push(
        stream,
        &(struct fake_work){.run = run, .u.memop = {(void *)(uintptr_t)at, value, flags, bytes}});
}

static bool write_flags(unsigned flags)
{
    return flags <= CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER;
}

static bool wait_flags(unsigned flags)
{
    return flags <= CU_STREAM_WAIT_VALUE_NOR;
}

FAKE_API CUresult cuStreamWriteValue32(CUstream stream, CUdeviceptr at, cuuint32_t value,
                                       unsigned int flags)
{
    return write_flags(flags) ? push(write_word, stream, at, value, flags, 4)
                              : CUDA_ERROR_INVALID_VALUE;
}

FAKE_API CUresult cuStreamWriteValue64(CUstream stream, CUdeviceptr at, cuuint64_t value,
                                       unsigned int flags)
{
    return write_flags(flags) ? push(write_word, stream, at, value, flags, 8)
                              : CUDA_ERROR_INVALID_VALUE;
}

/* Flushing writes of other devices: not supported, as most GPUs do not. */
FAKE_API CUresult cuStreamWaitValue32(CUstream stream, CUdeviceptr at, cuuint32_t value,
                                      unsigned int flags)
{
    return wait_flags(flags) ? push(await_word, stream, at, value, flags, 4)
                             : CUDA_ERROR_NOT_SUPPORTED;
}

FAKE_API CUresult cuStreamWaitValue64(CUstream stream, CUdeviceptr at, cuuint64_t value,
                                      unsigned int flags)
{
    return wait_flags(flags) ? push(await_word, stream, at, value, flags, 8)
                             : CUDA_ERROR_NOT_SUPPORTED;
}
