/* SPDX-License-Identifier: Apache-2.0 */
/*
 * send.c: the queue of an endpoint. A small payload is copied, a large one lent; both are kept until the peer
 * acknowledged every chunk of them, so that a broken connection can be resumed.
 */
#include "transports/tcp/tcp.h"
#include <stdlib.h>
#include <string.h>

static struct tcp_item *item_at(struct choir_endpoint *e, uint64_t number)
{
    return &e->item[number & (e->item_room - 1)];
}

/* --- copies ------------------------------------------------------------------------------------------- */
static struct tcp_block *block_for(struct choir_endpoint *e, uint32_t bytes, bool must)
{
    struct tcp_block *b = e->block_last;
    if (b && b->used + bytes <= b->room)
        return b;
    if (e->block_count >= TCP_BLOCKS_MOST && !must)
        return NULL;
    uint32_t room = base_max(bytes, (uint32_t)TCP_BLOCK);
    b = malloc(sizeof(*b) + room);
    if (!b)
        return NULL;
    b->next = NULL;
    b->used = b->live = 0;
    b->room = room;
    if (e->block_last)
        e->block_last->next = b;
    else
        e->block = b;
    e->block_last = b;
    e->block_count++;
    return b;
}

static void block_release(struct choir_endpoint *e, struct tcp_block *b)
{
    if (--b->live)
        return;
    b->used = 0;
    if (b == e->block_last)
        return; /* the one to be filled; an idle endpoint keeps it */
    struct tcp_block **at = &e->block;
    while (*at != b)
        at = &(*at)->next;
    *at = b->next;
    e->block_count--;
    free(b);
}

static bool copy(struct choir_endpoint *e, struct tcp_item *i, const void *payload, bool must)
{
    uint32_t bytes = i->frame.bytes;
    if (bytes > TCP_COPY && !must)
        return false;
    struct tcp_block *b = block_for(e, bytes, must);
    if (!b)
        return false;
    memcpy(b->data + b->used, payload, bytes);
    i->payload = b->data + b->used;
    i->block = b;
    b->used = base_min(b->room, (b->used + bytes + 15) & ~15u);
    b->live++;
    return true;
}

/* --- the queue ---------------------------------------------------------------------------------------- */
/* The library's credits bound its length; here it only has to grow to that. */
static struct tcp_item *item_new(struct choir_endpoint *e)
{
    if (e->item_tail - e->item_head == e->item_room) {
        struct tcp_item *more = malloc(2 * e->item_room * sizeof(*more));
        if (!more)
            return NULL;
        for (uint64_t i = e->item_head; i < e->item_tail; i++)
            more[i & (2 * e->item_room - 1)] = *item_at(e, i);
        free(e->item);
        e->item = more;
        e->item_room *= 2;
    }
    struct tcp_item *i = item_at(e, e->item_tail);
    *i = (struct tcp_item){0};
    return i;
}

static bool is_short(const struct tcp_item *i)
{
    return i->frame.bytes <= TCP_KEEP;
}

/* The payload is the caller's again. */
static void give_back(struct choir_endpoint *e, struct tcp_item *i, int32_t done)
{
    if (!i->request)
        return;
    if (is_short(i))
        atomic_fetch_sub_explicit(&e->t->lent, 1, memory_order_relaxed);
    atomic_store_explicit(&i->request->done, done, memory_order_release);
    i->request = NULL;
}

static void item_done(struct choir_endpoint *e, struct tcp_item *i, int32_t done)
{
    if (i->block)
        block_release(e, i->block);
    i->block = NULL;
    give_back(e, i, done);
}

bool tcp_send_lends(const struct tcp_item *i)
{
    return i->request && !is_short(i);
}

/* Writes until nothing is left or every slot is blocked; called with the lock, returns without. What other threads
 * queue meanwhile is written too: they saw `owned`, and it is cleared only after a pass over all slots that found nothing
 * and never let go of the lock. */
static void write_owned(struct choir_endpoint *e)
{
    bool wrote = true;
    e->owned = true;
    e->written = 0;
    while (wrote) {
        wrote = false;
        uint32_t first = e->turn;
        for (uint32_t i = 0; i < e->slot_count; i++)
            wrote |= tcp_write_slot(e->slot[(first + i) % e->slot_count]);
    }
    e->owned = false;
    tcp_release(&e->lock);
}

/* With the lock, which it gives back. */
static void flush(struct choir_endpoint *e)
{
    if (e->owned || !e->up_count)
        tcp_release(&e->lock);
    else
        write_owned(e);
}

/*
 * Short lent payloads that are written are copied, one a call, while there is nothing else to do. To wait for the acknowledgement
 * instead would make an exchange half-duplex: each side's would ride on its next frame, which comes after the other's.
 */
void tcp_send_keep(struct choir_endpoint *e)
{
    if (e->slot_count != 1)
        return;
    tcp_acquire(&e->lock);
    struct tcp_tx *x = &e->slot[0]->tx;
    struct tcp_item *i = NULL;
    for (uint64_t r = x->acked; r < x->next && !i; r++) {
        struct tcp_record *record = &x->record[r % TCP_WINDOW];
        i = item_at(e, record->item);
        if (!i->request || !is_short(i) || record->zerocopy > x->zerocopy.done)
            i = NULL;
    }
    if (i && e->block_count < TCP_BLOCKS_MOST && copy(e, i, i->payload, true)) {
        give_back(e, i, 1);
    } else if (i && !x->solicit && x->kept_out != x->next) {
        x->kept_out = x->next;
        x->solicit = true; /* then the peer has to say so */
        flush(e);
        return;
    }
    tcp_release(&e->lock);
}

void tcp_send_flush(struct choir_endpoint *e)
{
    tcp_acquire(&e->lock);
    flush(e);
}

enum choir_status tcp_send_frame(struct choir_endpoint *e, const struct choir_frame *frame,
                                 const void *payload, struct choir_send *request)
{
    if (frame->bytes > CHOIR_FRAME_MOST || (frame->bytes && !payload))
        return base_fail(CHOIR_ERR_ARGUMENT, "", "a frame of %u bytes, at most %u", frame->bytes,
                         CHOIR_FRAME_MOST);
    if (request)
        atomic_store_explicit(&request->done, 0, memory_order_relaxed);
    bool lent = false;
    enum choir_status status = CHOIR_OK;
    tcp_acquire(&e->lock);
    int state = atomic_load(&e->state);
    struct tcp_item *i = NULL;
    if (state == EP_FAILED || state == EP_CLOSING)
        status = state == EP_FAILED ? e->why : CHOIR_ERR_STATE;
    else if (!(i = item_new(e)))
        status = CHOIR_ERR_NO_MEMORY;
    if (i) {
        i->frame = *frame;
        if (frame->bytes && !copy(e, i, payload, !request)) {
            lent = true;
            i->payload = payload;
            i->request = request;
            if (request && is_short(i))
                atomic_fetch_add_explicit(&e->t->lent, 1, memory_order_relaxed);
        }
        if (lent && !request)
            status = CHOIR_ERR_NO_MEMORY;
        else
            e->item_tail++;
    }
    flush(e);
    return status == CHOIR_OK && lent ? CHOIR_IN_PROGRESS : status;
}

/* --- acknowledgements ------------------------------------------------------------------------------------ */
/* What the peer has received is let go of, but not before the call that wrote it has returned and is accounted
 * for (by another thread perhaps), and the kernel is through with its pages. */
void tcp_send_retire(struct tcp_slot *s)
{
    struct choir_endpoint *e = s->e;
    struct tcp_tx *x = &s->tx;
    uint64_t end = base_min(x->heard, x->next);
    while (x->acked < end && x->record[x->acked % TCP_WINDOW].zerocopy <= x->zerocopy.done) {
        struct tcp_item *i = item_at(e, x->record[x->acked++ % TCP_WINDOW].item);
        if (!--i->open && i->dealt)
            item_done(e, i, 1);
    }
    while (e->item_head < e->item_next && item_at(e, e->item_head)->dealt &&
           !item_at(e, e->item_head)->open)
        e->item_head++;
}

bool tcp_send_acked(struct tcp_slot *s, uint64_t ack)
{
    struct choir_endpoint *e = s->e;
    struct tcp_tx *x = &s->tx;
    if (ack == x->heard) /* only this thread changes it */
        return true;
    tcp_acquire(&e->lock);
    bool valid = ack >= x->heard && ack <= x->end;
    bool full = x->end - x->acked == TCP_WINDOW;
    if (valid) {
        x->heard = ack;
        tcp_send_retire(s);
    }
    bool held = x->acked < base_min(x->heard, x->next);
    if (full)
        flush(e);
    else
        tcp_release(&e->lock);
    if (held)
        tcp_zerocopy_reap(s);
    return valid;
}

void tcp_send_ack(struct tcp_slot *s)
{
    tcp_acquire(&s->e->lock);
    s->tx.ack_due = s->tx.told < atomic_load(&s->got);
    if (s->tx.ack_due)
        flush(s->e);
    else
        tcp_release(&s->e->lock);
}

/* --- resuming and ending (the caller owns e) --------------------------------------------------------------- */
static void tx_reset(struct tcp_slot *s)
{
    struct tcp_tx *x = &s->tx;
    x->header_done = x->broken = x->ack_due = false;
    x->kept_out = UINT64_MAX;
    x->payload_done = x->pend_at = x->pend_bytes = 0;
    x->seal_at = x->seal_bytes = x->seal_whole = x->seal_payload = 0;
    x->seal_header = false;
    tcp_write_unblock(s);
}

void tcp_send_resume(struct tcp_slot *s, uint64_t received)
{
    tcp_acquire(&s->e->lock);
    tx_reset(s);
    s->tx.next = received;
    s->tx.told = atomic_load(&s->got); /* the handshake said so */
    tcp_release(&s->e->lock);
}

void tcp_send_abandon(struct choir_endpoint *e, int32_t done)
{
    for (uint32_t i = 0; i < e->slot_count; i++)
        tcp_zerocopy_abort(e->slot[i]);
    tcp_acquire(&e->lock);
    for (uint64_t n = e->item_head; n < e->item_tail; n++)
        item_done(e, item_at(e, n), done);
    e->item_head = e->item_next = e->item_tail;
    for (uint32_t i = 0; i < e->slot_count; i++) {
        tx_reset(e->slot[i]);
        e->slot[i]->tx.acked = e->slot[i]->tx.heard = e->slot[i]->tx.next = e->slot[i]->tx.end;
        e->slot[i]->tx.broken = true; /* the stream cannot go on behind a hole */
    }
    tcp_release(&e->lock);
}

/* Nothing lent still has to be read: the kernel has all of it, copied. */
static bool lent_is_written(struct choir_endpoint *e)
{
    for (uint64_t n = e->item_next; n < e->item_tail; n++)
        if (item_at(e, n)->request)
            return false;
    for (uint32_t i = 0; i < e->slot_count; i++) {
        const struct tcp_tx *x = &e->slot[i]->tx;
        if (x->zerocopy.done != x->zerocopy.sent)
            return false;
        for (uint64_t r = x->next; r < x->end; r++)
            if (item_at(e, x->record[r % TCP_WINDOW].item)->request)
                return false;
    }
    return true;
}

bool tcp_send_goodbye(struct choir_endpoint *e)
{
    for (uint32_t i = 0; i < e->slot_count; i++)
        if (e->slot[i]->source.fd >= 0)
            tcp_zerocopy_reap(e->slot[i]);
    tcp_acquire(&e->lock);
    struct tcp_item *bye = lent_is_written(e) ? item_new(e) : NULL;
    if (bye) {
        bye->bye = 1;
        e->item_tail++;
        for (uint64_t n = e->item_head; n < e->item_tail; n++)
            give_back(e, item_at(e, n), 1);
    }
    tcp_release(&e->lock);
    if (!bye)
        tcp_send_abandon(e, -1);
    return bye != NULL;
}
