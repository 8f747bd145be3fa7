/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots.cuh: what both ends of a long message keep to (abi.h): it is cut into a piece for each lane and a piece into fragments, each
 * through a slot of the receiver's mailbox. A slot is written again once the peer's counter `consumed` has passed it, DEPTH
 * fragments later. How bytes get there is stream.cuh's business.
 */
#ifndef CUDA_KERNEL_SLOTS_CUH
#define CUDA_KERNEL_SLOTS_CUH

#include "cuda/kernel/exchange.cuh"

struct stream_counts { /* of a lane's fragments with each peer */
    uint32_t sent[CUDA_RANKS], received[CUDA_RANKS], consumed[CUDA_RANKS];
    uint32_t passed; /* fragments of all its messages out that have been read; UINT32_MAX: all */
};
struct stream_shared {
    stream_counts lane[CUDA_LANES]; /* the block's, one after the other */
    uint32_t given_up[TEAMS + 1];   /* by a team; it alone reads and writes it between its syncs */
};

/* Lanes of a block: first, first + step and so on; counted in the block from `index` on, `stride` apart. */
struct stream_lanes {
    uint32_t first, step, count, index, stride;
};
DEV stream_lanes stream_lanes_of(const cuda_exchange_call &c, uint32_t block, uint32_t blocks)
{
    uint32_t lanes = c.what.lanes;
    return stream_lanes{block, blocks, block < lanes ? (lanes - block + blocks - 1) / blocks : 0, 0,
                        1};
}
/* Every n-th of them, from the i-th on. */
DEV stream_lanes stream_lanes_part(stream_lanes l, uint32_t i, uint32_t n)
{
    return stream_lanes{l.first + i * l.step, l.step * n,
                        i < l.count ? (l.count - i + n - 1) / n : 0, l.index + i * l.stride,
                        l.stride * n};
}

/* --- the order of fragments ------------------------------------------------------------------------- */

struct span {
    uint64_t from, bytes; /* of the message's piece */
    bool there;
};
/* Fragment f of a piece; an empty message is one empty fragment. */
DEV span fragment_of(uint64_t bytes, uint64_t f)
{
    uint64_t from = f * CUDA_SLOT_BYTES;
    if (from >= bytes)
        return span{0, 0, !bytes && !f};
    return span{from, bytes - from < CUDA_SLOT_BYTES ? bytes - from : CUDA_SLOT_BYTES, true};
}

/* Piece i of n of a part: it begins at a multiple of 16 bytes of the part. */
DEV range stream_piece(uint64_t len, uint32_t i, uint32_t n, uint32_t elem)
{
    uint32_t grain = 16 % elem ? 1 : 16 / elem;
    range r = piece_of(len / grain, i, n);
    return range{r.from * grain, r.count * grain + (i == n - 1 ? len % grain : 0)};
}

template <class M> struct stream_item {
    const M *m;
    uint32_t lane, index, f; /* index: among the block's lanes; f: which fragment */
    range piece;             /* elements of the message */
    span part;               /* bytes of the piece */
};
/* The fragments of messages (cuda_send) or results (cuda_result): the first ones of all lanes, then the second ones. With this order no
 * block waits for what another rank's does later, however many lanes it has. */
template <class M> struct stream_walk {
    const M *m;
    uint32_t n, elem;
    stream_lanes lanes;
    uint32_t f, fragments, index, i;

    DEV stream_walk(const M *messages, uint32_t number, uint32_t bytes, stream_lanes own)
        : m(messages), n(number), elem(bytes), lanes(own), f(0), fragments(0), index(0), i(0)
    {
        for (uint32_t k = 0; k < n; k++) { /* the last piece is the longest */
            uint64_t longest =
                stream_piece(m[k].len, m[k].lanes - 1, m[k].lanes, elem).count * elem;
            uint32_t most =
                longest ? (uint32_t)((longest + CUDA_SLOT_BYTES - 1) / CUDA_SLOT_BYTES) : 1;
            fragments = most > fragments ? most : fragments;
        }
    }
    DEV bool next(stream_item<M> &item)
    {
        for (; f < fragments; f++, index = 0)
            for (; index < lanes.count; index++, i = 0)
                while (i < n) {
                    const M &x = m[i++];
                    uint32_t lane = lanes.first + index * lanes.step;
                    if (lane >= x.lanes)
                        continue;
                    range piece = stream_piece(x.len, lane, x.lanes, elem);
                    span part = fragment_of(piece.count * elem, f);
                    if (!part.there)
                        continue;
                    item = stream_item<M>{&x, lane,  lanes.index + index * lanes.stride,
                                          f,  piece, part};
                    return true;
                }
        return false;
    }
};

DEV uint8_t *slot_of(const cuda_view &v, uint32_t owner, uint32_t from, uint32_t lane,
                     uint32_t number)
{
    return v.mailbox[owner] + CUDA_SLOT_AT(v.ranks, from, lane) +
           number % CUDA_DEPTH * CUDA_SLOT_BYTES;
}

/* --- sending ------------------------------------------------------------------------------------------- */

/* One thread: whether there is a slot for the next fragment to the peer. */
DEV bool stream_has_credit(const cuda_view &v, stream_counts &n, uint32_t peer, uint32_t lane)
{
    if ((int32_t)(n.sent[peer] - n.consumed[peer]) < (int32_t)CUDA_DEPTH)
        return true;
    n.consumed[peer] = (uint32_t)load_acquire(&post_of(v, v.rank, peer, lane)->consumed);
    return (int32_t)(n.sent[peer] - n.consumed[peer]) < (int32_t)CUDA_DEPTH;
}
DEV bool stream_credit(const cuda_view &v, stream_counts &n, uint32_t peer, uint32_t lane)
{
    patience w = {};
    while (!stream_has_credit(v, n, peer, lane))
        if (!wait_on(v.guard, w, peer, lane, n.sent[peer]))
            return false;
    return true;
}

/* --- receiving ----------------------------------------------------------------------------------------- */

enum stream_state { STREAM_NOT_YET, STREAM_THERE, STREAM_FAULT };
/* One thread: whether the next fragment of `peer` has come. */
DEV stream_state stream_come(const cuda_exchange_call &c, const stream_counts &n, uint32_t peer,
                             uint32_t lane)
{
    const cuda_view &v = c.view;
    uint32_t number = n.received[peer];
    uint64_t seen = load_acquire(&post_of(v, v.rank, peer, lane)->arrived[number % CUDA_DEPTH]);
    if ((uint32_t)(seen >> 32) != number + 1)
        return STREAM_NOT_YET;
    if ((uint32_t)seen == c.signature)
        return STREAM_THERE;
    fault(v.guard, CUDA_FAULT_SIGNATURE, peer, lane, number, (uint32_t)seen, c.signature);
    return STREAM_FAULT;
}
DEV bool stream_await_one(const cuda_exchange_call &c, const stream_counts &n, uint32_t peer,
                          uint32_t lane)
{
    const cuda_view &v = c.view;
    const cuda_post *post = post_of(v, v.rank, peer, lane);
    patience w = {};
    stream_state come;
    while ((come = stream_come(c, n, peer, lane)) == STREAM_NOT_YET)
        if (!wait_on(v.guard, w, peer, lane, n.received[peer]) ||
            (wait_looked(w) && other_call(v.guard, post, WAY_SLOTS, peer, lane, n.received[peer],
                                          count_of(v, peer, lane)->ll_received, c.signature)))
            return false;
    return come == STREAM_THERE;
}

/* In place: whether what is written over has been sent. */
DEV bool stream_passed(const cuda_exchange_call &c, const stream_counts &n, uint32_t f)
{
    return !c.in_place || shared_load(&n.passed) > f;
}
/* The sending half has patience of its own, and knows whom it waits for. */
DEV bool stream_await_passed(const cuda_exchange_call &c, const stream_counts &n, uint32_t f)
{
    for (uint32_t spins = 1; !stream_passed(c, n, f); spins++) {
        relax();
        if (!(spins % PATIENCE_SPINS) && load_relaxed(&c.view.guard.state->poison))
            return false;
    }
    return true;
}
/* One thread of the sending half: what comes before an item has been read; at the end: all of the lanes. */
struct stream_passing {
    uint32_t index, f;
    bool any;
};
DEV void stream_pass(stream_shared *s, stream_passing &p, uint32_t index, uint32_t f)
{
    if (p.any && (p.index != index || p.f != f))
        shared_store(&s->lane[p.index].passed, p.f + 1);
    p = stream_passing{index, f, true};
}
DEV void stream_pass_all(stream_shared *s, stream_lanes l)
{
    for (uint32_t i = 0; i < l.count; i++)
        shared_store(&s->lane[l.index + i * l.stride].passed, UINT32_MAX);
}

/* Thread 0: the next fragment of every source has come, and what it is written over has been sent. */
DEV bool stream_await(const cuda_exchange_call &c, const stream_shared *s,
                      const stream_item<cuda_result> &x)
{
    for (uint32_t n = 0; n < x.m->count; n++) {
        uint32_t peer = c.what.source[x.m->first + n].peer;
        if (peer != CUDA_LOCAL && !stream_await_one(c, s->lane[x.index], peer, x.lane))
            return false;
    }
    return stream_await_passed(c, s->lane[x.index], x.f);
}

/* --- the lanes of a block -------------------------------------------------------------------------------- */

DEV void stream_counts_load(block b, const cuda_view &v, stream_lanes lanes, stream_shared *s)
{
    for (uint32_t i = b.thread; i < v.ranks * lanes.count; i += b.threads) {
        uint32_t p = i % v.ranks, index = i / v.ranks;
        const cuda_count *n = count_of(v, p, lanes.first + index * lanes.step);
        s->lane[index].sent[p] = n->sent;
        s->lane[index].received[p] = n->received;
        s->lane[index].consumed[p] = n->consumed;
        if (!p)
            s->lane[index].passed = 0;
    }
}
DEV void stream_counts_store(block b, const cuda_view &v, stream_lanes lanes,
                             const stream_shared *s)
{
    for (uint32_t i = b.thread; i < v.ranks * lanes.count; i += b.threads) {
        uint32_t p = i % v.ranks, index = i / v.ranks;
        cuda_count *n = count_of(v, p, lanes.first + index * lanes.step);
        n->sent = s->lane[index].sent[p];
        n->received = s->lane[index].received[p];
        n->consumed = s->lane[index].consumed[p];
    }
}

#endif
