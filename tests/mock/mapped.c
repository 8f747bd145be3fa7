/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels in miniature, for tests of what surrounds them: communicators of one rank, whose plans the reference interpreter runs
 * when the stream comes to them. Memory must be what a GPU reaches: its own, or pinned.
 */
#include "cuda/engine.h"
#include "plan/plan.h"
#include "tests/lib/test.h"
#include "tests/mock/cuda.h"

struct cuda_bound {
    struct cuda_bound *next;
    struct choir_plan *plan;
    uint32_t elem;
    void *in, *out; /* of a launch, which has a copy of its own */
};
struct cuda_comm {
    struct cuda_bound *launched;
};

enum choir_status cuda_comm_open(struct cuda_device *device, uint32_t rank, uint32_t ranks,
                                 uint64_t limit_ns, struct cuda_card *card, struct cuda_comm **comm)
{
    (void)rank, (void)limit_ns;
    CHECK(device && ranks == 1);
    *card = (struct cuda_card){.present = 1, .bytes = 1};
    *comm = calloc(1, sizeof(**comm));
    return CHOIR_OK;
}

enum choir_status cuda_comm_offer(struct cuda_comm *comm, const struct cuda_card *card,
                                  const bool *same_process)
{
    (void)comm, (void)card, (void)same_process;
    return CHOIR_OK;
}

enum choir_status cuda_comm_meet(struct cuda_comm *comm, const struct cuda_card *card,
                                 const bool *same_process)
{
    (void)comm, (void)card, (void)same_process;
    return CHOIR_OK;
}

enum choir_status cuda_comm_prove(struct cuda_comm *comm)
{
    (void)comm;
    return CHOIR_OK;
}

void cuda_comm_abort(struct cuda_comm *comm)
{
    (void)comm;
}

bool cuda_comm_fault(const struct cuda_comm *comm, struct cuda_report *report)
{
    (void)comm, (void)report;
    return false;
}

bool cuda_comm_waiting(const struct cuda_comm *comm, uint32_t *peer, uint32_t *tick)
{
    (void)comm, (void)peer, (void)tick;
    return false;
}

bool cuda_comm_next_mark(struct cuda_comm *comm, struct cuda_mark *mark, uint32_t *lost)
{
    (void)comm, (void)mark, (void)lost;
    return false;
}

enum choir_status cuda_comm_quiesce(struct cuda_comm *comm)
{
    (void)comm;
    return cuda_staged_quiesce(NULL);
}

enum cuda_way cuda_comm_way(const struct cuda_comm *comm)
{
    (void)comm;
    return CUDA_BY_HANDLE;
}

uint64_t cuda_comm_saved(const struct cuda_comm *comm)
{
    (void)comm;
    return 0;
}

uint64_t cuda_comm_suspended(const struct cuda_comm *comm)
{
    (void)comm;
    return 0;
}

void cuda_comm_close(struct cuda_comm *comm)
{
    for (struct cuda_bound *b = comm->launched; b; b = comm->launched) {
        comm->launched = b->next;
        plan_free(b->plan);
        free(b);
    }
    free(comm);
}

int cuda_comm_ordinal(const struct cuda_comm *comm)
{
    (void)comm;
    return 0;
}

uint64_t cuda_comm_bytes(const struct cuda_comm *comm)
{
    (void)comm;
    return 0;
}

enum choir_status cuda_bound_create(struct cuda_comm *comm, const struct choir_plan *const *plans,
                                    uint32_t elem, uint64_t scratch_bytes, struct cuda_bound **out)
{
    (void)comm, (void)scratch_bytes;
    struct cuda_bound *b = calloc(1, sizeof(*b));
    CHECK(b && (b->plan = plan_copy(plans[0])));
    b->elem = elem;
    *out = b;
    return CHOIR_OK;
}

void cuda_bound_free(void *bound)
{
    struct cuda_bound *b = bound;
    if (b)
        plan_free(b->plan);
    free(b);
}

void cuda_bound_used(struct cuda_bound *b, struct CUstream_st *stream)
{
    (void)stream;
    cuda_bound_free(b);
}

static void combine(void *elem, void *to, const void *const *from, uint32_t n, uint64_t count)
{
    CHECK_EQ(n, 1);
    memmove(to, from[0], count * *(const uint32_t *)elem);
}

static void launch(void *arg)
{
    struct cuda_bound *b = arg;
    struct plan_run how = {.elem = b->elem, .combine = combine, .ctx = &b->elem};
    CHECK_OK(plan_reference((const struct choir_plan *const *)&b->plan, 1, &b->in, &b->out, &how));
}

/* Places of an exchange are absolute, and the interpreter knows no buffer at 0. */
static void *rebase(struct choir_cut *cut)
{
    enum { BASE = 4096 };
    uint64_t *off = (uint64_t *)(uintptr_t)cut->off;
    for (uint32_t p = 0; p < cut->parts; p++)
        off[p] -= BASE;
    return (void *)(uintptr_t)BASE;
}

enum choir_status cuda_enqueue(struct cuda_comm *comm, const struct cuda_work *work)
{
    struct cuda_bound *b = calloc(1, sizeof(*b));
    CHECK(b && (b->plan = plan_copy(work->bound->plan)));
    CHECK(mock_reaches(work->in, work->in_bytes) && mock_reaches(work->out, work->out_bytes));
    b->elem = work->bound->elem;
    b->in = (void *)(uintptr_t)work->in, b->out = work->out;
    if (b->plan->kind == CHOIR_EXCHANGE)
        b->in = rebase(&b->plan->cut[CHOIR_IN]), b->out = rebase(&b->plan->cut[CHOIR_OUT]);
    b->next = comm->launched;
    comm->launched = b;
    mock_put(work->stream, launch, b);
    return CHOIR_OK;
}
