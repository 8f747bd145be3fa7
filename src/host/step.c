/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step.c: one step of a plan on memory: awaiting what it needs, combining, writing, releasing; and naming places where
 * transports write frames at once. engine.c says which step, and when.
 */
#include "host/step.h"
#include <string.h>

#define CHUNK_BYTES                                                                                \
    (4u << 20) /* read from a peer at a time: an end of the operation is seen in between */

/* --- landing: frames that transports write to their place at once -------------------------------- */

static void land_open(struct host_op *op, struct host_run *run, const struct host_rstep *r,
                      struct host_link *link)
{
    const struct host_place *to = &r->place[1];
    if (run->landing || link->inbox.memory || r->outs < 1 || to->link || to->segs != 1)
        return;
    uint8_t *base = host_op_base(op, run, to->buf) + to->seg[0].at + run->at;
    if (host_pending_blocks(run, base, r->bytes - run->at))
        return;
    struct lane_landing *land = &link->rx[run->lane].land;
    /* Who saw the last one open may still be looking at it: pairs with host_link_place. The next turn tries again. */
    if (atomic_load(&land->writing))
        return;
    land->first = link->rx[run->lane].next + 1;
    land->step = op->bound->slot_bytes;
    land->bytes = r->bytes - run->at;
    land->count = (uint32_t)((land->bytes + land->step - 1) / land->step);
    land->base = base;
    run->landing = true;
    atomic_store_explicit(&land->open, 1, memory_order_release);
}

static void land_close(struct host_run *run, struct host_link *link)
{
    if (!run->landing)
        return;
    run->landing = false;
    atomic_store(&link->rx[run->lane].land.open, 0); /* pairs with host_link_place */
}

/* --- combining -------------------------------------------------------------------------------- */

static void combine_user(const struct host_combine *c, uint8_t *dst, const void *const *src,
                         uint32_t nsrc, uint64_t count)
{
    _Alignas(BASE_LINE) uint8_t acc[4096];
    uint64_t elem = choir_type_bytes(c->type), most = sizeof(acc) / elem;
    for (uint64_t at = 0; at < count; at += most) {
        uint64_t n = base_min(most, count - at);
        memcpy(acc, (const uint8_t *)src[0] + at * elem, n * elem);
        for (uint32_t i = 1; i < nsrc; i++)
            c->user(acc, (const uint8_t *)src[i] + at * elem, n, c->type, c->context);
        memcpy(dst + at * elem, acc, n * elem);
    }
}

static void combine(const struct host_op *op, void *dst, const void *const *src, uint32_t nsrc,
                    uint64_t bytes)
{
    if (nsrc == 1) {
        if (dst != src[0])
            reduce_copy(dst, src[0], bytes, 0);
        return;
    }
    uint64_t count = bytes / op->bound->elem;
    if (base_likely(op->combine.fn != NULL))
        op->combine.fn(dst, src, nsrc, count, 0);
    else
        combine_user(&op->combine, dst, src, nsrc, count);
}

/* The bytes at `at` of a local place, and how many lie in one piece there. */
static uint8_t *local_at(const struct host_op *op, const struct host_run *run,
                         const struct host_place *p, uint64_t at, uint64_t *left)
{
    uint8_t *base = host_op_base(op, run, p->buf);
    for (uint32_t i = 0; i < p->segs; i++) {
        if (at < p->seg[i].bytes) {
            *left = base_min(*left, p->seg[i].bytes - at);
            return base + p->seg[i].at + at;
        }
        at -= p->seg[i].bytes;
    }
    return base;
}

/* Copies from `at` of the message at the front, which waits at its sender. */
static void read_sender(struct host_op *op, const struct host_run *run, struct host_link *link,
                        void *to, uint64_t at, uint64_t bytes)
{
    const struct lane_rx *rx = &link->rx[run->lane];
    const struct lane_line *line = lane_front(rx, 0);
    if (rx->view)
        reduce_copy(to, rx->view + line->pull.offset + at, bytes, 0);
    else if (host_link_read(link, to, line->pull.address + at, bytes) != CHOIR_OK)
        host_op_fail(op, CHOIR_ERR_PEER_DEAD, link,
                     "see the log of that rank; CHOIR_SINGLE_COPY=0 avoids this path",
                     "rank %u's memory cannot be read", link->peer);
}

/* Reads [lo, hi) of all messages in, which wait at their senders, to run->pulled. */
static void fetch(struct host_op *op, struct host_run *run, const struct host_rstep *r, uint64_t lo,
                  uint64_t hi)
{
    uint8_t *to = run->pulled;
    for (uint32_t i = 0; i < r->ins; i++) {
        struct host_link *link = r->place[i].link;
        if (!link)
            continue;
        read_sender(op, run, link, to, lo, hi - lo);
        to += hi - lo;
    }
    run->fetched = true;
}

/* The bytes of message in i at `at` of the step (lo: where the present fragment begins). */
static const void *message_at(struct host_op *op, struct host_run *run, const struct host_place *p,
                              uint64_t lo, uint64_t at, uint64_t bytes, uint8_t **room)
{
    if (run->fetched) {
        const uint8_t *from = *room + (at - lo);
        *room += run->until - lo;
        return from;
    }
    struct lane_rx *rx = &p->link->rx[run->lane];
    const struct lane_line *line = lane_front(rx, 0);
    switch (line->where & LANE_WHERE) {
    case LANE_AT_LINE:
        return line->data + (at - lo);
    case LANE_AT_DATA:
        return rx->data + (uint64_t)(line->where >> 8) * 64 + (at - lo);
    case LANE_AT_PLACE:
        return rx->land.base + (uint32_t)(rx->next + 1 - rx->land.first) * rx->land.step +
               (at - lo);
    default:
        break;
    }
    if (p->link->same || host_same_process(p->link->back_end))
        return (const void *)(uintptr_t)(line->pull.address + at);
    if (rx->view)
        return rx->view + line->pull.offset + at;
    uint8_t *to = *room;
    *room += bytes;
    read_sender(op, run, p->link, to, at, bytes);
    return to;
}

/* Bytes of each message in that `room` bytes of run->pulled hold. */
static uint64_t pulled_each(const struct host_rstep *r, uint64_t room)
{
    return base_max(room / r->msg_ins / 64 * 64, 64u);
}

/* Combines [lo, hi) of the step into `into` (contiguous), or, NULL, into its first local out. */
static void combine_range(struct host_op *op, struct host_run *run, const struct host_rstep *r,
                          uint64_t lo, uint64_t hi, uint8_t *into)
{
    const struct host_place *out = &r->place[r->ins];
    uint64_t most = r->msg_ins && !run->fetched ? pulled_each(r, PULLED_BYTES) : UINT64_MAX;
    for (uint64_t at = lo; at < hi && op->status == CHOIR_OK;) {
        uint64_t n = base_min(hi - at, most);
        uint8_t *dst = into ? into + (at - lo) : local_at(op, run, out, at, &n);
        for (uint32_t i = 0; i < r->ins && !r->simple; i++)
            if (!r->place[i].link)
                local_at(op, run, &r->place[i], at, &n);
        uint8_t *room = run->pulled;
        for (uint32_t i = 0; i < r->ins; i++) {
            const struct host_place *p = &r->place[i];
            uint64_t left = n;
            run->source[i] = p->link ? message_at(op, run, p, lo, at, n, &room)
                                     : local_at(op, run, p, at, &left);
        }
        combine(op, dst, run->source, r->ins, n);
        at += n;
    }
}

/* Copies [lo, hi) to every out but `skip`: from `from`, or, NULL, from the first local out. */
static void spread(struct host_op *op, struct host_run *run, const struct host_rstep *r,
                   uint64_t lo, uint64_t hi, const uint8_t *from, uint32_t skip)
{
    const struct host_place *out = &r->place[r->ins];
    for (uint32_t i = 0; i < r->outs; i++) {
        if (i == skip)
            continue;
        uint8_t *room = out[i].link ? host_link_room(out[i].link, run->lane, hi - lo) : NULL;
        choir_assert(room || !out[i].link);
        for (uint64_t at = lo; at < hi;) {
            uint64_t n = hi - at;
            uint8_t *to = room ? room + (at - lo) : local_at(op, run, &out[i], at, &n);
            const uint8_t *src = from ? from + (at - lo) : local_at(op, run, &out[skip], at, &n);
            if (to != src)
                reduce_copy(to, src, n, 0);
            at += n;
        }
        if (out[i].link)
            host_link_publish(out[i].link, run->lane, hi - lo, op->signature);
    }
}

/* --- one step ----------------------------------------------------------------------------------- */

static bool outs_blocked(const struct host_op *op, const struct host_run *run,
                         const struct host_rstep *r, uint64_t lo, uint64_t hi)
{
    if (run->open == run->pendings)
        return false;
    for (uint32_t i = r->ins; i < (uint32_t)r->ins + r->outs; i++)
        for (uint64_t at = lo; !r->place[i].link && at < hi;) {
            uint64_t n = hi - at;
            const uint8_t *to = local_at(op, run, &r->place[i], at, &n);
            if (host_pending_blocks(run, to, n))
                return true;
            at += n;
        }
    return false;
}

static enum step_result mismatch(struct host_op *op, const struct host_link *link,
                                 const struct lane_line *line, uint64_t got, uint64_t want)
{
    struct host_comm *comm = op->comm;
    if (line->signature != op->signature) {
        char what[200];
        snprintf(what, sizeof(what), "rank %u called another operation than rank %u", link->peer,
                 comm->rank);
        if (comm->explain)
            comm->explain(comm, line->signature, link->peer, what, sizeof(what));
        host_op_fail(op, CHOIR_ERR_MISMATCH, link,
                     "all ranks must call the same collective with the same count, type, operation "
                     "and root, in the same order",
                     "%s", what);
    } else {
        host_op_fail(op, CHOIR_ERR_MISMATCH, link,
                     "the counts of sender and receiver must be equal",
                     "rank %u sent %llu bytes where rank %u expects %llu", link->peer,
                     (unsigned long long)got, comm->rank, (unsigned long long)want);
    }
    return STEP_FAILED;
}

/* A message that lies in memory to be mapped: is it? */
static bool view_ready(struct host_op *op, const struct host_run *run, struct host_link *link)
{
    enum choir_status st = host_link_view(link, run->lane);
    if (st == CHOIR_IN_PROGRESS)
        op->waiting = (int)link->peer;
    else if (st != CHOIR_OK)
        host_op_fail(op, st, link, "raise the limit on mappings, or use memory of your own",
                     "memory of rank %u cannot be mapped", link->peer);
    return st == CHOIR_OK;
}

/* Every in of [lo, hi) is there and every computed out has room. */
static enum step_result await(struct host_op *op, struct host_run *run, const struct host_rstep *r,
                              uint64_t lo, uint64_t hi)
{
    for (; run->seen < r->ins; run->seen++) {
        struct host_link *link = r->place[run->seen].link;
        if (!link)
            continue;
        const struct lane_line *line =
            host_link_in(link) ? lane_front(&link->rx[run->lane], 0) : NULL;
        if (!line) {
            op->waiting = (int)link->peer;
            if (r->ins == 1 && host_link_in(link))
                land_open(op, run, r, link);
            return STEP_BLOCKED;
        }
        bool pull = (line->where & LANE_WHERE) == LANE_AT_SENDER;
        uint64_t got = pull ? line->pull.bytes : line->bytes, want = pull ? r->bytes : hi - lo;
        if (base_unlikely(line->signature != op->signature || got != want))
            return mismatch(op, link, line, got, want);
        if (pull && line->pull.key && !view_ready(op, run, link))
            return op->status == CHOIR_OK ? STEP_BLOCKED : STEP_FAILED;
    }
    for (uint32_t i = 0; i < r->outs; i++) {
        struct host_link *link = r->place[r->ins + i].link;
        if (link && (!host_link_ready(link) || link->tx[run->lane].queued ||
                     !host_link_room(link, run->lane, hi - lo))) {
            op->waiting = (int)link->peer;
            return STEP_BLOCKED;
        }
    }
    return STEP_MOVED;
}

/* The ins of [lo, hi) are used up. */
static void release(struct host_run *run, const struct host_rstep *r, uint64_t hi)
{
    for (uint32_t i = 0; i < r->ins; i++) {
        struct host_link *link = r->place[i].link;
        if (!link)
            continue;
        const struct lane_line *line = lane_front(&link->rx[run->lane], 0);
        if ((line->where & LANE_WHERE) == LANE_AT_SENDER && hi < r->bytes)
            host_link_pulled(link, run->lane, hi);
        else
            host_link_consume(link, run->lane, line->where);
    }
    run->seen = 0;
}

/* Whether every message in waits at its sender to be read, so that no slot limits what is read at a time. */
static bool all_pulled(const struct host_run *run, const struct host_rstep *r)
{
    for (uint32_t i = 0; i < r->ins; i++) {
        struct host_link *link = r->place[i].link;
        if (!link)
            continue;
        const struct lane_line *line =
            host_link_in(link) ? lane_front(&link->rx[run->lane], 0) : NULL;
        if (!line || (line->where & LANE_WHERE) != LANE_AT_SENDER)
            return false;
    }
    return r->msg_ins > 0;
}

/* The end of the fragment that begins at run->at. Reading a peer's memory is a system call, so as much as can be is read at
 * a time: all of it, or, where its place is still being read by others (an exchange in place), what run->pulled holds. */
static uint64_t fragment_end(const struct host_op *op, const struct host_run *run,
                             const struct host_rstep *r, bool pulled)
{
    uint64_t most = op->bound->slot_bytes, left = r->bytes - run->at;
    if (left > most && pulled) {
        most = base_min(left, CHUNK_BYTES);
        if (outs_blocked(op, run, r, run->at, run->at + most))
            most = pulled_each(r, op->bound->pulled_bytes);
    }
    return left < most ? r->bytes : run->at + most;
}

static enum step_result end_fragment(struct host_run *run, const struct host_rstep *r, uint64_t hi)
{
    run->phase = HOST_AWAIT;
    run->at = hi;
    if (hi < r->bytes)
        return STEP_MOVED;
    if (r->msg_ins)
        land_close(run, r->place[0].link);
    return STEP_DONE;
}

/* A plain receive into one piece of memory, and nobody reads it: read there, or it has landed there. */
static bool receive_direct(struct host_op *op, struct host_run *run, const struct host_rstep *r,
                           uint64_t lo, uint64_t hi)
{
    const struct host_place *in = &r->place[0], *out = &r->place[1];
    if (r->ins != 1 || !in->link || out->link || !r->simple)
        return false;
    const struct lane_line *line = lane_front(&in->link->rx[run->lane], 0);
    uint64_t n = hi - lo;
    uint8_t *to = local_at(op, run, out, lo, &n);
    if ((line->where & LANE_WHERE) == LANE_AT_PLACE)
        return true;
    if ((line->where & LANE_WHERE) != LANE_AT_SENDER)
        return false;
    read_sender(op, run, in->link, to, lo, hi - lo);
    return true;
}

/* Combines [lo, hi) of the step where it has to go. The ins are released before anything is published: who gets the
 * result may write over what was read here (an exchange in place), and would have to wait for the release. */
static enum step_result write_now(struct host_op *op, struct host_run *run,
                                  const struct host_rstep *r, uint64_t lo, uint64_t hi)
{
    const struct host_place *out = &r->place[r->ins];
    uint32_t first_local = 0;
    while (first_local < r->outs && out[first_local].link)
        first_local++;
    bool local = first_local < r->outs, staged = local && !r->simple && r->outs > 1;
    /* Messages only: in the first one's slot. */
    uint8_t *room = staged  ? run->staging
                    : local ? NULL
                            : host_link_room(out[0].link, run->lane, hi - lo);
    if (run->fetched || !receive_direct(op, run, r, lo, hi))
        combine_range(op, run, r, lo, hi, room);
    if (op->status != CHOIR_OK)
        return STEP_FAILED;
    if (!run->fetched)
        release(run, r, hi);
    run->fetched = false;
    if (r->outs > 1)
        spread(op, run, r, lo, hi, room, staged ? UINT32_MAX : first_local % r->outs);
    if (!local)
        host_link_publish(out[0].link, run->lane, hi - lo, op->signature);
    return end_fragment(run, r, hi);
}

/* What was read before others had read what lies at its place, once they have. */
static enum step_result write_later(struct host_op *op, struct host_run *run,
                                    const struct host_rstep *r)
{
    if (outs_blocked(op, run, r, run->at, run->until))
        return STEP_BLOCKED;
    if (run->fetched)
        return write_now(op, run, r, run->at, run->until);
    spread(op, run, r, run->at, run->until, run->staging, UINT32_MAX);
    return end_fragment(run, r, run->until);
}

enum step_result step_computed(struct host_op *op, struct host_run *run, const struct host_rstep *r)
{
    if (run->phase == HOST_WRITE)
        return write_later(op, run, r);
    bool pulled = !r->msg_outs && all_pulled(run, r);
    uint64_t lo = run->at, hi = fragment_end(op, run, r, pulled);
    enum step_result ready = await(op, run, r, lo, hi);
    if (ready != STEP_MOVED)
        return ready;
    if (!outs_blocked(op, run, r, lo, hi))
        return write_now(op, run, r, lo, hi);
    run->until = base_min(
        hi, lo + (pulled ? pulled_each(r, op->bound->pulled_bytes) : op->bound->slot_bytes));
    if (pulled)
        fetch(op, run, r, lo, run->until);
    else
        combine_range(op, run, r, lo, run->until, run->staging);
    if (op->status != CHOIR_OK)
        return STEP_FAILED;
    release(run, r, run->until);
    run->phase = HOST_WRITE;
    return STEP_MOVED;
}

/* A short message goes out at once if nothing is before it: then nobody has to remember it. */
static bool put_now(struct host_op *op, struct host_run *run, const struct host_rstep *r,
                    struct host_link *link)
{
    const struct host_place *from = &r->place[0];
    if (r->bytes > op->bound->slot_bytes || from->segs > 1 || !host_link_ready(link))
        return false;
    if (link->tx[run->lane].queued || host_stays(op, r->exchanged, link, run->lane, r->bytes))
        return false;
    const uint8_t *source = host_op_base(op, run, from->buf) + (from->segs ? from->seg[0].at : 0);
    return host_link_put(link, run->lane, source, r->bytes, op->signature, false);
}

/* Copies to the local outs; `look`: only asks whether a pending message is in the way. A copy of bytes to themselves (in place)
 * is none: it must not wait for messages that read them. */
static bool copy_outs(struct host_op *op, struct host_run *run, const struct host_rstep *r,
                      bool look)
{
    for (uint32_t i = 1; i <= r->outs; i++)
        for (uint64_t at = 0; !r->place[i].link && at < r->bytes;) {
            uint64_t n = r->bytes - at;
            const uint8_t *from = local_at(op, run, &r->place[0], at, &n);
            uint8_t *to = local_at(op, run, &r->place[i], at, &n);
            if (from != to && look && host_pending_blocks(run, to, n))
                return false;
            if (from != to && !look)
                reduce_copy(to, from, n, 0);
            at += n;
        }
    return true;
}

/* The only in is local: local outs are copies, messages are posted and stream by themselves. */
enum step_result step_pending(struct host_op *op, struct host_run *run, const struct host_rstep *r)
{
    bool copies = r->outs > r->msg_outs;
    if (copies && run->open < run->pendings && !copy_outs(op, run, r, true))
        return STEP_BLOCKED;
    uint32_t posted = run->pendings;
    for (uint32_t i = 1; i <= r->outs; i++)
        if (r->place[i].link && !put_now(op, run, r, r->place[i].link))
            host_pending_post(op, run, r, r->place[i].link);
    if (copies)
        copy_outs(op, run, r, false);
    if (run->pendings != posted)
        host_pending_advance(op, run);
    return STEP_DONE;
}
