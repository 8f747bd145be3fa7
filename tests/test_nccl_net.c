/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages over net plug-ins (tests/plugin/net.c) of every version: frames of every size between two transports, and all
 * collectives between ranks that pretend to be on hosts of their own. Faults are in test_nccl_net_faults.c.
 */
#include "tests/lib/matrix.h"
#include "tests/lib/net_plugin.h"
#include "tests/lib/ranks.h"
#include "tests/lib/stub_host.h"
#include "tests/lib/test.h"
#include "transports/nccl-net/abi.h"
#include <sys/wait.h>
#include <unistd.h>

extern const struct choir_transport_ops choir_transport_nccl_net;
static const int versions[] = {8, 9, 10, 11, 12};

/* Sizes and places of a 64-bit machine, as NCCL's own headers have them. */
static void layouts(void)
{
    CHECK_EQ(sizeof(struct nccl_device_v8), 64);
    CHECK_EQ(sizeof(struct nccl_device_v9), 104);
    CHECK_EQ(sizeof(struct nccl_device_v11), 112);
    CHECK_EQ(sizeof(struct nccl_device_v12), 128);
    CHECK_EQ(offsetof(struct nccl_device_v8, connections_most), 44);
    CHECK_EQ(offsetof(struct nccl_device_v9, force_flush), 32);
    CHECK_EQ(offsetof(struct nccl_device_v9, message_most), 88);
    CHECK_EQ(offsetof(struct nccl_device_v12, message_most), 104);
    CHECK_EQ(offsetof(struct nccl_device_v12, rail), 124);
    CHECK_EQ(sizeof(struct nccl_net_v8), 19 * sizeof(void *));
    CHECK_EQ(sizeof(struct nccl_net_v9), 20 * sizeof(void *));
    CHECK_EQ(sizeof(struct nccl_net_v10), 20 * sizeof(void *));
    CHECK_EQ(sizeof(struct nccl_net_v11), 22 * sizeof(void *));
    CHECK_EQ(offsetof(struct nccl_net_v8, isend), 10 * sizeof(void *));
    CHECK_EQ(offsetof(struct nccl_net_v11, test), 13 * sizeof(void *));
    CHECK_EQ(offsetof(struct nccl_net_v11, finalize), 20 * sizeof(void *));
}

/* --- frames ------------------------------------------------------------------------------------------------ */
static bool b_was_left(struct stub *a, struct stub *b)
{
    (void)a;
    return b->peer[0].failed == 1;
}

static void pair_open(struct stub *a, struct stub *b, const char *path)
{
    stub_init(a, &choir_transport_nccl_net);
    stub_init(b, &choir_transport_nccl_net);
    stub_knob(a, "CHOIR_NET_PLUGIN", path);
    stub_knob(b, "CHOIR_NET_PLUGIN", path);
    stub_open(a);
    stub_open(b);
}

/* One thread drives both: the plug-in takes no two at once. */
static void pair_close(struct stub *a, struct stub *b)
{
    a->ops->disconnect(a->peer[0].endpoint);
    a->peer[0].endpoint = NULL;
    stub_until(a, b, b_was_left, 5000000000ull, "the peer's end");
    CHECK_EQ(b->peer[0].status, CHOIR_ERR_PEER_DEAD);
    CHECK(strstr(b->peer[0].text, "has left") != NULL);
    stub_close(a);
    stub_close(b);
}

static void frames_child(int version, uint64_t frames, uint32_t most, const char *seed)
{
    pid_t pid = test_fork(NULL);
    if (!pid) {
        static struct stub a, b;
        setenv("CHOIR_TEST_NET_SEED", seed, 1);
        pair_open(&a, &b, net_plugin_path(version));
        stub_join(&a, &b);
        stub_traffic(&a, &b, frames, most, NULL);
        CHECK_EQ(a.log_count + b.log_count, 0);
        pair_close(&a, &b);
        _exit(0);
    }
    CHECK_EQ(test_reap(pid, 40000), 0);
}

static void frames(void)
{
    for (size_t i = 0; i < base_count(versions); i++) {
        frames_child(versions[i], 1500, 300, "0");
        frames_child(versions[i], 300, 300000, "0");
        frames_child(versions[i], 200, 100000, "7");
    }
    frames_child(11, 12, CHOIR_FRAME_MOST, "0");
}

/* What was sent is delivered after disconnect(), although the program has freed what it lent. */
#define LENT 12
static void farewell(void)
{
    pid_t pid = test_fork(NULL);
    if (!pid) {
        static struct stub a, b;
        static char payload[LENT][300001];
        struct choir_send request[LENT];
        uint32_t waiting = 0;
        pair_open(&a, &b, net_plugin_path(11));
        stub_join(&a, &b);
        for (uint32_t i = 0; i < LENT; i++) {
            stub_fill(payload[i], sizeof(payload[i]), 0, i);
            CHECK_EQ(stub_send(&a.peer[0], 0, CHOIR_FRAME_DATA, payload[i], sizeof(payload[i]),
                               &request[i]),
                     CHOIR_IN_PROGRESS);
        }
        for (uint32_t i = 0; i < LENT; i++)
            waiting += !atomic_load(&request[i].done);
        CHECK_LT(LENT / 2, waiting);
        a.ops->disconnect(a.peer[0].endpoint);
        a.peer[0].endpoint = NULL;
        memset(payload, 0xee, sizeof(payload));
        stub_until(&a, &b, b_was_left, 10000000000ull, "the last frame");
        CHECK_EQ(b.peer[0].arrived[0], LENT);
        CHECK_EQ(b.peer[0].status, CHOIR_ERR_PEER_DEAD);
        stub_close(&a);
        stub_close(&b);
        _exit(0);
    }
    CHECK_EQ(test_reap(pid, 40000), 0);
}

/* Both dial at once: one endpoint a process all the same. */
static bool both_up(struct stub *a, struct stub *b)
{
    return a->ops->connected(a->peer[0].endpoint) == CHOIR_OK &&
           b->ops->connected(b->peer[0].endpoint) == CHOIR_OK;
}

static void crossing(void)
{
    pid_t pid = test_fork(NULL);
    if (!pid) {
        for (int i = 0; i < 12; i++) {
            static struct stub a, b;
            char to_a[STUB_ADDRESS], to_b[STUB_ADDRESS];
            setenv("CHOIR_TEST_NET_SEED", i % 2 ? "9" : "0", 1);
            pair_open(&a, &b, net_plugin_path(12));
            size_t bytes_a = stub_address(&a, to_a), bytes_b = stub_address(&b, to_b);
            stub_connect(&a, &b.host.self, to_b, bytes_b);
            for (int k = 0; k < i * 3; k++)
                stub_progress(&a), stub_progress(&b);
            stub_connect(&b, &a.host.self, to_a, bytes_a);
            stub_until(&a, &b, both_up, 10000000000ull, "joining");
            CHECK_EQ(a.peer_count + b.peer_count, 2);
            CHECK_LE(a.accepted_count + b.accepted_count, 1);
            stub_traffic(&a, &b, 50, 20000, NULL);
            pair_close(&a, &b);
        }
        _exit(0);
    }
    CHECK_EQ(test_reap(pid, 40000), 0);
}

/* Nobody calls progress(): the service threads of both processes wake by the watched descriptor alone. */
#define TURNS 300
static struct board {
    struct choir_process process[2];
    char address[2][STUB_ADDRESS];
    size_t bytes[2];
    _Atomic int ready, done;
} * board;

/* A data frame over the plug-in, and a control frame, which may be there first, over the line. */
static void turn(struct stub_peer *p)
{
    static char x[2][64];
    for (uint32_t lane = 0; lane < 2; lane++) {
        stub_fill(x[lane], sizeof(x[lane]), lane, p->sent[lane]);
        CHECK_OK(stub_send(p, lane, lane ? 3 : CHOIR_FRAME_DATA, x[lane], sizeof(x[lane]), NULL));
    }
}

static void answer(struct stub_peer *p, const struct choir_frame *frame, void *where)
{
    (void)where;
    if (frame->kind != CHOIR_FRAME_DATA)
        CHECK_LT(frame->sequence, p->arrived[0]);
    else if (frame->sequence < TURNS)
        turn(p);
}

static void service_only_rank(int rank, int size, void *arg)
{
    static struct stub m;
    setenv("CHOIR_TEST_NET_SEED", arg ? "13" : "0", 1);
    stub_init(&m, &choir_transport_nccl_net);
    stub_knob(&m, "CHOIR_NET_PLUGIN", net_plugin_path(10));
    m.on_arrived = answer;
    stub_open(&m);
    board->process[rank] = m.host.self;
    board->bytes[rank] = stub_address(&m, board->address[rank]);
    for (board->ready++; board->ready < size;)
        test_sleep_ms(1);
    stub_service_start(&m);
    if (!rank) {
        pthread_mutex_lock(&m.driving);
        struct stub_peer *p =
            stub_connect(&m, &board->process[1], board->address[1], board->bytes[1]);
        turn(p);
        pthread_mutex_unlock(&m.driving);
    }
    for (uint64_t end = test_now_ms() + 15000, count = 0; count < 2 * TURNS; test_sleep_ms(1)) {
        pthread_mutex_lock(&m.driving);
        count = m.arrived_count;
        pthread_mutex_unlock(&m.driving);
        if (test_now_ms() > end)
            FAIL("rank %d: %" PRIu64 " frames came", rank, count);
    }
    for (board->done++; board->done < size;)
        test_sleep_ms(1);
    stub_close(&m);
}

static void service_only(void)
{
    for (int late = 0; late < 2; late++) {
        board = test_shared(sizeof(*board));
        test_processes(2, service_only_rank, late ? board : NULL);
    }
}

/* --- collectives ------------------------------------------------------------------------------------------- */
struct job {
    uint64_t seed;
    int operations;
};
static struct choir_id id;

static void rank_body(int rank, int size, void *arg)
{
    const struct job *j = arg;
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    uint64_t draw = j->seed;
    for (int i = 0; i < j->operations; i++) {
        struct matrix_op op;
        matrix_draw(&op, (enum choir_kind)(i % CHOIR_KINDS), size, 65536, &draw);
        op.rank = rank;
        matrix_run(c, &op, NULL);
    }
    CHECK_OK(choir_comm_destroy(c));
}

static void job(int version, int ranks, int hosts, int operations, const char *const *more)
{
    /* One process a rank, or, with fewer hosts than ranks, by turns one a host, whose ranks are threads. */
    bool threads = hosts < ranks && !more;
    struct job j = {test_mix(test_seed() + (uint64_t)(version * 100 + ranks)), operations};
    struct test_ranks t = {.ranks = ranks,
                           .hosts = hosts,
                           .fn = rank_body,
                           .arg = &j,
                           .per_process = threads ? ranks / hosts : 1};
    t.env = net_plugin_env(version,
                           hosts == ranks || threads ? "self,nccl-net" : "self,shm,nccl-net", more);
    test_id(&id);
    if (!test_ranks_try(&t))
        FAIL("version %d, %d ranks on %d hosts", version, ranks, hosts);
}

static void collectives(void)
{
    int operations = TEST_BY_EFFORT(1, 1, 10) * CHOIR_KINDS;
    for (size_t i = 0; i < base_count(versions); i++) {
        job(versions[i], 2, 2, operations, NULL);
        job(versions[i], 5, 5, operations, NULL);
    }
    job(11, 8, 8, operations, NULL);
    job(11, 6, 3, operations, NULL);
    job(11, 6, 3, operations, (const char *const[]){"CHOIR_SLOT=4096", NULL});
}

static void delays(void)
{
    static const char *const late[] = {"CHOIR_TEST_NET_SEED=5", NULL};
    int operations = TEST_BY_EFFORT(1, 1, 10) * CHOIR_KINDS;
    for (size_t i = 0; i < base_count(versions); i++)
        job(versions[i], 3, 3, operations, late);
}

/* Ranks that sleep in turn, and wait asleep: nobody drives, and only the other's ring wakes them. On a host stream too. */
static void sleeper(int rank, int size, void *arg)
{
    const struct job *j = arg;
    choir_comm *c;
    choir_stream *stream;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    CHECK_OK(choir_stream_create(&stream));
    uint64_t draw = j->seed;
    for (int i = 0; i < j->operations; i++) {
        struct matrix_op op;
        matrix_draw(&op, (enum choir_kind)(i % CHOIR_KINDS), size, 4096, &draw);
        op.rank = rank;
        if (i % size == rank)
            test_sleep_ms(10);
        matrix_run(c, &op, i % 2 ? stream : NULL);
    }
    CHECK_OK(choir_stream_destroy(stream));
    CHECK_OK(choir_comm_destroy(c));
}

static void asleep(void)
{
    struct job j = {test_seed(), TEST_BY_EFFORT(1, 2, 20) * CHOIR_KINDS};
    for (int late = 0; late < 2; late++) {
        const char *more[] = {"CHOIR_SPIN=0", late ? "CHOIR_TEST_NET_SEED=11" : NULL, NULL};
        struct test_ranks t = {.ranks = 3, .hosts = 3, .fn = sleeper, .arg = &j};
        t.env = net_plugin_env(11, "self,nccl-net", more);
        test_id(&id);
        CHECK(test_ranks_try(&t));
    }
}

TEST_MAIN(TEST(layouts), TEST(frames), TEST(farewell), TEST(crossing), TEST(service_only),
          TEST(collectives), TEST(delays), TEST(asleep))
