/* SPDX-License-Identifier: Apache-2.0 */
/*
 * json.c: a writer of JSON; knows where commas go and how text is quoted, and nothing of what is written.
 */
#include "perf/lib/perf.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEPTH 16
struct perf_json {
    FILE *file;
    char path[4096];
    int depth;
    bool list[DEPTH], some[DEPTH];
};

static int create(struct perf_json *j, const char *path, bool keep)
{
    int n = snprintf(j->path, sizeof(j->path), "%s", path);
    for (int i = 0; n > 0 && (size_t)n < sizeof(j->path) && i < 10000; i++) {
        int fd = open(j->path, O_WRONLY | O_CREAT | O_CLOEXEC | (keep ? O_EXCL : O_TRUNC), 0644);
        if (fd >= 0 || errno != EEXIST)
            return fd;
        n = snprintf(j->path, sizeof(j->path), "%s.%d", path, i);
    }
    return -1;
}

struct perf_json *perf_json_open(const char *path, bool keep, const char **actual)
{
    struct perf_json *j = calloc(1, sizeof(*j));
    choir_assert(j);
    int fd = create(j, path, keep);
    j->file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!j->file) {
        fprintf(stderr, "# no JSON: %s cannot be written: %s\n", j->path, strerror(errno));
        if (fd >= 0)
            close(fd);
        free(j);
        return NULL;
    }
    *actual = j->path;
    fputc('{', j->file);
    return j;
}

static void quote(FILE *file, const char *text)
{
    fputc('"', file);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            fprintf(file, "\\%c", *c);
        else if (*c < 0x20 || *c >= 0x7f) /* bytes above 0x7e as if Latin-1: always valid JSON */
            fprintf(file, "\\u%04x", *c);
        else
            fputc(*c, file);
    }
    fputc('"', file);
}

static void key(struct perf_json *j, const char *name, bool nests)
{
    bool comma = j->some[j->depth];
    if (comma)
        fputc(',', j->file);
    j->some[j->depth] = true;
    if (j->depth == 0 || (j->list[j->depth] && nests)) /* a line per result */
        fputs("\n ", j->file);
    else if (comma)
        fputc(' ', j->file);
    if (!j->list[j->depth]) {
        quote(j->file, name);
        fputs(": ", j->file);
    }
}

static void push(struct perf_json *j, const char *name, bool list)
{
    key(j, name, true);
    choir_assert(j->depth + 1 < DEPTH);
    j->depth++;
    j->list[j->depth] = list;
    j->some[j->depth] = false;
    fputc(list ? '[' : '{', j->file);
}

void perf_json_object(struct perf_json *j, const char *name)
{
    push(j, name, false);
}

void perf_json_list(struct perf_json *j, const char *name)
{
    push(j, name, true);
}

void perf_json_end(struct perf_json *j)
{
    choir_assert(j->depth > 0);
    fputc(j->list[j->depth] ? ']' : '}', j->file);
    j->depth--;
}

void perf_json_text(struct perf_json *j, const char *name, const char *value)
{
    key(j, name, false);
    if (value)
        quote(j->file, value);
    else
        fputs("null", j->file);
}

void perf_json_real(struct perf_json *j, const char *name, double value)
{
    key(j, name, false);
    if (isfinite(value))
        fprintf(j->file, "%.9g", value);
    else
        fputs("null", j->file);
}

void perf_json_int(struct perf_json *j, const char *name, int64_t value)
{
    key(j, name, false);
    fprintf(j->file, "%lld", (long long)value);
}

bool perf_json_close(struct perf_json *j)
{
    while (j->depth)
        perf_json_end(j);
    fputs("\n}\n", j->file);
    bool good = !ferror(j->file);
    good &= !fclose(j->file);
    if (!good)
        fprintf(stderr, "# JSON in %s is incomplete: %s\n", j->path, strerror(errno));
    free(j);
    return good;
}
