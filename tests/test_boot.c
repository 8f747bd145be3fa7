/* SPDX-License-Identifier: Apache-2.0 */
/* test_boot.c: the rendezvous as its users see it: who meets, who is missed, and how soon one is told. */
#include "base/knob.h"
#include "boot/boot.h"
#include "tests/lib/test.h"
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)

static uint64_t in_ms(uint64_t ms)
{
    return base_now_ns() + ms * 1000000u;
}

static struct choir_error last_error(void)
{
    return *base_error_thread();
}

#define CHECK_TEXT(part)                                                                           \
    do {                                                                                           \
        struct choir_error check_e = last_error();                                                 \
        if (!strstr(check_e.text, part))                                                           \
            FAIL("error text \"%s\" lacks \"%s\"", check_e.text, part);                            \
        if (!check_e.remedy[0])                                                                    \
            FAIL("error \"%s\" has no remedy", check_e.text);                                      \
    } while (0)

/* Servers end by themselves a moment after the last rank was told. */
static void expect_fds(int before)
{
    uint64_t until = in_ms(3000);
    while (test_open_files() > before && base_now_ns() < until)
        usleep(2000);
    CHECK_LE(test_open_files(), before);
}

/* A forked child that does not outlive this process. */
static pid_t child(void)
{
    pid_t pid = fork();
    CHECK_LE(0, pid);
    if (!pid)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid;
}

static void set_env(const char *name, const char *value)
{
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
    knob_reload();
}

/* The blob of a rank: its own number, repeated; a different length for each. */
static uint32_t make_blob(uint32_t rank, uint8_t *blob)
{
    uint32_t bytes = rank * 37 % (BOOT_ADDRESS_MOST + 1);
    for (uint32_t i = 0; i < bytes; i++)
        blob[i] = (uint8_t)(rank + i);
    return bytes;
}

static void check_peers(const struct boot_peers *p, uint32_t rank, uint32_t size)
{
    uint32_t k = 0;
    uint8_t blob[BOOT_ADDRESS_MOST];
    CHECK(p->nonce != 0);
    for (int64_t c = -1; c < BOOT_FANOUT; c++) {
        int64_t peer =
            c < 0 ? ((int64_t)rank - 1) / BOOT_FANOUT : (int64_t)rank * BOOT_FANOUT + 1 + c;
        if ((c < 0 && !rank) || peer >= size)
            continue;
        CHECK_LT(k, p->count);
        CHECK_EQ(p->peer[k].rank, peer);
        CHECK_EQ(p->peer[k].bytes, make_blob((uint32_t)peer, blob));
        CHECK(!memcmp(p->peer[k].address, blob, p->peer[k].bytes));
        k++;
    }
    CHECK_EQ(p->count, k);
}

/* --- many joins driven by one thread ---------------------------------------------------------- */
struct drive {
    uint32_t rank, size;
    struct boot_join *join;
    enum choir_status status;
    struct choir_error error;
    struct boot_peers peers;
    uint64_t done_ns;
};

static void drive_start(struct drive *d, const struct choir_id *id, uint32_t rank, uint32_t size,
                        uint64_t deadline_ns)
{
    uint8_t blob[BOOT_ADDRESS_MOST];
    *d = (struct drive){.rank = rank, .size = size};
    uint32_t bytes = make_blob(rank, blob);
    CHECK_OK(boot_join_start(id, rank, size, blob, bytes, deadline_ns, &d->join));
}

/* Until all have ended. */
static void drive_all(struct drive *d, uint32_t count)
{
    for (uint32_t left = count; left;) {
        left = 0;
        for (uint32_t i = 0; i < count; i++) {
            if (!d[i].join)
                continue;
            d[i].status = boot_join_test(d[i].join, &d[i].peers);
            if (d[i].status == CHOIR_IN_PROGRESS) {
                left++;
                continue;
            }
            d[i].join = NULL;
            d[i].done_ns = base_now_ns();
            d[i].error = last_error();
        }
        if (left)
            usleep(200);
    }
}

static void drive_check_all(struct drive *d, uint32_t size)
{
    for (uint32_t r = 0; r < size; r++) {
        if (d[r].status)
            FAIL("rank %u: %s: %s", r, choir_status_name(d[r].status), d[r].error.text);
        check_peers(&d[r].peers, d[r].rank, size);
        CHECK(d[r].peers.nonce == d[0].peers.nonce);
    }
    for (uint32_t r = 0; r < size; r++)
        boot_peers_free(&d[r].peers);
}

static void one_thread(void)
{
    static const uint32_t sizes[] = {1, 2, 3, 5, 9, 10, 64, 74, 512};
    for (size_t i = 0; i < base_count(sizes); i++) {
        uint32_t n = sizes[i];
        int fds = test_open_files();
        struct choir_id id;
        struct drive *d = calloc(n, sizeof(*d));
        CHECK_OK(boot_id_create(&id));
        uint64_t begun = base_now_ns();
        for (uint32_t r = 0; r < n; r++)
            drive_start(&d[r], &id, n - 1 - r, n, in_ms(30000));
        drive_all(d, n);
        if (n == 512)
            printf("512 ranks in one thread: %.1f ms\n", (double)(base_now_ns() - begun) * 1e-6);
        drive_check_all(d, n);
        expect_fds(fds);
        free(d);
    }
}

static void join_thread(int rank, int size, void *arg)
{
    uint8_t blob[BOOT_ADDRESS_MOST];
    struct boot_peers p;
    uint32_t bytes = make_blob((uint32_t)rank, blob);
    CHECK_OK(boot_join(arg, (uint32_t)rank, (uint32_t)size, blob, bytes, in_ms(30000), NULL, &p));
    check_peers(&p, (uint32_t)rank, (uint32_t)size);
    boot_peers_free(&p);
}

static void threads(void)
{
    static const int sizes[] = {1, 2, 5, 64, 512};
    for (size_t i = 0; i < base_count(sizes); i++) {
        int fds = test_open_files();
        struct choir_id id;
        CHECK_OK(boot_id_create(&id));
        uint64_t begun = base_now_ns();
        test_threads(sizes[i], join_thread, &id);
        if (sizes[i] == 512)
            printf("512 ranks in threads: %.1f ms\n", (double)(base_now_ns() - begun) * 1e-6);
        expect_fds(fds);
    }
}

static void processes(void)
{
    struct choir_id id;
    test_id(&id); /* choir_id_create is boot_id_create */
    test_processes(7, join_thread, &id);
}

static void many_ids(void)
{
    enum { IDS = 12, RANKS = 5 };
    int fds = test_open_files();
    struct choir_id id[IDS];
    static struct drive d[IDS * RANKS];
    for (int i = 0; i < IDS; i++)
        CHECK_OK(boot_id_create(&id[i]));
    for (int k = 0; k < IDS * RANKS; k++)
        drive_start(&d[k], &id[k % IDS], (uint32_t)(k / IDS), RANKS, in_ms(20000));
    drive_all(d, IDS * RANKS);
    for (int i = 0; i < IDS; i++)
        for (int r = 0; r < RANKS; r++) {
            struct drive *one = &d[r * IDS + i];
            CHECK_EQ(one->status, CHOIR_OK);
            CHECK(one->peers.nonce == d[i].peers.nonce);
            CHECK(i == 0 || one->peers.nonce != d[i - 1].peers.nonce || r);
            check_peers(&one->peers, one->rank, RANKS);
        }
    for (int k = 0; k < IDS * RANKS; k++)
        boot_peers_free(&d[k].peers);
    expect_fds(fds);
}

/* --- who does not come ------------------------------------------------------------------------ */
static void missing(void)
{
    struct choir_id id;
    struct drive d[16];
    CHECK_OK(boot_id_create(&id));
    uint64_t deadline = in_ms(700);
    uint32_t n = 0;
    for (uint32_t r = 0; r < 16; r++)
        if (r != 3 && (r < 7 || r > 9))
            drive_start(&d[n++], &id, r, 16, deadline);
    drive_all(d, n);
    for (uint32_t i = 0; i < n; i++) {
        CHECK_EQ(d[i].status, CHOIR_ERR_PEER_MISSING);
        CHECK_EQ(d[i].error.peer, 3);
        CHECK_EQ(d[i].error.rank, d[i].rank);
        if (!strstr(d[i].error.text, "ranks 3, 7-9 of 16 did not arrive within 0.7 s"))
            FAIL("text: %s", d[i].error.text);
        CHECK_LE(deadline, d[i].done_ns + 20000000u);
        CHECK_LE(d[i].done_ns, deadline + 200000000u);
    }
    /* and one that comes afterwards hears the same, at once */
    uint64_t begun = base_now_ns();
    drive_start(&d[0], &id, 8, 16, in_ms(5000));
    drive_all(d, 1);
    CHECK_EQ(d[0].status, CHOIR_ERR_PEER_MISSING);
    CHECK(strstr(d[0].error.text, "ranks 3, 7-9 of 16") != NULL);
    CHECK_LT(d[0].done_ns - begun, SECOND);
    CHECK_OK(boot_id_cancel(&id));
}

static void missing_long_list(void)
{
    enum { HERE = 100, SIZE = 400 };
    static struct drive d[HERE];
    struct choir_id id;
    CHECK_OK(boot_id_create(&id));
    for (uint32_t i = 0; i < HERE; i++)
        drive_start(&d[i], &id, i * 3 + 1, SIZE, in_ms(400));
    drive_all(d, HERE);
    CHECK_EQ(d[HERE - 1].status, CHOIR_ERR_PEER_MISSING);
    CHECK(strstr(d[HERE - 1].error.text, "ranks 0, 2-3, 5-6, ") != NULL);
    CHECK(strstr(d[HERE - 1].error.text, " more of 400 did not arrive within ") != NULL);
    CHECK_OK(boot_id_cancel(&id));
}

static void earliest_deadline_counts(void)
{
    struct choir_id id;
    struct drive d[2];
    CHECK_OK(boot_id_create(&id));
    uint64_t begun = base_now_ns();
    drive_start(&d[0], &id, 0, 3, in_ms(60000));
    drive_start(&d[1], &id, 1, 3, in_ms(300));
    drive_all(d, 2);
    CHECK_EQ(d[0].status, CHOIR_ERR_PEER_MISSING);
    CHECK_EQ(d[1].status, CHOIR_ERR_PEER_MISSING);
    CHECK_LT(d[0].done_ns - begun, SECOND);
    CHECK(strstr(d[0].error.text, "rank 2 of 3 did not") != NULL);
    CHECK_OK(boot_id_cancel(&id));
}

/* --- who contradicts -------------------------------------------------------------------------- */
static void duplicate(void)
{
    struct choir_id id;
    struct drive d[3];
    char both[64];
    CHECK_OK(boot_id_create(&id));
    for (uint32_t i = 0; i < 3; i++)
        drive_start(&d[i], &id, i % 2, 4, in_ms(10000)); /* 0, 1, 0 */
    uint64_t begun = base_now_ns();
    drive_all(d, 3);
    CHECK_LT(base_now_ns() - begun, 2 * SECOND);
    snprintf(both, sizeof(both), "pid %d", (int)getpid());
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(d[i].status, CHOIR_ERR_RANK);
        CHECK_EQ(d[i].error.peer, 0);
        CHECK(strstr(d[i].error.text, "two processes are rank 0 of 4") != NULL);
        const char *first = strstr(d[i].error.text, both);
        CHECK(first && strstr(first + 1, both));
    }
    CHECK_OK(boot_id_cancel(&id));
}

static void other_size(void)
{
    struct choir_id id;
    struct drive d[3];
    CHECK_OK(boot_id_create(&id));
    for (uint32_t i = 0; i < 3; i++)
        drive_start(&d[i], &id, i, i == 2 ? 8 : 4, in_ms(10000));
    drive_all(d, 3);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(d[i].status, CHOIR_ERR_ARGUMENT);
        const char *text = d[i].error.text; /* names who came first last */
        CHECK((strstr(text, "there are 8 ranks") && strstr(text, "says 4")) ||
              (strstr(text, "there are 4 ranks") && strstr(text, "says 8")));
    }
    CHECK_OK(boot_id_cancel(&id));
}

static void bad_arguments(void)
{
    struct choir_id id, bad;
    struct boot_join *j = NULL;
    struct boot_id out;
    char big[BOOT_ADDRESS_MOST + 1] = {0};
    CHECK_OK(boot_id_create(&id));
    CHECK_EQ(boot_join_start(&id, 4, 4, NULL, 0, in_ms(100), &j), CHOIR_ERR_RANK);
    CHECK_TEXT("rank is 4 of 4");
    CHECK_EQ(boot_join_start(&id, 0, 0, NULL, 0, in_ms(100), &j), CHOIR_ERR_ARGUMENT);
    CHECK_EQ(boot_join_start(&id, 0, UINT32_MAX, NULL, 0, in_ms(100), &j), CHOIR_ERR_ARGUMENT);
    CHECK_EQ(boot_join_start(&id, 0, 1, big, sizeof(big), in_ms(100), &j), CHOIR_ERR_ARGUMENT);
    CHECK_EQ(boot_join_start(&id, 0, 1, NULL, 1, in_ms(100), &j), CHOIR_ERR_ARGUMENT);
    CHECK_EQ(boot_join_start(NULL, 0, 1, NULL, 0, in_ms(100), &j), CHOIR_ERR_POINTER);
    CHECK_EQ(boot_id_create(NULL), CHOIR_ERR_POINTER);
    memset(&bad, 0, sizeof(bad));
    CHECK_EQ(boot_join_start(&bad, 0, 1, NULL, 0, in_ms(100), &j), CHOIR_ERR_ARGUMENT);
    CHECK_TEXT("does not begin");
    for (size_t i = 4; i < sizeof(id.bytes); i += 7) {
        bad = id;
        bad.bytes[i] = (char)(bad.bytes[i] ^ 0x55);
        CHECK_EQ(boot_id_decode(&bad, &out), CHOIR_ERR_ARGUMENT);
    }
    CHECK(j == NULL);
    CHECK_OK(boot_id_decode(&id, &out));
    CHECK(!out.insecure);
    CHECK_OK(boot_id_cancel(&id));
}

static void used_twice(void)
{
    struct choir_id id;
    struct drive d[2];
    struct boot_join *j;
    CHECK_OK(boot_id_create(&id));
    for (uint32_t i = 0; i < 2; i++)
        drive_start(&d[i], &id, i, 2, in_ms(10000));
    drive_all(d, 2);
    drive_check_all(d, 2);
    CHECK_EQ(boot_join_start(&id, 0, 2, NULL, 0, in_ms(10000), &j), CHOIR_ERR_STATE);
    CHECK_TEXT("an id serves once");
    /* another process, which cannot know: told by the server, or that there is none any more */
    pid_t pid = child();
    if (!pid) {
        struct boot_peers p;
        uint64_t begun = base_now_ns();
        enum choir_status s = boot_join(&id, 0, 3, NULL, 0, in_ms(20000), NULL, &p);
        if (s == CHOIR_ERR_STATE && (int64_t)(base_now_ns() - begun) < 5 * SECOND)
            _exit(0);
        /* not through the ring of this process: rank 2 was never here */
        _exit(1);
    }
    int st;
    CHECK_EQ(waitpid(pid, &st, 0), pid);
    CHECK_EQ(st, 0);
    uint64_t begun = base_now_ns();
    struct boot_peers p;
    enum choir_status s = boot_join(&id, 2, 3, NULL, 0, in_ms(20000), NULL, &p);
    CHECK(s == CHOIR_ERR_STATE || s == CHOIR_ERR_NETWORK);
    CHECK_TEXT("used already");
    CHECK_LT(base_now_ns() - begun, 5 * SECOND);
}

/* --- deaths ------------------------------------------------------------------------------------ */
static void joiner_dies(void)
{
    struct choir_id id;
    struct drive d[2];
    CHECK_OK(boot_id_create(&id));
    pid_t pid = child();
    if (!pid) {
        struct boot_peers p;
        boot_join(&id, 2, 4, NULL, 0, in_ms(30000), NULL, &p);
        _exit(1);
    }
    drive_start(&d[0], &id, 0, 4, in_ms(30000));
    drive_start(&d[1], &id, 1, 4, in_ms(30000));
    usleep(200000);
    uint64_t begun = base_now_ns();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    drive_all(d, 2);
    CHECK_LT(base_now_ns() - begun, 2 * SECOND);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(d[i].status, CHOIR_ERR_PEER_DEAD);
        CHECK_EQ(d[i].error.peer, 2);
        CHECK(strstr(d[i].error.text, "rank 2 of 4") != NULL);
    }
    CHECK_OK(boot_id_cancel(&id));
}

/* A process that makes an id, hands it over a pipe, and dies. */
static void server_dies(void)
{
    int pipe_fd[2];
    struct choir_id id;
    struct drive d[2];
    CHECK_EQ(pipe(pipe_fd), 0);
    pid_t pid = child();
    if (!pid) {
        CHECK_OK(boot_id_create(&id));
        CHECK_EQ(write(pipe_fd[1], &id, sizeof(id)), sizeof(id));
        pause();
    }
    CHECK_EQ(read(pipe_fd[0], &id, sizeof(id)), sizeof(id));
    close(pipe_fd[0]);
    close(pipe_fd[1]);
    drive_start(&d[0], &id, 0, 3, in_ms(30000));
    drive_start(&d[1], &id, 1, 3, in_ms(30000));
    struct boot_peers p;
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(boot_join_test(d[0].join, &p), CHOIR_IN_PROGRESS);
        CHECK_EQ(boot_join_test(d[1].join, &p), CHOIR_IN_PROGRESS);
        usleep(1000);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    uint64_t begun = base_now_ns();
    drive_all(d, 2);
    CHECK_LT(base_now_ns() - begun, 5 * SECOND);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(d[i].status, CHOIR_ERR_NETWORK);
        CHECK(strstr(d[i].error.text, "the process that made the id is gone") != NULL);
    }
}

static void cancelled(void)
{
    struct choir_id id;
    struct drive d[1];
    _Atomic int cancel = 1;
    struct boot_peers p;
    int fds = test_open_files();
    CHECK_OK(boot_id_create(&id));
    CHECK_EQ(boot_join(&id, 1, 2, NULL, 0, in_ms(30000), &cancel, &p), CHOIR_ERR_ABORTED);
    drive_start(&d[0], &id, 0, 2, in_ms(30000));
    for (int i = 0; i < 50; i++, usleep(1000))
        CHECK_EQ(boot_join_test(d[0].join, &p), CHOIR_IN_PROGRESS);
    CHECK_OK(boot_id_cancel(&id));
    drive_all(d, 1);
    CHECK(d[0].status == CHOIR_ERR_ABORTED || d[0].status == CHOIR_ERR_PEER_DEAD);
    expect_fds(fds);
    CHECK_EQ(boot_id_cancel(&id), CHOIR_ERR_STATE);
}

/* Until no other thread of this process runs, 2 s at most. */
static void wait_till_threads_sleep(void)
{
    uint64_t until = in_ms(2000);
    for (int quiet = 0; quiet < 3 && base_now_ns() < until; usleep(2000)) {
        DIR *tasks = opendir("/proc/self/task");
        CHECK(tasks != NULL);
        int awake = 0;
        for (struct dirent *entry; (entry = readdir(tasks));) {
            char path[300], text[256] = "";
            snprintf(path, sizeof(path), "/proc/self/task/%s/stat", entry->d_name);
            FILE *file = fopen(path, "r");
            if (!file)
                continue;
            const char *name_end = fgets(text, sizeof(text), file) ? strrchr(text, ')') : NULL;
            awake += name_end && name_end[2] == 'R';
            fclose(file);
        }
        closedir(tasks);
        quiet = awake <= 1 ? quiet + 1 : 0; /* one is this thread */
    }
}

static void forked(void)
{
    struct choir_id id;
    struct drive d[2];
    struct boot_peers p;
    int fds = test_open_files();
    CHECK_OK(boot_id_create(&id));
    for (uint32_t i = 0; i < 2; i++)
        drive_start(&d[i], &id, i, 2, in_ms(10000));
    CHECK_EQ(boot_join_test(d[0].join, &p), CHOIR_IN_PROGRESS);
    /* The address sanitizer's allocator keeps in the child what another thread had locked. */
    if (TEST_ASAN)
        wait_till_threads_sleep();
    pid_t pid = child();
    if (!pid) {
        CHECK_LE(test_open_files(), fds);
        CHECK_EQ(boot_join_test(d[0].join, &p), CHOIR_ERR_FORKED);
        CHECK_EQ(boot_id_cancel(&id), CHOIR_ERR_STATE);
        /* the child may begin anew */
        struct choir_id other;
        CHECK_OK(boot_id_create(&other));
        CHECK_OK(boot_join(&other, 0, 1, NULL, 0, in_ms(5000), NULL, &p));
        boot_peers_free(&p);
        _exit(0);
    }
    int st;
    CHECK_EQ(waitpid(pid, &st, 0), pid);
    CHECK_EQ(st, 0);
    drive_all(d, 2);
    drive_check_all(d, 2);
    expect_fds(fds);
}

/* --- interfaces and ports ---------------------------------------------------------------------- */
static void pair(void)
{
    struct choir_id id;
    struct drive d[2];
    CHECK_OK(boot_id_create(&id));
    for (uint32_t i = 0; i < 2; i++)
        drive_start(&d[i], &id, i, 2, in_ms(10000));
    drive_all(d, 2);
    drive_check_all(d, 2);
}

static void families(void)
{
    struct choir_id id;
    set_env("CHOIR_SOCKET_IFNAME", "=lo");
    pair();
    set_env("CHOIR_SOCKET_FAMILY", "AF_INET");
    pair();
    set_env("CHOIR_SOCKET_FAMILY", "AF_INET6");
    if (access("/proc/net/if_inet6", R_OK) == 0)
        pair();
    else
        test_skip_part("IPv6 loopback: this kernel has no IPv6");
    set_env("CHOIR_SOCKET_FAMILY", "inet7");
    CHECK_EQ(boot_id_create(&id), CHOIR_ERR_ARGUMENT);
    CHECK_TEXT("CHOIR_SOCKET_FAMILY");
    set_env("CHOIR_SOCKET_FAMILY", NULL);
    set_env("CHOIR_SOCKET_IFNAME", "nosuch");
    CHECK_EQ(boot_id_create(&id), CHOIR_ERR_ARGUMENT);
    CHECK_TEXT("nosuch");
    set_env("CHOIR_SOCKET_IFNAME", NULL);
}

static void port_range(void)
{
    struct choir_id id[4];
    char range[32], text[64];
    uint32_t first = 12000 + (uint32_t)(test_seed() % 18000);
    snprintf(range, sizeof(range), "%u-%u", first, first + 2);
    set_env("CHOIR_PORT_RANGE", range);
    int made = 0;
    while (made < 4 && boot_id_create(&id[made]) == CHOIR_OK)
        made++;
    CHECK_LE(made, 3);
    CHECK_LE(1, made);
    CHECK_EQ(last_error().status, CHOIR_ERR_NETWORK);
    snprintf(text, sizeof(text), "from %u to %u (CHOIR_PORT_RANGE)", first, first + 2);
    CHECK_TEXT(text);
    for (int i = 0; i < made; i++)
        CHECK_OK(boot_id_cancel(&id[i]));
    static const char *const bad[] = {"7", "9-7", "x-y", "0-5", "5-70000", "5-", "-5", "5-7x"};
    for (size_t i = 0; i < base_count(bad); i++) {
        set_env("CHOIR_PORT_RANGE", bad[i]);
        CHECK_EQ(boot_id_create(&id[0]), CHOIR_ERR_ARGUMENT);
        CHECK_TEXT("CHOIR_PORT_RANGE");
    }
    set_env("CHOIR_PORT_RANGE", NULL);
}

/* --- few descriptors --------------------------------------------------------------------------- */
/* In a process of its own: the hard limit stays down. 60 ranks are children's, the server has room for about 20. */
static void parked_rank(int rank, int size, void *arg)
{
    join_thread(rank, size, arg);
}

static void parked(void)
{
    pid_t pid = child();
    if (!pid) {
        int pipe_fd[2];
        struct choir_id id;
        CHECK_EQ(pipe(pipe_fd), 0);
        pid_t server = child();
        if (!server) {
            struct rlimit l = {(rlim_t)test_open_files() + 20, (rlim_t)test_open_files() + 20};
            CHECK_EQ(setrlimit(RLIMIT_NOFILE, &l), 0);
            CHECK_OK(boot_id_create(&id));
            CHECK_EQ(write(pipe_fd[1], &id, sizeof(id)), sizeof(id));
            sleep(20);
            _exit(0);
        }
        CHECK_EQ(read(pipe_fd[0], &id, sizeof(id)), sizeof(id));
        test_threads(60, parked_rank, &id);
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
        _exit(0);
    }
    int st;
    CHECK_EQ(waitpid(pid, &st, 0), pid);
    CHECK_EQ(st, 0);
}

TEST_MAIN(TEST(one_thread), TEST(threads), TEST(processes), TEST(many_ids), TEST(missing),
          TEST(missing_long_list), TEST(earliest_deadline_counts), TEST(duplicate),
          TEST(other_size), TEST(bad_arguments), TEST(used_twice), TEST(joiner_dies),
          TEST(server_dies), TEST(cancelled), TEST(forked), TEST(families), TEST(port_range),
          TEST(parked))
