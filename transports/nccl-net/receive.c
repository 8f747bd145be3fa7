/* SPDX-License-Identifier: Apache-2.0 */
/*
 * receive.c: messages of the plug-in into frames. All buffers are posted beforehand, so a message that comes meets the
 * oldest: what it holds is known only then, and payloads are copied from there to where the library wants them. The caller
 * drives.
 */
#include "transports/nccl-net/net.h"
#include <sodium.h>
#include <string.h>

static void *cookie(const struct choir_endpoint *e)
{
    return atomic_load_explicit(&e->cookie, memory_order_relaxed);
}

static bool is_up(const struct choir_endpoint *e)
{
    return atomic_load(&e->state) == NET_UP;
}

/* --- the plug-in's half -------------------------------------------------------------------------------------- */
static void post(struct choir_endpoint *e)
{
    const struct plugin *p = &e->t->plugin;
    struct net_half *h = &e->rx;
    while (h->posted - h->done < NET_BUFFERS && !h->broken) {
        uint32_t i = (uint32_t)(h->posted % NET_BUFFERS);
        h->request[i] = NULL;
        int result = p->ops->ireceive(p, h->connection, net_slot(h, h->posted), e->t->message_bytes,
                                      h->registered, &h->request[i]);
        if (result != NCCL_SUCCESS)
            net_endpoint_error(e, h, "irecv", result);
        if (result != NCCL_SUCCESS || !h->request[i])
            break;
        h->posted++;
    }
}

/* The oldest: messages are paired in the order of sending and posting, and read in it. */
static bool take(struct choir_endpoint *e)
{
    const struct plugin *p = &e->t->plugin;
    struct net_half *h = &e->rx;
    if (h->done == h->posted || h->broken)
        return false;
    int done = 0, bytes = 0;
    int result = p->ops->test(p, h->request[h->done % NET_BUFFERS], &done, &bytes);
    if (result != NCCL_SUCCESS)
        net_endpoint_error(e, h, "test of a receive", result);
    if (result != NCCL_SUCCESS || !done)
        return false;
    struct net_message m = {0};
    if (bytes >= (int)sizeof(m))
        memcpy(&m, net_slot(h, h->done), sizeof(m));
    if (bytes < (int)sizeof(m) || m.number != h->done || m.bytes != (uint32_t)bytes - sizeof(m)) {
        net_endpoint_fail(e, CHOIR_ERR_PROTOCOL, true,
                          "message %llu of net plug-in %s has %d bytes, and calls itself %llu",
                          (unsigned long long)h->done, e->t->plugin.name, bytes,
                          (unsigned long long)m.number);
        return false;
    }
    e->open = true;
    e->open_at = 0;
    e->open_bytes = m.bytes;
    return true;
}

/* --- frames ------------------------------------------------------------------------------------------------------ */
void net_receive_control(struct choir_endpoint *e, const struct choir_frame *frame,
                         const void *payload)
{
    const struct choir_transport_host *h = e->t->host;
    void *where = NULL;
    if (!is_up(e))
        return;
    if (frame->bytes && (where = h->place(h->context, cookie(e), frame)))
        memcpy(where, payload, frame->bytes);
    if (is_up(e)) /* place may have disconnected it */
        h->arrived(h->context, cookie(e), frame, where);
}

static bool makes_sense(const struct choir_endpoint *e, const struct net_record *r, uint32_t left)
{
    const struct choir_frame *f = &r->frame;
    if (r->bytes > left || f->bytes > CHOIR_FRAME_MOST || r->offset > f->bytes ||
        r->bytes > f->bytes - r->offset || f->kind < CHOIR_FRAME_DATA)
        return false;
    return e->begun ? r->offset == e->frame_at && r->bytes && f->bytes == e->frame.bytes
                    : !r->offset;
}

static void take_record(struct choir_endpoint *e, const struct net_record *r,
                        const unsigned char *payload)
{
    const struct choir_transport_host *h = e->t->host;
    if (!e->begun) {
        e->frame = r->frame;
        e->where = NULL;
        e->begun = true;
        if (r->frame.bytes && is_up(e))
            e->where = h->place(h->context, cookie(e), &e->frame);
    }
    if (e->where && is_up(e) && r->bytes)
        memcpy(e->where + r->offset, payload, r->bytes);
    e->frame_at = r->offset + r->bytes;
    if (e->frame_at < r->frame.bytes)
        return;
    e->begun = false;
    e->frames_in++;
    if (is_up(e))
        h->arrived(h->context, cookie(e), &e->frame, e->where);
}

/* Records of the open message; false: one waits for a control frame that was sent before it, or the endpoint failed. */
static bool read_records(struct choir_endpoint *e)
{
    const unsigned char *body = net_slot(&e->rx, e->rx.done) + sizeof(struct net_message);
    while (e->open_at < e->open_bytes) {
        struct net_record r;
        uint32_t left = e->open_bytes - e->open_at;
        if (left >= sizeof(r))
            memcpy(&r, body + e->open_at, sizeof(r));
        if (left < sizeof(r) || !makes_sense(e, &r, left - (uint32_t)sizeof(r))) {
            net_endpoint_fail(e, CHOIR_ERR_PROTOCOL, true,
                              "a message of net plug-in %s makes no sense", e->t->plugin.name);
            return false;
        }
        if (r.controls > e->controls_in)
            return false;
        const unsigned char *payload = body + e->open_at + sizeof(r);
        e->open_at += base_min((uint32_t)sizeof(r) + NET_ROUND(r.bytes), left);
        take_record(e, &r, payload);
        if (atomic_load(&e->state) == NET_FAILED)
            return false;
    }
    return true;
}

/* Message 0: who connected. The nonce went to the peer over the line, to nobody else. */
static bool read_hello(struct choir_endpoint *e)
{
    const unsigned char *body = net_slot(&e->rx, 0) + sizeof(struct net_message);
    if (e->open_bytes != NET_NONCE || sodium_memcmp(body, e->own.nonce, NET_NONCE)) {
        net_endpoint_fail(e, CHOIR_ERR_AUTH, true,
                          "who connected over net plug-in %s is not who the line leads to",
                          e->t->plugin.name);
        return false;
    }
    e->hello_good = true;
    net_line_say(e, NET_WELCOME, 0, NULL, 0);
    return true;
}

uint32_t net_receive(struct choir_endpoint *e)
{
    uint32_t events = 0;
    if (!e->rx.connection)
        return 0;
    post(e);
    while (events < NET_BATCH && (e->open || take(e))) {
        bool hello = !e->rx.done;
        if (!hello && atomic_load(&e->state) == NET_JOINING)
            break; /* the peer is ahead: it has heard our welcome */
        if (!(hello ? read_hello(e) : read_records(e)))
            break;
        e->open = false;
        e->rx.done++;
        events++;
        post(e);
    }
    return events;
}
