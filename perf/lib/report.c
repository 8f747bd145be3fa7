/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.c: the table. nccl-tests' leading columns in its widths, so that what reads its output reads ours; after
 * them the percentiles, the algorithm, and what --peak and --vs add. The same as JSON, if asked for.
 */
#include "perf/lib/gpu.h"
#include "topo/topo.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct perf_report {
    const struct perf_job *job;
    struct perf_json *json;
    uint64_t cells, done, start_ns;
    double bus_sum;
    uint64_t bus_count;
    bool progress; /* on a terminal */
};

static void print_date(const char *format)
{
    char text[64];
    time_t now = time(NULL);
    struct tm tm;
    strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", localtime_r(&now, &tm));
    printf(format, text);
}

/* --- head -------------------------------------------------------------------------------------------- */
static void print_head(const struct perf_job *job)
{
    const struct perf_args *a = job->args;
    const struct topo *topo = topo_get();
    uint32_t v = choir_version();
    bool factor = a->factor > 1;
    printf("# choir %u.%u.%u, %s\n", v / 10000, v / 100 % 100, v % 100, job->coll->name);
    printf("# nThread %d nGpus %d minBytes %llu maxBytes %llu step: %llu(%s) warmup iters: %d "
           "iters: %d "
           "agg iters: %d validation: %d graph: %d unalign: %d\n",
           a->threads, a->per_thread, (unsigned long long)a->min_bytes,
           (unsigned long long)a->max_bytes,
           (unsigned long long)(factor ? a->factor : a->step_bytes), factor ? "factor" : "bytes",
           a->warmup, a->iters, a->aggregate, a->check, a->graphs, a->unalign);
    printf("#\n# %u ranks: %u processes x %d threads x %d; host %s: %s, %u cores; created in %.1f "
           "ms\n",
           job->ranks, job->procs, a->threads, a->per_thread, topo->host_name, topo->cpu,
           topo->cores, job->create_s * 1e3);
    if (job->gpu)
        printf("# memory: cuda; rank 0 on GPU %d, %s\n", job->gpu->ordinal(job->thread->rank->gpu),
               job->gpu->name(job->thread->rank->gpu));
    if (job->peak_bytes_s > 0)
        printf("# peak: every rank copies %.2f GB/s at once\n", job->peak_bytes_s / 1e9);
    else if (a->peak)
        printf("# peak: the time in which copy engines bring as many bytes from every rank to the "
               "next, all at once\n");
    if (job->peer)
        printf("# --vs %s: %s, %d rounds, medians%s\n", job->peer->name, job->peer->version,
               a->rounds, job->peer->modes > 1 ? "; of its modes the best" : "");
}

static void print_columns(const struct perf_job *job)
{
    const struct perf_args *a = job->args;
    const char *time = a->cpu_time ? "cputime" : "time";
    bool peak = a->peak, many = job->peer && job->peer->modes > 1;
    char peer[2][64] = {"", ""}; /* of one place */
    if (job->peer) {
        snprintf(peer[0], sizeof(peer[0]), "  %7s  %6s%s", job->peer->name, "ratio",
                 many ? "   busbw       mode" : "");
        snprintf(peer[1], sizeof(peer[1]), "  %7s  %6s%s", "(us)", "",
                 many ? "  (GB/s)           " : "");
    }
    printf("#\n# %10s  %12s  %8s  %6s  %6s           out-of-place                       in-place   "
           "       "
           "       out-of-place      in-place\n",
           "", "", "", "", "");
    printf(
        "# %10s  %12s  %8s  %6s  %6s  %7s  %6s  %6s  %6s  %7s  %6s  %6s  %6s  %7s  %7s  %7s  %7s",
        "size", "count", "type", "redop", "root", time, "algbw", "busbw", "#wrong", time, "algbw",
        "busbw", "#wrong", "p50", "p99", "p50", "p99");
    printf("%s%s%s%s  %s\n", peak ? "   peak   peak" : "", peer[0], peer[0],
           a->timestamps ? "            timestamp" : "", "algorithm");
    printf(
        "# %10s  %12s  %8s  %6s  %6s  %7s  %6s  %6s  %6s  %7s  %6s  %6s  %6s  %7s  %7s  %7s  %7s",
        "(B)", "(elements)", "", "", "", "(us)", "(GB/s)", "(GB/s)", "", "(us)", "(GB/s)", "(GB/s)",
        "", "(us)", "(us)", "(us)", "(us)");
    printf("%s%s%s\n", peak ? "    (%)    (%)" : "", peer[1], peer[1]);
}

static void json_head(struct perf_report *r)
{
    const struct perf_job *job = r->job;
    const struct perf_args *a = job->args;
    const struct topo *topo = topo_get();
    struct perf_json *j = r->json;
    char date[64];
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", localtime_r(&now, &tm));
    perf_json_int(j, "version", 1);
    perf_json_text(j, "start_time", date);
    perf_json_text(j, "collective", job->coll->name);
    perf_json_list(j, "args");
    for (int i = 0; i < a->argc; i++)
        perf_json_text(j, NULL, a->argv[i]);
    perf_json_end(j);
    perf_json_int(j, "choir_version", choir_version());
    perf_json_text(j, "peer", job->peer ? job->peer->version : NULL);
    perf_json_object(j, "machine");
    perf_json_text(j, "host", topo->host_name);
    perf_json_text(j, "cpu", topo->cpu);
    perf_json_int(j, "cores", topo->cores);
    perf_json_int(j, "l2_bytes", (int64_t)topo->l2_bytes);
    perf_json_int(j, "l3_bytes", (int64_t)topo->l3_bytes);
    perf_json_int(j, "memory_bytes", (int64_t)topo->memory_bytes);
    if (job->gpu)
        perf_json_text(j, "gpu", job->gpu->name(job->thread->rank->gpu));
    if (job->peak_bytes_s > 0)
        perf_json_real(j, "copy_gb_s", job->peak_bytes_s / 1e9);
    perf_json_end(j);
    perf_json_object(j, "config");
    perf_json_int(j, "ranks", job->ranks);
    perf_json_int(j, "processes", job->procs);
    perf_json_int(j, "nthreads", a->threads);
    perf_json_int(j, "ngpus", a->per_thread);
    perf_json_int(j, "minimum_bytes", (int64_t)a->min_bytes);
    perf_json_int(j, "maximum_bytes", (int64_t)a->max_bytes);
    perf_json_int(j, a->factor > 1 ? "step_factor" : "step_bytes",
                  (int64_t)(a->factor > 1 ? a->factor : a->step_bytes));
    perf_json_int(j, "warmup_iters", a->warmup);
    perf_json_int(j, "iterations", a->iters);
    perf_json_int(j, "aggregated_iterations", a->aggregate);
    perf_json_int(j, "validation", a->check);
    perf_json_text(j, "memory", a->cuda ? "cuda" : "host");
    perf_json_int(j, "graphs", a->graphs);
    perf_json_real(j, "create_s", job->create_s);
    perf_json_end(j);
    perf_json_list(j, "results");
}

struct perf_report *perf_report_open(const struct perf_job *job, uint64_t cells)
{
    struct perf_report *r = calloc(1, sizeof(*r));
    const char *path;
    choir_assert(r);
    r->job = job;
    r->cells = cells * (uint64_t)base_max(job->args->cycles, 1);
    r->start_ns = base_now_ns();
    r->progress = !job->args->quiet && cells > 1 && isatty(2);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (job->args->json && (r->json = perf_json_open(job->args->json, job->args->json_keep, &path)))
        printf("# JSON goes to %s\n", path);
    print_head(job);
    print_columns(job);
    if (r->json)
        json_head(r);
    return r;
}

/* --- lines -------------------------------------------------------------------------------------------- */
static void clear_progress(const struct perf_report *r)
{
    if (r->progress)
        fputs("\r\033[K", stderr);
}

static void print_progress(const struct perf_report *r)
{
    double s = (double)(base_now_ns() - r->start_ns) / 1e9;
    if (r->progress && r->done < r->cells)
        fprintf(stderr, "\r%llu of %llu, %.0f s", (unsigned long long)r->done,
                (unsigned long long)r->cells, s);
}

void perf_report_note(struct perf_report *r, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    clear_progress(r);
    fputs("# ", stdout);
    vprintf(format, ap);
    putchar('\n');
    va_end(ap);
}

static void print_place(const struct perf_stats *s)
{
    char time[32], alg[32], bus[32];
    if (!s->measured) {
        printf("  %7s  %6s  %6s  %6s", "N/A", "N/A", "N/A", "N/A");
        return;
    }
    printf("  %s  %s  %s", perf_number(time, sizeof(time), s->time_s * 1e6, 7),
           perf_number(alg, sizeof(alg), s->alg_bytes_s / 1e9, 6),
           perf_number(bus, sizeof(bus), s->bus_bytes_s / 1e9, 6));
    if (s->wrong < 0)
        printf("  %6s", "N/A");
    else
        printf("  %6g", (double)s->wrong);
}

static double percent_of_peak(const struct perf_cell *cell, const struct perf_stats *s)
{
    return s->measured && cell->ceiling_s > 0 ? 100 * cell->ceiling_s / s->time_s : NAN;
}

static void print_peer(const struct perf_peer *peer, const struct perf_stats *s)
{
    char a[32], b[32];
    bool known = s->peer_s > 0;
    printf("  %s  %s", perf_number(a, sizeof(a), known ? s->peer_s * 1e6 : NAN, 7),
           perf_number(b, sizeof(b), known ? s->ratio : NAN, 6));
    if (peer->modes > 1)
        printf("  %s  %9s",
               perf_number(a, sizeof(a), known ? s->bus_bytes_s * s->ratio / 1e9 : NAN, 6),
               known ? peer->mode[s->peer_mode] : "N/A");
}

static void print_more(const struct perf_report *r, const struct perf_cell *cell)
{
    char a[32], b[32];
    for (int p = 0; p < 2; p++) {
        const struct perf_stats *s = &cell->place[p];
        printf("  %s  %s", perf_number(a, sizeof(a), s->measured ? s->p50_s * 1e6 : NAN, 7),
               perf_number(b, sizeof(b), s->measured ? s->p99_s * 1e6 : NAN, 7));
    }
    for (int p = 0; p < 2 && r->job->args->peak; p++)
        printf("  %s", perf_number(a, sizeof(a), percent_of_peak(cell, &cell->place[p]), 5));
    for (int p = 0; p < 2 && r->job->peer; p++)
        print_peer(r->job->peer, &cell->place[p]);
    if (r->job->args->timestamps)
        print_date("  %s");
    printf("  %s\n", cell->algorithm[0] ? cell->algorithm : "-");
}

static void json_peer(struct perf_json *j, const struct perf_stats *s, const struct perf_peer *peer)
{
    perf_json_real(j, "peer_time", s->peer_s * 1e6);
    perf_json_real(j, "ratio", s->ratio);
    perf_json_real(j, "time_q1", s->quartile_s[0] * 1e6);
    perf_json_real(j, "time_q3", s->quartile_s[1] * 1e6);
    perf_json_real(j, "peer_q1", s->peer_quartile_s[0] * 1e6);
    perf_json_real(j, "peer_q3", s->peer_quartile_s[1] * 1e6);
    if (peer->modes == 1)
        return;
    perf_json_real(j, "peer_bus_bw", s->bus_bytes_s * s->ratio / 1e9);
    perf_json_text(j, "peer_mode", peer->mode[s->peer_mode]);
    perf_json_object(j, "peer_times");
    for (int m = 0; m < peer->modes; m++)
        perf_json_real(j, peer->mode[m], s->mode_s[m] > 0 ? s->mode_s[m] * 1e6 : NAN);
    perf_json_end(j);
}

static void json_place(struct perf_json *j, const char *name, const struct perf_cell *cell,
                       const struct perf_stats *s, const struct perf_job *job)
{
    if (!s->measured) {
        perf_json_text(j, name, NULL);
        return;
    }
    perf_json_object(j, name);
    perf_json_real(j, job->args->cpu_time ? "cpu_time" : "time", s->time_s * 1e6);
    perf_json_real(j, "alg_bw", s->alg_bytes_s / 1e9);
    perf_json_real(j, "bus_bw", s->bus_bytes_s / 1e9);
    perf_json_real(j, "nwrong", s->wrong < 0 ? NAN : (double)s->wrong);
    perf_json_real(j, "min_us", s->min_s * 1e6);
    perf_json_real(j, "p50_us", s->p50_s * 1e6);
    perf_json_real(j, "p99_us", s->p99_s * 1e6);
    perf_json_real(j, "max_us", s->max_s * 1e6);
    perf_json_real(j, "avg_us", s->mean_s * 1e6);
    if (job->args->peak)
        perf_json_real(j, "peak_percent", percent_of_peak(cell, s));
    if (s->peer_s > 0)
        json_peer(j, s, job->peer);
    if (job->args->samples) {
        perf_json_list(j, "sorted_us");
        for (size_t i = 0; i < s->count; i++)
            perf_json_real(j, NULL, s->samples[i] * 1e6);
        perf_json_end(j);
    }
    perf_json_end(j);
}

void perf_report_cell(struct perf_report *r, const struct perf_cell *cell)
{
    clear_progress(r);
    printf("%12llu  %12llu  %8s  %6s  %6d", (unsigned long long)cell->bytes,
           (unsigned long long)cell->count, perf_type_name(cell->type), perf_op_name(cell->op),
           cell->root);
    print_place(&cell->place[0]);
    print_place(&cell->place[1]);
    print_more(r, cell);
    for (int p = 0; p < 2; p++)
        if (cell->place[p].measured) {
            r->bus_sum += cell->place[p].bus_bytes_s / 1e9;
            r->bus_count++;
        }
    r->done++;
    print_progress(r);
    if (!r->json)
        return;
    perf_json_object(r->json, NULL);
    perf_json_int(r->json, "size", (int64_t)cell->bytes);
    perf_json_int(r->json, "count", (int64_t)cell->count);
    perf_json_text(r->json, "type", perf_type_name(cell->type));
    perf_json_text(r->json, "redop", perf_op_name(cell->op));
    perf_json_int(r->json, "root", cell->root);
    perf_json_text(r->json, "algorithm", cell->algorithm[0] ? cell->algorithm : NULL);
    if (r->job->args->peak)
        perf_json_real(r->json, "peak_time", cell->ceiling_s > 0 ? cell->ceiling_s * 1e6 : NAN);
    json_place(r->json, "out_of_place", cell, &cell->place[0], r->job);
    json_place(r->json, "in_place", cell, &cell->place[1], r->job);
    perf_json_end(r->json);
}

/* --- foot ------------------------------------------------------------------------------------------------- */
int perf_report_close(struct perf_report *r, const struct choir_memory *memory)
{
    double bus = r->bus_count ? r->bus_sum / (double)r->bus_count : 0;
    const char *text = getenv("NCCL_TESTS_MIN_BW");
    double least = text ? atof(text) : -1;
    bool slow = least >= 0 && bus<least * 0.9, wrong = r->job->wrong> 0;
    clear_progress(r);
    printf("# %-20s : %llu %s\n", "Out of bounds values", (unsigned long long)r->job->wrong,
           wrong ? "FAILED" : "OK");
    printf("# %-20s : %g %s\n", "Avg bus bandwidth", bus, least < 0 ? "" : slow ? "FAILED" : "OK");
    if (r->job->args->memory_report)
        printf(
            "# %-20s : %.1f KiB private, %.1f KiB shared, %.1f KiB on a GPU, %u plans, %u peers\n",
            "Memory of rank 0", (double)memory->private_bytes / 1024,
            (double)memory->shared_bytes / 1024, (double)memory->device_bytes / 1024, memory->plans,
            memory->peers);
    printf("#\n");
    if (r->json) {
        struct perf_json *j = r->json;
        perf_json_end(j);
        perf_json_object(j, "out_of_bounds");
        perf_json_int(j, "count", (int64_t)r->job->wrong);
        perf_json_text(j, "okay", wrong ? "false" : "true");
        perf_json_end(j);
        perf_json_object(j, "average_bus_bandwidth");
        perf_json_real(j, "bandwidth", bus);
        perf_json_end(j);
        perf_json_object(j, "memory");
        perf_json_int(j, "private_bytes", (int64_t)memory->private_bytes);
        perf_json_int(j, "shared_bytes", (int64_t)memory->shared_bytes);
        perf_json_int(j, "device_bytes", (int64_t)memory->device_bytes);
        perf_json_int(j, "plans", memory->plans);
        perf_json_end(j);
        perf_json_close(j);
    }
    free(r);
    return slow;
}
