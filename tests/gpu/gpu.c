/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests on GPUs share; see gpu.h. */
#include "tests/gpu/gpu.h"
#include "cuda/combination.h"
#include "plan/plan.h"
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARENA_BYTES (256u << 20)

void gpu_check(CUresult r, const char *what, const char *file, int line)
{
    const char *name = "?";
    if (r == CUDA_SUCCESS)
        return;
    cuda_driver()->cuGetErrorName(r, &name);
    test_fail_at(file, line, "%s: %s", what, name);
}

static int count_here(void)
{
    int n = 0;
    if (cuda_driver_init() != CHOIR_OK || cuda_driver()->cuDeviceGetCount(&n) != CUDA_SUCCESS)
        return 0;
    return n;
}

int gpu_count(void)
{
    int *shared = test_shared(sizeof(*shared));
    pid_t pid = fork();
    if (!pid) {
        *shared = count_here();
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    return *shared;
}

static void *take(void *context, const void *memory, uint64_t bytes)
{
    void *there = gpu_alloc(context, bytes);
    gpu_put(context, there, memory, bytes);
    return there;
}

static void give(void *context, void *taken, void *memory, uint64_t bytes)
{
    gpu_get(context, memory, taken, bytes);
    gpu_free(context, taken);
}

void gpu_open(struct gpu *g, int rank)
{
    int n = 0;
    CUdevice device;
    CHECK_OK(cuda_driver_init());
    *g = (struct gpu){.cu = cuda_driver()};
    GPU_OK(g->cu->cuDeviceGetCount(&n));
    CHECK(n > 0);
    g->ordinal = rank % n;
    GPU_OK(g->cu->cuDeviceGet(&device, g->ordinal));
    GPU_OK(g->cu->cuDevicePrimaryCtxRetain(&g->context, device));
    GPU_OK(g->cu->cuCtxSetCurrent(g->context));
    GPU_OK(g->cu->cuStreamCreateWithPriority(&g->stream, CU_STREAM_NON_BLOCKING, 0));
    g->choir = choir_stream_from_cuda(g->stream);
    CUdeviceptr arena;
    g->arena_bytes = ARENA_BYTES;
    GPU_OK(g->cu->cuMemAlloc(&arena, ARENA_BYTES));
    g->arena = (uint8_t *)(uintptr_t)arena;
    g->elsewhere = (struct matrix_elsewhere){take, give, g};
}

void gpu_close(struct gpu *g)
{
    GPU_OK(g->cu->cuStreamSynchronize(g->stream));
    GPU_OK(g->cu->cuStreamDestroy(g->stream));
    GPU_OK(g->cu->cuMemFree((CUdeviceptr)(uintptr_t)g->arena));
}

void *gpu_alloc(struct gpu *g, uint64_t bytes)
{
    uint8_t *p = g->arena + g->arena_used;
    g->arena_used += (bytes + 511) & ~511ull;
    CHECK(g->arena_used <= g->arena_bytes);
    return p;
}

void gpu_free(struct gpu *g, void *memory)
{
    g->arena_used = (uint64_t)((uint8_t *)memory - g->arena);
}

void gpu_put(struct gpu *g, void *to, const void *from, uint64_t bytes)
{
    GPU_OK(g->cu->cuMemcpyHtoDAsync((CUdeviceptr)(uintptr_t)to, from, bytes, g->stream));
    GPU_OK(g->cu->cuStreamSynchronize(g->stream));
}

void gpu_get(struct gpu *g, void *to, const void *from, uint64_t bytes)
{
    GPU_OK(g->cu->cuStreamSynchronize(g->stream));
    GPU_OK(g->cu->cuMemcpyDtoHAsync(to, (CUdeviceptr)(uintptr_t)from, bytes, g->stream));
    GPU_OK(g->cu->cuStreamSynchronize(g->stream));
}

void gpu_side_open(struct gpu_side *s, const struct choir_id *id, int rank, int size,
                   const struct choir_config *config)
{
    *s = (struct gpu_side){.rank = rank, .size = size};
    gpu_open(&s->g, rank);
    CHECK_OK(choir_comm_create(id, rank, size, config, &s->c));
    s->in = gpu_alloc(&s->g, GPU_SIDE_MOST * 4), s->out = gpu_alloc(&s->g, GPU_SIDE_MOST * 4);
    s->host = malloc(GPU_SIDE_MOST * 4);
}

void gpu_side_close(struct gpu_side *s)
{
    CHECK_OK(choir_comm_destroy(s->c));
    gpu_close(&s->g);
    free(s->host);
}

void gpu_side_fill(struct gpu_side *s, uint32_t count, uint32_t salt)
{
    for (uint32_t i = 0; i < count; i++)
        s->host[i] = (float)((i * 7 + salt * 13 + (uint32_t)s->rank) % 512);
    gpu_put(&s->g, s->in, s->host, count * 4);
}

void gpu_side_check(struct gpu_side *s, uint32_t count, uint32_t salt)
{
    gpu_get(&s->g, s->host, s->out, count * 4);
    for (uint32_t i = 0; i < count; i++) {
        float want = 0;
        for (uint32_t r = 0; r < (uint32_t)s->size; r++)
            want += (float)((i * 7 + salt * 13 + r) % 512);
        if (s->host[i] != want)
            FAIL("rank %d of %d, %u elements, salt %u: element %u is %g, not %g", s->rank, s->size,
                 count, salt, i, (double)s->host[i], (double)want);
    }
}

void gpu_side_sum(struct gpu_side *s, uint32_t count, uint32_t salt)
{
    gpu_side_fill(s, count, salt);
    CHECK_OK(choir_all_reduce(s->c, s->in, s->out, count, CHOIR_FLOAT32, CHOIR_SUM, s->g.choir));
    gpu_side_check(s, count, salt);
}

void gpu_check_refused(choir_comm *c, enum choir_status got, enum choir_status want)
{
    struct choir_error e = {.bytes = sizeof(e)};
    CHECK_EQ(got, want);
    CHECK_OK(choir_comm_last_error(c, &e));
    CHECK_EQ(e.status, want);
    CHECK(e.text[0] && e.remedy[0]);
}

/* A function that only the fake driver has. */
static bool (*fake_has(void))(const char *)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    bool (*has)(const char *) = NULL;
    if (library) {
        *(void **)&has = dlsym(library, "fake_cuda_has");
        dlclose(library);
    }
    return has;
}

bool gpu_is_fake(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW); /* as the library does: it stays */
    return library && fake_has();
}

/* The fake driver has kernels for few types and operations, and says for which. */
static bool has_kernel(const struct sample *s)
{
    bool (*has)(const char *) = fake_has();
    char name[64];
    const struct cuda_combination *pair =
        cuda_combination_find(s->type, s->op == CHOIR_OPS ? CHOIR_SUM : s->op);
    snprintf(name, sizeof(name), "choir_plan_%s", pair ? pair->suffix : "");
    return !has || has(name);
}

void gpu_draw(struct matrix_op *op, enum choir_kind kind, int size, uint64_t slot, uint64_t *draw)
{
    do
        matrix_draw(op, kind, size, slot, draw);
    while (op->sample.op == CHOIR_OPS + 1 /* a function of the program */ ||
           (plan_kind_reduces(kind) && !has_kernel(&op->sample)));
    op->mapped = false;
}

struct choir_memory gpu_side_memory(choir_comm *c)
{
    struct choir_memory m = {.bytes = sizeof(m)};
    CHECK_OK(choir_comm_memory(c, &m));
    return m;
}

size_t gpu_side_left(struct gpu_side *s)
{
    size_t bytes = 0, most;
    GPU_OK(s->g.cu->cuMemGetInfo(&bytes, &most));
    return bytes;
}

void gpu_side_meet(choir_comm *c)
{
    CHECK_OK(choir_barrier(c, NULL));
}

void gpu_run(int ranks, int per_process, const char *setting, void (*fn)(int, int, void *))
{
    struct gpu_job j;
    const char *env[] = {"CHOIR_TIMEOUT=20s", setting, NULL};
    struct test_ranks t = {
        .ranks = ranks, .per_process = per_process, .env = env, .fn = fn, .arg = &j};
    if (!gpu_count())
        test_skip("GPUs: there is none");
    test_deadline(120);
    test_id(&j.id);
    if (!test_ranks_try(&t))
        FAIL("%d ranks, %d in a process, %s", ranks, per_process, setting ? setting : "");
}
