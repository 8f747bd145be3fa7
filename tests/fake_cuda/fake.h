/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake.h: a CUDA driver for tests on machines without a GPU, as its files share it. Built as libcuda.so.1, which the library
 * finds by LD_LIBRARY_PATH. GPUs are numbers, their memory is memory that processes share, a stream is a thread, and a kernel
 * is the library's own code, run by a few CPU threads. What is not done here returns CUDA_ERROR_NOT_SUPPORTED.
 *
 *   device.c   GPUs, contexts             memory.c   allocations, what pointers are     share.c   between processes
 *   vmm.c      physical memory, mapped at addresses
 *   stream.c   streams and their threads  work.c     what streams do                    memop.c   waits and writes of words
 *   event.c    events                     graph.c    capture; replay.c                  module.c  kernels by name, launches
 *   kernels.cc the kernels                absent.c   what is not there                  error.c   names of errors
 *
 * Environment: FAKE_CUDA_GPUS (2), FAKE_CUDA_BLOCKS and FAKE_CUDA_THREADS (2, 2: of a kernel, at most; how many is drawn),
 * FAKE_CUDA_FREE_WAITS (1: to free memory waits for all that runs on the GPU, as the driver's may), FAKE_CUDA_LINK (0: the
 * rank of performance of all links), FAKE_CUDA_CLOCK ("A:B:C": to events a kernel has taken A ns, B for each message that it
 * sends, C ns for each MiB), FAKE_CUDA_LAUNCHES (the process ends, without a goodbye, at so many launches; -N: it stops at N,
 * by SIGSTOP), FAKE_CUDA_VMM (1; 0: no GPU maps physical memory, 2: none imports it), FAKE_CUDA_MEMORY (bytes of a GPU's memory,
 * which every process has for itself).
 *
 * One lock guards all of it but for what streams' threads do meanwhile. Streams, events, graphs and contexts are never freed,
 * only marked as gone, so that the use of one that is gone is always found.
 */
#ifndef FAKE_CUDA_FAKE_H
#define FAKE_CUDA_FAKE_H

#include "tests/fake_cuda/kernels.h"
#include <cuda.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAKE_GPUS 8
#define FAKE_LANES 16 /* streams of a capture */
#define FAKE_PARAMETERS 4096

extern pthread_mutex_t fake_lock;
extern pthread_cond_t fake_changed; /* some stream has done something */

/* Whether a call may be made at all: initialised, not in the child of a fork nor in a host function. */
CUresult fake_ready(void);
int fake_number(const char *name, int usual); /* of the environment */
void *fake_keep(size_t bytes);                /* zeroed memory that is never freed, and no leak */
extern _Thread_local bool fake_in_host_function;
extern _Thread_local uint64_t
    fake_clock_ns; /* of a stream, in its thread: what FAKE_CUDA_CLOCK says of its kernels */

/* --- contexts ------------------------------------------------------------------------------------- */

struct CUctx_st { /* the primary one of a GPU */
    int gpu;
    unsigned long long id;
    int retained;
    CUstream null;
    bool reaches[FAKE_GPUS];
};
CUcontext fake_context(void); /* the thread's current one, or NULL */
bool fake_context_live(CUcontext context);
CUcontext fake_primary(int gpu);

/* --- memory ---------------------------------------------------------------------------------------- */

enum fake_kind { FAKE_DEVICE, FAKE_HOST, FAKE_REGISTERED, FAKE_OPENED, FAKE_MAPPED, FAKE_GLOBAL };
struct fake_memory {
    struct fake_memory *next;
    enum fake_kind kind;
    CUcontext context;
    uint8_t *at;
    size_t bytes, mapped;
    uint64_t id;    /* never used again */
    int fd;         /* -1: none */
    uint64_t inode; /* of what is shared */
    int opens;
    uint32_t access; /* FAKE_MAPPED: bit i: GPU i has it */
};
/* With the lock held. */
struct fake_memory *fake_memory_of(const void *at, size_t bytes);
struct fake_memory *fake_memory_first(void);
void fake_memory_add(const struct fake_memory *m);
struct fake_memory *fake_memory_take(const void *at, enum fake_kind kind); /* for free() */
/* The same once all that runs on its GPU has ended, as the driver may wait; what: the call. */
struct fake_memory *fake_memory_take_idle(const void *at, enum fake_kind kind, const char *what);
void fake_memory_reset(CUcontext context); /* allocations and registrations end */
/* Maps a file as memory; NULL: no room. */
uint8_t *fake_map(int fd, size_t bytes);
void fake_poison(uint8_t *at, size_t bytes); /* fresh memory is garbage */
/* Without the lock: bytes that the process may still have of a GPU's. */
uint64_t fake_free(int gpu);
uint64_t fake_vmm_bytes(int gpu); /* physical memory that it has, with the lock held */

/* --- streams ------------------------------------------------------------------------------------------ */

struct fake_capture;
struct CUstream_st {
    CUstream next;
    CUcontext context;
    pthread_t thread;
    pthread_cond_t wake;
    struct fake_work *head, *tail;
    uint64_t pushed, done; /* pieces of work, numbered from 1 */
    bool ended;
    struct fake_capture *capture; /* NULL: none */
    uint32_t lane;                /* of the capture */
};
/* A handle's stream, the thread's default one for 0; with the lock held. */
CUresult fake_stream_of(CUstream handle, CUstream *stream);
CUresult fake_stream_create(CUcontext context, CUstream *stream);
/* Waits, with the lock held, until the stream has done so much; says so if that takes long. */
void fake_stream_await(CUstream s, uint64_t done, const char *what);
/* The same for all that streams of a GPU have got. */
void fake_gpu_await(int gpu, const char *what);

/* --- work ---------------------------------------------------------------------------------------------- */

struct fake_work {
    struct fake_work *next;
    void (*run)(const struct fake_work *w); /* NULL: `join`, in a graph only */
    uint32_t lane;
    union {
        struct {
            void *to;
            const void *from;
            size_t bytes, width, height, to_pitch, from_pitch;
        } copy;
        struct {
            void *to;
            uint32_t value;
            size_t count, each;
        } set;
        struct {
            CUhostFn fn;
            void *data;
        } host;
        struct {
            void *at;
            uint64_t value;
            unsigned flags, bytes;
        } memop;
        struct {
            CUstream stream;
            uint64_t done;
        } wait;
        struct {
            uint32_t lane;
            uint64_t done;
        } join;
        struct {
            CUevent event;
            uint64_t number;
        } record;
        CUgraphExec exec;
        struct {
            const struct fake_kernel *kernel;
            unsigned blocks, threads;
        } launch;
    } u;
    _Alignas(16) unsigned char parameters[]; /* of a launch */
};
/* Puts a piece of work into a stream, or into the graph that it is captured into. */
CUresult fake_push(CUstream handle, const struct fake_work *w);
CUresult fake_push_sized(CUstream handle, const struct fake_work *w, const void *parameters,
                         size_t bytes);
/* Into a stream that is not captured, with the lock held. */
CUresult fake_queue(CUstream s, const struct fake_work *w, const void *parameters, size_t bytes);

/* --- events and graphs ---------------------------------------------------------------------------------- */

struct CUevent_st {
    bool gone, timed;
    CUstream stream; /* where it was recorded last; NULL: never */
    uint64_t at, number;
    uint64_t time_ns, time_number;
    struct fake_capture *capture; /* it was recorded into this one */
    uint32_t lane;
    uint64_t node;
    uint64_t clock[FAKE_LANES];
};

/*
 * Streams of a capture are lanes of a graph. clock[a][b]: how many nodes of lane b come before what lane a does next; when the
 * capture ends, all nodes must come before the end of lane 0.
 */
struct fake_capture {
    CUstreamCaptureMode mode;
    uint64_t owner, id; /* owner: thread that began it */
    bool invalid;
    uint32_t lanes;
    CUstream stream[FAKE_LANES];
    uint64_t nodes[FAKE_LANES], clock[FAKE_LANES][FAKE_LANES];
    CUgraph graph;
    struct fake_capture *next; /* under way */
};
struct CUgraph_st {
    bool gone;
    uint32_t lanes;
    struct fake_work *head[FAKE_LANES], *tail[FAKE_LANES];
};
struct CUgraphExec_st {
    bool gone;
    uint32_t lanes;
    struct fake_work *head[FAKE_LANES];
    CUstream stream; /* of the last launch */
    uint64_t at;
};
/* With the lock held. Adds to the capture of a stream. */
CUresult fake_capture_add(CUstream s, const struct fake_work *w, const void *parameters,
                          size_t bytes);
CUresult fake_capture_wait(CUstream s, CUevent e);
struct fake_work *fake_work_copy(const struct fake_work *w, const void *parameters, size_t bytes);
/* A call that may not be made during a capture: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, and the captures in its way are
 * invalid from now on. Takes the lock. */
CUresult fake_unsafe(void);
/* The same of a call on a captured stream, with the lock held. */
CUresult fake_capture_broken(struct fake_capture *c);
/* Of a call about a whole context. */
CUresult fake_context_captured(CUcontext context);

#define FAKE_API __attribute__((visibility("default")))
#define FAKE_READY()                                                                               \
    do {                                                                                           \
        CUresult fake_ready_result = fake_ready();                                                 \
        if (fake_ready_result != CUDA_SUCCESS)                                                     \
            return fake_ready_result;                                                              \
    } while (0)

#endif
