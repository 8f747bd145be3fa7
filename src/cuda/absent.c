/* SPDX-License-Identifier: Apache-2.0 */
/*
 * absent.c: all of cuda.h, engine.h, staged.h and window.h in a library that was built without the CUDA toolkit: every question has
 * the answer "no".
 */
#include "cuda/engine.h"
#include "cuda/order.h"
#include "cuda/overlap.h"
#include "cuda/staged.h"
#include "cuda/window.h"
#include <stdio.h>

static enum choir_status absent(void)
{
    return base_fail(CHOIR_ERR_UNSUPPORTED,
                     "build with nvcc in PATH, or with CUDA_HOME set, see README.md",
                     "this library was built without CUDA");
}

const struct cuda_driver *cuda_driver(void)
{
    (void)absent();
    return NULL;
}

enum choir_status cuda_driver_init(void)
{
    return absent();
}

bool cuda_driver_in_use(void)
{
    return false;
}

bool cuda_driver_seen(void)
{
    return false;
}

enum choir_status cuda_device_of_pointer(const void *pointer, struct cuda_pointer *out)
{
    (void)pointer;
    *out = (struct cuda_pointer){.where = CUDA_HOST, .ordinal = -1};
    return CHOIR_OK;
}

enum choir_status cuda_stream_wait(struct CUstream_st *stream)
{
    (void)stream;
    return absent();
}

enum choir_status cuda_stream_query(struct CUstream_st *stream)
{
    (void)stream;
    return absent();
}

const struct cuda_image *cuda_image_at(uint32_t index)
{
    (void)index;
    return NULL;
}

const char *cuda_image_archs(void)
{
    return "";
}

void cuda_print(void *file)
{
    fprintf(file, "no GPU: this library was built without CUDA\n");
}

uint32_t cuda_names(char (*name)[96], uint32_t most, uint32_t *cuda)
{
    (void)name, (void)most;
    *cuda = 0;
    return 0;
}

/* --- engine.h: no communicator has a GPU side, so the rest is never called ------------------------------- */

enum choir_status cuda_here(struct cuda_device **device)
{
    *device = NULL;
    return CHOIR_OK;
}

enum choir_status cuda_comm_open(struct cuda_device *device, uint32_t rank, uint32_t ranks,
                                 uint64_t limit_ns, struct cuda_card *card, struct cuda_comm **comm)
{
    (void)device, (void)rank, (void)ranks, (void)limit_ns, (void)card;
    *comm = NULL;
    return absent();
}

enum choir_status cuda_comm_reopen(struct cuda_comm *comm, struct cuda_card *card)
{
    (void)comm, (void)card;
    return absent();
}

enum choir_status cuda_comm_offer(struct cuda_comm *comm, const struct cuda_card *card,
                                  const bool *same_process)
{
    (void)comm, (void)card, (void)same_process;
    return absent();
}

enum choir_status cuda_comm_meet(struct cuda_comm *comm, const struct cuda_card *card,
                                 const bool *same_process)
{
    (void)comm, (void)card, (void)same_process;
    return absent();
}

enum choir_status cuda_comm_prove(struct cuda_comm *comm)
{
    (void)comm;
    return absent();
}

void cuda_comm_abort(struct cuda_comm *comm)
{
    (void)comm;
}

bool cuda_comm_fault(const struct cuda_comm *comm, struct cuda_report *report)
{
    (void)comm, (void)report;
    return false;
}

bool cuda_comm_waiting(const struct cuda_comm *comm, uint32_t *peer, uint32_t *tick)
{
    (void)comm, (void)peer, (void)tick;
    return false;
}

enum choir_status cuda_comm_quiesce(struct cuda_comm *comm)
{
    (void)comm;
    return absent();
}

enum cuda_way cuda_comm_way(const struct cuda_comm *comm)
{
    (void)comm;
    return CUDA_BY_HANDLE;
}

enum choir_status cuda_comm_rest(struct cuda_comm *comm, struct cuda_tally *tally)
{
    (void)comm, (void)tally;
    return absent();
}

enum choir_status cuda_comm_release(struct cuda_comm *comm)
{
    (void)comm;
    return absent();
}

enum choir_status cuda_comm_restore(struct cuda_comm *comm, struct cuda_card *card)
{
    (void)comm, (void)card;
    return absent();
}

void cuda_comm_forget(struct cuda_comm *comm)
{
    (void)comm;
}

uint64_t cuda_comm_saved(const struct cuda_comm *comm)
{
    (void)comm;
    return 0;
}

uint64_t cuda_comm_suspended(const struct cuda_comm *comm)
{
    (void)comm;
    return 0;
}

void cuda_comm_close(struct cuda_comm *comm)
{
    (void)comm;
}

int cuda_comm_ordinal(const struct cuda_comm *comm)
{
    (void)comm;
    return -1;
}

uint64_t cuda_comm_bytes(const struct cuda_comm *comm)
{
    (void)comm;
    return 0;
}

enum choir_status cuda_bound_create(struct cuda_comm *comm, const struct choir_plan *const *plans,
                                    uint32_t elem, uint64_t scratch_bytes,
                                    struct cuda_bound **bound)
{
    (void)comm, (void)plans, (void)elem, (void)scratch_bytes, (void)bound;
    return absent();
}

void cuda_bound_free(void *bound)
{
    (void)bound;
}

void cuda_bound_used(struct cuda_bound *bound, struct CUstream_st *stream)
{
    (void)bound, (void)stream;
}

enum choir_status cuda_enqueue(struct cuda_comm *comm, const struct cuda_work *work)
{
    (void)comm, (void)work;
    return absent();
}

enum choir_status cuda_comm_facts(const struct cuda_comm *comm, const struct cuda_card *card,
                                  struct tuning_facts *facts, char name[96])
{
    (void)comm, (void)card, (void)facts, (void)name;
    return absent();
}

struct cuda_scratch cuda_comm_scratch(const struct cuda_comm *comm)
{
    (void)comm;
    return (struct cuda_scratch){NULL, NULL};
}

enum choir_status cuda_timing_start(struct cuda_comm *comm, const struct cuda_repeat *repeat,
                                    uint32_t repeats, uint64_t limit_ns,
                                    struct cuda_timing **timing)
{
    (void)comm, (void)repeat, (void)repeats, (void)limit_ns;
    *timing = NULL;
    return absent();
}

enum choir_status cuda_timing_test(struct cuda_timing *timing, struct cuda_took *took,
                                   double *all_ns)
{
    (void)timing, (void)took, (void)all_ns;
    return absent();
}

void cuda_timing_free(struct cuda_timing *timing)
{
    (void)timing;
}

enum choir_status cuda_comm_capturing(const struct cuda_comm *comm, struct CUstream_st *stream,
                                      bool *capturing)
{
    (void)comm, (void)stream, (void)capturing;
    return absent();
}

bool cuda_comm_next_mark(struct cuda_comm *comm, struct cuda_mark *mark, uint32_t *lost)
{
    (void)comm, (void)mark, (void)lost;
    return false;
}

/* --- order.h, likewise ------------------------------------------------------------------------------------ */

enum choir_status cuda_order_open(const struct cuda_device *device, struct cuda_order **order)
{
    (void)device;
    *order = NULL;
    return absent();
}

enum choir_status cuda_order_before(struct cuda_order *o, struct CUstream_st *stream)
{
    (void)o, (void)stream;
    return absent();
}

enum choir_status cuda_order_after(struct cuda_order *o, struct CUstream_st *stream)
{
    (void)o, (void)stream;
    return absent();
}

void cuda_order_close(struct cuda_order *o)
{
    (void)o;
}

/* --- overlap.h, likewise ---------------------------------------------------------------------------------- */

enum choir_status cuda_overlap_open(struct cuda_device *device, bool low,
                                    struct cuda_overlap **overlap)
{
    (void)device, (void)low;
    *overlap = NULL;
    return absent();
}

enum choir_status cuda_overlap_fork(struct cuda_overlap *o, struct CUstream_st *stream,
                                    struct CUstream_st **own)
{
    (void)o, (void)stream, (void)own;
    return absent();
}

enum choir_status cuda_overlap_join(struct cuda_overlap *o, struct CUstream_st *stream)
{
    (void)o, (void)stream;
    return absent();
}

void cuda_overlap_close(struct cuda_overlap *o)
{
    (void)o;
}

/* --- window.h, likewise ----------------------------------------------------------------------------------- */

enum choir_status cuda_part_describe(struct cuda_comm *comm, const void *memory, uint64_t bytes,
                                     struct cuda_part *part)
{
    (void)comm, (void)memory, (void)bytes, (void)part;
    return absent();
}

enum choir_status cuda_part_map(struct cuda_comm *comm, const struct cuda_part *part, uint32_t rank,
                                bool same_process, uint8_t **memory, uint64_t *opened)
{
    (void)comm, (void)part, (void)rank, (void)same_process, (void)memory, (void)opened;
    return absent();
}

void cuda_part_unmap(struct cuda_comm *comm, uint64_t opened)
{
    (void)comm, (void)opened;
}

enum choir_status cuda_put(struct cuda_comm *comm, struct CUstream_st *stream, void *to,
                           const void *from, uint64_t bytes)
{
    (void)comm, (void)stream, (void)to, (void)from, (void)bytes;
    return absent();
}

enum choir_status cuda_signal_raise(struct cuda_comm *comm, struct CUstream_st *stream,
                                    uint32_t peer, uint32_t signal)
{
    (void)comm, (void)stream, (void)peer, (void)signal;
    return absent();
}

enum choir_status cuda_signal_take(struct cuda_comm *comm, struct CUstream_st *stream,
                                   const struct cuda_signal_wait *wait, uint32_t waits)
{
    (void)comm, (void)stream, (void)wait, (void)waits;
    return absent();
}

/* --- staged.h, likewise ----------------------------------------------------------------------------------- */

enum choir_status cuda_staged_open(struct cuda_device *device, struct cuda_staged **staged)
{
    (void)device, (void)staged;
    return absent();
}

enum choir_status cuda_staged_alloc(struct cuda_staged *s, uint64_t bytes, uint8_t **memory)
{
    (void)s, (void)bytes, (void)memory;
    return absent();
}

uint64_t cuda_staged_pinned(const struct cuda_staged *s)
{
    (void)s;
    return 0;
}

uint64_t cuda_staged_device_bytes(const struct cuda_staged *s)
{
    (void)s;
    return 0;
}

int cuda_staged_ordinal(const struct cuda_staged *s)
{
    (void)s;
    return -1;
}

enum choir_status cuda_staged_capturing(struct cuda_staged *s, struct CUstream_st *stream,
                                        bool *capturing)
{
    (void)s, (void)stream, (void)capturing;
    return absent();
}

enum choir_status cuda_staged_copy(struct cuda_staged *s, struct CUstream_st *stream,
                                   const struct cuda_span *span, bool to_host)
{
    (void)s, (void)stream, (void)span, (void)to_host;
    return absent();
}

enum choir_status cuda_staged_post(struct cuda_staged *s, struct CUstream_st *stream, uint32_t item)
{
    (void)s, (void)stream, (void)item;
    return absent();
}

enum choir_status cuda_staged_wait(struct cuda_staged *s, struct CUstream_st *stream, uint32_t item,
                                   uint32_t later, bool captured)
{
    (void)s, (void)stream, (void)item, (void)later, (void)captured;
    return absent();
}

bool cuda_staged_next(struct cuda_staged *s, uint32_t *item)
{
    (void)s, (void)item;
    return false;
}

void cuda_staged_done(struct cuda_staged *s, uint32_t item)
{
    (void)s, (void)item;
}

enum choir_status cuda_staged_quiesce(struct cuda_staged *s)
{
    (void)s;
    return absent();
}

void cuda_staged_close(struct cuda_staged *s)
{
    (void)s;
}
