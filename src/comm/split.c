/* SPDX-License-Identifier: Apache-2.0 */
/*
 * split.c: communicators made from others. A child inherits its members' addresses, so it needs no rendezvous: split asks the
 * parent's tree for colours and keys, or, where that was revoked, a fresh one's; shrink is told who is left. Growing takes an id,
 * since newcomers know nothing else.
 */
#include "base/knob.h"
#include "comm/comm.h"
#include <stdlib.h>
#include <string.h>

struct choice {
    int32_t color, key;
    uint32_t rank;
};

static int by_key(const void *a, const void *b)
{
    const struct choice *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

static bool was_revoked(struct choir_comm *c)
{
    return atomic_load(&c->revoked) || atomic_load(&c->host.broken) == CHOIR_ERR_REVOKED;
}

static enum choir_status check_parent(struct choir_comm *c, struct choir_comm **child, bool alive)
{
    enum choir_status st = comm_check(c);
    if (st != CHOIR_OK)
        return st;
    if (!child)
        return comm_fail(c, CHOIR_ERR_POINTER, "pass where to put the handle", "child is NULL");
    if (atomic_load(&c->state) != COMM_READY)
        return comm_fail(c, CHOIR_ERR_STATE, "wait until choir_comm_status is CHOIR_OK",
                         "comm is not ready");
    st = (enum choir_status)atomic_load(&c->host.broken);
    if (alive && st != CHOIR_OK && !was_revoked(c))
        return comm_fail(c, st, "choir_comm_shrink makes a working communicator of the survivors",
                         "comm has failed");
    return CHOIR_OK;
}

static struct choir_comm *make_child(struct choir_comm *parent, const struct choir_config *config,
                                     enum choir_status *st)
{
    struct choir_config inherited = parent->config;
    inherited.name = NULL;
    struct choir_comm *c = comm_alloc(config ? config : &inherited, st);
    if (c && parent->has_secret) {
        c->id = parent->id;
        host_secret_add(c->id.secret);
        c->has_secret = true;
    }
    return c;
}

static enum choir_status finish_child(struct choir_comm *c, struct choir_comm **child,
                                      enum choir_status st)
{
    if (st == CHOIR_OK) {
        *child = c;
        st = creation_finish(c, child);
    }
    if (st < 0) {
        struct choir_error e = *base_error_thread();
        comm_free(c);
        *base_error_thread() = e;
        *child = NULL;
    }
    return st;
}

/* The same ranks once more, with a tree to agree in and no more. */
static enum choir_status make_tree(struct choir_comm *comm, struct choir_comm **tree)
{
    enum choir_status st;
    uint32_t n = comm->host.size;
    struct choir_comm *c = make_child(comm, NULL, &st);
    if (!c)
        return st;
    uint64_t name[] = {comm->host.key, comm->splits++};
    c->host.key = base_hash(name, sizeof(name), 6);
    c->host.rank = comm->host.rank;
    c->host.size = n;
    c->host.member = malloc(n * sizeof(*c->host.member));
    if (c->host.member) {
        memcpy(c->host.member, comm->host.member, n * sizeof(*c->host.member));
        st = creation_open_host(c);
    } else {
        st = base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u ranks", n);
    }
    if (st != CHOIR_OK) {
        comm_free(c);
        return st;
    }
    atomic_store(&c->state, COMM_READY);
    *tree = c;
    return CHOIR_OK;
}

enum choir_status choir_comm_split(choir_comm *comm, int color, int key,
                                   const struct choir_config *config, choir_comm **child)
{
    enum choir_status st = check_parent(comm, child, true);
    if (st == CHOIR_OK && color < 0 && color != CHOIR_COLOR_NONE)
        st = comm_fail(comm, CHOIR_ERR_ARGUMENT, "give a color >= 0, or CHOIR_COLOR_NONE",
                       "color is %d", color);
    if (st != CHOIR_OK)
        return st;
    struct choir_comm *over = comm, *c = make_child(comm, config, &st);
    if (!c)
        return st;
    if (was_revoked(comm))
        st = make_tree(comm, &over);
    struct choice mine = {color, key, comm->host.rank};
    if (st == CHOIR_OK)
        st = creation_start_split(c, over, over != comm, color);
    if (st == CHOIR_OK)
        st = tree_start(over, &mine, sizeof(mine));
    return finish_child(c, child, st);
}

/* The members of one colour, in order of key, then rank. */
enum choir_status split_members(struct choir_comm *parent, const uint8_t *all, uint32_t bytes,
                                int color, struct split_result *out)
{
    uint32_t n = parent->host.size,
             each = sizeof(struct tree_record) + (sizeof(struct choice) + 7) / 8 * 8, size = 0;
    struct choice *list = malloc(n * sizeof(*list));
    struct host_peer **members = malloc(n * sizeof(*members));
    enum choir_status st = CHOIR_OK;
    if (!list || !members)
        st = base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u ranks", n);
    else if (bytes != (uint64_t)n * each)
        st = base_fail(CHOIR_ERR_MISMATCH, "all ranks of the communicator call choir_comm_split",
                       "the ranks' answers to a split are not complete");
    for (uint32_t i = 0; i < n && st == CHOIR_OK; i++) {
        struct choice one;
        memcpy(&one, all + (uint64_t)i * each + sizeof(struct tree_record), sizeof(one));
        if (one.rank < n && one.color == color)
            list[size++] = one;
    }
    if (st != CHOIR_OK || color == CHOIR_COLOR_NONE)
        goto out;
    qsort(list, size, sizeof(*list), by_key);
    for (uint32_t i = 0; i < size; i++) {
        members[i] = parent->host.member[list[i].rank];
        if (list[i].rank == parent->host.rank)
            out->rank = i;
    }
    out->size = size;
    out->members = members;
    members = NULL;
    uint64_t name[] = {parent->host.key, parent->children, (uint64_t)(int64_t)color};
    out->key = base_hash(name, sizeof(name), 3);
out:
    parent->children++;
    free(list);
    free(members);
    return st;
}

static enum choir_status mark_excluded(struct choir_comm *comm, const int *exclude, int count,
                                       uint8_t *out)
{
    for (int i = 0; i < count; i++) {
        if (exclude[i] < 0 || (uint32_t)exclude[i] >= comm->host.size)
            return comm_fail(comm, CHOIR_ERR_RANK, "ranks run from 0 to size - 1",
                             "exclude[%d] is %d", i, exclude[i]);
        out[exclude[i]] = 1;
    }
    if (out[comm->host.rank])
        return comm_fail(comm, CHOIR_ERR_RANK, "excluded ranks do not call choir_comm_shrink",
                         "exclude names the calling rank %u", comm->host.rank);
    return CHOIR_OK;
}

enum choir_status choir_comm_shrink(choir_comm *comm, const int *exclude, int exclude_count,
                                    const struct choir_config *config, choir_comm **child)
{
    enum choir_status st = check_parent(comm, child, false);
    if (st != CHOIR_OK)
        return st;
    if (exclude_count < 0 || (exclude_count && !exclude))
        return comm_fail(comm, CHOIR_ERR_ARGUMENT,
                         "name the ranks that are left out, the same on all others",
                         "exclude_count is %d", exclude_count);
    uint32_t n = comm->host.size, size = 0, rank = 0;
    uint8_t *out = calloc(n, 1);
    struct host_peer **members = malloc(n * sizeof(*members));
    struct choir_comm *c = NULL;
    if (!out || !members)
        st = comm_fail(comm, CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u ranks", n);
    else
        st = mark_excluded(comm, exclude, exclude_count, out);
    if (st == CHOIR_OK)
        c = make_child(comm, config, &st);
    for (uint32_t r = 0; r < n && c; r++) {
        if (r == comm->host.rank)
            rank = size;
        if (!out[r])
            members[size++] = comm->host.member[r];
    }
    if (!c) {
        free(members);
        free(out);
        return st;
    }
    /* Splits that failed on some ranks only must not matter: the name is the parent's and who is left out. */
    uint64_t name[] = {comm->host.key, base_hash(out, n, 4), comm->shrinks++};
    free(out);
    st = creation_start_members(c, base_hash(name, sizeof(name), 5), rank, size, members);
    return finish_child(c, child, st);
}

enum choir_status choir_comm_grow(choir_comm *comm, const struct choir_id *id, int rank, int size,
                                  const struct choir_config *config, choir_comm **grown)
{
    struct choir_config inherited;
    if (comm) {
        enum choir_status st = comm_check(comm);
        if (st != CHOIR_OK)
            return st;
        if (size < (int)comm->host.size)
            return comm_fail(comm, CHOIR_ERR_ARGUMENT,
                             "size counts old and new ranks; choir_comm_shrink leaves ranks out",
                             "size is %d, the communicator has %u ranks", size, comm->host.size);
        inherited = comm->config;
        inherited.name = NULL;
    }
    return choir_comm_create(id, rank, size, config || !comm ? config : &inherited, grown);
}
