/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.c: small agreements among all ranks of a communicator, used by its life only (creation, split, shrink): every rank gives a
 * blob, rank 0 collects them over a tree of fan-out TREE_CHILDREN and sends all back. O(log N) hops, O(bytes of all)
 * per rank. Frames come in on transports' threads; whoever waits calls tree_test.
 *
 * A child begins round k+1 only when it has the result of round k, so one place per child holds what came early.
 */
#include "comm/comm.h"
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES (1u << 20)
#define TREE_MOST_BYTES (512u << 20)

static const char what[] = "an agreement of all ranks";

void tree_init(struct comm_tree *t)
{
    pthread_mutex_init(&t->lock, NULL);
}

void tree_free(struct comm_tree *t)
{
    for (uint32_t i = 0; i < TREE_CHILDREN; i++)
        free(t->child[i].data);
    free(t->down.data);
    free(t->own);
    pthread_mutex_destroy(&t->lock);
}

static uint32_t children(const struct choir_comm *c)
{
    uint64_t first = (uint64_t)c->host.rank * TREE_CHILDREN + 1;
    return first >= c->host.size ? 0 : (uint32_t)base_min(TREE_CHILDREN, c->host.size - first);
}

enum choir_status tree_start(struct choir_comm *c, const void *blob, uint32_t bytes)
{
    struct comm_tree *t = &c->tree;
    uint32_t padded = (bytes + 7) & ~7u, total = (uint32_t)sizeof(struct tree_record) + padded;
    uint8_t *own = calloc(1, total);
    if (!own)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u bytes", total);
    struct tree_record r = {c->host.rank, bytes};
    memcpy(own, &r, sizeof(r));
    if (bytes)
        memcpy(own + sizeof(r), blob, bytes);
    pthread_mutex_lock(&t->lock);
    free(t->own);
    t->own = own;
    t->own_bytes = total;
    t->round++;
    t->sent = false;
    t->down_sent = 0;
    pthread_mutex_unlock(&t->lock);
    return CHOIR_OK;
}

static bool complete(const struct tree_part *p, uint32_t round)
{
    return p->data && p->round == round && p->got == p->bytes;
}

/* All ranks take part in an agreement, so all are to hear of its end, with one record. */
static enum choir_status give_up(struct choir_comm *c, enum choir_status st)
{
    const struct choir_error *e = base_error_thread();
    host_comm_break(&c->host, st,
                    &(struct base_error_at){(int)c->host.rank, e->peer, 0, e->sys_errno, NULL},
                    e->remedy, "%s", e->text);
    pthread_mutex_lock(&c->host.lock); /* maybe another verdict was first */
    *base_error_thread() = c->host.error;
    pthread_mutex_unlock(&c->host.lock);
    return (enum choir_status)atomic_load(&c->host.broken);
}

static enum choir_status unreached(struct choir_comm *c, uint32_t to)
{
    enum choir_status st = (enum choir_status)atomic_load(&c->host.member[to]->failed);
    if (st == CHOIR_OK)
        return CHOIR_IN_PROGRESS;
    if (watch_left(c, (int)to, what) == CHOIR_OK)
        base_error_fill(base_error_thread(), st,
                        &(struct base_error_at){(int)c->host.rank, (int)to, 0, 0, NULL},
                        HOST_UNREACHED_REMEDY, HOST_UNREACHED, to);
    return give_up(c, st);
}

/* CHOIR_IN_PROGRESS: the process of `to` is not reached yet. */
static enum choir_status send_part(struct choir_comm *c, uint32_t to, uint16_t kind, uint32_t round,
                                   const uint8_t *data, uint32_t bytes)
{
    for (uint32_t at = 0; at < bytes;) {
        uint32_t n = base_min(CHUNK_BYTES, bytes - at);
        if (!host_control_send(&c->host, to, kind, (uint64_t[]){round, bytes, at}, 0, data + at, n))
            return unreached(c, to); /* before the first chunk: it is reached once and for all */
        at += n;
    }
    return CHOIR_OK;
}

/* Joins our record and the children's into one block; NULL while one is missing. */
static uint8_t *gather(struct choir_comm *c, uint32_t *bytes)
{
    struct comm_tree *t = &c->tree;
    uint64_t total = t->own_bytes;
    for (uint32_t i = 0; i < children(c); i++) {
        if (!complete(&t->child[i], t->round))
            return NULL;
        total += t->child[i].bytes;
    }
    uint8_t *all = total <= TREE_MOST_BYTES ? malloc(total) : NULL, *at = all;
    if (!all)
        return NULL;
    memcpy(at, t->own, t->own_bytes), at += t->own_bytes;
    for (uint32_t i = 0; i < children(c); i++)
        memcpy(at, t->child[i].data, t->child[i].bytes), at += t->child[i].bytes;
    *bytes = (uint32_t)total;
    return all;
}

/* What has gone up is not needed any more: at rank 0 it is a blob of every rank. None of the next round has come. */
static void drop_parts(struct comm_tree *t)
{
    pthread_mutex_lock(&t->lock);
    for (uint32_t i = 0; i < TREE_CHILDREN; i++) {
        free(t->child[i].data);
        t->child[i].data = NULL;
    }
    free(t->own);
    t->own = NULL;
    pthread_mutex_unlock(&t->lock);
}

/* Sends are made without the lock: a transport may deliver to a communicator of this process at once. Only the one
 * thread that waits for the agreement comes here. */
static enum choir_status go_up(struct choir_comm *c)
{
    struct comm_tree *t = &c->tree;
    enum choir_status st = CHOIR_OK;
    uint32_t bytes = 0;
    if (t->sent)
        return st;
    pthread_mutex_lock(&t->lock);
    uint8_t *all = gather(c, &bytes);
    if (all && !c->host.rank) {
        free(t->down.data);
        t->down = (struct tree_part){t->round, bytes, bytes, all};
        t->sent = true;
        all = NULL;
    }
    pthread_mutex_unlock(&t->lock);
    if (all)
        st = send_part(c, tree_parent(c->host.rank), COMM_FRAME_UP, t->round, all, bytes);
    t->sent |= all && st == CHOIR_OK;
    free(all);
    if (t->sent)
        drop_parts(t);
    return st;
}

int tree_waits_for(struct choir_comm *c)
{
    struct comm_tree *t = &c->tree;
    uint32_t first = c->host.rank * TREE_CHILDREN + 1;
    int rank = c->host.rank ? (int)tree_parent(c->host.rank) : -1;
    pthread_mutex_lock(&t->lock);
    if (complete(&t->down, t->round) && t->down_sent < children(c))
        rank = (int)(first + t->down_sent);
    for (uint32_t i = 0; !t->sent && i < children(c); i++)
        if (!complete(&t->child[i], t->round)) {
            rank = (int)(first + i);
            break;
        }
    pthread_mutex_unlock(&t->lock);
    return rank;
}

/* What a rank gave came before its goodbye, or its death: asked for again after either was seen. It may have died before the
 * communicator was opened, which then hears of it from nobody. */
static enum choir_status waits_for_gone(struct choir_comm *c)
{
    int rank = tree_waits_for(c);
    if (rank < 0)
        return CHOIR_IN_PROGRESS;
    enum choir_status failed = (enum choir_status)atomic_load(&c->host.member[rank]->failed);
    bool left = atomic_load(&c->gone[rank]);
    if ((!left && failed == CHOIR_OK) || tree_waits_for(c) != rank)
        return CHOIR_IN_PROGRESS;
    if (left)
        return give_up(c, watch_left(c, rank, what));
    base_error_fill(base_error_thread(), failed,
                    &(struct base_error_at){(int)c->host.rank, rank, 0, 0, NULL},
                    "choir_comm_shrink goes on without it",
                    "%s waits for rank %d, whose process is gone", what, rank);
    return give_up(c, failed);
}

/* Frames ring the bell of the communicator they are for; connections on their way ring none, so it looks again after an eighth of
 * what it has waited: where ranks outnumber cores by far, they would otherwise be busy looking. */
enum choir_status tree_wait(struct choir_comm *over, uint64_t waited_ns, struct choir_comm *c,
                            enum choir_status (*advance)(struct choir_comm *c))
{
    uint32_t word = host_bell_mark(&over->host, HOST_ASLEEP_CALLER);
    enum choir_status st = advance(c);
    if (st == CHOIR_IN_PROGRESS)
        host_bell_sleep(&over->host, word, base_min(base_max(waited_ns / 8, 50000u), 5000000u));
    else
        host_bell_cancel(&over->host, HOST_ASLEEP_CALLER);
    return st;
}

enum choir_status tree_test(struct choir_comm *c, uint8_t **result, uint32_t *bytes)
{
    struct comm_tree *t = &c->tree;
    uint32_t first = c->host.rank * TREE_CHILDREN + 1;
    enum choir_status st = go_up(c);
    if (st < 0)
        return st;
    pthread_mutex_lock(&t->lock);
    bool here = complete(&t->down, t->round);
    pthread_mutex_unlock(&t->lock);
    if (!here)
        return waits_for_gone(c);
    for (; t->down_sent < children(c); t->down_sent++) {
        st = send_part(c, first + t->down_sent, COMM_FRAME_DOWN, t->round, t->down.data,
                       t->down.bytes);
        if (st != CHOIR_OK)
            return st;
    }
    *result = t->down.data;
    *bytes = t->down.bytes;
    t->down.data = NULL;
    return CHOIR_OK;
}

static void receive(struct tree_part *p, const struct choir_frame *f, const void *payload)
{
    if (f->arg[1] > TREE_MOST_BYTES || f->arg[2] + f->bytes > f->arg[1])
        return;
    if (!f->arg[2]) { /* the first chunk of a round */
        free(p->data);
        *p = (struct tree_part){(uint32_t)f->arg[0], (uint32_t)f->arg[1], 0, malloc(f->arg[1])};
    }
    if (!p->data || p->round != f->arg[0] || p->got != f->arg[2])
        return;
    memcpy(p->data + p->got, payload, f->bytes);
    p->got += f->bytes;
}

void tree_frame(struct choir_comm *c, const struct choir_frame *f, const void *payload)
{
    struct comm_tree *t = &c->tree;
    pthread_mutex_lock(&t->lock);
    if (f->kind == COMM_FRAME_UP && f->from && tree_parent(f->from) == c->host.rank)
        receive(&t->child[(f->from - 1) % TREE_CHILDREN], f, payload);
    else if (f->kind == COMM_FRAME_DOWN && c->host.rank && f->from == tree_parent(c->host.rank))
        receive(&t->down, f, payload);
    pthread_mutex_unlock(&t->lock);
    host_bell_wake_own(&c->host);
}

/* The blob of each rank; false: not every rank is in it, or a length is wrong. */
static bool index_of(const uint8_t *result, uint32_t bytes, uint32_t ranks, const void **blob,
                     uint32_t *blob_bytes)
{
    uint32_t seen = 0;
    for (uint32_t r = 0; r < ranks; r++)
        blob[r] = NULL;
    for (uint32_t at = 0; at < bytes;) {
        struct tree_record r;
        if (bytes - at < sizeof(r))
            return false;
        memcpy(&r, result + at, sizeof(r));
        at += (uint32_t)sizeof(r);
        if (r.rank >= ranks || r.bytes > bytes - at || blob[r.rank])
            return false;
        blob[r.rank] = result + at;
        blob_bytes[r.rank] = r.bytes;
        at += (r.bytes + 7) & ~7u;
        seen++;
    }
    return seen == ranks;
}

enum choir_status tree_answers(struct choir_comm *c, uint32_t least, struct tree_answers *x)
{
    uint32_t bytes, n = c->host.size;
    *x = (struct tree_answers){0};
    enum choir_status st = tree_test(c, &x->all, &bytes);
    if (st != CHOIR_OK)
        return st;
    x->blob = malloc(n * (sizeof(*x->blob) + sizeof(*x->bytes)));
    if (!x->blob)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u ranks", n);
    x->bytes = (uint32_t *)(x->blob + n);
    bool good = index_of(x->all, bytes, n, x->blob, x->bytes);
    for (uint32_t r = 0; r < n && good; r++)
        good = x->bytes[r] >= least;
    return good ? CHOIR_OK
                : base_fail(CHOIR_ERR_PROTOCOL, "use one version of the library on all ranks",
                            "the ranks' answers are not complete");
}

void tree_answers_free(struct tree_answers *x)
{
    free(x->all);
    free(x->blob);
}
