/* SPDX-License-Identifier: Apache-2.0 */
/* The plan cache against a naive list: hits, order of leaving, replaced keys, every value dropped once. */
#include "plan/plan.h"
#include "tests/lib/test.h"

static int dropped[4096];
static void drop(void *value)
{
    dropped[(uintptr_t)value]++;
}

static void evicts_oldest(void)
{
    memset(dropped, 0, sizeof(dropped));
    struct plan_cache *c = plan_cache_create(3);
    CHECK(c);
    for (uint64_t k = 1; k <= 3; k++)
        CHECK_OK(plan_cache_add(c, &k, sizeof(k), (void *)k, drop));
    CHECK_EQ(plan_cache_count(c), 3);
    uint64_t k = 1;
    CHECK_EQ((uintptr_t)plan_cache_find(c, &k, sizeof(k)), 1);
    CHECK(!plan_cache_find(c, &k, 4)); /* a prefix of a key is another key */
    k = 4;
    CHECK(!plan_cache_find(c, &k, sizeof(k)));
    CHECK_OK(plan_cache_add(c, &k, sizeof(k), (void *)k, drop));
    CHECK_EQ(dropped[2], 1);
    CHECK_EQ(dropped[1] + dropped[3] + dropped[4], 0);
    k = 3;
    CHECK_OK(plan_cache_add(c, &k, sizeof(k), (void *)7, drop)); /* replaces, evicts nobody */
    CHECK_EQ(dropped[3], 1);
    CHECK_EQ((uintptr_t)plan_cache_find(c, &k, sizeof(k)), 7);
    CHECK_EQ(plan_cache_count(c), 3);
    plan_cache_free(c);
    CHECK_EQ(dropped[1] + dropped[4] + dropped[7], 3);
    plan_cache_free(NULL);
}

static void edges(void)
{
    struct plan_cache *c = plan_cache_create(0); /* holds one */
    CHECK(c);
    CHECK(!plan_cache_find(c, "", 0));
    CHECK_OK(plan_cache_add(c, NULL, 0, (void *)5, NULL));
    CHECK_EQ((uintptr_t)plan_cache_find(c, NULL, 0), 5);
    CHECK_OK(plan_cache_add(c, "a", 1, (void *)6, NULL));
    CHECK(!plan_cache_find(c, NULL, 0));
    CHECK_EQ(plan_cache_count(c), 1);
    plan_cache_free(c);
    CHECK(!plan_cache_create(UINT32_MAX));
}

/* Keys of random length over a small alphabet, so that keys repeat; the model is an array, newest last. */
static void random_against_model(void)
{
    enum { CAP = 17, KEYS = 60 };
    uint64_t seed = test_seed();
    memset(dropped, 0, sizeof(dropped));
    struct plan_cache *c = plan_cache_create(CAP);
    struct {
        uint32_t key;
        uintptr_t value;
    } model[CAP];
    uint32_t held = 0;
    uintptr_t next = 1;
    for (int step = 0; step < 200000; step++) {
        uint32_t key = (uint32_t)(base_random(&seed) % KEYS), at = 0;
        char text[KEYS + 1];
        memset(text, 'x', sizeof(text));
        size_t bytes = key; /* keys differ in length only */
        while (at < held && model[at].key != key)
            at++;
        bool add = next < 4000 && base_random(&seed) % 40 == 0;
        uintptr_t value = at < held ? model[at].value : 0;
        if (add) {
            CHECK_OK(plan_cache_add(c, text, bytes, (void *)next, drop));
            if (at == held && held == CAP)
                at = 0;
            value = next++;
        } else {
            CHECK_EQ((uintptr_t)plan_cache_find(c, text, bytes), value);
            if (!value)
                continue;
        }
        if (at < held)
            memmove(&model[at], &model[at + 1], (--held - at) * sizeof(model[0]));
        model[held].key = key;
        model[held++].value = value;
        CHECK_EQ(plan_cache_count(c), held);
    }
    for (uintptr_t v = 1; v < next; v++) {
        bool kept = false;
        for (uint32_t i = 0; i < held; i++)
            kept |= model[i].value == v;
        CHECK_EQ(dropped[v], !kept);
    }
    plan_cache_free(c);
    for (uintptr_t v = 1; v < next; v++)
        CHECK_EQ(dropped[v], 1);
}

TEST_MAIN(TEST(evicts_oldest), TEST(edges), TEST(random_against_model))
