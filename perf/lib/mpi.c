/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mpi.c: the peer of --vs mpi: the same operations by the MPI library this program is linked with. Built into the
 * _mpi variants only (make perf-mpi); elsewhere there is no peer. The library choir never links MPI.
 */
#include "perf/lib/perf.h"

#ifndef PERF_MPI
struct perf_peer *perf_peer_mpi(void)
{
    return NULL;
}
#else
#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

static MPI_Datatype type_of(uint32_t type)
{
    switch (type) {
    case CHOIR_INT8:
        return MPI_INT8_T;
    case CHOIR_UINT8:
        return MPI_UINT8_T;
    case CHOIR_INT16:
        return MPI_INT16_T;
    case CHOIR_UINT16:
        return MPI_UINT16_T;
    case CHOIR_INT32:
        return MPI_INT32_T;
    case CHOIR_UINT32:
        return MPI_UINT32_T;
    case CHOIR_INT64:
        return MPI_INT64_T;
    case CHOIR_UINT64:
        return MPI_UINT64_T;
    case CHOIR_FLOAT32:
        return MPI_FLOAT;
    case CHOIR_FLOAT64:
        return MPI_DOUBLE;
    default:
        return MPI_DATATYPE_NULL;
    }
}

static MPI_Op op_of(uint32_t op)
{
    switch (op) {
    case CHOIR_SUM:
        return MPI_SUM;
    case CHOIR_PROD:
        return MPI_PROD;
    case CHOIR_MIN:
        return MPI_MIN;
    case CHOIR_MAX:
        return MPI_MAX;
    case CHOIR_BAND:
        return MPI_BAND;
    case CHOIR_BOR:
        return MPI_BOR;
    case CHOIR_BXOR:
        return MPI_BXOR;
    case CHOIR_LAND:
        return MPI_LAND;
    case CHOIR_LOR:
        return MPI_LOR;
    case CHOIR_LXOR:
        return MPI_LXOR;
    default:
        return MPI_OP_NULL;
    }
}

static bool init(const struct perf_args *args, uint32_t *rank, uint32_t *size)
{
    int given, r, n, argc = args->argc;
    char **argv = args->argv;
    if (MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &given)) {
        fprintf(stderr, "%s: the MPI library did not start; run under its mpirun\n", args->program);
        return false;
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &r);
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    *rank = (uint32_t)r;
    *size = (uint32_t)n;
    return true;
}

static void share(void *data, int bytes)
{
    MPI_Bcast(data, bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
}

static void barrier(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
}

static void end(void)
{
    MPI_Finalize();
}

static bool supports(const struct perf_coll *coll, uint32_t type, uint32_t op, bool in_place)
{
    (void)in_place;
    if (coll->kind ==
        PERF_HYPERCUBE) /* Choir's sends and receives by hand: MPI has no call for it */
        return false;
    return !coll->reduces || (type_of(type) != MPI_DATATYPE_NULL && op_of(op) != MPI_OP_NULL);
}

static void run_rooted(const struct perf_coll *coll, const struct perf_call *c, int n,
                       MPI_Datatype type)
{
    bool root = c->rank == (uint32_t)c->root, here = c->in_place && root;
    const void *send = here ? MPI_IN_PLACE : c->send;
    switch (coll->kind) {
    case PERF_BROADCAST: /* MPI has one buffer */
        MPI_Bcast(root ? (void *)(uintptr_t)c->send : c->recv, n, type, c->root, MPI_COMM_WORLD);
        break;
    case PERF_REDUCE:
        MPI_Reduce(send, c->recv, n, type, op_of(c->op_id), c->root, MPI_COMM_WORLD);
        break;
    case PERF_GATHER:
        MPI_Gather(send, n, type, c->recv, n, type, c->root, MPI_COMM_WORLD);
        break;
    default:
        MPI_Scatter(c->send, n, type, here ? MPI_IN_PLACE : c->recv, n, type, c->root,
                    MPI_COMM_WORLD);
    }
}

static void run_pairs(const struct perf_coll *coll, const struct perf_call *c, MPI_Datatype type,
                      int width)
{
    int list[4][c->ranks], sent = 0, received = 0; /* counts and places, out and in */
    for (uint32_t r = 0; r < c->ranks; r++) {
        list[0][r] = (int)coll->pair(c, c->rank, r) * width;
        list[1][r] = sent;
        list[2][r] = (int)coll->pair(c, r, c->rank) * width;
        list[3][r] = received;
        sent += list[0][r];
        received += list[2][r];
    }
    MPI_Alltoallv(c->send, list[0], list[1], type, c->recv, list[2], list[3], type, MPI_COMM_WORLD);
}

static void run(const struct perf_coll *coll, const struct perf_call *c, void *rank, int mode)
{
    (void)rank, (void)mode;
    MPI_Datatype type = type_of(c->type);
    int width = 1;
    if (type == MPI_DATATYPE_NULL) { /* moved, not combined */
        type = MPI_BYTE;
        width = (int)choir_type_bytes(c->type);
    }
    uint64_t count = c->count * (uint64_t)width;
    choir_assert(count <= INT_MAX);
    int n = (int)count, next = (int)((c->rank + 1) % c->ranks),
        last = (int)((c->rank + c->ranks - 1) % c->ranks);
    const void *send = c->in_place ? MPI_IN_PLACE : c->send;
    switch (coll->kind) {
    case PERF_ALL_REDUCE:
        MPI_Allreduce(send, c->recv, n, type, op_of(c->op_id), MPI_COMM_WORLD);
        break;
    case PERF_ALL_GATHER:
        MPI_Allgather(send, n, type, c->recv, n, type, MPI_COMM_WORLD);
        break;
    case PERF_REDUCE_SCATTER: /* in place MPI leaves the result at the start of the input */
        MPI_Reduce_scatter_block(send, c->in_place ? (void *)(uintptr_t)c->send : c->recv, n, type,
                                 op_of(c->op_id), MPI_COMM_WORLD);
        break;
    case PERF_ALL_TO_ALL:
        MPI_Alltoall(send, n, type, c->recv, n, type, MPI_COMM_WORLD);
        break;
    case PERF_ALL_TO_ALL_V:
        run_pairs(coll, c, type, width);
        break;
    case PERF_SEND_RECV:
        MPI_Sendrecv(c->send, n, type, next, 0, c->recv, n, type, last, 0, MPI_COMM_WORLD,
                     MPI_STATUS_IGNORE);
        break;
    default:
        run_rooted(coll, c, n, type);
    }
}

static struct perf_peer peer = {.name = "mpi",
                                .modes = 1,
                                .mode = {"mpi"},
                                .init = init,
                                .share = share,
                                .supports = supports,
                                .run = run,
                                .barrier = barrier,
                                .end = end};

struct perf_peer *perf_peer_mpi(void)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int n;
    if (!peer.version[0] && MPI_Get_library_version(text, &n) == MPI_SUCCESS) {
        text[strcspn(text, ",\n")] = 0;
        for (char *c = text; *c; c++)
            *c = *c == '\t' ? ' ' : *c;
        snprintf(peer.version, sizeof(peer.version), "%.60s", text);
    }
    return &peer;
}
#endif
