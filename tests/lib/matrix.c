/* SPDX-License-Identifier: Apache-2.0 */
/* Drawn operations; see matrix.h. */
#include "tests/lib/matrix.h"
#include "plan/plan.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

#define GUARD 192u /* bytes before and behind, with room for shifts */
#define FILL 0xa5

struct
    part { /* len elements at `at` of a buffer; from: whose input, -1: the combination; `index` into it */
    int from;
    uint64_t index, at, len;
};

struct buffers {
    uint8_t *memory, *saved; /* saved: as before the call */
    uint64_t bytes, elem;
    uint8_t *in, *out;
    struct part ins[MATRIX_RANKS], outs[MATRIX_RANKS];
    int in_parts, out_parts;
    uint64_t in_count, out_count; /* elements, gaps included */
    uint64_t send[MATRIX_RANKS], send_at[MATRIX_RANKS], recv[MATRIX_RANKS], recv_at[MATRIX_RANKS];
};

static uint64_t next(uint64_t *draw, uint64_t below)
{
    return test_mix((*draw)++) % below;
}

static uint64_t draw_count(uint64_t *draw, uint64_t slot, uint64_t elem, uint64_t most)
{
    uint64_t s = slot / elem, list[] = {0,     1,         2,         13,    997,
                                        s - 1, s,         s + 1,     3 * s, 5 * s + 17,
                                        s / 2, s / 4 + 1, 9 * s + 3, 64,    next(draw, 2 * s)};
    uint64_t n = list[next(draw, sizeof(list) / sizeof(list[0]))];
    return n > most ? most - next(draw, most / 4 + 1) : n;
}

static void draw_lists(struct matrix_op *op, uint64_t slot, uint64_t elem, uint64_t *draw)
{
    for (int q = 0; q < op->size; q++)
        for (int p = 0; p < op->size; p++)
            op->of[q][p] = next(draw, 4) ? next(draw, 1 + 60 * next(draw, 4)) : 0;
    op->of[0][next(draw, (uint64_t)op->size)] = draw_count(draw, slot, elem, 3 * slot / elem);
}

void matrix_draw(struct matrix_op *op, enum choir_kind kind, int size, uint64_t slot,
                 uint64_t *draw)
{
    *op = (struct matrix_op){.kind = kind, .size = size};
    struct sample *s = &op->sample;
    s->type = (enum choir_type)next(draw, CHOIR_TYPES);
    s->op = (choir_op)next(draw, CHOIR_OPS + 1);
    if (next(draw, 8) == 0)
        s->type = CHOIR_UINT64, s->op = CHOIR_OPS + 1;
    while (!sample_legal(s->type, s->op))
        s->op = (choir_op)next(draw, CHOIR_OPS + 1);
    s->ranks = size;
    s->salt = test_mix(*draw) >> 8;
    s->exact = next(draw, 2);
    s->special = s->op != CHOIR_OPS && next(draw, 4) == 0;
    uint64_t elem = choir_type_bytes(s->type), all = 16 * slot / elem;
    bool blocks = kind != CHOIR_ALL_REDUCE && kind != CHOIR_REDUCE && kind != CHOIR_BROADCAST;
    op->count = draw_count(draw, slot, elem, blocks ? all / (uint64_t)size : all);
    op->root = (int)next(draw, (uint64_t)size);
    op->in_place = next(draw, 2) && kind != CHOIR_ALL_TO_ALL_V && kind != CHOIR_EXCHANGE;
    op->offsets = next(draw, 2);
    op->mapped = next(draw, 4) == 0;
    if (next(draw, 2))
        op->shift_in = (uint32_t)next(draw, 64), op->shift_out = (uint32_t)next(draw, 64);
    draw_lists(op, slot, elem, draw);
}

const char *matrix_text(const struct matrix_op *op)
{
    static _Thread_local char text[256];
    snprintf(text, sizeof(text),
             "%s %s op %u%s count %" PRIu64 " root %d%s%s%s shifts %u %u rank %d of %d",
             plan_kind_name(op->kind), choir_type_name(op->sample.type), op->sample.op,
             op->sample.exact ? " exact" : "", op->count, op->root, op->in_place ? " in place" : "",
             op->offsets ? " offsets" : "", op->mapped ? " mapped" : "", op->shift_in,
             op->shift_out, op->rank, op->size);
    return text;
}

/* --- which bytes hold what --------------------------------------------------------------------- */

/* Positions of parts: packed, or from the last to the first with gaps. Returns the extent. */
static uint64_t lay(const struct matrix_op *op, const uint64_t *len, uint64_t *at)
{
    uint64_t end = op->offsets ? 2 : 0;
    for (int k = 0; k < op->size; k++) {
        int p = op->offsets ? op->size - 1 - k : k;
        at[p] = end;
        end += len[p] + (op->offsets ? 3 : 0);
    }
    return end;
}

static uint64_t before(const uint64_t *len, int p)
{
    uint64_t sum = 0;
    for (int k = 0; k < p; k++)
        sum += len[k];
    return sum;
}

static void in_is(struct buffers *b, uint64_t count)
{
    b->ins[b->in_parts++] = (struct part){0, 0, 0, count};
    b->in_count = count;
}

static void out_is(struct buffers *b, int from, uint64_t index, uint64_t count)
{
    b->outs[b->out_parts++] = (struct part){from, index, 0, count};
    b->out_count = count;
}

static void fixed_parts(const struct matrix_op *op, struct buffers *b)
{
    uint64_t c = op->count, n = (uint64_t)op->size, me = (uint64_t)op->rank;
    bool root = op->rank == op->root;
    enum choir_kind k = op->kind;
    if (k == CHOIR_ALL_REDUCE || k == CHOIR_REDUCE || k == CHOIR_ALL_GATHER || k == CHOIR_GATHER ||
        (k == CHOIR_BROADCAST && root))
        in_is(b, c);
    if (k == CHOIR_REDUCE_SCATTER || k == CHOIR_ALL_TO_ALL || (k == CHOIR_SCATTER && root))
        in_is(b, n * c);
    if (k == CHOIR_ALL_REDUCE || (k == CHOIR_REDUCE && root))
        out_is(b, -1, 0, c);
    if (k == CHOIR_REDUCE_SCATTER)
        out_is(b, -1, me * c, c);
    if (k == CHOIR_BROADCAST)
        out_is(b, op->root, 0, c);
    if (k == CHOIR_SCATTER)
        out_is(b, op->root, me * c, c);
    if (k == CHOIR_ALL_GATHER || k == CHOIR_ALL_TO_ALL || (k == CHOIR_GATHER && root)) {
        b->out_count = n * c;
        for (int q = 0; q < op->size; q++)
            b->outs[b->out_parts++] =
                (struct part){q, k == CHOIR_ALL_TO_ALL ? me * c : 0, (uint64_t)q * c, c};
    }
}

static void v_parts(const struct matrix_op *op, struct buffers *b)
{
    bool root = op->rank == op->root, pairs = op->kind >= CHOIR_ALL_TO_ALL_V &&
                                              op->kind != CHOIR_GATHER_V &&
                                              op->kind != CHOIR_SCATTER_V;
    bool many_in =
        pairs || op->kind == CHOIR_REDUCE_SCATTER_V || (op->kind == CHOIR_SCATTER_V && root);
    bool many_out = pairs || op->kind == CHOIR_ALL_GATHER_V || (op->kind == CHOIR_GATHER_V && root);
    const uint64_t *len = op->of[0], *row = pairs ? op->of[op->rank] : len;
    int me = op->rank;
    for (int p = 0; p < op->size; p++) {
        b->send[p] = row[p];
        b->recv[p] = pairs ? op->of[p][me] : len[p];
    }
    if (many_in) {
        b->in_count = lay(op, b->send, b->send_at);
        for (int p = 0; p < op->size; p++)
            b->ins[b->in_parts++] = (struct part){0, before(b->send, p), b->send_at[p], b->send[p]};
    } else if (op->kind != CHOIR_SCATTER_V) {
        in_is(b, len[me]);
    }
    if (many_out) {
        b->out_count = lay(op, b->recv, b->recv_at);
        for (int q = 0; q < op->size; q++)
            b->outs[b->out_parts++] =
                (struct part){q, pairs ? before(op->of[q], me) : 0, b->recv_at[q], b->recv[q]};
    } else if (op->kind != CHOIR_GATHER_V) {
        out_is(b, op->kind == CHOIR_SCATTER_V ? op->root : -1, before(len, me), len[me]);
    }
}

/* In place: elements from OUT's start to IN's, as choir.h says. */
static bool alias(const struct matrix_op *op, const struct buffers *b, int64_t *shift)
{
    int64_t block = (int64_t)op->count * op->rank;
    bool root = op->rank == op->root;
    *shift = 0;
    switch (op->kind) {
    case CHOIR_ALL_REDUCE:
    case CHOIR_ALL_TO_ALL:
        return true;
    case CHOIR_REDUCE:
    case CHOIR_BROADCAST:
        return root;
    case CHOIR_ALL_GATHER:
        *shift = block;
        return true;
    case CHOIR_GATHER:
        *shift = block;
        return root;
    case CHOIR_REDUCE_SCATTER:
        *shift = -block;
        return true;
    case CHOIR_SCATTER:
        *shift = -block;
        return root;
    case CHOIR_ALL_GATHER_V:
        *shift = (int64_t)b->recv_at[op->rank];
        return true;
    case CHOIR_GATHER_V:
        *shift = (int64_t)b->recv_at[op->rank];
        return root;
    case CHOIR_REDUCE_SCATTER_V:
        *shift = -(int64_t)b->send_at[op->rank];
        return true;
    case CHOIR_SCATTER_V:
        *shift = -(int64_t)b->send_at[op->rank];
        return root;
    default:
        return false;
    }
}

static void element(const struct matrix_op *op, int rank, uint64_t index, void *to)
{
    if (plan_kind_reduces(op->kind))
        sample_fill(&op->sample, rank, index, to);
    else
        memcpy(to, (uint64_t[]){test_mix(test_mix(op->sample.salt + (uint64_t)rank) + index)},
               choir_type_bytes(op->sample.type));
}

static void make(const struct matrix_op *op, struct buffers *b)
{
    int64_t shift;
    memset(b, 0, sizeof(*b));
    b->elem = choir_type_bytes(op->sample.type);
    if (op->kind < CHOIR_BARRIER)
        fixed_parts(op, b);
    else if (op->kind != CHOIR_BARRIER)
        v_parts(op, b);
    uint64_t in = b->in_count * b->elem, out = b->out_count * b->elem;
    b->bytes = 3 * GUARD + in + out;
    if (!op->mapped || choir_mem_alloc(b->bytes, (void **)&b->memory) != CHOIR_OK)
        b->memory = aligned_alloc(64, (b->bytes + 63) / 64 * 64);
    b->saved = malloc(b->bytes);
    CHECK(b->memory && b->saved);
    memset(b->memory, FILL, b->bytes);
    b->in = b->memory + 64 + op->shift_in;
    b->out = b->memory + (64 + GUARD + in) / 64 * 64 + op->shift_out;
    if (op->in_place && alias(op, b, &shift)) {
        if (b->in_count > b->out_count)
            b->out = b->in - shift * (int64_t)b->elem;
        else
            b->in = b->out + shift * (int64_t)b->elem;
    }
    for (int p = 0; p < b->in_parts; p++)
        for (uint64_t i = 0; i < b->ins[p].len; i++)
            element(op, op->rank, b->ins[p].index + i, b->in + (b->ins[p].at + i) * b->elem);
    memcpy(b->saved, b->memory, b->bytes);
}

/* --- the call ---------------------------------------------------------------------------------- */

static enum choir_status exchange(choir_comm *comm, const struct matrix_op *op,
                                  const struct buffers *b, choir_stream *stream)
{
    enum choir_type t = op->sample.type;
    CHECK_OK(choir_group_start());
    for (int k = 0; k < op->size; k++) {
        int to = (k * 7 + op->rank) % op->size, from = (op->rank + 2 * op->size - to) % op->size;
        if (op->size % 7 == 0)
            to = k, from = op->size - 1 - k;
        /* Each pair's elements in two messages; receives of one peer, sends to another, in no special order. */
        uint64_t s = b->send[to], r = b->recv[from];
        const uint8_t *in = b->in + b->send_at[to] * b->elem;
        uint8_t *out = b->out + b->recv_at[from] * b->elem;
        CHECK_OK(choir_send(comm, in, s / 3, t, to, stream));
        CHECK_OK(choir_recv(comm, out, r / 3, t, from, stream));
        CHECK_OK(choir_recv(comm, out + r / 3 * b->elem, r - r / 3, t, from, stream));
        CHECK_OK(choir_send(comm, in + s / 3 * b->elem, s - s / 3, t, to, stream));
    }
    return choir_group_end();
}

static enum choir_status call_v(choir_comm *comm, const struct matrix_op *op,
                                const struct buffers *b, choir_op o, choir_stream *stream)
{
    enum choir_type t = op->sample.type;
    const uint64_t *in_at = op->offsets ? b->send_at : NULL,
                   *out_at = op->offsets ? b->recv_at : NULL;
    switch (op->kind) {
    case CHOIR_ALL_GATHER_V:
        return choir_all_gather_v(comm, b->in, b->out, b->recv, out_at, t, stream);
    case CHOIR_REDUCE_SCATTER_V:
        return choir_reduce_scatter_v(comm, b->in, b->out, b->send, in_at, t, o, stream);
    case CHOIR_ALL_TO_ALL_V:
        return choir_all_to_all_v(comm, b->in, b->send, in_at, b->out, b->recv, out_at, t, stream);
    case CHOIR_GATHER_V:
        return choir_gather_v(comm, b->in, op->of[0][op->rank], b->out, b->recv, out_at, t,
                              op->root, stream);
    case CHOIR_SCATTER_V:
        return choir_scatter_v(comm, b->in, b->send, in_at, b->out, op->of[0][op->rank], t,
                               op->root, stream);
    default:
        return exchange(comm, op, b, stream);
    }
}

static enum choir_status call(choir_comm *comm, const struct matrix_op *op, const struct buffers *b,
                              choir_op o, choir_stream *stream)
{
    enum choir_type t = op->sample.type;
    uint64_t c = op->count;
    switch (op->kind) {
    case CHOIR_ALL_REDUCE:
        return choir_all_reduce(comm, b->in, b->out, c, t, o, stream);
    case CHOIR_REDUCE:
        return choir_reduce(comm, b->in, b->out, c, t, o, op->root, stream);
    case CHOIR_BROADCAST:
        return choir_broadcast(comm, b->in, b->out, c, t, op->root, stream);
    case CHOIR_ALL_GATHER:
        return choir_all_gather(comm, b->in, b->out, c, t, stream);
    case CHOIR_REDUCE_SCATTER:
        return choir_reduce_scatter(comm, b->in, b->out, c, t, o, stream);
    case CHOIR_ALL_TO_ALL:
        return choir_all_to_all(comm, b->in, b->out, c, t, stream);
    case CHOIR_GATHER:
        return choir_gather(comm, b->in, b->out, c, t, op->root, stream);
    case CHOIR_SCATTER:
        return choir_scatter(comm, b->in, b->out, c, t, op->root, stream);
    case CHOIR_BARRIER:
        return choir_barrier(comm, stream);
    default:
        return call_v(comm, op, b, o, stream);
    }
}

/* --- the check --------------------------------------------------------------------------------- */

static void check_part(const struct matrix_op *op, const struct buffers *b, const struct part *p)
{
    /* Long reductions by samples: the ends, and places drawn. */
    uint64_t work = p->from < 0 ? p->len * (uint64_t)op->size : 0;
    for (uint64_t k = 0; k < p->len; k++) {
        uint64_t i = k;
        if (work > 60000 && k >= 500) {
            i = k < 1000 ? p->len - 1 - (k - 500) : test_mix(op->sample.salt + k) % p->len;
            if (k * (uint64_t)op->size > 60000)
                break;
        }
        const uint8_t *got = b->out + (p->at + i) * b->elem;
        char text[96] = "other bytes";
        uint64_t want = 0;
        bool good;
        if (p->from < 0) {
            good = sample_check(&op->sample, p->index + i, got, text, sizeof(text));
        } else {
            element(op, p->from, p->index + i, &want);
            good = !memcmp(got, &want, b->elem);
        }
        if (!good)
            FAIL("%s: element %" PRIu64 " of %" PRIu64 " (from %d): %s", matrix_text(op), i, p->len,
                 p->from, text);
    }
}

/* Everything outside the outputs (and, in place, the inputs) is as it was. */
static void check_rest(const struct matrix_op *op, struct buffers *b)
{
    int64_t shift;
    for (int p = 0; p < b->out_parts; p++) {
        uint64_t at = (uint64_t)(b->out - b->memory) + b->outs[p].at * b->elem;
        memcpy(b->saved + at, b->memory + at, b->outs[p].len * b->elem);
    }
    if (op->in_place && alias(op, b, &shift))
        for (int p = 0; p < b->in_parts; p++) {
            uint64_t at = (uint64_t)(b->in - b->memory) + b->ins[p].at * b->elem;
            memcpy(b->saved + at, b->memory + at, b->ins[p].len * b->elem);
        }
    for (uint64_t i = 0; i < b->bytes; i++)
        if (b->memory[i] != b->saved[i])
            FAIL("%s: byte %" PRIu64 " of %" PRIu64 " changed (send at %td, recv at %td)",
                 matrix_text(op), i, b->bytes, b->in - b->memory, b->out - b->memory);
}

uint64_t matrix_run(choir_comm *comm, const struct matrix_op *op, choir_stream *stream)
{
    struct buffers b;
    choir_op o = op->sample.op;
    uint64_t scale = 0, hash = 0;
    bool reduces = plan_kind_reduces(op->kind), made = reduces && o >= CHOIR_OPS;
    make(op, &b);
    sample_scale(&op->sample, op->rank, &scale);
    if (made && o == CHOIR_OPS)
        CHECK_OK(choir_op_create_scaled(comm, &scale, op->sample.type, &o));
    else if (made)
        CHECK_OK(choir_op_create_user(comm, sample_compose, NULL, 0, &o));
    struct buffers there = b;
    const struct matrix_elsewhere *away = op->elsewhere;
    uint8_t *taken = away ? away->take(away->context, b.memory, b.bytes) : b.memory;
    there.in = taken + (b.in - b.memory);
    there.out = taken + (b.out - b.memory);
    enum choir_status st = call(comm, op, &there, o, stream);
    if (st == CHOIR_OK && stream)
        st = choir_stream_wait(stream);
    if (away)
        away->give(away->context, taken, b.memory, b.bytes);
    struct choir_error e = {.bytes = sizeof(e)};
    choir_comm_last_error(comm, &e);
    if (st != CHOIR_OK)
        FAIL("%s: %s: %s", matrix_text(op), choir_status_name(st), e.text);
    if (made)
        CHECK_OK(choir_op_destroy(comm, o));
    for (int p = 0; p < b.out_parts; p++) {
        check_part(op, &b, &b.outs[p]);
        for (uint64_t i = 0; i < b.outs[p].len * b.elem; i++)
            hash = (hash ^ b.out[b.outs[p].at * b.elem + i]) * 0x100000001b3u;
    }
    check_rest(op, &b);
    if (!op->mapped || choir_mem_free(b.memory) != CHOIR_OK)
        free(b.memory);
    free(b.saved);
    return hash;
}
