/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hierarchical_vector.c: hierarchical collectives on whole vectors (all-reduce, broadcast, reduce), and the
 * barrier. An all-reduce reduces in each host to runs of parts, one per rank, all-reduces these between
 * hosts, and gathers: each host sends and receives what a single rank in its place would. With less capable INNER and
 * OUTER it is put together from what they can do. Rooted ones go by one leader per host.
 */
#include "algorithms/hierarchical.h"

/* --- all-reduce --------------------------------------------------------------------------------- */

/* Rank l of a host of s owns units [units*l/s, units*(l+1)/s). */
static uint32_t first_unit(const struct hier *v, uint32_t size, uint32_t local)
{
    return (uint32_t)((uint64_t)v->units * local / size);
}

static uint32_t owner(const struct hier *v, uint32_t size, uint32_t unit)
{
    uint32_t l = (uint32_t)((uint64_t)unit * size / v->units);
    while (first_unit(v, size, l + 1) <= unit)
        l++;
    return l;
}

/* All owners of `unit` into v->group; whether they are those who are there already. */
static bool set_owners(struct hier *v, uint32_t unit)
{
    bool same = true;
    for (uint32_t h = 0; h < v->layout->hosts; h++) {
        uint32_t r = hier_member(v, h, owner(v, hier_host_size(v, h), unit));
        same &= v->group[h] == r;
        v->group[h] = r;
    }
    return same;
}

static void all_runs(struct hier *v, struct hier_blocks *l, uint8_t buf)
{
    hier_start(l, buf, buf);
    for (uint32_t i = 0; i < v->size; i++)
        hier_add_run(v, l, first_unit(v, v->size, i) * v->fine,
                     first_unit(v, v->size, i + 1) * v->fine);
}

/* The parts [from, to) of OUT, whole or as a block for each host. */
static void run_of_out(struct hier *v, struct hier_blocks *l, uint32_t from, uint32_t to,
                       bool blocks)
{
    uint32_t n = blocks ? v->layout->hosts : 1, parts = (to - from) / n;
    hier_start(l, CHOIR_OUT, CHOIR_OUT);
    for (uint32_t h = 0; h < n; h++)
        hier_add_run(v, l, from + h * parts, from + (h + 1) * parts);
}

/* An all-reduce of the parts [from, to) of OUT by the ranks in v->group, one of each host, in that way of which
 * OUTER is capable. */
static void between(struct hier *v, uint32_t from, uint32_t to)
{
    uint32_t hosts = v->layout->hosts, parts = (to - from) / hosts;
    bool blocks = v->way == HIER_BLOCKS;
    run_of_out(v, &v->in, from, to, blocks);
    if (blocks)
        run_of_out(v, &v->out, from + v->host * parts, from + (v->host + 1) * parts, false);
    else
        run_of_out(v, &v->out, from, to, false);
    hier_phase(v, v->outer,
               blocks                  ? CHOIR_REDUCE_SCATTER
               : v->way == HIER_ROOTED ? CHOIR_REDUCE
                                       : CHOIR_ALL_REDUCE,
               hosts, 0);
    if (v->way == HIER_WHOLE)
        return;
    if (blocks)
        run_of_out(v, &v->in, from + v->host * parts, from + (v->host + 1) * parts, false);
    run_of_out(v, &v->out, from, to, blocks);
    hier_phase(v, v->outer, blocks ? CHOIR_ALL_GATHER : CHOIR_BROADCAST, hosts, 0);
}

/* Reduce-scatter in the host, all-reduce of each intersection of runs by its owners, all-gather. */
void hier_all_reduce(struct hier *v)
{
    uint32_t from = first_unit(v, v->size, v->local), to = first_unit(v, v->size, v->local + 1);
    all_runs(v, &v->in, CHOIR_IN);
    hier_start(&v->out, CHOIR_OUT, CHOIR_OUT);
    hier_add_run(v, &v->out, from * v->fine, to * v->fine);
    hier_inner(v, CHOIR_REDUCE_SCATTER, 0);
    for (uint32_t unit = from, next; unit < to; unit = next) {
        set_owners(v, unit);
        for (next = unit + 1; next < to && set_owners(v, next);)
            next++;
        set_owners(v, unit);
        between(v, unit * v->fine, next * v->fine);
    }
    hier_start(&v->in, CHOIR_OUT, CHOIR_OUT);
    hier_add_run(v, &v->in, from * v->fine, to * v->fine);
    all_runs(v, &v->out, CHOIR_OUT);
    hier_inner(v, CHOIR_ALL_GATHER, 0);
}

/* A vector, whole. */
static void whole(struct hier *v, struct hier_blocks *l, uint8_t buf, uint32_t parts)
{
    hier_start(l, buf, CHOIR_IN);
    hier_add_run(v, l, 0, parts);
}

/* For an INNER that only does rooted collectives. */
void hier_all_reduce_by_leaders(struct hier *v)
{
    whole(v, &v->in, CHOIR_IN, v->fine);
    whole(v, &v->out, CHOIR_OUT, v->fine);
    hier_inner(v, CHOIR_REDUCE, hier_leader(v, v->host));
    if (v->local == hier_leader(v, v->host)) {
        hier_set_leaders(v);
        between(v, 0, v->fine);
    }
    whole(v, &v->in, CHOIR_OUT, v->fine);
    whole(v, &v->out, CHOIR_OUT, v->fine);
    hier_inner(v, CHOIR_BROADCAST, hier_leader(v, v->host));
}

/* For an INNER that only does all-reduces: every column all-reduces the whole vector between hosts, all of them in
 * the same way, so no phase has to follow but a copy to ranks that larger hosts have beyond. The vector crosses
 * `columns` times, which short ones do not feel. */
void hier_all_reduce_by_all(struct hier *v)
{
    struct choir_place all = CHOIR_LOCAL(.buf = CHOIR_OUT, .run = v->fine), to = all, from = all;
    from.peer = (int32_t)hier_member(v, v->host, v->local % v->columns);
    whole(v, &v->in, CHOIR_IN, v->fine);
    whole(v, &v->out, CHOIR_OUT, v->fine);
    hier_inner(v, CHOIR_ALL_REDUCE, 0);
    if (v->local >= v->columns) {
        hier_copy(v, from, all);
        return;
    }
    hier_set_column(v);
    between(v, 0, v->fine);
    for (uint32_t i = v->local + v->columns; i < v->size; i += v->columns) {
        to.peer = (int32_t)hier_member(v, v->host, i);
        hier_copy(v, all, to);
    }
}

/* --- rooted and barrier -------------------------------------------------------------------------- */

void hier_broadcast(struct hier *v)
{
    whole(v, &v->in, CHOIR_IN, v->fine);
    whole(v, &v->out, CHOIR_OUT, v->fine);
    if (v->local == hier_leader(v, v->host))
        hier_among_leaders(v, CHOIR_BROADCAST);
    whole(v, &v->in, CHOIR_OUT, v->fine);
    hier_inner(v, CHOIR_BROADCAST, hier_leader(v, v->host));
}

/* Leaders but the root keep their host's result in TMP. */
void hier_reduce(struct hier *v)
{
    bool leads = v->local == hier_leader(v, v->host);
    uint8_t buf = leads && v->host != v->layout->host_of[v->shape->root] ? CHOIR_TMP : CHOIR_OUT;
    v->tmp = buf == CHOIR_TMP ? v->fine : 0;
    whole(v, &v->in, CHOIR_IN, v->fine);
    whole(v, &v->out, buf, v->fine);
    hier_inner(v, CHOIR_REDUCE, hier_leader(v, v->host));
    if (!leads)
        return;
    whole(v, &v->in, buf, v->fine);
    whole(v, &v->out, CHOIR_OUT, v->fine);
    hier_among_leaders(v, CHOIR_REDUCE);
}

/* All of a host are here; all hosts are; so tell the host. */
void hier_barrier(struct hier *v)
{
    whole(v, &v->in, CHOIR_IN, v->fine);
    whole(v, &v->out, CHOIR_OUT, v->fine);
    hier_inner(v, CHOIR_BARRIER, 0);
    whole(v, &v->in, CHOIR_OUT, v->fine);
    if (v->local == hier_leader(v, v->host))
        hier_among_leaders(v, CHOIR_BARRIER);
    hier_inner(v, CHOIR_BARRIER, 0);
}
