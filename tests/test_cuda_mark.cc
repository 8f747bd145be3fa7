/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cuda_mark.cc: marks of GPUs (kernel/mark.cuh, mark.h): all that there is room for are read once and in order; what was written
 * over is counted, also while it is read, and across the end of the numbers.
 */
#include "cuda/kernel/mark.cuh"
#include "cuda/mark.h"
#include <thread>
#include <vector>
extern "C" {
#include "tests/lib/test.h"
}

struct machine {
    cuda_marks ring = {};
    uint32_t number = 0, taken = 0;

    /* As if so many marks had been left and taken. */
    explicit machine(uint32_t before) : number(before), taken(before)
    {
        for (uint32_t i = 0; before && i < CUDA_MARKS; i++)
            ring.mark[(before - 1 - i) % CUDA_MARKS].number = CUDA_MARK_WHOLE | (before - i);
    }
    void leave(uint64_t id)
    {
        leave_mark({&ring, &number, id, (uint32_t)id % 2, 0});
    }
    bool next(cuda_mark *m, uint32_t *lost)
    {
        return cuda_marks_next(&ring, &taken, m, lost);
    }
};

static void rounds(uint32_t before, uint32_t each)
{
    machine *x = new machine(before);
    uint64_t left = 0, seen = 0, last_ns = 0;
    cuda_mark m;
    uint32_t lost;
    CHECK(!x->next(&m, &lost));
    CHECK_EQ(lost, 0);
    for (int round = 0; round < 7; round++) {
        for (uint32_t i = 0; i < each; i++)
            x->leave(left++);
        uint32_t gone = each > CUDA_MARKS ? each - CUDA_MARKS : 0;
        for (uint32_t i = gone; i < each; i++) {
            CHECK(x->next(&m, &lost));
            CHECK_EQ(lost, i == gone ? gone : 0);
            seen += lost;
            CHECK_EQ(m.id, seen++);
            CHECK_EQ(m.end, m.id % 2);
            CHECK_LE(last_ns, m.time_ns);
            last_ns = m.time_ns;
        }
        CHECK(!x->next(&m, &lost));
        CHECK_EQ(lost, 0);
    }
    delete x;
}

static void in_order(void)
{
    static const uint32_t each[] = {
        1, 2, CUDA_MARKS - 1, CUDA_MARKS, CUDA_MARKS + 1, 3 * CUDA_MARKS + 7};
    for (uint32_t n : each)
        for (uint32_t before : {0u, 5u, 0xffffff00u, 0xffffffffu - n, 0xffffffffu})
            rounds(before, n);
}

/* A stream that goes on while its marks are read: none is torn, none comes twice. */
static void behind(uint32_t before, uint64_t marks)
{
    machine *x = new machine(before);
    uint64_t seen = 0;
    std::thread stream([&] {
        for (uint64_t i = 0; i < marks; i++)
            x->leave(i);
    });
    while (seen < marks) {
        cuda_mark m;
        uint32_t lost;
        bool got = x->next(&m, &lost);
        seen += lost;
        if (!got) {
            sched_yield();
            continue;
        }
        CHECK_EQ(m.id, seen++);
        CHECK_EQ(m.end, m.id % 2);
        if (seen % 999 == 0) /* falls behind */
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    stream.join();
    CHECK_EQ(seen, marks);
    delete x;
}

static void while_read(void)
{
    behind(0, (uint64_t)TEST_BY_EFFORT(20000, 200000, 2000000));
    behind(0xfffffff0u, (uint64_t)TEST_BY_EFFORT(20000, 200000, 2000000));
}

TEST_MAIN(TEST(in_order), TEST(while_read))
