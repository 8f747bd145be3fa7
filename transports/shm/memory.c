/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c: memory that peers can map, their memory mapped here, and a peer's private memory read and written. A
 * segment is a sealed memfd: it has no name, so a crash leaves nothing, and nobody can shrink it under us.
 */
#include "shm.h"
#include "base/knob.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define LASTING_BIT 1u /* of a key */
#define HUGE_BYTES (2u << 20)

/* Shared, not inherited by children; an errno. */
static int map_fd(int fd, uint64_t bytes, void **memory)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return errno;
    if (madvise(p, bytes, MADV_DONTFORK)) {
        int e = errno;
        munmap(p, bytes);
        return e;
    }
    if (bytes >= HUGE_BYTES)
        madvise(p, bytes, MADV_HUGEPAGE); /* a hint; refused where shmem has no huge pages */
    *memory = p;
    return 0;
}

enum choir_status shm_alloc(struct choir_transport *t, uint64_t bytes, struct choir_shared *shared)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), rounded = (bytes + page - 1) & ~(page - 1);
    struct shm_segment *s = calloc(1, sizeof(*s));
    if (!s || !bytes || bytes > INT64_MAX - page) {
        free(s);
        return shm_error(s ? CHOIR_ERR_ARGUMENT : CHOIR_ERR_NO_MEMORY, 0, "",
                         "cannot allocate %llu bytes of shared memory", (unsigned long long)bytes);
    }
    int e = 0;
    s->fd = memfd_create("choir", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (s->fd < 0 || ftruncate(s->fd, (off_t)rounded) ||
        fcntl(s->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        e = errno;
    if (!e)
        e = map_fd(s->fd, rounded, &s->memory);
    if (e) {
        if (s->fd >= 0)
            close(s->fd);
        free(s);
        return shm_error(e == EMFILE || e == ENFILE ? CHOIR_ERR_SYSTEM : CHOIR_ERR_NO_MEMORY, e,
                         "look at the limits of open files and of memory",
                         "cannot allocate %llu bytes of shared memory", (unsigned long long)bytes);
    }
    s->bytes = rounded;
    do
        randombytes_buf(&s->key, sizeof(s->key)); /* the key is the capability */
    while (s->key <= LASTING_BIT);
    s->key &= ~(uint64_t)LASTING_BIT;
    if (shared->flags & CHOIR_SHARED_LASTING)
        s->key |= LASTING_BIT;
    pthread_mutex_lock(&t->lock);
    s->next = t->segments;
    t->segments = s;
    pthread_mutex_unlock(&t->lock);
    *shared = (struct choir_shared){s->memory, bytes, s->key, shared->flags};
    return CHOIR_OK;
}

/* --- lasting segments: who maps one is told when it is released ---------------------------------- */

/* t->lock held; false: no memory to remember it. */
static bool remember_given(struct shm_segment *s, struct choir_endpoint *ep)
{
    for (uint32_t i = 0; i < s->givens; i++)
        if (s->given[i] == ep)
            return true;
    struct choir_endpoint **more = realloc(s->given, (s->givens + 1) * sizeof(*more));
    if (!more)
        return false;
    s->given = more;
    s->given[s->givens++] = ep;
    return true;
}

void shm_forget_given(struct choir_endpoint *ep)
{
    for (struct shm_segment *s = ep->transport->segments; s; s = s->next)
        for (uint32_t i = 0; i < s->givens; i++)
            if (s->given[i] == ep)
                s->given[i--] = s->given[--s->givens];
}

/* t->lock held. */
static void tell_gone(struct shm_segment *s)
{
    struct shm_want gone = {s->key};
    for (uint32_t i = 0; i < s->givens; i++) {
        struct choir_endpoint *ep = s->given[i];
        pthread_mutex_lock(&ep->lock);
        if (atomic_load(&ep->state) == SHM_UP && !atomic_load(&ep->closing))
            shm_post(ep, SHM_GONE, &gone, sizeof(gone), -1); /* else its mappings go with it */
        pthread_mutex_unlock(&ep->lock);
    }
    free(s->given);
}

enum choir_status shm_release(struct choir_transport *t, struct choir_shared *shared)
{
    struct shm_segment **at, *s;
    pthread_mutex_lock(&t->lock);
    for (at = &t->segments; (s = *at) && s->key != shared->key;)
        at = &s->next;
    if (s) {
        *at = s->next;
        tell_gone(s);
    }
    pthread_mutex_unlock(&t->lock);
    if (!s)
        return shm_error(CHOIR_ERR_ARGUMENT, 0, "", "not shared memory of this transport");
    munmap(s->memory, s->bytes);
    close(s->fd);
    free(s);
    *shared = (struct choir_shared){0};
    return CHOIR_OK;
}

void shm_wanted(struct choir_endpoint *ep, const struct shm_want *want)
{
    struct choir_transport *t = ep->transport;
    struct shm_give give = {.key = want->key, .sys_errno = ENOENT};
    int fd = -1;
    pthread_mutex_lock(&t->lock);
    for (struct shm_segment *s = t->segments; s; s = s->next)
        if (s->key == want->key) {
            bool noted = !(s->key & LASTING_BIT) || remember_given(s, ep);
            fd = noted ? fcntl(s->fd, F_DUPFD_CLOEXEC, 0) : -1;
            give.sys_errno = !noted ? ENOMEM : fd < 0 ? errno : 0;
            break;
        }
    pthread_mutex_lock(&ep->lock);
    bool flood = ep->gives_count >= SHM_GIVES_MOST;
    enum choir_status status = CHOIR_OK;
    if (!flood)
        status = shm_post(ep, SHM_GIVE, &give, sizeof(give), fd);
    pthread_mutex_unlock(&ep->lock);
    pthread_mutex_unlock(
        &t->lock); /* not before: a release must not tell of the end of what is still to be given */
    if (flood && fd >= 0)
        close(fd);
    if (flood)
        shm_fail(ep, CHOIR_ERR_PROTOCOL, 0, "the peer asks for memory and reads no answers");
    else if (status)
        shm_fail(ep, status, 0, "no memory to answer the peer");
}

static void map_failed(struct shm_map *m, enum choir_status status, int e, const char *text)
{
    m->state = SHM_MAP_FAILED;
    m->status = status;
    m->sys_errno = e;
    snprintf(m->text, sizeof(m->text), "%s", text);
}

static void map_given(struct shm_map *m, const struct shm_give *give, int fd)
{
    struct stat st;
    int seals = fd < 0 ? 0 : fcntl(fd, F_GET_SEALS);
    if (give->sys_errno == ENOENT)
        map_failed(m, CHOIR_ERR_PROTOCOL, 0, "the peer has no shared memory of this key");
    else if (give->sys_errno)
        map_failed(m, CHOIR_ERR_SYSTEM, give->sys_errno, "the peer could not pass its memory");
    else if (fd < 0)
        map_failed(m, CHOIR_ERR_SYSTEM, EMFILE, "no descriptor left for the peer's memory");
    else if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) || st.st_size <= 0)
        map_failed(m, CHOIR_ERR_PROTOCOL, 0, "the peer's memory is not sealed against shrinking");
    else {
        m->bytes = (uint64_t)st.st_size;
        int e = map_fd(fd, m->bytes, &m->memory);
        if (e)
            map_failed(m, CHOIR_ERR_NO_MEMORY, e, "cannot map the peer's memory");
        else
            m->state = SHM_MAP_HERE;
    }
}

static void remove_map(struct choir_endpoint *ep, struct shm_map *m)
{
    struct shm_map **at = &ep->maps;
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    free(m);
}

static void drop_map(struct choir_endpoint *ep, struct shm_map *m)
{
    munmap(m->memory, m->bytes);
    remove_map(ep, m);
}

/* Mappings that nobody uses are kept if they are of lasting segments: of these the SHM_IDLE_MOST used last, which are
 * in front. */
static void trim_idle(struct choir_endpoint *ep)
{
    uint32_t idle = 0;
    for (struct shm_map *m = ep->maps, *next; m; m = next) {
        next = m->next;
        if (m->state == SHM_MAP_HERE && !m->refs && (m->key & LASTING_BIT) &&
            ++idle > SHM_IDLE_MOST)
            drop_map(ep, m);
    }
}

bool shm_given(struct choir_endpoint *ep, const struct shm_give *give, int fd)
{
    struct shm_map *m;
    pthread_mutex_lock(&ep->lock);
    for (m = ep->maps; m; m = m->next)
        if (m->key == give->key && m->state == SHM_MAP_ASKED)
            break;
    if (m) {
        map_given(m, give, fd);
        trim_idle(ep);
        ep->wants_count--;
        shm_ask_waiting(ep);
    }
    pthread_mutex_unlock(&ep->lock);
    if (fd >= 0)
        close(fd);
    return m != NULL;
}

void shm_ask_waiting(struct choir_endpoint *ep)
{
    if (atomic_load(&ep->state) != SHM_UP)
        return;
    for (struct shm_map *m = ep->maps; m && ep->wants_count < SHM_WANTS_MOST; m = m->next) {
        struct shm_want want = {m->key};
        if (m->state != SHM_MAP_WAITING)
            continue;
        if (shm_post(ep, SHM_WANT, &want, sizeof(want), -1)) {
            map_failed(m, CHOIR_ERR_NO_MEMORY, 0, "no memory to ask the peer for its memory");
            continue;
        }
        m->state = SHM_MAP_ASKED;
        ep->wants_count++;
    }
}

static struct shm_map *new_map(struct choir_endpoint *ep, uint64_t key)
{
    struct shm_map *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->key = key;
    m->next = ep->maps;
    ep->maps = m;
    if (atomic_load(&ep->state) == SHM_DEAD)
        map_failed(m, CHOIR_ERR_PEER_DEAD, 0, "the peer process is gone");
    else
        shm_ask_waiting(ep);
    return m;
}

enum choir_status shm_map(struct choir_endpoint *ep, uint64_t key, uint64_t bytes, void **memory)
{
    struct shm_map *m, failed = {.status = CHOIR_ERR_NO_MEMORY, .text = "no memory for a mapping"};
    enum choir_status status = CHOIR_IN_PROGRESS;
    pthread_mutex_lock(&ep->lock);
    for (m = ep->maps; m && m->key != key;)
        m = m->next;
    if (!m)
        m = new_map(ep, key);
    if (!m) {
        status = failed.status;
    } else if (m->state == SHM_MAP_FAILED) {
        failed = *m;
        status = m->status;
        remove_map(ep, m);
    } else if (m->state == SHM_MAP_HERE && m->bytes < bytes) {
        failed.status = status = CHOIR_ERR_PROTOCOL;
        snprintf(failed.text, sizeof(failed.text), "the peer's memory has %llu bytes, not %llu",
                 (unsigned long long)m->bytes, (unsigned long long)bytes);
        if (!m->refs)
            drop_map(ep, m);
    } else if (m->state == SHM_MAP_HERE) {
        m->refs++;
        *memory = m->memory;
        status = CHOIR_OK;
    }
    pthread_mutex_unlock(&ep->lock);
    if (status < 0)
        shm_error(status, failed.sys_errno, "", "%s", failed.text);
    return status;
}

void shm_gone(struct choir_endpoint *ep, const struct shm_want *gone)
{
    struct shm_map *m;
    pthread_mutex_lock(&ep->lock);
    for (m = ep->maps; m && (m->key != gone->key || m->state != SHM_MAP_HERE);)
        m = m->next;
    if (m && m->refs)
        m->gone = true; /* goes with its last user */
    else if (m)
        drop_map(ep, m);
    pthread_mutex_unlock(&ep->lock);
}

static void to_front(struct choir_endpoint *ep, struct shm_map *m)
{
    struct shm_map **at = &ep->maps;
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    m->next = ep->maps;
    ep->maps = m;
}

enum choir_status shm_unmap(struct choir_endpoint *ep, void *memory, uint64_t bytes)
{
    (void)bytes; /* we know how much we mapped */
    struct shm_map *m;
    pthread_mutex_lock(&ep->lock);
    for (m = ep->maps; m && !(m->refs && m->memory == memory);)
        m = m->next;
    if (m && !--m->refs) {
        if ((m->key & LASTING_BIT) && !m->gone && atomic_load(&ep->state) == SHM_UP)
            to_front(ep, m), trim_idle(ep);
        else
            drop_map(ep, m);
    }
    pthread_mutex_unlock(&ep->lock);
    return m ? CHOIR_OK : shm_error(CHOIR_ERR_ARGUMENT, 0, "", "nothing is mapped at %p", memory);
}

bool shm_can_read(struct choir_endpoint *ep, const struct shm_intro *intro)
{
    unsigned char got[32], hash[32];
    struct iovec to = {got, sizeof(got)};
    struct iovec from = {(void *)(uintptr_t)intro->cookie_at, sizeof(got)};
    if (!knob_int(KNOB_SINGLE_COPY))
        return false;
    const char *why = "it is in another pid namespace";
    if (ep->pid) {
        ssize_t n = process_vm_readv(ep->pid, &to, 1, &from, 1, 0);
        why = n < 0 ? strerrordesc_np(errno) : "something else lies there";
        if (n == (ssize_t)sizeof(got)) {
            crypto_generichash(hash, sizeof(hash), got, sizeof(got), NULL, 0);
            if (!memcmp(hash, intro->cookie_hash, sizeof(hash)))
                return true;
        }
    }
    base_log(BASE_INFO, -1,
             "shm: cannot read memory of pid %ld, large messages are copied twice: %s",
             (long)ep->pid, why);
    return false;
}

/* Between memory here and the peer's own, one way or the other. */
static enum choir_status copy_peer(struct choir_endpoint *ep, unsigned char *here, uint64_t there,
                                   uint64_t bytes, bool write)
{
    const char *what = write ? "write" : "read";
    if (atomic_load(&ep->state) == SHM_DEAD)
        return shm_error(CHOIR_ERR_PEER_DEAD, 0, "look at the peer's log",
                         "cannot %s the peer's memory: it is gone", what);
    if (!(atomic_load_explicit(&ep->caps, memory_order_relaxed) & CHOIR_CAP_READ))
        return shm_error(CHOIR_ERR_UNSUPPORTED, 0, "", "cannot %s this peer's memory", what);
    while (bytes) {
        struct iovec mine = {here, bytes}, theirs = {(void *)(uintptr_t)there, bytes};
        ssize_t n = write ? process_vm_writev(ep->pid, &mine, 1, &theirs, 1, 0)
                          : process_vm_readv(ep->pid, &mine, 1, &theirs, 1, 0);
        if (n <= 0) {
            int e = n ? errno : EFAULT;
            if (write && (e == EPERM || e == ENOSYS)) /* a filter of system calls */
                return CHOIR_ERR_UNSUPPORTED;
            if (e == ESRCH)
                return shm_error(CHOIR_ERR_PEER_DEAD, e, "look at the peer's log",
                                 "cannot %s the memory of pid %ld: it ended", what, (long)ep->pid);
            return shm_error(CHOIR_ERR_SYSTEM, e, "set CHOIR_SINGLE_COPY=0 if this was forbidden",
                             "cannot %s %llu bytes at 0x%llx of pid %ld", what,
                             (unsigned long long)bytes, (unsigned long long)there, (long)ep->pid);
        }
        here += n;
        there += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return CHOIR_OK;
}

enum choir_status shm_read(struct choir_endpoint *ep, void *to, uint64_t from, uint64_t bytes)
{
    return copy_peer(ep, to, from, bytes, false);
}

enum choir_status shm_write(struct choir_endpoint *ep, uint64_t to, const void *from,
                            uint64_t bytes)
{
    return copy_peer(ep, (unsigned char *)(uintptr_t)from, to, bytes, true);
}
