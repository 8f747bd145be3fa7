/* SPDX-License-Identifier: Apache-2.0 */
/* be_mpi.c: whichever MPI library its compiler wrapper brings. */
#include "perf/compare/backend.h"
#include <mpi.h>

static int ranks;

const char *backend_name(void)
{
    return "mpi";
}

void backend_open(int *argc, char ***argv, int *rank, int *size)
{
    MPI_Init(argc, argv); /* errors end the job: MPI's default */
    MPI_Comm_rank(MPI_COMM_WORLD, rank);
    MPI_Comm_size(MPI_COMM_WORLD, size);
    ranks = *size;
}

void backend_close(void)
{
    MPI_Finalize();
}

void backend_barrier(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
}

void backend_max(double *values, int count)
{
    MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
}

bool backend_supports(enum collective c, bool in_place)
{
    (void)c, (void)in_place;
    return true;
}

bool backend_scatters_to_own_block(void)
{
    return false;
}

void backend_run(enum collective c, const float *in, float *out, size_t block)
{
    const void *send = in ? (const void *)in : MPI_IN_PLACE;
    int n = (int)block;
    switch (c) {
    case ALL_REDUCE:
        MPI_Allreduce(send, out, n * ranks, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        break;
    case ALL_GATHER:
        MPI_Allgather(send, n, MPI_FLOAT, out, n, MPI_FLOAT, MPI_COMM_WORLD);
        break;
    case REDUCE_SCATTER:
        MPI_Reduce_scatter_block(send, out, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        break;
    default:
        MPI_Alltoall(send, n, MPI_FLOAT, out, n, MPI_FLOAT, MPI_COMM_WORLD);
    }
}
