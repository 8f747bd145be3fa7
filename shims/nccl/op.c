/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op.c: ncclRedOpCreatePreMulSum. Programs make an operation for one call and destroy it right after, inside a group even, while
 * Choir wants it until the call has run. So an operation that has no handle any more stays, and serves the next one that is
 * like it; the one that has been free for longest makes room when there are too many.
 */
#include "shims/nccl/internal.h"
#include <string.h>

/* NULL: it cannot be one of comm. */
static struct nccl_op *find(ncclComm_t comm, ncclRedOp_t op)
{
    uint32_t i = (uint32_t)op - ncclNumOps;
    return i < NCCL_OPS_MADE ? &comm->op[i] : NULL;
}

ncclResult_t nccl_op_take(ncclComm_t comm, ncclRedOp_t op, enum choir_type type, const char *call,
                          choir_op *made)
{
    static const choir_op builtin[ncclNumOps] = {[ncclSum] = CHOIR_SUM,
                                                 [ncclProd] = CHOIR_PROD,
                                                 [ncclMax] = CHOIR_MAX,
                                                 [ncclMin] = CHOIR_MIN,
                                                 [ncclAvg] = CHOIR_AVG};
    if ((uint32_t)op < ncclNumOps) {
        *made = builtin[op];
        return ncclSuccess;
    }
    ncclResult_t r = ncclSuccess;
    pthread_mutex_lock(&comm->lock);
    struct nccl_op *o = find(comm, op);
    if (!o || !o->handles)
        r = nccl_fail(ncclInvalidArgument, "%s: op %u is none of NCCL's, nor made on comm", call,
                      (uint32_t)op);
    else if (o->type != type)
        r = nccl_fail(ncclInvalidArgument, "%s: op was made for another datatype", call);
    else
        o->uses++, *made = o->op;
    pthread_mutex_unlock(&comm->lock);
    return r;
}

void nccl_op_drop(ncclComm_t comm, ncclRedOp_t op)
{
    if ((uint32_t)op < ncclNumOps)
        return;
    pthread_mutex_lock(&comm->lock);
    find(comm, op)->uses--;
    pthread_mutex_unlock(&comm->lock);
}

static bool like(const struct nccl_op *o, const struct nccl_op *want)
{
    return o->made && o->type == want->type && o->residence == want->residence &&
           !memcmp(&o->scalar, &want->scalar, sizeof(o->scalar));
}

/* One that is like it; else one never used; else the one that has been free for longest. */
static struct nccl_op *choose(ncclComm_t comm, const struct nccl_op *want)
{
    struct nccl_op *best = NULL;
    for (uint32_t i = 0; i < NCCL_OPS_MADE; i++)
        if (like(&comm->op[i], want))
            return &comm->op[i];
    for (uint32_t i = 0; i < NCCL_OPS_MADE; i++) {
        struct nccl_op *o = &comm->op[i];
        if (!o->made)
            return o;
        if (!o->handles && !o->uses && (!best || o->freed < best->freed))
            best = o;
    }
    return best;
}

static ncclResult_t create(ncclComm_t comm, const struct nccl_op *want, ncclRedOp_t *op)
{
    choir_comm *c = atomic_load(&comm->choir);
    struct nccl_op *o = choose(comm, want);
    if (!o)
        return nccl_fail(ncclInvalidUsage,
                         "ncclRedOpCreatePreMulSum: %d operations are alive on comm; destroy some",
                         NCCL_OPS_MADE);
    if (!like(o, want)) {
        if (o->made)
            choir_op_destroy(c, o->op);
        *o = *want;
        const void *scale = o->residence == ncclScalarDevice ? o->scalar.pointer : o->scalar.bytes;
        ncclResult_t r = nccl_result(choir_op_create_scaled(c, scale, o->type, &o->op),
                                     "ncclRedOpCreatePreMulSum");
        o->made = r == ncclSuccess;
        if (r != ncclSuccess)
            return r;
    }
    o->handles++;
    *op = (ncclRedOp_t)(ncclNumOps + (int)(o - comm->op));
    return ncclSuccess;
}

static ncclResult_t create_checked(ncclRedOp_t *op, const void *scalar, ncclDataType_t datatype,
                                   ncclScalarResidence_t residence, ncclComm_t comm)
{
    const char *call = "ncclRedOpCreatePreMulSum";
    struct nccl_op want = {.residence = residence};
    ncclResult_t r = nccl_comm_enter(comm, call);
    if (r != ncclSuccess)
        return r;
    if (!op || !scalar)
        r = nccl_fail(ncclInvalidArgument, "%s: %s is NULL", call, op ? "scalar" : "op");
    else if (residence != ncclScalarDevice && residence != ncclScalarHostImmediate)
        r = nccl_fail(ncclInvalidArgument, "%s: residence is %d", call, (int)residence);
    else
        r = nccl_type(datatype, call, &want.type);
    if (r == ncclSuccess) {
        if (residence == ncclScalarDevice)
            want.scalar.pointer = scalar;
        else
            memcpy(want.scalar.bytes, scalar, choir_type_bytes(want.type));
        pthread_mutex_lock(&comm->lock);
        r = create(comm, &want, op);
        pthread_mutex_unlock(&comm->lock);
    }
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t *op, void *scalar,
                                                  ncclDataType_t datatype,
                                                  ncclScalarResidence_t residence, ncclComm_t comm)
{
    return nccl_group_note(create_checked(op, scalar, datatype, residence, comm));
}
NCCL_TWIN(ncclResult_t, RedOpCreatePreMulSum,
          (ncclRedOp_t * op, void *scalar, ncclDataType_t datatype, ncclScalarResidence_t residence,
           ncclComm_t comm));

static ncclResult_t destroy(ncclRedOp_t op, ncclComm_t comm)
{
    ncclResult_t r = nccl_comm_enter(comm, "ncclRedOpDestroy");
    if (r != ncclSuccess)
        return r;
    pthread_mutex_lock(&comm->lock);
    struct nccl_op *o = find(comm, op);
    if (!o || !o->handles)
        r = nccl_fail(ncclInvalidArgument,
                      "ncclRedOpDestroy: op %u was not made on comm, or is "
                      "destroyed",
                      (uint32_t)op);
    else if (!--o->handles)
        o->freed = ++comm->op_clock;
    pthread_mutex_unlock(&comm->lock);
    nccl_comm_leave(comm);
    return r;
}

NCCL_EXPORT ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t comm)
{
    return nccl_group_note(destroy(op, comm));
}
NCCL_TWIN(ncclResult_t, RedOpDestroy, (ncclRedOp_t op, ncclComm_t comm));
