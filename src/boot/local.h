/* SPDX-License-Identifier: Apache-2.0 */
/* local.h: running the ranks of a job as processes of this host: choir-run, and `--local N` of programs. */
#ifndef BOOT_LOCAL_H
#define BOOT_LOCAL_H

#include <stdbool.h>

struct local_job {
    int ranks;
    int hosts;  /* > 1: that many groups of ranks, each with a CHOIR_HOST_ID of its own */
    bool label; /* lines of output begin with "[rank] " */
    bool bind;  /* rank r runs on the r-th of the cores this process may use, modulo their number */
    char *const *argv; /* what to execute; NULL: the child returns from local_run */
    const char *name;  /* of the program, for its own messages */
};
/*
 * Starts the ranks with CHOIR_RENDEZVOUS, CHOIR_RANK, CHOIR_SIZE, CHOIR_LOCAL_RANK and CHOIR_LOCAL_SIZE set, and waits for
 * them. The first rank that fails is named on stderr and the others are ended: SIGTERM, and SIGKILL two seconds later.
 * Signals sent to this process are passed on. Ranks die with it. To be called before any thread exists.
 * Returns in the parent, with *rank -1: the exit status for the job, that of the first rank that failed (128 + signal).
 * With argv NULL returns in each rank too, with its rank in *rank.
 */
int local_run(const struct local_job *job, int *rank);

#endif
