/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nic.c: network interfaces that have an address. Whether one reaches a peer is for the transports to try.
 */
#include "topo/detect.h"
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Mbit/s; 0 where the driver does not say (virtual ones do not, or say -1). */
static uint32_t speed(const char *name)
{
    char path[256], text[32];
    snprintf(path, sizeof(path), "/sys/class/net/%s/speed", name);
    if (!topo_read_file(path, text, sizeof(text)))
        return 0;
    long mbps = strtol(text, NULL, 10);
    return mbps > 0 && mbps < 100000000 ? (uint32_t)mbps : 0;
}

static struct topo_nic *find_or_add(struct topo *t, const struct ifaddrs *a)
{
    for (uint32_t i = 0; i < t->nics; i++)
        if (!strcmp(t->nic[i].name, a->ifa_name))
            return &t->nic[i];
    if (t->nics == base_count(t->nic))
        return NULL;
    struct topo_nic *n = &t->nic[t->nics++];
    snprintf(n->name, sizeof(n->name), "%s", a->ifa_name);
    n->up = (a->ifa_flags & IFF_UP) && (a->ifa_flags & IFF_RUNNING);
    n->loopback = a->ifa_flags & IFF_LOOPBACK;
    n->mbps = speed(n->name);
    return n;
}

static void add_address(struct topo_nic *n, const struct sockaddr *address)
{
    socklen_t bytes =
        address->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    if (n->addresses < base_count(n->address) &&
        !getnameinfo(address, bytes, n->address[n->addresses], sizeof(n->address[0]), NULL, 0,
                     NI_NUMERICHOST))
        n->addresses++;
}

static bool is_link_local(const struct sockaddr *address)
{
    struct sockaddr_in6 in6;
    if (address->sa_family != AF_INET6)
        return false;
    memcpy(&in6, address, sizeof(in6));
    return IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr);
}

void topo_detect_nics(struct topo *t)
{
    struct ifaddrs *list;
    t->nics = 0;
    if (getifaddrs(&list)) {
        base_log(BASE_WARN, -1, "network interfaces cannot be listed: %s", strerror(errno));
        return;
    }
    /* There is room for some only: interfaces in use first, and link-local addresses last. */
    for (int pass = 0; pass < 4; pass++)
        for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
            bool up = (a->ifa_flags & IFF_UP) && (a->ifa_flags & IFF_RUNNING);
            if (!a->ifa_addr ||
                (a->ifa_addr->sa_family != AF_INET && a->ifa_addr->sa_family != AF_INET6))
                continue;
            if (is_link_local(a->ifa_addr) != pass % 2 || up != (pass < 2))
                continue;
            struct topo_nic *n = find_or_add(t, a);
            if (n)
                add_address(n, a->ifa_addr);
        }
    freeifaddrs(list);
}
