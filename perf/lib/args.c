/* SPDX-License-Identifier: Apache-2.0 */
/*
 * args.c: the command line. One table row per flag gives parsing, range errors and -h. The letters, names and
 * meanings are those of nccl-tests; what cannot mean anything here is accepted and answered in one line.
 */
#include "perf/lib/perf.h"
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum kind { INT, SIZE, REAL, TEXT, BOOL, TYPE, OP, ROOT, MEMORY, JSON, IGNORED, HELP };
struct flag {
    char letter; /* 0: long only */
    const char *name, *value;
    enum kind kind;
    size_t field;
    long min, max;
    const char *help; /* IGNORED: the answer when it is used */
};
#define AT(f) offsetof(struct perf_args, f)
static const struct flag flags[] = {
    {'t', "nthreads", "N", INT, AT(threads), 1, 4096, "threads per process"},
    {'g', "ngpus", "N", INT, AT(per_thread), 1, 4096, "ranks per thread, driven in one group"},
    {0, "local", "N", INT, AT(local), 1, 4096, "start N processes here, without a launcher"},
    {'b', "minbytes", "SIZE", SIZE, AT(min_bytes), 0, 0, "first size (32M)"},
    {'e', "maxbytes", "SIZE", SIZE, AT(max_bytes), 0, 0, "last size (32M)"},
    {'i', "stepbytes", "SIZE", SIZE, AT(step_bytes), 0, 0, "increment between sizes (1M)"},
    {'f', "stepfactor", "N", SIZE, AT(factor), 0, 0, "factor between sizes, instead of -i"},
    {'n', "iters", "N", INT, AT(iters), 1, 100000000, "timed iterations (20)"},
    {'m', "agg_iters", "N", INT, AT(aggregate), 1, 100000, "operations in one group per iteration"},
    {'w', "warmup_iters", "N", INT, AT(warmup), 0, 100000000, "iterations before timing (1)"},
    {'N', "run_cycles", "N", INT, AT(cycles), 0, INT_MAX, "sweeps; 0: for ever (1)"},
    {'c', "check", "N", INT, AT(check), 0, INT_MAX, "checked iterations per size (1)"},
    {'C', "report_cputime", "0/1", INT, AT(cpu_time), 0, 1,
     "time of posting, not of completion (-y 0)"},
    {'d', "datatype", "TYPE", TYPE, AT(type), 0, 0, "float, half, int8 ... or all (float)"},
    {'o', "op", "OP", OP, AT(op), 0, 0, "sum, prod, min, max, avg, mulsum, band ... or all (sum)"},
    {'r', "root", "R", ROOT, AT(root), 0, 0, "root of rooted collectives, or all (0)"},
    {'a', "average", "0/1/2/3", INT, AT(average), 0, 3,
     "time of rank 0, mean, least, most over ranks (1)"},
    {'z', "blocking", "0/1/2/3", INT, AT(blocking), 0, 3,
     "1: wait and barrier after each operation; 2: wait; 3: wait and barrier after each iteration"},
    {'y', "stream_null", "0/1", INT, AT(stream_null), 0, 1,
     "0: on a host stream; 1: blocking calls (1)"},
    {'T', "timeout", "S", REAL, AT(timeout_s), 0, 0,
     "seconds an operation may take (CHOIR_TIMEOUT)"},
    {'R', "local_register", "0/1/2", INT, AT(reg), 0, 2,
     "register the buffers (1), make windows of them (2)"},
    {'S', "report_timestamps", "0/1", INT, AT(timestamps), 0, 1, "date on every line"},
    {'M', "memory", "0/1", MEMORY, AT(memory_report), 0, 1,
     "report memory held; or host|cuda: where the buffers lie (host)"},
    {'G', "cudagraph", "N", INT, AT(graphs), 0, 100000,
     "capture the iterations in a CUDA graph, launch it N times (0: no graph)"},
    {'u', "unalign", "N", INT, AT(unalign), 0, 65536, "elements by which buffers are misaligned"},
    {'K', "per_iter_skip", "N", INT, AT(skip), 0, INT_MAX,
     "leading iterations left out of the percentiles"},
    {'J', "output_file", "FILE", JSON, AT(json), 1, 0, "JSON; FILE.0 ... if it exists"},
    {0, "json", "FILE", JSON, AT(json), 0, 0, "JSON; overwrites"},
    {0, "vs", "PEER", TEXT, AT(vs), 0, 0,
     "alternate with mpi, the library this program was built with, or "
     "nccl[:default,symmetric,zero]"},
    {0, "rounds", "N", INT, AT(rounds), 1, 1000, "rounds of --vs (7)"},
    {0, "peak", NULL, BOOL, AT(peak), 0, 0,
     "measure copying first (GPUs: to the next rank's); print speed as % of it"},
    {0, "same-buffer", NULL, BOOL, AT(same_buffer), 0, 0,
     "do not move through the buffers by iteration"},
    {0, "choir-memory", NULL, BOOL, AT(choir_memory), 0, 0, "buffers from choir_mem_alloc"},
    {0, "quiet", NULL, BOOL, AT(quiet), 0, 0, "no progress line on a terminal"},
    {'I', "per_iter_timing", "0/1", INT, AT(samples), 0, 1,
     "every iteration's time into the JSON; percentiles, of the slowest rank, are always shown"},
    {'p', "parallel_init", "0/1", IGNORED, 0, 0, 0,
     "threads always create their ranks in parallel"},
    {'x', "cta_policy", "N", IGNORED, 0, 0, 0,
     "Choir has no policies; --vs nccl runs NCCL's modes"},
    {'D', "device_implementation", "N", IGNORED, 0, 0, 0, "there are no calls from kernels"},
    {'V', "device_cta_count", "N", IGNORED, 0, 0, 0, "there are no calls from kernels"},
    {'h', "help", NULL, HELP, 0, 0, 0, "this text"},
};

bool perf_size_parse(const char *text, uint64_t *bytes)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || !(v >= 0) || v > 1e18)
        return false;
    static const char units[] = "kmgt";
    if (*end) {
        const char *u = strchr(units, *end | 0x20);
        if (!u || end[1])
            return false;
        for (ptrdiff_t i = 0; i <= u - units; i++)
            v *= 1024;
    }
    if (v > 9e18)
        return false;
    *bytes = (uint64_t)v;
    return true;
}

struct letter {
    char text[8];
};
static struct letter letter(const struct flag *f) /* " (-b)", or nothing */
{
    struct letter l = {""};
    if (f->letter)
        snprintf(l.text, sizeof(l.text), " (-%c)", f->letter);
    return l;
}

static bool parse_int(const struct flag *f, const char *text, int *out)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 0);
    if (errno || end == text || *end || v < f->min || v > f->max) {
        fprintf(stderr, "--%s%s is \"%s\": a number from %ld to %ld is needed\n", f->name,
                letter(f).text, text, f->min, f->max);
        return false;
    }
    *out = (int)v;
    return true;
}

static bool parse_memory(const struct flag *f, const char *text, struct perf_args *a)
{
    bool cuda = !strcmp(text, "cuda");
    if (!cuda && strcmp(text, "host"))
        return parse_int(f, text, &a->memory_report);
    a->cuda = cuda;
    return true;
}

static bool parse_named(const struct flag *f, const char *text, uint32_t *out)
{
    bool type = f->kind == TYPE;
    if (!strcmp(text, "all")) {
        *out = PERF_ALL;
        return true;
    }
    if (type ? perf_type_parse(text, out) : perf_op_parse(text, out))
        return true;
    fprintf(stderr, "--%s%s is \"%s\": not one of", f->name, letter(f).text, text);
    for (size_t i = 0; i < (type ? perf_type_count : perf_op_count); i++)
        fprintf(stderr, " %s", type ? perf_type_name(perf_types[i]) : perf_op_name(perf_ops[i]));
    fprintf(stderr, " all\n");
    return false;
}

static bool parse_real(const struct flag *f, const char *text, double *out)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= 0) || v > 1e9) {
        fprintf(stderr, "--%s%s is \"%s\": a number of seconds is needed\n", f->name,
                letter(f).text, text);
        return false;
    }
    *out = v;
    return true;
}

static bool parse_flag(struct perf_args *a, const struct flag *f, const char *text)
{
    static const struct flag root = {'r', "root", "R", INT, 0, 0, INT_MAX, ""};
    void *field = (char *)a + f->field;
    switch (f->kind) {
    case INT:
        return parse_int(f, text, field);
    case SIZE:
        if (perf_size_parse(text, field))
            return true;
        fprintf(stderr, "--%s%s is \"%s\": a size such as 8, 64K, 1.5M or 2G is needed\n", f->name,
                letter(f).text, text);
        return false;
    case REAL:
        return parse_real(f, text, field);
    case TYPE:
    case OP:
        return parse_named(f, text, field);
    case ROOT:
        a->root = -1;
        return !strcmp(text, "all") || !strcmp(text, "-1") || parse_int(&root, text, &a->root);
    case MEMORY:
        return parse_memory(f, text, a);
    case JSON:
        a->json_keep = f->min;
        a->json = text;
        return true;
    case TEXT:
        *(const char **)field = text;
        return true;
    case BOOL:
        *(bool *)field = true;
        return true;
    case IGNORED:
        fprintf(stderr, "# --%s%s has no effect: %s\n", f->name, letter(f).text, f->help);
        return true;
    case HELP:
        break;
    }
    return false;
}

static void help(const char *program)
{
    printf("usage: %s [flags]\n", program);
    for (size_t i = 0; i < base_count(flags); i++) {
        const struct flag *f = &flags[i];
        char left[64];
        snprintf(left, sizeof(left), "%c%c%s --%s%s%s", f->letter ? '-' : ' ',
                 f->letter ? f->letter : ' ', f->letter ? "," : " ", f->name, f->value ? " " : "",
                 f->value ? f->value : "");
        printf("  %-34s %s%s\n", left, f->kind == IGNORED ? "no effect: " : "", f->help);
    }
    printf("Ranks come from --local, -t and -g, or from a launcher: mpirun, srun, torchrun, "
           "choir-run.\n");
}

static bool validate_peer(struct perf_args *a)
{
    bool mpi = a->vs && !strcmp(a->vs, "mpi");
    bool nccl = a->vs && !strncmp(a->vs, "nccl", 4) && (!a->vs[4] || a->vs[4] == ':');
    const char *wrong = NULL;
    if (a->vs && !mpi && !nccl)
        wrong = "only mpi and nccl are known";
    else if (mpi && !perf_peer_mpi())
        wrong = "this program was built without MPI; `make perf-mpi` builds one, with _mpi in its "
                "name";
    else if (mpi && (a->threads > 1 || a->per_thread > 1 || a->local || a->cuda))
        wrong =
            "ranks come from mpirun, one a process, on host memory: no -t, -g, --local, --memory "
            "cuda";
    else if (nccl && !a->cuda)
        wrong = "NCCL needs --memory cuda";
    if (wrong)
        fprintf(stderr, "--vs %s: %s\n", a->vs, wrong);
    a->peak |= nccl; /* what a time is worth shows beside what the link could do */
    return !wrong;
}

/* What belongs to the one kind of memory only. */
static bool validate_memory(struct perf_args *a)
{
    const char *wrong = NULL;
    if (a->cuda && a->choir_memory)
        wrong = "--choir-memory";
    else if (a->cuda && !a->stream_null)
        wrong = "--stream_null (-y) 0";
    if (wrong)
        fprintf(stderr, "%s is of host memory: not with --memory cuda\n", wrong);
    if (a->graphs && !a->cuda) {
        fprintf(stderr, "# --cudagraph (-G) has no effect: graphs exist on CUDA memory only\n");
        a->graphs = 0;
    }
    return !wrong;
}

static int validate(struct perf_args *a)
{
    if (a->min_bytes > a->max_bytes) {
        fprintf(stderr, "--minbytes (-b) %llu is more than --maxbytes (-e) %llu\n",
                (unsigned long long)a->min_bytes, (unsigned long long)a->max_bytes);
        return 3;
    }
    if (a->factor <= 1 && a->step_bytes == 0 && a->min_bytes != a->max_bytes) {
        fprintf(stderr, "--stepbytes (-i) 0 would never reach --maxbytes (-e)\n");
        return 3;
    }
    if (!validate_peer(a) || !validate_memory(a))
        return 3;
    if ((size_t)a->skip >= perf_samples(a)) {
        fprintf(stderr, "--per_iter_skip (-K) %d leaves none of the %zu iterations\n", a->skip,
                perf_samples(a));
        return 3;
    }
    return 0;
}

int perf_args_parse(struct perf_args *args, int argc, char **argv)
{
    *args = (struct perf_args){.program = argv[0],
                               .argc = argc,
                               .argv = argv,
                               .threads = 1,
                               .per_thread = 1,
                               .min_bytes = 32u << 20,
                               .max_bytes = 32u << 20,
                               .step_bytes = 1u << 20,
                               .iters = 20,
                               .warmup = 1,
                               .aggregate = 1,
                               .cycles = 1,
                               .check = 1,
                               .type = CHOIR_FLOAT32,
                               .op = CHOIR_SUM,
                               .average = 1,
                               .stream_null = 1,
                               .rounds = 7};
    char letters[2 * base_count(flags) + 1], *l = letters;
    struct option longs[base_count(flags) + 1];
    memset(longs, 0, sizeof(longs));
    for (size_t i = 0; i < base_count(flags); i++) {
        longs[i] = (struct option){flags[i].name, flags[i].value ? required_argument : no_argument,
                                   NULL, (int)(256 + i)};
        if (flags[i].letter) {
            *l++ = flags[i].letter;
            if (flags[i].value)
                *l++ = ':';
        }
    }
    *l = 0;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, letters, longs, NULL)) != -1;) {
        size_t i = 0;
        while (i < base_count(flags) && !(c >= 256 ? (size_t)(c - 256) == i : flags[i].letter == c))
            i++;
        if (i == base_count(flags)) {
            fprintf(stderr, "-h lists the flags\n"); /* getopt has said which is wrong */
            return 3;
        }
        if (flags[i].kind == HELP) {
            help(argv[0]);
            return 1;
        }
        if (!parse_flag(args, &flags[i], optarg))
            return 3;
    }
    if (optind < argc) {
        fprintf(stderr, "\"%s\": not a flag; -h lists them\n", argv[optind]);
        return 3;
    }
    return validate(args);
}
