/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vs.c: --vs: the peer's modes and we by turns, in the same processes, on the same cell.
 */
#include "perf/lib/cell.h"
#include <stdlib.h>
#include <string.h>

#define CHECK_BYTES (4u << 20) /* a call that is right up to here is the right one */

bool cell_has_peer(const struct cell_run *c)
{
    const struct perf_job *job = c->thread->job;
    return job->peer && job->peer->supports(job->coll, c->cell->type, c->cell->op, c->in_place);
}

/* Connects, checks and warms up a mode. false: its results are not those it should have. */
static bool ready(const struct cell_run *c)
{
    const struct perf_job *job = c->thread->job;
    const struct perf_args *a = job->args;
    cell_start(c, 0);
    cell_wait(c);
    uint64_t wrong = job->peer->checked && a->check && c->cell->bytes <= CHECK_BYTES
                         ? cell_check_once(c, c->counts.param * 31 + 7)
                         : 0;
    if (wrong && c->thread->prints)
        fprintf(stderr, "# %s, %s, %s place: %llu wrong elements in %llu bytes; left out\n",
                job->peer->name, job->peer->mode[c->mode], c->in_place ? "in" : "out of",
                (unsigned long long)wrong, (unsigned long long)c->cell->bytes);
    if (wrong)
        return false;
    if (a->graphs)
        cell_capture(c);
    cell_warm(c, a->iters);
    return true;
}

static double median(double *v, int n, double quartile[2])
{
    qsort(v, (size_t)n, sizeof(*v), cell_compare_double);
    quartile[0] = v[n / 4];
    quartile[1] = v[n - 1 - n / 4];
    return v[n / 2];
}

void cell_alternate(const struct cell_run *c, bool stamp, struct perf_stats *s)
{
    const struct perf_job *job = c->thread->job;
    int rounds = job->args->rounds, n = 0;
    double time[1 + PERF_PEER_MODES][rounds]; /* ours first */
    struct cell_run subject[1 + PERF_PEER_MODES];
    subject[n++] = *c;
    for (int m = 0; m < job->peer->modes; m++) {
        subject[n] = *c;
        subject[n].mode = m;
        n += !job->peer->missing[m] && ready(&subject[n]);
    }
    for (int r = 0; r < rounds; r++)
        for (int k = 0; k < n; k++) { /* the order is turned round every time */
            int i = r & 1 ? n - 1 - k : k;
            time[i][r] = cell_time(&subject[i], stamp && !i);
        }
    s->time_s = median(time[0], rounds, s->quartile_s);
    for (int i = 1; i < n; i++) {
        double quartile[2], t = median(time[i], rounds, quartile);
        s->mode_s[subject[i].mode] = t;
        if (s->peer_s <= 0 || t < s->peer_s) {
            s->peer_s = t;
            s->peer_mode = subject[i].mode;
            memcpy(s->peer_quartile_s, quartile, sizeof(quartile));
        }
        cell_discard(&subject[i]);
    }
    s->ratio = s->peer_s > 0 ? s->time_s / s->peer_s : 0;
}
