/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hierarchical_blocks.c: hierarchical collectives on one block per rank: all-gather, reduce-scatter,
 * all-to-all. Every block crosses between two hosts once; the first `columns` ranks of each host share that
 * work, and what one of them has for another host goes in one message.
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

static void copy(struct hier *v, struct choir_place in, struct choir_place out)
{
    if (!v->survey)
        CHOIR_STEP(v->b, CHOIR_PLACES(in), CHOIR_PLACES(out));
}

void hier_all_gather(struct hier *v)
{
    uint32_t me = hier_member(v, v->host, v->local), none = 0;
    bool carries = v->local < v->columns;
    copy(v, CHOIR_LOCAL(.buf = CHOIR_IN), CHOIR_LOCAL(.buf = CHOIR_OUT, .first = me));
    if (!carries)
        copy(v, CHOIR_LOCAL(.buf = CHOIR_IN),
             CHOIR_MESSAGE(hier_member(v, v->host, v->local % v->columns), .buf = CHOIR_IN));
    for (uint32_t i = v->local + v->columns; carries && i < v->size; i += v->columns) {
        uint32_t r = hier_member(v, v->host, i);
        copy(v, CHOIR_MESSAGE(r, .buf = CHOIR_OUT, .first = r),
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
        copy(v, CHOIR_MESSAGE(hier_member(v, v->host, v->local % v->columns), .buf = CHOIR_OUT),
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
        copy(v, CHOIR_LOCAL(.buf = CHOIR_TMP, .first = own),
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
