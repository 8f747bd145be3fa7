/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tuning_file.c: the files that keep tunings, one for each key, in the user's cache. They are written beside their place and
 * moved there, so that a reader sees all of one or another; and believed only if they are what was written, by this user.
 */
#include "base/knob.h"
#include "plan/tuning.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ENTRIES_MOST 1024 /* of a folder that are looked at */
#define REMEDY "CHOIR_TUNE_DIR says where, CHOIR_TUNE=off does without"

bool plan_tuning_folder(char *path, size_t bytes)
{
    const char *knob = knob_text(KNOB_TUNE_DIR), *cache = getenv("XDG_CACHE_HOME"),
               *home = getenv("HOME");
    int n = 0;
    if (*knob)
        n = snprintf(path, bytes, "%s", knob);
    else if (cache && *cache == '/') /* others are to be ignored, says the specification */
        n = snprintf(path, bytes, "%s/choir", cache);
    else if (home && *home == '/')
        n = snprintf(path, bytes, "%s/.cache/choir", home);
    return n > 0 && (size_t)n < bytes;
}

static bool name_of(uint64_t key, char *path, size_t bytes)
{
    char folder[3072];
    int n = plan_tuning_folder(folder, sizeof(folder))
                ? snprintf(path, bytes, "%s/gpu-%016" PRIx64 ".tuning", folder, key)
                : 0;
    if (n > 0 && (size_t)n < bytes)
        return true;
    if (bytes)
        *path = 0;
    return false;
}

/* No more than the call is damaged: whoever has no folder measures again. */
static enum choir_status fail(const char *what, const char *path, int error)
{
    return base_fail(CHOIR_ERR_ARGUMENT, REMEDY, "cannot %s %.200s: %s", what, path,
                     strerrordesc_np(error));
}

/* --- reading --------------------------------------------------------------------------------------- */

/* Nobody but this user, or the system's, has written it. */
static enum choir_status check_file(int fd, const char *path)
{
    struct stat st;
    if (fstat(fd, &st))
        return fail("look at", path, errno);
    if (!S_ISREG(st.st_mode) || st.st_size >= (off_t)TUNING_TEXT)
        return base_fail(CHOIR_ERR_ARGUMENT, "remove it", "%.200s is no tuning", path);
    if ((st.st_uid != geteuid() && st.st_uid != 0) || st.st_mode & (S_IWGRP | S_IWOTH))
        return base_fail(CHOIR_ERR_ARGUMENT, "make it yours, or remove it",
                         "%.200s is another user's, or others may write it", path);
    return CHOIR_OK;
}

static enum choir_status read_text(int fd, const char *path, char text[TUNING_TEXT])
{
    size_t got = 0;
    ssize_t n = 1;
    while (got < TUNING_TEXT - 1 && (n = read(fd, text + got, TUNING_TEXT - 1 - got)) > 0)
        got += (size_t)n;
    text[got] = 0;
    return n < 0 ? fail("read", path, errno) : CHOIR_OK;
}

enum choir_status plan_tuning_read(const char *path, struct tuning *t)
{
    char text[TUNING_TEXT];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return fail("open", path, errno);
    enum choir_status st = check_file(fd, path);
    if (st == CHOIR_OK)
        st = read_text(fd, path, text);
    close(fd);
    return st == CHOIR_OK ? plan_tuning_parse(text, t) : st;
}

bool plan_tuning_find(uint64_t key, struct tuning *t, char *path, size_t bytes)
{
    struct choir_error saved = *base_error_thread(); /* to have none is no error */
    bool found = false;
    if (name_of(key, path, bytes) && !access(path, F_OK)) {
        found = plan_tuning_read(path, t) == CHOIR_OK;
        if (!found)
            base_log(BASE_WARN, -1, "ignoring %s: %s", path, base_error_thread()->text);
        else if (t->key != key)
            found = false, base_log(BASE_WARN, -1, "ignoring %s: it is of another key", path);
    }
    *base_error_thread() = saved;
    return found;
}

void plan_tuning_each(void (*fn)(const struct tuning *t, const char *path, void *arg), void *arg)
{
    struct choir_error saved = *base_error_thread();
    char folder[3072], path[4096];
    DIR *d = plan_tuning_folder(folder, sizeof(folder)) ? opendir(folder) : NULL;
    struct dirent *e;
    for (int i = 0; d && i < ENTRIES_MOST && (e = readdir(d)); i++) {
        struct tuning t;
        size_t length = strlen(e->d_name);
        if (strncmp(e->d_name, "gpu-", 4) || length < 7 ||
            strcmp(e->d_name + length - 7, ".tuning"))
            continue;
        int n = snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
        if (n > 0 && (size_t)n < sizeof(path) && plan_tuning_read(path, &t) == CHOIR_OK)
            fn(&t, path, arg);
    }
    if (d)
        closedir(d);
    *base_error_thread() = saved;
}

/* --- writing --------------------------------------------------------------------------------------- */

/* The folder and those above it that are not there, for this user only. */
static bool make_folder(char *path)
{
    for (char *at = path + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        int r = mkdir(path, 0700);
        bool failed = r && errno != EEXIST && errno != EROFS && errno != EACCES;
        *at = '/';
        if (failed)
            return false;
    }
    return !mkdir(path, 0700) || errno == EEXIST;
}

static bool write_all(int fd, const char *text, size_t bytes)
{
    while (bytes) {
        ssize_t n = write(fd, text, bytes);
        if (n <= 0 && errno != EINTR)
            return false;
        text += n > 0 ? n : 0;
        bytes -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

enum choir_status plan_tuning_keep(const struct tuning *t, char *path, size_t bytes)
{
    static _Atomic uint32_t written; /* threads have files of their own */
    char folder[3072], temporary[4200], text[TUNING_TEXT];
    if (!name_of(t->key, path, bytes))
        return base_fail(CHOIR_ERR_ARGUMENT, REMEDY,
                         "no folder to keep timings in: HOME is not set");
    (void)plan_tuning_folder(folder, sizeof(folder));
    if (!make_folder(folder))
        return fail("make", folder, errno);
    int n = snprintf(temporary, sizeof(temporary), "%s.%d.%u.tmp", path, (int)getpid(),
                     atomic_fetch_add(&written, 1));
    if (n < 0 || (size_t)n >= sizeof(temporary))
        return fail("write", path, ENAMETOOLONG);
    plan_tuning_dump(t, text);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fail("write", temporary, errno);
    int error = write_all(fd, text, strlen(text)) ? 0 : errno;
    if (close(fd) && !error)
        error = errno;
    if (!error && rename(temporary, path))
        error = errno;
    if (error)
        unlink(temporary);
    return error ? fail("write", path, error) : CHOIR_OK;
}
