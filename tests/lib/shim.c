/* SPDX-License-Identifier: Apache-2.0 */
/* The built libnccl.so.2; see shim.h. */
#include "tests/lib/shim.h"
#include "tests/lib/ranks.h"
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <unistd.h>

struct shim shim;
ncclUniqueId shim_id;
static pthread_barrier_t meet;

static void find(void *library, const char *name, void *at)
{
    char twin[64];
    void *f = dlsym(library, name);
    if (!f)
        FAIL("libnccl.so.2 has no %s", name);
    snprintf(twin, sizeof(twin), "p%s", name);
    if (dlsym(library, twin) != f)
        FAIL("%s is not %s", twin, name);
    memcpy(at, &f, sizeof(f));
}

void *shim_load(void)
{
    static void *library;
    char exe[PATH_MAX] = "", path[PATH_MAX + 32];
    if (library)
        return library;
    setenv("CHOIR_NCCL_HOST", "1", 0);
    if (readlink("/proc/self/exe", exe, sizeof(exe) - 1) < 0)
        FAIL("no /proc/self/exe");
    snprintf(path, sizeof(path), "%s/../lib/libnccl.so.2", dirname(exe));
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        FAIL("%s", dlerror());
#define SHIM_FIND(name) find(library, "nccl" #name, &shim.name);
    SHIM_LIST(SHIM_FIND)
#undef SHIM_FIND
    return library;
}

void shim_is(int result, int want, const char *text, const char *what, const char *file, int line)
{
    const char *last = shim.GetLastError(NULL);
    if (result != want)
        test_fail_at(file, line, "%s is %d (%s), not %d; last error: %s", what, result,
                     shim.GetErrorString((ncclResult_t)result), want, last);
    if (text && !strstr(last, text))
        test_fail_at(file, line, "%s: \"%s\" is not in the last error: %s", what, text, last);
}

ncclResult_t shim_wait(ncclComm_t comm)
{
    ncclResult_t r = ncclInProgress;
    for (int i = 0; i < 30000; i++, test_sleep_ms(1)) {
        NCCL_OK(shim.CommGetAsyncError(comm, &r));
        if (r != ncclInProgress)
            return r;
    }
    FAIL("a communicator is in progress for ever");
}

void shim_sum_is(ncclComm_t comm, int value, int want)
{
    int sum = -1;
    NCCL_OK(shim.AllReduce(&value, &sum, 1, ncclInt32, ncclSum, comm, NULL));
    CHECK_EQ(sum, want);
}

void shim_place_is(ncclComm_t comm, int rank, int size)
{
    int got;
    NCCL_OK(shim.CommUserRank(comm, &got));
    CHECK_EQ(got, rank);
    NCCL_OK(shim.CommCount(comm, &got));
    CHECK_EQ(got, size);
}

void shim_meet(void)
{
    pthread_barrier_wait(&meet);
}

void shim_threads(int size, void (*fn)(int rank, int size, void *arg))
{
    shim_load();
    NCCL_OK(shim.GetUniqueId(&shim_id));
    pthread_barrier_init(&meet, NULL, (unsigned)size);
    test_threads(size, fn, NULL);
    pthread_barrier_destroy(&meet);
}

void shim_processes(int size, void (*fn)(int rank, int size, void *arg))
{
    struct choir_id id;
    shim_load();
    test_id(&id);
    memcpy(&shim_id, &id, sizeof(id));
    test_processes(size, fn, NULL);
}

ncclComm_t shim_make(int rank, int size)
{
    ncclComm_t comm;
    NCCL_OK(shim.CommInitRank(&comm, size, shim_id, rank));
    return comm;
}

static void *wait_in_group(void *arg)
{
    struct shim_waiter *w = arg;
    int x = 1, y;
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.AllReduce(&x, &y, 1, ncclInt32, ncclSum, w->comm, NULL));
    NCCL_OK(shim.AllGather(&x, &y, 0, ncclInt32, w->comm, NULL));
    w->result = shim.GroupEnd();
    return NULL;
}

void shim_waiter_start(struct shim_waiter *w, ncclComm_t comm)
{
    *w = (struct shim_waiter){.comm = comm};
    CHECK_EQ(pthread_create(&w->thread, NULL, wait_in_group, w), 0);
    test_sleep_ms(60);
}

ncclResult_t shim_waiter_end(struct shim_waiter *w)
{
    pthread_join(w->thread, NULL);
    return w->result;
}
