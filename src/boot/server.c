/* SPDX-License-Identifier: Apache-2.0 */
/* server.c: see server.h. Every path of the thread ends at end_ns at the latest. */
#include "boot/server.h"
#include "base/knob.h"
#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct server *list;   /* under list_lock; lock order: list_lock, then a server's */
static uint32_t raised_count; /* servers that need the raised limit */
static rlim_t limit_before, limit_now;

/*
 * A rank holds a descriptor here until all have come. The soft limit is put back afterwards: a program that uses
 * select(2) relies on it to keep its descriptors below FD_SETSIZE. Under list_lock.
 */
static void raise_limit(uint32_t ranks)
{
    struct rlimit l;
    rlim_t need = (rlim_t)ranks + 512;
    if (getrlimit(RLIMIT_NOFILE, &l) || l.rlim_cur >= need)
        return;
    if (!limit_before)
        limit_before = l.rlim_cur;
    l.rlim_cur = base_min(need, l.rlim_max);
    limit_now = l.rlim_cur;
    (void)!setrlimit(RLIMIT_NOFILE, &l);
}

static void lower_limit(void)
{
    struct rlimit l;
    if (--raised_count || !limit_before || getrlimit(RLIMIT_NOFILE, &l) || l.rlim_cur != limit_now)
        return;
    l.rlim_cur = limit_before;
    (void)!setrlimit(RLIMIT_NOFILE, &l);
    limit_before = 0;
}

static void server_free(struct server *s)
{
    /* The set first: in a forked child it is the parent's too, and nothing may be taken out of it. */
    if (s->epoll >= 0)
        close(s->epoll);
    s->epoll = -1;
    conn_free_all(s);
    listen_close(&s->listeners);
    if (s->wake >= 0)
        close(s->wake);
    roster_free(&s->roster);
    free(s->remove_path);
    pthread_mutex_destroy(&s->lock);
    sodium_memzero(s, sizeof(*s));
    free(s);
}

static void log_late(struct server *s)
{
    char text[200];
    roster_missing(&s->roster, text, sizeof(text));
    base_log(BASE_WARN, -1, "rendezvous waits for %s", text);
    s->late_ns = 0;
}

void server_watch_listeners(struct server *s, bool on)
{
    s->deaf = !on;
    for (uint32_t i = 0; i < s->listeners.count; i++) {
        struct epoll_event e = {.events = on ? EPOLLIN : 0, .data.ptr = &s->listeners.fd[i]};
        epoll_ctl(s->epoll, EPOLL_CTL_MOD, s->listeners.fd[i], &e);
    }
}

/* Everything that time does. */
static void timers(struct server *s, uint64_t now)
{
    conn_expire(s, now);
    if (s->deaf && now >= s->accept_after_ns)
        server_watch_listeners(s, true);
    if (s->roster.size && !s->sized) {
        s->sized = true;
        s->end_ns = UINT64_MAX; /* from now on the roster's deadline decides */
        s->late_ns = now + (uint64_t)knob_int(KNOB_LATE);
    }
    if (s->late_ns && now >= s->late_ns && !roster_ended(&s->roster))
        log_late(s);
    roster_tick(&s->roster, now);
    if (s->cancelled && !roster_ended(&s->roster))
        s->roster.verdict =
            (struct verdict){CHOIR_ERR_ABORTED, -1, "the process that made the id took it back",
                             "see why that process gave up"};
}

static void stop_listening(struct server *s)
{
    for (uint32_t i = 0; i < s->listeners.count; i++)
        epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->listeners.fd[i], NULL);
    listen_close(&s->listeners);
}

/* Answers all once the roster has ended, and sets how long the server stays for those that still have to hear it. */
static void conclude(struct server *s, uint64_t now)
{
    uint64_t back = s->parked ? s->park_ns + SERVER_BUSY_RETURN_NS : 0;
    uint64_t linger = s->roster.complete ? SERVER_LINGER_NS + back
                      : s->cancelled     ? SERVER_CONN_NS / 50
                                         : (uint64_t)knob_int(KNOB_CREATE_TIMEOUT);
    const struct verdict *v = &s->roster.verdict;
    if (v->status)
        base_log(BASE_ERROR, -1, "%s: %s; %s", choir_status_name(v->status), v->text, v->remedy);
    s->own_ns = now + SERVER_OWN_NS;
    if (s->roster.complete && !s->roster.away)
        stop_listening(s); /* nobody else has to come; the port may be wanted again */
    s->end_ns = base_min(s->end_ns, now + linger);
}

static int timeout_ms(const struct server *s, uint64_t now)
{
    uint64_t next = s->end_ns;
    bool ended = roster_ended(&s->roster);
    if (s->timed.first)
        next = base_min(next, s->timed.first->deadline_ns);
    if (s->roster.size && !ended)
        next = base_min(next, s->roster.deadline_ns);
    if (s->late_ns && !ended)
        next = base_min(next, s->late_ns);
    if (s->roster.away && !ended)
        next = base_min(next, now + 50000000u);
    if (ended && s->waiting.first)
        next = base_min(next, s->own_ns);
    if (s->deaf)
        next = base_min(next, s->accept_after_ns);
    return next <= now ? 0 : (int)base_min((next - now) / 1000000u + 1, (uint64_t)60000);
}

static void events(struct server *s, const struct epoll_event *event, int count, uint64_t now)
{
    uintptr_t first = (uintptr_t)s->listeners.fd,
              end = (uintptr_t)(s->listeners.fd + ADDRESSES_MOST);
    for (int i = 0; i < count; i++) {
        uintptr_t p = (uintptr_t)event[i].data.ptr;
        if (p == (uintptr_t)s)
            s->cancelled = true;
        else if (p >= first && p < end)
            conn_accept(s, *(int *)p, now);
        else
            conn_event(s, (struct conn *)p, now);
    }
}

/* Whether the thread goes on. */
static bool step(struct server *s, const struct epoll_event *event, int count)
{
    pthread_mutex_lock(&s->lock);
    uint64_t now = base_now_ns();
    bool before = roster_ended(&s->roster);
    events(s, event, count, now);
    timers(s, now);
    if (!before && roster_ended(&s->roster))
        conclude(s, now);
    /* The file goes first (after_step): a rank that was told may end its process, and this thread with it. */
    if (roster_ended(&s->roster) && !s->remove_path)
        conn_tell_all(s, now);
    conn_free_dead(s);
    bool all_told = s->roster.size && s->roster.told == s->roster.size;
    bool more = !all_told && now < s->end_ns;
    pthread_mutex_unlock(&s->lock);
    return more;
}

/* Under list_lock. */
static void leave_list(struct server *s)
{
    for (struct server **p = &list; *p; p = &(*p)->next) {
        if (*p == s) {
            *p = s->next;
            return;
        }
    }
}

/* Under list_lock, so that a newer server's file of the same name is never the one removed. */
static void remove_file(struct server *s)
{
    if (s->remove_path)
        unlink(s->remove_path);
    free(s->remove_path);
    s->remove_path = NULL;
}

/* What a step found to do that needs list_lock, which is taken before a server's; true if the file was removed. This thread
 * alone writes what is read here. */
static bool after_step(struct server *s, bool *raised)
{
    bool raise = s->sized && !*raised, remove = roster_ended(&s->roster) && s->remove_path;
    if (!raise && !remove)
        return false;
    pthread_mutex_lock(&list_lock);
    if (raise) {
        raise_limit(s->roster.size);
        raised_count++;
        *raised = true;
    }
    if (remove)
        remove_file(s);
    pthread_mutex_unlock(&list_lock);
    return remove;
}

static void *run(void *arg)
{
    struct server *s = arg;
    struct epoll_event event[256];
    int n = 0;
    bool raised = false;
    pthread_setname_np(pthread_self(), "choir-boot");
    while (step(s, event, n)) {
        n = 0;
        if (after_step(s, &raised))
            continue; /* now the ranks may be told */
        n = epoll_wait(s->epoll, event, base_count(event), timeout_ms(s, base_now_ns()));
        n = n < 0 ? 0 : n;
    }
    pthread_mutex_lock(&list_lock);
    leave_list(s);
    if (raised)
        lower_limit();
    remove_file(s);
    server_free(s);
    pthread_mutex_unlock(&list_lock);
    return NULL;
}

static enum choir_status start_thread(struct server *s)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, before;
    sigfillset(&all); /* signals belong to the program's threads */
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&list_lock);
    int r = pthread_create(&thread, &attr, run, s);
    if (!r) {
        s->next = list;
        list = s;
    }
    pthread_mutex_unlock(&list_lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (r)
        return base_fail(CHOIR_ERR_SYSTEM, "check limits on threads (ulimit -u)",
                         "cannot start the rendezvous thread: %s", strerror(r));
    return CHOIR_OK;
}

static enum choir_status watch_all(struct server *s)
{
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.ptr = s};
    bool good = s->epoll >= 0 && s->wake >= 0 && !epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->wake, &e);
    for (uint32_t i = 0; good && i < s->listeners.count; i++) {
        e = (struct epoll_event){.events = EPOLLIN, .data.ptr = &s->listeners.fd[i]};
        good = !epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listeners.fd[i], &e);
    }
    int error = errno;
    return good ? CHOIR_OK
                : base_fail(CHOIR_ERR_SYSTEM, "check the limit on descriptors (ulimit -n)",
                            "cannot wait for connections: %s", strerror(error));
}

static void make_id(const struct server *s, const struct server_want *want, struct choir_id *id)
{
    struct id_view view = {.insecure = want->insecure,
                           .maybe_late = want->maybe_late,
                           .port = want->id_port ? want->id_port : s->listeners.port,
                           .ports = want->id_ports ? want->id_ports : 1};
    memcpy(view.secret, want->secret, 32);
    id_encode(&view, want->advertise ? want->advertise : s->listeners.address,
              want->advertise ? want->advertise_count : s->listeners.count, id);
    sodium_memzero(&view, sizeof(view));
}

enum choir_status server_start(const struct server_want *want, struct choir_id *id)
{
    struct server *s = calloc(1, sizeof(*s));
    if (!s)
        return base_fail(CHOIR_ERR_NO_MEMORY, "free memory", "out of memory");
    s->epoll = s->wake = -1;
    pthread_mutex_init(&s->lock, NULL);
    memcpy(s->secret, want->secret, 32);
    boot_secret_name(s->secret, s->name);
    s->insecure = want->insecure;
    uint64_t life = (uint64_t)knob_int(KNOB_CREATE_TIMEOUT);
    s->end_ns = base_now_ns() + base_max(life, SERVER_LIFE_NS);
    struct choir_id made;
    enum choir_status st =
        listen_open(want->listen, want->listen_count, &want->ports, &s->listeners);
    if (st)
        goto err_free;
    st = watch_all(s);
    if (st)
        goto err_free;
    make_id(s, want, &made); /* before the thread: it may free s at any time */
    st = start_thread(s);
    if (st)
        goto err_free;
    *id = made;
    return CHOIR_OK;
err_free:
    server_free(s);
    return st;
}

static struct server *find(const unsigned char name[16])
{
    struct server *s = list;
    while (s && memcmp(s->name, name, 16))
        s = s->next;
    return s;
}

bool server_cancel(const unsigned char name[16])
{
    pthread_mutex_lock(&list_lock);
    struct server *s = find(name);
    uint64_t one = 1;
    if (s)
        (void)!write(s->wake, &one, sizeof(one));
    pthread_mutex_unlock(&list_lock);
    return s;
}

enum choir_status server_publish(const unsigned char name[16], const char *from, const char *path)
{
    char *copy = strdup(path);
    pthread_mutex_lock(&list_lock);
    struct server *mine = find(name);
    int error = !copy ? ENOMEM : !mine ? ESRCH : rename(from, path) ? errno : 0;
    for (struct server *s = list; s && !error; s = s->next) {
        if (s != mine && s->remove_path && !strcmp(s->remove_path, path)) {
            free(s->remove_path);
            s->remove_path = NULL;
        }
    }
    if (!error) {
        mine->remove_path = copy;
        copy = NULL;
    }
    pthread_mutex_unlock(&list_lock);
    free(copy);
    return error ? base_fail(CHOIR_ERR_SYSTEM, "check that the directory can be written",
                             "cannot make the rendezvous file %.150s: %s", path, strerror(error))
                 : CHOIR_OK;
}

void server_fork_prepare(void)
{
    pthread_mutex_lock(&list_lock);
    for (struct server *s = list; s; s = s->next)
        pthread_mutex_lock(&s->lock);
}

void server_fork_parent(void)
{
    for (struct server *s = list; s; s = s->next)
        pthread_mutex_unlock(&s->lock);
    pthread_mutex_unlock(&list_lock);
}

/* The thread does not exist here. */
void server_fork_child(void)
{
    for (struct server *s = list, *next; s; s = next) {
        next = s->next;
        pthread_mutex_unlock(&s->lock);
        server_free(s);
    }
    list = NULL;
    if (raised_count) {
        raised_count = 1;
        lower_limit();
    }
    pthread_mutex_unlock(&list_lock);
}
