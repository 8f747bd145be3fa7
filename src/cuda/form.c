/* SPDX-License-Identifier: Apache-2.0 */
/*
 * form.c: exchanges, recognised from the steps of plans, see form.h. Loops are unrolled; instances do not matter, for they only
 * cut what an exchange cuts anew.
 */
#include "cuda/form.h"
#include <string.h>

struct form {
    const struct choir_plan *plan;
    uint32_t elem;
    cuda_lanes_fn *lanes_of;
    struct cuda_exchange *round;
    uint32_t most, rounds;
    uint32_t sent[CUDA_RANKS], received[CUDA_RANKS]; /* messages so far, by peer */
};
struct extent {
    uint64_t off, len;
};

/* The place's parts at iteration t, if they are one stretch of its buffer. */
static bool contiguous(const struct choir_plan *plan, const struct choir_place *place, uint32_t t,
                       struct extent *e)
{
    const struct choir_cut *cut = &plan->cut[place->buf];
    struct plan_walk walk;
    uint32_t part;
    *e = (struct extent){0, 0};
    plan_walk_start(&walk, plan, place, t);
    while (plan_walk_next(&walk, &part)) {
        uint64_t off = plan_part_off(cut, part), len = plan_part_len(cut, part);
        if (e->len && len && off != e->off + e->len)
            return false;
        if (!e->len)
            e->off = off;
        e->len += len;
    }
    return true;
}

static bool overlap(struct extent a, struct extent b)
{
    return a.len && b.len && a.off < b.off + b.len && b.off < a.off + a.len;
}

static bool inside(struct extent a, uint64_t off, uint64_t len)
{
    return a.off >= off && a.off - off <= len && a.len <= len - (a.off - off);
}

/* A local source as a stretch of IN: it is one, or a copy of one was made where it is. */
static bool source_of(const struct form *f, const struct choir_place *place, uint32_t t,
                      struct extent *e)
{
    if (place->buf == CHOIR_TMP || !contiguous(f->plan, place, t, e))
        return false;
    if (place->buf == CHOIR_IN || !e->len)
        return true;
    for (uint32_t k = 0; k < f->rounds; k++)
        for (uint32_t i = 0; i < f->round[k].results; i++) {
            const struct cuda_result *r = &f->round[k].result[i];
            const struct cuda_source *s = &f->round[k].source[r->first];
            if (r->count != 1 || s->peer != CUDA_LOCAL || !inside(*e, r->off, r->len))
                continue;
            e->off += s->off - r->off;
            return true;
        }
    return false;
}

static uint32_t lanes(const struct form *f, uint64_t len)
{
    uint32_t n = f->lanes_of(len * f->elem);
    return base_min(base_max(n, 1), CUDA_LANES);
}

/* Round k, begun if it is the next one. */
static struct cuda_exchange *round_at(struct form *f, uint32_t k)
{
    if (k >= f->most)
        return NULL;
    if (k == f->rounds) {
        f->round[k] = (struct cuda_exchange){.lanes = 0};
        f->rounds++;
    }
    return k < f->rounds ? &f->round[k] : NULL;
}

static bool add_send(struct form *f, uint32_t peer, struct extent e)
{
    struct cuda_exchange *x =
        peer < CUDA_RANKS && peer != f->plan->rank ? round_at(f, f->sent[peer]) : NULL;
    if (!x || x->sends == CUDA_SENDS)
        return false;
    f->sent[peer]++;
    x->send[x->sends++] =
        (struct cuda_send){.off = e.off, .len = e.len, .peer = peer, .lanes = lanes(f, e.len)};
    return true;
}

/* Begins a result; its sources are added to it. No byte of OUT is written twice. */
static struct cuda_result *add_result(struct form *f, uint32_t k, const struct choir_place *place,
                                      uint32_t t)
{
    struct extent e;
    struct cuda_exchange *x = round_at(f, k);
    if (!x || x->results == CUDA_RESULTS || place->buf != CHOIR_OUT ||
        !contiguous(f->plan, place, t, &e))
        return NULL;
    for (uint32_t j = 0; j < f->rounds; j++)
        for (uint32_t i = 0; i < f->round[j].results; i++) {
            const struct cuda_result *r = &f->round[j].result[i];
            if (overlap(e, (struct extent){r->off, r->len}))
                return NULL;
        }
    struct cuda_result *r = &x->result[x->results++];
    *r = (struct cuda_result){
        .off = e.off, .len = e.len, .first = x->sources, .lanes = lanes(f, e.len)};
    return r;
}

static bool add_source(struct cuda_exchange *x, struct cuda_result *r, uint64_t off, uint32_t peer)
{
    if (x->sources == CUDA_SOURCES)
        return false;
    x->source[x->sources++] = (struct cuda_source){.off = off, .peer = peer};
    r->count++;
    return true;
}

/* A step whose only in is local: messages out, and copies. */
static bool take_copy(struct form *f, const struct choir_step *step, uint32_t t)
{
    const struct choir_place *p = f->plan->place + step->place;
    struct extent e;
    if (!source_of(f, p, t, &e))
        return false;
    for (uint32_t k = 1; k < 1u + step->outs; k++) {
        if (p[k].peer >= 0) {
            if (!add_send(f, plan_peer(f->plan, &p[k], t), e))
                return false;
            continue;
        }
        struct cuda_result *r = add_result(f, 0, &p[k], t);
        if (!r || !add_source(&f->round[0], r, e.off, CUDA_LOCAL))
            return false;
    }
    return true;
}

/* A step that combines, or takes a message: into one place. */
static bool take_result(struct form *f, const struct choir_step *step, uint32_t t)
{
    const struct choir_place *p = f->plan->place + step->place;
    uint32_t k = UINT32_MAX; /* the round: that of all its messages */
    for (uint32_t i = 0; i < step->ins; i++) {
        uint32_t peer = p[i].peer < 0 ? CUDA_LOCAL : plan_peer(f->plan, &p[i], t);
        if (peer == CUDA_LOCAL)
            continue;
        if (peer >= CUDA_RANKS || (k != UINT32_MAX && k != f->received[peer]))
            return false;
        k = f->received[peer]++;
    }
    k = k == UINT32_MAX ? 0 : k;
    if (step->outs != 1 || p[step->ins].peer >= 0)
        return false;
    struct cuda_result *r = add_result(f, k, &p[step->ins], t);
    for (uint32_t i = 0; r && i < step->ins; i++) {
        struct extent e = {0, 0};
        uint32_t peer = p[i].peer < 0 ? CUDA_LOCAL : plan_peer(f->plan, &p[i], t);
        if ((peer == CUDA_LOCAL && !source_of(f, &p[i], t, &e)) ||
            !add_source(&f->round[k], r, e.off, peer))
            return false;
    }
    return r != NULL;
}

static bool take_steps(struct form *f)
{
    const struct choir_plan *plan = f->plan;
    struct plan_cursor cursor = {0};
    if (plan->size > CUDA_RANKS || (plan->programs > 1 && plan->instances > 1) || !round_at(f, 0))
        return false;
    while (plan_cursor_next(&cursor, plan, 0)) {
        const struct choir_step *step = &plan->step[cursor.step];
        if (!(plan_step_pending(plan, step) ? take_copy : take_result)(f, step, cursor.iter))
            return false;
    }
    return true;
}

/* --- in place ------------------------------------------------------------------------------------- */

static bool same_cuts(const struct choir_plan *plan)
{
    const struct choir_cut *in = &plan->cut[CHOIR_IN], *out = &plan->cut[CHOIR_OUT];
    bool same = in->parts == out->parts;
    for (uint32_t p = 0; same && p < in->parts; p++)
        same = plan_part_off(in, p) == plan_part_off(out, p) &&
               plan_part_len(in, p) == plan_part_len(out, p);
    return same;
}

/* Where this rank's block begins in a buffer that has one of every rank. */
static uint64_t own_block(const struct choir_plan *plan, unsigned buf)
{
    const struct choir_cut *cut = &plan->cut[buf];
    return cut->parts ? plan_part_off(cut, cut->parts / plan->size * plan->rank) : 0;
}

/* Where IN begins in OUT, in elements, and OUT in IN (one of them is 0), as the kind has it in place; false: it has no such form. */
static bool aliasing(const struct choir_plan *plan, uint64_t *in, uint64_t *out)
{
    *in = *out = 0;
    switch ((enum choir_kind)plan->kind) {
    case CHOIR_ALL_GATHER:
    case CHOIR_ALL_GATHER_V:
    case CHOIR_GATHER:
    case CHOIR_GATHER_V:
        *in = own_block(plan, CHOIR_OUT);
        return true;
    case CHOIR_REDUCE_SCATTER:
    case CHOIR_REDUCE_SCATTER_V:
    case CHOIR_SCATTER:
    case CHOIR_SCATTER_V:
        *out = own_block(plan, CHOIR_IN);
        return true;
    case CHOIR_ALL_TO_ALL_V:
        return same_cuts(plan);
    case CHOIR_EXCHANGE:
    case CHOIR_BARRIER:
        return false;
    default:
        return true;
    }
}

/*
 * Lanes run at their own pace, so what a lane overwrites no other may still have to read: it may be a message out or a source of
 * just this result, and exactly so, which the same lane reads before. In no other way may a result lie over IN.
 */
static bool may_alias(const struct choir_plan *plan, const struct cuda_exchange *x)
{
    uint64_t in, out;
    if (!aliasing(plan, &in, &out))
        return true;
    for (uint32_t i = 0; i < x->results; i++) {
        struct extent to = {x->result[i].off + out, x->result[i].len};
        for (uint32_t k = 0; k < x->sends; k++) {
            struct extent from = {x->send[k].off + in, x->send[k].len};
            if (overlap(from, to) && (from.off != to.off || from.len != to.len))
                return false;
        }
        for (uint32_t j = 0; j < x->results; j++)
            for (uint32_t n = 0; n < x->result[j].count; n++) {
                const struct cuda_source *s = &x->source[x->result[j].first + n];
                struct extent from = {s->off + in, x->result[j].len};
                if (s->peer == CUDA_LOCAL && overlap(from, to) && (i != j || from.off != to.off))
                    return false;
            }
    }
    return true;
}

/* --- what others call ---------------------------------------------------------------------------- */

/* The blocks that an exchange needs. */
static void count_lanes(struct cuda_exchange *x)
{
    x->lanes = 0;
    for (uint32_t i = 0; i < x->sends; i++)
        x->lanes = base_max(x->lanes, x->send[i].lanes);
    for (uint32_t i = 0; i < x->results; i++)
        x->lanes = base_max(x->lanes, x->result[i].lanes);
}

bool cuda_form_exchange(const struct choir_plan *plan, uint32_t elem, cuda_lanes_fn *lanes_of,
                        struct cuda_exchange *what)
{
    struct form f = {
        .plan = plan, .elem = elem, .lanes_of = lanes_of, .round = what, .most = 1, .rounds = 0};
    if (!take_steps(&f) || !may_alias(plan, what))
        return false;
    count_lanes(what);
    return true;
}

uint32_t cuda_form_rounds(const struct choir_plan *plan, uint32_t elem, cuda_lanes_fn *lanes_of,
                          struct cuda_exchange *round, uint32_t most)
{
    struct form f = {
        .plan = plan, .elem = elem, .lanes_of = lanes_of, .round = round, .most = most};
    if (plan->kind != CHOIR_EXCHANGE || !take_steps(&f))
        return 0;
    for (uint32_t k = 0; k < f.rounds; k++)
        count_lanes(&round[k]);
    return f.rounds;
}

void cuda_form_split(const struct cuda_exchange *all, uint32_t elem, uint64_t limit_bytes,
                     struct cuda_exchange *shorter, struct cuda_exchange *longer)
{
    *shorter = *longer = (struct cuda_exchange){.lanes = 0};
    for (uint32_t i = 0; i < all->sends; i++) {
        struct cuda_exchange *x = all->send[i].len * elem <= limit_bytes ? shorter : longer;
        x->send[x->sends++] = all->send[i];
    }
    for (uint32_t i = 0; i < all->results; i++) {
        const struct cuda_result *r = &all->result[i];
        struct cuda_exchange *x = r->len * elem <= limit_bytes ? shorter : longer;
        x->result[x->results] = *r;
        x->result[x->results++].first = x->sources;
        memcpy(&x->source[x->sources], &all->source[r->first], r->count * sizeof(*all->source));
        x->sources += r->count;
    }
    count_lanes(shorter);
    count_lanes(longer);
}
