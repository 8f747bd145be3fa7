/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is kept of links between GPUs: the key of a kind of machine, the text, and the files: whole, damaged, foreign, and
 * written by many at once. No GPU has a part in it.
 */
#include "base/knob.h"
#include "plan/tuning.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- the key -------------------------------------------------------------------------------------------- */

static void key(void)
{
    struct tuning_facts f = {.ranks = 4, .cuda = 12, .gpu = {1, 1, 1, 1}, .place = {0, 1, 2, 3}};
    uint64_t was = plan_tuning_key(&f), now;
    CHECK_EQ(was, plan_tuning_key(&(struct tuning_facts){
                      .ranks = 4, .cuda = 12, .gpu = {1, 1, 1, 1}, .place = {0, 1, 2, 3}}));
#define CHANGES(what, to)                                                                          \
    do {                                                                                           \
        struct tuning_facts g = f;                                                                 \
        g.what = to;                                                                               \
        now = plan_tuning_key(&g);                                                                 \
        CHECK(now != was);                                                                         \
    } while (0)
    CHANGES(ranks, 3);
    CHANGES(cuda, 13);
    CHANGES(gpu[3], 2);
    CHANGES(place[3], 2);
    for (int a = 0; a < 4; a++)
        for (int b = a + 1; b < 4; b++)
            CHANGES(link[a][b], 7);
    /* Which of two pairs is the fast one matters. */
    struct tuning_facts x = f, y = f;
    x.link[0][1] = y.link[2][3] = 5;
    CHECK(plan_tuning_key(&x) != plan_tuning_key(&y));
    /* What is beyond the ranks does not. */
    x = f;
    x.gpu[7] = 3, x.link[3][5] = 9;
    CHECK(plan_tuning_key(&x) == was);
}

/* --- text and files --------------------------------------------------------------------------------------- */

/* Constants that are believed, and timings of any kind. */
static struct tuning some_tuning(uint64_t *seed)
{
    struct tuning t = {.key = base_random(seed), .ranks = 4, .gpus = 2, .cuda = 12};
    const struct plan_tuned *d = &plan_tuned_default;
    double x[5];
    for (int i = 0; i < 5; i++)
        x[i] = .3 + (double)(base_random(seed) % 1000000) / 3e5;
    plan_tuning_name("NVIDIA H100 80GB HBM3", t.gpu);
    t.tuned = (struct plan_tuned){.alpha_ns = d->alpha_ns * x[0],
                                  .overhead_ns = d->overhead_ns * x[1],
                                  .beta_ns = d->beta_ns * x[2],
                                  .rank_beta_ns = d->rank_beta_ns * x[3],
                                  .step_ns = d->step_ns * x[4]};
    for (; t.timings < 7; t.timings++)
        t.timing[t.timings] = (struct tuning_timing){1 + 2 * (t.timings & 1), 8ull << 3 * t.timings,
                                                     (double)(base_random(seed) % 100000000) / 7};
    return t;
}

static bool near_to(double a, double b)
{
    return fabs(a - b) <= 1e-3 * fabs(b);
}

static void numbers(void)
{
    const struct {
        double v;
        const char *text;
    } row[] = {{700, "700"},
               {.0029, "0.0029"},
               {123456, "123500"},
               {0, "0"},
               {-1, "0"},
               {.00030004, "0.0003"},
               {1, "1"},
               {9999.6, "10000"},
               {49.766, "49.77"},
               {1e-9, "0.000000001"},
               {NAN, "0"},
               {12.5, "12.5"},
               {.00123456, "0.001235"}};
    for (size_t i = 0; i < base_count(row); i++) {
        char text[TUNING_NUMBER];
        plan_tuning_number(row[i].v, text);
        CHECK_STR(text, row[i].text);
    }
}

static void round_trip(void)
{
    uint64_t seed = test_seed();
    char text[TUNING_TEXT], again[TUNING_TEXT];
    for (int i = 0; i < 200; i++) {
        struct tuning t = some_tuning(&seed), back, twice;
        plan_tuning_dump(&t, text);
        CHECK_OK(plan_tuning_parse(text, &back));
        CHECK(back.key == t.key && back.ranks == t.ranks && back.gpus == t.gpus &&
              back.cuda == t.cuda && back.timings == t.timings && !strcmp(back.gpu, t.gpu));
        CHECK(near_to(back.tuned.alpha_ns, t.tuned.alpha_ns) &&
              near_to(back.tuned.overhead_ns, t.tuned.overhead_ns) &&
              near_to(back.tuned.beta_ns, t.tuned.beta_ns) &&
              near_to(back.tuned.rank_beta_ns, t.tuned.rank_beta_ns) &&
              near_to(back.tuned.step_ns, t.tuned.step_ns));
        for (uint32_t k = 0; k < t.timings; k++)
            CHECK(back.timing[k].bytes == t.timing[k].bytes &&
                  near_to(back.timing[k].ns, t.timing[k].ns));
        /* What was read once stays as it is. */
        plan_tuning_dump(&back, again);
        CHECK_STR(again, text);
        CHECK_OK(plan_tuning_parse(again, &twice));
        CHECK(!memcmp(&twice.tuned, &back.tuned, sizeof(twice.tuned)));
    }
    struct tuning longest = {.key = UINT64_MAX, .ranks = 16, .gpus = 16, .cuda = 1000};
    memset(longest.gpu, 'N', sizeof(longest.gpu) - 1);
    longest.tuned = plan_tuned_default;
    longest.timings = TUNING_TIMINGS;
    for (uint32_t k = 0; k < TUNING_TIMINGS; k++)
        longest.timing[k] = (struct tuning_timing){15, 1ull << 40, 1.234e12};
    plan_tuning_dump(&longest, text);
    CHECK_OK(plan_tuning_parse(text, &longest));
    CHECK_LT(strlen(text), TUNING_TEXT / 2);
}

static void names(void)
{
    char name[TUNING_GPU], longest[200];
    plan_tuning_name("4090 \xc3\xa9 #1\n", name);
    CHECK_STR(name, "_4090_____1_");
    plan_tuning_name("", name);
    CHECK_STR(name, "_");
    memset(longest, 'x', sizeof(longest)), longest[199] = 0;
    plan_tuning_name(longest, name);
    CHECK_EQ(strlen(name), TUNING_GPU - 1);
}

/* Every byte changed, every length, and rubbish: refused, or what was written. */
static void fuzz(void)
{
    uint64_t seed = test_seed();
    struct tuning t = some_tuning(&seed), whole, back;
    char text[TUNING_TEXT], other[TUNING_TEXT];
    plan_tuning_dump(&t, text);
    CHECK_OK(plan_tuning_parse(text, &whole));
    size_t bytes = strlen(text);
    for (size_t i = 0; i + 1 < bytes; i++) { /* the last line's end may be missing */
        memcpy(other, text, bytes + 1);
        other[i] = 0;
        CHECK_NE(plan_tuning_parse(other, &back), CHOIR_OK);
    }
    for (int i = 0; i < TEST_BY_EFFORT(2000, 20000, 200000); i++) {
        memcpy(other, text, bytes + 1);
        for (uint64_t k = base_random(&seed) % 4 + 1; k; k--)
            other[base_random(&seed) % bytes] = (char)(base_random(&seed) % 255 + 1);
        if (plan_tuning_parse(other, &back) == CHOIR_OK)
            CHECK(!memcmp(&back, &whole, sizeof(back)));
    }
    for (int i = 0; i < 2000; i++) {
        size_t n = base_random(&seed) % (TUNING_TEXT - 1);
        for (size_t k = 0; k < n; k++)
            other[k] = (char)(base_random(&seed) % 255 + 1);
        other[n] = 0;
        CHECK_NE(plan_tuning_parse(other, &back), CHOIR_OK);
    }
}

/* What is whole but not to be believed. */
static void out_of_range(void)
{
    uint64_t seed = 3;
    struct tuning t = some_tuning(&seed), back;
    double *field[] = {&t.tuned.alpha_ns, &t.tuned.overhead_ns, &t.tuned.beta_ns,
                       &t.tuned.rank_beta_ns, &t.tuned.step_ns};
    char text[TUNING_TEXT];
    for (size_t i = 0; i < base_count(field); i++)
        for (int far = 0; far < 2; far++) {
            double was = *field[i];
            *field[i] *= far ? 1e4 : 1e-4;
            plan_tuning_dump(&t, text);
            *field[i] = was;
            CHECK_EQ(plan_tuning_parse(text, &back), CHOIR_ERR_ARGUMENT);
            CHECK(strstr(base_error_thread()->text, "too far"));
        }
    t.ranks = 17;
    plan_tuning_dump(&t, text);
    CHECK_EQ(plan_tuning_parse(text, &back), CHOIR_ERR_ARGUMENT);
}

static void use_folder(const char *path)
{
    setenv("CHOIR_TUNE_DIR", path, 1);
    knob_reload();
}

static void put_text(const char *path, const char *text, mode_t mode)
{
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    CHECK_EQ(fchmod(fd, mode), 0);
    close(fd);
}

static void count_one(const struct tuning *t, const char *path, void *arg)
{
    CHECK(t->ranks == 4 && strstr(path, ".tuning"));
    ++*(int *)arg;
}

static void files(void)
{
    uint64_t seed = test_seed();
    char folder[512], path[1024];
    struct tuning t = some_tuning(&seed), other = some_tuning(&seed), back;
    struct stat st;
    int n = 0;
    test_path(folder, sizeof(folder), "a/b/c"); /* none of these is there */
    use_folder(folder);
    CHECK(!plan_tuning_find(t.key, &back, path, sizeof(path)));
    CHECK_OK(plan_tuning_keep(&t, path, sizeof(path)));
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0600);
    CHECK_EQ(stat(folder, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0700);
    CHECK(plan_tuning_find(t.key, &back, path, sizeof(path)) && back.key == t.key);
    CHECK(!plan_tuning_find(other.key, &back, path, sizeof(path)));
    plan_tuning_each(count_one, &n);
    CHECK_EQ(n, 1);
}

/* In another's place; written by others; empty; too long; no file at all. */
static void foreign_files(void)
{
    uint64_t seed = test_seed();
    char folder[512], path[1024], text[TUNING_TEXT];
    struct tuning t = some_tuning(&seed), other = some_tuning(&seed), back;
    int n = 0;
    test_path(folder, sizeof(folder), "foreign");
    use_folder(folder);
    CHECK_OK(plan_tuning_keep(&t, path, sizeof(path)));
    CHECK(!plan_tuning_find(other.key, &back, path, sizeof(path)));
    plan_tuning_dump(&t, text);
    put_text(path, text, 0600);
    CHECK(!plan_tuning_find(other.key, &back, path, sizeof(path)));
    plan_tuning_dump(&other, text);
    put_text(path, text, 0666);
    CHECK(!plan_tuning_find(other.key, &back, path, sizeof(path)));
    put_text(path, text, 0640);
    CHECK(plan_tuning_find(other.key, &back, path, sizeof(path)));
    put_text(path, "", 0600);
    CHECK(!plan_tuning_find(other.key, &back, path, sizeof(path)));
    memset(text, ' ', sizeof(text)), text[sizeof(text) - 1] = 0;
    put_text(path, text, 0600);
    CHECK(!plan_tuning_find(other.key, &back, path, sizeof(path)));
    unlink(path);
    CHECK_EQ(mkfifo(path, 0600), 0); /* does not hang */
    CHECK(!plan_tuning_find(other.key, &back, path, sizeof(path)));
    unlink(path);
    CHECK_EQ(mkdir(path, 0700), 0);
    CHECK(!plan_tuning_find(other.key, &back, path, sizeof(path)));
    CHECK_NE(plan_tuning_keep(&other, path, sizeof(path)), CHOIR_OK);
    rmdir(path);
    plan_tuning_each(count_one, &n);
    CHECK_EQ(n, 1); /* and nothing half written is left */
}

static void folders(void)
{
    uint64_t seed = 5;
    struct tuning t = some_tuning(&seed);
    char path[1024], home[512], want[1024];
    unsetenv("CHOIR_TUNE_DIR");
    knob_reload();
    test_path(home, sizeof(home), "home");
    setenv("XDG_CACHE_HOME", "relative", 1), setenv("HOME", home, 1);
    CHECK(plan_tuning_folder(path, sizeof(path)));
    snprintf(want, sizeof(want), "%s/.cache/choir", home);
    CHECK_STR(path, want);
    CHECK_OK(plan_tuning_keep(&t, path, sizeof(path)));
    setenv("XDG_CACHE_HOME", "/somewhere", 1);
    CHECK(plan_tuning_folder(path, sizeof(path)));
    CHECK_STR(path, "/somewhere/choir");
    unsetenv("XDG_CACHE_HOME"), unsetenv("HOME");
    CHECK(!plan_tuning_folder(path, sizeof(path)));
    CHECK(!plan_tuning_find(t.key, &t, path, sizeof(path)));
    CHECK_NE(plan_tuning_keep(&t, path, sizeof(path)), CHOIR_OK);
    use_folder("/proc/none");
    CHECK_NE(plan_tuning_keep(&t, path, sizeof(path)), CHOIR_OK);
    CHECK(strstr(base_error_thread()->text, "/proc/none"));
}

struct writer {
    struct tuning t;
    pthread_t thread;
    int rounds;
};

static void *write_often(void *arg)
{
    struct writer *w = arg;
    char path[1024];
    for (int i = 0; i < w->rounds; i++)
        CHECK_OK(plan_tuning_keep(&w->t, path, sizeof(path)));
    return NULL;
}

/* Several threads and processes write one entry; a reader sees one of theirs, whole, whenever it looks. */
static void writers(void)
{
    enum { WRITERS = 4 };
    uint64_t seed = test_seed();
    struct writer w[WRITERS];
    struct tuning back;
    char folder[512], path[1024];
    pid_t pid[2];
    test_path(folder, sizeof(folder), "writers");
    use_folder(folder);
    for (int i = 0; i < WRITERS; i++) {
        w[i].t = some_tuning(&seed);
        w[i].t.key = 42;
        w[i].rounds = TEST_BY_EFFORT(50, 200, 2000);
    }
    CHECK_OK(plan_tuning_keep(&w[0].t, path, sizeof(path)));
    for (int i = 0; i < 2; i++)
        if (!(pid[i] = test_fork(NULL)))
            write_often(&w[i]), _exit(0);
    for (int i = 0; i < WRITERS; i++)
        CHECK_EQ(pthread_create(&w[i].thread, NULL, write_often, &w[i]), 0);
    for (int i = 0; i < w[0].rounds; i++)
        CHECK(plan_tuning_find(42, &back, path, sizeof(path)));
    for (int i = 0; i < WRITERS; i++)
        pthread_join(w[i].thread, NULL);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(test_reap(pid[i], 30000), 0);
    int n = 0;
    plan_tuning_each(count_one, &n);
    CHECK_EQ(n, 1);
}

TEST_MAIN(TEST(key), TEST(numbers), TEST(round_trip), TEST(names), TEST(fuzz), TEST(out_of_range),
          TEST(files), TEST(foreign_files), TEST(folders), TEST(writers))
