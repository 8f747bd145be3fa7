/* SPDX-License-Identifier: Apache-2.0 */
/*
 * service.c: the service thread, one per process: asleep in poll when idle. It moves transports on while nobody else does,
 * runs timers, and advances operations of host streams. It is never joined at process exit: destroying the last
 * communicator ends it, leaving it to the end of the process is harmless.
 *
 * Transports' descriptors sit in an epoll set of their own, nested in the main one. Callers that drive transports
 * themselves count in `drivers`; the first after a pause wakes the thread, which takes the nested set out and looks every
 * REARM_NS whether to put it back. It tells the transports of both (arm): they may stop watching their descriptors in between.
 */
#include "host/process.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define REARM_NS 1000000u
#define SPIN_NS 50000u /* with work: how long without any progress before it sleeps */

struct watched {
    struct watched *next;
    int fd;
    struct host_transport *transport; /* whose progress the call counts as */
    void (*fn)(void *);
    void *arg;
};

static struct {
    pthread_t thread;
    bool running;
    _Atomic bool stop;
    int main_epoll, wire_epoll, wake_fd;
    _Atomic bool armed; /* wire_epoll is in main_epoll; written by the thread */
    _Atomic uint32_t drivers, drove;
    pthread_mutex_t lock; /* timers, watched, new work */
    struct watched *watched, *dropped;
    struct service_timer *timers, *running_timer;
    pthread_cond_t timer_done;
    struct service_work *fresh, *work;
    _Atomic uint32_t has_fresh;
} s = {.lock = PTHREAD_MUTEX_INITIALIZER, .timer_done = PTHREAD_COND_INITIALIZER};

void service_kick(void)
{
    uint64_t one = 1;
    if (s.running)
        (void)!write(s.wake_fd, &one, sizeof(one));
}

void service_driver_enter(void)
{
    atomic_fetch_add(&s.drivers, 1); /* before armed is read: pairs with rearm() */
    if (!atomic_load_explicit(&s.drove, memory_order_relaxed))
        atomic_store_explicit(&s.drove, 1, memory_order_relaxed);
    if (base_unlikely(atomic_load(&s.armed)))
        service_kick();
}

void service_driver_leave(void)
{
    atomic_fetch_sub_explicit(&s.drivers, 1, memory_order_relaxed);
}

static void arm(bool on)
{
    if (s.armed == on)
        return;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &s.wire_epoll};
    if (on)
        host_arm(true);
    if (!epoll_ctl(s.main_epoll, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, s.wire_epoll, &ev)) {
        s.armed = on;
        if (!on)
            host_arm(false);
    }
}

enum choir_status service_watch(struct host_transport *transport, int fd, int writable,
                                void (*fn)(void *), void *arg)
{
    struct watched *w = NULL;
    if (!s.running)
        return CHOIR_ERR_STATE;
    pthread_mutex_lock(&s.lock);
    for (struct watched **at = &s.watched; *at; at = &(*at)->next)
        if ((*at)->fd == fd) {
            w = *at;
            if (!fn) { /* freed by the thread when no event of it can be under way */
                *at = w->next;
                w->fn = NULL;
                w->next = s.dropped;
                s.dropped = w;
                epoll_ctl(s.wire_epoll, EPOLL_CTL_DEL, fd, NULL);
            }
            break;
        }
    enum choir_status st = CHOIR_OK;
    if (fn) {
        bool fresh = !w;
        if (fresh && !(w = calloc(1, sizeof(*w))))
            st = CHOIR_ERR_NO_MEMORY;
        if (w) {
            w->fd = fd, w->transport = transport, w->fn = fn, w->arg = arg;
            struct epoll_event ev = {.events = writable ? EPOLLIN | EPOLLOUT : EPOLLIN,
                                     .data.ptr = w};
            if (epoll_ctl(s.wire_epoll, fresh ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &ev)) {
                st = CHOIR_ERR_SYSTEM;
                if (fresh)
                    free(w);
            } else if (fresh) {
                w->next = s.watched;
                s.watched = w;
            }
        }
    }
    pthread_mutex_unlock(&s.lock);
    return st;
}

void service_timer_add(struct service_timer *timer)
{
    timer->due_ns = base_now_ns() + timer->period_ns;
    pthread_mutex_lock(&s.lock);
    timer->next = s.timers;
    s.timers = timer;
    pthread_mutex_unlock(&s.lock);
    service_kick();
}

void service_timer_remove(struct service_timer *timer)
{
    pthread_mutex_lock(&s.lock);
    for (struct service_timer **at = &s.timers; *at; at = &(*at)->next)
        if (*at == timer) {
            *at = timer->next;
            break;
        }
    while (s.running_timer == timer && !pthread_equal(pthread_self(), s.thread))
        pthread_cond_wait(&s.timer_done, &s.lock);
    pthread_mutex_unlock(&s.lock);
}

/* Runs what is due; returns nanoseconds until the next. */
static uint64_t run_timers(void)
{
    for (;;) {
        uint64_t now = base_now_ns(), next = UINT64_MAX;
        struct service_timer *due = NULL;
        pthread_mutex_lock(&s.lock);
        for (struct service_timer *t = s.timers; t && !due; t = t->next) {
            if (t->due_ns <= now)
                due = t;
            else
                next = base_min(next, t->due_ns - now);
        }
        if (due)
            due->due_ns = now + due->period_ns;
        s.running_timer = due;
        pthread_mutex_unlock(&s.lock);
        if (!due)
            return next;
        due->fn(due->arg);
        pthread_mutex_lock(&s.lock);
        s.running_timer = NULL;
        pthread_cond_broadcast(&s.timer_done);
        pthread_mutex_unlock(&s.lock);
    }
}

void service_work_add(struct service_work *work)
{
    pthread_mutex_lock(&s.lock);
    work->next = s.fresh;
    s.fresh = work;
    pthread_mutex_unlock(&s.lock);
    atomic_store(&s.has_fresh, 1);
    service_kick();
}

/* One step of every work; true if one ended or began. */
static bool run_work(void)
{
    bool moved = false;
    if (atomic_exchange(&s.has_fresh, 0)) {
        pthread_mutex_lock(&s.lock);
        struct service_work *fresh = s.fresh;
        s.fresh = NULL;
        pthread_mutex_unlock(&s.lock);
        while (fresh) {
            struct service_work *w = fresh;
            fresh = w->next;
            w->next = s.work, s.work = w;
        }
        moved = true;
    }
    for (struct service_work **at = &s.work; *at;) {
        struct service_work *w = *at, *next = w->next;
        if (w->step(w->arg)) { /* w may be gone */
            *at = next;
            moved = true;
        } else {
            at = &w->next;
        }
    }
    return moved;
}

static void poll_wires(int timeout_ms)
{
    struct epoll_event ev[32];
    int n = epoll_wait(s.main_epoll, ev, 32, timeout_ms);
    bool wires = false;
    for (int i = 0; i < n; i++) {
        uint64_t sink;
        if (ev[i].data.ptr == &s.wire_epoll)
            wires = true;
        else
            (void)!read(s.wake_fd, &sink, sizeof(sink));
    }
    if (!wires)
        return;
    if (atomic_load(&s.drivers)) { /* somebody else moves the wires */
        arm(false);
        return;
    }
    n = epoll_wait(s.wire_epoll, ev, 32, 0);
    for (int i = 0; i < n; i++) {
        struct watched *w = ev[i].data.ptr;
        pthread_mutex_lock(&s.lock);
        void (*fn)(void *) = w->fn;
        void *arg = w->arg;
        pthread_mutex_unlock(&s.lock);
        /* One thread at a time in a transport; who has the lock now sees the event too. */
        if (fn && !pthread_mutex_trylock(&w->transport->lock)) {
            fn(arg);
            pthread_mutex_unlock(&w->transport->lock);
        }
    }
    host_progress();
    pthread_mutex_lock(&s.lock);
    while (s.dropped) {
        struct watched *w = s.dropped;
        s.dropped = w->next;
        free(w);
    }
    pthread_mutex_unlock(&s.lock);
}

/* Takes the wires out while they are driven, and puts them back once nobody has done so for a while. */
static void rearm(void)
{
    if (atomic_load(&s.drivers) || atomic_exchange(&s.drove, 0)) {
        arm(false);
        return;
    }
    arm(true);
    if (atomic_load(
            &s.drivers)) /* who came meanwhile has not seen that it is to wake this thread */
        arm(false);
}

static void bells(void (*fn)(struct host_comm *, uint32_t))
{
    for (struct service_work *w = s.work; w; w = w->next)
        if (w->comm)
            fn(w->comm, HOST_ASLEEP_SERVICE);
}

static void prepare_bell(struct host_comm *comm, uint32_t who)
{
    (void)host_bell_prepare(comm, who);
}

static void *serve(void *unused)
{
    (void)unused;
    pthread_setname_np(pthread_self(), "choir");
    uint64_t moved_ns = base_now_ns();
    while (!atomic_load(&s.stop)) {
        uint64_t next = run_timers();
        rearm();
        if (run_work())
            moved_ns = base_now_ns();
        if (s.work) {
            if (host_progress())
                moved_ns = base_now_ns();
            if (base_now_ns() - moved_ns < SPIN_NS) {
                sched_yield();
                continue;
            }
            bells(prepare_bell);
            if (run_work()) {
                bells(host_bell_cancel);
                moved_ns = base_now_ns();
                continue;
            }
        }
        if (!s.armed)
            next = base_min(next, REARM_NS);
        if (s.work)
            next = base_min(next, 10 * REARM_NS);
        int ms = next == UINT64_MAX ? -1 : (int)base_min((next + 999999) / 1000000, 1000u);
        poll_wires(ms);
        bells(host_bell_cancel);
    }
    return NULL;
}

enum choir_status service_start(void)
{
    s.main_epoll = epoll_create1(EPOLL_CLOEXEC);
    s.wire_epoll = epoll_create1(EPOLL_CLOEXEC);
    s.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &s.wake_fd};
    if (s.main_epoll < 0 || s.wire_epoll < 0 || s.wake_fd < 0 ||
        epoll_ctl(s.main_epoll, EPOLL_CTL_ADD, s.wake_fd, &ev))
        goto err_close;
    s.armed = false;
    arm(true);
    atomic_store(&s.stop, false);
    s.running = true;
    sigset_t all, old; /* signals are the application's */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&s.thread, NULL, serve, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!err)
        return CHOIR_OK;
    s.running = false;
    errno = err;
err_close:;
    int why = errno;
    close(s.main_epoll), close(s.wire_epoll), close(s.wake_fd);
    return base_error_fill(base_error_thread(), CHOIR_ERR_SYSTEM,
                           &(struct base_error_at){-1, -1, 0, why, NULL},
                           "raise the limits on threads and open files",
                           "service thread not started: %s", strerror(why));
}

void service_stop(void)
{
    if (!s.running)
        return;
    atomic_store(&s.stop, true);
    service_kick();
    pthread_join(s.thread, NULL);
    s.running = false;
    close(s.main_epoll), close(s.wire_epoll), close(s.wake_fd);
    while (s.watched) {
        struct watched *w = s.watched;
        s.watched = w->next;
        free(w);
    }
    while (s.dropped) {
        struct watched *w = s.dropped;
        s.dropped = w->next;
        free(w);
    }
    s.timers = NULL;
    s.work = s.fresh = NULL;
}

void service_forked(void)
{
    if (!s.running)
        return;
    close(s.main_epoll), close(s.wire_epoll), close(s.wake_fd);
    memset(&s, 0, sizeof(s));
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.timer_done, NULL);
}
