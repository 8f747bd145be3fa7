/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lane.h: the slot protocol between two ranks, in one direction.
 *
 * A lane is a ring of LANE_DEPTH control lines and a ring of data bytes. It lies in memory of the receiver that
 * the sender maps (shared memory, or the same process); where the sender is reached by messages only, the
 * receiver's transport writes the lines as fragments arrive, so that the engine reads one form only.
 * A line says where the bytes of its fragment are: in the line itself, in the data ring, in the sender's own
 * memory (pull), or already at the place the receiver named beforehand (landed).
 *
 * Reuse: a line is rewritten only after the receiver's counter `consumed` passed it. The sender asks
 * for the counter (LANE_ACK) whenever half of its lines or a quarter of its bytes are under way, so a
 * sender that runs out of room has asked for an answer before.
 */
#ifndef HOST_LANE_H
#define HOST_LANE_H

#include "base/base.h"
#include "choir_transport.h"

#define LANE_DEPTH 16u
#define LANE_INLINE 48u /* bytes a control line carries itself */
#define LANE_COUNT 8u   /* lanes of a link: one for each instance that may be live */
#define LANE_SLOTS                                                                                 \
    4u /* full-sized fragments a data ring holds at least: the depth plans are proved at */
/* The ring of lane 0, which plans of one instance stream long messages through: larger than a core's second-level cache. To
 * rewrite a line that the reader's core still has in that cache costs about ten times a copy of it; once it has fallen
 * out, nothing (perf/NOTES.md "rings"). The lanes of several instances make up as much together. */
#define LANE_WIDE_SLOTS 32u
/* Shorter fragments begin at the ring's start again whenever all is consumed: there lines are in the nearest cache. */
#define LANE_WARM 4096u

enum lane_where { LANE_AT_LINE, LANE_AT_DATA, LANE_AT_SENDER, LANE_AT_PLACE };
#define LANE_WHERE 3u
#define LANE_ACK 4u /* the sender wants `consumed` as soon as this line is read */

struct lane_line {
    _Atomic uint32_t
        sequence; /* number of the fragment, from 1; written last (pairs with lane_front) */
    uint32_t signature;
    uint32_t bytes; /* of this fragment; LANE_AT_SENDER: unused */
    uint32_t where; /* enum lane_where | LANE_ACK | offset in the data ring / 64 << 8 */
    union {
        uint8_t data[LANE_INLINE];
        struct {
            uint64_t address, bytes; /* of the whole message */
            uint64_t key, offset;    /* where it can be mapped; key 0: nowhere */
        } pull;
    };
};
_Static_assert(sizeof(struct lane_line) == BASE_LINE, "a control line is a cache line");

/* Written by the receiver, read by the sender. */
struct lane_back {
    _Atomic uint32_t consumed; /* fragments, modulo 2^32 */
    uint32_t unused;
    _Atomic uint64_t pulled; /* bytes already read of the pull message at the front */
    uint8_t pad[48];
};
_Static_assert(sizeof(struct lane_back) == BASE_LINE, "one line for each lane's answers");

/* The shared part of a link, one direction: created by the receiver, zeroed. */
struct lane_segment {
    struct lane_back back[LANE_COUNT];
    struct lane_line line[LANE_COUNT][LANE_DEPTH];
    uint8_t data[]; /* the lanes' rings */
};
static inline uint64_t lane_ring_bytes(uint32_t lane, uint64_t slot_bytes)
{
    return (lane ? LANE_SLOTS : LANE_WIDE_SLOTS) * slot_bytes;
}
/* Where a lane's ring begins in `data`; of lane LANE_COUNT: their end. */
static inline uint64_t lane_ring_at(uint32_t lane, uint64_t slot_bytes)
{
    return lane ? (LANE_WIDE_SLOTS + (lane - 1) * LANE_SLOTS) * slot_bytes : 0;
}
static inline uint64_t lane_segment_bytes(uint64_t slot_bytes)
{
    return sizeof(struct lane_segment) + lane_ring_at(LANE_COUNT, slot_bytes);
}

/* A place the receiver names beforehand, so that a transport writes fragments there at once: fragments
 * first .. first+count-1 of the lane go to base + (their number - first) * step. */
struct lane_landing {
    _Atomic uint32_t open;    /* set last, cleared first, by the engine */
    _Atomic uint32_t writing; /* fragments between place and arrived */
    uint32_t first, count;
    uint64_t step, bytes;
    uint8_t *base;
};

struct lane_rx {
    struct lane_line *line;
    uint8_t *data;
    struct lane_back *back;
    uint32_t next;    /* fragments consumed: the front is number next + 1 */
    uint32_t told;    /* of these, how many the sender knows of */
    uint32_t blocked; /* pass of advance_receives in which an earlier message was awaited */
    uint64_t pulled;  /* bytes read of the pull message at the front */
    uint8_t *view;    /* the sender's memory that it lies in, mapped; or NULL */
    uint64_t ring_bytes;
    struct lane_landing land;
};

struct lane_tx {
    struct lane_line *line; /* NULL: by frames */
    uint8_t *data;
    struct lane_back *back;
    uint32_t next;     /* fragments published */
    uint32_t consumed; /* by the receiver, as last seen */
    uint32_t freed;    /* by frames: published fragments whose source may be rewritten, a prefix */
    uint32_t queued;   /* pending messages not fully published: first posted, first served */
    uint32_t blocked;  /* pass of host_pending_advance in which an earlier message was in the way */
    uint64_t head, tail;        /* of the data ring, in bytes ever used */
    uint64_t ring_bytes;        /* of it in use: the sender's own choice */
    uint64_t end[LANE_DEPTH];   /* head after each fragment under way */
    struct choir_send *request; /* [LANE_DEPTH]; by frames only */
    _Atomic uint32_t *heard;    /* consumed, as the receiver's frames told; by frames only */
};

/* The line of the fragment at the front, plus `ahead`, or NULL while it has not arrived. */
static inline struct lane_line *lane_front(const struct lane_rx *rx, uint32_t ahead)
{
    uint32_t number = rx->next + ahead;
    struct lane_line *line = &rx->line[number % LANE_DEPTH];
    return atomic_load_explicit(&line->sequence, memory_order_acquire) == number + 1 ? line : NULL;
}

/* Loads the receiver's counter. */
static inline void lane_tx_refresh(struct lane_tx *tx)
{
    uint32_t seen =
        atomic_load_explicit(tx->line ? &tx->back->consumed : tx->heard, memory_order_acquire);
    /* A counter outside of what is under way is not ours (a corrupt peer): not believed. */
    if (seen == tx->consumed || seen - tx->consumed > tx->next - tx->consumed)
        return;
    /* Never back: fragments without bytes in the ring that were under way at a warm start end before it. */
    tx->tail = base_max(tx->tail, tx->end[(seen - 1) % LANE_DEPTH]);
    tx->consumed = seen;
}

/* With no bytes under way in the ring, a short fragment goes to the ring's start. */
static inline void lane_tx_warm(struct lane_tx *tx, uint64_t bytes)
{
    if (tx->head == tx->tail && bytes <= LANE_WARM)
        tx->head = tx->tail = (tx->head + tx->ring_bytes - 1) / tx->ring_bytes * tx->ring_bytes;
}

/* Finds room for `bytes` in the data ring: their offset and the head after them. Reserves nothing. */
static inline bool lane_tx_room(const struct lane_tx *tx, uint64_t bytes, uint64_t *head,
                                uint64_t *offset)
{
    uint64_t need = (bytes + 63) & ~(uint64_t)63, at = tx->head, pos = at % tx->ring_bytes;
    if (pos + need > tx->ring_bytes)
        at += tx->ring_bytes - pos, pos = 0;
    if (at + need - tx->tail > tx->ring_bytes)
        return false;
    *head = at + need;
    *offset = pos;
    return true;
}

static inline bool lane_tx_half(const struct lane_tx *tx, uint64_t head)
{
    return tx->next - tx->consumed >= LANE_DEPTH / 2 || head - tx->tail >= tx->ring_bytes / 4;
}

/* Whether to ask for the receiver's counter with the fragment about to be published. In mapped memory the answer is a store; over
 * frames it is a frame, so not if it has come meanwhile, with data the other way. */
static inline uint32_t lane_tx_ask(struct lane_tx *tx, uint64_t head)
{
    if (!lane_tx_half(tx, head))
        return 0;
    if (tx->line)
        return LANE_ACK;
    lane_tx_refresh(tx);
    return lane_tx_half(tx, head) ? LANE_ACK : 0;
}

#endif
