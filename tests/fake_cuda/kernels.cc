/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.cc: the kernels of src/cuda/kernel on CPU threads, for a handful of types and operations: one of each family of code
 * (a sum of floats, of small ones, of integers; bits; an order). What a .cu file says in CUDA's words is said here again.
 */
#ifndef __clang__ /* what a reduction of no source would read: there is always one */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "cuda/combination.h"
#include "cuda/kernel/mark.cuh"
#include "cuda/kernel/staged.cuh"
#include "cuda/kernel/pair.cuh"
#include "cuda/kernel/plan.cuh"
#include "cuda/kernel/stream.cuh"
#include "cuda/kernel/window.cuh"
#include "tests/fake_cuda/kernels.h"
#include <stdlib.h>

#define FAKE_COMBINATIONS(X)                                                                       \
    X(float32, sum) X(bfloat16, sum) X(uint32, sum) X(uint8, bor) X(int32, min)

/* What a kernel keeps in shared memory. It begins with garbage. */
struct fake_block {
    emulated sync;
    union memory {
        exchange_shared exchange;
        stream_shared stream;
        plan_shared plan;
    } shared;
};

fake_block *fake_block_create(unsigned threads)
{
    fake_block *b = (fake_block *)malloc(sizeof(*b));
    if (!b)
        abort();
    memset((void *)b, 0xa5, sizeof(*b));
    b->sync = emulated{};
    pthread_barrier_init(&b->sync.all, NULL, threads);
    return b;
}

void fake_block_free(fake_block *b)
{
    pthread_barrier_destroy(&b->sync.all);
    free(b);
}

#define ARGUMENTS                                                                                  \
    const void *const *parameter, unsigned number, unsigned blocks, unsigned thread,               \
        unsigned threads, fake_block *s

/* Lanes of a launch by turns, a sync between. */
template <class RUN>
static void each_lane(uint32_t lanes, unsigned number, unsigned blocks, unsigned thread,
                      unsigned threads, fake_block *s, RUN run)
{
    for (uint32_t lane = number; lane < lanes; lane += blocks) {
        block b = {thread, threads, lane, &s->sync};
        if (lane != number)
            b.sync();
        run(b);
    }
}

template <class T, class OP, class FORM> static void run_flagged(ARGUMENTS)
{
    const cuda_exchange_call &c = *(const cuda_exchange_call *)parameter[0];
    each_lane(c.what.lanes, number, blocks, thread, threads, s,
              [&](const block &b) { exchange_flagged<T, OP, FORM>(b, c, &s->shared.exchange); });
}

template <class T, class OP, class FORM> static void run_pair(ARGUMENTS)
{
    const cuda_pair_call &c = *(const cuda_pair_call *)parameter[0];
    uint32_t lanes = pair_lanes(c);
    each_lane(lanes, number, blocks, thread, threads, s,
              [&](const block &b) { pair_flagged<T, OP, FORM>(b, c); });
}

template <class T, class OP> static void run_stream(ARGUMENTS)
{
    const cuda_exchange_call &c = *(const cuda_exchange_call *)parameter[0];
    exchange_stream<T, OP, STREAM_UNROLL>(block{thread, threads, number, &s->sync},
                                          stream_lanes_of(c, number, blocks), c, &s->shared.stream);
}

template <class T, class OP> static void run_plan(ARGUMENTS)
{
    const cuda_plan_call &c = *(const cuda_plan_call *)parameter[0];
    each_lane(c.plan.window, number, blocks, thread, threads, s,
              [&](const block &b) { plan_lane_run<T, OP>(b, c, &s->shared.plan); });
}

/* Words of a buffer, shared out among all threads. */
#define EACH_WORD(at, bytes)                                                                       \
    for (uint64_t at = 8 * ((uint64_t)number * threads + thread); at < bytes;                      \
         at += 8 * (uint64_t)blocks * threads)

template <class T> static void run_divide(ARGUMENTS)
{
    uint8_t *data = *(uint8_t *const *)parameter[0];
    uint64_t bytes = *(const uint64_t *)parameter[1];
    uint32_t n = *(const uint32_t *)parameter[2];
    (void)s;
    EACH_WORD(at, bytes)
    store_word(data + at, divide_word<T>(load_word(data + at, bytes - at), n), bytes - at);
}

template <class T> static void run_scale(ARGUMENTS)
{
    uint8_t *to = *(uint8_t *const *)parameter[0];
    const uint8_t *from = *(const uint8_t *const *)parameter[1];
    uint64_t bytes = *(const uint64_t *)parameter[2];
    const uint8_t *scale = *(const uint8_t *const *)parameter[3];
    uint64_t by = scale ? load_word(scale, T::bytes) : *(const uint64_t *)parameter[4];
    (void)s;
    EACH_WORD(at, bytes)
    store_word(to + at, scale_word<T>(load_word(from + at, bytes - at), by), bytes - at);
}

static void run_probe(ARGUMENTS)
{
    (void)threads, (void)s, (void)blocks;
    if (!number && !thread)
        **(uint32_t *const *)parameter[1] = *(const uint32_t *)parameter[0];
}

static void run_post(ARGUMENTS)
{
    (void)threads, (void)s, (void)blocks, (void)number, (void)thread;
    if (!number && !thread)
        staged_post(*(const cuda_post_call *)parameter[0]);
}

static void run_wait(ARGUMENTS)
{
    (void)threads, (void)s, (void)blocks, (void)number, (void)thread;
    if (!number && !thread)
        staged_wait(*(const cuda_wait_call *)parameter[0]);
}

static void run_mark(ARGUMENTS)
{
    (void)threads, (void)s, (void)blocks;
    if (!number && !thread)
        leave_mark(*(const cuda_mark_call *)parameter[0]);
}

static void exchange_sends(const void *const *parameter, uint64_t *messages, uint64_t *bytes)
{
    const cuda_exchange_call &c = *(const cuda_exchange_call *)parameter[0];
    *messages = c.what.sends;
    *bytes = 0;
    for (uint32_t i = 0; i < c.what.sends; i++)
        *bytes += c.what.send[i].len * c.elem;
}

static void pair_sends(const void *const *parameter, uint64_t *messages, uint64_t *bytes)
{
    const cuda_pair_call &c = *(const cuda_pair_call *)parameter[0];
    *messages = c.sends.lanes != 0;
    *bytes = ((uint64_t)c.sends.each * c.sends.lanes + c.sends.more) * c.elem;
}

static void run_raise(ARGUMENTS)
{
    (void)threads, (void)s, (void)blocks;
    if (!number && !thread)
        signal_raise(*(const cuda_raise_call *)parameter[0]);
}

static void run_take(ARGUMENTS)
{
    (void)threads, (void)s, (void)blocks;
    if (!number && !thread)
        signal_take(*(const cuda_take_call *)parameter[0]);
}

/* --- the table ------------------------------------------------------------------------------------------ */

#define EXCHANGE_BYTES (uint16_t)sizeof(cuda_exchange_call)
#define PAIR_BYTES (uint16_t)sizeof(cuda_pair_call)
#define PLAN_BYTES (uint16_t)sizeof(cuda_plan_call)
#define ONE(name, bytes, halves, sends, ...)                                                       \
    {"choir_" name, 1, {bytes, 0, 0, 0, 0}, halves, __VA_ARGS__, sends},
#define COMBINING(suffix, T, OP)                                                                   \
    ONE("words_" suffix, EXCHANGE_BYTES, false, exchange_sends, run_flagged<T, OP, words_form>)    \
    ONE("lines_" suffix, EXCHANGE_BYTES, false, exchange_sends, run_flagged<T, OP, lines_form>)    \
    ONE("pair_words_" suffix, PAIR_BYTES, false, pair_sends, run_pair<T, OP, words_form>)          \
    ONE("pair_lines_" suffix, PAIR_BYTES, false, pair_sends, run_pair<T, OP, lines_form>)          \
    ONE("stream_" suffix, EXCHANGE_BYTES, true, exchange_sends, run_stream<T, OP>)                 \
    ONE("plan_" suffix, PLAN_BYTES, false, NULL, run_plan<T, OP>)
#define COMBINATION(type, op) COMBINING(#type "_" #op, type_##type, op_##op)
#define APPLYING(type, value)                                                                      \
    {"choir_divide_" #type, 3, {8, 8, 4, 0, 0}, false, run_divide<type_##type>, NULL},             \
        {"choir_scale_" #type, 5, {8, 8, 8, 8, 8}, false, run_scale<type_##type>, NULL},

static const fake_kernel kernels[] = {
    COMBINING("move", type_uint8, op_bxor) FAKE_COMBINATIONS(COMBINATION)
        CUDA_TYPES(APPLYING){"choir_probe", 1, {4, 0, 0, 0, 0}, false, run_probe, NULL},
    {"choir_mark", 1, {sizeof(cuda_mark_call), 0, 0, 0, 0}, false, run_mark, NULL},
    {"choir_staged_post", 1, {sizeof(cuda_post_call), 0, 0, 0, 0}, false, run_post, NULL},
    {"choir_staged_wait", 1, {sizeof(cuda_wait_call), 0, 0, 0, 0}, false, run_wait, NULL},
    {"choir_signal_raise", 1, {sizeof(cuda_raise_call), 0, 0, 0, 0}, false, run_raise, NULL},
    {"choir_signal_take", 1, {sizeof(cuda_take_call), 0, 0, 0, 0}, false, run_take, NULL}};

const fake_kernel *fake_kernel_at(unsigned i)
{
    return i < sizeof(kernels) / sizeof(kernels[0]) ? &kernels[i] : NULL;
}

const fake_kernel *fake_kernel_find(const char *name)
{
    for (const fake_kernel &k : kernels)
        if (!strcmp(k.name, name))
            return &k;
    return NULL;
}
