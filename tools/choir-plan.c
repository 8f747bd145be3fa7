/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choir-plan.c: shows what Choir would do for a collective on a cluster and why: candidates and their
 * predicted times, the choice; the plan as text or picture; its proof. Plans dumped and edited are read,
 * proved and priced as well.
 */
#include "base/knob.h"
#include "choir-plan/plan_tool.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 64 }; /* what plan_draw draws */

static void draw(const char *path, struct choir_plan *const *plans, uint32_t n)
{
    FILE *f = strcmp(path, "-") ? fopen(path, "we") : stdout;
    if (!f)
        ask_fail("--svg %s: %s", path, strerror(errno));
    plan_draw((const struct choir_plan *const *)plans, n, f);
    if (f != stdout ? fclose(f) : fflush(f))
        ask_fail("--svg %s: %s", path, strerror(errno));
}

static void dump(const struct ask *ask, struct plan_set *set)
{
    if (ask->dump == DUMP_ALL)
        plan_set_dump(set, stdout);
    else if ((uint32_t)ask->dump >= set->ranks)
        ask_fail("--dump: %d is not one of %u ranks", ask->dump, set->ranks);
    else
        plan_dump(set->plans[ask->dump], stdout);
}

static void free_plans(struct choir_plan **plans, uint32_t n)
{
    for (uint32_t r = 0; r < n; r++)
        plan_free(plans[r]);
    free(plans);
}

/* A name for the file of dumped plans: the algorithm's, letters and digits only. */
static void name_set(struct plan_set *set, const char *algorithm)
{
    size_t n = 0;
    for (; *algorithm && n + 1 < sizeof(set->name); algorithm++)
        set->name[n++] = strchr("(),=:- ", *algorithm) ? '_' : *algorithm;
    while (n && set->name[n - 1] == '_')
        n--;
    set->name[n] = 0;
}

static void dump_algorithm(const struct ask *ask, const struct choir_shape *shape,
                           const char *algorithm)
{
    struct plan_set set = {.kind = shape->kind,
                           .ranks = shape->ranks,
                           .root = shape->root,
                           .type_bytes = shape->type_bytes,
                           .count = shape->count,
                           .from = shape->count,
                           .to = shape->count};
    if (ask->dump >= 0) {
        struct choir_shape s = *shape;
        struct choir_plan *plan;
        s.rank = (uint32_t)ask->dump;
        if (plan_build(algorithm, &s, &plan) != CHOIR_OK)
            ask_fail_record(algorithm);
        plan_dump(plan, stdout);
        plan_free(plan);
        return;
    }
    name_set(&set, algorithm);
    set.plans = build_all(shape, algorithm, shape->ranks);
    dump(ask, &set);
    free_plans(set.plans, shape->ranks);
}

static int verify_algorithm(const struct ask *ask, const struct choir_shape *shape,
                            const char *algorithm)
{
    struct plan_verdict verdict;
    if (plan_prove(algorithm, (enum choir_kind)shape->kind, ask->layout, shape->count, shape->root,
                   &verdict)) {
        printf("proved: %s computes %s of %llu elements among %u ranks, in place too; no deadlock, "
               "no race\n",
               algorithm, plan_kind_name((enum choir_kind)shape->kind),
               (unsigned long long)shape->count, shape->ranks);
        return 0;
    }
    printf("refused: %s: rank %u, step %u: %s\n", algorithm, verdict.rank, verdict.step,
           verdict.text);
    return 1;
}

/* --- plans from a file -------------------------------------------------------------------------- */

static char *file_text(const char *path)
{
    FILE *f = strcmp(path, "-") ? fopen(path, "re") : stdin;
    char *text = NULL;
    size_t bytes = 0, room = 0;
    if (!f)
        ask_fail("--load %s: %s", path, strerror(errno));
    do {
        if (bytes + 1 >= room && !(text = realloc(text, room = room ? room * 2 : 1 << 16)))
            ask_fail("--load %s: no memory", path);
        bytes += fread(text + bytes, 1, room - bytes - 1, f);
    } while (!feof(f) && !ferror(f));
    if (ferror(f))
        ask_fail("--load %s: cannot be read", path);
    if (f != stdin)
        fclose(f);
    text[bytes] = 0;
    return text;
}

static int verify_set(struct plan_set *set)
{
    struct plan_verdict verdict;
    if (plan_set_verify(set, &verdict) == CHOIR_OK) {
        printf("proved: %s computes %s of %llu", set->name,
               plan_kind_name((enum choir_kind)set->kind), (unsigned long long)set->from);
        if (set->to != set->from)
            printf(" to %llu", (unsigned long long)set->to);
        printf(" elements among %u ranks, in place too%s\n", set->ranks,
               set->ordered ? ", in rank order" : "");
        return 0;
    }
    printf("refused: %s: rank %u, step %u: %s\n", set->name, verdict.rank, verdict.step,
           verdict.text);
    return 1;
}

static int loaded(struct ask *ask)
{
    char *text = file_text(ask->load);
    struct plan_set *set;
    int refused = 0;
    if (plan_set_parse(text, ask->load, &set) != CHOIR_OK)
        ask_fail_record("--load");
    free(text);
    bool described = !ask->here || ask->ranks;
    if (described && ask->layout->ranks != set->ranks)
        ask_fail("--load %s: plans of %u ranks, on a cluster of %u", ask->load, set->ranks,
                 ask->layout->ranks);
    if (ask->layout->ranks != set->ranks) {
        plan_layout_free(ask->layout);
        ask->layout = plan_layout_regular(1, set->ranks);
        if (!ask->layout)
            ask_fail_record("--load");
        ask->cluster.layout = ask->layout;
        plan_cluster_rehash(&ask->cluster);
    }
    if (ask->dump != DUMP_NOTHING)
        dump(ask, set);
    if (ask->svg)
        draw(ask->svg, set->plans, set->ranks);
    if (ask->verify)
        refused = verify_set(set);
    struct plan_price price;
    if (ask->dump == DUMP_NOTHING && !(ask->svg && !strcmp(ask->svg, "-")) && !refused) {
        if (plan_simulate_plans((const struct choir_plan *const *)set->plans, set->ranks,
                                set->type_bytes, &ask->cluster, &price) != CHOIR_OK)
            ask_fail_record(set->name);
        print_price(&price);
    }
    plan_set_free(set);
    return refused;
}

/* --- one size ----------------------------------------------------------------------------------- */

static int one_size(const struct ask *ask, struct plan_table *table)
{
    struct choir_shape shape = shape_for(ask, ask->bytes);
    const char *algorithm =
        ask->algorithm ? ask->algorithm : plan_table_choose(table, &shape, ask->ordered);
    if (ask->dump != DUMP_NOTHING)
        dump_algorithm(ask, &shape, algorithm);
    if (ask->svg) {
        uint32_t lanes = base_min(shape.ranks, (uint32_t)LANES);
        struct choir_plan **plans = build_all(&shape, algorithm, lanes);
        draw(ask->svg, plans, shape.ranks);
        free_plans(plans, lanes);
    }
    int refused = ask->verify ? verify_algorithm(ask, &shape, algorithm) : 0;
    shape_done(&shape);
    if (ask->dump != DUMP_NOTHING || ask->svg || ask->verify)
        return refused;
    struct answer *a = malloc(sizeof(*a));
    if (!a)
        ask_fail("no memory");
    answer_size(ask, table, ask->bytes, a);
    (ask->json ? print_json : print_answer)(ask, a);
    shape_done(&a->shape);
    free(a);
    return 0;
}

int main(int argc, char **argv)
{
    struct ask ask;
    struct plan_table *table = NULL;
    int status = 0;
    if (knob_load() != CHOIR_OK)
        ask_fail_record("environment");
    ask_read(&ask, argc, argv);
    if (ask.list) {
        print_algorithms();
    } else if (ask.write_topo) {
        plan_cluster_dump(&ask.cluster, stdout);
    } else if (ask.load) {
        status = loaded(&ask);
    } else {
        if (plan_table_create(&ask.cluster, knob_text(KNOB_ALGO), &table) != CHOIR_OK)
            ask_fail_record("decision table");
        if (ask.sweep)
            print_sweep(&ask, table);
        else
            status = one_size(&ask, table);
    }
    plan_table_free(table);
    plan_layout_free(ask.layout);
    return status;
}
