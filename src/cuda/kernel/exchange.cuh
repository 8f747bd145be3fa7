/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exchange.cuh: exchanges of short messages (abi.h). Data and flag travel in one store, so one hop is all it takes and
 * nobody waits at a barrier.
 *
 *   words  16 bytes carry 8 of data and twice the flag: each 8-byte half is whole by itself
 *   lines  128 bytes carry 120 of data and one flag, where the memory keeps such lines together
 *
 * Flags. A lane's message to a peer carries its number plus 1 as flag, in one of two buffers by turns. A buffer is written again
 * once the peer is known to have read it: it has answered in a later operation (it sends only after it has ended the one
 * before), or has said so (ll_consumed) where the operation had nothing to send back. The number wraps after 2^32
 * messages; lest a flag of so long ago be taken for a new one, the receiver fills each buffer with the flag it has just read,
 * once in 2^16 messages.
 * Its header says which call the message belongs to; one thread reads it while the others read data.
 */
#ifndef CUDA_KERNEL_EXCHANGE_CUH
#define CUDA_KERNEL_EXCHANGE_CUH

#include "cuda/kernel/common.cuh"
#include "cuda/kernel/reduce.cuh"

struct exchange_shared {
    uint32_t sent[CUDA_RANKS], received[CUDA_RANKS], acked[CUDA_RANKS];
    uint32_t sends, receives; /* masks of peers */
};

DEV uint32_t bit(uint32_t mask, uint32_t i)
{
    return mask >> i & 1u;
}

/* --- what is loaded and stored ----------------------------------------------------------------------- */

/* A local input, scaled or divided as the call says. */
template <class T> DEV uint64_t input_scaled(const cuda_exchange_call &c, uint64_t w)
{
    if (c.scaled)
        w = scale_word<T>(w, c.scale ? load_word(c.scale, T::bytes) : c.scalar);
    if (c.divide_in)
        w = divide_word<T>(w, c.divide_in);
    return w;
}

template <class T>
DEV uint64_t input_word(const cuda_exchange_call &c, const uint8_t *p, uint64_t bytes)
{
    return input_scaled<T>(c, load_word(p, bytes));
}

template <class T>
DEV void output_word(const cuda_exchange_call &c, uint8_t *p, uint64_t w, uint64_t bytes)
{
    store_word(p, c.divide_out ? divide_word<T>(w, c.divide_out) : w, bytes);
}

/* --- the two forms of a flagged message ------------------------------------------------------------------- */

/* Words: member and line are one; a thread has one word at a time. */
struct words_form {
    static constexpr uint32_t members = 1, each = 1, per_line = 1;

    static DEV uint8_t *buffer(const cuda_view &v, uint32_t owner, uint32_t from, uint32_t lane,
                               uint32_t slot)
    {
        return v.mailbox[owner] + CUDA_LL_AT(v.ranks, from, lane) + slot * CUDA_LL_SPAN;
    }
    static DEV void store(uint8_t *buffer, uint64_t line, uint32_t member, const uint64_t *word,
                          uint32_t flag)
    {
        uint64_t high = (uint64_t)flag << 32;
        (void)member;
        store_line((line16 *)buffer + line, line16{high | (uint32_t)word[0], high | word[0] >> 32});
    }
    static DEV bool load(const uint8_t *buffer, uint64_t line, uint32_t member, uint64_t *word,
                         uint32_t flag)
    {
        line16 x = load_line((const line16 *)buffer + line);
        (void)member;
        word[0] = (uint32_t)x.a | x.b << 32;
        return x.a >> 32 == flag && x.b >> 32 == flag;
    }
    static DEV bool agree(bool x)
    {
        return x;
    }
    static constexpr uint64_t span = CUDA_LL_SPAN;
};

struct lines_form {
    static constexpr uint32_t members = WIDE_MEMBERS, each = WIDE_EACH, per_line = 15;

    static DEV uint8_t *buffer(const cuda_view &v, uint32_t owner, uint32_t from, uint32_t lane,
                               uint32_t slot)
    {
        return v.mailbox[owner] + CUDA_WIDE_AT(v.ranks, from, lane) + slot * CUDA_WIDE_SPAN;
    }
    static DEV void store(uint8_t *buffer, uint64_t line, uint32_t member, const uint64_t *word,
                          uint32_t flag)
    {
        wide_store((uint64_t *)buffer + 16 * line, member, word, flag);
    }
    static DEV bool load(const uint8_t *buffer, uint64_t line, uint32_t member, uint64_t *word,
                         uint32_t flag)
    {
        return wide_load((const uint64_t *)buffer + 16 * line, member, word, flag);
    }
    /* Members load together, so they give up together. */
    static DEV bool agree(bool x)
    {
        return wide_agree(x);
    }
    static constexpr uint64_t span = CUDA_WIDE_SPAN;
};

/* --- sending and receiving ------------------------------------------------------------------------------ */

/* Lines of `bytes`, the last one shorter. */
template <class FORM> DEV uint64_t lines_of(uint64_t bytes)
{
    return (bytes + 8 * FORM::per_line - 1) / (8 * FORM::per_line);
}

/* Which bytes word `k` of a member of a line holds; their number, 0 beyond the end or for the flag. */
template <class FORM> DEV uint64_t word_at(uint64_t line, uint32_t member, uint32_t k, uint64_t bytes, uint64_t *left)
{
    uint32_t index = member * FORM::each + k;
    uint64_t at = (line * FORM::per_line + index) * 8;
    *left = index >= FORM::per_line || at >= bytes ? 0 : bytes - at < 8 ? bytes - at : 8;
    return at;
}

template <class T, class FORM>
DEV void exchange_send(block b, const cuda_exchange_call &c, const exchange_shared &s,
                       const cuda_send &send)
{
    range r = piece_of(send.len, b.lane, send.lanes);
    const uint8_t *from = c.in + (send.off + r.from) * c.elem;
    uint64_t bytes = r.count * c.elem, lines = lines_of<FORM>(bytes);
    uint32_t number = s.sent[send.peer];
    uint8_t *to = FORM::buffer(c.view, send.peer, c.view.rank, b.lane, number % CUDA_LL_DEPTH);
    for (uint64_t i = b.thread / FORM::members; i < lines; i += b.threads / FORM::members) {
        uint32_t member = b.thread % FORM::members;
        uint64_t word[FORM::each], left;
        for (uint32_t k = 0; k < FORM::each; k++) {
            uint64_t at = word_at<FORM>(i, member, k, bytes, &left);
            word[k] = left ? input_word<T>(c, from + at, left) : 0;
        }
        FORM::store(to, i, member, word, number + 1);
    }
}

/* Its data may wait for ever for what a message of another call does not have. */
DEV bool exchange_wait(const cuda_exchange_call &c, patience &w, uint32_t peer, uint32_t lane,
                       uint32_t number)
{
    if (!wait_on(c.view, w, peer, lane, number))
        return false;
    return !wait_looked(w) || !other_call(c.view, WAY_FLAGGED, peer, lane,
                                          count_of(c.view, peer, lane)->received, number,
                                          c.signature);
}

/* Word(s) of a source; false: given up. */
template <class T, class FORM>
DEV bool exchange_source(block b, const cuda_exchange_call &c, const exchange_shared &s,
                         const cuda_source &source, uint64_t piece_from, uint64_t line,
                         uint64_t bytes, uint64_t *word)
{
    uint32_t member = b.thread % FORM::members;
    if (source.peer == CUDA_LOCAL) {
        const uint8_t *from = c.in + (source.off + piece_from) * c.elem;
        uint64_t left;
        for (uint32_t k = 0; k < FORM::each; k++) {
            uint64_t at = word_at<FORM>(line, member, k, bytes, &left);
            word[k] = left ? input_word<T>(c, from + at, left) : 0;
        }
        return true;
    }
    uint32_t number = s.received[source.peer];
    const uint8_t *from =
        FORM::buffer(c.view, c.view.rank, source.peer, b.lane, number % CUDA_LL_DEPTH);
    patience w = {};
    while (!FORM::load(from, line, member, word, number + 1))
        if (!FORM::agree(exchange_wait(c, w, source.peer, b.lane, number)))
            return false;
    return true;
}

template <class T, class OP, class FORM>
DEV bool exchange_result(block b, const cuda_exchange_call &c, const exchange_shared &s,
                         const cuda_result &result)
{
    range r = piece_of(result.len, b.lane, result.lanes);
    uint64_t bytes = r.count * c.elem, lines = lines_of<FORM>(bytes);
    uint8_t *to = c.out + (result.off + r.from) * c.elem;
    const cuda_source *source = &c.what.source[result.first];
    for (uint64_t i = b.thread / FORM::members; i < lines; i += b.threads / FORM::members) {
        accumulator<T, OP> sum[FORM::each];
        uint64_t word[FORM::each], left;
        uint32_t n = 0;
        do { /* at least one source */
            if (!exchange_source<T, FORM>(b, c, s, source[n], r.from, i, bytes, word))
                return false;
            for (uint32_t k = 0; k < FORM::each; k++)
                n ? sum[k].add(word[k]) : sum[k].start(word[k]);
        } while (++n < result.count);
        for (uint32_t k = 0; k < FORM::each; k++) {
            uint64_t at = word_at<FORM>(i, b.thread % FORM::members, k, bytes, &left);
            if (left)
                output_word<T>(c, to + at, sum[k].finish(), left);
        }
    }
    return true;
}

/* In place, a rank's own data may already be where they belong. */
DEV bool onto_itself(const cuda_exchange_call &c, const cuda_result &result)
{
    const cuda_source &source = c.what.source[result.first];
    return c.in_place && result.count == 1 && source.peer == CUDA_LOCAL &&
           c.in + source.off * c.elem == c.out + result.off * c.elem && !c.scaled && !c.divide_in &&
           !c.divide_out;
}

/* --- before and after --------------------------------------------------------------------------------- */

/* Numbers of this lane, and room for what is going to be sent. */
DEV bool exchange_begin(block b, const cuda_exchange_call &c, exchange_shared *s)
{
    const cuda_view &v = c.view;
    bool given_up = false;
    uint32_t p = b.thread;
    if (!p) {
        s->sends = s->receives = 0;
        for (uint32_t i = 0; i < c.what.sends; i++)
            if (b.lane < c.what.send[i].lanes)
                s->sends |= 1u << c.what.send[i].peer;
        for (uint32_t i = 0; i < c.what.results; i++)
            for (uint32_t n = 0; n < c.what.result[i].count && b.lane < c.what.result[i].lanes; n++) {
                uint32_t peer = c.what.source[c.what.result[i].first + n].peer;
                s->receives |= peer == CUDA_LOCAL ? 0 : 1u << peer;
            }
        given_up = load_relaxed(&v.state->poison) != 0;
    }
    b.sync();
    for (; p < v.ranks; p += b.threads) {
        const cuda_count *n = count_of(v, p, b.lane);
        const cuda_post *post = post_of(v, v.rank, p, b.lane);
        uint32_t sent = n->ll_sent, acked = n->ll_acked;
        patience w = {};
        while (bit(s->sends, p) && (int32_t)(sent - acked) >= (int32_t)CUDA_LL_DEPTH && !given_up) {
            acked = (uint32_t)load_relaxed(&post->ll_consumed);
            given_up = (int32_t)(sent - acked) >= (int32_t)CUDA_LL_DEPTH && !wait_on(v, w, p, b.lane, sent);
        }
        s->sent[p] = sent;
        s->received[p] = n->ll_received;
        s->acked[p] = acked;
    }
    return !b.any(given_up);
}

/* The headers: what call a message belongs to. */
DEV void exchange_announce(block b, const cuda_exchange_call &c, const exchange_shared &s)
{
    for (uint32_t i = b.thread; i < c.what.sends; i += b.threads) {
        uint32_t peer = c.what.send[i].peer, number = s.sent[peer];
        if (b.lane >= c.what.send[i].lanes)
            continue;
        store_relaxed(&post_of(c.view, peer, c.view.rank, b.lane)->header[number % CUDA_LL_DEPTH],
                      (uint64_t)(number + 1) << 32 | c.signature);
    }
}

/* Threads of the last warp: they have least to do. False: given up. */
DEV bool exchange_check(block b, const cuda_exchange_call &c, const exchange_shared &s)
{
    for (uint32_t p = b.threads - 1 - b.thread; p < c.view.ranks; p += b.threads) {
        if (!bit(s.receives, p))
            continue;
        uint32_t number = s.received[p];
        const uint64_t *header =
            &post_of(c.view, c.view.rank, p, b.lane)->header[number % CUDA_LL_DEPTH];
        patience w = {};
        uint64_t seen;
        while ((uint32_t)((seen = load_relaxed(header)) >> 32) != number + 1)
            if (!exchange_wait(c, w, p, b.lane, number))
                return false;
        if ((uint32_t)seen != c.signature) {
            fault(c.view, CUDA_FAULT_SIGNATURE, p, b.lane, number, (uint32_t)seen, c.signature);
            return false;
        }
    }
    return true;
}

DEV void exchange_fill(block b, uint8_t *buffer, uint64_t bytes, uint32_t flag)
{
    uint64_t word = (uint64_t)flag << 32 | flag;
    for (uint64_t i = b.thread; i < bytes / 16; i += b.threads)
        store_line((line16 *)buffer + i, line16{word, word});
}

/* All messages of the lane are read: numbers go on. */
DEV void exchange_end(block b, const cuda_exchange_call &c, exchange_shared *s)
{
    const cuda_view &v = c.view;
    for (uint32_t p = 0; p < v.ranks; p++) {
        if (!bit(s->receives, p) || (s->received[p] & 0xffffu) > 1)
            continue;
        uint32_t slot = s->received[p] % CUDA_LL_DEPTH, flag = s->received[p] + 1;
        exchange_fill(b, words_form::buffer(v, v.rank, p, b.lane, slot), words_form::span, flag);
        exchange_fill(b, lines_form::buffer(v, v.rank, p, b.lane, slot), lines_form::span, flag);
        fence_system();
        b.sync();
    }
    for (uint32_t p = b.thread; p < v.ranks; p += b.threads) {
        uint32_t sends = bit(s->sends, p), receives = bit(s->receives, p);
        cuda_count *n = count_of(v, p, b.lane);
        if (receives && !sends)
            store_relaxed(&post_of(v, p, v.rank, b.lane)->ll_consumed, (uint64_t)(s->received[p] + 1));
        /* Its message of this operation came after all of ours before had been read. */
        n->ll_acked = sends && receives ? s->sent[p] : s->acked[p];
        n->ll_sent = s->sent[p] + sends;
        n->ll_received = s->received[p] + receives;
    }
}

template <class T, class OP, class FORM>
DEV void exchange_flagged(block b, const cuda_exchange_call &c, exchange_shared *s)
{
    if (!exchange_begin(b, c, s))
        return;
    exchange_announce(b, c, *s);
    for (uint32_t i = 0; i < c.what.sends; i++)
        if (b.lane < c.what.send[i].lanes)
            exchange_send<T, FORM>(b, c, *s, c.what.send[i]);
    /* In place, a word of a result lies over the same word of messages out and of its own source, if over any (form.c): this
     * thread has read it. */
    bool good = true;
    for (uint32_t i = 0; i < c.what.results && good; i++)
        good = b.lane >= c.what.result[i].lanes || onto_itself(c, c.what.result[i]) ||
               exchange_result<T, OP, FORM>(b, c, *s, c.what.result[i]);
    good = good && exchange_check(b, c, *s);
    if (!b.any(!good))
        exchange_end(b, c, s);
}

#endif
