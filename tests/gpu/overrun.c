/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overrun.c: a mistake that a memory checker has to find, in kernels of the library and in processes like those of the tests: two
 * ranks sum twice as many elements as their buffers have. tests/check/gpu_sanitizer runs it first; no test does.
 */
#include "tests/gpu/gpu.h"
#include <unistd.h>

#define ELEMENTS 100

static void overrun_body(int rank, int size, void *arg)
{
    const struct choir_id *id = arg;
    struct gpu g;
    choir_comm *c;
    CUdeviceptr few;
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(id, rank, size, NULL, &c));
    GPU_OK(g.cu->cuMemAlloc(&few, ELEMENTS * sizeof(float)));
    void *out = gpu_alloc(&g, 2 * ELEMENTS * sizeof(float));
    CHECK_OK(choir_all_reduce(c, (const void *)(uintptr_t)few, out, 2 * ELEMENTS, CHOIR_FLOAT32,
                              CHOIR_SUM, g.choir));
    g.cu->cuStreamSynchronize(g.stream); /* fails where the checker ends the context */
    _exit(0);
}

static void overrun(void)
{
    struct choir_id id;
    const char *env[] = {"CHOIR_TIMEOUT=5s", "CHOIR_CREATE_TIMEOUT=10s", NULL};
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_id(&id);
    test_ranks(2, env, overrun_body, &id);
}

TEST_MAIN(TEST(overrun))
