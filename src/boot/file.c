/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file.c: CHOIR_RENDEZVOUS=file:path. Rank 0 makes the id and writes it beside the path, then renames, so a reader sees
 * all of it or nothing. The server removes the file when all have come; after a crash it stays, so a
 * reader believes a file only if the server it names answers: a stale one is waited out, not joined.
 *
 * One line: choir-rendezvous VERSION SEQUENCE PID HOST ID
 */
#include "boot/join.h"
#include "boot/launcher.h"
#include "boot/server.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_VERSION 1
#define FILE_BYTES (ID_TEXT_BYTES + 160)
#define PROBE_NS 3000000000u

struct note { /* what a file says */
    uint32_t sequence, pid;
    char host[65];
    struct choir_id id;
    struct stat stat;
};

static enum choir_status write_file(const char *path, const struct choir_id *id)
{
    char temporary[4096], line[FILE_BYTES], text[ID_TEXT_BYTES], host[65] = "?";
    struct id_view view;
    unsigned char name[16];
    int length = snprintf(temporary, sizeof(temporary), "%s.%d.tmp", path, (int)getpid());
    if (length < 0 || (size_t)length >= sizeof(temporary))
        return base_fail(CHOIR_ERR_ARGUMENT, "use a shorter path", "CHOIR_RENDEZVOUS is too long");
    enum choir_status s = id_view(id, &view);
    if (s)
        return s;
    boot_secret_name(view.secret, name);
    gethostname(host, sizeof(host) - 1);
    id_to_text(id, text);
    int bytes = snprintf(line, sizeof(line), "choir-rendezvous %d %u %d %s %s\n", FILE_VERSION,
                         launch_sequence(), (int)getpid(), host, text);
    unlink(temporary);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, (size_t)bytes) != bytes || fsync(fd)) {
        s = base_error_fill(base_error_thread(), CHOIR_ERR_SYSTEM,
                            &(struct base_error_at){-1, -1, 0, errno, NULL},
                            "check that the directory exists and can be written",
                            "cannot write the rendezvous file %.150s", temporary);
        goto out;
    }
    s = server_publish(name, temporary, path);
out:
    if (fd >= 0)
        close(fd);
    if (s && fd >= 0)
        unlink(temporary);
    return s;
}

/* CHOIR_IN_PROGRESS: there is none (complete) yet. */
static enum choir_status read_file(const char *path, struct note *n, const char **why)
{
    char line[FILE_BYTES], text[ID_TEXT_BYTES];
    int version = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        *why = strerrordesc_np(errno);
        return errno == ENOENT || errno == ESTALE || errno == ENOTDIR ? CHOIR_IN_PROGRESS
                                                                      : CHOIR_ERR_SYSTEM;
    }
    ssize_t got = -1;
    if (!fstat(fd, &n->stat) && S_ISREG(n->stat.st_mode))
        got = read(fd, line, sizeof(line) - 1);
    close(fd);
    *why = "it is not a rendezvous file";
    if (got < 0)
        return CHOIR_ERR_PROTOCOL;
    line[got] = 0;
    if (sscanf(line, "choir-rendezvous %d %u %u %64s %256[0-9a-f]", &version, &n->sequence, &n->pid,
               n->host, text) != 5 ||
        version != FILE_VERSION || !id_from_text(text, &n->id))
        return CHOIR_ERR_PROTOCOL;
    *why = "others than its owner may read or write it, but it holds a secret";
    if ((n->stat.st_mode & 077) || (n->stat.st_uid != geteuid() && n->stat.st_uid != 0))
        return CHOIR_ERR_AUTH;
    return CHOIR_OK;
}

static enum choir_status wait_for_file(const char *path, uint64_t deadline_ns, struct choir_id *id)
{
    struct note n, rejected = {0};
    const char *why = "";
    uint64_t pause = 2000000u, retry_ns = 0;
    bool stale = false;
    for (uint64_t now; (now = base_now_ns()) < deadline_ns;) {
        enum choir_status s = read_file(path, &n, &why);
        if (s == CHOIR_ERR_AUTH)
            return base_fail(CHOIR_ERR_AUTH, "remove the file; `ls -l` shows whose it is",
                             "the rendezvous file %.120s is not to be trusted: %s", path, why);
        bool same = n.stat.st_ino == rejected.stat.st_ino &&
                    n.stat.st_mtim.tv_sec == rejected.stat.st_mtim.tv_sec &&
                    n.stat.st_mtim.tv_nsec == rejected.stat.st_mtim.tv_nsec;
        if (s == CHOIR_OK && n.sequence == launch_sequence() && (!same || now >= retry_ns)) {
            if (join_probe(&n.id, base_min(deadline_ns, now + PROBE_NS))) {
                *id = n.id;
                return CHOIR_OK;
            }
            rejected = n;
            stale = true;
            retry_ns = base_now_ns() + 2000000000u;
        }
        launch_pause(pause);
        pause = base_min(pause * 5 / 4, (uint64_t)100000000u);
    }
    if (stale)
        return base_fail(CHOIR_ERR_TIMEOUT, "start rank 0; remove the file if no job uses it",
                         "%.120s is what an earlier job left (pid %u on %s does not answer), and "
                         "rank 0 of this one has not replaced it",
                         path, rejected.pid, rejected.host);
    return base_fail(CHOIR_ERR_TIMEOUT,
                     "start rank 0 with the same CHOIR_RENDEZVOUS, on a file system that all ranks "
                     "see",
                     "rank 0 did not write %.150s in time: %s", path, why);
}

enum choir_status launch_file(const char *path, uint64_t deadline_ns, struct boot_launch *launch)
{
    if (!*path)
        return base_fail(CHOIR_ERR_ARGUMENT, "write file:/path/that/all/ranks/see",
                         "CHOIR_RENDEZVOUS names no file");
    if (launch->rank)
        return wait_for_file(path, deadline_ns, &launch->id);
    struct choir_id id;
    enum choir_status s = boot_id_create(&id);
    if (s)
        return s;
    s = write_file(path, &id);
    if (s)
        boot_id_cancel(&id);
    else
        launch->id = id;
    return s;
}
