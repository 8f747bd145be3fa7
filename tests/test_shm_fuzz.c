/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shm transport against strangers and liars: random bytes, cut and altered hellos, wrong lengths, descriptors that
 * nobody asked for, on both sides. It must drop them, leak nothing, and serve an honest peer all the while.
 */
#include "tests/lib/mock_host.h"
#include "tests/lib/test.h"
#include "transports/shm/shm.h"
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

extern const struct choir_transport_ops choir_transport_shm;
static const struct choir_transport_ops *const ops = &choir_transport_shm;

/* victim and friend are real; the liar uses `own` only to make true introductions of its own. */
struct scene {
    struct mock_board *board;
    struct mock victim, friend, own;
    struct mock_peer *to_victim;
    uint64_t state; /* of the random numbers */
    int fds;        /* open at rest */
};

static uint64_t pick(struct scene *s, uint64_t below)
{
    return base_random(&s->state) % below;
}

static void scene_open(struct scene *s)
{
    enum choir_status status;
    s->board = mock_board_new();
    s->state = test_seed();
    mock_init(&s->victim, ops, 0);
    mock_init(&s->friend, ops, 1);
    mock_init(&s->own, ops, 2);
    mock_open(&s->victim, s->board);
    mock_open(&s->friend, s->board);
    mock_open(&s->own, s->board);
    s->to_victim = mock_connect(&s->friend, s->board, 0, &status);
    CHECK(s->to_victim != NULL);
    MOCK_UNTIL(&s->victim,
               (mock_progress(&s->friend), ops->connected(s->to_victim->endpoint) == CHOIR_OK));
    s->fds = test_open_files();
}

/* The honest peer is still served, and the liars left nothing behind. */
static void scene_check(struct scene *s)
{
    struct mock_send sent;
    uint64_t arrived = s->victim.arrived;
    CHECK_LE(0, mock_send(s->to_victim, 10000, &sent));
    MOCK_UNTIL(&s->victim, (mock_progress(&s->friend), s->victim.arrived == arrived + 1));
    MOCK_UNTIL(&s->friend, mock_sent(&sent));
    for (int i = 0; i < s->victim.peer_count; i++) {
        struct mock_peer *p = s->victim.peer[i];
        if (!p->accepted || !memcmp(&p->process, &s->friend.host.self, sizeof(p->process)))
            continue;
        MOCK_UNTIL(&s->victim, p->failed_count);
        CHECK_EQ(p->failed_count, 1);
        mock_drop(p);
        free(p->buffer);
        free(p);
        s->victim.peer[i--] = s->victim.peer[s->victim.peer_count - 1];
        s->victim.peer_count--;
    }
    MOCK_UNTIL(&s->victim, test_open_files() == s->fds);
    CHECK_EQ(s->victim.t->pending_count, 0);
}

static void scene_close(struct scene *s)
{
    mock_close(&s->friend);
    mock_close(&s->own);
    mock_close(&s->victim);
    mock_board_free(s->board);
}

static int dial_victim(struct scene *s)
{
    struct sockaddr_un name;
    socklen_t bytes;
    struct shm_address a;
    memcpy(&a, s->board->rank[0].address, sizeof(a));
    shm_socket_name(&s->victim.host.self, a.random, &name, &bytes);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK_LE(0, fd);
    CHECK_EQ(connect(fd, (struct sockaddr *)&name, bytes), 0);
    return fd;
}

/* Sends all of it unless the other side is gone; `count` copies of a descriptor with the first byte. */
static void put(int fd, const void *data, size_t bytes, int pass, int count, struct mock *reader)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(8 * sizeof(int))];
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t)data, bytes};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count) {
        int all[8];
        for (int i = 0; i < count; i++)
            all[i] = pass;
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(&control.head), all, (size_t)count * sizeof(int));
    }
    while (iov.iov_len) {
        ssize_t n = sendmsg(fd, &m, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return;
        if (n > 0) {
            iov.iov_base = (char *)iov.iov_base + n;
            iov.iov_len -= (size_t)n;
            m.msg_control = NULL;
            m.msg_controllen = 0;
        } else {
            mock_progress(reader);
        }
    }
}

/* Reads `bytes`, closing descriptors that come; false: the other side is gone. */
static bool get(int fd, void *data, size_t bytes, struct mock *writer)
{
    uint64_t end = base_now_ns() + 10000000000u;
    char room[CMSG_SPACE(4 * sizeof(int))];
    struct iovec iov = {data, bytes};
    while (iov.iov_len) {
        struct msghdr m = {
            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
        mock_progress(writer);
        ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return false;
        if (n < 0 && base_now_ns() > end)
            FAIL("the other side neither answers nor hangs up");
        if (n < 0)
            continue;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
            int got;
            memcpy(&got, CMSG_DATA(c), sizeof(got));
            close(got);
        }
        iov.iov_base = (char *)iov.iov_base + n;
        iov.iov_len -= (size_t)n;
    }
    return true;
}

/* Fails if it does not hang up. */
static void gone(int fd, struct mock *writer)
{
    char c;
    while (get(fd, &c, 1, writer))
        ;
}

struct message {
    struct shm_head head;
    unsigned char body[sizeof(struct shm_answer) + 64];
};

static size_t make(struct message *m, enum shm_kind kind, const void *body, size_t bytes, int fds)
{
    m->head = (struct shm_head){(uint32_t)bytes, (uint16_t)kind, (uint16_t)fds};
    if (bytes)
        memcpy(m->body, body, bytes);
    return sizeof(m->head) + bytes;
}

static const unsigned char no_key[32];

/* A true hello as the connecting side, up to `stage` messages of ours. In pieces of `piece` bytes. */
static int true_hello(struct scene *s, int stage, size_t piece)
{
    struct message m;
    struct {
        struct shm_head head;
        struct shm_answer answer;
    } got;
    struct shm_intro mine;
    struct shm_proof proof;
    int fd = dial_victim(s);
    shm_make_intro(s->own.t, &s->victim.host.self, &mine);
    if (stage < 1)
        return fd;
    size_t n = make(&m, SHM_INTRO, &mine, sizeof(mine), 1);
    for (size_t at = 0; at < n; at += piece)
        put(fd, (char *)&m + at, base_min(piece, n - at), s->own.t->probe_fd, at == 0, &s->victim);
    CHECK(get(fd, &got, sizeof(got), &s->victim));
    CHECK_EQ(got.head.kind, SHM_ANSWER);
    if (stage < 2)
        return fd;
    shm_mac("choir shm proof", no_key, &mine, &got.answer.intro, proof.mac);
    n = make(&m, SHM_PROOF, &proof, sizeof(proof), 1);
    for (size_t at = 0; at < n; at += piece) {
        put(fd, (char *)&m + at, base_min(piece, n - at), s->own.t->wake_fd, at == 0, &s->victim);
        mock_progress(&s->victim);
    }
    CHECK(get(fd, &got.head, sizeof(got.head), &s->victim));
    CHECK_EQ(got.head.kind, SHM_READY);
    return fd;
}

/* Random bytes, at every stage of a hello. */
static void garbage(void)
{
    struct scene s;
    unsigned char junk[5000];
    scene_open(&s);
    for (int i = 0; i < 3000; i++) {
        int fd = true_hello(&s, i % 3, 1000);
        size_t n = 1 + pick(&s, sizeof(junk));
        for (size_t k = 0; k < n; k++)
            junk[k] = (unsigned char)base_random(&s.state);
        if (pick(&s, 2)) { /* a likely header, to get further */
            struct shm_head h = {(uint32_t)pick(&s, 300), (uint16_t)pick(&s, SHM_KINDS + 1),
                                 (uint16_t)pick(&s, 3)};
            memcpy(junk, &h, base_min(sizeof(h), n));
        }
        put(fd, junk, n, s.own.t->probe_fd, (int)pick(&s, 7), &s.victim);
        for (int k = 0; k < 3; k++)
            mock_progress(&s.victim);
        close(fd);
        if (i % 50 == 49)
            scene_check(&s);
    }
    scene_close(&s);
}

/* A true message with some bits flipped, cut at any byte, or with the wrong number of descriptors. */
static void altered(void)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < 3000; i++) {
        struct shm_intro mine;
        struct message m;
        int fd = dial_victim(&s), fds = 1;
        shm_make_intro(s.own.t, &s.victim.host.self, &mine);
        size_t n = make(&m, SHM_INTRO, &mine, sizeof(mine), 1);
        int how = i % 4;
        if (how == 0)
            ((unsigned char *)&m)[pick(&s, n)] ^= (unsigned char)(1 << pick(&s, 8));
        else if (how == 1)
            n = pick(&s, n) + 1;
        else if (how == 2)
            fds = (int)pick(&s, 2) * 2;
        else
            m.head.bytes = (uint32_t)base_random(&s.state);
        put(fd, &m, n, s.own.t->probe_fd, fds, &s.victim);
        if (how == 3 || (how == 2 && !fds))
            gone(fd, &s.victim);
        else
            mock_progress(&s.victim);
        close(fd);
        if (i % 50 == 49)
            scene_check(&s);
    }
    CHECK_EQ(s.victim.peer_count, 1); /* nobody got in */
    scene_close(&s);
}

/* Knows the name of the victim's secret, not the secret; or, where there is none, sends a wrong proof. */
static void false_proof(void)
{
    struct scene s;
    scene_open(&s);
    for (int i = 0; i < 20; i++) {
        struct shm_intro mine;
        struct shm_proof proof;
        struct message m;
        struct {
            struct shm_head head;
            struct shm_answer answer;
        } got;
        s.victim.secret_count = i % 2;
        memset(s.victim.secrets[0], 's', sizeof(s.victim.secrets[0]));
        int fd = dial_victim(&s);
        shm_make_intro(s.own.t, &s.victim.host.self, &mine);
        mine.has_secret = (uint64_t)(i % 2);
        memset(mine.secret_name, i % 2 ? 's' : 0, sizeof(mine.secret_name));
        put(fd, &m, make(&m, SHM_INTRO, &mine, sizeof(mine), 1), s.own.t->probe_fd, 1, &s.victim);
        CHECK(get(fd, &got, sizeof(got), &s.victim));
        CHECK_EQ(got.head.kind, SHM_ANSWER);
        if (i == 2) /* plays the victim's own proof back */
            memcpy(proof.mac, got.answer.mac, sizeof(proof.mac));
        else
            shm_mac("choir shm proof", no_key, &mine, &got.answer.intro, proof.mac);
        if (i % 2 == 0 && i != 2)
            proof.mac[pick(&s, 32)] ^= (unsigned char)(1 << pick(&s, 8));
        put(fd, &m, make(&m, SHM_PROOF, &proof, sizeof(proof), 1), s.own.t->wake_fd, 1, &s.victim);
        gone(fd, &s.victim);
        close(fd);
    }
    CHECK_EQ(s.victim.peer_count, 1);
    scene_check(&s);
    scene_close(&s);
}

/* Each of these must end the connection: not only be ignored. */
static void broken_rules(void)
{
    struct scene s;
    struct message m;
    scene_open(&s);
    struct choir_frame f = {.bytes = 10, .kind = CHOIR_FRAME_DATA};
    struct shm_give give = {.key = 5};
    for (int i = 0; i < 9; i++) {
        int fd = true_hello(&s, 2, 1000), fds = 0;
        size_t n = make(&m, SHM_BYE, NULL, 0, 0);
        if (i == 0)
            n = make(&m, SHM_FRAME, &f, sizeof(f), 0); /* says 10 bytes, has none */
        else if (i == 1)
            n = make(&m, SHM_FRAME, &f, sizeof(f), 0), m.head.bytes = 30 << 20;
        else if (i == 2)
            n = make(&m, SHM_FRAME, &f, sizeof(f), 0), m.head.bytes--;
        else if (i == 3)
            n = make(&m, SHM_GIVE, &give, sizeof(give), 1), fds = 1; /* not asked for */
        else if (i == 4)
            n = make(&m, SHM_GIVE, &give, sizeof(give), 1); /* the descriptor is missing */
        else if (i == 5)
            m.head.kind = SHM_READY;
        else if (i == 6)
            m.head.kind = SHM_KINDS;
        else if (i == 7)
            m.head.bytes = 1;
        else
            fds = 5; /* more than may wait */
        put(fd, &m, n, s.own.t->probe_fd, fds, &s.victim);
        gone(fd, &s.victim);
        struct mock_peer *p = s.victim.peer[s.victim.peer_count - 1];
        CHECK_EQ(p->failed, CHOIR_ERR_PROTOCOL);
        close(fd);
        scene_check(&s);
    }
    scene_close(&s);
}

/* Asks for memory again and again and never reads the answers: dropped, not served without bound. */
static void flood(void)
{
    struct scene s;
    struct message m;
    struct shm_want want = {.key = 1};
    scene_open(&s);
    int fd = true_hello(&s, 2, 1000);
    size_t n = make(&m, SHM_WANT, &want, sizeof(want), 0);
    for (int i = 0; i < 200000 && s.victim.peer[1]->failed_count == 0; i++)
        put(fd, &m, n, -1, 0, &s.victim);
    MOCK_UNTIL(&s.victim, s.victim.peer[1]->failed_count);
    CHECK_EQ(s.victim.peer[1]->failed, CHOIR_ERR_PROTOCOL);
    close(fd);
    scene_check(&s);
    scene_close(&s);
}

/* Honest, but byte by byte, or in odd pieces: must work. */
static void pieces(void)
{
    struct scene s;
    struct message m;
    scene_open(&s);
    for (size_t piece = 1; piece < 300; piece += 1 + piece / 2) {
        int fd = true_hello(&s, 2, piece);
        struct mock_peer *p = s.victim.peer[s.victim.peer_count - 1];
        struct choir_frame f = {.bytes = 100, .kind = 1, .arg = {1, 2, 3}};
        size_t n = make(&m, SHM_FRAME, &f, sizeof(f), 0);
        m.head.bytes += f.bytes;
        memset((char *)&m + n, 7, f.bytes);
        n += f.bytes;
        for (int k = 0; k < 5; k++)
            for (size_t at = 0; at < n; at += piece) {
                put(fd, (char *)&m + at, base_min(piece, n - at), -1, 0, &s.victim);
                mock_progress(&s.victim);
            }
        MOCK_UNTIL(&s.victim, p->notes == 5);
        CHECK_EQ(p->note[2], 3);
        close(fd);
        scene_check(&s);
    }
    scene_close(&s);
}

/* The listener lies. */
static void false_listener(void)
{
    struct scene s;
    struct sockaddr_un name;
    socklen_t bytes;
    struct shm_address a;
    enum choir_status status;
    struct {
        struct shm_head head;
        struct shm_intro intro;
    } got;
    scene_open(&s);
    memcpy(&a, s.board->rank[2].address, sizeof(a));
    a.random ^= 1;
    memcpy(s.board->rank[2].address, &a, sizeof(a));
    shm_socket_name(&s.own.host.self, a.random, &name, &bytes);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(bind(listener, (struct sockaddr *)&name, bytes), 0);
    CHECK_EQ(listen(listener, 10), 0);
    for (int i = 0; i < 300; i++) {
        struct shm_answer answer;
        struct message m;
        int fds = 1;
        struct mock_peer *p = mock_connect(&s.victim, s.board, 2, &status);
        CHECK(p != NULL);
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        CHECK_LE(0, fd);
        CHECK(get(fd, &got, sizeof(got), &s.victim));
        shm_make_intro(s.own.t, &s.victim.host.self, &answer.intro);
        shm_mac("choir shm answer", no_key, &got.intro, &answer.intro, answer.mac);
        size_t n = make(&m, SHM_ANSWER, &answer, sizeof(answer), 1);
        if (i % 3 == 0) /* not bits of the cookie's address: that only loses the ability to read */
            ((unsigned char *)&m)[pick(&s, n)] ^= (unsigned char)(1 << pick(&s, 8));
        else if (i % 3 == 1)
            n = pick(&s, n);
        else
            fds = 0;
        put(fd, &m, n, s.own.t->probe_fd, fds, &s.victim);
        for (int k = 0; k < 3; k++)
            mock_progress(&s.victim);
        close(fd);
        CHECK_LT(mock_wait_connected(p), 0);
        CHECK_EQ(p->failed_count, 0);
        mock_drop(p);
        s.victim.peer_count--;
        free(p);
        if (i % 50 == 49) {
            s.fds++; /* the listener */
            scene_check(&s);
            s.fds--;
        }
    }
    close(listener);
    scene_close(&s);
}

TEST_MAIN(TEST(garbage), TEST(altered), TEST(false_proof), TEST(broken_rules), TEST(flood),
          TEST(pieces), TEST(false_listener))
