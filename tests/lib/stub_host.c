/* SPDX-License-Identifier: Apache-2.0 */
/* The library's side of a transport, for tests; see stub_host.h. */
#include "tests/lib/stub_host.h"
#include "tests/lib/test.h"
#include <poll.h>
#include <sched.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

static struct stub_peer *peer_new(struct stub *m, const struct choir_process *process)
{
    CHECK_LT(m->peer_count, STUB_PEERS);
    struct stub_peer *p = &m->peer[m->peer_count++];
    *p = (struct stub_peer){.stub = m, .process = *process};
    return p;
}

struct stub_peer *stub_peer_of(struct stub *m, const struct choir_process *process)
{
    for (uint32_t i = m->peer_count; i-- > 0;)
        if (!memcmp(&m->peer[i].process, process, sizeof(*process)))
            return &m->peer[i];
    return NULL;
}

static void *accepted(void *context, const struct choir_process *process,
                      struct choir_endpoint *endpoint)
{
    struct stub *m = context;
    if (m->refuse)
        return NULL;
    struct stub_peer *p = peer_new(m, process);
    p->endpoint = endpoint;
    m->accepted_count++;
    return p;
}

static void *place(void *context, void *cookie, const struct choir_frame *frame)
{
    struct stub *m = context;
    ((struct stub_peer *)cookie)->placed++;
    if (m->discard)
        return NULL;
    void *where = m->unchecked ? m->scratch : malloc(frame->bytes);
    CHECK(where != NULL);
    return where;
}

static void arrived(void *context, void *cookie, const struct choir_frame *frame, void *where)
{
    struct stub *m = context;
    struct stub_peer *p = cookie;
    uint32_t lane = frame->lane;
    CHECK_LT(lane, STUB_LANES);
    if (frame->sequence != p->arrived[lane])
        FAIL("lane %u: frame %" PRIu64 " came, %" PRIu64 " was next", lane, frame->sequence,
             p->arrived[lane]);
    if (frame->bytes && !where) {
        CHECK(m->discard);
        p->discarded++;
    } else if (!m->unchecked) {
        if (!stub_same(where, frame->bytes, lane, frame->sequence))
            FAIL("lane %u: payload of frame %" PRIu64 " (%u bytes) is damaged", lane,
                 frame->sequence, frame->bytes);
        CHECK_EQ(frame->arg[2], frame->sequence * 3);
    }
    p->arrived[lane]++;
    p->bytes += frame->bytes;
    m->arrived_count++;
    if (m->on_arrived)
        m->on_arrived(p, frame, where);
    if (!m->unchecked)
        free(where);
}

static void failed(void *context, void *cookie, enum choir_status status, int sys_errno,
                   const char *text)
{
    (void)context, (void)sys_errno;
    struct stub_peer *p = cookie;
    p->failed++;
    p->status = status;
    snprintf(p->text, sizeof(p->text), "%s", text);
    if (getenv("CHOIR_TEST_LOG"))
        fprintf(stderr, "failed: %s %s\n", choir_status_name(status), text);
}

static enum choir_status watch(void *context, int fd, int writable, void (*fn)(void *), void *arg)
{
    (void)writable;
    struct stub *m = context;
    m->watch_fd = fd, m->watch_fn = fn, m->watch_arg = arg;
    return CHOIR_OK;
}

static int secret(void *context, const unsigned char *name, unsigned char name_out[16],
                  unsigned char out[32])
{
    struct stub *m = context;
    unsigned char own[16];
    for (int i = 0; i < 16; i++)
        own[i] = (unsigned char)(m->secret[i] ^ m->secret[16 + i] ^ 0x5a);
    if (!m->has_secret || (name && memcmp(name, own, 16)))
        return 0;
    memcpy(name_out, own, 16);
    memcpy(out, m->secret, 32);
    return 1;
}

static void log_line(void *context, int level, const char *text)
{
    struct stub *m = context;
    if (level <= BASE_WARN) {
        m->log_count++;
        snprintf(m->last_log, sizeof(m->last_log), "%s", text);
    }
    if (getenv("CHOIR_TEST_LOG"))
        fprintf(stderr, "log %d: %s\n", level, text);
}

static const char *knob(void *context, const char *name)
{
    struct stub *m = context;
    for (int i = 0; i < STUB_KNOBS && m->knob[i][0]; i++)
        if (!strcmp(m->knob[i][0], name))
            return m->knob[i][1];
    return NULL;
}

void stub_init(struct stub *m, const struct choir_transport_ops *ops)
{
    *m = (struct stub){.ops = ops};
    m->host = (struct choir_transport_host){
        .bytes = sizeof(m->host),
        .abi = CHOIR_TRANSPORT_ABI,
        .context = m,
        .host_id = "test host",
        .accepted = accepted,
        .place = place,
        .arrived = arrived,
        .failed = failed,
        .watch = watch,
        .secret = secret,
        .log = log_line,
        .knob = knob,
    };
    CHECK_EQ(getrandom(&m->host.self, sizeof(m->host.self), 0), sizeof(m->host.self));
    pthread_mutex_init(&m->driving, NULL);
    stub_secret(m, "correct horse battery staple");
}

bool stub_kernel_zerocopy(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    bool has = fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one));
    close(fd);
    return has;
}

void stub_knob(struct stub *m, const char *name, const char *value)
{
    int i = 0;
    while (m->knob[i][0] && strcmp(m->knob[i][0], name))
        i++;
    CHECK_LT(i, STUB_KNOBS);
    m->knob[i][0] = name, m->knob[i][1] = value;
}

void stub_secret(struct stub *m, const char *text)
{
    m->has_secret = text != NULL;
    memset(m->secret, 0, sizeof(m->secret));
    if (text)
        memcpy(m->secret, text, base_min(strlen(text), sizeof(m->secret)));
}

void stub_open(struct stub *m)
{
    char text[200];
    CHECK_OK(m->ops->probe(&m->host, text, sizeof(text)));
    CHECK_OK(m->ops->open(&m->host, &m->t));
    m->scratch = calloc(1, CHOIR_FRAME_MOST);
    CHECK(m->scratch != NULL);
}

void stub_close(struct stub *m)
{
    stub_service_stop(m);
    for (uint32_t i = 0; i < m->peer_count; i++)
        if (m->peer[i].endpoint)
            m->ops->disconnect(m->peer[i].endpoint);
    m->ops->close(m->t);
    free(m->scratch);
    pthread_mutex_destroy(&m->driving);
}

size_t stub_address(struct stub *m, void *address)
{
    size_t bytes = STUB_ADDRESS;
    CHECK_OK(m->ops->address(m->t, address, &bytes));
    return bytes;
}

struct stub_peer *stub_connect(struct stub *m, const struct choir_process *process,
                               const void *address, size_t bytes)
{
    struct stub_peer *p = stub_peer_of(m, process);
    if (!p)
        p = peer_new(m, process);
    CHECK_OK(m->ops->connect(m->t, process, address, bytes, p, &p->endpoint));
    return p;
}

uint32_t stub_progress(struct stub *m)
{
    uint32_t events = 0;
    if (!pthread_mutex_trylock(&m->driving)) {
        events = m->ops->progress(m->t);
        pthread_mutex_unlock(&m->driving);
    }
    return events;
}

static void *serve(void *arg)
{
    struct stub *m = arg;
    while (!atomic_load(&m->stop)) {
        struct pollfd f = {m->watch_fd, POLLIN, 0};
        if (poll(&f, 1, 20) == 1 && !pthread_mutex_trylock(&m->driving)) {
            m->watch_fn(m->watch_arg);
            pthread_mutex_unlock(&m->driving);
        }
    }
    return NULL;
}

void stub_service_start(struct stub *m)
{
    atomic_store(&m->stop, false);
    CHECK_EQ(pthread_create(&m->service, NULL, serve, m), 0);
    m->serving = true;
}

void stub_service_stop(struct stub *m)
{
    if (!m->serving)
        return;
    atomic_store(&m->stop, true);
    pthread_join(m->service, NULL);
    m->serving = false;
}

uint32_t stub_frame_bytes(uint64_t seed, uint32_t lane, uint64_t sequence, uint32_t most)
{
    uint64_t x = base_mix(seed + lane * 1000003 + sequence * 7919 + 1);
    switch (x % 8) {
    case 0:
        return 0;
    case 1:
        return (uint32_t)(x >> 8) % base_min(most + 1, 17u);
    case 2: /* around the sizes at which something changes */
        return base_min(most, (4096u << (x >> 8) % 8) + (uint32_t)(x >> 16) % 3 - 1);
    case 3:
        return (uint32_t)((x >> 8) % ((uint64_t)most + 1));
    default:
        return (uint32_t)(x >> 8) % base_min(most + 1, 3000u);
    }
}

void stub_fill(void *out, uint32_t bytes, uint32_t lane, uint64_t sequence)
{
    uint64_t x = base_mix(sequence * STUB_LANES + lane + 12345), w;
    for (uint32_t i = 0; i < bytes; i += 8) {
        w = x + i * 0x9e3779b97f4a7c15u;
        memcpy((char *)out + i, &w, base_min(8u, bytes - i));
    }
}

bool stub_same(const void *in, uint32_t bytes, uint32_t lane, uint64_t sequence)
{
    uint64_t x = base_mix(sequence * STUB_LANES + lane + 12345), w;
    for (uint32_t i = 0; i < bytes; i += 8) {
        w = x + i * 0x9e3779b97f4a7c15u;
        if (memcmp((const char *)in + i, &w, base_min(8u, bytes - i)))
            return false;
    }
    return true;
}

enum choir_status stub_send(struct stub_peer *p, uint32_t lane, uint16_t kind, void *payload,
                            uint32_t bytes, struct choir_send *request)
{
    struct choir_frame f = {.bytes = bytes, .kind = kind, .lane = (uint16_t)lane};
    f.sequence = p->sent[lane]++;
    f.arg[2] = f.sequence * 3;
    return p->stub->ops->send(p->endpoint, &f, payload, request);
}

void stub_until(struct stub *a, struct stub *b, bool (*done)(struct stub *, struct stub *),
                uint64_t limit_ns, const char *what)
{
    uint64_t end = base_now_ns() + limit_ns;
    while (!done(a, b)) {
        uint32_t events = stub_progress(a) + (b ? stub_progress(b) : 0);
        if (!events)
            sched_yield();
        if (base_now_ns() > end)
            FAIL("%s: not within %" PRIu64 " ms", what, limit_ns / 1000000);
    }
}

static bool both_up(struct stub *a, struct stub *b)
{
    return a->peer_count && b->peer_count && a->peer[0].endpoint && b->peer[0].endpoint &&
           a->ops->connected(a->peer[0].endpoint) == CHOIR_OK &&
           b->ops->connected(b->peer[0].endpoint) == CHOIR_OK;
}

/* a connects to b, both in this process and driven by this thread. */
void stub_join(struct stub *a, struct stub *b)
{
    char address[STUB_ADDRESS];
    size_t bytes = stub_address(b, address);
    stub_connect(a, &b->host.self, address, bytes);
    stub_until(a, b, both_up, 5000000000ull, "joining");
}

/* --- traffic: each side sends `frames` frames of mixed sizes on all lanes ------------------------------- */

void stub_flow_step(struct stub_flow *f, struct stub_peer *p)
{
    for (int i = 0; i < STUB_UNDER_WAY && f->next < f->frames; i++) {
        if (f->lent[i] && !atomic_load(&f->request[i].done))
            continue;
        if (f->lent[i])
            CHECK_EQ(atomic_load(&f->request[i].done), 1);
        free(f->payload[i]);
        uint32_t lane = (uint32_t)(base_mix(f->seed + f->next) % STUB_LANES);
        uint32_t bytes = stub_frame_bytes(f->seed, lane, p->sent[lane], f->most);
        f->payload[i] = malloc(bytes ? bytes : 1);
        stub_fill(f->payload[i], bytes, lane, p->sent[lane]);
        uint16_t kind = f->next % 5 ? CHOIR_FRAME_DATA : 1;
        enum choir_status s = stub_send(p, lane, kind, f->payload[i], bytes, &f->request[i]);
        CHECK(s == CHOIR_OK || s == CHOIR_IN_PROGRESS);
        f->lent[i] = s == CHOIR_IN_PROGRESS;
        if (!f->lent[i])
            memset(f->payload[i], 0xee, bytes); /* may be reused */
        f->next++;
    }
}

bool stub_flow_done(struct stub_flow *f)
{
    bool done = f->next == f->frames;
    for (int i = 0; i < STUB_UNDER_WAY; i++)
        done &= !f->lent[i] || atomic_load(&f->request[i].done);
    return done;
}

void stub_flow_free(struct stub_flow *f)
{
    for (int i = 0; i < STUB_UNDER_WAY; i++)
        free(f->payload[i]);
}

void stub_traffic(struct stub *a, struct stub *b, uint64_t frames, uint32_t most,
                  void (*meanwhile)(struct stub *, struct stub *))
{
    struct stub_flow fa = {.seed = test_seed(), .frames = frames, .most = most};
    struct stub_flow fb = {.seed = test_seed() + 1, .frames = frames, .most = most};
    uint64_t to_a = a->arrived_count + frames, to_b = b->arrived_count + frames;
    uint64_t end = base_now_ns() + 30000000000ull;
    while (a->arrived_count < to_a || b->arrived_count < to_b || !stub_flow_done(&fa) ||
           !stub_flow_done(&fb)) {
        stub_flow_step(&fa, &a->peer[0]);
        stub_flow_step(&fb, &b->peer[0]);
        stub_progress(a);
        stub_progress(b);
        if (meanwhile)
            meanwhile(a, b);
        if (base_now_ns() > end)
            FAIL("%" PRIu64 " and %" PRIu64 " of %" PRIu64 " frames came", a->arrived_count,
                 b->arrived_count, frames);
    }
    stub_flow_free(&fa);
    stub_flow_free(&fb);
}
