/* SPDX-License-Identifier: Apache-2.0 */
/*
 * put.c: puts and signals of a rank. A put is a copy where the peer's memory is mapped or can be written from here, else frames
 * that the peer's transport thread copies in. A signal is a count in the peer's bell, raised there or by a frame.
 *
 * Order: a direct put has ended before its signal is raised. Once a put went to a peer in frames, signals to it are frames
 * too, behind them (one lane), for good.
 *
 * Bounds: a sender has WINDOW frames that the peer has not said to have SEEN, of which BUFFERS have payload, copied here. So a
 * caller that gives up leaves no memory of its own to a transport. The receiver copies once more, out of memory that is the
 * frame's: a frame that is half way when the window goes writes nowhere.
 */
#include "host/put.h"
#include <stdlib.h>

#define BUFFERS 8u
#define WINDOW 16u
#define SEEN_EVERY 4u
#define COPY_BYTES (1u << 20) /* between looks at what broke the communicator */

struct way {                   /* to one peer, and from it */
    _Atomic uint64_t bell_key; /* 0: not learned */
    _Atomic uint32_t bell_transport;
    _Atomic uint32_t seen, came; /* frames: of ours there, as the peer said; of its here */
    /* By whose turn it is: */
    uint32_t sent;              /* frames */
    bool framed;                /* a put went by frames */
    struct host_bell *bell;     /* reached directly, or NULL */
    struct host_bell_box *held; /* it is of this process */
    struct host_end *end;       /* or mapped over this */
    uint64_t taken[CHOIR_SIGNALS];
};
struct host_puts {
    pthread_mutex_t lock; /* parts, and writing into them */
    struct host_part *parts;
    _Atomic uint32_t frames;
    uint8_t *buffer;
    struct choir_send request[BUFFERS];
    struct way way[];
};

/* Pages of peers never met stay untouched. */
static struct host_puts *get(struct host_comm *comm)
{
    struct host_puts *p = atomic_load_explicit(&comm->puts, memory_order_acquire);
    if (base_likely(p != NULL))
        return p;
    pthread_mutex_lock(&comm->lock);
    p = atomic_load(&comm->puts);
    uint64_t bytes = sizeof(*p) + comm->size * sizeof(p->way[0]);
    if (!p && (p = calloc(1, bytes))) {
        pthread_mutex_init(&p->lock, NULL);
        for (uint32_t i = 0; i < BUFFERS; i++)
            atomic_store(&p->request[i].done, 1);
        atomic_store(&p->frames, atomic_load(&comm->frame_links) != 0);
        atomic_fetch_add(&comm->private_bytes, bytes);
        atomic_store_explicit(&comm->puts, p, memory_order_release);
    }
    pthread_mutex_unlock(&comm->lock);
    return p;
}

static enum choir_status no_memory(void)
{
    return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "no memory for one-sided operations");
}

_Atomic uint32_t *host_put_frames(struct host_comm *comm)
{
    struct host_puts *p = get(comm);
    return p ? &p->frames : NULL;
}

/* --- this rank's parts ------------------------------------------------------------------------------ */

enum choir_status host_part_add(struct host_comm *comm, struct host_part *part)
{
    struct host_puts *p = get(comm);
    if (!p)
        return no_memory();
    pthread_mutex_lock(&p->lock);
    part->next = p->parts;
    p->parts = part;
    pthread_mutex_unlock(&p->lock);
    return CHOIR_OK;
}

void host_part_remove(struct host_comm *comm, struct host_part *part)
{
    struct host_puts *p = get(comm);
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    struct host_part **at = &p->parts;
    while (*at && *at != part)
        at = &(*at)->next;
    if (*at)
        *at = part->next;
    pthread_mutex_unlock(&p->lock);
}

/* A put that fits no part is of a window that is gone, or of a peer that is not believed. What this rank did with its part before
 * an operation is over before what the peer puts after it: through wires and other ranks, so said once more. */
static void write_part(struct host_comm *comm, struct host_puts *p, const struct choir_frame *f,
                       const void *payload)
{
    (void)atomic_load_explicit(&comm->begun, memory_order_acquire); /* pairs with count_op */
    pthread_mutex_lock(&p->lock);
    struct host_part *part = p->parts;
    while (part && part->id != f->arg[0])
        part = part->next;
    if (part && payload && f->arg[1] <= part->bytes && f->bytes <= part->bytes - f->arg[1])
        memcpy(part->memory + f->arg[1], payload, f->bytes);
    pthread_mutex_unlock(&p->lock);
}

void host_put_arrived(struct host_comm *comm, const struct choir_frame *f, void *payload)
{
    struct host_puts *p = f->from < comm->size ? get(comm) : NULL;
    struct way *way = p ? &p->way[f->from] : NULL;
    if (p && f->kind == HOST_FRAME_SEEN) {
        atomic_store_explicit(&way->seen, (uint32_t)f->arg[0], memory_order_relaxed);
    } else if (p) {
        atomic_store_explicit(&p->frames, 1, memory_order_relaxed);
        if (f->kind == HOST_FRAME_PUT)
            write_part(comm, p, f, payload);
        else if (f->arg[0] < CHOIR_SIGNALS) /* pairs with host_signal_take */
            atomic_fetch_add_explicit(&comm->bell->signal[f->from * CHOIR_SIGNALS + f->arg[0]], 1,
                                      memory_order_release);
        uint32_t came = atomic_fetch_add(&way->came, 1) + 1;
        if (came % SEEN_EVERY == 0)
            host_control_send(comm, f->from, HOST_FRAME_SEEN, (uint64_t[]){came, 0, 0}, 0, NULL, 0);
    }
    free(payload);
    if (p)
        host_bell_wake_own(comm);
}

/* --- frames ------------------------------------------------------------------------------------------- */

/* Whether one more may be sent. */
static enum choir_status frame_room(struct host_comm *comm, struct host_puts *p, uint32_t peer)
{
    struct way *way = &p->way[peer];
    struct host_peer *process = comm->member[peer];
    atomic_store_explicit(&p->frames, 1, memory_order_relaxed);
    if (!host_peer_reach(process)) {
        int32_t failed = atomic_load(&process->failed);
        return failed ? base_fail((enum choir_status)failed, HOST_UNREACHED_REMEDY, HOST_UNREACHED,
                                  peer)
                      : CHOIR_IN_PROGRESS;
    }
    uint32_t seen = atomic_load_explicit(&way->seen, memory_order_relaxed);
    return way->sent - seen < WINDOW ? CHOIR_OK : CHOIR_IN_PROGRESS;
}

static enum choir_status send_frame(struct host_comm *comm, struct host_puts *p,
                                    const struct choir_frame *f, const void *payload,
                                    struct choir_send *request)
{
    struct host_end *end = host_peer_end(comm->member[f->to]);
    enum choir_status st = host_end_ops(end)->send(end->endpoint, f, payload, request);
    if (request && st != CHOIR_IN_PROGRESS)
        atomic_store_explicit(&request->done, 1, memory_order_relaxed);
    if (st < 0)
        return base_fail(st, "see the log of that rank", "sending to rank %u failed", f->to);
    p->way[f->to].sent++;
    return CHOIR_OK;
}

static bool make_buffers(struct host_comm *comm, struct host_puts *p)
{
    if (p->buffer)
        return true;
    p->buffer = malloc(BUFFERS * (size_t)HOST_PUT_BYTES);
    if (p->buffer)
        atomic_fetch_add(&comm->private_bytes, BUFFERS * (uint64_t)HOST_PUT_BYTES);
    return p->buffer != NULL;
}

static enum choir_status send_piece(struct host_comm *comm, struct host_puts *p,
                                    struct host_put *put)
{
    p->way[put->peer].framed = true;
    enum choir_status st = frame_room(comm, p, put->peer);
    if (st != CHOIR_OK)
        return st;
    if (!make_buffers(comm, p))
        return no_memory();
    uint32_t i = 0;
    while (i < BUFFERS && !atomic_load_explicit(&p->request[i].done, memory_order_acquire))
        i++;
    if (i == BUFFERS)
        return CHOIR_IN_PROGRESS;
    uint8_t *copy = p->buffer + i * (size_t)HOST_PUT_BYTES;
    struct choir_frame f = {
        .bytes = (uint32_t)base_min(HOST_PUT_BYTES, put->bytes - put->done),
        .kind = HOST_FRAME_PUT,
        .comm = comm->key,
        .from = comm->rank,
        .to = put->peer,
        .arg = {put->part, put->offset + put->done},
    };
    memcpy(copy, put->from + put->done, f.bytes);
    atomic_store_explicit(&p->request[i].done, 0, memory_order_relaxed);
    st = send_frame(comm, p, &f, copy, &p->request[i]);
    if (st == CHOIR_OK)
        put->done += f.bytes;
    return st;
}

/* --- puts ---------------------------------------------------------------------------------------------- */

static enum choir_status copy_piece(struct host_put *put)
{
    uint64_t n = base_min((uint64_t)COPY_BYTES, put->bytes - put->done);
    const uint8_t *from = put->from + put->done;
    enum choir_status st = CHOIR_OK;
    if (put->to)
        memmove(put->to + put->done, from, n); /* to this rank: they may overlap */
    else
        st = host_end_ops(put->end)->write(put->end->endpoint, put->address + put->done, from, n);
    if (st == CHOIR_ERR_UNSUPPORTED) { /* it reads only */
        put->address = 0;
        return CHOIR_OK;
    }
    put->done += st == CHOIR_OK ? n : 0;
    return st;
}

enum choir_status host_put_advance(struct host_comm *comm, struct host_put *put)
{
    struct host_puts *p = get(comm);
    if (!p)
        return no_memory();
    enum choir_status st = CHOIR_OK;
    while (st == CHOIR_OK && put->done < put->bytes) {
        st = (enum choir_status)atomic_load_explicit(&comm->broken, memory_order_relaxed);
        if (st == CHOIR_OK)
            st = put->to || put->address ? copy_piece(put) : send_piece(comm, p, put);
    }
    return st;
}

/* --- signals ------------------------------------------------------------------------------------------- */

void host_signal_learn(struct host_comm *comm, uint32_t peer, uint32_t transport, uint64_t key)
{
    struct host_puts *p = get(comm);
    if (!p || atomic_load(&p->way[peer].bell_key))
        return;
    atomic_store(&p->way[peer].bell_transport, transport);
    atomic_store_explicit(&p->way[peer].bell_key, key, memory_order_release);
}

static enum choir_status map_bell(struct host_comm *comm, struct way *way, uint32_t peer)
{
    uint64_t key = atomic_load_explicit(&way->bell_key, memory_order_acquire);
    if (!key || way->framed)
        return CHOIR_ERR_UNSUPPORTED;
    struct host_peer *process = comm->member[peer];
    if (!host_peer_reach(process))
        return atomic_load(&process->failed) ? CHOIR_ERR_UNSUPPORTED : CHOIR_IN_PROGRESS;
    struct host_end *end = host_peer_end(process);
    void *memory = NULL;
    if (end->transport != atomic_load(&way->bell_transport))
        return CHOIR_ERR_UNSUPPORTED;
    enum choir_status st =
        host_end_ops(end)->map(end->endpoint, key, host_bell_bytes(comm->size), &memory);
    if (st == CHOIR_OK)
        way->bell = memory, way->end = end;
    return st;
}

/* Of this process: its own word, held, since that rank may destroy its communicator at any time. */
static enum choir_status find_bell(struct host_comm *comm, struct way *way, uint32_t peer)
{
    if (way->bell)
        return CHOIR_OK;
    if (memcmp(&comm->member[peer]->id, &host_process.id, sizeof(host_process.id)))
        return map_bell(comm, way, peer);
    way->held = peers_hold_bell(comm->key, peer);
    way->bell = way->held ? way->held->bell : NULL;
    return way->bell ? CHOIR_OK : CHOIR_IN_PROGRESS;
}

enum choir_status host_signal_raise(struct host_comm *comm, uint32_t peer, uint32_t signal)
{
    struct host_puts *p = get(comm);
    if (!p)
        return no_memory();
    struct way *way = &p->way[peer];
    enum choir_status st = way->framed ? CHOIR_ERR_UNSUPPORTED : find_bell(comm, way, peer);
    if (st == CHOIR_IN_PROGRESS)
        return st;
    if (st == CHOIR_OK) { /* after what was put: pairs with host_signal_take */
        atomic_fetch_add_explicit(&way->bell->signal[comm->rank * CHOIR_SIGNALS + signal], 1,
                                  memory_order_release);
        host_bell_ring(way->bell, !way->end, way->end);
        return CHOIR_OK;
    }
    st = frame_room(comm, p, peer);
    struct choir_frame f = {.kind = HOST_FRAME_SIGNAL,
                            .comm = comm->key,
                            .from = comm->rank,
                            .to = peer,
                            .arg = {signal}};
    return st == CHOIR_OK ? send_frame(comm, p, &f, NULL, NULL) : st;
}

bool host_signal_take(struct host_comm *comm, uint32_t peer, uint32_t signal, uint64_t count)
{
    struct host_puts *p = get(comm);
    if (!p)
        return !count;
    uint64_t *taken = &p->way[peer].taken[signal];
    uint64_t came = atomic_load_explicit(&comm->bell->signal[peer * CHOIR_SIGNALS + signal],
                                         memory_order_acquire);
    if (came - *taken < count)
        return false;
    *taken += count;
    return true;
}

/* --- the end --------------------------------------------------------------------------------------------- */

static bool requests_open(struct host_puts *p)
{
    for (uint32_t i = 0; i < BUFFERS; i++)
        if (!atomic_load_explicit(&p->request[i].done, memory_order_acquire))
            return true;
    return false;
}

void host_put_free(struct host_comm *comm)
{
    struct host_puts *p = atomic_load(&comm->puts);
    if (!p)
        return;
    for (uint64_t until = base_now_ns() + 1000000000; requests_open(p);) {
        host_progress();
        if (base_now_ns() < until)
            continue;
        base_log(BASE_DEBUG, (int)comm->rank, "memory of puts kept: not all was sent");
        return; /* transports may still read it */
    }
    for (uint32_t r = 0; r < comm->size; r++) {
        struct way *way = &p->way[r];
        host_bell_drop(way->held);
        if (way->end)
            host_end_ops(way->end)->unmap(way->end->endpoint, way->bell,
                                          host_bell_bytes(comm->size));
    }
    pthread_mutex_destroy(&p->lock);
    free(p->buffer);
    free(p);
}
