/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exchanges.hh: one collective of all ranks as exchanges of emulated GPUs: its plans, its memory, what the reference interpreter
 * makes of the same plans, and the kernels to launch.
 */
#ifndef TESTS_EXCHANGES_HH
#define TESTS_EXCHANGES_HH

#include "cuda/kernel/pair.cuh"
#include "cuda/kernel/stream.cuh"
#include "tests/lib/emulate.hh"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
extern "C" {
#include "cuda/form.h"
#include "cuda/pair.h"
#include "reduce/reduce.h"
}
#pragma GCC diagnostic pop

enum form { FORM_WORDS, FORM_LINES, FORM_STREAM, FORM_SPLIT };
struct exchange_memory { /* shared memory of a block */
    exchange_shared flagged;
    stream_shared stream;
};
struct exchange_launch { /* of one rank; nothing if its lanes are 0 */
    enum form form;
    enum choir_type type;
    cuda_exchange_call call;
    bool may_pair, pairs; /* in a kernel for one peer, if it is an exchange with one; it is */
    cuda_pair_call pair;
};

/* The last thing before a launch: where the mailboxes are. */
inline void exchange_ready(exchange_launch *l, const cuda_view &view)
{
    l->call.view = view;
    l->call.teams = 1u << (view.rank + l->call.signature) % 3;
    l->pairs = l->may_pair && (l->form == FORM_WORDS || l->form == FORM_LINES) &&
               cuda_pair_of(&l->call, l->form == FORM_LINES, &l->pair);
}

/* Now and then blocks take several lanes through slots, ranks not equally many. */
inline uint32_t exchange_blocks(const exchange_launch &l)
{
    uint32_t lanes = l.call.what.lanes, luck = l.call.signature;
    bool few = l.form == FORM_STREAM && lanes && luck % 4 == 0;
    return few ? 1 + (l.call.view.rank * 5 + luck / 4) % lanes : lanes;
}

template <class T> void exchange_kernel(const exchange_launch &l, block b, exchange_memory *s)
{
    if (l.pairs && l.form == FORM_WORDS)
        pair_flagged<T, op_sum, words_form>(b, l.pair);
    else if (l.pairs)
        pair_flagged<T, op_sum, lines_form>(b, l.pair);
    else if (l.form == FORM_WORDS)
        exchange_flagged<T, op_sum, words_form>(b, l.call, &s->flagged);
    else if (l.form == FORM_LINES)
        exchange_flagged<T, op_sum, lines_form>(b, l.call, &s->flagged);
    else
        exchange_stream<T, op_sum, STREAM_UNROLL>(
            b, stream_lanes_of(l.call, b.lane, exchange_blocks(l)), l.call, &s->stream);
}

/* One type of each size. */
inline void exchange_run(const exchange_launch &l, block b, exchange_memory *s)
{
    uint32_t lanes =
        l.pairs ? base_max(l.pair.sends.lanes, l.pair.takes.lanes) : exchange_blocks(l);
    if (b.lane >= lanes)
        return;
    if (l.type == CHOIR_UINT8)
        exchange_kernel<type_uint8>(l, b, s);
    else if (l.type == CHOIR_BFLOAT16)
        exchange_kernel<type_bfloat16>(l, b, s);
    else if (l.type == CHOIR_FLOAT32)
        exchange_kernel<type_float32>(l, b, s);
    else
        exchange_kernel<type_float64>(l, b, s);
}

enum scaled { SCALED_NOT, SCALED_DIVIDE_IN, SCALED_DIVIDE_OUT, SCALED_BY };
struct exchange_request {
    enum choir_kind kind;
    const char *algorithm;
    uint32_t root;
    uint64_t count, seed;
    enum choir_type type;
    enum form form; /* or one that takes longer messages, where they are too long for it */
    cuda_lanes_fn *lanes;
    bool stream;   /* blocks have two halves */
    bool in_place; /* ranks may be in place, each by its luck */
    enum scaled scaled;
    bool absolute; /* EXCHANGE: offsets are addresses */
};

class exchange_operation
{
    struct memory {
        std::unique_ptr<guarded> block[2]; /* IN's and OUT's; one if in place */
        std::vector<uint8_t> want[2];      /* the same as the reference leaves it */
        uint64_t at[2];                    /* where IN and OUT begin in their blocks */
        bool in_place;

        uint8_t *real(unsigned buf)
        {
            return block[in_place ? 0 : buf]->data + at[buf];
        }
        uint8_t *wanted(unsigned buf)
        {
            return want[in_place ? 0 : buf].data() + at[buf];
        }
    };
    exchange_request ask;
    struct ranks ranks;
    std::vector<memory> memories;
    std::vector<std::vector<uint64_t>> addresses;   /* tables of absolute plans */
    std::vector<std::vector<cuda_exchange>> rounds; /* [rank] */
    uint64_t luck;
    uint32_t elem;
    uint8_t scalar[8];

    void fill(uint8_t *p, uint64_t elements)
    {
        for (uint64_t i = 0; i < elements; i++) {
            uint64_t x = base_random(&luck);
            double v = (double)(int)(x % 20011 - 10005) / (double)(1u << (x >> 40) % 8);
            if (ask.type == CHOIR_UINT8)
                p[i] = (uint8_t)x;
            else
                reduce_store(ask.type, p + i * elem, v);
        }
    }
    void set_up(memory *m, const struct choir_shape *s)
    {
        uint64_t in, out;
        int64_t shift = 0;
        plan_shape_extent(s, &in, &out);
        m->in_place = ask.in_place && base_random(&luck) % 4 && plan_shape_in_place(s, &shift);
        uint64_t gap = m->in_place ? (uint64_t)(shift < 0 ? -shift : shift) * elem : 0;
        m->at[CHOIR_IN] = shift > 0 ? gap : 0;
        m->at[CHOIR_OUT] = shift < 0 ? gap : 0;
        uint64_t bytes[2] = {in * elem, out * elem};
        if (m->in_place)
            bytes[0] = base_max(in, out) * elem + gap, bytes[1] = 0;
        for (unsigned i = 0; i < 2; i++) {
            /* elements are aligned, blocks need not be any better */
            uint32_t odd = base_random(&luck) % 2 ? (uint32_t)(base_random(&luck) % 16) * elem : 0;
            m->block[i].reset(new guarded(bytes[i], odd));
            memset(m->block[i]->data, 0xdb, bytes[i]);
        }
        fill(m->real(CHOIR_IN), in);
        for (unsigned i = 0; i < 2; i++)
            m->want[i].assign(m->block[i]->data, m->block[i]->data + bytes[i]);
        if (ask.scaled == SCALED_DIVIDE_IN)
            reduce_divide(ask.type, m->wanted(CHOIR_IN), in, ranks.n);
        if (ask.scaled == SCALED_BY)
            reduce_scale(ask.type, m->wanted(CHOIR_IN), m->wanted(CHOIR_IN), scalar, in);
    }
    static void combine(void *ctx, void *dst, const void *const *src, uint32_t n, uint64_t count)
    {
        const exchange_operation *me = (const exchange_operation *)ctx;
        if (n > 1)
            reduce_pick(me->ask.type, CHOIR_SUM)(dst, src, n, count, 0);
        else
            memcpy(dst, src[0], count * me->elem);
    }
    void refer()
    {
        std::vector<void *> in, out;
        for (memory &m : memories) {
            in.push_back(m.wanted(CHOIR_IN));
            out.push_back(m.wanted(CHOIR_OUT));
        }
        struct plan_run run = {};
        run.seed = ask.seed;
        run.elem = elem;
        run.combine = combine;
        run.ctx = this;
        CHECK_OK(plan_reference(ranks.plan, ranks.n, in.data(), out.data(), &run));
        for (uint32_t r = 0; r < ranks.n && ask.scaled == SCALED_DIVIDE_OUT; r++)
            reduce_divide(ask.type, memories[r].wanted(CHOIR_OUT),
                          memories[r].want[1].size() / elem, ranks.n);
    }
    /* Plans whose offsets are addresses. */
    void move_to_addresses()
    {
        for (uint32_t r = 0; r < ranks.n; r++)
            for (unsigned buf = 0; buf < 2; buf++) {
                const struct choir_cut &cut = ranks.plan[r]->cut[buf];
                std::vector<uint64_t> off(cut.off, cut.off + cut.parts);
                for (uint64_t &o : off)
                    o += (uint64_t)(uintptr_t)memories[r].real(buf);
                addresses.push_back(off);
                (buf ? ranks.shape[r].out_offset : ranks.shape[r].in_offset) =
                    addresses.back().data();
            }
        for (uint32_t r = 0; r < ranks.n; r++)
            plan_free(ranks.plan[r]);
        CHECK_OK(ranks_build(&ranks, ask.algorithm));
    }
    bool recognise()
    {
        rounds.assign(ranks.n, std::vector<cuda_exchange>(ask.kind == CHOIR_EXCHANGE ? 5 : 1));
        for (uint32_t r = 0; r < ranks.n; r++) {
            std::vector<cuda_exchange> &mine = rounds[r];
            const struct choir_plan *plan = ranks.plan[r];
            uint32_t n = ask.kind == CHOIR_EXCHANGE
                             ? cuda_form_rounds(plan, elem, ask.lanes, mine.data(), 5)
                             : cuda_form_exchange(plan, elem, ask.lanes, mine.data());
            if (!n)
                return false;
            mine.resize(n);
        }
        return true;
    }
    uint64_t longest(const std::vector<cuda_exchange> &of) const
    {
        uint64_t most = 0;
        for (const cuda_exchange &x : of) {
            for (uint32_t i = 0; i < x.sends; i++)
                most = base_max(most, (x.send[i].len + x.send[i].lanes - 1) / x.send[i].lanes);
            for (uint32_t i = 0; i < x.results; i++)
                most =
                    base_max(most, (x.result[i].len + x.result[i].lanes - 1) / x.result[i].lanes);
        }
        return most * elem;
    }
    /* One exchange of every rank, each the same way. */
    bool add(const std::vector<cuda_exchange> &what, enum form form)
    {
        uint64_t most = longest(what);
        if (form == FORM_WORDS && most > CUDA_LL_BYTES)
            form = FORM_LINES;
        if (form == FORM_LINES && most > CUDA_WIDE_BYTES)
            form = FORM_STREAM;
        if (form == FORM_STREAM && !ask.stream)
            return false;
        std::vector<exchange_launch> now(ranks.n);
        for (uint32_t r = 0; r < ranks.n; r++) {
            now[r] = exchange_launch{form, ask.type, {}, (base_random(&luck) & 1) != 0, false, {}};
            cuda_exchange_call &c = now[r].call;
            c.in = ask.absolute ? NULL : memories[r].real(CHOIR_IN);
            c.out = ask.absolute ? NULL : memories[r].real(CHOIR_OUT);
            c.signature = (uint32_t)base_mix(ask.seed);
            c.elem = elem;
            c.in_place = memories[r].in_place;
            c.adjust.divide_in = ask.scaled == SCALED_DIVIDE_IN ? ranks.n : 0;
            c.adjust.divide_out = ask.scaled == SCALED_DIVIDE_OUT ? ranks.n : 0;
            c.adjust.scaled = ask.scaled == SCALED_BY;
            /* a value, for every other rank */
            c.adjust.scale = c.adjust.scaled && r % 2 ? scalar : NULL;
            memcpy(&c.adjust.scalar, scalar, sizeof(c.adjust.scalar));
            c.what = what[r];
        }
        launches.push_back(now);
        return true;
    }
    bool add_all()
    {
        uint64_t limit = 1ull << base_random(&luck) % 17;
        for (uint32_t k = 0;; k++) {
            std::vector<cuda_exchange> all(ranks.n), shorter(ranks.n), longer(ranks.n);
            bool more = false;
            for (uint32_t r = 0; r < ranks.n; r++) {
                more |= k < rounds[r].size();
                if (k < rounds[r].size())
                    all[r] = rounds[r][k];
                cuda_form_split(&all[r], elem, limit, &shorter[r], &longer[r]);
            }
            if (!more)
                return true;
            if (ask.form != FORM_SPLIT ? !add(all, ask.form)
                                       : !add(shorter, FORM_WORDS) || !add(longer, FORM_STREAM))
                return false;
        }
    }

  public:
    std::vector<std::vector<exchange_launch>> launches; /* [one after another][rank] */

    explicit exchange_operation(const exchange_request &request) : ask(request), ranks{}
    {
        luck = request.seed;
        elem = (uint32_t)choir_type_bytes(request.type);
    }
    exchange_operation(const exchange_operation &) = delete;
    ~exchange_operation()
    {
        ranks_free(&ranks);
    }
    /* False: the algorithm is not for this, or is no exchange, or its messages are too long for blocks without halves. */
    bool make(const struct choir_layout *layout)
    {
        CHECK_OK(ranks_init(&ranks, ask.kind, layout, ask.count, ask.root, ask.seed));
        for (uint32_t r = 0; r < ranks.n; r++)
            ranks.shape[r].type_bytes = elem;
        enum choir_status st = ranks_build(&ranks, ask.algorithm);
        if (st == CHOIR_ERR_UNSUPPORTED)
            return false;
        CHECK_OK(st);
        if (!recognise())
            return false;
        fill(scalar, 1);
        memories.resize(ranks.n);
        for (uint32_t r = 0; r < ranks.n; r++)
            set_up(&memories[r], &ranks.shape[r]);
        refer();
        if (ask.absolute) {
            move_to_addresses();
            CHECK(recognise());
        }
        return add_all();
    }
    std::string name() const
    {
        char text[256];
        snprintf(
            text, sizeof(text),
            "%s %s of %u ranks, count %llu, root %u, type %d, form %d%s%s%s, scaled %d, seed %llu",
            ask.algorithm, plan_kind_name(ask.kind), ranks.n, (unsigned long long)ask.count,
            ask.root, (int)ask.type, (int)ask.form, ask.in_place ? ", in place" : "",
            ask.absolute ? ", absolute" : "", ask.stream ? "" : ", no halves", (int)ask.scaled,
            (unsigned long long)ask.seed);
        return text;
    }
    /* The kinds of calls of which a rank ran a part in a kernel for one peer, as a mask. */
    uint32_t paired() const
    {
        for (const std::vector<exchange_launch> &l : launches)
            for (const exchange_launch &of : l)
                if (of.pairs)
                    return 1u << ask.kind;
        return 0;
    }
    /* Nobody has written a result, of an operation out of place. */
    bool unwritten() const
    {
        for (const memory &m : memories)
            for (uint64_t k = 0; k < m.block[1]->bytes; k++)
                if (m.block[1]->data[k] != 0xdb)
                    return false;
        return true;
    }
    /* Every byte is what the reference left, and nothing around the blocks is touched. */
    void check()
    {
        for (uint32_t r = 0; r < ranks.n; r++) {
            memory &m = memories[r];
            for (unsigned i = 0; i < 2; i++) {
                guarded &b = *m.block[i];
                if (!b.intact())
                    FAIL("%s: rank %u: touched bytes around block %u", name().c_str(), r, i);
                for (uint64_t k = 0; k < b.bytes && (i || ask.scaled == SCALED_NOT); k++)
                    if (b.data[k] != m.want[i][k])
                        FAIL("%s: rank %u: byte %llu of block %u%s is %x, not %x", name().c_str(),
                             r, (unsigned long long)k, i, m.in_place ? " (in place)" : "",
                             b.data[k], m.want[i][k]);
            }
        }
    }
};

#endif
