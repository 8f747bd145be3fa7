/* SPDX-License-Identifier: Apache-2.0 */
/* See mock_host.h. */
#include "tests/lib/mock_host.h"
#include "base/knob.h"
#include "tests/lib/test.h"
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#define KIND_NOTE 1

static void fill(unsigned char *p, uint32_t bytes, uint64_t seed)
{
    uint64_t state = seed, w;
    for (uint32_t i = 0; i < bytes; i += 8) {
        w = base_random(&state);
        memcpy(p + i, &w, base_min(8u, bytes - i));
    }
}

static bool is_filled(const unsigned char *p, uint32_t bytes, uint64_t seed)
{
    uint64_t state = seed, w;
    for (uint32_t i = 0; i < bytes; i += 8) {
        w = base_random(&state);
        if (memcmp(p + i, &w, base_min(8u, bytes - i)))
            return false;
    }
    return true;
}

static struct mock_peer *new_peer(struct mock *m, const struct choir_process *process)
{
    struct mock_peer *p = calloc(1, sizeof(*p));
    CHECK(p != NULL);
    p->mock = m;
    p->process = *process;
    CHECK_LT(m->peer_count, MOCK_PEERS);
    m->peer[m->peer_count] = p;
    m->peer_count++;
    return p;
}

static void *accepted(void *context, const struct choir_process *peer, struct choir_endpoint *ep)
{
    struct mock *m = context;
    if (m->refuse_peers)
        return NULL;
    struct mock_peer *p = new_peer(m, peer);
    p->endpoint = ep;
    p->accepted = true;
    return p;
}

static void *place(void *context, void *cookie, const struct choir_frame *frame)
{
    struct mock *m = context;
    struct mock_peer *p = cookie;
    CHECK(p->mock == m && frame->bytes > 0);
    CHECK(p->buffer == NULL);
    if (m->discard)
        return NULL;
    p->buffer = malloc(frame->bytes);
    CHECK(p->buffer != NULL);
    return p->buffer;
}

static void arrived(void *context, void *cookie, const struct choir_frame *frame, void *where)
{
    struct mock *m = context;
    struct mock_peer *p = cookie;
    CHECK(p->mock == m);
    CHECK_EQ(p->failed_count, 0);
    CHECK(where == p->buffer);
    if (frame->kind == KIND_NOTE) {
        memcpy(p->note, frame->arg, sizeof(p->note));
        p->notes++;
    } else {
        CHECK_EQ(frame->sequence, p->arrived);
        CHECK_EQ(frame->signature, (uint32_t)frame->sequence * 7);
        CHECK_EQ(frame->lane, frame->sequence & 3);
        CHECK(m->discard || is_filled(where, frame->bytes, frame->arg[0]));
        p->arrived++;
        m->arrived++;
    }
    free(p->buffer);
    p->buffer = NULL;
}

static void failed(void *context, void *cookie, enum choir_status status, int sys_errno,
                   const char *text)
{
    struct mock_peer *p = cookie;
    (void)sys_errno;
    CHECK(p->mock == context);
    p->failed = status;
    snprintf(p->text, sizeof(p->text), "%s", text);
    p->failed_count++;
}

static enum choir_status watch(void *context, int fd, int writable, void (*fn)(void *arg),
                               void *arg)
{
    struct mock *m = context;
    CHECK(!writable);
    for (size_t i = 0; i < base_count(m->watch); i++)
        if (m->watch[i].fd == (fn ? -1 : fd)) {
            m->watch[i].fd = fn ? fd : -1;
            m->watch[i].fn = fn;
            m->watch[i].arg = arg;
            return CHOIR_OK;
        }
    FAIL("too many descriptors watched, or one that was not");
}

static int secret(void *context, const unsigned char *name, unsigned char name_out[16],
                  unsigned char out[32])
{
    struct mock *m = context;
    for (int i = m->secret_count - 1; i >= 0; i--)
        if (!name || !memcmp(name, m->secrets[i] + 16, 16)) { /* named by its second half */
            memcpy(name_out, m->secrets[i] + 16, 16);
            memcpy(out, m->secrets[i], 32);
            return 1;
        }
    return 0;
}

static void log_line(void *context, int level, const char *text)
{
    base_log((enum base_level)level, ((struct mock *)context)->rank, "%s", text);
}

void mock_init(struct mock *m, const struct choir_transport_ops *ops, int rank)
{
    uint64_t state = base_now_ns() ^ (uint64_t)getpid() << 32,
             w[2] = {base_random(&state), base_random(&state)};
    memset(m, 0, sizeof(*m));
    m->ops = ops;
    m->rank = rank;
    for (size_t i = 0; i < base_count(m->watch); i++)
        m->watch[i].fd = -1;
    m->host = (struct choir_transport_host){.bytes = sizeof(m->host),
                                            .abi = CHOIR_TRANSPORT_ABI,
                                            .context = m,
                                            .host_id = "test host",
                                            .accepted = accepted,
                                            .place = place,
                                            .arrived = arrived,
                                            .failed = failed,
                                            .watch = watch,
                                            .secret = secret,
                                            .log = log_line};
    memcpy(m->host.self.bytes, w, sizeof(w));
}

void mock_open(struct mock *m, struct mock_board *board)
{
    char text[200] = "";
    CHECK_OK(knob_load());
    if (!getenv("CHOIR_LOG"))
        base_log_level = BASE_ERROR - 1; /* tests of failures log much */
    if (m->ops->probe(&m->host, text, sizeof(text)))
        test_skip("%s", text);
    CHECK_OK(m->ops->open(&m->host, &m->t));
    if (!board)
        return;
    struct mock_place *at = &board->rank[m->rank];
    at->process = m->host.self;
    at->bytes = sizeof(at->address);
    at->pid = getpid();
    CHECK_OK(m->ops->address(m->t, at->address, &at->bytes));
}

struct mock_peer *mock_connect(struct mock *m, const struct mock_board *board, int rank,
                               enum choir_status *status)
{
    const struct mock_place *to = &board->rank[rank];
    struct mock_peer *p = new_peer(m, &to->process);
    *status = m->ops->connect(m->t, &to->process, to->address, to->bytes, p, &p->endpoint);
    if (*status == CHOIR_OK)
        return p;
    CHECK(p->endpoint == NULL);
    m->peer_count--;
    free(p);
    return NULL;
}

enum choir_status mock_wait_connected(struct mock_peer *p)
{
    struct mock *m = p->mock;
    enum choir_status status;
    MOCK_UNTIL(m, (status = m->ops->connected(p->endpoint)) != CHOIR_IN_PROGRESS);
    return status;
}

void mock_progress(struct mock *m)
{
    if (!m->ops->progress(m->t))
        sched_yield();
}

void mock_drop(struct mock_peer *p)
{
    p->mock->ops->disconnect(p->endpoint);
    p->endpoint = NULL;
}

void mock_close(struct mock *m)
{
    for (int i = 0; i < m->peer_count; i++)
        if (m->peer[i]->endpoint)
            mock_drop(m->peer[i]);
    m->ops->close(m->t);
    for (int i = 0; i < m->peer_count; i++) {
        free(m->peer[i]->buffer);
        free(m->peer[i]);
    }
    for (size_t i = 0; i < base_count(m->watch); i++)
        CHECK_EQ(m->watch[i].fd, -1);
}

enum choir_status mock_send(struct mock_peer *p, uint32_t bytes, struct mock_send *s)
{
    struct choir_frame f = {.bytes = bytes, .kind = CHOIR_FRAME_DATA, .sequence = p->sent};
    f.arg[0] = base_mix(p->sent + bytes);
    f.signature = (uint32_t)p->sent * 7;
    f.lane = (uint16_t)(p->sent & 3);
    s->payload = malloc(bytes + 1);
    CHECK(s->payload != NULL);
    fill(s->payload, bytes, f.arg[0]);
    enum choir_status status = p->mock->ops->send(p->endpoint, &f, s->payload, &s->send);
    s->lent = status == CHOIR_IN_PROGRESS;
    if (!s->lent) {
        memset(s->payload, 0xee, bytes); /* no longer of interest to the transport */
        free(s->payload);
        s->payload = NULL;
    }
    if (status >= 0)
        p->sent++;
    return status;
}

bool mock_sent(struct mock_send *s)
{
    if (s->lent && !atomic_load_explicit(&s->send.done, memory_order_acquire))
        return false;
    free(s->payload);
    s->payload = NULL;
    return true;
}

enum choir_status mock_note(struct mock_peer *p, uint64_t a, uint64_t b, uint64_t c)
{
    struct choir_frame f = {.kind = KIND_NOTE, .arg = {a, b, c}};
    return p->mock->ops->send(p->endpoint, &f, NULL, NULL);
}

struct mock_board *mock_board_new(void)
{
    void *p = mmap(NULL, sizeof(struct mock_board), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

void mock_board_free(struct mock_board *board)
{
    munmap(board, sizeof(*board));
}

void mock_meet(struct mock_board *board, struct mock *m, int size, int number)
{
    uint64_t end = base_now_ns() + 30000000000u;
    board->arrived[number]++;
    while (board->arrived[number] < size) {
        if (m)
            mock_progress(m);
        else
            sched_yield();
        if (base_now_ns() > end)
            FAIL("%d of %d met at %d", board->arrived[number], size, number);
    }
}

struct mock_peer *mock_pair(struct mock *m, struct mock_board *board, int rank, bool dials)
{
    enum choir_status status;
    struct mock_peer *p;
    mock_open(m, board);
    mock_meet(board, NULL, 2, 0);
    if (dials) {
        CHECK((p = mock_connect(m, board, 1 - rank, &status)) != NULL);
        CHECK_OK(mock_wait_connected(p));
    } else {
        MOCK_UNTIL(m, m->peer_count == 1);
        p = m->peer[0];
        CHECK_OK(m->ops->connected(p->endpoint));
    }
    CHECK(!memcmp(&p->process, &board->rank[1 - rank].process, sizeof(p->process)));
    return p;
}
