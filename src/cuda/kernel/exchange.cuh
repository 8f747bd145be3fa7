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
    uint32_t sent[CUDA_RANKS], received[CUDA_RANKS];
    uint32_t ways[CUDA_RANKS]; /* of the lane's messages with each peer: enum exchange_way */
};
/* END: when all is read, the peer is to be told, or the buffer to be filled. */
enum exchange_way { EXCHANGE_OUT = 1, EXCHANGE_IN = 2, EXCHANGE_END = 4 };

/* All threads of a lane but its last warp move data; the last warp looks after headers, or all do where there is one only. */
#define EXCHANGE_CLERKS 32u
DEV uint32_t exchange_movers(const block &b)
{
    return b.threads > EXCHANGE_CLERKS ? b.threads - EXCHANGE_CLERKS : b.threads;
}
/* The first peer, or message, of a clerk; UINT32_MAX: the thread is none. */
DEV uint32_t exchange_clerk(const block &b)
{
    uint32_t first = b.threads > EXCHANGE_CLERKS ? b.threads - EXCHANGE_CLERKS : 0;
    return b.thread >= first ? b.thread - first : UINT32_MAX;
}
DEV uint32_t exchange_clerks(const block &b)
{
    return b.threads > EXCHANGE_CLERKS ? EXCHANGE_CLERKS : b.threads;
}

/* --- what is loaded and stored ----------------------------------------------------------------------- */

/* A local input, scaled or divided as the call says. */
template <class T> DEV uint64_t input_scaled(const cuda_adjust &a, uint64_t w)
{
    if (a.scaled)
        w = scale_word<T>(w, a.scale ? load_word(a.scale, T::bytes) : a.scalar);
    if (a.divide_in)
        w = divide_word<T>(w, a.divide_in);
    return w;
}

template <class T>
DEV uint64_t input_word(const cuda_exchange_call &c, const uint8_t *p, uint64_t bytes)
{
    return input_scaled<T>(c.adjust, load_word(p, bytes));
}

template <class T>
DEV void output_word(const cuda_exchange_call &c, uint8_t *p, uint64_t w, uint64_t bytes)
{
    store_word(p, c.adjust.divide_out ? divide_word<T>(w, c.adjust.divide_out) : w, bytes);
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
    /* A line as it lies there; whether it is the one that is waited for; its words then. */
    using raw = line16;
    static DEV raw fetch(const uint8_t *buffer, uint64_t line, uint32_t member)
    {
        (void)member;
        return load_line((const line16 *)buffer + line);
    }
    static DEV bool whole(const raw &x, uint32_t flag)
    {
        return x.a >> 32 == flag && x.b >> 32 == flag;
    }
    static DEV void open(const raw &x, uint64_t *word)
    {
        word[0] = (uint32_t)x.a | x.b << 32;
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
    using raw = wide_raw;
    static DEV raw fetch(const uint8_t *buffer, uint64_t line, uint32_t member)
    {
        return wide_fetch((const uint64_t *)buffer + 16 * line, member);
    }
    /* For all members of a line alike. */
    static DEV bool whole(const raw &x, uint32_t flag)
    {
        return wide_whole(x, flag);
    }
    static DEV void open(const raw &x, uint64_t *word)
    {
        wide_open(x, word);
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
template <class FORM, class UINT> DEV UINT lines_of(UINT bytes)
{
    return (bytes + 8 * FORM::per_line - 1) / (8 * FORM::per_line);
}

/* Which bytes word `k` of a member of a line holds; their number, 0 beyond the end or for the flag. */
template <class FORM, class UINT>
DEV UINT word_at(UINT line, uint32_t member, uint32_t k, UINT bytes, UINT *left)
{
    uint32_t index = member * FORM::each + k;
    UINT at = (line * FORM::per_line + index) * 8;
    *left = index >= FORM::per_line || at >= bytes ? 0 : bytes - at < 8 ? bytes - at : 8;
    return at;
}

/* The words of a member of a line of local input. */
template <class T, class FORM>
DEV void exchange_load(const cuda_exchange_call &c, const uint8_t *from, uint64_t line,
                       uint32_t member, uint64_t bytes, uint64_t *word)
{
    UNROLL
    for (uint32_t k = 0; k < FORM::each; k++) {
        uint64_t left, at = word_at<FORM>(line, member, k, bytes, &left);
        word[k] = left ? input_word<T>(c, from + at, left) : 0;
    }
}

/* What a thread has read before it knew its messages' numbers: its words of its first line of the first message out. */
template <class FORM> struct early {
    const uint8_t *from; /* NULL: nothing */
    uint64_t line, word[FORM::each];
};

template <class T, class FORM>
DEV void exchange_preload(const block &b, const cuda_exchange_call &c, const cuda_send &send,
                          early<FORM> &e)
{
    range r = piece_of(send.len, b.lane, send.lanes);
    uint64_t bytes = r.count * c.elem;
    e.line = b.thread / FORM::members;
    if (b.lane >= send.lanes || b.thread >= exchange_movers(b) || e.line >= lines_of<FORM>(bytes))
        return;
    e.from = c.in + (send.off + r.from) * c.elem;
    exchange_load<T, FORM>(c, e.from, e.line, b.thread % FORM::members, bytes, e.word);
}

/* The same words, from there if it was they. */
template <class T, class FORM>
DEV void exchange_local(const block &b, const cuda_exchange_call &c, const early<FORM> &e,
                        const uint8_t *from, uint64_t line, uint64_t bytes, uint64_t *word)
{
    if (e.from == from && e.line == line) {
        UNROLL
        for (uint32_t k = 0; k < FORM::each; k++)
            word[k] = e.word[k];
        return;
    }
    exchange_load<T, FORM>(c, from, line, b.thread % FORM::members, bytes, word);
}

template <class T, class FORM>
DEV void exchange_send(const block &b, const cuda_exchange_call &c, const exchange_shared &s,
                       const cuda_send &send, const early<FORM> &e)
{
    range r = piece_of(send.len, b.lane, send.lanes);
    const uint8_t *from = c.in + (send.off + r.from) * c.elem;
    uint64_t bytes = r.count * c.elem, lines = lines_of<FORM>(bytes);
    uint32_t number = s.sent[send.peer], step = exchange_movers(b) / FORM::members;
    uint8_t *to = FORM::buffer(c.view, send.peer, c.view.rank, b.lane, number % CUDA_LL_DEPTH);
    for (uint64_t i = b.thread / FORM::members; i < lines; i += step) {
        uint64_t word[FORM::each];
        exchange_local<T, FORM>(b, c, e, from, i, bytes, word);
        FORM::store(to, i, b.thread % FORM::members, word, number + 1);
    }
}

/* Its data may wait for ever for what a message of another call does not have. */
DEV bool exchange_wait(const cuda_exchange_call &c, patience &w, uint32_t peer, uint32_t lane,
                       uint32_t number)
{
    const cuda_view &v = c.view;
    if (!wait_on(v.guard, w, peer, lane, number))
        return false;
    return !wait_looked(w) ||
           !other_call(v.guard, post_of(v, v.rank, peer, lane), WAY_FLAGGED, peer, lane,
                       count_of(v, peer, lane)->received, number, c.signature);
}

/* Words of a message; false: given up. */
template <class FORM>
DEV bool exchange_message(const block &b, const cuda_exchange_call &c, const exchange_shared &s,
                          uint32_t peer, uint64_t line, uint64_t *word)
{
    uint32_t number = s.received[peer], member = b.thread % FORM::members;
    const uint8_t *from = FORM::buffer(c.view, c.view.rank, peer, b.lane, number % CUDA_LL_DEPTH);
    patience w = {};
    for (;;) {
        typename FORM::raw x = FORM::fetch(from, line, member);
        if (FORM::whole(x, number + 1)) {
            FORM::open(x, word);
            return true;
        }
        if (!FORM::agree(exchange_wait(c, w, peer, b.lane, number)))
            return false;
    }
}

template <class T, class OP, class FORM>
DEV bool exchange_result(const block &b, const cuda_exchange_call &c, const exchange_shared &s,
                         const cuda_result &result, const early<FORM> &e)
{
    range r = piece_of(result.len, b.lane, result.lanes);
    uint64_t bytes = r.count * c.elem, lines = lines_of<FORM>(bytes);
    uint8_t *to = c.out + (result.off + r.from) * c.elem;
    const cuda_source *source = &c.what.source[result.first];
    uint32_t step = exchange_movers(b) / FORM::members;
    for (uint64_t i = b.thread / FORM::members; i < lines; i += step) {
        accumulator<T, OP> sum[FORM::each];
        uint64_t word[FORM::each], left;
        uint32_t n = 0;
        do { /* at least one source */
            if (source[n].peer == CUDA_LOCAL)
                exchange_local<T, FORM>(b, c, e, c.in + (source[n].off + r.from) * c.elem, i, bytes,
                                        word);
            else if (!exchange_message<FORM>(b, c, s, source[n].peer, i, word))
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
           c.in + source.off * c.elem == c.out + result.off * c.elem && !c.adjust.scaled &&
           !c.adjust.divide_in && !c.adjust.divide_out;
}

/* --- before and after --------------------------------------------------------------------------------- */

/* Which ways the lane's messages with a peer go. */
DEV uint32_t exchange_ways(const block &b, const cuda_exchange &x, uint32_t peer)
{
    uint32_t ways = 0;
    for (uint32_t i = 0; i < x.sends; i++)
        if (x.send[i].peer == peer && b.lane < x.send[i].lanes)
            ways |= EXCHANGE_OUT;
    for (uint32_t i = 0; i < x.results; i++)
        for (uint32_t n = 0; n < x.result[i].count && b.lane < x.result[i].lanes; n++)
            if (x.source[x.result[i].first + n].peer == peer)
                ways |= EXCHANGE_IN;
    return ways;
}

/* Numbers of this lane, and room for what is going to be sent. They go on at once: if this operation fails, there is no other. */
DEV bool exchange_begin(const block &b, const cuda_exchange_call &c, exchange_shared *s)
{
    const cuda_view &v = c.view;
    bool given_up = false;
    for (uint32_t p = b.thread; p < v.ranks; p += b.threads) {
        cuda_count *n = count_of(v, p, b.lane);
        line16 kept = load_data((const line16 *)n); /* with the load of poison under way */
        uint32_t poison = load_relaxed(&v.guard.state->poison);
        uint32_t ways = exchange_ways(b, c.what, p);
        uint32_t sent = (uint32_t)kept.a, received = (uint32_t)(kept.a >> 32),
                 acked = (uint32_t)kept.b;
        given_up |= poison != 0;
        s->ways[p] = ways;
        if (!ways)
            continue;
        const cuda_post *post = post_of(v, v.rank, p, b.lane);
        patience w = {};
        while (ways & EXCHANGE_OUT && (int32_t)(sent - acked) >= (int32_t)CUDA_LL_DEPTH &&
               !given_up) {
            acked = (uint32_t)load_relaxed(&post->ll_consumed);
            given_up = (int32_t)(sent - acked) >= (int32_t)CUDA_LL_DEPTH &&
                       !wait_on(v.guard, w, p, b.lane, sent);
        }
        if (ways == EXCHANGE_IN || (ways & EXCHANGE_IN && (received & 0xffffu) <= 1))
            ways |= EXCHANGE_END;
        s->sent[p] = sent;
        s->received[p] = received;
        s->ways[p] = ways;
        /* Its message of this operation comes after all of ours before have been read. */
        acked = (ways & EXCHANGE_OUT) && (ways & EXCHANGE_IN) ? sent : acked;
        sent += ways & EXCHANGE_OUT ? 1 : 0;
        received += ways & EXCHANGE_IN ? 1 : 0;
        store_data((line16 *)n, line16{(uint64_t)received << 32 | sent, acked});
    }
    return !b.any(given_up);
}

/* The headers: what call a message belongs to. */
DEV void exchange_announce(const block &b, const cuda_exchange_call &c, const exchange_shared &s)
{
    for (uint32_t i = exchange_clerk(b); i < c.what.sends; i += exchange_clerks(b)) {
        uint32_t peer = c.what.send[i].peer, number = s.sent[peer];
        if (b.lane >= c.what.send[i].lanes)
            continue;
        store_relaxed(&post_of(c.view, peer, c.view.rank, b.lane)->header[number % CUDA_LL_DEPTH],
                      (uint64_t)(number + 1) << 32 | c.signature);
    }
}

/* False: given up. */
DEV bool exchange_check(const block &b, const cuda_exchange_call &c, const exchange_shared &s)
{
    for (uint32_t p = exchange_clerk(b); p < c.view.ranks; p += exchange_clerks(b)) {
        if (!(s.ways[p] & EXCHANGE_IN))
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
            fault(c.view.guard, CUDA_FAULT_SIGNATURE, p, b.lane, number, (uint32_t)seen,
                  c.signature);
            return false;
        }
    }
    return true;
}

DEV void exchange_fill(const block &b, uint8_t *buffer, uint64_t bytes, uint32_t flag)
{
    uint64_t word = (uint64_t)flag << 32 | flag;
    for (uint64_t i = b.thread; i < bytes / 16; i += b.threads)
        store_line((line16 *)buffer + i, line16{word, word});
}

/* All messages of the lane are read by all threads. */
DEV void exchange_end(const block &b, const cuda_exchange_call &c, const exchange_shared &s)
{
    const cuda_view &v = c.view;
    for (uint32_t p = 0; p < v.ranks; p++) {
        if (!(s.ways[p] & EXCHANGE_END) || (s.received[p] & 0xffffu) > 1)
            continue;
        uint32_t slot = s.received[p] % CUDA_LL_DEPTH, flag = s.received[p] + 1;
        exchange_fill(b, words_form::buffer(v, v.rank, p, b.lane, slot), words_form::span, flag);
        exchange_fill(b, lines_form::buffer(v, v.rank, p, b.lane, slot), lines_form::span, flag);
        fence_system();
        b.sync();
    }
    for (uint32_t p = b.thread; p < v.ranks; p += b.threads)
        if ((s.ways[p] & (EXCHANGE_OUT | EXCHANGE_IN)) == EXCHANGE_IN)
            store_relaxed(&post_of(v, p, v.rank, b.lane)->ll_consumed,
                          (uint64_t)(s.received[p] + 1));
}

/* A launch's parameters are in no cache yet. Each line of them that is met by the way costs a miss, one after the other; these are asked
 * for together. */
DEV void exchange_warm(const cuda_exchange_call &c)
{
    const cuda_exchange &x = c.what;
    touch((uint32_t)(uintptr_t)c.view.mailbox[0] ^ (uint32_t)(uintptr_t)c.view.guard.state ^
          c.elem ^ x.sends ^ x.send[0].peer ^ x.result[0].count ^ x.result[1].count ^
          x.source[0].peer ^ x.source[2].peer);
}

template <class T, class OP, class FORM>
DEV void exchange_flagged(const block &b, const cuda_exchange_call &c, exchange_shared *s)
{
    early<FORM> e = {};
    const cuda_exchange &x = c.what;
    exchange_warm(c);
    if (x.sends)
        exchange_preload<T, FORM>(b, c, x.send[0], e);
    if (!exchange_begin(b, c, s))
        return;
    exchange_announce(b, c, *s);
    bool moves = b.thread < exchange_movers(b), good = true, end = false;
    for (uint32_t i = 0; i < x.sends && moves; i++)
        if (b.lane < x.send[i].lanes)
            exchange_send<T, FORM>(b, c, *s, x.send[i], e);
    /* In place, a word of a result lies over the same word of messages out and of its own source, if over any (form.c): this
     * thread has read it. */
    for (uint32_t i = 0; i < x.results && good && moves; i++)
        good = b.lane >= x.result[i].lanes || onto_itself(c, x.result[i]) ||
               exchange_result<T, OP, FORM>(b, c, *s, x.result[i], e);
    good = good && exchange_check(b, c, *s);
    for (uint32_t p = 0; p < c.view.ranks; p++)
        end |= (s->ways[p] & EXCHANGE_END) != 0;
    if (end && !b.any(!good))
        exchange_end(b, c, *s);
}

#endif
