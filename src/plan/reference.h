/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reference.h: what reference.c (ranks, lanes, steps) and reference_wire.c (spans of memory, messages,
 * channels) of the reference interpreter share. Plain rather than fast: engines are held against it.
 */
#ifndef PLAN_REFERENCE_H
#define PLAN_REFERENCE_H

#include "plan/plan.h"

/* Bytes that are not contiguous; a message or a place of a step. `count` is in elements, as everything
 * here. */
struct ref_segment {
    char *at;
    uint64_t count;
};
struct ref_span {
    struct ref_segment *segment;
    uint32_t segments;
    uint64_t count;
};

/* A message is in its channel until the receiver has taken it, and in its sender's lane as a pending
 * until its source has been read; whoever comes last frees it. */
struct ref_message {
    struct ref_message *next; /* in the channel */
    uint32_t instance, holders;
    bool pending, pulled; /* pulled: takes no slot, the receiver reads the source itself */
    bool landing;         /* pushed: fragments are stored at `place` of the receiver */
    uint64_t count;
    uint32_t fragments, sent, taken; /* an empty message is one empty fragment */
    struct ref_span source;          /* of a pending */
    struct ref_span place;           /* of a landing */
    char *bytes;                     /* what went into slots, at its offset in the message */
};

/* From rank src to rank dst in one lane. Slots hold fragments of the messages in order. */
struct ref_channel {
    uint32_t src, dst, lane;
    struct ref_message *head;
    uint32_t slots_used;
};

/* One of the `window` instances a rank works on at a time. */
struct ref_lane {
    uint32_t rank, index, instance;
    bool live, in_step,
        staged; /* staged: the fragment is combined and its ins are released, not written yet */
    struct plan_cursor cursor;
    struct ref_span *span; /* of the step's places; messages have only a count */
    uint64_t count, fragment;
    char *stage, *tmp;
    struct ref_message **pending;
    uint32_t pendings, room;
};

struct ref_run {
    const struct choir_plan *const *plans;
    uint32_t n, window, instances, depth;
    uint64_t slot, stride; /* elements: a fragment; TMP parts */
    const struct plan_run *how;
    void *const *in, *const *out;
    struct ref_lane *lane;        /* [n * window] */
    struct ref_channel **channel; /* [n * n * window], made when first used */
    struct ref_channel **used;    /* the ones there are */
    uint32_t useds, useds_room;
    uint64_t random;
    enum choir_status status;
};

enum choir_status ref_fail(struct ref_run *run, enum choir_status status,
                           const struct ref_lane *lane, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void *ref_alloc(struct ref_run *run, uint64_t bytes); /* never NULL unless run->status is set */

/* --- reference_wire.c ------------------------------------------------------------------------- */
/* The bytes of a local place of the step at `cursor` in this lane; of a message only the count. */
struct ref_span ref_span_make(struct ref_run *run, const struct ref_lane *lane,
                              const struct plan_cursor *cursor, uint32_t place);
/* Copies elements [lo, hi) of a span to or from contiguous memory. */
void ref_gather(const struct ref_run *run, const struct ref_span *s, uint64_t lo, uint64_t hi,
                char *to);
void ref_scatter(const struct ref_run *run, const struct ref_span *s, uint64_t lo, uint64_t hi,
                 const char *from);
/* Do elements [alo, ahi) of a and [blo, bhi) of b share a byte? */
bool ref_overlap(const struct ref_run *run, const struct ref_span *a, uint64_t alo, uint64_t ahi,
                 const struct ref_span *b, uint64_t blo, uint64_t bhi);
bool ref_same(const struct ref_span *a, const struct ref_span *b);
struct ref_channel *ref_channel(struct ref_run *run, uint32_t src, uint32_t dst, uint32_t lane);
/* Appends a message of `count` elements from `lane` to rank dst. */
struct ref_message *ref_send(struct ref_run *run, struct ref_lane *lane, uint32_t dst,
                             uint64_t count, bool pending);
void ref_drop(struct ref_message *m); /* one holder less */
/* May a computed message go out now: its slot is free and nothing before it still needs slots? */
bool ref_room(const struct ref_run *run, const struct ref_channel *c);
/* Moves one fragment of a pending message into a slot or its published place; false: nothing can move. */
bool ref_pump(struct ref_run *run, struct ref_channel *c);
uint64_t ref_passed(const struct ref_run *run,
                    const struct ref_message *m); /* elements of its source read */
bool ref_finished(const struct ref_message *m);   /* all of them */

static inline const struct choir_plan *ref_plan(const struct ref_run *run,
                                                const struct ref_lane *lane)
{
    return run->plans[lane->rank];
}

#endif
