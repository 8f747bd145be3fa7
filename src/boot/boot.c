/* SPDX-License-Identifier: Apache-2.0 */
/* boot.c: the entry points that belong to neither side of a rendezvous: start of the module, ids, fork. */
#include "boot/boot.h"
#include "base/knob.h"
#include "boot/join.h"
#include "boot/server.h"
#include <pthread.h>
#include <sodium.h>

static void fork_prepare(void)
{
    server_fork_prepare();
    join_fork_prepare();
}

static void fork_parent(void)
{
    join_fork_parent();
    server_fork_parent();
}

static void fork_child(void)
{
    join_fork_child();
    server_fork_child();
}

static void start(void)
{
    choir_assert(sodium_init() >= 0);
    choir_assert(!pthread_atfork(fork_prepare, fork_parent, fork_child));
}

enum choir_status boot_begin(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start);
    base_log_init();
    return knob_load();
}

enum choir_status boot_id_create(struct choir_id *id)
{
    struct address local[ADDRESSES_MOST];
    struct server_want want = {.listen = local};
    if (!id)
        return base_fail(CHOIR_ERR_POINTER, "pass a struct choir_id to fill", "id is NULL");
    enum choir_status s = boot_begin();
    s = s ? s : listen_ports_knobs(&want.ports);
    s = s ? s : address_local(local, ADDRESSES_MOST, &want.listen_count);
    if (s)
        return s;
    randombytes_buf(want.secret, sizeof(want.secret));
    s = server_start(&want, id);
    sodium_memzero(&want, sizeof(want));
    return s;
}

enum choir_status boot_id_cancel(const struct choir_id *id)
{
    struct id_view view;
    unsigned char name[16];
    enum choir_status s = id_view(id, &view);
    if (s)
        return s;
    boot_secret_name(view.secret, name);
    sodium_memzero(&view, sizeof(view));
    return server_cancel(name)
               ? CHOIR_OK
               : base_fail(CHOIR_ERR_STATE, "cancel in the process that made the id, once",
                           "this process does not serve the id (any more)");
}

enum choir_status boot_join(const struct choir_id *id, uint32_t rank, uint32_t size,
                            const void *address, uint32_t bytes, uint64_t deadline_ns,
                            const _Atomic int *cancel, struct boot_peers *peers)
{
    struct boot_join *j;
    enum choir_status s = boot_join_start(id, rank, size, address, bytes, deadline_ns, &j);
    while (!s && (s = boot_join_test(j, peers)) == CHOIR_IN_PROGRESS) {
        if (cancel && atomic_load_explicit(cancel, memory_order_relaxed)) {
            boot_join_cancel(j);
            return base_fail(CHOIR_ERR_ABORTED, "create a new communicator",
                             "creation was aborted");
        }
        boot_join_wait(j, cancel ? base_now_ns() + 20000000u : UINT64_MAX);
        s = CHOIR_OK;
    }
    return s;
}
