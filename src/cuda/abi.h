/* SPDX-License-Identifier: Apache-2.0 */
/*
 * abi.h: what the host writes and kernels read, and what lies in the memory that GPUs share. C and CUDA C: no _Atomic, no
 * flexible arrays. Lengths and offsets of plans are in elements, as in choir_plan; the kernels know the element's bytes.
 *
 * Every rank of a communicator that has a GPU owns a mailbox in its memory, which the GPUs of the host map. In it, each
 * (sender, lane) has its own words and buffers, so that nobody ever shares one: a lane is a block of a kernel, and its
 * numbers run on from operation to operation, in device memory, so that a graph's replays advance them too.
 */
#ifndef CUDA_ABI_H
#define CUDA_ABI_H

#include <stdint.h>

#define CUDA_RANKS 16u  /* of a host, that map each other */
#define CUDA_LANES 128u /* of an operation, at most: fewer than an H100 has multiprocessors */
#define CUDA_SLOT_LANES CUDA_LANES /* of one that goes through slots */
#define CUDA_THREADS 512u
#define CUDA_DEPTH 4u /* slots of a (sender, lane) */
#define CUDA_SLOT_BYTES 65536u
/* Flagged words: 16 bytes carry 8 of data and two flags. Flagged lines: 128 bytes carry 120 and one flag. */
#define CUDA_LL_BYTES 4096u /* of data a lane's message may have */
#define CUDA_LL_LINES (CUDA_LL_BYTES / 8u)
#define CUDA_WIDE_BYTES 16800u
#define CUDA_WIDE_LINES (CUDA_WIDE_BYTES / 120u)
#define CUDA_LL_DEPTH 2u

/* --- in the mailbox ------------------------------------------------------------------------------ */

/* Written by the peer, read by the owner. Of the peer's messages to the owner: arrived and header; of the owner's to the
 * peer: consumed. */
struct cuda_post {
    uint64_t arrived[CUDA_DEPTH];   /* by slot: number of the fragment, from 1, << 32 | signature */
    uint64_t consumed;              /* fragments read */
    uint64_t ll_consumed;           /* flagged messages read */
    uint64_t header[CUDA_LL_DEPTH]; /* of a flagged message: its flag << 32 | signature */
    uint64_t hello;                 /* moved at creation, to see that the path carries bytes */
    uint64_t signal; /* of lane s, not of a lane at all: times that the peer has raised signal s */
    uint64_t unused[6];
};

/* Where things of (sender `from`, lane) begin in a mailbox of a communicator of `ranks`. */
static inline
#ifdef __CUDACC__
    __host__ __device__
#endif
        uint64_t
        cuda_index(uint32_t from, uint32_t lane)
{
    return (uint64_t)from * CUDA_LANES + lane;
}
#define CUDA_POST_AT(ranks, from, lane) (cuda_index(from, lane) * sizeof(struct cuda_post))
#define CUDA_LL_SPAN ((uint64_t)CUDA_LL_LINES * 16u) /* of one message */
#define CUDA_WIDE_SPAN ((uint64_t)CUDA_WIDE_LINES * 128u)
#define CUDA_LL_AT(ranks, from, lane)                                                              \
    (CUDA_POST_AT(ranks, ranks, 0) + cuda_index(from, lane) * CUDA_LL_DEPTH * CUDA_LL_SPAN)
#define CUDA_WIDE_AT(ranks, from, lane)                                                            \
    (CUDA_LL_AT(ranks, ranks, 0) + cuda_index(from, lane) * CUDA_LL_DEPTH * CUDA_WIDE_SPAN)
#define CUDA_SLOT_AT(ranks, from, lane)                                                            \
    (CUDA_WIDE_AT(ranks, ranks, 0) +                                                               \
     ((uint64_t)(from)*CUDA_SLOT_LANES + (lane)) * CUDA_DEPTH * CUDA_SLOT_BYTES)
#define CUDA_MAILBOX_BYTES(ranks) CUDA_SLOT_AT(ranks, ranks, 0)

/* --- a communicator, as its kernels see it ---------------------------------------------------------- */

/* Own, of (peer, lane). */
struct cuda_count {
    uint32_t ll_sent, ll_received, ll_acked,
        unused; /* flagged messages; acked: of those sent, read by the peer */
    uint32_t sent, received, consumed; /* fragments through slots, likewise */
    uint32_t
        signal; /* of lane CUDA_RAISED(s): signal s, at the peer; of CUDA_TAKEN(s): of the peer, waited for */
};
#define CUDA_RAISED(signal) (signal)
#define CUDA_TAKEN(signal) (CUDA_LANES / 2 + (signal))
enum cuda_fault {
    CUDA_FAULT_NONE,
    CUDA_FAULT_ABORT,    /* the host said stop */
    CUDA_FAULT_LATE,     /* `peer` did not come in time */
    CUDA_FAULT_SIGNATURE /* `peer` makes another call: its signature is `seen` */
};
struct cuda_state {  /* device memory */
    uint32_t poison; /* enum cuda_fault: kernels return at once */
    uint32_t marks;  /* left so far */
    uint32_t unused[30];
};
struct cuda_report { /* pinned host memory; written once, code last */
    uint32_t code, peer, lane, signature, number;
    uint32_t seen; /* CUDA_FAULT_LATE: after so many milliseconds */
    /* Of a wait that has lasted 100 ms: the peer + 1, and what changes while it lasts. No fault, and told by any thread. */
    uint32_t waiting, tick;
};
struct cuda_guard { /* the way out of a wait */
    struct cuda_state *state;
    struct cuda_report *report;
    const uint32_t *abort; /* pinned host memory: not 0: stop */
    uint64_t limit_ns;     /* a wait that lasts longer fails */
};
struct cuda_view { /* what is needed first comes first */
    uint32_t rank, ranks;
    struct cuda_count *count; /* [ranks * CUDA_LANES] */
    struct cuda_guard guard;
    uint8_t *mailbox[CUDA_RANKS]; /* of every rank, mapped here; own too */
};

/* --- exchanges: every message comes from local memory, every result from messages and local memory ------- */

#define CUDA_SENDS 16u
#define CUDA_RESULTS 17u
#define CUDA_SOURCES 33u
#define CUDA_LOCAL 0xffffffffu
/* A message is cut into as many pieces as its own length says, so that only its two ends need to know it; piece i is lane i's,
 * and lanes beyond have no part in it. */
struct cuda_send {
    uint64_t off, len; /* of IN, the whole part */
    uint32_t peer, lanes;
};
struct cuda_source {
    uint64_t off;  /* local: of IN */
    uint32_t peer; /* CUDA_LOCAL: none */
    uint32_t unused;
};
struct cuda_result { /* of OUT */
    uint64_t off, len;
    uint32_t first, count;  /* sources, in the order of combination */
    uint32_t lanes, unused; /* as of the messages among them */
};
struct cuda_exchange {
    uint32_t sends, results, sources;
    uint32_t lanes; /* the most of any message: the blocks of the kernel */
    struct cuda_send send[CUDA_SENDS];
    struct cuda_result result[CUDA_RESULTS];
    struct cuda_source source[CUDA_SOURCES];
};
struct cuda_adjust {
    uint32_t divide_in, divide_out; /* local inputs, results are divided by it, unless 0 */
    uint32_t scaled, unused;        /* local inputs are multiplied by *scale, or `scalar` if NULL */
    const uint8_t *scale;
    uint64_t scalar;
};
struct cuda_exchange_call {
    struct cuda_view view;
    const uint8_t *in;
    uint8_t *out;
    uint32_t signature, elem; /* elem: bytes of an element */
    uint32_t in_place;        /* IN and OUT overlap */
    uint32_t teams;           /* of the stream kernel: in which each half of a block works */
    struct cuda_adjust adjust;
    struct cuda_exchange what;
};

/* --- exchanges of short messages with one peer ----------------------------------------------------------
 * A message each way at most, one result of the message (and of local memory), one local copy: what the same words mean to
 * the peer as in any exchange, with parameters that a kernel has read in no time. */

/* A length of elements cut as everywhere: piece i, one of `lanes`, begins at each * i + (more * i * share >> CUDA_SHARE_BITS). */
#define CUDA_SHARE_BITS 21
struct cuda_pieces {
    uint32_t lanes, each, more, share; /* lanes 0: there is no message */
};
struct cuda_pair_call {
    struct cuda_count *count;       /* [CUDA_LANES], own, of the peer */
    const struct cuda_state *state; /* that of the guard */
    uint8_t *to_peer;               /* buffers of lane 0 in its mailbox, of the kernel's form */
    const uint8_t *from_peer;       /* and in the own one */
    struct cuda_post *theirs, *own; /* [CUDA_LANES], in the peer's and the own mailbox */
    const uint8_t *send, *local;    /* the message out; the result's local source, or NULL */
    uint8_t *result;
    struct cuda_pieces sends, takes; /* of the message out; of the one in and its result */
    uint32_t elem, signature, peer;
    uint16_t local_first; /* the local source comes before the message */
    uint16_t local_sent;  /* the local source is the message out */
    uint8_t *copy_to;     /* NULL: no copy */
    const uint8_t *copy_from;
    uint64_t copy_bytes;
    struct cuda_adjust adjust;
    struct cuda_guard guard;
    uint8_t *words, *lines; /* as from_peer, of both forms */
};

/* --- any plan (bind.c makes these tables) ----------------------------------------------------------- */

/* A part, in elements: where it begins in its buffer, and how long it is: of TMP without a table, as the part that measures it.
 * Of a plan with several instances each part is cut into pieces. */
struct cuda_seg {
    uint64_t off, len;
};
enum cuda_cut {
    CUDA_CUT_NONE,   /* all of the segment */
    CUDA_CUT_LENGTH, /* as long as the instance's piece, from the segment's start on: TMP */
    CUDA_CUT_PIECE   /* the instance's piece */
};
struct cuda_place {
    int32_t peer; /* < 0: local */
    uint8_t buf;  /* enum choir_buffer */
    uint8_t cut;  /* enum cuda_cut */
    uint16_t unused;
    uint32_t seg, segs; /* of a message: only where its step has nothing local to measure it by */
};
struct cuda_step {
    uint32_t place; /* ins, then outs */
    uint16_t ins, outs, msg_ins, msg_outs;
    uint32_t measure; /* index of a place whose segments say how many bytes the step moves */
};
#define CUDA_PLACES 64u /* of a step, at most */
struct cuda_plan {
    uint32_t programs, instances, window, elem;
    uint64_t slot;          /* elements of a fragment */
    uint64_t tmp_bytes;     /* of one live instance */
    uint32_t most_pendings; /* messages posted by an instance; and receives, below */
    uint32_t receives;      /* steps at the end of a group, taken in whatever order they can be */
    const uint32_t *begin;  /* [programs + 1]: first step of each */
    const struct cuda_step *step;
    const struct cuda_place *place;
    const struct cuda_seg *seg;
};
/* What a lane keeps of a message that streams in the background. */
struct cuda_pending {
    uint32_t place, peer; /* its source; to whom, CUDA_LOCAL once all of it is sent */
    uint64_t done, bytes;
};
struct cuda_plan_call {
    struct cuda_view view;
    const uint8_t *in;
    uint8_t *out;
    uint32_t signature, unused;
    struct cuda_plan plan;
    uint8_t *tmp;                 /* [window][tmp_bytes] */
    uint8_t *staging;             /* [window][CUDA_SLOT_BYTES] */
    struct cuda_pending *pending; /* [window][most_pendings] */
};

/* --- signals (window.c): their numbers wrap, so a wait is for less than half of them ---------------------- */

struct cuda_raise_call {
    struct cuda_guard guard;
    uint32_t *raised; /* own count of (peer, signal) */
    uint64_t *signal; /* in the peer's mailbox */
};
#define CUDA_WAITS 16u
struct cuda_signal_wait {
    uint32_t peer, signal, count, unused;
};
struct cuda_take_call {
    struct cuda_guard guard;
    struct cuda_count *count;     /* [ranks * CUDA_LANES] */
    const struct cuda_post *post; /* [ranks * CUDA_LANES], in the own mailbox */
    uint32_t waits, unused;
    struct cuda_signal_wait wait[CUDA_WAITS];
};

/* --- GPU memory through the host (staged.c) -------------------------------------------------------------- */

#define CUDA_RING                                                                                  \
    1024u /* posts that the host has not taken yet: a stream waits for its last but one */
#define CUDA_ITEMS 16384u     /* operations queued or captured */
struct cuda_ring {            /* pinned host memory */
    uint64_t post[CUDA_RING]; /* number of the post, from 1, << 32 | item */
    uint32_t taken;           /* by the host */
    uint32_t abort;           /* nobody takes any more */
    uint32_t unused[14];
};
struct cuda_post_call {
    struct cuda_ring *ring;
    uint32_t *number; /* device memory: posts of the communicator */
    uint32_t *posts;  /* device memory: of the item */
    uint32_t item, unused;
};
struct cuda_wait_call {
    const struct cuda_ring *ring;
    const uint32_t *
        posts; /* device memory: of the item, of which `count` need not be done; NULL: `count` must */
    const uint32_t *done; /* pinned: posts of the item that the host is done with */
    uint32_t count, unused;
};

/* --- when an operation's kernels begin and end, for observers (mark.c) ------------------------------------ */

#define CUDA_MARKS 2048u /* newer ones take the place of older ones, read or not */
struct cuda_mark {
    uint64_t
        number; /* in the ring: of the mark, from 1 and modulo 2^32, | CUDA_MARK_WHOLE; 0: it is being written */
    uint64_t id; /* of the operation's event */
    uint64_t time_ns;
    uint32_t end, unused; /* 0: of a begin */
};
#define CUDA_MARK_WHOLE (1ull << 32)
struct cuda_marks { /* pinned host memory */
    struct cuda_mark mark[CUDA_MARKS];
};
struct cuda_mark_call {
    struct cuda_marks *marks;
    uint32_t *number; /* device memory */
    uint64_t id;
    uint32_t end, unused;
};

#endif
