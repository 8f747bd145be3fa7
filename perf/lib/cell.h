/* SPDX-License-Identifier: Apache-2.0 */
/* cell.h: what the files that time and check one cell share: run.c, vs.c, check.c, cell.c. */
#ifndef PERF_CELL_H
#define PERF_CELL_H

#include "perf/lib/perf.h"

#define CELL_OURS (-1)
struct cell_run {
    struct perf_thread *thread;
    struct perf_counts counts;
    struct perf_cell *cell;
    bool in_place;
    uint32_t type_bytes;
    int mode; /* whose operations: CELL_OURS or a mode of the peer */
};

/* --- run.c ------------------------------------------------------------------------------------------- */
/* The call of the thread's i-th rank; its buffers move with the iteration. */
struct perf_call cell_call(const struct cell_run *c, int i, uint64_t iteration);
void *const *cell_buffers(const struct cell_run *c, int i); /* what is sent, what is received */
/* One operation on all ranks of the thread, and waiting for those that are under way. */
void cell_start(const struct cell_run *c, uint64_t iteration);
void cell_wait(const struct cell_run *c);
/* -G: makes the graphs of the iterations; frees them. */
void cell_capture(const struct cell_run *c);
void cell_discard(const struct cell_run *c);
void cell_once(const struct cell_run
                   *c); /* the operation of iteration 0, in a graph if asked for, and waits */
/* Seconds of a loop that is not timed, for warming up. */
double cell_warm(const struct cell_run *c, int iters);
/* Seconds an operation takes, as -a says of the ranks. stamp: takes the time of each iteration, too. */
double cell_time(const struct cell_run *c, bool stamp);
void cell_stamp(const struct cell_run *c); /* only that */
/* Of the slowest rank of each iteration. */
void cell_percentiles(const struct cell_run *c, struct perf_stats *s);
int cell_compare_double(const void *a, const void *b);

/* --- vs.c, check.c -------------------------------------------------------------------------------------- */
bool cell_has_peer(const struct cell_run *c);
/* Our time and that of every mode of the peer, by turns; medians. */
void cell_alternate(const struct cell_run *c, bool stamp, struct perf_stats *s);
void cell_check(const struct cell_run *c, struct perf_stats *s);
/* Wrong elements of one checked run, over all ranks. */
uint64_t cell_check_once(const struct cell_run *c, uint64_t seed);

#endif
