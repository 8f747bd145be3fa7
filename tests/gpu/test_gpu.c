/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drawn operations on GPU memory, every kind, type and operation, checked byte by byte: ranks as threads and as processes, one and
 * several on a GPU, algorithms as chosen and each by force. Seeded (CHOIR_TEST_SEED).
 */
#include "plan/plan.h"
#include "tests/gpu/gpu.h"

struct job {
    struct choir_id id;
    int operations;
    uint64_t seed, slot;
    uint32_t kinds; /* mask; 0: all */
};

static void rank_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct gpu g;
    choir_comm *c;
    gpu_open(&g, rank);
    CHECK_OK(choir_comm_create(&j->id, rank, size, NULL, &c));
    uint64_t draw = j->seed;
    for (int i = 0; i < j->operations; i++) {
        struct matrix_op op;
        uint32_t kind = (uint32_t)(test_mix(draw++) % CHOIR_KINDS);
        while (j->kinds && !(j->kinds >> kind & 1))
            kind = (kind + 1) % CHOIR_KINDS;
        gpu_draw(&op, (enum choir_kind)kind, size, j->slot, &draw);
        op.rank = rank;
        op.elsewhere = &g.elsewhere;
        if (getenv("CHOIR_TEST_VERBOSE"))
            fprintf(stderr, "%d: %s\n", i, matrix_text(&op));
        for (int again = 0; again < 1 + (i % 5 == 0); again++)
            matrix_run(c, &op, g.choir);
    }
    CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g);
}

static void run_with(const char *setting, int ranks, int per_process, int operations, uint64_t slot,
                     uint32_t kinds, const char *algorithm)
{
    struct job j = {.operations = operations, .seed = test_seed(), .slot = slot, .kinds = kinds};
    char algo[96];
    snprintf(algo, sizeof(algo), "CHOIR_ALGO=%s", algorithm);
    const char *env[] = {algo, "CHOIR_TIMEOUT=20s", "CHOIR_CREATE_TIMEOUT=60s", setting, NULL};
    struct test_ranks t = {
        .ranks = ranks, .per_process = per_process, .env = env, .fn = rank_body, .arg = &j};
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_deadline(240);
    test_id(&j.id);
    if (!test_ranks_try(&t))
        FAIL("%d ranks, %d in a process, slot %" PRIu64 ", algorithm \"%s\"", ranks, per_process,
             slot, algorithm);
}

static void run(int ranks, int per_process, int operations, uint64_t slot, uint32_t kinds,
                const char *algorithm)
{
    run_with(NULL, ranks, per_process, operations, slot, kinds, algorithm);
}

static void threads(void)
{
    run(2, 2, TEST_BY_EFFORT(60, 300, 2000), 4096, 0, "");
    run(2, 2, TEST_BY_EFFORT(20, 60, 400), 65536, 0, "");
}

static void processes(void)
{
    run(2, 1, TEST_BY_EFFORT(60, 300, 2000), 4096, 0, "");
    run(2, 1, TEST_BY_EFFORT(20, 60, 400), 65536, 0, "");
}

static void several_on_a_gpu(void)
{
    run(1, 1, 40, 65536, 0, "");
    run(3, 3, TEST_BY_EFFORT(20, 60, 400), 4096, 0, "");
    run(4, 4, TEST_BY_EFFORT(20, 100, 400), 16384, 0, "");
    run(8, 8, TEST_BY_EFFORT(10, 60, 200), 4096, 0, "");
}

/* CUDA IPC, where ranks share memory by mapping else. */
static void by_handle(void)
{
    run_with("CHOIR_CUDA_VMM=off", 2, 1, TEST_BY_EFFORT(20, 60, 400), 4096, 0, "");
    run_with("CHOIR_CUDA_VMM=off", 4, 2, TEST_BY_EFFORT(5, 15, 100), 16384, 0, "");
    run_with("CHOIR_CUDA_VMM=off", 3, 3, TEST_BY_EFFORT(10, 30, 200), 4096, 0, "");
}

/* Processes that share a GPU take turns of some milliseconds. */
static void processes_on_a_gpu(void)
{
    run(4, 1, TEST_BY_EFFORT(5, 15, 100), 4096, 0, "");
    run(4, 2, TEST_BY_EFFORT(5, 15, 100), 4096, 0, "");
}

/* Each algorithm by force, where all ranks are threads: most are run by the interpreter. */
static void algorithms(void)
{
    const struct choir_algorithm *a;
    for (uint32_t i = 0; (a = plan_algorithm_at(i)); i++)
        for (int ranks = 2; ranks <= 5; ranks += 3) {
            uint32_t kinds = a->kinds;
            run(ranks, ranks, TEST_BY_EFFORT(6, 16, 80), 65536, kinds, a->name);
        }
}

TEST_MAIN(TEST(threads), TEST(processes), TEST(by_handle), TEST(several_on_a_gpu), TEST(algorithms),
          TEST(processes_on_a_gpu))
