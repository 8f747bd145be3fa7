/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cuda_window.cc: signals between GPUs (kernel/window.cuh), on CPU threads: what was written before a signal is there after the
 * wait, also where its number wraps; a wait that lasts too long names whom it waits for, and ends all that comes later.
 */
#include "cuda/kernel/window.cuh"
#include <thread>
#include <vector>
extern "C" {
#include "choir.h"
#include "tests/lib/test.h"
}

#define RANKS 3u

struct gpu { /* of a rank */
    std::vector<cuda_post> post;
    std::vector<cuda_count> count;
    cuda_state state = {};
    cuda_report report = {};
    uint32_t abort = 0;
    cuda_guard guard;

    explicit gpu(uint32_t first, uint64_t limit_ns)
        : post(RANKS * CUDA_LANES),
          count(RANKS * CUDA_LANES), guard{&state, &report, &abort, limit_ns}
    {
        for (uint32_t p = 0; p < RANKS; p++)
            for (uint32_t s = 0; s < CHOIR_SIGNALS; s++) {
                post[cuda_index(p, s)].signal = first;
                count[cuda_index(p, CUDA_RAISED(s))].signal = first;
                count[cuda_index(p, CUDA_TAKEN(s))].signal = first;
            }
    }
    void raise(uint32_t me, gpu &peer, uint32_t number, uint32_t s)
    {
        signal_raise(cuda_raise_call{guard, &count[cuda_index(number, CUDA_RAISED(s))].signal,
                                     &peer.post[cuda_index(me, s)].signal});
    }
    void take(const std::vector<cuda_signal_wait> &waits)
    {
        cuda_take_call c = {guard, count.data(), post.data(), (uint32_t)waits.size(), 0, {}};
        for (size_t i = 0; i < waits.size(); i++)
            c.wait[i] = waits[i];
        signal_take(c);
    }
};

/* All to all: two puts and signals each, taken at once; the answer says that they were read. */
static void rounds_from(uint32_t first)
{
    enum { ROUNDS = 2000 };
    std::vector<gpu> g(RANKS, gpu(first, 60000000000u));
    std::vector<std::thread> threads;
    uint32_t data[RANKS][RANKS][2] = {};
    for (gpu &each : g) /* copies point at the first */
        each.guard = cuda_guard{&each.state, &each.report, &each.abort, 60000000000u};
    for (uint32_t me = 0; me < RANKS; me++)
        threads.emplace_back([&, me] {
            for (uint32_t r = 1; r <= ROUNDS; r++) {
                std::vector<cuda_signal_wait> came, read;
                for (uint32_t p = 0; p < RANKS; p++) {
                    for (uint32_t k = 0; k < 2; k++) {
                        data[p][me][k] = r * 10 + me + k;
                        g[me].raise(me, g[p], p, 15);
                    }
                    came.push_back({p, 15, r % 2 ? 2u : 1u, 0});
                    if (r % 2 == 0)
                        came.push_back({p, 15, 1, 0});
                    read.push_back({p, 0, 1, 0});
                }
                g[me].take(came);
                for (uint32_t p = 0; p < RANKS; p++)
                    for (uint32_t k = 0; k < 2; k++)
                        CHECK_EQ(data[me][p][k], r * 10 + p + k);
                for (uint32_t p = 0; p < RANKS; p++)
                    g[me].raise(me, g[p], p, 0);
                g[me].take(read);
            }
        });
    for (std::thread &t : threads)
        t.join();
    for (gpu &each : g)
        CHECK_EQ(each.state.poison, CUDA_FAULT_NONE);
}

static void rounds(void)
{
    rounds_from(0);
}

static void wrap(void)
{
    rounds_from(0xfffffe00u);
}

static void late(void)
{
    gpu g(7, 50000000);
    g.raise(0, g, 0, 3);
    g.take({{0, 3, 1, 0}, {2, 9, 1, 0}, {0, 3, 0, 0}});
    CHECK_EQ(g.state.poison, CUDA_FAULT_LATE);
    CHECK_EQ(g.report.code, CUDA_FAULT_LATE);
    CHECK_EQ(g.report.peer, 2);
    uint64_t before = g.post[cuda_index(0, 3)].signal;
    g.raise(0, g, 0, 3); /* nothing more is raised, */
    CHECK_EQ(g.post[cuda_index(0, 3)].signal, before);
    g.take({{1, 0, 1, 0}}); /* and nothing waited for */
    CHECK_EQ(g.report.peer, 2);
}

static void aborted(void)
{
    gpu g(0, 60000000000u);
    std::thread waiting([&] { g.take({{1, 0, 1, 0}}); });
    __atomic_store_n(&g.abort, 1u, __ATOMIC_RELEASE);
    waiting.join();
    CHECK_EQ(g.state.poison, CUDA_FAULT_ABORT);
}

TEST_MAIN(TEST(rounds), TEST(wrap), TEST(late), TEST(aborted))
