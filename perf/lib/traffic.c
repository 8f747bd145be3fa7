/* SPDX-License-Identifier: Apache-2.0 */
/*
 * traffic.c: see traffic.h.
 */
#include "perf/lib/traffic.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_BYTES (64u << 20) /* of a matrix file */

static double number_env(const char *name, double fallback, double most)
{
    const char *text = getenv(name);
    char *end;
    double v = text ? strtod(text, &end) : fallback;
    if (text && (end == text || *end))
        v = fallback;
    return v < 0 ? 0 : v > most ? most : v;
}

/* Numbers of one line into t->bytes (grown by lines); the count of them, or -1. */
static long parse_line(struct traffic *t, const char *line, const char *end, uint64_t *out,
                       long room)
{
    long n = 0;
    for (const char *p = line; p < end;) {
        if (isspace((unsigned char)*p)) {
            p++;
            continue;
        }
        char *next;
        double v = strtod(p, &next);
        if (next == p || !(v >= 0) || v * t->scale > 9e18 ||
            (next < end && !isspace((unsigned char)*next)))
            return -1;
        if (n == room)
            return room + 1;
        out[n++] = (uint64_t)(v * t->scale) & ~(uint64_t)15;
        p = next;
    }
    return n;
}

static long count_words(const char *p, const char *end)
{
    long n = 0;
    for (bool in = false; p < end; p++) {
        bool space = isspace((unsigned char)*p);
        n += !space && !in;
        in = !space;
    }
    return n;
}

bool traffic_parse(struct traffic *t, const char *text, char *why, uint32_t why_bytes)
{
    long rows = 0, dim = 0;
    for (const char *p = text, *end; *p; p = *end ? end + 1 : end) {
        end = p + strcspn(p, "\n");
        long words = count_words(p, end);
        if (!words)
            continue;
        if (!t->bytes) {
            dim = words;
            t->bytes = calloc((size_t)dim * (size_t)dim, sizeof(*t->bytes));
        }
        if (!t->bytes || rows == dim) {
            snprintf(why, why_bytes, "it has more than %ld rows of %ld numbers", rows, dim);
            goto err_matrix;
        }
        long n = parse_line(t, p, end, t->bytes + rows * dim, dim);
        if (n != dim) {
            snprintf(why, why_bytes,
                     n < 0 ? "row %ld holds something that is not a number of bytes"
                           : "row %ld does not have %ld numbers like the first",
                     rows + 1, dim);
            goto err_matrix;
        }
        rows++;
    }
    if (!rows || rows != dim) {
        snprintf(why, why_bytes, "it has %ld rows of %ld numbers and must be square", rows, dim);
        goto err_matrix;
    }
    t->dim = (uint32_t)dim;
    return true;
err_matrix:
    traffic_free(t);
    return false;
}

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "re");
    char *text = f ? malloc(MOST_BYTES + 1) : NULL;
    if (text) {
        size_t n = fread(text, 1, MOST_BYTES, f);
        text[n] = 0;
        if (ferror(f) || !feof(f)) {
            free(text);
            text = NULL;
        }
    }
    if (f)
        fclose(f);
    return text;
}

bool traffic_load(struct traffic *t, uint32_t ranks, bool print)
{
    const char *path = getenv("NCCL_TESTS_ALLTOALLV_MATRIX_FILE");
    char why[128] = "";
    *t = (struct traffic){.spread = number_env("NCCL_TESTS_ALLTOALLV_SPREAD", 1, 1),
                          .scale = number_env("NCCL_TESTS_ALLTOALLV_MATRIX_SCALE", 1, 1e18),
                          .summary = number_env("NCCL_TESTS_ALLTOALLV_PRINT_SUMMARY", 0, 1) > 0};
    if (!path)
        return true;
    char *text = read_file(path);
    bool good = text && traffic_parse(t, text, why, sizeof(why));
    if (!text)
        snprintf(why, sizeof(why), "it cannot be read: %s", strerror(errno));
    free(text);
    if (good && t->dim < ranks) {
        snprintf(why, sizeof(why), "it is for %u ranks, this job has %u", t->dim, ranks);
        traffic_free(t);
        good = false;
    }
    if (!good && print)
        fprintf(stderr, "traffic matrix %s: %s\n", path, why);
    return good;
}

void traffic_free(struct traffic *t)
{
    free(t->bytes);
    t->bytes = NULL;
    t->dim = 0;
}

uint64_t traffic_count(const struct traffic *t, uint32_t from, uint32_t to, uint32_t ranks,
                       uint64_t total, uint32_t type_bytes)
{
    if (t->bytes)
        return t->bytes[(size_t)from * t->dim + to] / type_bytes;
    double bytes = (double)total * type_bytes, share = bytes;
    if (ranks > 1) {
        double distance = (to + ranks - from) % ranks, sum = ranks * (ranks - 1.0) / 2;
        share = (1 - t->spread) * bytes / ranks + t->spread * distance * bytes / sum;
    }
    return ((uint64_t)share & ~(uint64_t)15) / type_bytes;
}

uint64_t traffic_sent(const struct traffic *t, uint32_t rank, uint32_t ranks, uint64_t total,
                      uint32_t type_bytes)
{
    uint64_t sum = 0;
    for (uint32_t r = 0; r < ranks; r++)
        sum += traffic_count(t, rank, r, ranks, total, type_bytes);
    return sum;
}

uint64_t traffic_received(const struct traffic *t, uint32_t rank, uint32_t ranks, uint64_t total,
                          uint32_t type_bytes)
{
    uint64_t sum = 0;
    for (uint32_t r = 0; r < ranks; r++)
        sum += traffic_count(t, r, rank, ranks, total, type_bytes);
    return sum;
}
