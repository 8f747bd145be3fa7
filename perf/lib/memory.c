/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c: a rank's buffers: host memory, or its GPU's with mirrors on the host, where inputs are made and results checked.
 */
#include "perf/lib/gpu.h"
#include "choir_cuda.h"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUARD_BYTES 4096 /* behind a buffer, to see writes past the end */

size_t perf_buffer_bytes(const struct perf_args *a)
{
    return a->max_bytes + (size_t)a->unalign * 8 + GUARD_BYTES;
}

static void *pages(const struct perf_args *a, size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "%s: no memory for buffers of %zu bytes: a smaller -e is needed\n",
                a->program, bytes);
        _exit(4);
    }
    return memory;
}

static void allocate(struct perf_thread *t, struct perf_rank *r, int k, size_t bytes)
{
    const struct perf_args *a = t->job->args;
    if (a->cuda) {
        r->memory[k] = t->job->gpu->alloc(r->gpu, bytes);
        r->mirror[k] = pages(a, bytes);
        return;
    }
    if (a->choir_memory)
        perf_check(t, NULL, choir_mem_alloc(bytes, &r->memory[k]), "choir_mem_alloc");
    else
        r->memory[k] = pages(a, bytes);
    memset(r->memory[k], 0, bytes); /* fault the pages in */
}

void perf_memory_open(struct perf_thread *t, struct perf_rank *r)
{
    const struct perf_args *a = t->job->args;
    size_t bytes = perf_buffer_bytes(a);
    for (int k = 0; k < 2; k++) {
        allocate(t, r, k, bytes);
        if (a->reg == 1)
            perf_check(t, r->call.comm,
                       choir_register(r->call.comm, r->memory[k], bytes, &r->region[k]),
                       "choir_register");
        if (a->reg == 2)
            perf_check(t, r->call.comm,
                       choir_window_create(r->call.comm, r->memory[k], bytes, &r->window[k]),
                       "choir_window_create");
    }
    if (a->cuda)
        r->call.stream = choir_stream_from_cuda(t->job->gpu->stream(r->gpu));
    else if (!a->stream_null)
        perf_check(t, NULL, choir_stream_create(&r->call.stream), "choir_stream_create");
}

void perf_memory_close(struct perf_thread *t, struct perf_rank *r)
{
    const struct perf_args *a = t->job->args;
    size_t bytes = perf_buffer_bytes(a);
    if (r->call.stream)
        choir_stream_destroy(r->call.stream);
    for (int k = 0; k < 2; k++) {
        if (r->region[k])
            choir_deregister(r->call.comm, r->region[k]);
        if (r->window[k])
            choir_window_destroy(r->window[k]);
        if (a->cuda) {
            t->job->gpu->release(r->gpu, r->memory[k]);
            munmap(r->mirror[k], bytes);
        } else if (a->choir_memory) {
            choir_mem_free(r->memory[k]);
        } else {
            munmap(r->memory[k], bytes);
        }
    }
}
