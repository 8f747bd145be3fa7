/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conn.c: the connections of a rendezvous server: from accept to hang-up. Whoever does not prove the secret, talks nonsense
 * or talks too slowly is dropped and counted; the log names at most one in ten seconds.
 */
#include "boot/server.h"
#include "base/knob.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

static void list_add(struct conn_list *l, struct conn *c)
{
    c->list = l;
    c->next = NULL;
    c->previous = l->last;
    *(l->last ? &l->last->next : &l->first) = c;
    l->last = c;
}

static void list_remove(struct conn *c)
{
    struct conn_list *l = c->list;
    *(c->previous ? &c->previous->next : &l->first) = c->next;
    *(c->next ? &c->next->previous : &l->last) = c->previous;
    c->list = NULL;
}

static void move(struct server *s, struct conn *c, enum conn_phase phase, uint64_t now_ns)
{
    s->unproven -= c->phase == CONN_NEW;
    s->telling -= c->phase == CONN_TELLING;
    s->telling += phase == CONN_TELLING;
    if (c->list)
        list_remove(c);
    c->phase = (uint8_t)phase;
    c->deadline_ns = now_ns + SERVER_CONN_NS;
    list_add(phase == CONN_WAITING ? &s->waiting : phase == CONN_DEAD ? &s->dead : &s->timed, c);
}

/*
 * Closed now; freed when no event of the batch can name it any more. Taken from the epoll set by hand: closing does that only
 * with the last copy of the descriptor, and a process being forked may hold one for a moment.
 */
static void hang_up(struct server *s, struct conn *c)
{
    epoll_ctl(s->epoll, EPOLL_CTL_DEL, c->channel.fd, NULL);
    channel_free(&c->channel);
    move(s, c, CONN_DEAD, 0);
}

void conn_free_dead(struct server *s)
{
    for (struct conn *c = s->dead.first, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    s->dead = (struct conn_list){0};
}

void conn_free_all(struct server *s)
{
    while (s->timed.first)
        hang_up(s, s->timed.first);
    while (s->waiting.first)
        hang_up(s, s->waiting.first);
    conn_free_dead(s);
}

static void drop(struct server *s, struct conn *c, const char *why, uint64_t now_ns)
{
    char text[ADDRESS_TEXT];
    s->drops++;
    if (now_ns >= s->drop_log_ns) {
        base_log(BASE_WARN, -1, "rendezvous dropped %u connection%s, the last from %s: %s",
                 s->drops, s->drops == 1 ? "" : "s", address_text(&c->from, c->port, text), why);
        s->drops = 0;
        s->drop_log_ns = now_ns + 10000000000u;
    }
    hang_up(s, c);
}

/* What is read while an answer is on its way out would not be looked at, and must not keep epoll awake. */
static void watch(struct server *s, struct conn *c)
{
    uint32_t out = channel_wants_write(&c->channel) ? EPOLLOUT : 0;
    uint32_t events = out | (out && c->phase == CONN_TELLING ? 0u : (uint32_t)EPOLLIN);
    if (events == c->events)
        return;
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(s->epoll, EPOLL_CTL_MOD, c->channel.fd, &e);
    c->events = events;
}

/* The last frame is out: say so with a FIN, and wait for the other's, or the kernel might discard what it has not
 * yet delivered. */
static void sent(struct server *s, struct conn *c, uint64_t now_ns)
{
    shutdown(c->channel.fd, SHUT_WR);
    move(s, c, CONN_CLOSING, now_ns);
    watch(s, c);
}

static void tell(struct server *s, struct conn *c, uint16_t type, uint32_t bytes, uint64_t now_ns)
{
    move(s, c, CONN_TELLING, now_ns);
    enum choir_status st = channel_send(&c->channel, type, s->body, bytes);
    if (st)
        hang_up(s, c);
    else if (!channel_wants_write(&c->channel))
        sent(s, c, now_ns);
    else
        watch(s, c);
}

static void tell_end(struct server *s, struct conn *c, uint64_t now_ns)
{
    uint32_t bytes;
    uint16_t type = roster_frame(&s->roster, c->rank, s->body, &bytes);
    tell(s, c, type, bytes, now_ns);
}

void conn_tell_all(struct server *s, uint64_t now_ns)
{
    for (struct conn *c = s->waiting.first, *next; c; c = next) {
        next = c->next;
        if (!c->own)
            tell_end(s, c, now_ns);
    }
    bool others = s->telling || (s->roster.complete && s->roster.away);
    if (others && now_ns < s->own_ns)
        return;
    while (s->waiting.first)
        tell_end(s, s->waiting.first, now_ns);
}

/* This process may end, and the server with it, as soon as its own ranks have their answer: they come last. */
static bool is_own(const struct join_message *m)
{
    char host[FRAME_HOST_BYTES] = "";
    if (m->pid != (uint32_t)getpid())
        return false;
    gethostname(host, sizeof(host) - 1);
    return !strcmp(m->host, host);
}

/* A rank whose first connection is still in the list comes on a second one: the first is dead, we just don't know. */
static void replace(struct server *s, const struct conn *by)
{
    for (struct conn *c = s->waiting.first; c; c = c->next) {
        if (c != by && c->rank == by->rank) {
            hang_up(s, c);
            return;
        }
    }
}

static void take_join(struct server *s, struct conn *c, const struct join_message *m,
                      uint64_t now_ns)
{
    struct verdict refusal = {0};
    uint32_t here = s->roster.here;
    c->rank = m->rank;
    c->own = is_own(m);
    switch (roster_join(&s->roster, m, now_ns, &refusal)) {
    case ROSTER_REFUSED:
        verdict_encode(&refusal, s->body);
        tell(s, c, FRAME_ERROR, FRAME_ERROR_BYTES, now_ns);
        return;
    case ROSTER_WAIT:
        c->joined = true;
        move(s, c, CONN_WAITING, now_ns);
        if (here == s->roster.here)
            replace(s, c);
        return;
    case ROSTER_TELL:
        c->joined = true;
        move(s, c, CONN_WAITING, now_ns); /* conn_tell_all follows at the end of this batch */
        return;
    }
}

static void take_frame(struct server *s, struct conn *c, uint16_t type, const uint8_t *body,
                       uint32_t bytes, uint64_t now_ns)
{
    struct join_message m;
    if (type == FRAME_JOIN && join_decode(body, bytes, &m)) {
        take_join(s, c, &m, now_ns);
    } else if (type == FRAME_PROBE && !bytes) {
        put32(s->body, !roster_ended(&s->roster) ? 0 : s->roster.complete ? 1 : 2);
        tell(s, c, FRAME_STATE, 4, now_ns);
    } else {
        drop(s, c, "a first frame that is neither join nor probe", now_ns);
    }
}

void conn_event(struct server *s, struct conn *c, uint64_t now_ns)
{
    uint16_t type;
    const uint8_t *body;
    uint32_t bytes;
    if (c->phase == CONN_DEAD)
        return;
    if (c->phase == CONN_TELLING) {
        enum choir_status st = channel_flush(&c->channel);
        if (st == CHOIR_OK)
            sent(s, c, now_ns);
        else if (st != CHOIR_IN_PROGRESS)
            hang_up(s, c);
        return;
    }
    enum choir_status st = channel_receive(&c->channel, &type, &body, &bytes);
    if (st == CHOIR_IN_PROGRESS) {
        watch(s, c);
    } else if (c->phase == CONN_NEW) {
        if (st)
            drop(s, c, c->channel.why, now_ns);
        else
            take_frame(s, c, type, body, bytes, now_ns);
    } else if (c->phase == CONN_WAITING) {
        bool busy = s->deaf || s->parked || s->unproven > SERVER_BUSY;
        roster_leave(&s->roster, c->rank,
                     now_ns + (busy ? SERVER_BUSY_RETURN_NS : SERVER_RETURN_NS));
        hang_up(s, c);
    } else { /* CLOSING: the end of the connection is what we wait for */
        if (st == CHOIR_ERR_PEER_DEAD && c->joined)
            roster_told(&s->roster, c->rank);
        hang_up(s, c);
    }
}

void conn_expire(struct server *s, uint64_t now_ns)
{
    while (s->timed.first && s->timed.first->deadline_ns <= now_ns) {
        struct conn *c = s->timed.first;
        if (c->phase == CONN_NEW)
            drop(s, c, "it proved nothing in time", now_ns);
        else
            hang_up(s, c);
    }
}

/* Frees descriptors: the longest waiting ranks are told to come back. False: there is none. */
static bool park(struct server *s, uint64_t now_ns)
{
    uint32_t n = 0;
    /* The more are out there, the later each returns, or their knocking would leave no time for anything else. */
    uint32_t ms = SERVER_PARK_MS + s->roster.away / SERVER_RETURNS_PER_MS;
    s->park_ns = ms * UINT64_C(1000000);
    for (; n < 64 && s->waiting.first; n++) {
        struct conn *c = s->waiting.first;
        put32(s->body, ms);
        (void)!channel_send(&c->channel, FRAME_PARK, s->body, 4);
        roster_leave(&s->roster, c->rank, now_ns + s->park_ns + SERVER_BUSY_RETURN_NS);
        hang_up(s, c);
    }
    if (n && !s->parked)
        base_log(
            BASE_WARN, -1,
            "rendezvous of %u ranks has too few descriptors (raise ulimit -Hn): it will be slow",
            s->roster.size);
    s->parked |= n > 0;
    return n;
}

static struct conn *oldest_unproven(struct server *s)
{
    struct conn *c = s->timed.first;
    while (c && c->phase != CONN_NEW)
        c = c->next;
    return c;
}

/* Descriptors, or the patience for the unproven, have run out: the queue of the listening sockets is to wait. */
static void stop_accepting(struct server *s, uint64_t until_ns)
{
    s->accept_after_ns = until_ns;
    server_watch_listeners(s, false);
}

static bool silent_for_long(const struct conn *c, uint64_t now_ns)
{
    return c && c->deadline_ns - SERVER_CONN_NS + SERVER_SILENT_NS <= now_ns;
}

/* accept said that there are no descriptors. */
static void make_room(struct server *s, uint64_t now_ns)
{
    struct conn *old = oldest_unproven(s);
    if (park(s, now_ns))
        return;
    if (silent_for_long(old, now_ns))
        drop(s, old, "no descriptors left, and it had proved nothing", now_ns);
    stop_accepting(s, now_ns + 20000000u);
}

/*
 * A hundred thousand ranks may knock at once. They are let in as fast as they are dealt with: were the oldest dropped for each
 * newcomer, all would come again and none would get through. Only what has been silent for long makes room.
 */
static bool room_for_one(struct server *s, uint64_t now_ns)
{
    if (s->unproven < SERVER_UNPROVEN_MOST)
        return true;
    struct conn *old = oldest_unproven(s);
    if (silent_for_long(old, now_ns)) {
        drop(s, old, "it proved nothing while others waited", now_ns);
        return true;
    }
    stop_accepting(s, now_ns + 5000000u);
    return false;
}

static void welcome(struct server *s, int fd, const struct sockaddr_storage *from, uint64_t now_ns)
{
    struct conn *c = calloc(1, sizeof(*c));
    if (!c || !address_from_socket((const struct sockaddr *)from, &c->from, &c->port) ||
        channel_init(&c->channel, fd, true, s->secret, FRAME_JOIN_MOST)) {
        free(c);
        close(fd);
        return;
    }
    if (s->insecure && !knob_int(KNOB_INSECURE) && !peer_is_same_user(fd))
        c->channel.refuse = CHANNEL_NOT_LOCAL;
    s->unproven++; /* move() takes it back when the phase changes */
    c->phase = CONN_NEW;
    c->deadline_ns = now_ns + SERVER_CONN_NS;
    list_add(&s->timed, c);
    c->events = EPOLLIN;
    struct epoll_event e = {.events = c->events, .data.ptr = c};
    if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e))
        hang_up(s, c);
}

void conn_accept(struct server *s, int listener, uint64_t now_ns)
{
    for (int i = 0; i < 64 && now_ns >= s->accept_after_ns && room_for_one(s, now_ns); i++) {
        struct sockaddr_storage from;
        socklen_t length = sizeof(from);
        int fd = accept4(listener, (struct sockaddr *)&from, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            welcome(s, fd, &from, now_ns);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            make_room(s, now_ns);
        else if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}
