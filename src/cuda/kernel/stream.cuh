/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.cuh: exchanges of long messages (abi.h) through slots. One half of a lane's threads sends fragment after fragment, the other
 * receives and combines, so that both directions of every link are busy. In place, what is received is written
 * once the sending half has passed it.
 *
 * A fragment's slot is written again once the peer's counter `consumed` has passed it, DEPTH fragments later.
 */
#ifndef CUDA_KERNEL_STREAM_CUH
#define CUDA_KERNEL_STREAM_CUH

#include "cuda/kernel/exchange.cuh"

#define STREAM_UNROLL 4u /* pairs of words that a thread has on the way */

struct stream_shared {
    uint32_t sent[CUDA_RANKS], received[CUDA_RANKS], consumed[CUDA_RANKS];
    uint32_t passed;      /* fragments of all messages sent; UINT32_MAX: all */
    uint32_t given_up[2]; /* by a half; it alone reads and writes it between its syncs */
};

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

DEV uint64_t fragments_of(uint64_t bytes)
{
    return bytes ? (bytes + CUDA_SLOT_BYTES - 1) / CUDA_SLOT_BYTES : 1;
}

/* The fragments of a lane's largest part among n messages (cuda_send) or results (cuda_result). */
template <class M> DEV uint64_t most_fragments(const M *m, uint32_t n, uint32_t lane, uint32_t elem)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (lane >= m[i].lanes)
            continue;
        uint64_t f = fragments_of(piece_of(m[i].len, lane, m[i].lanes).count * elem);
        most = f > most ? f : most;
    }
    return most;
}

/* K pairs of a local input, `step` bytes apart. K > 1: whole and aligned. */
template <class T, uint32_t K>
DEV void input_pairs(const cuda_exchange_call &c, line16 *x, const uint8_t *from, uint64_t step,
                     uint64_t left)
{
    UNROLL
    for (uint32_t k = 0; k < K; k++)
        x[k] = K > 1 ? load_data((const line16 *)(from + k * step)) : load_pair(from, left);
    if (!c.adjust.scaled && !c.adjust.divide_in)
        return;
    UNROLL
    for (uint32_t k = 0; k < K; k++)
        x[k] = line16{input_scaled<T>(c.adjust, x[k].a), input_scaled<T>(c.adjust, x[k].b)};
}

DEV uint8_t *slot_of(const cuda_view &v, uint32_t owner, uint32_t from, uint32_t lane,
                     uint32_t number)
{
    return v.mailbox[owner] + CUDA_SLOT_AT(v.ranks, from, lane) +
           number % CUDA_DEPTH * CUDA_SLOT_BYTES;
}

/* --- the sending half ------------------------------------------------------------------------------- */

/* Thread 0. */
DEV bool stream_credit(const cuda_view &v, stream_shared *s, uint32_t peer, uint32_t lane)
{
    const cuda_post *post = post_of(v, v.rank, peer, lane);
    patience w = {};
    while ((int32_t)(s->sent[peer] - s->consumed[peer]) >= (int32_t)CUDA_DEPTH) {
        s->consumed[peer] = (uint32_t)load_acquire(&post->consumed);
        if ((int32_t)(s->sent[peer] - s->consumed[peer]) >= (int32_t)CUDA_DEPTH &&
            !wait_on(v.guard, w, peer, lane, s->sent[peer]))
            return false;
    }
    return true;
}

template <class T>
DEV void stream_copy_in(half h, const cuda_exchange_call &c, uint8_t *to, const uint8_t *from,
                        uint64_t bytes)
{
    uint64_t step = 16ull * h.threads, at = 16ull * h.thread;
    line16 x[STREAM_UNROLL];
    for (; aligned(from) && at + (STREAM_UNROLL - 1) * step + 16 <= bytes;
         at += STREAM_UNROLL * step) {
        input_pairs<T, STREAM_UNROLL>(c, x, from + at, step, bytes - at);
        UNROLL
        for (uint32_t k = 0; k < STREAM_UNROLL; k++)
            store_data((line16 *)(to + at + k * step), x[k]);
    }
    for (; at < bytes; at += step) {
        input_pairs<T, 1>(c, x, from + at, step, bytes - at);
        store_data((line16 *)(to + at), x[0]);
    }
}

template <class T>
DEV void stream_send(half h, block b, const cuda_exchange_call &c, stream_shared *s)
{
    uint64_t fragments = most_fragments(c.what.send, c.what.sends, b.lane, c.elem);
    for (uint64_t f = 0; f < fragments; f++) {
        for (uint32_t i = 0; i < c.what.sends; i++) {
            const cuda_send &m = c.what.send[i];
            if (b.lane >= m.lanes)
                continue;
            range r = piece_of(m.len, b.lane, m.lanes);
            span part = fragment_of(r.count * c.elem, f);
            if (!part.there)
                continue;
            if (!h.thread && !stream_credit(c.view, s, m.peer, b.lane))
                shared_store(&s->given_up[0], 1);
            h.sync();
            if (shared_load(&s->given_up[0]))
                return;
            uint32_t number = s->sent[m.peer];
            stream_copy_in<T>(h, c, slot_of(c.view, m.peer, c.view.rank, b.lane, number),
                              c.in + (m.off + r.from) * c.elem + part.from, part.bytes);
            h.sync();
            if (!h.thread) { /* pairs with load_acquire in stream_await */
                fence_system();
                cuda_post *post = post_of(c.view, m.peer, c.view.rank, b.lane);
                store_relaxed(&post->arrived[number % CUDA_DEPTH],
                              (uint64_t)(number + 1) << 32 | c.signature);
                s->sent[m.peer] = number + 1;
            }
        }
        if (!h.thread)
            shared_store(&s->passed, (uint32_t)f + 1);
    }
    if (!h.thread)
        shared_store(&s->passed, UINT32_MAX);
}

/* --- the receiving half ------------------------------------------------------------------------------ */

/* Thread 0: the next fragment of every source has come, and what it is written over has been sent. */
DEV bool stream_await(const cuda_exchange_call &c, stream_shared *s, const cuda_result &result,
                      uint32_t lane, uint64_t f)
{
    const cuda_view &v = c.view;
    for (uint32_t n = 0; n < result.count; n++) {
        uint32_t peer = c.what.source[result.first + n].peer;
        if (peer == CUDA_LOCAL)
            continue;
        uint32_t number = s->received[peer];
        const uint64_t *arrived = &post_of(v, v.rank, peer, lane)->arrived[number % CUDA_DEPTH];
        uint64_t seen;
        patience w = {};
        while ((uint32_t)((seen = load_acquire(arrived)) >> 32) != number + 1)
            if (!wait_on(v.guard, w, peer, lane, number) ||
                (wait_looked(w) &&
                 other_call(v.guard, post_of(v, v.rank, peer, lane), WAY_SLOTS, peer, lane, number,
                            count_of(v, peer, lane)->ll_received, c.signature)))
                return false;
        if ((uint32_t)seen != c.signature) {
            fault(v.guard, CUDA_FAULT_SIGNATURE, peer, lane, number, (uint32_t)seen, c.signature);
            return false;
        }
    }
    /* The sending half has patience of its own, and knows whom it waits for. */
    for (uint32_t spins = 1; c.in_place && shared_load(&s->passed) <= f; spins++) {
        relax();
        if (!(spins % PATIENCE_SPINS) && load_relaxed(&v.guard.state->poison))
            return false;
    }
    return true;
}

/* A fragment of a result. */
struct stream_part {
    const cuda_source *source;
    uint32_t sources, lane;
    uint8_t *to;
    uint64_t from, bytes; /* from: where it begins in a local source's part, in bytes */
};

/* K pairs of source n, `step` bytes apart, from byte `at` of the fragment on. K > 1: whole and aligned, here and below. */
template <class T, uint32_t K>
DEV void stream_load(const cuda_exchange_call &c, const stream_shared *s, const stream_part &p,
                     uint32_t n, uint64_t at, uint64_t step, line16 *x)
{
    const cuda_source &source = p.source[n];
    if (source.peer == CUDA_LOCAL) {
        input_pairs<T, K>(c, x, c.in + source.off * c.elem + p.from + at, step, p.bytes - at);
        return;
    }
    const uint8_t *slot =
        slot_of(c.view, c.view.rank, source.peer, p.lane, s->received[source.peer]);
    UNROLL
    for (uint32_t k = 0; k < K; k++)
        x[k] = load_data((const line16 *)(slot + at + k * step));
}

template <class T, uint32_t K>
DEV void stream_store(const cuda_exchange_call &c, const stream_part &p, uint64_t at, uint64_t step,
                      line16 *x)
{
    UNROLL
    for (uint32_t k = 0; k < K; k++) {
        if (c.adjust.divide_out)
            x[k] = line16{divide_word<T>(x[k].a, c.adjust.divide_out),
                          divide_word<T>(x[k].b, c.adjust.divide_out)};
        if (K > 1)
            store_data((line16 *)(p.to + at + k * step), x[k]);
        else
            store_pair(p.to + at, x[k], p.bytes - at);
    }
}

template <class T, class OP, uint32_t K>
DEV void stream_pairs(const cuda_exchange_call &c, const stream_shared *s, const stream_part &p,
                      uint64_t at, uint64_t step)
{
    accumulator<T, OP> sum[K][2];
    line16 x[K];
    uint32_t n = 0;
    do { /* at least one source */
        stream_load<T, K>(c, s, p, n, at, step, x);
        UNROLL
        for (uint32_t k = 0; k < K; k++) {
            n ? sum[k][0].add(x[k].a) : sum[k][0].start(x[k].a);
            n ? sum[k][1].add(x[k].b) : sum[k][1].start(x[k].b);
        }
    } while (++n < p.sources);
    UNROLL
    for (uint32_t k = 0; k < K; k++)
        x[k] = line16{sum[k][0].finish(), sum[k][1].finish()};
    stream_store<T, K>(c, p, at, step, x);
}

/* One source: no sums to keep. */
template <class T, uint32_t K>
DEV void stream_copy_out(const cuda_exchange_call &c, const stream_shared *s, const stream_part &p,
                         uint64_t at, uint64_t step)
{
    line16 x[K];
    stream_load<T, K>(c, s, p, 0, at, step, x);
    stream_store<T, K>(c, p, at, step, x);
}

template <class T, class OP>
DEV void stream_combine(half h, block b, const cuda_exchange_call &c, const stream_shared *s,
                        const cuda_result &result, uint64_t piece_from, span part)
{
    constexpr uint32_t K = sizeof(accumulator<T, OP>) > 24 ? 2 : STREAM_UNROLL; /* registers */
    stream_part p = {&c.what.source[result.first],    result.count, b.lane, NULL,
                     piece_from * c.elem + part.from, part.bytes};
    p.to = c.out + result.off * c.elem + p.from;
    bool wide = aligned(p.to);
    for (uint32_t n = 0; n < p.sources; n++)
        wide = wide && (p.source[n].peer != CUDA_LOCAL ||
                        aligned(c.in + p.source[n].off * c.elem + p.from));
    uint64_t step = 16ull * h.threads, at = 16ull * h.thread;
    if (p.sources == 1) {
        for (; wide && at + (STREAM_UNROLL - 1) * step + 16 <= p.bytes; at += STREAM_UNROLL * step)
            stream_copy_out<T, STREAM_UNROLL>(c, s, p, at, step);
        for (; at < p.bytes; at += step)
            stream_copy_out<T, 1>(c, s, p, at, step);
        return;
    }
    for (; wide && at + (K - 1) * step + 16 <= p.bytes; at += K * step)
        stream_pairs<T, OP, K>(c, s, p, at, step);
    for (; at < p.bytes; at += step)
        stream_pairs<T, OP, 1>(c, s, p, at, step);
}

template <class T, class OP>
DEV void stream_receive(half h, block b, const cuda_exchange_call &c, stream_shared *s)
{
    uint64_t fragments = most_fragments(c.what.result, c.what.results, b.lane, c.elem);
    for (uint64_t f = 0; f < fragments; f++) {
        for (uint32_t i = 0; i < c.what.results; i++) {
            const cuda_result &m = c.what.result[i];
            if (b.lane >= m.lanes || onto_itself(c, m))
                continue;
            range r = piece_of(m.len, b.lane, m.lanes);
            span part = fragment_of(r.count * c.elem, f);
            if (!part.there)
                continue;
            if (!h.thread && !stream_await(c, s, m, b.lane, f))
                shared_store(&s->given_up[1], 1);
            h.sync();
            if (shared_load(&s->given_up[1]))
                return;
            stream_combine<T, OP>(h, b, c, s, m, r.from, part);
            h.sync();
            for (uint32_t n = 0; n < m.count && !h.thread; n++) {
                uint32_t peer = c.what.source[m.first + n].peer;
                if (peer == CUDA_LOCAL)
                    continue;
                s->received[peer]++;
                store_relaxed(&post_of(c.view, peer, c.view.rank, b.lane)->consumed,
                              (uint64_t)s->received[peer]);
            }
        }
    }
}

/* --- a lane -------------------------------------------------------------------------------------------- */

template <class T, class OP>
DEV void exchange_stream(block b, half h, const cuda_exchange_call &c, stream_shared *s)
{
    bool poisoned = !b.thread && load_relaxed(&c.view.guard.state->poison);
    if (!b.thread)
        s->passed = s->given_up[0] = s->given_up[1] = 0;
    for (uint32_t p = b.thread; p < c.view.ranks; p += b.threads) {
        const cuda_count *n = count_of(c.view, p, b.lane);
        s->sent[p] = n->sent;
        s->received[p] = n->received;
        s->consumed[p] = n->consumed;
    }
    if (b.any(poisoned))
        return;
    if (h.number == 1)
        stream_send<T>(h, b, c, s);
    else
        stream_receive<T, OP>(h, b, c, s);
    b.sync();
    if (shared_load(&s->given_up[0]) || shared_load(&s->given_up[1]))
        return;
    for (uint32_t p = b.thread; p < c.view.ranks; p += b.threads) {
        cuda_count *n = count_of(c.view, p, b.lane);
        n->sent = s->sent[p];
        n->received = s->received[p];
        n->consumed = s->consumed[p];
    }
}

#endif
