/* SPDX-License-Identifier: Apache-2.0 */
/*
 * args.c: the command line of choir-plan.
 */
#include "host/transports.h"
#include "plan_tool.h"
#include "topo/topo.h"
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: choir-plan COLLECTIVE SIZE [options]        candidates, their predicted times, the "
    "choice\n"
    "       choir-plan COLLECTIVE --sweep [FROM-TO]     the choice by size\n"
    "       choir-plan --load FILE [options]            plans from a file, dumped and edited\n"
    "       choir-plan --list                           algorithms\n"
    "\n"
    "COLLECTIVE is all_reduce, broadcast, ...; SIZE the bytes of the largest buffer of a rank "
    "(64K, 1M, 2G).\n"
    "\n"
    "the cluster (by default this machine, a rank per core):\n"
    "  --ranks N            N ranks on this machine\n"
    "  --hosts H --per-host N, --hosts-of A,B,C\n"
    "                       H hosts of N ranks, or hosts of A, B and C ranks\n"
    "  --cores N            cores of a host, where ranks share them\n"
    "  --topo FILE          hosts and constants from a file\n"
    "  --gpus               GPUs of one host that map each other's memory, one a rank (--ranks)\n"
    "  --tuning FILE        the same with constants as measured; choir-info names such files\n"
    "  --write-topo         prints the cluster as such a file\n"
    "the operation:\n"
    "  --type T             float32 (default), int8, bfloat16, ...\n"
    "  --root R             of broadcast, reduce, gather and scatter\n"
    "  --share PERCENT      of all_gather_v and reduce_scatter_v: rank R's block (rank 0's without "
    "--root)\n"
    "                       is so much of SIZE, the others share the rest; without it all are "
    "equal\n"
    "  --ordered            for an operation that does not commute: combine in rank order\n"
    "  --algo NAME          this algorithm (\"ring\", \"hierarchical(ring,tree)\"), not the one "
    "chosen\n"
    "the answer:\n"
    "  --dump [RANK]        the plan of a rank, or a file of all ranks' plans for --load and "
    "CHOIR_PLAN_FILES\n"
    "  --svg FILE           draws the message pattern (to standard output with -)\n"
    "  --verify             proves the plans: result, deadlocks, races; exit status 1 if they are "
    "refused\n"
    "  --json               for programs\n"
    "CHOIR_ALGO, CHOIR_ALGO_PLUGINS and CHOIR_PLAN_FILES count as they do in a job.\n";

void ask_fail(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fputs("choir-plan: ", stderr);
    vfprintf(stderr, format, ap);
    fputs("\n", stderr);
    va_end(ap);
    exit(2);
}

void ask_fail_record(const char *doing)
{
    const struct choir_error *e = base_error_thread();
    fprintf(stderr, "choir-plan: %s: %s%s%s\n", doing, e->text, e->remedy[0] ? "; " : "",
            e->remedy);
    exit(e->status == CHOIR_ERR_ARGUMENT || e->status == CHOIR_ERR_UNSUPPORTED ? 2 : 1);
}

/* --- values ------------------------------------------------------------------------------------- */

static uint64_t number(const char *option, const char *text, uint64_t least, uint64_t most)
{
    char *end;
    errno = 0;
    unsigned long long v = text && isdigit((unsigned char)*text) ? strtoull(text, &end, 10) : 0;
    if (!text)
        ask_fail("%s needs a number", option);
    if (!isdigit((unsigned char)*text) || *end || errno || v < least || v > most)
        ask_fail("%s: \"%s\" is not a number from %llu to %llu", option, text,
                 (unsigned long long)least, (unsigned long long)most);
    return v;
}

/* Reads 64K at *text, goes behind it. */
static uint64_t size_at(const char **text, const char *all)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)**text))
        ask_fail("\"%s\" is not a size such as 64K, 1M or 2G", all);
    unsigned long long v = strtoull(*text, &end, 10);
    const char *units = "KMGT", *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (errno || v > (1ull << 50) >> shift)
        ask_fail("\"%s\" is more than 1024T", all);
    end += unit != NULL;
    if (unit && *end == 'i')
        end++;
    if (*end == 'B' || *end == 'b')
        end++;
    *text = end;
    return v << shift;
}

static void read_size(struct ask *ask, const char *text)
{
    const char *at = text;
    if (ask->has_bytes)
        ask_fail("%s: a size is given already", text);
    ask->bytes = ask->to_bytes = size_at(&at, text);
    if (*at == '-') {
        at++;
        ask->to_bytes = size_at(&at, text);
        ask->sweep = true;
    }
    if (*at)
        ask_fail("\"%s\" is not a size such as 64K, 1M or 2G", text);
    if (ask->to_bytes < ask->bytes)
        ask_fail("%s: the smaller size comes first", text);
    ask->has_bytes = true;
}

static int kind_of(const char *text)
{
    int kind = plan_kind_find(text);
    if (kind >= 0)
        return kind;
    fprintf(stderr, "choir-plan: there is no collective %s; there are", text);
    for (int k = 0; k < CHOIR_EXCHANGE; k++)
        fprintf(stderr, " %s", plan_kind_name((enum choir_kind)k));
    fputs("\n", stderr);
    exit(2);
}

static enum choir_type type_of(const char *text)
{
    for (int t = 0; text && t < CHOIR_TYPES; t++)
        if (!strcmp(text, choir_type_name((enum choir_type)t)))
            return (enum choir_type)t;
    ask_fail("--type: there is no type %s", text ? text : "");
}

/* --- options ------------------------------------------------------------------------------------ */

static const char *value(const char *option, int argc, char **argv, int *i)
{
    if (*i + 1 >= argc)
        ask_fail("%s needs a value", option);
    return argv[++*i];
}

static bool read_flag(struct ask *ask, const char *o)
{
    const struct {
        const char *name;
        bool *flag;
    } flags[] = {{"--verify", &ask->verify},
                 {"--list", &ask->list},
                 {"--sweep", &ask->sweep},
                 {"--json", &ask->json},
                 {"--write-topo", &ask->write_topo},
                 {"--ordered", &ask->ordered},
                 {"--gpus", &ask->gpus}};
    for (size_t i = 0; i < base_count(flags); i++)
        if (!strcmp(o, flags[i].name))
            return *flags[i].flag = true;
    return false;
}

static bool read_text(struct ask *ask, const char *o, int argc, char **argv, int *i)
{
    const struct {
        const char *name;
        const char **text;
    } texts[] = {{"--hosts-of", &ask->hosts_of}, {"--algo", &ask->algorithm},
                 {"--topo", &ask->topo},         {"--tuning", &ask->tuning},
                 {"--svg", &ask->svg},           {"--load", &ask->load}};
    for (size_t k = 0; k < base_count(texts); k++)
        if (!strcmp(o, texts[k].name)) {
            *texts[k].text = value(o, argc, argv, i);
            return true;
        }
    return false;
}

static bool read_number(struct ask *ask, const char *o, int argc, char **argv, int *i)
{
    const struct {
        const char *name;
        uint32_t *number, least;
    } numbers[] = {{"--ranks", &ask->ranks, 1}, {"--root", &ask->root, 0},
                   {"--share", &ask->share, 0}, {"--cores", &ask->cores, 1},
                   {"--hosts", &ask->hosts, 1}, {"--per-host", &ask->per_host, 1}};
    for (size_t k = 0; k < base_count(numbers); k++)
        if (!strcmp(o, numbers[k].name)) {
            *numbers[k].number =
                (uint32_t)number(o, value(o, argc, argv, i), numbers[k].least, 1u << 26);
            return true;
        }
    return false;
}

static void read_option(struct ask *ask, int argc, char **argv, int *i)
{
    const char *o = argv[*i];
    if (!strcmp(o, "--help") || !strcmp(o, "-h")) {
        fputs(usage, stdout);
        exit(0);
    }
    if (read_flag(ask, o) || read_text(ask, o, argc, argv, i) || read_number(ask, o, argc, argv, i))
        return;
    if (!strcmp(o, "--type")) {
        ask->type = type_of(value(o, argc, argv, i));
    } else if (!strcmp(o, "--dump")) {
        ask->dump = DUMP_ALL;
        if (*i + 1 < argc && isdigit((unsigned char)argv[*i + 1][0]) &&
            !argv[*i + 1][strspn(argv[*i + 1], "0123456789")])
            ask->dump = (int)number(o, argv[++*i], 0, INT32_MAX);
    } else {
        ask_fail("%s: there is no such option; --help lists them", o);
    }
}

/* --- the cluster -------------------------------------------------------------------------------- */

static struct choir_layout *uneven(const char *text)
{
    uint64_t *key = NULL;
    uint32_t ranks = 0, hosts = 0;
    for (const char *at = text; *at; at += *at == ',') {
        char *end;
        errno = 0;
        unsigned long n = isdigit((unsigned char)*at) ? strtoul(at, &end, 10) : 0;
        if (!n || errno || (*end && *end != ',') || n > (1u << 26) - ranks)
            ask_fail("--hosts-of: \"%s\" is not a list of ranks such as 3,5,8", text);
        key = realloc(key, (ranks + n) * sizeof(*key));
        if (!key)
            ask_fail("--hosts-of: no memory for %lu ranks", ranks + n);
        while (n--)
            key[ranks++] = hosts;
        hosts++;
        at = end;
    }
    if (!ranks)
        ask_fail("--hosts-of needs a list of ranks such as 3,5,8");
    struct choir_layout *l = plan_layout_create(ranks, key);
    free(key);
    return l;
}

static char *file_text(const char *path)
{
    FILE *f = fopen(path, "re");
    char *text = NULL;
    size_t bytes = 0, room = 0;
    if (!f)
        ask_fail("%s: %s", path, strerror(errno));
    do {
        if (bytes + 1 >= room && !(text = realloc(text, room = room ? room * 2 : 4096)))
            ask_fail("%s: no memory", path);
        bytes += fread(text + bytes, 1, room - bytes - 1, f);
    } while (!feof(f) && !ferror(f));
    if (ferror(f))
        ask_fail("%s: cannot be read", path);
    fclose(f);
    text[bytes] = 0;
    return text;
}

static struct choir_layout *described(const struct ask *ask)
{
    if (ask->hosts_of && (ask->hosts || ask->per_host))
        ask_fail("--hosts-of goes without --hosts and --per-host");
    if (ask->ranks && (ask->hosts || ask->per_host || ask->hosts_of))
        ask_fail("--ranks is for this machine; describe hosts by --hosts and --per-host alone");
    if (ask->hosts_of)
        return uneven(ask->hosts_of);
    uint64_t hosts = ask->hosts ? ask->hosts : 1, per = ask->per_host ? ask->per_host : 1;
    if (hosts * per > 1u << 26)
        ask_fail("--hosts, --per-host: %llu ranks are too many", (unsigned long long)(hosts * per));
    return plan_layout_regular((uint32_t)hosts, (uint32_t)per);
}

static void read_cluster(struct ask *ask)
{
    bool hosts = ask->hosts || ask->per_host || ask->hosts_of;
    uint32_t cores = ask->cores;
    struct plan_cluster c;
    struct choir_layout *from_file = NULL;
    if (hosts || ask->ranks)
        ask->layout = ask->ranks ? (hosts ? described(ask) : plan_layout_regular(1, ask->ranks))
                                 : described(ask);
    if (ask->gpus || ask->tuning) {
        ask_gpus(ask);
        return;
    }
    if (ask->topo) {
        char *text = file_text(ask->topo);
        plan_cluster_default(&c, ask->layout);
        enum choir_status st = plan_cluster_parse(text, &c, &from_file);
        free(text);
        if (st != CHOIR_OK)
            ask_fail_record(ask->topo);
        if (ask->layout) {
            plan_layout_free(from_file);
            from_file = NULL;
        }
        ask->layout = ask->layout ? ask->layout : from_file;
    }
    ask->here = !hosts && !from_file;
    if (!ask->layout)
        ask->layout = plan_layout_regular(1, base_max(topo_get()->cores, 2u));
    if (!ask->layout)
        ask_fail_record("the cluster");
    if (!ask->topo)
        plan_cluster_default(&c, ask->layout);
    c.layout = ask->layout;
    ask->cluster = c;
    if (!cores && ask->here && !ask->topo)
        cores = topo_get()->cores;
    if (cores)
        plan_cluster_cores(&ask->cluster, cores);
    if (ask->here && !ask->topo && transports_find("shm", 3)->expects() & CHOIR_CAP_READ_FAST)
        plan_cluster_reads(&ask->cluster);
    plan_cluster_rehash(&ask->cluster);
}

void ask_read(struct ask *ask, int argc, char **argv)
{
    *ask =
        (struct ask){.kind = -1, .dump = DUMP_NOTHING, .share = SHARE_EVEN, .type = CHOIR_FLOAT32};
    if (argc < 2) {
        fputs(usage, stderr);
        exit(2);
    }
    for (int i = 1; i < argc; i++)
        if (argv[i][0] == '-' && argv[i][1])
            read_option(ask, argc, argv, &i);
        else if (isdigit((unsigned char)argv[i][0]))
            read_size(ask, argv[i]);
        else if (ask->kind >= 0)
            ask_fail("%s: %s is asked for already", argv[i],
                     plan_kind_name((enum choir_kind)ask->kind));
        else
            ask->kind = kind_of(argv[i]);
    read_cluster(ask);
    if (ask->list || ask->write_topo || ask->load)
        return;
    if (ask->kind < 0)
        ask_fail("which collective? as in: choir-plan all_reduce 1M");
    if (ask->kind == CHOIR_EXCHANGE)
        ask_fail("exchange: a group of sends and receives is known to its own rank only");
    if (ask->kind == CHOIR_BARRIER)
        ask->has_bytes = true;
    if (!ask->has_bytes && !ask->sweep)
        ask_fail("which size? as in: choir-plan %s 1M", plan_kind_name((enum choir_kind)ask->kind));
    if (ask->root >= ask->layout->ranks)
        ask_fail("--root: %u is not one of %u ranks", ask->root, ask->layout->ranks);
    if (ask->share != SHARE_EVEN && ask->share > 100)
        ask_fail("--share: %u %% are more than all of it", ask->share);
    if (ask->share != SHARE_EVEN && ask->kind != CHOIR_ALL_GATHER_V &&
        ask->kind != CHOIR_REDUCE_SCATTER_V)
        ask_fail("--share is for all_gather_v and reduce_scatter_v, of which all ranks know all "
                 "counts");
    if (ask->dump >= 0 && (uint32_t)ask->dump >= ask->layout->ranks)
        ask_fail("--dump: %d is not one of %u ranks", ask->dump, ask->layout->ranks);
}
