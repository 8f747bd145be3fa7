/* SPDX-License-Identifier: Apache-2.0 */
/*
 * channel.c: see channel.h. A resumable state machine over a non-blocking socket: no call waits, and no length
 * from the wire is believed before it is compared with its bound.
 */
#include "boot/channel.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint8_t hello_magic[8] = {'C', 'h', 'o', 'i', 'r', '-', 'b', '?'};
static const uint8_t reply_magic[8] = {'C', 'h', 'o', 'i', 'r', '-', 'b', '!'};

static enum choir_status fail(struct channel *c, enum choir_status status, const char *why)
{
    c->why = why;
    return status;
}

enum choir_status channel_init(struct channel *c, int fd, bool server,
                               const unsigned char secret[32], uint32_t frame_most)
{
    *c = (struct channel){.fd = fd, .server = server, .secret = secret, .frame_most = frame_most};
    c->in_need = server ? CHANNEL_HELLO_BYTES : CHANNEL_REPLY_BYTES;
    if (server)
        return CHOIR_OK;
    memcpy(c->hello, hello_magic, 8);
    put32(c->hello + 8, CHANNEL_VERSION);
    boot_secret_name(secret, c->hello + 16);
    randombytes_buf(c->hello + 32, 32);
    c->out = malloc(CHANNEL_HELLO_BYTES);
    if (!c->out)
        return fail(c, CHOIR_ERR_NO_MEMORY, "out of memory");
    memcpy(c->out, c->hello, CHANNEL_HELLO_BYTES);
    c->out_bytes = CHANNEL_HELLO_BYTES;
    return CHOIR_OK;
}

void channel_free(struct channel *c)
{
    if (c->fd >= 0)
        close(c->fd);
    free(c->in);
    free(c->out);
    sodium_memzero(c, sizeof(*c));
    c->fd = -1;
}

/* Keys of both directions and the server's proof, from the secret and everything both sides have said. */
static void derive(struct channel *c, const uint8_t reply_head[48], uint8_t proof[32])
{
    unsigned char key[64];
    crypto_generichash_state h;
    crypto_generichash_init(&h, c->secret, 32, sizeof(key));
    crypto_generichash_update(&h, (const unsigned char *)"choir boot keys ", 16);
    crypto_generichash_update(&h, c->hello, CHANNEL_HELLO_BYTES);
    crypto_generichash_update(&h, reply_head, 48);
    crypto_generichash_final(&h, key, sizeof(key));
    memcpy(c->server ? c->receive_key : c->send_key, key, 32);
    memcpy(c->server ? c->send_key : c->receive_key, key + 32, 32);
    sodium_memzero(key, sizeof(key));
    crypto_generichash_init(&h, c->secret, 32, 32);
    crypto_generichash_update(&h, (const unsigned char *)"choir boot proof", 16);
    crypto_generichash_update(&h, c->hello, CHANNEL_HELLO_BYTES);
    crypto_generichash_update(&h, reply_head, 48);
    crypto_generichash_final(&h, proof, 32);
    sodium_memzero(&h, sizeof(h));
}

enum choir_status channel_flush(struct channel *c)
{
    while (c->out) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_bytes - c->out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOTCONN))
            return CHOIR_IN_PROGRESS;
        if (n < 0) {
            c->sys_errno = errno;
            return fail(c, CHOIR_ERR_NETWORK, "connection broke");
        }
        c->out_sent += (uint32_t)n;
        if (c->out_sent == c->out_bytes) {
            free(c->out);
            c->out = NULL;
            c->out_bytes = c->out_sent = 0;
        }
    }
    return CHOIR_OK;
}

/* A refusal is small enough for any fresh socket's buffer; if it is not taken, so be it. */
static enum choir_status refuse(struct channel *c, enum channel_reason reason, const char *why)
{
    uint8_t reply[CHANNEL_REPLY_BYTES] = {0};
    memcpy(reply, reply_magic, 8);
    put32(reply + 8, CHANNEL_VERSION);
    put32(reply + 12, reason);
    (void)!send(c->fd, reply, sizeof(reply), MSG_NOSIGNAL);
    return fail(c, CHOIR_ERR_AUTH, why);
}

static enum choir_status take_hello(struct channel *c, const uint8_t *hello)
{
    if (memcmp(hello, hello_magic, 8))
        return fail(c, CHOIR_ERR_PROTOCOL, "not a choir hello");
    if (get32(hello + 8) != CHANNEL_VERSION)
        return refuse(c, CHANNEL_OTHER_VERSION, "hello of another protocol version");
    unsigned char name[16];
    boot_secret_name(c->secret, name);
    if (sodium_memcmp(hello + 16, name, 16))
        return refuse(c, CHANNEL_UNKNOWN_SECRET, "wrong secret, or the id of another job");
    if (c->refuse)
        return refuse(c, c->refuse, "neither loopback nor same user, and no secret was set");
    memcpy(c->hello, hello, CHANNEL_HELLO_BYTES);
    c->out = malloc(CHANNEL_REPLY_BYTES);
    if (!c->out)
        return fail(c, CHOIR_ERR_NO_MEMORY, "out of memory");
    c->out_bytes = CHANNEL_REPLY_BYTES;
    memcpy(c->out, reply_magic, 8);
    put32(c->out + 8, CHANNEL_VERSION);
    put32(c->out + 12, CHANNEL_ACCEPTED);
    randombytes_buf(c->out + 16, 32);
    derive(c, c->out, c->out + 48);
    c->open = true;
    return CHOIR_OK;
}

static enum choir_status take_reply(struct channel *c, const uint8_t *reply)
{
    if (memcmp(reply, reply_magic, 8))
        return fail(c, CHOIR_ERR_PROTOCOL, "another service answers there");
    uint32_t reason = get32(reply + 12);
    if (reason != CHANNEL_ACCEPTED) {
        c->peer_version = get32(reply + 8);
        c->reason = reason < CHANNEL_REASONS ? (uint8_t)reason : CHANNEL_UNKNOWN_SECRET;
        return fail(c, CHOIR_ERR_AUTH, "refused");
    }
    uint8_t proof[32];
    derive(c, reply, proof);
    if (sodium_memcmp(proof, reply + 48, 32)) {
        c->reason = CHANNEL_UNKNOWN_SECRET;
        return fail(c, CHOIR_ERR_AUTH, "the server does not know the secret");
    }
    c->open = true;
    return CHOIR_OK;
}

static void counter_nonce(uint64_t counter, uint8_t nonce[12])
{
    memset(nonce, 0, 4);
    put64(nonce + 4, counter);
}

enum choir_status channel_send(struct channel *c, uint16_t type, const uint8_t *body,
                               uint32_t bytes)
{
    if (c->out)
        return fail(c, CHOIR_ERR_BUSY, "a frame is under way");
    uint8_t nonce[12];
    counter_nonce(c->sent++, nonce);
    c->out_bytes = CHANNEL_HEAD_BYTES + bytes + CHANNEL_TAG_BYTES;
    c->out_sent = 0;
    c->out = malloc(c->out_bytes);
    if (!c->out)
        return fail(c, CHOIR_ERR_NO_MEMORY, "out of memory");
    put32(c->out, bytes);
    put32(c->out + 4, type);
    crypto_aead_chacha20poly1305_ietf_encrypt(c->out + CHANNEL_HEAD_BYTES, NULL, body, bytes,
                                              c->out, CHANNEL_HEAD_BYTES, NULL, nonce, c->send_key);
    enum choir_status s = channel_flush(c);
    return s == CHOIR_IN_PROGRESS ? CHOIR_OK : s;
}

/* Reads until in_need bytes are there. */
static enum choir_status fill(struct channel *c)
{
    if (!c->in) {
        c->in = malloc(base_max(c->in_need, (uint32_t)CHANNEL_HELLO_BYTES));
        if (!c->in)
            return fail(c, CHOIR_ERR_NO_MEMORY, "out of memory");
        c->in_have = 0;
    }
    while (c->in_have < c->in_need) {
        ssize_t n = recv(c->fd, c->in + c->in_have, c->in_need - c->in_have, 0);
        if (n > 0) {
            c->in_have += (uint32_t)n;
        } else if (n == 0) {
            return fail(c, CHOIR_ERR_PEER_DEAD, "connection closed by the peer");
        } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOTCONN) {
            return CHOIR_IN_PROGRESS;
        } else if (errno != EINTR) {
            c->sys_errno = errno;
            return fail(c, CHOIR_ERR_NETWORK, "connection broke");
        }
    }
    return CHOIR_OK;
}

static void drop_input(struct channel *c)
{
    free(c->in);
    c->in = NULL;
    c->in_have = 0;
    c->in_need = CHANNEL_HEAD_BYTES;
}

/* The head is there: know the whole length. */
static enum choir_status take_head(struct channel *c)
{
    uint32_t bytes = get32(c->in), type = get32(c->in + 4);
    if (bytes > c->frame_most || !type || type >= FRAME_TYPES)
        return fail(c, CHOIR_ERR_PROTOCOL, "frame of impossible length or type");
    uint32_t need = CHANNEL_HEAD_BYTES + bytes + CHANNEL_TAG_BYTES;
    uint8_t *in = realloc(c->in, need);
    if (!in)
        return fail(c, CHOIR_ERR_NO_MEMORY, "out of memory");
    c->in = in;
    c->in_need = need;
    return CHOIR_OK;
}

static enum choir_status handshake(struct channel *c)
{
    enum choir_status s = channel_flush(c);
    if (s)
        return s;
    s = fill(c);
    if (s)
        return s;
    s = c->server ? take_hello(c, c->in) : take_reply(c, c->in);
    if (s)
        return s;
    drop_input(c);
    s = channel_flush(c);
    return s == CHOIR_IN_PROGRESS ? CHOIR_OK : s;
}

enum choir_status channel_receive(struct channel *c, uint16_t *type, const uint8_t **body,
                                  uint32_t *bytes)
{
    enum choir_status s = c->open ? CHOIR_OK : handshake(c);
    if (s)
        return s;
    if (c->in && c->in_have > CHANNEL_HEAD_BYTES && c->in_have == c->in_need)
        drop_input(c); /* the frame handed out last time */
    s = fill(c);
    if (s)
        goto out;
    if (c->in_need == CHANNEL_HEAD_BYTES) {
        s = take_head(c);
        if (!s)
            s = fill(c);
        if (s)
            goto out;
    }
    uint8_t nonce[12], *cipher = c->in + CHANNEL_HEAD_BYTES;
    uint32_t length = c->in_need - CHANNEL_HEAD_BYTES;
    counter_nonce(c->received++, nonce);
    if (crypto_aead_chacha20poly1305_ietf_decrypt(cipher, NULL, NULL, cipher, length, c->in,
                                                  CHANNEL_HEAD_BYTES, nonce, c->receive_key))
        return fail(c, CHOIR_ERR_AUTH, "frame that the secret does not verify");
    *type = (uint16_t)get32(c->in + 4);
    *body = cipher;
    *bytes = length - CHANNEL_TAG_BYTES;
    return CHOIR_OK;
out:
    if (s == CHOIR_IN_PROGRESS && c->in && !c->in_have)
        drop_input(c); /* a waiting connection holds no buffer */
    return s;
}
