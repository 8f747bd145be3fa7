/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seal.c: keys of one connection, and authenticated encryption of pieces under them.
 *
 * Both ends prove the shared secret over both nonces and both process ids (the whole HELLO and CHALLENGE); each
 * direction has its own key and a counter as nonce, so nothing can be replayed, reordered or reflected. Not
 * forward secret: who learns the secret later can read what was recorded.
 */
#include "transports/tcp/tcp.h"
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define REKEY_PIECES (1u << 20) /* of at most 64 KiB: far below the bounds of AES-GCM for one key */

struct direction {
    crypto_aead_aes256gcm_state aes;
    unsigned char key[32];
    uint64_t count;
};
struct tcp_keys {
    struct direction send, receive;
    bool use_aes;
};

static void derive(unsigned char out[32], const unsigned char base[32], const char *label)
{
    crypto_generichash(out, 32, (const unsigned char *)label, strlen(label), base, 32);
}

static void direction_set(struct direction *d, bool use_aes)
{
    if (use_aes)
        crypto_aead_aes256gcm_beforenm(&d->aes, d->key);
}

struct tcp_keys *tcp_keys_derive(const unsigned char secret[32], const struct tcp_hello *hello,
                                 const struct tcp_challenge *challenge, bool dialer,
                                 struct tcp_proofs *proofs)
{
    struct tcp_keys *k = sodium_malloc(sizeof(*k));
    if (!k)
        return NULL;
    sodium_memzero(k, sizeof(*k));
    unsigned char base[32];
    crypto_generichash_state h;
    crypto_generichash_init(&h, secret, 32, sizeof(base));
    static const unsigned char label[] = "choir tcp 1";
    crypto_generichash_update(&h, label, sizeof(label));
    crypto_generichash_update(&h, (const unsigned char *)hello, sizeof(*hello));
    crypto_generichash_update(&h, (const unsigned char *)challenge, sizeof(*challenge));
    crypto_generichash_final(&h, base, sizeof(base));
    derive(proofs->dialer, base, "proof of the dialer");
    derive(proofs->acceptor, base, "proof of the acceptor");
    derive(k->send.key, base, dialer ? "dialer sends" : "acceptor sends");
    derive(k->receive.key, base, dialer ? "acceptor sends" : "dialer sends");
    k->use_aes = (hello->flags & challenge->flags & TCP_CAN_AES) != 0;
    direction_set(&k->send, k->use_aes);
    direction_set(&k->receive, k->use_aes);
    sodium_memzero(base, sizeof(base));
    sodium_memzero(&h, sizeof(h));
    return k;
}

void tcp_keys_free(struct tcp_keys *k)
{
    if (k)
        sodium_free(k);
}

/* The nonce of the next piece; a new key every REKEY_PIECES, on both ends at the same count. */
static void advance(struct direction *d, bool use_aes, unsigned char nonce[12])
{
    if (d->count && d->count % REKEY_PIECES == 0) {
        unsigned char old[32];
        memcpy(old, d->key, sizeof(old));
        derive(d->key, old, "next key");
        sodium_memzero(old, sizeof(old));
        direction_set(d, use_aes);
    }
    memset(nonce, 0, 12);
    memcpy(nonce + 4, &d->count, sizeof(d->count));
    d->count++;
}

void tcp_seal(struct tcp_keys *k, void *out, const void *in, size_t bytes, const void *extra,
              size_t extra_bytes)
{
    unsigned char nonce[12];
    advance(&k->send, k->use_aes, nonce);
    if (k->use_aes)
        crypto_aead_aes256gcm_encrypt_afternm(out, NULL, in, bytes, extra, extra_bytes, NULL, nonce,
                                              &k->send.aes);
    else
        crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, in, bytes, extra, extra_bytes, NULL,
                                                  nonce, k->send.key);
}

bool tcp_unseal(struct tcp_keys *k, void *out, const void *in, size_t bytes, const void *extra,
                size_t extra_bytes)
{
    unsigned char nonce[12];
    advance(&k->receive, k->use_aes, nonce);
    if (k->use_aes)
        return !crypto_aead_aes256gcm_decrypt_afternm(out, NULL, NULL, in, bytes + TCP_TAG, extra,
                                                      extra_bytes, nonce, &k->receive.aes);
    return !crypto_aead_chacha20poly1305_ietf_decrypt(out, NULL, NULL, in, bytes + TCP_TAG, extra,
                                                      extra_bytes, nonce, k->receive.key);
}
