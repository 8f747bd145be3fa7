/* SPDX-License-Identifier: Apache-2.0 */
/* test_boot_wire.c: what strangers, broken clients and liars send to a rendezvous port, while a job goes on. */
#include "base/knob.h"
#include "boot/address.h"
#include "boot/channel.h"
#include "boot/roster.h"
#include "tests/lib/test.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sodium.h>
#include <unistd.h>

static uint64_t in_ms(uint64_t ms)
{
    return base_now_ns() + ms * 1000000u;
}

static struct id_view decode(const struct choir_id *id)
{
    struct id_view v;
    CHECK_OK(id_view(id, &v));
    return v;
}

/* A plain connection to the id's loopback address. */
static int dial(const struct id_view *v)
{
    struct sockaddr_storage to;
    const struct address *a = &v->address[v->count - 1];
    socklen_t length = address_to_socket(a, v->port, &to);
    int fd = socket(a->family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_LE(0, fd);
    CHECK_EQ(connect(fd, (struct sockaddr *)&to, length), 0);
    return fd;
}

static void send_bytes(int fd, const void *data, size_t bytes)
{
    (void)!send(fd, data, bytes, MSG_NOSIGNAL);
}

/* Whether the server hangs up within the time. */
static bool hung_up(int fd, int ms)
{
    char buffer[4096];
    uint64_t until = in_ms((uint64_t)ms);
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        uint64_t now = base_now_ns();
        if (now >= until || poll(&p, 1, (int)((until - now) / 1000000u) + 1) != 1)
            return false;
        ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            return true;
    }
}

/* The job that has to go on: two ranks, joined in the end by one thread. */
static void job_completes(const struct choir_id *id)
{
    struct boot_join *j[2];
    struct boot_peers p[2];
    enum choir_status s[2] = {CHOIR_IN_PROGRESS, CHOIR_IN_PROGRESS};
    for (uint32_t r = 0; r < 2; r++)
        CHECK_OK(boot_join_start(id, r, 2, "x", r, in_ms(10000), &j[r]));
    while (s[0] == CHOIR_IN_PROGRESS || s[1] == CHOIR_IN_PROGRESS)
        for (int r = 0; r < 2; r++)
            if (s[r] == CHOIR_IN_PROGRESS)
                s[r] = boot_join_test(j[r], &p[r]);
    for (int r = 0; r < 2; r++) {
        CHECK_EQ(s[r], CHOIR_OK);
        boot_peers_free(&p[r]);
    }
}

/* An honest client's channel, handshake done. */
static struct channel open_channel(const struct id_view *v)
{
    struct channel c;
    uint16_t type;
    const uint8_t *body;
    uint32_t bytes;
    int fd = dial(v);
    CHECK_EQ(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    CHECK_EQ(channel_init(&c, fd, false, v->secret, FRAME_WELCOME_MOST), CHOIR_OK);
    for (int i = 0; i < 5000 && !c.open; i++, usleep(1000))
        CHECK_EQ(channel_receive(&c, &type, &body, &bytes), CHOIR_IN_PROGRESS);
    CHECK(c.open);
    return c;
}

/* The next frame, or the status that ends the channel. */
static enum choir_status next_frame(struct channel *c, uint16_t *type, const uint8_t **body,
                                    uint32_t *bytes, int ms)
{
    enum choir_status s = CHOIR_IN_PROGRESS;
    for (uint64_t until = in_ms((uint64_t)ms); s == CHOIR_IN_PROGRESS && base_now_ns() < until;
         usleep(500))
        s = channel_receive(c, type, body, bytes);
    return s;
}

/* --- strangers --------------------------------------------------------------------------------- */
static void garbage(void)
{
    struct choir_id id;
    CHECK_OK(boot_id_create(&id));
    struct id_view v = decode(&id);
    static const char *const said[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                                       "SSH-2.0-OpenSSH_9.2\r\n",
                                       "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\n", ""};
    int fd[base_count(said)];
    for (size_t i = 0; i < base_count(said); i++) {
        char padded[CHANNEL_HELLO_BYTES] = {0};
        fd[i] = dial(&v);
        memcpy(padded, said[i], strlen(said[i]));
        send_bytes(fd[i], padded, sizeof(padded));
        CHECK(hung_up(fd[i], 2000));
        close(fd[i]);
    }
    /* the right magic and nothing right behind it */
    uint8_t hello[CHANNEL_HELLO_BYTES];
    randombytes_buf(hello, sizeof(hello));
    memcpy(hello, "Choir-b?", 8);
    put32(hello + 8, CHANNEL_VERSION);
    int one = dial(&v);
    send_bytes(one, hello, sizeof(hello));
    CHECK(hung_up(one, 2000));
    close(one);
    job_completes(&id);
}

static void wrong_secret(void)
{
    struct choir_id id, forged;
    struct boot_join *j;
    struct boot_peers p;
    CHECK_OK(boot_id_create(&id));
    struct id_view v = decode(&id), f = v;
    f.secret[5] ^= 1;
    id_encode(&f, v.address, v.count, &forged);
    uint64_t begun = base_now_ns();
    CHECK_OK(boot_join_start(&forged, 0, 2, NULL, 0, in_ms(10000), &j));
    enum choir_status s;
    while ((s = boot_join_test(j, &p)) == CHOIR_IN_PROGRESS)
        boot_join_wait(j, UINT64_MAX);
    CHECK_EQ(s, CHOIR_ERR_AUTH);
    CHECK(strstr(base_error_thread()->text, "another id or secret") != NULL);
    CHECK_LT(base_now_ns() - begun, INT64_C(3000000000));
    job_completes(&id);
}

/* The name of a secret can be copied from the wire; without the secret the first frame does not verify. */
static void replayed_hello(void)
{
    struct choir_id id;
    CHECK_OK(boot_id_create(&id));
    struct id_view v = decode(&id);
    uint8_t message[CHANNEL_HELLO_BYTES + 200];
    randombytes_buf(message, sizeof(message));
    memcpy(message, "Choir-b?", 8);
    put32(message + 8, CHANNEL_VERSION);
    boot_secret_name(v.secret, message + 16);
    put32(message + CHANNEL_HELLO_BYTES, 150);
    put32(message + CHANNEL_HELLO_BYTES + 4, FRAME_JOIN);
    int fd = dial(&v);
    send_bytes(fd, message, sizeof(message));
    CHECK(hung_up(fd, 2000));
    close(fd);
    job_completes(&id);
}

/* A server that lies: it knows the name but not the secret. The client goes on to the next address. */
static void false_server(void)
{
    struct choir_id id, both;
    CHECK_OK(boot_id_create(&id));
    struct id_view v = decode(&id);
    struct address loopback = {.family = AF_INET, .ip = {127, 0, 0, 9}};
    struct sockaddr_storage at;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    socklen_t length = address_to_socket(&loopback, v.port, &at);
    CHECK_EQ(bind(fd, (struct sockaddr *)&at, length), 0);
    CHECK_EQ(listen(fd, 8), 0);
    struct address list[2] = {loopback, v.address[v.count - 1]};
    id_encode(&v, list, 2, &both);
    struct boot_join *j;
    struct boot_peers p;
    CHECK_OK(boot_join_start(&both, 0, 1, NULL, 0, in_ms(8000), &j));
    CHECK_EQ(boot_join_test(j, &p), CHOIR_IN_PROGRESS);
    int c = accept(fd, NULL, NULL);
    CHECK_LE(0, c);
    uint8_t reply[CHANNEL_REPLY_BYTES];
    randombytes_buf(reply, sizeof(reply));
    memcpy(reply, "Choir-b!", 8);
    put32(reply + 8, CHANNEL_VERSION);
    put32(reply + 12, CHANNEL_ACCEPTED);
    send_bytes(c, reply, sizeof(reply));
    enum choir_status s;
    while ((s = boot_join_test(j, &p)) == CHOIR_IN_PROGRESS)
        boot_join_wait(j, UINT64_MAX);
    CHECK_EQ(s, CHOIR_OK);
    boot_peers_free(&p);
    close(c);
    close(fd);
}

static void other_protocol_version(void)
{
    struct choir_id id;
    CHECK_OK(boot_id_create(&id));
    struct id_view v = decode(&id);
    uint8_t hello[CHANNEL_HELLO_BYTES] = {0}, reply[CHANNEL_REPLY_BYTES];
    memcpy(hello, "Choir-b?", 8);
    put32(hello + 8, CHANNEL_VERSION + 1);
    boot_secret_name(v.secret, hello + 16);
    int fd = dial(&v);
    send_bytes(fd, hello, sizeof(hello));
    CHECK_EQ(recv(fd, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
    CHECK(!memcmp(reply, "Choir-b!", 8));
    CHECK_EQ(get32(reply + 8), CHANNEL_VERSION);
    CHECK_EQ(get32(reply + 12), CHANNEL_OTHER_VERSION);
    close(fd);
    job_completes(&id);
}

/* --- slow ones and many -------------------------------------------------------------------------- */
/* Hundreds of connections that say nothing, or a byte now and then, hold nobody up. */
static void slow_loris(void)
{
    enum { MANY = 300 };
    static int fd[MANY];
    struct choir_id id;
    CHECK_OK(boot_id_create(&id));
    struct id_view v = decode(&id);
    for (int i = 0; i < MANY; i++) {
        fd[i] = dial(&v);
        if (i % 3)
            send_bytes(fd[i], "Choir-b?", (size_t)(i % 9));
    }
    uint64_t begun = base_now_ns();
    job_completes(&id);
    CHECK_LT(base_now_ns() - begun, INT64_C(2000000000));
    for (int i = 0; i < MANY; i++)
        close(fd[i]);
}

/* A byte at a time is still a client. */
static void byte_by_byte(void)
{
    struct choir_id id;
    CHECK_OK(boot_id_create(&id));
    struct id_view v = decode(&id);
    uint8_t hello[CHANNEL_HELLO_BYTES], reply[CHANNEL_REPLY_BYTES];
    randombytes_buf(hello, sizeof(hello));
    memcpy(hello, "Choir-b?", 8);
    put32(hello + 8, CHANNEL_VERSION);
    boot_secret_name(v.secret, hello + 16);
    int fd = dial(&v);
    for (size_t i = 0; i < sizeof(hello); i++) {
        send_bytes(fd, hello + i, 1);
        usleep(300);
    }
    CHECK_EQ(recv(fd, reply, sizeof(reply), MSG_WAITALL), sizeof(reply));
    CHECK_EQ(get32(reply + 12), CHANNEL_ACCEPTED);
    close(fd);
    job_completes(&id);
}

/* --- those who know the secret but talk nonsense ---------------------------------------------------- */
static void bad_frames(void)
{
    struct choir_id id;
    CHECK_OK(boot_id_create(&id));
    struct id_view v = decode(&id);
    uint8_t body[FRAME_JOIN_MOST + 64] = {0};
    uint16_t type;
    const uint8_t *answer;
    uint32_t bytes;
    static const struct {
        uint16_t type;
        uint32_t bytes;
    } bad[] = {{FRAME_JOIN, 0},
               {FRAME_JOIN, FRAME_JOIN_BYTES - 1},
               {FRAME_WELCOME, 16},
               {FRAME_ERROR, FRAME_ERROR_BYTES},
               {FRAME_PROBE, 1},
               {FRAME_PARK, 4},
               {FRAME_TYPES, 8},
               {FRAME_JOIN, FRAME_JOIN_MOST + 1},
               {FRAME_JOIN, FRAME_JOIN_BYTES + 10}};
    for (size_t i = 0; i < base_count(bad); i++) {
        struct channel c = open_channel(&v);
        CHECK_EQ(channel_send(&c, bad[i].type, body, bad[i].bytes), CHOIR_OK);
        enum choir_status s = next_frame(&c, &type, &answer, &bytes, 3000);
        CHECK(s == CHOIR_ERR_PEER_DEAD || s == CHOIR_ERR_NETWORK);
        channel_free(&c);
    }
    /* a flipped bit */
    struct channel c = open_channel(&v);
    struct join_message m = {.version = choir_version(), .size = 2, .rank = 1, .address = body};
    c.send_key[3] ^= 4;
    CHECK_EQ(channel_send(&c, FRAME_JOIN, body, join_encode(&m, body)), CHOIR_OK);
    enum choir_status s = next_frame(&c, &type, &answer, &bytes, 3000);
    CHECK(s == CHOIR_ERR_PEER_DEAD || s == CHOIR_ERR_NETWORK);
    channel_free(&c);
    /* absurd numbers get an answer and harm nobody */
    static const struct {
        uint32_t size, rank;
    } absurd[] = {
        {0, 0}, {UINT32_MAX, 0}, {UINT32_MAX, UINT32_MAX}, {1, 1}, {ROSTER_SIZE_MOST + 1, 0}};
    for (size_t i = 0; i < base_count(absurd); i++) {
        c = open_channel(&v);
        m.size = absurd[i].size;
        m.rank = absurd[i].rank;
        CHECK_EQ(channel_send(&c, FRAME_JOIN, body, join_encode(&m, body)), CHOIR_OK);
        CHECK_EQ(next_frame(&c, &type, &answer, &bytes, 3000), CHOIR_OK);
        struct verdict verdict;
        CHECK_EQ(type, FRAME_ERROR);
        CHECK(verdict_decode(answer, bytes, &verdict));
        CHECK_EQ(verdict.status, CHOIR_ERR_RANK);
        channel_free(&c);
    }
    job_completes(&id);
}

static void other_library_version(void)
{
    struct choir_id id;
    CHECK_OK(boot_id_create(&id));
    struct id_view v = decode(&id);
    struct boot_join *j;
    struct boot_peers p;
    CHECK_OK(boot_join_start(&id, 0, 2, NULL, 0, in_ms(8000), &j));
    for (int i = 0; i < 50; i++, usleep(1000))
        CHECK_EQ(boot_join_test(j, &p), CHOIR_IN_PROGRESS);
    uint8_t body[FRAME_JOIN_MOST];
    struct join_message m = {
        .version = 20304, .size = 2, .rank = 1, .pid = 77, .remaining_ns = 1u << 30};
    strcpy(m.host, "elsewhere\n");
    struct channel c = open_channel(&v);
    CHECK_EQ(channel_send(&c, FRAME_JOIN, body, join_encode(&m, body)), CHOIR_OK);
    uint16_t type;
    const uint8_t *answer;
    uint32_t bytes;
    CHECK_EQ(next_frame(&c, &type, &answer, &bytes, 3000), CHOIR_OK);
    struct verdict verdict;
    CHECK(type == FRAME_ERROR && verdict_decode(answer, bytes, &verdict));
    CHECK(strstr(verdict.text, "host elsewhere?, pid 77) runs library version 2.3.4") != NULL);
    channel_free(&c);
    enum choir_status s;
    while ((s = boot_join_test(j, &p)) == CHOIR_IN_PROGRESS)
        boot_join_wait(j, UINT64_MAX);
    CHECK_EQ(s, CHOIR_ERR_ARGUMENT);
    CHECK_STR(base_error_thread()->text, verdict.text);
}

/* A rank whose connection breaks comes again, and is not taken for a second one. */
static void broken_connection(void)
{
    struct choir_id id;
    CHECK_OK(boot_id_create(&id));
    struct id_view v = decode(&id);
    uint8_t body[FRAME_JOIN_MOST];
    struct join_message m = {
        .version = choir_version(), .size = 2, .rank = 1, .remaining_ns = UINT64_C(1) << 33};
    randombytes_buf(m.token, sizeof(m.token));
    for (int i = 0; i < 5; i++) {
        struct channel c = open_channel(&v);
        CHECK_EQ(channel_send(&c, FRAME_JOIN, body, join_encode(&m, body)), CHOIR_OK);
        usleep(20000);
        if (i == 2)
            CHECK_EQ(fcntl(dup(c.fd), F_GETFD), 0); /* leaves one open: the new one replaces it */
        channel_free(&c);
    }
    struct channel c = open_channel(&v);
    CHECK_EQ(channel_send(&c, FRAME_JOIN, body, join_encode(&m, body)), CHOIR_OK);
    struct boot_peers p;
    CHECK_OK(boot_join(&id, 0, 2, NULL, 0, in_ms(5000), NULL, &p));
    boot_peers_free(&p);
    uint16_t type;
    const uint8_t *answer;
    uint32_t bytes;
    CHECK_EQ(next_frame(&c, &type, &answer, &bytes, 3000), CHOIR_OK);
    CHECK_EQ(type, FRAME_WELCOME);
    channel_free(&c);
}

/* --- fuzz: seconds of random messages, half of them nearly right --------------------------------------- */
static void fuzz_stranger(const struct id_view *v, uint64_t *random)
{
    uint8_t message[512];
    size_t bytes = base_random(random) % sizeof(message);
    for (size_t i = 0; i < sizeof(message); i++)
        message[i] = (uint8_t)base_random(random);
    uint64_t how = base_random(random);
    if (how & 1)
        memcpy(message, "Choir-b?", 8);
    if (how & 2)
        put32(message + 8, CHANNEL_VERSION);
    if (how & 4)
        boot_secret_name(v->secret, message + 16);
    if (how & 8)
        put32(message + CHANNEL_HELLO_BYTES, (uint32_t)(base_random(random) % 2000));
    if (how & 16)
        put32(message + CHANNEL_HELLO_BYTES + 4, 1 + (uint32_t)(base_random(random) % 8));
    int fd = dial(v);
    send_bytes(fd, message, bytes);
    if (how & 32)
        hung_up(fd, 2);
    close(fd);
}

static void fuzz_insider(const struct id_view *v, uint64_t *random)
{
    uint8_t body[FRAME_JOIN_MOST];
    struct channel c = open_channel(v);
    for (size_t i = 0; i < sizeof(body); i++)
        body[i] = (uint8_t)base_random(random);
    uint32_t bytes = (uint32_t)(base_random(random) % sizeof(body));
    uint16_t type = (uint16_t)(1 + base_random(random) % (FRAME_TYPES - 1));
    if (type == FRAME_JOIN && bytes >= FRAME_JOIN_BYTES) {
        put32(body, choir_version());
        put32(body + 12, bytes - FRAME_JOIN_BYTES + (base_random(random) % 4 == 0));
        put32(body + 4, 0); /* a size that is refused: the job is to go on */
    }
    (void)!channel_send(&c, type, body, bytes);
    const uint8_t *answer;
    (void)!next_frame(&c, &type, &answer, &bytes, 2);
    channel_free(&c);
}

static void fuzz(void)
{
    struct choir_id id;
    uint64_t random = test_seed(), until = in_ms(2000);
    int rounds = 0;
    CHECK_OK(boot_id_create(&id));
    struct id_view v = decode(&id);
    for (; base_now_ns() < until; rounds++) {
        fuzz_stranger(&v, &random);
        if (rounds % 8 == 0)
            fuzz_insider(&v, &random);
    }
    printf("fuzz: %d messages\n", rounds);
    job_completes(&id);
}

/* The client's parsers: a lying server that knows the secret. */
static void fuzz_client(void)
{
    uint64_t random = test_seed() + 1, until = in_ms(1500);
    struct id_view v = {.port = 1, .ports = 1};
    struct address loopback = {.family = AF_INET, .ip = {127, 0, 0, 1}};
    struct sockaddr_storage at;
    socklen_t length = address_to_socket(&loopback, 0, &at);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK_EQ(bind(listener, (struct sockaddr *)&at, length), 0);
    CHECK_EQ(listen(listener, 8), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&at, &length), 0);
    CHECK(address_from_socket((struct sockaddr *)&at, &loopback, &v.port));
    CHECK_OK(boot_begin());
    for (int round = 0; base_now_ns() < until; round++) {
        struct choir_id id;
        struct boot_join *j;
        struct boot_peers p;
        randombytes_buf(v.secret, 32);
        id_encode(&v, &loopback, 1, &id);
        CHECK_OK(boot_join_start(&id, 1, 20, NULL, 0, in_ms(50), &j));
        CHECK_EQ(boot_join_test(j, &p), CHOIR_IN_PROGRESS);
        struct channel c;
        int fd = -1;
        while (fd < 0)
            fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        CHECK_EQ(channel_init(&c, fd, true, v.secret, FRAME_JOIN_MOST), CHOIR_OK);
        enum choir_status s = CHOIR_IN_PROGRESS;
        bool told = false;
        while (s == CHOIR_IN_PROGRESS) {
            uint16_t type;
            const uint8_t *got;
            uint32_t bytes;
            uint8_t body[FRAME_WELCOME_MOST];
            if (!told && channel_receive(&c, &type, &got, &bytes) == CHOIR_OK) {
                for (size_t i = 0; i < sizeof(body); i++)
                    body[i] = (uint8_t)base_random(&random);
                bytes = (uint32_t)(base_random(&random) % 200);
                put32(body + 8, 20);
                put32(body + 12, (uint32_t)(base_random(&random) % 11));
                put32(body + 16, (uint32_t)(base_random(&random) % 21));
                put32(body + 20, (uint32_t)(base_random(&random) % 120));
                type = (uint16_t)(1 + base_random(&random) % (FRAME_TYPES - 1));
                CHECK_EQ(channel_send(&c, type, body, bytes), CHOIR_OK);
                told = true;
            }
            s = boot_join_test(j, &p);
        }
        if (s == CHOIR_OK)
            boot_peers_free(&p);
        channel_free(&c);
        for (fd = 0; fd >= 0;) { /* what it dialled again meanwhile */
            fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (fd >= 0)
                close(fd);
        }
    }
    close(listener);
}

/* --- pieces that need no server -------------------------------------------------------------------------- */
static void roster_alone(void)
{
    struct roster r = {0};
    struct verdict refusal = {0};
    struct join_message m = {
        .version = choir_version(), .size = 5, .rank = 4, .remaining_ns = 1000};
    char text[200];
    CHECK_EQ(roster_join(&r, &m, 0, &refusal), ROSTER_WAIT);
    CHECK_EQ(roster_join(&r, &m, 0, &refusal), ROSTER_WAIT); /* the same token: the same rank */
    CHECK_EQ(r.here, 1);
    CHECK_EQ(roster_missing(&r, text, sizeof(text)), 0);
    CHECK_STR(text, "ranks 0-3 of 5");
    m.rank = 2;
    CHECK_EQ(roster_join(&r, &m, 0, &refusal), ROSTER_WAIT);
    roster_missing(&r, text, sizeof(text));
    CHECK_STR(text, "ranks 0-1, 3 of 5");
    CHECK(!roster_tick(&r, 999));
    roster_leave(&r, 2, 500);
    CHECK_EQ(roster_join(&r, &m, 400, &refusal), ROSTER_WAIT);
    CHECK(!roster_tick(&r, 600));
    roster_leave(&r, 2, 700);
    CHECK(roster_tick(&r, 700));
    CHECK_EQ(r.verdict.status, CHOIR_ERR_PEER_DEAD);
    CHECK_EQ(r.verdict.peer, 2);
    CHECK(!roster_tick(&r, 2000));
    m.rank = 0;
    CHECK_EQ(roster_join(&r, &m, 800, &refusal), ROSTER_TELL);
    roster_free(&r);
}

static void interface_lists(void)
{
    static const struct {
        const char *list, *name;
        bool allowed;
    } row[] = {{"", "eth0", true},
               {"eth", "eth0", true},
               {"eth", "ens3", false},
               {"eth,ens", "ens3", true},
               {"=eth0", "eth0", true},
               {"=eth", "eth0", false},
               {"^docker", "docker0", false},
               {"^docker", "eth0", true},
               {"^=lo", "lo0", true},
               {"^=lo", "lo", false},
               {"=a,b", "b", true},
               {",,eth", "eth1", true},
               {"^", "eth0", true},
               {"eth0", "eth", false}};
    for (size_t i = 0; i < base_count(row); i++)
        if (address_interface_allowed(row[i].list, row[i].name) != row[i].allowed)
            FAIL("\"%s\" and %s", row[i].list, row[i].name);
}

static void id_room(void)
{
    struct id_view v = {.port = 7, .ports = 17, .maybe_late = true, .insecure = true}, w;
    struct address many[40];
    struct choir_id id;
    for (size_t i = 0; i < base_count(many); i++) {
        many[i] = (struct address){.family = i % 2 ? AF_INET6 : AF_INET};
        for (int k = 0; k < (i % 2 ? 16 : 4); k++)
            many[i].ip[k] = (uint8_t)(10 + i + (size_t)k);
    }
    many[38] = (struct address){.family = AF_INET, .ip = {127, 0, 0, 1}};
    many[39] = (struct address){.family = AF_INET6, .ip = {[15] = 1}};
    id_encode(&v, many, 40, &id);
    CHECK_OK(id_view(&id, &w));
    CHECK(w.insecure && w.maybe_late && w.port == 7 && w.ports == 17);
    CHECK_LE(8, w.count);
    CHECK(address_equal(&w.address[0], &many[0]));
    CHECK(address_equal(&w.address[w.count - 2], &many[38]));
    CHECK(address_equal(&w.address[w.count - 1], &many[39]));
}

TEST_MAIN(TEST(roster_alone), TEST(interface_lists), TEST(id_room), TEST(garbage),
          TEST(wrong_secret), TEST(replayed_hello), TEST(false_server),
          TEST(other_protocol_version), TEST(slow_loris), TEST(byte_by_byte), TEST(bad_frames),
          TEST(other_library_version), TEST(broken_connection), TEST(fuzz), TEST(fuzz_client))
