/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local.c: --local N.
 */
#include "perf/lib/perf.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

bool perf_local(const struct perf_args *args, int *status)
{
    char dir[64], text[64];
    snprintf(dir, sizeof(dir), "file:/tmp/choir-perf-%d", (int)getpid());
    setenv("CHOIR_RENDEZVOUS", dir, 1);
    snprintf(text, sizeof(text), "%d", args->local);
    setenv("CHOIR_SIZE", text, 1);
    for (int i = 0; i < args->local; i++) {
        if (fork())
            continue;
        snprintf(text, sizeof(text), "%d", i);
        setenv("CHOIR_RANK", text, 1);
        return true;
    }
    *status = 0;
    for (int i = 0; i < args->local; i++) {
        int st;
        wait(&st);
        if (st && !*status)
            *status = WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
    }
    unlink(dir + 5);
    return false;
}
