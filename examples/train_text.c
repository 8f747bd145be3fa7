/* SPDX-License-Identifier: Apache-2.0 */
/*
 * train_text.c: data-parallel training of a next-character model on real text, by the public API alone. Here is what ranks
 * do together; train_text/text.c reads the text, train_text/model.c is the model.
 *
 * The global batch is cut into blocks of samples that depend on the step only; ranks take shares of the blocks and Choir sums
 * the gradients. Blocks are added in float64, so that any number of ranks follows the same loss curve (--curve writes it, --check
 * compares).
 */
#include "choir.h"
#include "examples/train_text/train_text.h"
#include <ctype.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NEAR 1e-5 /* --check: relative difference of losses */

struct args args = {0, 1000, 256, 16, 16, 192, 50, 400, 4e-3f, 1, NULL, NULL, NULL};
static choir_comm *comm;
static int rank, size;

_Noreturn void fail(const char *what)
{
    fprintf(stderr, "train_text: %s\n", what);
    exit(2);
}

static void check(enum choir_status status, const char *call)
{
    if (status == CHOIR_OK)
        return;
    struct choir_error e = {.bytes = sizeof(e)};
    choir_comm_last_error(comm, &e);
    fprintf(stderr, "train_text: %s: %s: %s (%s)\n", call, choir_status_name(status), e.text,
            e.remedy);
    exit(3);
}

void *zeroed(size_t count, size_t bytes)
{
    void *p = calloc(count, bytes);
    if (!p)
        fail("out of memory");
    return p;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

uint64_t mix(uint64_t a, uint64_t b) /* splitmix64's finalizer */
{
    uint64_t x = args.seed + a * 0x9e3779b97f4a7c15u + b * 0xd1b54a32d192ed03u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* --- together ---------------------------------------------------------------------------------------- */
/* Rank 0 reads the text; all get it. */
static void share_text(void)
{
    uint64_t bytes = 0;
    if (rank == 0)
        text_read();
    bytes = text.bytes;
    check(choir_broadcast(comm, &bytes, &bytes, 1, CHOIR_UINT64, 0, NULL), "choir_broadcast");
    if (rank != 0)
        text.id = zeroed(bytes + 1, 1);
    text.bytes = bytes;
    check(choir_broadcast(comm, text.id, text.id, bytes, CHOIR_UINT8, 0, NULL), "choir_broadcast");
    text_number();
}

/* This rank's share of `samples`, in whole blocks. */
static void share(int samples, int *first, int *last)
{
    int64_t blocks = (samples + BLOCK - 1) / BLOCK;
    *first = (int)(blocks * rank / size) * BLOCK;
    *last = (int)(blocks * (rank + 1) / size) * BLOCK;
    *last = *last < samples ? *last : samples;
}

/* Sum over all ranks of what `samples` samples of a step give: the mean loss, and gradients if training. */
static double run_step(uint64_t step, int samples, bool train)
{
    size_t all = train ? model.at[PARTS] : 0;
    int first, last;
    share(samples, &first, &last);
    if (train)
        model_new_step();
    memset(model.sum, 0, (all + 1) * sizeof(double));
    for (int i = first; i < last; i += BLOCK) {
        size_t at[BLOCK], n = 0;
        for (; n < BLOCK && i + (int)n < last; n++)
            at[n] = text_position(step, (uint64_t)i + n, !train);
        model_forward(text.id, at, n);
        model.sum[all] += model_loss(at, n);
        if (!train)
            continue;
        model_backward(at, n);
        for (size_t p = 0; p < all; p++)
            model.sum[p] += (double)model.grad[p];
    }
    check(choir_all_reduce(comm, model.sum, model.sum, all + 1, CHOIR_FLOAT64, CHOIR_SUM, NULL),
          "choir_all_reduce");
    return model.sum[all] / samples;
}

static void train(double *curve)
{
    double start = seconds(), trained = 0;
    for (int step = 1; step <= args.steps; step++) {
        double begin = seconds();
        curve[step - 1] = run_step((uint64_t)step, args.batch, true);
        model_adam(step);
        trained += seconds() - begin;
        if (step != 1 && step % args.report && step != args.steps)
            continue;
        double held_out = run_step(1u << 30, 1024, false);
        if (rank == 0)
            printf("step %5d  loss %.4f  held-out %.4f  %8.0f tokens/s\n", step, curve[step - 1],
                   held_out, (double)step * args.batch / trained);
    }
    if (rank == 0)
        printf("%d ranks, %zu parameters, %d steps in %.1f s\n", size, model.at[PARTS], args.steps,
               seconds() - start);
}

static void print_byte(unsigned char byte)
{
    if (byte == '\t')
        fputs("    ", stdout);
    else
        putchar(byte);
}

/* A held-out place whose context is no ruler or table. */
static size_t telling_position(void)
{
    for (uint64_t i = 1;; i++) {
        size_t at = text_position(1, i, true), alphas = 0;
        for (int c = 0; c < args.context; c++)
            alphas += isalpha(text.byte_of[text.id[at - 1 - (size_t)c]]) != 0;
        if (2 * alphas > (size_t)args.context || i == 1000)
            return at;
    }
}

static void print_sample(void)
{
    size_t k = (size_t)args.context, v = (size_t)text.symbols, begin = telling_position();
    unsigned char *ids = zeroed(k + (size_t)args.sample, 1);
    memcpy(ids, text.id + begin - k, k);
    printf("---- a sample, after \"");
    for (size_t i = 0; i < k; i++)
        print_byte(text.byte_of[ids[i]]);
    printf("\"\n");
    for (size_t at = k; at < k + (size_t)args.sample; at++) {
        const float *out = model_forward(ids, &at, 1);
        double sum = 0, most = (double)out[0], at_random = (double)(mix(99, at) >> 11) * 0x1p-53;
        for (size_t j = 1; j < v; j++)
            most = fmax(most, (double)out[j]);
        for (size_t j = 0; j < v; j++)
            sum += exp(((double)out[j] - most) / 0.7);
        size_t pick = 0;
        for (double left = at_random * sum; pick + 1 < v; pick++)
            if ((left -= exp(((double)out[pick] - most) / 0.7)) < 0)
                break;
        ids[at] = (unsigned char)pick;
        print_byte(text.byte_of[pick]);
    }
    printf("\n----\n");
    free(ids);
}

static void write_curve(const double *curve)
{
    FILE *f = fopen(args.curve, "w");
    if (!f)
        fail("--curve: the file cannot be written");
    for (int i = 0; i < args.steps; i++)
        fprintf(f, "%d %.9g\n", i + 1, curve[i]);
    if (fclose(f))
        fail("--curve: the file cannot be written");
}

/* 0 if every loss is as near to the file's as NEAR. */
static int check_curve(const double *curve)
{
    FILE *f = fopen(args.check, "r");
    int step, seen = 0, worst_step = 0;
    double want, worst = 0;
    if (!f)
        fail("--check: the file cannot be read");
    while (fscanf(f, "%d %lf", &step, &want) == 2 && step == seen + 1 && step <= args.steps) {
        double off = fabs(curve[seen++] - want) / fabs(want);
        if (!(off <= worst))
            worst = off, worst_step = step;
    }
    fclose(f);
    bool good = seen == args.steps && worst <= NEAR;
    printf("curve of %s: %d of %d steps, largest relative difference %.2g (step %d): %s\n",
           args.check, seen, args.steps, worst, worst_step, good ? "followed" : "NOT followed");
    return !good;
}

static const char usage[] =
    "usage: train_text [flags]         trains a next-character model, gradients summed by Choir\n"
    "  --local N       start N ranks on this host; else a launcher does: mpirun, choir-run, ...\n"
    "  --text FILE     the text (the sources and documents of the repository)\n"
    "  --steps N       (1000)    --batch N    samples a step, over all ranks (256)\n"
    "  --context N     characters the model sees (16)\n"
    "  --embed N       (16)      --hidden N   (192)      --rate X   of Adam (0.004)\n"
    "  --seed N        (1)       --report N   steps between lines (50)\n"
    "  --sample N      characters of sample to print at the end (400)\n"
    "  --curve FILE    write the loss of every step\n"
    "  --check FILE    compare with such a file; exit status 1 if a loss is off by more than "
    "1e-5\n";

static void parse(int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", 0, 0, 'H'},    {"local", 1, 0, 'l'},  {"steps", 1, 0, 's'},  {"batch", 1, 0, 'b'},
        {"context", 1, 0, 'k'}, {"embed", 1, 0, 'e'},  {"hidden", 1, 0, 'h'}, {"rate", 1, 0, 'r'},
        {"seed", 1, 0, 'S'},    {"report", 1, 0, 'R'}, {"sample", 1, 0, 'p'}, {"curve", 1, 0, 'c'},
        {"check", 1, 0, 'C'},   {"text", 1, 0, 't'},   {NULL, 0, 0, 0}};
    int *const numbers[256] = {
        ['l'] = &args.local, ['s'] = &args.steps,  ['b'] = &args.batch,  ['k'] = &args.context,
        ['e'] = &args.embed, ['h'] = &args.hidden, ['R'] = &args.report, ['p'] = &args.sample};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        if (c == 'H') {
            fputs(usage, stdout);
            exit(0);
        }
        if (c == '?' || (numbers[c] && (*numbers[c] = atoi(optarg)) < (c == 'p' ? 0 : 1)))
            fail("see --help for the flags");
        if (c == 'r')
            args.rate = strtof(optarg, NULL);
        if (!(args.rate > 0))
            fail("--rate: a number above 0 is needed");
        if (c == 'S')
            args.seed = strtoull(optarg, NULL, 0);
        if (c == 'c')
            args.curve = optarg;
        if (c == 'C')
            args.check = optarg;
        if (c == 't')
            args.text = optarg;
    }
    if (optind < argc || args.context >= 1024)
        fail("a stray argument, or a context of a kilobyte");
}

/* --local N: choir-run, from beside this program, starts it N times. */
static void start_local(char **argv)
{
    char program[4096], launcher[4200], number[16], *line[64] = {launcher, "-n", number, program};
    ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
    program[n > 0 ? n : 0] = 0;
    int name = (int)(strrchr(program, '/') ? strrchr(program, '/') - program : 0);
    snprintf(launcher, sizeof(launcher), "%.*s/choir-run", name, program);
    snprintf(number, sizeof(number), "%d", args.local);
    for (int i = 1; argv[i] && i + 4 < 64; i++)
        line[i + 3] = argv[i];
    execv(launcher, line);
    fail("--local: choir-run is not beside this program");
}

int main(int argc, char **argv)
{
    int bad = 0;
    parse(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (args.local && !getenv("CHOIR_RANK"))
        start_local(argv);
    check(choir_comm_create_auto(NULL, &comm), "choir_comm_create_auto");
    choir_comm_rank(comm, &rank);
    choir_comm_size(comm, &size);
    share_text();
    model_create();
    if (rank == 0)
        printf("%zu characters of text, %d symbols; batch %d\n", text.bytes, text.symbols,
               args.batch);
    double *curve = zeroed((size_t)args.steps, sizeof(*curve));
    train(curve);
    if (rank == 0 && args.sample)
        print_sample();
    if (rank == 0 && args.curve)
        write_curve(curve);
    if (rank == 0 && args.check)
        bad = check_curve(curve);
    free(curve);
    check(choir_comm_destroy(comm), "choir_comm_destroy");
    return bad;
}
