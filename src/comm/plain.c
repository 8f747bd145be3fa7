/* SPDX-License-Identifier: Apache-2.0 */
/* plain.c: the plain forms of the collectives: their _x forms without a struct choir_call. */
#include "choir.h"

enum choir_status choir_all_reduce(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                   enum choir_type type, choir_op op, choir_stream *stream)
{
    return choir_all_reduce_x(comm, send, recv, count, type, op, stream, NULL);
}

enum choir_status choir_reduce(choir_comm *comm, const void *send, void *recv, uint64_t count,
                               enum choir_type type, choir_op op, int root, choir_stream *stream)
{
    return choir_reduce_x(comm, send, recv, count, type, op, root, stream, NULL);
}

enum choir_status choir_broadcast(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                  enum choir_type type, int root, choir_stream *stream)
{
    return choir_broadcast_x(comm, send, recv, count, type, root, stream, NULL);
}

enum choir_status choir_all_gather(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                   enum choir_type type, choir_stream *stream)
{
    return choir_all_gather_x(comm, send, recv, count, type, stream, NULL);
}

enum choir_status choir_reduce_scatter(choir_comm *comm, const void *send, void *recv,
                                       uint64_t count, enum choir_type type, choir_op op,
                                       choir_stream *stream)
{
    return choir_reduce_scatter_x(comm, send, recv, count, type, op, stream, NULL);
}

enum choir_status choir_all_to_all(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                   enum choir_type type, choir_stream *stream)
{
    return choir_all_to_all_x(comm, send, recv, count, type, stream, NULL);
}

enum choir_status choir_gather(choir_comm *comm, const void *send, void *recv, uint64_t count,
                               enum choir_type type, int root, choir_stream *stream)
{
    return choir_gather_x(comm, send, recv, count, type, root, stream, NULL);
}

enum choir_status choir_scatter(choir_comm *comm, const void *send, void *recv, uint64_t count,
                                enum choir_type type, int root, choir_stream *stream)
{
    return choir_scatter_x(comm, send, recv, count, type, root, stream, NULL);
}

enum choir_status choir_barrier(choir_comm *comm, choir_stream *stream)
{
    return choir_barrier_x(comm, stream, NULL);
}

enum choir_status choir_send(choir_comm *comm, const void *send, uint64_t count,
                             enum choir_type type, int peer, choir_stream *stream)
{
    return choir_send_x(comm, send, count, type, peer, stream, NULL);
}

enum choir_status choir_recv(choir_comm *comm, void *recv, uint64_t count, enum choir_type type,
                             int peer, choir_stream *stream)
{
    return choir_recv_x(comm, recv, count, type, peer, stream, NULL);
}

enum choir_status choir_all_gather_v(choir_comm *comm, const void *send, void *recv,
                                     const uint64_t *counts, const uint64_t *offsets,
                                     enum choir_type type, choir_stream *stream)
{
    return choir_all_gather_v_x(comm, send, recv, counts, offsets, type, stream, NULL);
}

enum choir_status choir_reduce_scatter_v(choir_comm *comm, const void *send, void *recv,
                                         const uint64_t *counts, const uint64_t *offsets,
                                         enum choir_type type, choir_op op, choir_stream *stream)
{
    return choir_reduce_scatter_v_x(comm, send, recv, counts, offsets, type, op, stream, NULL);
}

enum choir_status choir_all_to_all_v(choir_comm *comm, const void *send,
                                     const uint64_t *send_counts, const uint64_t *send_offsets,
                                     void *recv, const uint64_t *recv_counts,
                                     const uint64_t *recv_offsets, enum choir_type type,
                                     choir_stream *stream)
{
    return choir_all_to_all_v_x(comm, send, send_counts, send_offsets, recv, recv_counts,
                                recv_offsets, type, stream, NULL);
}

enum choir_status choir_gather_v(choir_comm *comm, const void *send, uint64_t send_count,
                                 void *recv, const uint64_t *counts, const uint64_t *offsets,
                                 enum choir_type type, int root, choir_stream *stream)
{
    return choir_gather_v_x(comm, send, send_count, recv, counts, offsets, type, root, stream,
                            NULL);
}

enum choir_status choir_scatter_v(choir_comm *comm, const void *send, const uint64_t *counts,
                                  const uint64_t *offsets, void *recv, uint64_t recv_count,
                                  enum choir_type type, int root, choir_stream *stream)
{
    return choir_scatter_v_x(comm, send, counts, offsets, recv, recv_count, type, root, stream,
                             NULL);
}
