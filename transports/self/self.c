/* SPDX-License-Identifier: Apache-2.0 */
/*
 * self.c: a process to itself, for ranks that are threads of one process. What is sent on an endpoint arrives on the
 * same endpoint, from progress() only: a sender may hold locks that the upcalls take. See README.md.
 */
#include "base/base.h"
#include "choir_transport.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define COPY_MOST 4096 /* a payload up to this is copied, a longer one lent */
#define BATCH_MOST 64  /* frames one progress() delivers */

struct frame {
    struct frame *next;
    struct choir_endpoint *endpoint;
    struct choir_send *request; /* NULL: copied */
    const void *payload;
    struct choir_frame frame;
    unsigned char copy[];
};

struct choir_endpoint {
    struct choir_transport *transport;
    void *cookie;
};

struct segment {
    struct segment *next;
    struct choir_shared shared;
    uint32_t holds; /* the owner, and every mapping */
};

/* lock: the queue, the segments, who is being served. progress_lock is only ever tried. */
struct choir_transport {
    struct choir_transport_host host;
    pid_t pid;
    int wake_fd;
    pthread_mutex_t progress_lock, lock;
    pthread_cond_t served;
    struct frame *first, **last;
    struct choir_endpoint *serving;
    pthread_t server;
    struct segment *segments;
    uint64_t key;
};

static enum choir_status fail(enum choir_status status, const char *text)
{
    struct base_error_at at = {-1, -1, 0, 0, "self"};
    return base_error_fill(base_error_thread(), status, &at, "", "%s", text);
}

static enum choir_status probe(const struct choir_transport_host *host, char *text, size_t bytes)
{
    (void)host, (void)text, (void)bytes;
    return CHOIR_OK;
}

static uint32_t progress(struct choir_transport *t);

static void on_wake(void *arg)
{
    struct choir_transport *t = arg;
    uint64_t count;
    (void)!read(t->wake_fd, &count, sizeof(count));
    progress(t);
}

static enum choir_status wake_up(struct choir_transport *t)
{
    static const uint64_t one = 1;
    (void)!write(t->wake_fd, &one, sizeof(one));
    return CHOIR_OK;
}

static enum choir_status open_transport(const struct choir_transport_host *host,
                                        struct choir_transport **out)
{
    struct choir_transport *t = calloc(1, sizeof(*t));
    if (!t)
        return fail(CHOIR_ERR_NO_MEMORY, "no memory for the transport");
    t->host = *host;
    t->pid = getpid();
    t->last = &t->first;
    t->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (t->wake_fd < 0) {
        free(t);
        return fail(CHOIR_ERR_SYSTEM, "no descriptor left");
    }
    enum choir_status status = host->watch(host->context, t->wake_fd, 0, on_wake, t);
    if (status) {
        close(t->wake_fd);
        free(t);
        return status;
    }
    pthread_mutex_init(&t->progress_lock, NULL);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->served, NULL);
    *out = t;
    return CHOIR_OK;
}

static enum choir_status address(struct choir_transport *t, void *to, size_t *bytes)
{
    (void)t, (void)to;
    *bytes = 0; /* the process id says it all */
    return CHOIR_OK;
}

static enum choir_status connect_self(struct choir_transport *t, const struct choir_process *peer,
                                      const void *to, size_t bytes, void *cookie,
                                      struct choir_endpoint **endpoint)
{
    (void)to, (void)bytes;
    if (memcmp(peer, &t->host.self, sizeof(*peer)))
        return fail(CHOIR_ERR_UNSUPPORTED, "the peer is another process");
    struct choir_endpoint *ep = malloc(sizeof(*ep));
    if (!ep)
        return fail(CHOIR_ERR_NO_MEMORY, "no memory for an endpoint");
    *ep = (struct choir_endpoint){t, cookie};
    *endpoint = ep;
    return CHOIR_OK;
}

static enum choir_status connected(struct choir_endpoint *ep)
{
    (void)ep;
    return CHOIR_OK;
}

static uint32_t caps(struct choir_endpoint *ep)
{
    (void)ep;
    return CHOIR_CAP_MAP | CHOIR_CAP_READ | CHOIR_CAP_READ_FAST;
}

static enum choir_status alloc(struct choir_transport *t, uint64_t bytes,
                               struct choir_shared *shared)
{
    struct segment *s = malloc(sizeof(*s));
    void *p = bytes && bytes <= SIZE_MAX / 2 && s
                  ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                  : MAP_FAILED;
    if (p == MAP_FAILED) {
        free(s);
        return fail(bytes ? CHOIR_ERR_NO_MEMORY : CHOIR_ERR_ARGUMENT, "cannot allocate memory");
    }
    madvise(p, bytes, MADV_DONTFORK);
    pthread_mutex_lock(&t->lock);
    s->shared = (struct choir_shared){p, bytes, ++t->key, shared->flags};
    s->holds = 1;
    s->next = t->segments;
    t->segments = s;
    *shared = s->shared;
    pthread_mutex_unlock(&t->lock);
    return CHOIR_OK;
}

/* Takes one hold away; the last one frees. */
static bool drop(struct choir_transport *t, uint64_t key, const void *memory)
{
    struct segment **at, *s;
    pthread_mutex_lock(&t->lock);
    for (at = &t->segments; (s = *at) && s->shared.key != key && s->shared.memory != memory;)
        at = &s->next;
    bool last = s && !--s->holds;
    if (last)
        *at = s->next;
    pthread_mutex_unlock(&t->lock);
    if (last) {
        munmap(s->shared.memory, s->shared.bytes);
        free(s);
    }
    return s != NULL;
}

static enum choir_status release(struct choir_transport *t, struct choir_shared *shared)
{
    if (!drop(t, shared->key, NULL))
        return fail(CHOIR_ERR_ARGUMENT, "not memory of this transport");
    *shared = (struct choir_shared){0};
    return CHOIR_OK;
}

static enum choir_status map(struct choir_endpoint *ep, uint64_t key, uint64_t bytes, void **memory)
{
    struct choir_transport *t = ep->transport;
    enum choir_status status = CHOIR_ERR_PROTOCOL;
    pthread_mutex_lock(&t->lock);
    for (struct segment *s = t->segments; s; s = s->next)
        if (s->shared.key == key && bytes <= s->shared.bytes) {
            *memory = s->shared.memory;
            s->holds++;
            status = CHOIR_OK;
        }
    pthread_mutex_unlock(&t->lock);
    return status ? fail(status, "there is no memory of this key and size") : CHOIR_OK;
}

static enum choir_status unmap(struct choir_endpoint *ep, void *memory, uint64_t bytes)
{
    (void)bytes;
    return drop(ep->transport, 0, memory)
               ? CHOIR_OK
               : fail(CHOIR_ERR_ARGUMENT, "not a mapping of this transport");
}

static enum choir_status read_self(struct choir_endpoint *ep, void *to, uint64_t from,
                                   uint64_t bytes)
{
    (void)ep;
    if (bytes)
        memmove(to, (const void *)(uintptr_t)from, bytes);
    return CHOIR_OK;
}

static enum choir_status send_self(struct choir_endpoint *ep, const struct choir_frame *frame,
                                   const void *payload, struct choir_send *request)
{
    struct choir_transport *t = ep->transport;
    if (frame->bytes > CHOIR_FRAME_MOST)
        return fail(CHOIR_ERR_ARGUMENT, "the frame is too long");
    bool lent = request && frame->bytes > COPY_MOST;
    struct frame *f = malloc(sizeof(*f) + (lent ? 0 : frame->bytes));
    if (!f)
        return fail(CHOIR_ERR_NO_MEMORY, "no memory for a frame");
    f->next = NULL;
    f->endpoint = ep;
    f->frame = *frame;
    f->request = lent ? request : NULL;
    f->payload = lent ? payload : f->copy;
    if (lent)
        atomic_store_explicit(&request->done, 0, memory_order_relaxed);
    else if (frame->bytes)
        memcpy(f->copy, payload, frame->bytes);
    pthread_mutex_lock(&t->lock);
    bool was_empty = !t->first;
    *t->last = f;
    t->last = &f->next;
    pthread_mutex_unlock(&t->lock);
    if (was_empty)
        wake_up(t);
    return lent ? CHOIR_IN_PROGRESS : CHOIR_OK;
}

static enum choir_status wake(struct choir_endpoint *ep)
{
    return wake_up(ep->transport);
}

static void finish(struct frame *f, int32_t done)
{
    if (f->request)
        atomic_store_explicit(&f->request->done, done, memory_order_release);
    free(f);
}

static struct frame *take(struct choir_transport *t)
{
    pthread_mutex_lock(&t->lock);
    struct frame *f = t->first;
    if (f && !(t->first = f->next))
        t->last = &t->first;
    t->serving = f ? f->endpoint : NULL;
    t->server = pthread_self();
    pthread_cond_broadcast(&t->served);
    pthread_mutex_unlock(&t->lock);
    return f;
}

static bool is_serving(struct choir_transport *t, const struct choir_endpoint *ep)
{
    pthread_mutex_lock(&t->lock);
    bool yes = t->serving == ep;
    pthread_mutex_unlock(&t->lock);
    return yes;
}

static void deliver(struct choir_transport *t, struct frame *f)
{
    struct choir_transport_host *h = &t->host;
    void *cookie = f->endpoint->cookie, *where = NULL;
    if (f->frame.bytes) {
        where = h->place(h->context, cookie, &f->frame);
        if (where)
            memcpy(where, f->payload, f->frame.bytes);
    }
    if (is_serving(t, f->endpoint)) /* place may have disconnected it */
        h->arrived(h->context, cookie, &f->frame, where);
}

static uint32_t progress(struct choir_transport *t)
{
    uint32_t seen = 0;
    struct frame *f;
    if (pthread_mutex_trylock(&t->progress_lock))
        return 0;
    while (seen < BATCH_MOST && (f = take(t))) {
        deliver(t, f);
        finish(f, 1);
        seen++;
    }
    pthread_mutex_lock(&t->lock);
    t->serving = NULL;
    pthread_cond_broadcast(&t->served);
    pthread_mutex_unlock(&t->lock);
    pthread_mutex_unlock(&t->progress_lock);
    /* Senders wake only for the first frame of a queue, and who they woke may have met a held progress_lock: look
     * again now that it is free. */
    pthread_mutex_lock(&t->lock);
    bool left = t->first != NULL;
    pthread_mutex_unlock(&t->lock);
    if (left)
        wake_up(t);
    return seen;
}

/* Frames on their way to the endpoint are dropped: the receiver is the one that disconnects. */
static void disconnect(struct choir_endpoint *ep)
{
    struct choir_transport *t = ep->transport;
    struct frame *f, **at = &t->first;
    pthread_mutex_lock(&t->lock);
    while ((f = *at))
        if (f->endpoint == ep) {
            *at = f->next;
            finish(f, CHOIR_ERR_PEER_DEAD);
        } else {
            at = &f->next;
        }
    t->last = at;
    if (t->serving == ep && pthread_equal(t->server, pthread_self()))
        t->serving = NULL;
    while (t->serving == ep)
        pthread_cond_wait(&t->served, &t->lock);
    pthread_mutex_unlock(&t->lock);
    free(ep);
}

static void close_transport(struct choir_transport *t)
{
    int fd = t->wake_fd;
    t->wake_fd = -1;
    if (getpid() != t->pid) { /* the rest may be half done by a thread that is not here */
        close(fd);
        return;
    }
    t->host.watch(t->host.context, fd, 0, NULL, NULL);
    close(fd);
    for (struct frame *f = t->first, *next; f; f = next) {
        next = f->next;
        finish(f, CHOIR_ERR_PEER_DEAD);
    }
    while (t->segments)
        release(t, &(struct choir_shared){.key = t->segments->shared.key});
    pthread_mutex_destroy(&t->progress_lock);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->served);
    free(t);
}

extern const struct choir_transport_ops choir_transport_self;
const struct choir_transport_ops choir_transport_self = {
    .size = sizeof(choir_transport_self),
    .abi = CHOIR_TRANSPORT_ABI,
    .name = "self",
    .probe = probe,
    .open = open_transport,
    .address = address,
    .connect = connect_self,
    .connected = connected,
    .caps = caps,
    .alloc = alloc,
    .release = release,
    .map = map,
    .unmap = unmap,
    .read = read_self,
    .send = send_self,
    .wake = wake,
    .progress = progress,
    .disconnect = disconnect,
    .close = close_transport,
};
