/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process keeps of ranks that it knows and does not talk to: memory for each, and their cards, which are to be had back byte for
 * byte however they are kept.
 */
#include "comm/comm.h"
#include "host/process.h"
#include "tests/lib/test.h"
#include <malloc.h>

#define PER_HOST 8u
#define MOST_BYTES 300u /* for each known rank; whole cards alone would take 250 to 600 */

static struct host_card own;

static void put(uint8_t **at, const void *bytes, size_t n)
{
    memcpy(*at, bytes, n);
    *at += n;
}

static void put_random(uint8_t **at, size_t n, uint64_t *state)
{
    for (; n; n--)
        *(*at)++ = (uint8_t)base_random(state);
}

/* A card as a rank sends it that shares a host with PER_HOST - 1 others, is bound to a core and has so many interfaces: as
 * in real ones, hosts differ by their key and numbers in addresses, their ranks by ids, a port and the core. */
static uint32_t fake(uint32_t rank, uint32_t interfaces, uint8_t *card)
{
    uint32_t host = rank / PER_HOST;
    uint64_t key = base_mix(host + 1), net = base_mix(host + 7), random = rank + 1;
    struct host_card head = own;
    uint8_t *at = head.process.bytes;
    put_random(&at, sizeof(head.process.bytes), &random);
    head.host_key = key;
    memset(head.core_set, 0, sizeof(head.core_set));
    head.core_set[0] = (uint8_t)(1u << rank % PER_HOST);

    at = card + sizeof(head);
    put(&at, "\3\x20\0shm", 6);
    put(&at, "a magic ", 8);
    put(&at, &key, 8);
    put(&at, &net, 8);
    put_random(&at, 8, &random);
    uint32_t bytes = 48 + 24 * interfaces;
    put(&at, (uint8_t[]){3, (uint8_t)bytes, (uint8_t)(bytes >> 8), 't', 'c', 'p'}, 6);
    put(&at, "TCP1", 4);
    put_random(&at, 2, &random);
    put(&at, (uint8_t[]){(uint8_t)interfaces, 0}, 2);
    put(&at, &key, 8);
    put(&at, &head.process, 16);
    put(&at, "name of a secret", 16);
    for (uint32_t i = 0; i < interfaces; i++) {
        uint8_t entry[24] = {0, (uint8_t)i, 24, 17, [8] = 10, (uint8_t)i, (uint8_t)(host >> 8)};
        entry[11] = (uint8_t)host;
        put(&at, entry, sizeof(entry));
    }
    head.bytes = (uint32_t)(at - card);
    CHECK_LE(head.bytes, HOST_CARD_MOST);
    memcpy(card, &head, sizeof(head));
    return head.bytes;
}

/* What this library itself says. */
static void look_at_own(void)
{
    struct choir_id id;
    choir_comm *c;
    CHECK_OK(choir_id_create(&id));
    CHECK_OK(choir_comm_create(&id, 0, 1, NULL, &c));
    host_peer_card(c->host.member[0], &own);
    CHECK_OK(choir_comm_destroy(c));
}

static size_t used(void)
{
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

/* A communicator of ranks of which none is reached. */
static void know(uint32_t ranks, uint32_t interfaces)
{
    uint8_t card[HOST_CARD_MOST];
    enum choir_status st;
    struct choir_comm *c = comm_alloc(NULL, &st);
    size_t before = used();
    struct host_peer **member = malloc(ranks * sizeof(*member));
    CHECK(c && member);
    size_t list = used() - before;
    for (uint32_t r = 0; r < ranks; r++) {
        member[r] = host_peer_learn(card, fake(r, interfaces, card));
        CHECK(member[r] != NULL);
    }
    size_t processes = used() - before - list;
    CHECK_OK(creation_start_members(c, 1, 5, ranks, member));
    size_t all = used() - before;
    printf("%u ranks, %u interfaces a host: %zu bytes for each, %zu of these in the communicator\n",
           ranks, interfaces, all / ranks, (all - processes) / ranks);
    CHECK_EQ(c->layout->hosts, ranks / PER_HOST);
    CHECK_EQ(c->host.local_ranks, PER_HOST);
    if (!TEST_SANITIZED) /* their allocators are not what is asked */
        CHECK_LE(all / ranks, MOST_BYTES);
    comm_free(c);
}

static void memory(void)
{
    uint32_t ranks = TEST_SANITIZED ? 4000 : 100000;
    look_at_own();
    know(ranks, 2);
    know(ranks, 9);
    know(ranks, 16);
}

/* Of agreements, each of which brings something of every rank, nothing is left. */
static void agree(int rank, int size, void *id)
{
    choir_comm *c, *child;
    CHECK_OK(choir_comm_create(id, rank, size, NULL, &c));
    CHECK_OK(choir_comm_split(c, 0, rank, NULL, &child));
    CHECK(!c->tree.own && !c->tree.down.data);
    for (uint32_t i = 0; i < TREE_CHILDREN; i++)
        CHECK(!c->tree.child[i].data);
    CHECK_OK(choir_barrier(c, NULL));
    CHECK_OK(choir_comm_destroy(child));
    CHECK_OK(choir_comm_destroy(c));
}

static void agreed(void)
{
    struct choir_id id;
    CHECK_OK(choir_id_create(&id));
    test_threads(12, agree, &id);
}

/* More kinds of hosts than are told apart, and cards that are like no other. */
static uint32_t fake_any(uint32_t rank, uint8_t *card)
{
    uint32_t bytes = fake(rank, rank % 17, card);
    uint64_t random = rank;
    if (rank % 5)
        return bytes;
    uint8_t *first = card + sizeof(struct host_card), *hash = first - 8;
    uint8_t *shm = first + 6, *tcp = shm + 32 + 6;
    put_random(&hash, 8, &random); /* with what follows, a run beyond the head */
    first[0] = 4, first[1] = 31;   /* one byte of its address is in its name */
    put_random(&shm, 32, &random);
    put_random(&tcp, (size_t)(card + bytes - tcp), &random);
    return bytes;
}

#define CARDS 3000u
static void learn(int thread, int threads, void *arg)
{
    (void)threads, (void)arg;
    for (uint32_t i = 0; i < CARDS; i++) {
        uint32_t rank = thread % 2 ? i : CARDS - 1 - i;
        uint8_t card[HOST_CARD_MOST], back[HOST_CARD_MOST];
        struct {
            struct host_card head;
            uint8_t behind[UINT8_MAX];
        } got = {0};
        static const uint8_t nothing[UINT8_MAX];
        size_t bytes = 0, all = fake_any(rank, card);
        struct host_peer *peer = host_peer_learn(card, (uint32_t)all);
        CHECK(peer != NULL);
        CHECK(peer == host_peer_find((const struct choir_process *)(const void *)card, false));
        host_peer_card(peer, &got.head);
        CHECK(!memcmp(&got.head, card, sizeof(got.head)));
        CHECK(!memcmp(got.behind, nothing, sizeof(nothing)));
        const uint8_t *address = cards_address(peer, "tcp", back, &bytes);
        CHECK(!memcmp(back, card, all));
        CHECK(address == back + all - bytes);
        CHECK_EQ(bytes, 48 + 24 * (rank % 17));
        CHECK(!cards_address(peer, "tc", back, &bytes));
    }
}

/* Several threads learn the same ranks. */
static void exact(void)
{
    look_at_own();
    CHECK_OK(host_start());
    test_threads(4, learn, NULL);
    host_stop();
}

static void no_cards(void)
{
    _Alignas(8) uint8_t card[HOST_CARD_MOST + 3] = {0};
    struct host_card *head = (struct host_card *)(void *)card;
    look_at_own();
    CHECK_OK(host_start());
    uint32_t bytes = fake(3, 2, card);
    CHECK(!host_peer_learn(card, bytes - 1));
    CHECK(!host_peer_learn(card, sizeof(own) - 1));
    card[sizeof(own) + 1]++; /* the bytes of an address */
    CHECK(!host_peer_learn(card, bytes));
    card[sizeof(own) + 1]--;
    head->bytes = sizeof(card); /* the rest: empty addresses without a name */
    CHECK(!host_peer_learn(card, sizeof(card)));
    CHECK(!host_peer_learn(card, bytes));
    head->bytes = bytes;
    CHECK(host_peer_learn(card, bytes) != NULL);
    host_stop();
}

TEST_MAIN(TEST(memory), TEST(agreed), TEST(exact), TEST(no_cards))
