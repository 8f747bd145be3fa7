/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpus.c: --gpus and --tuning of choir-plan: GPUs of one host that map each other's memory, priced as a communicator of them
 * is, with the built-in constants of their links or measured ones. And where constants come from, in words.
 */
#include "cuda/abi.h"
#include "plan/tuning.h"
#include "plan_tool.h"
#include <string.h>

void ask_gpus(struct ask *ask)
{
    struct tuning t = {.tuned = plan_tuned_default};
    if (ask->topo || ask->cores)
        ask_fail("%s goes without --topo and --cores", ask->tuning ? "--tuning" : "--gpus");
    if (ask->tuning && plan_tuning_read(ask->tuning, &t) != CHOIR_OK)
        ask_fail_record(ask->tuning);
    if (!ask->layout && t.ranks)
        ask->layout = plan_layout_regular(1, t.ranks);
    if (!ask->layout)
        ask_fail("--gpus: how many? as in: choir-plan all_reduce 1M --gpus --ranks 8");
    if (ask->layout->hosts > 1 || ask->layout->ranks > CUDA_RANKS)
        ask_fail("--gpus: %u ranks on %u hosts; GPUs that map each other are on one, at most %u",
                 ask->layout->ranks, ask->layout->hosts, CUDA_RANKS);
    ask->gpus = true;
    ask->here = false;
    ask->measured_ranks = t.ranks;
    memcpy(ask->gpu, t.gpu, sizeof(ask->gpu));
    plan_cluster_default(&ask->cluster, ask->layout);
    plan_cluster_gpus(&ask->cluster, &t.tuned);
}

/* As cuda_bound_create will have it. */
void shape_gpus(struct choir_shape *s)
{
    s->slot_bytes = CUDA_SLOT_BYTES;
    s->depth = CUDA_DEPTH;
    s->window = CUDA_SLOT_LANES;
}

void constants_text(const struct ask *ask, char *text, size_t bytes)
{
    if (ask->tuning)
        snprintf(text, bytes, "measured between %u %s, %s", ask->measured_ranks, ask->gpu,
                 ask->tuning);
    else if (ask->topo)
        snprintf(text, bytes, "of %s", ask->topo);
    else
        snprintf(text, bytes, "built in, %s",
                 ask->gpus ? "of GPUs on NVLink" : "of hosts and networks");
}
