/* SPDX-License-Identifier: Apache-2.0 */
/*
 * module.c: kernels. Every module has all of kernels.cc, whatever image it is made of, and the word of the probe. A launch runs
 * as one to FAKE_CUDA_BLOCKS blocks of one to FAKE_CUDA_THREADS threads, all at the same time: blocks take lanes in turn, and the
 * lowest lane that is not done anywhere can always go on. (One after another they could not: ranks with different numbers of
 * blocks would wait for each other.)
 */
#include "tests/fake_cuda/fake.h"
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCKS 8
#define THREADS 8
#define GRID_THREADS 512 /* what the kernels' launch bounds allow */

struct CUmod_st {
    CUcontext context;
    bool gone;
    _Alignas(16) uint32_t word; /* choir_probe_word */
};
struct CUfunc_st {
    CUfunction next;
    CUmodule module;
    const struct fake_kernel *kernel;
};
static CUfunction functions;

/* --- modules -------------------------------------------------------------------------------------------- */

FAKE_API CUresult cuModuleLoadData(CUmodule *out, const void *image)
{
    FAKE_READY();
    CUcontext context = fake_context();
    if (!context)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!image)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult r = fake_unsafe();
    CUmodule m = r == CUDA_SUCCESS ? fake_keep(sizeof(*m)) : NULL;
    if (!m)
        return r == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : r;
    m->context = context;
    struct fake_memory word = {
        .kind = FAKE_GLOBAL, .context = context, .at = (uint8_t *)&m->word, .bytes = 4, .fd = -1};
    pthread_mutex_lock(&fake_lock);
    fake_memory_add(&word);
    pthread_mutex_unlock(&fake_lock);
    *out = m;
    return CUDA_SUCCESS;
}

static CUresult check(CUmodule m)
{
    FAKE_READY();
    return !m || m->gone ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

FAKE_API CUresult cuModuleUnload(CUmodule m)
{
    CUresult r = check(m);
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&fake_lock);
    free(fake_memory_take(&m->word, FAKE_GLOBAL));
    m->gone = true;
    pthread_mutex_unlock(&fake_lock);
    return r;
}

FAKE_API CUresult cuModuleGetGlobal(CUdeviceptr *at, size_t *bytes, CUmodule m, const char *name)
{
    CUresult r = check(m);
    if (r != CUDA_SUCCESS || strcmp(name, "choir_probe_word"))
        return r == CUDA_SUCCESS ? CUDA_ERROR_NOT_FOUND : r;
    if (at)
        *at = (CUdeviceptr)(uintptr_t)&m->word;
    if (bytes)
        *bytes = sizeof(m->word);
    return r;
}

static CUfunction function_of(CUmodule m, const struct fake_kernel *k)
{
    CUfunction f = functions;
    while (f && (f->module != m || f->kernel != k))
        f = f->next;
    if (f || !(f = fake_keep(sizeof(*f))))
        return f;
    *f = (struct CUfunc_st){.next = functions, .module = m, .kernel = k};
    return functions = f;
}

FAKE_API CUresult cuModuleGetFunction(CUfunction *out, CUmodule m, const char *name)
{
    static char missed[64]; /* the library asks each of its modules: once is enough */
    CUresult r = check(m);
    if (r != CUDA_SUCCESS)
        return r;
    const struct fake_kernel *k = fake_kernel_find(name);
    pthread_mutex_lock(&fake_lock);
    if (!k && strcmp(missed, name)) {
        snprintf(missed, sizeof(missed), "%s", name);
        fprintf(stderr, "fake CUDA: there is no kernel %s in tests/fake_cuda/kernels.cc\n", name);
    }
    CUfunction f = k ? function_of(m, k) : NULL;
    pthread_mutex_unlock(&fake_lock);
    if (f)
        *out = f;
    return f ? CUDA_SUCCESS : k ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_NOT_FOUND;
}

/* Whether a test can ask for it: a real driver has no such function. */
FAKE_API bool fake_cuda_has(const char *name);
FAKE_API bool fake_cuda_has(const char *name)
{
    return fake_kernel_find(name) != NULL;
}

static bool live(CUfunction f)
{
    CUfunction at = functions;
    while (at && at != f)
        at = at->next;
    return at && !at->module->gone;
}

/* All are loaded with their module. */
FAKE_API CUresult cuFuncLoad(CUfunction f)
{
    FAKE_READY();
    pthread_mutex_lock(&fake_lock);
    bool known = live(f);
    pthread_mutex_unlock(&fake_lock);
    return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

FAKE_API CUresult cuModuleGetFunctionCount(unsigned int *count, CUmodule m)
{
    CUresult r = check(m);
    for (*count = 0; r == CUDA_SUCCESS && fake_kernel_at(*count);)
        ++*count;
    return r;
}

FAKE_API CUresult cuModuleEnumerateFunctions(CUfunction *out, unsigned int n, CUmodule m)
{
    CUresult r = check(m);
    pthread_mutex_lock(&fake_lock);
    for (unsigned i = 0; i < n && r == CUDA_SUCCESS && fake_kernel_at(i); i++)
        if (!(out[i] = function_of(m, fake_kernel_at(i))))
            r = CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_unlock(&fake_lock);
    return r;
}

FAKE_API CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute which, int value)
{
    FAKE_READY();
    (void)f, (void)which, (void)value;
    return CUDA_ERROR_NOT_SUPPORTED;
}

/* --- launches -------------------------------------------------------------------------------------------- */

struct member { /* a thread of a launch */
    const struct fake_kernel *kernel;
    const void *const *parameters;
    unsigned block, blocks, thread, threads;
    struct fake_block *shared;
    pthread_t id;
};

static void *run_member(void *arg)
{
    const struct member *m = arg;
    m->kernel->run(m->parameters, m->block, m->blocks, m->thread, m->threads, m->shared);
    return NULL;
}

_Thread_local uint64_t fake_clock_ns;

static void tick(const struct fake_kernel *k, const void *const *parameters)
{
    const char *clock = getenv("FAKE_CUDA_CLOCK");
    double ns = 0, message = 0, mib = 0;
    uint64_t messages = 0, bytes = 0;
    if (!clock || sscanf(clock, "%lf:%lf:%lf", &ns, &message, &mib) != 3)
        return;
    if (k->sends)
        k->sends(parameters, &messages, &bytes);
    fake_clock_ns += (uint64_t)(ns + message * (double)messages + mib * (double)bytes / (1 << 20));
}

static void run(const struct fake_work *w)
{
    const struct fake_kernel *k = w->u.launch.kernel;
    unsigned blocks = w->u.launch.blocks, threads = w->u.launch.threads, n = blocks * threads;
    const void *parameters[sizeof(k->bytes) / sizeof(k->bytes[0]) + 1];
    struct member member[BLOCKS * THREADS];
    pthread_attr_t small;
    const unsigned char *at = w->parameters;
    for (unsigned i = 0; i < k->parameters; i++) {
        parameters[i] = at;
        at += (k->bytes[i] + 15u) & ~15u;
    }
    parameters[k->parameters] = at; /* the module's word */
    tick(k, parameters);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 512 << 10);
    for (unsigned i = 0; i < n; i++) {
        struct fake_block *shared = i % threads ? member[i - 1].shared : fake_block_create(threads);
        member[i] =
            (struct member){k, parameters, i / threads, blocks, i % threads, threads, shared, 0};
    }
    for (unsigned i = 1; i < n; i++)
        if (pthread_create(&member[i].id, &small, run_member, &member[i]))
            abort();
    run_member(&member[0]);
    for (unsigned i = 1; i < n; i++)
        pthread_join(member[i].id, NULL);
    for (unsigned i = 0; i < n; i += threads)
        fake_block_free(member[i].shared);
    pthread_attr_destroy(&small);
}

/* One to `most`, by chance: blocks and threads of ranks and operations differ. */
static unsigned draw(const char *name, unsigned limit)
{
    static uint64_t state = 88172645463325252u;
    int most = fake_number(name, 2);
    most = most < 1 ? 1 : most > (int)limit ? (int)limit : most;
    uint64_t x = __atomic_add_fetch(&state, 0x9e3779b97f4a7c15u, __ATOMIC_RELAXED);
    x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9u;
    return 1 + (unsigned)((x >> 33) % (unsigned)most);
}

static _Atomic unsigned widest;

/* The most blocks of any launch since the last question, for tests. */
FAKE_API unsigned fake_cuda_widest(void);
FAKE_API unsigned fake_cuda_widest(void)
{
    return atomic_exchange(&widest, 0);
}

/* At the launch that FAKE_CUDA_LAUNCHES names. */
static void die_or_stop(void)
{
    static _Atomic int launches;
    int now = ++launches, at = fake_number("FAKE_CUDA_LAUNCHES", 0);
    if (now == at)
        _exit(0);
    if (now == -at)
        raise(SIGSTOP);
}

static CUresult launch(CUfunction f, unsigned grid, unsigned block, unsigned shared,
                       CUstream handle, void **parameters, void **extra)
{
    FAKE_READY();
    CUstream s = NULL;
    unsigned char bytes[FAKE_PARAMETERS];
    size_t used = 0;
    pthread_mutex_lock(&fake_lock);
    CUresult r = fake_stream_of(handle, &s);
    if (r == CUDA_SUCCESS && (!f || !live(f) || s->context != f->module->context))
        r = CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_unlock(&fake_lock);
    if (r != CUDA_SUCCESS)
        return r;
    const struct fake_kernel *k = f->kernel;
    if (!grid || !block || block > 1024 || (k->parameters && !parameters && !extra))
        return CUDA_ERROR_INVALID_VALUE;
    if (block > GRID_THREADS)
        return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    if (extra || shared)
        return CUDA_ERROR_NOT_SUPPORTED;
    die_or_stop();
    for (unsigned i = 0; i < k->parameters; i++) {
        if (!parameters[i] || used + k->bytes[i] + 32u > sizeof(bytes))
            return CUDA_ERROR_INVALID_VALUE;
        memcpy(bytes + used, parameters[i], k->bytes[i]);
        used += (k->bytes[i] + 15u) & ~15u;
    }
    void *word = &f->module->word; /* what the probe writes is its own module's */
    memcpy(bytes + used, &word, sizeof(word));
    used += sizeof(word);
    for (unsigned seen = widest; seen < grid;)
        if (atomic_compare_exchange_weak(&widest, &seen, grid))
            break;
    struct fake_work w = {.run = run, .u.launch = {k, draw("FAKE_CUDA_BLOCKS", BLOCKS), 0}};
    w.u.launch.threads = draw("FAKE_CUDA_THREADS", THREADS);
    if (k->halves)
        w.u.launch.threads = (w.u.launch.threads + 1) & ~1u;
    if (w.u.launch.blocks > grid)
        w.u.launch.blocks = grid;
    return fake_push_sized(handle, &w, bytes, used);
}

FAKE_API CUresult cuLaunchKernel(CUfunction f, unsigned int x, unsigned int y, unsigned int z,
                                 unsigned int bx, unsigned int by, unsigned int bz,
                                 unsigned int shared, CUstream stream, void **parameters,
                                 void **extra)
{
    if (!y || !z || !by || !bz)
        return CUDA_ERROR_INVALID_VALUE;
    if (y > 1 || z > 1 || by > 1 || bz > 1)
        return CUDA_ERROR_NOT_SUPPORTED;
    return launch(f, x, bx, shared, stream, parameters, extra);
}

FAKE_API CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **parameters,
                                   void **extra)
{
    if (!c)
        return CUDA_ERROR_INVALID_VALUE;
    if (c->numAttrs)
        return CUDA_ERROR_NOT_SUPPORTED;
    return cuLaunchKernel(f, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX, c->blockDimY,
                          c->blockDimZ, c->sharedMemBytes, c->hStream, parameters, extra);
}
