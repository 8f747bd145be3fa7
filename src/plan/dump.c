/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dump.c: a plan as text to read, compare and edit; load.c reads it back. Its grammar stands there.
 */
#include "plan/plan.h"
#include <inttypes.h>

enum { WRAP = 12 }; /* numbers in a line of a table or list */

static void dump_cut(const struct choir_cut *cut, const char *name, FILE *out)
{
    if (cut->how == CHOIR_EVEN)
        fprintf(out, "%s even parts %" PRIu32 " count %" PRIu64 " quantum %" PRIu64 "\n", name,
                cut->parts, cut->count, cut->quantum);
    else if (cut->how == CHOIR_BLOCKS)
        fprintf(out, "%s blocks parts %" PRIu32 " count %" PRIu64 "\n", name, cut->parts,
                cut->count);
    else {
        fprintf(out, "%s table", name);
        for (uint32_t p = 0; p < cut->parts; p++)
            fprintf(out, "%s%" PRIu64 ":%" PRIu64, p && p % WRAP == 0 ? "\n  " : " ", cut->off[p],
                    cut->len[p]);
        fputc('\n', out);
    }
}

/* What is added per iteration, modulo n, reads best with its sign. */
static int32_t with_sign(int32_t v, uint32_t n)
{
    return v > 0 && (uint32_t)v > n / 2 && (uint32_t)v < n ? (int32_t)((uint32_t)v - n) : v;
}

static void dump_place(const struct choir_plan *plan, const struct choir_place *p, bool source,
                       FILE *out)
{
    static const char *const buffer[] = {"in", "out", "tmp"};
    uint32_t run = p->run ? p->run : 1, stride = p->stride ? p->stride : run;
    uint32_t end = p->end ? p->end : p->first + run;
    if (p->peer >= 0) {
        fprintf(out, "%s %" PRId32 " ", source ? "from" : "to", p->peer);
        if (p->dpeer)
            fprintf(out, "each %" PRId32 " ", with_sign(p->dpeer, plan->size));
    }
    fprintf(out, "%s[%s%" PRIu32, buffer[p->buf], p->list ? "list " : "", p->first);
    if (run != 1)
        fprintf(out, ":%" PRIu32, run);
    if (!p->list && stride != run)
        fprintf(out, " stride %" PRIu32, stride);
    if (!p->list && end != p->first + run)
        fprintf(out, " end %" PRIu32, end);
    if (p->turn || p->dturn)
        fprintf(out, " turn %" PRId32, p->turn);
    if (p->dturn)
        fprintf(out, " each %" PRId32, with_sign(p->dturn, plan_parts(plan, p->buf)));
    fputc(']', out);
}

static void dump_step(const struct choir_plan *plan, const struct choir_step *s, int indent,
                      FILE *out)
{
    const struct choir_place *p = &plan->place[s->place];
    fprintf(out, "%*s", indent, "");
    for (uint32_t i = 0; i < s->ins; i++) {
        if (i)
            fputs(i % 8 ? " + " : " +\n        ", out);
        dump_place(plan, p + i, true, out);
    }
    fputs(" -> ", out);
    for (uint32_t i = 0; i < s->outs; i++) {
        if (i)
            fputs(i % 8 ? ", " : ",\n        ", out);
        dump_place(plan, p + s->ins + i, false, out);
    }
    fputc('\n', out);
}

static void dump_program(const struct choir_plan *plan, uint32_t program, FILE *out)
{
    uint32_t loop_end = 0;
    fprintf(out, "program %" PRIu32 "\n", program);
    for (uint32_t s = plan->begin[program]; s < plan->begin[program + 1]; s++) {
        const struct choir_step *step = &plan->step[s];
        if (step->body) {
            fprintf(out, "  repeat %" PRIu32 " {\n", step->times);
            loop_end = s + step->body;
        }
        dump_step(plan, step, s < loop_end ? 4 : 2, out);
        if (s + 1 == loop_end)
            fputs("  }\n", out);
    }
}

void plan_dump(const struct choir_plan *plan, FILE *out)
{
    fprintf(out, "choir plan %" PRIu32 ": %s, rank %" PRIu32 " of %" PRIu32 "\n", plan->abi,
            plan_kind_name((enum choir_kind)plan->kind), plan->rank, plan->size);
    dump_cut(&plan->cut[CHOIR_IN], "in", out);
    dump_cut(&plan->cut[CHOIR_OUT], "out", out);
    if (plan_tmp_tabled(plan))
        dump_cut(&plan->cut[CHOIR_TMP], "tmp", out);
    else
        fprintf(out, "tmp %" PRIu32 "\n", plan->tmp);
    fprintf(out, "instances %" PRIu32 "\nwindow %" PRIu32 "\ndepth %" PRIu32 "\nslot %" PRIu64 "\n",
            plan->instances, plan->window, plan->depth, plan->slot);
    for (uint32_t i = 0; i < plan->lists; i++)
        fprintf(out, "%s%" PRIu32 "%s",
                i == 0     ? "list "
                : i % WRAP ? " "
                           : "\n  ",
                plan->list[i], i + 1 == plan->lists ? "\n" : "");
    for (uint32_t p = 0; p < plan->programs; p++)
        dump_program(plan, p, out);
    fputs("end\n", out);
}
