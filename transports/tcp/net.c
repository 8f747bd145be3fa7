/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.c: interfaces of this host, which of them may be used, which pairs of addresses are worth trying, and
 * the options of sockets. Decides nothing by name that bytes could decide: names only exclude.
 */
#include "transports/tcp/tcp.h"
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LOWER_UP 0x10000u /* carrier; IFF_RUNNING follows up to a second later */

/* --- interfaces ------------------------------------------------------------------------------------ */
/* CHOIR_SOCKET_IFNAME: names or prefixes; "=" in front: exact; "^" in front: all but these. */
static bool listed(const char *list, const char *name, bool exact)
{
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        if (n && (exact ? strlen(name) == n && !strncmp(p, name, n) : !strncmp(p, name, n)))
            return true;
        p += n + (p[n] == ',');
    }
    return false;
}

static bool wanted(const struct tcp_filter *f, const char *name, bool loopback)
{
    const char *list = f->ifname;
    if (!*list) /* addresses of containers' and virtual machines' bridges answer on every host alike */
        return loopback ||
               !listed("docker,virbr,veth,br-,cni,flannel,cali,lxc,podman", name, false);
    bool exclude = *list == '^';
    list += exclude;
    bool exact = *list == '=';
    list += exact;
    return listed(list, name, exact) != exclude;
}

enum choir_status tcp_net_filter(struct tcp_filter *f, const char *ifname, const char *family)
{
    bool v4 = !strcmp(family, "AF_INET"), v6 = !strcmp(family, "AF_INET6");
    if (*family && !v4 && !v6)
        return base_fail(CHOIR_ERR_ARGUMENT, "use AF_INET, AF_INET6, or leave it empty",
                         "CHOIR_SOCKET_FAMILY is \"%s\"", family);
    f->family = v4 ? AF_INET : v6 ? AF_INET6 : AF_UNSPEC;
    snprintf(f->ifname, sizeof(f->ifname), "%s", ifname);
    return CHOIR_OK;
}

/* By ioctl: /sys may show another network namespace's interfaces. */
static uint8_t nic_speed(const char *name)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    struct ethtool_cmd c = {.cmd = ETHTOOL_GSET};
    struct ifreq r = {.ifr_data = (void *)&c};
    snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
    uint32_t mbit = ioctl(fd, SIOCETHTOOL, &r) ? 0 : (uint32_t)c.speed_hi << 16 | c.speed;
    close(fd);
    uint8_t log2 = 0;
    while (mbit != (uint32_t)SPEED_UNKNOWN && mbit > 1)
        log2++, mbit >>= 1;
    return log2;
}

static uint8_t prefix_bits(const struct sockaddr *mask)
{
    if (!mask)
        return 0;
    const unsigned char *p =
        mask->sa_family == AF_INET6
            ? ((const struct sockaddr_in6 *)(const void *)mask)->sin6_addr.s6_addr
            : (const unsigned char *)&((const struct sockaddr_in *)(const void *)mask)->sin_addr;
    unsigned n = mask->sa_family == AF_INET6 ? 16 : 4, bits = 0;
    for (unsigned i = 0; i < n; i++)
        bits += (unsigned)__builtin_popcount(p[i]);
    return (uint8_t)bits;
}

static bool entry_from(const struct ifaddrs *a, struct tcp_local *l)
{
    *l = (struct tcp_local){.index = if_nametoindex(a->ifa_name)};
    snprintf(l->name, sizeof(l->name), "%s", a->ifa_name);
    struct tcp_entry *e = &l->entry;
    e->prefix = prefix_bits(a->ifa_netmask);
    e->loopback = (uint8_t)((a->ifa_flags & IFF_LOOPBACK) != 0);
    if (a->ifa_addr->sa_family == AF_INET) {
        memcpy(e->ip, &((const struct sockaddr_in *)(const void *)a->ifa_addr)->sin_addr, 4);
        e->link_local = (uint8_t)(e->ip[0] == 169 && e->ip[1] == 254);
        return true;
    }
    const struct in6_addr *ip =
        &((const struct sockaddr_in6 *)(const void *)a->ifa_addr)->sin6_addr;
    memcpy(e->ip, ip, 16);
    e->v6 = 1;
    e->link_local = (uint8_t)(IN6_IS_ADDR_LINKLOCAL(ip) != 0);
    return !IN6_IS_ADDR_MULTICAST(ip);
}

/* Loopback last; a link-local address only where the interface has no other. Numbers the interfaces. */
static size_t arrange(struct tcp_local *l, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        bool other = false;
        for (size_t j = 0; j < n; j++)
            other |= l[j].index == l[i].index && !l[j].entry.link_local;
        if (!l[i].entry.link_local || !other)
            l[kept++] = l[i];
    }
    uint8_t nics = 0;
    for (size_t i = 0; i < kept; i++) {
        size_t j = 0;
        while (l[j].index != l[i].index)
            j++;
        if (j == i)
            nics++;
        l[i].entry.nic = j < i ? l[j].entry.nic : nics;
        l[i].entry.speed = j < i ? l[j].entry.speed : nic_speed(l[i].name);
    }
    return kept;
}

size_t tcp_net_interfaces(const struct tcp_filter *f, struct tcp_local *out, size_t most)
{
    struct ifaddrs *list;
    if (getifaddrs(&list))
        return 0;
    size_t n = 0;
    for (int loopback = 0; loopback < 2; loopback++)
        for (struct ifaddrs *a = list; a && n < most; a = a->ifa_next) {
            if (!a->ifa_addr || !(a->ifa_flags & IFF_UP) ||
                !(a->ifa_flags & (IFF_RUNNING | LOWER_UP)))
                continue;
            int family = a->ifa_addr->sa_family;
            if ((family != AF_INET && family != AF_INET6) ||
                (f->family != AF_UNSPEC && f->family != family) ||
                ((a->ifa_flags & IFF_LOOPBACK) != 0) != (loopback != 0))
                continue;
            if (wanted(f, a->ifa_name, loopback != 0) && entry_from(a, &out[n]))
                n++;
        }
    freeifaddrs(list);
    return arrange(out, n);
}

bool tcp_net_allowed(int fd, const struct tcp_filter *f)
{
    struct sockaddr_storage s;
    socklen_t bytes = sizeof(s);
    struct tcp_local own[TCP_ENTRIES * 2];
    if (!*f->ifname)
        return true;
    if (getsockname(fd, (struct sockaddr *)&s, &bytes))
        return false;
    size_t n = tcp_net_interfaces(f, own, base_count(own));
    for (size_t i = 0; i < n; i++) {
        const struct sockaddr_in6 *s6 = (const struct sockaddr_in6 *)(const void *)&s;
        const struct sockaddr_in *s4 = (const struct sockaddr_in *)(const void *)&s;
        bool mapped = s.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&s6->sin6_addr);
        const void *ip = s.ss_family == AF_INET ? (const void *)&s4->sin_addr
                         : mapped               ? (const void *)&s6->sin6_addr.s6_addr[12]
                                                : (const void *)&s6->sin6_addr;
        bool v6 = s.ss_family == AF_INET6 && !mapped;
        if (own[i].entry.v6 == v6 && !memcmp(own[i].entry.ip, ip, v6 ? 16 : 4))
            return true;
    }
    return false;
}

/* --- pairs ------------------------------------------------------------------------------------------ */
static bool same_subnet(const struct tcp_entry *a, const struct tcp_entry *b)
{
    unsigned bits = base_min(a->prefix, b->prefix);
    if (!bits || memcmp(a->ip, b->ip, bits / 8))
        return false;
    unsigned char mask = (unsigned char)(0xff00u >> bits % 8);
    return !(bits % 8) || !((a->ip[bits / 8] ^ b->ip[bits / 8]) & mask);
}

/* How near, smaller is better; -1: no use trying. Addresses of loopback mean another host elsewhere, so off the
 * host they are tried only between processes that have nothing else. */
static int pair_rank(const struct tcp_entry *own, const struct tcp_entry *peer, bool same_host,
                     bool only_loopback)
{
    if (own->v6 != peer->v6 || own->loopback != peer->loopback)
        return -1;
    if (own->loopback)
        return same_host ? 0 : only_loopback ? 5 : -1;
    if (own->link_local != peer->link_local)
        return -1;
    if (own->link_local)
        return 3;
    if (!memcmp(own->ip, peer->ip, own->v6 ? 16 : 4))
        return 4;
    return same_subnet(own, peer) ? 1 : 2;
}

static int pair_order(const void *x, const void *y)
{
    const struct tcp_pair *a = x, *b = y;
    if (a->rank != b->rank)
        return a->rank - b->rank;
    int speed_a = base_min(a->own.entry.speed, a->peer.speed);
    int speed_b = base_min(b->own.entry.speed, b->peer.speed);
    if (speed_a != speed_b)
        return speed_b - speed_a;
    if (a->own.entry.v6 != b->own.entry.v6)
        return a->own.entry.v6 - b->own.entry.v6;
    int nic = a->own.entry.nic - b->own.entry.nic;
    return nic ? nic : a->peer.nic - b->peer.nic;
}

static bool loopback_only(const struct tcp_address *peer)
{
    for (size_t i = 0; i < peer->count; i++)
        if (!peer->entry[i].loopback)
            return false;
    return true;
}

size_t tcp_net_pairs(const struct tcp_local *own, size_t count, const struct tcp_address *peer,
                     bool same_host, struct tcp_pair *out, size_t most)
{
    struct tcp_pair all[TCP_ENTRIES * TCP_ENTRIES];
    size_t n = 0;
    bool only_loopback = loopback_only(peer);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < peer->count && n < base_count(all); j++) {
            int rank = pair_rank(&own[i].entry, &peer->entry[j], same_host, only_loopback);
            if (rank >= 0)
                all[n++] = (struct tcp_pair){own[i], peer->entry[j], (uint8_t)rank};
        }
    qsort(all, n, sizeof(all[0]), pair_order);
    n = base_min(n, most);
    memcpy(out, all, n * sizeof(all[0]));
    return n;
}

/* --- the address blob --------------------------------------------------------------------------------- */
struct blob_head {
    uint32_t magic;
    uint16_t port, count;
    uint64_t host;
    struct choir_process process;
    unsigned char secret_name[16];
};

size_t tcp_net_address_write(const struct tcp_address *a, void *out, size_t bytes)
{
    struct blob_head h = {TCP_MAGIC + TCP_VERSION, a->port, a->count, a->host, a->process, {0}};
    memcpy(h.secret_name, a->secret_name, sizeof(h.secret_name));
    if (sizeof(h) > bytes)
        return 0;
    while (sizeof(h) + h.count * sizeof(a->entry[0]) > bytes)
        h.count--;
    memcpy(out, &h, sizeof(h));
    memcpy((char *)out + sizeof(h), a->entry, h.count * sizeof(a->entry[0]));
    return sizeof(h) + h.count * sizeof(a->entry[0]);
}

bool tcp_net_address_read(struct tcp_address *a, const void *in, size_t bytes)
{
    struct blob_head h;
    *a = (struct tcp_address){0};
    if (!in || bytes < sizeof(h))
        return false;
    memcpy(&h, in, sizeof(h));
    if (h.magic != TCP_MAGIC + TCP_VERSION || h.count > TCP_ENTRIES ||
        bytes < sizeof(h) + h.count * sizeof(a->entry[0]))
        return false;
    a->process = h.process, a->host = h.host, a->port = h.port, a->count = h.count;
    memcpy(a->secret_name, h.secret_name, sizeof(h.secret_name));
    memcpy(a->entry, (const char *)in + sizeof(h), h.count * sizeof(a->entry[0]));
    return true;
}
