/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creation.c: the steps by which a communicator comes to life: join the rendezvous (from an id), collect everyone's card, derive
 * what must be equal everywhere, and agree that it is. A child of a communicator has its members already and starts at
 * the agreement. Each step is a test that never blocks, so one thread can bring many ranks to life.
 */
#include "comm/gpu.h"
#include "comm/observe.h"
#include "cuda/engine.h"
#include <sched.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define JOIN_GRACE_NS 2000000000u
#define GPU_LOOK_NS 200000u

enum stage {
    STAGE_JOIN,
    STAGE_SPLIT,
    STAGE_CARDS,
    STAGE_OPEN,
    STAGE_AGREE,
    STAGE_GPUS,
    STAGE_LINKS,
    STAGE_DONE
};
struct creation {
    enum stage stage;
    enum choir_status status;
    struct boot_join *join;
    uint64_t deadline_ns;
    struct service_timer timer; /* non-blocking: the service thread drives */
    bool driven;
    struct host_card *card;
    struct choir_comm *parent; /* of a split */
    bool own_parent;           /* it carries the colours, no more */
    int color;
};
struct agreement { /* what must be equal on all ranks; a rank's card follows if it has a GPU */
    int32_t status;
    uint32_t choices; /* the configuration's */
    uint64_t table_hash;
};

static enum choir_status set_member(struct choir_comm *c, uint32_t rank, const void *blob,
                                    uint32_t bytes)
{
    struct host_peer *peer = host_peer_learn(blob, bytes);
    if (!peer)
        return base_fail(CHOIR_ERR_PROTOCOL, "use one version of the library on all ranks",
                         "rank %u sent a card that cannot be read", rank);
    c->host.member[rank] = peer;
    return CHOIR_OK;
}

enum choir_status creation_open_host(struct choir_comm *c)
{
    c->host.control = watch_control;
    c->host.broke = watch_broke;
    c->host.leave = watch_leave;
    c->host.explain = watch_explain;
    c->host.peer_failed = watch_peer_failed;
    c->host.owner = c;
    c->gone = calloc(c->host.size, 1);
    if (!c->gone)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u ranks",
                         c->host.size);
    enum choir_status st = host_comm_open(&c->host);
    c->host_open = st == CHOIR_OK;
    return st;
}

/* --- stages -------------------------------------------------------------------------------------- */

static enum choir_status stage_join(struct choir_comm *c)
{
    struct boot_peers peers = {0};
    enum choir_status st = boot_join_test(c->creation->join, &peers);
    if (st == CHOIR_IN_PROGRESS)
        return st;
    c->creation->join = NULL;
    if (st != CHOIR_OK)
        return st;
    c->host.key = base_mix(peers.nonce);
    for (uint32_t i = 0; i < peers.count && st == CHOIR_OK; i++)
        st = peers.peer[i].rank < c->host.size
                 ? set_member(c, peers.peer[i].rank, peers.peer[i].address, peers.peer[i].bytes)
                 : CHOIR_ERR_PROTOCOL;
    boot_peers_free(&peers);
    if (st == CHOIR_OK)
        st = set_member(c, c->host.rank, c->creation->card, c->creation->card->bytes);
    if (st == CHOIR_OK)
        st = creation_open_host(c);
    if (st == CHOIR_OK)
        st = tree_start(c, c->creation->card, c->creation->card->bytes);
    c->creation->stage = STAGE_CARDS;
    return st == CHOIR_OK ? CHOIR_IN_PROGRESS : st;
}

static enum choir_status stage_open(struct choir_comm *c)
{
    if (device_waits())
        return CHOIR_IN_PROGRESS;
    struct {
        struct agreement a;
        struct cuda_card card;
    } blob = {0};
    enum choir_status st = derive_check(c);
    if (st == CHOIR_OK)
        st = derive_all(c);
    if (st == CHOIR_OK)
        device_open(c, &blob.card);
    blob.a = (struct agreement){.status = st,
                                .choices = (uint32_t)c->config.deterministic |
                                           (c->config.aggregate_v > 0 ? 1u << 31 : 0),
                                .table_hash = st == CHOIR_OK ? plan_table_hash(c->table) : 0};
    /* Also after a failure: the others must hear of it. */
    enum choir_status sent =
        tree_start(c, &blob, blob.card.present ? sizeof(blob) : sizeof(blob.a));
    c->creation->status = st;
    c->creation->stage = STAGE_AGREE;
    return sent == CHOIR_OK ? CHOIR_IN_PROGRESS : sent;
}

static enum choir_status stage_split(struct choir_comm *c)
{
    struct creation *x = c->creation;
    struct split_result r = {0};
    uint8_t *all;
    uint32_t bytes;
    enum choir_status st = tree_test(x->parent, &all, &bytes);
    if (st != CHOIR_OK)
        return st;
    st = split_members(x->parent, all, bytes, x->color, &r);
    free(all);
    if (st != CHOIR_OK || !r.members)
        return st; /* no colour: done */
    c->host.key = r.key;
    c->host.rank = r.rank;
    c->host.size = r.size;
    c->host.member = r.members;
    c->creation->stage = STAGE_OPEN;
    st = creation_open_host(c);
    return st == CHOIR_OK ? CHOIR_IN_PROGRESS : st;
}

static enum choir_status stage_cards(struct choir_comm *c)
{
    struct tree_answers x;
    enum choir_status st = tree_answers(c, 0, &x);
    for (uint32_t r = 0; r < c->host.size && st == CHOIR_OK; r++)
        st = set_member(c, r, x.blob[r], x.bytes[r]);
    tree_answers_free(&x);
    if (st != CHOIR_OK)
        return st;
    c->creation->stage = STAGE_OPEN;
    return CHOIR_IN_PROGRESS;
}

static enum choir_status stage_agree(struct choir_comm *c)
{
    struct tree_answers x;
    struct agreement zero = {0};
    bool gpus = false;
    enum choir_status st = tree_answers(c, sizeof(zero), &x);
    if (st == CHOIR_OK)
        st = c->creation->status;
    for (uint32_t r = 0; r < c->host.size && st == CHOIR_OK; r++) {
        struct agreement a;
        memcpy(&a, x.blob[r], sizeof(a));
        gpus |= x.bytes[r] > sizeof(a);
        if (a.status)
            st = base_fail((enum choir_status)a.status, "see the log of that rank",
                           "rank %u could not create the communicator", r);
        else if (r && (a.table_hash != zero.table_hash || a.choices != zero.choices))
            st = base_fail(CHOIR_ERR_MISMATCH,
                           "set CHOIR_* variables and the configuration alike on all ranks",
                           "rank %u has another configuration or topology than rank 0", r);
        if (!r)
            zero = a;
    }
    if (st == CHOIR_OK && gpus) {
        c->creation->stage = STAGE_GPUS;
        st = meeting_begin(c, &x, sizeof(struct agreement));
    }
    tree_answers_free(&x);
    return st;
}

static enum choir_status stage_gpus(struct choir_comm *c)
{
    struct device_met said;
    enum choir_status st = meeting_advance(c, &said);
    if (st != CHOIR_OK || c->slice_bytes) /* pinned, by all */
        return st;
    c->creation->stage = STAGE_LINKS;
    return device_ready(c, &said);
}

static void announce(struct choir_comm *c, uint64_t ns)
{
    base_log(BASE_INFO, (int)c->host.rank,
             "communicator %s%sready ranks %u hosts %u local %u took %.1f ms", c->name,
             c->name[0] ? " " : "", c->host.size, c->layout->hosts, c->host.local_ranks,
             (double)ns / 1e6);
}

static enum choir_status too_late(struct choir_comm *c)
{
    static const char *const where[] = {
        [STAGE_JOIN] = "the rendezvous",
        [STAGE_SPLIT] = "the parent's agreement",
        [STAGE_CARDS] = "the exchange of addresses",
        [STAGE_OPEN] = "another communicator's measuring of links between GPUs",
        [STAGE_AGREE] = "the agreement",
        [STAGE_GPUS] = "the meeting of GPUs",
        [STAGE_LINKS] = "the measuring of links between GPUs"};
    struct choir_comm *over = c->creation->stage == STAGE_SPLIT ? c->creation->parent : c;
    bool waits = c->creation->stage == STAGE_GPUS && device_waits(); /* perhaps for no rank */
    bool told =
        over->host_open && c->creation->stage != STAGE_OPEN && !waits && !device_measures(c);
    int rank = told ? tree_waits_for(over) : -1;
    char whom[40] = "";
    if (rank >= 0)
        snprintf(whom, sizeof(whom), " for rank %d", rank);
    return base_fail(
        CHOIR_ERR_TIMEOUT, "see the logs of the other ranks; CHOIR_CREATE_TIMEOUT sets the limit",
        "rank %u waited too long in %s%s", c->host.rank, where[c->creation->stage], whom);
}

/* What ends it from outside; CHOIR_IN_PROGRESS: nothing. */
static enum choir_status heard(struct choir_comm *c)
{
    struct creation *x = c->creation;
    struct host_comm *h = x->stage == STAGE_SPLIT ? &x->parent->host : &c->host;
    if ((c->host_open || h != &c->host) && atomic_load(&h->broken)) {
        *base_error_thread() = h->error;
        return (enum choir_status)atomic_load(&h->broken);
    }
    if (atomic_load(&c->aborted))
        return base_fail(CHOIR_ERR_ABORTED, "destroy the communicator",
                         "rank %u aborted the communicator while it was being made", c->host.rank);
    return CHOIR_IN_PROGRESS;
}

enum choir_status creation_advance(struct choir_comm *c)
{
    struct creation *x = c->creation;
    enum choir_status st = heard(c);
    for (enum stage was = STAGE_DONE; st == CHOIR_IN_PROGRESS && was != x->stage;) {
        was = x->stage;
        st = was == STAGE_JOIN    ? stage_join(c)
             : was == STAGE_SPLIT ? stage_split(c)
             : was == STAGE_CARDS ? stage_cards(c)
             : was == STAGE_OPEN  ? stage_open(c)
             : was == STAGE_AGREE ? stage_agree(c)
             : was == STAGE_GPUS  ? stage_gpus(c)
                                  : device_settle(c);
    }
    /* The rendezvous keeps the deadline itself: its verdict, which names who is missing, may be on its way. */
    uint64_t grace_ns = x->stage == STAGE_JOIN ? JOIN_GRACE_NS : 0;
    if (st == CHOIR_IN_PROGRESS && base_now_ns() > x->deadline_ns + grace_ns)
        st = too_late(c);
    if (st == CHOIR_IN_PROGRESS)
        return st;
    if (st == CHOIR_OK) {
        if (c->host_open)
            announce(c, base_now_ns() - (x->deadline_ns - c->config.create_timeout_ns));
        if (c->host_open && profile_on(CHOIR_PROFILE_COMM))
            observe_comm(c);
        atomic_store(&c->state, COMM_READY);
        if (c->host_open && atomic_load(&c->aborted))
            comm_break_aborted(c);
        return st;
    }
    device_landed(c); /* other creations need not wait until it is destroyed */
    struct choir_error *e = base_error_thread();
    if (c->host_open)
        host_comm_break(&c->host, st,
                        &(struct base_error_at){(int)c->host.rank, e->peer, 0, e->sys_errno, NULL},
                        e->remedy, "%s", e->text);
    else
        c->host.error = *e, atomic_store(&c->host.broken, (int32_t)st);
    atomic_store(&c->state, COMM_FAILED);
    return st;
}

static enum choir_status begin(struct choir_comm *c, uint32_t rank, uint32_t size, enum stage stage)
{
    c->host.rank = rank;
    c->host.size = size;
    if (!c->host.member)
        c->host.member = calloc(size, sizeof(*c->host.member));
    c->creation = calloc(1, sizeof(*c->creation));
    if (!c->creation || !c->host.member || !(c->creation->card = malloc(HOST_CARD_MOST)))
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for %u ranks", size);
    device_here(c);
    c->creation->stage = stage;
    c->creation->deadline_ns = base_now_ns() + c->config.create_timeout_ns;
    return host_card_write(c->creation->card, derive_wire_hash());
}

enum choir_status creation_start_id(struct choir_comm *c, const struct choir_id *id, uint32_t rank,
                                    uint32_t size)
{
    enum choir_status st = boot_id_decode(id, &c->id);
    if (st != CHOIR_OK)
        return st;
    host_secret_add(c->id.secret);
    c->has_secret = true;
    st = begin(c, rank, size, STAGE_JOIN);
    if (st != CHOIR_OK)
        return st;
    return boot_join_start(id, rank, size, c->creation->card, c->creation->card->bytes,
                           c->creation->deadline_ns, &c->creation->join);
}

enum choir_status creation_start_split(struct choir_comm *c, struct choir_comm *parent, bool own,
                                       int color)
{
    enum choir_status st = begin(c, 0, 1, STAGE_SPLIT);
    free(c->host.member); /* known once the colours are */
    c->host.member = NULL;
    if (c->creation)
        c->creation->parent = parent, c->creation->own_parent = own, c->creation->color = color;
    else if (own)
        choir_comm_destroy(parent);
    return st;
}

/* Not before the wait for its bell is over. Who still waits in it for this rank hears that nothing comes. */
static void end_own_parent(struct choir_comm *c)
{
    struct creation *x = c->creation;
    if (!x->own_parent)
        return;
    x->own_parent = false;
    if (atomic_load(&c->state) != COMM_READY)
        choir_comm_abort(x->parent);
    choir_comm_destroy(x->parent);
}

void creation_settle(struct choir_comm *c, struct choir_comm **out)
{
    end_own_parent(c);
    if (c->host_open)
        return;
    comm_free(c);
    *out = NULL;
}

enum choir_status creation_start_members(struct choir_comm *c, uint64_t key, uint32_t rank,
                                         uint32_t size, struct host_peer **members)
{
    c->host.key = key;
    c->host.member = members;
    enum choir_status st = begin(c, rank, size, STAGE_OPEN);
    if (st == CHOIR_OK)
        st = creation_open_host(c);
    if (st != CHOIR_OK)
        return st;
    st = stage_open(c);
    return st == CHOIR_IN_PROGRESS ? CHOIR_OK : st;
}

static void drive(void *arg)
{
    struct choir_comm *c = arg;
    if (atomic_load(&c->state) == COMM_CREATING && creation_advance(c) != CHOIR_IN_PROGRESS)
        end_own_parent(c);
}

/* The rendezvous rings no bell. */
static enum choir_status advance_late(struct choir_comm *c, uint64_t waited_ns)
{
    struct creation *x = c->creation;
    uint64_t most_ns = base_min(base_max(waited_ns / 8, 50000u), 5000000u);
    if (x->stage == STAGE_LINKS)
        waited_ns = base_min(waited_ns, 8 * GPU_LOOK_NS); /* GPUs ring no bell either */
    if (x->stage != STAGE_JOIN)
        return tree_wait(x->stage == STAGE_SPLIT ? x->parent : c, waited_ns, c, creation_advance);
    nanosleep(&(struct timespec){.tv_nsec = (long)most_ns}, NULL);
    return creation_advance(c);
}

enum choir_status creation_finish(struct choir_comm *c, struct choir_comm **out)
{
    if (group_open())
        return group_add_step(c, out, creation_advance);
    bool colorless = c->creation->parent && c->creation->color == CHOIR_COLOR_NONE;
    if (!c->config.blocking && !colorless) {
        c->creation->timer = (struct service_timer){.period_ns = 1000000, .fn = drive, .arg = c};
        c->creation->driven = true;
        service_timer_add(&c->creation->timer);
        return CHOIR_IN_PROGRESS;
    }
    uint64_t start = base_now_ns();
    enum choir_status st = creation_advance(c);
    for (uint32_t turn = 0; turn < 200 && st == CHOIR_IN_PROGRESS; turn++) {
        sched_yield();
        st = creation_advance(c);
    }
    while (st == CHOIR_IN_PROGRESS)
        st = advance_late(c, base_now_ns() - start);
    if (st == CHOIR_OK)
        creation_settle(c, out);
    return st;
}

void creation_free(struct choir_comm *c)
{
    struct creation *x = c->creation;
    if (!x)
        return;
    if (x->driven)
        service_timer_remove(&x->timer);
    if (x->join)
        boot_join_cancel(x->join);
    end_own_parent(c);
    free(x->card);
    free(x);
    c->creation = NULL;
}
