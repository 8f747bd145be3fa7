/* SPDX-License-Identifier: Apache-2.0 */
/*
 * join.c: how the plug-in's two connections come about. Each side listens anew for each peer (there are plug-ins whose
 * listeners take one connection only) and offers the handle over the line; each connects to the other's. Joined is who has
 * had message 0 with the nonce it offered, and the other's word that it has too.
 */
#include "transports/nccl-net/net.h"
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* --- one connection's buffers ----------------------------------------------------------------------------------- */
/* Registered for as long as the connection lasts; not inherited by forks, which would move the pages under the device. */
bool net_half_open(struct choir_endpoint *e, struct net_half *h)
{
    const struct plugin *p = &e->t->plugin;
    size_t bytes = (size_t)NET_BUFFERS * NET_BUFFER;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        net_endpoint_fail(e, CHOIR_ERR_NO_MEMORY, true, "no memory for a connection's buffers");
        return false;
    }
    madvise(memory, bytes, MADV_DONTFORK);
    h->memory = memory;
    int result = p->ops->enlist(p, h->connection, memory, bytes, &h->registered);
    if (result == NCCL_SUCCESS)
        return true;
    munmap(memory, bytes);
    h->memory = NULL;
    net_endpoint_fail(e, CHOIR_ERR_NETWORK, true, "net plug-in %s device %d: regMr: %s", p->name,
                      p->device, plugin_result_text(result));
    return false;
}

void net_half_close(struct choir_endpoint *e, struct net_half *h, bool send)
{
    const struct plugin *p = &e->t->plugin;
    if (h->connection && h->memory)
        p->ops->delist(p, h->connection, h->registered);
    if (h->connection)
        (send ? p->ops->close_send : p->ops->close_receive)(p, h->connection);
    if (h->memory) /* only now the device is through with it */
        munmap(h->memory, (size_t)NET_BUFFERS * NET_BUFFER);
    *h = (struct net_half){.packed = h->packed, .posted = h->packed, .done = h->packed};
}

/* --- steps -------------------------------------------------------------------------------------------------------- */
static void offer(struct choir_endpoint *e)
{
    struct choir_transport *t = e->t;
    struct net_offer *o = &e->own;
    *o = (struct net_offer){
        .magic = NET_MAGIC, .version = NET_VERSION, .message_bytes = t->message_bytes};
    snprintf(o->plugin, sizeof(o->plugin), "%s", t->plugin.name);
    snprintf(o->device, sizeof(o->device), "%s", t->plugin.at.name);
    randombytes_buf(o->nonce, sizeof(o->nonce));
    int result = t->plugin.ops->listen(&t->plugin, t->plugin.device, o->handle, &e->listener);
    if (result != NCCL_SUCCESS || !e->listener) {
        net_endpoint_fail(e, CHOIR_ERR_NETWORK, true, "net plug-in %s device %d: listen: %s",
                          t->plugin.name, t->plugin.device, plugin_result_text(result));
        return;
    }
    net_line_say(e, NET_OFFER, 0, o, sizeof(*o));
    e->offered = true;
    e->since_ns = base_now_ns();
}

/* Success without a connection: not yet. */
static uint32_t connect_out(struct choir_endpoint *e)
{
    const struct plugin *p = &e->t->plugin;
    if (e->tx.connection)
        return 0;
    int result = p->ops->connect(p, p->device, e->other.handle, &e->tx.connection);
    if (result != NCCL_SUCCESS)
        net_endpoint_fail(e, CHOIR_ERR_NETWORK, true,
                          "net plug-in %s device %d: connect to device %s: %s", p->name, p->device,
                          e->other.device, plugin_result_text(result));
    else if (e->tx.connection && net_half_open(e, &e->tx))
        net_send_hello(e);
    return e->tx.connection != NULL;
}

static uint32_t accept_in(struct choir_endpoint *e)
{
    const struct plugin *p = &e->t->plugin;
    if (e->rx.connection)
        return 0;
    int result = p->ops->accept(p, e->listener, &e->rx.connection);
    if (result != NCCL_SUCCESS)
        net_endpoint_fail(e, CHOIR_ERR_NETWORK, true,
                          "net plug-in %s device %d: accept from device %s: %s", p->name, p->device,
                          e->other.device, plugin_result_text(result));
    else if (e->rx.connection)
        net_half_open(e, &e->rx);
    return e->rx.connection != NULL;
}

/* The library hears of a peer that came by itself once it can be used. */
static void joined(struct choir_endpoint *e)
{
    const struct choir_transport_host *h = e->t->host;
    e->t->plugin.ops->close_listen(&e->t->plugin, e->listener);
    e->listener = NULL;
    atomic_store(&e->state, NET_UP);
    if (atomic_load(&e->cookie))
        return;
    void *none = NULL, *cookie = h->accepted(h->context, &e->peer, e);
    if (atomic_compare_exchange_strong(&e->cookie, &none, cookie) && !cookie)
        net_endpoint_close(e); /* it is not wanted */
}

static bool is_late(struct choir_endpoint *e)
{
    if (base_now_ns() - e->since_ns < NET_JOIN_NS)
        return false;
    const struct plugin *p = &e->t->plugin;
    net_endpoint_fail(e, CHOIR_ERR_NETWORK, true,
                      "net plug-in %s device %d: no connection %s device %s for %d s", p->name,
                      p->device, e->tx.connection ? "from" : "to",
                      e->offer_came ? e->other.device : "?", (int)(NET_JOIN_NS / 1000000000));
    return true;
}

uint32_t net_join_step(struct choir_endpoint *e)
{
    struct choir_transport *t = e->t;
    enum choir_status line = t->line_ops->connected(e->line);
    if (e->refused)
        net_endpoint_fail(e, CHOIR_ERR_UNSUPPORTED, true,
                          "net plug-in %s device %d has no more than %d connections",
                          t->plugin.name, t->plugin.device, t->plugin.at.connections_most);
    else if (line < 0)
        net_endpoint_fail(e, line == CHOIR_ERR_PEER_DEAD ? CHOIR_ERR_NETWORK : line, false,
                          "the line to the peer: %s", choir_status_string(line));
    else if (line == CHOIR_OK && !e->offered)
        offer(e);
    if (atomic_load(&e->state) == NET_JOINING && e->offered && !(e->hello_good && e->welcomed) &&
        !is_late(e) && e->offer_came) {
        connect_out(e);
        if (atomic_load(&e->state) == NET_JOINING)
            accept_in(e);
    }
    if (atomic_load(&e->state) != NET_JOINING || !e->hello_good || !e->welcomed)
        return 0;
    joined(e);
    return 1;
}
