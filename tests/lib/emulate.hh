/* SPDX-License-Identifier: Apache-2.0 */
/*
 * emulate.hh: the GPUs of a communicator as threads and memory of this process, for tests of kernels: a rank is a mailbox and
 * counters, and every thread of every block of every rank is a thread here. Includes the library's C headers for C++.
 */
#ifndef TESTS_EMULATE_HH
#define TESTS_EMULATE_HH

#include "cuda/kernel/common.cuh"
#include <memory> /* what has atomics of C++ comes before those of C */
#include <string>
#include <thread>
#include <vector>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef __clang__ /* which knows these words of C in C++ too */
#define _Noreturn [[noreturn]]
#define _Atomic
#endif
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow" /* functions named as structs are */
extern "C" {
#include "plan/plan.h"
#include "plan/ranks.h"
#include "tests/lib/test.h"
}
#pragma GCC diagnostic pop
#if TEST_ASAN
#include <sanitizer/asan_interface.h>
#endif

/* --- memory with guards ------------------------------------------------------------------------------ */

/* Bytes that begin `odd` bytes off a boundary of 128; what is before and behind them may not be touched. */
class guarded
{
    static constexpr uint64_t pad = 256;
    std::vector<uint8_t> all;
    uint64_t before;

    template <class F> void each_guard(F f)
    {
        f(all.data(), before);
        f(all.data() + before + bytes, all.size() - before - bytes);
    }

  public:
    uint64_t bytes;
    uint8_t *data;

    guarded(uint64_t bytes_, uint32_t odd) : all(bytes_ + 2 * pad + odd, 0xa5), bytes(bytes_)
    {
        uint64_t off = (uint64_t)(uintptr_t)all.data() % 128;
        before = pad - off + odd;
        data = all.data() + before;
#if TEST_ASAN
        each_guard([](uint8_t *p, uint64_t n) { __asan_poison_memory_region(p, n); });
#endif
    }
    guarded(const guarded &) = delete;
    ~guarded()
    {
#if TEST_ASAN
        each_guard([](uint8_t *p, uint64_t n) { __asan_unpoison_memory_region(p, n); });
#endif
    }
    bool intact()
    {
        bool good = true;
#if !TEST_ASAN
        each_guard([&](uint8_t *p, uint64_t n) {
            for (uint64_t i = 0; i < n; i++)
                good = good && p[i] == 0xa5;
        });
#endif
        return good;
    }
};

/* --- ranks -------------------------------------------------------------------------------------------- */

class emulation
{
    struct gpu {
        uint8_t *region; /* the mailbox between two pages that fault */
        std::vector<cuda_count> count;
        cuda_state state = {};
        cuda_report report = {};
    };
    std::vector<gpu> gpus;
    uint64_t region_bytes, limit_ns;
    static constexpr uint64_t page = 65536;

    uint8_t *mailbox(uint32_t rank) const
    {
        return gpus[rank].region + page;
    }

  public:
    const uint32_t ranks;
    std::vector<uint32_t> abort; /* a word of each rank */

    explicit emulation(uint32_t n, uint64_t limit = 40000000000u)
        : gpus(n), region_bytes((CUDA_MAILBOX_BYTES(n) + 3 * page - 1) / page * page),
          limit_ns(limit), ranks(n), abort(n)
    {
        for (gpu &g : gpus) {
            g.count.resize(n * CUDA_LANES);
            void *p = mmap(NULL, region_bytes, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            CHECK(p != MAP_FAILED);
            g.region = (uint8_t *)p;
            CHECK(!mprotect(g.region + page, region_bytes - 2 * page, PROT_READ | PROT_WRITE));
        }
    }
    emulation(const emulation &) = delete;
    ~emulation()
    {
        for (gpu &g : gpus)
            munmap(g.region, region_bytes);
    }

    cuda_view view(uint32_t rank)
    {
        gpu &g = gpus[rank];
        cuda_view v = {};
        v.rank = rank;
        v.ranks = ranks;
        for (uint32_t r = 0; r < ranks; r++)
            v.mailbox[r] = mailbox(r);
        v.count = g.count.data();
        v.guard = {&g.state, &g.report, &abort[rank], limit_ns};
        return v;
    }
    const cuda_report &report(uint32_t rank) const
    {
        return gpus[rank].report;
    }
    /* Fails the test if a kernel of any rank gave up. */
    void check() const
    {
        for (uint32_t r = 0; r < ranks; r++)
            if (report(r).code)
                FAIL("rank %u: fault %u, peer %u, lane %u, number %u, seen %x, signature %x", r,
                     report(r).code, report(r).peer, report(r).lane, report(r).number,
                     report(r).seen, report(r).signature);
    }
    /* As if `number` messages of both kinds had gone between all ranks in the first `lanes` lanes; a multiple of 4, not of 2^16. */
    void age(uint32_t number, uint32_t lanes);
};

inline void emulation::age(uint32_t number, uint32_t lanes)
{
    for (uint32_t r = 0; r < ranks; r++) {
        cuda_view v = view(r);
        for (uint32_t from = 0; from < ranks; from++)
            for (uint32_t lane = 0; lane < lanes; lane++) {
                *count_of(v, from, lane) = {number, number, number, 0, number, number, number, 0};
                cuda_post *post = post_of(v, r, from, lane);
                post->consumed = post->ll_consumed = number;
                for (uint32_t i = 0; i < CUDA_DEPTH; i++)
                    post->arrived[i] = (uint64_t)(number - 3 + i) << 32;
                for (uint32_t i = 0; i < CUDA_LL_DEPTH; i++) {
                    post->header[i] = (uint64_t)(number - 1 + i) << 32;
                    /* what the receiver last filled the buffers with */
                    uint32_t flag = (number & 0xffff0000u) + i + 1;
                    std::vector<uint32_t> fill((CUDA_LL_SPAN + CUDA_WIDE_SPAN) / 4, flag);
                    uint8_t *own = mailbox(r);
                    memcpy(own + CUDA_LL_AT(ranks, from, lane) + i * CUDA_LL_SPAN, fill.data(),
                           CUDA_LL_SPAN);
                    memcpy(own + CUDA_WIDE_AT(ranks, from, lane) + i * CUDA_WIDE_SPAN, fill.data(),
                           CUDA_WIDE_SPAN);
                }
            }
    }
}

/* --- launches ------------------------------------------------------------------------------------------- */

/* Threads of one block, and those of all blocks of one rank. */
template <class SHARED> struct emulated_block {
    emulated sync;
    SHARED shared; /* what a kernel keeps in shared memory; starts with garbage */
};

struct emulated_launch {
    uint32_t operations, lanes, threads;
    uint64_t seed;
};

/*
 * Launches on every rank, one after another, `operations` kernels of `lanes` blocks of `threads` threads: each thread calls
 * kernel(operation, rank, block, shared). A block that an operation does not want returns at once. A rank's next kernel
 * begins when all its blocks have ended; ranks are at different operations as chance and the kernels have it.
 */
template <class SHARED, class KERNEL> class emulator
{
    struct place {
        emulator *all;
        uint32_t rank;
        block b;
        emulated_block<SHARED> *shared;
    };
    emulated_launch how;
    KERNEL &kernel;
    std::vector<pthread_barrier_t> between; /* of each rank */

    static void *body(void *p)
    {
        const place &me = *(const place *)p;
        const emulated_launch &how = me.all->how;
        uint64_t luck = how.seed ^ (uint64_t)(me.rank + 1) << 32, own = luck + me.b.thread;
        for (uint32_t op = 0; op < how.operations; op++) {
            /* Now and then a rank comes late, and its threads not together. */
            uint64_t late = base_random(&luck) % 16, skew = base_random(&own) % 32;
            if (late < 2)
                usleep((useconds_t)(late * 300 + skew));
            for (; !(late & 3) && skew; skew--)
                sched_yield();
            me.all->kernel(op, me.rank, me.b, &me.shared->shared);
            pthread_barrier_wait(&me.all->between[me.rank]);
        }
        return NULL;
    }

  public:
    emulator(const emulated_launch &launch, KERNEL &k) : how(launch), kernel(k)
    {
    }
    void run(uint32_t ranks)
    {
        uint32_t blocks = ranks * how.lanes;
        std::vector<emulated_block<SHARED>> shared(blocks);
        std::vector<place> places;
        std::vector<pthread_t> ids(blocks * how.threads);
        between.resize(ranks);
        for (pthread_barrier_t &barrier : between)
            pthread_barrier_init(&barrier, NULL, how.lanes * how.threads);
        for (emulated_block<SHARED> &s : shared) {
            memset((void *)&s, 0xa5, sizeof(s));
            s.sync = emulated{};
            pthread_barrier_init(&s.sync.all, NULL, how.threads);
        }
        for (uint32_t i = 0; i < blocks * how.threads; i++) {
            uint32_t thread = i % how.threads, at = i / how.threads;
            emulated *sync = &shared[at].sync;
            places.push_back(place{this, at / how.lanes,
                                   block{thread, how.threads, at % how.lanes, sync}, &shared[at]});
        }
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 256 << 10);
        for (size_t i = 0; i < ids.size(); i++)
            CHECK(!pthread_create(&ids[i], &small, body, &places[i]));
        for (pthread_t id : ids)
            pthread_join(id, NULL);
        pthread_attr_destroy(&small);
        for (pthread_barrier_t &barrier : between)
            pthread_barrier_destroy(&barrier);
        for (emulated_block<SHARED> &s : shared)
            pthread_barrier_destroy(&s.sync.all);
    }
};

template <class SHARED, class KERNEL>
void emulate(const emulation &e, const emulated_launch &how, KERNEL kernel)
{
    emulator<SHARED, KERNEL>(how, kernel).run(e.ranks);
}

#endif
