/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verifier rejects what is wrong: good plans are changed a little, seeded: steps dropped, doubled,
 * swapped, moved; a peer, part, turn, loop or buffer changed; operands exchanged; on one rank or on all
 * alike. Whether a mutant is really bad is decided without the verifier: it is run on the reference
 * interpreter under every binding, many schedules, two slots, in place and out. A mutant that the verifier
 * accepts must come out right in all of these.
 */
#include "tests/lib/plans.h"
#include "plan/builder.h"
#include "tests/lib/test.h"

#define RANKS_MOST 6
#define STEPS_MOST 4096

static uint32_t mutants_each, runs_each;
static uint64_t seed;

static uint32_t pick(uint64_t below)
{
    return below ? (uint32_t)(base_random(&seed) % below) : 0;
}

/* --- mutation ------------------------------------------------------------------------------------ */

/* A plan opened for writing: arrays with room for one step more. */
struct open_plan {
    struct choir_plan plan;
    struct choir_step step[STEPS_MOST];
    struct choir_place *place;
    uint32_t begin[64];
};

static bool open_plan(struct open_plan *o, const struct choir_plan *plan)
{
    o->plan = *plan;
    if (plan->steps + 1 >= STEPS_MOST || plan->programs >= 63 || !plan->steps)
        return false;
    memcpy(o->step, plan->step, plan->steps * sizeof(*plan->step));
    memcpy(o->begin, plan->begin, (plan->programs + 1) * sizeof(*plan->begin));
    o->place = malloc(plan->places * sizeof(*plan->place));
    CHECK(o->place);
    memcpy(o->place, plan->place, plan->places * sizeof(*plan->place));
    o->plan.step = o->step;
    o->plan.place = o->place;
    o->plan.begin = o->begin;
    return true;
}

static void shift_programs(struct open_plan *o, uint32_t step, int by)
{
    for (uint32_t i = 1; i <= o->plan.programs; i++)
        if (o->begin[i] > step)
            o->begin[i] = (uint32_t)((int)o->begin[i] + by);
}

/* The first step of the loop that `step` is in, or steps. */
static uint32_t loop_of(const struct open_plan *o, uint32_t step)
{
    for (uint32_t i = 0; i <= step; i++)
        if (o->step[i].body && i + o->step[i].body > step)
            return i;
    return o->plan.steps;
}

static void drop_step(struct open_plan *o, uint32_t step)
{
    uint32_t loop = loop_of(o, step);
    if (loop < o->plan.steps) {
        struct choir_step head = o->step[loop];
        if (loop == step && head.body > 1) {
            o->step[step + 1].body = head.body - 1;
            o->step[step + 1].times = head.times;
        } else if (loop != step) {
            o->step[loop].body--;
        }
    }
    memmove(&o->step[step], &o->step[step + 1], (o->plan.steps - step - 1) * sizeof(*o->step));
    shift_programs(o, step, -1);
    o->plan.steps--;
}

static void double_step(struct open_plan *o, uint32_t step)
{
    uint32_t loop = loop_of(o, step);
    memmove(&o->step[step + 1], &o->step[step], (o->plan.steps - step) * sizeof(*o->step));
    o->step[step + 1].body = o->step[step + 1].times = 0;
    if (loop < o->plan.steps)
        o->step[loop].body++;
    shift_programs(o, step, 1);
    o->plan.steps++;
}

/* Exchanges what two steps do; loops stay where they are. */
static void swap_steps(struct open_plan *o, uint32_t a, uint32_t b)
{
    struct choir_step x = o->step[a], y = o->step[b];
    o->step[a] = (struct choir_step){y.place, y.ins, y.outs, x.body, x.times};
    o->step[b] = (struct choir_step){x.place, x.ins, x.outs, y.body, y.times};
}

static void change_place(struct open_plan *o, struct choir_place *p, bool in_loop)
{
    uint32_t parts = plan_parts(&o->plan, p->buf);
    switch (pick(in_loop ? 8 : 6)) {
    case 0:
        if (p->peer >= 0)
            p->peer = (int32_t)pick(o->plan.size);
        break;
    case 1:
        p->turn = (int32_t)pick(parts);
        break;
    case 2: {
        uint32_t first = pick(parts);
        p->end = base_min(parts, p->end - p->first + first);
        p->first = first;
        break;
    }
    case 3:
        p->buf = (uint8_t)pick(3);
        break;
    case 4:
        p->run = 1 + pick(p->stride);
        break;
    case 5:
        p->end = p->first + 1 + pick(parts);
        break;
    case 6:
        p->dpeer = (int32_t)pick(o->plan.size);
        break;
    default:
        p->dturn = (int32_t)pick(parts);
    }
}

static void exchange_places(struct open_plan *o, const struct choir_step *s)
{
    uint32_t base = s->place, count = s->ins, a, b;
    if (count < 2) {
        base += s->ins;
        count = s->outs;
    }
    a = base + pick(count);
    b = base + pick(count);
    struct choir_place x = o->place[a];
    o->place[a] = o->place[b];
    o->place[b] = x;
}

static const char *mutate(struct open_plan *o)
{
    uint32_t program = pick(o->plan.programs), first = o->begin[program];
    uint32_t steps = o->begin[program + 1] - first;
    if (!steps)
        return NULL;
    uint32_t step = first + pick(steps), other = first + pick(steps);
    struct choir_step *s = &o->step[step];
    switch (pick(11)) {
    case 0:
        drop_step(o, step);
        return "drop";
    case 1:
        double_step(o, step);
        return "double";
    case 2:
        swap_steps(o, step, base_min(step + 1, first + steps - 1));
        return "swap";
    case 3:
        for (uint32_t i = step; i < other; i++)
            swap_steps(o, i, i + 1);
        for (uint32_t i = step; i > other; i--)
            swap_steps(o, i, i - 1);
        return "move";
    case 4:
        if (s->body)
            s->times = s->times + (pick(2) ? 1 : UINT32_MAX);
        return "times";
    case 5:
        exchange_places(o, s);
        return "exchange";
    case 6: /* one in or out less */
        if (s->outs > 1)
            s->outs--;
        else if (s->ins > 1)
            s->place++, s->ins--;
        return "less";
    default:
        change_place(o, &o->place[s->place + pick((uint32_t)(s->ins + s->outs))],
                     loop_of(o, step) < o->plan.steps);
        return "place";
    }
}

/* --- judgement ----------------------------------------------------------------------------------- */

static uint32_t made, ill_formed, rejected, seen_bad, accepted, same;

/* Runs on memory until something goes wrong; NULL if nothing does. */
static const char *judge(const struct ranks *r, bool ordered, uint32_t runs)
{
    const char *wrong = NULL;
    for (uint32_t i = 0; i < runs && !wrong; i++)
        for (enum plan_binding b = PLAN_SLOTS; b <= PLAN_UNBUFFERED && !wrong; b++)
            for (int place = PLANS_OUT_OF_PLACE; place <= PLANS_MIXED && !wrong; place++) {
                struct plan_run run = {.binding = b, .seed = base_random(&seed), .depth = 2};
                wrong = plans_run(r, (enum plans_place)place, PLANS_SUM, &run);
                if (!wrong && ordered)
                    wrong = plans_run(r, (enum plans_place)place, PLANS_MATRIX, &run);
                if (!wrong && r->shape[0].kind == CHOIR_ALL_REDUCE)
                    wrong = plans_run(r, (enum plans_place)place, PLANS_TREE, &run);
            }
    return wrong;
}

static bool accepts(const struct ranks *r, bool ordered, struct plan_verdict *v)
{
    struct plan_verify how = {.in_place = true, .ordered = ordered, .seed = base_random(&seed)};
    return plan_verify((const struct choir_plan *const *)r->plan, r->shape, r->n, &how, v);
}

/* Replaces the plans of one rank or of all by mutants; false: nothing came of it. */
static bool mutate_ranks(struct ranks *r, char *what, size_t bytes)
{
    static struct open_plan open;
    bool all = pick(3) == 0;
    uint32_t rank = pick(r->n), times = 1 + (pick(6) == 0);
    uint64_t start = seed;
    bool changed = false;
    snprintf(what, bytes, "%s %u:", all ? "all ranks, as" : "rank", rank);
    for (uint32_t q = all ? 0 : rank; q < (all ? r->n : rank + 1); q++) {
        if (!open_plan(&open, r->plan[q]))
            return false;
        if (all)
            seed = start; /* the same change everywhere */
        for (uint32_t i = 0; i < times && open.plan.steps; i++) {
            const char *did = mutate(&open);
            size_t used = strlen(what);
            if (q == rank)
                snprintf(what + used, bytes - used, " %s", did ? did : "nothing");
        }
        struct choir_plan *mutant = plan_copy(&open.plan);
        CHECK(mutant);
        free(open.place);
        changed |= plan_bytes(mutant) != plan_bytes(r->plan[q]) ||
                   memcmp(mutant->step, r->plan[q]->step,
                          plan_bytes(mutant) -
                              (size_t)((const char *)mutant->step - (const char *)mutant)) != 0;
        plan_free(r->plan[q]);
        r->plan[q] = mutant;
    }
    return changed;
}

static void one(const char *name, enum choir_kind kind, const struct choir_layout *l, bool ordered,
                bool sampled)
{
    static const uint64_t counts[] = {12, 40, 7};
    struct ranks r;
    uint64_t count = counts[pick(base_count(counts))], draw = base_random(&seed);
    uint32_t root = pick(l->ranks), slot = 16u << pick(4);
    char what[200];
    if (plans_make(&r, name, kind, l, count, root, draw, slot) != CHOIR_OK)
        return;
    bool changed = false;
    for (int i = 0; i < 8 && !changed; i++)
        changed = mutate_ranks(&r, what, sizeof(what));
    if (!changed) {
        same++;
        ranks_free(&r);
        return;
    }
    made++;
    bool sound = true;
    for (uint32_t q = 0; q < r.n; q++)
        sound &= plan_check(r.plan[q], &r.shape[q]) == CHOIR_OK;
    struct plan_verdict v;
    if (accepts(&r, ordered, &v)) {
        CHECK(sound);
        accepted++;
        const char *wrong = judge(&r, ordered, runs_each);
        if (wrong)
            FAIL("accepted: %s %s, %u ranks, count %" PRIu64 ", root %u, slot %u, %s: %s", name,
                 plan_kind_name(kind), l->ranks, count, root, slot, what, wrong);
    } else if (!sound) {
        ill_formed++;
    } else {
        rejected++;
        if (sampled && judge(&r, ordered, 1))
            seen_bad++;
    }
    ranks_free(&r);
}

static void each_algorithm(bool own)
{
    const struct choir_algorithm *a;
    for (uint32_t i = 0; (a = plan_algorithm_at(i)); i++) {
        if (own != !strncmp(a->name, "t_", 2))
            continue;
        char name[128];
        size_t first = strcspn(a->variants, " ");
        snprintf(name, sizeof(name), first ? "%s(%.*s)" : "%s", a->name, (int)first, a->variants);
        for (enum choir_kind kind = 0; kind < CHOIR_KINDS; kind++)
            for (uint32_t k = 0; a->kinds >> kind & 1 && k < mutants_each; k++) {
                uint32_t n = 2 + pick(RANKS_MOST - 1);
                struct choir_layout *l = plan_layout_regular(1, n);
                bool ordered = (a->flags & CHOIR_ORDERED) && plan_kind_reduces(kind);
                one(k & 1 ? name : a->name, kind, l, ordered, k % 4 == 0);
                plan_layout_free(l);
            }
    }
}

static void mutants(void)
{
    seed = test_seed();
    static const uint32_t mutants_by_effort[] = {4, 12, 150}, runs_by_effort[] = {1, 3, 8};
    mutants_each = mutants_by_effort[test_effort()];
    runs_each = runs_by_effort[test_effort()];
    test_deadline(test_effort() > 1 ? 1800 : 120);
    base_log_init();
    base_log_level = -1; /* errors are what is asked for */
    plans_register();
    uint64_t start = base_now_ns();
    for (int i = 0; i < 4; i++) {
        each_algorithm(true);
        each_algorithm(false);
    }
    printf("%u mutants: %u ill-formed, %u rejected (of a quarter of them %u seen to go wrong), %u "
           "accepted, none "
           "of which went wrong in %u runs; %u changes changed nothing; %.1f s\n",
           made, ill_formed, rejected, seen_bad, accepted, 12 * runs_each, same,
           (double)(base_now_ns() - start) * 1e-9);
    CHECK_LT(accepted, made / 4);
    CHECK_LT(made / 20, rejected);
}

TEST_MAIN(TEST(mutants))
