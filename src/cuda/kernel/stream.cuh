/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.cuh: exchanges of long messages through slots (slots.cuh). One half of a block's threads sends fragment after fragment, the
 * other receives and combines, so that both directions of every link are busy. In place, what is received is written once
 * the sending half has passed it. A block that has several lanes shares them out among teams of each half: while one
 * waits for flags, fences or its own loads, others copy.
 */
#ifndef CUDA_KERNEL_STREAM_CUH
#define CUDA_KERNEL_STREAM_CUH

#include "cuda/kernel/slots.cuh"

#define STREAM_UNROLL 4u /* pairs of words that a thread has on the way */
#define STREAM_MOVES 8u  /* in a kernel that keeps no sums */

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

/* --- the sending half ------------------------------------------------------------------------------- */

template <class T, uint32_t K>
DEV void stream_copy_in(team t, const cuda_exchange_call &c, uint8_t *to, const uint8_t *from,
                        uint64_t bytes)
{
    uint64_t step = 16ull * t.threads, at = 16ull * t.thread;
    line16 x[K];
    for (; aligned(from) && at + (K - 1) * step + 16 <= bytes; at += K * step) {
        input_pairs<T, K>(c, x, from + at, step, bytes - at);
        UNROLL
        for (uint32_t k = 0; k < K; k++)
            store_data((line16 *)(to + at + k * step), x[k]);
    }
    for (; at < bytes; at += step) {
        input_pairs<T, 1>(c, x, from + at, step, bytes - at);
        store_data((line16 *)(to + at), x[0]);
    }
}

template <class T, uint32_t K>
DEV void stream_send(team t, stream_lanes lanes, const cuda_exchange_call &c, stream_shared *s)
{
    stream_walk<cuda_send> walk(c.what.send, c.what.sends, c.elem, lanes);
    stream_item<cuda_send> x;
    stream_passing passing = {};
    while (walk.next(x)) {
        const cuda_send &m = *x.m;
        stream_counts &n = s->lane[x.index];
        if (!t.thread) {
            stream_pass(s, passing, x.index, x.f);
            if (!stream_credit(c.view, n, m.peer, x.lane))
                shared_store(&s->given_up[t.number], 1);
        }
        t.sync();
        if (shared_load(&s->given_up[t.number]))
            return;
        uint32_t number = n.sent[m.peer];
        stream_copy_in<T, K>(t, c, slot_of(c.view, m.peer, c.view.rank, x.lane, number),
                             c.in + (m.off + x.piece.from) * c.elem + x.part.from, x.part.bytes);
        t.sync();
        if (!t.thread) { /* pairs with load_acquire in stream_come */
            fence_system();
            cuda_post *post = post_of(c.view, m.peer, c.view.rank, x.lane);
            store_relaxed(&post->arrived[number % CUDA_DEPTH],
                          (uint64_t)(number + 1) << 32 | c.signature);
            n.sent[m.peer] = number + 1;
        }
    }
    if (!t.thread)
        stream_pass_all(s, lanes);
}

/* --- the receiving half ------------------------------------------------------------------------------ */

/* A fragment of a result. */
struct stream_part {
    const cuda_source *source;
    const stream_counts *n;
    uint32_t sources, lane;
    uint8_t *to;
    uint64_t from, bytes; /* from: where it begins in a local source's part, in bytes */
};

/* K pairs of source n, `step` bytes apart, from byte `at` of the fragment on. K > 1: whole and aligned, here and below. */
template <class T, uint32_t K>
DEV void stream_load(const cuda_exchange_call &c, const stream_part &p, uint32_t n, uint64_t at,
                     uint64_t step, line16 *x)
{
    const cuda_source &source = p.source[n];
    if (source.peer == CUDA_LOCAL) {
        input_pairs<T, K>(c, x, c.in + source.off * c.elem + p.from + at, step, p.bytes - at);
        return;
    }
    const uint8_t *slot =
        slot_of(c.view, c.view.rank, source.peer, p.lane, p.n->received[source.peer]);
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
DEV void stream_pairs(const cuda_exchange_call &c, const stream_part &p, uint64_t at, uint64_t step)
{
    accumulator<T, OP> sum[K][2];
    line16 x[K];
    uint32_t n = 0;
    do { /* at least one source */
        stream_load<T, K>(c, p, n, at, step, x);
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
DEV void stream_copy_out(const cuda_exchange_call &c, const stream_part &p, uint64_t at,
                         uint64_t step)
{
    line16 x[K];
    stream_load<T, K>(c, p, 0, at, step, x);
    stream_store<T, K>(c, p, at, step, x);
}

template <class T, class OP, uint32_t MOVES>
DEV void stream_combine(team t, const cuda_exchange_call &c, const stream_shared *s,
                        const stream_item<cuda_result> &x)
{
    constexpr uint32_t K = sizeof(accumulator<T, OP>) > 24 ? 2 : STREAM_UNROLL; /* registers */
    const cuda_result &result = *x.m;
    stream_part p = {
        &c.what.source[result.first],        &s->lane[x.index], result.count, x.lane, NULL,
        x.piece.from * c.elem + x.part.from, x.part.bytes};
    p.to = c.out + result.off * c.elem + p.from;
    bool wide = aligned(p.to);
    for (uint32_t n = 0; n < p.sources; n++)
        wide = wide && (p.source[n].peer != CUDA_LOCAL ||
                        aligned(c.in + p.source[n].off * c.elem + p.from));
    uint64_t step = 16ull * t.threads, at = 16ull * t.thread;
    if (p.sources == 1) {
        for (; wide && at + (MOVES - 1) * step + 16 <= p.bytes; at += MOVES * step)
            stream_copy_out<T, MOVES>(c, p, at, step);
        for (; at < p.bytes; at += step)
            stream_copy_out<T, 1>(c, p, at, step);
        return;
    }
    for (; wide && at + (K - 1) * step + 16 <= p.bytes; at += K * step)
        stream_pairs<T, OP, K>(c, p, at, step);
    for (; at < p.bytes; at += step)
        stream_pairs<T, OP, 1>(c, p, at, step);
}

template <class T, class OP, uint32_t K>
DEV void stream_receive(team t, stream_lanes lanes, const cuda_exchange_call &c, stream_shared *s)
{
    stream_walk<cuda_result> walk(c.what.result, c.what.results, c.elem, lanes);
    stream_item<cuda_result> x;
    while (walk.next(x)) {
        if (onto_itself(c, *x.m))
            continue;
        if (!t.thread && !stream_await(c, s, x))
            shared_store(&s->given_up[t.number], 1);
        t.sync();
        if (shared_load(&s->given_up[t.number]))
            return;
        stream_combine<T, OP, K>(t, c, s, x);
        t.sync();
        for (uint32_t n = 0; n < x.m->count && !t.thread; n++) {
            uint32_t peer = c.what.source[x.m->first + n].peer;
            if (peer == CUDA_LOCAL)
                continue;
            uint32_t number = ++s->lane[x.index].received[peer];
            store_relaxed(&post_of(c.view, peer, c.view.rank, x.lane)->consumed, (uint64_t)number);
        }
    }
}

/* --- a block ------------------------------------------------------------------------------------------------- */

/* The block's lanes are shared out among the teams of each half. K: pairs of words that a thread of mere movement has on the way. */
template <class T, class OP, uint32_t K>
DEV void exchange_stream(block b, stream_lanes lanes, const cuda_exchange_call &c, stream_shared *s)
{
    uint32_t teams = c.teams < b.threads / 2 ? c.teams : b.threads / 2;
    team t = team_of(b, teams);
    bool poisoned = !b.thread && load_relaxed(&c.view.guard.state->poison), stopped = false;
    for (uint32_t i = b.thread; i <= TEAMS; i += b.threads)
        s->given_up[i] = 0;
    stream_counts_load(b, c.view, lanes, s);
    if (b.any(poisoned))
        return;
    stream_lanes own = stream_lanes_part(lanes, (t.number - 1) % teams, teams);
    if (t.number && t.number <= teams)
        stream_send<T, K>(t, own, c, s);
    else if (t.number)
        stream_receive<T, OP, K>(t, own, c, s);
    b.sync();
    for (uint32_t i = 1; i <= TEAMS; i++)
        stopped |= shared_load(&s->given_up[i]) != 0;
    if (!stopped)
        stream_counts_store(b, c.view, lanes, s);
}

#endif
