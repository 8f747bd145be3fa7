/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h: the CUDA engine as src/comm sees it: a communicator's GPU side, and running plans there. Needs no CUDA toolkit
 * (absent.c). The engine knows ranks, plans and memory; how ranks meet is comm's business.
 *
 *   mailbox.c   memory that the GPUs of a host share, and what kernels are told of it
 *   meet.c      how its ranks map it       suspend.c  giving it back and taking it again
 *   share.c     memory by physical memory and addresses             handover.c descriptors of it, from process to process
 *   form.c      exchanges, recognised from the steps of plans      bind.c   tables of any plan
 *   bound.c     a plan made ready to launch                         launch.c launching it     piece.c its memory
 *   pair.c      exchanges with one peer                            timing.c  how long operations take
 *   mark.c      when an operation's kernels begin and end
 *   facts.c     what decides how fast GPUs reach each other
 *   window.c    windows, signals (window.h)                          order.c  operations in several streams (order.h)
 *   kernel/     what runs on the GPU
 */
#ifndef CUDA_ENGINE_H
#define CUDA_ENGINE_H

#include "cuda/abi.h"
#include "cuda/cuda.h"
#include "plan/plan.h"

struct cuda_comm;  /* of one rank */
struct cuda_bound; /* a plan, ready to be launched again and again */
struct cuda_device;
struct cuda_timing; /* of operations of a communicator that is being created */

/* How ranks share GPU memory. */
enum cuda_way {
    CUDA_BY_HANDLE, /* cuMemAlloc, and CUDA IPC */
    CUDA_BY_MAPPING /* cuMemMap of physical memory, whose descriptors go from process to process */
};
/* What the other ranks need to know of a rank's GPU. */
struct cuda_card {
    uint32_t present; /* 0: the rank has none, and nothing else is set */
    uint32_t off;     /* it is not to be mapped */
    int32_t ordinal;  /* in its own process */
    uint32_t way;     /* enum cuda_way; all ranks' must be one */
    uint8_t uuid[16];
    uint64_t what;           /* it is: a hash of its name and abilities */
    char pci[16];            /* where it is */
    uint64_t address, bytes; /* of its mailbox, in its own process; bytes 0: it has none */
    uint64_t room;           /* by mapping: what is to be mapped */
    uint8_t handle[64]; /* for other processes of the host: CUDA's, or where descriptors are left */
};
/* The device of the thread's current context, if the process uses CUDA; else *device = NULL, which is no error. */
enum choir_status cuda_here(struct cuda_device **device);
/* Makes the GPU side of a communicator whose ranks, at most CUDA_RANKS, map each other's memory: by mapping if the device and
 * CHOIR_CUDA_VMM allow it. After an error *comm = NULL. */
enum choir_status cuda_comm_open(struct cuda_device *device, uint32_t rank, uint32_t ranks,
                                 uint64_t limit_ns, struct cuda_card *card,
                                 struct cuda_comm **comm);
/* Other memory, by handle: not all ranks could share by mapping. Once none of them maps any. */
enum choir_status cuda_comm_reopen(struct cuda_comm *comm, struct cuda_card *card);
/* Three steps, each once all ranks have done the one before. card[r], same_process[r]: of rank r; the record names the rank that
 * cannot be reached. Lets the others map this rank's mailbox; maps theirs and writes a word into each; whether words have come. */
enum choir_status cuda_comm_offer(struct cuda_comm *comm, const struct cuda_card *card,
                                  const bool *same_process);
enum choir_status cuda_comm_meet(struct cuda_comm *comm, const struct cuda_card *card,
                                 const bool *same_process);
enum choir_status cuda_comm_prove(struct cuda_comm *comm);
/* Its kernels end, now and later; any thread, no CUDA call. */
void cuda_comm_abort(struct cuda_comm *comm);
/* What made a kernel give up; false: nothing did. Any thread, no CUDA call. */
bool cuda_comm_fault(const struct cuda_comm *comm, struct cuda_report *report);
/* For whom its kernels have waited for 100 ms or more; *tick changes while they do. False: they have not. No CUDA call. */
bool cuda_comm_waiting(const struct cuda_comm *comm, uint32_t *peer, uint32_t *tick);
/* Waits until its kernels have ended, with all else in the GPU's context. */
enum choir_status cuda_comm_quiesce(struct cuda_comm *comm);

enum cuda_way cuda_comm_way(const struct cuda_comm *comm);
/* Messages to and from each rank, modulo 2^32: equal at both ends if all have been received. */
struct cuda_tally {
    uint32_t sent[CUDA_RANKS], received[CUDA_RANKS];
};
/* Suspending one that shares by mapping, a step once all ranks have done the one before. Waits until its kernels have ended, and makes
 * room for what must last; copies that to host memory and gives back all GPU memory, others' mappings and its own, but not the
 * addresses. */
enum choir_status cuda_comm_rest(struct cuda_comm *comm, struct cuda_tally *tally);
enum choir_status cuda_comm_release(struct cuda_comm *comm);
/* Takes memory at the same addresses, with what was saved; offer, meet and prove follow, or cuda_comm_release again. */
enum choir_status cuda_comm_restore(struct cuda_comm *comm, struct cuda_card *card);
void cuda_comm_forget(struct cuda_comm *comm);          /* what was saved: it goes on as before */
uint64_t cuda_comm_saved(const struct cuda_comm *comm); /* bytes of that */
uint64_t cuda_comm_suspended(const struct cuda_comm *comm); /* bytes of GPU memory given back */

/* After that: frees what peers cannot reach any more; the rest goes once they have closed too. */
void cuda_comm_close(struct cuda_comm *comm);
int cuda_comm_ordinal(const struct cuda_comm *comm); /* of its device */
/* Of GPU memory that it holds for messages; tables of plans are not in it. */
uint64_t cuda_comm_bytes(const struct cuda_comm *comm);

/* Makes a plan ready. plans: all ranks' plans [ranks], or only this rank's, the others NULL, where each knows its own sizes
 * only. elem: bytes of an element. scratch_bytes: room for scaled inputs, if any are to be. Which kernels run it depends on
 * what all ranks know, so that both ends of a message agree. */
enum choir_status cuda_bound_create(struct cuda_comm *comm, const struct choir_plan *const *plans,
                                    uint32_t elem, uint64_t scratch_bytes,
                                    struct cuda_bound **bound);
void cuda_bound_free(void *bound);
/* Frees one that was launched into the stream, or not at all, and never again. NULL: nothing to do. */
void cuda_bound_used(struct cuda_bound *bound, struct CUstream_st *stream);

struct cuda_work {
    const struct cuda_bound *bound;
    struct CUstream_st *stream;
    const void *in;
    void *out;
    uint64_t in_bytes, out_bytes;
    enum choir_type type;
    choir_op op; /* of a reduction: a built-in one */
    bool reduces, in_place;
    uint32_t signature;
    uint32_t divide_in, divide_out; /* by so much, unless 0 */
    uint64_t limit_ns;              /* a kernel waits no longer for a peer; 0: the communicator's */
    uint32_t max_blocks;            /* of its kernels; 0: as many as have room */
    bool scaled;                    /* local inputs are multiplied by *scale */
    const void *scale; /* on the host it is read now, on the device when the kernel runs */
    uint64_t mark; /* marks are left before and behind its kernels, with this number; 0: none are */
};
/* Puts the operation into the stream; returns at once. */
enum choir_status cuda_enqueue(struct cuda_comm *comm, const struct cuda_work *work);

/* Whether what is put into the stream becomes part of a graph. */
enum choir_status cuda_comm_capturing(const struct cuda_comm *comm, struct CUstream_st *stream,
                                      bool *capturing);
/* One thread: the next mark, if it has come; *lost: so many before it were written over. No CUDA call. */
bool cuda_comm_next_mark(struct cuda_comm *comm, struct cuda_mark *mark, uint32_t *lost);

/* --- for the constants of links (src/comm/tune.c) --------------------------------------------------------- */

/* What is to be known of the GPUs of all ranks, as this process sees them; and the own one's name. */
struct tuning_facts;
enum choir_status cuda_comm_facts(const struct cuda_comm *comm, const struct cuda_card *card,
                                  struct tuning_facts *facts, char name[96]);

/* Memory that plans will use, before there are any: two pieces, of 16 and 8 MiB. */
#define CUDA_SCRATCH_OUT (16u << 20)
#define CUDA_SCRATCH_IN (8u << 20)
struct cuda_scratch {
    uint8_t *out, *in;
};
struct cuda_scratch cuda_comm_scratch(const struct cuda_comm *comm);

/* Operations that are repeated: `warm` times, then `batches` times `each`. */
#define CUDA_BATCHES 8u
struct cuda_repeat {
    const struct cuda_bound *bound;
    uint32_t warm, batches, each;
};
/* Puts all of them into the communicator's own stream, one repetition after the other, and returns. limit_ns: how long their
 * kernels wait for peers. Not more than some hundred launches. After an error kernels may be under way: abort. */
enum choir_status cuda_timing_start(struct cuda_comm *comm, const struct cuda_repeat *repeat,
                                    uint32_t repeats, uint64_t limit_ns,
                                    struct cuda_timing **timing);
/* CHOIR_OK: all have ended. took[i]: by one operation, over the batches of a repetition; all_ns: by all that was timed. */
struct cuda_took {
    double least_ns, median_ns;
};
enum choir_status cuda_timing_test(struct cuda_timing *timing, struct cuda_took *took,
                                   double *all_ns);
void cuda_timing_free(struct cuda_timing *timing);

#endif
