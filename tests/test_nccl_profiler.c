/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Profiler plug-ins for NCCL, loaded by libnccl.so.2: by path, by name, of version 5 and of version 4 alone; the tree of what they are
 * told; what they want less of; what they refuse; and what is none. Each case is a process of its own (--child). What a GPU adds:
 * tests/gpu/test_gpu_nccl_profiler.c.
 */
#include "tests/lib/ranks.h"
#include "tests/lib/recorded.h"
#include "tests/lib/shim.h"
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#define RANKS 3
#define MOST_TEXT (PATH_MAX + 64)

static char plugin[PATH_MAX];

/* --- layouts: offsets of NCCL's own headers, 64-bit Linux ----------------------------------------------- */

/* clang-format off */
#define OFFSETS_5(X)                                                                               \
    X(parent, 8) X(rank, 16) X(group_api.captured, 24) X(group_api.depth, 28)                      \
    X(coll_api.func, 24) X(coll_api.count, 32) X(coll_api.datatype, 40) X(coll_api.root, 48)       \
    X(coll_api.stream, 56) X(coll_api.captured, 64) X(p2p_api.func, 24) X(p2p_api.count, 32)       \
    X(p2p_api.datatype, 40) X(p2p_api.stream, 48) X(p2p_api.captured, 56)                          \
    X(kernel_launch.stream, 24) X(coll.v4.sequence, 24) X(coll.v4.func, 32) X(coll.v4.send, 40)    \
    X(coll.v4.recv, 48) X(coll.v4.count, 56) X(coll.v4.root, 64) X(coll.v4.datatype, 72)           \
    X(coll.v4.channels, 80) X(coll.v4.warps, 81) X(coll.v4.algo, 88) X(coll.v4.proto, 96)          \
    X(coll.group, 104) X(p2p.func, 24) X(p2p.buffer, 32) X(p2p.datatype, 40) X(p2p.count, 48)      \
    X(p2p.peer, 56) X(p2p.channels, 60) X(p2p.group, 64) X(proxy_op.pid, 24)                       \
    X(proxy_op.channel, 28) X(proxy_op.peer, 32) X(proxy_op.steps, 36)                             \
    X(proxy_op.chunk_bytes, 40) X(proxy_op.is_send, 44) X(kernel_ch.channel, 24)                   \
    X(kernel_ch.gpu_ns, 32)
#define OFFSETS_4(X)                                                                               \
    X(parent, 8) X(rank, 16) X(coll.sequence, 24) X(coll.func, 32) X(coll.channels, 80)            \
    X(coll.warps, 81) X(coll.algo, 88) X(coll.proto, 96) X(p2p.func, 24) X(p2p.peer, 56)           \
    X(p2p.channels, 60) X(proxy_op.pid, 24) X(proxy_op.is_send, 44) X(kernel_ch.gpu_ns, 32)
/* clang-format on */

static void layouts(void)
{
#define CHECK_5(member, at) CHECK_EQ(offsetof(struct profiler_event_5, member), at);
#define CHECK_4(member, at) CHECK_EQ(offsetof(struct profiler_event_4, member), at);
    OFFSETS_5(CHECK_5)
    OFFSETS_4(CHECK_4)
    CHECK_EQ(sizeof(struct profiler_event_5), 112);
    CHECK_EQ(sizeof(struct profiler_event_4), 104);
    CHECK_EQ(sizeof(((struct profiler_event_5 *)0)->type), 8);
    CHECK_EQ(sizeof(((struct profiler_event_4 *)0)->type), 1);
    CHECK_EQ(sizeof(union profiler_state_args), 8);
    CHECK_EQ(sizeof(struct profiler_plugin_5), 48);
    CHECK_EQ(sizeof(struct profiler_plugin_4), 48);
}

/* --- what a process does ---------------------------------------------------------------------------------- */

static ncclUniqueId id;

static void body(int rank, int size, void *arg)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t c;
    float in[RANKS * 1000] = {0}, out[RANKS * 1000];
    int next = (rank + 1) % size, last = (rank + size - 1) % size;
    config.commName = "recorded";
    NCCL_OK(shim.CommInitRankConfig(&c, size, id, rank, &config));
    NCCL_OK(shim.AllReduce(in, out, 1000, ncclFloat32, ncclSum, c, NULL));
    NCCL_OK(shim.Broadcast(in, out, 7, ncclInt8, 2, c, NULL));
    NCCL_OK(shim.GroupStart());
    NCCL_OK(shim.Send(in, 5, ncclUint8, next, c, NULL));
    NCCL_OK(shim.Recv(out, 5, ncclUint8, last, c, NULL));
    NCCL_OK(shim.AllGather(in, out + 100, 11, ncclInt64, c, NULL));
    NCCL_OK(shim.GroupEnd());
    NCCL_OK(shim.ReduceScatter(in, out, 4, ncclBfloat16, ncclMax, c, NULL));
    NCCL_OK(shim.AllReduce(in, out, 0, ncclFloat64, ncclSum, c, NULL));
    NCCL_OK(shim.CommDestroy(c));
    (void)arg;
}

static void run_ranks(void)
{
    NCCL_OK(shim.GetUniqueId(&id));
    test_threads(RANKS, body, NULL);
}

static void check_coll(const struct recorded *r)
{
    static const struct {
        const char *func, *datatype;
        size_t elements;
        int root;
    } want[] = {{"AllReduce", "ncclFloat32", 1000, 0},
                {"Broadcast", "ncclInt8", 7, 2},
                {"AllGather", "ncclInt64", 11, 0},
                {"ReduceScatter", "ncclBfloat16", 4, 0},
                {"AllReduce", "ncclFloat64", 0, 0}};
    int found = -1;
    for (int i = 0; i < 5; i++)
        if (!strcmp(r->func, want[i].func) && !strcmp(r->datatype, want[i].datatype))
            found = i;
    if (found < 0)
        FAIL("%s of %s", r->func, r->datatype);
    CHECK_EQ(r->elements, want[found].elements);
    CHECK_EQ(r->root, want[found].root);
    CHECK(r->recv && r->sequence > 0);
    CHECK(r->send || !strcmp(r->func, "Broadcast")); /* the root has it */
    CHECK(r->algo[0] && strcmp(r->algo, "(null)"));
    CHECK_EQ(!strcmp(r->algo, "none"), r->elements == 0);
    CHECK_EQ(r->channels, recorded_parts(r, PROFILER_PROXY_OP));
    CHECK_EQ(r->channels == 0, r->elements == 0);
}

static void check_rank(int rank, int version)
{
    static const struct {
        int type, number;
    } want[] = {{PROFILER_GROUP_API, 5}, {PROFILER_COLL_API, 5},     {PROFILER_P2P_API, 2},
                {PROFILER_GROUP, 5},     {PROFILER_COLL, 5},         {PROFILER_P2P, 2},
                {PROFILER_KERNEL_CH, 0}, {PROFILER_KERNEL_LAUNCH, 0}};
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
        CHECK_EQ(recorded_number(want[i].type, rank, NULL),
                 version == 4 && want[i].type >= PROFILER_GROUP_API ? 0 : want[i].number);
    CHECK_EQ(recorded_number(PROFILER_COLL, rank, "AllReduce"), 2);
    CHECK_EQ(recorded_number(PROFILER_P2P, rank, "Send"), 1);
    CHECK_EQ(recorded_number(PROFILER_P2P, rank, "Recv"), 1);
    CHECK_EQ(recorded_number(RECORDED_CONTEXT, rank, NULL), 1);
}

static void check_event(const struct recorded *r)
{
    static uint64_t comm;
    bool send = !strcmp(r->func, "Send");
    if (r->type == RECORDED_CONTEXT) {
        CHECK_STR(r->name, "recorded");
        CHECK(r->nodes == 1 && r->ranks == RANKS && r->comm != 0);
        CHECK(!comm || comm == r->comm);
        comm = r->comm;
    } else if (r->type == PROFILER_COLL) {
        check_coll(r);
    } else if (r->type == PROFILER_P2P) {
        CHECK_EQ(r->peer, (r->rank + (send ? 1 : RANKS - 1)) % RANKS);
        CHECK(r->elements == 5 && r->send);
        CHECK_STR(r->datatype, "ncclUint8");
        CHECK_EQ(r->channels, recorded_parts(r, PROFILER_PROXY_OP));
    } else if (r->type == PROFILER_PROXY_OP) {
        const struct recorded *task = r->parent;
        CHECK_EQ(r->pid, getpid());
        CHECK(r->channel < task->channels && r->steps > 0 && r->chunk > 0);
        CHECK_EQ(r->peer, task->type == PROFILER_P2P ? task->peer : -1);
        CHECK_EQ(r->is_send, 1);
    } else if (r->type == PROFILER_GROUP_API) {
        CHECK(r->depth == 1 && !r->captured);
    }
}

static void tree(int version)
{
    recorded_find(plugin);
    recorded_check(version, 0);
    for (int r = 0; r < RANKS; r++)
        check_rank(r, version);
    for (int i = 0; i < recorded_events(); i++)
        check_event(recorded_event(i));
    /* The three of the group are in one. */
    int together = 0;
    for (int i = 0; i < recorded_events(); i++) {
        const struct recorded *r = recorded_event(i);
        if (r->type != PROFILER_GROUP)
            continue;
        int tasks = 0;
        for (int k = 0; k < recorded_events(); k++) {
            const struct recorded *t = recorded_event(k);
            tasks += (t->type == PROFILER_COLL || t->type == PROFILER_P2P) &&
                     (version == 4 ? t->parent : t->group) == (const void *)r;
        }
        CHECK(tasks == 1 || tasks == 3);
        together += tasks == 3;
    }
    CHECK_EQ(together, RANKS);
}

/* A mask may change while the program runs; what is not wanted is not told. */
static void masks(void)
{
    recorded_find(plugin);
    recorded_wanted(PROFILER_COLL, 0);
    run_ranks();
    recorded_check(5, 0);
    CHECK_EQ(recorded_number(PROFILER_COLL, -1, NULL), 5 * RANKS);
    CHECK_EQ(recorded_number(PROFILER_PROXY_OP, -1, NULL), 0);
    CHECK_EQ(recorded_number(PROFILER_GROUP_API, -1, NULL), 5 * RANKS); /* as NCCL: parents too */
    recorded_wanted(PROFILER_GROUP_API, 0);
    run_ranks();
    recorded_check(5, 0);
    CHECK_EQ(recorded_events(), 6 * RANKS);
    recorded_wanted(0, 0);
    run_ranks();
    CHECK_EQ(recorded_events(), RANKS);
    recorded_wanted(0xfff, 1); /* refuses communicators */
    run_ranks();
    CHECK_EQ(recorded_events(), 0);
    recorded_wanted(0xfff, 0);
    run_ranks();
    tree(5);
}

static int child(const char *which)
{
    const char *path = getenv("TEST_NCCL_PLUGIN");
    snprintf(plugin, sizeof(plugin), "%s", path ? path : "");
    test_deadline(60);
    shim_load();
    run_ranks();
    if (!strcmp(which, "v5") || !strcmp(which, "v4"))
        tree(which[1] - '0');
    else if (!strcmp(which, "masks"))
        masks();
    else if (strcmp(which, "none"))
        FAIL("no case %s", which);
    return 0;
}

/* --- cases ------------------------------------------------------------------------------------------------ */

static int run(const char *which, const char *name, const char *wish)
{
    char path[PATH_MAX], at[MOST_TEXT], set[MOST_TEXT];
    recorded_path(path, sizeof(path), name);
    snprintf(at, sizeof(at), "TEST_NCCL_PLUGIN=%s", path);
    snprintf(set, sizeof(set), "NCCL_PROFILER_PLUGIN=%s", wish ? wish : path);
    return test_rerun(which, (const char *const[]){at, set, NULL});
}

static void version_5(void)
{
    CHECK_EQ(run("v5", "nccl_profiler", NULL), 0);
}

static void version_4(void)
{
    CHECK_EQ(run("v4", "nccl_profiler_v4", NULL), 0);
}

static void wanted(void)
{
    CHECK_EQ(run("masks", "nccl_profiler", NULL), 0);
}

/* By NAME as libnccl-profiler-NAME.so, and, with no variable at all, as libnccl-profiler.so. */
static void by_name(void)
{
    char folder[PATH_MAX], link[PATH_MAX + 32], built[PATH_MAX], paths[MOST_TEXT], at[MOST_TEXT];
    test_path(folder, sizeof(folder), "");
    recorded_path(built, sizeof(built), "nccl_profiler");
    snprintf(paths, sizeof(paths), "LD_LIBRARY_PATH=%s", folder);
    for (int set = 0; set < 2; set++) {
        snprintf(link, sizeof(link), "%s/libnccl-profiler%s.so", folder, set ? "-mine" : "");
        CHECK(!symlink(built, link));
        snprintf(at, sizeof(at), "TEST_NCCL_PLUGIN=%s", link);
        CHECK_EQ(test_rerun("v5",
                            (const char *const[]){
                                at, paths,
                                set ? "NCCL_PROFILER_PLUGIN=mine" : "NCCL_PROFILER_PLUGIN=", NULL}),
                 0);
        CHECK(!unlink(link));
    }
}

static bool logged(const char *path, const char *text)
{
    char line[4096];
    bool found = false;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f))
        found |= strstr(line, text) != NULL;
    if (f)
        fclose(f);
    return found;
}

/* What is none does no harm, and a line says so. */
static void none(void)
{
    char log[PATH_MAX], file[MOST_TEXT], shim_path[PATH_MAX], wish[MOST_TEXT];
    test_path(log, sizeof(log), "log");
    snprintf(file, sizeof(file), "CHOIR_LOG_FILE=%s", log);
    const char *missing[] = {"NCCL_PROFILER_PLUGIN=nowhere", file, NULL};
    CHECK_EQ(test_rerun("none", missing), 0);
    CHECK(logged(log, "NCCL_PROFILER_PLUGIN is nowhere"));
    CHECK(logged(log, "libnccl-profiler-nowhere.so"));
    unlink(log);
    recorded_path(shim_path, sizeof(shim_path),
                  "../../lib/libnccl"); /* a library, and no plug-in */
    snprintf(wish, sizeof(wish), "NCCL_PROFILER_PLUGIN=%s.2", shim_path);
    CHECK_EQ(test_rerun("none", (const char *const[]){wish, file, NULL}), 0);
    CHECK(logged(log, "has neither ncclProfiler_v5 nor ncclProfiler_v4"));
    unlink(log);
    const char *off[] = {"NCCL_PROFILER_PLUGIN=none", file, NULL};
    CHECK_EQ(test_rerun("none", off), 0);
    CHECK(!logged(log, "profiler"));
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(layouts), TEST(version_5), TEST(version_4),
                                             TEST(wanted),  TEST(by_name),   TEST(none)};
    if (argc == 3 && !strcmp(argv[1], "--child"))
        return child(argv[2]);
    return test_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
