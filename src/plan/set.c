/* SPDX-License-Identifier: Apache-2.0 */
/*
 * set.c: files that hold all ranks' plans of one operation, and what is done with them: read, proved, used
 * for other counts.
 *
 *   choir plans 1: NAME
 *   KIND of N ranks  count C  element BYTES  root R
 *   use from A to B               (elements; left out: for C only)
 *   N plans, ranks ascending, as load.c reads them
 *
 * A plan serves other counts if its cuts do: EVEN ones and BLOCKS of a whole block are cut anew, and the
 * number of instances follows so that computed messages fit their slots and pieces stay as long as they
 * were.
 */
#include "plan/builder.h"
#include "plan/load.h"
#include "plan/set.h"
#include <stdlib.h>
#include <string.h>

#define REMEDY "choir-plan --dump writes a correct one"

/* --- text --------------------------------------------------------------------------------------- */

void plan_set_dump(const struct plan_set *set, FILE *out)
{
    fprintf(out, "choir plans 1: %s\n%s of %u ranks count %llu element %u root %u\n", set->name,
            plan_kind_name((enum choir_kind)set->kind), set->ranks, (unsigned long long)set->count,
            set->type_bytes, set->root);
    if (set->from != set->count || set->to != set->count)
        fprintf(out, "use from %llu to %llu\n", (unsigned long long)set->from,
                (unsigned long long)set->to);
    for (uint32_t r = 0; r < set->ranks; r++) {
        fputc('\n', out);
        plan_dump(set->plans[r], out);
    }
}

void plan_set_free(struct plan_set *set)
{
    if (!set)
        return;
    for (uint32_t r = 0; set->plans && r < set->ranks; r++)
        plan_free(set->plans[r]);
    free(set->plans);
    free(set);
}

static void read_head(struct scan *s, struct plan_set *set)
{
    char kind[32];
    scan_expect(s, "choir");
    scan_expect(s, "plans");
    (void)scan_whole(s, "version of the file", 1, 1);
    scan_expect(s, ":");
    scan_word(s, "name of the plans", set->name, sizeof(set->name));
    struct scan before = *s;
    scan_word(s, "name of a collective", kind, sizeof(kind));
    int k = plan_kind_find(kind);
    if (!s->failed && (k < 0 || k >= CHOIR_ALL_GATHER_V)) {
        *s = before;
        scan_fail(s, "\"%s\" is not a collective whose sizes all ranks know", kind);
    }
    set->kind = (uint32_t)k;
    scan_expect(s, "of");
    set->ranks = (uint32_t)scan_whole(s, "number of ranks", 1, 1u << 20);
    scan_expect(s, "ranks");
    scan_expect(s, "count");
    set->count = scan_whole(s, "count", 0, UINT64_MAX / 16);
    scan_expect(s, "element");
    set->type_bytes = (uint32_t)scan_whole(s, "bytes of an element", 1, 16);
    scan_expect(s, "root");
    set->root = (uint32_t)scan_whole(s, "root", 0, s->failed ? 0 : set->ranks - 1);
    set->from = set->to = set->count;
    if (scan_take(s, "use")) {
        scan_expect(s, "from");
        set->from = scan_whole(s, "smallest count", 0, set->count);
        scan_expect(s, "to");
        set->to = scan_whole(s, "largest count", set->count, UINT64_MAX / 16);
    }
}

static void read_plans(struct scan *s, struct plan_set *set)
{
    if (s->failed || !(set->plans = calloc(set->ranks, sizeof(*set->plans)))) {
        scan_fail(s, "no memory for %u plans", set->ranks);
        return;
    }
    for (uint32_t r = 0; r < set->ranks && !s->failed; r++) {
        struct scan before = *s;
        struct choir_plan *p = set->plans[r] = load_plan(s);
        if (p && (p->rank != r || p->size != set->ranks || p->kind != set->kind)) {
            *s = before;
            scan_fail(s, "expected the plan of rank %u of %u for %s", r, set->ranks,
                      plan_kind_name((enum choir_kind)set->kind));
        }
    }
    if (s->token != SCAN_END)
        scan_expected(s, "the end of the file");
}

/* --- shapes ------------------------------------------------------------------------------------- */

/* The one shape the plans are written for. The layout of ranks on hosts bears on no proof: one host. */
static struct choir_shape written_for(const struct plan_set *set, const struct choir_layout *layout,
                                      uint32_t rank, uint64_t count)
{
    struct choir_shape s;
    plan_shape_init(&s, (enum choir_kind)set->kind, rank, set->ranks, count, layout);
    s.type_bytes = set->type_bytes;
    s.root = set->root;
    s.slot_bytes = set->plans[0]->slot * set->type_bytes;
    s.depth = set->plans[0]->depth;
    s.window = base_max(set->plans[0]->window, 1u);
    return s;
}

static enum choir_status check_plans(struct plan_set *set, const struct choir_layout *layout)
{
    const struct choir_plan *first = set->plans[0];
    for (uint32_t r = 0; r < set->ranks; r++) {
        const struct choir_plan *p = set->plans[r];
        struct choir_shape s = written_for(set, layout, r, set->count);
        enum choir_status status = plan_check(p, &s);
        if (status != CHOIR_OK)
            return status;
        if (p->instances != first->instances || p->programs != first->programs ||
            p->window != first->window || p->depth != first->depth || p->slot != first->slot)
            return base_fail(CHOIR_ERR_ARGUMENT, "give all ranks the same",
                             "the plan of rank %u differs from rank 0's in instances, programs, "
                             "window, depth or slot",
                             r);
    }
    return CHOIR_OK;
}

enum choir_status plan_set_parse(const char *text, const char *what, struct plan_set **set)
{
    struct scan s;
    struct plan_set *new = calloc(1, sizeof(*new));
    if (!new)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %s", what);
    scan_start(&s, text);
    read_head(&s, new);
    read_plans(&s, new);
    new->hash = base_hash(text, strlen(text), 0);
    enum choir_status status = scan_status(&s, what, REMEDY);
    struct choir_layout *layout = NULL;
    if (status == CHOIR_OK) {
        layout = plan_layout_regular(1, new->ranks);
        status = layout ? check_plans(new, layout) : CHOIR_ERR_NO_MEMORY;
    }
    plan_layout_free(layout);
    if (status != CHOIR_OK) {
        plan_set_free(new);
        return status;
    }
    *set = new;
    return CHOIR_OK;
}

/* --- other counts ------------------------------------------------------------------------------- */

/* The most parts a computed message of any rank spans. */
static uint64_t computed_parts(const struct plan_set *set)
{
    uint64_t most = 0;
    for (uint32_t r = 0; r < set->ranks; r++)
        for (uint32_t i = 0; i < set->plans[r]->steps; i++) {
            const struct choir_plan *plan = set->plans[r];
            const struct choir_step *step = &plan->step[i];
            const struct choir_place *p = &plan->place[step->place + step->ins];
            for (uint32_t k = 0; k < step->outs && !plan_step_pending(plan, step); k++) {
                struct plan_walk w;
                uint64_t parts = 0;
                uint32_t part;
                if (p[k].peer < 0)
                    continue;
                for (plan_walk_start(&w, plan, &p[k], 0); plan_walk_next(&w, &part);)
                    parts++;
                most = base_max(most, parts);
            }
        }
    return most;
}

/* Cuts a buffer for the shape's count; false: this cut serves its own count only. */
static bool cut_anew(const struct plan_set *set, const struct choir_shape *s, struct choir_cut *cut)
{
    if (s->count == set->count && s->type_bytes == set->type_bytes)
        return true;
    if (cut->how == CHOIR_EVEN) {
        cut->count = s->kind == CHOIR_BARRIER ? 0 : s->count;
        cut->quantum = shape_quantum(s);
        return true;
    }
    if (cut->how != CHOIR_BLOCKS || cut->count != set->count)
        return false;
    cut->count = s->count;
    return true;
}

static enum choir_status not_for(const struct plan_set *set, const struct choir_shape *s)
{
    return base_error_fill(base_error_thread(), CHOIR_ERR_UNSUPPORTED,
                           &(struct base_error_at){(int)s->rank, -1, 0, 0, NULL},
                           "edit its \"use from\" line, or choose another algorithm",
                           "file:%s is not for %s of %llu elements among %u ranks, root %u",
                           set->name, plan_kind_name((enum choir_kind)s->kind),
                           (unsigned long long)s->count, s->ranks, s->root);
}

bool plan_set_serves(const struct plan_set *set, const struct choir_shape *s)
{
    static const uint32_t rooted =
        1u << CHOIR_REDUCE | 1u << CHOIR_BROADCAST | 1u << CHOIR_GATHER | 1u << CHOIR_SCATTER;
    return set->kind == s->kind && set->ranks == s->ranks && s->count >= set->from &&
           s->count <= set->to && (!(rooted >> s->kind & 1) || set->root == s->root);
}

enum choir_status plan_set_build(const struct plan_set *set, const struct choir_shape *shape,
                                 struct choir_plan **plan)
{
    if (!plan_set_serves(set, shape))
        return not_for(set, shape);
    struct choir_plan *p = plan_copy(set->plans[shape->rank]);
    if (!p)
        return CHOIR_ERR_NO_MEMORY;
    /* Pieces as long as written, at least an element; computed messages within a slot. */
    uint64_t written = base_max(plan_largest_piece(p) * set->type_bytes, 1u),
             parts = computed_parts(set);
    bool cut = cut_anew(set, shape, &p->cut[CHOIR_IN]) && cut_anew(set, shape, &p->cut[CHOIR_OUT]);
    uint32_t instances = p->instances;
    p->instances = 1;
    uint64_t most = plan_largest_piece(p);
    uint64_t limit = instances > 1 ? written / shape->type_bytes : UINT64_MAX;
    p->slot = shape->slot_bytes / shape->type_bytes;
    p->depth = shape->depth;
    if (parts)
        limit = base_min(limit, p->slot / parts);
    uint64_t n =
        base_max(most, 1u) / base_max(limit, 1u) + (base_max(most, 1u) % base_max(limit, 1u) != 0);
    n = (n + p->programs - 1) / p->programs * p->programs;
    if (!cut || n > BUILDER_INSTANCES_MOST || (parts && p->slot < parts)) {
        plan_free(p);
        return not_for(set, shape);
    }
    p->instances = (uint32_t)n;
    p->window = base_min(p->instances, base_max(shape->window, 1u));
    enum choir_status status = plan_check(p, shape);
    if (status != CHOIR_OK) {
        plan_free(p);
        return status;
    }
    *plan = p;
    return CHOIR_OK;
}

/* --- proof -------------------------------------------------------------------------------------- */

static enum choir_status verify_at(const struct plan_set *set, const struct choir_layout *layout,
                                   uint64_t count, bool ordered, struct plan_verdict *verdict)
{
    uint32_t n = set->ranks, built = 0;
    struct choir_plan **plans = calloc(n, sizeof(*plans));
    struct choir_shape *shapes = calloc(n, sizeof(*shapes));
    enum choir_status status = plans && shapes ? CHOIR_OK : CHOIR_ERR_NO_MEMORY;
    for (uint32_t r = 0; r < n && status == CHOIR_OK; r++) {
        shapes[r] = written_for(set, layout, r, count);
        status = count == set->count
                     ? (plans[r] = plan_copy(set->plans[r])) ? CHOIR_OK : CHOIR_ERR_NO_MEMORY
                     : plan_set_build(set, &shapes[r], &plans[r]);
        built += status == CHOIR_OK;
    }
    if (status != CHOIR_OK)
        snprintf(verdict->text, sizeof(verdict->text), "for %llu elements: %s",
                 (unsigned long long)count, base_error_thread()->text);
    else
        for (int in_place = 0; in_place < 2 && status == CHOIR_OK; in_place++) {
            struct plan_verify how = {.in_place = in_place, .ordered = ordered};
            if (!plan_verify((const struct choir_plan *const *)plans, shapes, n, &how, verdict))
                status = CHOIR_ERR_ARGUMENT;
        }
    for (uint32_t r = 0; r < built; r++)
        plan_free(plans[r]);
    free(plans);
    free(shapes);
    return status;
}

enum choir_status plan_set_verify(struct plan_set *set, struct plan_verdict *verdict)
{
    *verdict = (struct plan_verdict){0};
    struct choir_layout *layout = plan_layout_regular(1, set->ranks);
    if (!layout)
        return CHOIR_ERR_NO_MEMORY;
    const uint64_t count[] = {set->count, set->from, set->to};
    enum choir_status status = CHOIR_OK;
    struct plan_verdict unordered;
    for (size_t i = 0; i < base_count(count) && status == CHOIR_OK; i++)
        if (!i || count[i] != set->count)
            status = verify_at(set, layout, count[i], false, verdict);
    set->ordered = status == CHOIR_OK && plan_kind_reduces((enum choir_kind)set->kind) &&
                   verify_at(set, layout, set->count, true, &unordered) == CHOIR_OK;
    plan_layout_free(layout);
    if (status == CHOIR_OK || status == CHOIR_ERR_NO_MEMORY)
        return status;
    verdict->status = status;
    return base_fail(CHOIR_ERR_ARGUMENT, "correct the plans: choir-plan --load FILE --verify",
                     "plans %s are refused: %.200s", set->name, verdict->text);
}
