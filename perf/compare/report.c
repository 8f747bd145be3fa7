/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.c: what the rounds of perf/compare say. Reads raw CSV, writes Markdown, decides.
 *
 * A cell is slower where the median over rounds of (subject's time / best peer's time in that round) is over 1.05 and the
 * inter-quartile ranges of the two do not overlap. The best peer has the lowest median among those whose results were right.
 * Exit status: 0, 1 some cell is slower, 3 the subject's data is wrong or missing somewhere, 2 bad input.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RATIO_MOST 1.05
#define ROUNDS_MOST 256
#define PEERS_MOST 16
#define LISTED 50 /* wrong or missing cells */
enum { NAME = 32 };

struct sample {
    char transport[NAME], collective[NAME], place[8], peer[NAME];
    int ranks, round;
    unsigned long long bytes;
    double us, wrong;
};
struct series { /* of one peer in one cell */
    const char *peer;
    int rounds, round[ROUNDS_MOST];
    double us[ROUNDS_MOST], low, middle, high; /* quartiles */
    bool wrong;
};
struct cell {
    const struct sample *at; /* names the cell */
    struct series *subject, *best;
    double ratio; /* NaN: not comparable */
    bool slower;
    int peers;
    struct series series[PEERS_MOST];
};

static struct sample *samples;
static size_t sample_count;
static struct cell *cells;
static size_t cell_count;
static const char *subject = "choir";

static void fail(const char *what, const char *name)
{
    fprintf(stderr, "report: %s: %s\n", name, what);
    exit(2);
}

/* --- input --------------------------------------------------------------------------------------------- */
/* round,peer,transport,ranks,collective,place,bytes,calls,batches,median,least,most,slowest,p50,wrong */
static bool parse(const char *line, struct sample *s)
{
    return sscanf(line,
                  "%d,%31[^,],%31[^,],%d,%31[^,],%7[^,],%llu,%*[^,],%*[^,],%lf,%*[^,],%*[^,],%*[^,]"
                  ",%*[^,],%lf",
                  &s->round, s->peer, s->transport, &s->ranks, s->collective, s->place, &s->bytes,
                  &s->us, &s->wrong) == 9 &&
           s->us > 0;
}

static void read_file(const char *path)
{
    char line[512];
    FILE *f = fopen(path, "re");
    if (!f)
        fail("cannot be read", path);
    while (fgets(line, sizeof(line), f)) {
        if (line[0] == '#' || !strncmp(line, "round,", 6))
            continue;
        if (sample_count % 1024 == 0)
            samples = realloc(samples, (sample_count + 1024) * sizeof(*samples));
        if (!samples)
            fail("out of memory", path);
        if (!parse(line, &samples[sample_count]))
            fail("holds a line that is not one of perf/compare's", path);
        sample_count++;
    }
    fclose(f);
}

static int cell_order(const void *x, const void *y)
{
    const struct sample *a = x, *b = y;
    int d = strcmp(a->transport, b->transport);
    d = d ? d : a->ranks - b->ranks;
    d = d ? d : strcmp(a->collective, b->collective);
    d = d ? d : -strcmp(a->place, b->place); /* out before in */
    return d ? d : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static int sample_order(const void *x, const void *y)
{
    const struct sample *a = x, *b = y;
    int d = cell_order(x, y);
    d = d ? d : strcmp(a->peer, b->peer);
    return d ? d : a->round - b->round;
}

/* --- decision ------------------------------------------------------------------------------------------------ */
static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of sorted values, between neighbours by weight. */
static double quantile(const double *v, int n, double q)
{
    double at = q * (n - 1);
    int i = (int)at;
    return i + 1 < n ? v[i] + (at - i) * (v[i + 1] - v[i]) : v[n - 1];
}

static void quartiles(struct series *s)
{
    double v[ROUNDS_MOST];
    memcpy(v, s->us, (size_t)s->rounds * sizeof(*v));
    qsort(v, (size_t)s->rounds, sizeof(*v), compare);
    s->low = quantile(v, s->rounds, 0.25);
    s->middle = quantile(v, s->rounds, 0.5);
    s->high = quantile(v, s->rounds, 0.75);
}

/* Median of the ratios of rounds that both have. */
static double ratio(const struct series *a, const struct series *b)
{
    double v[ROUNDS_MOST];
    int n = 0;
    for (int i = 0; i < a->rounds; i++)
        for (int k = 0; k < b->rounds; k++)
            if (a->round[i] == b->round[k])
                v[n++] = a->us[i] / b->us[k];
    if (!n)
        return a->middle / b->middle;
    qsort(v, (size_t)n, sizeof(*v), compare);
    return quantile(v, n, 0.5);
}

static void decide(struct cell *c)
{
    c->ratio = NAN;
    for (int i = 0; i < c->peers; i++) {
        struct series *s = &c->series[i];
        quartiles(s);
        if (!strcmp(s->peer, subject))
            c->subject = s;
        else if (!s->wrong && (!c->best || s->middle < c->best->middle))
            c->best = s;
    }
    if (!c->subject || !c->best || c->subject->wrong)
        return;
    c->ratio = ratio(c->subject, c->best);
    c->slower = c->ratio > RATIO_MOST && c->subject->low > c->best->high;
}

static struct series *series_of(struct cell *c, const struct sample *s)
{
    if (!c->peers || strcmp(c->series[c->peers - 1].peer, s->peer)) {
        if (c->peers == PEERS_MOST)
            fail("more peers than this program counts", s->peer);
        c->series[c->peers++].peer = s->peer;
    }
    return &c->series[c->peers - 1];
}

static void build_cells(void)
{
    qsort(samples, sample_count, sizeof(*samples), sample_order);
    size_t most = 0;
    for (size_t i = 0; i < sample_count; i++)
        most += !i || cell_order(&samples[i - 1], &samples[i]) != 0;
    cells = calloc(most, sizeof(*cells));
    if (!cells)
        fail("out of memory", "cells");
    for (size_t i = 0; i < sample_count; i++) {
        if (!i || cell_order(&samples[i - 1], &samples[i]))
            cells[cell_count++].at = &samples[i];
        struct series *s = series_of(&cells[cell_count - 1], &samples[i]);
        if (s->rounds == ROUNDS_MOST)
            fail("more rounds than this program counts", samples[i].peer);
        s->round[s->rounds] = samples[i].round;
        s->us[s->rounds++] = samples[i].us;
        s->wrong |= samples[i].wrong > 0;
    }
    for (size_t i = 0; i < cell_count; i++)
        decide(&cells[i]);
}

/* --- output --------------------------------------------------------------------------------------------------- */
static void print_size(unsigned long long b)
{
    if (b >= 1 << 20)
        printf("%g MiB", (double)b / (1 << 20));
    else if (b >= 1024)
        printf("%g KiB", (double)b / 1024);
    else
        printf("%llu B", b);
}

static void print_us(double us)
{
    printf(us < 10 ? "%.2f" : us < 100 ? "%.1f" : "%.0f", us);
}

static void print_series(const struct series *s)
{
    print_us(s->middle);
    printf(" [");
    print_us(s->low);
    printf("–");
    print_us(s->high);
    printf("]%s", s->wrong ? " WRONG DATA" : "");
}

static void print_cell_name(const struct cell *c)
{
    printf("%s, %d ranks, %s %s place, ", c->at->transport, c->at->ranks, c->at->collective,
           strcmp(c->at->place, "in") ? "out of" : "in");
    print_size(c->at->bytes);
}

static int print_verdict(void)
{
    size_t slower = 0, compared = 0, faster = 0, broken = 0;
    for (size_t i = 0; i < cell_count; i++) {
        compared += cells[i].ratio > 0;
        slower += cells[i].slower;
        faster += cells[i].ratio < 1 / RATIO_MOST;
        broken += !cells[i].subject || cells[i].subject->wrong;
    }
    printf("# %s against the best peer of each cell\n\n", subject);
    printf("%zu cells compared: %zu slower, %zu at least 5 %% faster in the median; %zu where %s "
           "is wrong or missing.\n",
           compared, slower, faster, broken, subject);
    printf("\nSlower: median ratio over %.2f and inter-quartile ranges apart. Times in µs: median "
           "[quartiles] over rounds.\n",
           RATIO_MOST);
    for (size_t i = 0, n = 0; i < cell_count; i++) {
        const struct cell *c = &cells[i];
        if (!c->slower)
            continue;
        if (!n++)
            printf("\n## Slower cells\n\n");
        printf("* ");
        print_cell_name(c);
        printf(": %.2f × %s; ", c->ratio, c->best->peer);
        print_series(c->subject);
        printf(" against ");
        print_series(c->best);
        printf("\n");
    }
    for (size_t i = 0, n = 0; i < cell_count; i++)
        if (!cells[i].subject || cells[i].subject->wrong) {
            if (!n++)
                printf("\n## Wrong or missing\n\n");
            if (n > LISTED)
                continue; /* the count above says how many */
            printf("* ");
            print_cell_name(&cells[i]);
            printf(": %s\n", cells[i].subject ? "wrong data" : "missing");
        }
    if (!compared)
        printf("\nNothing was compared: no peer has the same cells.\n");
    return broken || !compared ? 3 : slower ? 1 : 0;
}

static bool same_table(const struct cell *a, const struct cell *b)
{
    return !strcmp(a->at->transport, b->at->transport) && a->at->ranks == b->at->ranks &&
           !strcmp(a->at->collective, b->at->collective) && !strcmp(a->at->place, b->at->place);
}

/* Subject first, then the others by name. */
static void print_tables(void)
{
    for (size_t i = 0; i < cell_count; i++) {
        const struct cell *c = &cells[i];
        if (!i || !same_table(&cells[i - 1], c)) {
            printf("\n## %s, %d ranks, %s, %s place\n\n| size | %s | best peer | ratio | all peers "
                   "|\n|---:|---:|---:|---:|---|\n|",
                   c->at->transport, c->at->ranks, c->at->collective,
                   strcmp(c->at->place, "in") ? "out of" : "in", subject);
        } else {
            printf("|");
        }
        printf(" ");
        print_size(c->at->bytes);
        printf(" | ");
        c->subject ? print_series(c->subject) : (void)printf("–");
        printf(" | ");
        c->best ? print_series(c->best) : (void)printf("–");
        printf(c->best ? " %s | " : "%s | ", c->best ? c->best->peer : "");
        if (isnan(c->ratio))
            printf("–");
        else
            printf(c->slower ? "**%.2f slower**" : "%.2f", c->ratio);
        printf(" |");
        for (int p = 0; p < c->peers; p++)
            if (&c->series[p] != c->subject) {
                printf(" %s ", c->series[p].peer);
                print_us(c->series[p].middle);
                printf("%s", c->series[p].wrong ? " (wrong data)" : "");
            }
        printf(" |\n");
    }
}

int main(int argc, char **argv)
{
    int first = 1;
    if (argc > 2 && !strcmp(argv[1], "--subject"))
        subject = argv[2], first = 3;
    if (first >= argc)
        fail("usage: report [--subject NAME] raw.csv ...", "no file");
    for (int i = first; i < argc; i++)
        read_file(argv[i]);
    if (!sample_count)
        fail("no measurements", argv[first]);
    build_cells();
    int status = print_verdict();
    print_tables();
    return status;
}
