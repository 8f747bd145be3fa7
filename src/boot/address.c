/* SPDX-License-Identifier: Apache-2.0 */
/* address.c: interface choice, name resolution and text form of addresses; see address.h. */
#include "boot/address.h"
#include "base/knob.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool address_is_loopback(const struct address *a)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (a->family == AF_INET)
        return a->ip[0] == 127;
    if (!memcmp(a->ip, mapped, 12))
        return a->ip[12] == 127;
    return !memcmp(a->ip, &in6addr_loopback, 16);
}

bool address_equal(const struct address *a, const struct address *b)
{
    return a->family == b->family && !memcmp(a->ip, b->ip, a->family == AF_INET ? 4 : 16);
}

socklen_t address_to_socket(const struct address *a, uint16_t port, struct sockaddr_storage *to)
{
    memset(to, 0, sizeof(*to));
    if (a->family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)to;
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        memcpy(&in->sin_addr, a->ip, 4);
        return sizeof(*in);
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)to;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    memcpy(&in6->sin6_addr, a->ip, 16);
    return sizeof(*in6);
}

bool address_from_socket(const struct sockaddr *from, struct address *a, uint16_t *port)
{
    memset(a, 0, sizeof(*a));
    if (from->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)from;
        memcpy(a->ip, &in->sin_addr, 4);
        *port = ntohs(in->sin_port);
    } else if (from->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)from;
        memcpy(a->ip, &in6->sin6_addr, 16);
        *port = ntohs(in6->sin6_port);
    } else {
        return false;
    }
    a->family = (uint8_t)from->sa_family;
    return true;
}

const char *address_text(const struct address *a, uint16_t port, char text[ADDRESS_TEXT])
{
    char ip[INET6_ADDRSTRLEN] = "?";
    inet_ntop(a->family, a->ip, ip, sizeof(ip));
    if (!port)
        snprintf(text, ADDRESS_TEXT, "%s", ip);
    else
        snprintf(text, ADDRESS_TEXT, a->family == AF_INET6 ? "[%s]:%u" : "%s:%u", ip, port);
    return text;
}

bool address_interface_allowed(const char *list, const char *name)
{
    bool exclude = *list == '^';
    list += exclude;
    bool exact = *list == '=';
    list += exact;
    bool match = false;
    size_t name_length = strlen(name);
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        if (n && (exact ? n == name_length : n <= name_length))
            match |= !memcmp(p, name, n);
        p += n + (p[n] == ',');
    }
    return !*list || match != exclude;
}

/* AF_UNSPEC for both; -1: CHOIR_SOCKET_FAMILY says something else. */
static int wanted_family(void)
{
    const char *family = knob_text(KNOB_SOCKET_FAMILY);
    if (!*family)
        return AF_UNSPEC;
    return !strcmp(family, "AF_INET") ? AF_INET : !strcmp(family, "AF_INET6") ? AF_INET6 : -1;
}

/* Lower is tried first. Bridges and container links are often the same on every host, so they come late. */
static int unlikeliness(const struct ifaddrs *i, const struct address *a)
{
    static const char *const inner[] = {"docker", "virbr", "veth", "br-", "cni", "lxc", "tun"};
    if ((i->ifa_flags & IFF_LOOPBACK) || address_is_loopback(a))
        return 3;
    if (a->family == AF_INET && a->ip[0] == 169 && a->ip[1] == 254)
        return 2;
    for (size_t k = 0; k < base_count(inner); k++)
        if (!strncmp(i->ifa_name, inner[k], strlen(inner[k])))
            return 1;
    return 0;
}

/* Whether this entry of the interface list is one to use, and its address. */
static bool usable(const struct ifaddrs *i, struct address *a)
{
    uint16_t port;
    int family = wanted_family();
    if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || !address_from_socket(i->ifa_addr, a, &port))
        return false;
    /* A link-local address means something on one link only and needs a scope that other hosts don't know. */
    if (a->family == AF_INET6 && a->ip[0] == 0xfe && (a->ip[1] & 0xc0) == 0x80)
        return false;
    if (family != AF_UNSPEC && family != a->family)
        return false;
    return address_is_loopback(a) ||
           address_interface_allowed(knob_text(KNOB_SOCKET_IFNAME), i->ifa_name);
}

enum choir_status address_local(struct address *a, uint32_t most, uint32_t *count)
{
    struct ifaddrs *list;
    if (getifaddrs(&list))
        return base_fail(CHOIR_ERR_SYSTEM, "check that the process may use sockets",
                         "cannot list network interfaces");
    uint32_t n = 0, loopbacks = 0;
    for (int rank = 0; rank <= 3; rank++) {
        for (const struct ifaddrs *i = list; i; i = i->ifa_next) {
            struct address one;
            /* keep two places for the loopbacks, which come last */
            if (n >= most - (rank < 3 ? 2 : 0) || !usable(i, &one) || unlikeliness(i, &one) != rank)
                continue;
            a[n++] = one;
            loopbacks += rank == 3;
        }
    }
    freeifaddrs(list);
    const char *wanted = knob_text(KNOB_SOCKET_IFNAME);
    if (!n ||
        (n == loopbacks && *wanted && *wanted != '^' && !address_interface_allowed(wanted, "lo")))
        return base_fail(CHOIR_ERR_ARGUMENT,
                         "see `ip address` for the interfaces that are up on this host",
                         "no interface that is up matches CHOIR_SOCKET_IFNAME=%s "
                         "CHOIR_SOCKET_FAMILY=%s",
                         wanted, knob_text(KNOB_SOCKET_FAMILY));
    *count = n;
    return CHOIR_OK;
}

enum choir_status address_split(const char *text, char host[256], uint16_t *port)
{
    const char *colon = strrchr(text, ':'), *from = text, *to = colon;
    if (colon && *text == '[') {
        from = text + 1;
        to = colon > text && colon[-1] == ']' ? colon - 1 : NULL;
    } else if (colon && memchr(text, ':', (size_t)(colon - text))) {
        to = NULL; /* an IPv6 address without brackets: where would the port begin? */
    }
    unsigned long value = 0;
    char *end = NULL;
    if (colon && colon[1] >= '0' && colon[1] <= '9')
        value = strtoul(colon + 1, &end, 10);
    if (!colon || !to || to <= from || to - from > 255 || !end || *end || !value || value > 65535)
        return base_fail(CHOIR_ERR_ARGUMENT, "write host:port, 10.0.0.1:port or [fd00::1]:port",
                         "\"%.100s\" is not an address with a port from 1 to 65535", text);
    memcpy(host, from, (size_t)(to - from));
    host[to - from] = 0;
    *port = (uint16_t)value;
    return CHOIR_OK;
}

enum choir_status address_resolve(const char *host, struct address *a, uint32_t most,
                                  uint32_t *count)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = wanted_family()}, *list;
    if (hints.ai_family < 0)
        return base_fail(CHOIR_ERR_ARGUMENT, "use AF_INET, AF_INET6, or nothing for both",
                         "CHOIR_SOCKET_FAMILY=%s is not known", knob_text(KNOB_SOCKET_FAMILY));
    int r = getaddrinfo(host, NULL, &hints, &list);
    if (r)
        return base_fail(CHOIR_ERR_ARGUMENT, "check the name, or write the address in numbers",
                         "cannot resolve \"%.100s\": %s", host, gai_strerror(r));
    uint32_t n = 0;
    for (const struct addrinfo *i = list; i && n < most; i = i->ai_next) {
        uint16_t port;
        bool seen = !address_from_socket(i->ai_addr, &a[n], &port);
        for (uint32_t k = 0; k < n && !seen; k++)
            seen = address_equal(&a[k], &a[n]);
        n += !seen;
    }
    freeaddrinfo(list);
    *count = n;
    return n ? CHOIR_OK
             : base_fail(CHOIR_ERR_ARGUMENT, "check the name, or write the address in numbers",
                         "\"%.100s\" has no IPv4 or IPv6 address", host);
}
