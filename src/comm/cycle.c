/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cycle.c: communicators that wait for each other: a rank that waits in one communicator for a peer whose thread waits in another
 * one, and so on, back to the first. Who has waited a second sends a probe to the rank it waits for; who gets one adds what its own
 * thread waits for and sends it on; a probe that comes home has met all ranks of the cycle. They are named in the log and in the
 * record of the deadline. It is a finding, no verdict: streams of a GPU may cross and still go on. (Chandy, Misra and Haas 1983.)
 */
#include "comm/comm.h"
#include <stdio.h>
#include <string.h>

#define WAIT_NS 1000000000u /* before the first probe, and between two */
#define FRESH_NS 300000000u /* a wait is told again every 20 ms while it lasts */
#define HOPS 8u
#define BRANCHES 4u

struct hop {
    struct choir_process process;
    uint64_t caller; /* the thread that last called on the communicator */
    uint32_t rank, peer;
    char comm[24], what[24];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* the list, and every wait in it */
static struct choir_comm *list;                          /* who has waited so long, ever */

static bool waits(const struct choir_comm *c, uint64_t now)
{
    return now - c->wait.seen_ns < FRESH_NS;
}

static struct hop hop_of(const struct choir_comm *c)
{
    struct hop h = {.process = host_process.id,
                    .caller = atomic_load_explicit(&c->caller, memory_order_relaxed),
                    .rank = c->host.rank,
                    .peer = (uint32_t)c->wait.peer};
    if (c->name[0])
        snprintf(h.comm, sizeof(h.comm), "%.20s", c->name);
    else
        snprintf(h.comm, sizeof(h.comm), "%08x", (uint32_t)c->host.key);
    snprintf(h.what, sizeof(h.what), "%s", c->wait.what);
    return h;
}

static bool same_thread(const struct hop *a, const struct hop *b)
{
    return a->caller == b->caller && !memcmp(&a->process, &b->process, sizeof(a->process));
}

static void send_probe(struct choir_comm *c, const struct hop *hop, uint32_t hops)
{
    host_control_send(&c->host, hop[hops - 1].peer, COMM_FRAME_PROBE, (uint64_t[]){hops, 0, 0}, 0,
                      hop, hops * (uint32_t)sizeof(*hop));
}

void cycle_waits(struct choir_comm *c, int peer, uint64_t waited_ns, const char *what)
{
    struct comm_wait *w = &c->wait;
    uint64_t now = base_now_ns();
    if (waited_ns < WAIT_NS)
        return;
    pthread_mutex_lock(&lock);
    if (!w->listed)
        w->next = list, list = c, w->listed = true;
    if (w->peer != peer || !waits(c, now))
        *w = (struct comm_wait){w->next, true, peer, what, now, 0, ""};
    w->seen_ns = now;
    bool due = now - w->probed_ns >= WAIT_NS;
    if (due)
        w->probed_ns = now;
    struct hop h = hop_of(c);
    pthread_mutex_unlock(&lock);
    if (due)
        send_probe(c, &h, 1);
}

void cycle_text(struct choir_comm *c, char *text, size_t bytes)
{
    pthread_mutex_lock(&lock);
    snprintf(text, bytes, "%s%s", c->wait.text[0] ? "; " : "", c->wait.text);
    pthread_mutex_unlock(&lock);
}

void cycle_forget(struct choir_comm *c)
{
    pthread_mutex_lock(&lock);
    struct choir_comm **at = &list;
    while (c->wait.listed && *at != c)
        at = &(*at)->wait.next;
    if (c->wait.listed)
        *at = c->wait.next;
    pthread_mutex_unlock(&lock);
}

/* --- probes ---------------------------------------------------------------------------------------------- */

static void describe(const struct hop *hop, uint32_t hops, char *text, size_t bytes)
{
    size_t n = (size_t)snprintf(text, bytes, "a cycle of waits:");
    for (uint32_t i = 0; i < hops && n < bytes; i++)
        n += (size_t)snprintf(text + n, bytes - n, "%s rank %u of %s (%s) for rank %u",
                              i ? "," : "", hop[i].rank, hop[i].comm, hop[i].what, hop[i].peer);
}

/* Of this process, the wait that the probe came from, if it still lasts. */
static void found(const struct hop *hop, uint32_t hops)
{
    uint64_t now = base_now_ns();
    char text[sizeof(list->wait.text)];
    int rank = -1;
    describe(hop, hops, text, sizeof(text));
    pthread_mutex_lock(&lock);
    for (struct choir_comm *c = list; c && rank < 0; c = c->wait.next) {
        struct hop own = hop_of(c);
        if (!waits(c, now) || memcmp(&own, hop, sizeof(own)) || c->wait.text[0])
            continue;
        memcpy(c->wait.text, text, sizeof(text));
        rank = (int)c->host.rank;
    }
    pthread_mutex_unlock(&lock);
    if (rank >= 0)
        base_log(BASE_WARN, rank, "%s; " CYCLE_REMEDY, text);
}

/* Communicators of the same thread that wait, kept from being closed. */
static uint32_t branches(uint64_t caller, struct choir_comm *out[BRANCHES],
                         struct hop hop[BRANCHES])
{
    uint64_t now = base_now_ns();
    uint32_t n = 0;
    pthread_mutex_lock(&lock);
    for (struct choir_comm *c = list; c && n < BRANCHES; c = c->wait.next)
        if (waits(c, now) && atomic_load_explicit(&c->caller, memory_order_relaxed) == caller) {
            atomic_fetch_add(&c->host.users, 1);
            hop[n] = hop_of(c);
            out[n++] = c;
        }
    pthread_mutex_unlock(&lock);
    return n;
}

void cycle_probe(struct choir_comm *c, const struct choir_frame *f, const void *payload)
{
    struct hop hop[HOPS + 1], next[BRANCHES],
        here = {.process = host_process.id,
                .caller = atomic_load_explicit(&c->caller, memory_order_relaxed)};
    struct choir_comm *to[BRANCHES];
    uint64_t hops = f->arg[0];
    if (!hops || hops > HOPS || f->bytes != hops * sizeof(*hop))
        return;
    memcpy(hop, payload, f->bytes);
    for (uint32_t i = 0; i < hops; i++)
        hop[i].comm[sizeof(hop->comm) - 1] = hop[i].what[sizeof(hop->what) - 1] = 0;
    if (same_thread(hop, &here)) {
        if (hops > 1)
            found(hop, (uint32_t)hops);
        return;
    }
    for (uint32_t i = 1; i < hops; i++)
        if (same_thread(&hop[i], &here))
            return; /* of a cycle that does not hold the first */
    uint32_t n = hops < HOPS ? branches(here.caller, to, next) : 0;
    for (uint32_t i = 0; i < n; i++) {
        hop[hops] = next[i];
        send_probe(to[i], hop, (uint32_t)hops + 1);
        atomic_fetch_sub(&to[i]->host.users, 1); /* it may be gone from here on */
    }
}
