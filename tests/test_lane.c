/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One lane of a link, both ends moved by one thread, so in any order wanted: what is read is what was put, nothing is written over
 * what is still to be read, and who put all it had room for may put more once all is read. Over mapped memory and over
 * frames, which a transport made here hands over at once.
 */
#include "host/host.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"

#define SLOT 16384u
#define SOURCES (LANE_DEPTH + 1) /* one more than can be under way: to be refused, too */

static struct host_comm comm[2];
static struct host_peer peer[2], *member[2] = {&peer[0], &peer[1]};
static struct host_end end[2];
static uint8_t source[SOURCES][SLOT];
static uint32_t length[SOURCES];

static struct way {
    struct host_link *out, *in; /* of rank 0, and of rank 1 */
    uint32_t lane, put, read;
} way;

/* --- the transport ------------------------------------------------------------------------------ */

static enum choir_status alloc(struct choir_transport *t, uint64_t bytes,
                               struct choir_shared *shared)
{
    (void)t;
    *shared = (struct choir_shared){.bytes = bytes};
    CHECK_EQ(posix_memalign(&shared->memory, BASE_LINE, bytes), 0);
    memset(shared->memory, 0, bytes);
    shared->key = (uint64_t)(uintptr_t)shared->memory;
    return CHOIR_OK;
}

static enum choir_status release(struct choir_transport *t, struct choir_shared *shared)
{
    (void)t;
    free(shared->memory);
    return CHOIR_OK;
}

static enum choir_status map(struct choir_endpoint *e, uint64_t key, uint64_t bytes, void **memory)
{
    (void)e, (void)bytes;
    *memory = (void *)(uintptr_t)key;
    return CHOIR_OK;
}

static enum choir_status unmap(struct choir_endpoint *e, void *memory, uint64_t bytes)
{
    (void)e, (void)memory, (void)bytes;
    return CHOIR_OK;
}

static uint32_t caps(struct choir_endpoint *e)
{
    (void)e;
    return CHOIR_CAP_READ_FAST;
}

static enum choir_status send(struct choir_endpoint *e, const struct choir_frame *f,
                              const void *payload, struct choir_send *request)
{
    (void)e, (void)request;
    if (f->kind < CHOIR_FRAME_DATA) {
        host_link_frame(&comm[f->to], &end[f->from], f);
        return CHOIR_OK;
    }
    void *where = host_link_place(&comm[f->to], f);
    CHECK(where || !f->bytes);
    if (f->bytes)
        memcpy(where, payload, f->bytes);
    host_link_arrived(&comm[f->to], f, where);
    return CHOIR_OK;
}

static const struct choir_transport_ops ops = {.name = "test",
                                               .alloc = alloc,
                                               .release = release,
                                               .map = map,
                                               .unmap = unmap,
                                               .caps = caps,
                                               .send = send};

static void begin(bool maps, uint32_t lane)
{
    host_process.transport[0] = (struct host_transport){.ops = &ops, .maps = maps};
    host_process.transports = 1;
    for (uint32_t r = 0; r < 2; r++) {
        peer[r] = (struct host_peer){0};
        memset(&peer[r].id, (int)r + 1, sizeof(peer[r].id));
        end[r] = (struct host_end){.peer = &peer[r], .state = HOST_END_READY};
        atomic_store(&peer[r].best, &end[r]);
        comm[r] = (struct host_comm){.key = r + 1,
                                     .rank = r,
                                     .size = 2,
                                     .member = member,
                                     .slot_bytes = SLOT,
                                     .local_ranks = 2,
                                     .local_cores = 2};
        CHECK_OK(host_comm_open(&comm[r]));
    }
    way = (struct way){.lane = lane, .out = host_link_get(&comm[0], 1)};
    CHECK(way.out && !host_link_ready(way.out) && host_link_ready(way.out));
    CHECK_EQ(way.out->mapped != NULL, maps);
    way.in = host_link_get(&comm[1], 0);
}

static void finish(void)
{
    for (uint32_t r = 0; r < 2; r++) {
        CHECK(host_comm_hide(&comm[r]));
        host_comm_close(&comm[r]);
    }
}

/* --- the ends ----------------------------------------------------------------------------------- */

static uint8_t byte_of(uint32_t number, uint32_t at)
{
    return (uint8_t)(number * 31 + at * 7 + at / 256);
}

static bool put(uint32_t bytes, bool pull)
{
    uint8_t *from = source[way.put % SOURCES];
    for (uint32_t i = 0; i < bytes; i++)
        from[i] = byte_of(way.put, i);
    bool done = pull ? host_link_put_pull(way.out, way.lane, from, bytes, &(struct host_view){0}, 1)
                     : host_link_put(way.out, way.lane, from, bytes, 1, bytes > HOST_LEND_BYTES);
    if (!done && way.put == way.read)
        FAIL("no room for %u bytes although all %u fragments were read", bytes, way.read);
    if (done)
        length[way.put++ % SOURCES] = bytes;
    return done;
}

static bool read_one(void)
{
    struct lane_rx *rx = &way.in->rx[way.lane];
    const struct lane_line *line = lane_front(rx, 0);
    CHECK_EQ(line != NULL, way.read != way.put);
    if (!line)
        return false;
    uint32_t where = line->where, bytes = length[way.read % SOURCES];
    bool pull = (where & LANE_WHERE) == LANE_AT_SENDER;
    const uint8_t *data = pull ? (const uint8_t *)(uintptr_t)line->pull.address
                          : (where & LANE_WHERE) == LANE_AT_LINE ? line->data
                                                                 : rx->data + (where >> 8) * 64;
    CHECK_EQ(pull ? line->pull.bytes : line->bytes, bytes);
    for (uint32_t i = 0; i < bytes; i++)
        if (data[i] != byte_of(way.read, i))
            FAIL("byte %u of fragment %u (of %u) was written over", i, way.read, bytes);
    way.read++;
    host_link_consume(way.in, way.lane, where);
    return true;
}

/* As an operation does that waits for its message to be read where it lies. */
static void look(void)
{
    lane_tx_refresh(&way.out->tx[way.lane]);
}

/* --- cases -------------------------------------------------------------------------------------- */

/* A short fragment goes to the ring's start behind a message that has no bytes in the ring; then that message is seen to be
 * read, and the short one is read, which was not asked for: nothing else will ever be told. */
static void start_again(void)
{
    begin(true, 0);
    CHECK(put(100, false) && put(SLOT, true) && read_one() && read_one());
    look();
    CHECK(put(SLOT, true) && put(100, false) && read_one());
    look();
    CHECK(read_one());
    CHECK(put(100, false) && read_one());
    finish();
}

static uint32_t draw(uint64_t *seed, uint32_t below)
{
    return (uint32_t)(test_mix((*seed)++) % below);
}

static void walk(bool maps, uint32_t lane)
{
    static const uint32_t most[] = {1, LANE_INLINE + 1, LANE_WARM + 64, SLOT + 1};
    uint64_t seed = test_mix(test_seed() + 2 * lane + maps);
    begin(maps, lane);
    for (int i = 0; i < TEST_BY_EFFORT(4000, 20000, 400000); i++) {
        uint32_t n = draw(&seed, 4) ? 1 + draw(&seed, 3) : LANE_DEPTH + 1;
        uint32_t what = draw(&seed, 9), below = most[draw(&seed, 4)];
        for (; n; n--)
            if (what < 4)
                put(draw(&seed, below), false);
            else if (what == 4 && maps)
                put(HOST_COPY_BYTES, true);
            else if (what < 8)
                read_one();
            else
                look();
    }
    while (read_one())
        ;
    finish();
}

static void mapped(void)
{
    walk(true, 0);
    walk(true, 1);
}

static void frames(void)
{
    walk(false, 0);
    walk(false, 1);
}

TEST_MAIN(TEST(start_again), TEST(mapped), TEST(frames))
