/* SPDX-License-Identifier: Apache-2.0 */
/*
 * process.c: this process among others: its transports, the processes it has reached, and the first and last steps of
 * its life. One per process; made by the first communicator, ended by the last.
 */
#include "host/process.h"
#include "base/knob.h"
#include "host/transports.h"
#include <linux/membarrier.h>
#include <sched.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct host_process host_process;
static pthread_mutex_t life = PTHREAD_MUTEX_INITIALIZER;
static uint32_t users;
uint32_t host_generation;
static struct choir_transport_ops tables[HOST_TRANSPORTS];

static pthread_mutex_t secret_lock = PTHREAD_MUTEX_INITIALIZER;
#define SECRETS 64
static struct secret {
    uint32_t users;
    unsigned char name[16], key[32];
} secrets[SECRETS];
static uint32_t newest;

static void secret_name(const unsigned char key[32], unsigned char name[16])
{
    crypto_generichash(name, 16, (const unsigned char *)"choir secret name", 17, key, 32);
}

void host_secret_add(const unsigned char key[32])
{
    unsigned char name[16];
    secret_name(key, name);
    pthread_mutex_lock(&secret_lock);
    uint32_t free_at = SECRETS;
    for (uint32_t i = 0; i < SECRETS; i++) {
        if (secrets[i].users && !memcmp(secrets[i].name, name, 16)) {
            secrets[i].users++;
            newest = i;
            goto out;
        }
        if (!secrets[i].users && free_at == SECRETS)
            free_at = i;
    }
    if (free_at < SECRETS) {
        secrets[free_at].users = 1;
        memcpy(secrets[free_at].name, name, 16);
        memcpy(secrets[free_at].key, key, 32);
        newest = free_at;
    } else {
        base_log(BASE_WARN, -1, "more than %d secrets in one process, the newest is not kept",
                 SECRETS);
    }
out:
    pthread_mutex_unlock(&secret_lock);
}

void host_secret_forget(const unsigned char key[32])
{
    unsigned char name[16];
    secret_name(key, name);
    pthread_mutex_lock(&secret_lock);
    for (uint32_t i = 0; i < SECRETS; i++)
        if (secrets[i].users && !memcmp(secrets[i].name, name, 16) && !--secrets[i].users)
            sodium_memzero(&secrets[i], sizeof(secrets[i]));
    pthread_mutex_unlock(&secret_lock);
}

static int give_secret(void *context, const unsigned char *name, unsigned char name_out[16],
                       unsigned char key[32])
{
    (void)context;
    int found = 0;
    pthread_mutex_lock(&secret_lock);
    for (uint32_t i = 0; i < SECRETS && !found; i++) {
        uint32_t at = name ? i : (newest + i) % SECRETS;
        if (!secrets[at].users || (name && memcmp(secrets[at].name, name, 16)))
            continue;
        memcpy(name_out, secrets[at].name, 16);
        memcpy(key, secrets[at].key, 32);
        found = 1;
    }
    pthread_mutex_unlock(&secret_lock);
    return found;
}

static enum choir_status give_watch(void *context, int fd, int writable, void (*fn)(void *),
                                    void *arg)
{
    return service_watch(&host_process.transport[(uintptr_t)context], fd, writable, fn, arg);
}

static void give_log(void *context, int level, const char *text)
{
    base_log((enum base_level)level, -1, "transport %s %s", tables[(uintptr_t)context].name, text);
}

static const char *give_knob(void *context, const char *name)
{
    (void)context;
    for (int i = 0; i < KNOB_COUNT; i++) {
        const char *source;
        static _Thread_local char value[4096];
        if (strcmp(knob_row((enum knob_id)i)->name, name))
            continue;
        knob_show((enum knob_id)i, value, sizeof(value), &source);
        return value;
    }
    return getenv(name);
}

static struct choir_transport_host upcalls[HOST_TRANSPORTS];

static void open_transport(const struct choir_transport_ops *from, const char *why)
{
    struct host_process *p = &host_process;
    uint32_t i = p->transports;
    if (i == HOST_TRANSPORTS || !transports_complete(from, &tables[i])) {
        base_log(BASE_WARN, -1, "transport %s not used: its table has abi %u, this library %d", why,
                 from->abi, CHOIR_TRANSPORT_ABI);
        return;
    }
    upcalls[i] = (struct choir_transport_host){.bytes = sizeof(upcalls[i]),
                                               .abi = CHOIR_TRANSPORT_ABI,
                                               .context = (void *)(uintptr_t)i,
                                               .host_id = topo_get()->host_id,
                                               .self = p->id,
                                               .accepted = process_accepted,
                                               .place = process_place,
                                               .arrived = process_arrived,
                                               .failed = process_failed,
                                               .watch = give_watch,
                                               .secret = give_secret,
                                               .log = give_log,
                                               .knob = give_knob};
    char text[200] = "";
    struct choir_transport *t;
    pthread_mutex_init(&p->transport[i].lock, NULL); /* before open: it may be watched at once */
    if (tables[i].probe(&upcalls[i], text, sizeof(text)) != CHOIR_OK) {
        base_log(BASE_INFO, -1, "transport %s not usable here: %s", tables[i].name, text);
        return;
    }
    enum choir_status st = tables[i].open(&upcalls[i], &t);
    if (st != CHOIR_OK) {
        base_log(BASE_WARN, -1, "transport %s not opened: %s", tables[i].name,
                 choir_status_string(st));
        return;
    }
    p->transport[i].ops = &tables[i];
    p->transport[i].t = t;
    p->transport[i].maps = tables[i].map != NULL && from->map != NULL;
    p->transports++;
}

static void open_transports(void)
{
    const char *s = knob_text(KNOB_TRANSPORTS);
    while (*s) {
        size_t n = strcspn(s, ", ");
        const struct choir_transport_ops *ops = n ? transports_find(s, n) : NULL;
        if (ops)
            open_transport(ops, ops->name);
        else if (n)
            base_log(BASE_WARN, -1, "CHOIR_TRANSPORTS names %.*s, which does not exist", (int)n, s);
        s += n;
        s += strspn(s, ", ");
    }
    char paths[4096], *save = NULL;
    snprintf(paths, sizeof(paths), "%s", knob_text(KNOB_TRANSPORT_PLUGINS));
    for (char *path = strtok_r(paths, ":", &save); path; path = strtok_r(NULL, ":", &save)) {
        const struct choir_transport_ops *ops = transports_load(path);
        if (ops)
            open_transport(ops, path);
    }
}

static void close_in_child(void)
{
    host_generation++;
    pthread_mutex_init(&life, NULL);
    for (uint32_t i = 0; i < host_process.transports; i++)
        host_process.transport[i].ops->close(host_process.transport[i].t);
    sodium_memzero(secrets, sizeof(secrets));
    process_forked();
    host_shared_forked();
    service_forked();
    /* The child may make communicators of its own. */
    memset(&host_process, 0, sizeof(host_process));
    users = 0;
}

/* The process calls exit, or returned from main, and communicators are left. Their goodbye is said and brought on its way;
 * nothing is ended or freed: other threads go on until the very end, and a later handler may still destroy. */
#define EXIT_NS 1000000000u
static pid_t opener; /* not a child of it that no fork handler saw */
static void leave_at_exit(void)
{
    if (getpid() != opener ||
        pthread_mutex_trylock(&life)) /* held: the last one is going just now */
        return;
    if (users && host_process.opened) {
        peers_say_goodbye();
        for (uint64_t until = base_now_ns() + EXIT_NS; base_now_ns() < until; sched_yield()) {
            bool left = false;
            for (uint32_t i = 0; i < host_process.transports; i++)
                left |= host_process.transport[i].ops->flush(host_process.transport[i].t) ==
                        CHOIR_IN_PROGRESS;
            if (!left)
                break;
            host_progress();
        }
    }
    pthread_mutex_unlock(&life);
}

enum choir_status host_start(void)
{
    static bool once;
    enum choir_status st = knob_load();
    if (st != CHOIR_OK)
        return st;
    pthread_mutex_lock(&life);
    if (users++)
        goto out;
    if (sodium_init() < 0) {
        st = base_fail(CHOIR_ERR_INTERNAL, "check the libsodium installation",
                       "libsodium does not start");
        goto err_users;
    }
    if (!once) {
        pthread_atfork(NULL, NULL, close_in_child);
        atexit(leave_at_exit);
    }
    once = true;
    opener = getpid();
    randombytes_buf(host_process.id.bytes, sizeof(host_process.id.bytes));
    const char *host = topo_get()->host_id;
    host_process.host_key = base_hash(host, strlen(host), 0);
    host_process.membarrier =
        !syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) &&
        !syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
    st = service_start();
    if (st != CHOIR_OK)
        goto err_users;
    open_transports();
    host_process.opened = true;
    if (!host_process.transports) {
        st = base_fail(CHOIR_ERR_UNSUPPORTED, "see CHOIR_TRANSPORTS and choir-info",
                       "no transport could be opened");
        service_stop();
        goto err_users;
    }
    goto out;
err_users:
    users--;
out:
    pthread_mutex_unlock(&life);
    return st;
}

void host_stop(void)
{
    pthread_mutex_lock(&life);
    if (users && !--users) {
        process_disconnect();
        service_stop();
        for (uint32_t i = 0; i < host_process.transports; i++) {
            host_process.transport[i].ops->close(host_process.transport[i].t);
            pthread_mutex_destroy(&host_process.transport[i].lock);
        }
        process_forget();
        host_process.transports = 0;
        host_process.opened = false;
    }
    pthread_mutex_unlock(&life);
}

uint32_t host_progress(void)
{
    uint32_t events = 0, n = atomic_load(&host_process.transports); /* pairs with open_transport */
    for (uint32_t i = 0; i < n; i++) {
        struct host_transport *t = &host_process.transport[i];
        if (pthread_mutex_trylock(&t->lock))
            continue;
        events += t->ops->progress(t->t);
        pthread_mutex_unlock(&t->lock);
    }
    return events;
}

void host_arm(bool on)
{
    for (uint32_t i = 0; i < atomic_load(&host_process.transports); i++) {
        struct host_transport *t = &host_process.transport[i];
        if (on) /* off: whoever drives it has the lock nearly always */
            pthread_mutex_lock(&t->lock);
        t->ops->arm(t->t, on);
        if (on)
            pthread_mutex_unlock(&t->lock);
    }
}

void host_transports_print(FILE *out)
{
    for (uint32_t i = 0; i < host_process.transports; i++)
        fprintf(out, "transport %s%s\n", host_process.transport[i].ops->name,
                host_process.transport[i].maps ? " (maps memory)" : "");
}
