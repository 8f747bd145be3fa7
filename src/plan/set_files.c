/* SPDX-License-Identifier: Apache-2.0 */
/*
 * set_files.c: the plan files of this process, loaded by CHOIR_PLAN_FILES or by hand. Entries are never
 * removed: tables keep pointers to their names.
 */
#include "base/knob.h"
#include "plan/set.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SETS = 64, MOST_BYTES = 64 << 20 };

struct loaded {
    struct plan_set *set;
    char name[64]; /* "file:NAME" */
};
static struct loaded loaded[MOST_SETS];
static _Atomic uint32_t loaded_count; /* entries below it are complete */
static pthread_mutex_t load_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t knob_once = PTHREAD_ONCE_INIT;
static struct choir_error knob_error;

static enum choir_status read_file(const char *path, char **text)
{
    FILE *f = fopen(path, "re");
    size_t bytes = 0, room = 0;
    char *data = NULL;
    enum choir_status status = CHOIR_OK;
    if (!f)
        return base_error_fill(base_error_thread(), CHOIR_ERR_SYSTEM,
                               &(struct base_error_at){-1, -1, 0, errno, NULL},
                               "check CHOIR_PLAN_FILES", "cannot open the plan file %s", path);
    do {
        if (bytes + 1 >= room) {
            char *more = room < MOST_BYTES ? realloc(data, room = room ? 2 * room : 1 << 16) : NULL;
            if (!more) {
                status = base_fail(CHOIR_ERR_NO_MEMORY, "split the plan file",
                                   "the plan file %s is longer than %d bytes", path, MOST_BYTES);
                break;
            }
            data = more;
        }
        bytes += fread(data + bytes, 1, room - 1 - bytes, f);
    } while (!feof(f) && !ferror(f));
    if (ferror(f))
        status = base_error_fill(base_error_thread(), CHOIR_ERR_SYSTEM,
                                 &(struct base_error_at){-1, -1, 0, errno, NULL},
                                 "check CHOIR_PLAN_FILES", "cannot read the plan file %s", path);
    fclose(f);
    if (status != CHOIR_OK) {
        free(data);
        return status;
    }
    data[bytes] = 0;
    *text = data;
    return CHOIR_OK;
}

static struct loaded *find(const char *name)
{
    uint32_t n = atomic_load(&loaded_count);
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(loaded[i].set->name, name))
            return &loaded[i];
    return NULL;
}

const struct plan_set *plan_set_find(const char *name)
{
    const struct loaded *l = find(strncmp(name, "file:", 5) ? name : name + 5);
    return l ? l->set : NULL;
}

static enum choir_status keep(struct plan_set *set, const char *path)
{
    enum choir_status status = CHOIR_OK;
    pthread_mutex_lock(&load_lock);
    uint32_t n = atomic_load(&loaded_count);
    if (find(set->name))
        status = base_fail(CHOIR_ERR_ARGUMENT, "give the plans another name",
                           "%s: there are plans of the name %s already", path, set->name);
    else if (n == MOST_SETS)
        status = base_fail(CHOIR_ERR_UNSUPPORTED, "load fewer plan files",
                           "%s: more than %d plan files", path, MOST_SETS);
    if (status == CHOIR_OK) {
        loaded[n].set = set;
        snprintf(loaded[n].name, sizeof(loaded[n].name), "file:%s", set->name);
        atomic_store(&loaded_count, n + 1);
    }
    pthread_mutex_unlock(&load_lock);
    return status;
}

enum choir_status plan_set_load(const char *path, const struct plan_set **set)
{
    char *text = NULL;
    struct plan_set *new = NULL;
    struct plan_verdict verdict;
    enum choir_status status = read_file(path, &text);
    if (status == CHOIR_OK)
        status = plan_set_parse(text, path, &new);
    free(text);
    if (status == CHOIR_OK)
        status = plan_set_verify(new, &verdict);
    if (status == CHOIR_OK)
        status = keep(new, path);
    if (status != CHOIR_OK) {
        plan_set_free(new);
        return status;
    }
    if (set)
        *set = new;
    return CHOIR_OK;
}

static void load_all(void)
{
    char path[4096];
    knob_error.status = CHOIR_OK;
    for (const char *at = knob_text(KNOB_PLAN_FILES); *at; at += *at == ':') {
        size_t n = strcspn(at, ":");
        if (n && n < sizeof(path)) {
            memcpy(path, at, n);
            path[n] = 0;
            if (plan_set_load(path, NULL) != CHOIR_OK) {
                knob_error = *base_error_thread();
                return;
            }
        }
        at += n;
    }
}

enum choir_status plan_set_load_knob(void)
{
    pthread_once(&knob_once, load_all);
    if (knob_error.status != CHOIR_OK)
        *base_error_thread() = knob_error;
    return knob_error.status;
}

uint32_t plan_set_count(void)
{
    return atomic_load(&loaded_count);
}

const char *plan_set_choose(uint32_t sets, const struct choir_shape *shape, bool need_ordered,
                            const struct choose_rule *rule)
{
    for (uint32_t i = 0; i < sets; i++) {
        bool wished = !rule;
        for (uint32_t k = 0; rule && k < rule->names; k++)
            wished |= !strcmp(rule->name[k], loaded[i].name);
        struct choir_plan *plan;
        if (!wished || (need_ordered && !loaded[i].set->ordered) ||
            !plan_set_serves(loaded[i].set, shape) ||
            plan_set_build(loaded[i].set, shape, &plan) != CHOIR_OK)
            continue;
        plan_free(plan);
        return loaded[i].name;
    }
    return NULL;
}

uint64_t plan_set_hash(uint32_t sets, uint64_t seed)
{
    for (uint32_t i = 0; i < sets; i++)
        seed = base_hash(&loaded[i].set->hash, sizeof(loaded[i].set->hash), seed);
    return seed;
}
