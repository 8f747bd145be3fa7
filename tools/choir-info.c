/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choir-info.c: what Choir finds on this machine, GPUs included, and every setting with its present value.
 */
#include "base/knob.h"
#include "cuda/cuda.h"
#include "host/host.h"
#include "plan/plan.h"
#include "plan/tuning.h"
#include "reduce/reduce.h"
#include "topo/topo.h"
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: choir-info [--topology | --gpus | --transports | --algorithms | --knobs [--markdown]]\n"
    "  --topology    the machine, as CHOIR_TOPO_FILE reads it\n"
    "  --gpus        the GPUs, which reach each other's memory, and what was measured of them\n"
    "  --transports  what works here, in order of preference\n"
    "  --algorithms  the collective algorithms\n"
    "  --knobs       the settings, their present values and origins\n"
    "  --markdown    the page docs/knobs.md, with defaults\n"
    "Without an option: all but the settings.\n";

static void print_version(void)
{
    uint32_t v = choir_version();
    printf("choir %u.%u.%u, kernels %s\n", v / 10000, v / 100 % 100, v % 100, reduce_isa());
}

static void print_transports(void)
{
    if (host_start() != CHOIR_OK) {
        printf("no transport: %s; %s\n", base_error_thread()->text, base_error_thread()->remedy);
        return;
    }
    host_transports_print(stdout);
    host_stop();
}

static void print_kinds(uint32_t kinds)
{
    const char *comma = "";
    for (unsigned k = 0; k < CHOIR_KINDS; k++)
        if (kinds >> k & 1) {
            printf("%s%s", comma, plan_kind_name((enum choir_kind)k));
            comma = ", ";
        }
}

static void print_algorithms(void)
{
    const struct choir_algorithm *a;
    for (uint32_t i = 0; (a = plan_algorithm_at(i)); i++) {
        printf("algorithm %-20s %s\n%-30s ", a->name, a->summary, "");
        print_kinds(a->kinds);
        printf("%s\n", a->flags & CHOIR_ORDERED ? "; in rank order" : "");
    }
}

static void print_knobs(void)
{
    printf("%-26s %-20s %-20s %s\n", "name", "value", "from", "meaning");
    for (int i = 0; i < KNOB_COUNT; i++) {
        char value[256];
        const char *source;
        const struct knob_row *r = knob_row((enum knob_id)i);
        knob_show((enum knob_id)i, value, sizeof(value), &source);
        printf("%-26s %-20s %-20s %s", r->name, *value ? value : "-", source, r->help);
        printf("%s%s%s", *r->range ? " (" : "", r->range, *r->range ? ")" : "");
        printf("%s%s%s\n", r->alias ? " [" : "", r->alias ? r->alias : "", r->alias ? "]" : "");
    }
}

/* In a table a bar would end the cell. */
static void print_cell(const char *text)
{
    for (; *text; text++)
        printf(*text == '|' ? "\\|" : "%c", *text);
}

static void print_markdown(void)
{
    printf("# Settings\n\n"
           "Environment variables, read when the first communicator or id is created. An unknown "
           "`CHOIR_` name is\n"
           "warned about, a value out of range is an error. The second name is honoured where the "
           "first is not set.\n"
           "`choir-info --knobs` shows the present values. This page is made by `choir-info "
           "--knobs --markdown`.\n\n"
           "| name | also | kind | default | range | meaning |\n"
           "|---|---|---|---|---|---|\n");
    for (int i = 0; i < KNOB_COUNT; i++) {
        const struct knob_row *r = knob_row((enum knob_id)i);
        printf("| `%s` | %s%s%s | %s | %s | %s | ", r->name, r->alias ? "`" : "",
               r->alias ? r->alias : "", r->alias ? "`" : "", r->kind, r->fallback, r->range);
        print_cell(r->help);
        printf(" |\n");
    }
}

#define GPUS 64
struct machine {
    uint32_t gpus, cuda, tunings;
    char name[GPUS][96];
};

/* If it may be of this machine: so many GPUs of that name are here, and the driver is that one. */
static void print_tuning(const struct tuning *t, const char *path, void *arg)
{
    struct machine *m = arg;
    uint32_t same = 0;
    char name[TUNING_GPU], words[200];
    for (uint32_t i = 0; i < m->gpus; i++) {
        plan_tuning_name(m->name[i], name);
        same += !strcmp(name, t->gpu);
    }
    if (!same || m->gpus < t->gpus || t->cuda != m->cuda)
        return;
    m->tunings++;
    plan_tuned_words(&t->tuned, words, sizeof(words));
    printf("links between GPUs, %u ranks on %u: %s\n  %s\n", t->ranks, t->gpus, words, path);
}

static void print_gpus(void)
{
    static struct machine m;
    char folder[4096];
    cuda_print(stdout);
    m.gpus = cuda_names(m.name, GPUS, &m.cuda);
    if (m.gpus)
        plan_tuning_each(print_tuning, &m);
    if (m.gpus && !m.tunings && plan_tuning_folder(folder, sizeof(folder)))
        printf("links between GPUs: nothing measured yet in %s\n", folder);
}

static void print_all(void)
{
    print_version();
    printf("\n");
    topo_print(topo_get(), stdout);
    printf("\n");
    print_gpus();
    printf("\n");
    print_transports();
    printf("\n");
    print_algorithms();
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    bool markdown = argc == 3 && !strcmp(what, "--knobs") && !strcmp(argv[2], "--markdown");
    if (argc > 2 && !markdown) {
        fputs(usage, stderr);
        return 2;
    }
    if (!strcmp(what, "--help")) {
        fputs(usage, stdout);
        return 0;
    }
    /* The page does not depend on the environment, so it is made under any. */
    if (markdown) {
        print_markdown();
        return 0;
    }
    if (knob_load() != CHOIR_OK) {
        const struct choir_error *e = base_error_thread();
        fprintf(stderr, "choir-info: %s; %s\n", e->text, e->remedy);
        return 1;
    }
    if (!*what)
        print_all();
    else if (!strcmp(what, "--topology"))
        topo_print(topo_get(), stdout);
    else if (!strcmp(what, "--gpus"))
        print_gpus();
    else if (!strcmp(what, "--transports"))
        print_transports();
    else if (!strcmp(what, "--algorithms"))
        print_algorithms();
    else if (!strcmp(what, "--knobs"))
        print_knobs();
    else {
        fputs(usage, stderr);
        return 2;
    }
    return 0;
}
