/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c: from the command line to the exit status.
 */
#include "perf/lib/gpu.h"
#include "boot/boot.h"
#include <string.h>

static bool usable(const struct perf_args *a, const struct perf_coll *coll)
{
    if (!coll->grouped && (a->per_thread > 1 || a->aggregate > 1 || !a->stream_null || a->cuda)) {
        fprintf(stderr,
                "%s: its steps depend on each other and on copies between them: -t instead "
                "of -g, no -m, no -y 0, no --memory cuda\n",
                coll->name);
        return false;
    }
    if (coll->reduces && a->op != PERF_ALL && a->type != PERF_ALL &&
        !perf_op_defined(a->op, a->type)) {
        fprintf(stderr, "--op (-o) %s is not defined for %s\n", perf_op_name(a->op),
                perf_type_name(a->type));
        return false;
    }
    return true;
}

int perf_main(int argc, char **argv, const struct perf_coll *coll)
{
    struct perf_args args;
    int status = perf_args_parse(&args, argc, argv);
    if (status)
        return status - 1;
    if (!usable(&args, coll))
        return 2;
    struct perf_job job = {.args = &args, .coll = coll, .procs = 1};
    if (args.vs)
        job.peer = strcmp(args.vs, "mpi") ? perf_peer_nccl() : perf_peer_mpi();
    if (job.peer && !job.peer->init(&args, &job.proc, &job.procs))
        return 2;
    if (args.cuda && !(job.gpu = perf_gpu_find(args.program)))
        return 2;
    if (args.local)
        boot_local_fork(args.local); /* returns in the ranks */
    status = perf_job_run(&job, perf_sweep);
    if (job.peer && job.peer->end)
        job.peer->end();
    return status ? status : job.wrong ? 1 : job.status;
}
