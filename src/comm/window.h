/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.h: windows, for what works on them: window.c (life, and what is mapped here), window_device.c (parts in GPU memory) and
 * put.c (puts, signals, waits).
 */
#ifndef COMM_WINDOW_H
#define COMM_WINDOW_H

#include "comm/comm.h"
#include "cuda/window.h"

enum window_where {
    WINDOW_HOST,
    WINDOW_GPU,
    /* refused by all ranks: GPU memory */
    WINDOW_STAGED, /* that goes through the host */
    WINDOW_SEALED  /* that cannot be exported */
};
struct window_card { /* what a rank tells the others of its part */
    uint64_t key, offset, bytes, address;
    uint64_t part, bell_key;
    uint32_t transport_name, bell_transport_name; /* hashes; 0: cannot be mapped */
    uint32_t where, unused;
    struct cuda_part gpu; /* sent where it is set, behind the rest */
};
#define WINDOW_CARD_BYTES(where)                                                                   \
    (uint32_t)((where) == WINDOW_GPU ? sizeof(struct window_card)                                  \
                                     : offsetof(struct window_card, gpu))
struct window_gpu { /* a rank's part, mapped here */
    uint8_t *memory;
    uint64_t opened;
};
struct choir_window {
    struct choir_comm *comm;
    struct window_card *card; /* [size] */
    pthread_mutex_t lock;     /* mapped: a stream's put, and the program asking for an address */
    void **mapped;            /* [size] what was mapped, to be unmapped; NULL: not yet */
    struct host_part part;    /* this rank's */
    struct window_gpu *gpu;   /* [size], all mapped at creation; NULL: no part is in GPU memory */
};

/* Of all ranks, each with a blob of at least so many bytes. Waits for them. */
enum choir_status window_agree(struct choir_comm *c, const void *blob, uint32_t bytes,
                               uint32_t least, struct tree_answers *answers);
bool window_same_process(const struct choir_window *w, uint32_t peer);
/* Which way bytes to the peer's part go: fills to, address and end of the put. CHOIR_IN_PROGRESS: call again. */
enum choir_status window_way(struct choir_window *w, uint32_t peer, struct host_put *put);

/* window_device.c */
/* What the card says of memory that is a GPU's; leaves it as it is for other memory. */
enum choir_status window_gpu_describe(struct choir_comm *c, const void *memory, uint64_t bytes,
                                      struct window_card *card);
/* Once all cards are here: all ranks refuse what one cannot do. */
enum choir_status window_gpu_open(struct choir_window *w);
void window_gpu_close(struct choir_window *w);

#endif
