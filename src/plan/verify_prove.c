/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify_prove.c: plan_prove: builds the plans of all ranks and verifies them: as the count gives them, and
 * once more with slots so small that messages have several fragments and lanes are used again.
 */
#include "plan/ranks.h"
#include "plan/verify.h"
#include <stdlib.h>

#define PROVE_SEED 0x43686f6972ull
#define PROVE_PIECES 4 /* the longest part in the second proof: as many instances, or fragments */
#define PROVE_SLOT_MOST (1u << 20)

struct proof {
    const char *algorithm;
    enum choir_kind kind;
    const struct choir_layout *layout;
    uint64_t count;
    uint32_t root;
    uint64_t seed, slot_bytes; /* slot_bytes 0: the default */
    uint64_t longest_bytes;    /* out: of any part */
};

static void small_slots(struct ranks *ranks, uint64_t slot_bytes)
{
    for (uint32_t r = 0; r < ranks->n; r++) {
        ranks->shape[r].slot_bytes = slot_bytes;
        ranks->shape[r].window = 2;
    }
}

static uint64_t longest_part(const struct ranks *ranks)
{
    uint64_t most = 0;
    for (uint32_t r = 0; r < ranks->n; r++) {
        struct choir_plan whole = *ranks->plan[r];
        whole.instances = 1;
        most = base_max(most, plan_largest_piece(&whole));
    }
    return most;
}

static bool prove(struct proof *p, struct plan_verdict *verdict)
{
    struct ranks ranks;
    bool good = false;
    enum choir_status status = ranks_init(&ranks, p->kind, p->layout, p->count, p->root, p->seed);
    if (status == CHOIR_OK && p->slot_bytes)
        small_slots(&ranks, p->slot_bytes);
    if (status == CHOIR_OK)
        status = ranks_build(&ranks, p->algorithm);
    if (status == CHOIR_OK) {
        const struct choir_algorithm *a = plan_algorithm_find(p->algorithm);
        struct plan_verify how = {.in_place = true,
                                  .ordered =
                                      (a->flags & CHOIR_ORDERED) && plan_kind_reduces(p->kind),
                                  .seed = PROVE_SEED + p->seed};
        p->longest_bytes = longest_part(&ranks) * ranks.shape[0].type_bytes;
        good = plan_verify((const struct choir_plan *const *)ranks.plan, ranks.shape, ranks.n, &how,
                           verdict);
    } else {
        *verdict = (struct plan_verdict){.status = status};
        snprintf(verdict->text, sizeof(verdict->text), "%s", base_error_thread()->text);
    }
    ranks_free(&ranks);
    return good;
}

bool plan_prove(const char *algorithm, enum choir_kind kind, const struct choir_layout *layout,
                uint64_t count, uint32_t root, struct plan_verdict *verdict)
{
    /* V-forms: packed blocks, then blocks apart and out of order (and, for all_to_all_v, in place). */
    bool v = kind >= CHOIR_ALL_GATHER_V;
    for (uint64_t seed = 0; seed <= (v ? 3 : 0); seed += 3) {
        struct proof p = {algorithm, kind, layout, count, root, seed, 0, 0};
        if (!prove(&p, verdict))
            return false;
        bool good = false;
        p.slot_bytes = base_max(p.longest_bytes / PROVE_PIECES, 16);
        for (; !good && p.slot_bytes <= PROVE_SLOT_MOST; p.slot_bytes *= 4) {
            good = prove(&p, verdict);
            if (!good && verdict->status !=
                             CHOIR_ERR_UNSUPPORTED) /* computed messages do not fit: larger ones */
                return false;
        }
    }
    *verdict = (struct plan_verdict){.status = CHOIR_OK};
    return true;
}
