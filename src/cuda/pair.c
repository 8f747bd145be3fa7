/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair.c: from an exchange to the few words that a kernel for one peer needs.
 */
#include "cuda/pair.h"
#include <stddef.h>

struct cuda_pieces cuda_pieces_of(uint64_t length, uint32_t lanes)
{
    return (struct cuda_pieces){.lanes = lanes,
                                .each = (uint32_t)(length / lanes),
                                .more = (uint32_t)(length % lanes),
                                .share = ((1u << CUDA_SHARE_BITS) + lanes - 1) / lanes};
}

/* The peer of a result's message; CUDA_LOCAL: none. False: it is not for a pair. */
static bool peer_of(const struct cuda_exchange *x, const struct cuda_result *r, uint32_t *peer)
{
    uint32_t messages = 0;
    *peer = CUDA_LOCAL;
    for (uint32_t i = 0; i < r->count; i++)
        if (x->source[r->first + i].peer != CUDA_LOCAL) {
            *peer = x->source[r->first + i].peer;
            messages++;
        }
    return messages <= 1 && r->count - messages <= 1;
}

static void put_result(const struct cuda_exchange_call *c, const struct cuda_result *r,
                       struct cuda_pair_call *pair)
{
    const struct cuda_source *source = &c->what.source[r->first];
    pair->takes = cuda_pieces_of(r->len, r->lanes);
    pair->result = c->out + r->off * c->elem;
    for (uint32_t i = 0; i < r->count; i++)
        if (source[i].peer == CUDA_LOCAL) {
            pair->local = c->in + source[i].off * c->elem;
            pair->local_first = i == 0;
        }
}

/* A copy must not be mixed with what others read or write, and is not scaled. */
static bool put_copy(const struct cuda_exchange_call *c, const struct cuda_result *r,
                     struct cuda_pair_call *pair)
{
    const uint8_t *from = c->in + c->what.source[r->first].off * c->elem;
    uint8_t *to = c->out + r->off * c->elem;
    if (c->adjust.scaled || c->adjust.divide_in || c->adjust.divide_out || pair->copy_to)
        return false;
    if (from == to || !r->len)
        return true;
    pair->copy_from = from;
    pair->copy_to = to;
    pair->copy_bytes = r->len * c->elem;
    return !c->in_place;
}

/* What of a mailbox the kernel uses, once it is known who the peer is. */
static void put_mailboxes(const struct cuda_view *v, bool lines, struct cuda_pair_call *pair)
{
    uint32_t peer = pair->peer;
    uint8_t *own = v->mailbox[v->rank], *theirs = v->mailbox[peer];
    pair->count = v->count + cuda_index(peer, 0);
    pair->own = (struct cuda_post *)(void *)(own + CUDA_POST_AT(v->ranks, peer, 0));
    pair->theirs = (struct cuda_post *)(void *)(theirs + CUDA_POST_AT(v->ranks, v->rank, 0));
    pair->words = own + CUDA_LL_AT(v->ranks, peer, 0);
    pair->lines = own + CUDA_WIDE_AT(v->ranks, peer, 0);
    pair->from_peer = lines ? pair->lines : pair->words;
    pair->to_peer =
        theirs + (lines ? CUDA_WIDE_AT(v->ranks, v->rank, 0) : CUDA_LL_AT(v->ranks, v->rank, 0));
}

bool cuda_pair_of(const struct cuda_exchange_call *c, bool lines, struct cuda_pair_call *pair)
{
    const struct cuda_exchange *x = &c->what;
    *pair = (struct cuda_pair_call){.elem = c->elem,
                                    .signature = c->signature,
                                    .peer = CUDA_LOCAL,
                                    .adjust = c->adjust,
                                    .guard = c->view.guard,
                                    .state = c->view.guard.state};
    if (x->sends > 1 || x->results > 2)
        return false;
    if (x->sends) {
        if (x->send->len >> 32)
            return false;
        pair->peer = x->send->peer;
        pair->send = c->in + x->send->off * c->elem;
        pair->sends = cuda_pieces_of(x->send->len, x->send->lanes);
    }
    for (uint32_t i = 0; i < x->results; i++) {
        const struct cuda_result *r = &x->result[i];
        uint32_t peer;
        if (!peer_of(x, r, &peer) || r->len >> 32)
            return false;
        if (peer == CUDA_LOCAL) {
            if (!put_copy(c, r, pair))
                return false;
            continue;
        }
        if (pair->takes.lanes || (pair->peer != CUDA_LOCAL && peer != pair->peer))
            return false;
        pair->peer = peer;
        put_result(c, r, pair);
    }
    if (pair->peer == CUDA_LOCAL)
        return false;
    pair->local_sent = pair->local && pair->local == pair->send &&
                       pair->sends.lanes == pair->takes.lanes &&
                       pair->sends.each == pair->takes.each && pair->sends.more == pair->takes.more;
    put_mailboxes(&c->view, lines, pair);
    return true;
}
