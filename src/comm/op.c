/* SPDX-License-Identifier: Apache-2.0 */
/* op.c: operations made by the user: scaled sums and user-defined reductions. Local to a communicator's rank. */
#include "comm/comm.h"

/* Made operations are numbered from here, well clear of later built-in ones. */
#define FIRST 0x1000u

static enum choir_status add(struct choir_comm *c, struct comm_op made, choir_op *op)
{
    enum choir_status st = comm_check(c);
    if (st != CHOIR_OK)
        return st;
    if (!op)
        return base_fail(CHOIR_ERR_POINTER, "pass the address of a choir_op", "op is NULL");
    for (uint32_t i = 0; i < COMM_OPS; i++)
        if (!c->ops[i].used) {
            made.used = true;
            c->ops[i] = made;
            *op = FIRST + i;
            return CHOIR_OK;
        }
    return base_fail(CHOIR_ERR_NO_MEMORY, "destroy operations that are not used any more",
                     "rank %u has made %u operations already", c->host.rank, COMM_OPS);
}

enum choir_status choir_op_create_scaled(choir_comm *c, const void *scale, enum choir_type type,
                                         choir_op *op)
{
    if (!scale)
        return base_fail(CHOIR_ERR_POINTER, "pass the address of one element of the type",
                         "scale is NULL");
    if ((unsigned)type >= CHOIR_TYPES)
        return base_fail(CHOIR_ERR_TYPE, "see enum choir_type", "type is %d", (int)type);
    return add(
        c, (struct comm_op){.scaled = true, .type = type, .scale = scale, .commutative = true}, op);
}

enum choir_status choir_op_create_user(choir_comm *c, choir_reduce_fn fn, void *context,
                                       int commutative, choir_op *op)
{
    if (!fn)
        return base_fail(CHOIR_ERR_POINTER, "pass a function", "fn is NULL");
    return add(c, (struct comm_op){.fn = fn, .context = context, .commutative = commutative != 0},
               op);
}

const struct comm_op *op_find(const struct choir_comm *c, choir_op op)
{
    return op >= FIRST && op - FIRST < COMM_OPS && c->ops[op - FIRST].used ? &c->ops[op - FIRST]
                                                                           : NULL;
}

enum choir_status choir_op_destroy(choir_comm *c, choir_op op)
{
    enum choir_status st = comm_check(c);
    if (st != CHOIR_OK)
        return st;
    if (!op_find(c, op))
        return base_fail(CHOIR_ERR_OP, "pass what choir_op_create_* returned",
                         "op %u was not made on this communicator", op);
    c->ops[op - FIRST].used = false;
    return CHOIR_OK;
}
