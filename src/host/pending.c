/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pending.c: messages whose source is local memory. They are posted and stream in the background while the steps go on;
 * a later write to their source waits for them (host_pending_blocks). Messages to one peer go out in the order
 * posted. A large one in one piece is left where it is and read by the peer (pull), if the peer can.
 */
#include "host/host.h"
#include <string.h>

void host_pending_post(struct host_op *op, struct host_run *run, const struct host_rstep *r,
                       struct host_link *link)
{
    const struct host_place *from = &r->place[0];
    struct host_pending *p = &run->pending[run->pendings++];
    struct host_seg *seg = run->pending_seg + run->pending_segs;
    memcpy(seg, from->seg, from->segs * sizeof(*seg));
    run->pending_segs += from->segs;
    *p = (struct host_pending){.link = link,
                               .base = host_op_base(op, run, from->buf),
                               .seg = seg,
                               .segs = from->segs,
                               .exchanged = r->exchanged,
                               .bytes = r->bytes};
    link->tx[run->lane].queued++;
}

/* Copies [from, from + bytes) of the message to `to`. */
static void gather(const struct host_pending *p, uint64_t from, uint64_t bytes, uint8_t *to)
{
    for (uint32_t i = 0; i < p->segs && bytes; i++) {
        const struct host_seg *s = &p->seg[i];
        if (from >= s->bytes) {
            from -= s->bytes;
            continue;
        }
        uint64_t n = base_min(s->bytes - from, bytes);
        reduce_copy(to, p->base + s->at + from, n, 0);
        to += n, bytes -= n, from = 0;
    }
}

static bool put_fragment(struct host_op *op, struct host_run *run, struct host_pending *p,
                         uint64_t n)
{
    if (p->segs <= 1) {
        const uint8_t *source = p->segs ? p->base + p->seg[0].at + p->done : p->base;
        return host_link_put(p->link, run->lane, source, n, op->signature, n > HOST_LEND_BYTES);
    }
    void *room = host_link_room(p->link, run->lane, n);
    if (!room)
        return false;
    gather(p, p->done, n, room);
    host_link_publish(p->link, run->lane, n, op->signature);
    return true;
}

/* Whether the message is left for the peer to read where it lies: by mapping it (*view), or by reading this process's
 * memory. */
static bool may_pull(const struct host_op *op, const struct host_run *run,
                     const struct host_pending *p, struct host_view *view)
{
    const struct host_link *link = p->link;
    *view = (struct host_view){0};
    if (!link->tx[run->lane].line || p->segs != 1 ||
        !host_stays(op, p->exchanged, link, run->lane, p->bytes))
        return false;
    if (!link->same && host_shared_find(p->base + p->seg[0].at, p->bytes, view) &&
        view->transport != link->end->transport)
        view->key = 0;
    return link->pulls || view->key;
}

/* Publishes as much as there is room for; true if anything. */
static bool stream(struct host_op *op, struct host_run *run, struct host_pending *p)
{
    struct lane_tx *tx = &p->link->tx[run->lane];
    if (!p->started) {
        p->first = tx->next + 1;
        struct host_view view;
        p->pull = may_pull(op, run, p, &view);
        if (p->pull && !host_link_put_pull(p->link, run->lane, p->base + p->seg[0].at, p->bytes,
                                           &view, op->signature))
            return false;
        p->started = true;
        p->published = p->pull;
    }
    bool moved = p->pull;
    while (!p->published) {
        uint64_t n = base_min(p->bytes - p->done, op->bound->slot_bytes);
        if (!put_fragment(op, run, p, n))
            return moved;
        p->done += n;
        p->published = p->done == p->bytes;
        moved = true;
    }
    p->last = tx->next;
    tx->queued--;
    return moved;
}

/* Bytes from the message's start that nobody will read any more. */
static uint64_t read_bytes(const struct host_run *run, const struct host_pending *p)
{
    struct lane_tx *tx = &p->link->tx[run->lane];
    if (!p->started)
        return 0;
    if (p->pull) {
        lane_tx_refresh(tx);
        if ((int32_t)(tx->consumed - p->last) >= 0)
            return p->bytes;
        return tx->consumed + 1 == p->last
                   ? atomic_load_explicit(&tx->back->pulled, memory_order_acquire)
                   : 0;
    }
    if (tx->line)
        return p->done;
    uint32_t freed = host_link_freed(p->link, run->lane) + 1 - p->first;
    return base_min(p->done, (uint64_t)((int32_t)freed > 0 ? freed : 0) * run->slot_bytes);
}

bool host_pending_advance(struct host_op *op, struct host_run *run)
{
    bool moved = false;
    uint32_t pass = ++op->comm->pass;
    for (uint32_t i = run->open; i < run->pendings; i++) {
        struct host_pending *p = &run->pending[i];
        if (!p->published) {
            struct lane_tx *tx = &p->link->tx[run->lane];
            if (tx->blocked == pass || !host_link_ready(p->link)) {
                tx->blocked = pass; /* it may become ready before the next one is looked at */
                op->waiting = (int)p->link->peer;
                continue;
            }
            moved |= stream(op, run, p);
            if (!p->published)
                tx->blocked = pass;
        }
        if (!p->published || read_bytes(run, p) < p->bytes) {
            op->waiting = (int)p->link->peer;
            continue;
        }
        if (i == run->open)
            run->open++, moved = true;
    }
    return moved;
}

bool host_pending_blocks(const struct host_run *run, const uint8_t *at, uint64_t bytes)
{
    for (uint32_t i = run->open; i < run->pendings; i++) {
        const struct host_pending *p = &run->pending[i];
        uint64_t skip = read_bytes(run, p);
        for (uint32_t k = 0; k < p->segs; k++) {
            uint64_t n = p->seg[k].bytes, gone = base_min(skip, n);
            const uint8_t *from = p->base + p->seg[k].at;
            skip -= gone;
            if (from + gone < at + bytes && at < from + n && gone < n)
                return true;
        }
    }
    return false;
}
