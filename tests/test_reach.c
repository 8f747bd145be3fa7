/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a process comes to another one, over shm and over tcp: what may pass is tried again, what will not is final: a stranger
 * without the secret, a process that is no more.
 */
#include "host/host.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

static const unsigned char secret[32] = "of those who belong together", other[32] = "of a stranger";
static const char *const shm[] = {"CHOIR_TRANSPORTS=self,shm", "CHOIR_CREATE_TIMEOUT=10s",
                                  "CHOIR_LOG=error", NULL};
static const char *const tcp[] = {"CHOIR_TRANSPORTS=self,tcp", "CHOIR_CREATE_TIMEOUT=10s",
                                  "CHOIR_LOG=error", NULL};

static struct shared {
    _Alignas(8) uint8_t card[HOST_CARD_MOST];
    _Atomic int ready, stop;
} * shared;

/* A process to be reached, until told to stop. */
static pid_t keep(const char *const *env)
{
    memset(shared, 0, sizeof(*shared));
    pid_t pid = test_fork(env);
    if (!pid) {
        CHECK_OK(host_start());
        host_secret_add(secret);
        CHECK_OK(host_card_write((struct host_card *)(void *)shared->card, 0));
        shared->ready = 1;
        while (!shared->stop)
            test_sleep_ms(1);
        host_stop();
        _exit(0);
    }
    for (int i = 0; !shared->ready; i++) {
        CHECK_LT(i, 10000);
        test_sleep_ms(1);
    }
    return pid;
}

static struct host_peer *meet(const unsigned char key[32])
{
    CHECK_OK(host_start());
    host_secret_add(key);
    const struct host_card *card = (const struct host_card *)(const void *)shared->card;
    struct host_peer *peer = host_peer_learn(card, card->bytes);
    CHECK(peer != NULL);
    return peer;
}

/* True when reached, false when that is given up. */
static bool reach(struct host_peer *peer, uint64_t most_ms)
{
    for (uint64_t end = test_now_ms() + most_ms; !atomic_load(&peer->failed); test_sleep_ms(1)) {
        if (host_peer_reach(peer))
            return true;
        if (test_now_ms() > end)
            FAIL("neither reached nor given up after %" PRIu64 " ms", most_ms);
    }
    return false;
}

/* Runs fn in a process of its own while another one is there to be reached. */
static void against(void (*fn)(bool over_tcp, pid_t keeper))
{
    for (int over = 0; over < 2; over++) {
        const char *const *env = over ? tcp : shm;
        pid_t keeper = keep(env), pid = test_fork(env);
        if (!pid) {
            fn(over, keeper);
            host_stop();
            _exit(0);
        }
        CHECK_EQ(test_reap(pid, 30000), 0);
        shared->stop = 1;
        int how = test_reap(keeper, 5000); /* some kill it */
        CHECK(!how || how == 128 + SIGKILL);
    }
}

static void friend_joins(bool over_tcp, pid_t keeper)
{
    (void)over_tcp, (void)keeper;
    CHECK(reach(meet(secret), 5000));
}

static void joined(void)
{
    against(friend_joins);
}

/* No descriptor is left at first. */
static void try_without_descriptors(bool over_tcp, pid_t keeper)
{
    (void)over_tcp, (void)keeper;
    struct host_peer *peer = meet(secret);
    struct rlimit full, none;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &full), 0);
    int next = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK_LE(0, next);
    close(next);
    none = full;
    none.rlim_cur = (rlim_t)next;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    for (uint64_t end = test_now_ms() + 300; test_now_ms() < end; test_sleep_ms(1))
        CHECK(!host_peer_reach(peer));
    CHECK_EQ(atomic_load(&peer->failed), 0);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &full), 0);
    CHECK(reach(peer, 5000));
}

static void retried(void)
{
    against(try_without_descriptors);
}

static void knock(bool over_tcp, pid_t keeper)
{
    (void)over_tcp, (void)keeper;
    struct host_peer *peer = meet(other);
    uint64_t start = test_now_ms();
    CHECK(!reach(peer, 8000));
    CHECK_LT(test_now_ms() - start, 5000);
    CHECK_EQ(atomic_load(&peer->failed), CHOIR_ERR_AUTH);
}

static void stranger(void)
{
    against(knock);
}

/* A unix socket tells that for certain, and at once; a refused port may be a firewall's. */
static void come_too_late(bool over_tcp, pid_t keeper)
{
    struct host_peer *peer = meet(secret);
    uint64_t start = test_now_ms();
    kill(keeper, SIGKILL);
    test_sleep_ms(200);
    CHECK(!reach(peer, 25000));
    CHECK_EQ(atomic_load(&peer->failed), over_tcp ? CHOIR_ERR_NETWORK : CHOIR_ERR_PEER_DEAD);
    if (!over_tcp)
        CHECK_LT(test_now_ms() - start, 2000);
}

static void no_more(void)
{
    against(come_too_late);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(joined), TEST(retried), TEST(stranger),
                                             TEST(no_more)};
    shared = test_shared(sizeof(*shared));
    return test_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
