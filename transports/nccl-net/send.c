/* SPDX-License-Identifier: Apache-2.0 */
/*
 * send.c: frames out: the queue, data frames packed into registered buffers as messages of the plug-in, control frames over
 * the line. Always through the buffers: what is lent may be freed by the program at any time, so no registration of it could
 * be kept, and one for each message costs more than the copy (README.md).
 */
#include "transports/nccl-net/net.h"
#include <stdlib.h>
#include <string.h>

/* --- messages under way ---------------------------------------------------------------------------------------- */
static uint32_t test(struct choir_endpoint *e)
{
    const struct plugin *p = &e->t->plugin;
    struct net_half *h = &e->tx;
    uint32_t events = 0;
    while (h->done < h->posted && !h->broken) {
        int done = 0, bytes = 0;
        int result = p->ops->test(p, h->request[h->done % NET_BUFFERS], &done, &bytes);
        if (result != NCCL_SUCCESS)
            net_endpoint_error(e, h, "test of a send", result);
        if (result != NCCL_SUCCESS || !done)
            break;
        h->done++, events++;
    }
    return events;
}

static uint32_t post(struct choir_endpoint *e)
{
    const struct plugin *p = &e->t->plugin;
    struct net_half *h = &e->tx;
    uint32_t events = 0;
    bool stuck = false;
    while (h->posted < h->packed && !h->broken && !stuck) {
        uint32_t i = (uint32_t)(h->posted % NET_BUFFERS);
        h->request[i] = NULL;
        int result = p->ops->isend(p, h->connection, net_slot(h, h->posted), h->bytes[i],
                                   h->registered, &h->request[i]);
        if (result != NCCL_SUCCESS)
            net_endpoint_error(e, h, "isend", result);
        stuck = result != NCCL_SUCCESS || !h->request[i]; /* no room now */
        if (!stuck)
            h->posted++, events++;
    }
    if ((events || stuck) && e->peer_asleep) { /* room may have to be made by the peer */
        e->peer_asleep = false;
        net_line_say(e, NET_RING, h->posted + stuck, NULL, 0);
    }
    return events;
}

static void close_message(struct net_half *h, uint32_t bytes)
{
    struct net_message m = {bytes, 0, h->packed};
    memcpy(net_slot(h, h->packed), &m, sizeof(m));
    h->bytes[h->packed % NET_BUFFERS] = (uint32_t)sizeof(m) + bytes;
    h->packed++;
}

void net_send_hello(struct choir_endpoint *e)
{
    memcpy(net_slot(&e->tx, 0) + sizeof(struct net_message), e->other.nonce, NET_NONCE);
    close_message(&e->tx, NET_NONCE);
}

/* --- the queue ------------------------------------------------------------------------------------------------------ */
static struct net_item *first(struct choir_endpoint *e)
{
    net_acquire(&e->lock);
    struct net_item *i = e->queue;
    net_release(&e->lock);
    return i;
}

static void finish(struct net_item *i, int32_t done)
{
    if (i->request)
        atomic_store_explicit(&i->request->done, done, memory_order_release);
    free(i->kept);
    free(i);
}

static void pop(struct choir_endpoint *e, int32_t done)
{
    net_acquire(&e->lock);
    struct net_item *i = e->queue;
    if (!(e->queue = i->next))
        e->queue_last = &e->queue;
    net_release(&e->lock);
    atomic_fetch_sub(&e->queued, 1);
    finish(i, done);
}

/* As much of the frame as fits behind `at`; returns the bytes taken, 0: nothing does. */
static uint32_t pack(struct choir_endpoint *e, const struct choir_frame *frame,
                     const unsigned char *payload, uint32_t *offset, uint32_t at)
{
    unsigned char *to = net_slot(&e->tx, e->tx.packed) + sizeof(struct net_message) + at;
    uint32_t room = e->message_bytes - (uint32_t)sizeof(struct net_message) - at,
             least = (uint32_t)sizeof(struct net_record) + (frame->bytes > *offset ? 8 : 0);
    if (room < least)
        return 0;
    struct net_record r = {*frame, *offset, 0, e->controls_out};
    r.bytes = base_min(frame->bytes - *offset, (room - (uint32_t)sizeof(r)) & ~7u);
    memcpy(to, &r, sizeof(r));
    if (r.bytes)
        memcpy(to + sizeof(r), payload + *offset, r.bytes);
    *offset += r.bytes;
    e->frames_out += *offset == frame->bytes;
    return (uint32_t)sizeof(r) + NET_ROUND(r.bytes);
}

/* One message of what stands first in the queue, up to a control frame. */
static bool pack_message(struct choir_endpoint *e)
{
    struct net_item *i;
    uint32_t at = 0, taken;
    while ((i = first(e)) && i->frame.kind >= CHOIR_FRAME_DATA &&
           (taken = pack(e, &i->frame, i->payload, &i->at, at))) {
        at += taken;
        if (i->at == i->frame.bytes)
            pop(e, 1);
    }
    if (at)
        close_message(&e->tx, at);
    return at != 0;
}

static void say_control(struct choir_endpoint *e, const struct choir_frame *frame,
                        const void *payload)
{
    unsigned char small[512];
    uint32_t bytes = (uint32_t)sizeof(*frame) + frame->bytes;
    unsigned char *whole = bytes <= sizeof(small) ? small : malloc(bytes);
    if (!whole) {
        net_line_lose(e, CHOIR_ERR_NO_MEMORY, "no memory for a control frame");
        return;
    }
    memcpy(whole, frame, sizeof(*frame));
    if (frame->bytes)
        memcpy(whole + sizeof(*frame), payload, frame->bytes);
    net_line_say(e, NET_FRAME, e->frames_out, whole, bytes);
    e->controls_out++;
    if (whole != small)
        free(whole);
}

static uint32_t work(struct choir_endpoint *e)
{
    uint32_t events = 0;
    struct net_item *i;
    while (atomic_load_explicit(&e->queued, memory_order_relaxed) && (i = first(e))) {
        if (i->frame.kind < CHOIR_FRAME_DATA) {
            say_control(e, &i->frame, i->payload);
            pop(e, 1);
            events++;
        } else if (e->tx.packed - e->tx.done == NET_BUFFERS || !pack_message(e)) {
            break;
        }
    }
    return events;
}

uint32_t net_send_pump(struct choir_endpoint *e)
{
    int state = atomic_load(&e->state);
    if (state == NET_FAILED || !e->tx.connection)
        return 0;
    uint32_t events = test(e);
    if (state != NET_JOINING && !e->tx.broken)
        events += work(e);
    return events + post(e);
}

bool net_send_idle(const struct choir_endpoint *e)
{
    return !atomic_load(&e->queued) && e->tx.done == e->tx.packed;
}

/* After disconnect() the program may free what it lent, yet it is to be delivered. Nothing is added to the queue any more. */
void net_send_keep(struct choir_endpoint *e)
{
    for (struct net_item *i = first(e); i; i = i->next) {
        if (!i->request)
            continue;
        i->kept = malloc(i->frame.bytes);
        if (!i->kept) {
            net_send_abandon(e);
            return;
        }
        memcpy(i->kept, i->payload, i->frame.bytes);
        i->payload = i->kept;
        atomic_store_explicit(&i->request->done, 1, memory_order_release);
        i->request = NULL;
    }
}

void net_send_abandon(struct choir_endpoint *e)
{
    while (first(e))
        pop(e, -1);
}

/* --- the entry --------------------------------------------------------------------------------------------------------- */
/* In one go, where it fits: nothing is queued before it, and a buffer is free. The caller drives. */
static bool send_now(struct choir_endpoint *e, const struct choir_frame *frame, const void *payload)
{
    if (atomic_load(&e->state) != NET_UP || e->tx.broken || atomic_load(&e->queued))
        return false;
    if (frame->kind < CHOIR_FRAME_DATA) {
        say_control(e, frame, payload);
        return true;
    }
    test(e);
    if (e->tx.packed - e->tx.done == NET_BUFFERS ||
        frame->bytes >
            e->message_bytes - sizeof(struct net_message) - sizeof(struct net_record) - 8)
        return false;
    uint32_t offset = 0;
    close_message(&e->tx, pack(e, frame, payload, &offset, 0));
    post(e);
    return true;
}

static struct net_item *item_new(const struct choir_frame *frame, const void *payload,
                                 struct choir_send *request)
{
    bool lent = request && frame->bytes > NET_COPY;
    struct net_item *i = malloc(sizeof(*i) + (lent ? 0 : frame->bytes));
    if (!i)
        return NULL;
    *i = (struct net_item){.frame = *frame};
    i->request = lent ? request : NULL;
    i->payload = lent ? payload : i->copy;
    if (lent)
        atomic_store_explicit(&request->done, 0, memory_order_relaxed);
    else if (frame->bytes)
        memcpy(i->copy, payload, frame->bytes);
    return i;
}

/* Under the lock: whoever fails the endpoint has changed its state before it empties the queue. */
static enum choir_status enqueue(struct choir_endpoint *e, struct net_item *i)
{
    net_acquire(&e->lock);
    int state = atomic_load(&e->state);
    bool open = state == NET_JOINING || state == NET_UP;
    if (open) {
        *e->queue_last = i;
        e->queue_last = &i->next;
        atomic_fetch_add(&e->queued, 1);
    }
    net_release(&e->lock);
    return open ? CHOIR_OK : state == NET_FAILED ? e->why : CHOIR_ERR_STATE;
}

/* Makes no upcall: what fails here is told by the next step. */
enum choir_status net_send(struct choir_endpoint *e, const struct choir_frame *frame,
                           const void *payload, struct choir_send *request)
{
    struct choir_transport *t = e->t;
    if (frame->bytes > CHOIR_FRAME_MOST || (frame->bytes && !payload))
        return base_fail(CHOIR_ERR_ARGUMENT, "", "a frame of %u bytes, at most %u", frame->bytes,
                         CHOIR_FRAME_MOST);
    bool nested, drives = net_try_drive(t, &nested), sent = drives && send_now(e, frame, payload);
    enum choir_status status = CHOIR_OK;
    if (!sent) {
        struct net_item *i = item_new(frame, payload, request);
        bool lent = i && i->request;
        status = i ? enqueue(e, i) : CHOIR_ERR_NO_MEMORY;
        if (status != CHOIR_OK)
            free(i);
        else if (lent)
            status = CHOIR_IN_PROGRESS;
        if (status >= 0 && drives)
            net_send_pump(e);
        else if (status >= 0)
            atomic_store(&t->todo, 1);
    }
    if (drives && atomic_load(&t->armed))
        net_rearm(t, 1);
    if (drives && !nested)
        net_drive_end(t);
    else if (!drives &&
             net_try_drive(t, &nested)) /* the driver may have passed before todo was set */
        net_drive_end(t);
    return status;
}
