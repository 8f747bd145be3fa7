/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bounce.c: host memory that GPUs do not reach, of malloc and the like, in a call whose kernels move the data (device.c): the thread
 * of staged.c copies it into pinned memory when the stream has come to the call, and results back behind the kernels. CUDA's own
 * copies of such memory would read it at the call and hold the caller up.
 */
#include "comm/staged.h"
#include "plan/builder.h"
#include <stdlib.h>
#include <string.h>

static enum choir_status is_plain(struct choir_comm *c, const void *memory, bool *yes)
{
    struct cuda_pointer where;
    enum choir_status st = cuda_device_of_pointer(memory, &where);
    *yes = st == CHOIR_OK && memory && where.where == CUDA_HOST;
    return st == CHOIR_OK ? st : comm_take_error(c, st);
}

static enum choir_status no_memory(struct choir_comm *c)
{
    return comm_fail(c, CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a call");
}

static enum choir_status begin(struct bounce *b, uint64_t bytes, uint32_t most)
{
    struct choir_comm *c = b->comm;
    enum choir_status st;
    if (!c->staged)
        return comm_fail(c, CHOIR_ERR_POINTER,
                         "pass GPU memory, or host memory of cudaMallocHost or cudaHostRegister",
                         "a buffer is host memory that the GPU cannot reach, and there is no "
                         "pinned memory for it, see the log");
    b->item = staged_take(c->staged);
    if (!b->item)
        return CHOIR_ERR_NO_MEMORY;
    st = cuda_staged_capturing(c->staged->gpu, b->stream, &b->item->captured);
    if (st == CHOIR_OK)
        st = staged_reserve(c->staged, bytes);
    if (st != CHOIR_OK)
        return comm_take_error(c, st);
    b->item->move = malloc((most + 1) * sizeof(*b->item->move));
    return b->item->move ? CHOIR_OK : no_memory(c);
}

static void add(struct bounce *b, void *to, const void *from, uint64_t bytes, bool out)
{
    struct staged_item *i = b->item;
    if (bytes)
        i->move[i->moves[0] + i->moves[1]++] = (struct staged_move){to, from, bytes};
    if (!out) /* inputs come first */
        i->moves[0] += i->moves[1], i->moves[1] = 0;
}

/* The blocks of a buffer: what is between them is not touched. */
static void add_parts(struct bounce *b, const struct choir_shape *shape, unsigned side,
                      uint64_t *table)
{
    struct comm_call *call = &b->call;
    uint32_t n = shape_blocks(shape, side);
    uint64_t elem = shape->type_bytes, *off = table, *len = table + n;
    uint8_t *user = side == CHOIR_IN ? (uint8_t *)(uintptr_t)call->in : call->out;
    shape_table(shape, side, off, len);
    for (uint32_t p = 0, next; p < n; p = next) {
        uint64_t bytes = len[p];
        for (next = p + 1; next < n && off[next] == off[p] + bytes; next++)
            bytes += len[next];
        uint8_t *here = user + off[p] * elem, *there = b->pinned[side] + off[p] * elem;
        if (side == CHOIR_IN)
            add(b, there, here, bytes * elem, false);
        else
            add(b, here, there, bytes * elem, true);
    }
}

/* Inputs go into pinned memory before what comes next in the stream. */
static enum choir_status send_in(struct bounce *b)
{
    struct staged_item *i = b->item;
    struct comm_staged *s = b->comm->staged;
    b->outputs = i->moves[1] != 0;
    b->posts = i->posts = (i->moves[0] != 0) + (uint64_t)b->outputs;
    if (!b->posts) {
        staged_give(s, i);
        b->item = NULL;
        return CHOIR_OK;
    }
    staged_submit(s, i);
    return b->posts > b->outputs ? staged_post_and_wait(s, b->stream, i) : CHOIR_OK;
}

static enum choir_status give_up(struct bounce *b, enum choir_status st)
{
    if (b->item)
        staged_give(b->comm->staged, b->item);
    b->item = NULL;
    return st;
}

enum choir_status bounce_in(struct bounce *b)
{
    struct choir_comm *c = b->comm;
    struct choir_shape shape;
    uint64_t bytes[2], elem = choir_type_bytes(b->call.type);
    bool plain[2] = {false, false};
    enum choir_status st = CHOIR_OK;
    call_shape(c, &b->call, &shape);
    plan_shape_extent(&shape, &bytes[CHOIR_IN], &bytes[CHOIR_OUT]);
    if (bytes[CHOIR_IN])
        st = is_plain(c, b->call.in, &plain[CHOIR_IN]);
    if (st == CHOIR_OK && bytes[CHOIR_OUT])
        st = is_plain(c, b->call.out, &plain[CHOIR_OUT]);
    if (st != CHOIR_OK || (!plain[CHOIR_IN] && !plain[CHOIR_OUT]))
        return st;
    uint32_t blocks[2] = {shape_blocks(&shape, CHOIR_IN), shape_blocks(&shape, CHOIR_OUT)};
    uint64_t in =
        plain[CHOIR_IN] ? (bytes[CHOIR_IN] * elem + BASE_LINE - 1) & ~(BASE_LINE - 1ull) : 0;
    uint64_t *table = malloc(2 * base_max(blocks[0], blocks[1]) * sizeof(*table));
    st = table ? begin(b, in + bytes[CHOIR_OUT] * elem, blocks[0] + blocks[1]) : no_memory(c);
    if (st != CHOIR_OK) {
        free(table);
        return give_up(b, st);
    }
    b->pinned[CHOIR_IN] = c->staged->whole;
    b->pinned[CHOIR_OUT] = c->staged->whole + in;
    for (unsigned side = 0; side < 2; side++)
        if (plain[side])
            add_parts(b, &shape, side, table);
    free(table);
    b->call.in = plain[CHOIR_IN] ? b->pinned[CHOIR_IN] : b->call.in;
    b->call.out = plain[CHOIR_OUT] ? b->pinned[CHOIR_OUT] : b->call.out;
    return send_in(b);
}

enum choir_status bounce_messages_in(struct bounce *b, struct comm_message *list, uint32_t n)
{
    uint64_t bytes = 0;
    bool plain = false, any = false;
    enum choir_status st = CHOIR_OK;
    for (uint32_t i = 0; i < n && st == CHOIR_OK; i++) {
        st = is_plain(b->comm, list[i].bytes ? list[i].memory : NULL, &plain);
        bytes += plain ? (list[i].bytes + BASE_LINE - 1) & ~(BASE_LINE - 1ull) : 0;
        any |= plain;
    }
    if (st != CHOIR_OK || !any)
        return st;
    if ((st = begin(b, bytes, n)) != CHOIR_OK)
        return give_up(b, st);
    uint8_t *at = b->comm->staged->whole;
    for (int out = 0; out < 2; out++)
        for (uint32_t i = 0; i < n; i++) {
            struct comm_message *m = &list[i];
            if (m->send != !out || !m->bytes || is_plain(b->comm, m->memory, &plain) != CHOIR_OK ||
                !plain)
                continue;
            add(b, out ? m->memory : at, out ? at : m->memory, m->bytes, out);
            m->memory = at;
            at += (m->bytes + BASE_LINE - 1) & ~(BASE_LINE - 1ull);
        }
    return send_in(b);
}

enum choir_status bounce_out(struct bounce *b, enum choir_status st)
{
    struct choir_comm *c = b->comm;
    if (!b->item)
        return st;
    if (st == CHOIR_OK && b->outputs)
        st = staged_post_and_wait(c->staged, b->stream, b->item);
    if (st == CHOIR_OK)
        return st;
    /* The call is in the stream in part: others would wait for the rest. */
    struct choir_error *e = base_error_thread();
    host_comm_break(&c->host, st,
                    &(struct base_error_at){(int)c->host.rank, -1, c->host.sequence, 0, "cuda"},
                    e->remedy, "%s", e->text);
    staged_lose(c->staged, b->item, b->outputs);
    return st;
}
