/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pmi.c: an id through PMI-1's wire protocol, lines of text on the descriptor PMI_FD, which MPICH's hydra and Slurm's pmi2 plugin
 * speak.
 *
 * An MPI library in the same process speaks on the same descriptor, so these rules keep both whole:
 *   before MPI_Init, or without MPI: we say init, put, barrier, get. A second init, by MPI_Init, is answered like the first.
 *     finalize is MPI_Finalize's to say, because the launcher then closes the connection; if MPI was never initialised we say it
 *     at exit: hydra takes a process that ends without it for a crash, and ends the job.
 *   between MPI_Init and MPI_Finalize: the descriptor is idle between MPI calls; we leave out init. The application must not
 *     be inside another MPI call of another thread. Not under Slurm, where MPI may have switched to PMI-2.
 *   after MPI_Finalize: the other end is closed; choir_comm_create_mpi before it is the way.
 * All ranks call choir_comm_create_auto and MPI_Init in the same order, or the barriers of both would meet.
 *
 * The barrier does not say who is missing. Each rank therefore binds an abstract unix socket named after the job and its rank;
 * if the barrier does not end, the absent ranks of this host are those whose name nobody holds.
 */
#include "boot/launcher.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE_MOST 2048
#define FINALIZE_NS 1000000000u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool broken; /* an answer is outstanding that nobody waits for any more; under lock */

struct pmi {
    int fd;
    uint64_t deadline_ns;
    char line[LINE_MOST], job[128];
    bool one_host;
};

static enum choir_status gone(const char *what)
{
    broken = true;
    return base_fail(CHOIR_ERR_SYSTEM, "set CHOIR_RENDEZVOUS, or use choir_comm_create_mpi",
                     "the launcher's PMI connection (PMI_FD) %s", what);
}

/* Reads one line into p->line. Byte by byte: what follows the line may be MPI's. */
static enum choir_status read_line(struct pmi *p)
{
    for (size_t n = 0; n < sizeof(p->line) - 1;) {
        uint64_t now = base_now_ns();
        struct pollfd poll_fd = {.fd = p->fd, .events = POLLIN};
        if (now >= p->deadline_ns)
            return CHOIR_ERR_TIMEOUT;
        int timeout = (int)base_min((p->deadline_ns - now) / 1000000u + 1, (uint64_t)60000);
        if (poll(&poll_fd, 1, timeout) != 1)
            continue;
        ssize_t got = recv(p->fd, &p->line[n], 1, 0);
        if (got < 0 && errno == ENOTSOCK)
            got = read(p->fd, &p->line[n], 1);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got <= 0)
            return gone("was closed by the launcher");
        if (p->line[n] == '\n') {
            p->line[n] = 0;
            return CHOIR_OK;
        }
        n++;
    }
    return gone("carries something that is not PMI-1");
}

static enum choir_status say(struct pmi *p, const char *text)
{
    size_t bytes = strlen(text);
    ssize_t n = send(p->fd, text, bytes, MSG_NOSIGNAL);
    if (n < 0 && errno == ENOTSOCK)
        n = write(p->fd, text, bytes);
    return n == (ssize_t)bytes ? CHOIR_OK : gone("is closed");
}

/* The value of `key=` in the answer, up to a blank. False: there is none. */
static bool value_of(const char *line, const char *key, char *value, size_t bytes)
{
    size_t length = strlen(key);
    for (const char *p = line; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
        if (strncmp(p, key, length) || p[length] != '=')
            continue;
        snprintf(value, bytes, "%.*s", (int)strcspn(p + length + 1, " "), p + length + 1);
        return true;
    }
    return false;
}

/* Says `text` and reads the answer, which must be `answer`. */
static enum choir_status ask(struct pmi *p, const char *text, const char *answer)
{
    char got[32];
    enum choir_status s = say(p, text);
    s = s ? s : read_line(p);
    if (s == CHOIR_ERR_TIMEOUT)
        return gone("does not answer");
    if (!s && (!value_of(p->line, "cmd", got, sizeof(got)) || strcmp(got, answer)))
        return gone("carries something that is not PMI-1");
    return s;
}

static enum choir_status begin(struct pmi *p, enum mpi_state mpi)
{
    char text[256], value[128];
    enum choir_status s = CHOIR_OK;
    if (mpi != MPI_RUNNING)
        s = ask(p, "cmd=init pmi_version=1 pmi_subversion=1\n", "response_to_init");
    if (!s && mpi != MPI_RUNNING &&
        (!value_of(p->line, "rc", value, sizeof(value)) || strcmp(value, "0")))
        return gone("does not accept PMI-1");
    s = s ? s : ask(p, "cmd=get_my_kvsname\n", "my_kvsname");
    if (s)
        return s;
    if (!value_of(p->line, "kvsname", p->job, sizeof(p->job)))
        return gone("does not name the job");
    snprintf(text, sizeof(text), "cmd=get kvsname=%s key=PMI_process_mapping\n", p->job);
    s = ask(p, text, "get_result");
    /* "(vector,(first host, hosts, ranks each), ...)" */
    p->one_host = !s && value_of(p->line, "value", value, sizeof(value)) &&
                  !strncmp(value, "(vector,(0,1,", 13) && !strchr(value + 13, '(');
    return s;
}

static socklen_t presence_name(const struct pmi *p, uint32_t rank, struct sockaddr_un *name)
{
    *name = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(name->sun_path + 1, sizeof(name->sun_path) - 1, "choir-%.60s-%u-%u", p->job,
                     launch_sequence(), rank);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

static int presence(const struct pmi *p, uint32_t rank)
{
    struct sockaddr_un name;
    socklen_t length = presence_name(p, rank, &name);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        (void)!bind(fd, (struct sockaddr *)&name, length);
    return fd;
}

/* "2, 5-7": ranks whose name nobody on this host holds; returns the first, or size. */
static uint32_t absent(const struct pmi *p, uint32_t size, char *text, size_t bytes)
{
    uint32_t first = size;
    size_t at = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    for (uint32_t r = 0; r < size && fd >= 0 && at + 20 < bytes; r++) {
        struct sockaddr_un name;
        socklen_t length = presence_name(p, r, &name);
        if (!connect(fd, (struct sockaddr *)&name, length) || errno != ECONNREFUSED)
            continue;
        at += (size_t)snprintf(text + at, bytes - at, "%s%u", first < size ? ", " : "", r);
        first = base_min(first, r);
    }
    if (fd >= 0)
        close(fd);
    return first;
}

static enum choir_status barrier_failed(const struct pmi *p, uint64_t begun_ns,
                                        const struct boot_launch *launch)
{
    char list[120];
    double seconds = (double)(base_now_ns() - begun_ns) * 1e-9;
    uint32_t first = p->one_host ? absent(p, launch->size, list, sizeof(list)) : launch->size;
    broken = true;
    if (first == launch->size)
        return base_fail(CHOIR_ERR_PEER_MISSING, "see which ranks have not called, and why",
                         "not all of %u ranks called choir_comm_create_auto within %.3g s (the "
                         "launcher's PMI does not say which)",
                         launch->size, seconds);
    const struct base_error_at at = {(int)launch->rank, (int)first, 0, 0, NULL};
    return base_error_fill(base_error_thread(), CHOIR_ERR_PEER_MISSING, &at,
                           "see whether they were started and what they print; "
                           "CHOIR_CREATE_TIMEOUT sets the time",
                           "rank(s) %s of %u did not arrive within %.3g s", list, launch->size,
                           seconds);
}

static enum choir_status barrier(struct pmi *p, const struct boot_launch *launch)
{
    uint64_t begun = base_now_ns();
    int here = presence(p, launch->rank);
    enum choir_status s = say(p, "cmd=barrier_in\n");
    s = s ? s : read_line(p);
    if (s == CHOIR_ERR_TIMEOUT)
        s = barrier_failed(p, begun, launch);
    else if (!s && strncmp(p->line, "cmd=barrier_out", 15))
        s = gone("carries something that is not PMI-1");
    if (here >= 0)
        close(here);
    return s;
}

static enum choir_status put_id(struct pmi *p, const struct choir_id *id)
{
    char line[LINE_MOST], text[ID_TEXT_BYTES], rc[16];
    id_to_text(id, text);
    snprintf(line, sizeof(line), "cmd=put kvsname=%s key=choir-id-%u value=%s\n", p->job,
             launch_sequence(), text);
    enum choir_status s = ask(p, line, "put_result");
    if (!s && value_of(p->line, "rc", rc, sizeof(rc)) && strcmp(rc, "0"))
        s = gone("does not store the id");
    return s;
}

static enum choir_status get_id(struct pmi *p, struct choir_id *id)
{
    char line[256], text[ID_TEXT_BYTES];
    snprintf(line, sizeof(line), "cmd=get kvsname=%s key=choir-id-%u\n", p->job, launch_sequence());
    enum choir_status s = ask(p, line, "get_result");
    if (!s && (!value_of(p->line, "value", text, sizeof(text)) || !id_from_text(text, id)))
        return base_fail(CHOIR_ERR_PROTOCOL, "make an equal number of communicators on all ranks",
                         "rank 0 put no id into the launcher's PMI: %.100s", p->line);
    return s;
}

static int finalize_fd;
static pid_t finalize_pid;

static void finalize_at_exit(void)
{
    struct pmi p = {.fd = finalize_fd, .deadline_ns = base_now_ns() + FINALIZE_NS};
    enum mpi_state mpi = launch_mpi_state();
    if (getpid() != finalize_pid || broken || mpi == MPI_RUNNING || mpi == MPI_ENDED)
        return;
    if (!say(&p, "cmd=finalize\n"))
        (void)!read_line(&p);
}

/* Once we have said init. */
static enum choir_status owe_finalize(int fd)
{
    if (finalize_pid == getpid())
        return CHOIR_OK;
    if (!finalize_pid && atexit(finalize_at_exit))
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "out of memory");
    finalize_fd = fd;
    finalize_pid = getpid();
    return CHOIR_OK;
}

static enum choir_status exchange(struct pmi *p, enum mpi_state mpi, struct boot_launch *launch)
{
    enum choir_status s = begin(p, mpi);
    s = s || mpi == MPI_RUNNING ? s : owe_finalize(p->fd);
    if (s)
        return s;
    if (!launch->rank) {
        s = boot_id_create(&launch->id);
        s = s ? s : put_id(p, &launch->id);
        if (s)
            goto err_cancel;
    }
    s = barrier(p, launch);
    if (launch->rank)
        return s ? s : get_id(p, &launch->id);
    if (!s)
        return CHOIR_OK;
err_cancel:
    boot_id_cancel(&launch->id);
    return s;
}

enum choir_status launch_pmi(uint64_t deadline_ns, struct boot_launch *launch)
{
    uint32_t fd;
    enum mpi_state mpi = launch_mpi_state();
    if (!getenv("PMI_FD") || !getenv("PMI_RANK") || !getenv("PMI_SIZE"))
        return CHOIR_ERR_UNSUPPORTED;
    enum choir_status s = launch_number("PMI_FD", &fd);
    s = s ? s : launch_rank_and_size("PMI_RANK", "PMI_SIZE", launch);
    if (s)
        return s;
    if (mpi == MPI_ENDED || (mpi == MPI_RUNNING && getenv("SLURM_STEP_ID")))
        return base_fail(CHOIR_ERR_STATE,
                         "use choir_comm_create_mpi (choir_mpi.h) while MPI runs, or create the "
                         "communicator before MPI_Init",
                         "MPI %s the launcher's PMI connection",
                         mpi == MPI_ENDED ? "was finalized and has closed" : "is using");
    snprintf(launch->name, sizeof(launch->name), "pmi1");
    struct pmi p = {.fd = (int)fd, .deadline_ns = deadline_ns};
    pthread_mutex_lock(&lock);
    s = broken || fcntl(p.fd, F_GETFD) < 0 ? gone("is not usable any more")
                                           : exchange(&p, mpi, launch);
    pthread_mutex_unlock(&lock);
    return s;
}
