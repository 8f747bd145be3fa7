/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The constants of links between GPUs: measured by the first communicator of a kind, read by the next, the same on all ranks
 * whatever their own settings; and what happens where there is no file, a damaged one, no place for one, or a rank that dies.
 */
#include "base/knob.h"
#include "comm/device.h"
#include "plan/tuning.h"
#include "tests/gpu/gpu.h"
#include "tests/lib/program.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#define RANKS_MOST 4

/* What ranks tell the test. */
struct seen {
    struct plan_tuned tuned;
    uint64_t table;
};
struct job {
    struct choir_id id[2];
    int communicators;
    bool odd_rank_alone; /* the last rank has settings of its own: no folder, and off */
    bool nonblocking;
    struct seen (*seen)[RANKS_MOST]; /* [communicators] */
};

static struct seen look_at(const choir_comm *c)
{
    const struct plan_cluster *k = &c->device->cluster;
    const struct plan_cost *l = &k->link[PLAN_LINK_HOST];
    return (struct seen){{.alpha_ns = l->alpha_ns,
                          .overhead_ns = l->overhead_ns,
                          .beta_ns = l->beta_ns,
                          .rank_beta_ns = l->rank_beta_ns,
                          .step_ns = k->step_ns},
                         plan_table_hash(c->device->table)};
}

/* One operation of each form, and of the interpreter: numbers of messages go on where measuring ended. */
static void works(struct gpu *g, choir_comm *c, int size)
{
    static const uint64_t counts[] = {1, 20000, 100000, 700000};
    float *one = malloc(700000 * sizeof(*one)), *memory = gpu_alloc(g, 700000 * sizeof(*one));
    CHECK(one && memory);
    for (size_t k = 0; k < sizeof(counts) / sizeof(*counts); k++) {
        for (uint64_t i = 0; i < counts[k]; i++)
            one[i] = 1;
        gpu_put(g, memory, one, counts[k] * sizeof(*one));
        CHECK_OK(
            choir_all_reduce(c, memory, memory, counts[k], CHOIR_FLOAT32, CHOIR_SUM, g->choir));
        gpu_get(g, one, memory, counts[k] * sizeof(*one));
        for (uint64_t i = 0; i < counts[k]; i++)
            CHECK_EQ(one[i], size);
    }
    gpu_free(g, memory);
    free(one);
}

static void body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct choir_config config = CHOIR_CONFIG_INIT;
    struct gpu g;
    choir_comm *c;
    if (j->odd_rank_alone && rank == size - 1) {
        setenv("CHOIR_TUNE", "off", 1), setenv("CHOIR_TUNE_DIR", "/proc/none", 1);
        knob_reload();
    }
    config.blocking = !j->nonblocking;
    gpu_open(&g, rank);
    for (int i = 0; i < j->communicators; i++) {
        enum choir_status st = choir_comm_create(&j->id[i], rank, size, &config, &c);
        for (; st == CHOIR_IN_PROGRESS; st = choir_comm_status(c))
            test_sleep_ms(1);
        CHECK_OK(st);
        j->seen[i][rank] = look_at(c);
        if (!i)
            works(&g, c, size);
        CHECK_OK(choir_comm_destroy(c));
    }
    gpu_close(&g);
}

static bool is_fake(void)
{
    return getenv("FAKE_CUDA_CLOCK") != NULL;
}

/* --- the folder ------------------------------------------------------------------------------------- */

static char folder[512], folder_knob[600];

/* A new one for a case, empty; the tests' own children know it by their environment. */
static void fresh(const char *name)
{
    test_path(folder, sizeof(folder), name);
    snprintf(folder_knob, sizeof(folder_knob), "CHOIR_TUNE_DIR=%s", folder);
}

/* How many files there are; path: of the last. */
static int files(char *path, size_t bytes)
{
    int n = 0;
    DIR *d = opendir(folder);
    struct dirent *e;
    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.') {
            CHECK_LT(snprintf(path, bytes, "%s/%s", folder, e->d_name), bytes);
            n++;
        }
    if (d)
        closedir(d);
    return n;
}

static ino_t only_file(char path[1024], struct tuning *t)
{
    struct stat st;
    CHECK_EQ(files(path, 1024), 1);
    CHECK_OK(plan_tuning_read(path, t));
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0600);
    return st.st_ino;
}

/* Runs a job; all ranks of a communicator have the same constants and table. */
static struct plan_tuned run(int ranks, int per_process, const char *tune, struct job *j)
{
    const char *env[] = {tune, folder_knob, "CHOIR_TIMEOUT=30s", NULL};
    struct test_ranks t = {
        .ranks = ranks, .per_process = per_process, .env = env, .fn = body, .arg = j};
    j->seen = test_shared(2 * sizeof(*j->seen));
    test_id(&j->id[0]), test_id(&j->id[1]);
    CHECK(test_ranks_try(&t));
    for (int i = 0; i < j->communicators; i++)
        for (int r = 0; r < ranks; r++)
            CHECK(!memcmp(&j->seen[i][r], &j->seen[0][0], sizeof(j->seen[0][0])));
    return j->seen[0][0].tuned;
}

static bool same(const struct plan_tuned *a, const struct plan_tuned *b)
{
    return !memcmp(a, b, sizeof(*a));
}

static void need(int gpus)
{
    int n = gpu_count();
    test_deadline(120);
    if (n < gpus)
        test_skip("GPUs: %d are there, not %d", n, gpus);
}

/* --- cases -------------------------------------------------------------------------------------------- */

static void first_measures_next_reads(int ranks, int per_process)
{
    char path[1024];
    struct tuning kept, later;
    struct job j = {.communicators = 2};
    struct plan_tuned a = run(ranks, per_process, "CHOIR_TUNE=auto", &j);
    ino_t first = only_file(path, &kept);
    CHECK(same(&a, &kept.tuned) && !same(&a, &plan_tuned_default));
    CHECK_EQ(kept.ranks, ranks);
    CHECK_EQ(kept.timings, ranks > 2 ? 7 : 4);
    struct plan_tuned b =
        run(ranks, per_process, "CHOIR_TUNE=auto", &(struct job){.communicators = 1});
    CHECK(same(&a, &b));
    CHECK_EQ(only_file(path, &later), first); /* it was not written again */
}

static void again(void)
{
    char path[1024];
    struct tuning kept;
    need(1);
    fresh("again");
    run(2, 2, "CHOIR_TUNE=auto", &(struct job){.communicators = 1});
    ino_t first = only_file(path, &kept);
    struct plan_tuned c = run(2, 2, "CHOIR_TUNE=again", &(struct job){.communicators = 1});
    CHECK_NE(only_file(path, &kept), first);
    CHECK(same(&c, &kept.tuned));
}

static void threads(void)
{
    need(1);
    fresh("threads");
    first_measures_next_reads(2, 2);
}

static void threads_of_three(void)
{
    need(1);
    fresh("three");
    first_measures_next_reads(3, 3);
}

static void processes(void)
{
    need(2);
    fresh("processes");
    first_measures_next_reads(2, 1);
}

static void off(void)
{
    char path[1024];
    need(1);
    fresh("off");
    struct plan_tuned c = run(2, 2, "CHOIR_TUNE=off", &(struct job){.communicators = 1});
    CHECK(same(&c, &plan_tuned_default));
    CHECK_EQ(files(path, sizeof(path)), 0);
}

/* Rank 0 decides, also for one that has no folder and is not to measure. */
static void one_without_folder(void)
{
    char path[1024];
    struct tuning kept;
    struct job j = {.odd_rank_alone = true, .communicators = 2};
    need(2);
    fresh("one");
    struct plan_tuned c = run(2, 1, "CHOIR_TUNE=auto", &j);
    only_file(path, &kept);
    CHECK(same(&c, &kept.tuned));
}

/* Rank 0 cannot write: measured all the same, and once for the process. */
static void no_folder(void)
{
    struct job j = {.communicators = 2};
    need(1);
    snprintf(folder_knob, sizeof(folder_knob), "CHOIR_TUNE_DIR=/proc/none");
    struct plan_tuned c = run(2, 2, "CHOIR_TUNE=auto", &j);
    CHECK(!same(&c, &plan_tuned_default));
}

static void damaged(void)
{
    char path[1024];
    struct tuning kept;
    need(1);
    fresh("damaged");
    struct plan_tuned a = run(2, 2, "CHOIR_TUNE=auto", &(struct job){.communicators = 1});
    only_file(path, &kept);
    int fd = open(path, O_WRONLY | O_TRUNC);
    CHECK(fd >= 0 && write(fd, "choir tuning 1\nkey", 18) == 18);
    close(fd);
    struct plan_tuned b = run(2, 2, "CHOIR_TUNE=auto", &(struct job){.communicators = 1});
    only_file(path, &kept); /* sound again */
    CHECK(same(&b, &kept.tuned));
    if (is_fake())
        CHECK(same(&a, &b));
}

static void nonblocking(void)
{
    char path[1024];
    struct tuning kept;
    need(1);
    fresh("nonblocking");
    struct plan_tuned c =
        run(2, 2, "CHOIR_TUNE=auto", &(struct job){.nonblocking = true, .communicators = 1});
    only_file(path, &kept);
    CHECK(same(&c, &kept.tuned));
}

/* Processes take turns on a GPU: nothing is measured. */
static void shared_gpu(void)
{
    char path[1024];
    int n = gpu_count();
    need(1);
    if (n + 1 > RANKS_MOST + 1)
        test_skip("GPUs: more than %d", RANKS_MOST);
    fresh("shared");
    setenv("FAKE_CUDA_GPUS", "1", 1);
    if (gpu_count() == 1) {
        struct plan_tuned c = run(2, 1, "CHOIR_TUNE=auto", &(struct job){.communicators = 1});
        CHECK(same(&c, &plan_tuned_default));
        CHECK_EQ(files(path, sizeof(path)), 0);
    } else {
        test_skip_part("processes on one GPU: there are several");
    }
    setenv("FAKE_CUDA_GPUS", "4", 1);
}

/* Other links, another driver's word for them: another kind of machine. */
static void other_machine(void)
{
    char path[1024];
    need(1);
    if (!is_fake())
        test_skip("a machine of two kinds");
    fresh("other");
    run(2, 2, "CHOIR_TUNE=auto", &(struct job){.communicators = 1});
    CHECK_EQ(files(path, sizeof(path)), 1);
    setenv("FAKE_CUDA_LINK", "1", 1);
    run(2, 2, "CHOIR_TUNE=auto", &(struct job){.communicators = 1});
    unsetenv("FAKE_CUDA_LINK");
    CHECK_EQ(files(path, sizeof(path)), 2);
    run(3, 3, "CHOIR_TUNE=auto", &(struct job){.communicators = 1});
    CHECK_EQ(files(path, sizeof(path)), 3);
}

/* choir-info names the entry, choir-plan prices with it. */
static void tools(void)
{
    static char output[1 << 18];
    char path[1024];
    struct tuning kept;
    need(1);
    fresh("tools");
    run(2, 2, "CHOIR_TUNE=auto", &(struct job){.communicators = 1});
    only_file(path, &kept);
    setenv("CHOIR_TUNE_DIR", folder, 1);
    CHECK_EQ(test_program(20, output, sizeof(output), "choir-info", "--gpus"), 0);
    CHECK_TIMES(output, 1, path);
    CHECK_EQ(
        test_program(20, output, sizeof(output), "choir-plan", "all_reduce 1M --tuning %s", path),
        0);
    CHECK_TIMES(output, 1, "measured between 2");
    CHECK_TIMES(output, 1, path);
    setenv("CHOIR_TUNE_DIR", "/proc/none", 1);
    CHECK_EQ(test_program(20, output, sizeof(output), "choir-info", "--gpus"), 0);
    CHECK_TIMES(output, 1, "nothing measured yet in /proc/none");
}

/* One thread drives all ranks, of two communicators, whose creations come between each other's steps. To free memory waits
 * for the GPU meanwhile: that of a communicator closed before. */
static void group(void)
{
    enum { RANKS = 3 };
    struct choir_id id[3];
    struct gpu g[RANKS];
    choir_comm *c[3][RANKS];
    need(1);
    fresh("group");
    setenv("CHOIR_TUNE", "again", 1), setenv("CHOIR_TUNE_DIR", folder, 1);
    knob_reload();
    for (int i = 0; i < 3; i++)
        CHECK_OK(choir_id_create(&id[i]));
    for (int r = 0; r < RANKS; r++)
        gpu_open(&g[r], r);
    for (int from = 0; from < 3; from += 1 + from) { /* one alone, then two at once */
        CHECK_OK(choir_group_start());
        for (int i = from; i <= 2 * from; i++)
            for (int r = 0; r < RANKS; r++) {
                GPU_OK(g[r].cu->cuCtxSetCurrent(g[r].context));
                CHECK_OK(choir_comm_create(&id[i], r, RANKS, NULL, &c[i][r]));
            }
        CHECK_OK(choir_group_end());
        for (int i = from; i <= 2 * from; i++)
            for (int r = 0; r < RANKS; r++) {
                struct seen a = look_at(c[i][0]), b = look_at(c[i][r]);
                CHECK(!memcmp(&a, &b, sizeof(a)));
                CHECK(!same(&a.tuned, &plan_tuned_default));
            }
        for (int i = from; i <= 2 * from; i++)
            for (int r = 0; r < RANKS; r++)
                CHECK_OK(choir_comm_destroy(c[i][r]));
    }
    for (int r = 0; r < RANKS; r++)
        GPU_OK(g[r].cu->cuCtxSetCurrent(g[r].context)), gpu_close(&g[r]);
}

static void group_of_one_thread(void)
{
    pid_t pid = test_fork(NULL);
    if (!pid)
        group(), _exit(0);
    CHECK_EQ(test_reap(pid, 60000), 0);
}

/* At its 20th launch, in the middle of the exchanges, the last rank is gone. The creation that failed, not destroyed yet, is
 * in no other's way. */
static void dying_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    struct choir_config config = CHOIR_CONFIG_INIT;
    struct choir_error e = {.bytes = sizeof(e)};
    struct choir_id alone;
    struct gpu g;
    choir_comm *c = NULL, *next;
    if (rank == size - 1)
        setenv("FAKE_CUDA_LAUNCHES", "20", 1);
    config.blocking = rank != 0;
    gpu_open(&g, rank);
    enum choir_status st = choir_comm_create(&j->id[0], rank, size, &config, &c);
    for (; st == CHOIR_IN_PROGRESS; st = choir_comm_status(c))
        test_sleep_ms(1);
    CHECK_EQ(st, CHOIR_ERR_PEER_DEAD);
    CHECK_EQ(c != NULL, rank == 0);
    CHECK_OK(choir_comm_last_error(c, &e));
    CHECK_EQ(e.peer, size - 1);
    CHECK_OK(choir_id_create(&alone));
    CHECK_OK(choir_comm_create(&alone, 0, 1, NULL, &next));
    CHECK_OK(choir_comm_destroy(next));
    if (c)
        CHECK_OK(choir_comm_destroy(c));
    gpu_close(&g); /* no kernel hangs */
}

static void dying(void)
{
    char path[1024];
    struct job j = {.communicators = 1};
    const char *env[] = {"CHOIR_TUNE=auto", folder_knob, NULL};
    struct test_ranks t = {.ranks = 3, .per_process = 1, .env = env, .fn = dying_body, .arg = &j};
    need(3);
    if (!is_fake())
        test_skip("a rank that dies at a launch: a GPU does not do that");
    fresh("dying");
    test_id(&j.id[0]);
    CHECK(test_ranks_try(&t));
    CHECK_EQ(files(path, sizeof(path)), 0);
}

/* It stops there: the others' kernels name it, within half of what a creation may take. */
static void late_body(int rank, int size, const struct choir_id *id)
{
    struct choir_config config = CHOIR_CONFIG_INIT;
    struct choir_error e = {.bytes = sizeof(e)};
    struct gpu g;
    choir_comm *c = NULL;
    config.create_timeout_ns = 2500000000u;
    if (rank == size - 1)
        setenv("FAKE_CUDA_LAUNCHES", "-20", 1);
    gpu_open(&g, rank);
    CHECK_EQ(choir_comm_create(id, rank, size, &config, &c), CHOIR_ERR_TIMEOUT);
    CHECK_OK(choir_comm_last_error(NULL, &e));
    CHECK_EQ(e.peer, size - 1);
    CHECK(strstr(e.remedy, "CHOIR_CREATE_TIMEOUT"));
    gpu_close(&g);
}

static void late(void)
{
    enum { RANKS = 2 };
    struct choir_id id;
    pid_t pid[RANKS];
    const char *env[] = {"CHOIR_TUNE=again", folder_knob, NULL};
    need(2);
    if (!is_fake())
        test_skip("a rank that stops at a launch: a GPU does not do that");
    fresh("late");
    test_id(&id);
    for (int r = 0; r < RANKS; r++)
        if (!(pid[r] = test_fork(env)))
            late_body(r, RANKS, &id), _exit(0);
    CHECK_EQ(test_reap(pid[0], 20000), 0);
    kill(pid[1], SIGKILL);
    CHECK_EQ(test_reap(pid[1], 20000), 128 + SIGKILL);
}

/* No link is like that: the built-in constants stay, and nothing is kept. */
static void nonsense(void)
{
    char path[1024], clock[64];
    need(1);
    if (!is_fake())
        test_skip("a GPU whose kernels take what a test wants");
    fresh("nonsense");
    snprintf(clock, sizeof(clock), "%s", getenv("FAKE_CUDA_CLOCK"));
    setenv("FAKE_CUDA_CLOCK", "200000:0:0", 1);
    struct plan_tuned c = run(2, 2, "CHOIR_TUNE=auto", &(struct job){.communicators = 1});
    setenv("FAKE_CUDA_CLOCK", clock, 1);
    CHECK(same(&c, &plan_tuned_default));
    CHECK_EQ(files(path, sizeof(path)), 0);
}

TEST_MAIN(TEST(threads), TEST(threads_of_three), TEST(processes), TEST(again), TEST(off),
          TEST(one_without_folder), TEST(no_folder), TEST(damaged), TEST(nonblocking),
          TEST(other_machine), TEST(tools), TEST(group_of_one_thread), TEST(dying), TEST(late),
          TEST(nonsense), TEST(shared_gpu))
