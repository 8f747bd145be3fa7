/* SPDX-License-Identifier: Apache-2.0 */
/*
 * text.c: a topology as text, one fact a line, and back. Lines of identity are printed as comments; see topo.c.
 */
#include "topo/detect.h"
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD "choir-topology 1"

/* X(key, member): the facts that are numbers. */
#define NUMBERS(X)                                                                                 \
    X("cores", cores)                                                                              \
    X("threads", threads)                                                                          \
    X("numa", numa)                                                                                \
    X("l1_bytes", l1_bytes)                                                                        \
    X("l2_bytes", l2_bytes)                                                                        \
    X("l3_bytes", l3_bytes)                                                                        \
    X("memory_bytes", memory_bytes)

void topo_print(const struct topo *t, void *file)
{
    FILE *f = file;
    fprintf(f, HEAD "\n# host %s, id %s\n", t->host_name, t->host_id);
    fprintf(f, "cpu %s\n", t->cpu);
#define PRINT(key, member) fprintf(f, key " %" PRIu64 "\n", (uint64_t)t->member);
    NUMBERS(PRINT)
#undef PRINT
    for (uint32_t i = 0; i < t->nics; i++) {
        const struct topo_nic *n = &t->nic[i];
        fprintf(f, "nic %s mbps %" PRIu32 " %s%s\n", n->name, n->mbps, n->up ? "up" : "down",
                n->loopback ? " loopback" : "");
        for (uint32_t a = 0; a < n->addresses; a++)
            fprintf(f, "# address %s\n", n->address[a]);
    }
}

static bool parse_number(const char *text, uint64_t most, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno || n > most)
        return false;
    *out = n;
    return true;
}

/* "NAME mbps N up|down [loopback]" */
static bool parse_nic(char *text, struct topo *t)
{
    char *save, *name = strtok_r(text, " ", &save), *word = strtok_r(NULL, " ", &save);
    char *mbps = strtok_r(NULL, " ", &save), *up = strtok_r(NULL, " ", &save);
    char *loopback = strtok_r(NULL, " ", &save);
    uint64_t number;
    if (t->nics == base_count(t->nic) || !up || strcmp(word, "mbps") || strlen(name) >= TOPO_NAME ||
        !parse_number(mbps, UINT32_MAX, &number) || (strcmp(up, "up") && strcmp(up, "down")))
        return false;
    if (loopback && (strcmp(loopback, "loopback") || strtok_r(NULL, " ", &save)))
        return false;
    struct topo_nic *n = &t->nic[t->nics++];
    *n = (struct topo_nic){
        .mbps = (uint32_t)number, .up = !strcmp(up, "up"), .loopback = loopback != NULL};
    snprintf(n->name, sizeof(n->name), "%s", name);
    return true;
}

static bool parse_line(char *line, struct topo *t)
{
    char *value = strchr(line, ' ');
    uint64_t number;
    if (!value)
        return false;
    *value++ = '\0';
    if (!strcmp(line, "cpu"))
        return snprintf(t->cpu, sizeof(t->cpu), "%s", value) < (int)sizeof(t->cpu);
    if (!strcmp(line, "nic"))
        return parse_nic(value, t);
#define PARSE(key, member)                                                                         \
    if (!strcmp(line, key)) {                                                                      \
        if (!parse_number(value, sizeof(t->member) == 4 ? UINT32_MAX : UINT64_MAX, &number))       \
            return false;                                                                          \
        t->member = (__typeof__(t->member))number;                                                 \
        return true;                                                                               \
    }
    NUMBERS(PARSE)
#undef PARSE
    return false;
}

static enum choir_status parse(FILE *f, const char *path, struct topo *t)
{
    char line[512];
    for (int number = 1; fgets(line, sizeof(line), f); number++) {
        bool whole = strchr(line, '\n') || feof(f);
        line[strcspn(line, "\r\n")] = '\0';
        bool good = number == 1 ? !strcmp(line, HEAD)
                                : !line[0] || line[0] == '#' || (whole && parse_line(line, t));
        if (!good)
            return base_fail(CHOIR_ERR_ARGUMENT, "make the file with choir-info --topology",
                             "%s:%d: not a line of a topology file", path, number);
    }
    if (!t->cores || t->threads < t->cores || !t->numa)
        return base_fail(CHOIR_ERR_ARGUMENT, "make the file with choir-info --topology",
                         "%s: cores, threads or numa missing or impossible", path);
    return CHOIR_OK;
}

enum choir_status topo_load(const char *path, struct topo *t)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return base_error_fill(
            base_error_thread(), CHOIR_ERR_SYSTEM, &(struct base_error_at){-1, -1, 0, errno, NULL},
            "check the path and its permissions", "cannot read topology %s", path);
    struct topo loaded = {.numa = 1};
    enum choir_status status = parse(f, path, &loaded);
    fclose(f);
    if (status == CHOIR_OK) {
        topo_detect_host(&loaded);
        *t = loaded;
    }
    return status;
}
