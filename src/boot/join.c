/* SPDX-License-Identifier: Apache-2.0 */
/*
 * join.c: the joining side: state one's rank to the server that hunt.c found, wait for the verdict. A connection that breaks
 * while waiting is made again, and the token tells the server that it is still us.
 */
#include "boot/join.h"
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <unistd.h>

#define VERDICT_NS 150000000u /* after the deadline, for the server to say who is missing */
#define SPREAD_FROM 2048
#define SPREAD_NS 25000u /* a rank each */
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

static void join_free(struct boot_join *j)
{
    pthread_mutex_lock(&list_lock);
    for (struct boot_join **p = &list; *p; p = &(*p)->next) {
        if (*p == j) {
            *p = j->next;
            break;
        }
    }
    hunt_close(j);
    if (j->phase == JOIN_WAITING)
        channel_free(&j->channel);
    pthread_mutex_unlock(&list_lock);
    free(j->target);
    free(j->blob);
    sodium_memzero(j, sizeof(*j));
    free(j);
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
    if (s == CHOIR_OK && type == FRAME_STATE && j->probe && bytes == 4)
        return get32(body) ? CHOIR_ERR_STATE : CHOIR_OK; /* 0: still open */
    if (s == CHOIR_OK && (type != FRAME_PARK || bytes != 4))
        return bad_answer(j);
    uint64_t park_ns = s == CHOIR_OK ? (uint64_t)base_min(get32(body), 60000u) * 1000000u : 0;
    channel_free(&j->channel);
    hunt_begin_round(j, now);
    if (s == CHOIR_OK)
        j->next_ns = now + park_ns, j->rounds = 0;
    return CHOIR_IN_PROGRESS;
}

static enum choir_status too_late(struct boot_join *j)
{
    char text[180];
    double waited = (double)(j->deadline_ns - j->begun_ns) * 1e-9;
    if (j->phase == JOIN_WAITING)
        return base_fail(CHOIR_ERR_TIMEOUT, "look at the process that made the id",
                         "rank %u joined, but the rendezvous server did not answer within %.3g s",
                         j->rank, waited);
    enum choir_status s = hunt_refused(j);
    if (s)
        return s;
    hunt_tried(j, text, sizeof(text));
    return base_fail(CHOIR_ERR_TIMEOUT,
                     "see whether rank 0 runs and can be reached from here (CHOIR_SOCKET_IFNAME, "
                     "CHOIR_PORT_RANGE, firewall); CHOIR_CREATE_TIMEOUT sets the time",
                     "rank %u of %u reached no rendezvous server within %.3g s: %s", j->rank,
                     j->size, waited, text);
}

static enum choir_status hunting(struct boot_join *j, uint64_t now)
{
    enum choir_status s = hunt_step(j, now);
    if (j->phase == JOIN_WAITING)
        (void)!say_who(j, now); /* a failure shows at the next read */
    else if (s == CHOIR_IN_PROGRESS && j->probe && j->rounds)
        return CHOIR_ERR_TIMEOUT; /* a probe asks once; its caller reports nothing */
    return s;
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
        s = hunting(j, now);
    uint64_t grace = j->phase == JOIN_WAITING ? VERDICT_NS : 0;
    if (s == CHOIR_IN_PROGRESS && now >= j->deadline_ns + grace)
        s = j->probe ? CHOIR_ERR_TIMEOUT : too_late(j);
    if (s != CHOIR_IN_PROGRESS)
        join_free(j);
    return s;
}

void boot_join_wait(struct boot_join *j, uint64_t until_ns)
{
    struct pollfd p[JOIN_SLOTS];
    nfds_t n = 1;
    uint64_t wake = base_min(until_ns, j->deadline_ns);
    if (j->phase == JOIN_WAITING) {
        wake = base_min(until_ns, j->deadline_ns + VERDICT_NS);
        p[0].fd = j->channel.fd;
        p[0].events = (short)(POLLIN | (channel_wants_write(&j->channel) ? POLLOUT : 0));
    } else {
        n = hunt_poll(j, p, &wake);
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

static enum choir_status join_open(const struct choir_id *id, uint64_t deadline_ns,
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
    /* Ranks of a large job start together. A server's queue of connections (net.core.somaxconn, 4096) takes no more, and what it
     * drops comes again after seconds, so they knock no faster than it can answer. */
    if (size > SPREAD_FROM)
        j->next_ns = j->begun_ns + randombytes_uniform(size) * (uint64_t)SPREAD_NS;
    *join = j;
    return CHOIR_OK;
}

bool join_probe(const struct choir_id *id, uint64_t deadline_ns)
{
    struct boot_join *j;
    struct boot_peers none;
    struct choir_error before = *base_error_thread();
    enum choir_status s = boot_begin();
    s = s ? s : join_open(id, deadline_ns, &j);
    if (!s) {
        j->probe = true;
        while ((s = boot_join_test(j, &none)) == CHOIR_IN_PROGRESS)
            boot_join_wait(j, UINT64_MAX);
    }
    *base_error_thread() = before;
    return s == CHOIR_OK;
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
        hunt_close(j);
        if (j->phase == JOIN_WAITING)
            channel_free(&j->channel);
        j->phase = JOIN_CONNECTING;
        j->forked = true;
        sodium_memzero(&j->id, sizeof(j->id));
    }
    pthread_mutex_unlock(&list_lock);
}
