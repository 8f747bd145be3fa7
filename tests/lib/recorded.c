/* SPDX-License-Identifier: Apache-2.0 */
/* Records of a profiler plug-in; see recorded.h. */
#include "tests/lib/recorded.h"
#include "tests/lib/test.h"
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <unistd.h>

static int (*count_of)(void);
static const struct recorded *(*at_of)(int i);
static void (*reset_of)(int mask, int refused), (*hold_of)(int hold);

void recorded_path(char *path, size_t bytes, const char *name)
{
    char exe[PATH_MAX] = "";
    if (readlink("/proc/self/exe", exe, sizeof(exe) - 1) < 0)
        FAIL("no /proc/self/exe");
    snprintf(path, bytes, "%s/plugin/%s.so", dirname(exe), name);
}

static void find(void *library, const char *name, void *at)
{
    void *f = dlsym(library, name);
    if (!f)
        FAIL("the plug-in has no %s", name);
    memcpy(at, &f, sizeof(f));
}

void recorded_find(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    if (!library)
        FAIL("%s is not loaded", path);
    find(library, "recorded_count", &count_of);
    find(library, "recorded_at", &at_of);
    find(library, "recorded_reset", &reset_of);
    find(library, "recorded_hold", &hold_of);
}

void recorded_hold(int hold)
{
    hold_of(hold);
}

void recorded_wanted(int mask, int refused)
{
    reset_of(mask, refused);
}

int recorded_events(void)
{
    return count_of();
}

const struct recorded *recorded_event(int i)
{
    return at_of(i);
}

int recorded_number(int type, int rank, const char *func)
{
    int n = 0;
    for (int i = 0; i < count_of(); i++) {
        const struct recorded *r = at_of(i);
        n += r->type == type && (rank < 0 || r->rank == rank) && (!func || !strcmp(r->func, func));
    }
    return n;
}

int recorded_parts(const struct recorded *parent, int type)
{
    int n = 0;
    for (int i = 0; i < count_of(); i++)
        n += at_of(i)->parent == parent && at_of(i)->type == type;
    return n;
}

static int type_of(const void *handle)
{
    return handle ? ((const struct recorded *)handle)->type : 0;
}

static void check_parent(const struct recorded *r, int version)
{
    const struct recorded *parent = r->parent;
    int above = type_of(parent);
    CHECK(!parent || parent < r);
    switch (r->type) {
    case PROFILER_GROUP:
    case PROFILER_GROUP_API:
        CHECK_EQ(above, 0);
        break;
    case PROFILER_COLL_API:
    case PROFILER_P2P_API:
    case PROFILER_KERNEL_LAUNCH:
        CHECK_EQ(above, PROFILER_GROUP_API);
        break;
    case PROFILER_COLL:
    case PROFILER_P2P:
        if (version == 4) {
            CHECK_EQ(above, PROFILER_GROUP);
            break;
        }
        CHECK_EQ(type_of(r->group), PROFILER_GROUP);
        if (above) { /* that of a graph's replay is called by nobody */
            CHECK_EQ(above, r->type == PROFILER_COLL ? PROFILER_COLL_API : PROFILER_P2P_API);
            CHECK_STR(parent->func, r->func);
            CHECK_STR(parent->datatype, r->datatype);
            CHECK_EQ(parent->elements, r->elements);
        }
        break;
    case PROFILER_PROXY_OP:
    case PROFILER_KERNEL_CH:
        CHECK(above == PROFILER_COLL || above == PROFILER_P2P);
        CHECK_EQ(parent->rank, r->rank);
        break;
    default:
        FAIL("an event of type %d", r->type);
    }
}

static void check_state(const struct recorded *r)
{
    unsigned want = r->type == PROFILER_PROXY_OP    ? 1u << PROFILER_PROXY_OP_IN_PROGRESS
                    : r->type == PROFILER_KERNEL_CH ? 1u << PROFILER_KERNEL_CH_STOP
                    : r->type == PROFILER_GROUP_API
                        ? 1u << PROFILER_GROUP_API_START_STOP | 1u << PROFILER_GROUP_API_END_START
                        : 0;
    CHECK_EQ(r->states, want);
    CHECK_EQ(r->late, 0);
}

void recorded_check(int version, int lost)
{
    for (int i = 0; i < count_of(); i++) {
        const struct recorded *r = at_of(i), *context = r->context;
        CHECK_EQ(r->started, 1);
        if (r->stopped != 1)
            FAIL("event %d of type %d, %s, was stopped %d times", i, r->type, r->func, r->stopped);
        if (r->type == RECORDED_CONTEXT)
            continue;
        CHECK_EQ(r->version, version);
        CHECK(context && context->type == RECORDED_CONTEXT && context < r);
        CHECK_EQ(context->rank, r->rank);
        CHECK(!r->func_at || !strcmp(r->func_at, r->func));
        CHECK(!r->datatype_at || !strcmp(r->datatype_at, r->datatype));
        CHECK(!r->algo_at || !strncmp(r->algo_at, r->algo, RECORDED_TEXT - 1));
        check_parent(r, version);
        if (r->type == PROFILER_KERNEL_CH && !r->states && lost-- > 0)
            continue;
        check_state(r);
    }
}
