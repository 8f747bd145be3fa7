/* SPDX-License-Identifier: Apache-2.0 */
/* The simulator against formulas, against itself in full where it prices by representatives or smaller clusters, and against
 * common sense: larger is not faster, slower links are slower, all ranks find the same price. */
#include "plan/simulate.h"
#include "tests/lib/test.h"
#include <math.h>

static const char *const reducers[] = {
    "ring", "tree", "recursive_doubling", "halving_doubling", "pat", "one_shot", "two_shot"};

/* Only what is given costs. */
static struct plan_cluster bare(const struct choir_layout *l, double alpha, double beta)
{
    struct plan_cluster c = {.layout = l, .oversubscribed = 1};
    for (int i = PLAN_LINK_HOST; i < PLAN_LINKS; i++) {
        c.link[i].alpha_ns = alpha;
        c.link[i].beta_ns = beta;
    }
    plan_cluster_rehash(&c);
    return c;
}

static void near(double got, double want, double within, const char *what)
{
    if (!(fabs(got - want) <= within * fabs(want)))
        FAIL("%s: %g, expected %g within %g %%", what, got, want, 100 * within);
}

static struct choir_shape shape_of(enum choir_kind kind, const struct choir_layout *l,
                                   uint64_t count)
{
    struct choir_shape s;
    plan_shape_init(&s, kind, 0, l->ranks, count, l);
    return s;
}

static struct plan_price price_by(const char *algorithm, enum choir_kind kind,
                                  const struct plan_cluster *c, uint64_t count, enum sim_mode mode)
{
    struct choir_shape s = shape_of(kind, c->layout, count);
    struct sim_how how = {.mode = mode, .budget = SIM_BUDGET};
    struct plan_price price;
    CHECK_OK(sim_price(algorithm, &s, c, &how, &price));
    return price;
}

static double time_of(const char *algorithm, enum choir_kind kind, const struct plan_cluster *c,
                      uint64_t count)
{
    struct choir_shape s = shape_of(kind, c->layout, count);
    struct plan_price price;
    CHECK_OK(plan_simulate(algorithm, &s, c, &price));
    return price.time_ns;
}

static double skewed_ns(const char *algorithm, enum choir_kind kind, const struct plan_cluster *c,
                        uint32_t longest, uint64_t most, uint64_t others, enum sim_mode mode)
{
    struct choir_shape s = shape_of(kind, c->layout, others);
    struct sim_how how = {.mode = mode, .budget = SIM_BUDGET};
    struct plan_price price;
    uint64_t *count = plan_shape_even(&s);
    CHECK(count);
    count[longest] = most;
    CHECK_OK(sim_price(algorithm, &s, c, &how, &price));
    free(count);
    return price.time_ns;
}

static void formulas(void)
{
    for (uint32_t n = 2; n <= 64; n *= 2) {
        struct choir_layout *l = plan_layout_regular(n, 1);
        struct plan_cluster c = bare(l, 1000, 0.5);
        uint64_t count = 4096 * n;
        double s = 4.0 * (double)count;
        near(time_of("ring", CHOIR_ALL_REDUCE, &c, count), 2 * (n - 1) * (1000 + .5 * s / n), .001,
             "ring all_reduce");
        near(time_of("ring", CHOIR_ALL_GATHER, &c, 4096), (n - 1) * (1000 + .5 * 16384), .001,
             "ring all_gather");
        near(time_of("recursive_doubling", CHOIR_ALL_REDUCE, &c, 1024),
             log2(n) * (1000 + .5 * 4096), .001, "recursive doubling");
        near(time_of("one_shot", CHOIR_ALL_REDUCE, &c, 1024), 1000 + .5 * 4096, .001, "one shot");
        near(time_of("direct", CHOIR_ALL_TO_ALL, &c, 1024), 1000 + .5 * 4096, .001, "direct");
        near(time_of("pairwise", CHOIR_ALL_TO_ALL, &c, 1024), (n - .5) * (1000 + .5 * 4096),
             .51 / (n - .5), "pairwise, n - 1 or n rounds");
        near(time_of("tree", CHOIR_BROADCAST, &c, 0), 1000 * log2(n), .6, "tree of nothing");
        plan_layout_free(l);
    }
    /* Pipelined in many instances: bandwidth only, one hop after another hidden. */
    struct choir_layout *l = plan_layout_regular(4, 1);
    struct plan_cluster c = bare(l, 10, .5);
    near(time_of("ring", CHOIR_ALL_REDUCE, &c, 64 << 20), 2 * 3 / 4. * .5 * (256 << 20), .02,
         "long ring");
    plan_layout_free(l);
    l = plan_layout_regular(1, 1);
    c = bare(l, 10, .5);
    near(time_of("ring", CHOIR_ALL_REDUCE, &c, 1000), 0, 0, "one rank, nothing costs");
    plan_layout_free(l);
}

/* Both directions of a NIC carry what its eight ranks exchange with the other host. */
static void shared_nic(void)
{
    struct choir_layout *l = plan_layout_regular(2, 8);
    struct plan_cluster c = bare(l, 0, 0);
    c.link[PLAN_LINK_NET].shared_beta_ns = 1;
    double bytes = 8. * 8 * 65536 * 4;
    near(time_of("direct", CHOIR_ALL_TO_ALL, &c, 65536), bytes, .02, "all_to_all over two NICs");
    c.link[PLAN_LINK_NET].shared_beta_ns = 0;
    c.link[PLAN_LINK_HOST].shared_beta_ns = .25;
    near(time_of("direct", CHOIR_ALL_TO_ALL, &c, 65536), .25 * 8 * 7 * 65536 * 4, .02,
         "all_to_all in two memories");
    c.link[PLAN_LINK_HOST].shared_beta_ns = 0;
    c.link[PLAN_LINK_HOST].rank_beta_ns = c.link[PLAN_LINK_NET].rank_beta_ns = .5;
    near(time_of("direct", CHOIR_ALL_TO_ALL, &c, 65536), .5 * 2 * 15 * 65536 * 4, .05,
         "all_to_all by one CPU a rank");
    double once = time_of("direct", CHOIR_ALL_TO_ALL, &c, 65536);
    c.oversubscribed = 3;
    near(time_of("direct", CHOIR_ALL_TO_ALL, &c, 65536), 3 * once, .001, "three ranks a core");
    plan_layout_free(l);
}

/* One carrier of each host swaps 8 * 8 blocks, more than a rank's buffer has: none is left out. */
static void many_blocks(void)
{
    struct choir_layout *l = plan_layout_regular(2, 8);
    struct plan_cluster c;
    plan_cluster_default(&c, l);
    for (enum sim_mode mode = SIM_FULL; mode <= SIM_REPS; mode++) {
        struct plan_price p = price_by("hierarchical", CHOIR_ALL_TO_ALL, &c, 100, mode);
        CHECK_EQ(p.bytes[PLAN_LINK_NET], 2 * 64 * 400);
    }
    plan_layout_free(l);
}

/* Ranks that share cores slow each other down while they work: all of an all_to_all, few of a broadcast's. */
static void shared_cores(void)
{
    struct choir_layout *l = plan_layout_regular(1, 8);
    struct plan_cluster c = bare(l, 0, 0);
    c.link[PLAN_LINK_HOST].rank_beta_ns = .5;
    uint64_t count = 1 << 18;
    double pushed = .5 * 4 * (double)count, all = time_of("direct", CHOIR_ALL_TO_ALL, &c, count),
           even = skewed_ns("direct", CHOIR_ALL_GATHER_V, &c, 0, count, count, SIM_FULL);
    c.oversubscribed = 4;
    near(time_of("direct", CHOIR_ALL_TO_ALL, &c, count), 4 * all, .001, "all at work");
    near(skewed_ns("direct", CHOIR_ALL_GATHER_V, &c, 0, count, count, SIM_FULL), 4 * even, .001,
         "equal blocks");
    /* The root pushes to 7 on one core, while the other serves those who take. */
    near(time_of("direct", CHOIR_BROADCAST, &c, count), 7 * pushed, .05, "a root at work");
    near(skewed_ns("direct", CHOIR_ALL_GATHER_V, &c, 3, count, 0, SIM_FULL), 7 * pushed, .05,
         "one block");
    c.oversubscribed = 8; /* one core pushes and takes all in turn */
    near(time_of("direct", CHOIR_BROADCAST, &c, count), 14 * pushed, .1, "one core");
    plan_layout_free(l);
}

/* Bytes and messages are counted, not estimated: known closed forms. */
static void counts(void)
{
    struct choir_layout *l = plan_layout_regular(4, 4);
    struct plan_cluster c;
    plan_cluster_default(&c, l);
    for (enum sim_mode mode = SIM_FULL; mode <= SIM_REPS; mode++) {
        struct plan_price p = price_by("ring", CHOIR_ALL_REDUCE, &c, 16 << 20, mode);
        CHECK_EQ(p.bytes[PLAN_LINK_NET], 2 * 15 * (4ull << 20) * 4); /* 4 of 16 hops leave a host */
        CHECK_EQ(p.bytes[PLAN_LINK_HOST], 2 * 15 * (4ull << 20) * 12);
        CHECK_EQ(p.bytes[PLAN_LINK_SELF], 0);
        CHECK_EQ(p.sampled, mode == SIM_REPS);
        p = price_by("bruck", CHOIR_ALL_TO_ALL, &c, 100, mode);
        CHECK_EQ(p.messages, 16 * 4);
        CHECK_EQ(p.bytes[PLAN_LINK_NET] + p.bytes[PLAN_LINK_HOST], 16 * 4 * 8 * 400);
    }
    struct plan_price p = price_by("direct", CHOIR_ALL_TO_ALL, &c, 100, SIM_FULL);
    CHECK_EQ(p.messages, 16 * 15);
    CHECK_EQ(p.bytes[PLAN_LINK_NET], 16 * 12 * 400);
    plan_layout_free(l);
}

static void by_representatives(void)
{
    static const uint32_t layout[][2] = {{16, 1}, {64, 1}, {1, 32}, {8, 8}, {4, 16}, {6, 5}};
    static const uint64_t count[] = {0, 1000, 1 << 18, 1 << 22};
    int compared = 0, close = 0;
    for (size_t i = 0; i < base_count(layout); i++)
        for (size_t a = 0; a < base_count(reducers); a++)
            for (size_t k = 0; k < base_count(count); k++) {
                struct choir_layout *l = plan_layout_regular(layout[i][0], layout[i][1]);
                struct plan_cluster c;
                plan_cluster_default(&c, l);
                struct choir_shape s = shape_of(CHOIR_ALL_REDUCE, l, count[k]);
                struct sim_how how = {.mode = SIM_REPS, .budget = SIM_BUDGET};
                struct plan_price reps, full;
                enum choir_status status = sim_price(reducers[a], &s, &c, &how, &reps);
                if (status == CHOIR_OK) {
                    char what[96];
                    full = price_by(reducers[a], CHOIR_ALL_REDUCE, &c, count[k], SIM_FULL);
                    snprintf(what, sizeof(what), "%s of %llu on %u x %u by representatives",
                             reducers[a], (unsigned long long)count[k], layout[i][0], layout[i][1]);
                    near(reps.time_ns, full.time_ns, .2, what);
                    close += fabs(reps.time_ns - full.time_ns) <= .02 * full.time_ns;
                    CHECK_EQ(reps.messages, full.messages);
                    compared++;
                } else if (status != CHOIR_ERR_STATE && status != CHOIR_ERR_UNSUPPORTED) {
                    FAIL("%s: %s", reducers[a], base_error_thread()->text);
                }
                plan_layout_free(l);
            }
    /* Who is served first at a crowded NIC differs where many send to many; all else agrees. */
    printf("%d prices by representatives, %d within 2 %% of those in full\n", compared, close);
    CHECK_LE(60, compared);
    CHECK_LE(compared * 9 / 10, close);
}

/* Loops cut short and carried on, against played in full. */
static void by_fewer_iterations(void)
{
    static const uint32_t layout[][2] = {{512, 1}, {64, 8}};
    for (size_t i = 0; i < base_count(layout); i++)
        for (uint64_t count = 64; count <= 1 << 22; count <<= 8) {
            struct choir_layout *l = plan_layout_regular(layout[i][0], layout[i][1]);
            struct plan_cluster c;
            plan_cluster_default(&c, l);
            struct choir_shape s = shape_of(CHOIR_ALL_REDUCE, l, count);
            struct sim_how brief = {.mode = SIM_REPS, .budget = 1},
                           whole = {.mode = SIM_REPS, .budget = UINT64_MAX};
            struct plan_price a, b;
            CHECK_OK(sim_price("ring", &s, &c, &brief, &a));
            CHECK_OK(sim_price("ring", &s, &c, &whole, &b));
            near(a.time_ns, b.time_ns, .03, "shortened ring");
            CHECK_EQ(a.messages, b.messages);
            CHECK_EQ(a.bytes[PLAN_LINK_NET], b.bytes[PLAN_LINK_NET]);
            plan_layout_free(l);
        }
}

/* Three smaller clusters carried on: an estimate, so within a factor. */
static void by_smaller_clusters(void)
{
    static const struct {
        const char *name;
        uint32_t hosts, per;
    } cases[] = {{"tree", 256, 1},
                 {"tree", 64, 4},
                 {"recursive_doubling", 192, 1},
                 {"ring", 96, 3},
                 {"halving_doubling", 24, 8}};
    for (size_t i = 0; i < base_count(cases); i++)
        for (uint64_t count = 1; count <= 1 << 20; count <<= 10) {
            struct choir_layout *l = plan_layout_regular(cases[i].hosts, cases[i].per);
            struct plan_cluster c;
            plan_cluster_default(&c, l);
            struct choir_shape s = shape_of(CHOIR_ALL_REDUCE, l, count);
            struct sim_how how = {.mode = SIM_SHRUNK, .budget = 20000};
            struct plan_price p, full;
            CHECK_OK(sim_price(cases[i].name, &s, &c, &how, &p));
            full = price_by(cases[i].name, CHOIR_ALL_REDUCE, &c, count, SIM_FULL);
            near(log2(p.time_ns / full.time_ns) + 10, 10, .1, cases[i].name); /* factor 2 */
            CHECK(p.sampled);
            plan_layout_free(l);
        }
    /* Uneven hosts leave no other way; roots move along. */
    uint64_t key[300];
    for (uint32_t r = 0; r < 300; r++)
        key[r] = r % 7 * r % 41;
    struct choir_layout *l = plan_layout_create(300, key);
    struct plan_cluster c;
    plan_cluster_default(&c, l);
    struct choir_shape s = shape_of(CHOIR_BROADCAST, l, 10);
    for (s.root = 0; s.root < 300; s.root += 23) {
        struct sim_how how = {.mode = SIM_SHRUNK, .budget = 1000};
        struct plan_price p;
        CHECK_OK(sim_price("tree", &s, &c, &how, &p));
        CHECK(p.time_ns > 0);
    }
    plan_layout_free(l);
}

/* A million ranks, their loops not expanded: the formula, in about a second. */
static void a_million(void)
{
    struct choir_layout *l = plan_layout_regular(1000000, 1);
    CHECK(l);
    struct plan_cluster c = bare(l, 1000, .5);
    struct choir_shape s = shape_of(CHOIR_ALL_REDUCE, l, 1000000);
    struct plan_price p;
    uint64_t start = base_now_ns();
    CHECK_OK(plan_simulate("ring", &s, &c, &p));
    double seconds = (double)(base_now_ns() - start) / 1e9;
    printf("ring of a million ranks priced in %.2f s\n", seconds);
    near(p.time_ns, 2. * 999999 * (1000 + .5 * 16), .01, "ring of a million");
    CHECK(p.sampled && seconds < 20);
    start = base_now_ns();
    CHECK_OK(plan_simulate("tree", &s, &c, &p));
    printf("tree of a million ranks estimated in %.2f s\n", (double)(base_now_ns() - start) / 1e9);
    CHECK(p.sampled && p.time_ns > 1000 * 20);
    plan_layout_free(l);
}

static void sense(void)
{
    static const uint32_t layout[][2] = {{1, 2}, {1, 8}, {3, 5}, {13, 1}};
    for (size_t i = 0; i < base_count(layout); i++) {
        struct choir_layout *l = plan_layout_regular(layout[i][0], layout[i][1]);
        struct plan_cluster c;
        plan_cluster_default(&c, l);
        for (size_t a = 0; a < base_count(reducers); a++) {
            double before = 0;
            for (uint64_t count = 1; count <= 1 << 24; count *= 4) {
                struct choir_shape s = shape_of(CHOIR_ALL_REDUCE, l, count);
                struct plan_price p;
                enum choir_status status = plan_simulate(reducers[a], &s, &c, &p);
                if (status == CHOIR_ERR_UNSUPPORTED)
                    break;
                CHECK_OK(status);
                if (!(p.time_ns >= .99 * before))
                    FAIL("%s of %llu elements on %u x %u: %g ns, a quarter of it %g ns",
                         reducers[a], (unsigned long long)count, layout[i][0], layout[i][1],
                         p.time_ns, before);
                before = p.time_ns;
            }
        }
        plan_layout_free(l);
    }
    struct choir_layout *l = plan_layout_regular(32, 1);
    struct plan_cluster c;
    plan_cluster_default(&c, l);
    CHECK(time_of("recursive_doubling", CHOIR_ALL_REDUCE, &c, 2) <
          time_of("ring", CHOIR_ALL_REDUCE, &c, 2) / 4);
    CHECK(time_of("ring", CHOIR_ALL_REDUCE, &c, 64 << 20) <
          time_of("recursive_doubling", CHOIR_ALL_REDUCE, &c, 64 << 20) / 2);
    plan_layout_free(l);
}

static void same_on_all_ranks(void)
{
    struct choir_layout *l = plan_layout_regular(3, 5);
    struct plan_cluster c;
    plan_cluster_default(&c, l);
    for (size_t a = 0; a < base_count(reducers); a++) {
        struct choir_shape s = shape_of(CHOIR_ALL_REDUCE, l, 12345);
        struct plan_price first, other;
        CHECK_OK(plan_simulate(reducers[a], &s, &c, &first));
        for (s.rank = 1; s.rank < 15; s.rank++) {
            CHECK_OK(plan_simulate(reducers[a], &s, &c, &other));
            CHECK(!memcmp(&first.time_ns, &other.time_ns, sizeof(first.time_ns)));
        }
    }
    plan_layout_free(l);
}

static void v_forms(void)
{
    struct choir_layout *l = plan_layout_regular(2, 3);
    struct plan_cluster c;
    plan_cluster_default(&c, l);
    CHECK(time_of("pairwise", CHOIR_ALL_TO_ALL_V, &c, 1000) >
          time_of("pairwise", CHOIR_ALL_TO_ALL_V, &c, 10));
    struct choir_shape s = shape_of(CHOIR_EXCHANGE, l, 1);
    struct plan_price p;
    CHECK_EQ(plan_simulate("pairwise", &s, &c, &p), CHOIR_ERR_UNSUPPORTED);
    plan_layout_free(l);
}

/* Where all ranks know all counts, the price is theirs: one block of many times the length of the others. */
static void skewed(void)
{
    enum { MANY = 4096 };
    for (uint32_t n = 4; n <= 64; n *= 4) {
        struct choir_layout *l = plan_layout_regular(n, 1);
        struct plan_cluster c = bare(l, 1000, 0.5);
        for (uint32_t longest = 0; longest < n; longest += n / 2 + 1) {
            near(skewed_ns("ring", CHOIR_ALL_GATHER_V, &c, longest, MANY, 0, SIM_AUTO),
                 (n - 1) * (1000 + .5 * 4 * MANY), .001, "a ring waits for it at every hop");
            near(skewed_ns("direct", CHOIR_ALL_GATHER_V, &c, longest, MANY, 0, SIM_AUTO),
                 1000 + .5 * 4 * MANY, .001, "direct waits for it once");
            near(
                skewed_ns("recursive_doubling", CHOIR_ALL_GATHER_V, &c, longest, MANY, 0, SIM_AUTO),
                log2(n) * (1000 + .5 * 4 * MANY), .001, "recursive doubling passes it on");
            near(skewed_ns("direct", CHOIR_REDUCE_SCATTER_V, &c, longest, MANY, 0, SIM_AUTO),
                 1000 + .5 * 4 * MANY, .001, "direct combines it once");
        }
        CHECK(skewed_ns("ring", CHOIR_ALL_GATHER_V, &c, 1, 0, 0, SIM_AUTO) < 1001. * (n - 1));
        plan_layout_free(l);
    }
}

/* Smaller clusters keep the long block, wherever it is. */
static void skewed_by_smaller_clusters(void)
{
    static const char *const name[] = {"ring", "direct", "bruck"};
    struct choir_layout *l = plan_layout_regular(96, 1);
    struct plan_cluster c;
    plan_cluster_default(&c, l);
    for (size_t i = 0; i < base_count(name); i++)
        for (uint32_t longest = 0; longest < 96; longest += 19) {
            double part =
                skewed_ns(name[i], CHOIR_ALL_GATHER_V, &c, longest, 1 << 18, 64, SIM_SHRUNK);
            double full =
                skewed_ns(name[i], CHOIR_ALL_GATHER_V, &c, longest, 1 << 18, 64, SIM_FULL);
            near(log2(part / full) + 10, 10, .1, name[i]); /* factor 2 */
            CHECK(full > 3 * skewed_ns(name[i], CHOIR_ALL_GATHER_V, &c, longest, 64, 64, SIM_FULL));
        }
    plan_layout_free(l);
}

/* Plans given: priced as those built; those that wait for each other are told, not waited for. */
static void given_plans(void)
{
    struct choir_layout *l = plan_layout_regular(2, 2);
    struct plan_cluster c;
    struct choir_plan *plans[4];
    struct plan_price a, b;
    plan_cluster_default(&c, l);
    struct choir_shape s = shape_of(CHOIR_ALL_REDUCE, l, 5000);
    for (s.rank = 0; s.rank < 4; s.rank++)
        CHECK_OK(plan_build("ring", &s, &plans[s.rank]));
    CHECK_OK(plan_simulate_plans((const struct choir_plan *const *)plans, 4, 4, &c, &a));
    CHECK_OK(plan_simulate("ring", &s, &c, &b));
    CHECK(!memcmp(&a.time_ns, &b.time_ns, sizeof(a.time_ns)));
    CHECK_EQ(plan_simulate_plans((const struct choir_plan *const *)plans, 3, 4, &c, &a),
             CHOIR_ERR_ARGUMENT);
    struct choir_place *place = (struct choir_place *)(uintptr_t)plans[2]->place;
    for (uint32_t i = 0; i < plans[2]->places; i++)
        if (place[i].peer >= 0)
            place[i].peer = 2; /* rank 2 talks to itself only */
    CHECK_EQ(plan_simulate_plans((const struct choir_plan *const *)plans, 4, 4, &c, &a),
             CHOIR_ERR_ARGUMENT);
    CHECK(strstr(base_error_thread()->text, "wait for each other for ever: rank"));
    for (uint32_t r = 0; r < 4; r++)
        plan_free(plans[r]);
    plan_layout_free(l);
}

/* Of one message each way: where it is read, half of the copies go; a short one, or one between hosts, is copied as ever. */
static void pulled(void)
{
    for (uint32_t hosts = 1; hosts <= 2; hosts++) {
        struct choir_layout *l = plan_layout_regular(hosts, 2 / hosts);
        for (uint64_t count = 16 << 10; count <= 4 << 20; count <<= 8) {
            struct plan_cluster c = bare(l, 0, 0);
            c.link[PLAN_LINK_HOST].rank_beta_ns = c.link[PLAN_LINK_NET].rank_beta_ns = 1;
            double want = time_of("direct", CHOIR_ALL_GATHER, &c, count);
            want /= hosts > 1 || count < 1 << 20 ? 1 : 2;
            plan_cluster_reads(&c);
            near(time_of("direct", CHOIR_ALL_GATHER, &c, count), want, .01, "pulled");
        }
        plan_layout_free(l);
    }
}

static void cluster_text(void)
{
    struct choir_layout *l = plan_layout_regular(3, 4), *read;
    struct plan_cluster c, d;
    plan_cluster_default(&c, l);
    c.link[PLAN_LINK_NET].beta_ns = 1.0 / 3;
    plan_cluster_cores(&c, 2);
    CHECK(c.oversubscribed == 2);
    c.copy_ns = .125;
    plan_cluster_reads(&c);
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    plan_cluster_dump(&c, f);
    fclose(f);
    plan_cluster_default(&d, l);
    CHECK(c.hash != d.hash);
    CHECK_OK(plan_cluster_parse(text, &d, &read));
    CHECK(read && read->ranks == 12 && read->hosts == 3);
    CHECK(d.copy_ns == .125 && d.oversubscribed == 2 && d.pull_bytes == c.pull_bytes);
    near(d.link[PLAN_LINK_NET].beta_ns, 1.0 / 3, 1e-9, "net beta");
    free(text);
    plan_layout_free(read);
    CHECK_OK(plan_cluster_parse("choir cluster 1 hosts_of 3 5 8 # uneven\n step 7", &d, &read));
    CHECK(read->ranks == 16 && read->hosts == 3 && read->host_of[3] == 1 && d.step_ns == 7);
    plan_layout_free(read);
    static const char *const wrong[] = {"cluster 1",
                                        "choir cluster 2",
                                        "choir cluster 1 host alfa 3",
                                        "choir cluster 1 host alpha -3",
                                        "choir cluster 1 hosts 0 per_host 3",
                                        "choir cluster 1 hosts 4294967295 per_host 4294967295",
                                        "choir cluster 1 hosts_of",
                                        "choir cluster 1 hosts_of 1 hosts_of 2",
                                        "choir cluster 1 oversubscribed 0.5",
                                        "choir cluster 1 copy 1e999"};
    for (size_t i = 0; i < base_count(wrong); i++)
        if (plan_cluster_parse(wrong[i], &d, &read) != CHOIR_ERR_ARGUMENT || read ||
            !strstr(base_error_thread()->text, "line 1, column"))
            FAIL("\"%s\" was taken", wrong[i]);
    plan_layout_free(l);
}

TEST_MAIN(TEST(formulas), TEST(shared_nic), TEST(shared_cores), TEST(counts), TEST(many_blocks),
          TEST(by_representatives), TEST(by_fewer_iterations), TEST(by_smaller_clusters),
          TEST(a_million), TEST(sense), TEST(same_on_all_ranks), TEST(v_forms), TEST(skewed),
          TEST(skewed_by_smaller_clusters), TEST(given_plans), TEST(pulled), TEST(cluster_text))
