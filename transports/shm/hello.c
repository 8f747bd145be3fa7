/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hello.c: two processes prove to each other which process they are and that they know the same secret, and
 * try what works between them: passing descriptors, which must, and reading memory, which may not.
 */
#include "shm.h"
#include "base/knob.h"
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Before the hello: its next message proves that the pid is still the peer's. With descriptors running short the
 * socket must do: it tells the same, but for a child of the peer that holds it open. */
static int open_process(pid_t pid)
{
    struct rlimit limit;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd >= 0 && !getrlimit(RLIMIT_NOFILE, &limit) && (rlim_t)fd > limit.rlim_cur / 4 * 3) {
        close(fd);
        fd = -1;
    }
    return fd;
}

bool shm_check_peer(struct choir_endpoint *ep, char *text, size_t bytes)
{
    struct ucred c = {.uid = (uid_t)-1};
    socklen_t n = sizeof(c);
    if (getsockopt(ep->fd, SOL_SOCKET, SO_PEERCRED, &c, &n)) {
        snprintf(text, bytes, "the kernel does not say who the peer is");
        return false;
    }
    ep->pid = c.pid > 0 ? c.pid : 0; /* as we see it; 0: in a pid namespace that we do not see */
    ep->pid_fd = ep->pid ? open_process(ep->pid) : -1;
    if (c.uid == geteuid() || knob_int(KNOB_INSECURE))
        return true;
    snprintf(text, bytes, "process %ld has user id %ld, not %ld", (long)c.pid, (long)c.uid,
             (long)geteuid());
    return false;
}

static bool find_secret(struct choir_transport *t, const unsigned char *name,
                        unsigned char name_out[16], unsigned char secret[32])
{
    return t->host.secret && t->host.secret(t->host.context, name, name_out, secret);
}

/* Where no side has a secret the key is zero: then the kernel's word on the user id is the only proof. */
static bool secret_of(struct choir_transport *t, const struct shm_intro *intro,
                      unsigned char secret[32])
{
    unsigned char name[16];
    memset(secret, 0, 32);
    return !intro->has_secret || find_secret(t, intro->secret_name, name, secret);
}

void shm_mac(const char *label, const unsigned char secret[32], const struct shm_intro *dialer,
             const struct shm_intro *acceptor, unsigned char mac[32])
{
    crypto_generichash_state s;
    crypto_generichash_init(&s, secret, 32, 32);
    crypto_generichash_update(&s, (const unsigned char *)label, strlen(label) + 1);
    crypto_generichash_update(&s, (const unsigned char *)dialer, sizeof(*dialer));
    crypto_generichash_update(&s, (const unsigned char *)acceptor, sizeof(*acceptor));
    crypto_generichash_final(&s, mac, 32);
    sodium_memzero(&s, sizeof(s));
}

static bool mac_is(const char *label, struct choir_transport *t, const struct shm_intro *dialer,
                   const struct shm_intro *acceptor, const unsigned char mac[32])
{
    unsigned char secret[32], expected[32];
    bool known = secret_of(t, acceptor, secret);
    shm_mac(label, secret, dialer, acceptor, expected);
    sodium_memzero(secret, sizeof(secret));
    return known && !sodium_memcmp(mac, expected, 32);
}

void shm_make_intro(struct choir_transport *t, const struct choir_process *peer,
                    struct shm_intro *intro)
{
    memset(intro, 0, sizeof(*intro));
    intro->magic = SHM_MAGIC;
    intro->self = t->host.self;
    intro->peer = *peer;
    randombytes_buf(intro->nonce, sizeof(intro->nonce));
    intro->cookie_at = (uint64_t)(uintptr_t)t->cookie;
    memcpy(intro->cookie_hash, t->cookie_hash, sizeof(intro->cookie_hash));
}

/* Tells the peer why not, and gives up. `what` may be told to a stranger. */
static void refuse(struct choir_endpoint *ep, enum choir_status status, const char *what)
{
    struct shm_refuse no = {.status = status};
    snprintf(no.text, sizeof(no.text), "%s", what);
    shm_post_hello(ep, SHM_REFUSE, &no, sizeof(no), -1);
    shm_fail(ep, status, 0, "%s", what);
}

static void refused(struct choir_endpoint *ep, const struct shm_refuse *no)
{
    char text[sizeof(no->text)];
    memcpy(text, no->text, sizeof(text));
    text[sizeof(text) - 1] = 0;
    enum choir_status status = (enum choir_status)no->status;
    if (status != CHOIR_ERR_AUTH && status != CHOIR_ERR_UNSUPPORTED)
        status = CHOIR_ERR_PROTOCOL;
    shm_fail(ep, status, 0, "the peer refused: %s", text);
}

/* The peer's memfd holds what its introduction says. */
static bool descriptor_works(const struct shm_intro *intro, int fd)
{
    unsigned char got[32], hash[32];
    if (fd < 0 || pread(fd, got, sizeof(got), 0) != sizeof(got))
        return false;
    crypto_generichash(hash, sizeof(hash), got, sizeof(got), NULL, 0);
    return !memcmp(hash, intro->cookie_hash, sizeof(hash));
}

static const char no_descriptors[] = "descriptors cannot be passed between the two processes";
static const char no_secret[] = "the two processes do not know the same secret";

enum choir_status shm_introduce(struct choir_endpoint *ep)
{
    struct choir_transport *t = ep->transport;
    unsigned char secret[32];
    shm_make_intro(t, &ep->peer, &ep->mine);
    ep->mine.has_secret = find_secret(t, NULL, ep->mine.secret_name, secret);
    sodium_memzero(secret, sizeof(secret));
    int e = shm_post_hello(ep, SHM_INTRO, &ep->mine, sizeof(ep->mine), t->probe_fd);
    if (e == EPIPE || e == ECONNRESET)
        return shm_error(CHOIR_ERR_PEER_DEAD, e, "look at the peer's log",
                         "the peer process ended");
    if (e)
        return shm_error(CHOIR_ERR_UNSUPPORTED, e, "let the transport tcp be used",
                         "cannot pass a descriptor");
    return CHOIR_OK;
}

static bool check_intro(struct choir_endpoint *ep, const struct shm_intro *intro)
{
    const struct choir_process *self = &ep->transport->host.self;
    if (intro->magic != SHM_MAGIC)
        refuse(ep, CHOIR_ERR_PROTOCOL, "not the same version of choir");
    else if (memcmp(&intro->peer, self, sizeof(*self)))
        refuse(ep, CHOIR_ERR_PROTOCOL, "this is another process than the one you look for");
    else if (!memcmp(&intro->self, self, sizeof(*self)) ||
             (!ep->accepted && memcmp(&intro->self, &ep->peer, sizeof(*self))))
        refuse(ep, CHOIR_ERR_PROTOCOL, "the process is not who it should be");
    else
        return true;
    return false;
}

/* Accepting side. The secret is the one the dialer names; if unknown, our newest: the dialer may know that. */
static void on_intro(struct choir_endpoint *ep, const struct shm_intro *theirs, int fd)
{
    struct choir_transport *t = ep->transport;
    struct shm_answer answer;
    unsigned char secret[32] = {0};
    ep->theirs = *theirs;
    if (!check_intro(ep, theirs))
        return;
    ep->peer = theirs->self;
    shm_make_intro(t, &ep->peer, &answer.intro);
    bool named =
        theirs->has_secret && find_secret(t, theirs->secret_name, answer.intro.secret_name, secret);
    if (named)
        memcpy(answer.intro.secret_name, theirs->secret_name, sizeof(theirs->secret_name));
    answer.intro.has_secret = named || find_secret(t, NULL, answer.intro.secret_name, secret);
    if (!answer.intro.has_secret != !theirs->has_secret) {
        refuse(ep, CHOIR_ERR_AUTH, no_secret);
    } else if (!descriptor_works(theirs, fd)) {
        refuse(ep, CHOIR_ERR_UNSUPPORTED, no_descriptors);
    } else {
        ep->mine = answer.intro;
        shm_mac("choir shm answer", secret, theirs, &ep->mine, answer.mac);
        int e = shm_post_hello(ep, SHM_ANSWER, &answer, sizeof(answer), t->probe_fd);
        if (e)
            shm_fail(ep, CHOIR_ERR_NETWORK, e, "cannot answer");
        else
            atomic_store(&ep->state, SHM_WAIT_PROOF);
    }
    sodium_memzero(secret, sizeof(secret));
}

static void set_caps(struct choir_endpoint *ep)
{
    bool reads = shm_can_read(ep, &ep->theirs);
    bool fast = reads && shm_reads_fast();
    atomic_store(&ep->caps,
                 CHOIR_CAP_MAP | (reads ? CHOIR_CAP_READ : 0) | (fast ? CHOIR_CAP_READ_FAST : 0));
}

static void on_answer(struct choir_endpoint *ep, const struct shm_answer *answer, int fd)
{
    struct choir_transport *t = ep->transport;
    struct shm_proof proof;
    unsigned char secret[32];
    ep->theirs = answer->intro;
    if (!check_intro(ep, &ep->theirs))
        return;
    if (!ep->theirs.has_secret != !ep->mine.has_secret ||
        !mac_is("choir shm answer", t, &ep->mine, &ep->theirs, answer->mac)) {
        refuse(ep, CHOIR_ERR_AUTH, no_secret);
        return;
    }
    if (!descriptor_works(&ep->theirs, fd)) {
        refuse(ep, CHOIR_ERR_UNSUPPORTED, no_descriptors);
        return;
    }
    set_caps(ep);
    secret_of(t, &ep->theirs, secret);
    shm_mac("choir shm proof", secret, &ep->mine, &ep->theirs, proof.mac);
    sodium_memzero(secret, sizeof(secret));
    atomic_store(&ep->state, SHM_WAIT_READY);
    int e = shm_post_hello(ep, SHM_PROOF, &proof, sizeof(proof), t->wake_fd);
    if (e)
        shm_fail(ep, CHOIR_ERR_NETWORK, e, "cannot prove who we are");
}

/* The peer's wake-up descriptor; false: it did not come. */
static bool take_wake_fd(struct choir_endpoint *ep, int *fd)
{
    if (*fd < 0) {
        refuse(ep, CHOIR_ERR_UNSUPPORTED, no_descriptors);
        return false;
    }
    atomic_store(&ep->wake_fd, *fd);
    *fd = -1;
    return true;
}

static void on_proof(struct choir_endpoint *ep, const struct shm_proof *proof, int *fd)
{
    struct choir_transport *t = ep->transport;
    if (!mac_is("choir shm proof", t, &ep->theirs, &ep->mine, proof->mac)) {
        refuse(ep, CHOIR_ERR_AUTH, no_secret);
        return;
    }
    if (!take_wake_fd(ep, fd))
        return;
    set_caps(ep);
    shm_settle(ep);
}

void shm_hello(struct choir_endpoint *ep, enum shm_kind kind, const void *body, int fd)
{
    union {
        struct shm_intro intro;
        struct shm_answer answer;
        struct shm_proof proof;
        struct shm_refuse refuse;
    } m;
    if (kind == SHM_INTRO) {
        memcpy(&m.intro, body, sizeof(m.intro));
        on_intro(ep, &m.intro, fd);
    } else if (kind == SHM_ANSWER) {
        memcpy(&m.answer, body, sizeof(m.answer));
        on_answer(ep, &m.answer, fd);
    } else if (kind == SHM_PROOF) {
        memcpy(&m.proof, body, sizeof(m.proof));
        on_proof(ep, &m.proof, &fd);
    } else if (kind == SHM_READY) {
        if (take_wake_fd(ep, &fd)) {
            pthread_mutex_lock(&ep->lock);
            shm_set_up(ep);
            pthread_mutex_unlock(&ep->lock);
        }
    } else {
        memcpy(&m.refuse, body, sizeof(m.refuse));
        refused(ep, &m.refuse);
    }
    if (fd >= 0)
        close(fd);
}
