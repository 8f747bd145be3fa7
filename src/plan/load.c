/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load.c: reads the text of a plan that dump.c writes and people edit.
 *
 *   plan    = "choir plan" ABI ":" KIND ", rank" R "of" N  cut cut  option...  program...  "end"
 *   cut     = ("in" | "out") ("even parts" P "count" C "quantum" Q | "blocks parts" P "count" C
 *                             | "table" (OFF ":" LEN)...)
 *   option  = "tmp" (N | "table" (OFF ":" LEN)...) | "instances" N | "window" N | "depth" N | "slot" N | "list" PART...
 *   program = "program" NUMBER (step | "repeat" TIMES "{" step... "}")...
 *   step    = in ("+" in)... "->" out ("," out)...
 *   in, out = ["from" | "to" PEER ["each" DPEER]] ("in" | "out" | "tmp") "[" span "]"
 *   span    = ["list"] FIRST [":" RUN] ["stride" S] ["end" E] ["turn" T] ["each" DTURN]
 *
 * White space is free, # begins a comment. What is read is well-formed as text only: callers check it with
 * plan_check against a shape, and prove it where it is to run.
 */
#include "plan/load.h"
#include <stdlib.h>

struct array {
    void *data;
    uint32_t count, room;
};

/* A plan while it is read: its arrays still grow. */
struct draft {
    struct scan *scan;
    struct choir_plan plan;
    struct array off[3], len[3], begin, step, place, list;
    bool cut[2];
};

/* Appends one element; NULL (and a failed scan) without memory. */
static void *append(struct scan *s, struct array *a, size_t bytes)
{
    if (s->failed)
        return NULL;
    if (a->count == a->room) {
        uint32_t room = a->room ? a->room * 2 : 16;
        void *more = room > a->room ? realloc(a->data, room * bytes) : NULL;
        if (!more) {
            scan_fail(s, "no memory for %u entries", a->count);
            return NULL;
        }
        a->data = more;
        a->room = room;
    }
    return (char *)a->data + a->count++ * bytes;
}

static void add_u32(struct scan *s, struct array *a, uint32_t v)
{
    uint32_t *at = append(s, a, sizeof(*at));
    if (at)
        *at = v;
}

static void add_u64(struct scan *s, struct array *a, uint64_t v)
{
    uint64_t *at = append(s, a, sizeof(*at));
    if (at)
        *at = v;
}

static void read_table(struct draft *d, unsigned b)
{
    struct scan *s = d->scan;
    while (s->token == SCAN_NUMBER) {
        add_u64(s, &d->off[b], scan_whole(s, "offset", 0, UINT64_MAX));
        scan_expect(s, ":");
        add_u64(s, &d->len[b], scan_whole(s, "length", 0, UINT64_MAX));
    }
    d->plan.cut[b].how = CHOIR_TABLE;
    d->plan.cut[b].parts = d->off[b].count;
}

static void read_cut(struct draft *d, unsigned b)
{
    struct scan *s = d->scan;
    struct choir_cut *cut = &d->plan.cut[b];
    if (d->cut[b])
        scan_fail(s, "the cut of \"%s\" is given twice", b ? "out" : "in");
    d->cut[b] = true;
    cut->quantum = 1;
    if (scan_take(s, "table")) {
        read_table(d, b);
        return;
    }
    cut->how = scan_is(s, "even") ? CHOIR_EVEN : CHOIR_BLOCKS;
    if (!scan_take(s, "even") && !scan_take(s, "blocks"))
        scan_expected(s, "even, blocks or table");
    scan_expect(s, "parts");
    cut->parts = (uint32_t)scan_whole(s, "number of parts", 0, INT32_MAX);
    scan_expect(s, "count");
    cut->count = scan_whole(s, "count", 0, UINT64_MAX);
    if (cut->how == CHOIR_EVEN && scan_take(s, "quantum"))
        cut->quantum = scan_whole(s, "quantum", 1, UINT64_MAX);
}

/* v modulo n, not negative. */
static int32_t modulo(int32_t v, uint32_t n)
{
    int64_t m = n ? v % (int64_t)n : 0;
    return (int32_t)(m < 0 ? m + n : m);
}

/* The builder's form: defaults filled in, turns within the parts. */
static void read_span(struct scan *s, struct choir_place *p, uint32_t parts)
{
    scan_expect(s, "[");
    p->list = scan_take(s, "list");
    p->first = scan_u32(s, "part", 0);
    p->run = scan_take(s, ":") ? scan_u32(s, "run", 1) : 1;
    uint64_t end = (uint64_t)p->first + p->run;
    if (end > UINT32_MAX)
        scan_fail(s, "first part and run together exceed %u", UINT32_MAX);
    p->stride = p->run;
    p->end = (uint32_t)end;
    if (!p->list && scan_take(s, "stride"))
        p->stride = scan_u32(s, "stride", 1);
    if (!p->list && scan_take(s, "end"))
        p->end = scan_u32(s, "end", 0);
    if (scan_take(s, "turn"))
        p->turn = modulo(scan_i32(s, "turn"), parts);
    if (scan_take(s, "each"))
        p->dturn = modulo(scan_i32(s, "turn per iteration"), parts);
    scan_expect(s, "]");
}

static void read_place(struct draft *d, bool source)
{
    struct scan *s = d->scan;
    struct choir_place p = {.peer = -1}, *at;
    if (scan_is(s, source ? "to" : "from"))
        scan_fail(s, source ? "a step cannot take its input from \"to\""
                            : "a step cannot write to \"from\"");
    if (scan_take(s, source ? "from" : "to")) {
        p.peer = (int32_t)scan_whole(s, "peer", 0, d->plan.size - 1u);
        if (scan_take(s, "each"))
            p.dpeer = modulo(scan_i32(s, "peer per iteration"), d->plan.size);
    }
    p.buf = scan_is(s, "in") ? CHOIR_IN : scan_is(s, "out") ? CHOIR_OUT : CHOIR_TMP;
    if (!scan_take(s, "in") && !scan_take(s, "out") && !scan_take(s, "tmp"))
        scan_expected(s, source ? "from, in, out or tmp" : "to, in, out or tmp");
    else if (p.peer >= 0 && p.buf == CHOIR_TMP && !plan_tmp_tabled(&d->plan))
        scan_fail(s, "a message is measured by in or out, not by tmp without a table");
    read_span(s, &p, plan_parts(&d->plan, p.buf));
    at = append(s, &d->place, sizeof(*at));
    if (at)
        *at = p;
}

static void read_step(struct draft *d)
{
    struct scan *s = d->scan;
    struct choir_step *step = append(s, &d->step, sizeof(*step));
    uint32_t first = d->place.count, ins, outs;
    do
        read_place(d, true);
    while (scan_take(s, "+"));
    ins = d->place.count - first;
    scan_expect(s, "->");
    do
        read_place(d, false);
    while (scan_take(s, ","));
    outs = d->place.count - first - ins;
    if (ins > UINT16_MAX || outs > UINT16_MAX)
        scan_fail(s, "a step has at most %u ins and outs", UINT16_MAX);
    if (step)
        *step = (struct choir_step){.place = first, .ins = (uint16_t)ins, .outs = (uint16_t)outs};
}

static void read_repeat(struct draft *d)
{
    struct scan *s = d->scan;
    uint32_t first = d->step.count, times = scan_u32(s, "number of repeats", 1);
    scan_expect(s, "{");
    do {
        if (scan_is(s, "repeat"))
            scan_fail(s, "repeats do not nest");
        read_step(d);
    } while (!s->failed && !scan_is(s, "}"));
    scan_expect(s, "}");
    if (!s->failed) {
        struct choir_step *step = (struct choir_step *)d->step.data + first;
        step->body = d->step.count - first;
        step->times = times;
    }
}

static void read_programs(struct draft *d)
{
    struct scan *s = d->scan;
    while (scan_take(s, "program")) {
        (void)scan_whole(s, "number of the program, counted from 0,", d->plan.programs,
                         d->plan.programs);
        add_u32(s, &d->begin, d->step.count);
        d->plan.programs++;
        while (!s->failed && !scan_is(s, "program") && !scan_is(s, "end")) {
            if (scan_take(s, "repeat"))
                read_repeat(d);
            else
                read_step(d);
        }
    }
    if (!d->plan.programs)
        scan_expect(s, "program");
    add_u32(s, &d->begin, d->step.count);
    scan_expect(s, "end");
}

static void read_tmp(struct draft *d)
{
    struct scan *s = d->scan;
    if (scan_take(s, "table")) {
        read_table(d, CHOIR_TMP);
        d->plan.tmp = d->plan.cut[CHOIR_TMP].parts;
        return;
    }
    d->plan.tmp = (uint32_t)scan_whole(s, "tmp", 0, INT32_MAX);
}

static void read_options(struct draft *d)
{
    struct scan *s = d->scan;
    struct choir_plan *p = &d->plan;
    while (!s->failed && !scan_is(s, "program")) {
        if (scan_take(s, "in"))
            read_cut(d, CHOIR_IN);
        else if (scan_take(s, "out"))
            read_cut(d, CHOIR_OUT);
        else if (scan_take(s, "tmp"))
            read_tmp(d);
        else if (scan_take(s, "instances"))
            p->instances = scan_u32(s, "instances", 1);
        else if (scan_take(s, "window"))
            p->window = scan_u32(s, "window", 1);
        else if (scan_take(s, "depth"))
            p->depth = scan_u32(s, "depth", 1);
        else if (scan_take(s, "slot"))
            p->slot = scan_whole(s, "slot", 1, UINT64_MAX);
        else if (scan_take(s, "list"))
            while (s->token == SCAN_NUMBER)
                add_u32(s, &d->list, scan_u32(s, "part", 0));
        else
            scan_expected(s, "in, out, tmp, instances, window, depth, slot, list or program");
    }
    if (!d->cut[CHOIR_IN] || !d->cut[CHOIR_OUT])
        scan_fail(s, "the cut of \"%s\" is missing", d->cut[CHOIR_IN] ? "out" : "in");
    if (!p->instances || !p->window || !p->depth || !p->slot)
        scan_fail(s, "%s is missing",
                  !p->instances ? "instances"
                  : !p->window  ? "window"
                  : !p->depth   ? "depth"
                                : "slot");
}

static void read_head(struct draft *d)
{
    struct scan *s = d->scan;
    char kind[32];
    scan_expect(s, "choir");
    scan_expect(s, "plan");
    d->plan.abi =
        (uint32_t)scan_whole(s, "version of the plan", CHOIR_ALGORITHM_ABI, CHOIR_ALGORITHM_ABI);
    scan_expect(s, ":");
    struct scan before = *s;
    scan_word(s, "name of a collective", kind, sizeof(kind));
    int k = plan_kind_find(kind);
    if (k < 0 && !s->failed) {
        *s = before;
        scan_fail(s, "\"%s\" is not a collective", kind);
    }
    d->plan.kind = (uint32_t)k;
    scan_expect(s, ",");
    scan_expect(s, "rank");
    d->plan.rank = scan_u32(s, "rank", 0);
    scan_expect(s, "of");
    d->plan.size = (uint32_t)scan_whole(s, "number of ranks", d->plan.rank + 1ull, INT32_MAX);
}

/* Points the plan at what was read, and copies it into one allocation. */
static struct choir_plan *pack_plan(struct draft *d)
{
    for (unsigned b = 0; b < 3; b++)
        if (d->plan.cut[b].how == CHOIR_TABLE) {
            d->plan.cut[b].off = d->off[b].data;
            d->plan.cut[b].len = d->len[b].data;
        }
    d->plan.begin = d->begin.data;
    d->plan.step = d->step.data;
    d->plan.place = d->place.data;
    d->plan.list = d->list.data;
    d->plan.steps = d->step.count;
    d->plan.places = d->place.count;
    d->plan.lists = d->list.count;
    return plan_copy(&d->plan);
}

struct choir_plan *load_plan(struct scan *s)
{
    struct draft d = {.scan = s};
    struct choir_plan *plan = NULL;
    read_head(&d);
    read_options(&d);
    read_programs(&d);
    if (!s->failed && !(plan = pack_plan(&d)))
        scan_fail(s, "no memory for the plan");
    struct array *all[] = {&d.off[0], &d.off[1], &d.off[2], &d.len[0], &d.len[1],
                           &d.len[2], &d.begin,  &d.step,   &d.place,  &d.list};
    for (size_t i = 0; i < base_count(all); i++)
        free(all[i]->data);
    return plan;
}

enum choir_status plan_parse(const char *text, struct choir_plan **plan)
{
    struct scan s;
    scan_start(&s, text);
    struct choir_plan *p = load_plan(&s);
    if (p && s.token != SCAN_END) {
        scan_fail(&s, "more text behind the plan's \"end\"");
        plan_free(p);
    }
    if (s.failed)
        return scan_status(&s, "plan", "see the comment in src/plan/load.c for the grammar");
    *plan = p;
    return CHOIR_OK;
}
