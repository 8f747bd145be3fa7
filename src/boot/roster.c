/* SPDX-License-Identifier: Apache-2.0 */
/* roster.c: see roster.h. */
#include "boot/roster.h"
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

uint32_t join_encode(const struct join_message *m, uint8_t *body)
{
    memset(body, 0, FRAME_JOIN_BYTES);
    put32(body, m->version);
    put32(body + 4, m->size);
    put32(body + 8, m->rank);
    put32(body + 12, m->bytes);
    put64(body + 16, m->remaining_ns);
    put32(body + 24, m->pid);
    memcpy(body + 32, m->token, 16);
    memcpy(body + 48, m->host, FRAME_HOST_BYTES);
    if (m->bytes)
        memcpy(body + FRAME_JOIN_BYTES, m->address, m->bytes);
    return FRAME_JOIN_BYTES + m->bytes;
}

bool join_decode(const uint8_t *body, uint32_t bytes, struct join_message *m)
{
    if (bytes < FRAME_JOIN_BYTES || get32(body + 12) != bytes - FRAME_JOIN_BYTES ||
        bytes > FRAME_JOIN_MOST)
        return false;
    *m = (struct join_message){.version = get32(body),
                               .size = get32(body + 4),
                               .rank = get32(body + 8),
                               .bytes = get32(body + 12),
                               .remaining_ns = get64(body + 16),
                               .pid = get32(body + 24),
                               .address = body + FRAME_JOIN_BYTES};
    memcpy(m->token, body + 32, 16);
    memcpy(m->host, body + 48, FRAME_HOST_BYTES);
    m->host[FRAME_HOST_BYTES - 1] = 0;
    for (char *p = m->host; *p; p++)
        if (*p < ' ' || *p > '~')
            *p = '?'; /* it will stand in logs */
    return true;
}

void verdict_encode(const struct verdict *v, uint8_t body[FRAME_ERROR_BYTES])
{
    memset(body, 0, FRAME_ERROR_BYTES);
    put32(body, (uint32_t)v->status);
    put32(body + 4, (uint32_t)v->peer);
    memcpy(body + 16, v->text, sizeof(v->text));
    memcpy(body + 272, v->remedy, sizeof(v->remedy));
}

bool verdict_decode(const uint8_t *body, uint32_t bytes, struct verdict *v)
{
    if (bytes != FRAME_ERROR_BYTES || (int32_t)get32(body) >= 0)
        return false;
    v->status = (enum choir_status)(int32_t)get32(body);
    v->peer = (int32_t)get32(body + 4);
    memcpy(v->text, body + 16, sizeof(v->text));
    memcpy(v->remedy, body + 272, sizeof(v->remedy));
    v->text[sizeof(v->text) - 1] = v->remedy[sizeof(v->remedy) - 1] = 0;
    return true;
}

uint32_t roster_missing(const struct roster *r, char *text, size_t bytes)
{
    /* Room is kept for the tail, so that a list that is too long says how much of it is left out. */
    size_t tail = 40, at = 0;
    uint32_t first = r->size, left_out = 0, count = r->size - r->here;
    at += (size_t)snprintf(text, bytes, count == 1 ? "rank " : "ranks ");
    for (uint32_t i = 0, end; i < r->size; i = end) {
        end = i + 1;
        if (r->member[i].state != MEMBER_ABSENT)
            continue;
        while (end < r->size && r->member[end].state == MEMBER_ABSENT)
            end++;
        const char *comma = first < r->size ? ", " : "";
        first = base_min(first, i);
        if (left_out || at + tail + 24 > bytes)
            left_out += end - i;
        else if (end - i == 1)
            at += (size_t)snprintf(text + at, bytes - at, "%s%u", comma, i);
        else
            at += (size_t)snprintf(text + at, bytes - at, "%s%u-%u", comma, i, end - 1);
    }
    if (left_out)
        at += (size_t)snprintf(text + at, bytes - at, " and %u more", left_out);
    snprintf(text + at, bytes - at, " of %u", r->size);
    return first;
}

static const char *seconds(uint64_t ns, char text[24])
{
    snprintf(text, 24, ns < 10000000000u ? "%.1f s" : "%.0f s", (double)ns * 1e-9);
    return text;
}

static void give(struct verdict *v, enum choir_status status, uint32_t peer, const char *remedy)
{
    v->status = status;
    v->peer = (int32_t)peer;
    snprintf(v->remedy, sizeof(v->remedy), "%s", remedy);
}

static void fail_missing(struct roster *r)
{
    struct verdict *v = &r->verdict;
    char list[sizeof(v->text) - 64], time[24];
    uint32_t first = roster_missing(r, list, sizeof(list));
    snprintf(v->text, sizeof(v->text), "%s did not arrive within %s", list,
             seconds(r->limit_ns, time));
    give(v, CHOIR_ERR_PEER_MISSING, first,
         "see whether they were started, what they print, and whether their hosts reach this one "
         "(CHOIR_SOCKET_IFNAME, firewall); CHOIR_CREATE_TIMEOUT sets the time");
}

static bool fail_dead(struct roster *r, uint64_t now_ns)
{
    for (uint32_t i = 0; i < r->size; i++) {
        const struct member *m = &r->member[i];
        if (m->state != MEMBER_AWAY || m->away_until_ns > now_ns)
            continue;
        snprintf(r->verdict.text, sizeof(r->verdict.text),
                 "rank %u of %u (host %s, pid %u) died while the communicator was being created", i,
                 r->size, m->host, m->pid);
        give(&r->verdict, CHOIR_ERR_PEER_DEAD, i, "look at what that process printed last");
        return true;
    }
    return false;
}

bool roster_tick(struct roster *r, uint64_t now_ns)
{
    if (!r->size || roster_ended(r))
        return false;
    if (r->away && fail_dead(r, now_ns))
        return true;
    if (now_ns < r->deadline_ns)
        return false;
    fail_missing(r);
    return true;
}

/* The first joiner states the size. */
static enum choir_status begin(struct roster *r, const struct join_message *m)
{
    r->member = calloc(m->size, sizeof(*r->member));
    if (!r->member)
        return CHOIR_ERR_NO_MEMORY;
    r->size = m->size;
    r->first = m->rank;
    r->deadline_ns = UINT64_MAX;
    randombytes_buf(&r->nonce, sizeof(r->nonce));
    r->nonce += !r->nonce;
    return CHOIR_OK;
}

/* What this joiner cannot be forgiven; fails the whole group, because it can't become complete. */
static bool contradicts(struct roster *r, const struct join_message *m)
{
    struct verdict *v = &r->verdict;
    const struct member *a = r->size ? &r->member[r->first] : NULL;
    if (m->version != choir_version()) {
        uint32_t ours = choir_version();
        snprintf(v->text, sizeof(v->text),
                 "rank %u (host %s, pid %u) runs library version %u.%u.%u, the process that made "
                 "the id %u.%u.%u",
                 m->rank, m->host, m->pid, m->version / 10000, m->version / 100 % 100,
                 m->version % 100, ours / 10000, ours / 100 % 100, ours % 100);
        give(v, CHOIR_ERR_ARGUMENT, m->rank, "run the same version of the library on all ranks");
        return true;
    }
    if (a && m->size != r->size) {
        snprintf(v->text, sizeof(v->text),
                 "rank %u (host %s, pid %u) says there are %u ranks, rank %u (host %s, pid %u) "
                 "says %u",
                 m->rank, m->host, m->pid, m->size, r->first, a->host, a->pid, r->size);
        give(v, CHOIR_ERR_ARGUMENT, m->rank, "pass the same size on all ranks");
        return true;
    }
    a = a ? &r->member[m->rank] : NULL;
    if (a && a->state != MEMBER_ABSENT && sodium_memcmp(a->token, m->token, 16)) {
        snprintf(v->text, sizeof(v->text),
                 "two processes are rank %u of %u: host %s pid %u, and host %s pid %u", m->rank,
                 r->size, a->host, a->pid, m->host, m->pid);
        give(v, CHOIR_ERR_RANK, m->rank, "give every rank a number of its own, from 0 to N-1");
        return true;
    }
    return false;
}

static enum choir_status enter(struct roster *r, const struct join_message *m, uint64_t now_ns)
{
    struct member *e = &r->member[m->rank];
    size_t host_bytes = strlen(m->host) + 1;
    char *block = malloc(host_bytes + m->bytes);
    if (!block)
        return CHOIR_ERR_NO_MEMORY;
    memcpy(block, m->host, host_bytes);
    if (m->bytes)
        memcpy(block + host_bytes, m->address, m->bytes);
    *e = (struct member){.state = MEMBER_HERE, .bytes = m->bytes, .pid = m->pid, .host = block};
    e->address = (uint8_t *)block + host_bytes;
    memcpy(e->token, m->token, 16);
    uint64_t remaining = base_min(m->remaining_ns, UINT64_MAX / 4);
    if (now_ns + remaining < r->deadline_ns) {
        r->deadline_ns = now_ns + remaining;
        r->limit_ns = remaining;
    }
    r->complete = ++r->here == r->size;
    return CHOIR_OK;
}

static enum roster_answer refuse(struct verdict *v, enum choir_status status,
                                 const struct join_message *m, const char *text, const char *remedy)
{
    snprintf(v->text, sizeof(v->text), "%s", text);
    give(v, status, m->rank, remedy);
    return ROSTER_REFUSED;
}

enum roster_answer roster_join(struct roster *r, const struct join_message *m, uint64_t now_ns,
                               struct verdict *refusal)
{
    if (!m->size || m->size > ROSTER_SIZE_MOST || m->rank >= m->size)
        return refuse(refusal, CHOIR_ERR_RANK, m, "rank or size is out of range",
                      "pass a rank from 0 to N-1 and a size of at most 2^24");
    struct member *e = r->size && m->rank < r->size ? &r->member[m->rank] : NULL;
    bool known = e && e->state != MEMBER_ABSENT && !sodium_memcmp(e->token, m->token, 16);
    if (r->complete && !known)
        return refuse(refusal, CHOIR_ERR_STATE, m,
                      "this id has already made a communicator; an id serves once",
                      "make a new id for every communicator");
    if (r->verdict.status)
        return ROSTER_TELL;
    if (known) {
        r->away -= e->state == MEMBER_AWAY;
        e->state = e->state == MEMBER_AWAY ? MEMBER_HERE : e->state;
        return r->complete ? ROSTER_TELL : ROSTER_WAIT;
    }
    if (contradicts(r, m))
        return ROSTER_TELL;
    if ((!r->size && begin(r, m)) || enter(r, m, now_ns))
        return refuse(refusal, CHOIR_ERR_NO_MEMORY, m, "the rendezvous server is out of memory",
                      "free memory on the host of the process that made the id");
    return r->complete ? ROSTER_TELL : ROSTER_WAIT;
}

void roster_leave(struct roster *r, uint32_t rank, uint64_t until_ns)
{
    struct member *m = &r->member[rank];
    if (m->state != MEMBER_HERE)
        return;
    m->state = MEMBER_AWAY;
    m->away_until_ns = until_ns;
    r->away++;
}

void roster_told(struct roster *r, uint32_t rank)
{
    if (rank >= r->size || r->member[rank].state == MEMBER_TOLD)
        return;
    r->away -= r->member[rank].state == MEMBER_AWAY;
    r->member[rank].state = MEMBER_TOLD;
    r->told++;
}

static uint32_t put_peer(const struct roster *r, uint32_t rank, uint8_t *at)
{
    const struct member *m = &r->member[rank];
    put32(at, rank);
    put32(at + 4, m->bytes);
    memcpy(at + 8, m->address, m->bytes);
    return 8 + m->bytes;
}

uint16_t roster_frame(const struct roster *r, uint32_t rank, uint8_t *body, uint32_t *bytes)
{
    if (r->verdict.status) {
        verdict_encode(&r->verdict, body);
        *bytes = FRAME_ERROR_BYTES;
        return FRAME_ERROR;
    }
    uint32_t at = 16, count = 0;
    if (rank)
        at += put_peer(r, (rank - 1) / BOOT_FANOUT, body + at), count++;
    for (uint64_t c = (uint64_t)rank * BOOT_FANOUT + 1;
         c <= (uint64_t)rank * BOOT_FANOUT + BOOT_FANOUT && c < r->size; c++)
        at += put_peer(r, (uint32_t)c, body + at), count++;
    put64(body, r->nonce);
    put32(body + 8, r->size);
    put32(body + 12, count);
    *bytes = at;
    return FRAME_WELCOME;
}

void roster_free(struct roster *r)
{
    for (uint32_t i = 0; r->member && i < r->size; i++)
        free(r->member[i].host);
    free(r->member);
    *r = (struct roster){0};
}
