/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hunt.c: finding the server among an id's addresses. They are tried in the id's order, the next one as soon as one has
 * failed or has kept us waiting, at most JOIN_SLOTS at a time (compare RFC 8305, "Happy Eyeballs"); the first that proves
 * the secret wins. When all have failed there is a pause, and a judgement whether to go on.
 */
#include "boot/join.h"
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define STAGGER_NS                                                                                 \
    200000000u /* how long one address is waited for before the next is tried beside it */
#define CONNECT_NS 4000000000u /* covers two lost SYNs */
#define ANSWER_NS                                                                                  \
    2000000000u /* the same, once it has accepted the connection: a busy server is not asked twice */
#define HANDSHAKE_NS 20000000000u /* a server that 100,000 ranks ask at once needs seconds */
#define ROUND_FIRST_NS 20000000u  /* pause after all addresses have failed; doubles */
#define ROUND_MOST_NS 500000000u
#define GONE_NS 2000000000u /* refused everywhere so long, though it listened once: it is gone */
#define REFUSED_LATE_NS 10000000000u
#define REFUSED_ROUNDS 3 /* so often in a row that a refusal in clear is believed */

static void slot_close(struct join_slot *slot)
{
    if (slot->phase == SLOT_CONNECTING)
        close(slot->fd);
    else if (slot->phase == SLOT_HANDSHAKE)
        channel_free(&slot->channel);
    slot->phase = SLOT_FREE;
}

void hunt_close(struct boot_join *j)
{
    for (int i = 0; i < JOIN_SLOTS; i++)
        slot_close(&j->slot[i]);
}

static void target_address(const struct boot_join *j, uint32_t target, const struct address **a,
                           uint16_t *port)
{
    *a = &j->id.address[target % j->id.count];
    *port = (uint16_t)(j->id.port + target / j->id.count);
}

static void slot_failed(struct boot_join *j, struct join_slot *slot, int sys_errno, const char *why,
                        uint8_t reason)
{
    struct join_target *t = &j->target[slot->target];
    *t = (struct join_target){.sys_errno = sys_errno,
                              .why = why,
                              .reason = reason,
                              .refusal = reason ? reason : t->refusal};
    if (slot->phase == SLOT_HANDSHAKE && reason == CHANNEL_OTHER_VERSION)
        j->other_version = slot->channel.peer_version;
    slot_close(slot);
}

static void slot_start(struct boot_join *j, struct join_slot *slot, uint32_t target, uint64_t now)
{
    const struct address *a;
    struct sockaddr_storage to;
    uint16_t port;
    target_address(j, target, &a, &port);
    socklen_t length = address_to_socket(a, port, &to);
    slot->target = target;
    slot->started_ns = now;
    j->target[target].why = "no answer";
    j->target[target].sys_errno = 0;
    slot->fd = socket(a->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (slot->fd < 0) {
        slot_failed(j, slot, errno, NULL, 0);
        return;
    }
    slot->phase = SLOT_CONNECTING;
    socket_tune(slot->fd);
    if (connect(slot->fd, (struct sockaddr *)&to, length) && errno != EINPROGRESS)
        slot_failed(j, slot, errno, NULL, 0);
}

/* Connected, failed, or neither yet. */
static void slot_connect(struct boot_join *j, struct join_slot *slot, uint64_t now)
{
    struct pollfd p = {.fd = slot->fd, .events = POLLOUT};
    int error = 0;
    socklen_t length = sizeof(error);
    if (poll(&p, 1, 0) == 1) {
        getsockopt(slot->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) {
            slot_failed(j, slot, error, NULL, 0);
            return;
        }
        int fd = slot->fd;
        slot->phase = SLOT_HANDSHAKE;
        slot->started_ns = now;
        j->next_ns = now + ANSWER_NS;
        if (channel_init(&slot->channel, fd, false, j->id.secret, FRAME_WELCOME_MOST))
            slot_failed(j, slot, ENOMEM, NULL, 0);
    } else if (now - slot->started_ns > CONNECT_NS) {
        slot_failed(j, slot, ETIMEDOUT, NULL, 0);
    }
}

static void slot_handshake(struct boot_join *j, struct join_slot *slot, uint64_t now)
{
    uint16_t type;
    const uint8_t *body;
    uint32_t bytes;
    struct channel *c = &slot->channel;
    enum choir_status s = channel_receive(c, &type, &body, &bytes);
    if (c->open && (s == CHOIR_IN_PROGRESS || s == CHOIR_OK)) {
        j->channel = *c;
        j->server = slot->target;
        slot->phase = SLOT_FREE;
        hunt_close(j);
        j->phase = JOIN_WAITING;
    } else if (s != CHOIR_IN_PROGRESS) {
        slot_failed(j, slot, c->sys_errno, c->why, c->reason);
    } else if (now - slot->started_ns > HANDSHAKE_NS) {
        slot_failed(j, slot, 0, "something accepts connections there but does not answer", 0);
    }
}

void hunt_begin_round(struct boot_join *j, uint64_t now)
{
    uint64_t pause = base_min(ROUND_FIRST_NS << base_min(j->rounds, 8u), (uint64_t)ROUND_MOST_NS);
    j->next_ns = now + pause / 2 + randombytes_uniform((uint32_t)pause / 2 + 1);
    j->cursor = 0;
    j->rounds++;
    j->phase = JOIN_CONNECTING;
}

static const char *target_why(const struct join_target *t)
{
    static const char *const reasons[CHANNEL_REASONS] = {
        "", "another version of the library answers", "it serves another id or secret",
        "it lets in only loopback connections of its own user"};
    return t->refusal ? reasons[t->refusal] : t->why ? t->why : strerrordesc_np(t->sys_errno);
}

/* The port of address i whose failure says most: any answer beats "refused". */
static uint32_t telling_target(const struct boot_join *j, uint32_t i)
{
    uint32_t t = i;
    for (uint32_t k = i; k < j->targets; k += j->id.count)
        if (j->target[k].refusal || (j->target[k].why && !j->target[t].refusal))
            t = k;
    return t;
}

void hunt_tried(const struct boot_join *j, char *text, size_t bytes)
{
    size_t at = 0;
    const char *last = NULL;
    text[0] = 0;
    for (uint32_t i = 0; i < j->id.count && at + 1 < bytes; i++) {
        const struct address *a;
        char name[ADDRESS_TEXT], more[16] = "";
        uint16_t port;
        uint32_t t = telling_target(j, i);
        const char *why = target_why(&j->target[t]);
        target_address(j, t, &a, &port);
        if (j->id.ports > 1 && t == i)
            snprintf(more, sizeof(more), "-%u", j->id.port + j->id.ports - 1u);
        bool same = last && !strcmp(last, why);
        if (last)
            at += (size_t)snprintf(text + at, bytes - at, same ? ", " : " %s; ", last);
        at = base_min(at, bytes - 1);
        at += (size_t)snprintf(text + at, bytes - at, "%s%s", address_text(a, port, name), more);
        at = base_min(at, bytes - 1);
        last = why;
    }
    snprintf(text + at, bytes - at, " %s", last);
}

static enum choir_status fail_refused(const struct boot_join *j, uint8_t reason)
{
    char text[200];
    hunt_tried(j, text, sizeof(text));
    if (reason == CHANNEL_OTHER_VERSION)
        return base_fail(CHOIR_ERR_ARGUMENT, "run the same version of the library on all ranks",
                         "rank %u speaks rendezvous protocol %u, the server %u: %s", j->rank,
                         CHANNEL_VERSION, j->other_version, text);
    if (reason == CHANNEL_NOT_LOCAL)
        return base_fail(CHOIR_ERR_AUTH,
                         "set CHOIR_SECRET or CHOIR_SECRET_FILE to the same value on all ranks "
                         "(or CHOIR_INSECURE=1 to go without)",
                         "rank %u was not let in, because no secret was set: %s", j->rank, text);
    return base_fail(CHOIR_ERR_AUTH,
                     "give all ranks the same id, fresh for every communicator, or the same "
                     "CHOIR_SECRET",
                     "rank %u was not let in: %s", j->rank, text);
}

static uint8_t any_refusal(const struct boot_join *j)
{
    uint8_t reason = 0;
    for (uint32_t i = 0; i < j->targets; i++)
        reason = j->target[i].reason ? j->target[i].reason : reason;
    return reason;
}

enum choir_status hunt_refused(const struct boot_join *j)
{
    uint8_t refusal = 0;
    for (uint32_t i = 0; i < j->targets; i++)
        refusal = base_max(refusal, j->target[i].refusal);
    /* On a range of ports a foreign server is not the one we look for. */
    return refusal == CHANNEL_NOT_LOCAL || (refusal && j->id.ports == 1) ? fail_refused(j, refusal)
                                                                         : CHOIR_OK;
}

/* Whether a refusal, which anybody can send, has come often enough to be believed. A server that is still to come may find an
 * earlier job's in its place for a while; on a range of ports other jobs' servers are met as a matter of course. */
static bool refusal_stands(const struct boot_join *j, uint64_t now)
{
    return j->refused_rounds >= REFUSED_ROUNDS && j->id.ports == 1 &&
           (!j->id.maybe_late || now - j->refused_ns >= REFUSED_LATE_NS);
}

/* All addresses have failed: is there any sense in going on? */
static enum choir_status judge_round(struct boot_join *j, uint64_t now)
{
    uint8_t reason = any_refusal(j);
    bool all_refused = true;
    for (uint32_t i = 0; i < j->targets; i++)
        all_refused &= j->target[i].sys_errno == ECONNREFUSED;
    j->refused_rounds = reason ? j->refused_rounds + 1 : 0;
    j->refused_ns = j->refused_rounds > 1 ? j->refused_ns : now;
    if (reason && refusal_stands(j, now))
        return fail_refused(j, reason);
    if (!all_refused)
        j->refused_since_ns = 0;
    else if (!j->refused_since_ns)
        j->refused_since_ns = now;
    if (all_refused && !j->id.maybe_late && now - j->refused_since_ns >= GONE_NS) {
        char text[160];
        hunt_tried(j, text, sizeof(text));
        return base_fail(CHOIR_ERR_NETWORK,
                         "make a new id for every communicator, and keep the process that made it "
                         "running until all ranks have joined",
                         "the process that made the id is gone, or the id was used already: %s",
                         text);
    }
    hunt_begin_round(j, now);
    return CHOIR_IN_PROGRESS;
}

enum choir_status hunt_step(struct boot_join *j, uint64_t now)
{
    int active = 0;
    for (int i = 0; i < JOIN_SLOTS && j->phase == JOIN_CONNECTING; i++) {
        struct join_slot *slot = &j->slot[i];
        if (slot->phase == SLOT_CONNECTING)
            slot_connect(j, slot, now);
        if (slot->phase == SLOT_HANDSHAKE)
            slot_handshake(j, slot, now);
        active += slot->phase != SLOT_FREE;
    }
    for (int i = 0; i < JOIN_SLOTS && j->phase == JOIN_CONNECTING; i++) {
        while (j->cursor < j->targets && j->slot[i].phase == SLOT_FREE &&
               (now >= j->next_ns || (!active && j->cursor))) {
            /* the one that answered last time goes first */
            uint32_t target = (j->server + j->cursor++) % j->targets;
            slot_start(j, &j->slot[i], target, now);
            if (j->slot[i].phase != SLOT_FREE)
                active++, j->next_ns = now + STAGGER_NS;
        }
    }
    if (j->phase == JOIN_CONNECTING && !active && j->cursor == j->targets)
        return judge_round(j, now);
    return CHOIR_IN_PROGRESS;
}

uint32_t hunt_poll(const struct boot_join *j, struct pollfd p[JOIN_SLOTS], uint64_t *wake_ns)
{
    uint32_t n = 0;
    for (int i = 0; i < JOIN_SLOTS; i++) {
        const struct join_slot *slot = &j->slot[i];
        if (slot->phase == SLOT_FREE)
            continue;
        bool out = slot->phase == SLOT_CONNECTING || channel_wants_write(&slot->channel);
        p[n].fd = slot->phase == SLOT_CONNECTING ? slot->fd : slot->channel.fd;
        p[n++].events = out ? POLLOUT : POLLIN;
        uint64_t patience = slot->phase == SLOT_CONNECTING ? CONNECT_NS : HANDSHAKE_NS;
        *wake_ns = base_min(*wake_ns, slot->started_ns + patience);
    }
    if (j->cursor < j->targets && n < JOIN_SLOTS)
        *wake_ns = base_min(*wake_ns, j->next_ns);
    return n;
}
