/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local.c: see local.h. One poll loop over a signalfd and, with labels, the ranks' pipes. The rendezvous is a file
 * in a directory of the job's own, removed at the end, so no port has to be guessed and the secret stands in no environment.
 */
#include "boot/local.h"
#include "base/base.h"
#include "boot/boot.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILL_NS 2000000000u /* from SIGTERM to SIGKILL */
#define LINE_MOST 4096      /* a longer line is cut into several */

struct stream { /* one rank's stdout or stderr, with labels */
    int fd, to;
    uint32_t have;
    char line[LINE_MOST];
};
struct rank {
    pid_t pid; /* 0: ended */
    struct stream stream[2];
};
struct run {
    const struct local_job *job;
    struct rank *rank;
    int left, signals, status;
    uint64_t kill_ns; /* 0: nobody is being ended */
    sigset_t before;
    char directory[256], file[256 + 3];
};

static const int passed_on[] = {SIGINT,  SIGTERM, SIGHUP,  SIGQUIT,
                                SIGUSR1, SIGUSR2, SIGCONT, SIGTSTP};

/* --- the child --------------------------------------------------------------------------------- */
static void set_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof(text), "%d", value);
    setenv(name, text, 1);
}

/* Host h has the ranks r with r * hosts / ranks == h. */
static void set_environment(const struct run *run, int r)
{
    int n = run->job->ranks, hosts = run->job->hosts, local = 0, on_host = 0;
    for (int i = 0; i < n; i++) {
        if ((int64_t)i * hosts / n != (int64_t)r * hosts / n)
            continue;
        local += i < r;
        on_host++;
    }
    char text[sizeof(run->file) + 5];
    snprintf(text, sizeof(text), "file:%s", run->file);
    setenv("CHOIR_RENDEZVOUS", text, 1);
    set_number("CHOIR_RANK", r);
    set_number("CHOIR_SIZE", n);
    set_number("CHOIR_LOCAL_RANK", local);
    set_number("CHOIR_LOCAL_SIZE", on_host);
    if (hosts > 1) {
        snprintf(text, sizeof(text), "choir-run-host-%d", (int)((int64_t)r * hosts / n));
        setenv("CHOIR_HOST_ID", text, 1);
    }
}

static void bind_core(int r)
{
    cpu_set_t all, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof(all), &all) || !CPU_COUNT(&all))
        return;
    int nth = r % CPU_COUNT(&all);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &all) && !nth--) {
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof(one), &one);
            return;
        }
    }
}

static void become_rank(struct run *run, int r, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1); /* it died before prctl */
    sigprocmask(SIG_SETMASK, &run->before, NULL);
    close(run->signals);
    for (int i = 0; i <= r; i++)
        for (int k = 0; k < 2 && run->job->label; k++)
            close(run->rank[i].stream[k].fd);
    if (r) {
        int null = open("/dev/null", O_RDONLY);
        dup2(null, 0);
        close(null);
    }
    set_environment(run, r);
    if (run->job->bind)
        bind_core(r);
}

/* --- output ------------------------------------------------------------------------------------ */
static void write_all(int fd, const char *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nobody reads our output any more */
        data += n, bytes -= (size_t)n;
    }
}

/* Whole lines only, so that those of different ranks do not mix. */
static void put_line(struct stream *s, int r, uint32_t bytes)
{
    char out[LINE_MOST + 24];
    int head = snprintf(out, sizeof(out), "[%d] ", r);
    memcpy(out + head, s->line, bytes);
    uint32_t total = (uint32_t)head + bytes;
    if (!bytes || s->line[bytes - 1] != '\n')
        out[total++] = '\n';
    write_all(s->to, out, total);
    memmove(s->line, s->line + bytes, s->have - bytes);
    s->have -= bytes;
}

/* False at the end of the stream. */
static bool take_output(struct stream *s, int r)
{
    ssize_t n = read(s->fd, s->line + s->have, sizeof(s->line) - s->have);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    s->have += n > 0 ? (uint32_t)n : 0;
    for (const char *end; (end = memchr(s->line, '\n', s->have));)
        put_line(s, r, (uint32_t)(end - s->line) + 1);
    if (s->have == sizeof(s->line) || (n <= 0 && s->have))
        put_line(s, r, s->have);
    if (n > 0)
        return true;
    close(s->fd);
    s->fd = -1;
    return false;
}

/* --- the parent -------------------------------------------------------------------------------- */
static void send_all(const struct run *run, int signal_number)
{
    for (int r = 0; r < run->job->ranks; r++)
        if (run->rank[r].pid > 0)
            kill(run->rank[r].pid, signal_number);
}

static void end_all(struct run *run)
{
    if (run->kill_ns)
        return;
    run->kill_ns = base_now_ns() + KILL_NS;
    send_all(run, SIGTERM);
    send_all(run, SIGCONT); /* a stopped one would never see it */
}

static void rank_ended(struct run *run, int r, int how)
{
    run->rank[r].pid = 0;
    run->left--;
    bool failed = !WIFEXITED(how) || WEXITSTATUS(how);
    if (!failed || run->kill_ns)
        return; /* well, or ended by us */
    run->status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
    if (WIFEXITED(how))
        fprintf(stderr, "%s: rank %d of %d exited with status %d%s\n", run->job->name, r,
                run->job->ranks, WEXITSTATUS(how), run->left ? "; ending the others" : "");
    else
        fprintf(stderr, "%s: rank %d of %d was ended by signal %d (%s)%s\n", run->job->name, r,
                run->job->ranks, WTERMSIG(how), strsignal(WTERMSIG(how)),
                run->left ? "; ending the others" : "");
    end_all(run);
}

static void reap(struct run *run)
{
    int how;
    for (pid_t pid; (pid = waitpid(-1, &how, WNOHANG)) > 0;)
        for (int r = 0; r < run->job->ranks; r++)
            if (run->rank[r].pid == pid)
                rank_ended(run, r, how);
}

/* A signal typed at the terminal went to the ranks as well; one that was sent went to us alone. */
static void take_signals(struct run *run)
{
    struct signalfd_siginfo s;
    while (read(run->signals, &s, sizeof(s)) == (ssize_t)sizeof(s)) {
        int n = (int)s.ssi_signo;
        if (n == SIGCHLD)
            continue; /* reap() runs anyway */
        if (s.ssi_code <= 0)
            send_all(run, n);
        if (n == SIGINT || n == SIGTERM || n == SIGHUP || n == SIGQUIT) {
            run->status = run->status ? run->status : 128 + n;
            run->kill_ns = run->kill_ns ? run->kill_ns : base_now_ns() + KILL_NS;
        } else if (n == SIGTSTP) {
            raise(SIGSTOP);
        }
    }
}

static void wait_step(struct run *run, struct pollfd *p)
{
    int n = run->job->ranks, timeout = -1;
    nfds_t count = 0;
    p[count++] = (struct pollfd){.fd = run->signals, .events = POLLIN};
    for (int i = 0; i < 2 * n && run->job->label; i++)
        p[count++] = (struct pollfd){.fd = run->rank[i / 2].stream[i % 2].fd, .events = POLLIN};
    if (run->kill_ns) {
        uint64_t now = base_now_ns();
        timeout = now < run->kill_ns ? (int)((run->kill_ns - now) / 1000000u) + 1 : 50;
        if (now >= run->kill_ns)
            send_all(run, SIGKILL);
    }
    poll(p, count, timeout);
    take_signals(run);
    for (nfds_t i = 1; i < count; i++)
        if (p[i].revents)
            take_output(&run->rank[(i - 1) / 2].stream[(i - 1) % 2], (int)(i - 1) / 2);
    reap(run);
}

/* What is still in the pipes. A grandchild may hold its end open for ever, so what is not there now is not awaited. */
static void drain(struct run *run)
{
    for (int i = 0; i < 2 * run->job->ranks && run->job->label; i++) {
        struct stream *s = &run->rank[i / 2].stream[i % 2];
        struct pollfd p = {.fd = s->fd, .events = POLLIN};
        while (s->fd >= 0 && poll(&p, 1, 0) == 1 && take_output(s, i / 2))
            ;
        if (s->fd >= 0 && s->have)
            put_line(s, i / 2, s->have);
        if (s->fd >= 0)
            close(s->fd);
    }
}

/*
 * What the ranks of a failed job left running (a shell ended by SIGTERM does not end its command) has become our child, because
 * we are its subreaper. Killing one may hand us its children in turn, hence the loop.
 */
static void end_orphans(void)
{
    uint64_t until = base_now_ns() + KILL_NS;
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    while (base_now_ns() < until) {
        long pid;
        FILE *f = fopen(path, "re");
        while (f && fscanf(f, "%ld", &pid) == 1)
            kill((pid_t)pid, SIGKILL);
        if (f)
            fclose(f);
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (pid < 0)
            return; /* no children at all */
        poll(NULL, 0, 1);
    }
}

/* 0 in the child, 1 in the parent, -1. */
static int start_rank(struct run *run, int r)
{
    int pipes[2][2] = {{-1, -1}, {-1, -1}};
    pid_t parent = getpid();
    struct rank *me = &run->rank[r];
    for (int k = 0; k < 2 && run->job->label; k++) {
        if (pipe2(pipes[k], O_CLOEXEC))
            return -1;
        fcntl(pipes[k][0], F_SETFL, O_NONBLOCK);
        me->stream[k].fd = pipes[k][0];
        me->stream[k].to = k + 1;
    }
    fflush(NULL);
    me->pid = fork();
    if (me->pid < 0)
        return -1;
    if (!me->pid)
        become_rank(run, r, parent);
    for (int k = 0; k < 2 && run->job->label; k++) {
        if (!me->pid)
            dup2(pipes[k][1], k + 1);
        close(pipes[k][1]);
    }
    run->left += me->pid > 0;
    return me->pid > 0;
}

static bool make_directory(struct run *run)
{
    const char *tmp[] = {getenv("TMPDIR"), "/tmp", "/dev/shm"};
    for (size_t i = 0; i < base_count(tmp); i++) {
        if (!tmp[i] || strlen(tmp[i]) > sizeof(run->directory) - sizeof("/choir-run-XXXXXX"))
            continue;
        snprintf(run->directory, sizeof(run->directory), "%s/choir-run-XXXXXX", tmp[i]);
        if (mkdtemp(run->directory)) {
            snprintf(run->file, sizeof(run->file), "%s/id", run->directory);
            return true;
        }
    }
    fprintf(stderr, "%s: cannot make a directory in /tmp: %s\n", run->job->name, strerror(errno));
    return false;
}

/* With what is in it: a rank that was killed leaves the file it was about to rename (file.c). */
static void remove_directory(const struct run *run)
{
    DIR *dir = opendir(run->directory);
    for (struct dirent *e; dir && (e = readdir(dir));)
        unlinkat(dirfd(dir), e->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(run->directory);
}

static void execute(const struct local_job *job, int rank)
{
    execvp(job->argv[0], job->argv);
    int error = errno;
    if (!rank) /* the others say the same */
        fprintf(stderr, "%s: cannot run %s: %s\n", job->name, job->argv[0], strerror(error));
    _exit(error == ENOENT ? 127 : 126);
}

/* Blocks the signals that the loop takes from a descriptor. */
static bool take_over_signals(struct run *run)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    for (size_t i = 0; i < base_count(passed_on); i++)
        sigaddset(&set, passed_on[i]);
    sigprocmask(SIG_BLOCK, &set, &run->before);
    run->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return run->signals >= 0;
}

int local_run(const struct local_job *job, int *rank)
{
    struct run run = {.job = job, .signals = -1};
    struct pollfd *p = calloc((size_t)job->ranks * 2 + 1, sizeof(*p));
    *rank = -1;
    run.rank = calloc((size_t)job->ranks, sizeof(*run.rank));
    if (!p || !run.rank || !make_directory(&run) || !take_over_signals(&run)) {
        run.status = 1;
        goto out;
    }
    for (int r = 0; r < job->ranks; r++)
        run.rank[r].stream[0].fd = run.rank[r].stream[1].fd = -1;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (int r = 0; r < job->ranks; r++) {
        int started = start_rank(&run, r);
        if (!started) {
            if (job->argv)
                execute(job, r);
            *rank = r;
            free(run.rank);
            free(p);
            return 0;
        }
        if (started < 0) {
            fprintf(stderr, "%s: cannot start rank %d of %d: %s\n", job->name, r, job->ranks,
                    strerror(errno));
            run.status = 1;
            end_all(&run);
            break;
        }
    }
    while (run.left > 0)
        wait_step(&run, p);
    if (run.kill_ns)
        end_orphans();
    drain(&run);
    remove_directory(&run);
    close(run.signals);
    sigprocmask(SIG_SETMASK, &run.before, NULL);
out:
    free(run.rank);
    free(p);
    return run.status;
}

int boot_local_fork(int n)
{
    struct local_job job = {.ranks = n, .hosts = 1, .name = program_invocation_short_name};
    int rank, status = local_run(&job, &rank);
    if (rank < 0)
        exit(status);
    return rank;
}
