/* SPDX-License-Identifier: Apache-2.0 */
/*
 * knob.c: reads the environment by the table knobs.def, once. A CHOIR_ name wins over its alias; an empty value
 * counts as not set. Parsing of values is in knob_parse.c.
 */
#include "base/knob.h"
#include "base/knob_parse.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NUMBER(kind, name, alias, fallback, min, max, unit, help)                                  \
    {name, alias, kind, NULL, fallback, min, max, unit, help},
#define KNOB_INT(id, ...) NUMBER(KNOB_KIND_INT, __VA_ARGS__)
#define KNOB_TIME(id, ...) NUMBER(KNOB_KIND_TIME, __VA_ARGS__)
#define KNOB_SIZE(id, ...) NUMBER(KNOB_KIND_SIZE, __VA_ARGS__)
#define KNOB_TEXT(id, name, alias, fallback, help)                                                 \
    {name, alias, KNOB_KIND_TEXT, fallback, 0, 0, 0, "", help},
static const struct knob_spec spec[KNOB_COUNT] = {
#include "base/knobs.def"
};

static struct knob_row row[KNOB_COUNT];
static char row_text[KNOB_COUNT][2][80]; /* default and range, as text */
static struct {
    int64_t number;
    char *text;         /* of a TEXT, when set */
    const char *source; /* NULL: default */
} value[KNOB_COUNT];
static enum choir_status load_status;
static struct choir_error load_error;
static _Atomic bool loaded;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill_rows(void)
{
    static const char *const kind[] = {"int", "text", "time", "size"};
    for (int i = 0; i < KNOB_COUNT; i++) {
        const struct knob_spec *s = &spec[i];
        char low[32], high[32];
        row[i] = (struct knob_row){s->name, s->alias, kind[s->kind], s->text, "", s->unit, s->help};
        if (s->kind == KNOB_KIND_TEXT)
            continue;
        knob_format(s, s->fallback, row_text[i][0], sizeof(row_text[i][0]));
        knob_format(s, s->min, low, sizeof(low));
        knob_format(s, s->max, high, sizeof(high));
        snprintf(row_text[i][1], sizeof(row_text[i][1]), "%s to %s", low, high);
        row[i].fallback = row_text[i][0];
        row[i].range = row_text[i][1];
    }
}

static void fail(const char *name, const char *text, const char *what, const char *accepted)
{
    if (load_status)
        return; /* the first one is reported */
    char remedy[sizeof(load_error.remedy)];
    snprintf(remedy, sizeof(remedy), "unset %s or set it to %s", name, accepted);
    load_status = base_fail(CHOIR_ERR_ARGUMENT, remedy, "%s is \"%.100s\", %s", name, text, what);
    load_error = *base_error_thread();
}

static void read_number(int id, const char *name, const char *text)
{
    const struct knob_spec *s = &spec[id];
    char what[128], accepted[128];
    int64_t number = 0;
    enum knob_parsed p = knob_parse(s, text, &number);
    if (p == KNOB_PARSED) {
        value[id].number = number;
        value[id].source = name;
        return;
    }
    snprintf(what, sizeof(what), p == KNOB_RANGE ? "out of the range %s" : "not %s",
             p == KNOB_RANGE ? row[id].range : knob_form(s));
    snprintf(accepted, sizeof(accepted), "%s from %s", knob_form(s), row[id].range);
    fail(name, text, what, accepted);
}

/* A value of an alias in our words, where these differ. */
static const char *translate(int id, const char *text)
{
    if (id == KNOB_CUDA_P2P && text && *text) /* it says whether to disable it */
        return strcmp(text, "0") ? "off" : "auto";
    if (id == KNOB_CUDA_VMM && text && *text)
        return strcmp(text, "0") ? "auto" : "off";
    return text;
}

static void read_one(int id)
{
    const struct knob_spec *s = &spec[id];
    const char *name = s->name, *text = getenv(s->name);
    if ((!text || !*text) && s->alias)
        name = s->alias, text = translate(id, getenv(s->alias));
    if (!text || !*text)
        return;
    if (s->kind != KNOB_KIND_TEXT) {
        read_number(id, name, text);
    } else if (id == KNOB_LOG && base_log_parse(text) < 0) {
        fail(name, text, "not a log level", "error, warn, info or debug");
    } else if ((id == KNOB_CUDA_P2P || id == KNOB_CUDA_VMM) && strcmp(text, "auto") &&
               strcmp(text, "off")) {
        fail(name, text, "not auto or off", "auto or off");
    } else if (id == KNOB_TUNE && strcmp(text, "auto") && strcmp(text, "off") &&
               strcmp(text, "again")) {
        fail(name, text, "not auto, off or again", "auto, off or again");
    } else {
        char *copy = strdup(text); /* the environment may change under us */
        if (!copy) {
            fail(name, text, "and there is no memory to keep it", "nothing");
            return;
        }
        value[id].text = copy;
        value[id].source = name;
    }
}

/* A misspelt variable would otherwise be silently without effect. */
static void warn_unknown(void)
{
    for (char **e = environ; e && *e; e++) {
        char name[64];
        const char *end = strchr(*e, '=');
        if (!end || strncmp(*e, "CHOIR_", 6) || !strncmp(*e, "CHOIR_TEST_", 11))
            continue;
        snprintf(name, sizeof(name), "%.*s", (int)(end - *e), *e);
        int nearest = -1, least = 4; /* more than 3 letters off is no misspelling */
        for (int i = 0; i < KNOB_COUNT && least; i++) {
            int d = knob_distance(name, spec[i].name);
            if (d < least)
                least = d, nearest = i;
        }
        if (nearest < 0)
            base_log(BASE_WARN, -1, "unknown variable %s has no effect", name);
        else if (least)
            base_log(BASE_WARN, -1, "unknown variable %s has no effect; did you mean %s", name,
                     spec[nearest].name);
    }
}

static void load(void)
{
    atomic_store(&loaded, false);
    load_status = CHOIR_OK;
    fill_rows();
    for (int i = 0; i < KNOB_COUNT; i++) {
        free(value[i].text);
        value[i].text = NULL;
        value[i].source = NULL;
        value[i].number = spec[i].fallback;
    }
    read_one(KNOB_LOG);
    read_one(KNOB_LOG_FILE);
    atomic_store_explicit(&loaded, true, memory_order_release); /* pairs with ready() */
    base_log_configure(base_log_parse(knob_text(KNOB_LOG)), knob_text(KNOB_LOG_FILE));
    for (int i = 0; i < KNOB_COUNT; i++)
        if (i != KNOB_LOG && i != KNOB_LOG_FILE)
            read_one(i);
    warn_unknown();
}

static void ready(void)
{
    if (base_unlikely(!atomic_load_explicit(&loaded, memory_order_acquire)))
        pthread_once(&once, load);
}

enum choir_status knob_load(void)
{
    pthread_once(&once, load);
    if (load_status)
        *base_error_thread() = load_error;
    return load_status;
}

void knob_reload(void)
{
    pthread_once(&once, load);
    load();
}

int64_t knob_int(enum knob_id id)
{
    ready();
    choir_assert(spec[id].kind != KNOB_KIND_TEXT);
    return value[id].number;
}

const char *knob_text(enum knob_id id)
{
    ready();
    choir_assert(spec[id].kind == KNOB_KIND_TEXT);
    return value[id].text ? value[id].text : spec[id].text;
}

bool knob_is_set(enum knob_id id)
{
    ready();
    return value[id].source != NULL;
}

const struct knob_row *knob_row(enum knob_id id)
{
    ready();
    return &row[id];
}

void knob_show(enum knob_id id, char *text, size_t bytes, const char **source)
{
    ready();
    if (id == KNOB_SECRET && value[id].source)
        snprintf(text, bytes, "(hidden)");
    else if (spec[id].kind == KNOB_KIND_TEXT)
        snprintf(text, bytes, "%s", knob_text(id));
    else
        knob_format(&spec[id], value[id].number, text, bytes);
    *source = value[id].source ? value[id].source : "default";
}
