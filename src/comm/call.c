/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call.c: from a call to a plan bound to this communicator. The last key is memoised (one compare for a repeated call), others are
 * found in the cache; a new one is chosen, built and bound. V-forms have their counts in the key.
 */
#include "comm/comm.h"
#include <stdlib.h>
#include <string.h>

static bool is_v(enum choir_kind kind)
{
    return kind >= CHOIR_ALL_GATHER_V && kind <= CHOIR_SCATTER_V;
}

static uint64_t counts_hash(const struct choir_comm *c, const struct comm_call *call)
{
    const uint64_t *counts = call->kind == CHOIR_ALL_GATHER_V       ? call->out_count
                             : call->kind == CHOIR_REDUCE_SCATTER_V ? call->in_count
                                                                    : NULL;
    return counts ? base_hash(counts, c->host.size * sizeof(*counts), 1) : call->count;
}

uint32_t call_signature(const struct choir_comm *c, const struct comm_call *call)
{
    uint64_t what[] = {call->kind, counts_hash(c, call), call->type,
                       plan_kind_reduces(call->kind) ? call->op : 0, (uint64_t)call->root};
    uint32_t s = (uint32_t)base_hash(what, sizeof(what), 2);
    return s ? s : 1;
}

void call_shape(const struct choir_comm *c, const struct comm_call *call, struct choir_shape *shape)
{
    plan_shape_init(shape, call->kind, c->host.rank, c->host.size, call->count, c->layout);
    shape->root = (uint32_t)call->root;
    shape->type_bytes = (uint32_t)choir_type_bytes(call->type);
    shape->slot_bytes = c->host.slot_bytes;
    shape->depth = LANE_SLOTS;
    shape->window = LANE_COUNT;
    shape->in_count = call->in_count;
    shape->in_offset = call->in_offset;
    shape->out_count = call->out_count;
    shape->out_offset = call->out_offset;
    shape->all_counts = call->all_counts;
}

enum choir_status call_combine(struct choir_comm *c, const struct comm_call *call,
                               struct host_combine *combine)
{
    *combine = (struct host_combine){.type = call->type};
    if (!plan_kind_reduces(call->kind))
        return CHOIR_OK;
    const struct comm_op *made = op_find(c, call->op);
    if (made && made->fn) {
        combine->user = made->fn;
        combine->context = made->context;
        return CHOIR_OK;
    }
    choir_op op = made || call->op == CHOIR_AVG ? CHOIR_SUM : call->op;
    combine->fn = !made && call->op >= CHOIR_OPS ? NULL : reduce_pick(call->type, op);
    if (!combine->fn)
        return comm_fail(c, CHOIR_ERR_OP,
                         "bitwise and logical operations are for integers; made ones belong to "
                         "their communicator",
                         "op %s is not defined for type %s", choir_op_name(call->op),
                         choir_type_name(call->type));
    if (made && made->type != call->type)
        return comm_fail(c, CHOIR_ERR_TYPE, "make the operation with the type of the call",
                         "op was made for type %s, the call has %s", choir_type_name(made->type),
                         choir_type_name(call->type));
    return CHOIR_OK;
}

static bool needs_order(const struct choir_comm *c, const struct comm_call *call)
{
    const struct comm_op *made = plan_kind_reduces(call->kind) ? op_find(c, call->op) : NULL;
    return made && made->fn && !made->commutative;
}

/* With config.deterministic every reduction is one flat sum in rank order, whatever the size and the layout. */
static const char *flat_algorithm(enum choir_kind kind)
{
    return kind == CHOIR_ALL_REDUCE ? "two_shot" : "direct";
}

const char *call_flat(const struct choir_comm *c, const struct comm_call *call)
{
    return c->config.deterministic && plan_kind_reduces(call->kind) ? flat_algorithm(call->kind)
                                                                    : NULL;
}

const char *call_algorithm(const struct choir_comm *c, const struct comm_call *call)
{
    struct choir_shape shape;
    const char *flat = call_flat(c, call);
    if (flat)
        return flat;
    call_shape(c, call, &shape);
    return plan_table_choose(c->table, &shape, needs_order(c, call));
}

enum choir_status call_bind_new(struct choir_comm *c, const struct comm_call *call,
                                const char *algorithm, struct host_bound **bound)
{
    struct choir_shape shape;
    struct choir_plan *plan;
    call_shape(c, call, &shape);
    const char *name = algorithm ? algorithm : call_algorithm(c, call);
    enum choir_status st = plan_build(name, &shape, &plan);
    if (st != CHOIR_OK)
        return st;
    st = host_bind(&c->host, plan, shape.type_bytes, bound);
    if (st != CHOIR_OK) {
        plan_free(plan);
        return st;
    }
    (*bound)->algorithm = name;
    atomic_fetch_add(&c->host.private_bytes, (*bound)->memory_bytes);
    return CHOIR_OK;
}

static void drop(void *bound)
{
    host_bound_free(bound);
}

uint32_t call_list_length(const struct choir_comm *c, const struct comm_call *call, unsigned i)
{
    bool one = call->kind == CHOIR_GATHER_V ? i < 2 : call->kind == CHOIR_SCATTER_V && i >= 2;
    return one ? 1 : c->host.size;
}

/* The fixed arguments, then the counts and offsets of a v-form. */
size_t call_key(const struct choir_comm *c, const struct comm_call *call,
                uint8_t to[CALL_KEY_BYTES])
{
    const uint64_t *lists[] = {call->in_count, call->in_offset, call->out_count, call->out_offset};
    struct comm_key key = {.kind = call->kind,
                           .elem = (uint32_t)choir_type_bytes(call->type),
                           .root = (uint32_t)call->root,
                           .ordered = needs_order(c, call),
                           .count = call->count};
    size_t at = sizeof(key);
    memcpy(to, &key, sizeof(key));
    if (!is_v(call->kind))
        return at;
    for (unsigned i = 0; i < base_count(lists); i++) {
        size_t bytes = lists[i] ? call_list_length(c, call, i) * sizeof(uint64_t) : 0;
        if (at + bytes + 1 > CALL_KEY_BYTES)
            return 0;
        to[at++] = lists[i] != NULL;
        if (bytes)
            memcpy(to + at, lists[i], bytes);
        at += bytes;
    }
    return at;
}

enum choir_status call_bind(struct choir_comm *c, const struct comm_call *call,
                            struct host_bound **bound, bool *cached)
{
    *cached = true;
    uint8_t bytes[CALL_KEY_BYTES];
    size_t n = call_key(c, call, bytes);
    struct host_bound *b = n ? plan_cache_find(c->plans, bytes, n) : NULL;
    if (!b) {
        c->memo.bound = NULL; /* the cache may drop it */
        enum choir_status st = call_bind_new(c, call, NULL, &b);
        if (st != CHOIR_OK)
            return comm_take_error(c, st);
        *cached = n && plan_cache_add(c->plans, bytes, n, b, drop) == CHOIR_OK;
    }
    if (*cached) /* the cache may let it go before the operation has run */
        host_bound_hold(b);
    *bound = b;
    return CHOIR_OK;
}

void call_memoise(struct choir_comm *c, const struct comm_task *t)
{
    struct comm_memo *m = &c->memo;
    const struct comm_call *call = &t->call;
    const struct comm_op *made = plan_kind_reduces(call->kind) ? op_find(c, call->op) : NULL;
    m->bound = NULL;
    if (is_v(call->kind) || call->kind == CHOIR_EXCHANGE || made || c->config.restorable ||
        (plan_kind_reduces(call->kind) && call->op == CHOIR_AVG) ||
        call_combine(c, call, &m->combine) != CHOIR_OK)
        return;
    memset(&m->what, 0, sizeof(m->what));
    m->what.kind = call->kind, m->what.type = call->type, m->what.op = call->op;
    m->what.root = call->root, m->what.count = call->count;
    struct choir_shape shape;
    call_shape(c, call, &shape);
    plan_shape_extent(&shape, &m->in_bytes, &m->out_bytes);
    m->in_bytes *= shape.type_bytes, m->out_bytes *= shape.type_bytes;
    m->may_alias = plan_shape_in_place(&shape, &m->shift);
    m->shift *= shape.type_bytes;
    m->signature = t->signature;
    m->bound = t->bound;
}

enum choir_status call_copy(struct choir_comm *c, const struct comm_call *call,
                            struct comm_call *copy)
{
    *copy = *call;
    const uint64_t **lists[] = {&copy->in_count, &copy->in_offset, &copy->out_count,
                                &copy->out_offset};
    if (call->side)
        return side_copy(c, call->side, copy);
    if (!is_v(call->kind))
        return CHOIR_OK;
    uint64_t *owned = copy->owned = malloc(base_count(lists) * c->host.size * sizeof(uint64_t));
    if (!copy->owned)
        return comm_fail(c, CHOIR_ERR_NO_MEMORY, "free memory",
                         "no memory for the counts of a call");
    for (unsigned i = 0; i < base_count(lists); i++)
        if (*lists[i]) {
            uint64_t *to = owned + i * c->host.size;
            memcpy(to, *lists[i], call_list_length(c, call, i) * sizeof(*to));
            *lists[i] = to;
        }
    return CHOIR_OK;
}

void call_free(struct comm_call *copy)
{
    free(copy->owned);
    copy->owned = NULL;
}

/* --- sends and receives of a group ------------------------------------------------------------- */

enum choir_status exchange_plan(struct choir_comm *c, const struct comm_message *list, uint32_t n,
                                uint64_t slot_bytes, uint32_t depth, uint32_t window,
                                struct choir_plan **plan)
{
    uint64_t *words = malloc(4 * ((size_t)n + 1) * sizeof(*words));
    uint32_t *peers = malloc(2 * ((size_t)n + 1) * sizeof(*peers)), sends = 0, recvs = 0;
    enum choir_status st = CHOIR_OK;
    if (!words || !peers) {
        st = base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a group of %u messages",
                       n);
        goto out;
    }
    uint64_t *in_len = words, *in_off = words + n + 1, *out_len = words + 2 * (n + 1),
             *out_off = words + 3 * (n + 1);
    uint32_t *in_peer = peers, *out_peer = peers + n + 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = list[i].send ? sends++ : recvs++;
        (list[i].send ? in_len : out_len)[at] = list[i].bytes;
        (list[i].send ? in_off : out_off)[at] = (uint64_t)(uintptr_t)list[i].memory;
        (list[i].send ? in_peer : out_peer)[at] = list[i].peer;
    }
    struct choir_shape shape;
    plan_shape_init(&shape, CHOIR_EXCHANGE, c->host.rank, c->host.size, 0, c->layout);
    shape.type_bytes = 1;
    shape.slot_bytes = slot_bytes;
    shape.depth = depth;
    shape.window = window;
    shape.in_parts = sends, shape.out_parts = recvs;
    shape.in_count = in_len, shape.in_offset = in_off, shape.in_peer = in_peer;
    shape.out_count = out_len, shape.out_offset = out_off, shape.out_peer = out_peer;
    st = plan_build("pairwise", &shape, plan);
out:
    free(words);
    free(peers);
    return st;
}

enum choir_status exchange_bind(struct choir_comm *c, const struct comm_message *list, uint32_t n,
                                struct host_bound **bound)
{
    struct choir_plan *plan;
    enum choir_status st =
        exchange_plan(c, list, n, c->host.slot_bytes, LANE_SLOTS, LANE_COUNT, &plan);
    if (st == CHOIR_OK && (st = host_bind(&c->host, plan, 1, bound)) != CHOIR_OK)
        plan_free(plan);
    if (st == CHOIR_OK)
        (*bound)->algorithm = "pairwise";
    return st == CHOIR_OK ? st : comm_take_error(c, st);
}
