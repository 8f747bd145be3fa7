/* SPDX-License-Identifier: Apache-2.0 */
/*
 * address.h: internet addresses: those of this host that the user allows, those a name resolves to, and what an
 * id holds of them.
 */
#ifndef BOOT_ADDRESS_H
#define BOOT_ADDRESS_H

#include "boot/boot.h"
#include <netinet/in.h>
#include <sys/socket.h>

#define ADDRESS_TEXT 64   /* "[v6]:port" */
#define ADDRESSES_MOST 24 /* of one host that boot listens on; more are left out */

struct address {
    uint8_t family; /* AF_INET or AF_INET6 */
    uint8_t ip[16]; /* 4 or 16 bytes, network order */
};

bool address_is_loopback(const struct address *a);
bool address_equal(const struct address *a, const struct address *b);
socklen_t address_to_socket(const struct address *a, uint16_t port, struct sockaddr_storage *to);
bool address_from_socket(const struct sockaddr *from, struct address *a, uint16_t *port);
/* "10.0.0.1:70", "[fd00::1]:70"; port 0: without. Returns text. */
const char *address_text(const struct address *a, uint16_t port, char text[ADDRESS_TEXT]);

/* CHOIR_SOCKET_IFNAME's rule: comma-separated prefixes; a leading "=" makes all of them exact, "^" excludes what matches. */
bool address_interface_allowed(const char *list, const char *name);
/* Addresses of this host that CHOIR_SOCKET_IFNAME and CHOIR_SOCKET_FAMILY allow, the likeliest to be reached
 * first, loopback always last. */
enum choir_status address_local(struct address *a, uint32_t most, uint32_t *count);
/* "host:port", "[v6]:port". */
enum choir_status address_split(const char *text, char host[256], uint16_t *port);
enum choir_status address_resolve(const char *host, struct address *a, uint32_t most,
                                  uint32_t *count);

/* --- the id ------------------------------------------------------------------------------------ */
struct id_view {
    unsigned char secret[32];
    bool insecure;        /* no secret was given */
    bool maybe_late;      /* the server may come up after the id is known (launchers) */
    uint16_t port, ports; /* the server listens on one of port .. port+ports-1 */
    uint32_t count;
    struct address address[16];
};
/* Encodes as many addresses as fit, loopbacks always. */
void id_encode(const struct id_view *view, const struct address *all, uint32_t all_count,
               struct choir_id *id);
enum choir_status id_view(const struct choir_id *id, struct id_view *view);

#endif
