/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simulate_symmetry.c: how large jobs are made small before they are played: ranks that stand for others,
 * smaller clusters of the same make, shorter loops.
 */
#include "plan/simulate.h"
#include <stdlib.h>
#include <string.h>

uint64_t sim_span_parts(const struct choir_place *p)
{
    if (p->list)
        return p->run;
    uint64_t length = p->end - base_min(p->first, p->end), stride = base_max(p->stride, 1u);
    return length / stride * p->run + base_min(length % stride, p->run);
}

uint64_t sim_events(const struct choir_plan *plan, uint32_t fragments, uint32_t *longest)
{
    uint64_t events = 0, largest = plan_largest_piece(plan);
    uint32_t loop_end = 0, times = 1;
    *longest = 0;
    for (uint32_t s = 0; s < plan->steps; s++) {
        const struct choir_step *step = &plan->step[s];
        const struct choir_place *p = &plan->place[step->place], *m = plan_measure(plan, step);
        uint64_t slots = sim_span_parts(m ? m : p) * largest / base_max(plan->slot, 1u) + 1;
        uint64_t each = 1;
        if (step->body) {
            loop_end = s + step->body;
            times = step->times;
            *longest = base_max(*longest, times);
        } else if (s >= loop_end) {
            times = 1;
        }
        for (uint32_t i = 0; i < (uint32_t)step->ins + step->outs; i++)
            each += p[i].peer >= 0;
        /* Building and checking a plan walks its spans, some 64 parts in the time of an event. */
        events += times * (each * base_min(slots, fragments) + sim_span_parts(m ? m : p) / 64);
    }
    return events / base_max(plan->programs, 1u) + 1;
}

/* Elements of a step in one instance, all its iterations together. Parts without lengths of their own count
 * as the longest. */
static double step_elements(const struct choir_plan *plan, const struct choir_step *step,
                            uint32_t times)
{
    const struct choir_place *p = plan_measure(plan, step);
    const struct choir_cut *cut = p ? &plan->cut[p->buf] : NULL;
    uint64_t sum = 0;
    if (!cut || cut->how != CHOIR_TABLE)
        return (double)sim_span_parts(&plan->place[step->place]) *
               (double)plan_largest_piece(plan) * times;
    for (uint32_t t = 0; t < times; t++) {
        struct plan_walk w;
        uint32_t part;
        for (plan_walk_start(&w, plan, p, t); plan_walk_next(&w, &part);)
            sum += plan_part_len(cut, part);
    }
    return (double)sum / plan->instances;
}

bool sim_ranks_alike(const struct choir_plan *plan)
{
    switch (plan->kind) {
    case CHOIR_REDUCE:
    case CHOIR_BROADCAST:
    case CHOIR_GATHER:
    case CHOIR_SCATTER:
    case CHOIR_GATHER_V:
    case CHOIR_SCATTER_V:
        return false;
    default:
        break;
    }
    for (unsigned buf = CHOIR_IN; buf <= CHOIR_OUT; buf++)
        for (uint32_t p = 1; p < plan->cut[buf].parts && plan->cut[buf].how == CHOIR_TABLE; p++)
            if (plan->cut[buf].len[p] != plan->cut[buf].len[0])
                return false;
    return true;
}

double sim_least_ns(const struct choir_plan *plan, uint32_t elem, const struct plan_cluster *c)
{
    uint32_t loop_end = 0, times = 1;
    double sum = 0;
    const struct plan_cost *host = &c->link[PLAN_LINK_HOST], *net = &c->link[PLAN_LINK_NET];
    double overhead = base_min(host->overhead_ns, net->overhead_ns);
    double beta = base_min(host->rank_beta_ns, net->rank_beta_ns);
    for (uint32_t s = 0; s < plan->steps; s++) {
        const struct choir_step *step = &plan->step[s];
        const struct choir_place *p = &plan->place[step->place];
        uint32_t messages = 0;
        if (step->body) {
            loop_end = s + step->body;
            times = step->times;
        } else if (s >= loop_end) {
            times = 1;
        }
        for (uint32_t i = 0; i < (uint32_t)step->ins + step->outs; i++)
            messages += p[i].peer >= 0;
        sum += (c->step_ns + overhead * messages) * times;
        if (messages)
            sum += beta * messages * elem * step_elements(plan, step, times);
    }
    /* Half, as parts and pieces may be shorter than the longest. */
    double crowd = sim_ranks_alike(plan) ? c->oversubscribed : 1;
    return sum * plan->instances / plan->programs * crowd / 2;
}

/* --- ranks that stand for others ---------------------------------------------------------------- */

static bool hosts_alike(const struct choir_layout *l)
{
    for (uint32_t h = 0; h < l->hosts; h++)
        if (l->begin[h + 1] - l->begin[h] != l->begin[1])
            return false;
    return l->hosts > 0;
}

/* Does moving every rank by `s` move whole hosts onto whole hosts? */
static bool shift_keeps_hosts(const struct choir_layout *l, uint32_t s)
{
    for (uint32_t r = 0; r < l->ranks; r++) {
        uint32_t first = l->member[l->begin[l->host_of[r]]];
        if (l->host_of[(r + s) % l->ranks] != l->host_of[(first + s) % l->ranks])
            return false;
    }
    return true;
}

bool sim_layout_symmetry(const struct choir_layout *l, enum sim_group group, uint32_t *reps)
{
    if (!hosts_alike(l))
        return false;
    uint32_t per = l->begin[1];
    bool contiguous = true;
    for (uint32_t r = 0; r < l->ranks && contiguous; r++)
        contiguous = l->host_of[r] == r / per;
    if (group == SIM_XOR) {
        *reps = l->hosts == 1 ? 1 : per;
        return contiguous && !(l->ranks & (l->ranks - 1));
    }
    *reps = 1;
    if (shift_keeps_hosts(l, 1))
        return true;
    *reps = per;
    return contiguous;
}

/* What of a place bears on time. */
struct trait {
    uint64_t parts;
    uint32_t peer, dpeer, buf;
};

static int by_trait(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct trait));
}

/* Traits of places, peers moved, in an order that is theirs alone: ordered combinations of moved ranks
 * differ in order. */
static void traits_of(struct trait *t, const struct choir_place *p, uint32_t count, uint32_t move,
                      uint32_t n, enum sim_group group)
{
    memset(t, 0, count * sizeof(*t));
    for (uint32_t i = 0; i < count; i++) {
        uint32_t peer = (uint32_t)p[i].peer;
        t[i].parts = sim_span_parts(&p[i]);
        t[i].buf = p[i].buf;
        t[i].dpeer = (uint32_t)p[i].dpeer;
        t[i].peer = p[i].peer < 0      ? UINT32_MAX
                    : group == SIM_XOR ? peer ^ move
                                       : (uint32_t)(((uint64_t)peer + move) % n);
    }
    if (count > 1)
        qsort(t, count, sizeof(*t), by_trait);
}

static bool same_places(const struct choir_plan *a, const struct choir_plan *b, uint32_t from,
                        uint32_t count, uint32_t move, enum sim_group group)
{
    struct trait few[16], *t = few;
    if (count > base_count(few) / 2 && !(t = malloc(2 * (size_t)count * sizeof(*t))))
        return false;
    traits_of(t, a->place + from, count, move, a->size, group);
    traits_of(t + count, b->place + from, count, 0, a->size, group);
    bool same = !memcmp(t, t + count, count * sizeof(*t));
    for (uint32_t i = 0; i < count && group == SIM_XOR; i++)
        same &= !t[i].dpeer;
    if (t != few)
        free(t);
    return same;
}

bool sim_same_plan(const struct choir_plan *a, const struct choir_plan *b, enum sim_group group)
{
    uint32_t move = group == SIM_XOR ? a->rank ^ b->rank : (b->rank + a->size - a->rank) % a->size;
    if (a->programs != b->programs || a->steps != b->steps || a->places != b->places ||
        a->instances != b->instances || a->window != b->window ||
        memcmp(a->begin, b->begin, (a->programs + (size_t)1) * sizeof(*a->begin)))
        return false;
    for (uint32_t s = 0; s < a->steps; s++) {
        const struct choir_step *step = &a->step[s];
        if (memcmp(step, &b->step[s], sizeof(*step)) ||
            !same_places(a, b, step->place, step->ins, move, group) ||
            !same_places(a, b, step->place + step->ins, step->outs, move, group))
            return false;
    }
    return true;
}

/* --- smaller clusters --------------------------------------------------------------------------- */

/* The first rank of those with the most elements. */
static uint32_t longest_of(const uint64_t *count, uint32_t ranks)
{
    uint32_t longest = 0;
    for (uint32_t r = 1; r < ranks; r++)
        if (count[r] > count[longest])
            longest = r;
    return longest;
}

struct choir_layout *sim_layout_shrink(const struct choir_layout *l, uint32_t k, uint32_t *root,
                                       uint64_t *count)
{
    /* Hosts are left out while two remain, then ranks of every host. */
    uint32_t by_host = 0, kept = 0, before_root = 0, before_longest = 0;
    uint32_t longest = count ? longest_of(count, l->ranks) : 0;
    uint64_t most = count ? count[longest] : 0;
    while (by_host < k && l->hosts >> (by_host + 1) >= 2)
        by_host++;
    uint32_t host_mask = (1u << by_host) - 1, local_mask = (1u << (k - by_host)) - 1;
    uint64_t *key = malloc(((uint64_t)l->ranks + 1) * sizeof(*key));
    if (!key) {
        base_fail(CHOIR_ERR_NO_MEMORY, "price a smaller job", "no memory for %u ranks", l->ranks);
        return NULL;
    }
    for (uint32_t r = 0; r < l->ranks; r++) {
        if (l->host_of[r] & host_mask || l->local_of[r] & local_mask)
            continue;
        before_root += r < *root;
        before_longest += r < longest;
        if (count)
            count[kept] = count[r];
        key[kept++] = l->host_of[r];
    }
    *root = base_min(before_root, kept - 1);
    if (count)
        count[base_min(before_longest, kept - 1)] = most;
    struct choir_layout *small = plan_layout_create(kept, key);
    free(key);
    return small;
}

struct choir_plan *sim_plan_shorten(const struct choir_plan *plan, uint32_t longest, uint32_t less)
{
    enum { NEAR = 4 };
    for (uint32_t s = 0; s < plan->steps; s++) {
        uint32_t times = plan->step[s].body ? plan->step[s].times : 0;
        /* Loops that are not all about as long don't match each other's messages once shortened. */
        if (times + NEAR < longest && times > base_max(longest - less, 2u * NEAR))
            return NULL;
    }
    struct choir_plan *copy = plan_copy(plan);
    if (!copy)
        return NULL;
    struct choir_step *step = (struct choir_step *)(uintptr_t)copy->step; /* the copy is ours */
    for (uint32_t s = 0; s < copy->steps; s++)
        if (step[s].body && step[s].times + NEAR >= longest)
            step[s].times -= less;
    return copy;
}
