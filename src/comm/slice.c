/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slice.c: long operations in slices. Where GPU memory goes through the host, a collective of regular shape that is longer than
 * CHOIR_CUDA_SLICE is so many shorter ones, so that copies and network work at the same time in bounded memory. Which ones
 * follows from the call alone, on all ranks, so those with host memory cut theirs in the same way. Of a collective of
 * blocks a slice is a piece of every block: on the host it is packed for the operation and unpacked after it; on its way
 * from and to a GPU it is packed already.
 */
#include "comm/comm.h"
#include "plan/builder.h"
#include <stdlib.h>
#include <string.h>

#define ROUND 64u /* elements: slices begin where vectors do */

/* Elements that a slice takes of the buffers for each of its own count; 0: the kind is not cut. */
static uint64_t width(enum choir_kind kind, uint32_t size)
{
    if (kind == CHOIR_ALL_REDUCE || kind == CHOIR_REDUCE || kind == CHOIR_BROADCAST)
        return 1;
    if (kind == CHOIR_ALL_TO_ALL)
        return 2 * (uint64_t)size;
    return kind < CHOIR_BARRIER ? (uint64_t)size + 1 : 0;
}

uint64_t slice_room(uint64_t slice_bytes, uint32_t size)
{
    return base_max(slice_bytes, 2 * (uint64_t)size * 8); /* an element of the widest type */
}

uint64_t slice_count(const struct choir_comm *c, const struct comm_call *call, uint64_t *each)
{
    uint64_t wide = width(call->kind, c->host.size), count = call->count;
    *each = count;
    if (!c->slice_bytes || !wide || !count)
        return 1;
    *each = c->slice_bytes / (wide * choir_type_bytes(call->type));
    if (*each >= ROUND)
        *each -= *each % ROUND;
    *each = base_min(base_max(*each, 1u), count);
    return (count - 1) / *each + 1;
}

bool slice_blocks(const struct choir_comm *c, const struct comm_call *call, unsigned side)
{
    struct choir_shape shape;
    call_shape(c, call, &shape);
    return shape_holds(&shape, side) == SHAPE_BLOCKS && shape_present(&shape, side);
}

static uint8_t *place(const struct task_side *side, uint64_t slice)
{
    uint8_t *at = side->at[slice % 2];
    return at ? at + slice * side->step : NULL;
}

void slice_select(struct comm_task *t, uint64_t slice)
{
    struct task_cut *x = &t->cut;
    bool last = slice + 1 == x->slices;
    x->slice = slice;
    t->call.count = last ? x->last : x->each;
    t->call.in = place(&x->side[CHOIR_IN], slice);
    t->call.out = place(&x->side[CHOIR_OUT], slice);
    t->bound = x->bound[last];
    t->signature = x->signature[last];
}

enum choir_status slice_bind(struct comm_task *t)
{
    struct choir_comm *c = t->comm;
    struct task_cut *x = &t->cut;
    x->slices = slice_count(c, &t->call, &x->each);
    if (x->slices == 1)
        return call_bind(c, &t->call, &t->bound, &t->cached);
    struct comm_call part = t->call;
    uint64_t count = part.count, elem = choir_type_bytes(part.type);
    x->last = count - x->each * (x->slices - 1);
    for (unsigned last = 0; last < 2; last++) {
        bool cached;
        part.count = last ? x->last : x->each;
        enum choir_status st = call_bind(c, &part, &x->bound[last], &cached);
        if (st != CHOIR_OK) {
            slice_unbind(t);
            return st;
        }
        x->signature[last] = call_signature(c, &part);
    }
    for (unsigned b = 0; b < 2; b++) {
        uint8_t *at = b == CHOIR_IN ? (uint8_t *)(uintptr_t)t->call.in : t->call.out;
        x->side[b] =
            (struct task_side){{at, at}, x->each * elem, slice_blocks(c, &part, b) ? count : 0};
    }
    slice_select(t, 0);
    return CHOIR_OK;
}

void slice_unbind(struct comm_task *t)
{
    if (t->cut.slices <= 1)
        host_bound_free(t->bound);
    for (unsigned last = 0; last < 2; last++)
        host_bound_free(t->cut.bound[last]);
    t->bound = t->cut.bound[0] = t->cut.bound[1] = NULL;
}

struct comm_call slice_whole(const struct comm_task *t)
{
    struct comm_call whole = t->call;
    if (t->cut.slices > 1) {
        whole.count = t->cut.each * (t->cut.slices - 1) + t->cut.last;
        whole.in = t->cut.side[CHOIR_IN].at[0];
        whole.out = t->cut.side[CHOIR_OUT].at[0];
    }
    return whole;
}

/* --- blocks ------------------------------------------------------------------------------------------- */

struct blocks {
    uint64_t count, bytes, pitch;
};

static void move(uint8_t *to, uint64_t to_pitch, const uint8_t *from, uint64_t from_pitch,
                 struct blocks b)
{
    for (uint64_t i = 0; i < b.count; i++)
        memcpy(to + i * to_pitch, from + i * from_pitch, b.bytes);
}

static struct blocks blocks_of(const struct comm_task *t, unsigned side)
{
    uint64_t elem = choir_type_bytes(t->call.type);
    return (struct blocks){t->comm->host.size, t->call.count * elem,
                           t->cut.side[side].stride * elem};
}

enum choir_status slice_pack(struct comm_task *t)
{
    struct choir_comm *c = t->comm;
    bool in = t->cut.side[CHOIR_IN].stride != 0, out = t->cut.side[CHOIR_OUT].stride != 0;
    struct blocks b = blocks_of(t, CHOIR_IN);
    uint64_t bytes = (b.count * b.bytes + BASE_LINE - 1) / BASE_LINE * BASE_LINE;
    t->cut.unpacked = NULL;
    if (t->cut.slices <= 1 || (!in && !out))
        return CHOIR_OK;
    if (c->packed_bytes < 2 * bytes) {
        free(c->packed);
        c->packed = aligned_alloc(BASE_LINE, 2 * bytes);
        c->packed_bytes = c->packed ? 2 * bytes : 0;
        if (!c->packed)
            return comm_fail(c, CHOIR_ERR_NO_MEMORY, "free memory, or lower CHOIR_CUDA_SLICE",
                             "no memory for a slice of %llu bytes", (unsigned long long)bytes);
    }
    if (in) {
        move(c->packed, b.bytes, t->call.in, b.pitch, b);
        t->call.in = c->packed;
    }
    if (out) {
        t->cut.unpacked = t->call.out;
        t->call.out = c->packed + bytes;
    }
    return CHOIR_OK;
}

void slice_unpack(struct comm_task *t)
{
    struct blocks b = blocks_of(t, CHOIR_OUT);
    if (t->cut.unpacked)
        move(t->cut.unpacked, b.pitch, t->call.out, b.bytes, b);
    t->cut.unpacked = NULL;
}
