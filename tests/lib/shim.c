/* SPDX-License-Identifier: Apache-2.0 */
/* The built libnccl.so.2; see shim.h. */
#include "tests/lib/shim.h"
#include "tests/lib/ranks.h"
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <unistd.h>

struct shim shim;

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
