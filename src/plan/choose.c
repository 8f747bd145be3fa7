/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choose.c: the decision table: for every (collective, size class, skew, kind of root;
 * choose_key.c) the algorithms in the order of their predicted times, worked out when first asked for.
 *
 * It follows from what is equal on all ranks (cluster, algorithms, wishes), never from the asking rank, so
 * all ranks choose alike without a word. Any thread may ask: a mutex guards the table; plans are cached,
 * so it is asked once per cached key.
 */
#include "plan/choose.h"
#include "plan/set.h"
#include "plan/simulate.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { CANDIDATES = 192 };
#define AWAY_NS 1e15 /* on one host, an algorithm for many comes last */
#define CLOSE 1.02

struct ranking {
    struct choose_key key;
    uint32_t count;
    uint8_t order[CANDIDATES]; /* candidates, cheapest first */
};

struct plan_table {
    struct plan_cluster cluster;
    struct choose_forced forced;
    uint64_t hash;
    pthread_mutex_t lock;
    uint32_t candidates, rankings, room, sets;
    char name[CANDIDATES]
             [CHOOSE_NAME]; /* never changes once the table is made: callers keep pointers */
    struct ranking **ranking;
};

/* --- candidates --------------------------------------------------------------------------------- */

static bool name_add(char (*name)[CHOOSE_NAME], uint32_t *count, const char *base, const char *args,
                     size_t length)
{
    char text[CHOOSE_NAME] = {0};
    int n = length ? snprintf(text, sizeof(text), "%s(%.*s)", base, (int)length, args)
                   : snprintf(text, sizeof(text), "%s", base);
    if (n < 0 || (size_t)n >= sizeof(text))
        return false;
    for (uint32_t i = 0; i < *count; i++)
        if (!strcmp(name[i], text))
            return true;
    if (*count == CANDIDATES)
        return false;
    memcpy(name[(*count)++], text, sizeof(text));
    return true;
}

/* Every algorithm, plain and with each of its variants. */
static uint32_t names_all(char (*name)[CHOOSE_NAME])
{
    const struct choir_algorithm *a;
    uint32_t count = 0;
    for (uint32_t i = 0; (a = plan_algorithm_at(i)); i++) {
        bool fits = name_add(name, &count, a->name, "", 0);
        for (const char *v = a->variants + strspn(a->variants, " "); *v; v += strspn(v, " ")) {
            size_t length = strcspn(v, " ");
            fits &= name_add(name, &count, a->name, v, length);
            v += length;
        }
        if (!fits)
            base_log(BASE_WARN, -1, "algorithm %s is left out in part: too many or too long names",
                     a->name);
    }
    return count;
}

static bool usable(const char *name, uint32_t kind, bool need_ordered)
{
    const struct choir_algorithm *a = plan_algorithm_find(name);
    return a && a->kinds >> kind & 1 && (!need_ordered || a->flags & CHOIR_ORDERED);
}

/* --- ranking ------------------------------------------------------------------------------------ */

struct scored {
    double ns;
    uint32_t candidate;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->ns != y->ns)
        return x->ns < y->ns ? -1 : 1;
    return x->candidate < y->candidate ? -1 : x->candidate > y->candidate;
}

static int by_candidate(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    return x->candidate < y->candidate ? -1 : x->candidate > y->candidate;
}

/* Cheapest first. The model cannot tell apart what is CLOSE: there the order of the list decides. */
static void sort_scores(struct scored *list, uint32_t n)
{
    uint32_t close = 0;
    qsort(list, n, sizeof(*list), by_score);
    while (close < n && list[close].ns <= CLOSE * list[0].ns)
        close++;
    qsort(list, close, sizeof(*list), by_candidate);
}

/* Orders candidates by what rank 0 needs at least, so that good ones bound the simulation of bad ones. */
static uint32_t order_by_least(const struct plan_table *t, const struct choir_shape *shape,
                               struct scored *list)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->candidates; i++) {
        struct choir_plan *plan;
        if (!usable(t->name[i], shape->kind, false) ||
            plan_build(t->name[i], shape, &plan) != CHOIR_OK)
            continue;
        list[n++] = (struct scored){sim_least_ns(plan, shape->type_bytes, &t->cluster), i};
        plan_free(plan);
    }
    qsort(list, n, sizeof(*list), by_score);
    return n;
}

/* A candidate that cannot win any more is given up: it stands behind by what it had cost so far. */
static void rank_candidates(const struct plan_table *t, const struct choir_shape *shape,
                            struct ranking *ranking)
{
    struct scored list[CANDIDATES];
    uint32_t n = order_by_least(t, shape, list), known = 0;
    double best = 0;
    uint32_t hosts = t->cluster.layout->hosts;
    uint64_t budget = shape->ranks <= SIM_FEW ? SIM_BUDGET_FEW : SIM_BUDGET_CHOICE;
    for (uint32_t i = 0; i < n; i++) {
        const char *name = t->name[list[i].candidate];
        struct plan_price price = {.time_ns = list[i].ns};
        struct sim_how how = {.budget = budget, .bound_ns = CLOSE * best, .brief = true};
        if (hosts == 1 && plan_algorithm_find(name)->flags & CHOIR_BETWEEN_HOSTS)
            price.time_ns += AWAY_NS;
        else if (best > 0 && list[i].ns > CLOSE * best)
            ; /* it needs more than that at least */
        else if (sim_price(name, shape, &t->cluster, &how, &price) != CHOIR_OK)
            continue;
        else if (how.beyond)
            price.time_ns = base_max(price.time_ns, 2 * CLOSE * best); /* at least so much */
        else if (!(best > 0 && price.time_ns >= best))
            best = price.time_ns;
        list[known++] = (struct scored){price.time_ns, list[i].candidate};
    }
    sort_scores(list, known);
    ranking->count = known;
    for (uint32_t i = 0; i < known; i++)
        ranking->order[i] = (uint8_t)list[i].candidate;
}

/* EXCHANGE is known to its rank only: nothing to price, the first algorithm that does it is taken. */
static void rank_unpriced(const struct plan_table *t, uint32_t kind, struct ranking *ranking)
{
    for (uint32_t i = 0; i < t->candidates; i++)
        if (usable(t->name[i], kind, false))
            ranking->order[ranking->count++] = (uint8_t)i;
}

static const struct ranking *ranking_of(struct plan_table *t, const struct choir_shape *shape)
{
    struct choose_key key = choose_key_of(t->cluster.layout, shape);
    for (uint32_t i = 0; i < t->rankings; i++)
        if (!memcmp(&t->ranking[i]->key, &key, sizeof(key)))
            return t->ranking[i];
    if (t->rankings == t->room) {
        uint32_t room = t->room ? 2 * t->room : 32;
        struct ranking **more = realloc(t->ranking, room * sizeof(struct ranking *));
        if (!more)
            return NULL;
        t->ranking = more;
        t->room = room;
    }
    struct ranking *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->key = key;
    if (key.kind == CHOIR_EXCHANGE) {
        rank_unpriced(t, key.kind, r);
    } else {
        struct choir_shape s;
        uint64_t *counts = choose_class_shape(t->cluster.layout, &key, &s);
        rank_candidates(t, &s, r);
        free(counts);
    }
    return t->ranking[t->rankings++] = r;
}

/* --- the choice --------------------------------------------------------------------------------- */

/* Is the algorithm for this very shape (all ranks get the same answer, says choir_algorithm.h)? */
static bool builds(const char *name, const struct choir_shape *shape)
{
    struct choir_plan *plan = NULL;
    enum choir_status status = plan_build(name, shape, &plan);
    plan_free(plan);
    return status != CHOIR_ERR_UNSUPPORTED;
}

static const char *choose_in(struct plan_table *t, const struct ranking *ranking,
                             const struct choir_shape *shape, bool need_ordered,
                             const struct choose_rule *rule, bool exclusions)
{
    uint64_t bytes = choose_bytes(shape);
    for (uint32_t i = 0; ranking && i < ranking->count; i++) {
        const char *name = t->name[ranking->order[i]];
        bool wished = !rule;
        for (uint32_t k = 0; rule && k < rule->names; k++)
            wished |= choose_name_matches(rule->name[k], name);
        if (wished && usable(name, shape->kind, need_ordered) &&
            !(exclusions && choose_forced_excludes(&t->forced, shape->kind, bytes, name)) &&
            builds(name, shape))
            return name;
    }
    return NULL;
}

static const char *choose_locked(struct plan_table *t, const struct choir_shape *shape,
                                 bool need_ordered)
{
    struct choose_rule *rule = choose_forced_find(&t->forced, shape->kind, choose_bytes(shape));
    const char *name = plan_set_choose(t->sets, shape, need_ordered, rule);
    if (name) /* plans loaded by hand are a wish too */
        return name;
    const struct ranking *ranking = ranking_of(t, shape);
    if (rule && (name = choose_in(t, ranking, shape, need_ordered, rule, false)))
        return name;
    name = choose_in(t, ranking, shape, need_ordered, NULL, true);
    if (!name)
        name = choose_in(t, ranking, shape, need_ordered, NULL, false);
    /* Nothing could be priced (no memory): any that builds. */
    for (uint32_t i = 0; !name && i < t->candidates; i++)
        if (usable(t->name[i], shape->kind, need_ordered) && builds(t->name[i], shape))
            name = t->name[i];
    if (!name)
        name = t->name[0];
    if (rule && !rule->said) {
        rule->said = true;
        base_log(
            BASE_WARN, (int)shape->rank, "CHOIR_ALGO %s is not for %s of %llu bytes%s: using %s",
            rule->name[0], plan_kind_name((enum choir_kind)shape->kind),
            (unsigned long long)choose_bytes(shape), need_ordered ? " in rank order" : "", name);
    }
    return name;
}

const char *plan_table_choose(struct plan_table *table, const struct choir_shape *shape,
                              bool need_ordered)
{
    struct choir_error saved = *base_error_thread(); /* what a candidate cannot do is no error */
    pthread_mutex_lock(&table->lock);
    const char *name = choose_locked(table, shape, need_ordered);
    pthread_mutex_unlock(&table->lock);
    *base_error_thread() = saved;
    return name;
}

uint32_t plan_candidates(const struct plan_cluster *cluster, const struct choir_shape *shape,
                         struct plan_candidate *list, uint32_t most)
{
    struct choir_error saved = *base_error_thread();
    char(*name)[CHOOSE_NAME] = calloc(CANDIDATES, sizeof(*name));
    uint32_t all = name ? names_all(name) : 0, n = 0;
    for (uint32_t i = 0; i < all && n < most; i++) {
        if (!usable(name[i], shape->kind, false))
            continue;
        struct plan_candidate c = {.status = CHOIR_OK};
        memcpy(c.name, name[i], sizeof(c.name));
        c.status = plan_simulate(name[i], shape, cluster, &c.price);
        uint32_t at = n++;
        /* Cheapest first, those that are not for this shape last. */
        for (; at &&
               (list[at - 1].status != CHOIR_OK || list[at - 1].price.time_ns > c.price.time_ns) &&
               c.status == CHOIR_OK;
             at--)
            list[at] = list[at - 1];
        list[at] = c;
    }
    free(name);
    *base_error_thread() = saved;
    return n;
}

/* --- life --------------------------------------------------------------------------------------- */

enum choir_status plan_table_create(const struct plan_cluster *cluster, const char *forced,
                                    struct plan_table **table)
{
    enum choir_status status = plan_set_load_knob();
    struct plan_table *t = status == CHOIR_OK ? calloc(1, sizeof(*t)) : NULL;
    if (status != CHOIR_OK)
        return status;
    if (!t)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for the decision table");
    status = choose_forced_parse(forced, &t->forced);
    if (status != CHOIR_OK) {
        free(t);
        return status;
    }
    t->cluster = *cluster;
    t->candidates = names_all(t->name);
    /* Wishes with arguments nobody proposes are candidates too. */
    for (uint32_t i = 0; i < t->forced.rules; i++)
        for (uint32_t k = 0; k < t->forced.rule[i].names; k++) {
            const char *name = t->forced.rule[i].name[k];
            if (!t->forced.rule[i].exclude && strncmp(name, "file:", 5))
                name_add(t->name, &t->candidates, name, "", 0);
        }
    t->hash = base_hash(forced ? forced : "", forced ? strlen(forced) : 0, cluster->hash);
    t->hash = base_hash(t->name, t->candidates * sizeof(t->name[0]), t->hash);
    pthread_mutex_init(&t->lock, NULL);
    t->sets = plan_set_count();
    t->hash = plan_set_hash(t->sets, t->hash);
    *table = t;
    return CHOIR_OK;
}

void plan_table_free(struct plan_table *table)
{
    if (!table)
        return;
    for (uint32_t i = 0; i < table->rankings; i++)
        free(table->ranking[i]);
    free(table->ranking);
    pthread_mutex_destroy(&table->lock);
    free(table);
}

uint64_t plan_table_hash(const struct plan_table *table)
{
    return table->hash;
}
