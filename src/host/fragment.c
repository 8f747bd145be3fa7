/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fragment.c: moving fragments over a link that is made (link.c), by lines in mapped memory or by frames. Where frames
 * carry them, the receiver's transport writes them into the same lines (host_link_place, host_link_arrived).
 */
#include "host/host.h"
#include <stdlib.h>
#include <string.h>

/* True if the next line of the lane may be written. */
static bool line_free(struct lane_tx *tx)
{
    if (tx->next - tx->consumed >= LANE_DEPTH)
        lane_tx_refresh(tx);
    return tx->next - tx->consumed < LANE_DEPTH &&
           (!tx->request ||
            atomic_load_explicit(&tx->request[tx->next % LANE_DEPTH].done, memory_order_acquire));
}

static bool room(struct lane_tx *tx, uint64_t bytes, uint64_t *head, uint64_t *offset)
{
    lane_tx_warm(tx, bytes);
    if (lane_tx_room(tx, bytes, head, offset))
        return true;
    lane_tx_refresh(tx);
    return lane_tx_room(tx, bytes, head, offset);
}

/* Fragments of this lane the other way that the engine consumed; telling them counts as told. */
static uint32_t consumed_back(struct host_link *link, uint32_t lane)
{
    struct lane_rx *rx = &link->rx[lane];
    if (!host_link_in(link)) /* pairs with the end of make_inbox, on the transport's thread */
        return 0;
    rx->told = rx->next;
    atomic_store_explicit(&rx->back->consumed, rx->next, memory_order_release);
    return rx->next;
}

static void send_frame(struct host_link *link, uint32_t lane, const void *source, uint64_t bytes,
                       uint32_t signature, uint64_t offset, uint32_t where)
{
    struct lane_tx *tx = &link->tx[lane];
    struct choir_send *request = &tx->request[tx->next % LANE_DEPTH];
    struct choir_frame f = {.bytes = (uint32_t)bytes,
                            .kind = HOST_FRAME_FRAGMENT,
                            .lane = (uint16_t)lane,
                            .comm = link->comm->key,
                            .from = link->comm->rank,
                            .to = link->peer,
                            .sequence = tx->next + 1,
                            .signature = signature,
                            .arg = {offset, where, consumed_back(link, lane)}};
    tx->next++;
    atomic_store_explicit(&request->done, 0, memory_order_relaxed);
    enum choir_status st = host_end_ops(link->end)->send(link->end->endpoint, &f, source, request);
    if (st != CHOIR_IN_PROGRESS)
        atomic_store_explicit(&request->done, 1, memory_order_relaxed);
    if (st < 0)
        host_comm_break(link->comm, st,
                        &(struct base_error_at){(int)link->comm->rank, (int)link->peer, 0, 0,
                                                host_end_ops(link->end)->name},
                        "see the log of that rank", "sending to rank %u failed", link->peer);
}

static void publish(struct host_link *link, struct lane_tx *tx, struct lane_line *line,
                    uint64_t bytes, uint32_t signature, uint32_t where)
{
    line->signature = signature;
    line->bytes = (uint32_t)bytes;
    line->where = where;
    uint32_t number = ++tx->next;
    atomic_store_explicit(&line->sequence, number,
                          memory_order_release); /* pairs with lane_front */
    host_link_ring(link);
}

static uint8_t *lent_ring(struct host_link *link, uint32_t lane)
{
    uint64_t slot = link->comm->slot_bytes, all = lane_ring_at(LANE_COUNT, slot);
    if (!link->lent) {
        link->lent = malloc(all);
        atomic_fetch_add(&link->comm->private_bytes, all);
    }
    return link->lent ? link->lent + lane_ring_at(lane, slot) : NULL;
}

void *host_link_room(struct host_link *link, uint32_t lane, uint64_t bytes)
{
    struct lane_tx *tx = &link->tx[lane];
    uint64_t head, offset;
    if (!line_free(tx))
        return NULL;
    if (tx->line && bytes <= LANE_INLINE)
        return tx->line[tx->next % LANE_DEPTH].data;
    if (!room(tx, bytes, &head, &offset))
        return NULL;
    uint8_t *data = tx->line ? tx->data : lent_ring(link, lane);
    return data ? data + offset : NULL;
}

void host_link_publish(struct host_link *link, uint32_t lane, uint64_t bytes, uint32_t signature)
{
    struct lane_tx *tx = &link->tx[lane];
    uint64_t head = tx->head, offset = 0;
    uint32_t where = LANE_AT_LINE;
    if (bytes > LANE_INLINE || !tx->line) {
        choir_assert(lane_tx_room(tx, bytes, &head, &offset));
        where = bytes <= LANE_INLINE ? LANE_AT_LINE : LANE_AT_DATA;
    }
    where |= lane_tx_ask(tx, head) | (uint32_t)(offset / 64) << 8;
    tx->head = tx->end[tx->next % LANE_DEPTH] = head;
    if (tx->line)
        publish(link, tx, &tx->line[tx->next % LANE_DEPTH], bytes, signature, where);
    else
        send_frame(link, lane, lent_ring(link, lane) + offset, bytes, signature, offset, where);
}

bool host_link_put(struct host_link *link, uint32_t lane, const void *source, uint64_t bytes,
                   uint32_t signature, bool lend)
{
    struct lane_tx *tx = &link->tx[lane];
    if (!tx->line && lend) {
        uint64_t head, offset;
        if (!line_free(tx) || !room(tx, bytes, &head, &offset))
            return false;
        uint32_t where = bytes <= LANE_INLINE ? LANE_AT_LINE : LANE_AT_DATA;
        where |= lane_tx_ask(tx, head) | (uint32_t)(offset / 64) << 8;
        tx->head = tx->end[tx->next % LANE_DEPTH] = head;
        send_frame(link, lane, source, bytes, signature, offset, where);
        return true;
    }
    void *to = host_link_room(link, lane, bytes);
    if (!to)
        return false;
    reduce_copy(to, source, bytes, 0);
    host_link_publish(link, lane, bytes, signature);
    return true;
}

bool host_link_put_pull(struct host_link *link, uint32_t lane, const void *source, uint64_t bytes,
                        const struct host_view *view, uint32_t signature)
{
    struct lane_tx *tx = &link->tx[lane];
    if (!line_free(tx))
        return false;
    struct lane_line *line = &tx->line[tx->next % LANE_DEPTH];
    line->pull.address = (uint64_t)(uintptr_t)source;
    line->pull.bytes = bytes;
    line->pull.key = view->key;
    line->pull.offset = view->offset;
    tx->end[tx->next % LANE_DEPTH] = tx->head;
    publish(link, tx, line, 0, signature, LANE_AT_SENDER | LANE_ACK);
    return true;
}

uint32_t host_link_freed(struct host_link *link, uint32_t lane)
{
    struct lane_tx *tx = &link->tx[lane];
    while (tx->freed != tx->next &&
           atomic_load_explicit(&tx->request[tx->freed % LANE_DEPTH].done, memory_order_acquire))
        tx->freed++;
    return tx->freed;
}

void host_link_consume(struct host_link *link, uint32_t lane, uint32_t where)
{
    struct lane_rx *rx = &link->rx[lane];
    rx->next++;
    if (base_unlikely(rx->view != NULL))
        host_link_unview(link, lane);
    if (!(where & LANE_ACK))
        return;
    if (!link->inbox.memory) {
        struct choir_frame f = {.kind = HOST_FRAME_CONSUMED,
                                .lane = (uint16_t)lane,
                                .comm = link->comm->key,
                                .from = link->comm->rank,
                                .to = link->peer,
                                .arg = {0, 0, consumed_back(link, lane)}};
        host_end_ops(link->back_end)->send(link->back_end->endpoint, &f, NULL, NULL);
        return;
    }
    rx->told = rx->next;
    if (rx->pulled) {
        rx->pulled = 0;
        atomic_store_explicit(&rx->back->pulled, 0, memory_order_relaxed);
    }
    atomic_store_explicit(&rx->back->consumed, rx->next, memory_order_release);
    if (base_unlikely(!atomic_load_explicit(&link->bell, memory_order_relaxed)))
        host_link_retry_bell(link);
    host_link_ring(link);
}

enum choir_status host_link_view(struct host_link *link, uint32_t lane)
{
    struct lane_rx *rx = &link->rx[lane];
    const struct lane_line *line = lane_front(rx, 0);
    struct host_end *end = link->back_end;
    if (rx->view || !line->pull.key || host_same_process(end))
        return CHOIR_OK;
    const struct choir_transport_ops *ops = host_end_ops(end);
    void *memory = NULL;
    enum choir_status st = line->pull.offset > UINT64_MAX - line->pull.bytes
                               ? CHOIR_ERR_PROTOCOL
                               : ops->map(end->endpoint, line->pull.key,
                                          line->pull.offset + line->pull.bytes, &memory);
    if (st == CHOIR_OK)
        rx->view = memory;
    else if (ops->caps(end->endpoint) & CHOIR_CAP_READ)
        return CHOIR_OK; /* this one is read otherwise; the next one finds it mapped */
    return st;
}

void host_link_unview(struct host_link *link, uint32_t lane)
{
    struct lane_rx *rx = &link->rx[lane];
    if (rx->view)
        host_end_ops(link->back_end)->unmap(link->back_end->endpoint, rx->view, 0);
    rx->view = NULL;
}

void host_link_pulled(struct host_link *link, uint32_t lane, uint64_t bytes)
{
    struct lane_rx *rx = &link->rx[lane];
    rx->pulled = bytes;
    if (rx->told !=
        rx->next) { /* "of the message at the front": so the sender must know which that is */
        rx->told = rx->next;
        atomic_store_explicit(&rx->back->consumed, rx->next, memory_order_release);
    }
    atomic_store_explicit(&rx->back->pulled, bytes, memory_order_release);
    host_link_ring(link);
}

/* --- frames ----------------------------------------------------------------------------------- */

static struct lane_rx *frame_lane(struct host_comm *comm, const struct choir_frame *f,
                                  struct host_link **out)
{
    struct host_link *link = f->from < comm->size
                                 ? atomic_load_explicit(&comm->link[f->from], memory_order_acquire)
                                 : NULL;
    if (!link || f->lane >= LANE_COUNT)
        return NULL;
    *out = link;
    return &link->rx[f->lane];
}

void *host_link_place(struct host_comm *comm, const struct choir_frame *f)
{
    struct host_link *link;
    struct lane_rx *rx = frame_lane(comm, f, &link);
    if (f->kind != HOST_FRAME_FRAGMENT || !rx || !host_link_in(link) || link->inbox.memory)
        return NULL;
    uint32_t number = (uint32_t)f->sequence;
    uint32_t told = atomic_load_explicit(&rx->back->consumed, memory_order_acquire);
    /* A sender that keeps to its credits never exceeds these; another is not believed. */
    if (number - told - 1 >= LANE_DEPTH || f->arg[0] % 64 || f->arg[0] > rx->ring_bytes ||
        f->bytes > rx->ring_bytes - f->arg[0])
        return NULL;
    struct lane_landing *land = &rx->land;
    if (f->bytes && atomic_load_explicit(&land->open, memory_order_acquire)) {
        /* Then look again, and only then at the rest: pairs with land_open and land_close in step.c. */
        atomic_fetch_add(&land->writing, 1);
        if (atomic_load(&land->open)) {
            uint32_t index = number - land->first;
            if (index < land->count && index * land->step + f->bytes <= land->bytes)
                return land->base + index * land->step;
        }
        atomic_fetch_sub(&land->writing, 1);
    }
    return f->bytes <= LANE_INLINE ? rx->line[(number - 1) % LANE_DEPTH].data
                                   : rx->data + f->arg[0];
}

void host_link_arrived(struct host_comm *comm, const struct choir_frame *f, void *where)
{
    struct host_link *link;
    struct lane_rx *rx = frame_lane(comm, f, &link);
    if (!rx)
        return;
    uint32_t heard = atomic_load_explicit(&link->heard[f->lane], memory_order_relaxed);
    if ((int32_t)((uint32_t)f->arg[2] - heard) > 0)
        atomic_store_explicit(&link->heard[f->lane], (uint32_t)f->arg[2], memory_order_release);
    if (f->kind == HOST_FRAME_FRAGMENT && (where || !f->bytes) && host_link_in(link)) {
        uint32_t number = (uint32_t)f->sequence;
        struct lane_line *line = &rx->line[(number - 1) % LANE_DEPTH];
        uint32_t flags = (uint32_t)f->arg[1] & LANE_ACK;
        if (!f->bytes || where == line->data) {
            line->where = LANE_AT_LINE | flags;
        } else if (where == rx->data + f->arg[0]) {
            line->where = LANE_AT_DATA | flags | (uint32_t)(f->arg[0] / 64) << 8;
        } else {
            line->where = LANE_AT_PLACE | flags;
            atomic_fetch_sub(&rx->land.writing, 1);
        }
        line->signature = f->signature;
        line->bytes = f->bytes;
        atomic_store_explicit(&line->sequence, number, memory_order_release);
    }
    host_bell_wake_own(comm);
}
