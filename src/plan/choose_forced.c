/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choose_forced.c: CHOIR_ALGO (and NCCL_ALGO where it means the same).
 *
 *   text = rule (";" rule)...
 *   rule = [collective [":" from "-" to] ("=" | ":")] ["^"] name ("," name)...
 *
 * Sizes take K, M, G; either end of a range may be left out. A name is "ring", "hierarchical(ring,tree)" or
 * "file:mine"; several: the cheapest of them; "^": any but these. A comma also ends a rule where another
 * with a collective follows, so "all_reduce=ring,all_gather=pat" are two. Collectives and NCCL's names are
 * known in any case, "_" left out or not.
 */
#include "plan/choose.h"
#include <ctype.h>
#include <string.h>

struct reader {
    const char *text, *at;
    bool failed;
};

static enum choir_status fail(struct reader *r, const char *at, const char *expected)
{
    r->failed = true;
    return base_fail(CHOIR_ERR_ARGUMENT,
                     "write collective[:from-to]=algorithm, separated by , or ; "
                     "as in all_reduce:64K-1M=ring;tree",
                     "CHOIR_ALGO, column %u: expected %s in \"%.*s >>> %.40s\"",
                     (unsigned)(at - r->text) + 1, expected, (int)(at - r->text), r->text, at);
}

static void skip_space(struct reader *r)
{
    while (isspace((unsigned char)*r->at))
        r->at++;
}

/* Same name in any case, underscores apart: NCCL says AllReduce. */
static bool same_name(const char *a, size_t length, const char *b)
{
    size_t i = 0;
    for (;; i++, b++) {
        while (i < length && a[i] == '_')
            i++;
        while (*b == '_')
            b++;
        if (i >= length || !*b)
            return i >= length && !*b;
        if (tolower((unsigned char)a[i]) != tolower((unsigned char)*b))
            return false;
    }
}

static int kind_of(const char *name, size_t length)
{
    for (int k = 0; k < CHOIR_KINDS; k++)
        if (same_name(name, length, plan_kind_name((enum choir_kind)k)))
            return k;
    return -1;
}

/* Letters and digits, then arguments in parentheses; "file:" may stand before. */
static size_t name_length(const char *at)
{
    size_t n = strncmp(at, "file:", 5) ? 0 : 5;
    int depth = 0;
    for (; at[n]; n++) {
        char c = at[n];
        depth += (c == '(') - (c == ')');
        bool inside = (depth > 0 && isgraph((unsigned char)c)) || c == ')';
        if (depth < 0 || (!inside && !isalnum((unsigned char)c) && c != '_' && c != '.'))
            break;
    }
    return depth ? 0 : n;
}

/* A collective stands here if a name is followed by "=", or by ":" and is not "file". */
static bool at_collective(const char *at)
{
    size_t n = strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    const char *end = at + n + strspn(at + n, " \t");
    return n && (*end == '=' || (*end == ':' && strncmp(at, "file:", 5)));
}

static bool read_size(struct reader *r, uint64_t *size)
{
    uint64_t v = 0;
    if (!isdigit((unsigned char)*r->at))
        return false;
    for (; isdigit((unsigned char)*r->at); r->at++) {
        uint64_t d = (uint64_t)(*r->at - '0');
        v = v > (UINT64_MAX - d) / 10 ? UINT64_MAX : v * 10 + d;
    }
    static const char units[] = "KMGT";
    const char *unit = *r->at ? strchr(units, toupper((unsigned char)*r->at)) : NULL;
    if (unit) {
        unsigned shift = 10 * (unsigned)(unit - units + 1);
        v = v > UINT64_MAX >> shift ? UINT64_MAX : v << shift;
        r->at++;
    }
    *size = v;
    return true;
}

static void read_range(struct reader *r, struct choose_rule *rule)
{
    const char *begin = r->at;
    bool from = read_size(r, &rule->from);
    skip_space(r);
    if (*r->at != '-') {
        fail(r, r->at, "\"-\" in a range of sizes");
        return;
    }
    r->at++;
    skip_space(r);
    bool to = read_size(r, &rule->to);
    if ((!from && !to) || rule->from > rule->to)
        fail(r, begin, "a range of sizes, the smaller first");
}

static void read_collective(struct reader *r, struct choose_rule *rule)
{
    size_t n = strcspn(r->at, "=: \t");
    int kind = kind_of(r->at, n);
    if (kind < 0) {
        fail(r, r->at, "a collective (all_reduce ...)");
        return;
    }
    rule->kinds = 1u << kind;
    r->at += n;
    skip_space(r);
    bool colon = *r->at++ == ':';
    skip_space(r);
    if (!colon || !(isdigit((unsigned char)*r->at) || *r->at == '-'))
        return;
    read_range(r, rule);
    skip_space(r);
    if (!r->failed && *r->at != '=' && *r->at != ':')
        fail(r, r->at, "\"=\" and an algorithm behind the range");
    else
        r->at += !r->failed;
}

/* The registry's spelling of a name, arguments as they are. false: there is no such algorithm. */
static bool canonical(const char *name, size_t length, char *text)
{
    const struct choir_algorithm *a;
    size_t base = 0;
    while (base < length && name[base] != '(')
        base++;
    if (!strncmp(name, "file:", 5)) {
        snprintf(text, CHOOSE_NAME, "%.*s", (int)length, name);
        return true;
    }
    for (uint32_t i = 0; (a = plan_algorithm_at(i)); i++)
        if (same_name(name, base, a->name)) {
            snprintf(text, CHOOSE_NAME, "%s%.*s", a->name, (int)(length - base), name + base);
            return true;
        }
    return false;
}

static void read_names(struct reader *r, struct choose_rule *rule)
{
    for (;;) {
        skip_space(r);
        size_t n = name_length(r->at);
        if (!n || n >= CHOOSE_NAME) {
            fail(r, r->at, "the name of an algorithm");
            return;
        }
        if (rule->names == base_count(rule->name)) {
            fail(r, r->at, "at most 8 algorithms in a rule");
            return;
        }
        if (canonical(r->at, n, rule->name[rule->names]))
            rule->names++;
        else
            base_log(rule->exclude ? BASE_INFO : BASE_WARN, -1,
                     "CHOIR_ALGO ignored: there is no algorithm %.*s", (int)n, r->at);
        r->at += n;
        skip_space(r);
        const char *next = r->at + 1;
        while (*r->at == ',' && isspace((unsigned char)*next))
            next++;
        if (*r->at != ',' || at_collective(next))
            return;
        r->at++;
    }
}

static void read_rule(struct reader *r, struct choose_forced *forced)
{
    struct choose_rule rule = {.kinds = UINT32_MAX, .to = UINT64_MAX};
    if (at_collective(r->at))
        read_collective(r, &rule);
    skip_space(r);
    if (!r->failed && *r->at == '^') {
        rule.exclude = true;
        r->at++;
    }
    if (!r->failed)
        read_names(r, &rule);
    if (r->failed || !rule.names)
        return;
    if (forced->rules == base_count(forced->rule))
        fail(r, r->at, "at most 32 rules");
    else
        forced->rule[forced->rules++] = rule;
}

enum choir_status choose_forced_parse(const char *text, struct choose_forced *forced)
{
    struct reader r = {.text = text ? text : "", .at = text ? text : ""};
    forced->rules = 0;
    for (skip_space(&r); *r.at && !r.failed; skip_space(&r)) {
        read_rule(&r, forced);
        skip_space(&r);
        if (r.failed || !*r.at)
            break;
        if (*r.at != ';' && *r.at != ',')
            fail(&r, r.at, "\",\" or \";\"");
        else
            r.at++;
    }
    return r.failed ? CHOIR_ERR_ARGUMENT : CHOIR_OK;
}

struct choose_rule *choose_forced_find(struct choose_forced *forced, uint32_t kind, uint64_t bytes)
{
    for (unsigned all = 0; all < 2; all++)
        for (uint32_t i = 0; i < forced->rules; i++) {
            struct choose_rule *r = &forced->rule[i];
            if (!r->exclude && (r->kinds == UINT32_MAX) == all && r->kinds >> kind & 1 &&
                r->from <= bytes && bytes <= r->to)
                return r;
        }
    return NULL;
}

bool choose_name_matches(const char *wish, const char *candidate)
{
    size_t n = strlen(wish);
    return !strncmp(wish, candidate, n) && (!candidate[n] || candidate[n] == '(');
}

bool choose_forced_excludes(const struct choose_forced *forced, uint32_t kind, uint64_t bytes,
                            const char *candidate)
{
    for (uint32_t i = 0; i < forced->rules; i++) {
        const struct choose_rule *r = &forced->rule[i];
        if (!r->exclude || !(r->kinds >> kind & 1) || bytes < r->from || bytes > r->to)
            continue;
        for (uint32_t k = 0; k < r->names; k++)
            if (choose_name_matches(r->name[k], candidate))
                return true;
    }
    return false;
}
