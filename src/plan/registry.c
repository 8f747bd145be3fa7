/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.c: which algorithms there are: the built-in list (algorithms/list.c), then those of the shared
 * objects named in CHOIR_ALGO_PLUGINS or loaded by hand. Entries are never removed: plans and tables keep
 * pointers to them.
 */
#include "base/knob.h"
#include "plan/plan.h"
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#define REGISTRY_MOST 256 /* algorithms from plug-ins */
#define REGISTRY_NAME_MOST 48

static const struct choir_algorithm *loaded[REGISTRY_MOST];
static _Atomic uint32_t loaded_count; /* entries below it are complete */
static pthread_mutex_t load_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t env_once = PTHREAD_ONCE_INIT;

static uint32_t builtin_count(void)
{
    uint32_t n = 0;
    while (plan_builtin[n])
        n++;
    return n;
}

/* Without looking at the environment: what is there now. */
static const struct choir_algorithm *at(uint32_t index)
{
    uint32_t builtin = builtin_count();
    if (index < builtin)
        return plan_builtin[index];
    index -= builtin;
    return index < atomic_load(&loaded_count) ? loaded[index] : NULL;
}

static const struct choir_algorithm *find(const char *name, size_t length)
{
    const struct choir_algorithm *a;
    for (uint32_t i = 0; (a = at(i)); i++)
        if (strlen(a->name) == length && !memcmp(a->name, name, length))
            return a;
    return NULL;
}

static enum choir_status sound(const struct choir_algorithm *a, const char *path)
{
    if (a->bytes != sizeof(*a) || a->abi != CHOIR_ALGORITHM_ABI)
        return base_fail(CHOIR_ERR_UNSUPPORTED, "build the plug-in against this library's header",
                         "%s: algorithm of %u bytes, abi %u; expected %zu, %d", path, a->bytes,
                         a->abi, sizeof(*a), CHOIR_ALGORITHM_ABI);
    size_t length = a->name ? strlen(a->name) : 0;
    if (!a->build || !a->variants || !a->summary || !length || length >= REGISTRY_NAME_MOST ||
        strspn(a->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") !=
            length)
        return base_fail(CHOIR_ERR_ARGUMENT, "fill in struct choir_algorithm",
                         "%s: an algorithm lacks its name, summary, variants or build", path);
    if (find(a->name, length))
        return base_fail(CHOIR_ERR_ARGUMENT, "give the plug-in's algorithm another name",
                         "%s: there is an algorithm %s already", path, a->name);
    return CHOIR_OK;
}

static enum choir_status take_over(const struct choir_algorithm *const *list, const char *path)
{
    uint32_t first = atomic_load(&loaded_count), n = first;
    for (; *list; list++) {
        enum choir_status status = sound(*list, path);
        for (uint32_t i = first; status == CHOIR_OK && i < n; i++)
            if (!strcmp(loaded[i]->name, (*list)->name))
                status = base_fail(CHOIR_ERR_ARGUMENT, "give each algorithm its own name",
                                   "%s: two algorithms %s", path, (*list)->name);
        if (status == CHOIR_OK && n == REGISTRY_MOST)
            status = base_fail(CHOIR_ERR_UNSUPPORTED, "load fewer plug-ins",
                               "%s: more than %d algorithms from plug-ins", path, REGISTRY_MOST);
        if (status != CHOIR_OK)
            return status;
        loaded[n++] = *list;
    }
    atomic_store(&loaded_count, n); /* all or none of the object's algorithms */
    return CHOIR_OK;
}

enum choir_status plan_algorithm_add(const struct choir_algorithm *const *list, const char *whence)
{
    pthread_mutex_lock(&load_lock);
    enum choir_status status = take_over(list, whence);
    pthread_mutex_unlock(&load_lock);
    return status;
}

enum choir_status plan_algorithm_load(const char *path)
{
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!object)
        return base_fail(CHOIR_ERR_ARGUMENT, "name a shared object that can be loaded", "%s",
                         dlerror());
    const struct choir_algorithm *const *list = dlsym(object, CHOIR_ALGORITHM_SYMBOL);
    enum choir_status status =
        list ? plan_algorithm_add(list, path)
             : base_fail(CHOIR_ERR_UNSUPPORTED, "build the plug-in against this library's header",
                         "%s exports no %s", path, CHOIR_ALGORITHM_SYMBOL);
    if (status != CHOIR_OK)
        dlclose(object);
    return status;
}

static void load_env(void)
{
    const char *text = knob_text(KNOB_ALGO_PLUGINS);
    while (text && *text) {
        char path[4096];
        size_t length = strcspn(text, ":");
        if (length && length < sizeof(path)) {
            memcpy(path, text, length);
            path[length] = 0;
            if (plan_algorithm_load(path) != CHOIR_OK)
                base_log(BASE_ERROR, -1, "algorithm plug-in not loaded: %s",
                         base_error_thread()->text);
        }
        text += length + (text[length] == ':');
    }
}

const struct choir_algorithm *plan_algorithm_at(uint32_t index)
{
    pthread_once(&env_once, load_env);
    return at(index);
}

const struct choir_algorithm *plan_algorithm_find(const char *name)
{
    pthread_once(&env_once, load_env);
    return find(name, strcspn(name, "("));
}
