/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hierarchical_blocks.c: hierarchical collectives on one block per rank: all-gather, reduce-scatter,
 * all-to-all. Every block crosses between two hosts once (as often as OUTER says, in an all-to-all by columns); the
 * first `columns` ranks of each host share that work, and what one of them has for another host goes in one message.
 */
#include "algorithms/hierarchical.h"

/* --- all-gather, reduce-scatter ------------------------------------------------------------------ */

/* Column l, the ranks of local index l < columns, carries between hosts the blocks of the ranks of local
 * index l, l + columns ... Adds those of one host, in IN or OUT, or in TMP from `*tmp` on. */
static void add_share(struct hier *v, struct hier_blocks *l, uint32_t host, uint32_t column,
                      uint32_t *tmp)
{
    for (uint32_t i = column; i < hier_host_size(v, host); i += v->columns) {
        uint32_t r = hier_member(v, host, i);
        hier_add(v, l, l->buf == CHOIR_TMP ? (*tmp)++ : r, r);
    }
}

/* One block for each host: its share in this rank's column. */
static void column_shares(struct hier *v, struct hier_blocks *l, uint8_t buf, uint8_t measure_buf)
{
    uint32_t tmp = 0;
    hier_start(l, buf, measure_buf);
    for (uint32_t h = 0; h < v->layout->hosts; h++) {
        add_share(v, l, h, v->local, &tmp);
        hier_end(v, l);
    }
}

/* One block for each rank of this host: all its column carries. */
static void host_shares(struct hier *v, struct hier_blocks *l, uint8_t buf)
{
    hier_start(l, buf, buf);
    for (uint32_t i = 0; i < v->size; i++) {
        for (uint32_t h = 0; h < v->layout->hosts && i < v->columns; h++)
            add_share(v, l, h, i, NULL);
        hier_end(v, l);
    }
}

void hier_all_gather(struct hier *v)
{
    uint32_t me = hier_member(v, v->host, v->local), none = 0;
    bool carries = v->local < v->columns;
    hier_copy(v, CHOIR_LOCAL(.buf = CHOIR_IN), CHOIR_LOCAL(.buf = CHOIR_OUT, .first = me));
    if (!carries)
        hier_copy(v, CHOIR_LOCAL(.buf = CHOIR_IN),
                  CHOIR_MESSAGE(hier_member(v, v->host, v->local % v->columns), .buf = CHOIR_IN));
    for (uint32_t i = v->local + v->columns; carries && i < v->size; i += v->columns) {
        uint32_t r = hier_member(v, v->host, i);
        hier_copy(v, CHOIR_MESSAGE(r, .buf = CHOIR_OUT, .first = r),
                  CHOIR_LOCAL(.buf = CHOIR_OUT, .first = r));
    }
    if (carries) {
        hier_start(&v->in, CHOIR_OUT, CHOIR_OUT);
        add_share(v, &v->in, v->host, v->local, &none);
        hier_end(v, &v->in);
        column_shares(v, &v->out, CHOIR_OUT, CHOIR_OUT);
        hier_outer(v, CHOIR_ALL_GATHER);
    }
    hier_start(&v->in, CHOIR_OUT, CHOIR_OUT);
    for (uint32_t h = 0; h < v->layout->hosts && carries; h++)
        add_share(v, &v->in, h, v->local, &none);
    hier_end(v, &v->in);
    host_shares(v, &v->out, CHOIR_OUT);
    hier_inner(v, CHOIR_ALL_GATHER, 0);
}

/* The reverse. TMP holds the host's sums of the column's blocks, host by host. */
void hier_reduce_scatter(struct hier *v)
{
    bool carries = v->local < v->columns;
    uint32_t tmp = 0, own = 0;
    host_shares(v, &v->in, CHOIR_IN);
    hier_start(&v->out, CHOIR_TMP, CHOIR_IN);
    for (uint32_t h = 0; h < v->layout->hosts && carries; h++) {
        own = h == v->host ? tmp : own;
        add_share(v, &v->out, h, v->local, &tmp);
    }
    hier_end(v, &v->out);
    v->tmp = tmp;
    hier_inner(v, CHOIR_REDUCE_SCATTER, 0);
    if (!carries) {
        hier_copy(v,
                  CHOIR_MESSAGE(hier_member(v, v->host, v->local % v->columns), .buf = CHOIR_OUT),
                  CHOIR_LOCAL(.buf = CHOIR_OUT));
        return;
    }
    bool alone = v->local + v->columns >= v->size;
    uint32_t at = own;
    column_shares(v, &v->in, CHOIR_TMP, CHOIR_IN);
    hier_start(&v->out, alone ? CHOIR_OUT : CHOIR_TMP, CHOIR_IN);
    if (alone)
        hier_add(v, &v->out, 0, 0);
    else
        add_share(v, &v->out, v->host, v->local, &at);
    hier_end(v, &v->out);
    hier_outer(v, CHOIR_REDUCE_SCATTER);
    for (uint32_t i = v->local; !alone && i < v->size; i += v->columns, own++) {
        uint32_t r = hier_member(v, v->host, i);
        hier_copy(v, CHOIR_LOCAL(.buf = CHOIR_TMP, .first = own),
                  i == v->local ? CHOIR_LOCAL(.buf = CHOIR_OUT)
                                : CHOIR_MESSAGE(r, .buf = CHOIR_IN, .first = r));
    }
}

/* --- all-to-all --------------------------------------------------------------------------------- */

/* In the carrier's TMP (hier_carried) lie, for each host whose blocks it carries, a block for each pair of ranks. */
/* Adds the blocks between this host and the ranks of those hosts that `column` carries: one per such rank. */
static void add_peers(struct hier *v, struct hier_blocks *l, uint32_t column)
{
    for (uint32_t h = 0; h < v->layout->hosts; h++)
        for (uint32_t i = 0; hier_carried(v, h, column) && i < hier_host_size(v, h); i++)
            hier_add(v, l, hier_member(v, h, i), hier_member(v, h, i));
    hier_end(v, l);
}

/* Of the carrier's TMP, one block for each rank of this host: what came from it, to go to the other hosts'
 * ranks in order; or, after the swap, what goes to it. */
static void add_local(struct hier *v, struct hier_blocks *l, bool swapped)
{
    for (uint32_t i = 0; i < v->size; i++) {
        uint32_t base = 0;
        for (uint32_t h = 0; h < v->layout->hosts; h++) {
            uint32_t there = hier_host_size(v, h);
            if (!hier_carried(v, h, v->local))
                continue;
            for (uint32_t k = 0; k < there; k++)
                hier_add(v, l, base + (swapped ? k * v->size + i : i * there + k),
                         hier_member(v, h, k));
            base += v->size * there;
        }
        hier_end(v, l);
    }
}

/* One block for each host: all that this rank carries for it. */
static void add_swapped(struct hier *v, struct hier_blocks *l)
{
    uint32_t base = 0;
    hier_start(l, CHOIR_TMP, CHOIR_OUT);
    for (uint32_t h = 0; h < v->layout->hosts; h++) {
        uint32_t pairs = hier_carried(v, h, v->local) ? v->size * hier_host_size(v, h) : 0;
        for (uint32_t i = 0; i < pairs; i++)
            hier_add(v, l, base + i, 0);
        hier_end(v, l);
        base += pairs;
    }
    v->tmp = base;
}

void hier_all_to_all(struct hier *v)
{
    bool carries = v->local < v->columns;
    add_swapped(v, &v->in); /* for v->tmp */
    hier_start(&v->in, CHOIR_IN, CHOIR_IN);
    hier_start(&v->out, CHOIR_OUT, CHOIR_OUT);
    for (uint32_t i = 0; i < v->size; i++) {
        hier_add_run(v, &v->in, hier_member(v, v->host, i), hier_member(v, v->host, i) + 1);
        hier_add_run(v, &v->out, hier_member(v, v->host, i), hier_member(v, v->host, i) + 1);
    }
    hier_inner(v, CHOIR_ALL_TO_ALL, 0);
    hier_start(&v->in, CHOIR_IN, CHOIR_IN);
    for (uint32_t i = 0; i < v->size; i++)
        add_peers(v, &v->in, i);
    hier_start(&v->out, CHOIR_TMP, CHOIR_OUT);
    add_local(v, &v->out, false);
    hier_inner(v, CHOIR_ALL_TO_ALL_V, 0);
    if (carries) {
        add_swapped(v, &v->in);
        add_swapped(v, &v->out);
        hier_outer(v, CHOIR_ALL_TO_ALL_V);
    }
    hier_start(&v->in, CHOIR_TMP, CHOIR_OUT);
    add_local(v, &v->in, true);
    hier_start(&v->out, CHOIR_OUT, CHOIR_OUT);
    for (uint32_t i = 0; i < v->size; i++)
        add_peers(v, &v->out, i);
    hier_inner(v, CHOIR_ALL_TO_ALL_V, 0);
}

/* --- all-to-all by columns ------------------------------------------------------------------------ */

/* For an INNER or OUTER that cannot do without blocks of one length, as those are that pass blocks on. Column c are the
 * ranks of local index c < columns; it takes what goes to ranks of local index c, c + columns ... of any host. First
 * each rank hands every column's rank of its host what that takes; then columns swap between hosts; then what arrived
 * for ranks that larger hosts have beyond their columns is handed on. Where hosts are of one size all blocks are alike
 * and nothing has to follow; else blocks are filled up to the widest, in TMP, where INNER or OUTER needs it. */

static uint32_t share(const struct hier *v, uint32_t host, uint32_t column)
{
    return column < v->columns ? (hier_host_size(v, host) - 1 - column) / v->columns + 1 : 0;
}

static uint32_t all_shares(const struct hier *v, uint32_t column)
{
    uint32_t n = 0;
    for (uint32_t h = 0; h < v->layout->hosts; h++)
        n += share(v, h, column);
    return n;
}

/* Ends a block after filling it up to `parts` parts by what lies at the beginning of its buffer; that is read only. */
static void end_filled(struct hier *v, struct hier_blocks *l, uint32_t parts)
{
    uint32_t begin = l->count ? l->begin[l->count] : 0;
    while (v->status == CHOIR_OK && l->parts - begin < parts)
        hier_add(v, l, 0, 0);
    hier_end(v, l);
}

/* A block of `n` parts of TMP. */
static void add_tmp(struct hier *v, struct hier_blocks *l, uint32_t from, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        hier_add(v, l, from + i, 0);
    hier_end(v, l);
}

/* To TMP: `stride` parts from each rank here. */
static void to_columns(struct hier *v, uint32_t stride)
{
    uint32_t filled = v->fills[0] ? stride : 0;
    hier_start(&v->in, CHOIR_IN, CHOIR_IN);
    hier_start(&v->out, CHOIR_TMP, CHOIR_OUT);
    for (uint32_t i = 0; i < v->size; i++) {
        for (uint32_t h = 0; h < v->layout->hosts && i < v->columns; h++)
            add_share(v, &v->in, h, i, NULL);
        end_filled(v, &v->in, filled);
        add_tmp(v, &v->out, i * stride, stride);
    }
    hier_inner(v, v->fills[0] ? CHOIR_ALL_TO_ALL : CHOIR_ALL_TO_ALL_V, 0);
}

/* Parts of what comes from a host; `filled` if all blocks are filled. */
static uint32_t width_from(const struct hier *v, uint32_t host, uint32_t filled)
{
    return filled ? filled : hier_host_size(v, host) * share(v, v->host, v->local);
}

/* Parts of the widest block between two hosts in this column, if blocks have to be filled up to that, else 0. */
static uint32_t width_filled(const struct hier *v)
{
    uint32_t most = 0;
    for (uint32_t h = 0; h < v->layout->hosts && v->fills[1]; h++)
        if (hier_host_size(v, h) > most)
            most = hier_host_size(v, h);
    return most && v->local < v->columns ? most * ((most - 1 - v->local) / v->columns + 1) : 0;
}

/* From there to the other hosts: to OUT where that holds all that comes, else to TMP from `base` on. */
static void between_columns(struct hier *v, uint32_t stride, uint32_t base, bool to_out)
{
    uint32_t first = 0, filled = width_filled(v);
    hier_start(&v->in, CHOIR_TMP, CHOIR_OUT);
    hier_start(&v->out, to_out ? CHOIR_OUT : CHOIR_TMP, CHOIR_OUT);
    for (uint32_t h = 0; h < v->layout->hosts; h++) {
        uint32_t there = share(v, h, v->local), wide = width_from(v, h, filled);
        for (uint32_t i = 0; i < v->size; i++)
            for (uint32_t x = 0; x < there; x++)
                hier_add(v, &v->in, i * stride + first + x, 0);
        end_filled(v, &v->in, filled);
        first += there;
        if (to_out) {
            for (uint32_t i = 0; i < hier_host_size(v, h); i++)
                hier_add(v, &v->out, hier_member(v, h, i), 0);
            hier_end(v, &v->out);
        } else {
            add_tmp(v, &v->out, base, wide);
            base += wide;
        }
    }
    hier_outer(v, v->fills[1] ? CHOIR_ALL_TO_ALL : CHOIR_ALL_TO_ALL_V);
}

/* All of OUT, host by host. */
static struct choir_place by_host(struct hier *v)
{
    uint32_t n = v->layout->ranks;
    return CHOIR_LOCAL(.buf = CHOIR_OUT, .list = 1, .run = n,
                       .first = choir_list(v->b, n, v->layout->member));
}

/* What arrived in TMP from `base` on, to this rank and to those beyond. */
static void hand_on(struct hier *v, uint32_t base)
{
    uint32_t mine = share(v, v->host, v->local), filled = width_filled(v);
    struct choir_place all = by_host(v);
    for (uint32_t x = 0; x < mine; x++) {
        uint32_t at = base;
        hier_start(&v->in, CHOIR_TMP, CHOIR_OUT);
        for (uint32_t h = 0; h < v->layout->hosts; h++) {
            for (uint32_t i = 0; i < hier_host_size(v, h); i++)
                hier_add(v, &v->in, at + i * mine + x, 0);
            at += width_from(v, h, filled);
        }
        if (v->status != CHOIR_OK)
            return;
        struct choir_place to = all;
        to.peer = x ? (int32_t)hier_member(v, v->host, v->local + x * v->columns) : -1;
        hier_copy(v,
                  CHOIR_LOCAL(.buf = CHOIR_TMP, .list = 1, .run = v->in.parts,
                              .first = choir_list(v->b, v->in.parts, v->in.part)),
                  to);
    }
}

void hier_all_to_all_by_column(struct hier *v)
{
    uint32_t stride = all_shares(v, v->fills[0] ? 0 : v->local), base = stride * v->size;
    uint32_t filled = width_filled(v);
    bool alike = v->columns * v->layout->hosts == v->shape->ranks;
    v->tmp = base;
    for (uint32_t h = 0; h < v->layout->hosts && !alike; h++)
        v->tmp += width_from(v, h, filled);
    to_columns(v, stride);
    if (v->local < v->columns) {
        between_columns(v, stride, base, alike);
        if (!alike && !v->survey)
            hand_on(v, base);
    } else if (!v->survey) {
        struct choir_place all = by_host(v), from = all;
        from.peer = (int32_t)hier_member(v, v->host, v->local % v->columns);
        hier_copy(v, from, all);
    }
}
