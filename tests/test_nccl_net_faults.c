/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Net plug-ins that cannot be used, and what goes wrong over those that can: each is named in the log and the job goes on over
 * tcp, or survivors name the rank that is lost, in time.
 */
#include "base/knob.h"
#include "tests/lib/net_plugin.h"
#include "tests/lib/ranks.h"
#include "tests/lib/stub_host.h"
#include "tests/lib/test.h"
#include <limits.h>
#include <signal.h>
#include <unistd.h>

#define MANY 20000

static struct choir_id id;
static char log_path[PATH_MAX];

/* --- plug-ins that cannot be used ------------------------------------------------------------------------------ */
struct fallback {
    const char *const *own[2]; /* environment of rank 0, and of the others; NULL: none more */
    int operations;
};

static void put(const char *const *env)
{
    for (; env && *env; env++)
        CHECK_EQ(putenv((char *)(uintptr_t)*env), 0);
    knob_reload();
}

static void sums(choir_comm *c, int size, int operations)
{
    static int in[MANY], out[MANY];
    for (int i = 0; i < MANY; i++)
        in[i] = i;
    for (int k = 0; k < operations; k++) {
        CHECK_OK(choir_all_reduce(c, in, out, MANY, CHOIR_INT32, CHOIR_SUM, NULL));
        for (int i = 0; i < MANY; i++)
            CHECK_EQ(out[i], i * size);
        CHECK_OK(choir_all_to_all(c, in, out, 3, CHOIR_INT32, NULL));
    }
}

static void fallback_rank(int rank, int size, void *arg)
{
    const struct fallback *f = arg;
    choir_comm *c;
    put(f->own[rank > 0]);
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    sums(c, size, f->operations);
    CHECK_OK(choir_comm_destroy(c));
}

/* All went over tcp or (where there is a way) the plug-in, right; and the log of all ranks has `says`. */
static void goes_on(const char *transports, const char *const *all, struct fallback f,
                    const char *says)
{
    char file[PATH_MAX + 32], text[1 << 16];
    const char *more[10] = {"CHOIR_LOG=info", file};
    for (int n = 2; all && *all; all++)
        more[n++] = *all;
    test_path(log_path, sizeof(log_path), "log");
    remove(log_path);
    snprintf(file, sizeof(file), "CHOIR_LOG_FILE=%s", log_path);
    f.operations = 3;
    struct test_ranks t = {.ranks = 3, .hosts = 3, .fn = fallback_rank, .arg = &f};
    t.env = net_plugin_env(11, transports, more);
    test_id(&id);
    if (!test_ranks_try(&t))
        FAIL("with \"%s\"", says);
    FILE *in = fopen(log_path, "r");
    CHECK(in != NULL);
    text[fread(text, 1, sizeof(text) - 1, in)] = 0;
    fclose(in);
    if (!strstr(text, says))
        FAIL("no \"%s\" in the log:\n%s", says, text);
}

#define ENV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define DEFAULT "self,shm,nccl-net,tcp"

static void unusable(void)
{
    struct fallback none = {{NULL}, 0};
    char list[2 * PATH_MAX];
    goes_on(DEFAULT, ENV("CHOIR_NET_PLUGIN=/nowhere/libx.so"), none,
            "net plug-in /nowhere/libx.so not loaded: /nowhere/libx.so: cannot open shared object");
    goes_on(DEFAULT, ENV("CHOIR_NET_PLUGIN=absent"), none,
            "net plug-in absent not loaded: libnccl-net-absent.so: cannot open shared object");
    snprintf(list, sizeof(list), "CHOIR_NET_PLUGIN=%s", net_plugin_path(0));
    goes_on(DEFAULT, ENV(list), none, "has no symbol ncclNetPlugin_v12, _v11, _v10, _v9 or _v8");
    goes_on(DEFAULT, ENV("CHOIR_TEST_NET_FAIL=init:1"), none, "its init says remote error");
    goes_on(DEFAULT, ENV("CHOIR_TEST_NET_FAIL=devices:1"), none,
            "net plug-in test not used: remote error");
    goes_on(DEFAULT, ENV("CHOIR_TEST_NET_DEVICES=0"), none, "not used: it finds no device");
    goes_on(DEFAULT, ENV("CHOIR_TEST_NET_MEMORY=2"), none,
            "none of its 2 devices takes host memory");
    goes_on(DEFAULT, ENV("CHOIR_ENCRYPT=1"), none, "net plug-ins cannot encrypt");
    goes_on(DEFAULT, ENV("CHOIR_NET_PLUGIN=none"), none, "names no plug-in");
    int n = snprintf(list, sizeof(list), "CHOIR_NET_PLUGIN=absent,%s", net_plugin_path(0));
    snprintf(list + n, sizeof(list) - (size_t)n, ", %s", net_plugin_path(9));
    goes_on("self,nccl-net", ENV(list), none, "ncclNetPlugin_v9) device 0 test0");
    goes_on("self,nccl-net", ENV("CHOIR_LOCAL_RANK=3"), none,
            "device 1 test1, guid 8, port 1, 200000 Mbit/s, 1.5 us, at most 1000 connections");
}

/* Between two processes: the library goes on to tcp, for those two. */
static void unconnected(void)
{
    struct fallback none = {{NULL}, 0}, one = {{ENV("CHOIR_NET_PLUGIN=none")}, 0},
                    old = {{NULL}, 0};
    char path[PATH_MAX + 32];
    static const char *const calls[] = {"listen", "connect", "accept", "regmr"};
    for (size_t i = 0; i < base_count(calls); i++) {
        char fail[64], says[96];
        snprintf(fail, sizeof(fail), "CHOIR_TEST_NET_FAIL=%s:1", calls[i]);
        snprintf(says, sizeof(says), "net plug-in test device 0: %s",
                 i == 3 ? "regMr: remote error" : calls[i]);
        goes_on(DEFAULT, ENV(fail), none, says);
        struct fallback mine = {{ENV(fail)}, 0};
        goes_on(DEFAULT, NULL, mine, says);
    }
    goes_on(DEFAULT, ENV("CHOIR_TEST_NET_CONNECTIONS=2"), none, "has no more than 2 connections");
    struct fallback stall = {{ENV("CHOIR_TEST_NET_STALL=1")}, 0};
    if (test_effort() == 2) /* it takes its time */
        goes_on(DEFAULT, NULL, stall, "no connection from device test0 for 8 s");
    struct fallback wrong = {{ENV("CHOIR_TEST_NET_WRONG=1")}, 0};
    goes_on(DEFAULT, NULL, wrong, "is not who the line leads to");
    goes_on(DEFAULT, NULL, one, "names no plug-in");
    struct fallback other = {{NULL}, 0};
    snprintf(path, sizeof(path), "CHOIR_NET_PLUGIN=%s", net_plugin_path(9));
    other.own[0] = ENV(path);
    goes_on(DEFAULT, NULL, other, "the peer uses net plug-in other, this process test");
    /* Versions may differ between ranks. */
    snprintf(path, sizeof(path), "CHOIR_NET_PLUGIN=%s", net_plugin_path(8));
    old.own[0] = ENV(path);
    goes_on("self,nccl-net", NULL, old, "ncclNetPlugin_v8) device 0");
}

/* --- over one that can -------------------------------------------------------------------------------------------- */
static struct shared {
    _Atomic uint64_t begun_ms[8];
} * shared;

struct fault {
    int victim;
    char what[64]; /* of the victim's environment */
    bool dies;
};

/* Calls until one fails: which is to be soon after the victim's last, and to say so. */
static enum choir_status until_it_fails(choir_comm *c, int rank, struct choir_error *e)
{
    static float in[4 * MANY], out[4 * MANY];
    enum choir_status st = CHOIR_OK;
    for (uint64_t i = 0; st == CHOIR_OK && i < 100000; i++) {
        uint64_t n = i % 3 ? 7 : 4 * MANY;
        shared->begun_ms[rank] = test_now_ms();
        st = choir_all_reduce(c, in, out, n, CHOIR_FLOAT32, CHOIR_SUM, NULL);
    }
    *e = (struct choir_error){.bytes = sizeof(*e)};
    CHECK_OK(choir_comm_last_error(c, e));
    uint64_t took = test_now_ms() - shared->begun_ms[rank];
    if (st == CHOIR_OK || took > 6000)
        FAIL("rank %d: %s after %" PRIu64 " ms", rank, choir_status_name(st), took);
    return st;
}

static void fault_rank(int rank, int size, void *arg)
{
    const struct fault *f = arg;
    struct choir_error e;
    choir_comm *c;
    if (rank == f->victim)
        put(ENV(f->what));
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    enum choir_status st = until_it_fails(c, rank, &e);
    if (f->dies && (st != CHOIR_ERR_PEER_DEAD || e.peer != f->victim))
        FAIL("rank %d of %d: rank %d died; got %s, peer %d: %s", rank, size, f->victim,
             choir_status_name(st), e.peer, e.text);
    /* The second: a call that came upon the failed endpoint before its reason was told. */
    bool says =
        strstr(e.text, "net plug-in test device 0 test0") || strstr(e.text, "sending to rank");
    if (!f->dies && (st != CHOIR_ERR_NETWORK || !says))
        FAIL("rank %d of %d: %s at rank %d; got %s, peer %d: %s", rank, size, f->what, f->victim,
             choir_status_name(st), e.peer, e.text);
    if (!f->dies && size == 2)
        CHECK_EQ(e.peer, 1 - rank);
    if (f->dies) {
        choir_comm *less;
        CHECK_OK(choir_comm_shrink(c, &f->victim, 1, NULL, &less));
        sums(less, size - 1, 2);
        CHECK_OK(choir_comm_destroy(less));
    }
    CHECK_OK(choir_comm_destroy(c));
}

static void fault(int version, int ranks, struct fault *f, const char *const *more)
{
    const char *const *env = net_plugin_env(version, "self,nccl-net", more);
    pid_t pid[8];
    memset(shared, 0, sizeof(*shared));
    test_id(&id);
    for (int r = 0; r < ranks; r++)
        if (!(pid[r] = test_fork(env))) {
            char host[16];
            snprintf(host, sizeof(host), "host%d", r);
            setenv("CHOIR_HOST_ID", host, 1);
            knob_reload();
            fault_rank(r, ranks, f);
            _exit(0);
        }
    for (int r = 0; r < ranks; r++) {
        int st = test_reap(pid[r], 30000);
        if (st != (f->dies && r == f->victim ? 128 + SIGKILL : 0))
            FAIL("version %d, %s at rank %d of %d: rank %d ended with %d", version, f->what,
                 f->victim, ranks, r, st);
    }
}

static void killed(void)
{
    static const int versions[] = {8, 10, 11, 12};
    int trials = TEST_BY_EFFORT(2, 3, 40);
    for (int i = 0; i < trials; i++) {
        uint64_t x = test_mix(test_seed() + (uint64_t)i);
        int ranks = 3 + (int)(x % 3);
        struct fault f = {(int)((x >> 8) % (uint64_t)ranks), "", true};
        snprintf(f.what, sizeof(f.what), "CHOIR_TEST_NET_DIE=%s:%d",
                 x & 0x10000 ? "isend" : "irecv", 100 + (int)((x >> 20) % 400));
        fault(versions[i % 4], ranks, &f,
              ENV(i % 2 ? "CHOIR_TEST_NET_MUTE=1" : "CHOIR_TEST_NET_SEED=3"));
    }
}

static void broken(void)
{
    static const char *const calls[] = {"isend", "irecv", "test"};
    for (size_t i = 0; i < base_count(calls); i++) {
        struct fault f = {(int)i % 2, "", false};
        snprintf(f.what, sizeof(f.what), "CHOIR_TEST_NET_FAIL=%s:120", calls[i]);
        fault(11, 2, &f, NULL);
        if (i == 0)
            fault(8, 4, &f, NULL);
    }
}

/* --- the library's process ---------------------------------------------------------------------------------------- */
static void child_of_fork(int rank, int size, void *arg)
{
    struct choir_id *own = (struct choir_id *)arg + rank;
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    sums(c, size, 1);
    pid_t pid = fork();
    if (!pid) { /* one process of its own: the plug-in is not used again */
        choir_comm *alone;
        if (choir_comm_create(own, 0, 1, NULL, &alone) || choir_comm_destroy(alone))
            _exit(1);
        _exit(0);
    }
    CHECK_EQ(test_reap(pid, 10000), 0);
    sums(c, size, 2);
    CHECK_OK(choir_comm_destroy(c));
    /* Again, in this process: versions before 11 are not started twice. */
    CHECK_OK(choir_comm_create((struct choir_id *)arg + 2, rank, size, NULL, &c));
    sums(c, size, 1);
    CHECK_OK(choir_comm_destroy(c));
}

static void forks(void)
{
    if (TEST_TSAN) {
        test_skip_part("the thread sanitizer follows no child of a process with threads");
        return;
    }
    for (int version = 8; version < 12; version += 3) {
        struct choir_id *own = test_shared(3 * sizeof(*own));
        test_id(&id);
        test_id(&own[0]);
        test_id(&own[1]);
        test_id(&own[2]);
        struct test_ranks t = {.ranks = 2, .hosts = 2, .fn = child_of_fork, .arg = own};
        t.env = net_plugin_env(version, "self,nccl-net", NULL);
        CHECK(test_ranks_try(&t));
    }
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(unusable), TEST(unconnected), TEST(killed),
                                             TEST(broken), TEST(forks)};
    shared = test_shared(sizeof(*shared));
    return test_main(argc, argv, cases, base_count(cases));
}
