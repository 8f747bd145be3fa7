/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dial.c: how connections come about and come back. Rounds over pairs of addresses, several at a time; a pair is used
 * only after bytes went both ways over it. The side whose first connection won opens further rails (one per
 * pair of interfaces) and sockets; after a loss both sides dial.
 */
#include "transports/tcp/tcp.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LATER_NS 50000000ull   /* head start of a better pair */
#define RAILS_NS 2000000000ull /* further rails may join so long after the first */

static bool better_under_way(const struct choir_endpoint *e, const struct tcp_conn *c)
{
    for (const struct tcp_conn *o = e->t->conn; o; o = o->next)
        if (o != c && !o->inbound && o->e == e && o->pair.rank < c->pair.rank &&
            (o->state == CONN_SYN || o->state == CONN_CHALLENGE || o->state == CONN_READY))
            return true;
    return false;
}

/* --- which slot a proven connection gets --------------------------------------------------------------- */
/* Another rail: no interface in common with those in use, at least half as fast, and not far away. */
static bool new_rail(const struct choir_endpoint *e, const struct tcp_conn *c)
{
    for (const struct tcp_conn *o = e->t->conn; o; o = o->next)
        if (o != c && !o->inbound && o->e == e && o->state == CONN_READY && !o->extra &&
            (o->pair.own.index == c->pair.own.index || o->pair.peer.nic == c->pair.peer.nic))
            return false;
    uint8_t speed = base_min(c->pair.own.entry.speed, c->pair.peer.speed);
    for (uint32_t i = 0; i < e->slot_count; i++) {
        const struct tcp_slot *s = e->slot[i];
        if (s->own_index == c->pair.own.index || s->peer_nic == c->pair.peer.nic ||
            s->rank != c->pair.rank || (speed && s->speed > speed + 1) ||
            c->rtt_ns > 10 * s->rtt_ns + 20000000)
            return false;
    }
    return true;
}

static int slot_for(struct choir_endpoint *e, struct tcp_conn *c)
{
    for (uint32_t i = 0; i < e->slot_count; i++)
        if (e->slot[i]->source.fd < 0 && !e->slot[i]->claimed)
            return (int)i;
    if (!e->slot_count)
        return 0;
    if (!e->dialer || e->slot_count == TCP_SLOTS_MOST ||
        tcp_age(base_now_ns(), e->since_ns) > RAILS_NS || !(c->extra || new_rail(e, c)))
        return -1;
    return (int)e->slot_count;
}

void tcp_dial_held(struct tcp_conn *c)
{
    struct choir_endpoint *e = c->e;
    e->dial.refused_ns = 0;
    e->dial.since_ns = base_now_ns();
    if (!e->up_count && better_under_way(e, c) &&
        tcp_age(base_now_ns(), e->dial.round_ns) < TCP_PREFER_NS)
        return;
    if (!e->up_count && e->slot_count && e->slot[0]->claimed && !e->peer_epoch)
        return; /* rails are decided once the first connection stands */
    int slot = slot_for(e, c);
    if (slot < 0 || !tcp_endpoint_slots(e, (uint32_t)slot + 1))
        tcp_conn_drop(c);
    else
        tcp_conn_auth(c, (uint32_t)slot);
}

/* --- attempts -------------------------------------------------------------------------------------------- */
static void attempt(struct choir_endpoint *e, const struct tcp_pair *p, bool extra)
{
    int fd = tcp_net_dial(p, e->address.port);
    struct tcp_conn *c = fd < 0 ? NULL : tcp_conn_out(e, p, extra, fd);
    if (!c) {
        e->dial.sys_errno = errno;
        snprintf(e->dial.text, sizeof(e->dial.text), "%s: %s", p->own.name, strerror(errno));
        e->dial.missed++;
        if (fd >= 0)
            close(fd);
        return;
    }
    e->dial.live++;
}

void tcp_dial_more(struct choir_endpoint *e, const struct tcp_conn *c)
{
    if (!e->dialer || c->inbound || c->extra || tcp_age(base_now_ns(), e->since_ns) > RAILS_NS)
        return;
    for (uint32_t i = 1; i < e->t->sockets; i++)
        attempt(e, &c->pair, true);
}

void tcp_dial_missed(struct tcp_conn *c, bool refused, int sys_errno, const char *what)
{
    struct choir_endpoint *e = c->e;
    struct tcp_dial *d = &e->dial;
    char own[48], peer[48];
    tcp_net_text(&c->pair.own.entry, own, sizeof(own));
    tcp_net_text(&c->pair.peer, peer, sizeof(peer));
    d->sys_errno = sys_errno;
    snprintf(d->text, sizeof(d->text), "%s to %s port %u: %s", own, peer, e->address.port,
             what ? what : strerror(sys_errno));
    d->missed++;
    d->refused += refused, d->refusals += refused;
    if (sys_errno == EACCES && what && !d->denied_ns)
        d->denied_ns = base_now_ns();
    /* An address over which we were joined and which now refuses speaks for the whole process. */
    for (uint32_t i = 0; refused && i < e->slot_count; i++)
        if (e->slot[i]->peer_nic == c->pair.peer.nic && e->peer_epoch && !d->refused_ns)
            d->refused_ns = base_now_ns();
    tcp_conn_drop(c);
}

/* --- rounds ------------------------------------------------------------------------------------------------ */
static bool round_begin(struct choir_endpoint *e, uint64_t now)
{
    struct tcp_dial *d = &e->dial;
    struct tcp_local own[TCP_ENTRIES * 2];
    if (!d->pair)
        d->pair = malloc(TCP_PAIRS * sizeof(*d->pair));
    if (!d->pair)
        return false;
    size_t n = tcp_net_interfaces(&e->t->filter, own, base_count(own));
    d->pair_count = (uint16_t)tcp_net_pairs(own, n, &e->address, e->same_host, d->pair, TCP_PAIRS);
    if (!d->pair_count)
        snprintf(d->text, sizeof(d->text), "no interface of this host is up that leads there");
    uint64_t wait = 20000000ull << base_min(d->round, 5u);
    d->tried = d->missed = d->refused = 0;
    d->round++;
    d->round_ns = now;
    d->next_ns = now + wait;
    return true;
}

/* The first pair of every two interfaces goes ahead; others (another family, a worse kind) wait a little. */
static uint64_t leaders(const struct tcp_dial *d)
{
    uint64_t lead = 0;
    for (uint32_t i = 0; i < d->pair_count; i++) {
        bool free_nics = d->pair[i].rank == d->pair[0].rank;
        for (uint32_t j = 0; j < i; j++)
            if (lead >> j & 1 && (d->pair[j].own.index == d->pair[i].own.index ||
                                  d->pair[j].peer.nic == d->pair[i].peer.nic))
                free_nics = false;
        lead |= (uint64_t)free_nics << i;
    }
    return lead;
}

static bool under_way(const struct choir_endpoint *e, const struct tcp_pair *p)
{
    for (const struct tcp_conn *c = e->t->conn; c; c = c->next)
        if (!c->inbound && c->e == e && !memcmp(&c->pair.peer, &p->peer, sizeof(p->peer)) &&
            !memcmp(&c->pair.own.entry, &p->own.entry, sizeof(p->own.entry)))
            return true;
    return false;
}

static bool lacks_slot(const struct choir_endpoint *e)
{
    for (uint32_t i = 0; i < e->slot_count; i++)
        if (e->slot[i]->source.fd < 0)
            return true;
    return !e->slot_count;
}

static void round_go_on(struct choir_endpoint *e, uint64_t now)
{
    struct tcp_dial *d = &e->dial;
    bool lacks = lacks_slot(e);
    if (lacks && now >= d->next_ns)
        round_begin(e, now);
    uint64_t lead = leaders(d);
    for (uint32_t i = 0; i < d->pair_count; i++) {
        bool leads = lead >> i & 1;
        bool early = !leads && d->live && tcp_age(now, d->round_ns) < LATER_NS;
        if (d->tried >> i & 1 || early || (!lacks && !leads))
            continue;
        d->tried |= 1ull << i;
        if (!under_way(e, &d->pair[i]))
            attempt(e, &d->pair[i], false);
    }
    bool over = !d->live && (uint32_t)__builtin_popcountll(d->tried) == d->pair_count;
    if (over && d->missed && d->refused == d->missed && !d->refused_ns)
        d->refused_ns = d->round_ns;
    else if (over && d->refused < d->missed && !e->peer_epoch)
        d->refused_ns = 0;
}

void tcp_dial_start(struct choir_endpoint *e)
{
    struct tcp_dial *d = &e->dial;
    if (d->active || !e->address.count)
        return;
    bool linked = d->linked;
    *d = (struct tcp_dial){.active = true, .linked = true, .pair = d->pair};
    d->since_ns = base_now_ns();
    if (!linked) {
        e->next_dialing = e->t->dialing;
        e->t->dialing = e;
    }
    tcp_timed(e->t);
    if (round_begin(e, d->since_ns))
        round_go_on(e, d->since_ns);
}

void tcp_dial_stop(struct choir_endpoint *e)
{
    for (struct tcp_conn *c = e->t->conn, *next; c; c = next) {
        next = c->next;
        if (!c->inbound && c->e == e)
            tcp_conn_drop(c);
    }
    e->dial.active = false; /* dial_tick unlinks it */
    free(e->dial.pair);
    e->dial.pair = NULL;
}

/* Given up? */
static bool verdict(struct choir_endpoint *e, uint64_t now)
{
    struct tcp_dial *d = &e->dial;
    char who[33];
    if (e->up_count) {
        d->since_ns = now, d->refused_ns = 0;
        return false;
    }
    uint64_t refused = d->refused_ns ? tcp_age(now, d->refused_ns) : 0,
             silent = tcp_age(now, d->since_ns);
    tcp_process_text(&e->peer, who);
    if (e->peer_epoch && refused >= TCP_REFUSED_NS && d->refusals > 2)
        tcp_endpoint_fail(e, CHOIR_ERR_PEER_DEAD, d->sys_errno,
                          "process %s has ended: its port refuses connections (%s)", who, d->text);
    else if (e->peer_epoch && silent >= TCP_SILENT_NS)
        tcp_endpoint_fail(e, CHOIR_ERR_PEER_DEAD, d->sys_errno,
                          "process %s does not answer for %d s (%s)", who,
                          (int)(TCP_SILENT_NS / 1000000000), d->text);
    else if (!e->peer_epoch && d->denied_ns && tcp_age(now, d->denied_ns) >= TCP_REFUSED_NS)
        tcp_endpoint_fail(e, CHOIR_ERR_AUTH, 0, "process %s refuses this one (%s)", who, d->text);
    else if (!e->peer_epoch && (refused >= TCP_MISSING_NS || silent >= TCP_SILENT_NS))
        tcp_endpoint_fail(
            e, CHOIR_ERR_NETWORK, d->sys_errno,
            "process %s cannot be reached over any of %u pairs of addresses; the last: %s", who,
            d->pair_count, d->text);
    else
        return false;
    return true;
}

void tcp_dial_tick(struct choir_transport *t, uint64_t now)
{
    for (struct choir_endpoint **at = &t->dialing, *e; (e = *at);) {
        struct tcp_dial *d = &e->dial;
        if (d->active)
            round_go_on(e, now);
        if (d->active && !verdict(e, now) && !lacks_slot(e) && !d->live)
            tcp_dial_stop(e);
        if (!d->active) {
            *at = e->next_dialing;
            e->next_dialing = NULL;
            d->linked = false;
            continue;
        }
        at = &e->next_dialing;
    }
}
