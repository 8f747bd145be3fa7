/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bad input. Wrong arguments are refused at once, naming argument and rank, and the communicator goes on; calls that do not fit
 * together, ranks that never come or never call, and unlike settings give an error that names the culprit, on every
 * rank concerned, in time, with inputs untouched.
 */
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include <pthread.h>
#include <unistd.h>

static struct choir_id id;

static choir_comm *make(int rank, int size)
{
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    return c;
}

static void says(choir_comm *c, const char *call, int status, int want, const char *word)
{
    struct choir_error e = {.bytes = sizeof(e)};
    choir_comm_last_error(c, &e);
    if (status != want)
        FAIL("%s: %s, not %s: %s", call, choir_status_name((enum choir_status)status),
             choir_status_name((enum choir_status)want), e.text);
    if (word && !strstr(e.text, word))
        FAIL("%s: \"%s\" does not say \"%s\"", call, e.text, word);
    if (!e.remedy[0])
        FAIL("%s: \"%s\" has no remedy", call, e.text);
}
#define REFUSED(c, call, status, word) says(c, #call, (int)(call), status, word)

static void wrong_calls(choir_comm *c, int size)
{
    float a[64] = {0}, b[64];
    uint64_t n[8] = {0}, huge[8] = {UINT64_MAX}, two[2] = {2, 2}, crossed[2] = {2, 1};
    const enum choir_type t = CHOIR_FLOAT32, none = (enum choir_type)99;
    struct choir_call call = {.bytes = 4};
    REFUSED(NULL, choir_all_reduce(NULL, a, b, 1, t, CHOIR_SUM, NULL), CHOIR_ERR_POINTER, "comm");
    REFUSED(c, choir_all_reduce(c, NULL, b, 1, t, CHOIR_SUM, NULL), CHOIR_ERR_POINTER, "send");
    REFUSED(c, choir_all_reduce(c, a, NULL, 1, t, CHOIR_SUM, NULL), CHOIR_ERR_POINTER, "recv");
    REFUSED(c, choir_all_reduce(c, a, a + 1, 2, t, CHOIR_SUM, NULL), CHOIR_ERR_POINTER, "overlap");
    REFUSED(c, choir_all_reduce(c, a, b, 1, none, CHOIR_SUM, NULL), CHOIR_ERR_TYPE, "type");
    REFUSED(c, choir_all_reduce(c, a, b, 1, t, 77, NULL), CHOIR_ERR_OP, "op");
    REFUSED(c, choir_all_reduce(c, a, b, 1, t, CHOIR_BXOR, NULL), CHOIR_ERR_OP, "float32");
    REFUSED(c, choir_all_reduce(c, a, b, 1ull << 61, t, CHOIR_SUM, NULL), CHOIR_ERR_COUNT, "count");
    REFUSED(c, choir_all_reduce_x(c, a, b, 1, t, CHOIR_SUM, NULL, &call), CHOIR_ERR_ARGUMENT,
            "call");
    REFUSED(c, choir_reduce(c, a, b, 1, t, CHOIR_SUM, size, NULL), CHOIR_ERR_RANK, "root");
    REFUSED(c, choir_broadcast(c, a, b, 1, t, -1, NULL), CHOIR_ERR_RANK, "root -1");
    REFUSED(c, choir_broadcast(c, a, NULL, 1, t, 0, NULL), CHOIR_ERR_POINTER, "recv");
    REFUSED(c, choir_all_gather(c, a, b, 1ull << 62, t, NULL), CHOIR_ERR_COUNT, "count");
    REFUSED(c, choir_all_gather(c, a, a, 5, CHOIR_TYPES, NULL), CHOIR_ERR_TYPE, "type");
    REFUSED(c, choir_reduce_scatter(c, a, b, 1, t, CHOIR_LAND, NULL), CHOIR_ERR_OP, "land");
    REFUSED(c, choir_all_to_all(c, a, a + 1, 2, t, NULL), CHOIR_ERR_POINTER, "overlap");
    REFUSED(c, choir_gather(c, a, b, 1, t, 1000, NULL), CHOIR_ERR_RANK, "1000");
    REFUSED(c, choir_scatter(c, a, NULL, 1, t, 0, NULL), CHOIR_ERR_POINTER, "recv");
    REFUSED(c, choir_send(c, a, 1, t, size, NULL), CHOIR_ERR_RANK, "peer");
    REFUSED(c, choir_recv(c, NULL, 1, t, 0, NULL), CHOIR_ERR_POINTER, "recv");
    REFUSED(c, choir_recv(c, b, 1, none, 0, NULL), CHOIR_ERR_TYPE, "type");
    REFUSED(c, choir_all_gather_v(c, a, b, NULL, NULL, t, NULL), CHOIR_ERR_POINTER, "counts");
    REFUSED(c, choir_all_gather_v(c, a, b, huge, NULL, t, NULL), CHOIR_ERR_COUNT, "counts[0]");
    REFUSED(c, choir_all_gather_v(c, a, b, two, huge, t, NULL), CHOIR_ERR_COUNT, "offsets[0]");
    REFUSED(c, choir_all_gather_v(c, a, b, two, crossed, t, NULL), CHOIR_ERR_ARGUMENT,
            "offsets[0] is 2: that part overlaps the one of rank 1");
    REFUSED(c, choir_all_to_all_v(c, a, two, crossed, b, two, crossed, t, NULL), CHOIR_ERR_ARGUMENT,
            "recv_offsets[0]");
    REFUSED(c, choir_reduce_scatter_v(c, a, b, n, NULL, t, 99, NULL), CHOIR_ERR_OP, "op");
    REFUSED(c, choir_all_to_all_v(c, a, n, NULL, b, NULL, NULL, t, NULL), CHOIR_ERR_POINTER,
            "recv_counts");
    REFUSED(c, choir_gather_v(c, a, 1, b, n, NULL, t, -3, NULL), CHOIR_ERR_RANK, "root");
    REFUSED(c, choir_scatter_v(c, a, n, NULL, b, 1, t, 9, NULL), CHOIR_ERR_RANK, "root");
}

/* What lies behind the structure of a program made before device_bytes is not touched. */
static void memory_sizes(choir_comm *c)
{
    const uint32_t before = offsetof(struct choir_memory, device_bytes);
    struct choir_memory m = {.bytes = before, .device_bytes = 77};
    CHECK_OK(choir_comm_memory(c, &m));
    CHECK_EQ(m.device_bytes, 77);
    m.bytes = sizeof(m);
    CHECK_OK(choir_comm_memory(c, &m));
    CHECK_EQ(m.device_bytes, 0);
    m.bytes = before - 1;
    REFUSED(NULL, choir_comm_memory(c, &m), CHOIR_ERR_ARGUMENT, "too small");
}

static void wrong_objects(choir_comm *c, int size)
{
    int bad[] = {size}, x;
    choir_comm *child;
    choir_op op;
    choir_region *region;
    choir_window *window;
    void *p;
    size_t bytes;
    float scale = 2;
    struct choir_config config = CHOIR_CONFIG_INIT;
    REFUSED(NULL, choir_group_end(), CHOIR_ERR_STATE, "group");
    REFUSED(NULL, choir_comm_rank(c, NULL), CHOIR_ERR_POINTER, "rank");
    REFUSED(NULL, choir_comm_size(NULL, &x), CHOIR_ERR_POINTER, "comm");
    REFUSED(NULL, choir_comm_memory(c, NULL), CHOIR_ERR_ARGUMENT, "memory");
    memory_sizes(c);
    CHECK_EQ(choir_comm_last_error(c, NULL), CHOIR_ERR_ARGUMENT);
    REFUSED(NULL, choir_op_create_scaled(c, NULL, CHOIR_FLOAT32, &op), CHOIR_ERR_POINTER, "scale");
    REFUSED(NULL, choir_op_create_scaled(c, &scale, CHOIR_TYPES, &op), CHOIR_ERR_TYPE, "type");
    REFUSED(NULL, choir_op_create_user(c, NULL, NULL, 0, &op), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_op_destroy(c, 4711), CHOIR_ERR_OP, NULL);
    REFUSED(NULL, choir_comm_shrink(c, bad, 1, NULL, &child), CHOIR_ERR_RANK, NULL);
    REFUSED(NULL, choir_comm_shrink(c, NULL, 0, NULL, NULL), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_comm_split(c, 0, 0, NULL, NULL), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_comm_split(c, -5, 0, NULL, &child), CHOIR_ERR_ARGUMENT, "color");
    config.version = 99;
    REFUSED(NULL, choir_comm_create(&id, 0, 1, &config, &child), CHOIR_ERR_ARGUMENT, "version");
    REFUSED(NULL, choir_comm_create(&id, 2, 2, NULL, &child), CHOIR_ERR_RANK, "rank 2");
    REFUSED(NULL, choir_comm_create(&id, 0, 0, NULL, &child), CHOIR_ERR_ARGUMENT, "size");
    REFUSED(NULL, choir_comm_create(NULL, 0, 1, NULL, &child), CHOIR_ERR_POINTER, "id");
    REFUSED(NULL, choir_id_create(NULL), CHOIR_ERR_POINTER, "id");
    REFUSED(NULL, choir_stream_create(NULL), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_event_create(NULL), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_event_wait(NULL), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_event_record(NULL, NULL), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_mem_alloc(0, &p), CHOIR_ERR_COUNT, "bytes");
    REFUSED(NULL, choir_mem_alloc(8, NULL), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_mem_free(&x), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_register(c, NULL, 8, &region), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_deregister(c, NULL), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_window_create(c, NULL, 8, &window), CHOIR_ERR_POINTER, NULL);
    REFUSED(NULL, choir_window_pointer(NULL, 0, &p, &bytes), CHOIR_ERR_POINTER, NULL);
}

static void arguments_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size);
    float x = 1, y = 0;
    wrong_calls(c, size);
    wrong_objects(c, size);
    CHECK_EQ(choir_group_start(), CHOIR_OK);
    CHECK_EQ(choir_all_reduce(c, NULL, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL), CHOIR_ERR_POINTER);
    CHECK_EQ(choir_group_end(), CHOIR_ERR_POINTER);
    /* Nothing of it broke anything; parts in another order are as good as any. */
    float pair[2] = {(float)rank, (float)-rank}, all[4] = {0};
    const uint64_t two[2] = {2, 2}, reversed[2] = {2, 0};
    CHECK_OK(choir_all_gather_v(c, pair, all, two, reversed, CHOIR_FLOAT32, NULL));
    CHECK(all[0] == 1 && all[1] == -1 && all[2] == 0);
    CHECK_OK(choir_all_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL));
    CHECK_EQ((int)y, size);
    CHECK_OK(choir_comm_finalize(c));
    REFUSED(c, choir_barrier(c, NULL), CHOIR_ERR_STATE, "finalized");
    CHECK_OK(choir_comm_destroy(c));
}

static void arguments(void)
{
    test_id(&id);
    test_ranks(2, NULL, arguments_rank, NULL);
}

/* --- calls that do not fit --------------------------------------------------------------------- */

enum wrong { KIND, COUNT, TYPE, OP, ROOT, ZERO, BIG, MESSAGE, PAIRS, GATHER, WRONGS };
static const char *const wrong_name[] = {"collective", "count", "type",    "op",    "root",
                                         "0 for 5",    "large", "message", "pairs", "gather_v"};

/* What the record says of it, where the calls meet. */
static const char *const wrong_argument[WRONGS] = {"broadcast", "count", "type int32", "op max"};

static enum choir_status odd_call(choir_comm *c, int rank, int size, enum wrong w, float *in,
                                  float *out)
{
    bool odd = rank == size - 1;
    uint64_t five[8] = {5, 5, 5, 5, 5, 5, 5, 5}, mine[8];
    memcpy(mine, five, sizeof(mine));
    switch (w) {
    case KIND:
        return odd ? choir_broadcast(c, in, out, 100, CHOIR_FLOAT32, 0, NULL)
                   : choir_all_reduce(c, in, out, 100, CHOIR_FLOAT32, CHOIR_SUM, NULL);
    case COUNT:
        return choir_all_reduce(c, in, out, odd ? 7 : 100, CHOIR_FLOAT32, CHOIR_SUM, NULL);
    case TYPE:
        return choir_all_reduce(c, in, out, 100, odd ? CHOIR_INT32 : CHOIR_FLOAT32, CHOIR_SUM,
                                NULL);
    case OP:
        return choir_all_reduce(c, in, out, 100, CHOIR_FLOAT32, odd ? CHOIR_MAX : CHOIR_SUM, NULL);
    case ROOT:
        return choir_broadcast(c, in, out, 100, CHOIR_FLOAT32, odd ? 1 : 0, NULL);
    case ZERO:
        return choir_all_reduce(c, in, out, odd ? 0 : 5, CHOIR_FLOAT32, CHOIR_SUM, NULL);
    case BIG:
        return choir_all_gather(c, in, out, odd ? 20001 : 20000, CHOIR_FLOAT32, NULL);
    case MESSAGE:
        return odd    ? choir_send(c, in, 6, CHOIR_FLOAT32, 0, NULL)
               : rank ? CHOIR_ERR_MISMATCH
                      : choir_recv(c, out, 5, CHOIR_FLOAT32, size - 1, NULL);
    case PAIRS:
        if (odd)
            mine[0] = 0;
        return choir_all_to_all_v(c, in, mine, NULL, out, five, NULL, CHOIR_FLOAT32, NULL);
    default:
        return choir_gather_v(c, in, odd ? 0 : 5, out, five, NULL, CHOIR_FLOAT32, 0, NULL);
    }
}

/* All ranks concerned hear of it, within 2 s; it names the odd rank or the pair; inputs are as they were. */
static void mismatch_rank(int rank, int size, void *arg)
{
    enum wrong w = *(enum wrong *)arg;
    enum { N = 20001 };
    float *in = malloc(N * sizeof(*in)), *out = malloc(8 * N * sizeof(*out));
    choir_comm *c = make(rank, size);
    for (int i = 0; i < N; i++)
        in[i] = (float)(i % 1000 + rank);
    /* A verdict may overtake the end of this rank's barrier. */
    enum choir_status st = choir_barrier(c, NULL);
    uint64_t start = test_now_ms();
    if (st == CHOIR_OK)
        st = odd_call(c, rank, size, w, in, out);
    if (st == CHOIR_OK) /* not concerned, or done before: the next call tells */
        st = choir_barrier(c, NULL);
    uint64_t took = test_now_ms() - start;
    struct choir_error e = {.bytes = sizeof(e)};
    choir_comm_last_error(c, &e);
    char culprit[24];
    snprintf(culprit, sizeof(culprit), "rank %d", size - 1);
    bool concerned = w != MESSAGE || !rank || rank == size - 1;
    if (st != CHOIR_ERR_MISMATCH)
        FAIL("%s: rank %d of %d: %s: %s", wrong_name[w], rank, size, choir_status_name(st), e.text);
    if (concerned && !strstr(e.text, "rank "))
        FAIL("%s: rank %d of %d: \"%s\" names no rank", wrong_name[w], rank, size, e.text);
    if (concerned && size == 2 && !strstr(e.text, culprit))
        FAIL("%s: rank %d of %d: \"%s\" does not name %s", wrong_name[w], rank, size, e.text,
             culprit);
    if (wrong_argument[w] && !strstr(e.text, wrong_argument[w]))
        FAIL("%s: rank %d of %d: \"%s\" does not name %s", wrong_name[w], rank, size, e.text,
             wrong_argument[w]);
    CHECK_LT(took, 2000);
    for (int i = 0; i < N; i++)
        if (in[i] != (float)(i % 1000 + rank))
            FAIL("%s: rank %d: input %d changed", wrong_name[w], rank, i);
    test_sleep_ms(150); /* until all have heard: a leaving rank would be another verdict */
    CHECK_OK(choir_comm_destroy(c));
    free(in);
    free(out);
}

static void mismatches(void)
{
    static const char *const shm[] = {"CHOIR_LOG=error", NULL}, *const tcp[] = {
                                                                    "CHOIR_TRANSPORTS=self,tcp",
                                                                    NULL};
    for (int w = 0; w < WRONGS; w++)
        for (int size = 2; size <= 3; size++) {
            test_id(&id);
            test_ranks(size, (w + size) % 2 ? shm : tcp, mismatch_rank, &w);
        }
}

/* --- late and missing ---------------------------------------------------------------------------- */

static void missing_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c;
    uint64_t start = test_now_ms();
    if (rank == 2)
        return;
    enum choir_status st = choir_comm_create(&id, rank, size, NULL, &c);
    says(NULL, "create without rank 2", (int)st, CHOIR_ERR_PEER_MISSING, "2");
    CHECK_LT(test_now_ms() - start, 4000);
}

static void missing(void)
{
    static const char *const env[] = {"CHOIR_CREATE_TIMEOUT=1s", NULL};
    test_id(&id);
    test_ranks(4, env, missing_rank, NULL);
}

enum silent { BY_COMM, BY_CALL, BY_MESSAGE };
static void silent_rank(int rank, int size, void *arg)
{
    enum silent how = *(enum silent *)arg;
    bool own = how != BY_COMM; /* a deadline of the call's own */
    choir_comm *c = make(rank, size);
    float x = 1, y;
    CHECK_OK(choir_barrier(c, NULL));
    if (rank == 1) {
        test_sleep_ms(2500);
    } else {
        struct choir_call call = {.bytes = sizeof(call), .deadline_ns = own ? 500000000 : 0};
        uint64_t start = test_now_ms();
        enum choir_status st =
            how == BY_MESSAGE
                ? choir_recv_x(c, &y, 1, CHOIR_FLOAT32, 1, NULL, &call)
                : choir_all_reduce_x(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL, &call);
        uint64_t took = test_now_ms() - start;
        says(c, "a call without rank 1", (int)st, CHOIR_ERR_TIMEOUT, "for rank 1");
        CHECK_LE(own ? 450 : 950, took);
        CHECK_LT(took, own ? 1500 : 2400);
    }
    CHECK_OK(choir_comm_destroy(c));
}

static void silent(void)
{
    static const char *const env[] = {"CHOIR_TIMEOUT=1s", NULL};
    for (enum silent how = BY_COMM; how <= BY_MESSAGE; how++) {
        test_id(&id);
        test_ranks(2, how == BY_COMM ? env : NULL, silent_rank, &how);
    }
}

static void unlike_rank(int rank, int size, void *arg)
{
    struct choir_config config = CHOIR_CONFIG_INIT;
    choir_comm *c;
    if (arg)
        config.deterministic = rank == 1;
    enum choir_status st = choir_comm_create(&id, rank, size, &config, &c);
    says(NULL, "create with unlike settings", (int)st, CHOIR_ERR_MISMATCH, "rank");
}

static void unlike(void)
{
    static const char *const env[] = {"CHOIR_ALGO=ring", NULL};
    test_id(&id);
    test_ranks(3, NULL, unlike_rank, &id);
    test_id(&id);
    pid_t pid[3];
    for (int r = 0; r < 3; r++)
        if (!(pid[r] = test_fork(r == 2 ? env : NULL))) {
            unlike_rank(r, 3, NULL);
            _exit(0);
        }
    for (int r = 0; r < 3; r++)
        CHECK_EQ(test_reap(pid[r], 10000), 0);
}

/* --- two threads in one communicator -------------------------------------------------------------- */

static void *wait_in_barrier(void *c)
{
    CHECK_OK(choir_barrier(c, NULL));
    return NULL;
}

static void busy_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c = make(rank, size);
    float x = 1, y;
    pthread_t t;
    CHECK_OK(choir_barrier(c, NULL));
    if (rank == 1) {
        test_sleep_ms(400);
        CHECK_OK(choir_barrier(c, NULL));
    } else {
        CHECK_EQ(pthread_create(&t, NULL, wait_in_barrier, c), 0);
        test_sleep_ms(100);
        REFUSED(NULL, choir_all_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL),
                CHOIR_ERR_BUSY, "thread");
        REFUSED(NULL, choir_send(c, &x, 1, CHOIR_FLOAT32, 1, NULL), CHOIR_ERR_BUSY, "thread");
        pthread_join(t, NULL);
    }
    CHECK_OK(choir_all_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL));
    CHECK_OK(choir_comm_destroy(c));
}

static void busy(void)
{
    test_id(&id);
    test_ranks(2, NULL, busy_rank, NULL);
}

static void destroyed(void)
{
    CHECK_OK(choir_id_create(&id));
    choir_comm *c = make(0, 1);
    float x = 1, y;
    CHECK_OK(choir_all_reduce(c, &x, &y, 1, CHOIR_FLOAT32, CHOIR_SUM, NULL));
    CHECK_OK(choir_comm_destroy(c));
    REFUSED(NULL, choir_comm_destroy(NULL), CHOIR_ERR_POINTER, "comm");
    /* A destroyed handle is freed memory: only that it is no live one any more can be asked without a sanitizer. */
    if (!TEST_SANITIZED)
        CHECK_EQ(choir_comm_status(c), CHOIR_ERR_POINTER);
}

TEST_MAIN(TEST(arguments), TEST(mismatches), TEST(missing), TEST(silent), TEST(unlike), TEST(busy),
          TEST(destroyed))
