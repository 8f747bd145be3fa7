/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.c: one timing driver for every library, so that nothing but the library differs.
 *
 * A cell (collective, place, size): a checked run, warm-up that finds how many calls fill a batch, batches of
 * (barrier, calls back to back), another checked run. A batch's value is the longest elapsed time of any rank over the
 * number of calls; the cell's is the median of its batches. One CSV line per cell on rank 0's output, prefixed "R,".
 * Size is the largest buffer of a rank: all_gather's output, reduce_scatter's input.
 */
#include "perf/compare/backend.h"
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CALLS_MOST 16384
#define BATCHES_MOST 64
#define PERIOD 65521u /* the data repeats after this prime */

static const char *const names[COLLECTIVES] = {"all_reduce", "all_gather", "reduce_scatter",
                                               "all_to_all"};
static struct {
    size_t least, most, factor;
    double batch_us;
    int batches;
    unsigned collectives, places; /* bit masks */
} args = {8, 64u << 20, 2, 5000, 3, 15, 3};

static int rank, size;
static float *in_memory, *out_memory;
static double stamp[CALLS_MOST + 1];

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) /* sorts v */
{
    qsort(v, (size_t)n, sizeof(*v), compare);
    return n & 1 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* --- data: k/256 with |k| <= 256, so that sums over up to 2^15 ranks are exact in any order ------------- */
static float element(uint32_t seed, int r, size_t i)
{
    uint32_t x =
        (uint32_t)(i % PERIOD) * 2654435761u + (uint32_t)r * 0x9e3779b1u + seed * 0x85ebca77u;
    x ^= x >> 15, x *= 0x2c1b3c6du, x ^= x >> 12;
    return (float)((int)(x >> 8 & 511) - 256) / 256;
}

/* p[0, n) becomes elements [first, first+n) of rank r's data, or of the sum of all ranks' if r < 0. */
static void fill(float *p, size_t n, uint32_t seed, int r, size_t first)
{
    for (size_t i = 0; i < n; i++) {
        if (i >= PERIOD) {
            p[i] = p[i - PERIOD];
            continue;
        }
        p[i] = 0;
        for (int k = r < 0 ? 0 : r; k <= (r < 0 ? size - 1 : r); k++)
            p[i] += element(seed, k, first + i);
    }
}

static double differ(const float *got, size_t n, uint32_t seed, int r, size_t first)
{
    static float want[PERIOD];
    size_t bad = 0, held = n < PERIOD ? n : PERIOD;
    fill(want, held, seed, r, first);
    for (size_t at = 0; at < n; at += held) {
        size_t m = n - at < held ? n - at : held;
        if (memcmp(got + at, want, m * sizeof(*got)))
            for (size_t i = 0; i < m; i++)
                bad += got[at + i] != want[i];
    }
    return (double)bad;
}

static double wrong_output(enum collective c, const float *out, size_t block, uint32_t seed,
                           bool in_place)
{
    double bad = 0;
    size_t own = (size_t)rank * block;
    switch (c) {
    case ALL_REDUCE:
        return differ(out, block * (size_t)size, seed, -1, 0);
    case REDUCE_SCATTER:
        return differ(out + (in_place && backend_scatters_to_own_block() ? own : 0), block, seed,
                      -1, own);
    default:
        for (int r = 0; r < size; r++)
            bad += differ(out + (size_t)r * block, block, seed, r, c == ALL_TO_ALL ? own : 0);
        return bad;
    }
}

/* Runs the collective once on fresh data; elements that are wrong on the worst rank, the input included. */
static double check(enum collective c, bool in_place, size_t block, uint32_t seed)
{
    size_t all = block * (size_t)size, given = c == ALL_GATHER ? block : all;
    memset(out_memory, 0xff, (c == REDUCE_SCATTER && !in_place ? block : all) * sizeof(float));
    fill(!in_place         ? in_memory
         : c == ALL_GATHER ? out_memory + (size_t)rank * block
                           : out_memory,
         given, seed, rank, 0);
    backend_barrier();
    backend_run(c, in_place ? NULL : in_memory, out_memory, block);
    double bad = wrong_output(c, out_memory, block, seed, in_place);
    if (!in_place)
        bad += differ(in_memory, given, seed, rank, 0);
    backend_max(&bad, 1);
    return bad;
}

/* --- time ---------------------------------------------------------------------------------------------------- */
/* Microseconds per call, from growing runs that are the warm-up too. */
static double calibrate(enum collective c, const float *in, size_t block)
{
    for (int calls = 1;; calls *= 2) {
        backend_barrier();
        double start = now_us();
        for (int i = 0; i < calls; i++)
            backend_run(c, in, out_memory, block);
        double elapsed = now_us() - start;
        backend_max(&elapsed, 1);
        bool settled = block * (size_t)size > 16384 || calls >= 16 || elapsed > 60000;
        if ((elapsed > args.batch_us / 3 && settled) || calls * 2 > CALLS_MOST)
            return elapsed / calls;
    }
}

static int calls_per_batch(double per_call_us, size_t bytes)
{
    double n = args.batch_us / per_call_us;
    if (bytes <= 65536 &&
        n < 50) /* slow small calls have transients: more of them, within a bound */
        n = 60000 / per_call_us < 50 ? 60000 / per_call_us : 50;
    int calls = n > CALLS_MOST ? CALLS_MOST : (int)(n + 0.5);
    return calls >= 2 ? calls : per_call_us > 60000 ? 1 : 2;
}

static void cell(enum collective c, bool in_place, size_t bytes)
{
    const float *in = in_place ? NULL : in_memory;
    size_t block = bytes / sizeof(float) / (size_t)size;
    double batch[BATCHES_MOST], slowest[BATCHES_MOST], half[BATCHES_MOST];
    double bad = check(c, in_place, block, 17 + (uint32_t)(bytes % 1009) + c);
    if (in_place) /* sums of sums grow; zeros do not */
        memset(out_memory, 0, block * (size_t)size * sizeof(float));
    double per = calibrate(c, in, block);
    int calls = calls_per_batch(per, bytes),
        batches = per > 150000 && args.batches > 3 ? 3 : args.batches;
    for (int b = 0; b < batches; b++) {
        backend_barrier();
        stamp[0] = now_us();
        for (int i = 1; i <= calls; i++) {
            backend_run(c, in, out_memory, block);
            stamp[i] = now_us();
        }
        batch[b] = (stamp[calls] - stamp[0]) / calls;
        for (int i = calls; i > 0; i--)
            stamp[i] -= stamp[i - 1];
        half[b] = median(stamp + 1, calls);
        slowest[b] = stamp[calls];
        double *all[] = {&batch[b], &half[b], &slowest[b]};
        for (int k = 0; k < 3; k++)
            backend_max(all[k], 1);
    }
    bad += check(c, in_place, block, 91 + (uint32_t)(bytes % 1013) + c);
    double m = median(batch, batches), h = median(half, batches), s = median(slowest, batches);
    if (!rank)
        printf("R,%d,%s,%s,%zu,%d,%d,%.3f,%.3f,%.3f,%.3f,%.3f,%.0f\n", size, names[c],
               in_place ? "in" : "out", block * (size_t)size * sizeof(float), calls, batches, m,
               batch[0], batch[batches - 1], s, h, bad);
}

static void sweep(void)
{
    for (enum collective c = 0; c < COLLECTIVES; c++)
        for (int place = 0; place < 2; place++) {
            if (!(args.collectives >> c & 1) || !(args.places >> place & 1) ||
                !backend_supports(c, place))
                continue;
            for (size_t bytes = args.least; bytes <= args.most; bytes *= args.factor)
                if (bytes >= (size_t)size * sizeof(float))
                    cell(c, place, bytes);
        }
}

/* --- life ------------------------------------------------------------------------------------------------------- */
/* PIN=1: rank r on CPU r mod CPUs, before the library starts its threads. */
static void pin(void)
{
    static const char *const variables[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "CHOIR_RANK",
                                            "RANK"};
    const char *text = NULL;
    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]) && !text; i++)
        text = getenv(variables[i]);
    if (!text || !getenv("PIN") || !atoi(getenv("PIN")))
        return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)(atoi(text) % sysconf(_SC_NPROCESSORS_ONLN)), &set);
    sched_setaffinity(0, sizeof(set), &set);
}

static void parse(int argc, char **argv)
{
    for (int c; (c = getopt(argc, argv, "b:e:f:t:B:c:p:")) != -1;) {
        unsigned long long v = c == '?' ? 0 : strtoull(optarg, NULL, 0);
        if (c == 'b' && v)
            args.least = v;
        else if (c == 'e' && v)
            args.most = v;
        else if (c == 'f' && v > 1)
            args.factor = v;
        else if (c == 't' && v)
            args.batch_us = (double)v * 1e3;
        else if (c == 'B' && v && v <= BATCHES_MOST)
            args.batches = (int)v;
        else if (c == 'c' && v)
            args.collectives = (unsigned)v;
        else if (c == 'p' && v)
            args.places = (unsigned)v;
        else {
            fprintf(
                stderr,
                "flags: -b least -e most -f factor -t batch ms -B batches -c collectives (bits) "
                "-p places (1 out, 2 in)\n");
            exit(2);
        }
    }
}

static float *buffer(void)
{
    float *p =
        mmap(NULL, args.most + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "no memory for buffers: %s\n", strerror(errno));
        exit(2);
    }
    memset(p, 1, args.most);
    return p;
}

int main(int argc, char **argv)
{
    pin();
    backend_open(&argc, &argv, &rank, &size);
    parse(argc, argv);
    in_memory = buffer();
    out_memory = buffer();
    setvbuf(stdout, NULL, _IOLBF, 0);
    sweep();
    backend_barrier();
    backend_close();
    return 0;
}
