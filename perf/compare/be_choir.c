/* SPDX-License-Identifier: Apache-2.0 */
/* be_choir.c: this library, by its public API. Ranks come from the launcher, as for any user. */
#include "perf/compare/backend.h"
#include "choir.h"
#include <stdio.h>
#include <stdlib.h>

static choir_comm *comm;
static int own, ranks;

static void check(enum choir_status status, const char *call)
{
    if (status == CHOIR_OK)
        return;
    struct choir_error e = {.bytes = sizeof(e)};
    choir_comm_last_error(comm, &e);
    fprintf(stderr, "%s: %s: %s (%s)\n", call, choir_status_name(status), e.text, e.remedy);
    exit(3);
}

const char *backend_name(void)
{
    return "choir";
}

void backend_open(int *argc, char ***argv, int *rank, int *size)
{
    (void)argc, (void)argv;
    check(choir_comm_create_auto(NULL, &comm), "choir_comm_create_auto");
    check(choir_comm_rank(comm, rank), "choir_comm_rank");
    check(choir_comm_size(comm, size), "choir_comm_size");
    own = *rank;
    ranks = *size;
}

void backend_close(void)
{
    check(choir_comm_destroy(comm), "choir_comm_destroy");
}

void backend_barrier(void)
{
    check(choir_barrier(comm, NULL), "choir_barrier");
}

void backend_max(double *values, int count)
{
    check(choir_all_reduce(comm, values, values, (uint64_t)count, CHOIR_FLOAT64, CHOIR_MAX, NULL),
          "choir_all_reduce");
}

bool backend_supports(enum collective c, bool in_place)
{
    (void)c, (void)in_place;
    return true;
}

bool backend_scatters_to_own_block(void)
{
    return true;
}

void backend_run(enum collective c, const float *in, float *out, size_t block)
{
    size_t offset = (size_t)own * block;
    switch (c) {
    case ALL_REDUCE:
        check(choir_all_reduce(comm, in ? in : out, out, block * (size_t)ranks, CHOIR_FLOAT32,
                               CHOIR_SUM, NULL),
              "choir_all_reduce");
        break;
    case ALL_GATHER:
        check(choir_all_gather(comm, in ? in : out + offset, out, block, CHOIR_FLOAT32, NULL),
              "choir_all_gather");
        break;
    case REDUCE_SCATTER:
        check(choir_reduce_scatter(comm, in ? in : out, in ? out : out + offset, block,
                                   CHOIR_FLOAT32, CHOIR_SUM, NULL),
              "choir_reduce_scatter");
        break;
    default:
        check(choir_all_to_all(comm, in ? in : out, out, block, CHOIR_FLOAT32, NULL),
              "choir_all_to_all");
    }
}
