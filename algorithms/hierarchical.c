/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hierarchical.c: hierarchical(INNER,OUTER) does a collective in phases, by INNER among the ranks of a host
 * and by OUTER between hosts, so that each byte crosses between hosts as seldom as can be and all ranks share
 * that work. Hosts may differ in size and ranks may be numbered in any way; one host, or one rank on each, is
 * not for it. This file says by which phases, as INNER and OUTER can, and what these need of the plan.
 * Sources: N. T. Karonis et al., "Exploiting hierarchy in parallel computer networks to optimize collective
 * operation performance", IPDPS 2000; J. L. Träff, "Efficient allgather for regular SMP-clusters",
 * EuroPVM/MPI 2006.
 */
#include "algorithms/hierarchical.h"
#include <stdio.h>

typedef void (*write_fn)(struct hier *v);

#define PARTS_MOST 64 /* parts an all-reduce is cut into for the ranks of hosts of several sizes */
#define PRODUCT_MOST 512 /* parts for both INNER and OUTER of a rooted collective */

/* --- which phases ------------------------------------------------------------------------------- */

/* Whether INNER does a collective among the ranks of the largest host, or OUTER between hosts, and how finely it cuts. */
static bool offers(struct hier *v, bool outer, enum choir_kind kind, uint32_t *parts)
{
    struct choir_needs needs;
    uint32_t n = outer ? v->layout->hosts : v->most;
    hier_start(&v->in, CHOIR_IN, CHOIR_IN);
    for (uint32_t q = 0; q < n; q++) {
        v->group[q] = outer ? hier_member(v, q, 0) : hier_member(v, v->largest, q);
        hier_add_run(v, &v->in, 0, 1);
    }
    if (v->status != CHOIR_OK)
        return false;
    struct choir_splice s = {
        .algorithm = outer ? v->outer : v->inner, .kind = kind, .n = n, .group = v->group};
    s.map[0].begin = s.map[1].begin = v->in.begin;
    if (choir_splice_needs(v->b, &s, &needs) != CHOIR_OK)
        return false;
    if (parts)
        *parts = needs.parts;
    return true;
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
    return b ? gcd(b, a % b) : a;
}

/* The sizes of the largest and (v->columns) the smallest host. Returns their lcm, or more than PARTS_MOST. */
static uint64_t measure_hosts(struct hier *v)
{
    uint64_t multiple = 1;
    v->most = v->largest = 0;
    v->columns = UINT32_MAX;
    for (uint32_t h = 0; h < v->layout->hosts; h++) {
        uint32_t size = hier_host_size(v, h);
        v->largest = size > v->most ? h : v->largest;
        v->most = size > v->most ? size : v->most;
        v->columns = size < v->columns ? size : v->columns;
        if (multiple <= PARTS_MOST)
            multiple *= size / gcd((uint32_t)multiple, size);
    }
    return multiple;
}

/* No algorithm does what is not its own: says which of the two lacks what. */
static write_fn refuse(struct hier *v, bool outer, const char *lacks)
{
    char text[320];
    snprintf(text, sizeof(text), "%.64s cannot be %s: it does no %s among %u ranks",
             outer ? v->outer : v->inner, outer ? "OUTER" : "INNER", lacks,
             outer ? v->layout->hosts : v->most);
    if (v->status == CHOIR_OK)
        v->status = choir_unsupported(v->b, text);
    return NULL;
}

/* `write`, if both INNER and OUTER do `kind`. */
static write_fn if_both_do(struct hier *v, enum choir_kind kind, const char *name, write_fn write)
{
    if (!offers(v, false, kind, NULL))
        return refuse(v, false, name);
    if (!offers(v, true, kind, NULL))
        return refuse(v, true, name);
    return write;
}

static write_fn choose_all_to_all(struct hier *v)
{
    v->fills[0] = !offers(v, false, CHOIR_ALL_TO_ALL_V, NULL);
    v->fills[1] = !offers(v, true, CHOIR_ALL_TO_ALL_V, NULL);
    if (!v->fills[0] && !v->fills[1])
        return hier_all_to_all;
    if (v->fills[0] && !offers(v, false, CHOIR_ALL_TO_ALL, NULL))
        return refuse(v, false, "all_to_all");
    if (v->fills[1] && !offers(v, true, CHOIR_ALL_TO_ALL, NULL))
        return refuse(v, true, "all_to_all");
    return hier_all_to_all_by_column;
}

/* Cuts the vector so that both INNER and OUTER can divide it as they like to. */
static void cut_for_both(struct hier *v, uint32_t inner_parts, uint32_t outer_parts)
{
    uint64_t multiple = (uint64_t)inner_parts / gcd(inner_parts, outer_parts) * outer_parts;
    v->fine = multiple <= PRODUCT_MOST    ? (uint32_t)multiple
              : inner_parts > outer_parts ? inner_parts
                                          : outer_parts;
    choir_cut_even(v->b, v->fine);
}

/* How INNER or OUTER does an all-reduce, and into how many parts that divides the vector. OUTER rather does it whole;
 * INNER in two halves, between which OUTER has its place. */
static enum hier_way way_of(struct hier *v, bool outer, uint32_t *parts)
{
    if (outer && offers(v, true, CHOIR_ALL_REDUCE, parts))
        return HIER_WHOLE;
    if (offers(v, outer, CHOIR_REDUCE_SCATTER, NULL) && offers(v, outer, CHOIR_ALL_GATHER, NULL)) {
        *parts = outer ? v->layout->hosts : v->most;
        return HIER_BLOCKS;
    }
    if (offers(v, outer, CHOIR_BROADCAST, NULL) && offers(v, outer, CHOIR_REDUCE, parts))
        return HIER_ROOTED;
    return offers(v, outer, CHOIR_ALL_REDUCE, parts) ? HIER_WHOLE : HIER_NONE;
}

static write_fn choose_all_reduce(struct hier *v, uint64_t multiple)
{
    static const char lacks[] =
        "all_reduce, nor reduce_scatter and all_gather, nor reduce and broadcast";
    uint32_t inner_parts = 1, outer_parts = 1;
    enum hier_way inner = way_of(v, false, &inner_parts);
    v->way = way_of(v, true, &outer_parts);
    if (inner == HIER_NONE || v->way == HIER_NONE)
        return refuse(v, inner != HIER_NONE, lacks);
    if (inner != HIER_BLOCKS) {
        cut_for_both(v, inner_parts, outer_parts);
        return inner == HIER_WHOLE ? hier_all_reduce_by_all : hier_all_reduce_by_leaders;
    }
    v->units = multiple <= PARTS_MOST ? (uint32_t)multiple
               : v->most > PARTS_MOST ? v->most
                                      : PARTS_MOST;
    v->fine = outer_parts;
    choir_cut_even(v->b, v->units * v->fine);
    return hier_all_reduce;
}

static write_fn choose_rooted(struct hier *v)
{
    enum choir_kind kind = (enum choir_kind)v->shape->kind;
    bool reduces = kind == CHOIR_REDUCE;
    uint32_t inner_parts = 1, outer_parts = 1;
    if (!offers(v, false, kind, &inner_parts))
        return refuse(v, false, reduces ? "reduce" : "broadcast");
    if (!offers(v, true, kind, &outer_parts))
        return refuse(v, true, reduces ? "reduce" : "broadcast");
    cut_for_both(v, inner_parts, outer_parts);
    return reduces ? hier_reduce : hier_broadcast;
}

/* How finely the vector is cut, and by which phases; NULL if INNER or OUTER has not what it takes. */
static write_fn choose(struct hier *v)
{
    uint64_t multiple = measure_hosts(v);
    v->units = v->fine = 1;
    switch (v->shape->kind) {
    case CHOIR_ALL_GATHER:
    case CHOIR_ALL_GATHER_V:
        return if_both_do(v, CHOIR_ALL_GATHER, "all_gather", hier_all_gather);
    case CHOIR_REDUCE_SCATTER:
    case CHOIR_REDUCE_SCATTER_V:
        return if_both_do(v, CHOIR_REDUCE_SCATTER, "reduce_scatter", hier_reduce_scatter);
    case CHOIR_BARRIER:
        return if_both_do(v, CHOIR_BARRIER, "barrier", hier_barrier);
    case CHOIR_ALL_TO_ALL:
        return choose_all_to_all(v);
    case CHOIR_ALL_TO_ALL_V:
        return if_both_do(v, CHOIR_ALL_TO_ALL_V, "all_to_all_v", hier_all_to_all_v);
    case CHOIR_GATHER_V:
    case CHOIR_SCATTER_V:
        return hier_rooted_v;
    case CHOIR_ALL_REDUCE:
        return choose_all_reduce(v, multiple);
    default:
        return choose_rooted(v);
    }
}

/* --- the plan ----------------------------------------------------------------------------------- */

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

/* Whether what this rank needs is not known from others: hosts of one size need the same, but for what they
 * carry of an all-to-all, and so do ranks of a host where hosts are of one size or one rank leads. */
static bool differs(const struct hier *v, write_fn write, uint32_t host, uint32_t local)
{
    uint32_t kind = v->shape->kind, same = 0;
    bool alike = v->columns * v->layout->hosts == v->shape->ranks;
    bool led = kind == CHOIR_BROADCAST || kind == CHOIR_REDUCE || kind == CHOIR_BARRIER ||
               write == hier_all_to_all_by_column; /* the first column takes most */
    if ((alike || led) && local != hier_leader(v, host))
        return false;
    if (write == hier_all_to_all)
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
        if (differs(v, write, v->layout->host_of[r], v->layout->local_of[r])) {
            look_from(v, r);
            write(v);
        }
    v->survey = false;
    return v->status;
}

static enum choir_status build_view(struct hier *v)
{
    write_fn write = choose(v);
    enum choir_status status = v->status == CHOIR_OK ? survey(v, write) : v->status;
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
    if (s->layout->hosts == 1 || s->layout->hosts == s->ranks)
        return choir_unsupported(b, s->layout->hosts == 1 ? "all ranks are on one host"
                                                          : "every rank is on a host of its own");
    if (sized_by_pairs(&v) && !s->all_counts)
        return choir_unsupported(b, "the ranks have not told each other their counts");
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
                "direct,direct direct,bruck bruck,direct one_shot,one_shot "
                "halving_doubling,halving_doubling pat,pat tree,tree",
    .build = build,
};
