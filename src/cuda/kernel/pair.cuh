/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair.cuh: exchanges of short messages with one peer (abi.h), the flags and buffers of exchange.cuh. What 8 bytes cost is the launch,
 * one hop, and what goes on before the first store, so that is little: each thread reads the lane's numbers by itself, with its
 * first words already under way, sends them, and has them still when the peer's come.
 */
#ifndef CUDA_KERNEL_PAIR_CUH
#define CUDA_KERNEL_PAIR_CUH

#include "cuda/kernel/exchange.cuh"

struct pair_numbers {
    uint32_t sent, received, acked;
};

/* A piece of a message, in bytes. */
struct pair_piece {
    uint32_t from, bytes;
    bool there;
};
DEV pair_piece pair_piece_of(const cuda_pieces &p, uint32_t lane, uint32_t elem)
{
    uint32_t from = p.each * lane + (p.more * lane * p.share >> CUDA_SHARE_BITS);
    uint32_t next = p.each * (lane + 1) + (p.more * (lane + 1) * p.share >> CUDA_SHARE_BITS);
    return pair_piece{from * elem, (next - from) * elem, lane < p.lanes};
}

/* Of the call: as many as the longer of its two messages has. */
DEV uint32_t pair_lanes(const cuda_pair_call &c)
{
    return c.sends.lanes > c.takes.lanes ? c.sends.lanes : c.takes.lanes;
}

/* What a thread has to do with: its member of lines `line`, `line` + step, ... up to `lines`. */
struct pair_share {
    uint32_t line, step, member;
};

/* --- local memory ----------------------------------------------------------------------------------------- */

DEV_CALL uint64_t pair_load_odd(const uint8_t *p, uint32_t left)
{
    return load_word(p, left);
}
DEV_CALL void pair_store_odd(uint8_t *p, uint64_t w, uint32_t left)
{
    store_word(p, w, left);
}

/* The thread's words of a line of a piece. */
template <class T, class FORM>
DEV void pair_load(const cuda_adjust &adjust, const uint8_t *from, uint32_t bytes, uint32_t line,
                   uint32_t member, uint64_t *word)
{
    bool whole = !((uintptr_t)from & 7);
    UNROLL
    for (uint32_t k = 0; k < FORM::each; k++) {
        uint32_t left, at = word_at<FORM>(line, member, k, bytes, &left);
        word[k] = 0;
        if (left == 8 && whole)
            word[k] = *(const uint64_t *)(from + at);
        else if (left)
            word[k] = pair_load_odd(from + at, left);
    }
    if (adjust.scaled || adjust.divide_in)
        for (uint32_t k = 0; k < FORM::each; k++)
            word[k] = input_scaled<T>(adjust, word[k]);
}

template <class T, class FORM>
DEV void pair_store(const cuda_adjust &adjust, uint8_t *to, uint32_t bytes, uint32_t line,
                    uint32_t member, uint64_t *word)
{
    bool whole = !((uintptr_t)to & 7);
    UNROLL
    for (uint32_t k = 0; k < FORM::each; k++) {
        uint32_t left, at = word_at<FORM>(line, member, k, bytes, &left);
        if (left && adjust.divide_out)
            word[k] = divide_word<T>(word[k], adjust.divide_out);
        if (left == 8 && whole)
            *(uint64_t *)(to + at) = word[k];
        else if (left)
            pair_store_odd(to + at, word[k], left);
    }
}

/* A part of OUT that is a copy of IN, by all movers of all lanes. */
DEV void pair_copy(const block &b, const cuda_pair_call &c, uint32_t movers)
{
    uint64_t step = 16ull * movers * pair_lanes(c), at = 16ull * (movers * b.lane + b.thread);
    for (; at < c.copy_bytes; at += step)
        store_pair(c.copy_to + at, load_pair(c.copy_from + at, c.copy_bytes - at),
                   c.copy_bytes - at);
}

/* --- messages --------------------------------------------------------------------------------------------- */

DEV_CALL bool pair_look(const cuda_pair_call &c, uint32_t lane, uint32_t number)
{
    return !other_call(c.guard, c.own + lane, WAY_FLAGGED, c.peer, lane, c.count[lane].received,
                       number, c.signature);
}
/* Its data may wait for ever for what a message of another call does not have. */
DEV bool pair_wait(const cuda_pair_call &c, patience &w, uint32_t lane, uint32_t number)
{
    return wait_on(c.guard, w, c.peer, lane, number) &&
           (!wait_looked(w) || pair_look(c, lane, number));
}

/* Waits for a line; false: given up. */
template <class FORM>
DEV bool pair_take(const cuda_pair_call &c, uint32_t lane, const uint8_t *from, uint32_t line,
                   uint32_t member, uint64_t *word, uint32_t number)
{
    patience w = {};
    for (;;) {
        typename FORM::raw x = FORM::fetch(from, line, member);
        if (FORM::whole(x, number + 1)) {
            FORM::open(x, word);
            return true;
        }
        if (!FORM::agree(pair_wait(c, w, lane, number)))
            return false;
    }
}

/* own: the words of the local source. */
template <class T, class OP, class FORM>
DEV void pair_combine(bool own_first, const uint64_t *own, uint64_t *word)
{
    UNROLL
    for (uint32_t k = 0; k < FORM::each; k++) {
        accumulator<T, OP> sum;
        sum.start(own_first ? own[k] : word[k]);
        sum.add(own_first ? word[k] : own[k]);
        word[k] = sum.finish();
    }
}

/* --- a lane -------------------------------------------------------------------------------------------------- */

/* Room for a message out: the last but one has been read. Every thread for itself. */
DEV bool pair_room(const cuda_pair_call &c, pair_numbers &n, uint32_t lane)
{
    patience w = {};
    while ((int32_t)(n.sent - n.acked) >= (int32_t)CUDA_LL_DEPTH) {
        n.acked = (uint32_t)load_relaxed(&c.own[lane].ll_consumed);
        if ((int32_t)(n.sent - n.acked) >= (int32_t)CUDA_LL_DEPTH &&
            !wait_on(c.guard, w, c.peer, lane, n.sent))
            return false;
    }
    return true;
}

/* The clerk: says which call the message out belongs to. */
DEV void pair_announce(const cuda_pair_call &c, uint32_t lane, uint32_t number)
{
    store_relaxed(&c.theirs[lane].header[number % CUDA_LL_DEPTH],
                  (uint64_t)(number + 1) << 32 | c.signature);
}

/* The clerk: whether the message in is of the same call. */
DEV bool pair_check(const cuda_pair_call &c, uint32_t lane, uint32_t number)
{
    const uint64_t *header = &c.own[lane].header[number % CUDA_LL_DEPTH];
    patience w = {};
    uint64_t seen;
    while ((uint32_t)((seen = load_relaxed(header)) >> 32) != number + 1)
        if (!pair_wait(c, w, lane, number))
            return false;
    if ((uint32_t)seen == c.signature)
        return true;
    fault(c.guard, CUDA_FAULT_SIGNATURE, c.peer, lane, number, (uint32_t)seen, c.signature);
    return false;
}

/* The clerk, when all threads have read what has come; good: something has. */
DEV void pair_close(const cuda_pair_call &c, uint32_t lane, const pair_numbers &n, bool sends,
                    bool takes, bool good)
{
    if (takes && !sends && good)
        store_relaxed(&c.theirs[lane].ll_consumed, (uint64_t)(n.received + 1));
    /* Its message of this operation comes after all of ours before have been read. */
    uint32_t acked = sends && takes ? n.sent : n.acked;
    store_data(
        (line16 *)(c.count + lane),
        line16{(uint64_t)(n.received + (takes ? 1 : 0)) << 32 | (n.sent + (sends ? 1 : 0)), acked});
}

/* Once in 2^16 messages, by all threads: no flag of long ago is left. */
DEV_CALL void pair_fill(block b, const cuda_pair_call &c, uint32_t number)
{
    uint64_t at = (uint64_t)b.lane * CUDA_LL_DEPTH + number % CUDA_LL_DEPTH;
    b.sync();
    exchange_fill(b, c.words + at * words_form::span, words_form::span, number + 1);
    exchange_fill(b, c.lines + at * lines_form::span, lines_form::span, number + 1);
    fence_system();
    b.sync();
}

/* False: given up. Members of a line go on together or not at all. A thread has one line at a time: more at once make more
 * instructions, whose misses cost more than waiting (perf/NOTES.md). */
template <class T, class OP, class FORM>
DEV bool pair_move(const block &b, const cuda_pair_call &c, const pair_share &my, uint32_t movers,
                   pair_numbers n, uint64_t *own)
{
    pair_piece out = pair_piece_of(c.sends, b.lane, c.elem),
               in = pair_piece_of(c.takes, b.lane, c.elem);
    const uint8_t *send = c.send + out.from, *local = c.local + in.from;
    uint8_t *to = c.to_peer + (b.lane * CUDA_LL_DEPTH + n.sent % CUDA_LL_DEPTH) * FORM::span;
    const uint8_t *from =
        c.from_peer + (b.lane * CUDA_LL_DEPTH + n.received % CUDA_LL_DEPTH) * FORM::span;
    uint64_t word[FORM::each];
    if (out.there && !FORM::agree(pair_room(c, n, b.lane)))
        return false;
    for (uint32_t i = my.line; out.there && i < lines_of<FORM>(out.bytes); i += my.step) {
        if (i != my.line)
            pair_load<T, FORM>(c.adjust, send, out.bytes, i, my.member, own);
        FORM::store(to, i, my.member, own, n.sent + 1);
    }
    if (c.copy_to)
        pair_copy(b, c, movers);
    bool kept = c.local_sent && lines_of<FORM>(out.bytes) <= my.step;
    for (uint32_t i = my.line; in.there && i < lines_of<FORM>(in.bytes); i += my.step) {
        if (c.local && !kept)
            pair_load<T, FORM>(c.adjust, local, in.bytes, i, my.member, own);
        if (!pair_take<FORM>(c, b.lane, from, i, my.member, word, n.received))
            return false;
        if (c.local)
            pair_combine<T, OP, FORM>(c.local_first, own, word);
        pair_store<T, FORM>(c.adjust, c.result + in.from, in.bytes, i, my.member, word);
    }
    return true;
}

template <class T, class OP, class FORM>
DEV void pair_flagged(const block &b, const cuda_pair_call &c)
{
    uint32_t movers = exchange_movers(b);
    bool clerk = exchange_clerk(b) == 0, moves = b.thread < movers;
    pair_share my = {b.thread / FORM::members, movers / FORM::members, b.thread % FORM::members};
    bool sends = b.lane < c.sends.lanes, takes = b.lane < c.takes.lanes;
    uint64_t own[FORM::each];
    line16 kept = load_data((const line16 *)(c.count + b.lane));
    uint32_t poison = load_relaxed(&c.state->poison);
    if (sends && moves) {
        pair_piece out = pair_piece_of(c.sends, b.lane, c.elem);
        pair_load<T, FORM>(c.adjust, c.send + out.from, out.bytes, my.line, my.member, own);
    }
    pair_numbers n = {(uint32_t)kept.a, (uint32_t)(kept.a >> 32), (uint32_t)kept.b};
    bool good = !poison;
    /* First the header: a peer that makes another call may wait for its data for ever. */
    if (clerk && sends && good) {
        good = pair_room(c, n, b.lane);
        if (good)
            pair_announce(c, b.lane, n.sent);
    }
    if (moves)
        good = FORM::agree(good) && pair_move<T, OP, FORM>(b, c, my, movers, n, own);
    if (clerk && takes && good)
        good = pair_check(c, b.lane, n.received);
    if (takes && (n.received & 0xffffu) <= 1)
        pair_fill(b, c, n.received);
    gather(b, exchange_clerk(b) != UINT32_MAX);
    if (clerk)
        pair_close(c, b.lane, n, sends, takes, good);
}

#endif
