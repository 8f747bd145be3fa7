/* SPDX-License-Identifier: Apache-2.0 */
/*
 * life.c: the public life of a communicator: create, finalize, destroy, abort, and what can be asked of it. The steps
 * of coming to life are in creation.c.
 */
#include "base/knob.h"
#include "comm/gpu.h"
#include "comm/observe.h"
#include <sched.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum choir_status comm_check(const struct choir_comm *c)
{
    if (!c || ((uintptr_t)c & 7))
        return base_fail(CHOIR_ERR_POINTER, "pass the communicator that creation returned",
                         "comm is %s", c ? "not a communicator" : "NULL");
    if (c->magic != COMM_MAGIC)
        return base_fail(CHOIR_ERR_POINTER, "do not use a communicator after choir_comm_destroy",
                         "comm is not a live communicator");
    if (c->generation != host_generation)
        return base_fail(CHOIR_ERR_FORKED, "create communicators in the child itself",
                         "comm belongs to the parent process");
    return CHOIR_OK;
}

enum choir_status comm_check_made(struct choir_comm *c)
{
    enum choir_status st = comm_check(c);
    if (st == CHOIR_OK && atomic_load(&c->state) == COMM_CREATING)
        st = base_fail(CHOIR_ERR_STATE, "wait until choir_comm_status is CHOIR_OK",
                       "comm is being created");
    return st;
}

static enum choir_status take_config(struct choir_comm *c, const struct choir_config *config)
{
    c->config = (struct choir_config)CHOIR_CONFIG_INIT;
    if (config) {
        if (config->bytes < 8 || config->version < 1 || config->version > CHOIR_CONFIG_VERSION)
            return base_fail(CHOIR_ERR_ARGUMENT, "initialise it with CHOIR_CONFIG_INIT",
                             "config has %u bytes and version %u", config->bytes, config->version);
        memcpy(&c->config, config, base_min(config->bytes, sizeof(c->config)));
    }
    if (c->config.name)
        snprintf(c->name, sizeof(c->name), "%s", c->config.name);
    c->config.name = c->name;
    c->timeout_ns = c->config.timeout_ns ? c->config.timeout_ns : (uint64_t)knob_int(KNOB_TIMEOUT);
    if (!c->config.create_timeout_ns)
        c->config.create_timeout_ns = (uint64_t)knob_int(KNOB_CREATE_TIMEOUT);
    if (!c->config.aggregate_v)
        c->config.aggregate_v = knob_int(KNOB_AGGREGATE_V) ? 1 : -1;
    if (c->config.max_blocks < 0)
        return base_fail(CHOIR_ERR_ARGUMENT, "pass 1 or more, or 0 for no limit",
                         "config.max_blocks is %d", c->config.max_blocks);
    if (!c->config.max_blocks)
        c->config.max_blocks = (int32_t)knob_int(KNOB_CUDA_BLOCKS);
    return CHOIR_OK;
}

struct choir_comm *comm_alloc(const struct choir_config *config, enum choir_status *status)
{
    struct choir_comm *c =
        aligned_alloc(BASE_LINE, (sizeof(*c) + BASE_LINE - 1) / BASE_LINE * BASE_LINE);
    if (!c) {
        *status = base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a communicator");
        return NULL;
    }
    memset(c, 0, sizeof(*c));
    c->magic = COMM_MAGIC;
    c->generation = host_generation;
    tree_init(&c->tree);
    c->host.error.status = CHOIR_OK;
    *status = host_start();
    c->started = *status == CHOIR_OK;
    if (*status == CHOIR_OK)
        *status = take_config(c, config);
    if (*status == CHOIR_OK)
        return c;
    comm_free(c);
    return NULL;
}

void comm_free(struct choir_comm *c)
{
    creation_free(c);
    c->magic = 0;
    cycle_forget(c);
    if (c->host_open && !host_comm_hide(&c->host))
        return;
    watch_close(c); /* now: an upcall may have begun a flood */
    meeting_end(c);
    device_close(c);
    observe_comm_end(c);
    if (c->host_open)
        host_comm_close(&c->host);
    if (c->has_secret)
        host_secret_forget(c->id.secret);
    sodium_memzero(&c->id, sizeof(c->id));
    counts_free(c);
    plan_cache_free(c->plans);
    plan_table_free(c->table);
    plan_layout_free(c->layout);
    tree_free(&c->tree);
    free(c->host.member);
    free((void *)c->gone);
    free(c->scaled);
    free(c->packed);
    if (c->started)
        host_stop();
    free(c);
}

enum choir_status choir_id_create(struct choir_id *id)
{
    enum choir_status st = knob_load();
    if (st != CHOIR_OK)
        return st;
    if (!id)
        return base_fail(CHOIR_ERR_POINTER, "pass the address of a struct choir_id", "id is NULL");
    return boot_id_create(id);
}

static enum choir_status create(const struct choir_id *id, uint32_t rank, uint32_t size,
                                const struct choir_config *config, struct choir_comm **comm)
{
    enum choir_status st;
    struct choir_comm *c = comm_alloc(config, &st);
    if (!c)
        return st;
    st = creation_start_id(c, id, rank, size);
    if (st == CHOIR_OK)
        *comm = c, st = creation_finish(c, comm);
    if (st < 0) {
        struct choir_error e = *base_error_thread(); /* freeing may overwrite it */
        comm_free(c);
        *base_error_thread() = e;
        *comm = NULL;
    }
    return st;
}

enum choir_status choir_comm_create(const struct choir_id *id, int rank, int size,
                                    const struct choir_config *config, choir_comm **comm)
{
    if (!id || !comm)
        return base_fail(CHOIR_ERR_POINTER,
                         "pass the id of choir_id_create and where to put the handle", "%s is NULL",
                         id ? "comm" : "id");
    if (size < 1)
        return base_fail(CHOIR_ERR_ARGUMENT, "size is the number of ranks, at least 1",
                         "size is %d", size);
    if (rank < 0 || rank >= size)
        return base_fail(CHOIR_ERR_RANK, "ranks run from 0 to size - 1", "rank %d is not in 0..%d",
                         rank, size - 1);
    return create(id, (uint32_t)rank, (uint32_t)size, config, comm);
}

static enum choir_status create_auto(const struct choir_config *config, struct choir_comm **comm)
{
    enum choir_status st = knob_load();
    if (st != CHOIR_OK)
        return st;
    uint64_t limit =
        config && config->bytes >= offsetof(struct choir_config, name) && config->create_timeout_ns
            ? config->create_timeout_ns
            : (uint64_t)knob_int(KNOB_CREATE_TIMEOUT);
    struct boot_launch launch;
    st = boot_launch_detect(base_now_ns() + limit, &launch);
    if (st != CHOIR_OK)
        return st;
    st = create(&launch.id, launch.rank, launch.size, config, comm);
    sodium_memzero(&launch, sizeof(launch));
    return st;
}

enum choir_status choir_comm_create_auto(const struct choir_config *config, choir_comm **comm)
{
    if (!comm)
        return base_fail(CHOIR_ERR_POINTER, "pass where to put the handle", "comm is NULL");
    enum choir_status st = create_auto(config, comm);
    if (st < 0) /* launcher and environment decide here: who set them may see no more than this */
        base_error_say();
    return st;
}

enum choir_status choir_comm_finalize(choir_comm *c)
{
    enum choir_status st = comm_check_made(c);
    if (st != CHOIR_OK)
        return st;
    /* Operations of streams: all that were called before have ended. */
    staged_drain(c);
    while (atomic_load(&c->served) != atomic_load(&c->tickets) && !atomic_load(&c->host.broken))
        sched_yield();
    c->memo.bound = NULL;
    uint32_t ready = COMM_READY;
    atomic_compare_exchange_strong(&c->state, &ready, COMM_FINALIZED);
    return choir_comm_status(c);
}

enum choir_status choir_comm_destroy(choir_comm *c)
{
    enum choir_status st = comm_check(c);
    if (st != CHOIR_OK)
        return st == CHOIR_ERR_FORKED ? CHOIR_OK : st;
    if (c->host_open && atomic_load(&c->state) != COMM_CREATING)
        choir_comm_finalize(c);
    else if (c->host_open)
        comm_break_aborted(c);
    watch_close(c); /* a verdict goes before the goodbye */
    if (c->host_open)
        watch_say_bye(c, COMM_DESTROYED);
    comm_free(c);
    return CHOIR_OK;
}

void comm_break_aborted(struct choir_comm *c)
{
    host_comm_break(&c->host, CHOIR_ERR_ABORTED,
                    &(struct base_error_at){(int)c->host.rank, -1, 0, 0, NULL},
                    "destroy the communicator; choir_comm_shrink makes one of the others",
                    "rank %u aborted the communicator", c->host.rank);
}

/* One that is being made belongs to whoever makes it, who looks at the mark before each step and once it is ready. */
enum choir_status choir_comm_abort(choir_comm *c)
{
    enum choir_status st = comm_check(c);
    if (st != CHOIR_OK)
        return st;
    atomic_store(&c->aborted, true);
    if (atomic_load(&c->state) != COMM_CREATING && c->host_open)
        comm_break_aborted(c);
    return CHOIR_OK;
}

enum choir_status choir_comm_revoke(choir_comm *c)
{
    enum choir_status st = comm_check_made(c);
    if (st != CHOIR_OK)
        return st;
    atomic_store(&c->revoked, true);
    host_comm_break(&c->host, CHOIR_ERR_REVOKED,
                    &(struct base_error_at){(int)c->host.rank, -1, 0, 0, NULL},
                    "choir_comm_shrink and choir_comm_split make working ones of the survivors",
                    "rank %u revoked the communicator", c->host.rank);
    return CHOIR_OK;
}

enum choir_status choir_comm_status(choir_comm *c)
{
    enum choir_status st = comm_check(c);
    if (st != CHOIR_OK)
        return st;
    st = (enum choir_status)atomic_load(&c->host.broken);
    if (st != CHOIR_OK)
        return st;
    return atomic_load(&c->state) == COMM_CREATING ? CHOIR_IN_PROGRESS : CHOIR_OK;
}

enum choir_status choir_comm_rank(choir_comm *c, int *rank)
{
    enum choir_status st = comm_check(c);
    if (st == CHOIR_OK && !rank)
        st = base_fail(CHOIR_ERR_POINTER, "pass the address of an int", "rank is NULL");
    if (st == CHOIR_OK)
        *rank = (int)c->host.rank;
    return st;
}

enum choir_status choir_comm_size(choir_comm *c, int *size)
{
    enum choir_status st = comm_check(c);
    if (st == CHOIR_OK && !size)
        st = base_fail(CHOIR_ERR_POINTER, "pass the address of an int", "size is NULL");
    if (st == CHOIR_OK)
        *size = (int)c->host.size;
    return st;
}

enum choir_status choir_comm_memory(choir_comm *c, struct choir_memory *memory)
{
    enum choir_status st = comm_check(c);
    if (st != CHOIR_OK)
        return st;
    if (!memory || memory->bytes < offsetof(struct choir_memory, device_bytes))
        return base_fail(CHOIR_ERR_ARGUMENT, "set memory->bytes = sizeof(struct choir_memory)",
                         "memory is %s", memory ? "too small" : "NULL");
    memory->private_bytes = atomic_load(&c->host.private_bytes) + sizeof(*c) + c->scaled_bytes +
                            c->packed_bytes + device_saved(c) +
                            (c->counted.all_words + 2 * c->counted.key_words) * 8 +
                            c->host.size * sizeof(struct host_peer *);
    memory->shared_bytes = atomic_load(&c->host.shared_bytes);
    memory->plans = c->plans ? plan_cache_count(c->plans) : 0;
    memory->peers = atomic_load(&c->host.links);
    /* Programs of before these members do not have them. */
    if (memory->bytes >= offsetof(struct choir_memory, pinned_bytes))
        memory->device_bytes = device_bytes(c);
    if (memory->bytes >= offsetof(struct choir_memory, suspended_bytes))
        memory->pinned_bytes = staged_pinned(c);
    if (memory->bytes >= sizeof(*memory))
        memory->suspended_bytes = device_suspended(c);
    return CHOIR_OK;
}

enum choir_status choir_comm_last_error(choir_comm *c, struct choir_error *error)
{
    if (!error || error->bytes < sizeof(error->bytes) + sizeof(error->status))
        return CHOIR_ERR_ARGUMENT;
    struct choir_error e = *base_error_thread();
    if (c) {
        if (comm_check(c) != CHOIR_OK)
            return CHOIR_ERR_POINTER;
        if (!c->host_open) {
            e = c->host.error;
        } else {
            pthread_mutex_lock(&c->host.lock);
            e = c->host.error;
            pthread_mutex_unlock(&c->host.lock);
        }
    }
    uint32_t bytes = base_min(error->bytes, (uint32_t)sizeof(e));
    memcpy(error, &e, bytes);
    error->bytes = bytes;
    return CHOIR_OK;
}
