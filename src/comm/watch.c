/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.c: who is late, who is gone, who called something else; and telling everyone. A rank that has waited 100 ms asks the one it
 * waits for what that one called at the same place of the program (a ring of the last COMM_RECORDS calls); another answer is a
 * verdict: wrong calls never meet, so waiting on would be for ever. Verdicts go to every process reached and from there on, so
 * a rank that found nothing itself ends with the finder's record. Runs on the waiting thread and on transports' threads; never blocks.
 */
#include "base/knob.h"
#include "comm/gpu.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define ASK_NS 100000000u

void watch_record(struct choir_comm *c, const struct comm_call *call, uint32_t signature)
{
    uint64_t number = ++c->collectives;
    struct comm_record *r = &c->record[number % COMM_RECORDS];
    atomic_store_explicit(&r->sequence, 0, memory_order_relaxed);
    atomic_store_explicit(&r->signature, signature, memory_order_relaxed);
    atomic_store_explicit(&r->kind, call->kind, memory_order_relaxed);
    atomic_store_explicit(&r->type, call->type, memory_order_relaxed);
    atomic_store_explicit(&r->op, call->op, memory_order_relaxed);
    atomic_store_explicit(&r->root, call->root, memory_order_relaxed);
    atomic_store_explicit(&r->count, call->count, memory_order_relaxed);
    atomic_store_explicit(&r->sequence, number, memory_order_release); /* pairs with look_up */
}

static bool look_up(const struct choir_comm *c, uint64_t number, uint32_t *signature,
                    struct comm_call *call)
{
    const struct comm_record *r = &c->record[number % COMM_RECORDS];
    if (atomic_load_explicit(&r->sequence, memory_order_acquire) != number)
        return false;
    *signature = atomic_load_explicit(&r->signature, memory_order_relaxed);
    *call = (struct comm_call){
        .kind = (enum choir_kind)atomic_load_explicit(&r->kind, memory_order_relaxed),
        .type = (enum choir_type)atomic_load_explicit(&r->type, memory_order_relaxed),
        .op = atomic_load_explicit(&r->op, memory_order_relaxed),
        .root = atomic_load_explicit(&r->root, memory_order_relaxed),
        .count = atomic_load_explicit(&r->count, memory_order_relaxed)};
    return atomic_load(&r->sequence) == number;
}

static enum choir_status blame(struct choir_comm *c, enum choir_status status, int peer,
                               const char *remedy, const char *text)
{
    base_error_fill(base_error_thread(), status,
                    &(struct base_error_at){(int)c->host.rank, peer, c->host.sequence, 0, NULL},
                    remedy, "rank %u: %s", c->host.rank, text);
    return comm_take_error(c, status);
}

enum choir_status watch_left(struct choir_comm *c, int peer, const char *what)
{
    char text[160];
    int how = atomic_load(&c->gone[peer]);
    if (how == COMM_HERE)
        return CHOIR_OK;
    snprintf(text, sizeof(text), "%s waits for rank %d, which has %s", what, peer,
             how == COMM_EXITED ? "returned from main or called exit"
                                : "destroyed its communicator");
    return blame(c, CHOIR_ERR_PEER_DEAD, peer,
                 "all ranks make the same calls before choir_comm_destroy or their end", text);
}

enum choir_status watch_late(void *arg, uint64_t waited_ns)
{
    struct comm_task *t = arg;
    struct choir_comm *c = t->comm;
    int peer = c->op.waiting;
    if (peer < 0)
        return CHOIR_OK;
    uint64_t now = base_now_ns();
    const char *what = t->call.side ? side_name(t->call.side) : plan_kind_name(t->call.kind);
    /* All it sent came before its goodbye, but maybe after this operation looked: it looks once more. */
    if (atomic_load(&c->gone[peer])) {
        if (c->left_seen == c->host.sequence && c->left_peer == peer)
            return watch_left(c, peer, what);
        c->left_seen = c->host.sequence, c->left_peer = peer;
    }
    if (waited_ns >= ASK_NS && now - c->asked_ns >= ASK_NS && t->call.kind != CHOIR_EXCHANGE) {
        c->asked_ns = now;
        host_control_send(&c->host, (uint32_t)peer, COMM_FRAME_QUERY,
                          (uint64_t[]){c->collectives, c->op.signature, 0}, 0, NULL, 0);
    }
    cycle_waits(c, peer, waited_ns, what);
    uint64_t late = (uint64_t)knob_int(KNOB_LATE);
    if (waited_ns >= late && now - c->logged_ns >= late) {
        c->logged_ns = now;
        base_log(BASE_WARN, (int)c->host.rank, "%s sequence %llu has waited %.0f s for rank %d",
                 what, (unsigned long long)c->host.sequence, (double)waited_ns / 1e9, peer);
    }
    if (waited_ns > t->limit_ns) {
        char cycle[200], text[300];
        cycle_text(c, cycle, sizeof(cycle));
        snprintf(text, sizeof(text), "%s sequence %llu waited %.1f s for rank %d%s", what,
                 (unsigned long long)c->host.sequence, (double)waited_ns / 1e9, peer, cycle);
        return blame(c, CHOIR_ERR_TIMEOUT, peer,
                     cycle[0] ? CYCLE_REMEDY
                              : "look for what keeps that rank; CHOIR_TIMEOUT sets the limit",
                     text);
    }
    return CHOIR_OK;
}

static void answer(struct choir_comm *c, const struct choir_frame *f)
{
    uint32_t signature = 0;
    struct comm_call call;
    uint64_t number = f->arg[0];
    if (!look_up(c, number, &signature, &call))
        return; /* not there yet: late, not wrong */
    host_control_send(&c->host, f->from, COMM_FRAME_STATE, (uint64_t[]){number, signature, 0}, 0,
                      NULL, 0);
}

static void judge(struct choir_comm *c, const struct choir_frame *f)
{
    uint32_t signature;
    struct comm_call ours;
    char text[200];
    if (!look_up(c, f->arg[0], &signature, &ours) || signature == f->arg[1])
        return;
    explain(c, &ours, (uint32_t)f->arg[1], f->from, text, sizeof(text));
    host_comm_break(
        &c->host, CHOIR_ERR_MISMATCH,
        &(struct base_error_at){(int)c->host.rank, (int)f->from, f->arg[0], 0, NULL},
        "all ranks must call the same collectives with the same arguments, in the same order",
        "%s (collective number %llu)", text, (unsigned long long)f->arg[0]);
}

void watch_explain(struct host_comm *host, uint32_t signature, uint32_t peer, char *text,
                   size_t bytes)
{
    const struct choir_comm *c = host->owner;
    uint32_t own;
    struct comm_call ours;
    if (c->op.signature == COMM_EXCHANGE_SIGNATURE)
        ours = (struct comm_call){.kind = CHOIR_EXCHANGE};
    else if (!look_up(c, c->collectives, &own, &ours))
        return;
    explain(c, &ours, signature, peer, text, bytes);
}

void watch_explain_record(struct choir_comm *c, uint32_t own, uint32_t signature, uint32_t peer,
                          char *text, size_t bytes)
{
    uint32_t found;
    struct comm_call ours;
    for (uint64_t back = 0; back < COMM_RECORDS && back < c->collectives; back++)
        if (look_up(c, c->collectives - back, &found, &ours) && found == own) {
            explain(c, &ours, signature, peer, text, bytes);
            return;
        }
}

static void take_verdict(struct choir_comm *c, const struct choir_frame *f, const void *payload)
{
    struct choir_error e;
    if (f->bytes != sizeof(e))
        return;
    memcpy(&e, payload, sizeof(e));
    e.text[sizeof(e.text) - 1] = e.remedy[sizeof(e.remedy) - 1] =
        e.transport[sizeof(e.transport) - 1] = 0;
    if (e.status >= 0)
        return;
    host_comm_break(&c->host, e.status,
                    &(struct base_error_at){e.rank, e.peer, e.sequence, e.sys_errno, e.transport},
                    e.remedy, "%s", e.text);
}

/* The first word counts: a handler that runs after ours at exit may destroy. */
static void take_bye(struct choir_comm *c, const struct choir_frame *f)
{
    uint8_t here = COMM_HERE, how = f->arg[0] == COMM_EXITED ? COMM_EXITED : COMM_DESTROYED;
    atomic_compare_exchange_strong(&c->gone[f->from], &here, how);
    host_bell_wake_own(&c->host);
}

void watch_control(struct host_comm *host, const struct choir_frame *f, void *payload)
{
    struct choir_comm *c = host->owner;
    if (f->from < host->size)
        switch (f->kind) {
        case COMM_FRAME_UP:
        case COMM_FRAME_DOWN:
            tree_frame(c, f, payload);
            break;
        case COMM_FRAME_BYE:
            take_bye(c, f);
            break;
        case COMM_FRAME_VERDICT:
            take_verdict(c, f, payload);
            break;
        case COMM_FRAME_QUERY:
            answer(c, f);
            break;
        case COMM_FRAME_STATE:
            judge(c, f);
            break;
        case COMM_FRAME_PROBE:
            cycle_probe(c, f, payload);
            break;
        default:
            break;
        }
    free(payload);
}

void watch_peer_failed(struct host_comm *host, struct host_peer *peer, enum choir_status status,
                       const char *text)
{
    struct choir_comm *c = host->owner;
    for (uint32_t r = 0; r < host->size; r++) {
        if (host->member[r] != peer || atomic_load(&c->gone[r]) || r == host->rank)
            continue;
        host_comm_break(host, status, &(struct base_error_at){(int)host->rank, (int)r, 0, 0, NULL},
                        "see that rank's own output; choir_comm_shrink goes on without it",
                        "rank %u's process is gone: %s", r, text);
        return;
    }
}

/* Every process that would hear of ours ending must know that it is no death. */
void watch_say_bye(struct choir_comm *c, enum comm_gone how)
{
    for (uint32_t r = 0; r < c->host.size; r++) {
        struct host_peer *peer = c->host.member[r];
        if (r != c->host.rank && peer && !atomic_load(&peer->failed))
            host_control_last(&c->host, r, COMM_FRAME_BYE, how);
    }
}

void watch_leave(struct host_comm *host)
{
    watch_say_bye(host->owner, COMM_EXITED);
}

/* On the service thread. */
static bool flood(void *arg)
{
    struct choir_comm *c = arg;
    struct choir_error e;
    pthread_mutex_lock(&c->host.lock);
    e = c->host.error;
    pthread_mutex_unlock(&c->host.lock);
    for (uint32_t r = 0; r < c->host.size; r++) {
        struct host_peer *peer = c->host.member[r];
        if (r != c->host.rank && peer && host_peer_end(peer) && !atomic_load(&peer->failed) &&
            !atomic_load(&c->gone[r]))
            host_control_send(&c->host, r, COMM_FRAME_VERDICT, (uint64_t[3]){0}, 0, &e, sizeof(e));
    }
    atomic_store(&c->flooding, 0);
    atomic_fetch_sub(&c->host.users, 1); /* c may be gone from here on */
    return true;
}

void watch_broke(struct host_comm *host)
{
    struct choir_comm *c = host->owner;
    uint32_t idle = 0;
    device_stop(c);
    if (!atomic_compare_exchange_strong(&c->flooding, &idle, 1))
        return;
    /* Counted as an upcall, which it may come from: host_comm_close waits for it, however late it began. */
    atomic_fetch_add(&host->users, 1);
    c->flood = (struct service_work){.step = flood, .arg = c};
    service_work_add(&c->flood);
}

void watch_close(struct choir_comm *c)
{
    while (atomic_load(&c->flooding))
        sched_yield();
}
