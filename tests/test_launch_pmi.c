/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_launch_pmi.c: PMI as it should not be: servers that lie, stop or talk nonsense on PMI_FD, and the PMI libraries of
 * machines that are not here, played by small ones compiled on the spot. What mpirun really does is in test_launch.c.
 */
#include "base/knob.h"
#include "boot/launcher.h"
#include "tests/lib/program.h"
#include "tests/lib/test.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- a server on a socket pair -------------------------------------------------------------------- */
#define HANG "(hang)"
#define END "(end)"
struct script {
    const char *name;
    const char *init, *job, *mapping, *put, *barrier, *get; /* answers; NULL: the right one */
    enum choir_status status;
    const char *text;
};

static const char *answer(const struct script *s, const char *line)
{
    if (!strncmp(line, "cmd=init", 8))
        return s->init ? s->init : "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n";
    if (!strncmp(line, "cmd=get_my_kvsname", 18))
        return s->job ? s->job : "cmd=my_kvsname kvsname=kvs_1_0\n";
    if (strstr(line, "PMI_process_mapping"))
        return s->mapping ? s->mapping : "cmd=get_result rc=0 msg=success value=(vector,(0,1,2))\n";
    if (!strncmp(line, "cmd=put", 7))
        return s->put ? s->put : "cmd=put_result rc=0 msg=success\n";
    if (!strncmp(line, "cmd=barrier_in", 14))
        return s->barrier ? s->barrier : "cmd=barrier_out\n";
    if (!strncmp(line, "cmd=finalize", 12))
        return "cmd=finalize_ack\n";
    return s->get ? s->get : "cmd=get_result rc=-1 msg=key_not_found value=unknown\n";
}

static void serve(int fd, const struct script *s)
{
    char line[4096];
    size_t n = 0;
    while (n < sizeof(line) - 1 && recv(fd, &line[n], 1, 0) == 1) {
        if (line[n++] != '\n')
            continue;
        line[n] = 0;
        const char *say = answer(s, line);
        n = 0;
        if (!strcmp(say, END))
            return;
        if (strcmp(say, HANG))
            (void)!send(fd, say, strlen(say), MSG_NOSIGNAL);
    }
}

/* A child that is rank `rank` of 2 and exits with 0 if the outcome is the script's. */
static void client(int fd, int rank, const struct script *s)
{
    struct boot_launch l;
    char number[16];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(number, sizeof(number), "%d", fd);
    setenv("PMI_FD", number, 1);
    snprintf(number, sizeof(number), "%d", rank);
    setenv("PMI_RANK", number, 1);
    setenv("PMI_SIZE", "2", 1);
    uint64_t begun = base_now_ns();
    enum choir_status st = boot_launch_detect(begun + 400000000u, &l);
    const char *text = base_error_thread()->text;
    bool good = st == s->status && (!s->text || strstr(text, s->text)) &&
                base_now_ns() - begun < 1500000000u;
    if (!good)
        fprintf(stderr, "%s rank %d: %s: %s\n", s->name, rank, choir_status_name(st), text);
    exit(!good); /* through atexit, as a program would */
}

static void play(const struct script *s, int rank)
{
    int fd[2], how;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    pid_t pid = fork();
    if (!pid) {
        close(fd[0]);
        client(fd[1], rank, s);
    }
    close(fd[1]);
    serve(fd[0], s);
    close(fd[0]);
    CHECK_EQ(waitpid(pid, &how, 0), pid);
    if (how)
        FAIL("script %s, rank %d: status %x", s->name, rank, how);
}

static void liars(void)
{
    static char endless[5000];
    memset(endless, 'x', sizeof(endless) - 1);
    const struct script rank0[] = {
        {.name = "good", .status = CHOIR_OK},
        {.name = "init refused",
         .init = "cmd=response_to_init pmi_version=2 rc=-1\n",
         .status = CHOIR_ERR_SYSTEM,
         .text = "does not accept PMI-1"},
        {.name = "init nonsense",
         .init = "HTTP/1.1 400\n",
         .status = CHOIR_ERR_SYSTEM,
         .text = "not PMI-1"},
        {.name = "pmi2 answers",
         .init = "    32cmd=fullinit-response;rc=0;\n",
         .status = CHOIR_ERR_SYSTEM},
        {.name = "init silence",
         .init = HANG,
         .status = CHOIR_ERR_SYSTEM,
         .text = "does not answer"},
        {.name = "init end", .init = END, .status = CHOIR_ERR_SYSTEM, .text = "closed"},
        {.name = "endless line", .init = endless, .status = CHOIR_ERR_SYSTEM, .text = "not PMI-1"},
        {.name = "no job",
         .job = "cmd=my_kvsname\n",
         .status = CHOIR_ERR_SYSTEM,
         .text = "name the job"},
        {.name = "put refused",
         .put = "cmd=put_result rc=-1 msg=no\n",
         .status = CHOIR_ERR_SYSTEM,
         .text = "does not store"},
        {.name = "barrier nonsense", .barrier = "cmd=whatever\n", .status = CHOIR_ERR_SYSTEM},
        {.name = "barrier end", .barrier = END, .status = CHOIR_ERR_SYSTEM, .text = "closed"},
        {.name = "barrier without end",
         .barrier = HANG,
         .status = CHOIR_ERR_PEER_MISSING,
         .text = "rank(s) 1 of 2 did not arrive within"},
        {.name = "several hosts",
         .mapping = "cmd=get_result rc=0 value=(vector,(0,2,1))\n",
         .barrier = HANG,
         .status = CHOIR_ERR_PEER_MISSING,
         .text = "does not say which"}};
    const struct script rank1[] = {
        {.name = "no id", .status = CHOIR_ERR_PROTOCOL, .text = "rank 0 put no id"},
        {.name = "short id",
         .get = "cmd=get_result rc=0 value=00112233\n",
         .status = CHOIR_ERR_PROTOCOL},
        {.name = "get end", .get = END, .status = CHOIR_ERR_SYSTEM, .text = "closed"}};
    for (size_t i = 0; i < base_count(rank0); i++)
        play(&rank0[i], 0);
    for (size_t i = 0; i < base_count(rank1); i++)
        play(&rank1[i], 1);
}

static void bad_variables(void)
{
    static const char *const values[][3] = {
        {"x", "0", "2"}, {"999", "0", "2"}, {"0", "2", "2"}, {"0", "-1", "2"}, {"0", "0", "0"}};
    for (size_t i = 0; i < base_count(values); i++) {
        struct boot_launch l;
        setenv("PMI_FD", values[i][0], 1);
        setenv("PMI_RANK", values[i][1], 1);
        setenv("PMI_SIZE", values[i][2], 1);
        if (i < 2 || i > 2) { /* descriptor 0 is real: only the numbers are wrong */
            CHECK_LT(boot_launch_detect(base_now_ns() + 200000000u, &l), 0);
            CHECK(base_error_thread()->text[0]);
        }
    }
    unsetenv("PMI_FD");
    unsetenv("PMI_RANK");
    unsetenv("PMI_SIZE");
}

/* --- PMI libraries ----------------------------------------------------------------------------------- */
static const char fake[] =
    "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n"
    "static int number(const char *n) { return atoi(getenv(n)); }\n"
    "static int begun;\n"
    "static int start(int *rank, int *size) {\n"
    "  if (getenv(\"FAKE_FAILS\")) return 1;\n"
    "  begun = 1; *rank = number(\"SLURM_PROCID\");\n"
    "  *size = getenv(\"FAKE_ALONE\") ? 1 : number(\"SLURM_STEP_NUM_TASKS\");\n"
    "  return 0; }\n"
    "static void path(char *p, const char *key) { sprintf(p, \"%s/%s\", getenv(\"FAKE_DIR\"), "
    "key); }\n"
    "static int put(const char *key, const char *value) {\n"
    "  char p[500]; path(p, key); FILE *f = fopen(p, \"w\"); fputs(value, f); return fclose(f); }\n"
    "static int get(const char *key, char *value, int most) {\n"
    "  char p[500]; path(p, key); FILE *f = fopen(p, \"r\"); if (!f) return 1;\n"
    "  size_t n = fread(value, 1, most - 1, f); value[n] = 0; return fclose(f); }\n"
    "static int fence(void) {\n"
    "  static int round; char key[64], got[8]; round++;\n"
    "  sprintf(key, \"f%d.%d\", round, number(\"SLURM_PROCID\")); put(key, \"1\");\n"
    "  for (int r = 0; r < number(\"SLURM_STEP_NUM_TASKS\"); r++) {\n"
    "    sprintf(key, \"f%d.%d\", round, r); while (get(key, got, 8)) usleep(1000); }\n"
    "  return 0; }\n"
    "#ifdef TWO\n"
    "int PMI2_Initialized(int *f) { *f = begun; return 0; }\n"
    "int PMI2_Init(int *s, int *size, int *rank, int *a) { *s = *a = 0; return start(rank, size); "
    "}\n"
    "int PMI2_KVS_Put(const char *k, const char *v) { return put(k, v); }\n"
    "int PMI2_KVS_Fence(void) { return fence(); }\n"
    "int PMI2_KVS_Get(const char *j, int s, const char *k, char *v, int m, int *l) {\n"
    "  (void)j; (void)s; int r = get(k, v, m); *l = r ? 0 : (int)strlen(v); return r; }\n"
    "int PMI2_Job_GetId(char *id, int n) { snprintf(id, n, \"j\"); return 0; }\n"
    "#else\n"
    "static int rank_, size_;\n"
    "int PMI_Initialized(int *f) { *f = begun; return 0; }\n"
    "int PMI_Init(int *s) { *s = 0; return start(&rank_, &size_); }\n"
    "int PMI_Get_rank(int *r) { *r = rank_; return 0; }\n"
    "int PMI_Get_size(int *s) { *s = size_; return 0; }\n"
    "int PMI_KVS_Get_my_name(char *id, int n) { snprintf(id, n, \"j\"); return 0; }\n"
    "int PMI_KVS_Put(const char *j, const char *k, const char *v) { (void)j; return put(k, v); }\n"
    "int PMI_KVS_Commit(const char *j) { (void)j; return 0; }\n"
    "int PMI_Barrier(void) { return fence(); }\n"
    "int PMI_KVS_Get(const char *j, const char *k, char *v, int m) { (void)j; return get(k, v, m); "
    "}\n"
    "#endif\n";

static char self[4096], output[1 << 15];

/* Three ranks under a shell's environment; their output is in `output`. */
static void three(const char *directory, const char *environment, const char *which)
{
    char command[12000];
    snprintf(
        command, sizeof(command),
        "rm -f %s/f* %s/choir*; for r in %s; do (FAKE_DIR=%s LD_LIBRARY_PATH=%s SLURM_JOB_ID=1 "
        "SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=3 SLURM_STEP_NODELIST=localhost SLURM_PROCID=$r "
        "%s %s --rank) 2>&1 & done; wait",
        directory, directory, which, directory, directory, environment, self);
    FILE *f = popen(command, "re");
    CHECK(f != NULL);
    output[fread(output, 1, sizeof(output) - 1, f)] = 0;
    CHECK_EQ(pclose(f), 0);
}

static bool build(const char *directory, const char *option, const char *name)
{
    char command[1024];
    snprintf(command, sizeof(command),
             "cc -shared -fPIC -w %s -o %s/%s %s/source.c >/dev/null 2>&1", option, directory, name,
             directory);
    return system(command) == 0;
}

static void libraries(void)
{
    char directory[300], file[320];
    test_path(directory, sizeof(directory), "pmi");
    CHECK_EQ(mkdir(directory, 0700), 0);
    snprintf(file, sizeof(file), "%s/source.c", directory);
    FILE *f = fopen(file, "we");
    CHECK(f && fputs(fake, f) >= 0 && !fclose(f));
    if (!build(directory, "-DTWO", "libpmi2.so.0"))
        test_skip("PMI libraries: no C compiler named cc");
    three(directory, "", "0 1 2");
    CHECK_TIMES(output, 6, "met libpmi2");
    /* one that believes to be alone is not ours; then the other library, then Slurm's variables */
    three(directory, "FAKE_ALONE=1", "0 1 2");
    CHECK_TIMES(output, 6, "met slurm");
    CHECK(build(directory, "", "libpmi.so.0"));
    snprintf(file, sizeof(file), "%s/libpmi2.so.0", directory);
    CHECK_EQ(unlink(file), 0);
    three(directory, "", "0 1 2");
    CHECK_TIMES(output, 6, "met libpmi ");
    three(directory, "FAKE_FAILS=1", "0 1 2");
    CHECK_TIMES(output, 6, "met slurm");
    /* a fence that does not end */
    three(directory, "TEST_MS=400", "0 2");
    CHECK_TIMES(output, 2, "failed CHOIR_ERR_PEER_MISSING: not all of 3 ranks");
}

static int be_rank(void)
{
    const char *ms = getenv("TEST_MS");
    for (int i = 0; i < 2; i++) {
        struct boot_launch l;
        struct boot_peers p;
        uint64_t deadline = base_now_ns() + (uint64_t)(ms ? atoi(ms) : 20000) * 1000000u;
        enum choir_status s = boot_launch_detect(deadline, &l);
        s = s ? s : boot_join(&l.id, l.rank, l.size, NULL, 0, deadline, NULL, &p);
        if (s) {
            printf("failed %s: %s\n", choir_status_name(s), base_error_thread()->text);
            return 0;
        }
        boot_peers_free(&p);
        printf("met %s %u of %u\n", l.name, l.rank, l.size);
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(liars), TEST(bad_variables), TEST(libraries)};
    if (argc == 2 && !strcmp(argv[1], "--rank"))
        return be_rank();
    CHECK_LT(0, readlink("/proc/self/exe", self, sizeof(self) - 1));
    return test_main(argc, argv, cases, base_count(cases));
}
