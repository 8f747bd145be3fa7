/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stub_host.h: the library's side of a transport, for tests of one: knobs and secrets from the test, payloads
 * checked byte by byte against a pattern that both ends compute, order checked per lane.
 */
#ifndef TESTS_STUB_HOST_H
#define TESTS_STUB_HOST_H

#include "base/base.h"
#include "choir_transport.h"
#include <pthread.h>

#define STUB_LANES 4
#define STUB_KNOBS 12
#define STUB_PEERS 32
#define STUB_ADDRESS 1024

struct stub;
struct stub_peer {
    struct stub *stub;
    struct choir_process process;
    struct choir_endpoint *endpoint;
    uint64_t sent[STUB_LANES], arrived[STUB_LANES]; /* frames by lane */
    uint64_t bytes;                                 /* of payload that arrived */
    uint64_t placed, discarded;
    int failed; /* calls */
    enum choir_status status;
    char text[256];
};

struct stub {
    struct choir_transport_host host;
    const struct choir_transport_ops *ops;
    struct choir_transport *t;
    const char *knob[STUB_KNOBS][2];
    bool has_secret, refuse, discard,
        unchecked; /* unchecked: payloads land in one buffer and are not looked at */
    unsigned char secret[32];
    struct stub_peer peer[STUB_PEERS];
    uint32_t peer_count, accepted_count;
    uint64_t arrived_count, log_count;
    char last_log[400];
    char *scratch;
    int watch_fd;
    void (*watch_fn)(void *);
    void *watch_arg;
    pthread_mutex_t driving; /* the library's try-lock round progress() */
    pthread_t service;
    _Atomic bool stop;
    bool serving;
    void (*on_arrived)(struct stub_peer *p, const struct choir_frame *frame, void *where);
};

void stub_init(struct stub *m, const struct choir_transport_ops *ops);
void stub_knob(struct stub *m, const char *name, const char *value);
void stub_secret(struct stub *m, const char *text); /* NULL: knows none */
void stub_open(struct stub *m);
void stub_close(struct stub *m);
size_t stub_address(struct stub *m, void *address); /* STUB_ADDRESS bytes */
struct stub_peer *stub_connect(struct stub *m, const struct choir_process *process,
                               const void *address, size_t bytes);
struct stub_peer *stub_peer_of(struct stub *m, const struct choir_process *process);
uint32_t stub_progress(struct stub *m);
/* A thread that sleeps on the watched descriptor, as the library's service thread does. */
void stub_service_start(struct stub *m);
void stub_service_stop(struct stub *m);

bool stub_kernel_zerocopy(void); /* it has MSG_ZEROCOPY */

/* The payload of frame `sequence` of `lane`: its size, and its bytes. */
uint32_t stub_frame_bytes(uint64_t seed, uint32_t lane, uint64_t sequence, uint32_t most);
void stub_fill(void *out, uint32_t bytes, uint32_t lane, uint64_t sequence);
bool stub_same(const void *in, uint32_t bytes, uint32_t lane, uint64_t sequence);
/* Sends the next frame of the lane; `payload` must live until request->done. */
enum choir_status stub_send(struct stub_peer *p, uint32_t lane, uint16_t kind, void *payload,
                            uint32_t bytes, struct choir_send *request);

/* Drives both (b may be NULL) until done(a, b). */
void stub_until(struct stub *a, struct stub *b, bool (*done)(struct stub *, struct stub *),
                uint64_t limit_ns, const char *what);
void stub_join(struct stub *a, struct stub *b); /* a connects to b, in this process */

/* Traffic: `frames` frames of mixed sizes and lanes; bounded under way; stub_flow_step queues what may be. */
#define STUB_UNDER_WAY 24
struct stub_flow {
    uint64_t seed, frames;
    uint32_t most;
    uint64_t next;
    void *payload[STUB_UNDER_WAY];
    struct choir_send request[STUB_UNDER_WAY];
    bool lent[STUB_UNDER_WAY];
};
void stub_flow_step(struct stub_flow *f, struct stub_peer *p);
bool stub_flow_done(struct stub_flow *f);
void stub_flow_free(struct stub_flow *f);
/* Both ways at once, each side the other's peer[0]. */
void stub_traffic(struct stub *a, struct stub *b, uint64_t frames, uint32_t most,
                  void (*meanwhile)(struct stub *, struct stub *));

#endif
