/* SPDX-License-Identifier: Apache-2.0 */
/*
 * portable.cuh: what kernels use of the machine, on a GPU and, for tests, on a CPU, where the threads of a block are threads of
 * the process and GPUs are pieces of its memory. Kernels are written with this only, so that every line of them runs,
 * under sanitizers too, where there is no GPU.
 *
 * Memory order. What peers read and write is reached by the functions here and by plain 16-byte copies; a flag is stored after
 * fence_system() by one thread, after sync() has gathered the block's stores (release); who has seen the flag syncs the block
 * and reads (acquire). Never the read-only path on memory that peers write.
 */
#ifndef CUDA_KERNEL_PORTABLE_CUH
#define CUDA_KERNEL_PORTABLE_CUH

#include "cuda/abi.h"

struct alignas(16) line16 {
    uint64_t a, b;
};

#ifdef __CUDACC__

#define DEV __device__ __forceinline__
#define DEV_CALL static __device__ __noinline__ /* one copy for all kernels */
#define UNROLL _Pragma("unroll")

/* The threads that work together on a lane. */
struct block {
    uint32_t thread, threads, lane;

    DEV void sync() const
    {
        __syncthreads();
    }
    DEV bool any(bool x) const
    {
        return __syncthreads_or(x);
    }
};
/* The clerks of a block wait for all its threads; the others go on. Once in a kernel. */
DEV void gather(const block &b, bool clerk)
{
    if (clerk)
        asm volatile("bar.sync 3, %0;" ::"r"(b.threads) : "memory");
    else
        asm volatile("bar.arrive 3, %0;" ::"r"(b.threads) : "memory");
}
/* Some of a block's threads, in whole warps; teams are numbered from 1 to TEAMS. */
#define TEAMS 8u
struct team {
    uint32_t thread, threads, number;

    DEV void sync() const
    {
        asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
    }
};

DEV void fence_system()
{
    __threadfence_system();
}
DEV uint64_t load_relaxed(const uint64_t *p)
{
    uint64_t v;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}
DEV uint64_t load_acquire(const uint64_t *p)
{
    uint64_t v;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}
DEV uint32_t load_relaxed(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
DEV void store_relaxed(uint64_t *p, uint64_t v)
{
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}
DEV void store_relaxed(uint32_t *p, uint32_t v)
{
    asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
/* Within the block, through its shared memory. */
DEV uint32_t shared_load(const uint32_t *p)
{
    return *(const volatile uint32_t *)p;
}
DEV void shared_store(uint32_t *p, uint32_t v)
{
    __threadfence_block();
    *(volatile uint32_t *)p = v;
}
/* True for the one thread that found 0 there. */
DEV bool claim(uint32_t *p, uint32_t v)
{
    return atomicCAS_system(p, 0u, v) == 0;
}
/* What was there, and one more now. */
DEV uint32_t next_number(uint32_t *p)
{
    return atomicAdd(p, 1u);
}
/* 16 bytes as two words of 8, each in one piece. */
DEV line16 load_line(const line16 *p)
{
    line16 v;
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(v.a), "=l"(v.b)
                 : "l"(p)
                 : "memory");
    return v;
}
DEV void store_line(line16 *p, line16 v)
{
    asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};" ::"l"(p), "l"(v.a), "l"(v.b)
                 : "memory");
}
/* Plain data: ordered by the flags around it. */
DEV line16 load_data(const line16 *p)
{
    line16 v;
    asm volatile("ld.global.v2.u64 {%0, %1}, [%2];" : "=l"(v.a), "=l"(v.b) : "l"(p) : "memory");
    return v;
}
DEV void store_data(line16 *p, line16 v)
{
    asm volatile("st.global.v2.u64 [%0], {%1, %2};" ::"l"(p), "l"(v.a), "l"(v.b) : "memory");
}
/* Makes the compiler load v here. */
DEV void touch(uint32_t v)
{
    asm volatile("" ::"r"(v));
}
DEV uint64_t clock_ns()
{
    uint64_t t;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
    return t;
}
DEV void relax()
{
}
#define LOOKS_TOGETHER 64u /* of a block, before it leaves the waiting to one thread */

/* A flagged line of 128 bytes is moved by WIDE_MEMBERS threads of a warp at once, WIDE_EACH words each, the last word its flag.
 * NVLink and the memory behind it keep the 128 bytes of such an access together. */
#define WIDE_MEMBERS 8u
#define WIDE_EACH 2u
DEV void wide_store(uint64_t *line, uint32_t member, const uint64_t *word, uint64_t flag)
{
    store_line((line16 *)line + member,
               line16{word[0], member == WIDE_MEMBERS - 1 ? flag : word[1]});
}
/* A member's part of a line; whether the whole line has come, for all its members alike; its words. */
using wide_raw = line16;
DEV wide_raw wide_fetch(const uint64_t *line, uint32_t member)
{
    return load_line((const line16 *)line + member);
}
DEV bool wide_whole(const wide_raw &x, uint64_t flag)
{
    uint32_t mask = 0xffu << (threadIdx.x & 24u);
    return __shfl_sync(mask, (uint32_t)x.b, WIDE_MEMBERS - 1, WIDE_MEMBERS) == (uint32_t)flag;
}
DEV void wide_open(const wide_raw &x, uint64_t *word)
{
    word[0] = x.a;
    word[1] = x.b;
}
/* True for all members of a line if it is for each. */
DEV bool wide_agree(bool x)
{
    return __all_sync(0xffu << (threadIdx.x & 24u), x);
}

#else /* on a CPU, for tests */

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#define DEV inline
#define DEV_CALL inline
#define UNROLL

#define TEAMS 8u
struct emulated { /* what the threads of a block share; begins as zeros */
    pthread_barrier_t all;
    pthread_mutex_t lock; /* of what is of teams */
    pthread_cond_t change;
    uint32_t some, come[TEAMS], rounds[TEAMS];
};
struct block {
    uint32_t thread, threads, lane;
    struct emulated *shared;

    void sync() const
    {
        pthread_barrier_wait(&shared->all);
    }
    bool any(bool x) const
    {
        if (x)
            __atomic_store_n(&shared->some, 1u, __ATOMIC_RELAXED);
        sync();
        bool some = __atomic_load_n(&shared->some, __ATOMIC_RELAXED);
        sync();
        if (!thread)
            __atomic_store_n(&shared->some, 0u, __ATOMIC_RELAXED);
        sync();
        return some;
    }
};
inline void gather(const block &b, bool)
{
    b.sync();
}
struct team {
    uint32_t thread, threads, number;
    struct emulated *shared;

    void sync() const
    {
        pthread_mutex_lock(&shared->lock);
        uint32_t *come = &shared->come[number - 1], *rounds = &shared->rounds[number - 1];
        uint32_t round = *rounds;
        if (++*come == threads) {
            *come = 0;
            ++*rounds;
            pthread_cond_broadcast(&shared->change);
        }
        while (*rounds == round)
            pthread_cond_wait(&shared->change, &shared->lock);
        pthread_mutex_unlock(&shared->lock);
    }
};

/* Fences are part of the flags here: stores release, loads acquire, which a thread sanitizer understands. */
DEV void fence_system()
{
}
DEV uint64_t load_relaxed(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
DEV uint64_t load_acquire(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
DEV uint32_t load_relaxed(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
DEV void store_relaxed(uint64_t *p, uint64_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
DEV void store_relaxed(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
DEV uint32_t shared_load(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
DEV void shared_store(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
DEV bool claim(uint32_t *p, uint32_t v)
{
    uint32_t none = 0;
    return __atomic_compare_exchange_n(p, &none, v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
DEV uint32_t next_number(uint32_t *p)
{
    return __atomic_fetch_add(p, 1u, __ATOMIC_ACQ_REL);
}
DEV line16 load_line(const line16 *p)
{
    return line16{load_relaxed(&p->a), load_relaxed(&p->b)};
}
DEV void store_line(line16 *p, line16 v)
{
    store_relaxed(&p->a, v.a);
    store_relaxed(&p->b, v.b);
}
DEV line16 load_data(const line16 *p)
{
    return *p;
}
DEV void store_data(line16 *p, line16 v)
{
    *p = v;
}
DEV void touch(uint32_t v)
{
    (void)v;
}
DEV uint64_t clock_ns()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
DEV void relax()
{
    sched_yield();
}
#define LOOKS_TOGETHER 2u /* barriers are dear */

/* One thread moves a line, the flag last. */
#define WIDE_MEMBERS 1u
#define WIDE_EACH 16u
DEV void wide_store(uint64_t *line, uint32_t member, const uint64_t *word, uint64_t flag)
{
    (void)member;
    for (uint32_t i = 0; i < 15; i++)
        store_relaxed(&line[i], word[i]);
    store_relaxed(&line[15], flag);
}
struct wide_raw {
    uint64_t word[16];
};
DEV wide_raw wide_fetch(const uint64_t *line, uint32_t member)
{
    wide_raw x;
    (void)member;
    for (uint32_t i = 16; i--;) /* the flag first */
        x.word[i] = load_relaxed(&line[i]);
    return x;
}
DEV bool wide_whole(const wide_raw &x, uint64_t flag)
{
    return x.word[15] == flag;
}
DEV void wide_open(const wide_raw &x, uint64_t *word)
{
    memcpy(word, x.word, sizeof(x.word));
}
DEV bool wide_agree(bool x)
{
    return x;
}

#endif

/* The team of a thread where each half of a block works in so many: first those of the one half, then those of the other. Number 0: none,
 * what is left of the division. */
DEV team team_of(const block &b, uint32_t teams)
{
    uint32_t part = b.threads / (2 * teams), own = b.thread / part;
    team t = {};
    t.thread = b.thread % part;
    t.threads = part;
    t.number = own < 2 * teams ? 1 + own : 0;
#ifndef __CUDACC__
    t.shared = b.shared;
#endif
    return t;
}

#endif
