/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plan_jobs.hh: collectives for tests of the kernel that runs plans: all ranks' buffers and tables, and what the reference
 * interpreter makes of the same plans in buffers of its own.
 */
#ifndef TESTS_PLAN_JOBS_HH
#define TESTS_PLAN_JOBS_HH

extern "C" {
#include "reduce/reduce.h"
}
#include "cuda/kernel/plan.cuh"
#include "tests/lib/emulate.hh"
extern "C" {
#include "cuda/bind.h"
}
#include <memory>
#include <string>

/* --- one collective ----------------------------------------------------------------------------------- */

/* IN and OUT of one rank; one piece of memory in place. */
struct buffers {
    std::unique_ptr<guarded> block[2];
    uint8_t *in, *out;
};

enum arithmetic { SUM_DOUBLE, SUM_WORD, MAX_BYTE, MOVE, ARITHMETICS };

struct job {
    std::string name;
    enum choir_kind kind;
    enum arithmetic arithmetic;
    uint32_t n, elem, lanes;
    struct ranks ranks;
    std::vector<buffers> mine, reference;
    std::vector<std::vector<uint8_t>> tables; /* where the kernel's are, by rank */
    std::vector<cuda_plan_call> call;
    std::vector<std::unique_ptr<guarded>> memory; /* that calls point to */
    std::vector<std::vector<cuda_pending>> pending;
};

inline void combine(void *ctx, void *dst, const void *const *src, uint32_t nsrc, uint64_t count)
{
    const job *j = (const job *)ctx;
    if (nsrc == 1) {
        memcpy(dst, src[0], count * j->elem);
        return;
    }
    reduce_fn fn = j->arithmetic == SUM_DOUBLE ? reduce_pick(CHOIR_FLOAT64, CHOIR_SUM)
                   : j->arithmetic == SUM_WORD ? reduce_pick(CHOIR_UINT32, CHOIR_SUM)
                                               : reduce_pick(CHOIR_INT8, CHOIR_MAX);
    CHECK(j->arithmetic != MOVE || !count); /* a barrier's messages are empty */
    fn(dst, src, nsrc, count, 0);
}

inline void make_buffers(const job &j, uint32_t r, bool in_place, uint32_t odd, buffers *b)
{
    uint64_t in, out;
    int64_t shift = 0;
    plan_shape_extent(&j.ranks.shape[r], &in, &out);
    if (in_place && plan_shape_in_place(&j.ranks.shape[r], &shift)) {
        uint64_t in_at = shift > 0 ? (uint64_t)shift : 0, out_at = shift < 0 ? (uint64_t)-shift : 0;
        uint64_t most = base_max(in_at + in, out_at + out);
        b->block[0] = std::make_unique<guarded>(most * j.elem, odd);
        b->in = b->block[0]->data + in_at * j.elem;
        b->out = b->block[0]->data + out_at * j.elem;
    } else {
        b->block[0] = std::make_unique<guarded>(in * j.elem, odd);
        b->block[1] = std::make_unique<guarded>(out * j.elem, odd / 2 / j.elem * j.elem);
        b->in = b->block[0]->data;
        b->out = b->block[1]->data;
    }
}

inline void fill(const job &j, uint64_t seed, buffers *b)
{
    for (std::unique_ptr<guarded> &block : b->block)
        for (uint64_t i = 0; block && i < block->bytes; i++) {
            uint64_t x = base_random(&seed);
            block->data[i] = (uint8_t)x;
            if (j.arithmetic == SUM_DOUBLE && i % 8 == 7) /* about 1, of either sign */
                block->data[i] = x & 1 ? 0x3f : 0xbf;
        }
}

inline bool make_ranks(job *j, const struct choir_layout *layout, uint64_t count, uint64_t *luck)
{
    static const uint64_t slots[] = {128, 256, 1024, 4096};
    uint64_t slot = slots[base_random(luck) % 4], draw = base_random(luck);
    uint32_t root = (uint32_t)(base_random(luck) % j->n), window = 1 + (uint32_t)draw % 3;
    CHECK_OK(ranks_init(&j->ranks, j->kind, layout, count, root, draw >> 8));
    for (uint32_t r = 0; r < j->n; r++) {
        struct choir_shape *s = &j->ranks.shape[r];
        s->type_bytes = j->elem;
        s->slot_bytes = slot;
        s->depth = CUDA_DEPTH;
        s->window = window;
    }
    enum choir_status status = ranks_build(&j->ranks, j->name.c_str());
    if (status == CHOIR_OK)
        return true;
    CHECK_EQ(status, CHOIR_ERR_UNSUPPORTED);
    ranks_free(&j->ranks);
    return false;
}

/* A group's offsets are addresses. */
inline void make_absolute(const struct choir_plan *plan, const buffers &b, uint32_t elem)
{
    for (unsigned k = 0; k < 2; k++) {
        uint64_t at = (uint64_t)(uintptr_t)(k ? b.out : b.in);
        CHECK(at % elem == 0);
        for (uint32_t p = 0; p < plan->cut[k].parts; p++)
            ((uint64_t *)(uintptr_t)plan->cut[k].off)[p] += at / elem;
    }
}

inline uint8_t *give(job *j, uint64_t bytes)
{
    j->memory.push_back(std::make_unique<guarded>(bytes, 0));
    memset(j->memory.back()->data, 0x77, bytes);
    return j->memory.back()->data;
}

inline void make_call(job *j, uint32_t r)
{
    struct cuda_tables *tables;
    const struct choir_plan *plan = j->ranks.plan[r];
    if (j->kind == CHOIR_EXCHANGE)
        make_absolute(plan, j->mine[r], j->elem);
    CHECK_OK(cuda_bind(plan, j->elem, &tables));
    std::vector<uint8_t> copy(tables->bytes + 16);
    uint8_t *at = copy.data() + (-(uintptr_t)copy.data() & 15);
    memcpy(at, tables->data, tables->bytes);
    j->tables.push_back(std::move(copy));
    cuda_plan_call &c = j->call[r];
    c = cuda_plan_call{};
    cuda_tables_relocate(tables, at, &c.plan);
    cuda_tables_free(tables);
    c.in = j->kind == CHOIR_EXCHANGE ? NULL : j->mine[r].in;
    c.out = j->kind == CHOIR_EXCHANGE ? NULL : j->mine[r].out;
    c.tmp = give(j, c.plan.window * c.plan.tmp_bytes);
    c.staging = give(j, c.plan.window * CUDA_SLOT_BYTES);
    j->pending.emplace_back(c.plan.window * c.plan.most_pendings);
    c.pending = j->pending.back().data();
    j->lanes = base_max(j->lanes, c.plan.window);
}

/* A job with what the reference makes of it; NULL: the algorithm is not for this. */
inline std::unique_ptr<job> make_job(const std::string &name, enum choir_kind kind,
                                     const struct choir_layout *layout, uint64_t count,
                                     uint64_t *luck)
{
    std::unique_ptr<job> j(new job());
    static const uint32_t move_bytes[] = {1, 2, 4, 8};
    uint64_t draw = base_random(luck);
    j->name = name;
    j->kind = kind;
    j->n = layout->ranks;
    j->arithmetic = plan_kind_reduces(kind) ? (enum arithmetic)(draw % MOVE) : MOVE;
    j->elem = j->arithmetic == SUM_DOUBLE ? 8
              : j->arithmetic == SUM_WORD ? 4
              : j->arithmetic == MAX_BYTE ? 1
                                          : move_bytes[draw % 4];
    if (!make_ranks(j.get(), layout, kind == CHOIR_BARRIER ? 0 : count, luck))
        return nullptr;
    std::vector<void *> in, out;
    j->mine.resize(j->n);
    j->reference.resize(j->n);
    j->call.resize(j->n);
    for (uint32_t r = 0; r < j->n; r++) {
        uint64_t x = base_random(luck);
        bool in_place = x & 1;
        uint32_t odd = x & 2 ? (uint32_t)(x >> 8) % 16 * j->elem : 0;
        make_buffers(*j, r, in_place, odd, &j->mine[r]);
        make_buffers(*j, r, in_place, 0, &j->reference[r]);
        fill(*j, x, &j->mine[r]);
        fill(*j, x, &j->reference[r]);
        in.push_back(j->reference[r].in);
        out.push_back(j->reference[r].out);
    }
    struct plan_run run = {};
    run.seed = base_random(luck);
    run.elem = j->elem;
    run.combine = combine;
    run.ctx = j.get();
    CHECK_OK(plan_reference(j->ranks.plan, j->n, in.data(), out.data(), &run));
    for (uint32_t r = 0; r < j->n; r++)
        make_call(j.get(), r);
    return j;
}

inline void check_job(const job &j)
{
    for (uint32_t r = 0; r < j.n; r++)
        for (unsigned k = 0; k < 2; k++) {
            guarded *mine = j.mine[r].block[k].get(), *want = j.reference[r].block[k].get();
            if (mine && !mine->intact())
                FAIL("%s %s, rank %u of %u: wrote outside", j.name.c_str(), plan_kind_name(j.kind),
                     r, j.n);
            for (uint64_t i = 0; mine && i < mine->bytes; i++)
                if (mine->data[i] != want->data[i])
                    FAIL("%s %s, rank %u of %u%s: byte %llu of %s, %u bytes an element, count %llu",
                         j.name.c_str(), plan_kind_name(j.kind), r, j.n,
                         j.mine[r].block[1] ? "" : " in place", (unsigned long long)i,
                         k ? "OUT" : "IN", j.elem, (unsigned long long)j.ranks.shape[r].count);
        }
    for (const std::unique_ptr<guarded> &m : j.memory)
        CHECK(m->intact());
}

inline void run_call(const job &j, uint32_t rank, block b, plan_shared *shared)
{
    const cuda_plan_call &c = j.call[rank];
    if (b.lane >= c.plan.window)
        return;
    switch (j.arithmetic) {
    case SUM_DOUBLE:
        return plan_lane_run<type_float64, op_sum>(b, c, shared);
    case SUM_WORD:
        return plan_lane_run<type_uint32, op_sum>(b, c, shared);
    case MAX_BYTE:
        return plan_lane_run<type_int8, op_max>(b, c, shared);
    default:
        return plan_lane_run<type_uint8, op_sum>(b, c, shared);
    }
}

#endif
