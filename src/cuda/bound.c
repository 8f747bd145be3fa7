/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bound.c: a plan made ready to launch. If every rank's plan is an exchange (form.c), it becomes one kernel for its short
 * messages and one for its long ones; else the interpreter runs it from tables in GPU memory. Which it is follows from what
 * all ranks know; how a message travels follows from its own length.
 */
#include "cuda/bound.h"
#include "cuda/bind.h"
#include "cuda/form.h"
#include <stdlib.h>

#define ROUNDS_MOST 16u
/* Bytes that a lane takes at least, while lanes are left, and how many there are. */
static const struct {
    uint32_t bytes, lanes;
} share[] = {[CUDA_WORDS] = {2048, CUDA_LANES},
             [CUDA_LINES] = {2048, CUDA_LANES},
             [CUDA_STREAM] = {32768, CUDA_SLOT_LANES}};

enum cuda_form cuda_form_of(uint64_t bytes)
{
    return bytes <= CUDA_WORDS_MOST   ? CUDA_WORDS
           : bytes <= CUDA_LINES_MOST ? CUDA_LINES
                                      : CUDA_STREAM;
}

uint32_t cuda_form_lanes(uint64_t bytes)
{
    enum cuda_form form = cuda_form_of(bytes);
    uint64_t lanes = (bytes + share[form].bytes - 1) / share[form].bytes;
    return (uint32_t)base_min(base_max(lanes, 1u), share[form].lanes);
}

/* Threads for the longest piece of a launch: one for each word, or eight for each line, and a warp for the headers. */
static uint32_t threads_of(const struct cuda_exchange *what, enum cuda_form form, uint32_t elem)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < what->sends; i++)
        most = base_max(most, what->send[i].len * elem / what->send[i].lanes);
    for (uint32_t i = 0; i < what->results; i++)
        most = base_max(most, what->result[i].len * elem / what->result[i].lanes);
    uint64_t work = form == CUDA_WORDS   ? most / 8 + 1
                    : form == CUDA_LINES ? 8 * (most / 120 + 1)
                                         : CUDA_THREADS;
    return (uint32_t)base_min((work + 31) / 32 * 32 + 32, CUDA_THREADS);
}

/* The parts of an exchange that travel in different ways, each a launch. */
static void add_launches(struct cuda_bound *b, const struct cuda_exchange *all)
{
    struct cuda_exchange part[3], longer;
    cuda_form_split(all, b->elem, CUDA_WORDS_MOST, &part[0], &longer);
    cuda_form_split(&longer, b->elem, CUDA_LINES_MOST, &part[1], &part[2]);
    for (uint32_t f = 0; f < 3; f++)
        if (part[f].sends || part[f].results) {
            struct cuda_launch *l = &b->launch[b->launches++];
            *l = (struct cuda_launch){.form = (enum cuda_form)f, .what = part[f]};
            l->threads = threads_of(&part[f], l->form, b->elem);
        }
}

/* Is every plan that is known here an exchange? */
static bool all_exchanges(const struct choir_plan *const *plans, uint32_t ranks, uint32_t elem,
                          struct cuda_exchange *scratch)
{
    for (uint32_t r = 0; r < ranks; r++)
        if (plans[r] && !cuda_form_exchange(plans[r], elem, cuda_form_lanes, scratch))
            return false;
    return true;
}

static enum choir_status make_exchanges(struct cuda_bound *b, const struct choir_plan *const *plans,
                                        bool *made)
{
    const struct cuda_view *v = &b->comm->view;
    const struct choir_plan *own = plans[v->rank];
    struct cuda_exchange *rounds = malloc(ROUNDS_MOST * sizeof(*rounds));
    uint32_t n = 0;
    *made = false;
    if (rounds && own->kind == CHOIR_EXCHANGE)
        n = cuda_form_rounds(own, b->elem, cuda_form_lanes, rounds, ROUNDS_MOST);
    else if (rounds && all_exchanges(plans, v->ranks, b->elem, rounds))
        n = cuda_form_exchange(own, b->elem, cuda_form_lanes, rounds);
    if (n)
        b->launch = malloc(3 * n * sizeof(*b->launch));
    for (uint32_t i = 0; i < n && b->launch; i++)
        add_launches(b, &rounds[i]);
    *made = b->launch != NULL;
    free(rounds);
    return rounds && (b->launch || !n)
               ? CHOIR_OK
               : base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for an exchange");
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + 255) & ~255ull;
}

/* Tables and what the interpreter writes, in one piece of GPU memory. */
static enum choir_status make_tables(struct cuda_bound *b, const struct choir_plan *plan,
                                     uint64_t scratch_bytes)
{
    struct cuda_tables *t;
    enum choir_status st = cuda_bind(plan, b->elem, &t);
    if (st != CHOIR_OK)
        return st;
    uint64_t window = t->plan.window, tables = aligned(t->bytes);
    uint64_t tmp = aligned(window * t->plan.tmp_bytes);
    uint64_t pending = aligned(window * t->plan.most_pendings * sizeof(struct cuda_pending));
    st = cuda_piece_take(b->comm, tables + tmp + pending + aligned(scratch_bytes), &b->piece);
    CUdeviceptr memory = b->piece ? b->piece->at : 0;
    if (st == CHOIR_OK) {
        cuda_tables_relocate(t, (const void *)(uintptr_t)memory, &b->plan);
        st = cuda_comm_upload(b->comm, memory, t->data, t->bytes);
    }
    b->tmp = (uint8_t *)(uintptr_t)(memory + tables);
    b->staging = b->comm->staging;
    b->pending = (struct cuda_pending *)(void *)(b->tmp + tmp);
    b->scratch = scratch_bytes ? (uint8_t *)b->pending + pending : NULL;
    cuda_tables_free(t);
    return st;
}

enum choir_status cuda_bound_create(struct cuda_comm *comm, const struct choir_plan *const *plans,
                                    uint32_t elem, uint64_t scratch_bytes, struct cuda_bound **out)
{
    bool made = false;
    CUstreamCaptureMode mode;
    struct cuda_bound *b = calloc(1, sizeof(*b));
    if (!b)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for a plan");
    b->comm = comm;
    b->elem = elem;
    enum choir_status st = cuda_comm_begin(comm, &mode);
    if (st == CHOIR_OK) {
        st = make_exchanges(b, plans, &made);
        if (st == CHOIR_OK && !made)
            st = make_tables(b, plans[comm->view.rank], scratch_bytes);
        cuda_comm_end(comm, &mode);
    }
    if (st != CHOIR_OK)
        cuda_bound_free(b);
    else
        *out = b;
    return st;
}

/* Its GPU memory stays with the communicator, and nobody else gets it: a kernel or a graph may still have it. */
void cuda_bound_free(void *bound)
{
    struct cuda_bound *b = bound;
    if (!b)
        return;
    if (b->piece && b->piece->passed)
        cuda_driver()->cuEventDestroy(b->piece->passed);
    free(b->piece);
    free(b->launch);
    free(b);
}

void cuda_bound_used(struct cuda_bound *b, struct CUstream_st *stream)
{
    if (b && b->piece)
        cuda_piece_give(b->comm, b->piece, stream), b->piece = NULL;
    cuda_bound_free(b);
}
