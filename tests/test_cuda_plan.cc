/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel that runs any plan, in emulation: every algorithm for every collective, in sequences over the same mailboxes,
 * bit for bit what the reference interpreter makes of the same plans; and how it gives up.
 */
#include "tests/lib/plan_jobs.hh"

#define THREADS_MOST 4u

/* --- sequences -------------------------------------------------------------------------------------------- */

struct sequence {
    emulation world;
    std::vector<std::unique_ptr<job>> jobs;
    uint64_t luck;
    uint32_t ran = 0;

    sequence(uint32_t n, uint64_t seed) : world(n), luck(seed)
    {
    }
    void launch(uint32_t threads)
    {
        emulated_launch how = {(uint32_t)jobs.size(), 1, threads, base_random(&luck)};
        for (std::unique_ptr<job> &j : jobs) {
            how.lanes = base_max(how.lanes, j->lanes);
            for (uint32_t r = 0; r < j->n; r++) {
                j->call[r].view = world.view(r);
                j->call[r].signature = (uint32_t)base_hash(j->name.data(), j->name.size(), luck);
            }
        }
        emulate<plan_shared>(world, how,
                             [this](uint32_t op, uint32_t rank, block b, plan_shared *s) {
                                 run_call(*jobs[op], rank, b, s);
                             });
        world.check();
        for (std::unique_ptr<job> &j : jobs) {
            check_job(*j);
            ranks_free(&j->ranks);
        }
        ran += (uint32_t)jobs.size();
        jobs.clear();
    }
    /* Some threads have nothing to wait for but each other: that is dear on few cores, so not always. */
    void add(const std::string &name, enum choir_kind kind, const struct choir_layout *layout,
             uint64_t count)
    {
        std::unique_ptr<job> j = make_job(name, kind, layout, count, &luck);
        if (j)
            jobs.push_back(std::move(j));
        if (jobs.size() == 12)
            launch(base_random(&luck) % 4 ? 1 : 1u << base_random(&luck) % 3);
    }
    void end()
    {
        if (!jobs.empty())
            launch(THREADS_MOST);
    }
};

static std::vector<std::string> variants(const struct choir_algorithm *a)
{
    std::vector<std::string> all = {a->name};
    for (const char *v = a->variants; *v;) {
        size_t n = strcspn(v, " ");
        all.push_back(std::string(a->name) + "(" + std::string(v, n) + ")");
        v += n + (v[n] == ' ');
    }
    return all;
}

/* Every algorithm for every kind on the layout, `tries` times. */
static void sweep(const struct choir_layout *layout, int tries, uint32_t *ran)
{
    static const uint64_t counts[] = {0, 1, 2, 37, 331, 1009};
    sequence s(layout->ranks, test_seed() ^ base_mix(layout->ranks * 64 + layout->hosts));
    s.world.age(0xfffffff0u, 4);
    for (int i = 0; i < tries; i++)
        for (uint32_t k = 0; plan_algorithm_at(k); k++)
            for (const std::string &name : variants(plan_algorithm_at(k)))
                for (int kind = 0; kind < CHOIR_KINDS; kind++)
                    if (plan_algorithm_at(k)->kinds >> kind & 1)
                        s.add(name, (enum choir_kind)kind, layout,
                              counts[base_random(&s.luck) % base_count(counts)]);
    s.end();
    *ran += s.ran;
}

static void one_host()
{
    static const uint32_t sizes[] = {1, 2, 3, 4, 5, 8};
    uint32_t ran = 0;
    for (uint32_t n : sizes) {
        struct choir_layout *layout = plan_layout_regular(1, n);
        sweep(layout, TEST_BY_EFFORT(1, 4, 20), &ran);
        plan_layout_free(layout);
    }
    printf("%u collectives\n", ran);
}

/* Hosts are made up: it is about plans, and hierarchical ones have the longest. */
static void several_hosts()
{
    static const char *const hosts[] = {"0011", "00011", "010201", "00112233"};
    uint32_t ran = 0;
    for (const char *text : hosts) {
        uint64_t key[CUDA_RANKS];
        uint32_t n = (uint32_t)strlen(text);
        for (uint32_t r = 0; r < n; r++)
            key[r] = (uint64_t)text[r];
        struct choir_layout *layout = plan_layout_create(n, key);
        sweep(layout, TEST_BY_EFFORT(1, 3, 10), &ran);
        plan_layout_free(layout);
    }
    printf("%u collectives\n", ran);
}

/* --- groups ------------------------------------------------------------------------------------------------ */

struct call_of { /* a send or a receive */
    uint32_t rank, peer;
    bool receive;
};
#define GROUP_BYTES 5000u

/* The ranks' groups of these calls; who has none has an empty one. */
static std::unique_ptr<job> make_group(const struct choir_layout *layout,
                                       const std::vector<call_of> &calls)
{
    std::unique_ptr<job> j(new job());
    j->name = "pairwise";
    j->kind = CHOIR_EXCHANGE;
    j->arithmetic = MOVE;
    j->n = layout->ranks;
    j->elem = 1;
    uint32_t most = (uint32_t)calls.size();
    j->ranks.n = j->n;
    j->ranks.shape = (struct choir_shape *)calloc(j->n, sizeof(struct choir_shape));
    j->ranks.plan = (struct choir_plan **)calloc(j->n, sizeof(struct choir_plan *));
    j->ranks.words = (uint64_t *)malloc(most * sizeof(uint64_t));
    j->ranks.peers = (uint32_t *)malloc(2 * j->n * most * sizeof(uint32_t));
    std::fill_n(j->ranks.words, most, GROUP_BYTES);
    for (uint32_t r = 0; r < j->n; r++) {
        struct choir_shape *s = &j->ranks.shape[r];
        plan_shape_init(s, CHOIR_EXCHANGE, r, j->n, 0, layout);
        uint32_t *in = j->ranks.peers + 2 * r * most, *out = in + most;
        for (const call_of &c : calls)
            if (c.rank == r)
                (c.receive ? out[s->out_parts++] : in[s->in_parts++]) = c.peer;
        s->type_bytes = 1;
        s->slot_bytes = 256;
        s->depth = CUDA_DEPTH;
        s->in_count = s->out_count = j->ranks.words;
        s->in_peer = in;
        s->out_peer = out;
    }
    CHECK_OK(ranks_build(&j->ranks, j->name.c_str()));
    j->mine.resize(j->n);
    j->call.resize(j->n);
    for (uint32_t r = 0; r < j->n; r++) {
        make_buffers(*j, r, false, 0, &j->mine[r]);
        fill(*j, r, &j->mine[r]);
        make_call(j.get(), r);
    }
    return j;
}

/* Rank 0's plan takes 2's message first, then 1's; but 2 sends it once it has one of 1, which sends that once 0 has its own. */
static void any_order()
{
    struct choir_layout *layout = plan_layout_regular(1, 3);
    for (uint32_t threads = 1; threads <= THREADS_MOST; threads *= 2) {
        emulation world(3, 5000000000u);
        std::unique_ptr<job> j[2] = {
            make_group(layout, {{0, 2, true}, {0, 1, true}, {2, 1, true}, {1, 0, false}}),
            make_group(layout, {{2, 0, false}, {1, 2, false}})};
        for (std::unique_ptr<job> &x : j)
            for (uint32_t r = 0; r < 3; r++)
                x->call[r].view = world.view(r);
        emulate<plan_shared>(world, emulated_launch{2, 1, threads, test_seed()},
                             [&](uint32_t op, uint32_t rank, block b, plan_shared *s) {
                                 run_call(*j[op], rank, b, s);
                             });
        world.check();
        CHECK(!memcmp(j[0]->mine[0].out, j[1]->mine[2].in, GROUP_BYTES));
        CHECK(!memcmp(j[0]->mine[0].out + GROUP_BYTES, j[0]->mine[1].in, GROUP_BYTES));
        CHECK(!memcmp(j[0]->mine[2].out, j[1]->mine[1].in, GROUP_BYTES));
        for (std::unique_ptr<job> &x : j)
            ranks_free(&x->ranks);
    }
    plan_layout_free(layout);
}

/* --- what goes wrong ------------------------------------------------------------------------------------- */

/* A collective of which `absent` has no part, or, with `other`, is in another call; whose kernels give up by themselves
 * or, `stopped`, are told to. */
struct trouble {
    const char *name;
    enum choir_kind kind;
    bool other, stopped;
    uint32_t code;
};

static void *stop_all(void *p)
{
    usleep(50000);
    for (uint32_t &word : ((emulation *)p)->abort)
        __atomic_store_n(&word, 1u, __ATOMIC_RELAXED);
    return NULL;
}

static void run_trouble(const trouble &t, uint32_t threads, struct choir_layout *layout)
{
    uint64_t luck = test_seed(), limit = t.stopped ? 20000000000u : 300000000u;
    uint32_t n = layout->ranks, absent = (uint32_t)(luck % n);
    emulation world(n, limit);
    std::unique_ptr<job> j = make_job(t.name, t.kind, layout, 1009, &luck);
    for (uint32_t r = 0; r < n; r++) {
        j->call[r].view = world.view(r);
        j->call[r].signature = t.other && r == absent ? 8 : 7;
    }
    auto kernel = [&](uint32_t, uint32_t rank, block b, plan_shared *s) {
        if (rank != absent || t.other)
            run_call(*j, rank, b, s);
    };
    emulated_launch how = {1, j->lanes, threads, luck};
    pthread_t stopper;
    uint64_t begin = base_now_ns();
    CHECK(!t.stopped || !pthread_create(&stopper, NULL, stop_all, &world));
    emulate<plan_shared>(world, how, kernel);
    uint64_t ended = base_now_ns();
    if (t.stopped)
        pthread_join(stopper, NULL);
    CHECK(ended - begin < 10000000000u);
    bool named = false;
    for (uint32_t r = 0; r < n; r++) {
        const cuda_report &report = world.report(r);
        CHECK(report.code || (r == absent && !t.other));
        if (report.code == t.code && (report.peer == absent || r == absent || t.stopped))
            named = true;
        CHECK(t.code == CUDA_FAULT_SIGNATURE || report.code == t.code || r == absent);
    }
    if (!named)
        FAIL("%s %s: nobody names rank %u", t.name, plan_kind_name(t.kind), absent);
    std::vector<uint32_t> codes;
    for (uint32_t r = 0; r < n; r++)
        codes.push_back(world.report(r).code);
    begin = base_now_ns();
    emulate<plan_shared>(world, how, [&](uint32_t, uint32_t rank, block b, plan_shared *s) {
        if (codes[rank]) /* poisoned: it returns at once */
            run_call(*j, rank, b, s);
    });
    CHECK(base_now_ns() - begin < (t.stopped ? 5000000000u : limit));
    ranks_free(&j->ranks);
}

static void troubles()
{
    static const trouble all[] = {
        {"direct", CHOIR_ALL_GATHER, false, false, CUDA_FAULT_LATE},
        {"ring", CHOIR_ALL_REDUCE, false, false, CUDA_FAULT_LATE},
        {"ring", CHOIR_ALL_REDUCE, true, false, CUDA_FAULT_SIGNATURE},
        {"pairwise", CHOIR_ALL_TO_ALL, true, false, CUDA_FAULT_SIGNATURE},
        {"recursive_doubling", CHOIR_ALL_REDUCE, false, true, CUDA_FAULT_ABORT},
    };
    struct choir_layout *layout = plan_layout_regular(1, 4);
    for (const trouble &t : all)
        for (uint32_t threads = 1; threads <= THREADS_MOST; threads *= 4)
            run_trouble(t, threads, layout);
    plan_layout_free(layout);
}

/* Plans that kernels have no room for are refused. */
static void refused()
{
    struct choir_layout *layout = plan_layout_regular(1, 2);
    struct choir_shape s;
    struct choir_plan *plan;
    plan_shape_init(&s, CHOIR_ALL_REDUCE, 0, 2, 1 << 20, layout);
    s.slot_bytes = CUDA_SLOT_BYTES;
    s.depth = CUDA_DEPTH;
    s.window = CUDA_SLOT_LANES;
    CHECK_OK(plan_build("ring", &s, &plan));
    plan->instances = 2 * CUDA_SLOT_LANES;
    for (int i = 0; i < 5; i++) {
        struct choir_plan *p = plan_copy(plan);
        struct cuda_tables *tables;
        CHECK(p);
        p->size += i == 1 ? CUDA_RANKS : 0;
        p->slot += i == 2;
        p->depth += i == 3;
        p->window = i == 4 ? CUDA_SLOT_LANES + 1 : CUDA_SLOT_LANES;
        CHECK_EQ(cuda_bind(p, 4, &tables), i ? CHOIR_ERR_UNSUPPORTED : CHOIR_OK);
        if (!i)
            cuda_tables_free(tables);
        plan_free(p);
    }
    plan_free(plan);
    plan_layout_free(layout);
}

static const struct test_case cases[] = {TEST(one_host), TEST(several_hosts), TEST(any_order),
                                         TEST(troubles), TEST(refused)};

int main(int argc, char **argv)
{
    test_deadline(test_effort() > 1 ? 1500 : 240);
    return test_main(argc, argv, cases, base_count(cases));
}
