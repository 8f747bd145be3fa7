/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meeting.c: how the GPUs of a communicator's ranks come to map each other's memory, when it is created and when it resumes: a few
 * rounds of agreement, between which each rank does its next step. What all ranks hear decides, so they take the same way: by
 * mapping; if that fails anywhere, by handle; if that fails, GPU memory goes through the host. In the last round rank 0 says what is
 * known of the links between GPUs (tune.c).
 *
 * To take memory or give it back may wait for kernels, of another communicator whose links are being measured, and those for a rank
 * of this thread: until they have ended no step is made (device_waits).
 */
#include "base/knob.h"
#include "comm/device.h"
#include <stdlib.h>
#include <string.h>

enum meeting_round { ROUND_CARDS, ROUND_OFFERED, ROUND_MET, ROUND_PROVED, ROUND_PINNED };
struct comm_meeting {
    enum meeting_round round;    /* whose answers are awaited */
    bool heard;                  /* they are here: */
    struct device_met met, said; /* the first rank that could not, if any; rank 0 */
    bool resumes;
    struct cuda_card card[CUDA_RANKS];
    bool same[CUDA_RANKS]; /* a rank of this process */
};

/* What all ranks can tell before they try. */
enum device_why device_apart(const struct choir_comm *c)
{
    return c->layout->hosts > 1        ? DEVICE_HOSTS
           : c->host.size > CUDA_RANKS ? DEVICE_RANKS
                                       : DEVICE_MAPPED;
}

static void say_why(const struct choir_comm *c, struct device_met met, char *text, size_t bytes)
{
    if (met.why == DEVICE_HOSTS)
        snprintf(text, bytes, "ranks on %u hosts", c->layout->hosts);
    else if (met.why == DEVICE_RANKS)
        snprintf(text, bytes, "%u ranks, %u map each other at most", c->host.size, CUDA_RANKS);
    else if (met.why == DEVICE_NONE)
        snprintf(text, bytes, "rank %u has no GPU", met.rank);
    else if (met.why == DEVICE_OFF)
        snprintf(text, bytes, "CHOIR_CUDA_P2P is off on rank %u", met.rank);
    else
        snprintf(text, bytes, "rank %u and the GPUs of others do not map each other, see its log",
                 met.rank);
}

static enum choir_status make(struct choir_comm *c, bool resumes)
{
    struct comm_meeting *m = calloc(1, sizeof(*m));
    if (!m)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u ranks",
                         c->host.size);
    m->resumes = resumes;
    for (uint32_t r = 0; r < c->host.size && r < CUDA_RANKS; r++)
        m->same[r] = !memcmp(&c->host.member[r]->id, &host_process.id, sizeof(host_process.id));
    free(c->meeting);
    c->meeting = m;
    return CHOIR_OK;
}

void meeting_end(struct choir_comm *c)
{
    free(c->meeting);
    c->meeting = NULL;
}

/* --- rounds ----------------------------------------------------------------------------------------------- */

static enum choir_status tell(struct choir_comm *c, enum meeting_round round, const void *blob,
                              uint32_t bytes)
{
    c->meeting->round = round;
    enum choir_status st = tree_start(c, blob, bytes);
    return st == CHOIR_OK ? CHOIR_IN_PROGRESS : st;
}

/* What came of this rank's step. */
static enum choir_status tell_step(struct choir_comm *c, enum meeting_round round,
                                   enum choir_status st)
{
    struct device_met met = {.why = st == CHOIR_OK ? DEVICE_MAPPED : DEVICE_UNREACHED,
                             .rank = c->host.rank};
    bool last = c->meeting->card[0].way == CUDA_BY_HANDLE || c->meeting->resumes;
    if (st != CHOIR_OK)
        base_log(last ? BASE_WARN : BASE_INFO, (int)c->host.rank,
                 "GPU memory is not mapped%s: %s; %s", last ? "" : " by cuMemMap",
                 base_error_thread()->text, base_error_thread()->remedy);
    else if (round == ROUND_PROVED && !c->meeting->resumes)
        tune_decide(c, c->meeting->card, &met);
    return tell(c, round, &met, sizeof(met));
}

/* GPU memory goes through the host. Nobody begins before all have their memory: a stream that waits for a rank may keep it from
 * getting any. */
static enum choir_status start_pinned(struct choir_comm *c, struct device_met met)
{
    char why[80];
    say_why(c, met, why, sizeof(why));
    device_stage(c);
    base_log(BASE_INFO, (int)c->host.rank, "GPU memory goes through the host: %s", why);
    return tell(c, ROUND_PINNED, &met, sizeof(met));
}

/* Not all could share by mapping, so all make memory that is shared by handle. */
static enum choir_status start_handles(struct choir_comm *c, uint32_t rank)
{
    struct cuda_card card = {.present = 1};
    base_log(BASE_INFO, (int)c->host.rank,
             "GPU memory is shared by CUDA IPC: rank %u does not share it by cuMemMap, see its log",
             rank);
    if (cuda_comm_reopen(c->device->gpu, &card) != CHOIR_OK)
        base_log(BASE_WARN, (int)c->host.rank, "no direct access between GPUs: %s; %s",
                 base_error_thread()->text, base_error_thread()->remedy);
    return tell(c, ROUND_CARDS, &card, sizeof(card));
}

/* All cards are here. */
static enum choir_status judge(struct choir_comm *c)
{
    const struct comm_meeting *m = c->meeting;
    uint32_t handles = UINT32_MAX, mappings = 0;
    if (device_apart(c) != DEVICE_MAPPED)
        return start_pinned(c, (struct device_met){.why = device_apart(c)});
    for (uint32_t r = 0; r < c->host.size; r++)
        if (!m->card[r].present)
            return start_pinned(c, (struct device_met){.why = DEVICE_NONE, .rank = r});
    for (uint32_t r = 0; r < c->host.size; r++) {
        if (!m->card[r].bytes)
            return start_pinned(
                c, (struct device_met){.why = m->card[r].off ? DEVICE_OFF : DEVICE_UNREACHED,
                                       .rank = r});
        if (m->card[r].way == CUDA_BY_MAPPING)
            mappings++;
        else if (handles == UINT32_MAX)
            handles = r;
    }
    if (mappings && handles != UINT32_MAX)
        return start_handles(c, handles);
    return tell_step(c, ROUND_OFFERED, cuda_comm_offer(c->device->gpu, m->card, m->same));
}

/* A rank could not. */
static enum choir_status other_way(struct choir_comm *c, struct device_met met)
{
    if (c->meeting->resumes)
        return comm_fail(c, CHOIR_ERR_SYSTEM, "see the log of that rank, and call it again",
                         "rank %u could not map the memory of other ranks' GPUs again", met.rank);
    return c->meeting->card[0].way == CUDA_BY_MAPPING ? start_handles(c, met.rank)
                                                      : start_pinned(c, met);
}

static enum choir_status finish(struct choir_comm *c)
{
    if (c->meeting->round == ROUND_PROVED && !c->meeting->resumes) {
        base_log(BASE_INFO, (int)c->host.rank, "GPU memory is mapped by all ranks, %s",
                 c->meeting->card[0].way == CUDA_BY_MAPPING ? "by cuMemMap" : "by CUDA IPC");
    }
    meeting_end(c);
    return CHOIR_OK;
}

static enum choir_status next_step(struct choir_comm *c, struct device_met met)
{
    const struct comm_meeting *m = c->meeting;
    if (m->round == ROUND_PINNED)
        return finish(c);
    if (m->round == ROUND_CARDS)
        return judge(c);
    if (met.why != DEVICE_MAPPED)
        return other_way(c, met);
    if (m->round == ROUND_OFFERED)
        return tell_step(c, ROUND_MET, cuda_comm_meet(c->device->gpu, m->card, m->same));
    if (m->round == ROUND_MET)
        return tell_step(c, ROUND_PROVED, cuda_comm_prove(c->device->gpu));
    return finish(c);
}

static enum choir_status hear(struct choir_comm *c)
{
    struct comm_meeting *m = c->meeting;
    struct tree_answers x;
    bool cards = m->round == ROUND_CARDS;
    enum choir_status st = tree_answers(c, cards ? sizeof(*m->card) : sizeof(m->met), &x);
    m->met.why = DEVICE_MAPPED;
    for (uint32_t r = 0; r < c->host.size && st == CHOIR_OK; r++)
        if (cards)
            memcpy(&m->card[r], x.blob[r], sizeof(*m->card));
        else if (m->met.why == DEVICE_MAPPED)
            memcpy(&m->met, x.blob[r], sizeof(m->met));
    if (st == CHOIR_OK && !cards)
        memcpy(&m->said, x.blob[0], sizeof(m->said));
    tree_answers_free(&x);
    m->heard = st == CHOIR_OK;
    return st;
}

enum choir_status meeting_advance(struct choir_comm *c, struct device_met *said)
{
    struct comm_meeting *m = c->meeting;
    enum choir_status st = m->heard ? CHOIR_OK : hear(c);
    if (st != CHOIR_OK)
        return st;
    bool proved = m->round == ROUND_PROVED && m->met.why == DEVICE_MAPPED;
    if (!proved && device_waits())
        return CHOIR_IN_PROGRESS;
    m->heard = false;
    *said = m->said;
    return next_step(c, m->met);
}

/* --- beginnings --------------------------------------------------------------------------------------------- */

enum choir_status meeting_begin(struct choir_comm *c, const struct tree_answers *x, uint32_t at)
{
    enum choir_status st = make(c, false);
    if (st != CHOIR_OK)
        return st;
    for (uint32_t r = 0; r < c->host.size && r < CUDA_RANKS; r++)
        if (x->bytes[r] >= at + sizeof(struct cuda_card))
            memcpy(&c->meeting->card[r], (const char *)x->blob[r] + at, sizeof(struct cuda_card));
    c->meeting->round = ROUND_CARDS;
    c->meeting->heard = true;
    return CHOIR_IN_PROGRESS;
}

enum choir_status meeting_start(struct choir_comm *c, const struct cuda_card *card)
{
    enum choir_status st = make(c, true);
    if (st != CHOIR_OK)
        return st;
    memcpy(c->meeting->card, card, c->host.size * sizeof(*card));
    return judge(c);
}
