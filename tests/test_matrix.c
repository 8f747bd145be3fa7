/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every algorithm, in every variant, on every transport: covering samples of sizes around the slot, types, operations, rank counts,
 * in and out of place, unaligned, with offsets, threads and processes. A job is one algorithm on one transport; its operations
 * are drawn from the seed (CHOIR_TEST_SEED), so is the order of jobs. Bounded in time: says how much of the product it covered;
 * --long runs all of it several times, job=N runs one.
 */
#include "comm/comm.h"
#include "tests/lib/matrix.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

#define OPS 64

enum mode { THREADS, SHM, TCP, MIXED, COPY, PAIRS, MODES };
static const char *const mode_name[] = {
    "threads", "shm", "tcp", "mixed hosts", "no single copy", "threads in processes"};

struct job {
    char algorithm[64];
    uint32_t kinds;
    enum mode mode;
    int ranks, operations;
    bool deterministic;
    uint64_t slot, seed, number;
};

static struct board { /* shared by all processes */
    struct choir_id id;
    uint64_t hash[OPS][MATRIX_RANKS];
    bool same[OPS];
    _Atomic uint64_t forced, operations;
} * board;
static int only = -1;

static enum choir_kind draw_kind(const struct job *j, int i, uint64_t *draw)
{
    uint64_t x = test_mix((*draw)++);
    if (x % 8 == 0)
        return (enum choir_kind)((x >> 8) % CHOIR_KINDS);
    for (uint32_t k = (uint32_t)i + (uint32_t)j->seed % CHOIR_KINDS;; k++)
        if (j->kinds >> k % CHOIR_KINDS & 1)
            return (enum choir_kind)(k % CHOIR_KINDS);
}

static void rank_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct choir_config config = CHOIR_CONFIG_INIT;
    config.deterministic = j->deterministic;
    config.aggregate_v = !strncmp(j->algorithm, "hierarchical", 12) && j->seed % 4 ? 1 : 0;
    choir_comm *c;
    CHECK_OK(choir_comm_create(&board->id, rank, size, &config, &c));
    uint64_t draw = j->seed;
    for (int i = 0; i < j->operations; i++) {
        struct matrix_op op;
        enum choir_kind kind = draw_kind(j, i, &draw);
        matrix_draw(&op, kind, size, j->slot, &draw);
        op.rank = rank;
        /* Twice: the second finds its plan kept. */
        for (int again = 0; again < 1 + (i % 5 == 0); again++)
            board->hash[i][rank] = matrix_run(c, &op, NULL);
        if (!rank)
            board->same[i] = kind == CHOIR_ALL_REDUCE;
        const struct host_bound *b = c->memo.bound;
        if (!rank && b && c->memo.what.kind == kind && !strcmp(b->algorithm, j->algorithm))
            board->forced++;
        board->operations += !rank;
    }
    CHECK_OK(choir_comm_destroy(c));
}

/* The k-th name of all algorithms and variants; false past the end. */
static bool algorithm_at(uint32_t k, struct job *j)
{
    const struct choir_algorithm *a;
    for (uint32_t i = 0; (a = plan_algorithm_at(i)); i++) {
        const char *v = a->variants;
        for (bool bare = true; bare || *v; k--, bare = false) {
            size_t n = bare ? 0 : strcspn(v, " ");
            if (!k) {
                j->kinds = a->kinds;
                snprintf(j->algorithm, sizeof(j->algorithm), bare ? "%s" : "%s(%.*s)", a->name,
                         (int)n, v);
                return true;
            }
            if (!bare)
                v += n + strspn(v + n, " ");
        }
    }
    return false;
}

static void run_job(struct job *j)
{
    static const char *const transports[] = {"self,shm,tcp", "self,shm,tcp", "self,tcp",
                                             "self,shm,tcp", "self,shm,tcp", "self,shm,tcp"};
    char algo[96], slot[64], transport[64];
    snprintf(algo, sizeof(algo), "CHOIR_ALGO=%s", j->algorithm);
    snprintf(slot, sizeof(slot), "CHOIR_SLOT=%" PRIu64, j->slot);
    snprintf(transport, sizeof(transport), "CHOIR_TRANSPORTS=%s", transports[j->mode]);
    const char *env[] = {algo,
                         slot,
                         transport,
                         "CHOIR_TIMEOUT=30s",
                         "CHOIR_CREATE_TIMEOUT=30s",
                         j->mode == COPY ? "CHOIR_SINGLE_COPY=0"
                         : j->seed & 1   ? "CHOIR_SINGLE_COPY=2"
                                         : "CHOIR_SINGLE_COPY=1",
                         NULL};
    struct test_ranks t = {.ranks = j->ranks, .env = env, .fn = rank_body, .arg = j};
    t.per_process = j->mode == THREADS ? j->ranks : j->mode == PAIRS ? 2 + (int)(j->seed % 2) : 1;
    t.hosts = j->mode == MIXED ? 2 + (int)(j->seed % 3) : 1;
    memset(board->hash, 0, sizeof(board->hash));
    test_id(&board->id);
    bool good = test_ranks_try(&t);
    for (int i = 0; i < j->operations && good; i++)
        for (int r = 1; r < j->ranks && good && board->same[i]; r++)
            if (board->hash[i][r] != board->hash[i][0]) {
                fprintf(stderr, "operation %d: ranks 0 and %d differ in bits\n", i, r);
                good = false;
            }
    if (!good)
        FAIL("job=%" PRIu64 ": %s, %s, %d ranks, slot %" PRIu64 "%s failed", j->number,
             j->algorithm, mode_name[j->mode], j->ranks, j->slot,
             j->deterministic ? ", deterministic" : "");
}

static void draw_job(struct job *j, uint64_t number, uint64_t algorithms)
{
    static const int ranks[] = {1, 2, 3, 5, 8, 13, 2, 3, 5, 4};
    uint64_t product = algorithms * MODES, x = test_mix(test_seed() + number);
    /* Each round meets every pair of algorithm and mode once, in an order of its own. */
    uint64_t at = (number % product * 7919 + test_seed() % product) % product;
    j->number = number;
    CHECK(algorithm_at((uint32_t)(at / MODES), j));
    j->mode = (enum mode)(at % MODES);
    j->seed = x;
    j->ranks = ranks[(number + (x >> 40)) % 10];
    if (!strncmp(j->algorithm, "hierarchical", 12))
        j->mode = MIXED, j->ranks = j->ranks < 3 ? 5 : j->ranks;
    j->slot = x >> 8 & 1 ? 4096 : 65536;
    j->deterministic = (x >> 9) % 8 == 0;
    j->operations = test_long() ? 40 : j->ranks > 5 ? 8 : 14;
}

static void samples(void)
{
    struct job j;
    uint64_t algorithms = 0, number = 0,
             limit = test_long() ? 900 : (uint64_t)TEST_BY_EFFORT(8, 25, 900),
             begin = test_now_ms() / 1000;
    test_deadline((unsigned)limit + 35);
    while (algorithm_at((uint32_t)algorithms, &j))
        algorithms++;
    uint64_t product = algorithms * MODES, most = test_long() ? 5 * product : product;
    CHECK(product % 7919);
    for (; number < most && test_now_ms() / 1000 < begin + limit; number++) {
        draw_job(&j, only >= 0 ? (uint64_t)only : number, algorithms);
        run_job(&j);
        if (only >= 0)
            return;
    }
    printf("%s: seed %" PRIu64 ": %" PRIu64 " jobs, %.0f%% of (%" PRIu64
           " algorithms and variants x %d transports); %" PRIu64 " operations, %" PRIu64
           " by the forced algorithm\n",
           test_long() ? "long run" : "short run (--long for more)", test_seed(), number,
           100 * (double)number / (double)product, algorithms, MODES,
           atomic_load(&board->operations), atomic_load(&board->forced));
    CHECK_LT(0, atomic_load(&board->forced));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(samples)};
    argc = test_long_main(argc, argv);
    if (argc > 1 && !strncmp(argv[1], "job=", 4))
        only = atoi(argv[1] + 4), argc = 1;
    board = test_shared(sizeof(*board));
    return test_main(argc, argv, cases, 1);
}
