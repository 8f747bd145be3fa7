/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch.c: puts an operation into a CUDA stream: one kernel for most. Nothing is allocated or waited for here, so it may be
 * captured into a graph. Numbers of messages are kept in device memory, so replays go on where the last one ended.
 *
 * Kernels of exchanges scale and divide by the way, but for averages of signed integers, which their combining kernels know as
 * unsigned; around any other plan's kernel, kernels of their own do.
 */
#include "cuda/bound.h"
#include "cuda/combination.h"
#include "cuda/pair.h"
#include "cuda/stream.h"
#include <stdio.h>
#include <string.h>

#define APPLY_BLOCKS 128u

struct scalar { /* what inputs are multiplied by */
    uint64_t value;
    const void *at; /* NULL: value */
};

static enum choir_status find(struct cuda_comm *comm, CUfunction *kept, const char *prefix,
                              const char *suffix)
{
    char name[64];
    if (base_likely(*kept != NULL))
        return CHOIR_OK;
    snprintf(name, sizeof(name), "choir_%s_%s", prefix, suffix);
    return cuda_device_function(comm->device, name, kept);
}

static enum choir_status launch(CUfunction f, uint32_t blocks, uint32_t threads, CUstream stream,
                                void **arguments)
{
    CUresult r =
        cuda_driver()->cuLaunchKernel(f, blocks, 1, 1, threads, 1, 1, 0, stream, arguments, NULL);
    return r == CUDA_SUCCESS ? CHOIR_OK : cuda_fail(r, "launching a collective");
}

/* Blocks for so many lanes. A block waits for its peers, so the blocks of all communicators of a device must have room at once,
 * each on a multiprocessor of its own: crossing orders of their operations would else wait for each other for ever. */
static uint32_t blocks_for(const struct cuda_comm *comm, const struct cuda_work *w, uint32_t lanes)
{
    uint32_t sharers =
        base_max(atomic_load_explicit(&comm->device->comms, memory_order_relaxed), 1u);
    uint32_t room = base_max((uint32_t)comm->device->gpu.sms / sharers, 1u);
    return base_min(lanes, w->max_blocks ? base_min(room, w->max_blocks) : room);
}

/* Lanes that a block has at once, each a team's of either half, where there are more lanes than blocks. */
static uint32_t teams_for(uint32_t lanes, uint32_t blocks)
{
    uint32_t each = (lanes + blocks - 1) / blocks;
    return each < 2 ? 1 : each < 4 ? 2 : 4;
}

/* Of a kernel that waits for nobody. */
static uint32_t apply_blocks(const struct cuda_work *w)
{
    return w->max_blocks ? base_min(APPLY_BLOCKS, w->max_blocks) : APPLY_BLOCKS;
}

static struct cuda_view view_of(const struct cuda_comm *comm, const struct cuda_work *w)
{
    struct cuda_view view = comm->view;
    if (w->limit_ns)
        view.guard.limit_ns = w->limit_ns;
    return view;
}

/* The kernel of a form for a type and operation. */
static enum choir_status pick(struct cuda_comm *comm, const struct cuda_work *w,
                              enum cuda_form form, CUfunction *function)
{
    static const char *const prefix[CUDA_FORMS] = {"words", "lines",      "stream",
                                                   "plan",  "pair_words", "pair_lines"};
    /* Mere movement is the same for all. */
    CUfunction *kept = w->reduces ? &comm->combine[form][w->type][w->op] : &comm->move[form];
    const char *suffix = "move";
    if (base_unlikely(!*kept) && w->reduces) {
        const struct cuda_combination *pair = cuda_combination_find(w->type, w->op);
        if (!pair)
            return base_fail(CHOIR_ERR_OP, "use an operation that is defined for the type",
                             "op %s is not defined for type %s", choir_op_name(w->op),
                             choir_type_name(w->type));
        suffix = pair->suffix;
    }
    enum choir_status st = find(comm, kept, prefix[form], suffix);
    *function = *kept;
    return st;
}

/* --- scaling and dividing ------------------------------------------------------------------------------- */

static const char *type_suffix(enum choir_type type)
{
    static const char *const name[CHOIR_TYPES] = {
#define SUFFIX(lower, value) [value] = #lower,
        CUDA_TYPES(SUFFIX)
#undef SUFFIX
    };
    return name[type];
}

static enum choir_status divide(struct cuda_comm *comm, const struct cuda_work *w, void *data,
                                uint64_t bytes, uint32_t by)
{
    enum choir_status st = find(comm, &comm->divide[w->type], "divide", type_suffix(w->type));
    void *arguments[] = {&data, &bytes, &by};
    if (st != CHOIR_OK || !bytes)
        return st;
    return launch(comm->divide[w->type], apply_blocks(w), CUDA_THREADS, w->stream, arguments);
}

static enum choir_status scale(struct cuda_comm *comm, const struct cuda_work *w, void *to,
                               struct scalar by)
{
    enum choir_status st = find(comm, &comm->scale[w->type], "scale", type_suffix(w->type));
    uint64_t bytes = w->in_bytes;
    const void *from = w->in;
    void *arguments[] = {&to, &from, &bytes, &by.at, &by.value};
    if (st != CHOIR_OK || !bytes)
        return st;
    return launch(comm->scale[w->type], apply_blocks(w), CUDA_THREADS, w->stream, arguments);
}

/* Inputs as the plan wants them, where they may be written. */
static enum choir_status prepare(struct cuda_comm *comm, const struct cuda_work *w,
                                 struct scalar by, const void **in)
{
    if (!w->scaled && !w->divide_in)
        return CHOIR_OK;
    void *to = w->bound->scratch ? w->bound->scratch : w->out;
    *in = to;
    if (w->scaled)
        return scale(comm, w, to, by);
    if (to != w->in) {
        CUresult r = cuda_driver()->cuMemcpyDtoDAsync(
            (CUdeviceptr)(uintptr_t)to, (CUdeviceptr)(uintptr_t)w->in, w->in_bytes, w->stream);
        if (r != CUDA_SUCCESS)
            return cuda_fail(r, "copying an input");
    }
    return divide(comm, w, to, w->in_bytes, w->divide_in);
}

/* --- kernels of plans ------------------------------------------------------------------------------------ */

static enum choir_status run_exchanges(struct cuda_comm *comm, const struct cuda_work *w,
                                       struct scalar by)
{
    const struct cuda_bound *b = w->bound;
    bool later = w->type == CHOIR_INT8 || w->type == CHOIR_INT16 || w->type == CHOIR_INT32 ||
                 w->type == CHOIR_INT64;
    struct cuda_exchange_call call = {.view = view_of(comm, w),
                                      .in = w->in,
                                      .out = w->out,
                                      .signature = w->signature,
                                      .elem = b->elem,
                                      .in_place = w->in_place,
                                      .adjust = {.divide_in = w->divide_in,
                                                 .divide_out = later ? 0 : w->divide_out,
                                                 .scaled = w->scaled,
                                                 .scalar = by.value,
                                                 .scale = by.at}};
    enum choir_status st = CHOIR_OK;
    for (uint32_t i = 0; i < b->launches && st == CHOIR_OK; i++) {
        const struct cuda_launch *l = &b->launch[i];
        struct cuda_pair_call pair;
        void *arguments[] = {&call};
        enum cuda_form form = l->form;
        CUfunction f = NULL;
        uint32_t blocks = blocks_for(comm, w, l->what.lanes);
        call.what = l->what;
        call.teams = teams_for(l->what.lanes, blocks);
        if (form != CUDA_STREAM && cuda_pair_of(&call, form == CUDA_LINES, &pair)) {
            form = form == CUDA_LINES ? CUDA_PAIR_LINES : CUDA_PAIR_WORDS;
            arguments[0] = &pair;
        }
        st = pick(comm, w, form, &f);
        if (st == CHOIR_OK)
            st = launch(f, blocks, l->threads, w->stream, arguments);
    }
    if (st == CHOIR_OK && later && w->divide_out)
        st = divide(comm, w, w->out, w->out_bytes, w->divide_out);
    return st;
}

static enum choir_status run_plan(struct cuda_comm *comm, const struct cuda_work *w,
                                  struct scalar by)
{
    const struct cuda_bound *b = w->bound;
    const void *in = w->in;
    CUfunction f = NULL;
    enum choir_status st = prepare(comm, w, by, &in);
    if (st == CHOIR_OK)
        st = pick(comm, w, CUDA_PLAN, &f);
    struct cuda_plan_call call = {.view = view_of(comm, w),
                                  .in = in,
                                  .out = w->out,
                                  .signature = w->signature,
                                  .plan = b->plan,
                                  .tmp = b->tmp,
                                  .staging = b->staging,
                                  .pending = b->pending};
    void *arguments[] = {&call};
    if (st == CHOIR_OK)
        st = launch(f, blocks_for(comm, w, b->plan.window), CUDA_THREADS, w->stream, arguments);
    if (st == CHOIR_OK && w->divide_out)
        st = divide(comm, w, w->out, w->out_bytes, w->divide_out);
    return st;
}

static enum choir_status run(struct cuda_comm *comm, const struct cuda_work *w, struct scalar by)
{
    return w->bound->launches ? run_exchanges(comm, w, by) : run_plan(comm, w, by);
}

static enum choir_status run_marked(struct cuda_comm *comm, const struct cuda_work *w,
                                    struct scalar by)
{
    enum choir_status st = cuda_mark(comm, w, false);
    if (st == CHOIR_OK)
        st = run(comm, w, by);
    return st == CHOIR_OK ? cuda_mark(comm, w, true) : st;
}

enum choir_status cuda_enqueue(struct cuda_comm *comm, const struct cuda_work *w)
{
    struct cuda_pointer where = {.where = CUDA_HOST};
    struct scalar by = {0};
    enum choir_status st = CHOIR_OK;
    if (w->scaled)
        st = cuda_device_of_pointer(w->scale, &where);
    if (st == CHOIR_OK && w->scaled && where.where == CUDA_HOST)
        memcpy(&by.value, w->scale, choir_type_bytes(w->type));
    else
        by.at = w->scale;
    if (st == CHOIR_OK)
        st = cuda_device_enter(comm->device);
    if (st != CHOIR_OK)
        return st;
    st = base_unlikely(w->mark) ? run_marked(comm, w, by) : run(comm, w, by);
    cuda_device_leave(comm->device);
    return st;
}
