/* SPDX-License-Identifier: Apache-2.0 */
/* The table of knobs: defaults, units, ranges, aliases, misspelt names. */
#include "base/knob.h"
#include "base/knob_parse.h"
#include "tests/lib/test.h"
#include <fcntl.h>
#include <unistd.h>

static void clean(void)
{
    for (int i = 0; i < KNOB_COUNT; i++) {
        const struct knob_row *r = knob_row((enum knob_id)i);
        unsetenv(r->name);
        if (r->alias)
            unsetenv(r->alias);
    }
    knob_reload();
    CHECK_OK(knob_load());
}

static void table(void)
{
    clean();
    for (int i = 0; i < KNOB_COUNT; i++) {
        enum knob_id id = (enum knob_id)i;
        const struct knob_row *r = knob_row(id);
        const char *source;
        char text[200];
        CHECK_EQ(strncmp(r->name, "CHOIR_", 6), 0);
        CHECK(r->help[0] && r->fallback);
        CHECK(!knob_is_set(id));
        knob_show(id, text, sizeof(text), &source);
        CHECK_STR(text, r->fallback);
        CHECK_STR(source, "default");
        /* Each default, written out, reads as itself. */
        setenv(r->name, *r->fallback ? r->fallback : "/dev/null", 1); /* a log may go there */
        knob_reload();
        CHECK_OK(knob_load());
        CHECK(knob_is_set(id));
        knob_show(id, text, sizeof(text), &source);
        if (*r->fallback)
            CHECK_STR(text, r->fallback);
        CHECK_STR(source, r->name);
        unsetenv(r->name);
        for (int j = 0; j < i; j++)
            CHECK_NE(strcmp(r->name, knob_row((enum knob_id)j)->name), 0);
    }
    CHECK_STR(knob_row(KNOB_SLOT)->range, "4K to 16M");
    CHECK_STR(knob_row(KNOB_TIMEOUT)->fallback, "10m");
    clean();
}

static void good(const char *name, enum knob_id id, const char *text, int64_t expected)
{
    setenv(name, text, 1);
    knob_reload();
    CHECK_OK(knob_load());
    if (knob_int(id) != expected)
        FAIL("%s=%s reads as %" PRId64 ", not %" PRId64, name, text, knob_int(id), expected);
    unsetenv(name);
}

static void bad(const char *name, enum knob_id id, const char *text, const char *says)
{
    int64_t before = knob_int(id);
    setenv(name, text, 1);
    knob_reload();
    for (int i = 0; i < 2; i++) { /* again and again, not the first time only */
        *base_error_thread() = (struct choir_error){0};
        CHECK_EQ(knob_load(), CHOIR_ERR_ARGUMENT);
        const struct choir_error *e = base_error_thread();
        if (!strstr(e->text, name) || !strstr(e->text, says) || !strstr(e->remedy, name))
            FAIL("%s=%s: \"%s\" does not say \"%s\"", name, text, e->text, says);
    }
    CHECK_EQ(knob_int(id), before);
    unsetenv(name);
    knob_reload();
    CHECK_OK(knob_load());
}

static void values(void)
{
    clean();
    good("CHOIR_TIMEOUT", KNOB_TIMEOUT, "10", 10000000000);
    good("CHOIR_TIMEOUT", KNOB_TIMEOUT, " 10s ", 10000000000);
    good("CHOIR_TIMEOUT", KNOB_TIMEOUT, "5m", 300000000000);
    good("CHOIR_TIMEOUT", KNOB_TIMEOUT, "2 MIN", 120000000000);
    good("CHOIR_TIMEOUT", KNOB_TIMEOUT, "1h", 3600000000000);
    good("CHOIR_TIMEOUT", KNOB_TIMEOUT, "100ms", 100000000);
    good("CHOIR_TIMEOUT", KNOB_TIMEOUT, "1.5s", 1500000000);
    good("CHOIR_TIMEOUT", KNOB_TIMEOUT, "1000d", 86400000000000000);
    good("CHOIR_SPIN", KNOB_SPIN, "3us", 3000);
    good("CHOIR_SPIN", KNOB_SPIN, "7", 7000);
    good("CHOIR_SPIN", KNOB_SPIN, "0", 0);
    good("CHOIR_SPIN", KNOB_SPIN, "0.0000000019s", 1);
    good("CHOIR_SLOT", KNOB_SLOT, "64K", 65536);
    good("CHOIR_SLOT", KNOB_SLOT, "8192", 8192);
    good("CHOIR_SLOT", KNOB_SLOT, "1.5MiB", 1572864);
    good("CHOIR_SLOT", KNOB_SLOT, "16m", 16777216);
    good("CHOIR_SLOT", KNOB_SLOT, "0", 0); /* the default, out of the range */
    good("CHOIR_CUDA_SLICE", KNOB_CUDA_SLICE, "1G", 1 << 30);
    good("CHOIR_RANK", KNOB_RANK, "-1", -1);
    good("CHOIR_RANK", KNOB_RANK, "007", 7);
    good("CHOIR_INSECURE", KNOB_INSECURE, "yes", 1);
    good("CHOIR_ENCRYPT", KNOB_ENCRYPT, "OFF", 0);
    good("CHOIR_SLOT", KNOB_SLOT, "", 0); /* empty: not set */

    bad("CHOIR_TIMEOUT", KNOB_TIMEOUT, "0", "1ms to 1000d");
    bad("CHOIR_TIMEOUT", KNOB_TIMEOUT, "1001d", "1ms to 1000d");
    bad("CHOIR_TIMEOUT", KNOB_TIMEOUT, "99999999999999999999999999", "range");
    bad("CHOIR_TIMEOUT", KNOB_TIMEOUT, "-5", "range");
    bad("CHOIR_TIMEOUT", KNOB_TIMEOUT, "soon", "\"soon\", not a time");
    bad("CHOIR_TIMEOUT", KNOB_TIMEOUT, "5x", "not a time");
    bad("CHOIR_TIMEOUT", KNOB_TIMEOUT, "5 5", "not a time");
    bad("CHOIR_TIMEOUT", KNOB_TIMEOUT, "1.", "not a time");
    bad("CHOIR_TIMEOUT", KNOB_TIMEOUT, ".", "not a time");
    bad("CHOIR_SLOT", KNOB_SLOT, "4095", "4K to 16M");
    bad("CHOIR_SLOT", KNOB_SLOT, "17M", "4K to 16M");
    bad("CHOIR_SLOT", KNOB_SLOT, "64s", "not a size");
    bad("CHOIR_CUDA_SLICE", KNOB_CUDA_SLICE, "1K", "4K to 1G");
    bad("CHOIR_RANK", KNOB_RANK, "1.5", "not an integer");
    bad("CHOIR_RANK", KNOB_RANK, "2147483648", "range");
    bad("CHOIR_RANK", KNOB_RANK, "1K", "not an integer");
    bad("CHOIR_RANK", KNOB_RANK, "-", "not an integer");
    bad("CHOIR_RANK", KNOB_RANK, "   ", "not an integer");
    bad("CHOIR_PORT", KNOB_PORT, "yes", "not an integer");
    char big[3000];
    memset(big, '9', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    bad("CHOIR_PORT", KNOB_PORT, big, "999");
    setenv("CHOIR_LOG", "loud", 1);
    knob_reload();
    CHECK_EQ(knob_load(), CHOIR_ERR_ARGUMENT);
    CHECK_STR(knob_text(KNOB_LOG), "warn");
    clean();
}

/* An alias that says the opposite. */
static void opposite(void)
{
    static const char *const pair[][2] = {{"1", "off"}, {"0", "auto"}, {"2", "off"}, {"", "auto"}};
    const char *source;
    char text[100];
    clean();
    for (size_t i = 0; i < sizeof(pair) / sizeof(pair[0]); i++) {
        setenv("NCCL_P2P_DISABLE", pair[i][0], 1);
        knob_reload();
        CHECK_OK(knob_load());
        CHECK_STR(knob_text(KNOB_CUDA_P2P), pair[i][1]);
    }
    setenv("NCCL_P2P_DISABLE", "1", 1);
    setenv("CHOIR_CUDA_P2P", "auto", 1);
    knob_reload();
    knob_show(KNOB_CUDA_P2P, text, sizeof(text), &source);
    CHECK_STR(text, "auto");
    CHECK_STR(source, "CHOIR_CUDA_P2P");
    setenv("CHOIR_CUDA_P2P", "1", 1);
    knob_reload();
    CHECK_EQ(knob_load(), CHOIR_ERR_ARGUMENT);
    CHECK(strstr(base_error_thread()->remedy, "auto or off"));
    clean();
    setenv("NCCL_CUMEM_ENABLE", "0", 1); /* this one says whether to enable it */
    knob_reload();
    CHECK_OK(knob_load());
    CHECK_STR(knob_text(KNOB_CUDA_VMM), "off");
    setenv("NCCL_CUMEM_ENABLE", "-2", 1);
    knob_reload();
    CHECK_OK(knob_load());
    CHECK_STR(knob_text(KNOB_CUDA_VMM), "auto");
    setenv("CHOIR_CUDA_VMM", "on", 1);
    knob_reload();
    CHECK_EQ(knob_load(), CHOIR_ERR_ARGUMENT);
    clean();
}

static void aliases(void)
{
    clean();
    const char *source;
    char text[100];
    setenv("NCCL_SOCKET_IFNAME", "eth", 1);
    setenv("NCCL_DEBUG", "TRACE", 1);
    knob_reload();
    CHECK_OK(knob_load());
    CHECK_STR(knob_text(KNOB_SOCKET_IFNAME), "eth");
    CHECK_EQ(base_log_level, BASE_DEBUG);
    knob_show(KNOB_SOCKET_IFNAME, text, sizeof(text), &source);
    CHECK_STR(source, "NCCL_SOCKET_IFNAME");
    setenv("CHOIR_SOCKET_IFNAME", "ib", 1);
    setenv("CHOIR_LOG", "error", 1);
    knob_reload();
    CHECK_STR(knob_text(KNOB_SOCKET_IFNAME), "ib");
    CHECK_EQ(base_log_level, BASE_ERROR);
    static const char *const nccl[] = {"VERSION", "WARN", "INFO"};
    static const int level[] = {BASE_WARN, BASE_WARN, BASE_INFO};
    unsetenv("CHOIR_LOG");
    for (size_t i = 0; i < base_count(nccl); i++) {
        setenv("NCCL_DEBUG", nccl[i], 1);
        knob_reload();
        CHECK_EQ(base_log_level, level[i]);
    }
    /* The copy is ours: a later change of the environment does not show. */
    setenv("CHOIR_SOCKET_IFNAME", "zz", 1);
    CHECK_STR(knob_text(KNOB_SOCKET_IFNAME), "ib");
    setenv("CHOIR_SECRET", "open sesame", 1);
    knob_reload();
    knob_show(KNOB_SECRET, text, sizeof(text), &source);
    CHECK_STR(text, "(hidden)");
    clean();
}

static void misspelt(void)
{
    CHECK_EQ(knob_distance("", ""), 0);
    CHECK_EQ(knob_distance("abc", ""), 3);
    CHECK_EQ(knob_distance("kitten", "sitting"), 3);
    CHECK_EQ(knob_distance("SPIN", "SPNI"), 1);
    char long_a[300], long_b[300];
    memset(long_a, 'a', sizeof(long_a)), long_a[299] = 0;
    memset(long_b, 'b', sizeof(long_b)), long_b[299] = 0;
    CHECK_EQ(knob_distance(long_a, long_b), 64);

    char path[300], text[4000];
    test_path(path, sizeof(path), "log");
    clean();
    setenv("CHOIR_LOG_FILE", path, 1);
    setenv("CHOIR_TIMOEUT", "5", 1);
    setenv("CHOIR_FROBNICATE", "5", 1);
    setenv("CHOIR_TEST_ANYTHING", "5", 1);
    knob_reload();
    CHECK_OK(knob_load());
    CHECK_OK(knob_load());
    int fd = open(path, O_RDONLY);
    CHECK_LE(0, fd);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    CHECK_LT(0, n);
    text[n] = 0;
    close(fd);
    const char *said = strstr(text, "CHOIR_TIMOEUT has no effect; did you mean CHOIR_TIMEOUT\n");
    CHECK(said != NULL);
    CHECK(strstr(said + 1, "CHOIR_TIMOEUT") == NULL); /* once */
    CHECK(strstr(text, "CHOIR_FROBNICATE has no effect\n") != NULL);
    CHECK(strstr(text, "CHOIR_TEST_ANYTHING") == NULL);
    unsetenv("CHOIR_TIMOEUT");
    unsetenv("CHOIR_FROBNICATE");
    clean();
}

static void load_at_once(int rank, int size, void *arg)
{
    (void)rank, (void)size, (void)arg;
    CHECK_OK(knob_load());
    CHECK_EQ(knob_int(KNOB_SLOT), 8192);
    CHECK_STR(knob_text(KNOB_TRANSPORTS), "self,shm,nccl-net,tcp");
}

/* Runs first, in children of its own, so that the first load is a race of threads. */
static void first_load(int rank, int size, void *arg)
{
    (void)rank, (void)size;
    setenv("CHOIR_SLOT", "8K", 1);
    test_threads(8, load_at_once, arg);
}

static void threads(void)
{
    test_processes(4, first_load, NULL);
}

TEST_MAIN(TEST(threads), TEST(table), TEST(values), TEST(aliases), TEST(opposite), TEST(misspelt))
