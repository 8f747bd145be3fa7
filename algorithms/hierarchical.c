/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hierarchical.c: hierarchical(INNER,OUTER) does a collective in phases, by INNER among the ranks of a host
 * and by OUTER between hosts, so that each byte crosses between hosts as seldom as can be and all ranks share
 * that work. Hosts may differ in size and ranks may be numbered in any way; one host, or one rank on each, is
 * not for it.
 * Sources: N. T. Karonis et al., "Exploiting hierarchy in parallel computer networks to optimize collective
 * operation performance", IPDPS 2000; J. L. Träff, "Efficient allgather for regular SMP-clusters",
 * EuroPVM/MPI 2006.
 */
#include "algorithms/hierarchical.h"
#include <stdio.h>

#define PARTS_MOST 64 /* parts an all-reduce is cut into for the ranks of hosts of several sizes */
#define PRODUCT_MOST 512 /* parts for both INNER and OUTER of a rooted collective */

uint32_t hier_host_size(const struct hier *v, uint32_t host)
{
    return v->layout->begin[host + 1] - v->layout->begin[host];
}

uint32_t hier_member(const struct hier *v, uint32_t host, uint32_t local)
{
    return v->layout->member[v->layout->begin[host] + local];
}

/* --- lists of blocks ---------------------------------------------------------------------------- */

void hier_start(struct hier_blocks *l, uint8_t buf, uint8_t measure_buf)
{
    l->buf = buf;
    l->measure_buf = measure_buf;
    l->parts = l->count = 0;
    if (l->begin)
        l->begin[0] = 0;
}

void hier_add(struct hier *v, struct hier_blocks *l, uint32_t part, uint32_t measure)
{
    if (l->parts == l->room) {
        uint32_t room = 2 * l->room + 64;
        uint32_t *a = realloc(l->part, room * sizeof(*a));
        l->part = a ? a : l->part;
        uint32_t *m = realloc(l->measure, room * sizeof(*m));
        l->measure = m ? m : l->measure;
        if (!a || !m) {
            v->status = CHOIR_ERR_NO_MEMORY;
            return;
        }
        l->room = room;
    }
    l->part[l->parts] = part;
    l->measure[l->parts++] = measure;
}

/* Ends the present block. */
void hier_end(struct hier *v, struct hier_blocks *l)
{
    if (l->count + 2 > l->begins) {
        uint32_t room = 2 * l->begins + 64;
        uint32_t *a = realloc(l->begin, room * sizeof(*a));
        if (!a) {
            v->status = CHOIR_ERR_NO_MEMORY;
            return;
        }
        a[0] = 0;
        l->begin = a;
        l->begins = room;
    }
    l->begin[++l->count] = l->parts;
}

void hier_add_run(struct hier *v, struct hier_blocks *l, uint32_t from, uint32_t to)
{
    for (; from < to; from++)
        hier_add(v, l, from, from);
    hier_end(v, l);
}

static bool even(const struct hier_blocks *l)
{
    for (uint32_t q = 1; q < l->count; q++)
        if (l->begin[q + 1] - l->begin[q] != l->begin[1])
            return false;
    return true;
}

/* --- phases ----------------------------------------------------------------------------------- */

/* Splices v->in and v->out, or notes what that would need. The v-form stands in where blocks differ. */
void hier_phase(struct hier *v, const char *algorithm, enum choir_kind kind, uint32_t n,
                uint32_t root)
{
    struct choir_needs needs = {0};
    const struct hier_blocks *wide = kind == CHOIR_REDUCE_SCATTER ? &v->in : &v->out;
    if (kind == CHOIR_ALL_GATHER && !even(wide))
        kind = CHOIR_ALL_GATHER_V;
    if (kind == CHOIR_REDUCE_SCATTER && !even(wide))
        kind = CHOIR_REDUCE_SCATTER_V;
    if (v->status != CHOIR_OK)
        return;
    struct choir_splice s = {
        .algorithm = algorithm,
        .kind = kind,
        .root = root,
        .n = n,
        .group = v->group,
        .map = {{v->in.buf, v->in.measure_buf, v->in.begin, v->in.part, v->in.measure},
                {v->out.buf, v->out.measure_buf, v->out.begin, v->out.part, v->out.measure}},
        .tmp = v->tmp};
    if (!v->survey) {
        choir_splice(v->b, &s);
        return;
    }
    v->status = choir_splice_needs(v->b, &s, &needs);
    if (needs.programs > v->needs.programs)
        v->needs.programs = needs.programs;
    if (needs.computed > v->needs.computed)
        v->needs.computed = needs.computed;
    if (needs.piece_bytes && (!v->needs.piece_bytes || needs.piece_bytes < v->needs.piece_bytes))
        v->needs.piece_bytes = needs.piece_bytes;
}

/* Among the ranks of this host. */
void hier_inner(struct hier *v, enum choir_kind kind, uint32_t root)
{
    for (uint32_t i = 0; i < v->size; i++)
        v->group[i] = hier_member(v, v->host, i);
    hier_phase(v, v->inner, kind, v->size, root);
}

/* Among the ranks with this one's local index on all hosts. */
void hier_outer(struct hier *v, enum choir_kind kind)
{
    for (uint32_t h = 0; h < v->layout->hosts; h++)
        v->group[h] = hier_member(v, h, v->local);
    hier_phase(v, v->outer, kind, v->layout->hosts, 0);
}

/* The rank that stands for a host in rooted phases. */
uint32_t hier_leader(const struct hier *v, uint32_t host)
{
    uint32_t root = v->shape->root;
    return v->layout->host_of[root] == host ? v->layout->local_of[root] : 0;
}

bool hier_carried(const struct hier *v, uint32_t host, uint32_t column)
{
    return host != v->host && (v->host + host) % v->columns == column;
}

void hier_among_leaders(struct hier *v, enum choir_kind kind)
{
    for (uint32_t h = 0; h < v->layout->hosts; h++)
        v->group[h] = hier_member(v, h, hier_leader(v, h));
    hier_phase(v, v->outer, kind, v->layout->hosts, v->layout->host_of[v->shape->root]);
}

/* Whether an algorithm does a collective among n ranks, and how finely it cuts. */
static bool offers(struct hier *v, const char *algorithm, enum choir_kind kind, uint32_t n,
                   uint32_t *parts)
{
    struct choir_needs needs;
    hier_start(&v->in, CHOIR_IN, CHOIR_IN);
    for (uint32_t q = 0; q < n; q++)
        hier_add_run(v, &v->in, 0, 1);
    if (v->status != CHOIR_OK)
        return false;
    struct choir_splice s = {.algorithm = algorithm, .kind = kind, .n = n, .group = v->group};
    for (uint32_t i = 0; i < n; i++)
        v->group[i] = i;
    s.map[0].begin = s.map[1].begin = v->in.begin;
    if (choir_splice_needs(v->b, &s, &needs) != CHOIR_OK)
        return false;
    if (parts)
        *parts = needs.parts;
    return true;
}

/* --- the plan ----------------------------------------------------------------------------------- */

typedef void (*write_fn)(struct hier *v);

/* "inner,outer", at the comma outside parentheses; by default what suits the kind. */
static bool parse(struct hier *v)
{
    const char *args = v->shape->args;
    uint32_t kind = v->shape->kind;
    if (!*args)
        args = kind == CHOIR_BARRIER                                    ? "direct,bruck"
               : kind == CHOIR_ALL_TO_ALL || kind == CHOIR_ALL_TO_ALL_V ? "pairwise,pairwise"
               : kind == CHOIR_BROADCAST || kind == CHOIR_REDUCE        ? "binomial,binomial"
                                                                        : "direct,ring";
    size_t comma = 0;
    for (int depth = 0; args[comma] && (depth || args[comma] != ','); comma++)
        depth += (args[comma] == '(') - (args[comma] == ')');
    if (!args[comma] || comma >= sizeof(v->inner) || strlen(args + comma) > sizeof(v->outer))
        return false;
    snprintf(v->inner, sizeof(v->inner), "%.*s", (int)comma, args);
    snprintf(v->outer, sizeof(v->outer), "%s", args + comma + 1);
    return true;
}

static void look_from(struct hier *v, uint32_t rank)
{
    v->host = v->layout->host_of[rank];
    v->local = v->layout->local_of[rank];
    v->size = hier_host_size(v, v->host);
    v->tmp = 0;
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
    return b ? gcd(b, a % b) : a;
}

/* How finely the vector is cut, and by which phases; NULL if INNER or OUTER has not what it takes. */
static write_fn choose(struct hier *v)
{
    uint32_t hosts = v->layout->hosts, kind = v->shape->kind, most = 0, least = UINT32_MAX;
    uint32_t inner_parts = 1, outer_parts = 1;
    uint64_t multiple = 1;
    for (uint32_t h = 0; h < hosts; h++) {
        uint32_t size = hier_host_size(v, h);
        most = size > most ? size : most;
        least = size < least ? size : least;
        if (multiple <= PARTS_MOST)
            multiple *= size / gcd((uint32_t)multiple, size);
    }
    v->columns = least;
    if (kind == CHOIR_ALL_GATHER || kind == CHOIR_ALL_GATHER_V)
        return hier_all_gather;
    if (kind == CHOIR_REDUCE_SCATTER || kind == CHOIR_REDUCE_SCATTER_V)
        return hier_reduce_scatter;
    if (kind == CHOIR_ALL_TO_ALL)
        return hier_all_to_all;
    if (kind == CHOIR_ALL_TO_ALL_V)
        return offers(v, v->inner, CHOIR_ALL_TO_ALL_V, most, NULL) &&
                       offers(v, v->outer, CHOIR_ALL_TO_ALL_V, hosts, NULL)
                   ? hier_all_to_all_v
                   : NULL;
    if (kind == CHOIR_GATHER_V || kind == CHOIR_SCATTER_V)
        return hier_rooted_v;
    v->units = v->fine = 1;
    if (kind == CHOIR_BARRIER)
        return hier_barrier;
    if (!offers(v, v->outer, (enum choir_kind)kind, hosts, &outer_parts))
        return NULL;
    if (kind == CHOIR_ALL_REDUCE && offers(v, v->inner, CHOIR_REDUCE_SCATTER, most, NULL) &&
        offers(v, v->inner, CHOIR_ALL_GATHER, most, NULL)) {
        v->units = multiple <= PARTS_MOST ? (uint32_t)multiple
                   : most > PARTS_MOST    ? most
                                          : PARTS_MOST;
        v->fine = outer_parts;
        choir_cut_even(v->b, v->units * v->fine);
        return hier_all_reduce;
    }
    if (!offers(v, v->inner, kind == CHOIR_ALL_REDUCE ? CHOIR_REDUCE : (enum choir_kind)kind, most,
                &inner_parts))
        return NULL;
    multiple = (uint64_t)inner_parts / gcd(inner_parts, outer_parts) * outer_parts;
    v->fine = multiple <= PRODUCT_MOST    ? (uint32_t)multiple
              : inner_parts > outer_parts ? inner_parts
                                          : outer_parts;
    choir_cut_even(v->b, v->fine);
    return kind == CHOIR_BROADCAST ? hier_broadcast
           : kind == CHOIR_REDUCE  ? hier_reduce
                                   : hier_all_reduce_by_leaders;
}

/* Whether what this rank needs is not known from others: hosts of one size need the same, but for what they
 * carry of an all-to-all, and so do ranks of a host where hosts are of one size or one rank leads. */
static bool differs(const struct hier *v, uint32_t host, uint32_t local)
{
    uint32_t kind = v->shape->kind, same = 0;
    bool alike = v->columns * v->layout->hosts == v->shape->ranks;
    bool led = kind == CHOIR_BROADCAST || kind == CHOIR_REDUCE || kind == CHOIR_BARRIER;
    if ((alike || led) && local != hier_leader(v, host))
        return false;
    if (kind == CHOIR_ALL_TO_ALL)
        return !alike || host < v->columns;
    while (hier_host_size(v, same) != hier_host_size(v, host))
        same++;
    return same == host;
}

/* There all is one instance of one program that computes nothing. */
static bool sized_by_pairs(const struct hier *v)
{
    uint32_t kind = v->shape->kind;
    return kind == CHOIR_ALL_TO_ALL_V || kind == CHOIR_GATHER_V || kind == CHOIR_SCATTER_V;
}

/* What any rank needs all ranks must say. */
static enum choir_status survey(struct hier *v, write_fn write)
{
    v->survey = !sized_by_pairs(v);
    v->needs = (struct choir_needs){.programs = 1};
    for (uint32_t r = 0; v->survey && r < v->shape->ranks && v->status == CHOIR_OK; r++)
        if (differs(v, v->layout->host_of[r], v->layout->local_of[r])) {
            look_from(v, r);
            write(v);
        }
    v->survey = false;
    return v->status;
}

static enum choir_status build_view(struct hier *v)
{
    write_fn write = choose(v);
    enum choir_status status = v->status;
    if (status == CHOIR_OK)
        status = write ? survey(v, write) : CHOIR_ERR_UNSUPPORTED;
    if (status != CHOIR_OK)
        return status;
    choir_computed(v->b, v->needs.computed);
    choir_piece(v->b, v->needs.piece_bytes ? v->needs.piece_bytes : v->shape->slot_bytes);
    look_from(v, v->shape->rank);
    for (uint32_t program = 0; program < v->needs.programs; program++) {
        if (program)
            choir_next_program(v->b);
        write(v);
    }
    return v->status == CHOIR_OK ? choir_builder_status(v->b) : v->status;
}

static enum choir_status build(const struct choir_shape *s, struct choir_builder *b)
{
    struct hier v = {.shape = s, .layout = s->layout, .b = b};
    if (!parse(&v))
        return CHOIR_ERR_ARGUMENT;
    if (s->layout->hosts == 1 || s->layout->hosts == s->ranks ||
        (sized_by_pairs(&v) && !s->all_counts))
        return CHOIR_ERR_UNSUPPORTED;
    v.group = malloc(s->ranks * sizeof(*v.group));
    enum choir_status status = v.group ? build_view(&v) : CHOIR_ERR_NO_MEMORY;
    free(v.group);
    free(v.in.part), free(v.in.measure), free(v.in.begin);
    free(v.out.part), free(v.out.measure), free(v.out.begin);
    return status;
}

const struct choir_algorithm algorithm_hierarchical = {
    .bytes = sizeof(struct choir_algorithm),
    .abi = CHOIR_ALGORITHM_ABI,
    .name = "hierarchical",
    .summary =
        "hierarchical(INNER,OUTER): INNER in each host, OUTER between hosts, all ranks sharing "
        "that; Karonis et al. 2000, Träff 2006",
    .kinds = 1u << CHOIR_ALL_REDUCE | 1u << CHOIR_ALL_GATHER | 1u << CHOIR_REDUCE_SCATTER |
             1u << CHOIR_BROADCAST | 1u << CHOIR_REDUCE | 1u << CHOIR_BARRIER |
             1u << CHOIR_ALL_TO_ALL | 1u << CHOIR_ALL_GATHER_V | 1u << CHOIR_REDUCE_SCATTER_V |
             1u << CHOIR_ALL_TO_ALL_V | 1u << CHOIR_GATHER_V | 1u << CHOIR_SCATTER_V,
    .variants = "ring,tree direct,one_shot direct,recursive_doubling direct,two_shot direct,ring "
                "direct,direct direct,bruck halving_doubling,halving_doubling pat,pat tree,tree",
    .build = build,
};
