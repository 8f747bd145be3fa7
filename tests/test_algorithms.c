/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every built-in algorithm, for every collective and variant it offers, runs on the reference interpreter:
 * many rank counts, layouts, sizes, slots, bindings and schedules, each rank in place or not as it likes,
 * against the definition of the collective. Sums are exact, a second lane tells the order of combination, a
 * third the association.
 */
#include "plan/plan.h"
#include "tests/lib/plans.h"
#include "tests/lib/test.h"

#define GUARD 3
#define RANKS_MOST 64

/* What one element is here, whatever size the plan thinks it has. */
struct elem {
    uint64_t sum;         /* adds up, modulo 2^64 */
    uint64_t word, power; /* concatenation: associative, does not commute */
    uint64_t tree;        /* different for every association */
};

static struct elem value(uint64_t seed, uint32_t rank, uint64_t i)
{
    uint64_t x = base_mix(seed ^ base_mix(rank + 1) ^ base_mix(i + 77777));
    return (struct elem){x, base_mix(x + 1), base_mix(x + 2) | 1, base_mix(x + 3)};
}

static struct elem join(struct elem a, struct elem b)
{
    return (struct elem){a.sum + b.sum, a.word * b.power + b.word, a.power * b.power,
                         base_mix(3 * a.tree + b.tree)};
}

static void combine(void *ctx, void *dst, const void *const *src, uint32_t nsrc, uint64_t count)
{
    (void)ctx;
    for (uint64_t i = 0; i < count; i++) {
        struct elem a = ((const struct elem *)src[0])[i];
        for (uint32_t s = 1; s < nsrc; s++)
            a = join(a, ((const struct elem *)src[s])[i]);
        a.tree += nsrc - 1;
        ((struct elem *)dst)[i] = a;
    }
}

/* One collective on all ranks. Blocks of IN and OUT by rank; what lies in each follows from the kind. */
struct job {
    const char *name;
    bool ordered;
    enum choir_kind kind;
    uint32_t n, root;
    uint64_t count, seed;
    struct choir_layout *layout;
    struct choir_shape shape[RANKS_MOST];
    struct choir_plan *plan[RANKS_MOST];
    struct elem *memory[RANKS_MOST], *in[RANKS_MOST], *out[RANKS_MOST];
    uint64_t extent[RANKS_MOST][2];
    bool in_place[RANKS_MOST];
    uint64_t *table[RANKS_MOST]; /* v-forms: in_count, in_offset, out_count, out_offset; calls */
    uint64_t *all_counts;
    uint32_t *peer[RANKS_MOST];
};

static uint64_t rnd(struct job *j, uint64_t below)
{
    return base_random(&j->seed) % below;
}

static void describe(const struct job *j, char *text, size_t size)
{
    snprintf(text, size,
             "%s %s n %u hosts %u root %u count %llu slot %llu depth %u window %u elem %u", j->name,
             plan_kind_name(j->kind), j->n, j->layout->hosts, j->root, (unsigned long long)j->count,
             (unsigned long long)j->shape[0].slot_bytes, j->shape[0].depth, j->shape[0].window,
             j->shape[0].type_bytes);
}

static void job_fail(const struct job *j, const char *what, uint32_t rank, uint64_t at)
{
    char text[256];
    describe(j, text, sizeof(text));
    FAIL("%s: %s, rank %u%s, element %llu", text, what, rank, j->in_place[rank] ? " in place" : "",
         (unsigned long long)at);
}

/* --- lengths of v-forms and groups ------------------------------------------------------------ */

/* Block that goes from rank a to rank b; all_gather_v: a's block; reduce_scatter_v: b's. */
static uint64_t length(const struct job *j, uint32_t a, uint32_t b)
{
    uint32_t x = j->kind == CHOIR_ALL_TO_ALL_V                                ? a * 64 + b
                 : j->kind == CHOIR_ALL_GATHER_V || j->kind == CHOIR_GATHER_V ? a
                                                                              : b;
    uint64_t h = base_mix(j->count * 1000003 + x);
    if (j->kind == CHOIR_ALL_TO_ALL_V && j->root % 2 && a > b) /* symmetric: in place is legal */
        h = base_mix(j->count * 1000003 + b * 64 + a);
    return h % 3 == 0 ? 0 : h / 3 % (2 * j->count + 2);
}

/* Fills counts and offsets of one buffer; blocks lie in a shuffled order with gaps if `scattered`. */
static void blocks(struct job *j, uint32_t r, uint64_t *count, uint64_t *offset, bool sends,
                   bool scattered)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < j->n; i++) {
        uint32_t q = scattered ? (i * 5 + r) % j->n : i;
        if (scattered && j->n % 5 == 0)
            q = j->n - 1 - i;
        count[q] = sends ? length(j, r, q) : length(j, q, r);
        at += scattered ? r % 3 : 0;
        offset[q] = at;
        at += count[q];
    }
}

/* What ranks would have told each other. */
static void make_all_counts(struct job *j)
{
    uint64_t n = j->n, *all = j->all_counts = calloc(n * n, sizeof(*all));
    for (uint32_t r = 0; r < n; r++) {
        j->shape[r].all_counts = all;
        if (j->kind != CHOIR_ALL_TO_ALL_V)
            all[r] = j->kind == CHOIR_GATHER_V ? length(j, r, 0) : length(j, 0, r);
        for (uint32_t q = 0; j->kind == CHOIR_ALL_TO_ALL_V && q < n; q++)
            all[n * r + q] = length(j, r, q);
    }
}

static void make_tables(struct job *j)
{
    bool scattered = rnd(j, 2);
    if (j->kind >= CHOIR_ALL_TO_ALL_V)
        make_all_counts(j);
    for (uint32_t r = 0; r < j->n; r++) {
        struct choir_shape *s = &j->shape[r];
        uint64_t *t = j->table[r] = calloc(4 * j->n, sizeof(*t));
        bool in = j->kind == CHOIR_REDUCE_SCATTER_V || j->kind == CHOIR_ALL_TO_ALL_V ||
                  (j->kind == CHOIR_SCATTER_V && r == j->root);
        bool out = j->kind == CHOIR_ALL_GATHER_V || j->kind == CHOIR_ALL_TO_ALL_V ||
                   (j->kind == CHOIR_GATHER_V && r == j->root);
        if (in) {
            blocks(j, r, t, t + j->n, true, scattered);
            s->in_count = t;
            s->in_offset = scattered ? t + j->n : NULL;
        }
        if (out) {
            blocks(j, r, t + 2 * j->n, t + 3 * j->n, false, scattered);
            s->out_count = t + 2 * j->n;
            s->out_offset = scattered ? t + 3 * j->n : NULL;
        }
        if (j->kind == CHOIR_GATHER_V && r != j->root) {
            t[0] = length(j, r, 0);
            s->in_count = t;
        }
        if (j->kind == CHOIR_SCATTER_V && r != j->root) {
            t[0] = length(j, 0, r);
            s->out_count = t;
        }
    }
}

/* Random messages; rank a's m-th to b matches b's m-th from a. */
static uint32_t calls(const struct job *j, uint32_t a, uint32_t b)
{
    return (uint32_t)(base_mix(j->count * 31 + a * 64 + b) % 4) * (j->n < 9 || (a + b) % 3 == 0);
}

static uint64_t call_length(const struct job *j, uint32_t a, uint32_t b, uint32_t m)
{
    return base_mix(j->count * 17 + a * 4096 + b * 64 + m) % (j->count + 1);
}

static void make_calls(struct job *j)
{
    for (uint32_t r = 0; r < j->n; r++) {
        struct choir_shape *s = &j->shape[r];
        uint32_t most = 4 * j->n;
        uint64_t *t = j->table[r] = calloc(2 * most, sizeof(*t));
        uint32_t *p = j->peer[r] = calloc(2 * most, sizeof(*p));
        for (uint32_t m = 0; m < 4; m++) /* interleaves the peers */
            for (uint32_t q = 0; q < j->n; q++) {
                uint32_t to = (q * 7 + r) % j->n, from = (q * 3 + m) % j->n;
                if (j->n % 7 == 0 || j->n % 3 == 0)
                    to = from = q;
                if (m < calls(j, r, to)) {
                    t[s->in_parts] = call_length(j, r, to, m);
                    p[s->in_parts++] = to;
                }
                if (m < calls(j, from, r)) {
                    t[most + s->out_parts] = call_length(j, from, r, m);
                    p[most + s->out_parts++] = from;
                }
            }
        s->in_count = t, s->in_peer = p;
        s->out_count = t + most, s->out_peer = p + most;
    }
}

/* --- memory ------------------------------------------------------------------------------------- */

static const struct elem poison = {0xdead, 0xbeef, 0xfeed, 0xface};

static void make_memory(struct job *j)
{
    for (uint32_t r = 0; r < j->n; r++) {
        const struct choir_shape *s = &j->shape[r];
        uint64_t *e = j->extent[r], most;
        int64_t shift = 0;
        plan_shape_extent(s, &e[0], &e[1]);
        j->in_place[r] = rnd(j, 2) && plan_shape_in_place(s, &shift);
        most = e[0] + e[1] + 4 * GUARD;
        struct elem *m = j->memory[r] = malloc(most * sizeof(*m));
        for (uint64_t i = 0; i < most; i++)
            m[i] = poison;
        j->out[r] = m + GUARD;
        j->in[r] = j->out[r] + e[1] + 2 * GUARD;
        if (j->in_place[r]) {
            j->out[r] += shift < 0 ? -shift : 0;
            j->in[r] = j->out[r] + shift;
        }
        for (uint64_t i = 0; i < e[0]; i++)
            j->in[r][i] = value(j->count, r, i);
    }
}

static void check_element(const struct job *j, uint32_t r, uint64_t at, struct elem want,
                          bool combined)
{
    struct elem got = j->out[r][at];
    if (got.sum != want.sum)
        job_fail(j, got.sum == poison.sum ? "nothing arrived" : "wrong", r, at);
    if ((!combined || j->ordered) && (got.word != want.word || got.power != want.power))
        job_fail(j, "combined out of order", r, at);
}

/* OUT [at, at + len) is source's IN from `from`, or all ranks' combined if source is n. */
static void check_block(const struct job *j, uint32_t r, uint64_t at, uint64_t len, uint32_t source,
                        uint64_t from, bool *seen)
{
    for (uint64_t i = 0; i < len; i++) {
        struct elem want = value(j->count, source == j->n ? 0 : source, from + i);
        for (uint32_t q = 1; source == j->n && q < j->n; q++)
            want = join(want, value(j->count, q, from + i));
        check_element(j, r, at + i, want, source == j->n);
        seen[at + i] = true;
    }
}

static uint64_t offset_of(const uint64_t *count, const uint64_t *offset, uint64_t each, uint32_t p)
{
    uint64_t at = 0;
    if (!count)
        return each * p;
    for (uint32_t i = 0; i < p; i++)
        at += count[i];
    return offset ? offset[p] : at;
}

static uint64_t in_at(const struct job *j, uint32_t r, uint32_t p)
{
    return offset_of(j->shape[r].in_count, j->shape[r].in_offset, j->count, p);
}

static void check_calls(const struct job *j, uint32_t r, bool *seen)
{
    const struct choir_shape *s = &j->shape[r];
    uint32_t met[RANKS_MOST] = {0};
    for (uint32_t i = 0; i < s->out_parts; i++) {
        uint32_t q = s->out_peer[i], m = met[q]++, k = 0;
        const struct choir_shape *t = &j->shape[q];
        while (t->in_peer[k] != r || m--)
            k++;
        check_block(j, r, offset_of(s->out_count, NULL, 0, i), s->out_count[i], q, in_at(j, q, k),
                    seen);
    }
}

static void check_rank(const struct job *j, uint32_t r)
{
    const struct choir_shape *s = &j->shape[r];
    uint64_t out = j->extent[r][1], c = j->count;
    bool *seen = calloc(out + 1, 1);
    bool many = j->kind == CHOIR_ALL_GATHER || j->kind == CHOIR_GATHER ||
                j->kind == CHOIR_ALL_TO_ALL || j->kind == CHOIR_ALL_GATHER_V ||
                j->kind == CHOIR_GATHER_V || j->kind == CHOIR_ALL_TO_ALL_V;
    bool to_all = j->kind == CHOIR_ALL_TO_ALL || j->kind == CHOIR_ALL_TO_ALL_V;
    if (j->kind == CHOIR_EXCHANGE)
        check_calls(j, r, seen);
    else if (many)
        for (uint32_t q = 0; q < j->n && out; q++)
            check_block(j, r, offset_of(s->out_count, s->out_offset, c, q),
                        s->out_count ? s->out_count[q] : c, q, to_all ? in_at(j, q, r) : 0, seen);
    else if (j->kind == CHOIR_SCATTER || j->kind == CHOIR_SCATTER_V)
        check_block(j, r, 0, out, j->root, in_at(j, j->root, r), seen);
    else if (j->kind == CHOIR_BROADCAST)
        check_block(j, r, 0, out, j->root, 0, seen);
    else if (j->kind == CHOIR_REDUCE_SCATTER)
        check_block(j, r, 0, out, j->n, c * r, seen);
    else if (j->kind == CHOIR_REDUCE_SCATTER_V)
        for (uint64_t i = 0; i < out; i++) { /* offsets differ by rank */
            struct elem want = value(c, 0, in_at(j, 0, r) + i);
            for (uint32_t q = 1; q < j->n; q++)
                want = join(want, value(c, q, in_at(j, q, r) + i));
            check_element(j, r, i, want, true);
            seen[i] = true;
        }
    else
        check_block(j, r, 0, out, j->n, 0, seen);
    for (uint64_t i = 0; i < out && !j->in_place[r]; i++)
        if (!seen[i] && memcmp(&j->out[r][i], &poison, sizeof(poison)))
            job_fail(j, "wrote between the blocks", r, i);
    for (uint64_t i = 0; i < j->extent[r][0] && !j->in_place[r]; i++) {
        struct elem want = value(c, r, i);
        if (memcmp(&j->in[r][i], &want, sizeof(want)))
            job_fail(j, "changed IN", r, i);
    }
    for (uint64_t i = 0; i < GUARD; i++)
        if (memcmp(&j->memory[r][i], &poison, sizeof(poison)))
            job_fail(j, "wrote outside", r, i);
    if (j->kind == CHOIR_ALL_REDUCE && memcmp(j->out[0], j->out[r], out * sizeof(struct elem)))
        job_fail(j, "ranks differ in bits", r, 0);
    free(seen);
}

/* --- one job ------------------------------------------------------------------------------------ */

/* Builds all ranks' plans; false if the algorithm is not for this shape. */
static bool make_plans(struct job *j)
{
    uint32_t unsupported = 0;
    for (uint32_t r = 0; r < j->n; r++) {
        enum choir_status status = plan_build(j->name, &j->shape[r], &j->plan[r]);
        const struct choir_plan *a = j->plan[0], *b = j->plan[r];
        char text[256];
        describe(j, text, sizeof(text));
        unsupported += status == CHOIR_ERR_UNSUPPORTED;
        if (status != CHOIR_OK && status != CHOIR_ERR_UNSUPPORTED)
            FAIL("%s: rank %u: %s", text, r, base_error_thread()->text);
        if (unsupported && unsupported != r + 1)
            FAIL("%s: rank %u differs in being unsupported: %s", text, r,
                 base_error_thread()->text);
        if (!unsupported && (a->programs != b->programs || a->instances != b->instances ||
                             a->window != b->window || a->slot != b->slot))
            FAIL("%s: ranks 0 and %u have %u and %u programs, %u and %u instances", text, r,
                 a->programs, b->programs, a->instances, b->instances);
    }
    return !unsupported;
}

static void free_job(struct job *j)
{
    free(j->all_counts);
    j->all_counts = NULL;
    for (uint32_t r = 0; r < j->n; r++) {
        plan_free(j->plan[r]);
        free(j->memory[r]);
        free(j->table[r]);
        free(j->peer[r]);
    }
}

static uint64_t ran, supported[CHOIR_KINDS];

/* Runs the job under every binding if `thorough`, else under one. Returns false if unsupported. */
static bool run_job(const char *name, const struct choir_algorithm *a, enum choir_kind kind,
                    struct choir_layout *layout, uint64_t count, uint32_t root, uint64_t seed,
                    bool thorough)
{
    static const uint64_t slots[] = {256, 1024, 64 << 10}, depths[] = {2, 3, 8},
                          windows[] = {1, 2, 8};
    static struct job job;
    struct job *j = &job;
    *j = (struct job){.name = name, .kind = kind, .n = layout->ranks, .root = root};
    j->count = kind == CHOIR_BARRIER ? 0 : count;
    j->seed = seed;
    j->layout = layout;
    j->ordered = a->flags & CHOIR_ORDERED;
    uint64_t slot = slots[rnd(j, 3)], depth = depths[rnd(j, 3)], window = windows[rnd(j, 3)];
    for (uint32_t r = 0; r < j->n; r++) {
        struct choir_shape *s = &j->shape[r];
        plan_shape_init(s, kind, r, j->n, j->count, layout);
        s->root = root;
        s->slot_bytes = slot;
        s->depth = (uint32_t)depth;
        s->window = (uint32_t)window;
    }
    if (kind == CHOIR_EXCHANGE)
        make_calls(j);
    else if (kind >= CHOIR_ALL_GATHER_V)
        make_tables(j);
    bool fits = make_plans(j);
    for (int binding = 0; fits && binding < 4; binding++) {
        if (!thorough && binding != (int)(seed % 4))
            continue;
        make_memory(j);
        struct plan_run run = {.binding = (enum plan_binding)binding,
                               .seed = base_random(&j->seed),
                               .elem = sizeof(struct elem),
                               .combine = combine};
        if (plan_reference((const struct choir_plan *const *)j->plan, j->n, (void *const *)j->in,
                           (void *const *)j->out, &run) != CHOIR_OK) {
            char text[256];
            describe(j, text, sizeof(text));
            FAIL("%s binding %d seed %llu: %s", text, binding, (unsigned long long)run.seed,
                 base_error_thread()->text);
        }
        for (uint32_t r = 0; r < j->n; r++)
            check_rank(j, r);
        for (uint32_t r = 0; r < j->n; r++) {
            free(j->memory[r]);
            j->memory[r] = NULL;
        }
        ran++;
    }
    free_job(j);
    return fits;
}

/* Calls fn with every name worth trying: bare, and with each variant. */
static void for_variants(const struct choir_algorithm *a,
                         void (*fn)(const char *name, const struct choir_algorithm *a, void *arg),
                         void *arg)
{
    char name[128];
    fn(a->name, a, arg);
    for (const char *v = a->variants; *v;) {
        size_t length = strcspn(v, " ");
        snprintf(name, sizeof(name), "%s(%.*s)", a->name, (int)length, v);
        fn(name, a, arg);
        v += length + (v[length] == ' ');
    }
}

static bool rooted(enum choir_kind kind)
{
    return kind == CHOIR_BROADCAST || kind == CHOIR_REDUCE || kind == CHOIR_GATHER ||
           kind == CHOIR_SCATTER || kind == CHOIR_GATHER_V || kind == CHOIR_SCATTER_V;
}

struct sweep {
    struct choir_layout *layout;
    uint64_t seed;
    bool thorough;
};

static void sweep(const char *name, const struct choir_algorithm *a, void *arg)
{
    struct sweep *w = arg;
    uint32_t n = w->layout->ranks;
    uint64_t counts[] = {0, 1, 2, n - 1, n, n + 1, 131, 1009};
    for (int kind = 0; kind < CHOIR_KINDS; kind++) {
        if (!(a->kinds >> kind & 1))
            continue;
        bool blocks_each =
            kind != CHOIR_ALL_REDUCE && kind != CHOIR_REDUCE && kind != CHOIR_BROADCAST;
        for (size_t i = 0; i < base_count(counts); i++) {
            uint64_t seed = base_random(&w->seed);
            if (((blocks_each || n > 20) && counts[i] > 200) || (n > 12 && seed % 3))
                continue; /* the larger ones in samples */
            uint32_t root = (uint32_t)(seed >> 32) % n;
            uint32_t roots = rooted((enum choir_kind)kind) && n <= 5 ? n : 1;
            for (uint32_t k = 0; k < roots; k++)
                run_job(name, a, (enum choir_kind)kind, w->layout, counts[i], (root + k) % n, seed,
                        w->thorough);
        }
    }
}

static void sweep_all(struct choir_layout *layout, bool thorough)
{
    struct sweep w = {layout, test_seed() ^ base_mix(layout->ranks), thorough};
    for (uint32_t i = 0; plan_builtin[i]; i++)
        for_variants(plan_builtin[i], sweep, &w);
    plan_layout_free(layout);
}

static void one_host(void)
{
    static const uint32_t more[] = {24, 31, 32, 33};
    uint32_t most = (uint32_t)TEST_BY_EFFORT(8, 17, 17);
    for (uint32_t n = 1; n <= most; n++)
        sweep_all(plan_layout_regular(1, n), n <= 7);
    for (size_t i = 0; i < base_count(more) && test_effort(); i++)
        sweep_all(plan_layout_regular(1, more[i]), false);
    printf("%llu runs\n", (unsigned long long)ran);
}

/* Every pair of what does an all-to-all; bytes instead of a proof. */
static void all_to_all_pairs(const struct choir_algorithm *a, struct choir_layout *layout,
                             uint64_t *seed)
{
    static const char *const names[] = {"bruck", "pairwise", "direct"};
    static const uint64_t counts[] = {0, 1, 131};
    bool two_levels = layout->hosts > 1 && layout->hosts < layout->ranks;
    for (uint32_t k = 0; k < 27 && two_levels; k++) {
        char name[128];
        snprintf(name, sizeof(name), "hierarchical(%s,%s)", names[k % 3], names[k / 3 % 3]);
        if (!run_job(name, a, CHOIR_ALL_TO_ALL, layout, counts[k / 9], 0, base_random(seed), false))
            FAIL("%s is refused on %u hosts", name, layout->hosts);
    }
}

/* Any INNER with any OUTER: random pairs. */
static void compositions(struct choir_layout *layout)
{
    static const char *const names[] = {"ring",
                                        "tree",
                                        "recursive_doubling",
                                        "pat(2)",
                                        "halving_doubling",
                                        "direct",
                                        "two_shot",
                                        "one_shot",
                                        "bruck",
                                        "binomial",
                                        "pairwise",
                                        "pat",
                                        "chain",
                                        "tree(trees=1)",
                                        "two_shot(pull)"};
    static uint64_t seed;
    seed += test_seed();
    for (uint32_t i = 0; plan_builtin[i]; i++) {
        const struct choir_algorithm *a = plan_builtin[i];
        if (strcmp(a->name, "hierarchical"))
            continue;
        /* The bare name does it for all such layouts, where slots are not too small for it. */
        for (int kind = 0; kind < CHOIR_KINDS; kind++) {
            bool found =
                !(a->kinds >> kind & 1) || layout->hosts == 1 || layout->hosts == layout->ranks;
            for (int tries = 0; tries < 20 && !found; tries++)
                found = run_job(a->name, a, (enum choir_kind)kind, layout, 100, 0,
                                base_random(&seed), true);
            CHECK(found);
        }
        all_to_all_pairs(a, layout, &seed);
        for (int k = 0; k < TEST_BY_EFFORT(10, 40, 40); k++) {
            char name[128];
            snprintf(name, sizeof(name), "hierarchical(%s,%s)",
                     names[base_random(&seed) % base_count(names)],
                     names[base_random(&seed) % base_count(names)]);
            for (int kind = 0; kind < CHOIR_KINDS; kind++)
                if (a->kinds >> kind & 1)
                    supported[kind] += run_job(
                        name, a, (enum choir_kind)kind, layout, base_random(&seed) % 300,
                        (uint32_t)(base_random(&seed) % layout->ranks), base_random(&seed), false);
        }
    }
}

static void several_hosts(void)
{
    static const char *const hosts[] = {
        "0011",         "00011111",         "01111",         "001112",
        "0101",         "0000111122223333", "0123012301230", "0120012211",
        "000000112222", "01234567",         "0012",          "0000111122223333444455556666"};
    uint64_t key[RANKS_MOST], seed = test_seed();
    for (size_t i = 0; i < base_count(hosts); i += (size_t)TEST_BY_EFFORT(3, 1, 1)) {
        struct choir_layout *layout = plans_layout(hosts[i]);
        compositions(layout);
        sweep_all(layout, strlen(hosts[i]) < 6);
    }
    for (int i = 0; i < TEST_BY_EFFORT(1, 6, 6); i++) {
        uint32_t n = 2 + (uint32_t)(base_random(&seed) % 20),
                 h = 2 + (uint32_t)(base_random(&seed) % 5);
        for (uint32_t r = 0; r < n; r++)
            key[r] = base_random(&seed) % h;
        struct choir_layout *layout = plan_layout_create(n, key);
        compositions(layout);
        sweep_all(layout, false);
    }
    printf("%llu runs\n", (unsigned long long)ran);
    for (int kind = 0; kind < CHOIR_KINDS; kind++)
        if (supported[kind])
            printf("%s: %llu compositions\n", plan_kind_name((enum choir_kind)kind),
                   (unsigned long long)supported[kind]);
}

TEST_MAIN(TEST(one_host), TEST(several_hosts))
