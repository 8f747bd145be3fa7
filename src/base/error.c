/* SPDX-License-Identifier: Apache-2.0 */
/*
 * error.c: fills error records, and keeps the calling thread's. Knows no communicator; its records are
 * filled by the same function.
 */
#include "base/base.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct choir_error *base_error_thread(void)
{
    static _Thread_local struct choir_error record = {
        .bytes = sizeof(record), .rank = -1, .peer = -1};
    return &record;
}

/* A text that was cut ends in "...", so that nobody takes a part for the whole. */
static void mark_cut(char *text, size_t bytes, int wanted)
{
    if (wanted < 0)
        text[0] = 0;
    else if ((size_t)wanted >= bytes)
        memcpy(text + bytes - 4, "...", 4);
}

static enum base_level level_of(enum choir_status status)
{
    if (status == CHOIR_ERR_UNSUPPORTED)
        return BASE_DEBUG;
    return status > CHOIR_ERR_PEER_DEAD || status == CHOIR_ERR_FORKED ? BASE_INFO : BASE_ERROR;
}

static void log_record(const struct choir_error *e, enum base_level level)
{
    char peer[24] = "", sequence[40] = "", system[80] = "";
    if (e->peer >= 0)
        snprintf(peer, sizeof(peer), " peer %d", e->peer);
    if (e->sequence)
        snprintf(sequence, sizeof(sequence), " sequence %llu", (unsigned long long)e->sequence);
    if (e->sys_errno)
        snprintf(system, sizeof(system), " (%s)", strerrordesc_np(e->sys_errno));
    base_log_write(level, e->rank, "%s:%s%s%s%s %s%s%s%s", choir_status_name(e->status),
                   e->transport[0] ? " " : "", e->transport, peer, sequence, e->text, system,
                   e->remedy[0] ? "; " : "", e->remedy);
}

enum choir_status base_error_fill(struct choir_error *error, enum choir_status status,
                                  const struct base_error_at *at, const char *remedy,
                                  const char *text, ...)
{
    /* Filled aside: an argument may point into the record itself. */
    struct choir_error e = {.bytes = sizeof(e),
                            .status = status,
                            .rank = at->rank,
                            .peer = at->peer,
                            .sequence = at->sequence,
                            .sys_errno = at->sys_errno};
    int saved = errno;
    va_list ap;
    va_start(ap, text);
    mark_cut(e.text, sizeof(e.text), vsnprintf(e.text, sizeof(e.text), text, ap));
    va_end(ap);
    mark_cut(e.remedy, sizeof(e.remedy),
             snprintf(e.remedy, sizeof(e.remedy), "%s", remedy ? remedy : ""));
    if (at->transport)
        snprintf(e.transport, sizeof(e.transport), "%s", at->transport);
    *error = e;
    if ((int)level_of(status) <= atomic_load_explicit(&base_log_level, memory_order_relaxed))
        log_record(error, level_of(status));
    errno = saved;
    return status;
}

void base_error_say(void)
{
    const struct choir_error *e = base_error_thread();
    int shown = atomic_load_explicit(&base_log_level, memory_order_relaxed);
    if (shown >= (int)BASE_ERROR && (int)level_of(e->status) > shown)
        log_record(e, BASE_ERROR);
}
