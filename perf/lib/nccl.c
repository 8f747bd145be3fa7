/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nccl.c: the peer of --vs nccl: the same operations by NCCL, on the same GPUs and streams, in each of its modes: as it is; on
 * windows of symmetric memory; on these with the policy that wants no blocks of threads. A mode is a communicator; the buffers
 * are NCCL's own (ncclMemAlloc), the same for all modes, because windows need them.
 */
#include "perf/lib/gpu.h"
#include "perf/lib/nccl.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE ((size_t)2 << 20) /* windows are of whole pages */

static struct perf_peer peer;
struct nccl nccl;
static const char *program;

void nccl_must(int result, const char *what)
{
    if (base_likely(!result))
        return;
    fprintf(stderr, "%s: %s: %s: %s\n", program, what, nccl.error_string(result),
            nccl.last_error(NULL));
    fflush(NULL);
    _exit(4); /* other threads may wait for this one */
}

/* --- life --------------------------------------------------------------------------------------------- */
/* "nccl:default,zero": modes that are not named are left out. */
static bool choose_modes(const char *vs)
{
    char list[256];
    if (!vs[4])
        return true;
    for (int m = 0; m < NCCL_MODES; m++)
        peer.missing[m] = "not asked for";
    snprintf(list, sizeof(list), "%s", vs + 5);
    for (char *rest = list, *word; (word = strtok_r(rest, ",", &rest));) {
        int m = 0;
        while (m < NCCL_MODES && strcmp(word, peer.mode[m]))
            m++;
        if (m == NCCL_MODES) {
            fprintf(stderr, "%s: --vs %s: modes are default, symmetric and zero\n", program, vs);
            return false;
        }
        peer.missing[m] = NULL;
    }
    return true;
}

static bool init(const struct perf_args *a, uint32_t *rank, uint32_t *size)
{
    int v = 0;
    (void)rank, (void)size;
    program = a->program;
    if (!choose_modes(a->vs) || !nccl_load(&nccl, program))
        return false;
    nccl_must(nccl.get_version(&v), "ncclGetVersion");
    snprintf(peer.version, sizeof(peer.version), "NCCL %d.%d.%d", v / 10000, v / 100 % 100,
             v % 100);
    if (!nccl.window_register && !peer.missing[NCCL_MODE_SYMMETRIC])
        peer.missing[NCCL_MODE_SYMMETRIC] = "it has no windows: NCCL 2.27 or newer is needed";
    if ((v < (int)NCCL_CONFIG_VERSION || !nccl.init_rank_config) && !peer.missing[NCCL_MODE_ZERO])
        peer.missing[NCCL_MODE_ZERO] = "it has no such policy: NCCL 2.28 or newer is needed";
    return true;
}

static int create(struct perf_thread *t, enum nccl_mode mode, struct nccl_id id)
{
    struct nccl_config c = {.size = sizeof(c),
                            .magic = NCCL_MAGIC,
                            .version = NCCL_CONFIG_VERSION,
                            .blocking = NCCL_UNSET,
                            .cga_cluster_size = NCCL_UNSET,
                            .min_ctas = NCCL_UNSET,
                            .max_ctas = NCCL_UNSET,
                            .split_share = NCCL_UNSET,
                            .traffic_class = NCCL_UNSET,
                            .collnet_enable = NCCL_UNSET,
                            .cta_policy = NCCL_POLICY_ZERO,
                            .shrink_share = NCCL_UNSET,
                            .nvls_ctas = NCCL_UNSET,
                            .channels_per_net_peer = NCCL_UNSET,
                            .nvlink_centric_sched = NCCL_UNSET};
    int ranks = (int)t->job->ranks, result = nccl.group_start();
    for (int i = 0; i < t->job->args->per_thread && !result; i++) {
        struct nccl_rank *r = t->rank[i].peer;
        int rank = (int)t->rank[i].call.rank;
        t->job->gpu->use(t->rank[i].gpu);
        result = mode == NCCL_MODE_ZERO ? nccl.init_rank_config(&r->comm[mode], ranks, id, rank, &c)
                                        : nccl.init_rank(&r->comm[mode], ranks, id, rank);
    }
    int end = nccl.group_end();
    return result ? result : end;
}

static size_t buffer_bytes(const struct perf_thread *t)
{
    return (perf_buffer_bytes(t->job->args) + PAGE - 1) / PAGE * PAGE;
}

static int make_windows(struct perf_thread *t, enum nccl_mode mode)
{
    int result = 0;
    for (int k = 0; k < 2 && !result; k++) {
        result = nccl.group_start();
        for (int i = 0; i < t->job->args->per_thread && !result; i++) {
            struct nccl_rank *r = t->rank[i].peer;
            t->job->gpu->use(t->rank[i].gpu);
            result = nccl.window_register(r->comm[mode], t->rank[i].peer_memory[k], buffer_bytes(t),
                                          &r->window[mode][k], NCCL_WINDOW_SYMMETRIC);
        }
        int end = nccl.group_end();
        result = result ? result : end;
    }
    return result;
}

/* NULL: it is there, on all ranks. */
static const char *open_mode(struct perf_thread *t, enum nccl_mode mode)
{
    struct nccl_id id[t->job->args->per_thread], *all = calloc(t->job->ranks, sizeof(*all));
    choir_assert(all);
    memset(id, 0, sizeof(id));
    if (!t->rank[0].call.rank)
        nccl_must(nccl.get_unique_id(&id[0]), "ncclGetUniqueId");
    perf_exchange(t, id, all, sizeof(*all));
    int result = create(t, mode, all[0]);
    free(all);
    bool without = false;
    if (!result && mode != NCCL_MODE_DEFAULT)
        result = make_windows(t, mode);
    for (int i = 0; i < t->job->args->per_thread && mode != NCCL_MODE_DEFAULT; i++) {
        const struct nccl_rank *r = t->rank[i].peer;
        without |= !r->window[mode][0] || !r->window[mode][1];
    }
    double failed[2] = {result, without};
    perf_reduce(t, failed, 2, CHOIR_MAX);
    if (failed[0] > 0)
        return result ? nccl.error_string(result) : "another rank could not create it";
    return failed[1] > 0 ? "NCCL makes no symmetric windows here" : NULL;
}

static void open_ranks(struct perf_thread *t)
{
    int there = 0;
    for (int i = 0; i < t->job->args->per_thread; i++) {
        struct nccl_rank *r = calloc(1, sizeof(*r));
        choir_assert(r);
        t->rank[i].peer = r;
        r->stream = t->job->gpu->stream(t->rank[i].gpu);
        t->job->gpu->use(t->rank[i].gpu);
        for (int k = 0; k < 2; k++)
            nccl_must(nccl.mem_alloc(&t->rank[i].peer_memory[k], buffer_bytes(t)), "ncclMemAlloc");
    }
    for (int m = 0; m < NCCL_MODES; m++) {
        if (!peer.missing[m]) {
            const char *why = open_mode(t, (enum nccl_mode)m);
            perf_barrier(t); /* all threads have read it */
            if (!t->index)
                peer.missing[m] = why;
            perf_barrier(t);
        }
        if (peer.missing[m] && t->prints)
            printf("# nccl, %s: left out: %s\n", peer.mode[m], peer.missing[m]);
        there += !peer.missing[m];
    }
    if (!there) {
        fprintf(stderr, "%s: --vs nccl: none of its modes is left\n", program);
        _exit(4);
    }
}

static void close_ranks(struct perf_thread *t)
{
    for (int i = 0; i < t->job->args->per_thread; i++) {
        struct nccl_rank *r = t->rank[i].peer;
        t->job->gpu->use(t->rank[i].gpu);
        for (int m = 0; m < NCCL_MODES; m++) {
            for (int k = 0; k < 2; k++)
                if (r->window[m][k])
                    nccl_must(nccl.window_deregister(r->comm[m], r->window[m][k]),
                              "ncclCommWindowDeregister");
            if (r->comm[m])
                nccl_must(nccl.destroy(r->comm[m]), "ncclCommDestroy");
        }
        for (int k = 0; k < 2; k++)
            nccl_must(nccl.mem_free(t->rank[i].peer_memory[k]), "ncclMemFree");
        free(r);
    }
}

static void group(bool begin)
{
    nccl_must(begin ? nccl.group_start() : nccl.group_end(), "a group");
}

static struct perf_peer peer = {.name = "nccl",
                                .modes = NCCL_MODES,
                                .mode = {"default", "symmetric", "zero"},
                                .checked = true,
                                .init = init,
                                .open = open_ranks,
                                .close = close_ranks,
                                .supports = nccl_supports,
                                .group = group,
                                .run = nccl_run};

struct perf_peer *perf_peer_nccl(void)
{
    return &peer;
}
