/* SPDX-License-Identifier: Apache-2.0 */
/*
 * id.c: what stands in the 128 bytes of an id.
 *
 * magic 4, version 1, flags 1, count 1, zero 1, secret 32, port 2, ports 2, then `count` addresses (kind 1, and 4
 * or 16 bytes; loopbacks have none), at the end 4 bytes of checksum, which tells a damaged id from a foreign one.
 */
#include "boot/address.h"
#include "boot/channel.h"
#include <sodium.h>

enum { FLAG_INSECURE = 1, FLAG_MAYBE_LATE = 2 };
enum { KIND_V4 = 1, KIND_V6, KIND_LOOPBACK_V4, KIND_LOOPBACK_V6, KINDS };
enum { ID_VERSION = 1, ID_ADDRESSES = 44, ID_SUM = CHOIR_ID_BYTES - 4 };
static const uint8_t id_magic[4] = {'C', 'H', 'I', 'D'};
static const uint8_t kind_bytes[KINDS] = {0, 4, 16, 0, 0};
static const uint8_t loopback_v4[4] = {127, 0, 0, 1};

static int address_kind(const struct address *a)
{
    if (a->family == AF_INET)
        return memcmp(a->ip, loopback_v4, 4) ? KIND_V4 : KIND_LOOPBACK_V4;
    return memcmp(a->ip, &in6addr_loopback, 16) ? KIND_V6 : KIND_LOOPBACK_V6;
}

static void checksum(const uint8_t *id, uint8_t sum[4])
{
    uint8_t full[crypto_generichash_BYTES_MIN];
    crypto_generichash(full, sizeof(full), id, ID_SUM, NULL, 0);
    memcpy(sum, full, 4);
}

void id_encode(const struct id_view *view, const struct address *all, uint32_t all_count,
               struct choir_id *id)
{
    uint8_t *b = (uint8_t *)id->bytes;
    memset(b, 0, CHOIR_ID_BYTES);
    memcpy(b, id_magic, 4);
    b[4] = ID_VERSION;
    b[5] =
        (uint8_t)((view->insecure ? FLAG_INSECURE : 0) | (view->maybe_late ? FLAG_MAYBE_LATE : 0));
    memcpy(b + 8, view->secret, 32);
    b[40] = (uint8_t)view->port, b[41] = (uint8_t)(view->port >> 8);
    b[42] = (uint8_t)view->ports, b[43] = (uint8_t)(view->ports >> 8);
    uint32_t at = ID_ADDRESSES, count = 0, most = base_count(view->address);
    for (uint32_t i = 0; i < all_count; i++) {
        int kind = address_kind(&all[i]);
        bool loopback = kind >= KIND_LOOPBACK_V4;
        /* two bytes and two places are kept for the loopbacks, which come last */
        if (at + 1u + kind_bytes[kind] > ID_SUM - (loopback ? 0u : 2u) ||
            count >= most - (loopback ? 0 : 2))
            continue;
        b[at] = (uint8_t)kind;
        memcpy(b + at + 1, all[i].ip, kind_bytes[kind]);
        at += 1u + kind_bytes[kind];
        count++;
    }
    b[6] = (uint8_t)count;
    checksum(b, b + ID_SUM);
}

static enum choir_status bad_id(const char *why)
{
    return base_fail(CHOIR_ERR_ARGUMENT,
                     "give every rank all 128 bytes of the id that choir_id_create made",
                     "the id is not valid: %s", why);
}

static bool take_address(const uint8_t *b, uint32_t *at, struct address *a)
{
    uint8_t kind = b[*at];
    if (!kind || kind >= KINDS || *at + 1u + kind_bytes[kind] > ID_SUM)
        return false;
    *a = (struct address){.family =
                              kind == KIND_V4 || kind == KIND_LOOPBACK_V4 ? AF_INET : AF_INET6};
    memcpy(a->ip, b + *at + 1, kind_bytes[kind]);
    if (kind == KIND_LOOPBACK_V4)
        memcpy(a->ip, loopback_v4, 4);
    if (kind == KIND_LOOPBACK_V6)
        memcpy(a->ip, &in6addr_loopback, 16);
    *at += 1u + kind_bytes[kind];
    return true;
}

enum choir_status id_view(const struct choir_id *id, struct id_view *view)
{
    if (!id)
        return base_fail(CHOIR_ERR_POINTER, "pass the id that choir_id_create made", "id is NULL");
    const uint8_t *b = (const uint8_t *)id->bytes;
    uint8_t sum[4];
    checksum(b, sum);
    if (memcmp(b, id_magic, 4))
        return bad_id("it does not begin as an id does (never filled in?)");
    if (b[4] != ID_VERSION)
        return bad_id("another version of the library made it");
    if (memcmp(sum, b + ID_SUM, 4))
        return bad_id("its checksum is wrong (cut short or altered on the way)");
    struct id_view v = {.insecure = b[5] & FLAG_INSECURE, .maybe_late = b[5] & FLAG_MAYBE_LATE};
    memcpy(v.secret, b + 8, 32);
    v.port = (uint16_t)(b[40] | b[41] << 8);
    v.ports = (uint16_t)(b[42] | b[43] << 8);
    v.count = b[6];
    uint32_t at = ID_ADDRESSES;
    if (!v.count || v.count > base_count(v.address) || !v.port || !v.ports || v.ports > 64 ||
        v.port + v.ports - 1 > 65535)
        return bad_id("it holds no address");
    for (uint32_t i = 0; i < v.count; i++)
        if (!take_address(b, &at, &v.address[i]))
            return bad_id("it holds an address of unknown kind");
    *view = v;
    sodium_memzero(&v, sizeof(v));
    return CHOIR_OK;
}

enum choir_status boot_id_decode(const struct choir_id *id, struct boot_id *out)
{
    struct id_view v;
    enum choir_status s = id_view(id, &v);
    if (s)
        return s;
    memcpy(out->secret, v.secret, 32);
    out->insecure = v.insecure;
    sodium_memzero(&v, sizeof(v));
    return CHOIR_OK;
}

void boot_secret_name(const unsigned char secret[32], unsigned char name[16])
{
    static const unsigned char label[] = "choir secret name";
    crypto_generichash(name, 16, label, sizeof(label), secret, 32);
}
