/* SPDX-License-Identifier: Apache-2.0 */
/* All algorithms, and hierarchies of any two, proved on several hosts: of equal and unequal size, numbered in any way. */
#include "plan/plan.h"
#include "tests/lib/test.h"

static uint32_t proved, unsupported;

static void prove(const char *name, int kind, const struct choir_layout *l, uint64_t count)
{
    struct plan_verdict v = {0};
    if (plan_prove(name, (enum choir_kind)kind, l, count, l->ranks / 2, &v))
        proved++;
    else if (v.status == CHOIR_ERR_UNSUPPORTED)
        unsupported++;
    else
        FAIL("%s %s of %u ranks on %u hosts, count %" PRIu64 ": rank %u, step %u: %s", name,
             plan_kind_name((enum choir_kind)kind), l->ranks, l->hosts, count, v.rank, v.step,
             v.text);
}

static void variants(const struct choir_algorithm *a, const struct choir_layout *l)
{
    for (int kind = 0; kind < CHOIR_KINDS; kind++) {
        if (!(a->kinds >> kind & 1))
            continue;
        prove(a->name, kind, l, 37);
        for (const char *v = a->variants; *v;) {
            char name[128];
            size_t length = strcspn(v, " ");
            snprintf(name, sizeof(name), "%s(%.*s)", a->name, (int)length, v);
            prove(name, kind, l, kind % 2 ? 1 : 500);
            v += length + (v[length] == ' ');
        }
    }
}

static void pairs(const struct choir_layout *l, uint64_t seed)
{
    static const int kinds[] = {CHOIR_ALL_REDUCE, CHOIR_REDUCE,         CHOIR_BROADCAST,
                                CHOIR_ALL_GATHER, CHOIR_REDUCE_SCATTER, CHOIR_BARRIER,
                                CHOIR_ALL_TO_ALL};
    static const char *const names[] = {
        "ring", "tree",  "recursive_doubling", "halving_doubling", "bruck", "pairwise", "direct",
        "pat",  "chain", "binomial",           "two_shot",         "pat(2)"};
    for (int k = 0; k < 60; k++) {
        char name[128];
        snprintf(name, sizeof(name), "hierarchical(%s,%s)",
                 names[base_random(&seed) % base_count(names)],
                 names[base_random(&seed) % base_count(names)]);
        prove(name, kinds[base_random(&seed) % base_count(kinds)], l, base_random(&seed) % 100);
    }
}

static void several_hosts(void)
{
    static const char *const hosts[] = {"0011", "00011111",         "01111",        "001112",
                                        "0101", "0000111122223333", "012301230123", "0120012211",
                                        "0012", "01234567",         "000000000001"};
    for (size_t i = 0; i < base_count(hosts); i++) {
        uint64_t key[64];
        uint32_t n = (uint32_t)strlen(hosts[i]);
        for (uint32_t r = 0; r < n; r++)
            key[r] = (uint64_t)hosts[i][r];
        struct choir_layout *l = plan_layout_create(n, key);
        for (uint32_t k = 0; plan_builtin[k]; k++)
            variants(plan_builtin[k], l);
        pairs(l, test_seed() + i);
        plan_layout_free(l);
    }
    printf("%u proved, %u not for their shape\n", proved, unsupported);
}

TEST_MAIN(TEST(several_hosts))
