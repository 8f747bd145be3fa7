/* SPDX-License-Identifier: Apache-2.0 */
/* The command choir-plan: what it prints, its exit status, and that a wrong argument is named. */
#include "plan/tuning.h"
#include "tests/lib/test.h"
#include <fcntl.h>
#include <limits.h>
#include <sys/wait.h>
#include <unistd.h>

static char tool[PATH_MAX];
static char output[1 << 20];

static void find_tool(void)
{
    ssize_t n = readlink("/proc/self/exe", tool, sizeof(tool) - 32);
    CHECK_LT(0, n);
    tool[n] = 0;
    char *slash = strrchr(tool, '/');
    strcpy(slash, "/../bin/choir-plan");
    if (access(tool, X_OK))
        test_skip("%s is not built", tool);
}

/* Runs it with standard error in the output; returns the exit status. */
static int run(const char *arguments)
{
    char command[PATH_MAX + 512];
    if (!tool[0])
        find_tool();
    snprintf(command, sizeof(command), "%s %s 2>&1", tool, arguments);
    FILE *p = popen(command, "r");
    CHECK(p);
    size_t n = fread(output, 1, sizeof(output) - 1, p);
    output[n] = 0;
    int status = pclose(p);
    if (!WIFEXITED(status))
        FAIL("choir-plan %s: ended by signal %d", arguments, WTERMSIG(status));
    return WEXITSTATUS(status);
}

static void expect(const char *arguments, int status, const char *text)
{
    int got = run(arguments);
    if (got != status || !strstr(output, text))
        FAIL("choir-plan %s: status %d, not %d, or no \"%s\" in:\n%s", arguments, got, status, text,
             output);
}

static void answers(void)
{
    expect("--help", 0, "usage: choir-plan");
    expect("--list", 0, "recursive_doubling");
    expect("all_reduce 1M --hosts 16 --per-host 8", 0, "128 ranks on 16 hosts");
    CHECK(strstr(output, "times as long") && strstr(output, "its time goes to"));
    expect("all_gather 64K --hosts-of 3,5,8", 0, "16 ranks on 3 hosts");
    expect("all_to_all 1K --ranks 5", 0, "pairwise");
    expect("barrier --ranks 3", 0, "chosen");
    expect("broadcast 10 --ranks 7 --root 6 --type bfloat16", 0, "5 bfloat16");
    expect("all_gather_v 4K --ranks 4", 0, "chosen");
    expect("all_gather_v 1M --ranks 4 --root 2 --share 90", 0, "90 % of them rank 2's");
    expect("all_gather_v 4K --ranks 4 --share 0", 0, "chosen");
    expect("all_gather_v 0 --ranks 4 --share 100", 0, "chosen");
    expect("reduce_scatter_v 1M --ranks 4 --share 100 --json", 0, "\"share\": 100");
    expect("all_reduce 1M --ranks 4 --ordered", 0, "chosen");
    expect("all_reduce 8 --ranks 1", 0, "chosen");
    expect("all_reduce 1M --hosts 4 --per-host 2 --algo 'hierarchical(ring,tree)'", 0, "asked for");
    expect("all_reduce 8-64K --ranks 4", 0, "8 B to ");
    expect("all_reduce --sweep --ranks 2 --json", 0, "\"bytes\": 1073741824, \"chosen\"");
    expect("all_reduce 3K --ranks 6 --json", 0, "\"candidates\": [");
    expect("all_reduce 1M --ranks 4 --cores 2", 0, "2 ranks a core");
    expect("all_reduce 1M --hosts 512 --per-host 8 --algo ring", 0, "sampled");
}

static void mistakes(void)
{
    expect("", 2, "usage:");
    expect("all_redoce 1M", 2, "no collective all_redoce");
    expect("all_reduce", 2, "which size?");
    expect("1M", 2, "which collective?");
    expect("all_reduce 1X", 2, "\"1X\"");
    expect("all_reduce 1M 2M", 2, "given already");
    expect("all_reduce 2M-1M", 2, "smaller size comes first");
    expect("all_reduce 1M broadcast", 2, "all_reduce is asked for already");
    expect("all_reduce 1M --hots 3", 2, "--hots: there is no such option");
    expect("all_reduce 1M --hosts", 2, "--hosts needs a value");
    expect("all_reduce 1M --hosts -3", 2, "--hosts: \"-3\"");
    expect("all_reduce 1M --hosts 99999999999", 2, "--hosts");
    expect("all_reduce 1M --hosts 60000000 --per-host 60000000", 2, "too many");
    expect("all_reduce 1M --hosts-of 3,,4", 2, "--hosts-of");
    expect("all_reduce 1M --hosts-of 3 --hosts 4", 2, "--hosts-of goes without");
    expect("all_reduce 1M --ranks 4 --hosts 2", 2, "--ranks");
    expect("all_reduce 1M --type float31", 2, "no type float31");
    expect("broadcast 1M --ranks 3 --root 3", 2, "--root: 3 is not one of 3 ranks");
    expect("all_gather_v 1M --ranks 3 --root 3 --share 9", 2, "--root: 3 is not one of 3 ranks");
    expect("all_gather_v 1M --ranks 3 --share 101", 2, "101 % are more than all of it");
    expect("gather_v 1M --ranks 3 --share 50", 2, "--share is for all_gather_v");
    expect("all_reduce 1M --ranks 3 --dump 3", 2, "--dump: 3 is not one of 3 ranks");
    expect("all_reduce 1M --ranks 4 --algo rign", 2, "rign");
    expect("all_reduce 1M --ranks 4 --algo pairwise", 2, "pairwise");
    expect("all_reduce 1M --topo /nonexistent", 2, "/nonexistent");
    expect("--load /nonexistent", 2, "/nonexistent");
    expect("exchange 1M", 2, "exchange");
    setenv("CHOIR_ALGO", "all_reduce=;", 1);
    expect("all_reduce 1M --ranks 2", 2, "CHOIR_ALGO, column 12");
    setenv("CHOIR_ALGO", "ring", 1);
    expect("all_reduce 8 --ranks 4", 0, "chosen ring");
    unsetenv("CHOIR_ALGO");
}

/* Dump, edit, load, verify. */
static void plans(void)
{
    char path[300], command[512];
    test_path(path, sizeof(path), "plans");
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK_LE(0, fd);
    expect("all_reduce 4K --ranks 4 --algo ring --verify", 0, "proved");
    expect("all_reduce 4K --ranks 4 --algo ring --dump 2", 0,
           "choir plan 1: all_reduce, rank 2 of 4");
    CHECK_EQ(run("all_reduce 4K --ranks 4 --algo ring --dump"), 0);
    CHECK_LT(0, write(fd, output, strlen(output)));
    snprintf(command, sizeof(command), "--load %s --verify", path);
    expect(command, 0, "proved: ring");
    CHECK(strstr(output, "predicted"));
    snprintf(command, sizeof(command), "--load %s --dump 3", path);
    expect(command, 0, "rank 3 of 4");
    snprintf(command, sizeof(command), "--load %s --ranks 5", path);
    expect(command, 2, "plans of 4 ranks, on a cluster of 5");
    snprintf(command, sizeof(command), "--load %s --svg -", path);
    expect(command, 0, "</svg>");
    setenv("CHOIR_PLAN_FILES", path, 1);
    expect("all_reduce 4K --ranks 4", 0, "chosen file:ring");
    unsetenv("CHOIR_PLAN_FILES");
    CHECK_EQ(run("all_reduce 4K --ranks 4 --algo ring --dump"), 0);
    char *to = strstr(strstr(output, "rank 2 of 4"), "to 3 ");
    CHECK(to);
    to[3] = '1';
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_LT(0, write(fd, output, strlen(output)));
    snprintf(command, sizeof(command), "--load %s --verify", path);
    expect(command, 1, "refused: ring: rank");
    setenv("CHOIR_PLAN_FILES", path, 1);
    expect("all_reduce 4K --ranks 4", 2, "are refused");
    unsetenv("CHOIR_PLAN_FILES");
    CHECK_EQ(ftruncate(fd, 300), 0);
    expect(command, 2, "line");
    close(fd);
    expect("all_reduce 4K --ranks 100 --algo tree --svg -", 0, "drawn in part: 64 of 100 ranks");
}

static void clusters(void)
{
    char path[300], command[512];
    test_path(path, sizeof(path), "topo");
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK_LE(0, fd);
    CHECK_EQ(run("--write-topo --hosts 3 --per-host 2"), 0);
    CHECK_LT(0, write(fd, output, strlen(output)));
    snprintf(command, sizeof(command), "all_reduce 1K --topo %s", path);
    expect(command, 0, "6 ranks on 3 hosts");
    snprintf(command, sizeof(command), "all_reduce 1K --topo %s --hosts 5", path);
    expect(command, 0, "5 ranks on 5 hosts");
    snprintf(command, sizeof(command), "--write-topo --topo %s", path);
    char *before = strdup(output);
    CHECK_EQ(run("--write-topo --hosts 3 --per-host 2"), 0);
    free(before);
    before = strdup(output);
    CHECK_EQ(run(command), 0);
    CHECK_STR(output, before);
    free(before);
    CHECK_LT(0, write(fd, "net alfa 3\n", 11));
    expect(command, 2, "line 11, column 5");
    close(fd);
}

/* Constants of GPUs, built in and from a file; where they come from is said. */
static void gpus(void)
{
    struct tuning t = {.key = 7, .ranks = 4, .gpus = 4, .cuda = 12, .tuned = plan_tuned_default};
    char path[512], text[TUNING_TEXT], command[1024];
    expect("all_reduce 1M --ranks 2", 0, "constants built in, of hosts");
    expect("all_reduce 1M --gpus --ranks 8", 0, "constants built in, of GPUs");
    expect("all_reduce --sweep --gpus --ranks 2", 0, "constants built in, of GPUs");
    expect("all_reduce 1M --gpus --ranks 2 --json", 0, "\"constants\": \"built in, of GPUs");
    expect("--write-topo --gpus --ranks 2", 0, "host alpha 700 overhead 400 beta 0.0029");
    expect("all_reduce 1M --gpus", 2, "how many");
    expect("all_reduce 1M --gpus --ranks 17", 2, "at most 16");
    expect("all_reduce 1M --gpus --hosts 2 --per-host 2", 2, "2 hosts");
    expect("all_reduce 1M --gpus --ranks 2 --cores 4", 2, "--cores");
    expect("all_reduce 1M --tuning /nonexistent", 2, "/nonexistent");
    expect("all_reduce 1M --tuning", 2, "needs a value");
    t.tuned.rank_beta_ns *= 3;
    plan_tuning_name("some GPU", t.gpu);
    plan_tuning_dump(&t, text);
    test_path(path, sizeof(path), "a \\\"tuning");
    FILE *f = fopen(path, "we");
    CHECK(f && fputs(text, f) >= 0 && !fclose(f));
    snprintf(command, sizeof(command), "all_reduce 1M --tuning '%s'", path);
    expect(command, 0, "4 ranks on GPUs of one host");
    CHECK(strstr(output, "constants measured between 4 some_GPU"));
    snprintf(command, sizeof(command), "all_reduce 1M --tuning '%s' --ranks 8 --json", path);
    expect(command, 0, "a \\\\\\\"tuning\"");
    snprintf(command, sizeof(command), "--write-topo --tuning '%s'", path);
    expect(command, 0, "rank_beta 0.0009");
    CHECK_EQ(truncate(path, 60), 0);
    snprintf(command, sizeof(command), "all_reduce 1M --tuning '%s'", path);
    expect(command, 2, "line 2");
}

TEST_MAIN(TEST(gpus), TEST(answers), TEST(mistakes), TEST(plans), TEST(clusters))
