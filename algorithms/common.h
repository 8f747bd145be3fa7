/* SPDX-License-Identifier: Apache-2.0 */
/*
 * common.h: what several algorithms share: the order in which ranks stand, and their arguments. An algorithm
 * thinks in positions 0..n-1; an order says which rank stands where, so that neighbours share a host whatever
 * the numbering of the ranks.
 */
#ifndef ALGORITHMS_COMMON_H
#define ALGORITHMS_COMMON_H

#include "choir_algorithm.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct order {
    const struct choir_layout *layout;
    uint32_t n, first; /* first: where the rank at position 0 stands before rotation */
    bool across;       /* neighbours are on different hosts instead; hosts are of one size */
    bool affine;       /* rank = position + first (mod n) */
    uint32_t me;       /* position of this rank */
};

static inline uint32_t order_rank(const struct order *o, uint32_t position)
{
    uint32_t q = (uint32_t)(((uint64_t)position + o->first) % o->n), hosts = o->layout->hosts;
    return o->layout->member[o->across ? o->layout->begin[q % hosts] + q / hosts : q];
}

static inline uint32_t order_position(const struct order *o, uint32_t rank)
{
    const struct choir_layout *l = o->layout;
    uint32_t host = l->host_of[rank], local = l->local_of[rank];
    uint32_t q = o->across ? local * l->hosts + host : l->begin[host] + local;
    return q >= o->first ? q - o->first : q + o->n - o->first;
}

/* Host by host, `root` at position 0. */
static inline struct order order_by_host(const struct choir_shape *s, uint32_t root)
{
    struct order o = {.layout = s->layout, .n = s->ranks, .affine = true};
    for (uint32_t p = 0; p < o.n && o.affine; p++)
        o.affine = s->layout->member[p] == p;
    o.first = order_position(&o, root);
    o.me = order_position(&o, s->rank);
    return o;
}

/* Ranks n/2, n/4 ... positions apart share a host, close ones do not; host by host where hosts differ in
 * size. */
static inline struct order order_across_hosts(const struct choir_shape *s, uint32_t root)
{
    const struct choir_layout *l = s->layout;
    struct order o = order_by_host(s, root);
    if (l->hosts == 1 || l->hosts == l->ranks)
        return o;
    for (uint32_t h = 0; h < l->hosts; h++)
        if (l->begin[h + 1] - l->begin[h] != l->ranks / l->hosts)
            return o;
    o = (struct order){.layout = l, .n = s->ranks, .across = true};
    o.first = order_position(&o, root);
    o.me = order_position(&o, s->rank);
    return o;
}

/* The rank `distance` positions on; back with n - distance. */
static inline int32_t order_peer(const struct order *o, uint64_t distance)
{
    return (int32_t)order_rank(o, (uint32_t)((o->me + distance) % o->n));
}

/* A place whose parts (turn included) are given as positions, as a place of these ranks' blocks. */
static inline struct choir_place order_place(struct choir_builder *b, const struct order *o,
                                             struct choir_place p)
{
    uint32_t run = p.run ? p.run : 1, end = p.end ? p.end : p.first + run, count = 0;
    uint32_t stride = p.stride ? p.stride : run;
    if (o->affine) {
        p.turn = (int32_t)(((uint32_t)p.turn + o->first) % o->n);
        return p;
    }
    uint32_t *list = malloc((end - p.first) * sizeof(*list));
    for (uint32_t at = p.first; list && at < end; at += stride)
        for (uint32_t i = at; i < at + run && i < end; i++)
            list[count++] = order_rank(o, (i + (uint32_t)p.turn) % o->n);
    p.list = 1;
    p.run = count;
    p.first = list ? choir_list(b, count, list) : UINT32_MAX; /* which the builder refuses */
    p.turn = 0;
    free(list);
    return p;
}

/* One rank: a copy is all there is to do. Nothing at all if it is in place. */
static inline enum choir_status copy_only(struct choir_builder *b)
{
    CHOIR_STEP(b, CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_IN)),
               CHOIR_PLACES(CHOIR_LOCAL(.buf = CHOIR_OUT)));
    return choir_builder_status(b);
}

/* Where "key" or "key=..." stands in a comma-separated list; NULL if it does not. */
static inline const char *find_argument(const char *args, const char *key)
{
    size_t length = strlen(key);
    for (; *args; args += strcspn(args, ","), args += *args == ',')
        if (!strncmp(args, key, length) && strchr("=,", args[length]))
            return args;
    return NULL;
}

/* The number behind "key="; `otherwise` if the key is absent, 0 if it is garbled. */
static inline uint64_t argument(const char *args, const char *key, uint64_t otherwise)
{
    const char *at = find_argument(args, key);
    char *end;
    if (!at)
        return otherwise;
    at += strlen(key) + (at[strlen(key)] == '=');
    uint64_t value = strtoull(at, &end, 10);
    return *end && *end != ',' ? 0 : value;
}

/* Whether all arguments are of a list of keys like "piece,trees". */
static inline bool arguments_are(const char *args, const char *keys)
{
    char key[32];
    for (; *args; args += strcspn(args, ","), args += *args == ',') {
        size_t length = strcspn(args, "=,");
        if (!length || length >= sizeof(key))
            return false;
        memcpy(key, args, length);
        key[length] = 0;
        if (!find_argument(keys, key))
            return false;
    }
    return true;
}

#endif
