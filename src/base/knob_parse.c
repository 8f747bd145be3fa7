/* SPDX-License-Identifier: Apache-2.0 */
/* knob_parse.c: see knob_parse.h. */
#include "base/knob_parse.h"
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct unit {
    const char *name;
    int64_t scale;
};
/* Descending, the name that knob_format writes first. */
static const struct unit time_unit[] = {
    {"d", 86400000000000}, {"h", 3600000000000}, {"m", 60000000000}, {"min", 60000000000},
    {"s", 1000000000},     {"ms", 1000000},      {"us", 1000},       {"ns", 1},
};
static const struct unit size_unit[] = {
    {"T", 1LL << 40}, {"TiB", 1LL << 40}, {"G", 1 << 30},   {"GiB", 1 << 30}, {"M", 1 << 20},
    {"MiB", 1 << 20}, {"K", 1 << 10},     {"KiB", 1 << 10}, {"B", 1},
};

static const struct unit *units(const struct knob_spec *spec, size_t *count)
{
    *count = spec->kind == KNOB_KIND_TIME   ? base_count(time_unit)
             : spec->kind == KNOB_KIND_SIZE ? base_count(size_unit)
                                            : 0;
    return spec->kind == KNOB_KIND_TIME ? time_unit : size_unit;
}

/* 0: no such unit. */
static int64_t unit_scale(const struct knob_spec *spec, const char *name, size_t bytes)
{
    size_t count;
    const struct unit *u = units(spec, &count);
    if (!bytes && spec->kind == KNOB_KIND_TIME)
        name = spec->unit, bytes = strlen(name);
    else if (!bytes)
        return 1;
    for (size_t i = 0; i < count; i++)
        if (strlen(u[i].name) == bytes && !strncasecmp(u[i].name, name, bytes))
            return u[i].scale;
    return 0;
}

static bool parse_switch(const char *text, size_t bytes, int64_t *value)
{
    static const char *const word[] = {"false", "true", "off", "on", "no", "yes"};
    for (size_t i = 0; i < base_count(word); i++)
        if (strlen(word[i]) == bytes && !strncasecmp(word[i], text, bytes)) {
            *value = (int64_t)(i & 1);
            return true;
        }
    return false;
}

/* digits[.digits][unit]; false: not of that form. What does not fit is clamped to INT64_MAX. */
static bool parse_number(const struct knob_spec *spec, const char *p, const char *end,
                         int64_t *value)
{
    bool minus = p < end && *p == '-';
    p += minus;
    if (p == end || !isdigit((unsigned char)*p))
        return false;
    __int128 whole = 0, part = 0, part_scale = 1;
    for (; p < end && isdigit((unsigned char)*p); p++)
        whole = base_min(whole * 10 + (*p - '0'), (__int128)INT64_MAX);
    if (p < end && *p == '.' && spec->kind != KNOB_KIND_INT) {
        const char *first = ++p;
        for (; p < end && isdigit((unsigned char)*p); p++)
            if (part_scale < 1000000000)
                part = part * 10 + (*p - '0'), part_scale *= 10;
        if (p == first)
            return false;
    }
    while (p < end && isspace((unsigned char)*p))
        p++;
    int64_t scale = unit_scale(spec, p, (size_t)(end - p));
    if (!scale)
        return false;
    __int128 all = whole * scale + part * scale / part_scale;
    *value = (int64_t)base_min(all, (__int128)INT64_MAX) * (minus ? -1 : 1);
    return true;
}

enum knob_parsed knob_parse(const struct knob_spec *spec, const char *text, int64_t *value)
{
    const char *end = text + strlen(text);
    while (text < end && isspace((unsigned char)*text))
        text++;
    while (text < end && isspace((unsigned char)end[-1]))
        end--;
    bool is_switch = spec->kind == KNOB_KIND_INT && spec->min == 0 && spec->max == 1;
    int64_t v;
    if (!(is_switch && parse_switch(text, (size_t)(end - text), &v)) &&
        !parse_number(spec, text, end, &v))
        return KNOB_FORM;
    if ((v < spec->min || v > spec->max) && v != spec->fallback) /* "0: chosen" is legal */
        return KNOB_RANGE;
    *value = v;
    return KNOB_PARSED;
}

void knob_format(const struct knob_spec *spec, int64_t value, char *text, size_t bytes)
{
    size_t count;
    const struct unit *u = units(spec, &count);
    for (size_t i = 0; i < count && value; i++)
        if (value % u[i].scale == 0) {
            snprintf(text, bytes, "%" PRId64 "%s", value / u[i].scale,
                     u[i].scale == 1 && spec->kind == KNOB_KIND_SIZE ? "" : u[i].name);
            return;
        }
    snprintf(text, bytes, "%" PRId64, value);
}

const char *knob_form(const struct knob_spec *spec)
{
    static const char *const form[] = {"an integer", "a text", "a time such as 5s or 100ms",
                                       "a size such as 4096 or 64K"};
    return form[spec->kind];
}

/* Restricted Damerau-Levenshtein distance; names are short, longer ones are compared by their start. */
int knob_distance(const char *a, const char *b)
{
    int row[3][65], n = (int)strnlen(a, 64), m = (int)strnlen(b, 64);
    for (int j = 0; j <= m; j++)
        row[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3], *before = row[(i + 2) % 3], *before2 = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int d = before[j - 1] + (a[i - 1] != b[j - 1]);
            d = base_min(d, base_min(before[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d = base_min(d, before2[j - 2] + 1);
            now[j] = d;
        }
    }
    return row[n % 3][m];
}
