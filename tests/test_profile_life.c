/* SPDX-License-Identifier: Apache-2.0 */
/* Observers (choir_profile.h): wrong arguments, callbacks that call the library, coming and going while operations run, forks. */
#include "tests/lib/events.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

static struct choir_id id;

static choir_comm *make(int rank, int size)
{
    choir_comm *c;
    CHECK_OK(choir_comm_create(&id, rank, size, NULL, &c));
    return c;
}

static void ignore(const struct choir_profile_event *event, void *context)
{
    (void)event, (void)context;
}

static void arguments(void)
{
    uint32_t o[17];
    CHECK_EQ(choir_profile_add(NULL, NULL, CHOIR_PROFILE_ALL, o), CHOIR_ERR_POINTER);
    CHECK_EQ(choir_profile_add(ignore, NULL, CHOIR_PROFILE_ALL, NULL), CHOIR_ERR_POINTER);
    CHECK_EQ(choir_profile_add(ignore, NULL, 0, o), CHOIR_ERR_ARGUMENT);
    CHECK_EQ(choir_profile_add(ignore, NULL, CHOIR_PROFILE_ALL + 1, o), CHOIR_ERR_ARGUMENT);
    CHECK_OK(choir_profile_remove(0));
    CHECK_EQ(choir_profile_remove(12345), CHOIR_ERR_ARGUMENT);
    for (int i = 0; i < 16; i++)
        CHECK_OK(choir_profile_add(ignore, NULL, CHOIR_PROFILE_COMM, &o[i]));
    CHECK_EQ(choir_profile_add(ignore, NULL, CHOIR_PROFILE_COMM, &o[16]), CHOIR_ERR_NO_MEMORY);
    CHECK_OK(choir_profile_remove(o[7]));
    CHECK_EQ(choir_profile_remove(o[7]), CHOIR_ERR_ARGUMENT);
    CHECK_OK(choir_profile_add(ignore, NULL, CHOIR_PROFILE_COMM, &o[16]));
    CHECK_EQ(choir_profile_remove(o[7]), CHOIR_ERR_ARGUMENT); /* its place is another's now */
    CHECK_NE(o[16], o[7]);
    o[7] = o[16];
    for (int i = 0; i < 16; i++)
        CHECK_OK(choir_profile_remove(o[i]));
}

static choir_comm *alone;
static uint32_t meddler, meddled;

static void meddle(const struct choir_profile_event *event, void *context)
{
    int32_t x = 0;
    uint32_t more;
    CHECK_EQ(choir_all_reduce(alone, &x, &x, 1, CHOIR_INT32, CHOIR_SUM, NULL), CHOIR_ERR_STATE);
    CHECK_EQ(choir_send(alone, &x, 1, CHOIR_INT32, 0, NULL), CHOIR_ERR_STATE);
    CHECK_EQ(choir_signal(alone, 0, 0, NULL), CHOIR_ERR_STATE);
    CHECK_EQ(choir_profile_add(meddle, NULL, CHOIR_PROFILE_ALL, &more), CHOIR_ERR_STATE);
    CHECK_EQ(choir_profile_remove(meddler), CHOIR_ERR_STATE);
    meddled++;
    (void)event, (void)context;
}

static void meddling(void)
{
    int32_t x = 5, y = 0;
    CHECK_OK(choir_id_create(&id));
    alone = make(0, 1);
    CHECK_OK(choir_profile_add(meddle, NULL, CHOIR_PROFILE_OPERATION, &meddler));
    CHECK_OK(choir_all_reduce(alone, &x, &y, 1, CHOIR_INT32, CHOIR_SUM, NULL));
    CHECK_OK(choir_profile_remove(meddler));
    CHECK_EQ(y, 5);
    CHECK_EQ(meddled, 2);
    CHECK_OK(choir_comm_destroy(alone));
}

/* --- observers that come and go -------------------------------------------------------------------------- */

#define COMERS 3
static _Atomic int busy;

static void busy_rank(int rank, int size, void *arg)
{
    (void)arg;
    choir_comm *c[2] = {make(rank, size)};
    choir_stream *s;
    int32_t x[4] = {0}, more = 1;
    CHECK_OK(choir_stream_create(&s));
    CHECK_OK(choir_comm_split(c[0], 0, rank, NULL, &c[1]));
    while (more) {
        for (int i = 0; i < 20; i++) {
            CHECK_OK(choir_barrier(c[1], s));
            CHECK_OK(choir_all_reduce(c[0], x, x, 4, CHOIR_INT32, CHOIR_MAX, NULL));
            CHECK_OK(choir_group_start());
            CHECK_OK(choir_broadcast(c[0], x, x, 4, CHOIR_INT32, i % size, NULL));
            CHECK_OK(choir_group_end());
        }
        CHECK_OK(choir_stream_wait(s));
        more = busy;
        CHECK_OK(choir_all_reduce(c[0], &more, &more, 1, CHOIR_INT32, CHOIR_MIN, NULL));
    }
    CHECK_OK(choir_stream_destroy(s));
    CHECK_OK(choir_comm_destroy(c[1]));
    CHECK_OK(choir_comm_destroy(c[0]));
}

/* Each comes, is told, goes, and its record is whole but for what had not ended. */
static void *come_and_go(void *arg)
{
    static const uint32_t kinds[COMERS] = {CHOIR_PROFILE_ALL, CHOIR_PROFILE_LANE,
                                           CHOIR_PROFILE_OPERATION | CHOIR_PROFILE_GROUP};
    uint32_t which = *(const uint32_t *)arg, told = 0;
    for (int i = 0; i < TEST_BY_EFFORT(30, 150, 1500) || !told; i++) { /* ranks may come late */
        struct events own;
        events_start_some(&own, kinds[which], 2000); /* each is looked for among all */
        test_sleep_ms(i % 3);
        events_stop(&own);
        struct events after = own; /* nobody writes there any more */
        memset(&own, 0xff, sizeof(own));
        for (uint32_t e = 0; e < after.count; e++)
            CHECK(after.event[e].kind & kinds[which]);
        events_check(&after, UINT32_MAX);
        told += after.count;
        events_free(&after);
    }
    return NULL;
}

static void *run_busy(void *arg)
{
    test_threads(3, busy_rank, arg);
    return NULL;
}

static void removal(void)
{
    pthread_t thread[COMERS], ranks;
    uint32_t which[COMERS] = {0, 1, 2};
    CHECK_OK(choir_id_create(&id));
    busy = 1;
    CHECK(!pthread_create(&ranks, NULL, run_busy, NULL));
    for (int i = 0; i < COMERS; i++)
        CHECK(!pthread_create(&thread[i], NULL, come_and_go, &which[i]));
    for (int i = 0; i < COMERS; i++)
        pthread_join(thread[i], NULL);
    busy = 0;
    pthread_join(ranks, NULL);
}

/* In the child of a fork observers stay, and can be removed. */
static void forked(void)
{
    struct events seen;
    events_start(&seen, CHOIR_PROFILE_OPERATION);
    pid_t child = test_fork(NULL);
    if (!child) {
        CHECK_OK(choir_id_create(&id));
        choir_comm *c = make(0, 1);
        CHECK_OK(choir_barrier(c, NULL));
        CHECK_OK(choir_comm_destroy(c));
        events_stop(&seen);
        events_check(&seen, 0);
        _Exit(seen.count == 2 ? 0 : 1);
    }
    CHECK_EQ(test_reap(child, 20000), 0);
    events_stop(&seen);
    CHECK_EQ(seen.count, 0);
    events_free(&seen);
}

TEST_MAIN(TEST(forked), TEST(arguments), TEST(meddling), TEST(removal))
