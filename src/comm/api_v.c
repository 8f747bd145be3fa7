/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api_v.c: the entry points of the collectives whose counts differ by rank. Their lists are checked here, the rest as for all
 * collectives (api.c).
 */
#include "comm/comm.h"
#include <stdlib.h>

/* What the lists of a call are called. */
struct names {
    const char *counts, *offsets;
};

static enum choir_status check_lists(struct choir_comm *c, const uint64_t *counts,
                                     const uint64_t *offsets, struct names name)
{
    enum choir_status st = comm_check(c);
    if (st != CHOIR_OK)
        return st;
    if (!counts)
        return comm_fail(c, CHOIR_ERR_POINTER, "pass one count for each rank", "%s is NULL",
                         name.counts);
    uint64_t sum = 0, most = UINT64_MAX / 64;
    for (uint32_t r = 0; r < c->host.size; r++) {
        bool big = counts[r] > most - sum;
        if (big || (offsets && offsets[r] > most))
            return comm_fail(c, CHOIR_ERR_COUNT, "counts and offsets are in elements",
                             "%s[%u] is %llu: too large", big ? name.counts : name.offsets, r,
                             (unsigned long long)(big ? counts[r] : offsets[r]));
        sum += counts[r];
    }
    return CHOIR_OK;
}

static const struct names plain = {"counts", "offsets"};

struct part {
    uint64_t at, count;
    uint32_t rank;
};

static int by_place(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Parts that are written must not overlap. In rank order, as nearly always, they are seen not to at once. */
static enum choir_status check_apart(struct choir_comm *c, const uint64_t *counts,
                                     const uint64_t *offsets, struct names name)
{
    uint64_t end = 0;
    uint32_t n = 0, r = 0;
    for (; offsets && r < c->host.size && (!counts[r] || offsets[r] >= end); r++)
        end = counts[r] ? offsets[r] + counts[r] : end;
    if (!offsets || r == c->host.size)
        return CHOIR_OK;
    struct part *part = malloc(c->host.size * sizeof(*part));
    if (!part)
        return comm_fail(c, CHOIR_ERR_NO_MEMORY, "free memory", "no memory to check %s",
                         name.offsets);
    for (r = 0; r < c->host.size; r++)
        if (counts[r])
            part[n++] = (struct part){offsets[r], counts[r], r};
    qsort(part, n, sizeof(*part), by_place);
    for (r = 1; r < n && part[r].at >= part[r - 1].at + part[r - 1].count; r++)
        ;
    struct part one = part[r < n ? r - 1 : 0], other = part[r < n ? r : 0];
    free(part);
    if (r >= n)
        return CHOIR_OK;
    return comm_fail(c, CHOIR_ERR_ARGUMENT, "give each rank's part a place of its own in recv",
                     "%s[%u] is %llu: that part overlaps the one of rank %u, at %llu", name.offsets,
                     other.rank, (unsigned long long)other.at, one.rank,
                     (unsigned long long)one.at);
}

static enum choir_status check_outputs(struct choir_comm *c, const uint64_t *counts,
                                       const uint64_t *offsets, struct names name)
{
    enum choir_status st = check_lists(c, counts, offsets, name);
    return st == CHOIR_OK ? check_apart(c, counts, offsets, name) : st;
}

enum choir_status choir_all_gather_v_x(choir_comm *comm, const void *send, void *recv,
                                       const uint64_t *counts, const uint64_t *offsets,
                                       enum choir_type type, choir_stream *stream,
                                       const struct choir_call *call)
{
    struct comm_call a = {.kind = CHOIR_ALL_GATHER_V,
                          .type = type,
                          .in = send,
                          .out = recv,
                          .out_count = counts,
                          .out_offset = offsets};
    enum choir_status st = check_outputs(comm, counts, offsets, plain);
    return st == CHOIR_OK ? comm_submit(comm, &a, stream, call) : group_note(st);
}

enum choir_status choir_reduce_scatter_v_x(choir_comm *comm, const void *send, void *recv,
                                           const uint64_t *counts, const uint64_t *offsets,
                                           enum choir_type type, choir_op op, choir_stream *stream,
                                           const struct choir_call *call)
{
    struct comm_call a = {.kind = CHOIR_REDUCE_SCATTER_V,
                          .type = type,
                          .op = op,
                          .in = send,
                          .out = recv,
                          .in_count = counts,
                          .in_offset = offsets};
    enum choir_status st = check_lists(comm, counts, offsets, plain);
    return st == CHOIR_OK ? comm_submit(comm, &a, stream, call) : group_note(st);
}

enum choir_status choir_all_to_all_v_x(choir_comm *comm, const void *send,
                                       const uint64_t *send_counts, const uint64_t *send_offsets,
                                       void *recv, const uint64_t *recv_counts,
                                       const uint64_t *recv_offsets, enum choir_type type,
                                       choir_stream *stream, const struct choir_call *call)
{
    struct comm_call a = {.kind = CHOIR_ALL_TO_ALL_V,
                          .type = type,
                          .in = send,
                          .out = recv,
                          .in_count = send_counts,
                          .in_offset = send_offsets,
                          .out_count = recv_counts,
                          .out_offset = recv_offsets};
    enum choir_status st =
        check_lists(comm, send_counts, send_offsets, (struct names){"send_counts", "send_offsets"});
    if (st == CHOIR_OK)
        st = check_outputs(comm, recv_counts, recv_offsets,
                           (struct names){"recv_counts", "recv_offsets"});
    return st == CHOIR_OK ? comm_submit(comm, &a, stream, call) : group_note(st);
}

enum choir_status choir_gather_v_x(choir_comm *comm, const void *send, uint64_t send_count,
                                   void *recv, const uint64_t *counts, const uint64_t *offsets,
                                   enum choir_type type, int root, choir_stream *stream,
                                   const struct choir_call *call)
{
    struct comm_call a = {.kind = CHOIR_GATHER_V,
                          .type = type,
                          .root = root,
                          .in = send,
                          .out = recv,
                          .in_count = &send_count};
    enum choir_status st = comm_check(comm);
    if (st == CHOIR_OK && (int)comm->host.rank == root) {
        st = check_outputs(comm, counts, offsets, plain);
        a.out_count = counts, a.out_offset = offsets;
    }
    return st == CHOIR_OK ? comm_submit(comm, &a, stream, call) : group_note(st);
}

enum choir_status choir_scatter_v_x(choir_comm *comm, const void *send, const uint64_t *counts,
                                    const uint64_t *offsets, void *recv, uint64_t recv_count,
                                    enum choir_type type, int root, choir_stream *stream,
                                    const struct choir_call *call)
{
    struct comm_call a = {.kind = CHOIR_SCATTER_V,
                          .type = type,
                          .root = root,
                          .in = send,
                          .out = recv,
                          .out_count = &recv_count};
    enum choir_status st = comm_check(comm);
    if (st == CHOIR_OK && (int)comm->host.rank == root) {
        st = check_lists(comm, counts, offsets, plain);
        a.in_count = counts, a.in_offset = offsets;
    }
    return st == CHOIR_OK ? comm_submit(comm, &a, stream, call) : group_note(st);
}
