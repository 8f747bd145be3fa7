/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tune.c: where the constants of the links between GPUs come from (plan/tuning.h has the constants and their files). Rank 0
 * decides: when the GPUs have met it says built-in, kept (here they are), or measure. To measure, every rank puts the same
 * exchanges into a stream of its own, looks later how long they took, and tells; rank 0 makes constants of that, and says
 * them to all. So all ranks have rank 0's, whatever their own files say.
 *
 * Nothing waits here: one thread may drive many ranks, and a rank's kernels end only when all ranks' are there. What could
 * not be measured is no failure of the creation; a rank that dies meanwhile is, as ever. What is under way must end, since
 * operations go on with its numbers of messages: so CHOIR_CREATE_TIMEOUT bounds it, and TRUSTED_NS what is believed.
 */
#include "base/knob.h"
#include "comm/device.h"
#include "plan/tuning.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* What took longer in all on a GPU, or whose median is so many times the least, measured something else, too: the GPUs are busy. */
#define TRUSTED_NS 2e9
#define STEADY 1.5

/* Each form of a message (cuda/bound.h), with one peer and with all; long ones first (cuda/timing.c). Two ranks move 100 MiB
 * each way, by 90 launches; 1 ms on NVLink. */
static const struct exchange {
    bool all; /* peers */
    uint32_t bytes, warm, batches, each;
} exchange[] = {{false, 8 << 20, 4, 5, 1}, {true, 1 << 20, 1, 3, 1},   {false, 1 << 20, 2, 5, 2},
                {true, 64 << 10, 2, 5, 4}, {false, 64 << 10, 2, 5, 4}, {true, 8, 4, 5, 8},
                {false, 8, 4, 5, 8}};
#define EXCHANGES base_count(exchange)

struct told { /* by every rank, of its own stream */
    double all_ns;
    struct cuda_took took[EXCHANGES];
};
struct settled { /* by rank 0 */
    uint64_t links;
    struct plan_tuned tuned;
};
struct comm_tune {
    enum { TUNE_FLYING, TUNE_TELLING, TUNE_SETTLING } stage;
    uint64_t began_ns, took_ns;
    uint32_t exchanges;
    struct cuda_bound *bound[EXCHANGES];
    struct cuda_timing *timing;
    struct tuning tuning; /* rank 0: what will be kept, */
    char whence[4400];    /* and where the constants come from, in words */
};
static _Atomic uint32_t flying; /* ranks of this process whose kernels are under way */

/* What could not be written is known to this process all the same: it will not measure for each of its communicators. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct tuning unwritten;

bool device_waits(void)
{
    return atomic_load(&flying) != 0;
}

bool device_measures(const struct choir_comm *c)
{
    return c->device && atomic_load(&c->device->measures);
}

void device_landed(struct choir_comm *c)
{
    if (c->device && atomic_exchange(&c->device->measures, false))
        atomic_fetch_sub(&flying, 1);
}

/* --- rank 0 decides --------------------------------------------------------------------------------- */

/* Processes take turns on a GPU, of milliseconds each. */
static bool shared_by_processes(const struct choir_comm *c, const struct tuning_facts *f)
{
    for (uint32_t r = 0; r < f->ranks; r++)
        if (memcmp(&c->host.member[r]->id, &c->host.member[f->place[r]]->id,
                   sizeof(host_process.id)))
            return true;
    return false;
}

static bool kept(struct comm_tune *t, struct tuning *found)
{
    char path[4096];
    pthread_mutex_lock(&lock);
    bool known = unwritten.key == t->tuning.key && unwritten.ranks;
    if (known)
        *found = unwritten;
    pthread_mutex_unlock(&lock);
    if (known)
        snprintf(t->whence, sizeof(t->whence), "measured before by this process");
    else if (plan_tuning_find(t->tuning.key, found, path, sizeof(path)))
        known = true, snprintf(t->whence, sizeof(t->whence), "read from %s", path);
    return known;
}

static void decide(struct comm_tune *t, const struct tuning_facts *facts, struct device_met *met)
{
    struct tuning found;
    t->tuning.key = plan_tuning_key(facts);
    t->tuning.ranks = facts->ranks;
    t->tuning.cuda = facts->cuda;
    for (uint32_t r = 0; r < facts->ranks; r++)
        t->tuning.gpus += facts->place[r] == r;
    met->links = DEVICE_MEASURE;
    if (strcmp(knob_text(KNOB_TUNE), "again") && kept(t, &found)) {
        met->links = DEVICE_KEPT;
        met->tuned = found.tuned;
    }
}

static void built_in(struct comm_tune *t, const char *why)
{
    snprintf(t->whence, sizeof(t->whence), "built-in constants (%s)", why);
}

void tune_decide(struct choir_comm *c, const struct cuda_card *card, struct device_met *met)
{
    struct tuning_facts facts;
    char name[96];
    struct comm_tune *t = c->host.rank || c->host.size == 1 ? NULL : calloc(1, sizeof(*t));
    if (!t)
        return;
    tune_free(c); /* of a way by which not all have met */
    c->device->tune = t;
    if (!strcmp(knob_text(KNOB_TUNE), "off")) {
        built_in(t, "CHOIR_TUNE is off");
    } else if (cuda_comm_facts(c->device->gpu, card, &facts, name) != CHOIR_OK) {
        built_in(t, base_error_thread()->text);
    } else if (shared_by_processes(c, &facts)) {
        built_in(t, "processes share a GPU");
    } else {
        plan_tuning_name(name, t->tuning.gpu);
        decide(t, &facts, met);
    }
}

/* --- exchanges ---------------------------------------------------------------------------------------- */

/* Of every rank with the next one, or with all: a plan of sends and receives, as a group of them is. */
static enum choir_status bind(struct choir_comm *c, const struct exchange *x,
                              struct cuda_bound **bound)
{
    uint32_t n = c->host.size, r = c->host.rank, peers = x->all ? n - 1 : 1;
    struct cuda_scratch memory = cuda_comm_scratch(c->device->gpu);
    struct comm_message list[2 * CUDA_RANKS];
    struct choir_plan *plans[CUDA_RANKS] = {NULL};
    for (uint32_t k = 0; k < peers; k++) {
        list[2 * k] = (struct comm_message){
            .peer = (r + 1 + k) % n, .send = true, .memory = memory.in, .bytes = x->bytes};
        list[2 * k + 1] = (struct comm_message){.peer = (r + n - 1 - k) % n,
                                                .memory = memory.out + (uint64_t)k * x->bytes,
                                                .bytes = x->bytes};
    }
    enum choir_status st =
        exchange_plan(c, list, 2 * peers, CUDA_SLOT_BYTES, CUDA_DEPTH, 1, &plans[r]);
    if (st == CHOIR_OK)
        st =
            cuda_bound_create(c->device->gpu, (const struct choir_plan *const *)plans, 1, 0, bound);
    plan_free(plans[r]);
    return st;
}

static enum choir_status fly(struct choir_comm *c, struct comm_tune *t)
{
    struct cuda_repeat repeat[EXCHANGES];
    enum choir_status st = CHOIR_OK;
    for (size_t i = 0; i < EXCHANGES && st == CHOIR_OK; i++) {
        const struct exchange *x = &exchange[i];
        if (x->all && c->host.size == 2)
            continue; /* they are one */
        st = bind(c, x, &t->bound[t->exchanges]);
        repeat[t->exchanges] =
            (struct cuda_repeat){t->bound[t->exchanges], x->warm, x->batches, x->each};
        t->exchanges += st == CHOIR_OK;
    }
    if (st != CHOIR_OK)
        return st;
    t->began_ns = base_now_ns();
    atomic_fetch_add(&flying, 1);
    atomic_store(&c->device->measures, true); /* some may be, whatever happens */
    st = cuda_timing_start(c->device->gpu, repeat, t->exchanges, device_limit(c), &t->timing);
    return st == CHOIR_OK ? CHOIR_IN_PROGRESS : st;
}

static void land(struct choir_comm *c)
{
    struct comm_tune *t = c->device->tune;
    cuda_timing_free(t->timing);
    t->timing = NULL;
    while (t->exchanges)
        cuda_bound_free(t->bound[--t->exchanges]);
    device_landed(c);
}

void tune_free(struct choir_comm *c)
{
    if (!c->device->tune)
        return;
    land(c);
    free(c->device->tune);
    c->device->tune = NULL;
}

/* --- rank 0 settles ------------------------------------------------------------------------------------- */

/* The slowest rank's time is the exchange's. False: *why not. */
static bool take_told(struct choir_comm *c, const struct tree_answers *x, struct tuning *t,
                      char *why, size_t bytes)
{
    bool steady = true;
    double all_ns = 0;
    for (size_t i = 0; i < EXCHANGES; i++)
        if (!exchange[i].all || c->host.size > 2)
            t->timing[t->timings++] = (struct tuning_timing){
                .peers = exchange[i].all ? c->host.size - 1 : 1, .bytes = exchange[i].bytes};
    for (uint32_t r = 0; r < c->host.size; r++) {
        struct told told;
        memcpy(&told, x->blob[r], sizeof(told));
        all_ns = base_max(all_ns, told.all_ns);
        for (uint32_t i = 0; i < t->timings; i++) {
            t->timing[i].ns = base_max(t->timing[i].ns, told.took[i].median_ns);
            steady &= told.took[i].median_ns <= STEADY * told.took[i].least_ns;
        }
    }
    if (!steady)
        snprintf(why, bytes, "timings vary: the GPUs are busy");
    else
        snprintf(why, bytes, "measuring took %.1f s: the GPUs are busy", all_ns / 1e9);
    return steady && all_ns <= TRUSTED_NS;
}

static void keep(struct comm_tune *t, const struct tuning *is)
{
    struct choir_error saved = *base_error_thread(); /* that it is not kept is no error */
    char path[4096];
    if (plan_tuning_keep(is, path, sizeof(path)) == CHOIR_OK) {
        snprintf(t->whence, sizeof(t->whence), "measured in %.1f ms, kept in %s",
                 (double)t->took_ns / 1e6, path);
    } else {
        snprintf(t->whence, sizeof(t->whence), "measured in %.1f ms, not kept (%s)",
                 (double)t->took_ns / 1e6, base_error_thread()->text);
        pthread_mutex_lock(&lock);
        unwritten = *is;
        pthread_mutex_unlock(&lock);
    }
    *base_error_thread() = saved;
}

static struct settled settle(struct choir_comm *c, const struct tree_answers *x)
{
    struct comm_tune *t = c->device->tune;
    struct tuning *is = &t->tuning, again;
    char why[200], text[TUNING_TEXT];
    if (take_told(c, x, is, why, sizeof(why)) &&
        plan_tuned_fit(is->timing, is->timings, &is->tuned, why, sizeof(why))) {
        plan_tuning_dump(is, text);
        if (plan_tuning_parse(text, &again) == CHOIR_OK) { /* as whoever reads it will have it */
            keep(t, &again);
            return (struct settled){DEVICE_KEPT, again.tuned};
        }
        snprintf(why, sizeof(why), "%.150s", base_error_thread()->text);
    }
    built_in(t, why);
    return (struct settled){.links = DEVICE_BUILT_IN};
}

/* --- stages ------------------------------------------------------------------------------------------------ */

static enum choir_status take(struct choir_comm *c, uint64_t links, const struct plan_tuned *tuned)
{
    const struct plan_tuned *is = links == DEVICE_KEPT ? tuned : &plan_tuned_default;
    char words[200];
    plan_tuned_words(is, words, sizeof(words));
    if (c->device->tune && !c->host.rank)
        base_log(BASE_INFO, 0, "links between GPUs: %s: %s", c->device->tune->whence, words);
    tune_free(c);
    return device_table(c, is);
}

enum choir_status tune_start(struct choir_comm *c, const struct device_met *said)
{
    struct comm_device *d = c->device;
    if (said->links != DEVICE_MEASURE)
        return take(c, said->links, &said->tuned);
    if (!d->tune)
        d->tune = calloc(1, sizeof(*d->tune));
    if (!d->tune)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory to measure links");
    return fly(c, d->tune);
}

static enum choir_status in_progress(enum choir_status st)
{
    return st == CHOIR_OK ? CHOIR_IN_PROGRESS : st;
}

static enum choir_status stage_flying(struct choir_comm *c, struct comm_tune *t)
{
    struct told told = {.all_ns = 0};
    enum choir_status st = cuda_timing_test(t->timing, told.took, &told.all_ns);
    if (st != CHOIR_OK)
        return st;
    device_look(c); /* kernels that gave up have ended too */
    st = (enum choir_status)atomic_load(&c->host.broken);
    if (st != CHOIR_OK) {
        *base_error_thread() = c->host.error;
        return st;
    }
    t->took_ns = base_now_ns() - t->began_ns;
    land(c);
    t->stage = TUNE_TELLING;
    return in_progress(tree_start(c, &told, sizeof(told)));
}

static enum choir_status stage_telling(struct choir_comm *c, struct comm_tune *t)
{
    struct tree_answers x;
    struct settled s = {.links = DEVICE_BUILT_IN};
    enum choir_status st = tree_answers(c, sizeof(struct told), &x);
    if (st == CHOIR_OK && !c->host.rank)
        s = settle(c, &x);
    tree_answers_free(&x);
    if (st != CHOIR_OK)
        return st;
    t->stage = TUNE_SETTLING;
    return in_progress(tree_start(c, &s, c->host.rank ? 0 : sizeof(s)));
}

static enum choir_status stage_settling(struct choir_comm *c)
{
    struct tree_answers x;
    struct settled s = {.links = DEVICE_BUILT_IN};
    enum choir_status st = tree_answers(c, 0, &x);
    if (st == CHOIR_OK && x.bytes[0] == sizeof(s))
        memcpy(&s, x.blob[0], sizeof(s));
    tree_answers_free(&x);
    return st == CHOIR_OK ? take(c, s.links, &s.tuned) : st;
}

enum choir_status device_settle(struct choir_comm *c)
{
    struct comm_tune *t = c->device->tune;
    enum choir_status st = CHOIR_IN_PROGRESS;
    if (t->stage == TUNE_FLYING)
        st = stage_flying(c, t);
    if (st == CHOIR_IN_PROGRESS && t->stage == TUNE_TELLING)
        st = stage_telling(c, t);
    if (st == CHOIR_IN_PROGRESS && t->stage == TUNE_SETTLING)
        st = stage_settling(c);
    return st;
}
