/* SPDX-License-Identifier: Apache-2.0 */
/*
 * join.c: the joining side: find the server among an id's addresses, state one's rank, wait for the verdict.
 *
 * Addresses are tried in the id's order, the next one as soon as one has failed or has kept us waiting, at most
 * SLOTS at a time (compare RFC 8305, "Happy Eyeballs"); the first that proves the secret wins. A connection that
 * breaks later is made again, and the token tells the server that it is still us.
 */
#include "boot/join.h"
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define STAGGER_NS                                                                                 \
    200000000u /* how long one address is waited for before the next is tried beside it */
#define CONNECT_NS 4000000000u   /* covers two lost SYNs */
#define HANDSHAKE_NS 8000000000u /* a server that 100,000 ranks ask at once needs seconds */
#define ROUND_FIRST_NS 20000000u /* pause after all addresses have failed; doubles */
#define ROUND_MOST_NS 500000000u
#define VERDICT_NS 150000000u /* after the deadline, for the server to say who is missing */
#define GONE_NS 2000000000u   /* refused everywhere so long, though it listened once: it is gone */
#define REFUSED_ROUNDS 3      /* so often in a row that a refusal in clear is believed */
#define USED_MOST 256

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct boot_join *list;
static struct {
    unsigned char name[16];
    uint32_t rank;
} used[USED_MOST]; /* ids this process has joined, the latest ones; under list_lock */
static uint32_t used_count;

static bool was_used(const unsigned char name[16], uint32_t rank)
{
    bool found = false;
    pthread_mutex_lock(&list_lock);
    for (uint32_t i = 0; i < base_min(used_count, (uint32_t)USED_MOST); i++)
        found |= used[i].rank == rank && !memcmp(used[i].name, name, 16);
    pthread_mutex_unlock(&list_lock);
    return found;
}

static void note_used(const unsigned char name[16], uint32_t rank)
{
    pthread_mutex_lock(&list_lock);
    memcpy(used[used_count % USED_MOST].name, name, 16);
    used[used_count++ % USED_MOST].rank = rank;
    pthread_mutex_unlock(&list_lock);
}

static void slot_close(struct join_slot *slot)
{
    if (slot->phase == SLOT_CONNECTING)
        close(slot->fd);
    else if (slot->phase == SLOT_HANDSHAKE)
        channel_free(&slot->channel);
    slot->phase = SLOT_FREE;
}

static void join_free(struct boot_join *j)
{
    pthread_mutex_lock(&list_lock);
    for (struct boot_join **p = &list; *p; p = &(*p)->next) {
        if (*p == j) {
            *p = j->next;
            break;
        }
    }
    for (int i = 0; i < JOIN_SLOTS; i++)
        slot_close(&j->slot[i]);
    if (j->phase == JOIN_WAITING)
        channel_free(&j->channel);
    pthread_mutex_unlock(&list_lock);
    free(j->target);
    free(j->blob);
    sodium_memzero(j, sizeof(*j));
    free(j);
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
    *t = (struct join_target){.sys_errno = sys_errno, .why = why, .reason = reason};
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
        if (channel_init(&slot->channel, fd, false, j->id.secret, FRAME_WELCOME_MOST))
            slot_failed(j, slot, ENOMEM, NULL, 0);
    } else if (now - slot->started_ns > CONNECT_NS) {
        slot_failed(j, slot, ETIMEDOUT, NULL, 0);
    }
}

/* The first frame proves us to the server. */
static enum choir_status say_who(struct boot_join *j, uint64_t now)
{
    uint8_t body[FRAME_JOIN_MOST];
    struct join_message m = {.version = choir_version(),
                             .size = j->size,
                             .rank = j->rank,
                             .bytes = j->bytes,
                             .pid = (uint32_t)getpid(),
                             .remaining_ns = j->deadline_ns > now ? j->deadline_ns - now : 0,
                             .address = j->blob};
    memcpy(m.token, j->token, 16);
    gethostname(m.host, sizeof(m.host) - 1);
    uint32_t bytes = j->probe ? 0 : join_encode(&m, body);
    return channel_send(&j->channel, j->probe ? FRAME_PROBE : FRAME_JOIN, body, bytes);
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
        for (int i = 0; i < JOIN_SLOTS; i++)
            slot_close(&j->slot[i]);
        j->phase = JOIN_WAITING;
        (void)!say_who(j, now); /* a failure shows at the next read */
    } else if (s != CHOIR_IN_PROGRESS) {
        slot_failed(j, slot, c->sys_errno, c->why, c->reason);
    } else if (now - slot->started_ns > HANDSHAKE_NS) {
        slot_failed(j, slot, 0, "something accepts connections there but does not answer", 0);
    }
}

/* After this pause all addresses are tried again. */
static void begin_round(struct boot_join *j, uint64_t now)
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
    return t->reason ? reasons[t->reason] : t->why ? t->why : strerrordesc_np(t->sys_errno);
}

/* The port of address i whose failure says most: any answer beats "refused". */
static uint32_t telling_target(const struct boot_join *j, uint32_t i)
{
    uint32_t t = i;
    for (uint32_t k = i; k < j->targets; k += j->id.count)
        if (j->target[k].reason || (j->target[k].why && !j->target[t].reason))
            t = k;
    return t;
}

/* "10.0.0.1:70, [fd00::1]:70 connection refused; 127.0.0.1:70 ...": what was tried and what came of it. */
static void tried(const struct boot_join *j, char *text, size_t bytes)
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
    tried(j, text, sizeof(text));
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

/* All addresses have failed: is there any sense in going on? */
static enum choir_status judge_round(struct boot_join *j, uint64_t now)
{
    uint8_t reason = 0;
    bool all_refused = true;
    for (uint32_t i = 0; i < j->targets; i++) {
        reason = j->target[i].reason ? j->target[i].reason : reason;
        all_refused &= j->target[i].sys_errno == ECONNREFUSED;
    }
    /* On a range of ports other jobs' servers are met as a matter of course, while ours is still to come. */
    j->refused_rounds = reason ? j->refused_rounds + 1 : 0;
    if (reason && j->refused_rounds >= REFUSED_ROUNDS && j->id.ports == 1)
        return fail_refused(j, reason);
    if (!all_refused)
        j->refused_since_ns = 0;
    else if (!j->refused_since_ns)
        j->refused_since_ns = now;
    if (all_refused && !j->id.maybe_late && now - j->refused_since_ns >= GONE_NS) {
        char text[160];
        tried(j, text, sizeof(text));
        return base_fail(CHOIR_ERR_NETWORK,
                         "make a new id for every communicator, and keep the process that made it "
                         "running until all ranks have joined",
                         "the process that made the id is gone, or the id was used already: %s",
                         text);
    }
    begin_round(j, now);
    return CHOIR_IN_PROGRESS;
}

static enum choir_status connecting(struct boot_join *j, uint64_t now)
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

static enum choir_status bad_answer(const struct boot_join *j)
{
    return base_fail(CHOIR_ERR_PROTOCOL, "run the same version of the library on all ranks",
                     "rank %u got an answer from the rendezvous server that makes no sense",
                     j->rank);
}

static enum choir_status take_welcome(struct boot_join *j, const uint8_t *body, uint32_t bytes,
                                      struct boot_peers *peers)
{
    uint32_t count = bytes >= 16 ? get32(body + 12) : UINT32_MAX, at = 16;
    if (count > BOOT_FANOUT + 1 || get32(body + 8) != j->size)
        return bad_answer(j);
    struct boot_peer *peer = malloc(count * sizeof(*peer) + bytes);
    if (!peer)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "out of memory");
    uint8_t *copy = (uint8_t *)(peer + count);
    memcpy(copy, body, bytes);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t left = bytes - at;
        if (left < 8 || get32(copy + at + 4) > left - 8 || get32(copy + at) >= j->size) {
            free(peer);
            return bad_answer(j);
        }
        peer[i] = (struct boot_peer){get32(copy + at), get32(copy + at + 4), copy + at + 8};
        at += 8 + peer[i].bytes;
    }
    *peers = (struct boot_peers){.nonce = get64(copy), .count = count, .peer = peer};
    note_used(j->name, j->rank);
    return CHOIR_OK;
}

void boot_peers_free(struct boot_peers *peers)
{
    free(peers->peer); /* the addresses lie behind the array */
    *peers = (struct boot_peers){0};
}

static enum choir_status take_error(struct boot_join *j, const uint8_t *body, uint32_t bytes)
{
    struct verdict v;
    if (!verdict_decode(body, bytes, &v))
        return bad_answer(j);
    /* Not base_fail: the server has logged it, and once is enough for all ranks. */
    struct choir_error *e = base_error_thread();
    *e = (struct choir_error){
        .bytes = sizeof(*e), .status = v.status, .rank = (int32_t)j->rank, .peer = v.peer};
    memcpy(e->text, v.text, sizeof(e->text));
    memcpy(e->remedy, v.remedy, sizeof(e->remedy));
    return v.status;
}

static enum choir_status waiting(struct boot_join *j, struct boot_peers *peers, uint64_t now)
{
    uint16_t type;
    const uint8_t *body;
    uint32_t bytes;
    enum choir_status s = channel_flush(&j->channel);
    if (s == CHOIR_OK)
        s = channel_receive(&j->channel, &type, &body, &bytes);
    if (s == CHOIR_IN_PROGRESS)
        return s;
    if (s == CHOIR_OK && type == FRAME_WELCOME && !j->probe)
        return take_welcome(j, body, bytes, peers);
    if (s == CHOIR_OK && type == FRAME_ERROR)
        return take_error(j, body, bytes);
    if (s == CHOIR_OK && type == FRAME_STATE && j->probe && bytes == 4) {
        j->state = get32(body);
        return CHOIR_OK;
    }
    if (s == CHOIR_OK && (type != FRAME_PARK || bytes != 4))
        return bad_answer(j);
    uint64_t park_ns = s == CHOIR_OK ? (uint64_t)base_min(get32(body), 60000u) * 1000000u : 0;
    channel_free(&j->channel);
    begin_round(j, now);
    if (s == CHOIR_OK)
        j->next_ns = now + park_ns, j->rounds = 0;
    return CHOIR_IN_PROGRESS;
}

static enum choir_status too_late(struct boot_join *j)
{
    char text[180];
    double waited = (double)(j->deadline_ns - j->begun_ns) * 1e-9;
    tried(j, text, sizeof(text));
    if (j->phase == JOIN_WAITING)
        return base_fail(CHOIR_ERR_TIMEOUT, "look at the process that made the id",
                         "rank %u joined, but the rendezvous server did not answer within %.3g s",
                         j->rank, waited);
    return base_fail(CHOIR_ERR_TIMEOUT,
                     "see whether rank 0 runs and can be reached from here (CHOIR_SOCKET_IFNAME, "
                     "CHOIR_PORT_RANGE, firewall); CHOIR_CREATE_TIMEOUT sets the time",
                     "rank %u of %u reached no rendezvous server within %.3g s: %s", j->rank,
                     j->size, waited, text);
}

enum choir_status boot_join_test(struct boot_join *j, struct boot_peers *peers)
{
    uint64_t now = base_now_ns();
    enum choir_status s;
    if (j->forked)
        s = base_fail(CHOIR_ERR_FORKED, "create communicators after fork, or use exec",
                      "this process was forked while the communicator was being created");
    else if (j->phase == JOIN_WAITING)
        s = waiting(j, peers, now);
    else
        s = connecting(j, now);
    uint64_t grace = j->phase == JOIN_WAITING ? VERDICT_NS : 0;
    if (s == CHOIR_IN_PROGRESS && now >= j->deadline_ns + grace)
        s = too_late(j);
    if (s != CHOIR_IN_PROGRESS)
        join_free(j);
    return s;
}

void boot_join_wait(struct boot_join *j, uint64_t until_ns)
{
    struct pollfd p[JOIN_SLOTS];
    nfds_t n = 0;
    uint64_t wake =
        base_min(until_ns, j->deadline_ns + (j->phase == JOIN_WAITING ? VERDICT_NS : 0));
    if (j->phase == JOIN_WAITING) {
        p[n].fd = j->channel.fd;
        p[n++].events = (short)(POLLIN | (channel_wants_write(&j->channel) ? POLLOUT : 0));
    } else {
        for (int i = 0; i < JOIN_SLOTS; i++) {
            const struct join_slot *slot = &j->slot[i];
            if (slot->phase == SLOT_FREE)
                continue;
            bool out = slot->phase == SLOT_CONNECTING || channel_wants_write(&slot->channel);
            p[n].fd = slot->phase == SLOT_CONNECTING ? slot->fd : slot->channel.fd;
            p[n++].events = (short)(out ? POLLOUT : POLLIN);
            wake = base_min(wake, slot->started_ns + CONNECT_NS);
        }
        if (j->cursor < j->targets && n < JOIN_SLOTS)
            wake = base_min(wake, j->next_ns);
    }
    uint64_t now = base_now_ns();
    if (!j->forked && wake > now)
        poll(p, n, (int)base_min((wake - now + 999999u) / 1000000u, (uint64_t)60000));
}

void boot_join_cancel(struct boot_join *join)
{
    if (join)
        join_free(join);
}

enum choir_status join_open(const struct choir_id *id, uint64_t deadline_ns,
                            struct boot_join **join)
{
    struct boot_join *j = calloc(1, sizeof(*j));
    if (!j)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "out of memory");
    enum choir_status s = id_view(id, &j->id);
    if (s)
        goto err_free;
    j->targets = j->id.count * j->id.ports;
    j->target = calloc(j->targets, sizeof(*j->target));
    if (!j->target) {
        s = base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "out of memory");
        goto err_free;
    }
    for (uint32_t i = 0; i < j->targets; i++)
        j->target[i].why = "not tried yet";
    boot_secret_name(j->id.secret, j->name);
    randombytes_buf(j->token, sizeof(j->token));
    j->deadline_ns = base_min(deadline_ns, UINT64_MAX / 4);
    j->begun_ns = base_now_ns();
    pthread_mutex_lock(&list_lock);
    j->next = list;
    list = j;
    pthread_mutex_unlock(&list_lock);
    *join = j;
    return CHOIR_OK;
err_free:
    sodium_memzero(j, sizeof(*j));
    free(j);
    return s;
}

static enum choir_status check(uint32_t rank, uint32_t size, const void *address, uint32_t bytes)
{
    if (!size || size > ROSTER_SIZE_MOST)
        return base_fail(CHOIR_ERR_ARGUMENT, "pass a size from 1 to 2^24", "size is %u", size);
    if (rank >= size)
        return base_fail(CHOIR_ERR_RANK, "pass a rank from 0 to size-1", "rank is %u of %u", rank,
                         size);
    if (bytes > BOOT_ADDRESS_MOST || (bytes && !address))
        return base_fail(CHOIR_ERR_ARGUMENT, "report this as a bug of the library",
                         "the address blob has %u bytes, at most %u fit", bytes, BOOT_ADDRESS_MOST);
    return CHOIR_OK;
}

enum choir_status boot_join_start(const struct choir_id *id, uint32_t rank, uint32_t size,
                                  const void *address, uint32_t bytes, uint64_t deadline_ns,
                                  struct boot_join **join)
{
    struct boot_join *j;
    enum choir_status s = boot_begin();
    s = s ? s : check(rank, size, address, bytes);
    s = s ? s : join_open(id, deadline_ns, &j);
    if (s)
        return s;
    j->rank = rank;
    j->size = size;
    j->bytes = bytes;
    j->blob = malloc(base_max(bytes, 1u));
    if (!j->blob) {
        s = base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "out of memory");
    } else if (was_used(j->name, rank)) {
        s = base_fail(CHOIR_ERR_STATE, "make a new id for every communicator",
                      "rank %u has already joined with this id; an id serves once", rank);
    }
    if (s) {
        join_free(j);
        return s;
    }
    if (bytes)
        memcpy(j->blob, address, bytes);
    *join = j;
    return CHOIR_OK;
}

void join_fork_prepare(void)
{
    pthread_mutex_lock(&list_lock);
}

void join_fork_parent(void)
{
    pthread_mutex_unlock(&list_lock);
}

/* The joins stay allocated: whoever holds one learns from boot_join_test. */
void join_fork_child(void)
{
    for (struct boot_join *j = list; j; j = j->next) {
        for (int i = 0; i < JOIN_SLOTS; i++)
            slot_close(&j->slot[i]);
        if (j->phase == JOIN_WAITING)
            channel_free(&j->channel);
        j->phase = JOIN_CONNECTING;
        j->forked = true;
        sodium_memzero(&j->id, sizeof(j->id));
    }
    pthread_mutex_unlock(&list_lock);
}
