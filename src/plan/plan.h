/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plan.h: what the library itself needs of plans: making them, walking them, proving and pricing them.
 * Knows ranks, parts and steps; never a socket, CUDA or a clock.
 */
#ifndef PLAN_PLAN_H
#define PLAN_PLAN_H

#include "base/base.h"
#include "choir_algorithm.h"
#include <stdio.h>

/* --- registry (registry.c) ---------------------------------------------------------------- */
extern const struct choir_algorithm *const plan_builtin[]; /* NULL-terminated; algorithms/list.c */
/* Finds "ring" in "ring" or "ring(args)"; NULL if there is none. Built-ins first, then plug-ins. */
const struct choir_algorithm *plan_algorithm_find(const char *name);
const struct choir_algorithm *plan_algorithm_at(uint32_t index); /* NULL past the end */
enum choir_status plan_algorithm_load(const char *path); /* a .so; thread's record on failure */
/* Takes all of a NULL-terminated list or, if one of them is unsound or its name is taken, none. `whence` for the record. */
enum choir_status plan_algorithm_add(const struct choir_algorithm *const *list, const char *whence);

/* --- shapes and building (shape.c, builder.c, splice.c) ------------------------------------- */
/* Layout of ranks on hosts; host_key[r] equal means same host. Free with plan_layout_free. */
struct choir_layout *plan_layout_create(uint32_t ranks, const uint64_t *host_key);
struct choir_layout *plan_layout_regular(uint32_t hosts, uint32_t per_host);
void plan_layout_free(struct choir_layout *layout);
/* The largest fragment of a message, unless the user sets it (CHOIR_SLOT): by what the ranks are joined. */
uint64_t plan_slot_bytes(const struct choir_layout *layout);
/* A shape with defaults for everything but the arguments: 4-byte elements, plan_slot_bytes, depth 4, window 8. */
void plan_shape_init(struct choir_shape *shape, enum choir_kind kind, uint32_t rank, uint32_t ranks,
                     uint64_t count, const struct choir_layout *layout);
/* Gives a v-form's shape packed blocks of s->count elements each. Returns the counts, to free() after the shape's last use
 * and to change before it; NULL for other kinds, and (then with a record) for want of memory. */
uint64_t *plan_shape_even(struct choir_shape *shape);
/* Of such counts: `rank` has `elements`, at most their sum, which stays; the others share the rest evenly. */
void plan_counts_skew(uint64_t *count, uint32_t ranks, uint32_t rank, uint64_t elements);
/* Elements of every rank's block where each rank knows them: of all_gather_v and reduce_scatter_v; NULL for other kinds. */
const uint64_t *plan_shape_counts(const struct choir_shape *shape);
/* Elements of IN and OUT on this rank (span from the buffer's start, v-form offsets included); 0: absent. */
void plan_shape_extent(const struct choir_shape *shape, uint64_t *in, uint64_t *out);
/* Which legal aliasing in place means: 1 and the offset in elements of IN from OUT's start (may be negative
 * as a signed number), or 0: this kind has none on this rank. */
bool plan_shape_in_place(const struct choir_shape *shape, int64_t *in_minus_out);
/* Builds one rank's plan by "name" or "name(args)". One allocation; free with plan_free. */
enum choir_status plan_build(const char *algorithm, const struct choir_shape *shape,
                             struct choir_plan **plan);
void plan_free(struct choir_plan *plan);
struct choir_plan *plan_copy(
    const struct choir_plan *plan);                 /* one allocation too; NULL: no memory */
uint64_t plan_bytes(const struct choir_plan *plan); /* memory held */
/* Checks that a plan (from a file, a plug-in) is well-formed in itself: indices, spans, lengths. */
enum choir_status plan_check(const struct choir_plan *plan, const struct choir_shape *shape);
const char *plan_kind_name(enum choir_kind kind); /* "all_reduce" */
int plan_kind_find(const char *name);             /* -1: none */
bool plan_kind_reduces(enum choir_kind kind);

/* --- walking (walk.c) ----------------------------------------------------------------------- */
static inline uint64_t plan_part_off(const struct choir_cut *c, uint32_t p);
static inline uint64_t plan_part_len(const struct choir_cut *c, uint32_t p);
/* Elements of an EVEN part before the last ones. */
static inline uint64_t plan_even(const struct choir_cut *c)
{
    uint64_t l = c->parts ? (c->count + c->parts - 1) / c->parts : 0,
             q = c->quantum ? c->quantum : 1;
    return (l + q - 1) / q * q;
}
static inline uint64_t plan_part_off(const struct choir_cut *c, uint32_t p)
{
    if (c->how == CHOIR_TABLE)
        return c->off[p];
    if (c->how == CHOIR_BLOCKS)
        return c->count * p;
    uint64_t o = plan_even(c) * p;
    return o < c->count ? o : c->count;
}
static inline uint64_t plan_part_len(const struct choir_cut *c, uint32_t p)
{
    if (c->how == CHOIR_TABLE)
        return c->len[p];
    if (c->how == CHOIR_BLOCKS)
        return c->count;
    uint64_t l = plan_even(c), o = l * p;
    return o >= c->count ? 0 : c->count - o < l ? c->count - o : l;
}
/* Piece i of I of a length: [*from, return). Exact for lengths to 2^63 / I. */
static inline uint64_t plan_piece(uint64_t len, uint32_t i, uint32_t instances, uint64_t *from)
{
    uint64_t q = len / instances, r = len % instances;
    *from = q * i + r * i / instances;
    return q * (i + 1) + r * (i + 1) / instances;
}
static inline uint32_t plan_peer(const struct choir_plan *plan, const struct choir_place *p,
                                 uint32_t t)
{
    int64_t n = plan->size, d = ((int64_t)p->peer + (int64_t)t % n * p->dpeer) % n;
    return (uint32_t)(d < 0 ? d + n : d);
}
/* Do TMP's parts have lengths of their own? */
static inline bool plan_tmp_tabled(const struct choir_plan *plan)
{
    return plan->cut[CHOIR_TMP].how == CHOIR_TABLE;
}
/* Whether a place says how long its parts are, whatever else is in the step. */
static inline bool plan_measures(const struct choir_plan *plan, const struct choir_place *p)
{
    return p->peer >= 0 || p->buf != CHOIR_TMP || plan_tmp_tabled(plan);
}
/* Elements of a TMP with a table. */
static inline uint64_t plan_tmp_extent(const struct choir_plan *plan)
{
    const struct choir_cut *c = &plan->cut[CHOIR_TMP];
    return c->parts ? c->off[c->parts - 1] + c->len[c->parts - 1] : 0;
}
static inline uint32_t plan_parts(const struct choir_plan *plan, unsigned buf)
{
    return buf == CHOIR_TMP ? plan->tmp : plan->cut[buf].parts;
}
/* The parts of a place at iteration t, one after another. */
struct plan_walk {
    const uint32_t *list;
    uint32_t parts, shift;                       /* modulus; turn + t*dturn modulo it */
    uint32_t base, next, left, stride, run, end; /* next part before the shift; left in this run */
};
void plan_walk_start(struct plan_walk *w, const struct choir_plan *plan,
                     const struct choir_place *place, uint32_t t);
bool plan_walk_next(struct plan_walk *w, uint32_t *part);
/* The place that gives a step its lengths: the first that measures, or NULL (all are TMP without a table: each
 * part is then plan_tmp_stride long). */
const struct choir_place *plan_measure(const struct choir_plan *plan,
                                       const struct choir_step *step);
/* Its only in is local: message outs stream in the background. Every other step's are computed messages. */
static inline bool plan_step_pending(const struct choir_plan *plan, const struct choir_step *step)
{
    return step->ins == 1 && plan->place[step->place].peer < 0;
}
/* Elements between the starts of TMP parts: the largest piece of any part of IN or OUT, rounded up to 64 bytes. */
uint64_t plan_tmp_stride(const struct choir_plan *plan, uint32_t type_bytes);
uint64_t plan_largest_piece(const struct choir_plan *plan);
/* Steps in execution order: loops unrolled. Start with {0}; false at the program's end. */
struct plan_cursor {
    uint32_t step, iter;        /* the present step and its iteration (0 outside loops) */
    uint32_t loop, body, times; /* internal */
    bool started;
};
bool plan_cursor_next(struct plan_cursor *c, const struct choir_plan *plan, uint32_t program);

/* --- text and pictures (dump.c, load.c, draw.c) ---------------------------------------------- */
void plan_dump(const struct choir_plan *plan, FILE *out); /* text that plan_parse reads back */
enum choir_status plan_parse(const char *text,
                             struct choir_plan **plan); /* record names line and column */
/* SVG of the message pattern of all ranks' plans. */
void plan_draw(const struct choir_plan *const *plans, uint32_t n, FILE *out);

/* --- plan files (set.c): all ranks' plans of one operation, dumped and edited by hand ------------ */
struct plan_verdict;
struct plan_set {
    char name[48]; /* without "file:" */
    uint32_t kind, ranks, root, type_bytes;
    uint64_t count;    /* elements the plans are written for */
    uint64_t from, to; /* elements they may be used for */
    uint64_t hash;
    bool ordered;              /* verified to combine in rank order */
    struct choir_plan **plans; /* [ranks] */
};
/* Reads a file's text and checks every plan by plan_check; nothing is proved. `what` names the text in the record. */
enum choir_status plan_set_parse(const char *text, const char *what, struct plan_set **set);
void plan_set_dump(const struct plan_set *set, FILE *out);
void plan_set_free(struct plan_set *set);
/* Proves the plans at the count they are written for and at the smallest and largest they may be used for. */
enum choir_status plan_set_verify(struct plan_set *set, struct plan_verdict *verdict);
/* A file, read and verified, from then on known to plan_build as "file:NAME" and to decision tables. CHOIR_PLAN_FILES are
 * loaded by the first plan_table_create. */
enum choir_status plan_set_load(const char *path, const struct plan_set **set);
const struct plan_set *plan_set_find(const char *name); /* of those loaded */
/* One rank's plan for a shape (what plan_build does for "file:NAME"). UNSUPPORTED: not for this shape. */
enum choir_status plan_set_build(const struct plan_set *set, const struct choir_shape *shape,
                                 struct choir_plan **plan);

/* --- reference interpreter (reference.c) ------------------------------------------------------
 * Runs all ranks' plans on real memory, one after another, in a seeded random order of progress, with
 * slots, credits and pendings as DESIGN.md says. What every engine is held against. */
enum plan_binding { PLAN_SLOTS, PLAN_PULL, PLAN_PUSH, PLAN_UNBUFFERED };
struct plan_run {
    enum plan_binding binding;
    uint64_t seed;  /* order of progress */
    uint64_t slot;  /* fragment elements; 0: the plan's */
    uint32_t depth; /* 0: the plan's */
    uint32_t elem;  /* bytes of one element */
    /* dst = src[0] op src[1] ...: nsrc >= 1 (1: a copy); ctx handed through */
    void (*combine)(void *ctx, void *dst, const void *const *src, uint32_t nsrc, uint64_t count);
    void *ctx;
};
/* in[r], out[r]: rank r's buffers. The record names rank, step and reason on failure. */
enum choir_status plan_reference(const struct choir_plan *const *plans, uint32_t n, void *const *in,
                                 void *const *out, const struct plan_run *run);

/* --- verifier (verify.c ...) ----------------------------------------------------------------- */
struct plan_verify {
    bool in_place;      /* the legal aliasing too */
    bool ordered;       /* also: each result combines ranks in ascending order */
    uint64_t seed;      /* schedules and fingerprints; several are tried */
    uint32_t schedules; /* 0: all that differ; more: further random ones */
};
struct plan_verdict {
    enum choir_status status;
    uint32_t rank, step;
    char text[512];
};
/* Proves that plans[0..n) of equal shapes (shapes[r] rank r's) compute the collective. */
bool plan_verify(const struct choir_plan *const *plans, const struct choir_shape *shapes,
                 uint32_t n, const struct plan_verify *how, struct plan_verdict *verdict);
/* The same for `count` operations of the same n ranks one after another, which meet in the same lanes and slots. */
struct plan_operation {
    const struct choir_plan *const *plans;
    const struct choir_shape *shapes;
};
bool plan_verify_sequence(const struct plan_operation *ops, uint32_t count, uint32_t n,
                          const struct plan_verify *how, struct plan_verdict *verdict);
/* Builds every rank's plan and verifies it, out of place and in place; small slots too. Not for the algorithm:
 * verdict->status is CHOIR_ERR_UNSUPPORTED. */
bool plan_prove(const char *algorithm, enum choir_kind kind, const struct choir_layout *layout,
                uint64_t count, uint32_t root, struct plan_verdict *verdict);

/* --- cluster model, simulator, choice (cluster.c, simulate.c, choose.c) ------------------------ */
enum plan_link { PLAN_LINK_SELF, PLAN_LINK_HOST, PLAN_LINK_NET, PLAN_LINKS };
struct plan_cost {
    double alpha_ns;       /* per fragment, one way */
    double overhead_ns;    /* CPU time per fragment, at either end */
    double beta_ns;        /* per byte of a fragment on this kind of link */
    double rank_beta_ns;   /* per byte through one rank (its CPU's share) */
    double shared_beta_ns; /* per byte through the host's shared resource (memory, NIC) */
};
struct plan_cluster {
    const struct choir_layout *layout;
    struct plan_cost link[PLAN_LINKS];
    double copy_ns, combine_ns; /* per byte, local copy; per byte and source, combination */
    double step_ns;             /* fixed cost of a step */
    /* Ranks per core of a host, at least 1: alpha and CPU work grow by it; the work per byte of an operation with a root
     * or a longest block only while so many are at work. */
    double oversubscribed;
    /* Longer messages within a host are read by their receiver where they lie, so they cost their sender nothing per byte.
     * 0: none are. */
    uint64_t pull_bytes;
    uint64_t hash; /* of all the above and the layout: equal on all ranks */
};
/* Constants for shared memory and TCP, every rank with a core of its own. */
void plan_cluster_default(struct plan_cluster *c, const struct choir_layout *layout);
/* Ranks share cores: `cores` is the least number a host of the job offers, as agreed by all ranks. */
void plan_cluster_cores(struct plan_cluster *c, uint32_t cores);
/* Ranks of a host read each other's memory fast (CHOIR_CAP_READ_FAST), as agreed by all ranks. */
void plan_cluster_reads(struct plan_cluster *c);
/* What is measured of GPUs that map each other's memory (tuning.h); fields as in plan_cost and plan_cluster. */
struct plan_tuned {
    double alpha_ns, overhead_ns, beta_ns, rank_beta_ns, step_ns;
};
extern const struct plan_tuned plan_tuned_default;
/* Constants for GPUs of one host instead. */
void plan_cluster_gpus(struct plan_cluster *c, const struct plan_tuned *tuned);
void plan_cluster_rehash(struct plan_cluster *c); /* after a change of any field */
/* A cluster as text, and back: sets the constants, and the layout if the text has one (else *layout = NULL; free it with
 * plan_layout_free). The record names line and column. */
void plan_cluster_dump(const struct plan_cluster *c, FILE *out);
enum choir_status plan_cluster_parse(const char *text, struct plan_cluster *c,
                                     struct choir_layout **layout);
struct plan_price {
    double time_ns;
    uint64_t bytes[PLAN_LINKS]; /* summed over ranks */
    uint64_t messages;
    uint32_t critical_rank;
    bool sampled; /* priced by representatives, not all ranks */
};
enum choir_status plan_simulate(const char *algorithm, const struct choir_shape *shape,
                                const struct plan_cluster *cluster, struct plan_price *price);
/* The same for given plans, all ranks'. */
enum choir_status plan_simulate_plans(const struct choir_plan *const *plans, uint32_t n,
                                      uint32_t elem, const struct plan_cluster *cluster,
                                      struct plan_price *price);

/* The decision table: which algorithm for (kind, bytes). A pure function of cluster and forced choices, so equal
 * on all ranks; its hash is compared at creation. Any thread may ask. The cluster's layout must live as long. */
struct plan_table;
enum choir_status plan_table_create(const struct plan_cluster *cluster, const char *forced,
                                    struct plan_table **table); /* forced: CHOIR_ALGO's text */
void plan_table_free(struct plan_table *table);
uint64_t plan_table_hash(const struct plan_table *table);
/* The algorithm for a shape ("ring", "hierarchical(ring,tree)", "file:mine"); never NULL, valid as long as the
 * table. Depends on what all ranks know (kind, size, ranks, root's host; of all_gather_v and reduce_scatter_v the longest
 * block and its host), never on shape->rank. The first question about a size class takes milliseconds, so plans are
 * cached. need_ordered: only CHOIR_ORDERED ones. */
const char *plan_table_choose(struct plan_table *table, const struct choir_shape *shape,
                              bool need_ordered);
/* Every candidate with its price, cheapest first; returns how many. For choir-plan. */
struct plan_candidate {
    char name[64];
    struct plan_price price;
    enum choir_status status; /* CHOIR_ERR_UNSUPPORTED: not for this shape */
};
uint32_t plan_candidates(const struct plan_cluster *cluster, const struct choir_shape *shape,
                         struct plan_candidate *list, uint32_t most);

/* --- cache (cache.c): least recently used of a bounded number of plans ------------------------- */
struct plan_cache;
struct plan_cache *plan_cache_create(uint32_t capacity);
void plan_cache_free(struct plan_cache *cache);
/* key: bytes that tell shapes apart. Returns the value kept for it, or NULL. */
void *plan_cache_find(struct plan_cache *cache, const void *key, size_t bytes);
/* Takes value over; drop(value) when it leaves. On failure it stays the caller's. */
enum choir_status plan_cache_add(struct plan_cache *cache, const void *key, size_t bytes,
                                 void *value, void (*drop)(void *value));
uint32_t plan_cache_count(const struct plan_cache *cache);

#endif
