/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cuda_staged.cc: streams and the host meet in a ring (kernel/staged.cuh, ring.h): what is posted is taken once and in order,
 * whichever streams post, also more than the ring holds and across the end of its numbers; waits end when their posts are
 * done, and when nobody serves any more.
 */
#include "cuda/kernel/staged.cuh"
#include "cuda/ring.h"
#include <thread>
#include <vector>
extern "C" {
#include "tests/lib/test.h"
}

struct machine {
    cuda_ring ring = {};
    uint32_t number = 0, taken = 0;
    std::vector<uint32_t> posts, done;

    explicit machine(uint32_t items) : posts(items), done(items)
    {
    }
    cuda_post_call post(uint32_t item)
    {
        return {&ring, &number, &posts[item], item, 0};
    }
    cuda_wait_call wait(uint32_t item, uint32_t later)
    {
        return {&ring, &posts[item], &done[item], later, 0};
    }
    cuda_wait_call wait_until(uint32_t item, uint32_t count)
    {
        return {&ring, NULL, &done[item], count, 0};
    }
    void finish(uint32_t item)
    {
        __atomic_store_n(&done[item], done[item] + 1, __ATOMIC_RELEASE);
    }
};

/* Streams of an item each, two posts ahead as calls have them; what they copied before a post is there when it is taken. */
static void streams_of(uint32_t streams, uint32_t rounds, uint32_t first)
{
    machine m(streams);
    std::vector<uint32_t> in(2 * streams), out(2 * streams), seen(streams);
    std::vector<std::thread> threads;
    m.number = m.taken = m.ring.taken = first;
    for (uint32_t i = 0; i < CUDA_RING; i++) /* as if so many had been posted */
        m.ring.post[(first - 1 - i) % CUDA_RING] = first ? (uint64_t)(first - i) << 32 : 0;
    for (uint32_t s = 0; s < streams; s++) {
        m.posts[s] = m.done[s] = first;
        threads.emplace_back([&, s] {
            for (uint32_t r = 0; r <= rounds; r++) {
                if (r < rounds) {
                    in[2 * s + r % 2] = r + s;
                    staged_post(m.post(s));
                }
                if (!r)
                    continue;
                staged_wait(r % 3 ? m.wait(s, r < rounds) : m.wait_until(s, first + r));
                CHECK_EQ(out[2 * s + (r - 1) % 2], 2 * (r - 1 + s));
            }
        });
    }
    for (uint32_t left = streams * rounds, item; left;) {
        if (!cuda_ring_next(&m.ring, &m.taken, &item)) {
            sched_yield();
            continue;
        }
        CHECK_LT(item, streams);
        uint32_t r = seen[item]++, at = 2 * item + r % 2;
        CHECK_EQ(in[at], r + item);
        out[at] = 2 * in[at];
        m.finish(item);
        left--;
    }
    for (std::thread &t : threads)
        t.join();
    uint32_t item;
    CHECK(!cuda_ring_next(&m.ring, &m.taken, &item));
}

static void streams(void)
{
    streams_of(1, 3000, 0);
    streams_of(4, 2000, 0);
}

static void wrap(void)
{
    streams_of(2, 3000, 0xfffffe00u);
    streams_of(1, 3 * CUDA_RING, 0xfffffff0u);
}

/* A ring that is full holds posts up. */
static void full(void)
{
    machine m(1);
    uint32_t posted = 0, item;
    std::thread t([&] {
        for (uint32_t i = 0; i < 3 * CUDA_RING; i++) {
            staged_post(m.post(0));
            __atomic_store_n(&posted, i + 1, __ATOMIC_RELEASE);
        }
    });
    while (__atomic_load_n(&posted, __ATOMIC_ACQUIRE) < CUDA_RING)
        sched_yield();
    for (uint32_t i = 0; i < 3 * CUDA_RING; i++) {
        CHECK_LE(__atomic_load_n(&posted, __ATOMIC_ACQUIRE), i + CUDA_RING);
        while (!cuda_ring_next(&m.ring, &m.taken, &item))
            sched_yield();
        CHECK_EQ(item, 0);
        CHECK_EQ(m.taken, i + 1);
    }
    t.join();
}

static void aborted(void)
{
    machine m(2);
    std::thread wait([&] {
        staged_post(m.post(1));
        staged_wait(m.wait(1, 0));
    });
    std::thread post([&] {
        for (uint32_t i = 0; i < 2 * CUDA_RING; i++)
            staged_post(m.post(0));
    });
    __atomic_store_n(&m.ring.abort, 1u, __ATOMIC_RELEASE);
    wait.join();
    post.join();
}

TEST_MAIN(TEST(streams), TEST(wrap), TEST(full), TEST(aborted))
