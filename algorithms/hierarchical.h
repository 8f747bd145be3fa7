/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hierarchical.h: what the files of hierarchical(INNER,OUTER) share: a rank's view of the hosts, lists of
 * blocks, and phases, each a collective inside a host or between hosts. A file of a collective only says
 * which phases, on what.
 */
#ifndef ALGORITHMS_HIERARCHICAL_H
#define ALGORITHMS_HIERARCHICAL_H

#include "algorithms/common.h"

/* Blocks of parts, one after another, and where they lie: what struct choir_map points to. */
struct hier_blocks {
    uint8_t buf, measure_buf;
    uint32_t *part, *measure, *begin;
    uint32_t parts, count, room, begins;
};

/* What an algorithm does of an all-reduce: all of it, a reduce-scatter and an all-gather, or a reduction and a
 * broadcast. */
enum hier_way { HIER_NONE, HIER_WHOLE, HIER_BLOCKS, HIER_ROOTED };

/* The plan as seen from `rank`, while it is surveyed for other ranks or written for this one. */
struct hier {
    const struct choir_shape *shape;
    const struct choir_layout *layout;
    struct choir_builder *b;
    char inner[128], outer[128];
    uint32_t host, local, size; /* of the present rank; ranks of its host */
    uint32_t largest, most;     /* the largest host, and its size */
    uint32_t columns;     /* the smallest host's size: so many ranks of each host talk to others */
    uint32_t units, fine; /* a vector is `units` units of `fine` parts each */
    uint32_t tmp;         /* parts of TMP of its own, from 0 on */
    bool fills[2];        /* all-to-all: INNER, OUTER only do it with blocks of one length */
    enum hier_way way;    /* of OUTER: how it does an all-reduce */
    uint32_t *group;      /* scratch, [ranks] */
    struct hier_blocks in, out; /* scratch */
    bool survey;
    struct choir_needs needs; /* the most of all surveyed */
    enum choir_status status;
};

uint32_t hier_host_size(const struct hier *v, uint32_t host);
uint32_t hier_member(const struct hier *v, uint32_t host, uint32_t local);
/* Begins a list of blocks in `buf`; adds a part; ends the present block; adds a block of the parts [from,
 * to). */
void hier_start(struct hier_blocks *l, uint8_t buf, uint8_t measure_buf);
void hier_add(struct hier *v, struct hier_blocks *l, uint32_t part, uint32_t measure);
void hier_end(struct hier *v, struct hier_blocks *l);
void hier_add_run(struct hier *v, struct hier_blocks *l, uint32_t from, uint32_t to);
/* A step of one source and one destination; nothing while surveyed. */
void hier_copy(struct hier *v, struct choir_place in, struct choir_place out);

/* A collective from v->in to v->out by `algorithm` among the n ranks in v->group, or notes what that would
 * need. The v-form stands in where blocks differ. */
void hier_phase(struct hier *v, const char *algorithm, enum choir_kind kind, uint32_t n,
                uint32_t root);
/* The same among the ranks of this host; among the ranks with this one's local index on all hosts; among
 * leaders. hier_set_column and hier_set_leaders only set v->group to these. */
void hier_inner(struct hier *v, enum choir_kind kind, uint32_t root);
void hier_outer(struct hier *v, enum choir_kind kind);
void hier_among_leaders(struct hier *v, enum choir_kind kind);
void hier_set_column(struct hier *v);
void hier_set_leaders(struct hier *v);
/* Local index of the rank that stands for a host in rooted phases: the root on its host. */
uint32_t hier_leader(const struct hier *v, uint32_t host);

/* All-to-all: column (a + b) mod columns carries what hosts a and b have for each other, in one message each way.
 * Whether `column` carries between this rank's host and `host`. */
bool hier_carried(const struct hier *v, uint32_t host, uint32_t column);

/* The collectives: hierarchical_vector.c, hierarchical_blocks.c, hierarchical_counts.c. */
void hier_all_reduce(struct hier *v);
void hier_all_reduce_by_leaders(struct hier *v);
void hier_all_reduce_by_all(struct hier *v);
void hier_broadcast(struct hier *v);
void hier_reduce(struct hier *v);
void hier_barrier(struct hier *v);
void hier_all_gather(struct hier *v);
void hier_reduce_scatter(struct hier *v);
void hier_all_to_all(struct hier *v);
void hier_all_to_all_by_column(struct hier *v);
void hier_all_to_all_v(struct hier *v);
void hier_rooted_v(struct hier *v); /* gather_v, scatter_v */

#endif
