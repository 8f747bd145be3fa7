/* SPDX-License-Identifier: Apache-2.0 */
/*
 * explain.c: what a rank called whose fragments carry another signature than ours. A signature is a hash of the call's arguments, so
 * calls that differ from ours in few of them are tried until one has it. Runs once, when a communicator fails.
 */
#include "comm/comm.h"
#include <stdio.h>
#include <string.h>

static bool guess_op(const struct choir_comm *c, uint32_t signature, struct comm_call *call)
{
    choir_op last = plan_kind_reduces(call->kind) ? CHOIR_OPS : 1;
    for (call->op = 0; call->op < last; call->op++)
        if (call_signature(c, call) == signature)
            return true;
    return false;
}

/* With the count of ours: any kind, type, operation, and root 0 or ours; any root. */
static bool guess(const struct choir_comm *c, uint32_t signature, const struct comm_call *ours,
                  struct comm_call *call)
{
    *call = *ours;
    for (uint32_t r = 0; r < c->host.size; r++) {
        call->root = (int)r;
        if (call_signature(c, call) == signature)
            return true;
    }
    for (int k = 0; k < CHOIR_EXCHANGE; k++)
        for (int t = 0; t < CHOIR_TYPES; t++)
            for (int root = 0; root < 2; root++) {
                *call = *ours;
                call->kind = (enum choir_kind)k;
                call->type = (enum choir_type)t;
                call->root = root ? ours->root : 0;
                call->count = k == CHOIR_BARRIER ? 0 : ours->count;
                if (guess_op(c, signature, call))
                    return true;
            }
    return false;
}

/* The arguments in which `a` is not as `b`; all of it where the collectives differ. */
static void describe(const struct comm_call *a, const struct comm_call *b, char *text, size_t bytes)
{
    size_t n = (size_t)snprintf(text, bytes, "%s", plan_kind_name(a->kind));
    if (a->kind != b->kind)
        return;
    if (a->type != b->type)
        n += (size_t)snprintf(text + n, bytes - n, " with type %s", choir_type_name(a->type));
    if (a->op != b->op && plan_kind_reduces(a->kind))
        n += (size_t)snprintf(text + n, bytes - n, " with op %s", choir_op_name(a->op));
    if (a->root != b->root)
        snprintf(text + n, bytes - n, " with root %d", a->root);
}

void explain(const struct choir_comm *c, const struct comm_call *ours, uint32_t signature,
             uint32_t peer, char *text, size_t bytes)
{
    struct comm_call theirs;
    const char *group = "a group of sends and receives";
    uint32_t rank = c->host.rank;
    char here[80], there[80];
    if (ours->kind == CHOIR_EXCHANGE) {
        snprintf(text, bytes, "rank %u called a collective, rank %u %s", peer, rank, group);
    } else if (signature == COMM_EXCHANGE_SIGNATURE) {
        snprintf(text, bytes, "rank %u called %s, rank %u %s", peer, group, rank,
                 plan_kind_name(ours->kind));
    } else if (guess(c, signature, ours, &theirs)) {
        describe(&theirs, ours, there, sizeof(there));
        describe(ours, &theirs, here, sizeof(here));
        snprintf(text, bytes, "rank %u called %s, rank %u called %s", peer, there, rank, here);
    } else if (ours->kind == CHOIR_BARRIER) {
        snprintf(text, bytes,
                 "rank %u called another collective than rank %u, which called barrier", peer,
                 rank);
    } else {
        bool v = ours->kind >= CHOIR_ALL_GATHER_V;
        char count[32] = "";
        if (!v)
            snprintf(count, sizeof(count), "count %llu, ", (unsigned long long)ours->count);
        snprintf(text, bytes,
                 "rank %u gave %s (or differs in several arguments) than rank %u, which called %s "
                 "with %stype %s",
                 peer, v ? "other counts" : "another count", rank, plan_kind_name(ours->kind),
                 count, choir_type_name(ours->type));
    }
}
