/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shape.c: layouts of ranks on hosts, and what the buffers of a collective hold (the table at enum
 * choir_kind): presence, blocks, extents, legal aliasing. Nothing here knows plans.
 */
#include "plan/builder.h"
#include <stdlib.h>
#include <string.h>

/* Between processes of a host fragments stay in the nearest caches; over a network each costs a frame and its interrupts
 * (perf/NOTES.md "fragments"). */
#define PLAN_SLOT_BYTES (64u << 10)
#define PLAN_SLOT_BYTES_NET (256u << 10)
#define PLAN_DEPTH 4
#define PLAN_WINDOW 8

enum { EVERYWHERE, AT_ROOT };
struct kind {
    const char *name;
    uint8_t in, out;          /* enum shape_holds */
    uint8_t where[2];         /* IN and OUT are present ... */
    uint8_t reduces, v, pair; /* pair: see shape_pair_sized */
};
static const struct kind kinds[CHOIR_KINDS] = {
    [CHOIR_ALL_REDUCE] =
        {"all_reduce", SHAPE_WHOLE, SHAPE_WHOLE, {EVERYWHERE, EVERYWHERE}, 1, 0, 0},
    [CHOIR_REDUCE] = {"reduce", SHAPE_WHOLE, SHAPE_WHOLE, {EVERYWHERE, AT_ROOT}, 1, 0, 0},
    [CHOIR_BROADCAST] = {"broadcast", SHAPE_WHOLE, SHAPE_WHOLE, {AT_ROOT, EVERYWHERE}, 0, 0, 0},
    [CHOIR_ALL_GATHER] =
        {"all_gather", SHAPE_BLOCK, SHAPE_BLOCKS, {EVERYWHERE, EVERYWHERE}, 0, 0, 0},
    [CHOIR_REDUCE_SCATTER] =
        {"reduce_scatter", SHAPE_BLOCKS, SHAPE_BLOCK, {EVERYWHERE, EVERYWHERE}, 1, 0, 0},
    [CHOIR_ALL_TO_ALL] =
        {"all_to_all", SHAPE_BLOCKS, SHAPE_BLOCKS, {EVERYWHERE, EVERYWHERE}, 0, 0, 0},
    [CHOIR_GATHER] = {"gather", SHAPE_BLOCK, SHAPE_BLOCKS, {EVERYWHERE, AT_ROOT}, 0, 0, 0},
    [CHOIR_SCATTER] = {"scatter", SHAPE_BLOCKS, SHAPE_BLOCK, {AT_ROOT, EVERYWHERE}, 0, 0, 0},
    [CHOIR_BARRIER] = {"barrier", SHAPE_WHOLE, SHAPE_WHOLE, {EVERYWHERE, EVERYWHERE}, 0, 0, 0},
    [CHOIR_ALL_GATHER_V] =
        {"all_gather_v", SHAPE_BLOCK, SHAPE_BLOCKS, {EVERYWHERE, EVERYWHERE}, 0, 1, 0},
    [CHOIR_REDUCE_SCATTER_V] =
        {"reduce_scatter_v", SHAPE_BLOCKS, SHAPE_BLOCK, {EVERYWHERE, EVERYWHERE}, 1, 1, 0},
    [CHOIR_ALL_TO_ALL_V] =
        {"all_to_all_v", SHAPE_BLOCKS, SHAPE_BLOCKS, {EVERYWHERE, EVERYWHERE}, 0, 1, 1},
    [CHOIR_GATHER_V] = {"gather_v", SHAPE_BLOCK, SHAPE_BLOCKS, {EVERYWHERE, AT_ROOT}, 0, 1, 1},
    [CHOIR_SCATTER_V] = {"scatter_v", SHAPE_BLOCKS, SHAPE_BLOCK, {AT_ROOT, EVERYWHERE}, 0, 1, 1},
    [CHOIR_EXCHANGE] = {"exchange", SHAPE_CALLS, SHAPE_CALLS, {EVERYWHERE, EVERYWHERE}, 0, 1, 1},
};

const char *plan_kind_name(enum choir_kind kind)
{
    return (unsigned)kind < CHOIR_KINDS ? kinds[kind].name : "unknown";
}

int plan_kind_find(const char *name)
{
    for (int k = 0; k < CHOIR_KINDS; k++)
        if (!strcmp(kinds[k].name, name))
            return k;
    return -1;
}

bool plan_kind_reduces(enum choir_kind kind)
{
    return (unsigned)kind < CHOIR_KINDS && kinds[kind].reduces;
}

/* --- layouts ---------------------------------------------------------------------------------- */

static int by_host(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b; /* key, rank */
    if (x[0] != y[0])
        return x[0] < y[0] ? -1 : 1;
    return x[1] < y[1] ? -1 : x[1] > y[1];
}

/* The arrays behind a layout, for filling in. */
struct words {
    uint32_t *host_of, *local_of, *begin, *member;
};
static struct words words_of(struct choir_layout *l)
{
    uint32_t *w = (uint32_t *)(l + 1), n = l->ranks;
    return (struct words){w, w + n, w + 2 * (size_t)n, w + 3 * (size_t)n + 1};
}

static struct choir_layout *layout_alloc(uint32_t ranks)
{
    struct choir_layout *l = malloc(sizeof(*l) + (4 * (size_t)ranks + 1) * sizeof(uint32_t));
    if (!l) {
        base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a layout of %u ranks", ranks);
        return NULL;
    }
    l->ranks = ranks;
    l->hosts = 0;
    struct words w = words_of(l);
    *l = (struct choir_layout){ranks, 0, w.host_of, w.local_of, w.begin, w.member};
    return l;
}

struct choir_layout *plan_layout_create(uint32_t ranks, const uint64_t *host_key)
{
    struct choir_layout *l = layout_alloc(ranks);
    uint64_t *pair = malloc((2 * (size_t)ranks + 1) * sizeof(*pair));
    if (!l || !pair)
        goto err_free;
    struct words w = words_of(l);
    for (uint32_t r = 0; r < ranks; r++) {
        pair[2 * r] = host_key[r];
        pair[2 * r + 1] = r;
    }
    qsort(pair, ranks, 2 * sizeof(*pair), by_host);
    /* The lowest rank of each key stands for its host ... */
    for (uint32_t i = 0, lowest = 0; i < ranks; i++) {
        if (!i || pair[2 * i] != pair[2 * i - 2])
            lowest = (uint32_t)pair[2 * i + 1];
        w.host_of[pair[2 * i + 1]] = lowest;
    }
    /* ... and hosts are numbered in the order of these; w.begin[h] counts members, then becomes their
     * start. */
    memset(w.begin, 0, ((size_t)ranks + 1) * sizeof(*w.begin));
    for (uint32_t r = 0; r < ranks; r++) {
        uint32_t h = w.host_of[r] == r ? l->hosts++ : w.host_of[w.host_of[r]];
        w.host_of[r] = h;
        w.local_of[r] = w.begin[h + 1]++;
    }
    for (uint32_t h = 0; h < l->hosts; h++)
        w.begin[h + 1] += w.begin[h];
    for (uint32_t r = 0; r < ranks; r++)
        w.member[w.begin[w.host_of[r]] + w.local_of[r]] = r;
    free(pair);
    return l;
err_free:
    if (l)
        base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a layout of %u ranks", ranks);
    free(pair);
    free(l);
    return NULL;
}

struct choir_layout *plan_layout_regular(uint32_t hosts, uint32_t per_host)
{
    struct choir_layout *l = layout_alloc(hosts * per_host);
    if (!l)
        return NULL;
    struct words w = words_of(l);
    l->hosts = hosts;
    w.begin[0] = 0;
    for (uint32_t r = 0; r < l->ranks; r++) {
        w.host_of[r] = r / per_host;
        w.local_of[r] = r % per_host;
        w.begin[w.host_of[r] + 1] = r + 1;
        w.member[r] = r;
    }
    return l;
}

void plan_layout_free(struct choir_layout *layout)
{
    free(layout);
}

/* --- shapes ----------------------------------------------------------------------------------- */

uint64_t plan_slot_bytes(const struct choir_layout *layout)
{
    return layout->hosts > 1 ? PLAN_SLOT_BYTES_NET : PLAN_SLOT_BYTES;
}

void plan_shape_init(struct choir_shape *shape, enum choir_kind kind, uint32_t rank, uint32_t ranks,
                     uint64_t count, const struct choir_layout *layout)
{
    *shape = (struct choir_shape){.bytes = sizeof(*shape),
                                  .kind = kind,
                                  .rank = rank,
                                  .ranks = ranks,
                                  .type_bytes = 4,
                                  .count = count,
                                  .layout = layout,
                                  .args = "",
                                  .slot_bytes = plan_slot_bytes(layout),
                                  .depth = PLAN_DEPTH,
                                  .window = PLAN_WINDOW};
}

uint64_t *plan_shape_even(struct choir_shape *s)
{
    uint64_t *count = kinds[s->kind].v ? malloc(s->ranks * sizeof(*count)) : NULL;
    for (uint32_t r = 0; count && r < s->ranks; r++)
        count[r] = s->count;
    if (kinds[s->kind].v && !count)
        base_fail(CHOIR_ERR_NO_MEMORY, "describe a smaller job", "no memory for %u counts",
                  s->ranks);
    s->in_count = s->out_count = count;
    s->in_offset = s->out_offset = NULL;
    s->in_parts = s->out_parts = 0;
    return count;
}

void plan_counts_skew(uint64_t *count, uint32_t ranks, uint32_t rank, uint64_t elements)
{
    uint64_t sum = 0;
    for (uint32_t r = 0; r < ranks; r++)
        sum += count[r];
    uint64_t rest = ranks > 1 ? (sum - elements) / (ranks - 1) : 0;
    for (uint32_t r = 0; r < ranks; r++)
        count[r] = rest;
    count[rank] = sum - rest * (ranks - 1);
}

const uint64_t *plan_shape_counts(const struct choir_shape *shape)
{
    return shape->kind == CHOIR_ALL_GATHER_V       ? shape->out_count
           : shape->kind == CHOIR_REDUCE_SCATTER_V ? shape->in_count
                                                   : NULL;
}

enum shape_holds shape_holds(const struct choir_shape *shape, unsigned buf)
{
    return buf == CHOIR_IN ? kinds[shape->kind].in : kinds[shape->kind].out;
}

bool shape_present(const struct choir_shape *shape, unsigned buf)
{
    return kinds[shape->kind].where[buf] == EVERYWHERE || shape->rank == shape->root;
}

bool shape_is_v(const struct choir_shape *shape)
{
    return kinds[shape->kind].v;
}

bool shape_pair_sized(uint32_t kind)
{
    return kinds[kind].pair;
}

uint64_t shape_quantum(const struct choir_shape *shape)
{
    uint64_t a = 16, b = shape->type_bytes; /* lcm(16, element) in elements is 16 / gcd */
    while (b) {
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    return 16 / a;
}

uint32_t shape_blocks(const struct choir_shape *shape, unsigned buf)
{
    switch (shape_holds(shape, buf)) {
    case SHAPE_BLOCKS:
        return shape->ranks;
    case SHAPE_CALLS:
        return buf == CHOIR_IN ? shape->in_parts : shape->out_parts;
    default:
        return 1;
    }
}

/* Length of the one block of a v-form: the pair's own count where given, else from all ranks' counts. */
static uint64_t own_length(const struct choir_shape *s, unsigned buf)
{
    const uint64_t *own = buf == CHOIR_IN ? s->in_count : s->out_count;
    const uint64_t *all = buf == CHOIR_IN ? s->out_count : s->in_count;
    bool knows_all = !kinds[s->kind].pair || s->rank == s->root;
    return all && knows_all ? all[s->rank] : own[0];
}

void shape_table(const struct choir_shape *s, unsigned buf, uint64_t *off, uint64_t *len)
{
    uint32_t n = shape_blocks(s, buf);
    const uint64_t *count = buf == CHOIR_IN ? s->in_count : s->out_count;
    const uint64_t *offset = buf == CHOIR_IN ? s->in_offset : s->out_offset;
    enum shape_holds holds = shape_holds(s, buf);
    if (!shape_is_v(s)) {
        for (uint32_t p = 0; p < n; p++) {
            len[p] = s->kind == CHOIR_BARRIER ? 0 : s->count;
            off[p] = s->count * p;
        }
        return;
    }
    if (holds == SHAPE_BLOCK) {
        off[0] = 0;
        len[0] = own_length(s, buf);
        return;
    }
    if (!shape_present(
            s,
            buf)) { /* gather_v, scatter_v: this rank's own block is all it knows of the root's */
        for (uint32_t p = 0; p < n; p++) {
            off[p] = 0;
            len[p] = p == s->rank ? own_length(s, buf ^ 1u) : 0;
        }
        return;
    }
    uint64_t at = 0;
    for (uint32_t p = 0; p < n; p++) {
        len[p] = count[p];
        off[p] = offset ? offset[p] : at;
        at += count[p];
    }
}

static uint64_t extent(const struct choir_shape *s, unsigned buf)
{
    if (!shape_present(s, buf) || s->kind == CHOIR_BARRIER)
        return 0;
    enum shape_holds holds = shape_holds(s, buf);
    if (!shape_is_v(s))
        return s->count * (holds == SHAPE_BLOCKS ? s->ranks : 1);
    if (holds == SHAPE_BLOCK)
        return own_length(s, buf);
    const uint64_t *count = buf == CHOIR_IN ? s->in_count : s->out_count;
    const uint64_t *offset = buf == CHOIR_IN ? s->in_offset : s->out_offset;
    uint64_t end = 0, sum = 0;
    for (uint32_t p = 0, n = shape_blocks(s, buf); p < n; p++) {
        sum += count[p];
        if (offset && count[p])
            end = base_max(end, offset[p] + count[p]);
    }
    return offset ? end : sum;
}

void plan_shape_extent(const struct choir_shape *shape, uint64_t *in, uint64_t *out)
{
    *in = extent(shape, CHOIR_IN);
    *out = extent(shape, CHOIR_OUT);
}

/* Offset of this rank's block in a buffer of blocks. */
static uint64_t own_offset(const struct choir_shape *s, unsigned buf)
{
    const uint64_t *count = buf == CHOIR_IN ? s->in_count : s->out_count;
    const uint64_t *offset = buf == CHOIR_IN ? s->in_offset : s->out_offset;
    if (!shape_is_v(s))
        return s->count * s->rank;
    if (offset)
        return offset[s->rank];
    uint64_t at = 0;
    for (uint32_t p = 0; p < s->rank; p++)
        at += count[p];
    return at;
}

/* all_to_all_v in place: what comes replaces what goes, so both must lie alike. */
static bool same_blocks(const struct choir_shape *s)
{
    uint64_t in = 0, out = 0;
    for (uint32_t p = 0; p < s->ranks; p++) {
        uint64_t a = s->in_offset ? s->in_offset[p] : in,
                 b = s->out_offset ? s->out_offset[p] : out;
        if (s->in_count[p] != s->out_count[p] || (a != b && s->in_count[p]))
            return false;
        in += s->in_count[p];
        out += s->out_count[p];
    }
    return true;
}

bool plan_shape_in_place(const struct choir_shape *s, int64_t *in_minus_out)
{
    if (s->kind == CHOIR_EXCHANGE || s->kind == CHOIR_BARRIER)
        return false;
    if (!shape_present(s, CHOIR_IN) || !shape_present(s, CHOIR_OUT))
        return false;
    if (s->kind == CHOIR_ALL_TO_ALL_V && !same_blocks(s))
        return false;
    enum shape_holds in = shape_holds(s, CHOIR_IN), out = shape_holds(s, CHOIR_OUT);
    *in_minus_out = in == out           ? 0
                    : in == SHAPE_BLOCK ? (int64_t)own_offset(s, CHOIR_OUT)
                                        : -(int64_t)own_offset(s, CHOIR_IN);
    return true;
}

/* --- is a shape sound? -------------------------------------------------------------------------- */

static enum choir_status check_counts(const struct choir_shape *s)
{
    bool all_in = shape_holds(s, CHOIR_IN) != SHAPE_BLOCK && shape_present(s, CHOIR_IN);
    bool all_out = shape_holds(s, CHOIR_OUT) != SHAPE_BLOCK && shape_present(s, CHOIR_OUT);
    bool need_in = all_in || (!all_out && shape_holds(s, CHOIR_IN) == SHAPE_BLOCK);
    bool need_out = all_out || (!all_in && shape_holds(s, CHOIR_OUT) == SHAPE_BLOCK);
    if ((need_in && !s->in_count && shape_blocks(s, CHOIR_IN)) ||
        (need_out && !s->out_count && shape_blocks(s, CHOIR_OUT)))
        return base_fail(CHOIR_ERR_ARGUMENT, "give the counts", "%s: rank %u has no counts",
                         kinds[s->kind].name, s->rank);
    if (s->kind == CHOIR_EXCHANGE &&
        ((s->in_parts && !s->in_peer) || (s->out_parts && !s->out_peer)))
        return base_fail(CHOIR_ERR_ARGUMENT, "give the peers", "exchange: rank %u has no peers",
                         s->rank);
    for (unsigned buf = 0; buf < 2; buf++) {
        bool all = buf == CHOIR_IN ? all_in : all_out, need = buf == CHOIR_IN ? need_in : need_out;
        if (!need)
            continue;
        const uint64_t *count = buf == CHOIR_IN ? s->in_count : s->out_count;
        const uint64_t *offset = buf == CHOIR_IN ? s->in_offset : s->out_offset;
        uint64_t most = (uint64_t)INT64_MAX / s->type_bytes, sum = 0;
        for (uint32_t p = 0, n = all ? shape_blocks(s, buf) : 1; p < n; p++) {
            uint64_t at = all && offset ? offset[p] : sum;
            if (count[p] > most || at > most - count[p])
                return base_fail(CHOIR_ERR_COUNT, "use smaller counts",
                                 "%s: block %u of rank %u ends beyond 2^63 bytes",
                                 kinds[s->kind].name, p, s->rank);
            sum = base_min(sum + count[p], most);
        }
    }
    return CHOIR_OK;
}

enum choir_status shape_check(const struct choir_shape *s)
{
    if (s->bytes != sizeof(*s))
        return base_fail(CHOIR_ERR_ARGUMENT, "build against this library's header",
                         "shape of %u bytes, expected %zu", s->bytes, sizeof(*s));
    if (s->kind >= CHOIR_KINDS)
        return base_fail(CHOIR_ERR_ARGUMENT, "use enum choir_kind", "unknown collective %u",
                         s->kind);
    if (!s->ranks || s->ranks > BUILDER_PARTS_MOST || s->rank >= s->ranks || s->root >= s->ranks)
        return base_fail(CHOIR_ERR_RANK, "rank and root are below the number of ranks",
                         "%s: rank %u, root %u of %u ranks", kinds[s->kind].name, s->rank, s->root,
                         s->ranks);
    if (!s->layout || s->layout->ranks != s->ranks)
        return base_fail(CHOIR_ERR_ARGUMENT, "give the layout of these ranks",
                         "%s: no layout of %u ranks", kinds[s->kind].name, s->ranks);
    if (!s->type_bytes || s->slot_bytes < s->type_bytes || s->depth < 2 || !s->window)
        return base_fail(
            CHOIR_ERR_ARGUMENT, "a slot holds an element, depth is 2 or more, window 1 or more",
            "%s: element of %u bytes, slot of %llu, depth %u, window %u", kinds[s->kind].name,
            s->type_bytes, (unsigned long long)s->slot_bytes, s->depth, s->window);
    if (kinds[s->kind].v)
        return check_counts(s);
    if (s->count > (uint64_t)INT64_MAX / s->type_bytes / s->ranks)
        return base_fail(CHOIR_ERR_COUNT, "use a smaller count",
                         "%s: %llu elements a rank are beyond 2^63 bytes", kinds[s->kind].name,
                         (unsigned long long)s->count);
    return CHOIR_OK;
}
