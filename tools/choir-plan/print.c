/* SPDX-License-Identifier: Apache-2.0 */
/*
 * print.c: the answers of choir-plan as tables and JSON.
 */
#include "plan_tool.h"
#include <stdlib.h>
#include <string.h>

char *size_text(uint64_t bytes, char text[32])
{
    static const char units[] = "BKMGTP";
    double v = (double)bytes;
    unsigned u = 0;
    for (; v >= 1000 && u + 2 < sizeof(units); u++)
        v /= 1024;
    if (u)
        snprintf(text, 32, "%.4g %ciB", v, units[u]);
    else
        snprintf(text, 32, "%.0f B", v);
    return text;
}

static char *time_text(double ns, char text[32])
{
    if (ns < 1e3)
        snprintf(text, 32, "%.0f ns", ns);
    else if (ns < 1e6)
        snprintf(text, 32, "%.4g us", ns / 1e3);
    else if (ns < 1e9)
        snprintf(text, 32, "%.4g ms", ns / 1e6);
    else
        snprintf(text, 32, "%.4g s", ns / 1e9);
    return text;
}

static void print_head(const struct ask *ask, const struct choir_shape *s)
{
    char size[32], constants[512];
    const struct choir_layout *l = ask->layout;
    printf("%s, ", plan_kind_name((enum choir_kind)s->kind));
    if (ask->share != SHARE_EVEN)
        printf("%s (%llu %s, %u %% of them rank %u's), ", size_text(shape_bytes(s), size),
               (unsigned long long)(s->count * s->ranks), choir_type_name(ask->type), ask->share,
               ask->root);
    else if (s->kind != CHOIR_BARRIER)
        printf("%s (%llu %s%s), ", size_text(shape_bytes(s), size), (unsigned long long)s->count,
               choir_type_name(ask->type),
               shape_bytes(s) > s->count * s->type_bytes ? " each" : "");
    printf("%u ranks on ", l->ranks);
    if (l->hosts == 1)
        printf("%s", ask->here ? "this machine" : ask->gpus ? "GPUs of one host" : "one host");
    else
        printf("%u hosts", l->hosts);
    if (ask->cluster.oversubscribed > 1)
        printf(", %.3g ranks a core", ask->cluster.oversubscribed);
    constants_text(ask, constants, sizeof(constants));
    printf("\nconstants %s\n\n", constants);
}

static void print_row(const struct answer *a, uint32_t i)
{
    const struct plan_candidate *c = &a->list[i];
    const struct plan_price *p = &c->price;
    char time[32], host[32], net[32];
    printf("%c %-46s %12s %7.2f %12llu %12s %12s%s\n", i == a->chosen ? '*' : ' ', c->name,
           time_text(p->time_ns, time),
           a->list[a->chosen].price.time_ns > 0 ? p->time_ns / a->list[a->chosen].price.time_ns : 1,
           (unsigned long long)p->messages, size_text(p->bytes[PLAN_LINK_HOST], host),
           size_text(p->bytes[PLAN_LINK_NET], net), p->sampled ? "  sampled" : "");
}

/* Candidates that have no plan for this shape: a list below the table. */
static void print_others(const struct answer *a)
{
    size_t column = 0;
    for (uint32_t i = 0; i < a->count; i++) {
        const char *name = a->list[i].name;
        if (a->list[i].status == CHOIR_OK)
            continue;
        if (!column)
            column = (size_t)printf("\n  not for this shape:");
        else if (column + strlen(name) + 1 > 100)
            column = (size_t)printf("\n   ") - 1;
        column += (size_t)printf(" %s", name);
    }
    if (column)
        printf("\n");
}

struct named_share {
    const char *name;
    double percent;
};

static int by_percent(const void *a, const void *b)
{
    const struct named_share *x = a, *y = b;
    return x->percent > y->percent ? -1 : x->percent < y->percent;
}

static void print_shares(const struct shares *s)
{
    struct named_share list[] = {{"latency of links", s->latency},
                                 {"CPU per message", s->messages},
                                 {"CPU per byte", s->cpu},
                                 {"bytes on links", s->links},
                                 {"memories and NICs shared by a host", s->shared}};
    qsort(list, base_count(list), sizeof(list[0]), by_percent);
    printf("its time goes to");
    for (size_t i = 0; i < base_count(list) && (!i || list[i].percent >= 1); i++)
        printf("%s %s %.0f %%", i ? "," : "", list[i].name, list[i].percent);
    printf("\n");
}

void print_answer(const struct ask *ask, const struct answer *a)
{
    const struct plan_candidate *c = &a->list[a->chosen];
    print_head(ask, &a->shape);
    printf("  %-46s %12s %7s %12s %12s %12s\n", "algorithm", "predicted", "ratio", "messages",
           "in hosts", "between");
    for (uint32_t i = 0; i < a->count; i++)
        if (a->list[i].status == CHOIR_OK)
            print_row(a, i);
    print_others(a);
    printf("\n%s %s: ", ask->algorithm ? "asked for" : "chosen", c->name);
    if (a->runner_up == UINT32_MAX)
        printf("there is no other\n");
    else
        printf("%s takes %.2f times as long\n", a->list[a->runner_up].name,
               c->price.time_ns > 0 ? a->list[a->runner_up].price.time_ns / c->price.time_ns : 1);
    print_shares(&a->shares);
    printf("the last to end is rank %u\n", c->price.critical_rank);
    if (!ask->algorithm && a->runner_up != UINT32_MAX &&
        a->list[a->runner_up].price.time_ns < c->price.time_ns)
        printf("%s is quicker at this very size; wishes, or the size class, whose price is that of "
               "the next power of two%s, decide for %s\n",
               a->list[a->runner_up].name,
               ask->share == SHARE_EVEN ? "" : " (of the share, the nearest)", c->name);
    if (c->price.sampled)
        printf("sampled: played by representatives or smaller clusters, not by all ranks\n");
}

static void print_json_price(const struct plan_price *p)
{
    printf("\"time_us\": %.6g, \"messages\": %llu, \"bytes_self\": %llu, \"bytes_host\": %llu, "
           "\"bytes_net\": %llu, \"critical_rank\": %u, \"sampled\": %s",
           p->time_ns / 1e3, (unsigned long long)p->messages,
           (unsigned long long)p->bytes[PLAN_LINK_SELF],
           (unsigned long long)p->bytes[PLAN_LINK_HOST],
           (unsigned long long)p->bytes[PLAN_LINK_NET], p->critical_rank,
           p->sampled ? "true" : "false");
}

static void print_json_text(const char *text)
{
    putchar('"');
    for (; *text; text++)
        if ((unsigned char)*text < ' ')
            printf("\\u%04x", (unsigned)*text);
        else
            printf(*text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    putchar('"');
}

void print_json(const struct ask *ask, const struct answer *a)
{
    char constants[512];
    const struct choir_layout *l = ask->layout;
    constants_text(ask, constants, sizeof(constants));
    printf("{\"collective\": \"%s\", \"bytes\": %llu, \"count\": %llu, \"type\": \"%s\", "
           "\"ranks\": %u, \"hosts\": %u, \"oversubscribed\": %.6g,\n \"chosen\": \"%s\", ",
           plan_kind_name((enum choir_kind)a->shape.kind),
           (unsigned long long)shape_bytes(&a->shape), (unsigned long long)a->shape.count,
           choir_type_name(ask->type), l->ranks, l->hosts, ask->cluster.oversubscribed,
           a->list[a->chosen].name);
    printf("\"constants\": ");
    print_json_text(constants);
    printf(", ");
    if (ask->share != SHARE_EVEN)
        printf("\"share\": %u, \"share_rank\": %u, ", ask->share, ask->root);
    if (a->runner_up != UINT32_MAX)
        printf("\"runner_up\": \"%s\", ", a->list[a->runner_up].name);
    printf("\"percent\": {\"latency\": %.3g, \"cpu_per_message\": %.3g, \"cpu_per_byte\": %.3g, "
           "\"links\": %.3g, \"shared\": %.3g},\n \"candidates\": [",
           a->shares.latency, a->shares.messages, a->shares.cpu, a->shares.links, a->shares.shared);
    for (uint32_t i = 0; i < a->count; i++) {
        printf("%s\n  {\"name\": \"%s\", ", i ? "," : "", a->list[i].name);
        if (a->list[i].status == CHOIR_OK)
            print_json_price(&a->list[i].price);
        else
            printf("\"status\": \"%s\"", choir_status_name(a->list[i].status));
        printf("}");
    }
    printf("\n ]}\n");
}

void print_price(const struct plan_price *p)
{
    char time[32], host[32], net[32];
    printf("predicted %s, %llu messages, %s in hosts, %s between\n", time_text(p->time_ns, time),
           (unsigned long long)p->messages, size_text(p->bytes[PLAN_LINK_HOST], host),
           size_text(p->bytes[PLAN_LINK_NET], net));
}

/* --- sweeps ------------------------------------------------------------------------------------- */

static void print_crossing(const char *name, uint64_t from, uint64_t to)
{
    char a[32], b[32];
    printf("  %-46s %s to %s\n", name, size_text(from, a), size_text(to, b));
}

void print_sweep(const struct ask *ask, struct plan_table *table)
{
    uint64_t from = ask->has_bytes ? ask->bytes : 8,
             to = ask->has_bytes ? ask->to_bytes : 1ull << 30;
    uint64_t at[64], sizes = 0;
    const char *name[64];
    char constants[512];
    constants_text(ask, constants, sizeof(constants));
    if (from == to && ask->has_bytes) /* --sweep with one size: up to it */
        from = base_min(8u, to);
    for (uint64_t b = base_max(from, 1u); b <= to && sizes < 64; b *= 2)
        at[sizes++] = b;
    if (ask->json)
        printf("[");
    else
        printf("constants %s\n%12s %14s %10s  %s\n", constants, "bytes", "predicted", "GB/s",
               "chosen");
    for (uint64_t i = 0; i < sizes; i++) {
        struct choir_shape s = shape_for(ask, at[i]);
        struct plan_price p;
        char time[32];
        name[i] = ask->algorithm ? ask->algorithm : plan_table_choose(table, &s, ask->ordered);
        if (plan_simulate(name[i], &s, &ask->cluster, &p) != CHOIR_OK)
            ask_fail_record(name[i]);
        at[i] = shape_bytes(&s) ? shape_bytes(&s) : at[i];
        if (ask->json)
            printf("%s\n {\"bytes\": %llu, \"chosen\": \"%s\", ", i ? "," : "",
                   (unsigned long long)at[i], name[i]);
        else
            printf("%12llu %14s %10.3g  %s%s\n", (unsigned long long)at[i],
                   time_text(p.time_ns, time), p.time_ns > 0 ? (double)at[i] / p.time_ns : 0,
                   name[i], p.sampled ? " (sampled)" : "");
        if (ask->json) {
            print_json_price(&p);
            printf("}");
        }
        shape_done(&s);
    }
    if (ask->json) {
        printf("\n]\n");
        return;
    }
    printf("\n");
    for (uint64_t i = 0, first = 0; i < sizes; i++)
        if (i + 1 == sizes || strcmp(name[i], name[i + 1])) {
            print_crossing(name[first], at[first], at[i]);
            first = i + 1;
        }
}

void print_algorithms(void)
{
    const struct choir_algorithm *a;
    for (uint32_t i = 0; (a = plan_algorithm_at(i)); i++) {
        printf("%s%s%s%s\n    %s\n   ", a->name, *a->variants ? "; also with " : "", a->variants,
               a->flags & CHOIR_ORDERED ? "; combines in rank order" : "", a->summary);
        for (int k = 0; k < CHOIR_KINDS; k++)
            if (a->kinds >> k & 1)
                printf(" %s", plan_kind_name((enum choir_kind)k));
        printf("\n");
    }
}
