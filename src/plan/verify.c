/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify.c: plan_verify: do the plans of all ranks compute the collective, on every schedule? First what
 * can be seen without running: each plan well-formed (check.c), all of one wire shape, cuts that cover the
 * buffers and share bytes only where they are identical. Then runs on symbols (verify_run.c).
 */
#include "plan/verify.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

__attribute__((format(printf, 3, 4))) static bool reject(struct plan_verdict *v, uint32_t rank,
                                                         const char *format, ...)
{
    va_list ap;
    *v = (struct plan_verdict){.status = CHOIR_ERR_ARGUMENT, .rank = rank};
    va_start(ap, format);
    vsnprintf(v->text, sizeof(v->text), format, ap);
    va_end(ap);
    return false;
}

/* --- cuts ---------------------------------------------------------------------------------------- */

static bool same_cut(const struct choir_cut *a, const struct choir_cut *b, bool offsets)
{
    if (a->how != b->how || a->parts != b->parts)
        return false;
    if (a->how != CHOIR_TABLE)
        return a->count == b->count && (a->how != CHOIR_EVEN || a->quantum == b->quantum);
    size_t bytes = a->parts * sizeof(*a->len);
    return !a->parts ||
           (!memcmp(a->len, b->len, bytes) && (!offsets || !memcmp(a->off, b->off, bytes)));
}

/* What follows from sizes that all ranks know is the same on all ranks. */
static bool check_alike(const struct verify_op *op, uint32_t r, struct plan_verdict *verdict)
{
    const struct choir_plan *a = op->plan[0], *b = op->plan[r];
    const struct choir_shape *s = &op->shape[0], *t = &op->shape[r];
    bool group = s->kind == CHOIR_EXCHANGE;
    if (s->kind != t->kind || s->ranks != t->ranks || s->root != t->root ||
        s->type_bytes != t->type_bytes || (!shape_is_v(s) && s->count != t->count))
        return reject(verdict, r, "rank %u is asked for another collective than rank 0", r);
    if (a->programs != b->programs || a->instances != b->instances || a->window != b->window ||
        a->depth != b->depth || a->slot != b->slot)
        return reject(
            verdict, r,
            "the wire shape of rank %u (%u programs, %u instances, window %u, depth %u, slot "
            "%llu) is not that of rank 0 (%u, %u, %u, %u, %llu)",
            r, b->programs, b->instances, b->window, b->depth, (unsigned long long)b->slot,
            a->programs, a->instances, a->window, a->depth, (unsigned long long)a->slot);
    for (unsigned buf = 0; buf < 2 && !group; buf++) {
        bool all_know =
            !shape_is_v(s) || (!shape_pair_sized(s->kind) && shape_holds(s, buf) == SHAPE_BLOCKS);
        if (a->cut[buf].parts != b->cut[buf].parts ||
            (all_know && !same_cut(&a->cut[buf], &b->cut[buf], !shape_is_v(s))))
            return reject(verdict, r, "rank %u cuts %s otherwise than rank 0", r,
                          buf ? "OUT" : "IN");
    }
    return true;
}

/* Part by part, the cut covers every block of the buffer from its start to its end. */
static bool check_cover(const struct choir_plan *plan, const struct choir_shape *s, unsigned buf,
                        struct plan_verdict *verdict)
{
    const struct choir_cut *c = &plan->cut[buf];
    uint32_t blocks = shape_blocks(s, buf), k = blocks ? c->parts / blocks : 0;
    const char *name = buf ? "OUT" : "IN";
    if (blocks * k != c->parts || (blocks && !k) || (s->kind == CHOIR_EXCHANGE && k > 1))
        return reject(verdict, plan->rank, "%u parts of %s on rank %u for %u blocks", c->parts,
                      name, plan->rank, blocks);
    if (!shape_is_v(s) && c->how == CHOIR_BLOCKS && c->count * k == s->count &&
        s->kind != CHOIR_BARRIER)
        return true;
    uint64_t *off = malloc(16 * (uint64_t)blocks + 1), *len = off + blocks;
    if (!off)
        return reject(verdict, plan->rank, "no memory for %u blocks", blocks);
    shape_table(s, buf, off, len);
    bool covers = true;
    for (uint32_t b = 0; b < blocks; b++) {
        uint64_t at = off[b];
        for (uint32_t p = b * k; p < (b + 1) * k; p++) {
            uint64_t length = plan_part_len(c, p);
            covers &= !length || plan_part_off(c, p) == at;
            at += length;
        }
        covers &= at == off[b] + len[b];
    }
    free(off);
    return covers ||
           reject(verdict, plan->rank,
                  "the cut of %s on rank %u does not cover its blocks in order", name, plan->rank);
}

struct extent {
    uint64_t off, len;
};
static int by_offset(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;
    return x->off < y->off ? -1 : x->off > y->off;
}

/* OUT's parts do not share bytes: instances would race for them. */
static bool check_apart(const struct choir_plan *plan, struct plan_verdict *verdict)
{
    const struct choir_cut *c = &plan->cut[CHOIR_OUT];
    if (c->how != CHOIR_TABLE)
        return true;
    struct extent *e = malloc(c->parts * sizeof(*e) + 1);
    uint32_t n = 0;
    bool sorted = true, apart = true;
    if (!e)
        return reject(verdict, plan->rank, "no memory for %u parts", c->parts);
    for (uint32_t p = 0; p < c->parts; p++)
        if (c->len[p]) {
            e[n] = (struct extent){c->off[p], c->len[p]};
            sorted &= !n || e[n - 1].off <= e[n].off;
            n++;
        }
    if (!sorted)
        qsort(e, n, sizeof(*e), by_offset);
    for (uint32_t i = 1; i < n; i++)
        apart &= e[i - 1].off + e[i - 1].len <= e[i].off;
    free(e);
    return apart || reject(verdict, plan->rank, "blocks of OUT on rank %u overlap", plan->rank);
}

static bool check_op(struct verify_op *op, uint32_t n, struct plan_verdict *verdict)
{
    for (uint32_t r = 0; r < n; r++) {
        const struct choir_plan *plan = op->plan[r];
        const struct choir_shape *shape = &op->shape[r];
        if (shape_check(shape) != CHOIR_OK || plan_check(plan, shape) != CHOIR_OK)
            return reject(verdict, r, "%s", base_error_thread()->text);
        if (plan->size != n || plan->rank != r)
            return reject(verdict, r, "the plan of rank %u of %u is one of rank %u of %u", r, n,
                          plan->rank, plan->size);
        if (!check_alike(op, r, verdict))
            return false;
        for (unsigned buf = 0; buf < 2; buf++)
            if (shape_present(shape, buf) && !check_cover(plan, shape, buf, verdict))
                return false;
        if (!check_apart(plan, verdict))
            return false;
    }
    const struct choir_plan *p = op->plan[0];
    /* Lanes are independent of each other and alike but for their program: one per program is run, and
     * in it every program that may follow. */
    op->lanes = base_min(p->window, p->programs);
    op->limit = base_min(p->instances, p->window + p->programs);
    return true;
}

/* --- runs ---------------------------------------------------------------------------------------- */

/* In place more waits are needed, and some are not: a copy onto itself is dropped. */
static const enum verify_alias usual[] = {VERIFY_APART, VERIFY_IN_PLACE, VERIFY_SOME};

bool plan_verify_sequence(const struct plan_operation *ops, uint32_t count, uint32_t n,
                          const struct plan_verify *how, struct plan_verdict *verdict)
{
    struct verify_op *op = calloc(count, sizeof(*op));
    uint64_t seed = how->seed;
    bool good = op ? true : reject(verdict, 0, "no memory for %u operations", count);
    *verdict = (struct plan_verdict){.status = CHOIR_OK};
    for (uint32_t k = 0; good && k < count; k++) {
        op[k].plan = ops[k].plans;
        op[k].shape = ops[k].shapes;
        op[k].ordered = how->ordered;
        good = check_op(&op[k], n, verdict);
    }
    uint32_t runs = how->schedules ? how->schedules : how->in_place ? base_count(usual) : 1;
    for (uint32_t i = 0; good && i < runs; i++) {
        struct verify_schedule s = {how->in_place ? usual[base_min(i, VERIFY_SOME)] : VERIFY_APART,
                                    base_random(&seed)};
        good = verify_play(op, count, n, &s, verdict);
    }
    free(op);
    return good;
}

bool plan_verify(const struct choir_plan *const *plans, const struct choir_shape *shapes,
                 uint32_t n, const struct plan_verify *how, struct plan_verdict *verdict)
{
    struct plan_operation op = {plans, shapes};
    return plan_verify_sequence(&op, 1, n, how, verdict);
}
