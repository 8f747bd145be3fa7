/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm.c: opening and closing the transport, its address, and progress. One epoll descriptor holds the
 * listener, the timer and all sockets, so that the host watches a single one.
 */
#include "shm.h"
#include "base/knob.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum choir_status shm_error(enum choir_status status, int sys_errno, const char *remedy,
                            const char *format, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    struct base_error_at at = {-1, -1, 0, sys_errno, "shm"};
    return base_error_fill(base_error_thread(), status, &at, remedy, "%s", text);
}

static enum choir_status probe(const struct choir_transport_host *host, char *text, size_t bytes)
{
    if (!host->host_id || !*host->host_id) {
        snprintf(text, bytes, "this host has no identity");
        return CHOIR_ERR_UNSUPPORTED;
    }
    int fd = memfd_create("choir", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        snprintf(text, bytes, "memfd_create: %s", strerrordesc_np(errno));
        return CHOIR_ERR_UNSUPPORTED;
    }
    close(fd);
    return CHOIR_OK;
}

void shm_socket_name(const struct choir_process *process, uint64_t random, struct sockaddr_un *name,
                     socklen_t *bytes)
{
    /* Abstract: the leading 0 keeps it out of the file system, so a crash leaves nothing behind. */
    char hex[2 * sizeof(process->bytes) + 1];
    sodium_bin2hex(hex, sizeof(hex), process->bytes, sizeof(process->bytes));
    memset(name, 0, sizeof(*name));
    name->sun_family = AF_UNIX;
    int n = snprintf(name->sun_path + 1, sizeof(name->sun_path) - 1, "choir-%s-%016llx", hex,
                     (unsigned long long)random);
    *bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

/* The memfd and the memory that peers read to prove that descriptors and reads come through. */
static int make_probe(struct choir_transport *t)
{
    randombytes_buf(t->cookie, sizeof(t->cookie));
    crypto_generichash(t->cookie_hash, sizeof(t->cookie_hash), t->cookie, sizeof(t->cookie), NULL,
                       0);
    t->probe_fd = memfd_create("choir-probe", MFD_CLOEXEC);
    if (t->probe_fd < 0 || pwrite(t->probe_fd, t->cookie, sizeof(t->cookie), 0) < 0)
        return errno;
    return 0;
}

static int listen_here(struct choir_transport *t)
{
    struct stat st;
    struct sockaddr_un name;
    socklen_t bytes;
    t->address.magic = SHM_MAGIC;
    t->address.host_hash = base_hash(t->host.host_id, strlen(t->host.host_id), 0);
    t->address.net = stat("/proc/self/ns/net", &st) ? 0 : (uint64_t)st.st_ino;
    randombytes_buf(&t->address.random, sizeof(t->address.random));
    shm_socket_name(&t->host.self, t->address.random, &name, &bytes);
    t->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (t->listen_fd < 0 || bind(t->listen_fd, (struct sockaddr *)&name, bytes) ||
        listen(t->listen_fd, SHM_PENDING_MOST))
        return errno;
    return 0;
}

static int make_fds(struct choir_transport *t)
{
    t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    t->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    t->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (t->epoll_fd < 0 || t->wake_fd < 0 || t->timer_fd < 0)
        return errno;
    struct epoll_event listener = {.events = EPOLLIN, .data.ptr = &t->listen_fd};
    struct epoll_event timer = {.events = EPOLLIN, .data.ptr = &t->timer_fd};
    if (epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, t->listen_fd, &listener) ||
        epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, t->timer_fd, &timer))
        return errno;
    return 0;
}

static void close_fd(int *fd)
{
    int old = *fd;
    *fd = -1; /* first: a fork in between must not close a number that was given out again */
    if (old >= 0)
        close(old);
}

static void close_fds(struct choir_transport *t)
{
    close_fd(&t->epoll_fd);
    close_fd(&t->listen_fd);
    close_fd(&t->wake_fd);
    close_fd(&t->timer_fd);
    close_fd(&t->probe_fd);
}

static uint32_t progress(struct choir_transport *t);

/* The service thread saw that something is ready. Runs whether or not its loop calls progress() as well. */
static void on_ready(void *arg)
{
    progress(arg);
}

/* A peer woke the service thread: that it runs is all that was wanted. */
static void on_wake(void *arg)
{
    struct choir_transport *t = arg;
    uint64_t count;
    (void)!read(t->wake_fd, &count, sizeof(count));
}

static enum choir_status open_transport(const struct choir_transport_host *host,
                                        struct choir_transport **out)
{
    enum choir_status status = CHOIR_ERR_SYSTEM;
    struct choir_transport *t = calloc(1, sizeof(*t));
    if (!t)
        return shm_error(CHOIR_ERR_NO_MEMORY, 0, "", "no memory for the transport");
    t->host = *host;
    t->pid = getpid();
    t->epoll_fd = t->listen_fd = t->wake_fd = t->timer_fd = t->probe_fd = -1;
    pthread_mutex_init(&t->progress_lock, NULL);
    pthread_mutex_init(&t->timer_lock, NULL);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->served, NULL);
    int e = sodium_init() < 0 ? ENOSYS : 0;
    if (e || (e = make_probe(t)) || (e = listen_here(t)) || (e = make_fds(t))) {
        shm_error(status, e, "check the limit of open files (ulimit -n)",
                  "cannot open the shm transport");
        goto err_free;
    }
    /* Where Yama forbids reading siblings, this allows it to processes of the same user; what it costs in
     * safety CHOIR_SINGLE_COPY=0 gives back. Fails where there is no Yama. */
    if (knob_int(KNOB_SINGLE_COPY))
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    status = host->watch(host->context, t->epoll_fd, 0, on_ready, t);
    if (status)
        goto err_free;
    status = host->watch(host->context, t->wake_fd, 0, on_wake, t);
    if (status)
        goto err_watch;
    *out = t;
    return CHOIR_OK;

err_watch:
    host->watch(host->context, t->epoll_fd, 0, NULL, NULL);
err_free:
    close_fds(t);
    free(t);
    return status;
}

static enum choir_status address(struct choir_transport *t, void *to, size_t *bytes)
{
    if (*bytes < sizeof(t->address))
        return shm_error(CHOIR_ERR_ARGUMENT, 0, "", "no room for the address: %zu bytes", *bytes);
    memcpy(to, &t->address, sizeof(t->address));
    *bytes = sizeof(t->address);
    return CHOIR_OK;
}

void shm_sweep_at(struct choir_transport *t, uint64_t due_ns)
{
    due_ns = base_max(due_ns, 1u); /* 0 would disarm */
    pthread_mutex_lock(&t->timer_lock);
    if (!t->timer_ns || due_ns < t->timer_ns) {
        struct itimerspec when = {.it_value = {.tv_sec = (time_t)(due_ns / 1000000000),
                                               .tv_nsec = (long)(due_ns % 1000000000)}};
        t->timer_ns = due_ns;
        timerfd_settime(t->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
    }
    pthread_mutex_unlock(&t->timer_lock);
}

static void on_timer(struct choir_transport *t)
{
    uint64_t count;
    pthread_mutex_lock(&t->timer_lock);
    (void)!read(t->timer_fd, &count, sizeof(count));
    t->timer_ns = 0;
    pthread_mutex_unlock(&t->timer_lock);
    shm_sweep(t);
}

static void serve(const struct epoll_event *event)
{
    uintptr_t at = (uintptr_t)event->data.ptr;
    shm_serve((struct choir_endpoint *)(at & ~(uintptr_t)SHM_ENDED),
              at & SHM_ENDED ? EPOLLRDHUP : event->events);
}

static uint32_t progress(struct choir_transport *t)
{
    struct epoll_event event[64];
    uint32_t seen = 0;
    bool timer = false;
    if (pthread_mutex_trylock(&t->progress_lock))
        return 0;
    int n = epoll_wait(t->epoll_fd, event, (int)base_count(event), 0);
    for (int i = 0; i < n; i++) {
        if (event[i].data.ptr == &t->timer_fd)
            timer = true;
        else if (event[i].data.ptr == &t->listen_fd)
            seen += shm_accept(t);
        else
            seen++, serve(&event[i]);
    }
    if (timer) /* last: it frees endpoints that the other events may name */
        on_timer(t);
    pthread_mutex_unlock(&t->progress_lock);
    return seen;
}

/* The child of a fork has copies of descriptors and of half-done states of other threads. It closes the
 * former and leaves the latter; sockets are not shut down, which the parent would feel. */
static void close_in_child(struct choir_transport *t)
{
    for (struct choir_endpoint *ep = t->endpoints; ep; ep = ep->next) {
        int wake_fd = atomic_exchange(&ep->wake_fd, -1);
        close_fd(&wake_fd);
        close_fd(&ep->fd);
        close_fd(&ep->pid_fd);
    }
    for (struct shm_segment *s = t->segments; s; s = s->next)
        close_fd(&s->fd);
    sodium_memzero(t->cookie, sizeof(t->cookie));
    close_fds(t);
}

static void close_transport(struct choir_transport *t)
{
    if (getpid() != t->pid) {
        close_in_child(t);
        return;
    }
    t->host.watch(t->host.context, t->epoll_fd, 0, NULL, NULL);
    t->host.watch(t->host.context, t->wake_fd, 0, NULL, NULL);
    close_fd(&t->listen_fd);
    pthread_mutex_lock(&t->lock);
    struct choir_endpoint *first = t->endpoints;
    pthread_mutex_unlock(&t->lock);
    for (struct choir_endpoint *ep = first, *next; ep; ep = next) {
        next = ep->next;
        if (!atomic_load(&ep->closing))
            shm_disconnect(ep);
    }
    for (bool left = true; left;) { /* each endpoint lingers SHM_LINGER_NS at most */
        progress(t);
        pthread_mutex_lock(&t->progress_lock);
        left = shm_sweep(t);
        pthread_mutex_unlock(&t->progress_lock);
        if (left)
            usleep(500);
    }
    while (t->segments) {
        struct choir_shared s = {t->segments->memory, t->segments->bytes, t->segments->key, 0};
        shm_release(t, &s);
    }
    close_fds(t);
    pthread_mutex_destroy(&t->progress_lock);
    pthread_mutex_destroy(&t->timer_lock);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->served);
    sodium_memzero(t->cookie, sizeof(t->cookie));
    free(t);
}

static uint32_t expects(void)
{
    return CHOIR_CAP_MAP | (shm_reads_fast() ? CHOIR_CAP_READ | CHOIR_CAP_READ_FAST : 0);
}

extern const struct choir_transport_ops choir_transport_shm;
const struct choir_transport_ops choir_transport_shm = {
    .size = sizeof(choir_transport_shm),
    .abi = CHOIR_TRANSPORT_ABI,
    .name = "shm",
    .probe = probe,
    .open = open_transport,
    .address = address,
    .connect = shm_connect,
    .connected = shm_connected,
    .caps = shm_caps,
    .alloc = shm_alloc,
    .release = shm_release,
    .map = shm_map,
    .unmap = shm_unmap,
    .read = shm_read,
    .write = shm_write,
    .send = shm_send,
    .wake = shm_wake,
    .flush = shm_flushed,
    .progress = progress,
    .disconnect = shm_disconnect,
    .close = close_transport,
    .expects = expects,
};
