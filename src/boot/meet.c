/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meet.c: launchers that name a host and a port and nothing else: CHOIR_RENDEZVOUS=tcp://..., torchrun, plain Slurm.
 * The secret comes from the user. Without one, anybody who can open a connection could join, so only
 * loopback connections of the same user are let in, unless CHOIR_INSECURE=1.
 */
#include "base/knob.h"
#include "boot/launcher.h"
#include "boot/server.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET_MOST 4096
#define SECRET_SHORT 16
#define PORT_PATIENCE_NS                                                                           \
    15000000000u /* an earlier server of ours may hold the port for as long as it lingers */
#define NAME_PATIENCE_NS                                                                           \
    30000000000u /* a name may appear in the name service after its host is up */

/* The file's text without the newlines at its end. */
static enum choir_status read_secret_file(const char *path, char text[SECRET_MOST])
{
    struct stat st;
    ssize_t n = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    bool regular = fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode);
    if (regular)
        n = read(fd, text, SECRET_MOST - 1);
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return base_fail(CHOIR_ERR_ARGUMENT, "check the path",
                         "cannot read CHOIR_SECRET_FILE=%.120s: %s", path,
                         fd >= 0 && !regular ? "not a file" : strerrordesc_np(error));
    if ((st.st_mode & 077) || (st.st_uid != geteuid() && st.st_uid != 0))
        return base_fail(CHOIR_ERR_AUTH, "chmod 600 the file",
                         "others than its owner may read or write CHOIR_SECRET_FILE=%.120s", path);
    while (n && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        n--;
    text[n] = 0;
    return n ? CHOIR_OK
             : base_fail(CHOIR_ERR_ARGUMENT, "put the secret into it",
                         "CHOIR_SECRET_FILE=%.120s is empty", path);
}

static enum choir_status user_secret(char text[SECRET_MOST])
{
    const char *given = knob_text(KNOB_SECRET), *file = knob_text(KNOB_SECRET_FILE);
    text[0] = 0;
    if (*given && strlen(given) >= SECRET_MOST)
        return base_fail(CHOIR_ERR_ARGUMENT, "use a shorter one", "CHOIR_SECRET is too long");
    if (*given)
        strcpy(text, given);
    else if (*file)
        return read_secret_file(file, text);
    if (*text && strlen(text) < SECRET_SHORT)
        base_log(BASE_WARN, -1,
                 "CHOIR_SECRET is short; who records a connection can find it by trying (take 16 "
                 "random characters or more)");
    return CHOIR_OK;
}

/* Everything that has to be equal on all ranks of one communicator, and differ between communicators, goes in. */
static enum choir_status make_secret(const struct meeting *m, uint32_t size,
                                     struct server_want *want)
{
    char text[SECRET_MOST];
    uint8_t numbers[8];
    enum choir_status s = user_secret(text);
    if (s)
        return s;
    want->insecure = !*text;
    put32(numbers, size);
    put32(numbers + 4, launch_sequence());
    crypto_generichash_state h;
    crypto_generichash_init(&h, NULL, 0, 32);
    crypto_generichash_update(&h, (const unsigned char *)"choir launch", 12);
    crypto_generichash_update(&h, numbers, sizeof(numbers));
    crypto_generichash_update(&h, (const unsigned char *)m->tag, strlen(m->tag) + 1);
    crypto_generichash_update(&h, (const unsigned char *)text, strlen(text));
    crypto_generichash_final(&h, want->secret, 32);
    sodium_memzero(text, sizeof(text));
    sodium_memzero(&h, sizeof(h));
    if (want->insecure && knob_int(KNOB_INSECURE))
        base_log(BASE_WARN, -1,
                 "no secret is set and CHOIR_INSECURE is 1: whoever reaches %s can join", m->host);
    return CHOIR_OK;
}

static void add(struct address *list, uint32_t *count, const struct address *a)
{
    for (uint32_t i = 0; i < *count; i++)
        if (address_equal(&list[i], a))
            return;
    if (*count < ADDRESSES_MOST)
        list[(*count)++] = *a;
}

/* Whether the host means the same everywhere, or at least is meant to be this one only. */
static bool is_literal(const char *host)
{
    struct in6_addr any;
    return inet_pton(AF_INET, host, &any) == 1 || inet_pton(AF_INET6, host, &any) == 1 ||
           !strcmp(host, "localhost");
}

/*
 * Where rank 0 listens. On the address itself if it is one of this host's; on all that are allowed if the name means something
 * else here than elsewhere (a host's own name is often 127.0.1.1 to itself, a service's name belongs to a
 * proxy). Without a secret on loopback only, where the kernel tells whose a connection is.
 */
static void choose_listen(const struct meeting *m, const struct address *named,
                          uint32_t named_count, bool loopback_only, struct server_want *want,
                          struct address out[ADDRESSES_MOST])
{
    bool outside = false;
    for (uint32_t i = 0; i < named_count; i++) {
        bool loopback = address_is_loopback(&named[i]), mine = loopback;
        for (uint32_t k = 0; k < want->advertise_count && !mine; k++)
            mine = address_equal(&named[i], &want->advertise[k]);
        if (!mine || (loopback_only && !loopback))
            continue;
        add(out, &want->listen_count, &named[i]);
        outside |= !loopback;
    }
    want->listen = out;
    if (outside || (want->listen_count && is_literal(m->host)))
        return;
    for (uint32_t k = 0; k < want->advertise_count; k++)
        if (!loopback_only || address_is_loopback(&want->advertise[k]))
            add(out, &want->listen_count, &want->advertise[k]);
}

static enum choir_status serve(const struct meeting *m, uint64_t deadline_ns,
                               struct server_want *want, struct boot_launch *launch)
{
    struct address named[ADDRESSES_MOST], local[ADDRESSES_MOST], chosen[ADDRESSES_MOST];
    uint32_t named_count = 0;
    struct choir_error before = *base_error_thread();
    enum choir_status s = address_local(local, ADDRESSES_MOST, &want->advertise_count);
    if (s)
        return s;
    /* Rank 0 can serve under a name that only the others can resolve. */
    if (address_resolve(m->host, named, ADDRESSES_MOST, &named_count)) {
        named_count = 0;
        *base_error_thread() = before;
    }
    want->advertise = local;
    choose_listen(m, named, named_count, want->insecure && !knob_int(KNOB_INSECURE), want, chosen);
    want->advertise = NULL; /* its own id holds what it listens on */
    want->ports =
        (struct listen_ports){.first = m->port,
                              .count = m->ports,
                              .source = m->source,
                              .until_ns = base_min(deadline_ns, base_now_ns() + PORT_PATIENCE_NS)};
    return server_start(want, &launch->id);
}

/* The others' id: the addresses of the name, and loopback, which only a server without a secret is limited to. */
static enum choir_status point(const struct meeting *m, uint64_t deadline_ns,
                               const struct server_want *want, struct boot_launch *launch)
{
    static const struct address loopback[2] = {
        {.family = AF_INET, .ip = {127, 0, 0, 1}},
        {.family = AF_INET6, .ip = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}}};
    struct address named[ADDRESSES_MOST];
    uint32_t count = 0;
    uint64_t until = base_min(deadline_ns, base_now_ns() + NAME_PATIENCE_NS);
    enum choir_status s;
    while ((s = address_resolve(m->host, named, ADDRESSES_MOST - 2, &count)) &&
           base_now_ns() + 500000000u < until)
        launch_pause(500000000u);
    if (s)
        return s;
    add(named, &count, &loopback[0]);
    add(named, &count, &loopback[1]);
    struct id_view view = {
        .insecure = want->insecure, .maybe_late = true, .port = m->port, .ports = m->ports};
    memcpy(view.secret, want->secret, 32);
    id_encode(&view, named, count, &launch->id);
    sodium_memzero(&view, sizeof(view));
    return CHOIR_OK;
}

enum choir_status launch_meet(const struct meeting *m, uint64_t deadline_ns,
                              struct boot_launch *launch)
{
    struct server_want want = {0};
    enum choir_status s = make_secret(m, launch->size, &want);
    if (!s)
        s = launch->rank ? point(m, deadline_ns, &want, launch)
                         : serve(m, deadline_ns, &want, launch);
    sodium_memzero(&want, sizeof(want));
    return s;
}
