/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NCCL's environment variables in libnccl.so.2: every name that users set is a setting of Choir's, has an effect, or is answered by one
 * line of the log; files of NCCL's; Choir's own variables win. Variables are read once, so each case is a process (--child).
 */
#include "base/knob.h"
#include "shims/nccl/env.h"
#include "shims/nccl/internal.h"
#include "tests/lib/ranks.h"
#include "tests/lib/test.h"
#include <limits.h>
#include <unistd.h>

/* What cluster scripts set; field by field from NCCL's documentation of its variables. */
static const char *const known[] = {"NCCL_DEBUG",
                                    "NCCL_DEBUG_FILE",
                                    "NCCL_DEBUG_SUBSYS",
                                    "NCCL_SOCKET_IFNAME",
                                    "NCCL_SOCKET_FAMILY",
                                    "NCCL_SOCKET_NTHREADS",
                                    "NCCL_NSOCKS_PERTHREAD",
                                    "NCCL_SOCKET_RETRY_CNT",
                                    "NCCL_HOSTID",
                                    "NCCL_COMM_ID",
                                    "NCCL_OOB_NET_ENABLE",
                                    "NCCL_OOB_NET_IFNAME",
                                    "NCCL_UID_STAGGER_RATE",
                                    "NCCL_UID_STAGGER_THRESHOLD",
                                    "NCCL_IB_HCA",
                                    "NCCL_IB_GID_INDEX",
                                    "NCCL_IB_TC",
                                    "NCCL_IB_SL",
                                    "NCCL_IB_TIMEOUT",
                                    "NCCL_IB_RETRY_CNT",
                                    "NCCL_IB_QPS_PER_CONNECTION",
                                    "NCCL_IB_SPLIT_DATA_ON_QPS",
                                    "NCCL_IB_AR_THRESHOLD",
                                    "NCCL_IB_ADAPTIVE_ROUTING",
                                    "NCCL_IB_PCI_RELAXED_ORDERING",
                                    "NCCL_IB_DISABLE",
                                    "NCCL_IB_MERGE_NICS",
                                    "NCCL_NET_MERGE_LEVEL",
                                    "NCCL_NET_MERGE_POLICY",
                                    "NCCL_IB_ADDR_FAMILY",
                                    "NCCL_IB_ADDR_RANGE",
                                    "NCCL_IB_ROCE_VERSION_NUM",
                                    "NCCL_IB_RESILIENCY_PORT_FAILOVER",
                                    "NCCL_IB_RESILIENCY_PORT_RECOVERY",
                                    "NCCL_P2P_LEVEL",
                                    "NCCL_P2P_DISABLE",
                                    "NCCL_SHM_DISABLE",
                                    "NCCL_NET_GDR_LEVEL",
                                    "NCCL_NET_GDR_READ",
                                    "NCCL_CROSS_NIC",
                                    "NCCL_PXN_DISABLE",
                                    "NCCL_P2P_PXN_LEVEL",
                                    "NCCL_TOPO_FILE",
                                    "NCCL_TOPO_DUMP_FILE",
                                    "NCCL_GRAPH_FILE",
                                    "NCCL_GRAPH_DUMP_FILE",
                                    "NCCL_MNNVL_ENABLE",
                                    "NCCL_MNNVL_UUID",
                                    "NCCL_MNNVL_CLIQUE_ID",
                                    "NCCL_IGNORE_CPU_AFFINITY",
                                    "NCCL_NET",
                                    "NCCL_NET_PLUGIN",
                                    "NCCL_TUNER_PLUGIN",
                                    "NCCL_PROFILER_PLUGIN",
                                    "NCCL_ENV_PLUGIN",
                                    "NCCL_GIN_PLUGIN",
                                    "NCCL_RMA_PLUGIN",
                                    "NCCL_CONF_FILE",
                                    "NCCL_ALGO",
                                    "NCCL_PROTO",
                                    "NCCL_MIN_NCHANNELS",
                                    "NCCL_MAX_NCHANNELS",
                                    "NCCL_MIN_CTAS",
                                    "NCCL_MAX_CTAS",
                                    "NCCL_BUFFSIZE",
                                    "NCCL_NTHREADS",
                                    "NCCL_CGA_CLUSTER_SIZE",
                                    "NCCL_NVLS_ENABLE",
                                    "NCCL_COLLNET_ENABLE",
                                    "NCCL_CTA_POLICY",
                                    "NCCL_P2P_NET_CHUNKSIZE",
                                    "NCCL_SYM_GIN_KERNELS_ENABLE",
                                    "NCCL_LAUNCH_ORDER_IMPLICIT",
                                    "NCCL_CUMEM_ENABLE",
                                    "NCCL_CUMEM_HOST_ENABLE",
                                    "NCCL_GRAPH_REGISTER",
                                    "NCCL_LOCAL_REGISTER",
                                    "NCCL_LEGACY_CUDA_REGISTER",
                                    "NCCL_WIN_ENABLE",
                                    "NCCL_DMABUF_ENABLE",
                                    "NCCL_RUNTIME_CONNECT",
                                    "NCCL_NET_SHARED_BUFFERS",
                                    "NCCL_GRAPH_MIXING_SUPPORT",
                                    "NCCL_MEM_SYNC_DOMAIN",
                                    "NCCL_DEBUG_TIMESTAMP_FORMAT",
                                    "NCCL_DEBUG_TIMESTAMP_LEVELS",
                                    "NCCL_CHECK_MODE",
                                    "NCCL_CHECK_POINTERS",
                                    "NCCL_RAS_ENABLE",
                                    "NCCL_RAS_ADDR",
                                    "NCCL_RAS_TIMEOUT_FACTOR",
                                    "NCCL_SET_THREAD_NAME",
                                    "NCCL_LAUNCH_RACE_FATAL",
                                    "NCCL_COMM_BLOCKING",
                                    "NCCL_MULTI_RANK_GPU_ENABLE"};

static char log_path[PATH_MAX];

/* --- a process ------------------------------------------------------------------------------------------ */

/* which: "SETTING=value" that must have come of it, "blocking=0", or "" */
static int child(const char *which)
{
    char value[512];
    const char *source;
    test_deadline(30);
    nccl_env_apply();
    nccl_env_apply(); /* has no lines of its own */
    if (!*which)
        return 0;
    if (!strncmp(which, "blocking=", 9))
        return nccl_env_blocking(true) != (which[9] == '1');
    for (int k = 0; k < KNOB_COUNT; k++) {
        const char *name = knob_row((enum knob_id)k)->name;
        size_t n = strlen(name);
        if (strncmp(which, name, n) || which[n] != '=')
            continue;
        knob_show((enum knob_id)k, value, sizeof(value), &source);
        CHECK_STR(value, which + n + 1);
        return 0;
    }
    FAIL("no setting %s", which);
}

static int run(const char *which, const char *a, const char *b)
{
    char file[PATH_MAX + 32];
    snprintf(file, sizeof(file), "CHOIR_LOG_FILE=%s", log_path);
    unlink(log_path);
    const char *env[] = {"HOME=/nonexistent", file, "CHOIR_LOG=info", a, b, NULL};
    return test_rerun(which, env);
}

/* Lines of the log in which both are. */
static int lines(const char *name, const char *text)
{
    char line[4096];
    int n = 0;
    FILE *f = fopen(log_path, "r");
    while (f && fgets(line, sizeof(line), f))
        n += strstr(line, name) && strstr(line, text);
    if (f)
        fclose(f);
    return n;
}

/* --- cases ------------------------------------------------------------------------------------------------ */

static const struct nccl_env_row *row_of(const char *name)
{
    const struct nccl_env_row *row;
    for (size_t i = 0; (row = nccl_env_row(i)); i++)
        if (!strcmp(row->name, name))
            return row;
    return NULL;
}

static void all_known(void)
{
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (!row_of(known[i]) && !nccl_env_is_setting(known[i]))
            FAIL("%s is nowhere", known[i]);
    const struct nccl_env_row *row;
    for (size_t i = 0; (row = nccl_env_row(i)); i++) {
        CHECK(!strncmp(row->name, "NCCL_", 5) && row_of(row->name) == row); /* once each */
        CHECK_EQ(row->put != NULL, row->how == NCCL_ENV_PUT);
        CHECK_EQ(row->text != NULL, row->how == NCCL_ENV_NONE);
    }
}

/* One line for each that has no effect, none for what is read elsewhere. */
static void one_line(void)
{
    const struct nccl_env_row *row;
    for (size_t i = 0; (row = nccl_env_row(i)); i++) {
        char set[128], says[256];
        if (row->how == NCCL_ENV_PUT)
            continue;
        snprintf(set, sizeof(set), "%s=%s", row->name,
                 row->how == NCCL_ENV_HERE ? "/nonexistent" : "1");
        snprintf(says, sizeof(says), "%s has no effect: %s", set, row->text ? row->text : "");
        CHECK_EQ(run("", set, NULL), 0);
        bool silent = row->how == NCCL_ENV_HERE || nccl_env_is_setting(row->name);
        CHECK_EQ(lines(row->name, ""), !silent);
        CHECK_EQ(lines(says, row->level == BASE_WARN ? " warn " : " info "), !silent);
    }
    CHECK_EQ(run("", "NCCL_SOMETHING_NEW=5", NULL), 0);
    CHECK_EQ(lines("NCCL_SOMETHING_NEW=5 has no effect", "not known"), 1);
    CHECK_EQ(run("", "NCCL_PROTO=", NULL), 0); /* empty is not set */
    CHECK_EQ(lines("NCCL_PROTO", ""), 0);
}

static const struct {
    const char *set, *also, *want;
} put[] = {{"NCCL_ALGO=Ring", NULL, "CHOIR_ALGO=Ring"},
           {"NCCL_ALGO=allreduce:tree,ring;broadcast:ring", NULL,
            "CHOIR_ALGO=allreduce:tree,ring;broadcast:ring"},
           {"NCCL_SHM_DISABLE=0", NULL, "CHOIR_TRANSPORTS=%s"},
           {"NCCL_SHM_DISABLE=1", NULL, "CHOIR_TRANSPORTS=%s"},
           {"NCCL_SOCKET_NTHREADS=3", NULL, "CHOIR_SOCKETS=3"},
           {"NCCL_NSOCKS_PERTHREAD=4", "NCCL_SOCKET_NTHREADS=2", "CHOIR_SOCKETS=8"},
           {"NCCL_SOCKET_NTHREADS=8", "NCCL_NSOCKS_PERTHREAD=8", "CHOIR_SOCKETS=16"},
           {"NCCL_P2P_LEVEL=LOC", NULL, "CHOIR_CUDA_P2P=off"},
           {"NCCL_P2P_LEVEL=0", NULL, "CHOIR_CUDA_P2P=off"},
           {"NCCL_P2P_DISABLE=1", NULL, "CHOIR_CUDA_P2P=off"},
           {"NCCL_P2P_DISABLE=0", "NCCL_P2P_LEVEL=LOC", "CHOIR_CUDA_P2P=auto"},
           {"NCCL_NET=Socket", NULL, "CHOIR_TRANSPORTS=%s"},
           {"NCCL_MAX_NCHANNELS=7", NULL, "CHOIR_CUDA_BLOCKS=7"},
           {"NCCL_MAX_CTAS=9", "NCCL_MAX_NCHANNELS=7", "CHOIR_CUDA_BLOCKS=9"},
           {"NCCL_SOCKET_IFNAME=^docker,lo", NULL, "CHOIR_SOCKET_IFNAME=^docker,lo"},
           {"NCCL_SOCKET_FAMILY=AF_INET6", NULL, "CHOIR_SOCKET_FAMILY=AF_INET6"},
           {"NCCL_HOSTID=here", NULL, "CHOIR_HOST_ID=here"},
           {"NCCL_COMM_BLOCKING=0", NULL, "blocking=0"},
           {"NCCL_COMM_BLOCKING=1", NULL, "blocking=1"}};

/* Every variable that is put into Choir's words is here. */
static bool is_put(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof(put) / sizeof(put[0]); i++)
        if (!strncmp(put[i].set, name, n) && put[i].set[n] == '=')
            return true;
    return false;
}

static void settings(void)
{
    const struct nccl_env_row *row;
    for (size_t i = 0; (row = nccl_env_row(i)); i++)
        if (row->how == NCCL_ENV_PUT && !is_put(row->name))
            FAIL("nothing says what %s does", row->name);
    const char *all = knob_row(KNOB_TRANSPORTS)->fallback, *shm = strstr(all, "shm,");
    CHECK(shm != NULL);
    for (size_t i = 0; i < sizeof(put) / sizeof(put[0]); i++) {
        char want[256], list[200];
        snprintf(list, sizeof(list), "%.*s%s", (int)(shm - all), all, shm + 4);
        snprintf(want, sizeof(want), "%s", put[i].want);
        if (strstr(want, "%s"))
            snprintf(want, sizeof(want), "CHOIR_TRANSPORTS=%s",
                     strstr(put[i].set, "SHM_DISABLE=1") ? list : all);
        if (run(want, put[i].set, put[i].also))
            FAIL("%s does not become %s", put[i].set, want);
        CHECK_EQ(lines("has no effect", ""), 0);
    }
}

/* Levels of the log by NCCL's names. */
static void debug(void)
{
    char file[PATH_MAX + 32];
    snprintf(file, sizeof(file), "NCCL_DEBUG_FILE=%s", log_path);
    for (int info = 0; info < 2; info++) {
        unlink(log_path);
        const char *env[] = {"HOME=/nonexistent",
                             file,
                             "NCCL_PROTO=LL",
                             "NCCL_TOPO_FILE=x.xml",
                             info ? "NCCL_DEBUG=INFO" : "NCCL_DEBUG=WARN",
                             NULL};
        CHECK_EQ(test_rerun("", env), 0);
        CHECK_EQ(lines("NCCL_PROTO=LL", "no effect"), info);
        CHECK_EQ(lines("NCCL_TOPO_FILE=x.xml", "no effect"), 1);
    }
}

/* A value that Choir has no words for, and Choir's own variable. */
static void refused(void)
{
    CHECK_EQ(run("CHOIR_CUDA_P2P=auto", "NCCL_P2P_LEVEL=SYS", NULL), 0);
    CHECK_EQ(lines("NCCL_P2P_LEVEL=SYS has no effect", "however far"), 1);
    CHECK_EQ(run("", "NCCL_NET=IB", NULL), 0);
    CHECK_EQ(lines("NCCL_NET=IB has no effect", "CHOIR_TRANSPORTS"), 1);
    CHECK_EQ(run("CHOIR_SOCKETS=1", "NCCL_SOCKET_NTHREADS=-2", NULL), 0);
    CHECK_EQ(lines("NCCL_SOCKET_NTHREADS=-2 has no effect", "positive"), 1);
    CHECK_EQ(run("CHOIR_ALGO=pat", "NCCL_ALGO=Ring", "CHOIR_ALGO=pat"), 0);
    CHECK_EQ(lines("NCCL_ALGO=Ring has no effect", "wins"), 1);
    CHECK_EQ(run("CHOIR_TRANSPORTS=self,shm", "NCCL_SHM_DISABLE=1", "CHOIR_TRANSPORTS=self,shm"),
             0);
    CHECK_EQ(lines("NCCL_SHM_DISABLE=1 has no effect", "wins"), 1);
}

static void write_conf(const char *path)
{
    FILE *f = fopen(path, "w");
    CHECK(f != NULL);
    fputs("# a comment\n\nNCCL_ALGO=Tree\n  NCCL_SOCKET_NTHREADS = 5 # of them\nPATH=/nowhere\n"
          "NCCL_HOSTID=file\nnonsense\nCHOIR_SLOT=8K\n",
          f);
    CHECK(!fclose(f));
}

static void files(void)
{
    char conf[PATH_MAX], home[PATH_MAX], set[PATH_MAX + 32];
    test_path(conf, sizeof(conf), "conf");
    write_conf(conf);
    snprintf(set, sizeof(set), "NCCL_CONF_FILE=%s", conf);
    CHECK_EQ(run("CHOIR_ALGO=Tree", set, NULL), 0);
    CHECK_EQ(run("CHOIR_SOCKETS=5", set, NULL), 0);
    CHECK_EQ(run("CHOIR_SLOT=8K", set, NULL), 0);
    CHECK_EQ(run("CHOIR_HOST_ID=mine", set, "NCCL_HOSTID=mine"), 0); /* the environment wins */
    CHECK_EQ(lines("has no effect", ""), 0);
    test_path(home, sizeof(home), ".nccl.conf");
    write_conf(home);
    test_path(home, sizeof(home), "");
    snprintf(set, sizeof(set), "HOME=%s", home);
    CHECK_EQ(run("CHOIR_HOST_ID=file", set, NULL), 0);
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(all_known), TEST(one_line), TEST(settings),
                                             TEST(debug),     TEST(refused),  TEST(files)};
    if (argc == 3 && !strcmp(argv[1], "--child"))
        return child(argv[2]);
    test_path(log_path, sizeof(log_path), "log");
    return test_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
