/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nccl_run.c: each collective as NCCL is asked for it, in stream order.
 */
#include "perf/lib/nccl.h"

bool nccl_supports(const struct perf_coll *coll, uint32_t type, uint32_t op, bool in_place)
{
    int unused;
    bool pairs = coll->kind == PERF_ALL_TO_ALL || coll->kind == PERF_ALL_TO_ALL_V;
    if (coll->kind == PERF_HYPERCUBE || (pairs && in_place))
        return false;
    return !coll->reduces || (nccl_type(type, &unused) && nccl_op(op, &unused));
}

/* What NCCL has no call for: to_peer(r) elements to each rank, packed in order, from_peer(r) from each. */
struct pairs {
    const struct perf_coll *coll;
    const struct perf_call *call;
    void *comm;
    struct CUstream_st *stream;
    int type;
    size_t width, unit; /* elements of NCCL's type in one of ours; bytes of ours */
};

static void exchange(const struct pairs *p)
{
    const struct perf_call *c = p->call;
    const char *out = c->send;
    char *in = c->recv;
    nccl_must(nccl.group_start(), "ncclGroupStart");
    for (uint32_t r = 0; r < c->ranks; r++) {
        uint64_t sent = p->coll->pair ? p->coll->pair(c, c->rank, r) : c->count;
        uint64_t got = p->coll->pair ? p->coll->pair(c, r, c->rank) : c->count;
        if (sent)
            nccl_must(nccl.send(out, sent * p->width, p->type, (int)r, p->comm, p->stream),
                      "ncclSend");
        if (got)
            nccl_must(nccl.recv(in, got * p->width, p->type, (int)r, p->comm, p->stream),
                      "ncclRecv");
        out += sent * p->unit;
        in += got * p->unit;
    }
    nccl_must(nccl.group_end(), "ncclGroupEnd");
}

/* Gather and scatter before 2.28. */
static void star(const struct pairs *p, bool gather)
{
    const struct perf_call *c = p->call;
    size_t n = c->count * p->width;
    bool root = c->rank == (uint32_t)c->root;
    nccl_must(nccl.group_start(), "ncclGroupStart");
    for (uint32_t r = 0; r < c->ranks && root; r++) {
        size_t at = r * c->count * p->unit;
        if (gather)
            nccl_must(nccl.recv((char *)c->recv + at, n, p->type, (int)r, p->comm, p->stream),
                      "ncclRecv");
        else
            nccl_must(nccl.send((char *)c->send + at, n, p->type, (int)r, p->comm, p->stream),
                      "ncclSend");
    }
    if (gather)
        nccl_must(nccl.send(c->send, n, p->type, c->root, p->comm, p->stream), "ncclSend");
    else
        nccl_must(nccl.recv(c->recv, n, p->type, c->root, p->comm, p->stream), "ncclRecv");
    nccl_must(nccl.group_end(), "ncclGroupEnd");
}

static void neighbours(const struct pairs *p)
{
    const struct perf_call *c = p->call;
    size_t n = c->count * p->width;
    int next = (int)((c->rank + 1) % c->ranks), last = (int)((c->rank + c->ranks - 1) % c->ranks);
    nccl_must(nccl.group_start(), "ncclGroupStart");
    nccl_must(nccl.send(c->send, n, p->type, next, p->comm, p->stream), "ncclSend");
    nccl_must(nccl.recv(c->recv, n, p->type, last, p->comm, p->stream), "ncclRecv");
    nccl_must(nccl.group_end(), "ncclGroupEnd");
}

static void move(const struct pairs *p)
{
    const struct perf_call *c = p->call;
    size_t n = c->count * p->width;
    switch (p->coll->kind) {
    case PERF_ALL_GATHER:
        nccl_must(nccl.all_gather(c->send, c->recv, n, p->type, p->comm, p->stream),
                  "ncclAllGather");
        return;
    case PERF_BROADCAST:
        nccl_must(nccl.broadcast(c->send, c->recv, n, p->type, c->root, p->comm, p->stream),
                  "ncclBroadcast");
        return;
    case PERF_SEND_RECV:
        neighbours(p);
        return;
    case PERF_GATHER:
        if (!nccl.gather)
            star(p, true);
        else
            nccl_must(nccl.gather(c->send, c->recv, n, p->type, c->root, p->comm, p->stream),
                      "ncclGather");
        return;
    case PERF_SCATTER:
        if (!nccl.scatter)
            star(p, false);
        else
            nccl_must(nccl.scatter(c->send, c->recv, n, p->type, c->root, p->comm, p->stream),
                      "ncclScatter");
        return;
    default:
        if (p->coll->kind == PERF_ALL_TO_ALL && nccl.all_to_all)
            nccl_must(nccl.all_to_all(c->send, c->recv, n, p->type, p->comm, p->stream),
                      "ncclAlltoAll");
        else
            exchange(p);
    }
}

void nccl_run(const struct perf_coll *coll, const struct perf_call *c, void *rank, int mode)
{
    const struct nccl_rank *r = rank;
    size_t unit = choir_type_bytes(c->type);
    struct pairs p = {coll, c, r->comm[mode], r->stream, 0, 1, unit};
    int op = 0;
    nccl_op(c->op_id, &op);
    if (!nccl_type(c->type, &p.type)) /* moved, not combined */
        p.width = unit;
    switch (coll->kind) {
    case PERF_ALL_REDUCE:
        nccl_must(nccl.all_reduce(c->send, c->recv, c->count, p.type, op, p.comm, p.stream),
                  "ncclAllReduce");
        return;
    case PERF_REDUCE_SCATTER:
        nccl_must(nccl.reduce_scatter(c->send, c->recv, c->count, p.type, op, p.comm, p.stream),
                  "ncclReduceScatter");
        return;
    case PERF_REDUCE:
        nccl_must(nccl.reduce(c->send, c->recv, c->count, p.type, op, c->root, p.comm, p.stream),
                  "ncclReduce");
        return;
    default:
        move(&p);
    }
}
