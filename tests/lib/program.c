/* SPDX-License-Identifier: Apache-2.0 */
/* Running programs; see program.h. */
#include "tests/lib/program.h"
#include "tests/lib/test.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char *test_program_path(const char *name)
{
    static char path[4096 + 64];
    ssize_t n = readlink("/proc/self/exe", path, 4096);
    CHECK_LT(0, n);
    path[n] = 0;
    for (int up = 0; up < 2 && strrchr(path, '/'); up++)
        *strrchr(path, '/') = 0;
    snprintf(path + strlen(path), 64, "/bin/%s", name);
    if (access(path, X_OK))
        test_skip("%s was not built", path);
    return path;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Reads until the end or the deadline; true at the end. */
static bool collect(int fd, double deadline, char *output, size_t bytes)
{
    size_t n = 0;
    for (;;) {
        char rest[4096];
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int left = (int)((deadline - now()) * 1000);
        if (left <= 0 || (poll(&p, 1, left) < 0 && errno != EINTR))
            return false;
        if (!p.revents)
            continue;
        bool room = n + 1 < bytes;
        ssize_t got = read(fd, room ? output + n : rest, room ? bytes - 1 - n : sizeof(rest));
        if (got <= 0)
            return true;
        n += room ? (size_t)got : 0;
        output[n] = 0;
    }
}

int test_program(unsigned seconds, char *output, size_t bytes, const char *name,
                 const char *arguments, ...)
{
    char text[4096], command[8400];
    va_list ap;
    va_start(ap, arguments);
    vsnprintf(text, sizeof(text), arguments, ap);
    va_end(ap);
    snprintf(command, sizeof(command), "exec %s %s", test_program_path(name), text);
    return test_command(seconds, output, bytes, command);
}

int test_command(unsigned seconds, char *output, size_t bytes, const char *command)
{
    int fds[2], status;
    CHECK_EQ(pipe(fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    CHECK_LE(0, pid);
    if (!pid) { /* its own group, so that ranks it started end with it */
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(fds[1], 1);
        dup2(fds[1], 2);
        close(fds[0]);
        close(fds[1]);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    output[0] = 0;
    bool ended = collect(fds[0], now() + seconds * (TEST_SANITIZED ? 5 : 1), output, bytes);
    if (!ended)
        kill(-pid, SIGKILL);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    close(fds[0]);
    return !ended ? 124 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int test_times(const char *output, const char *part)
{
    int n = 0;
    for (const char *p = output; (p = strstr(p, part)); p += strlen(part))
        n++;
    return n;
}
