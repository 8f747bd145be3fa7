/* SPDX-License-Identifier: Apache-2.0 */
/*
 * draw.c: the message pattern of a collective as SVG: a lane per rank, time downward, an arrow per message
 * with the parts it carries.
 *
 * Time here is logical: a message takes one row, a rank sends one message a row. One instance of every
 * program is drawn, each in its colour. Plans that wait for ever are drawn as far as they come, the waits
 * marked.
 */
#include "plan/plan.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 64, ARROWS = 20000, LANE = 110, ROW = 56, LEFT = 70, TOP = 84, NONE = -1 };

struct arrow {
    uint32_t from, to, step, iter, sent; /* row at which it leaves; it arrives in the next */
    int32_t next;                        /* later message of the pair, or NONE */
    struct choir_place place;
};

struct drawing {
    const struct choir_plan *const *plans;
    uint32_t n, program, arrows, rows;
    struct arrow *arrow;
    int32_t *head, *tail; /* [n * n] messages sent and not yet received */
    uint32_t row[LANES];
    struct plan_cursor cursor[LANES];
    bool waiting[LANES], ended[LANES], cut_short;
    FILE *out;
};

static const char *const colours[] = {"#1f6fb2", "#c2571a", "#2b8a4b", "#8a3ab9",
                                      "#a8851b", "#b3246b", "#0f8b8d", "#555555"};

static uint32_t x_of(uint32_t rank)
{
    return LEFT + rank * LANE;
}

static uint32_t y_of(uint32_t row)
{
    return TOP + row * ROW;
}

/* "3", "0-3", "0,2,4 ..": the parts of a place, in their order. */
static void parts_text(const struct choir_plan *plan, const struct choir_place *place, uint32_t t,
                       char *text, size_t bytes)
{
    struct plan_walk w;
    uint32_t first, p, last, shown = 0;
    size_t at = 0;
    text[0] = 0;
    plan_walk_start(&w, plan, place, t);
    bool more = plan_walk_next(&w, &first);
    while (more && at + 24 < bytes) {
        last = first;
        while ((more = plan_walk_next(&w, &p)) && p == last + 1)
            last = p;
        if (shown == 4) {
            snprintf(text + at, bytes - at, ",..");
            return;
        }
        at += (size_t)snprintf(text + at, bytes - at, first == last ? "%s%u" : "%s%u-%u",
                               shown++ ? "," : "", first, last);
        first = p;
    }
}

static void draw_arrow(struct drawing *d, const struct arrow *a)
{
    static const char *const buffer[] = {"in", "out", "tmp"};
    const char *colour = colours[d->program % base_count(colours)];
    char parts[96];
    parts_text(d->plans[a->from], &a->place, a->iter, parts, sizeof(parts));
    uint32_t x = x_of(a->from), y = y_of(a->sent), x2 = x_of(a->to), y2 = y_of(a->sent + 1);
    /* The label stands near the sender, a fixed way along, so that long arrows don't hide each other's. */
    double way = a->from < a->to ? 34 : -34, share = a->from == a->to ? .5 : way / ((double)x2 - x);
    share = share > .5 ? .5 : share;
    double at_x = x + share * ((double)x2 - x), at_y = y + share * ROW - 4;
    fprintf(d->out,
            "<g><title>rank %u to %u, program %u, step %u, iteration %u: %s[%s]</title>"
            "<line x1='%u' y1='%u' x2='%u' y2='%u' stroke='%s' marker-end='url(#a%zu)'/>"
            "<text class='halo' x='%.0f' y='%.0f'>%s</text>"
            "<text x='%.0f' y='%.0f' fill='%s'>%s</text></g>\n",
            a->from, a->to, d->program, a->step, a->iter, buffer[a->place.buf], parts, x, y, x2, y2,
            colour, d->program % base_count(colours), at_x, at_y, parts, at_x, at_y, colour, parts);
}

static bool receivable(const struct drawing *d, uint32_t r, const struct choir_step *s, uint32_t t,
                       uint32_t *row)
{
    const struct choir_plan *plan = d->plans[r];
    const struct choir_place *p = &plan->place[s->place];
    for (uint32_t i = 0; i < s->ins; i++) {
        if (p[i].peer < 0)
            continue;
        uint32_t peer = plan_peer(plan, &p[i], t), before = 0;
        if (peer >= d->n) { /* not drawn: taken to come in time */
            *row = base_max(*row, d->row[r] + 1);
            continue;
        }
        for (uint32_t j = 0; j < i; j++)
            before += p[j].peer >= 0 && plan_peer(plan, &p[j], t) == peer;
        int32_t m = d->head[peer * d->n + r];
        while (m != NONE && before--)
            m = d->arrow[m].next;
        if (m == NONE)
            return false;
        *row = base_max(*row, d->arrow[m].sent + 1);
    }
    return true;
}

static void receive(struct drawing *d, uint32_t r, const struct choir_step *s, uint32_t t)
{
    const struct choir_plan *plan = d->plans[r];
    const struct choir_place *p = &plan->place[s->place];
    for (uint32_t i = 0; i < s->ins; i++) {
        if (p[i].peer < 0)
            continue;
        uint32_t peer = plan_peer(plan, &p[i], t), pair = peer * d->n + r;
        if (peer >= d->n)
            continue;
        d->head[pair] = d->arrow[d->head[pair]].next;
        if (d->head[pair] == NONE)
            d->tail[pair] = NONE;
    }
}

static void send(struct drawing *d, uint32_t r, uint32_t to, uint32_t step, uint32_t t,
                 const struct choir_place *place)
{
    if (d->arrows == ARROWS) {
        d->cut_short = true;
        return;
    }
    uint32_t pair = r * d->n + to;
    d->arrow[d->arrows] = (struct arrow){r, to, step, t, d->row[r]++, NONE, *place};
    *(d->tail[pair] == NONE ? &d->head[pair] : &d->arrow[d->tail[pair]].next) = (int32_t)d->arrows;
    d->tail[pair] = (int32_t)d->arrows++;
    d->rows = base_max(d->rows, d->row[r]);
}

/* Runs the rank's present step if its messages are there. */
static bool advance(struct drawing *d, uint32_t r)
{
    const struct choir_plan *plan = d->plans[r];
    struct plan_cursor *c = &d->cursor[r];
    if (!d->waiting[r]) {
        d->ended[r] = !plan_cursor_next(c, plan, d->program);
        d->waiting[r] = !d->ended[r];
        if (d->ended[r])
            return false;
    }
    const struct choir_step *s = &plan->step[c->step];
    const struct choir_place *p = &plan->place[s->place];
    uint32_t row = d->row[r];
    if (!receivable(d, r, s, c->iter, &row))
        return false;
    receive(d, r, s, c->iter);
    d->row[r] = row;
    d->rows = base_max(d->rows, row);
    for (uint32_t i = s->ins; i < (uint32_t)s->ins + s->outs; i++) {
        uint32_t peer = p[i].peer < 0 ? d->n : plan_peer(plan, &p[i], c->iter);
        if (peer < d->n)
            send(d, r, peer, c->step, c->iter, &p[i]);
    }
    if (s->ins > 1)
        fprintf(d->out, "<circle cx='%u' cy='%u' r='4' fill='%s'/>\n", x_of(r), y_of(row),
                colours[d->program % base_count(colours)]);
    d->waiting[r] = false;
    return true;
}

static void draw_program(struct drawing *d, uint32_t program, uint32_t from_row)
{
    d->program = program;
    d->arrows = 0;
    for (uint32_t i = 0; i < d->n * d->n; i++)
        d->head[i] = d->tail[i] = NONE;
    for (uint32_t r = 0; r < d->n; r++) {
        d->cursor[r] = (struct plan_cursor){0};
        d->waiting[r] = d->ended[r] = false;
        d->row[r] = from_row;
    }
    for (bool some = true; some && !d->cut_short;) {
        some = false;
        for (uint32_t r = 0; r < d->n; r++)
            while (!d->ended[r] && !d->cut_short && advance(d, r))
                some = true;
    }
    for (uint32_t i = 0; i < d->arrows; i++)
        draw_arrow(d, &d->arrow[i]);
    for (uint32_t r = 0; r < d->n && !d->cut_short; r++)
        if (d->waiting[r])
            fprintf(d->out, "<text x='%u' y='%u' fill='#c00'>waits: step %u</text>\n", x_of(r),
                    y_of(d->row[r]) + 16, d->cursor[r].step);
}

static void draw_frame(struct drawing *d, uint32_t ranks)
{
    uint32_t height = y_of(d->rows) + 40;
    for (uint32_t r = 0; r < d->n; r++)
        fprintf(d->out,
                "<line class='lane' x1='%u' y1='%u' x2='%u' y2='%u'/>"
                "<text class='rank' x='%u' y='%u'>rank %u</text>\n",
                x_of(r), TOP - 12, x_of(r), height - 24, x_of(r), TOP - 20, r);
    for (uint32_t row = 0; row <= d->rows; row++)
        fprintf(d->out, "<text class='time' x='24' y='%u'>%u</text>\n", y_of(row) + 4, row);
    if (d->cut_short || d->n < ranks)
        fprintf(d->out, "<text class='rank' x='%d' y='%u'>drawn in part: %u of %u ranks%s</text>\n",
                LEFT + 100, height - 6, d->n, ranks,
                d->cut_short ? ", the first messages only" : "");
}

static void draw_head(const struct choir_plan *plan, uint32_t lanes, uint32_t rows, FILE *out)
{
    uint32_t width = x_of(lanes) - LANE / 2, height = y_of(rows) + 40;
    fprintf(out,
            "<svg xmlns='http://www.w3.org/2000/svg' width='%u' height='%u' viewBox='0 0 %u %u'>\n"
            "<style>text{font:11px sans-serif;text-anchor:middle}.halo{stroke:#fff;"
            "stroke-width:3px}line{stroke-width:1.4}.lane{stroke:#ccc}.rank{font-weight:bold}"
            ".time{fill:#999}.title{font-size:14px;text-anchor:start}</style>\n"
            "<rect width='100%%' height='100%%' fill='#fff'/>\n",
            width, height, width, height);
    for (size_t i = 0; i < base_count(colours); i++)
        fprintf(out,
                "<marker id='a%zu' viewBox='0 0 8 8' refX='8' refY='4' markerWidth='7' "
                "markerHeight='7' orient='auto'><path d='M0,0L8,4L0,8z' fill='%s'/></marker>\n",
                i, colours[i]);
    fprintf(out,
            "<text class='title' x='16' y='24'>%s, %" PRIu32 " ranks: one instance of %" PRIu32
            " program%s, parts on the arrows, dots combine</text>\n",
            plan_kind_name((enum choir_kind)plan->kind), plan->size, plan->programs,
            plan->programs == 1 ? "" : "s");
}

void plan_draw(const struct choir_plan *const *plans, uint32_t n, FILE *out)
{
    struct drawing d = {.plans = plans, .n = base_min(n, (uint32_t)LANES)};
    char *body = NULL;
    size_t bytes = 0;
    d.arrow = malloc(ARROWS * sizeof(*d.arrow));
    d.head = malloc(sizeof(*d.head) * d.n * d.n + 1);
    d.tail = malloc(sizeof(*d.tail) * d.n * d.n + 1);
    /* The picture's height is known last, yet it stands first: the body is drawn to memory. */
    d.out = n && d.arrow && d.head && d.tail ? open_memstream(&body, &bytes) : NULL;
    if (d.out) {
        uint32_t programs = plans[0]->programs; /* broken plans may differ */
        for (uint32_t r = 1; r < d.n; r++)
            programs = base_min(programs, plans[r]->programs);
        for (uint32_t p = 0; p < programs && !d.cut_short; p++)
            draw_program(&d, p, p ? d.rows : 0);
        fclose(d.out);
        draw_head(plans[0], d.n, d.rows, out);
        d.out = out;
        draw_frame(&d, n);
        fwrite(body, 1, bytes, out);
        fputs("</svg>\n", out);
    }
    free(body);
    free(d.arrow);
    free(d.head);
    free(d.tail);
}
