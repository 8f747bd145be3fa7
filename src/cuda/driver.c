/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.c: finds the CUDA driver at run time, tells whether this process uses CUDA at all, and words its errors.
 *
 * Fork. CUDA does not survive a fork: the child of a process that used it is refused, without a call into the driver.
 */
#include "cuda/driver.h"
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <string.h>

#define LIBRARY "libcuda.so.1"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cuda_driver table;
static const struct cuda_driver *_Atomic ready; /* &table once it is filled */
static bool tried;                              /* under lock: `failure` says why not */
static struct choir_error failure;
static _Atomic bool used, forked;
static _Atomic uint64_t
    seen; /* objects this process had loaded when libcuda was last not among them */

/* --- finding it --------------------------------------------------------------------------------- */

static void in_child(void)
{
    pthread_mutex_init(&lock, NULL); /* another thread may have held it */
    if (atomic_load(&used))
        atomic_store(&forked, true);
    atomic_store(&used, false);
}

/* The name as cuda.h has renamed it. */
#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

static const char *fill(void *library)
{
    static const struct {
        const char *symbol;
        size_t at;
        bool needed;
    } row[] = {
#define ROW(name) {TEXT(name), offsetof(struct cuda_driver, name), true},
#define ROW_VERSIONED(name, symbol, needed, signature)                                             \
    {symbol, offsetof(struct cuda_driver, name), needed},
        CUDA_DRIVER_LIST(ROW) CUDA_DRIVER_VERSIONED(ROW_VERSIONED)};
    for (size_t i = 0; i < base_count(row); i++) {
        void *f = dlsym(library, row[i].symbol);
        if (!f && row[i].needed)
            return row[i].symbol;
        memcpy((char *)&table + row[i].at, &f, sizeof(f));
    }
    return NULL;
}

/* With the lock held. The library stays loaded: its threads and exit handlers could not be undone. */
static void find(int mode)
{
    tried = true;
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | mode);
    if (!library) {
        const char *why = dlerror();
        base_fail(CHOIR_ERR_UNSUPPORTED,
                  "install the NVIDIA driver, or use host memory and streams", "no CUDA driver: %s",
                  why ? why : LIBRARY " is not there");
        failure = *base_error_thread();
        return;
    }
    const char *missing = fill(library);
    if (missing) {
        base_fail(CHOIR_ERR_UNSUPPORTED, "update the NVIDIA driver: CUDA 12.0 or newer is needed",
                  "the CUDA driver (" LIBRARY ") is too old: it has no %s", missing);
        failure = *base_error_thread();
        dlclose(library);
        return;
    }
    pthread_atfork(NULL, NULL, in_child);
    atomic_store_explicit(&ready, &table, memory_order_release); /* pairs with the loads of ready */
}

static enum choir_status fail_forked(void)
{
    return base_fail(CHOIR_ERR_FORKED,
                     "use CUDA in processes that are not forked from one using it",
                     "the parent of this process used CUDA, which does not survive a fork");
}

const struct cuda_driver *cuda_driver(void)
{
    if (base_unlikely(atomic_load_explicit(&forked, memory_order_relaxed))) {
        fail_forked();
        return NULL;
    }
    const struct cuda_driver *cu = atomic_load_explicit(&ready, memory_order_acquire);
    if (base_likely(cu != NULL))
        return cu;
    pthread_mutex_lock(&lock);
    if (!tried)
        find(0);
    cu = atomic_load_explicit(&ready, memory_order_relaxed);
    if (!cu)
        *base_error_thread() = failure;
    pthread_mutex_unlock(&lock);
    return cu;
}

/* --- whether it is used ------------------------------------------------------------------------- */

static int take_loads(struct dl_phdr_info *info, size_t bytes, void *loads)
{
    if (bytes < offsetof(struct dl_phdr_info, dlpi_adds) + sizeof(info->dlpi_adds))
        return -1;
    *(uint64_t *)loads = info->dlpi_adds;
    return 1; /* it is the process' count: any one object tells it */
}

/* To look for the library costs a walk through the file system, so it is done only after something was loaded. */
static bool look(void)
{
    uint64_t loads = 0;
    dl_iterate_phdr(take_loads, &loads);
    if (loads && loads == atomic_load_explicit(&seen, memory_order_relaxed))
        return false;
    pthread_mutex_lock(&lock);
    if (!atomic_load_explicit(&ready, memory_order_relaxed)) {
        void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
        if (library) {
            find(RTLD_NOLOAD);
            dlclose(library);
        }
    }
    bool found = atomic_load_explicit(&ready, memory_order_relaxed) != NULL;
    pthread_mutex_unlock(&lock);
    /* Afterwards only: another thread must not take an unfinished look for an answer. */
    if (!found)
        atomic_store_explicit(&seen, loads, memory_order_relaxed);
    return found;
}

bool cuda_driver_in_use(void)
{
    if (atomic_load_explicit(&used, memory_order_relaxed))
        return true;
    if (atomic_load_explicit(&forked, memory_order_relaxed))
        return false;
    if (!atomic_load_explicit(&ready, memory_order_acquire) && !look())
        return false;
    CUcontext context;
    if (table.cuCtxGetCurrent(&context) != CUDA_SUCCESS) /* CUDA_ERROR_NOT_INITIALIZED */
        return false;
    atomic_store_explicit(&used, true, memory_order_relaxed);
    return true;
}

bool cuda_driver_seen(void)
{
    return atomic_load_explicit(&used, memory_order_relaxed);
}

enum choir_status cuda_driver_init(void)
{
    const struct cuda_driver *cu = cuda_driver();
    if (!cu)
        return base_error_thread()->status;
    if (base_likely(cuda_driver_in_use()))
        return CHOIR_OK;
    CUresult r = cu->cuInit(0);
    if (r != CUDA_SUCCESS)
        return cuda_fail(r, "cuInit");
    atomic_store_explicit(&used, true, memory_order_relaxed);
    return CHOIR_OK;
}

/* --- its errors --------------------------------------------------------------------------------- */

static const struct {
    CUresult result;
    enum choir_status status;
    const char *remedy;
} meaning[] = {
    {CUDA_ERROR_OUT_OF_MEMORY, CHOIR_ERR_NO_MEMORY, "free device memory"},
    {CUDA_ERROR_STUB_LIBRARY, CHOIR_ERR_UNSUPPORTED,
     "take the toolkit's stub libcuda out of LD_LIBRARY_PATH"},
    {CUDA_ERROR_NO_DEVICE, CHOIR_ERR_UNSUPPORTED,
     "use host memory, or look at CUDA_VISIBLE_DEVICES and nvidia-smi"},
    {CUDA_ERROR_NOT_INITIALIZED, CHOIR_ERR_STATE, "use CUDA after its start and before exit"},
    {CUDA_ERROR_DEINITIALIZED, CHOIR_ERR_STATE, "make no call while the process ends"},
    {CUDA_ERROR_INVALID_CONTEXT, CHOIR_ERR_STATE,
     "make the buffers' device current first (cudaSetDevice)"},
    {CUDA_ERROR_CONTEXT_IS_DESTROYED, CHOIR_ERR_STATE,
     "destroy communicators before the device is reset"},
    {CUDA_ERROR_INVALID_HANDLE, CHOIR_ERR_POINTER, "pass a live CUDA stream"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, CHOIR_ERR_STATE, "do this outside a stream's capture"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, CHOIR_ERR_STATE, "end the capture and begin it again"},
    {CUDA_ERROR_NO_BINARY_FOR_GPU, CHOIR_ERR_UNSUPPORTED, "build with CUDA_ARCH set for this GPU"},
    {CUDA_ERROR_NOT_SUPPORTED, CHOIR_ERR_UNSUPPORTED, "see choir-info --gpus"},
    {CUDA_ERROR_NOT_PERMITTED, CHOIR_ERR_UNSUPPORTED, "see choir-info --gpus"},
    {CUDA_ERROR_INVALID_DEVICE, CHOIR_ERR_UNSUPPORTED,
     "see choir-info --gpus for which GPUs reach which"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, CHOIR_ERR_SYSTEM,
     "a kernel of this process failed: find it with compute-sanitizer"},
    {CUDA_ERROR_LAUNCH_FAILED, CHOIR_ERR_SYSTEM,
     "a kernel of this process failed: find it with compute-sanitizer"},
};

enum choir_status cuda_fail(CUresult result, const char *what)
{
    const struct cuda_driver *cu = atomic_load_explicit(&ready, memory_order_acquire);
    const char *name = NULL, *text = NULL;
    if (cu) {
        cu->cuGetErrorName(result, &name);
        cu->cuGetErrorString(result, &text);
    }
    enum choir_status status = CHOIR_ERR_SYSTEM;
    const char *remedy = "look for the error's name in the CUDA manual";
    for (size_t i = 0; i < base_count(meaning); i++)
        if (meaning[i].result == result)
            status = meaning[i].status, remedy = meaning[i].remedy;
    return base_fail(status, remedy, "%s: %s (error %d: %s)", what, name ? name : "a CUDA error",
                     (int)result, text ? text : "unknown");
}
