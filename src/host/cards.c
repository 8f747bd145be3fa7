/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cards.c: what processes tell of themselves: writing this one's card, checking and keeping those of others.
 *
 * A process knows all ranks of a job and reaches few, so cards are kept small: one whole (a model), the others as what sets
 * them apart from it. Ranks of a host share nearly all of a card, hosts of one kind most of it. No meaning of the bytes
 * is used: addresses are known to transports only.
 */
#include "host/process.h"
#include <stdlib.h>

#define MODELS 16u /* kinds of hosts in a job; each card is compared with all */
#define RUN_MOST 255u

struct host_kept {                 /* a card, for good */
    const struct host_kept *model; /* NULL: whole, and the bytes are the card's */
    uint16_t bytes, packed;        /* of the card; of what follows: */
    uint8_t data[]; /* runs { bytes equal to the model's, bytes that follow; these } */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* models, and a peer's card being set */
static const struct host_kept *models[MODELS]; /* each the card of a peer, which owns it */
static uint32_t model_count;

enum choir_status host_card_write(struct host_card *card, uint64_t wire_hash)
{
    struct host_process *p = &host_process;
    const struct topo *topo = topo_get();
    *card = (struct host_card){.process = p->id,
                               .host_key = p->host_key,
                               .version = choir_version(),
                               .cores = topo->cores,
                               .quota = topo->quota,
                               .wire_hash = wire_hash};
    memcpy(card->core_set, topo->core_set, sizeof(card->core_set));
    uint8_t *at = (uint8_t *)(card + 1), *end = (uint8_t *)card + HOST_CARD_MOST;
    for (uint32_t i = 0; i < p->transports; i++) {
        size_t name = strlen(p->transport[i].ops->name), room;
        if (p->transport[i].ops->expects() & CHOIR_CAP_READ_FAST)
            card->reads_fast = 1;
        if ((size_t)(end - at) < name + 3)
            break;
        room = (size_t)(end - at) - name - 3;
        if (p->transport[i].ops->address(p->transport[i].t, at + 3 + name, &room) != CHOIR_OK)
            continue;
        at[0] = (uint8_t)name, at[1] = (uint8_t)room, at[2] = (uint8_t)(room >> 8);
        memcpy(at + 3, p->transport[i].ops->name, name);
        at += 3 + name + room;
    }
    card->bytes = (uint32_t)(at - (uint8_t *)card);
    return CHOIR_OK;
}

static bool well_formed(const void *data, uint32_t bytes)
{
    struct host_card card;
    if (bytes < sizeof(card) || bytes > HOST_CARD_MOST)
        return false;
    memcpy(&card, data, sizeof(card));
    if (card.bytes != bytes)
        return false;
    const uint8_t *at = (const uint8_t *)data + sizeof(card), *end = (const uint8_t *)data + bytes;
    while (at < end) {
        if (end - at < 3 || end - at < 3 + at[0] + at[1] + (at[2] << 8))
            return false;
        at += 3 + at[0] + at[1] + (at[2] << 8);
    }
    return true;
}

/* --- keeping ------------------------------------------------------------------------------------ */

/* Bytes from `at` on, up to `most`, that the card has as the model has them. */
static uint32_t alike(const struct host_kept *model, const uint8_t *card, uint32_t bytes,
                      uint32_t at, uint32_t most)
{
    uint32_t end = base_min(base_min(bytes, model->bytes), at + most), i = at;
    while (i < end && card[i] == model->data[i])
        i++;
    return i - at;
}

/* The card as runs on the model. Only runs of RUN_MOST bytes, and the first, add to its length: there is room. */
static uint32_t pack(const struct host_kept *model, const uint8_t *card, uint32_t bytes,
                     uint8_t out[2 * HOST_CARD_MOST])
{
    uint32_t at = 0, n = 0;
    for (;;) {
        uint32_t same = alike(model, card, bytes, at, RUN_MOST), own = 0;
        at += same;
        if (at == bytes)
            return n;
        /* Fewer than three equal bytes would cost as much as a run of their own. */
        while (own < RUN_MOST && at + own < bytes && alike(model, card, bytes, at + own, 3) < 3)
            own++;
        out[n] = (uint8_t)same, out[n + 1] = (uint8_t)own;
        memcpy(out + n + 2, card + at, own);
        n += 2 + own, at += own;
    }
}

/* The first `most` bytes of the card. */
static void unpack(const struct host_kept *k, uint8_t *out, uint32_t most)
{
    const struct host_kept *model = k->model ? k->model : k;
    memcpy(out, model->data, base_min(most, model->bytes));
    const uint8_t *run = k->data, *end = k->model ? run + k->packed : run;
    for (uint32_t at = 0; run < end; run += 2 + run[1]) {
        at += run[0];
        if (at >= most)
            return;
        memcpy(out + at, run + 2, base_min(run[1], most - at));
        at += run[1];
    }
}

/* Under the lock. */
static struct host_kept *keep(const uint8_t *card, uint32_t bytes)
{
    uint8_t packed[2][2 * HOST_CARD_MOST];
    uint32_t least = bytes, best = 0;
    const struct host_kept *model = NULL;
    for (uint32_t i = 0; i < model_count; i++) {
        uint32_t n = pack(models[i], card, bytes, packed[!best]);
        if (n < least)
            least = n, best = !best, model = models[i];
    }
    /* One of another kind: others of it will follow. */
    bool whole = !model || (model_count < MODELS && least > bytes / 2);
    if (whole)
        model = NULL, least = bytes;
    struct host_kept *k = malloc(sizeof(*k) + least);
    if (!k)
        return NULL;
    *k = (struct host_kept){model, (uint16_t)bytes, (uint16_t)least};
    memcpy(k->data, whole ? card : packed[best], least);
    if (whole && model_count < MODELS)
        models[model_count++] = k;
    return k;
}

struct host_peer *host_peer_learn(const void *card, uint32_t bytes)
{
    struct choir_process id;
    if (!well_formed(card, bytes))
        return NULL;
    memcpy(&id, card, sizeof(id)); /* the card begins with it */
    struct host_peer *peer = host_peer_find(&id, true);
    if (!peer)
        return NULL;
    pthread_mutex_lock(&lock);
    if (!atomic_load(&peer->card))
        atomic_store(&peer->card, keep(card, bytes));
    pthread_mutex_unlock(&lock);
    return atomic_load(&peer->card) ? peer : NULL;
}

void host_peer_card(const struct host_peer *peer, struct host_card *card)
{
    unpack(atomic_load(&peer->card), (uint8_t *)card, sizeof(*card));
}

const void *cards_address(const struct host_peer *peer, const char *name,
                          uint8_t card[HOST_CARD_MOST], size_t *bytes)
{
    const struct host_kept *k = atomic_load(&peer->card);
    const uint8_t *at = card + sizeof(struct host_card), *end = card + k->bytes;
    unpack(k, card, k->bytes);
    for (; at < end; at += 3 + at[0] + at[1] + (at[2] << 8)) {
        if (at[0] != strlen(name) || memcmp(at + 3, name, at[0]))
            continue;
        *bytes = (size_t)(at[1] + (at[2] << 8));
        return at + 3 + at[0];
    }
    return NULL;
}

void cards_forget(void)
{
    model_count = 0;
}

void cards_forked(void)
{
    pthread_mutex_init(&lock, NULL);
    cards_forget();
}
