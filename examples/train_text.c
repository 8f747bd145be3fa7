/* SPDX-License-Identifier: Apache-2.0 */
/*
 * train_text.c: data-parallel training of a next-character model on real text, by the public API alone.
 *
 * Embeddings of the last K characters, two hidden layers with tanh, softmax, Adam; float32. The global batch is cut into
 * blocks of samples that depend on the step only; ranks take shares of the blocks and Choir sums the gradients. Blocks are
 * added in float64, so that any number of ranks follows the same loss curve (--curve writes it, --check compares).
 */
#include "choir.h"
#include <dirent.h>
#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 16    /* samples that one pass of the model takes */
#define STRIPE 1024 /* bytes of text; every tenth stripe is held out */
#define TEXT_MOST (64u << 20)
#define NEAR 1e-5 /* --check: relative difference of losses */

static struct {
    int local, steps, batch, context, embed, hidden, report, sample;
    float rate;
    uint64_t seed;
    const char *curve, *check, *text;
} args = {0, 1000, 256, 16, 16, 192, 50, 400, 4e-3f, 1, NULL, NULL, NULL};

/* The text, as numbers of its distinct bytes. */
static struct {
    unsigned char *id;
    size_t bytes;
    int symbols;
    unsigned char byte_of[256];
} text;

enum { EMBED, W1, B1, W2, B2, W3, B3, PARTS };
/* part p of all parameters lies at [at[p], at[p+1]) */
static struct {
    size_t at[PARTS + 1];
    float *value, *grad, *mean, *square; /* grad: of one block */
    double *sum;                         /* of all blocks, then of all ranks; the loss behind it */
    float *w1t, *w2t, *w3t;              /* transposed weights */
} model;

static struct {
    float *x, *h1, *h2, *out, *dx, *d1, *d2;
} pass;

static choir_comm *comm;
static int rank, size;

static void fail(const char *what)
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

static void *zeroed(size_t count, size_t bytes)
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

static uint64_t mix(uint64_t a, uint64_t b) /* splitmix64's finalizer */
{
    uint64_t x = args.seed + a * 0x9e3779b97f4a7c15u + b * 0xd1b54a32d192ed03u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* --- text: read by rank 0, given to all ------------------------------------------------------------ */
static void append_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail("the text cannot be read");
    text.bytes += fread(text.id + text.bytes, 1, TEXT_MOST - text.bytes, f);
    fclose(f);
}

static int is_text(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && (!strcmp(dot, ".c") || !strcmp(dot, ".h") || !strcmp(dot, ".md"));
}

/* Directories in the order of their names, so that every run sees the same text. */
static void append_tree(const char *path, int depth)
{
    struct dirent **list;
    int n = depth < 8 ? scandir(path, &list, NULL, alphasort) : 0;
    for (int i = 0; i < n; i++) {
        char child[4096];
        struct stat st;
        const char *name = list[i]->d_name;
        snprintf(child, sizeof(child), "%s/%s", path, name);
        if (name[0] != '.' && strncmp(name, "build", 5) && !stat(child, &st)) {
            if (S_ISDIR(st.st_mode))
                append_tree(child, depth + 1);
            else if (is_text(name))
                append_file(child);
        }
        free(list[i]);
    }
    if (n > 0)
        free(list);
}

/* The repository: two levels above the executable, or the working directory. */
static void append_repository(void)
{
    char path[4096], probe[4160];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = 0;
    for (int up = 0; up < 3 && strrchr(path, '/'); up++)
        *strrchr(path, '/') = 0;
    snprintf(probe, sizeof(probe), "%s/include/choir.h", path);
    append_tree(n > 0 && !access(probe, R_OK) ? path : ".", 0);
}

/* A context full of blanks says nothing: four spaces become a tab, a long run of them one space. */
static void fold_blanks(void)
{
    size_t to = 0;
    for (size_t i = 0, run; i < text.bytes; to++) {
        for (run = 0; i + run < text.bytes && text.id[i + run] == ' ';)
            run++;
        text.id[to] = run >= 4 && run < 24 ? '\t' : text.id[i];
        i += run >= 24 ? run : run >= 4 ? 4 : 1;
    }
    text.bytes = to;
}

static void load_text(void)
{
    int seen[256] = {0};
    uint64_t bytes;
    text.id = zeroed(TEXT_MOST, 1);
    if (rank == 0 && args.text)
        append_file(args.text);
    else if (rank == 0)
        append_repository();
    bytes = text.bytes;
    check(choir_broadcast(comm, &bytes, &bytes, 1, CHOIR_UINT64, 0, NULL), "choir_broadcast");
    check(choir_broadcast(comm, text.id, text.id, bytes, CHOIR_UINT8, 0, NULL), "choir_broadcast");
    text.bytes = bytes;
    fold_blanks();
    if (text.bytes < 20 * STRIPE)
        fail("the text is too short, 20 KiB at least; "
             "the repository was looked for above the program and in the working directory; --text "
             "FILE "
             "names another");
    for (size_t i = 0; i < text.bytes; i++)
        seen[text.id[i]] = 1;
    for (int b = 0; b < 256; b++)
        if (seen[b]) {
            text.byte_of[text.symbols] = (unsigned char)b;
            seen[b] = text.symbols++;
        }
    for (size_t i = 0; i < text.bytes; i++)
        text.id[i] = (unsigned char)seen[text.id[i]];
}

/* Where sample i of a step predicts: never in another set's stripe, never before the first context. */
static size_t position(uint64_t step, uint64_t i, bool held_out)
{
    size_t groups = text.bytes / (10 * STRIPE);
    uint64_t h = mix(step, i);
    size_t stripe = held_out ? 9 : h % 9, at = (h >> 8) % STRIPE;
    size_t p = ((h >> 24) % groups * 10 + stripe) * STRIPE + at;
    return p < (size_t)args.context ? (size_t)args.context : p;
}

/* --- model ------------------------------------------------------------------------------------------- */
static void create_model(void)
{
    size_t v = (size_t)text.symbols, e = (size_t)args.embed, k = (size_t)args.context,
           h = (size_t)args.hidden;
    size_t parts[PARTS] = {v * e, k * e * h, h, h * h, h, h * v, v},
           fan[PARTS] = {1, k * e, 0, h, 0, h, 0};
    for (int p = 0; p < PARTS; p++)
        model.at[p + 1] = model.at[p] + parts[p];
    size_t all = model.at[PARTS];
    model.value = zeroed(all, sizeof(float));
    model.grad = zeroed(all, sizeof(float));
    model.mean = zeroed(all, sizeof(float));
    model.square = zeroed(all, sizeof(float));
    model.sum = zeroed(all + 1, sizeof(double));
    model.w1t = zeroed(parts[W1], sizeof(float));
    model.w2t = zeroed(parts[W2], sizeof(float));
    model.w3t = zeroed(parts[W3], sizeof(float));
    for (int p = 0; p < PARTS; p++)
        for (size_t i = model.at[p]; fan[p] && i < model.at[p + 1]; i++)
            model.value[i] =
                ((float)(mix(77, i) >> 40) / (float)(1 << 23) - 1) / sqrtf((float)fan[p]);
    pass.x = zeroed(BLOCK * k * e, sizeof(float));
    pass.dx = zeroed(BLOCK * k * e, sizeof(float));
    pass.h1 = zeroed(BLOCK * h, sizeof(float));
    pass.d1 = zeroed(BLOCK * h, sizeof(float));
    pass.h2 = zeroed(BLOCK * h, sizeof(float));
    pass.d2 = zeroed(BLOCK * h, sizeof(float));
    pass.out = zeroed(BLOCK * v, sizeof(float));
}

static float *part(int p)
{
    return model.value + model.at[p];
}

/* c[rows][cols] += a * b[inner][cols]; a(i, k) = a[i*down + k*right], so that a may be used transposed. Four rows of b at a
 * time, along which the compiler vectorises. */
static void multiply(float *restrict c, const float *restrict a, size_t down, size_t right,
                     const float *restrict b, size_t rows, size_t inner, size_t cols)
{
    for (size_t i = 0; i < rows; i++) {
        float *restrict row = c + i * cols;
        size_t k = 0;
        for (; k + 4 <= inner; k += 4) {
            const float *restrict b0 = b + k * cols, *restrict b1 = b0 + cols,
                                  *restrict b2 = b1 + cols, *restrict b3 = b2 + cols;
            const float *ai = a + i * down + k * right;
            float a0 = ai[0], a1 = ai[right], a2 = ai[2 * right], a3 = ai[3 * right];
            for (size_t j = 0; j < cols; j++)
                row[j] += (a0 * b0[j] + a1 * b1[j]) + (a2 * b2[j] + a3 * b3[j]);
        }
        for (; k < inner; k++)
            for (size_t j = 0; j < cols; j++)
                row[j] += a[i * down + k * right] * b[k * cols + j];
    }
}

static void transpose(float *to, const float *from, size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            to[j * rows + i] = from[i * cols + j];
}

static void layer(float *out, const float *in, const float *w, const float *bias, size_t n,
                  size_t from, size_t to, bool squash)
{
    for (size_t s = 0; s < n; s++)
        memcpy(out + s * to, bias, to * sizeof(*out));
    multiply(out, in, from, 1, w, n, from, to);
    for (size_t i = 0; squash && i < n * to; i++)
        out[i] = tanhf(out[i]);
}

/* n contexts that end before the given positions of ids; pass.out becomes the logits. */
static void forward(const unsigned char *ids, const size_t *at, size_t n)
{
    size_t v = (size_t)text.symbols, e = (size_t)args.embed, k = (size_t)args.context,
           h = (size_t)args.hidden;
    for (size_t s = 0; s < n; s++)
        for (size_t c = 0; c < k; c++)
            memcpy(pass.x + (s * k + c) * e, part(EMBED) + ids[at[s] - k + c] * e,
                   e * sizeof(float));
    layer(pass.h1, pass.x, part(W1), part(B1), n, k * e, h, true);
    layer(pass.h2, pass.h1, part(W2), part(B2), n, h, h, true);
    layer(pass.out, pass.h2, part(W3), part(B3), n, h, v, false);
}

/* Logits become the gradient of the loss by them; returns the summed loss. */
static double softmax_loss(const size_t *at, size_t n)
{
    size_t v = (size_t)text.symbols;
    double loss = 0;
    for (size_t s = 0; s < n; s++) {
        float *o = pass.out + s * v, most = o[0], sum = 0;
        for (size_t j = 1; j < v; j++)
            most = o[j] > most ? o[j] : most;
        for (size_t j = 0; j < v; j++)
            sum += o[j] = expf(o[j] - most);
        size_t want = text.id[at[s]];
        loss -= log((double)o[want] / (double)sum);
        for (size_t j = 0; j < v; j++)
            o[j] /= sum;
        o[want] -= 1;
    }
    return loss;
}

/* Gradients of one layer's weights and bias; then of its inputs, which had passed through tanh if `in` is given. */
static void layer_back(int w, const float *in, const float *d, const float *wt, float *din,
                       size_t n, size_t from, size_t to, bool squashed)
{
    float *gw = model.grad + model.at[w], *gb = model.grad + model.at[w + 1];
    multiply(gw, in, 1, from, d, from, n, to);
    for (size_t s = 0; s < n; s++)
        for (size_t j = 0; j < to; j++)
            gb[j] += d[s * to + j];
    memset(din, 0, n * from * sizeof(*din));
    multiply(din, d, to, 1, wt, n, to, from);
    for (size_t i = 0; squashed && i < n * from; i++)
        din[i] *= 1 - in[i] * in[i];
}

static void backward(const size_t *at, size_t n)
{
    size_t v = (size_t)text.symbols, e = (size_t)args.embed, k = (size_t)args.context,
           h = (size_t)args.hidden;
    memset(model.grad, 0, model.at[PARTS] * sizeof(float));
    layer_back(W3, pass.h2, pass.out, model.w3t, pass.d2, n, h, v, true);
    layer_back(W2, pass.h1, pass.d2, model.w2t, pass.d1, n, h, h, true);
    layer_back(W1, pass.x, pass.d1, model.w1t, pass.dx, n, k * e, h, false);
    for (size_t s = 0; s < n; s++)
        for (size_t c = 0; c < k; c++) {
            float *g = model.grad + text.id[at[s] - k + c] * e, *d = pass.dx + (s * k + c) * e;
            for (size_t j = 0; j < e; j++)
                g[j] += d[j];
        }
}

static void adam(int step)
{
    const float b1 = 0.9f, b2 = 0.999f, tiny = 1e-8f;
    float c1 = 1 - powf(b1, (float)step), c2 = 1 - powf(b2, (float)step);
    for (size_t i = 0; i < model.at[PARTS]; i++) {
        float g = (float)(model.sum[i] / args.batch);
        model.mean[i] = b1 * model.mean[i] + (1 - b1) * g;
        model.square[i] = b2 * model.square[i] + (1 - b2) * g * g;
        model.value[i] -= args.rate * (model.mean[i] / c1) / (sqrtf(model.square[i] / c2) + tiny);
    }
}

/* --- training ---------------------------------------------------------------------------------------------- */
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
    size_t all = train ? model.at[PARTS] : 0, h = (size_t)args.hidden;
    int first, last;
    share(samples, &first, &last);
    if (train) {
        transpose(model.w1t, part(W1), (size_t)(args.context * args.embed), h);
        transpose(model.w2t, part(W2), h, h);
        transpose(model.w3t, part(W3), h, (size_t)text.symbols);
    }
    memset(model.sum, 0, (all + 1) * sizeof(double));
    for (int i = first; i < last; i += BLOCK) {
        size_t at[BLOCK], n = 0;
        for (; n < BLOCK && i + (int)n < last; n++)
            at[n] = position(step, (uint64_t)i + n, !train);
        forward(text.id, at, n);
        model.sum[all] += softmax_loss(at, n);
        if (!train)
            continue;
        backward(at, n);
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
        adam(step);
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

static void print_sample(void)
{
    size_t k = (size_t)args.context, v = (size_t)text.symbols, begin = position(1, 1, true);
    unsigned char *ids = zeroed(k + (size_t)args.sample, 1);
    memcpy(ids, text.id + begin - k, k);
    printf("---- a sample, after \"");
    for (size_t i = 0; i < k; i++)
        print_byte(text.byte_of[ids[i]]);
    printf("\"\n");
    for (size_t at = k; at < k + (size_t)args.sample; at++) {
        forward(ids, &at, 1);
        double sum = 0, most = (double)pass.out[0],
               at_random = (double)(mix(99, at) >> 11) * 0x1p-53;
        for (size_t j = 1; j < v; j++)
            most = fmax(most, (double)pass.out[j]);
        for (size_t j = 0; j < v; j++)
            sum += exp(((double)pass.out[j] - most) / 0.7);
        size_t pick = 0;
        for (double left = at_random * sum; pick + 1 < v; pick++)
            if ((left -= exp(((double)pass.out[pick] - most) / 0.7)) < 0)
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

/* --- life ------------------------------------------------------------------------------------------------------ */
static void parse(int argc, char **argv)
{
    static const struct option longs[] = {
        {"local", 1, 0, 'l'},  {"steps", 1, 0, 's'},  {"batch", 1, 0, 'b'}, {"context", 1, 0, 'k'},
        {"embed", 1, 0, 'e'},  {"hidden", 1, 0, 'h'}, {"rate", 1, 0, 'r'},  {"seed", 1, 0, 'S'},
        {"report", 1, 0, 'R'}, {"sample", 1, 0, 'p'}, {"curve", 1, 0, 'c'}, {"check", 1, 0, 'C'},
        {"text", 1, 0, 't'},   {NULL, 0, 0, 0}};
    int *const numbers[256] = {
        ['l'] = &args.local, ['s'] = &args.steps,  ['b'] = &args.batch,  ['k'] = &args.context,
        ['e'] = &args.embed, ['h'] = &args.hidden, ['R'] = &args.report, ['p'] = &args.sample};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        if (c == '?' || (numbers[c] && (*numbers[c] = atoi(optarg)) < (c == 'p' ? 0 : 1)))
            fail("flags: --local N --steps N --batch N --context N --embed N --hidden N --rate X "
                 "--seed N "
                 "--report N --sample N --text FILE --curve FILE --check FILE");
        if (c == 'r')
            args.rate = strtof(optarg, NULL);
        if (c == 'S')
            args.seed = strtoull(optarg, NULL, 0);
        if (c == 'c')
            args.curve = optarg;
        if (c == 'C')
            args.check = optarg;
        if (c == 't')
            args.text = optarg;
    }
    if (optind < argc || args.context >= STRIPE)
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
    load_text();
    create_model();
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
