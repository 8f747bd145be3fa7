/* SPDX-License-Identifier: Apache-2.0 */
/*
 * env.c: NCCL's environment variables, one table. Those that mean the same as a setting of Choir's are read by Choir itself
 * (src/base/knobs.def names them as aliases); some are put into Choir's words here, before it reads them; of the rest one line of the
 * log says why it has no effect. What a file of NCCL's (nccl.conf) sets counts like the environment.
 */
#include "shims/nccl/internal.h"
#include "shims/nccl/env.h"
#include "base/knob.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* --- what Choir's settings are called ---------------------------------------------------------------------- */

/* Without reading their values: these come after what is done here. */
static const struct {
    const char *name, *alias, *text;
} setting[] = {
#define KNOB_TEXT(id, name, alias, fallback, help) {name, alias, fallback},
#define KNOB_INT(id, name, alias, ...) {name, alias, NULL},
#define KNOB_TIME(id, name, alias, ...) {name, alias, NULL},
#define KNOB_SIZE(id, name, alias, ...) {name, alias, NULL},
#include "base/knobs.def"
#undef KNOB_TEXT
#undef KNOB_INT
#undef KNOB_TIME
#undef KNOB_SIZE
};

bool nccl_env_is_setting(const char *name)
{
    for (size_t i = 0; i < base_count(setting); i++)
        if (setting[i].alias && !strcmp(setting[i].alias, name))
            return true;
    return false;
}

static bool is_set(const char *name)
{
    const char *text = getenv(name);
    return text && *text;
}

/* --- variables in Choir's words: NULL: done, or why not ----------------------------------------------------- */

static const char *say_in(const char *name, const char *value)
{
    const char *own = getenv(name);
    if (own && *own) /* maybe from here, by a second variable or in a parent process */
        return strcmp(own, value) ? "Choir's own variable is set and wins" : NULL;
    setenv(name, value, 1);
    return NULL;
}

static const char *put_algo(const char *value)
{
    return say_in("CHOIR_ALGO", value); /* whose rules are NCCL's, and more */
}

static const char *put_shm(const char *value)
{
    char list[128] = "", *at = list;
    const char *all = "self,shm,tcp";
    if (!strcmp(value, "0"))
        return NULL;
    for (size_t i = 0; i < base_count(setting); i++)
        if (!strcmp(setting[i].name, "CHOIR_TRANSPORTS"))
            all = setting[i].text;
    for (const char *p = all; *p; p += strcspn(p, ","), p += *p == ',') {
        int n = (int)strcspn(p, ",");
        if (n != 3 || strncmp(p, "shm", 3))
            at += snprintf(at, sizeof(list) - (size_t)(at - list), "%s%.*s", at > list ? "," : "",
                           n, p);
    }
    return say_in("CHOIR_TRANSPORTS", list);
}

/* Sockets of a peer and interface are threads times sockets of a thread. */
static const char *put_sockets(const char *value)
{
    const char *threads = getenv("NCCL_SOCKET_NTHREADS"), *each = getenv("NCCL_NSOCKS_PERTHREAD");
    long n = (threads && *threads ? atol(threads) : 1) * (each && *each ? atol(each) : 1);
    char text[16];
    (void)value;
    if (n < 1)
        return "it is no positive number";
    snprintf(text, sizeof(text), "%ld", base_min(n, 16L));
    return say_in("CHOIR_SOCKETS", text);
}

/* Its older name; NCCL_MAX_CTAS is Choir's own second name. */
static const char *put_blocks(const char *value)
{
    return is_set("NCCL_MAX_CTAS") ? NULL : say_in("CHOIR_CUDA_BLOCKS", value);
}

static const char *put_level(const char *value)
{
    if (strcasecmp(value, "LOC") && strcmp(value, "0"))
        return "GPUs that reach each other use it, however far apart they are";
    return is_set("NCCL_P2P_DISABLE") ? NULL : say_in("CHOIR_CUDA_P2P", "off");
}

static const char *put_net(const char *value)
{
    return strcasecmp(value, "Socket")
               ? "CHOIR_TRANSPORTS says which transports are used, in order of preference"
               : NULL;
}

/* --- the table --------------------------------------------------------------------------------------------- */

#define IB "Choir has no verbs transport; vendors' net plug-ins read it themselves"
#define BLOCKS "blocks follow from a message's length and from how many communicators share the GPU"
#define MULTICAST "NVLink multicast is never used"
#define GDR "GPU memory goes to network cards through pinned host memory"
#define REGISTER "no buffer has to be registered"
#define SHAPE "plans say how data moves, CHOIR_ALGO chooses one"
#define PLUGIN "there is no interface for such plug-ins"
#define MNNVL "NVLink between hosts is not used"
#define GRAPH "NCCL's search graphs do not describe Choir's plans; choir-plan shows these"
#define RAS "there is no RAS service; late ranks, wrong calls and deaths are found and named anyway"
#define MEMORY "memory is allocated when a communicator is made, and CHOIR_CUDA_MEMORY bounds it"

#define PUT(name, fn) {name, NCCL_ENV_PUT, fn, BASE_INFO, NULL},
#define HERE(name) {name, NCCL_ENV_HERE, NULL, BASE_INFO, NULL},
#define NONE(name, text) {name, NCCL_ENV_NONE, NULL, BASE_INFO, text},
/* Who sets it wants what does not happen. */
#define WARN(name, text) {name, NCCL_ENV_NONE, NULL, BASE_WARN, text},
static const struct nccl_env_row table[] = {
    /* clang-format off */
    WARN("NCCL_COMM_ID", "make the id on one rank and carry it to the others; CHOIR_PORT sets the port it is answered at")
    NONE("NCCL_OOB_NET_ENABLE", "the rendezvous goes over TCP")
    NONE("NCCL_OOB_NET_IFNAME", "the rendezvous uses the interfaces of NCCL_SOCKET_IFNAME")
    NONE("NCCL_UID_STAGGER_RATE", "ranks that join are spread over a tree")
    NONE("NCCL_UID_STAGGER_THRESHOLD", "ranks that join are spread over a tree")
    NONE("NCCL_IB_HCA", IB)
    NONE("NCCL_IB_GID_INDEX", IB)
    NONE("NCCL_IB_TC", IB)
    NONE("NCCL_IB_SL", IB)
    NONE("NCCL_IB_TIMEOUT", IB)
    NONE("NCCL_IB_RETRY_CNT", IB)
    NONE("NCCL_IB_QPS_PER_CONNECTION", IB)
    NONE("NCCL_IB_SPLIT_DATA_ON_QPS", IB)
    NONE("NCCL_IB_AR_THRESHOLD", IB)
    NONE("NCCL_IB_ADAPTIVE_ROUTING", IB)
    NONE("NCCL_IB_PCI_RELAXED_ORDERING", IB)
    NONE("NCCL_IB_DISABLE", IB)
    NONE("NCCL_IB_MERGE_NICS", IB)
    NONE("NCCL_IB_ADDR_FAMILY", IB)
    NONE("NCCL_IB_ADDR_RANGE", IB)
    NONE("NCCL_IB_ROCE_VERSION_NUM", IB)
    NONE("NCCL_IB_RESILIENCY_PORT_FAILOVER", IB)
    NONE("NCCL_IB_RESILIENCY_PORT_RECOVERY", IB)
    NONE("NCCL_NET_MERGE_LEVEL", IB)
    NONE("NCCL_NET_MERGE_POLICY", IB)
    PUT("NCCL_SOCKET_NTHREADS", put_sockets)
    PUT("NCCL_NSOCKS_PERTHREAD", put_sockets)
    NONE("NCCL_SOCKET_RETRY_CNT", "connections are tried until CHOIR_CREATE_TIMEOUT has passed")
    NONE("NCCL_SOCKET_RETRY_SLEEP_MSEC", "connections are tried until CHOIR_CREATE_TIMEOUT has passed")
    NONE("NCCL_SOCKET_MAGIC", "ids carry a secret")
    PUT("NCCL_P2P_LEVEL", put_level)
    NONE("NCCL_P2P_DISABLE", "CHOIR_CUDA_P2P sets it")
    PUT("NCCL_SHM_DISABLE", put_shm)
    NONE("NCCL_NET_GDR_LEVEL", GDR)
    NONE("NCCL_NET_GDR_READ", GDR)
    NONE("NCCL_NET_GDR_C2C", GDR)
    NONE("NCCL_DMABUF_ENABLE", GDR)
    NONE("NCCL_CROSS_NIC", "tcp uses all interfaces between two hosts")
    NONE("NCCL_PXN_DISABLE", "data is handed from GPU to GPU by a plan only (hierarchical), see CHOIR_ALGO")
    NONE("NCCL_P2P_PXN_LEVEL", "data is handed from GPU to GPU by a plan only (hierarchical), see CHOIR_ALGO")
    WARN("NCCL_TOPO_FILE", "Choir does not read NCCL's format; CHOIR_TOPO_FILE is a topology in its own")
    NONE("NCCL_TOPO_DUMP_FILE", "choir-info prints the topology")
    WARN("NCCL_GRAPH_FILE", GRAPH)
    NONE("NCCL_GRAPH_DUMP_FILE", GRAPH)
    NONE("NCCL_MNNVL_ENABLE", MNNVL)
    NONE("NCCL_MNNVL_UUID", MNNVL)
    NONE("NCCL_MNNVL_CLIQUE_ID", MNNVL)
    NONE("NCCL_IGNORE_CPU_AFFINITY", "no thread is bound to cores")
    PUT("NCCL_NET", put_net)
    NONE("NCCL_NET_PLUGIN", "CHOIR_NET_PLUGIN sets it")
    WARN("NCCL_TUNER_PLUGIN", PLUGIN ": NCCL's tuners choose among its own algorithms")
    HERE("NCCL_PROFILER_PLUGIN")
    WARN("NCCL_ENV_PLUGIN", PLUGIN)
    WARN("NCCL_GIN_PLUGIN", PLUGIN)
    WARN("NCCL_RMA_PLUGIN", PLUGIN)
    HERE("NCCL_CONF_FILE")
    PUT("NCCL_ALGO", put_algo)
    NONE("NCCL_PROTO", "flagged words, flagged lines or slots: a message's length says which")
    NONE("NCCL_MIN_NCHANNELS", BLOCKS)
    PUT("NCCL_MAX_NCHANNELS", put_blocks)
    NONE("NCCL_MIN_CTAS", BLOCKS)
    NONE("NCCL_MAX_CTAS", "CHOIR_CUDA_BLOCKS sets it")
    NONE("NCCL_NCHANNELS_PER_NET_PEER", BLOCKS)
    NONE("NCCL_MIN_P2P_NCHANNELS", BLOCKS)
    NONE("NCCL_MAX_P2P_NCHANNELS", BLOCKS)
    NONE("NCCL_NTHREADS", BLOCKS)
    NONE("NCCL_CGA_CLUSTER_SIZE", BLOCKS)
    NONE("NCCL_CTA_POLICY", BLOCKS)
    NONE("NCCL_BUFFSIZE", "buffers have one size; CHOIR_SLOT sets the fragments of messages on the host")
    NONE("NCCL_P2P_NET_CHUNKSIZE", "CHOIR_SLOT sets the fragments of messages")
    NONE("NCCL_NVLS_ENABLE", MULTICAST)
    NONE("NCCL_NVLS_CHUNKSIZE", MULTICAST)
    NONE("NCCL_COLLNET_ENABLE", "switches do not combine")
    NONE("NCCL_SYM_GIN_KERNELS_ENABLE", SHAPE)
    NONE("NCCL_LAUNCH_ORDER_IMPLICIT", "communicators may be used in any order, see choir_cuda.h")
    NONE("NCCL_LAUNCH_RACE_FATAL", "a communicator in use by another thread refuses the call")
    NONE("NCCL_CUMEM_ENABLE", MEMORY)
    NONE("NCCL_CUMEM_HOST_ENABLE", MEMORY)
    NONE("NCCL_NET_SHARED_BUFFERS", MEMORY)
    NONE("NCCL_RUNTIME_CONNECT", "links are made when they are first needed")
    NONE("NCCL_GRAPH_REGISTER", REGISTER)
    NONE("NCCL_LOCAL_REGISTER", REGISTER)
    NONE("NCCL_LEGACY_CUDA_REGISTER", REGISTER)
    NONE("NCCL_WIN_ENABLE", REGISTER)
    NONE("NCCL_GRAPH_MIXING_SUPPORT", "graphs and calls may be mixed, in the order of a stream")
    NONE("NCCL_MEM_SYNC_DOMAIN", "kernels run in the stream's own domain")
    NONE("NCCL_DEBUG_SUBSYS", "the log has no parts")
    NONE("NCCL_DEBUG_TIMESTAMP_FORMAT", "lines of the log have no time; choir_profile.h tells when things happen")
    NONE("NCCL_DEBUG_TIMESTAMP_LEVELS", "lines of the log have no time; choir_profile.h tells when things happen")
    NONE("NCCL_CHECK_MODE", "arguments are always checked, on all ranks")
    NONE("NCCL_CHECK_POINTERS", "arguments are always checked, on all ranks")
    NONE("NCCL_RAS_ENABLE", RAS)
    NONE("NCCL_RAS_ADDR", RAS)
    NONE("NCCL_RAS_TIMEOUT_FACTOR", RAS)
    NONE("NCCL_SET_THREAD_NAME", "threads of Choir always have names")
    HERE("NCCL_COMM_BLOCKING")
    NONE("NCCL_MULTI_RANK_GPU_ENABLE", "several ranks on a GPU are always allowed")
    /* clang-format on */
};

const struct nccl_env_row *nccl_env_row(size_t index)
{
    return index < base_count(table) ? &table[index] : NULL;
}

static const struct nccl_env_row *find(const char *name)
{
    for (size_t i = 0; i < base_count(table); i++)
        if (!strcmp(table[i].name, name))
            return &table[i];
    return NULL;
}

bool nccl_env_blocking(bool fallback)
{
    const char *text = getenv("NCCL_COMM_BLOCKING");
    return text && *text ? strcmp(text, "0") != 0 : fallback;
}

/* --- files --------------------------------------------------------------------------------------------------- */

/* Lines NAME=VALUE of names of NCCL's and Choir's; # begins a comment. The environment wins. */
static void read_file(const char *path)
{
    char line[1024];
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f)) {
        char *name = line + strspn(line, " \t");
        name[strcspn(name, "#\r\n")] = 0;
        char *value = strchr(name, '=');
        if (!value || (strncmp(name, "NCCL_", 5) && strncmp(name, "CHOIR_", 6)))
            continue;
        *value++ = 0;
        name[strcspn(name, " \t")] = 0;
        value += strspn(value, " \t");
        for (size_t n = strlen(value); n && strchr(" \t", value[n - 1]); n--)
            value[n - 1] = 0;
        setenv(name, value, 0);
    }
    if (f)
        fclose(f);
}

static void read_files(void)
{
    const char *own = getenv("NCCL_CONF_FILE"), *home = getenv("HOME");
    char path[PATH_MAX];
    if (own && *own) {
        read_file(own);
    } else if (home) {
        snprintf(path, sizeof(path), "%s/.nccl.conf", home);
        read_file(path);
    }
    read_file("/etc/nccl.conf");
}

/* --- once ---------------------------------------------------------------------------------------------------- */

static const char *why[base_count(table)]; /* a PUT has no effect */

static void put_all(void)
{
    for (size_t i = 0; i < base_count(table); i++)
        if (table[i].how == NCCL_ENV_PUT && is_set(table[i].name))
            why[i] = table[i].put(getenv(table[i].name));
}

static void say(const char *name, const char *value)
{
    const struct nccl_env_row *row = find(name);
    if (nccl_env_is_setting(name) || (row && row->how == NCCL_ENV_HERE))
        return;
    const char *text = !row                       ? "it is not known here"
                       : row->how == NCCL_ENV_PUT ? why[row - table]
                                                  : row->text;
    if (text)
        base_log(row ? row->level : BASE_INFO, -1, "%s=%s has no effect: %s", name, value, text);
}

/* In the order of the environment, which is that of the user's script. */
static void say_all(void)
{
    for (char **e = environ; e && *e; e++) {
        char name[64];
        const char *end = strchr(*e, '=');
        if (!end || strncmp(*e, "NCCL_", 5) || !end[1])
            continue;
        snprintf(name, sizeof(name), "%.*s", (int)(end - *e), *e);
        say(name, end + 1);
    }
}

static void apply(void)
{
    read_files();
    put_all();
    if (knob_load() == CHOIR_OK) /* its failure is the caller's to report */
        say_all();
}

void nccl_env_apply(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, apply);
}
