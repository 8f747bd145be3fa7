/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choir_mpi.h: a Choir communicator for the processes of an MPI communicator.
 *
 * Header only, so that libchoir links no MPI and works with any: include it in a program that is compiled with
 * mpicc. Everything else about the communicator is in choir.h.
 */
#ifndef CHOIR_MPI_H
#define CHOIR_MPI_H

#include "choir.h"
#include <mpi.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Makes a communicator whose ranks are those of an MPI communicator, in the same order.
 * mpi: an intracommunicator of N processes, all of which call. Used during the call only; it may be freed
 *   afterwards. config: as for choir_comm_create; NULL: all defaults.
 * comm: receives the communicator, on CHOIR_OK and CHOIR_IN_PROGRESS only. It outlives MPI_Finalize.
 * Ordering: collective over mpi, between MPI_Init and MPI_Finalize, in order with other collectives on mpi.
 *   Threads: one, as MPI_Init_thread provided.
 * Errors: of choir_id_create on rank 0, returned on all ranks; of choir_comm_create; CHOIR_ERR_ARGUMENT mpi is
 *   MPI_COMM_NULL or an intercommunicator; CHOIR_ERR_SYSTEM an MPI call failed and its handler returned. If
 *   one rank fails, all do: the others take back what they made and return that rank's status. The
 *   record is on the rank that found the error.
 * Cost: a broadcast of 132 bytes and an all-reduce of one int over MPI, and choir_comm_create. The broadcast
 *   carries the communicator's secret, as private as MPI's traffic. Source: ncclCommInitRank. Since: 0.1.
 */
static inline enum choir_status choir_comm_create_mpi(MPI_Comm mpi,
                                                      const struct choir_config *config,
                                                      choir_comm **comm)
{
    struct {
        int status;
        struct choir_id id;
    } made;
    choir_comm *mine = NULL;
    int rank = 0, size = 0, inter = 0, status, worst;
    memset(&made, 0, sizeof(made));
    if (mpi == MPI_COMM_NULL || MPI_Comm_test_inter(mpi, &inter) != MPI_SUCCESS || inter)
        return CHOIR_ERR_ARGUMENT;
    if (MPI_Comm_rank(mpi, &rank) != MPI_SUCCESS || MPI_Comm_size(mpi, &size) != MPI_SUCCESS)
        return CHOIR_ERR_SYSTEM;
    if (rank == 0)
        made.status = choir_id_create(&made.id);
    /* A rank 0 without an id says so, or the others would wait for it. */
    if (MPI_Bcast(&made, (int)sizeof(made), MPI_BYTE, 0, mpi) != MPI_SUCCESS)
        return CHOIR_ERR_SYSTEM;
    if (made.status != CHOIR_OK)
        return (enum choir_status)made.status;
    status = choir_comm_create(&made.id, rank, size, config, &mine);
    memset(&made, 0, sizeof(made));
    if (!comm && status >= 0)
        status = CHOIR_ERR_POINTER;
    if (MPI_Allreduce(&status, &worst, 1, MPI_INT, MPI_MIN, mpi) != MPI_SUCCESS)
        worst = CHOIR_ERR_SYSTEM;
    if (worst < 0) {
        if (mine) {
            choir_comm_abort(mine);
            choir_comm_destroy(mine);
        }
        return (enum choir_status)(status < 0 ? status : worst);
    }
    *comm = mine;
    return (enum choir_status)status;
}

#ifdef __cplusplus
}
#endif
#endif
