/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_launch.c: every way to be started, with the real launchers where they are installed. The program starts itself
 * again as `test_launch --rank ORDER`, whose letters say what a rank does: C make a communicator's rendezvous, I MPI_Init, F
 * MPI_Finalize, B MPI_Barrier, S sleep 0.3 s, X exit with 3 if rank 1; a digit leaves that rank out of the next C.
 */
#include "base/knob.h"
#include "boot/launcher.h"
#include "tests/lib/program.h"
#include "tests/lib/test.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char self[4096], directory[4096]; /* this program, and where it lies */

/* --- the rank ---------------------------------------------------------------------------------- */
static int call_mpi(const char *name, int arguments)
{
    union {
        void *data;
        int (*none)(void);
        int (*two)(int *, char ***);
        int (*comm)(uintptr_t);
    } f = {dlsym(RTLD_DEFAULT, name)};
    CHECK(f.data != NULL);
    if (arguments == 2)
        return f.two(NULL, NULL);
    if (!arguments)
        return f.none();
    void *world = dlsym(RTLD_DEFAULT, "ompi_mpi_comm_world"); /* MPICH: a number */
    return f.comm(world ? (uintptr_t)world : 0x44000000u);
}

static void load_mpi(void)
{
    const char *library = getenv("TEST_MPI");
    if (library && !dlopen(library, RTLD_NOW | RTLD_GLOBAL))
        FAIL("%s", dlerror());
}

static void make(void)
{
    struct boot_launch l;
    struct boot_peers p;
    const char *ms = getenv("TEST_MS");
    uint64_t deadline = base_now_ns() + (uint64_t)(ms ? atoi(ms) : 20000) * 1000000u;
    char blob[32];
    enum choir_status s = boot_launch_detect(deadline, &l);
    if (!s) {
        int bytes = snprintf(blob, sizeof(blob), "rank %u", l.rank);
        s = boot_join(&l.id, l.rank, l.size, blob, (uint32_t)bytes, deadline, NULL, &p);
    }
    if (s) {
        printf("failed %s: %s\n", choir_status_name(s), base_error_thread()->text);
        fflush(stdout);
        exit(9);
    }
    for (uint32_t i = 0; i < p.count; i++) {
        int bytes = snprintf(blob, sizeof(blob), "rank %u", p.peer[i].rank);
        CHECK_EQ(p.peer[i].bytes, bytes);
        CHECK(!memcmp(p.peer[i].address, blob, (size_t)bytes));
    }
    boot_peers_free(&p);
    printf("met %s %u of %u\n", l.name, l.rank, l.size);
    fflush(stdout);
}

static int my_rank(void)
{
    static const char *const names[] = {"CHOIR_RANK", "PMIX_RANK", "PMI_RANK", "RANK"};
    for (size_t i = 0; i < base_count(names); i++)
        if (getenv(names[i]))
            return atoi(getenv(names[i]));
    return 0;
}

static int be_rank(const char *order)
{
    alarm(40);
    load_mpi();
    for (int skip = -1; *order; order++) {
        if (*order >= '0' && *order <= '9')
            skip = *order - '0';
        else if (*order == 'C' && skip != my_rank())
            make(), skip = -1;
        else if (*order == 'C')
            skip = -1;
        else if (*order == 'I')
            CHECK_EQ(call_mpi("MPI_Init", 2), 0);
        else if (*order == 'B')
            CHECK_EQ(call_mpi("MPI_Barrier", 1), 0);
        else if (*order == 'F')
            CHECK_EQ(call_mpi("MPI_Finalize", 0), 0);
        else if (*order == 'S')
            usleep(300000);
        else if (*order == 'X' && my_rank() == 1)
            return 3;
    }
    return 0;
}

/* --- the tests ---------------------------------------------------------------------------------- */
static char output[1 << 16];

/* Below the range from which the system gives ports to others. */
static int free_port(void)
{
    static uint64_t random;
    random = random ? random : test_seed();
    for (int tries = 0; tries < 100; tries++) {
        int port = 10000 + (int)(base_random(&random) % 20000), one = 1;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        bool good = !bind(fd, (struct sockaddr *)&at, sizeof(at)) && !listen(fd, 1);
        close(fd);
        if (good)
            return port;
    }
    FAIL("no free port below 30000");
}

/* Runs a shell command; its output, stderr too, is in `output`. Returns the exit status. */
static int shell(const char *format, ...)
{
    char command[8192];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof(command), format, ap);
    va_end(ap);
    strcat(command, " 2>&1");
    fflush(NULL);
    FILE *f = popen(command, "re");
    CHECK(f != NULL);
    size_t n = fread(output, 1, sizeof(output) - 1, f);
    output[n] = 0;
    int how = pclose(f);
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
}

#define EXPECT_STATUS(status, ...)                                                                 \
    do {                                                                                           \
        int expect_got = shell(__VA_ARGS__);                                                       \
        if (expect_got != (status))                                                                \
            FAIL("exit status %d, not %d; output:\n%s", expect_got, status, output);               \
    } while (0)

static bool have(const char *program)
{
    char command[256];
    snprintf(command, sizeof(command), "command -v %s >/dev/null 2>&1", program);
    return system(command) == 0;
}

static void alone(void)
{
    EXPECT_STATUS(0, "%s --rank CC", self);
    CHECK_TIMES(output, 2, "met none 0 of 1");
    EXPECT_STATUS(9, "CHOIR_RANK=0 CHOIR_SIZE=2 %s --rank C", self);
    CHECK_TIMES(output, 1, "but not where the ranks meet");
}

/* Starts `count` ranks with the environment of a format that gets the rank, and collects all output. */
static int ranks(int count, const char *environment, const char *order)
{
    char command[8000] = "";
    size_t at = 0;
    for (int r = 0; r < count; r++) {
        at += (size_t)snprintf(command + at, sizeof(command) - at, "(env ");
        at += (size_t)snprintf(command + at, sizeof(command) - at, environment, r, r, r);
        at += (size_t)snprintf(command + at, sizeof(command) - at,
                               " %s --rank %s || echo rank %d status $?) & ", self, order, r);
    }
    return shell("{ %s wait; }", command);
}

static void by_tcp(void)
{
    char env[256];
    int port = free_port();
    snprintf(env, sizeof(env),
             "CHOIR_SECRET=sixteen-characters CHOIR_RENDEZVOUS=tcp://127.0.0.1:%d CHOIR_SIZE=5 "
             "CHOIR_RANK=%%d",
             port);
    ranks(5, env, "CCC");
    CHECK_TIMES(output, 15, "met rendezvous");
    if (access("/proc/net/if_inet6", R_OK) == 0) {
        snprintf(env, sizeof(env),
                 "CHOIR_SECRET=sixteen-characters CHOIR_RENDEZVOUS=tcp://[::1]:%d CHOIR_SIZE=2 "
                 "CHOIR_RANK=%%d",
                 port);
        ranks(2, env, "C");
        CHECK_TIMES(output, 2, "met rendezvous");
    } else {
        test_skip_part("tcp over IPv6: this kernel has none");
    }
    /* under the host's own name */
    snprintf(env, sizeof(env),
             "CHOIR_SECRET=sixteen-characters CHOIR_RENDEZVOUS=tcp://localhost:%d CHOIR_SIZE=3 "
             "CHOIR_RANK=%%d",
             port);
    ranks(3, env, "C");
    CHECK_TIMES(output, 3, "met rendezvous");
}

static void secrets(void)
{
    char env[512], path[300];
    int port = free_port();
    /* none at all: this user on this host */
    snprintf(env, sizeof(env), "CHOIR_RENDEZVOUS=tcp://127.0.0.1:%d CHOIR_SIZE=3 CHOIR_RANK=%%d",
             port);
    ranks(3, env, "C");
    CHECK_TIMES(output, 3, "met rendezvous");
    /* different ones */
    snprintf(env, sizeof(env),
             "TEST_MS=700 CHOIR_SECRET=sixteen-characters-%%d CHOIR_RENDEZVOUS=tcp://127.0.0.1:%d "
             "CHOIR_SIZE=2 CHOIR_RANK=%%d",
             port);
    ranks(2, env, "C");
    CHECK_TIMES(output, 1, "failed CHOIR_ERR_AUTH: rank 1 was not let in");
    CHECK_TIMES(output, 1, "failed CHOIR_ERR_PEER_MISSING: rank 1 of 2 did not arrive");
    test_path(path, sizeof(path), "secret");
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK_LE(0, fd);
    CHECK_EQ(write(fd, "a secret from a file\n", 21), 21);
    snprintf(env, sizeof(env),
             "CHOIR_SECRET_FILE=%s CHOIR_RENDEZVOUS=tcp://127.0.0.1:%d CHOIR_SIZE=2 CHOIR_RANK=%%d",
             path, port);
    ranks(2, env, "C");
    CHECK_TIMES(output, 2, "met rendezvous");
    CHECK_EQ(fchmod(fd, 0644), 0);
    ranks(2, env, "C");
    CHECK_TIMES(output, 2, "failed CHOIR_ERR_AUTH");
    CHECK_EQ(fchmod(fd, 0600), 0);
    CHECK_EQ(ftruncate(fd, 0), 0);
    ranks(2, env, "C");
    CHECK_TIMES(output, 2, "is empty");
    close(fd);
    unlink(path);
    ranks(2, env, "C");
    CHECK_TIMES(output, 2, "cannot read CHOIR_SECRET_FILE");
}

/* Without a secret another user of this host stays out. */
static void other_user(void)
{
    char env[256];
    int port = free_port();
    if (geteuid() != 0 || !have("setpriv"))
        test_skip_part("other user without a secret: needs root and setpriv");
    else {
        snprintf(env, sizeof(env), "CHOIR_RENDEZVOUS=tcp://127.0.0.1:%d CHOIR_SIZE=2 TEST_MS=1500",
                 port);
        shell(
            "{ (%s CHOIR_RANK=0 %s --rank C) & sleep 0.2; setpriv --reuid=65534 --clear-groups env "
            "%s CHOIR_RANK=1 %s --rank C; wait; }",
            env, self, env, self);
        CHECK_TIMES(output, 1,
                    "failed CHOIR_ERR_AUTH: rank 1 was not let in, because no secret was set");
        CHECK_TIMES(output, 1, "failed CHOIR_ERR_PEER_MISSING: rank 1 of 2");
    }
}

static void bad_rendezvous(void)
{
    static const struct {
        const char *env, *text;
    } bad[] = {{"CHOIR_RENDEZVOUS=udp://x:1 CHOIR_RANK=0 CHOIR_SIZE=1", "neither tcp:// nor file:"},
               {"CHOIR_RENDEZVOUS=tcp://x CHOIR_RANK=0 CHOIR_SIZE=1", "is not an address"},
               {"CHOIR_RENDEZVOUS=tcp://x:0 CHOIR_RANK=0 CHOIR_SIZE=1", "is not an address"},
               {"CHOIR_RENDEZVOUS=tcp://::1:7 CHOIR_RANK=0 CHOIR_SIZE=1", "is not an address"},
               {"CHOIR_RENDEZVOUS=tcp://x:70000 CHOIR_RANK=0 CHOIR_SIZE=1", "is not an address"},
               {"CHOIR_RENDEZVOUS=tcp://x:7 CHOIR_SIZE=1", "CHOIR_RANK is -1"},
               {"CHOIR_RENDEZVOUS=tcp://x:7 CHOIR_RANK=3 CHOIR_SIZE=3", "CHOIR_RANK is 3"},
               {"CHOIR_RENDEZVOUS=file: CHOIR_RANK=0 CHOIR_SIZE=1", "names no file"},
               {"CHOIR_RENDEZVOUS=file:/nosuch/d/f CHOIR_RANK=0 CHOIR_SIZE=1", "cannot write"},
               {"RANK=x WORLD_SIZE=1 MASTER_ADDR=y MASTER_PORT=1", "RANK=x is not a number"},
               {"RANK=1 WORLD_SIZE=1 MASTER_ADDR=y MASTER_PORT=1", "RANK is 1 and WORLD_SIZE is 1"},
               {"RANK=0 WORLD_SIZE=1 MASTER_ADDR=y MASTER_PORT=65535", "no port above"}};
    for (size_t i = 0; i < base_count(bad); i++) {
        EXPECT_STATUS(9, "env %s %s --rank C", bad[i].env, self);
        CHECK_LE(1, test_times(output, bad[i].text)); /* in the log, too */
    }
}

static void server_never_comes(void)
{
    int port = free_port();
    EXPECT_STATUS(9,
                  "env TEST_MS=400 CHOIR_SECRET=sixteen-characters "
                  "CHOIR_RENDEZVOUS=tcp://127.0.0.1:%d CHOIR_RANK=1 CHOIR_SIZE=2 %s --rank C",
                  port, self);
    CHECK_TIMES(output, 1,
                "failed CHOIR_ERR_TIMEOUT: rank 1 of 2 reached no rendezvous server within 0.");
    char refused[64];
    snprintf(refused, sizeof(refused), "127.0.0.1:%d", port);
    CHECK_LE(1, test_times(output, refused));
    CHECK_LE(1, test_times(output, "Connection refused"));
}

static void late_server(void)
{
    int port = free_port();
    char env[256];
    snprintf(env, sizeof(env),
             "CHOIR_SECRET=sixteen-characters CHOIR_RENDEZVOUS=tcp://127.0.0.1:%d CHOIR_SIZE=2",
             port);
    shell("{ (env %s CHOIR_RANK=1 %s --rank C) & env %s CHOIR_RANK=0 %s --rank SSC; wait; }", env,
          self, env, self);
    CHECK_TIMES(output, 2, "met rendezvous");
}

static void by_file(void)
{
    char path[300], env[512];
    test_path(path, sizeof(path), "by_file");
    CHECK_EQ(mkdir(path, 0700), 0);
    snprintf(env, sizeof(env), "CHOIR_RENDEZVOUS=file:%s/id CHOIR_SIZE=4 CHOIR_RANK=%%d", path);
    ranks(4, env, "CCC");
    CHECK_TIMES(output, 12, "met rendezvous");
    EXPECT_STATUS(0, "ls -A %s | wc -l", path);
    CHECK_STR(output, "0\n"); /* nothing is left behind */
    /* a job that died leaves its file; the next one is not misled */
    shell("{ (env CHOIR_RENDEZVOUS=file:%s/id CHOIR_SIZE=2 CHOIR_RANK=0 %s --rank C) & sleep 0.3; "
          "kill -9 $(pgrep -P $!) $! ; wait; }",
          path, self);
    EXPECT_STATUS(0, "test -s %s/id && stat -c %%a %s/id", path, path);
    CHECK_STR(output, "600\n");
    ranks(4, env, "C");
    CHECK_TIMES(output, 4, "met rendezvous");
    /* rank 0 never comes */
    EXPECT_STATUS(
        9, "env TEST_MS=300 CHOIR_RENDEZVOUS=file:%s/none CHOIR_SIZE=2 CHOIR_RANK=1 %s --rank C",
        path, self);
    CHECK_LE(1, test_times(output, "rank 0 did not write"));
    /* garbage, and a file that is not to be trusted */
    EXPECT_STATUS(0, "head -c 3000 /dev/urandom > %s/junk", path);
    EXPECT_STATUS(
        9, "env TEST_MS=300 CHOIR_RENDEZVOUS=file:%s/junk CHOIR_SIZE=2 CHOIR_RANK=1 %s --rank C",
        path, self);
    CHECK_LE(1, test_times(output, "not a rendezvous file"));
}

static void by_torchrun(void)
{
    char env[512];
    int port = free_port();
    snprintf(env, sizeof(env),
             "MASTER_ADDR=127.0.0.1 MASTER_PORT=%d WORLD_SIZE=4 RANK=%%d TORCHELASTIC_RUN_ID=a",
             port);
    ranks(4, env, "CC");
    CHECK_TIMES(output, 8, "met torchrun");
    /* the host's own name, which resolves differently here than elsewhere */
    char host[65] = "localhost";
    gethostname(host, sizeof(host) - 1);
    snprintf(env, sizeof(env), "MASTER_ADDR=%s MASTER_PORT=%d WORLD_SIZE=3 RANK=%%d", host, port);
    ranks(3, env, "C");
    CHECK_TIMES(output, 3, "met torchrun");
    /* a fixed port, and a secret */
    snprintf(env, sizeof(env),
             "MASTER_ADDR=127.0.0.1 MASTER_PORT=%d WORLD_SIZE=2 RANK=%%d CHOIR_PORT=%d "
             "CHOIR_SECRET=sixteen-characters",
             port, port + 100);
    ranks(2, env, "C");
    CHECK_TIMES(output, 2, "met torchrun");
    /* two jobs side by side on the same ports: the first port of the second is the first job's */
    shell("{ for r in 0 1; do for j in a b; do (MASTER_ADDR=127.0.0.1 MASTER_PORT=%d WORLD_SIZE=2 "
          "RANK=$r TORCHELASTIC_RUN_ID=$j %s --rank SC) & done; done; wait; }",
          port, self);
    CHECK_TIMES(output, 4, "met torchrun");
}

static void by_choir_run(void)
{
    char run[4200];
    snprintf(run, sizeof(run), "%s/../bin/choir-run", directory);
    if (access(run, X_OK))
        test_skip("choir-run is not built (make all)");
    EXPECT_STATUS(0, "%s -n 6 --hosts 2 %s --rank CC", run, self);
    CHECK_TIMES(output, 12, "met rendezvous");
    EXPECT_STATUS(3, "%s -n 3 %s --rank CXCS", run, self);
    CHECK_TIMES(output, 1, "rank 1 of 3 exited with status 3; ending the others");
    EXPECT_STATUS(9, "TEST_MS=300 %s -n 4 %s --rank 2CSSSS", run, self);
    CHECK_LE(1, test_times(output, "rank 2 of 4 did not arrive"));
    EXPECT_STATUS(0, "%s -n 3 -l sh -c 'echo a b; echo >&2 c; printf d'", run);
    for (int r = 0; r < 3; r++) {
        char line[32];
        snprintf(line, sizeof(line), "[%d] a b\n", r);
        CHECK_TIMES(output, 1, line);
        snprintf(line, sizeof(line), "[%d] c\n", r);
        CHECK_TIMES(output, 1, line);
        snprintf(line, sizeof(line), "[%d] d\n", r);
        CHECK_TIMES(output, 1, line);
    }
    EXPECT_STATUS(128 + 11, "%s -n 2 sh -c 'test $CHOIR_RANK = 0 || kill -11 $$; sleep 20'", run);
    CHECK_TIMES(output, 1, "rank 1 of 2 was ended by signal 11");
    EXPECT_STATUS(0,
                  "%s -n 5 --hosts 3 sh -c 'echo $CHOIR_RANK $CHOIR_HOST_ID $CHOIR_LOCAL_RANK "
                  "$CHOIR_LOCAL_SIZE'",
                  run);
    CHECK_TIMES(output, 1, "0 choir-run-host-0 0 2\n");
    CHECK_TIMES(output, 1, "1 choir-run-host-0 1 2\n");
    CHECK_TIMES(output, 1, "2 choir-run-host-1 0 2\n");
    CHECK_TIMES(output, 1, "3 choir-run-host-1 1 2\n");
    CHECK_TIMES(output, 1, "4 choir-run-host-2 0 1\n");
    EXPECT_STATUS(0, "%s -n 3 --bind sh -c 'grep -c ^Cpus_allowed_list:.[0-9]*$ /proc/self/status'",
                  run);
    CHECK_TIMES(output, 3, "1\n");
    EXPECT_STATUS(2, "%s -n 0 true", run);
    EXPECT_STATUS(2, "%s -n 2", run);
    EXPECT_STATUS(2, "%s -n 2 --hosts 3 true", run);
    EXPECT_STATUS(127, "%s -n 2 /nosuch/program", run);
    /* the ranks die with it; its own directory nobody can remove */
    char own[300];
    test_path(own, sizeof(own), "");
    EXPECT_STATUS(0,
                  "{ TMPDIR=%s %s -n 2 sleep 2345.%d & p=$!; sleep 0.3; kill -9 $p; sleep 0.2; "
                  "wait $p; ls %s | grep -q choir-run- && ! pgrep -f '^sleep 2345.%d'; }",
                  own, run, (int)getpid(), own, (int)getpid());
}

static void by_local_fork(void)
{
    EXPECT_STATUS(0, "%s --fork 4", self);
    CHECK_TIMES(output, 4, "met rendezvous");
}

/* --- MPI's launchers ------------------------------------------------------------------------------ */
static void openmpi_orders(const char *mpirun, const char *library)
{
    static const char *const orders[] = {"C", "CC", "ICBF", "CIBF", "ICBFC", "ICBCF"};
    for (size_t i = 0; i < base_count(orders); i++) {
        bool mpi = strchr(orders[i], 'I');
        if (mpi && !library)
            continue;
        EXPECT_STATUS(0, "timeout 30 %s -n 3 env %s%s %s --rank %s", mpirun, mpi ? "TEST_MPI=" : "",
                      mpi ? library : "A=1", self, orders[i]);
        int want = 0;
        for (const char *p = orders[i]; *p; p++)
            want += *p == 'C';
        CHECK_TIMES(output, 3 * want, "met pm");
        CHECK_TIMES(output, 0, "exited without");
        CHECK_TIMES(output, 0, "BAD TERMINATION");
    }
}

/* Sanitizers would report what MPI's own libraries leak, and cannot be loaded behind an unsanitized program. */
static void by_openmpi(void)
{
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
    const char *mpirun = "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
                         "mpirun.openmpi --oversubscribe";
    if (!have("mpirun.openmpi"))
        test_skip("mpirun.openmpi is not installed");
    void *pmix = dlopen("libpmix.so.2", RTLD_NOW);
    if (!pmix)
        test_skip("libpmix.so.2 is not installed");
    void *mpi = dlopen("libmpi.so.40", RTLD_LAZY);
    if (!mpi)
        test_skip_part("ranks that use MPI: libmpi.so.40 is not installed");
    openmpi_orders(mpirun, mpi ? "libmpi.so.40" : NULL);
    CHECK_TIMES(output, 0, "met pmi1");
    /* a rank that never asks is named, with and without MPI */
    shell("TEST_MS=4000 timeout 30 %s -n 3 %s --rank 1CSSSSSSSSSSSSSSSSSSSSSSSS", mpirun, self);
    CHECK_LE(1, test_times(output, "failed CHOIR_ERR_PEER_MISSING: rank 1 of 3 did not arrive"));
}

static void by_mpich(void)
{
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
    if (!have("mpirun.mpich"))
        test_skip("mpirun.mpich is not installed");
    void *mpi = TEST_TSAN ? NULL : dlopen("libmpich.so.12", RTLD_LAZY);
    if (TEST_TSAN)
        test_skip_part("ranks that use MPI: MPICH's MPI_Init crashes under the thread sanitizer");
    else if (!mpi)
        test_skip_part("ranks that use MPI: libmpich.so.12 is not installed");
    static const char *const orders[] = {"C", "CC", "ICBF", "CIBF", "ICBCF", "CICBCF"};
    for (size_t i = 0; i < base_count(orders); i++) {
        bool uses = strchr(orders[i], 'I');
        if (uses && !mpi)
            continue;
        EXPECT_STATUS(0, "timeout 30 mpirun.mpich -n 3 env %s %s --rank %s",
                      uses ? "TEST_MPI=libmpich.so.12" : "A=1", self, orders[i]);
        int want = 0;
        for (const char *p = orders[i]; *p; p++)
            want += *p == 'C';
        CHECK_TIMES(output, 3 * want, "met pmi1");
    }
    if (mpi) {
        shell("timeout 30 mpirun.mpich -n 2 env TEST_MPI=libmpich.so.12 %s --rank IFC", self);
        CHECK_LE(1, test_times(output, "failed CHOIR_ERR_STATE: MPI was finalized"));
    }
    shell("TEST_MS=2000 timeout 30 mpirun.mpich -n 4 %s --rank 1CSSSSSSSSSSSSSSS", self);
    CHECK_LE(1, test_times(output, "failed CHOIR_ERR_PEER_MISSING: rank(s) 1 of 4 did not arrive"));
}

/* choir_mpi.h, compiled with each MPI's compiler against the built library. The program's argument says what goes wrong. */
static const char mpi_program[] =
    "#include \"choir_mpi.h\"\n"
    "#include <stdio.h>\n"
    "int main(int argc, char **argv)\n"
    "{\n"
    "    MPI_Comm odd = MPI_COMM_NULL;\n"
    "    choir_comm *comm = NULL, *part = NULL;\n"
    "    struct choir_config config = CHOIR_CONFIG_INIT;\n"
    "    int rank, size, n = 0, one = 1, sum = 0;\n"
    "    MPI_Init(&argc, &argv);\n"
    "    MPI_Comm_rank(MPI_COMM_WORLD, &rank);\n"
    "    MPI_Comm_size(MPI_COMM_WORLD, &size);\n"
    "    if (argc > 1 && rank == 1)\n"
    "        config.bytes = 1;\n"
    "    config.create_timeout_ns = 2000000000u;\n"
    "    int s = choir_comm_create_mpi(MPI_COMM_WORLD, &config, &comm);\n"
    "    if (s == CHOIR_OK) {\n" /* and of a part of it, in another order */
    "        MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &odd);\n"
    "        s = choir_comm_create_mpi(odd, &config, &part);\n"
    "        MPI_Comm_free(&odd);\n"
    "    }\n"
    "    MPI_Finalize();\n"
    "    if (s != CHOIR_OK) {\n"
    "        printf(\"failed %s %d\\n\", choir_status_name((enum choir_status)s), comm != NULL);\n"
    "        return 0;\n"
    "    }\n"
    "    choir_comm_size(comm, &n);\n"
    "    s = choir_all_reduce(comm, &one, &sum, 1, CHOIR_INT32, CHOIR_SUM, NULL);\n"
    "    choir_comm_destroy(comm);\n"
    "    printf(\"sum %d of %d, %d\\n\", sum, n, s);\n"
    "    int there, in = rank, got[2] = {-1, -1};\n"
    "    choir_comm_rank(part, &there);\n"
    "    if (there != (rank ? 0 : 1) || choir_all_gather(part, &in, got, 1, CHOIR_INT32, NULL))\n"
    "        return 1;\n"
    "    choir_comm_destroy(part);\n"
    "    printf(\"part %d %d\\n\", got[0], got[1]);\n"
    "    return sum == size && n == size && !s ? 0 : 1;\n"
    "}\n";

static void by_mpi_communicator(void)
{
    static const char *const kinds[] = {"openmpi", "mpich"};
    char path[300], run[1024];
    if (TEST_SANITIZED)
        test_skip("choir_mpi.h: a program without the sanitizer cannot load a library with it");
    if (shell("test -f %s/../libchoir.so -a -f %s/../../include/choir_mpi.h", directory, directory))
        test_skip("choir_mpi.h: libchoir.so is not built (make all)");
    test_path(path, sizeof(path), "by_mpi");
    CHECK_EQ(mkdir(path, 0700), 0);
    for (size_t i = 0; i < base_count(kinds); i++) {
        char compiler[32], launcher[32], file[320];
        snprintf(compiler, sizeof(compiler), "mpicc.%s", kinds[i]);
        snprintf(launcher, sizeof(launcher), "mpirun.%s", kinds[i]);
        if (!have(compiler) || !have(launcher)) {
            test_skip_part("choir_mpi.h with %s: not installed", kinds[i]);
            continue;
        }
        snprintf(file, sizeof(file), "%s/p.c", path);
        FILE *f = fopen(file, "we");
        CHECK(f && fputs(mpi_program, f) >= 0 && !fclose(f));
        EXPECT_STATUS(0,
                      "%s -std=c11 -Wall -Wextra -Werror -I%s/../../include %s/p.c -o %s/p -L%s/.. "
                      "-lchoir -Wl,-rpath,%s/..",
                      compiler, directory, path, path, directory, directory);
        snprintf(
            run, sizeof(run),
            "timeout 40 env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 %s %s -n 3 "
            "%s/p",
            launcher, i ? "" : "--oversubscribe", path);
        EXPECT_STATUS(0, "%s", run);
        CHECK_TIMES(output, 3, "sum 3 of 3, 0");
        CHECK_TIMES(output, 2, "part 2 0\n"); /* ranks 0 and 2, the last first */
        CHECK_TIMES(output, 1, "part 1 -1\n");
        EXPECT_STATUS(0, "%s wrong", run);
        CHECK_TIMES(output, 3, "failed CHOIR_ERR");
        CHECK_TIMES(output, 0, " 1\n"); /* nobody got a communicator */
    }
}

/* torchrun's variables win inside an MPI job, whose tasks are not the ranks. */
static void torchrun_inside_mpi(void)
{
    if (!have("mpirun.mpich"))
        test_skip("mpirun.mpich is not installed");
    int port = free_port();
    EXPECT_STATUS(0,
                  "timeout 30 mpirun.mpich -n 1 sh -c 'for r in 0 1; do RANK=$r WORLD_SIZE=2 "
                  "MASTER_ADDR=127.0.0.1 MASTER_PORT=%d TORCHELASTIC_RUN_ID=x %s --rank C & done; "
                  "wait'",
                  port, self);
    CHECK_TIMES(output, 2, "met torchrun");
}

static void slurm_names(void)
{
    char host[256];
    CHECK(launch_first_host("node[03-07,9],other", host));
    CHECK_STR(host, "node03");
    CHECK(launch_first_host("a,b", host));
    CHECK_STR(host, "a");
    CHECK(launch_first_host("single", host));
    CHECK_STR(host, "single");
    CHECK(!launch_first_host("", host));
    CHECK(!launch_first_host("[1-2]", host));
    CHECK(!launch_first_host("x[", host));
}

static void by_slurm_variables(void)
{
    char env[512];
    snprintf(env, sizeof(env),
             "SLURM_JOB_ID=%d SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=3 SLURM_PROCID=%%d "
             "SLURM_STEP_NODELIST=localhost",
             (int)(test_seed() % 1000000));
    ranks(3, env, "CC");
    CHECK_TIMES(output, 6, "met slurm");
    /* a batch script's variables do not make a job of one process */
    EXPECT_STATUS(0, "env SLURM_JOB_ID=5 SLURM_NTASKS=8 SLURM_PROCID=0 %s --rank C", self);
    CHECK_TIMES(output, 1, "met none 0 of 1");
}

int main(int argc, char **argv)
{
    static const struct test_case cases[] = {TEST(alone),
                                             TEST(by_tcp),
                                             TEST(secrets),
                                             TEST(other_user),
                                             TEST(bad_rendezvous),
                                             TEST(server_never_comes),
                                             TEST(late_server),
                                             TEST(by_file),
                                             TEST(by_torchrun),
                                             TEST(slurm_names),
                                             TEST(by_choir_run),
                                             TEST(by_local_fork),
                                             TEST(by_mpich),
                                             TEST(torchrun_inside_mpi),
                                             TEST(by_slurm_variables),
                                             TEST(by_openmpi),
                                             TEST(by_mpi_communicator)};
    if (argc == 3 && !strcmp(argv[1], "--rank"))
        return be_rank(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "--fork")) {
        boot_local_fork(atoi(argv[2]));
        return be_rank("C");
    }
    CHECK_LT(0, readlink("/proc/self/exe", self, sizeof(self) - 1));
    strcpy(directory, self);
    *strrchr(directory, '/') = 0;
    return test_main(argc, argv, cases, base_count(cases));
}
