/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sweep.c: which cells a run has: types, operations, roots and sizes, in nccl-tests' order.
 */
#include "perf/lib/perf.h"

/* The k-th size, or false past the last. */
static bool size_at(const struct perf_args *a, uint64_t k, uint64_t *bytes)
{
    uint64_t b = a->min_bytes;
    for (uint64_t i = 0; i < k && b <= a->max_bytes; i++) {
        uint64_t next = a->factor > 1 ? b * a->factor : b + a->step_bytes;
        b = a->factor > 1 && b == 0 ? 1 : next; /* a sweep by factors may begin at 0 */
        if (next < b)
            return false;
    }
    *bytes = b;
    return b <= a->max_bytes;
}

struct sweep {
    uint64_t sizes;
    uint32_t type, types, op, ops; /* indices; how many */
    int root, roots;
};

static struct sweep sweep_of(const struct perf_job *job)
{
    const struct perf_args *a = job->args;
    struct sweep s = {0};
    for (uint64_t b; size_at(a, s.sizes, &b) && (s.sizes == 0 || a->min_bytes != a->max_bytes);)
        s.sizes++;
    s.types = a->type == PERF_ALL ? (uint32_t)perf_type_count : 1;
    s.ops = a->op == PERF_ALL && job->coll->reduces ? (uint32_t)perf_op_count : 1;
    s.roots = !job->coll->rooted ? 1 : a->root < 0 ? (int)job->ranks : 1;
    return s;
}

/* false: this combination does not exist. */
static bool cell_of(const struct perf_job *job, uint32_t type, uint32_t op, int root,
                    struct perf_cell *cell)
{
    const struct perf_args *a = job->args;
    *cell = (struct perf_cell){.op = PERF_NO_OP, .root = -1};
    cell->type = a->type == PERF_ALL ? perf_types[type] : a->type;
    if (job->coll->reduces)
        cell->op = a->op == PERF_ALL ? perf_ops[op] : a->op;
    if (job->coll->rooted)
        cell->root = a->root < 0 ? root : a->root;
    return !job->coll->reduces || perf_op_defined(cell->op, cell->type);
}

static void run_sizes(struct perf_thread *t, const struct perf_cell *what, uint64_t sizes,
                      struct perf_report *report)
{
    for (uint64_t k = 0; k < sizes; k++) {
        struct perf_cell cell = *what;
        size_at(t->job->args, k, &cell.bytes);
        perf_cell_run(t, &cell, report);
    }
}

void perf_sweep(struct perf_thread *t)
{
    struct perf_job *job = t->job;
    const struct perf_args *a = job->args;
    struct sweep s = sweep_of(job);
    struct perf_cell cell;
    struct perf_report *report =
        t->prints ? perf_report_open(job, s.sizes * s.types * s.ops * (uint64_t)s.roots) : NULL;
    for (int cycle = 0; a->cycles == 0 || cycle < a->cycles; cycle++)
        for (uint32_t type = 0; type < s.types; type++)
            for (uint32_t op = 0; op < s.ops; op++)
                for (int root = 0; root < s.roots; root++) {
                    if (cell_of(job, type, op, root, &cell))
                        run_sizes(t, &cell, s.sizes, report);
                    else if (report)
                        perf_report_note(report, "%s is not defined for %s: skipped",
                                         perf_op_name(cell.op), perf_type_name(cell.type));
                }
    struct choir_memory memory = {.bytes = sizeof(memory)};
    choir_comm_memory(t->rank[0].call.comm, &memory);
    if (report)
        job->status = perf_report_close(report, &memory);
}
