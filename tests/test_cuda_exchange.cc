/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_cuda_exchange.cc: the kernels of exchanges on emulated GPUs, against the reference interpreter, byte for byte: all
 * algorithms that are exchanges, sizes on both sides of every limit, all ways a message may go, one after
 * another over the same mailboxes with ranks far apart.
 */
#include "tests/lib/exchanges.hh"

#define LANES 8u /* of every launch; those an operation does not want return at once */

static uint32_t one_lane(uint64_t bytes)
{
    (void)bytes;
    return 1;
}
static uint32_t three_lanes(uint64_t bytes)
{
    (void)bytes;
    return 3;
}
static uint32_t eight_lanes(uint64_t bytes)
{
    (void)bytes;
    return LANES;
}
static uint32_t by_length(uint64_t bytes)
{
    return (uint32_t)base_min(bytes / 500 + 1, LANES);
}
static cuda_lanes_fn *const lanes_of[] = {one_lane, three_lanes, eight_lanes, by_length};
static const enum choir_type types[] = {CHOIR_UINT8, CHOIR_BFLOAT16, CHOIR_FLOAT32, CHOIR_FLOAT64};

/* Lengths of messages in elements, around what a lane's message holds and slots hold. */
static uint64_t draw_count(uint64_t *luck, uint32_t elem, uint32_t lanes, bool large)
{
    static const uint64_t small[] = {0, 1, 2, 7, 61, 1009};
    uint64_t x = base_random(luck), words = CUDA_LL_BYTES / elem * lanes,
             lines = CUDA_WIDE_BYTES / elem * lanes, slot = CUDA_SLOT_BYTES / elem * lanes;
    switch (x % 16) {
    case 0:
    case 1:
        return words + x / 16 % 3 - 1;
    case 2:
        return large ? lines + x / 16 % 3 - 1 : x / 16 % 3;
    case 3:
        return large ? slot * (1 + x / 64 % 6) + x / 16 % 3 - 1 : 2 * 61;
    case 4:
        return x / 16 % (words + 1);
    default:
        return small[x / 16 % base_count(small)];
    }
}

static void launch(emulation &e, std::vector<std::unique_ptr<exchange_operation>> &ops,
                   uint32_t threads, uint64_t seed)
{
    std::vector<std::vector<exchange_launch> *> list;
    for (auto &op : ops)
        for (auto &l : op->launches) {
            for (uint32_t r = 0; r < e.ranks; r++)
                exchange_ready(&l[r], e.view(r));
            list.push_back(&l);
        }
    emulate<exchange_memory>(e, {(uint32_t)list.size(), LANES, threads, seed},
                             [&](uint32_t i, uint32_t rank, block b, exchange_memory *s) {
                                 exchange_run((*list[i])[rank], b, s);
                             });
    e.check();
    for (auto &op : ops)
        op->check();
}

/* A request by luck; what is drawn may not be an exchange. */
static exchange_request draw(uint64_t *luck, uint32_t ranks, enum choir_kind kind,
                             const char *algorithm, uint32_t threads, bool large)
{
    exchange_request q = {};
    uint32_t lanes = (uint32_t)(base_random(luck) % base_count(lanes_of));
    q.kind = kind;
    q.algorithm = algorithm;
    q.root = (uint32_t)(base_random(luck) % ranks);
    q.seed = base_random(luck);
    q.type = types[base_random(luck) % base_count(types)];
    q.stream = threads > 1;
    q.form = (enum form)(base_random(luck) % (q.stream ? 4 : 2));
    q.lanes = lanes_of[lanes];
    q.in_place = base_random(luck) & 1;
    if (plan_kind_reduces(kind) && !q.in_place && base_random(luck) % 3 == 0)
        q.scaled = (enum scaled)(1 + base_random(luck) % 3);
    if (q.scaled == SCALED_DIVIDE_OUT && kind == CHOIR_REDUCE_SCATTER_V)
        q.scaled = SCALED_BY;
    if (kind == CHOIR_EXCHANGE && base_random(luck) & 1)
        q.absolute = true, q.type = CHOIR_UINT8;
    q.count = draw_count(luck, (uint32_t)choir_type_bytes(q.type), lanes > 2 ? 1 : lanes * 3 + 1,
                         large && q.stream);
    return q;
}

/* All exchanges there are, `rounds` times each, in a shuffled order. Returns the kinds that ran as pairs, as a mask. */
static uint32_t run_all(emulation &e, uint32_t threads, uint32_t rounds, uint32_t turn = 0)
{
    struct choir_layout *layout = plan_layout_regular(1, e.ranks);
    CHECK(layout);
    uint64_t luck = test_seed() + e.ranks * 16 + threads + ((uint64_t)turn << 32);
    std::vector<std::unique_ptr<exchange_operation>> ops;
    uint32_t kinds_seen = 0, pairs_seen = 0, large = 0;
    for (uint32_t i = 0; i < rounds; i++)
        for (uint32_t a = 0; const struct choir_algorithm *algorithm = plan_algorithm_at(a); a++)
            for (uint32_t k = 0; k < CHOIR_KINDS; k++) {
                if (!(algorithm->kinds >> k & 1))
                    continue;
                bool big = large < 6 * rounds && base_random(&luck) % 4 == 0;
                large += big;
                std::unique_ptr<exchange_operation> op(new exchange_operation(
                    draw(&luck, e.ranks, (enum choir_kind)k, algorithm->name, threads, big)));
                if (!op->make(layout))
                    continue;
                kinds_seen |= 1u << k;
                ops.push_back(std::move(op));
            }
    CHECK_EQ(kinds_seen, (1u << CHOIR_KINDS) - 1);
    for (size_t i = ops.size(); i > 1; i--)
        std::swap(ops[i - 1], ops[base_random(&luck) % i]);
    launch(e, ops, threads, base_random(&luck));
    for (auto &op : ops)
        pairs_seen |= op->paired();
    plan_layout_free(layout);
    return pairs_seen;
}

static void all_exchanges(void)
{
    uint32_t rounds = test_effort() > 1 ? 60 : test_effort() && !TEST_SANITIZED ? 12 : 2;
    test_deadline(test_effort() > 1 ? 1200 : 120);
    for (uint32_t n = 1; n <= 8; n += n == 6 ? 2 : 1)
        for (uint32_t threads : {1u, 2u, 4u}) {
            if (!test_effort() && threads != 1u << (test_seed() + n) % 3)
                continue; /* short: one number of threads for each of ranks */
            emulation e(n);
            run_all(e, threads, rounds);
        }
    emulation most(CUDA_RANKS);
    run_all(most, 2, 1);
}

/* Two ranks, each of which runs a call in whichever kernel it likes. */
static void pairs(void)
{
    uint32_t want = 1u << CHOIR_ALL_REDUCE | 1u << CHOIR_ALL_GATHER | 1u << CHOIR_REDUCE_SCATTER |
                    1u << CHOIR_ALL_TO_ALL | 1u << CHOIR_BROADCAST;
    uint32_t rounds = test_effort() > 1 ? 40 : test_effort() && !TEST_SANITIZED ? 8 : 3;
    test_deadline(test_effort() > 1 ? 600 : 120);
    for (uint32_t threads : {1u, 2u, 4u, EXCHANGE_CLERKS + 2}) {
        emulation e(2);
        uint32_t seen = 0;
        for (uint32_t tries = 0; tries < 10 && (!tries || (seen & want) != want); tries++)
            seen |= run_all(e, threads, rounds, 1 + tries);
        CHECK_EQ(seen & want, want);
    }
}

/* Does every line of the buffers of (from, lane) hold a flag above `old`? */
static bool refreshed(const cuda_view &v, uint32_t from, uint32_t lane, uint32_t old)
{
    for (uint32_t slot = 0; slot < CUDA_LL_DEPTH; slot++) {
        const uint8_t *own = v.mailbox[v.rank],
                      *words = own + CUDA_LL_AT(v.ranks, from, lane) + slot * CUDA_LL_SPAN,
                      *lines = own + CUDA_WIDE_AT(v.ranks, from, lane) + slot * CUDA_WIDE_SPAN;
        uint32_t flag;
        for (uint64_t i = 4; i < CUDA_LL_SPAN; i += 8) {
            memcpy(&flag, words + i, 4);
            if (flag <= old)
                return false;
        }
        for (uint64_t i = 120; i < CUDA_WIDE_SPAN; i += 128) {
            memcpy(&flag, lines + i, 4);
            if (flag <= old)
                return false;
        }
    }
    return true;
}

/* Numbers wrap at 2^32; at multiples of 2^16 the buffers are cleared of old flags. */
static void numbers_that_wrap(void)
{
    uint32_t rounds = test_effort() && !TEST_SANITIZED ? 8 : 2, checked = 0;
    for (uint32_t number : {0xfff0u, 0xfffffff0u})
        for (uint32_t threads : {1u, 4u}) {
            uint32_t ranks = threads > 1 ? 2 : 3; /* among two, as pairs */
            emulation e(ranks);
            e.age(number, LANES);
            run_all(e, threads, ranks == 2 ? 2 * rounds : rounds);
            for (uint32_t r = 0; r < ranks && number < 0x10000; r++)
                for (uint32_t from = 0; from < ranks; from++)
                    for (uint32_t lane = 0; lane < LANES; lane++)
                        if (from != r && count_of(e.view(r), from, lane)->ll_received > 0x10001) {
                            CHECK(refreshed(e.view(r), from, lane, 0xfff0));
                            checked++;
                        }
        }
    CHECK(checked);
}

/* --- when things go wrong ---------------------------------------------------------------------- */

/* Tells all ranks to stop once one has given up, or after a while. */
class watcher
{
    emulation &e;
    uint64_t patience_ns;
    uint32_t over;
    std::thread thread;

    void watch()
    {
        uint64_t since = base_now_ns();
        bool found = false;
        while (!load_relaxed(&over) && !found) {
            for (uint32_t r = 0; r < e.ranks; r++)
                found |= load_relaxed(&e.report(r).code) != 0;
            found |= base_now_ns() - since > patience_ns;
            usleep(500);
        }
        for (uint32_t r = 0; r < e.ranks && found; r++)
            store_relaxed(&e.abort[r], 1);
    }

  public:
    explicit watcher(emulation &of, uint64_t patience = UINT64_MAX)
        : e(of), patience_ns(patience), over(0), thread([this] { watch(); })
    {
    }
    ~watcher()
    {
        store_relaxed(&over, 1);
        thread.join();
    }
};

static std::unique_ptr<exchange_operation> call(uint32_t ranks, enum choir_kind kind,
                                                uint64_t count, enum form form, uint64_t seed)
{
    struct choir_layout *layout = plan_layout_regular(1, ranks);
    exchange_request q = {};
    q.kind = kind;
    q.algorithm = "direct";
    q.count = count;
    q.seed = seed;
    q.type = CHOIR_FLOAT32;
    q.form = form;
    q.lanes = by_length;
    q.stream = true;
    std::unique_ptr<exchange_operation> op(new exchange_operation(q));
    CHECK(op->make(layout));
    plan_layout_free(layout);
    uint64_t luck = base_mix(test_seed() + seed * 64 + form) + count;
    for (exchange_launch &l : op->launches[0])
        l.may_pair = base_random(&luck) & 1;
    return op;
}

/* One launch of all ranks but the odd one, which does another or (NULL) none, `times` times. */
static void launch_but(emulation &e, exchange_operation &op, uint32_t odd,
                       exchange_operation *other, uint32_t times = 1)
{
    for (uint32_t r = 0; r < e.ranks; r++) {
        exchange_ready(&op.launches[0][r], e.view(r));
        if (other)
            exchange_ready(&other->launches[0][r], e.view(r));
    }
    emulate<exchange_memory>(e, {times, LANES, 4, test_seed()},
                             [&](uint32_t, uint32_t rank, block b, exchange_memory *s) {
                                 if (rank != odd)
                                     exchange_run(op.launches[0][rank], b, s);
                                 else if (other)
                                     exchange_run(other->launches[0][rank], b, s);
                             });
}

static const enum form forms[] = {FORM_WORDS, FORM_LINES, FORM_STREAM};

static void another_call_of(uint32_t ranks, enum choir_kind kind, enum form form, enum form other,
                            uint64_t count)
{
    emulation e(ranks);
    uint32_t odd = (uint32_t)(test_seed() % ranks), found = 0;
    auto a = call(ranks, kind, 300, form, 1), b = call(ranks, kind, count, other, 2);
    {
        watcher w(e);
        launch_but(e, *a, odd, b.get());
    }
    for (uint32_t r = 0; r < ranks; r++) {
        const cuda_report &report = e.report(r);
        CHECK_NE(report.code, CUDA_FAULT_LATE);
        if (report.code != CUDA_FAULT_SIGNATURE)
            continue;
        found++;
        CHECK((r == odd) != (report.peer == odd));
        CHECK_EQ(report.seen, (uint32_t)base_mix(r == odd ? 1 : 2));
        CHECK_EQ(report.signature, (uint32_t)base_mix(r == odd ? 2 : 1));
    }
    CHECK(found);
}

static void another_call(void)
{
    for (uint32_t ranks : {2u, 4u})
        for (enum form form : forms)
            for (enum form other : forms)
                for (uint64_t count : {3u, 300u, 900u}) {
                    another_call_of(ranks, CHOIR_ALL_GATHER, form, other, count);
                    /* only who receives can tell */
                    another_call_of(ranks, CHOIR_BROADCAST, form, other, count);
                }
}

/* Kernels of a rank that has given up end at once, and write nothing. */
static void check_poisoned(emulation &e, enum form form)
{
    auto op = call(e.ranks, CHOIR_ALL_GATHER, 300, form, 5);
    launch_but(e, *op, UINT32_MAX, NULL);
    CHECK(op->unwritten());
}

static void a_rank_that_never_comes(void)
{
    uint64_t limit = TEST_SANITIZED ? 4000000000u : 1000000000u;
    for (enum form form : forms) {
        if (!test_effort() && form != forms[test_seed() % base_count(forms)])
            continue; /* short: one of them, since each takes the limit */
        uint32_t ranks = 2 + (uint32_t)(test_seed() / 3 + form) % 2;
        emulation e(ranks, limit);
        uint32_t odd = (uint32_t)(test_seed() % ranks);
        auto op = call(ranks, CHOIR_ALL_GATHER, 300, form, 1);
        launch_but(e, *op, odd, NULL);
        for (uint32_t r = 0; r < ranks; r++) {
            CHECK_EQ(e.report(r).code, r == odd ? CUDA_FAULT_NONE : CUDA_FAULT_LATE);
            CHECK(r == odd || e.report(r).peer == odd);
            e.view(r).guard.state->poison = CUDA_FAULT_ABORT; /* the odd one's too */
        }
        check_poisoned(e, form);
    }
}

/* A sender that may not go on, for nobody has read what it sent. */
static void a_reader_that_never_comes(void)
{
    for (enum form form : forms) {
        emulation e(2, 300000000);
        uint64_t count = form == FORM_STREAM ? 8u * CUDA_SLOT_BYTES * LANES / 4 : 300;
        auto op = call(2, CHOIR_BROADCAST, count, form, 1);
        launch_but(e, *op, 1, NULL, 3);
        CHECK_EQ(e.report(0).code, CUDA_FAULT_LATE);
        CHECK_EQ(e.report(0).peer, 1);
    }
}

static void an_order_to_stop(void)
{
    for (uint32_t ranks : {2u, 4u})
        for (enum form form : forms) {
            emulation e(ranks);
            uint32_t odd = ranks - 2;
            auto op = call(ranks, CHOIR_ALL_TO_ALL, 300, form, 1);
            {
                watcher w(e, 20000000);
                launch_but(e, *op, odd, NULL);
            }
            for (uint32_t r = 0; r < ranks; r++)
                CHECK_EQ(e.report(r).code, r == odd ? CUDA_FAULT_NONE : CUDA_FAULT_ABORT);
        }
}

TEST_MAIN(TEST(all_exchanges), TEST(pairs), TEST(numbers_that_wrap), TEST(another_call),
          TEST(a_rank_that_never_comes), TEST(a_reader_that_never_comes), TEST(an_order_to_stop))
