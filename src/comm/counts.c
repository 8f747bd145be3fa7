/* SPDX-License-Identifier: Apache-2.0 */
/*
 * counts.c: all_to_all_v, gather_v and scatter_v with config.aggregate_v: two operations in one call. First the ranks
 * tell each other their counts, an ordinary all_gather; then the plan made of them runs. All of it on the task's turn,
 * so what is kept here needs no lock. A call with the counts of the last one finds its plan kept.
 */
#include "comm/comm.h"
#include <stdlib.h>
#include <string.h>

bool counts_first(const struct choir_comm *c, const struct comm_call *call)
{
    bool such = call->kind == CHOIR_ALL_TO_ALL_V || call->kind == CHOIR_GATHER_V ||
                call->kind == CHOIR_SCATTER_V;
    return such && c->config.aggregate_v > 0 && c->layout->hosts > 1 &&
           c->layout->hosts < c->host.size;
}

/* What this rank tells. */
static const uint64_t *own_counts(const struct comm_call *call)
{
    return call->kind == CHOIR_SCATTER_V ? call->out_count : call->in_count;
}

static uint64_t told_each(const struct choir_comm *c, const struct comm_call *call)
{
    return call->kind == CHOIR_ALL_TO_ALL_V ? c->host.size : 1;
}

enum choir_status counts_prepare(struct comm_task *t)
{
    struct comm_call counts = {
        .kind = CHOIR_ALL_GATHER, .type = CHOIR_UINT64, .count = told_each(t->comm, &t->call)};
    enum choir_status st = call_bind(t->comm, &counts, &t->bound, &t->cached);
    t->cached = false; /* it is not the operation's */
    t->owns_bound = t->counting = st == CHOIR_OK;
    return st;
}

static enum choir_status no_memory(struct choir_comm *c, uint64_t words)
{
    return comm_fail(c, CHOIR_ERR_NO_MEMORY, "free memory, or leave config.aggregate_v off",
                     "no memory for %llu counts", (unsigned long long)words);
}

enum choir_status counts_begin(struct comm_task *t, const void **in, void **out)
{
    struct choir_comm *c = t->comm;
    struct comm_counted *x = &c->counted;
    uint64_t words = told_each(c, &t->call) * c->host.size;
    if (words > x->all_words) {
        free(x->all);
        x->all = malloc(words * sizeof(*x->all));
        x->all_words = x->all ? words : 0;
    }
    if (!x->all)
        return no_memory(c, words);
    *in = own_counts(&t->call);
    *out = x->all;
    return CHOIR_OK;
}

/* What this rank expects of others, and the root of all, is what they told. */
static enum choir_status check_told(struct choir_comm *c, const struct comm_call *call)
{
    const uint64_t *want = call->kind == CHOIR_SCATTER_V ? call->in_count : call->out_count;
    uint64_t n = c->host.size, me = c->host.rank;
    bool pairs = call->kind == CHOIR_ALL_TO_ALL_V;
    for (uint64_t r = 0; (pairs || (uint64_t)call->root == me) && r < n; r++) {
        uint64_t told = pairs ? c->counted.all[r * n + me] : c->counted.all[r];
        if (told != want[r])
            return comm_fail(c, CHOIR_ERR_MISMATCH, "give both ends of a block the same count",
                             "%s: rank %llu has %llu elements for its block with rank %llu, which "
                             "has %llu",
                             plan_kind_name(call->kind), (unsigned long long)r,
                             (unsigned long long)told, (unsigned long long)me,
                             (unsigned long long)want[r]);
    }
    return CHOIR_OK;
}

/* All that the plan depends on into x->next. */
static bool write_next(struct choir_comm *c, const struct comm_call *call)
{
    struct comm_counted *x = &c->counted;
    const uint64_t *lists[] = {call->in_count, call->in_offset, call->out_count, call->out_offset,
                               call->all_counts};
    uint64_t n = c->host.size, words = 3 + 5 + 4 * n + told_each(c, call) * n, at = 3;
    if (words > x->key_words) {
        uint64_t *key = calloc(words, sizeof(*key)), *next = calloc(words, sizeof(*next));
        free(x->key), free(x->next);
        x->key = key, x->next = next;
        x->key_words = key && next ? words : 0;
    }
    if (!x->key_words)
        return false;
    memset(x->next, 0, x->key_words * sizeof(*x->next));
    x->next[0] = call->kind, x->next[1] = (uint64_t)call->root;
    x->next[2] = choir_type_bytes(call->type);
    for (unsigned i = 0; i < base_count(lists); i++) {
        uint64_t length = i < 4 ? call_list_length(c, call, i) : told_each(c, call) * n;
        x->next[at++] = lists[i] != NULL;
        if (lists[i])
            memcpy(x->next + at, lists[i], length * sizeof(uint64_t));
        at += lists[i] ? length : 0;
    }
    return true;
}

static void drop(struct choir_comm *c)
{
    if (c->counted.bound)
        atomic_fetch_sub(&c->host.private_bytes, c->counted.bound->memory_bytes);
    host_bound_free(c->counted.bound);
    c->counted.bound = NULL;
}

enum choir_status counts_end(struct comm_task *t)
{
    struct choir_comm *c = t->comm;
    struct comm_counted *x = &c->counted;
    if (t->owns_bound)
        host_bound_free(t->bound);
    t->bound = NULL;
    t->owns_bound = t->counting = false;
    enum choir_status st = check_told(c, &t->call);
    if (st != CHOIR_OK)
        return st;
    t->call.all_counts = x->all;
    if (!write_next(c, &t->call))
        return no_memory(c, (uint64_t)c->host.size * c->host.size);
    if (!x->bound || memcmp(x->key, x->next, x->key_words * sizeof(*x->key))) {
        drop(c);
        st = call_bind_new(c, &t->call, "hierarchical", &x->bound);
        if (st != CHOIR_OK)
            return comm_take_error(c, st);
        uint64_t *key = x->key;
        x->key = x->next;
        x->next = key;
    }
    t->bound = x->bound;
    return CHOIR_OK;
}

void counts_free(struct choir_comm *c)
{
    drop(c);
    free(c->counted.all);
    free(c->counted.key);
    free(c->counted.next);
}
