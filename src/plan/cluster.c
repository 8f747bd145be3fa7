/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster.c: the constants by which plans are priced, all in this place, and clusters as text.
 *
 * The text, order and line breaks free, everything but the first line optional:
 *   choir cluster 1
 *   hosts 16 per_host 8  |  hosts_of 3 5 8          ranks of each host, in rank order
 *   self|host|net  alpha NS overhead NS beta NS rank_beta NS shared_beta NS
 *   copy NS   combine NS   step NS   oversubscribed RATIO   pull BYTES
 */
#include "plan/scan.h"
#include "plan/plan.h"
#include <stdlib.h>
#include <string.h>

/*
 * Origin: perf/baselines, two cores of an EPYC 9004, AVX-512, kernel 6.18. A flag takes 55 ns between two
 * cores; a copy of what the other core has just written 33-44 GB/s, a copy in cache 41, from memory 11; d =
 * a + b 24-30 GB/s in cache, d += a 48; two cores copy 70-86 GB/s in cache, 20 from memory. A message costs each end
 * 60 ns where two ranks talk, 130 where 32 do (all_gather of 1 KiB, direct, on 32 cores: 8.2 us). TCP over veth:
 * 4.7 us a hop when both ends spin, of which about half is system calls; 3.4-5.1 GB/s one way, 1.5-3 GB/s
 * per host and direction in collectives.
 */
static const struct plan_cost self_cost = {
    .overhead_ns = 20, .rank_beta_ns = .03, .shared_beta_ns = .0125};
static const struct plan_cost host_cost = {
    .alpha_ns = 80, .overhead_ns = 100, .rank_beta_ns = .03, .shared_beta_ns = .0125};
static const struct plan_cost net_cost = {
    .alpha_ns = 2500, .overhead_ns = 1200, .rank_beta_ns = .1, .shared_beta_ns = .2};
#define COPY_NS .03
#define COMBINE_NS .04
#define STEP_NS 20
/* Ranks that share a core hand it over by sched_yield: rings of 8 ranks on 2 cores fit 0.7 us a hop, times the ranks per
 * core (14 hops in 42-47 us). */
#define YIELD_NS 700
/* Longer messages are cheaper read where they lie than copied through slots, on a Xeon guest where reading is fast: all_reduce of 2
 * ranks, two_shot(pull) against two_shot, 1 MiB 137 and 180 us. Of shorter ones what is saved is lost again: their lines are
 * still in the other core's cache (128 KiB 20 us either way). */
#define PULL_BYTES (256u << 10)
/* GPUs that map each other's memory, the nearest of what was measured (perf/NOTES.md): a flag takes 0.64 us to another GPU,
 * kernels store at 345 GB/s there; a fragment costs a fence and its flag. */
const struct plan_tuned plan_tuned_default = {
    .alpha_ns = 700, .overhead_ns = 400, .beta_ns = .0029, .rank_beta_ns = .0003, .step_ns = 300};
#define GPU_COPY_NS .0005

static const char *const link_name[PLAN_LINKS] = {"self", "host", "net"};
static const struct {
    const char *name;
    size_t offset;
} cost_field[] = {
    {"alpha", offsetof(struct plan_cost, alpha_ns)},
    {"overhead", offsetof(struct plan_cost, overhead_ns)},
    {"beta", offsetof(struct plan_cost, beta_ns)},
    {"rank_beta", offsetof(struct plan_cost, rank_beta_ns)},
    {"shared_beta", offsetof(struct plan_cost, shared_beta_ns)},
};

static double *field_of(struct plan_cost *c, size_t i)
{
    return (double *)(void *)((char *)c + cost_field[i].offset);
}

void plan_cluster_rehash(struct plan_cluster *c)
{
    const struct choir_layout *l = c->layout;
    double v[] = {c->copy_ns, c->combine_ns, c->step_ns, c->oversubscribed, (double)c->pull_bytes};
    uint64_t h = base_hash(c->link, sizeof(c->link), 0);
    h = base_hash(v, sizeof(v), h);
    c->hash = l ? base_hash(l->host_of, l->ranks * sizeof(*l->host_of), h) : h;
}

void plan_cluster_default(struct plan_cluster *c, const struct choir_layout *layout)
{
    *c = (struct plan_cluster){.layout = layout,
                               .link = {self_cost, host_cost, net_cost},
                               .copy_ns = COPY_NS,
                               .combine_ns = COMBINE_NS,
                               .step_ns = STEP_NS,
                               .oversubscribed = 1};
    plan_cluster_rehash(c);
}

void plan_cluster_cores(struct plan_cluster *c, uint32_t cores)
{
    uint32_t most = 1;
    for (uint32_t h = 0; h < c->layout->hosts; h++)
        most = base_max(most, c->layout->begin[h + 1] - c->layout->begin[h]);
    c->oversubscribed = cores && most > cores ? (double)most / cores : 1;
    /* The constants are of two cores; caches grow with the cores, the memory behind them less. */
    double more = base_min(base_max(cores, 2u), 16u) / 2.0;
    c->link[PLAN_LINK_SELF].shared_beta_ns = self_cost.shared_beta_ns / more;
    c->link[PLAN_LINK_HOST].shared_beta_ns = host_cost.shared_beta_ns / more;
    if (c->oversubscribed > 1)
        for (unsigned l = PLAN_LINK_HOST; l < PLAN_LINKS; l++)
            c->link[l].alpha_ns = base_max(c->link[l].alpha_ns, YIELD_NS);
    plan_cluster_rehash(c);
}

void plan_cluster_reads(struct plan_cluster *c)
{
    c->pull_bytes = PULL_BYTES;
    plan_cluster_rehash(c);
}

void plan_cluster_gpus(struct plan_cluster *c, const struct plan_tuned *tuned)
{
    c->link[PLAN_LINK_SELF] = (struct plan_cost){.rank_beta_ns = GPU_COPY_NS};
    c->link[PLAN_LINK_HOST] = (struct plan_cost){.alpha_ns = tuned->alpha_ns,
                                                 .overhead_ns = tuned->overhead_ns,
                                                 .beta_ns = tuned->beta_ns,
                                                 .rank_beta_ns = tuned->rank_beta_ns};
    c->copy_ns = c->combine_ns = GPU_COPY_NS;
    c->step_ns = tuned->step_ns;
    c->oversubscribed = 1;
    c->pull_bytes = 0;
    plan_cluster_rehash(c);
}

/* --- text --------------------------------------------------------------------------------------- */

static void dump_layout(const struct choir_layout *l, FILE *out)
{
    uint32_t per = l->begin[1];
    bool regular = true;
    for (uint32_t h = 0; h < l->hosts; h++)
        regular &= l->begin[h + 1] - l->begin[h] == per;
    for (uint32_t r = 1; r < l->ranks; r++)
        if (l->host_of[r] < l->host_of[r - 1]) {
            fprintf(out, "# ranks are spread over %u hosts: not expressible here\n", l->hosts);
            return;
        }
    if (regular) {
        fprintf(out, "hosts %u per_host %u\n", l->hosts, per);
        return;
    }
    fputs("hosts_of", out);
    for (uint32_t h = 0; h < l->hosts; h++)
        fprintf(out, "%s%u", h && h % 16 == 0 ? "\n  " : " ", l->begin[h + 1] - l->begin[h]);
    fputc('\n', out);
}

void plan_cluster_dump(const struct plan_cluster *c, FILE *out)
{
    fputs("choir cluster 1\n", out);
    if (c->layout && c->layout->ranks)
        dump_layout(c->layout, out);
    fputs("# per fragment: alpha one way, overhead of either CPU; per byte: beta on the link, "
          "rank_beta\n"
          "# through one CPU, shared_beta through the host's memory or NIC; all in ns\n",
          out);
    for (unsigned l = 0; l < PLAN_LINKS; l++) {
        struct plan_cost cost = c->link[l];
        fputs(link_name[l], out);
        for (size_t i = 0; i < base_count(cost_field); i++)
            fprintf(out, " %s %.10g", cost_field[i].name, *field_of(&cost, i));
        fputc('\n', out);
    }
    fprintf(out, "copy %.10g combine %.10g step %.10g\noversubscribed %.10g\npull %llu\n",
            c->copy_ns, c->combine_ns, c->step_ns, c->oversubscribed,
            (unsigned long long)c->pull_bytes);
}

static void read_cost(struct scan *s, struct plan_cost *c)
{
    for (bool some = true; some && !s->failed;) {
        some = false;
        for (size_t i = 0; i < base_count(cost_field); i++)
            if (scan_take(s, cost_field[i].name)) {
                *field_of(c, i) = scan_real(s, cost_field[i].name, 0);
                some = true;
            }
    }
}

static struct choir_layout *uneven(struct scan *s)
{
    uint64_t *key = NULL;
    uint32_t ranks = 0, hosts = 0;
    while (s->token == SCAN_NUMBER) {
        uint32_t n = (uint32_t)scan_whole(s, "ranks of a host", 1, 1u << 24);
        uint64_t *more = ranks + n > 1u << 26 ? NULL : realloc(key, (ranks + n) * sizeof(*key));
        if (!more) {
            scan_fail(s, "too many ranks");
            break;
        }
        for (key = more; n; n--)
            key[ranks++] = hosts;
        hosts++;
    }
    struct choir_layout *l = NULL;
    if (!ranks)
        scan_expected(s, "the number of ranks of each host");
    else if (!s->failed && !(l = plan_layout_create(ranks, key)))
        scan_fail(s, "no memory for the layout");
    free(key);
    return l;
}

static struct choir_layout *regular(struct scan *s)
{
    uint32_t hosts = (uint32_t)scan_whole(s, "number of hosts", 1, 1u << 26);
    scan_expect(s, "per_host");
    uint32_t per = (uint32_t)scan_whole(s, "ranks of a host", 1, (1u << 26) / hosts);
    struct choir_layout *l = s->failed ? NULL : plan_layout_regular(hosts, per);
    if (!s->failed && !l)
        scan_fail(s, "no memory for the layout");
    return l;
}

static void read_layout(struct scan *s, struct choir_layout **layout, bool even)
{
    if (*layout)
        scan_fail(s, "the hosts are given twice");
    else
        *layout = even ? regular(s) : uneven(s);
}

enum choir_status plan_cluster_parse(const char *text, struct plan_cluster *c,
                                     struct choir_layout **layout)
{
    struct scan s;
    struct plan_cluster read = *c;
    *layout = NULL;
    scan_start(&s, text);
    scan_expect(&s, "choir");
    scan_expect(&s, "cluster");
    (void)scan_whole(&s, "version of the file", 1, 1);
    while (!s.failed && s.token != SCAN_END) {
        unsigned l = 0;
        while (l < PLAN_LINKS && !scan_take(&s, link_name[l]))
            l++;
        if (l < PLAN_LINKS)
            read_cost(&s, &read.link[l]);
        else if (scan_take(&s, "hosts"))
            read_layout(&s, layout, true);
        else if (scan_take(&s, "hosts_of"))
            read_layout(&s, layout, false);
        else if (scan_take(&s, "copy"))
            read.copy_ns = scan_real(&s, "copy", 0);
        else if (scan_take(&s, "combine"))
            read.combine_ns = scan_real(&s, "combine", 0);
        else if (scan_take(&s, "step"))
            read.step_ns = scan_real(&s, "step", 0);
        else if (scan_take(&s, "oversubscribed"))
            read.oversubscribed = scan_real(&s, "oversubscribed", 1);
        else if (scan_take(&s, "pull"))
            read.pull_bytes = scan_whole(&s, "pull", 0, UINT32_MAX);
        else
            scan_expected(&s, "hosts, hosts_of, self, host, net, copy, combine, step, "
                              "oversubscribed or pull");
    }
    if (s.failed) {
        plan_layout_free(*layout);
        *layout = NULL;
        return scan_status(&s, "cluster", "choir-plan --write-topo prints a correct one");
    }
    *c = read;
    if (*layout)
        c->layout = *layout;
    plan_cluster_rehash(c);
    return CHOIR_OK;
}
