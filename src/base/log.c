/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.c: one line per fact, built in one buffer and written by one write(2), so that lines of many
 * processes do not mix. A line that repeats is held back after the first few a second, and counted.
 */
#include "base/base.h"
#include "base/knob.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define LINE_MOST 1024
#define REPEATS_MOST 5 /* equal lines in one window */
#define WINDOW_NS 1000000000u

_Atomic int base_log_level = BASE_WARN;
static _Atomic int log_fd = STDERR_FILENO;

static struct repeat {
    uint64_t hash, since_ns;
    uint32_t seen;
} repeats[64];
static pthread_mutex_t repeats_lock = PTHREAD_MUTEX_INITIALIZER;

static const char *const level_name[] = {"error", "warn", "info", "debug"};

int base_log_parse(const char *name)
{
    static const struct {
        const char *name;
        int level;
    } nccl[] = {
        {"none", BASE_ERROR}, {"version", BASE_WARN}, {"abort", BASE_INFO}, {"trace", BASE_DEBUG}};
    for (size_t i = 0; i < base_count(level_name); i++)
        if (!strcasecmp(name, level_name[i]))
            return (int)i;
    for (size_t i = 0; i < base_count(nccl); i++)
        if (!strcasecmp(name, nccl[i].name))
            return nccl[i].level;
    return -1;
}

static const char *host_name(char name[HOST_NAME_MAX + 1])
{
    if (gethostname(name, HOST_NAME_MAX))
        strcpy(name, "?");
    name[HOST_NAME_MAX] = 0;
    return name;
}

/* %h host, %p pid, %% a percent sign. False: too long. */
static bool expand_path(const char *path, char *out, size_t bytes)
{
    char host[HOST_NAME_MAX + 1];
    size_t at = 0;
    for (const char *p = path; *p; p++) {
        int n;
        if (p[0] == '%' && p[1] == 'h')
            n = snprintf(out + at, bytes - at, "%s", host_name(host)), p++;
        else if (p[0] == '%' && p[1] == 'p')
            n = snprintf(out + at, bytes - at, "%ld", (long)getpid()), p++;
        else
            n = snprintf(out + at, bytes - at, "%c", *p), p += p[0] == '%' && p[1] == '%';
        at += (size_t)n;
        if (at >= bytes)
            return false;
    }
    return true;
}

void base_log_configure(int level, const char *path)
{
    char file[PATH_MAX];
    int fd = STDERR_FILENO;
    if (path[0]) {
        errno = ENAMETOOLONG;
        if (expand_path(path, file, sizeof(file)))
            fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
    }
    int failed = fd < 0 ? errno : 0;
    int old = atomic_exchange(&log_fd, failed ? STDERR_FILENO : fd);
    if (old != STDERR_FILENO)
        close(old);
    atomic_store(&base_log_level, level);
    if (failed)
        base_log(BASE_WARN, -1, "cannot open log file %s (%s); logging to stderr", path,
                 strerrordesc_np(failed));
}

void base_log_init(void)
{
    (void)knob_load();
}

/* How often this line was held back since it was last written; UINT32_MAX: hold this one back too. */
static uint32_t count_repeats(uint64_t hash)
{
    /* After fork the lock may be held by a thread that does not exist here; limiting is not worth a wait. */
    if (pthread_mutex_trylock(&repeats_lock))
        return 0;
    struct repeat *r = &repeats[hash % base_count(repeats)];
    uint64_t now = base_now_ns();
    uint32_t held = 0;
    if (r->hash != hash || now - r->since_ns >= WINDOW_NS) {
        if (r->hash == hash && r->seen > REPEATS_MOST)
            held = r->seen - REPEATS_MOST;
        *r = (struct repeat){.hash = hash, .since_ns = now, .seen = 1};
    } else if (++r->seen > REPEATS_MOST) {
        held = UINT32_MAX;
    }
    pthread_mutex_unlock(&repeats_lock);
    return held;
}

static void write_line(const char *line, size_t bytes)
{
    int fd = atomic_load(&log_fd);
    while (write(fd, line, bytes) < 0 && errno == EINTR)
        ;
}

void base_log_write(enum base_level level, int rank, const char *format, ...)
{
    char text[LINE_MOST], line[LINE_MOST + HOST_NAME_MAX + 100], host[HOST_NAME_MAX + 1];
    char number[16] = "-", held_text[40] = "";
    int saved = errno;
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    if (n < 0)
        text[0] = 0;
    else if (n >= LINE_MOST)
        memcpy(text + LINE_MOST - 4, "...", 4);
    for (char *p = text; *p; p++) /* what peers and the environment say must not forge lines */
        if ((unsigned char)*p < ' ' || *p == 127)
            *p = *p == '\n' || *p == '\t' ? ' ' : '?';
    uint32_t held = count_repeats(base_hash(text, strlen(text), (uint64_t)(rank + 1) << 2 | level));
    if (held != UINT32_MAX) {
        if (rank >= 0)
            snprintf(number, sizeof(number), "%d", rank);
        if (held)
            snprintf(held_text, sizeof(held_text), " (%u more were held back)", held);
        n = snprintf(line, sizeof(line), "choir %s:%ld rank %s %s %s%s\n", host_name(host),
                     (long)getpid(), number, level_name[level], text, held_text);
        write_line(line, (size_t)n);
    }
    errno = saved;
}
