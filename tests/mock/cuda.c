/* SPDX-License-Identifier: Apache-2.0 */
/* A GPU in miniature; see cuda.h. */
#include "tests/mock/cuda.h"
#include "cuda/engine.h"
#include "cuda/order.h"
#include "cuda/ring.h"
#include "cuda/staged.h"
#include "tests/lib/test.h"
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define GPUS 8 /* ranks of a process that have memory at a time */

enum what { COPY, POST, WAIT, DELAY, CALL };
struct order {
    enum what what;
    struct cuda_staged *s;
    void *to, *from;
    uint64_t bytes, number; /* DELAY: us in number; POST, WAIT: the item */
    uint32_t count;
    bool captured;
    void (*fn)(void *arg); /* CALL, of `to` */
};
struct list {
    struct order *order;
    uint64_t count, room;
};
struct mock_stream {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    struct list queue;
    uint64_t done;
    bool stop, broken, capturing;
    struct list captured;
    struct mock_stream *next;
};
struct mock_graph {
    struct list list;
};
struct cuda_staged {
    struct cuda_ring ring;
    uint32_t taken, number, posts[CUDA_ITEMS], posted[CUDA_ITEMS], done[CUDA_ITEMS];
    void *memory[64];
    uint32_t memories;
    uint64_t bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mock_stream *streams;
static uint8_t *memory;
static struct {
    const uint8_t *from;
    uint64_t bytes;
} pinned[1000]; /* some of it may be no more */
static uint32_t pins;
static bool taken[GPUS];
static _Thread_local bool has_gpu;

/* --- streams ---------------------------------------------------------------------------------------------- */

static void add(struct list *l, const struct order *o)
{
    if (l->count == l->room) {
        l->room = l->room ? 2 * l->room : 64;
        l->order = realloc(l->order, l->room * sizeof(*o));
        CHECK(l->order != NULL);
    }
    l->order[l->count++] = *o;
}

static void carry_out(const struct order *o)
{
    struct cuda_staged *s = o->s;
    uint32_t n, item = (uint32_t)o->number;
    switch (o->what) {
    case COPY:
        memcpy(o->to, o->from, o->bytes);
        break;
    case CALL:
        o->fn(o->to);
        break;
    case DELAY:
        usleep((useconds_t)o->number);
        break;
    case POST:
        n = __atomic_fetch_add(&s->number, 1, __ATOMIC_ACQ_REL);
        __atomic_fetch_add(&s->posts[item], 1, __ATOMIC_RELAXED);
        while (n - __atomic_load_n(&s->ring.taken, __ATOMIC_ACQUIRE) >= CUDA_RING)
            usleep(1);
        __atomic_store_n(&s->ring.post[n % CUDA_RING], (uint64_t)(n + 1) << 32 | item,
                         __ATOMIC_RELEASE);
        break;
    case WAIT:
        n = o->captured ? s->posts[item] - o->count : o->count;
        while ((int32_t)(__atomic_load_n(&s->done[item], __ATOMIC_ACQUIRE) - n) < 0)
            usleep(1);
        break;
    }
}

static void *work(void *arg)
{
    struct mock_stream *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->stop && (s->done == s->queue.count || s->broken))
            pthread_cond_wait(&s->moved, &s->lock);
        if (s->stop)
            break;
        struct order o = s->queue.order[s->done];
        pthread_mutex_unlock(&s->lock);
        carry_out(&o);
        pthread_mutex_lock(&s->lock);
        s->done++;
        pthread_cond_broadcast(&s->moved);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static enum choir_status put(struct CUstream_st *stream, const struct order *o)
{
    struct mock_stream *s = (struct mock_stream *)stream;
    pthread_mutex_lock(&s->lock);
    add(s->capturing ? &s->captured : &s->queue, o);
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
    return CHOIR_OK;
}

void mock_put(struct CUstream_st *stream, void (*fn)(void *), void *arg)
{
    put(stream, &(struct order){.what = CALL, .fn = fn, .to = arg});
}

/* False: it is broken. */
static bool wait_for(struct mock_stream *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->done < s->queue.count && !s->broken)
        pthread_cond_wait(&s->moved, &s->lock);
    bool good = s->done == s->queue.count;
    pthread_mutex_unlock(&s->lock);
    return good;
}

static void *take(void *context, const void *from, uint64_t bytes)
{
    void *there = mock_gpu_alloc(context, bytes);
    memcpy(there, from, bytes);
    return there;
}

static void give(void *context, void *there, void *to, uint64_t bytes)
{
    mock_gpu_wait(context);
    memcpy(to, there, bytes);
    mock_gpu_free(context, there);
}

void mock_gpu_open(struct mock_gpu *g)
{
    struct mock_stream *s = calloc(1, sizeof(*s));
    int place = 0;
    CHECK(s != NULL);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->moved, NULL);
    CHECK_EQ(pthread_create(&s->thread, NULL, work, s), 0);
    *g = (struct mock_gpu){.stream = s, .elsewhere = {take, give, g}};
    g->choir = choir_stream_from_cuda((struct CUstream_st *)s);
    pthread_mutex_lock(&lock);
    if (!memory)
        memory = mmap(NULL, (size_t)GPUS * MOCK_GPU_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    while (place < GPUS && taken[place])
        place++;
    CHECK(place < GPUS && memory != MAP_FAILED);
    taken[place] = has_gpu = true;
    s->next = streams;
    streams = s;
    pthread_mutex_unlock(&lock);
    g->first = memory + (size_t)place * MOCK_GPU_BYTES;
    g->bytes = MOCK_GPU_BYTES;
}

void mock_gpu_close(struct mock_gpu *g)
{
    struct mock_stream *s = g->stream;
    wait_for(s);
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_mutex_lock(&lock);
    taken[(g->first - memory) / MOCK_GPU_BYTES] = false;
    pthread_mutex_unlock(&lock);
    pthread_mutex_lock(&s->lock); /* it stays: others may look at it */
    s->queue.count = s->done = 0;
    pthread_mutex_unlock(&s->lock);
    has_gpu = false;
}

void *mock_gpu_alloc(struct mock_gpu *g, uint64_t bytes)
{
    uint8_t *p = g->first + g->used;
    g->used += (bytes + 511) & ~511ull;
    CHECK(g->used <= g->bytes);
    return p;
}

void mock_gpu_free(struct mock_gpu *g, void *p)
{
    g->used = (uint64_t)((uint8_t *)p - g->first);
}

void mock_gpu_wait(struct mock_gpu *g)
{
    wait_for(g->stream);
}

void mock_gpu_break(struct mock_gpu *g)
{
    pthread_mutex_lock(&g->stream->lock);
    g->stream->broken = true;
    pthread_cond_broadcast(&g->stream->moved);
    pthread_mutex_unlock(&g->stream->lock);
}

void mock_delay(struct mock_gpu *g, uint32_t us)
{
    put((struct CUstream_st *)g->stream, &(struct order){.what = DELAY, .number = us});
}

void mock_capture_begin(struct mock_gpu *g)
{
    g->stream->capturing = true;
}

struct mock_graph *mock_capture_end(struct mock_gpu *g)
{
    struct mock_graph *graph = malloc(sizeof(*graph));
    CHECK(graph != NULL);
    graph->list = g->stream->captured;
    g->stream->captured = (struct list){0};
    g->stream->capturing = false;
    return graph;
}

void mock_replay(struct mock_gpu *g, const struct mock_graph *graph)
{
    for (uint64_t i = 0; i < graph->list.count; i++)
        put((struct CUstream_st *)g->stream, &graph->list.order[i]);
}

void mock_graph_free(struct mock_graph *graph)
{
    free(graph->list.order);
    free(graph);
}

/* --- in the place of src/cuda ---------------------------------------------------------------------------------- */

bool cuda_driver_in_use(void)
{
    return true;
}

bool cuda_driver_seen(void)
{
    return true;
}

enum choir_status cuda_here(struct cuda_device **device)
{
    static int any;
    *device = has_gpu ? (struct cuda_device *)&any : NULL;
    return CHOIR_OK;
}

enum choir_status cuda_device_of_pointer(const void *pointer, struct cuda_pointer *out)
{
    const uint8_t *p = pointer;
    bool gpu = memory && p >= memory && p < memory + (size_t)GPUS * MOCK_GPU_BYTES;
    *out = (struct cuda_pointer){gpu ? CUDA_DEVICE : CUDA_HOST, gpu ? 0 : -1};
    return CHOIR_OK;
}

enum choir_status cuda_stream_wait(struct CUstream_st *stream)
{
    wait_for((struct mock_stream *)stream);
    return CHOIR_OK;
}

/* Tests in miniature order their streams themselves. */
enum choir_status cuda_order_open(const struct cuda_device *device, struct cuda_order **order)
{
    (void)device;
    *order = (struct cuda_order *)(void *)&lock;
    return CHOIR_OK;
}

enum choir_status cuda_order_before(struct cuda_order *o, struct CUstream_st *stream)
{
    (void)o, (void)stream;
    return CHOIR_OK;
}

enum choir_status cuda_order_after(struct cuda_order *o, struct CUstream_st *stream)
{
    (void)o, (void)stream;
    return CHOIR_OK;
}

void cuda_order_close(struct cuda_order *o)
{
    (void)o;
}

enum choir_status cuda_staged_open(struct cuda_device *device, struct cuda_staged **staged)
{
    CHECK(device != NULL);
    *staged = calloc(1, sizeof(**staged));
    CHECK(*staged != NULL);
    return CHOIR_OK;
}

enum choir_status cuda_staged_alloc(struct cuda_staged *s, uint64_t bytes, uint8_t **out)
{
    CHECK(s->memories < 64);
    *out = aligned_alloc(4096, (bytes + 4095) & ~4095ull);
    CHECK(*out != NULL);
    memset(*out, 0x5a, bytes);
    s->memory[s->memories++] = *out;
    s->bytes += bytes;
    pthread_mutex_lock(&lock);
    CHECK(pins < sizeof(pinned) / sizeof(pinned[0]));
    pinned[pins].from = *out, pinned[pins++].bytes = bytes;
    pthread_mutex_unlock(&lock);
    return CHOIR_OK;
}

uint64_t cuda_staged_pinned(const struct cuda_staged *s)
{
    return s->bytes;
}

uint64_t cuda_staged_device_bytes(const struct cuda_staged *s)
{
    return sizeof(s->posts);
}

int cuda_staged_ordinal(const struct cuda_staged *s)
{
    (void)s;
    return 0;
}

enum choir_status cuda_staged_capturing(struct cuda_staged *s, struct CUstream_st *stream,
                                        bool *capturing)
{
    (void)s;
    *capturing = ((struct mock_stream *)stream)->capturing;
    return CHOIR_OK;
}

bool mock_reaches(const void *p, uint64_t bytes)
{
    struct cuda_pointer where;
    cuda_device_of_pointer(p, &where);
    bool yes = !bytes || where.where == CUDA_DEVICE;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < pins && !yes; i++)
        yes = (const uint8_t *)p >= pinned[i].from &&
              (const uint8_t *)p + bytes <= pinned[i].from + pinned[i].bytes;
    pthread_mutex_unlock(&lock);
    return yes;
}

static void is_gpu(const void *p, uint64_t bytes)
{
    struct cuda_pointer first, last;
    cuda_device_of_pointer(p, &first);
    cuda_device_of_pointer((const uint8_t *)p + bytes - 1, &last);
    CHECK(first.where == CUDA_DEVICE && last.where == CUDA_DEVICE);
}

enum choir_status cuda_staged_copy(struct cuda_staged *s, struct CUstream_st *stream,
                                   const struct cuda_span *x, bool to_host)
{
    (void)s;
    for (uint64_t i = 0; i < x->blocks && x->bytes; i++) {
        uint8_t *there = (uint8_t *)x->device + i * x->device_pitch,
                *here = (uint8_t *)x->host + i * x->host_pitch;
        is_gpu(there, x->bytes);
        put(stream, &(struct order){.what = COPY,
                                    .to = to_host ? here : there,
                                    .from = to_host ? there : here,
                                    .bytes = x->bytes});
    }
    return CHOIR_OK;
}

enum choir_status cuda_staged_post(struct cuda_staged *s, struct CUstream_st *stream, uint32_t item)
{
    s->posted[item]++;
    return put(stream, &(struct order){.what = POST, .s = s, .number = item});
}

enum choir_status cuda_staged_wait(struct cuda_staged *s, struct CUstream_st *stream, uint32_t item,
                                   uint32_t later, bool captured)
{
    return put(stream, &(struct order){.what = WAIT,
                                       .s = s,
                                       .number = item,
                                       .count = captured ? later : s->posted[item] - later,
                                       .captured = captured});
}

bool cuda_staged_next(struct cuda_staged *s, uint32_t *item)
{
    return cuda_ring_next(&s->ring, &s->taken, item);
}

void cuda_staged_done(struct cuda_staged *s, uint32_t item)
{
    __atomic_store_n(&s->done[item], s->done[item] + 1, __ATOMIC_RELEASE);
}

enum choir_status cuda_staged_quiesce(struct cuda_staged *s)
{
    bool good = true;
    (void)s;
    pthread_mutex_lock(&lock);
    for (struct mock_stream *x = streams; x; x = x->next) {
        pthread_mutex_unlock(&lock); /* a test opens and closes streams between operations */
        good &= wait_for(x);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return good ? CHOIR_OK
                : base_fail(CHOIR_ERR_SYSTEM, "look at the kernel", "waiting for the GPU: broken");
}

void cuda_staged_close(struct cuda_staged *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->memories; i++)
        free(s->memory[i]);
    free(s);
}
